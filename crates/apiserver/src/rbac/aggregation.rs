//! ClusterRoles that are made of others.

use serde_json::Value;

/// The rules that an aggregated `role` should have, given all ClusterRoles; `None` when it has no `aggregationRule`, or
/// has them already.
pub fn aggregate(_role: &Value, _all: &[Value]) -> Option<Vec<Value>> {
    None
}
