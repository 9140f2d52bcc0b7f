//! WebSocket: after 101 the gateway is only a pipe.

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

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

    /// Joins the two ends once both have switched, and keeps `place` until they part.
    pub fn join(&self, visitor: OnUpgrade, site: OnUpgrade, place: impl Sized + 'static) {
        let close = self.close.clone();
        self.open.spawn_local(async move {
            let _place = place;
            let (Ok(visitor), Ok(site)) = (visitor.await, site.await) else { return };
            let (mut visitor, mut site) = (TokioIo::new(visitor), TokioIo::new(site));
            tokio::select! {
                _ = tokio::io::copy_bidirectional(&mut visitor, &mut site) => (),
                () = close.cancelled() => (),
            }
        });
    }
}
