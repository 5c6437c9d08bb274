//! What the kinds of RBAC add to the machinery: validation, and that nobody grants what they do not have.

use std::sync::Arc;

use super::Authorizer;
use crate::kind::Hooks;

/// For Role and ClusterRole. Without an authorizer only the form is checked.
pub struct RoleHooks {
    /// Decides about escalation.
    pub authorizer: Option<Arc<Authorizer>>,
}

impl Hooks for RoleHooks {}

/// For RoleBinding and ClusterRoleBinding. Without an authorizer only the form is checked.
pub struct BindingHooks {
    /// Decides about escalation.
    pub authorizer: Option<Arc<Authorizer>>,
}

impl Hooks for BindingHooks {}
