//! Requests that two servers could read in two ways, over raw sockets, whole and in pieces.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::{sleep, timeout},
};

use crate::{
    h2,
    harness::{ROUTES, TestConfig, TestGateway},
    tls::certified,
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
        ("two digits of a version", version("HTTP/1.10")),
        ("no minor version", version("HTTP/1")),
        ("no digits", version("HTTP/x")),
        ("a letter for a digit", version("HTTP/1.x")),
        ("a long major version", version("HTTP/11.1")),
        ("three numbers", version("HTTP/1.1.1")),
        ("small letters", version("http/1.1")),
        ("another protocol", version("ICY")),
        ("another protocol with a version", version("RTSP/1.0")),
        ("two spaces", version(" HTTP/1.1")),
        ("a space behind the version", version("HTTP/2.0 ")),
        ("no version", format!("GET /static/a\r\n{H}\r\n")),
    ]
}

fn version(text: &str) -> String {
    format!("GET /static/a {text}\r\n{H}\r\n")
}

/// Bodies of chunks that are refused, with a complete request behind each.
const REFUSED_CHUNKS: [&str; 24] = [
    "1 \r\na\r\n",
    "1;x\na\r\n",
    "00000000000000001\r\na\r\n",
    "1;\r\na\r\n",
    "1; \r\na\r\n",
    "1;;x\r\na\r\n",
    "1;x;\r\na\r\n",
    "1;x=\r\na\r\n",
    "1;=x\r\na\r\n",
    "1;x \r\na\r\n",
    "1;x y\r\na\r\n",
    "1;bad[=x\r\na\r\n",
    "1;x=[bad\r\na\r\n",
    "1;x=\"y\r\na\r\n",
    "1;x=\"y\"z\r\na\r\n",
    "1;x=\"\0\"\r\na\r\n",
    "1;\0ext\r\na\r\n",
    "1;x\0\r\na\r\n",
    "1;\u{e9}\r\na\r\n",
    "1\r\na\r\n0;\r\n\r\n",
    "1\r\na\r\n0\r\nx: y\n\r\n",
    "1\r\na\r\n0\r\nx: y\rz\r\n\r\n",
    "1\r\na\r\n0\r\nx\r\n\r\n",
    "1\r\na\r\n0\r\nx : y\r\n\r\n",
];

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
    assert_eq!((count, street.site.hits()), (29, 0));
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
async fn b5_a_version_of_another_grammar_is_a_505_and_a_later_one_of_this_is_served() {
    let street = TestGateway::usual().await;
    for (text, status) in
        [("HTTP/0.9", 505), ("HTTP/2.0", 505), ("HTTP/3.0", 505), ("HTTP/9.9", 505)]
    {
        let answer = raw(street.gateway, &version(text)).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{text}: {answer}");
    }
    assert_eq!(street.site.hits(), 0);
    let later = version("HTTP/1.2").replace("\r\n\r\n", "\r\nconnection: close\r\n\r\n");
    let answer = raw(street.gateway, &later).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains("GET /static/a HTTP/1.1"), "{answer}");
    assert_eq!(street.site.hits(), 1);
    street.close().await;
}

#[tokio::test]
async fn b5_chunks_with_two_readings_break_the_request_off() {
    let street = TestGateway::usual().await;
    let head = format!("POST /static/a HTTP/1.1\r\n{H}transfer-encoding: chunked\r\n\r\n");
    let next = format!("GET /static/next HTTP/1.1\r\n{H}\r\n");
    // A body that is good at first is on its way before its end is known.
    let (late, early): (Vec<&str>, Vec<&str>) =
        REFUSED_CHUNKS.into_iter().partition(|body| body.starts_with("1\r\na\r\n"));
    assert_eq!((early.len(), late.len()), (19, 5));
    for body in early.iter().chain(&late) {
        if late.first() == Some(body) {
            assert_eq!(street.site.hits(), 0);
        }
        let answer = raw(street.gateway, &format!("{head}{body}0\r\n\r\n{next}")).await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{body:?}: {answer}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{body:?}: {answer}");
    }
    assert_eq!(Visitor::desktop(street.gateway).get("/static/a").await.status, 200);
    street.close().await;
}

#[tokio::test]
async fn b5_chunks_with_two_readings_are_refused_byte_by_byte_too() {
    let street = TestGateway::usual().await;
    let mut attempts = tokio::task::JoinSet::new();
    for body in REFUSED_CHUNKS {
        let head = format!("POST /static/a HTTP/1.1\r\n{H}transfer-encoding: chunked\r\n\r\n");
        attempts.spawn(trickled(street.gateway, body, format!("{head}{body}0\r\n\r\n")));
    }
    let mut refused = 0;
    while let Some(attempt) = attempts.join_next().await {
        let (body, ended, answer) = attempt.unwrap();
        refused += usize::from(answer.starts_with("HTTP/1.1 400"));
        assert!(
            ended && (answer.is_empty() || answer.starts_with("HTTP/1.1 400")),
            "{body:?}: {answer}"
        );
    }
    assert!(refused > 0, "no client was told");
    street.close().await;
}

