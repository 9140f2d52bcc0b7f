//! Traces: whose `traceparent` counts, what the site is told, and what a collector gets.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::any_value::Value,
    trace::v1::{Span, span::SpanKind, status::StatusCode},
};
use prost::Message as _;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::{sleep, timeout},
};

use crate::{
    broker::{self, BROKER},
    harness::{ROUTES, TestConfig, TestGateway, until_ready},
    login,
    redis::Redis,
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

/// The spans, once they are all there.
async fn until(kept: &Kept, all: impl Fn(&[Span]) -> bool) -> Vec<Span> {
    let waiting = async {
        loop {
            let spans = kept.lock().unwrap().clone();
            if all(&spans) {
                return spans;
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    let waited = timeout(Duration::from_secs(10), waiting).await;
    waited.unwrap_or_else(|_| panic!("these are not all: {:#?}", kept.lock().unwrap()))
}

fn named<'a>(spans: &'a [Span], name: &str) -> Vec<&'a Span> {
    spans.iter().filter(|span| span.name == name).collect()
}

fn word(span: &Span, key: &str) -> String {
    match attribute(span, key) {
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        other => panic!("{key} of {span:?}: {other:?}"),
    }
}

/// Whether one span is the other's, and inside its time.
fn belongs(inner: &Span, outer: &Span) -> bool {
    inner.trace_id == outer.trace_id
        && inner.parent_span_id == outer.span_id
        && inner.start_time_unix_nano >= outer.start_time_unix_nano
        && inner.end_time_unix_nano <= outer.end_time_unix_nano
}

/// A street that keeps everything in this Redis and tells a collector everything.
async fn watched(redis: &Redis) -> (TestGateway, Kept) {
    let (url, kept) = collector().await;
    let store = redis.url();
    let more = format!(
        "[store]\nkind = \"redis\"\nurl = \"{store}\"\n[trace]\notlp = \"{url}\"\n{BROKER}"
    );
    let street = TestGateway::open(TestConfig { more, ..TestConfig::site(ROUTES) }).await;
    until_ready(street.admin().await.port()).await;
    (street, kept)
}

/// What a call to WeChat says where it went.
fn names_wechat(call: &Span, street: &TestGateway) {
    assert_eq!(call.kind, i32::from(SpanKind::Client));
    assert_eq!(word(call, "server.address"), "127.0.0.1");
    assert_eq!(word(call, "server.port"), street.wechat.port().to_string());
    assert_eq!(word(call, "http.request.method"), "GET");
}

#[tokio::test]
async fn a_login_is_traced_step_by_step() {
    let redis = Redis::start().await;
    let (street, kept) = watched(&redis).await;
    login::consent(&mut Visitor::wechat(street.gateway), "/member/a").await;
    street.fault(r#"{"at":"access_token","errcode":40029,"times":1}"#).await;
    Visitor::wechat(street.gateway).open("/orders").await;
    // There and back, and the second visitor once more, because their first code was refused.
    let (doors, pages) = ("GET gateway", "GET required");
    let all = |spans: &[Span]| named(spans, doors).len() >= 3 && named(spans, pages).len() >= 4;
    let spans = until(&kept, all).await;

    let (starts, returns) = (named(&spans, "login start"), named(&spans, "login return"));
    let ids = |spans: &[&Span]| {
        let mut ids: Vec<_> = spans.iter().map(|span| word(span, "wxgate.login")).collect();
        ids.sort();
        ids
    };
    assert_eq!((starts.len(), returns.len()), (3, 3), "{spans:#?}");
    assert_eq!(ids(&starts), ids(&returns), "a login is found by its id, there and back");
    assert_eq!(word(starts[0], "wxgate.scope"), "snsapi_userinfo");
    let inside = |call: &Span| returns.iter().any(|outer| belongs(call, outer));
    let calls = named(&spans, "GET /sns/oauth2/access_token");
    for call in &calls {
        names_wechat(call, &street);
        assert!(inside(call), "{call:?}");
    }
    let [good, refused, _] = calls[..] else { panic!("{calls:#?}") };
    assert_eq!(word(refused, "wechat.errcode"), "40029");
    assert_eq!(word(refused, "error.type"), "40029");
    assert_eq!(refused.status.as_ref().unwrap().code, i32::from(StatusCode::Error));
    assert_eq!((word(good, "wechat.errcode"), attribute(good, "error.type")), ("0".into(), None));
    let profile = named(&spans, "GET /sns/userinfo")[0];
    assert!(profile.start_time_unix_nano >= good.end_time_unix_nano);
    for store in ["store put_new", "store put"] {
        let asked = named(&spans, store);
        assert_eq!(asked.len(), 3, "{store}");
        assert!(asked.iter().all(|call| inside(call)));
        assert_eq!(word(asked[0], "db.system.name"), "redis");
        assert_eq!(word(asked[0], "db.collection.name"), "code");
        assert_eq!(word(asked[0], "server.port"), redis.port.to_string());
    }
    street.close().await;
}

#[tokio::test]
async fn g4_nothing_that_is_traced_is_secret_or_a_persons() {
    let redis = Redis::start().await;
    let (street, kept) = watched(&redis).await;
    let page = login::consent(&mut Visitor::wechat(street.gateway), "/member/a?b=c").await;
    let openid = page.received("x-wechat-openid")[0].to_owned();
    let mut phone = broker::phone(&street);
    let back = broker::auth("https://shop.example.com/a", "snsapi_userinfo");
    let (_, answer) = broker::walk(&mut phone, &back).await;
    assert_eq!(answer.status, 302);
    let all = |spans: &[Span]| named(spans, "login return").len() == 2;
    let spans = until(&kept, |spans| all(spans) && named(spans, "GET gateway").len() >= 3).await;
    let last = named(&spans, "login return")[1];
    for call in ["store get", "GET /sns/userinfo", "store take"] {
        let calls = named(&spans, call);
        assert!(calls.iter().any(|call| belongs(call, last)), "{call}: {spans:#?}");
    }
    let told = format!("{spans:?}");
    for secret in ["secret-of-wx1", "?", "code=", "token=", "b=c", &openid] {
        assert!(!told.contains(secret), "{secret}");
    }
    // Nothing that WeChat was told either, but where.
    for word in street.journal().await.split(['"', '&', '=', '?']) {
        let known = word.len() < 16 || ["/sns/", "snsapi_"].iter().any(|it| word.contains(it));
        assert!(known || !told.contains(word), "{word}");
    }
    street.close().await;
}

#[tokio::test]
async fn a_traceparent_counts_from_trusted_proxies_only_and_is_passed_on() {
    let street = TestGateway::usual().await;
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
    let street = TestGateway::open(TestConfig { server, ..TestConfig::site(ROUTES) }).await;
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
    let street = TestGateway::open(TestConfig { server, more, ..TestConfig::site(ROUTES) }).await;
    let mut visitor = Visitor::wechat(street.gateway);
    visitor.send("GET", "/static/unsampled?code=secret", &[], "").await;
    let headers = [("traceparent", THEIRS)];
    let answer = visitor.send("GET", "/static/a?code=secret", &headers, "").await;
    let parent = answer.received("traceparent")[0].to_owned();
    let spans = until(&kept, |spans| spans.len() >= 2).await;
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
