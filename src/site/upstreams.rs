//! The servers behind a site, and how they are asked. Pure.

use std::{fmt, time::Duration};

use super::{HealthCheckSettings, UpstreamLimit, UpstreamTls};

/// The servers behind a site and our patience with them.
#[derive(Clone, Debug)]
pub struct UpstreamSettings {
    /// One that is down is passed over.
    pub servers: Vec<UpstreamServer>,
    /// Which of them is next.
    pub balance: Balance,
    /// How long one that was down takes to have its share again.
    pub slow_start: Duration,
    /// How they are asked whether they are well, if they are.
    pub checkup: Option<HealthCheckSettings>,
    /// How much of each the site may take at once, where it may not take all.
    pub limit: Option<UpstreamLimit>,
    /// How long a connection may take to open.
    pub connect_timeout: Duration,
    /// How long an answer may take to begin.
    pub response_timeout: Duration,
    /// Whom we believe and who we are, over TLS; like any other client where there is nothing.
    pub tls: Option<UpstreamTls>,
    /// What they are spoken to in.
    pub protocol: Protocol,
}

/// A version of HTTP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// HTTP/1.1: a connection for each request under way.
    #[default]
    Http1,
    /// HTTP/2, which many requests share a connection with. Over TLS the server is asked, and may
    /// choose HTTP/1.1.
    Http2,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Http1 => "HTTP/1.1",
            Self::Http2 => "HTTP/2",
        })
    }
}

impl UpstreamSettings {
    /// Where the servers are.
    pub fn endpoints(&self) -> impl Iterator<Item = &Endpoint> {
        self.servers.iter().map(|server| &server.endpoint)
    }
}

/// One server behind a site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamServer {
    /// Where it is.
    pub endpoint: Endpoint,
    /// Its share beside the others; at least 1.
    pub weight: u32,
}

/// Which of a site's servers is next. Each thread keeps its own account.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Balance {
    /// One after the other.
    #[default]
    RoundRobin,
    /// The one with the fewest requests under way.
    LeastLoaded,
}

/// Where a server is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// `http://host:port`
    Http(String, u16),
    /// `https://host:port`: the certificate must be good for `host`.
    Https(String, u16),
    /// `unix:/path`
    Unix(std::path::PathBuf),
}
