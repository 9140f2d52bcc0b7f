//! What must not go on, in either direction. Each test names the requirement it holds.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    harness::{ROUTES, TestConfig, TestGateway},
    visitor::{Answer, Visitor, raw},
};

/// From anybody, a trusted proxy too.
const FORGED: [&str; 73] = [
    "X-WeChat-OpenId",
    "x_wechat_openid",
    "X-WeChat_OpenId",
    "X.WeChat.OpenId",
    "x-wechat-nickname",
    "X-WeChat-Snapshot",
    "X-WX-OPENID",
    "x_wx_openid",
    "X-WX-FROM-OPENID",
    "X-WX-FROM-UNIONID",
    "X-WX-FROM-APPID",
    "X-WX-SOURCE",
    "X-WX-ENV",
    "X-WX-CALL-ID",
    "Remote-User",
    "remote_user",
    "Remote.User",
    "X-Forwarded-User",
    "X-Forwarded-Email",
    "X-Forwarded-Groups",
    "X-Forwarded-Access-Token",
    "X-Forwarded-Ssl",
    "X-Forwarded-Scheme",
    "X-Forwarded-Uri",
    "X-Forwarded-Path",
    "X-Forwarded-Method",
    "X-Forwarded",
    "Forwarded",
    "Client-IP",
    "X-Client-IP",
    "True-Client-IP",
    "CF-Connecting-IP",
    "X-Cluster-Client-IP",
    "Forwarded-For",
    "X-Remote-IP",
    "X-Originating-IP",
    "WL-Proxy-Client-IP",
    "Ali-CDN-Real-IP",
    "X-Remote-Addr",
    "X-Client-Address",
    "Remote-Address",
    "X-Coming-From",
    "X-Remote-Host",
    "HTTP_CLIENT_IP",
    "HTTP_X_FORWARDED_FOR",
    "X_Forwarded.For",
    "X-Envoy-External-Address",
    "X-Custom-IP-Authorization",
    "X-Scheme",
    "X-Url-Scheme",
    "Front-End-Https",
    "X-Host",
    "X-Real-Host",
    "X-HTTP-Host-Override",
    "$WSRU",
    "X-Original-URL",
    "X-Rewrite-URL",
    "X-HTTP-DestinationURL",
    "X-Override-URL",
    "X_Override_URL",
    "X-Request-URI",
    "Request-URI",
    "HTTP_REQUEST_URI",
    "X-Script-Name",
    "Script-Name",
    "SCRIPT_NAME",
    "PATH_INFO",
    "X-Path-Info",
    "X-Matched-Path",
    "X-Invoke-Path",
    "X-Real-URL",
    "Request-Base",
    "Proxy",
];

/// From anybody but a trusted proxy.
const FROM_PROXIES: [&str; 2] = ["X-Forwarded-Port", "X-Forwarded-Prefix"];

#[tokio::test]
async fn b1_b2_b3_forged_headers_reach_no_site_on_no_kind_of_route() {
    let lines = format!(
        "[site.headers]\naliases = [\"X-WX-OPENID\"]\nextra = {{ \"Remote-User\" = \"openid\" }}\n{ROUTES}"
    );
    let street = TestGateway::open(TestConfig::site(&lines)).await;
    let names = FORGED.iter().chain(&FROM_PROXIES);
    let forged: Vec<(&str, &str)> = names.map(|name| (*name, "forged")).collect();
    let mut phone = Visitor::wechat(street.gateway);
    let (_, mine) = phone.open("/").await;
    let openid = mine.received("x-wechat-openid")[0].to_owned();
    for (mut visitor, path, known) in [
        (Visitor::desktop(street.gateway), "/static/a", false),
        (Visitor::desktop(street.gateway), "/news/a", false),
        (phone.clone(), "/static/a", false),
        (phone.clone(), "/news/a", true),
        (phone.clone(), "/orders", true),
    ] {
        let answer = visitor.send("GET", path, &forged, "").await;
        assert_eq!(answer.status, 200, "{path}");
        assert!(!answer.text.contains("forged"), "{path}: {}", answer.text);
        let expected: &[&str] = if known { &[&openid] } else { &[] };
        for name in ["x-wechat-openid", "x-wx-openid", "remote-user"] {
            assert_eq!(answer.received(name), expected, "{path} {name}");
        }
    }
    street.close().await;
}

