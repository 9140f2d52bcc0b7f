//! The login, walked as a browser walks it.

use crate::{
    harness::{ROUTES, TestConfig, TestGateway},
    visitor::{Answer, Visitor, raw},
};

#[tokio::test]
async fn a_visitor_in_wechat_is_logged_in_without_noticing() {
    let street = TestGateway::usual().await;
    let mut visitor = Visitor::wechat(street.gateway);

    let away = visitor.get("/orders?page=2&q=%E4%B8%AD").await;
    assert_eq!(away.status, 302);
    assert_eq!(away.header("cache-control"), Some("no-store"));
    let order = [
        "appid=wx1",
        "redirect_uri=http%3A%2F%2Fh5.example.com%2F_wx%2Fcallback",
        "response_type=code",
        "scope=snsapi_base",
        "state=",
    ];
    let query = away.location().split_once('?').unwrap().1;
    for (part, expected) in query.split('&').zip(order) {
        assert!(part.starts_with(expected), "{part} is not {expected}");
    }
    assert!(query.ends_with("#wechat_redirect"));
    assert_eq!(street.site.hits(), 0);

    let (_, back) = visitor.follow(&away, "/orders").await;
    let (url, welcome) = visitor.follow(&back, "/").await;
    assert_eq!((url.path(), welcome.status), ("/_wx/callback", 302));
    assert_eq!(welcome.location(), "/orders?page=2&q=%E4%B8%AD");
    assert!(visitor.has_session());

    let (_, page) = visitor.follow(&welcome, "/_wx/callback").await;
    assert_eq!(page.status, 200);
    assert!(page.text.starts_with("GET /orders?page=2&q=%E4%B8%AD HTTP/1.1\r\n"), "{}", page.text);
    assert_eq!(page.received("x-wechat-openid").len(), 1);
    assert!(page.received("x-wechat-openid")[0].starts_with('o'));
    assert_eq!(page.received("x-wechat-appid"), ["wx1"]);
    assert_eq!(page.received("x-wechat-account"), ["main"]);
    assert_eq!(page.received("x-wechat-scope"), ["snsapi_base"]);
    assert_eq!(page.received("x-wechat-nickname").len(), 0, "absent means absent");
    assert_eq!(page.received("cookie").len(), 0, "our cookies do not reach the site");
    assert_eq!(street.calls("/sns/oauth2/access_token").await, 1);
    street.close().await;
}

#[tokio::test]
async fn userinfo_steps_up_from_base_and_brings_the_profile() {
    let street = TestGateway::usual().await;
    let mut visitor = Visitor::wechat(street.gateway);
    let (_, page) = visitor.open("/").await;
    let base = page.received("x-wechat-session")[0].to_owned();
    let openid = page.received("x-wechat-openid")[0].to_owned();

    let page = consent(&mut visitor, "/member/").await;
    assert_eq!(page.received("x-wechat-scope"), ["snsapi_userinfo"], "{}", page.text);
    assert_eq!(page.received("x-wechat-openid"), [openid]);
    assert_eq!(page.received("x-wechat-nickname"), ["%E6%9D%8E%E9%9B%B7"]);
    assert_eq!(page.received("x-wechat-avatar").len(), 1);
    assert_eq!(page.received("x-wechat-unionid").len(), 1);
    assert_ne!(page.received("x-wechat-session"), [base], "E4: a fresh id at each login");
    street.close().await;
}

/// Opens a page that asks for userinfo, and says yes to WeChat.
pub async fn consent(visitor: &mut Visitor, path: &str) -> Answer {
    let away = visitor.get(path).await;
    assert!(away.location().contains("scope=snsapi_userinfo"), "{}", away.location());
    let (url, mut asked) = visitor.follow(&away, path).await;
    assert_eq!(asked.status, 200, "WeChat asks first");
    asked.headers.push(("location".to_owned(), allow(&asked.text, &url)));
    let (_, back) = visitor.follow(&asked, "/").await;
    let (_, welcome) = visitor.follow(&back, "/").await;
    if welcome.status != 302 {
        return welcome;
    }
    visitor.follow(&welcome, "/").await.1
}

/// The address behind the consent page's button.
pub fn allow(html: &str, at: &url::Url) -> String {
    let href = html.split("href=\"").skip(1).filter_map(|rest| rest.split('"').next());
    let form = html.split("action=\"").nth(1).and_then(|rest| rest.split('"').next());
    let link = href
        .map(|it| it.replace("&amp;", "&"))
        .find(|it| it.contains("allow") || it.contains("consent"));
    let target = link
        .or(form.map(|it| it.replace("&amp;", "&")))
        .unwrap_or_else(|| panic!("no button: {html}"));
    at.join(&target).unwrap().to_string()
}

#[tokio::test]
async fn a_button_comes_before_consent_where_the_route_says_so() {
    let street = TestGateway::usual().await;
    let mut visitor = Visitor::wechat(street.gateway);
    let page = visitor.get("/club/x?y=1").await;
    assert_eq!(page.status, 200);
    assert!(page.links_to("/_wx/login?rd=/club/x%3Fy%3D1&scope=snsapi_userinfo"), "{}", page.text);
    assert_eq!(page.header("cache-control"), Some("no-store"));
    let away = visitor.get("/_wx/login?rd=/club/x%3Fy%3D1&scope=snsapi_userinfo").await;
    assert!(away.location().contains("scope=snsapi_userinfo"));
    street.close().await;
}

