//! The verified cookies of one thread. A hit saves the HMAC and the JSON of a request.
//!
//! The cache is bounded by the memory that it takes up, not by the number of cookies: `[session]
//! verified_cache` holds for the whole process, and each thread has an equal share of it.

use std::rc::Rc;

use quick_cache::{Weighter, unsync::Cache};

use crate::auth::VerifiedSession;

/// What an entry takes up beside its key and its session: its place in the slab and in the hash
/// table, both of which grow by doubling, the ghosts that the eviction policy remembers, and what the
/// allocator loses as entries of other sizes come and go. Chosen so that the resident memory of a full
/// cache is what was asked for (`bench/bench.py cache`).
const ENTRY_OVERHEAD: u64 = 640;

/// The usual weight of an entry. The cache sizes its list of ghosts by it.
const TYPICAL_WEIGHT: u64 = 2_560;

/// The whole cookie → the result of the cryptography. Whether a session is good here and now is
/// judged on every hit (F4).
pub struct SessionCache(Option<Cache<Box<[u8]>, Rc<VerifiedSession>, ByMemory>>);

#[derive(Clone)]
struct ByMemory;

impl Weighter<Box<[u8]>, Rc<VerifiedSession>> for ByMemory {
    fn weight(&self, cookie: &Box<[u8]>, session: &Rc<VerifiedSession>) -> u64 {
        let bytes = cookie.len().saturating_add(session.memory);
        u64::try_from(bytes).unwrap_or(u64::MAX).saturating_add(ENTRY_OVERHEAD)
    }
}

impl SessionCache {
    /// An empty cache that takes up at most `bytes`. One that is too small for an entry holds none.
    pub fn new(bytes: u64) -> Self {
        let entries = usize::try_from(bytes / TYPICAL_WEIGHT).unwrap_or(usize::MAX).max(1);
        Self((bytes > 0).then(|| Cache::with_weighter(entries, bytes, ByMemory)))
    }

    /// The session of a cookie that was verified before.
    pub fn get(&self, cookie: &[u8]) -> Option<&Rc<VerifiedSession>> {
        self.0.as_ref()?.get(cookie)
    }

    /// Keeps what a cookie was verified to be, in the place of what has been used least.
    pub fn insert(&mut self, cookie: &[u8], session: &Rc<VerifiedSession>) {
        if let Some(cache) = &mut self.0 {
            cache.insert(cookie.into(), Rc::clone(session));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::{session::tests::verified_session, tests::site};

    impl SessionCache {
        fn weight(&self) -> u64 {
            self.0.as_ref().map_or(0, Cache::weight)
        }

        fn len(&self) -> usize {
            self.0.as_ref().map_or(0, Cache::len)
        }
    }

    /// A cookie as long as those of visitors whose nickname is known.
    fn cookie(number: u64) -> Vec<u8> {
        format!("{number:0>700}").into_bytes()
    }

    #[test]
    fn a_cache_takes_up_what_it_may_and_no_more() {
        const KIB: u64 = 1_024;
        let session = Rc::new(verified_session(7, 1_000));
        let one = ByMemory.weight(&cookie(0).into(), &session);
        assert!((KIB..4 * KIB).contains(&one), "{one} bytes for an entry");
        for (bytes, at_least) in
            [(0, 0), (1, 0), (one - 1, 0), (16 * one, 8), (64 * KIB, 16), (KIB * KIB, 300)]
        {
            let mut cache = SessionCache::new(bytes);
            for number in 0..2_000 {
                cache.insert(&cookie(number), &session);
                assert!(cache.weight() <= bytes, "{} of {bytes} bytes", cache.weight());
            }
            assert!(cache.len() >= at_least, "{} entries in {bytes} bytes", cache.len());
            let kept = (0..2_000).filter(|number| cache.get(&cookie(*number)).is_some()).count();
            assert_eq!(kept, cache.len(), "{bytes}");
        }
    }

    #[test]
    fn a_longer_cookie_and_more_headers_weigh_more() {
        let session = Rc::new(verified_session(7, 1_000));
        let short = ByMemory.weight(&cookie(0).into(), &session);
        let long = ByMemory.weight(&[cookie(0), cookie(1)].concat().into(), &session);
        assert_eq!(long - short, 700);
        let mut richer = verified_session(7, 1_000);
        richer.session.identity.nickname = Some("李雷".repeat(20));
        let richer = Rc::new(VerifiedSession::new(richer.session, &site()));
        // The nickname is in the claims as it is, and percent-encoded in a header.
        let more = ByMemory.weight(&cookie(0).into(), &richer) - short;
        assert!((120 + 360..=120 + 360 + 200).contains(&more), "{more}");
    }
}
