//! The real program and its secrets: none in the log at any level (G4), none too short (F5).
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::string_slice,
    dead_code, // of what the visitor can do, some is for the other tests
    reason = "tests"
)]

use std::{
    net::SocketAddr,
    path::Path,
    process::{Command, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};
use url::Url;
use wxgate::emulator::{Emulator, Settings};

#[path = "it/echo.rs"]
mod echo;
#[path = "it/visitor.rs"]
mod visitor;

use visitor::{Answer, Visitor, raw};

const SESSION_KEY: &str = "4f1c9a5be03d7628d1f0a97b3c5e8642";
const APP_SECRET: &str = "0123456789abcdef0123456789abcde7";
const CLIENT_SECRET: &str = "77d0e7b1f46c2a8534f1c9a5be03d762";

/// What must not be in the log, and what each is.
struct Secrets {
    known: Vec<(String, String)>,
    wechat: SocketAddr,
}

impl Secrets {
    fn new(wechat: SocketAddr) -> Self {
        let mut secrets = Self { known: Vec::new(), wechat };
        secrets.add("app secret", APP_SECRET);
        secrets.add("session key", SESSION_KEY);
        secrets.add("client secret", CLIENT_SECRET);
        secrets
    }

    fn add(&mut self, what: &str, value: &str) {
        // Short values would be found by chance.
        if value.len() >= 8 && !self.known.iter().any(|(_, known)| known == value) {
            self.known.push((what.to_owned(), value.to_owned()));
        }
    }

    /// Whatever an answer shows the browser: codes and states in its address, cookies of ours.
    fn note(&mut self, answer: &Answer) {
        if let Some(location) = answer.header("location")
            && let Ok(url) = Url::parse("http://h5.example.com").unwrap().join(location)
        {
            for (name, value) in url.query_pairs() {
                if matches!(&*name, "code" | "state" | "ticket") {
                    self.add(&name, &value);
                }
            }
        }
        for cookie in answer.all("set-cookie").filter(|cookie| cookie.starts_with("wxgate")) {
            let (name, rest) = cookie.split_once('=').unwrap();
            self.add(name, rest.split(';').next().unwrap());
        }
    }
}

/// Like [`Visitor::open`], but remembers on the way what is secret.
async fn walk(visitor: &mut Visitor, path: &str, secrets: &mut Secrets) -> Answer {
    let mut answer = visitor.get(path).await;
    let mut at = path.to_owned();
    for _ in 0..12 {
        secrets.note(&answer);
        if !(300..400).contains(&answer.status) {
            // WeChat's page that asks for consent: yes.
            let links = answer.text.split("href=\"").filter_map(|rest| rest.split('"').next());
            let Some(yes) =
                links.map(|it| it.replace("&amp;", "&")).find(|it| it.contains("answer=allow"))
            else {
                return answer;
            };
            let base = Url::parse(&format!("http://{}", secrets.wechat)).unwrap();
            answer = Answer::redirect(base.join(&yes).unwrap().as_str());
        }
        let (url, next) = visitor.follow(&answer, &at).await;
        url[url::Position::BeforePath..].clone_into(&mut at);
        answer = next;
    }
    panic!("redirected for ever: {answer:?}");
}

/// Stands between the gateway and WeChat's API and writes down what is said: it is the only way
/// to learn the tokens.
async fn overhear(wechat: SocketAddr, heard: Arc<Mutex<Vec<u8>>>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (near, _) = listener.accept().await.unwrap();
            let far = TcpStream::connect(wechat).await.unwrap();
            let ((mut asks, mut told), (mut says, mut asked)) =
                (near.into_split(), far.into_split());
            tokio::spawn(async move { tokio::io::copy(&mut asks, &mut asked).await });
            let heard = Arc::clone(&heard);
            tokio::spawn(async move {
                let mut buffer = [0; 4096];
                while let Ok(count @ 1..) = says.read(&mut buffer).await {
                    heard.lock().unwrap().extend_from_slice(&buffer[..count]);
                    told.write_all(&buffer[..count]).await.unwrap();
                }
            });
        }
    });
    address
}

async fn fault(wechat: SocketAddr, json: &str) {
    let request = format!(
        "POST /_emulator/faults HTTP/1.1\r\nhost: {wechat}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{json}",
        json.len()
    );
    let answer = raw(wechat, &request).await;
    assert!(answer.starts_with("HTTP/1.1 20"), "{answer}");
}