#[tokio::test]
async fn d1_the_login_never_leaves_the_site() {
    let street = TestGateway::usual().await;
    for rd in [
        "https://evil.example",
        "//evil.example",
        "/%2Fevil.example",
        "/%5Cevil.example",
        "%2F%2Fevil.example",
        "/_wx/callback",
    ] {
        let mut visitor = Visitor::wechat(street.gateway);
        let away = visitor.get(&format!("/_wx/login?rd={rd}")).await;
        let (_, back) = visitor.follow(&away, "/").await;
        let (_, welcome) = visitor.follow(&back, "/").await;
        assert_eq!((welcome.status, welcome.location()), (302, "/"), "{rd}");
    }
    street.close().await;
}

#[tokio::test]
async fn e1_e2_a_callback_from_another_browser_costs_nothing_and_logs_nobody_in() {
    let street = TestGateway::usual().await;
    let mut attacker = Visitor::wechat(street.gateway);
    let away = attacker.get("/orders").await;
    let (_, back) = attacker.follow(&away, "/").await;
    let callback = back.location().split_once("example.com").unwrap().1.to_owned();

    // The victim is sent to WeChat to say who they are themselves; the code is left alone. Their
    // own login under way does not help the attacker's callback either.
    let mut victim = Visitor::wechat(street.gateway);
    for _ in 0..2 {
        let own = victim.get(&callback).await;
        assert!(own.location().contains("/connect/oauth2/authorize"), "{own:?}");
        assert!(!victim.has_session());
    }
    assert_eq!(street.calls("/sns/oauth2/access_token").await, 0);
    assert_eq!(street.site.hits(), 0);
    street.close().await;
}

#[tokio::test]
async fn e3_every_odd_callback_ends_in_a_redirect_or_a_page() {
    let street = TestGateway::usual().await;
    let mut start = Visitor::wechat(street.gateway);
    let away = start.get("/orders").await;
    let state =
        away.location().split("state=").nth(1).unwrap().split('#').next().unwrap().to_owned();
    let huge = "a".repeat(2000);
    let codes =
        ["", "code=", "code=0good", "code=0a&code=0b", "code=%00%0a", &format!("code={huge}")]
            .map(str::to_owned);
    let states = [
        String::new(),
        "state=".to_owned(),
        format!("state={state}"),
        format!("state={state}&state={state}"),
        "state=%ff%00".to_owned(),
        format!("state={huge}"),
    ];
    let mut rows = 0;
    for code in &codes {
        for state in &states {
            for visitor in [&start, &Visitor::wechat(street.gateway)] {
                let mut visitor = visitor.clone();
                let answer = visitor.get(&format!("/_wx/callback?{code}&{state}")).await;
                assert!((300..500).contains(&answer.status), "{code} {state}: {}", answer.status);
                assert!(!visitor.has_session());
                rows += 1;
            }
        }
    }
    assert_eq!(rows, 72);
    street.close().await;
}

#[tokio::test]
async fn a_repeated_callback_gets_the_same_session_from_one_exchange() {
    let street = TestGateway::usual().await;
    let mut visitor = Visitor::wechat(street.gateway);
    let away = visitor.get("/orders").await;
    let (_, back) = visitor.follow(&away, "/").await;
    let (mut first, mut second) = (visitor.clone(), visitor.clone());
    let ((_, one), (_, two)) = tokio::join!(first.follow(&back, "/"), second.follow(&back, "/"));
    assert_eq!((one.location(), two.location()), ("/orders", "/orders"));
    assert_eq!(street.calls("/sns/oauth2/access_token").await, 1);
    // And again, with the session: clean URL, no call.
    let (_, three) = first.follow(&back, "/").await;
    assert_eq!((three.status, street.calls("/sns/oauth2/access_token").await), (302, 1));
    street.close().await;
}

