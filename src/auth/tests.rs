//! The access policy as a table, and the life of a session.

use std::{sync::Arc, time::Duration};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use http::{HeaderMap, Method};
use serde_json::{Value, json};

use super::{token::tests::keys, *};
use crate::{
    clock::Timestamp,
    httputil::{
        Host, Origin, WindowsNames, cookie::CookieNames, headers::ReservedHeaders,
        headers::UnderscorePolicy,
    },
    serialized::assert_serialized,
    site::{
        Account, AccountKind, AmbiguousPathPolicy, FragmentPolicy, IdentityField, Routes,
        UpstreamSettings,
    },
};

pub fn site() -> Site {
    Site {
        number: 0,
        name: "h5.example.com".to_owned(),
        hosts: vec![Host::parse("h5.example.com").unwrap()],
        upstream_hosts: vec![http::HeaderValue::from_static("h5.example.com")],
        public_url: Origin::parse("https://h5.example.com").unwrap(),
        account: Arc::new(Account {
            name: "main".to_owned(),
            kind: AccountKind::Official,
            callback: None,
            app_id: "wx1".to_owned(),
            app_secret: Secret::new("s"),
            authorize_url: String::new(),
            api_urls: Vec::new(),
            verify_files: [].into(),
        }),
        upstream: UpstreamSettings {
            servers: Vec::new(),
            balance: crate::site::Balance::default(),
            slow_start: Duration::ZERO,
            checkup: None,
            limit: None,
            connect_timeout: Duration::ZERO,
            response_timeout: Duration::ZERO,
            tls: None,
            protocol: crate::site::Protocol::default(),
        },
        outside_wechat: OutsideWeChat::Page,
        snapshot: SnapshotPolicy::Page,
        also: Vec::new(),
        profile_refresh: None,
        revocation: crate::site::RevocationPolicy::default(),
        fragment: FragmentPolicy::Drop,
        cors: Vec::new(),
        ambiguous_paths: AmbiguousPathPolicy::Refuse,
        windows_names: WindowsNames::Ambiguous,
        underscores: UnderscorePolicy::Drop,
        extra_headers: vec![("remote-user".parse().unwrap(), IdentityField::OpenId)],
        assertion: false,
        routes: Routes::new(Vec::new(), Access::None),
        cookies: CookieNames::new("wxgate", true),
        reserved: ReservedHeaders::default(),
    }
}

fn settings() -> Settings {
    Settings {
        cookie: "wxgate".to_owned(),
        idle: Duration::from_secs(100),
        max: Duration::from_secs(1_000),
        keys: Vec::new(),
        verified_cache: 0,
    }
}

fn identity(scope: Scope) -> Identity {
    Identity { openid: "o1".to_owned(), unionid: None, nickname: None, avatar: None, scope }
}

fn login(identity: Identity) -> PartialLogin {
    PartialLogin {
        identity,
        app_id: "wx1".to_owned(),
        also: [("pay".to_owned(), "o2".to_owned())].into(),
    }
}

fn session(scope: Scope) -> Session {
    Session::issue(&site(), login(identity(scope)), 7, Timestamp(10_000), &settings())
}

