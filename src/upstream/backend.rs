//! What the process knows of each server of each site: every thread finds out something, and all of
//! them act on it.
//!
//! Threads read it on requests to a site with several servers, and write it when something happens
//! to one. So it is atomics, and there is no lock.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::time::Instant;

use super::{
    rest::{self, Trouble},
    room::Room,
};
use crate::metrics::Metrics;

/// One server of one site. A server of two sites is two: each has its own pages, and may be ill with
/// one of them alone.
#[derive(Debug)]
pub struct Backend {
    /// The site.
    pub site: String,
    /// Where the server is, in words.
    pub name: String,
    /// How much of it the site may take, where the operator says.
    pub room: Arc<Room>,
    /// What has gone wrong since its last answer.
    trouble: AtomicU32,
    /// Until when it is left alone, in milliseconds since `began`; zero while nothing is wrong.
    rests_until: AtomicU64,
    /// Until when it is left alone because somebody tries it already.
    tried_until: AtomicU64,
    /// Since when it is back; zero where that is long ago.
    back_since: AtomicU64,
    /// Its health check says so.
    ill: AtomicBool,
    /// Whether anybody has been told that it is well.
    told: AtomicBool,
    began: Instant,
    metrics: Arc<Metrics>,
}

impl Backend {
    /// Nothing is known of it, and the best is hoped for.
    pub fn new((site, name): (&str, String), metrics: &Arc<Metrics>) -> Self {
        Self {
            site: site.to_owned(),
            name,
            room: Arc::default(),
            trouble: AtomicU32::new(0),
            rests_until: AtomicU64::new(0),
            tried_until: AtomicU64::new(0),
            back_since: AtomicU64::new(0),
            ill: AtomicBool::new(false),
            told: AtomicBool::new(false),
            began: Instant::now(),
            metrics: Arc::clone(metrics),
        }
    }

    /// Whether it may be asked. Where nothing is wrong, that costs no look at the clock.
    pub fn is_open(&self) -> bool {
        let rests_until = self.rests_until.load(Relaxed);
        !self.is_ill()
            && (rests_until == 0 || rests_until.max(self.tried_until.load(Relaxed)) <= self.now())
    }

    /// Whether its health check says that it is ill.
    pub fn is_ill(&self) -> bool {
        self.ill.load(Relaxed)
    }

    /// Asks for the turn of one who may be asked. One that failed a while ago is tried by one request
    /// alone; the others wait for what comes of it.
    pub fn enter(&self) -> Option<Turn> {
        if self.rests_until.load(Relaxed) == 0 {
            return Some(Turn::Usual);
        }
        let (before, now) = (self.tried_until.load(Relaxed), self.now());
        let until = after(now, Trouble(self.trouble.load(Relaxed)).rest(0).unwrap_or_default());
        let is_first = before <= now
            && self.tried_until.compare_exchange(before, until, Relaxed, Relaxed).is_ok();
        is_first.then_some(Turn::Trial)
    }

    /// Its share beside the others, in hundredths of a weight.
    pub fn share(&self, weight: u32, slow_start: Duration) -> u32 {
        let since = self.back_since.load(Relaxed);
        if since == 0 {
            return rest::share(weight, None, slow_start);
        }
        let back = Duration::from_millis(self.now().saturating_sub(since));
        if back >= slow_start {
            let _ = self.back_since.compare_exchange(since, 0, Relaxed, Relaxed);
        }
        rest::share(weight, Some(back), slow_start)
    }

    /// It has answered: over a new connection, or one that was open already. The latter says nothing
    /// of whether it still takes connections, so it ends no rest before its time.
    pub fn answered(&self, anew: bool) {
        if self.trouble.load(Relaxed) == 0 && self.told.load(Relaxed) {
            return;
        }
        let rests_until = self.rests_until.load(Relaxed);
        if !anew && rests_until > self.now() {
            return;
        }
        self.trouble.store(0, Relaxed);
        if self.rests_until.swap(0, Relaxed) != 0 && !self.is_ill() {
            self.is_back();
        }
        if !self.is_ill() && !self.told.swap(true, Relaxed) {
            self.metrics.health.server_is_well(&self.site, &self.name);
        }
    }

    /// It has not answered, and why. What fails while it rests was begun before, and makes that no
    /// longer: all that were under way as it died fail at once.
    pub fn failed(&self, trouble: Trouble, why: &str) {
        let (rests_until, now) = (self.rests_until.load(Relaxed), self.now());
        if rests_until <= now {
            let trouble = Trouble(self.trouble.load(Relaxed)).and(trouble);
            let rest = trouble.rest(rand::random());
            let until = rest.map_or(rests_until, |rest| after(now, rest));
            // Of those who fail in the same moment, one counts.
            if self.rests_until.compare_exchange(rests_until, until, Relaxed, Relaxed).is_ok() {
                self.trouble.store(trouble.0, Relaxed);
            }
            if rest.is_none() {
                return;
            }
        }
        self.told.store(false, Relaxed);
        self.metrics.health.server_is_ill(&self.site, &self.name, why);
    }

