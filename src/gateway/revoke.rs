//! The operator ends sessions, and asks how well we know who did so elsewhere.

use std::time::Duration;

use serde::Serialize;

use super::{Gateway, Worker};
use crate::{
    auth::{Revocation, Tag, Unclear, Wanted, Whom},
    logs::{Kind, Line},
    site::Site,
};

/// What became of an operator's wish.
#[derive(Clone, Debug, Serialize)]
pub struct Given {
    /// The order.
    #[serde(flatten)]
    pub order: Revocation,
    /// Whether every replica gets it now; if not, as soon as the store is back.
    pub handed_over: bool,
}

/// How well we know which sessions were ended elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// How long ago we last knew everything; nothing when we never did.
    pub age: Option<Duration>,
    /// Whether that is good enough for one of the sites at least.
    pub serves: bool,
    /// Whether there may be other replicas at all.
    pub shared: bool,
}

impl Gateway {
    /// Ends sessions on every replica, here before this returns.
    pub async fn revoke(&self, wanted: &Wanted) -> Result<Given, Unclear> {
        let rules = self.rules.load_full();
        let accounts = rules.sites.all().iter().flat_map(|site| site.accounts());
        let whom = wanted.whom(accounts.map(|account| &**account))?;
        let order = self.feed.order(whom, rules.session.max);
        let given = self.feed.give(order.clone()).await;
        if let Err(error) = &given {
            tracing::warn!(%error, "the other replicas hear of a revocation later");
        }
        let line = Line::good(Kind::Revocation, "sessions ended by the operator");
        self.audit.note(match &order.whom {
            Whom::Session(sid) => line.with("session", Tag::of(sid).to_string()),
            Whom::Person { appid, openid } => {
                line.with("appid", appid.as_str()).with("openid", openid.as_str())
            }
            Whom::Account(appid) => {
                line.with("whom", "everybody of the account").with("appid", appid.as_str())
            }
            Whom::All => line.with("whom", "everybody"),
        });
        Ok(Given { order, handed_over: given.is_ok() })
    }

    /// How well we know which sessions were ended elsewhere.
    pub fn standing(&self) -> Standing {
        let rules = self.rules.load();
        let mut sites = rules.sites.all().iter();
        let age = self.feed.age();
        let serves = age.is_some() && sites.any(|site| !self.feed.is_unsure(site.revocation));
        Standing { age, serves, shared: self.feed.is_shared() }
    }
}

impl Worker {
    /// Whether a site would rather serve nobody than go on without news of ended sessions.
    pub(super) fn unsure(&self, site: &Site) -> bool {
        self.gateway.feed.is_unsure(site.revocation)
    }
}
