//! The other listener, for machines that watch us: health and metrics. Never on the public one.

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
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;

use crate::metrics::Metrics;

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
    metrics: Arc<Metrics>,
}

impl Admin {
    /// Takes the address.
    pub async fn bind(
        settings: Settings,
        readiness: Readiness,
        metrics: Arc<Metrics>,
    ) -> io::Result<Self> {
        Ok(Self { listener: TcpListener::bind(settings.listen).await?, readiness, metrics })
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
            let (readiness, metrics) = (self.readiness.clone(), Arc::clone(&self.metrics));
            let service = service_fn(move |request| {
                let response = answer(&request, &readiness, &metrics);
                async move { Ok::<_, Infallible>(response) }
            });
            let mut http = http1::Builder::new();
            http.timer(TokioTimer::new()).header_read_timeout(PATIENCE);
            tokio::spawn(http.serve_connection(TokioIo::new(stream), service));
        }
    }
}

/// Exact paths and methods only, so that nothing else can pass for health.
fn answer<B>(
    request: &Request<B>,
    readiness: &Readiness,
    metrics: &Metrics,
) -> Response<Full<Bytes>> {
    let get = matches!(*request.method(), Method::GET | Method::HEAD);
    if get && request.uri().path() == "/metrics" {
        return exposition(metrics);
    }
    let (status, text) = match (request.uri().path(), get) {
        ("/healthz", true) => (StatusCode::OK, "ok\n"),
        ("/readyz", true) if readiness.is_ready() => (StatusCode::OK, "ok\n"),
        ("/readyz", true) => (StatusCode::SERVICE_UNAVAILABLE, "not ready: starting or draining\n"),
        ("/healthz" | "/readyz" | "/metrics", false) => {
            (StatusCode::METHOD_NOT_ALLOWED, "GET only\n")
        }
        _ => (StatusCode::NOT_FOUND, "here are /healthz, /readyz and /metrics\n"),
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
        let readiness = Readiness::default();
        for (method, path, expected) in cases {
            let request = Request::builder().method(&method).uri(path).body(()).unwrap();
            assert_eq!(
                answer(&request, &readiness, &Metrics::default()).status(),
                expected,
                "{method} {path}"
            );
        }
        readiness.set(true);
        let request = Request::get("/readyz").body(()).unwrap();
        assert_eq!(answer(&request, &readiness, &Metrics::default()).status(), 200);
    }
}
