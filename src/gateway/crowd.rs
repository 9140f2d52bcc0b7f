//! Clients by their network, and how many connections each holds.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// How often we say that somebody is turned away.
const WARN: Duration = Duration::from_secs(1);

/// Who counts as one: an IPv4 address, or the /64 that one IPv6 customer has to themselves.
pub fn client_network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)).into(),
    }
}

/// The connections of every client.
#[derive(Debug, Default)]
pub struct ConnectionLimiter {
    held: Mutex<HashMap<IpAddr, usize>>,
    warned: LogThrottle,
}

/// One connection, counted until it is gone.
#[derive(Debug)]
pub struct ConnectionPermit {
    crowd: Arc<ConnectionLimiter>,
    client: IpAddr,
}

impl ConnectionLimiter {
    /// One connection more for the client at this address, unless it holds `most` already.
    pub fn acquire(self: &Arc<Self>, address: IpAddr, most: usize) -> Option<ConnectionPermit> {
        let client = client_network(address);
        let mut held = self.lock();
        let count = held.entry(client).or_default();
        if *count >= most {
            drop(held);
            if self.warned.is_due(WARN) {
                tracing::warn!(%client, most, "client exceeded connections_per_client");
            }
            return None;
        }
        *count += 1;
        Some(ConnectionPermit { crowd: Arc::clone(self), client })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        let mut held = self.crowd.lock();
        if let Some(count) = held.get_mut(&self.client) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                held.remove(&self.client);
            }
        }
    }
}

/// Says something only now and then, however often it happens.
#[derive(Debug, Default)]
pub struct LogThrottle(Mutex<Option<Instant>>);

impl LogThrottle {
    /// Whether it has not been said for this long.
    pub fn is_due(&self, every: Duration) -> bool {
        let now = Instant::now();
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let due = last.is_none_or(|last| now.duration_since(last) >= every);
        if due {
            *last = Some(now);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn g7_who_counts_as_one() {
        let cases = [
            ("192.0.2.1", "192.0.2.1"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
            ("2001:db8:1:2::", "2001:db8:1:2::"),
            ("2001:db8:1:3::1", "2001:db8:1:3::"),
        ];
        for (address, expected) in cases {
            assert_eq!(
                client_network(address.parse().unwrap()),
                expected.parse::<IpAddr>().unwrap()
            );
        }
    }

    #[test]
    fn g5_seats_are_counted_by_client_and_given_back() {
        let crowd = Arc::new(ConnectionLimiter::default());
        let seat = |address: &str| crowd.acquire(address.parse().unwrap(), 2);
        let first = seat("2001:db8::1");
        let second = seat("2001:db8::2");
        assert!(first.is_some() && second.is_some() && seat("2001:db8::3").is_none());
        assert!(seat("192.0.2.1").is_some());
        drop(second);
        assert!(seat("2001:db8::3").is_some());
        drop(first);
        assert!(crowd.lock().is_empty(), "nothing is kept of who has gone");
    }
}
