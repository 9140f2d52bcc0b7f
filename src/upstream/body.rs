//! Bodies on their way: a visitor's to the site, counted; a site's to the visitor, which gives the
//! connection back at its end. Neither is held or copied, and neither may stand still for long.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, header};
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};

use super::{exchange::Exchange, tunnel::UpgradedConnection};
use crate::{
    http1::{Incoming, SpliceBody, SplicePipe},
    httputil::{BoxError, headers},
    site::Site,
};

/// A request body. Its trailers end here, unless they are let through: they could carry what a header
/// may not.
pub struct LimitedRequestBody {
    inner: Incoming,
    left: u64,
    /// In a box, because most requests have no body and are moved about a lot.
    pace: Option<Box<BodyRateMonitor>>,
}

/// What a visitor may ask of our patience with a request body.
#[derive(Clone, Copy, Debug)]
pub struct BodyLimits {
    /// Bytes; zero is no limit.
    pub size: u64,
    /// How long no byte may come, and how long we wait before we look at the rate.
    pub time: Duration,
}

/// What is wrong with a request body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestBodyError {
    /// It is larger than allowed.
    TooLarge,
    /// It comes too slowly.
    Stalled,
    /// It makes no sense, or breaks off.
    Garbled,
    /// The session that it was begun with is over.
    SessionOver,
}

/// Bytes per second that a request body brings at the least. Whoever sends a byte every few
/// seconds is not slow, but holds a connection to the site.
const MIN_BYTES_PER_SECOND: u64 = 500;

/// How a request body keeps up. Only the time counts in which we wait for the visitor: the site
/// may be slow to take what they send.
struct BodyRateMonitor {
    timeout: Duration,
    clock: Option<Pin<Box<Sleep>>>,
    /// Since when we wait for the next piece.
    since: Option<Instant>,
    waited: Duration,
    bytes: u64,
    /// What comes once more before the rest, the last piece first.
    again: Vec<Bytes>,
    /// Whose rules let trailers through.
    trailers: Option<Arc<Site>>,
    /// Asked with each piece that comes, if the visitor has a session.
    is_over: Option<Box<dyn FnMut() -> bool>>,
}

impl BodyRateMonitor {
    fn new(timeout: Duration) -> Self {
        Self {
            timeout,
            clock: None,
            since: None,
            waited: Duration::ZERO,
            bytes: 0,
            again: Vec::new(),
            trailers: None,
            is_over: None,
        }
    }

    /// What of the trailers may go on.
    fn let_through(&self, trailers: HeaderMap) -> Option<HeaderMap> {
        let (site, mut trailers) = (self.trailers.as_deref()?, trailers);
        headers::sanitize_trailers(&mut trailers);
        let kept = |name: &HeaderName| site.reserved.keeps(name.as_str(), false);
        let gone: Vec<HeaderName> = trailers.keys().filter(|name| !kept(name)).cloned().collect();
        for name in gone {
            trailers.remove(name);
        }
        (!trailers.is_empty()).then_some(trailers)
    }

    /// Something has come.
    fn moved(&mut self, bytes: u64) {
        if let Some(since) = self.since.take() {
            self.waited = self.waited.saturating_add(since.elapsed());
        }
        self.bytes = self.bytes.saturating_add(bytes);
    }

    /// Nothing is there. Ready when that has been so for too long.
    fn poll_wait(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let since = *self.since.get_or_insert_with(Instant::now);
        let patience = self.timeout;
        let clock = self.clock.get_or_insert_with(|| Box::pin(sleep_until(since + patience)));
        while clock.as_mut().poll(cx).is_ready() {
            let now = Instant::now();
            let idle = now.duration_since(since);
            let waited = self.waited.saturating_add(idle);
            let slow = waited >= patience && self.bytes / MIN_BYTES_PER_SECOND < waited.as_secs();
            if idle >= patience || slow {
                return Poll::Ready(());
            }
            clock.as_mut().reset(now + patience.saturating_sub(idle).min(RATE_CHECK_INTERVAL));
        }
        Poll::Pending
    }
}

/// How often the rate is looked at when the grace is over.
const RATE_CHECK_INTERVAL: Duration = Duration::from_secs(1);

