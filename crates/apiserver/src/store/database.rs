//! The database file: who may read it, how it is opened, how it grows up from one schema version to the next.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::ffi::{self, ErrorCode};
use rusqlite::{Connection, OpenFlags};

use super::lock::sync_directory;

/// The name of the database in the directory of the state; SQLite adds `-wal` and `-shm`.
pub(super) const FILE: &str = "state.db";

/// "FVST", at offset 68 of the file.
const APPLICATION_ID: i32 = 0x4656_5354;

/// The schema that this version reads and writes, at offset 60 of the file.
pub(super) const SCHEMA_VERSION: i32 = 1;

/// Brings the schema from one version to the next, inside a transaction that also sets `user_version`.
type Migration = fn(&Connection) -> rusqlite::Result<()>;

/// The first one leads from version 1 to version 2, and so on; there are `SCHEMA_VERSION - 1`.
const MIGRATIONS: &[Migration] = &[];

const SCHEMA: &str = "
    CREATE TABLE log (
        revision  INTEGER PRIMARY KEY,
        kind      INTEGER NOT NULL,
        created   INTEGER NOT NULL,
        previous  INTEGER NOT NULL,
        at        INTEGER NOT NULL,
        prefix    TEXT NOT NULL,
        namespace TEXT NOT NULL,
        name      TEXT NOT NULL,
        json      BLOB NOT NULL
    ) STRICT;
    CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID;
    INSERT INTO meta (name, value) VALUES ('floor', 1);
";

/// The write-ahead log is cut back to this when it starts over. It is more than the log has between two checkpoints,
/// so that its blocks are overwritten in place, which takes less of the file system than growing it.
const WAL_SIZE_LIMIT: u64 = 16 << 20;

/// How long to wait for another process that reads (a backup) where SQLite needs to be alone for a moment.
pub(super) const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Why a database is not ours to open.
#[derive(Debug, thiserror::Error)]
pub(super) enum DatabaseError {
    #[error("it has the schema version {version}, and this version knows {SCHEMA_VERSION}")]
    Newer { version: i32 },
    #[error("it is not the state of a server")]
    Foreign,
    #[error("cannot {action} it: {source}")]
    Io { action: &'static str, source: io::Error },
    #[error("cannot {action} it: {source}")]
    Sqlite { action: &'static str, source: rusqlite::Error },
}

/// A map to [`DatabaseError::Sqlite`].
pub(super) fn sqlite(action: &'static str) -> impl FnOnce(rusqlite::Error) -> DatabaseError {
    move |source| DatabaseError::Sqlite { action, source }
}

fn io_error(action: &'static str) -> impl FnOnce(io::Error) -> DatabaseError {
    move |source| DatabaseError::Io { action, source }
}

/// Whether there is a database: an empty file is one that a crash left before anything was in it.
pub(super) fn exists(path: &Path) -> io::Result<bool> {
    match path.metadata() {
        Ok(metadata) => Ok(metadata.len() > 0),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Looks whose database this is, without changing a byte of it.
///
/// The caller must own the directory, for closing the file here would end the locks of a connection in this process.
pub(super) fn examine(path: &Path) -> Result<(), DatabaseError> {
    if !exists(path).map_err(io_error("look at"))? {
        return Ok(());
    }
    // The file's own header first: nothing but reading happens when it speaks of a later version already.
    let mut header = [0; 100];
    let is_whole = match File::open(path).and_then(|mut file| file.read_exact(&mut header)) {
        Ok(()) => header.starts_with(b"SQLite format 3\0"),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => false,
        Err(source) => return Err(DatabaseError::Io { action: "read", source }),
    };
    if is_whole {
        let number =
            |at: usize| i32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        judge(number(68), number(60))?;
    } else if !exists(&with_suffix(path, "-wal")).map_err(io_error("look at"))? {
        return Err(DatabaseError::Foreign);
    }
    // With a write-ahead log the header may be what a power failure in a checkpoint left of it; then the log has it whole.
    // Then with what the write-ahead log says. The connection must not write that back when it closes.
    let connection = open_reader(path)?;
    connection
        .set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)
        .map_err(sqlite("configure"))?;
    identify(&connection)
}

/// Looks whose database this connection has open.
pub(super) fn identify(connection: &Connection) -> Result<(), DatabaseError> {
    let application =
        connection.query_row("PRAGMA application_id", [], |row| row.get(0)).map_err(sqlite("read"))?;
    judge(application, version(connection).map_err(sqlite("read"))?)
}

fn judge(application: i32, version: i32) -> Result<(), DatabaseError> {
    if application != APPLICATION_ID || version < 1 {
        return Err(DatabaseError::Foreign);
    }
    if version > SCHEMA_VERSION {
        return Err(DatabaseError::Newer { version });
    }
    Ok(())
}

/// The schema version of an open database.
pub(super) fn version(connection: &Connection) -> rusqlite::Result<i32> {
    connection.query_row("PRAGMA user_version", [], |row| row.get(0))
}

/// Opens the database for its one writer; makes and migrates it as needed. [`examine`] must have agreed.
pub(super) fn open_or_create(path: &Path) -> Result<Connection, DatabaseError> {
    if !exists(path).map_err(io_error("look at"))? {
        create(path)?;
    }
    let connection = open_writer(path)?;
    update(&connection)?;
    // Files of an older umask, or restored by other means.
    for suffix in ["", "-wal", "-shm"] {
        let file = with_suffix(path, suffix);
        match std::fs::set_permissions(&file, Permissions::from_mode(0o600)) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(DatabaseError::Io { action: "set the mode of", source });
            }
            _ => {}
        }
    }
    Ok(connection)
}

/// `state.db` and `-wal` to `state.db-wal`.
pub(super) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// An empty file for its owner alone; SQLite gives the files beside it the same mode.
pub(super) fn create_file(path: &Path) -> io::Result<()> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map(drop)
}

