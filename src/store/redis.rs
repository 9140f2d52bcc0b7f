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

use super::{LogPosition, LogRead, RedisSettings, StoreUnavailable};
use crate::{auth::Revocation, clock};

mod connection;

use connection::{RedisConnection, RedisConnector};

/// What a visitor's request may wait for.
const REQUEST_TIMEOUT: Duration = Duration::from_millis(700);
/// What the reader of the log may wait for: asking three sentinels takes a while when two are gone.
const LOG_READ_TIMEOUT: Duration = Duration::from_secs(5);
/// Entries read at once.
const READ_COUNT: usize = 2_000;
/// Entries of the log at most, whatever their age.
const MAX_LOG_ENTRIES: usize = 1_000_000;

const LOG: &str = "wxgate:revocations";
const FIELD: &str = "order";

/// A Redis.
pub struct RedisStore {
    link: RedisConnector,
    current: ArcSwapOption<RedisConnection>,
    connecting: Mutex<()>,
    away: AtomicBool,
}

impl fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redis").field("away", &self.away).finish_non_exhaustive()
    }
}

/// Whether a command may be sent again when nobody knows what became of it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum CommandRetry {
    Harmless,
    Never,
}

impl RedisStore {
    /// Reads the settings; nothing is opened yet.
    pub fn new(remote: &RedisSettings) -> RedisResult<Self> {
        let (connecting, away) = (Mutex::default(), AtomicBool::new(false));
        Ok(Self {
            link: RedisConnector::new(remote)?,
            current: ArcSwapOption::empty(),
            connecting,
            away,
        })
    }

    pub async fn put(
        &self,
        key: &str,
        value: Vec<u8>,
        age: Duration,
    ) -> Result<(), StoreUnavailable> {
        let mut set = cmd("SET");
        set.arg(name(key)).arg(value).arg("PX").arg(millis(age));
        self.ask(&set, CommandRetry::Harmless).await
    }

    pub async fn put_new(
        &self,
        key: &str,
        value: Vec<u8>,
        age: Duration,
    ) -> Result<bool, StoreUnavailable> {
        let mut set = cmd("SET");
        set.arg(name(key)).arg(value).arg("NX").arg("PX").arg(millis(age));
        let kept: Option<String> = self.ask(&set, CommandRetry::Never).await?;
        Ok(kept.is_some())
    }

    pub async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, StoreUnavailable> {
        let mut get = cmd("GET");
        get.arg(name(key));
        self.ask(&get, CommandRetry::Harmless).await
    }

    pub async fn take(&self, key: &str) -> Result<Option<Vec<u8>>, StoreUnavailable> {
        let mut take = cmd("GETDEL");
        take.arg(name(key));
        self.ask(&take, CommandRetry::Never).await
    }

    pub async fn revoke(
        &self,
        orders: &[Revocation],
        age: Duration,
    ) -> Result<(), StoreUnavailable> {
        for order in orders {
            let entry =
                serde_json::to_vec(order).map_err(|error| StoreUnavailable(error.to_string()))?;
            let mut add = cmd("XADD");
            add.arg(LOG).arg("MINID").arg("~").arg(oldest(age)).arg("*").arg(FIELD).arg(entry);
            let _: String = self.ask(&add, CommandRetry::Harmless).await?;
        }
        let mut keep = cmd("PEXPIRE");
        keep.arg(LOG).arg(millis(age));
        let _: i64 = self.ask(&keep, CommandRetry::Harmless).await?;
        let mut trim = cmd("XTRIM");
        trim.arg(LOG).arg("MAXLEN").arg("~").arg(MAX_LOG_ENTRIES);
        let _: i64 = self.ask(&trim, CommandRetry::Harmless).await?;
        Ok(())
    }

