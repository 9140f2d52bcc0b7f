//! Visitors who mean harm, and sites that play into their hands.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::{
    harness::{ROUTES, TestConfig, TestGateway},
    visitor::{Visitor, raw},
};

/// Sends bytes over a connection that stays open, and reads the beginning of the answer.
async fn begin(street: &TestGateway, request: &str) -> (TcpStream, String) {
    let mut stream = TcpStream::connect(street.gateway).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut buffer = [0; 4096];
    let count = timeout(Duration::from_secs(5), stream.read(&mut buffer)).await.unwrap().unwrap();
    (stream, String::from_utf8_lossy(&buffer[..count]).into_owned())
}

#[tokio::test]
async fn g5_nobody_waits_for_the_body_of_another_visitors_request() {
    let street = TestGateway::usual().await;
    let unfinished =
        "POST /static/early HTTP/1.1\r\nhost: h5.example.com\r\ncontent-length: 9\r\n\r\nx";
    let mut held = Vec::new();
    for _ in 0..4 {
        let (stream, answer) = begin(&street, unfinished).await;
        assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
        held.push(stream);
    }
    for number in 0..8 {
        let mut visitor = Visitor::desktop(street.gateway);
        let path = format!("/static/{number}");
        let page = timeout(Duration::from_secs(5), visitor.get(&path)).await;
        assert_eq!(page.map(|page| page.status), Ok(200), "{path}");
    }
    drop(held);
    street.close().await;
}

#[tokio::test]
async fn g5_a_slow_site_is_asked_once() {
    let street =
        TestGateway::open(TestConfig::site(&format!("response_timeout = \"1s\"\n{ROUTES}"))).await;
    let half = "POST /static/a HTTP/1.1\r\nhost: h5.example.com\r\ncontent-length: 2\r\n\r\na";
    let mut streams = Vec::new();
    for _ in 0..6 {
        let mut stream = TcpStream::connect(street.gateway).await.unwrap();
        stream.write_all(half.as_bytes()).await.unwrap();
        streams.push(stream);
    }
    while street.site.connections() < 6 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    for mut stream in streams {
        stream.write_all(b"b").await.unwrap();
        assert!(stream.read(&mut [0; 4096]).await.unwrap() > 0);
    }
    // Only a connection that has been quiet for a while is one whose request may be repeated.
    tokio::time::sleep(Duration::from_millis(600)).await;
    let hits = street.site.hits();
    assert_eq!(Visitor::desktop(street.gateway).get("/static/never").await.status, 504);
    assert_eq!(street.site.hits() - hits, 1);
    street.close().await;
}

#[tokio::test]
async fn g5_a_logout_whose_form_never_comes_is_let_go() {
    let street = TestGateway::usual().await;
    let request = "POST /_wx/logout HTTP/1.1\r\nhost: h5.example.com\r\ncontent-length: 38\r\n\r\n";
    let answer = raw(street.gateway, request).await;
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    street.close().await;
}

#[tokio::test]
async fn a3_a_method_in_small_letters_slips_past_no_route() {
    let routes = r#"
[[site.route]]
path = "/api/*"
auth = "none"
[[site.route]]
path = "/api/*"
methods = ["POST"]
"#;
    let street = TestGateway::open(TestConfig::site(routes)).await;
    let mut visitor = Visitor::desktop(street.gateway).script();
    for (method, status) in [("POST", 401), ("post", 405), ("pOST", 405), ("get", 405)] {
        assert_eq!(visitor.send(method, "/api/a", &[], "").await.status, status, "{method}");
    }
    assert_eq!(street.site.hits(), 0);
    assert_eq!(visitor.get("/api/a").await.status, 200);
    street.close().await;
}

#[tokio::test]
async fn g5_a_tunnel_counts_as_a_connection_until_its_visitor_leaves() {
    let server = "[server.limits]\nconnections = 6".to_owned();
    let street = TestGateway::open(TestConfig { server, ..TestConfig::site(ROUTES) }).await;
    let handshake = "GET /static/deaf HTTP/1.1\r\nhost: h5.example.com\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
    let mut tunnels = Vec::new();
    let mut buffer = [0; 1024];
    let mut refused = None;
    while tunnels.len() < 12 && refused.is_none() {
        let mut stream = TcpStream::connect(street.gateway).await.unwrap();
        stream.write_all(handshake.as_bytes()).await.unwrap();
        match timeout(Duration::from_millis(500), stream.read(&mut buffer)).await {
            Ok(count) => {
                assert!(buffer[..count.unwrap()].starts_with(b"HTTP/1.1 101"));
                tunnels.push(stream);
            }
            Err(_) => refused = Some(stream),
        }
    }
    assert_eq!(tunnels.len(), 6, "none is closed for the seventh, which waits");
    drop(refused);
    drop(tunnels);
    assert_eq!(Visitor::desktop(street.gateway).get("/static/a").await.status, 200);
    street.close().await;
}

#[tokio::test]
async fn e7_a_logout_ends_every_repeat_of_a_callback() {
    let street = TestGateway::usual().await;
    let mut visitor = Visitor::wechat(street.gateway);
    let away = visitor.get("/orders").await;
    let (_, back) = visitor.follow(&away, "/").await;
    let before = visitor.clone();
    let (mut first, mut second) = (visitor.clone(), visitor);
    let _ = (first.follow(&back, "/").await, second.follow(&back, "/").await);
    assert_eq!((first.get("/orders").await.status, second.get("/orders").await.status), (200, 200));
    let origin = ("origin", "http://h5.example.com");
    let captured = first.clone();
    assert_eq!(first.send("POST", "/_wx/logout", &[origin], "").await.status, 200);
    let mut late = before;
    let _ = late.follow(&back, "/").await;
    let hits = street.site.hits();
    for mut thief in [captured, second, late] {
        assert_eq!(thief.get("/orders").await.status, 302);
    }
    assert_eq!(street.site.hits(), hits);
    street.close().await;
}

#[tokio::test]
async fn b5_a_body_that_breaks_off_is_the_visitors_fault() {
    let street = TestGateway::usual().await;
    let head =
        "POST /static/a HTTP/1.1\r\nhost: h5.example.com\r\ntransfer-encoding: chunked\r\n\r\n";
    let next = "GET /static/next HTTP/1.1\r\nhost: h5.example.com\r\n\r\n";
    for body in [
        "zz\r\nabc\r\n",
        "1;a\nb\r\n",
        "1\na\n",
        "1\r\naX\r\n",
        "fffffffffffffffff\r\na\r\n",
        "\r\n",
    ] {
        let answer = raw(street.gateway, &format!("{head}{body}0\r\n\r\n{next}")).await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{body:?}: {answer}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{body:?}: {answer}");
    }
    let page = Visitor::desktop(street.gateway).get("/static/a").await;
    assert_eq!(page.status, 200, "the site is not blamed");
    street.close().await;
}
