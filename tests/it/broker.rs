//! The code broker, call for call: the classic flow as browsers walk it, and what a client's server
//! asks.

use url::Url;

use crate::{
    broker_servers::{code, json, server},
    harness::{TestConfig, TestGateway},
    visitor::{Answer, Visitor, raw},
};

pub const HOST: &str = "auth.example.com";
pub const SHOP: &str = "5f1c9a5be03d76284f1c9a5be03d762e";
pub const NEWS: &str = "77d0e7b1f46c2a8534f1c9a5be03d762";

/// The clients of these tests: one for each kind of result, one with another proxy's trust.
pub const BROKER: &str = r#"
[broker]
host = "auth.example.com"
public_url = "http://auth.example.com"
[[broker.client]]
name = "shop"
account = "main"
return_to = ["https://shop.example.com/", "http://127.0.0.1:8000/"]
secret = "5f1c9a5be03d76284f1c9a5be03d762e"
jssdk = true
[[broker.client]]
name = "news"
account = "main"
return_to = ["https://news.example.com/app/"]
result = "ticket"
secret = "77d0e7b1f46c2a8534f1c9a5be03d762"
outside_wechat = "deny"
"#;

pub fn plan() -> TestConfig {
    TestConfig { more: BROKER.to_owned(), ..TestConfig::default() }
}

pub fn phone(street: &TestGateway) -> Visitor {
    Visitor { host: HOST, ..Visitor::wechat(street.gateway) }
}

pub fn auth(url: &str, scope: &str) -> String {
    let url: String = url::form_urlencoded::byte_serialize(url.as_bytes()).collect();
    format!("/api/wechat/auth?url={url}&scope={scope}")
}

/// From a page of the client to the callback: what WeChat sent back, and what we said to it.
pub async fn walk(visitor: &mut Visitor, path: &str) -> (String, Answer) {
    let mut answer = visitor.get(path).await;
    for _ in 0..8 {
        assert_eq!(answer.status, 302, "{answer:?}");
        let (url, next) = visitor.follow(&answer, path).await;
        if url.path().starts_with("/api/wechat/get") && !next_is_wechat(&next) {
            let query = url.query().unwrap_or_default();
            return (format!("{}?{query}", url.path()), next);
        }
        answer = match next.status {
            302 => next,
            _ => Answer::redirect(&crate::login::allow(&next.text, &url)),
        };
    }
    panic!("no end: {answer:?}");
}

fn next_is_wechat(answer: &Answer) -> bool {
    answer.header("location").is_some_and(|it| it.contains("/connect/oauth2/authorize"))
}

pub fn fields(location: &str) -> Vec<(String, String)> {
    Url::parse(location).unwrap().query_pairs().into_owned().collect()
}

pub fn names(location: &str) -> Vec<String> {
    fields(location).into_iter().map(|(name, _)| name).collect()
}

#[tokio::test]
async fn a_front_end_of_the_classic_service_gets_the_openid() {
    let street = TestGateway::open(plan()).await;
    let mut phone = phone(&street);
    let url = "https://shop.example.com/cart?item=7&q=%E4%B8%AD#/pay?now";
    let away = phone.get(&auth(url, "snsapi_base")).await;
    assert_eq!((away.status, away.header("cache-control")), (302, Some("no-store")));
    let to = Url::parse(away.location()).unwrap();
    let asked: Vec<(String, String)> = to.query_pairs().into_owned().collect();
    let order: Vec<&str> = asked.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(
        order,
        ["appid", "redirect_uri", "response_type", "scope", "state", "connect_redirect"]
    );
    assert_eq!(asked[1].1, "http://auth.example.com/api/wechat/getOpenId");
    assert_eq!((asked[0].1.as_str(), asked[3].1.as_str()), ("wx1", "snsapi_base"));
    assert!(asked[4].1.len() <= 128 && asked[4].1.bytes().all(|b| b.is_ascii_alphanumeric()));
    assert!(
        !away.location().contains("shop"),
        "the address waits in the store: {}",
        away.location()
    );
    let cookie = away.header("set-cookie").unwrap();
    assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Lax"), "{cookie}");

    let (_, back) = phone.follow(&away, "/").await;
    let (_, home) = phone.follow(&back, "/").await;
    let location = home.header("location").unwrap();
    assert!(
        location.starts_with("https://shop.example.com/cart?item=7&q=%E4%B8%AD&openid=o"),
        "{location}"
    );
    assert!(location.ends_with("#/pay?now"));
    assert_eq!(names(location), ["item", "q", "openid"]);
    assert_eq!(home.header("referrer-policy"), Some("no-referrer"));
    assert_eq!(street.calls("/sns/oauth2/access_token").await, 1);
    assert_eq!(street.calls("/sns/userinfo").await, 0);
    street.close().await;
}

