//! The rules of `metadata`: `ValidateObjectMeta` and `ValidateObjectMetaUpdate` of `k8s.io/apimachinery`.

use serde_json::Value;

use crate::kind::Kind;
use crate::status::FieldError;

/// What is wrong with the metadata of a new object, whose name has been generated already.
pub fn validate_create(_kind: &Kind, _object: &Value) -> Vec<FieldError> {
    Vec::new()
}

/// What is wrong with the metadata of a changed object.
pub fn validate_update(_kind: &Kind, _new: &Value, _old: &Value) -> Vec<FieldError> {
    Vec::new()
}

/// What is wrong with `text` as a DNS label (RFC 1123), in Kubernetes' words; empty if nothing is.
pub fn is_dns1123_label(_text: &str) -> Vec<String> {
    Vec::new()
}

/// What is wrong with `text` as a DNS name (RFC 1123), in Kubernetes' words; empty if nothing is.
pub fn is_dns1123_subdomain(_text: &str) -> Vec<String> {
    Vec::new()
}

/// What is wrong with `text` as a DNS label (RFC 1035), in Kubernetes' words; empty if nothing is.
pub fn is_dns1035_label(_text: &str) -> Vec<String> {
    Vec::new()
}

/// What is wrong with `text` as a label key (`example.com/name`), in Kubernetes' words; empty if nothing is.
pub fn is_qualified_name(_text: &str) -> Vec<String> {
    Vec::new()
}

/// What is wrong with `text` as a label value, in Kubernetes' words; empty if nothing is.
pub fn is_label_value(_text: &str) -> Vec<String> {
    Vec::new()
}

/// What is wrong with `text` as one segment of a path, in Kubernetes' words; empty if nothing is.
pub fn is_path_segment(_text: &str) -> Vec<String> {
    Vec::new()
}
