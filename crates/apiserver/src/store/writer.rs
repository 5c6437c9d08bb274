//! The one thread that writes.
//!
//! ```text
//! commit() ─┐                    ┌ judge each write ─► append ─► COMMIT (fsync) ─► publish ─► answer ┐
//! commit() ─┼─► queue ─► group ──┘                                                                   │
//! commit() ─┘      ▲                                     checkpoint, a batch of compaction ◄─────────┘
//!                  └───────────────────────────────────────────────────────┘
//! ```
//!
//! Whatever waits while one group is being synced is the next group, so that one fsync serves as many writers as there
//! are. Nothing is published or answered before it is on the disk.
//!
//! # When the disk fails
//!
//! No space: SQLite undoes the transaction, its writers are told, and the next group tries again.
//!
//! Anything else, above all a failed fsync: the kernel may have dropped pages that it could not write and call the next
//! fsync a success. So nothing that this connection believes is built upon. It is closed, a new one copies the committed
//! part of the write-ahead log into the database file (other pages of another file, synced anew) and empties the log; what
//! the log turns out to hold beyond the memory is published then. Until that succeeds nothing is written.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, TransactionBehavior};
use tokio::sync::{OwnedSemaphorePermit, oneshot, watch};

use super::cache::Cache;
use super::compaction::Ages;
use super::database;
use super::history::Readers;
use super::lock::DirectoryLock;
use super::log::{self, Change, Entry, Span};
use super::stage::{Verdict, stage};
use super::types::{CommitError, HistoryLimits, StorageFault, Stored, Write};

/// Most writes in one transaction, and
const GROUP_WRITES: usize = 256;

/// bytes of JSON that end a group. Both bound how long its first writer waits for the others.
const GROUP_BYTES: usize = 4 << 20;

/// Revisions that are forgotten in one transaction.
const COMPACTION_BATCH: u64 = 512;

/// The write-ahead log is copied into the database when about so much is in it.
const CHECKPOINT_BYTES: u64 = 4 << 20;

/// A log of so much means that somebody kept it from starting over; then readers are waited for.
const BLOCKED_WAL_PAGES: i64 = 16_384;

/// How long to wait for them.
const BLOCKED_WAL_TIMEOUT: Duration = Duration::from_millis(200);

/// What a change costs in the write-ahead log beside its JSON: the rest of its page, at most.
const PAGE_BYTES: u64 = 4096;

/// A file system with less space than this is called full when a write fails.
const QUOTA_BYTES: u64 = 1 << 20;

pub(super) type Answer<T> = oneshot::Sender<Result<T, CommitError>>;

#[cfg(test)]
pub(super) type Meddling = Box<dyn FnOnce(&mut Option<Connection>) + Send>;

/// What can be asked of the writer.
pub(super) enum Request {
    Write(Pending),
    Compact {
        revision: u64,
        answer: Answer<u64>,
    },
    /// Does something to the connection between two groups.
    #[cfg(test)]
    Meddle(Meddling),
    Close,
}

/// A write that waits.
pub(super) struct Pending {
    pub(super) write: Write,
    pub(super) answer: Answer<Arc<Stored>>,
    /// Its share of the queue, given back with the answer.
    pub(super) _share: OwnedSemaphorePermit,
}

/// Why a group was not written.
enum GroupFault {
    Full(StorageFault),
    /// The connection must not be used further.
    Broken(StorageFault),
}

impl GroupFault {
    fn error(&self) -> CommitError {
        match self {
            Self::Full(fault) => CommitError::Full(fault.clone()),
            Self::Broken(fault) => CommitError::Unavailable(fault.clone()),
        }
    }
}

/// The writer and everything that is its own.
pub(super) struct Writer {
    pub(super) path: PathBuf,
    /// `None` after a fault, until it could be opened anew.
    pub(super) connection: Option<Connection>,
    pub(super) cache: Arc<Cache>,
    pub(super) readers: Arc<Readers>,
    pub(super) limits: HistoryLimits,
    pub(super) ages: Ages,
    /// About what the write-ahead log holds that the database does not.
    pub(super) wal_bytes: u64,
    pub(super) is_full: bool,
    /// Ends with the writer, and the lock of the directory before it.
    pub(super) lock: Option<DirectoryLock>,
    pub(super) finished: watch::Sender<bool>,
}

