//! Traces: whose `traceparent` counts, what the site is told, and what a collector gets.

use std::sync::{Arc, Mutex};

use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::any_value::Value,
    trace::v1::{Span, span::SpanKind},
};
use prost::Message as _;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::{
    harness::{Plan, ROUTES, Street},
    visitor::Visitor,
};

const THEIRS: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// The body of the one POST that has come, once it is whole.
fn body(bytes: &[u8]) -> Option<&[u8]> {
    let end = bytes.windows(4).position(|it| it == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
    assert!(head.starts_with("post /v1/traces http/1.1\r\n"), "{head}");
    assert!(head.contains("content-type: application/x-protobuf"), "{head}");
    let length = head.split("content-length: ").nth(1)?.split('\r').next()?;
    bytes.get(end + 4..end + 4 + length.parse::<usize>().unwrap())
}

type Kept = Arc<Mutex<Vec<Span>>>;

/// A collector: takes each POST of protobuf, and keeps its spans.
async fn collector() -> (String, Kept) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let kept = Kept::default();
    let spans = Arc::clone(&kept);
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(take(stream, Arc::clone(&spans)));
        }
    });
    (url, kept)
}

async fn take(mut stream: TcpStream, spans: Kept) {
    let mut bytes = Vec::new();
    while stream.read_buf(&mut bytes).await.is_ok_and(|count| count > 0) {
        let Some(body) = body(&bytes) else { continue };
        let message = ExportTraceServiceRequest::decode(body).unwrap();
        let scopes = message.resource_spans.into_iter().flat_map(|it| it.scope_spans);
        spans.lock().unwrap().extend(scopes.flat_map(|it| it.spans));
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        bytes.clear();
    }
}

/// An id as it stands in a header.
fn hex(id: &[u8]) -> String {
    id.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

fn attribute(span: &Span, key: &str) -> Option<Value> {
    let found = span.attributes.iter().find(|it| it.key == key)?;
    found.value.clone()?.value
}

#[tokio::test]
async fn a_traceparent_counts_from_trusted_proxies_only_and_is_passed_on() {
    let street = Street::usual().await;
    let told = async |headers: &[(&str, &str)]| {
        let mut visitor = Visitor::wechat(street.gateway);
        let answer = visitor.send("GET", "/static/a", headers, "").await;
        let owned = |name| answer.received(name).iter().map(|it| (*it).to_owned()).collect();
        let (parent, state): (Vec<String>, Vec<String>) =
            (owned("traceparent"), owned("tracestate"));
        (parent, state)
    };
    let (fresh, _) = told(&[]).await;
    assert_eq!(fresh.len(), 1);
    let (forged, state) = told(&[("traceparent", THEIRS), ("tracestate", "a=b")]).await;
    assert!(!forged[0].contains("4bf92f3577b34da6a3ce929d0e0e4736"), "{forged:?}");
    assert!(forged.len() == 1 && state.is_empty(), "{forged:?} {state:?}");
    assert_ne!(fresh, forged, "each request begins a trace of its own");

    let server = "trusted_proxies = [\"127.0.0.1\"]".to_owned();
    let street = Street::open(Plan { server, ..Plan::site(ROUTES) }).await;
    let mut visitor = Visitor::wechat(street.gateway);
    let headers = [("traceparent", THEIRS), ("tracestate", "a=b")];
    let answer = visitor.send("GET", "/static/a", &headers, "").await;
    let parent = answer.received("traceparent");
    assert!(parent[0].starts_with("00-4bf92f3577b34da6a3ce929d0e0e4736-"), "{parent:?}");
    assert!(parent[0].ends_with("-01") && !parent[0].contains("00f067aa0ba902b7"), "{parent:?}");
    assert_eq!(answer.received("tracestate"), ["a=b"]);
    let answer = visitor.send("GET", "/static/a", &[("traceparent", "00-x-y-01")], "").await;
    assert_eq!(answer.received("traceparent").len(), 1, "garbage begins a new one");
}

#[tokio::test]
async fn a_collector_gets_the_request_and_the_call_to_the_site() {
    let (url, kept) = collector().await;
    let server = "trusted_proxies = [\"127.0.0.1\"]".to_owned();
    let more = format!("[trace]\notlp = \"{url}\"\nsample = \"0%\"\n");
    let street = Street::open(Plan { server, more, ..Plan::site(ROUTES) }).await;
    let mut visitor = Visitor::wechat(street.gateway);
    visitor.send("GET", "/static/unsampled?code=secret", &[], "").await;
    let headers = [("traceparent", THEIRS)];
    let answer = visitor.send("GET", "/static/a?code=secret", &headers, "").await;
    let parent = answer.received("traceparent")[0].to_owned();
    let spans = loop {
        let spans = kept.lock().unwrap().clone();
        if spans.len() >= 2 {
            break spans;
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(spans.len(), 2, "the other one is not recorded");
    let of = |kind: SpanKind| spans.iter().find(|it| it.kind == i32::from(kind)).unwrap();
    let (request, call) = (of(SpanKind::Server), of(SpanKind::Client));
    assert_eq!(hex(&request.trace_id), "4bf92f3577b34da6a3ce929d0e0e4736");
    assert_eq!(hex(&request.parent_span_id), "00f067aa0ba902b7");
    assert_eq!((&call.trace_id, &call.parent_span_id), (&request.trace_id, &request.span_id));
    assert!(parent.contains(&hex(&call.span_id)), "the site hears of the call: {parent}");
    assert!(request.start_time_unix_nano <= call.start_time_unix_nano);
    assert!(call.end_time_unix_nano <= request.end_time_unix_nano);
    let path = Some(Value::StringValue("/static/a".to_owned()));
    assert_eq!(attribute(request, "url.path"), path, "g4: without the query");
    assert_eq!(attribute(request, "http.response.status_code"), Some(Value::IntValue(200)));
}
