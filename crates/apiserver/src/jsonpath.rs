//! The JSONPath of printer columns: the part of `k8s.io/client-go/util/jsonpath` that reads a value out of an object.
//!
//! `.a.b`, `['a.b']`, `.a\.b`, `[0]`, `[-1]`, `[0:2]`, `[*]`, `.*` and `[?(@.type=='Ready')]` with `==`, `!=`, `<`,
//! `<=`, `>` and `>=`, or with a path alone, which asks whether it leads anywhere. The path may stand in braces and
//! begin with `$`. Recursive descent (`..`), `range` and functions are not known.

mod parser;
#[cfg(test)]
mod tests;

use std::cmp::Ordering;

use serde_json::{Number, Value};

/// A path as `additionalPrinterColumns` has it.
#[derive(Debug, Clone, PartialEq)]
pub struct Path {
    steps: Vec<Step>,
}

/// Why a path cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message} at {at} of {path:?}")]
pub struct PathError {
    message: &'static str,
    at: usize,
    path: String,
}

#[derive(Debug, Clone, PartialEq)]
enum Step {
    Field(String),
    Index(i64),
    /// From (included) and to (not included).
    Slice(Option<i64>, Option<i64>),
    Every,
    Filter(Box<Operand>, Comparison, Box<Operand>),
    Exists(Path),
}

#[derive(Debug, Clone, PartialEq)]
enum Operand {
    Path(Path),
    Literal(Value),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// The most values that one step passes on. Nested `[*]` over hostile objects would multiply them otherwise.
const MOST: usize = 10_000;

impl Path {
    /// Reads a path.
    ///
    /// # Errors
    /// When it is not one of the forms that are known.
    pub fn parse(text: &str) -> Result<Self, PathError> {
        parser::parse(text)
    }

    /// The first value that the path leads to.
    pub fn first<'a>(&self, value: &'a Value) -> Option<&'a Value> {
        let mut at = value;
        for (position, step) in self.steps.iter().enumerate() {
            match step {
                Step::Field(name) => at = at.get(name)?,
                Step::Index(index) => at = item(at, *index)?,
                _ => return self.walk(at, position).into_iter().next(),
            }
        }
        Some(at)
    }

    /// Every value that the path leads to, in order; at most 10,000.
    pub fn all<'a>(&self, value: &'a Value) -> Vec<&'a Value> {
        self.walk(value, 0)
    }

    /// Every value that the steps after the first `from` lead to, in order; at most [`MOST`].
    fn walk<'a>(&self, value: &'a Value, from: usize) -> Vec<&'a Value> {
        let mut found = vec![value];
        for step in &self.steps[from..] {
            let mut next = Vec::new();
            for value in found {
                step.follow(value, &mut next);
                if next.len() > MOST {
                    next.truncate(MOST);
                    break;
                }
            }
            found = next;
        }
        found
    }
}

/// The item at an index; negative ones count from the end.
fn item(list: &Value, index: i64) -> Option<&Value> {
    let list = list.as_array()?;
    list.get(place(index, list.len())?)
}

fn place(index: i64, length: usize) -> Option<usize> {
    let index = if index < 0 { index.checked_add(i64::try_from(length).ok()?)? } else { index };
    usize::try_from(index).ok()
}

impl Step {
    fn follow<'a>(&self, value: &'a Value, next: &mut Vec<&'a Value>) {
        match self {
            Self::Field(name) => next.extend(value.get(name)),
            Self::Index(index) => next.extend(item(value, *index)),
            Self::Slice(from, to) => {
                let Some(list) = value.as_array() else { return };
                let bound = |bound: Option<i64>, default: usize| {
                    bound
                        .map_or(default, |bound| place(bound, list.len()).unwrap_or_default())
                        .min(list.len())
                };
                let (from, to) = (bound(*from, 0), bound(*to, list.len()));
                next.extend(list.get(from..to).into_iter().flatten());
            }
            Self::Every => match value {
                Value::Array(items) => next.extend(items),
                Value::Object(fields) => next.extend(fields.values()),
                _ => {}
            },
            Self::Filter(left, comparison, right) => {
                let items = value.as_array().into_iter().flatten();
                next.extend(items.filter(|item| {
                    let (left, right) = (left.value(item), right.value(item));
                    matches!((left, right), (Some(left), Some(right)) if comparison.holds(left, right))
                }));
            }
            Self::Exists(path) => {
                let items = value.as_array().into_iter().flatten();
                next.extend(items.filter(|item| path.first(item).is_some()));
            }
        }
    }
}

impl Operand {
    fn value<'a>(&'a self, item: &'a Value) -> Option<&'a Value> {
        match self {
            Self::Path(path) => path.first(item),
            Self::Literal(value) => Some(value),
        }
    }
}

impl Comparison {
    fn holds(self, left: &Value, right: &Value) -> bool {
        let order = match (left, right) {
            (Value::String(left), Value::String(right)) => Some(left.cmp(right)),
            (Value::Bool(left), Value::Bool(right)) => {
                // Booleans have no order.
                return match self {
                    Self::Equal => left == right,
                    Self::NotEqual => left != right,
                    _ => false,
                };
            }
            (Value::Number(left), Value::Number(right)) => compare(left, right),
            _ => None,
        };
        // Values of different types do not compare at all, so that even `!=` does not hold of them.
        order.is_some_and(|order| match self {
            Self::Equal => order == Ordering::Equal,
            Self::NotEqual => order != Ordering::Equal,
            Self::Less => order == Ordering::Less,
            Self::LessOrEqual => order != Ordering::Greater,
            Self::Greater => order == Ordering::Greater,
            Self::GreaterOrEqual => order != Ordering::Less,
        })
    }
}

fn compare(left: &Number, right: &Number) -> Option<Ordering> {
    match (left.as_i64(), right.as_i64()) {
        (Some(left), Some(right)) => Some(left.cmp(&right)),
        _ => left.as_f64()?.partial_cmp(&right.as_f64()?),
    }
}

/// The values as one text, as `kubectl` prints the results of a path: objects and lists as JSON, everything else
/// plainly, with spaces between. `None` when there is nothing, or only null.
pub fn text(values: &[&Value]) -> Option<String> {
    if values.is_empty() || matches!(values, [Value::Null]) {
        return None;
    }
    let texts: Vec<_> = values
        .iter()
        .map(|value| match value {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        })
        .collect();
    Some(texts.join(" "))
}
