//! The servers behind a site. Pure.

use std::{net::SocketAddr, time::Duration};

use super::address;
use crate::{config::reader::Table, site::Upstreams};

/// Reads `upstream` and the patience with it.
pub fn upstreams(site: &Table<'_>, listeners: &[SocketAddr]) -> Option<Upstreams> {
    const MILLISECOND: Duration = Duration::from_millis(1);
    const SECOND: Duration = Duration::from_secs(1);
    let connect_timeout = site.duration("connect_timeout", 3 * SECOND, MILLISECOND..=60 * SECOND);
    let response_timeout =
        site.duration("response_timeout", 60 * SECOND, MILLISECOND..=86_400 * SECOND);
    if site.value("upstream").is_none() || site.empty_array("upstream").is_some() {
        site.missing("upstream");
        return None;
    }
    let mut endpoints = Vec::new();
    for word in site.words("upstream")? {
        let Some(endpoint) = address::endpoint(site, &word) else { continue };
        address::not_ourselves(site, &word, &endpoint, listeners);
        endpoints.push(endpoint);
    }
    Some(Upstreams { endpoints, connect_timeout, response_timeout })
}
