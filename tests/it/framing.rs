//! Requests that two servers could read in two ways, over raw sockets, whole and in pieces.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{sleep, timeout},
};

use crate::{
    harness::TestGateway,
    visitor::{Visitor, raw},
};

const H: &str = "host: h5.example.com\r\n";

/// Heads that are refused, whatever comes behind them.
fn refused() -> Vec<(&'static str, String)> {
    let post = format!("POST /static/a HTTP/1.1\r\n{H}");
    let (length, chunked) = ("content-length: 5\r\n", "transfer-encoding: chunked\r\n");
    let get = |target: &str| format!("GET {target} HTTP/1.1\r\n{H}\r\n");
    vec![
        ("CL, TE", format!("{post}{length}{chunked}\r\n0\r\n\r\n")),
        ("TE, CL", format!("{post}{chunked}{length}\r\n0\r\n\r\n")),
        ("TE, CL of nothing", format!("{post}{chunked}content-length: 0\r\n\r\n0\r\n\r\n")),
        ("two equal CL", format!("{post}{length}{length}\r\nabcde")),
        ("CL with a sign", format!("{post}content-length: +5\r\n\r\nabcde")),
        ("CL, folded", format!("{post}x: 1\r\n content-length: 5\r\n\r\nabcde")),
        ("TE, tab before", format!("{post}transfer-encoding:\tchunked, identity\r\n\r\n0\r\n\r\n")),
        ("fragment", get("/static/a#b")),
        ("fragment up", get("/static/a#/../../orders")),
        ("fragment in the query", get("/static/a?b#c")),
        ("fragment, absolute", get("http://h5.example.com/static/a#b")),
        ("bare CR before", format!("\r{}", get("/static/a"))),
        ("bare CR in the target", get("/static/a\rb")),
        ("bare CR behind the version", format!("GET /static/a HTTP/1.1\r{H}\r\n")),
        ("bare CR in a name", format!("GET /static/a HTTP/1.1\r\n{H}x\ra: 1\r\n\r\n")),
        (
            "bare CR in a value",
            format!("GET /static/a HTTP/1.1\r\n{H}x: 1\rcontent-length: 5\r\n\r\n"),
        ),
        ("bare CR for a line", format!("GET /static/a HTTP/1.1\r\n{H}\r\r\n")),
    ]
}

#[tokio::test]
async fn a2_b5_a_head_with_two_readings_is_a_400_and_the_last_of_its_connection() {
    let street = TestGateway::usual().await;
    let next = format!("GET /static/next HTTP/1.1\r\n{H}\r\n");
    let mut count = 0;
    for (name, head) in refused() {
        let answer = raw(street.gateway, &format!("{head}{next}")).await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{name}: {answer}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{name}: {answer}");
        count += 1;
    }
    assert_eq!((count, street.site.hits()), (17, 0));
    street.close().await;
}

#[tokio::test]
async fn a2_b5_it_is_refused_behind_a_good_request_too() {
    let street = TestGateway::usual().await;
    let good = format!("POST /static/good HTTP/1.1\r\n{H}content-length: 4\r\n\r\na\r\n#");
    let chunks = format!(
        "POST /static/good HTTP/1.1\r\n{H}transfer-encoding: chunked\r\n\r\n4;x\r\n\r\n#\r\r\n0\r\nt: 1\r\n\r\n"
    );
    let next = format!("GET /static/next HTTP/1.1\r\n{H}\r\n");
    for first in [good, chunks] {
        for (name, head) in refused() {
            let hits = street.site.hits();
            let answer = raw(street.gateway, &format!("{first}{head}{next}")).await;
            assert!(answer.starts_with("HTTP/1.1 200"), "{name}: {answer}");
            assert!(answer.contains("HTTP/1.1 400"), "{name}: {answer}");
            assert_eq!(street.site.hits() - hits, 1, "{name}");
        }
    }
    street.close().await;
}

/// Sends a head byte by byte; whether the gateway closed then, and what it said.
async fn trickled(
    gateway: std::net::SocketAddr,
    name: &'static str,
    head: String,
) -> (&'static str, bool, String) {
    let mut stream = TcpStream::connect(gateway).await.unwrap();
    stream.set_nodelay(true).unwrap();
    for byte in head.as_bytes() {
        if stream.write_all(&[*byte]).await.is_err() {
            break;
        }
        sleep(Duration::from_micros(300)).await;
    }
    let mut answer = String::new();
    let ended = timeout(Duration::from_secs(5), stream.read_to_string(&mut answer)).await;
    (name, ended.is_ok(), answer)
}

