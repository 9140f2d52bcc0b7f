//! The sessions with a long response open on this replica, and when each of them expires.
//!
//! A renewal gives the visitor another cookie and leaves the responses open that began with the old
//! one. Any thread may handle the request that renews; another thread may hold the response. So the
//! latest expiry of a session is shared, but only while the session has a long response open: an
//! ordinary request touches nothing here, and the memory is bounded by the open responses.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::{auth::Session, clock::Timestamp};

/// Parts of the table, each with a lock of its own, so that threads seldom meet at one.
const SHARDS: usize = 16;

/// Expiries by session id.
#[derive(Debug, Default)]
pub struct SessionExpiries {
    shards: [Mutex<HashMap<u128, OpenSession>>; SHARDS],
}

#[derive(Debug)]
struct OpenSession {
    /// Unix seconds. The guards read it without the lock.
    expiry: Arc<AtomicU64>,
    guards: usize,
}

impl SessionExpiries {
    /// Registers a long response of `session`, whose visitor holds a cookie that is good until
    /// `expiry`.
    pub fn watch(self: &Arc<Self>, session: &Session, expiry: Timestamp) -> ExpiryGuard {
        let id = session.id();
        let mut sessions = self.shard(id);
        let open =
            sessions.entry(id).or_insert_with(|| OpenSession { expiry: Arc::default(), guards: 0 });
        open.guards = open.guards.saturating_add(1);
        open.expiry.fetch_max(expiry.0, Ordering::Relaxed);
        ExpiryGuard { expiries: Arc::clone(self), id, expiry: Arc::clone(&open.expiry) }
    }

    /// Records that a request brought or received a cookie of `session`. Does nothing if the session
    /// has no long response open.
    pub fn extend(&self, session: &Session) {
        let id = session.id();
        if let Some(open) = self.shard(id).get(&id) {
            open.expiry.fetch_max(session.exp.0, Ordering::Relaxed);
        }
    }

    fn shard(&self, id: u128) -> MutexGuard<'_, HashMap<u128, OpenSession>> {
        // Ids are the output of a MAC, so their last bits are as good as a hash.
        let [.., last] = id.to_be_bytes();
        let [first, rest @ ..] = &self.shards;
        let shard = usize::from(last) % SHARDS;
        let shard = shard.checked_sub(1).and_then(|at| rest.get(at)).unwrap_or(first);
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps the expiry of a session up to date while a long response is open.
#[derive(Debug)]
pub struct ExpiryGuard {
    expiries: Arc<SessionExpiries>,
    id: u128,
    expiry: Arc<AtomicU64>,
}

impl ExpiryGuard {
    /// When the session expires by the latest cookie that this replica saw or issued.
    pub fn expiry(&self) -> Timestamp {
        Timestamp(self.expiry.load(Ordering::Relaxed))
    }
}

impl Drop for ExpiryGuard {
    fn drop(&mut self) {
        let mut sessions = self.expiries.shard(self.id);
        if let Some(open) = sessions.get_mut(&self.id) {
            open.guards = open.guards.saturating_sub(1);
            if open.guards == 0 {
                sessions.remove(&self.id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::session::tests::session_with;

    #[test]
    fn an_expiry_moves_while_a_response_is_open_and_is_forgotten_afterwards() {
        let expiries = Arc::new(SessionExpiries::default());
        let held = |expiries: &SessionExpiries| -> usize {
            expiries.shards.iter().map(|shard| shard.lock().unwrap().len()).sum()
        };
        let (one, later) = (session_with(7, 1_000), session_with(7, 1_600));
        let other = session_with(8, 5_000);
        expiries.extend(&later);
        assert_eq!(held(&expiries), 0, "nothing is open");
        let (first, second) = (expiries.watch(&one, one.exp), expiries.watch(&one, one.exp));
        expiries.extend(&other);
        assert_eq!((first.expiry(), held(&expiries)), (Timestamp(1_000), 1), "another session");
        expiries.extend(&later);
        expiries.extend(&one);
        assert_eq!((first.expiry(), second.expiry()), (Timestamp(1_600), Timestamp(1_600)));
        drop(first);
        assert_eq!((second.expiry(), held(&expiries)), (Timestamp(1_600), 1));
        drop(second);
        assert_eq!(held(&expiries), 0);
        for id in 0..64 {
            drop(expiries.watch(&session_with(id, 1_000), Timestamp(1_000)));
        }
        assert_eq!(held(&expiries), 0);
    }
}
