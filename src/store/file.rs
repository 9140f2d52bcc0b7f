//! The keeper for a gateway that is alone and remembers over a restart: one file (redb).
//!
//! A thread of its own owns the file. It takes what has gathered, writes it as one transaction and
//! answers when the disk has it, so that nothing that was acknowledged is lost in a crash.

use std::{
    io,
    path::{Path, PathBuf},
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    time::Duration,
};

use redb::{
    Database, DatabaseError, ReadableDatabase, ReadableTable, StorageError, Table, TableDefinition,
    WriteTransaction,
};
use tokio::sync::oneshot;

use super::{LogPosition, LogRead, StoreUnavailable};
use crate::{
    auth::Revocation,
    clock::{self, Timestamp},
};

/// The number at the end is that of the layout: eight bytes of expiry, then the value.
const VALUES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("values.1");
/// By number, as JSON.
const ORDERS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("orders.1");

/// Wishes that may wait; whoever comes then is told that the store is away.
const QUEUE_LEN: usize = 1_024;
/// Wishes in one transaction.
const MAX_BATCH: usize = 256;
const CACHE: usize = 8 * 1024 * 1024;
/// Wishes between two looks for what has expired.
const EXPIRE_EVERY: usize = 4_096;

/// The way to the thread that owns the file.
#[derive(Debug)]
pub struct FileStore(SyncSender<FileCommand>);

/// Why a file cannot be used. None of these is mended by starting from nothing in silence.
#[derive(Debug, thiserror::Error)]
pub enum FileStoreError {
    /// Somebody emptied it.
    #[error("{0} is empty; delete it to start fresh or restore a backup")]
    Empty(PathBuf),
    /// Another process has it.
    #[error("{0} is in use by another process; one file serves one gateway")]
    InUse(PathBuf),
    /// It is not what we wrote.
    #[error("{0} is damaged ({1}); restore a backup, or move it away to start fresh")]
    Damaged(PathBuf, String),
    /// The system refused.
    #[error("{0} cannot be opened")]
    System(PathBuf, #[source] io::Error),
}

type Answer<T> = oneshot::Sender<T>;

enum FileCommand {
    Put(String, Vec<u8>, Duration, Answer<()>),
    PutNew(String, Vec<u8>, Duration, Answer<bool>),
    Get(String, Answer<Option<Vec<u8>>>),
    Take(String, Answer<Option<Vec<u8>>>),
    Revoke(Vec<Revocation>, Answer<()>),
    Follow(u64, Answer<(Vec<Revocation>, u64)>),
}

impl FileStore {
    /// Opens the file, or makes it where there is none.
    pub fn open(path: &Path) -> Result<Self, FileStoreError> {
        let system = |error| FileStoreError::System(path.to_owned(), error);
        if path.metadata().is_ok_and(|found| found.len() == 0) {
            return Err(FileStoreError::Empty(path.to_owned()));
        }
        let mut builder = Database::builder();
        builder.set_cache_size(CACHE).set_check_integrity_on_open(true);
        let database = builder.create(path).map_err(|error| unusable(path, error))?;
        // What cannot be read now would be missed later.
        let damaged =
            |error: redb::Error| FileStoreError::Damaged(path.to_owned(), error.to_string());
        prepare(&database).map_err(damaged)?;
        let (wishes, waiting) = sync_channel(QUEUE_LEN);
        let work = move || run_store_thread(&database, &waiting);
        std::thread::Builder::new().name("store".to_owned()).spawn(work).map_err(system)?;
        Ok(Self(wishes))
    }

    pub async fn put(
        &self,
        key: &str,
        value: Vec<u8>,
        age: Duration,
    ) -> Result<(), StoreUnavailable> {
        self.ask(|answer| FileCommand::Put(key.to_owned(), value, age, answer)).await
    }

    pub async fn put_new(
        &self,
        key: &str,
        value: Vec<u8>,
        age: Duration,
    ) -> Result<bool, StoreUnavailable> {
        self.ask(|answer| FileCommand::PutNew(key.to_owned(), value, age, answer)).await
    }

