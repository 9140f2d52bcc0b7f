//! What servers and scripts of the broker's clients ask: a person for a code or for a ticket, and a
//! signature for the JS-SDK.

use std::{
    fmt::Write,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use serde_json::Value;
use tokio::time::Instant;
use url::Url;
use wxgate::clock::{self, Timestamp};

use crate::{
    assertion,
    broker::{BROKER, HOST, NEWS, SHOP, auth, fields, names, phone, plan, walk},
    harness::{TestConfig, TestGateway},
    redis::Redis,
    visitor::{Answer, Visitor, raw},
};

/// One request of a client's server: to the path, with this secret.
pub async fn server(
    street: &TestGateway,
    method: &str,
    path: &str,
    secret: &str,
    body: &str,
) -> Answer {
    let kind = if body.starts_with('{') {
        "application/json"
    } else {
        "application/x-www-form-urlencoded"
    };
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: {HOST}\r\nauthorization: Bearer {secret}\r\naccept: text/html, */*\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
    );
    Answer::parse(&raw(street.gateway, &request).await)
}

pub fn json(answer: &Answer) -> Value {
    serde_json::from_str(&answer.text).unwrap_or_else(|why| panic!("{why}: {answer:?}"))
}

/// A code as the client's own front end gets it from WeChat.
pub async fn code(street: &TestGateway, scope: &str) -> String {
    let mut phone = Visitor { host: "shop.example.com", ..Visitor::wechat(street.gateway) };
    let url = format!(
        "http://{}/connect/oauth2/authorize?appid=wx1&redirect_uri=http%3A%2F%2Fshop.example.com%2F&response_type=code&scope={scope}&state=x#wechat_redirect",
        street.wechat
    );
    let (at, mut answer) = phone.follow(&Answer::redirect(&url), "/").await;
    if answer.status == 200 {
        let allow = Answer::redirect(&crate::login::allow(&answer.text, &at));
        answer = phone.follow(&allow, "/").await.1;
    }
    let back = Url::parse(answer.location()).unwrap();
    back.query_pairs().find(|(name, _)| name == "code").unwrap().1.into_owned()
}

#[tokio::test]
async fn a_server_with_a_code_and_its_secret_gets_json() {
    let street = TestGateway::open(plan()).await;
    let base = code(&street, "snsapi_base").await;
    let answer =
        server(&street, "GET", &format!("/api/wechat/getOpenId?code={base}"), SHOP, "").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.header("content-type"), Some("application/json; charset=utf-8"));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    let said = json(&answer);
    assert!(said["openid"].as_str().unwrap().starts_with('o'));
    assert_eq!((&said["scope"], &said["expires_in"]), (&"snsapi_base".into(), &7_200.into()));
    assert!(said["access_token"].as_str().unwrap().len() > 20);
    assert!(said.get("nickname").is_none() && said.get("refresh_token").is_none(), "{said}");

    let whole = code(&street, "snsapi_userinfo").await;
    for path in ["getWxUserInfo", "getUserInfo"] {
        let path = format!("/api/wechat/{path}?code={whole}");
        let said = json(&server(&street, "GET", &path, SHOP, "").await);
        assert_eq!(said["nickname"], "李雷", "{said}");
        for name in [
            "openid",
            "unionid",
            "headimgurl",
            "sex",
            "city",
            "province",
            "country",
            "privilege",
            "access_token",
            "expires_in",
        ] {
            assert!(said.get(name).is_some(), "no {name} in {said}");
        }
    }
    assert_eq!(street.calls("/sns/oauth2/access_token").await, 2, "repeats get the first answer");

    // Another client with the same code asks for itself, and WeChat says that it is spent.
    let path = format!("/api/wechat/getWxUserInfo?code={whole}");
    let answer = server(&street, "GET", &path, NEWS, "").await;
    assert_eq!((answer.status, &json(&answer)["error"]), (400, &"code_failed".into()));
    assert_eq!(json(&answer)["errcode"], 40_163);

    street.close().await;
}

#[tokio::test]
async fn a_server_is_refused_in_words_that_it_can_read() {
    let street = TestGateway::open(plan()).await;
    let base = code(&street, "snsapi_base").await;
    for (path, secret, status, word) in [
        (format!("getWxUserInfo?code={base}"), SHOP, 403, "consent_needed"),
        ("getOpenId?code=nonsense".to_owned(), SHOP, 400, "code_failed"),
        ("getOpenId".to_owned(), SHOP, 400, "invalid_request"),
        ("getOpenId?code=a&code=b".to_owned(), SHOP, 400, "invalid_request"),
        (format!("getOpenId?code={base}"), "wrong", 401, "invalid_client"),
        (format!("getOpenId?code={base}"), "", 401, "invalid_client"),
        (format!("getOpenId?code={base}"), &SHOP[1..], 401, "invalid_client"),
        (format!("getOpenId?code={base}"), "secret-of-wx1", 401, "invalid_client"),
    ] {
        let answer = server(&street, "GET", &format!("/api/wechat/{path}"), secret, "").await;
        assert_eq!((answer.status, &json(&answer)["error"]), (status, &word.into()), "{path}");
        assert!(!answer.text.contains("access_token"), "{answer:?}");
        let asks = (status == 401).then_some("Bearer");
        assert_eq!(answer.header("www-authenticate"), asks);
    }
    street.close().await;
}

#[tokio::test]
async fn a_ticket_is_redeemed_once_by_the_server_it_is_for() {
    let street = TestGateway::open(plan()).await;
    let mut phone = phone(&street);
    let url = "https://news.example.com/app/#/read";
    let (back, home) = walk(&mut phone, &auth(url, "snsapi_userinfo")).await;
    let location = home.location();
    assert_eq!(names(location), ["ticket"], "nothing personal in the URL: {location}");
    let ticket = fields(location)[0].1.clone();
    assert!(ticket.len() == 64 && !location.contains("nickname"), "{location}");
    assert_eq!(phone.get(&back).await.location(), location, "a repeat is no second ticket");

    let redeem = |secret: &'static str, body: String| {
        let street = &street;
        async move { server(street, "POST", "/api/wechat/redeem", secret, &body).await }
    };
    let form = format!("ticket={ticket}");
    for (secret, body, status, word) in [
        ("wrong", form.clone(), 401, "invalid_client"),
        (SHOP, form.clone(), 400, "invalid_ticket"),
        (NEWS, String::new(), 400, "invalid_request"),
        (NEWS, format!("{form}&{form}"), 400, "invalid_request"),
        (NEWS, "ticket=nonsense".to_owned(), 400, "invalid_ticket"),
        (NEWS, r#"{"ticket":7}"#.to_owned(), 400, "invalid_request"),
        (NEWS, "a".repeat(5_000), 400, "invalid_request"),
    ] {
        let answer = redeem(secret, body).await;
        assert_eq!((answer.status, &json(&answer)["error"]), (status, &word.into()), "{answer:?}");
    }
    let bare = format!(
        "POST /api/wechat/redeem HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
    );
    assert_eq!(Answer::parse(&raw(street.gateway, &bare).await).status, 401);

    let (one, two) = tokio::join!(redeem(NEWS, form.clone()), redeem(NEWS, form.clone()));
    let mut statuses = [one.status, two.status];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 400], "once");
    let said = json(if one.status == 200 { &one } else { &two });
    assert_eq!((&said["nickname"], &said["appid"]), (&"李雷".into(), &"wx1".into()));
    assert!(said.get("access_token").is_none(), "{said}");
    assert_eq!(redeem(NEWS, form).await.status, 400);
    street.close().await;
}

#[tokio::test]
async fn independent_libraries_believe_the_jwt_of_a_ticket_for_its_client_alone() {
    let street = TestGateway::open(assertion::at_home(plan())).await;
    let mut phone = phone(&street);
    let path = auth("https://news.example.com/app/", "snsapi_userinfo");
    let (_, home) = walk(&mut phone, &path).await;
    let form = format!("ticket={}", fields(home.location())[0].1);
    let said = json(&server(&street, "POST", "/api/wechat/redeem", NEWS, &form).await);
    let assertion = said["assertion"].as_str().unwrap();
    // The keys are those of the sites' assertions; the libraries send the address they connect to
    // as `Host`.
    let url = assertion::jwks(&street);
    let keys = phone.get("/api/wechat/jwks.json").await;
    assert_eq!((keys.status, keys.header("content-type")), (200, Some("application/jwk-set+json")));
    let mut site = Visitor { host: "127.0.0.1", ..Visitor::desktop(street.gateway) };
    assert_eq!(site.get("/_wx/jwks.json").await.text, keys.text);
    for checker in assertion::checkers() {
        let proven = assertion::checked(&checker, (&url, "news"), assertion).await;
        let proven = proven.unwrap_or_else(|| panic!("{} does not believe it", checker.0));
        assert_eq!((&proven["sub"], &proven["nickname"]), (&said["openid"], &"李雷".into()));
        assert_eq!(proven["exp"].as_u64().unwrap() - proven["iat"].as_u64().unwrap(), 300);
        for other in ["shop", "http://127.0.0.1", "http://h5.example.com"] {
            assert!(
                assertion::checked(&checker, (&url, other), assertion).await.is_none(),
                "{other}"
            );
        }
    }
    street.close().await;
}

#[tokio::test]
async fn pages_are_signed_for_the_js_sdk() {
    let street = TestGateway::open(plan()).await;
    let mut phone = phone(&street).script();
    let page = "https://shop.example.com/cart?item=7&q=中";
    let origin = [("origin", "https://shop.example.com")];
    let answer = phone.send("GET", &sign(&format!("{page}#/pay")), &origin, "").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.header("access-control-allow-origin"), Some("https://shop.example.com"));
    let said = json(&answer);
    assert_eq!((&said["appId"], &said["url"]), (&"wx1".into(), &page.into()));
    // The ticket is WeChat's own: whoever has it comes to the same signature.
    let ticket = ticket(&street).await;
    let text = format!(
        "jsapi_ticket={ticket}&noncestr={}&timestamp={}&url={page}",
        said["nonceStr"].as_str().unwrap(),
        said["timestamp"]
    );
    let digest =
        aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes());
    let mut hex = String::new();
    for byte in digest.as_ref() {
        write!(hex, "{byte:02x}").unwrap();
    }
    assert_eq!(said["signature"], hex.as_str());

    for _ in 0..20 {
        assert_eq!(phone.get(&sign(page)).await.status, 200);
    }
    assert_eq!(street.calls("/cgi-bin/stable_token").await, 2, "ours, and that of this test");
    assert_eq!(street.calls("/cgi-bin/ticket/getticket").await, 2);
    street.close().await;
}

fn sign(url: &str) -> String {
    let url: String = url::form_urlencoded::byte_serialize(url.as_bytes()).collect();
    format!("/api/wechat/jssdk?url={url}")
}

#[tokio::test]
async fn d3_pages_of_other_origins_are_not_signed_and_their_scripts_read_nothing() {
    let street = TestGateway::open(plan()).await;
    let mut phone = phone(&street).script();
    let page = "https://shop.example.com/";
    for (url, status) in [
        ("https://evil.example/", 400),
        ("https://news.example.com/app/", 400),
        ("https://shop.example.com@evil.example/", 400),
        ("http://shop.example.com/", 400),
        ("cart", 400),
    ] {
        let headers = [("origin", "https://evil.example")];
        let answer = phone.send("GET", &sign(url), &headers, "").await;
        assert_eq!(answer.status, status, "{url}");
        assert!(answer.header("access-control-allow-origin").is_none());
        assert!(json(&answer).get("signature").is_none());
    }
    assert_eq!(phone.get("/api/wechat/jssdk").await.status, 400);
    for (origin, allowed) in [("https://shop.example.com", true), ("https://evil.example", false)] {
        let asks = [
            ("origin", origin),
            ("access-control-request-method", "GET"),
            ("access-control-request-headers", "x-requested-with"),
        ];
        let answer = phone.send("OPTIONS", &sign(page), &asks, "").await;
        assert_eq!(answer.status, 204);
        for name in ["origin", "methods", "headers"] {
            let said = answer.header(&format!("access-control-allow-{name}"));
            assert_eq!(said.is_some(), allowed, "{origin}: {name}");
        }
    }
    street.close().await;
}

#[tokio::test]
async fn a_ticket_of_the_js_sdk_is_renewed_before_it_ends_and_nobody_waits() {
    static LATER: AtomicU64 = AtomicU64::new(0);
    fn now() -> Timestamp {
        Timestamp(clock::system().0 + LATER.load(Ordering::Relaxed))
    }
    let street = TestGateway::open(TestConfig { clock: now, ..plan() }).await;
    let mut phone = phone(&street).script();
    let asked = || street.calls("/cgi-bin/ticket/getticket");
    for (later, calls) in [(0, 1), (6_500, 1)] {
        LATER.store(later, Ordering::Relaxed);
        assert_eq!(phone.get(&sign("https://shop.example.com/")).await.status, 200);
        assert_eq!(asked().await, calls, "after {later} seconds");
    }
    // WeChat takes its time; whoever comes meanwhile gets the one there is.
    LATER.store(6_700, Ordering::Relaxed);
    street.fault(r#"{"at":"stable_token","hang":true,"times":1}"#).await;
    let begun = Instant::now();
    for _ in 0..5 {
        assert_eq!(phone.get(&sign("https://shop.example.com/")).await.status, 200);
    }
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    while street.calls("/cgi-bin/stable_token").await < 2 {
        assert!(begun.elapsed() < Duration::from_secs(10), "nobody renews it");
        assert_eq!(phone.get(&sign("https://shop.example.com/")).await.status, 200);
    }
    assert_eq!(street.calls("/cgi-bin/stable_token").await, 2, "one renewal under way");
    street.close().await;
}

#[tokio::test]
async fn wechat_is_left_alone_for_a_while_when_it_gives_no_ticket() {
    let street = TestGateway::open(plan()).await;
    street.fault(r#"{"at":"stable_token","errcode":40164,"times":1}"#).await;
    let mut phone = phone(&street).script();
    for _ in 0..10 {
        let answer = phone.get("/api/wechat/jssdk?url=https%3A%2F%2Fshop.example.com%2F").await;
        assert_eq!((answer.status, &json(&answer)["error"]), (502, &"misconfigured".into()));
    }
    assert_eq!(street.calls("/cgi-bin/stable_token").await, 1);
    assert_eq!(street.calls("/cgi-bin/ticket/getticket").await, 0);
    street.close().await;
}

#[tokio::test]
async fn signatures_are_off_unless_configured() {
    let off = TestConfig { more: BROKER.replace("jssdk = true", ""), ..TestConfig::default() };
    let street = TestGateway::open(off).await;
    let answer = Visitor { host: HOST, ..Visitor::wechat(street.gateway) }
        .get("/api/wechat/jssdk?url=https%3A%2F%2Fshop.example.com%2F")
        .await;
    assert_eq!(answer.status, 404);
    street.close().await;
}

/// The account's present ticket, as WeChat tells anybody who has the app secret.
async fn ticket(street: &TestGateway) -> String {
    let body = r#"{"grant_type":"client_credential","appid":"wx1","secret":"secret-of-wx1"}"#;
    let host = street.wechat;
    let request = format!(
        "POST /cgi-bin/stable_token HTTP/1.1\r\nhost: {host}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    let token = json(&Answer::parse(&raw(host, &request).await))["access_token"].clone();
    let request = format!(
        "GET /cgi-bin/ticket/getticket?access_token={}&type=jsapi HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n",
        token.as_str().unwrap()
    );
    json(&Answer::parse(&raw(host, &request).await))["ticket"].as_str().unwrap().to_owned()
}

/// Replicas at one Redis, with one emulated WeChat.
async fn replicas(redis: &Redis, count: usize) -> Vec<TestGateway> {
    let mut streets: Vec<TestGateway> = Vec::new();
    for _ in 0..count {
        let more = format!("{BROKER}\n[store]\nkind = \"redis\"\nurl = \"{}\"", redis.url());
        let wechat = streets.first().map(|first| first.wechat);
        streets.push(TestGateway::open(TestConfig { more, wechat, ..TestConfig::default() }).await);
    }
    streets
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_replica_serves_any_step_and_once_is_once_in_the_fleet() {
    let redis = Redis::start().await;
    let streets = replicas(&redis, 2).await;
    for round in 1..=10 {
        let mut here = phone(&streets[0]);
        let away = here.get(&auth("https://news.example.com/app/", "snsapi_base")).await;
        let (_, back) = here.follow(&away, "/").await;
        let mut there = Visitor { gateway: streets[1].gateway, ..here.clone() };
        let ((_, one), (_, two)) = tokio::join!(here.follow(&back, "/"), there.follow(&back, "/"));
        assert_eq!(one.location(), two.location(), "two callbacks, one ticket");
        assert_eq!(streets[0].calls("/sns/oauth2/access_token").await, round, "one exchange");
        let form = format!("ticket={}", fields(one.location())[0].1);
        let redeem = |street| server(street, "POST", "/api/wechat/redeem", NEWS, &form);
        let (one, two) = tokio::join!(redeem(&streets[0]), redeem(&streets[1]));
        let mut statuses = [one.status, two.status];
        statuses.sort_unstable();
        assert_eq!(statuses, [200, 400], "redeemed once in the fleet");
    }
    // Nothing in the store can be read, and all of it expires.
    let _ =
        phone(&streets[0]).get(&auth("https://shop.example.com/secret-page", "snsapi_base")).await;
    let keys = redis.ask("KEYS wxgate:*").await;
    let mut kinds = std::collections::BTreeSet::new();
    for key in keys.lines().filter(|line| line.starts_with("wxgate:")) {
        kinds.insert(key.split(['/', ':']).nth(1).unwrap().to_owned());
        let left = redis.ask(&format!("PTTL {key}")).await;
        let left: i64 = left.trim().trim_start_matches(':').parse().unwrap();
        assert!((1..=600_000).contains(&left), "{key}: {left}");
        let value = redis.ask(&format!("GET {key}")).await;
        assert!(!value.contains("example.com") && !value.contains("openid"), "{key}: {value}");
    }
    assert!(kinds.contains("errand") && kinds.contains("errand-ended"), "{kinds:?}");
    for street in streets {
        street.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_replica_of_the_fleet_fetches_the_ticket_of_the_js_sdk() {
    let redis = Redis::start().await;
    let streets = replicas(&redis, 3).await;
    streets[0].fault(r#"{"at":"stable_token","delay_ms":300,"times":1}"#).await;
    let path = "/api/wechat/jssdk?url=https%3A%2F%2Fshop.example.com%2F";
    let asked = streets.iter().flat_map(|street| [street; 8]);
    let asked = asked.map(|street| async move { phone(street).script().get(path).await.status });
    let statuses = futures_util::future::join_all(asked).await;
    assert_eq!(statuses, [200; 24]);
    assert_eq!(streets[0].calls("/cgi-bin/stable_token").await, 1, "one refresher in the fleet");
    assert_eq!(streets[0].calls("/cgi-bin/ticket/getticket").await, 1);
    let value = redis.ask("GET wxgate:jssdk/wx1").await;
    assert!(!value.contains(&ticket(&streets[0]).await), "sealed");
    for street in streets {
        street.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g6_without_the_store_a_login_waits_and_nobody_gets_in() {
    let redis = Redis::start().await;
    let street = replicas(&redis, 1).await.remove(0);
    let mut visitor = phone(&street);
    let path = auth("https://news.example.com/app/", "snsapi_base");
    let away = visitor.get(&path).await;
    let (_, back) = visitor.follow(&away, "/").await;
    let (_, other) = walk(&mut phone(&street), &path).await;
    let form = format!("ticket={}", fields(other.location())[0].1);
    drop(redis);
    for _ in 0..2 {
        let (_, page) = visitor.follow(&back, "/").await;
        assert_eq!((page.status, page.header("retry-after")), (503, Some("5")), "{page:?}");
        assert!(page.header("location").is_none());
        assert_eq!(phone(&street).get(&path).await.status, 503);
        let answer = server(&street, "POST", "/api/wechat/redeem", NEWS, &form).await;
        assert_eq!((answer.status, &json(&answer)["error"]), (503, &"store_away".into()));
    }
    assert_eq!(street.calls("/sns/oauth2/access_token").await, 1, "the code is not spent in vain");
    // A server with a code needs no store.
    let code = code(&street, "snsapi_base").await;
    let path = format!("/api/wechat/getOpenId?code={code}");
    assert_eq!(server(&street, "GET", &path, SHOP, "").await.status, 200);
    let signed = "/api/wechat/jssdk?url=https%3A%2F%2Fshop.example.com%2F";
    assert_eq!(phone(&street).script().get(signed).await.status, 200);
    street.close().await;
}

#[tokio::test]
async fn a_login_outlives_a_restart_with_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let store = format!("{BROKER}\n[store]\nkind = \"file\"\npath = \"{}\"", path.display());
    let open = |wechat| {
        TestGateway::open(TestConfig { more: store.clone(), wechat, ..TestConfig::default() })
    };
    let first = open(None).await;
    let mut visitor = phone(&first);
    let away = visitor.get(&auth("https://shop.example.com/x", "snsapi_base")).await;
    let (_, back) = visitor.follow(&away, "/").await;
    let (_, home) =
        walk(&mut phone(&first), &auth("https://news.example.com/app/", "snsapi_base")).await;
    let wechat = first.wechat;
    first.close().await;
    let second = open(Some(wechat)).await;
    visitor.gateway = second.gateway;
    let (_, page) = visitor.follow(&back, "/").await;
    assert_eq!(names(page.location()), ["openid"], "{page:?}");
    let form = format!("ticket={}", fields(home.location())[0].1);
    assert_eq!(server(&second, "POST", "/api/wechat/redeem", NEWS, &form).await.status, 200);
    assert_eq!(server(&second, "POST", "/api/wechat/redeem", NEWS, &form).await.status, 400);
    second.close().await;
}
