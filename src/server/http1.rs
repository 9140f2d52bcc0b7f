//! An HTTP/1 connection: one request after the other, each with its answer.
//!
//! Everything happens in the task of the connection. What it needs while it works, it takes when a
//! request comes and drops with the answer, so that a quiet connection holds next to nothing.

use std::{
    cell::RefCell,
    future::{Future, poll_fn},
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll, ready},
    time::Duration,
};

use http::{HeaderValue, Method, Response, StatusCode, Version, header};
use http_body::Body as _;
use tokio::time::{Instant, timeout};

use super::connection::Connection;
use crate::{
    gateway::{Body, Tunnel},
    http1::{
        BufferPool, Http1Connection, Incoming, LazyTimer, MessageWriter, ReadHeadError, Stream,
        WriteError,
        head::{self, BodyLength, ParseError, ParsedRequest},
    },
    httputil::headers,
};

/// How long a connection may take for one more request when the server stops. Its answer says that it
/// is the last, so that nobody's request meets a connection that was just closed: whoever connects, or
/// asks again, a moment too late has done nothing wrong.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(1);
/// How long an answer goes on for somebody who has closed their end: they may have said all they
/// have to say (RFC 9112, section 9.6), or be gone.
const HALF_CLOSE_TIMEOUT: Duration = Duration::from_mins(1);
/// How long what comes behind the last answer is read and forgotten.
const LINGERING_CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// Bytes of the next requests that are read while one is answered.
const READ_AHEAD_LIMIT: usize = 64 * 1024;

/// A connection, and what it is about.
pub struct Http1ServerConnection {
    connection: Connection,
    wire: Rc<RefCell<Http1Connection>>,
    timer: LazyTimer,
    /// Since when we wait for what we wait for.
    since: Option<Instant>,
    /// Whether a request has come.
    begun: bool,
}

/// Why a connection ends before its time.
enum CloseReason {
    /// The other end has closed, or done what nobody may.
    ClientGone,
    /// It met the limit with this key.
    Limit(&'static str),
    /// It was idle, and a new connection needed its place.
    Evicted,
}

impl Http1ServerConnection {
    /// A connection that has said nothing yet.
    pub fn new(connection: Connection, stream: Stream, arena: &Rc<BufferPool>) -> Self {
        let wire = Rc::new(RefCell::new(Http1Connection::new(stream, arena)));
        let timer = LazyTimer::default();
        Self { connection, wire, timer, since: None, begun: false }
    }

    /// Serves it to its end.
    pub async fn serve(mut self) {
        loop {
            let served = match self.next().await {
                // In boxes, which a quiet connection does not have to keep room for.
                Ok(Some(Ok(asked))) => Box::pin(self.answer(asked)).await,
                Ok(Some(Err(refused))) => Box::pin(self.refuse(refused)).await,
                Ok(None) => return,
                Err(end) => Err(end),
            };
            match served {
                Ok(NextStep::KeepAlive) => self.begun = true,
                Ok(NextStep::Close) if !self.wire.borrow().needs_lingering_close() => return,
                Ok(NextStep::LingeringClose | NextStep::Close) => {
                    return Box::pin(self.lingering_close()).await;
                }
                Ok(NextStep::Upgrade(tunnel)) => return Box::pin(self.upgrade(tunnel)).await,
                Err(CloseReason::ClientGone) => return,
                Err(CloseReason::Evicted) => {
                    tracing::debug!(peer = %self.connection.peer.ip, "closed for a new connection");
                    return;
                }
                Err(CloseReason::Limit(key)) => {
                    tracing::debug!(peer = %self.connection.peer.ip, limit = key, "closed");
                    return self.connection.shared.gateway.record_limit(key);
                }
            }
        }
    }

