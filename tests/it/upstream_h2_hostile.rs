//! What a site that speaks HTTP/2 may do wrong, what of it its visitors see, and what is sent again.

use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use http::Response;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::{Instant, timeout},
};

use crate::{
    h2::{CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, RST_STREAM, block, frame},
    h2_site::{Asked, ByHand, Site, say},
    harness::{TestConfig, TestGateway},
    upstream_h2::{alone, get, plan},
    visitor::raw,
};

const REFUSED: u32 = 7;

/// A site by hand, and a street before it.
async fn by_hand(lines: &str) -> (TcpListener, TestGateway) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let upstream = format!("\"http://{}\"", listener.local_addr().unwrap());
    (listener, alone(upstream, lines).await)
}

fn post(street: &TestGateway, body: &str) -> impl Future<Output = String> + use<> {
    let length = body.len();
    let request = format!(
        "POST /static/a HTTP/1.1\r\nhost: h5.example.com\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
    );
    let gateway = street.gateway;
    async move { timeout(Duration::from_secs(10), raw(gateway, &request)).await.unwrap() }
}

fn go(last: u32, code: u32) -> Vec<u8> {
    frame(GOAWAY, 0, 0, &[last.to_be_bytes(), code.to_be_bytes()].concat())
}

#[tokio::test]
async fn rfc9113_8_7_a_request_that_was_refused_is_sent_again_once() {
    let (listener, street) = by_hand("").await;
    let visitor = tokio::spawn(post(&street, "a body of which all has been sent"));
    let mut site = ByHand::accept(&listener, &[]).await;
    let stream = site.request().await;
    site.send(&frame(RST_STREAM, 0, stream, &REFUSED.to_be_bytes())).await;
    let mut body = Vec::new();
    let again = loop {
        match site.next().await.unwrap() {
            (HEADERS, _, again, _) => break again,
            other => assert_eq!(other.2, stream, "of the stream that was refused: {other:?}"),
        }
    };
    while let (DATA, flags, _, piece) = site.next().await.unwrap() {
        body.extend(piece);
        if flags & END_STREAM > 0 {
            break;
        }
    }
    assert_eq!(body, b"a body of which all has been sent");
    site.answer(again).await;
    let answer = visitor.await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 204"), "{answer}");

    // And not for ever.
    let visitor = tokio::spawn(post(&street, "x"));
    for _ in 0..2 {
        let stream = site.request().await;
        site.send(&frame(RST_STREAM, 0, stream, &REFUSED.to_be_bytes())).await;
    }
    let answer = visitor.await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 502"), "{answer}");
    street.close().await;
}

#[tokio::test]
async fn rfc9113_6_8_a_server_that_goes_is_left_and_fails_nobody() {
    let (listener, street) = by_hand("").await;
    let first = tokio::spawn(post(&street, "first"));
    let mut old = ByHand::accept(&listener, &[]).await;
    let served = old.request().await;
    let second = tokio::spawn(post(&street, "second"));
    let lost = old.request().await;
    assert!(lost > served);
    // It will answer the first, and has not looked at the second.
    old.send(&go(served, 0)).await;
    let mut new = ByHand::accept(&listener, &[]).await;
    let again = new.request().await;
    new.answer(again).await;
    assert!(second.await.unwrap().starts_with("HTTP/1.1 204"));
    old.answer(served).await;
    assert!(first.await.unwrap().starts_with("HTTP/1.1 204"));
    // Whoever comes now goes to the new one.
    let third = tokio::spawn(post(&street, "third"));
    let stream = new.request().await;
    new.answer(stream).await;
    assert!(third.await.unwrap().starts_with("HTTP/1.1 204"));
    street.close().await;
}

#[tokio::test]
async fn a_connection_that_dies_fails_only_what_may_not_be_done_twice() {
    let (listener, street) = by_hand("").await;
    // It has served before: then it may be gone this very moment.
    let warm = tokio::spawn(post(&street, ""));
    let mut first = ByHand::accept(&listener, &[]).await;
    let stream = first.request().await;
    first.answer(stream).await;
    assert!(warm.await.unwrap().starts_with("HTTP/1.1 204"));
    let mut site = Some(first);
    for (method, status) in [("GET", 204), ("POST", 502)] {
        let mut old = site.take().unwrap();
        let request = format!(
            "{method} /static/a HTTP/1.1\r\nhost: h5.example.com\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
        );
        let gateway = street.gateway;
        let visitor = tokio::spawn(async move { raw(gateway, &request).await });
        let _ = old.request().await;
        drop(old);
        if status == 204 {
            let mut new = ByHand::accept(&listener, &[]).await;
            let stream = new.request().await;
            new.answer(stream).await;
            site = Some(new);
        }
        let answer = timeout(Duration::from_secs(5), visitor).await.unwrap().unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{method}: {answer}");
    }
    street.close().await;
}

