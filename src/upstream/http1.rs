//! One request and its answer over a connection of HTTP/1, both ways at once: a site may answer
//! before it has the whole request.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Response, StatusCode};
use http_body::Body as _;
use tokio::time::Instant;

use super::{
    Error, InterimHandler, MAX_INTERIM,
    body::{LimitedRequestBody, is_event_stream},
    exchange::{Retry, SendFailure},
    pool::{InFlightGuard, PooledConnection},
};
use crate::{
    http1::{
        BodyError, BodyStart, MessageWriter, SplicePipe, Stream, WriteError,
        head::{self, ParsedResponse},
    },
    httputil::outbound::{HeaderSource, OutboundRequest},
};

/// The longest head of a response, in bytes.
const MAX_RESPONSE_HEAD_LEN: usize = 64 * 1024;
/// How long the head of a response waits for the beginning of its body. Many servers write the two one
/// behind the other.
const BODY_START_TIMEOUT: Duration = Duration::from_millis(20);

/// A request on its way over a connection, or its answer.
pub struct Http1Exchange {
    pooled: PooledConnection,
    sender: MessageWriter,
    body: LimitedRequestBody,
    /// Since when nothing has moved, once we have begun to wait, and what had gone out by then.
    since: Option<(Instant, u64)>,
    /// Whether the connection is good for another request when this one is through.
    keeps: bool,
    /// Whether the answer was to switch to another protocol.
    switched: bool,
    /// Interim answers so far.
    interim: u32,
    /// The site takes no more of the request; it may have answered before.
    refused: Option<io::Error>,
}

impl Http1Exchange {
    /// Begins to send a request over this connection.
    pub fn start(
        pooled: PooledConnection,
        request: &OutboundRequest<'_, impl HeaderSource>,
        body: LimitedRequestBody,
    ) -> Box<Self> {
        let mut buffer = pooled.link.wire.arena().buffer();
        let length = head::write_request(&mut buffer, request, body.size_hint().exact());
        let sender = MessageWriter::new(buffer, length);
        Box::new(Self {
            pooled,
            sender,
            body,
            since: None,
            keeps: true,
            switched: false,
            interim: 0,
            refused: None,
        })
    }

    /// Brings the head of the answer.
    pub async fn response(
        mut self: Box<Self>,
        method: &Method,
        (patience, early): (Duration, InterimHandler<'_>),
    ) -> Answer {
        let asked = (method, patience);
        let answered = poll_fn(|cx| self.poll_answer(cx, asked, early)).await;
        match answered {
            Ok(answered) => {
                self.switched = answered.response.status() == StatusCode::SWITCHING_PROTOCOLS;
                self.keeps = answered.keeps && !self.switched;
                self.since = None;
                self.pooled.link.wire.start_body(answered.framing, false);
                let passes = match self.pooled.link.wire.check_body_start() {
                    Ok(BodyStart::Valid) => true,
                    Ok(BodyStart::Incomplete) => is_event_stream(&answered.response),
                    Err(_) => false,
                };
                if passes {
                    return Ok((answered.response, self));
                }
                // In a box, which most responses do not have to keep room for.
                Box::pin(self.check_body_start(answered.response)).await
            }
            Err(error) => {
                let silent = matches!(error, Error::ConnectionClosed(_))
                    && !self.pooled.link.wire.has_buffered();
                let harmless = matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS);
                let unseen = self.pooled.is_used && self.sender.taken() == 0;
                let again = match silent && self.body.is_untouched() && (harmless || unseen) {
                    true if self.pooled.is_used => Retry::StaleConnection,
                    true => Retry::NextServer,
                    false => Retry::Never,
                };
                Err(SendFailure { body: self.body, error, again })
            }
        }
    }

    /// Refuses a response whose body is malformed from the start, while it can still be replaced by an
    /// error page. A body that does not begin soon is judged as it is passed on: what streams must
    /// not wait.
    async fn check_body_start(mut self: Box<Self>, response: Response<()>) -> Answer {
        let due = Instant::now() + BODY_START_TIMEOUT;
        let started = poll_fn(|cx| {
            let _ = self.poll_send(cx);
            let link = &mut *self.pooled.link;
            match link.wire.poll_body_start(cx) {
                Poll::Ready(started) => Poll::Ready(started),
                Poll::Pending => link.timer.poll_until(cx, due).map(Ok),
            }
        });
        match started.await {
            Ok(()) => Ok((response, self)),
            Err(error) => {
                let error = Error::ConnectionClosed(match error {
                    BodyError::Io(error) => error,
                    BodyError::Truncated => io::ErrorKind::UnexpectedEof.into(),
                    BodyError::Malformed => io::Error::new(io::ErrorKind::InvalidData, error),
                });
                Err(SendFailure { body: self.body, error, again: Retry::Never })
            }
        }
    }

