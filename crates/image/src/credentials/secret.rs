//! Kubernetes Secrets with registry credentials.
//!
//! The keys are matched as the kubelet matches them: a key is `HOST[:PORT][/PATH]`, with or without a scheme;
//! each label of the host may be a glob (`*.example.com` matches exactly one label); the path is a prefix.
//! All keys that match are tried, the longest first.

use std::fmt;

use super::{
    Credential,
    files::{AuthEntry, ConfigForm},
    is_docker_hub,
    json::JsonError,
};
use crate::digest::Digest;

/// The credentials in a Kubernetes Secret of type `kubernetes.io/dockerconfigjson` or
/// `kubernetes.io/dockercfg`.
#[derive(Clone)]
pub struct PullSecret {
    name: String,
    entries: Vec<(String, Credential)>,
    /// Tells secrets apart in caches without keeping what they say.
    identity: Digest,
}

/// Why a Secret holds no usable credentials.
#[derive(Debug, thiserror::Error)]
pub enum PullSecretError {
    /// The value is no JSON of the right form.
    #[error("secret `{name}` has a malformed `{key}`")]
    Json {
        /// The Secret's name.
        name: String,
        /// The key in the Secret's data.
        key: &'static str,
        /// Where and why.
        source: JsonError,
    },
    /// One registry's entry is malformed.
    #[error("secret `{name}` has a malformed entry for `{registry}`: {reason}")]
    Entry {
        /// The Secret's name.
        name: String,
        /// The registry as the Secret has it.
        registry: String,
        /// What is wrong.
        reason: String,
    },
}

impl PullSecretError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        Some(
            "`kubectl create secret docker-registry NAME --docker-server=HOST ... \
             --dry-run=client -o yaml` writes a well-formed one"
                .to_owned(),
        )
    }
}

impl PullSecret {
    /// Reads the value of the key `.dockerconfigjson`. `name` is the Secret's, for messages.
    ///
    /// # Errors
    /// When the value is not the JSON that it has to be.
    pub fn from_docker_config_json(name: &str, bytes: &[u8]) -> Result<Self, PullSecretError> {
        let form: ConfigForm =
            serde_json::from_slice(bytes).map_err(malformed_json(name, ".dockerconfigjson"))?;
        Self::new(name, bytes, form.auths.into_iter())
    }

    /// Reads the value of the key `.dockercfg`, the older form. `name` is the Secret's, for messages.
    ///
    /// # Errors
    /// When the value is not the JSON that it has to be.
    pub fn from_docker_cfg(name: &str, bytes: &[u8]) -> Result<Self, PullSecretError> {
        let form: std::collections::BTreeMap<String, AuthEntry> =
            serde_json::from_slice(bytes).map_err(malformed_json(name, ".dockercfg"))?;
        Self::new(name, bytes, form.into_iter())
    }

    fn new(
        name: &str,
        bytes: &[u8],
        auths: impl Iterator<Item = (String, AuthEntry)>,
    ) -> Result<Self, PullSecretError> {
        let mut entries = Vec::new();
        for (registry, entry) in auths {
            match entry.credential() {
                Ok(Some(credential)) => entries.push((registry, credential)),
                Ok(None) => {}
                Err(reason) => {
                    return Err(PullSecretError::Entry { name: name.to_owned(), registry, reason });
                }
            }
        }
        entries.sort_by_key(|(key, _)| std::cmp::Reverse(normalised(key).len()));
        Ok(Self { name: name.to_owned(), entries, identity: Digest::sha256_of(bytes) })
    }

    /// The Secret's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The registries for which the Secret has credentials, as it writes them.
    pub fn registries(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(|(key, _)| key.as_str())
    }

    pub(crate) const fn identity(&self) -> &Digest {
        &self.identity
    }

    pub(super) fn matching(&self, registry: &str, repository: &str) -> impl Iterator<Item = &Credential> {
        self.entries
            .iter()
            .filter(move |(key, _)| key_matches(key, registry, repository))
            .map(|(_, credential)| credential)
    }
}

impl fmt::Debug for PullSecret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("PullSecret")
            .field("name", &self.name)
            .field("registries", &self.registries().collect::<Vec<_>>())
            .finish()
    }
}

/// For `map_err`.
fn malformed_json(name: &str, key: &'static str) -> impl FnOnce(serde_json::Error) -> PullSecretError {
    move |error| PullSecretError::Json { name: name.to_owned(), key, source: error.into() }
}

/// Without scheme, without the API version that old Docker clients append, without a slash at the end.
fn normalised(key: &str) -> &str {
    let key = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    let key = key.trim_end_matches('/');
    key.strip_suffix("/v1").or_else(|| key.strip_suffix("/v2")).unwrap_or(key).trim_end_matches('/')
}

fn key_matches(key: &str, registry: &str, repository: &str) -> bool {
    let (host, path) = normalised(key).split_once('/').unwrap_or((normalised(key), ""));
    let host_matches = (is_docker_hub(host) && is_docker_hub(registry)) || host_glob_matches(host, registry);
    host_matches && repository.starts_with(path)
}

fn host_glob_matches(pattern: &str, registry: &str) -> bool {
    let (pattern_host, pattern_port) = split_port(pattern);
    let (host, port) = split_port(registry);
    pattern_port == port
        && pattern_host.split('.').count() == host.split('.').count()
        && pattern_host.split('.').zip(host.split('.')).all(|(glob, label)| label_matches(glob, label))
}

fn split_port(host: &str) -> (&str, Option<&str>) {
    match host.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (host, None),
    }
}

/// `*` stands for any run of characters in one label.
fn label_matches(glob: &str, label: &str) -> bool {
    let mut parts = glob.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = label.strip_prefix(first) else {
        return false;
    };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    true
}
