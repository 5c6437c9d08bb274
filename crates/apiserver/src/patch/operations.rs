//! The six operations of a JSON patch.

use serde_json::{Map, Value};

use super::{MAX_DEPTH, unprocessable};
use crate::go;
use crate::status::ApiError;

/// The most operations of one patch; kube-apiserver's `maxJSONPatchOperations`.
pub const MAX_OPERATIONS: usize = 10_000;

/// The most bytes that all copies of one patch may make, and that the patched object may have: kube-apiserver's
/// `JSONPatchMaxCopyBytes`.
pub const MAX_RESULT_BYTES: usize = 3 * 1024 * 1024;

/// The most that moving values about may cost, in values looked at. A patch within the other limits can still ask for
/// 10,000 removals from the front of a list of a million.
const MAX_WORK: usize = 16_000_000;

/// The operation cannot be carried out. Why is not told to clients, so it is not kept.
#[derive(Debug)]
struct Inapplicable;

type Outcome<T = ()> = Result<T, Inapplicable>;

/// Applies `patch` to `original`.
pub(super) fn apply(original: &Value, patch: &[u8]) -> Result<Value, ApiError> {
    let operations = decode(patch)?;
    if operations.len() > MAX_OPERATIONS {
        return Err(too_large(format!(
            "Request entity too large: The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {}",
            operations.len()
        )));
    }
    let mut run = Run { document: original.clone(), copied: 0, work: 0 };
    for operation in &operations {
        run.step(operation).map_err(|Inapplicable| unprocessable())?;
    }
    // Without copies the object grows by no more than the patch has bytes, which the limit of a request's body covers.
    if (run.copied > 0 || patch.len() > MAX_RESULT_BYTES / 2)
        && encoded_length(&run.document) > MAX_RESULT_BYTES
    {
        return Err(too_large(format!("Request entity too large: limit is {MAX_RESULT_BYTES}")));
    }
    Ok(run.document)
}

fn too_large(message: String) -> ApiError {
    ApiError::new(413, "RequestEntityTooLarge", message)
}

fn decode(patch: &[u8]) -> Result<Vec<Map<String, Value>>, ApiError> {
    let patch: Value =
        serde_json::from_slice(patch).map_err(|error| ApiError::bad_request(error.to_string()))?;
    let wrong = |value: &Value, wanted: &str| {
        let found = go::json_type(value);
        ApiError::bad_request(format!(
            "json: cannot unmarshal {found} into Go value of type jsonpatch.{wanted}"
        ))
    };
    match patch {
        Value::Null => Ok(Vec::new()),
        Value::Array(operations) => operations
            .into_iter()
            .map(|operation| match operation {
                Value::Object(operation) => Ok(operation),
                // Decoded as an operation without an `op`, which cannot be applied.
                Value::Null => Ok(Map::new()),
                other => Err(wrong(&other, "Operation")),
            })
            .collect(),
        other => Err(wrong(&other, "Patch")),
    }
}

struct Run {
    document: Value,
    /// Bytes made by copies.
    copied: usize,
    /// Values looked at to move, measure or shift.
    work: usize,
}

impl Run {
    fn step(&mut self, operation: &Map<String, Value>) -> Outcome {
        let text = |field: &str| operation.get(field).and_then(Value::as_str).ok_or(Inapplicable);
        let value = || operation.get("value").unwrap_or(&Value::Null);
        let path = text("path")?;
        match text("op")? {
            "add" => self.add(path, value().clone()),
            "remove" => self.remove(path).map(drop),
            "replace" => self.replace(path, value().clone()),
            "move" => {
                let moved = self.remove(text("from")?)?;
                self.add(path, moved)
            }
            "copy" => self.copy(text("from")?, path),
            "test" => self.test(path, value()),
            _ => Err(Inapplicable),
        }
    }

    fn add(&mut self, path: &str, value: Value) -> Outcome {
        self.check_depth(path, &value)?;
        let (container, key) = find(&mut self.document, path)?;
        match container {
            Value::Object(object) => {
                object.insert(key, value);
            }
            Value::Array(list) if key == "-" => list.push(value),
            Value::Array(list) => {
                let index = index(&key, list.len() + 1)?;
                spend(&mut self.work, list.len() / 2)?;
                list.insert(index, value);
            }
            _ => return Err(Inapplicable),
        }
        Ok(())
    }

    fn remove(&mut self, path: &str) -> Outcome<Value> {
        let (container, key) = find(&mut self.document, path)?;
        match container {
            Value::Object(object) => {
                spend(&mut self.work, object.len() / 2)?;
                object.shift_remove(&key).ok_or(Inapplicable)
            }
            Value::Array(list) => {
                let index = index(&key, list.len())?;
                spend(&mut self.work, list.len() / 2)?;
                Ok(list.remove(index))
            }
            _ => Err(Inapplicable),
        }
    }