fn configuration(wechat: SocketAddr, api: SocketAddr, site: SocketAddr) -> String {
    format!(
        r#"
[server]
listen = ["127.0.0.1:0"]
workers = 1
drain = "1s"
[admin]
listen = "127.0.0.1:0"
[session]
keys = [{{ id = "k1", secret = "{SESSION_KEY}" }}]
[[account]]
name = "main"
app_id = "wx0123456789abcdef"
app_secret = "{APP_SECRET}"
authorize_url = "http://{wechat}"
api_urls = ["http://127.0.0.1:1", "http://{api}"]
[[site]]
hosts = ["h5.example.com"]
public_url = "http://h5.example.com"
account = "main"
upstream = ["http://{site}"]
profile_refresh = "1h"
[[site.route]]
path = "/static/*"
auth = "none"
[[site.route]]
path = "/member/*"
scope = "snsapi_userinfo"
prompt = "direct"
[broker]
host = "auth.example.com"
public_url = "http://auth.example.com"
[[broker.client]]
name = "news"
account = "main"
return_to = ["https://h5.example.com/"]
result = "ticket"
secret = "{CLIENT_SECRET}"
jssdk = true
"#
    )
}

/// Logins good and bad, and requests that should never have been sent.
async fn a_bad_day(gateway: SocketAddr, secrets: &mut Secrets) {
    let wechat = secrets.wechat;
    let mut phone = Visitor::wechat(gateway);
    assert_eq!(walk(&mut phone, "/orders", secrets).await.status, 200);
    let consent = walk(&mut phone, "/member/card", secrets).await;
    assert_eq!((consent.status, consent.received("x-wechat-nickname").len()), (200, 1), "consent");
    for path in ["/_wx/session", "/_wx/logout", "/static/a.js", "/orders?x=1"] {
        secrets.note(&phone.get(path).await);
    }
    for json in [
        r#"{"at":"access_token","errcode":40163,"times":1}"#,
        r#"{"at":"access_token","errcode":40029,"times":1}"#,
        r#"{"at":"access_token","errcode":40125,"times":1}"#,
        r#"{"at":"access_token","garbage":true,"times":1}"#,
        r#"{"at":"access_token","http_status":500,"times":1}"#,
        r#"{"at":"authorize","decline":true,"times":1}"#,
    ] {
        fault(wechat, json).await;
        walk(&mut Visitor::wechat(gateway), "/orders", secrets).await;
    }
    at_the_broker(gateway, secrets).await;
    odd_requests(gateway, phone, secrets).await;
}

/// What a client of the broker and its server do, right and wrong.
async fn at_the_broker(gateway: SocketAddr, secrets: &mut Secrets) {
    let base = "/api/wechat";
    let auth =
        format!("{base}/auth?scope=snsapi_userinfo&url=https%3A%2F%2Fh5.example.com%2Fstatic%2F");
    let mut phone = Visitor { host: "auth.example.com", ..Visitor::wechat(gateway) };
    for json in [
        "{\"at\":\"userinfo\",\"errcode\":42001,\"times\":1}",
        "{\"at\":\"access_token\",\"errcode\":40125,\"times\":1}",
    ] {
        fault(secrets.wechat, json).await;
        walk(&mut phone, &auth, secrets).await;
    }
    let tickets: Vec<String> = secrets
        .known
        .iter()
        .filter(|(what, _)| what == "ticket")
        .map(|(_, it)| it.clone())
        .collect();
    assert!(!tickets.is_empty(), "no ticket");
    let signed = format!("{base}/jssdk?url=https%3A%2F%2Fh5.example.com%2F");
    assert_eq!(phone.script().get(&signed).await.status, 200);
    secrets.add("wrong secret", "a-secret-that-was-guessed-at");
    secrets.add("code", "another-made-up-code");
    for secret in [CLIENT_SECRET, "a-secret-that-was-guessed-at"] {
        let bearer = format!("Bearer {secret}");
        let headers = [("authorization", bearer.as_str())];
        for ticket in &tickets {
            let form = format!("ticket={ticket}");
            let answer = phone.send("POST", &format!("{base}/redeem"), &headers, &form).await;
            if let Some((_, rest)) = answer.text.split_once("\"assertion\":\"") {
                secrets.add("assertion", rest.split('"').next().unwrap());
            }
        }
        let code = format!("{base}/getWxUserInfo?code=another-made-up-code");
        let _ = phone.send("GET", &code, &headers, "").await;
    }
    assert!(secrets.known.iter().any(|(what, _)| what == "assertion"), "nothing redeemed");
}

