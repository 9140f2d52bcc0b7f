//! The sites behind us: connections, whose turn it is, and one request across one of them.
//!
//! Connections belong to one thread, and nothing on the way of a request is locked. What threads find
//! out about a server they share ([`Backend`]), with each other and with those who check it.

use std::{cell::RefCell, collections::HashMap, io, rc::Rc, sync::Arc, time::Duration};

use http::Response;
use rustls::ClientConfig;
use tokio::time::{Instant, timeout};

use crate::{
    descriptors,
    http1::BufferPool,
    httputil::{
        BoxError,
        outbound::{HeaderSource, OutboundRequest},
    },
    site::{Endpoint, Protocol, Site, UpstreamSettings, UpstreamTls},
};

mod backend;
mod registry;
mod balance;
mod body;
mod health_check;
mod connect;
mod exchange;
mod load_balancer;
mod http1;
mod http2;
mod probe;
mod pool;
mod backoff;
mod concurrency_limit;
pub mod tls;
mod tunnel;

pub use backend::Backend;
pub use body::{BodyLimits, LimitedRequestBody, UpstreamBody};
pub use load_balancer::LoadBalancer;
pub use probe::{HealthCheckRequest, HealthCheckResponse, probe};
pub use registry::BackendRegistry;
pub use tunnel::UpgradedConnection;

use backend::AttemptKind;
use backoff::FailureCount;
use connect::ConnectTls;
use exchange::{Exchange, Retry, SendFailure, UpstreamConnection};
use http2::Http2Pool;
use load_balancer::{AttemptState, Member, Selection};
use pool::{IdleLimit, Pool};

