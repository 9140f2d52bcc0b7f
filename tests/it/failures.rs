//! What goes wrong around a gateway, and what the visitor sees of it.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};

use crate::{
    harness::{ROUTES, TestConfig, TestGateway},
    visitor::{Visitor, raw},
};

#[tokio::test]
async fn a_site_that_fails_is_reported_clearly() {
    let street =
        TestGateway::open(TestConfig::site(&format!("response_timeout = \"1s\"\n{ROUTES}"))).await;
    let cases = [
        ("/static/hangup", 502),
        ("/static/garbage", 502),
        ("/static/switch", 502),
        ("/static/never", 504),
    ];
    for (path, status) in cases {
        let mut visitor = Visitor::desktop(street.gateway);
        let page = visitor.get(path).await;
        assert_eq!(page.status, status, "{path}");
        assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"), "{path}");
        let json = visitor.script().get(path).await;
        assert_eq!(json.header("content-type"), Some("application/json; charset=utf-8"), "{path}");
        assert!(json.text.contains("\"trace\":\""), "{path}: {}", json.text);
    }
    let mut visitor = Visitor::desktop(street.gateway);
    assert_eq!(visitor.get("/static/close").await.text, "bye");
    assert_eq!(visitor.get("/static/a").await.status, 200, "and the next request is served");
    street.close().await;
}

#[tokio::test]
async fn a_site_that_is_down_is_a_502_and_comes_back() {
    let unused = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = unused.local_addr().unwrap();
    drop(unused);
    let plan =
        TestConfig { upstream: Some(format!("\"http://{addr}\"")), ..TestConfig::site(ROUTES) };
    let street = TestGateway::open(plan).await;
    let mut visitor = Visitor::desktop(street.gateway);
    let page = visitor.get("/static/a").await;
    assert_eq!(page.status, 502);
    assert!(page.text.contains("lang=\"zh-CN\""));
    let back = TcpListener::bind(addr).await.unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = back.accept().await.unwrap();
        let mut buffer = [0; 4096];
        let _ = stream.read(&mut buffer).await.unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nup").await.unwrap();
    });
    assert_eq!(visitor.get("/static/a").await.text, "up");
    street.close().await;
}

