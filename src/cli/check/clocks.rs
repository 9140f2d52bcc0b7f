//! Our clock beside everybody else's. Pure.

use std::time::UNIX_EPOCH;

use super::result::CheckResult;
use crate::clock::Timestamp;

/// A `Date` is a whole second, and the answer took a moment.
const TOLERATED_SKEW: u64 = 2;
/// From here on sessions of one replica are from the future for another.
const HARMFUL_SKEW: u64 = 30;

/// Holds our clock against others: whose each is, what it said, and what ours said then. The first
/// that can be read decides: WeChat's, if it answered.
pub fn compare(clocks: impl IntoIterator<Item = (String, String, Timestamp)>) -> CheckResult {
    let read = |(whose, date, ours): (String, String, Timestamp)| {
        let theirs = httpdate::parse_http_date(&date).ok()?.duration_since(UNIX_EPOCH).ok()?;
        Some((whose, theirs.as_secs(), ours.0))
    };
    let Some((whose, theirs, ours)) = clocks.into_iter().find_map(read) else {
        return CheckResult::notice(
            "clock",
            "this machine",
            "nobody answered whose clock could be compared",
        );
    };
    let (off, way) = (ours.abs_diff(theirs), if ours > theirs { "ahead of" } else { "behind" });
    let says = format!("{off} s {way} {whose}");
    match off {
        0..=TOLERATED_SKEW => CheckResult::ok("clock", "this machine", format!("in step with {whose}")),
        _ if off < HARMFUL_SKEW => CheckResult::notice("clock", "this machine", says).remedy("timedatectl set-ntp true"),
        _ => CheckResult::error("clock", "this machine", says).remedy(
            "timedatectl set-ntp true; logins expire early and replicas refuse each other's sessions",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::result::CheckStatus, *};

    #[test]
    fn the_first_clock_that_can_be_read_decides() {
        let date = |text: &str| ("api".to_owned(), text.to_owned());
        let nineties = "Sun, 06 Nov 1994 08:49:37 GMT";
        let cases = [
            (vec![date(nineties)], 784_111_777, CheckStatus::Good, "in step with api"),
            (vec![date(nineties)], 784_111_779, CheckStatus::Good, "in step with api"),
            (vec![date(nineties)], 784_111_787, CheckStatus::Note, "10 s ahead of api"),
            (vec![date(nineties)], 784_111_700, CheckStatus::Bad, "77 s behind api"),
            (
                vec![date("yesterday"), date(nineties)],
                784_111_777,
                CheckStatus::Good,
                "in step with api",
            ),
            (vec![date("yesterday")], 784_111_777, CheckStatus::Note, "nobody answered"),
            (vec![], 784_111_777, CheckStatus::Note, "nobody answered"),
        ];
        for (clocks, ours, state, says) in cases {
            let clocks = clocks.into_iter().map(|(whose, date)| (whose, date, Timestamp(ours)));
            let finding = compare(clocks.collect::<Vec<_>>());
            assert_eq!(finding.state, state, "{finding}");
            assert!(finding.says.starts_with(says), "{finding}");
        }
    }
}
