//! The faults that Go finds when it decodes an object of a built-in kind into structs, in the words of `encoding/json`.

use quantity::{Quantity, QuantityError};
use serde_json::{Number, Value};

use super::{QUANTITY_FORMAT, Schema, Shape, object_meta};
use crate::go::json_type;
use crate::status::ApiError;

/// `Pod in version "v1" cannot be handled as a Pod: FAULT`.
pub(super) fn bad_request(kind: &str, version: &str, fault: &str) -> ApiError {
    ApiError::bad_request(format!("{kind} in version {version:?} cannot be handled as a {kind}: {fault}"))
}

/// Where the decoder is: the struct, and the fields to there, which name no indices and no keys of maps.
#[derive(Clone, Copy)]
struct Place<'a> {
    parent: Option<&'a Place<'a>>,
    structure: &'a str,
    field: &'a str,
}

impl Place<'_> {
    fn fields(&self) -> String {
        match self.parent.map(Place::fields) {
            Some(before) if !before.is_empty() => format!("{before}.{}", self.field),
            _ => self.field.to_owned(),
        }
    }
}

/// The first fault in the value as a whole object of `schema`.
pub(super) fn check(schema: &Schema, value: &Value) -> Result<(), String> {
    walk(schema, value, &Place { parent: None, structure: "", field: "" })
}

/// The first fault in the value's `metadata`, which is decoded on its own for custom resources.
pub(super) fn check_metadata(value: &Value) -> Result<(), String> {
    match value.get("metadata") {
        None => Ok(()),
        Some(metadata) => {
            let root = Place { parent: None, structure: "", field: "" };
            let place = Place { parent: Some(&root), structure: "ObjectMeta", field: "metadata" };
            walk(object_meta(), metadata, &place)
        }
    }
}

fn walk(schema: &Schema, value: &Value, place: &Place<'_>) -> Result<(), String> {
    let format = schema.format.as_deref().unwrap_or_default();
    match (&schema.shape, value) {
        (Shape::Any, _) | (_, Value::Null) | (Shape::Boolean, Value::Bool(_)) => Ok(()),
        (Shape::Object { fields, additional, .. }, Value::Object(object)) => {
            let structure = struct_name(schema);
            for (name, inner) in object {
                if let Some(field) = fields.get(name) {
                    walk(field, inner, &Place { parent: Some(place), structure, field: name })?;
                } else if let Some(rest) = additional {
                    walk(rest, inner, place)?;
                }
            }
            Ok(())
        }
        (Shape::List(items), Value::Array(list)) => list.iter().try_for_each(|item| walk(items, item, place)),
        (Shape::String, Value::String(text)) => match format {
            "date-time" => parse_time(text).map(|_| ()),
            "byte" => match base64_fault(text) {
                Some(offset) => Err(format!("illegal base64 data at input byte {offset}")),
                None => Ok(()),
            },
            _ => Ok(()),
        },
        (Shape::IntOrString, _) if format == QUANTITY_FORMAT => {
            quantity(value).map(|_| ()).map_err(|fault| fault.to_string())
        }
        (Shape::IntOrString, Value::String(_)) => Ok(()),
        (Shape::IntOrString, Value::Number(number)) if is_whole(number) && fits(number, "int32") => Ok(()),
        // The type decodes itself, and knows nothing of the struct around it.
        (Shape::IntOrString, _) => {
            Err(format!("json: cannot unmarshal {} into Go value of type int32", found(value, true)))
        }
        (Shape::String, _) if format == "date-time" => {
            Err(format!("json: cannot unmarshal {} into Go value of type string", found(value, false)))
        }
        (Shape::Integer, Value::Number(number)) if is_whole(number) && fits(number, format) => Ok(()),
        (Shape::Number, Value::Number(_)) => Ok(()),
        (shape, _) => {
            let found = found(value, matches!(shape, Shape::Integer));
            let wanted = go_type(schema);
            match place.field {
                "" => Err(format!("json: cannot unmarshal {found} into Go value of type {wanted}")),
                _ => {
                    let (structure, fields) = (place.structure, place.fields());
                    Err(format!(
                        "json: cannot unmarshal {found} into Go struct field {structure}.{fields} of type {wanted}"
                    ))
                }
            }
        }
    }
}

/// A quantity as Go decodes it: from a text, blanks around it dropped, or from a number.
pub(super) fn quantity(value: &Value) -> Result<Quantity, QuantityError> {
    match value {
        Value::String(text) => text.trim().parse(),
        Value::Number(number) => number.to_string().parse(),
        _ => Err(QuantityError::Format),
    }
}

/// What Go calls a value that it cannot use: `number 1.5` where a whole number was wanted.
fn found(value: &Value, exact: bool) -> String {
    match value {
        Value::Number(number) if exact => format!("number {number}"),
        other => json_type(other).to_owned(),
    }
}

