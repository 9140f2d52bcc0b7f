//! The admin listener, for monitoring and for the operator: health, metrics, revocations, and the status
//! page. Never on the public one. A second listener has health and metrics alone, for monitoring that
//! must not be able to end sessions.

use std::{
    convert::Infallible, fmt::Write as _, future::Future, io, net::SocketAddr, sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::TcpListener,
    sync::{Semaphore, watch},
    time::timeout,
};

use crate::{
    descriptors,
    gateway::{Gateway, RevocationStatus},
    httputil::Host,
    metrics::Metrics,
    secret::Secret,
};

mod runtime_status;
mod body;
mod diagnosis;
mod recent_activity;
mod page;
mod reserve;
mod api;
mod status_view;

pub use runtime_status::{
    CertificateView, ConfigView, ConfigViewEntry, ConfigViewTable, RuntimeStatus,
};

use reserve::DescriptorReserve;

use body::{AdminBody, EventStream};

/// How long a client of this listener may be quiet.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection may stay, busy or not: one whose client has vanished goes some time.
const MAX_CONNECTION_AGE: Duration = Duration::from_hours(1);
/// Connections held at once, and how many of them may look at the page: whoever can reach this
/// listener shall not be able to fill our memory.
const CONNECTIONS: usize = 256;
const MAX_EVENT_STREAMS: usize = 32;

/// How the line of `/readyz` about the store begins, while something is the matter with it.
pub const STORE_LINE: &str = "store: ";

/// Where it listens.
#[derive(Clone, Debug)]
pub struct Settings {
    /// An address that visitors cannot reach.
    pub listen: SocketAddr,
    /// An address with `/metrics`, `/healthz` and `/readyz` alone.
    pub metrics_listen: Option<SocketAddr>,
    /// What every POST has to present as a Bearer token.
    pub token: Option<Secret>,
    /// Names, beside addresses and `localhost`, under which people may look at the page.
    pub hosts: Vec<Host>,
}

/// A bound listener, not yet accepting.
pub struct AdminServer {
    listener: TcpListener,
    metrics_listener: Option<TcpListener>,
    state: Arc<AdminState>,
}

/// What every connection shares.
struct AdminState {
    hosts: Vec<Host>,
    status: RuntimeStatus,
    gateway: Arc<Gateway>,
    /// What the page shows, as an event.
    news: watch::Sender<Bytes>,
    looking: Arc<Semaphore>,
}

impl AdminServer {
    /// Takes the address.
    pub async fn bind(
        settings: Settings,
        status: RuntimeStatus,
        gateway: Arc<Gateway>,
    ) -> io::Result<Self> {
        let listener = bind(settings.listen).await?;
        let metrics_listener = match settings.metrics_listen {
            Some(address) => Some(bind(address).await?),
            None => None,
        };
        status.set_admin_token(settings.token.as_ref());
        let (news, looking) =
            (watch::Sender::default(), Arc::new(Semaphore::new(MAX_EVENT_STREAMS)));
        let desk = AdminState { hosts: settings.hosts, status, gateway, news, looking };
        Ok(Self { listener, metrics_listener, state: Arc::new(desk) })
    }

    /// The address of `metrics_listen`, where there is one.
    pub fn metrics_addr(&self) -> Option<SocketAddr> {
        self.metrics_listener.as_ref()?.local_addr().ok()
    }

    /// The address we got.
    pub fn addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Answers until `stop` completes; also while the gateway drains, so that a load balancer can
    /// see it.
    pub async fn serve(self, stop: impl Future<Output = ()>) {
        let desk = &self.state;
        let (gateway, board) = (Arc::clone(&desk.gateway), desk.status.clone());
        tokio::select! {
            () = self.accept(&self.listener, Paths::All) => (),
            () = self.accept_metrics() => (),
            () = recent_activity::sample_periodically(gateway, board, desk.news.clone()) => (),
            () = stop => (),
        }
    }

    async fn accept_metrics(&self) {
        match &self.metrics_listener {
            Some(listener) => self.accept(listener, Paths::ReadOnly).await,
            None => std::future::pending().await,
        }
    }