    /// The next request; none when there will be no more.
    async fn next(&mut self) -> Result<Option<Result<ParsedRequest, ParseError>>, CloseReason> {
        let limits = self.connection.shared.limits;
        let longest = usize::try_from(limits.header_bytes).unwrap_or(usize::MAX);
        self.since = None;
        let mut begun = None;
        let head = poll_fn(|cx| {
            let head = self.wire.borrow_mut().poll_head(cx, longest);
            if head.is_ready() {
                return head.map(Ok);
            }
            self.poll_idle(cx, &mut begun).map(Err)
        });
        let head = head.await?;
        self.connection.slot.set_busy();
        match head {
            Ok(None) | Err(ReadHeadError::Truncated | ReadHeadError::Io(_)) => Ok(None),
            Ok(Some(head)) => Ok(Some(head::request(&head, limits.header_count))),
            Err(ReadHeadError::Parse(refused)) => Ok(Some(Err(refused))),
        }
    }

    /// Nothing is there, or a part of a head, which is there since `begun`. Ready when we have
    /// waited long enough.
    fn poll_idle(
        &mut self,
        cx: &mut Context<'_>,
        begun: &mut Option<Instant>,
    ) -> Poll<CloseReason> {
        let (shared, clock) = (&self.connection.shared, &mut self.timer);
        let limits = shared.limits;
        let since = *self.since.get_or_insert_with(Instant::now);
        let heading = self.wire.borrow().has_buffered();
        if heading && begun.is_none() {
            // The rest of a head that has begun to come is on its way: this one is closed last.
            *begun = Some(Instant::now());
            self.connection.slot.refresh();
        }
        if self.connection.slot.poll_idle(cx).is_ready() {
            return Poll::Ready(CloseReason::Evicted);
        }
        let (due, key) = if self.begun && !heading {
            (since + limits.idle_time, "idle_time")
        } else {
            let since = begun.filter(|_| self.begun).unwrap_or(since);
            (since + limits.header_time, "header_time")
        };
        let Some(rung) = shared.registry.stopped_at() else {
            return clock.poll_until(cx, due).map(|()| CloseReason::Limit(key));
        };
        clock.poll_until(cx, due.min(rung + SHUTDOWN_GRACE)).map(|()| CloseReason::ClientGone)
    }

    /// Answers a request. What an `async fn` is given it would keep twice: here and below, what can
    /// be done at once is done before the future that is waited for.
    fn answer(
        &mut self,
        asked: ParsedRequest,
    ) -> impl Future<Output = Result<NextStep, CloseReason>> {
        let ParsedRequest { request, framing, keeps, upgrade: upgrades, expects } = asked;
        let body = if framing.is_ended() {
            Incoming::Empty
        } else {
            self.wire.borrow_mut().start_body(framing, expects);
            Incoming::Http1(Rc::clone(&self.wire))
        };
        let exchange = RequestMeta {
            head: *request.method() == Method::HEAD,
            version: request.version(),
            keeps,
            upgrades,
        };
        let shared = Rc::clone(&self.connection.shared);
        let peer = Rc::clone(&self.connection.peer);
        self.since = None;
        let mut request = request.map(|()| body);
        async move {
            let response = {
                let handling = pin!(shared.gateway.handle(&mut request, &peer));
                self.await_response(handling, upgrades).await?
            };
            // Who still had it could read its body: `is_last` sees that nobody can.
            drop(request);
            self.send(response, exchange).await
        }
    }

    /// What `handling` comes to, unless nobody waits for it any more.
    async fn await_response(
        &mut self,
        mut handling: Pin<&mut impl Future<Output = Response<Body>>>,
        upgrades: bool,
    ) -> Result<Response<Body>, CloseReason> {
        poll_fn(|cx| {
            let polled = handling.as_mut().poll(cx);
            if polled.is_ready() && !upgrades {
                return polled.map(Ok);
            }
            self.connection.peer.interim.poll_write(cx, &mut self.wire.borrow_mut());
            match self.poll_client_disconnect(cx, upgrades) {
                Poll::Ready(end) => Poll::Ready(Err(end)),
                Poll::Pending => polled.map(Ok),
            }
        })
        .await
    }

