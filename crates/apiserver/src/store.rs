//! The state: one ordered change log in SQLite, served from memory.
//!
//! ```text
//!  get, list ──► memory: present of every object ◄─┐
//!  watch ──────► memory: last changes per prefix ◄─┤ publish
//!  list_at, resumed watch ──► SQLite (readers)     │
//!                                  ▲               │
//!  commit, compact ──► queue ──► writer thread ────┴──► SQLite: one transaction per group, synced
//! ```
//!
//! # Guarantees
//!
//! - What [`Store::commit`] acknowledged is on the disk and survives the process, the system and the power.
//! - Revisions are unique over all prefixes, rise by one with every change and are never given twice, also after
//!   compaction, restarts and restores. Neither lists nor watches show a revision that is not on the disk.
//! - A list shows every change up to its revision and none after it. A watch hands out every change after the revision that
//!   it began with, once and in order, or ends with an error.
//! - Readers wait for no disk, except when they ask for a past that is no longer in memory.
//!
//! # Assumptions
//!
//! A local file system with flock, and a disk that keeps what was synced.
//!
//! The files, the schema and what a crash leaves are described in `docs/state-dir.md`.

use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::Sender;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use tokio::sync::{Semaphore, oneshot};

mod cache;
mod compaction;
mod database;
mod history;
mod lock;
mod log;
mod maintenance;
mod stage;
#[cfg(test)]
mod tests;
mod types;
mod watch;
mod writer;

pub use maintenance::{BackupError, CheckReport, Existing, RestoreError, Restored, backup, check, restore};
pub use types::{
    Change, CommitError, EncodeError, Encoded, Event, EventKind, Expect, HistoryError, HistoryLimits,
    Listing, StorageFault, StoreOptions, Stored, WatchError, Write,
};
pub use watch::Watch;

use cache::{Cache, rewind};
use compaction::Ages;
use database::DatabaseError;
use history::Readers;
pub use lock::{DirectoryLock, LockError};
use writer::{Pending, Request, Writer};

/// What may wait to be written, in KiB. Whoever comes then waits for a share; nothing is refused.
const QUEUE_KIBIBYTES: u32 = 64 << 10;

/// Why the state cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Another server has it open. The way out: stop that one, or use another directory.
    #[error("another server{} uses the state in `{directory}`", process.map(|process| format!(" (process {process})")).unwrap_or_default())]
    Locked {
        /// The directory.
        directory: PathBuf,
        /// The other server, where it is known.
        process: Option<u32>,
    },
    /// A later version wrote it. It was not changed.
    #[error(
        "`{path}` was written by a newer version: it has the schema version {found}, and this version knows {supported}"
    )]
    Newer {
        /// The database.
        path: PathBuf,
        /// Its version.
        found: i32,
        /// The version that this program writes.
        supported: i32,
    },
    /// There is none.
    #[error("there is no state at `{path}`")]
    Missing {
        /// The database.
        path: PathBuf,
    },
    /// It is the file of another program.
    #[error("`{path}` is not the state of a server")]
    Foreign {
        /// The database.
        path: PathBuf,
    },
    /// Its content is not what was written. The way out: restore a backup.
    #[error("the state `{path}` is damaged")]
    Damaged {
        /// The database.
        path: PathBuf,
        /// Where it was noticed.
        #[source]
        source: StorageFault,
    },
    /// SQLite cannot open or read it.
    #[error("cannot {action} the state `{path}`")]
    Database {
        /// What was attempted, as a verb.
        action: &'static str,
        /// The database.
        path: PathBuf,
        /// Why.
        #[source]
        source: StorageFault,
    },
    /// A file operation failed.
    #[error("cannot {action} `{path}`")]
    Io {
        /// What was attempted, as a verb.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl OpenError {
    fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { action, path: path.into(), source }
    }

    fn database(path: &Path, error: DatabaseError) -> Self {
        let path = path.to_owned();
        match error {
            DatabaseError::Newer { version } => {
                Self::Newer { path, found: version, supported: database::SCHEMA_VERSION }
            }
            DatabaseError::Foreign => Self::Foreign { path },
            DatabaseError::Io { action, source } => Self::Io { action, path, source },
            DatabaseError::Sqlite { source, .. } if database::is_damaged(&source) => {
                Self::Damaged { path, source: StorageFault::new(source) }
            }
            DatabaseError::Sqlite { action, source } => {
                Self::Database { action, path, source: StorageFault::new(source) }
            }
        }
    }
}

