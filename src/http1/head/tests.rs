//! What passes and what does not, whole and in pieces, and as hyper reads it.

use std::{cell::RefCell, convert::Infallible, rc::Rc};

use http_body_util::{BodyExt, Empty};
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use proptest::{collection::vec, prelude::*, sample::select};

use super::{
    super::reading::{Read, read},
    *,
};
use crate::httputil::outbound::OutboundRequest;

const POST: &str = "POST /a HTTP/1.1\r\nHost: h\r\n";
const GET: &str = "GET /a HTTP/1.1\r\nHost: h\r\n";

#[test]
fn b5_what_has_one_reading_passes() {
    let cases: [(String, &[&str]); 12] = [
        (format!("{GET}\r\n"), &[""]),
        (format!("\r\n\n{GET}\r\n{GET}\r\n"), &["", ""]),
        ("GET /a HTTP/1.1\nHost: h\n\n".to_owned(), &[""]),
        (format!("{POST}Content-Length: 5\r\n\r\nabcde"), &["abcde"]),
        (format!("{POST}content-length:\t 5 \r\n\r\nabcde"), &["abcde"]),
        (format!("{POST}content-length: 0\r\n\r\n"), &[""]),
        (format!("{POST}TRANSFER-ENCODING: Chunked\r\n\r\n0\r\n\r\n"), &[""]),
        (
            format!(
                "{POST}transfer-encoding: chunked\r\n\r\n5;x=y\r\na\r\nb\n\r\n0\r\nt: 1\r\n\r\n"
            ),
            &["a\r\nb\n"],
        ),
        (
            format!("{POST}content-lengths: a\r\nx-content-length: b\r\ncontent-type: c\r\n\r\n"),
            &[""],
        ),
        (format!("{POST}content-length: 9\r\n\r\nGET /#a\r\r{GET}\r\n"), &["GET /#a\r\r", ""]),
        (format!("{POST}upgrade: h2c\r\ncontent-length: 1\r\n\r\na"), &["a"]),
        (format!("{GET}cookie: {}#\r\n\r\n", "a".repeat(3000)), &[""]),
    ];
    let mut passed = 0;
    for (text, bodies) in cases {
        let (found, refused) = read(&[text.as_bytes()]);
        assert_eq!(refused, None, "{text:?}");
        let found: Vec<_> =
            found.into_iter().map(|(_, body)| String::from_utf8(body).unwrap()).collect();
        assert_eq!(found, bodies, "{text:?}");
        passed += 1;
    }
    assert_eq!(passed, 12);
}

#[test]
fn a2_b5_what_has_two_readings_is_refused() {
    let length = "content-length: 3\r\n";
    let chunked = "transfer-encoding: chunked\r\n";
    let cases = [
        format!("{POST}{length}{chunked}\r\n"),
        format!("{POST}{chunked}{length}\r\n"),
        format!("{POST}{chunked}content-length: 0\r\n\r\n"),
        format!("{POST}{length}{length}\r\n"),
        format!("{POST}{chunked}{chunked}\r\n"),
        format!("{POST}Content-Length: 3\r\nCONTENT-LENGTH: 4\r\n\r\n"),
        format!("{POST}content-length: 3, 3\r\n\r\n"),
        format!("{POST}content-length: +3\r\n\r\n"),
        format!("{POST}content-length: -3\r\n\r\n"),
        format!("{POST}content-length: 0x3\r\n\r\n"),
        format!("{POST}content-length:\r\n\r\n"),
        format!("{POST}content-length : 3\r\n\r\n"),
        format!("{POST}content-length: 99999999999999999999\r\n\r\n"),
        format!("{POST}transfer-encoding: gzip, chunked\r\n\r\n"),
        format!("{POST}transfer-encoding: xchunked\r\n\r\n"),
        format!("{POST}transfer-encoding:\r\n\r\n"),
        format!("{POST}transfer-encoding:\u{b}chunked\r\n\r\n"),
        format!("POST /a HTTP/1.0\r\nHost: h\r\n{chunked}\r\n"),
        format!("{POST} content-length: 3\r\n\r\n"),
        format!("{POST}x: 1\r\n\tcontent-length: 3\r\n\r\n"),
        format!("{POST}\rcontent-length: 3\r\n\r\n"),
        format!("{POST}x: a\rb\r\n\r\n"),
        format!("{POST}x: a\0b\r\n\r\n"),
        format!("\r{GET}\r\n"),
        format!("\r\r\n{GET}\r\n"),
        format!(" {GET}\r\n"),
        "GET  /a HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(),
        "GET /a\tb HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(),
        "GET /a# HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(),
        "GET /a#/../b HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(),
        "#GET / HTTP/1.1 HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(),
        "GET\r\n\r\n".to_owned(),
        "\u{16}\u{3}\u{1}".to_owned(),
    ];
    let good = format!("{POST}content-length: 2\r\n\r\nab{GET}\r\n");
    let mut refused = 0;
    for text in cases {
        for (before, whole) in [("", 0), (&*good, 2)] {
            let (found, why) = read(&[format!("{before}{text}").as_bytes()]);
            assert!(matches!(why, Some(ParseError::Malformed(_))), "{text:?}: {why:?}");
            assert_eq!(found.len(), whole, "{text:?}");
        }
        refused += 1;
    }
    assert_eq!(refused, 33);
}

