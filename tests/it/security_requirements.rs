//! Requirements of `deploy/SECURITY.md` that need a site or a WeChat of a special kind.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::oneshot,
};

use crate::{
    harness::{ROUTES, TestConfig, TestGateway},
    visitor::{Visitor, raw},
};

/// A server that is one function, for one connection.
async fn once<F: Future<Output = ()> + Send + 'static>(
    serve: impl FnOnce(TcpStream) -> F + Send + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { serve(listener.accept().await.unwrap().0).await });
    address
}

/// Reads until the bytes end so.
async fn read_to(stream: &mut TcpStream, end: &[u8]) -> String {
    let mut seen = Vec::new();
    while !seen.ends_with(end) {
        let mut buffer = [0; 1024];
        let count = stream.read(&mut buffer).await.unwrap();
        assert!(count > 0, "it ended early: {}", String::from_utf8_lossy(&seen));
        seen.extend_from_slice(&buffer[..count]);
    }
    String::from_utf8(seen).unwrap()
}

#[tokio::test]
async fn a2_neither_query_nor_fragment_is_part_of_a_match() {
    let street = TestGateway::usual().await;
    for target in [
        "/orders?/static/a",
        "/orders?a=/../static/a",
        "/orders#/static/a",
        "/orders?#/static/a",
        "/orders%3f/static/a",
        "/orders%23/static/a",
    ] {
        let request = format!(
            "GET {target} HTTP/1.1\r\nhost: h5.example.com\r\nconnection: close\r\naccept: */*\r\n\r\n"
        );
        let answer = raw(street.gateway, &request).await;
        let status = &answer[9..12];
        assert!(["400", "401"].contains(&status), "{target}: {answer}");
    }
    assert_eq!(street.site.hits(), 0);
    let mut visitor = Visitor::desktop(street.gateway);
    let page = visitor.get("/static/%23?/orders").await;
    assert!(page.text.starts_with("GET /static/%23?/orders HTTP/1.1\r\n"), "{}", page.text);
    street.close().await;
}

#[tokio::test]
async fn a3_the_site_sees_the_path_that_was_judged_byte_for_byte() {
    let street = TestGateway::usual().await;
    let mut visitor = Visitor::desktop(street.gateway);
    for target in [
        "/static/",
        "/static/a?",
        "/static/a?x=%2e%2e%2f&y=//",
        "/static/%E4%B8%AD%e6%96%87",
        "/static/%40@:$!~",
        "/static/100%25",
        "/static/a+b%20c",
        "/static/a;jsessionid=1",
    ] {
        let page = visitor.get(target).await;
        assert!(page.text.starts_with(&format!("GET {target} HTTP/1.1\r\n")), "{}", page.text);
    }
    street.close().await;
}

#[tokio::test]
async fn b6_trailers_end_here() {
    let (tell, told) = oneshot::channel();
    let site = once(|mut stream| async move {
        tell.send(read_to(&mut stream, b"0\r\n\r\n").await).unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
    })
    .await;
    let upstream = Some(format!("\"http://{site}\""));
    let street = TestGateway::open(TestConfig { upstream, ..TestConfig::site(ROUTES) }).await;
    let request = "POST /static/a HTTP/1.1\r\nhost: h5.example.com\r\nconnection: close\r\n\
                   te: trailers\r\ntrailer: X-WeChat-OpenId\r\ntransfer-encoding: chunked\r\n\r\n\
                   3\r\nabc\r\n0\r\nX-WeChat-OpenId: forged\r\nX-Forwarded-For: 6.6.6.6\r\n\r\n";
    let answer = raw(street.gateway, request).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let seen = told.await.unwrap().to_ascii_lowercase();
    assert!(seen.ends_with("\r\n\r\n3\r\nabc\r\n0\r\n\r\n"), "{seen}");
    assert!(!seen.contains("forged") && !seen.contains("6.6.6.6"), "{seen}");
    street.close().await;
}

#[tokio::test]
async fn d4_the_way_back_comes_from_the_configuration() {
    let street = TestGateway::usual().await;
    for host in ["h5.example.com", "H5.EXAMPLE.COM", "h5.example.com:4711", "h5.example.com."] {
        let request = format!(
            "GET /orders HTTP/1.1\r\nhost: {host}\r\nx-forwarded-host: evil.example\r\n\
             x-forwarded-proto: https\r\nforwarded: host=evil.example\r\nx-original-url: //evil.example\r\n\
             user-agent: {}\r\naccept: text/html\r\nconnection: close\r\n\r\n",
            crate::visitor::WECHAT
        );
        let answer = raw(street.gateway, &request).await;
        let back = "&redirect_uri=http%3A%2F%2Fh5.example.com%2F_wx%2Fcallback%3Frd%3D";
        assert!(answer.starts_with("HTTP/1.1 302") && answer.contains(back), "{host}: {answer}");
        assert!(!answer.contains("evil.example"), "{host}: {answer}");
    }
    street.close().await;
}

