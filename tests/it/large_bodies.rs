//! Bodies so long that they go past us from socket to socket, whole and broken off.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::{sleep, timeout},
};

use crate::harness::{ROUTES, TestConfig, TestGateway};

const H: &str = "host: h5.example.com\r\n";
/// On both sides of where a body begins to be long, and far beyond what a pipe holds.
const LENGTHS: [usize; 5] = [131_071, 131_072, 131_073, 700_001, 5_000_007];

/// Every byte tells its place.
fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| u8::try_from((at.wrapping_mul(31) ^ (at / 251)) % 251).unwrap()).collect()
}

/// A site whose answers and whose appetite are as long as they are told.
async fn site() -> (std::net::SocketAddr, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let serving = tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(serve(stream));
        }
    });
    (addr, serving)
}

async fn serve(mut stream: TcpStream) {
    while let Some(head) = head(&mut stream).await {
        let target = head.split(' ').nth(1).unwrap_or_default().to_owned();
        let (path, length) = target.split_once('?').unwrap_or((&target, "0"));
        let length: usize = length.parse().unwrap();
        if head.starts_with("POST") {
            let mut body = vec![0; length];
            let whole = stream.read_exact(&mut body).await.is_ok();
            let word = if whole && body == pattern(length) { "whole" } else { "spoilt" };
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{word}", word.len());
            stream.write_all(answer.as_bytes()).await.unwrap();
            continue;
        }
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n");
        stream.write_all(answer.as_bytes()).await.unwrap();
        let body = pattern(length);
        let sent = if path == "/static/whole" { length } else { length / 2 };
        for (number, piece) in body[..sent].chunks(77_777).enumerate() {
            if stream.write_all(piece).await.is_err() {
                return;
            }
            // A piece that comes late must not be waited for in vain, nor be taken for the end.
            if number % 5 == 0 {
                sleep(Duration::from_millis(2)).await;
            }
        }
        match path {
            "/static/cut" => return,
            "/static/still" => std::future::pending().await,
            _ => (),
        }
    }
}

/// The head of a message, and not a byte more.
async fn head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    String::from_utf8(head).ok()
}

async fn answer(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let head = head(stream).await?;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    let length = head.split("content-length: ").nth(1).unwrap().split("\r\n").next().unwrap();
    let mut body = vec![0; length.parse().unwrap()];
    stream.read_exact(&mut body).await.ok().map(|_| body)
}

#[tokio::test]
async fn long_bodies_arrive_whole_both_ways_and_their_connections_go_on() {
    let (addr, _serving) = site().await;
    let upstream = Some(format!("\"http://{addr}\""));
    let plan = TestConfig { upstream, workers: 1, ..TestConfig::site(ROUTES) };
    let street = TestGateway::open(plan).await;
    let mut stream = TcpStream::connect(street.gateway).await.unwrap();
    for length in LENGTHS {
        let ask = format!("GET /static/whole?{length} HTTP/1.1\r\n{H}\r\n");
        stream.write_all(ask.as_bytes()).await.unwrap();
        assert!(answer(&mut stream).await.unwrap() == pattern(length), "an answer of {length}");
        let tell =
            format!("POST /static/taken?{length} HTTP/1.1\r\n{H}content-length: {length}\r\n\r\n");
        stream.write_all(tell.as_bytes()).await.unwrap();
        for piece in pattern(length).chunks(99_991) {
            stream.write_all(piece).await.unwrap();
            sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(answer(&mut stream).await.unwrap(), b"whole", "an upload of {length}");
    }
    street.close().await;
}

#[tokio::test]
async fn a_long_answer_that_breaks_off_is_never_a_whole_one() {
    let (addr, _serving) = site().await;
    let upstream = Some(format!("\"http://{addr}\""));
    let plan = TestConfig {
        upstream,
        ..TestConfig::site(&format!("response_timeout = \"1s\"\n{ROUTES}"))
    };
    let street = TestGateway::open(plan).await;
    for (path, waits) in [("/static/cut", false), ("/static/still", true)] {
        let mut stream = TcpStream::connect(street.gateway).await.unwrap();
        let begun = tokio::time::Instant::now();
        let ask = format!("GET {path}?900000 HTTP/1.1\r\n{H}\r\n");
        stream.write_all(ask.as_bytes()).await.unwrap();
        let head = head(&mut stream).await.unwrap();
        assert!(head.contains("content-length: 900000"), "{head}");
        let mut body = Vec::new();
        let read = stream.read_to_end(&mut body);
        let _ = timeout(Duration::from_secs(10), read).await.expect("the connection has closed");
        assert!(body == pattern(450_000), "{path}: {} bytes", body.len());
        assert_eq!(begun.elapsed() >= Duration::from_secs(1), waits, "{path}");
    }
    street.close().await;
}

#[tokio::test]
async fn a_visitor_who_leaves_in_the_middle_of_a_long_body_harms_nobody() {
    let (addr, _serving) = site().await;
    let upstream = Some(format!("\"http://{addr}\""));
    let plan = TestConfig { upstream, workers: 1, ..TestConfig::site(ROUTES) };
    let street = TestGateway::open(plan).await;
    for _ in 0..20 {
        let mut stream = TcpStream::connect(street.gateway).await.unwrap();
        let ask = format!("GET /static/whole?5000007 HTTP/1.1\r\n{H}\r\n");
        stream.write_all(ask.as_bytes()).await.unwrap();
        let mut some = vec![0; 300_000];
        stream.read_exact(&mut some).await.unwrap();
        drop(stream);
        let mut stream = TcpStream::connect(street.gateway).await.unwrap();
        let tell =
            format!("POST /static/taken?900000 HTTP/1.1\r\n{H}content-length: 900000\r\n\r\n");
        stream.write_all(tell.as_bytes()).await.unwrap();
        stream.write_all(&pattern(300_000)).await.unwrap();
        drop(stream);
        // What was in their pipes is for nobody else.
        let mut stream = TcpStream::connect(street.gateway).await.unwrap();
        let ask = format!("GET /static/whole?700001 HTTP/1.1\r\n{H}\r\n");
        stream.write_all(ask.as_bytes()).await.unwrap();
        assert!(answer(&mut stream).await.unwrap() == pattern(700_001));
    }
    street.close().await;
}
