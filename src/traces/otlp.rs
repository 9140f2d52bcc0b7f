//! Batches of spans as OTLP has them: one POST of a protobuf message each. The messages are those
//! of the OpenTelemetry project.

use std::{sync::Arc, time::Duration};

use http::header;
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value::Value},
    resource::v1::Resource,
    trace::v1::{
        ResourceSpans, ScopeSpans, Span as Record, Status, span::SpanKind as OtlpSpanKind,
        status::StatusCode,
    },
};
use prost::Message as _;
use rustls::ClientConfig;
use tokio::{sync::mpsc, time};

use super::{
    QueuedSpan, RequestSpan, around,
    span::{AttributeValue, FinishedSpan, SpanKind},
};
use crate::{error_chain, metrics::Metrics};

/// Spans that may wait for the collector.
pub const QUEUE_LEN: usize = 4_096;
/// Spans of one batch at most, and how long the first of it waits for the others.
const BATCH: usize = 512;
const BATCH_DELAY: Duration = Duration::from_secs(1);
/// How long a collector may take.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);

/// Sends batches.
pub struct Exporter {
    client: reqwest::Client,
    url: String,
    metrics: Arc<Metrics>,
}

impl Exporter {
    /// To the collector at `url`; where that has no path, to the usual one.
    pub fn new(
        url: &str,
        tls: &Arc<ClientConfig>,
        metrics: Arc<Metrics>,
    ) -> Result<Self, reqwest::Error> {
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(ClientConfig::clone(tls))
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(EXPORT_TIMEOUT)
            .build()?;
        let bare = url::Url::parse(url).is_ok_and(|url| url.path() == "/");
        let url = url.trim_end_matches('/');
        let url = if bare { format!("{url}/v1/traces") } else { url.to_owned() };
        Ok(Self { client, url, metrics })
    }

    /// Sends what comes until nobody is left to send anything.
    pub async fn run(self, mut spans: mpsc::Receiver<QueuedSpan>) {
        let mut told = false;
        let mut batch = Vec::with_capacity(BATCH);
        while spans.recv_many(&mut batch, BATCH).await > 0 {
            let _ = time::timeout(BATCH_DELAY, fill(&mut batch, &mut spans)).await;
            let count = u64::try_from(batch.len()).unwrap_or_default();
            let sent = self.send(message(batch.drain(..)).encode_to_vec()).await;
            self.metrics.spans(if sent.is_ok() { "sent" } else { "failed" }, count);
            match (sent, told) {
                (Err(error), false) => {
                    tracing::warn!(error, "trace exporter failed");
                    told = true;
                }
                (Ok(()), true) => {
                    tracing::info!("trace exporter recovered");
                    told = false;
                }
                (Err(_), true) | (Ok(()), false) => (),
            }
        }
    }

    async fn send(&self, body: Vec<u8>) -> Result<(), String> {
        let request = self.client.post(&self.url).body(body);
        let request = request.header(header::CONTENT_TYPE, "application/x-protobuf");
        let answer =
            request.send().await.map_err(|error| error_chain::line(&error.without_url()))?;
        if answer.status().is_success() { Ok(()) } else { Err(format!("HTTP {}", answer.status())) }
    }
}

/// Waits until the batch is full, or nobody is left to send anything.
async fn fill(batch: &mut Vec<QueuedSpan>, spans: &mut mpsc::Receiver<QueuedSpan>) {
    while batch.len() < BATCH {
        let room = BATCH - batch.len();
        if spans.recv_many(batch, room).await == 0 {
            return;
        }
    }
}

fn message(told: impl Iterator<Item = QueuedSpan>) -> ExportTraceServiceRequest {
    let scope = InstrumentationScope {
        name: "wxgate".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..InstrumentationScope::default()
    };
    let mut records = Vec::new();
    for told in told {
        match told {
            QueuedSpan::Request(span) => records.extend(tell(&span)),
            QueuedSpan::Step(taken) => records.push(tell_step(taken)),
        }
    }
    let scope_spans =
        vec![ScopeSpans { scope: Some(scope), spans: records, ..ScopeSpans::default() }];
    let attributes = vec![text("service.name", "wxgate")];
    let resource = Some(Resource { attributes, ..Resource::default() });
    let resource_spans = vec![ResourceSpans { resource, scope_spans, ..ResourceSpans::default() }];
    ExportTraceServiceRequest { resource_spans }
}

