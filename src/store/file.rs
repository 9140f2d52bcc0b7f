//! The keeper for a gateway that is alone and remembers over a restart: one file (redb).
//!
//! A thread of its own owns the file. It takes what has gathered, writes it as one transaction and
//! answers when the disk has it, so that nothing that was acknowledged is lost in a crash. After an
//! I/O error, a full disk mostly, redb takes the file for broken until it is opened again. The thread
//! does that by itself, as often as it is asked for something, with a pause in between.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    time::Duration,
};

use redb::{
    Database, DatabaseError, ReadableDatabase, ReadableTable, StorageError, Table, TableDefinition,
    TableError, WriteTransaction,
};
use rustix::fs::{StatVfsMountFlags, statvfs};
use tokio::{sync::oneshot, time::Instant};

use super::{LogPosition, LogRead, OpenErrorKind, StoreUnavailable, UnavailableCause};
use crate::{
    auth::Revocation,
    clock::{self, Timestamp},
    error_chain,
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

/// How long a file that failed is left alone.
const REOPEN_INTERVAL: Duration = Duration::from_millis(500);
/// How often a write is tried though nothing needs one and the disk has room: each is an fsync.
const WRITE_CHECK_INTERVAL: Duration = Duration::from_secs(30);
/// The value that such a write leaves behind.
const CHECK_KEY: &str = "check";

/// The way to the thread that owns the file.
#[derive(Debug)]
pub struct FileStore {
    commands: SyncSender<FileCommand>,
    path: PathBuf,
    /// Set by the thread from an error to the next write.
    failing: Arc<AtomicBool>,
    checked: Mutex<Option<Instant>>,
}

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
    /// The system refused while it was open.
    #[error("{0} cannot be written")]
    Write(PathBuf, #[source] io::Error),
}

impl FileStoreError {
    /// What stands in the way.
    pub fn kind(&self) -> OpenErrorKind {
        match self {
            Self::InUse(_) => OpenErrorKind::InUse,
            Self::System(_, error) if error.kind() == io::ErrorKind::PermissionDenied => {
                OpenErrorKind::Forbidden
            }
            Self::Empty(_) | Self::Damaged(..) | Self::System(..) | Self::Write(..) => {
                OpenErrorKind::Other
            }
        }
    }
}

/// What the thread is to do.
#[derive(Debug)]
enum Operation {
    Put { key: String, value: Vec<u8>, age: Duration },
    PutNew { key: String, value: Vec<u8>, age: Duration },
    Get { key: String },
    Take { key: String },
    Revoke(Vec<Revocation>),
    Follow { from: u64 },
}

impl Operation {
    fn is_read(&self) -> bool {
        matches!(self, Self::Get { .. } | Self::Follow { .. })
    }
}

/// What came of it.
#[derive(Debug)]
enum OperationResult {
    Done,
    Kept(bool),
    Value(Option<Vec<u8>>),
    Log { orders: Vec<Revocation>, next: u64 },
}

impl OperationResult {
    fn value(self) -> Option<Vec<u8>> {
        match self {
            Self::Value(value) => value,
            Self::Done | Self::Kept(_) | Self::Log { .. } => None,
        }
    }
}

/// An operation, and where its result goes.
#[derive(Debug)]
struct FileCommand {
    operation: Operation,
    answer: oneshot::Sender<Result<OperationResult, StoreUnavailable>>,
}

impl FileStore {
    /// Opens the file, or makes it where there is none.
    pub fn open(path: &Path) -> Result<Self, FileStoreError> {
        let database = open_database(path)?;
        let (commands, waiting) = sync_channel(QUEUE_LEN);
        let failing = Arc::<AtomicBool>::default();
        let worker = FileWorker {
            path: path.to_owned(),
            database: Some(database),
            failing: Arc::clone(&failing),
            failure: None,
            executed: 0,
        };
        std::thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || worker.run(&waiting))
            .map_err(|error| FileStoreError::System(path.to_owned(), error))?;
        Ok(Self { commands, path: path.to_owned(), failing, checked: Mutex::default() })
    }

    pub async fn put(
        &self,
        key: &str,
        value: Vec<u8>,
        age: Duration,
    ) -> Result<(), StoreUnavailable> {
        let key = key.to_owned();
        self.execute(Operation::Put { key, value, age }).await.map(|_| ())
    }

    pub async fn put_new(
        &self,
        key: &str,
        value: Vec<u8>,
        age: Duration,
    ) -> Result<bool, StoreUnavailable> {
        let key = key.to_owned();
        let kept = self.execute(Operation::PutNew { key, value, age }).await?;
        Ok(matches!(kept, OperationResult::Kept(true)))
    }

    pub async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, StoreUnavailable> {
        self.execute(Operation::Get { key: key.to_owned() }).await.map(OperationResult::value)
    }

    pub async fn take(&self, key: &str) -> Result<Option<Vec<u8>>, StoreUnavailable> {
        self.execute(Operation::Take { key: key.to_owned() }).await.map(OperationResult::value)
    }

    pub async fn revoke(&self, orders: &[Revocation]) -> Result<(), StoreUnavailable> {
        self.execute(Operation::Revoke(orders.to_vec())).await.map(|_| ())
    }

    pub async fn follow(&self, mark: &LogPosition) -> Result<LogRead, StoreUnavailable> {
        let from = mark.0.as_deref().and_then(|mark| mark.parse().ok()).unwrap_or(0);
        let read = self.execute(Operation::Follow { from }).await?;
        let OperationResult::Log { orders, next } = read else {
            return Err(StoreUnavailable::internal("the log was not read"));
        };
        Ok(LogRead::Next { orders, mark: LogPosition(Some(next.to_string())), more: false })
    }

    /// Makes sure that a write would succeed. Where the disk has room and nothing has failed, a write
    /// is tried only now and then.
    pub async fn check_writable(&self) -> Result<(), StoreUnavailable> {
        let checked = *self.checked.lock().unwrap_or_else(PoisonError::into_inner);
        let recent = checked.is_some_and(|when| when.elapsed() < WRITE_CHECK_INTERVAL);
        if recent && !self.failing.load(Ordering::Acquire) && !takes_no_writes(&self.path) {
            return Ok(());
        }
        self.try_write().await?;
        *self.checked.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        Ok(())
    }

    /// Writes a value that expires.
    pub async fn try_write(&self) -> Result<(), StoreUnavailable> {
        self.put(CHECK_KEY, b"1".to_vec(), WRITE_CHECK_INTERVAL).await
    }

    async fn execute(&self, operation: Operation) -> Result<OperationResult, StoreUnavailable> {
        let (answer, told) = oneshot::channel();
        self.commands
            .try_send(FileCommand { operation, answer })
            .map_err(|_| StoreUnavailable::new(UnavailableCause::FileOverloaded, ""))?;
        told.await.unwrap_or_else(|_| Err(StoreUnavailable::internal("the store thread ended")))
    }
}

