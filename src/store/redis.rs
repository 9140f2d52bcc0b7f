//! The keeper that replicas share: Redis alone, behind Sentinel, or as a Cluster.
//!
//! One connection, made when it is first needed and made anew after any error, carries everything.
//! A Redis that does not answer fails every call at once until the reader of the log, who never
//! stops asking, finds it again: nobody else waits for it twice.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwapOption;
use redis::{Cmd, FromRedisValue, RedisError, RedisResult, cmd};
use tokio::{sync::Mutex, time::timeout};

use super::{Away, Heard, Mark, Remote};
use crate::{auth::Revocation, clock};

mod link;

use link::{Connection, Link};

/// What a visitor's request may wait for.
const PATIENCE: Duration = Duration::from_millis(700);
/// What the reader of the log may wait for: asking three sentinels takes a while when two are gone.
const LONG_PATIENCE: Duration = Duration::from_secs(5);
/// Entries read at once.
const COUNT: usize = 2_000;
/// Entries of the log at most, whatever their age.
const LONGEST: usize = 1_000_000;

const LOG: &str = "wxgate:revocations";
const FIELD: &str = "order";

/// A Redis.
pub struct Redis {
    link: Link,
    current: ArcSwapOption<Connection>,
    connecting: Mutex<()>,
    away: AtomicBool,
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redis").field("away", &self.away).finish_non_exhaustive()
    }
}

/// Whether a command may be sent again when nobody knows what became of it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Repeat {
    Harmless,
    Never,
}

impl Redis {
    /// Reads the settings; nothing is opened yet.
    pub fn new(remote: &Remote) -> RedisResult<Self> {
        let (connecting, away) = (Mutex::default(), AtomicBool::new(false));
        Ok(Self { link: Link::new(remote)?, current: ArcSwapOption::empty(), connecting, away })
    }

    pub async fn put(&self, key: &str, value: Vec<u8>, age: Duration) -> Result<(), Away> {
        let mut set = cmd("SET");
        set.arg(name(key)).arg(value).arg("PX").arg(millis(age));
        self.ask(&set, Repeat::Harmless).await
    }

    pub async fn put_new(&self, key: &str, value: Vec<u8>, age: Duration) -> Result<bool, Away> {
        let mut set = cmd("SET");
        set.arg(name(key)).arg(value).arg("NX").arg("PX").arg(millis(age));
        let kept: Option<String> = self.ask(&set, Repeat::Never).await?;
        Ok(kept.is_some())
    }

    pub async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, Away> {
        let mut get = cmd("GET");
        get.arg(name(key));
        self.ask(&get, Repeat::Harmless).await
    }

    pub async fn take(&self, key: &str) -> Result<Option<Vec<u8>>, Away> {
        let mut take = cmd("GETDEL");
        take.arg(name(key));
        self.ask(&take, Repeat::Never).await
    }

    pub async fn revoke(&self, orders: &[Revocation], age: Duration) -> Result<(), Away> {
        for order in orders {
            let entry = serde_json::to_vec(order).map_err(|error| Away(error.to_string()))?;
            let mut add = cmd("XADD");
            add.arg(LOG).arg("MINID").arg("~").arg(oldest(age)).arg("*").arg(FIELD).arg(entry);
            let _: String = self.ask(&add, Repeat::Harmless).await?;
        }
        let mut keep = cmd("PEXPIRE");
        keep.arg(LOG).arg(millis(age));
        let _: i64 = self.ask(&keep, Repeat::Harmless).await?;
        let mut trim = cmd("XTRIM");
        trim.arg(LOG).arg("MAXLEN").arg("~").arg(LONGEST);
        let _: i64 = self.ask(&trim, Repeat::Harmless).await?;
        Ok(())
    }

    /// A write that changes next to nothing. A replica refuses it, and so do a master that has lost
    /// its replicas (`min-replicas-to-write`), one whose disk is full, and the minority of a cluster.
    pub async fn pulse(&self) -> Result<(), Away> {
        // Not by age, which would be by our clock.
        let mut trim = cmd("XTRIM");
        trim.arg(LOG).arg("MAXLEN").arg("~").arg(LONGEST);
        let asked = timeout(LONG_PATIENCE, self.try_to_ask::<i64>(&trim, Repeat::Harmless)).await;
        self.noted(asked.unwrap_or_else(|_| Err(late()))).map(|_| ())
    }

