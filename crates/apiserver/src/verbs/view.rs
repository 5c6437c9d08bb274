//! How a stored object is shown in the version and the group that a request names.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use serde_json::{Map, Value};

use crate::kind::Kind;
use crate::status::ApiError;
use crate::store::Stored;

/// How stored objects of a kind are shown in one version.
#[derive(Debug, Clone)]
pub struct View {
    shown: Option<Shown>,
}

#[derive(Debug, Clone)]
struct Shown {
    api_version: String,
    /// What every stored object starts with, when bytes can be rewritten without parsing.
    stored_head: Vec<u8>,
    shown_head: Vec<u8>,
    convert: Option<fn(&mut Value)>,
}

impl View {
    /// How `kind` is shown in `version`.
    pub fn new(kind: &Kind, version: &str) -> Self {
        let (stored, shown) = (kind.storage_api_version(), kind.api_version(version));
        if stored == shown {
            return Self { shown: None };
        }
        let head = |version: &str| format!("{{\"apiVersion\":\"{version}\",").into_bytes();
        Self {
            shown: Some(Shown {
                stored_head: head(&stored),
                shown_head: head(&shown),
                api_version: shown,
                convert: kind.shared_storage.as_ref().map(|shared| shared.from_stored),
            }),
        }
    }

    /// Whether stored bytes are shown as they are.
    pub fn is_identity(&self) -> bool {
        self.shown.is_none()
    }

    /// Turns a parsed stored object into what is shown.
    pub fn convert(&self, object: &mut Value) {
        let Some(shown) = &self.shown else { return };
        if let Some(convert) = shown.convert {
            convert(object);
        }
        set_first(object, "apiVersion", &shown.api_version);
    }

    /// A parsed stored object as it is shown; a copy only where the two differ.
    pub(super) fn shown<'a>(&self, object: &'a Value) -> Cow<'a, Value> {
        if self.is_identity() {
            return Cow::Borrowed(object);
        }
        let mut object = object.clone();
        self.convert(&mut object);
        Cow::Owned(object)
    }

    /// A stored object as a value.
    ///
    /// # Errors
    /// 500 when the stored bytes are not JSON.
    pub fn value(&self, stored: &Stored) -> Result<Value, ApiError> {
        let mut object = parse(stored)?;
        self.convert(&mut object);
        Ok(object)
    }

    /// A stored object as JSON bytes; cheap wherever the bytes can be shared or only `apiVersion` differs.
    ///
    /// # Errors
    /// 500 when the stored bytes are not JSON.
    pub fn bytes(&self, stored: &Stored) -> Result<Bytes, ApiError> {
        let Some(shown) = &self.shown else { return Ok(stored.json.clone()) };
        if shown.convert.is_none()
            && let Some(rest) = stored.json.strip_prefix(&shown.stored_head[..])
        {
            let mut bytes = BytesMut::with_capacity(shown.shown_head.len() + rest.len());
            bytes.extend_from_slice(&shown.shown_head);
            bytes.extend_from_slice(rest);
            return Ok(bytes.freeze());
        }
        let object = self.value(stored)?;
        serde_json::to_vec(&object).map(Bytes::from).map_err(ApiError::internal)
    }

    /// A stored object as an answer.
    ///
    /// # Errors
    /// 500 when the stored bytes are not JSON.
    pub(super) fn content(&self, stored: Arc<Stored>) -> Result<super::Content, ApiError> {
        if self.is_identity() {
            Ok(super::Content::Stored(stored))
        } else {
            Ok(super::Content::Value(self.value(&stored)?))
        }
    }
}

/// Parses what is stored.
pub(super) fn parse(stored: &Stored) -> Result<Value, ApiError> {
    serde_json::from_slice(&stored.json).map_err(|error| {
        ApiError::internal(format_args!(
            "stored object {:?} in namespace {:?} cannot be read: {error}",
            stored.name, stored.namespace
        ))
    })
}

/// Sets a text field without moving it when it is there already.
pub(super) fn set_first(object: &mut Value, field: &str, text: &str) {
    if let Some(map) = object.as_object_mut() {
        map.insert(field.to_owned(), text.into());
    }
}

/// Puts `apiVersion`, `kind` and `metadata` first, as every object is written.
pub(super) fn order(object: &mut Value) {
    let Value::Object(map) = object else { return };
    let mut ordered = Map::with_capacity(map.len());
    for first in ["apiVersion", "kind", "metadata"] {
        if let Some(value) = map.shift_remove(first) {
            ordered.insert(first.to_owned(), value);
        }
    }
    ordered.append(map);
    *map = ordered;
}