/// Whether the disk says beforehand that it takes no writes. It may be wrong: a file can have room
/// inside.
fn takes_no_writes(path: &Path) -> bool {
    statvfs(path)
        .is_ok_and(|disk| disk.f_bavail == 0 || disk.f_flag.contains(StatVfsMountFlags::RDONLY))
}

fn open_database(path: &Path) -> Result<Database, FileStoreError> {
    if path.metadata().is_ok_and(|found| found.len() == 0) {
        return Err(FileStoreError::Empty(path.to_owned()));
    }
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE).set_check_integrity_on_open(true);
    let database = builder.create(path).map_err(|error| unusable(path, error))?;
    // What cannot be read now would be missed later.
    if let Err(error) = prepare(&database) {
        return Err(if let redb::Error::Io(error) = error {
            FileStoreError::System(path.to_owned(), error)
        } else {
            FileStoreError::Damaged(path.to_owned(), error.to_string())
        });
    }
    Ok(database)
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

/// Reads every order once, and makes the tables where there are none: a file that has them is opened
/// without a write, on a full disk too.
fn prepare(database: &Database) -> Result<(), redb::Error> {
    let reading = database.begin_read()?;
    match (reading.open_table(VALUES), reading.open_table(ORDERS)) {
        (Ok(_), Ok(orders)) => {
            for entry in orders.iter()? {
                let (_, text) = entry?;
                serde_json::from_slice::<Revocation>(text.value())
                    .map_err(|error| redb::Error::Corrupted(error.to_string()))?;
            }
            Ok(())
        }
        (
            Ok(_) | Err(TableError::TableDoesNotExist(_)),
            Ok(_) | Err(TableError::TableDoesNotExist(_)),
        ) => {
            let transaction = database.begin_write()?;
            transaction.open_table(VALUES)?;
            transaction.open_table(ORDERS)?;
            Ok(transaction.commit()?)
        }
        (Err(error), _) | (_, Err(error)) => Err(error.into()),
    }
}

