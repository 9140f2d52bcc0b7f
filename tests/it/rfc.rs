//! The edges of HTTP that a proxy has to keep, by section of RFC 9110 (semantics) and RFC 9112
//! (HTTP/1.1). What the visitor sends and sees, and what the site receives, are raw bytes.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};

use crate::{
    harness::{ROUTES, TestConfig, TestGateway},
    visitor::raw,
};

/// A site that answers its first request with these bytes and says what it received.
async fn site(answer: &'static str) -> (String, tokio::sync::oneshot::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let upstream = format!("\"http://{}\"", listener.local_addr().unwrap());
    let (tell, told) = tokio::sync::oneshot::channel();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut seen = Vec::new();
        while !seen.windows(4).any(|four| four == b"\r\n\r\n") {
            let mut buffer = [0; 4096];
            let count = stream.read(&mut buffer).await.unwrap();
            seen.extend_from_slice(&buffer[..count]);
        }
        let _ = tell.send(String::from_utf8_lossy(&seen).into_owned());
        let _ = stream.write_all(answer.as_bytes()).await;
        let mut rest = [0; 4096];
        let _ = timeout(Duration::from_secs(1), stream.read(&mut rest)).await;
    });
    (upstream, told)
}

/// One exchange: what the visitor got, and what the site received.
async fn exchange(request: &str, answer: &'static str) -> (String, String) {
    let (upstream, told) = site(answer).await;
    let street =
        TestGateway::open(TestConfig { upstream: Some(upstream), ..TestConfig::site(ROUTES) })
            .await;
    let got = raw(street.gateway, request).await;
    street.close().await;
    (got, told.await.unwrap_or_default())
}

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
const H: &str = "host: h5.example.com\r\nconnection: close\r\n";

/// Section, request, the site's answer, what must be in what comes back, what must not.
type Answered<'a> = (&'a str, &'a str, &'static str, &'a [&'a str], &'a [&'a str]);
/// Section, request, what must be in what the site receives, what must not.
type Asked<'a> = (&'a str, String, &'a [&'a str], &'a [&'a str]);

#[tokio::test]
async fn what_the_visitor_gets() {
    let get = format!("GET /static/a HTTP/1.1\r\n{H}\r\n");
    let head = format!("HEAD /static/a HTTP/1.1\r\n{H}\r\n");
    let old = "GET /static/a HTTP/1.0\r\nhost: h5.example.com\r\n\r\n";
    let continues = format!(
        "POST /static/a HTTP/1.1\r\n{H}expect: 100-continue\r\ncontent-length: 2\r\n\r\nhi"
    );
    let rows: [Answered<'_>; 18] = [
        ("9110 6.6.1: a missing Date is added", &get, OK, &["\r\ndate: "], &[]),
        (
            "9110 6.6.1: a Date is kept",
            &get,
            "HTTP/1.1 200 OK\r\ndate: Mon, 01 Jan 2001 00:00:00 GMT\r\ncontent-length: 0\r\n\r\n",
            &["date: Mon, 01 Jan 2001 00:00:00 GMT"],
            &[],
        ),
        (
            "9110 8.6: Content-Length of HEAD is that of GET",
            &head,
            "HTTP/1.1 200 OK\r\ncontent-length: 1234\r\n\r\n",
            &["content-length: 1234"],
            &[],
        ),
        (
            "9110 15.3.5: 204 has no body and no length",
            &get,
            "HTTP/1.1 204 No Content\r\n\r\n",
            &["HTTP/1.1 204"],
            &["content-length", "transfer-encoding"],
        ),
        (
            "9110 15.4.5: 304 has no body, but its headers",
            &get,
            "HTTP/1.1 304 Not Modified\r\netag: \"x\"\r\n\r\n",
            &["HTTP/1.1 304", "etag: \"x\""],
            &["transfer-encoding"],
        ),
        (
            "9110 15.2: an interim answer is passed on, and is not the answer",
            &get,
            "HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
            &[
                "HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\nHTTP/1.1 200 OK\r\n",
                "\r\n\r\nok",
            ],
            &[],
        ),
        (
            "9110 15.2: so are several, each without what ends here",
            &get,
            "HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nset-cookie: wxgate=x\r\nconnection: x-a\r\nx-a: 1\r\ncontent-length: 9\r\nx-b: 2\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
            &[
                "HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nx-b: 2\r\n\r\nHTTP/1.1 204 No Content\r\n",
            ],
            &["x-a", "set-cookie", "content-length"],
        ),
        (
            "9110 15.2: none goes to HTTP/1.0",
            old,
            "HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
            &["HTTP/1.1 204"],
            &["103", "link"],
        ),
        (
            "9110 15.2.1: a 100 of the site is for us",
            &get,
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
            &["HTTP/1.1 204"],
            &["100"],
        ),
        (
            "9110 10.1.1: our own 100 and those of the site stay apart",
            &continues,
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
            &["HTTP/1.1 100 Continue\r\n\r\n", "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 204"],
            &["Continue\r\n\r\nHTTP/1.1 100"],
        ),
        (
            "9110 7.6.1: hop-by-hop headers of the site end here",
            &get,
            "HTTP/1.1 200 OK\r\nconnection: x-a\r\nx-a: 1\r\nkeep-alive: 1\r\nproxy-authenticate: Basic\r\ncontent-length: 0\r\n\r\n",
            &["HTTP/1.1 200"],
            &["x-a", "keep-alive", "proxy-authenticate"],
        ),
        (
            "9110 8.8, 12.5: validators and Vary pass",
            &get,
            "HTTP/1.1 200 OK\r\netag: W/\"1\"\r\nvary: accept\r\ncontent-length: 0\r\n\r\n",
            &["etag: W/\"1\"", "vary: accept"],
            &[],
        ),
        (
            "9110 15.1: a status we do not know passes",
            &get,
            "HTTP/1.1 299 Fine\r\ncontent-length: 0\r\n\r\n",
            &["HTTP/1.1 299"],
            &[],
        ),
        (
            "9112 6.3: an answer without length ends with the connection",
            &get,
            "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nto the end",
            &["transfer-encoding: chunked", "to the end"],
            &[],
        ),
        (
            "9112 7.1: chunks are framed anew",
            &get,
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n0\r\n\r\n",
            &["\r\nabc\r\n"],
            &["x=y"],
        ),
        (
            "9112 6.1: HTTP/1.0 gets no chunks",
            old,
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
            &["abc"],
            &["transfer-encoding", "\r\n3\r\n"],
        ),
        (
            "9110 10.1.1: 100-continue is answered here",
            &continues,
            OK,
            &["HTTP/1.1 100", "HTTP/1.1 200"],
            &[],
        ),
        (
            "9110 5.3: several Set-Cookie stay apart",
            &get,
            "HTTP/1.1 200 OK\r\nset-cookie: a=1\r\nset-cookie: b=2\r\ncontent-length: 0\r\n\r\n",
            &["set-cookie: a=1\r\n", "set-cookie: b=2\r\n"],
            &["a=1, b=2"],
        ),
    ];
    for (section, request, answer, wanted, unwanted) in rows {
        let (got, _) = exchange(request, answer).await;
        let got = got.to_ascii_lowercase();
        for it in wanted {
            assert!(got.contains(&it.to_ascii_lowercase()), "{section}: no {it:?} in {got}");
        }
        for it in unwanted {
            assert!(!got.contains(&it.to_ascii_lowercase()), "{section}: {it:?} in {got}");
        }
    }
}

