//! What is to go wrong, where, and how often. Pure.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The calls that can go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ApiEndpoint {
    Authorize,
    AccessToken,
    RefreshToken,
    Userinfo,
    Auth,
    StableToken,
    Token,
    Getticket,
}

/// The ways of going wrong that need no number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultKind {
    /// No answer, ever.
    Hang,
    /// An answer that is no JSON.
    Garbage,
    /// The code stands for a virtual account, as on a snapshot page.
    Snapshot,
    /// The visitor refuses and comes back with the state alone.
    Decline,
    /// Somebody without cookies visits the same callback, too.
    DuplicateCallback,
    /// The browser visits the callback twice, with two codes.
    TwoCodes,
}

impl FaultKind {
    /// Whether it changes what the visitor brings home, rather than how an answer travels.
    fn is_outcome(self) -> bool {
        match self {
            Self::Hang | Self::Garbage => false,
            Self::Snapshot | Self::Decline | Self::DuplicateCallback | Self::TwoCodes => true,
        }
    }
}

const ELSEWHERE: &str = "snapshot is for authorize and access_token; decline, duplicate_callback and two_codes for authorize";

/// One order to go wrong, as `POST /_emulator/faults` takes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    pub at: ApiEndpoint,
    /// How often; absent: until cleared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub times: Option<u32>,
    /// Of a hundred calls, how many; absent: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percent: Option<u8>,
    /// Hundredths saved up towards the next time.
    #[serde(skip)]
    saved: u8,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errcode: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http_status: Option<u16>,
    /// All other fields: an unknown name is an error, since no twist is called that.
    #[serde(flatten)]
    twists: BTreeMap<FaultKind, bool>,
}

impl Fault {
    /// Whether it does this.
    pub fn has(&self, twist: FaultKind) -> bool {
        self.twists.get(&twist).copied().unwrap_or(false)
    }

    /// Whether it is its turn, of so many in a hundred: evenly, not by chance, so that a rehearsal
    /// can be repeated.
    fn is_due(&self) -> bool {
        self.saved.saturating_add(self.percent.unwrap_or(100)) >= 100
    }

    fn save(&mut self) {
        let saved = self.saved.saturating_add(self.percent.unwrap_or(100));
        self.saved = saved.checked_sub(100).unwrap_or(saved);
    }

    fn is_outcome(&self) -> bool {
        self.twists.iter().any(|(twist, is_on)| *is_on && twist.is_outcome())
    }

    fn is_brought_home(&self, at: ApiEndpoint) -> bool {
        self.at == at && self.is_outcome() && !self.has(FaultKind::Decline)
    }

    fn complaint(&self) -> Option<&'static str> {
        let is_plain =
            self.errcode.is_none() && self.delay_ms.is_none() && self.http_status.is_none();
        if is_plain && !self.twists.values().any(|is_on| *is_on) {
            return Some(
                "nothing goes wrong: add errcode, delay_ms, http_status, hang, garbage or another fault",
            );
        }
        if self.http_status.is_some_and(|status| !(200..=599).contains(&status)) {
            return Some("http_status lies between 200 and 599");
        }
        if self.times == Some(0) {
            return Some("times is at least 1");
        }
        if self.percent.is_some_and(|percent| !(1..=100).contains(&percent)) {
            return Some("percent lies between 1 and 100");
        }
        let snapshot_only = self
            .twists
            .iter()
            .all(|(twist, is_on)| !is_on || !twist.is_outcome() || *twist == FaultKind::Snapshot);
        let is_possible = match self.at {
            ApiEndpoint::Authorize => true,
            ApiEndpoint::AccessToken => snapshot_only,
            ApiEndpoint::RefreshToken
            | ApiEndpoint::Userinfo
            | ApiEndpoint::Auth
            | ApiEndpoint::StableToken
            | ApiEndpoint::Token
            | ApiEndpoint::Getticket => !self.is_outcome(),
        };
        (!is_possible).then_some(ELSEWHERE)
    }
}

/// `{"at":"access_token","errcode":40163}`: as it was ordered.
impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&serde_json::to_string(self).unwrap_or_default())
    }
}

/// The orders in force.
#[derive(Debug, Default)]
pub struct Faults(Vec<Fault>);

impl Faults {
    /// Adds one order, or a list of them. The answer to a bad one says why.
    pub fn add(&mut self, json: &[u8]) -> Result<(), String> {
        let value: Value = serde_json::from_slice(json).map_err(|error| error.to_string())?;
        let list = if let Value::Array(list) = value { list } else { vec![value] };
        let faults = list.into_iter().map(serde_json::from_value::<Fault>);
        let faults = faults.collect::<Result<Vec<_>, _>>().map_err(|error| error.to_string())?;
        if let Some(complaint) = faults.iter().find_map(Fault::complaint) {
            return Err(complaint.to_owned());
        }
        self.0.extend(faults);
        Ok(())
    }

    /// Forgets all of them.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// In force now, oldest first.
    pub fn list(&self) -> &[Fault] {
        &self.0
    }

    /// The next order about how an answer travels from `at`.
    pub fn take(&mut self, at: ApiEndpoint) -> Option<Fault> {
        self.take_where(|fault| fault.at == at && !fault.is_outcome())
    }

    /// The next order about what a visitor who agrees brings home from `at`.
    pub fn take_outcome(&mut self, at: ApiEndpoint) -> Option<Fault> {
        self.take_where(|fault| fault.is_brought_home(at))
    }

