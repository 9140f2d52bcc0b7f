//! A host that keeps failing is left alone for a while, so that nobody waits for it in vain.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// Failures in a row that make a host dead.
const FAILURE_THRESHOLD: u32 = 5;
/// How long a dead host is left alone before one call finds out how it is.
const COOLDOWN: Duration = Duration::from_secs(10);

/// What is known of each API host.
#[derive(Debug, Default)]
pub struct CircuitBreaker(Mutex<HashMap<String, HostState>>);

#[derive(Clone, Copy, Debug, Default)]
struct HostState {
    failures: u32,
    rests_until: Option<Instant>,
}

impl CircuitBreaker {
    /// Whether the host may be asked now. A host that has rested is asked once, and again only
    /// when that call has ended well or the next rest is over.
    pub fn allows(&self, host: &str, now: Instant) -> bool {
        let mut hosts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(health) = hosts.get_mut(host) else { return true };
        match health.rests_until {
            Some(until) if now < until => false,
            Some(_) => {
                health.rests_until = Some(now + COOLDOWN);
                true
            }
            None => true,
        }
    }

    /// Notes how a call ended: with an answer, whatever it said, or without.
    pub fn record(&self, host: &str, answered: bool, now: Instant) {
        let mut hosts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let health = hosts.entry(host.to_owned()).or_default();
        if answered {
            *health = HostState::default();
            return;
        }
        health.failures = health.failures.saturating_add(1);
        if health.failures == FAILURE_THRESHOLD {
            tracing::error!(host, rest = ?COOLDOWN, "circuit breaker opened for WeChat API host");
        }
        if health.failures >= FAILURE_THRESHOLD {
            health.rests_until = Some(now + COOLDOWN);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_that_fails_five_times_rests_and_is_then_asked_once() {
        let (breaker, now) = (CircuitBreaker::default(), Instant::now());
        for _ in 0..FAILURE_THRESHOLD {
            assert!(breaker.allows("a", now));
            breaker.record("a", false, now);
        }
        assert!(!breaker.allows("a", now));
        assert!(breaker.allows("b", now), "another host is another matter");
        let rested = now + COOLDOWN;
        assert!(breaker.allows("a", rested));
        assert!(!breaker.allows("a", rested), "one call at a time");
        breaker.record("a", true, rested);
        assert!(breaker.allows("a", rested) && breaker.allows("a", rested));
        for failed in [false, false, true, false, false] {
            breaker.record("a", failed, rested);
        }
        assert!(breaker.allows("a", rested), "only failures in a row count");
    }
}
