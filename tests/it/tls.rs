//! TLS and HTTP/2 from visitors, with the certificate that fits the name.

use std::{net::SocketAddr, path::Path, sync::Arc};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::harness::{ROUTES, TestConfig, TestGateway};

pub struct Certified {
    pub plan: TestConfig,
    pub roots: RootCertStore,
    pub folder: tempfile::TempDir,
}

/// Two certificates, for two names.
pub fn certified(names: &[&str]) -> Certified {
    let folder = tempfile::tempdir().unwrap();
    let mut roots = RootCertStore::empty();
    let mut files = Vec::new();
    for name in names {
        let made = rcgen::generate_simple_self_signed(vec![(*name).to_owned()]).unwrap();
        roots.add(made.cert.der().clone()).unwrap();
        files.push(write(folder.path(), name, &made.cert.pem(), &made.signing_key.serialize_pem()));
    }
    let server =
        format!("[server.tls]\nlisten = [\"127.0.0.1:0\"]\ncertificates = [{}]", files.join(", "));
    Certified { plan: TestConfig { server, ..TestConfig::site(ROUTES) }, roots, folder }
}

fn write(folder: &Path, name: &str, cert: &str, key: &str) -> String {
    let (cert_path, key_path) =
        (folder.join(format!("{name}.pem")), folder.join(format!("{name}.key")));
    std::fs::write(&cert_path, cert).unwrap();
    std::fs::write(&key_path, key).unwrap();
    format!("{{ cert = \"{}\", key = \"{}\" }}", cert_path.display(), key_path.display())
}

/// A connection over TLS that speaks this protocol.
pub async fn connect(
    addr: SocketAddr,
    roots: &RootCertStore,
    name: &'static str,
    protocol: &[u8],
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut config =
        ClientConfig::builder().with_root_certificates(roots.clone()).with_no_client_auth();
    config.alpn_protocols = vec![protocol.to_vec()];
    let stream = TcpStream::connect(addr).await.unwrap();
    TlsConnector::from(Arc::new(config)).connect(ServerName::try_from(name).unwrap(), stream).await
}

/// A visitor who speaks HTTP/2.
async fn http2(street: &TestGateway, certified: &Certified) -> SendRequest<Empty<Bytes>> {
    let stream =
        connect(street.tls.unwrap(), &certified.roots, "h5.example.com", b"h2").await.unwrap();
    let (sender, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

#[tokio::test]
async fn http2_visitors_are_served_and_judged_alike() {
    let certified = certified(&["h5.example.com", "www.example.com"]);
    let street = TestGateway::open(certified.plan.clone()).await;
    let mut sender = http2(&street, &certified).await;
    let cases = [
        ("https://h5.example.com/static/a", "h5.example.com", 200),
        ("https://h5.example.com/orders", "h5.example.com", 403),
        ("https://h5.example.com/static/../orders", "h5.example.com", 400),
        ("https://unknown.example.com/", "unknown.example.com", 421),
        ("https://h5.example.com/static/a", "evil.example", 400),
    ];
    for (uri, host, status) in cases {
        let mut request = http::Request::get(uri)
            .header("accept", "text/html")
            .header("cookie", "a=1")
            .header("cookie", "wxgate=x")
            .header("cookie", "b=2")
            .header("x-wechat-openid", "forged");
        if host != "h5.example.com" || status != 200 {
            request = request.header("host", host);
        }
        let response =
            sender.send_request(request.body(Empty::<Bytes>::new()).unwrap()).await.unwrap();
        assert_eq!(response.status(), status, "{uri} {host}");
        let text = response.into_body().collect().await.unwrap().to_bytes();
        let text = String::from_utf8_lossy(&text).into_owned();
        if status == 200 {
            assert!(text.contains("cookie: a=1; b=2\r\n"), "crumbs are joined: {text}");
            assert!(text.contains("host: h5.example.com\r\n"), "{text}");
            assert!(text.contains("x-forwarded-proto: https\r\n"), "{text}");
            assert!(!text.contains("forged"), "{text}");
        }
    }
    assert_eq!(street.site.hits(), 1);
    drop(sender);
    street.close().await;
}

#[tokio::test]
async fn b5_lengths_in_http2_are_one_number() {
    let certified = certified(&["h5.example.com"]);
    let street = TestGateway::open(certified.plan.clone()).await;
    let mut sender = http2(&street, &certified).await;
    for lengths in [&["0", "0"][..], &[""]] {
        let mut request = http::Request::post("https://h5.example.com/static/a");
        for length in lengths {
            request = request.header("content-length", *length);
        }
        let request = request.body(Empty::<Bytes>::new()).unwrap();
        let response = sender.send_request(request).await.unwrap();
        assert_eq!(response.status(), 400, "{lengths:?}");
    }
    assert_eq!(street.site.hits(), 0);
    drop(sender);
    street.close().await;
}

#[tokio::test]
async fn b7_headers_are_counted_over_http2_too() {
    let certified = certified(&["h5.example.com"]);
    let street = TestGateway::open(certified.plan.clone()).await;
    let mut sender = http2(&street, &certified).await;
    for (name, count, status) in
        [("x-a", 100, 200), ("x-a", 101, 431), ("x-a", 300, 431), ("cookie", 300, 200)]
    {
        let mut request = http::Request::get("https://h5.example.com/static/a");
        for _ in 0..count {
            request = request.header(name, "a=1");
        }
        let request = request.body(Empty::<Bytes>::new()).unwrap();
        let response = sender.send_request(request).await.unwrap();
        assert_eq!(response.status(), status, "{count} of {name}");
    }
    assert_eq!(street.site.hits(), 2);
    drop(sender);
    street.close().await;
}

#[tokio::test]
async fn each_name_gets_its_certificate() {
    let certified = certified(&["h5.example.com", "*.example.org"]);
    let street = TestGateway::open(certified.plan.clone()).await;
    let tls = street.tls.unwrap();
    for (name, good) in
        [("h5.example.com", true), ("shop.example.org", true), ("other.example.net", false)]
    {
        let outcome = connect(tls, &certified.roots, name, b"http/1.1").await;
        assert_eq!(outcome.is_ok(), good, "{name}");
    }
    street.close().await;
}