#[tokio::test]
async fn what_the_site_receives() {
    let rows: [Asked<'_>; 11] = [
        (
            "9112 3.2.1: origin form as it came",
            format!("GET /static/a?b=%20c&d HTTP/1.1\r\n{H}\r\n"),
            &["GET /static/a?b=%20c&d HTTP/1.1\r\n"],
            &[],
        ),
        (
            "9112 3.2.2: absolute form becomes origin form",
            format!("GET http://h5.example.com/static/a?x HTTP/1.1\r\n{H}\r\n"),
            &["GET /static/a?x HTTP/1.1\r\n", "host: h5.example.com\r\n"],
            &["http://h5"],
        ),
        (
            "9110 7.2: Host is the name that matched, in one spelling",
            "GET /static/a HTTP/1.1\r\nhost: H5.Example.com:8080\r\nconnection: close\r\n\r\n"
                .to_owned(),
            &["host: h5.example.com\r\n"],
            &[],
        ),
        (
            "9110 9.3: a method we do not know passes",
            format!("PROPFIND /static/a HTTP/1.1\r\n{H}\r\n"),
            &["PROPFIND /static/a"],
            &[],
        ),
        (
            "9110 9.3.7: OPTIONS of a page passes",
            format!("OPTIONS /static/a HTTP/1.1\r\n{H}max-forwards: 5\r\n\r\n"),
            &["OPTIONS /static/a"],
            &[],
        ),
        (
            "9110 14: ranges pass",
            format!("GET /static/a HTTP/1.1\r\n{H}range: bytes=0-1\r\nif-range: \"x\"\r\n\r\n"),
            &["range: bytes=0-1", "if-range: \"x\""],
            &[],
        ),
        (
            "9110 13: conditions pass",
            format!("GET /static/a HTTP/1.1\r\n{H}if-none-match: \"x\"\r\n\r\n"),
            &["if-none-match: \"x\""],
            &[],
        ),
        (
            "9110 10.1.4: TE ends here",
            format!("GET /static/a HTTP/1.1\r\n{H}te: trailers\r\n\r\n"),
            &[],
            &["\r\nte:"],
        ),
        (
            "9110 8.6: a length is kept",
            format!("POST /static/a HTTP/1.1\r\n{H}content-length: 2\r\n\r\nhi"),
            &["content-length: 2\r\n"],
            &["transfer-encoding"],
        ),
        (
            "9112 6.1: chunks are passed as chunks",
            format!(
                "POST /static/a HTTP/1.1\r\n{H}transfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n"
            ),
            &["transfer-encoding: chunked\r\n"],
            &["content-length"],
        ),
        (
            "9112 2.2: a bare LF is read, and written as CRLF",
            "GET /static/a HTTP/1.1\nhost: h5.example.com\nconnection: close\n\n".to_owned(),
            &["GET /static/a HTTP/1.1\r\n"],
            &["com\n\n"],
        ),
    ];
    for (section, request, wanted, unwanted) in rows {
        let (_, received) = exchange(&request, OK).await;
        for it in wanted {
            assert!(received.contains(it), "{section}: no {it:?} in {received}");
        }
        for it in unwanted {
            assert!(!received.contains(it), "{section}: {it:?} in {received}");
        }
    }
}

