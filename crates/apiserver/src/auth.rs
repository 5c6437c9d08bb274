//! Who asks: certificates, tokens and the server's own certificate authority.
//!
//! ```text
//! TLS handshake ── any client certificate is taken, possession of its key is proven ──┐
//! Authorization: Bearer …, or a protocol that a WebSocket's client offers ─────────────┤
//!                                                                                     ▼
//!                              Authenticator: x509 │ token file │ service account token
//!                                                                                     │
//!           nothing given: None (anonymous)   wrong: 401   known: Identity ◄──────────┘
//!                                                                  │
//!                              Impersonate-*: the checks it needs, and who it makes ──► rbac
//! ```
//!
//! As in Kubernetes the handshake asks for a client certificate and does not judge it: a foreign or expired one is
//! answered with 401 and a `Status`, not with a closed connection, and a good bearer token beside it still counts.

mod authenticate;
mod authorities;
mod certificates;
mod files;
mod impersonation;
mod jws;
mod kubeconfig;
mod reviews;
mod service_accounts;
mod token_file;
mod verifier;
pub(crate) mod web_socket;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod memory;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

pub use authenticate::Authenticator;
pub use authorities::{Authorities, PkiError, ServerNames};
pub use impersonation::{Check, Impersonation, impersonation};
pub use kubeconfig::{KubeconfigError, merge_kubeconfig};
pub use reviews::{self_subject_review, token_review};
pub(crate) use service_accounts::{ACCOUNTS, SECRETS, secret_token};
pub use service_accounts::{ISSUER, issue_token};
pub use token_file::{TokenFile, TokenFileError};

/// The group of everybody who showed valid credentials.
pub const AUTHENTICATED: &str = "system:authenticated";
/// The group of everybody who showed none.
pub const UNAUTHENTICATED: &str = "system:unauthenticated";
/// The user of requests without credentials.
pub const ANONYMOUS: &str = "system:anonymous";
/// The group that may do everything.
pub const MASTERS: &str = "system:masters";

/// Who asks: `user.Info` of Kubernetes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identity {
    /// The user's name.
    pub user: String,
    /// The user's uid; empty where there is none.
    pub uid: String,
    /// The groups, `system:authenticated` among them.
    pub groups: Vec<String>,
    /// Whatever else the authenticator knows, by key.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl Identity {
    /// Somebody without credentials.
    pub fn anonymous() -> Self {
        Self { user: ANONYMOUS.to_owned(), groups: vec![UNAUTHENTICATED.to_owned()], ..Self::default() }
    }

    /// A part of this program, which may do everything.
    pub fn internal(user: &str) -> Self {
        Self {
            user: user.to_owned(),
            groups: vec![MASTERS.to_owned(), AUTHENTICATED.to_owned()],
            ..Self::default()
        }
    }

    /// A service account, with the groups that its tokens give it. It may do what roles grant it.
    pub fn service_account(namespace: &str, name: &str) -> Self {
        Self {
            user: format!("system:serviceaccount:{namespace}:{name}"),
            groups: vec![
                "system:serviceaccounts".to_owned(),
                format!("system:serviceaccounts:{namespace}"),
                AUTHENTICATED.to_owned(),
            ],
            ..Self::default()
        }
    }

    /// The kubelet of a node. It may do what roles grant the group `system:nodes`.
    pub fn node(name: &str) -> Self {
        Self {
            user: format!("system:node:{name}"),
            groups: vec!["system:nodes".to_owned(), AUTHENTICATED.to_owned()],
            ..Self::default()
        }
    }

    /// Whether the user is in this group.
    pub fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|own| own == group)
    }

    /// `authentication.k8s.io/v1` `UserInfo`, as reviews and audit events show it.
    pub fn to_user_info(&self) -> Value {
        let mut info = Map::new();
        info.insert("username".to_owned(), self.user.clone().into());
        if !self.uid.is_empty() {
            info.insert("uid".to_owned(), self.uid.clone().into());
        }
        if !self.groups.is_empty() {
            info.insert("groups".to_owned(), self.groups.clone().into());
        }
        if !self.extra.is_empty() {
            info.insert("extra".to_owned(), json!(self.extra));
        }
        Value::Object(info)
    }
}

/// What is asked for, as authorization sees it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Attributes<'a> {
    /// `get`, `list`, …; for a path the HTTP method in lower case.
    pub verb: &'a str,
    /// The API group; empty for the core group.
    pub group: &'a str,
    /// The version.
    pub version: &'a str,
    /// The plural; empty for a request that is not about a resource but about `path`.
    pub resource: &'a str,
    /// The subresource, or empty.
    pub subresource: &'a str,
    /// The namespace; empty at the cluster scope and for all namespaces.
    pub namespace: &'a str,
    /// The object's name. A list, watch or deletecollection whose field selector is `metadata.name=x` has `x` here.
    pub name: &'a str,
    /// The path, without the query, where `resource` is empty.
    pub path: &'a str,
}

/// Where authentication and authorization read stored objects. [`crate::store::Store`] is one; tests have another, so
/// that they need no database.
pub trait Objects: Send + Sync {
    /// The revision of the last change under a [`crate::kind::Kind::storage_prefix`].
    fn last_changed(&self, prefix: &str) -> u64;
    /// One object; the namespace is empty at the cluster scope.
    fn get(&self, prefix: &str, namespace: &str, name: &str) -> Option<Value>;
    /// All objects under a prefix, ordered by namespace and name.
    fn list(&self, prefix: &str) -> Vec<Value>;
}

impl Objects for crate::store::Store {
    fn last_changed(&self, prefix: &str) -> u64 {
        Self::last_changed(self, prefix)
    }

    fn get(&self, prefix: &str, namespace: &str, name: &str) -> Option<Value> {
        // What the store holds was written by us as JSON; anything else counts as nothing, which refuses access.
        serde_json::from_slice(&Self::get(self, prefix, namespace, name)?.json).ok()
    }

    fn list(&self, prefix: &str) -> Vec<Value> {
        let items = Self::list(self, prefix, None).items;
        items.iter().filter_map(|stored| serde_json::from_slice(&stored.json).ok()).collect()
    }
}
