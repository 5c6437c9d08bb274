//! Roles and bindings, brought into the form in which questions are answered fast.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::ops::ControlFlow;
use std::sync::Arc;

use serde_json::Value;

use super::rule::{Rule, rules};
use crate::auth::Identity;
use crate::field::{list, text};
use crate::object;

/// Everything that RBAC knows at one time.
#[derive(Debug, Default)]
pub(super) struct Compiled {
    cluster: Bindings,
    namespaces: HashMap<String, Bindings>,
    roles: Roles,
}

/// What is stored under the four prefixes.
#[derive(Debug, Default)]
pub(super) struct Stored {
    pub roles: Vec<Value>,
    pub cluster_roles: Vec<Value>,
    pub role_bindings: Vec<Value>,
    pub cluster_role_bindings: Vec<Value>,
}

#[derive(Debug, Default)]
struct Roles {
    /// By namespace and name; cluster roles have the empty namespace.
    rules: HashMap<(String, String), Arc<[Rule]>>,
}

impl Roles {
    /// The rules that a binding in `namespace` refers to.
    fn referenced(&self, namespace: &str, kind: &str, name: &str) -> Result<Arc<[Rule]>, String> {
        let (namespace, what) = match kind {
            "Role" => (namespace, "role"),
            "ClusterRole" => ("", "clusterrole"),
            _ => return Err(format!("unsupported role reference kind: {kind:?}")),
        };
        // There is no Role without a namespace; a ClusterRole must not be found in its place.
        let found = (kind == "ClusterRole" || !namespace.is_empty())
            .then(|| self.rules.get(&(namespace.to_owned(), name.to_owned())))
            .flatten();
        found.cloned().ok_or_else(|| format!("{what}.rbac.authorization.k8s.io {name:?} not found"))
    }
}

/// The bindings of one namespace, or of the cluster.
#[derive(Debug, Default)]
struct Bindings {
    bindings: Vec<Binding>,
    /// Which bindings name a user or group, ascending.
    by_subject: HashMap<Key, Vec<usize>>,
}

/// Who a subject is, as identities show it: service accounts are users.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Key {
    User(String),
    Group(String),
}

#[derive(Debug)]
struct Subject {
    key: Key,
    /// `ServiceAccount "name/namespace"`
    text: String,
}

/// One binding with what it grants.
#[derive(Debug)]
pub(super) struct Binding {
    /// `RoleBinding "name/namespace" of Role "name"`
    text: String,
    subjects: Vec<Subject>,
    rules: Result<Arc<[Rule]>, String>,
}

/// Why a rule applies to somebody, in Kubernetes' words.
pub(super) struct Source<'a> {
    binding: &'a Binding,
    subject: &'a Subject,
}

impl fmt::Display for Source<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} to {}", self.binding.text, self.subject.text)
    }
}

impl Compiled {
    pub(super) fn new(stored: &Stored) -> Self {
        let mut roles = Roles::default();
        for role in stored.roles.iter().chain(&stored.cluster_roles) {
            let key = (object::namespace(role).to_owned(), object::name(role).to_owned());
            roles.rules.insert(key, rules(role).into());
        }
        let mut namespaces: BTreeMap<String, Vec<Binding>> = BTreeMap::new();
        for binding in &stored.role_bindings {
            let namespace = object::namespace(binding);
            let compiled = Binding::new(binding, namespace, &roles);
            namespaces.entry(namespace.to_owned()).or_default().push(compiled);
        }
        let cluster = stored.cluster_role_bindings.iter().map(|binding| Binding::new(binding, "", &roles));
        Self {
            cluster: Bindings::new(cluster.collect()),
            namespaces: namespaces
                .into_iter()
                .map(|(namespace, bindings)| (namespace, Bindings::new(bindings)))
                .collect(),
            roles,
        }
    }

    /// The rules that a binding in `namespace` would grant.
    ///
    /// # Errors
    /// The role does not exist.
    pub(super) fn referenced(&self, namespace: &str, kind: &str, name: &str) -> Result<Arc<[Rule]>, String> {
        self.roles.referenced(namespace, kind, name)
    }

