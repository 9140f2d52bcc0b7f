//! `/_wx/verify`: what each kind of proxy is told about each kind of request.

use crate::{
    harness::{ROUTES, TestConfig, TestGateway},
    visitor::{Answer, Visitor},
};

const TRUSTED: &str = "trusted_proxies = [\"127.0.0.0/8\"]";

fn plan(lines: &str) -> TestConfig {
    TestConfig { server: TRUSTED.to_owned(), ..TestConfig::site(&format!("{lines}\n{ROUTES}")) }
}

/// Asks as nginx does, and again as Traefik, Caddy and Envoy do: they get one answer.
async fn ask(visitor: &Visitor, method: &str, uri: &str) -> Answer {
    let host = ("x-forwarded-host", visitor.host);
    let nginx = [("x-original-method", method), ("x-original-uri", uri), host];
    let caddy = [("x-forwarded-method", method), ("x-forwarded-uri", uri), host];
    let url = format!("http://{}{uri}", visitor.host);
    let ingress = [("x-original-method", method), ("x-original-url", &url)];
    let mut answers = Vec::new();
    for headers in [&nginx[..], &caddy, &ingress] {
        answers.push(visitor.clone().send("GET", "/_wx/verify", headers, "").await);
    }
    if uri.is_ascii() && !uri.contains('#') {
        let mut envoy = visitor.clone();
        let mut answer = envoy.send(method, &format!("/_wx/verify{uri}"), &[], "").await;
        // It takes no other yes.
        assert_ne!(answer.status, 204, "{method} {uri}");
        if answer.status == 200 {
            answer.status = 204;
        }
        answers.push(answer);
    }
    let one = answers.remove(0);
    for other in answers {
        assert_eq!(one.status, other.status, "{method} {uri}");
        assert_eq!(one.header("location"), other.header("location"), "{method} {uri}");
        assert_eq!(one.header("x-wechat-openid"), other.header("x-wechat-openid"));
    }
    one
}

#[tokio::test]
async fn each_visitor_gets_the_decision_of_the_gateway() {
    let street = TestGateway::open(plan("")).await;
    let (phone, desk) = (Visitor::wechat(street.gateway), Visitor::desktop(street.gateway));
    let mut known = phone.clone();
    let (_, page) = known.open("/").await;
    let openid = page.received("x-wechat-openid")[0].to_owned();
    let hits = street.site.hits();
    let cases = [
        // who, how, what, status, asker, what the login URL ends in
        (
            &phone,
            "GET",
            "/orders?x=1&y=%2F",
            401,
            "page",
            "/_wx/login?rd=/orders%3Fx%3D1%26y%3D%252F",
        ),
        (&phone, "POST", "/orders", 401, "script", "/_wx/login?rd=/orders"),
        (&phone, "GET", "/member/1", 401, "page", "/_wx/login?rd=/member/1&scope=snsapi_userinfo"),
        (&phone, "GET", "/club/1", 401, "page", "&scope=snsapi_userinfo&prompt=button"),
        (&desk, "GET", "/orders", 401, "page", "/_wx/login?rd=/orders"),
        (&desk, "POST", "/orders", 401, "script", "/_wx/login?rd=/orders"),
        (&known, "GET", "/member/1", 401, "page", "&scope=snsapi_userinfo"),
        (&known, "GET", "/orders", 204, "", ""),
        (&known, "POST", "/orders", 204, "", ""),
        (&known, "GET", "/news/1", 204, "", ""),
        (&desk, "GET", "/news/1", 204, "", ""),
        (&desk, "GET", "/static/a.js", 204, "", ""),
    ];
    for (who, method, uri, status, asker, login) in cases {
        let answer = ask(who, method, uri).await;
        assert_eq!(answer.status, status, "{method} {uri}: {answer:?}");
        assert_eq!(answer.header("wxgate-asker").unwrap_or_default(), asker, "{method} {uri}");
        assert_eq!(answer.header("cache-control"), Some("no-store"), "{method} {uri}");
        let location = answer.header("location").unwrap_or_default();
        assert!(location.ends_with(login), "{method} {uri}: {location}");
        let whole = location.starts_with("http://h5.example.com/_wx/login?rd=");
        assert_eq!(whole, status == 401, "{method} {uri}: {location}");
        let introduced = status == 204 && std::ptr::eq(who, &raw const known);
        let expected = if introduced { openid.as_str() } else { "" };
        assert_eq!(answer.header("x-wechat-openid").unwrap_or_default(), expected);
    }
    let script = ask(&phone.script(), "GET", "/api/cart?x=1").await;
    assert_eq!(
        script.text,
        r#"{"error":"login_required","login_url":"http://h5.example.com/_wx/login?rd=/api/cart%3Fx%3D1"}"#
    );
    // For proxies that pass it on, the page that the gateway would show.
    assert!(ask(&desk, "GET", "/orders").await.text.contains("<svg"));
    let button = ask(&phone, "GET", "/club/1").await;
    assert!(button.links_to("http://h5.example.com/_wx/login?rd=/club/1"), "{}", button.text);
    assert_eq!(street.site.hits(), hits, "a question is no request");
    street.close().await;
}