#[test]
fn g5_a_head_has_a_size_and_a_version() {
    let many = |count: usize| format!("{GET}{}\r\n", "x: y\r\n".repeat(count));
    let crumbs = |count: usize| format!("{GET}{}\r\n", "cookie: a=b\r\n".repeat(count));
    let long = |length: usize| format!("{GET}x: {}\r\n\r\n", "a".repeat(length));
    let cases = [
        (many(99), None),
        (many(100), Some(ParseError::TooManyHeaders)),
        (many(300), Some(ParseError::TooManyHeaders)),
        (crumbs(150), None),
        (crumbs(300), Some(ParseError::TooManyHeaders)),
        (long(4000), None),
        (long(5000), Some(ParseError::TooLarge)),
        (format!("{GET}x: {}", "a".repeat(5000)), Some(ParseError::TooLarge)),
        ("GET / HTTP/2.0\r\n\r\n".to_owned(), Some(ParseError::UnsupportedVersion)),
        ("PRI * HTTP/2.0\r\n\r\n".to_owned(), Some(ParseError::UnsupportedVersion)),
    ];
    for (text, refused) in cases {
        assert_eq!(read(&[text.as_bytes()]).1, refused, "{text:.40}");
    }
}

#[test]
fn b5_a_version_has_one_form() {
    const MALFORMED: ParseError = ParseError::Malformed("");
    let kind = |refused| if let ParseError::Malformed(_) = refused { MALFORMED } else { refused };
    let cases = [
        ("HTTP/1.1", None),
        ("HTTP/1.0", None),
        ("HTTP/1.2", None),
        ("HTTP/1.9", None),
        ("HTTP/0.9", Some(ParseError::UnsupportedVersion)),
        ("HTTP/2.0", Some(ParseError::UnsupportedVersion)),
        ("HTTP/3.0", Some(ParseError::UnsupportedVersion)),
        ("HTTP/9.9", Some(ParseError::UnsupportedVersion)),
        ("HTTP/1.10", Some(MALFORMED)),
        ("HTTP/10.1", Some(MALFORMED)),
        ("HTTP/01.1", Some(MALFORMED)),
        ("HTTP/1.", Some(MALFORMED)),
        ("HTTP/1", Some(MALFORMED)),
        ("HTTP/2", Some(MALFORMED)),
        ("HTTP/", Some(MALFORMED)),
        ("HTTP/.1", Some(MALFORMED)),
        ("HTTP/x", Some(MALFORMED)),
        ("HTTP/1.x", Some(MALFORMED)),
        ("HTTP/1,1", Some(MALFORMED)),
        ("HTTP/1.1.1", Some(MALFORMED)),
        ("HTTP/-1.1", Some(MALFORMED)),
        ("HTTP/+2.0", Some(MALFORMED)),
        ("HTTP/2.0 ", Some(MALFORMED)),
        (" HTTP/1.1", Some(MALFORMED)),
        ("HTTP /1.1", Some(MALFORMED)),
        ("HTTP/ 1.1", Some(MALFORMED)),
        ("http/1.1", Some(MALFORMED)),
        ("Http/1.1", Some(MALFORMED)),
        ("HTTPS/1.1", Some(MALFORMED)),
        ("SIP/2.0", Some(MALFORMED)),
        ("ICY", Some(MALFORMED)),
        ("RTSP/1.0", Some(MALFORMED)),
        ("HTTP/\u{661}.1", Some(MALFORMED)),
    ];
    for (version, expected) in cases {
        for end in ["\r\n", "\n"] {
            let text = format!("GET /a {version}{end}Host: h{end}{end}");
            let (found, refused) = read(&[text.as_bytes()]);
            assert_eq!(refused.map(kind), expected, "{version:?}");
            assert_eq!(found.len(), usize::from(expected.is_none()), "{version:?}");
        }
    }
    let later = Bytes::from_static(b"GET /a HTTP/1.2\r\nHost: h\r\n\r\n");
    let parsed = request(&later, 100).unwrap();
    assert_eq!((parsed.request.version(), parsed.keeps), (Version::HTTP_11, true));
    // Two lengths are two lengths in any version of this grammar.
    let both = "POST /a HTTP/1.2\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n";
    assert_eq!(read(&[both.as_bytes()]).1, Some(ParseError::Malformed("two lengths")));
}