    async fn accept(&self, listener: &TcpListener, paths: Paths) {
        let room = Arc::new(Semaphore::new(CONNECTIONS));
        let reserve = Arc::new(DescriptorReserve::default());
        reserve.refill();
        loop {
            let Ok(place) = Arc::clone(&room).acquire_owned().await else { return };
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                // The connection that waits gets the descriptor that is free now.
                Err(error) if descriptors::is_exhausted(&error) && reserve.release() => continue,
                Err(_) => {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let reserve = Arc::clone(&reserve);
            let desk = Arc::clone(&self.state);
            let service = service_fn(move |request| {
                let desk = Arc::clone(&desk);
                async move { Ok::<_, Infallible>(desk.handle(request, paths).await) }
            });
            let mut http = http1::Builder::new();
            http.timer(TokioTimer::new()).header_read_timeout(IDLE_TIMEOUT);
            let connection = http.serve_connection(TokioIo::new(stream), service);
            tokio::spawn(async move {
                let _ = timeout(MAX_CONNECTION_AGE, connection).await;
                reserve.refill();
                drop(place);
            });
        }
    }
}

/// The paths that a listener has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Paths {
    All,
    /// Health and metrics.
    ReadOnly,
}

async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .map_err(|error| io::Error::new(error.kind(), format!("{address}: {error}")))
}

impl AdminState {
    async fn handle(&self, request: Request<Incoming>, paths: Paths) -> Response<AdminBody> {
        let mut response = match request.uri().path() {
            path if paths == Paths::ReadOnly => match path {
                "/metrics" | "/healthz" | "/readyz" => self.for_machines(&request),
                _ => say(StatusCode::NOT_FOUND, "here are /healthz, /readyz and /metrics\n".into()),
            },
            _ if !self.is_authorized(&request) => unauthorized(),
            api::LOG if is_read(request.method()) && !is_ours(request.headers(), &self.hosts) => {
                unknown_name()
            }
            api::REVOCATIONS => api::revoke(request, &self.gateway).await,
            api::LOG => api::log(request, &self.status, &self.gateway).await,
            "/" | "/events" | "/status.json" | "/config" | "/config.json" => {
                self.for_people(&request)
            }
            _ => self.for_machines(&request),
        };
        page::guard(response.headers_mut());
        response
    }

    /// Whoever changes something has to present the token, where there is one.
    fn is_authorized<B>(&self, request: &Request<B>) -> bool {
        if is_read(request.method()) {
            return true;
        }
        let Some(token) = self.status.admin_token() else { return true };
        let mut values = request.headers().get_all(header::AUTHORIZATION).iter();
        let (Some(value), None) = (values.next(), values.next()) else { return false };
        let presented = value.as_bytes().split_at_checked("Bearer ".len());
        presented.is_some_and(|(scheme, presented)| {
            scheme.eq_ignore_ascii_case(b"bearer ") && token.is(presented)
        })
    }

    /// Health and metrics: exact paths and methods only, so that nothing else can pass for them.
    /// Health is asked by programs that know no name, and tells nothing that a page could use.
    fn for_machines<B>(&self, request: &Request<B>) -> Response<AdminBody> {
        if request.uri().path() == "/metrics" && !is_ours(request.headers(), &self.hosts) {
            return unknown_name();
        }
        let (standing, metrics) = (self.gateway.status(), self.gateway.metrics());
        metrics.news(standing.age);
        let ready = self.status.is_ready().then_some(standing);
        answer(request, (ready, &status_view::servers(&self.gateway)), metrics)
    }

    /// The page and what it asks for. A page of somebody else's, whose name they let point at this
    /// address (DNS rebinding), is not shown ours: the browser says which name it believes in.
    fn for_people<B>(&self, request: &Request<B>) -> Response<AdminBody> {
        if !is_read(request.method()) {
            return say(StatusCode::METHOD_NOT_ALLOWED, "GET only\n".to_owned());
        }
        if !is_ours(request.headers(), &self.hosts) {
            return unknown_name();
        }
        match request.uri().path() {
            "/events" => self.events(),
            "/config" => say(StatusCode::OK, self.status.file().shown.text),
            "/config.json" => {
                let shown =
                    AdminBody::whole(serde_json::json!(self.status.file().shown).to_string());
                typed(Response::new(shown), "application/json; charset=utf-8")
            }
            "/status.json" => self.status(),
            _ => page::page(),
        }
    }

