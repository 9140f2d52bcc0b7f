//! How much of its servers a site may take, and who waits.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::{Instant, sleep, timeout},
};

use crate::{
    harness::{TestConfig, TestGateway},
    upstream_server::Server,
    visitor::raw,
};

const OPEN: &str = "[[site.route]]\npath = \"/*\"\nauth = \"none\"\n";
const GET: &str = "GET / HTTP/1.1\r\nhost: h5.example.com\r\naccept: text/html\r\n\r\n";
const WEBSOCKET: &str = "GET / HTTP/1.1\r\nhost: h5.example.com\r\nconnection: upgrade\r\n\
                         upgrade: websocket\r\nsec-websocket-version: 13\r\n\
                         sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// Four threads, so that what is counted is counted for all of them.
fn plan(upstream: &str, lines: &str) -> TestConfig {
    let site = TestConfig::site(&format!("{lines}\n{OPEN}"));
    TestConfig { workers: 4, upstream: Some(upstream.to_owned()), ..site }
}

/// A server that answers when it is told to.
struct Slow(TcpListener);

/// A request that has reached it.
struct Reached(TcpStream);

impl Slow {
    async fn start() -> (Self, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("\"http://{}\"", listener.local_addr().unwrap());
        (Self(listener), url)
    }

    /// The next request that reaches it, over a connection of its own.
    async fn reached(&self) -> Reached {
        let accepted = timeout(Duration::from_secs(10), self.0.accept()).await;
        let (mut stream, _) = accepted.expect("nothing reaches the server").unwrap();
        assert!(stream.read(&mut [0; 4096]).await.unwrap() > 0);
        Reached(stream)
    }

    /// That no request has reached it by now.
    async fn is_quiet(&self) {
        tokio::task::yield_now().await;
        let quiet = timeout(Duration::ZERO, self.0.accept()).await.is_err();
        assert!(quiet, "more reach it than may");
    }
}

impl Reached {
    async fn answer(mut self) {
        let answer = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\nconnection: close\r\n\r\ndone";
        self.0.write_all(answer.as_bytes()).await.unwrap();
    }
}

