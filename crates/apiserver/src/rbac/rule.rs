//! One rule, and what it allows.
//!
//! Facts of k8s.io/kubernetes `pkg/apis/rbac/v1/evaluation_helpers.go`.

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::auth::Attributes;
use crate::field;

/// `rbac.authorization.k8s.io/v1` `PolicyRule`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Rule {
    /// `get`, …, or `*`.
    #[serde(deserialize_with = "texts")]
    pub verbs: Vec<String>,
    /// API groups, the core group as an empty text, or `*`.
    #[serde(deserialize_with = "texts", skip_serializing_if = "Vec::is_empty")]
    pub api_groups: Vec<String>,
    /// `pods`, `pods/log`, `*/scale` or `*`.
    #[serde(deserialize_with = "texts", skip_serializing_if = "Vec::is_empty")]
    pub resources: Vec<String>,
    /// The objects that the rule is about; empty means all of them. A request without a name, such as create and a list
    /// that selects no name, is not allowed by a rule with names.
    #[serde(deserialize_with = "texts", skip_serializing_if = "Vec::is_empty")]
    pub resource_names: Vec<String>,
    /// Paths; a `*` at the end stands for anything.
    #[serde(rename = "nonResourceURLs", deserialize_with = "texts", skip_serializing_if = "Vec::is_empty")]
    pub non_resource_urls: Vec<String>,
}

/// `null` is an empty list, as in Go.
fn texts<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// The rules of a Role or ClusterRole. One that is not well formed allows nothing and is left out.
pub fn rules(role: &Value) -> Vec<Rule> {
    field::list(role, "/rules").iter().filter_map(|rule| Rule::deserialize(rule).ok()).collect()
}

pub(super) fn has(list: &[String], wanted: &str) -> bool {
    list.iter().any(|item| item == wanted)
}

impl Rule {
    /// Whether the rule allows this.
    pub fn allows(&self, attributes: &Attributes<'_>) -> bool {
        if !has(&self.verbs, "*") && !has(&self.verbs, attributes.verb) {
            return false;
        }
        if attributes.resource.is_empty() {
            return self.non_resource_urls.iter().any(|pattern| path_matches(pattern, attributes.path));
        }
        (has(&self.api_groups, "*") || has(&self.api_groups, attributes.group))
            && self.resources.iter().any(|resource| resource_matches(resource, attributes))
            && (self.resource_names.is_empty() || has(&self.resource_names, attributes.name))
    }
}

fn resource_matches(pattern: &str, attributes: &Attributes<'_>) -> bool {
    if pattern == "*" {
        return true;
    }
    if attributes.subresource.is_empty() {
        return pattern == attributes.resource;
    }
    pattern.split_once('/').is_some_and(|(resource, subresource)| {
        subresource == attributes.subresource && (resource == "*" || resource == attributes.resource)
    })
}

/// Whether a path, or another pattern, lies within a pattern.
pub(super) fn path_matches(pattern: &str, path: &str) -> bool {
    pattern == path || pattern.ends_with('*') && path.starts_with(pattern.trim_end_matches('*'))
}
