//! A site behind us with certificates of its own authority, over real TLS.

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::{RootCertStore, ServerConfig, pki_types::PrivateKeyDer, server::WebPkiClientVerifier};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::{Instant, sleep},
};
use tokio_rustls::TlsAcceptor;

use crate::{
    harness::{TestConfig, TestGateway},
    online,
    visitor::raw,
};

/// An authority, and the folder its files are in.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    der: rustls::pki_types::CertificateDer<'static>,
    folder: tempfile::TempDir,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let cert = params.self_signed(&key).unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ca.pem"), cert.pem()).unwrap();
        Self { der: cert.der().clone(), issuer: Issuer::new(params, key), folder }
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    fn roots(&self) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(self.der.clone()).unwrap();
        Arc::new(roots)
    }

    /// A certificate for a name and its key, which are also written to files.
    fn issue(&self, name: &str) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        let write = |end: &str, text: String| {
            std::fs::write(Path::new(&self.path(&format!("{name}.{end}"))), text).unwrap();
        };
        write("pem", cert.pem());
        write("key", key.serialize_pem());
        (cert, key)
    }

    /// A site that says which certificate it was shown; it demands one if told to.
    async fn serve(&self, name: &str, demands: bool) -> SocketAddr {
        let (cert, key) = self.issue(name);
        let builder = ServerConfig::builder();
        let builder = if demands {
            let verifier = WebPkiClientVerifier::builder(self.roots()).build().unwrap();
            builder.with_client_cert_verifier(verifier)
        } else {
            builder.with_no_client_auth()
        };
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let config = builder.with_single_cert(vec![cert.der().clone()], key).unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(answer(acceptor.clone(), stream));
            }
        });
        addr
    }
}

/// Says whether a certificate was shown, to whoever gets through the handshake.
async fn answer(acceptor: TlsAcceptor, stream: TcpStream) {
    let Ok(mut stream) = acceptor.accept(stream).await else { return };
    let shown = stream.get_ref().1.peer_certificates().is_some();
    let mut request = [0; 4096];
    while stream.read(&mut request).await.is_ok_and(|read| read > 0) {
        let text = if shown { "shown" } else { "alone" };
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n{text}");
        stream.write_all(answer.as_bytes()).await.unwrap();
    }
}

fn plan(addr: SocketAddr, tls: &str) -> TestConfig {
    let site =
        format!("[[site.route]]\npath = \"/*\"\nauth = \"none\"\n[site.upstream_tls]\n{tls}\n");
    TestConfig {
        upstream: Some(format!("\"https://localhost:{}\"", addr.port())),
        ..TestConfig::site(&site)
    }
}

async fn get(street: &TestGateway) -> String {
    let request = "GET / HTTP/1.1\r\nhost: h5.example.com\r\nconnection: close\r\n\r\n";
    raw(street.gateway, request).await
}

/// Waits until the status page says what was wrong with the server.
async fn says(street: &TestGateway, why: &str) {
    let request = "GET /status.json HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n";
    let (admin, begun) = (street.admin().await, Instant::now());
    loop {
        let page = raw(admin, request).await;
        if page.contains(why) {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(10), "{page}");
        sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn its_own_authority_is_believed_and_no_other() {
    let ours = Authority::new();
    let addr = ours.serve("localhost", false).await;
    let street = TestGateway::open(plan(addr, &format!("ca = \"{}\"", ours.path("ca.pem")))).await;
    let answer = get(&street).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("alone"), "{answer}");
    street.close().await;

    let other = Authority::new();
    let street = TestGateway::open(plan(addr, &format!("ca = \"{}\"", other.path("ca.pem")))).await;
    let answer = get(&street).await;
    assert!(answer.starts_with("HTTP/1.1 502"), "{answer}");
    says(&street, "invalid peer certificate").await;
    street.close().await;
}

#[tokio::test]
async fn the_certificate_is_for_the_name_that_was_written() {
    let ours = Authority::new();
    let addr = ours.serve("site.internal", false).await;
    let ca = format!("ca = \"{}\"", ours.path("ca.pem"));
    for (tls, status) in
        [(ca.clone(), 502), (format!("{ca}\nserver_name = \"site.internal\""), 200)]
    {
        let street = TestGateway::open(plan(addr, &tls)).await;
        let answer = get(&street).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{tls}: {answer}");
        street.close().await;
    }
}

#[tokio::test]
async fn a_site_that_asks_for_a_certificate_is_shown_one() {
    let ours = Authority::new();
    let addr = ours.serve("localhost", true).await;
    ours.issue("gateway");
    let ca = format!("ca = \"{}\"", ours.path("ca.pem"));
    let (cert, key) = (ours.path("gateway.pem"), ours.path("gateway.key"));
    let shown = format!("{ca}\ncert = \"{cert}\"\nkey = \"{key}\"");

    let street = TestGateway::open(plan(addr, &ca)).await;
    let answer = get(&street).await;
    assert!(answer.starts_with("HTTP/1.1 502"), "without one: {answer}");
    // A reload brings it, and what was open without it is not gone on with.
    street.reload(&plan(addr, &shown));
    let answer = get(&street).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("shown"), "{answer}");

    // The files are read again at every reload: a certificate of somebody else is refused.
    let other = Authority::new();
    let (cert, key) = other.issue("gateway");
    std::fs::write(ours.path("gateway.pem"), cert.pem()).unwrap();
    std::fs::write(ours.path("gateway.key"), key.serialize_pem()).unwrap();
    street.reload(&plan(addr, &shown));
    let answer = get(&street).await;
    assert!(answer.starts_with("HTTP/1.1 502"), "of a stranger: {answer}");
    street.close().await;
}

