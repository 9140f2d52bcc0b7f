//! Looks at the counters again and again, so that the page can tell what happens now from what
//! happened once, and tells everybody who looks at the page.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval},
};

use super::{diagnosis, runtime_status::RuntimeStatus, status_view};
use crate::{
    gateway::Gateway,
    metrics::{Label, Metrics, SiteTotals},
};

/// How often.
const TICK: Duration = Duration::from_secs(2);
/// Ticks that the curves of the page show: three minutes.
const SAMPLES: usize = 90;
/// Every so many ticks the counters are put aside, and so many times: what happened since the
/// oldest is what happened in the last minute.
const SNAPSHOT_EVERY: usize = 3;
const SNAPSHOTS: usize = 10;
const MINUTE: Duration = Duration::from_mins(1);

/// Counters as they were at some moment.
#[derive(Clone, Debug, Default)]
pub struct CounterSnapshot {
    /// What threads counted, by site.
    pub sites: BTreeMap<String, SiteTotals>,
    /// Logins.
    pub logins: Counts,
    /// Calls to WeChat.
    pub calls: Counts,
    /// Sessions.
    pub sessions: Counts,
    /// Requests that a site did not answer.
    pub errors: Counts,
    /// Limits that visitors met.
    pub limits: diagnosis::LimitCounts,
}

type Counts = BTreeMap<[Label; 2], u64>;

/// Requests and server errors of one tick.
pub type RequestSample = (u64, u64);

impl CounterSnapshot {
    /// The counters as they are.
    pub fn of(metrics: &Metrics) -> Self {
        Self {
            sites: metrics.sites(),
            logins: metrics.logins.counts(),
            calls: metrics.calls.counts(),
            sessions: metrics.sessions.counts(),
            errors: metrics.upstream_errors.counts(),
            limits: metrics.limits.counts(),
        }
    }

    /// What was counted since an earlier one.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let nothing = SiteTotals::default();
        let sites = self.sites.iter().map(|(name, sum)| {
            (name.clone(), sum.since(earlier.sites.get(name).unwrap_or(&nothing)))
        });
        Self {
            sites: sites.collect(),
            logins: less(&self.logins, &earlier.logins),
            calls: less(&self.calls, &earlier.calls),
            sessions: less(&self.sessions, &earlier.sessions),
            errors: less(&self.errors, &earlier.errors),
            limits: less(&self.limits, &earlier.limits),
        }
    }
}

fn less<const N: usize>(
    now: &BTreeMap<[Label; N], u64>,
    earlier: &BTreeMap<[Label; N], u64>,
) -> BTreeMap<[Label; N], u64> {
    let new = |(words, count): (&[Label; N], &u64)| {
        let more = count.saturating_sub(earlier.get(words).copied().unwrap_or_default());
        (more > 0).then(|| (words.clone(), more))
    };
    now.iter().filter_map(new).collect()
}

/// What has been seen lately.
#[derive(Debug, Default)]
pub struct RecentActivity {
    marks: VecDeque<CounterSnapshot>,
    /// Requests and errors of each site at the last tick, all in all.
    before: BTreeMap<String, RequestSample>,
    /// The same by tick, the youngest last.
    pub curves: BTreeMap<String, VecDeque<RequestSample>>,
    ticks: usize,
}

impl RecentActivity {
    /// One tick more.
    fn tick(&mut self, mark: &CounterSnapshot) {
        for (name, sum) in &mark.sites {
            let all = totals(sum);
            let before = self.before.insert(name.clone(), all).unwrap_or_default();
            let curve = self.curves.entry(name.clone()).or_default();
            curve.push_back((all.0.saturating_sub(before.0), all.1.saturating_sub(before.1)));
            if curve.len() > SAMPLES {
                curve.pop_front();
            }
        }
        if self.ticks.is_multiple_of(SNAPSHOT_EVERY) {
            self.marks.push_back(mark.clone());
            if self.marks.len() > SNAPSHOTS {
                self.marks.pop_front();
            }
        }
        self.ticks = self.ticks.wrapping_add(1);
    }

    /// What was counted in the last minute.
    pub fn last_minute(&self, now: &CounterSnapshot) -> CounterSnapshot {
        // Before there was anything to compare with, all of it is new.
        self.marks.front().map_or_else(|| now.clone(), |oldest| now.since(oldest))
    }

    /// Requests a second of a site, over the last ticks.
    pub fn rate(&self, site: &str) -> f64 {
        const TICKS: u32 = 5;
        let curve = self.curves.get(site).into_iter().flatten().rev().take(5);
        let requests: u64 = curve.map(|(all, _)| *all).sum();
        let requests = u32::try_from(requests).unwrap_or(u32::MAX);
        f64::from(requests) / (TICK * TICKS).as_secs_f64()
    }
}

/// Requests, and those that ended in a server error.
pub fn totals(sum: &SiteTotals) -> RequestSample {
    sum.requests().fold((0, 0), |(all, bad), (_, status, count)| {
        (all + count, bad + if status.starts_with('5') { count } else { 0 })
    })
}

/// Looks for as long as the listener is there.
pub async fn sample_periodically(
    gateway: Arc<Gateway>,
    status: RuntimeStatus,
    news: watch::Sender<Bytes>,
) {
    let (mut lately, mut ticks) = (RecentActivity::default(), interval(TICK));
    // The counters begin at zero: what happened before the first look has happened just now.
    lately.marks.push_back(CounterSnapshot::default());
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        ticks.tick().await;
        let mark = CounterSnapshot::of(gateway.metrics());
        lately.tick(&mark);
        let mut minute = lately.last_minute(&mark);
        // Who was refused under another configuration is no fault of the one in force.
        if let Some(before) = gateway.metrics().sessions.marked(MINUTE) {
            minute.sessions = less(&mark.sessions, &before);
        }
        let look = status_view::StatusView {
            gateway: &gateway,
            status: &status,
            mark: &mark,
            minute: &minute,
        };
        let findings = look.findings();
        let causes = findings.iter().map(|it: &diagnosis::Finding| (it.cause, it.severity.word()));
        gateway.metrics().problems(causes);
        let status = look.status(&findings, &lately);
        news.send_replace(Bytes::from(format!("data: {status}\n\n")));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::AccessClass;

    #[test]
    fn what_happened_long_ago_is_not_of_the_last_minute() {
        let metrics = Metrics::default();
        let site = metrics.thread().site("h5.example.com");
        let mut lately = RecentActivity::default();
        let request = || site.count(AccessClass::Public, 502, Duration::from_millis(3), None);
        let mut seen = Vec::new();
        for tick in 0..40 {
            if tick == 1 {
                (0..10).for_each(|_| request());
                metrics.login("started", "");
            }
            let mark = CounterSnapshot::of(&metrics);
            lately.tick(&mark);
            let minute = lately.last_minute(&mark);
            let all = minute.sites.get("h5.example.com").map_or((0, 0), totals);
            seen.push((all, minute.logins.len()));
        }
        assert_eq!(seen[0], ((0, 0), 0));
        assert_eq!(seen[1], ((10, 10), 1));
        assert_eq!(seen[29], ((10, 10), 1), "58 seconds later");
        assert_eq!(seen[39], ((0, 0), 0), "78 seconds later");
        assert_eq!(lately.curves["h5.example.com"][1], (10, 10));
        assert!(lately.curves["h5.example.com"].len() == 40 && lately.marks.len() == SNAPSHOTS);
    }
}
