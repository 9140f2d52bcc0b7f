//! The keepers: this process, a file of its own, or Redis.

use std::time::Duration;

#[cfg(feature = "redis")]
use super::redis::Redis;
use super::{Away, Heard, Mark, Settings, Unusable, file::File, memory::Memory};
use crate::{auth::Revocation, causes};

/// One of the keepers.
#[derive(Debug)]
pub enum Keeper {
    /// This process.
    Memory(Memory),
    /// A file of this process.
    File(File),
    /// Redis.
    #[cfg(feature = "redis")]
    Redis(Box<Redis>),
}

impl Keeper {
    /// Prepares a keeper. A file is opened now, a connection when it is needed.
    pub fn new(settings: &Settings) -> Result<Self, Unusable> {
        match settings {
            Settings::Memory => Ok(Self::Memory(Memory::default())),
            Settings::File(path) => {
                let file = File::open(path).map_err(|error| Unusable(causes::line(&error)))?;
                Ok(Self::File(file))
            }
            #[cfg(feature = "redis")]
            Settings::Redis(remote) => {
                let redis = Redis::new(remote).map_err(|error| Unusable(error.to_string()))?;
                Ok(Self::Redis(Box::new(redis)))
            }
            #[cfg(not(feature = "redis"))]
            Settings::Redis(_) => {
                Err(Unusable("this wxgate was built without the feature `redis`".to_owned()))
            }
        }
    }

    /// Keeps a value for `age`.
    pub async fn put(&self, key: &str, value: Vec<u8>, age: Duration) -> Result<(), Away> {
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
    pub async fn put_new(&self, key: &str, value: Vec<u8>, age: Duration) -> Result<bool, Away> {
        match self {
            Self::Memory(memory) => Ok(memory.put_new(key, value, age)),
            Self::File(file) => file.put_new(key, value, age).await,
            #[cfg(feature = "redis")]
            Self::Redis(redis) => redis.put_new(key, value, age).await,
        }
    }

    /// The value, if it has not expired.
    pub async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, Away> {
        match self {
            Self::Memory(memory) => Ok(memory.get(key)),
            Self::File(file) => file.get(key).await,
            #[cfg(feature = "redis")]
            Self::Redis(redis) => redis.get(key).await,
        }
    }

    /// The value, which is then gone: of two who ask, one gets it.
    pub async fn take(&self, key: &str) -> Result<Option<Vec<u8>>, Away> {
        match self {
            Self::Memory(memory) => Ok(memory.take(key)),
            Self::File(file) => file.take(key).await,
            #[cfg(feature = "redis")]
            Self::Redis(redis) => redis.take(key).await,
        }
    }

    /// Adds to the log. Orders are forgotten once the last of them is older than `age`.
    pub async fn revoke(&self, orders: &[Revocation], age: Duration) -> Result<(), Away> {
        match self {
            Self::Memory(_) => Ok(()),
            Self::File(file) => file.revoke(orders).await,
            #[cfg(feature = "redis")]
            Self::Redis(redis) => redis.revoke(orders, age).await,
        }
    }

    /// Makes sure that orders would be taken. A server that only answers may be one that nobody else
    /// asks any more.
    #[cfg_attr(not(feature = "redis"), expect(clippy::unused_async, reason = "of Redis alone"))]
    pub async fn pulse(&self) -> Result<(), Away> {
        match self {
            Self::Memory(_) | Self::File(_) => Ok(()),
            #[cfg(feature = "redis")]
            Self::Redis(redis) => redis.pulse().await,
        }
    }

    /// Makes sure that the server is still the one to ask. That may take a while.
    #[cfg_attr(not(feature = "redis"), expect(clippy::unused_async, reason = "of Redis alone"))]
    pub async fn look_round(&self) {
        match self {
            Self::Memory(_) | Self::File(_) => (),
            #[cfg(feature = "redis")]
            Self::Redis(redis) => redis.look_round().await,
        }
    }

    /// Reads on in the log. Every answer, an empty one too, says that the keeper is there and that
    /// nothing else has been added.
    pub async fn follow(&self, mark: &Mark) -> Result<Heard, Away> {
        match self {
            Self::Memory(_) => {
                Ok(Heard::Next { orders: Vec::new(), mark: Mark::default(), more: false })
            }
            Self::File(file) => file.follow(mark).await,
            #[cfg(feature = "redis")]
            Self::Redis(redis) => redis.follow(mark).await,
        }
    }
}
