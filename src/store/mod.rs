//! What outlives a request and belongs to no visitor's cookie: small values that expire, and the
//! log of sessions that were ended.
//!
//! A flood of anonymous visitors puts nothing in it, but where it begins logins at the code broker,
//! which are counted by client and forgotten after ten minutes. Values are sealed by whoever puts them here,
//! so that they are worth nothing to whoever reads them. Requests never wait for it, but for the
//! callback of a login, a logout, and those of the broker.

#![cfg_attr(not(feature = "redis"), expect(unused_variables, reason = "of Redis alone"))]

use std::{fmt, path::PathBuf, time::Duration};

use crate::{auth::Revocation, secret::Secret, traces};

mod file;
mod backend;
mod memory;
#[cfg(feature = "redis")]
mod redis;
mod unavailable;

use backend::StoreBackend;
pub use unavailable::{StoreUnavailable, UnavailableCause};

/// Who keeps it.
#[derive(Clone, Debug, Default)]
pub enum Settings {
    /// This process, for itself.
    #[default]
    Memory,
    /// This process, in a file that the next one finds.
    File(PathBuf),
    /// A Redis that the replicas share.
    Redis(Box<RedisSettings>),
}

/// A Redis and how we introduce ourselves to it.
#[derive(Clone, Debug)]
pub struct RedisSettings {
    /// Where it is.
    pub place: RedisAddress,
    /// An ACL user, where the URL does not name one.
    pub username: Option<String>,
    /// Their password.
    pub password: Option<Secret>,
    /// Whether to speak TLS, where no URL says so.
    pub tls: bool,
    /// The authority that signed its certificate, as PEM, where that is not a public one.
    pub ca: Option<Vec<u8>>,
}

/// Where a Redis is.
#[derive(Clone, Debug)]
pub enum RedisAddress {
    /// One server, by URL.
    Url(Secret),
    /// Whatever these sentinels say.
    Sentinels {
        /// Hosts and ports.
        addresses: Vec<(String, u16)>,
        /// Which of the masters they watch.
        master: String,
        /// An ACL user of theirs.
        username: Option<String>,
        /// Their own password, which is not that of the servers.
        password: Option<Secret>,
    },
    /// A cluster that these nodes belong to.
    Cluster(Vec<(String, u16)>),
}

impl RedisAddress {
    /// Host and port of the one server, where there is one: the rest of its URL may be a password.
    fn server(&self) -> Option<(String, u16)> {
        let Self::Url(url) = self else { return None };
        let url = url::Url::parse(url.expose()).ok()?;
        Some((url.host_str()?.to_owned(), url.port().unwrap_or(6_379)))
    }
}

impl Settings {
    /// Whether other replicas can see what is kept.
    pub fn is_shared(&self) -> bool {
        matches!(self, Self::Redis(_))
    }
}

impl fmt::Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |nodes: &[(String, u16)]| {
            let nodes = nodes.iter().map(|(host, port)| format!("{host}:{port}"));
            nodes.collect::<Vec<_>>().join(", ")
        };
        match self {
            Self::Memory => f.write_str("in memory: for a gateway that is alone"),
            Self::File(path) => write!(f, "{}: for a gateway that is alone", path.display()),
            Self::Redis(remote) => match &remote.place {
                RedisAddress::Url(_) => match remote.place.server() {
                    Some((host, port)) => write!(f, "Redis at {host}:{port}"),
                    None => f.write_str("Redis at a unix socket"),
                },
                RedisAddress::Sentinels { addresses, master, .. } => {
                    write!(f, "Redis, {master} as named by {}", list(addresses))
                }
                RedisAddress::Cluster(nodes) => write!(f, "Redis Cluster of {}", list(nodes)),
            },
        }
    }
}

/// A keeper that cannot be used at all.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the store cannot be used: {text}")]
pub struct OpenError {
    text: String,
    kind: OpenErrorKind,
}

/// What stands in the way of a file that cannot be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenErrorKind {
    /// Another process has it.
    InUse,
    /// This user may not.
    Forbidden,
    /// Something else.
    Other,
}

impl OpenError {
    /// What stands in the way.
    pub fn kind(&self) -> OpenErrorKind {
        self.kind
    }
}

/// How far the log has been read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogPosition(Option<String>);

/// What the log says after a mark.
#[derive(Debug)]
pub enum LogRead {
    /// What followed, and how far it has now been read; `more` when that is not all.
    Next {
        /// In their order.
        orders: Vec<Revocation>,
        /// Where to go on.
        mark: LogPosition,
        /// Whether to go on at once.
        more: bool,
    },
    /// This is not the log that was being read: it was emptied, or restored from an older copy.
    Reset,
}

/// What outlives a request.
#[derive(Debug)]
pub struct Store {
    backend: StoreBackend,
    /// Who is asked, for the span of a call; nobody where a call is none.
    asked: Option<SpanTarget>,
}

/// Whom a span names.
#[derive(Debug)]
struct SpanTarget {
    system: &'static str,
    server: Option<(String, u16)>,
}

impl Store {
    /// Prepares a keeper. A file is opened now, a connection when it is needed.
    pub fn new(settings: &Settings) -> Result<Self, OpenError> {
        let asked = match settings {
            Settings::Memory => None,
            Settings::File(_) => Some(SpanTarget { system: "redb", server: None }),
            Settings::Redis(remote) => {
                Some(SpanTarget { system: "redis", server: remote.place.server() })
            }
        };
        Ok(Self { backend: StoreBackend::new(settings)?, asked })
    }