    fn replace(&mut self, path: &str, value: Value) -> Outcome {
        if path.is_empty() {
            if !value.is_object() && !value.is_array() {
                return Err(Inapplicable);
            }
            self.check_depth(path, &value)?;
            self.document = value;
            return Ok(());
        }
        self.check_depth(path, &value)?;
        let (container, key) = find(&mut self.document, path)?;
        match container {
            // A field that is missing is added: the library asks for it and takes "nothing" for an answer.
            Value::Object(object) => {
                object.insert(key, value);
            }
            Value::Array(list) => {
                let index = index(&key, list.len())?;
                list[index] = value;
            }
            _ => return Err(Inapplicable),
        }
        Ok(())
    }

    fn copy(&mut self, from: &str, path: &str) -> Outcome {
        let (container, key) = find(&mut self.document, from)?;
        let missing = Value::Null;
        let source = get(container, &key)?.unwrap_or(&missing);
        // Measured before it is copied, so that a bomb is never made.
        self.copied += encoded_length(source);
        if self.copied > MAX_RESULT_BYTES {
            return Err(Inapplicable);
        }
        let copied = source.clone();
        self.add(path, copied)
    }

    fn test(&mut self, path: &str, expected: &Value) -> Outcome {
        let passes = if path.is_empty() {
            self.document == *expected
        } else {
            let (container, key) = find(&mut self.document, path)?;
            get(container, &key)?.unwrap_or(&Value::Null) == expected
        };
        if passes { Ok(()) } else { Err(Inapplicable) }
    }

    fn check_depth(&mut self, path: &str, value: &Value) -> Outcome {
        let above = path.bytes().filter(|byte| *byte == b'/').count();
        if above + depth(value, &mut self.work)? > MAX_DEPTH { Err(Inapplicable) } else { Ok(()) }
    }
}

fn spend(work: &mut usize, amount: usize) -> Outcome {
    *work += amount;
    if *work > MAX_WORK { Err(Inapplicable) } else { Ok(()) }
}

fn depth(value: &Value, work: &mut usize) -> Outcome<usize> {
    spend(work, 1)?;
    let mut deepest = 0;
    match value {
        Value::Array(items) => {
            for item in items {
                deepest = deepest.max(depth(item, work)?);
            }
        }
        Value::Object(fields) => {
            for field in fields.values() {
                deepest = deepest.max(depth(field, work)?);
            }
        }
        _ => return Ok(0),
    }
    Ok(deepest + 1)
}

/// The container that `path` ends in, and the last token of the path. What stands before the first `/` is not looked
/// at.
fn find<'a>(document: &'a mut Value, path: &str) -> Outcome<(&'a mut Value, String)> {
    let mut tokens = path.split('/').skip(1);
    let mut last = unescape(tokens.next().ok_or(Inapplicable)?);
    let mut container = document;
    for token in tokens {
        container = match container {
            Value::Object(object) => object.get_mut(&last),
            Value::Array(list) => {
                let index = index(&last, list.len())?;
                list.get_mut(index)
            }
            _ => None,
        }
        .ok_or(Inapplicable)?;
        last = unescape(token);
    }
    if container.is_object() || container.is_array() { Ok((container, last)) } else { Err(Inapplicable) }
}

/// What is at `key`; `None` for a field that is missing. An index that is out of range is an error.
fn get<'a>(container: &'a Value, key: &str) -> Outcome<Option<&'a Value>> {
    match container {
        Value::Object(object) => Ok(object.get(key)),
        Value::Array(list) => Ok(list.get(index(key, list.len())?)),
        _ => Err(Inapplicable),
    }
}

/// An index below `length`; negative ones count from the end.
fn index(token: &str, length: usize) -> Outcome<usize> {
    let number: i64 = token.parse().map_err(|_| Inapplicable)?;
    let number = if number < 0 { number + i64::try_from(length).map_err(|_| Inapplicable)? } else { number };
    usize::try_from(number).ok().filter(|index| *index < length).ok_or(Inapplicable)
}

fn unescape(token: &str) -> String {
    token.replace("~1", "/").replace("~0", "~")
}

/// How many bytes the value has as compact JSON.
fn encoded_length(value: &Value) -> usize {
    struct Counter(usize);
    impl std::io::Write for Counter {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut counter = Counter(0);
    match serde_json::to_writer(&mut counter, value) {
        Ok(()) => counter.0,
        Err(_) => usize::MAX / 2,
    }
}
