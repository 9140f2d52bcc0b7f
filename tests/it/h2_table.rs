//! RFC 9113, section by section: what each frame out of place is answered with.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use crate::{
    h2::{
        ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, GET, GOAWAY, HEADERS, PING, RST_STREAM,
        SETTINGS, WINDOW_UPDATE, Wire, block, frame,
    },
    harness::TestGateway,
    tls::{certified, connect},
};

const PRIORITY: u8 = 2;
const PUSH_PROMISE: u8 = 5;

const PADDED: u8 = 8;

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The connection, with this code (section 7).
    Connection(u32),
    /// One stream, with this code.
    Stream(u32),
    /// The connection, without a word.
    Silence,
    /// Nothing did: what came later was answered.
    Nothing,
}

use End::{Connection, Nothing, Silence, Stream};

const PROTOCOL: u32 = 1;
const FLOW: u32 = 3;
const CLOSED: u32 = 5;
const SIZE: u32 = 6;
const COMPRESSION: u32 = 9;

/// Where the library (h2) does not do as the section says: mostly a coarser code, with which the
/// connection ends all the same. The pseudo-header in the trailers is left out and reaches nobody.
const UNLIKE: [(&str, &str, End); 12] = [
    ("4.3", "a block that is none", Connection(PROTOCOL)),
    ("4.3", "a block that is not finished", Connection(PROTOCOL)),
    ("5.1", "DATA after the end", Connection(PROTOCOL)),
    ("5.1", "a head after the end", Connection(PROTOCOL)),
    ("6.3", "a short PRIORITY", Connection(PROTOCOL)),
    ("6.4", "a short one", Connection(PROTOCOL)),
    ("6.5", "five bytes of it", Connection(PROTOCOL)),
    ("6.5", "an ACK that says something", Connection(PROTOCOL)),
    ("6.5.2", "a window of 2^31", Connection(PROTOCOL)),
    ("6.7", "six bytes of it", Connection(PROTOCOL)),
    ("6.9", "three bytes of it", Connection(PROTOCOL)),
    ("8.1", "trailers with a pseudo-header", Nothing),
];

/// One row: the section, what is sent, and what may answer it.
type Row = (&'static str, &'static str, Vec<u8>, &'static [End]);

/// A request that ends with its head.
fn get(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_STREAM | END_HEADERS, stream, &block(&GET))
}

/// One whose body is still to come.
fn post(stream: u32) -> Vec<u8> {
    let path = (":path", "/static/events");
    let fields = [(":method", "POST"), GET[1], GET[2], path];
    frame(HEADERS, END_HEADERS, stream, &block(&fields))
}

/// One whose answer does not end.
fn endless(stream: u32) -> Vec<u8> {
    let fields = [GET[0], GET[1], GET[2], (":path", "/static/events")];
    frame(HEADERS, END_STREAM | END_HEADERS, stream, &block(&fields))
}

fn setting(id: u16, value: u32) -> Vec<u8> {
    frame(SETTINGS, 0, 0, &[&id.to_be_bytes()[..], &value.to_be_bytes()].concat())
}

fn window(stream: u32, by: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, &by.to_be_bytes())
}

fn reset(stream: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes())
}

/// A head that goes on.
fn open_head() -> Vec<u8> {
    frame(HEADERS, END_STREAM, 1, &block(&GET))
}

