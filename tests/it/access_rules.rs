//! Who may pass, seen from outside: each kind of visitor at each kind of door.

use crate::{
    harness::{ROUTES, TestConfig, TestGateway},
    visitor::Visitor,
};

#[tokio::test]
async fn strangers_meet_what_they_can_use() {
    let street = TestGateway::usual().await;
    let (phone, desk) = (Visitor::wechat(street.gateway), Visitor::desktop(street.gateway));
    let cases = [
        ("a page in WeChat", phone.clone(), "GET", "/orders", 302),
        ("a script in WeChat", phone.script(), "GET", "/api/cart", 401),
        ("a form in WeChat", phone.clone(), "POST", "/orders", 401),
        ("a page elsewhere", desk.clone(), "GET", "/orders", 403),
        ("a script elsewhere", desk.script(), "GET", "/orders", 401),
    ];
    for (who, mut visitor, method, path, status) in cases {
        let answer = visitor.send(method, path, &[], "").await;
        assert_eq!(answer.status, status, "{who}: {}", answer.text);
        assert_eq!(answer.header("cache-control"), Some("no-store"), "{who}");
        assert_eq!(street.site.hits(), 0, "G3: {who} reached the site");
    }
    let answer = phone.script().get("/api/cart?x=1&y=2").await;
    assert_eq!(
        answer.text,
        r#"{"error":"login_required","login_url":"/_wx/login?rd=/api/cart%3Fx%3D1%26y%3D2"}"#
    );
    street.close().await;
}

#[tokio::test]
async fn other_browsers_see_a_code_to_scan() {
    let street = TestGateway::usual().await;
    let mut desk = Visitor::desktop(street.gateway);
    let page = desk.get("/orders").await;
    assert!(page.text.contains("<svg"), "{}", page.text);
    assert!(page.text.contains("lang=\"zh-CN\"") && page.text.contains("h5.example.com"));
    let policy = page.header("content-security-policy").unwrap();
    assert!(policy.starts_with("default-src 'none'"), "{policy}");
    assert_eq!(page.header("referrer-policy"), Some("no-referrer"));
    assert_eq!(page.header("x-content-type-options"), Some("nosniff"));
    let english = desk.send("GET", "/orders", &[("accept-language", "en-GB,en;q=0.9")], "").await;
    assert!(english.text.contains("lang=\"en\""), "{}", english.text);
    street.close().await;
}

#[tokio::test]
async fn sites_choose_what_other_browsers_meet() {
    let cases = [("page", 403, 0), ("deny", 403, 0), ("anonymous", 200, 1)];
    for (choice, status, hits) in cases {
        let street = TestGateway::open(TestConfig::site(&format!(
            "outside_wechat = \"{choice}\"\n{ROUTES}"
        )))
        .await;
        let mut desk = Visitor::desktop(street.gateway);
        let answer = desk.get("/orders").await;
        assert_eq!((answer.status, street.site.hits()), (status, hits), "{choice}");
        assert!(answer.received("x-wechat-openid").is_empty());
        street.close().await;
    }
}

#[tokio::test]
async fn public_and_optional_routes_need_no_login() {
    let street = TestGateway::usual().await;
    let mut desk = Visitor::desktop(street.gateway);
    assert_eq!(desk.get("/static/a.js").await.status, 200);
    assert_eq!(desk.get("/news/today").await.status, 200);
    let mut phone = Visitor::wechat(street.gateway);
    let _ = phone.open("/").await;
    assert_eq!(phone.get("/news/today").await.received("x-wechat-openid").len(), 1);
    assert_eq!(phone.get("/static/a.js").await.received("x-wechat-openid").len(), 0);
    street.close().await;
}

#[tokio::test]
async fn cookies_that_are_not_good_are_no_session() {
    let street = TestGateway::usual().await;
    let mut phone = Visitor::wechat(street.gateway);
    let _ = phone.open("/").await;
    let good = phone.cookie("wxgate");
    let hits = street.site.hits();
    let mut forged = good.clone();
    forged.pop();
    forged.push(if good.ends_with('A') { 'B' } else { 'A' });
    let none = format!(
        "eyJhbGciOiJub25lIiwidHlwIjoiSldUIiwia2lkIjoiazEifQ.{}.",
        good.split('.').nth(1).unwrap()
    );
    let long = "a".repeat(5000);
    let foreign = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiJvMSJ9.AAAA";
    for cookie in ["", "x", "\u{7f}", "a.b.c", &forged, &none, &long, foreign] {
        let mut visitor = Visitor::wechat(street.gateway);
        let answer = visitor
            .send("GET", "/orders", &[("cookie", &format!("wxgate={cookie}; other=1"))], "")
            .await;
        assert!(answer.status == 302 || answer.status == 400, "{cookie:?}: {}", answer.status);
        assert_eq!(street.site.hits(), hits, "{cookie:?} got through");
    }
    // C4: two good sessions are one too many; a bad one beside a good one is not.
    let mut other = Visitor::wechat(street.gateway);
    let _ = other.open("/").await;
    let hits = street.site.hits();
    let both = format!("wxgate={}", other.cookie("wxgate"));
    let answer = phone.send("GET", "/orders", &[("cookie", &both)], "").await;
    assert_eq!((answer.status, street.site.hits()), (302, hits));
    assert!(answer.all("set-cookie").any(|it| it.starts_with("wxgate=;")), "{answer:?}");
    let mut other = other.clone();
    let answer = other.send("GET", "/orders", &[("cookie", "wxgate=x")], "").await;
    assert_eq!(answer.status, 200);
    street.close().await;
}

#[tokio::test]
async fn unknown_hosts_and_doors_are_refused() {
    let street = TestGateway::usual().await;
    let mut lost = Visitor { host: "unknown.example.com", ..Visitor::wechat(street.gateway) };
    assert_eq!(lost.get("/").await.status, 421);
    let mut phone = Visitor::wechat(street.gateway);
    assert_eq!(phone.get("/_wx/nothing").await.status, 404);
    assert_eq!(phone.get("/_wx").await.status, 404);
    assert_eq!(phone.send("DELETE", "/_wx/session", &[], "").await.status, 405);
    assert_eq!(phone.send("POST", "/_wx/callback", &[], "").await.status, 405);
    for path in ["/healthz", "/metrics", "/readyz"] {
        assert_eq!(phone.get(path).await.status, 302, "G1: {path} is the site's");
    }
    assert_eq!(street.site.hits(), 0);
    street.close().await;
}
