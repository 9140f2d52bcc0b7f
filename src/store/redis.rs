//! The keeper that replicas share: Redis alone, behind Sentinel, or as a Cluster.
//!
//! There are two connections, each made when it is first needed and made anew after an error. One
//! carries the calls of visitors; over the other the task that follows the log reads, and checks that
//! writes are accepted. The check therefore is about the server that is read, and a write that a
//! visitor waits for holds no read up: Redis answers one connection in order.
//!
//! A Redis that does not answer fails every call at once until a write check has passed again: no
//! visitor waits for it twice. A Redis that answers with an error is asked each time, and the answer
//! says what is the matter.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwapOption;
use redis::{Cmd, FromRedisValue, Pipeline, RedisError, RedisResult, Value, cmd};
use tokio::{sync::Mutex, time::timeout};

use super::{LogPosition, LogRead, RedisSettings, StoreUnavailable, UnavailableCause};
use crate::{auth::Revocation, clock};

mod connection;

use connection::{RedisConnection, RedisConnector};

/// What a visitor's request may wait for.
const REQUEST_TIMEOUT: Duration = Duration::from_millis(700);
/// What the reader of the log may wait for: asking three sentinels takes a while when two are gone.
const LOG_READ_TIMEOUT: Duration = Duration::from_secs(5);
/// What a write of the reader's may take. With the interval between two checks it stays below the 0.9
/// seconds of a strict site.
const WRITE_TIMEOUT: Duration = Duration::from_millis(400);
/// Entries read at once.
const READ_COUNT: usize = 2_000;
/// Entries of the log at most, whatever their age.
const MAX_LOG_ENTRIES: usize = 1_000_000;

const LOG: &str = "wxgate:revocations";
const FIELD: &str = "order";
/// Keys of the write check. The braces put them into the slot of the log, so that in a cluster the
/// check is about the master that keeps it. Neither is left behind.
const CHECK_STREAM: &str = "wxgate:check:{wxgate:revocations}";
const CHECK_VALUE: &str = "wxgate:check-value:{wxgate:revocations}";
/// How long the value lives should the connection break in between.
const CHECK_VALUE_TTL: Duration = Duration::from_secs(10);
/// Values of logins lie on every master of a cluster. Their keys spread over all slots, and so do
/// these, of which one is tried at a time.
const CLUSTER_CHECK_KEYS: usize = 32;

/// A Redis.
pub struct RedisStore {
    link: RedisConnector,
    /// For the calls of visitors.
    calls: ConnectionSlot,
    /// For the task that follows the log.
    sync: ConnectionSlot,
    /// Why calls fail at once, while they do.
    silence: ArcSwapOption<StoreUnavailable>,
    /// The key of a cluster that is tried next.
    cluster_key: AtomicUsize,
}

impl fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redis").field("silence", &self.silence).finish_non_exhaustive()
    }
}

/// Whether a command may be sent again when nobody knows what became of it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum CommandRetry {
    Harmless,
    Never,
}

/// A command with the name that an ACL knows it by.
struct NamedCommand {
    name: &'static str,
    command: Cmd,
}

impl NamedCommand {
    fn new(name: &'static str, build: impl FnOnce(&mut Cmd)) -> Self {
        let mut command = cmd(name);
        build(&mut command);
        Self { name, command }
    }
}

impl RedisStore {
    /// Reads the settings; nothing is opened yet.
    pub fn new(remote: &RedisSettings) -> RedisResult<Self> {
        Ok(Self {
            link: RedisConnector::new(remote)?,
            calls: ConnectionSlot::default(),
            sync: ConnectionSlot::default(),
            silence: ArcSwapOption::empty(),
            cluster_key: AtomicUsize::new(0),
        })
    }

    pub async fn put(
        &self,
        key: &str,
        value: Vec<u8>,
        age: Duration,
    ) -> Result<(), StoreUnavailable> {
        let set = NamedCommand::new("SET", |set| {
            set.arg(name(key)).arg(value).arg("PX").arg(millis(age));
        });
        self.ask(&set, CommandRetry::Harmless).await
    }

    pub async fn put_new(
        &self,
        key: &str,
        value: Vec<u8>,
        age: Duration,
    ) -> Result<bool, StoreUnavailable> {
        let set = NamedCommand::new("SET", |set| {
            set.arg(name(key)).arg(value).arg("NX").arg("PX").arg(millis(age));
        });
        let kept: Option<String> = self.ask(&set, CommandRetry::Never).await?;
        Ok(kept.is_some())
    }

    pub async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, StoreUnavailable> {
        let get = NamedCommand::new("GET", |get| {
            get.arg(name(key));
        });
        self.ask(&get, CommandRetry::Harmless).await
    }

