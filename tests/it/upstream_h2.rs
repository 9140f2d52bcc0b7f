//! A site behind us that speaks HTTP/2: one connection for many requests, and what goes over it.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use h2::server::Builder;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::body::Frame;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Notify,
    time::timeout,
};

use crate::{
    h2::{DATA, END_HEADERS, END_STREAM, HEADERS, RST_STREAM, block, frame},
    h2_site::{self, Asked, ByHand, Site, echo, say},
    harness::{ROUTES, TestConfig, TestGateway},
    tls::{Certified, certified, connect},
    visitor::{Visitor, raw},
};

const H: &str = "host: h5.example.com\r\nconnection: close\r\n";

/// The usual routes before a site that is spoken to over HTTP/2.
pub fn plan(upstream: String) -> TestConfig {
    let site = format!("upstream_http = \"2\"\n{ROUTES}");
    TestConfig { upstream: Some(upstream), ..TestConfig::site(&site) }
}

/// A street before it, with one worker, so that connections can be counted.
pub async fn alone(upstream: String, lines: &str) -> TestGateway {
    let mut plan = plan(upstream);
    plan.site = format!("{lines}\n{}", plan.site);
    plan.workers = 1;
    TestGateway::open(plan).await
}

pub async fn get(street: &TestGateway, path: &str) -> String {
    raw(street.gateway, &format!("GET {path} HTTP/1.1\r\n{H}\r\n")).await
}

#[tokio::test]
async fn many_requests_share_a_connection_and_arrive_as_they_should() {
    let both = Arc::new(tokio::sync::Barrier::new(50));
    let deed = move |asked: Asked| {
        let both = Arc::clone(&both);
        async move {
            both.wait().await;
            say("together", asked).await;
        }
    };
    let site = Site::new(deed).await;
    let street = alone(site.upstream(), "").await;
    let visitors = (0..50).map(|number| {
        let gateway = street.gateway;
        tokio::spawn(async move {
            let request = format!(
                "GET /static/{number}?q=%20 HTTP/1.1\r\n{H}x-wechat-openid: forged\r\nx-a: b\r\n\r\n"
            );
            raw(gateway, &request).await
        })
    });
    for visitor in visitors.collect::<Vec<_>>() {
        let answer = timeout(Duration::from_secs(10), visitor).await.unwrap().unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(answer.contains("content-length: 8\r\n") && answer.ends_with("together"));
    }
    assert_eq!(site.connections(), 1);
    let seen = site.seen();
    assert_eq!(seen.len(), 50);
    for head in seen {
        assert_eq!(head.uri().authority().unwrap().as_str(), "h5.example.com", "{head:?}");
        assert_eq!(head.uri().scheme_str(), Some("http"), "{head:?}");
        assert_eq!(head.uri().query(), Some("q=%20"), "{head:?}");
        assert_eq!(head.headers()["x-a"], "b");
        assert_eq!(head.headers()["x-forwarded-host"], "h5.example.com");
        for gone in ["host", "connection", "te", "x-wechat-openid"] {
            assert!(!head.headers().contains_key(gone), "{gone}: {head:?}");
        }
    }
    street.close().await;
}

#[tokio::test]
async fn bodies_pass_both_ways_whole() {
    let site = Site::new(echo).await;
    let street = alone(site.upstream(), "").await;
    let mut visitor = Visitor::desktop(street.gateway);
    // Longer than every window on the way.
    let body = "penguin ".repeat(100_000);
    let answer = visitor.send("POST", "/static/upload", &[], &body).await;
    assert_eq!(answer.status, 200);
    assert!(answer.text == body, "{} of {} bytes", answer.text.len(), body.len());
    let seen = site.seen().pop().unwrap();
    assert_eq!(seen.headers()["content-length"], body.len().to_string());

    let chunked = format!(
        "POST /static/upload HTTP/1.1\r\n{H}transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\nx-wechat-openid: trailer\r\n\r\n"
    );
    let answer = raw(street.gateway, &chunked).await;
    assert!(answer.contains("hello") && answer.contains(" world"), "{answer}");
    assert!(!answer.contains("trailer") && !answer.contains("stolen"), "B6, C2: {answer}");
    assert!(!site.seen().pop().unwrap().headers().contains_key("content-length"));
    street.close().await;
}

