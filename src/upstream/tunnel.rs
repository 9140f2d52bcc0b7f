//! WebSocket: after 101 the gateway is only a pipe.

use std::{io, time::Duration};

use bytes::BytesMut;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, copy, split},
    time::timeout,
};

use super::pool::Busy;
use crate::http1::Stream;

/// How long the one end may still speak when the other has said its last.
const LINGER: Duration = Duration::from_secs(5);

/// A connection to a site that has switched to another protocol.
pub struct Switched {
    stream: Stream,
    /// What came behind the 101 already.
    said: BytesMut,
    /// While it lasts, the server has something to do.
    _busy: Busy,
}

impl Switched {
    pub(super) fn new(((stream, said), busy): ((Stream, BytesMut), Busy)) -> Self {
        Self { stream, said, _busy: busy }
    }

    /// Copies both ways until both have ended. Not `copy_bidirectional`: a site that does not
    /// notice that its visitor has left would keep the tunnel for ever.
    pub async fn join(self, visitor: Stream) {
        let mut visitor = visitor;
        if visitor.write_all(&self.said).await.is_err() {
            return;
        }
        let ((from_visitor, to_visitor), (from_site, to_site)) =
            (split(visitor), split(self.stream));
        let (up, down) = (pour(from_visitor, to_site), pour(from_site, to_visitor));
        tokio::pin!(up, down);
        let _ = tokio::select! {
            _ = &mut up => timeout(LINGER, down).await,
            _ = &mut down => timeout(LINGER, up).await,
        };
    }
}

async fn pour(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) -> io::Result<()> {
    copy(&mut from, &mut to).await?;
    to.shutdown().await
}
