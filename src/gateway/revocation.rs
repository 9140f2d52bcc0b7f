//! The operator ends sessions, and asks how well we know who did so elsewhere.

use std::time::Duration;

use serde::Serialize;

use super::{Gateway, RequestHandler};
use crate::{
    auth::{
        InvalidRevocationRequest, Revocation, RevocationRequest, RevocationTarget, SessionLogId,
    },
    logs::{AuditEvent, AuditKind},
    site::Site,
    store::StoreUnavailable,
};

/// What became of an operator's wish.
#[derive(Clone, Debug, Serialize)]
pub struct RevocationResult {
    /// The order.
    #[serde(flatten)]
    pub order: Revocation,
    /// Whether every replica gets it now; if not, as soon as the store is back.
    pub handed_over: bool,
    /// Why it was not, and what to do about that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// How well we know which sessions were ended elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevocationStatus {
    /// How long ago we last knew everything; nothing when we never did.
    pub age: Option<Duration>,
    /// Whether that is good enough for one of the sites at least.
    pub serves: bool,
    /// Whether there may be other replicas at all.
    pub shared: bool,
    /// The number of revocations that wait to be stored.
    pub waiting: usize,
    /// What is the matter with the store, while something is.
    pub failure: Option<StoreUnavailable>,
}

impl Gateway {
    /// Ends sessions on every replica, here before this returns.
    pub async fn revoke(
        &self,
        wanted: &RevocationRequest,
    ) -> Result<RevocationResult, InvalidRevocationRequest> {
        let rules = self.rules.load_full();
        let accounts = rules.sites.all().iter().flat_map(|site| site.accounts());
        let whom = wanted.target(accounts.map(|account| &**account))?;
        let order = self.revocations.create_revocation(whom, rules.session.max);
        let given = self.revocations.publish(order.clone()).await;
        if let Err(error) = &given {
            let remedy = error.cause.remedy();
            tracing::warn!(%error, remedy, "revocation not stored yet: store unavailable");
        }
        let line = AuditEvent::ok(AuditKind::Revocation, "sessions ended by the operator");
        self.audit.record(match &order.whom {
            RevocationTarget::Session(sid) => {
                line.with("session", SessionLogId::of(sid).to_string())
            }
            RevocationTarget::Person { appid, openid } => {
                line.with("appid", appid.as_str()).with("openid", openid.as_str())
            }
            RevocationTarget::Account(appid) => {
                line.with("whom", "everybody of the account").with("appid", appid.as_str())
            }
            RevocationTarget::All => line.with("whom", "everybody"),
        });
        let handed_over = given.is_ok();
        let reason = given.err().map(|error| format!("{error}; {}", error.cause.remedy()));
        Ok(RevocationResult { order, handed_over, reason })
    }

    /// How well we know which sessions were ended elsewhere.
    pub fn status(&self) -> RevocationStatus {
        let rules = self.rules.load();
        let mut sites = rules.sites.all().iter();
        let age = self.revocations.time_since_sync();
        let serves = age.is_some() && sites.any(|site| !self.revocations.is_stale(site.revocation));
        RevocationStatus {
            age,
            serves,
            shared: self.revocations.is_shared(),
            waiting: self.revocations.waiting(),
            failure: self.revocations.failure(),
        }
    }
}

impl RequestHandler {
    /// Whether a site would rather serve nobody than go on without news of ended sessions.
    pub(super) fn revocation_unknown(&self, site: &Site) -> bool {
        self.gateway.revocations.is_stale(site.revocation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;

    #[test]
    fn serialized_result() {
        let (at, until) = (Timestamp(1), Timestamp(2));
        let order = Revocation { whom: RevocationTarget::Account("wx1".to_owned()), at, until };
        let done = RevocationResult { order, handed_over: true, reason: None };
        let waits =
            RevocationResult { handed_over: false, reason: Some("why".to_owned()), ..done.clone() };
        for (result, rest) in
            [(done, r#""handed_over":true"#), (waits, r#""handed_over":false,"reason":"why""#)]
        {
            let recorded = format!(r#"{{"whom":{{"account":"wx1"}},"at":1,"until":2,{rest}}}"#);
            assert_eq!(serde_json::to_string(&result).unwrap(), recorded);
        }
    }
}
