//! What goes into the store and what comes out of it.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;

use crate::object;

/// How much of the past is kept. Whatever is beyond *any* of the limits is forgotten; the present never is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryLimits {
    /// Changes that lists at an older revision and resumed watches can go back, over all kinds.
    pub max_events: u64,
    /// How long a change can be gone back to. Kubernetes' own servers keep five to ten minutes.
    pub max_age: Duration,
    /// Bytes of JSON in those changes.
    pub max_bytes: u64,
    /// Changes of one prefix that are kept in memory for watches. A watch that is further behind is ended.
    pub window_events: usize,
    /// Bytes of JSON in those, for one prefix; at least one event is kept whatever its size.
    pub window_bytes: usize,
}

impl Default for HistoryLimits {
    fn default() -> Self {
        Self {
            max_events: 20_000,
            max_age: Duration::from_secs(600),
            max_bytes: 256 << 20,
            window_events: 8192,
            window_bytes: 16 << 20,
        }
    }
}

/// What [`super::Store::open`] needs to know.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// A directory of the store's own. It is made where it is missing, and set to 0700.
    pub directory: PathBuf,
    /// How much of the past is kept.
    pub history: HistoryLimits,
}

/// One object as it was at one revision. Shared by lists, watches and the writer; the JSON exists once.
#[derive(PartialEq, Eq)]
pub struct Stored {
    /// The namespace; empty for cluster-scoped kinds.
    pub namespace: Box<str>,
    /// The name.
    pub name: Box<str>,
    /// The revision of this state, `metadata.resourceVersion`.
    pub revision: u64,
    /// The revision at which the object was created.
    pub created_revision: u64,
    /// The whole object as compact JSON, `metadata.resourceVersion` included.
    pub json: Bytes,
}

/// Without the JSON: it may be a Secret's, and this ends up in logs.
impl fmt::Debug for Stored {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            out,
            "Stored({}/{} at {}, {} bytes)",
            self.namespace,
            self.name,
            self.revision,
            self.json.len()
        )
    }
}

/// Why an object cannot be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// It is not a JSON object.
    #[error("an object to be stored must be a JSON object")]
    NotAnObject,
    /// It has no `metadata`, or one that is not a JSON object.
    #[error("an object to be stored must have `metadata`")]
    NoMetadata,
}

/// An object as JSON with a gap for the revision, which only the writer knows.
#[derive(Clone, PartialEq, Eq)]
pub struct Encoded {
    json: Vec<u8>,
    /// Right after the `{` of `metadata`.
    gap: usize,
    metadata_is_empty: bool,
    namespace: Box<str>,
    name: Box<str>,
}

/// Without the JSON, as for [`Stored`].
impl fmt::Debug for Encoded {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Encoded({}/{}, {} bytes)", self.namespace, self.name, self.json.len())
    }
}

impl Encoded {
    /// Encodes `object`. `apiVersion`, `kind` and `metadata` come first; `metadata.resourceVersion` is left out.
    ///
    /// # Errors
    /// When `object` is no JSON object with `metadata`.
    pub fn new(object: &Value) -> Result<Self, EncodeError> {
        const FIRST: [&str; 3] = ["apiVersion", "kind", "metadata"];
        let fields = object.as_object().ok_or(EncodeError::NotAnObject)?;
        let metadata = object::metadata(object).ok_or(EncodeError::NoMetadata)?;

        let mut json = Vec::with_capacity(1024);
        json.push(b'{');
        for field in &FIRST[..2] {
            if let Some(value) = fields.get(*field) {
                write_field(&mut json, field, value);
            }
        }
        json.extend_from_slice(b"\"metadata\":{");
        let gap = json.len();
        for (field, value) in metadata.iter().filter(|(field, _)| *field != "resourceVersion") {
            write_field(&mut json, field, value);
        }
        let metadata_is_empty = json.len() == gap;
        drop_comma(&mut json);
        json.extend_from_slice(b"},");
        for (field, value) in fields.iter().filter(|(field, _)| !FIRST.contains(&field.as_str())) {
            write_field(&mut json, field, value);
        }
        drop_comma(&mut json);
        json.push(b'}');
        Ok(Self {
            json,
            gap,
            metadata_is_empty,
            namespace: object::namespace(object).into(),
            name: object::name(object).into(),
        })
    }

    /// Bytes of the JSON, without the revision.
    pub fn size(&self) -> usize {
        self.json.len()
    }

    /// `metadata.namespace`; empty where there is none.
    pub(super) fn namespace(&self) -> &str {
        &self.namespace
    }