#[tokio::test]
async fn with_userinfo_it_gets_the_profile_over_both_spellings() {
    let street = TestGateway::open(plan()).await;
    let mut phone = phone(&street);
    let url = "https://shop.example.com/?nickname=old&openid=old&x=1";
    let (back, home) = walk(&mut phone, &auth(url, "snsapi_userinfo")).await;
    assert!(back.starts_with("/api/wechat/getWxUserInfo?code="), "{back}");
    let location = home.location();
    assert_eq!(names(location), ["x", "openid", "nickname", "headimgurl", "unionid"], "{location}");
    assert_eq!(fields(location)[2].1, "李雷");
    assert!(fields(location)[3].1.starts_with("http"), "{location}");

    // The other spelling of the way back, and no scope at all.
    let (_, home) = walk(&mut phone, "/api/wechat/auth?url=https%3A%2F%2Fshop.example.com").await;
    assert_eq!(names(home.location()), ["openid"]);
    let away = phone.get(&auth("https://shop.example.com/", "snsapi_userinfo")).await;
    let (at, asked) = phone.follow(&away, "/").await;
    let way = match asked.status {
        200 => phone.follow(&Answer::redirect(&crate::login::allow(&asked.text, &at)), "/").await.1,
        _ => asked,
    };
    let other = way.location().replace("getWxUserInfo", "getUserInfo");
    assert_ne!(other, way.location());
    let (_, home) = phone.follow(&Answer::redirect(&other), "/").await;
    assert_eq!(names(home.location()).len(), 4);
    street.close().await;
}

#[tokio::test]
async fn d3_nobody_is_sent_anywhere_else() {
    let street = TestGateway::open(plan()).await;
    let mut visitor = phone(&street);
    let urls = [
        "https://evil.example/",
        "https://shop.example.com.evil.example/",
        "https://shop.example.com@evil.example/",
        "https://evil.example\\@shop.example.com/",
        "https:\\\\shop.example.com/",
        "//shop.example.com/",
        "/cart",
        "javascript:alert(1)//https://shop.example.com/",
        "https://shop.example.com:8443/",
        "http://shop.example.com/",
        "https://shop.example.com./",
        "https://shop.example.com/\r\nset-cookie: a=b",
        "https://news.example.com/",
        "https://news.example.com/app/../admin",
        "https://news.example.com/app/%2e%2e/admin",
        "https://news.example.com/app/..%252fadmin",
        "https://news.example.com/app/..;/admin",
        "https://news.example.com/apple",
        "https://auth.example.com/",
        "https://h5.example.com/",
    ];
    for url in urls {
        let answer = visitor.get(&auth(url, "snsapi_base")).await;
        assert_eq!(answer.status, 400, "{url}: {answer:?}");
        assert!(answer.header("location").is_none() && answer.header("set-cookie").is_none());
        assert!(!answer.text.contains("evil"), "{url}");
    }
    let target = "https://shop.example.com/";
    for query in [
        String::new(),
        "?url=".to_owned(),
        format!("?url={target}&url={target}"),
        format!("?url={target}&url=https://evil.example/"),
        format!("?url={target}&scope=snsapi_login"),
        format!("?url={target}&scope=snsapi_base&scope=snsapi_userinfo"),
        format!("?url={target}{}", "a".repeat(3_000)),
        format!("?URL={target}"),
    ] {
        let answer = visitor.get(&format!("/api/wechat/auth{query}")).await;
        assert_eq!(answer.status, 400, "{query}: {answer:?}");
    }
    assert_eq!(street.calls("/connect/oauth2/authorize").await, 0);
    street.close().await;
}

