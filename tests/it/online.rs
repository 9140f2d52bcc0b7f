//! `wxgate check --online` and what it finds, asked as an operator asks it.

use std::net::{SocketAddr, TcpListener};

use serde_json::Value;
use tokio::process::Command;

use crate::{
    h2_site,
    harness::{TestConfig, TestGateway},
    redis::Redis,
};

/// What the program printed and how it ended.
pub struct Said {
    pub text: String,
    pub code: i32,
}

pub async fn check(text: &str, more: &[&str]) -> Said {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.toml");
    std::fs::write(&file, text).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_wxgate"))
        .args(["check", "--online", "--config"])
        .arg(&file)
        .args(more)
        .output()
        .await
        .unwrap();
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    Said { text, code: output.status.code().unwrap() }
}

impl Said {
    /// The line about one thing.
    pub fn line(&self, start: &str) -> &str {
        let found = self.text.lines().find(|line| line.starts_with(start));
        found.unwrap_or_else(|| panic!("no {start:?} in\n{}", self.text))
    }
}

/// A site that everybody finds: this machine.
pub fn local(text: &str) -> String {
    let named = text.replace("\"h5.example.com\", \"www.example.com\"", "\"localhost\"");
    named.replace("http://h5.example.com", "http://localhost")
}

fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

#[tokio::test]
async fn everybody_answers() {
    let (street, redis) = (TestGateway::usual().await, Redis::start().await);
    let mut plan = TestConfig { session: TestConfig::default().session, ..TestConfig::default() };
    plan.more = format!("[store]\nkind = \"redis\"\nurl = \"{}\"", redis.url());
    let text = local(&plan.text(street.wechat, &format!("\"http://{}\"", street.site.addr)));
    let said = check(&text, &[]).await;
    assert_eq!(said.code, 0, "{}", said.text);
    let wechat = street.wechat;
    for line in [
        format!("ok    account   main: {wechat} takes app_id and app_secret"),
        format!("ok    store     Redis at {}: reads, writes", redis.addr()),
        format!(
            "ok    upstream  http://{} of localhost: answers HEAD / with 200",
            street.site.addr
        ),
        "note  dns       localhost: ".to_owned(),
        format!("ok    clock     this machine: in step with {wechat}"),
        "note  console   main: logs visitors in at ".to_owned(),
    ] {
        said.line(&line);
    }
    // The emulator was asked for the token that others share, and not to make a new one.
    assert_eq!((street.calls("/cgi-bin/stable_token").await, street.site.hits()), (1, 1));
    assert_eq!(redis.ask("DBSIZE").await.trim(), ":0", "the trial is left in the store");
    assert!(!said.text.contains("secret-of-wx1"), "{}", said.text);
}

#[tokio::test]
async fn nobody_answers() {
    let (street, away) = (TestGateway::usual().await, nobody());
    let mut plan =
        TestConfig { account: format!("kind = \"official\"\n# {away}"), ..TestConfig::default() };
    plan.more = format!("[store]\nkind = \"redis\"\nurl = \"redis://{away}\"");
    let text = plan.text(away, &format!("\"http://{away}\", \"unix:/nobody/here.sock\""));
    let text = text.replace("h5.example.com", "h5.wxgate.invalid");
    let said = check(&text, &[]).await;
    assert_eq!(said.code, 78, "{}", said.text);
    for (start, remedy) in [
        (format!("bad   account   main: {away}: no API host"), "curl -v"),
        (format!("bad   store     Redis at {away}: "), "start it"),
        (format!("bad   upstream  http://{away} of h5.wxgate.invalid: "), "start the site"),
        ("bad   upstream  unix:/nobody/here.sock of h5.wxgate.invalid: ".to_owned(), "curl -v"),
        ("bad   dns       h5.wxgate.invalid: ".to_owned(), "A or AAAA record"),
        ("note  clock     this machine: nobody answered".to_owned(), ""),
    ] {
        assert!(said.line(&start).contains(remedy), "{}", said.text);
    }
    drop(street);
}

/// What WeChat can answer to the question, and what the operator reads then.
#[tokio::test]
async fn what_wechat_says_of_an_account() {
    let street = TestGateway::usual().await;
    let upstream = format!("\"http://{}\"", street.site.addr);
    let text = local(&TestConfig::default().text(street.wechat, &upstream));
    let cases = [
        ("40125", 78, "bad   account   main: ", "app_secret is not this account's"),
        ("40013", 78, "bad   account   main: ", "app_id is not one WeChat knows"),
        ("-1", 78, "bad   account   main: ", "WeChat answered -1"),
        ("40164", 0, "note  account   main: ", "logins need no whitelist"),
    ];
    for (errcode, code, start, words) in cases {
        street
            .fault(&format!("{{\"at\":\"stable_token\",\"errcode\":{errcode},\"times\":1}}"))
            .await;
        let said = check(&text, &[]).await;
        assert_eq!(said.code, code, "{errcode}: {}", said.text);
        assert!(said.line(start).contains(words), "{errcode}: {}", said.text);
    }
    let website = text.replace("name = \"main\"", "name = \"main\"\nkind = \"website\"");
    let said = check(&website, &[]).await;
    assert!(said.line("ok    account   main: ").contains("takes app_id"), "{}", said.text);
    street.fault(r#"{"at":"access_token","errcode":40125,"times":1}"#).await;
    assert_eq!(check(&website, &[]).await.code, 78);
}

#[tokio::test]
async fn scripts_read_json() {
    let street = TestGateway::usual().await;
    let away = nobody();
    let text = local(&TestConfig::default().text(street.wechat, &format!("\"http://{away}\"")));
    let said = check(&text, &["--json"]).await;
    let json: Value = serde_json::from_str(&said.text).unwrap();
    assert_eq!((said.code, &json["good"]), (78, &Value::Bool(false)));
    let online = json["online"].as_array().unwrap();
    let upstream = online.iter().find(|it| it["check"] == "upstream").unwrap();
    assert_eq!(upstream["state"], "bad");
    assert!(upstream["remedy"].as_str().unwrap().contains("start the site"), "{upstream}");
    assert!(online.iter().any(|it| it["check"] == "clock" && it["state"] == "ok"), "{online:?}");
}

#[tokio::test]
async fn servers_are_asked_in_what_they_are_to_speak() {
    let street = TestGateway::usual().await;
    let site = h2_site::Site::new(|asked| h2_site::say("here", asked)).await;
    for (upstream, code, says) in [
        (site.addr, 0, "answers HEAD / with 200 OK over HTTP/2"),
        (street.site.addr, 78, "it does not speak HTTP/2"),
    ] {
        let plan = TestConfig::site("upstream_http = \"2\"");
        let text = local(&plan.text(street.wechat, &format!("\"http://{upstream}\"")));
        let said = check(&text, &[]).await;
        assert_eq!(said.code, code, "{}", said.text);
        assert!(said.text.contains(says), "{}", said.text);
        assert_eq!(said.text.contains("remove `upstream_http`"), code != 0, "{}", said.text);
    }
    street.close().await;
}
