//! Idle connections to one server, the youngest first, so that the others may grow old and go.

use std::{
    cell::{Cell, RefCell},
    io,
    rc::Rc,
    time::Duration,
};

use tokio::time::Instant;

use super::{
    connect::{self, Manner},
    exchange::Way,
    http2::{Found, Sessions},
};
use crate::{
    http1::{Arena, Patience, Wire},
    site::Endpoint,
};

/// How long a connection may idle.
const IDLE: Duration = Duration::from_mins(1);
/// Idle connections kept per server and thread.
const MOST_IDLE: usize = 512;
/// How long a server that could not be reached is asked last.
const DOWN: Duration = Duration::from_secs(2);

/// The connections of one thread to one server.
pub struct Pool {
    /// The server.
    pub endpoint: Endpoint,
    /// The same in words.
    pub name: String,
    tls: Manner,
    /// What requests share, where HTTP/2 is spoken.
    http2: Option<Box<Sessions>>,
    idle: RefCell<Vec<(Box<Link>, Instant)>>,
    down_until: Cell<Option<Instant>>,
    load: Cell<u32>,
}

/// A connection to a server, and the clock that goes with it. In a box, because it is handed about
/// with every request.
pub struct Link {
    pub wire: Wire,
    pub clock: Patience,
}

impl Pool {
    /// No connections yet.
    pub fn new(endpoint: Endpoint, tls: Manner, http2: Option<Box<Sessions>>) -> Self {
        Self {
            name: endpoint.to_string(),
            endpoint,
            tls,
            http2,
            idle: RefCell::default(),
            down_until: Cell::new(None),
            load: Cell::new(0),
        }
    }

    /// Requests under way, those that wait for a connection included.
    pub fn load(&self) -> u32 {
        self.load.get()
    }

    /// Whether it could not be reached a moment ago.
    pub fn is_down(&self) -> bool {
        self.down_until.get().is_some_and(|until| Instant::now() < until)
    }

    /// Notes that it could not be reached.
    pub fn mark_down(&self) {
        self.down_until.set(Some(Instant::now() + DOWN));
    }

    /// A way that is open and free, for a request that would switch to another protocol or not.
    pub fn free(self: &Rc<Self>, switches: impl Fn() -> bool) -> Option<Way> {
        if let Some(http2) = &self.http2
            && !switches()
        {
            let place = http2.place().map(|place| Way::Http2(place, Busy::new(self)));
            // What a WebSocket that was refused has left is for the next of its kind.
            return if http2.chose_http1() { place.or_else(|| self.idle()) } else { place };
        }
        self.idle()
    }

    fn idle(self: &Rc<Self>) -> Option<Way> {
        loop {
            let (mut link, _) = self.idle.borrow_mut().pop()?;
            if link.wire.is_idle() {
                let busy = Busy::new(self);
                return Some(Way::Http1(Lease { link, busy, is_used: true }));
            }
        }
    }

    /// A way over a new connection.
    pub async fn connect(self: &Rc<Self>, arena: &Rc<Arena>, switches: bool) -> io::Result<Way> {
        let busy = Busy::new(self);
        let found = match &self.http2 {
            None => Found::Http1(connect::open(&self.endpoint, &self.tls).await?.stream),
            Some(it) if switches => {
                Found::Http1(connect::open(&self.endpoint, &it.plain).await?.stream)
            }
            Some(it) => it.connect(&self.endpoint, &self.tls).await?,
        };
        self.down_until.set(None);
        Ok(match found {
            Found::Place(place) => Way::Http2(place, busy),
            Found::Http1(stream) => {
                let link = Link { wire: Wire::new(stream, arena), clock: Patience::default() };
                Way::Http1(Lease { link: Box::new(link), busy, is_used: false })
            }
        })
    }

    /// Closes what has been idle too long; `false` when nothing is left to keep.
    pub fn sweep(&self, now: Instant) -> bool {
        let mut idle = self.idle.borrow_mut();
        idle.retain_mut(|(link, since)| now.duration_since(*since) < IDLE && link.wire.is_idle());
        idle.shrink_to(8);
        let shared = self.http2.as_ref().is_some_and(|it| it.sweep(now, IDLE));
        !idle.is_empty() || shared || self.is_down()
    }
}

/// One request under way at a server, or a tunnel to it.
pub struct Busy(Rc<Pool>);

impl Busy {
    fn new(pool: &Rc<Pool>) -> Self {
        pool.load.set(pool.load.get() + 1);
        Self(Rc::clone(pool))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.load.set(self.0.load.get() - 1);
    }
}

/// A connection in use.
pub struct Lease {
    pub link: Box<Link>,
    busy: Busy,
    /// Whether it has served before, so that the other end may have closed it this very moment.
    pub is_used: bool,
}

impl Lease {
    /// The connection, and what says that it is in use.
    pub fn into_parts(self) -> (Box<Link>, Busy) {
        (self.link, self.busy)
    }

    /// Whether HTTP/2 was wanted, and this is what there is.
    pub fn falls_back(&self) -> bool {
        self.busy.0.http2.is_some()
    }

    /// Gives the connection back, over which a request has been sent and its answer read, both to
    /// their ends.
    pub fn give_back(self) {
        let mut idle = self.busy.0.idle.borrow_mut();
        if idle.len() < MOST_IDLE {
            idle.push((self.link, Instant::now()));
        }
    }
}