#[tokio::test]
async fn rfc9112_9_6_a_half_closed_visitor_still_gets_the_answer() {
    let street = TestGateway::usual().await;
    let mut stream = TcpStream::connect(street.gateway).await.unwrap();
    let request = "GET /static/a HTTP/1.1\r\nhost: h5.example.com\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    timeout(Duration::from_secs(5), stream.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    street.close().await;
}

#[tokio::test]
async fn rfc9112_7_5_an_answer_before_the_request_has_ended_is_passed_on() {
    let (upstream, _told) =
        site("HTTP/1.1 413 Too Large\r\ncontent-length: 4\r\nconnection: close\r\n\r\nlong").await;
    let street =
        TestGateway::open(TestConfig { upstream: Some(upstream), ..TestConfig::site(ROUTES) })
            .await;
    let mut stream = TcpStream::connect(street.gateway).await.unwrap();
    stream
        .write_all(
            format!("POST /static/a HTTP/1.1\r\n{H}content-length: 1000000\r\n\r\nstart")
                .as_bytes(),
        )
        .await
        .unwrap();
    let mut seen = String::new();
    while !seen.ends_with("long") {
        let mut buffer = [0; 1024];
        let count =
            timeout(Duration::from_secs(5), stream.read(&mut buffer)).await.unwrap().unwrap();
        assert!(count > 0, "{seen}");
        seen += &String::from_utf8_lossy(&buffer[..count]);
    }
    assert!(seen.starts_with("HTTP/1.1 413"), "{seen}");
    street.close().await;
}

#[tokio::test]
async fn rfc8297_early_hints_come_before_the_answer_is_there() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let upstream = format!("\"http://{}\"", listener.local_addr().unwrap());
    let street =
        TestGateway::open(TestConfig { upstream: Some(upstream), ..TestConfig::site(ROUTES) })
            .await;
    let mut visitor = TcpStream::connect(street.gateway).await.unwrap();
    let request = "GET /static/a HTTP/1.1\r\nhost: h5.example.com\r\n\r\n";
    let mut site = None;
    // Over one connection twice: what was said to one request is not said to the next.
    for number in 0..2 {
        visitor.write_all(request.as_bytes()).await.unwrap();
        let mut stream = match site.take() {
            Some(stream) => stream,
            None => listener.accept().await.unwrap().0,
        };
        let mut seen = [0; 4096];
        let _ = stream.read(&mut seen).await.unwrap();
        let hint = format!("HTTP/1.1 103 Early Hints\r\nx-number: {number}\r\n\r\n");
        stream.write_all(hint.as_bytes()).await.unwrap();
        let mut got = vec![0; hint.len()];
        timeout(Duration::from_secs(5), visitor.read_exact(&mut got)).await.unwrap().unwrap();
        assert_eq!(String::from_utf8(got).unwrap(), hint);
        stream.write_all(OK.as_bytes()).await.unwrap();
        let mut got = String::new();
        while !got.ends_with("ok") {
            got.push(char::from(visitor.read_u8().await.unwrap()));
        }
        assert!(got.starts_with("HTTP/1.1 200 OK\r\n"), "{got}");
        site = Some(stream);
    }
    street.close().await;
}

#[tokio::test]
async fn rfc9110_15_2_interim_answers_are_few() {
    let get = format!("GET /static/a HTTP/1.1\r\n{H}\r\n");
    let hint = "HTTP/1.1 103 Early Hints\r\nx-a: b\r\n\r\n";
    for (times, passed, status) in [(3, 3, "200"), (60, 16, "200"), (500, 16, "502")] {
        let answer: &'static str = Box::leak(format!("{}{OK}", hint.repeat(times)).into());
        let (got, _) = exchange(&get, answer).await;
        assert_eq!(got.matches(hint).count(), passed, "{times}: {got}");
        assert!(got.contains(&format!("\r\n\r\nHTTP/1.1 {status}")), "{times}: {got}");
    }
}
