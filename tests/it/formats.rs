//! Names and keys that other programs and other versions read: in Redis, on the status page, in answers
//! to programs. What is not held by a unit test called `serialized_…` or by `tests/formats.rs`.

#[path = "../formats/golden.rs"]
mod golden;

use std::{collections::BTreeSet, time::Duration};

use golden::assert_golden;
use serde_json::Value;
use tokio::time::{Instant, sleep};
use wxgate::admin::CertificateView;

use crate::{
    broker::{self, BROKER, SHOP, auth, walk},
    broker_servers::{code, json, server},
    harness::{ROUTES, TestConfig, TestGateway, until_ready},
    login,
    redis::Redis,
    visitor::{Answer, Visitor, raw},
};

/// The names of a JSON value's fields, each with those around it. Of a list all entries count.
fn paths(value: &Value, at: &str, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                paths(value, &format!("{at}.{name}"), found);
            }
        }
        Value::Array(list) if !list.is_empty() => {
            for value in list {
                paths(value, &format!("{at}[]"), found);
            }
        }
        Value::Array(_) | Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            found.insert(at.trim_start_matches('.').to_owned());
        }
    }
}

fn all_paths(value: &Value) -> Vec<String> {
    let mut found = BTreeSet::new();
    paths(value, "", &mut found);
    found.into_iter().collect()
}

/// Digests and openids are another for each login.
fn generalized(key: &str, openid: &str) -> String {
    let key = key.replace(openid, "OPENID");
    let (kind, rest) = key.split_once('/').unwrap_or((&key, ""));
    let is_digest = rest.len() == 64 && rest.bytes().all(|b| b.is_ascii_hexdigit());
    if is_digest { format!("{kind}/SHA256") } else { key }
}

#[tokio::test]
async fn serialized_keys_in_redis() {
    let redis = Redis::start().await;
    let more = format!("[store]\nkind = \"redis\"\nurl = \"{}\"\n{BROKER}", redis.url());
    let site = format!("profile_refresh = \"1h\"\n{ROUTES}");
    let street = TestGateway::open(TestConfig { more, ..TestConfig::site(&site) }).await;
    until_ready(street.admin().await.port()).await;
    let mut visitor = Visitor::wechat(street.gateway);
    let page = login::consent(&mut visitor, "/member/a").await;
    let openid = page.received("x-wechat-openid")[0].to_owned();
    visitor.send("POST", "/_wx/logout", &[("origin", "http://h5.example.com")], "").await;
    let mut phone = broker::phone(&street);
    walk(&mut phone, &auth("https://news.example.com/app/", "snsapi_userinfo")).await;
    phone.get(&auth("https://shop.example.com/", "snsapi_base")).await;
    phone.get("/api/wechat/jssdk?url=https%3A%2F%2Fshop.example.com%2F").await;
    let keys = redis.ask("KEYS *").await;
    let keys = keys.lines().filter(|line| !line.starts_with(['*', '$']));
    let keys: BTreeSet<String> = keys.map(|key| generalized(key, &openid)).collect();
    let recorded = [
        "wxgate:code/SHA256",
        "wxgate:errand-ended/SHA256",
        "wxgate:errand/SHA256",
        "wxgate:jssdk/wx1",
        "wxgate:refresh/wx1/OPENID",
        "wxgate:revocations",
        "wxgate:ticket/SHA256",
    ];
    assert_eq!(keys.iter().map(String::as_str).collect::<Vec<_>>(), recorded);
    let log = redis.ask("XRANGE wxgate:revocations - +").await;
    let order = log.lines().skip_while(|line| *line != "order").nth(2).unwrap();
    let order: Value = serde_json::from_str(order).unwrap();
    assert_eq!(all_paths(&order), ["at", "until", "whom.session"]);
    street.close().await;
}

async fn ask(admin: std::net::SocketAddr, head: &str, body: &str) -> Answer {
    let length = body.len();
    let request = format!(
        "{head} HTTP/1.1\r\nhost: {admin}\r\ncontent-type: application/json\r\n\
         content-length: {length}\r\nconnection: close\r\n\r\n{body}"
    );
    Answer::parse(&raw(admin, &request).await)
}

