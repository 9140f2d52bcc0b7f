//! The other listener: health for machines. Never on the public one.
use std::net::SocketAddr;
/// Where it listens.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// An address that visitors cannot reach.
    pub listen: SocketAddr,
}