/// The thread that owns the file.
struct FileWorker {
    path: PathBuf,
    /// Nothing after an error, until it could be opened again.
    database: Option<Database>,
    failing: Arc<AtomicBool>,
    /// The last failure to open or to use the file, and when it was.
    failure: Option<(StoreUnavailable, Instant)>,
    /// Operations since expired values were last removed.
    executed: usize,
}

impl FileWorker {
    /// Executes commands until no sender is left.
    fn run(mut self, waiting: &Receiver<FileCommand>) {
        while let Ok(first) = waiting.recv() {
            let batch: Vec<FileCommand> =
                std::iter::once(first).chain(waiting.try_iter().take(MAX_BATCH)).collect();
            let (operations, answers): (Vec<_>, Vec<_>) =
                batch.into_iter().map(|command| (command.operation, command.answer)).unzip();
            // The asker may have gone.
            match self.execute(&operations) {
                Ok(results) => {
                    for (answer, result) in answers.into_iter().zip(results) {
                        let _ = answer.send(Ok(result));
                    }
                }
                Err(failure) => {
                    for answer in answers {
                        let _ = answer.send(Err(failure.clone()));
                    }
                }
            }
        }
    }

    fn execute(
        &mut self,
        operations: &[Operation],
    ) -> Result<Vec<OperationResult>, StoreUnavailable> {
        self.executed += operations.len();
        let tidy = self.executed >= EXPIRE_EVERY;
        match execute_batch(self.open()?, operations, tidy) {
            Ok(results) => {
                if tidy {
                    self.executed = 0;
                }
                let wrote = !operations.iter().all(Operation::is_read);
                if wrote && self.failing.swap(false, Ordering::AcqRel) {
                    tracing::info!("store file can be written again");
                }
                Ok(results)
            }
            Err(error) => {
                // Closed here, opened again by a later batch.
                self.database = None;
                let error = if let redb::Error::Io(error) = error {
                    FileStoreError::Write(self.path.clone(), error)
                } else {
                    FileStoreError::Damaged(self.path.clone(), error.to_string())
                };
                Err(self.fail(&error))
            }
        }
    }

    fn open(&mut self) -> Result<&Database, StoreUnavailable> {
        if self.database.is_none() {
            if let Some((failure, when)) = &self.failure
                && when.elapsed() < REOPEN_INTERVAL
            {
                return Err(failure.clone());
            }
            match open_database(&self.path) {
                Ok(database) => self.database = Some(database),
                Err(error) => return Err(self.fail(&error)),
            }
        }
        self.database.as_ref().ok_or_else(|| StoreUnavailable::internal("the file is closed"))
    }

