//! One line for every request, whatever became of it.
//!
//! An [`AccessLogEntry`] gathers what is to be told, and is written when it is dropped.

use std::{net::IpAddr, rc::Rc, time::Duration};

use http::{HeaderValue, Method, Request, StatusCode, Uri};
use tokio::time::Instant;

use super::{Peer, RequestContext, rules::WorkerState};
use crate::{
    auth::SessionLogId,
    bench_toggles::{Recording, leaves_out},
    clock::{self, Timestamp},
    httputil::{
        forwarded::REQUEST_ID,
        trace_context::{TraceContext, hexadecimal},
    },
    metrics::AccessClass,
    site::{Access, Site},
    traces::RequestSpan,
};

mod buffer;

pub use buffer::{AccessLog, AccessLogBuffer};

/// What is told of a visitor who went away before there was an answer, as nginx does.
const CLIENT_CLOSED_REQUEST: u16 = 499;

/// Where a request landed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LogTarget {
    Nowhere,
    /// At the site of this number.
    Site(usize),
    /// At the code broker.
    Broker,
}

/// A line being written: opened when a request arrives, and written when it is dropped, which is
/// when the last byte of the answer has gone, or the visitor has.
pub struct AccessLogEntry {
    id: HeaderValue,
    trace: TraceContext,
    method: Method,
    uri: Uri,
    peer: Rc<Peer>,
    client: IpAddr,
    place: LogTarget,
    class: AccessClass,
    began: Timestamp,
    since: Instant,
    /// The status, and how long it took until there was one.
    head: Option<(StatusCode, Duration)>,
    upstream: Option<Duration>,
    session: Option<SessionLogId>,
    bytes: u64,
    state: Rc<WorkerState>,
    lines: Rc<AccessLogBuffer>,
}

impl AccessLogEntry {
    /// Notes what was asked. A proxy of ours may have given the request an id already, and a
    /// place in a trace.
    pub fn start<B>(
        request: &Request<B>,
        peer: &Rc<Peer>,
        (desk, lines): (&Rc<WorkerState>, &Rc<AccessLogBuffer>),
        now: Timestamp,
    ) -> Box<Self> {
        let trusted = desk.rules.trusted.includes(peer.ip);
        let given = trusted.then(|| request.headers().get(REQUEST_ID)).flatten();
        let plain = |b: &u8| b.is_ascii_graphic() && !matches!(b, b'"' | b'\\');
        let usable = |id: &&HeaderValue| id.len() <= 128 && id.as_bytes().iter().all(plain);
        let (id, span) = rand::random::<(u128, u64)>();
        let followed =
            trusted.then(|| TraceContext::from_headers(request.headers(), span)).flatten();
        let trace =
            followed.unwrap_or_else(|| TraceContext::new_root(id, span, desk.rules.sampled));
        Box::new(Self {
            id: given.filter(usable).cloned().unwrap_or_else(|| written(trace.id)),
            trace,
            method: request.method().clone(),
            uri: request.uri().clone(),
            peer: Rc::clone(peer),
            client: peer.ip,
            place: LogTarget::Nowhere,
            class: AccessClass::Own,
            began: now,
            since: Instant::now(),
            head: None,
            upstream: None,
            session: None,
            bytes: 0,
            state: Rc::clone(desk),
            lines: Rc::clone(lines),
        })
    }

    /// Notes that something came which is no request.
    pub fn start_unparsed(
        peer: &Rc<Peer>,
        place: (&Rc<WorkerState>, &Rc<AccessLogBuffer>),
        now: Timestamp,
    ) -> Box<Self> {
        let mut nothing = Request::new(());
        *nothing.method_mut() = Method::from_bytes(b"-").unwrap_or_default();
        Self::start(&nothing, peer, place, now)
    }

    /// What this request is called in every log it passes.
    pub fn request_id(&self) -> &HeaderValue {
        &self.id
    }

    /// Its place in a trace.
    pub fn trace(&self) -> TraceContext {
        self.trace
    }

    /// Notes who sent it, where a proxy of ours brought it.
    pub fn set_client(&mut self, client: IpAddr) {
        self.client = client;
    }

    /// Who sent it.
    pub fn client(&self) -> IpAddr {
        self.client
    }

    /// Notes which site it is for.
    pub fn set_site(&mut self, site: &Site) {
        self.place = LogTarget::Site(site.number);
    }

