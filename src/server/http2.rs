//! An HTTP/2 connection: hyper's, with what it does not look after itself.

use std::{cell::Cell, convert::Infallible, error::Error as _, io, pin::pin, rc::Rc};

use http::{Request, Response};
use hyper::{body, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::time;

use super::{
    connection::Connection,
    preface::PrefaceCheck,
    streams::{StreamExecutor, TrackedBody},
    timeout_writer::TimeoutWriter,
};
use crate::{
    gateway,
    http1::{Incoming, Stream, head},
};

/// How much of each stream may be under way: one slow reader must not fill the connection's window.
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 4 << 20;
/// What is held of each answer for a visitor who does not read.
const SEND_BUFFER: usize = 64 << 10;

/// A connection that speaks HTTP/2.
pub struct Http2ServerConnection {
    connection: Connection,
    /// Whether it has brought a request.
    begun: Rc<Cell<bool>>,
}

impl Http2ServerConnection {
    /// A connection that has said nothing yet.
    pub fn new(connection: Connection) -> Self {
        Self { connection, begun: Rc::default() }
    }

    /// Polls it to its end. One that has not brought its first request in time is dropped; when the
    /// server stops, the requests under way are the last.
    pub async fn serve(self, stream: Stream) {
        let (shared, peer) = (&self.connection.shared, &self.connection.peer);
        let limits = shared.limits;
        let streams = StreamExecutor::new(limits.send_time, Rc::clone(&shared.gateway));
        let mut http = http2::Builder::new(streams.clone());
        http.timer(TokioTimer::new())
            .keep_alive_interval(limits.idle_time)
            .keep_alive_timeout(limits.header_time)
            .max_concurrent_streams(limits.streams)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buf_size(SEND_BUFFER)
            .max_header_list_size(limits.header_bytes);
        let stream = TimeoutWriter::new(stream, limits.send_time);
        let stream = TokioIo::new(PrefaceCheck::new(stream));
        let mut connection = pin!(http.serve_connection(stream, self.service(streams)));
        let mut deadline = pin!(time::sleep(limits.header_time));
        let (mut patient, mut stopping) = (false, false);
        loop {
            tokio::select! {
                biased;
                ended = connection.as_mut() => {
                    if let Err(error) = ended {
                        if let Some(limit) = limit(&error) {
                            shared.gateway.record_limit(limit);
                        }
                        tracing::debug!(peer = %peer.ip, %error, "connection error");
                    }
                    return;
                }
                () = shared.stopping.cancelled(), if !stopping => {
                    stopping = true;
                    connection.as_mut().graceful_shutdown();
                }
                () = deadline.as_mut(), if !patient => {
                    patient = true;
                    if !self.begun.get() {
                        shared.gateway.record_limit("header_time");
                        return;
                    }
                }
            }
        }
    }

    fn service(
        &self,
        streams: StreamExecutor,
    ) -> impl hyper::service::Service<
        Request<body::Incoming>,
        Response = Response<TrackedBody<gateway::Body>>,
        Error = Infallible,
        Future: 'static,
    > + 'static {
        let (shared, begun) = (Rc::clone(&self.connection.shared), Rc::clone(&self.begun));
        let peer = Rc::clone(&self.connection.peer);
        service_fn(move |request: Request<body::Incoming>| {
            begun.set(true);
            let watch = streams.begin();
            let (shared, peer) = (Rc::clone(&shared), Rc::clone(&peer));
            async move {
                let mut request = request.map(Incoming::from);
                let response = if head::header_count(request.headers()) > shared.limits.header_count
                {
                    shared.gateway.record_limit("header_count");
                    gateway::too_many_headers()
                } else {
                    shared.gateway.handle(&mut request, &peer).await
                };
                Ok(response.map(|body| TrackedBody::new(body, watch)))
            }
        })
    }
}

/// The limit that a connection error at, if it was one.
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
