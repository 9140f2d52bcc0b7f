//! One request and its answer over a stream of HTTP/2 (RFC 9113, section 8), both ways at once.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream, client::ResponseFuture};
use http::{Method, Response, StatusCode};
use http_body::{Body as _, Frame};
use tokio::time::Instant;

use super::{StreamSlot, head};
use crate::{
    httputil::{
        headers,
        outbound::{HeaderSource, OutboundRequest},
    },
    upstream::{
        Error, InterimHandler, MAX_INTERIM,
        body::LimitedRequestBody,
        exchange::{Retry, SendFailure},
    },
};

/// Bytes of a request's body that are kept until its answer begins, so that it can be sent again to
/// somebody who has not acted on it. They are shared, not copied.
const REPLAY_BUFFER_LEN: usize = 64 * 1024;

/// A request on its way over a stream, or its answer.
pub struct Http2Exchange {
    slot: StreamSlot,
    response: ResponseFuture,
    receiver: Option<RecvStream>,
    sender: SendStream<Bytes>,
    sending: SendState,
    body: LimitedRequestBody,
    /// What of the body has been taken and not yet sent, and whether it is the last of it.
    piece: Bytes,
    last: bool,
    /// What has been sent, while all of it is here.
    kept: Option<Vec<Bytes>>,
    kept_bytes: usize,
    /// Bytes that the connection has taken.
    taken: u64,
    interim: u32,
    /// Bytes that the visitor has had and the server has not been told of.
    owed: usize,
    left: Option<u64>,
    over: bool,
    /// Since when nothing has moved, once we have begun to wait, and what had gone out by then.
    since: Option<(Instant, u64)>,
}

/// How far a request has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SendState {
    /// There is more of it, or may be.
    Open,
    /// The visitor owes us the next piece.
    Waiting,
    /// All of it is on its way.
    Done,
    /// The server takes no more of it; it may have answered before.
    Refused,
}

/// What comes of an exchange.
type Answer = Result<(Response<()>, Box<Http2Exchange>), SendFailure>;

impl Http2Exchange {
    /// Begins to send a request.
    pub fn begin(
        slot: StreamSlot,
        request: &OutboundRequest<'_, impl HeaderSource>,
        body: LimitedRequestBody,
    ) -> Result<Box<Self>, SendFailure> {
        let ends = body.is_end_stream();
        let begun = match head::request(request, slot.scheme()) {
            Ok(head) => slot.send(head, ends),
            Err(error) => {
                return Err(SendFailure {
                    body,
                    error: Error::unreadable(error),
                    again: Retry::Never,
                });
            }
        };
        // A connection that went this very moment has sent nothing.
        let (response, sender) = match begun {
            Ok(begun) => begun,
            Err(error) => {
                return Err(SendFailure {
                    body,
                    error: broken(error),
                    again: Retry::RefusedStream,
                });
            }
        };
        Ok(Box::new(Self {
            slot,
            response,
            receiver: None,
            sender,
            sending: if ends { SendState::Done } else { SendState::Open },
            body,
            piece: Bytes::new(),
            last: false,
            kept: Some(Vec::new()),
            kept_bytes: 0,
            taken: 0,
            interim: 0,
            owed: 0,
            left: None,
            over: false,
            since: None,
        }))
    }

    /// Brings the head of the answer.
    pub async fn answer(
        mut self: Box<Self>,
        method: &Method,
        (patience, early): (Duration, InterimHandler<'_>),
    ) -> Answer {
        let answered = std::future::poll_fn(|cx| self.poll_answer(cx, patience, early)).await;
        match answered {
            Ok(response) => {
                self.since = None;
                self.kept = None;
                let (head, receiver) = response.into_parts();
                self.over = receiver.is_end_stream();
                self.left = headers::content_length(&head.headers);
                self.receiver = Some(receiver);
                Ok((Response::from_parts(head, ()), self))
            }
            Err(FailureSource::Ours(error)) => {
                Err(SendFailure { body: self.body, error, again: Retry::Never })
            }
            Err(FailureSource::Theirs(error)) => Err(self.failure(error, method)),
        }
    }

    /// What a broken stream means, and whether the request may go to somebody else.
    fn failure(mut self: Box<Self>, error: h2::Error, method: &Method) -> SendFailure {
        let harmless = matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS);
        let again = if is_untouched(&error) {
            Retry::RefusedStream
        } else if harmless && (error.is_io() || error.is_go_away()) {
            if self.slot.is_used { Retry::StaleConnection } else { Retry::NextServer }
        } else {
            Retry::Never
        };
        let again = match self.kept.take() {
            Some(kept) => {
                self.body.put_back(kept);
                again
            }
            None => Retry::Never,
        };
        SendFailure { body: self.body, error: broken(error), again }
    }

