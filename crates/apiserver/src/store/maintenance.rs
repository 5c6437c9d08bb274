//! What an administrator does with a state: copy it, look whether it is whole, put a copy back.

use std::collections::HashMap;
use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rusqlite::Connection;
use rusqlite::backup::{Backup, StepResult};
use serde::Deserialize;

use super::database::{self, DatabaseError};
use super::lock::{DirectoryLock, make_directory, sync_directory};
use super::log;
use super::types::{EventKind, StorageFault};
use super::{OpenError, lock_error};

/// Faults that a check names at most; one damaged page can bring thousands.
const MAX_FAULTS: usize = 100;

/// A restored state goes on this far beyond every revision that is known, so that a revision that a client still has
/// from the time after the copy is not given to something else. As etcd's documentation advises for its restores.
const REVISION_GAP: u64 = 1_000_000_000;

/// Why there is no backup.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackupError {
    /// There is a file of that name.
    #[error("`{path}` exists")]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// The state cannot be read.
    #[error("cannot read the state")]
    State(#[source] OpenError),
    /// The copy cannot be written.
    #[error("cannot write the backup `{path}`")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// SQLite cannot copy the database.
    #[error("cannot copy the state to `{path}`")]
    Copy {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: StorageFault,
    },
}

/// Copies the state in `directory` to the new file `path` (0600), as it is at one moment. A server may be running.
/// The file appears when it is complete and on the disk.
///
/// # Errors
/// When there is no state, or the file exists, or either fails to be read or written.
pub fn backup(directory: &Path, path: &Path) -> Result<(), BackupError> {
    let connection = open_existing(&directory.join(database::FILE)).map_err(BackupError::State)?;
    if path.symlink_metadata().is_ok() {
        return Err(BackupError::Exists { path: path.into() });
    }
    let partial = database::with_suffix(path, &format!(".partial-{}", std::process::id()));
    let result = copy(&connection, &partial).and_then(|()| {
        std::fs::rename(&partial, path)?;
        sync_directory(parent(path))?;
        Ok(())
    });
    result.map_err(|error| {
        remove_database(&partial);
        match error {
            CopyError::Io(source) => BackupError::Write { path: path.into(), source },
            CopyError::Sqlite(error) => {
                BackupError::Copy { path: path.into(), source: StorageFault::new(error) }
            }
        }
    })
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// A half-made database goes, as well as can be.
fn remove_database(path: &Path) {
    for suffix in ["", "-wal", "-shm", "-journal"] {
        // Most of them are not there, and the failure that leads here is told already.
        let _ = std::fs::remove_file(database::with_suffix(path, suffix));
    }
}

enum CopyError {
    Io(io::Error),
    Sqlite(rusqlite::Error),
}

impl From<io::Error> for CopyError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<rusqlite::Error> for CopyError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

/// Copies a database into one new file that is on the disk afterwards and needs no write-ahead log.
fn copy(from: &Connection, path: &Path) -> Result<(), CopyError> {
    database::create_file(path)?;
    let mut target = Connection::open(path)?;
    target.execute_batch("PRAGMA synchronous = OFF")?;
    let copying = Backup::new(from, &mut target)?;
    // All at once: one read transaction, which no writer makes start over.
    loop {
        match copying.step(-1)? {
            StepResult::Done => break,
            _ => std::thread::sleep(std::time::Duration::from_millis(10)),
        }
    }
    drop(copying);
    target.close().map_err(|(_, error)| error)?;
    let target = Connection::open(path)?;
    target.query_row("PRAGMA journal_mode = DELETE", [], |_| Ok(()))?;
    target.close().map_err(|(_, error)| error)?;
    File::open(path)?.sync_all()?;
    Ok(())
}

/// Opens a database that must exist and be ours, to read it.
fn open_existing(path: &Path) -> Result<Connection, OpenError> {
    let known = database::exists(path).map_err(|source| DatabaseError::Io { action: "look at", source });
    match known {
        Ok(true) => {}
        Ok(false) => return Err(OpenError::Missing { path: path.into() }),
        Err(error) => return Err(OpenError::database(path, error)),
    }
    let connection = database::open_reader(path).map_err(|error| OpenError::database(path, error))?;
    database::identify(&connection).map_err(|error| OpenError::database(path, error))?;
    Ok(connection)
}

/// What a check found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CheckReport {
    /// The version of the schema.
    pub schema_version: i32,
    /// The last revision.
    pub revision: u64,
    /// The revision that history goes back to.
    pub floor: u64,
    /// Objects that there are.
    pub objects: u64,
    /// Rows of the change log.
    pub rows: u64,
    /// Bytes of JSON in them.
    pub bytes: u64,
    /// What is wrong, in words; at most a hundred.
    pub faults: Vec<String>,
}

/// Reads everything in the state of `directory` and reports what is wrong with it. A server may be running.
///
/// # Errors
/// When there is no state, or it is of another version, or it cannot be read at all.
pub fn check(directory: &Path) -> Result<CheckReport, OpenError> {
    let path = directory.join(database::FILE);
    let connection = open_existing(&path)?;
    check_database(&connection, &path)
}