/// The Go type, as far as the schema tells it: named strings are `string`.
fn go_type(schema: &Schema) -> String {
    let format = schema.format.as_deref();
    match &schema.shape {
        Shape::Any => "interface {}".to_owned(),
        Shape::Object { fields, additional: Some(rest), .. } if fields.is_empty() => {
            format!("map[string]{}", go_type(rest))
        }
        Shape::Object { .. } => {
            let mut segments = schema.definition.as_deref().unwrap_or_default().rsplit('.');
            match (segments.next(), segments.next()) {
                (Some(name), Some(package)) => format!("{package}.{name}"),
                (Some(name), None) if !name.is_empty() => format!("v1.{name}"),
                _ => "struct".to_owned(),
            }
        }
        Shape::List(items) => format!("[]{}", go_type(items)),
        Shape::String if format == Some("byte") => "[]uint8".to_owned(),
        Shape::String => "string".to_owned(),
        Shape::Integer => match format {
            Some(format @ ("int32" | "int64" | "uint8" | "uint16" | "uint32" | "uint64")) => {
                format.to_owned()
            }
            _ => "int64".to_owned(),
        },
        Shape::Number => "float64".to_owned(),
        Shape::Boolean => "bool".to_owned(),
        Shape::IntOrString => "intstr.IntOrString".to_owned(),
    }
}

fn struct_name(schema: &Schema) -> &str {
    let name = schema.definition.as_deref().unwrap_or_default();
    name.rsplit('.').next().unwrap_or_default()
}

/// Whether a number is whole: JSON does not tell 1 from 1.0.
pub(super) fn is_whole(number: &Number) -> bool {
    !number.is_f64() || number.as_f64().is_some_and(|float| float.fract() == 0.0)
}

/// Whether a whole number is in the range of its format; `int64` where there is none.
pub(super) fn fits(number: &Number, format: &str) -> bool {
    let Some(value) = number.as_i128().or_else(|| {
        // Beyond the bounds of all formats a float is as good as any other number.
        number.as_f64().filter(|float| float.abs() < 1e30).map(|float| float as i128)
    }) else {
        return false;
    };
    match format {
        "int8" => i8::try_from(value).is_ok(),
        "int16" => i16::try_from(value).is_ok(),
        "int32" => i32::try_from(value).is_ok(),
        "uint8" => u8::try_from(value).is_ok(),
        "uint16" => u16::try_from(value).is_ok(),
        "uint32" => u32::try_from(value).is_ok(),
        "uint" | "uint64" => u64::try_from(value).is_ok(),
        _ => i64::try_from(value).is_ok(),
    }
}

/// Reads a time as Go does with `time.RFC3339`.
///
/// # Errors
/// Go's text: `parsing time "x" as "2006-01-02T15:04:05Z07:00": cannot parse "x" as "2006"`.
pub(super) fn parse_time(text: &str) -> Result<jiff::Timestamp, String> {
    let layout = "2006-01-02T15:04:05Z07:00";
    let mut rest = text;
    for piece in ["2006", "-", "01", "-", "02", "T", "15", ":", "04", ":", "05"] {
        let fits = |found: &str| {
            if piece.starts_with(|c: char| c.is_ascii_digit()) {
                found.bytes().all(|byte| byte.is_ascii_digit())
            } else {
                found == piece
            }
        };
        match rest.split_at_checked(piece.len()) {
            Some((found, after)) if fits(found) => rest = after,
            _ => {
                return Err(format!(
                    "parsing time {text:?} as {layout:?}: cannot parse {rest:?} as {piece:?}"
                ));
            }
        }
    }
    if let Some(after) = rest.strip_prefix('.') {
        rest = after.trim_start_matches(|c: char| c.is_ascii_digit());
    }
    let bytes = rest.as_bytes();
    let offset = bytes.len() == 6
        && matches!(bytes[0], b'+' | b'-')
        && bytes[3] == b':'
        && [1, 2, 4, 5].iter().all(|at| bytes[*at].is_ascii_digit());
    if rest != "Z" && !offset {
        return Err(format!("parsing time {text:?} as {layout:?}: cannot parse {rest:?} as \"Z07:00\""));
    }
    text.parse().map_err(|_| format!("parsing time {text:?}: day out of range"))
}

/// Where Go's `base64.StdEncoding` finds the first fault, if there is one. Line ends are skipped.
pub(super) fn base64_fault(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let skipped = |at: &usize| !matches!(bytes[*at], b'\r' | b'\n');
    let mut places = (0..bytes.len()).filter(skipped).peekable();
    loop {
        for position in 0..4 {
            let Some(at) = places.next() else {
                return (position > 0).then(|| bytes.len() - position);
            };
            match bytes[at] {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'+' | b'/' => {}
                b'=' if position >= 2 => {
                    if position == 2 {
                        match places.next() {
                            Some(second) if bytes[second] == b'=' => {}
                            Some(second) => return Some(second),
                            None => return Some(bytes.len()),
                        }
                    }
                    return places.next();
                }
                _ => return Some(at),
            }
        }
    }
}
