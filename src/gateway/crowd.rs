//! Clients by their network, and how many connections each holds.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    num::NonZeroU32,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// Minimum time between two lines about clients over `connections_per_client`.
const CLIENT_WARN_INTERVAL: Duration = Duration::from_secs(1);
/// Minimum time between two lines about `connections` being reached.
const FULL_WARN_INTERVAL: Duration = Duration::from_secs(10);
/// Numbers that stay allocated when no connection is left. After a flood from many addresses the
/// memory is given back.
const KEPT_CLIENTS: usize = 64;

/// Who counts as one: an IPv4 address, or the /64 that one IPv6 customer has to themselves.
pub fn client_network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)).into(),
    }
}

/// The connections of every client, counted for the whole process.
#[derive(Debug, Default)]
pub struct ConnectionLimiter {
    counts: Mutex<Counts>,
    client_warned: LogThrottle,
    full_warned: LogThrottle,
    accept_warned: LogThrottle,
}

/// The number of a client while it holds connections. A connection keeps this and not the address,
/// and looks its client's count up by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientNumber(NonZeroU32);

/// One connection of a client, counted until this is dropped.
#[derive(Debug)]
pub struct ConnectionPermit {
    limiter: Arc<ConnectionLimiter>,
    client: ClientNumber,
}

/// The connections of all clients at one moment. No connection is counted meanwhile.
pub struct ConnectionCounts<'a>(MutexGuard<'a, Counts>);

#[derive(Debug, Default)]
struct Counts {
    numbers: HashMap<IpAddr, ClientNumber>,
    /// By number.
    clients: Vec<ClientCount>,
    unused: Vec<ClientNumber>,
    /// The number of clients that hold as many connections as the index says. The largest count is
    /// found without a search because a count changes by one at a time.
    clients_with: Vec<u32>,
    largest: u32,
}

#[derive(Debug)]
struct ClientCount {
    client: IpAddr,
    connections: u32,
}

impl ClientNumber {
    fn index(self) -> usize {
        usize::try_from(self.0.get() - 1).unwrap_or(usize::MAX)
    }
}

impl ConnectionLimiter {
    /// Counts one more connection of the client at this address, unless it holds `max` already. Zero
    /// is no limit.
    pub fn acquire(self: &Arc<Self>, address: IpAddr, max: usize) -> Option<ConnectionPermit> {
        let network = client_network(address);
        let mut counts = self.lock();
        let held = counts.held_by(network);
        if max > 0 && usize::try_from(held).is_ok_and(|held| held >= max) {
            drop(counts);
            if self.client_warned.is_due(CLIENT_WARN_INTERVAL) {
                tracing::warn!(client = %network, most = max, "client exceeded connections_per_client");
            }
            return None;
        }
        let client = counts.add(network)?;
        Some(ConnectionPermit { limiter: Arc::clone(self), client })
    }

    /// The counts of all clients.
    pub fn counts(&self) -> ConnectionCounts<'_> {
        ConnectionCounts(self.lock())
    }

    /// Logs that all `limit` connections are taken, and the client that holds most of them.
    pub fn report_full(&self, limit: usize) {
        if !self.full_warned.is_due(FULL_WARN_INTERVAL) {
            return;
        }
        let (client, held) = self.lock().largest_client();
        let client = client.map_or_else(|| "-".to_owned(), |client| client.to_string());
        tracing::warn!(
            limit,
            largest_client = %client,
            largest_count = held,
            "connection limit reached, closing idle connections to accept new ones"
        );
    }

    /// Logs that the system gave out no socket for a new connection.
    pub fn report_accept_error(&self, error: &std::io::Error) {
        if self.accept_warned.is_due(FULL_WARN_INTERVAL) {
            tracing::warn!(%error, "cannot accept connection");
        }
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ConnectionPermit {
    /// The client that is counted.
    pub fn client(&self) -> ClientNumber {
        self.client
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.limiter.lock().remove(self.client);
    }
}

impl ConnectionCounts<'_> {
    /// The connections of a client. Those of trusted proxies and over unix sockets belong to many
    /// visitors and count as none.
    pub fn of(&self, client: Option<ClientNumber>) -> u32 {
        let count = client.and_then(|client| self.0.clients.get(client.index()));
        count.map_or(0, |count| count.connections)
    }

    /// The connections of the client that holds most.
    pub fn largest(&self) -> u32 {
        self.0.largest
    }
}