#[tokio::test]
async fn b5_extensions_by_their_grammar_pass() {
    let street = TestGateway::usual().await;
    let head = format!(
        "POST /static/a HTTP/1.1\r\n{H}transfer-encoding: chunked\r\nconnection: close\r\n\r\n"
    );
    for extension in [";x", ";x=y", ";x=\"y;z\\\"\"", " ; x = y\t;z", ";x=\"\u{e9}\""] {
        let request = format!("{head}1{extension}\r\na\r\n0{extension}\r\nt: 1\r\n\r\n");
        let answer = raw(street.gateway, &request).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{extension:?}: {answer}");
        assert!(answer.ends_with("1\r\na\r\n0\r\n\r\n"), "written anew: {answer}");
    }
    street.close().await;
}

/// A site that sends these pieces to each connection that has sent a head, and then closes it or keeps
/// it open.
async fn scripted_site<T>(pieces: &'static [T], closes: bool) -> std::net::SocketAddr
where
    T: AsRef<str> + Sync,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.set_nodelay(true).unwrap();
            tokio::spawn(async move {
                let mut buffer = [0; 4096];
                while !matches!(stream.read(&mut buffer).await, Ok(0) | Err(_)) {
                    for piece in pieces {
                        stream.write_all(piece.as_ref().as_bytes()).await.unwrap();
                        tokio::task::yield_now().await;
                    }
                    if closes {
                        return;
                    }
                }
            });
        }
    });
    addr
}

const CHUNKED: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";

#[tokio::test]
async fn a_site_whose_first_chunk_is_malformed_is_a_502_with_a_page() {
    let cases: [(&[&str], bool); 13] = [
        (&["HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nabc\r\n"], false),
        (&["HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n<html>"], false),
        (&["HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\nabc"], false),
        (&["HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabcdef\r\n"], false),
        (&["HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n-1\r\n"], false),
        (&["HTTP/1.1 500 No\r\ntransfer-encoding: chunked\r\n\r\nx"], false),
        (
            &[
                "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\nx",
            ],
            false,
        ),
        (&[CHUNKED, "zz\r\nabc\r\n"], false),
        (&[CHUNKED, "3", ";a\n"], false),
        (&[CHUNKED, "\r\n"], false),
        (&[CHUNKED], true),
        (&[CHUNKED, "3"], true),
        (&[CHUNKED, "3\r"], true),
    ];
    let certified = certified(&["h5.example.com"]);
    for (pieces, closes) in cases {
        let site = scripted_site(pieces, closes).await;
        let plan =
            TestConfig { upstream: Some(format!("\"http://{site}\"")), ..certified.plan.clone() };
        let street = TestGateway::open(plan).await;
        for _ in 0..2 {
            let page = Visitor::desktop(street.gateway).get("/static/a").await;
            assert_eq!(page.status, 502, "{pieces:?}: {}", page.text);
            let kind = page.header("content-type");
            assert_eq!(kind, Some("text/html; charset=utf-8"), "{pieces:?}");
        }
        let mut wire = h2::Wire::open(&street, &certified).await;
        let (status, body) = wire.get("/static/a").await;
        assert_eq!(status, Some(502), "{pieces:?}");
        assert!(body, "{pieces:?}: no page");
        drop(wire);
        street.close().await;
    }
}

#[tokio::test]
async fn a_head_does_not_wait_for_a_body_that_is_long_in_coming() {
    for kind in ["text/event-stream", "text/plain"] {
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ntransfer-encoding: chunked\r\n\r\n"
        );
        let site = scripted_site(vec![head].leak(), false).await;
        let plan =
            TestConfig { upstream: Some(format!("\"http://{site}\"")), ..TestConfig::site(ROUTES) };
        let street = TestGateway::open(plan).await;
        let mut stream = TcpStream::connect(street.gateway).await.unwrap();
        let request = format!("GET /static/a HTTP/1.1\r\n{H}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut buffer = [0; 4096];
        let count =
            timeout(Duration::from_secs(5), stream.read(&mut buffer)).await.unwrap().unwrap();
        assert!(buffer[..count].starts_with(b"HTTP/1.1 200"), "{kind}");
        stream.set_zero_linger().unwrap();
        drop(stream);
        street.close().await;
    }
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
