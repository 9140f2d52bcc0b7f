//! One connection of HTTP/2 that many requests share.

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use h2::{
    Ping, SendStream,
    client::{Builder, ResponseFuture, SendRequest},
};
use http::{Request, uri::Scheme};
use tokio::time::Instant;

use super::driver;
use crate::http1::{LazyTimer, Stream};

/// The longest head of a response, in bytes of RFC 9113, section 6.5.2.
const MAX_RESPONSE_HEAD_LEN: u32 = 64 * 1024;
/// Requests that share a connection, however many the server would take.
const STREAMS: u32 = 100;
/// What may be under way of one answer.
const STREAM_WINDOW: u32 = 128 << 10;
/// What may be under way of all of them: visitors who do not read can fill their own windows, and
/// never that of the connection, which the others need.
const CONNECTION_WINDOW: u32 = STREAMS * STREAM_WINDOW;
/// What is held of each request for a server that does not take it.
const SEND_BUFFER: usize = 64 << 10;

/// A connection.
pub struct Http2Connection {
    requests: RefCell<SendRequest<Bytes>>,
    /// What requests say they came by: our connection, not the visitor's.
    scheme: Scheme,
    state: Rc<Http2State>,
}

/// What its requests and its task know of a connection.
pub struct Http2State {
    /// Requests that have a place on it.
    streams: Cell<usize>,
    /// Since when there are none.
    idle: Cell<Instant>,
    /// How often something has come over it.
    heard: Cell<u64>,
    clocks: RefCell<Vec<LazyTimer>>,
}

impl Http2Connection {
    /// Says hello and waits for the server's: whoever does not speak HTTP/2 is found out here, and
    /// the first request knows how many others there may be.
    pub async fn open(stream: Stream, encrypted: bool, name: &str) -> io::Result<Self> {
        let mut builder = Builder::new();
        builder
            .enable_push(false)
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(MAX_RESPONSE_HEAD_LEN)
            .max_send_buffer_size(SEND_BUFFER);
        let (requests, mut connection) = builder.handshake(stream).await.map_err(unspoken)?;
        let mut pings = connection.ping_pong().ok_or(io::ErrorKind::Unsupported)?;
        pings.send_ping(Ping::opaque()).map_err(unspoken)?;
        poll_fn(|cx| match Pin::new(&mut connection).poll(cx) {
            Poll::Ready(Ok(())) => Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
            Poll::Ready(Err(error)) => Poll::Ready(Err(unspoken(error))),
            Poll::Pending => pings.poll_pong(cx).map_ok(|_| ()).map_err(unspoken),
        })
        .await?;
        let state = Rc::new(Http2State {
            streams: Cell::new(0),
            idle: Cell::new(Instant::now()),
            heard: Cell::new(0),
            clocks: RefCell::default(),
        });
        let drive = driver::run_connection(connection, pings, Rc::clone(&state), name.to_owned());
        tokio::task::spawn_local(drive);
        let scheme = if encrypted { Scheme::HTTPS } else { Scheme::HTTP };
        Ok(Self { requests: RefCell::new(requests), scheme, state })
    }

    /// Whether it takes requests: it is open, and the server has not said that it goes.
    pub fn is_good(&self) -> bool {
        let cx = &mut Context::from_waker(Waker::noop());
        matches!(self.requests.borrow_mut().poll_ready(cx), Poll::Ready(Ok(())))
    }

    /// Requests that have a place on it.
    pub fn streams(&self) -> usize {
        self.state.streams.get()
    }

    /// Whether one more has.
    pub fn has_capacity(&self) -> bool {
        let most = usize::try_from(STREAMS).unwrap_or(usize::MAX);
        let allowed = self.requests.borrow().current_max_send_streams();
        // A server that allows none for the moment would otherwise be given connections for ever.
        self.streams() < allowed.min(most).max(1)
    }

    /// Whether nobody has used it for so long.
    pub fn is_idle(&self, now: Instant, idle: Duration) -> bool {
        self.streams() == 0 && now.duration_since(self.state.idle.get()) >= idle
    }

    /// A place on it.
    pub fn reserve(self: &Rc<Self>) -> StreamSlot {
        self.state.streams.set(self.state.streams.get().saturating_add(1));
        let clock = self.state.clocks.borrow_mut().pop().unwrap_or_default();
        StreamSlot { session: Rc::clone(self), timer: clock, is_used: self.state.heard.get() > 0 }
    }
}

/// A place for one request on a connection.
pub struct StreamSlot {
    session: Rc<Http2Connection>,
    /// A clock that goes with it.
    pub timer: LazyTimer,
    /// Whether the connection has served before, so that the other end may have left it this very
    /// moment.
    pub is_used: bool,
}

impl StreamSlot {
    /// What requests say they came by.
    pub fn scheme(&self) -> Scheme {
        self.session.scheme.clone()
    }

    /// Begins a request.
    pub fn send(
        &self,
        head: Request<()>,
        ends: bool,
    ) -> Result<(ResponseFuture, SendStream<Bytes>), h2::Error> {
        // Of its own, because the library lets each have one request that waits for its turn.
        let mut requests = self.session.requests.borrow().clone();
        requests.send_request(head, ends)
    }

    /// Notes that something has come.
    pub fn record_activity(&self) {
        let heard = &self.session.state.heard;
        heard.set(heard.get().wrapping_add(1));
    }
}

impl Drop for StreamSlot {
    fn drop(&mut self) {
        let state = &self.session.state;
        let left = state.streams.get().saturating_sub(1);
        state.streams.set(left);
        if left == 0 {
            state.idle.set(Instant::now());
        }
        let most = usize::try_from(STREAMS).unwrap_or(usize::MAX);
        let mut clocks = state.clocks.borrow_mut();
        if clocks.len() < most {
            clocks.push(std::mem::take(&mut self.timer));
        }
    }
}

impl Http2State {
    /// Whether any request waits for something to come over it.
    pub fn is_waited_for(&self) -> bool {
        self.streams.get() > 0
    }

    /// How often something has come over it.
    pub fn heard(&self) -> u64 {
        self.heard.get()
    }
}

/// What came was not the beginning of HTTP/2.
fn unspoken(error: h2::Error) -> io::Error {
    if error.is_io() {
        return error.into_io().unwrap_or_else(|| io::ErrorKind::Other.into());
    }
    io::Error::new(io::ErrorKind::InvalidData, format!("it does not speak HTTP/2: {error}"))
}