    /// Remembers a failure, and logs the first in a row.
    fn fail(&mut self, error: &FileStoreError) -> StoreUnavailable {
        let cause = match error {
            FileStoreError::System(_, error) | FileStoreError::Write(_, error)
                if [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded]
                    .contains(&error.kind()) =>
            {
                UnavailableCause::FileDiskFull
            }
            FileStoreError::Empty(_)
            | FileStoreError::InUse(_)
            | FileStoreError::Damaged(..)
            | FileStoreError::System(..)
            | FileStoreError::Write(..) => UnavailableCause::FileUnusable,
        };
        let failure = StoreUnavailable::new(cause, error_chain::line(error));
        self.failure = Some((failure.clone(), Instant::now()));
        if !self.failing.swap(true, Ordering::AcqRel) {
            let remedy = cause.remedy();
            tracing::error!(error = %failure, remedy, "cannot write store file");
        }
        failure
    }
}

/// One transaction. The results count when it is on the disk.
fn execute_batch(
    database: &Database,
    operations: &[Operation],
    tidy: bool,
) -> Result<Vec<OperationResult>, redb::Error> {
    let now = clock::system();
    if operations.iter().all(Operation::is_read) {
        let reading = database.begin_read()?;
        let (values, orders) = (reading.open_table(VALUES)?, reading.open_table(ORDERS)?);
        return operations.iter().map(|it| execute_read(&values, &orders, it, now)).collect();
    }
    let transaction = database.begin_write()?;
    if tidy {
        forget_expired(&transaction, now)?;
    }
    let mut results = Vec::with_capacity(operations.len());
    {
        let mut values = transaction.open_table(VALUES)?;
        let mut orders = transaction.open_table(ORDERS)?;
        for operation in operations {
            results.push(execute_write(&mut values, &mut orders, operation, now)?);
        }
    }
    transaction.commit()?;
    Ok(results)
}

fn execute_read(
    values: &impl ReadableTable<&'static str, &'static [u8]>,
    orders: &impl ReadableTable<u64, &'static [u8]>,
    operation: &Operation,
    now: Timestamp,
) -> Result<OperationResult, redb::Error> {
    match operation {
        Operation::Get { key } => Ok(OperationResult::Value(current(values, key, now)?)),
        Operation::Follow { from } => {
            let (mut found, mut next) = (Vec::new(), *from);
            for entry in orders.range(*from..)? {
                let (number, text) = entry?;
                next = number.value().saturating_add(1);
                found.extend(serde_json::from_slice::<Revocation>(text.value()).ok());
            }
            Ok(OperationResult::Log { orders: found, next })
        }
        Operation::Put { .. }
        | Operation::PutNew { .. }
        | Operation::Take { .. }
        | Operation::Revoke(_) => Ok(OperationResult::Done),
    }
}

fn execute_write(
    values: &mut Table<'_, &'static str, &'static [u8]>,
    orders: &mut Table<'_, u64, &'static [u8]>,
    operation: &Operation,
    now: Timestamp,
) -> Result<OperationResult, redb::Error> {
    match operation {
        Operation::Put { key, value, age } => {
            values.insert(&**key, &*dated(value, now.plus(*age)))?;
            Ok(OperationResult::Done)
        }
        Operation::PutNew { key, value, age } => {
            let free = current(values, key, now)?.is_none();
            if free {
                values.insert(&**key, &*dated(value, now.plus(*age)))?;
            }
            Ok(OperationResult::Kept(free))
        }
        Operation::Take { key } => {
            let taken = current(values, key, now)?;
            values.remove(&**key)?;
            Ok(OperationResult::Value(taken))
        }
        Operation::Revoke(new) => {
            let next = orders.last()?.map_or(0, |(number, _)| number.value().saturating_add(1));
            for (number, order) in (next..).zip(new) {
                let text = serde_json::to_vec(order)
                    .map_err(|error| redb::Error::Corrupted(error.to_string()))?;
                orders.insert(number, &*text)?;
            }
            Ok(OperationResult::Done)
        }
        Operation::Get { .. } | Operation::Follow { .. } => {
            execute_read(values, orders, operation, now)
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