fn heads() -> Vec<Row> {
    vec![
        ("4.1", "an unknown kind of frame", frame(0xbb, 0xff, 0, b"grease"), &[Nothing]),
        ("4.1", "an unknown flag", frame(PING, 0xfe, 0, b"12345678"), &[Nothing]),
        (
            "4.2",
            "DATA over the largest size",
            [post(1), frame(DATA, 0, 1, &[0; 16_385])].concat(),
            &[Connection(SIZE), Stream(SIZE)],
        ),
        ("4.2", "HEADERS over it", frame(HEADERS, 5, 1, &[0; 16_385]), &[Connection(SIZE)]),
        (
            "4.3",
            "a block that is none",
            frame(HEADERS, 5, 1, &[0xff; 8]),
            &[Connection(COMPRESSION)],
        ),
        (
            "4.3",
            "a block that is not finished",
            frame(HEADERS, 5, 1, &[0, 10, b'a']),
            &[Connection(COMPRESSION)],
        ),
        (
            "4.3",
            "PRIORITY inside a head",
            [open_head(), frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 1])].concat(),
            &[Connection(PROTOCOL)],
        ),
        ("4.3", "another head inside", [open_head(), get(3)].concat(), &[Connection(PROTOCOL)]),
        (
            "5.5",
            "an unknown kind inside a head",
            [open_head(), frame(0xbb, 0, 1, b"")].concat(),
            &[Connection(PROTOCOL)],
        ),
    ]
}

fn continuations() -> Vec<Row> {
    vec![
        ("6.2", "HEADERS on stream 0", frame(HEADERS, 5, 0, &block(&GET)), &[Connection(PROTOCOL)]),
        (
            "6.2",
            "more padding than frame",
            frame(HEADERS, 5 | PADDED, 1, &[&[200], &block(&GET)[..]].concat()),
            &[Connection(PROTOCOL)],
        ),
        (
            "6.10",
            "CONTINUATION on stream 0",
            [open_head(), frame(CONTINUATION, END_HEADERS, 0, b"")].concat(),
            &[Connection(PROTOCOL)],
        ),
        (
            "6.10",
            "CONTINUATION of another",
            [open_head(), frame(CONTINUATION, END_HEADERS, 3, b"")].concat(),
            &[Connection(PROTOCOL)],
        ),
        (
            "6.10",
            "CONTINUATION after the head",
            [post(1), frame(CONTINUATION, END_HEADERS, 1, b"")].concat(),
            &[Connection(PROTOCOL)],
        ),
    ]
}

fn streams() -> Vec<Row> {
    vec![
        ("5.1", "DATA on an idle stream", frame(DATA, 0, 1, b"a"), &[Connection(PROTOCOL)]),
        ("5.1", "RST_STREAM on one", reset(1), &[Connection(PROTOCOL)]),
        ("5.1", "WINDOW_UPDATE on one", window(1, 1), &[Connection(PROTOCOL)]),
        ("5.1", "CONTINUATION on one", frame(CONTINUATION, 4, 1, b""), &[Connection(PROTOCOL)]),
        (
            "5.1",
            "DATA after the end",
            [endless(1), frame(DATA, 0, 1, b"a")].concat(),
            &[Stream(CLOSED), Connection(CLOSED)],
        ),
        (
            "5.1",
            "a head after the end",
            [endless(1), endless(1)].concat(),
            &[Stream(CLOSED), Connection(CLOSED)],
        ),
        (
            "5.1",
            "DATA after RST_STREAM",
            [post(1), reset(1), frame(DATA, 0, 1, b"a")].concat(),
            &[Stream(CLOSED), Connection(CLOSED)],
        ),
        (
            "5.1",
            "WINDOW_UPDATE and RST_STREAM after RST_STREAM",
            [post(1), reset(1), window(1, 1), reset(1)].concat(),
            &[Nothing],
        ),
        ("5.1.1", "an even stream", get(2), &[Connection(PROTOCOL)]),
        ("5.1.1", "a smaller stream", [post(5), get(3)].concat(), &[Connection(PROTOCOL)]),
        ("5.1.1", "streams left out", [get(7), get(11)].concat(), &[Nothing]),
    ]
}