#[tokio::test]
async fn c5_every_identity_name_is_in_the_answer_empty_when_unknown() {
    let more = "[[account]]\nname = \"Pay\"\napp_id = \"wx2\"\napp_secret = \"secret-of-wx2\"\nauthorize_url = \"WECHAT\"\napi_urls = [\"WECHAT\"]\n";
    let lines = "also = [\"Pay\"]\n[site.headers]\naliases = [\"X-WX-OPENID\"]\nextra = { \"Remote-User\" = \"openid\" }";
    let street = TestGateway::open(TestConfig { more: more.to_owned(), ..plan(lines) }).await;
    let mut known = Visitor::wechat(street.gateway);
    let (_, page) = known.open("/").await;
    let names = [
        "x-wechat-openid",
        "x-wechat-unionid",
        "x-wechat-appid",
        "x-wechat-account",
        "x-wechat-scope",
        "x-wechat-nickname",
        "x-wechat-avatar",
        "x-wechat-session",
        "x-wechat-auth-time",
        "x-wechat-snapshot",
        "x-wechat-assertion",
        "x-wechat-openid-pay",
        "x-wx-openid",
        "x-wx-unionid",
        "x-wx-appid",
        "remote-user",
    ];
    for (visitor, uri, introduced) in [
        (Visitor::desktop(street.gateway), "/static/a", false),
        (Visitor::desktop(street.gateway), "/news/a", false),
        (known.clone(), "/static/a", false),
        (known.clone(), "/orders", true),
    ] {
        let answer = ask(&visitor, "GET", uri).await;
        assert_eq!(answer.status, 204, "{uri}");
        for name in names {
            let told = answer.all(name).collect::<Vec<_>>();
            let expected = if introduced { page.received(name) } else { Vec::new() };
            let expected = if expected.is_empty() { vec![""] } else { expected };
            assert_eq!(told, expected, "{uri} {name}");
        }
    }
    street.close().await;
}

#[tokio::test]
async fn a1_a4_b3_what_is_not_exactly_one_thing_is_refused() {
    let street = TestGateway::open(plan(
        "underscores = \"refuse\"\n[site.headers]\nextra = { \"Remote-User\" = \"openid\" }",
    ))
    .await;
    let mut known = Visitor::wechat(street.gateway);
    let _ = known.open("/").await;
    for uri in [
        "/static/../orders",
        "/static/%2e%2e/orders",
        "/static/..%2forders",
        "//orders",
        "/static//a",
        "/static/a%00",
        "/static\\a",
        "/static/%2541",
        "/a;x/b",
        "/orders./x",
        "/orders%20/x",
        "/static/a.",
        "/static/..%20/orders",
        "/orders::$DATA",
        "/%6frders",
        "/_wx/session",
        "/_wx/verify",
    ] {
        assert_eq!(ask(&known, "GET", uri).await.status, 403, "{uri}");
    }
    for method in ["get", "TRACE", "CONNECT"] {
        let headers = [("x-original-method", method), ("x-original-uri", "/static/a")];
        assert_eq!(known.send("GET", "/_wx/verify", &headers, "").await.status, 403, "{method}");
    }
    street.close().await;

    // From a peer that is no proxy of ours, nothing of it is believed.
    let street = TestGateway::usual().await;
    for uri in ["/static/a", "/orders"] {
        assert_eq!(ask(&Visitor::wechat(street.gateway), "GET", uri).await.status, 403);
    }
    street.close().await;
}