#[tokio::test]
async fn a2_b5_it_is_refused_byte_by_byte_too() {
    let street = TestGateway::usual().await;
    let mut attempts = tokio::task::JoinSet::new();
    for (name, head) in refused() {
        let gateway = street.gateway;
        attempts.spawn(trickled(gateway, name, head));
    }
    let mut heard = 0;
    while let Some(attempt) = attempts.join_next().await {
        let (name, ended, answer) = attempt.unwrap();
        heard += usize::from(!answer.is_empty());
        // What comes behind the 400 may reset the connection before it is read.
        assert!(
            ended && (answer.is_empty() || answer.starts_with("HTTP/1.1 400")),
            "{name}: {answer}"
        );
    }
    println!("{heard} were told");
    assert!(heard > 0, "nobody was told");
    assert_eq!(street.site.hits(), 0);
    street.close().await;
}

#[tokio::test]
async fn b5_good_requests_pass_one_behind_the_other() {
    let street = TestGateway::usual().await;
    let requests = [
        format!("POST /static/1 HTTP/1.1\r\n{H}content-length: 5\r\n\r\nab#\r\r"),
        "\r\nGET /static/2 HTTP/1.1\nhost: h5.example.com\n\n".to_owned(),
        format!(
            "POST /static/3 HTTP/1.1\r\n{H}Transfer-Encoding: CHUNKED\r\n\r\n3\r\nabc\r\n0\r\nx: y\r\n\r\n"
        ),
        format!("GET /static/4 HTTP/1.1\r\n{H}content-length: 0\r\n\r\n"),
        format!("GET /static/5?a=%23 HTTP/1.1\r\n{H}cookie: a=#; b\r\nconnection: close\r\n\r\n"),
    ];
    let answer = raw(street.gateway, &requests.concat()).await;
    assert_eq!(answer.matches("HTTP/1.1 200 OK").count(), 5, "{answer}");
    for number in 1..=5 {
        assert!(answer.contains(&format!(" /static/{number}")), "{number}: {answer}");
    }
    assert_eq!(street.site.hits(), 5);
    street.close().await;
}

#[tokio::test]
async fn b5_chunks_with_two_readings_break_the_request_off() {
    let street = TestGateway::usual().await;
    let head = format!("POST /static/a HTTP/1.1\r\n{H}transfer-encoding: chunked\r\n\r\n");
    let next = format!("GET /static/next HTTP/1.1\r\n{H}\r\n");
    for body in [
        "1 \r\na\r\n",
        "1;x\na\r\n",
        "00000000000000001\r\na\r\n",
        "1\r\na\r\n0\r\nx: y\n\r\n",
        "1\r\na\r\n0\r\nx: y\rz\r\n\r\n",
    ] {
        let answer = raw(street.gateway, &format!("{head}{body}0\r\n\r\n{next}")).await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{body:?}: {answer}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{body:?}: {answer}");
    }
    assert_eq!(Visitor::desktop(street.gateway).get("/static/a").await.status, 200);
    street.close().await;
}

#[tokio::test]
async fn b8_nothing_is_read_behind_an_upgrade_before_its_answer() {
    let street = TestGateway::usual().await;
    let ask = |path: &str| {
        format!(
            "GET {path} HTTP/1.1\r\n{H}connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n\r\n"
        )
    };
    let next = format!("GET /static/next HTTP/1.1\r\n{H}connection: close\r\n\r\n");
    for path in ["/static/ws", "/static/a", "/orders"] {
        let hits = street.site.hits();
        let answer = raw(street.gateway, &format!("{}{next}", ask(path))).await;
        assert!(answer.matches("HTTP/1.1 ").count() <= 1, "{path}: {answer}");
        assert!(street.site.hits() - hits <= 1, "{path}");
    }
    // Whoever waits for a no may go on, and over HTTP.
    let mut stream = TcpStream::connect(street.gateway).await.unwrap();
    let mut buffer = [0; 4096];
    for _ in 0..3 {
        stream.write_all(ask("/orders").as_bytes()).await.unwrap();
        let count = stream.read(&mut buffer).await.unwrap();
        assert!(buffer[..count].starts_with(b"HTTP/1.1 401"));
    }
    stream.write_all(next.replace("/next", "/next#").as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    // Whoever waits for a yes may say anything.
    let mut stream = TcpStream::connect(street.gateway).await.unwrap();
    stream.write_all(ask("/static/ws").as_bytes()).await.unwrap();
    let count = stream.read(&mut buffer).await.unwrap();
    assert!(buffer[..count].starts_with(b"HTTP/1.1 101"));
    let frame = [0x81, 0x82, 0, 0, 0, 0, b'#', b'\r'];
    stream.write_all(&frame).await.unwrap();
    stream.read_exact(&mut buffer[..4]).await.unwrap();
    assert_eq!(buffer[..4], [0x81, 2, b'#', b'\r']);
    street.close().await;
}
