//! HTTP/2 frames by hand: what no library sends, and too much of what it does.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf},
    net::TcpStream,
    time::{Instant, timeout},
};
use tokio_rustls::client::TlsStream;

use crate::{
    harness::TestGateway,
    tls::{Certified, certified, connect},
    visitor::Visitor,
};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;
pub const ACK: u8 = 1;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

/// One frame (RFC 9113, section 4.1).
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// Fields as literals that nobody need remember (RFC 7541, section 6.2.2).
pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            assert!(text.len() < 127, "tests send short fields");
            block.push(u8::try_from(text.len()).unwrap());
            block.extend(text.bytes());
        }
    }
    block
}

pub const GET: [(&str, &str); 4] = [
    (":method", "GET"),
    (":scheme", "https"),
    (":authority", "h5.example.com"),
    (":path", "/orders"),
];

pub struct Wire {
    pub read: ReadHalf<TlsStream<TcpStream>>,
    pub write: WriteHalf<TlsStream<TcpStream>>,
}

impl Wire {
    /// A connection on which both have said hello.
    pub async fn open(street: &TestGateway, certified: &Certified) -> Self {
        let mut wire = Self::silent(street, certified).await;
        wire.write.write_all(PREFACE).await.unwrap();
        wire.write.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
        wire
    }

    /// A connection on which the client has said nothing.
    async fn silent(street: &TestGateway, certified: &Certified) -> Self {
        let stream =
            connect(street.tls.unwrap(), &certified.roots, "h5.example.com", b"h2").await.unwrap();
        let (read, write) = tokio::io::split(stream);
        Self { read, write }
    }

    /// Asks for a page as the first request of the connection: the status, if it is one that RFC 7541
    /// has no index for, and whether a body follows.
    pub async fn get(&mut self, path: &str) -> (Option<u16>, bool) {
        let [method, scheme, authority, _] = GET;
        let fields = block(&[method, scheme, authority, (":path", path)]);
        let head = frame(HEADERS, END_STREAM | END_HEADERS, 1, &fields);
        self.write.write_all(&head).await.unwrap();
        let answer = timeout(Duration::from_secs(5), self.next()).await.unwrap();
        let Some((HEADERS, answer)) = answer else { panic!("{path}: {answer:?}") };
        // A literal beside the indexed name `:status`; three digits, in plain or by Huffman.
        let status = match answer.as_slice() {
            [0x08 | 0x48, 3, digits @ ..] => {
                std::str::from_utf8(&digits[..3]).unwrap().parse().ok()
            }
            [0x08 | 0x48, 0x82, code @ ..] => match code[..2] {
                [0x6c, 0x02] => Some(502),
                [0x6c, 0x05] => Some(504),
                _ => None,
            },
            _ => None,
        };
        let mut frame = [0; 9];
        let data = timeout(Duration::from_secs(5), self.read.read_exact(&mut frame)).await.unwrap();
        (status, data.is_ok() && frame[3] == DATA)
    }

    /// The next frame that is an answer to something: its kind, and its payload.
    pub async fn next(&mut self) -> Option<(u8, Vec<u8>)> {
        loop {
            let mut head = [0; 9];
            self.read.read_exact(&mut head).await.ok()?;
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut payload = vec![0; usize::try_from(length).unwrap()];
            self.read.read_exact(&mut payload).await.ok()?;
            if matches!(head[3], HEADERS | RST_STREAM | GOAWAY) {
                return Some((head[3], payload));
            }
        }
    }
}

