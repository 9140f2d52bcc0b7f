//! Requests on to the site and answers back: whole, streamed, over connections that are kept.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_tungstenite::tungstenite::{Message, client::IntoClientRequest};

use crate::{
    harness::{ROUTES, TestConfig, TestGateway},
    visitor::{Visitor, raw},
};

#[tokio::test]
async fn bodies_pass_both_ways_whole() {
    let street = TestGateway::usual().await;
    let mut visitor = Visitor::desktop(street.gateway);
    let body = "飞翔的企鹅".repeat(20_000);
    let answer =
        visitor.send("POST", "/static/upload", &[("content-type", "text/plain")], &body).await;
    assert_eq!(answer.received("content-length"), [body.len().to_string()]);
    assert!(answer.text.ends_with(&body));

    let chunked = "POST /static/upload HTTP/1.1\r\nhost: h5.example.com\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\nx-wechat-openid: trailer\r\n\r\n";
    let answer = raw(street.gateway, chunked).await;
    assert!(answer.contains("hello") && answer.contains(" world"), "{answer}");
    assert!(!answer.contains("trailer"), "B6: {answer}");
    street.close().await;
}

#[tokio::test]
async fn a_keep_alive_visitor_shares_a_kept_upstream_connection() {
    let street = TestGateway::usual().await;
    let mut stream = TcpStream::connect(street.gateway).await.unwrap();
    for number in 0..20 {
        let request = format!("GET /static/{number} HTTP/1.1\r\nhost: h5.example.com\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let answer = read_answer(&mut stream).await;
        assert!(answer.contains(&format!("GET /static/{number} ")), "{answer}");
    }
    assert_eq!((street.site.hits(), street.site.connections()), (20, 1));
    // Pipelined requests come back in order.
    let two = "GET /static/a HTTP/1.1\r\nhost: h5.example.com\r\n\r\nGET /static/b HTTP/1.1\r\nhost: h5.example.com\r\n\r\n";
    stream.write_all(two.as_bytes()).await.unwrap();
    assert!(read_answer(&mut stream).await.contains("GET /static/a "));
    assert!(read_answer(&mut stream).await.contains("GET /static/b "));
    drop(stream);
    street.close().await;
}

/// One answer with a Content-Length off a connection that stays open.
async fn read_answer(stream: &mut TcpStream) -> String {
    let mut seen = Vec::new();
    loop {
        let mut byte = [0];
        timeout(Duration::from_secs(5), stream.read_exact(&mut byte)).await.unwrap().unwrap();
        seen.push(byte[0]);
        let text = String::from_utf8_lossy(&seen).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length =
                head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
            if body.len() == length.parse::<usize>().unwrap() {
                return text;
            }
        }
    }
}

#[tokio::test]
async fn head_has_no_body_and_the_length_of_get() {
    let street = TestGateway::usual().await;
    let request = "HEAD /static/a HTTP/1.1\r\nhost: h5.example.com\r\nconnection: close\r\n\r\n";
    let answer = raw(street.gateway, request).await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.contains("content-length: ") && !head.contains("content-length: 0"), "{head}");
    assert_eq!(body, "");
    street.close().await;
}

#[tokio::test]
async fn events_arrive_as_they_happen() {
    let street = TestGateway::usual().await;
    let mut stream = TcpStream::connect(street.gateway).await.unwrap();
    let request =
        "GET /static/events HTTP/1.1\r\nhost: h5.example.com\r\naccept: text/event-stream\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    // The site never ends this answer, so whatever is seen was not held back.
    let mut seen = String::new();
    while !seen.contains("data: 1\n\n") {
        let mut buffer = [0; 1024];
        let count =
            timeout(Duration::from_secs(5), stream.read(&mut buffer)).await.unwrap().unwrap();
        assert!(count > 0, "{seen}");
        seen += &String::from_utf8_lossy(&buffer[..count]);
    }
    drop(stream);
    street.close().await;
}

#[tokio::test]
async fn websockets_are_forwarded_after_the_gate_only() {
    let street = TestGateway::usual().await;
    let stream = TcpStream::connect(street.gateway).await.unwrap();
    let request = "ws://h5.example.com/ws".into_client_request().unwrap();
    let refused = tokio_tungstenite::client_async(request, stream).await.unwrap_err();
    assert!(refused.to_string().contains("401"), "{refused}");
    assert_eq!(street.site.hits(), 0, "B8");

    let mut visitor = Visitor::wechat(street.gateway);
    let _ = visitor.open("/").await;
    let stream = TcpStream::connect(street.gateway).await.unwrap();
    let mut request = "ws://h5.example.com/ws".into_client_request().unwrap();
    let cookie = format!("wxgate={}", visitor.cookie("wxgate"));
    request.headers_mut().insert("cookie", cookie.parse().unwrap());
    let (mut socket, _) = tokio_tungstenite::client_async(request, stream).await.unwrap();
    for word in ["one", "two", "三"] {
        socket.send(Message::text(word)).await.unwrap();
        let back = timeout(Duration::from_secs(5), socket.next()).await.unwrap().unwrap().unwrap();
        assert_eq!(back.to_text().unwrap(), word);
    }
    drop(socket);
    street.close().await;
}

#[tokio::test]
async fn only_websocket_is_an_upgrade() {
    let street = TestGateway::usual().await;
    let request = "GET /static/a HTTP/1.1\r\nhost: h5.example.com\r\nconnection: upgrade, http2-settings, close\r\nupgrade: h2c\r\nhttp2-settings: AAA\r\n\r\n";
    let answer = raw(street.gateway, request).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(!answer.contains("h2c") && !answer.contains("http2-settings"), "{answer}");
    street.close().await;
}

#[tokio::test]
async fn several_servers_take_turns_and_a_dead_one_is_passed_over() {
    let second = crate::echo::Echo::start().await;
    let dead = "127.0.0.1:1";
    let first = crate::echo::Echo::start().await;
    let plan = TestConfig {
        upstream: Some(format!(
            "\"http://{}\", \"http://{dead}\", \"http://{}\"",
            first.addr, second.addr
        )),
        ..TestConfig::site(ROUTES)
    };
    let street = TestGateway::open(plan).await;
    let mut visitor = Visitor::desktop(street.gateway);
    for _ in 0..30 {
        assert_eq!(visitor.get("/static/a").await.status, 200);
    }
    assert_eq!(first.hits() + second.hits(), 30);
    assert!(first.hits() >= 8 && second.hits() >= 8, "{} {}", first.hits(), second.hits());
    street.close().await;
}

#[tokio::test]
async fn a_session_is_renewed_past_half_its_idle_time() {
    let session = format!(
        "idle = \"2s\"\nmax = \"1h\"\nkeys = [{{ id = \"k1\", secret = \"{}\" }}]",
        crate::harness::KEY
    );
    let street = TestGateway::open(TestConfig { session, ..TestConfig::site(ROUTES) }).await;
    let mut visitor = Visitor::wechat(street.gateway);
    let _ = visitor.open("/").await;
    let first = visitor.cookie("wxgate");
    let renewed = loop {
        let answer = visitor.get("/cached").await;
        assert_eq!(answer.status, 200, "a visitor who keeps coming is never sent away");
        if answer.header("set-cookie").is_some() {
            break answer;
        }
        assert_eq!(answer.header("cache-control"), Some("public, s-maxage=600"));
    };
    assert_ne!(visitor.cookie("wxgate"), first);
    assert_eq!(renewed.header("cache-control"), Some("no-store"), "C7");
    street.close().await;
}
