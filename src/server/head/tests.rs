//! What passes and what does not, whole and in pieces.

use std::{cell::RefCell, convert::Infallible, rc::Rc};

use http_body_util::{BodyExt, Empty};
use hyper::{Response, body::Bytes, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use proptest::{collection::vec, prelude::*, sample::select};

use super::*;

/// Reads it whole.
fn whole(text: &str) -> Result<Phase, Refused> {
    let mut framing = Framing::new();
    framing.read(text.as_bytes()).map(|()| framing.phase)
}

const POST: &str = "POST /a HTTP/1.1\r\nHost: h\r\n";
const GET: &str = "GET /a HTTP/1.1\r\nHost: h\r\n";

#[test]
fn b5_what_has_one_reading_passes() {
    let between = Phase::Between(None);
    let cases = [
        (format!("{GET}\r\n"), between),
        (format!("\r\n\n{GET}\r\n{GET}\r\n"), between),
        ("GET /a HTTP/1.1\nHost: h\n\n".to_owned(), between),
        (format!("{POST}Content-Length: 5\r\n\r\nabcde"), between),
        (format!("{POST}content-length:\t 5 \r\n\r\nabc"), Phase::Body(2)),
        (format!("{POST}content-length: 0\r\n\r\n"), between),
        (format!("{POST}TRANSFER-ENCODING: Chunked\r\n\r\n0\r\n\r\n"), between),
        (
            format!(
                "{POST}transfer-encoding: chunked\r\n\r\n5;x=y\r\na\r\nb\n\r\n0\r\nt: 1\r\n\r\n"
            ),
            between,
        ),
        (
            format!("{POST}content-lengths: a\r\nx-content-length: b\r\ncontent-type: c\r\n\r\n"),
            between,
        ),
        (format!("{POST}content-length: 9\r\n\r\nGET /#a\r\r{GET}#\r\n"), Phase::Fields),
        (format!("{GET}upgrade: websocket\r\n\r\n"), Phase::Asking),
        (format!("{POST}upgrade: h2c\r\ncontent-length: 1\r\n\r\na"), between),
        (format!("{GET}cookie: {}#\r\n\r\n", "a".repeat(5000)), between),
    ];
    let mut passed = 0;
    for (text, phase) in cases {
        assert_eq!(whole(&text), Ok(phase), "{text:?}");
        passed += 1;
    }
    assert_eq!(passed, 13);
}

#[test]
fn a2_b5_what_has_two_readings_is_refused_with_all_of_its_head() {
    let length = "content-length: 3\r\n";
    let chunked = "transfer-encoding: chunked\r\n";
    let cases = [
        format!("{POST}{length}{chunked}\r\n"),
        format!("{POST}{chunked}{length}\r\n"),
        format!("{POST}{length}{length}\r\n"),
        format!("{POST}{chunked}{chunked}\r\n"),
        format!("{POST}Content-Length: 3\r\nCONTENT-LENGTH: 4\r\n\r\n"),
        format!("{POST}content-length: 3, 3\r\n\r\n"),
        format!("{POST}content-length: +3\r\n\r\n"),
        format!("{POST}content-length: -3\r\n\r\n"),
        format!("{POST}content-length: 0x3\r\n\r\n"),
        format!("{POST}content-length:\r\n\r\n"),
        format!("{POST}content-length: 99999999999999999999\r\n\r\n"),
        format!("{POST}content-length: {}3\r\n\r\n", " ".repeat(80)),
        format!("{POST}transfer-encoding: gzip, chunked\r\n\r\n"),
        format!("{POST}transfer-encoding: xchunked\r\n\r\n"),
        format!("{POST}transfer-encoding:\r\n\r\n"),
        format!("{POST}transfer-encoding:\u{b}chunked\r\n\r\n"),
        format!("{POST} content-length: 3\r\n\r\n"),
        format!("{POST}x: 1\r\n\tcontent-length: 3\r\n\r\n"),
        format!("{POST}\rcontent-length: 3\r\n\r\n"),
        format!("\r{GET}\r\n"),
        format!("\r\r\n{GET}\r\n"),
        "GET /a# HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(),
        "GET /a#/../b HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(),
        "#GET / HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(),
    ];
    let good = format!("{POST}content-length: 2\r\n\r\nab{GET}\r\n");
    let mut refused = 0;
    for text in cases {
        let said = whole(&text).unwrap_err();
        assert_eq!(said.fault, Fault::Head, "{text:?}");
        assert!(said.good <= 1, "{text:?}");
        let said = whole(&format!("{good}{text}")).unwrap_err();
        assert!((good.len()..good.len() + 2).contains(&said.good), "{text:?}");
        refused += 1;
    }
    assert_eq!(refused, 24);
}

#[test]
fn b5_chunks_have_one_reading() {
    let bad = [
        "\r\n",
        "g\r\n",
        "0x1\r\na\r\n",
        "1 \r\na\r\n",
        "1\na\r\n",
        "1\r\nab",
        "1\r\na\n",
        "1;a\n",
        "1\ra",
        "-1\r\n",
        "+1\r\n",
        "11111111111111111\r\n",
        "00000000000000001\r\na",
        "0\r\na: b\n\r\n",
        "0\r\na: b\rc",
        "0\r\n\rx",
        "0\r\n\n",
    ];
    for body in bad {
        let text = format!("{POST}transfer-encoding: chunked\r\n\r\n{body}");
        assert_eq!(whole(&text).map_err(|it| it.fault), Err(Fault::Chunks), "{body:?}");
    }
    assert_eq!(bad.len(), 17);
}

#[test]
fn b8_nothing_may_follow_a_request_for_another_protocol() {
    let ask = format!("{GET}upgrade: websocket\r\n\r\n");
    let refused = Refused { good: ask.len(), fault: Fault::Early };
    assert_eq!(whole(&format!("{ask}\u{1}")), Err(refused));
    let mut framing = Framing::new();
    framing.read(ask.as_bytes()).unwrap();
    framing.go_on();
    assert_eq!(framing.read(format!("{GET}\r\n").as_bytes()), Ok(()));
}

/// Pieces that requests of every kind are made of.
fn pieces() -> impl Strategy<Value = String> {
    let piece = select(vec![
        GET,
        POST,
        "\r\n",
        "\r",
        "\n",
        "#",
        "content-length: 3\r\n",
        "content-length: 3",
        "transfer-encoding: chunked\r\n",
        "upgrade: x\r\n",
        "3\r\nabc\r\n",
        "0\r\n\r\n",
        "abc",
        "x: y\r\n",
        " ",
        "cookie: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n",
    ]);
    vec(piece, 1..14).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn b5_it_does_not_matter_how_the_bytes_are_dealt_out(text in pieces(), sizes in vec(1_usize..9, 1..40)) {
        let mut framing = Framing::new();
        let (mut rest, mut sizes, mut passed) = (text.as_bytes(), sizes.iter().cycle(), 0);
        let mut dealt = Ok(());
        while !rest.is_empty() && dealt.is_ok() {
            let (piece, tail) = rest.split_at(rest.len().min(*sizes.next().unwrap()));
            dealt = framing.read(piece);
            passed += piece.len();
            rest = tail;
        }
        match (whole(&text), dealt) {
            (Ok(phase), Ok(())) => prop_assert_eq!(phase, framing.phase),
            (Err(one), Err(two)) => {
                prop_assert_eq!(one.fault, two.fault);
                prop_assert!(one.good <= passed);
            }
            (one, two) => prop_assert!(false, "{:?} but in pieces {:?}", one, two),
        }
    }
}

/// The requests in `text` as we read them: target and length of the body of each that is whole.
fn ours(text: &str) -> Vec<(String, usize)> {
    let (mut framing, mut found, mut start, mut length) = (Framing::new(), Vec::new(), None, 0);
    for (at, byte) in text.bytes().enumerate() {
        let before = framing.phase;
        framing.read(&[byte]).unwrap();
        match (before, framing.phase) {
            (Phase::Between(_), Phase::Target) => (start, length) = (Some(at), 0),
            (Phase::Body(_) | Phase::Chunks(Chunk::Data(_)), _) => length += 1,
            (_, _) => (),
        }
        if matches!(framing.phase, Phase::Between(_) | Phase::Asking)
            && let Some(start) = start.take_if(|_| !matches!(before, Phase::Between(_)))
        {
            found.push((
                text.get(start..).unwrap().split(' ').nth(1).unwrap_or_default().to_owned(),
                length,
            ));
        }
    }
    found
}

/// The same as hyper reads them, until it refuses one.
fn hypers(text: &str) -> Vec<(String, usize)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let found = Rc::<RefCell<Vec<_>>>::default();
    let seen = Rc::clone(&found);
    let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
        let seen = Rc::clone(&seen);
        async move {
            let target = request.uri().to_string();
            if let Ok(body) = request.into_body().collect().await {
                seen.borrow_mut().push((target, body.to_bytes().len()));
            }
            Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
        }
    });
    runtime.block_on(async {
        let (mut client, server) = tokio::io::duplex(1 << 20);
        tokio::io::AsyncWriteExt::write_all(&mut client, text.as_bytes()).await.unwrap();
        tokio::io::AsyncWriteExt::shutdown(&mut client).await.unwrap();
        let mut http = http1::Builder::new();
        let _ = http.half_close(true).serve_connection(TokioIo::new(server), service).await;
    });
    Rc::unwrap_or_clone(found).into_inner()
}

