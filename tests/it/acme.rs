//! Certificates that are ordered, from a real authority.

use std::{
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use rustls::RootCertStore;
use tokio::{net::TcpStream, time::Instant};
use tokio_rustls::client::TlsStream;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::{
    fleet::Process,
    harness::{ROUTES, TestConfig, TestGateway},
    openssl,
    pebble::Pebble,
    redis::{Redis, free_port},
    reload::{Made, goes_on, until},
    tls::connect,
    visitor::{Visitor, raw},
};

const H5: &str = "h5.example.com";
const WWW: &str = "www.example.com";

/// A gateway as a process, and the authority it orders from.
struct Place {
    street: TestGateway,
    folder: tempfile::TempDir,
    plain: SocketAddr,
    tls: SocketAddr,
    admin: SocketAddr,
    pebble: Pebble,
}

impl Place {
    /// With an authority whose certificates last so many seconds. Neither runs yet.
    async fn new(seconds: u32) -> Self {
        let tls = free_port().await;
        Self::asked_at(tls, tls, seconds).await
    }

    /// With one that connects to another port than ours.
    async fn asked_at(asked: u16, tls: u16, seconds: u32) -> Self {
        Self {
            street: TestGateway::usual().await,
            folder: tempfile::tempdir().unwrap(),
            plain: free().await,
            tls: SocketAddr::from(([127, 0, 0, 1], tls)),
            admin: free().await,
            pebble: Pebble::new(asked, seconds).await,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes the file, with these lines in `[server.tls]` and in `[server.acme]`.
    fn write(&self, name: &str, tls: &str, acme: &str) {
        let orders = self.pebble.table(&self.path("acme"), acme);
        let text = self.text([self.plain, self.tls, self.admin], &format!("{tls}\n{orders}"), "");
        std::fs::write(self.path(name), text).unwrap();
    }

    /// A configuration that listens there, with these lines after `listen` of `[server.tls]`.
    fn text(&self, [plain, tls, admin]: [SocketAddr; 3], lines: &str, more: &str) -> String {
        let server = format!("[server.tls]\nlisten = [\"{tls}\"]\n{lines}");
        let more = format!("[admin]\nlisten = \"{admin}\"\n{more}");
        let plan = TestConfig { server, more, ..TestConfig::site(ROUTES) };
        let text = plan.text(self.street.wechat, &format!("\"http://{}\"", self.street.site.addr));
        text.replace("[\"127.0.0.1:0\"]", &format!("[\"{plain}\"]"))
    }

    /// Another gateway that orders from the same authority: with this folder and this store.
    async fn another(&self, storage: &str, store: &str) -> (SocketAddr, Process) {
        let [plain, tls, admin] = [free().await, free().await, free().await];
        let orders = self.pebble.table(&self.path(storage), "domains = [\"h5.example.com\"]");
        let file = self.path(&format!("{}.toml", tls.port()));
        std::fs::write(&file, self.text([plain, tls, admin], &orders, store)).unwrap();
        let log = std::fs::File::options().create(true).append(true).open(self.path("log"));
        (tls, Process::start_into(&file, plain, admin.port(), log.unwrap().into()).await)
    }

    /// A certificate in files, for h5, and the line that names them.
    fn file(&self) -> (Made, String) {
        let made = Made::new();
        let (cert, key) = (self.path("cert.pem"), self.path("key.pem"));
        std::fs::write(&cert, &made.cert).unwrap();
        std::fs::write(&key, &made.key).unwrap();
        let [cert, key] = [cert.display(), key.display()];
        (made, format!("certificates = [{{ cert = \"{cert}\", key = \"{key}\" }}]"))
    }

    async fn serve(&self) -> Process {
        let log = std::fs::File::options().create(true).append(true).open(self.path("log"));
        let file = self.path("config.toml");
        Process::start_into(&file, self.plain, self.admin.port(), log.unwrap().into()).await
    }

    async fn handshake(
        &self,
        roots: &RootCertStore,
        name: &'static str,
        protocol: &[u8],
    ) -> std::io::Result<TlsStream<TcpStream>> {
        connect(self.tls, roots, name, protocol).await
    }

    /// The serial number of the certificate that a name gets, if these roots believe in it.
    async fn serial(&self, roots: &RootCertStore, name: &'static str) -> Option<String> {
        let stream = self.handshake(roots, name, b"http/1.1").await.ok()?;
        let leaf = stream.get_ref().1.peer_certificates().unwrap()[0].clone();
        let (_, leaf) = X509Certificate::from_der(&leaf).unwrap();
        Some(leaf.raw_serial_as_string())
    }

    /// Waits for a certificate: a try in vain is repeated after ten seconds.
    async fn wait_for(&self, roots: &RootCertStore, name: &'static str) -> String {
        let begun = Instant::now();
        loop {
            if let Some(serial) = self.serial(roots, name).await {
                return serial;
            }
            assert!(begun.elapsed() < Duration::from_secs(30), "{}", self.log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn admin(&self, path: &str) -> String {
        let request =
            format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        raw(self.admin, &request).await
    }

    /// Whether the status page has this trouble.
    async fn finds(&self, cause: &str) -> bool {
        self.admin("/status.json").await.contains(&format!("\"cause\":\"{cause}\""))
    }

    async fn counts(&self, line: &str) -> bool {
        self.admin("/metrics").await.lines().any(|it| it == line)
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap()
    }
}

async fn free() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], free_port().await))
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_comes_for_each_host_and_outlives_a_restart() {
    let mut it = Place::new(86_400).await;
    it.write("config.toml", "", "contact = \"mailto:ops@example.com\"");
    let process = it.serve().await;

    // The authority is away. We are there all the same: it has to reach us, and plain http has no
    // need of it. Visitors of https are refused in the handshake.
    until("the first tries", async || it.log().matches("certificate order failed").count() >= 2)
        .await;
    assert!(it.counts("wxgate_acme_up{domain=\"www.example.com\"} 0").await);
    assert!(it.admin("/readyz").await.starts_with("HTTP/1.1 200"));
    assert_eq!(Visitor::desktop(it.plain).get("/static/a").await.status, 200);
    let refused = openssl::says(it.tls, it.folder.path(), "-servername h5.example.com", "").await;
    assert!(refused.contains("alert access denied"), "{refused}");
    until("the page says so", async || it.finds("certificate_missing").await).await;
    let said = it.log();
    assert!(
        said.contains("certificate order failed") && said.contains("does not answer"),
        "{said}"
    );

    // It comes, and is asked again by itself.
    it.pebble.start().await;
    let roots = it.pebble.roots().await;
    it.wait_for(&roots, H5).await;
    it.wait_for(&roots, WWW).await;
    let serial = it.serial(&roots, H5).await;
    assert_ne!(serial, it.serial(&roots, WWW).await, "each name has its own");
    let mut visitor = it.handshake(&roots, H5, b"http/1.1").await.unwrap();
    assert!(goes_on(&mut visitor).await);
    let h2 = it.handshake(&roots, WWW, b"h2").await.unwrap();
    assert_eq!(h2.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    assert!(it.counts("wxgate_acme_up{domain=\"h5.example.com\"} 1").await);
    assert!(it.counts("wxgate_acme_orders_total{result=\"issued\"} 2").await);
    let metrics = it.admin("/metrics").await;
    for name in ["certificate_expiry_timestamp_seconds", "certificate_start_timestamp_seconds"] {
        assert!(metrics.contains(&format!("wxgate_{name}{{name=\"{H5}\"}}")), "{metrics}");
    }
    assert!(metrics.contains("wxgate_tls_handshakes_total{result=\"challenge\""), "{metrics}");
    until("the page says so", async || !it.finds("certificate_missing").await).await;

    // For us alone, and never in the log.
    let folder = it.path("acme").join(format!("127.0.0.1-{}-dir", it.pebble.port));
    assert_eq!((mode(&it.path("acme")), mode(&folder)), (0o700, 0o700));
    let mut files = Vec::new();
    for file in std::fs::read_dir(&folder).unwrap() {
        let file = file.unwrap();
        assert_eq!(mode(&file.path()), 0o600, "{:?}", file.path());
        files.push(file.file_name().into_string().unwrap());
    }
    for file in ["account.json", "h5.example.com.pem", "www.example.com.pem"] {
        assert!(files.iter().any(|it| it == file), "{files:?}");
    }
    let pem = std::fs::read_to_string(folder.join("h5.example.com.pem")).unwrap();
    let key = pem.split("PRIVATE KEY-----").nth(1).unwrap().trim().lines().next().unwrap();
    assert!(!it.log().contains(key) && !it.log().contains("PRIVATE KEY"));

    // A restart needs no authority: what was kept is shown from the first handshake on.
    drop(process);
    it.pebble.stop().await;
    let _process = it.serve().await;
    assert_eq!(it.serial(&roots, H5).await, serial);
    assert!(!it.counts("wxgate_acme_orders_total{result=\"failed\"} 1").await);
    it.street.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn renewals_come_in_time_and_the_old_certificate_outlives_its_authority() {
    let mut it = Place::new(12).await;
    it.pebble.start().await;
    let roots = it.pebble.roots().await;
    it.write("config.toml", "", "domains = [\"h5.example.com\"]");
    let _process = it.serve().await;
    let first = it.wait_for(&roots, H5).await;
    let mut before = it.handshake(&roots, H5, b"http/1.1").await.unwrap();
    assert!(goes_on(&mut before).await);

    // It is never over while a new one can be had.
    until("the second", async || it.serial(&roots, H5).await.expect("none is good") != first).await;
    assert!(goes_on(&mut before).await, "who was connected before stays so");

    // The authority goes. What is at hand stays, and the trouble is told.
    it.pebble.stop().await;
    until("trouble", async || it.counts("wxgate_acme_up{domain=\"h5.example.com\"} 0").await).await;
    let last = it.serial(&roots, H5).await;
    assert!(last.is_some());
    until("the page says so", async || it.finds("certificate_not_renewed").await).await;

    // Another is in its place, which knows nothing of our account.
    it.pebble.start().await;
    let others = it.pebble.roots().await;
    it.wait_for(&others, H5).await;
    assert!(goes_on(&mut before).await, "who was connected before stays so");
    it.street.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn domains_change_at_a_reload_and_one_process_orders() {
    let mut it = Place::new(86_400).await;
    it.pebble.start().await;
    let roots = it.pebble.roots().await;
    it.write("config.toml", "", "domains = [\"h5.example.com\"]");
    let process = it.serve().await;
    let serial = Some(it.wait_for(&roots, H5).await);
    assert!(it.serial(&roots, WWW).await.is_none(), "only what is named is ordered");

    it.write("config.toml", "", "domains = [\"h5.example.com\", \"www.example.com\"]");
    process.signal("HUP").await;
    it.wait_for(&roots, WWW).await;
    assert_eq!(it.serial(&roots, H5).await, serial, "what is there is not ordered again");

    // Another process, other ports, the same folder: it shows what the first one got.
    let (tls, other) = it.another("acme", "").await;
    let first = std::mem::replace(&mut it.tls, tls);
    assert_eq!(it.serial(&roots, H5).await, serial);
    it.tls = first;
    assert_eq!(it.pebble.said("Issued certificate serial"), 2);

    // A file that has the name comes first, and nothing is restarted for it.
    let (made, files) = it.file();
    it.write("config.toml", &files, "");
    process.signal("HUP").await;
    until("the file's", async || it.serial(&made.roots, H5).await.is_some()).await;
    assert!(it.serial(&roots, WWW).await.is_some());
    assert!(!it.log().contains("only a restart"), "{}", it.log());
    drop(other);
    it.street.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_challenge_is_answered_to_an_authority_and_changes_nothing_for_others() {
    // The authority is led to somebody who takes connections and says nothing, so that its
    // challenge lasts; then it gives up.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let asked = silent.local_addr().unwrap().port();
    let mut it = Place::asked_at(asked, free_port().await, 86_400).await;
    let (_, files) = it.file();
    it.pebble.start().await;
    it.write("config.toml", &files, ""); // the file has h5, so www alone is ordered
    let _process = it.serve().await;
    let says = async |options: &str| {
        let page = format!("GET /static/a HTTP/1.1\r\nhost: {H5}\r\nconnection: close\r\n\r\n");
        openssl::says(it.tls, it.folder.path(), options, &page).await
    };
    let challenge = "-servername WWW.example.com -alpn acme-tls/1";
    let mut answer = says(challenge).await;
    let begun = Instant::now();
    while !answer.contains("ALPN protocol: acme-tls/1") {
        assert!(begun.elapsed() < Duration::from_secs(10), "{answer}\n{}", it.log());
        answer = says(challenge).await;
    }
    assert!(!answer.contains("HTTP/1.1"), "nothing is spoken under this name: {answer}");
    assert!(answer.contains("self-signed certificate"), "{answer}");
    let (alone, among) = ("-servername www.example.com", "-servername www.example.com -alpn");
    for (options, alpn, served) in [
        (alone.to_owned(), "No ALPN negotiated", true),
        (format!("{among} http/1.1"), "ALPN protocol: http/1.1", true),
        (format!("{among} acme-tls/1,http/1.1"), "ALPN protocol: http/1.1", true),
        (format!("{among} acme-tls/1,h2"), "ALPN protocol: h2", false),
        (format!("{among} acme-tls/1,spdy/3"), "alert access denied", false),
        (format!("{among} spdy/3"), "alert no application protocol", false),
        (format!("-servername {H5} -alpn acme-tls/1"), "alert access denied", false),
        ("-servername other.example.net -alpn acme-tls/1".to_owned(), "alert access denied", false),
        ("-servername .. -alpn acme-tls/1".to_owned(), "alert", false),
        ("-noservername -alpn acme-tls/1".to_owned(), "alert access denied", false),
    ] {
        let answer = says(&options).await;
        assert!(answer.contains(alpn), "{options}: no {alpn:?} in {answer}");
        assert_eq!(answer.contains("HTTP/1.1 200"), served, "{options}: {answer}");
    }
    // The authority was not convinced: the log says why, and what helps.
    let begun = Instant::now();
    while !it.log().contains("certificate order failed") {
        assert!(begun.elapsed() < Duration::from_secs(40), "{}", it.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let said = it.log();
    assert!(said.contains("port 443 of this name") && said.contains("www.example.com"), "{said}");
    assert!(says(challenge).await.contains("alert access denied"), "the challenge is over");
    it.street.close().await;
}

#[tokio::test]
async fn check_asks_the_authority() {
    let mut it = Place::new(86_400).await;
    it.write("config.toml", "", "");
    let file = it.path("config.toml");
    let check = async |more: &[&str]| {
        let output = tokio::process::Command::new(env!("CARGO_BIN_EXE_wxgate"))
            .args(["check", "--config"])
            .arg(&file)
            .args(more)
            .output();
        String::from_utf8(output.await.unwrap().stdout).unwrap()
    };
    let line = |text: &str| {
        let found = text.lines().find(|line| line.contains("orders    127.0.0.1: "));
        found.unwrap_or_else(|| panic!("{text}")).to_owned()
    };
    let away = check(&["--online"]).await;
    assert!(line(&away).starts_with("bad"), "{away}");
    it.pebble.start().await;
    let there = check(&["--online"]).await;
    assert!(line(&there).starts_with("ok"), "{there}");
    assert!(line(&there).contains("data:text/plain"), "the terms of Pebble: {there}");
    let said = check(&[]).await;
    assert!(said.contains("Orders     h5.example.com, www.example.com from 127.0.0.1"), "{said}");
    it.street.close().await;
}

/// Takes connections for several, in turn.
async fn balancer(to: Vec<SocketAddr>, listener: tokio::net::TcpListener) {
    for turn in 0.. {
        let (mut here, _) = listener.accept().await.unwrap();
        let to = to[turn % to.len()];
        tokio::spawn(async move {
            let mut there = TcpStream::connect(to).await?;
            tokio::io::copy_bidirectional(&mut here, &mut there).await
        });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_order_once_answer_together_and_share_what_came() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let asked = listener.local_addr().unwrap().port();
    let mut it = Place::asked_at(asked, 0, 86_400).await;
    it.pebble.start().await;
    let roots = it.pebble.roots().await;
    let redis = Redis::start().await;
    let store = format!("[store]\nkind = \"redis\"\nurl = \"{}\"", redis.url());
    let (first, _one) = it.another("first", &store).await;
    let (second, _two) = it.another("second", &store).await;
    // The authority asks three times, and never the same one twice in a row.
    let balancer = tokio::spawn(balancer(vec![first, second], listener));
    let mut serials = Vec::new();
    for tls in [first, second] {
        it.tls = tls;
        serials.push(it.wait_for(&roots, H5).await);
    }
    assert_eq!(serials[0], serials[1]);
    assert_eq!(it.pebble.said("Issued certificate serial"), 1, "{}", it.log());

    // The store learns nothing of it, and what it has lost is put back.
    let name = format!("wxgate:acme:127.0.0.1-{}-dir:certificate:{H5}", it.pebble.port);
    let kept = async || redis.ask(&format!("GET {name}")).await;
    until("it is shared", async || kept().await.len() > 1_000).await;
    assert!(!kept().await.contains("BEGIN") && !kept().await.contains("LS0t"), "g4: in the clear");
    redis.ask("FLUSHALL").await;
    until("it is put back", async || kept().await.len() > 1_000).await;

    // One that comes later needs no authority. Somebody who writes garbage to the store stops nobody.
    it.pebble.stop().await;
    let (third, _three) = it.another("third", &store).await;
    it.tls = third;
    assert_eq!(it.wait_for(&roots, H5).await, serials[0]);
    redis.ask(&format!("SET {name} garbage")).await;
    tokio::time::sleep(Duration::from_secs(6)).await; // longer than they compare
    for tls in [first, second, third] {
        it.tls = tls;
        assert_eq!(it.serial(&roots, H5).await.as_ref(), Some(&serials[0]));
    }
    balancer.abort();
    it.street.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_authority_says_when_to_renew() {
    // Debian's Pebble gives no advice, so nginx in front of it does: always "now".
    let mut it = Place::new(72).await;
    it.pebble.start().await;
    let roots = it.pebble.roots().await;
    let shim = free().await;
    let paths = ["nonce-plz", "sign-me-up", "order-plz", "revoke-cert", "renewal-info"];
    let [nonce, account, order, revoke, info] = paths.map(|it| format!("https://{shim}/{it}"));
    let directory = format!(
        r#"{{"newNonce": "{nonce}", "newAccount": "{account}", "newOrder": "{order}", "revokeCert": "{revoke}", "renewalInfo": "{info}"}}"#
    );
    let advice =
        r#"{"suggestedWindow": {"start": "2020-01-01T00:00:00Z", "end": "2020-01-02T00:00:00Z"}}"#;
    let ca = it.pebble.ca();
    let config = format!(
        "daemon off;\nmaster_process off;\npid pid;\nerror_log stderr;\nevents {{}}\nhttp {{ access_log off; \
         client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path f; uwsgi_temp_path u; scgi_temp_path s;\n\
         server {{ listen {shim} ssl; ssl_certificate {0}; ssl_certificate_key {1};\n\
         location = /dir {{ default_type application/json; return 200 '{directory}'; }}\n\
         location /renewal-info/ {{ default_type application/json; add_header Retry-After 3600; return 200 '{advice}'; }}\n\
         location / {{ proxy_pass https://127.0.0.1:{2}; proxy_set_header Host $http_host; }} }} }}",
        ca.display(),
        ca.with_extension("key").display(),
        it.pebble.port
    );
    std::fs::write(it.path("nginx.conf"), config).unwrap();
    let _nginx = tokio::process::Command::new("nginx")
        .arg("-p")
        .arg(it.folder.path())
        .arg("-c")
        .arg(it.path("nginx.conf"))
        .args(["-e", "stderr"])
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    it.write("config.toml", "", "domains = [\"h5.example.com\"]");
    let text = std::fs::read_to_string(it.path("config.toml")).unwrap();
    let text = text.replace(&it.pebble.directory(), &format!("https://{shim}/dir"));
    std::fs::write(it.path("config.toml"), text).unwrap();
    let _process = it.serve().await;
    let first = it.wait_for(&roots, H5).await;
    let begun = Instant::now();
    until("the advice", async || it.serial(&roots, H5).await.as_ref() != Some(&first)).await;
    assert!(begun.elapsed() < Duration::from_secs(20), "long before two thirds of its life");
    assert!(it.log().contains("renewal time set by the CA"), "{}", it.log());
    let issued = it.pebble.said("Issued certificate serial");
    assert!(issued <= 3, "advice is taken within reason: {issued} orders");
    it.street.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_authority_that_knows_its_customers_is_told_who_we_are() {
    const KEY: &str = "8PHy8_T19vf4-fr7_P3-_wAAAAAAAAAAAAAAAAAAAAA";
    let mut it = Place::new(86_400).await;
    it.pebble.know("kid-1", KEY);
    it.pebble.start().await;
    let roots = it.pebble.roots().await;
    it.write("config.toml", "", "domains = [\"h5.example.com\"]");
    let process = it.serve().await;
    until("it is refused", async || it.log().contains("certificate order failed")).await;
    assert!(it.log().contains("externalAccountRequired"), "{}", it.log());
    assert!(it.log().contains("`eab_kid`"), "{}", it.log());
    let eab =
        format!("domains = [\"h5.example.com\"]\neab_kid = \"kid-1\"\neab_hmac_key = \"{KEY}\"");
    it.write("config.toml", "", &eab);
    process.signal("HUP").await;
    it.wait_for(&roots, H5).await;
    assert!(!it.log().contains(KEY), "g4: a key in the log");
    it.street.close().await;
}