#[tokio::test]
async fn answers_without_a_body_have_none() {
    let deed = |(request, mut respond): Asked| async move {
        let status = match request.uri().path() {
            "/static/204" => 204,
            "/static/304" => 304,
            _ => 200,
        };
        let response = Response::builder().status(status).header("etag", "\"x\"");
        let response =
            if status == 200 { response.header("content-length", "1234") } else { response };
        respond.send_response(response.body(()).unwrap(), true).unwrap();
    };
    let site = Site::new(deed).await;
    let street = alone(site.upstream(), "").await;
    for (method, path, length) in [
        ("HEAD", "/static/a", Some("content-length: 1234\r\n")),
        ("GET", "/static/204", None),
        ("GET", "/static/304", None),
    ] {
        let answer = raw(street.gateway, &format!("{method} {path} HTTP/1.1\r\n{H}\r\n")).await;
        assert!(answer.contains("etag: \"x\"") && answer.ends_with("\r\n\r\n"), "{path}: {answer}");
        assert_eq!(answer.contains("content-length"), length.is_some(), "{path}: {answer}");
        assert!(answer.contains(length.unwrap_or_default()), "{path}: {answer}");
        assert!(!answer.contains("transfer-encoding"), "{path}: {answer}");
    }
    assert_eq!(site.connections(), 1);
    street.close().await;
}

#[tokio::test]
async fn an_answer_may_come_before_the_request_has_ended() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let street = alone(format!("\"http://{}\"", listener.local_addr().unwrap()), "").await;
    tokio::spawn(async move {
        let mut site = ByHand::accept(&listener, &[]).await;
        let stream = site.request().await;
        let head = block(&[(":status", "413"), ("content-length", "4")]);
        site.send(&frame(HEADERS, END_HEADERS, stream, &head)).await;
        site.send(&frame(DATA, END_STREAM, stream, b"long")).await;
        // RFC 9113, section 8.1: and the rest is not wanted.
        site.send(&frame(RST_STREAM, 0, stream, &0_u32.to_be_bytes())).await;
        while site.next().await.is_some() {}
    });
    let mut stream = TcpStream::connect(street.gateway).await.unwrap();
    let head = format!("POST /static/a HTTP/1.1\r\n{H}content-length: 1000000\r\n\r\nstart");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut seen = String::new();
    while !seen.ends_with("long") {
        let mut buffer = [0; 1024];
        let read = timeout(Duration::from_secs(5), stream.read(&mut buffer)).await;
        let count = read.unwrap().unwrap();
        assert!(count > 0, "{seen}");
        seen += &String::from_utf8_lossy(&buffer[..count]);
    }
    assert!(seen.starts_with("HTTP/1.1 413"), "{seen}");
    street.close().await;
}

/// What a visitor who speaks HTTP/2 sends.
type Body = BoxBody<Bytes, std::convert::Infallible>;

pub async fn visitor(
    street: &TestGateway,
    certified: &Certified,
) -> hyper::client::conn::http2::SendRequest<Body> {
    let stream =
        connect(street.tls.unwrap(), &certified.roots, "h5.example.com", b"h2").await.unwrap();
    let io = TokioIo::new(stream);
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    sender
}