impl LimitedRequestBody {
    /// `body`, of which no more is passed on and no longer waited for than this.
    pub fn new(body: Incoming, allowed: BodyLimits) -> Self {
        let left = if allowed.size == 0 { u64::MAX } else { allowed.size };
        let pace = (!body.is_end_stream()).then(|| Box::new(BodyRateMonitor::new(allowed.time)));
        Self { inner: body, left, pace }
    }

    /// No body.
    pub(super) fn empty() -> Self {
        Self { inner: Incoming::Empty, left: 0, pace: None }
    }

    /// Lets its trailers through, as far as this site's rules do.
    pub fn with_trailers(&mut self, site: &Arc<Site>) {
        if let Some(pace) = &mut self.pace {
            pace.trailers = Some(Arc::clone(site));
        }
    }

    /// Breaks it off with the first piece that comes when `is_over` returns true.
    pub fn break_off_when(&mut self, is_over: impl FnMut() -> bool + 'static) {
        if let Some(pace) = &mut self.pace {
            pace.is_over = Some(Box::new(is_over));
        }
    }

    /// Puts back what has been taken of it, in order.
    pub(super) fn put_back(&mut self, pieces: Vec<Bytes>) {
        if let Some(pace) = &mut self.pace {
            pace.again.extend(pieces.into_iter().rev());
        }
    }

    /// So much more of it is passed on.
    fn passed(&mut self, bytes: u64) -> Result<(), RequestBodyError> {
        if let Some(pace) = &mut self.pace {
            pace.moved(bytes);
            if pace.is_over.as_mut().is_some_and(|is_over| is_over()) {
                return Err(RequestBodyError::SessionOver);
            }
        }
        self.left = self.left.checked_sub(bytes).ok_or(RequestBodyError::TooLarge)?;
        Ok(())
    }

    /// Whether nothing of it has been passed on: only an empty one can say so for sure.
    pub(super) fn is_untouched(&self) -> bool {
        matches!(self.inner, Incoming::Empty)
    }
}