#[tokio::test]
async fn b5_the_first_frame_is_settings() {
    let certified = certified(&["h5.example.com"]);
    let street = TestGateway::open(certified.plan.clone()).await;
    let [method, scheme, authority, _] = GET;
    let fields = block(&[method, scheme, authority, (":path", "/static/a")]);
    let request = frame(HEADERS, END_STREAM | END_HEADERS, 1, &fields);
    let settings = frame(SETTINGS, 0, 0, &[]);
    let with_values = frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 255, 255]);
    let cases = [
        ("settings", settings.clone(), true),
        ("settings with values", with_values, true),
        ("the reserved bit", frame(SETTINGS, 0, 1 << 31, &[]), true),
        ("an unknown flag", frame(SETTINGS, 0x80, 0, &[]), true),
        ("none", Vec::new(), false),
        ("an acknowledgement", frame(SETTINGS, ACK, 0, &[]), false),
        ("settings of a stream", frame(SETTINGS, 0, 1, &[]), false),
        ("a ping", frame(PING, 0, 0, b"12345678"), false),
        (
            "a ping, then settings",
            [frame(PING, 0, 0, b"12345678"), settings.clone()].concat(),
            false,
        ),
        ("a window update", frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]), false),
        ("an unknown frame", frame(0xbe, 0, 0, b"x"), false),
        ("the preface again", PREFACE.to_vec(), false),
    ];
    for (name, first, good) in cases {
        let sent = [PREFACE, &first, &request].concat();
        for size in [sent.len(), 1] {
            let (hits, mut wire) = (street.site.hits(), Wire::silent(&street, &certified).await);
            for piece in sent.chunks(size) {
                // The gateway may have closed in the middle of it.
                let _ = wire.write.write_all(piece).await;
                let _ = wire.write.flush().await;
            }
            let answer = timeout(Duration::from_secs(5), wire.next()).await.unwrap();
            let served = matches!(&answer, Some((HEADERS, block)) if block.first() == Some(&0x88));
            assert_eq!(served, good, "{name}: {answer:?}");
            assert_eq!(street.site.hits() - hits, usize::from(good), "{name}");
            if size > 1 && !good {
                let Some((GOAWAY, reason)) = &answer else { panic!("{name}: {answer:?}") };
                assert_eq!(reason[4..8], 1_u32.to_be_bytes(), "{name}: PROTOCOL_ERROR");
            }
        }
    }
    street.close().await;
}

/// Bytes of memory this process holds, the gateway in it.
fn held() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
}

/// How long somebody else waits for a page.
async fn served(street: &TestGateway) -> Duration {
    let (begun, mut visitor) = (Instant::now(), Visitor::desktop(street.gateway));
    let page = timeout(Duration::from_secs(5), visitor.get("/static/b")).await.unwrap();
    assert_eq!(page.status, 200, "others are served");
    begun.elapsed()
}

/// Sends `piece` again and again while others go on as usual. Whether the gateway ended it.
async fn flood(piece: impl Fn(u32) -> Vec<u8>, count: u32, reads: bool) -> bool {
    let certified = certified(&["h5.example.com"]);
    let street = TestGateway::open(certified.plan.clone()).await;
    let _ = Visitor::desktop(street.gateway).get("/static/a").await;
    let (before, hits) = (held(), street.site.hits());
    let Wire { mut read, mut write } = Wire::open(&street, &certified).await;
    let reader = tokio::spawn(async move {
        let mut buffer = vec![0; 65_536];
        while reads && matches!(read.read(&mut buffer).await, Ok(1..)) {}
        read
    });
    let mut ended = false;
    let mut slowest = Duration::ZERO;
    for number in 0..count {
        // A gateway that no longer reads has had enough as well.
        let sent = timeout(Duration::from_secs(2), write.write_all(&piece(number))).await;
        if !matches!(sent, Ok(Ok(()))) {
            ended = true;
            break;
        }
        if number % (count / 10).max(1) == 0 {
            slowest = slowest.max(served(&street).await);
        }
    }
    slowest = slowest.max(served(&street).await);
    let grown = held().saturating_sub(before);
    println!("slowest {slowest:?}, grown {} KiB, ended {ended}", grown / 1024);
    // Other tests of this process run beside this one.
    assert!(grown < 256 << 20, "grown by {grown} bytes");
    assert!(slowest < Duration::from_secs(3), "another visitor waited {slowest:?}");
    assert!(street.site.hits() - hits <= 11, "the flood reached the site");
    drop((write, reader.await.unwrap()));
    street.close().await;
    ended
}

#[tokio::test]
async fn g5_rapid_reset() {
    let request = move |number: u32| {
        let stream = number * 2 + 1;
        let mut both = frame(HEADERS, END_STREAM | END_HEADERS, stream, &block(&GET));
        both.extend(frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes()));
        both
    };
    assert!(flood(request, 50_000, true).await, "a client that takes all back is cut off");
}