    /// A master that the sentinels have given up may take orders still. What it had that the other
    /// lacks is seen by whoever reads on there.
    pub async fn look_round(&self) {
        let Some(current) = self.current.load_full() else { return };
        let another = timeout(LONG_PATIENCE, self.link.names_another(&current)).await;
        if another.unwrap_or(false) {
            tracing::warn!("the sentinels name another master: this one is left");
            self.forget(&current);
        }
    }

    /// The last entry we know is read again: when it is not there, this is another log, and its
    /// numbers may have begun anew.
    pub async fn follow(&self, mark: &Mark) -> Result<Heard, Away> {
        let mut range = cmd("XRANGE");
        range.arg(LOG).arg(mark.0.as_deref().unwrap_or("-")).arg("+").arg("COUNT").arg(COUNT);
        let asked = timeout(LONG_PATIENCE, self.try_to_ask(&range, Repeat::Harmless)).await;
        let entries: Vec<Entry> = self.noted(asked.unwrap_or_else(|_| Err(late())))?;
        let more = entries.len() >= COUNT;
        let last = entries.last().map(|(id, _)| id.clone());
        let mut entries = entries.into_iter();
        if mark.0.is_some() && entries.next().map(|(id, _)| id) != mark.0 {
            return Ok(Heard::Another);
        }
        let mark = Mark(last.or_else(|| mark.0.clone()));
        Ok(Heard::Next { orders: entries.filter_map(read).collect(), mark, more })
    }

    async fn ask<T: FromRedisValue>(&self, command: &Cmd, repeat: Repeat) -> Result<T, Away> {
        if self.away.load(Ordering::Relaxed) {
            return Err(Away("it did not answer a moment ago".to_owned()));
        }
        let asked = timeout(PATIENCE, self.try_to_ask(command, repeat)).await;
        self.noted(asked.unwrap_or_else(|_| Err(late())))
    }

    fn noted<T>(&self, asked: RedisResult<T>) -> Result<T, Away> {
        self.away.store(asked.is_err(), Ordering::Relaxed);
        asked.map_err(|error| Away(error.to_string()))
    }

    async fn try_to_ask<T: FromRedisValue>(&self, command: &Cmd, repeat: Repeat) -> RedisResult<T> {
        let (connection, fresh) = self.connection().await?;
        match connection.ask(command).await {
            // A connection that had served before may have died in its sleep.
            Err(_) if !fresh && repeat == Repeat::Harmless => {
                self.forget(&connection);
                let (connection, _) = self.connection().await?;
                let answer = connection.ask(command).await;
                answer.inspect_err(|_| self.forget(&connection))
            }
            answer => answer.inspect_err(|_| self.forget(&connection)),
        }
    }

    /// The connection, and whether it was made just now.
    async fn connection(&self) -> RedisResult<(Arc<Connection>, bool)> {
        if let Some(connection) = self.current.load_full() {
            return Ok((connection, false));
        }
        let _one = self.connecting.lock().await;
        if let Some(connection) = self.current.load_full() {
            return Ok((connection, false));
        }
        let connection = Arc::new(self.link.connect().await?);
        self.current.store(Some(Arc::clone(&connection)));
        Ok((connection, true))
    }

    /// Whatever the error was: a demoted master, a node that left and a proxy that shut down all
    /// look different, and a new connection helps against each of them.
    fn forget(&self, connection: &Arc<Connection>) {
        let current = self.current.load_full();
        if current.is_some_and(|current| Arc::ptr_eq(&current, connection)) {
            self.current.store(None);
        }
    }
}

type Entry = (String, HashMap<String, Vec<u8>>);

fn read((id, fields): Entry) -> Option<Revocation> {
    let order = fields.get(FIELD).and_then(|order| serde_json::from_slice(order).ok());
    if order.is_none() {
        tracing::error!(id, "an entry of the revocation log cannot be read: another wxgate's?");
    }
    order
}

/// An entry's id is its time in milliseconds; what is older means nobody any more. Trimming by age
/// needs Redis 6.2, as does GETDEL.
fn oldest(age: Duration) -> u64 {
    clock::system().0.saturating_sub(age.as_secs()).saturating_mul(1_000)
}

fn name(key: &str) -> String {
    format!("wxgate:{key}")
}

fn millis(age: Duration) -> u64 {
    u64::try_from(age.as_millis()).unwrap_or(u64::MAX).max(1)
}

fn late() -> RedisError {
    std::io::Error::from(std::io::ErrorKind::TimedOut).into()
}