fn pieces() -> Vec<Row> {
    vec![
        ("6.1", "DATA on stream 0", frame(DATA, 0, 0, b"a"), &[Connection(PROTOCOL)]),
        (
            "6.1",
            "more padding than frame",
            [post(1), frame(DATA, PADDED, 1, &[9, 0, 0])].concat(),
            &[Connection(PROTOCOL)],
        ),
        ("6.3", "PRIORITY on stream 0", frame(PRIORITY, 0, 0, &[0; 5]), &[Connection(PROTOCOL)]),
        (
            "6.3",
            "a short PRIORITY",
            frame(PRIORITY, 0, 1, &[0; 4]),
            &[Stream(SIZE), Connection(SIZE)],
        ),
        ("6.3", "a good one", frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 1]), &[Nothing]),
        ("6.4", "RST_STREAM on stream 0", reset(0), &[Connection(PROTOCOL)]),
        (
            "6.4",
            "a short one",
            [post(1), frame(RST_STREAM, 0, 1, &[0; 3])].concat(),
            &[Connection(SIZE)],
        ),
        (
            "6.6",
            "PUSH_PROMISE from a client",
            [post(1), frame(PUSH_PROMISE, 4, 1, &[&[0, 0, 0, 2], &block(&GET)[..]].concat())]
                .concat(),
            &[Connection(PROTOCOL)],
        ),
        (
            "8.1",
            "a second head that is not the end",
            [post(1), frame(HEADERS, END_HEADERS, 1, &block(&[("a", "b")]))].concat(),
            &[Stream(PROTOCOL), Connection(PROTOCOL)],
        ),
        (
            "8.1",
            "trailers with a pseudo-header",
            [post(1), frame(HEADERS, 5, 1, &block(&[(":method", "GET")]))].concat(),
            &[Stream(PROTOCOL), Connection(PROTOCOL)],
        ),
    ]
}

fn controls() -> Vec<Row> {
    vec![
        ("6.5", "SETTINGS on a stream", frame(SETTINGS, 0, 1, b""), &[Connection(PROTOCOL)]),
        ("6.5", "five bytes of it", frame(SETTINGS, 0, 0, &[0; 5]), &[Connection(SIZE)]),
        (
            "6.5",
            "an ACK that says something",
            frame(SETTINGS, ACK, 0, &[0; 6]),
            &[Connection(SIZE)],
        ),
        ("6.5.2", "ENABLE_PUSH of 2", setting(2, 2), &[Connection(PROTOCOL)]),
        ("6.5.2", "a window of 2^31", setting(4, 1 << 31), &[Connection(FLOW)]),
        ("6.5.2", "frames of 16,383", setting(5, 16_383), &[Connection(PROTOCOL)]),
        ("6.5.2", "frames of 2^24", setting(5, 1 << 24), &[Connection(PROTOCOL)]),
        ("6.5.2", "an unknown one", setting(0xf0f0, 7), &[Nothing]),
        ("6.7", "PING on a stream", frame(PING, 0, 1, &[0; 8]), &[Connection(PROTOCOL)]),
        ("6.7", "six bytes of it", frame(PING, 0, 0, &[0; 6]), &[Connection(SIZE)]),
        ("6.7", "an answer nobody asked for", frame(PING, ACK, 0, &[0; 8]), &[Nothing]),
        ("6.8", "GOAWAY on a stream", frame(GOAWAY, 0, 1, &[0; 8]), &[Connection(PROTOCOL)]),
        ("6.9", "a window that opens by 0", window(0, 0), &[Connection(PROTOCOL)]),
        (
            "6.9",
            "of a stream by 0",
            [endless(1), window(1, 0)].concat(),
            &[Stream(PROTOCOL), Connection(PROTOCOL)],
        ),
        ("6.9", "three bytes of it", frame(WINDOW_UPDATE, 0, 0, &[0; 3]), &[Connection(SIZE)]),
        ("6.9.1", "more than 2^31 - 1", window(0, 0x7fff_ffff), &[Connection(FLOW)]),
        (
            "6.9.1",
            "of a stream",
            [endless(1), window(1, 0x7fff_ffff)].concat(),
            &[Stream(FLOW), Connection(FLOW)],
        ),
        (
            "6.9.2",
            "SETTINGS that make a stream's window too large",
            [endless(1), window(1, 0x7fff_0000), setting(4, 0x7fff_ffff)].concat(),
            &[Connection(FLOW)],
        ),
    ]
}