#[tokio::test]
async fn serialized_status_and_answers_of_the_admin_listener() {
    let gone = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let more = format!(
        "{BROKER}\n[[site]]\nhosts = [\"gone.example.com\"]\npublic_url = \"http://gone.example.com\"\n\
         account = \"main\"\nupstream = [\"http://{gone}\"]\n[[site.route]]\npath = \"/*\"\nauth = \"none\"\n"
    );
    let street = TestGateway::open(TestConfig { more, ..TestConfig::site(ROUTES) }).await;
    let (admin, status) = street.admin_with_status().await;
    let (begins, expires) = (wxgate::clock::Timestamp(1), wxgate::clock::Timestamp(2));
    let names = vec!["h5.example.com".to_owned()];
    status.set_certificates(vec![CertificateView { names, begins, expires }]);
    status.set_rejected(vec!["complaint".to_owned()]);
    login::consent(&mut Visitor::wechat(street.gateway), "/member/a").await;
    street.fault(r#"{"at":"access_token","errcode":40125,"times":1}"#).await;
    Visitor::wechat(street.gateway).open("/orders").await;
    let mut lost = Visitor { host: "gone.example.com", ..Visitor::desktop(street.gateway) };
    assert_eq!(lost.get("/").await.status, 502);
    let mut forger = Visitor::wechat(street.gateway);
    forger.send("GET", "/orders", &[("cookie", "wxgate=a.b.c")], "").await;
    let answer = ask(admin, "POST /revocations", r#"{"account":"main"}"#).await;
    let given = all_paths(&json(&answer));
    assert_eq!(given, ["at", "handed_over", "until", "whom.account"], "{answer:?}");
    let refused = ask(admin, "POST /revocations", "{}").await;
    assert_eq!((refused.status, json(&refused)["error"].is_string()), (400, true));
    let levels = ask(admin, "GET /log", "").await;
    assert_eq!(all_paths(&json(&levels)), ["level"]);
    assert_eq!(ask(admin, "GET /healthz", "").await.text, "ok\n");
    let configuration = json(&ask(admin, "GET /config.json", "").await);
    assert_eq!(all_paths(&configuration), ["groups", "text"]);
    let begun = Instant::now();
    let page = loop {
        let page = json(&ask(admin, "GET /status.json", "").await);
        // Once the counters have been looked at after all of this.
        if page["audit"].to_string().contains("revocation") && page["findings"] != Value::Null {
            break page;
        }
        assert!(begun.elapsed() < Duration::from_secs(10), "{page:#}");
        sleep(Duration::from_millis(20)).await;
    };
    assert_golden("status.txt", &all_paths(&page));
    street.close().await;
}

/// What a server of a client gets: the names of the fields, and those of a refusal.
#[tokio::test]
async fn serialized_answers_of_the_broker() {
    let street = TestGateway::open(broker::plan()).await;
    let (openid, userinfo) = ("snsapi_base", "snsapi_userinfo");
    let mut lines = Vec::new();
    for (window, scope) in [("getOpenId", openid), ("getWxUserInfo", userinfo)] {
        let path = format!("/api/wechat/{window}?code={}", code(&street, scope).await);
        for _ in 0..2 {
            let answer = server(&street, "GET", &path, SHOP, "").await;
            let names = all_paths(&json(&answer));
            lines.push(format!("{window} {}: {}", answer.status, names.join(" ")));
        }
    }
    let mut phone = broker::phone(&street);
    let (_, home) = walk(&mut phone, &auth("https://news.example.com/app/", userinfo)).await;
    let form = format!("ticket={}", broker::fields(home.location())[0].1);
    for _ in 0..2 {
        let answer = server(&street, "POST", "/api/wechat/redeem", broker::NEWS, &form).await;
        let names = all_paths(&json(&answer));
        lines.push(format!("redeem {}: {}", answer.status, names.join(" ")));
    }
    for host in ["shop.example.com", "evil.example"] {
        let answer = phone.get(&format!("/api/wechat/jssdk?url=https%3A%2F%2F{host}%2F")).await;
        let names = all_paths(&json(&answer));
        lines.push(format!("jssdk {}: {}", answer.status, names.join(" ")));
    }
    assert_golden("broker.txt", &lines);
    street.close().await;
}
