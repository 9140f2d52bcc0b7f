//! What a thread counts and writes down beside its access lines.

use std::net::IpAddr;

use http::StatusCode;

use super::{Arrival, Deed, Desk, Error, Rules, Worker, access_log::Entry};
use crate::{
    logs::{Kind, Line},
    metrics::Connected,
};

impl Worker {
    /// Counts an error, and writes the line about it.
    pub(super) fn note(&self, error: &Error, entry: &Entry) {
        let metrics = &self.gateway.metrics;
        if let Some(reason) = error.failed_login() {
            metrics.login("failed", reason);
        }
        if let Error::Upstream(cause) = error
            && let Some(reason) = cause.reason()
        {
            metrics.upstream_error(entry.site(), reason);
        }
        if let Some(limit) = error.limit() {
            self.met(limit);
        }
        let line = error.line().with("site", entry.site());
        let request_id = entry.request_id().to_str().unwrap_or_default();
        let line = line.with("request_id", request_id).with("client", entry.client().to_string());
        self.gateway.audit.note(line);
    }

    /// Notes that the session somebody brought is none, and counts it.
    pub(super) fn refused(&self, reason: &'static str, arrival: &Arrival<'_>) {
        self.gateway.metrics.session("refused", reason);
        let line = Line::bad(Kind::Refusal, "session refused").with("reason", reason);
        self.gateway.audit.note(arrival.tell(line));
    }

    /// Counts a visitor's connection while it lasts.
    pub fn connection(&self) -> Connected {
        self.gateway.metrics.connection()
    }

    /// Counts a visitor who met a limit, by its key.
    pub fn met(&self, limit: &'static str) {
        self.gateway.metrics.limit(limit);
    }

    /// Counts a TLS handshake by what came of it and under which version.
    pub fn handshake(&self, result: &'static str, version: &'static str) {
        self.gateway.metrics.handshake(result, version);
    }

    /// Counts what a client does, unless they have done it too often.
    pub(super) fn count(&self, deed: Deed, rules: &Rules, client: IpAddr) -> Result<(), Error> {
        self.gateway.throttle.count(deed, client, rules.logins_per_minute)
    }

    /// Counts a refusal, which costs the client an answer that says more. A connection that ends
    /// with it costs them enough, and another proxy that asks about many clients is none itself.
    pub(super) fn held_back(&self, desk: &Desk, error: Error, client: IpAddr) -> Error {
        let ours = matches!(error.status(), StatusCode::BAD_REQUEST | StatusCode::FORBIDDEN);
        if !ours || error.ends_connection() || matches!(error, Error::BehindProxy(_)) {
            return error;
        }
        self.count(Deed::Refusal, &desk.rules, client).err().unwrap_or(error)
    }
}