    /// A write that changes next to nothing. A replica refuses it, and so do a master that has lost
    /// its replicas (`min-replicas-to-write`), one whose disk is full, and the minority of a cluster.
    pub async fn pulse(&self) -> Result<(), StoreUnavailable> {
        // Not by age, which would be by our clock.
        let mut trim = cmd("XTRIM");
        trim.arg(LOG).arg("MAXLEN").arg("~").arg(MAX_LOG_ENTRIES);
        let asked =
            timeout(LOG_READ_TIMEOUT, self.try_to_ask::<i64>(&trim, CommandRetry::Harmless)).await;
        self.noted(asked.unwrap_or_else(|_| Err(late()))).map(|_| ())
    }

    /// A master that the sentinels have given up may take orders still. What it had that the other
    /// lacks is seen by whoever reads on there.
    pub async fn look_round(&self) {
        let Some(current) = self.current.load_full() else { return };
        let another = timeout(LOG_READ_TIMEOUT, self.link.names_another(&current)).await;
        if another.unwrap_or(false) {
            tracing::warn!("Redis master changed, reconnecting");
            self.forget(&current);
        }
    }

    /// The last entry we know is read again: when it is not there, this is another log, and its
    /// numbers may have begun anew.
    pub async fn follow(&self, mark: &LogPosition) -> Result<LogRead, StoreUnavailable> {
        let mut range = cmd("XRANGE");
        range.arg(LOG).arg(mark.0.as_deref().unwrap_or("-")).arg("+").arg("COUNT").arg(READ_COUNT);
        let asked =
            timeout(LOG_READ_TIMEOUT, self.try_to_ask(&range, CommandRetry::Harmless)).await;
        let entries: Vec<LogEntry> = self.noted(asked.unwrap_or_else(|_| Err(late())))?;
        let more = entries.len() >= READ_COUNT;
        let last = entries.last().map(|(id, _)| id.clone());
        let mut entries = entries.into_iter();
        if mark.0.is_some() && entries.next().map(|(id, _)| id) != mark.0 {
            return Ok(LogRead::Reset);
        }
        let mark = LogPosition(last.or_else(|| mark.0.clone()));
        Ok(LogRead::Next { orders: entries.filter_map(read).collect(), mark, more })
    }

    async fn ask<T: FromRedisValue>(
        &self,
        command: &Cmd,
        repeat: CommandRetry,
    ) -> Result<T, StoreUnavailable> {
        if self.away.load(Ordering::Relaxed) {
            return Err(StoreUnavailable("it did not answer a moment ago".to_owned()));
        }
        let asked = timeout(REQUEST_TIMEOUT, self.try_to_ask(command, repeat)).await;
        self.noted(asked.unwrap_or_else(|_| Err(late())))
    }

    fn noted<T>(&self, asked: RedisResult<T>) -> Result<T, StoreUnavailable> {
        self.away.store(asked.is_err(), Ordering::Relaxed);
        asked.map_err(|error| StoreUnavailable(error.to_string()))
    }

    async fn try_to_ask<T: FromRedisValue>(
        &self,
        command: &Cmd,
        repeat: CommandRetry,
    ) -> RedisResult<T> {
        let (connection, fresh) = self.connection().await?;
        match connection.ask(command).await {
            // A connection that had served before may have died in its sleep.
            Err(_) if !fresh && repeat == CommandRetry::Harmless => {
                self.forget(&connection);
                let (connection, _) = self.connection().await?;
                let answer = connection.ask(command).await;
                answer.inspect_err(|_| self.forget(&connection))
            }
            answer => answer.inspect_err(|_| self.forget(&connection)),
        }
    }

    /// The connection, and whether it was made just now.
    async fn connection(&self) -> RedisResult<(Arc<RedisConnection>, bool)> {
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
    fn forget(&self, connection: &Arc<RedisConnection>) {
        let current = self.current.load_full();
        if current.is_some_and(|current| Arc::ptr_eq(&current, connection)) {
            self.current.store(None);
        }
    }
}

type LogEntry = (String, HashMap<String, Vec<u8>>);

fn read((id, fields): LogEntry) -> Option<Revocation> {
    let order = fields.get(FIELD).and_then(|order| serde_json::from_slice(order).ok());
    if order.is_none() {
        tracing::error!(id, "unreadable entry in revocation log, possibly from another version");
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
