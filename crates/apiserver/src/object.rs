//! Reading and writing the parts of an object that every kind has.

use serde_json::{Map, Value};

/// `metadata`, or an empty object's worth of nothing.
pub fn metadata(object: &Value) -> Option<&Map<String, Value>> {
    object.get("metadata").and_then(Value::as_object)
}

/// `metadata`, made where it is missing. `object` must be a JSON object; anything else is left alone and `None`.
pub fn metadata_mut(object: &mut Value) -> Option<&mut Map<String, Value>> {
    let metadata = object.as_object_mut()?.entry("metadata").or_insert_with(|| Value::Object(Map::new()));
    if metadata.is_null() {
        *metadata = Value::Object(Map::new());
    }
    metadata.as_object_mut()
}

/// A text of `metadata`; empty where it is missing.
pub fn metadata_text<'a>(object: &'a Value, field: &str) -> &'a str {
    metadata(object).and_then(|metadata| metadata.get(field)).and_then(Value::as_str).unwrap_or_default()
}

/// `metadata.name`; empty where it is missing.
pub fn name(object: &Value) -> &str {
    metadata_text(object, "name")
}

/// `metadata.namespace`; empty where it is missing.
pub fn namespace(object: &Value) -> &str {
    metadata_text(object, "namespace")
}

/// `metadata.uid`; empty where it is missing.
pub fn uid(object: &Value) -> &str {
    metadata_text(object, "uid")
}

/// `metadata.resourceVersion`; empty where it is missing.
pub fn resource_version(object: &Value) -> &str {
    metadata_text(object, "resourceVersion")
}

/// Whether the object is being deleted.
pub fn is_deleting(object: &Value) -> bool {
    metadata(object).is_some_and(|metadata| metadata.get("deletionTimestamp").is_some_and(|at| !at.is_null()))
}

/// `metadata.finalizers`; empty where it is missing.
pub fn finalizers(object: &Value) -> Vec<&str> {
    metadata(object)
        .and_then(|metadata| metadata.get("finalizers"))
        .and_then(Value::as_array)
        .map(|list| list.iter().filter_map(Value::as_str).collect())
        .unwrap_or_default()
}

/// A time as Kubernetes writes `metav1.Time`: UTC, whole seconds, `2026-11-22T15:04:05Z`.
pub fn format_time(at: jiff::Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// A time as Kubernetes writes `metav1.MicroTime`.
pub fn format_micro_time(at: jiff::Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_kubernetes_writes_them() {
        let at = jiff::Timestamp::from_microsecond(1_700_000_000_123_456).unwrap_or_default();
        assert_eq!(format_time(at), "2023-11-14T22:13:20Z");
        assert_eq!(format_micro_time(at), "2023-11-14T22:13:20.123456Z");
    }
}
