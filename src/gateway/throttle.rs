//! How often one client may do what costs work, ours or WeChat's. A visitor who is logged in does
//! not come by here.

use std::{
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use quick_cache::unsync::Cache;
use tokio::time::Instant;

use super::{
    Error,
    crowd::{LogThrottle, client_network},
};

/// Clients remembered at once; the least busy are forgotten first.
const MAX_CLIENTS: usize = 16 * 1024;
/// How often we say that somebody is held back.
const WARN: Duration = Duration::from_secs(10);
/// A page of scripts may be refused many times for one login.
const REFUSALS_PER_LOGIN: u64 = 10;
/// A server that is set up has the right secret, every time; one of so many logins is enough to find
/// out that it is not.
const LOGINS_PER_SECRET: u64 = 10;

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LimitedAction {
    /// A trip to WeChat begins.
    Login,
    /// It ends, or so somebody says.
    Callback,
    /// Something was refused.
    Refusal,
    /// A secret was shown that is nobody's.
    Secret,
}

impl LimitedAction {
    fn word(self) -> &'static str {
        match self {
            Self::Login => "logins",
            Self::Callback => "callbacks",
            Self::Refusal => "refused requests",
            Self::Secret => "wrong secrets",
        }
    }

    /// How often a minute, where so many logins are allowed.
    fn rate(self, logins: u32) -> u64 {
        let logins = u64::from(logins);
        match self {
            Self::Login | Self::Callback => logins,
            Self::Refusal => logins.saturating_mul(REFUSALS_PER_LOGIN),
            Self::Secret => logins.div_ceil(LOGINS_PER_SECRET),
        }
    }

    fn too_many(self, wait: Duration) -> Error {
        Error::TooMany { what: self.word(), wait: wait.as_secs().saturating_add(1) }
    }
}

/// Everybody who did something lately (GCRA: all that is kept of a client is when they will have
/// made up for it).
pub struct RateLimiter {
    clients: Mutex<Cache<(LimitedAction, IpAddr), Duration>>,
    begun: Instant,
    warned: LogThrottle,
}

impl RateLimiter {
    /// Nobody yet.
    pub fn new() -> Self {
        let clients = Mutex::new(Cache::new(MAX_CLIENTS));
        Self { clients, begun: Instant::now(), warned: LogThrottle::default() }
    }

    /// Counts it, unless there were too many in the last minute. `per_minute` is for logins; zero
    /// is no limit. Loopback is nobody's address: there is a proxy on this machine that we have
    /// not been told of, and with it every visitor of the site.
    pub fn check(&self, deed: LimitedAction, client: IpAddr, per_minute: u32) -> Result<(), Error> {
        if per_minute == 0 || client.to_canonical().is_loopback() {
            return Ok(());
        }
        let Err(wait) = self.take((deed, client_network(client)), deed.rate(per_minute), true)
        else {
            return Ok(());
        };
        if self.warned.is_due(WARN) {
            tracing::warn!(
                %client,
                what = deed.word(),
                "client exceeded logins_per_minute"
            );
        }
        Err(deed.too_many(wait))
    }

    /// Whether it may be done once more, without counting it.
    pub fn peek(&self, deed: LimitedAction, client: IpAddr, per_minute: u32) -> Result<(), Error> {
        if per_minute == 0 || client.to_canonical().is_loopback() {
            return Ok(());
        }
        let asked = self.take((deed, client_network(client)), deed.rate(per_minute), false);
        asked.map_err(|wait| deed.too_many(wait))
    }

    fn take(
        &self,
        key: (LimitedAction, IpAddr),
        per_minute: u64,
        counts: bool,
    ) -> Result<(), Duration> {
        const MINUTE: Duration = Duration::from_mins(1);
        let step = Duration::from_nanos(60_000_000_000_u64.checked_div(per_minute).unwrap_or(1));
        let now = self.begun.elapsed();
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let due = clients.get(&key).map_or(now, |due| (*due).max(now)).saturating_add(step);
        let latest = now.saturating_add(MINUTE);
        if due > latest {
            return Err(due.saturating_sub(latest));
        }
        if counts {
            clients.insert(key, due);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn many(throttle: &RateLimiter, deed: LimitedAction, client: &str, tries: usize) -> usize {
        let client = client.parse().unwrap();
        (0..tries).filter(|_| throttle.check(deed, client, 6).is_ok()).count()
    }

    #[tokio::test(start_paused = true)]
    async fn g7_a_client_has_a_minutes_worth_and_then_one_at_a_time() {
        let throttle = RateLimiter::new();
        assert_eq!(many(&throttle, LimitedAction::Login, "192.0.2.1", 20), 6);
        assert_eq!(many(&throttle, LimitedAction::Callback, "192.0.2.1", 20), 6, "counted apart");
        assert_eq!(many(&throttle, LimitedAction::Refusal, "192.0.2.1", 100), 60);
        assert_eq!(many(&throttle, LimitedAction::Login, "192.0.2.2", 20), 6, "somebody else");
        assert_eq!(many(&throttle, LimitedAction::Login, "2001:db8::1", 20), 6);
        assert_eq!(many(&throttle, LimitedAction::Login, "2001:db8::2", 20), 0, "the same /64");
        let refused = throttle.check(LimitedAction::Login, [192, 0, 2, 1].into(), 6);
        assert!(matches!(refused, Err(Error::TooMany { what: "logins", wait: 10..=11 })));
        tokio::time::advance(Duration::from_secs(21)).await;
        assert_eq!(many(&throttle, LimitedAction::Login, "192.0.2.1", 20), 2);
        tokio::time::advance(Duration::from_mins(10)).await;
        assert_eq!(
            many(&throttle, LimitedAction::Login, "192.0.2.1", 20),
            6,
            "no more than a minute's"
        );
    }

    #[tokio::test]
    async fn g7_nobody_is_held_back_by_zero_or_on_this_machine() {
        let throttle = RateLimiter::new();
        for _ in 0..100 {
            assert!(throttle.check(LimitedAction::Login, [192, 0, 2, 1].into(), 0).is_ok());
            assert!(throttle.check(LimitedAction::Login, [127, 0, 0, 1].into(), 1).is_ok());
        }
    }

    #[tokio::test]
    async fn g5_what_is_kept_of_clients_is_bounded() {
        let throttle = RateLimiter::new();
        for number in 0..100_000_u32 {
            let _ = throttle.check(
                LimitedAction::Login,
                IpAddr::from(0x0a00_0000_u32.wrapping_add(number).to_be_bytes()),
                6,
            );
        }
        assert!(throttle.clients.lock().unwrap().len() <= MAX_CLIENTS);
    }

    #[test]
    fn serialized_words() {
        let actions = [
            LimitedAction::Login,
            LimitedAction::Callback,
            LimitedAction::Refusal,
            LimitedAction::Secret,
        ];
        let words = actions.map(LimitedAction::word).join(", ");
        assert_eq!(words, "logins, callbacks, refused requests, wrong secrets");
    }
}
