//! A street: a gateway, a site behind it and an emulated WeChat, all on ports of their own,
//! entered through the doors that production uses.

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use tokio::{
    sync::oneshot,
    task::JoinHandle,
    time::{Instant, sleep},
};
use wxgate::{
    admin::{self, AdminServer, RuntimeStatus},
    clock::{self, Clock},
    config::{Config, Environment, ReferencedFile},
    emulator::{self, Emulator},
    gateway::{AccessLog, Gateway},
    server::Server,
};

use crate::{echo::Echo, redis};

/// The key every gateway of the tests signs with.
pub const KEY: &str = "0123456789abcdef0123456789abcdef";

/// A gateway, its site and its WeChat.
pub struct TestGateway {
    pub gateway: SocketAddr,
    pub tls: Option<SocketAddr>,
    pub wechat: SocketAddr,
    pub site: Echo,
    shared: Arc<Gateway>,
    stop: Option<oneshot::Sender<()>>,
    served: JoinHandle<()>,
}

/// What to build differently.
#[derive(Clone)]
pub struct TestConfig {
    /// Threads that serve.
    pub workers: u32,
    /// Lines of `[server]` after `listen` and `workers`.
    pub server: String,
    /// Lines of `[session]` instead of the usual keys.
    pub session: String,
    /// Lines of the one `[[account]]`.
    pub account: String,
    /// An API host that is asked before the emulator.
    pub api_first: Option<String>,
    /// Lines of the one `[[site]]`, and tables that follow it.
    pub site: String,
    /// Whole tables at the end.
    pub more: String,
    /// The site's upstream, when it is not the echo.
    pub upstream: Option<String>,
    /// WeChat's address, when it is not the emulator's.
    pub wechat: Option<SocketAddr>,
    pub clock: Clock,
}

impl Default for TestConfig {
    fn default() -> Self {
        Self {
            workers: 2,
            server: String::new(),
            session: format!("keys = [{{ id = \"k1\", secret = \"{KEY}\" }}]"),
            account: String::new(),
            api_first: None,
            site: String::new(),
            more: String::new(),
            upstream: None,
            wechat: None,
            clock: clock::system,
        }
    }
}

impl TestConfig {
    /// The usual street with these lines in its site.
    pub fn site(lines: &str) -> Self {
        Self { site: lines.to_owned(), ..Self::default() }
    }

    /// The same with WeChat's API at an address where nobody is.
    pub fn unreachable(mut self, nobody: SocketAddr) -> Self {
        self.wechat = Some(nobody);
        self
    }

    /// The configuration as an operator would write it.
    pub fn text(&self, wechat: SocketAddr, upstream: &str) -> String {
        let Self { workers, server, session, account, site, more, .. } = self;
        let first = self.api_first.as_ref().map_or(String::new(), |url| format!("\"{url}\", "));
        let more = more.replace("WECHAT", &format!("http://{wechat}"));
        format!(
            r#"
[server]
listen = ["127.0.0.1:0"]
workers = {workers}
drain = "2s"
{server}

[session]
{session}

[[account]]
name = "main"
app_id = "wx1"
app_secret = "secret-of-wx1"
authorize_url = "http://{wechat}"
api_urls = [{first}"http://{wechat}"]
{account}
verify_files = {{ "MP_verify_AbCd1234.txt" = "AbCd1234" }}

[[site]]
hosts = ["h5.example.com", "www.example.com"]
public_url = "http://h5.example.com"
account = "main"
upstream = [{upstream}]
{site}
{more}
"#
        )
    }
}

/// The usual routes: one of each kind.
pub const ROUTES: &str = r#"
[[site.route]]
path = "/static/*"
auth = "none"
[[site.route]]
path = "/news/*"
auth = "optional"
[[site.route]]
path = "/member/*"
scope = "snsapi_userinfo"
prompt = "direct"
[[site.route]]
path = "/club/*"
scope = "snsapi_userinfo"
"#;

/// Nothing of the machine: the tests write their secrets into the text.
struct Nothing;

impl Environment for Nothing {
    fn variable(&self, _name: &str) -> Result<String, String> {
        Err("is not set".to_owned())
    }

    fn file(&self, path: &Path) -> std::io::Result<ReferencedFile> {
        let content = std::fs::read(path)?.into();
        Ok(ReferencedFile { content, open_to_all: false })
    }

    fn is_folder(&self, path: &Path) -> bool {
        path.is_dir()
    }
}

/// Reads a configuration as `serve` does.
pub fn read(text: &str) -> Config {
    match Config::parse("test.toml", text, &Nothing) {
        Ok(config) => config,
        Err(complaints) => panic!("{}", complaints.render(false)),
    }
}

