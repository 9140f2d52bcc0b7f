//! What `/metrics` says.

use std::time::Duration;

use super::*;
use crate::serialized::assert_golden;

#[test]
fn threads_are_summed_and_names_begin_with_wxgate() {
    let metrics = Metrics::default();
    for thread in [metrics.thread(), metrics.thread()] {
        let site = thread.site("h5.example.com");
        let of_site = Some(Duration::from_millis(2));
        site.count(AccessClass::Required, 200, Duration::from_millis(3), of_site);
        site.count(AccessClass::Required, 302, Duration::from_micros(80), None);
        site.count(AccessClass::Public, 599, Duration::from_secs(100), None);
    }
    metrics.login("failed", "declined");
    metrics.call("access_token", "40029".to_owned(), Duration::from_millis(70));
    metrics.session("issued", "");
    metrics.reload(false);
    metrics.limit("body_time");
    metrics.upstream_error("h5.example.com", "slow");
    metrics.handshake("full", "1.3");
    metrics.health.set_server_unhealthy(
        "h5.example.com",
        "http://10.0.0.5:80",
        "connection refused",
    );
    let life = [Timestamp(1_790_000_000), Timestamp(1_800_000_000)];
    metrics.certificates(&[("h5.example.com".to_owned(), life)]);
    metrics.order("issued");
    metrics.problems([("upstream_down", "critical")].into_iter());
    let one = metrics.connection();
    drop(metrics.connection());
    let text = metrics.text().unwrap();
    for line in LINES {
        assert!(text.contains(line), "no {line} in\n{text}");
    }
    drop(one);
    metrics.problems(std::iter::empty());
    let text = metrics.text().unwrap();
    assert!(text.contains("wxgate_connections 0"));
    assert!(!text.contains("upstream_down"), "it is over");
}

const LINES: [&str; 24] = [
    "wxgate_requests_total{site=\"h5.example.com\",route=\"required\",status=\"200\"} 2",
    "wxgate_requests_total{site=\"h5.example.com\",route=\"required\",status=\"302\"} 2",
    "wxgate_requests_total{site=\"h5.example.com\",route=\"public\",status=\"5xx\"} 2",
    "wxgate_request_seconds_count{site=\"h5.example.com\"} 6",
    "wxgate_request_seconds_bucket{le=\"0.005\",site=\"h5.example.com\"} 4",
    "wxgate_request_seconds_bucket{le=\"+Inf\",site=\"h5.example.com\"} 6",
    "wxgate_upstream_seconds_count{site=\"h5.example.com\"} 2",
    "wxgate_gateway_seconds_bucket{le=\"0.001\",site=\"h5.example.com\"} 4",
    "wxgate_logins_total{event=\"failed\",reason=\"declined\"} 1",
    "wxgate_wechat_calls_total{endpoint=\"access_token\",errcode=\"40029\"} 1",
    "wxgate_wechat_seconds_bucket{le=\"0.1\",endpoint=\"access_token\"} 1",
    "wxgate_config_reloads_total{result=\"refused\"} 1",
    "wxgate_limits_total{limit=\"body_time\"} 1",
    "wxgate_upstream_errors_total{site=\"h5.example.com\",reason=\"slow\"} 1",
    "wxgate_upstream_up{server=\"http://10.0.0.5:80\",site=\"h5.example.com\"} 0",
    "wxgate_upstream_failures_total{server=\"http://10.0.0.5:80\",site=\"h5.example.com\"} 1",
    "wxgate_tls_handshakes_total{result=\"full\",version=\"1.3\"} 1",
    "wxgate_certificate_expiry_timestamp_seconds{name=\"h5.example.com\"} 1800000000",
    "wxgate_certificate_start_timestamp_seconds{name=\"h5.example.com\"} 1790000000",
    "wxgate_acme_orders_total{result=\"issued\"} 1",
    "wxgate_problem{cause=\"upstream_down\",severity=\"critical\"} 1",
    "wxgate_connections 1",
    "wxgate_build_info{version=",
    "wxgate_start_timestamp_seconds 1",
];

#[tokio::test(start_paused = true)]
async fn what_was_counted_before_a_reload_is_known_for_a_while() {
    let metrics = Metrics::default();
    let minute = Duration::from_mins(1);
    metrics.session("refused", "unknown_key");
    metrics.reload(false);
    assert_eq!(metrics.sessions.marked(minute), None, "what is refused changes nothing");
    metrics.reload(true);
    metrics.session("refused", "forged");
    let before = metrics.sessions.marked(minute).unwrap();
    assert_eq!(before.into_keys().map(|[_, reason]| reason).collect::<Vec<_>>(), ["unknown_key"]);
    tokio::time::advance(minute).await;
    assert_eq!(metrics.sessions.marked(minute), None);
}

/// Every metric as a scrape shows it, without its values.
#[test]
fn serialized_metrics() {
    let metrics = Metrics::default();
    let (site, server) = ("h5.example.com", "http://10.0.0.5:80");
    let counters = metrics.thread().site(site);
    let took = Duration::from_millis(3);
    for class in
        [AccessClass::Public, AccessClass::Optional, AccessClass::Required, AccessClass::Own]
    {
        counters.count(class, 200, took, Some(took));
    }
    for status in 100..600 {
        counters.count(AccessClass::Public, status, took, None);
    }
    metrics.login("started", "");
    metrics.call("access_token", "0".to_owned(), took);
    metrics.session("issued", "");
    metrics.upstream_error(site, "slow");
    metrics.reload(true);
    metrics.reload(false);
    metrics.limit("body_size");
    metrics.handshake("full", "1.3");
    metrics.spans("sent", 1);
    metrics.order("issued");
    metrics.health.set_server_healthy(site, server);
    for part in [Component::WeChat, Component::Account, Component::Store, Component::Certificate] {
        metrics.health.set_healthy(part, "name");
    }
    metrics.certificates(&[(site.to_owned(), [Timestamp(1), Timestamp(2)])]);
    metrics.problems([("cause", "critical")].into_iter());
    drop(metrics.waiting(site).enter(1));
    let text = metrics.text().unwrap();
    let mut lines: Vec<String> = text
        .lines()
        .filter(|line| *line != "# EOF")
        .map(|line| match line.rsplit_once(' ') {
            Some((series, _)) if !line.starts_with('#') => series.to_owned(),
            _ => line.to_owned(),
        })
        .map(|line| line.replace(env!("CARGO_PKG_VERSION"), "VERSION"))
        .collect();
    lines.sort();
    assert_golden("metrics.txt", &lines);
}
