//! Idle connections to one server, the youngest first, so that the others may grow old and go.

use std::{
    cell::{Cell, RefCell},
    io,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use http::{Request, Response};
use hyper::{body::Incoming, client::conn::http1::SendRequest};
use rustls::ClientConfig;
use tokio::time::Instant;

use super::{Error, Failure, Outgoing, body::Progress, connect};
use crate::site::Endpoint;

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
    idle: RefCell<Vec<(SendRequest<Outgoing>, Instant)>>,
    down_until: Cell<Option<Instant>>,
}

impl Pool {
    /// No connections yet.
    pub fn new(endpoint: Endpoint) -> Self {
        Self { endpoint, idle: RefCell::default(), down_until: Cell::new(None) }
    }

    /// Whether it could not be reached a moment ago.
    pub fn is_down(&self) -> bool {
        self.down_until.get().is_some_and(|until| Instant::now() < until)
    }

    /// Notes that it could not be reached.
    pub fn mark_down(&self) {
        self.down_until.set(Some(Instant::now() + DOWN));
    }

    /// A connection that is open and free.
    pub async fn idle(self: &Rc<Self>) -> Option<Lease> {
        loop {
            let (mut sender, since) = self.idle.borrow_mut().pop()?;
            if sender.is_ready() || (!sender.is_closed() && sender.ready().await.is_ok()) {
                let (pool, idle_since) = (Rc::clone(self), Some(since));
                return Some(Lease { sender, pool, idle_since, sending: None });
            }
        }
    }

    /// A new connection.
    pub async fn connect(self: &Rc<Self>, tls: &Arc<ClientConfig>) -> io::Result<Lease> {
        let sender = connect::open(&self.endpoint, tls).await?;
        self.down_until.set(None);
        Ok(Lease { sender, pool: Rc::clone(self), idle_since: None, sending: None })
    }

    /// Closes what has been idle too long; `false` when nothing is left to keep.
    pub fn sweep(&self, now: Instant) -> bool {
        let mut idle = self.idle.borrow_mut();
        idle.retain(|(sender, since)| !sender.is_closed() && now.duration_since(*since) < IDLE);
        idle.shrink_to(8);
        !idle.is_empty() || self.is_down()
    }
}

/// A connection in use. It goes back to its pool only when a request has been sent and its answer
/// read, both to their ends.
pub struct Lease {
    sender: SendRequest<Outgoing>,
    pool: Rc<Pool>,
    idle_since: Option<Instant>,
    sending: Option<Rc<Progress>>,
}

impl Lease {
    /// How long it had been idle; not at all if it is new.
    pub fn quiet_for(&self) -> Duration {
        self.idle_since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// Sends a request and waits for the head of the answer.
    pub async fn send(
        &mut self,
        request: Request<Outgoing>,
    ) -> Result<Response<Incoming>, Failure> {
        let reused = self.idle_since.is_some();
        self.sending = request.body().progress();
        self.sender.try_send_request(request).await.map_err(|mut error| {
            match error.take_message() {
                Some(unsent) if reused => Failure::NotSent(Box::new(unsent)),
                Some(_) | None => Failure::Lost(Error::Broken(error.into_error())),
            }
        })
    }

    /// Gives the connection back. A site may answer before it has the whole request: then the
    /// next visitor would wait for the body of this one, for as long as this one likes.
    pub fn give_back(self) {
        let mut idle = self.pool.idle.borrow_mut();
        let sent = self.sending.as_ref().is_none_or(|body| body.is_whole());
        if sent && !self.sender.is_closed() && idle.len() < MOST_IDLE {
            idle.push((self.sender, Instant::now()));
        }
    }
}