fn check_database(connection: &Connection, path: &Path) -> Result<CheckReport, OpenError> {
    let mut report = CheckReport::default();
    match examine(connection, &mut report) {
        Ok(()) => Ok(report),
        Err(error) if database::is_damaged(&error) => {
            report.faults.push(error.to_string());
            Ok(report)
        }
        Err(source) => Err(OpenError::database(path, DatabaseError::Sqlite { action: "read", source })),
    }
}

/// The part of an object that the columns repeat.
#[derive(Deserialize)]
struct Object<'a> {
    #[serde(borrow)]
    metadata: Metadata<'a>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata<'a> {
    name: std::borrow::Cow<'a, str>,
    #[serde(default)]
    namespace: std::borrow::Cow<'a, str>,
    resource_version: std::borrow::Cow<'a, str>,
}

/// An object as the rows so far have it.
#[derive(Clone, Copy)]
struct Last {
    revision: i64,
    created: i64,
}

fn examine(connection: &Connection, report: &mut CheckReport) -> rusqlite::Result<()> {
    // One moment of a running server.
    let transaction = connection.unchecked_transaction()?;
    report.schema_version = database::version(&transaction)?;
    {
        let mut integrity = transaction.prepare(&format!("PRAGMA integrity_check({MAX_FAULTS})"))?;
        let mut rows = integrity.query([])?;
        while let Some(row) = rows.next()? {
            let found: String = row.get(0)?;
            if found != "ok" {
                report.faults.push(found);
            }
        }
    }
    report.floor = log::floor(&transaction)?;
    report.revision = report.floor;
    let floor = i64::try_from(report.floor).unwrap_or(i64::MAX);
    let mut objects: HashMap<(String, String, String), Last> = HashMap::new();
    let mut select = transaction.prepare(
        "SELECT revision, kind, created, previous, prefix, namespace, name, json FROM log ORDER BY revision",
    )?;
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        let revision: i64 = row.get(0)?;
        let json = row.get_ref(7)?.as_blob()?;
        report.rows += 1;
        report.bytes += json.len() as u64;
        report.revision = report.revision.max(u64::try_from(revision).unwrap_or_default());
        let (created, previous): (i64, i64) = (row.get(2)?, row.get(3)?);
        let key: (String, String, String) = (row.get(4)?, row.get(5)?, row.get(6)?);
        let (mut faults, last) = (Vec::new(), objects.get(&key).copied());
        match row.get::<_, EventKind>(1) {
            Err(_) => faults.push("its kind is unknown".to_owned()),
            Ok(EventKind::Added) => {
                if previous != 0 || created != revision {
                    faults.push(format!("it begins an object, after {previous} and created at {created}"));
                }
                if let Some(last) = last {
                    faults.push(format!("it begins an object that revision {} has", last.revision));
                }
                objects.insert(key.clone(), Last { revision, created });
            }
            Ok(kind) => {
                match last {
                    Some(last) if (last.revision, last.created) != (previous, created) => {
                        faults.push(format!(
                            "it follows {previous} of the object created at {created}, and the log has {} of {}",
                            last.revision, last.created
                        ));
                    }
                    None if revision > floor => {
                        faults.push(format!("it follows {previous}, which is not there"))
                    }
                    _ => {}
                }
                if revision <= floor && (kind == EventKind::Deleted || last.is_some()) {
                    faults.push(format!("it should have been forgotten, as history begins at {floor}"));
                }
                if kind == EventKind::Deleted {
                    objects.remove(&key);
                } else {
                    objects.insert(key.clone(), Last { revision, created });
                }
            }
        }
        match serde_json::from_slice::<Object<'_>>(json) {
            Err(error) => faults.push(format!("its JSON cannot be read: {error}")),
            Ok(Object { metadata }) => {
                let said = (&*metadata.namespace, &*metadata.name, &*metadata.resource_version);
                if said != (&*key.1, &*key.2, &*revision.to_string()) {
                    faults.push(format!("its JSON says `{}/{}` at `{}`", said.0, said.1, said.2));
                }
            }
        }
        for fault in faults.into_iter().take(MAX_FAULTS.saturating_sub(report.faults.len())) {
            report.faults.push(format!("revision {revision} (`{}{}/{}`): {fault}", key.0, key.1, key.2));
        }
    }
    report.objects = objects.len() as u64;
    Ok(())
}

/// What a restore does with a state that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// Nothing: it fails.
    Refuse,
    /// It is moved to a directory `replaced-N` beside the new one.
    SetAside,
}

/// Why nothing was restored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// There is a state, and it was not to be replaced.
    #[error("`{directory}` holds a state")]
    HoldsState {
        /// The directory.
        directory: PathBuf,
    },
    /// The backup is not one, or of a later version.
    #[error("cannot read the backup `{path}`")]
    Backup {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: OpenError,
    },
    /// The backup is damaged.
    #[error("the backup `{path}` is damaged: {}", faults.first().map_or("", String::as_str))]
    Damaged {
        /// The file.
        path: PathBuf,
        /// As [`CheckReport::faults`].
        faults: Vec<String>,
    },
    /// A server uses the directory, or it cannot be used.
    #[error("cannot use the directory of the state")]
    Directory(#[source] OpenError),
    /// The new state cannot be written.
    #[error("cannot restore the state into `{directory}`")]
    Write {
        /// The directory.
        directory: PathBuf,
        /// Why.
        #[source]
        source: StorageFault,
    },
}

