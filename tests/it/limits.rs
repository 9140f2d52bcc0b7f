//! What a client may take of the gateway, and what happens to one who takes more.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, sleep, timeout},
};

use crate::{
    harness::{ROUTES, TestConfig, TestGateway},
    tls,
    visitor::{Answer, Visitor, raw},
};

const H: &str = "host: h5.example.com\r\n";

async fn limited(lines: &str, site: &str) -> TestGateway {
    let server = format!("[server.limits]\n{lines}");
    TestGateway::open(TestConfig { server, ..TestConfig::site(&format!("{site}\n{ROUTES}")) }).await
}

async fn connected(street: &TestGateway, request: &str) -> TcpStream {
    let mut stream = TcpStream::connect(street.gateway).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

/// Whatever comes until the gateway closes, within ten seconds.
async fn rest(mut stream: impl AsyncReadExt + Unpin) -> String {
    let mut bytes = Vec::new();
    let ended = timeout(Duration::from_secs(10), stream.read_to_end(&mut bytes)).await;
    assert!(ended.is_ok(), "still open: {}", String::from_utf8_lossy(&bytes));
    String::from_utf8_lossy(&bytes).into_owned()
}

#[tokio::test]
async fn g5_a_request_body_that_stands_still_is_a_408_and_blames_nobody_else() {
    // The site waits for the visitor: that it is slower than it may be is not its fault.
    let street = limited("body_time = \"2s\"", "response_timeout = \"1s\"").await;
    for framing in
        ["content-length: 9\r\n\r\nabc", "transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n"]
    {
        let begun = Instant::now();
        let stream = connected(&street, &format!("POST /static/a HTTP/1.1\r\n{H}{framing}")).await;
        let answer = Answer::parse(&rest(stream).await);
        assert_eq!((answer.status, answer.header("connection")), (408, Some("close")), "{framing}");
        assert!(answer.text.contains("too_slow"), "{}", answer.text);
        assert!(begun.elapsed() >= Duration::from_secs(2));
    }
    assert_eq!(Visitor::desktop(street.gateway).get("/static/a").await.status, 200);
    street.close().await;
}

#[tokio::test]
async fn g5_a_request_body_that_trickles_is_given_up_and_a_slow_one_is_not() {
    let street = limited("body_time = \"1s\"", "").await;
    let head =
        format!("POST /static/a HTTP/1.1\r\n{H}connection: close\r\ncontent-length: 3000\r\n\r\n");
    let (mut read, mut write) = connected(&street, &head).await.into_split();
    let trickle = tokio::spawn(async move {
        while write.write_all(b"a").await.is_ok() {
            sleep(Duration::from_millis(200)).await;
        }
    });
    let mut answer = String::new();
    timeout(Duration::from_secs(5), read.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    drop(read);
    trickle.await.unwrap();

    let (read, mut write) = connected(&street, &head).await.into_split();
    for _ in 0..15 {
        sleep(Duration::from_millis(200)).await;
        write.write_all(&[b'a'; 200]).await.unwrap();
    }
    assert!(rest(read).await.starts_with("HTTP/1.1 200"));
    street.close().await;
}

#[tokio::test]
async fn g5_a_visitor_who_does_not_read_is_given_up() {
    let street = limited("send_time = \"1s\"", "").await;
    let request = format!("GET /static/endless HTTP/1.1\r\n{H}\r\n");
    let mut stream = connected(&street, &request).await;
    sleep(Duration::from_secs(3)).await;
    let ended = timeout(Duration::from_secs(10), async {
        let (mut buffer, mut total) = (vec![0; 1 << 20], 0);
        while let Ok(count @ 1..) = stream.read(&mut buffer).await {
            total += count;
        }
        total
    });
    assert!(ended.await.unwrap() > 0, "an endless answer has ended");
    street.close().await;
}

#[tokio::test]
async fn g5_a_visitor_who_reads_nothing_over_tls_is_given_up() {
    // An answer that fits into the buffer of TLS counts as written there, and is not.
    let mut certified = tls::certified(&["h5.example.com"]);
    certified.plan.server += "\n[server.limits]\nsend_time = \"1s\"";
    let street = TestGateway::open(certified.plan.clone()).await;
    let addr = street.tls.unwrap();
    let mut stream =
        tls::connect(addr, &certified.roots, "h5.example.com", b"http/1.1").await.unwrap();
    let long = "a".repeat(16_000);
    let request = format!("GET /static/a HTTP/1.1\r\n{H}x-long: {long}\r\n\r\n");
    let asking = async { while stream.write_all(request.as_bytes()).await.is_ok() {} };
    let given_up = timeout(Duration::from_secs(20), asking).await;
    assert!(given_up.is_ok(), "the gateway still waits for it");
    let scrape = "GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    let metrics = raw(street.admin().await, scrape).await;
    assert!(metrics.contains("{limit=\"send_time\"} 1"), "{metrics}");
    street.close().await;
}

#[tokio::test]
async fn g5_an_answer_that_stands_still_ends_unless_it_is_a_stream_of_events() {
    let street = limited("", "response_timeout = \"1s\"").await;
    let begun = Instant::now();
    let answer =
        rest(connected(&street, &format!("GET /static/half HTTP/1.1\r\n{H}\r\n")).await).await;
    assert!(answer.ends_with("half") && begun.elapsed() >= Duration::from_secs(1), "{answer}");
    let mut events = connected(&street, &format!("GET /static/events HTTP/1.1\r\n{H}\r\n")).await;
    let mut seen = String::new();
    let mut buffer = [0; 4096];
    while !seen.contains("data: 1") {
        let count = events.read(&mut buffer).await.unwrap();
        seen.push_str(&String::from_utf8_lossy(&buffer[..count]));
    }
    let more = timeout(Duration::from_millis(2500), events.read(&mut buffer)).await;
    assert!(more.is_err(), "the events have ended: {more:?}");
    drop(events);
    street.close().await;
}

#[tokio::test]
async fn g5_one_client_holds_no_more_connections_than_it_may() {
    let street = limited("connections_per_client = 3", "").await;
    let mut held = Vec::new();
    for number in 0..3 {
        let mut stream =
            connected(&street, &format!("GET /static/{number} HTTP/1.1\r\n{H}\r\n")).await;
        assert!(stream.read(&mut [0; 4096]).await.unwrap() > 0);
        held.push(stream);
    }
    for _ in 0..8 {
        let mut stream = TcpStream::connect(street.gateway).await.unwrap();
        let read = timeout(Duration::from_secs(2), stream.read(&mut [0; 16])).await.unwrap();
        assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    }
    assert_eq!(street.site.hits(), 3);
    held.pop();
    // The gateway hears of it a moment later.
    sleep(Duration::from_millis(200)).await;
    assert_eq!(Visitor::desktop(street.gateway).get("/static/a").await.status, 200);
    street.close().await;

    let server = "trusted_proxies = [\"127.0.0.1\"]\n[server.limits]\nconnections_per_client = 1";
    let street =
        TestGateway::open(TestConfig { server: server.to_owned(), ..TestConfig::site(ROUTES) })
            .await;
    let mut held = Vec::new();
    for number in 0..4 {
        let mut stream =
            connected(&street, &format!("GET /static/{number} HTTP/1.1\r\n{H}\r\n")).await;
        assert!(stream.read(&mut [0; 4096]).await.unwrap() > 0, "everybody comes over a proxy");
        held.push(stream);
    }
    drop(held);
    street.close().await;
}

/// A street behind a proxy that tells who the client is.
async fn throttled(logins: u32) -> TestGateway {
    let server = format!(
        "trusted_proxies = [\"127.0.0.0/8\"]\n[server.limits]\nlogins_per_minute = {logins}"
    );
    TestGateway::open(TestConfig { server, ..TestConfig::site(ROUTES) }).await
}

#[tokio::test]
async fn g7_login_starts_are_counted_by_client() {
    let street = throttled(3).await;
    let mut inside = Visitor::wechat(street.gateway);
    let (_, page) = inside.open("/").await;
    assert_eq!(page.status, 200);
    let statuses = |client: &'static str| {
        let mut visitor = Visitor::wechat(street.gateway);
        async move {
            let mut seen = Vec::new();
            for path in ["/orders", "/_wx/login?rd=/", "/orders", "/orders", "/_wx/login"] {
                seen.push(visitor.send("GET", path, &[("x-forwarded-for", client)], "").await);
            }
            seen
        }
    };
    let seen = statuses("192.0.2.1").await;
    let codes: Vec<u16> = seen.iter().map(|answer| answer.status).collect();
    assert_eq!(codes, [302, 302, 302, 429, 429]);
    let wait: u64 = seen[3].header("retry-after").unwrap().parse().unwrap();
    assert!((15..=21).contains(&wait), "{wait}");
    assert!(seen[3].text.contains("尝试次数太多"), "{}", seen[3].text);
    let other = statuses("2001:db8::1").await;
    assert_eq!(other[2].status, 302, "another client");
    assert_eq!(statuses("2001:db8::ffff").await[0].status, 429, "the same /64");
    // Who is logged in, and who needs no login, does not notice.
    let client = [("x-forwarded-for", "192.0.2.1")];
    for _ in 0..5 {
        assert_eq!(inside.send("GET", "/orders", &client, "").await.status, 200);
        let mut anybody = Visitor::desktop(street.gateway);
        assert_eq!(anybody.send("GET", "/static/a", &client, "").await.status, 200);
    }
    street.close().await;
}

#[tokio::test]
async fn g7_callbacks_are_counted_and_wechat_is_not_asked() {
    let street = throttled(3).await;
    let mut visitor = Visitor::wechat(street.gateway);
    let client = [("x-forwarded-for", "192.0.2.7")];
    let asked = street.calls("/sns/oauth2/access_token").await;
    let mut seen = Vec::new();
    for path in [
        "/_wx/callback?code=a&state=b",
        "/_wx/accept?ticket=a",
        "/_wx/callback",
        "/_wx/callback?code=a&state=b",
        "/_wx/accept?ticket=a",
    ] {
        seen.push(visitor.send("GET", path, &client, "").await.status);
    }
    assert_eq!(seen, [400, 400, 400, 429, 429]);
    assert_eq!(street.calls("/sns/oauth2/access_token").await, asked);
    assert_eq!(street.site.hits(), 0);
    street.close().await;
}

#[tokio::test]
async fn g7_refusals_are_counted() {
    let street = throttled(1).await;
    for (path, first) in [("/static/%2e%2e/a", 400), ("/orders", 401)] {
        let client = if first == 400 { "192.0.2.8" } else { "192.0.2.9" };
        let mut script = Visitor::desktop(street.gateway).script();
        let mut seen = Vec::new();
        for _ in 0..12 {
            let answer = script.send("GET", path, &[("x-forwarded-for", client)], "").await;
            seen.push(answer.status);
        }
        assert_eq!(seen[..10], [first; 10], "{path}");
        assert_eq!(seen[10..], [429; 2], "{path}");
    }
    assert_eq!(street.site.hits(), 0);
    street.close().await;
}

#[tokio::test]
async fn g7_one_login_causes_no_more_than_four_calls() {
    let street = TestGateway::usual().await;
    let mut visitor = Visitor::wechat(street.gateway);
    let away = visitor.get("/orders").await;
    let (_, back) = visitor.follow(&away, "/").await;
    let good = back.location().to_owned();
    let code = url::Url::parse(&good).unwrap();
    let code = code.query_pairs().find(|(name, _)| name == "code").unwrap().1.into_owned();
    let asked = street.calls("/sns/oauth2/access_token").await;
    let mut refused = 0;
    for guess in 0..8 {
        let forged = Answer::redirect(&good.replace(&code, &format!("guess{guess}")));
        let (_, answer) = visitor.clone().follow(&forged, "/").await;
        refused += usize::from(answer.status == 400);
    }
    assert_eq!(refused, 4, "the other four were tried");
    let (_, answer) = visitor.clone().follow(&back, "/").await;
    assert_eq!(answer.status, 400, "that login is over, even for its own code");
    assert!(street.calls("/sns/oauth2/access_token").await - asked <= 4);
    assert_eq!(street.site.hits(), 0);
    // Another one is not.
    let (_, page) = Visitor::wechat(street.gateway).open("/orders").await;
    assert_eq!(page.status, 200);
    street.close().await;
}

#[tokio::test]
async fn g5_who_meets_a_limit_is_counted() {
    let street = limited(
        "header_time = \"1s\"\nheader_bytes = \"16KiB\"\nidle_time = \"2s\"\nbody_size = \"1KiB\"\n\
         body_time = \"1s\"\nsend_time = \"1s\"",
        "",
    )
    .await;
    let admin = street.admin().await;
    let long = "a".repeat(20_000);
    for request in [
        String::new(),
        format!("GET /static/a HTTP/1.1\r\n{H}x-long: {long}\r\n\r\n"),
        format!("GET /static/a HTTP/1.1\r\n{H}\r\n"),
        format!("POST /static/a HTTP/1.1\r\n{H}content-length: 2000\r\n\r\n"),
        format!("POST /static/a HTTP/1.1\r\n{H}content-length: 9\r\n\r\nabc"),
        format!("GET /static/a# HTTP/1.1\r\n{H}\r\n"),
    ] {
        rest(connected(&street, &request).await).await;
    }
    let endless = format!("GET /static/endless HTTP/1.1\r\n{H}\r\n");
    let _held = connected(&street, &endless).await;
    let keys = ["header_time", "header_bytes", "idle_time", "body_size", "body_time", "unreadable"];
    let scrape = "GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    let metrics = timeout(Duration::from_secs(20), async {
        loop {
            let metrics = raw(admin, scrape).await;
            if metrics.contains("{limit=\"send_time\"} 1") {
                return metrics;
            }
            sleep(Duration::from_millis(100)).await;
        }
    });
    let metrics = metrics.await.unwrap();
    for key in keys {
        let line = format!("wxgate_limits_total{{limit=\"{key}\"}} 1");
        assert!(metrics.contains(&line), "no {line} in\n{metrics}");
    }
    street.close().await;
}