    pub async fn take(&self, key: &str) -> Result<Option<Vec<u8>>, StoreUnavailable> {
        let take = NamedCommand::new("GETDEL", |take| {
            take.arg(name(key));
        });
        self.ask(&take, CommandRetry::Never).await
    }

    /// Adds to the log for a visitor or an operator.
    pub async fn revoke(
        &self,
        orders: &[Revocation],
        age: Duration,
    ) -> Result<(), StoreUnavailable> {
        for command in append_commands(orders, age)? {
            let _: Value = self.ask(&command, CommandRetry::Harmless).await?;
        }
        Ok(())
    }

    /// Adds to the log over the connection that reads it.
    pub async fn restore(
        &self,
        orders: &[Revocation],
        age: Duration,
    ) -> Result<(), StoreUnavailable> {
        for command in append_commands(orders, age)? {
            self.write(&[command]).await.map_err(|failure| self.noted(failure))?;
        }
        Ok(())
    }

    /// Does once, on keys of its own, all that a revocation and a login do. That needs memory, disk,
    /// replicas and rights, as they do: `maxmemory` and an ACL refuse one command and not another. The
    /// log itself gets no entry, which older replicas could not read.
    pub async fn check_writable(&self) -> Result<(), StoreUnavailable> {
        self.write(&check_commands()).await.map_err(|failure| self.noted(failure))?;
        self.silence.store(None);
        Ok(())
    }

    /// The same for values, on the next of the keys that spread over a cluster. One that fails is tried
    /// again, so that a master that takes no writes is not forgotten while the others are tried.
    pub async fn check_next_master(&self) -> Result<(), StoreUnavailable> {
        if !self.link.is_cluster() {
            return Ok(());
        }
        let number = self.cluster_key.load(Ordering::Relaxed);
        self.write(&cluster_check_commands(number)).await?;
        self.cluster_key.store((number + 1) % CLUSTER_CHECK_KEYS, Ordering::Relaxed);
        Ok(())
    }

    /// Tries each command alone: of several that an ACL forbids, each is named.
    pub async fn try_commands(&self) -> Vec<StoreUnavailable> {
        let mut failures: Vec<StoreUnavailable> = Vec::new();
        let reading = self.follow(&LogPosition::default()).await.err();
        let clustered = if self.link.is_cluster() { CLUSTER_CHECK_KEYS } else { 0 };
        let elsewhere = (0..clustered).flat_map(cluster_check_commands);
        let mut commands = check_commands().into_iter().chain(elsewhere);
        let mut next = reading;
        loop {
            if let Some(failure) = next.take() {
                let silent = failure.cause.is_silence();
                if !failures.iter().any(|other| other.cause == failure.cause) {
                    failures.push(failure);
                }
                if silent {
                    return failures;
                }
            }
            let Some(command) = commands.next() else { return failures };
            next = self.write(&[command]).await.err();
        }
    }

    /// Whether a call went unanswered and no write has been since.
    pub fn is_silent(&self) -> bool {
        self.silence.load().is_some()
    }

    /// A master that the sentinels have given up may take orders still. What it had that the other
    /// lacks is seen by whoever reads on there.
    pub async fn check_master(&self) {
        let Some(current) = self.sync.current.load_full() else { return };
        let another = timeout(LOG_READ_TIMEOUT, self.link.names_another(&current)).await;
        if another.unwrap_or(false) {
            tracing::warn!("Redis master changed, reconnecting");
            self.sync.forget(&current);
            self.calls.forget_current();
        }
    }

    /// The last entry we know is read again: when it is not there, this is another log, and its
    /// numbers may have begun anew.
    pub async fn follow(&self, mark: &LogPosition) -> Result<LogRead, StoreUnavailable> {
        let range = NamedCommand::new("XRANGE", |range| {
            let from = mark.0.as_deref().unwrap_or("-");
            range.arg(LOG).arg(from).arg("+").arg("COUNT").arg(READ_COUNT);
        });
        let asked = self.sync.ask(&self.link, &range.command, CommandRetry::Harmless);
        let asked = timeout(LOG_READ_TIMEOUT, asked).await;
        let asked = asked.unwrap_or_else(|_| Err(late()));
        let entries: Vec<LogEntry> =
            asked.map_err(|error| self.noted(classify(&error, range.name)))?;
        let more = entries.len() >= READ_COUNT;
        let last = entries.last().map(|(id, _)| id.clone());
        let mut entries = entries.into_iter();
        if mark.0.is_some() && entries.next().map(|(id, _)| id) != mark.0 {
            return Ok(LogRead::Reset);
        }
        let mark = LogPosition(last.or_else(|| mark.0.clone()));
        Ok(LogRead::Next { orders: entries.filter_map(read).collect(), mark, more })
    }

