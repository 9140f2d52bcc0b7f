//! `X-WeChat-Assertion` and `/_wx/jwks.json`, checked by people who know nothing of us: JOSE
//! libraries of Python and Node, and PHP's openssl.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    sync::atomic::{AtomicU64, Ordering},
};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use serde_json::Value;
use tokio::{io::AsyncWriteExt, process::Command};
use wxgate::clock::{self, Timestamp};

use crate::{
    harness::{KEY, ROUTES, TestConfig, TestGateway},
    visitor::{Answer, Visitor, raw},
};

const SITE: &str = "http://h5.example.com";

fn plan(keys: &str) -> TestConfig {
    let site = format!("[site.headers]\nassertion = true\n{ROUTES}");
    TestConfig { session: format!("keys = [{keys}]"), ..TestConfig::site(&site) }
}

fn key(id: &str, secret: &str) -> String {
    format!("{{ id = \"{id}\", secret = \"{secret}\" }}")
}

fn claims(assertion: &str) -> Value {
    let claims = assertion.split('.').nth(1).unwrap();
    serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(claims).unwrap()).unwrap()
}

/// Where a site fetches the keys. The libraries send the address they connect to as `Host`.
pub fn jwks(street: &TestGateway) -> String {
    format!("http://127.0.0.1:{}/_wx/jwks.json", street.gateway.port())
}

