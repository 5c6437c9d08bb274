//! Strategic merge patch.
//!
//! The rules are those of `k8s.io/apimachinery/pkg/util/strategicpatch` when a server applies a patch. Where Go walks a
//! map in random order, this walks the patch in the order of its text.

mod list;

use std::collections::HashSet;

use serde_json::{Map, Value};

use super::unprocessable;
use crate::go;
use crate::schema::{PatchStrategy, Schema};
use crate::status::ApiError;

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM: &str = "$deleteFromPrimitiveList";
const SET_ORDER: &str = "$setElementOrder";

/// Why a patch cannot be applied.
#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error("invalid JSON document")]
    NotAnObject,
    #[error("invalid patch format of primitive list")]
    PrimitiveList,
    #[error("invalid patch format of retainKeys")]
    RetainKeys,
    #[error("invalid patch format of setElementOrder list")]
    SetElementOrder,
    #[error("lists of lists are not supported")]
    ListOfLists,
    #[error("map: {map} does not contain declared merge key: {key}")]
    NoMergeKey { map: String, key: String },
    #[error("expected a {expected}, but received a {actual}")]
    WrongType { expected: &'static str, actual: &'static str },
    #[error("unknown patch type: {directive} in map: {map}")]
    UnknownDirective { directive: String, map: String },
    #[error("{0}")]
    Other(String),
}

impl Fault {
    fn wrong_type(expected: &'static str, found: &Value) -> Self {
        // Go prints the missing type of nil with a verb for texts.
        let actual = if found.is_null() { "%!s(<nil>)" } else { go::type_name(found) };
        Self::WrongType { expected, actual }
    }
}

impl From<Fault> for ApiError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::NotAnObject | Fault::PrimitiveList | Fault::RetainKeys | Fault::SetElementOrder => {
                Self::bad_request(fault.to_string())
            }
            Fault::ListOfLists => unprocessable(),
            // Kubernetes has no status for these: the plain text goes out as a 500 without a reason.
            _ => Self::new(500, "", fault.to_string()),
        }
    }
}

/// Applies `patch` to `original`.
pub(super) fn apply(original: &Value, patch: &Value, schema: &Schema) -> Result<Value, ApiError> {
    let (Value::Object(original), Value::Object(patch)) = (original, patch) else {
        return Err(Fault::NotAnObject.into());
    };
    let mut merged = original.clone();
    merge_map(&mut merged, patch, Some(schema))?;
    Ok(Value::Object(merged))
}

/// What a schema says of a field; nothing where there is no schema.
fn strategy(schema: Option<&Schema>) -> PatchStrategy {
    schema.map(|schema| schema.patch_strategy).unwrap_or_default()
}

fn field<'a>(schema: Option<&'a Schema>, name: &str) -> Option<&'a Schema> {
    schema.and_then(|schema| schema.field(name)).map(AsRef::as_ref)
}

fn merge_map(
    original: &mut Map<String, Value>,
    patch: &Map<String, Value>,
    schema: Option<&Schema>,
) -> Result<(), Fault> {
    if let Some(directive) = patch.get(PATCH) {
        match directive.as_str() {
            Some("replace") => *original = without_directives(patch),
            Some("delete") => original.clear(),
            _ => return Err(unknown_directive(directive, patch)),
        }
        return Ok(());
    }
    retain_keys(original, patch)?;
    let ordered = merge_ordered_lists(original, patch, schema)?;
    for (name, value) in patch {
        if name == RETAIN_KEYS || is_order(name) || ordered.contains(name.as_str()) {
            continue;
        }
        if name.starts_with(DELETE_FROM) {
            let list = after_prefix(name, DELETE_FROM).ok_or(Fault::PrimitiveList)?;
            delete_from_list(original, list, value, field(schema, list))?;
        } else {
            merge_field(original, name, value, field(schema, name))?;
        }
    }
    Ok(())
}

fn merge_field(
    original: &mut Map<String, Value>,
    name: &str,
    value: &Value,
    schema: Option<&Schema>,
) -> Result<(), Fault> {
    if value.is_null() {
        original.shift_remove(name);
        return Ok(());
    }
    match (original.get_mut(name), value) {
        (Some(Value::Object(into)), Value::Object(patch)) => {
            if strategy(schema).replace {
                *into = without_directives(patch);
            } else {
                merge_map(into, patch, schema)?;
            }
        }
        (Some(Value::Array(into)), Value::Array(patch)) => {
            let before = std::mem::take(into);
            *into = list::merge(before, patch, schema)?;
        }
        (present, _) => match (present, taken(value)) {
            (Some(place), Some(value)) => *place = value,
            (None, Some(value)) => {
                original.insert(name.to_owned(), value);
            }
            (_, None) => {
                original.shift_remove(name);
            }
        },
    }
    Ok(())
}

