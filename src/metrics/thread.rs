//! The counters of one thread. It alone writes them; a scrape reads them.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

/// What a route asks of a visitor, for the label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessClass {
    /// Nothing.
    Public,
    /// Nothing, but who is known is introduced.
    Optional,
    /// A login.
    Required,
    /// It is the gateway itself.
    Own,
}

impl AccessClass {
    /// The label.
    pub fn label(self) -> &'static str {
        CLASSES.iter().find(|(class, _)| *class == self).map_or("", |(_, word)| word)
    }
}

const CLASSES: [(AccessClass, &str); 4] = [
    (AccessClass::Public, "public"),
    (AccessClass::Optional, "optional"),
    (AccessClass::Required, "required"),
    (AccessClass::Own, "gateway"),
];

/// Statuses with a line of their own; all others are counted by their hundred.
const STATUSES: [u16; 25] = [
    101, 200, 201, 204, 206, 301, 302, 303, 304, 307, 400, 401, 403, 404, 405, 408, 413, 421, 429,
    431, 500, 501, 502, 503, 504,
];
const HUNDREDS: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];
const SLOTS: usize = STATUSES.len() + HUNDREDS.len();

/// Upper ends of the buckets, in microseconds.
const BUCKETS: [u64; 16] = [
    100, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000, 5_000_000, 10_000_000, 30_000_000,
];

/// One thread's counters, by site.
#[derive(Debug, Default)]
pub struct ThreadMetrics(Mutex<BTreeMap<String, Arc<SiteCounters>>>);

impl ThreadMetrics {
    /// The counters of a site. Kept by whoever counts, so that a request looks nothing up.
    pub fn site(&self, name: &str) -> Arc<SiteCounters> {
        let mut sites = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(sites.entry(name.to_owned()).or_default())
    }

    /// Adds what was counted here to the sums.
    pub fn add_to(&self, sums: &mut BTreeMap<String, SiteTotals>) {
        let sites = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (name, counters) in sites.iter() {
            sums.entry(name.clone()).or_default().add(counters);
        }
    }
}

/// What one thread has counted of one site.
#[derive(Debug, Default)]
pub struct SiteCounters {
    requests: [[AtomicU64; SLOTS]; CLASSES.len()],
    seconds: Histogram,
    upstream: Histogram,
    own: Histogram,
}

impl SiteCounters {
    /// A request was answered, after so long; of that, what the site took if it was asked.
    pub fn count(
        &self,
        class: AccessClass,
        status: u16,
        took: Duration,
        upstream: Option<Duration>,
    ) {
        let row = CLASSES.iter().position(|(it, _)| *it == class);
        let slot = row.and_then(|row| self.requests.get(row)?.get(slot(status)));
        add(slot, 1);
        self.seconds.observe(took);
        self.own.observe(took.saturating_sub(upstream.unwrap_or_default()));
        if let Some(upstream) = upstream {
            self.upstream.observe(upstream);
        }
    }
}

fn slot(status: u16) -> usize {
    STATUSES.binary_search(&status).unwrap_or_else(|_| {
        let hundred = usize::from(status / 100).saturating_sub(1);
        STATUSES.len() + hundred.min(HUNDREDS.len() - 1)
    })
}

/// One writer needs no atomic addition.
fn add(counter: Option<&AtomicU64>, more: u64) {
    if let Some(counter) = counter {
        counter.store(counter.load(Relaxed).wrapping_add(more), Relaxed);
    }
}

#[derive(Debug, Default)]
struct Histogram {
    /// One for each bucket, and one for what is beyond.
    counts: [AtomicU64; BUCKETS.len() + 1],
    micros: AtomicU64,
}

impl Histogram {
    fn observe(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = BUCKETS.partition_point(|end| *end < micros);
        add(self.counts.get(bucket), 1);
        add(Some(&self.micros), micros);
    }
}

/// Counters of several threads, added up.
#[derive(Clone, Debug, Default)]
pub struct SiteTotals {
    requests: [[u64; SLOTS]; CLASSES.len()],
    /// From a request to the head of its answer.
    pub seconds: HistogramSnapshot,
    /// What the site took.
    pub upstream: HistogramSnapshot,
    /// What the gateway itself took.
    pub own: HistogramSnapshot,
}

/// A histogram, added up.
#[derive(Clone, Debug, Default)]
pub struct HistogramSnapshot {
    counts: [u64; BUCKETS.len() + 1],
    micros: u64,
}

impl SiteTotals {
    fn add(&mut self, counters: &SiteCounters) {
        for (to, from) in
            self.requests.as_flattened_mut().iter_mut().zip(counters.requests.as_flattened())
        {
            *to = to.wrapping_add(from.load(Relaxed));
        }
        self.seconds.add(&counters.seconds);
        self.upstream.add(&counters.upstream);
        self.own.add(&counters.own);
    }