/// What a restore did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// What the backup held.
    pub report: CheckReport,
    /// The revision that the restored state begins at. It is beyond all that were given out before.
    pub revision: u64,
    /// Where the state is now that was there before.
    pub set_aside: Option<PathBuf>,
}

/// Makes the backup `from` the state in `directory`. History is forgotten, so that every client lists anew.
///
/// # Errors
/// When a server is running, the backup is not whole, or there is a state that was not to be replaced. Nothing was
/// changed then.
pub fn restore(from: &Path, directory: &Path, existing: Existing) -> Result<Restored, RestoreError> {
    let backup_error = |source| RestoreError::Backup { path: from.into(), source };
    let source = open_existing(from).map_err(backup_error)?;
    let report = check_database(&source, from).map_err(backup_error)?;
    if !report.faults.is_empty() {
        return Err(RestoreError::Damaged { path: from.into(), faults: report.faults });
    }
    make_directory(directory)
        .map_err(|source| RestoreError::Directory(OpenError::io("create", directory, source)))?;
    let _lock = DirectoryLock::take(directory)
        .map_err(|error| RestoreError::Directory(lock_error(directory, error)))?;
    let write_error = |cause: &dyn std::fmt::Display| RestoreError::Write {
        directory: directory.into(),
        source: StorageFault::new(cause),
    };
    let state = directory.join(database::FILE);
    let is_there = database::exists(&state).map_err(|error| write_error(&error))?;
    if is_there && existing == Existing::Refuse {
        return Err(RestoreError::HoldsState { directory: directory.into() });
    }

    // Everything is done to the copy before it gets its name.
    let new = directory.join("restored.db");
    remove_database(&new);
    copy(&source, &new).map_err(|error| match error {
        CopyError::Io(error) => write_error(&error),
        CopyError::Sqlite(error) => write_error(&error),
    })?;
    let known = if is_there { last_revision(&state) } else { 0 };
    let revision = report.revision.max(known) + REVISION_GAP;
    begin_anew(&new, report.floor, revision).map_err(|error| write_error(&error))?;

    let mut set_aside = None;
    if is_there {
        let aside = aside(directory, &state).map_err(|error| write_error(&error))?;
        set_aside = Some(aside);
    }
    std::fs::rename(&new, &state)
        .and_then(|()| sync_directory(directory))
        .map_err(|error| write_error(&error))?;
    Ok(Restored { report, revision, set_aside })
}

/// The last revision of a state that may be anything; as a side effect a whole one needs no write-ahead log afterwards.
fn last_revision(state: &Path) -> u64 {
    let read = || {
        database::examine(state)?;
        let connection = database::open_writer(state)?;
        let last = connection
            .query_row("SELECT max((SELECT ifnull(max(revision), 0) FROM log), value) FROM meta", [], |row| {
                row.get::<_, i64>(0)
            })
            .map_err(database::sqlite("read"))?;
        connection.close().map_err(|(_, source)| DatabaseError::Sqlite { action: "close", source })?;
        Ok::<_, DatabaseError>(u64::try_from(last).unwrap_or_default())
    };
    // What cannot be read is set aside as it is.
    read().unwrap_or_default()
}

/// Makes `revision` the beginning of history.
fn begin_anew(path: &Path, floor: u64, revision: u64) -> Result<(), DatabaseError> {
    let connection = database::open_writer(path)?;
    database::update(&connection)?;
    let transaction = connection.unchecked_transaction().map_err(database::sqlite("change"))?;
    log::compact(&transaction, floor, revision).map_err(database::sqlite("change"))?;
    transaction.commit().map_err(database::sqlite("change"))?;
    connection.close().map_err(|(_, source)| DatabaseError::Sqlite { action: "close", source })
}

/// Gives the files of the state a second name in a new directory, then takes the write-ahead log away from the first: it
/// must never meet another database.
fn aside(directory: &Path, state: &Path) -> io::Result<PathBuf> {
    let mut number = 1;
    let aside = loop {
        let aside = directory.join(format!("replaced-{number}"));
        match DirBuilder::new().mode(0o700).create(&aside) {
            Ok(()) => break aside,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => number += 1,
            Err(error) => return Err(error),
        }
    };
    let copy = aside.join(database::FILE);
    for suffix in ["", "-wal"] {
        match std::fs::hard_link(database::with_suffix(state, suffix), database::with_suffix(&copy, suffix)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    sync_directory(&aside)?;
    sync_directory(directory)?;
    for suffix in ["-wal", "-shm"] {
        match std::fs::remove_file(database::with_suffix(state, suffix)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(aside)
}
