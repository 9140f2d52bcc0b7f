//! When a certificate is renewed, and when a name is tried again after a failure. Pure: the dice
//! are thrown by the caller, between 0 and 1.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::certificate_info::CertificateInfo;
use crate::clock::Timestamp;

/// Waits after failures in a row. Let's Encrypt forgives five failed validations of a name in an
/// hour, one more every twelve minutes; the sixth here comes after 86 minutes.
const RETRY_DELAYS: [u64; 8] = [10, 60, 300, 1_200, 3_600, 10_800, 21_600, 43_200];
/// What an authority may ask us to wait at most.
const MAX_RETRY_AFTER: u64 = 7 * 86_400;
/// A name that failed longer ago than this is tried again when the operator reloads or restarts:
/// the cause may be mended. That is never more than four tries an hour.
const RESET_AFTER: u64 = 900;

/// How often a name was tried in vain since its last certificate, and when it may be again. Kept
/// on disk before each try, so that a gateway that is started again and again does not order each
/// time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderAttempts {
    /// Failures in a row.
    pub failures: u32,
    /// When the last one began.
    pub last: Timestamp,
    /// Not before this.
    pub next: Timestamp,
    /// Whether the authority itself named that time.
    pub asked: bool,
}

impl OrderAttempts {
    /// One more try, which counts as failed until it has succeeded. `current` is the certificate
    /// that is shown meanwhile.
    #[must_use]
    pub fn next_attempt(
        self,
        now: Timestamp,
        current: Option<&CertificateInfo>,
        dice: f64,
    ) -> Self {
        let number = usize::try_from(self.failures).unwrap_or(usize::MAX);
        let wait = RETRY_DELAYS.get(number).or(RETRY_DELAYS.last()).copied().unwrap_or_default();
        // Where certificates live for hours or days, so must the patience be.
        let short = current.map_or(u64::MAX, |leaf| (life(leaf) / 20).max(2));
        let wait = Duration::from_secs(wait.min(short)).mul_f64(0.9 + dice * 0.2);
        let next = now.plus(wait.max(Duration::from_secs(1)));
        Self { failures: self.failures.saturating_add(1), last: now, next, asked: false }
    }

    /// The authority said how long to wait (`Retry-After`).
    #[must_use]
    pub fn with_retry_after(self, now: Timestamp, wait: Duration) -> Self {
        let asked = now.plus(wait.min(Duration::from_secs(MAX_RETRY_AFTER)));
        if asked <= self.next { self } else { Self { next: asked, asked: true, ..self } }
    }

    /// The operator has reloaded or restarted.
    #[must_use]
    pub fn reset_delay(self) -> Self {
        let soon = Timestamp(self.last.0.saturating_add(RESET_AFTER));
        if self.asked { self } else { Self { next: self.next.min(soon), ..self } }
    }
}

/// When to renew where the authority gives no advice: after two thirds of the life, and up to a
/// thirtieth of it later, so that not everybody comes at once.
pub fn renewal(info: &CertificateInfo, dice: f64) -> Timestamp {
    let life = Duration::from_secs(life(info));
    info.begins.plus(life.mul_f64(2.0 / 3.0 + dice / 30.0))
}

/// When to renew by the window that the authority advises (RFC 9773, section 4.2): at some moment
/// of it. A twelfth of the life is left then at least, or an authority that says nonsense would let it
/// end; and a twelfth, or a day, has passed, or one that always says "now" would be asked for one
/// certificate after the other.
pub fn advised(info: &CertificateInfo, [start, end]: [Timestamp; 2], dice: f64) -> Timestamp {
    let (window, twelfth) = (Duration::from_secs(end.since(start)), life(info) / 12);
    let soonest = Timestamp(info.begins.0.saturating_add(twelfth.min(86_400)));
    let latest = Timestamp(info.expires.0.saturating_sub(twelfth));
    start.plus(window.mul_f64(dice)).clamp(soonest, latest.max(soonest))
}

fn life(info: &CertificateInfo) -> u64 {
    info.expires.since(info.begins)
}