#[tokio::test]
async fn g5_continuation_flood() {
    let piece = |number: u32| match number {
        0 => frame(HEADERS, END_STREAM, 1, &block(&GET)),
        _ => {
            frame(CONTINUATION, 0, 1, &block(&[("x-a", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"); 400]))
        }
    };
    assert!(flood(piece, 5_000, true).await, "a head without an end is cut off");
}

#[tokio::test]
async fn g5_empty_continuation_flood() {
    let piece = |number: u32| match number {
        0 => frame(HEADERS, END_STREAM, 1, &block(&GET)),
        _ => frame(CONTINUATION, 0, 1, &[]).repeat(100),
    };
    assert!(flood(piece, 5_000, true).await, "a head without an end is cut off");
}

#[tokio::test]
async fn g5_settings_and_ping_floods() {
    let settings = |_| frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 255, 255]).repeat(100);
    let pings = |_| frame(PING, 0, 0, b"12345678").repeat(100);
    for reads in [true, false] {
        flood(settings, 2_000, reads).await;
        flood(pings, 2_000, reads).await;
    }
}

#[tokio::test]
async fn a4_b5_bad_pseudo_headers_reach_nobody() {
    let certified = certified(&["h5.example.com"]);
    let street = TestGateway::open(certified.plan.clone()).await;
    let [method, scheme, authority, _] = GET;
    let path = (":path", "/static/a");
    let cases: [(&str, Vec<(&str, &str)>); 19] = [
        ("no method", vec![scheme, authority, path]),
        ("no scheme", vec![method, authority, path]),
        ("no path", vec![method, scheme, authority]),
        ("no authority", vec![method, scheme, path]),
        ("an empty path", vec![method, scheme, authority, (":path", "")]),
        ("two paths", vec![method, scheme, authority, path, path]),
        ("two methods", vec![method, method, scheme, authority, path]),
        ("two authorities", vec![method, scheme, authority, authority, path]),
        ("a path too late", vec![method, scheme, authority, ("a", "b"), path]),
        ("an unknown one", vec![method, scheme, authority, path, (":x", "y")]),
        ("a status", vec![method, scheme, authority, path, (":status", "200")]),
        ("capitals", vec![method, scheme, authority, path, ("X-Wechat-Openid", "forged")]),
        ("connection", vec![method, scheme, authority, path, ("connection", "close")]),
        ("chunked", vec![method, scheme, authority, path, ("transfer-encoding", "chunked")]),
        ("te", vec![method, scheme, authority, path, ("te", "gzip")]),
        ("a line end", vec![method, scheme, authority, path, ("a", "b\r\nx-wechat-openid: c")]),
        ("a host of its own", vec![method, scheme, authority, path, ("host", "evil.example")]),
        ("userinfo", vec![method, scheme, (":authority", "a@h5.example.com"), path]),
        ("a length that lies", vec![method, scheme, authority, path, ("content-length", "5")]),
    ];
    for (name, fields) in &cases {
        let mut wire = Wire::open(&street, &certified).await;
        let head = frame(HEADERS, END_STREAM | END_HEADERS, 1, &block(fields));
        wire.write.write_all(&head).await.unwrap();
        let answer = timeout(Duration::from_secs(5), wire.next()).await.unwrap();
        // 400 is a single byte, out of the table of RFC 7541, appendix A.
        let refused = match &answer {
            Some((HEADERS, block)) => block.first() == Some(&0x8c),
            Some(_) | None => true,
        };
        assert!(refused, "{name}: {answer:?}");
    }
    assert_eq!(street.site.hits(), 0);
    street.close().await;
}

#[tokio::test]
async fn a2_a_fragment_over_http2_is_no_part_of_the_path() {
    let certified = certified(&["h5.example.com"]);
    let street = TestGateway::open(certified.plan.clone()).await;
    for path in ["/static/a#/../orders", "/orders#/static/a"] {
        let mut wire = Wire::open(&street, &certified).await;
        let [method, scheme, authority, _] = GET;
        let head = block(&[method, scheme, authority, (":path", path)]);
        wire.write.write_all(&frame(HEADERS, END_STREAM | END_HEADERS, 1, &head)).await.unwrap();
        let (kind, answer) = timeout(Duration::from_secs(5), wire.next()).await.unwrap().unwrap();
        // The library cuts it off before anybody looks: judged and passed on is what is left.
        let served = kind == HEADERS && answer.first() == Some(&0x88);
        assert_eq!(served, path.starts_with("/static/"), "{path}: {answer:?}");
    }
    assert_eq!(street.site.hits(), 1);
    street.close().await;
}

#[tokio::test]
async fn b7_cookie_crumbs_are_measured_whole() {
    let certified = certified(&["h5.example.com"]);
    let street = TestGateway::open(certified.plan.clone()).await;
    let [method, scheme, authority, _] = GET;
    let crumb = ("cookie", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa=bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb");
    for (count, served) in [(3, true), (2_000, false)] {
        let mut wire = Wire::open(&street, &certified).await;
        let mut fields = vec![method, scheme, authority, (":path", "/static/a")];
        fields.extend(vec![crumb; count]);
        let whole = block(&fields);
        let mut pieces = whole.chunks(16_000).peekable();
        let mut kind = (HEADERS, END_STREAM);
        while let Some(piece) = pieces.next() {
            let last = if pieces.peek().is_none() { END_HEADERS } else { 0 };
            if wire.write.write_all(&frame(kind.0, kind.1 | last, 1, piece)).await.is_err() {
                break;
            }
            kind = (CONTINUATION, 0);
        }
        let answer = timeout(Duration::from_secs(5), wire.next()).await.unwrap();
        let good = matches!(&answer, Some((HEADERS, block)) if block.first() == Some(&0x88));
        assert_eq!(good, served, "{count}: {answer:?}");
    }
    assert_eq!(street.site.hits(), 1);
    street.close().await;
}

#[tokio::test]
async fn g5_a_visitor_who_opens_no_window_is_given_up() {
    let mut certified = certified(&["h5.example.com"]);
    certified.plan.server += "\n[server.limits]\nsend_time = \"1s\"";
    let street = TestGateway::open(certified.plan.clone()).await;
    let [method, scheme, authority, _] = GET;
    let mut wire = Wire::open(&street, &certified).await;
    let head = block(&[method, scheme, authority, (":path", "/static/endless")]);
    wire.write.write_all(&frame(HEADERS, END_STREAM | END_HEADERS, 1, &head)).await.unwrap();
    let begun = Instant::now();
    let (kind, _) = timeout(Duration::from_secs(5), wire.next()).await.unwrap().unwrap();
    assert_eq!(kind, HEADERS);
    let (kind, _) = timeout(Duration::from_secs(8), wire.next()).await.unwrap().unwrap();
    assert_eq!(kind, RST_STREAM, "the stream alone is given up");
    assert!(begun.elapsed() >= Duration::from_secs(1));
    // With the window of the connection open, it goes on, and an event that is long in coming is not the visitor's fault.
    wire.write.write_all(&frame(WINDOW_UPDATE, 0, 0, &[0, 16, 0, 0])).await.unwrap();
    let head = block(&[method, scheme, authority, (":path", "/static/events")]);
    wire.write.write_all(&frame(HEADERS, END_STREAM | END_HEADERS, 3, &head)).await.unwrap();
    let (kind, _) = timeout(Duration::from_secs(5), wire.next()).await.unwrap().unwrap();
    assert_eq!(kind, HEADERS);
    assert!(timeout(Duration::from_millis(2500), wire.next()).await.is_err());
    drop(wire);
    street.close().await;
}

#[tokio::test]
async fn g5_a_connection_has_no_more_streams_at_once_than_it_may() {
    let mut certified = certified(&["h5.example.com"]);
    certified.plan.server += "\n[server.limits]\nstreams = 2";
    let street = TestGateway::open(certified.plan.clone()).await;
    let [method, scheme, authority, _] = GET;
    let mut wire = Wire::open(&street, &certified).await;
    let head = block(&[method, scheme, authority, (":path", "/static/events")]);
    for stream in [1, 3, 5] {
        wire.write
            .write_all(&frame(HEADERS, END_STREAM | END_HEADERS, stream, &head))
            .await
            .unwrap();
    }
    let mut kinds = Vec::new();
    for _ in 0..3 {
        kinds.push(timeout(Duration::from_secs(5), wire.next()).await.unwrap().unwrap().0);
    }
    kinds.sort_unstable();
    assert_eq!(kinds, [HEADERS, HEADERS, RST_STREAM], "the third is refused");
    drop(wire);
    street.close().await;
}