#[test]
fn what_concerns_the_connection() {
    let head = |text: &str| request(&Bytes::copy_from_slice(text.as_bytes()), 100).unwrap();
    // keeps, upgrades, expects
    let cases = [
        (format!("{GET}\r\n"), (true, false, false)),
        (format!("{GET}connection: a, Close\r\n\r\n"), (false, false, false)),
        (
            format!("{GET}connection: keep-alive\r\nconnection: close\r\n\r\n"),
            (false, false, false),
        ),
        (format!("{GET}connection: close, keep-alive\r\n\r\n"), (false, false, false)),
        ("GET / HTTP/1.0\r\n\r\n".to_owned(), (false, false, false)),
        ("GET / HTTP/1.0\r\nconnection: keep-alive\r\n\r\n".to_owned(), (true, false, false)),
        (format!("{GET}upgrade: websocket\r\n\r\n"), (true, true, false)),
        (format!("{POST}upgrade: x\r\ncontent-length: 1\r\n\r\n"), (true, false, false)),
        (format!("{POST}expect: 100-Continue\r\ncontent-length: 1\r\n\r\n"), (true, false, true)),
        (format!("{POST}expect: 100-continue\r\n\r\n"), (true, false, false)),
        (
            "POST / HTTP/1.0\r\nexpect: 100-continue\r\ncontent-length: 1\r\n\r\n".to_owned(),
            (false, false, false),
        ),
    ];
    for (text, expected) in cases {
        let asked = head(&text);
        assert_eq!((asked.keeps, asked.upgrade, asked.expects), expected, "{text:?}");
    }
}