    /// Ready when nobody waits for the answer any more.
    fn poll_client_disconnect(
        &mut self,
        cx: &mut Context<'_>,
        upgrades: bool,
    ) -> Poll<CloseReason> {
        let mut wire = self.wire.borrow_mut();
        if !wire.framing().is_ended() {
            return Poll::Pending; // whoever reads the body sees it
        }
        let ahead = wire.poll_read_ahead(cx, READ_AHEAD_LIMIT);
        if upgrades && wire.has_buffered() {
            tracing::debug!("client sent data before the upgrade response");
            return Poll::Ready(CloseReason::ClientGone);
        }
        if ready!(ahead).is_err() {
            return Poll::Ready(CloseReason::ClientGone);
        }
        let since = *self.since.get_or_insert_with(Instant::now);
        ready!(self.timer.poll_until(cx, since + HALF_CLOSE_TIMEOUT));
        Poll::Ready(CloseReason::ClientGone)
    }

    /// Says that a head cannot be taken, after which the connection closes: where the next one
    /// begins, nobody can know.
    async fn refuse(&mut self, refused: ParseError) -> Result<NextStep, CloseReason> {
        let shared = &self.connection.shared;
        shared.gateway.record_limit(match refused {
            ParseError::TooLarge => "header_bytes",
            ParseError::TooManyHeaders => "header_count",
            ParseError::Malformed(_) | ParseError::UnsupportedVersion => "unreadable",
        });
        let response = shared.gateway.respond_unparsed(refused, &self.connection.peer);
        let version = Version::HTTP_11;
        let exchange = RequestMeta { head: false, version, keeps: false, upgrades: false };
        self.send(response, exchange).await?;
        Ok(NextStep::LingeringClose)
    }

    /// Sends an answer.
    fn send(
        &mut self,
        response: Response<Body>,
        exchange: RequestMeta,
    ) -> impl Future<Output = Result<NextStep, CloseReason>> {
        let framed = ResponseFraming::of(&response, &exchange);
        let connection = response.headers().get(header::CONNECTION);
        let last = !exchange.keeps || framed.ends() || self.is_last(connection);
        let arena = Rc::clone(self.wire.borrow().arena());
        let mut head = arena.buffer();
        if let Some(rest) = self.connection.peer.interim.take() {
            head.extend_from_slice(&rest);
        }
        head::write_response(&mut head, &response, framed.said);
        if !response.headers().contains_key(header::DATE) {
            head::write_field(&mut head, "date", self.connection.shared.date().as_bytes());
        }
        if connection.is_none() {
            match (last, exchange.version) {
                (true, _) => head::write_field(&mut head, "connection", b"close"),
                (false, Version::HTTP_10) => {
                    head::write_field(&mut head, "connection", b"keep-alive");
                }
                (false, _) => (),
            }
        }
        head.extend_from_slice(b"\r\n");
        let mut sender = MessageWriter::new(head, framed.sent);
        let (mut body, tunnel) = match response.into_body().into_tunnel() {
            Ok(tunnel) => (Body::own(""), Some(tunnel)),
            Err(_) if framed.sent == BodyLength::None => (Body::own(""), None),
            Err(body) => (body, None),
        };
        async move {
            self.write_response(&mut sender, &mut body, &exchange).await?;
            arena.give_back(sender.take_buffer());
            if let Some(tunnel) = tunnel {
                return Ok(NextStep::Upgrade(tunnel));
            }
            let whole = self.wire.borrow().framing().is_ended();
            Ok(match (last || !whole, exchange.keeps || !whole) {
                (false, _) => NextStep::KeepAlive,
                (true, true) => NextStep::LingeringClose,
                (true, false) => NextStep::Close,
            })
        }
    }

    /// Whether the connection has to close behind an answer whose `Connection` is this: because it says
    /// so, or the server stops, or there is a body that nobody reads.
    fn is_last(&self, connection: Option<&HeaderValue>) -> bool {
        let says = connection.is_some_and(|it| it.as_bytes() == b"close");
        let read_by_none = Rc::strong_count(&self.wire) == 1;
        let mut wire = self.wire.borrow_mut();
        let unread = !wire.framing().is_ended() && read_by_none && !wire.skip_buffered_body();
        says || unread || self.connection.shared.registry.stopped_at().is_some()
    }

