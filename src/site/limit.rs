//! How much of its servers a site may take at once.

use std::time::Duration;

/// What the whole process may have under way at each server of a site, and who waits for more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UpstreamLimit {
    /// Requests and tunnels at each server.
    pub connections: u32,
    /// Requests that may wait for a server with room.
    pub queue: u32,
    /// How long each of them may.
    pub queue_time: Duration,
}