/// Callbacks of others, cookies cut short, and what is no HTTP.
async fn odd_requests(gateway: SocketAddr, mut phone: Visitor, secrets: &mut Secrets) {
    // A callback in another browser, one with a state of nobody's, and one twice.
    let mut attacker = Visitor::wechat(gateway);
    let away = attacker.get("/orders").await;
    secrets.note(&away);
    let (_, back) = attacker.follow(&away, "/").await;
    secrets.note(&back);
    let callback = back.location().split_once("example.com").unwrap().1.to_owned();
    secrets.note(&Visitor::wechat(gateway).get(&callback).await);
    let made_up = "/_wx/callback?code=made-up-code-1234&state=0123456789abcdef";
    secrets.add("code", "made-up-code-1234");
    let _ = phone.get(made_up).await;
    let _ = Visitor::wechat(gateway).get(made_up).await;
    let _ = Visitor::wechat(gateway).get(&format!("{made_up}&code=made-up-code-1234")).await;
    // Cookies that are no longer what they were, and our secrets where they do not belong.
    let cookie = phone.cookie("wxgate");
    for (name, value) in [
        ("cookie", format!("wxgate={cookie}A")),
        ("cookie", format!("wxgate={cookie}; wxgate={cookie}")),
        ("referer", format!("http://h5.example.com{made_up}")),
        ("authorization", format!("Bearer {cookie}")),
    ] {
        let answer = phone.send("GET", "/orders", &[(name, &value)], "").await;
        secrets.note(&answer);
    }
    for line in [
        format!("GET {callback} HTTP/9.9"),
        format!("GET /_wx/%zz?{} HTTP/1.1", callback.split_once('?').unwrap().1),
        format!("GET /%00{callback} HTTP/1.1"),
        format!("CONNECT {callback} HTTP/1.1"),
        callback.clone(),
    ] {
        let head = format!("{line}\r\nhost: h5.example.com\r\ncookie: wxgate={cookie}\r\n");
        let _ = raw(gateway, &format!("{head}connection: close\r\n\r\n")).await;
        let _ = raw(gateway, &format!("{head}host: other\r\nconnection: close\r\n\r\n")).await;
    }
    let bye = phone.send("POST", "/_wx/logout", &[("origin", "http://h5.example.com")], "").await;
    assert_eq!(bye.status, 200);
}

type Lines = BufReader<tokio::process::ChildStdout>;

/// The real program, with its log.
fn start(config: &Path) -> (tokio::process::Child, Lines, String) {
    let mut gateway = tokio::process::Command::new(env!("CARGO_BIN_EXE_wxgate"))
        .args(["serve", "--config"])
        .arg(config)
        .env("RUST_LOG", "trace")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let lines = BufReader::new(gateway.stdout.take().unwrap());
    (gateway, lines, String::new())
}

/// Reads the log up to a line that holds `word`.
async fn read_up_to(word: &str, lines: &mut Lines, log: &mut String) -> String {
    loop {
        let from = log.len();
        assert!(lines.read_line(log).await.unwrap() > 0, "no {word}:\n{log}");
        if log[from..].contains(word) {
            return log[from..].to_owned();
        }
    }
}

async fn listening(lines: &mut Lines, log: &mut String) -> SocketAddr {
    let line = read_up_to("\"listening\"", lines, log).await;
    let line: serde_json::Value = serde_json::from_str(&line).unwrap();
    line["address"].as_str().unwrap().parse().unwrap()
}

fn signal(gateway: &tokio::process::Child, name: &str) {
    let pid = gateway.id().unwrap().to_string();
    assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
}

