//! The rows of the change log, and what is read out of them.
//!
//! Every change is a row, as in kine and in etcd: the newest row of an object is its present, older ones are history. A
//! row names the row that it follows (`previous`), so neither compaction nor history needs an index beside the revision,
//! and an insert touches the last page of one table.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSql, ToSqlOutput, ValueRef};
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::types::{Event, EventKind, Stored};

/// A revision as SQLite keeps it. Revisions count single writes, so that they never get near 2^63.
fn number(revision: u64) -> i64 {
    i64::try_from(revision).unwrap_or(i64::MAX)
}

fn revision(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    let number: i64 = row.get(column)?;
    u64::try_from(number).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(column, number))
}

impl ToSql for EventKind {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::from(match self {
            Self::Added => 0_i64,
            Self::Modified => 1,
            Self::Deleted => 2,
        }))
    }
}

impl FromSql for EventKind {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        match value.as_i64()? {
            0 => Ok(Self::Added),
            1 => Ok(Self::Modified),
            2 => Ok(Self::Deleted),
            other => Err(FromSqlError::OutOfRange(other)),
        }
    }
}

/// The namespace and the name of an object.
pub(super) type Key = (Box<str>, Box<str>);

/// One change with the kind of object that it is of.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) prefix: Box<str>,
    pub(super) event: Arc<Event>,
}

/// Appends `entries`, as at `at` (milliseconds since 1970), to the log.
pub(super) fn append(connection: &Connection, entries: &[Entry], at: i64) -> rusqlite::Result<()> {
    let mut insert = connection.prepare(
        "INSERT INTO log (revision, kind, created, previous, at, prefix, namespace, name, json)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
    )?;
    for Entry { prefix, event } in entries {
        let object = &event.object;
        insert.execute(params![
            number(event.revision),
            event.kind,
            number(object.created_revision),
            number(event.previous.as_ref().map_or(0, |previous| previous.revision)),
            at,
            &**prefix,
            &*object.namespace,
            &*object.name,
            &*object.json,
        ])?;
    }
    Ok(())
}

/// The oldest revision that history goes back to.
pub(super) fn floor(connection: &Connection) -> rusqlite::Result<u64> {
    connection.query_row("SELECT value FROM meta WHERE name = 'floor'", [], |row| revision(row, 0))
}

/// Forgets the history after `floor` up to `target`, in the transaction of the caller: what was replaced by then, and
/// removals. The state at `target` stays.
pub(super) fn compact(connection: &Connection, floor: u64, target: u64) -> rusqlite::Result<()> {
    let range = params![number(floor), number(target)];
    connection.execute(
        "DELETE FROM log WHERE revision IN
            (SELECT previous FROM log WHERE revision > ?1 AND revision <= ?2 AND previous != 0)",
        range,
    )?;
    connection.execute("DELETE FROM log WHERE revision > ?1 AND revision <= ?2 AND kind = 2", range)?;
    connection.execute("UPDATE meta SET value = ?1 WHERE name = 'floor'", params![number(target)])?;
    Ok(())
}

/// When a change was made and how large it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) revision: u64,
    pub(super) at: i64,
    pub(super) bytes: u64,
}

/// Everything that is kept in memory, as it is found when the state is opened.
#[derive(Debug, Default)]
pub(super) struct Replay {
    pub(super) floor: u64,
    /// The last revision that was given to anything.
    pub(super) revision: u64,
    /// The objects that there are, by prefix.
    pub(super) objects: HashMap<Box<str>, Vec<Arc<Stored>>>,
    /// The last change of each prefix that the log still has.
    pub(super) last_changed: HashMap<Box<str>, u64>,
    /// The history, oldest first.
    pub(super) history: Vec<Change>,
}

/// Reads the present out of the log. It goes backwards, so that the first row of an object is its present and older
/// ones are not copied; no JSON is parsed.
pub(super) fn replay(connection: &Connection) -> rusqlite::Result<Replay> {
    let floor = floor(connection)?;
    let mut replay = Replay { floor, revision: floor, ..Replay::default() };
    let mut seen: HashMap<Box<str>, HashSet<Key>> = HashMap::new();
    let mut select = connection.prepare(
        "SELECT revision, kind, created, at, prefix, namespace, name, json FROM log ORDER BY revision DESC",
    )?;
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        let revision = revision(row, 0)?;
        replay.revision = replay.revision.max(revision);
        let json = row.get_ref(7)?.as_blob()?;
        if revision > floor {
            replay.history.push(Change { revision, at: row.get(3)?, bytes: json.len() as u64 });
        }
        let prefix = row.get_ref(4)?.as_str()?;
        if !seen.contains_key(prefix) {
            seen.insert(prefix.into(), HashSet::new());
            replay.last_changed.insert(prefix.into(), revision);
            replay.objects.insert(prefix.into(), Vec::new());
        }
        let (Some(seen), Some(objects)) = (seen.get_mut(prefix), replay.objects.get_mut(prefix)) else {
            continue;
        };
        let newest = seen.insert((row.get(5)?, row.get(6)?));
        if newest && row.get::<_, EventKind>(1)? != EventKind::Deleted {
            objects.push(Arc::new(Stored {
                namespace: row.get(5)?,
                name: row.get(6)?,
                revision,
                created_revision: self::revision(row, 2)?,
                json: Bytes::copy_from_slice(json),
            }));
        }
    }
    replay.history.reverse();
    Ok(replay)
}

