//! Objects as tables, and their metadata alone.

use serde_json::{Map, Value};

use crate::kind::Kind;

/// What each row of a table carries of its object (`includeObject=`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum IncludeObject {
    /// Nothing.
    None,
    /// `apiVersion`, `kind` and `metadata`.
    #[default]
    Metadata,
    /// All of it.
    Object,
}

impl IncludeObject {
    /// The value of `includeObject=`; empty means the default. `None` when it is not known.
    pub fn parse(_text: &str) -> Option<Self> {
        None
    }
}

/// A `meta.k8s.io/v1` Table of `items`.
///
/// `metadata` is the list's metadata (`resourceVersion`, `continue`, `remainingItemCount`; for a single object its
/// `resourceVersion`). `headings` is whether the column definitions are written: in every answer, but only in the first
/// event of a watch.
pub fn table(
    _kind: &Kind,
    _items: &[Value],
    _metadata: &Map<String, Value>,
    _now: jiff::Timestamp,
    _include: IncludeObject,
    _headings: bool,
) -> Value {
    Value::Null
}

/// The object's `PartialObjectMetadata` (`meta.k8s.io/v1`).
pub fn partial(_object: &Value) -> Value {
    Value::Null
}

/// A `PartialObjectMetadataList` with this list metadata.
pub fn partial_list(_items: &[Value], _metadata: &Map<String, Value>) -> Value {
    Value::Null
}

/// How long ago, as `kubectl get` shows it: `5m3s`, `2d4h`.
pub fn human_duration(_elapsed: jiff::SignedDuration) -> String {
    String::new()
}