    /// A call of a visitor's.
    async fn ask<T: FromRedisValue>(
        &self,
        command: &NamedCommand,
        repeat: CommandRetry,
    ) -> Result<T, StoreUnavailable> {
        if let Some(silence) = self.silence.load_full() {
            return Err(StoreUnavailable::clone(&silence));
        }
        let asked = self.calls.ask(&self.link, &command.command, repeat);
        let asked = timeout(REQUEST_TIMEOUT, asked).await.unwrap_or_else(|_| {
            // What is sent next would wait behind it.
            self.calls.forget_current();
            Err(late())
        });
        asked.map_err(|error| self.noted(classify(&error, command.name)))
    }

    /// Writes over the connection that reads the log. Reads have just been answered there, so that
    /// silence means that writes are slow.
    async fn write(&self, commands: &[NamedCommand]) -> Result<(), StoreUnavailable> {
        let mut pipeline = Pipeline::with_capacity(commands.len());
        pipeline.ignore_errors();
        for command in commands {
            pipeline.add_command(command.command.clone());
        }
        let asked = async {
            let (connection, _) = self.sync.get(&self.link).await?;
            connection.ask_all(&pipeline).await
        };
        let asked = timeout(WRITE_TIMEOUT, asked).await.unwrap_or_else(|_| Err(late()));
        let failure = match asked {
            Ok(answers) => {
                let mut answers = answers.into_iter().zip(commands);
                answers.find_map(|(answer, command)| {
                    answer.err().map(|error| classify(&error, command.name))
                })
            }
            Err(error) if error.is_timeout() => {
                let detail = format!("no answer to a write in {WRITE_TIMEOUT:?}");
                Some(StoreUnavailable::new(UnavailableCause::SlowWrites, detail))
            }
            Err(error) => {
                let name = commands.first().map_or("", |command| command.name);
                Some(classify(&error, name))
            }
        };
        match failure {
            None => Ok(()),
            Some(failure) => {
                // A new connection may lead to another server, and waits behind no write.
                self.sync.forget_current();
                Err(failure)
            }
        }
    }

    /// Remembers that the server is silent.
    fn noted(&self, failure: StoreUnavailable) -> StoreUnavailable {
        if failure.cause.is_silence() {
            self.silence.store(Some(Arc::new(failure.clone())));
        }
        failure
    }
}

/// The one connection of a kind.
#[derive(Default)]
struct ConnectionSlot {
    current: ArcSwapOption<RedisConnection>,
    connecting: Mutex<()>,
}

impl ConnectionSlot {
    async fn ask<T: FromRedisValue>(
        &self,
        link: &RedisConnector,
        command: &Cmd,
        repeat: CommandRetry,
    ) -> RedisResult<T> {
        let (connection, fresh) = self.get(link).await?;
        match connection.ask(command).await {
            // A connection that had served before may have died in its sleep.
            Err(error) if may_reconnect(&error) => {
                self.forget(&connection);
                if fresh || repeat == CommandRetry::Never || error.is_timeout() {
                    return Err(error);
                }
                let (connection, _) = self.get(link).await?;
                let answer = connection.ask(command).await;
                answer.inspect_err(|error| {
                    if may_reconnect(error) {
                        self.forget(&connection);
                    }
                })
            }
            answer => answer,
        }
    }

    /// The connection, and whether it was made just now.
    async fn get(&self, link: &RedisConnector) -> RedisResult<(Arc<RedisConnection>, bool)> {
        if let Some(connection) = self.current.load_full() {
            return Ok((connection, false));
        }
        let _one = self.connecting.lock().await;
        if let Some(connection) = self.current.load_full() {
            return Ok((connection, false));
        }
        let connection = Arc::new(link.connect().await?);
        self.current.store(Some(Arc::clone(&connection)));
        Ok((connection, true))
    }

    fn forget(&self, connection: &Arc<RedisConnection>) {
        let current = self.current.load_full();
        if current.is_some_and(|current| Arc::ptr_eq(&current, connection)) {
            self.current.store(None);
        }
    }

    fn forget_current(&self) {
        self.current.store(None);
    }
}

/// Whether a new connection may help. It does against a demoted master, a node that left, a proxy that
/// shut down and most other errors; not against those of a server that would say the same again.
fn may_reconnect(error: &RedisError) -> bool {
    !matches!(error.code(), Some("OOM" | "NOPERM" | "MISCONF" | "BUSY" | "WRONGTYPE"))
}

