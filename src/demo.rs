//! Gateway, emulated WeChat and a sample site in one process, with nothing to install or set up.

use std::{future::Future, io, net::SocketAddr, path::Path, sync::Arc};

use tokio_util::sync::CancellationToken;

use crate::{
    admin::{AdminServer, RuntimeStatus},
    clock,
    config::{Config, Environment, ReferencedFile},
    emulator::{self, Emulator},
    gateway::{AccessLog, Gateway},
    server::Server,
};

pub mod site;

use site::SampleSite;

/// The three of them, bound and not yet accepting.
pub struct Demo {
    server: Server,
    gateway: Arc<Gateway>,
    admin: AdminServer,
    status: RuntimeStatus,
    wechat: Emulator,
    site: SampleSite,
    addresses: Addresses,
}

struct Addresses {
    gateway: SocketAddr,
    wechat: SocketAddr,
    site: SocketAddr,
}

impl Addresses {
    /// Where visitors find the gateway: one that listens everywhere is found on this machine.
    fn visited(&self) -> SocketAddr {
        let SocketAddr::V4(everywhere) = self.gateway else { return self.gateway };
        if everywhere.ip().is_unspecified() {
            return SocketAddr::from(([127, 0, 0, 1], everywhere.port()));
        }
        self.gateway
    }
}

/// Why the demo could not start.
pub type Failure = Box<dyn std::error::Error>;

impl Demo {
    /// Takes an address for each; only the gateway's matters.
    pub async fn bind(listen: SocketAddr) -> Result<Self, Failure> {
        let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
        let wechat = Emulator::bind(emulator::Settings::new(loopback)).await?;
        let site = SampleSite::bind(loopback).await?;
        // The address is taken twice: the configuration needs to know which port 0 became.
        let mut addresses =
            Addresses { gateway: listen, wechat: wechat.addr()?, site: site.addr()? };
        if listen.port() == 0 {
            addresses.gateway = tokio::net::TcpListener::bind(listen).await?.local_addr()?;
        }
        let text = configuration(&addresses);
        let config = Config::parse("demo.toml", &text, &EmptyEnvironment)
            .map_err(|complaints| complaints.render(false))?;
        let gateway = Arc::new(Gateway::new(config.gateway, clock::system, AccessLog::default())?);
        let server =
            Server::bind(config.server).map_err(|error| {
                match std::error::Error::source(&error) {
                    Some(cause) => {
                        format!("{error}: {cause}. Another port: wxgate demo --listen 127.0.0.1:0")
                    }
                    None => error.to_string(),
                }
            })?;
        let board = RuntimeStatus::default();
        board.set_accepted("demo.toml".into(), config.shown, Vec::new());
        let admin = AdminServer::bind(config.admin, board.clone(), Arc::clone(&gateway)).await?;
        Ok(Self { server, gateway, admin, status: board, wechat, site, addresses })
    }

    /// What to open in a browser.
    pub fn url(&self) -> String {
        format!("http://{}/", self.addresses.visited())
    }

    /// Where the operator looks.
    pub fn status(&self) -> io::Result<String> {
        Ok(format!("http://{}/", self.admin.addr()?))
    }

    /// Where the emulated WeChat is.
    pub fn wechat(&self) -> SocketAddr {
        self.addresses.wechat
    }

    /// Serves all three until `stop` completes.
    pub async fn serve(self, stop: impl Future<Output = ()>) {
        let ended = CancellationToken::new();
        tokio::spawn(self.wechat.serve(ended.clone().cancelled_owned()));
        tokio::spawn(self.site.serve(ended.clone().cancelled_owned()));
        tokio::spawn(self.admin.serve(ended.clone().cancelled_owned()));
        self.status.set_ready(true);
        if let Err(error) = self.server.serve(self.gateway, stop).await {
            tracing::error!(%error, "the gateway stopped");
        }
        ended.cancel();
    }
}

/// A configuration as an operator would write it, but for its key, which lives as long as the
/// demo does.
fn configuration(addresses: &Addresses) -> String {
    let Addresses { gateway, wechat, site } = addresses;
    let key = format!("{:032x}{:032x}", rand::random::<u128>(), rand::random::<u128>());
    format!(
        r#"
[server]
listen = ["{gateway}"]
drain = "1s"

[admin]
listen = "127.0.0.1:0"

[session]
keys = [{{ id = "demo", secret = "{key}" }}]

[[account]]
name = "demo"
app_id = "wxdemo0000000000"
app_secret = "known-to-the-emulator"
authorize_url = "http://{wechat}"
api_urls = ["http://{wechat}"]

[[site]]
hosts = ["{host}", "localhost"]
public_url = "http://{visited}"
account = "demo"
upstream = ["http://{site}"]
outside_wechat = "login:demo"

[[site.route]]
path = "/"
auth = "optional"

[[site.route]]
path = "/static/*"
auth = "none"

[[site.route]]
path = "/member/*"
scope = "snsapi_userinfo"
prompt = "button"
"#,
        visited = addresses.visited(),
        host = addresses.visited().ip(),
    )
}

/// The demo needs neither files nor environment.
struct EmptyEnvironment;

impl Environment for EmptyEnvironment {
    fn variable(&self, _name: &str) -> Result<String, String> {
        Err("is not set".to_owned())
    }

    fn file(&self, _path: &Path) -> io::Result<ReferencedFile> {
        Err(io::ErrorKind::NotFound.into())
    }

    fn is_folder(&self, _path: &Path) -> bool {
        false
    }
}