    fn status(&self) -> Response<AdminBody> {
        let event = self.news.borrow().clone();
        let json = event.strip_prefix(b"data: ").map_or(b"{}".as_slice(), <[u8]>::trim_ascii_end);
        let json = Bytes::copy_from_slice(json);
        typed(Response::new(AdminBody::whole(json)), "application/json; charset=utf-8")
    }

    fn events(&self) -> Response<AdminBody> {
        let Ok(place) = Arc::clone(&self.looking).try_acquire_owned() else {
            let why = format!("{MAX_EVENT_STREAMS} pages are open already\n");
            return say(StatusCode::SERVICE_UNAVAILABLE, why);
        };
        let events = EventStream::new(self.news.subscribe(), place);
        typed(Response::new(AdminBody::Events(events)), "text/event-stream; charset=utf-8")
    }
}

fn is_read(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD)
}

fn unknown_name() -> Response<AdminBody> {
    let why = "this name is not in [admin] hosts: use the address, or add the name there\n";
    say(StatusCode::MISDIRECTED_REQUEST, why.to_owned())
}

fn unauthorized() -> Response<AdminBody> {
    let why = "{\"error\":\"every POST needs the token of [admin] as a Bearer token\"}\n";
    let mut response =
        typed(Response::new(AdminBody::whole(why.to_owned())), "application/json; charset=utf-8");
    *response.status_mut() = StatusCode::UNAUTHORIZED;
    let scheme = HeaderValue::from_static("Bearer realm=\"wxgate\"");
    response.headers_mut().insert(header::WWW_AUTHENTICATE, scheme);
    response
}

/// Whether a request names an address, this machine, or a name that the operator gave us.
fn is_ours(headers: &HeaderMap, hosts: &[Host]) -> bool {
    let mut named = headers.get_all(header::HOST).iter();
    let (Some(host), None) = (named.next(), named.next()) else { return false };
    let Some(host) = host.to_str().ok().and_then(Host::parse) else { return false };
    let name = host.as_str();
    let address = name.trim_start_matches('[').trim_end_matches(']');
    address.parse::<std::net::IpAddr>().is_ok() || name == "localhost" || hosts.contains(&host)
}

fn answer<B>(
    request: &Request<B>,
    (ready, servers): (Option<RevocationStatus>, &str),
    metrics: &Metrics,
) -> Response<AdminBody> {
    let get = is_read(request.method());
    if get && request.uri().path() == "/metrics" {
        let text = metrics.text().unwrap_or_default();
        let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
        return typed(Response::new(AdminBody::whole(text)), kind);
    }
    let (status, text) = match (request.uri().path(), get) {
        ("/healthz", true) => (StatusCode::OK, "ok\n".to_owned()),
        ("/readyz", true) => {
            let (status, text) = say_ready(ready);
            (status, text + servers)
        }
        ("/healthz" | "/readyz" | "/metrics", false) => {
            (StatusCode::METHOD_NOT_ALLOWED, "GET only\n".to_owned())
        }
        _ => (
            StatusCode::NOT_FOUND,
            "here are /, /healthz, /readyz, /metrics, /status.json, /log and /revocations\n"
                .to_owned(),
        ),
    };
    say(status, text)
}

fn say(status: StatusCode, text: String) -> Response<AdminBody> {
    let mut response = Response::new(AdminBody::whole(text));
    *response.status_mut() = status;
    typed(response, "text/plain; charset=utf-8")
}

