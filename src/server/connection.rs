//! One connection: handshake, then requests until either side has had enough.

use std::{cell::Cell, convert::Infallible, future::Future, pin::Pin, rc::Rc};

use http::{Request, header};
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time,
};

use super::worker::Shared;
use crate::gateway::{self, Peer};

/// Streams of one HTTP/2 connection at once, and how much of each may be under way: one slow
/// reader must not fill the connection's window.
const STREAMS: u32 = 250;
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
            Err(_) => tracing::debug!(peer = %self.peer.ip, "handshake timed out"),
        }
    }

    async fn http1<S>(self, stream: S)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (limits, begun) = (self.shared.limits, Rc::new(Cell::new(false)));
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new())
            .header_read_timeout(limits.idle_time)
            .max_header_size(usize::try_from(limits.header_bytes).unwrap_or(BUFFER))
            .max_buf_size(BUFFER.max(usize::try_from(limits.header_bytes).unwrap_or(BUFFER)));
        if limits.header_count != 100 {
            http.max_headers(limits.header_count);
        }
        let service = self.service(Rc::clone(&begun));
        let connection = http.serve_connection(TokioIo::new(stream), service).with_upgrades();
        self.drive(connection, &begun, http1::UpgradeableConnection::graceful_shutdown).await;
    }

    async fn http2<S>(self, stream: S)
    where
        S: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        let (limits, begun) = (self.shared.limits, Rc::new(Cell::new(false)));
        let mut http = http2::Builder::new(ThisThread);
        http.timer(TokioTimer::new())
            .keep_alive_interval(limits.idle_time)
            .keep_alive_timeout(limits.header_time)
            .max_concurrent_streams(STREAMS)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buf_size(SEND_BUFFER)
            .max_header_list_size(limits.header_bytes);
        let service = self.service(Rc::clone(&begun));
        let connection = http.serve_connection(TokioIo::new(stream), service);
        self.drive(connection, &begun, http2::Connection::graceful_shutdown).await;
    }

    fn service(
        &self,
        begun: Rc<Cell<bool>>,
    ) -> impl hyper::service::Service<
        Request<Incoming>,
        Response = http::Response<gateway::Body>,
        Error = Infallible,
        Future: 'static,
    > + 'static {
        let (worker, peer) = (Rc::clone(&self.shared.gateway), Rc::clone(&self.peer));
        let most = self.shared.limits.header_count;
        service_fn(move |request: Request<Incoming>| {
            begun.set(true);
            let (worker, peer) = (Rc::clone(&worker), Rc::clone(&peer));
            async move {
                if headers(&request) > most {
                    return Ok::<_, Infallible>(gateway::too_many_headers());
                }
                Ok(worker.handle(request, &peer).await)
            }
        })
    }

    /// Polls the connection to its end. One that has not brought its first request in time is
    /// dropped; when the server stops, the request under way is the last.
    async fn drive<C>(&self, connection: C, begun: &Cell<bool>, finish: impl Fn(Pin<&mut C>))
    where
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
                        tracing::debug!(peer = %self.peer.ip, %error, "connection broke");
                    }
                    return;
                }
                () = self.shared.stopping.cancelled(), if !stopping => {
                    stopping = true;
                    finish(connection.as_mut());
                }
                () = &mut deadline, if !patient => {
                    patient = true;
                    if !begun.get() {
                        return;
                    }
                }
            }
        }
    }
}

/// Headers of a request, the crumbs of a cookie counted as one. HTTP/1 counts them as it reads
/// them; h2 counts bytes only.
fn headers<B>(request: &Request<B>) -> usize {
    let crumbs = request.headers().get_all(header::COOKIE).iter().count();
    request.headers().len().saturating_sub(crumbs.saturating_sub(1))
}

/// HTTP/2 streams run where their connection does.
#[derive(Clone, Copy)]
struct ThisThread;

impl<F> hyper::rt::Executor<F> for ThisThread
where
    F: Future<Output: 'static> + 'static,
{
    fn execute(&self, stream: F) {
        tokio::task::spawn_local(stream);
    }
}
