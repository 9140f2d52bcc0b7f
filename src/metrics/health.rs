//! How the servers around us are, as far as our own calls can tell.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Mutex, PoisonError},
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, NoLabelSet},
    metrics::MetricType,
};
use serde::Serialize;

use crate::clock::{self, Timestamp};

/// What a server is to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// It stands behind a site.
    Upstream,
    /// An API host of WeChat's.
    WeChat,
    /// An account of ours there: whether WeChat takes its id and secret.
    Account,
    /// It keeps what replicas share.
    Store,
}

impl Part {
    /// The gauge, the label that tells one from the other, and what it says.
    const ALL: [(Self, &'static str, &'static str, &'static str); 4] = [
        (
            Self::Upstream,
            "upstream_up",
            "server",
            "Whether a server of a site took its last connection",
        ),
        (Self::WeChat, "wechat_up", "host", "Whether an API host of WeChat's answers"),
        (Self::Account, "account_up", "account", "Whether WeChat takes the app_id and secret"),
        (Self::Store, "store_up", "store", "Whether what replicas share can be reached"),
    ];
}

/// How one of them is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Vital {
    /// Whether it did what we last asked of it.
    pub well: bool,
    /// Since when.
    pub since: Timestamp,
    /// What was wrong the last time that something was.
    pub why: String,
    /// How often that has been.
    pub failures: u64,
}

/// All of them, by what they are and how we call them.
#[derive(Debug, Default)]
pub struct Health(Mutex<BTreeMap<(Part, String), Vital>>);

impl Health {
    /// It did what we asked.
    pub fn well(&self, part: Part, name: &str) {
        self.note(part, name, None);
    }

    /// It did not, and why.
    pub fn ill(&self, part: Part, name: &str, why: &str) {
        self.note(part, name, Some(why));
    }

    fn note(&self, part: Part, name: &str, trouble: Option<&str>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let well = trouble.is_none();
        let vital = all.entry((part, name.to_owned())).or_insert_with(|| Vital {
            well,
            since: clock::system(),
            why: String::new(),
            failures: 0,
        });
        if vital.well != well {
            (vital.well, vital.since) = (well, clock::system());
        }
        if let Some(why) = trouble {
            vital.failures += 1;
            why.clone_into(&mut vital.why);
        }
    }

    /// How those of one kind are, by name.
    pub fn of(&self, part: Part) -> BTreeMap<String, Vital> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of_kind = all.iter().filter(|((kind, _), _)| *kind == part);
        of_kind.map(|((_, name), vital)| (name.clone(), vital.clone())).collect()
    }

    /// Forgets those of one kind that are no longer configured.
    pub fn keep(&self, part: Part, wanted: impl Fn(&str) -> bool) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|(kind, name), _| *kind != part || wanted(name));
    }
}

impl Collector for Health {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        for (part, name, label, help) in Part::ALL {
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for (server, vital) in self.of(part) {
                metric
                    .encode_family(&[(label, server.as_str())])?
                    .encode_gauge(&i64::from(vital.well))?;
            }
        }
        let help = "Times that a server behind a site took no connection";
        let mut metric =
            encoder.encode_descriptor("upstream_failures", help, None, MetricType::Counter)?;
        for (server, vital) in self.of(Part::Upstream) {
            metric
                .encode_family(&[("server", server.as_str())])?
                .encode_counter::<NoLabelSet, u64, u64>(&vital.failures, None)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_dated_and_a_failure_counted() {
        let health = Health::default();
        health.well(Part::Upstream, "http://a:1");
        health.ill(Part::Upstream, "http://a:1", "connection refused");
        health.ill(Part::Upstream, "http://a:1", "timed out");
        health.ill(Part::Store, "Redis", "gone");
        let found = health.of(Part::Upstream);
        let vital = &found["http://a:1"];
        assert_eq!((vital.well, vital.failures, &*vital.why), (false, 2, "timed out"));
        health.well(Part::Upstream, "http://a:1");
        let vital = &health.of(Part::Upstream)["http://a:1"];
        assert_eq!((vital.well, vital.failures, &*vital.why), (true, 2, "timed out"));
        health.keep(Part::Upstream, |_| false);
        assert!(health.of(Part::Upstream).is_empty());
        assert_eq!(health.of(Part::Store).len(), 1, "of another kind");
    }
}