/// Sends a row, and two PINGs after it; the first error of the answer is how it ended.
async fn end(wire: &mut Wire, bytes: &[u8]) -> End {
    let _ = wire.write.write_all(bytes).await;
    for probe in [b"probe 1!", b"probe 2!"] {
        let _ = wire.write.write_all(&frame(PING, 0, 0, probe)).await;
        loop {
            let Some((kind, flags, payload)) = read(wire).await else { return Silence };
            let code = |at: usize| u32::from_be_bytes(payload[at..at + 4].try_into().unwrap());
            match kind {
                RST_STREAM => return Stream(code(0)),
                GOAWAY => return Connection(code(4)),
                PING if flags == ACK && payload == probe => break,
                _ => (),
            }
        }
    }
    Nothing
}

/// The next frame: its kind, flags and payload.
async fn read(wire: &mut Wire) -> Option<(u8, u8, Vec<u8>)> {
    let mut head = [0; 9];
    wire.read.read_exact(&mut head).await.ok()?;
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
    let mut payload = vec![0; usize::try_from(length).unwrap()];
    wire.read.read_exact(&mut payload).await.ok()?;
    Some((head[3], head[4], payload))
}

#[tokio::test]
async fn frames_out_of_place_are_answered_as_the_rfc_says() {
    let certified = certified(&["h5.example.com"]);
    let street = TestGateway::open(certified.plan.clone()).await;
    let rows: Vec<Row> = [heads(), continuations(), streams(), pieces(), controls()].concat();
    let (mut wrong, mut unlike) = (Vec::new(), 0);
    for (section, what, bytes, may) in &rows {
        let mut wire = Wire::open(&street, &certified).await;
        let end = timeout(Duration::from_secs(5), end(&mut wire, bytes)).await;
        let known = UNLIKE.iter().find(|it| (it.0, it.1) == (*section, *what));
        unlike += usize::from(known.is_some());
        let good = |end| known.map_or_else(|| may.contains(end), |(.., is)| is == end);
        if !end.as_ref().is_ok_and(good) {
            wrong.push(format!("{section} {what}: {end:?}, not {may:?}"));
        }
    }
    assert_eq!(unlike, UNLIKE.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(rows.len(), 53);
    street.close().await;
}

#[tokio::test]
async fn who_does_not_begin_with_the_preface_is_not_talked_to() {
    let certified = certified(&["h5.example.com"]);
    let street = TestGateway::open(certified.plan.clone()).await;
    let settings = frame(SETTINGS, 0, 0, b"");
    let starts: [(&str, &[u8]); 4] = [
        ("garbage", b"INVALID CONNECTION PREFACE\r\n\r\n"),
        ("HTTP/1.1", b"GET /static/a HTTP/1.1\r\nhost: h5.example.com\r\n\r\n"),
        ("a frame", &[&settings[..], &[0; 24]].concat()),
        ("one letter", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\rX"),
    ];
    for (what, bytes) in starts {
        let tls = street.tls.unwrap();
        let mut stream = connect(tls, &certified.roots, "h5.example.com", b"h2").await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let mut answer = Vec::new();
        let read = timeout(Duration::from_secs(5), stream.read_to_end(&mut answer)).await;
        assert!(read.is_ok(), "{what}: it stays open (section 3.4)");
        assert!(!answer.windows(4).any(|four| four == b"HTTP"), "{what}");
    }
    // A preface and then no SETTINGS (section 3.4).
    let tls = street.tls.unwrap();
    let stream = connect(tls, &certified.roots, "h5.example.com", b"h2").await.unwrap();
    let (read, write) = tokio::io::split(stream);
    let mut wire = Wire { read, write };
    let hello = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &get(1)[..]].concat();
    let end = timeout(Duration::from_secs(5), end(&mut wire, &hello)).await.unwrap();
    assert_eq!(end, Connection(1), "PROTOCOL_ERROR");
    assert_eq!(street.site.hits(), 0);
    street.close().await;
}

#[tokio::test]
async fn b8_connect_over_http2_is_refused() {
    let certified = certified(&["h5.example.com"]);
    let street = TestGateway::open(certified.plan.clone()).await;
    let [_, scheme, authority, _] = GET;
    let (connect, path) = ((":method", "CONNECT"), (":path", "/static/a"));
    let cases = [
        ("as in 8.5", vec![connect, authority]),
        ("to elsewhere", vec![connect, (":authority", "10.0.0.1:22")]),
        ("with a scheme and a path", vec![connect, scheme, authority, path]),
        (
            "of WebSocket (RFC 8441)",
            vec![connect, (":protocol", "websocket"), scheme, authority, path],
        ),
        ("without an authority", vec![connect]),
    ];
    for (what, fields) in cases {
        let mut wire = Wire::open(&street, &certified).await;
        wire.write.write_all(&frame(HEADERS, END_HEADERS, 1, &block(&fields))).await.unwrap();
        let answer = timeout(Duration::from_secs(5), async {
            loop {
                match read(&mut wire).await {
                    Some((HEADERS, _, block)) => break Some(block[0]),
                    Some((RST_STREAM | GOAWAY, ..)) | None => break None,
                    Some(_) => (),
                }
            }
        });
        // 0x88 is 200 out of the table of RFC 7541, appendix A; 0x89 and 0x8a are other 2xx.
        let answer = answer.await.unwrap();
        assert!(!matches!(answer, Some(0x88..=0x8a)), "{what}: {answer:?}");
    }
    assert_eq!(street.site.hits(), 0);
    street.close().await;
}

#[tokio::test]
async fn a_goaway_of_the_client_lets_what_is_under_way_finish() {
    let certified = certified(&["h5.example.com"]);
    let street = TestGateway::open(certified.plan.clone()).await;
    let mut wire = Wire::open(&street, &certified).await;
    let fields = [GET[0], GET[1], GET[2], (":path", "/static/a")];
    let goaway = frame(GOAWAY, 0, 0, &[0; 8]);
    let head = frame(HEADERS, END_STREAM | END_HEADERS, 1, &block(&fields));
    wire.write.write_all(&[head, goaway].concat()).await.unwrap();
    let (mut served, mut ended) = (false, false);
    let all = timeout(Duration::from_secs(5), async {
        while let Some((kind, flags, payload)) = read(&mut wire).await {
            served |= kind == HEADERS && payload.first() == Some(&0x88);
            ended |= kind == DATA && flags & END_STREAM != 0;
        }
    });
    assert!(all.await.is_ok(), "and then it is closed (section 6.8)");
    assert!(served && ended);
    street.close().await;
}

#[tokio::test]
async fn a_window_of_one_byte_is_kept_to() {
    let certified = certified(&["h5.example.com"]);
    let street = TestGateway::open(certified.plan.clone()).await;
    let mut wire = Wire::open(&street, &certified).await;
    let fields = [GET[0], GET[1], GET[2], (":path", "/static/a")];
    let head = frame(HEADERS, END_STREAM | END_HEADERS, 1, &block(&fields));
    wire.write.write_all(&[setting(4, 1), head].concat()).await.unwrap();
    let mut bytes = 0;
    timeout(Duration::from_secs(20), async {
        while bytes < 20 {
            let (kind, flags, payload) = read(&mut wire).await.unwrap();
            if kind == DATA && flags & END_STREAM == 0 {
                assert_eq!(payload.len(), 1, "section 6.9.2");
                bytes += 1;
                wire.write.write_all(&window(1, 1)).await.unwrap();
            }
        }
    })
    .await
    .unwrap();
    drop(wire);
    street.close().await;
}
