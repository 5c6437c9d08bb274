//! JSON patch, merge patch and strategic merge patch.
//!
//! All three are pure: an object and a patch go in, the patched object comes out. What the patched object may be is
//! for others to say.

mod operations;
mod strategic;
#[cfg(test)]
mod tests;

use serde_json::{Map, Value};

use crate::schema::Schema;
use crate::status::{ApiError, Details};

pub use operations::{MAX_OPERATIONS, MAX_RESULT_BYTES};

/// How deep a patched object may nest. Kubernetes' own objects stay below 30; walks over objects are recursive.
const MAX_DEPTH: usize = 120;

/// Applies an RFC 6902 JSON patch with the rules of the library that kube-apiserver uses (evanphx/json-patch 4):
/// `replace` and `copy` take a missing field of an object for null, `test` for null passes on a missing field, and
/// negative array indices count from the end.
///
/// # Errors
/// 400 when `patch` is not a list of objects, 413 when it has more than [`MAX_OPERATIONS`] operations or makes an
/// object of more than [`MAX_RESULT_BYTES`], 422 (without saying why, as kube-apiserver answers) when it cannot be
/// applied.
pub fn json(original: &Value, patch: &[u8]) -> Result<Value, ApiError> {
    operations::apply(original, patch)
}

/// Applies an RFC 7386 merge patch. Fields keep their place, new ones come last.
pub fn merge(original: &Value, patch: &Value) -> Value {
    let mut merged = original.clone();
    merge_into(&mut merged, patch);
    merged
}

fn merge_into(target: &mut Value, patch: &Value) {
    let Value::Object(fields) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(object) = target else { return };
    for (name, value) in fields {
        if value.is_null() {
            object.shift_remove(name);
        } else {
            merge_into(object.entry(name.as_str()).or_insert(Value::Null), value);
        }
    }
}

/// Applies a strategic merge patch: lists merge by the key that the schema names, and `$patch`, `$retainKeys`,
/// `$setElementOrder/LIST` and `$deleteFromPrimitiveList/LIST` direct the merge.
///
/// Fields that the schema does not know merge as in a merge patch.
///
/// # Errors
/// Those of kube-apiserver: 400 for a directive of the wrong form, 422 for lists of lists, and 500 without a reason for
/// the rest (such as a list item without its merge key).
pub fn strategic(original: &Value, patch: &Value, schema: &Schema) -> Result<Value, ApiError> {
    strategic::apply(original, patch, schema)
}

/// The answer to a patch that is well formed and cannot be applied. kube-apiserver says no more than this.
fn unprocessable() -> ApiError {
    let mut error =
        ApiError::new(422, "Invalid", "the server rejected our request due to an error in our request");
    error.details = Some(Box::<Details>::default());
    error
}
