//! The keepers: this process, a file of its own, or Redis.

use std::time::Duration;

#[cfg(feature = "redis")]
use super::redis::RedisStore;
use super::{
    LogPosition, LogRead, OpenError, OpenErrorKind, Settings, StoreUnavailable, file::FileStore,
    memory::MemoryStore,
};
use crate::{auth::Revocation, error_chain};

/// One of the keepers.
#[derive(Debug)]
pub enum StoreBackend {
    /// This process.
    Memory(MemoryStore),
    /// A file of this process.
    File(FileStore),
    /// Redis.
    #[cfg(feature = "redis")]
    Redis(Box<RedisStore>),
}

impl StoreBackend {
    /// Prepares a keeper. A file is opened now, a connection when it is needed.
    pub fn new(settings: &Settings) -> Result<Self, OpenError> {
        match settings {
            Settings::Memory => Ok(Self::Memory(MemoryStore::default())),
            Settings::File(path) => {
                let file = FileStore::open(path).map_err(|error| OpenError {
                    text: error_chain::line(&error),
                    kind: error.kind(),
                })?;
                Ok(Self::File(file))
            }
            #[cfg(feature = "redis")]
            Settings::Redis(remote) => {
                let redis = RedisStore::new(remote).map_err(|error| OpenError {
                    text: error.to_string(),
                    kind: OpenErrorKind::Other,
                })?;
                Ok(Self::Redis(Box::new(redis)))
            }
            #[cfg(not(feature = "redis"))]
            Settings::Redis(_) => {
                let text = "this wxgate was built without the feature `redis`".to_owned();
                Err(OpenError { text, kind: OpenErrorKind::Other })
            }
        }
    }

    /// Keeps a value for `age`.
    pub async fn put(
        &self,
        key: &str,
        value: Vec<u8>,
        age: Duration,
    ) -> Result<(), StoreUnavailable> {
        match self {
            Self::Memory(memory) => {
                memory.put(key, value, age);
                Ok(())
            }
            Self::File(file) => file.put(key, value, age).await,
            #[cfg(feature = "redis")]
            Self::Redis(redis) => redis.put(key, value, age).await,
        }
    }

    /// Keeps a value for `age` unless there is one of that name already; whether it was kept.
    pub async fn put_new(
        &self,
        key: &str,
        value: Vec<u8>,
        age: Duration,
    ) -> Result<bool, StoreUnavailable> {
        match self {
            Self::Memory(memory) => Ok(memory.put_new(key, value, age)),
            Self::File(file) => file.put_new(key, value, age).await,
            #[cfg(feature = "redis")]
            Self::Redis(redis) => redis.put_new(key, value, age).await,
        }
    }

    /// The value, if it has not expired.
    pub async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, StoreUnavailable> {
        match self {
            Self::Memory(memory) => Ok(memory.get(key)),
            Self::File(file) => file.get(key).await,
            #[cfg(feature = "redis")]
            Self::Redis(redis) => redis.get(key).await,
        }
    }

    /// The value, which is then gone: of two who ask, one gets it.
    pub async fn take(&self, key: &str) -> Result<Option<Vec<u8>>, StoreUnavailable> {
        match self {
            Self::Memory(memory) => Ok(memory.take(key)),
            Self::File(file) => file.take(key).await,
            #[cfg(feature = "redis")]
            Self::Redis(redis) => redis.take(key).await,
        }
    }

    /// Adds to the log. Orders are forgotten once the last of them is older than `age`.
    pub async fn revoke(
        &self,
        orders: &[Revocation],
        age: Duration,
    ) -> Result<(), StoreUnavailable> {
        match self {
            Self::Memory(_) => Ok(()),
            Self::File(file) => file.revoke(orders).await,
            #[cfg(feature = "redis")]
            Self::Redis(redis) => redis.revoke(orders, age).await,
        }
    }

    /// Adds to the log from the task that reads it.
    pub async fn restore(
        &self,
        orders: &[Revocation],
        age: Duration,
    ) -> Result<(), StoreUnavailable> {
        match self {
            Self::Memory(_) => Ok(()),
            Self::File(file) => file.revoke(orders).await,
            #[cfg(feature = "redis")]
            Self::Redis(redis) => redis.restore(orders, age).await,
        }
    }

    /// Makes sure that a revocation and a login would be stored.
    pub async fn check_writable(&self) -> Result<(), StoreUnavailable> {
        match self {
            Self::Memory(_) => Ok(()),
            Self::File(file) => file.check_writable().await,
            #[cfg(feature = "redis")]
            Self::Redis(redis) => redis.check_writable().await,
        }
    }

    /// Makes sure that values can be stored on one part of a Redis Cluster, another one each time.
    #[cfg_attr(not(feature = "redis"), expect(clippy::unused_async, reason = "of Redis alone"))]
    pub async fn check_next_master(&self) -> Result<(), StoreUnavailable> {
        match self {
            Self::Memory(_) | Self::File(_) => Ok(()),
            #[cfg(feature = "redis")]
            Self::Redis(redis) => redis.check_next_master().await,
        }
    }

    /// Whether a call went unanswered and no write has been since.
    pub fn is_silent(&self) -> bool {
        match self {
            Self::Memory(_) | Self::File(_) => false,
            #[cfg(feature = "redis")]
            Self::Redis(redis) => redis.is_silent(),
        }
    }

    /// Tries each command that the gateway uses, and says which of them failed and why.
    pub async fn try_commands(&self) -> Vec<StoreUnavailable> {
        match self {
            Self::Memory(_) => Vec::new(),
            Self::File(file) => file.try_write().await.err().into_iter().collect(),
            #[cfg(feature = "redis")]
            Self::Redis(redis) => redis.try_commands().await,
        }
    }

    /// Makes sure that the server is still the one to ask. That may take a while.
    #[cfg_attr(not(feature = "redis"), expect(clippy::unused_async, reason = "of Redis alone"))]
    pub async fn check_master(&self) {
        match self {
            Self::Memory(_) | Self::File(_) => (),
            #[cfg(feature = "redis")]
            Self::Redis(redis) => redis.check_master().await,
        }
    }

    /// Reads on in the log. Every answer, an empty one too, says that the keeper is there and that
    /// nothing else has been added.
    pub async fn follow(&self, mark: &LogPosition) -> Result<LogRead, StoreUnavailable> {
        match self {
            Self::Memory(_) => {
                Ok(LogRead::Next { orders: Vec::new(), mark: LogPosition::default(), more: false })
            }
            Self::File(file) => file.follow(mark).await,
            #[cfg(feature = "redis")]
            Self::Redis(redis) => redis.follow(mark).await,
        }
    }
}
