//! Several servers behind one site: who gets which requests.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};

use crate::{
    echo::Echo,
    harness::{TestConfig, TestGateway},
    visitor::raw,
};

const OPEN: &str = "[[site.route]]\npath = \"/*\"\nauth = \"none\"\n";

/// Asks so many times over one connection, and brings back how many were answered with 200.
async fn ask(street: &TestGateway, times: usize) -> usize {
    let request = "GET / HTTP/1.1\r\nhost: h5.example.com\r\n";
    let last = format!("{request}connection: close\r\n\r\n");
    let requests = format!("{request}\r\n").repeat(times - 1) + &last;
    raw(street.gateway, &requests).await.matches("HTTP/1.1 200").count()
}

/// A street of one thread with these servers and these lines in its site.
async fn open(upstream: String, lines: &str) -> TestGateway {
    let site = format!("{lines}\n{OPEN}");
    TestGateway::open(TestConfig {
        workers: 1,
        upstream: Some(upstream),
        ..TestConfig::site(&site)
    })
    .await
}

#[tokio::test]
async fn a_server_gets_its_share() {
    let (big, small) = (Echo::start().await, Echo::start().await);
    let upstream =
        format!("{{ url = \"http://{}\", weight = 3 }}, \"http://{}\"", big.addr, small.addr);
    let street = open(upstream, "").await;
    assert_eq!(ask(&street, 40).await, 40);
    assert_eq!((big.hits(), small.hits()), (30, 10));
    street.close().await;
}

#[tokio::test]
async fn a_server_that_is_gone_is_passed_over_and_costs_nobody_their_answer() {
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let well = Echo::start().await;
    for balance in ["round_robin", "least_loaded"] {
        let upstream =
            format!("{{ url = \"http://{gone}\", weight = 9 }}, \"http://{}\"", well.addr);
        let street = open(upstream, &format!("balance = \"{balance}\"")).await;
        assert_eq!(ask(&street, 20).await, 20, "{balance}");
        street.close().await;
    }
    assert_eq!(well.hits(), 40);
}

/// A request that is being answered, and its server's end.
struct Busy {
    visitor: TcpStream,
    server: TcpStream,
}

/// Sends a request, and waits for it at a server that answers nothing by itself.
async fn busy(street: &TestGateway, server: &TcpListener) -> Busy {
    let mut visitor = TcpStream::connect(street.gateway).await.unwrap();
    let request = "GET /slow HTTP/1.1\r\nhost: h5.example.com\r\nconnection: close\r\n\r\n";
    visitor.write_all(request.as_bytes()).await.unwrap();
    let accepted = timeout(Duration::from_secs(10), server.accept()).await;
    let (mut server, _) = accepted.expect("the request went elsewhere").unwrap();
    assert!(server.read(&mut [0; 1024]).await.unwrap() > 0);
    Busy { visitor, server }
}

impl Busy {
    /// Answers it, and waits until the visitor has all of it.
    async fn end(mut self) {
        let answer = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\nconnection: close\r\n\r\ndone";
        self.server.write_all(answer.as_bytes()).await.unwrap();
        let mut text = String::new();
        self.visitor.read_to_string(&mut text).await.unwrap();
        assert!(text.ends_with("done"), "{text}");
    }
}

#[tokio::test]
async fn the_one_with_less_to_do_is_next() {
    let slow = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (quick, addr) = (Echo::start().await, slow.local_addr().unwrap());
    let upstream = format!("\"http://{addr}\", \"http://{}\"", quick.addr);
    let street = open(upstream, "balance = \"least_loaded\"").await;

    // The first request goes to a server that does not answer it, and the others do not queue up
    // behind it.
    let waiting = busy(&street, &slow).await;
    assert_eq!(ask(&street, 10).await, 10);
    assert_eq!(quick.hits(), 10);

    // Once it is answered, the two are equals, and take turns.
    waiting.end().await;
    assert_eq!(ask(&street, 1).await, 1);
    assert_eq!(quick.hits(), 11);
    busy(&street, &slow).await.end().await;
    street.close().await;
}

#[tokio::test]
async fn a_websocket_is_something_to_do() {
    let (first, second) = (Echo::start().await, Echo::start().await);
    let upstream = format!("\"http://{}\", \"http://{}\"", first.addr, second.addr);
    let street = open(upstream, "balance = \"least_loaded\"").await;
    let mut visitor = TcpStream::connect(street.gateway).await.unwrap();
    let handshake = "GET /ws HTTP/1.1\r\nhost: h5.example.com\r\nconnection: upgrade\r\n\
                     upgrade: websocket\r\nsec-websocket-version: 13\r\n\
                     sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    visitor.write_all(handshake.as_bytes()).await.unwrap();
    let mut start = [0; 12];
    visitor.read_exact(&mut start).await.unwrap();
    assert_eq!(&start, b"HTTP/1.1 101");
    assert_eq!((first.hits(), second.hits()), (1, 0));
    assert_eq!(ask(&street, 6).await, 6);
    assert_eq!((first.hits(), second.hits()), (1, 6));
    street.close().await;
}
