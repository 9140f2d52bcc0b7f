//! What is counted, for `/metrics`.
//!
//! What happens on every request is counted per thread and summed when somebody asks: each counter
//! has one writer, so counting is a load and a store of the thread's own memory. What happens now
//! and then goes into ordinary families. Labels are words of ours, never a visitor's.

mod thread;

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicI64, AtomicU64},
    },
    time::Duration,
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, NoLabelSet},
    metrics::{MetricType, counter::Counter, family::Family, gauge::Gauge, info::Info},
    registry::Registry,
};

pub use thread::{Class, SiteCounters, Thread};

/// Every counter there is.
#[derive(Debug)]
pub struct Metrics {
    threads: Arc<Threads>,
    logins: Family<Outcome, Counter>,
    wechat: Family<Call, Counter>,
    sessions: Family<Outcome, Counter>,
    reloads: Family<Reload, Counter>,
    limits: Family<Limit, Counter>,
    connections: Gauge<i64, AtomicI64>,
    news: Gauge<f64, AtomicU64>,
    registry: Registry,
}

/// What became of something, and why.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    event: &'static str,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Call {
    endpoint: &'static str,
    /// WeChat's number, or what there was instead of one.
    errcode: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reload {
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Limit {
    limit: &'static str,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("wxgate");
        let threads = Arc::new(Threads::default());
        registry.register_collector(Box::new(Arc::clone(&threads)));
        let version = [("version", env!("CARGO_PKG_VERSION"))].to_vec();
        registry.register("build", "The program", Info::new(version));
        let logins = register(
            &mut registry,
            "logins",
            "Logins started, finished and failed, and codes and tickets of the broker, by reason",
        );
        let wechat = register(&mut registry, "wechat_calls", "Calls to WeChat's API, by errcode");
        let sessions = register(
            &mut registry,
            "sessions",
            "Sessions issued, re-issued and refused, by reason",
        );
        let reloads = register(&mut registry, "config_reloads", "Reloads of the configuration");
        let limits =
            register(&mut registry, "limits", "Times that a visitor met a limit, by its key");
        let connections = register(&mut registry, "connections", "Connections of visitors");
        let news = register(
            &mut registry,
            "revocation_lag_seconds",
            "How old the news of ended sessions is; NaN before there was any",
        );
        Self { threads, logins, wechat, sessions, reloads, limits, connections, news, registry }
    }
}

fn register<M>(registry: &mut Registry, name: &str, help: &str) -> M
where
    M: Clone + Default + EncodeMetric + fmt::Debug + Send + Sync + 'static,
{
    let metric = M::default();
    registry.register(name, help, metric.clone());
    metric
}

impl Metrics {
    /// The counters of a thread that serves.
    pub fn thread(&self) -> Arc<Thread> {
        let thread = Arc::new(Thread::default());
        let mut threads = self.threads.0.lock().unwrap_or_else(PoisonError::into_inner);
        threads.push(Arc::clone(&thread));
        thread
    }

    /// A login was `started`, `restarted`, `finished` or `failed`; or, at the broker, a server's code was
    /// `exchanged` or its ticket `redeemed`.
    pub fn login(&self, event: &'static str, reason: &'static str) {
        self.logins.get_or_create_owned(&Outcome { event, reason }).inc();
    }

    /// WeChat was asked.
    pub fn call(&self, endpoint: &'static str, errcode: String) {
        self.wechat.get_or_create_owned(&Call { endpoint, errcode }).inc();
    }

    /// A session was `issued`, `renewed` or `refused`.
    pub fn session(&self, event: &'static str, reason: &'static str) {
        self.sessions.get_or_create_owned(&Outcome { event, reason }).inc();
    }

    /// The configuration was read again.
    pub fn reload(&self, accepted: bool) {
        let result = if accepted { "accepted" } else { "refused" };
        self.reloads.get_or_create_owned(&Reload { result }).inc();
    }

    /// A visitor met a limit: its key in `[server.limits]`, or `unreadable` for a head or chunks
    /// that cannot be read, or not in one way.
    pub fn limit(&self, limit: &'static str) {
        self.limits.get_or_create_owned(&Limit { limit }).inc();
    }

    /// A visitor's connection has come; it goes when this is dropped.
    pub fn connection(&self) -> Connected {
        self.connections.inc();
        Connected(self.connections.clone())
    }

    /// How old the news of sessions that were ended elsewhere is.
    pub fn news(&self, age: Option<Duration>) {
        self.news.set(age.map_or(f64::NAN, |age| age.as_secs_f64()));
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
pub struct Connected(Gauge<i64, AtomicI64>);

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// The threads, as one collector.
#[derive(Debug, Default)]
struct Threads(Mutex<Vec<Arc<Thread>>>);

/// Which of the two histograms of a site.
type Pick = fn(&thread::Sum) -> &thread::Times;

impl Collector for Threads {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let threads = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut sites: BTreeMap<String, thread::Sum> = BTreeMap::new();
        for thread in threads.iter() {
            thread.add_to(&mut sites);
        }
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
        let histograms: [(&str, &str, Pick); 2] = [
            ("request_seconds", "From a request to the head of its answer", |sum| &sum.seconds),
            ("upstream_seconds", "Of that, what the site took", |sum| &sum.upstream),
        ];
        for (name, help, pick) in histograms {
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn threads_are_summed_and_names_begin_with_wxgate() {
        let metrics = Metrics::default();
        for thread in [metrics.thread(), metrics.thread()] {
            let site = thread.site("h5.example.com");
            site.count(Class::Required, 200, Duration::from_millis(3));
            site.count(Class::Required, 302, Duration::from_micros(80));
            site.count(Class::Public, 599, Duration::from_secs(100));
            site.upstream(Duration::from_millis(2));
        }
        metrics.login("failed", "declined");
        metrics.call("access_token", "40029".to_owned());
        metrics.session("issued", "");
        metrics.reload(false);
        metrics.limit("body_time");
        let one = metrics.connection();
        drop(metrics.connection());
        let text = metrics.text().unwrap();
        for line in [
            "wxgate_requests_total{site=\"h5.example.com\",route=\"required\",status=\"200\"} 2",
            "wxgate_requests_total{site=\"h5.example.com\",route=\"required\",status=\"302\"} 2",
            "wxgate_requests_total{site=\"h5.example.com\",route=\"public\",status=\"5xx\"} 2",
            "wxgate_request_seconds_count{site=\"h5.example.com\"} 6",
            "wxgate_request_seconds_bucket{le=\"0.005\",site=\"h5.example.com\"} 4",
            "wxgate_request_seconds_bucket{le=\"+Inf\",site=\"h5.example.com\"} 6",
            "wxgate_upstream_seconds_count{site=\"h5.example.com\"} 2",
            "wxgate_logins_total{event=\"failed\",reason=\"declined\"} 1",
            "wxgate_wechat_calls_total{endpoint=\"access_token\",errcode=\"40029\"} 1",
            "wxgate_config_reloads_total{result=\"refused\"} 1",
            "wxgate_limits_total{limit=\"body_time\"} 1",
            "wxgate_connections 1",
            "wxgate_build_info{version=",
        ] {
            assert!(text.contains(line), "no {line} in\n{text}");
        }
        drop(one);
        assert!(metrics.text().unwrap().contains("wxgate_connections 0"));
    }
}