/// `$deleteFromPrimitiveList/LIST`.
fn delete_from_list(
    original: &mut Map<String, Value>,
    name: &str,
    value: &Value,
    schema: Option<&Schema>,
) -> Result<(), Fault> {
    match (original.get_mut(name), value) {
        (_, Value::Null) => {
            original.shift_remove(name);
        }
        (Some(Value::Array(list)), Value::Array(unwanted)) => {
            if strategy(schema).merge {
                list::delete(list, unwanted)?;
            } else {
                list.clone_from(unwanted);
            }
        }
        _ => {}
    }
    Ok(())
}

/// `$retainKeys`: whatever it does not list goes, and the patch may name nothing else.
fn retain_keys(original: &mut Map<String, Value>, patch: &Map<String, Value>) -> Result<(), Fault> {
    let Some(keys) = patch.get(RETAIN_KEYS) else { return Ok(()) };
    let keys: HashSet<&str> =
        keys.as_array().ok_or(Fault::RetainKeys)?.iter().filter_map(Value::as_str).collect();
    let stray = patch.iter().any(|(name, value)| {
        let directive = name == RETAIN_KEYS || name.starts_with(DELETE_FROM) || is_order(name);
        !directive && !value.is_null() && !keys.contains(name.as_str())
    });
    if stray {
        return Err(Fault::RetainKeys);
    }
    original.retain(|name, _| keys.contains(name.as_str()));
    Ok(())
}

/// Merges the lists that `$setElementOrder/LIST` orders; returns their names.
fn merge_ordered_lists<'a>(
    original: &mut Map<String, Value>,
    patch: &'a Map<String, Value>,
    schema: Option<&Schema>,
) -> Result<HashSet<&'a str>, Fault> {
    let mut done = HashSet::new();
    for (directive, order) in patch.iter().filter(|(name, _)| is_order(name)) {
        let order = array(order)?;
        let name = after_prefix(directive, SET_ORDER).ok_or(Fault::SetElementOrder)?;
        if !done.insert(name) {
            continue;
        }
        let before = original.get(name).map(array).transpose()?;
        let changes = patch.get(name).map(array).transpose()?;
        if before.is_none() && changes.is_none() {
            continue;
        }
        let merged = list::merge_ordered(before, changes, order, field(schema, name))?;
        original.insert(name.to_owned(), Value::Array(merged));
    }
    Ok(done)
}

fn array(value: &Value) -> Result<&Vec<Value>, Fault> {
    match value {
        Value::Array(items) => Ok(items),
        other => Err(Fault::wrong_type("[]interface {}", other)),
    }
}

fn is_order(name: &str) -> bool {
    name.starts_with(SET_ORDER)
}

fn after_prefix<'a>(name: &'a str, prefix: &str) -> Option<&'a str> {
    name.strip_prefix(prefix)?.strip_prefix('/')
}

fn is_directive(name: &str) -> bool {
    name == PATCH || name == RETAIN_KEYS || is_order(name) || name.starts_with(DELETE_FROM)
}

/// A value of the patch that has nothing to merge with: without nulls and without directives. An object that carries
/// `$patch` is about something that is not there, and is dropped.
fn taken(value: &Value) -> Option<Value> {
    match value {
        Value::Object(fields) if fields.contains_key(PATCH) => None,
        Value::Object(fields) => Some(Value::Object(without_directives(fields))),
        Value::Array(items) => Some(Value::Array(items.iter().filter_map(taken).collect())),
        other => Some(other.clone()),
    }
}

fn without_directives(fields: &Map<String, Value>) -> Map<String, Value> {
    fields
        .iter()
        .filter(|(name, value)| !is_directive(name) && !value.is_null())
        .filter_map(|(name, value)| Some((name.clone(), taken(value)?)))
        .collect()
}

fn unknown_directive(directive: &Value, map: &Map<String, Value>) -> Fault {
    Fault::UnknownDirective { directive: go::text(directive), map: go::map_text(map) }
}