#[test]
fn decisions() {
    use Decision::*;
    use Scope::{Base, UserInfo};
    const WECHAT: &str = "MicroMessenger/8.0.50";
    const OTHER: &str = "Mozilla/5.0";
    const WECOM: &str = "wxwork/4.1 MicroMessenger/7.0.1";
    const PAGE: &str = "text/html";
    const SCRIPT: &str = "*/*";
    let base = Access::Required(Base, Prompt::Direct);
    let asked = Access::Required(UserInfo, Prompt::Button);
    let straight = Access::Required(UserInfo, Prompt::Direct);
    let known = |scope| Some(session(scope));
    let snapshot = || Some(session(UserInfo).mark_snapshot());
    let (page, anonymous, deny) =
        (&OutsideWeChat::Page, &OutsideWeChat::Anonymous, &OutsideWeChat::Deny);
    let anywhere = OutsideWeChat::Login(site().account);
    let cases = [
        // route, browser, asks for, outside_wechat, session, decision
        (Access::None, OTHER, PAGE, page, None, ForwardAnonymous),
        (Access::None, WECHAT, PAGE, page, known(Base), ForwardAnonymous),
        (Access::Optional, OTHER, PAGE, page, None, ForwardAnonymous),
        (Access::Optional, WECHAT, SCRIPT, page, known(Base), ForwardWithIdentity),
        (base, WECHAT, PAGE, page, None, Login(Base)),
        (base, WECHAT, SCRIPT, page, None, Unauthorized(Base)),
        (base, OTHER, PAGE, page, None, ShowQrPage),
        (base, WECOM, PAGE, page, None, ShowQrPage),
        (base, OTHER, SCRIPT, page, None, Unauthorized(Base)),
        (base, OTHER, PAGE, deny, None, Forbidden),
        (base, OTHER, SCRIPT, deny, None, Unauthorized(Base)),
        (base, OTHER, PAGE, anonymous, None, ForwardAnonymous),
        (base, OTHER, SCRIPT, anonymous, None, ForwardAnonymous),
        (base, WECHAT, PAGE, anonymous, None, Login(Base)),
        (base, OTHER, PAGE, &anywhere, None, Login(Base)),
        (base, OTHER, SCRIPT, &anywhere, None, Unauthorized(Base)),
        (base, WECHAT, PAGE, page, known(Base), ForwardWithIdentity),
        (base, OTHER, SCRIPT, page, known(UserInfo), ForwardWithIdentity),
        (asked, WECHAT, PAGE, page, None, ShowLoginPage(UserInfo)),
        (asked, WECHAT, PAGE, page, known(Base), ShowLoginPage(UserInfo)),
        (asked, WECHAT, SCRIPT, page, known(Base), Unauthorized(UserInfo)),
        (asked, WECHAT, PAGE, page, known(UserInfo), ForwardWithIdentity),
        (straight, WECHAT, PAGE, page, known(Base), Login(UserInfo)),
        (base, WECHAT, PAGE, page, snapshot(), ShowSnapshotPage),
        (base, WECHAT, SCRIPT, page, snapshot(), Unauthorized(Base)),
        (Access::Optional, WECHAT, PAGE, page, snapshot(), ForwardAnonymous),
    ];
    for (access, agent, accept, outside_wechat, session, expected) in cases {
        let row = format!("{access:?} {agent} {accept} {outside_wechat:?} {session:?}");
        let mut headers = HeaderMap::new();
        headers.insert("user-agent", agent.parse().unwrap());
        headers.insert("accept", accept.parse().unwrap());
        let site = Site { outside_wechat: outside_wechat.clone(), ..site() };
        let visit =
            AccessRequest { session: session.as_ref(), method: &Method::GET, headers: &headers };
        assert_eq!(decide(&site, access, visit), expected, "{row}");
    }
}

#[test]
fn snapshot_visitors_get_what_the_site_says() {
    let asked = Access::Required(Scope::UserInfo, Prompt::Button);
    let cases = [
        (SnapshotPolicy::Page, asked, Decision::ShowSnapshotPage),
        (SnapshotPolicy::Anonymous, asked, Decision::ForwardAnonymous),
        (SnapshotPolicy::Allow, asked, Decision::ForwardWithIdentity),
        (SnapshotPolicy::Allow, Access::Optional, Decision::ForwardWithIdentity),
        (SnapshotPolicy::Allow, Access::None, Decision::ForwardAnonymous),
    ];
    for (snapshot, access, expected) in cases {
        let session = session(Scope::UserInfo).mark_snapshot();
        let mut headers = HeaderMap::new();
        headers.insert("accept", "text/html".parse().unwrap());
        let visit =
            AccessRequest { session: Some(&session), method: &Method::GET, headers: &headers };
        let site = Site { snapshot, ..site() };
        assert_eq!(decide(&site, access, visit), expected, "{snapshot:?} {access:?}");
    }
}

