//! Why a store could not do what it was asked, in words for an operator. Pure.

use std::fmt;

/// What keeps a store from doing its work. Each cause has its own remedy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnavailableCause {
    /// There is no connection, or no response in time.
    Unreachable,
    /// Reads are answered and writes are not, or too late.
    SlowWrites,
    /// `maxmemory` is reached under `noeviction`.
    Full,
    /// The server is a replica.
    ReadOnly,
    /// The last snapshot or the append-only file could not be written (`MISCONF`).
    DiskError,
    /// The ACL user lacks a command.
    ForbiddenCommand(&'static str),
    /// The ACL user may not use our keys.
    ForbiddenKeys,
    /// The password is wrong, or there is none.
    Credentials,
    /// The server is reading its data.
    Loading,
    /// A script of another program does not end.
    Busy,
    /// `min-replicas-to-write` is not met.
    TooFewReplicas,
    /// A replica has lost its master and does not serve old data.
    MasterDown,
    /// The cluster has lost a part of itself, or this node has lost the others.
    ClusterDown,
    /// `maxclients` is reached.
    TooManyClients,
    /// The server does not know a command: it is too old, or the command was renamed.
    UnknownCommand(&'static str),
    /// Any other refusal of the server.
    Refused,
    /// The disk under the store's file is full.
    FileDiskFull,
    /// The file cannot be written for another reason.
    FileUnusable,
    /// The thread that writes the file has more to do than it can.
    FileOverloaded,
    /// A mistake of the gateway's own.
    Internal,
}

impl UnavailableCause {
    /// The cause in a few words.
    pub fn summary(self) -> String {
        let text = match self {
            Self::Unreachable => "Redis does not answer",
            Self::SlowWrites => "Redis answers reads, but takes too long to write",
            Self::Full => "Redis is full (maxmemory reached)",
            Self::ReadOnly => "this Redis is a read-only replica",
            Self::DiskError => "Redis cannot write to its disk (MISCONF)",
            Self::ForbiddenCommand(command) => {
                return format!("the ACL user of [store] lacks the command {command}");
            }
            Self::ForbiddenKeys => "the ACL user of [store] may not use the keys wxgate:*",
            Self::Credentials => "Redis does not accept username and password",
            Self::Loading => "Redis is still loading its data",
            Self::Busy => "Redis is busy with a script",
            Self::TooFewReplicas => "Redis has too few replicas (min-replicas-to-write)",
            Self::MasterDown => "this Redis is a replica that has lost its master",
            Self::ClusterDown => "the Redis Cluster is down",
            Self::TooManyClients => "Redis takes no more connections (maxclients reached)",
            Self::UnknownCommand(command) => {
                return format!("this Redis does not know the command {command}");
            }
            Self::Refused => "Redis refused a command",
            Self::FileDiskFull => "the disk of the store's file is full",
            Self::FileUnusable => "the store's file cannot be used",
            Self::FileOverloaded => "the disk of the store's file is too slow",
            Self::Internal => "internal error",
        };
        text.to_owned()
    }

    /// What the operator does about it.
    pub fn remedy(self) -> String {
        let text = match self {
            Self::Unreachable => {
                "start it, or let this machine through to it: address, port and TLS of `[store]`; one that hangs up may have reached `maxclients`"
            }
            Self::SlowWrites => {
                "find what holds writes up: a slow disk with `appendfsync always`, CLIENT PAUSE, a failover"
            }
            Self::Full => {
                "raise `maxmemory`, or remove what other programs keep there; `noeviction` stays right"
            }
            Self::ReadOnly => "name the master in `[store]`, or its `sentinels`",
            Self::DiskError => {
                "make room on its disk, or let it write to its folder: `redis-cli INFO persistence`"
            }
            Self::ForbiddenCommand(command) => {
                return format!(
                    "ACL SETUSER with +{}; config.toml lists at `username` what the user needs",
                    command.to_lowercase()
                );
            }
            Self::ForbiddenKeys => {
                "ACL SETUSER with ~wxgate:*; config.toml lists at `username` what the user needs"
            }
            Self::Credentials => "correct `username` and `password` in `[store]`",
            Self::Loading => "wait: it answers as soon as it has read its data",
            Self::Busy => "SCRIPT KILL ends the script; find the program that sent it",
            Self::TooFewReplicas => "start its replicas, or see why they lag",
            Self::MasterDown => "name the master in `[store]`, or its `sentinels`",
            Self::ClusterDown => "see `redis-cli CLUSTER INFO`: each slot needs a master",
            Self::TooManyClients => "raise `maxclients`, or find the program that holds so many",
            Self::UnknownCommand(_) => {
                "run Redis 6.2 or newer, and rename none of the commands in config.toml"
            }
            Self::Refused => "the text that Redis sent says why",
            Self::FileDiskFull => {
                "make room on that disk; the file is opened again by itself, and no revocation is lost meanwhile"
            }
            Self::FileUnusable => {
                "mend the disk, or the rights of `path` in `[store]`; the file is opened again by itself"
            }
            Self::FileOverloaded => "see what else uses that disk",
            Self::Internal => "see the log",
        };
        text.to_owned()
    }

    /// Returns whether the server was silent, so that the next call would wait in vain.
    pub fn is_silence(self) -> bool {
        matches!(self, Self::Unreachable | Self::SlowWrites)
    }
}

/// The store could not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreUnavailable {
    /// What keeps it.
    pub cause: UnavailableCause,
    /// What was seen of it, which may be nothing.
    detail: String,
}

impl StoreUnavailable {
    /// A cause, and what was seen of it.
    pub fn new(cause: UnavailableCause, detail: impl Into<String>) -> Self {
        Self { cause, detail: detail.into() }
    }

    /// A mistake of the gateway's own.
    pub fn internal(detail: impl Into<String>) -> Self {
        Self::new(UnavailableCause::Internal, detail)
    }
}

impl fmt::Display for StoreUnavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.cause.summary())?;
        if self.detail.is_empty() { Ok(()) } else { write!(f, ": {}", self.detail) }
    }
}

impl std::error::Error for StoreUnavailable {}
