//! The other listener, for machines that watch us and for the operator: health, metrics, and the
//! end of sessions. Never on the public one.

use std::{
    convert::Infallible,
    future::Future,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;

use crate::{
    gateway::{Gateway, Standing},
    metrics::Metrics,
};

mod revocations;

/// How long a client of this listener may be quiet.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where it listens.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// An address that visitors cannot reach.
    pub listen: SocketAddr,
}

/// Whether new visitors should be sent here.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<AtomicBool>);

impl Readiness {
    /// Says so, or takes it back.
    pub fn set(&self, ready: bool) {
        self.0.store(ready, Ordering::Release);
    }

    fn is_ready(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// A bound listener, not yet accepting.
pub struct Admin {
    listener: TcpListener,
    readiness: Readiness,
    gateway: Arc<Gateway>,
}

impl Admin {
    /// Takes the address.
    pub async fn bind(
        settings: Settings,
        readiness: Readiness,
        gateway: Arc<Gateway>,
    ) -> io::Result<Self> {
        Ok(Self { listener: TcpListener::bind(settings.listen).await?, readiness, gateway })
    }

    /// The address we got.
    pub fn addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Answers until `stop` completes; also while the gateway drains, so that a load balancer can
    /// see it.
    pub async fn serve(self, stop: impl Future<Output = ()>) {
        tokio::select! {
            () = self.accept() => (),
            () = stop => (),
        }
    }

    async fn accept(&self) {
        loop {
            let Ok((stream, _)) = self.listener.accept().await else {
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            let (readiness, gateway) = (self.readiness.clone(), Arc::clone(&self.gateway));
            let service = service_fn(move |request| {
                let (readiness, gateway) = (readiness.clone(), Arc::clone(&gateway));
                async move { Ok::<_, Infallible>(handle(request, &readiness, &gateway).await) }
            });
            let mut http = http1::Builder::new();
            http.timer(TokioTimer::new()).header_read_timeout(PATIENCE);
            tokio::spawn(http.serve_connection(TokioIo::new(stream), service));
        }
    }
}

async fn handle(
    request: Request<Incoming>,
    readiness: &Readiness,
    gateway: &Gateway,
) -> Response<Full<Bytes>> {
    if request.uri().path() == revocations::PATH {
        return revocations::take(request, gateway).await;
    }
    let standing = gateway.standing();
    gateway.metrics().news(standing.age);
    answer(&request, readiness.is_ready().then_some(standing), gateway.metrics())
}

/// Exact paths and methods only, so that nothing else can pass for health.
fn answer<B>(
    request: &Request<B>,
    ready: Option<Standing>,
    metrics: &Metrics,
) -> Response<Full<Bytes>> {
    let get = matches!(*request.method(), Method::GET | Method::HEAD);
    if get && request.uri().path() == "/metrics" {
        return exposition(metrics);
    }
    let (status, text) = match (request.uri().path(), get) {
        ("/healthz", true) => (StatusCode::OK, "ok\n".to_owned()),
        ("/readyz", true) => say_ready(ready),
        ("/healthz" | "/readyz" | "/metrics", false) => {
            (StatusCode::METHOD_NOT_ALLOWED, "GET only\n".to_owned())
        }
        _ => (
            StatusCode::NOT_FOUND,
            "here are /healthz, /readyz, /metrics and /revocations\n".to_owned(),
        ),
    };
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, plain);
    response
}

/// Everything that is counted, as Prometheus reads it.
fn exposition(metrics: &Metrics) -> Response<Full<Bytes>> {
    const OPEN_METRICS: HeaderValue =
        HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
    let mut response = Response::new(Full::from(metrics.text().unwrap_or_default()));
    response.headers_mut().insert(header::CONTENT_TYPE, OPEN_METRICS);
    response
}

/// A replica that could serve no site is better left out; one that can serve some of them says how
/// old its news is.
fn say_ready(ready: Option<Standing>) -> (StatusCode, String) {
    let no = |why: String| (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {why}\n"));
    let Some(Standing { age, serves, shared }) = ready else {
        return no("starting or draining".to_owned());
    };
    let Some(age) = age else {
        return no("the store has not told yet which sessions were ended".to_owned());
    };
    match (serves, shared) {
        (false, _) => no(format!("no news of ended sessions for {} s", age.as_secs())),
        (true, false) => (StatusCode::OK, "ok\n".to_owned()),
        (true, true) => {
            let text = format!("ok\nnews of ended sessions: {:.1} s old\n", age.as_secs_f64());
            (StatusCode::OK, text)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn g2_health_is_answered_on_its_exact_path_and_method() {
        let cases = [
            (Method::GET, "/healthz", 200),
            (Method::HEAD, "/healthz", 200),
            (Method::GET, "/readyz", 503),
            (Method::POST, "/healthz", 405),
            (Method::GET, "/healthz/", 404),
            (Method::GET, "/healthz/../x", 404),
            (Method::GET, "/", 404),
        ];
        for (method, path, expected) in cases {
            let request = Request::builder().method(&method).uri(path).body(()).unwrap();
            assert_eq!(
                answer(&request, None, &Metrics::default()).status(),
                expected,
                "{method} {path}"
            );
        }
    }

    #[test]
    fn readiness_tells_how_old_the_news_is() {
        let (ms, none) = (|ms| Some(Duration::from_millis(ms)), None);
        let cases = [
            (ms(0), true, false, 200, "ok\n"),
            (ms(140), true, true, 200, "ok\nnews of ended sessions: 0.1 s old\n"),
            (none, false, true, 503, "not ready: the store has not told yet"),
            (ms(31_000), false, true, 503, "not ready: no news of ended sessions for 31 s\n"),
        ];
        for (age, serves, shared, status, start) in cases {
            let (said, text) = say_ready(Some(Standing { age, serves, shared }));
            assert_eq!(said, status, "{age:?}");
            assert!(text.starts_with(start), "{text}");
        }
    }
}