    /// Shows `visit` every rule that applies to somebody in a namespace (or at the cluster scope), and every role that
    /// cannot be found, until it breaks off. Cluster-wide bindings come first, as in Kubernetes.
    pub(super) fn visit<'a, B>(
        &'a self,
        identity: &Identity,
        namespace: &str,
        mut visit: impl FnMut(Source<'a>, Result<&'a Rule, &'a str>) -> ControlFlow<B>,
    ) -> Option<B> {
        let own = (!namespace.is_empty()).then(|| self.namespaces.get(namespace)).flatten();
        for bindings in std::iter::once(&self.cluster).chain(own) {
            for (binding, subject) in bindings.of(identity) {
                let source = || Source { binding, subject };
                let flow = match &binding.rules {
                    Err(error) => visit(source(), Err(error)),
                    Ok(rules) => rules.iter().try_for_each(|rule| visit(source(), Ok(rule))),
                };
                if let ControlFlow::Break(found) = flow {
                    return Some(found);
                }
            }
        }
        None
    }
}

impl Bindings {
    fn new(bindings: Vec<Binding>) -> Self {
        let mut by_subject: HashMap<Key, Vec<usize>> = HashMap::new();
        for (index, binding) in bindings.iter().enumerate() {
            for subject in &binding.subjects {
                by_subject.entry(subject.key.clone()).or_default().push(index);
            }
        }
        Self { bindings, by_subject }
    }

    /// The bindings that name somebody, in order, each with the first subject of it that does.
    fn of(&self, identity: &Identity) -> Vec<(&Binding, &Subject)> {
        let user = std::iter::once(Key::User(identity.user.clone()));
        let keys = user.chain(identity.groups.iter().cloned().map(Key::Group));
        let mut indices: Vec<_> =
            keys.filter_map(|key| self.by_subject.get(&key)).flatten().copied().collect();
        indices.sort_unstable();
        indices.dedup();
        let bindings = indices.into_iter().map(|index| &self.bindings[index]);
        bindings
            .filter_map(|binding| {
                let subject = binding.subjects.iter().find(|subject| subject.key.is(identity))?;
                Some((binding, subject))
            })
            .collect()
    }
}

impl Key {
    fn is(&self, identity: &Identity) -> bool {
        match self {
            Self::User(user) => identity.user == *user,
            Self::Group(group) => identity.is_in(group),
        }
    }
}

impl Binding {
    fn new(binding: &Value, namespace: &str, roles: &Roles) -> Self {
        let (kind, role) = (text(binding, "/roleRef/kind"), text(binding, "/roleRef/name"));
        let name = object::name(binding);
        let who = if namespace.is_empty() {
            format!("ClusterRoleBinding {name:?}")
        } else {
            format!("RoleBinding {:?}", format!("{name}/{namespace}"))
        };
        Self {
            text: format!("{who} of {kind} {role:?}"),
            subjects: list(binding, "/subjects")
                .iter()
                .filter_map(|subject| Subject::new(subject, namespace))
                .collect(),
            rules: roles.referenced(namespace, kind, role),
        }
    }
}

impl Subject {
    fn new(subject: &Value, binding_namespace: &str) -> Option<Self> {
        let (kind, name) = (text(subject, "/kind"), text(subject, "/name"));
        let plain = || format!("{kind} {name:?}");
        match kind {
            "User" => Some(Self { key: Key::User(name.to_owned()), text: plain() }),
            "Group" => Some(Self { key: Key::Group(name.to_owned()), text: plain() }),
            "ServiceAccount" => {
                let namespace = match text(subject, "/namespace") {
                    "" => binding_namespace,
                    namespace => namespace,
                };
                (!namespace.is_empty()).then(|| Self {
                    key: Key::User(format!("system:serviceaccount:{namespace}:{name}")),
                    text: format!("{kind} {:?}", format!("{name}/{namespace}")),
                })
            }
            _ => None,
        }
    }
}
