//! Secrets that travel in the same stream as the machines that name them.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::schema::{Fault, object};

object! {
    /// A Secret as it is written.
    pub struct WrittenSecret {
        /// API version, `v1`.
        optional api_version ("apiVersion"): Option<String>,
        /// Always `Secret`.
        optional kind ("kind"): Option<String>,
        /// Name and namespace.
        optional metadata ("metadata"): ObjectMeta,
        /// Type of the content; `Opaque` when unset.
        optional type_ ("type"): Option<String>,
        /// Content, base64.
        optional data ("data"): BTreeMap<String, String>,
        /// Content as text; wins over `data`.
        optional string_data ("stringData"): BTreeMap<String, String>,
        /// Whether the Secret may be changed.
        optional immutable ("immutable"): Option<bool>,
    }
}

/// A Secret with its content decoded. Printing it with `{:?}` shows the keys and hides the content.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret {
    /// Name of the Secret.
    pub name: String,
    /// Its namespace, where one is written.
    pub namespace: Option<String>,
    /// Type of the content, such as `kubernetes.io/dockerconfigjson`; `Opaque` when unset.
    pub type_: String,
    /// The content by key.
    pub data: BTreeMap<String, Vec<u8>>,
}

impl Secret {
    /// Decodes what was written; a value that is not base64 is a fault.
    pub(crate) fn from_written(written: WrittenSecret) -> Result<Self, Vec<Fault>> {
        let mut faults = Vec::new();
        let mut data = BTreeMap::new();
        for (key, encoded) in written.data {
            // Line breaks are common in values pasted from `base64`; Kubernetes ignores them too.
            let encoded: String = encoded.chars().filter(|letter| !matches!(letter, '\n' | '\r')).collect();
            match STANDARD.decode(encoded) {
                Ok(bytes) => {
                    data.insert(key, bytes);
                }
                Err(_) => faults.push(Fault {
                    place: format!("data.{key}"),
                    message: format!("data.{key} in body must be of type byte: \"string\""),
                    location: None,
                }),
            }
        }
        data.extend(written.string_data.into_iter().map(|(key, text)| (key, text.into_bytes())));
        if !faults.is_empty() {
            return Err(faults);
        }
        Ok(Self {
            name: written.metadata.name.unwrap_or_default(),
            namespace: written.metadata.namespace,
            type_: written.type_.unwrap_or_else(|| "Opaque".to_owned()),
            data,
        })
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Secret")
            .field("name", &self.name)
            .field("namespace", &self.namespace)
            .field("type_", &self.type_)
            .field("keys", &self.data.keys().collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}