#[tokio::test]
async fn b6_trailers_pass_both_ways_without_what_may_not_come_there() {
    let site = Site::new(echo).await;
    let certified = certified(&["h5.example.com"]);
    let own = plan(site.upstream());
    let street =
        TestGateway::open(TestConfig { server: certified.plan.server.clone(), ..own }).await;
    let mut visitor = visitor(&street, &certified).await;

    let mut trailers = HeaderMap::new();
    for name in [
        "x-checksum",
        "x-wechat-openid",
        "x-wx-source",
        "x.wx.openid",
        "x-forwarded-for",
        "x-forwarded-port",
        "client-ip",
        "x-rewrite-url",
        "request-uri",
        "x-scheme",
        "authorization",
        "cookie",
    ] {
        trailers.insert(name, "1".parse().unwrap());
    }
    let frames = [Frame::data(Bytes::from_static(b"grpc")), Frame::trailers(trailers)];
    let body = StreamBody::new(futures_util::stream::iter(frames.map(Ok)));
    let request = Request::post("https://h5.example.com/static/a")
        .header("te", "trailers")
        .header("content-type", "application/grpc");
    let answer = visitor.send_request(request.body(BodyExt::boxed(body)).unwrap()).await.unwrap();
    assert_eq!(answer.status(), 200);
    let collected = answer.into_body().collect().await.unwrap();
    let came = collected.trailers().unwrap().clone();
    assert_eq!(collected.to_bytes(), "grpc");
    assert_eq!(came["grpc-status"], "0");
    assert_eq!(came["x-came"], "x-checksum", "what may go on, and nothing else");
    assert!(!came.contains_key("set-cookie"), "C2");
    let seen = site.seen().pop().unwrap();
    assert_eq!(seen.headers()["te"], "trailers");

    // Who does not say that they take them is not spoken for.
    let request = Request::get("https://h5.example.com/static/a");
    let request = request.body(BodyExt::boxed(Full::default())).unwrap();
    let _ = visitor.send_request(request).await.unwrap().into_body().collect().await.unwrap();
    assert!(!site.seen().pop().unwrap().headers().contains_key("te"));
    street.close().await;
}

#[tokio::test]
async fn what_is_full_waits_or_opens_another() {
    let open = Arc::new(Notify::new());
    let gate = Arc::clone(&open);
    let deed = move |asked: Asked| {
        let open = Arc::clone(&open);
        async move {
            open.notified().await;
            say("done", asked).await;
        }
    };
    let mut builder = Builder::new();
    builder.max_concurrent_streams(2);
    let site = Site::with(builder, deed).await;
    let street = alone(site.upstream(), "").await;
    let visitors: Vec<_> = (0..5)
        .map(|number| {
            let gateway = street.gateway;
            tokio::spawn(async move {
                raw(gateway, &format!("GET /static/{number} HTTP/1.1\r\n{H}\r\n")).await
            })
        })
        .collect();
    let mut seen = 0;
    while seen < 5 {
        seen += site.seen().len();
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(site.connections(), 3, "two requests on each");
    for _ in 0..5 {
        gate.notify_one();
    }
    for visitor in visitors {
        assert!(visitor.await.unwrap().ends_with("done"));
    }
    // What is free now is used again.
    gate.notify_one();
    assert!(get(&street, "/static/again").await.ends_with("done"));
    assert_eq!(site.connections(), 3);
    street.close().await;
}

#[tokio::test]
async fn a_visitor_who_does_not_read_holds_up_nobody_else() {
    let deed = |asked: Asked| async move {
        if asked.0.uri().path() == "/static/short" {
            return say("short", asked).await;
        }
        let (_, mut respond) = asked;
        let mut answer = respond.send_response(Response::new(()), false).unwrap();
        while h2_site::send(&mut answer, Bytes::from_static(&[b'x'; 16_384])).await.is_ok() {}
    };
    let site = Site::new(deed).await;
    let street = alone(site.upstream(), "").await;
    let mut silent = Vec::new();
    for number in 0..60 {
        let mut stream = TcpStream::connect(street.gateway).await.unwrap();
        let head = format!("GET /static/endless{number} HTTP/1.1\r\n{H}\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut first = [0; 1024];
        timeout(Duration::from_secs(5), stream.read(&mut first)).await.unwrap().unwrap();
        silent.push(stream);
    }
    for _ in 0..20 {
        let answer = timeout(Duration::from_secs(5), get(&street, "/static/short")).await.unwrap();
        assert!(answer.ends_with("short"), "{answer}");
    }
    assert_eq!(site.connections(), 1, "all over one connection");
    drop(silent);
    street.close().await;
}

#[tokio::test]
async fn a_site_that_chooses_http1_is_spoken_to_so() {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("ca.pem");
    std::fs::write(&ca, made.cert.pem()).unwrap();
    for (offers, version) in [(&b"h2"[..], "h2"), (&b"http/1.1"[..], "http/1.1"), (b"", "none")] {
        let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der());
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let config = rustls::ServerConfig::builder().with_no_client_auth();
        let mut config =
            config.with_single_cert(vec![made.cert.der().clone()], key.unwrap()).unwrap();
        config.alpn_protocols = (!offers.is_empty()).then(|| offers.to_vec()).into_iter().collect();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(either(acceptor.accept(stream)));
            }
        });
        let mut plan = plan(format!("\"https://localhost:{port}\""));
        plan.site = format!("{}\n[site.upstream_tls]\nca = \"{}\"", plan.site, ca.display());
        let street = TestGateway::open(plan).await;
        for _ in 0..4 {
            let answer = get(&street, "/static/a").await;
            assert!(answer.starts_with("HTTP/1.1 200"), "{version}: {answer}");
            assert!(answer.ends_with(if version == "h2" { "two" } else { "one" }), "{answer}");
        }
        street.close().await;
    }
}