    /// Notes that it is for the code broker.
    pub fn set_broker(&mut self) {
        self.place = LogTarget::Broker;
    }

    /// Notes what its route asks.
    pub fn set_access(&mut self, access: Access) {
        self.class = match access {
            Access::None => AccessClass::Public,
            Access::Optional => AccessClass::Optional,
            Access::Required(..) => AccessClass::Required,
        };
    }

    /// Notes what was learnt on the way.
    pub fn set_outcome(&mut self, cx: &RequestContext<'_>) {
        (self.upstream, self.session) = (cx.upstream_time.get(), cx.session.get());
    }

    /// Notes that the answer begins, and counts it.
    pub fn set_status(&mut self, status: StatusCode) {
        let took = self.since.elapsed();
        self.head = Some((status, took));
        self.count(status.as_u16(), took);
    }

    /// Notes that a piece of the answer has gone.
    pub fn add_bytes(&mut self, bytes: u64) {
        self.bytes = self.bytes.wrapping_add(bytes);
    }

    /// The name of the site.
    pub fn site(&self) -> &str {
        let (rules, site) = (&self.state.rules, self.of_site());
        let broker = rules.broker.as_ref().filter(|_| self.place == LogTarget::Broker);
        let broker = || broker.map_or("-", |broker| broker.public_url.host().as_str());
        site.map_or_else(broker, |site| site.name.as_str())
    }

    fn of_site(&self) -> Option<&Site> {
        let LogTarget::Site(number) = self.place else { return None };
        self.state.rules.sites.all().get(number).map(|site| &**site)
    }

    fn span(&self, total: Duration) -> RequestSpan {
        let nanos = |took: Duration| u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        RequestSpan {
            trace: self.trace,
            method: self.method.to_string(),
            route: self.class.label(),
            site: self.site().to_owned(),
            path: self.uri.path().to_owned(),
            status: self.status(),
            ended: clock::nanos(),
            took: nanos(total),
            head: nanos(self.head(total)),
            site_took: self.upstream.map(nanos),
        }
    }

    fn status(&self) -> u16 {
        self.head.map_or(CLIENT_CLOSED_REQUEST, |(status, _)| status.as_u16())
    }

    fn head(&self, total: Duration) -> Duration {
        self.head.map_or(total, |(_, took)| took)
    }

    fn count(&self, status: u16, took: Duration) {
        if leaves_out(Recording::Metrics) {
            return;
        }
        let counters = match self.place {
            LogTarget::Broker => self.state.broker_counters(),
            LogTarget::Site(_) | LogTarget::Nowhere => self.state.counters(self.of_site()),
        };
        counters.count(self.class, status, took, self.upstream);
    }
}

/// Writes the line. The query may hold a code, so it is left out.
impl Drop for AccessLogEntry {
    fn drop(&mut self) {
        let total = self.since.elapsed();
        if self.head.is_none() {
            self.count(CLIENT_CLOSED_REQUEST, total);
        }
        if !leaves_out(Recording::AccessLine) {
            self.lines.add(self, total);
        }
        self.lines.traces.send(self.trace, || self.span(total));
    }
}

