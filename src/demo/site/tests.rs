//! The sample site over a real socket.

use http_body_util::{BodyExt as _, Empty};
use hyper::{body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::*;

type Headers<'a> = &'a [(&'a str, &'a str)];
/// Path, headers, status and words on the page.
type Row<'a> = (&'a str, Headers<'a>, u16, &'a [&'a str]);

async fn get(addr: SocketAddr, path: &str, headers: Headers<'_>) -> Response<Incoming> {
    let stream = TcpStream::connect(addr).await.unwrap();
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let mut request = Request::get(path).header("host", "shop.test");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    sender.send_request(request.body(Empty::<Bytes>::new()).unwrap()).await.unwrap()
}

async fn open() -> SocketAddr {
    let site = SampleSite::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let addr = site.addr().unwrap();
    tokio::spawn(site.serve(std::future::pending()));
    addr
}

#[tokio::test]
async fn pages_show_who_is_there() {
    let addr = open().await;
    let known = [
        ("x-wechat-openid", "oLiLei<b>"),
        ("x-wechat-nickname", "%E6%9D%8E%E9%9B%B7"),
        ("x-wechat-avatar", "https://thirdwx.qlogo.cn/1/132"),
        ("x-request-id", "r-1"),
    ];
    let english = [("accept-language", "en")];
    let rows: [Row<'_>; 9] = [
        ("/", &[], 200, &["访客", "/orders", "/static/hello"]),
        ("/", &english, 200, &["Guest", "Sign in"]),
        ("/", &known, 200, &["李雷", "oLiLei&lt;b&gt;", "thirdwx.qlogo.cn", "X-Request-Id"]),
        ("/static/hello", &known, 200, &["公开"]),
        ("/orders", &known, 200, &["oLiLei&lt;b&gt;"]),
        ("/member", &known, 200, &["李雷"]),
        ("/member", &english, 200, &["Member"]),
        ("/api/me", &known, 200, &["\"nickname\":\"李雷\"", "\"unionid\":null"]),
        ("/nowhere", &[], 404, &["访客"]),
    ];
    for (path, headers, status, words) in rows {
        let response = get(addr, path, headers).await;
        assert_eq!(response.status().as_u16(), status, "{path}");
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let body = String::from_utf8(body.to_vec()).unwrap();
        for word in words {
            assert!(body.contains(word), "{path} lacks {word}: {body}");
        }
    }
}

#[tokio::test]
async fn events_come_one_by_one() {
    let mut response = get(open().await, "/events", &[]).await;
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let first = response.body_mut().frame().await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(first, "id: 1\ndata: 1/30\n\n");
}

#[tokio::test]
async fn echoes() {
    use futures_util::{SinkExt as _, StreamExt as _};
    let addr = open().await;
    let stream = TcpStream::connect(addr).await.unwrap();
    let (mut socket, _) =
        tokio_tungstenite::client_async(format!("ws://{addr}/ws"), stream).await.unwrap();
    for text in ["你好", &"x".repeat(60_000)] {
        socket.send(text.into()).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap().into_text().unwrap(), text);
    }
    assert_eq!(get(addr, "/ws", &[]).await.status(), StatusCode::UPGRADE_REQUIRED);
}