#[test]
fn f1_claims_are_required_and_range_checked() {
    let keys = keys(&[("a", "0123456789abcdef0123456789abcdef")]);
    let good = serde_json::to_value(session(Scope::Base)).unwrap();
    let with = |name: &str, value: Value| {
        let mut claims = good.clone();
        claims[name] = value;
        claims
    };
    let without = |name: &str| {
        let mut claims = good.clone();
        claims.as_object_mut().unwrap().remove(name);
        claims
    };
    let mut cases = vec![(good.clone(), true), (with("extra", json!(1)), true)];
    for name in ["iss", "aud", "sub", "sid", "iat", "exp", "auth_time", "max", "appid", "scope"] {
        cases.push((without(name), false));
        cases.push((with(name, json!(null)), false));
        cases.push((with(name, json!(["wxgate"])), false));
    }
    for number in [json!(-1), json!(1.5), json!(1e300), json!("10000"), json!(u64::MAX)] {
        cases.push((with("exp", number.clone()), false));
        cases.push((with("iat", number.clone()), false));
        cases.push((with("auth_time", number), false));
    }
    cases.push((with("iss", json!("other")), false));
    cases.push((with("sub", json!("")), false));
    cases.push((with("sub", json!("o\n1")), false));
    cases.push((with("sid", json!("7")), false));
    cases.push((with("scope", json!("snsapi_everything")), false));
    cases.push((with("max", json!(10_050)), false));
    for (claims, good) in cases {
        let token = keys.sign(&claims).unwrap();
        assert_eq!(Session::open(token.as_bytes(), &keys).is_ok(), good, "{claims}");
    }
}

#[test]
fn a_session_is_good_for_one_site_and_time() {
    let other = Origin::parse("https://other.example.com").unwrap();
    let session = session(Scope::Base);
    let cases = [
        (site(), 10_000, Ok(())),
        (site(), 10_099, Ok(())),
        (site(), 10_100, Err(SessionError::Expired)),
        (site(), 9_940, Ok(())), // another replica's clock is behind
        (site(), 9_939, Err(SessionError::ClockSkew { seconds: 61 })),
        (Site { public_url: other.clone(), ..site() }, 10_000, Err(SessionError::WrongSite)),
        (Site { public_url: other, ..site() }, 9_939, Err(SessionError::WrongSite)),
    ];
    for (site, now, expected) in cases {
        assert_eq!(session.check(&site, Timestamp(now)), expected, "{} at {now}", site.public_url);
    }
}

#[test]
fn a_session_is_renewed_past_half_its_idle_time_and_ends_at_max() {
    let mut session = session(Scope::Base);
    assert_eq!(session.renewed(Timestamp(10_049), &settings()), None);
    let mut renewals = 0;
    let mut now = 10_000;
    while session.check(&site(), Timestamp(now)).is_ok() {
        if let Some(renewed) = session.renewed(Timestamp(now), &settings()) {
            assert_eq!((&renewed.sid, renewed.auth_time), (&session.sid, session.auth_time));
            session = renewed;
            renewals += 1;
        }
        now += 10;
    }
    assert_eq!((now, renewals), (11_000, 18));
}