#[tokio::test]
async fn only_page_loads_inside_wechat_are_sent_there() {
    let street = TestGateway::open(plan()).await;
    let shop = auth("https://shop.example.com/", "snsapi_base");
    let news = auth("https://news.example.com/app/", "snsapi_base");
    let mut desk = Visitor { host: HOST, ..Visitor::desktop(street.gateway) };
    let page = desk.get(&shop).await;
    assert_eq!(page.status, 403);
    assert!(page.text.contains("<svg class=\"qr\""), "{}", page.text);
    assert_eq!(desk.get(&news).await.status, 403);
    let script = phone(&street).script().get(&shop).await;
    assert_eq!(script.status, 401);
    let url = json(&script)["login_url"].as_str().unwrap().to_owned();
    assert!(url.starts_with("http://auth.example.com/api/wechat/auth?url=https"), "{url}");
    let away = phone(&street).get(url.strip_prefix("http://auth.example.com").unwrap()).await;
    assert_eq!(away.status, 302);
    for (method, path, status) in [
        ("POST", shop.as_str(), 405),
        ("HEAD", shop.as_str(), 405),
        ("GET", "/api/wechat/redeem", 405),
        ("DELETE", "/api/wechat/getOpenId", 405),
        ("GET", "/api/wechat/", 404),
        ("GET", "/api/wechat/Auth", 404),
        ("GET", "/", 404),
        ("GET", "/_wx/login", 404),
    ] {
        let answer = phone(&street).send(method, path, &[], "").await;
        assert_eq!(answer.status, status, "{method} {path}");
        let allow = if path.ends_with("redeem") { "POST" } else { "GET" };
        assert_eq!(answer.header("allow"), (status == 405).then_some(allow), "{method} {path}");
    }
    // The paths are the broker's on its own host alone.
    let mut elsewhere = Visitor::wechat(street.gateway);
    let away = elsewhere.get(&shop).await;
    assert!(away.location().contains("redirect_uri=http%3A%2F%2Fh5.example.com%2F_wx"), "{away:?}");
    let proof = phone(&street).get("/MP_verify_AbCd1234.txt").await;
    assert_eq!((proof.status, proof.text.as_str()), (200, "AbCd1234"));
    street.close().await;
}

#[tokio::test]
async fn e2_a_callback_belongs_to_the_browser_that_left() {
    let street = TestGateway::open(plan()).await;
    let mut attacker = phone(&street);
    let away = attacker.get(&auth("https://shop.example.com/a", "snsapi_base")).await;
    let (_, back) = attacker.follow(&away, "/").await;
    // A victim is sent there with the attacker's code: they log in as themselves, or not at all.
    let mut victim = phone(&street);
    let (_, answer) = victim.follow(&back, "/").await;
    assert!(next_is_wechat(&answer), "{answer:?}");
    assert_eq!(street.calls("/sns/oauth2/access_token").await, 0, "E1: no call for it");
    for cookie in ["wxgate-flow-00000000=x", "wxgate=x"] {
        let query = Url::parse(back.location()).unwrap().query().unwrap().to_owned();
        let path = format!("/api/wechat/getOpenId?{query}");
        let answer = phone(&street).send("GET", &path, &[("cookie", cookie)], "").await;
        assert!(next_is_wechat(&answer), "{answer:?}");
    }
    // States of another door, and none.
    let site = Visitor::wechat(street.gateway).get("/orders").await;
    let state = |location: &str| location.split("state=").nth(1).unwrap()[..84].to_owned();
    let foreign = state(site.location());
    for query in [
        format!("code=c&state={foreign}"),
        "code=c".to_owned(),
        "code=c&state=".to_owned(),
        "code=c&state=x&state=y".to_owned(),
        String::new(),
        format!("state={}", "0".repeat(84)),
        format!("code={}&state=%00", "c".repeat(600)),
    ] {
        let answer = attacker.get(&format!("/api/wechat/getOpenId?{query}")).await;
        assert_eq!(answer.status, 400, "{query}: {answer:?}");
        assert!(answer.header("location").is_none());
    }
    // And ours at the site's door.
    let ours = state(away.location());
    let mut site = Visitor::wechat(street.gateway);
    assert_eq!(site.get(&format!("/_wx/callback?code=c&state={ours}")).await.status, 400);
    assert_eq!(street.calls("/sns/oauth2/access_token").await, 0);
    street.close().await;
}

