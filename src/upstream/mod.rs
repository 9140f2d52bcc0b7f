//! The sites behind us: connections, whose turn it is, and one request across one of them.
//!
//! Everything here belongs to one thread; nothing is shared and nothing is locked.

use std::{cell::RefCell, collections::HashMap, io, rc::Rc, sync::Arc, time::Duration};

use http::{Request, Response, header};
use rustls::ClientConfig;
use tokio::time::{Instant, timeout};

use crate::{
    http1::Arena,
    metrics::{Metrics, Part},
    site::{Credentials, Endpoint, Protocol, Server, Upstreams},
    wire::BoxError,
};

mod balance;
mod body;
mod connect;
mod exchange;
mod group;
mod http1;
mod http2;
mod knock;
mod pool;
pub mod tls;
mod tunnel;

pub use body::{Allowance, Outgoing, Streamed};
pub use group::Group;
pub use knock::{Heard, knock};
pub use tunnel::Switched;

use connect::Manner;
use exchange::{Again, Exchange, Failure, Way};
use http2::Sessions;
use pool::Pool;

/// A site did not answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No server of the site took a connection.
    #[error("the site cannot be reached")]
    Unreachable(#[source] io::Error),
    /// It did not begin to answer in time.
    #[error("the site took longer than {0:?} to begin its answer")]
    Slow(Duration),
    /// It hung up, or spoke something that is not HTTP.
    #[error("the site broke off")]
    Broken(#[source] io::Error),
    /// The visitor's request body is larger than allowed.
    #[error("the request body is larger than allowed")]
    TooLarge,
    /// The visitor's request body comes too slowly.
    #[error("the request body comes too slowly")]
    Stalled,
    /// The visitor's request body has no end that we could find.
    #[error("the request body is not well formed")]
    Garbled,
}

impl Error {
    /// The word for what the site did; nothing where it was the visitor's doing.
    pub fn reason(&self) -> Option<&'static str> {
        match self {
            Self::Unreachable(_) => Some("unreachable"),
            Self::Slow(_) => Some("slow"),
            Self::Broken(_) => Some("broken"),
            Self::TooLarge | Self::Stalled | Self::Garbled => None,
        }
    }
}

/// One thread's connections to every site.
pub struct Upstream {
    pools: RefCell<HashMap<Door, Rc<Pool>>>,
    tls: Arc<ClientConfig>,
    arena: Rc<Arena>,
    metrics: Arc<Metrics>,
}

/// What connections are shared by: the server, who we are to it, and what we speak.
type Door = (Endpoint, Option<Credentials>, Protocol);

impl Upstream {
    /// No connections yet.
    pub fn new(tls: Arc<ClientConfig>, (arena, metrics): (Rc<Arena>, Arc<Metrics>)) -> Self {
        Self { pools: RefCell::default(), tls, arena, metrics }
    }

    /// The servers of a site. Sites that share a server share its connections, unless they have
    /// other credentials: then its answers are not the same either.
    pub fn group(&self, site: &Upstreams) -> Group {
        let own = (site.tls.as_ref(), site.protocol);
        let pool = |server: &Server| (self.pool(&server.endpoint, own), server.weight);
        Group::new(site.balance, site.servers.iter().map(pool))
    }

    /// Sends a request to the site's next server and brings back its answer, whose body streams.
    pub async fn send<B>(
        &self,
        request: &Request<B>,
        body: Outgoing,
        (group, site): (&Group, &Upstreams),
    ) -> Result<Response<Streamed>, Error> {
        let (mut body, mut refused) = (body, false);
        let switches = || request.headers().contains_key(header::UPGRADE);
        loop {
            let way = self.way((group, site), switches).await?;
            match Exchange::ask(way, request, body, site.response_timeout).await {
                Ok(answer) => return Ok(body::streamed(answer, site.response_timeout)),
                Err(Failure { body: unsent, again: Again::Stale, .. }) => body = unsent,
                Err(Failure { body: unsent, again: Again::Once, .. }) if !refused => {
                    (body, refused) = (unsent, true);
                }
                Err(Failure { error, .. }) => return Err(error),
            }
        }
    }

    /// Closes connections that nobody has used for a while.
    pub fn sweep(&self) {
        let now = Instant::now();
        self.pools.borrow_mut().retain(|_, pool| pool.sweep(now) || Rc::strong_count(pool) > 1);
    }

    /// A way to the server that is next: a free one, else a new one, else one to the server after
    /// it.
    async fn way(
        &self,
        (group, site): (&Group, &Upstreams),
        switches: impl Fn() -> bool,
    ) -> Result<Way, Error> {
        let mut last = io::Error::other("no server is configured");
        let mut asked = Vec::new();
        while let Some((place, pool)) = group.next(&asked) {
            if let Some(way) = pool.free(&switches) {
                return Ok(way);
            }
            // In a box, because it is rare and would make every request carry its weight.
            let connecting = Box::pin(pool.connect(&self.arena, switches()));
            match timeout(site.connect_timeout, connecting).await {
                Ok(Ok(way)) => {
                    self.metrics.health.well(Part::Upstream, &pool.name);
                    return Ok(way);
                }
                Ok(Err(error)) => last = error,
                Err(_) => last = io::ErrorKind::TimedOut.into(),
            }
            asked.push(place);
            pool.mark_down();
            self.metrics.health.ill(Part::Upstream, &pool.name, &last.to_string());
            tracing::warn!(endpoint = %pool.endpoint, error = %last, "a server cannot be reached");
        }
        Err(Error::Unreachable(last))
    }

    fn pool(
        &self,
        endpoint: &Endpoint,
        (own, protocol): (Option<&Credentials>, Protocol),
    ) -> Rc<Pool> {
        // They mean nothing to a server that is not spoken to over TLS.
        let own = own.filter(|_| matches!(endpoint, Endpoint::Https(..)));
        let mut pools = self.pools.borrow_mut();
        let new = || pool(endpoint, (own, &self.tls), protocol);
        Rc::clone(pools.entry((endpoint.clone(), own.cloned(), protocol)).or_insert_with(new))
    }
}

/// No connections yet to a server, with these credentials, or with none.
fn pool(
    endpoint: &Endpoint,
    (own, usual): (Option<&Credentials>, &Arc<ClientConfig>),
    protocol: Protocol,
) -> Rc<Pool> {
    let config = own.map_or_else(|| Arc::clone(usual), |own| tls::with(own, usual));
    let manner = |config| Manner { config, name: own.and_then(|own| own.name.clone()) };
    Rc::new(match protocol {
        Protocol::Http1 => Pool::new(endpoint.clone(), manner(config), None),
        Protocol::Http2 => {
            let plain = manner(tls::offering(&[http2::HTTP1], &config));
            let tls = manner(tls::offering(&[http2::HTTP2, http2::HTTP1], &config));
            Pool::new(endpoint.clone(), tls, Some(Box::new(Sessions::new(plain))))
        }
    })
}

impl Error {
    /// What the site sent is no answer.
    fn unreadable(why: impl Into<BoxError>) -> Self {
        Self::Broken(io::Error::new(io::ErrorKind::InvalidData, why))
    }
}