    fn poll_answer(
        &mut self,
        cx: &mut Context<'_>,
        timeout: Duration,
        early: InterimHandler<'_>,
    ) -> Poll<Result<Response<RecvStream>, FailureSource>> {
        self.poll_send(cx).map_err(FailureSource::Ours)?;
        while let Poll::Ready(Some(interim)) = self.response.poll_informational(cx) {
            self.slot.record_activity();
            let mut interim = interim.map_err(FailureSource::Theirs)?;
            headers::remove_hop_by_hop(interim.headers_mut());
            self.interim += 1;
            // An interim answer is not the answer (RFC 9110, section 15.2), and of 101 there is no
            // such thing (RFC 9113, section 8.6).
            if interim.status() == StatusCode::SWITCHING_PROTOCOLS || self.interim > MAX_INTERIM {
                self.sender.send_reset(Reason::PROTOCOL_ERROR);
                return Poll::Ready(Err(FailureSource::Ours(Error::unreadable(
                    "interim answers without end",
                ))));
            }
            early(interim);
        }
        match Pin::new(&mut self.response).poll(cx) {
            Poll::Ready(Ok(mut response)) => {
                self.slot.record_activity();
                headers::remove_hop_by_hop(response.headers_mut());
                Poll::Ready(Ok(response))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(FailureSource::Theirs(error))),
            Poll::Pending => self.poll_patience(cx, timeout).map_err(FailureSource::Ours),
        }
    }

    /// The clock runs from the moment the last byte went out, and not while the visitor owes us
    /// the next.
    fn poll_patience<T>(
        &mut self,
        cx: &mut Context<'_>,
        timeout: Duration,
    ) -> Poll<Result<T, Error>> {
        if self.sending == SendState::Waiting {
            self.since = None;
            return Poll::Pending;
        }
        ready!(self.poll_stalled(cx, timeout));
        Poll::Ready(Err(Error::ResponseTimeout(timeout)))
    }

