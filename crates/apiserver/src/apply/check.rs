//! Whether an applied object fits its schema, in the words of `sigs.k8s.io/structured-merge-diff/typed`.

use std::collections::BTreeSet;
use std::fmt::Write;

use serde_json::Value;

use super::element::Element;
use super::typed::{Field, Sort, Typed};
use crate::go;
use crate::schema::Shape;

/// How many faults are told.
const MAX_FAULTS: usize = 100;

/// Every fault of `value`, as `.spec.replicas: expected numeric (int or float), got string`.
pub(super) fn faults(typed: Typed<'_>, value: &Value) -> Vec<String> {
    let mut check = Check { path: String::new(), faults: Vec::new() };
    check.value(typed, value);
    check.faults
}

struct Check {
    path: String,
    faults: Vec<String>,
}

impl Check {
    fn fault(&mut self, message: impl AsRef<str>) {
        if self.faults.len() < MAX_FAULTS {
            let message = message.as_ref();
            let path = &self.path;
            self.faults.push(if path.is_empty() { message.to_owned() } else { format!("{path}: {message}") });
        }
    }

    fn within(&mut self, element: &Element, then: impl FnOnce(&mut Self)) {
        let length = self.path.len();
        // Writing into a `String` cannot fail.
        let _ = write!(self.path, "{element}");
        then(self);
        self.path.truncate(length);
    }

    fn value(&mut self, typed: Typed<'_>, value: &Value) {
        if value.is_null() {
            return;
        }
        match typed.sort(value) {
            Sort::Leaf => self.scalar(&typed.schema.shape, value),
            Sort::Map | Sort::AtomicMap => {
                let Value::Object(fields) = value else {
                    return self.fault(format!("expected map, got &{{{}}}", go::text(value)));
                };
                for (name, value) in fields {
                    let field = typed.field(name);
                    let element = Element::field(name);
                    if let Field::Undeclared(_) = field {
                        return self.within(&element, |check| check.fault("field not declared in schema"));
                    }
                    self.within(&element, |check| check.value(field.typed(), value));
                }
            }
            Sort::AtomicList => {
                let Value::Array(items) = value else {
                    return self.fault(format!("expected list, got &{{{}}}", go::text(value)));
                };
                for (index, item) in items.iter().enumerate() {
                    let element = Element::Index(i64::try_from(index).unwrap_or(i64::MAX));
                    self.within(&element, |check| check.value(typed.items(), item));
                }
            }
            Sort::List(list) => {
                let Value::Array(items) = value else {
                    return self.fault(format!("expected list, got &{{{}}}", go::text(value)));
                };
                let mut seen = BTreeSet::new();
                for (index, item) in items.iter().enumerate() {
                    let element = match typed.item_element(list, item) {
                        Ok(element) => element,
                        Err(why) => return self.fault(format!("element {index}: {why}")),
                    };
                    if seen.contains(&element) {
                        self.fault(format!("duplicate entries for key {element}"));
                    }
                    self.within(&element, |check| check.value(typed.items(), item));
                    seen.insert(element);
                }
            }
        }
    }

    fn scalar(&mut self, shape: &Shape, value: &Value) {
        match shape {
            Shape::Integer | Shape::Number if !value.is_number() => {
                self.fault(format!("expected numeric (int or float), got {}", go::type_name(value)));
            }
            Shape::String if !value.is_string() => {
                self.fault(format!(
                    "expected string, got &value.valueUnstructured{{Value:{}}}",
                    go::syntax(value)
                ));
            }
            Shape::Boolean if !value.is_boolean() => {
                self.fault(format!("expected boolean, got &{{{}}}", go::text(value)));
            }
            Shape::IntOrString if value.is_array() || value.is_object() => {
                self.fault(format!("expected any scalar, got &{{{}}}", go::text(value)));
            }
            _ => {}
        }
    }
}