#[tokio::test]
async fn a_spent_code_starts_the_login_again_but_not_for_ever() {
    let street = TestGateway::usual().await;
    street.fault(r#"{"at":"access_token","errcode":40163,"times":1}"#).await;
    let mut visitor = Visitor::wechat(street.gateway);
    let (at, page) = visitor.open("/orders").await;
    assert_eq!((at.as_str(), page.status), ("/orders", 200));

    street.fault(r#"{"at":"access_token","errcode":40029}"#).await;
    let mut visitor = Visitor::wechat(street.gateway);
    let before = street.calls("/sns/oauth2/access_token").await;
    let (_, page) = visitor.open("/orders").await;
    assert_eq!(page.status, 403);
    assert!(page.links_to("/_wx/login?rd=/orders"), "a button: {}", page.text);
    assert_eq!(street.calls("/sns/oauth2/access_token").await - before, 3, "twice again, no more");
    street.close().await;
}

#[tokio::test]
async fn several_logins_in_several_tabs_all_end_well() {
    let street = TestGateway::usual().await;
    let mut visitor = Visitor::wechat(street.gateway);
    let mut aways = Vec::new();
    for tab in 0..7 {
        aways.push(visitor.get(&format!("/tab/{tab}")).await);
        let flows = visitor.cookies["h5.example.com"].len();
        assert!(flows <= 5, "{flows} flow cookies");
    }
    let (_, back) = visitor.follow(&aways[6], "/").await;
    let mut other = visitor.clone();
    let (_, welcome) = visitor.follow(&back, "/").await;
    assert_eq!(welcome.location(), "/tab/6");
    let (_, back) = other.follow(&aways[5], "/").await;
    let (_, welcome) = other.follow(&back, "/").await;
    assert_eq!(welcome.location(), "/tab/5");
    street.close().await;
}

#[tokio::test]
async fn logins_end_on_the_host_the_site_is_known_by() {
    let street = TestGateway::usual().await;
    let mut visitor = Visitor { host: "www.example.com", ..Visitor::wechat(street.gateway) };
    let moved = visitor.get("/orders?x=1").await;
    assert_eq!((moved.status, moved.location()), (302, "http://h5.example.com/orders?x=1"));
    street.close().await;
}

#[tokio::test]
async fn snapshot_visitors_never_get_a_normal_session() {
    let cases = [("page", 0, false), ("anonymous", 1, false), ("allow", 1, true)];
    for (policy, hits, introduced) in cases {
        let street =
            TestGateway::open(TestConfig::site(&format!("snapshot = \"{policy}\"\n{ROUTES}")))
                .await;
        street.fault(r#"{"at":"authorize","snapshot":true}"#).await;
        let mut visitor = Visitor::wechat(street.gateway);
        let (_, page) = visitor.open("/orders").await;
        assert_eq!((page.status, street.site.hits()), (200, hits), "{policy}: {}", page.text);
        assert_eq!(!page.received("x-wechat-openid").is_empty(), introduced, "{policy}");
        assert_eq!(page.received("x-wechat-snapshot").len(), usize::from(introduced), "{policy}");
        street.close().await;
    }
}

#[tokio::test]
async fn who_am_i_and_logout() {
    let street = TestGateway::usual().await;
    let mut visitor = Visitor::wechat(street.gateway);
    let stranger = visitor.script().get("/_wx/session").await;
    assert_eq!(stranger.status, 401);
    assert!(stranger.text.contains("login_required"));
    let (_, page) = visitor.open("/").await;
    let session = visitor.script().get("/_wx/session").await;
    assert_eq!(session.status, 200);
    assert!(session.text.contains(page.received("x-wechat-openid")[0]));
    assert!(!session.text.contains("token"), "{}", session.text);

    let captured = format!("wxgate={}", visitor.cookie("wxgate"));
    let page = visitor.get("/_wx/logout").await;
    let token = page
        .text
        .split("name=\"token\"")
        .nth(1)
        .unwrap()
        .split("value=\"")
        .nth(1)
        .unwrap()
        .split('"')
        .next()
        .unwrap()
        .to_owned();

    // E7: nobody else can log the visitor out …
    for headers in [&[][..], &[("origin", "http://evil.example")], &[("origin", "null")]] {
        let refused = visitor
            .send("POST", "/_wx/logout", headers, "token=00000000000000000000000000000000")
            .await;
        assert_eq!((refused.status, visitor.has_session()), (403, true), "{headers:?}");
    }
    // … the page's own form can, and the cookie is worth nothing afterwards, whoever kept it.
    let form = ("content-type", "application/x-www-form-urlencoded");
    let bye = visitor
        .send("POST", "/_wx/logout", &[form, ("origin", "null")], &format!("token={token}"))
        .await;
    assert_eq!((bye.status, visitor.has_session()), (200, false), "{bye:?}");
    let mut thief = Visitor::wechat(street.gateway);
    let hits = street.site.hits();
    let refused = thief.send("GET", "/orders", &[("cookie", &captured)], "").await;
    assert_eq!((refused.status, street.site.hits()), (302, hits));

    // And a script of the site can.
    let (_, _) = visitor.open("/").await;
    let bye = visitor.send("POST", "/_wx/logout", &[("origin", "http://h5.example.com")], "").await;
    assert_eq!((bye.status, visitor.has_session()), (200, false));
    street.close().await;
}

#[tokio::test]
async fn the_domain_proof_is_there_for_anybody_on_any_host() {
    let street = TestGateway::usual().await;
    for host in ["h5.example.com", "other.example.org"] {
        let request = format!(
            "GET /MP_verify_AbCd1234.txt HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n"
        );
        let answer = raw(street.gateway, &request).await;
        assert!(
            answer.starts_with("HTTP/1.1 200") && answer.ends_with("\r\n\r\nAbCd1234"),
            "{host}: {answer}"
        );
    }
    let mut visitor = Visitor::desktop(street.gateway);
    assert_eq!(visitor.get("/MP_verify_Other.txt").await.status, 403, "not ours: the site's");
    street.close().await;
}