fn lock_error(directory: &Path, error: LockError) -> OpenError {
    match error {
        LockError::Held { process } => OpenError::Locked { directory: directory.into(), process },
        LockError::Io { action, source } => OpenError::io(action, &directory.join(lock::FILE), source),
    }
}

/// The state of a server. Clones share it; it is closed by [`close`](Self::close), or when the last clone is dropped.
#[derive(Debug, Clone)]
pub struct Store {
    directory: Arc<Path>,
    cache: Arc<Cache>,
    readers: Arc<Readers>,
    queue: Sender<Request>,
    shares: Arc<Semaphore>,
    finished: tokio::sync::watch::Receiver<bool>,
}

impl Store {
    /// Opens the state in a directory, and makes it where there is none.
    ///
    /// # Errors
    /// When the directory cannot be used, is in use, or holds something that this version does not read.
    pub fn open(options: StoreOptions) -> Result<Self, OpenError> {
        let StoreOptions { directory, history: limits } = options;
        lock::make_directory(&directory).map_err(|source| OpenError::io("create", &directory, source))?;
        let lock = DirectoryLock::take(&directory).map_err(|error| lock_error(&directory, error))?;
        let path = directory.join(database::FILE);
        let failed = |error| OpenError::database(&path, error);
        database::examine(&path).map_err(failed)?;
        let connection = database::open_or_create(&path).map_err(failed)?;
        let mut replay = log::replay(&connection)
            .map_err(|source| failed(DatabaseError::Sqlite { action: "read", source }))?;

        let mut ages = Ages::default();
        for change in std::mem::take(&mut replay.history) {
            ages.add(change);
        }
        let cache = Arc::new(Cache::new(replay, &limits));
        let readers = Readers::new(path.clone());
        let (finished, is_finished) = tokio::sync::watch::channel(false);
        let wal_bytes = database::with_suffix(&path, "-wal").metadata().map_or(0, |wal| wal.len());
        let writer = Writer {
            path,
            connection: Some(connection),
            cache: Arc::clone(&cache),
            readers: Arc::clone(&readers),
            limits,
            ages,
            wal_bytes,
            is_full: false,
            lock: Some(lock),
            finished,
        };
        let (queue, requests) = mpsc::channel();
        std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || writer.run(&requests))
            .map_err(|source| OpenError::io("start the writer of", &directory, source))?;
        Ok(Self {
            directory: directory.into(),
            cache,
            readers,
            queue,
            shares: Arc::new(Semaphore::new(QUEUE_KIBIBYTES as usize)),
            finished: is_finished,
        })
    }

    /// The revision of the last change, at least 1.
    pub fn revision(&self) -> u64 {
        self.cache.read().revision
    }

    /// The oldest revision whose state is still known.
    pub fn oldest_revision(&self) -> u64 {
        self.cache.read().floor
    }

    /// No earlier than the last change under `prefix`, and the same until there is another.
    pub fn last_changed(&self, prefix: &str) -> u64 {
        self.cache.read().last_changed(prefix)
    }

    /// One object as it is now.
    pub fn get(&self, prefix: &str, namespace: &str, name: &str) -> Option<Arc<Stored>> {
        self.cache.read().get(prefix, namespace, name).cloned()
    }

    /// All objects of a prefix, or of one namespace in it, as they are now.
    pub fn list(&self, prefix: &str, namespace: Option<&str>) -> Listing {
        self.list_from(prefix, namespace, None, usize::MAX)
    }

    /// At most `max` objects, those that come after `after` (namespace, name).
    pub fn list_from(
        &self,
        prefix: &str,
        namespace: Option<&str>,
        after: Option<(&str, &str)>,
        max: usize,
    ) -> Listing {
        let state = self.cache.read();
        let items = state.objects(prefix, namespace, after).take(max).cloned().collect();
        Listing { revision: state.revision, items }
    }

    /// All objects of a prefix, or of one namespace in it, as they were at `revision`.
    ///
    /// # Errors
    /// When that is forgotten, is yet to come, or cannot be read.
    pub fn list_at(
        &self,
        prefix: &str,
        namespace: Option<&str>,
        revision: u64,
    ) -> impl Future<Output = Result<Listing, HistoryError>> + Send + use<> {
        let (cache, readers) = (Arc::clone(&self.cache), Arc::clone(&self.readers));
        let (prefix, namespace) = (prefix.to_owned(), namespace.map(str::to_owned));
        async move {
            let namespace = namespace.as_deref();
            let (items, current) = {
                let state = cache.read();
                state.judge(&prefix, revision)?;
                let items: Vec<_> = state.objects(&prefix, namespace, None).cloned().collect();
                let Some(known) = state.prefix(&prefix).filter(|known| revision < known.last_changed) else {
                    return Ok(Listing { revision, items });
                };
                if revision >= known.window_start {
                    let before = known.before(namespace, revision);
                    drop(state);
                    return Ok(Listing { revision, items: rewind(items, before) });
                }
                (items, state.revision)
            };
            let namespace = namespace.map(str::to_owned);
            let query = move |connection: &rusqlite::Connection| {
                log::before(connection, &prefix, namespace.as_deref(), revision, current)
            };
            let before = readers.read(revision, query).await?;
            Ok(Listing { revision, items: rewind(items, before) })
        }
    }

    /// Waits until the store has reached `revision`, for at most `timeout`; whether it has.
    pub fn wait_for(&self, revision: u64, timeout: Duration) -> impl Future<Output = bool> + Send + use<> {
        let mut revisions = self.cache.revisions();
        async move {
            let reached = revisions.wait_for(|current| *current >= revision);
            matches!(tokio::time::timeout(timeout, reached).await, Ok(Ok(_)))
        }
    }

    /// Writes one object; it is on the disk when this returns. When the future is dropped, the write may happen or not.
    ///
    /// # Errors
    /// When the object is not as expected, or cannot be written; [`CommitError`] says which of them are worth a retry.
    pub fn commit(
        &self,
        write: Write,
    ) -> impl Future<Output = Result<Arc<Stored>, CommitError>> + Send + use<> {
        let (queue, shares) = (self.queue.clone(), Arc::clone(&self.shares));
        async move {
            let encoded = write.change.encoded();
            if (encoded.namespace(), encoded.name()) != (&*write.namespace, &*write.name) {
                let cause = format!(
                    "an object that calls itself `{}/{}` cannot be stored as `{}/{}`",
                    encoded.namespace(),
                    encoded.name(),
                    write.namespace,
                    write.name
                );
                return Err(CommitError::Unavailable(StorageFault::new(cause)));
            }
            let share = u32::try_from(encoded.size() >> 10).unwrap_or(u32::MAX).min(QUEUE_KIBIBYTES - 1) + 1;
            let share = shares.acquire_many_owned(share).await.map_err(|_| CommitError::Closed)?;
            let (answer, answered) = oneshot::channel();
            queue
                .send(Request::Write(Pending { write, answer, _share: share }))
                .map_err(|_| CommitError::Closed)?;
            answered.await.unwrap_or(Err(CommitError::Closed))
        }
    }

    /// The changes under `prefix`, or in one namespace of it, after the revision `from`.
    ///
    /// # Errors
    /// When those are forgotten, or `from` is yet to come.
    pub fn watch(&self, prefix: &str, namespace: Option<String>, from: u64) -> Result<Watch, HistoryError> {
        self.cache.read().judge(prefix, from)?;
        Ok(Watch::new(Arc::clone(&self.cache), Arc::clone(&self.readers), prefix, namespace, from))
    }

    /// Forgets the history before `revision`, or before now if that is earlier; returns the oldest revision that is left.
    ///
    /// # Errors
    /// When the store is closed.
    pub fn compact(&self, revision: u64) -> impl Future<Output = Result<u64, CommitError>> + Send + use<> {
        let (answer, answered) = oneshot::channel();
        let sent = self.queue.send(Request::Compact { revision, answer });
        async move {
            sent.map_err(|_| CommitError::Closed)?;
            answered.await.unwrap_or(Err(CommitError::Closed))
        }
    }

    /// Copies the state to the new file `path`, see [`backup`]. Writers go on meanwhile.
    ///
    /// # Errors
    /// As [`backup`].
    pub fn backup(&self, path: &Path) -> impl Future<Output = Result<(), BackupError>> + Send + use<> {
        let (directory, path) = (Arc::clone(&self.directory), path.to_owned());
        async move {
            let copied = tokio::task::spawn_blocking({
                let path = path.clone();
                move || backup(&directory, &path)
            });
            copied
                .await
                .unwrap_or_else(|failed| Err(BackupError::Copy { path, source: StorageFault::new(failed) }))
        }
    }

    /// Closes the store: what was queued before is written, watches end after their last change, the directory is free when
    /// this returns. Objects can still be read.
    pub fn close(&self) -> impl Future<Output = ()> + Send + use<> {
        // An error means that the writer has ended already.
        let _ = self.queue.send(Request::Close);
        let mut finished = self.finished.clone();
        async move {
            // The same: the sender goes with the writer.
            let _ = finished.wait_for(|finished| *finished).await;
        }
    }
}