    /// Whether other replicas can see what is kept.
    pub fn is_shared(&self) -> bool {
        !matches!(self.backend, StoreBackend::Memory(_) | StoreBackend::File(_))
    }

    /// Whether there may be something in it that another process put there.
    pub fn is_persistent(&self) -> bool {
        !matches!(self.backend, StoreBackend::Memory(_))
    }

    /// Keeps a value for `age`.
    pub async fn put(
        &self,
        key: &str,
        value: Vec<u8>,
        age: Duration,
    ) -> Result<(), StoreUnavailable> {
        self.told("put", key, self.backend.put(key, value, age)).await
    }

    /// Keeps a value for `age` unless there is one of that name already; whether it was kept.
    pub async fn put_new(
        &self,
        key: &str,
        value: Vec<u8>,
        age: Duration,
    ) -> Result<bool, StoreUnavailable> {
        self.told("put_new", key, self.backend.put_new(key, value, age)).await
    }

    /// The value, if it has not expired.
    pub async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, StoreUnavailable> {
        self.told("get", key, self.backend.get(key)).await
    }

    /// The value, which is then gone: of two who ask, one gets it.
    pub async fn take(&self, key: &str) -> Result<Option<Vec<u8>>, StoreUnavailable> {
        self.told("take", key, self.backend.take(key)).await
    }

    /// Adds to the log. Orders are forgotten once the last of them is older than `age`.
    pub async fn append_revocations(
        &self,
        orders: &[Revocation],
        age: Duration,
    ) -> Result<(), StoreUnavailable> {
        self.told("revoke", "revocations", self.backend.revoke(orders, age)).await
    }

    /// Writes revocations over the connection that reads the log, for whoever has just read it. It leads
    /// to the server that was read, and a write that is held up there is told from a server that is gone.
    pub async fn restore_revocations(
        &self,
        orders: &[Revocation],
        age: Duration,
    ) -> Result<(), StoreUnavailable> {
        self.backend.restore(orders, age).await
    }

    /// Makes sure that a revocation and a login would be stored. A server that only answers reads may
    /// be full, a replica, or one that no other replica of the gateway uses any more.
    pub async fn check_writable(&self) -> Result<(), StoreUnavailable> {
        self.backend.check_writable().await
    }

    /// Makes sure that values can be stored on a part of a Redis Cluster, another one each time. The
    /// part that keeps the log is what [`Self::check_writable`] is about.
    pub async fn check_next_master(&self) -> Result<(), StoreUnavailable> {
        self.backend.check_next_master().await
    }

    /// Whether a call went unanswered and no write has been since.
    pub fn is_silent(&self) -> bool {
        self.backend.is_silent()
    }

    /// Tries each command that the gateway uses, and says which of them failed and why.
    pub async fn try_commands(&self) -> Vec<StoreUnavailable> {
        self.backend.try_commands().await
    }

    /// What is reported of a store that takes long to answer.
    pub fn no_answer(&self) -> StoreUnavailable {
        let cause = if self.is_shared() {
            UnavailableCause::Unreachable
        } else {
            UnavailableCause::FileOverloaded
        };
        StoreUnavailable::new(cause, "no answer yet")
    }

    /// Makes sure that the server is still the one to ask. That may take a while.
    pub async fn check_master(&self) {
        self.backend.check_master().await;
    }

    /// Reads on in the log. Every answer, an empty one too, says that the keeper is there and that
    /// nothing else has been added.
    pub async fn read_log(&self, mark: &LogPosition) -> Result<LogRead, StoreUnavailable> {
        self.backend.follow(mark).await
    }

    /// A call, as a trace tells it. Of the key it tells what it is for: the rest may be an openid.
    async fn told<T>(
        &self,
        operation: &'static str,
        key: &str,
        work: impl Future<Output = Result<T, StoreUnavailable>>,
    ) -> Result<T, StoreUnavailable> {
        let Some(SpanTarget { system, server }) = &self.asked else { return work.await };
        let mut span = traces::client_span(|| format!("store {operation}"));
        span.set_attribute("db.system.name", || Some(*system));
        span.set_attribute("db.operation.name", || Some(operation));
        span.set_attribute("db.collection.name", || key.split('/').next());
        span.set_attribute("server.address", || server.as_ref().map(|(host, _)| host.as_str()));
        span.set_attribute("server.port", || server.as_ref().map(|(_, port)| *port));
        let answer = work.await;
        match &answer {
            Ok(_) => span.end_ok(),
            Err(_) => span.end_error("unreachable"),
        }
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_is_told_without_its_password() {
        let cases = [
            ("redis://10.0.0.1", "Redis at 10.0.0.1:6379"),
            ("rediss://wxgate:hunter2@redis.internal:6380/2", "Redis at redis.internal:6380"),
            ("redis://:hunter2@10.0.0.1/2", "Redis at 10.0.0.1:6379"),
            ("unix:///run/redis.sock?pass=hunter2", "Redis at a unix socket"),
        ];
        for (url, expected) in cases {
            let place = RedisAddress::Url(Secret::new(url));
            let (username, password, ca) = (None, None, None);
            let remote = RedisSettings { place, username, password, tls: false, ca };
            let settings = Settings::Redis(Box::new(remote));
            assert_eq!(settings.to_string(), expected);
            assert!(!format!("{settings:?}").contains("hunter2"));
        }
    }
}