/// Which changes are wanted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span<'a> {
    /// Of this prefix alone.
    pub(super) prefix: Option<&'a str>,
    /// Of this namespace alone.
    pub(super) namespace: Option<&'a str>,
    /// Changes after this revision,
    pub(super) after: u64,
    /// and up to this one.
    pub(super) upto: u64,
    /// At most so many changes,
    pub(super) max_events: usize,
    /// or the first that brings them to so many bytes.
    pub(super) max_bytes: usize,
}

/// The changes of `span`, oldest first, and whether there are more.
pub(super) fn events(connection: &Connection, span: Span<'_>) -> rusqlite::Result<(Vec<Entry>, bool)> {
    let mut select = connection.prepare(
        "SELECT revision, kind, created, previous, prefix, namespace, name, json FROM log
         WHERE revision > ?1 AND revision <= ?2 AND (?3 IS NULL OR prefix = ?3)
           AND (?4 IS NULL OR namespace = ?4)
         ORDER BY revision",
    )?;
    let mut rows =
        select.query(params![number(span.after), number(span.upto), span.prefix, span.namespace])?;
    let (mut entries, mut bytes) = (Vec::new(), 0);
    // What was shown as an object is what the next change of it has before it.
    let mut shown: HashMap<u64, Arc<Stored>> = HashMap::new();
    while let Some(row) = rows.next()? {
        if entries.len() >= span.max_events || bytes >= span.max_bytes {
            return Ok((entries, true));
        }
        let object = Arc::new(Stored {
            revision: revision(row, 0)?,
            created_revision: revision(row, 2)?,
            namespace: row.get(5)?,
            name: row.get(6)?,
            json: Bytes::copy_from_slice(row.get_ref(7)?.as_blob()?),
        });
        let previous = match revision(row, 3)? {
            0 => None,
            before => match shown.get(&before) {
                Some(object) => Some(Arc::clone(object)),
                None => stored(connection, before)?,
            },
        };
        bytes += object.json.len() + previous.as_ref().map_or(0, |previous| previous.json.len());
        shown.insert(object.revision, Arc::clone(&object));
        let event = Event { revision: object.revision, kind: row.get(1)?, object, previous };
        entries.push(Entry { prefix: row.get(4)?, event: Arc::new(event) });
    }
    Ok((entries, false))
}

/// The row of one revision.
fn stored(connection: &Connection, at: u64) -> rusqlite::Result<Option<Arc<Stored>>> {
    connection
        .query_row(
            "SELECT revision, created, namespace, name, json FROM log WHERE revision = ?1",
            params![number(at)],
            |row| {
                Ok(Arc::new(Stored {
                    revision: revision(row, 0)?,
                    created_revision: revision(row, 1)?,
                    namespace: row.get(2)?,
                    name: row.get(3)?,
                    json: Bytes::copy_from_slice(row.get_ref(4)?.as_blob()?),
                }))
            },
        )
        .optional()
}

/// Objects by namespace and name as they were, `None` where there was none.
pub(super) type Before = BTreeMap<Key, Option<Arc<Stored>>>;

/// What the objects of a prefix that changed after `after` up to `upto` were at `after`.
pub(super) fn before(
    connection: &Connection,
    prefix: &str,
    namespace: Option<&str>,
    after: u64,
    upto: u64,
) -> rusqlite::Result<Before> {
    let mut select = connection.prepare(
        "SELECT namespace, name, previous FROM log
         WHERE revision > ?1 AND revision <= ?2 AND prefix = ?3 AND (?4 IS NULL OR namespace = ?4)
         ORDER BY revision",
    )?;
    let mut rows = select.query(params![number(after), number(upto), prefix, namespace])?;
    let mut first: BTreeMap<Key, u64> = BTreeMap::new();
    while let Some(row) = rows.next()? {
        let previous = revision(row, 2)?;
        first.entry((row.get(0)?, row.get(1)?)).or_insert(previous);
    }
    let mut before = Before::new();
    for (key, previous) in first {
        let object = if previous == 0 { None } else { stored(connection, previous)? };
        before.insert(key, object);
    }
    Ok(before)
}
