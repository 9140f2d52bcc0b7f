//! What is not recorded, so that it can be measured what recording costs: nothing, but in a build for
//! measurements that is told so (`WXGATE_LEAVES_OUT`, see `bench/recording.py`).

/// Something that is recorded of each request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recording {
    /// Its counters and histograms.
    Metrics,
    /// Its access line.
    AccessLine,
    /// The `traceparent` that the site gets.
    TraceParent,
}

/// Whether this is left out.
#[cfg(not(feature = "benching"))]
pub const fn leaves_out(_: Recording) -> bool {
    false
}

#[cfg(feature = "benching")]
pub use measured::leaves_out;

#[cfg(feature = "benching")]
mod measured {
    use std::sync::LazyLock;

    use super::Recording;

    #[expect(clippy::disallowed_methods, reason = "no setting of anybody's, in no other build")]
    static LEFT_OUT: LazyLock<[bool; 3]> = LazyLock::new(|| {
        let words = std::env::var("WXGATE_LEAVES_OUT").unwrap_or_default();
        ["metrics", "access_log", "traceparent"].map(|it| words.split(',').any(|word| word == it))
    });

    /// Whether this is left out.
    pub fn leaves_out(what: Recording) -> bool {
        let [metrics, access_line, trace_parent] = *LEFT_OUT;
        match what {
            Recording::Metrics => metrics,
            Recording::AccessLine => access_line,
            Recording::TraceParent => trace_parent,
        }
    }
}
