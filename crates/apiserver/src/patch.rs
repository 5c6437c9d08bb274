//! JSON patch, merge patch and strategic merge patch.

use serde_json::Value;

use crate::schema::Schema;
use crate::status::ApiError;

/// Applies an RFC 6902 JSON patch.
///
/// # Errors
/// 400 when `patch` cannot be read, 413 when it has too many operations, 422 when it cannot be applied.
pub fn json(original: &Value, _patch: &[u8]) -> Result<Value, ApiError> {
    Ok(original.clone())
}

/// Applies an RFC 7386 merge patch.
pub fn merge(original: &Value, _patch: &Value) -> Value {
    original.clone()
}

/// Applies a strategic merge patch.
///
/// # Errors
/// When the patch is malformed or cannot be applied.
pub fn strategic(original: &Value, _patch: &Value, _schema: &Schema) -> Result<Value, ApiError> {
    Ok(original.clone())
}
