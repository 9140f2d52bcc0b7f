//! The sites behind us: connections, whose turn it is, and one request across one of them.
//!
//! Everything here belongs to one thread; nothing is shared and nothing is locked.

use std::{cell::Cell, cell::RefCell, collections::HashMap, io, rc::Rc, sync::Arc, time::Duration};

use http::{Method, Request, Response};
use rustls::ClientConfig;
use tokio::time::{Instant, timeout};

use crate::site::{Endpoint, Upstreams};

mod body;
mod connect;
mod knock;
mod pool;
pub mod tls;
mod tunnel;

pub use body::{Allowance, Outgoing, Streamed};
pub use knock::knock;
pub use tunnel::Tunnels;

use pool::{Lease, Pool};

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
    Broken(#[source] hyper::Error),
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

/// One thread's connections to every site.
pub struct Upstream {
    pools: RefCell<HashMap<Endpoint, Rc<Pool>>>,
    tls: Arc<ClientConfig>,
}

/// The servers of one site, as this thread sees them.
pub struct Group {
    pools: Vec<Rc<Pool>>,
    turn: Cell<usize>,
}

/// A connection that has been quiet for this long may have been closed at the other end the very
/// moment we use it: a request that may be repeated is kept at hand.
const QUIET: Duration = Duration::from_millis(500);

impl Upstream {
    /// No connections yet.
    pub fn new(tls: Arc<ClientConfig>) -> Self {
        Self { pools: RefCell::default(), tls }
    }

    /// The servers of a site. Sites that share a server share its connections.
    pub fn group(&self, site: &Upstreams) -> Group {
        let pools = site.endpoints.iter().map(|endpoint| self.pool(endpoint)).collect();
        Group { pools, turn: Cell::new(0) }
    }

    /// Sends a request to the site's next server and brings back its answer, whose body streams.
    pub async fn send(
        &self,
        request: Request<Outgoing>,
        group: &Group,
        site: &Upstreams,
    ) -> Result<Response<Streamed>, Error> {
        let mut request = request;
        loop {
            let mut lease = self.connection(group, site).await?;
            let spare = spare(&request, &lease);
            match self.exchange(&mut lease, request, site).await {
                Ok(response) => return Ok(body::streamed(response, lease, site.response_timeout)),
                // Only a connection that had served before fails so, and each is tried once.
                Err(Failure::NotSent(unsent)) => request = *unsent,
                // A slow site has the request; another copy would make it slower.
                Err(Failure::Lost(error @ Error::Slow(_))) => return Err(error),
                Err(Failure::Lost(error)) => match spare {
                    Some(again) => request = again,
                    None => return Err(error),
                },
            }
        }
    }

    /// Closes connections that nobody has used for a while.
    pub fn sweep(&self) {
        let now = Instant::now();
        self.pools.borrow_mut().retain(|_, pool| pool.sweep(now) || Rc::strong_count(pool) > 1);
    }

    /// A connection to the server whose turn it is: an idle one, else a new one, else one to the
    /// next server. Servers that were down a moment ago come last.
    async fn connection(&self, group: &Group, site: &Upstreams) -> Result<Lease, Error> {
        let first = group.turn.get();
        group.turn.set(first.wrapping_add(1));
        let in_turn = || {
            let count = group.pools.len();
            let start = first.checked_rem(count).unwrap_or(0);
            group.pools.iter().cycle().skip(start).take(count)
        };
        let up = in_turn().filter(|pool| !pool.is_down());
        let down = in_turn().filter(|pool| pool.is_down());
        let mut last = io::Error::other("no server is configured");
        for pool in up.chain(down) {
            if let Some(lease) = pool.idle().await {
                return Ok(lease);
            }
            match timeout(site.connect_timeout, pool.connect(&self.tls)).await {
                Ok(Ok(lease)) => return Ok(lease),
                Ok(Err(error)) => last = error,
                Err(_) => last = io::ErrorKind::TimedOut.into(),
            }
            pool.mark_down();
            tracing::warn!(endpoint = %pool.endpoint, error = %last, "a server cannot be reached");
        }
        Err(Error::Unreachable(last))
    }

    fn pool(&self, endpoint: &Endpoint) -> Rc<Pool> {
        let mut pools = self.pools.borrow_mut();
        let new = || Rc::new(Pool::new(endpoint.clone()));
        Rc::clone(pools.entry(endpoint.clone()).or_insert_with(new))
    }

    async fn exchange(
        &self,
        lease: &mut Lease,
        request: Request<Outgoing>,
        site: &Upstreams,
    ) -> Result<Response<hyper::body::Incoming>, Failure> {
        let progress = request.body().progress();
        let sending = lease.send(request);
        tokio::pin!(sending);
        loop {
            // The clock runs from the moment the last byte of the request body came, and not while
            // the visitor owes us the next.
            let owed = progress.as_ref().is_some_and(|it| it.is_waiting());
            let last = progress.as_ref().filter(|_| !owed).map(|it| it.last());
            let since = last.unwrap_or_else(Instant::now);
            let deadline = tokio::time::sleep_until(since + site.response_timeout);
            tokio::select! {
                biased;
                sent = &mut sending => return sent.map_err(|failure| failure.or_of_body(progress.as_deref())),
                () = deadline => {
                    let stalled =
                        progress.as_ref().is_none_or(|it| !it.is_waiting() && it.last() <= since);
                    if stalled {
                        return Err(Failure::Lost(Error::Slow(site.response_timeout)));
                    }
                }
            }
        }
    }
}

/// A request that brought no answer.
enum Failure {
    /// Not a byte of it was sent, so here it is again.
    NotSent(Box<Request<Outgoing>>),
    /// Nobody knows whether the site saw it.
    Lost(Error),
}

impl Failure {
    /// Puts the blame where it belongs: a request body that broke off breaks the connection.
    fn or_of_body(self, progress: Option<&body::Progress>) -> Self {
        match progress {
            Some(body) if body.is_too_large() => Self::Lost(Error::TooLarge),
            Some(body) if body.is_stalled() => Self::Lost(Error::Stalled),
            Some(body) if body.is_garbled() => Self::Lost(Error::Garbled),
            Some(_) | None => self,
        }
    }
}

/// A copy of a request that may be sent twice (RFC 9110, section 9.2.2) over a connection that
/// may be gone.
fn spare(request: &Request<Outgoing>, lease: &Lease) -> Option<Request<Outgoing>> {
    let repeatable = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    if !repeatable || lease.quiet_for() < QUIET {
        return None;
    }
    let mut spare = Request::new(request.body().repeat()?);
    *spare.method_mut() = request.method().clone();
    *spare.uri_mut() = request.uri().clone();
    *spare.headers_mut() = request.headers().clone();
    Some(spare)
}
