//! Questions to the rules that are stored.

use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, PoisonError};

use super::compiled::{Compiled, Stored};
use super::rule::Rule;
use crate::auth::{Attributes, Identity, MASTERS, Objects};
use crate::status::{ApiError, GroupResource};

/// An answer. There is no denial in RBAC: what nothing allows is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Allowed, and why (empty for `system:masters`).
    Allow(String),
    /// Not allowed by anything, and what went wrong on the way (mostly empty).
    NoOpinion(String),
}

impl Decision {
    /// Whether it is allowed.
    pub fn is_allowed(&self) -> bool {
        matches!(self, Self::Allow(_))
    }
}

const ROLES: &str = "/rbac.authorization.k8s.io/roles/";
const CLUSTER_ROLES: &str = "/rbac.authorization.k8s.io/clusterroles/";
const ROLE_BINDINGS: &str = "/rbac.authorization.k8s.io/rolebindings/";
const CLUSTER_ROLE_BINDINGS: &str = "/rbac.authorization.k8s.io/clusterrolebindings/";

/// The revisions at which the four kinds changed last.
type Revisions = [u64; 4];

/// Answers questions from the stored roles and bindings.
pub struct Authorizer {
    objects: Box<dyn Objects>,
    compiled: Mutex<(Revisions, Arc<Compiled>)>,
}

impl Authorizer {
    /// An authorizer over these objects.
    pub fn new(objects: impl Objects + 'static) -> Self {
        // No store has all its changes at the last possible revision, so the first question compiles.
        Self { objects: Box::new(objects), compiled: Mutex::new(([u64::MAX; 4], Arc::default())) }
    }

    /// Whether `identity` may do this.
    pub fn authorize(&self, identity: &Identity, attributes: &Attributes<'_>) -> Decision {
        if identity.is_in(MASTERS) {
            return Decision::Allow(String::new());
        }
        let mut errors = Vec::new();
        let namespace = if attributes.resource.is_empty() { "" } else { attributes.namespace };
        let compiled = self.compiled();
        let allowed = compiled.visit(identity, namespace, |source, rule| match rule {
            Ok(rule) if rule.allows(attributes) => ControlFlow::Break(source.to_string()),
            Ok(_) => ControlFlow::Continue(()),
            Err(error) => {
                errors.push(error.to_owned());
                ControlFlow::Continue(())
            }
        });
        match (allowed, &errors[..]) {
            (Some(source), _) => Decision::Allow(format!("RBAC: allowed by {source}")),
            (None, []) => Decision::NoOpinion(String::new()),
            (None, _) => Decision::NoOpinion(format!("RBAC: {}", aggregate_errors(&errors))),
        }
    }

    /// [`Self::authorize`], with the answer to the client.
    ///
    /// # Errors
    /// 403 when it is not allowed.
    pub fn require(&self, identity: &Identity, attributes: &Attributes<'_>) -> Result<(), ApiError> {
        match self.authorize(identity, attributes) {
            Decision::Allow(_) => Ok(()),
            Decision::NoOpinion(reason) => Err(forbidden(&identity.user, attributes, &reason)),
        }
    }

    /// Every rule that applies to somebody in a namespace, and what went wrong in finding them.
    pub fn rules_for(&self, identity: &Identity, namespace: &str) -> (Vec<Rule>, Vec<String>) {
        let (mut rules, mut errors) = (Vec::new(), Vec::new());
        let compiled = self.compiled();
        compiled.visit(identity, namespace, |_, rule| {
            match rule {
                Ok(rule) => rules.push(rule.clone()),
                Err(error) => errors.push(error.to_owned()),
            }
            ControlFlow::<()>::Continue(())
        });
        (rules, errors)
    }

    /// The rules that a binding in `namespace` to this role grants.
    ///
    /// # Errors
    /// The role does not exist: `role.rbac.authorization.k8s.io "x" not found`.
    pub(super) fn referenced(&self, namespace: &str, kind: &str, name: &str) -> Result<Arc<[Rule]>, String> {
        self.compiled().referenced(namespace, kind, name)
    }

    /// The rules as they are now; compiled when one of the four kinds has changed.
    ///
    /// The revisions are read before the objects, so a change in between is seen again at the next question. Whoever
    /// asks while another compiles waits for that; nobody is answered from outdated rules.
    fn compiled(&self) -> Arc<Compiled> {
        let mut compiled = self.compiled.lock().unwrap_or_else(PoisonError::into_inner);
        let revisions = [ROLES, CLUSTER_ROLES, ROLE_BINDINGS, CLUSTER_ROLE_BINDINGS]
            .map(|prefix| self.objects.last_changed(prefix));
        if compiled.0 != revisions {
            let stored = Stored {
                roles: self.objects.list(ROLES),
                cluster_roles: self.objects.list(CLUSTER_ROLES),
                role_bindings: self.objects.list(ROLE_BINDINGS),
                cluster_role_bindings: self.objects.list(CLUSTER_ROLE_BINDINGS),
            };
            *compiled = (revisions, Arc::new(Compiled::new(&stored)));
        }
        Arc::clone(&compiled.1)
    }
}

/// One error as it is, several as a list without repetitions: `utilerrors.NewAggregate`.
pub(super) fn aggregate_errors(errors: &[String]) -> String {
    let mut distinct: Vec<&str> = Vec::new();
    for error in errors {
        if !distinct.contains(&error.as_str()) {
            distinct.push(error);
        }
    }
    match distinct[..] {
        [one] => one.to_owned(),
        _ => format!("[{}]", distinct.join(", ")),
    }
}

/// The 403 that Kubernetes answers: `pods "x" is forbidden: User "a" cannot get resource "pods" in API group "" in the
/// namespace "default"`.
pub fn forbidden(user: &str, attributes: &Attributes<'_>, reason: &str) -> ApiError {
    let Attributes { verb, group, namespace, .. } = attributes;
    let resource = match (attributes.resource, attributes.subresource) {
        (resource, "") => resource.to_owned(),
        (resource, subresource) => format!("{resource}/{subresource}"),
    };
    let mut why = if resource.is_empty() {
        format!("User {user:?} cannot {verb} path {:?}", attributes.path)
    } else if namespace.is_empty() {
        format!(
            "User {user:?} cannot {verb} resource {resource:?} in API group {group:?} at the cluster scope"
        )
    } else {
        format!(
            "User {user:?} cannot {verb} resource {resource:?} in API group {group:?} in the namespace {namespace:?}"
        )
    };
    if !reason.is_empty() {
        why = format!("{why}: {reason}");
    }
    let of = GroupResource { group, resource: attributes.resource };
    ApiError::forbidden(of, attributes.name, why)
}
