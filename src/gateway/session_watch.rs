//! Answers that go on for long, WebSocket and server-sent events, end with the session that they
//! were begun with.

use std::{
    future::Future,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Sleep, sleep};

use super::revocation_sync::RevocationSync;
use crate::{auth::VerifiedSession, httputil::BoxError};

/// How often to look. An order takes half a second to come here at most.
const POLL_INTERVAL: Duration = Duration::from_millis(400);

/// Where the vigils of one thread look. Each counts itself here and not at the feed, so that
/// threads do not contend for one counter.
pub struct RevocationHandle(Arc<RevocationSync>);

impl RevocationHandle {
    /// A thread's.
    pub fn new(feed: &Arc<RevocationSync>) -> Rc<Self> {
        Rc::new(Self(Arc::clone(feed)))
    }
}

/// Watches over one answer to a visitor we know.
pub struct SessionWatch {
    known: Rc<VerifiedSession>,
    post: Rc<RevocationHandle>,
    /// Pieces that came without a pause.
    passed: u8,
    /// Only for answers that make somebody wait: most never do.
    next: Option<Pin<Box<Sleep>>>,
}

impl SessionWatch {
    /// Over an answer to `known`.
    pub fn new(known: &Rc<VerifiedSession>, post: &Rc<RevocationHandle>) -> Self {
        Self { known: Rc::clone(known), post: Rc::clone(post), passed: 0, next: None }
    }

    /// Completes when the session has been ended.
    pub async fn wait_revoked(self) {
        while !self.post.0.is_revoked(&self.known.session) {
            sleep(POLL_INTERVAL).await;
        }
    }

    /// What `poll` brings of the answer, unless the session has been ended.
    pub fn poll_frame<T>(
        &mut self,
        cx: &mut Context<'_>,
        poll: impl FnOnce(&mut Context<'_>) -> Poll<Option<Result<T, BoxError>>>,
    ) -> Poll<Option<Result<T, BoxError>>> {
        let piece = poll(cx);
        let ended = if piece.is_pending() { self.poll_ended(cx) } else { self.passed() };
        if ended { Poll::Ready(Some(Err("session revoked".into()))) } else { piece }
    }

    /// Whether the session has been ended, looked at each few pieces: an answer that never pauses
    /// never waits for a clock.
    fn passed(&mut self) -> bool {
        self.passed = self.passed.wrapping_add(1) % 64;
        self.passed == 0 && self.post.0.is_revoked(&self.known.session)
    }

    /// Whether the session has been ended, looked at from time to time while nothing comes.
    fn poll_ended(&mut self, cx: &mut Context<'_>) -> bool {
        loop {
            let next = self.next.get_or_insert_with(|| Box::pin(sleep(POLL_INTERVAL)));
            match next.as_mut().poll(cx) {
                Poll::Pending => return false,
                Poll::Ready(()) if self.post.0.is_revoked(&self.known.session) => return true,
                Poll::Ready(()) => self.next = None,
            }
        }
    }
}