    /// Sends on. A server that takes no more is not yet a failure.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Result<(), Error> {
        if matches!(self.sending, SendState::Done | SendState::Refused) {
            return Ok(());
        }
        self.sending = SendState::Open;
        while self.sending == SendState::Open {
            let moved =
                if self.piece.is_empty() { self.poll_gather(cx)? } else { self.poll_push(cx) };
            if moved.is_pending() {
                break;
            }
        }
        let open = matches!(self.sending, SendState::Open | SendState::Waiting);
        if open && self.sender.poll_reset(cx).is_ready() {
            self.sending = SendState::Refused;
        }
        Ok(())
    }

    /// Takes what the body has.
    fn poll_gather(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, Error> {
        let frame = match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => frame,
            Poll::Ready(None) => {
                let sent = self.sender.send_data(Bytes::new(), true);
                self.sending = if sent.is_ok() { SendState::Done } else { SendState::Refused };
                return Ok(Poll::Ready(()));
            }
            // Whatever has come of it, the server must not take it for the whole.
            Poll::Ready(Some(Err(spoilt))) => {
                self.sender.send_reset(Reason::CANCEL);
                self.sending = SendState::Refused;
                return Err(spoilt.into());
            }
            Poll::Pending => {
                self.sending = SendState::Waiting;
                return Ok(Poll::Pending);
            }
        };
        match frame.into_data() {
            Ok(piece) => {
                self.keep(&piece);
                self.piece = piece;
                self.last = self.body.is_end_stream();
                if self.piece.is_empty() && self.last {
                    return self.poll_gather(cx);
                }
            }
            Err(frame) => {
                self.kept = None;
                let sent = self.sender.send_trailers(frame.into_trailers().unwrap_or_default());
                self.sending = if sent.is_ok() { SendState::Done } else { SendState::Refused };
            }
        }
        Ok(Poll::Ready(()))
    }

    fn keep(&mut self, piece: &Bytes) {
        self.kept_bytes = self.kept_bytes.saturating_add(piece.len());
        if self.kept_bytes > REPLAY_BUFFER_LEN {
            self.kept = None;
        } else if let Some(kept) = &mut self.kept {
            kept.push(piece.clone());
        }
    }

    /// Sends as much of a piece as there is room for.
    fn poll_push(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.sender.reserve_capacity(self.piece.len());
        let mut room = self.sender.capacity();
        if room == 0 {
            let Some(Ok(more)) = ready!(self.sender.poll_capacity(cx)) else {
                self.sending = SendState::Refused;
                return Poll::Ready(());
            };
            room = more;
        }
        let piece = self.piece.split_to(room.min(self.piece.len()));
        if self.piece.is_empty() {
            self.piece = Bytes::new(); // an empty piece would still hold its memory
        }
        self.taken = self.taken.saturating_add(u64::try_from(piece.len()).unwrap_or(u64::MAX));
        self.since = None;
        let ends = self.last && self.piece.is_empty();
        self.sending = match self.sender.send_data(piece, ends) {
            Err(_) => SendState::Refused,
            Ok(()) if ends => SendState::Done,
            Ok(()) => SendState::Open,
        };
        Poll::Ready(())
    }

    /// The next piece of the answer's body, or its trailers; nothing at its end. An answer that is
    /// reset has no end, whatever the reason given.
    pub fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        // What the visitor still sends concerns the site alone: it has begun to answer.
        let _ = self.poll_send(cx);
        let Some(receiver) = &mut self.receiver else { return Poll::Ready(None) };
        // They have come for more, so what they had has gone on.
        let owed = std::mem::take(&mut self.owed);
        receiver.flow_control().release_capacity(owed)?;
        if let Some(piece) = ready!(receiver.poll_data(cx)) {
            let piece = piece?;
            self.slot.record_activity();
            self.since = None;
            self.owed = piece.len();
            let length = u64::try_from(piece.len()).unwrap_or(u64::MAX);
            self.left = self.left.map(|left| left.saturating_sub(length));
            self.over = receiver.is_end_stream();
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        let trailers = ready!(receiver.poll_trailers(cx))?;
        self.slot.record_activity();
        self.over = true;
        let trailers = trailers.map(|mut trailers| {
            headers::sanitize_trailers(&mut trailers);
            trailers
        });
        let some = trailers.filter(|trailers| !trailers.is_empty());
        Poll::Ready(some.map(|trailers| Ok(Frame::trailers(trailers))))
    }

    /// Nothing is there. Ready when that has been so for too long.
    pub fn poll_stalled(&mut self, cx: &mut Context<'_>, timeout: Duration) -> Poll<()> {
        let since = self.since.filter(|(_, before)| *before == self.taken);
        let (since, _) = *self.since.insert(since.unwrap_or_else(|| (Instant::now(), self.taken)));
        self.slot.timer.poll_until(cx, since + timeout)
    }

    /// The length of what is still to come, if anybody can know.
    pub fn left(&self) -> Option<u64> {
        if self.over { Some(0) } else { self.left }
    }

    /// Whether the answer has been read to its end.
    pub fn is_over(&self) -> bool {
        self.over
    }
}

/// Whose doing it was that there is no answer.
enum FailureSource {
    Ours(Error),
    Theirs(h2::Error),
}

/// Whether the server has certainly not acted on the request: it refused the stream, or went and
/// named an earlier one as the last (RFC 9113, section 8.7).
fn is_untouched(error: &h2::Error) -> bool {
    let refused = error.is_reset() && error.reason() == Some(Reason::REFUSED_STREAM);
    error.is_remote() && (refused || error.is_go_away())
}

fn broken(error: h2::Error) -> Error {
    Error::ConnectionClosed(io::Error::other(error))
}
