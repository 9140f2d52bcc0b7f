//! What `explain` says of some URLs.

use super::*;

const CONFIG: &str = r#"
[session]
keys = [{ id = "1", secret = { env = "KEY" } }]
[[account]]
name = "main"
app_id = "wx0123456789abcdef"
app_secret = { file = "/nowhere" }
verify_files = { "MP_verify_AbCd1234.txt" = "AbCd1234" }
[[site]]
hosts = ["h5.example.com", "www.example.com"]
public_url = "https://h5.example.com"
account = "main"
upstream = ["http://10.0.0.5:8000", "unix:/run/site.sock"]
[site.headers]
extra = { "Remote-User" = "openid" }
assertion = true
[[site.route]]
path = "/static/*"
auth = "none"
[[site.route]]
path = "/member/*"
scope = "snsapi_userinfo"
[[site.route]]
path = "/news"
methods = ["GET"]
auth = "optional"
[[site]]
hosts = ["old.example.com"]
public_url = "https://old.example.com"
account = "main"
upstream = ["http://10.0.0.6:8000"]
ambiguous_paths = "protect"
outside_wechat = "deny"
[[site]]
hosts = ["open.example.com"]
public_url = "https://open.example.com"
account = "main"
upstream = ["http://10.0.0.7:8000"]
outside_wechat = "anonymous"
snapshot = "allow"
"#;

fn said(method: &str, url: &str) -> String {
    let config = Config::parse("config.toml", CONFIG, &PlaceholderEnvironment).unwrap();
    match answer(&config, ExplainRequest { method, url }) {
        Ok(answer) => answer.to_string(),
        Err(error) => error,
    }
}

/// Method, URL, and what must be said.
type Case = (&'static str, &'static str, &'static [&'static str]);

const BROKER: &str = r#"
[broker]
host = "auth.example.com"
[[broker.client]]
name = "shop"
account = "main"
return_to = ["https://shop.example.com/app/"]
secret = { file = "/etc/wxgate/the shop's secret" }
jssdk = true
"#;

#[test]
fn what_the_broker_answers() {
    let text = format!("{CONFIG}{BROKER}");
    let config = Config::parse("config.toml", &text, &PlaceholderEnvironment).unwrap();
    let base = "https://auth.example.com/api/wechat";
    let cases: [Case; 12] = [
        (
            "GET",
            "/auth?url=https://shop.example.com/app/x",
            &["sends the visitor", "shop", "wx0123456789abcdef", "QR code"],
        ),
        (
            "GET",
            "/auth?url=https%3A%2F%2Fshop.example.com%2Fother",
            &["refused with 400", "below: /app/"],
        ),
        (
            "GET",
            "/auth?url=https://shop.example.com/app/..%252fx",
            &["refused with 400", "one that lies elsewhere"],
        ),
        (
            "GET",
            "/auth?url=https://evil.example/",
            &["refused with 400", "No client has its origin"],
        ),
        ("GET", "/auth?url=//evil.example/", &["refused with 400", "is no http or https address"]),
        ("GET", "/auth", &["shop: https://shop.example.com/app/"]),
        ("POST", "/auth", &["405, it takes GET only"]),
        ("GET", "/getUserInfo?code=x", &["the way back from WeChat"]),
        ("POST", "/redeem", &["JSON for a `ticket`, once"]),
        ("GET", "/jssdk?url=https://shop.example.com/other", &["signs the page", "client   shop"]),
        ("GET", "/nothing", &["404, the broker has no such path"]),
        ("GET", "/../../MP_verify_AbCd1234.txt", &["404"]),
    ];
    for (method, path, expected) in cases {
        let url = format!("{base}{path}");
        let said = answer(&config, ExplainRequest { method, url: &url }).unwrap().to_string();
        for part in expected {
            assert!(said.contains(part), "{method} {path} lacks {part:?}:\n{said}");
        }
    }
}

#[test]
fn the_broker_answers_on_its_own_host_and_below_its_prefix() {
    let text = format!("{CONFIG}{BROKER}");
    let config = Config::parse("config.toml", &text, &PlaceholderEnvironment).unwrap();
    let proof =
        ExplainRequest { method: "GET", url: "https://auth.example.com/MP_verify_AbCd1234.txt" };
    assert!(answer(&config, proof).unwrap().to_string().contains("to anybody"));
    let elsewhere = ExplainRequest { method: "GET", url: "https://auth.example.com/" };
    assert!(answer(&config, elsewhere).unwrap().to_string().contains("404"));
    let site = ExplainRequest { method: "GET", url: "https://h5.example.com/api/wechat/auth" };
    assert!(answer(&config, site).unwrap().to_string().contains("site     https://h5"));
}

