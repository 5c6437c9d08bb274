//! What is served: discovery documents.

use serde_json::{Value, json};

use crate::kind::Kinds;

/// Which form of aggregated discovery a client accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aggregated {
    /// `apidiscovery.k8s.io/v2`
    V2,
    /// `apidiscovery.k8s.io/v2beta1`
    V2Beta1,
}

/// `GET /api`: `APIVersions`. `server_address` is the `host:port` that clients reach the server at.
pub fn core_versions(_kinds: &Kinds, _server_address: &str) -> Value {
    json!({})
}

/// `GET /apis`: `APIGroupList`.
pub fn groups(_kinds: &Kinds) -> Value {
    json!({})
}

/// `GET /apis/GROUP`: `APIGroup`; `None` when there is no such group.
pub fn group(_kinds: &Kinds, _group: &str) -> Option<Value> {
    None
}

/// `GET /api/v1` (with an empty group) and `GET /apis/GROUP/VERSION`: `APIResourceList`; `None` when there is no such
/// version.
pub fn resources(_kinds: &Kinds, _group: &str, _version: &str) -> Option<Value> {
    None
}

/// `GET /api` (`core`) or `GET /apis` as aggregated discovery: `APIGroupDiscoveryList`.
pub fn aggregated(_kinds: &Kinds, _core: bool, _form: Aggregated) -> Value {
    json!({})
}
