//! Who may do what: role-based access control as Kubernetes evaluates it.

mod aggregation;
mod authorizer;
mod compiled;
mod defaults;
mod escalation;
mod hooks;
mod reconcile;
mod reviews;
mod rule;

#[cfg(test)]
mod tests;

pub use aggregation::aggregate;
pub use authorizer::{Authorizer, Decision, forbidden};
pub use defaults::{aggregate_label, default_objects};
pub use escalation::RbacWrite;
pub use hooks::{BindingHooks, RoleHooks};
pub use reconcile::{Reconciled, reconcile};
pub use reviews::{
    local_subject_access_review, self_subject_access_review, self_subject_rules_review, subject_access_review,
};
pub use rule::{Rule, rules};

/// The API group.
pub const GROUP: &str = "rbac.authorization.k8s.io";

const ROLE: &str = "Role";
const CLUSTER_ROLE: &str = "ClusterRole";
