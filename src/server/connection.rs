//! One connection: the handshake, and then the protocol that was agreed on.

use std::rc::Rc;

use tokio::time;

use super::{http1::Http1, http2::Http2, tls, worker::Shared};
use crate::{
    gateway::Peer,
    http1::{Socket, Stream},
};

/// A connection that has been accepted and has said nothing yet.
pub struct Connection {
    /// The other end.
    pub peer: Rc<Peer>,
    /// What it shares with its neighbours.
    pub shared: Rc<Shared>,
}

impl Connection {
    /// Serves it to its end. A broken connection is the client's affair, not an error of ours.
    pub async fn serve(self, socket: Socket) {
        let Some(acceptor) = self.shared.acceptor.as_ref().filter(|_| self.peer.encrypted) else {
            return self.http1(Stream::Plain(socket)).await;
        };
        let handshake = Box::pin(acceptor.accept(socket));
        match time::timeout(self.shared.limits.header_time, handshake).await {
            Ok(Ok(stream)) => {
                let (of, session) = (&self.shared.gateway, stream.get_ref().1);
                of.handshake(tls::outcome(session), tls::version(session));
                let agreed = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                let stream = Stream::Tls(Box::new(stream.into()));
                if agreed {
                    Box::pin(Http2::new(self).serve(stream)).await;
                } else {
                    self.http1(stream).await;
                }
            }
            Ok(Err(error)) => {
                self.shared.gateway.handshake("failed", "");
                tracing::debug!(peer = %self.peer.ip, %error, "handshake failed");
            }
            Err(_) => {
                self.shared.gateway.handshake("timeout", "");
                self.shared.gateway.met("header_time");
                tracing::debug!(peer = %self.peer.ip, "handshake timed out");
            }
        }
    }

    async fn http1(self, stream: Stream) {
        let arena = Rc::clone(&self.shared.arena);
        Http1::new(self, stream, &arena).serve().await;
    }
}
