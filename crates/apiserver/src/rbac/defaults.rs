//! The roles and bindings that every cluster has.

use serde_json::Value;

/// Kubernetes' default ClusterRoles and ClusterRoleBindings, to be brought in by [`super::reconcile`] at each start.
pub fn default_objects() -> Vec<Value> {
    Vec::new()
}
