//! `wxgate keygen`: a fresh session key, ready to paste.

use std::time::{Duration, UNIX_EPOCH};

use zeroize::Zeroizing;

use crate::clock::Timestamp;

/// The variable that `config.toml` reads the key from.
const VARIABLE: &str = "WXGATE_SESSION_KEY";

/// Makes a key and says what to do with it; false when the system has no random numbers.
///
/// For people, the text is an environment file as it stands: whatever is no key is a comment.
pub fn keygen(now: Timestamp, json: bool) -> (String, bool) {
    let mut bytes = Zeroizing::new([0_u8; 32]);
    if aws_lc_rs::rand::fill(bytes.as_mut_slice()).is_err() {
        return ("the operating system has no random numbers for us".to_owned(), false);
    }
    // Hexadecimal, not base64: nothing in it means anything to a shell or to systemd.
    let mut key = Zeroizing::new(String::with_capacity(64));
    for byte in bytes.iter() {
        key.extend(
            [byte >> 4, byte & 15].into_iter().filter_map(|it| char::from_digit(it.into(), 16)),
        );
    }
    let text = if json { for_scripts(&key, now) } else { for_people(&key, now) };
    (text, true)
}

fn for_people(key: &str, now: Timestamp) -> String {
    let line = setting(now);
    format!(
        "\
{VARIABLE}={key}
# The line above is a new session key. Keep it where only wxgate can read it: in a file with mode
# 600 that `EnvironmentFile=` of systemd names, or among the secrets of your container platform.
# All replicas need the same one. In config.toml write:
#
#   [session]
#   {line}
#
# For a file that holds the key alone, as {{ file = \"…\" }} wants it:
#
#   wxgate keygen | sed -n '1s/.*=//p' > session_key
#
# To replace a key, put the new one first, under an id and a variable of its own. Remove the old
# one when `idle` has passed (12 hours by default), and nobody is logged out.
"
    )
}

fn for_scripts(key: &str, now: Timestamp) -> String {
    let json = serde_json::json!({
        "id": month(now),
        "secret": key,
        "variable": VARIABLE,
        "setting": setting(now),
    });
    format!("{json}\n")
}

fn setting(now: Timestamp) -> String {
    format!("keys = [{{ id = \"{}\", secret = {{ env = \"{VARIABLE}\" }} }}]", month(now))
}

/// `2026-11`.
fn month(now: Timestamp) -> String {
    // Ten thousand years from now the calendar ends; no clock is that wrong for long.
    let seconds = now.0.min(253_402_300_799);
    let moment = UNIX_EPOCH.checked_add(Duration::from_secs(seconds)).unwrap_or(UNIX_EPOCH);
    humantime::format_rfc3339_seconds(moment).to_string().chars().take(7).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 24 November 2026.
    const NOW: Timestamp = Timestamp(1_795_500_000);

    #[test]
    fn f5_keys_are_long_and_never_the_same() {
        let key = || {
            let (text, good) = keygen(NOW, false);
            assert!(good);
            let key = text.lines().next().unwrap().strip_prefix("WXGATE_SESSION_KEY=").unwrap();
            key.to_owned()
        };
        let (one, other) = (key(), key());
        assert_eq!(one.len(), 64);
        assert!(one.bytes().all(|b| b.is_ascii_hexdigit()));
        assert_ne!(one, other);
    }

    #[test]
    fn what_is_printed_is_an_environment_file_and_a_setting() {
        let (text, _) = keygen(NOW, false);
        for line in text.lines().skip(1) {
            assert!(line.starts_with('#'), "{line}");
        }
        let setting = r#"keys = [{ id = "2026-11", secret = { env = "WXGATE_SESSION_KEY" } }]"#;
        assert!(text.contains(setting), "{text}");
        let (json, _) = keygen(NOW, true);
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(json["setting"], setting);
        assert_eq!(json["id"], "2026-11");
    }

    #[test]
    fn months() {
        let cases = [
            (0, "1970-01"),
            (951_782_399, "2000-02"),
            (951_868_800, "2000-03"),
            (1_795_500_000, "2026-11"),
            (u64::MAX, "9999-12"),
        ];
        for (seconds, expected) in cases {
            assert_eq!(month(Timestamp(seconds)), expected, "{seconds}");
        }
    }

    #[test]
    fn serialized_key() {
        let recorded = r#"{"id":"2026-11","secret":"00ff","setting":"keys = [{ id = \"2026-11\", secret = { env = \"WXGATE_SESSION_KEY\" } }]","variable":"WXGATE_SESSION_KEY"}"#;
        assert_eq!(for_scripts("00ff", NOW).trim_end(), recorded);
    }
}
