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
    room::Place,
};
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
    shelf: Rc<Shelf>,
}

/// A connection to a server, and the clock that goes with it. In a box, because it is handed about
/// with every request.
pub struct Link {
    pub wire: Wire,
    pub clock: Patience,
}

impl Pool {
    /// No connections yet.
    pub fn new(endpoint: Endpoint, tls: Manner, shelf: &Rc<Shelf>) -> Self {
        let (idle, load, shelf) = (RefCell::default(), Cell::new(0), Rc::clone(shelf));
        Self { endpoint, tls, idle, load, shelf }
    }

    /// Requests under way, those that wait for a connection included.
    pub fn load(&self) -> u32 {
        self.load.get()
    }

    /// A connection that is open and free.
    pub fn idle(self: &Rc<Self>) -> Option<Lease> {
        loop {
            let (mut link, _) = self.idle.borrow_mut().pop()?;
            self.shelf.less(1);
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
        let before = idle.len();
        idle.retain_mut(|(link, since)| now.duration_since(*since) < IDLE && link.wire.is_idle());
        self.shelf.less(before - idle.len());
        idle.shrink_to(8);
        !idle.is_empty()
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shelf.less(self.idle.borrow().len());
    }
}

/// How many idle connections one thread keeps in all, and has at the moment.
#[derive(Debug)]
pub struct Shelf {
    most: usize,
    now: Cell<usize>,
}

impl Shelf {
    /// None yet.
    pub fn new(most: usize) -> Rc<Self> {
        Rc::new(Self { most, now: Cell::new(0) })
    }

    fn less(&self, count: usize) {
        self.now.set(self.now.get().saturating_sub(count));
    }

    /// Whether one more is kept by a server that has so many.
    fn takes(&self, idle: usize) -> bool {
        // One is, whatever the others have: a quiet site is not to be slow for a busy one's sake.
        let takes = idle == 0 || (idle < MOST_IDLE && self.now.get() < self.most);
        self.now.set(self.now.get() + usize::from(takes));
        takes
    }
}

/// One request under way at a server, or a tunnel to it.
pub struct Busy {
    pool: Rc<Pool>,
    /// What says so to all threads, where somebody counts.
    place: Option<Place>,
}

impl Busy {
    fn new(pool: &Rc<Pool>) -> Self {
        pool.load.set(pool.load.get() + 1);
        Self { pool: Rc::clone(pool), place: None }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.pool.load.set(self.pool.load.get() - 1);
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
    /// The same, which takes a place at its server for as long as it lasts.
    pub fn at(mut self, place: Option<Place>) -> Self {
        self.busy.place = place;
        self
    }

    /// The connection, and what says that it is in use.
    pub fn into_parts(self) -> (Box<Link>, Busy) {
        (self.link, self.busy)
    }

    /// Gives the connection back, over which a request has been sent and its answer read, both to
    /// their ends.
    pub fn give_back(self) {
        let pool = &self.busy.pool;
        let mut idle = pool.idle.borrow_mut();
        if pool.shelf.takes(idle.len()) {
            idle.push((self.link, Instant::now()));
        }
    }
}