    /// What was counted since an earlier sum.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let mut sum = self.clone();
        let before = earlier.requests.as_flattened();
        for (to, before) in sum.requests.as_flattened_mut().iter_mut().zip(before) {
            *to = to.saturating_sub(*before);
        }
        for (times, before) in [
            (&mut sum.seconds, &earlier.seconds),
            (&mut sum.upstream, &earlier.upstream),
            (&mut sum.own, &earlier.own),
        ] {
            times.subtract(before);
        }
        sum
    }

    /// Every count that is not zero: route class, status, requests.
    pub fn requests(&self) -> impl Iterator<Item = (&'static str, String, u64)> {
        let statuses = STATUSES.iter().map(u16::to_string).chain(HUNDREDS.map(str::to_owned));
        let statuses: Vec<String> = statuses.collect();
        let rows = self.requests.iter().zip(CLASSES);
        rows.flat_map(move |(row, (_, class))| {
            let row = row.iter().copied().zip(statuses.clone());
            row.map(move |(count, status)| (class, status, count))
        })
        .filter(|(_, _, count)| *count > 0)
    }
}

impl HistogramSnapshot {
    fn add(&mut self, histogram: &Histogram) {
        for (to, from) in self.counts.iter_mut().zip(&histogram.counts) {
            *to = to.wrapping_add(from.load(Relaxed));
        }
        self.micros = self.micros.wrapping_add(histogram.micros.load(Relaxed));
    }

    /// Adds one.
    pub fn observe(&mut self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = BUCKETS.partition_point(|end| *end < micros);
        if let Some(count) = self.counts.get_mut(bucket) {
            *count = count.wrapping_add(1);
        }
        self.micros = self.micros.wrapping_add(micros);
    }

    fn subtract(&mut self, earlier: &Self) {
        for (to, before) in self.counts.iter_mut().zip(earlier.counts) {
            *to = to.saturating_sub(before);
        }
        self.micros = self.micros.saturating_sub(earlier.micros);
    }

    /// In how many seconds this share of them was done: nothing where there are none. Inside a
    /// bucket they are taken to be spread evenly, as Prometheus does.
    pub fn quantile(&self, share: f64) -> Option<f64> {
        let (_, count, buckets) = self.cumulate();
        let number = |count: u64| u32::try_from(count).map_or(f64::MAX, f64::from);
        let (mut before, mut start) = (0.0, 0.0);
        let rank = share * number(count);
        for (end, count) in buckets {
            let after = before + number(count);
            if count > 0 && after >= rank {
                let end = if end.is_finite() { end } else { start };
                return Some(start + (end - start) * (rank - before) / number(count));
            }
            (before, start) = (after, end);
        }
        None
    }

    /// Seconds in all, how many, and the counts of each bucket by its upper end in seconds. The
    /// encoder adds the buckets up.
    pub fn cumulate(&self) -> (f64, u64, Vec<(f64, u64)>) {
        let seconds = |micros: u64| Duration::from_micros(micros).as_secs_f64();
        let ends = BUCKETS.iter().map(|end| seconds(*end)).chain([f64::INFINITY]);
        let count = self.counts.iter().sum();
        (seconds(self.micros), count, ends.zip(self.counts).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_read_off_the_buckets_and_sums_can_be_subtracted() {
        let counters = SiteCounters::default();
        let mut sum = SiteTotals::default();
        assert_eq!(sum.seconds.quantile(0.5), None);
        for millis in [3, 3, 3, 80] {
            counters.count(AccessClass::Public, 200, Duration::from_millis(millis), None);
        }
        sum.add(&counters);
        let (half, most) =
            (sum.seconds.quantile(0.5).unwrap(), sum.seconds.quantile(0.99).unwrap());
        assert!((0.0025..=0.005).contains(&half) && (0.05..=0.1).contains(&most), "{half} {most}");
        let earlier = sum.clone();
        counters.count(AccessClass::Public, 404, Duration::from_mins(1), None);
        let mut sum = SiteTotals::default();
        sum.add(&counters);
        let since = sum.since(&earlier);
        let counted: Vec<_> = since.requests().collect();
        assert_eq!(counted, [("public", "404".to_owned(), 1)]);
        assert_eq!(since.seconds.quantile(0.5), Some(30.0), "beyond the last bucket");
    }

    #[test]
    fn every_status_has_a_slot() {
        let cases = [
            (101, 0),
            (200, 1),
            (504, 24),
            (100, 25),
            (299, 26),
            (399, 27),
            (499, 28),
            (599, 29),
            (0, 25),
            (999, 29),
        ];
        for (status, expected) in cases {
            assert_eq!(slot(status), expected, "{status}");
        }
        assert!(STATUSES.is_sorted(), "they are searched");
    }
}
