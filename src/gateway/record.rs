//! What a thread counts and writes down beside its access lines.

use std::net::IpAddr;

use http::StatusCode;

use super::{
    Error, LimitedAction, RequestContext, RequestHandler, RuntimeConfig, WorkerState,
    access_log::AccessLogEntry, error::SYNCHRONIZE_CLOCKS,
};
use crate::{
    auth::SessionError,
    logs::{AuditEvent, AuditKind},
    metrics::ConnectionGuard,
};

impl RequestHandler {
    /// Counts an error, and writes the line about it.
    pub(super) fn record_error(&self, error: &Error, entry: &AccessLogEntry) {
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
            self.record_limit(limit);
        }
        let line = error.line().with("site", entry.site());
        let request_id = entry.request_id().to_str().unwrap_or_default();
        let line = line.with("request_id", request_id).with("client", entry.client().to_string());
        self.gateway.audit.record(line);
    }

    /// Notes that the session somebody brought is none, and counts it.
    pub(super) fn record_session_refusal(&self, why: SessionError, cx: &RequestContext<'_>) {
        let Some(reason) = why.reason() else { return };
        self.gateway.metrics.session("refused", reason);
        let mut line =
            AuditEvent::failed(AuditKind::Refusal, "session refused").with("reason", reason);
        if let SessionError::ClockSkew { seconds } = why {
            line = line
                .with("error", format!("issued {seconds} s in the future of this replica's clock"))
                .with("remedy", SYNCHRONIZE_CLOCKS);
        }
        self.gateway.audit.record(cx.audit_event(line));
    }

    /// Counts a visitor's connection while it lasts.
    pub fn connection(&self) -> ConnectionGuard {
        self.gateway.metrics.connection()
    }

    /// Counts a visitor who met a limit, by its key.
    pub fn record_limit(&self, limit: &'static str) {
        self.gateway.metrics.limit(limit);
    }

    /// Counts a TLS handshake by what came of it and under which version.
    pub fn handshake(&self, result: &'static str, version: &'static str) {
        self.gateway.metrics.handshake(result, version);
    }

    /// Counts what a client does, unless they have done it too often.
    pub(super) fn check_rate_limit(
        &self,
        deed: LimitedAction,
        rules: &RuntimeConfig,
        client: IpAddr,
    ) -> Result<(), Error> {
        self.gateway.throttle.check(deed, client, rules.logins_per_minute)
    }

    /// Counts a refusal, which costs the client an answer that says more. A connection that ends
    /// with it costs them enough, and another proxy that asks about many clients is none itself.
    pub(super) fn count_refusal(&self, state: &WorkerState, error: Error, client: IpAddr) -> Error {
        let ours = matches!(error.status(), StatusCode::BAD_REQUEST | StatusCode::FORBIDDEN);
        if !ours || error.ends_connection() || matches!(error, Error::BehindProxy(_)) {
            return error;
        }
        self.check_rate_limit(LimitedAction::Refusal, &state.rules, client).err().unwrap_or(error)
    }
}