    /// What its health check has found, as often as it has found it.
    pub fn checked(&self, well: bool, found: Result<(), &str>) {
        let was_ill = self.ill.swap(!well, Relaxed);
        match (was_ill, found) {
            (false, Ok(())) => self.answered(true),
            (true, Ok(())) if well => {
                self.trouble.store(0, Relaxed);
                self.rests_until.store(0, Relaxed);
                self.told.store(true, Relaxed);
                self.metrics.health.server_is_well(&self.site, &self.name);
                self.is_back();
            }
            (true, Ok(())) => (),
            (_, Err(why)) if well => {
                tracing::debug!(site = %self.site, server = %self.name, error = %why, "a health check failed");
            }
            (_, Err(why)) => {
                self.told.store(false, Relaxed);
                self.metrics.health.server_is_ill(&self.site, &self.name, why);
                if !was_ill {
                    tracing::warn!(site = %self.site, server = %self.name, error = %why, "a server fails its health check");
                }
            }
        }
    }

    /// Nobody checks it any more.
    pub fn is_unchecked(&self) {
        if self.ill.swap(false, Relaxed) {
            self.is_back();
        }
    }

    fn is_back(&self) {
        self.back_since.store(self.now(), Relaxed);
        tracing::info!(site = %self.site, server = %self.name, "a server is back");
    }

    /// Milliseconds since this began, and never zero.
    fn now(&self) -> u64 {
        after(1, self.began.elapsed())
    }
}

fn after(now: u64, rest: Duration) -> u64 {
    now.saturating_add(u64::try_from(rest.as_millis()).unwrap_or(u64::MAX))
}

/// How a server is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Over whatever connection there is.
    Usual,
    /// Over a new one: whether it takes one is what we want to know.
    Trial,
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const SLOWLY: Duration = Duration::from_secs(10);

    fn backend() -> (Backend, Arc<Metrics>) {
        let metrics = Arc::default();
        (Backend::new(("h5.example.com", "http://a".to_owned()), &metrics), metrics)
    }

    fn is_shown_well(metrics: &Metrics) -> Option<bool> {
        metrics.health.servers("h5.example.com").get("http://a").map(|vital| vital.well)
    }

    #[tokio::test(start_paused = true)]
    async fn one_request_tries_a_server_that_was_down() {
        let (backend, metrics) = backend();
        assert_eq!((backend.is_open(), backend.enter()), (true, Some(Turn::Usual)));
        backend.answered(true);
        assert_eq!(is_shown_well(&metrics), Some(true));

        // Everything that was under way fails at once, which counts once.
        for _ in 0..100 {
            backend.failed(Trouble::REFUSED, "connection refused");
        }
        assert_eq!((backend.is_open(), is_shown_well(&metrics)), (false, Some(false)));
        advance(3 * SECOND).await;
        assert!(backend.is_open());
        assert_eq!((backend.enter(), backend.enter()), (Some(Turn::Trial), None));
        assert!(!backend.is_open(), "somebody tries it");

        // Whoever tried it has left without an answer: the next one may.
        advance(3 * SECOND).await;
        assert_eq!((backend.is_open(), backend.enter()), (true, Some(Turn::Trial)));
        backend.failed(Trouble::REFUSED, "connection refused");
        advance(3 * SECOND).await;
        assert!(!backend.is_open(), "it rests twice as long");
        backend.answered(false);
        assert!(!backend.is_open(), "an old connection says nothing of new ones");
        advance(2 * SECOND).await;
        assert_eq!(backend.enter(), Some(Turn::Trial));
        backend.answered(true);
        assert_eq!((backend.is_open(), backend.enter()), (true, Some(Turn::Usual)));
        assert_eq!(is_shown_well(&metrics), Some(true));

        // It comes back slowly, and once.
        assert_eq!(backend.share(1, SLOWLY), 10);
        advance(5 * SECOND).await;
        assert_eq!(backend.share(1, SLOWLY), 50);
        backend.answered(true);
        advance(6 * SECOND).await;
        assert_eq!((backend.share(1, SLOWLY), backend.share(1, SLOWLY)), (100, 100));
    }

    #[tokio::test(start_paused = true)]
    async fn answers_that_break_off_in_a_row_are_as_bad() {
        let (backend, metrics) = backend();
        for _ in 0..5 {
            backend.failed(Trouble::BROKEN, "unexpected end of file");
            backend.failed(Trouble::BROKEN, "unexpected end of file");
            assert!(backend.is_open());
            backend.answered(false);
        }
        assert_eq!(is_shown_well(&metrics), Some(true), "one request's fault is not a server's");
        for _ in 0..3 {
            backend.failed(Trouble::BROKEN, "unexpected end of file");
        }
        assert_eq!((backend.is_open(), is_shown_well(&metrics)), (false, Some(false)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_health_check_has_the_last_word() {
        let (backend, metrics) = backend();
        backend.checked(true, Err("GET /: 503"));
        assert_eq!((backend.is_open(), is_shown_well(&metrics)), (true, None), "not yet");
        backend.checked(false, Err("GET /: 503"));
        backend.answered(true);
        assert_eq!((backend.is_open(), is_shown_well(&metrics)), (false, Some(false)));
        backend.checked(false, Ok(()));
        assert!(!backend.is_open(), "once is not enough");
        backend.failed(Trouble::REFUSED, "connection refused");
        backend.checked(true, Ok(()));
        assert_eq!((backend.is_open(), is_shown_well(&metrics)), (true, Some(true)));
        assert_eq!(backend.share(1, SLOWLY), 10);

        // A server that is checked need not be tried.
        backend.failed(Trouble::REFUSED, "connection refused");
        backend.checked(true, Ok(()));
        assert_eq!((backend.is_open(), backend.enter()), (true, Some(Turn::Usual)));
        backend.checked(false, Err("GET /: 503"));
        backend.is_unchecked();
        assert!(backend.is_open(), "nobody looks any more");
    }
}
