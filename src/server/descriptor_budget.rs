//! The file descriptors that a configuration needs, and what is done with fewer. Pure.

use std::fmt;

use super::{Limits, Settings};

/// Descriptors for everything but visitors and sites: the admin listener and its connections, the
/// store, WeChat, the log, certificates, health checks.
pub const RESERVED: u64 = 64;
/// Descriptors of a thread beside its listeners: its event queue and what wakes it.
const PER_THREAD: u64 = 4;
/// Descriptors of a listener in each thread: its socket, and a connection that waits for a place.
const PER_LISTENER: u64 = 2;

/// The descriptors that were granted do not suffice for the configured limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DescriptorShortage {
    /// Descriptors that the configuration may use at once.
    pub needed: u64,
    /// Descriptors that the process may open.
    pub granted: u64,
    /// Connections of visitors that are held instead of `connections`.
    pub connections: usize,
    /// Idle connections to sites that are kept instead of `upstream_idle`.
    pub upstream_idle: usize,
}

impl DescriptorShortage {
    /// Compares what these settings need with what is granted. Each connection of a visitor may need
    /// a second one to a site. Too small a grant is divided in the proportions of the settings, so
    /// that neither takes what the other needs.
    pub fn find(settings: &Settings, granted: u64) -> Option<Self> {
        let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
        let Limits { connections, upstream_idle, .. } = settings.limits;
        let threads = count(settings.thread_count());
        let listeners =
            settings.listen.len() + settings.tls.iter().flat_map(|tls| &tls.listen).count();
        let per_thread = PER_THREAD.saturating_add(count(listeners).saturating_mul(PER_LISTENER));
        let fixed = RESERVED.saturating_add(threads.saturating_mul(per_thread));
        let connections = u128::from(count(connections));
        let upstream_idle = u128::from(count(upstream_idle));
        let shared = connections.saturating_mul(2).saturating_add(upstream_idle);
        let needed = u64::try_from(shared).unwrap_or(u64::MAX).saturating_add(fixed);
        if needed <= granted {
            return None;
        }
        let left = u128::from(granted.saturating_sub(fixed));
        let part = |of: u128| usize::try_from(of.saturating_mul(left) / shared.max(1)).unwrap_or(0);
        Some(Self {
            needed,
            granted,
            connections: part(connections).max(1),
            upstream_idle: part(upstream_idle),
        })
    }

    /// The limits that the granted descriptors suffice for.
    #[must_use]
    pub fn reduce(self, limits: Limits) -> Limits {
        Limits { connections: self.connections, upstream_idle: self.upstream_idle, ..limits }
    }
}

/// The remedy, for every place that reports a shortage.
pub const REMEDY: &str =
    "raise LimitNOFILE of the service (or `ulimit -n`), or lower `connections` in [server.limits]";

impl fmt::Display for DescriptorShortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { needed, granted, connections, .. } = self;
        write!(
            f,
            "`connections` and `upstream_idle` need {needed} file descriptors and the system grants {granted}: at most {connections} connections are held"
        )
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::server::ListenAddress;

    fn settings(connections: usize, upstream_idle: usize) -> Settings {
        let second = Duration::from_secs(1);
        Settings {
            listen: vec![ListenAddress::Tcp(([127, 0, 0, 1], 0).into())],
            workers: 2,
            reuse_port: false,
            tls: None,
            limits: Limits {
                header_bytes: 0,
                header_count: 0,
                header_time: second,
                idle_time: second,
                send_time: second,
                connections,
                streams: 0,
                connections_per_client: 0,
                upstream_idle,
            },
            drain: second,
        }
    }

    #[test]
    fn g5_a_shortage_of_descriptors_is_found_and_divided() {
        // connections, upstream_idle, granted; needed, and what is held of each.
        let rows = [
            (10_000, 2_000, 1 << 20, None),
            (10_000, 2_000, 22_076, None),
            (10_000, 2_000, 22_075, Some((22_076, 9_999, 1_999))),
            (10_000, 2_000, 1_024, Some((22_076, 430, 86))),
            (10_000, 2_000, 256, Some((22_076, 81, 16))),
            (10_000, 2_000, 16, Some((22_076, 1, 0))),
            (64, 0, 204, None),
            (usize::MAX, usize::MAX, 1_024, Some((u64::MAX, 316, 316))),
            (100, 10, u64::MAX, None),
        ];
        for (connections, upstream_idle, granted, expected) in rows {
            let found = DescriptorShortage::find(&settings(connections, upstream_idle), granted);
            let found = found.map(|it| (it.needed, it.connections, it.upstream_idle));
            assert_eq!(found, expected, "{connections} and {upstream_idle} of {granted}");
        }
    }
}
