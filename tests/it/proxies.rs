//! The recipes of `deploy/proxies/`, run by the real programs. Each passes the same checks, which are in
//! `proxy_checks`.

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
    harness::{ROUTES, TestConfig, TestGateway},
    proxy_checks::{CHECKS, Scene},
    visitor::{Answer, Visitor, raw},
};

/// One of the programs, and where it cannot but differ from the others.
#[expect(clippy::struct_excessive_bools, reason = "a column each of the table in its README")]
pub struct Program {
    pub name: &'static str,
    /// It asks `/_wx/verify` and serves the site itself; otherwise wxgate is in its path.
    pub asks: bool,
    /// It cannot remove headers by a pattern before it asks, so that wxgate refuses forgeries.
    pub refuses_forgeries: bool,
    /// It merges slashes and resolves dot segments before it asks.
    pub tidies_paths: bool,
    /// It can say that an answer which carries a cookie of ours is for one visitor (C7).
    pub says_no_store: bool,
    /// It forwards what a visitor sends behind a body (B6).
    pub forwards_trailers: bool,
    /// It keeps a site from setting cookies of ours (C2).
    pub withholds_cookies: bool,
    /// What a visitor who opens a page gets: a redirect to the login, or 401 with a page that leads
    /// there.
    pub login: u16,
    /// What a visitor gets when the site hangs up.
    pub site_gone: u16,
    /// What a visitor gets when wxgate is not there.
    pub alone: u16,
    command: fn(&Setup<'_>) -> Command,
}

/// What a proxy is started with.
struct Setup<'a> {
    street: &'a TestGateway,
    folder: &'a Path,
    addr: SocketAddr,
    /// Whether the operator wrote the names of `[site.headers]` into the recipe.
    names: Names,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Names {
    Listed,
    Forgotten,
}

const NGINX: Program = Program {
    name: "nginx",
    asks: true,
    refuses_forgeries: true,
    tidies_paths: false,
    says_no_store: true,
    forwards_trailers: false,
    withholds_cookies: false,
    login: 302,
    site_gone: 502,
    alone: 500,
    command: nginx,
};
const CADDY: Program = Program {
    name: "caddy",
    asks: true,
    refuses_forgeries: true,
    tidies_paths: false,
    says_no_store: true,
    forwards_trailers: false,
    withholds_cookies: true,
    login: 302,
    site_gone: 502,
    alone: 502,
    command: caddy,
};
const HAPROXY: Program = Program {
    name: "haproxy",
    asks: true,
    refuses_forgeries: false,
    tidies_paths: false,
    says_no_store: true,
    forwards_trailers: true,
    withholds_cookies: true,
    login: 302,
    site_gone: 502,
    alone: 503,
    command: haproxy,
};
const ENVOY: Program = Program {
    name: "envoy",
    asks: true,
    refuses_forgeries: false,
    tidies_paths: false,
    says_no_store: true,
    forwards_trailers: false,
    withholds_cookies: true,
    login: 302,
    site_gone: 503,
    alone: 503,
    command: envoy,
};
const TRAEFIK: Program = Program {
    name: "traefik",
    asks: true,
    refuses_forgeries: true,
    tidies_paths: true,
    says_no_store: false,
    forwards_trailers: false,
    withholds_cookies: false,
    login: 401,
    site_gone: 502,
    alone: 500,
    command: traefik,
};
const APACHE: Program = Program {
    name: "apache2",
    asks: false,
    refuses_forgeries: false,
    tidies_paths: false,
    says_no_store: true,
    forwards_trailers: false,
    withholds_cookies: true,
    login: 302,
    site_gone: 502,
    alone: 503,
    command: apache,
};

/// nginx with wxgate in its path, by `deploy/nginx`.
const NGINX_BEFORE: Program =
    Program { name: "nginx", alone: 502, command: nginx_before, ..APACHE };
/// The load balancer of `deploy/compose.yaml`.
const COMPOSE: Program = Program { command: compose, ..NGINX_BEFORE };

/// A proxy by our recipe, in front of a street.
pub struct Proxy {
    pub program: &'static Program,
    pub street: TestGateway,
    pub addr: SocketAddr,
    child: Child,
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

fn nginx(setup: &Setup<'_>) -> Command {
    let mut server = adapted(
        &without_lines(&recipe("nginx.conf"), "ssl_"),
        &[
            ("127.0.0.1:8080", &setup.street.gateway.to_string()),
            ("127.0.0.1:8000", &setup.street.site.addr.to_string()),
            ("listen 443 ssl http2;", &format!("listen {};", setup.addr)),
        ],
    );
    if setup.names == Names::Listed {
        let own = "        proxy_set_header X-WX-OPENID  '';";
        let lines = "        auth_request_set $wx_alias $upstream_http_x_wx_openid;\n\
             proxy_set_header X-WX-OPENID $wx_alias;\n\
             auth_request_set $wx_user $upstream_http_remote_user;\n\
             proxy_set_header Remote-User $wx_user;";
        server = adapted(&server, &[(own, lines)]);
    }
    run_nginx(setup, &server)
}

fn nginx_before(setup: &Setup<'_>) -> Command {
    let text = recipe("../nginx/wxgate.conf");
    let text = without_lines(&without_lines(&text, "ssl_"), "listen [::]");
    let server = adapted(
        &text,
        &[
            ("127.0.0.1:8080", &setup.street.gateway.to_string()),
            ("listen 80;", &format!("listen {};", free())),
            ("listen 443 ssl http2;", &format!("listen {};", setup.addr)),
        ],
    );
    run_nginx(setup, &server)
}

fn compose(setup: &Setup<'_>) -> Command {
    let server = adapted(
        &recipe("../compose/nginx.conf"),
        &[
            ("http://wxgate:8080", &format!("http://{}", setup.street.gateway)),
            ("listen 8080;", &format!("listen {};", setup.addr)),
        ],
    );
    run_nginx(setup, &server)
}

/// Without the lines that begin so.
fn without_lines(text: &str, start: &str) -> String {
    let lines = text.lines().filter(|line| !line.trim_start().starts_with(start));
    lines.fold(String::new(), |text, line| text + line + "\n")
}

fn run_nginx(setup: &Setup<'_>, server: &str) -> Command {
    let folder = setup.folder;
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

fn caddy(setup: &Setup<'_>) -> Command {
    let Setup { street, folder, addr, names } = *setup;
    let mut site = adapted(
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
    if names == Names::Listed {
        let place = "\t# One such line for each name";
        let lines = format!(
            "\trequest_header X-WX-OPENID {{rp.header.X-Wx-Openid}}\n\
             \trequest_header Remote-User {{rp.header.Remote-User}}\n{place}"
        );
        let gone = (
            "\t\trequest_header -X-Wx-*\n",
            "\t\trequest_header -X-Wx-*\n\t\trequest_header -Remote-User\n",
        );
        site = adapted(&site, &[(place, &lines), gone]);
    }
    let text = format!("{{\n\tadmin off\n\tauto_https off\n}}\n{site}");
    std::fs::write(folder.join("Caddyfile"), text).unwrap();
    let mut command = Command::new("caddy");
    command.args(["run", "--adapter", "caddyfile", "--config"]).arg(folder.join("Caddyfile"));
    command.env("XDG_DATA_HOME", folder).env("XDG_CONFIG_HOME", folder);
    command
}

fn haproxy(setup: &Setup<'_>) -> Command {
    let Setup { street, folder, addr, names } = *setup;
    let gateway = street.gateway.to_string();
    let mut lua = adapted(&recipe("wxgate.lua"), &[("127.0.0.1:8080", &gateway)]);
    if names == Names::Listed {
        let listed = "local EXTRA = { 'remote-user' }";
        lua = adapted(&lua, &[("local EXTRA = {}", listed)]);
    }
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

/// Where the programs are that no distribution has.
fn packaged(name: &str) -> Command {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/proxies/venv/bin");
    Command::new(folder.join(name))
}

fn envoy(setup: &Setup<'_>) -> Command {
    let Setup { street, folder, addr, names } = *setup;
    let text = recipe("envoy.yaml");
    let (before, tls) = text.split_once("        - transport_socket:").unwrap();
    let (_, filters) = tls.split_once("          filters:").unwrap();
    let mut text = adapted(
        &format!("{before}        - filters:{filters}"),
        &[
            (
                "address: 0.0.0.0, port_value: 443",
                &format!("address: 127.0.0.1, port_value: {}", addr.port()),
            ),
            ("port_value: 8080", &format!("port_value: {}", street.gateway.port())),
            ("port_value: 8000", &format!("port_value: {}", street.site.addr.port())),
            ("http://127.0.0.1:8080", &format!("http://{}", street.gateway)),
        ],
    );
    if names == Names::Listed {
        let removed = ("local extra = {}", "local extra = { ['remote-user'] = true }");
        let copied = ("{ prefix: x-wx- }]", "{ prefix: x-wx- }, { exact: remote-user }]");
        text = adapted(&text, &[removed, copied]);
    }
    std::fs::write(folder.join("envoy.yaml"), text).unwrap();
    let mut command = packaged("envoy");
    command.args(["--concurrency", "1", "--disable-hot-restart", "--log-level", "warning", "-c"]);
    command.arg(folder.join("envoy.yaml"));
    command
}

fn traefik(setup: &Setup<'_>) -> Command {
    let Setup { street, folder, addr, names } = *setup;
    let mut text = adapted(
        &without_lines(&recipe("traefik.yaml"), "tls:"),
        &[
            ("10.0.0.2:8080", &street.gateway.to_string()),
            ("10.0.0.5:8000", &street.site.addr.to_string()),
            ("[__Host-wxgate]", "[wxgate]"),
        ],
    );
    if names == Names::Listed {
        let listed = "(wechat|wx)[^a-z0-9]|^remote[^a-z0-9]user$";
        text = adapted(&text, &[("(wechat|wx)[^a-z0-9]", listed)]);
    }
    std::fs::write(folder.join("dynamic.yaml"), text).unwrap();
    let mut command = packaged("traefik");
    command
        .arg(format!("--entryPoints.websecure.address={addr}"))
        .arg(format!("--providers.file.filename={}", folder.join("dynamic.yaml").display()))
        .args(["--global.checkNewVersion=false", "--global.sendAnonymousUsage=false"]);
    command
}

fn apache(setup: &Setup<'_>) -> Command {
    let Setup { street, folder, addr, .. } = *setup;
    let host = adapted(
        &without_lines(&recipe("apache.conf"), "SSL"),
        &[
            ("<VirtualHost *:443>", &format!("<VirtualHost {addr}>")),
            ("http://127.0.0.1:8080/", &format!("http://{}/", street.gateway)),
        ],
    );
    // As Debian's apache2.conf and `a2enmod` have it.
    let modules = ["mpm_event", "authz_core", "alias", "proxy", "proxy_http", "headers"]
        .map(|it| format!("LoadModule {it}_module /usr/lib/apache2/modules/mod_{it}.so\n"))
        .concat();
    let main = format!(
        "{modules}ServerRoot {0}\nPidFile {0}/pid\nErrorLog {0}/error.log\nUser www-data\nGroup www-data\nServerName localhost\nListen {addr}\n{host}",
        folder.display()
    );
    std::fs::write(folder.join("apache2.conf"), main).unwrap();
    let mut command = Command::new("apache2");
    // One process, which ends with us.
    command.args(["-X", "-f"]).arg(folder.join("apache2.conf"));
    command
}

/// Whether the proxy has read its routes: some of them listen a moment before.
async fn is_ready(addr: SocketAddr) -> bool {
    if tokio::net::TcpStream::connect(addr).await.is_err() {
        return false;
    }
    let request =
        "GET /_wx/jwks.json HTTP/1.1\r\nhost: h5.example.com\r\nconnection: close\r\n\r\n";
    Answer::parse(&raw(addr, request).await).status == 200
}

fn plan(clock: clock::Clock) -> TestConfig {
    let server = "trusted_proxies = [\"127.0.0.1/32\"]".to_owned();
    let site = format!(
        "[site.headers]\nassertion = true\naliases = [\"X-WX-OPENID\"]\n\
         extra = {{ \"Remote-User\" = \"openid\" }}\n{ROUTES}"
    );
    TestConfig { server, clock, ..TestConfig::site(&site) }
}

impl Proxy {
    async fn start(program: &'static Program, names: Names, clock: clock::Clock) -> Self {
        let street = TestGateway::open(plan(clock)).await;
        let (folder, addr) = (tempfile::tempdir().unwrap(), free());
        let setup = Setup { street: &street, folder: folder.path(), addr, names };
        let mut command = (program.command)(&setup);
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let mut child = command.kill_on_drop(true).spawn().unwrap_or_else(|why| {
            panic!("{} does not start, see tests/tools.sh: {why}", program.name);
        });
        for _ in 0..200 {
            if is_ready(addr).await {
                return Self { program, street, addr, child, _folder: folder };
            }
            if child.try_wait().unwrap().is_some() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let said = std::fs::read_to_string(folder.path().join("log")).unwrap();
        panic!("{} is not there: {said}", program.name);
    }

    pub fn hits(&self) -> usize {
        self.street.site.hits()
    }

    pub fn phone(&self) -> Visitor {
        Visitor::wechat(self.addr)
    }

    pub fn desktop(&self) -> Visitor {
        Visitor::desktop(self.addr)
    }

    /// Sends what no polite client sends.
    pub async fn raw(&self, target: &str, more: &str) -> Answer {
        let request = format!(
            "GET {target} HTTP/1.1\r\nhost: h5.example.com\r\naccept: text/html\r\nuser-agent: {}\r\nconnection: close\r\n{more}\r\n",
            crate::visitor::WECHAT
        );
        Answer::parse(&raw(self.addr, &request).await)
    }

    async fn close(mut self) {
        self.child.kill().await.unwrap();
    }
}

/// nginx, `HAProxy` and Apache end what is silent for a minute, Envoy after 15 seconds of any answer: an
/// event stream or a WebSocket. Waiting for that would take a test as long.
#[test]
fn recipes_let_streams_be_silent_for_an_hour() {
    for (name, lines) in [
        ("nginx.conf", &["proxy_read_timeout    1h;", "proxy_send_timeout    1h;"][..]),
        ("../nginx/wxgate.conf", &["proxy_read_timeout    1h;", "proxy_send_timeout    1h;"]),
        ("../compose/nginx.conf", &["proxy_read_timeout 1h;", "proxy_send_timeout 1h;"]),
        ("haproxy.cfg", &["timeout server  1h", "timeout tunnel  1h"]),
        ("apache.conf", &["ProxyTimeout 3600"]),
        ("envoy.yaml", &["timeout: 0s, idle_timeout: 3600s"]),
    ] {
        for line in lines {
            assert!(recipe(name).contains(line), "{name}: {line}");
        }
    }
}

/// Each proxy has a clock of its own.
macro_rules! proxy {
    ($test:ident, $program:ident) => {
        #[tokio::test]
        async fn $test() {
            static LATER: AtomicU64 = AtomicU64::new(0);
            fn now() -> Timestamp {
                Timestamp(clock::system().0 + LATER.load(Ordering::Relaxed))
            }
            let proxy = Proxy::start(&$program, Names::Listed, now).await;
            let mut scene = Scene { phone: proxy.phone(), proxy, later: &LATER };
            for (number, (what, check)) in CHECKS.iter().enumerate() {
                println!("{} {}: {what}", $program.name, number + 1);
                check(&mut scene).await;
            }
            scene.proxy.close().await;
        }
    };
}

proxy!(nginx_asks_and_believes, NGINX);
proxy!(caddy_asks_and_believes, CADDY);
proxy!(haproxy_asks_and_believes, HAPROXY);
proxy!(envoy_asks_and_believes, ENVOY);
proxy!(traefik_asks_and_believes, TRAEFIK);
proxy!(apache_forwards_and_believes, APACHE);
proxy!(nginx_forwards_and_believes, NGINX_BEFORE);
proxy!(compose_forwards_and_believes, COMPOSE);

/// An operator adds a name to `[site.headers]` and forgets the recipe: the name is of no use then, but
/// no visitor can be somebody else by it.
#[tokio::test]
async fn b2_a_name_that_a_recipe_forgets_is_no_way_in() {
    for program in [&NGINX, &CADDY, &HAPROXY, &ENVOY, &TRAEFIK] {
        let proxy = Proxy::start(program, Names::Forgotten, clock::system).await;
        let mut phone = proxy.phone();
        let (_, page) = phone.open("/orders").await;
        assert_eq!(page.status, 200, "{}: {page:?}", program.name);
        for name in ["Remote-User", "remote_user", "Remote.User", "REMOTE~USER", "X-WX-OPENID"] {
            for (path, mut visitor) in [("/static/a", proxy.desktop()), ("/orders", phone.clone())]
            {
                let answer = visitor.send("GET", path, &[(name, "forged")], "").await;
                let case = format!("{} {path} {name}: {answer:?}", program.name);
                assert!(answer.status == 403 || answer.status == 200, "{case}");
                assert!(!answer.text.contains("forged"), "{case}");
            }
        }
        proxy.close().await;
    }
}
