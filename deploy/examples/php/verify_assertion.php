<?php
// Proof of who sent a request: checks X-WeChat-Assertion with PHP's own openssl, nothing to install.
//
// php verify_assertion.php JWKS_URL SITE < assertion

function decoded(string $text): string
{
    return base64_decode(strtr($text, '-_', '+/'), true) ?: '';
}

/** The key of that name as PEM. Keep the JWKS for five minutes (APCu, a file), not per request. */
function public_key(array $jwks, string $kid): ?string
{
    foreach ($jwks['keys'] as $key) {
        if ($key['kid'] === $kid && $key['kty'] === 'EC' && $key['crv'] === 'P-256') {
            $head = hex2bin('3059301306072a8648ce3d020106082a8648ce3d030107034200');
            $der = $head . "\x04" . decoded($key['x']) . decoded($key['y']);
            return "-----BEGIN PUBLIC KEY-----\n" . chunk_split(base64_encode($der), 64, "\n")
                . "-----END PUBLIC KEY-----\n";
        }
    }
    return null;
}

/** r and s, 32 bytes each, in the form that openssl reads. */
function der(string $signature): string
{
    $number = function (string $bytes): string {
        $bytes = ltrim($bytes, "\0");
        if ($bytes === '' || ord($bytes[0]) > 127) {
            $bytes = "\0" . $bytes;
        }
        return "\x02" . chr(strlen($bytes)) . $bytes;
    };
    $both = $number(substr($signature, 0, 32)) . $number(substr($signature, 32));
    return "\x30" . chr(strlen($both)) . $both;
}

/** The claims: sub is the openid. Null for whatever wxgate did not sign for this site. */
function verify_assertion(string $assertion, array $jwks, string $site): ?array
{
    $parts = explode('.', $assertion);
    if (count($parts) !== 3) {
        return null;
    }
    $head = json_decode(decoded($parts[0]), true);
    $signature = decoded($parts[2]);
    // The algorithm is ours to say, never the token's.
    if (!is_array($head) || ($head['alg'] ?? '') !== 'ES256' || strlen($signature) !== 64) {
        return null;
    }
    $key = public_key($jwks, (string) ($head['kid'] ?? ''));
    if ($key === null || openssl_verify("$parts[0].$parts[1]", der($signature), $key, 'sha256') !== 1) {
        return null;
    }
    $claims = json_decode(decoded($parts[1]), true);
    $leeway = 10; // seconds that two clocks may differ
    $good = is_array($claims)
        && ($claims['iss'] ?? '') === 'wxgate'
        && ($claims['aud'] ?? '') === $site // public_url of the [[site]]
        && is_int($claims['exp'] ?? null) && time() < $claims['exp'] + $leeway
        && is_int($claims['iat'] ?? null) && $claims['iat'] <= time() + $leeway
        && ($claims['sub'] ?? '') !== '';
    return $good ? $claims : null;
}

if (PHP_SAPI === 'cli' && realpath($argv[0]) === __FILE__) {
    $jwks = json_decode(file_get_contents($argv[1]), true);
    $claims = verify_assertion(trim(stream_get_contents(STDIN)), $jwks, $argv[2]);
    if ($claims === null) {
        fwrite(STDERR, "not proven\n");
        exit(1);
    }
    echo json_encode($claims, JSON_UNESCAPED_UNICODE | JSON_UNESCAPED_SLASHES), "\n";
}
