//! What is wrong with a value, in the words of `k8s.io/kube-openapi/pkg/validation`, as `k8s.io/apiextensions-apiserver`
//! makes field errors of them.

use std::collections::HashSet;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::go;
use super::path::Path;
use super::{ListType, QUANTITY_FORMAT, Schema, Shape};
use crate::status::{FieldError, FieldErrorType};

/// How many faults are named. A body may hold a million.
const MOST_FAULTS: usize = 100;

/// See [`Schema::validate`].
pub(super) fn validate(schema: &Schema, value: &Value) -> Vec<FieldError> {
    let mut faults = Faults(Vec::new());
    check(schema, value, &Path::ROOT, &mut faults);
    faults.0
}

struct Faults(Vec<FieldError>);

impl Faults {
    fn is_full(&self) -> bool {
        self.0.len() >= MOST_FAULTS
    }

    fn add(&mut self, fault: FieldError) {
        if !self.is_full() {
            self.0.push(fault);
        }
    }

    fn invalid(&mut self, path: &Path<'_>, value: Value, what: &str) {
        let path = path.text();
        let detail = format!("{path} in body {what}");
        self.add(FieldError::invalid(path, value, detail));
    }

    /// `found` is a type, or the text that has not the wanted format.
    fn ill_typed(&mut self, path: &Path<'_>, wanted: &str, found: &str) {
        let path = path.text();
        let detail = format!("{path} in body must be of type {wanted}: {found:?}");
        self.add(FieldError::with_value(FieldErrorType::TypeInvalid, path, found.into(), detail));
    }
}

fn check(schema: &Schema, value: &Value, path: &Path<'_>, faults: &mut Faults) {
    if faults.is_full() || (value.is_null() && schema.nullable) {
        return;
    }
    let wanted = match schema.shape {
        Shape::Any => "",
        Shape::Object { .. } => "object",
        Shape::List(_) => "array",
        Shape::String => "string",
        Shape::Integer => "integer",
        Shape::Number => "number",
        Shape::Boolean => "boolean",
        Shape::IntOrString => "integer,string",
    };
    let format = schema.format.as_deref().unwrap_or_default();
    match (&schema.shape, value) {
        (Shape::Any, _) | (Shape::Boolean, Value::Bool(_)) => {}
        (Shape::Object { fields, required, additional }, Value::Object(object)) => {
            check_object(schema, object, path, faults, |name| fields.get(name).or(additional.as_ref()));
            for name in required.iter().filter(|name| !object.contains_key(name.as_str())) {
                faults.add(FieldError::required(path.field(name).text(), ""));
            }
        }
        (Shape::List(items), Value::Array(list)) => check_list(schema, items, list, path, faults),
        (Shape::String | Shape::IntOrString, Value::String(text)) => check_text(schema, text, path, faults),
        (Shape::Integer | Shape::IntOrString, Value::Number(number)) if go::is_whole(number) => {
            check_number(schema, number, path, faults);
        }
        (Shape::Number, Value::Number(number)) => check_number(schema, number, path, faults),
        (Shape::IntOrString, Value::Number(_)) if format == QUANTITY_FORMAT => {}
        _ => faults.ill_typed(path, wanted, type_name(value)),
    }
    if !schema.allowed.is_empty() && !schema.allowed.contains(value) && !value.is_null() {
        let known = schema.allowed.iter().map(|allowed| match allowed {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        });
        faults.add(FieldError::not_supported(path.text(), value.clone(), known));
    }
}

fn check_object<'s>(
    schema: &Schema,
    object: &Map<String, Value>,
    path: &Path<'_>,
    faults: &mut Faults,
    field: impl Fn(&str) -> Option<&'s Arc<Schema>>,
) {
    let count = object.len();
    for (bound, broken, word) in [
        (schema.minimum, schema.minimum.is_some_and(|least| (count as f64) < least), "least"),
        (schema.maximum, schema.maximum.is_some_and(|most| (count as f64) > most), "most"),
    ] {
        if broken {
            let what = format!("should have at {word} {} properties", decimal(bound));
            return faults.invalid(path, count.into(), &what);
        }
    }
    for (name, inner) in object {
        let Some(schema) = field(name) else { continue };
        // Metadata is decoded into a struct, not validated by schema.
        if !Arc::ptr_eq(schema, super::object_meta()) {
            check(schema, inner, &path.field(name), faults);
        }
    }
}

