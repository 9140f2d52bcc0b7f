//! The time. Read once per request at the door, then passed down as a plain value.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Seconds since the Unix epoch.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// The moment `span` after this one, in whole seconds.
    #[must_use]
    pub fn plus(self, span: Duration) -> Self {
        Self(self.0.saturating_add(span.as_secs()))
    }

    /// Whether it is no moment at all.
    pub fn is_zero(&self) -> bool {
        self.0 == 0
    }

    /// Seconds from `earlier` to this moment; zero when `earlier` lies ahead.
    pub fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// Where the time comes from. Tests supply their own.
pub type Clock = fn() -> Timestamp;

/// Nanoseconds since the Unix epoch, for what is told to programs that measure.
#[expect(clippy::disallowed_methods, reason = "as below")]
pub fn nanos() -> u64 {
    let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since_epoch.map_or(0, |elapsed| u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX))
}

/// The system clock.
#[expect(clippy::disallowed_methods, reason = "this is the one place that reads the clock")]
pub fn system() -> Timestamp {
    let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    Timestamp(since_epoch.map_or(0, |elapsed| elapsed.as_secs()))
}
