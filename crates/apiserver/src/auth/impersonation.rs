//! The `Impersonate-*` headers: asking in another's name.
//!
//! Rules of k8s.io/apiserver's `endpoints/filters/impersonation.go`.

use std::collections::BTreeMap;

use http::HeaderMap;

use super::{ANONYMOUS, AUTHENTICATED, Attributes, Identity, UNAUTHENTICATED, service_accounts};
use crate::http::request_info::percent_decode;
use crate::status::ApiError;

const EXTRA_PREFIX: &str = "impersonate-extra-";
const AUTHENTICATION: &str = "authentication.k8s.io";

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
    fn new(group: &'static str, resource: &'static str, name: &str) -> Self {
        Self { group, resource, subresource: String::new(), namespace: String::new(), name: name.to_owned() }
    }

    /// What the authorizer is asked.
    pub fn attributes(&self) -> Attributes<'_> {
        Attributes {
            verb: "impersonate",
            group: self.group,
            version: if self.group.is_empty() { "" } else { "v1" },
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
/// 400 when groups, a uid or extras come without a user, or a value is not text.
pub fn impersonation(headers: &HeaderMap) -> Result<Option<Impersonation>, ApiError> {
    let user = values(headers, "impersonate-user")?.into_iter().next().unwrap_or_default();
    let groups = values(headers, "impersonate-group")?;
    let uid = values(headers, "impersonate-uid")?.into_iter().next().unwrap_or_default();
    let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for name in headers.keys() {
        if let Some(key) = name.as_str().strip_prefix(EXTRA_PREFIX) {
            // A key that header names cannot hold is escaped (`acme.com%2fproject`). As Go's `url.PathUnescape` fails as a
            // whole, a key with a wrong escape is taken as it is.
            let key = percent_decode(key).unwrap_or_else(|| key.to_owned());
            extra.entry(key).or_default().extend(values(headers, name.as_str())?);
        }
    }
    if user.is_empty() {
        if groups.is_empty() && uid.is_empty() && extra.is_empty() {
            return Ok(None);
        }
        return Err(ApiError::bad_request(
            "requested impersonation of groups, a uid or extra fields without impersonating a user",
        ));
    }
    let mut checks = Vec::new();
    let mut own_groups = Vec::new();
    match service_accounts::split_user_name(&user) {
        Some((namespace, name)) => {
            checks.push(Check { namespace: namespace.to_owned(), ..Check::new("", "serviceaccounts", name) });
            if groups.is_empty() {
                own_groups = service_accounts::groups(namespace);
            }
        }
        None => checks.push(Check::new("", "users", &user)),
    }
    checks.extend(groups.iter().map(|group| Check::new("", "groups", group)));
    own_groups.extend(groups);
    for (key, values) in &extra {
        checks.extend(values.iter().map(|value| Check {
            subresource: key.clone(),
            ..Check::new(AUTHENTICATION, "userextras", value)
        }));
    }
    if !uid.is_empty() {
        checks.push(Check::new(AUTHENTICATION, "uids", &uid));
    }
    let mut identity = Identity { user, uid, groups: own_groups, extra };
    if !identity.is_in(AUTHENTICATED) && !identity.is_in(UNAUTHENTICATED) {
        let group = if identity.user == ANONYMOUS { UNAUTHENTICATED } else { AUTHENTICATED };
        identity.groups.push(group.to_owned());
    }
    Ok(Some(Impersonation { identity, checks }))
}

fn values(headers: &HeaderMap, name: &str) -> Result<Vec<String>, ApiError> {
    let texts = headers.get_all(name).iter().map(|value| {
        let text = std::str::from_utf8(value.as_bytes());
        text.map(str::to_owned)
            .map_err(|_| ApiError::bad_request(format!("the header {name:?} is not UTF-8 text")))
    });
    texts.collect()
}
