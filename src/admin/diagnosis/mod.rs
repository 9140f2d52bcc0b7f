//! What is wrong, in words: from counters and states to causes and remedies. Pure.

mod dependencies;
mod config_and_certificates;
mod limits;
mod logins;
mod wechat;

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;

use super::runtime_status::{CertificateView, ConfigFileStatus};
use crate::{
    clock::Timestamp,
    metrics::{ComponentHealth, Label},
    site::RevocationPolicy,
    store::UnavailableCause,
};

/// The same in Chinese and in English.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Bilingual {
    /// Chinese.
    pub zh: String,
    /// English.
    pub en: String,
}

impl Bilingual {
    /// Both.
    pub fn new(zh: impl Into<String>, en: impl Into<String>) -> Self {
        Self { zh: zh.into(), en: en.into() }
    }

    /// Of a pair that stands in a table.
    pub fn of([zh, en]: [&str; 2]) -> Self {
        Self::new(zh, en)
    }
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FindingSeverity {
    /// Visitors are turned away.
    Critical,
    /// Some are, or will be.
    Warning,
    /// Good to know.
    Notice,
}

impl FindingSeverity {
    /// The label of the metric.
    pub fn word(self) -> &'static str {
        match self {
            Self::Critical => "critical",
            Self::Warning => "warning",
            Self::Notice => "notice",
        }
    }
}

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The word for it in metrics and documents.
    pub cause: &'static str,
    /// How bad it is.
    pub severity: FindingSeverity,
    /// In a few words.
    pub title: Bilingual,
    /// What is known of it.
    pub detail: Bilingual,
    /// What to do.
    pub remedy: Bilingual,
}

pub use config_and_certificates::ends_soon;

/// Counts of the last minute by two words.
pub type Counts = BTreeMap<[Label; 2], u64>;

/// Counts of the last minute by one word.
pub type LimitCounts = BTreeMap<[Label; 1], u64>;

/// Everything a judgement depends on.
#[derive(Debug)]
pub struct DiagnosisInput<'a> {
    /// When.
    pub now: Timestamp,
    /// Each site: its name, its servers, and how long it does without news of ended sessions.
    pub sites: &'a [SiteInput],
    /// API hosts of WeChat's.
    pub wechat: &'a BTreeMap<String, ComponentHealth>,
    /// Accounts.
    pub accounts: &'a BTreeMap<String, ComponentHealth>,
    /// The store; nothing when there is none to reach.
    pub store: Option<&'a ComponentHealth>,
    /// What is the matter with the store, while something is.
    pub store_cause: Option<UnavailableCause>,
    /// The number of revocations that wait to be stored.
    pub waiting: usize,
    /// How old the news of ended sessions is.
    pub news: Option<Duration>,
    /// Calls of the last minute.
    pub calls: &'a Counts,
    /// Logins of the last minute.
    pub logins: &'a Counts,
    /// Logins since the start.
    pub all_logins: &'a Counts,
    /// Sessions of the last minute.
    pub sessions: &'a Counts,
    /// Requests of the last minute that a site did not answer.
    pub upstream_errors: &'a Counts,
    /// Limits that visitors met in the last minute, by key.
    pub limits: &'a LimitCounts,
    /// Connections of visitors that are open.
    pub connections: i64,
    /// Connections of visitors that are held at once.
    pub connection_limit: i64,
    /// The configuration.
    pub file: &'a ConfigFileStatus,
    /// Orders of certificates, by name.
    pub orders: &'a BTreeMap<String, ComponentHealth>,
    /// Certificates.
    pub certificates: &'a [CertificateView],
    /// Whether new visitors may be sent here.
    pub ready: bool,
}

/// What matters of a site.
#[derive(Clone, Debug)]
pub struct SiteInput {
    /// How logs call it.
    pub name: String,
    /// Its servers.
    pub servers: Vec<String>,
    /// How those are that have been asked.
    pub vitals: BTreeMap<String, ComponentHealth>,
    /// How long it does without news.
    pub staleness: RevocationPolicy,
}

/// What is more than a stray browser or two.
const MIN_REFUSALS: u64 = 3;

/// Everything that is wrong, the worst first.
pub fn diagnose(facts: &DiagnosisInput<'_>) -> Vec<Finding> {
    let mut found = Vec::new();
    // The cause of others comes first.
    found.extend(limits::descriptors_are_exhausted(facts));
    found.extend(limits::connections_are_taken(facts));
    found.extend(wechat::is_away(facts));
    found.extend(wechat::accounts_are_refused(facts));
    found.extend(wechat::is_busy(facts));
    dependencies::upstreams_are_down(facts, &mut found);
    dependencies::upstreams_fail(facts, &mut found);
    found.extend(dependencies::store_is_away(facts));
    logins::sessions_are_refused(facts, &mut found);
    logins::logins_are_lost(facts, &mut found);
    config_and_certificates::the_file(facts, &mut found);
    config_and_certificates::certificates_end(facts, &mut found);
    config_and_certificates::orders_fail(facts, &mut found);
    found.extend(config_and_certificates::not_ready(facts));
    found.sort_by_key(|finding| finding.severity);
    found
}

fn finding(
    cause: &'static str,
    severity: FindingSeverity,
    title: [&str; 2],
    detail: Bilingual,
    remedy: [&str; 2],
) -> Finding {
    Finding { cause, severity, title: Bilingual::of(title), detail, remedy: Bilingual::of(remedy) }
}

fn count(counts: &Counts, first: &str, second: &str) -> u64 {
    let fits = |[a, b]: &[Label; 2]| {
        (first.is_empty() || a == first) && (second.is_empty() || b == second)
    };
    counts.iter().filter(|(words, _)| fits(words)).map(|(_, count)| count).sum()
}

/// `a: why; b: why` of those that are ill.
fn list<'a>(vitals: impl Iterator<Item = (&'a String, &'a ComponentHealth)>) -> String {
    let ill = vitals.filter(|(_, vital)| !vital.healthy);
    ill.map(|(name, vital)| format!("{name}: {}", vital.why)).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests;
