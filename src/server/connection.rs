//! One connection: handshake, then requests until either side has had enough.

use std::{
    convert::Infallible,
    error::Error as _,
    future::Future,
    io,
    pin::Pin,
    rc::Rc,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use http::{HeaderValue, Request, StatusCode, header};
use hyper::{
    body::{Body as _, Incoming},
    server::conn::{http1, http2},
    service::{Service as _, service_fn},
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{self, Instant},
};

use super::{
    guard::{Guard, Signals},
    streams::{Streams, Watched},
    worker::Shared,
};
use crate::gateway::{self, Peer};

/// How long an HTTP/1 connection may take for one more request when the server stops. Its answer
/// says that it is the last, so that nobody's request meets a connection that was just closed:
/// whoever connects, or asks again, a moment too late has done nothing wrong. HTTP/2 has a frame
/// that says so.
const ONE_MORE: Duration = Duration::from_secs(1);
/// How much of each HTTP/2 stream may be under way: one slow reader must not fill the connection's
/// window.
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 4 << 20;
/// What is held of each answer for a visitor who does not read.
const SEND_BUFFER: usize = 64 << 10;
/// The read buffer of an HTTP/1 connection, at most.
const BUFFER: usize = 64 << 10;

/// A connection that has been accepted and has said nothing yet.
pub struct Connection {
    /// The other end.
    pub peer: Rc<Peer>,
    /// What it shares with its neighbours.
    pub shared: Rc<Shared>,
}

impl Connection {
    /// Serves it to its end. A broken connection is the client's affair, not an error of ours.
    pub async fn serve<S>(self, stream: S)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Some(acceptor) = self.shared.acceptor.as_ref().filter(|_| self.peer.encrypted) else {
            return self.http1(stream).await;
        };
        match time::timeout(self.shared.limits.header_time, acceptor.accept(stream)).await {
            Ok(Ok(stream)) if stream.get_ref().1.alpn_protocol() == Some(b"h2") => {
                self.http2(stream).await;
            }
            Ok(Ok(stream)) => self.http1(stream).await,
            Ok(Err(error)) => tracing::debug!(peer = %self.peer.ip, %error, "handshake failed"),
            Err(_) => {
                self.shared.gateway.met("header_time");
                tracing::debug!(peer = %self.peer.ip, "handshake timed out");
            }
        }
    }

    async fn http1<S>(self, stream: S)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (limits, signals) = (self.shared.limits, Arc::new(Signals::default()));
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new())
            .header_read_timeout(limits.idle_time)
            .max_header_size(usize::try_from(limits.header_bytes).unwrap_or(BUFFER))
            .max_buf_size(BUFFER.max(usize::try_from(limits.header_bytes).unwrap_or(BUFFER)));
        if limits.header_count != 100 {
            http.max_headers(limits.header_count);
        }
        let service = self.service(Arc::clone(&signals));
        let stream = Guard::http1(stream, Arc::clone(&signals), limits.send_time);
        let connection = http.serve_connection(TokioIo::new(stream), service).with_upgrades();
        self.drive(
            connection,
            (&signals, Some(ONE_MORE)),
            http1::UpgradeableConnection::graceful_shutdown,
        )
        .await;
    }

    async fn http2<S>(self, stream: S)
    where
        S: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        let (limits, signals) = (self.shared.limits, Arc::new(Signals::default()));
        let streams = Streams::new(limits.send_time, Rc::clone(&self.shared.gateway));
        let mut http = http2::Builder::new(streams.clone());
        http.timer(TokioTimer::new())
            .keep_alive_interval(limits.idle_time)
            .keep_alive_timeout(limits.header_time)
            .max_concurrent_streams(limits.streams)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buf_size(SEND_BUFFER)
            .max_header_list_size(limits.header_bytes);
        let service = self.service_of_streams(Arc::clone(&signals), streams);
        let stream = Guard::http2(stream, Arc::clone(&signals), limits.send_time);
        let connection = http.serve_connection(TokioIo::new(stream), service);
        self.drive(connection, (&signals, None), http2::Connection::graceful_shutdown).await;
    }

    fn service(
        &self,
        signals: Arc<Signals>,
    ) -> impl hyper::service::Service<
        Request<Incoming>,
        Response = http::Response<gateway::Body>,
        Error = Infallible,
        Future: 'static,
    > + 'static {
        let (worker, peer) = (Rc::clone(&self.shared.gateway), Rc::clone(&self.peer));
        let most = self.shared.limits.header_count;
        service_fn(move |request: Request<Incoming>| {
            signals.begun.store(true, Relaxed);
            let asking = (signals.is_asking() && asks(&request)).then(|| Arc::clone(&signals));
            let (worker, peer) = (Rc::clone(&worker), Rc::clone(&peer));
            let stopping = Arc::clone(&signals);
            async move {
                if headers(&request) > most {
                    worker.met("header_count");
                    return Ok::<_, Infallible>(gateway::too_many_headers());
                }
                let mut response = worker.handle(request, &peer).await;
                if stopping.stopping.load(Relaxed) {
                    let close = HeaderValue::from_static("close");
                    response.headers_mut().entry(header::CONNECTION).or_insert(close);
                }
                if let Some(signals) = asking {
                    signals.answered(response.status() == StatusCode::SWITCHING_PROTOCOLS);
                }
                Ok(response)
            }
        })
    }

    fn service_of_streams(
        &self,
        signals: Arc<Signals>,
        streams: Streams,
    ) -> impl hyper::service::Service<
        Request<Incoming>,
        Response = http::Response<Watched<gateway::Body>>,
        Error = Infallible,
        Future: 'static,
    > + 'static {
        let service = self.service(signals);
        service_fn(move |request| {
            let (watch, answer) = (streams.begin(), service.call(request));
            async move { Ok(answer.await?.map(|body| Watched::new(body, watch))) }
        })
    }

    /// Polls the connection to its end. One that has not brought its first request in time is
    /// dropped; when the server stops, the request under way is the last, or the next one.
    async fn drive<C>(
        &self,
        connection: C,
        (signals, grace): (&Signals, Option<Duration>),
        finish: impl Fn(Pin<&mut C>),
    ) where
        C: Future<Output = hyper::Result<()>>,
    {
        tokio::pin!(connection);
        let deadline = time::sleep(self.shared.limits.header_time);
        tokio::pin!(deadline);
        let (mut patient, mut stopping) = (false, false);
        loop {
            tokio::select! {
                biased;
                ended = connection.as_mut() => {
                    if let Err(error) = ended {
                        if let Some(limit) = limit(&error) {
                            self.shared.gateway.met(limit);
                        }
                        tracing::debug!(peer = %self.peer.ip, %error, "connection broke");
                    }
                    return;
                }
                () = self.shared.stopping.cancelled(), if !stopping => {
                    stopping = true;
                    if let Some(grace) = grace {
                        signals.stopping.store(true, Relaxed);
                        let soon = Instant::now() + grace;
                        let soon = if patient { soon } else { deadline.deadline().min(soon) };
                        deadline.as_mut().reset(soon);
                        patient = false;
                    } else {
                        finish(connection.as_mut());
                    }
                }
                () = &mut deadline, if !patient => {
                    patient = true;
                    match (signals.begun.load(Relaxed), stopping) {
                        (true, true) => finish(connection.as_mut()),
                        (true, false) => (),
                        (false, true) => return,
                        (false, false) => {
                            self.shared.gateway.met("header_time");
                            return;
                        }
                    }
                }
            }
        }
    }
}

/// The limit that a connection broke at, if it was one.
fn limit(error: &hyper::Error) -> Option<&'static str> {
    let io = error.source().and_then(|cause| cause.downcast_ref::<io::Error>());
    if error.is_parse_too_large() {
        Some("header_bytes")
    } else if error.is_parse() {
        Some("unreadable")
    } else if error.is_timeout() {
        Some("idle_time")
    } else if io.is_some_and(|error| error.kind() == io::ErrorKind::TimedOut) {
        Some("send_time")
    } else {
        None
    }
}

/// Headers of a request, the crumbs of a cookie counted as one. HTTP/1 counts them as it reads
/// them; h2 counts bytes only.
fn headers<B>(request: &Request<B>) -> usize {
    let crumbs = request.headers().get_all(header::COOKIE).iter().count();
    request.headers().len().saturating_sub(crumbs.saturating_sub(1))
}

/// Whether nothing may follow this request before its answer. Read ahead, another may be there
/// already that asks as well; this is the one that the guard of the stream has seen last.
fn asks(request: &Request<Incoming>) -> bool {
    request.headers().contains_key(header::UPGRADE) && request.body().is_end_stream()
}
