//! New settings between two requests.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use rustls::RootCertStore;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, sleep, timeout},
};
use tokio_rustls::client::TlsStream;

use crate::{
    echo::Echo,
    fleet::Process,
    harness::{KEY, ROUTES, TestConfig, TestGateway},
    load::{Load, Talker, Wrk},
    redis::free_port,
    tls::connect,
    visitor::{Visitor, raw},
};

#[tokio::test]
async fn routes_change_between_two_requests() {
    let street = TestGateway::usual().await;
    let mut visitor = Visitor::desktop(street.gateway);
    assert_eq!(visitor.get("/orders").await.status, 403);
    street.reload(&TestConfig::site("[[site.route]]\npath = \"/*\"\nauth = \"none\""));
    assert_eq!(visitor.get("/orders").await.status, 200);
    street.reload(&TestConfig::site(ROUTES));
    assert_eq!(visitor.get("/orders").await.status, 403);
    street.close().await;
}

#[tokio::test]
async fn keys_rotate_without_logging_anybody_out() {
    let street = TestGateway::usual().await;
    let mut visitor = Visitor::wechat(street.gateway);
    let _ = visitor.open("/").await;
    let new = "fedcba9876543210fedcba9876543210";
    let ring =
        |keys: &str| TestConfig { session: format!("keys = [{keys}]"), ..TestConfig::site(ROUTES) };
    let (old, next) = (
        format!("{{ id = \"k1\", secret = \"{KEY}\" }}"),
        format!("{{ id = \"k2\", secret = \"{new}\" }}"),
    );

    street.reload(&ring(&format!("{next}, {old}")));
    assert_eq!(visitor.get("/orders").await.status, 200, "the old key still verifies");
    let mut newcomer = Visitor::wechat(street.gateway);
    let _ = newcomer.open("/").await;

    street.reload(&ring(&next));
    assert_eq!(visitor.get("/orders").await.status, 302, "and then it does not");
    assert_eq!(newcomer.get("/orders").await.status, 200, "the new one signed");
    street.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_change_thirty_times_and_no_request_fails() {
    let street = TestGateway::usual().await;
    let mut inside = Visitor::wechat(street.gateway);
    let _ = inside.open("/orders").await;
    let load = Load::start(street.gateway);
    for round in 0..30 {
        load.goes_on(20).await;
        let more = format!("{ROUTES}\n[[site.route]]\npath = \"/round/{round}\"\nauth = \"none\"");
        street.reload(&TestConfig::site(&more));
        assert_eq!(inside.get("/orders").await.status, 200, "round {round}");
        let public = Visitor::desktop(street.gateway).get(&format!("/round/{round}")).await;
        assert_eq!(public.status, 200, "the new rules are in force");
    }
    assert!(load.end().await > 600);
    street.close().await;
}

/// A gateway as a process, whose file is written anew again and again.
struct Rewritten {
    street: TestGateway,
    sites: [Echo; 2],
    folder: tempfile::TempDir,
    plain: SocketAddr,
    tls: SocketAddr,
    admin: SocketAddr,
}

impl Rewritten {
    async fn new() -> Self {
        let mut free = Vec::new();
        for _ in 0..3 {
            free.push(SocketAddr::from(([127, 0, 0, 1], free_port().await)));
        }
        Self {
            street: TestGateway::usual().await,
            sites: [Echo::start().await, Echo::start().await],
            folder: tempfile::tempdir().unwrap(),
            plain: free[0],
            tls: free[1],
            admin: free[2],
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A new certificate in the place of the old one, and who believes in it alone.
    fn certify(&self) -> RootCertStore {
        let made = Made::new();
        std::fs::write(self.path("cert.pem"), made.cert).unwrap();
        std::fs::write(self.path("key.pem"), made.key).unwrap();
        made.roots
    }

    /// The file of a round: a route of its own, and what else changes in turn.
    fn write(&self, round: usize, end: &str) {
        let (old, new) = (
            format!("{{ id = \"k1\", secret = \"{KEY}\" }}"),
            "{ id = \"k2\", secret = \"fedcba9876543210fedcba9876543210\" }",
        );
        let keys = if round % 4 < 2 { format!("{old}, {new}") } else { format!("{new}, {old}") };
        let upstreams = match round % 3 {
            0 => format!("\"http://{}\"", self.sites[0].addr),
            1 => format!("\"http://{}\"", self.sites[1].addr),
            _ => format!("\"http://{}\", \"http://{}\"", self.sites[0].addr, self.sites[1].addr),
        };
        let (cert, key) = (self.path("cert.pem"), self.path("key.pem"));
        let server = format!(
            "[server.tls]\nlisten = [\"{}\"]\ncertificates = [{{ cert = \"{}\", key = \"{}\" }}]",
            self.tls,
            cert.display(),
            key.display()
        );
        let site =
            format!("{ROUTES}\n[[site.route]]\npath = \"/round/{round}\"\nauth = \"none\"\n");
        let more = format!("[admin]\nlisten = \"{}\"\n{end}", self.admin);
        let plan = TestConfig {
            server,
            session: format!("keys = [{keys}]"),
            more,
            ..TestConfig::site(&site)
        };
        let text = plan.text(self.street.wechat, &upstreams);
        let text = text.replace("[\"127.0.0.1:0\"]", &format!("[\"{}\"]", self.plain));
        std::fs::write(self.path("config.toml"), text).unwrap();
    }

    async fn status(&self, round: usize) -> u16 {
        Visitor::desktop(self.plain).get(&format!("/round/{round}")).await.status
    }

    async fn refused(&self) -> String {
        let request = "GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
        let metrics = raw(self.admin, request).await;
        let mut lines = metrics.lines().map(str::to_owned);
        lines
            .find(|line| line.contains("config_reloads_total{result=\"refused\"}"))
            .unwrap_or_default()
    }
}

/// A certificate, its key, and who believes in it alone.
pub struct Made {
    pub cert: String,
    pub key: String,
    pub roots: RootCertStore,
}

impl Made {
    pub fn new() -> Self {
        let made = rcgen::generate_simple_self_signed(vec!["h5.example.com".to_owned()]).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(made.cert.der().clone()).unwrap();
        Self { cert: made.cert.pem(), key: made.signing_key.serialize_pem(), roots }
    }
}

/// Until it holds.
pub async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !holds().await {
        assert!(begun.elapsed() < Duration::from_secs(10), "never: {what}");
        sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_changes_under_load_and_no_request_fails() {
    let it = Rewritten::new().await;
    let mut roots = it.certify();
    it.write(0, "");
    let process = Process::start(&it.path("config.toml"), it.plain, it.admin.port()).await;
    let mut inside = Visitor::wechat(it.plain);
    assert_eq!(inside.open("/orders").await.1.status, 200);
    let (load, mut talker) = (Load::start(it.plain), Talker::start(it.plain).await);
    let (plain, tls) =
        (format!("http://{}/static/a", it.plain), format!("https://{}/static/a", it.tls));
    let wrks = [
        Wrk::start(&plain, "-c 8"),
        Wrk::start(&plain, "-c 4 -H Connection:close"),
        Wrk::start(&tls, "-c 4"),
        Wrk::start(&tls, "-c 2 -H Connection:close"),
    ];
    for round in 1..=24 {
        load.goes_on(20).await;
        if round % 4 == 0 {
            // A bad file: nothing changes.
            let before = it.refused().await;
            it.write(round, "nonsense = true");
            process.signal("HUP").await;
            until("refused", async || it.refused().await != before).await;
            assert_eq!((it.status(round).await, it.status(round - 1).await), (403, 200));
        } else {
            roots = if round % 2 == 0 { it.certify() } else { roots };
            it.write(round, "");
            process.signal("HUP").await;
            until("the new rules", async || it.status(round).await == 200).await;
        }
        until("the certificate", async || {
            connect(it.tls, &roots, "h5.example.com", b"http/1.1").await.is_ok()
        })
        .await;
        assert_eq!(inside.get("/orders").await.status, 200, "round {round}: nobody is logged out");
        assert!(talker.talk().await, "round {round}: a WebSocket goes on");
    }
    for wrk in wrks {
        assert!(wrk.end().await > 100);
    }
    assert!(load.end().await > 480);
    let hits: Vec<usize> = it.sites.iter().map(Echo::hits).collect();
    assert!(hits.iter().all(|hits| *hits > 100), "both sites were asked: {hits:?}");
    it.street.close().await;
}

/// A page over a connection that was there before.
pub async fn goes_on(connection: &mut TlsStream<TcpStream>) -> bool {
    let request = "GET /static/a HTTP/1.1\r\nhost: h5.example.com\r\n\r\n";
    connection.write_all(request.as_bytes()).await.unwrap();
    let mut head = [0; 15];
    connection.read_exact(&mut head).await.unwrap();
    let mut rest = [0; 4096];
    while !rest.starts_with(b"0\r\n") {
        let count = timeout(Duration::from_millis(200), connection.read(&mut rest)).await;
        let Ok(count) = count else { break };
        assert_ne!(count.unwrap(), 0, "it was closed");
    }
    head == *b"HTTP/1.1 200 OK"
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_are_read_when_their_files_change() {
    let it = Rewritten::new().await;
    let old = it.certify();
    it.write(0, "");
    let log = std::fs::File::create(it.path("log")).unwrap();
    let file = it.path("config.toml");
    let _process = Process::start_into(&file, it.plain, it.admin.port(), log.into()).await;
    let shows = async |roots: &RootCertStore| {
        connect(it.tls, roots, "h5.example.com", b"http/1.1").await.is_ok()
    };
    let mut before = connect(it.tls, &old, "h5.example.com", b"http/1.1").await.unwrap();
    assert!(goes_on(&mut before).await);

    // Nobody sends a signal, and the configuration stays as it is.
    let (half, next) = (Made::new(), Made::new());
    let bad = [
        ("a half-written certificate", "cert.pem", &half.cert[..half.cert.len() / 2]),
        ("an empty certificate", "cert.pem", ""),
        ("a certificate without its key", "cert.pem", &next.cert),
    ];
    for (number, (what, name, text)) in bad.into_iter().enumerate() {
        std::fs::write(it.path(name), text).unwrap();
        let refused = format!("{{result=\"refused\"}} {}", number + 1);
        until(what, async || it.refused().await.ends_with(&refused)).await;
        assert!(shows(&old).await, "{what}: the old one stays");
    }
    let said = std::fs::read_to_string(it.path("log")).unwrap();
    for line in ["cannot read", "cannot use the certificate", "the old one stays"] {
        assert!(said.contains(line), "{line}: {said}");
    }
    assert!(!said.contains("certificates reloaded") && !said.contains("PRIVATE KEY"), "{said}");

    // The key follows, and under another inode, as certbot writes it.
    std::fs::write(it.path("key.new"), &next.key).unwrap();
    std::fs::rename(it.path("key.new"), it.path("key.pem")).unwrap();
    until("the new certificate", async || shows(&next.roots).await).await;
    assert!(!shows(&old).await, "the old one is gone");
    assert!(goes_on(&mut before).await, "who was connected before stays so");
    assert!(it.refused().await.ends_with(" 3"));

    // Other files that the configuration names, and that fit only later, are looked after too.
    let config = std::fs::read_to_string(it.path("config.toml")).unwrap();
    let moved = config.replace("cert.pem", "later.pem");
    std::fs::write(it.path("later.pem"), &half.cert).unwrap();
    std::fs::write(it.path("config.toml"), moved).unwrap();
    until("refused", async || it.refused().await.ends_with(" 4")).await;
    std::fs::write(it.path("key.pem"), &half.key).unwrap();
    until("the other file", async || shows(&half.roots).await).await;
    let said = std::fs::read_to_string(it.path("log")).unwrap();
    assert!(!said.contains("only a restart"), "a path is no reason for a restart: {said}");
    it.street.close().await;
}