#[tokio::test]
async fn a1_a_proxy_hears_the_strictest_reading_of_a_path() {
    let cases = [
        ("ambiguous_paths = \"protect\"", "/orders./x", 401),
        ("ambiguous_paths = \"protect\"", "/static%20/x", 401),
        ("ambiguous_paths = \"protect\"", "/static/..%20/orders", 401),
        ("ambiguous_paths = \"protect\"", "/static/a.", 204),
        ("windows_names = \"plain\"", "/static/a.", 204),
        ("windows_names = \"plain\"", "/static/a%20/b", 204),
        ("windows_names = \"plain\"", "/orders./x", 401),
        ("windows_names = \"plain\"", "/static/a%2e", 403),
    ];
    for lines in ["ambiguous_paths = \"protect\"", "windows_names = \"plain\""] {
        let street = TestGateway::open(plan(lines)).await;
        let visitor = Visitor::desktop(street.gateway).script();
        for (_, uri, status) in cases.iter().filter(|(setting, ..)| *setting == lines) {
            assert_eq!(ask(&visitor, "GET", uri).await.status, *status, "{lines} {uri}");
        }
        street.close().await;
    }
}

#[tokio::test]
async fn b2_b3_words_that_disagree_and_names_of_ours_are_refused() {
    let lines =
        "underscores = \"refuse\"\n[site.headers]\nextra = { \"Remote-User\" = \"openid\" }";
    let street = TestGateway::open(plan(lines)).await;
    let mut known = Visitor::wechat(street.gateway);
    let _ = known.open("/").await;
    let (method, uri) = (("x-original-method", "GET"), ("x-original-uri", "/orders"));
    for (more, status) in [
        (("x-request-id", "1"), 204),
        (("x-forwarded-host", "www.example.com"), 204), // the other host of the same site
        (("x-forwarded-host", "other.example.com"), 403),
        (("x-forwarded-host", "h5.example.com, evil.example"), 403),
        (("under_score", "1"), 403),
        (("x-original-uri", "/orders"), 400),
        (("x-forwarded-uri", "/static/a"), 400),
        (("x-forwarded-method", "POST"), 400),
        (("x-original-url", "http://h5.example.com/static/a"), 400),
    ] {
        let mut visitor = known.clone();
        let answer = visitor.send("GET", "/_wx/verify", &[method, uri, more], "").await;
        assert_eq!(answer.status, status, "{more:?}: {}", answer.text);
    }
    assert_eq!(known.get("/_wx/verify").await.status, 400, "nothing is guessed");
    // B2: what a proxy might forget to remove.
    for name in [
        "X-WeChat-OpenId",
        "x_wechat_openid",
        "X.WeChat.OpenId",
        "X-WeChat-OpenId-pay",
        "X-WeChat-Assertion",
        "X-WX-OPENID",
        "X-WX-FROM-OPENID",
        "x_wx_source",
        "remote_user",
        "Remote.User",
        "HTTP_REMOTE_USER",
    ] {
        for path in ["/orders", "/static/a"] {
            let fields = [method, ("x-original-uri", path), (name, "forged")];
            let answer = known.send("GET", "/_wx/verify", &fields, "").await;
            assert_eq!(answer.status, 403, "{name}: {}", answer.text);
        }
    }
    street.close().await;
}

