//! The other end of a connection.

use std::net::IpAddr;

use http::HeaderValue;
use tokio::sync::OwnedSemaphorePermit;

use super::crowd::ConnectionPermit;
use crate::http1::InterimResponses;

/// Whoever connected to us: a visitor, or a proxy in front of us.
#[derive(Debug)]
pub struct Peer {
    /// Its address.
    pub ip: IpAddr,
    /// Whether the connection is encrypted.
    pub encrypted: bool,
    /// The address as a header, written once per connection.
    pub text: HeaderValue,
    /// What a site has said to it before its answer, over HTTP/1.1.
    pub interim: InterimResponses,
    /// One of the connections we can hold. A tunnel keeps it when HTTP has ended.
    pub permit: OwnedSemaphorePermit,
    /// One of those its own network can hold, where these are counted.
    pub client_permit: Option<ConnectionPermit>,
}

impl Peer {
    /// The peer at this address.
    pub fn new(ip: IpAddr, encrypted: bool, permit: OwnedSemaphorePermit) -> Self {
        Self {
            ip,
            encrypted,
            text: text(ip),
            interim: InterimResponses::default(),
            permit,
            client_permit: None,
        }
    }
}

/// An address as a header.
pub fn text(ip: IpAddr) -> HeaderValue {
    HeaderValue::try_from(ip.to_string()).unwrap_or(HeaderValue::from_static("unknown"))
}
