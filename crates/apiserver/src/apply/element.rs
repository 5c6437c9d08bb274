//! One step of a field's path, its order and its two texts.

use std::cmp::Ordering;
use std::fmt::{self, Write};

use serde_json::{Number, Value};

use crate::go;

/// How a child is chosen in its parent: `fieldpath.PathElement` of `sigs.k8s.io/structured-merge-diff`.
///
/// The order of the variants is the order in which they are written.
#[derive(Debug, Clone)]
pub(super) enum Element {
    /// A field of an object.
    Field(String),
    /// The item of a list map that has these values in its key fields, which are sorted by name.
    Key(Vec<(String, Value)>),
    /// The item of a set.
    Value(Value),
    /// The item of a list at this place. We never make one, but clients may send them.
    Index(i64),
}

/// Why a text is not an element.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub(super) enum ElementError {
    /// Another version of Kubernetes may know it; it is left out.
    #[error("unknown path element type")]
    Unknown,
    #[error("{0}")]
    Malformed(String),
}

impl Element {
    pub(super) fn field(name: impl Into<String>) -> Self {
        Self::Field(name.into())
    }

    fn rank(&self) -> u8 {
        match self {
            Self::Field(_) => 0,
            Self::Key(_) => 1,
            Self::Value(_) => 2,
            Self::Index(_) => 3,
        }
    }

    /// Reads `f:name`, `k:{"name":"x"}`, `v:"x"` or `i:0`.
    pub(super) fn parse(text: &str) -> Result<Self, ElementError> {
        let bytes = text.as_bytes();
        if bytes.len() < 2 {
            return Err(ElementError::Malformed("key must be 2 characters long:".to_owned()));
        }
        if bytes[1] != b':' {
            return Err(ElementError::Malformed(format!("missing colon: {text}")));
        }
        let rest = &text[2..];
        let malformed = |error: &dyn fmt::Display| ElementError::Malformed(error.to_string());
        match bytes[0] {
            b'f' => Ok(Self::Field(rest.to_owned())),
            b'v' => Ok(Self::Value(serde_json::from_str(rest).map_err(|error| malformed(&error))?)),
            b'k' => match serde_json::from_str(rest).map_err(|error| malformed(&error))? {
                Value::Object(fields) => {
                    let mut fields: Vec<_> = fields.into_iter().collect();
                    fields.sort_by(|left, right| left.0.cmp(&right.0));
                    Ok(Self::Key(fields))
                }
                Value::Null => Ok(Self::Key(Vec::new())),
                _ => Err(ElementError::Malformed("expect { or n".to_owned())),
            },
            b'i' => rest.parse().map(Self::Index).map_err(|error| malformed(&error)),
            _ => Err(ElementError::Unknown),
        }
    }

    /// Writes what [`parse`](Self::parse) reads.
    pub(super) fn encode(&self) -> String {
        let mut out = String::new();
        match self {
            Self::Field(name) => {
                out.push_str("f:");
                out.push_str(name);
            }
            Self::Key(fields) => {
                out.push_str("k:{");
                for (index, (name, value)) in fields.iter().enumerate() {
                    if index > 0 {
                        out.push(',');
                    }
                    write_json_string(&mut out, name, Html::Kept);
                    out.push(':');
                    write_json(&mut out, value, Html::Escaped);
                }
                out.push('}');
            }
            Self::Value(value) => {
                out.push_str("v:");
                write_json(&mut out, value, Html::Escaped);
            }
            Self::Index(index) => {
                // Writing into a `String` cannot fail.
                let _ = write!(out, "i:{index}");
            }
        }
        out
    }
}

/// As Kubernetes shows a path in messages: `.spec`, `[name="x"]`, `[="x"]`, `[0]`.
impl fmt::Display for Element {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Field(name) => write!(out, ".{name}"),
            Self::Key(fields) => {
                out.write_char('[')?;
                for (index, (name, value)) in fields.iter().enumerate() {
                    if index > 0 {
                        out.write_char(',')?;
                    }
                    write!(out, "{name}={}", readable(value))?;
                }
                out.write_char(']')
            }
            Self::Value(value) => write!(out, "[={}]", readable(value)),
            Self::Index(index) => write!(out, "[{index}]"),
        }
    }
}

impl Ord for Element {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Field(left), Self::Field(right)) => left.cmp(right),
            (Self::Key(left), Self::Key(right)) => {
                for ((left_name, left), (right_name, right)) in left.iter().zip(right) {
                    let order = left_name.cmp(right_name).then_with(|| compare_values(left, right));
                    if order != Ordering::Equal {
                        return order;
                    }
                }
                left.len().cmp(&right.len())
            }
            (Self::Value(left), Self::Value(right)) => compare_values(left, right),
            (Self::Index(left), Self::Index(right)) => left.cmp(right),
            _ => self.rank().cmp(&other.rank()),
        }
    }
}

