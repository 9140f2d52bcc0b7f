//! Bodies on their way: a visitor's to the site, counted; a site's to the visitor, which gives the
//! connection back at its end. Neither is held or copied.

use std::{
    cell::Cell,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::Response;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Instant;

use super::pool::Lease;
use crate::wire::BoxError;

/// A request body. Its trailers end here: they could carry what a header may not.
pub struct Outgoing {
    inner: Option<Incoming>,
    left: u64,
    progress: Option<Rc<Progress>>,
}

/// How a request body is doing.
pub struct Progress {
    last: Cell<Instant>,
    too_large: Cell<bool>,
    garbled: Cell<bool>,
    whole: Cell<bool>,
}

impl Progress {
    /// When the last piece of it came.
    pub fn last(&self) -> Instant {
        self.last.get()
    }

    /// Whether it broke off because its chunks make no sense.
    pub fn is_garbled(&self) -> bool {
        self.garbled.get()
    }

    /// Whether all of it has been passed on.
    pub fn is_whole(&self) -> bool {
        self.whole.get()
    }

    /// Whether it broke off because it is larger than allowed.
    pub fn is_too_large(&self) -> bool {
        self.too_large.get()
    }
}

impl Outgoing {
    /// `body`, of which at most `limit` bytes are passed on; zero is no limit.
    pub fn new(body: Incoming, limit: u64) -> Self {
        if body.is_end_stream() {
            return Self { inner: None, left: 0, progress: None };
        }
        let last = Cell::new(Instant::now());
        let (too_large, garbled, whole) = <(Cell<_>, Cell<_>, Cell<_>)>::default();
        let progress = Rc::new(Progress { last, too_large, garbled, whole });
        let left = if limit == 0 { u64::MAX } else { limit };
        Self { inner: Some(body), left, progress: Some(progress) }
    }

    /// How it is doing, if there is anything to send.
    pub(super) fn progress(&self) -> Option<Rc<Progress>> {
        self.progress.clone()
    }

    /// The same body once more, which only an empty one can be.
    pub(super) fn repeat(&self) -> Option<Self> {
        self.inner.is_none().then_some(Self { inner: None, left: 0, progress: None })
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        let Some(inner) = &mut this.inner else { return Poll::Ready(None) };
        let frame = ready!(Pin::new(&mut *inner).poll_frame(cx));
        let Some(progress) = &this.progress else { return Poll::Ready(None) };
        progress.last.set(Instant::now());
        let trailers = matches!(&frame, Some(Ok(frame)) if frame.is_trailers());
        progress.whole.set(frame.is_none() || trailers || inner.is_end_stream());
        let data = match frame {
            None => return Poll::Ready(None),
            Some(Err(error)) => {
                progress.garbled.set(true);
                return Poll::Ready(Some(Err(error.into())));
            }
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => data,
                Err(_trailers) => return Poll::Ready(None),
            },
        };
        let length = u64::try_from(data.len()).unwrap_or(u64::MAX);
        if let Some(left) = this.left.checked_sub(length) {
            this.left = left;
        } else {
            progress.too_large.set(true);
            return Poll::Ready(Some(Err("the request body is larger than allowed".into())));
        }
        Poll::Ready(Some(Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Incoming::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or(SizeHint::with_exact(0), Incoming::size_hint)
    }
}

/// A response body and the connection it comes over.
pub struct Streamed {
    inner: Incoming,
    lease: Option<Lease>,
}

/// The answer as it streams; an empty one frees its connection at once.
pub fn streamed(response: Response<Incoming>, lease: Lease) -> Response<Streamed> {
    let switched = response.status() == http::StatusCode::SWITCHING_PROTOCOLS;
    response.map(|inner| {
        let mut body = Streamed { inner, lease: (!switched).then_some(lease) };
        if body.inner.is_end_stream() {
            body.finish();
        }
        body
    })
}

impl Streamed {
    fn finish(&mut self) {
        if let Some(lease) = self.lease.take() {
            lease.give_back();
        }
    }
}

impl Body for Streamed {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        // An error drops the body, and with it the connection.
        if frame.is_none() || (matches!(frame, Some(Ok(_))) && self.inner.is_end_stream()) {
            self.finish();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
