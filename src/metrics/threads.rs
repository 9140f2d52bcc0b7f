//! The counters of all threads, added up when somebody asks.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, NoLabelSet},
    metrics::MetricType,
};

use super::thread::{HistogramSnapshot, SiteTotals, ThreadMetrics};

/// The threads, as one collector.
#[derive(Debug, Default)]
pub struct ThreadCollector(Mutex<Vec<Arc<ThreadMetrics>>>);

/// Which of the histograms of a site.
type Pick = fn(&SiteTotals) -> &HistogramSnapshot;

const HISTOGRAMS: [(&str, &str, Pick); 3] = [
    ("request_seconds", "From a request to the head of its answer", |sum| &sum.seconds),
    ("upstream_seconds", "Of that, what the site took", |sum| &sum.upstream),
    ("gateway_seconds", "And what the gateway took, WeChat included", |sum| &sum.own),
];

impl ThreadCollector {
    /// The counters of one thread more.
    pub fn thread(&self) -> Arc<ThreadMetrics> {
        let thread = Arc::new(ThreadMetrics::default());
        let mut threads = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        threads.push(Arc::clone(&thread));
        thread
    }

    /// What all have counted, by site.
    pub fn sum(&self) -> BTreeMap<String, SiteTotals> {
        let threads = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut sites = BTreeMap::new();
        for thread in threads.iter() {
            thread.add_to(&mut sites);
        }
        sites
    }
}

impl Collector for ThreadCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let sites = self.sum();
        let help = "Requests, by site, what their route asks, and status";
        let mut requests =
            encoder.encode_descriptor("requests", help, None, MetricType::Counter)?;
        for (site, sum) in &sites {
            for (class, status, count) in sum.requests() {
                let labels =
                    [("site", site.as_str()), ("route", class), ("status", status.as_str())];
                requests
                    .encode_family(&labels)?
                    .encode_counter::<NoLabelSet, u64, u64>(&count, None)?;
            }
        }
        for (name, help, pick) in HISTOGRAMS {
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
            for (site, sum) in &sites {
                let (times, labels) = (pick(sum), [("site", site.as_str())]);
                let (total, count, buckets) = times.cumulate();
                metric
                    .encode_family(&labels)?
                    .encode_histogram::<NoLabelSet>(total, count, &buckets, None)?;
            }
        }
        Ok(())
    }
}
