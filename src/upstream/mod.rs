//! The sites behind us: connections, whose turn it is, and one request across one of them.
//!
//! Connections belong to one thread, and nothing on the way of a request is locked. What threads find
//! out about a server they share ([`Backend`]), with each other and with those who check it.

use std::{cell::RefCell, collections::HashMap, io, rc::Rc, sync::Arc, time::Duration};

use http::Response;
use rustls::ClientConfig;
use tokio::time::{Instant, timeout};

use crate::{
    http1::Arena,
    site::{Credentials, Endpoint, Protocol, Site, Upstreams},
    wire::{
        BoxError,
        onward::{Fields, Onward},
    },
};

mod backend;
mod backends;
mod balance;
mod body;
mod checks;
mod connect;
mod exchange;
mod group;
mod http1;
mod http2;
mod knock;
mod pool;
mod rest;
mod room;
pub mod tls;
mod tunnel;

pub use backend::Backend;
pub use backends::Backends;
pub use body::{Allowance, Outgoing, Streamed};
pub use group::Group;
pub use knock::{Heard, Question, knock};
pub use tunnel::Switched;

use backend::Turn;
use connect::Manner;
use exchange::{Again, Exchange, Failure, Way};
use group::{Chosen, Round, Seat};
use http2::Sessions;
use pool::{Pool, Shelf};
use rest::Trouble;

/// A site did not answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No server of the site took a connection.
    #[error("the site cannot be reached")]
    Unreachable(#[source] io::Error),
    /// All its servers have as much to do as they may, and none had room in time.
    #[error("every server of the site is busy")]
    Full,
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
            Self::Full => Some("full"),
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
    backends: Arc<Backends>,
    shelf: Rc<Shelf>,
}

/// Whoever wants to know what a site says before its answer.
pub type Early<'a> = &'a dyn Fn(Response<()>);

/// Interim answers before the answer. They are there to be few.
const MOST_INTERIM: u32 = 100;

/// What connections are shared by: the server, who we are to it, and what we speak.
type Door = (Endpoint, Option<Credentials>, Protocol);

impl Upstream {
    /// No connections yet, and never more than so many that are idle, but for one to each server.
    pub fn new(
        tls: Arc<ClientConfig>,
        (arena, backends): (Rc<Arena>, Arc<Backends>),
        most_idle: usize,
    ) -> Self {
        let shelf = Shelf::new(most_idle);
        Self { pools: RefCell::default(), tls, arena, backends, shelf }
    }

    /// The servers of a site. Sites that share a server share its connections, unless they have
    /// other credentials: then its answers are not the same either.
    pub fn group(&self, site: &Site) -> Group {
        let own = (site.upstream.tls.as_ref(), site.upstream.protocol);
        let server = |it| (self.pool(it, own), self.backends.of(&site.name, it));
        let waiting = self.backends.waiting(site);
        Group::new(&site.upstream, site.upstream.endpoints().map(server), waiting)
    }

    /// Sends a request to the site's next server and brings back its answer, whose body streams.
    ///
    /// A connection that had served before and died before a byte of the answer is replaced. A new
    /// one that did so is the server's failure: what does no harm twice is asked of the next server,
    /// but of no third. A request that takes a server down is not to take all of them down.
    pub async fn send(
        &self,
        request: &Onward<'_, impl Fields>,
        body: Outgoing,
        (group, site): (&Group, &Upstreams),
        early: Early<'_>,
    ) -> Result<Response<Streamed>, Error> {
        let (mut body, mut round, mut refused) = (body, Round::default(), false);
        let mut failure = None;
        let switches = request.fields.switch();
        loop {
            let found = self.way((group, site), &mut round, switches).await;
            let ((number, seat), way) = match found {
                Ok(found) => found,
                // Nobody else could be asked: what the last one did is the answer.
                Err(error) => return Err(failure.unwrap_or(error)),
            };
            let anew = !way.is_used();
            match Exchange::ask(way, request, body, (site.response_timeout, early)).await {
                Ok(answer) => {
                    seat.backend.answered(anew);
                    return Ok(body::streamed(answer, site.response_timeout));
                }
                Err(Failure { body: unsent, error, again }) => {
                    if let (Error::Broken(why), Again::No | Again::Elsewhere) = (&error, again) {
                        seat.backend.failed(Trouble::BROKEN, &why.to_string());
                    }
                    match again {
                        Again::Once if !refused => refused = true,
                        Again::Elsewhere if failure.is_none() => {
                            round.asked.push(number);
                            failure = Some(error);
                        }
                        Again::Stale => (),
                        Again::No | Again::Once | Again::Elsewhere => return Err(error),
                    }
                    body = unsent;
                }
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
    async fn way<'a>(
        &self,
        (group, site): (&'a Group, &Upstreams),
        round: &mut Round,
        switches: bool,
    ) -> Result<((usize, &'a Seat), Way), Error> {
        let mut last = io::Error::other("no server is configured");
        while let Some(Chosen { seat, number, turn, place }) = group.next(round).await? {
            let Seat { pool, backend, .. } = seat;
            if turn == Turn::Usual
                && let Some(way) = pool.free(switches)
            {
                return Ok(((number, seat), way.at(place)));
            }
            // In a box, because it is rare and would make every request carry its weight.
            let connecting = Box::pin(pool.connect(&self.arena, switches));
            match timeout(site.connect_timeout, connecting).await {
                Ok(Ok(way)) => return Ok(((number, seat), way.at(place))),
                Ok(Err(error)) => last = error,
                Err(_) => last = io::ErrorKind::TimedOut.into(),
            }
            round.asked.push(number);
            backend.failed(Trouble::REFUSED, &last.to_string());
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
        let new = || pool(endpoint, (own, &self.tls), (protocol, &self.shelf));
        Rc::clone(pools.entry((endpoint.clone(), own.cloned(), protocol)).or_insert_with(new))
    }
}

/// No connections yet to a server, with these credentials, or with none.
fn pool(
    endpoint: &Endpoint,
    (own, usual): (Option<&Credentials>, &Arc<ClientConfig>),
    (protocol, shelf): (Protocol, &Rc<Shelf>),
) -> Rc<Pool> {
    let config = own.map_or_else(|| Arc::clone(usual), |own| tls::with(own, usual));
    let manner = |config| Manner { config, name: own.and_then(|own| own.name.clone()) };
    Rc::new(match protocol {
        Protocol::Http1 => Pool::new(endpoint.clone(), (manner(config), None), shelf),
        Protocol::Http2 => {
            let plain = manner(tls::offering(&[http2::HTTP1], &config));
            let tls = manner(tls::offering(&[http2::HTTP2, http2::HTTP1], &config));
            let sessions = Box::new(Sessions::new(plain));
            Pool::new(endpoint.clone(), (tls, Some(sessions)), shelf)
        }
    })
}

impl Error {
    /// What the site sent is no answer.
    fn unreadable(why: impl Into<BoxError>) -> Self {
        Self::Broken(io::Error::new(io::ErrorKind::InvalidData, why))
    }
}