#[tokio::test]
async fn a_callback_that_comes_twice_ends_as_the_first_one_did() {
    let street = TestGateway::open(plan()).await;
    let mut phone = phone(&street);
    let (back, home) = walk(&mut phone, &auth("https://shop.example.com/", "snsapi_base")).await;
    let again = phone.get(&back).await;
    assert_eq!(again.location(), home.location());
    // With another code of the same login, as WeChat sometimes has it.
    let state = back.split("state=").nth(1).unwrap();
    let other = phone.get(&format!("/api/wechat/getOpenId?code=another&state={state}")).await;
    assert_eq!(other.location(), home.location());
    assert_eq!(street.calls("/sns/oauth2/access_token").await, 1, "one exchange");
    // Whoever has the link and not the browser logs in as themselves.
    let mut other = Visitor { host: HOST, ..Visitor::wechat(street.gateway) };
    let answer = other.get(&back).await;
    assert!(next_is_wechat(&answer), "{answer:?}");
    street.fault(r#"{"at":"authorize","two_codes":true,"times":1}"#).await;
    let (_, home) = walk_twice(&mut phone).await;
    assert_eq!(names(home.location()), ["openid"]);
    street.close().await;
}

/// A login whose callback WeChat loads twice, with two codes.
async fn walk_twice(phone: &mut Visitor) -> (Answer, Answer) {
    let away = phone.get(&auth("https://shop.example.com/", "snsapi_base")).await;
    let (_, page) = phone.follow(&away, "/").await;
    let callbacks: Vec<String> = page.all("x-emulator-callback").map(str::to_owned).collect();
    assert_eq!(callbacks.len(), 2, "{page:?}");
    let (first, second) = (Answer::redirect(&callbacks[0]), Answer::redirect(&callbacks[1]));
    let (_, one) = phone.clone().follow(&first, "/").await;
    let (_, two) = phone.follow(&second, "/").await;
    assert_eq!(one.location(), two.location());
    (one, two)
}

#[tokio::test]
async fn spent_codes_start_again_twice_and_then_there_is_a_page() {
    let street = TestGateway::open(plan()).await;
    for (errcode, times) in [(40_029, 1), (40_163, 2), (42_003, 2)] {
        street
            .fault(&format!(r#"{{"at":"access_token","errcode":{errcode},"times":{times}}}"#))
            .await;
        let (_, home) =
            walk(&mut phone(&street), &auth("https://shop.example.com/", "snsapi_base")).await;
        assert_eq!(names(home.location()), ["openid"], "{errcode}");
    }
    street.fault(r#"{"at":"access_token","errcode":40029,"times":3}"#).await;
    let mut visitor = phone(&street);
    let (_, page) =
        walk(&mut visitor, &auth("https://shop.example.com/x?y=1", "snsapi_base")).await;
    assert_eq!(page.status, 403, "{page:?}");
    assert!(
        page.links_to("/api/wechat/auth?url=https%3A//shop.example.com/x%3Fy%3D1"),
        "{}",
        page.text
    );
    // The button works.
    let (_, home) = walk(
        &mut visitor,
        "/api/wechat/auth?url=https%3A//shop.example.com/x%3Fy%3D1&scope=snsapi_base",
    )
    .await;
    assert_eq!(names(home.location()), ["y", "openid"]);

    // Cookies that never come back: twice again, and then a page.
    let mut answer = phone(&street).get(&auth("https://shop.example.com/", "snsapi_base")).await;
    for round in 0..3 {
        let mut forgetful = phone(&street);
        let (_, back) = forgetful.follow(&answer, "/").await;
        forgetful.cookies.clear();
        answer = forgetful.follow(&back, "/").await.1;
        assert_eq!(next_is_wechat(&answer), round < 2, "{round}: {answer:?}");
    }
    assert_eq!(answer.status, 400);
    street.close().await;
}

#[tokio::test]
async fn an_access_token_that_has_expired_is_refreshed_before_a_new_login() {
    let street = TestGateway::open(plan()).await;
    let userinfo = auth("https://shop.example.com/", "snsapi_userinfo");
    street.fault(r#"{"at":"userinfo","errcode":42001,"times":1}"#).await;
    let (_, home) = walk(&mut phone(&street), &userinfo).await;
    assert_eq!(fields(home.location())[1].1, "李雷", "{home:?}");
    let asked = (
        street.calls("/sns/oauth2/access_token").await,
        street.calls("/sns/oauth2/refresh_token").await,
        street.calls("/sns/userinfo").await,
    );
    assert_eq!(asked, (1, 1, 2));
    // A refresh token that is worth nothing: then, and only then, another login.
    street.fault(r#"{"at":"userinfo","errcode":42001,"times":1}"#).await;
    street.fault(r#"{"at":"refresh_token","errcode":42002,"times":1}"#).await;
    let (_, home) = walk(&mut phone(&street), &userinfo).await;
    assert_eq!(fields(home.location())[1].1, "李雷", "{home:?}");
    assert_eq!(street.calls("/sns/oauth2/access_token").await, 3);
    assert_eq!(street.calls("/sns/oauth2/refresh_token").await, 2);
    street.close().await;
}

#[tokio::test]
async fn other_ends_of_a_login() {
    let street = TestGateway::open(plan()).await;
    let base = auth("https://shop.example.com/", "snsapi_base");
    for (fault, status) in [
        (r#"{"at":"access_token","errcode":40125,"times":1}"#, 502),
        (r#"{"at":"access_token","errcode":45011,"times":1}"#, 503),
        (r#"{"at":"access_token","errcode":40226,"times":1}"#, 403),
        (r#"{"at":"access_token","http_status":500,"times":1}"#, 503),
        (r#"{"at":"access_token","garbage":true,"times":1}"#, 502),
        (r#"{"at":"authorize","decline":true,"times":1}"#, 403),
    ] {
        street.fault(fault).await;
        let (_, page) = walk(&mut phone(&street), &base).await;
        assert_eq!(page.status, status, "{fault}: {page:?}");
        assert!(page.links_to("/api/wechat/auth?url=https"), "{fault}: {}", page.text);
        assert!(!page.text.contains("secret-of-wx1"));
    }
    // 快照页: the virtual openid goes nowhere.
    street.fault(r#"{"at":"authorize","snapshot":true,"times":1}"#).await;
    let (_, page) = walk(&mut phone(&street), &base).await;
    assert_eq!(page.status, 200);
    assert!(
        page.header("location").is_none() && page.text.contains("使用完整服务"),
        "{}",
        page.text
    );
    street.close().await;
}

#[tokio::test]
async fn g7_wrong_secrets_are_counted_and_then_nobody_is_listened_to() {
    let limits = "trusted_proxies = [\"127.0.0.1\"]\n[server.limits]\nlogins_per_minute = 20";
    let street = TestGateway::open(TestConfig { server: limits.to_owned(), ..plan() }).await;
    let ask = |client: &'static str, secret: &'static str| {
        let request = format!(
            "GET /api/wechat/getOpenId?code=x HTTP/1.1\r\nhost: {HOST}\r\nauthorization: Bearer {secret}\r\nx-forwarded-for: {client}\r\nconnection: close\r\n\r\n"
        );
        let to = street.gateway;
        async move { Answer::parse(&raw(to, &request).await) }
    };
    let mut seen = Vec::new();
    for _ in 0..5 {
        seen.push(ask("192.0.2.1", "guess").await.status);
    }
    assert_eq!(seen, [401, 401, 429, 429, 429]);
    let right = ask("192.0.2.1", SHOP).await;
    assert_eq!(right.status, 429, "a guess that hits tells nothing");
    assert!(right.header("retry-after").is_some());
    assert_eq!(ask("192.0.2.2", SHOP).await.status, 400, "somebody else is served");

    // Logins and callbacks of the broker count like any other.
    let mut statuses = Vec::new();
    for _ in 0..22 {
        let path = auth("https://shop.example.com/", "snsapi_base");
        let headers = [("x-forwarded-for", "192.0.2.9")];
        statuses.push(phone(&street).send("GET", &path, &headers, "").await.status);
    }
    assert_eq!(statuses.iter().filter(|status| **status == 302).count(), 20, "{statuses:?}");
    assert_eq!(statuses.last(), Some(&429));
    street.close().await;
}

#[tokio::test]
async fn at_the_root_the_broker_has_its_own_paths_and_a_site_the_rest() {
    let root = BROKER
        .replace("\"http://auth.example.com\"", "\"http://auth.example.com\"\nprefix = \"/\"");
    let site = "[[site]]\nhosts = [\"auth.example.com\"]\npublic_url = \"http://auth.example.com\"\naccount = \"main\"\nupstream = [\"http://127.0.0.1:9\"]\n";
    let street =
        TestGateway::open(TestConfig { more: format!("{site}{root}"), ..TestConfig::default() })
            .await;
    let mut phone = phone(&street);
    let path = auth("https://shop.example.com/", "snsapi_base");
    let away = phone.get(path.strip_prefix("/api/wechat").unwrap()).await;
    assert!(away.location().contains("redirect_uri=http%3A%2F%2Fauth.example.com%2FgetOpenId&"));
    let site = phone.get("/orders").await;
    assert!(
        site.location().contains("redirect_uri=http%3A%2F%2Fauth.example.com%2F_wx%2Fcallback")
    );
    // A state of the one is none of the other's, though they are at the same address.
    let state =
        |answer: &Answer| answer.location().split("state=").nth(1).unwrap()[..84].to_owned();
    let (brokers, sites) = (state(&away), state(&site));
    assert_eq!(phone.get(&format!("/_wx/callback?code=c&state={brokers}")).await.status, 400);
    assert_eq!(phone.get(&format!("/getOpenId?code=c&state={sites}")).await.status, 400);
    assert_eq!(street.calls("/sns/oauth2/access_token").await, 0);
    let (_, back) = phone.follow(&away, "/").await;
    let (_, home) = phone.follow(&back, "/").await;
    assert_eq!(names(home.location()), ["openid"]);
    street.close().await;
}

#[tokio::test]
async fn a_client_that_is_taken_away_gets_nobody_any_more() {
    let street = TestGateway::open(plan()).await;
    let mut visitor = phone(&street);
    let away = visitor.get(&auth("https://shop.example.com/", "snsapi_base")).await;
    let (_, back) = visitor.follow(&away, "/").await;
    let gone = BROKER.replace("https://shop.example.com/", "https://shop.example.com/moved/");
    street.reload(&TestConfig { more: gone, ..TestConfig::default() });
    let (_, page) = visitor.follow(&back, "/").await;
    assert_eq!(page.status, 400, "{page:?}");
    assert!(page.header("location").is_none());
    assert_eq!(street.calls("/sns/oauth2/access_token").await, 0);
    street.close().await;
}

#[tokio::test]
async fn it_is_counted_like_everything_else() {
    let street = TestGateway::open(plan()).await;
    let _ = walk(&mut phone(&street), &auth("https://shop.example.com/", "snsapi_base")).await;
    let _ = phone(&street).get(&auth("https://evil.example/", "snsapi_base")).await;
    let code = code(&street, "snsapi_base").await;
    let _ = server(&street, "GET", &format!("/api/wechat/getOpenId?code={code}"), SHOP, "").await;
    let _ = server(&street, "GET", "/api/wechat/getOpenId?code=x", "wrong", "").await;
    let admin = street.admin().await;
    let text =
        raw(admin, "GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await;
    for line in [
        "wxgate_requests_total{site=\"auth.example.com\",route=\"gateway\",status=\"302\"} 2",
        "wxgate_requests_total{site=\"auth.example.com\",route=\"gateway\",status=\"400\"} 1",
        "wxgate_requests_total{site=\"auth.example.com\",route=\"gateway\",status=\"200\"} 1",
        "wxgate_logins_total{event=\"started\",reason=\"\"} 1",
        "wxgate_logins_total{event=\"finished\",reason=\"\"} 1",
        "wxgate_logins_total{event=\"failed\",reason=\"unknown_return\"} 1",
        "wxgate_logins_total{event=\"exchanged\",reason=\"\"} 1",
        "wxgate_logins_total{event=\"failed\",reason=\"invalid_client\"} 1",
    ] {
        assert!(text.contains(line), "no {line} in\n{text}");
    }
    street.close().await;
}
