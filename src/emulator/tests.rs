//! The emulator over real sockets, as a gateway and a browser meet it.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use super::{listen::full, *};

/// An emulator that stops with the test.
struct Street {
    addr: SocketAddr,
    server: tokio::task::JoinHandle<()>,
}

impl Drop for Street {
    fn drop(&mut self) {
        self.server.abort();
    }
}

type Headers<'a> = &'a [(&'a str, &'a str)];

/// Method, path, headers, body and the status they deserve.
type OddRow<'a> = (&'a str, &'a str, Headers<'a>, &'a str, u16);

struct Reply {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Reply {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    fn json(&self) -> Value {
        let clean: String = self.text().chars().filter(|letter| !letter.is_control()).collect();
        serde_json::from_str(&clean).unwrap()
    }

    fn code(&self) -> String {
        let (_, rest) = self.header("location").split_once("code=").expect("a code");
        rest.chars().take(32).collect()
    }
}

impl Street {
    async fn new(change: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = Settings::new("127.0.0.1:0".parse().unwrap());
        change(&mut settings);
        let emulator = Emulator::bind(settings).await.unwrap();
        let addr = emulator.addr().unwrap();
        Self { addr, server: tokio::spawn(emulator.serve(std::future::pending())) }
    }

    async fn ask(&self, method: &str, path: &str, headers: Headers<'_>, body: &str) -> Reply {
        let stream = TcpStream::connect(self.addr).await.unwrap();
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let mut request =
            Request::builder().method(method).uri(path).header("host", self.addr.to_string());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(Bytes::from(body.to_owned()))).unwrap();
        let response = sender.send_request(request).await.unwrap();
        let (head, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Reply { status: head.status, headers: head.headers, body }
    }

    async fn get(&self, path: &str) -> Reply {
        self.ask("GET", path, &[], "").await
    }

    async fn fault(&self, json: &str) {
        let reply = self.ask("POST", "/_emulator/faults", &[], json).await;
        assert_eq!(reply.status, StatusCode::OK, "{json}: {}", reply.text());
    }