/// nginx forwards what it does not set, so that a trusted proxy brings a visitor's headers, too.
#[tokio::test]
async fn b3_a_trusted_proxy_brings_no_forwarded_header_that_we_do_not_understand() {
    let lines = format!("[site.headers]\nextra = {{ \"Remote-User\" = \"openid\" }}\n{ROUTES}");
    let server = "trusted_proxies = [\"127.0.0.0/8\"]\nclient_address_header = \"True-Client-IP\"";
    let plan = TestConfig { server: server.to_owned(), ..TestConfig::site(&lines) };
    let street = TestGateway::open(plan).await;
    for name in FORGED.into_iter().filter(|name| *name != "True-Client-IP") {
        let mut visitor = Visitor::desktop(street.gateway);
        let answer = visitor.send("GET", "/static/a", &[(name, "forged")], "").await;
        assert_eq!(answer.status, 200, "{name}");
        assert!(!answer.text.contains("forged"), "{name}: {}", answer.text);
    }
    for name in FROM_PROXIES {
        let answer =
            Visitor::desktop(street.gateway).send("GET", "/static/a", &[(name, "1")], "").await;
        assert_eq!(answer.received(&name.to_lowercase()), ["1"], "{name}");
    }
    let fields = [("true-client-ip", "198.51.100.7"), ("x-forwarded-for", "6.6.6.6")];
    let answer = Visitor::desktop(street.gateway).send("GET", "/static/a", &fields, "").await;
    for name in ["x-forwarded-for", "x-real-ip"] {
        assert_eq!(answer.received(name), ["198.51.100.7"], "{name}");
    }
    assert!(answer.received("true-client-ip").is_empty());
    street.close().await;
}

/// A route for some methods would be passed by if the site saw another method than the gateway.
#[tokio::test]
async fn a3_method_overrides_reach_no_site_with_a_route_for_some_methods() {
    let by_method = "[[site.route]]\npath = \"/api/*\"\nmethods = [\"GET\"]\nauth = \"none\"\n";
    for (routes, forwarded) in [(ROUTES.to_owned(), 1), (format!("{ROUTES}{by_method}"), 0)] {
        let street = TestGateway::open(TestConfig::site(&routes)).await;
        for name in [
            "X-HTTP-Method-Override",
            "X-HTTP-Method",
            "X-Method-Override",
            "X-Request-Method",
            "x.http.method.override",
        ] {
            let mut visitor = Visitor::desktop(street.gateway);
            let answer = visitor.send("GET", "/static/a", &[(name, "DELETE")], "").await;
            assert_eq!(answer.received(&name.to_lowercase()).len(), forwarded, "{name}");
        }
        street.close().await;
    }
}