    /// Sends until all of it is on its way.
    async fn write_response(
        &mut self,
        sender: &mut MessageWriter,
        body: &mut Body,
        exchange: &RequestMeta,
    ) -> Result<(), CloseReason> {
        let wire = Rc::clone(&self.wire);
        let mut taken = None;
        self.since = None;
        poll_fn(|cx| match sender.poll(cx, Pin::new(&mut *body), &mut &*wire) {
            Poll::Ready(Ok(())) => Poll::Ready(Ok(())),
            Poll::Ready(Err(WriteError::Io(error))) => {
                tracing::debug!(peer = %self.connection.peer.ip, %error, "response ended early");
                Poll::Ready(Err(CloseReason::ClientGone))
            }
            Poll::Ready(Err(WriteError::Body(error))) => {
                tracing::debug!(peer = %self.connection.peer.ip, error, "response ended early");
                Poll::Ready(Err(CloseReason::ClientGone))
            }
            Poll::Pending if sender.is_blocked() => {
                if taken.replace(sender.taken()) != Some(sender.taken()) {
                    self.since = None;
                }
                self.poll_write_timeout(cx).map(Err)
            }
            Poll::Pending => {
                if taken.take().is_some() {
                    self.since = None;
                }
                self.poll_client_disconnect(cx, exchange.upgrades).map(Err)
            }
        })
        .await
    }

    /// The other end takes nothing. Ready when that has been so for too long.
    fn poll_write_timeout(&mut self, cx: &mut Context<'_>) -> Poll<CloseReason> {
        let since = *self.since.get_or_insert_with(Instant::now);
        let due = since + self.connection.shared.limits.send_time;
        self.timer.poll_until(cx, due).map(|()| CloseReason::Limit("send_time"))
    }

    /// Closes, so that the last answer arrives.
    async fn lingering_close(self) {
        let farewell = poll_fn(|cx| self.wire.borrow_mut().poll_lingering_close(cx));
        let _ = timeout(LINGERING_CLOSE_TIMEOUT, farewell).await;
    }

    /// Is a pipe from here on.
    async fn upgrade(self, tunnel: Box<Tunnel>) {
        let shared = Rc::clone(&self.connection.shared);
        let Some(wire) = Rc::into_inner(self.wire) else { return };
        let wire = wire.into_inner();
        if wire.has_buffered() {
            return;
        }
        let (visitor, _) = wire.into_parts();
        tokio::select! {
            () = tunnel.join(visitor) => (),
            () = shared.close.cancelled() => (),
        }
    }
}

/// What comes behind an answer.
enum NextStep {
    /// Another request may.
    KeepAlive,
    /// Nothing, as the other end wished.
    Close,
    /// Nothing, which the other end may not know yet.
    LingeringClose,
    /// Another protocol.
    Upgrade(Box<Tunnel>),
}

/// What has to be known of a request when it is answered.
struct RequestMeta {
    /// Whether it wants a head only.
    head: bool,
    version: Version,
    keeps: bool,
    upgrades: bool,
}

/// How the body of an answer is framed (RFC 9112, section 6.3).
struct ResponseFraming {
    /// What the head says.
    said: BodyLength,
    /// What follows the head.
    sent: BodyLength,
}

impl ResponseFraming {
    fn of(response: &Response<Body>, exchange: &RequestMeta) -> Self {
        let status = response.status();
        if status.is_informational() || status == StatusCode::NO_CONTENT {
            return Self { said: BodyLength::None, sent: BodyLength::None };
        }
        let exact = response.body().size_hint().exact();
        if exchange.head || status == StatusCode::NOT_MODIFIED {
            let told = headers::content_length(response.headers());
            let said = told.or(exact.filter(|length| *length > 0));
            return Self {
                said: said.map_or(BodyLength::None, BodyLength::Known),
                sent: BodyLength::None,
            };
        }
        let both = match (exact, exchange.version) {
            (Some(bytes), _) => BodyLength::Known(bytes),
            (None, Version::HTTP_10) => BodyLength::CloseDelimited,
            (None, _) => BodyLength::Chunked,
        };
        Self { said: both, sent: both }
    }

    /// Whether the connection has to close to say where the body ends.
    fn ends(&self) -> bool {
        self.sent == BodyLength::CloseDelimited
    }
}
