//! Request bodies in Kubernetes' protobuf, into the JSON that the same client would have sent.
//!
//! Newer Go clients, kubectl among them, send objects of built-in kinds as `application/vnd.kubernetes.protobuf`:
//!
//! ```text
//! "k8s\0"  Unknown { 1: TypeMeta { 1: apiVersion, 2: kind }, 2: raw, 3: contentEncoding, 4: contentType }
//! ```
//!
//! where `raw` is the object, encoded as its message. Which field of which message has which number is data:
//! `protobuf/messages.txt`, written by `scripts/protobuf-table.py` from Kubernetes' sources. Answers are never in
//! protobuf; these clients take JSON too.
//!
//! The value is what Go's encoder would write for the decoded struct, with one liberty: what it would write as `null`,
//! or as a required field that is not in the message, is left out.

mod message;
mod table;
mod wire;

use std::fmt::Write as _;

use serde_json::{Map, Value};

use crate::status::ApiError;
use message::Decoder;
use table::TABLE;
pub use wire::WireError;
use wire::{Wire, fields};

/// The media type.
pub const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";

/// What every body starts with.
const PREFIX: &[u8] = b"k8s\0";

/// The most bytes of a body that an error shows.
const SUMMARY_BYTES: usize = 30;

/// Why a body cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Nothing at all.
    #[error("empty data")]
    NoData,
    /// Something else.
    #[error("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")]
    NoPrefix,
    /// Nothing after the prefix.
    #[error("empty body")]
    NoBody,
    /// What says which object it is cannot be read.
    #[error(transparent)]
    Envelope(WireError),
    /// The object cannot be read.
    #[error("{error}")]
    Object {
        /// The version of the API without its group, `v1`.
        version: String,
        /// `ConfigMap`
        kind: String,
        /// Why.
        error: WireError,
    },
    /// The object is of a kind that is not known here.
    #[error("no kind {kind:?} is registered for version {api_version:?}")]
    UnknownKind {
        /// `apps/v1`
        api_version: String,
        /// `ConfigMap`
        kind: String,
    },
}

impl DecodeError {
    /// 400 as Kubernetes words it, for a request that takes objects of `kind`.
    pub fn to_api_error(&self, kind: &str, body: &[u8]) -> ApiError {
        ApiError::bad_request(match self {
            Self::Object { version, kind: found, .. } => {
                format!("{found} in version {version:?} cannot be handled as a {kind}: {self}")
            }
            Self::UnknownKind { api_version, kind: found } => {
                let version = api_version.rsplit('/').next().unwrap_or_default();
                format!("{found} in version {version:?} cannot be handled as a {kind}: {self}")
            }
            Self::NoData | Self::NoPrefix | Self::NoBody | Self::Envelope(_) => {
                let summary = summary(body);
                format!("the object provided is unrecognized (must be of type {kind}): {self} ({summary})")
            }
        })
    }
}

/// The start of a body, as Kubernetes shows it.
fn summary(body: &[u8]) -> String {
    if body.is_empty() {
        return "<empty>".to_owned();
    }
    let shown = &body[..body.len().min(SUMMARY_BYTES)];
    let mut text = if body[0] == b'{' {
        String::from_utf8_lossy(shown).into_owned()
    } else {
        shown.iter().fold(String::new(), |mut text, byte| {
            // Writing to a String cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
    };
    if shown.len() < body.len() {
        text.push_str(" ...");
    }
    text
}

/// Reads a body. `api_version` and `kind` are what the request is about; they count where the body does not say.
///
/// The value has `apiVersion` and `kind` first. What it costs is bounded by the length of the body, and in depth and in
/// number of values. Unknown fields are left out.
///
/// # Errors
/// When it is not protobuf, or not of a kind whose messages are known.
pub fn decode(body: &[u8], api_version: &str, kind: &str) -> Result<Value, DecodeError> {
    if body.is_empty() {
        return Err(DecodeError::NoData);
    }
    let envelope = body.strip_prefix(PREFIX).ok_or(DecodeError::NoPrefix)?;
    if envelope.is_empty() {
        return Err(DecodeError::NoBody);
    }
    let unknown = Unknown::read(envelope).map_err(DecodeError::Envelope)?;
    let or = |said: String, default: &str| if said.is_empty() { default.to_owned() } else { said };
    let api_version = or(unknown.api_version, api_version);
    let kind = or(unknown.kind, kind);
    let Some(message) = TABLE.kind(&api_version, &kind) else {
        return Err(DecodeError::UnknownKind { api_version, kind });
    };
    let mut object = Map::new();
    object.insert("apiVersion".to_owned(), api_version.as_str().into());
    object.insert("kind".to_owned(), kind.as_str().into());
    match Decoder::new(&TABLE).object(message, unknown.raw, &mut object) {
        Ok(()) => Ok(Value::Object(object)),
        Err(error) => {
            let version = api_version.rsplit('/').next().unwrap_or_default().to_owned();
            Err(DecodeError::Object { version, kind, error })
        }
    }
}

/// What is around an object.
#[derive(Default)]
struct Unknown<'a> {
    api_version: String,
    kind: String,
    raw: &'a [u8],
}

impl<'a> Unknown<'a> {
    fn read(bytes: &'a [u8]) -> Result<Self, WireError> {
        let mut unknown = Self::default();
        for field in fields(bytes) {
            match field? {
                (1, Wire::Bytes(meta)) => {
                    for field in fields(meta) {
                        match field? {
                            (1, wire) => unknown.api_version = wire.text("APIVersion")?,
                            (2, wire) => unknown.kind = wire.text("Kind")?,
                            _ => {}
                        }
                    }
                }
                (2, Wire::Bytes(raw)) => unknown.raw = raw,
                (1, wire) => return Err(wire.mismatch("TypeMeta")),
                (2, wire) => return Err(wire.mismatch("Raw")),
                _ => {}
            }
        }
        Ok(unknown)
    }
}

#[cfg(test)]
mod tests;
