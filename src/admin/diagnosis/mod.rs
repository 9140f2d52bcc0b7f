//! What is wrong, in words: from counters and states to causes and remedies. Pure.

mod around;
mod house;
mod visitors;
mod wechat;

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;

use super::board::{Certificate, File};
use crate::{
    clock::Timestamp,
    metrics::{Vital, Word},
    site::Staleness,
};

/// The same in Chinese and in English.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Text {
    /// Chinese.
    pub zh: String,
    /// English.
    pub en: String,
}

impl Text {
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
pub enum Severity {
    /// Visitors are turned away.
    Critical,
    /// Some are, or will be.
    Warning,
    /// Good to know.
    Notice,
}

impl Severity {
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
    pub severity: Severity,
    /// In a few words.
    pub title: Text,
    /// What is known of it.
    pub detail: Text,
    /// What to do.
    pub remedy: Text,
}

pub use house::ends_soon;

/// Counts of the last minute by two words.
pub type Counts = BTreeMap<[Word; 2], u64>;

/// Everything a judgement depends on.
#[derive(Debug)]
pub struct Facts<'a> {
    /// When.
    pub now: Timestamp,
    /// Each site: its name, its servers, and how long it does without news of ended sessions.
    pub sites: &'a [SiteFacts],
    /// API hosts of WeChat's.
    pub wechat: &'a BTreeMap<String, Vital>,
    /// Accounts.
    pub accounts: &'a BTreeMap<String, Vital>,
    /// The store; nothing when there is none to reach.
    pub store: Option<&'a Vital>,
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
    /// The configuration.
    pub file: &'a File,
    /// Orders of certificates, by name.
    pub orders: &'a BTreeMap<String, Vital>,
    /// Certificates.
    pub certificates: &'a [Certificate],
    /// Whether new visitors may be sent here.
    pub ready: bool,
}

/// What matters of a site.
#[derive(Clone, Debug)]
pub struct SiteFacts {
    /// How logs call it.
    pub name: String,
    /// Its servers.
    pub servers: Vec<String>,
    /// How those are that have been asked.
    pub vitals: BTreeMap<String, Vital>,
    /// How long it does without news.
    pub staleness: Staleness,
}

/// What is more than a stray browser or two.
const MANY: u64 = 3;

/// Everything that is wrong, the worst first.
pub fn diagnose(facts: &Facts<'_>) -> Vec<Finding> {
    let mut found = Vec::new();
    found.extend(wechat::is_away(facts));
    found.extend(wechat::accounts_are_refused(facts));
    found.extend(wechat::is_busy(facts));
    around::upstreams_are_down(facts, &mut found);
    around::upstreams_fail(facts, &mut found);
    found.extend(around::store_is_away(facts));
    visitors::sessions_are_refused(facts, &mut found);
    visitors::logins_are_lost(facts, &mut found);
    house::the_file(facts, &mut found);
    house::certificates_end(facts, &mut found);
    house::orders_fail(facts, &mut found);
    found.extend(house::not_ready(facts));
    found.sort_by_key(|finding| finding.severity);
    found
}

fn finding(
    cause: &'static str,
    severity: Severity,
    title: [&str; 2],
    detail: Text,
    remedy: [&str; 2],
) -> Finding {
    Finding { cause, severity, title: Text::of(title), detail, remedy: Text::of(remedy) }
}

fn count(counts: &Counts, first: &str, second: &str) -> u64 {
    let fits =
        |[a, b]: &[Word; 2]| (first.is_empty() || a == first) && (second.is_empty() || b == second);
    counts.iter().filter(|(words, _)| fits(words)).map(|(_, count)| count).sum()
}

/// `a: why; b: why` of those that are ill.
fn list<'a>(vitals: impl Iterator<Item = (&'a String, &'a Vital)>) -> String {
    let ill = vitals.filter(|(_, vital)| !vital.well);
    ill.map(|(name, vital)| format!("{name}: {}", vital.why)).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests;