/// A site did not answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No server of the site took a connection.
    #[error("the site cannot be reached")]
    Unreachable(#[source] io::Error),
    /// All its servers have as much to do as they may, and none had room in time.
    #[error("every upstream server is at `upstream_connections`")]
    Overloaded,
    /// The process has no file descriptor left to connect to the site with.
    #[error("no file descriptor is left for a connection to the site")]
    NoDescriptor(#[source] io::Error),
    /// It did not begin to answer in time.
    #[error("upstream sent no response within {0:?}")]
    ResponseTimeout(Duration),
    /// It hung up, or spoke something that is not HTTP.
    #[error("upstream closed the connection before the response was complete")]
    ConnectionClosed(#[source] io::Error),
    /// The visitor's request body is larger than allowed.
    #[error("the request body is larger than allowed")]
    TooLarge,
    /// The visitor's request body comes too slowly.
    #[error("the request body comes too slowly")]
    BodyTimeout,
    /// The visitor's request body has no end that we could find.
    #[error("the request body is not well formed")]
    MalformedBody,
    /// The visitor's session ended before their request body did.
    #[error("the session was over before the request body was complete")]
    SessionOver,
}

impl Error {
    /// The word for what the site did; nothing where it was the visitor's doing.
    pub fn reason(&self) -> Option<&'static str> {
        match self {
            Self::Unreachable(_) => Some("unreachable"),
            Self::Overloaded => Some("full"),
            Self::ResponseTimeout(_) => Some("slow"),
            Self::ConnectionClosed(_) => Some("broken"),
            Self::NoDescriptor(_)
            | Self::TooLarge
            | Self::BodyTimeout
            | Self::MalformedBody
            | Self::SessionOver => None,
        }
    }
}

/// One thread's connections to every site.
pub struct UpstreamClient {
    pools: RefCell<HashMap<PoolKey, Rc<Pool>>>,
    tls: Arc<ClientConfig>,
    arena: Rc<BufferPool>,
    backends: Arc<BackendRegistry>,
    shelf: Rc<IdleLimit>,
}

/// Whoever wants to know what a site says before its answer.
pub type InterimHandler<'a> = &'a dyn Fn(Response<()>);

/// Interim answers before the answer. They are there to be few.
const MAX_INTERIM: u32 = 100;

/// What connections are shared by: the server, who we are to it, and what we speak.
type PoolKey = (Endpoint, Option<UpstreamTls>, Protocol);

impl UpstreamClient {
    /// No connections yet, and never more than so many that are idle, but for one to each server.
    pub fn new(
        tls: Arc<ClientConfig>,
        (arena, backends): (Rc<BufferPool>, Arc<BackendRegistry>),
        most_idle: usize,
    ) -> Self {
        let shelf = IdleLimit::new(most_idle);
        Self { pools: RefCell::default(), tls, arena, backends, shelf }
    }

    /// The servers of a site. Sites that share a server share its connections, unless they have
    /// other credentials: then its answers are not the same either.
    pub fn load_balancer(&self, site: &Site) -> LoadBalancer {
        let own = (site.upstream.tls.as_ref(), site.upstream.protocol);
        let server = |it| (self.pool(it, own), self.backends.of(&site.name, it));
        let waiting = self.backends.waiting(site);
        LoadBalancer::new(&site.upstream, site.upstream.endpoints().map(server), waiting)
    }

    /// Sends a request to the site's next server and brings back its answer, whose body streams.
    ///
    /// A connection that had served before and died before a byte of the answer is replaced. A new
    /// one that did so is the server's failure: what does no harm twice is asked of the next server,
    /// but of no third. A request that takes a server down is not to take all of them down.
    pub async fn send(
        &self,
        request: &OutboundRequest<'_, impl HeaderSource>,
        body: LimitedRequestBody,
        (group, site): (&LoadBalancer, &UpstreamSettings),
        early: InterimHandler<'_>,
    ) -> Result<Response<UpstreamBody>, Error> {
        let (mut body, mut round, mut refused) = (body, AttemptState::default(), false);
        let mut failure = None;
        let switches = request.fields.is_upgrade();
        loop {
            let found = self.acquire_connection((group, site), &mut round, switches).await;
            let ((number, seat), way) = match found {
                Ok(found) => found,
                // Nobody else could be asked: what the last one did is the answer.
                Err(error) => return Err(failure.unwrap_or(error)),
            };
            let anew = !way.is_reused();
            match Exchange::send(way, request, body, (site.response_timeout, early)).await {
                Ok(answer) => {
                    seat.backend.record_success(anew);
                    return Ok(body::upstream_response(answer, site.response_timeout));
                }
                Err(SendFailure { body: unsent, error, again }) => {
                    if let (Error::ConnectionClosed(why), Retry::Never | Retry::NextServer) =
                        (&error, again)
                    {
                        seat.backend.record_failure(FailureCount::BROKEN, &why.to_string());
                    }
                    match again {
                        Retry::RefusedStream if !refused => refused = true,
                        Retry::NextServer if failure.is_none() => {
                            round.tried.push(number);
                            failure = Some(error);
                        }
                        Retry::StaleConnection => (),
                        Retry::Never | Retry::RefusedStream | Retry::NextServer => {
                            return Err(error);
                        }
                    }
                    body = unsent;
                }
            }
        }
    }

    /// Closes connections that nobody has used for a while.
    pub fn close_idle(&self) {
        let now = Instant::now();
        self.pools
            .borrow_mut()
            .retain(|_, pool| pool.close_expired(now) || Rc::strong_count(pool) > 1);
    }

    /// A way to the server that is next: a free one, else a new one, else one to the server after
    /// it.
    async fn acquire_connection<'a>(
        &self,
        (group, site): (&'a LoadBalancer, &UpstreamSettings),
        attempt: &mut AttemptState,
        switches: bool,
    ) -> Result<((usize, &'a Member), UpstreamConnection), Error> {
        let mut last = io::Error::other("no server is configured");
        while let Some(Selection { member: seat, number, attempt: turn, permit: place }) =
            group.select(attempt).await?
        {
            let Member { pool, backend, .. } = seat;
            if turn == AttemptKind::Normal
                && let Some(way) = pool.checkout(switches)
            {
                return Ok(((number, seat), way.with_permit(place)));
            }
            // In a box, because it is rare and would make every request carry its weight.
            let connecting = Box::pin(pool.connect(&self.arena, switches));
            match timeout(site.connect_timeout, connecting).await {
                Ok(Ok(way)) => return Ok(((number, seat), way.with_permit(place))),
                // This says nothing about the server, and no other one can be reached either.
                Ok(Err(error)) if descriptors::is_cause_of(&error) => {
                    return Err(Error::NoDescriptor(error));
                }
                Ok(Err(error)) => last = error,
                Err(_) => last = io::ErrorKind::TimedOut.into(),
            }
            attempt.tried.push(number);
            backend.record_failure(FailureCount::REFUSED, &last.to_string());
            tracing::warn!(endpoint = %pool.endpoint, error = %last, "cannot connect to upstream server");
        }
        Err(Error::Unreachable(last))
    }

    fn pool(
        &self,
        endpoint: &Endpoint,
        (own, protocol): (Option<&UpstreamTls>, Protocol),
    ) -> Rc<Pool> {
        // They mean nothing to a server that is not spoken to over TLS.
        let own = own.filter(|_| matches!(endpoint, Endpoint::Https(..)));
        let mut pools = self.pools.borrow_mut();
        let new = || pool(endpoint, (own, &self.tls), (protocol, &self.shelf));
        Rc::clone(pools.entry((endpoint.clone(), own.cloned(), protocol)).or_insert_with(new))
    }
}

/// No connections yet to a server, with these credentials, or with none.
fn pool(
    endpoint: &Endpoint,
    (own, usual): (Option<&UpstreamTls>, &Arc<ClientConfig>),
    (protocol, shelf): (Protocol, &Rc<IdleLimit>),
) -> Rc<Pool> {
    let config = own.map_or_else(|| Arc::clone(usual), |own| tls::with_credentials(own, usual));
    let manner = |config| ConnectTls { config, name: own.and_then(|own| own.name.clone()) };
    Rc::new(match protocol {
        Protocol::Http1 => Pool::new(endpoint.clone(), (manner(config), None), shelf),
        Protocol::Http2 => {
            let plain = manner(tls::offering(&[http2::HTTP1], &config));
            let tls = manner(tls::offering(&[http2::HTTP2, http2::HTTP1], &config));
            let sessions = Box::new(Http2Pool::new(plain));
            Pool::new(endpoint.clone(), (tls, Some(sessions)), shelf)
        }
    })
}

impl Error {
    /// What the site sent is no answer.
    fn unreadable(why: impl Into<BoxError>) -> Self {
        Self::ConnectionClosed(io::Error::new(io::ErrorKind::InvalidData, why))
    }
}
