//! Responses that last (WebSocket tunnels, server-sent events, long downloads) end with the session
//! that they were begun with: when it is revoked, at its `max`, and when it expires, unless a request
//! renewed it meanwhile.

use std::{
    future::Future,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep};

use super::{Gateway, session_expiry::ExpiryGuard};
use crate::{auth::VerifiedSession, clock::Timestamp, httputil::BoxError};

/// How often a session is looked at. A revocation takes half a second to arrive at most.
const POLL_INTERVAL: Duration = Duration::from_millis(400);

/// What the session watches of one thread share. Each counts itself here and not at the gateway, so
/// that threads do not contend for one counter.
pub struct SessionWatchContext(Arc<Gateway>);

impl SessionWatchContext {
    /// A thread's.
    pub fn new(gateway: &Arc<Gateway>) -> Rc<Self> {
        Rc::new(Self(Arc::clone(gateway)))
    }
}

/// Watches over one response to an authenticated visitor.
///
/// Most responses are complete before the first look and cost nothing. Event streams and tunnels are
/// registered as they begin, other responses at the first look. A renewal before that does no harm:
/// the response itself renews a session that is due, so the expiry it began with is at least half of
/// `idle` away.
pub struct SessionWatch {
    known: Rc<VerifiedSession>,
    post: Rc<SessionWatchContext>,
    /// When the session expires by the cookie that the visitor holds as the response begins.
    expiry: Timestamp,
    /// Whether a piece has passed.
    begun: bool,
    /// Present once there is a second piece, or a wait for one: most responses have neither.
    watch: Option<Box<WatchState>>,
}

/// What watches over a response that lasts.
struct WatchState {
    /// The last look, or the beginning of the watch.
    looked: Instant,
    /// Present once the response is registered.
    guard: Option<ExpiryGuard>,
    /// Set by the first wait for the site.
    timer: Option<Pin<Box<Sleep>>>,
}

impl Default for WatchState {
    fn default() -> Self {
        Self { looked: Instant::now(), guard: None, timer: None }
    }
}

impl SessionWatch {
    /// Over a response to `known`, whose cookie is good until `expiry`.
    pub fn new(
        known: &Rc<VerifiedSession>,
        post: &Rc<SessionWatchContext>,
        expiry: Timestamp,
    ) -> Self {
        let (known, post) = (Rc::clone(known), Rc::clone(post));
        Self { known, post, expiry, begun: false, watch: None }
    }

    /// Registers the response, so that it learns of renewals from now on. Returns when the session
    /// expires as far as this replica has seen.
    pub fn register(&mut self) -> Timestamp {
        let Self { known, post, expiry, watch, .. } = self;
        let watch = watch.get_or_insert_default();
        let guard = &mut watch.guard;
        guard.get_or_insert_with(|| post.0.expiries.watch(&known.session, *expiry)).expiry()
    }

    /// Completes when the session is over.
    pub async fn wait_over(mut self) {
        while !self.look() {
            sleep(POLL_INTERVAL).await;
        }
    }

    /// Returns what `poll` reads of the response, or an error if the session is over.
    pub fn poll_frame<T>(
        &mut self,
        cx: &mut Context<'_>,
        poll: impl FnOnce(&mut Context<'_>) -> Poll<Option<Result<T, BoxError>>>,
    ) -> Poll<Option<Result<T, BoxError>>> {
        let piece = poll(cx);
        let over = match &piece {
            Poll::Pending => self.poll_over(cx),
            Poll::Ready(Some(Ok(_))) => self.pass_piece(),
            Poll::Ready(Some(Err(_)) | None) => false,
        };
        if over { Poll::Ready(Some(Err("session is over".into()))) } else { piece }
    }

    /// Counts a piece and returns whether the session is over. A site that is faster than its visitor
    /// never makes the response wait, so the timer alone would not be enough.
    pub fn pass_piece(&mut self) -> bool {
        if !std::mem::replace(&mut self.begun, true) {
            return false;
        }
        let watch = self.watch.get_or_insert_default();
        watch.looked.elapsed() >= POLL_INTERVAL && self.look()
    }

    /// Returns whether the session is over, looked at from time to time while nothing comes.
    fn poll_over(&mut self, cx: &mut Context<'_>) -> bool {
        loop {
            let watch = self.watch.get_or_insert_default();
            let timer = watch.timer.get_or_insert_with(|| Box::pin(sleep(POLL_INTERVAL)));
            if timer.as_mut().poll(cx).is_pending() {
                return false;
            }
            timer.as_mut().reset(Instant::now() + POLL_INTERVAL);
            if self.look() {
                return true;
            }
        }
    }

    /// Returns whether the session is over.
    fn look(&mut self) -> bool {
        let expiry = self.register();
        if let Some(watch) = &mut self.watch {
            watch.looked = Instant::now();
        }
        let (gateway, session) = (&self.post.0, &self.known.session);
        let now = (gateway.clock)();
        // No cookie is good beyond the `max` of its session. One that a reload made shorter counts
        // for the sessions that exist.
        let max = session.auth_time.plus(gateway.rules.load().session.max);
        expiry.min(max) <= now || gateway.revocations.is_revoked(session)
    }
}