/// The request as its visitor saw it and, inside, the call to the site, whose id is what the site
/// was told in `traceparent`.
fn tell(span: &RequestSpan) -> impl Iterator<Item = Record> + use<> {
    let start = span.ended.saturating_sub(span.took);
    let id = span.trace.id.to_be_bytes().to_vec();
    let (call, around) = (span.trace.span, around(span.trace));
    let attributes = vec![
        text("http.request.method", &span.method),
        text("url.path", &span.path),
        text("server.address", &span.site),
        text("wxgate.route", span.route),
        number("http.response.status_code", span.status.into()),
    ];
    let request = Record {
        trace_id: id.clone(),
        span_id: around.to_be_bytes().to_vec(),
        parent_span_id: match span.trace.parent {
            0 => Vec::new(),
            parent => parent.to_be_bytes().to_vec(),
        },
        name: format!("{} {}", span.method, span.route),
        kind: OtlpSpanKind::Server.into(),
        start_time_unix_nano: start,
        end_time_unix_nano: span.ended,
        attributes,
        status: Some(status(span.status >= 500)),
        ..Record::default()
    };
    let asked = span.site_took.map(|took| Record {
        trace_id: id,
        span_id: call.to_be_bytes().to_vec(),
        parent_span_id: around.to_be_bytes().to_vec(),
        name: format!("{} upstream", span.method),
        kind: OtlpSpanKind::Client.into(),
        // Its end is the answer's beginning, but for what we do to the head.
        start_time_unix_nano: start.saturating_add(span.head.saturating_sub(took)),
        end_time_unix_nano: start.saturating_add(span.head.max(took)).min(span.ended),
        attributes: vec![text("http.request.method", &span.method), text("url.path", &span.path)],
        ..Record::default()
    });
    std::iter::once(request).chain(asked)
}

/// What was done for a request on the way.
fn tell_step(taken: FinishedSpan) -> Record {
    let attributes = taken.attributes.into_iter().map(|(key, value)| match value {
        AttributeValue::Text(text) => pair(key, Value::StringValue(text)),
        AttributeValue::Number(it) => number(key, it),
    });
    Record {
        trace_id: taken.trace.to_be_bytes().to_vec(),
        span_id: taken.span.to_be_bytes().to_vec(),
        parent_span_id: taken.parent.to_be_bytes().to_vec(),
        name: taken.name,
        kind: match taken.kind {
            SpanKind::Internal => OtlpSpanKind::Internal,
            SpanKind::Client => OtlpSpanKind::Client,
        }
        .into(),
        start_time_unix_nano: taken.ended.saturating_sub(taken.took),
        end_time_unix_nano: taken.ended,
        attributes: attributes.collect(),
        status: Some(status(taken.failed)),
        ..Record::default()
    }
}

fn status(failed: bool) -> Status {
    let code = if failed { StatusCode::Error } else { StatusCode::Unset };
    Status { code: code.into(), message: String::new() }
}

fn text(key: &str, value: &str) -> KeyValue {
    pair(key, Value::StringValue(value.to_owned()))
}

fn number(key: &str, value: i64) -> KeyValue {
    pair(key, Value::IntValue(value))
}

fn pair(key: &str, value: Value) -> KeyValue {
    let value = Some(AnyValue { value: Some(value) });
    KeyValue { key: key.to_owned(), value, ..KeyValue::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{httputil::trace_context::TraceContext, serialized::assert_golden};

    #[test]
    fn serialized_spans() {
        let trace = TraceContext::new_root(7, 8, 10_000);
        let request = RequestSpan {
            trace,
            method: "GET".to_owned(),
            route: "required",
            site: "h5.example.com".to_owned(),
            path: "/a".to_owned(),
            status: 200,
            ended: 100,
            took: 50,
            head: 40,
            site_took: Some(30),
        };
        let step = FinishedSpan {
            name: "login start".to_owned(),
            attributes: vec![("text", "a".into()), ("number", 7_i64.into())],
            failed: true,
            ..FinishedSpan::default()
        };
        let told = [QueuedSpan::Request(request), QueuedSpan::Step(step)];
        let sent = message(told.into_iter());
        let mut lines = Vec::new();
        for resource in sent.resource_spans {
            lines.push(format!("resource {:?}", keys(&resource.resource.unwrap().attributes)));
            for scope in resource.scope_spans {
                lines.push(format!("scope {}", scope.scope.unwrap().name));
                let spans = scope.spans.iter();
                lines.extend(spans.map(|span| {
                    let kind = OtlpSpanKind::try_from(span.kind).unwrap().as_str_name();
                    format!("{kind} {:?} {:?}", span.name, keys(&span.attributes))
                }));
            }
        }
        assert_golden("spans.txt", &lines);
    }

    fn keys(attributes: &[KeyValue]) -> Vec<&str> {
        attributes.iter().map(|it| it.key.as_str()).collect()
    }
}
