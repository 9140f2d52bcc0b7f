//! Requests that wait for something, counted as they come and go.

use std::sync::atomic::AtomicI64;

use prometheus_client::metrics::gauge::Gauge;

/// Those of one site, of all threads.
#[derive(Clone, Debug, Default)]
pub struct WaitingGauge(Gauge<i64, AtomicI64>);

/// One of them, while it waits.
#[derive(Debug)]
pub struct WaitingGuard(Gauge<i64, AtomicI64>);

impl WaitingGauge {
    /// How the gauge of a site is counted.
    pub(super) fn new(gauge: Gauge<i64, AtomicI64>) -> Self {
        Self(gauge)
    }

    /// One more waits, unless there are `most` already.
    pub fn enter(&self, most: i64) -> Option<WaitingGuard> {
        let before = self.0.inc();
        let waiter = WaitingGuard(self.0.clone());
        (before < most).then_some(waiter)
    }
}

impl Drop for WaitingGuard {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_and_no_more() {
        let waiting = WaitingGauge::default();
        let (first, second) = (waiting.enter(2), waiting.enter(2));
        assert!(first.is_some() && second.is_some() && waiting.enter(2).is_none());
        drop(first);
        assert!(waiting.enter(2).is_some());
        drop(second);
        assert_eq!(waiting.0.get(), 0);
        assert!(waiting.enter(0).is_none());
    }
}