/// A proxy cannot take ours out by itself, however many there are and wherever they stand.
#[tokio::test]
async fn c2_a_proxy_is_told_which_cookies_go_on() {
    let street = TestGateway::open(plan("")).await;
    for (sent, expected) in [
        ("", ""),
        ("a=1; b=2", "a=1; b=2"),
        ("wxgate=x", ""),
        ("wxgate=x; a=1; wxgate=y; b=2", "a=1; b=2"),
        ("wxgate-flow-1=x;a=1;__Host-wxgate=z;WXGATE-FLOW-2=y", "a=1"),
        ("a=wxgate=1; nowxgate=2", "a=wxgate=1; nowxgate=2"),
    ] {
        for path in ["/_wx/verify/static/a", "/_wx/verify/news/a"] {
            let answer =
                Visitor::wechat(street.gateway).send("GET", path, &[("cookie", sent)], "").await;
            assert_eq!((answer.status, answer.header("cookie")), (200, Some(expected)), "{sent}");
        }
    }
    let none = Visitor::wechat(street.gateway).get("/_wx/verify/static/a").await;
    assert_eq!((none.status, none.header("cookie")), (200, None), "none were sent");
    let cookie = [("cookie", "a=1; wxgate=x")];
    let refused =
        Visitor::wechat(street.gateway).send("GET", "/_wx/verify/orders", &cookie, "").await;
    assert_eq!((refused.status, refused.header("cookie")), (401, None));
    street.close().await;
}

/// A proxy that knows a header by one spelling forwards the others, and PHP or CGI read them as one.
#[tokio::test]
async fn b3_disguised_names_are_refused_where_a_proxy_asks() {
    let street = TestGateway::open(plan("")).await;
    for (name, status) in [
        ("X_Forwarded_For", 403),
        ("X.Forwarded.User", 403),
        ("X-Forwarded_Proto", 403),
        ("HTTP_CLIENT_IP", 403),
        ("Client.IP", 403),
        ("X~Original~URL", 403),
        ("X_REWRITE_URL", 403),
        ("HTTP_PROXY", 403),
        ("X_Request_Id", 403),
        ("X_Real_Host", 403),
        ("X.Scheme", 403),
        ("$WSRU", 403),
        // No proxy replaces the path that it asks about.
        ("X-Rewrite-URL", 403),
        ("X-HTTP-DestinationURL", 403),
        ("X-Override-URL", 403),
        ("Request-URI", 403),
        ("HTTP_REQUEST_URI", 403),
        ("X-Script-Name", 403),
        ("SCRIPT_NAME", 403),
        ("Path-Info", 403),
        ("X-Matched-Path", 403),
        // What a proxy may send, or only looks like one of them.
        ("X-Forwarded-User", 200),
        ("Client-IP", 200),
        ("X-Request-Id", 200),
        ("X-Scheme", 200),
        ("X-Original-Host", 200),
        ("Referer", 200),
        ("access_token", 200),
        ("X_Zip", 200),
    ] {
        let mut visitor = Visitor::wechat(street.gateway);
        let answer = visitor.send("GET", "/_wx/verify/static/a", &[(name, "1")], "").await;
        assert_eq!(answer.status, status, "{name}: {answer:?}");
    }
    assert_eq!(street.site.hits(), 0);
    street.close().await;
}

#[tokio::test]
async fn a3_method_overrides_are_refused_where_a_route_names_methods() {
    let by_method = "[[site.route]]\npath = \"/api/*\"\nmethods = [\"GET\"]\nauth = \"none\"\n";
    for (routes, status) in [("", 200), (by_method, 403)] {
        let street = TestGateway::open(TestConfig {
            server: TRUSTED.to_owned(),
            ..TestConfig::site(&format!("{ROUTES}{routes}"))
        })
        .await;
        for name in ["X-HTTP-Method-Override", "x_http_method", "X.Method.Override"] {
            let mut visitor = Visitor::wechat(street.gateway);
            let path = "/_wx/verify/static/a";
            let answer = visitor.send("GET", path, &[(name, "DELETE")], "").await;
            assert_eq!(answer.status, status, "{name} {routes}");
        }
        assert_eq!(street.site.hits(), 0);
        street.close().await;
    }
}

