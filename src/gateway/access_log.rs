//! One line for every request, whatever became of it.

use std::sync::Arc;

use http::{HeaderValue, Method, Request, StatusCode, Uri};
use tokio::time::Instant;

use super::Peer;
use crate::{site::Site, wire::forwarded::REQUEST_ID};

/// A line being written: opened when a request arrives, closed when its answer begins.
pub struct Entry {
    id: HeaderValue,
    method: Method,
    uri: Uri,
    peer: HeaderValue,
    site: Option<Arc<Site>>,
    since: Instant,
}

impl Entry {
    /// Notes what was asked. A proxy of ours may have given the request an id already.
    pub fn open<B>(request: &Request<B>, peer: &Peer, trusted: bool) -> Self {
        let given = request.headers().get(REQUEST_ID).filter(|_| trusted);
        let usable =
            |id: &&HeaderValue| id.len() <= 128 && id.as_bytes().iter().all(u8::is_ascii_graphic);
        Self {
            id: given.filter(usable).cloned().unwrap_or_else(fresh_id),
            method: request.method().clone(),
            uri: request.uri().clone(),
            peer: peer.text.clone(),
            site: None,
            since: Instant::now(),
        }
    }

    /// What this request is called in every log it passes.
    pub fn request_id(&self) -> &HeaderValue {
        &self.id
    }

    /// Notes which site it is for.
    pub fn landed(&mut self, site: Arc<Site>) {
        self.site = Some(site);
    }

    /// Writes the line. The query may hold a code, so it is left out.
    pub fn close(self, status: StatusCode) {
        tracing::info!(
            target: "access",
            request_id = self.id.to_str().unwrap_or_default(),
            peer = self.peer.to_str().unwrap_or_default(),
            site = self.site.as_ref().map_or("-", |site| site.name.as_str()),
            method = self.method.as_str(),
            path = self.uri.path(),
            status = status.as_u16(),
            seconds = self.since.elapsed().as_secs_f64(),
            "request",
        );
    }
}

/// 128 random bits in hexadecimal, the form of a W3C trace id.
fn fresh_id() -> HeaderValue {
    let id = format!("{:032x}", rand::random::<u128>());
    HeaderValue::try_from(id).unwrap_or(HeaderValue::from_static("-"))
}
