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

use crate::clock::{self, Timestamp};

/// What a server is to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Component {
    /// It stands behind a site.
    Upstream,
    /// An API host of WeChat's.
    WeChat,
    /// An account of ours there: whether WeChat takes its id and secret.
    Account,
    /// It keeps what replicas share.
    Store,
    /// An authority, by the name whose certificate was ordered from it.
    Certificate,
}

impl Component {
    /// The gauge, the label that tells one from the other, and what it says.
    const ALL: [(Self, &'static str, &'static str, &'static str); 5] = [
        (
            Self::Upstream,
            "upstream_up",
            "server",
            "Whether a server of a site is well, as far as requests and health checks can tell",
        ),
        (Self::WeChat, "wechat_up", "host", "Whether an API host of WeChat's answers"),
        (Self::Account, "account_up", "account", "Whether WeChat takes the app_id and secret"),
        (Self::Store, "store_up", "store", "Whether what replicas share can be reached"),
        (
            Self::Certificate,
            "acme_up",
            "domain",
            "Whether the last order of a certificate for a name was filled",
        ),
    ];
}

/// How one of them is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ComponentHealth {
    /// Whether it did what we last asked of it.
    pub healthy: bool,
    /// Since when.
    pub since: Timestamp,
    /// What was wrong the last time that something was.
    pub why: String,
    /// How often that has been.
    pub failures: u64,
}

/// All of them, by what they are and how we call them; a server behind a site also by the site.
#[derive(Debug, Default)]
pub struct HealthRegistry(Mutex<BTreeMap<ComponentKey, ComponentHealth>>);

type ComponentKey = (Component, String, String);

impl HealthRegistry {
    /// It did what we asked.
    pub fn set_healthy(&self, part: Component, name: &str) {
        self.note((part, "", name), None);
    }

    /// It did not, and why.
    pub fn set_unhealthy(&self, part: Component, name: &str, why: &str) {
        self.note((part, "", name), Some(why));
    }

    /// A server of a site is well.
    pub fn set_server_healthy(&self, site: &str, name: &str) {
        self.note((Component::Upstream, site, name), None);
    }

    /// A server of a site is not, and why.
    pub fn set_server_unhealthy(&self, site: &str, name: &str, why: &str) {
        self.note((Component::Upstream, site, name), Some(why));
    }

    fn note(&self, (part, site, name): (Component, &str, &str), trouble: Option<&str>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let well = trouble.is_none();
        let vital = all.entry((part, site.to_owned(), name.to_owned())).or_insert_with(|| {
            ComponentHealth {
                healthy: well,
                since: clock::system(),
                why: String::new(),
                failures: 0,
            }
        });
        if vital.healthy != well {
            (vital.healthy, vital.since) = (well, clock::system());
        }
        if let Some(why) = trouble {
            vital.failures += 1;
            why.clone_into(&mut vital.why);
        }
    }

    /// How those of one kind are, by name.
    pub fn of(&self, part: Component) -> BTreeMap<String, ComponentHealth> {
        self.all(part).into_iter().map(|(_, name, vital)| (name, vital)).collect()
    }

    /// How the servers of a site are, by name.
    pub fn servers(&self, site: &str) -> BTreeMap<String, ComponentHealth> {
        let all = self.all(Component::Upstream).into_iter();
        all.filter(|(of, ..)| of == site).map(|(_, name, vital)| (name, vital)).collect()
    }

    /// Forgets the names that nothing is ordered for any more.
    pub fn keep_orders(&self, names: &[String]) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|(part, _, name), _| *part != Component::Certificate || names.contains(name));
    }

    /// Forgets the servers of sites that are no longer configured.
    pub fn retain_servers(&self, wanted: impl Fn(&str, &str) -> bool) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|(part, site, name), _| *part != Component::Upstream || wanted(site, name));
    }

    fn all(&self, part: Component) -> Vec<(String, String, ComponentHealth)> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of_kind = all.iter().filter(|((kind, ..), _)| *kind == part);
        of_kind.map(|((_, site, name), it)| (site.clone(), name.clone(), it.clone())).collect()
    }
}

impl Collector for HealthRegistry {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        for (part, name, label, help) in Component::ALL {
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for (site, name, vital) in self.all(part) {
                metric
                    .encode_family(&labels(label, &name, &site).as_slice())?
                    .encode_gauge(&i64::from(vital.healthy))?;
            }
        }
        let help = "Times that a server of a site took no connection or failed its health check";
        let mut metric =
            encoder.encode_descriptor("upstream_failures", help, None, MetricType::Counter)?;
        for (site, name, vital) in self.all(Component::Upstream) {
            metric
                .encode_family(&labels("server", &name, &site).as_slice())?
                .encode_counter::<NoLabelSet, u64, u64>(&vital.failures, None)?;
        }
        Ok(())
    }
}

/// What tells one from the others.
fn labels<'a>(label: &'a str, name: &'a str, site: &'a str) -> Vec<(&'a str, &'a str)> {
    let site = Some(("site", site)).filter(|(_, site)| !site.is_empty());
    [(label, name)].into_iter().chain(site).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_dated_and_a_failure_counted() {
        let (health, site, a) = (HealthRegistry::default(), "h5.example.com", "http://a:1");
        health.set_server_healthy(site, a);
        health.set_server_unhealthy(site, a, "connection refused");
        health.set_server_unhealthy(site, a, "timed out");
        health.set_server_healthy("another.example.com", a);
        health.set_unhealthy(Component::Store, "Redis", "gone");
        let found = health.servers(site);
        let vital = &found[a];
        assert_eq!((vital.healthy, vital.failures, &*vital.why), (false, 2, "timed out"));
        health.set_server_healthy(site, a);
        let vital = &health.servers(site)[a];
        assert_eq!((vital.healthy, vital.failures, &*vital.why), (true, 2, "timed out"));
        health.retain_servers(|of, _| of != site);
        assert!(health.servers(site).is_empty());
        assert_eq!(health.servers("another.example.com").len(), 1, "of another site");
        assert_eq!(health.of(Component::Store).len(), 1, "of another kind");
    }
}
