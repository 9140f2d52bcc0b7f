//! How long a server that fails is left alone, and how it comes back. Pure.

use std::time::Duration;

/// The first time.
const INITIAL_BACKOFF: Duration = Duration::from_secs(2);
/// However often.
const MAX_BACKOFF: Duration = Duration::from_secs(30);
/// Answers that broke off, one after the other, that are as bad as a connection that was refused.
/// One may be that request's fault; a port that is forwarded to nobody breaks off each of them.
const FAILURE_THRESHOLD: u32 = 3;

/// What has gone wrong with a server without an answer in between, in broken answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FailureCount(pub u32);

impl FailureCount {
    /// It answers.
    pub const NONE: Self = Self(0);
    /// One answer broke off.
    pub const BROKEN: Self = Self(1);
    /// A connection was refused, or did not open in time.
    pub const REFUSED: Self = Self(FAILURE_THRESHOLD);

    /// With this on top.
    #[must_use]
    pub fn plus(self, more: Self) -> Self {
        Self(self.0.saturating_add(more.0))
    }

    /// How long to leave the server alone: twice as long each time, up to a bound, and a little more
    /// or less, `luck` of 256, so that not everybody comes back to it at once. Nothing while this is
    /// too little to judge by.
    pub fn backoff(self, luck: u8) -> Option<Duration> {
        let doublings = (self.0 / FAILURE_THRESHOLD).checked_sub(1)?.min(10);
        let rest = (INITIAL_BACKOFF * (1 << doublings)).min(MAX_BACKOFF);
        Some(rest * (224 + u32::from(luck) / 4) / 256)
    }
}

/// A weight in hundredths.
const FULL_WEIGHT: u32 = 100;

/// The share of a server of this weight, in hundredths: all of it, or as much as it is trusted with
/// so long after it came `back`. It begins with a tenth: what was just started has empty caches, and
/// would be met by all at once.
pub fn slow_start_weight(weight: u32, back: Option<Duration>, slow_start: Duration) -> u32 {
    let whole = weight.saturating_mul(FULL_WEIGHT);
    let Some(back) = back.filter(|back| *back < slow_start) else { return whole };
    let part = u128::from(whole) * back.as_millis() / slow_start.as_millis().max(1);
    u32::try_from(part).unwrap_or(whole).clamp(whole / 10, whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rest_grows_and_is_bounded() {
        // How much, by luck 0 and 255, in milliseconds.
        let cases = [
            (0, None),
            (2, None),
            (3, Some((1_750, 2_242))),
            (5, Some((1_750, 2_242))),
            (6, Some((3_500, 4_484))),
            (9, Some((7_000, 8_968))),
            (12, Some((14_000, 17_937))),
            (15, Some((26_250, 33_632))),
            (u32::MAX, Some((26_250, 33_632))),
        ];
        for (trouble, expected) in cases {
            let rest = |luck| FailureCount(trouble).backoff(luck).map(|rest| rest.as_millis());
            assert_eq!(rest(0).zip(rest(255)), expected, "{trouble}");
        }
        assert_eq!(FailureCount::REFUSED.plus(FailureCount::BROKEN), FailureCount(4));
        assert_eq!(FailureCount(u32::MAX).plus(FailureCount::REFUSED), FailureCount(u32::MAX));
    }

    #[test]
    fn a_share_comes_back_slowly() {
        let cases = [
            (1, None, 10, 100),
            (3, None, 10, 300),
            (3, Some(0), 10, 30),
            (3, Some(500), 10, 30),
            (3, Some(5_000), 10, 150),
            (3, Some(9_999), 10, 299),
            (3, Some(10_000), 10, 300),
            (3, Some(0), 0, 300),
            (1_000, Some(5_000), 10, 50_000),
        ];
        for (weight, back, over, expected) in cases {
            let found = slow_start_weight(
                weight,
                back.map(Duration::from_millis),
                Duration::from_secs(over),
            );
            assert_eq!(found, expected, "{weight} {back:?} of {over}");
        }
    }
}