#[test]
fn c1_the_introduction_is_visible_ascii() {
    let identity = Identity {
        openid: "o1".to_owned(),
        unionid: Some(String::new()),
        nickname: Some("\u{14}瑪娅🍭 a\r\nX-Evil: 1".to_owned()),
        avatar: Some("javascript:alert(1)".to_owned()),
        scope: Scope::UserInfo,
    };
    let session = Session::issue(&site(), login(identity), 7, Timestamp(10_000), &settings());
    let known = VerifiedSession::new(session, &site());
    let told: Vec<(&str, &str)> = known
        .identity_headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.to_str().unwrap()))
        .collect();
    let expected = [
        ("x-wechat-openid", "o1"),
        ("x-wechat-appid", "wx1"),
        ("x-wechat-account", "main"),
        ("x-wechat-scope", "snsapi_userinfo"),
        ("x-wechat-nickname", "%14%E7%91%AA%E5%A8%85%F0%9F%8D%AD%20a%0D%0AX-Evil%3A%201"),
        ("x-wechat-session", "00000000000000000000000000000007"),
        ("x-wechat-auth-time", "10000"),
        ("remote-user", "o1"),
        ("x-wechat-openid-pay", "o2"),
    ];
    assert_eq!(told, expected);
}

#[test]
fn the_cookie_stays_small() {
    let keys = keys(&[("2026-11", "0123456789abcdef0123456789abcdef")]);
    let identity = Identity {
        openid: "o".repeat(28),
        unionid: Some("o".repeat(29)),
        nickname: Some("囍".repeat(500)),
        avatar: Some(format!("https://thirdwx.qlogo.cn/mmopen/{}/132", "a".repeat(400))),
        scope: Scope::UserInfo,
    };
    let session =
        Session::issue(&site(), login(identity), u128::MAX, Timestamp(1_800_000_000), &settings());
    let cookie = session.seal(&keys).unwrap();
    assert!(cookie.len() < 1536, "{} bytes", cookie.len());
    assert_eq!(Session::open(cookie.as_bytes(), &keys), Ok(session));
}

fn order(whom: RevocationTarget, at: u64) -> Revocation {
    Revocation { whom, at: Timestamp(at), until: Timestamp(at + 100_000) }
}

#[test]
fn e7_an_ended_session_stays_ended() {
    let (mut ended, one) = (ActiveRevocations::default(), session(Scope::Base));
    assert!(!ended.ends(&one));
    let order = Revocation::of(&one, Timestamp(10_000));
    ended.add(order.clone(), Timestamp(10_000));
    assert!(ended.ends(&one) && ended.contains(&order));
    assert!(ended.ends(&one.renewed(Timestamp(10_060), &settings()).unwrap()));
    assert_eq!(ended.orders(Timestamp(10_001)).len(), 1);
    assert_eq!(ended.orders(order.until), [], "time ended it: nothing is kept of it");
    for number in 0..3_000 {
        let other = RevocationTarget::Session(format!("{number:032x}"));
        ended.add(self::order(other, 20_000), Timestamp(20_000));
    }
    let orders = ended.orders(Timestamp(20_001));
    assert_eq!(orders.len(), 3_000, "those of before are gone");
    let copy = orders.into_iter().fold(ActiveRevocations::default(), |mut view, order| {
        view.add(order, Timestamp(20_001));
        view
    });
    assert!(copy.contains(&self::order(RevocationTarget::Session(format!("{:032x}", 2_999)), 0)));
}

