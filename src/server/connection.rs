//! One connection: the handshake, and then the protocol that was agreed on.

use std::{future::poll_fn, pin::pin, rc::Rc, task::Poll, time::Duration};

use tokio::{io::AsyncWriteExt, time};
use tokio_rustls::TlsAcceptor;

use super::{
    connection_registry::RegisteredConnection, http1::Http1ServerConnection,
    http2::Http2ServerConnection, tls, worker::WorkerContext,
};
use crate::{
    acme,
    gateway::Peer,
    http1::{Socket, Stream},
};

/// How long the end of a challenge may take.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(1);

/// A connection that has been accepted and has said nothing yet.
pub struct Connection {
    /// Its place among the connections of the thread.
    pub slot: RegisteredConnection,
    /// The other end.
    pub peer: Rc<Peer>,
    /// What it shares with its neighbours.
    pub shared: Rc<WorkerContext>,
}

impl Connection {
    /// Serves it to its end. A broken connection is the client's affair, not an error of ours.
    ///
    /// What is rare, or over soon, is in boxes: a quiet connection keeps room for the largest of what
    /// is not.
    pub async fn serve(self, socket: Socket) {
        let acceptor = self.shared.acceptor.as_ref().filter(|_| self.peer.encrypted);
        let (stream, is_http2) = match acceptor {
            None => (Stream::Plain(socket), false),
            Some(acceptor) => match Box::pin(self.handshake(acceptor, socket)).await {
                Some(agreed) => agreed,
                None => return,
            },
        };
        if is_http2 {
            Box::pin(Http2ServerConnection::new(self).serve(stream)).await;
        } else {
            let arena = Rc::clone(&self.shared.arena);
            Http1ServerConnection::new(self, stream, &arena).serve().await;
        }
    }

    /// The encrypted stream, and whether HTTP/2 was agreed on.
    async fn handshake(&self, acceptor: &TlsAcceptor, socket: Socket) -> Option<(Stream, bool)> {
        let handshake = time::timeout(self.shared.limits.header_time, acceptor.accept(socket));
        let mut handshake = pin!(handshake);
        // It waits for nothing but the client. One whose handshake goes on is closed last.
        let outcome = poll_fn(|cx| match handshake.as_mut().poll(cx) {
            Poll::Ready(outcome) => Poll::Ready(Some(outcome)),
            Poll::Pending => {
                self.slot.refresh();
                self.slot.poll_idle(cx).map(|()| None)
            }
        })
        .await;
        self.slot.set_busy();
        let Some(outcome) = outcome else {
            tracing::debug!(peer = %self.peer.ip, "handshake given up for a new connection");
            return None;
        };
        match outcome {
            Ok(Ok(mut stream)) => {
                let (of, session) = (&self.shared.gateway, stream.get_ref().1);
                if session.alpn_protocol() == Some(acme::PROTOCOL) {
                    // The authority has seen what it wanted to; nothing is spoken under this name.
                    of.handshake("challenge", tls::version(session));
                    let _ = time::timeout(SHUTDOWN_TIMEOUT, stream.shutdown()).await;
                    return None;
                }
                of.handshake(tls::outcome(session), tls::version(session));
                let is_http2 = session.alpn_protocol() == Some(b"h2");
                Some((Stream::Tls(Box::new(stream.into())), is_http2))
            }
            Ok(Err(error)) => {
                self.shared.gateway.handshake("failed", "");
                tracing::debug!(peer = %self.peer.ip, %error, "handshake failed");
                None
            }
            Err(_) => {
                self.shared.gateway.handshake("timeout", "");
                self.shared.gateway.record_limit("header_time");
                tracing::debug!(peer = %self.peer.ip, "handshake timed out");
                None
            }
        }
    }
}