#[tokio::test]
async fn e5_two_visitors_with_one_code_never_share_what_it_brings() {
    let street = TestGateway::usual().await;
    for _ in 0..10 {
        let mut both = [Visitor::wechat(street.gateway), Visitor::wechat(street.gateway)];
        let mut states = Vec::new();
        let mut code = String::new();
        for visitor in &mut both {
            let away = visitor.get("/orders").await;
            let (_, back) = visitor.follow(&away, "/").await;
            let url = url::Url::parse(back.location()).unwrap();
            let field = |wanted: &str| {
                url.query_pairs().find(|(name, _)| name == wanted).unwrap().1.into_owned()
            };
            states.push(field("state"));
            code = field("code");
        }
        let [mut first, mut second] = both;
        let callback = |state: &str| format!("/_wx/callback?code={code}&state={state}");
        let (one, two) = (callback(&states[0]), callback(&states[1]));
        let _ = tokio::join!(first.get(&one), second.get(&two));
        let inside = [first, second].iter().filter(|visitor| visitor.has_session()).count();
        assert_eq!(inside, 1, "one code is one session");
    }
    street.close().await;
}

#[tokio::test]
async fn e6_an_answer_without_end_is_cut_off() {
    let sent = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&sent);
    let wechat = once(|mut stream| async move {
        let _ = read_to(&mut stream, b"\r\n\r\n").await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{\"a\":\"").await;
        while stream.write_all(&[b'a'; 8192]).await.is_ok() {
            counted.fetch_add(8192, Ordering::Relaxed);
        }
    })
    .await;
    let street = TestGateway::open(TestConfig::site(ROUTES).unreachable(wechat)).await;
    let mut visitor = Visitor::wechat(street.gateway);
    let away = visitor.get("/orders").await;
    let state = away.location().split("&state=").nth(1).unwrap().split(['&', '#']).next().unwrap();
    let answer = visitor.get(&format!("/_wx/callback?code=abc&state={state}")).await;
    assert!([502, 503].contains(&answer.status), "{answer:?}");
    assert!(!visitor.has_session());
    // What fits the buffers of two sockets, and no more than that.
    assert!(sent.load(Ordering::Relaxed) < 16 << 20, "{sent:?} bytes were taken");
    street.close().await;
}

#[tokio::test]
async fn f4_a_cookie_that_was_good_elsewhere_a_moment_ago_is_not_good_here() {
    let more = "[[site]]\nhosts = [\"b.example.com\"]\npublic_url = \"http://b.example.com\"\n\
                account = \"main\"\nupstream = [\"http://127.0.0.1:1\"]";
    let plan = TestConfig { more: more.to_owned(), ..TestConfig::site(ROUTES) };
    let street = TestGateway::open(plan).await;
    let mut visitor = Visitor::wechat(street.gateway);
    let _ = visitor.open("/").await;
    // Every worker has seen it verify.
    for _ in 0..8 {
        assert_eq!(visitor.get("/orders").await.status, 200);
    }
    let cookie = format!("wxgate={}", visitor.cookie("wxgate"));
    let mut there = Visitor { host: "b.example.com", ..Visitor::wechat(street.gateway) };
    for _ in 0..8 {
        let answer = there.send("GET", "/orders", &[("cookie", &cookie)], "").await;
        assert_eq!(answer.status, 302, "{answer:?}");
    }
    street.close().await;
}

/// Whatever room there is for verified cookies, and while a reload changes it: each session is judged
/// on every request.
#[tokio::test]
async fn f4_sessions_are_judged_alike_with_every_size_of_the_cache() {
    let key = crate::harness::KEY;
    let plan = |size: &str| TestConfig {
        session: format!("keys = [{{ id = \"k1\", secret = \"{key}\" }}]\n{size}"),
        ..TestConfig::site(ROUTES)
    };
    let street = TestGateway::open(plan("")).await;
    let mut stays = Visitor::wechat(street.gateway);
    assert_eq!(stays.open("/orders").await.1.status, 200);
    for size in ["0", "1B", "2KiB", "64KiB", "64MiB", "0"] {
        street.reload(&plan(&format!("verified_cache = \"{size}\"")));
        let mut visitors = Vec::new();
        for _ in 0..4 {
            let mut visitor = Visitor::wechat(street.gateway);
            assert_eq!(visitor.open("/orders").await.1.status, 200, "{size}");
            visitors.push(visitor);
        }
        visitors.push(stays.clone());
        for round in 0..4 {
            for visitor in &mut visitors {
                let page = visitor.get("/orders").await;
                let known = page.received("x-wechat-openid").len();
                assert_eq!((page.status, known), (200, 1), "{size}, round {round}");
            }
        }
        let mut leaves = visitors.remove(0);
        let captured = leaves.clone();
        let origin = [("origin", "http://h5.example.com")];
        assert_eq!(leaves.send("POST", "/_wx/logout", &origin, "").await.status, 200, "{size}");
        let hits = street.site.hits();
        for _ in 0..4 {
            assert_eq!(captured.clone().get("/orders").await.status, 302, "{size}");
        }
        assert_eq!(street.site.hits(), hits, "{size}: the site hears nothing of it");
    }
    street.close().await;
}