impl TestGateway {
    /// The usual street with the usual routes.
    pub async fn usual() -> Self {
        Self::open(TestConfig::site(ROUTES)).await
    }

    /// Builds a street.
    pub async fn open(plan: TestConfig) -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let site = Echo::start().await;
        let (wechat, emulator) = emulated().await;
        tokio::spawn(emulator.serve(std::future::pending()));
        let upstream = plan.upstream.clone().unwrap_or_else(|| format!("\"http://{}\"", site.addr));
        let config = read(&plan.text(plan.wechat.unwrap_or(wechat), &upstream));
        let shared =
            Arc::new(Gateway::new(config.gateway, plan.clock, AccessLog::default()).unwrap());
        let server = Server::bind(config.server).unwrap();
        let (gateway, tls) = (server.addrs()[0], server.tls_addrs().first().copied());
        let (stop, stopped) = oneshot::channel();
        let serving = Arc::clone(&shared);
        let served = tokio::spawn(async move {
            let stop = async { stopped.await.unwrap_or_default() };
            server.serve(serving, stop).await.unwrap();
        });
        Self { gateway, tls, wechat, site, shared, stop: Some(stop), served }
    }

    /// Puts another configuration in force, as a reload does.
    pub fn reload(&self, plan: &TestConfig) {
        let echo = || format!("\"http://{}\"", self.site.addr);
        let upstream = plan.upstream.clone().unwrap_or_else(echo);
        let text = plan.text(plan.wechat.unwrap_or(self.wechat), &upstream);
        self.shared.reload(read(&text).gateway).unwrap();
    }

    /// Opens the gateway's admin listener.
    pub async fn admin(&self) -> SocketAddr {
        self.admin_with_status().await.0
    }

    /// The same, with what the program tells it.
    pub async fn admin_with_status(&self) -> (SocketAddr, RuntimeStatus) {
        let board = RuntimeStatus::default();
        board.set_ready(true);
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let settings =
            admin::Settings { listen, metrics_listen: None, token: None, hosts: Vec::new() };
        let shared = Arc::clone(&self.shared);
        let admin = AdminServer::bind(settings, board.clone(), shared).await.unwrap();
        let addr = admin.addr().unwrap();
        tokio::spawn(admin.serve(std::future::pending()));
        (addr, board)
    }

    /// Asks the gateway to stop, and waits until it has.
    pub async fn close(mut self) {
        self.begin_to_close();
        self.served.await.unwrap();
    }

    /// Waits until a gateway that was asked to stop has.
    pub async fn stopped(&mut self) {
        (&mut self.served).await.unwrap();
    }

    /// Asks the gateway to stop.
    pub fn begin_to_close(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
    }

    /// Makes the emulated WeChat fail.
    pub async fn fault(&self, json: &str) {
        let answer = crate::visitor::raw(
            self.wechat,
            &format!(
                "POST /_emulator/faults HTTP/1.1\r\nhost: {}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{json}",
                self.wechat,
                json.len()
            ),
        )
        .await;
        assert!(
            answer.starts_with("HTTP/1.1 200") || answer.starts_with("HTTP/1.1 204"),
            "{answer}"
        );
    }

    /// Empties the emulated WeChat's journal, which keeps a thousand calls.
    pub async fn forget_calls(&self) {
        let request = format!(
            "DELETE /_emulator/requests HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n",
            self.wechat
        );
        let answer = crate::visitor::raw(self.wechat, &request).await;
        assert!(answer.starts_with("HTTP/1.1 20"), "{answer}");
    }

    /// How often the emulated WeChat was asked for this.
    pub async fn calls(&self, path: &str) -> usize {
        self.journal().await.matches(&format!("\"{path}\"")).count()
    }

    /// What the emulated WeChat was asked.
    pub async fn journal(&self) -> String {
        let request = format!(
            "GET /_emulator/requests HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n",
            self.wechat
        );
        crate::visitor::raw(self.wechat, &request).await
    }
}

async fn emulated() -> (SocketAddr, Emulator) {
    let listen = SocketAddr::from(([127, 0, 0, 1], 0));
    let emulator = Emulator::bind(emulator::Settings::new(listen)).await.unwrap();
    (emulator.addr().unwrap(), emulator)
}

/// Waits for a process of its own to say, at its admin port, that it is ready.
pub async fn until_ready(admin: u16) {
    let begun = Instant::now();
    let ready = "GET /readyz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n";
    while !redis::ask(admin, ready).await.starts_with("HTTP/1.1 200") {
        assert!(begun.elapsed() < Duration::from_secs(10), "it is not ready");
        sleep(Duration::from_millis(10)).await;
    }
}