fn typed(mut response: Response<AdminBody>, kind: &'static str) -> Response<AdminBody> {
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// A replica that could serve no site is better left out; one that can serve some of them says how
/// old its news is. Both say what is the matter with the store.
fn say_ready(ready: Option<RevocationStatus>) -> (StatusCode, String) {
    let Some(RevocationStatus { age, serves, shared, waiting, failure }) = ready else {
        let text = "not ready: starting or draining\n".to_owned();
        return (StatusCode::SERVICE_UNAVAILABLE, text);
    };
    let (status, mut text) = match (age, serves) {
        (None, _) => {
            let text = "not ready: the store has not told yet which sessions were ended\n";
            (StatusCode::SERVICE_UNAVAILABLE, text.to_owned())
        }
        (Some(age), false) => {
            let text = format!("not ready: revocation log unavailable for {} s\n", age.as_secs());
            (StatusCode::SERVICE_UNAVAILABLE, text)
        }
        (Some(age), true) if shared => {
            let text = format!("ok\nnews of ended sessions: {:.1} s old\n", age.as_secs_f64());
            (StatusCode::OK, text)
        }
        (Some(_), true) => (StatusCode::OK, "ok\n".to_owned()),
    };
    if let Some(failure) = failure {
        let remedy = failure.cause.remedy();
        let _ = writeln!(text, "{STORE_LINE}{} → {remedy}", one_line(&failure.to_string()));
    }
    if waiting > 0 {
        let _ = writeln!(text, "revocations that wait to be stored: {waiting}");
    }
    (status, text)
}

/// What others sent may have line ends in it.
fn one_line(text: &str) -> String {
    text.split(char::is_control).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store;

    #[test]
    fn g2_health_is_answered_on_its_exact_path_and_method() {
        let cases = [
            (Method::GET, "/healthz", 200),
            (Method::HEAD, "/healthz", 200),
            (Method::GET, "/readyz", 503),
            (Method::POST, "/healthz", 405),
            (Method::GET, "/healthz/", 404),
            (Method::GET, "/healthz/../x", 404),
            (Method::GET, "/status", 404),
        ];
        for (method, path, expected) in cases {
            let request = Request::builder().method(&method).uri(path).body(()).unwrap();
            assert_eq!(
                answer(&request, (None, ""), &Metrics::default()).status(),
                expected,
                "{method} {path}"
            );
        }
    }

    #[test]
    fn g1_pages_of_others_are_not_shown_ours() {
        let known = [Host::parse("wxgate.internal").unwrap()];
        let cases: [(&[&str], bool); 12] = [
            (&["127.0.0.1:9090"], true),
            (&["[::1]:9090"], true),
            (&["10.0.0.5"], true),
            (&["localhost:9090"], true),
            (&["LOCALHOST"], true),
            (&["wxgate.internal:9090"], true),
            (&["evil.example:9090"], false),
            (&["127.0.0.1.evil.example"], false),
            (&["localhost.evil.example"], false),
            (&["127.0.0.1", "evil.example"], false),
            (&["evil.example@127.0.0.1"], false),
            (&[], false),
        ];
        for (named, expected) in cases {
            let mut headers = HeaderMap::new();
            for host in named {
                headers.append(header::HOST, host.parse().unwrap());
            }
            assert_eq!(is_ours(&headers, &known), expected, "{named:?}");
        }
    }

    #[test]
    fn readiness_tells_how_old_the_news_is() {
        let (ms, none) = (|ms| Some(Duration::from_millis(ms)), None);
        let cases = [
            (ms(0), true, false, 200, "ok\n"),
            (ms(140), true, true, 200, "ok\nnews of ended sessions: 0.1 s old\n"),
            (none, false, true, 503, "not ready: the store has not told yet"),
            (ms(31_000), false, true, 503, "not ready: revocation log unavailable for 31 s\n"),
        ];
        for (age, serves, shared, status, start) in cases {
            for full in [false, true] {
                let failure = full.then(|| {
                    let cause = store::UnavailableCause::Full;
                    store::StoreUnavailable::new(cause, "OOM\r\nnot ready: no")
                });
                let waiting = usize::from(full);
                let (said, text) =
                    say_ready(Some(RevocationStatus { age, serves, shared, waiting, failure }));
                assert_eq!(said, status, "{age:?}");
                assert!(text.starts_with(start), "{text}");
                let words =
                    "\nstore: Redis is full (maxmemory reached): OOM  not ready: no → raise";
                assert_eq!(text.contains(words), full, "{text}");
                assert_eq!(
                    text.contains("\nrevocations that wait to be stored: 1\n"),
                    full,
                    "{text}"
                );
            }
        }
    }
}
