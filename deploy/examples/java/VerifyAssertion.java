import java.math.BigInteger;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.charset.StandardCharsets;
import java.security.AlgorithmParameters;
import java.security.GeneralSecurityException;
import java.security.KeyFactory;
import java.security.PublicKey;
import java.security.Signature;
import java.security.spec.ECGenParameterSpec;
import java.security.spec.ECParameterSpec;
import java.security.spec.ECPoint;
import java.security.spec.ECPublicKeySpec;
import java.time.Duration;
import java.time.Instant;
import java.util.Base64;
import java.util.HashMap;
import java.util.Map;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/**
 * Proof of who sent a request: checks X-WeChat-Assertion with the JDK (11 or later) alone.
 *
 * java VerifyAssertion.java JWKS_URL SITE < assertion
 */
public final class VerifyAssertion {
    private static final long LEEWAY = 10; // seconds that two clocks may differ

    private static byte[] decoded(String text) {
        return Base64.getUrlDecoder().decode(text);
    }

    /** One member of a flat JSON object; with a JSON library at hand, use that. */
    private static String member(String json, String name) {
        Matcher found = Pattern.compile("\"" + name + "\":(?:\"([^\"\\\\]*)\"|(\\d+))").matcher(json);
        return !found.find() ? "" : found.group(1) != null ? found.group(1) : found.group(2);
    }

    /** The public keys by name. Keep them for five minutes, not for one request. */
    static Map<String, PublicKey> keys(String url) throws Exception {
        HttpRequest request = HttpRequest.newBuilder(URI.create(url)).timeout(Duration.ofSeconds(5)).build();
        String set = HttpClient.newHttpClient().send(request, HttpResponse.BodyHandlers.ofString()).body();
        AlgorithmParameters curve = AlgorithmParameters.getInstance("EC");
        curve.init(new ECGenParameterSpec("secp256r1"));
        ECParameterSpec p256 = curve.getParameterSpec(ECParameterSpec.class);
        Map<String, PublicKey> keys = new HashMap<>();
        Matcher each = Pattern.compile("\\{[^{}]*\\}").matcher(set);
        while (each.find()) {
            String key = each.group();
            if (!member(key, "kty").equals("EC") || !member(key, "crv").equals("P-256")) {
                continue;
            }
            ECPoint point = new ECPoint(
                    new BigInteger(1, decoded(member(key, "x"))), new BigInteger(1, decoded(member(key, "y"))));
            keys.put(member(key, "kid"),
                    KeyFactory.getInstance("EC").generatePublic(new ECPublicKeySpec(point, p256)));
        }
        return keys;
    }

    /** The claims as JSON, sub is the openid; null for whatever wxgate did not sign for this site. */
    static String verify(String assertion, Map<String, PublicKey> keys, String site) {
        String[] parts = assertion.split("\\.", -1);
        try {
            String head = new String(decoded(parts[0]), StandardCharsets.UTF_8);
            PublicKey key = keys.get(member(head, "kid"));
            // The algorithm is ours to say, never the token's.
            if (parts.length != 3 || key == null || !member(head, "alg").equals("ES256")) {
                return null;
            }
            Signature signature = Signature.getInstance("SHA256withECDSAinP1363Format");
            signature.initVerify(key);
            signature.update((parts[0] + "." + parts[1]).getBytes(StandardCharsets.US_ASCII));
            if (!signature.verify(decoded(parts[2]))) {
                return null;
            }
            String claims = new String(decoded(parts[1]), StandardCharsets.UTF_8);
            long now = Instant.now().getEpochSecond();
            boolean good = member(claims, "iss").equals("wxgate")
                    && member(claims, "aud").equals(site) // public_url of the [[site]]
                    && now < Long.parseLong(member(claims, "exp")) + LEEWAY
                    && Long.parseLong(member(claims, "iat")) <= now + LEEWAY
                    && !member(claims, "sub").isEmpty();
            return good ? claims : null;
        } catch (GeneralSecurityException | IllegalArgumentException | ArrayIndexOutOfBoundsException why) {
            return null;
        }
    }

    public static void main(String[] args) throws Exception {
        String assertion = new String(System.in.readAllBytes(), StandardCharsets.US_ASCII).trim();
        String claims = verify(assertion, keys(args[0]), args[1]);
        if (claims == null) {
            System.err.println("not proven");
            System.exit(1);
        }
        System.out.println(claims);
    }
}
