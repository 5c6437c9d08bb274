//! Objects of which a watch keeps no more than which one they are.
//!
//! A controller that reads its objects anew needs no copy of them: a machine with its field ownership takes 15 KB in
//! memory, its identity a tenth of one.

use std::borrow::Cow;
use std::marker::PhantomData;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use serde::{Deserialize, Deserializer};

/// Which object of kind `K` this is, and what was noted of it when it was read. Without a note, whatever else it has is
/// skipped.
#[derive(Debug, Clone)]
pub(crate) struct Identity<K, N = ()> {
    metadata: ObjectMeta,
    pub(crate) note: N,
    kind: PhantomData<K>,
}

impl<K, N> Identity<K, N> {
    /// Of `metadata`, no more than is needed.
    pub(crate) fn new(metadata: ObjectMeta, note: N) -> Self {
        let ObjectMeta { name, namespace, uid, resource_version, .. } = metadata;
        let metadata = ObjectMeta { name, namespace, uid, resource_version, ..ObjectMeta::default() };
        Self { metadata, note, kind: PhantomData }
    }

    /// Namespace and name; the namespace is empty where there is none.
    pub(crate) fn key(&self) -> (&str, &str) {
        let metadata = &self.metadata;
        (metadata.namespace.as_deref().unwrap_or_default(), metadata.name.as_deref().unwrap_or_default())
    }
}

impl<'de, K> Deserialize<'de> for Identity<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Object {
            metadata: Kept,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Kept {
            name: Option<String>,
            namespace: Option<String>,
            uid: Option<String>,
            // A watch goes on from the last version that it was shown.
            resource_version: Option<String>,
        }
        let Kept { name, namespace, uid, resource_version } = Object::deserialize(deserializer)?.metadata;
        let metadata = ObjectMeta { name, namespace, uid, resource_version, ..ObjectMeta::default() };
        Ok(Self { metadata, note: (), kind: PhantomData })
    }
}

impl<K: Resource, N> Resource for Identity<K, N> {
    type DynamicType = K::DynamicType;
    type Scope = K::Scope;

    fn kind(dynamic: &K::DynamicType) -> Cow<'_, str> {
        K::kind(dynamic)
    }

    fn group(dynamic: &K::DynamicType) -> Cow<'_, str> {
        K::group(dynamic)
    }

    fn version(dynamic: &K::DynamicType) -> Cow<'_, str> {
        K::version(dynamic)
    }

    fn plural(dynamic: &K::DynamicType) -> Cow<'_, str> {
        K::plural(dynamic)
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use manifest::types::VirtualMachine;
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_tells_objects_apart_is_kept() {
        let identity = json!({"name": "kb", "namespace": "work", "uid": "u", "resourceVersion": "7"});
        let mut object = json!({
            "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "metadata": identity,
            "spec": "whatever shape it has", "status": {},
        });
        object["metadata"]["labels"] = json!({"a": "b"});
        object["metadata"]["managedFields"] = json!([{"manager": "m", "fieldsV1": {"f:spec": {}}}]);
        let read: Identity<VirtualMachine> = serde_json::from_value(object).unwrap();
        assert_eq!(read.key(), ("work", "kb"));
        assert_eq!(serde_json::to_value(read.meta()).unwrap(), identity);
    }
}
