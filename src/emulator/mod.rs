//! The emulated WeChat: its pages, its API, its users, and whatever can go wrong with them.
//!
//! A browser and a gateway that are pointed here meet what they would meet at
//! `open.weixin.qq.com` and `api.weixin.qq.com`. The rules stand in `authorize`, `callback`,
//! `book` and `api`, which know no sockets; `service` is where requests come in.

use std::{io, net::SocketAddr, sync::Arc};

use tokio::net::TcpListener;

pub use self::users::{User, UsersError, users_from_toml};
use self::{page::Pages, service::Service};

mod service;
mod authorize_pages;
mod control_api;
mod page;
mod fetch;
pub(crate) mod listen;
mod api;
mod authorize;
mod callback;
mod token_store;
mod faults;
mod call_log;
mod errcode;
mod params;
mod json;
mod users;
mod avatar;
pub(crate) mod lang;
mod random;
#[cfg(test)]
mod tests;

/// What kind of WeChat to be.
#[derive(Clone)]
pub struct Settings {
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Who can log in. A browser is the first of them until it chooses another.
    pub users: Vec<User>,
    /// The accounts that exist. None: every `app_id` exists, whatever its secret and domains.
    pub apps: Vec<App>,
    /// Whether the authorize page insists on the WeChat browser, as the real one does.
    pub require_wechat: bool,
}

/// An account: 公众号 or website app.
#[derive(Clone)]
pub struct App {
    /// Its `app_id`.
    pub app_id: String,
    /// Its secret.
    pub secret: String,
    /// Where callbacks may lead: `host`, `host:port` or `host/path`. None: anywhere.
    pub domains: Vec<String>,
}

impl Settings {
    /// An easy-going WeChat: four built-in users, any account, any browser.
    pub fn new(listen: SocketAddr) -> Self {
        Self { listen, users: users::built_in(), apps: Vec::new(), require_wechat: false }
    }
}

/// An emulator that has its socket and can be served.
pub struct Emulator {
    listener: TcpListener,
    service: Arc<Service>,
}

impl Emulator {
    /// Takes the address. Without any user there is nobody to log in, so the built-in ones come.
    pub async fn bind(settings: Settings) -> io::Result<Self> {
        let listener = TcpListener::bind(settings.listen).await?;
        let pages = Pages::new().map_err(io::Error::other)?;
        let service = Service::new(settings, pages, listener.local_addr()?);
        Ok(Self { listener, service: Arc::new(service) })
    }

    /// Where it listens.
    pub fn addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Answers until `stop`; what is under way then ends with it.
    pub async fn serve(self, stop: impl Future<Output = ()>) {
        let service = self.service;
        listen::serve(self.listener, stop, move |request| {
            service::handle(Arc::clone(&service), request)
        })
        .await;
    }
}
