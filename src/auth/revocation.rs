//! Sessions that were ended before their time. Pure.
//!
//! A session is a signed cookie that nobody can take back, so what is kept is the list of those
//! that no longer count. Every thread looks at the same read-only [`ActiveRevocations`] of it.

use std::{collections::HashMap, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use super::{Session, pending::CLOCK_SKEW};
use crate::clock::Timestamp;

/// Whose sessions end.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RevocationTarget {
    /// One login.
    Session(String),
    /// Everything one person of an account holds.
    Person {
        /// The account.
        appid: String,
        /// The person.
        openid: String,
    },
    /// Everybody of an account.
    Account(String),
    /// Everybody.
    All,
}

/// An order to end sessions.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Revocation {
    /// Whose.
    pub whom: RevocationTarget,
    /// Whoever logged in by then is meant; a login that knew of the order is not.
    pub at: Timestamp,
    /// When every session it could mean would have ended anyway, and the order may be forgotten.
    pub until: Timestamp,
}

impl Revocation {
    /// The end of one login, which knows when it would have ended.
    pub fn of(session: &Session, now: Timestamp) -> Self {
        let until = session.max.plus(CLOCK_SKEW);
        Self { whom: RevocationTarget::Session(session.sid.clone()), at: now, until }
    }

    /// How long the log keeps orders, where sessions last `max` at most.
    pub fn retention(max: Duration) -> Duration {
        max.saturating_add(2 * CLOCK_SKEW)
    }

    /// An order of the operator's, where sessions last `max` at most. No two orders in `view` have
    /// the same moment, so that a session can tell which of them it knew.
    pub fn by_operator(
        whom: RevocationTarget,
        view: &ActiveRevocations,
        now: Timestamp,
        max: Duration,
    ) -> Self {
        let at = match &whom {
            RevocationTarget::Session(_) => now,
            RevocationTarget::Person { .. }
            | RevocationTarget::Account(_)
            | RevocationTarget::All => now.max(view.latest().plus(Duration::from_secs(1))),
        };
        Self { whom, at, until: at.plus(max).plus(CLOCK_SKEW) }
    }
}

/// A cut through time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Cutoff {
    at: Timestamp,
    until: Timestamp,
}

impl Cutoff {
    /// The clock of the replica that wrote the session may be ahead of the one that gave the
    /// order; a session that knew of the order came after it whatever the clocks say.
    fn ends(self, session: &Session) -> bool {
        session.auth_time <= self.at.plus(CLOCK_SKEW) && session.knows < self.at
    }

    fn join(&mut self, other: Self) {
        self.at = self.at.max(other.at);
        self.until = self.until.max(other.until);
    }
}

type Logins = HashMap<Box<str>, Timestamp>;

/// Orders in force. Copying it to add to it is cheap: the bulk is shared.
#[derive(Clone, Debug, Default)]
pub struct ActiveRevocations {
    bulk: Arc<Logins>,
    fresh: Logins,
    people: HashMap<String, HashMap<String, Cutoff>>,
    accounts: HashMap<String, Cutoff>,
    all: Cutoff,
}

/// Logins that are copied with each order; beyond that they join the bulk.
const MERGE_THRESHOLD: usize = 1_024;

impl ActiveRevocations {
    /// Takes an order in. Taking it twice changes nothing.
    pub fn add(&mut self, order: Revocation, now: Timestamp) {
        if order.until <= now {
            return;
        }
        let cut = Cutoff { at: order.at, until: order.until };
        match order.whom {
            RevocationTarget::Session(sid) => {
                self.fresh.insert(sid.into_boxed_str(), order.until);
                if self.fresh.len() >= MERGE_THRESHOLD {
                    self.tidy(now);
                }
            }
            RevocationTarget::Person { appid, openid } => {
                self.people.entry(appid).or_default().entry(openid).or_default().join(cut);
            }
            RevocationTarget::Account(appid) => self.accounts.entry(appid).or_default().join(cut),
            RevocationTarget::All => self.all.join(cut),
        }
    }

    /// Whether a session was ended.
    pub fn ends(&self, session: &Session) -> bool {
        let sid = session.sid.as_str();
        let person = || self.people.get(&session.appid)?.get(&session.identity.openid);
        (!self.fresh.is_empty() && self.fresh.contains_key(sid))
            || (!self.bulk.is_empty() && self.bulk.contains_key(sid))
            || self.all.ends(session)
            || self.accounts.get(&session.appid).is_some_and(|cut| cut.ends(session))
            || (!self.people.is_empty() && person().is_some_and(|cut| cut.ends(session)))
    }

    /// The last order that meant more than one login: what a session that begins now knows.
    pub fn latest(&self) -> Timestamp {
        let people = self.people.values().flat_map(HashMap::values);
        let cuts = people.chain(self.accounts.values()).map(|cut| cut.at);
        cuts.max().unwrap_or_default().max(self.all.at)
    }

    /// Every order that is still in force.
    pub fn orders(&self, now: Timestamp) -> Vec<Revocation> {
        let logins = self.bulk.iter().chain(&self.fresh).map(|(sid, until)| Revocation {
            whom: RevocationTarget::Session(sid.clone().into_string()),
            at: Timestamp::default(),
            until: *until,
        });
        let order = |whom, cut: &Cutoff| Revocation { whom, at: cut.at, until: cut.until };
        let people = self.people.iter().flat_map(|(appid, people)| {
            people.iter().map(move |(openid, cut)| {
                order(
                    RevocationTarget::Person { appid: appid.clone(), openid: openid.clone() },
                    cut,
                )
            })
        });
        let accounts = self.accounts.iter();
        let accounts =
            accounts.map(|(appid, cut)| order(RevocationTarget::Account(appid.clone()), cut));
        let all = [order(RevocationTarget::All, &self.all)];
        let orders = logins.chain(people).chain(accounts).chain(all);
        orders.filter(|order| now < order.until).collect()
    }

    /// Whether `other` holds this order, or a later one for the same.
    pub fn contains(&self, order: &Revocation) -> bool {
        let covers = |cut: Option<&Cutoff>| cut.is_some_and(|cut| order.at <= cut.at);
        match &order.whom {
            RevocationTarget::Session(sid) => {
                self.fresh.contains_key(sid.as_str()) || self.bulk.contains_key(sid.as_str())
            }
            RevocationTarget::Person { appid, openid } => {
                covers(self.people.get(appid).and_then(|people| people.get(openid)))
            }
            RevocationTarget::Account(appid) => covers(self.accounts.get(appid)),
            RevocationTarget::All => covers(Some(&self.all)),
        }
    }

    /// Moves what is fresh to the bulk and forgets what time has ended.
    fn tidy(&mut self, now: Timestamp) {
        let fresh = std::mem::take(&mut self.fresh);
        let bulk = self.bulk.iter().map(|(sid, until)| (sid.clone(), *until));
        self.bulk = Arc::new(bulk.chain(fresh).filter(|(_, until)| now < *until).collect());
        self.accounts.retain(|_, cut| now < cut.until);
        for people in self.people.values_mut() {
            people.retain(|_, cut| now < cut.until);
        }
        self.people.retain(|_, people| !people.is_empty());
    }
}
