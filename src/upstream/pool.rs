//! Idle connections to one server, the youngest first, so that the others may grow old and go.

use std::{
    cell::{Cell, RefCell},
    io,
    rc::Rc,
    time::Duration,
};

use tokio::time::Instant;

use super::{
    concurrency_limit::Permit,
    connect::{self, ConnectTls},
    exchange::UpstreamConnection,
    http2::{Http2Pool, NegotiatedConnection},
};
use crate::{
    http1::{BufferPool, Http1Connection, LazyTimer},
    site::Endpoint,
};

/// How long a connection may idle.
const IDLE: Duration = Duration::from_mins(1);
/// Idle connections kept per server and thread.
const MAX_IDLE: usize = 512;

/// The connections of one thread to one server.
pub struct Pool {
    /// The server.
    pub endpoint: Endpoint,
    tls: ConnectTls,
    /// What requests share, where HTTP/2 is spoken.
    http2: Option<Box<Http2Pool>>,
    idle: RefCell<Vec<(Box<TimedConnection>, Instant)>>,
    load: Cell<u32>,
    shelf: Rc<IdleLimit>,
}

/// A connection to a server, and the clock that goes with it. In a box, because it is handed about
/// with every request.
pub struct TimedConnection {
    pub wire: Http1Connection,
    pub timer: LazyTimer,
}

impl Pool {
    /// No connections yet.
    pub fn new(
        endpoint: Endpoint,
        (tls, http2): (ConnectTls, Option<Box<Http2Pool>>),
        shelf: &Rc<IdleLimit>,
    ) -> Self {
        let (idle, load, shelf) = (RefCell::default(), Cell::new(0), Rc::clone(shelf));
        Self { endpoint, tls, http2, idle, load, shelf }
    }

    /// Requests under way, those that wait for a connection included.
    pub fn in_flight(&self) -> u32 {
        self.load.get()
    }

    /// A way that is open and free, for a request that would switch to another protocol or not.
    pub fn checkout(self: &Rc<Self>, switches: bool) -> Option<UpstreamConnection> {
        if let Some(http2) = &self.http2
            && !switches
        {
            let slot = http2
                .reserve_stream()
                .map(|slot| UpstreamConnection::Http2(slot, InFlightGuard::new(self)));
            // What a WebSocket that was refused has left is for the next of its kind.
            return if http2.chose_http1() { slot.or_else(|| self.idle()) } else { slot };
        }
        self.idle()
    }

    fn idle(self: &Rc<Self>) -> Option<UpstreamConnection> {
        loop {
            let (mut link, _) = self.idle.borrow_mut().pop()?;
            self.shelf.release(1);
            if link.wire.is_idle() {
                let busy = InFlightGuard::new(self);
                return Some(UpstreamConnection::Http1(PooledConnection {
                    link,
                    busy,
                    is_used: true,
                }));
            }
        }
    }

    /// A way over a new connection.
    pub async fn connect(
        self: &Rc<Self>,
        arena: &Rc<BufferPool>,
        switches: bool,
    ) -> io::Result<UpstreamConnection> {
        let busy = InFlightGuard::new(self);
        let found = match &self.http2 {
            None => {
                NegotiatedConnection::Http1(connect::open(&self.endpoint, &self.tls).await?.stream)
            }
            Some(it) if switches => {
                NegotiatedConnection::Http1(connect::open(&self.endpoint, &it.plain).await?.stream)
            }
            Some(it) => it.connect(&self.endpoint, &self.tls).await?,
        };
        Ok(match found {
            NegotiatedConnection::Slot(slot) => UpstreamConnection::Http2(slot, busy),
            NegotiatedConnection::Http1(stream) => {
                let link = TimedConnection {
                    wire: Http1Connection::new(stream, arena),
                    timer: LazyTimer::default(),
                };
                UpstreamConnection::Http1(PooledConnection {
                    link: Box::new(link),
                    busy,
                    is_used: false,
                })
            }
        })
    }

    /// Closes what has been idle too long; `false` when nothing is left to keep.
    pub fn close_expired(&self, now: Instant) -> bool {
        let mut idle = self.idle.borrow_mut();
        let before = idle.len();
        idle.retain_mut(|(link, since)| now.duration_since(*since) < IDLE && link.wire.is_idle());
        self.shelf.release(before - idle.len());
        idle.shrink_to(8);
        let shared = self.http2.as_ref().is_some_and(|it| it.sweep(now, IDLE));
        !idle.is_empty() || shared
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shelf.release(self.idle.borrow().len());
    }
}

/// How many idle connections one thread keeps in all, and has at the moment.
#[derive(Debug)]
pub struct IdleLimit {
    most: usize,
    now: Cell<usize>,
}

impl IdleLimit {
    /// None yet.
    pub fn new(most: usize) -> Rc<Self> {
        Rc::new(Self { most, now: Cell::new(0) })
    }

    fn release(&self, count: usize) {
        self.now.set(self.now.get().saturating_sub(count));
    }

    /// Whether one more is kept by a server that has so many.
    fn try_reserve(&self, idle: usize) -> bool {
        // One is, whatever the others have: a quiet site is not to be slow for a busy one's sake.
        let takes = idle == 0 || (idle < MAX_IDLE && self.now.get() < self.most);
        self.now.set(self.now.get() + usize::from(takes));
        takes
    }
}

/// One request under way at a server, or a tunnel to it.
pub struct InFlightGuard {
    pool: Rc<Pool>,
    /// What says so to all threads, where somebody counts.
    permit: Option<Permit>,
}

impl InFlightGuard {
    fn new(pool: &Rc<Pool>) -> Self {
        pool.load.set(pool.load.get() + 1);
        Self { pool: Rc::clone(pool), permit: None }
    }

    /// The same, which takes a place at the server for as long as it lasts.
    pub fn at(mut self, permit: Option<Permit>) -> Self {
        self.permit = permit;
        self
    }
}

impl Drop for InFlightGuard {
    fn drop(&mut self) {
        self.pool.load.set(self.pool.load.get() - 1);
    }
}

/// A connection in use.
pub struct PooledConnection {
    pub link: Box<TimedConnection>,
    busy: InFlightGuard,
    /// Whether it has served before, so that the other end may have closed it this very moment.
    pub is_used: bool,
}

impl PooledConnection {
    /// The same, which takes a place at its server for as long as it lasts.
    pub fn at(mut self, permit: Option<Permit>) -> Self {
        self.busy.permit = permit;
        self
    }

    /// The connection, and what says that it is in use.
    pub fn into_parts(self) -> (Box<TimedConnection>, InFlightGuard) {
        (self.link, self.busy)
    }

    /// Gives the connection back, over which a request has been sent and its answer read, both to
    /// their ends.
    pub fn put(self) {
        let pool = &self.busy.pool;
        let mut idle = pool.idle.borrow_mut();
        if pool.shelf.try_reserve(idle.len()) {
            idle.push((self.link, Instant::now()));
        }
    }
}