#[tokio::test]
async fn wechat_failing_leaves_sessions_alone_and_gives_logins_a_page() {
    let street = TestGateway::usual().await;
    let mut inside = Visitor::wechat(street.gateway);
    let _ = inside.open("/").await;
    let cases = [
        (r#"{"at":"access_token","errcode":45011,"times":1}"#, 503),
        (r#"{"at":"access_token","errcode":40125,"times":1}"#, 502),
        (r#"{"at":"access_token","errcode":50002,"times":1}"#, 403),
        (r#"{"at":"access_token","garbage":true,"times":1}"#, 502),
        (r#"{"at":"access_token","http_status":500,"times":1}"#, 503),
        (r#"{"at":"access_token","hang":true,"times":1}"#, 503),
    ];
    for (fault, status) in cases {
        street.fault(fault).await;
        let mut visitor = Visitor::wechat(street.gateway);
        let (_, page) = visitor.open("/orders").await;
        assert_eq!(page.status, status, "{fault}");
        assert!(page.links_to("/_wx/login?rd=/orders"), "{fault}: a button");
        assert_eq!(page.header("retry-after").is_some(), status == 503, "{fault}");
        assert!(!page.text.contains("secret-of-wx1"), "G4");
        assert!(!visitor.has_session());
        assert_eq!(inside.get("/orders").await.status, 200, "{fault}: good sessions go on");
    }
    street.close().await;
}

#[tokio::test]
async fn wechat_out_of_reach_is_a_503_and_the_code_is_tried_again() {
    let nobody: SocketAddr = "127.0.0.1:1".parse().unwrap();
    let street = TestGateway::usual().await;
    let mut visitor = Visitor::wechat(street.gateway);
    let away = visitor.get("/orders").await;
    let (_, back) = visitor.follow(&away, "/").await;
    street.reload(
        &TestConfig { more: String::new(), ..TestConfig::site(ROUTES) }.unreachable(nobody),
    );
    let (_, page) = visitor.follow(&back, "/").await;
    assert_eq!((page.status, page.header("retry-after")), (503, Some("5")));
    street.reload(&TestConfig::site(ROUTES));
    let (_, welcome) = visitor.follow(&back, "/").await;
    assert_eq!(welcome.location(), "/orders", "nothing was lost");
    street.close().await;
}

#[tokio::test]
async fn a_profile_that_fails_still_lets_the_visitor_in() {
    let street = TestGateway::open(TestConfig::site(ROUTES)).await;
    street.fault(r#"{"at":"userinfo","http_status":500}"#).await;
    let mut visitor = Visitor::wechat(street.gateway);
    let (_, page) = visitor.open("/orders").await;
    assert_eq!(page.status, 200);
    street.close().await;
}

#[tokio::test]
async fn oversized_requests_are_refused() {
    let plan = TestConfig {
        server:
            "[server.limits]\nheader_bytes = \"16KiB\"\nheader_count = 60\nbody_size = \"1KiB\""
                .to_owned(),
        ..TestConfig::site(ROUTES)
    };
    let street = TestGateway::open(plan).await;
    let head = |more: &str| {
        format!("GET /static/a HTTP/1.1\r\nhost: h5.example.com\r\nconnection: close\r\n{more}\r\n")
    };
    let long = raw(street.gateway, &head(&format!("x-long: {}\r\n", "a".repeat(20_000)))).await;
    assert!(long.starts_with("HTTP/1.1 431"), "{long}");
    let many: Vec<String> = (0..80).map(|number| format!("x-{number}: 1\r\n")).collect();
    let many = raw(street.gateway, &head(&many.concat())).await;
    assert!(many.starts_with("HTTP/1.1 431"), "{many}");
    assert_eq!(street.site.hits(), 0);

    let mut visitor = Visitor::desktop(street.gateway);
    assert_eq!(visitor.send("POST", "/static/a", &[], &"a".repeat(1024)).await.status, 200);
    let hits = street.site.hits();
    assert_eq!(visitor.send("POST", "/static/a", &[], &"a".repeat(1025)).await.status, 413);
    assert_eq!(street.site.hits(), hits);
    let chunk = format!("400\r\n{}\r\n", "a".repeat(1024));
    let chunked = format!(
        "POST /static/a HTTP/1.1\r\nhost: h5.example.com\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n{chunk}{chunk}0\r\n\r\n"
    );
    let answer = raw(street.gateway, &chunked).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    street.close().await;
}

#[tokio::test]
async fn a_client_that_says_nothing_is_let_go() {
    let plan = TestConfig {
        server: "[server.limits]\nheader_time = \"1s\"\nidle_time = \"2s\"".to_owned(),
        ..TestConfig::site(ROUTES)
    };
    let street = TestGateway::open(plan).await;
    let mut silent = TcpStream::connect(street.gateway).await.unwrap();
    let mut slow = TcpStream::connect(street.gateway).await.unwrap();
    slow.write_all(b"GET /static/a HTTP/1.1\r\nhost: h5").await.unwrap();
    let mut buffer = [0; 64];
    for stream in [&mut silent, &mut slow] {
        let ended = timeout(Duration::from_secs(5), stream.read(&mut buffer)).await;
        assert!(ended.is_ok(), "still open");
    }
    street.close().await;
}

#[tokio::test]
async fn a_drain_lets_the_request_under_way_finish() {
    let mut street = TestGateway::usual().await;
    let mut stream = TcpStream::connect(street.gateway).await.unwrap();
    stream
        .write_all(
            b"POST /static/slow HTTP/1.1\r\nhost: h5.example.com\r\ncontent-length: 4\r\n\r\nab",
        )
        .await
        .unwrap();
    while street.site.hits() == 0 {
        tokio::task::yield_now().await;
    }
    street.begin_to_close();
    stream.write_all(b"cd").await.unwrap();
    let mut answer = String::new();
    timeout(Duration::from_secs(5), stream.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("abcd"), "{answer}");
    street.close().await;
}