    fn poll_answer(
        &mut self,
        cx: &mut Context<'_>,
        (method, patience): (&Method, Duration),
        early: InterimHandler<'_>,
    ) -> Poll<Result<ParsedResponse, Error>> {
        self.poll_send(cx)?;
        loop {
            let Poll::Ready(head) = self.pooled.link.wire.poll_head(cx, MAX_RESPONSE_HEAD_LEN)
            else {
                return self.poll_timeout(cx, patience);
            };
            let Some(head) = head.map_err(Error::unreadable)? else {
                let closed = io::ErrorKind::UnexpectedEof.into();
                return Poll::Ready(Err(Error::ConnectionClosed(
                    self.refused.take().unwrap_or(closed),
                )));
            };
            let answered = head::response(&head, method).map_err(Error::unreadable)?;
            // An interim answer is not the answer (RFC 9110, section 15.2).
            let status = answered.response.status();
            if !status.is_informational() || status == StatusCode::SWITCHING_PROTOCOLS {
                return Poll::Ready(Ok(answered));
            }
            self.interim += 1;
            if self.interim > MAX_INTERIM {
                return Poll::Ready(Err(Error::unreadable("interim answers without end")));
            }
            early(answered.response);
        }
    }

    /// The clock runs from the moment the last byte went out, and not while the visitor owes us
    /// the next.
    fn poll_timeout(
        &mut self,
        cx: &mut Context<'_>,
        timeout: Duration,
    ) -> Poll<Result<ParsedResponse, Error>> {
        if self.sender.is_waiting_for_body() && self.refused.is_none() {
            self.since = None;
            return Poll::Pending;
        }
        ready!(self.poll_stalled(cx, timeout));
        Poll::Ready(Err(Error::ResponseTimeout(timeout)))
    }

    /// Sends on. A connection that takes no more is not yet a failure.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Result<(), Error> {
        if self.refused.is_some() || self.sender.is_sent() {
            return Ok(());
        }
        let Self { pooled: lease, sender, body, .. } = self;
        match sender.poll(cx, Pin::new(body), &mut lease.link.wire) {
            Poll::Pending => (),
            Poll::Ready(Ok(())) => {
                self.since = None;
                let buffer = self.sender.take_buffer();
                self.pooled.link.wire.arena().give_back(buffer);
            }
            Poll::Ready(Err(WriteError::Io(error))) => self.refused = Some(error),
            Poll::Ready(Err(WriteError::Body(spoilt))) => {
                self.refused = Some(io::ErrorKind::BrokenPipe.into());
                return Err(spoilt.into());
            }
        }
        Ok(())
    }

    /// The next piece of the answer's body; nothing at its end.
    pub fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        // What the visitor still sends concerns the site alone: it has begun to answer.
        let _ = self.poll_send(cx);
        let piece = self.pooled.link.wire.poll_data(cx);
        if piece.is_ready() {
            self.since = None;
        }
        piece
    }

    /// Whether the rest of the answer can go past us.
    pub fn is_pipeable(&self) -> bool {
        self.pooled.link.wire.can_splice()
    }

    /// Fills a pipe with at most so many bytes of the answer's body; how many.
    pub fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        pipe: &mut SplicePipe,
        most: u64,
    ) -> Poll<Option<Result<u64, BodyError>>> {
        let _ = self.poll_send(cx);
        let filled = self.pooled.link.wire.poll_splice_in(cx, pipe, most);
        if filled.is_ready() {
            self.since = None;
        }
        filled
    }

    /// Nothing is there. Ready when that has been so for too long.
    pub fn poll_stalled(&mut self, cx: &mut Context<'_>, timeout: Duration) -> Poll<()> {
        let taken = self.sender.taken();
        let since = self.since.filter(|(_, before)| *before == taken);
        let (since, _) = *self.since.insert(since.unwrap_or_else(|| (Instant::now(), taken)));
        self.pooled.link.timer.poll_until(cx, since + timeout)
    }

    /// The length of what is still to come, if anybody can know.
    pub fn left(&self) -> Option<u64> {
        self.pooled.link.wire.framing().exact()
    }

    /// Whether the answer has been read to its end.
    pub fn is_over(&self) -> bool {
        self.pooled.link.wire.framing().is_ended()
    }

    /// Ends it. The connection is kept only if both ways have come to their ends: a site may answer
    /// before it has the whole request, and then the next visitor would wait for the body of this
    /// one, for as long as this one likes.
    pub fn end(self: Box<Self>) {
        let through = self.is_over() && self.sender.is_sent() && self.refused.is_none();
        if through && self.keeps && !self.pooled.link.wire.has_buffered() {
            self.pooled.put();
        }
    }

    /// Whether the answer was to switch to another protocol.
    pub fn is_switched(&self) -> bool {
        self.switched
    }

    /// The connection itself, over which something else than HTTP now comes, and what says that it
    /// is in use.
    pub fn into_parts(self) -> ((Stream, bytes::BytesMut), InFlightGuard) {
        let (link, busy) = self.pooled.into_parts();
        (link.wire.into_parts(), busy)
    }
}

/// What comes of one.
pub type Answer = Result<(Response<()>, Box<Http1Exchange>), SendFailure>;
