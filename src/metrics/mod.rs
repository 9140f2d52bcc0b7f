//! What is counted, for `/metrics` and the status page.
//!
//! What happens on every request is counted per thread and summed when somebody asks: each counter
//! has one writer, so counting is a load and a store of the thread's own memory. What happens now
//! and then goes into ordinary tallies. Labels are words of ours, never a visitor's.

mod wechat_calls;
mod health;
mod labeled_counter;
mod thread;
mod threads;
mod waiting_gauge;

#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64},
    },
    time::Duration,
};

use prometheus_client::{
    collector::Collector,
    encoding::{EncodeLabelSet, EncodeMetric},
    metrics::{family::Family, gauge::Gauge, info::Info},
    registry::Registry,
};

pub use health::{Component, ComponentHealth, HealthRegistry};
pub use labeled_counter::{Label, LabeledCounter};
pub use thread::{AccessClass, HistogramSnapshot, SiteCounters, SiteTotals, ThreadMetrics};
pub use waiting_gauge::WaitingGauge;

use crate::clock::{self, Timestamp};
use threads::ThreadCollector;
use wechat_calls::WeChatCalls;

/// Every counter there is.
#[derive(Debug)]
pub struct Metrics {
    threads: Arc<ThreadCollector>,
    /// Logins by what became of them and why.
    pub logins: Arc<LabeledCounter<2>>,
    /// Calls to WeChat by endpoint and errcode.
    pub calls: Arc<LabeledCounter<2>>,
    /// Sessions by what became of them and why.
    pub sessions: Arc<LabeledCounter<2>>,
    /// Requests that a site did not answer, by site and reason.
    pub upstream_errors: Arc<LabeledCounter<2>>,
    /// Reloads by their result.
    pub reloads: Arc<LabeledCounter<1>>,
    /// Visitors who met a limit, by its key.
    pub limits: Arc<LabeledCounter<1>>,
    handshakes: Arc<LabeledCounter<2>>,
    spans: Arc<LabeledCounter<1>>,
    orders: Arc<LabeledCounter<1>>,
    /// The servers around us.
    pub health: Arc<HealthRegistry>,
    wechat: Arc<WeChatCalls>,
    waiting: Family<SiteLabels, Gauge>,
    /// When they begin, and when they end.
    certificates: [Family<NameLabels, Gauge>; 2],
    problems: Family<ProblemLabels, Gauge>,
    connections: Gauge<i64, AtomicI64>,
    connection_limit: Gauge<i64, AtomicI64>,
    news: Gauge<f64, AtomicU64>,
    began: Timestamp,
    registry: Registry,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct NameLabels {
    name: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SiteLabels {
    site: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ProblemLabels {
    cause: &'static str,
    severity: &'static str,
}

/// What became of something, and why.
const OUTCOME: [&str; 2] = ["event", "reason"];

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("wxgate");
        let began = introduce(&mut registry);
        let threads = collect(&mut registry, ThreadCollector::default());
        let tally = |name, help, labels| LabeledCounter::new(name, help, labels);
        let alone = |name, help, label| LabeledCounter::new(name, help, [label]);
        let why = "Logins by what became of them, and codes and tickets of the broker, by reason";
        let logins = collect(&mut registry, tally("logins", why, OUTCOME));
        let why = "Calls to WeChat's API, by errcode";
        let calls = collect(&mut registry, tally("wechat_calls", why, ["endpoint", "errcode"]));
        let why = "Sessions issued, re-issued and refused, by reason";
        let sessions = collect(&mut registry, tally("sessions", why, OUTCOME));
        let why = "Requests that a site did not answer, by reason";
        let errors = collect(&mut registry, tally("upstream_errors", why, ["site", "reason"]));
        let why = "Reloads of the configuration";
        let reloads = collect(&mut registry, alone("config_reloads", why, "result"));
        let why = "Times that a visitor met a limit, by its key";
        let limits = collect(&mut registry, alone("limits", why, "limit"));
        let why = "TLS handshakes of visitors, by what came of them";
        let handshakes =
            collect(&mut registry, tally("tls_handshakes", why, ["result", "version"]));
        let [spans, orders] = results(&mut registry);
        let health = collect(&mut registry, HealthRegistry::default());
        let wechat = collect(&mut registry, WeChatCalls::default());
        let certificates = lives(&mut registry);
        let (waiting, problems) = troubles(&mut registry);
        let connections = register(&mut registry, "connections", "Connections of visitors");
        let help = "Connections of visitors that are held at once";
        let connection_limit = register(&mut registry, "connections_limit", help);
        let help = "How old the news of ended sessions is; NaN before there was any";
        let news = register(&mut registry, "revocation_lag_seconds", help);
        Self {
            threads,
            logins,
            calls,
            sessions,
            upstream_errors: errors,
            reloads,
            limits,
            handshakes,
            spans,
            orders,
            health,
            wechat,
            waiting,
            certificates,
            problems,
            connections,
            connection_limit,
            news,
            began,
            registry,
        }
    }
}

/// Which program this is, and since when it runs.
fn introduce(registry: &mut Registry) -> Timestamp {
    let version = [("version", env!("CARGO_PKG_VERSION"))].to_vec();
    registry.register("build", "The program", Info::new(version));
    let began = clock::system();
    let start: Gauge = register(registry, "start_timestamp_seconds", "When it began");
    start.set(i64::try_from(began.0).unwrap_or_default());
    began
}

/// What came of spans, and of orders of certificates.
fn results(registry: &mut Registry) -> [Arc<LabeledCounter<1>>; 2] {
    let spans = "Spans for the collector: sent, failed, or dropped";
    let spans = collect(registry, LabeledCounter::new("spans", spans, ["result"]));
    let orders = "Orders of certificates, by what came of them";
    [spans, collect(registry, LabeledCounter::new("acme_orders", orders, ["result"]))]
}

/// When our certificates begin, and when they end.
fn lives(registry: &mut Registry) -> [Family<NameLabels, Gauge>; 2] {
    let begins = "When a certificate of ours began";
    let begins = register(registry, "certificate_start_timestamp_seconds", begins);
    let ends = "When a certificate of ours ends";
    [begins, register(registry, "certificate_expiry_timestamp_seconds", ends)]
}

/// Who waits for a server of a site, and what is wrong.
fn troubles(registry: &mut Registry) -> (Family<SiteLabels, Gauge>, Family<ProblemLabels, Gauge>) {
    let waiting = "Requests that wait for a server of a site with room";
    let waiting = register(registry, "upstream_waiting", waiting);
    let problems = "What the status page says is wrong: 1 while it lasts";
    (waiting, register(registry, "problem", problems))
}

fn register<M>(registry: &mut Registry, name: &str, help: &str) -> M
where
    M: Clone + Default + EncodeMetric + fmt::Debug + Send + Sync + 'static,
{
    let metric = M::default();
    registry.register(name, help, metric.clone());
    metric
}

fn collect<C: Collector + 'static>(registry: &mut Registry, collector: C) -> Arc<C> {
    let collector = Arc::new(collector);
    registry.register_collector(Box::new(Arc::clone(&collector)));
    collector
}