#[tokio::test]
async fn g4_nothing_secret_is_in_the_log_even_at_trace() {
    let site = echo::Echo::start().await;
    let emulator = Emulator::bind(Settings::new(([127, 0, 0, 1], 0).into())).await.unwrap();
    let wechat = emulator.addr().unwrap();
    tokio::spawn(emulator.serve(std::future::pending()));
    let heard = Arc::new(Mutex::new(Vec::new()));
    let api = overhear(wechat, Arc::clone(&heard)).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.toml");
    std::fs::write(&path, configuration(wechat, api, site.addr)).unwrap();
    let (mut gateway, mut lines, mut log) = start(&path);
    let address = listening(&mut lines, &mut log).await;
    let reading = tokio::spawn(async move {
        lines.read_to_string(&mut log).await.unwrap();
        log
    });

    let mut secrets = Secrets::new(wechat);
    a_bad_day(address, &mut secrets).await;

    signal(&gateway, "-TERM");
    let mut complaints = String::new();
    let mut stderr = gateway.stderr.take().unwrap();
    stderr.read_to_string(&mut complaints).await.unwrap();
    assert!(gateway.wait().await.unwrap().success(), "{complaints}");
    let log = reading.await.unwrap() + &complaints;

    let heard = String::from_utf8_lossy(&heard.lock().unwrap()).into_owned();
    for name in ["access_token", "refresh_token", "ticket"] {
        for part in heard.split(&format!("\"{name}\":\"")).skip(1) {
            secrets.add(name, part.split('"').next().unwrap());
        }
    }
    // The test sees what it should see …
    let count =
        |what: &str| secrets.known.iter().filter(|(name, _)| name.starts_with(what)).count();
    for (what, least) in
        [("code", 6), ("state", 8), ("wxgate-flow-", 8), ("access_token", 2), ("refresh_token", 2)]
    {
        assert!(count(what) >= least, "only {} of {what}", count(what));
    }
    assert!(secrets.known.iter().any(|(what, _)| what == "wxgate"), "no session cookie");
    for word in ["login finished", "\"access\"", "40163", "40125"] {
        assert!(log.contains(word), "{word} is not in the log");
    }
    assert!(!cfg!(debug_assertions) || log.contains("\"TRACE\""), "not at trace");
    // … and nothing of it is in the log, whole or in a good part.
    for (what, value) in &secrets.known {
        let part = &value[..value.len().min(24)];
        let line = log.lines().find(|line| {
            line.contains(value.as_str()) || (value.len() > 40 && line.contains(&value[20..]))
        });
        assert_eq!(line, None, "{what} {part}… is in the log");
    }
}

#[tokio::test]
async fn f5_a_bad_key_stops_a_start_and_not_a_gateway_that_runs() {
    let site = echo::Echo::start().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.toml");
    let nobody = ([127, 0, 0, 1], 1).into();
    let good = configuration(nobody, nobody, site.addr);
    let key = format!("secret = \"{SESSION_KEY}\"");
    let bad = [
        "secret = \"0123456789abcdef0123456789abcde\"", // 31 bytes
        "secret = \"\"",
        "secret = { env = \"WXGATE_NO_SUCH_VARIABLE\" }",
        "secret = { file = \"no-such-file\" }",
    ];
    for secret in bad {
        std::fs::write(&path, good.replace(&key, secret)).unwrap();
        let (mut gateway, _lines, _) = start(&path);
        assert_eq!(gateway.wait().await.unwrap().code(), Some(78), "{secret}");
    }
    std::fs::write(&path, &good).unwrap();
    let (mut gateway, mut lines, mut log) = start(&path);
    let address = listening(&mut lines, &mut log).await;
    let mut visitor = Visitor::desktop(address);
    assert_eq!(visitor.get("/static/a").await.status, 200);
    // It looks at the file by itself, once it has begun to; until then a signal would end it.
    let stays = "the old one stays";
    loop {
        std::fs::write(&path, good.replace(&key, bad[0])).unwrap();
        let seen = read_up_to(stays, &mut lines, &mut log);
        if tokio::time::timeout(Duration::from_secs(3), seen).await.is_ok() {
            break;
        }
    }
    for secret in bad {
        std::fs::write(&path, good.replace(&key, secret)).unwrap();
        signal(&gateway, "-HUP");
        read_up_to(stays, &mut lines, &mut log).await;
        assert_eq!(visitor.get("/static/a").await.status, 200, "{secret}");
    }
    signal(&gateway, "-TERM");
    assert!(gateway.wait().await.unwrap().success());
}
