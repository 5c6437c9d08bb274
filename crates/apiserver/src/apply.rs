//! Server-side apply and field ownership (`metadata.managedFields`).

use serde_json::Value;

use crate::schema::Schema;
use crate::status::ApiError;

/// Who writes an object, and through what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manager {
    /// The `fieldManager` of the request, such as `kubectl`.
    pub name: String,
    /// The subresource that is written, such as `status`; empty for the object itself.
    pub subresource: String,
    /// The `apiVersion` of the request's object, such as `apps/v1`.
    pub api_version: String,
    /// The time now, which a changed entry is stamped with.
    pub at: jiff::Timestamp,
}

/// Merges `applied`, what `manager` wants to be so, into `live`, and notes who owns what in `metadata.managedFields`.
///
/// # Errors
/// 400 for an object that cannot be applied, 409 where a field is owned by another manager with another value.
pub fn apply(
    _live: Option<&Value>,
    applied: &Value,
    _schema: &Schema,
    _manager: &Manager,
    _force: bool,
) -> Result<Value, ApiError> {
    Ok(applied.clone())
}

/// Notes in `new`'s `metadata.managedFields` what `manager` changed since `live` by a create, an update or a patch.
pub fn update_managed_fields(_live: Option<&Value>, _new: &mut Value, _schema: &Schema, _manager: &Manager) {}
