//! Bodies on their way: a visitor's to the site, counted; a site's to the visitor, which gives the
//! connection back at its end. Neither is held or copied, and neither may stand still for long.

use std::{
    cell::Cell,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Response, header};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep, sleep, sleep_until};

use super::pool::Lease;
use crate::wire::BoxError;

/// A request body. Its trailers end here: they could carry what a header may not.
pub struct Outgoing {
    inner: Option<Incoming>,
    left: u64,
    progress: Option<Rc<Progress>>,
    /// In a box, because most requests have no body and are moved about a lot.
    pace: Option<Box<Pace>>,
}

/// What a visitor may ask of our patience with a request body.
#[derive(Clone, Copy, Debug)]
pub struct Allowance {
    /// Bytes; zero is no limit.
    pub size: u64,
    /// How long no byte may come, and how long we wait before we look at the rate.
    pub time: Duration,
}

/// Bytes per second that a request body brings at the least. Whoever sends a byte every few
/// seconds is not slow, but holds a connection to the site.
const SLOWEST: u64 = 500;

/// How a request body keeps up. Only the time counts in which we wait for the visitor: the site
/// may be slow to take what they send.
struct Pace {
    patience: Duration,
    clock: Option<Pin<Box<Sleep>>>,
    /// Since when we wait for the next piece.
    since: Option<Instant>,
    waited: Duration,
    bytes: u64,
}

impl Pace {
    fn new(patience: Duration) -> Self {
        Self { patience, clock: None, since: None, waited: Duration::ZERO, bytes: 0 }
    }

    /// Something has come.
    fn moved(&mut self, now: Instant, bytes: u64) {
        if let Some(since) = self.since.take() {
            self.waited = self.waited.saturating_add(now.duration_since(since));
        }
        self.bytes = self.bytes.saturating_add(bytes);
    }

    /// Nothing is there. Ready when that has been so for too long.
    fn poll_wait(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let since = *self.since.get_or_insert_with(Instant::now);
        let patience = self.patience;
        let clock = self.clock.get_or_insert_with(|| Box::pin(sleep_until(since + patience)));
        while clock.as_mut().poll(cx).is_ready() {
            let now = Instant::now();
            let idle = now.duration_since(since);
            let waited = self.waited.saturating_add(idle);
            let slow = waited >= patience && self.bytes / SLOWEST < waited.as_secs();
            if idle >= patience || slow {
                return Poll::Ready(());
            }
            clock.as_mut().reset(now + patience.saturating_sub(idle).min(CHECK));
        }
        Poll::Pending
    }
}

/// How often the rate is looked at when the grace is over.
const CHECK: Duration = Duration::from_secs(1);

/// How a request body is doing.
pub struct Progress {
    last: Cell<Instant>,
    too_large: Cell<bool>,
    garbled: Cell<bool>,
    whole: Cell<bool>,
    waiting: Cell<bool>,
    stalled: Cell<bool>,
}

impl Progress {
    fn new(now: Instant) -> Self {
        let (too_large, garbled, whole) = <(Cell<_>, Cell<_>, Cell<_>)>::default();
        let (waiting, stalled) = <(Cell<_>, Cell<_>)>::default();
        Self { last: Cell::new(now), too_large, garbled, whole, waiting, stalled }
    }

    /// Whether the visitor owes us some of it.
    pub fn is_waiting(&self) -> bool {
        self.waiting.get()
    }

    /// Whether it broke off because it came too slowly.
    pub fn is_stalled(&self) -> bool {
        self.stalled.get()
    }

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
    /// `body`, of which no more is passed on and no longer waited for than this.
    pub fn new(body: Incoming, allowed: Allowance) -> Self {
        if body.is_end_stream() {
            return Self::empty();
        }
        let progress = Rc::new(Progress::new(Instant::now()));
        let left = if allowed.size == 0 { u64::MAX } else { allowed.size };
        let pace = Some(Box::new(Pace::new(allowed.time)));
        Self { inner: Some(body), left, progress: Some(progress), pace }
    }

    pub(super) fn empty() -> Self {
        Self { inner: None, left: 0, progress: None, pace: None }
    }

    /// How it is doing, if there is anything to send.
    pub(super) fn progress(&self) -> Option<Rc<Progress>> {
        self.progress.clone()
    }

    /// The same body once more, which only an empty one can be.
    pub(super) fn repeat(&self) -> Option<Self> {
        self.inner.is_none().then(Self::empty)
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
        let (Some(progress), Some(pace)) = (&this.progress, &mut this.pace) else {
            return Poll::Ready(None);
        };
        let Poll::Ready(frame) = Pin::new(&mut *inner).poll_frame(cx) else {
            progress.waiting.set(true);
            ready!(pace.poll_wait(cx));
            progress.stalled.set(true);
            return Poll::Ready(Some(Err("the request body comes too slowly".into())));
        };
        let now = Instant::now();
        progress.last.set(now);
        progress.waiting.set(false);
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
        pace.moved(now, length);
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
    /// How long it may stand still; events come when they come.
    patience: Option<Duration>,
    clock: Option<Pin<Box<Sleep>>>,
}

/// The answer as it streams; an empty one frees its connection at once.
pub fn streamed(
    response: Response<Incoming>,
    lease: Lease,
    patience: Duration,
) -> Response<Streamed> {
    let switched = response.status() == http::StatusCode::SWITCHING_PROTOCOLS;
    let ended = response.body().is_end_stream();
    let patience = (!ended && !are_events(&response)).then_some(patience);
    response.map(|inner| {
        let lease = (!switched).then_some(lease);
        let mut body = Streamed { inner, lease, patience, clock: None };
        if ended {
            body.finish();
        }
        body
    })
}

/// Whether the answer is a stream that may be quiet for hours.
fn are_events<B>(response: &Response<B>) -> bool {
    const EVENTS: &[u8] = b"text/event-stream";
    let kind = response.headers().get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    let kind = kind.and_then(|kind| kind.get(..EVENTS.len()));
    kind.is_some_and(|kind| kind.eq_ignore_ascii_case(EVENTS))
}

impl Streamed {
    fn finish(&mut self) {
        if let Some(lease) = self.lease.take() {
            lease.give_back();
        }
    }

    /// Nothing is there. Ready when that has been so for too long.
    fn poll_wait(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(patience) = self.patience else { return Poll::Pending };
        let clock = self.clock.get_or_insert_with(|| Box::pin(sleep(patience)));
        clock.as_mut().poll(cx)
    }
}

impl Body for Streamed {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let Poll::Ready(frame) = Pin::new(&mut self.inner).poll_frame(cx) else {
            ready!(self.poll_wait(cx));
            tracing::warn!("a site stopped in the middle of its answer");
            return Poll::Ready(Some(Err("the site stopped in the middle of its answer".into())));
        };
        self.clock = None;
        // An error drops the body, and with it the connection.
        if frame.is_none() || (matches!(frame, Some(Ok(_))) && self.inner.is_end_stream()) {
            self.finish();
        }
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
