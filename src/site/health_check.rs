//! How servers of a site are asked whether they are well, and what their answers mean. Pure.

use std::{ops::RangeInclusive, time::Duration};

/// The question, how often it is asked, and what counts as yes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheckSettings {
    /// What is asked for: a path, with a query if there is one.
    pub path: String,
    /// Whose page it is; the site's first host where the operator says nothing.
    pub host: Option<String>,
    /// How long to wait before asking again.
    pub interval: Duration,
    /// How long an answer may take, the connection included.
    pub timeout: Duration,
    /// The statuses that mean yes.
    pub expect: Vec<RangeInclusive<u16>>,
    /// So many in a row make a server well that was ill.
    pub rise: u32,
    /// So many failures in a row make a server ill that was well.
    pub fall: u32,
}

impl HealthCheckSettings {
    /// Whether a status means yes.
    pub fn expects(&self, status: u16) -> bool {
        self.expect.iter().any(|range| range.contains(&status))
    }
}

/// What the checks of one server have said so far.
#[derive(Clone, Copy, Debug)]
pub struct HealthState {
    well: bool,
    /// Checks in a row that said the opposite.
    against: u32,
}

impl HealthState {
    /// Nothing has been said yet, and this is what was known before.
    pub fn new(well: bool) -> Self {
        Self { well, against: 0 }
    }

    /// Whether it is well after one check more.
    pub fn record(&mut self, passed: bool, checkup: &HealthCheckSettings) -> bool {
        if passed == self.well {
            self.against = 0;
            return self.well;
        }
        self.against = self.against.saturating_add(1);
        if self.against >= if passed { checkup.rise } else { checkup.fall } {
            *self = Self::new(passed);
        }
        self.well
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checkup(rise: u32, fall: u32) -> HealthCheckSettings {
        HealthCheckSettings {
            path: "/".to_owned(),
            host: None,
            interval: Duration::ZERO,
            timeout: Duration::ZERO,
            expect: vec![200..=399, 418..=418],
            rise,
            fall,
        }
    }

    #[test]
    fn a_verdict_takes_several_in_a_row() {
        let cases = [
            // Rise, fall, what the checks said, and the verdict after each.
            (2, 3, "+--+---+-++-", "++++++----++"),
            (1, 1, "-+-+", "-+-+"),
            (3, 1, "+-++-+++", "+------+"),
        ];
        for (rise, fall, said, expected) in cases {
            let (checkup, mut verdict) = (checkup(rise, fall), HealthState::new(true));
            let word = |well| if well { '+' } else { '-' };
            let found: String =
                said.chars().map(|it| word(verdict.record(it == '+', &checkup))).collect();
            assert_eq!(found, expected, "{said}");
        }
        let (checkup, mut known) = (checkup(2, 3), HealthState::new(false));
        assert!(!known.record(true, &checkup), "what was known before is not forgotten");
        assert!(known.record(true, &checkup));
    }

    #[test]
    fn statuses_that_mean_yes() {
        let cases = [(199, false), (200, true), (399, true), (400, false), (418, true)];
        for (status, expected) in cases {
            assert_eq!(checkup(1, 1).expects(status), expected, "{status}");
        }
    }
}
