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
    backoff::{self, FailureCount},
    concurrency_limit::ConcurrencyLimit,
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
    pub limit: Arc<ConcurrencyLimit>,
    /// What has gone wrong since its last answer.
    failures: AtomicU32,
    /// Until when it is left alone, in milliseconds since `began`; zero while nothing is wrong.
    unavailable_until: AtomicU64,
    /// Until when it is left alone because somebody tries it already.
    probing_until: AtomicU64,
    /// Since when it is back; zero where that is long ago.
    recovered_at: AtomicU64,
    /// Its health check says so.
    ill: AtomicBool,
    /// Whether anybody has been told that it is well.
    reported_healthy: AtomicBool,
    began: Instant,
    metrics: Arc<Metrics>,
}

impl Backend {
    /// Nothing is known of it, and the best is hoped for.
    pub fn new((site, name): (&str, String), metrics: &Arc<Metrics>) -> Self {
        Self {
            site: site.to_owned(),
            name,
            limit: Arc::default(),
            failures: AtomicU32::new(0),
            unavailable_until: AtomicU64::new(0),
            probing_until: AtomicU64::new(0),
            recovered_at: AtomicU64::new(0),
            ill: AtomicBool::new(false),
            reported_healthy: AtomicBool::new(false),
            began: Instant::now(),
            metrics: Arc::clone(metrics),
        }
    }

    /// Whether it may be asked. Where nothing is wrong, that costs no look at the clock.
    pub fn is_available(&self) -> bool {
        let rests_until = self.unavailable_until.load(Relaxed);
        !self.is_unhealthy()
            && (rests_until == 0 || rests_until.max(self.probing_until.load(Relaxed)) <= self.now())
    }

    /// Whether its health check says that it is ill.
    pub fn is_unhealthy(&self) -> bool {
        self.ill.load(Relaxed)
    }

    /// Asks for the turn of one who may be asked. One that failed a while ago is tried by one request
    /// alone; the others wait for what comes of it.
    pub fn try_acquire(&self) -> Option<AttemptKind> {
        if self.unavailable_until.load(Relaxed) == 0 {
            return Some(AttemptKind::Normal);
        }
        let (before, now) = (self.probing_until.load(Relaxed), self.now());
        let until =
            after(now, FailureCount(self.failures.load(Relaxed)).backoff(0).unwrap_or_default());
        let is_first = before <= now
            && self.probing_until.compare_exchange(before, until, Relaxed, Relaxed).is_ok();
        is_first.then_some(AttemptKind::HalfOpen)
    }

    /// Its share beside the others, in hundredths of a weight.
    pub fn effective_weight(&self, weight: u32, slow_start: Duration) -> u32 {
        let since = self.recovered_at.load(Relaxed);
        if since == 0 {
            return backoff::slow_start_weight(weight, None, slow_start);
        }
        let back = Duration::from_millis(self.now().saturating_sub(since));
        if back >= slow_start {
            let _ = self.recovered_at.compare_exchange(since, 0, Relaxed, Relaxed);
        }
        backoff::slow_start_weight(weight, Some(back), slow_start)
    }

    /// It has answered: over a new connection, or one that was open already. The latter says nothing
    /// of whether it still takes connections, so it ends no rest before its time.
    pub fn record_success(&self, anew: bool) {
        if self.failures.load(Relaxed) == 0 && self.reported_healthy.load(Relaxed) {
            return;
        }
        let rests_until = self.unavailable_until.load(Relaxed);
        if !anew && rests_until > self.now() {
            return;
        }
        self.failures.store(0, Relaxed);
        if self.unavailable_until.swap(0, Relaxed) != 0 && !self.is_unhealthy() {
            self.mark_recovered();
        }
        if !self.is_unhealthy() && !self.reported_healthy.swap(true, Relaxed) {
            self.metrics.health.set_server_healthy(&self.site, &self.name);
        }
    }

    /// It has not answered, and why. What fails while it rests was begun before, and makes that no
    /// longer: all that were under way as it died fail at once.
    pub fn record_failure(&self, trouble: FailureCount, why: &str) {
        let (rests_until, now) = (self.unavailable_until.load(Relaxed), self.now());
        if rests_until <= now {
            let trouble = FailureCount(self.failures.load(Relaxed)).plus(trouble);
            let rest = trouble.backoff(rand::random());
            let until = rest.map_or(rests_until, |rest| after(now, rest));
            // Of those who fail in the same moment, one counts.
            if self.unavailable_until.compare_exchange(rests_until, until, Relaxed, Relaxed).is_ok()
            {
                self.failures.store(trouble.0, Relaxed);
            }
            if rest.is_none() {
                return;
            }
        }
        self.reported_healthy.store(false, Relaxed);
        self.metrics.health.set_server_unhealthy(&self.site, &self.name, why);
    }