#[test]
fn an_order_ends_what_it_names_and_nothing_that_knew_of_it() {
    let one = session(Scope::Base); // of openid o1 at 10_000
    let person = |openid: &str| RevocationTarget::Person {
        appid: one.appid.clone(),
        openid: openid.to_owned(),
    };
    let openid = one.identity.openid.clone();
    let cases = [
        // whom, at, what the session knew, ended
        (RevocationTarget::All, 10_000, 0, true),
        (RevocationTarget::All, 9_941, 0, true), // the replica's clock may be a minute ahead
        (RevocationTarget::All, 9_939, 0, false), // but no more
        (RevocationTarget::All, 10_000, 9_999, true),
        (RevocationTarget::All, 10_000, 10_000, false),
        (RevocationTarget::Account(one.appid.clone()), 10_000, 0, true),
        (RevocationTarget::Account("wx-other".to_owned()), 10_000, 0, false),
        (person(&openid), 10_000, 0, true),
        (person(&openid), 10_000, 10_000, false),
        (person("somebody"), 10_000, 0, false),
        (RevocationTarget::Session(one.sid.clone()), 1, 99_999, true),
        (RevocationTarget::Session("0".repeat(32)), 10_000, 0, false),
    ];
    for (whom, at, knew, expected) in cases {
        let mut view = ActiveRevocations::default();
        view.add(order(whom.clone(), at), Timestamp(10_000));
        let session = one.clone().with_known_revocation(Timestamp(knew));
        assert_eq!(view.ends(&session), expected, "{whom:?} at {at}, knowing {knew}");
    }
    let mut view = ActiveRevocations::default();
    let max = Duration::from_mins(1);
    for _ in 0..2 {
        let order = Revocation::by_operator(RevocationTarget::All, &view, Timestamp(10_000), max);
        assert!(view.latest() < order.at, "no two at once");
        view.add(order, Timestamp(10_000));
    }
    let text = serde_json::to_string(&order(person("o1"), 7)).unwrap();
    let read: Revocation = serde_json::from_str(&text).unwrap();
    assert_eq!(read, order(person("o1"), 7), "{text}");
}

#[test]
fn f2_an_assertion_is_the_same_on_every_replica_and_opens_no_door() {
    let ring =
        [("a", "0123456789abcdef0123456789abcdef"), ("b", "fedcba9876543210fedcba9876543210")];
    let keys = keys(&ring);
    // Whoever changes how the key is derived locks out every site that has kept the old one.
    let expected = r#"{"keys":[{"alg":"ES256","crv":"P-256","kid":"a","kty":"EC","use":"sig","x":"6PFAmwGfzz-XgHEPuc8Qc4tD8-fWljSr9tZM0Z1xtp8","y":"tiK_BLD-wrXTclBqiGak8_YQQeM0pYgNHImWZQiHODo"},{"alg":"ES256","crv":"P-256","kid":"b","kty":"EC","use":"sig","x":"kuPBHn0RcjpYEtGO5Gr8Oy_2BXu6FQuaYiGjzOwqe1E","y":"yfn1G1fKdbRYKW2cuAnkpq7Qvv9zBfN3mtuV6KvrGOk"}]}"#;
    assert_eq!(keys.public().json, expected);
    let mut site = site();
    let known = VerifiedSession::new(session(Scope::Base), &site);
    let at = |site: &Site, now| known.assertion(site, &keys, Timestamp(now), || 1).unwrap();
    assert_eq!(at(&site, 10_000), None, "off unless asked for");
    site.assertion = true;
    let first = at(&site, 10_000).unwrap();
    for (now, same) in [(10_000, true), (10_179, true), (10_180, false), (9_999, false)] {
        let known = VerifiedSession::new(session(Scope::Base), &site);
        let _ = known.assertion(&site, &keys, Timestamp(10_000), || 1).unwrap();
        let again = known.assertion(&site, &keys, Timestamp(now), || 2).unwrap().unwrap();
        let id = again.to_str().unwrap().split('.').nth(1).unwrap().to_owned();
        assert_eq!(id == first.to_str().unwrap().split('.').nth(1).unwrap(), same, "{now}");
    }
    assert!(first.to_str().unwrap().bytes().all(|b| b.is_ascii_graphic()));
    assert_eq!(keys.verify::<Value>(first.as_bytes()), Err(token::InvalidToken));
    assert_eq!(keys.open(first.as_bytes(), "here"), Err(token::InvalidToken));
    assert_eq!(Session::open(first.as_bytes(), &keys), Err(SessionError::Invalid));
    let parts: Vec<&str> = first.to_str().unwrap().split('.').collect();
    assert_eq!((parts.len(), parts[2].len()), (3, 86), "64 bytes of signature");
}

