//! How long our calls took, by endpoint.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, NoLabelSet},
    metrics::MetricType,
};

use super::thread::HistogramSnapshot;

/// Calls to WeChat, which are few: one lock for all of them.
#[derive(Debug, Default)]
pub struct WeChatCalls(Mutex<BTreeMap<&'static str, HistogramSnapshot>>);

impl WeChatCalls {
    /// A call ended.
    pub fn observe(&self, endpoint: &'static str, took: Duration) {
        let mut calls = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        calls.entry(endpoint).or_default().observe(took);
    }

    /// All of them.
    pub fn times(&self) -> BTreeMap<&'static str, HistogramSnapshot> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Collector for WeChatCalls {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let help = "How long calls to WeChat's API took";
        let mut metric =
            encoder.encode_descriptor("wechat_seconds", help, None, MetricType::Histogram)?;
        for (endpoint, times) in self.times() {
            let (total, count, buckets) = times.cumulate();
            metric
                .encode_family(&[("endpoint", endpoint)])?
                .encode_histogram::<NoLabelSet>(total, count, &buckets, None)?;
        }
        Ok(())
    }
}
