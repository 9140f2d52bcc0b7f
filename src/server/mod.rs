//! Sockets in.
use std::{net::SocketAddr, path::PathBuf, time::Duration};
/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// An address and port; port 0 takes a free one.
    Tcp(SocketAddr),
    /// `unix:/path`
    Unix(PathBuf),
}
/// Where and how to listen.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where to listen without TLS. Sockets handed over by systemd come instead of these.
    pub listen: Vec<Listen>,
    /// How many threads serve; zero is one per core.
    pub workers: usize,
    /// Encrypted listeners.
    pub tls: Option<tls::Settings>,
    /// What a client may take of us.
    pub limits: Limits,
    /// How long requests may take to finish once we are asked to stop.
    pub drain: Duration,
}
/// What a client may take of us.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of a request head.
    pub header_bytes: u32,
    /// Headers of a request.
    pub header_count: usize,
    /// How long the TLS handshake and the first request head may take.
    pub header_time: Duration,
    /// How long a connection may stay open without a request.
    pub idle_time: Duration,
    /// Connections held at once.
    pub connections: usize,
}
pub mod tls;