/// With a second site by the address, where the libraries can find the keys without a name server.
pub fn at_home(plan: TestConfig) -> TestConfig {
    let at_home = "[[site]]\nhosts = [\"127.0.0.1\"]\npublic_url = \"http://127.0.0.1\"\naccount = \"main\"\nupstream = [\"http://127.0.0.1:9\"]\n[site.headers]\nassertion = true\n";
    TestConfig { more: format!("{at_home}{}", plan.more), ..plan }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The checkers, as a site would run them: what is in `deploy/examples`.
pub fn checkers() -> [(&'static str, PathBuf, PathBuf); 3] {
    let examples = root().join("deploy/examples");
    // Node looks for its libraries beside the script.
    let node = Path::new(env!("CARGO_TARGET_TMPDIR")).join("proof");
    std::fs::create_dir_all(&node).unwrap();
    let script = node.join("verify_assertion.mjs");
    std::fs::copy(examples.join("node/verify_assertion.mjs"), &script).unwrap();
    let libraries = root().join("tests/proof/node_modules");
    let _ = std::os::unix::fs::symlink(libraries, node.join("node_modules"));
    [
        (
            "Python",
            root().join("tests/proof/venv/bin/python"),
            examples.join("python/verify_assertion.py"),
        ),
        ("Node", "node".into(), script),
        ("PHP", "php".into(), examples.join("php/verify_assertion.php")),
    ]
}

/// What a checker says of an assertion; nothing when it refuses it.
pub async fn checked(
    (who, program, script): &(&str, PathBuf, PathBuf),
    (url, site): (&str, &str),
    assertion: &str,
) -> Option<Value> {
    let mut command = Command::new(program);
    command.arg(script).args([url, site]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|why| {
        panic!("{who} does not start, see tests/tools.sh: {why}");
    });
    child.stdin.take().unwrap().write_all(assertion.as_bytes()).await.unwrap();
    let output = child.wait_with_output().await.unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() || said.contains("not proven"), "{who}: {said}");
    output.status.success().then(|| serde_json::from_slice(&output.stdout).unwrap())
}

#[tokio::test]
async fn independent_libraries_believe_what_we_signed_and_nothing_else() {
    let street = TestGateway::open(at_home(plan(&key("k1", KEY)))).await;
    let mut phone = Visitor::wechat(street.gateway);
    let page = crate::login::consent(&mut phone, "/member/").await;
    let assertion = page.received("x-wechat-assertion")[0].to_owned();
    let mut flipped = assertion.clone().into_bytes();
    let middle = assertion.find('.').unwrap() + 20;
    flipped[middle] = if flipped[middle] == b'A' { b'B' } else { b'A' };
    let parts: Vec<&str> = assertion.split('.').collect();
    let part = |text: &str| BASE64_URL_SAFE_NO_PAD.encode(text);
    let none = format!("{}.{}.", part(r#"{"alg":"none","kid":"k1","typ":"JWT"}"#), parts[1]);
    let hmac =
        format!("{}.{}.{}", part(r#"{"alg":"HS256","kid":"k1","typ":"JWT"}"#), parts[1], parts[2]);
    let cookie = phone.cookie("wxgate");
    let url = jwks(&street);
    for checker in checkers() {
        let who = checker.0;
        let said = checked(&checker, (&url, SITE), &assertion).await;
        let said = said.unwrap_or_else(|| panic!("{who} does not believe {assertion}"));
        assert_eq!(said["sub"], page.received("x-wechat-openid")[0], "{who}");
        assert_eq!(said["nickname"], "李雷", "{who}");
        assert_eq!(said["scope"], "snsapi_userinfo", "{who}");
        assert_eq!(said["sid"], page.received("x-wechat-session")[0], "{who}");
        let span = said["exp"].as_u64().unwrap() - said["iat"].as_u64().unwrap();
        assert_eq!(span, 300, "{who}");
        for (what, site, text) in [
            ("another site's", "http://www.example.com", assertion.as_str()),
            ("changed", SITE, std::str::from_utf8(&flipped).unwrap()),
            ("unsigned", SITE, &none),
            ("of another algorithm", SITE, &hmac),
            ("a session cookie", SITE, &cookie),
            ("nothing", SITE, ""),
        ] {
            let said = checked(&checker, (&url, site), text).await;
            assert_eq!(said, None, "{who} believes what is {what}");
        }
    }
    // F2: and an assertion is no session.
    let mut thief = Visitor::wechat(street.gateway);
    let answer =
        thief.send("GET", "/orders", &[("cookie", &format!("wxgate={assertion}"))], "").await;
    assert_eq!(answer.status, 302);
    street.close().await;
}

#[tokio::test]
async fn an_assertion_is_kept_for_three_minutes_and_never_older_than_that() {
    static LATER: AtomicU64 = AtomicU64::new(0);
    fn now() -> Timestamp {
        Timestamp(clock::system().0 + LATER.load(Ordering::Relaxed))
    }
    // One thread, because each keeps its own.
    let one = TestConfig { clock: now, ..plan(&key("k1", KEY)) };
    let street = TestGateway::open(one).await;
    let mut phone = Visitor::wechat(street.gateway);
    let _ = phone.open("/orders").await;
    let mut seen = std::collections::BTreeMap::<String, u64>::new();
    for later in [0, 0, 0, 60, 120, 170, 185, 240, 300, 600] {
        LATER.store(later, Ordering::Relaxed);
        for _ in 0..4 {
            let page = phone.get("/orders").await;
            let said = claims(page.received("x-wechat-assertion")[0]);
            let left = said["exp"].as_u64().unwrap() - now().0;
            assert!((119..=300).contains(&left), "{left} seconds are left after {later}");
            *seen.entry(said["jti"].as_str().unwrap().to_owned()).or_default() += 1;
        }
    }
    // Two threads, and four times a fresh one on each at most.
    assert!((2..=8).contains(&seen.len()), "{seen:?}");
    street.close().await;
}

#[tokio::test]
async fn the_keys_can_be_kept_and_rotate() {
    let new = "fedcba9876543210fedcba9876543210";
    let street = TestGateway::open(plan(&key("k1", KEY))).await;
    let mut anybody = Visitor::desktop(street.gateway);
    let first = anybody.get("/_wx/jwks.json").await;
    assert_eq!(first.status, 200);
    assert_eq!(first.header("content-type"), Some("application/jwk-set+json"));
    assert_eq!(first.all("cache-control").collect::<Vec<_>>(), ["public, max-age=300"]);
    assert!(!first.text.contains("\"d\""), "{}", first.text);
    let tag = first.header("etag").unwrap().to_owned();
    for (condition, status) in [
        (tag.clone(), 304),
        (format!("W/{tag}"), 304),
        (format!("\"x\", {tag}"), 304),
        ("*".to_owned(), 304),
        ("\"x\"".to_owned(), 200),
    ] {
        let again =
            anybody.send("GET", "/_wx/jwks.json", &[("if-none-match", &condition)], "").await;
        assert_eq!(
            (again.status, again.header("etag")),
            (status, Some(tag.as_str())),
            "{condition}"
        );
        assert_eq!(again.text.is_empty(), status == 304);
    }
    assert_eq!(anybody.send("POST", "/_wx/jwks.json", &[], "").await.status, 405);

    // A replica has the same key, whatever else it holds.
    let other = TestGateway::open(plan(&format!("{}, {}", key("k2", new), key("k1", KEY)))).await;
    let both: Value =
        serde_json::from_str(&Visitor::desktop(other.gateway).get("/_wx/jwks.json").await.text)
            .unwrap();
    let one: Value = serde_json::from_str(&first.text).unwrap();
    assert_eq!(both["keys"].as_array().unwrap().len(), 2);
    assert_eq!(both["keys"][1], one["keys"][0]);
    assert_ne!(both["keys"][0]["x"], one["keys"][0]["x"]);
    let mut phone = Visitor::wechat(other.gateway);
    let (_, page) = phone.open("/").await;
    let head = page.received("x-wechat-assertion")[0].split('.').next().unwrap();
    let head = BASE64_URL_SAFE_NO_PAD.decode(head).unwrap();
    assert_eq!(String::from_utf8(head).unwrap(), r#"{"alg":"ES256","kid":"k2","typ":"JWT"}"#);
    street.close().await;
    other.close().await;
}

#[tokio::test]
async fn sites_that_did_not_ask_get_none_and_nobody_can_send_one() {
    let street = TestGateway::usual().await;
    let mut phone = Visitor::wechat(street.gateway);
    let _ = phone.open("/").await;
    let page = phone.send("GET", "/orders", &[("X_WeChat_Assertion", "a.b.c")], "").await;
    assert_eq!(page.status, 200);
    assert!(page.received("x-wechat-assertion").is_empty() && !page.text.contains("a.b.c"));
    assert_eq!(phone.get("/_wx/jwks.json").await.status, 404);
    street.close().await;

    // Nor those of routes where nobody is introduced.
    let street = TestGateway::open(plan(&key("k1", KEY))).await;
    let request = "GET /static/a HTTP/1.1\r\nhost: h5.example.com\r\nx-wechat-assertion: a.b.c\r\nconnection: close\r\n\r\n";
    let page = Answer::parse(&raw(street.gateway, request).await);
    assert_eq!(page.status, 200);
    assert!(page.received("x-wechat-assertion").is_empty());
    street.close().await;
}