#[tokio::test]
async fn sites_that_share_a_server_share_no_credentials() {
    let ours = Authority::new();
    let addr = ours.serve("localhost", false).await;
    let mut plan = plan(addr, &format!("ca = \"{}\"", ours.path("ca.pem")));
    let upstream = plan.upstream.clone().unwrap();
    plan.more = format!(
        "[[site]]\nhosts = [\"other.example.com\"]\npublic_url = \"http://other.example.com\"\n\
         account = \"main\"\nupstream = {upstream}\n[[site.route]]\npath = \"/*\"\nauth = \"none\"\n"
    );
    let street = TestGateway::open(plan).await;
    for _ in 0..4 {
        assert!(get(&street).await.starts_with("HTTP/1.1 200"));
        // This one believes the system's authorities, whatever connections lie idle beside it.
        let other = "GET / HTTP/1.1\r\nhost: other.example.com\r\nconnection: close\r\n\r\n";
        let answer = raw(street.gateway, other).await;
        assert!(answer.starts_with("HTTP/1.1 502"), "{answer}");
    }
    street.close().await;
}

#[tokio::test]
async fn a_health_check_shows_the_same_certificate() {
    let authority = Authority::new();
    authority.issue("gateway");
    let addr = authority.serve("localhost", true).await;
    let checked = "[site.health]\npath = \"/\"\ninterval = \"100ms\"\nrise = 1\nfall = 1\n";
    let ca = format!("ca = \"{}\"\n", authority.path("ca.pem"));
    let shown = format!(
        "cert = \"{}\"\nkey = \"{}\"\n",
        authority.path("gateway.pem"),
        authority.path("gateway.key")
    );
    // No visitor comes: what is known is what the checks found.
    let street = TestGateway::open(plan(addr, &format!("{ca}{checked}"))).await;
    says(&street, "GET /: ").await;
    street.reload(&plan(addr, &format!("{ca}{shown}{checked}")));
    says(&street, "\"well\":true").await;
    street.close().await;
}

#[tokio::test]
async fn check_online_asks_a_site_as_the_gateway_would() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let addr = ours.serve("site.internal", true).await;
    ours.issue("client");
    theirs.issue("stranger");
    let street = TestGateway::usual().await;
    let (ca, name) =
        (format!("ca = \"{}\"", ours.path("ca.pem")), "server_name = \"site.internal\"");
    let shows = |it: &Authority, name: &str| {
        let (cert, key) = (it.path(&format!("{name}.pem")), it.path(&format!("{name}.key")));
        format!("cert = \"{cert}\"\nkey = \"{key}\"")
    };
    let (client, stranger) = (shows(&ours, "client"), shows(&theirs, "stranger"));
    let start =
        |state: &str| format!("{state:<6}upstream  https://localhost:{} of localhost", addr.port());
    let cases = [
        (format!("{ca}\n{name}\n{client}"), "ok", "answers HEAD / with 200"),
        (format!("{name}\n{client}"), "bad", "`ca` of [site.upstream_tls]"),
        (format!("{ca}\n{client}"), "bad", "`server_name` of [site.upstream_tls]"),
        (format!("{ca}\n{name}"), "bad", "give `cert` and `key`"),
        (format!("{ca}\n{name}\n{stranger}"), "bad", "does not take the certificate"),
    ];
    for (tls, state, words) in cases {
        let upstream = format!("\"https://localhost:{}\"", addr.port());
        let plan =
            TestConfig { site: format!("[site.upstream_tls]\n{tls}"), ..TestConfig::default() };
        let said = online::check(&online::local(&plan.text(street.wechat, &upstream)), &[]).await;
        assert!(said.line(&start(state)).contains(words), "{tls}: {}", said.text);
        assert_eq!(said.code == 0, state == "ok", "{}", said.text);
    }
    street.close().await;
}