#[tokio::test]
async fn the_login_shows_what_the_proxy_could_not() {
    let street = TestGateway::open(plan("fragment = \"keep\"")).await;
    let (mut phone, mut desk) = (Visitor::wechat(street.gateway), Visitor::desktop(street.gateway));
    // The rule of WeChat's: consent is asked after an act of the visitor's.
    let login = ask(&phone, "GET", "/club/1?a=b").await;
    let (_, button) = phone.follow(&login, "/").await;
    assert_eq!(button.status, 200);
    let next = "/_wx/login?rd=/club/1%3Fa%3Db&scope=snsapi_userinfo";
    assert!(button.links_to(next), "{}", button.text);
    assert!(!button.links_to(&format!("{next}&prompt")), "or it would go round in circles");
    let page = crate::login::consent(&mut phone, next).await;
    assert!(page.text.starts_with("GET /club/1?a=b HTTP/1.1"), "{page:?}");
    assert_eq!(ask(&phone, "GET", "/club/1").await.status, 204);
    // The part of the address that no server sees.
    let login = ask(&Visitor::wechat(street.gateway), "GET", "/app").await;
    assert!(login.location().ends_with("/_wx/login?rd=/app&prompt=remember"), "{login:?}");
    let (_, page) = Visitor::wechat(street.gateway).follow(&login, "/").await;
    assert!(page.links_to("/_wx/login?rd=/app") && page.text.contains("onward()"));
    // A browser outside WeChat.
    let login = ask(&desk, "GET", "/orders").await;
    let (_, page) = desk.follow(&login, "/").await;
    assert_eq!(page.status, 403);
    assert!(page.text.contains("<svg"), "{}", page.text);
    street.close().await;
}

#[tokio::test]
async fn snapshot_visitors_do_not_go_round_in_circles() {
    for (choice, status) in [("page", 401), ("anonymous", 204), ("allow", 204)] {
        let street = TestGateway::open(plan(&format!("snapshot = \"{choice}\""))).await;
        street.fault(r#"{"at":"authorize","snapshot":true}"#).await;
        let mut phone = Visitor::wechat(street.gateway);
        let _ = phone.open("/orders").await;
        let answer = ask(&phone, "GET", "/orders").await;
        assert_eq!(answer.status, status, "{choice}");
        if status == 401 {
            let (_, page) = phone.follow(&answer, "/").await;
            assert_eq!(page.status, 200, "no way to WeChat, who would name them again: {page:?}");
            assert!(page.text.contains("使用完整服务"), "{}", page.text);
        } else {
            let flag = if choice == "allow" { "1" } else { "" };
            assert_eq!(answer.header("x-wechat-snapshot"), Some(flag), "{choice}");
        }
        street.close().await;
    }
}

#[tokio::test]
async fn a_logout_and_a_planted_cookie_are_seen_here_too() {
    let street = TestGateway::open(plan("")).await;
    let mut known = Visitor::wechat(street.gateway);
    let _ = known.open("/").await;
    let mut other = Visitor::wechat(street.gateway);
    let _ = other.open("/").await;
    let mut both = known.clone();
    let planted = format!("wxgate={}", other.cookie("wxgate"));
    let fields =
        [("x-original-method", "GET"), ("x-original-uri", "/orders"), ("cookie", planted.as_str())];
    let answer = both.send("GET", "/_wx/verify", &fields, "").await;
    assert_eq!((answer.status, both.has_session()), (401, false), "C4: cleared");
    let captured = known.clone();
    let _ = known.send("POST", "/_wx/logout", &[("origin", "http://h5.example.com")], "").await;
    assert_eq!(ask(&captured, "GET", "/orders").await.status, 401, "E7");
    street.close().await;
}