impl Body for LimitedRequestBody {
    type Data = Bytes;
    type Error = RequestBodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, RequestBodyError>>> {
        let this = self.get_mut();
        let Some(pace) = &mut this.pace else { return Poll::Ready(None) };
        if let Some(piece) = pace.again.pop() {
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        let Poll::Ready(frame) = Pin::new(&mut this.inner).poll_frame(cx) else {
            ready!(pace.poll_wait(cx));
            return Poll::Ready(Some(Err(RequestBodyError::Stalled)));
        };
        let data = match frame {
            None => return Poll::Ready(None),
            Some(Err(_)) => return Poll::Ready(Some(Err(RequestBodyError::Garbled))),
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => data,
                Err(frame) => {
                    let trailers = frame.into_trailers().unwrap_or_default();
                    let trailers = pace.let_through(trailers);
                    return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
                }
            },
        };
        this.passed(u64::try_from(data.len()).unwrap_or(u64::MAX))?;
        Poll::Ready(Some(Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream() && self.pace.as_ref().is_none_or(|pace| pace.again.is_empty())
    }

    fn size_hint(&self) -> SizeHint {
        let again = self.pace.iter().flat_map(|pace| &pace.again).map(Bytes::len).sum::<usize>();
        let exact = self.inner.size_hint().exact();
        let again = u64::try_from(again).unwrap_or(u64::MAX);
        exact.map_or_else(SizeHint::default, |exact| SizeHint::with_exact(exact + again))
    }
}

impl SpliceBody for LimitedRequestBody {
    fn is_pipeable(&self) -> bool {
        let again = self.pace.as_ref().is_some_and(|pace| !pace.again.is_empty());
        !again && self.inner.is_pipeable()
    }

    fn poll_fill(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pipe: &mut SplicePipe,
        most: u64,
    ) -> Poll<Option<Result<u64, RequestBodyError>>> {
        let this = self.get_mut();
        let Some(pace) = &mut this.pace else { return Poll::Ready(None) };
        let Poll::Ready(filled) = Pin::new(&mut this.inner).poll_fill(cx, pipe, most) else {
            ready!(pace.poll_wait(cx));
            return Poll::Ready(Some(Err(RequestBodyError::Stalled)));
        };
        let Some(filled) = filled else { return Poll::Ready(None) };
        let count = filled.map_err(|_| RequestBodyError::Garbled)?;
        this.passed(count)?;
        Poll::Ready(Some(Ok(count)))
    }
}

/// A response body and the connection it comes over; none once it has come.
pub struct UpstreamBody {
    exchange: Option<Exchange>,
    /// How long it may stand still; events come when they come.
    timeout: Option<Duration>,
}

/// The answer as it streams; an empty one frees its connection at once.
pub fn upstream_response(
    (response, exchange): (Response<()>, Exchange),
    timeout: Duration,
) -> Response<UpstreamBody> {
    let open = is_event_stream(&response) || (exchange.is_shared() && is_grpc(&response));
    let patience = (!open).then_some(timeout);
    response.map(|()| UpstreamBody::new(exchange, patience))
}

/// Returns whether a response is a stream that may be quiet for hours.
pub(super) fn is_event_stream<B>(response: &Response<B>) -> bool {
    is_of(response, b"text/event-stream")
}

/// Whether it is one of gRPC, which may be as quiet: its client has set a deadline, or wanted none.
fn is_grpc<B>(response: &Response<B>) -> bool {
    is_of(response, b"application/grpc")
}

fn is_of<B>(response: &Response<B>, wanted: &[u8]) -> bool {
    let kind = response.headers().get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    let kind = kind.and_then(|kind| kind.get(..wanted.len()));
    kind.is_some_and(|kind| kind.eq_ignore_ascii_case(wanted))
}

impl UpstreamBody {
    /// Returns whether it may be quiet for hours: events, and gRPC.
    pub fn is_lasting(&self) -> bool {
        self.timeout.is_none() && self.exchange.is_some()
    }

    fn new(exchange: Exchange, timeout: Option<Duration>) -> Self {
        if exchange.is_over() && !exchange.is_switched() {
            exchange.end();
            return Self { exchange: None, timeout };
        }
        Self { exchange: Some(exchange), timeout }
    }

    /// The connection, if the answer was to switch to another protocol.
    pub fn switched(self) -> Option<UpgradedConnection> {
        let exchange = self.exchange.filter(Exchange::is_switched)?;
        exchange.into_parts().map(UpgradedConnection::new)
    }
}

impl UpstreamBody {
    /// What `poll` brings of the answer, unless it stands still for too long.
    fn poll<T>(
        &mut self,
        cx: &mut Context<'_>,
        poll: impl FnOnce(&mut Exchange, &mut Context<'_>) -> Poll<Option<Result<T, BoxError>>>,
    ) -> Poll<Option<Result<T, BoxError>>> {
        let patience = self.timeout;
        let Some(exchange) = &mut self.exchange else { return Poll::Ready(None) };
        let Poll::Ready(piece) = poll(exchange, cx) else {
            let Some(patience) = patience else { return Poll::Pending };
            ready!(exchange.poll_stalled(cx, patience));
            tracing::warn!("upstream stopped sending in the middle of a response");
            return Poll::Ready(Some(Err("the site stopped in the middle of its answer".into())));
        };
        if exchange.is_over()
            && let Some(exchange) = self.exchange.take()
        {
            exchange.end();
        }
        Poll::Ready(piece)
    }
}

impl SpliceBody for UpstreamBody {
    fn is_pipeable(&self) -> bool {
        self.exchange.as_ref().is_some_and(Exchange::is_pipeable)
    }

    fn poll_fill(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pipe: &mut SplicePipe,
        most: u64,
    ) -> Poll<Option<Result<u64, BoxError>>> {
        self.get_mut().poll(cx, |exchange, cx| exchange.poll_fill(cx, pipe, most))
    }
}

impl Body for UpstreamBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.get_mut().poll(cx, Exchange::poll_frame)
    }

    fn is_end_stream(&self) -> bool {
        self.exchange.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        match &self.exchange {
            None => SizeHint::with_exact(0),
            Some(exchange) => {
                exchange.remaining_len().map_or_else(SizeHint::default, SizeHint::with_exact)
            }
        }
    }
}