/// Makes the database under another name first: whatever is at `path` has its header, its tables and its journal mode.
fn create(path: &Path) -> Result<(), DatabaseError> {
    let new = with_suffix(path, ".new");
    for suffix in ["", "-wal", "-shm", "-journal"] {
        match std::fs::remove_file(with_suffix(&new, suffix)) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(DatabaseError::Io { action: "replace", source });
            }
            _ => {}
        }
    }
    create_file(&new).map_err(io_error("create"))?;
    let connection = open_writer(&new)?;
    connection
        .execute_batch(&format!(
            "BEGIN EXCLUSIVE; {SCHEMA}
             PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
        ))
        .map_err(sqlite("create"))?;
    // Brings everything from the write-ahead log into the file, synced, and removes the log.
    connection.close().map_err(|(_, source)| DatabaseError::Sqlite { action: "create", source })?;
    std::fs::rename(&new, path).map_err(io_error("create"))?;
    path.parent().map_or(Ok(()), sync_directory).map_err(io_error("create"))
}

fn flags(mode: OpenFlags) -> OpenFlags {
    // Every connection is used by one thread at a time, which Rust sees to.
    mode | OpenFlags::SQLITE_OPEN_NO_MUTEX
}

/// A connection that writes.
pub(super) fn open_writer(path: &Path) -> Result<Connection, DatabaseError> {
    let connection = Connection::open_with_flags(path, flags(OpenFlags::SQLITE_OPEN_READ_WRITE))
        .map_err(sqlite("open"))?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(sqlite("configure"))?;
    let mode: String =
        connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0)).map_err(sqlite("open"))?;
    if mode != "wal" {
        let source = io::Error::other(format!("its file system supports the journal mode `{mode}` only"));
        return Err(DatabaseError::Io { action: "open", source });
    }
    // FULL: a commit returns when it is on the disk. Checkpoints are the writer's business, after it has answered.
    connection
        .execute_batch(&format!(
            "PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = 0; PRAGMA journal_size_limit = {WAL_SIZE_LIMIT};
             PRAGMA cache_size = -1024; PRAGMA temp_store = MEMORY; PRAGMA trusted_schema = OFF;"
        ))
        .map_err(sqlite("configure"))?;
    Ok(connection)
}

