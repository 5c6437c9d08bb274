//! Typed objects from JSON values, and the other way around.
//!
//! What reads or writes a type is compiled for each form that it is read from or written to, and once more by each crate
//! that is the first to ask for it: 0.15 MB of the program each time for a Pod, 0.2 MB for a machine. So it goes by way of
//! text, which clients of the API need in any case, where nobody waits for it (admission does not); and what several crates
//! ask for is compiled here, beneath them.

use k8s_openapi::api::core::v1::{Node, Pod};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Result, Value};

/// Reads a `T`.
///
/// # Errors
/// When `value` has another shape, or is more than 127 deep.
pub fn from_value<T: DeserializeOwned>(value: &Value) -> Result<T> {
    serde_json::from_str(&value.to_string())
}

/// `object` as a value.
///
/// # Errors
/// When it has keys that are no text, or is more than 127 deep.
pub fn to_value<T: Serialize>(object: &T) -> Result<Value> {
    serde_json::from_str(&serde_json::to_string(object)?)
}

/// Reads a Pod.
///
/// # Errors
/// When `text` is something else.
pub fn read_pod(text: &str) -> Result<Pod> {
    serde_json::from_str(text)
}

/// Reads a Node.
///
/// # Errors
/// When `text` is something else.
pub fn read_node(text: &str) -> Result<Node> {
    serde_json::from_str(text)
}

/// `pod` as text.
///
/// # Errors
/// None: a Pod has no keys but texts.
pub fn write_pod(pod: &Pod) -> Result<String> {
    serde_json::to_string(pod)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;

    #[test]
    fn values_are_as_serde_json_has_them() {
        let pod = json!({
            "metadata": {"name": "p", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"containers": [{"name": "c\u{1f600}\"", "ports": [{"containerPort": 8443}]}]},
        });
        let read: Pod = from_value(&pod).unwrap();
        assert_eq!(read, serde_json::from_value(pod.clone()).unwrap());
        assert_eq!(read_pod(&write_pod(&read).unwrap()).unwrap(), read);
        assert_eq!(to_value(&read).unwrap(), serde_json::to_value(&read).unwrap());
        assert!(from_value::<Pod>(&json!({"spec": "none"})).is_err());
        let node = r#"{"metadata": {"name": "n"}, "status": {"allocatable": {"cpu": "4"}}}"#;
        assert_eq!(read_node(node).unwrap().metadata.name.as_deref(), Some("n"));
        let numbers = json!({"least": i64::MIN, "most": u64::MAX, "half": 0.5, "tiny": 1e-300});
        assert_eq!(to_value(&numbers).unwrap(), numbers);
    }
}