#[tokio::test]
async fn rfc9113_8_7_what_a_server_that_goes_may_have_acted_on_is_not_sent_again() {
    let (listener, street) = by_hand("").await;
    let visitor = tokio::spawn(post(&street, "an order"));
    let mut site = ByHand::accept(&listener, &[]).await;
    let stream = site.request().await;
    // It names this one as the last that it looks at, and then it is gone.
    site.send(&go(stream, 0)).await;
    drop(site);
    let answer = visitor.await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 502"), "{answer}");
    let again = timeout(Duration::from_millis(300), listener.accept()).await;
    assert!(again.is_err(), "it is not ordered twice");
    street.close().await;
}

#[tokio::test]
async fn an_answer_that_is_reset_never_ends_well() {
    for (reason, length) in [
        (Reason::INTERNAL_ERROR, false),
        (Reason::CANCEL, false),
        (Reason::NO_ERROR, false),
        (Reason::NO_ERROR, true),
    ] {
        let deed = move |(_, mut respond): Asked| async move {
            let mut response = Response::new(());
            if length {
                response.headers_mut().insert("content-length", 1_000.into());
            }
            let mut answer = respond.send_response(response, false).unwrap();
            answer.send_data(Bytes::from_static(b"half"), false).unwrap();
            tokio::time::sleep(Duration::from_millis(50)).await;
            answer.send_reset(reason);
        };
        let site = Site::new(deed).await;
        let street = alone(site.upstream(), "").await;
        let answer = get(&street, "/static/a").await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("half"), "{answer}");
        assert!(!answer.contains("\r\n0\r\n\r\n"), "{reason:?}: {answer}");
        street.close().await;
    }
}

#[tokio::test]
async fn a_site_that_is_slow_is_given_up_and_its_stream_reset() {
    // It opens no window for a body, or does not answer at all.
    for (settings, body) in [(&[0, 4, 0, 0, 0, 0][..], "never taken"), (&[], "")] {
        let (listener, street) = by_hand("response_timeout = \"300ms\"").await;
        let visitor = tokio::spawn(post(&street, body));
        let mut site = ByHand::accept(&listener, settings).await;
        let stream = site.request().await;
        let answer = visitor.await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 504"), "{answer}");
        loop {
            match timeout(Duration::from_secs(5), site.next()).await.unwrap().unwrap() {
                (RST_STREAM, _, reset, _) => break assert_eq!(reset, stream),
                (kind, _, _, _) => assert_eq!(kind, DATA),
            }
        }
        street.close().await;
    }
}

#[tokio::test]
async fn a_site_that_stops_in_its_answer_is_given_up() {
    let deed = |(_, mut respond): Asked| async move {
        let mut answer = respond.send_response(Response::new(()), false).unwrap();
        answer.send_data(Bytes::from_static(b"half"), false).unwrap();
        std::future::pending::<()>().await;
    };
    let site = Site::new(deed).await;
    let street = alone(site.upstream(), "response_timeout = \"300ms\"").await;
    let answer = timeout(Duration::from_secs(5), get(&street, "/static/a")).await.unwrap();
    assert!(answer.contains("half") && !answer.contains("\r\n0\r\n\r\n"), "{answer}");
    street.close().await;
}