/// Requests of every kind, most of them good.
fn messages() -> impl Strategy<Value = String> {
    let post = |fields: &str| format!("POST /b HTTP/1.1\r\nHost: h\r\n{fields}");
    let message = prop_oneof![
        8 => select(vec![
            "GET /a HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(),
            "GET /lf HTTP/1.1\nHost: h\n\n".to_owned(),
            "\r\n\nGET /mixed HTTP/1.1\r\nHost: h\n\r\n".to_owned(),
            "GET /old HTTP/1.0\r\nconnection: keep-alive\r\n\r\n".to_owned(),
            post("Content-Length: 30\r\n\r\nGET /inner HTTP/1.1\r\nHost: h\r\n"),
            post("content-length: \t0003 \t\r\n\r\n\r\n#"),
            post("content-length:0\r\n\r\n"),
            post("transfer-encoding: chunked\r\n\r\n0\r\n\r\n"),
            post("Transfer-Encoding:CHUNKED \r\n\r\n1A;a=b\r\nGET /inner HTTP/1.1\r\nHost:\r\n0\r\nt: 1\r\nu: 2\r\n\r\n"),
            post("transfer-encoding: chunked\r\n\r\n0000000000000001\r\n\r\r\n000;x;y=\"z\r\n\r\n"),
            post("upgrade: h2c\r\nconnection: upgrade\r\ncontent-length: 2\r\n\r\n\r\n"),
        ]),
        1 => pieces(),
    ];
    vec(message, 1..8).prop_map(|messages| messages.concat())
}