/// The session with every claim, and the one with as few as there can be.
fn sessions() -> [Session; 2] {
    let identity = Identity {
        openid: "o1".to_owned(),
        unionid: Some("u1".to_owned()),
        nickname: Some("李雷".to_owned()),
        avatar: Some("https://thirdwx.qlogo.cn/mmopen/a/132".to_owned()),
        scope: Scope::UserInfo,
    };
    let full = Session::issue(&site(), login(identity), 7, Timestamp(10_000), &settings());
    let mut full =
        full.with_known_revocation(Timestamp(9_000)).with_profile(None, Timestamp(10_050));
    full.snapshot = true;
    let login = PartialLogin {
        identity: self::identity(Scope::Base),
        app_id: "wx1".to_owned(),
        also: std::collections::BTreeMap::new(),
    };
    let minimal = Session::issue(&site(), login, 7, Timestamp(10_000), &settings());
    [full, minimal]
}

#[test]
fn serialized_session() {
    let keys = keys(&[("a", "0123456789abcdef0123456789abcdef")]);
    let [full, minimal] = sessions();
    let claims = |session: &Session| serde_json::to_string(session).unwrap();
    let cookies = [
        "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiIsImtpZCI6ImEifQ.eyJpc3MiOiJ3eGdhdGUiLCJhdWQiOiJodHRwczovL2g1LmV4YW1wbGUuY29tIiwic3ViIjoibzEiLCJ1bmlvbmlkIjoidTEiLCJuaWNrbmFtZSI6IuadjumbtyIsImF2YXRhciI6Imh0dHBzOi8vdGhpcmR3eC5xbG9nby5jbi9tbW9wZW4vYS8xMzIiLCJzY29wZSI6InNuc2FwaV91c2VyaW5mbyIsInNpZCI6IjAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDA3IiwiaWF0IjoxMDAwMCwiZXhwIjoxMDEwMCwiYXV0aF90aW1lIjoxMDAwMCwicHJvZmlsZWQiOjEwMDUwLCJtYXgiOjExMDAwLCJhcHBpZCI6Ind4MSIsImFsc28iOnsicGF5IjoibzIifSwia25vd3MiOjkwMDAsInNuYXBzaG90Ijp0cnVlfQ.J4KXOyEO_mv2iRQaKGCJW0vU93GiCdgcyJw0ia3hOpI",
        "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiIsImtpZCI6ImEifQ.eyJpc3MiOiJ3eGdhdGUiLCJhdWQiOiJodHRwczovL2g1LmV4YW1wbGUuY29tIiwic3ViIjoibzEiLCJzY29wZSI6InNuc2FwaV9iYXNlIiwic2lkIjoiMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDciLCJpYXQiOjEwMDAwLCJleHAiOjEwMTAwLCJhdXRoX3RpbWUiOjEwMDAwLCJtYXgiOjExMDAwLCJhcHBpZCI6Ind4MSJ9.WqolYwNxldvrIzTdz5fuTQgzMss3Txyxc4swvx9ry9U",
    ];
    assert_serialized(&[
        (
            "full claims",
            claims(&full),
            r#"{"iss":"wxgate","aud":"https://h5.example.com","sub":"o1","unionid":"u1","nickname":"李雷","avatar":"https://thirdwx.qlogo.cn/mmopen/a/132","scope":"snsapi_userinfo","sid":"00000000000000000000000000000007","iat":10000,"exp":10100,"auth_time":10000,"profiled":10050,"max":11000,"appid":"wx1","also":{"pay":"o2"},"knows":9000,"snapshot":true}"#,
        ),
        (
            "minimal claims",
            claims(&minimal),
            r#"{"iss":"wxgate","aud":"https://h5.example.com","sub":"o1","scope":"snsapi_base","sid":"00000000000000000000000000000007","iat":10000,"exp":10100,"auth_time":10000,"max":11000,"appid":"wx1"}"#,
        ),
        ("full cookie", full.seal(&keys).unwrap(), cookies[0]),
        ("minimal cookie", minimal.seal(&keys).unwrap(), cookies[1]),
        ("id in logs", full.log_id().to_string(), "e5090df26d24944b"),
    ]);
    for (cookie, session) in cookies.into_iter().zip([full, minimal]) {
        assert_eq!(Session::open(cookie.as_bytes(), &keys), Ok(session));
    }
    let reasons = [
        (SessionError::Missing, None),
        (SessionError::Invalid, Some("forged")),
        (SessionError::ClockSkew { seconds: 61 }, Some("clock_skew")),
        (SessionError::UnknownKey, Some("unknown_key")),
        (SessionError::Ambiguous, Some("several")),
        (SessionError::WrongSite, Some("elsewhere")),
        (SessionError::Expired, Some("expired")),
        (SessionError::Revoked, Some("ended")),
        (SessionError::RevocationUnknown, Some("unsure")),
    ];
    for (error, reason) in reasons {
        assert_eq!(error.reason(), reason, "{error:?}");
    }
}

