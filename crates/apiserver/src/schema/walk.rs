//! The walks that change a value: pruning, dropping nulls, filling in defaults, writing quantities canonically.

use std::sync::Arc;

use quantity::Quantity;
use serde_json::{Map, Value};

use super::path::Path;
use super::{QUANTITY_FORMAT, Schema, Shape};

/// How many unknown fields are named; more are removed without a word. Go's strict decoder has a bound as well.
const MOST_PATHS: usize = 100;

/// See [`Schema::prune`].
pub(super) fn prune(schema: &Schema, value: &mut Value, path: &Path<'_>, unknown: &mut Vec<String>) {
    match (&schema.shape, value) {
        (Shape::Object { fields, additional, .. }, Value::Object(object)) => {
            object.retain(|name, inner| {
                let path = path.field(name);
                match fields.get(name).or(additional.as_ref()) {
                    Some(schema) => prune(schema, inner, &path, unknown),
                    None if schema.preserve_unknown_fields => {}
                    None => {
                        if unknown.len() < MOST_PATHS {
                            unknown.push(path.text());
                        }
                        return false;
                    }
                }
                true
            });
        }
        (Shape::List(items), Value::Array(list)) => {
            for (index, item) in list.iter_mut().enumerate() {
                prune(items, item, &path.index(index), unknown);
            }
        }
        _ => {}
    }
}

/// See [`Schema::drop_nulls`].
pub(super) fn drop_nulls(schema: &Schema, value: &mut Value) {
    match (&schema.shape, value) {
        (Shape::Object { fields, additional, .. }, Value::Object(object)) => {
            object.retain(|name, inner| {
                let (inner_schema, of_map) = match (fields.get(name), additional) {
                    (Some(field), _) => (field, false),
                    (None, Some(rest)) => (rest, true),
                    (None, None) => return true,
                };
                if !inner.is_null() || inner_schema.nullable || matches!(inner_schema.shape, Shape::Any) {
                    drop_nulls(inner_schema, inner);
                    return true;
                }
                // Go decodes a null in a `map[string]string` into an empty string, and keeps the key.
                let keeps = of_map && matches!(inner_schema.shape, Shape::String);
                if keeps {
                    *inner = Value::String(String::new());
                }
                keeps
            });
        }
        (Shape::List(items), Value::Array(list)) => {
            for item in list {
                drop_nulls(items, item);
            }
        }
        _ => {}
    }
}

/// See [`Schema::make_quantities_canonical`].
pub(super) fn make_quantities_canonical(schema: &Schema, value: &mut Value) {
    match (&schema.shape, value) {
        (Shape::Object { .. }, Value::Object(object)) => {
            for (name, inner) in object {
                if let Some(field) = schema.field(name) {
                    make_quantities_canonical(field, inner);
                }
            }
        }
        (Shape::List(items), Value::Array(list)) => {
            for item in list {
                make_quantities_canonical(items, item);
            }
        }
        (Shape::IntOrString, value) if schema.format.as_deref() == Some(QUANTITY_FORMAT) => {
            // What is no quantity has been refused, or is null. What is too large to compute with stays as it is.
            if let Ok(quantity) = super::go::quantity(value)
                && quantity.units().abs() < Quantity::LIMIT
            {
                *value = quantity.canonical().into();
            }
        }
        _ => {}
    }
}

/// See [`Schema::fill_defaults`].
pub(super) fn fill_defaults(schema: &Schema, value: &mut Value) {
    match (&schema.shape, value) {
        (Shape::Object { fields, additional, .. }, Value::Object(object)) => {
            for (name, field) in fields {
                fill_field(object, name, field);
            }
            if let Some(rest) = additional {
                for (name, inner) in object.iter_mut() {
                    if !fields.contains_key(name) {
                        fill_defaults(rest, inner);
                    }
                }
            }
        }
        (Shape::List(items), Value::Array(list)) => {
            for item in list {
                fill_defaults(items, item);
            }
        }
        _ => {}
    }
}

fn fill_field(object: &mut Map<String, Value>, name: &str, field: &Arc<Schema>) {
    match object.get_mut(name) {
        // A null that the schema does not know as a value is as good as missing.
        Some(inner) if !inner.is_null() || field.nullable => fill_defaults(field, inner),
        present => {
            if let Some(default) = &field.default {
                let mut default = default.clone();
                fill_defaults(field, &mut default);
                match present {
                    Some(inner) => *inner = default,
                    None => {
                        object.insert(name.to_owned(), default);
                    }
                }
            }
        }
    }
}
