//! WeChat as it really behaves: each story is one thing that was seen in the field.

use crate::{
    harness::{ROUTES, TestConfig, TestGateway},
    visitor::{Answer, Visitor, raw},
};

/// Opens a page up to the moment WeChat sends the visitor back.
async fn back_from_wechat(visitor: &mut Visitor, path: &str) -> Answer {
    let away = visitor.get(path).await;
    visitor.follow(&away, path).await.1
}

#[tokio::test]
async fn two_codes_for_one_state_end_in_one_session() {
    let street = TestGateway::usual().await;
    street.fault(r#"{"at":"authorize","two_codes":true,"times":1}"#).await;
    let mut visitor = Visitor::wechat(street.gateway);
    let page = back_from_wechat(&mut visitor, "/orders?a=1").await;
    let callbacks: Vec<String> = page.all("x-emulator-callback").map(str::to_owned).collect();
    assert_eq!(callbacks.len(), 2, "{page:?}");
    // The client throws the first answer away, with its cookies.
    let mut thrown = visitor.clone();
    let first = thrown.follow(&Answer::redirect(&callbacks[0]), "/").await.1;
    assert_eq!(first.location(), "/orders?a=1");
    let second = visitor.follow(&Answer::redirect(&callbacks[1]), "/").await.1;
    assert_eq!(second.location(), "/orders?a=1");
    assert!(visitor.has_session());
    assert_eq!(visitor.get("/orders?a=1").await.status, 200);
    street.close().await;
}

#[tokio::test]
async fn a_bot_that_fetches_the_callback_again_disturbs_nobody() {
    let street = TestGateway::usual().await;
    let mut visitor = Visitor::wechat(street.gateway);
    let back = back_from_wechat(&mut visitor, "/orders").await;
    let _ = visitor.follow(&back, "/").await;
    let calls = street.calls("/sns/oauth2/access_token").await;
    for _ in 0..3 {
        let mut bot = Visitor::wechat(street.gateway);
        let answer = bot.follow(&back, "/").await.1;
        assert_eq!(answer.status, 302);
        assert!(answer.location().contains("/connect/oauth2/authorize"));
        assert!(!bot.has_session());
    }
    assert_eq!(street.calls("/sns/oauth2/access_token").await, calls);
    assert_eq!(visitor.get("/orders").await.status, 200);
    street.close().await;
}

#[tokio::test]
async fn a_shared_link_that_carries_a_code_logs_in_whoever_opens_it() {
    let street = TestGateway::usual().await;
    let mut visitor = Visitor::wechat(street.gateway);
    let back = back_from_wechat(&mut visitor, "/orders").await;
    let _ = visitor.follow(&back, "/").await;
    let callback = back.location().split_once("example.com").unwrap().1.to_owned();
    // Somebody else opens it, in WeChat: they log in as themselves and see the page.
    let mut friend = Visitor::wechat(street.gateway);
    friend.cookies.insert(
        "127.0.0.1".to_owned(),
        vec![("wx_emulator_user".to_owned(), "hanmeimei".to_owned())],
    );
    let (at, page) = friend.open(&callback).await;
    assert_eq!((at.as_str(), page.status), ("/orders", 200));
    let mine = visitor.get("/orders").await;
    assert_ne!(page.received("x-wechat-openid"), mine.received("x-wechat-openid"));
    street.close().await;
}

#[tokio::test]
async fn back_and_refresh_on_the_callback_lead_to_the_page() {
    let street = TestGateway::usual().await;
    let mut visitor = Visitor::wechat(street.gateway);
    let back = back_from_wechat(&mut visitor, "/orders?x=1").await;
    let _ = visitor.follow(&back, "/").await;
    for _ in 0..2 {
        let answer = visitor.follow(&back, "/").await.1;
        assert_eq!((answer.status, answer.location()), (302, "/orders?x=1"));
    }
    assert_eq!(street.calls("/sns/oauth2/access_token").await, 1);
    street.close().await;
}

#[tokio::test]
async fn a_lost_flow_cookie_still_ends_at_the_page_asked_for() {
    let street = TestGateway::usual().await;
    let mut visitor = Visitor::wechat(street.gateway);
    let back = back_from_wechat(&mut visitor, "/orders?page=2&q=%E4%B8%AD").await;
    visitor.cookies.remove("h5.example.com");
    let again = visitor.follow(&back, "/").await.1;
    assert!(again.location().contains("/connect/oauth2/authorize"), "{again:?}");
    let back = visitor.follow(&again, "/").await.1;
    let welcome = visitor.follow(&back, "/").await.1;
    assert_eq!(welcome.location(), "/orders?page=2&q=%E4%B8%AD");
    street.close().await;
}

#[tokio::test]
async fn a_browser_that_keeps_no_cookies_is_told_so() {
    let street = TestGateway::usual().await;
    let mut answer = Visitor::wechat(street.gateway).get("/orders").await;
    let mut trips = 0;
    while answer.status == 302 {
        trips += 1;
        let mut forgetful = Visitor::wechat(street.gateway);
        answer = forgetful.follow(&answer, "/").await.1;
    }
    // Each try is two redirects: to WeChat and back.
    assert_eq!((answer.status, trips), (400, 6), "{answer:?}");
    assert!(answer.text.contains("Cookie"), "{}", answer.text);
    assert!(answer.links_to("/_wx/login?rd=/orders"), "{}", answer.text);
    assert_eq!(street.calls("/sns/oauth2/access_token").await, 0);
    street.close().await;
}

#[tokio::test]
async fn a_declined_consent_is_a_page_with_a_button_and_no_loop() {
    let street = TestGateway::usual().await;
    street.fault(r#"{"at":"authorize","decline":true}"#).await;
    let mut visitor = Visitor::wechat(street.gateway);
    let (_, page) = visitor.open("/member/").await;
    assert_eq!(page.status, 403);
    assert!(page.links_to("/_wx/login?rd=/member/&scope=snsapi_userinfo"), "{}", page.text);
    assert_eq!(street.site.hits(), 0);
    street.close().await;
}

#[tokio::test]
async fn a_scope_smaller_than_asked_asks_once_and_does_not_loop() {
    let street = TestGateway::usual().await;
    street.fault(r#"{"at":"userinfo","errcode":48001}"#).await;
    let mut visitor = Visitor::wechat(street.gateway);
    let page = crate::login::consent(&mut visitor, "/member/").await;
    assert_eq!(page.status, 403, "{page:?}");
    street.close().await;
}

#[tokio::test]
async fn the_fragment_of_an_app_survives_the_login() {
    let street =
        TestGateway::open(TestConfig::site(&format!("fragment = \"keep\"\n{ROUTES}"))).await;
    let mut visitor = Visitor::wechat(street.gateway);
    let page = visitor.get("/app?x=1").await;
    assert_eq!((page.status, street.site.hits()), (200, 0));
    assert!(page.links_to("/_wx/login?rd=/app%3Fx%3D1"), "{}", page.text);
    let away = visitor.get("/_wx/login?rd=/app%3Fx%3D1%23/orders/7").await;
    let back = visitor.follow(&away, "/").await.1;
    let welcome = visitor.follow(&back, "/").await.1;
    assert_eq!(welcome.location(), "/app?x=1#/orders/7");
    street.close().await;
}

#[tokio::test]
async fn scripts_of_configured_origins_can_read_the_refusal() {
    let cors = "[site.cors]\norigins = [\"https://app.example.com\"]\n";
    let street = TestGateway::open(TestConfig::site(&format!("{cors}{ROUTES}"))).await;
    let cases = [
        ("https://app.example.com", true),
        ("https://evil.example.com", false),
        ("https://app.example.com.evil.com", false),
        ("null", false),
    ];
    for (origin, allowed) in cases {
        let mut script = Visitor::wechat(street.gateway).script();
        let headers = [
            ("origin", origin),
            ("access-control-request-method", "PUT"),
            ("access-control-request-headers", "x-a"),
        ];
        let preflight = script.send("OPTIONS", "/api/cart", &headers, "").await;
        assert_eq!(preflight.status, if allowed { 204 } else { 401 }, "{origin}");
        let refusal = script.send("GET", "/api/cart", &[("origin", origin)], "").await;
        assert_eq!(refusal.status, 401, "{origin}");
        for answer in [preflight, refusal] {
            let expected = allowed.then_some(origin);
            assert_eq!(answer.header("access-control-allow-origin"), expected, "{origin}");
            assert_eq!(answer.header("access-control-allow-credentials").is_some(), allowed);
        }
    }
    assert_eq!(street.site.hits(), 0);
    street.close().await;
}

#[tokio::test]
async fn the_script_that_turns_a_401_into_a_login_is_there() {
    let street = TestGateway::open(TestConfig {
        server: "prefix = \"/gate\"".to_owned(),
        ..TestConfig::site(ROUTES)
    })
    .await;
    let script = Visitor::desktop(street.gateway).get("/gate/client.js").await;
    assert_eq!(
        (script.status, script.header("content-type")),
        (200, Some("text/javascript; charset=utf-8"))
    );
    assert!(script.text.contains("var PREFIX = \"/gate\";"), "{}", script.text);
    street.close().await;
}

/// Two sites of other domains, and the one host their account has authorised.
fn one_domain() -> TestConfig {
    let more = r#"
[[site]]
hosts = ["shop.example.org"]
public_url = "http://shop.example.org"
account = "main"
upstream = ["http://127.0.0.1:1"]
"#;
    TestConfig {
        account: "callback_host = \"auth.example.net\"".to_owned(),
        more: more.to_owned(),
        ..TestConfig::site(ROUTES)
    }
}

#[tokio::test]
async fn many_sites_share_the_one_domain_of_their_account() {
    let street = TestGateway::open(one_domain()).await;
    let mut visitor = Visitor::wechat(street.gateway);
    let away = visitor.get("/orders?x=1").await;
    assert!(
        away.location().contains("redirect_uri=http%3A%2F%2Fauth.example.net%2F_wx%2Fcallback"),
        "{}",
        away.location()
    );
    let back = visitor.follow(&away, "/").await.1;
    assert!(back.location().starts_with("http://auth.example.net/_wx/callback?"));
    let handed = visitor.follow(&back, "/").await.1;
    assert_eq!(
        street.calls("/sns/oauth2/access_token").await,
        0,
        "E1: the host itself asks WeChat nothing"
    );
    assert!(
        handed.location().starts_with("http://h5.example.com/_wx/accept?ticket="),
        "{handed:?}"
    );
    assert!(!handed.location().contains("code="));

    // A ticket is bound to the browser: a stranger who has it is sent to log in themselves.
    let mut thief = Visitor::wechat(street.gateway);
    let refused = thief.follow(&handed, "/").await.1;
    assert!(refused.location().contains("/connect/oauth2/authorize") && !thief.has_session());
    // And to the site: another one cannot read it.
    let ticket = handed.location().split_once("ticket=").unwrap().1;
    let elsewhere = format!(
        "GET /_wx/accept?ticket={ticket} HTTP/1.1\r\nhost: shop.example.org\r\naccept: text/html\r\nconnection: close\r\n\r\n"
    );
    assert!(raw(street.gateway, &elsewhere).await.starts_with("HTTP/1.1 400"));
    assert_eq!(street.calls("/sns/oauth2/access_token").await, 0);

    let welcome = visitor.follow(&handed, "/").await.1;
    assert_eq!(welcome.location(), "/orders?x=1");
    assert!(visitor.has_session());
    assert_eq!(street.calls("/sns/oauth2/access_token").await, 1);
    // Used again, it leads to the page and nothing else; without the session it is worth nothing.
    assert_eq!(visitor.follow(&handed, "/").await.1.location(), "/orders?x=1");
    visitor.cookies.get_mut("h5.example.com").unwrap().retain(|(name, _)| name != "wxgate");
    let spent = visitor.follow(&handed, "/").await.1;
    assert!(spent.location().contains("/connect/oauth2/authorize") && !visitor.has_session());
    assert_eq!(street.calls("/sns/oauth2/access_token").await, 1);
    street.close().await;
}

#[tokio::test]
async fn a_ticket_lasts_a_minute() {
    use std::sync::atomic::{AtomicU64, Ordering};

    use wxgate::clock::{Timestamp, system};
    static AHEAD: AtomicU64 = AtomicU64::new(0);
    fn clock() -> Timestamp {
        Timestamp(system().0 + AHEAD.load(Ordering::Relaxed))
    }
    let street = TestGateway::open(TestConfig { clock, ..one_domain() }).await;
    let mut visitor = Visitor::wechat(street.gateway);
    let back = back_from_wechat(&mut visitor, "/orders").await;
    let handed = visitor.follow(&back, "/").await.1;
    AHEAD.store(61, Ordering::Relaxed);
    let late = visitor.follow(&handed, "/").await.1;
    assert_eq!((late.status, visitor.has_session()), (400, false));
    street.close().await;
}

#[tokio::test]
async fn the_callback_host_is_nothing_else() {
    let street = TestGateway::open(one_domain()).await;
    for (target, status) in [
        ("/", 421),
        ("/_wx/login", 421),
        ("/_wx/callback", 400),
        ("/_wx/callback?code=0a&state=x", 400),
        ("/MP_verify_AbCd1234.txt", 200),
    ] {
        let request =
            format!("GET {target} HTTP/1.1\r\nhost: auth.example.net\r\nconnection: close\r\n\r\n");
        let answer = raw(street.gateway, &request).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{target}: {answer}");
    }
    street.close().await;
}

/// A site that wants a second openid.
fn with_pay() -> TestConfig {
    let pay = r#"
[[account]]
name = "pay"
app_id = "wx2"
app_secret = "secret-of-wx2"
authorize_url = "WECHAT"
api_urls = ["WECHAT"]
"#;
    TestConfig { more: pay.to_owned(), ..TestConfig::site(&format!("also = [\"pay\"]\n{ROUTES}")) }
}

#[tokio::test]
async fn a_second_account_is_asked_silently_in_the_same_trip() {
    let street = TestGateway::open(with_pay()).await;
    let mut visitor = Visitor::wechat(street.gateway);
    let (at, page) = visitor.open("/orders?x=1").await;
    assert_eq!((at.as_str(), page.status), ("/orders?x=1", 200));
    let (main, pay) = (page.received("x-wechat-openid"), page.received("x-wechat-openid-pay"));
    assert_eq!((main.len(), pay.len()), (1, 1), "{}", page.text);
    assert_ne!(main, pay);
    assert_eq!(page.received("x-wechat-appid"), ["wx1"]);
    let forged = visitor.send("GET", "/orders", &[("x-wechat-openid-pay", "forged")], "").await;
    assert_eq!(forged.received("x-wechat-openid-pay"), pay);
    street.close().await;
}

#[tokio::test]
async fn a_second_account_that_fails_keeps_nobody_out() {
    let street = TestGateway::open(with_pay()).await;
    let mut visitor = Visitor::wechat(street.gateway);
    let away = visitor.get("/orders").await;
    let back = visitor.follow(&away, "/").await.1;
    let second = visitor.follow(&back, "/").await.1;
    assert!(
        second.location().contains("appid=wx2") && second.location().contains("scope=snsapi_base"),
        "{second:?}"
    );
    assert!(!visitor.has_session());
    street.fault(r#"{"at":"access_token","errcode":40125,"times":1}"#).await;
    let back = visitor.follow(&second, "/").await.1;
    let welcome = visitor.follow(&back, "/").await.1;
    assert_eq!(welcome.location(), "/orders");
    let page = visitor.get("/orders").await;
    assert_eq!(page.received("x-wechat-openid").len(), 1);
    assert_eq!(page.received("x-wechat-openid-pay").len(), 0, "absent means absent");
    street.close().await;
}

#[tokio::test]
async fn other_browsers_log_in_over_a_website_account() {
    let web = r#"
[[account]]
name = "web"
kind = "website"
app_id = "wxweb"
app_secret = "secret-of-wxweb"
authorize_url = "WECHAT"
api_urls = ["WECHAT"]
"#;
    let plan = TestConfig {
        more: web.to_owned(),
        ..TestConfig::site(&format!("outside_wechat = \"login:web\"\n{ROUTES}"))
    };
    let street = TestGateway::open(plan).await;
    let mut desk = Visitor::desktop(street.gateway);
    let away = desk.get("/orders").await;
    assert!(
        away.location().contains("/connect/qrconnect?appid=wxweb")
            && away.location().contains("scope=snsapi_login"),
        "{away:?}"
    );
    let (url, mut scan) = desk.follow(&away, "/").await;
    let link = scan.text.split("href=\"").skip(1).filter_map(|rest| rest.split('"').next());
    let link =
        link.map(|it| it.replace("&amp;", "&")).find(|it| it.contains("answer=allow")).unwrap();
    scan.headers.push(("location".to_owned(), url.join(&link).unwrap().to_string()));
    let back = desk.follow(&scan, "/").await.1;
    let welcome = desk.follow(&back, "/").await.1;
    assert_eq!(welcome.location(), "/orders");
    let page = desk.get("/orders").await;
    assert_eq!(page.received("x-wechat-appid"), ["wxweb"]);
    assert_eq!(page.received("x-wechat-account"), ["web"]);
    assert_eq!(page.received("x-wechat-nickname").len(), 1);
    street.close().await;
}

#[tokio::test]
async fn a_connection_that_fails_leads_to_the_next_host_and_an_answer_never_does() {
    let street = TestGateway::open(TestConfig {
        api_first: Some("http://127.0.0.1:1".to_owned()),
        ..TestConfig::site(ROUTES)
    })
    .await;
    let mut visitor = Visitor::wechat(street.gateway);
    let (_, page) = visitor.open("/orders").await;
    assert_eq!(page.status, 200);
    street.fault(r#"{"at":"access_token","http_status":500,"times":1}"#).await;
    let before = street.calls("/sns/oauth2/access_token").await;
    let mut visitor = Visitor::wechat(street.gateway);
    let (_, page) = visitor.open("/orders").await;
    assert_eq!(page.status, 503);
    assert_eq!(
        street.calls("/sns/oauth2/access_token").await - before,
        1,
        "the code is not sent again"
    );
    street.close().await;
}

#[tokio::test]
async fn a_dead_api_stops_holding_visitors() {
    let street = TestGateway::usual().await;
    street.fault(r#"{"at":"access_token","http_status":500}"#).await;
    for _ in 0..5 {
        let mut visitor = Visitor::wechat(street.gateway);
        assert_eq!(visitor.open("/orders").await.1.status, 503);
    }
    let before = street.calls("/sns/oauth2/access_token").await;
    let mut visitor = Visitor::wechat(street.gateway);
    let (_, page) = visitor.open("/orders").await;
    assert_eq!((page.status, page.header("retry-after")), (503, Some("5")));
    assert_eq!(street.calls("/sns/oauth2/access_token").await, before, "it was not even asked");
    street.close().await;
}

#[tokio::test]
async fn nicknames_with_anything_in_them_come_through() {
    let street = TestGateway::usual().await;
    let mut visitor = Visitor::wechat(street.gateway);
    visitor
        .cookies
        .insert("127.0.0.1".to_owned(), vec![("wx_emulator_user".to_owned(), "qiya".to_owned())]);
    let page = crate::login::consent(&mut visitor, "/member/").await;
    let nickname = page.received("x-wechat-nickname")[0];
    assert!(nickname.ends_with("%F0%9F%8D%AD") && nickname.is_ascii(), "{nickname}");
    street.close().await;
}

#[tokio::test]
async fn a_profile_that_has_grown_old_is_renewed_behind_the_visitors_back() {
    use std::sync::atomic::{AtomicU64, Ordering};

    use wxgate::clock::{Timestamp, system};
    static AHEAD: AtomicU64 = AtomicU64::new(0);
    fn clock() -> Timestamp {
        Timestamp(system().0 + AHEAD.load(Ordering::Relaxed))
    }
    let street = TestGateway::open(TestConfig {
        clock,
        ..TestConfig::site(&format!("profile_refresh = \"1h\"\n{ROUTES}"))
    })
    .await;
    let mut visitor = Visitor::wechat(street.gateway);
    let page = crate::login::consent(&mut visitor, "/member/").await;
    assert_eq!(page.status, 200);
    let first = visitor.cookie("wxgate");
    assert_eq!(visitor.get("/member/").await.header("set-cookie"), None);

    AHEAD.store(3601, Ordering::Relaxed);
    // The request that notices goes on as it is; a later one takes the answer home.
    let page = loop {
        let page = visitor.get("/member/").await;
        assert_eq!((page.status, page.received("x-wechat-nickname").len()), (200, 1));
        if page.header("set-cookie").is_some() {
            break page;
        }
    };
    assert_eq!(page.header("cache-control"), Some("no-store"));
    assert_ne!(visitor.cookie("wxgate"), first);
    assert_eq!(street.calls("/sns/oauth2/refresh_token").await, 1);
    assert_eq!(visitor.get("/member/").await.header("set-cookie"), None, "and then there is peace");

    // WeChat no longer honours the token: the next page asks for a login, a script is left alone.
    street.fault(r#"{"at":"refresh_token","errcode":42002}"#).await;
    AHEAD.store(7300, Ordering::Relaxed);
    let mut script = visitor.script();
    assert_eq!(script.get("/member/").await.status, 200);
    while street.calls("/sns/oauth2/refresh_token").await < 2 {
        tokio::task::yield_now().await;
    }
    let asked = loop {
        let answer = visitor.get("/member/").await;
        if answer.status == 302 {
            break answer;
        }
    };
    assert!(asked.location().contains("scope=snsapi_userinfo"));
    street.close().await;
}