    /// What its health check has found, as often as it has found it.
    pub fn record_health_check(&self, well: bool, found: Result<(), &str>) {
        let was_ill = self.ill.swap(!well, Relaxed);
        match (was_ill, found) {
            (false, Ok(())) => self.record_success(true),
            (true, Ok(())) if well => {
                self.failures.store(0, Relaxed);
                self.unavailable_until.store(0, Relaxed);
                self.reported_healthy.store(true, Relaxed);
                self.metrics.health.set_server_healthy(&self.site, &self.name);
                self.mark_recovered();
            }
            (true, Ok(())) => (),
            (_, Err(why)) if well => {
                tracing::debug!(site = %self.site, server = %self.name, error = %why, "a health check failed");
            }
            (_, Err(why)) => {
                self.reported_healthy.store(false, Relaxed);
                self.metrics.health.set_server_unhealthy(&self.site, &self.name, why);
                if !was_ill {
                    tracing::warn!(site = %self.site, server = %self.name, error = %why, "upstream server unhealthy: health check failed");
                }
            }
        }
    }

    /// Nobody checks it any more.
    pub fn stop_health_check(&self) {
        if self.ill.swap(false, Relaxed) {
            self.mark_recovered();
        }
    }

    fn mark_recovered(&self) {
        self.recovered_at.store(self.now(), Relaxed);
        tracing::info!(site = %self.site, server = %self.name, "upstream server healthy again");
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
pub enum AttemptKind {
    /// Over whatever connection there is.
    Normal,
    /// Over a new one: whether it takes one is what we want to know.
    HalfOpen,
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
        metrics.health.servers("h5.example.com").get("http://a").map(|vital| vital.healthy)
    }

    #[tokio::test(start_paused = true)]
    async fn one_request_tries_a_server_that_was_down() {
        let (backend, metrics) = backend();
        assert_eq!(
            (backend.is_available(), backend.try_acquire()),
            (true, Some(AttemptKind::Normal))
        );
        backend.record_success(true);
        assert_eq!(is_shown_well(&metrics), Some(true));

        // Everything that was under way fails at once, which counts once.
        for _ in 0..100 {
            backend.record_failure(FailureCount::REFUSED, "connection refused");
        }
        assert_eq!((backend.is_available(), is_shown_well(&metrics)), (false, Some(false)));
        advance(3 * SECOND).await;
        assert!(backend.is_available());
        assert_eq!(
            (backend.try_acquire(), backend.try_acquire()),
            (Some(AttemptKind::HalfOpen), None)
        );
        assert!(!backend.is_available(), "somebody tries it");

        // Whoever tried it has left without an answer: the next one may.
        advance(3 * SECOND).await;
        assert_eq!(
            (backend.is_available(), backend.try_acquire()),
            (true, Some(AttemptKind::HalfOpen))
        );
        backend.record_failure(FailureCount::REFUSED, "connection refused");
        advance(3 * SECOND).await;
        assert!(!backend.is_available(), "it rests twice as long");
        backend.record_success(false);
        assert!(!backend.is_available(), "an old connection says nothing of new ones");
        advance(2 * SECOND).await;
        assert_eq!(backend.try_acquire(), Some(AttemptKind::HalfOpen));
        backend.record_success(true);
        assert_eq!(
            (backend.is_available(), backend.try_acquire()),
            (true, Some(AttemptKind::Normal))
        );
        assert_eq!(is_shown_well(&metrics), Some(true));

        // It comes back slowly, and once.
        assert_eq!(backend.effective_weight(1, SLOWLY), 10);
        advance(5 * SECOND).await;
        assert_eq!(backend.effective_weight(1, SLOWLY), 50);
        backend.record_success(true);
        advance(6 * SECOND).await;
        assert_eq!(
            (backend.effective_weight(1, SLOWLY), backend.effective_weight(1, SLOWLY)),
            (100, 100)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn answers_that_break_off_in_a_row_are_as_bad() {
        let (backend, metrics) = backend();
        for _ in 0..5 {
            backend.record_failure(FailureCount::BROKEN, "unexpected end of file");
            backend.record_failure(FailureCount::BROKEN, "unexpected end of file");
            assert!(backend.is_available());
            backend.record_success(false);
        }
        assert_eq!(is_shown_well(&metrics), Some(true), "one request's fault is not a server's");
        for _ in 0..3 {
            backend.record_failure(FailureCount::BROKEN, "unexpected end of file");
        }
        assert_eq!((backend.is_available(), is_shown_well(&metrics)), (false, Some(false)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_health_check_has_the_last_word() {
        let (backend, metrics) = backend();
        backend.record_health_check(true, Err("GET /: 503"));
        assert_eq!((backend.is_available(), is_shown_well(&metrics)), (true, None), "not yet");
        backend.record_health_check(false, Err("GET /: 503"));
        backend.record_success(true);
        assert_eq!((backend.is_available(), is_shown_well(&metrics)), (false, Some(false)));
        backend.record_health_check(false, Ok(()));
        assert!(!backend.is_available(), "once is not enough");
        backend.record_failure(FailureCount::REFUSED, "connection refused");
        backend.record_health_check(true, Ok(()));
        assert_eq!((backend.is_available(), is_shown_well(&metrics)), (true, Some(true)));
        assert_eq!(backend.effective_weight(1, SLOWLY), 10);

        // A server that is checked need not be tried.
        backend.record_failure(FailureCount::REFUSED, "connection refused");
        backend.record_health_check(true, Ok(()));
        assert_eq!(
            (backend.is_available(), backend.try_acquire()),
            (true, Some(AttemptKind::Normal))
        );
        backend.record_health_check(false, Err("GET /: 503"));
        backend.stop_health_check();
        assert!(backend.is_available(), "nobody looks any more");
    }
}