/// However the thread ends, nobody is left waiting and the directory is free.
impl Drop for Writer {
    fn drop(&mut self) {
        self.cache.close();
        self.readers.clear();
        self.connection = None;
        self.lock = None;
        self.finished.send_replace(true);
    }
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

impl Writer {
    /// Serves `queue` until it is closed.
    pub(super) fn run(mut self, queue: &Receiver<Request>) {
        let tick = (self.limits.max_age / 20).clamp(Duration::from_secs(1), Duration::from_secs(30));
        let mut next = None;
        let mut compacting = false;
        loop {
            let timeout = if compacting { Duration::ZERO } else { tick };
            let request = match next.take() {
                Some(request) => Ok(request),
                None => queue.recv_timeout(timeout),
            };
            match request {
                Ok(Request::Write(first)) => {
                    let group;
                    (group, next) = gather(first, queue);
                    self.commit(group);
                    self.checkpoint_when_due();
                    // A little at a time while there are writers, and only when it is worth a transaction.
                    compacting = self.target() >= self.cache.read().floor + COMPACTION_BATCH;
                    if compacting {
                        compacting = self.compact_batch(self.target());
                    }
                }
                Ok(Request::Compact { revision, answer }) => {
                    let target = revision.min(self.cache.read().revision);
                    while self.compact_batch(target) {}
                    // Who asked may have gone.
                    let _ = answer.send(Ok(self.cache.read().floor));
                }
                Err(RecvTimeoutError::Timeout) => {
                    if self.connection.is_none() {
                        self.reopen();
                    }
                    compacting = self.compact_batch(self.target());
                    self.checkpoint_when_due();
                }
                #[cfg(test)]
                Ok(Request::Meddle(meddle)) => meddle(&mut self.connection),
                Ok(Request::Close) | Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        // The connections that read go first, so that the last one leaves a single file.
        self.readers.clear();
        if let Some(connection) = self.connection.take()
            && let Err((_, error)) = connection.close()
        {
            tracing::warn!(error = %error, "the state was not closed cleanly; it will be when it is opened next");
        }
    }

    /// Writes a group and answers each of its writers.
    fn commit(&mut self, group: Vec<Pending>) {
        if self.connection.is_none() {
            self.reopen();
        }
        let writes: Vec<&Write> = group.iter().map(|pending| &pending.write).collect();
        let mut answers = self.try_group(&writes);
        // One large write must not keep the small ones beside it from a nearly full disk.
        if group.len() > 1 && matches!(answers, Err(GroupFault::Full(_))) {
            let singly = writes.iter().map(|write| match self.try_group(&[write]) {
                Ok(mut answer) => answer.pop().unwrap_or(Err(CommitError::Closed)),
                Err(fault) => Err(fault.error()),
            });
            answers = Ok(singly.collect());
        }
        match answers {
            Ok(answers) => {
                for (pending, answer) in group.into_iter().zip(answers) {
                    // Who asked may have gone.
                    let _ = pending.answer.send(answer);
                }
            }
            Err(fault) => {
                for pending in group {
                    // Who asked may have gone.
                    let _ = pending.answer.send(Err(fault.error()));
                }
            }
        }
    }

    fn try_group(&mut self, writes: &[&Write]) -> Result<Vec<Result<Arc<Stored>, CommitError>>, GroupFault> {
        let staged = stage(&self.cache.read(), writes.iter().copied());
        if !staged.entries.is_empty() {
            let at = now();
            match self.append(&staged.entries, at) {
                Ok(()) => {
                    self.cache.publish(&staged.entries);
                    self.account(&staged.entries, at);
                    if std::mem::take(&mut self.is_full) {
                        tracing::info!(path = %self.path.display(), "the state can be written again");
                    }
                }
                Err(fault) => self.outlive(fault, &staged.entries)?,
            }
        }
        let answers = staged.verdicts.into_iter().map(|verdict| match verdict {
            Verdict::Done(entry) => Ok(Arc::clone(&staged.entries[entry].event.object)),
            Verdict::Refused(error) => Err(error),
        });
        Ok(answers.collect())
    }

    fn append(&mut self, entries: &[Entry], at: i64) -> Result<(), GroupFault> {
        let result = self.transact(|connection| log::append(connection, entries, at));
        if matches!(result, Err(GroupFault::Full(_))) && self.empty_wal() {
            // The log starts over in the blocks that it has, so that objects can be removed on a full disk.
            return self.transact(|connection| log::append(connection, entries, at));
        }
        result
    }

    /// After `fault`: an error, unless `entries` turn out to be on the disk.
    fn outlive(&mut self, fault: GroupFault, entries: &[Entry]) -> Result<(), GroupFault> {
        self.report(&fault);
        let GroupFault::Broken(cause) = fault else { return Err(fault) };
        if !self.reopen() {
            return Err(GroupFault::Broken(cause));
        }
        if self.shows(entries) {
            return Ok(());
        }
        // A quota that is used up looks like any other fault to SQLite.
        let is_full = self.path.parent().is_some_and(|directory| available_bytes(directory) < QUOTA_BYTES);
        Err(if is_full { GroupFault::Full(cause) } else { GroupFault::Broken(cause) })
    }

    /// Runs `change` in a transaction that is on the disk afterwards. A connection that cannot be trusted is given up.
    fn transact(
        &mut self,
        change: impl FnOnce(&Connection) -> rusqlite::Result<()>,
    ) -> Result<(), GroupFault> {
        let Some(connection) = &mut self.connection else {
            return Err(GroupFault::Broken(StorageFault::new("the state could not be opened again")));
        };
        let result =
            connection.transaction_with_behavior(TransactionBehavior::Immediate).and_then(|transaction| {
                change(&transaction)?;
                transaction.commit()
            });
        let Err(error) = result else { return Ok(()) };
        let fault = StorageFault::new(&error);
        if database::is_full(&error) && connection.is_autocommit() {
            return Err(GroupFault::Full(fault));
        }
        self.connection = None;
        self.readers.clear();
        Err(GroupFault::Broken(fault))
    }

    fn report(&mut self, fault: &GroupFault) {
        match fault {
            GroupFault::Full(_) if self.is_full => {}
            GroupFault::Full(fault) => {
                self.is_full = true;
                tracing::error!(error = %fault, path = %self.path.display(), "no space for the state; writes are refused");
            }
            GroupFault::Broken(fault) => {
                tracing::error!(error = %fault, path = %self.path.display(), "the state could not be written");
            }
        }
    }

    /// Whether exactly `entries` were published.
    fn shows(&self, entries: &[Entry]) -> bool {
        let state = self.cache.read();
        entries.iter().all(|Entry { prefix, event }| {
            let known = state.prefix(prefix).and_then(|prefix| prefix.after(event.revision - 1).next());
            known.is_some_and(|known| {
                (known.revision, known.kind, &known.object.json)
                    == (event.revision, event.kind, &event.object.json)
            })
        })
    }

    /// Copies the whole write-ahead log into the database; whether that was possible.
    fn empty_wal(&mut self) -> bool {
        let Some(connection) = &self.connection else { return false };
        database::checkpoint(connection, "PASSIVE").is_ok_and(|done| {
            self.wal_bytes = 0;
            done.pages > 0 && done.copied == done.pages
        })
    }

    /// Opens the database anew and makes sure of what is in it.
    fn reopen(&mut self) -> bool {
        let known = self.cache.read().revision;
        let reopened = (|| {
            let connection = database::open_writer(&self.path)?;
            let checkpoint =
                database::checkpoint(&connection, "TRUNCATE").map_err(database::sqlite("sync"))?;
            let span = Span {
                prefix: None,
                namespace: None,
                after: known,
                upto: u64::MAX,
                max_events: usize::MAX,
                max_bytes: usize::MAX,
            };
            let (entries, _) = log::events(&connection, span).map_err(database::sqlite("read"))?;
            Ok::<_, database::DatabaseError>((!checkpoint.blocked).then_some((connection, entries)))
        })();
        match reopened {
            Ok(Some((connection, entries))) => {
                tracing::info!(path = %self.path.display(), "the state was opened again");
                self.connection = Some(connection);
                self.wal_bytes = 0;
                if !entries.is_empty() {
                    self.cache.publish(&entries);
                    self.account(&entries, now());
                }
                true
            }
            Ok(None) => false,
            Err(error) => {
                tracing::warn!(error = %error, path = %self.path.display(), "the state cannot be opened again");
                false
            }
        }
    }

    fn account(&mut self, entries: &[Entry], at: i64) {
        for Entry { event, .. } in entries {
            let bytes = event.object.json.len() as u64;
            self.wal_bytes += bytes + PAGE_BYTES;
            self.ages.add(Change { revision: event.revision, at, bytes });
        }
    }

    /// How far history is to be forgotten now.
    fn target(&self) -> u64 {
        let state = self.cache.read();
        self.ages.target(&self.limits, now(), state.revision, state.floor)
    }

    /// Forgets some of the history before `target`; whether there is more to forget.
    fn compact_batch(&mut self, target: u64) -> bool {
        let floor = self.cache.read().floor;
        if target <= floor || self.connection.is_none() {
            return false;
        }
        let upto = target.min(floor + COMPACTION_BATCH);
        if let Err(fault) = self.transact(|connection| log::compact(connection, floor, upto)) {
            // It is tried again later; what is kept too long does no harm.
            self.report(&fault);
            return false;
        }
        self.cache.raise_floor(upto);
        self.ages.forget(upto);
        self.wal_bytes += (upto - floor) * PAGE_BYTES / 2;
        upto < target
    }

    /// Keeps the write-ahead log from growing for ever. Writers were answered before this.
    fn checkpoint_when_due(&mut self) {
        let Some(connection) = self.connection.as_ref().filter(|_| self.wal_bytes >= CHECKPOINT_BYTES) else {
            return;
        };
        let mut result = database::checkpoint(connection, "PASSIVE");
        if result.as_ref().is_ok_and(|done| done.copied < done.pages && done.pages > BLOCKED_WAL_PAGES) {
            result = connection.busy_timeout(BLOCKED_WAL_TIMEOUT).and_then(|()| {
                let result = database::checkpoint(connection, "TRUNCATE");
                connection.busy_timeout(database::BUSY_TIMEOUT)?;
                result
            });
        }
        match result {
            Ok(done) if done.copied == done.pages => self.wal_bytes = 0,
            // A reader holds on to a part of it; again after a few more writes.
            Ok(_) => self.wal_bytes = CHECKPOINT_BYTES / 2,
            Err(error) if database::is_full(&error) => {
                self.wal_bytes = CHECKPOINT_BYTES / 2;
                self.report(&GroupFault::Full(StorageFault::new(error)));
            }
            Err(error) => {
                self.report(&GroupFault::Broken(StorageFault::new(error)));
                self.connection = None;
                self.readers.clear();
            }
        }
    }
}

/// Bytes that this user may still write to the file system of `path`; as many as can be where it does not say.
fn available_bytes(path: &Path) -> u64 {
    rustix::fs::statvfs(path).map_or(u64::MAX, |answer| answer.f_bavail.saturating_mul(answer.f_frsize))
}

/// `first` and whatever else waits, up to the limits of a group; and a request of another kind that came next.
fn gather(first: Pending, queue: &Receiver<Request>) -> (Vec<Pending>, Option<Request>) {
    let mut bytes = first.write.change.encoded().size();
    let mut group = vec![first];
    while group.len() < GROUP_WRITES && bytes < GROUP_BYTES {
        match queue.try_recv() {
            Ok(Request::Write(pending)) => {
                bytes += pending.write.change.encoded().size();
                group.push(pending);
            }
            Ok(other) => return (group, Some(other)),
            Err(_) => break,
        }
    }
    (group, None)
}
