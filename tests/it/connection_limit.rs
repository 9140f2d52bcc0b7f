//! All `connections` are taken: idle ones make room for new visitors, those of the address that
//! holds most of them first, and nothing that is under way is ended for it.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::{Instant, sleep, timeout},
};

use crate::{
    h2::{self, END_HEADERS, END_STREAM, GET, GOAWAY, HEADERS, Wire, block, frame},
    harness::{TestConfig, TestGateway},
    tls::{Certified, certified},
    visitor::raw,
};

const ATTACKER: [u8; 4] = [127, 0, 0, 1];
const VISITOR: [u8; 4] = [127, 0, 0, 2];

/// Longer than a test takes, so that nothing but the limit closes a connection.
const TIMES: &str = "header_time = \"60s\"\nidle_time = \"60s\"\nbody_time = \"60s\"";

/// A new visitor waits this long at the most. The gateway needs a millisecond; the machine that runs
/// the tests may be busy.
const AT_ONCE: Duration = Duration::from_secs(3);

async fn connect_from(source: [u8; 4], to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from((source, 0))).unwrap();
    timeout(AT_ONCE, socket.connect(to)).await.unwrap().unwrap()
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: h5.example.com\r\n\r\n")
}

/// Sends a request and reads an answer, which fits into one read.
async fn ask(stream: &mut TcpStream, request: &str) -> std::io::Result<String> {
    let mut buffer = vec![0; 8192];
    stream.write_all(request.as_bytes()).await?;
    let read = timeout(AT_ONCE, stream.read(&mut buffer)).await;
    let count = read.map_err(|_| std::io::ErrorKind::TimedOut)??;
    Ok(String::from_utf8_lossy(&buffer[..count]).into_owned())
}

/// A connection that the attacker keeps.
type Held = Box<dyn std::any::Any>;

/// What the attacker's connections do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Quiet {
    /// Each has had one answer.
    KeptAlive,
    /// Each has sent nothing.
    Silent,
    /// Each has sent a part of a head.
    HalfAHead,
    /// Each has sent the first bytes of a TLS handshake.
    HalfAHandshake,
    /// Each speaks HTTP/2 and has no stream open.
    Http2,
    /// Each is one of the others, in turn.
    Mixed,
}

impl Quiet {
    /// Opens one more connection of the attacker.
    async fn open(self, street: &TestGateway, certified: &Certified, number: usize) -> Held {
        let all =
            [Self::KeptAlive, Self::Silent, Self::HalfAHead, Self::HalfAHandshake, Self::Http2];
        let one = if self == Self::Mixed { all[number % all.len()] } else { self };
        let encrypted = one == Self::HalfAHandshake;
        if one == Self::Http2 {
            return Box::new(http2(street, certified).await);
        }
        let to = if encrypted { street.tls.unwrap() } else { street.gateway };
        let mut stream = connect_from(ATTACKER, to).await;
        match one {
            Self::KeptAlive => {
                let answer = ask(&mut stream, &get("/static/attacker")).await.unwrap();
                assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
            }
            Self::HalfAHead => stream.write_all(b"GET /static/a HTTP/1.1\r\nho").await.unwrap(),
            Self::HalfAHandshake => stream.write_all(&[22, 3, 1, 2]).await.unwrap(),
            Self::Silent | Self::Http2 | Self::Mixed => (),
        }
        Box::new(stream)
    }
}

/// A connection over HTTP/2 that has had one answer.
async fn http2(street: &TestGateway, certified: &Certified) -> Wire {
    let mut wire = timeout(AT_ONCE, Wire::open(street, certified)).await.unwrap();
    let request = frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(&GET));
    wire.write.write_all(&request).await.unwrap();
    assert_eq!(timeout(AT_ONCE, wire.next()).await.unwrap().map(|it| it.0), Some(HEADERS));
    wire
}

