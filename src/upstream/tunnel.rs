//! WebSocket: after 101 the gateway is only a pipe.

use std::{future::Future, io, time::Duration};

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, copy, split},
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// How long the one end may still speak when the other has said its last.
const LINGER: Duration = Duration::from_secs(5);

/// The pipes of one thread. A connection that has become one is no longer HTTP, so the drain has
/// to know of it by other means.
#[derive(Clone)]
pub struct Tunnels {
    open: TaskTracker,
    close: CancellationToken,
}

impl Tunnels {
    /// Pipes counted by `open`, that end when `close` says so.
    pub fn new(open: TaskTracker, close: CancellationToken) -> Self {
        Self { open, close }
    }

    /// Joins the two ends once both have switched. They part, at the latest, when `end` completes.
    pub fn join(&self, visitor: OnUpgrade, site: OnUpgrade, end: impl Future + 'static) {
        let close = self.close.clone();
        self.open.spawn_local(async move {
            let (Ok(visitor), Ok(site)) = (visitor.await, site.await) else { return };
            tokio::select! {
                () = pipe(TokioIo::new(visitor), TokioIo::new(site)) => (),
                () = close.cancelled() => (),
                _ = end => (),
            }
        });
    }
}

/// Copies both ways until both have ended. Not `copy_bidirectional`: a site that does not notice
/// that its visitor has left would keep the tunnel for ever.
async fn pipe(visitor: impl AsyncRead + AsyncWrite, site: impl AsyncRead + AsyncWrite) {
    let ((from_visitor, to_visitor), (from_site, to_site)) = (split(visitor), split(site));
    let (up, down) = (pour(from_visitor, to_site), pour(from_site, to_visitor));
    tokio::pin!(up, down);
    let _ = tokio::select! {
        _ = &mut up => timeout(LINGER, down).await,
        _ = &mut down => timeout(LINGER, up).await,
    };
}

async fn pour(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) -> io::Result<()> {
    copy(&mut from, &mut to).await?;
    to.shutdown().await
}