/// What helps against a refusal, by the last word of its type (RFC 8555, section 6.7).
pub fn remedy(problem: &str) -> &'static str {
    match problem.rsplit(':').next().unwrap_or_default() {
        "connection" | "tls" => {
            "the authority connects to port 443 of this name, from the internet: it has to arrive at [server.tls] listen, with nothing in between that ends TLS"
        }
        "unauthorized" | "incorrectResponse" => {
            "something else answered on port 443 of this name: its DNS record, IPv6 too, has to lead to this gateway, with nothing in between that ends TLS"
        }
        "dns" => "enter an A or AAAA record for this name",
        "caa" => "the CAA record of this domain names other authorities: add this one",
        "rateLimited" => "nothing to do: it is tried again when the authority allows it",
        "rejectedIdentifier" | "unsupportedIdentifier" => {
            "this authority gives no certificates for such a name: take it out of `domains`"
        }
        "invalidContact" | "unsupportedContact" => "correct `contact` in [server.acme]",
        "externalAccountRequired" => {
            "this authority wants to know you: `eab_kid` and `eab_hmac_key`, which it gives to its customers"
        }
        "userActionRequired" => "the authority's terms have changed: agree to them on its pages",
        _ => "see deploy/TLS.md; it is tried again by itself",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 86_400;
    const NOW: Timestamp = Timestamp(1_800_000_000);

    fn leaf(life: u64) -> CertificateInfo {
        CertificateInfo { names: Vec::new(), begins: NOW, expires: Timestamp(NOW.0 + life) }
    }

    #[test]
    fn renewals_come_after_two_thirds() {
        for (life, dice, at) in [
            (90 * DAY, 0.0, 60 * DAY),
            (90 * DAY, 1.0, 63 * DAY),
            (6 * DAY, 0.5, 4 * DAY + DAY / 10),
            (30, 0.0, 20),
            (0, 0.7, 0),
        ] {
            assert_eq!(renewal(&leaf(life), dice).since(NOW), at, "{life} {dice}");
        }
    }

    #[test]
    fn an_authoritys_advice_is_taken_within_reason() {
        let leaf = leaf(90 * DAY);
        let at = |days| Timestamp(NOW.0 + days * DAY);
        for (window, dice, expected) in [
            ([at(60), at(62)], 0.0, at(60)),
            ([at(60), at(62)], 0.5, at(61)),
            ([Timestamp(5), Timestamp(10)], 1.0, at(1)), // revoked: at once, but not again and again
            ([at(62), at(60)], 1.0, at(62)),
            ([at(500), at(600)], 0.5, Timestamp(NOW.0 + 90 * DAY - 90 * DAY / 12)),
            (
                [Timestamp(u64::MAX), Timestamp(u64::MAX)],
                0.5,
                Timestamp(NOW.0 + 90 * DAY - 90 * DAY / 12),
            ),
        ] {
            assert_eq!(advised(&leaf, window, dice), expected, "{window:?} {dice}");
        }
    }

    #[test]
    fn failures_wait_ever_longer_and_never_more_than_five_in_an_hour() {
        let (mut tries, mut now, mut first_hour) = (OrderAttempts::default(), NOW, 0);
        let mut waits = Vec::new();
        for _ in 0..12 {
            first_hour += u32::from(now.since(NOW) < 3_600);
            tries = tries.next_attempt(now, None, 0.5);
            waits.push(tries.next.since(now));
            now = tries.next;
        }
        assert_eq!(waits[..8], RETRY_DELAYS);
        assert_eq!((waits[11], tries.failures, first_hour), (43_200, 12, 5));
        let tries = OrderAttempts { failures: 9, ..tries }.next_attempt(now, Some(&leaf(DAY)), 1.0);
        assert_eq!(tries.next.since(now), DAY / 20 * 11 / 10, "a life of a day has no half days");
        let none = OrderAttempts::default().next_attempt(now, Some(&leaf(0)), 0.0);
        assert!(none.next > now, "time always passes");
    }

    #[test]
    fn an_operator_may_hurry_us_and_the_authority_may_not_be_hurried() {
        let tries =
            (0..6).fold(OrderAttempts::default(), |tries, _| tries.next_attempt(NOW, None, 0.5));
        assert_eq!(tries.next.since(NOW), 10_800);
        assert_eq!(tries.reset_delay().next.since(NOW), RESET_AFTER);
        let told = tries.with_retry_after(NOW, Duration::from_secs(2 * DAY));
        assert_eq!((told.next.since(NOW), told.reset_delay()), (2 * DAY, told));
        assert_eq!(
            tries.with_retry_after(NOW, Duration::from_secs(5)),
            tries,
            "our own patience is longer"
        );
        let greedy = tries.with_retry_after(NOW, Duration::from_secs(u64::MAX));
        assert_eq!(greedy.next.since(NOW), MAX_RETRY_AFTER);
    }
}