    pub async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, StoreUnavailable> {
        self.ask(|answer| FileCommand::Get(key.to_owned(), answer)).await
    }

    pub async fn take(&self, key: &str) -> Result<Option<Vec<u8>>, StoreUnavailable> {
        self.ask(|answer| FileCommand::Take(key.to_owned(), answer)).await
    }

    pub async fn revoke(&self, orders: &[Revocation]) -> Result<(), StoreUnavailable> {
        self.ask(|answer| FileCommand::Revoke(orders.to_vec(), answer)).await
    }

    pub async fn follow(&self, mark: &LogPosition) -> Result<LogRead, StoreUnavailable> {
        let from = mark.0.as_deref().and_then(|mark| mark.parse().ok()).unwrap_or(0);
        let (orders, next) = self.ask(|answer| FileCommand::Follow(from, answer)).await?;
        Ok(LogRead::Next { orders, mark: LogPosition(Some(next.to_string())), more: false })
    }

    async fn ask<T>(
        &self,
        wish: impl FnOnce(Answer<T>) -> FileCommand,
    ) -> Result<T, StoreUnavailable> {
        let (answer, told) = oneshot::channel();
        self.0
            .try_send(wish(answer))
            .map_err(|_| StoreUnavailable("it is overloaded".to_owned()))?;
        told.await.map_err(|_| StoreUnavailable("the file could not be written".to_owned()))
    }
}

fn unusable(path: &Path, error: DatabaseError) -> FileStoreError {
    let path = path.to_owned();
    if matches!(error, DatabaseError::DatabaseAlreadyOpen) {
        return FileStoreError::InUse(path);
    }
    if let DatabaseError::Storage(StorageError::Io(error)) = error {
        let torn = [io::ErrorKind::InvalidData, io::ErrorKind::UnexpectedEof];
        return if torn.contains(&error.kind()) {
            FileStoreError::Damaged(path, error.to_string())
        } else {
            FileStoreError::System(path, error)
        };
    }
    FileStoreError::Damaged(path, error.to_string())
}

/// Reads every order once, and makes the tables where there are none.
fn prepare(database: &Database) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    transaction.open_table(VALUES)?;
    for entry in transaction.open_table(ORDERS)?.iter()? {
        let (_, text) = entry?;
        serde_json::from_slice::<Revocation>(text.value())
            .map_err(|error| redb::Error::Corrupted(error.to_string()))?;
    }
    transaction.commit()?;
    Ok(())
}

/// Grants wishes until nobody can wish any more.
fn run_store_thread(database: &Database, waiting: &Receiver<FileCommand>) {
    let mut granted: usize = 0;
    while let Ok(first) = waiting.recv() {
        let wishes: Vec<FileCommand> =
            std::iter::once(first).chain(waiting.try_iter().take(MAX_BATCH)).collect();
        granted += wishes.len();
        if let Err(error) = execute_batch(database, wishes, granted >= EXPIRE_EVERY) {
            // Whoever waits for an answer sees that none comes.
            tracing::error!(%error, "cannot write store file");
        }
        granted = if granted >= EXPIRE_EVERY { 0 } else { granted };
    }
}

/// One transaction. The answers go out when it is on the disk.
fn execute_batch(
    database: &Database,
    wishes: Vec<FileCommand>,
    tidy: bool,
) -> Result<(), redb::Error> {
    let now = clock::system();
    if wishes.iter().all(|wish| matches!(wish, FileCommand::Get(..) | FileCommand::Follow(..))) {
        let reading = database.begin_read()?;
        let (values, orders) = (reading.open_table(VALUES)?, reading.open_table(ORDERS)?);
        for wish in wishes {
            if let Some(answer) = execute_read(&values, &orders, wish, now)? {
                answer();
            }
        }
        return Ok(());
    }
    let transaction = database.begin_write()?;
    if tidy {
        forget_expired(&transaction, now)?;
    }
    let mut answers = Vec::new();
    {
        let mut values = transaction.open_table(VALUES)?;
        let mut orders = transaction.open_table(ORDERS)?;
        for wish in wishes {
            answers.extend(write(&mut values, &mut orders, wish, now)?);
        }
    }
    transaction.commit()?;
    for answer in answers {
        answer();
    }
    Ok(())
}