proptest! {
    #[test]
    fn b5_hyper_reads_what_passes_as_we_do(text in messages()) {
        let good = whole(&text).map_or_else(|refused| refused.good, |_| text.len());
        let passed = text.get(..good).unwrap();
        let (ours, hypers) = (ours(passed), hypers(passed));
        prop_assert!(ours.starts_with(&hypers), "{:?}\n{:?}", ours, hypers);
    }
}

#[test]
fn b5_hyper_reads_all_of_what_is_good() {
    let text = format!(
        "{GET}\r\n\r\n{POST}content-length: 4\r\n\r\n\r\n#\r{POST}transfer-encoding: chunked\r\n\r\n2;x\r\nab\r\n3\r\ncde\r\n0\r\nt: 1\r\n\r\nGET /z HTTP/1.1\nhost: h\n\n"
    );
    let expected = [("/a", 0), ("/a", 4), ("/a", 5), ("/z", 0)];
    let expected: Vec<_> = expected.map(|(target, length)| (target.to_owned(), length)).into();
    assert_eq!(ours(&text), expected);
    assert_eq!(hypers(&text), expected);
}

#[test]
#[ignore = "a measurement: cargo test --release -- --ignored --nocapture cost"]
fn cost() {
    let head = format!(
        "{GET}user-agent: {}\r\naccept: text/html,*/*;q=0.8\r\naccept-language: zh-CN\r\naccept-encoding: gzip\r\nreferer: https://h5.example.com/\r\nsec-fetch-site: same-origin\r\nsec-fetch-mode: navigate\r\ncookie: wxgate={}\r\n\r\n",
        "Mozilla/5.0 (iPhone; CPU iPhone OS 16_5 like Mac OS X) AppleWebKit/605.1.15",
        "e".repeat(330)
    );
    let mut framing = Framing::new();
    let rounds = 2_000_000_u32;
    let begun = tokio::time::Instant::now();
    for _ in 0..rounds {
        std::hint::black_box(framing.read(std::hint::black_box(head.as_bytes()))).unwrap();
    }
    println!("{} bytes: {:?}", head.len(), begun.elapsed() / rounds);
}
