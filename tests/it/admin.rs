//! Who may do what at the admin listeners, of a gateway that is a process of its own.

use std::{net::SocketAddr, path::Path};

use tokio::process::Command;

use crate::{
    fleet::Process,
    harness::{ROUTES, TestConfig, TestGateway},
    redis::free_port,
    visitor::{Answer, Visitor, raw},
};

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

async fn ask(addr: SocketAddr, method: &str, path: &str, fields: &str, body: &str) -> Answer {
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\
         connection: close\r\n{fields}\r\n{body}"
    );
    Answer::parse(&raw(addr, &request).await)
}

async fn revoke(file: &Path) -> (bool, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wxgate"));
    let output =
        command.arg("revoke").arg("--config").arg(file).arg("--all").output().await.unwrap();
    (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[tokio::test]
async fn g1_who_may_read_metrics_may_not_end_sessions() {
    let street = TestGateway::usual().await;
    let folder = tempfile::tempdir().unwrap();
    let (file, secret) = (folder.path().join("config.toml"), folder.path().join("token"));
    let (port, admin, metrics) = (free_port().await, free_port().await, free_port().await);
    std::fs::write(&secret, format!("{TOKEN}\n")).unwrap();
    std::fs::set_permissions(&secret, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let more = format!(
        "[admin]\nlisten = \"127.0.0.1:{admin}\"\nmetrics_listen = \"127.0.0.1:{metrics}\"\n\
         hosts = [\"wxgate.internal\"]\ntoken = {{ file = \"token\" }}"
    );
    let plan = TestConfig { more, ..TestConfig::site(ROUTES) };
    let text = plan.text(street.wechat, &format!("\"http://{}\"", street.site.addr));
    let text = text.replace("127.0.0.1:0", &format!("127.0.0.1:{port}"));
    std::fs::write(&file, &text).unwrap();
    let local = |port| SocketAddr::from(([127, 0, 0, 1], port));
    let process = Process::start(&file, local(port), admin).await;
    let mut visitor = Visitor::wechat(process.gateway);
    let _ = visitor.open("/orders").await;

    let (all, known) = ("{\"all\":true}", "host: 127.0.0.1\r\n");
    let good = format!("{known}authorization: Bearer {TOKEN}\r\n");
    let wrong = format!("{known}authorization: Bearer {}\r\n", TOKEN.replace('0', "1"));
    let basic = format!("{known}authorization: Basic {TOKEN}\r\n");
    let twice = format!("{good}authorization: Bearer x\r\n");
    // What may be read at the listener for monitoring, and nothing else.
    for (method, path, fields, status) in [
        ("GET", "/metrics", known, 200),
        ("HEAD", "/metrics", known, 200),
        ("GET", "/metrics", "host: wxgate.internal:9091\r\n", 200),
        ("GET", "/metrics", "host: evil.example\r\n", 421),
        ("GET", "/healthz", "host: evil.example\r\n", 200),
        ("GET", "/readyz", "host: evil.example\r\n", 200),
        ("GET", "/", known, 404),
        ("GET", "/events", known, 404),
        ("GET", "/status.json", known, 404),
        ("GET", "/config", known, 404),
        ("GET", "/log", known, 404),
        ("POST", "/log", &*good, 404),
        ("POST", "/revocations", &*good, 404),
        ("POST", "/metrics", &*good, 405),
    ] {
        let answer = ask(local(metrics), method, path, fields, all).await;
        assert_eq!(answer.status, status, "{method} {path} {fields}: {}", answer.text);
    }
    // At the admin listener every change needs the token.
    for (method, path, fields, status) in [
        ("GET", "/metrics", known, 200),
        ("GET", "/metrics", "host: evil.example\r\n", 421),
        ("GET", "/log", known, 200),
        ("GET", "/log", "host: evil.example\r\n", 421),
        ("GET", "/", known, 200),
        ("POST", "/revocations", known, 401),
        ("POST", "/revocations", &*wrong, 401),
        ("POST", "/revocations", &*basic, 401),
        ("POST", "/revocations", &*twice, 401),
        ("POST", "/log", known, 401),
        ("PUT", "/log", known, 401),
        ("DELETE", "/revocations", known, 401),
        ("POST", "/no-such-path", known, 401),
    ] {
        let answer = ask(local(admin), method, path, fields, all).await;
        assert_eq!(answer.status, status, "{method} {path} {fields}: {}", answer.text);
        let asks = answer.header("www-authenticate").is_some();
        assert_eq!(asks, status == 401, "{method} {path}");
    }
    assert_eq!(visitor.get("/orders").await.status, 200, "nobody has ended anything");

    let (ended, why) = revoke(&file).await;
    assert!(ended, "{why}");
    assert_eq!(visitor.get("/orders").await.status, 302);
    let answer = ask(local(admin), "POST", "/revocations", &good, all).await;
    assert_eq!(answer.status, 202, "{}", answer.text);

    // A reload puts another token in force.
    std::fs::write(&secret, TOKEN.replace('0', "2")).unwrap();
    process.signal("HUP").await;
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(10);
    while ask(local(admin), "POST", "/revocations", &good, all).await.status != 401 {
        assert!(tokio::time::Instant::now() < deadline, "the old token stays in force");
        tokio::task::yield_now().await;
    }
    let (ended, why) = revoke(&file).await;
    assert!(ended, "{why}");
    street.close().await;
}
