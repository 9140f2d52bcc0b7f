//! The audit trail: one line for each login, refusal, logout, revocation, reload
//! and order of a certificate.
//!
//! A line goes to the log, under the target `audit`, and the last few of each kind are kept for
//! the status page. Each kind has a place of its own, so that a flood of refusals does not wash
//! away who reloaded what.

use std::{
    borrow::Cow,
    collections::VecDeque,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use serde::Serialize;

use crate::clock::{self, Timestamp};

/// Lines that are kept of each kind.
const RECENT_PER_KIND: usize = 30;
/// Bytes of a text that are kept; the log has all of it.
const MAX_VALUE_LEN: usize = 400;

/// What a line is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AuditKind {
    /// A login finished, failed or began anew.
    Login,
    /// A request, or the session that came with it, was refused.
    Refusal,
    /// A visitor logged out.
    Logout,
    /// The operator ended sessions.
    Revocation,
    /// The configuration was read again.
    Reload,
    /// A certificate was ordered.
    Certificate,
    /// A request failed, through no fault of the visitor's.
    Failure,
}

impl AuditKind {
    /// All of them, in their order.
    pub const ALL: [Self; 7] = [
        Self::Login,
        Self::Refusal,
        Self::Logout,
        Self::Revocation,
        Self::Reload,
        Self::Certificate,
        Self::Failure,
    ];

    /// The word of the log and the page.
    pub fn word(self) -> &'static str {
        match self {
            Self::Login => "login",
            Self::Refusal => "refusal",
            Self::Logout => "logout",
            Self::Revocation => "revocation",
            Self::Reload => "reload",
            Self::Certificate => "certificate",
            Self::Failure => "failure",
        }
    }

    fn number(self) -> usize {
        Self::ALL.iter().position(|kind| *kind == self).unwrap_or_default()
    }
}

/// One line. What is empty is not said.
#[derive(Clone, Debug, Serialize)]
pub struct AuditEvent {
    at: Timestamp,
    kind: AuditKind,
    what: &'static str,
    good: bool,
    #[serde(skip_serializing_if = "Facts::is_empty")]
    facts: Facts,
}

/// Names and values, in their order.
type Facts = Vec<(&'static str, String)>;

/// How much of an openid the log says. The status page always masks it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OpenidLogging {
    /// All of it.
    #[default]
    Full,
    /// Its ends, which are enough to find a visitor whose openid is known.
    Masked,
}

impl AuditEvent {
    /// Something that went as it should.
    pub fn ok(kind: AuditKind, what: &'static str) -> Self {
        Self { at: clock::system(), kind, what, good: true, facts: Facts::new() }
    }

    /// Something that did not.
    pub fn failed(kind: AuditKind, what: &'static str) -> Self {
        Self { good: false, ..Self::ok(kind, what) }
    }

    /// Adds a fact: one of the names of [`FACTS`].
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        let value = value.into();
        debug_assert!(FACTS.contains(&name), "{name} is not among the facts");
        if !value.is_empty() {
            self.facts.push((name, value));
        }
        self
    }

    fn fact(&self, name: &str) -> Option<&str> {
        self.facts.iter().find(|(it, _)| *it == name).map(|(_, value)| value.as_str())
    }
}

/// What a line can say beside what happened.
pub const FACTS: [&str; 13] = [
    "request_id",
    "client",
    "site",
    "program",
    "appid",
    "openid",
    "session",
    "scope",
    "snapshot",
    "whom",
    "reason",
    "error",
    "remedy",
];

/// The trail.
#[derive(Debug, Default)]
pub struct AuditLog {
    masked: AtomicBool,
    kept: Mutex<[VecDeque<AuditEvent>; AuditKind::ALL.len()]>,
}

impl AuditLog {
    /// How much of an openid the log says from now on.
    pub fn set_openid_logging(&self, openids: OpenidLogging) {
        self.masked.store(openids == OpenidLogging::Masked, Relaxed);
    }

    /// Writes a line, and keeps it.
    pub fn record(&self, event: AuditEvent) {
        let openid = event.fact("openid").map(|openid| {
            let masked = self.masked.load(Relaxed);
            if masked { Cow::Owned(mask(openid)) } else { Cow::Borrowed(openid) }
        });
        write(&event, openid.as_deref());
        let mut line = event;
        for (name, value) in &mut line.facts {
            if *name == "openid" {
                *value = mask(value);
            }
            value.truncate(value.floor_char_boundary(MAX_VALUE_LEN));
        }
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(of_kind) = kept.get_mut(line.kind.number()) else { return };
        if of_kind.len() >= RECENT_PER_KIND {
            of_kind.pop_front();
        }
        of_kind.push_back(line);
    }