type Completion = Box<dyn FnOnce()>;

/// An answer that waits for its moment. Nobody may be there to hear it.
fn ready<T: 'static>(answer: Answer<T>, value: T) -> Completion {
    Box::new(move || drop(answer.send(value)))
}

fn execute_read(
    values: &impl ReadableTable<&'static str, &'static [u8]>,
    orders: &impl ReadableTable<u64, &'static [u8]>,
    wish: FileCommand,
    now: Timestamp,
) -> Result<Option<Completion>, redb::Error> {
    match wish {
        FileCommand::Get(key, answer) => Ok(Some(ready(answer, current(values, &key, now)?))),
        FileCommand::Follow(from, answer) => {
            let (mut found, mut next) = (Vec::new(), from);
            for entry in orders.range(from..)? {
                let (number, text) = entry?;
                next = number.value().saturating_add(1);
                found.extend(serde_json::from_slice::<Revocation>(text.value()).ok());
            }
            Ok(Some(ready(answer, (found, next))))
        }
        FileCommand::Put(..)
        | FileCommand::PutNew(..)
        | FileCommand::Take(..)
        | FileCommand::Revoke(..) => Ok(None),
    }
}

fn write(
    values: &mut Table<'_, &'static str, &'static [u8]>,
    orders: &mut Table<'_, u64, &'static [u8]>,
    wish: FileCommand,
    now: Timestamp,
) -> Result<Option<Completion>, redb::Error> {
    match wish {
        FileCommand::Put(key, value, age, answer) => {
            values.insert(&*key, &*dated(&value, now.plus(age)))?;
            Ok(Some(ready(answer, ())))
        }
        FileCommand::PutNew(key, value, age, answer) => {
            let free = current(values, &key, now)?.is_none();
            if free {
                values.insert(&*key, &*dated(&value, now.plus(age)))?;
            }
            Ok(Some(ready(answer, free)))
        }
        FileCommand::Take(key, answer) => {
            let taken = current(values, &key, now)?;
            values.remove(&*key)?;
            Ok(Some(ready(answer, taken)))
        }
        FileCommand::Revoke(new, answer) => {
            let next = orders.last()?.map_or(0, |(number, _)| number.value().saturating_add(1));
            for (number, order) in (next..).zip(new) {
                let text = serde_json::to_vec(&order)
                    .map_err(|error| redb::Error::Corrupted(error.to_string()))?;
                orders.insert(number, &*text)?;
            }
            Ok(Some(ready(answer, ())))
        }
        looking @ (FileCommand::Get(..) | FileCommand::Follow(..)) => {
            execute_read(values, orders, looking, now)
        }
    }
}

fn forget_expired(transaction: &WriteTransaction, now: Timestamp) -> Result<(), redb::Error> {
    transaction.open_table(VALUES)?.retain(|_, value| opened(value, now).is_some())?;
    let mut orders = transaction.open_table(ORDERS)?;
    // The last one stays, so that numbers never begin anew.
    let last = orders.last()?.map(|(number, _)| number.value());
    orders.retain(|number, text| {
        let order = serde_json::from_slice::<Revocation>(text);
        Some(number) == last || order.is_ok_and(|order| now < order.until)
    })?;
    Ok(())
}

fn current(
    values: &impl ReadableTable<&'static str, &'static [u8]>,
    key: &str,
    now: Timestamp,
) -> Result<Option<Vec<u8>>, redb::Error> {
    let found = values.get(key)?;
    Ok(found.and_then(|found| opened(found.value(), now).map(<[u8]>::to_vec)))
}

fn dated(value: &[u8], until: Timestamp) -> Vec<u8> {
    [until.0.to_be_bytes().as_slice(), value].concat()
}

fn opened(stored: &[u8], now: Timestamp) -> Option<&[u8]> {
    let (until, value) = stored.split_first_chunk::<8>()?;
    (now.0 < u64::from_be_bytes(*until)).then_some(value)
}

#[cfg(test)]
mod tests;
