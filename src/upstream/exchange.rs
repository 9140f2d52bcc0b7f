//! One request and its answer, over whatever a server speaks: the few things that can be done with
//! either kind. Nothing here costs the one kind anything for the sake of the other.

use std::{
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::Response;
use http_body::Frame;

use super::{
    Error, InterimHandler,
    body::{LimitedRequestBody, RequestBodyError},
    concurrency_limit::Permit,
    http1,
    http2::{self, StreamSlot},
    pool::{InFlightGuard, PooledConnection},
};
use crate::{
    http1::{SplicePipe, Stream},
    httputil::{
        BoxError,
        outbound::{HeaderSource, OutboundRequest},
    },
};

/// A way to a server that is free for one request.
pub enum UpstreamConnection {
    /// A connection of its own.
    Http1(PooledConnection),
    /// A place on a connection that others share, and what says that it is in use.
    Http2(StreamSlot, InFlightGuard),
}

/// A request on its way, or its answer.
pub enum Exchange {
    /// Over a connection of its own.
    Http1(Box<http1::Http1Exchange>),
    /// Over a stream among others.
    Http2 {
        /// The stream.
        stream: Box<http2::Http2Exchange>,
        /// While it lasts, the server has something to do.
        _busy: InFlightGuard,
    },
}

/// An exchange that brought no answer.
pub struct SendFailure {
    /// The body, whole if the request may be sent again.
    pub body: LimitedRequestBody,
    /// Why.
    pub error: Error,
    /// Whether it may.
    pub again: Retry,
}

/// Whether a request that brought no answer may be sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// No: the site may have acted on it.
    Never,
    /// Yes: the connection had served before and is gone. There is an end to those.
    StaleConnection,
    /// Yes, by somebody else: it does no harm twice, and this server cannot be trusted.
    NextServer,
    /// Once: the server said that it has not acted on it (RFC 9113, section 8.7).
    RefusedStream,
}

/// What comes of an exchange.
pub type Answer = Result<(Response<()>, Exchange), SendFailure>;

impl UpstreamConnection {
    /// The same, which takes a place at its server for as long as it lasts.
    pub fn with_permit(self, permit: Option<Permit>) -> Self {
        match self {
            Self::Http1(lease) => Self::Http1(lease.at(permit)),
            Self::Http2(slot, busy) => Self::Http2(slot, busy.at(permit)),
        }
    }

    /// Whether its connection has served before, so that the other end may have left it this very
    /// moment.
    pub fn is_reused(&self) -> bool {
        match self {
            Self::Http1(lease) => lease.is_used,
            Self::Http2(slot, _) => slot.is_used,
        }
    }
}

impl Exchange {
    /// Sends a request and brings the head of its answer.
    pub async fn send(
        way: UpstreamConnection,
        request: &OutboundRequest<'_, impl HeaderSource>,
        body: LimitedRequestBody,
        (patience, early): (Duration, InterimHandler<'_>),
    ) -> Answer {
        match way {
            UpstreamConnection::Http1(lease) => {
                let exchange = http1::Http1Exchange::start(lease, request, body);
                let answer = exchange.response(request.method, (patience, early)).await;
                answer.map(|(response, exchange)| (response, Self::Http1(exchange)))
            }
            UpstreamConnection::Http2(slot, busy) => {
                let exchange = http2::Http2Exchange::begin(slot, request, body)?;
                // In a box, which requests of the other kind do not have to keep room for.
                let answer = Box::pin(exchange.answer(request.method, (patience, early))).await;
                answer.map(|(response, stream)| (response, Self::Http2 { stream, _busy: busy }))
            }
        }
    }

    /// The next piece of the answer's body, or its trailers; nothing at its end.
    pub fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self {
            Self::Http1(it) => it
                .poll_data(cx)
                .map(|piece| piece.map(|it| it.map(Frame::data).map_err(Into::into))),
            Self::Http2 { stream: it, .. } => {
                it.poll_frame(cx).map(|frame| frame.map(|it| it.map_err(Into::into)))
            }
        }
    }

    /// Whether the rest of the answer can go past us.
    pub fn is_pipeable(&self) -> bool {
        match self {
            Self::Http1(it) => it.is_pipeable(),
            Self::Http2 { .. } => false,
        }
    }

    /// Fills a pipe with at most so many bytes of the answer's body; how many.
    pub fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        pipe: &mut SplicePipe,
        most: u64,
    ) -> Poll<Option<Result<u64, BoxError>>> {
        match self {
            Self::Http1(it) => it.poll_fill(cx, pipe, most).map_err(Into::into),
            Self::Http2 { .. } => Poll::Ready(None),
        }
    }

    /// Nothing is there. Ready when that has been so for too long.
    pub fn poll_stalled(&mut self, cx: &mut Context<'_>, timeout: Duration) -> Poll<()> {
        match self {
            Self::Http1(it) => it.poll_stalled(cx, timeout),
            Self::Http2 { stream: it, .. } => it.poll_stalled(cx, timeout),
        }
    }

    /// The length of what is still to come, if anybody can know.
    pub fn remaining_len(&self) -> Option<u64> {
        match self {
            Self::Http1(it) => it.left(),
            Self::Http2 { stream: it, .. } => it.left(),
        }
    }

    /// Whether the answer has been read to its end.
    pub fn is_over(&self) -> bool {
        match self {
            Self::Http1(it) => it.is_over(),
            Self::Http2 { stream: it, .. } => it.is_over(),
        }
    }

    /// Ends it, and gives back what can be of use to others.
    pub fn end(self) {
        match self {
            Self::Http1(it) => it.end(),
            Self::Http2 { .. } => (),
        }
    }

    /// Whether it comes over a connection that others share.
    pub fn is_shared(&self) -> bool {
        matches!(self, Self::Http2 { .. })
    }

    /// Whether the answer was to switch to another protocol.
    pub fn is_switched(&self) -> bool {
        match self {
            Self::Http1(it) => it.is_switched(),
            Self::Http2 { .. } => false,
        }
    }

    /// The connection itself, over which something else than HTTP now comes, and what says that it
    /// is in use.
    pub fn into_parts(self) -> Option<((Stream, BytesMut), InFlightGuard)> {
        match self {
            Self::Http1(it) => Some(it.into_parts()),
            Self::Http2 { .. } => None,
        }
    }
}

impl From<RequestBodyError> for Error {
    fn from(spoilt: RequestBodyError) -> Self {
        match spoilt {
            RequestBodyError::TooLarge => Self::TooLarge,
            RequestBodyError::Stalled => Self::BodyTimeout,
            RequestBodyError::Garbled => Self::MalformedBody,
            RequestBodyError::SessionOver => Self::SessionOver,
        }
    }
}
