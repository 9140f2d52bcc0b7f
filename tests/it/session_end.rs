//! Long responses end with the session that they were begun with: tunnels, event streams and
//! downloads, over HTTP/1.1 and HTTP/2 on both sides.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};
use wxgate::clock::{self, Clock, Timestamp};

use crate::{
    fleet::Fleet,
    h2_site::{self, Asked},
    harness::{KEY, TestConfig, TestGateway},
    tls::{Certified, certified, connect},
    visitor::Visitor,
};

/// Long enough for two looks of the gateway, so that what is still open then stays open.
const TWO_LOOKS: Duration = Duration::from_millis(1_100);
/// How long an end may take. It takes half a second on a machine that does nothing else.
const DEADLINE: Duration = Duration::from_secs(5);

/// A piece of a download.
static PIECE: &[u8] = &[b'a'; 16_384];

/// A site that answers at length: `/ws` switches protocols and sends back what it gets, `/events` says
/// something and is quiet, `/download` has no end that anybody would wait for.
async fn long_site() -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (addr, hits) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
    let counted = Arc::clone(&hits);
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(serve(stream, Arc::clone(&counted)));
        }
    });
    (addr, hits)
}

async fn serve(mut stream: TcpStream, hits: Arc<AtomicUsize>) {
    while let Some(head) = head(&mut stream).await {
        hits.fetch_add(1, Ordering::Relaxed);
        let answer = match head.split(' ').nth(1).unwrap_or_default() {
            "/ws" => {
                let switch = "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n";
                let _ = stream.write_all(switch.as_bytes()).await;
                let (mut from, mut to) = stream.split();
                let _ = tokio::io::copy(&mut from, &mut to).await;
                return;
            }
            "/events" => {
                "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n9\r\ndata: 1\n\n\r\n"
            }
            "/download" => "HTTP/1.1 200 OK\r\ncontent-length: 1000000000000\r\n\r\n",
            "/upload" => {
                let mut body = Vec::new();
                while !body.ends_with(b"0\r\n\r\n") {
                    let Ok(byte) = stream.read_u8().await else { return };
                    body.push(byte);
                }
                "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
            }
            _ => "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
        };
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
        if head.starts_with("GET /events") {
            let _ = stream.read_u8().await;
            return;
        }
        while head.starts_with("GET /download") {
            if stream.write_all(PIECE).await.is_err() {
                return;
            }
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

/// The same over HTTP/2.
async fn long_h2((request, mut respond): Asked) {
    let path = request.uri().path().to_owned();
    let mut response = http::Response::builder();
    if path == "/events" {
        response = response.header("content-type", "text/event-stream");
    }
    let mut body = respond.send_response(response.body(()).unwrap(), false).unwrap();
    let first = if path == "/events" { "data: 1\n\n" } else { "ok" };
    let _ = body.send_data(Bytes::from_static(first.as_bytes()), path == "/");
    match path.as_str() {
        "/events" => drop(std::future::poll_fn(|cx| body.poll_reset(cx)).await),
        "/download" => while h2_site::send(&mut body, Bytes::from_static(PIECE)).await.is_ok() {},
        _ => (),
    }
}

/// One kind of response that lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    WebSocket,
    Events,
    Download,
    EventsOverHttp2,
    DownloadOverHttp2,
}

use Kind::{Download, DownloadOverHttp2, Events, EventsOverHttp2, WebSocket};

const ALL: [Kind; 5] = [WebSocket, Events, Download, EventsOverHttp2, DownloadOverHttp2];

/// A response that has begun; the task reads it to its end.
struct Long {
    what: String,
    /// The session cookie that it brought, if any.
    renewed: Option<String>,
    end: JoinHandle<()>,
}

impl Long {
    async fn open(
        kind: Kind,
        street: &TestGateway,
        certified: &Certified,
        visitor: &Visitor,
    ) -> Self {
        let cookie = format!("wxgate={}", visitor.cookie("wxgate"));
        let what = format!("{kind:?}");
        if matches!(kind, EventsOverHttp2 | DownloadOverHttp2) {
            let stream = connect(street.tls.unwrap(), &certified.roots, "h5.example.com", b"h2");
            let io = TokioIo::new(stream.await.unwrap());
            let shaken = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await;
            let (mut sender, connection) = shaken.unwrap();
            tokio::spawn(connection);
            let path = if kind == EventsOverHttp2 { "events" } else { "download" };
            let request = http::Request::get(format!("https://h5.example.com/{path}"));
            let request = request.header("cookie", cookie).body(Empty::<Bytes>::new()).unwrap();
            let response = sender.send_request(request).await.unwrap();
            assert_eq!(response.status(), 200, "{what}");
            let renewed = response.headers().get("set-cookie");
            let renewed = renewed.map(|it| it.to_str().unwrap().to_owned());
            let mut body = response.into_body();
            assert!(body.frame().await.unwrap().is_ok(), "{what}");
            let end = tokio::spawn(async move {
                while let Some(Ok(_)) = body.frame().await {
                    sleep(Duration::from_millis(1)).await; // slower than the site
                }
                drop(sender);
            });
            return Self { what, renewed, end };
        }
        let (path, more) = match kind {
            WebSocket => ("/ws", "connection: upgrade\r\nupgrade: websocket\r\n"),
            Events => ("/events", ""),
            Download | EventsOverHttp2 | DownloadOverHttp2 => ("/download", ""),
        };
        let mut stream = TcpStream::connect(street.gateway).await.unwrap();
        let request = format!(
            "GET {path} HTTP/1.1\r\nhost: h5.example.com\r\ncookie: {cookie}\r\n{more}\r\n"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let head = head(&mut stream).await.unwrap();
        let status = if kind == WebSocket { "HTTP/1.1 101" } else { "HTTP/1.1 200" };
        assert!(head.starts_with(status), "{what}: {head}");
        let renewed = head.lines().find_map(|line| line.strip_prefix("set-cookie: "));
        let renewed = renewed.map(str::to_owned);
        if kind == WebSocket {
            stream.write_all(b"hello").await.unwrap();
        }
        assert!(stream.read_u8().await.is_ok(), "{what}");
        let end = tokio::spawn(async move {
            let mut buffer = vec![0; 65_536];
            while let Ok(1..) = stream.read(&mut buffer).await {
                sleep(Duration::from_millis(1)).await; // slower than the site
            }
        });
        Self { what, renewed, end }
    }

    async fn ends(&mut self, when: &str) {
        let ended = timeout(DEADLINE, &mut self.end).await;
        assert!(ended.is_ok(), "{} is still open {when}", self.what);
    }
}

async fn open_all(street: &TestGateway, certified: &Certified, visitor: &Visitor) -> Vec<Long> {
    let mut all = Vec::new();
    // Twice each, so that both threads have some.
    for kind in [ALL, ALL].concat() {
        all.push(Long::open(kind, street, certified, visitor).await);
    }
    all
}

async fn all_stay_open(all: &[Long], when: &str) {
    sleep(TWO_LOOKS).await;
    for one in all {
        assert!(!one.end.is_finished(), "{} has ended {when}", one.what);
    }
}

async fn all_end(all: Vec<Long>, when: &str) {
    for mut one in all {
        one.ends(when).await;
    }
}

fn session(idle: &str, max: &str) -> String {
    format!("idle = \"{idle}\"\nmax = \"{max}\"\nkeys = [{{ id = \"k1\", secret = \"{KEY}\" }}]")
}

/// The usual two threads and a TLS listener in front of a site all of whose pages need a login.
fn plan(certified: &Certified, upstream: String, clock: Clock) -> TestConfig {
    TestConfig {
        session: session("100s", "250s"),
        site: String::new(),
        upstream: Some(upstream),
        clock,
        ..certified.plan.clone()
    }
}

/// A visitor with a session.
async fn logged_in(gateway: SocketAddr) -> Visitor {
    let mut visitor = Visitor::wechat(gateway);
    assert_eq!(visitor.open("/").await.1.status, 200);
    visitor
}

/// Two visitors log in. One of them asks for a page past half of `idle`, once.
async fn renewal_and_expiry(street: &TestGateway, certified: &Certified, later: &AtomicU64) {
    let (idle, mut busy) = (logged_in(street.gateway).await, logged_in(street.gateway).await);
    let left_alone = open_all(street, certified, &idle).await;
    let renewed = open_all(street, certified, &busy).await;
    later.store(60, Ordering::Relaxed);
    let before = busy.cookie("wxgate");
    assert_eq!(busy.get("/").await.status, 200);
    assert_ne!(busy.cookie("wxgate"), before, "renewed");
    all_stay_open(&left_alone, "before the session expires").await;
    later.store(103, Ordering::Relaxed);
    all_end(left_alone, "after the session has expired").await;
    all_stay_open(&renewed, "though a request has renewed the session").await;
    later.store(165, Ordering::Relaxed);
    all_end(renewed, "after the renewed session has expired").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e7_long_responses_end_with_their_session_and_go_on_with_a_renewed_one() {
    static LATER: AtomicU64 = AtomicU64::new(0);
    fn now() -> Timestamp {
        Timestamp(clock::system().0 + LATER.load(Ordering::Relaxed))
    }
    let certified = certified(&["h5.example.com"]);
    let (site, hits) = long_site().await;
    let street = TestGateway::open(plan(&certified, format!("\"http://{site}\""), now)).await;
    renewal_and_expiry(&street, &certified, &LATER).await;

    // Who comes back with the expired cookie starts no new one, and the site hears nothing of it.
    let visitor = logged_in(street.gateway).await;
    LATER.fetch_add(101, Ordering::Relaxed);
    let seen = hits.load(Ordering::Relaxed);
    for headers in [&[("upgrade", "websocket"), ("connection", "upgrade")][..], &[]] {
        let refused = visitor.script().send("GET", "/ws", headers, "").await;
        assert_eq!(refused.status, 401, "{refused:?}");
    }
    assert_eq!(hits.load(Ordering::Relaxed), seen);
    street.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e7_long_responses_of_a_site_over_http2_end_with_their_session() {
    static LATER: AtomicU64 = AtomicU64::new(0);
    fn now() -> Timestamp {
        Timestamp(clock::system().0 + LATER.load(Ordering::Relaxed))
    }
    let certified = certified(&["h5.example.com"]);
    let site = h2_site::Site::new(long_h2).await;
    let mut plan = plan(&certified, site.upstream(), now);
    plan.site = "upstream_http = \"2\"".to_owned();
    let street = TestGateway::open(plan).await;
    let (idle, mut busy) = (logged_in(street.gateway).await, logged_in(street.gateway).await);
    let (mut left_alone, mut renewed) = (Vec::new(), Vec::new());
    for kind in ALL.into_iter().filter(|kind| *kind != WebSocket) {
        left_alone.push(Long::open(kind, &street, &certified, &idle).await);
        renewed.push(Long::open(kind, &street, &certified, &busy).await);
    }
    all_stay_open(&renewed, "before the session expires").await;
    LATER.store(60, Ordering::Relaxed);
    assert_eq!(busy.get("/").await.status, 200);
    LATER.store(103, Ordering::Relaxed);
    all_end(left_alone, "after the session has expired").await;
    all_stay_open(&renewed, "though a request has renewed the session").await;
    LATER.store(165, Ordering::Relaxed);
    all_end(renewed, "after the renewed session has expired").await;
    street.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e7_long_responses_end_at_max_however_often_the_session_was_renewed() {
    static LATER: AtomicU64 = AtomicU64::new(0);
    fn now() -> Timestamp {
        Timestamp(clock::system().0 + LATER.load(Ordering::Relaxed))
    }
    let certified = certified(&["h5.example.com"]);
    let (site, _) = long_site().await;
    let plan = plan(&certified, format!("\"http://{site}\""), now);
    let street = TestGateway::open(plan.clone()).await;
    let mut visitor = logged_in(street.gateway).await;
    let open = open_all(&street, &certified, &visitor).await;
    for later in (60..=240).step_by(60) {
        LATER.store(later, Ordering::Relaxed);
        assert_eq!(visitor.get("/").await.status, 200, "{later}");
    }
    all_stay_open(&open, "before max").await;
    LATER.store(254, Ordering::Relaxed);
    all_end(open, "after max").await;

    // A reload that makes `max` shorter counts for them, too.
    let visitor = logged_in(street.gateway).await;
    let open = open_all(&street, &certified, &visitor).await;
    LATER.fetch_add(60, Ordering::Relaxed);
    all_stay_open(&open, "before the reload").await;
    street.reload(&TestConfig { session: session("50s", "50s"), ..plan });
    all_end(open, "after a reload has made max shorter").await;
    street.close().await;
}

/// An upload that has begun and whose pieces the test sends.
async fn begin_upload(gateway: SocketAddr, visitor: &Visitor) -> TcpStream {
    let mut stream = TcpStream::connect(gateway).await.unwrap();
    let request = format!(
        "POST /upload HTTP/1.1\r\nhost: h5.example.com\r\ncookie: wxgate={}\r\ntransfer-encoding: chunked\r\n\r\n",
        visitor.cookie("wxgate")
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    send_piece(&mut stream).await;
    stream
}

async fn send_piece(stream: &mut TcpStream) {
    let _ = stream.write_all(b"5\r\nhello\r\n").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e7_an_upload_breaks_off_when_its_session_is_over() {
    static LATER: AtomicU64 = AtomicU64::new(0);
    fn now() -> Timestamp {
        Timestamp(clock::system().0 + LATER.load(Ordering::Relaxed))
    }
    let certified = certified(&["h5.example.com"]);
    let (site, hits) = long_site().await;
    let street = TestGateway::open(plan(&certified, format!("\"http://{site}\""), now)).await;
    let (idle, mut busy) = (logged_in(street.gateway).await, logged_in(street.gateway).await);
    let mut left_alone = begin_upload(street.gateway, &idle).await;
    let mut renewed = begin_upload(street.gateway, &busy).await;
    for later in [0, 60, 103] {
        LATER.store(later, Ordering::Relaxed);
        if later == 60 {
            assert_eq!(busy.get("/").await.status, 200);
        }
        for _ in 0..4 {
            sleep(Duration::from_millis(250)).await;
            send_piece(&mut renewed).await;
            if later < 103 {
                send_piece(&mut left_alone).await;
            }
        }
    }
    let seen = hits.load(Ordering::Relaxed);
    send_piece(&mut left_alone).await;
    let mut answer = String::new();
    let read = timeout(DEADLINE, left_alone.read_to_string(&mut answer)).await;
    assert!(read.is_ok() && answer.starts_with("HTTP/1.1 401"), "{read:?} {answer}");
    let open = timeout(TWO_LOOKS, renewed.read(&mut [0; 64])).await;
    assert!(open.is_err(), "a request has renewed its session: {open:?}");
    renewed.write_all(b"0\r\n\r\n").await.unwrap();
    assert!(head(&mut renewed).await.unwrap().starts_with("HTTP/1.1 200"));
    assert_eq!(hits.load(Ordering::Relaxed), seen, "nothing is sent to the site again");
    street.close().await;
}

/// The response that begins past half of `idle` renews the session by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_response_lasts_as_long_as_the_cookie_that_it_brings() {
    static LATER: AtomicU64 = AtomicU64::new(0);
    fn now() -> Timestamp {
        Timestamp(clock::system().0 + LATER.load(Ordering::Relaxed))
    }
    let certified = certified(&["h5.example.com"]);
    let (site, _) = long_site().await;
    let street = TestGateway::open(plan(&certified, format!("\"http://{site}\""), now)).await;
    // A visitor for each kind: none profits from the renewal of another.
    let mut open = Vec::new();
    for kind in ALL {
        open.push((kind, logged_in(street.gateway).await));
    }
    LATER.store(60, Ordering::Relaxed);
    let mut all = Vec::new();
    for (kind, visitor) in open {
        let one = Long::open(kind, &street, &certified, &visitor).await;
        assert!(one.renewed.as_deref().is_some_and(|it| it.starts_with("wxgate=")), "{kind:?}");
        all.push(one);
    }
    LATER.store(110, Ordering::Relaxed);
    all_stay_open(&all, "though it brought a cookie that is good for longer").await;
    LATER.store(165, Ordering::Relaxed);
    all_end(all, "after the cookie that it brought has expired").await;
    street.close().await;
}

/// Two replicas without a store between them: one learns of a renewal at the other by the first
/// request that carries the cookie.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_another_replica_renewed_counts_once_a_request_tells_and_a_client_that_reconnects_is_served()
 {
    static LATER: AtomicU64 = AtomicU64::new(0);
    fn now() -> Timestamp {
        Timestamp(clock::system().0 + LATER.load(Ordering::Relaxed))
    }
    let certified = certified(&["h5.example.com"]);
    let mut fleet = Fleet::open(&[], "").await;
    for _ in 0..2 {
        let server = certified.plan.server.clone();
        let plan = TestConfig { session: session("100s", "250s"), server, ..TestConfig::default() };
        fleet.join_with(plan, now).await;
    }
    let (here, there) = (&fleet.streets[0], fleet.gateway(1));
    let (mut told, mut untold) = (logged_in(here.gateway).await, logged_in(here.gateway).await);
    let mut open = Vec::new();
    for visitor in [&told, &untold] {
        let cookie = visitor.cookie("wxgate");
        let mut stream = TcpStream::connect(here.gateway).await.unwrap();
        stream.write_all(echo_socket(&cookie).as_bytes()).await.unwrap();
        assert!(head(&mut stream).await.unwrap().starts_with("HTTP/1.1 101"));
        open.push(stream);
    }
    LATER.store(60, Ordering::Relaxed);
    for visitor in [&mut told, &mut untold] {
        let before = visitor.cookie("wxgate");
        visitor.gateway = there;
        assert_eq!(visitor.get("/").await.status, 200);
        assert_ne!(visitor.cookie("wxgate"), before, "renewed");
        visitor.gateway = here.gateway;
    }
    assert_eq!(told.get("/").await.status, 200);
    LATER.store(103, Ordering::Relaxed);
    let (mut of_told, mut of_untold) = (open.remove(0), open.remove(0));
    let end = timeout(DEADLINE, of_untold.read(&mut [0; 64])).await;
    assert!(matches!(end, Ok(Ok(0) | Err(_))), "no request told of the renewal: {end:?}");
    let open = timeout(TWO_LOOKS, of_told.read(&mut [0; 64])).await;
    assert!(open.is_err(), "a request told of the renewal: {open:?}");
    let begun = Instant::now();
    let mut again = TcpStream::connect(here.gateway).await.unwrap();
    again.write_all(echo_socket(&untold.cookie("wxgate")).as_bytes()).await.unwrap();
    assert!(head(&mut again).await.unwrap().starts_with("HTTP/1.1 101"));
    assert!(timeout(TWO_LOOKS, again.read(&mut [0; 64])).await.is_err(), "{:?}", begun.elapsed());
    fleet.close().await;
}

/// A WebSocket to the echo site.
fn echo_socket(cookie: &str) -> String {
    format!(
        "GET /ws HTTP/1.1\r\nhost: h5.example.com\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\ncookie: wxgate={cookie}\r\n\r\n"
    )
}
