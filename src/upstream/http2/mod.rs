//! HTTP/2 to a server: its connections, each of which many requests share.
//!
//! Through `h2`, which hyper stands on, and not through hyper's client: there a request's body goes
//! through a task of its own and what is wrong with it is lost on the way, and nobody can tell what
//! of a request that was refused has been taken. Here, as over HTTP/1, whoever handles the exchange
//! polls both its ways; only the connection itself has a task.

use std::{
    cell::{Cell, RefCell},
    io,
    rc::Rc,
    time::Duration,
};

use tokio::{sync::Semaphore, time::Instant};

use super::connect::{self, ConnectTls, NewConnection};
use crate::{http1::Stream, site::Endpoint};

mod driver;
mod exchange;
mod head;
mod connection;

pub use connection::StreamSlot;
pub use exchange::Http2Exchange;

use connection::Http2Connection;

/// Connections to one server, at the most. When all are full, requests wait for a place on one of
/// them, for as long as the site's answer may take.
const MAX_CONNECTIONS: usize = 64;

/// How a thread speaks HTTP/2 with one server.
pub struct Http2Pool {
    open: RefCell<Vec<Rc<Http2Connection>>>,
    /// How we speak TLS where nothing but HTTP/1.1 will do.
    pub plain: ConnectTls,
    /// One connects and the others wait to share what comes of it.
    connecting: Semaphore,
    failures: Cell<u64>,
    failure: RefCell<Option<ConnectFailure>>,
    /// Whether the server chose HTTP/1.1 when it was last asked: those connections are not shared.
    chose_http1: Cell<bool>,
}

/// The failure of one attempt to connect, for all that waited for it.
struct ConnectFailure {
    code: Option<i32>,
    kind: io::ErrorKind,
    text: String,
}

impl ConnectFailure {
    fn of(error: &io::Error) -> Self {
        Self { code: error.raw_os_error(), kind: error.kind(), text: error.to_string() }
    }

    fn to_error(&self) -> io::Error {
        match self.code {
            Some(code) => io::Error::from_raw_os_error(code),
            None => io::Error::new(self.kind, self.text.clone()),
        }
    }
}

/// What a server gave us when we connected.
pub enum NegotiatedConnection {
    /// A place on a connection of HTTP/2.
    Slot(StreamSlot),
    /// It does not speak that: a connection of HTTP/1.1, over which nothing has come yet.
    Http1(Stream),
}

impl Http2Pool {
    /// None yet.
    pub fn new(plain: ConnectTls) -> Self {
        Self {
            open: RefCell::default(),
            plain,
            connecting: Semaphore::new(1),
            failures: Cell::new(0),
            failure: RefCell::default(),
            chose_http1: Cell::new(false),
        }
    }

    /// A place on a connection that is open: on the first that has room, so that the last ones fall
    /// idle and go. On the least full one, if there may be no more of them.
    pub fn reserve_stream(&self) -> Option<StreamSlot> {
        let mut open = self.open.borrow_mut();
        let mut at = 0;
        while let Some(session) = open.get(at) {
            if !session.is_good() {
                open.remove(at);
            } else if session.has_capacity() {
                return Some(Http2Connection::reserve(session));
            } else {
                at += 1;
            }
        }
        if open.len() < MAX_CONNECTIONS {
            return None;
        }
        open.iter().min_by_key(|session| session.streams()).map(Http2Connection::reserve)
    }

    /// Whether the server chose HTTP/1.1 when it was last asked.
    pub fn chose_http1(&self) -> bool {
        self.chose_http1.get()
    }

    /// A place on a new connection, or on one that somebody else has opened meanwhile. Whoever waits
    /// for another's attempt shares its failure, too.
    pub async fn connect(
        &self,
        endpoint: &Endpoint,
        tls: &ConnectTls,
    ) -> io::Result<NegotiatedConnection> {
        if self.chose_http1.get() {
            return self.open(endpoint, tls).await;
        }
        let before = self.failures.get();
        let turn = self.connecting.acquire().await.map_err(io::Error::other)?;
        if let Some(slot) = self.reserve_stream() {
            return Ok(NegotiatedConnection::Slot(slot));
        }
        if self.failures.get() != before
            && let Some(failure) = &*self.failure.borrow()
        {
            return Err(failure.to_error());
        }
        if self.chose_http1.get() {
            drop(turn);
            return self.open(endpoint, tls).await;
        }
        let opened = self.open(endpoint, tls).await;
        if let Err(error) = &opened {
            self.failures.set(self.failures.get().wrapping_add(1));
            self.failure.replace(Some(ConnectFailure::of(error)));
        }
        opened
    }

    async fn open(
        &self,
        endpoint: &Endpoint,
        tls: &ConnectTls,
    ) -> io::Result<NegotiatedConnection> {
        let NewConnection { stream, protocol } = connect::open(endpoint, tls).await?;
        // Without TLS nobody is asked: it was configured so (RFC 9113, section 3.3).
        let encrypted = matches!(endpoint, Endpoint::Https(..));
        if encrypted && protocol.as_deref() != Some(HTTP2) {
            self.chose_http1.set(true);
            return Ok(NegotiatedConnection::Http1(stream));
        }
        self.chose_http1.set(false);
        let session = Http2Connection::open(stream, encrypted, &endpoint.to_string()).await?;
        let session = Rc::new(session);
        let slot = Http2Connection::reserve(&session);
        self.open.borrow_mut().push(session);
        Ok(NegotiatedConnection::Slot(slot))
    }

    /// Closes what has been idle too long, or may not be used any more; `false` when nothing is
    /// left.
    pub fn sweep(&self, now: Instant, idle: Duration) -> bool {
        let mut open = self.open.borrow_mut();
        open.retain(|session| session.is_good() && !session.is_idle(now, idle));
        !open.is_empty()
    }
}

/// The protocol's name in a handshake (RFC 9113, section 3.2).
pub const HTTP2: &[u8] = b"h2";
/// And that of the other.
pub const HTTP1: &[u8] = b"http/1.1";
