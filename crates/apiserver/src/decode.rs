//! Bodies into JSON values, strictly.
//!
//! What a body costs is bounded before it is spent: nesting, values and bytes. A body in JSON cannot cost more than its own
//! length; a body in YAML can, as an alias repeats what it stands for.

use serde::de::DeserializeSeed;
use serde_json::Value;

use crate::status::ApiError;

mod value;

#[cfg(test)]
mod tests;

use value::{Reader, Seed};

use crate::schema::path::Path;

/// The deepest nesting of objects and lists that is taken.
///
/// Kubernetes takes 10,000. What is taken here is read again with `serde_json`, whose own bound is 128, with an envelope
/// around it (a list, a watch event, `fieldsV1`), by us and by clients; hence a bound below that.
pub const MAX_DEPTH: usize = 100;

/// The most values (objects, lists, scalars, each counted once) in a body.
const MAX_VALUES: usize = 2_000_000;

/// The most bytes of text in a body after its aliases are replaced; bodies themselves are bounded by who reads them.
const MAX_TEXT: usize = 64 << 20;

/// The most text in YAML, where an alias of a few bytes may stand for much.
const MAX_YAML_TEXT: usize = 16 << 20;

/// The most values in YAML.
const MAX_YAML_VALUES: usize = 250_000;

/// A body that could be read.
#[derive(Debug, Clone, PartialEq)]
pub struct Decoded {
    /// The value. Where a key occurred twice in an object, the last one counts, as in Go.
    pub value: Value,
    /// The paths of keys that occurred twice (`spec.containers[0].name`), at most 100 of them, each once, for
    /// `duplicate field "spec.containers[0].name"`.
    pub duplicates: Vec<String>,
}

/// Why a body cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// It is not JSON.
    #[error("{0}")]
    Json(String),
    /// It is not YAML, or none that is taken.
    #[error("error converting YAML to JSON: yaml: {0}")]
    Yaml(String),
    /// It is something else than an object at the top.
    #[error("json: cannot unmarshal {0} into Go value of type map[string]interface {{}}")]
    NotAnObject(&'static str),
}

impl From<DecodeError> for ApiError {
    fn from(error: DecodeError) -> Self {
        Self::bad_request(format!("couldn't get version/kind; json parse error: {error}"))
    }
}

/// Reads a JSON object: in UTF-8, at most [`MAX_DEPTH`] deep, with nothing after it.
///
/// Whole numbers that fit in 64 bits stay whole, and so do floats without a fraction (`2.0` is `2`, as Go writes it
/// again); other numbers are floats.
///
/// # Errors
/// When the bytes are anything else.
pub fn json(bytes: &[u8]) -> Result<Decoded, DecodeError> {
    object(json_value(bytes)?)
}

/// Reads any JSON value, as [`json`] reads objects.
///
/// # Errors
/// When the bytes are not JSON, or too deep.
pub fn json_value(bytes: &[u8]) -> Result<Decoded, DecodeError> {
    let reader = Reader::new(MAX_DEPTH, MAX_VALUES, MAX_TEXT);
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let read = Seed { reader: &reader, path: &Path::ROOT, depth: 0 }
        .deserialize(&mut deserializer)
        .and_then(|value| deserializer.end().map(|()| value));
    match read {
        Ok(value) => Ok(Decoded { value, duplicates: reader.into_duplicates() }),
        Err(error) => Err(DecodeError::Json(error.to_string())),
    }
}

/// Reads YAML that describes a JSON object: one document, in UTF-8, at most [`MAX_DEPTH`] deep, of bounded size after its
/// aliases are replaced. As in Kubernetes, `0644` is octal, `yes` and `on` are true, and keys become text.
///
/// # Errors
/// When the bytes are anything else.
pub fn yaml(bytes: &[u8]) -> Result<Decoded, DecodeError> {
    let text = std::str::from_utf8(bytes).map_err(|error| DecodeError::Yaml(error.to_string()))?;
    // Most clients send JSON under this name; as JSON it is read many times faster, and without YAML's bounds.
    if text.trim_ascii_start().starts_with('{')
        && let Ok(decoded) = json(bytes)
    {
        return Ok(decoded);
    }
    let reader = Reader::new(MAX_DEPTH, MAX_YAML_VALUES, MAX_YAML_TEXT);
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: MAX_DEPTH + 8,
            flow_nesting_limit: MAX_DEPTH + 8,
            max_documents: 1,
            max_nodes: MAX_YAML_VALUES,
            max_total_scalar_bytes: MAX_YAML_TEXT,
            max_recorded_anchor_bytes: MAX_YAML_TEXT,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: MAX_YAML_VALUES,
        },
        duplicate_keys: serde_saphyr::DuplicateKeyPolicy::PassThrough,
        legacy_octal_numbers: true,
        with_snippet: false,
    };
    let read = serde_saphyr::with_deserializer_from_str_with_options(text, options, |deserializer| {
        Seed { reader: &reader, path: &Path::ROOT, depth: 0 }.deserialize(deserializer)
    });
    match read {
        Ok(value) => object(Decoded { value, duplicates: reader.into_duplicates() }),
        Err(error) => Err(DecodeError::Yaml(error.to_string())),
    }
}

fn object(decoded: Decoded) -> Result<Decoded, DecodeError> {
    let kind = match decoded.value {
        Value::Object(_) => return Ok(decoded),
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
    };
    Err(DecodeError::NotAnObject(kind))
}