impl Metrics {
    /// The counters of a thread that serves.
    pub fn thread(&self) -> Arc<ThreadMetrics> {
        self.threads.thread()
    }

    /// What all threads have counted, by site.
    pub fn sites(&self) -> BTreeMap<String, SiteTotals> {
        self.threads.sum()
    }

    /// A login was `started`, `returned`, `restarted`, `finished` or `failed`; or, at the
    /// broker, a server's code was `exchanged` or its ticket `redeemed`.
    pub fn login(&self, event: &'static str, reason: &'static str) {
        self.logins.add([event.into(), reason.into()]);
    }

    /// WeChat was asked.
    pub fn call(&self, endpoint: &'static str, errcode: String, took: Duration) {
        self.calls.add([endpoint.into(), errcode.into()]);
        self.wechat.observe(endpoint, took);
    }

    /// How long calls to WeChat took, by endpoint.
    pub fn wechat(&self) -> BTreeMap<&'static str, HistogramSnapshot> {
        self.wechat.times()
    }

    /// A session was `issued`, `renewed` or `refused`.
    pub fn session(&self, event: &'static str, reason: &'static str) {
        self.sessions.add([event.into(), reason.into()]);
    }

    /// A site did not answer.
    pub fn upstream_error(&self, site: &str, reason: &'static str) {
        self.upstream_errors.add([site.to_owned().into(), reason.into()]);
    }

    /// The requests that wait for a server of a site, to be counted.
    pub fn waiting(&self, site: &str) -> WaitingGauge {
        WaitingGauge::new(self.waiting.get_or_create_owned(&SiteLabels { site: site.to_owned() }))
    }

    /// The configuration was read again.
    pub fn reload(&self, accepted: bool) {
        if accepted {
            self.sessions.take_snapshot();
        }
        self.reloads.add([if accepted { "accepted" } else { "refused" }.into()]);
    }

    /// A visitor met a limit: its key in `[server.limits]`, or `unreadable` for a head or chunks
    /// that cannot be read, or not in one way.
    pub fn limit(&self, limit: &'static str) {
        self.limits.add([limit.into()]);
    }

    /// A TLS handshake ended: `full`, `resumed`, `challenge` (of an authority), `failed` or `timeout`,
    /// under this version.
    pub fn handshake(&self, result: &'static str, version: &'static str) {
        self.handshakes.add([result.into(), version.into()]);
    }

    /// Spans were `sent` to the collector, `failed` to be, or were `dropped`.
    pub fn spans(&self, result: &'static str, count: u64) {
        self.spans.add_many([result.into()], count);
    }

    /// When our certificates begin and end, by the first of the names of each.
    pub fn certificates(&self, lives: &[(String, [Timestamp; 2])]) {
        for (number, family) in self.certificates.iter().enumerate() {
            family.clear();
            for (name, life) in lives {
                let moment = life.get(number).map_or(0, |moment| moment.0);
                let gauge = family.get_or_create_owned(&NameLabels { name: name.clone() });
                gauge.set(i64::try_from(moment).unwrap_or(i64::MAX));
            }
        }
    }

    /// An order of a certificate was `issued` or `failed`.
    pub fn order(&self, result: &'static str) {
        self.orders.add([result.into()]);
    }

    /// What is wrong at the moment: causes and how bad each is.
    pub fn problems(&self, problems: impl Iterator<Item = (&'static str, &'static str)>) {
        self.problems.clear();
        for (cause, severity) in problems {
            self.problems.get_or_create_owned(&ProblemLabels { cause, severity }).set(1);
        }
    }

    /// A visitor's connection has come; it goes when this is dropped.
    pub fn connection(&self) -> ConnectionGuard {
        self.connections.inc();
        ConnectionGuard(self.connections.clone())
    }

    /// Connections of visitors.
    pub fn connections(&self) -> i64 {
        self.connections.get()
    }

    /// Sets how many connections of visitors are held at once.
    pub fn set_connection_limit(&self, limit: usize) {
        self.connection_limit.set(i64::try_from(limit).unwrap_or(i64::MAX));
    }

    /// The number of connections of visitors that are held at once; zero before they are accepted.
    pub fn connection_limit(&self) -> i64 {
        self.connection_limit.get()
    }

    /// How old the news of sessions that were ended elsewhere is.
    pub fn news(&self, age: Option<Duration>) {
        self.news.set(age.map_or(f64::NAN, |age| age.as_secs_f64()));
    }

    /// When counting began.
    pub fn began(&self) -> Timestamp {
        self.began
    }

    /// Everything in the text format of `OpenMetrics`.
    pub fn text(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

/// A connection while it lasts.
#[derive(Debug)]
pub struct ConnectionGuard(Gauge<i64, AtomicI64>);

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.0.dec();
    }
}