/// An id of ours as a header.
fn written(id: u128) -> HeaderValue {
    HeaderValue::from_bytes(&hexadecimal(id)).unwrap_or(HeaderValue::from_static("-"))
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write,
        sync::{Arc, Mutex},
    };

    use tracing_appender::non_blocking::NonBlocking;

    use super::*;
    use crate::{
        gateway::rules::tests::rules, logs::LogFormat, metrics::Metrics,
        serialized::assert_serialized, traces::Tracer,
    };

    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);

    impl Write for Page {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn line(form: LogFormat, uri: &str, answered: bool) -> (String, String) {
        let request = Request::get(uri).header("x-request-id", "abc\"").body(()).unwrap();
        record(form, &request, |entry| {
            if answered {
                entry.set_status(StatusCode::OK);
                entry.add_bytes(3);
                entry.add_bytes(4);
            }
        })
    }

    /// The line of a request from a trusted proxy, and the metrics after it.
    fn record(
        form: LogFormat,
        request: &Request<()>,
        fill: impl FnOnce(&mut AccessLogEntry),
    ) -> (String, String) {
        let page = Page::default();
        let (writer, guard) = NonBlocking::new(page.clone());
        let lines = AccessLogBuffer::new(AccessLog::new(form, writer), Tracer::default());
        let place = Arc::new(tokio::sync::Semaphore::new(1)).try_acquire_owned().unwrap();
        let peer = Rc::new(Peer::new([192, 0, 2, 1].into(), false, place));
        let metrics = Metrics::default();
        let desk = Rc::new(WorkerState::new(Arc::new(rules("192.0.2.1")), 0, &metrics.thread(), 1));
        let now = Timestamp(1_795_501_895);
        let mut entry = AccessLogEntry::start(request, &peer, (&desk, &lines), now);
        fill(&mut entry);
        drop(entry);
        lines.flush();
        drop((lines, guard));
        let line = String::from_utf8(page.0.lock().unwrap().clone()).unwrap();
        (line, metrics.text().unwrap())
    }

    #[test]
    fn g4_lines_are_json_without_the_query() {
        let (line, _) = line(LogFormat::Json, "/a\"b?code=secret", true);
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["path"], "/a\"b");
        assert_eq!(value["timestamp"], "2026-11-24T06:31:35Z");
        assert_eq!((&value["status"], &value["peer"]), (&200.into(), &"192.0.2.1".into()));
        assert_eq!(value["request_id"].as_str().unwrap().len(), 32, "a strange id is not taken");
        assert_eq!(value["request_id"], value["trace_id"]);
        assert_eq!((&value["bytes"], &value["route"]), (&7.into(), &"gateway".into()));
        assert!(!line.contains("secret") && line.ends_with("}\n"));
    }

    #[test]
    fn a_visitor_who_went_away_has_a_line_too() {
        let (line, metrics) = line(LogFormat::Json, "/", false);
        assert!(line.contains(r#""status":499,"#), "{line}");
        assert!(metrics.contains(r#"route="gateway",status="4xx"} 1"#), "{metrics}");
    }

    #[test]
    fn g4_lines_for_people_stay_one_line() {
        let (line, _) = line(LogFormat::Text, "/\u{85}\u{2028}x?code=secret", true);
        assert_eq!(line.lines().count(), 1, "{line:?}");
        assert!(line.starts_with("2026-11-24T06:31:35Z 200 GET - /"), "{line}");
        assert!(!line.contains("secret"));
    }

    fn fixed(form: LogFormat, full: bool) -> String {
        let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let request = Request::get("/a?b=c").header("x-request-id", "r1");
        let request = request.header("traceparent", parent).body(()).unwrap();
        let (line, _) = record(form, &request, |entry| {
            entry.set_client([198, 51, 100, 7].into());
            entry.set_access(Access::Optional);
            if full {
                entry.session = Some(SessionLogId::of("07"));
                entry.upstream = Some(Duration::from_millis(2));
                entry.set_status(StatusCode::OK);
                entry.add_bytes(7);
            }
        });
        line.trim_end().to_owned()
    }

    #[tokio::test(start_paused = true)]
    async fn serialized_lines() {
        assert_serialized(&[
            (
                "full JSON",
                fixed(LogFormat::Json, true),
                r#"{"timestamp":"2026-11-24T06:31:35Z","target":"access","request_id":"r1","trace_id":"4bf92f3577b34da6a3ce929d0e0e4736","client":"198.51.100.7","peer":"192.0.2.1","site":"-","route":"optional","method":"GET","status":200,"bytes":7,"seconds":0.000000,"total_seconds":0.000000,"upstream_seconds":0.002000,"session":"19b100ab7725c612","path":"/a"}"#,
            ),
            (
                "minimal JSON",
                fixed(LogFormat::Json, false),
                r#"{"timestamp":"2026-11-24T06:31:35Z","target":"access","request_id":"r1","trace_id":"4bf92f3577b34da6a3ce929d0e0e4736","client":"198.51.100.7","peer":"192.0.2.1","site":"-","route":"optional","method":"GET","status":499,"bytes":0,"seconds":0.000000,"total_seconds":0.000000,"path":"/a"}"#,
            ),
            (
                "text",
                fixed(LogFormat::Text, true),
                "2026-11-24T06:31:35Z 200 GET - /a 198.51.100.7 0.0 ms 7 B r1",
            ),
        ]);
    }
}
