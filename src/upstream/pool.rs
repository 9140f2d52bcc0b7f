//! Idle connections to one server, the youngest first, so that the others may grow old and go.

use std::{
    cell::{Cell, RefCell},
    io,
    rc::Rc,
    time::Duration,
};

use tokio::time::Instant;

use super::connect::{self, Manner};
use crate::{
    http1::{Arena, Patience, Wire},
    site::Endpoint,
};

/// How long a connection may idle.
const IDLE: Duration = Duration::from_mins(1);
/// Idle connections kept per server and thread.
const MOST_IDLE: usize = 512;

/// The connections of one thread to one server.
pub struct Pool {
    /// The server.
    pub endpoint: Endpoint,
    tls: Manner,
    idle: RefCell<Vec<(Box<Link>, Instant)>>,
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
    pub fn new(endpoint: Endpoint, tls: Manner) -> Self {
        Self { endpoint, tls, idle: RefCell::default(), load: Cell::new(0) }
    }

    /// Requests under way, those that wait for a connection included.
    pub fn load(&self) -> u32 {
        self.load.get()
    }

    /// A connection that is open and free.
    pub fn idle(self: &Rc<Self>) -> Option<Lease> {
        loop {
            let (mut link, _) = self.idle.borrow_mut().pop()?;
            if link.wire.is_idle() {
                return Some(Lease { link, busy: Busy::new(self), is_used: true });
            }
        }
    }

    /// A new connection.
    pub async fn connect(self: &Rc<Self>, arena: &Rc<Arena>) -> io::Result<Lease> {
        let busy = Busy::new(self);
        let stream = connect::open(&self.endpoint, &self.tls).await?;
        let link = Link { wire: Wire::new(stream, arena), clock: Patience::default() };
        Ok(Lease { link: Box::new(link), busy, is_used: false })
    }

    /// Closes what has been idle too long; `false` when nothing is left to keep.
    pub fn sweep(&self, now: Instant) -> bool {
        let mut idle = self.idle.borrow_mut();
        idle.retain_mut(|(link, since)| now.duration_since(*since) < IDLE && link.wire.is_idle());
        idle.shrink_to(8);
        !idle.is_empty()
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

    /// Gives the connection back, over which a request has been sent and its answer read, both to
    /// their ends.
    pub fn give_back(self) {
        let mut idle = self.busy.0.idle.borrow_mut();
        if idle.len() < MOST_IDLE {
            idle.push((self.link, Instant::now()));
        }
    }
}