fn check_list(schema: &Schema, items: &Schema, list: &[Value], path: &Path<'_>, faults: &mut Faults) {
    for (index, item) in list.iter().enumerate() {
        check(items, item, &path.index(index), faults);
    }
    let count = list.len();
    if schema.minimum.is_some_and(|least| (count as f64) < least) {
        let what = format!("should have at least {} items", decimal(schema.minimum));
        faults.invalid(path, count.into(), &what);
    }
    if schema.maximum.is_some_and(|most| (count as f64) > most) {
        let detail = format!("must have at most {} items", decimal(schema.maximum));
        let kind = FieldErrorType::TooMany;
        faults.add(FieldError::with_value(kind, path.text(), count.into(), detail));
    }
    check_unique(schema, items, list, path, faults);
}

/// Sets hold each value once, and maps each key.
fn check_unique(schema: &Schema, items: &Schema, list: &[Value], path: &Path<'_>, faults: &mut Faults) {
    let key_of = |item: &Value| match &schema.list_type {
        ListType::Atomic => None,
        ListType::Set => Some(item.clone()),
        ListType::Map(keys) => {
            let item = item.as_object()?;
            let mut found = Map::new();
            for key in keys {
                let default = || items.field(key).and_then(|field| field.default.as_ref());
                if let Some(value) = item.get(key).or_else(default) {
                    found.insert(key.clone(), value.clone());
                }
            }
            Some(Value::Object(found))
        }
    };
    let mut seen = HashSet::new();
    for (index, item) in list.iter().enumerate() {
        if faults.is_full() {
            return;
        }
        if let Some(key) = key_of(item)
            && !seen.insert(key.to_string())
        {
            let kind = FieldErrorType::Duplicate;
            faults.add(FieldError::with_value(kind, path.index(index).text(), key, ""));
        }
    }
}

fn check_text(schema: &Schema, text: &str, path: &Path<'_>, faults: &mut Faults) {
    let length = text.chars().count() as f64;
    if schema.maximum.is_some_and(|most| length > most) {
        // Kubernetes counts characters and says bytes.
        faults.add(FieldError::too_long(path.text(), decimal(schema.maximum)));
    }
    if schema.minimum.is_some_and(|least| length < least) {
        let what = format!("should be at least {} chars long", decimal(schema.minimum));
        faults.invalid(path, text.into(), &what);
    }
    if let Some(pattern) = &schema.pattern
        && !pattern.matches(text)
    {
        faults.invalid(path, text.into(), &format!("should match '{}'", pattern.as_str()));
    }
    let well_formed = match schema.format.as_deref() {
        Some("date-time") => go::parse_time(text).is_ok(),
        Some("byte") => go::base64_fault(text).is_none(),
        Some("ipv4") => text.parse::<std::net::Ipv4Addr>().is_ok(),
        Some("ipv6") => text.parse::<std::net::Ipv6Addr>().is_ok(),
        _ => true,
    };
    if !well_formed {
        faults.ill_typed(path, schema.format.as_deref().unwrap_or_default(), text);
    }
}

fn check_number(schema: &Schema, number: &serde_json::Number, path: &Path<'_>, faults: &mut Faults) {
    if matches!(schema.shape, Shape::IntOrString) {
        return;
    }
    let Some(value) = number.as_f64() else { return };
    if schema.minimum.is_some_and(|least| value < least) {
        let what = format!("should be greater than or equal to {}", decimal(schema.minimum));
        faults.invalid(path, Value::Number(number.clone()), &what);
    }
    if schema.maximum.is_some_and(|most| value > most) {
        let what = format!("should be less than or equal to {}", decimal(schema.maximum));
        faults.invalid(path, Value::Number(number.clone()), &what);
    }
}

/// A bound as Go's `%v` prints it, which is as Rust does below 10²¹.
fn decimal(bound: Option<f64>) -> String {
    bound.unwrap_or_default().to_string()
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}
