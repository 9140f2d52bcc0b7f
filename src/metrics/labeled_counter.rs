//! Counters of what happens now and then, each under a few words of ours.

use std::{
    borrow::Cow,
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
use tokio::time::Instant;

/// A word that a counter stands under.
pub type Label = Cow<'static, str>;

/// How often, by those words.
pub type LabelCounts<const N: usize> = BTreeMap<[Label; N], u64>;

/// How often each thing happened. Unlike the library's families it can be read again, by the
/// status page.
#[derive(Debug)]
pub struct LabeledCounter<const N: usize> {
    name: &'static str,
    help: &'static str,
    labels: [&'static str; N],
    counts: Mutex<LabelCounts<N>>,
    /// What had been counted at a moment that matters, and when that was.
    mark: Mutex<Option<(Instant, LabelCounts<N>)>>,
}

impl<const N: usize> LabeledCounter<N> {
    /// Nothing counted yet.
    pub fn new(name: &'static str, help: &'static str, labels: [&'static str; N]) -> Self {
        Self { name, help, labels, counts: Mutex::default(), mark: Mutex::default() }
    }

    /// It happened once more.
    pub fn add(&self, words: [Label; N]) {
        self.add_many(words, 1);
    }

    /// It happened so many times more.
    pub fn add_many(&self, words: [Label; N], times: u64) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.entry(words).or_default() += times;
    }

    /// From here on much may be different.
    pub fn take_snapshot(&self) {
        let counts = self.counts();
        *self.mark.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), counts));
    }

    /// What had been counted at the last mark, if that is not longer ago than this.
    pub fn marked(&self, ago: Duration) -> Option<LabelCounts<N>> {
        let mark = self.mark.lock().unwrap_or_else(PoisonError::into_inner);
        mark.as_ref().filter(|(when, _)| when.elapsed() < ago).map(|(_, counts)| counts.clone())
    }

    /// What was counted.
    pub fn counts(&self) -> LabelCounts<N> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl<const N: usize> Collector for LabeledCounter<N> {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut metric =
            encoder.encode_descriptor(self.name, self.help, None, MetricType::Counter)?;
        for (words, count) in self.counts() {
            let labels: Vec<(&str, &str)> =
                self.labels.into_iter().zip(words.iter().map(|word| &**word)).collect();
            metric
                .encode_family(&labels.as_slice())?
                .encode_counter::<NoLabelSet, u64, u64>(&count, None)?;
        }
        Ok(())
    }
}