/// A site that builds links or chooses a tenant by `Host` sees its own names only.
#[tokio::test]
async fn a4_the_site_sees_the_name_that_matched() {
    let street = TestGateway::usual().await;
    for (target, host, expected) in [
        ("/static/a", "h5.example.com", "h5.example.com"),
        ("/static/a", "H5.EXAMPLE.com", "h5.example.com"),
        ("/static/a", "h5.example.com.", "h5.example.com"),
        ("/static/a", "h5.example.com:80", "h5.example.com"),
        ("/static/a", "H5.Example.Com.:8443", "h5.example.com"),
        ("/static/a", "www.example.com:1", "www.example.com"),
        ("http://WWW.example.com.:8080/static/a", "www.example.com", "www.example.com"),
    ] {
        let request = format!("GET {target} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
        let answer = Answer::parse(&raw(street.gateway, &request).await);
        for name in ["host", "x-forwarded-host"] {
            assert_eq!(answer.received(name), [expected], "{target} {host} {name}");
        }
    }
    street.close().await;
}

/// The same with a port in `public_url`, for an address as a host, in each protocol to the site, and for
/// a WebSocket.
#[tokio::test]
async fn a4_the_site_sees_that_name_in_each_protocol() {
    let h2 = crate::h2_site::Site::new(crate::h2_site::echo).await;
    let echo = crate::echo::Echo::start().await;
    let site = |name: &str, public_url: &str, lines: &str, upstream: &str| {
        format!(
            "[[site]]\nhosts = [{name}]\npublic_url = \"{public_url}\"\naccount = \"main\"\n\
             upstream = [{upstream}]\n{lines}\n[[site.route]]\npath = \"/*\"\nauth = \"none\"\n"
        )
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let switching = format!("\"http://{}\"", listener.local_addr().unwrap());
    let one = format!("\"http://{}\"", echo.addr);
    let more = [
        site("\"port.example.com\", \"b.example.com\"", "http://port.example.com:8443", "", &one),
        site("\"[2001:db8::1]\"", "http://[2001:db8::1]", "", &one),
        site("\"[2001:db8::2]\"", "http://[2001:db8::2]:81", "", &one),
        site("\"ws.example.com\"", "http://ws.example.com:8443", "", &switching),
        site(
            "\"two.example.com\"",
            "http://two.example.com:81",
            "upstream_http = \"2\"",
            &h2.upstream(),
        ),
    ]
    .concat();
    let street = TestGateway::open(TestConfig { more, ..TestConfig::site(ROUTES) }).await;
    for (host, expected) in [
        ("port.example.com", "port.example.com:8443"),
        ("PORT.example.com.:80", "port.example.com:8443"),
        ("B.example.com:8443", "b.example.com:8443"),
        ("[2001:db8::1]", "[2001:db8::1]"),
        ("[2001:DB8::1]:8443", "[2001:db8::1]"),
        ("[2001:db8::2]:5", "[2001:db8::2]:81"),
    ] {
        let request =
            format!("GET /static/a HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
        let answer = Answer::parse(&raw(street.gateway, &request).await);
        for name in ["host", "x-forwarded-host"] {
            assert_eq!(answer.received(name), [expected], "{host} {name}");
        }
    }
    for host in ["two.example.com", "TWO.example.com.:9"] {
        let request =
            format!("GET /static/a HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
        let answer = raw(street.gateway, &request).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{host}: {answer}");
        let seen = h2.seen().pop().unwrap();
        assert_eq!(seen.uri().authority().unwrap().as_str(), "two.example.com:81", "{host}");
        assert_eq!(seen.headers()["x-forwarded-host"], "two.example.com:81", "{host}");
        assert!(!seen.headers().contains_key("host"), "{host}");
    }
    let handshake = "GET /ws HTTP/1.1\r\nhost: WS.Example.com.:9\r\nconnection: upgrade\r\n\
                     upgrade: websocket\r\nsec-websocket-version: 13\r\n\
                     sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let site = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        let answer =
            "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n";
        stream.write_all(answer.as_bytes()).await.unwrap();
        String::from_utf8(head).unwrap()
    };
    let (answer, head) = tokio::join!(raw(street.gateway, handshake), site);
    assert!(answer.starts_with("HTTP/1.1 101"), "{answer}");
    for line in ["host: ws.example.com:8443\r\n", "x-forwarded-host: ws.example.com:8443\r\n"] {
        assert!(head.contains(line), "{line}: {head}");
    }
    street.close().await;
}

#[tokio::test]
async fn b1_hop_by_hop_headers_end_here_in_both_directions() {
    let street = TestGateway::usual().await;
    let request = "GET /static/a HTTP/1.1\r\nhost: h5.example.com\r\nconnection: close, x-secret, x-real-ip\r\nx-secret: 1\r\nkeep-alive: 300\r\nproxy-connection: keep-alive\r\nproxy-authorization: Basic x\r\nte: trailers\r\n\r\n";
    let answer = Answer::parse(&raw(street.gateway, request).await);
    for name in
        ["x-secret", "keep-alive", "proxy-connection", "proxy-authorization", "te", "connection"]
    {
        assert!(answer.received(name).is_empty(), "{name}: {}", answer.text);
    }
    assert_eq!(
        answer.received("x-real-ip"),
        ["127.0.0.1"],
        "B1: ours are set after theirs have gone"
    );
    assert_eq!(answer.header("keep-alive"), None);
    street.close().await;
}

#[tokio::test]
async fn the_site_learns_where_a_request_came_from() {
    let street = TestGateway::usual().await;
    let mut visitor = Visitor::desktop(street.gateway);
    let lies = [
        ("x-forwarded-for", "6.6.6.6"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "evil.example"),
        ("x-real-ip", "6.6.6.6"),
        ("x-request-id", "lie"),
    ];
    let answer = visitor.send("GET", "/static/a", &lies, "").await;
    assert_eq!(answer.received("host"), ["h5.example.com"]);
    assert_eq!(answer.received("x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(answer.received("x-real-ip"), ["127.0.0.1"]);
    assert_eq!(answer.received("x-forwarded-proto"), ["http"]);
    assert_eq!(answer.received("x-forwarded-host"), ["h5.example.com"]);
    assert_eq!(answer.received("x-request-id")[0].len(), 32);
    street.close().await;

    let plan = TestConfig {
        server: "trusted_proxies = [\"127.0.0.0/8\"]".to_owned(),
        ..TestConfig::site(ROUTES)
    };
    let street = TestGateway::open(plan).await;
    let mut visitor = Visitor::desktop(street.gateway);
    let truths = [
        ("x-forwarded-for", "6.6.6.6, 198.51.100.7"),
        ("x-forwarded-proto", "https"),
        ("x-request-id", "abc-123"),
    ];
    let answer = visitor.send("GET", "/static/a", &truths, "").await;
    assert_eq!(
        answer.received("x-forwarded-for"),
        ["198.51.100.7"],
        "B3: the rightmost untrusted one"
    );
    assert_eq!(answer.received("x-forwarded-proto"), ["https"]);
    assert_eq!(answer.received("x-request-id"), ["abc-123"]);
    street.close().await;
}

#[tokio::test]
async fn c2_sites_can_neither_read_nor_set_our_cookies() {
    let street = TestGateway::usual().await;
    let mut phone = Visitor::wechat(street.gateway);
    let _ = phone.open("/").await;
    let answer = phone
        .send("GET", "/static/a", &[("cookie", "a=1; nick=张三; wxgate-flow-x=2; b=3")], "")
        .await;
    assert_eq!(answer.received("cookie"), ["a=1; nick=张三; b=3"]);
    let answer = phone.get("/static/cookies").await;
    assert_eq!(answer.all("set-cookie").collect::<Vec<_>>(), ["a=1"]);
    street.close().await;
}

#[tokio::test]
async fn a1_a5_ambiguous_paths_are_refused_before_any_route() {
    let street = TestGateway::usual().await;
    for target in [
        "/static/../orders",
        "/static/%2e%2e/orders",
        "/static/..%2forders",
        "/static/%2E%2E%2Forders",
        "//static/a",
        "/static//a",
        "/static\\..\\orders",
        "/static/%5c..%5corders",
        "/static/a%00",
        "/static/..;/orders",
        "/static;x=1/../orders",
        "/st%61tic/a",
        "/static/%252e%252e/orders",
        "/static/%c0%ae%c0%ae/orders",
        "/static/.",
        "/orders./x",
        "/orders%20",
        "/orders.%20./x",
        "/static/a.",
        "/orders::$INDEX_ALLOCATION/x",
        "/static/a.php::$DATA",
        "/%2e/orders",
        "static/a",
        "*",
    ] {
        let request = format!(
            "GET {target} HTTP/1.1\r\nhost: h5.example.com\r\nconnection: close\r\naccept: text/html\r\n\r\n"
        );
        let answer = raw(street.gateway, &request).await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{target}: {answer}");
    }
    assert_eq!(street.site.hits(), 0);
    street.close().await;
}

#[tokio::test]
async fn a1_a_site_can_have_ambiguous_paths_protected_instead() {
    let street =
        TestGateway::open(TestConfig::site(&format!("ambiguous_paths = \"protect\"\n{ROUTES}")))
            .await;
    let protected = [
        "/static/%2e%2e/a",
        "/static/../orders",
        "/static/..%2forders",
        "/static/..%5corders",
        "/static/%252e%252e/orders",
        "/static/..;/orders",
        "/static;x/../orders",
        "/static/..%20/orders",
        "/static/..%20./orders",
        "/static/.../orders",
        "/orders./x",
        "/orders%20/x",
        "/orders::$DATA",
        "/static./a",
        "/static%20/a",
        "/static::$INDEX_ALLOCATION/a",
        "/static/%c0%ae%c0%ae/orders",
        "/static/a%00",
    ];
    for path in protected {
        let page = Visitor::desktop(street.gateway).script().get(path).await;
        assert_eq!(page.status, 401, "{path}");
    }
    assert_eq!(street.site.hits(), 0);
    // Public in every reading, and passed on as it is.
    let public = ["/static/a.", "/static/a%20", "/static//a", "/static/b/../a", "/static/a::$DATA"];
    for path in public {
        let page = Visitor::desktop(street.gateway).script().get(path).await;
        assert_eq!(page.status, 200, "{path}");
        let line = format!("GET {path} HTTP/1.1\r\n");
        assert!(page.text.starts_with(&line), "{path}: {}", page.text);
    }
    assert_eq!(street.site.hits(), public.len());
    street.close().await;
}

#[tokio::test]
async fn a1_a_site_that_does_not_run_on_windows_can_say_so() {
    let routes = "[[site.route]]\npath = \"/wiki/Inc.\"\nauth = \"none\"\n";
    let plan = TestConfig::site(&format!("windows_names = \"plain\"\n{ROUTES}{routes}"));
    let street = TestGateway::open(plan).await;
    let cases = [
        ("/static/a.", 200),
        ("/static/a%20/b", 200),
        ("/static/a::$DATA", 200),
        ("/wiki/Inc.", 200),
        ("/wiki/Inc", 401),
        ("/static./a", 401),
        ("/orders.", 401),
        ("/static/../orders", 400),
        ("/static/a%2e", 400),
        ("/static//a.", 400),
    ];
    for (path, status) in cases {
        let hits = street.site.hits();
        let page = Visitor::desktop(street.gateway).script().get(path).await;
        assert_eq!(page.status, status, "{path}");
        assert_eq!(street.site.hits() - hits, usize::from(status == 200), "{path}");
    }
    street.close().await;
}

#[tokio::test]
async fn a4_b5_requests_that_two_servers_read_in_two_ways_are_refused() {
    let street = TestGateway::usual().await;
    let h = "host: h5.example.com\r\n";
    let cases = [
        ("no host", "GET /static/a HTTP/1.1\r\n\r\n".to_owned()),
        ("two hosts", format!("GET /static/a HTTP/1.1\r\n{h}{h}\r\n")),
        ("a host and another", format!("GET /static/a HTTP/1.1\r\n{h}host: evil.example\r\n\r\n")),
        (
            "authority and host disagree",
            format!("GET http://evil.example/static/a HTTP/1.1\r\n{h}\r\n"),
        ),
        ("userinfo", "GET /static/a HTTP/1.1\r\nhost: a@h5.example.com\r\n\r\n".to_owned()),
        (
            "two lengths",
            format!(
                "POST /static/a HTTP/1.1\r\n{h}content-length: 1\r\ncontent-length: 2\r\n\r\nab"
            ),
        ),
        ("length list", format!("POST /static/a HTTP/1.1\r\n{h}content-length: 1, 1\r\n\r\na")),
        (
            "gzip, chunked",
            format!(
                "POST /static/a HTTP/1.1\r\n{h}transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n"
            ),
        ),
        (
            "chunked twice",
            format!(
                "POST /static/a HTTP/1.1\r\n{h}transfer-encoding: chunked, chunked\r\n\r\n0\r\n\r\n"
            ),
        ),
        ("obs-fold", format!("GET /static/a HTTP/1.1\r\n{h}x-a: 1\r\n 2\r\n\r\n")),
        ("space before colon", format!("GET /static/a HTTP/1.1\r\n{h}x-a : 1\r\n\r\n")),
    ];
    // The connection closes by our will, and what came behind the request is not read as another.
    let next = format!("GET /static/next HTTP/1.1\r\n{h}\r\n");
    for (name, request) in cases {
        let answer = raw(street.gateway, &format!("{request}{next}")).await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{name}: {answer}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{name}: {answer}");
    }
    let connect = "CONNECT h5.example.com:80 HTTP/1.1\r\nhost: h5.example.com:80\r\n\r\n";
    let answer = raw(street.gateway, &format!("{connect}{next}")).await;
    assert!(answer.starts_with("HTTP/1.1 405"), "{answer}");
    assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
    assert_eq!(street.site.hits(), 0);
    street.close().await;
}

#[tokio::test]
async fn b4_underscores_follow_the_site() {
    for (policy, status, received) in [("drop", 200, 0), ("refuse", 400, 0), ("pass", 200, 1)] {
        let street =
            TestGateway::open(TestConfig::site(&format!("underscores = \"{policy}\"\n{ROUTES}")))
                .await;
        let mut visitor = Visitor::desktop(street.gateway);
        let answer = visitor
            .send("GET", "/static/a", &[("my_header", "1"), ("x_wechat_openid", "forged")], "")
            .await;
        assert_eq!(answer.status, status, "{policy}");
        assert_eq!(answer.received("my_header").len(), received, "{policy}");
        assert!(!answer.text.contains("forged"), "{policy}");
        street.close().await;
    }
}