async fn metrics(admin: SocketAddr) -> String {
    raw(admin, "GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await
}

fn value(metrics: &str, name: &str) -> Option<f64> {
    metrics.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
}

async fn open(workers: u32, connections: usize) -> (TestGateway, Certified) {
    let mut certified = certified(&["h5.example.com"]);
    let limits = format!("\n[server.limits]\nconnections = {connections}\n{TIMES}");
    certified.plan.server += &limits;
    certified.plan.workers = workers;
    (TestGateway::open(certified.plan.clone()).await, certified)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g5_one_address_with_every_connection_keeps_nobody_out() {
    let rows = [
        (Quiet::KeptAlive, 3, 64),
        (Quiet::Silent, 3, 64),
        (Quiet::HalfAHead, 3, 64),
        (Quiet::HalfAHandshake, 3, 64),
        (Quiet::Http2, 3, 64),
        (Quiet::Mixed, 3, 64),
        // Fewer connections than threads: nearly always another thread has to make room.
        (Quiet::KeptAlive, 8, 4),
        (Quiet::Silent, 8, 4),
        (Quiet::KeptAlive, 1, 4),
    ];
    for (quiet, workers, connections) in rows {
        let row = format!("{quiet:?}, {workers} threads, {connections} connections");
        let (street, certified) = open(workers, connections).await;
        let admin = street.admin().await;
        // A visitor who was there before, and keeps the connection. It is idle longer than any other.
        let mut kept = connect_from(VISITOR, street.gateway).await;
        assert!(ask(&mut kept, &get("/static/a")).await.unwrap().starts_with("HTTP/1.1 200"));

        let mut held = Vec::new();
        for number in 0..connections + 20 {
            held.push(quiet.open(&street, &certified, number).await);
        }
        let before = street.site.hits();
        for source in 3..9 {
            let begun = Instant::now();
            let mut visitor = connect_from([127, 0, 0, source], street.gateway).await;
            let answer = ask(&mut visitor, &get("/static/b")).await;
            let answer = answer.unwrap_or_else(|error| panic!("{row}: visitor {source}: {error}"));
            assert!(answer.starts_with("HTTP/1.1 200"), "{row}: {answer}");
            assert!(begun.elapsed() < AT_ONCE, "{row}: {:?}", begun.elapsed());
            drop(visitor);
            held.push(quiet.open(&street, &certified, usize::from(source)).await);
        }
        let hits = street.site.hits() - before;
        assert!(hits >= 6, "{row}: {hits}");
        let answer = ask(&mut kept, &get("/static/c")).await;
        let answer = answer.unwrap_or_else(|error| panic!("{row}: the kept connection: {error}"));
        assert!(answer.starts_with("HTTP/1.1 200"), "{row}: {answer}");

        let metrics = metrics(admin).await;
        let limit = f64::from(u32::try_from(connections).unwrap());
        assert_eq!(value(&metrics, "wxgate_connections_limit "), Some(limit), "{row}");
        let met = value(&metrics, "wxgate_limits_total{limit=\"connections\"} ");
        assert!(met.is_some_and(|met| met >= 20.0), "{row}: {met:?}");
        // One that was closed is counted until its task has ended, and one that waits is not yet.
        let open = value(&metrics, "wxgate_connections ");
        assert!(open.is_some_and(|open| open <= limit), "{row}: {open:?}");
        drop(held);
        street.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g5_http2_is_told_that_its_connection_goes() {
    let (street, certified) = open(1, 4).await;
    let mut first = http2(&street, &certified).await;
    let mut rest = Vec::new();
    for _ in 0..4 {
        rest.push(http2(&street, &certified).await);
    }
    let (kind, payload) = timeout(AT_ONCE, first.next()).await.unwrap().unwrap();
    assert_eq!((kind, &payload[4..8]), (GOAWAY, &[0, 0, 0, 0][..]), "no error of the client's");
    let end = timeout(AT_ONCE, first.next()).await.unwrap();
    assert!(end.is_none(), "it is closed: {end:?}");
    street.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g5_nothing_under_way_is_ended_for_a_new_connection() {
    let (street, certified) = open(2, 4).await;
    // An upload, a long answer, a tunnel and an HTTP/2 stream fill it.
    let mut upload = connect_from(ATTACKER, street.gateway).await;
    let head =
        "POST /static/upload HTTP/1.1\r\nhost: h5.example.com\r\ncontent-length: 6\r\n\r\nabc";
    upload.write_all(head.as_bytes()).await.unwrap();
    let mut events = connect_from(ATTACKER, street.gateway).await;
    let begun = ask(&mut events, &get("/static/endless")).await.unwrap();
    assert!(begun.starts_with("HTTP/1.1 200"), "{begun}");
    let mut tunnel = connect_from(ATTACKER, street.gateway).await;
    let handshake = "GET /static/deaf HTTP/1.1\r\nhost: h5.example.com\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
    assert!(ask(&mut tunnel, handshake).await.unwrap().starts_with("HTTP/1.1 101"));
    let mut stream = Wire::open(&street, &certified).await;
    let upload_http2 = [(":method", "POST"), GET[1], GET[2], (":path", "/static/upload")];
    let request = frame(HEADERS, END_HEADERS, 1, &block(&upload_http2));
    stream.write.write_all(&request).await.unwrap();
    let begun = Instant::now();
    while street.site.hits() < 4 {
        assert!(begun.elapsed() < AT_ONCE, "they are not under way");
        sleep(Duration::from_millis(10)).await;
    }

    let mut visitor = connect_from(VISITOR, street.gateway).await;
    visitor.write_all(get("/static/a").as_bytes()).await.unwrap();
    let early = timeout(Duration::from_millis(500), visitor.read(&mut [0; 64])).await;
    assert!(early.is_err(), "there is room all of a sudden: {early:?}");

    // All are as they were, and the first that ends makes room.
    let data = frame(h2::DATA, END_STREAM, 1, b"abc");
    stream.write.write_all(&data).await.unwrap();
    assert_eq!(timeout(AT_ONCE, stream.next()).await.unwrap().map(|it| it.0), Some(HEADERS));
    tunnel.write_all(b"x").await.unwrap();
    assert!(events.read(&mut [0; 64]).await.unwrap() > 0);
    assert!(ask(&mut upload, "def").await.unwrap().starts_with("HTTP/1.1 200"));
    let mut answer = [0; 64];
    let count = timeout(AT_ONCE, visitor.read(&mut answer)).await.unwrap().unwrap();
    assert!(answer[..count].starts_with(b"HTTP/1.1 200"), "{answer:?}");
    street.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g5_a_gateway_with_every_connection_taken_stops_all_the_same() {
    let limits = format!("[server.limits]\nconnections = 1\n{TIMES}");
    let routes = crate::harness::ROUTES;
    let plan = TestConfig { server: limits, ..TestConfig::site(routes) };
    let street = TestGateway::open(plan).await;
    let mut upload = connect_from(ATTACKER, street.gateway).await;
    let head =
        "POST /static/upload HTTP/1.1\r\nhost: h5.example.com\r\ncontent-length: 6\r\n\r\nabc";
    upload.write_all(head.as_bytes()).await.unwrap();
    let begun = Instant::now();
    while street.site.connections() < 1 {
        assert!(begun.elapsed() < AT_ONCE, "the upload is not under way");
        sleep(Duration::from_millis(10)).await;
    }
    let _waiting = connect_from(VISITOR, street.gateway).await;
    timeout(Duration::from_secs(10), street.close()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g5_a_trusted_proxy_does_not_count_as_the_address_that_holds_most() {
    let limits =
        format!("trusted_proxies = [\"127.0.0.9\"]\n[server.limits]\nconnections = 6\n{TIMES}");
    let plan = TestConfig { server: limits, ..TestConfig::site(crate::harness::ROUTES) };
    let street = TestGateway::open(plan).await;
    let mut proxy = Vec::new();
    for _ in 0..4 {
        let mut stream = connect_from([127, 0, 0, 9], street.gateway).await;
        assert!(ask(&mut stream, &get("/static/a")).await.unwrap().starts_with("HTTP/1.1 200"));
        proxy.push(stream);
    }
    let mut attacker = Vec::new();
    for _ in 0..8 {
        let mut stream = connect_from(ATTACKER, street.gateway).await;
        assert!(ask(&mut stream, &get("/static/a")).await.unwrap().starts_with("HTTP/1.1 200"));
        attacker.push(stream);
    }
    for stream in &mut proxy {
        assert!(ask(stream, &get("/static/b")).await.unwrap().starts_with("HTTP/1.1 200"));
    }
    street.close().await;
}