/// Answers in whatever was chosen.
async fn either(accepting: tokio_rustls::Accept<TcpStream>) {
    let Ok(mut stream) = accepting.await else { return };
    if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
        return h2_site::serve(stream, Builder::new(), |it| say("two", it), Arc::default()).await;
    }
    let mut request = [0; 4096];
    while let Ok(count @ 1..) = stream.read(&mut request).await {
        let text = String::from_utf8_lossy(&request[..count]).into_owned();
        assert!(text.starts_with("GET /static/a HTTP/1.1\r\n"), "{text}");
        let answer = "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\none";
        stream.write_all(answer.as_bytes()).await.unwrap();
    }
}

#[tokio::test]
async fn health_checks_ask_in_the_same() {
    let site = Site::new(|asked| say("well", asked)).await;
    let mut plan = plan(site.upstream());
    plan.more = "[site.health]\npath = \"/health\"\ninterval = \"1s\"".to_owned();
    let street = TestGateway::open(plan).await;
    let begun = tokio::time::Instant::now();
    let asked = loop {
        if let Some(head) = site.seen().pop() {
            break head;
        }
        assert!(begun.elapsed() < Duration::from_secs(5), "nobody asked");
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    assert_eq!((asked.uri().path(), asked.method().as_str()), ("/health", "GET"));
    street.close().await;
}

#[tokio::test]
async fn rfc9110_15_2_interim_answers_pass_to_those_who_can_be_told() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let upstream = format!("\"http://{}\"", listener.local_addr().unwrap());
    let certified = certified(&["h5.example.com"]);
    let mut own = TestConfig { server: certified.plan.server.clone(), ..plan(upstream) };
    own.workers = 1;
    let street = TestGateway::open(own).await;
    tokio::spawn(async move {
        let mut site = ByHand::accept(&listener, &[]).await;
        loop {
            let stream = site.request().await;
            let hint = block(&[(":status", "103"), ("link", "</a.css>"), ("set-cookie", "a=b")]);
            site.send(&frame(HEADERS, END_HEADERS, stream, &hint)).await;
            site.answer(stream).await;
        }
    });
    let answer = get(&street, "/static/a").await;
    let hint = "HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\nHTTP/1.1 204 No Content\r\n";
    assert!(answer.starts_with(hint), "{answer}");
    // hyper cannot send them over HTTP/2, and the answer comes all the same.
    let mut visitor = visitor(&street, &certified).await;
    let request = Request::get("https://h5.example.com/static/a");
    let request = request.body(BodyExt::boxed(Full::default())).unwrap();
    assert_eq!(visitor.send_request(request).await.unwrap().status(), 204);
    street.close().await;
}