    /// Whether the next visitor who agrees at `at` meets this.
    pub fn has_pending(&self, at: ApiEndpoint, twist: FaultKind) -> bool {
        let mut due = self.0.iter().filter(|fault| fault.is_brought_home(at) && fault.is_due());
        due.next().is_some_and(|fault| fault.has(twist))
    }

    /// The next order that does this one thing at `at`.
    pub fn take_twist(&mut self, at: ApiEndpoint, twist: FaultKind) -> Option<Fault> {
        self.take_where(|fault| fault.at == at && fault.has(twist))
    }

    fn take_where(&mut self, fits: impl Fn(&Fault) -> bool) -> Option<Fault> {
        let mut due = None;
        for (place, fault) in self.0.iter_mut().enumerate().filter(|(_, fault)| fits(fault)) {
            let is_due = fault.is_due();
            fault.save();
            if is_due {
                due = Some(place);
                break;
            }
        }
        let place = due?;
        let fault = self.0.get_mut(place)?;
        let taken = fault.clone();
        if let Some(times) = &mut fault.times {
            *times = times.saturating_sub(1);
            if *times == 0 {
                self.0.remove(place);
            }
        }
        Some(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders() {
        let rows = [
            (r#"{"at":"access_token","errcode":40163,"times":1}"#, ""),
            (r#"{"at":"userinfo","delay_ms":10,"http_status":502,"garbage":true}"#, ""),
            (r#"[{"at":"authorize","two_codes":true},{"at":"auth","hang":true}]"#, ""),
            (r#"{"at":"access_token","snapshot":true}"#, ""),
            (r#"{"at":"userinfo","snapshot":true}"#, "snapshot is for authorize"),
            (r#"{"at":"access_token","decline":true}"#, "for authorize"),
            (r#"{"at":"access_token"}"#, "nothing goes wrong"),
            (r#"{"at":"access_token","hang":false}"#, "nothing goes wrong"),
            (r#"{"at":"access_token","http_status":99}"#, "between"),
            (r#"{"at":"access_token","hang":true,"times":0}"#, "at least 1"),
            (r#"{"at":"access_token","hang":true,"percent":5}"#, ""),
            (r#"{"at":"access_token","hang":true,"percent":0}"#, "between 1 and 100"),
            (r#"{"at":"access_token","errcod":1}"#, "errcod"),
            (r#"{"at":"nowhere","hang":true}"#, "nowhere"),
            ("", "EOF"),
            ("7", "invalid type"),
        ];
        for (json, expected) in rows {
            match Faults::default().add(json.as_bytes()) {
                Ok(()) => assert_eq!(expected, "", "{json}"),
                Err(why) => {
                    assert!(!expected.is_empty() && why.contains(expected), "{json}: {why}");
                }
            }
        }
    }

    #[test]
    fn some_of_a_hundred() {
        let mut faults = Faults::default();
        faults.add(br#"[{"at":"auth","errcode":1,"percent":5},{"at":"auth","errcode":2,"percent":30}]"#).unwrap();
        let taken: Vec<_> = (0..200)
            .filter_map(|_| faults.take(ApiEndpoint::Auth).and_then(|fault| fault.errcode))
            .collect();
        let count = |code| taken.iter().filter(|taken| **taken == code).count();
        assert_eq!(
            (count(1), count(2)),
            (10, 57),
            "the second is asked where the first is not due"
        );
    }

    #[test]
    fn they_wear_off() {
        let mut faults = Faults::default();
        faults
            .add(br#"[{"at":"userinfo","errcode":1,"times":2},{"at":"userinfo","errcode":2}]"#)
            .unwrap();
        faults.add(br#"{"at":"authorize","decline":true,"times":1}"#).unwrap();
        faults.add(br#"{"at":"authorize","snapshot":true,"times":2}"#).unwrap();
        let taken: Vec<_> = (0..4)
            .map(|_| faults.take(ApiEndpoint::Userinfo).and_then(|fault| fault.errcode))
            .collect();
        assert_eq!(taken, [Some(1), Some(1), Some(2), Some(2)]);
        assert_eq!(faults.take(ApiEndpoint::Authorize), None);
        assert_eq!(faults.take_twist(ApiEndpoint::Authorize, FaultKind::TwoCodes), None);
        let decline = faults.take_twist(ApiEndpoint::Authorize, FaultKind::Decline).unwrap();
        assert_eq!(decline.to_string(), r#"{"at":"authorize","times":1,"decline":true}"#);
        assert_eq!(faults.take_twist(ApiEndpoint::Authorize, FaultKind::Decline), None);
        let left: Vec<_> =
            (0..3).map(|_| faults.take_outcome(ApiEndpoint::Authorize).is_some()).collect();
        assert_eq!(left, [true, true, false]);
        faults.clear();
        assert!(faults.list().is_empty());
    }

    #[test]
    fn serialized_orders() {
        let mut faults = Faults::default();
        let full = r#"{"at":"authorize","times":2,"percent":50,"errcode":40029,"delay_ms":10,"http_status":502,"hang":true,"garbage":true,"snapshot":true,"decline":true,"duplicate_callback":true,"two_codes":true}"#;
        faults.add(full.as_bytes()).unwrap();
        assert_eq!(faults.list()[0].to_string(), full);
        for at in [
            "authorize",
            "access_token",
            "refresh_token",
            "userinfo",
            "auth",
            "stable_token",
            "token",
            "getticket",
        ] {
            let order = format!(r#"{{"at":"{at}","hang":true}}"#);
            faults.add(order.as_bytes()).unwrap();
            assert_eq!(faults.list().last().unwrap().to_string(), order);
        }
    }
}