    async fn exchange(&self, code: &str) -> Reply {
        self.get(&format!(
            "/sns/oauth2/access_token?appid=wx1&secret=s&code={code}&grant_type=authorization_code"
        ))
        .await
    }
}

fn link(scope: &str, callback: &str) -> String {
    let callback = callback.replace(':', "%3A").replace('/', "%2F");
    format!(
        "/connect/oauth2/authorize?appid=wx1&redirect_uri={callback}&response_type=code&scope={scope}&state=S123"
    )
}

fn confirm(link: &str, more: &str) -> String {
    let query =
        link.split_once('?').unwrap().1.replace('%', "%25").replace('&', "%26").replace('=', "%3D");
    format!("/connect/oauth2/confirm?link={query}&{more}")
}

const CB: &str = "http://site.test/cb";

#[tokio::test]
async fn a_silent_login() {
    let street = Street::new(|_| ()).await;
    let reply = street.get(&link("snsapi_base", CB)).await;
    assert_eq!(reply.status, StatusCode::FOUND);
    assert!(reply.header("location").starts_with("http://site.test/cb?code=0"));
    assert!(reply.header("location").ends_with("&state=S123"));
    let tokens = street.exchange(&reply.code()).await;
    assert_eq!((tokens.status, tokens.header("content-type")), (StatusCode::OK, "text/plain"));
    assert_eq!(street.exchange(&reply.code()).await.json()["errcode"], 40163);
    let others = street
        .ask("GET", &link("snsapi_base", CB), &[("cookie", "a=b; wx_emulator_user=hanmeimei")], "")
        .await;
    assert_ne!(street.exchange(&others.code()).await.json()["openid"], tokens.json()["openid"]);
}

#[tokio::test]
async fn a_login_with_consent() {
    let street = Street::new(|_| ()).await;
    let link = link("snsapi_userinfo", CB);
    let sheet = street.get(&link).await;
    assert!(
        sheet.text().contains("获取你的昵称、头像") && sheet.text().contains("拒绝"),
        "{}",
        sheet.text()
    );
    let english = street.ask("GET", &link, &[("accept-language", "en-GB")], "").await;
    assert!(english.text().contains("Access your nickname"));
    let declined = street.get(&confirm(&link, "answer=deny")).await;
    assert_eq!((declined.status, declined.header("location")), (StatusCode::OK, ""));
    let allowed = street.get(&confirm(&link, "answer=allow&user=qiya")).await;
    assert!(allowed.header("set-cookie").starts_with("wx_emulator_user=qiya; Path=/"));
    let tokens = street.exchange(&allowed.code()).await.json();
    let (token, openid) =
        (tokens["access_token"].as_str().unwrap(), tokens["openid"].as_str().unwrap());
    let profile =
        street.get(&format!("/sns/userinfo?access_token={token}&openid={openid}&lang=zh_CN")).await;
    let expected = format!("\"headimgurl\":\"http:\\/\\/{}\\/mmopen\\/qiya\\/132\"", street.addr);
    assert!(
        profile.text().contains(&expected) && profile.text().contains("\u{14}琦娅🍭"),
        "{}",
        profile.text()
    );
    let as_qiya = [("cookie", "wx_emulator_user=qiya")];
    assert_eq!(street.ask("GET", &link, &as_qiya, "").await.status, StatusCode::FOUND);
    assert_eq!(
        street.ask("GET", &format!("{link}&forcePopup=true"), &as_qiya, "").await.status,
        StatusCode::OK
    );
    assert_eq!(street.get(&link).await.status, StatusCode::OK, "the others still have to agree");
}

#[tokio::test]
async fn error_pages() {
    let domains = vec!["site.test".to_owned()];
    let app = App { app_id: "wx1".to_owned(), secret: "s".to_owned(), domains };
    let street = Street::new(|settings| {
        settings.apps = vec![app];
        settings.require_wechat = true;
    })
    .await;
    let good = link("snsapi_base", CB);
    let wechat = ("user-agent", "Mozilla/5.0 MicroMessenger/8.0.50");
    let rows = [
        (good.clone(), vec![], "请在微信客户端打开链接"),
        (good.clone(), vec![wechat, ("sec-fetch-dest", "iframe")], "请在微信客户端打开链接"),
        (link("snsapi_base", "http://site.test:8080/cb"), vec![wechat], "错误码10003"),
        (good.replace("wx1", ""), vec![wechat], "错误码10012"),
        (good.replace("S123", &"x".repeat(129)), vec![wechat], "state参数过长"),
    ];
    for (link, headers, expected) in rows {
        let reply = street.ask("GET", &link, &headers, "").await;
        assert_eq!(reply.status, StatusCode::OK);
        assert!(
            reply.text().contains("微信登录失败") && reply.text().contains(expected),
            "{link} {expected}"
        );
    }
    assert_eq!(street.ask("GET", &good, &[wechat], "").await.status, StatusCode::FOUND);
}

#[tokio::test]
async fn scanning() {
    let street = Street::new(|_| ()).await;
    let link = link("snsapi_login", CB).replace("oauth2/authorize", "qrconnect");
    let page = street.get(&link).await.text();
    assert!(page.contains("<svg") && page.contains("scan-hanmeimei"), "{page}");
    let path = confirm(&link, "answer=allow&user=hanmeimei").replace("oauth2/confirm", "confirm");
    let tokens = street.exchange(&street.get(&path).await.code()).await.json();
    assert_eq!(tokens["scope"], "snsapi_login");
    assert!(tokens["unionid"].is_string());
}

#[tokio::test]
async fn faults_on_the_api() {
    let street = Street::new(|_| ()).await;
    let rows = [
        (r#""errcode":40029"#, 200, r#"{"errcode":40029,"errmsg":"invalid code, rid: "#),
        (r#""errcode":-1"#, 200, r#"{"errcode":-1,"errmsg":"system error, rid: "#),
        (r#""errcode":45011,"http_status":503"#, 503, r#"{"errcode":45011"#),
        (r#""http_status":502"#, 502, "emulated trouble"),
        (r#""garbage":true"#, 200, "{\"access_token\":\"98_\u{fffd}"),
        (r#""snapshot":true"#, 200, "\"is_snapshotuser\":1"),
        (r#""delay_ms":5"#, 200, "\"openid\""),
    ];
    for (fault, status, expected) in rows {
        street.fault(&format!(r#"{{"at":"access_token","times":1,{fault}}}"#)).await;
        let code = street.get(&link("snsapi_base", CB)).await.code();
        let reply = street.exchange(&code).await;
        assert_eq!(reply.status.as_u16(), status, "{fault}");
        assert!(reply.text().contains(expected), "{fault}: {}", reply.text());
        assert_eq!(
            street.exchange(&code).await.json()["errcode"],
            40163,
            "the code is burnt: {fault}"
        );
    }
    street.fault(r#"{"at":"auth","hang":true}"#).await;
    let hanging = street.get("/sns/auth?access_token=x&openid=y");
    assert!(tokio::time::timeout(std::time::Duration::from_millis(50), hanging).await.is_err());
    let cleared = street.ask("DELETE", "/_emulator/faults", &[], "").await;
    assert_eq!(cleared.text(), "[]");
    assert_eq!(street.get("/sns/auth?access_token=x&openid=y").await.json()["errcode"], 40001);
}

#[tokio::test]
async fn faults_on_the_way_back() {
    let street = Street::new(|_| ()).await;
    let link = link("snsapi_base", CB);
    street.fault(r#"{"at":"authorize","decline":true,"times":1}"#).await;
    assert_eq!(street.get(&link).await.header("location"), "http://site.test/cb?state=S123");
    street.fault(r#"{"at":"authorize","snapshot":true,"times":1}"#).await;
    assert_eq!(street.exchange(&street.get(&link).await.code()).await.json()["is_snapshotuser"], 1);
    let userinfo = link.replace("snsapi_base", "snsapi_userinfo");
    street.fault(r#"{"at":"authorize","snapshot":true,"times":1}"#).await;
    let tokens = street.exchange(&street.get(&userinfo).await.code()).await.json();
    assert_eq!(tokens["is_snapshotuser"], 1, "a snapshot page asks nobody");
    street.fault(r#"{"at":"authorize","errcode":10009,"times":1}"#).await;
    assert!(street.get(&link).await.text().contains("操作太频繁了"));
    street.fault(r#"{"at":"authorize","two_codes":true,"times":1}"#).await;
    let page = street.get(&link).await;
    let both: Vec<_> = page.headers.get_all("x-emulator-callback").iter().collect();
    assert!(both.len() == 2 && both[0] != both[1], "{both:?}");
    assert_eq!(street.get(&link).await.status, StatusCode::FOUND, "and then all is well");
}

#[tokio::test]
async fn wechat_calls_at_the_site() {
    let site = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let site_addr = site.local_addr().unwrap();
    let (visits, mut visited) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(listen::serve(site, std::future::pending(), move |request: Request<Incoming>| {
        let text = if request.uri().path() == "/MP_verify_x.txt" { "x\n" } else { "" };
        visits.send((request.uri().to_string(), request.headers().clone())).unwrap();
        async move { http::Response::new(full(text)) }
    }));
    let street = Street::new(|_| ()).await;
    street.fault(r#"{"at":"authorize","duplicate_callback":true,"times":1}"#).await;
    let reply = street.get(&link("snsapi_base", &format!("http://{site_addr}/cb"))).await;
    let (uri, headers) = visited.recv().await.unwrap();
    assert!(reply.header("location").ends_with(&uri), "{uri}");
    assert!(headers["user-agent"].to_str().unwrap().contains("MicroMessenger"));
    assert!(headers.get("cookie").is_none());
    let rows =
        [("x", "MP_verify_x.txt", true), ("y", "MP_verify_x.txt", false), ("x", "nothing", false)];
    for (expect, path, ok) in rows {
        let order = format!(r#"{{"url":"http://{site_addr}/{path}","expect":"{expect}"}}"#);
        let verdict = street.ask("POST", "/_emulator/verify", &[], &order).await.json();
        assert_eq!(verdict["ok"], ok, "{order}: {verdict}");
    }
}

#[tokio::test]
async fn calls_are_listed_without_secrets() {
    let street = Street::new(|_| ()).await;
    let code = street.get(&link("snsapi_base", CB)).await.code();
    street.get(&format!("/sns/oauth2/access_token?appid=wx1&secret=hush&code={code}")).await;
    let body = r#"{"grant_type":"client_credential","appid":"wx1","secret":"hush"}"#;
    street.ask("POST", "/cgi-bin/stable_token", &[], body).await;
    let list = street.get("/_emulator/requests").await;
    assert!(!list.text().contains("hush"), "{}", list.text());
    let list = list.json();
    assert_eq!(list[0]["note"], "snsapi_base granted by lilei");
    assert_eq!(
        (&list[1]["errcode"], &list[1]["query"]["secret"]),
        (&Value::from(40002), &Value::from("***"))
    );
    assert_eq!(
        (&list[2]["method"], &list[2]["query"]["appid"]),
        (&Value::from("POST"), &Value::from("wx1"))
    );
    assert!(street.get("/").await.text().contains("最近的请求"));
    assert_eq!(street.ask("DELETE", "/_emulator/requests", &[], "").await.text(), "[]");
}

#[tokio::test]
async fn odd_requests() {
    let street = Street::new(|_| ()).await;
    let big = "x".repeat(70_000);
    let far = [("sec-fetch-site", "cross-site")];
    let rows: [OddRow<'_>; 10] = [
        ("GET", "/nowhere", &[], "", 404),
        ("PUT", "/_emulator/faults", &[], "", 405),
        ("POST", "/_emulator/faults", &[], "{", 400),
        ("POST", "/_emulator/faults", &far, r#"{"at":"auth","hang":true}"#, 403),
        ("POST", "/cgi-bin/stable_token", &[], &big, 413),
        ("POST", "/cgi-bin/stable_token", &[], "\u{14}", 200),
        ("GET", "/connect/oauth2/confirm?link=%ff%26&user=%00", &[], "", 200),
        ("GET", "/_emulator/become?user=nobody", &[], "", 404),
        ("GET", "/_emulator/become?user=lilei&back=//evil.test/", &[], "", 302),
        ("GET", "/mmopen/../../x", &[("cookie", "wx_emulator_user=\u{e9}")], "", 200),
    ];
    for (method, path, headers, body, status) in rows {
        let reply = street.ask(method, path, headers, body).await;
        assert_eq!(reply.status.as_u16(), status, "{method} {path}");
        assert!(!reply.header("location").contains("evil"), "{path}");
    }
}

#[tokio::test]
async fn stopping_ends_what_hangs() {
    let settings = Settings::new("127.0.0.1:0".parse().unwrap());
    let emulator = Emulator::bind(settings).await.unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let addr = emulator.addr().unwrap();
    let server = tokio::spawn(emulator.serve(async { drop(stopped.await) }));
    let street = Street { addr, server: tokio::spawn(std::future::pending()) };
    street.fault(r#"{"at":"auth","hang":true}"#).await;
    let mut stream = TcpStream::connect(addr).await.unwrap();
    stream.write_all(b"GET /sns/auth HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    drop(stop);
    server.await.unwrap();
    assert!(stream.read_u8().await.is_err(), "no answer, and no connection either");
}