    /// The last lines, the youngest first.
    pub fn last(&self) -> Vec<AuditEvent> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let mut lines: Vec<AuditEvent> =
            kept.iter().flat_map(|of_kind| of_kind.iter().rev()).cloned().collect();
        lines.sort_by_key(|line| std::cmp::Reverse(line.at));
        lines
    }
}

/// The macro wants each name in place; a value that is not there is not written.
macro_rules! write_at {
    ($level:expr, $line:expr, $openid:expr) => {
        tracing::event!(
            target: "audit",
            $level,
            event = $line.kind.word(),
            request_id = $line.fact("request_id"),
            client = $line.fact("client"),
            site = $line.fact("site"),
            program = $line.fact("program"),
            appid = $line.fact("appid"),
            openid = $openid,
            session = $line.fact("session"),
            scope = $line.fact("scope"),
            snapshot = $line.fact("snapshot"),
            whom = $line.fact("whom"),
            reason = $line.fact("reason"),
            error = $line.fact("error"),
            remedy = $line.fact("remedy"),
            "{}",
            $line.what
        )
    };
}

fn write(event: &AuditEvent, openid: Option<&str>) {
    match (event.kind, event.good) {
        (AuditKind::Failure, _) | (AuditKind::Reload, false) => {
            write_at!(tracing::Level::ERROR, event, openid);
        }
        (AuditKind::Login | AuditKind::Certificate, false) => {
            write_at!(tracing::Level::WARN, event, openid);
        }
        (_, _) => write_at!(tracing::Level::INFO, event, openid),
    }
}

/// The ends of an openid: enough to recognise one that is known, and not to use one that is not.
pub fn mask(openid: &str) -> String {
    const SHOWN: usize = 4;
    let letters: Vec<char> = openid.chars().collect();
    if letters.len() <= 3 * SHOWN {
        return "…".to_owned();
    }
    let (start, end) = (letters.iter().take(SHOWN), letters.iter().rev().take(SHOWN).rev());
    start.chain(&['…']).chain(end).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serialized::assert_golden;

    #[test]
    fn g4_openids_are_masked_in_what_is_kept() {
        let audit = AuditLog::default();
        let openid = "oABCDEFGHIJKLMNOPQRSTUVWXYZ1";
        audit.record(AuditEvent::ok(AuditKind::Login, "login finished").with("openid", openid));
        let kept = serde_json::to_string(&audit.last()).unwrap();
        assert!(kept.contains("oABC…XYZ1") && !kept.contains(openid), "{kept}");
        for (openid, masked) in [("", "…"), ("oshort", "…"), ("o123456789abc", "o123…9abc")] {
            assert_eq!(mask(openid), masked);
        }
    }

    #[test]
    fn g5_what_is_kept_is_bounded_and_no_kind_displaces_another() {
        let audit = AuditLog::default();
        audit.record(AuditEvent::ok(AuditKind::Reload, "reloaded"));
        for _ in 0..10_000 {
            let long = "é".repeat(1_000);
            audit.record(
                AuditEvent::failed(AuditKind::Refusal, "request refused").with("error", long),
            );
        }
        let last = audit.last();
        assert_eq!(last.len(), RECENT_PER_KIND + 1);
        assert_eq!(last.iter().filter(|line| line.kind == AuditKind::Reload).count(), 1);
        assert!(
            last.iter().flat_map(|line| &line.facts).all(|(_, value)| value.len() <= MAX_VALUE_LEN)
        );
    }

    /// What a collector of JSON lines and the status page get of each kind.
    #[test]
    fn serialized_lines() {
        #[derive(Clone, Default)]
        struct Lines(std::sync::Arc<Mutex<Vec<u8>>>);

        impl std::io::Write for Lines {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                self.0.lock().unwrap().extend_from_slice(bytes);
                Ok(bytes.len())
            }

            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }

        let (audit, lines) = (AuditLog::default(), Lines::default());
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt().json().flatten_event(true).without_time();
        let subscriber = subscriber.with_writer(move || writer.clone()).finish();
        tracing::subscriber::with_default(subscriber, || {
            for kind in AuditKind::ALL {
                for line in [AuditEvent::ok(kind, "what"), AuditEvent::failed(kind, "what")] {
                    audit.record(AuditEvent { at: Timestamp(7), ..line });
                }
            }
            let full = FACTS.iter().fold(
                AuditEvent { at: Timestamp(8), ..AuditEvent::ok(AuditKind::Login, "what") },
                |line, name| line.with(name, format!("the {name}")),
            );
            audit.record(full);
        });
        let kept = audit.last();
        let kept = kept.iter().map(|line| serde_json::to_string(line).unwrap());
        let mut all: Vec<String> = kept.map(|line| format!("page {line}")).collect();
        let logged = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        all.extend(logged.lines().map(|line| format!("log  {line}")));
        assert_golden("audit.txt", &all);
    }
}