/// A connection that only reads.
pub(super) fn open_reader(path: &Path) -> Result<Connection, DatabaseError> {
    let connection =
        Connection::open_with_flags(path, flags(OpenFlags::SQLITE_OPEN_READ_ONLY)).map_err(sqlite("open"))?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(sqlite("configure"))?;
    connection
        .execute_batch(
            "PRAGMA query_only = ON; PRAGMA cache_size = -256; PRAGMA temp_store = MEMORY;
             PRAGMA trusted_schema = OFF;",
        )
        .map_err(sqlite("configure"))?;
    Ok(connection)
}

/// Brings an older schema up to date.
pub(super) fn update(connection: &Connection) -> Result<(), DatabaseError> {
    migrate(connection, MIGRATIONS).map_err(sqlite("migrate"))
}

/// Brings an older schema up to date, one version at a time, each in its own transaction. What the write-ahead log then
/// holds goes to the file at once, so that its header tells an older version what it is.
fn migrate(connection: &Connection, migrations: &[Migration]) -> rusqlite::Result<()> {
    let first = version(connection)?;
    let mut at = first;
    for migration in migrations.iter().skip(usize::try_from(first - 1).unwrap_or_default()) {
        let transaction = connection.unchecked_transaction()?;
        migration(&transaction)?;
        at += 1;
        transaction.execute_batch(&format!("PRAGMA user_version = {at}"))?;
        transaction.commit()?;
    }
    if at != first {
        checkpoint(connection, "TRUNCATE")?;
    }
    Ok(())
}

/// What a checkpoint came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Checkpoint {
    /// Somebody kept it from being complete.
    pub(super) blocked: bool,
    /// Pages in the write-ahead log.
    pub(super) pages: i64,
    /// How many of them are in the database file.
    pub(super) copied: i64,
}

/// Copies the write-ahead log into the database file. `mode` is SQLite's: `PASSIVE` waits for nobody, `TRUNCATE` waits
/// for readers and leaves an empty log.
pub(super) fn checkpoint(connection: &Connection, mode: &'static str) -> rusqlite::Result<Checkpoint> {
    connection.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |row| {
        Ok(Checkpoint { blocked: row.get::<_, i64>(0)? != 0, pages: row.get(1)?, copied: row.get(2)? })
    })
}

/// Whether SQLite said that there was no space. It then has undone the transaction cleanly.
///
/// <https://www.sqlite.org/rescode.html#full>: ENOSPC on a write becomes `SQLITE_FULL`, on the shared index
/// `SQLITE_IOERR_SHMSIZE`.
pub(super) fn is_full(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(ErrorCode::DiskFull)
        || error.sqlite_error().is_some_and(|error| error.extended_code == ffi::SQLITE_IOERR_SHMSIZE)
}

/// Whether the content of the file is not what SQLite wrote.
pub(super) fn is_damaged(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn there_is_a_migration_for_every_version() {
        assert_eq!(MIGRATIONS.len(), usize::try_from(SCHEMA_VERSION - 1).unwrap());
    }

    #[test]
    fn migrations_run_in_order_from_where_the_file_is() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE);
        let connection = open_or_create(&path).unwrap();
        let first: Migration = |connection| connection.execute_batch("CREATE TABLE added (one INTEGER)");
        let second: Migration =
            |connection| connection.execute_batch("ALTER TABLE added ADD COLUMN two INTEGER");
        migrate(&connection, &[first]).unwrap();
        assert_eq!(version(&connection).unwrap(), 2);
        migrate(&connection, &[first, second]).unwrap();
        assert_eq!(version(&connection).unwrap(), 3);
        connection.execute("INSERT INTO added (one, two) VALUES (1, 2)", []).unwrap();

        // The header of the file itself says so, for a version that must not read further.
        let header = std::fs::read(&path).unwrap();
        assert_eq!(header[60..64], [0, 0, 0, 3]);
        drop(connection);
        assert!(matches!(examine(&path), Err(DatabaseError::Newer { version: 3 })));
    }

    #[test]
    fn a_migration_that_fails_changes_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let connection = open_or_create(&directory.path().join(FILE)).unwrap();
        let bad: Migration =
            |connection| connection.execute_batch("CREATE TABLE added (one INTEGER); nonsense");
        migrate(&connection, &[bad]).unwrap_err();
        assert_eq!(version(&connection).unwrap(), 1);
        connection.prepare("SELECT * FROM added").unwrap_err();
    }
}