impl PartialOrd for Element {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Element {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Element {}

/// A total order in which whole numbers and fractions of the same value are equal.
pub(super) fn compare_values(left: &Value, right: &Value) -> Ordering {
    fn rank(value: &Value) -> u8 {
        match value {
            Value::Number(_) => 0,
            Value::String(_) => 1,
            Value::Bool(_) => 2,
            Value::Array(_) => 3,
            Value::Object(_) => 4,
            Value::Null => 5,
        }
    }
    match (left, right) {
        (Value::Number(left), Value::Number(right)) => compare_numbers(left, right),
        (Value::String(left), Value::String(right)) => left.cmp(right),
        (Value::Bool(left), Value::Bool(right)) => left.cmp(right),
        (Value::Array(left), Value::Array(right)) => left
            .iter()
            .zip(right)
            .map(|(left, right)| compare_values(left, right))
            .find(|order| *order != Ordering::Equal)
            .unwrap_or_else(|| left.len().cmp(&right.len())),
        (Value::Object(left), Value::Object(right)) => {
            let (mut left, mut right) = (left.iter().collect::<Vec<_>>(), right.iter().collect::<Vec<_>>());
            left.sort_by_key(|(name, _)| *name);
            right.sort_by_key(|(name, _)| *name);
            left.iter()
                .zip(&right)
                .map(|(left, right)| left.0.cmp(right.0).then_with(|| compare_values(left.1, right.1)))
                .find(|order| *order != Ordering::Equal)
                .unwrap_or_else(|| left.len().cmp(&right.len()))
        }
        _ => rank(left).cmp(&rank(right)),
    }
}

/// Whether two values are the same to Kubernetes: `1` is `1.0`, and the order of an object's fields is nothing.
pub(super) fn same(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Object(left), Value::Object(right)) => {
            left.len() == right.len()
                && left.iter().all(|(name, value)| right.get(name).is_some_and(|other| same(value, other)))
        }
        (Value::Array(left), Value::Array(right)) => {
            left.len() == right.len() && left.iter().zip(right).all(|(left, right)| same(left, right))
        }
        _ => compare_values(left, right) == Ordering::Equal,
    }
}

fn whole(number: &Number) -> Option<i128> {
    number.as_i64().map(i128::from).or_else(|| number.as_u64().map(i128::from))
}

fn compare_numbers(left: &Number, right: &Number) -> Ordering {
    /// Beyond this a fraction is larger than every whole number that JSON values hold here.
    const LARGEST: f64 = 1e30;
    fn whole_with_fraction(whole: i128, fraction: f64) -> Ordering {
        if fraction >= LARGEST {
            Ordering::Less
        } else if fraction <= -LARGEST {
            Ordering::Greater
        } else {
            let truncated = fraction.trunc();
            whole.cmp(&(truncated as i128)).then_with(|| truncated.total_cmp(&fraction))
        }
    }
    match (whole(left), whole(right)) {
        (Some(left), Some(right)) => left.cmp(&right),
        (Some(left), None) => whole_with_fraction(left, positive_zero(right)),
        (None, Some(right)) => whole_with_fraction(right, positive_zero(left)).reverse(),
        (None, None) => positive_zero(left).total_cmp(&positive_zero(right)),
    }
}

/// The number as a fraction, without the sign that a zero may have.
fn positive_zero(number: &Number) -> f64 {
    number.as_f64().unwrap_or_default() + 0.0
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Html {
    Escaped,
    Kept,
}

/// JSON as Go's encoders write it: `<`, `>` and `&` are escaped, and `1.0` is `1`.
pub(super) fn go_json(value: &Value) -> String {
    let mut out = String::new();
    write_json(&mut out, value, Html::Escaped);
    out
}

fn write_json(out: &mut String, value: &Value, html: Html) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
        Value::Number(number) => write_number(out, number),
        Value::String(text) => write_json_string(out, text, html),
        Value::Array(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write_json(out, item, html);
            }
            out.push(']');
        }
        Value::Object(fields) => {
            let mut fields: Vec<_> = fields.iter().collect();
            fields.sort_by_key(|(name, _)| *name);
            out.push('{');
            for (index, (name, value)) in fields.into_iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write_json_string(out, name, html);
                out.push(':');
                write_json(out, value, html);
            }
            out.push('}');
        }
    }
}

fn write_number(out: &mut String, number: &Number) {
    if let Some(whole) = whole(number) {
        // Writing into a `String` cannot fail.
        let _ = write!(out, "{whole}");
        return;
    }
    let value = positive_zero(number);
    let size = value.abs();
    // Go switches to exponents at these two.
    if size != 0.0 && !(1e-6..1e21).contains(&size) {
        let text = format!("{value:e}");
        out.push_str(&if text.contains("e-") { text } else { text.replace('e', "e+") });
    } else {
        // Writing into a `String` cannot fail.
        let _ = write!(out, "{value}");
    }
}

fn write_json_string(out: &mut String, text: &str, html: Html) {
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{0}'..='\u{1f}' => {
                // Writing into a `String` cannot fail.
                let _ = write!(out, "\\u{:04x}", u32::from(character));
            }
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' if html == Html::Escaped => {
                // Writing into a `String` cannot fail.
                let _ = write!(out, "\\u{:04x}", u32::from(character));
            }
            other => out.push(other),
        }
    }
    out.push('"');
}

/// A value as Kubernetes' messages show it in a path.
fn readable(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Number(number) => {
            let mut out = String::new();
            write_number(&mut out, number);
            out
        }
        Value::String(text) => go::quoted(text),
        Value::Array(items) => {
            format!("[{}]", items.iter().map(readable).collect::<Vec<_>>().join(","))
        }
        Value::Object(fields) => {
            let mut fields: Vec<_> = fields.iter().collect();
            fields.sort_by_key(|(name, _)| *name);
            let fields: Vec<_> =
                fields.into_iter().map(|(name, value)| format!("{name}={}", readable(value))).collect();
            format!("{{{}}}", fields.join(";"))
        }
    }
}