/// A visitor who asks for something, and will read the answer.
async fn visitor(street: &TestGateway, request: &str) -> TcpStream {
    let mut stream = TcpStream::connect(street.gateway).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

/// The answer they get: its head, and what came with it.
async fn answer(stream: &mut TcpStream) -> String {
    let mut seen = Vec::new();
    let reading = async {
        while !seen.windows(4).any(|it| it == b"\r\n\r\n") {
            assert!(stream.read_buf(&mut seen).await.unwrap() > 0, "hung up on");
        }
    };
    timeout(Duration::from_secs(20), reading).await.expect("no answer");
    String::from_utf8_lossy(&seen).into_owned()
}

/// Waits until so many requests wait for a server.
async fn waiting(street: &TestGateway, count: usize) {
    let admin = street.admin().await;
    let line = format!("wxgate_upstream_waiting{{site=\"h5.example.com\"}} {count}\n");
    let begun = Instant::now();
    let ask = format!("GET /metrics HTTP/1.1\r\nhost: {admin}\r\nconnection: close\r\n\r\n");
    loop {
        let metrics = raw(admin, &ask).await;
        if metrics.contains(&line) {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(10), "not {count} wait in {metrics}");
        sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn no_more_than_allowed_are_under_way_and_the_others_wait_their_turn() {
    let (slow, url) = Slow::start().await;
    let lines = "upstream_connections = 2\nupstream_queue_time = \"60s\"";
    let street = TestGateway::open(plan(&url, lines)).await;
    let mut visitors = Vec::new();
    let mut reached = Vec::new();
    for _ in 0..2 {
        visitors.push(visitor(&street, GET).await);
        reached.push(slow.reached().await);
    }
    for count in 1..=6 {
        visitors.push(visitor(&street, GET).await);
        waiting(&street, count).await;
    }
    slow.is_quiet().await;

    // One by one they get their turn, and two are never three.
    for left in (0..6).rev() {
        reached.remove(0).answer().await;
        reached.push(slow.reached().await);
        waiting(&street, left).await;
        slow.is_quiet().await;
    }
    for last in reached {
        last.answer().await;
    }
    for mut visitor in visitors {
        let said = answer(&mut visitor).await;
        assert!(said.starts_with("HTTP/1.1 200"), "{said}");
    }
    street.close().await;
}

#[tokio::test]
async fn who_waits_too_long_or_finds_too_many_waiting_is_told_to_come_again() {
    let (slow, url) = Slow::start().await;
    let lines = "upstream_connections = 1\nupstream_queue = 1\nupstream_queue_time = \"300ms\"";
    let street = TestGateway::open(plan(&url, lines)).await;
    let mut first = visitor(&street, GET).await;
    let reached = slow.reached().await;
    let mut second = visitor(&street, GET).await;
    waiting(&street, 1).await;
    let html = GET.replace("\r\n\r\n", "\r\nconnection: close\r\n\r\n");
    let third = raw(street.gateway, &html).await;
    assert!(third.contains("访问的人太多"), "{third}");
    for said in [third, answer(&mut second).await] {
        assert!(said.starts_with("HTTP/1.1 503") && said.contains("retry-after: 5"), "{said}");
    }
    waiting(&street, 0).await;
    let admin = street.admin().await;
    let ask =
        |path: &str| format!("GET {path} HTTP/1.1\r\nhost: {admin}\r\nconnection: close\r\n\r\n");
    let metrics = raw(admin, &ask("/metrics")).await;
    for line in [
        "wxgate_limits_total{limit=\"upstream_connections\"} 2\n",
        "wxgate_upstream_errors_total{site=\"h5.example.com\",reason=\"full\"} 2\n",
    ] {
        assert!(metrics.contains(line), "no {line} in {metrics}");
    }

    // The server is as well as before: being busy is no failure.
    reached.answer().await;
    assert!(answer(&mut first).await.starts_with("HTTP/1.1 200"));
    let mut fourth = visitor(&street, GET).await;
    slow.reached().await.answer().await;
    assert!(answer(&mut fourth).await.starts_with("HTTP/1.1 200"));
    let ready = raw(admin, &ask("/readyz")).await;
    assert!(ready.starts_with("HTTP/1.1 200") && !ready.contains("servers well"), "{ready}");
    street.close().await;
}

#[tokio::test]
async fn a_visitor_who_leaves_gives_their_place_to_the_next() {
    let (slow, url) = Slow::start().await;
    let lines = "upstream_connections = 1\nupstream_queue_time = \"60s\"";
    let street = TestGateway::open(plan(&url, lines)).await;
    let first = visitor(&street, GET).await;
    let reached = slow.reached().await;
    let second = visitor(&street, GET).await;
    waiting(&street, 1).await;
    let mut third = visitor(&street, GET).await;
    waiting(&street, 2).await;

    // Who waits and leaves is nobody's obstacle. Their system says so at once: a reset.
    second.set_zero_linger().unwrap();
    drop(second);
    waiting(&street, 1).await;
    // Nor is who leaves while the server works for them.
    first.set_zero_linger().unwrap();
    drop(first);
    let next = slow.reached().await;
    drop(reached);
    next.answer().await;
    assert!(answer(&mut third).await.starts_with("HTTP/1.1 200"));
    waiting(&street, 0).await;
    street.close().await;
}

#[tokio::test]
async fn a_websocket_takes_a_place_until_it_ends() {
    let (slow, url) = Slow::start().await;
    let lines = "upstream_connections = 1\nupstream_queue_time = \"60s\"";
    let street = TestGateway::open(plan(&url, lines)).await;
    let mut tunnel = visitor(&street, WEBSOCKET).await;
    let mut site = slow.reached().await;
    let switch = "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\n\
                  connection: upgrade\r\n\r\n";
    site.0.write_all(switch.as_bytes()).await.unwrap();
    assert!(answer(&mut tunnel).await.starts_with("HTTP/1.1 101"));
    let mut second = visitor(&street, GET).await;
    waiting(&street, 1).await;
    slow.is_quiet().await;

    tunnel.write_all(b"still open").await.unwrap();
    let mut heard = [0; 10];
    site.0.read_exact(&mut heard).await.unwrap();
    drop((tunnel, site));
    slow.reached().await.answer().await;
    assert!(answer(&mut second).await.starts_with("HTTP/1.1 200"));
    street.close().await;
}

#[tokio::test]
async fn whoever_waits_takes_the_first_server_with_room() {
    let ((a, a_url), (b, b_url)) = (Slow::start().await, Slow::start().await);
    let lines = "upstream_connections = 1\nupstream_queue_time = \"60s\"";
    let street = TestGateway::open(plan(&format!("{a_url}, {b_url}"), lines)).await;
    // The first of each thread would be for the first server, and it has room for one.
    let mut first = visitor(&street, GET).await;
    let at_a = a.reached().await;
    let mut second = visitor(&street, GET).await;
    b.reached().await.answer().await;
    assert!(answer(&mut second).await.starts_with("HTTP/1.1 200"));
    let mut third = visitor(&street, GET).await;
    let at_b = b.reached().await;

    // Two wait, and the one server is stuck: both are served by the other.
    let mut fourth = visitor(&street, GET).await;
    waiting(&street, 1).await;
    let mut fifth = visitor(&street, GET).await;
    waiting(&street, 2).await;
    at_b.answer().await;
    assert!(answer(&mut third).await.starts_with("HTTP/1.1 200"));
    b.reached().await.answer().await;
    assert!(answer(&mut fourth).await.starts_with("HTTP/1.1 200"));
    b.reached().await.answer().await;
    assert!(answer(&mut fifth).await.starts_with("HTTP/1.1 200"));
    a.is_quiet().await;
    at_a.answer().await;
    assert!(answer(&mut first).await.starts_with("HTTP/1.1 200"));
    street.close().await;
}

#[tokio::test]
async fn a_reload_changes_how_many() {
    let (slow, url) = Slow::start().await;
    let lines = |count| format!("upstream_connections = {count}\nupstream_queue_time = \"60s\"");
    let street = TestGateway::open(plan(&url, &lines(1))).await;
    let mut visitors = vec![visitor(&street, GET).await];
    let mut reached = vec![slow.reached().await];
    for count in 1..=3 {
        visitors.push(visitor(&street, GET).await);
        waiting(&street, count).await;
    }
    // Two more fit in: they have waited under the old rules.
    street.reload(&plan(&url, &lines(3)));
    reached.push(slow.reached().await);
    reached.push(slow.reached().await);
    waiting(&street, 1).await;
    slow.is_quiet().await;

    // And two less: those that are under way go on, and one of them is not replaced.
    street.reload(&plan(&url, &lines(2)));
    reached.remove(0).answer().await;
    assert!(answer(&mut visitors[0]).await.starts_with("HTTP/1.1 200"));
    waiting(&street, 1).await;
    slow.is_quiet().await;
    reached.remove(0).answer().await;
    reached.push(slow.reached().await);
    for last in reached {
        last.answer().await;
    }
    for mut visitor in visitors.drain(1..) {
        assert!(answer(&mut visitor).await.starts_with("HTTP/1.1 200"));
    }
    street.close().await;
}

#[tokio::test]
async fn what_idles_is_bounded_in_all() {
    let (slow, url) = Slow::start().await;
    let limits = "[server.limits]\nupstream_idle = 3\n";
    let plan = TestConfig { workers: 1, server: limits.to_owned(), ..plan(&url, "") };
    let street = TestGateway::open(plan).await;
    let mut visitors = Vec::new();
    let mut connections = Vec::new();
    for _ in 0..10 {
        visitors.push(visitor(&street, GET).await);
        connections.push(slow.reached().await.0);
    }
    for (visitor, connection) in visitors.iter_mut().zip(&mut connections) {
        let kept = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ndone";
        connection.write_all(kept.as_bytes()).await.unwrap();
        assert!(answer(visitor).await.starts_with("HTTP/1.1 200"));
    }
    // The first three are kept, and each later one is closed as its answer ends.
    for connection in connections.drain(3..) {
        let mut connection = connection;
        let read = timeout(Duration::from_secs(10), connection.read(&mut [0; 1])).await;
        assert_eq!(read.expect("it is kept").unwrap_or_default(), 0);
    }
    // They are of use: three more requests come over them, and a fourth over a new one.
    for (visitor, number) in visitors.iter_mut().zip(0..4) {
        visitor.write_all(GET.as_bytes()).await.unwrap();
        if number == 3 {
            slow.reached().await;
        }
    }
    for connection in &mut connections {
        let read = timeout(Duration::from_secs(10), connection.read(&mut [0; 4096])).await;
        assert!(read.expect("nothing comes over it").unwrap() > 0);
    }
    street.close().await;
}

/// A message to all followers, and one of two servers goes down and up under it.
#[tokio::test]
async fn a_crowd_is_served_to_the_last_and_nobody_is_overrun() {
    let (mut a, b) = (Server::start().await, Server::start().await);
    let lines = "upstream_connections = 4\nupstream_queue_time = \"60s\"\nslow_start = \"0s\"";
    let street = TestGateway::open(plan(&format!("{}, {}", a.url(), b.url()), lines)).await;
    let gateway = street.gateway;
    let request = "GET /work HTTP/1.1\r\nhost: h5.example.com\r\n";
    let requests = format!("{request}\r\n").repeat(3) + request + "connection: close\r\n\r\n";
    let mut crowd = tokio::task::JoinSet::new();
    for _ in 0..150 {
        let requests = requests.clone();
        crowd.spawn(async move { raw(gateway, &requests).await.matches("HTTP/1.1 200").count() });
    }
    let mut answered = 0;
    for number in 0..150 {
        answered += crowd.join_next().await.unwrap().unwrap();
        match number {
            20 => a.kill().await,
            60 => a.revive().await,
            _ => (),
        }
    }
    assert_eq!(answered, 600);
    assert!(a.peak() <= 4 && b.peak() <= 4, "{} and {} at once", a.peak(), b.peak());
    assert!(b.peak() == 4, "the limit was met");
    waiting(&street, 0).await;
    street.close().await;
}
