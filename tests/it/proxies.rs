//! The recipes of `deploy/proxies/`, run by the real programs, each with the same checks.

use std::{
    net::{SocketAddr, TcpListener},
    path::Path,
    process::Stdio,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use tokio::process::{Child, Command};
use wxgate::clock::{self, Timestamp};

use crate::{
    harness::{Plan, ROUTES, Street},
    visitor::{Answer, Visitor, raw},
};

/// A proxy by our recipe, in front of a street.
struct Proxy {
    street: Street,
    addr: SocketAddr,
    child: Child,
    /// Whether the program cannot remove headers by pattern before it asks.
    refuses_forgeries: bool,
    _folder: tempfile::TempDir,
}

fn recipe(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/proxies").join(name);
    std::fs::read_to_string(path).unwrap()
}

/// A place where nobody listens yet.
fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// Replaces what an operator replaces, and only where it is there.
fn adapted(text: &str, changes: &[(&str, &str)]) -> String {
    changes.iter().fold(text.to_owned(), |text, (from, to)| {
        assert!(text.contains(from), "the recipe has no {from}");
        text.replace(from, to)
    })
}

fn nginx(street: &Street, folder: &Path, addr: SocketAddr) -> Command {
    let certificates: String = recipe("nginx.conf")
        .lines()
        .filter(|line| !line.trim_start().starts_with("ssl_"))
        .fold(String::new(), |text, line| text + line + "\n");
    let server = adapted(
        &certificates,
        &[
            ("127.0.0.1:8080", &street.gateway.to_string()),
            ("127.0.0.1:8000", &street.site.addr.to_string()),
            ("listen 443 ssl http2;", &format!("listen {addr};")),
        ],
    );
    let temp = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path {}/{kind};\n", folder.display()))
        .concat();
    let main = format!(
        "daemon off;\nmaster_process off;\npid {0}/pid;\nerror_log stderr;\nevents {{}}\nhttp {{\naccess_log off;\n{temp}\n{server}\n}}\n",
        folder.display()
    );
    std::fs::write(folder.join("nginx.conf"), main).unwrap();
    let mut command = Command::new("nginx");
    command.arg("-p").arg(folder).arg("-c").arg(folder.join("nginx.conf")).args(["-e", "stderr"]);
    command
}

fn caddy(street: &Street, folder: &Path, addr: SocketAddr) -> Command {
    let site = adapted(
        &recipe("Caddyfile"),
        &[
            ("127.0.0.1:8080", &street.gateway.to_string()),
            ("127.0.0.1:8000", &street.site.addr.to_string()),
            (
                "\nh5.example.com {",
                &format!("\nhttp://h5.example.com:{} {{\n\tbind 127.0.0.1", addr.port()),
            ),
        ],
    );
    let text = format!("{{\n\tadmin off\n\tauto_https off\n}}\n{site}");
    std::fs::write(folder.join("Caddyfile"), text).unwrap();
    let mut command = Command::new("caddy");
    command.args(["run", "--adapter", "caddyfile", "--config"]).arg(folder.join("Caddyfile"));
    command.env("XDG_DATA_HOME", folder).env("XDG_CONFIG_HOME", folder);
    command
}

fn haproxy(street: &Street, folder: &Path, addr: SocketAddr) -> Command {
    let gateway = street.gateway.to_string();
    let lua = adapted(&recipe("wxgate.lua"), &[("127.0.0.1:8080", &gateway)]);
    std::fs::write(folder.join("wxgate.lua"), lua).unwrap();
    let text = adapted(
        &recipe("haproxy.cfg"),
        &[
            ("127.0.0.1:8080", &gateway),
            ("127.0.0.1:8000", &street.site.addr.to_string()),
            ("/etc/haproxy/wxgate.lua", folder.join("wxgate.lua").to_str().unwrap()),
            (
                "bind :443 ssl crt /etc/haproxy/h5.example.com.pem alpn h2,http/1.1",
                &format!("bind {addr}"),
            ),
        ],
    );
    std::fs::write(folder.join("haproxy.cfg"), text).unwrap();
    let mut command = Command::new("haproxy");
    command.arg("-db").arg("-f").arg(folder.join("haproxy.cfg"));
    command
}

fn plan(clock: clock::Clock) -> Plan {
    let server = "trusted_proxies = [\"127.0.0.1/32\"]".to_owned();
    let site = format!("[site.headers]\nassertion = true\n{ROUTES}");
    Plan { server, clock, ..Plan::site(&site) }
}

impl Proxy {
    async fn start(program: &str, clock: clock::Clock) -> Self {
        let street = Street::open(plan(clock)).await;
        let (folder, addr) = (tempfile::tempdir().unwrap(), free());
        let mut command = match program {
            "nginx" => nginx(&street, folder.path(), addr),
            "caddy" => caddy(&street, folder.path(), addr),
            _ => haproxy(&street, folder.path(), addr),
        };
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let mut child = command.kill_on_drop(true).spawn().unwrap_or_else(|why| {
            panic!("{program} does not start, see tests/tools.sh: {why}");
        });
        for _ in 0..200 {
            if tokio::net::TcpStream::connect(addr).await.is_ok() {
                let refuses_forgeries = program == "nginx";
                return Self { street, addr, child, refuses_forgeries, _folder: folder };
            }
            if child.try_wait().unwrap().is_some() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!(
            "{program} is not there: {}",
            std::fs::read_to_string(folder.path().join("log")).unwrap()
        );
    }

    fn hits(&self) -> usize {
        self.street.site.hits()
    }

    fn phone(&self) -> Visitor {
        Visitor::wechat(self.addr)
    }

    fn desktop(&self) -> Visitor {
        Visitor::desktop(self.addr)
    }

    /// Sends what no polite client sends.
    async fn raw(&self, target: &str, more: &str) -> Answer {
        let request = format!(
            "GET {target} HTTP/1.1\r\nhost: h5.example.com\r\naccept: text/html\r\nuser-agent: {}\r\nconnection: close\r\n{more}\r\n",
            crate::visitor::WECHAT
        );
        Answer::parse(&raw(self.addr, &request).await)
    }
}

/// Everything that a visitor can do, in front of one proxy.
async fn checks(proxy: &Proxy) -> Visitor {
    let phone = the_login_returns_to_the_page(proxy).await;
    strangers_are_refused_and_told(proxy).await;
    only_the_gateway_says_who_it_is(proxy, &phone).await;
    tricks_open_no_door(proxy).await;
    the_gateway_itself_is_reached(proxy).await;
    a_button_comes_before_consent(proxy).await;
    bodies_and_websockets_pass(proxy, &phone).await;
    phone
}

async fn the_login_returns_to_the_page(proxy: &Proxy) -> Visitor {
    let mut phone = proxy.phone();
    let first = phone.get("/orders?x=1&y=%2F&z=%E4%B8%AD").await;
    assert_eq!((first.status, proxy.hits()), (302, 0), "{first:?}");
    let expected =
        "http://h5.example.com/_wx/login?rd=/orders%3Fx%3D1%26y%3D%252F%26z%3D%25E4%25B8%25AD";
    assert_eq!(first.location(), expected);
    let (at, page) = phone.open("/orders?x=1&y=%2F&z=%E4%B8%AD").await;
    assert_eq!((at.as_str(), page.status), ("/orders?x=1&y=%2F&z=%E4%B8%AD", 200), "{page:?}");
    assert!(page.text.starts_with("GET /orders?x=1&y=%2F&z=%E4%B8%AD HTTP/1.1"), "{}", page.text);
    assert_eq!(page.received("host"), ["h5.example.com"]);
    let session = phone.script().get("/_wx/session").await;
    assert!(session.text.contains(page.received("x-wechat-openid")[0]), "{}", session.text);
    assert_eq!(page.received("x-wechat-appid"), ["wx1"]);
    assert_eq!(page.received("x-wechat-account"), ["main"]);
    assert_eq!(page.received("x-wechat-scope"), ["snsapi_base"]);
    assert_eq!(page.received("x-wechat-session")[0].len(), 32);
    assert_eq!(page.received("x-wechat-auth-time").len(), 1);
    assert_eq!(page.received("x-wechat-assertion")[0].split('.').count(), 3);
    phone
}

async fn strangers_are_refused_and_told(proxy: &Proxy) {
    let hits = proxy.hits();
    let script = proxy.phone().script().get("/api/cart?x=1").await;
    assert_eq!(script.status, 401, "{script:?}");
    assert_eq!(
        script.text.trim(),
        r#"{"error":"login_required","login_url":"http://h5.example.com/_wx/login?rd=/api/cart%3Fx%3D1"}"#
    );
    let form = proxy.phone().send("POST", "/orders", &[], "a=1").await;
    assert_eq!(form.status, 401, "{form:?}");
    assert!(form.text.contains("login_required"), "{form:?}");
    let mut desk = proxy.desktop();
    let away = desk.get("/orders").await;
    assert_eq!(away.status, 302);
    let (_, code) = desk.follow(&away, "/").await;
    assert!(code.text.contains("<svg"), "{}", code.text);
    assert_eq!(proxy.hits(), hits, "G3");
    // An unknown host.
    let request = "GET /static/a HTTP/1.1\r\nhost: other.example.com\r\nconnection: close\r\n\r\n";
    let _ = raw(proxy.addr, request).await;
    assert_eq!(proxy.hits(), hits, "A4");
    // And what needs no login.
    for path in ["/static/a.js", "/news/today"] {
        let page = proxy.desktop().get(path).await;
        assert_eq!(page.status, 200, "{path}: {page:?}");
        let told = |name: &str| page.received(name).concat();
        assert_eq!(told("x-wechat-openid") + &told("x-wechat-assertion"), "", "{path}");
    }
}

const FORGED: [&str; 17] = [
    "X-WeChat-OpenId",
    "x_wechat_openid",
    "X-WeChat_OpenId",
    "X_WeChat-OpenId",
    "X.WeChat.OpenId",
    "x-wechat-unionid",
    "X-WeChat-Nickname",
    "X-WeChat-Snapshot",
    "X-WeChat-Assertion",
    "X-WX-OPENID",
    "X-WeChat-OpenId-Pay",
    "X-Original-URL",
    "X-Rewrite-URL",
    "X-Forwarded-Host",
    "X-Forwarded-Prefix",
    "Forwarded",
    "X-Real-IP",
];

async fn only_the_gateway_says_who_it_is(proxy: &Proxy, phone: &Visitor) {
    let mut forged: Vec<(&str, &str)> = FORGED.iter().map(|name| (*name, "forged")).collect();
    forged.push(("cookie", "a=1; b=2; c=3"));
    let mut phone = phone.clone();
    let openid = phone.get("/orders").await.received("x-wechat-openid")[0].to_owned();
    for (mut visitor, path, known) in [
        (proxy.desktop(), "/static/a", false),
        (proxy.desktop(), "/news/a", false),
        (phone.clone(), "/static/a", false),
        (phone.clone(), "/news/a", true),
        (phone.clone(), "/orders", true),
    ] {
        for (name, value) in &forged {
            let answer = visitor.send("GET", path, &[(name, value)], "").await;
            assert!(!answer.text.contains("forged"), "{path} {name}: {}", answer.text);
            let told = answer.received("x-wechat-openid").concat();
            let expected = if known && answer.status == 200 { openid.as_str() } else { "" };
            assert_eq!(told, expected, "{path} {name}");
        }
        // nginx removes what it has a line for, and wxgate refuses the rest of the family for it.
        let mut sent = forged.clone();
        if proxy.refuses_forgeries {
            let answer = visitor.send("GET", path, &forged, "").await;
            assert_eq!(answer.status, 403, "{path}: {answer:?}");
            sent.retain(|(name, _)| !name.to_ascii_lowercase().starts_with("x-w"));
        }
        let answer = visitor.send("GET", path, &sent, "").await;
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        assert!(!answer.text.contains("forged"), "{path}: {}", answer.text);
        assert!(!answer.text.contains("wxgate="), "C2: {path}: {}", answer.text);
        let cookies = answer.received("cookie").concat();
        assert!(cookies.contains("a=1") && cookies.contains("b=2; c=3"), "{path}: {cookies}");
        let expected = if known { openid.as_str() } else { "" };
        assert_eq!(answer.received("x-wechat-openid").concat(), expected, "{path}");
    }
}

async fn tricks_open_no_door(proxy: &Proxy) {
    let hits = proxy.hits();
    for target in [
        "/static/../orders",
        "/static/%2e%2e/orders",
        "/static/..%2forders",
        "/static/%252e%252e/orders",
        "/static\\..\\orders",
        "/static/..;/orders",
        "/static//../orders",
        "//static/a",
        "/static/a%00",
        "/%6frders",
        "/orders#/static/a",
        "/_wx/../orders",
        "/_wx/%2e%2e/orders",
        "/MP_verify_x.txt/../orders",
        "/_WX/../orders",
        "http://h5.example.com/orders",
    ] {
        let answer = proxy.raw(target, "").await;
        assert_ne!(answer.status, 200, "{target}: {answer:?}");
        assert_eq!(proxy.hits(), hits, "{target} reached the site");
    }
    // Words about another request than this one.
    for words in [
        "x-original-uri: /static/a\r\nx-original-method: GET\r\n",
        "x-original-url: http://h5.example.com/static/a\r\n",
        "x-forwarded-uri: /static/a\r\nx-forwarded-method: GET\r\n",
        "x-forwarded-uri: /static/a\r\nx-forwarded-uri: /static/a\r\n",
        "x-forwarded-host: h5.example.com\r\nx-forwarded-host: h5.example.com\r\n",
        "connection: x-original-uri, x-forwarded-uri\r\n",
        "x-http-method-override: HEAD\r\n",
    ] {
        let answer = proxy.raw("/orders", words).await;
        assert_ne!(answer.status, 200, "{words}: {answer:?}");
        assert!(answer.status < 500, "{words}: {answer:?}");
        assert_eq!(proxy.hits(), hits, "{words} reached the site");
    }
    // And nobody asks the gatekeeper from outside.
    for target in ["/_wx/verify", "/_wx/verify/static/a", "/_wx/verify?x"] {
        assert_eq!(proxy.raw(target, "").await.status, 404, "{target}");
    }
}

async fn the_gateway_itself_is_reached(proxy: &Proxy) {
    let proof = proxy.desktop().get("/MP_verify_AbCd1234.txt").await;
    assert_eq!((proof.status, proof.text.as_str()), (200, "AbCd1234"));
    let keys = proxy.desktop().get("/_wx/jwks.json").await;
    assert!(keys.text.contains("\"kid\":\"k1\""), "{keys:?}");
    let hits = proxy.hits();
    assert_eq!(proxy.desktop().get("/_wx/nothing").await.status, 404);
    assert_eq!(proxy.hits(), hits);
}

async fn a_button_comes_before_consent(proxy: &Proxy) {
    let mut phone = proxy.phone();
    let away = phone.get("/club/x?y=1").await;
    let (_, button) = phone.follow(&away, "/").await;
    let next = "/_wx/login?rd=/club/x%3Fy%3D1&scope=snsapi_userinfo";
    assert!(button.links_to(next), "{button:?}");
    let page = crate::login::consent(&mut phone, next).await;
    assert_eq!(page.received("x-wechat-nickname"), ["%E6%9D%8E%E9%9B%B7"], "{page:?}");
    assert_eq!(page.received("x-wechat-avatar").len(), 1);
}

async fn bodies_and_websockets_pass(proxy: &Proxy, phone: &Visitor) {
    let posted = phone.clone().send("POST", "/orders?p=1", &[], "name=value").await;
    assert_eq!(posted.status, 200, "{posted:?}");
    assert!(posted.text.starts_with("POST /orders?p=1 HTTP/1.1"), "{}", posted.text);
    assert!(posted.text.ends_with("name=value"), "{}", posted.text);
    let cookie = format!("cookie: wxgate={}\r\n", phone.cookie("wxgate"));
    for (cookie, status) in [("", "401"), (cookie.as_str(), "101")] {
        let hits = proxy.hits();
        let request = format!(
            "GET /ws HTTP/1.1\r\nhost: h5.example.com\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n{cookie}\r\n"
        );
        let line = first_line(proxy.addr, &request).await;
        assert_eq!(line.split(' ').nth(1), Some(status), "{line}");
        assert_eq!(proxy.hits() - hits, usize::from(status == "101"));
    }
}

async fn first_line(to: SocketAddr, request: &str) -> String {
    use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
    let mut stream = BufReader::new(tokio::net::TcpStream::connect(to).await.unwrap());
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut line = String::new();
    let _ = stream.read_line(&mut line).await.unwrap();
    line
}

/// Half the idle time later the cookie is written anew, on an answer that nobody may keep.
async fn the_cookie_is_renewed(proxy: &Proxy, phone: &mut Visitor) {
    let old = phone.cookie("wxgate");
    let page = phone.get("/cached").await;
    assert_eq!(page.status, 200, "{page:?}");
    assert_eq!(page.all("set-cookie").count(), 1, "{page:?}");
    assert_eq!(page.all("cache-control").collect::<Vec<_>>(), ["no-store"], "C7: {page:?}");
    assert_ne!(old, phone.cookie("wxgate"));
    let page = phone.get("/cached").await;
    assert_eq!(page.all("set-cookie").count(), 0, "{page:?}");
    let kept = page.all("cache-control").collect::<Vec<_>>();
    assert_eq!(kept, ["public, s-maxage=600"], "the site's own word");
    assert_eq!(proxy.phone().get("/cached").await.status, 302);
}

async fn the_visitor_leaves(proxy: &Proxy, phone: &mut Visitor) {
    let captured = phone.clone();
    let hits = proxy.hits();
    let bye = phone.send("POST", "/_wx/logout", &[("origin", "http://h5.example.com")], "").await;
    assert_eq!((bye.status, phone.has_session()), (200, false), "{bye:?}");
    assert_eq!(captured.clone().get("/orders").await.status, 302, "E7");
    assert_eq!(phone.get("/orders").await.status, 302);
    assert_eq!(proxy.hits(), hits);
}

/// Without a gateway nothing passes, not even what needs no login.
async fn nothing_passes_alone(mut proxy: Proxy, mut phone: Visitor, status: u16) {
    let hits = proxy.hits();
    proxy.street.begin_to_close();
    proxy.street.stopped().await;
    for path in ["/orders", "/static/a"] {
        let answer = phone.get(path).await;
        assert_eq!(answer.status, status, "{path}: {answer:?}");
    }
    assert_eq!(proxy.hits(), hits);
    proxy.child.kill().await.unwrap();
}

/// Each proxy has a clock of its own.
macro_rules! proxy {
    ($test:ident, $program:literal, $alone:literal) => {
        #[tokio::test]
        async fn $test() {
            static LATER: AtomicU64 = AtomicU64::new(0);
            fn now() -> Timestamp {
                Timestamp(clock::system().0 + LATER.load(Ordering::Relaxed))
            }
            let proxy = Proxy::start($program, now).await;
            let mut phone = checks(&proxy).await;
            LATER.store(7 * 3600, Ordering::Relaxed);
            the_cookie_is_renewed(&proxy, &mut phone).await;
            the_visitor_leaves(&proxy, &mut phone).await;
            nothing_passes_alone(proxy, phone, $alone).await;
        }
    };
}

proxy!(nginx_asks_and_believes, "nginx", 500);
proxy!(caddy_asks_and_believes, "caddy", 502);
proxy!(haproxy_asks_and_believes, "haproxy", 503);