/// The commands that add to the log.
fn append_commands(
    orders: &[Revocation],
    age: Duration,
) -> Result<Vec<NamedCommand>, StoreUnavailable> {
    let mut commands = Vec::with_capacity(orders.len() + 2);
    for order in orders {
        let entry = serde_json::to_vec(order)
            .map_err(|error| StoreUnavailable::internal(error.to_string()))?;
        commands.push(NamedCommand::new("XADD", |add| {
            add.arg(LOG).arg("MINID").arg("~").arg(oldest(age)).arg("*").arg(FIELD).arg(entry);
        }));
    }
    commands.push(NamedCommand::new("PEXPIRE", |keep| {
        keep.arg(LOG).arg(millis(age));
    }));
    commands.push(trim());
    Ok(commands)
}

/// Not by age, which would be by our clock.
fn trim() -> NamedCommand {
    NamedCommand::new("XTRIM", |trim| {
        trim.arg(LOG).arg("MAXLEN").arg("~").arg(MAX_LOG_ENTRIES);
    })
}

/// All commands that write, and those that read values.
fn check_commands() -> Vec<NamedCommand> {
    let mut commands = vec![
        NamedCommand::new("XADD", |add| {
            add.arg(CHECK_STREAM).arg("MAXLEN").arg(1).arg("*").arg(FIELD).arg("check");
        }),
        // It expires at once: nothing is left behind.
        NamedCommand::new("PEXPIRE", |expire| {
            expire.arg(CHECK_STREAM).arg(0);
        }),
        trim(),
    ];
    commands.extend(value_commands(CHECK_VALUE));
    commands
}

fn cluster_check_commands(number: usize) -> Vec<NamedCommand> {
    value_commands(&format!("wxgate:check-value:{{{number}}}"))
}

fn value_commands(key: &str) -> Vec<NamedCommand> {
    vec![
        NamedCommand::new("SET", |set| {
            set.arg(key).arg("check").arg("PX").arg(millis(CHECK_VALUE_TTL));
        }),
        NamedCommand::new("GET", |get| {
            get.arg(key);
        }),
        NamedCommand::new("GETDEL", |take| {
            take.arg(key);
        }),
    ]
}

/// What an error of the server's or the connection's means.
fn classify(error: &RedisError, command: &'static str) -> StoreUnavailable {
    let detail = error.to_string();
    let cause = match error.code() {
        // Redis 6 and 7 word it differently; both quote the command. The client repeats what it was
        // answered to its own SELECT under another code.
        _ if detail.contains("permissions to run") => {
            UnavailableCause::ForbiddenCommand(forbidden_command(&detail, command))
        }
        Some("NOPERM") => UnavailableCause::ForbiddenKeys,
        Some("OOM") => UnavailableCause::Full,
        Some("READONLY") => UnavailableCause::ReadOnly,
        Some("MISCONF") => UnavailableCause::DiskError,
        Some("NOAUTH" | "WRONGPASS") => UnavailableCause::Credentials,
        Some("LOADING") => UnavailableCause::Loading,
        Some("BUSY") => UnavailableCause::Busy,
        Some("NOREPLICAS") => UnavailableCause::TooFewReplicas,
        Some("MASTERDOWN") => UnavailableCause::MasterDown,
        Some("CLUSTERDOWN") => UnavailableCause::ClusterDown,
        Some("ERR") if detail.contains("max number of clients") => UnavailableCause::TooManyClients,
        Some("ERR") if detail.contains("unknown command") => {
            UnavailableCause::UnknownCommand(command)
        }
        Some(_) => UnavailableCause::Refused,
        // A cluster says it of its nodes.
        None if detail.contains("AuthenticationFailed") => UnavailableCause::Credentials,
        None => UnavailableCause::Unreachable,
    };
    StoreUnavailable::new(cause, detail)
}

/// The command that an ACL forbids, as the server quotes it. The client sends some of its own, to find
/// the master or the slots, before ours.
fn forbidden_command(detail: &str, sent: &'static str) -> &'static str {
    let own = [
        ("'role'", "ROLE"),
        ("'cluster|slots'", "CLUSTER|SLOTS"),
        ("'cluster'", "CLUSTER|SLOTS"),
        ("'select'", "SELECT"),
    ];
    own.into_iter().find(|(quoted, _)| detail.contains(quoted)).map_or(sent, |(_, name)| name)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serialized_names_in_redis() {
        assert_eq!(name("code/00ff"), "wxgate:code/00ff");
        assert_eq!((LOG, FIELD), ("wxgate:revocations", "order"));
        assert_eq!(CHECK_STREAM, "wxgate:check:{wxgate:revocations}");
        assert_eq!(CHECK_VALUE, "wxgate:check-value:{wxgate:revocations}");
    }
}