#[test]
fn serialized_assertion() {
    let keys = keys(&[("a", "0123456789abcdef0123456789abcdef")]);
    let site = Site { assertion: true, ..site() };
    let [full, minimal] = sessions().map(|session| {
        let known = VerifiedSession::new(session, &site);
        let text = known.assertion(&site, &keys, Timestamp(10_000), || 1).unwrap().unwrap();
        let parts = text.to_str().unwrap().split('.').take(2);
        let parts = parts.map(|part| BASE64_URL_SAFE_NO_PAD.decode(part).unwrap());
        parts.map(|part| String::from_utf8(part).unwrap()).collect::<Vec<_>>().join(".")
    });
    assert_serialized(&[
        (
            "full assertion",
            full,
            r#"{"alg":"ES256","kid":"a","typ":"JWT"}.{"iss":"wxgate","aud":"https://h5.example.com","sub":"o1","jti":"00000000000000000000000000000001","iat":10000,"exp":10300,"appid":"wx1","account":"main","scope":"snsapi_userinfo","unionid":"u1","nickname":"李雷","avatar":"https://thirdwx.qlogo.cn/mmopen/a/132","sid":"00000000000000000000000000000007","auth_time":10000,"also":{"pay":"o2"},"snapshot":true}"#,
        ),
        (
            "minimal assertion",
            minimal,
            r#"{"alg":"ES256","kid":"a","typ":"JWT"}.{"iss":"wxgate","aud":"https://h5.example.com","sub":"o1","jti":"00000000000000000000000000000001","iat":10000,"exp":10300,"appid":"wx1","account":"main","scope":"snsapi_base","sid":"00000000000000000000000000000007","auth_time":10000}"#,
        ),
    ]);
}

#[test]
fn serialized_revocation() {
    let person = RevocationTarget::Person { appid: "wx1".to_owned(), openid: "o1".to_owned() };
    let rows = [
        (
            "one session",
            RevocationTarget::Session("07".to_owned()),
            r#"{"whom":{"session":"07"},"at":10000,"until":20000}"#,
        ),
        (
            "one person",
            person,
            r#"{"whom":{"person":{"appid":"wx1","openid":"o1"}},"at":10000,"until":20000}"#,
        ),
        (
            "one account",
            RevocationTarget::Account("wx1".to_owned()),
            r#"{"whom":{"account":"wx1"},"at":10000,"until":20000}"#,
        ),
        ("everybody", RevocationTarget::All, r#"{"whom":"all","at":10000,"until":20000}"#),
    ];
    for (what, whom, recorded) in rows {
        let order = Revocation { whom, at: Timestamp(10_000), until: Timestamp(20_000) };
        assert_serialized(&[(what, serde_json::to_string(&order).unwrap(), recorded)]);
        assert_eq!(serde_json::from_str::<Revocation>(recorded).unwrap(), order, "{what}");
    }
}