#[test]
fn where_answers_end() {
    let head = |method: &str, text: &str| {
        let text = format!("HTTP/1.1 {text}\r\n\r\n");
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let read = response(&Bytes::copy_from_slice(text.as_bytes()), &method);
        read.map(|it| (it.framing, it.keeps))
    };
    let cases = [
        ("GET", "200 OK\r\ncontent-length: 3", (BodyDecoder::Length(3), true)),
        ("GET", "200\r\ncontent-length: 3\r\ncontent-length: 3", (BodyDecoder::Length(3), true)),
        ("GET", "200 OK\r\ncontent-length: 0", (BodyDecoder::Done, true)),
        ("GET", "200 OK\r\ntransfer-encoding: chunked", (BodyDecoder::CHUNKED_RESPONSE, true)),
        (
            "GET",
            "200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 3",
            (BodyDecoder::CHUNKED_RESPONSE, false),
        ),
        (
            "GET",
            "200 OK\r\nconnection: close\r\ncontent-length: 3",
            (BodyDecoder::Length(3), false),
        ),
        ("GET", "200 OK", (BodyDecoder::CloseDelimited, false)),
        ("HEAD", "200 OK\r\ncontent-length: 3", (BodyDecoder::Done, true)),
        ("HEAD", "200 OK", (BodyDecoder::Done, true)),
        ("GET", "204 No Content\r\ncontent-length: 3", (BodyDecoder::Done, true)),
        ("GET", "304 Not Modified\r\ncontent-length: 3", (BodyDecoder::Done, true)),
        ("GET", "103 Early Hints", (BodyDecoder::Done, true)),
        ("POST", "299 Fine\r\ncontent-length: 1", (BodyDecoder::Length(1), true)),
    ];
    for (method, text, expected) in cases {
        assert_eq!(head(method, text), Ok(expected), "{method} {text:?}");
    }
    for text in [
        "200 OK\r\ncontent-length: 3\r\ncontent-length: 4",
        "200 OK\r\ncontent-length: x",
        "200 OK\r\ntransfer-encoding: gzip, chunked",
        "20x OK",
        "099 Low",
        "200 OK\r\na b: c",
        "200 OK\r\na: b\rc",
    ] {
        assert!(head("GET", text).is_err(), "{text:?}");
    }
    let many = format!("200 OK\r\n{}content-length: 3", "a: b\r\n".repeat(200));
    assert_eq!(head("GET", &many), Ok((BodyDecoder::Length(3), true)));
    assert_eq!(
        head("GET", &"200 OK\r\n".repeat(2)),
        Err(ParseError::Malformed("an unusable header name"))
    );
    let flood = format!("200 OK\r\n{}", "a: b\r\n".repeat(300));
    assert_eq!(head("GET", &flood), Err(ParseError::TooManyHeaders));
}

/// What is of one connection ends with it (RFC 9110, section 7.6.1), whoever names it.
#[test]
fn b1_what_of_an_answer_goes_on() {
    let kept = |fields: &str| {
        let text = format!("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n{fields}x-last: 1\r\n\r\n");
        let read = response(&Bytes::copy_from_slice(text.as_bytes()), &Method::GET).unwrap();
        let mut names: Vec<&str> = read.response.headers().keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        names.join(" ")
    };
    let cases = [
        ("", "content-length x-last"),
        ("connection: keep-alive\r\nkeep-alive: timeout=5\r\n", "content-length x-last"),
        ("Transfer-Encoding: chunked\r\nTrailer: x-a\r\nte: trailers\r\n", "content-length x-last"),
        ("proxy-authenticate: Basic\r\nupgrade: h2c\r\n", "content-length x-last"),
        ("x-hop: 1\r\nx-end: 1\r\nConnection: close, X-Hop\r\n", "content-length x-end x-last"),
        ("connection: x-a\r\nx-a: 1\r\nx-b: 2\r\nconnection:,x-b ,\r\n", "content-length x-last"),
        ("connection: content-length, cookie\r\n", "content-length x-last"),
    ];
    for (fields, expected) in cases {
        assert_eq!(kept(fields), expected, "{fields:?}");
    }
}

fn onward(request: &Request<()>) -> OutboundRequest<'_, &HeaderMap> {
    OutboundRequest { method: request.method(), uri: request.uri(), fields: request.headers() }
}

/// The end of a body is told by its length or by chunks; of none, only where one is expected (RFC
/// 9110, section 8.6).
#[test]
fn b5_the_end_of_a_body_is_told_once() {
    let cases = [
        ("GET", "", Some(0), BodyLength::None),
        ("GET", "0", Some(0), BodyLength::Known(0)),
        ("DELETE", "", Some(2), BodyLength::Known(2)),
        ("GET", "", None, BodyLength::Chunked),
        ("POST", "", Some(0), BodyLength::Known(0)),
        ("PUT", "9", Some(7), BodyLength::Known(7)),
        ("PATCH", "", None, BodyLength::Chunked),
    ];
    for (method, said, body, expected) in cases {
        let request = Request::builder().method(method).uri("/");
        let request = match said {
            "" => request,
            said => request.header("content-length", said),
        };
        let mut out = Vec::new();
        let request = request.body(()).unwrap();
        assert_eq!(write_request(&mut out, &onward(&request), body), expected, "{method} {said}");
        let written = String::from_utf8(out).unwrap();
        let told = match expected {
            BodyLength::Known(bytes) => format!("content-length: {bytes}\r\n"),
            BodyLength::Chunked => "transfer-encoding: chunked\r\n".to_owned(),
            BodyLength::None | BodyLength::CloseDelimited => String::new(),
        };
        assert_eq!(written, format!("{method} / HTTP/1.1\r\n{told}\r\n"));
    }
}