#[test]
fn every_kind_of_url() {
    let cases: [Case; 22] = [
        (
            "GET",
            "https://h5.example.com/static/a.js",
            &["/static/* (every method)", "nobody's identity"],
        ),
        ("GET", "https://h5.example.com/member", &["snsapi_userinfo, with our page", "登录"]),
        ("POST", "https://h5.example.com/member/x", &["everybody else", "401"]),
        ("GET", "https://h5.example.com/news", &["/news (GET)", "without an identity"]),
        ("HEAD", "https://h5.example.com/news?x=/static/", &["/news (GET)"]),
        ("post", "https://h5.example.com/news", &["none matches", "POST https"]),
        (
            "GET",
            "https://h5.example.com",
            &["a login, snsapi_base", "QR code", "Remote-User (openid)"],
        ),
        ("GET", "http://www.example.com:80/", &["Visitors type https://h5.example.com"]),
        ("GET", "https://h5.example.com/a/../static/x", &["dot segment", "400", "\"protect\""]),
        ("GET", "https://h5.example.com/static/..;/x", &["dot segment", "400"]),
        ("GET", "https://h5.example.com/news;x", &["different routes", "400"]),
        ("GET", "https://old.example.com//x", &["empty segment", "with a session", "403"]),
        ("GET", "https://h5.example.com/_wx/login", &["starts a login"]),
        ("GET", "https://h5.example.com/_wx/nothing", &["404"]),
        ("GET", "https://h5.example.com/MP_verify_AbCd1234.txt", &["\"AbCd1234\", to anybody"]),
        ("POST", "https://h5.example.com/MP_verify_AbCd1234.txt", &["none matches"]),
        ("GET", "https://other.example.com/MP_verify_AbCd1234.txt", &["AbCd1234", "none: no site"]),
        ("GET", "https://h5.example.com/_wx/verify", &["404"]),
        ("GET", "https://open.example.com/", &["or an image in WeChat  ", "or WeCom  "]),
        ("POST", "https://open.example.com/", &["in WeChat  ", "or WeCom  ", "X-WeChat-Snapshot"]),
        ("GET", "https://other.example.com/", &["421", "h5.example.com, www.example.com, old"]),
        ("GET", "https://h5.example.com/会员", &["/%E4%BC%9A%E5%91%98", "none matches"]),
    ];
    for (method, url, expected) in cases {
        let said = said(method, url);
        for part in expected {
            assert!(said.contains(part), "{method} {url} lacks {part:?}:\n{said}");
        }
    }
}

#[test]
fn questions_that_make_no_sense() {
    let cases = [
        ("GET", "h5.example.com/member", "no http or https URL"),
        ("GET", "ftp://h5.example.com/", "no http or https URL"),
        ("GET", "https://h5 example/", "no host name"),
        ("GET", "https:///x", "no host name"),
        ("G T", "https://h5.example.com/", "no method"),
    ];
    for (method, url, expected) in cases {
        let said = said(method, url);
        assert!(said.contains(expected), "{method} {url}: {said}");
    }
}

#[test]
fn a_proof_is_named_where_the_site_gets_one() {
    for (url, named) in [
        ("https://h5.example.com/member", true),
        ("https://h5.example.com/static/a", false),
        ("https://open.example.com/", false),
    ] {
        let said = said("GET", url);
        assert_eq!(said.contains("X-WeChat-Assertion (all of it, signed)"), named, "{url}: {said}");
    }
}

#[test]
fn scripts_get_the_same() {
    let config = Config::parse("config.toml", CONFIG, &PlaceholderEnvironment).unwrap();
    let url = "https://h5.example.com/member/orders";
    let json = answer(&config, ExplainRequest { method: "GET", url }).unwrap().to_json();
    assert_eq!(json["request"], "GET https://h5.example.com/member/orders");
    assert_eq!(json["site"], "https://h5.example.com");
    assert_eq!(json["headers"]["introduced"][0]["name"], "X-WeChat-OpenId");
    assert_eq!(json["visitors"].as_array().unwrap().len(), 6);
}
