//! `[session]`. Pure.

use std::time::Duration;

use super::secret::{ResolvedSecret, secret};
use crate::{
    auth::{KeySettings, Settings, pending::CLOCK_SKEW},
    config::{
        diagnostic::Diagnostic,
        reader::{StrValue, TableReader},
        schema, values,
    },
};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_hours(1);
const DAY: Duration = Duration::from_hours(24);

const MIB: u64 = 1 << 20;

/// Bytes of a key: as many as the hash it feeds.
const KEY_BYTES: usize = 32;

/// Reads `[session]`.
pub fn settings(table: &TableReader<'_>) -> Option<Settings> {
    let cookie = cookie(table);
    // Browsers keep no cookie for longer than 400 days.
    let max = table.duration("max", 7 * DAY, SECOND..=400 * DAY);
    let idle = table.duration("idle", (12 * HOUR).min(max), SECOND..=400 * DAY);
    if idle > max
        && let Some(at) = table.place("idle").or_else(|| table.place("max"))
    {
        let message = format!("`idle` is longer than `max`, which is {}", values::long(max));
        let help = "a session unused for `idle` ends, and after `max` it ends anyway";
        table.context.error(at, message, help);
    }
    let verified_cache = table.size("verified_cache", 64 * MIB, 0..=MIB * MIB);
    Some(Settings { cookie, idle, max, keys: keys(table)?, verified_cache })
}

/// Warns of sessions that one replica's clock would end before another's has begun them.
pub fn among_replicas(table: &TableReader<'_>, idle: Duration) {
    if idle < 2 * CLOCK_SKEW
        && let Some(at) = table.place("idle").or_else(|| table.place("max"))
    {
        let message = "sessions end sooner than the clocks of replicas may differ";
        table.context.warn(at, message, "make it two minutes or more");
    }
}

fn cookie(table: &TableReader<'_>) -> String {
    let default = || "wxgate".to_owned();
    let Some(word) = table.word("cookie") else { return default() };
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if word.text.is_empty() || word.text.len() > 64 || !word.text.bytes().all(token) {
        let message = format!("\"{}\" cannot be the name of a cookie", word.text);
        table.context.error(word.at, message, "use letters, digits, `-` and `_`, at most 64");
        return default();
    }
    let lower = word.text.to_ascii_lowercase();
    if lower.starts_with("__host-") || lower.starts_with("__secure-") {
        let help = "leave the prefix out: on https sites the cookie is sent as `__Host-NAME`";
        table.context.error(word.at, "the prefix of the cookie is ours to add", help);
    }
    word.text.to_owned()
}

fn keys(table: &TableReader<'_>) -> Option<Vec<KeySettings>> {
    let tables = table.tables("keys", &schema::KEY);
    if table.value("keys").is_none() || table.empty_array("keys").is_some() {
        let at = table.place("keys").or_else(|| table.at.clone());
        let message = "`keys` is missing in [session]: sessions cannot be signed";
        table.context.error(at, message, "run `wxgate keygen` and paste what it prints");
        return None;
    }
    let mut seen: Vec<(StrValue<'_>, Option<ResolvedSecret>)> = Vec::new();
    for key in &tables {
        let id = key.required("id");
        let found = secret(key, "secret");
        let Some(id) = id else { continue };
        check_id(key, &id, &seen);
        if let Some(found) = &found {
            check_secret(key, &id, found, &seen);
        }
        seen.push((id, found));
    }
    let settings = |(id, found): (StrValue<'_>, Option<ResolvedSecret>)| {
        Some(KeySettings { id: id.text.to_owned(), secret: found?.secret })
    };
    seen.into_iter().map(settings).collect()
}

fn check_id(
    key: &TableReader<'_>,
    id: &StrValue<'_>,
    seen: &[(StrValue<'_>, Option<ResolvedSecret>)],
) {
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    if !(1..=32).contains(&id.text.len()) || !id.text.bytes().all(good) {
        let message = format!("\"{}\" cannot be the id of a key", id.text);
        let help = "use 1 to 32 letters, digits, `.`, `_` and `-`; the month it was made, \
                    \"2026-11\", is a good one";
        key.context.error(id.at.clone(), message, help);
    }
    if let Some((first, _)) = seen.iter().find(|(first, _)| first.text == id.text) {
        let complaint =
            Diagnostic::error(id.at.clone(), format!("two keys are called {}", id.text))
                .help("give each key an id of its own: a session names the key that signed it")
                .related(first.at.clone(), "the first");
        key.context.report(complaint);
    }
}

fn check_secret(
    key: &TableReader<'_>,
    id: &StrValue<'_>,
    found: &ResolvedSecret,
    seen: &[(StrValue<'_>, Option<ResolvedSecret>)],
) {
    let length = found.secret.expose().len();
    if length < KEY_BYTES {
        let message = format!(
            "the key {} has {length} {}; it must have at least {KEY_BYTES}",
            id.text,
            if length == 1 { "byte" } else { "bytes" }
        );
        key.context.error(found.at.clone(), message, "run `wxgate keygen` for a good one");
    }
    let same = |(_, other): &&(StrValue<'_>, Option<ResolvedSecret>)| {
        other.as_ref().is_some_and(|other| other.secret == found.secret)
    };
    if let Some((first, _)) = seen.iter().find(same) {
        let message = format!("the keys {} and {} have the same secret", first.text, id.text);
        let help = "a new key needs a new secret: run `wxgate keygen`";
        key.context.warn(found.at.clone(), message, help);
    }
}
