// A page that knows its visitor. `java WhoAmI.java 8000`: the JDK (11 or later) and nothing else.
// In a servlet or in Spring the same three headers come from HttpServletRequest.getHeader.

import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.net.InetSocketAddress;
import java.net.URLDecoder;
import java.nio.charset.StandardCharsets;
import java.util.concurrent.Executors;

public class WhoAmI {
    public static void main(String[] args) throws IOException {
        String fromEnv = System.getenv().getOrDefault("PORT", "8000");
        int port = Integer.parseInt(args.length > 0 ? args[0] : fromEnv);
        HttpServer server = HttpServer.create(new InetSocketAddress("127.0.0.1", port), 0);
        server.createContext("/", WhoAmI::answer);
        server.setExecutor(Executors.newCachedThreadPool());
        server.start();
    }

    private static void answer(HttpExchange exchange) throws IOException {
        String openid = exchange.getRequestHeaders().getFirst("X-WeChat-OpenId");
        String nickname = decode(exchange.getRequestHeaders().getFirst("X-WeChat-Nickname"));
        String scope = exchange.getRequestHeaders().getFirst("X-WeChat-Scope");

        String type;
        String body;
        if (exchange.getRequestURI().getPath().equals("/whoami")) {
            type = "application/json; charset=utf-8";
            body = "{\"openid\":" + json(openid) + ",\"nickname\":" + json(nickname)
                    + ",\"scope\":" + json(scope) + "}\n";
        } else {
            type = "text/html; charset=utf-8";
            body = "<!doctype html>\n<html lang=\"zh-CN\"><meta charset=\"utf-8\">"
                    + "<meta name=\"viewport\" content=\"width=device-width\">\n<title>whoami</title>\n"
                    + "<h1>\u4f60\u597d\uff0c" + html(nickname, "\u670b\u53cb") + "</h1>\n"
                    + "<p>openid: <code>" + html(openid, "(none)") + "</code></p>\n"
                    + "<p>scope: <code>" + html(scope, "(none)") + "</code></p>\n"
                    + "<p><a href=\"/_wx/logout\">\u9000\u51fa / log out</a></p>\n";
        }
        byte[] bytes = body.getBytes(StandardCharsets.UTF_8);
        boolean head = exchange.getRequestMethod().equals("HEAD");
        exchange.getResponseHeaders().set("Content-Type", type);
        exchange.sendResponseHeaders(200, head ? -1 : bytes.length);
        if (!head) {
            exchange.getResponseBody().write(bytes);
        }
        exchange.close();
    }

    /** Percent-encoded UTF-8, because a header is ASCII. URLDecoder alone turns + into a space. */
    private static String decode(String value) {
        if (value == null) {
            return null;
        }
        try {
            return URLDecoder.decode(value.replace("+", "%2B"), StandardCharsets.UTF_8);
        } catch (IllegalArgumentException e) {
            return value; // not what the gateway writes; show it as it came
        }
    }

    private static String json(String value) {
        if (value == null) {
            return "null";
        }
        StringBuilder out = new StringBuilder("\"");
        for (char c : value.toCharArray()) {
            if (c == '"' || c == '\\') {
                out.append('\\').append(c);
            } else if (c < 0x20) {
                out.append(String.format("\\u%04x", (int) c));
            } else {
                out.append(c);
            }
        }
        return out.append('"').toString();
    }

    private static String html(String value, String none) {
        String text = value == null ? none : value;
        return text.replace("&", "&amp;").replace("<", "&lt;").replace("\"", "&quot;");
    }
}
