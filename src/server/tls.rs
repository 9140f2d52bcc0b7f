//! Certificates.
use std::{net::SocketAddr, path::PathBuf};
/// Encrypted listeners and their certificates.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where to listen.
    pub listen: Vec<SocketAddr>,
    /// Chosen by the name the client asks for; the first for all others.
    pub certificates: Vec<Files>,
}
/// Where a certificate and its key are kept.
#[derive(Clone, Debug)]
pub struct Files {
    /// The chain, leaf first, in PEM.
    pub cert: PathBuf,
    /// The key, in PEM.
    pub key: PathBuf,
}
