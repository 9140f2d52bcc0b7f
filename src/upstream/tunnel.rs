//! WebSocket: after 101 the gateway is only a pipe.

use std::{io, time::Duration};

use bytes::BytesMut;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, copy, split},
    time::timeout,
};

use super::pool::InFlightGuard;
use crate::http1::Stream;

/// How long the one end may still speak when the other has said its last.
const HALF_CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection to a site that has switched to another protocol.
pub struct UpgradedConnection {
    stream: Stream,
    /// What came behind the 101 already.
    buffered: BytesMut,
    /// While it lasts, the server has something to do.
    _busy: InFlightGuard,
}

impl UpgradedConnection {
    pub(super) fn new(((stream, buffered), busy): ((Stream, BytesMut), InFlightGuard)) -> Self {
        Self { stream, buffered, _busy: busy }
    }

    /// Copies both ways until both have ended. Not `copy_bidirectional`: a site that does not
    /// notice that its visitor has left would keep the tunnel for ever.
    pub async fn run(self, visitor: Stream) {
        let mut visitor = visitor;
        if visitor.write_all(&self.buffered).await.is_err() {
            return;
        }
        let ((from_visitor, to_visitor), (from_site, to_site)) =
            (split(visitor), split(self.stream));
        let (up, down) =
            (copy_until_eof(from_visitor, to_site), copy_until_eof(from_site, to_visitor));
        tokio::pin!(up, down);
        let _ = tokio::select! {
            _ = &mut up => timeout(HALF_CLOSE_TIMEOUT, down).await,
            _ = &mut down => timeout(HALF_CLOSE_TIMEOUT, up).await,
        };
    }
}

async fn copy_until_eof(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
) -> io::Result<()> {
    copy(&mut from, &mut to).await?;
    to.shutdown().await
}