#[test]
fn b5_heads_are_written_anew() {
    let text = "POST http://h/a?b=c HTTP/1.1\nHost:h\ncontent-length: 007\nX-A:  1 \nx-a: \n\n";
    let asked = request(&Bytes::from_static(text.as_bytes()), 100).unwrap();
    let mut out = Vec::new();
    write_request(&mut out, &onward(&asked.request), Some(7));
    let written = String::from_utf8(out).unwrap();
    let expected =
        "POST /a?b=c HTTP/1.1\r\nhost: h\r\nx-a: 1\r\nx-a: \r\ncontent-length: 7\r\n\r\n";
    assert_eq!(written, expected);
    let cases = [("http://h", "/"), ("http://h?a", "/?a"), ("*", "*"), ("/", "/")];
    for (target, expected) in cases {
        let mut out = Vec::new();
        let request = Request::options(target).body(()).unwrap();
        write_request(&mut out, &onward(&request), Some(0));
        let expected = format!("OPTIONS {expected} HTTP/1.1\r\n\r\n");
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
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
        "\0",
        "cookie: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n",
    ]);
    vec(piece, 1..14).prop_map(|pieces| pieces.concat())
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
    fn b5_it_does_not_matter_how_the_bytes_are_dealt_out(
        text in prop_oneof![pieces(), messages()],
        sizes in vec(1_usize..9, 1..40),
    ) {
        let (mut rest, mut sizes, mut dealt) = (text.as_bytes(), sizes.iter().cycle(), Vec::new());
        while !rest.is_empty() {
            let (piece, tail) = rest.split_at(rest.len().min(*sizes.next().unwrap()));
            dealt.push(piece);
            rest = tail;
        }
        let (whole, pieces) = (read(&[text.as_bytes()]), read(&dealt));
        // In pieces, what is wrong may be seen before the head has come whole.
        prop_assert_eq!(&whole.0, &pieces.0);
        prop_assert_eq!(whole.1.is_some(), pieces.1.is_some());
    }

    #[test]
    fn b5_hyper_reads_what_passes_as_we_do(text in messages()) {
        let ours = read(&[text.as_bytes()]);
        let hypers = hypers(&text);
        prop_assert!(hypers.starts_with(&ours.0), "{:?}\n{:?}", ours, hypers);
        if ours.1.is_none() {
            prop_assert_eq!(ours.0, hypers);
        }
    }

    #[test]
    fn b5_what_we_write_we_read_again(text in messages()) {
        let Ok(Some(head)) = HeadScanner::default().take_head(&mut text.as_bytes().into(), 4096) else {
            return Ok(());
        };
        let Ok(asked) = request(&head, 100) else { return Ok(()) };
        let mut out = Vec::new();
        write_request(&mut out, &onward(&asked.request), asked.framing.exact());
        let again = request(&out.into(), 100).unwrap();
        prop_assert_eq!(again.framing, asked.framing);
        prop_assert_eq!(again.request.uri(), asked.request.uri());
    }
}

/// The requests in these bytes as hyper reads them, until it refuses one.
fn hypers(text: &str) -> Vec<Read> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let found = Rc::<RefCell<Vec<_>>>::default();
    let seen = Rc::clone(&found);
    let service = service_fn(move |request: Request<hyper::body::Incoming>| {
        let seen = Rc::clone(&seen);
        async move {
            let target = request.uri().to_string();
            if let Ok(body) = request.into_body().collect().await {
                seen.borrow_mut().push((target, body.to_bytes().to_vec()));
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