    /// `metadata.name`.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The JSON with `revision` in it.
    pub(super) fn at_revision(&self, revision: u64) -> Bytes {
        let mut version = format!("\"resourceVersion\":\"{revision}\"");
        if !self.metadata_is_empty {
            version.push(',');
        }
        let mut json = Vec::with_capacity(self.json.len() + version.len());
        json.extend_from_slice(&self.json[..self.gap]);
        json.extend_from_slice(version.as_bytes());
        json.extend_from_slice(&self.json[self.gap..]);
        Bytes::from(json)
    }
}

/// Writes `"field":value,`.
fn write_field(json: &mut Vec<u8>, field: &str, value: &Value) {
    // Writing a `Value` into memory cannot fail: its keys are texts, and a `Vec` takes every byte.
    let _ = serde_json::to_writer(&mut *json, field);
    json.push(b':');
    let _ = serde_json::to_writer(&mut *json, value);
    json.push(b',');
}

fn drop_comma(json: &mut Vec<u8>) {
    if json.last() == Some(&b',') {
        json.pop();
    }
}

/// What must be true of the stored object for a write to happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// There is none.
    Absent,
    /// It is at exactly this revision.
    Revision(u64),
}

/// What a write does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Creates or replaces the object.
    Put(Encoded),
    /// Removes the object. This is its last state, as the DELETED event shows it.
    Delete(Encoded),
}

impl Change {
    pub(super) fn encoded(&self) -> &Encoded {
        match self {
            Self::Put(encoded) | Self::Delete(encoded) => encoded,
        }
    }
}

/// One write of one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// [`crate::kind::Kind::storage_prefix`].
    pub prefix: String,
    /// The namespace; empty for cluster-scoped kinds.
    pub namespace: String,
    /// The name.
    pub name: String,
    /// What must be true for it to happen.
    pub expect: Expect,
    /// What it does.
    pub change: Change,
}

/// What was found in a prefix, in the order of namespace and name (by bytes).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    /// The revision of the store that this shows.
    pub revision: u64,
    /// The objects.
    pub items: Vec<Arc<Stored>>,
}

/// What happened to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// It was created.
    Added,
    /// It was changed.
    Modified,
    /// It was removed.
    Deleted,
}

/// One change.
#[derive(Debug, PartialEq, Eq)]
pub struct Event {
    /// The revision at which it happened.
    pub revision: u64,
    /// What happened.
    pub kind: EventKind,
    /// The object after it; for [`EventKind::Deleted`] its last state, at the revision of the removal.
    pub object: Arc<Stored>,
    /// The object before it; `None` for [`EventKind::Added`].
    pub previous: Option<Arc<Stored>>,
}

/// What SQLite or the operating system said.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct StorageFault(pub(super) Arc<str>);

impl StorageFault {
    pub(super) fn new(cause: impl std::fmt::Display) -> Self {
        Self(cause.to_string().into())
    }
}

/// Why a write did not happen. Only [`Full`](Self::Full) and [`Unavailable`](Self::Unavailable) are worth a retry.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CommitError {
    /// [`Expect::Absent`], and there is this object.
    #[error("the object exists at revision {}", .0.revision)]
    Exists(Arc<Stored>),
    /// [`Expect::Revision`], and the object is at another one, or gone.
    #[error("the object was changed")]
    Changed(Option<Arc<Stored>>),
    /// The object has more bytes than any may have. Nothing was written.
    #[error("the object is too large")]
    TooLarge,
    /// It is nothing that can be stored, which is a fault of who made it. Nothing was written.
    #[error(transparent)]
    Malformed(#[from] EncodeError),
    /// The disk, or the quota, is full. Nothing was written; writes succeed again when there is space.
    #[error("no space to store the object")]
    Full(#[source] StorageFault),
    /// The state cannot be written at the moment. Unlike with the other errors, the write may turn out to have
    /// happened.
    #[error("the state cannot be written")]
    Unavailable(#[source] StorageFault),
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
}

/// Why the past cannot be shown.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HistoryError {
    /// It is forgotten.
    #[error("the history before revision {oldest} is compacted")]
    Compacted {
        /// The oldest revision that can be asked for.
        oldest: u64,
    },
    /// It is yet to come.
    #[error("the store is at revision {current} only")]
    Future {
        /// The revision of the store.
        current: u64,
    },
    /// It cannot be read from the disk.
    #[error("the history cannot be read")]
    Unavailable(#[source] StorageFault),
}

/// Why a watch ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WatchError {
    /// It fell behind what is kept; the client has to list again (410).
    #[error("the watch fell behind revision {oldest}")]
    Expired {
        /// The oldest revision that can be asked for.
        oldest: u64,
    },
    /// The history cannot be read from the disk.
    #[error("the history cannot be read")]
    Unavailable(#[source] StorageFault),
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
}
