//! An HTTP/2 connection: hyper's, with what it does not look after itself.

use std::{
    cell::Cell,
    convert::Infallible,
    error::Error as _,
    future::{Future, poll_fn},
    io,
    pin::pin,
    rc::Rc,
    task::Poll,
};

use http::{Request, Response};
use hyper::{body, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::time;

use super::{
    connection::Connection,
    connection_registry::RegisteredConnection,
    preface::PrefaceCheck,
    streams::{StreamExecutor, TrackedBody},
    timeout_writer::TimeoutWriter,
    worker::WorkerContext,
};
use crate::{
    gateway::{self, Peer},
    http1::{Incoming, Stream, head},
};

/// How much of each stream may be under way: one slow reader must not fill the connection's window.
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 4 << 20;
/// What is held of each answer for a visitor who does not read.
const SEND_BUFFER: usize = 64 << 10;

/// A connection that speaks HTTP/2.
pub struct Http2ServerConnection {
    /// Shared with the streams: it waits for its client while none is open.
    slot: Rc<RegisteredConnection>,
    peer: Rc<Peer>,
    shared: Rc<WorkerContext>,
    /// Whether it has brought a request.
    begun: Rc<Cell<bool>>,
}

impl Http2ServerConnection {
    /// A connection that has said nothing yet.
    pub fn new(connection: Connection) -> Self {
        let Connection { slot, peer, shared } = connection;
        Self { slot: Rc::new(slot), peer, shared, begun: Rc::default() }
    }

    /// Polls it to its end. One that has not brought its first request in time is dropped; when the
    /// server stops, the requests under way are the last.
    pub async fn serve(self, stream: Stream) {
        let Self { slot, peer, shared, .. } = &self;
        let limits = shared.limits;
        let streams =
            StreamExecutor::new(limits.send_time, Rc::clone(&shared.gateway), Rc::clone(slot));
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
        let blocked = stream.blocked();
        let stream = TokioIo::new(PrefaceCheck::new(stream));
        let mut connection = pin!(http.serve_connection(stream, self.service(streams)));
        let mut deadline = pin!(time::sleep(limits.header_time));
        let (mut patient, mut stopping) = (false, false);
        slot.set_idle();
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
                () = poll_fn(|cx| slot.poll_evicted(cx)) => {
                    if blocked.get() {
                        // A part of an answer is still to be sent.
                        slot.set_busy();
                        slot.set_idle();
                        continue;
                    }
                    connection.as_mut().graceful_shutdown();
                    // This writes the GOAWAY. A client that answers none of the frames that follow one
                    // must not hold the place that is needed.
                    poll_fn(|cx| Poll::Ready(connection.as_mut().poll(cx).is_ready())).await;
                    tracing::debug!(peer = %peer.ip, "closed for a new connection");
                    return;
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
        let (shared, begun) = (Rc::clone(&self.shared), Rc::clone(&self.begun));
        let peer = Rc::clone(&self.peer);
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

/// The limit that ended a connection, if it was one.
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
