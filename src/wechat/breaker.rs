//! A host that keeps failing is left alone for a while, so that nobody waits for it in vain.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// Failures in a row that make a host dead.
const PATIENCE: u32 = 5;
/// How long a dead host is left alone before one call finds out how it is.
const REST: Duration = Duration::from_secs(10);

/// What is known of each API host.
#[derive(Debug, Default)]
pub struct Breaker(Mutex<HashMap<String, Health>>);

#[derive(Clone, Copy, Debug, Default)]
struct Health {
    failures: u32,
    rests_until: Option<Instant>,
}

impl Breaker {
    /// Whether the host may be asked now. A host that has rested is asked once, and again only
    /// when that call has ended well or the next rest is over.
    pub fn allows(&self, host: &str, now: Instant) -> bool {
        let mut hosts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(health) = hosts.get_mut(host) else { return true };
        match health.rests_until {
            Some(until) if now < until => false,
            Some(_) => {
                health.rests_until = Some(now + REST);
                true
            }
            None => true,
        }
    }

    /// Notes how a call ended: with an answer, whatever it said, or without.
    pub fn note(&self, host: &str, answered: bool, now: Instant) {
        let mut hosts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let health = hosts.entry(host.to_owned()).or_default();
        if answered {
            *health = Health::default();
            return;
        }
        health.failures = health.failures.saturating_add(1);
        if health.failures == PATIENCE {
            tracing::error!(host, rest = ?REST, "WeChat's API keeps failing and is left alone for a while");
        }
        if health.failures >= PATIENCE {
            health.rests_until = Some(now + REST);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_that_fails_five_times_rests_and_is_then_asked_once() {
        let (breaker, now) = (Breaker::default(), Instant::now());
        for _ in 0..PATIENCE {
            assert!(breaker.allows("a", now));
            breaker.note("a", false, now);
        }
        assert!(!breaker.allows("a", now));
        assert!(breaker.allows("b", now), "another host is another matter");
        let rested = now + REST;
        assert!(breaker.allows("a", rested));
        assert!(!breaker.allows("a", rested), "one call at a time");
        breaker.note("a", true, rested);
        assert!(breaker.allows("a", rested) && breaker.allows("a", rested));
        for failed in [false, false, true, false, false] {
            breaker.note("a", failed, rested);
        }
        assert!(breaker.allows("a", rested), "only failures in a row count");
    }
}