impl Counts {
    fn held_by(&self, network: IpAddr) -> u32 {
        let client = self.numbers.get(&network).and_then(|it| self.clients.get(it.index()));
        client.map_or(0, |count| count.connections)
    }

    fn add(&mut self, network: IpAddr) -> Option<ClientNumber> {
        let number = match self.numbers.get(&network) {
            Some(number) => *number,
            None => self.assign(network)?,
        };
        let count = self.clients.get_mut(number.index())?;
        let before = count.connections;
        count.connections = before.saturating_add(1);
        let after = count.connections;
        self.move_client(before, after);
        self.largest = self.largest.max(after);
        Some(number)
    }

    fn assign(&mut self, network: IpAddr) -> Option<ClientNumber> {
        let count = ClientCount { client: network, connections: 0 };
        let number = if let Some(number) = self.unused.pop() {
            *self.clients.get_mut(number.index())? = count;
            number
        } else {
            self.clients.push(count);
            ClientNumber(NonZeroU32::new(u32::try_from(self.clients.len()).ok()?)?)
        };
        self.numbers.insert(network, number);
        Some(number)
    }

    fn remove(&mut self, number: ClientNumber) {
        let Some(count) = self.clients.get_mut(number.index()) else { return };
        let before = count.connections;
        count.connections = before.saturating_sub(1);
        let (after, client) = (count.connections, count.client);
        self.move_client(before, after);
        if before == self.largest && self.clients_with(before).is_none_or(|clients| *clients == 0) {
            self.largest = after;
        }
        if after == 0 {
            self.numbers.remove(&client);
            self.unused.push(number);
        }
        if self.numbers.is_empty() && self.clients.len() > KEPT_CLIENTS {
            *self = Self::default();
        }
    }

    fn move_client(&mut self, before: u32, after: u32) {
        if let Some(clients) = self.clients_with(before) {
            *clients = clients.saturating_sub(1);
        }
        if let Some(clients) = self.clients_with(after) {
            *clients = clients.saturating_add(1);
        }
    }

    /// The number of clients with this count; nothing for those that hold no connection.
    fn clients_with(&mut self, count: u32) -> Option<&mut u32> {
        let index = usize::try_from(count).ok()?.checked_sub(1)?;
        if index >= self.clients_with.len() {
            self.clients_with.resize(index + 1, 0);
        }
        self.clients_with.get_mut(index)
    }

    fn largest_client(&self) -> (Option<IpAddr>, u32) {
        let largest = self.clients.iter().find(|count| count.connections == self.largest);
        let client = largest.filter(|count| count.connections > 0).map(|count| count.client);
        (client, self.largest)
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
        assert!(crowd.lock().numbers.is_empty(), "nothing is kept of who has gone");
    }

    #[test]
    fn g5_the_largest_client_is_known_at_any_moment() {
        let limiter = Arc::new(ConnectionLimiter::default());
        let mut held: Vec<(u8, ConnectionPermit)> = Vec::new();
        // A fixed sequence of connections that come and go, from eight clients.
        let mut random: u32 = 7;
        for step in 0..4_000 {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let pick = usize::try_from(random >> 8).unwrap();
            if step < 2_000 || held.is_empty() || !pick.is_multiple_of(3) {
                let client = u8::try_from(pick % 8).unwrap();
                let address = IpAddr::from([192, 0, 2, client]);
                held.push((client, limiter.acquire(address, 0).unwrap()));
            } else {
                held.swap_remove(pick % held.len());
            }
            if step % 5 == 0 {
                held.truncate(held.len() / 2);
            }
            let counted = |of: u8| held.iter().filter(|(client, _)| *client == of).count();
            let expected = (0..8).map(counted).max().unwrap();
            let counts = limiter.counts();
            assert_eq!(usize::try_from(counts.largest()).unwrap(), expected, "step {step}");
            for (client, permit) in &held {
                let found = usize::try_from(counts.of(Some(permit.client()))).unwrap();
                assert_eq!(found, counted(*client), "step {step}, client {client}");
            }
        }
        drop(held);
        assert_eq!(limiter.counts().largest(), 0);
    }
}