#[tokio::test]
async fn a_body_that_is_no_good_never_ends_well_for_the_site() {
    let head = "POST /static/a HTTP/1.1\r\nhost: h5.example.com\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n";
    let large = format!("fff\r\n{}\r\n0\r\n\r\n", "x".repeat(4095));
    for (rest, status) in [(large.as_str(), 413), ("nonsense\r\n", 400), ("", 408)] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut plan = plan(format!("\"http://{}\"", listener.local_addr().unwrap()));
        plan.server = "[server.limits]\nbody_size = \"1KiB\"\nbody_time = \"1s\"".to_owned();
        let street = TestGateway::open(plan).await;
        let mut visitor = TcpStream::connect(street.gateway).await.unwrap();
        visitor.write_all(head.as_bytes()).await.unwrap();
        let mut site = ByHand::accept(&listener, &[]).await;
        let _ = site.request().await;
        visitor.write_all(rest.as_bytes()).await.unwrap();
        let mut answer = String::new();
        let read = visitor.read_to_string(&mut answer);
        timeout(Duration::from_secs(5), read).await.unwrap().unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{rest}: {answer}");
        loop {
            match timeout(Duration::from_secs(5), site.next()).await.unwrap().unwrap() {
                (RST_STREAM, ..) => break,
                (kind, flags, ..) => assert_eq!((kind, flags & END_STREAM), (DATA, 0), "{rest}"),
            }
        }
        street.close().await;
    }
}

#[tokio::test]
async fn g5_what_a_hostile_site_answers_is_judged() {
    let field = |name: &'static str| [(":status", "200"), (name, "x")];
    let long = [(":status", "200"), ("x-a", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa")];
    let flood = block(&long[1..]).repeat(250);
    let mut endless = frame(HEADERS, END_STREAM, 1, &block(&long));
    for _ in 0..2_000 {
        endless.extend(frame(CONTINUATION, 0, 1, &flood));
    }
    let interim = frame(HEADERS, END_HEADERS, 1, &block(&[(":status", "103")])).repeat(200);
    let empty =
        [frame(HEADERS, END_HEADERS, 1, &[0x88]), frame(DATA, 8, 1, &[0]).repeat(100_000)].concat();
    let cases = [
        ("connection", frame(HEADERS, 5, 1, &block(&field("connection")))),
        ("transfer-encoding", frame(HEADERS, 5, 1, &block(&field("transfer-encoding")))),
        ("no status", frame(HEADERS, 5, 1, &block(&[("x-a", "b")]))),
        ("101", frame(HEADERS, 4, 1, &block(&[(":status", "101")]))),
        ("a status of letters", frame(HEADERS, 5, 1, &block(&[(":status", "abc")]))),
        ("a head without end", endless),
        ("interim answers without end", interim),
        ("DATA before a head", frame(DATA, 0, 1, b"x")),
        ("HTTP/1", b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n".to_vec()),
    ];
    for (name, bytes) in cases {
        let (listener, street) = by_hand("response_timeout = \"2s\"").await;
        let visitor = tokio::spawn(post(&street, ""));
        let mut site = ByHand::accept(&listener, &[]).await;
        let _ = site.request().await;
        site.send(&bytes).await;
        let answer = visitor.await.unwrap().replace("HTTP/1.1 103 Early Hints\r\n\r\n", "");
        assert!(answer.starts_with("HTTP/1.1 502"), "{name}: {answer}");
        street.close().await;
    }
    // Padding and nothing in it: the visitor waits, until the library or our patience has enough.
    let (listener, street) = by_hand("response_timeout = \"1s\"").await;
    let visitor = tokio::spawn(post(&street, ""));
    let mut site = ByHand::accept(&listener, &[]).await;
    let _ = site.request().await;
    let begun = Instant::now();
    site.send(&empty).await;
    let answer = visitor.await.unwrap();
    assert!(!answer.contains("\r\n0\r\n\r\n"), "{answer}");
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    street.close().await;
}

#[tokio::test]
async fn a_server_that_does_not_speak_it_is_passed_over() {
    let site = Site::new(|asked| say("here", asked)).await;
    let old = crate::echo::Echo::start().await;
    let both = format!("\"http://{}\", {}", old.addr, site.upstream());
    let street = alone(both, "connect_timeout = \"1s\"").await;
    for _ in 0..6 {
        let answer = get(&street, "/static/a").await;
        assert!(answer.ends_with("here"), "{answer}");
    }
    assert_eq!(site.seen().len(), 6);
    street.close().await;

    let only = format!("\"http://{}\"", old.addr);
    let street = TestGateway::open(TestConfig { ..plan(only) }).await;
    let answer = get(&street, "/static/a").await;
    assert!(answer.starts_with("HTTP/1.1 502"), "{answer}");
    street.close().await;
}
