//! Objects of which a watch keeps no more than which one they are, and a note.
//!
//! A controller that reads its objects anew needs no copy of them: a machine with its field ownership takes 15 KB in
//! memory, its identity a tenth of one. What is to be at hand is noted, in the least form that will do.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use manifest::unowned;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// Which object of kind `K` this is, and what was noted of it when it was read. Without a note, whatever else it has is
/// skipped.
#[derive(Debug, Clone)]
pub(crate) struct Identity<K, N = ()> {
    metadata: ObjectMeta,
    pub(crate) note: N,
    kind: PhantomData<K>,
}

impl<K, N> Identity<K, N> {
    /// Of an object with `metadata`, as [`without_ownership`] gives it.
    pub(crate) fn new(metadata: ObjectMeta, note: N) -> Self {
        Self { metadata, note, kind: PhantomData }
    }

    /// Namespace and name; the namespace is empty where there is none.
    pub(crate) fn key(&self) -> (&str, &str) {
        let metadata = &self.metadata;
        (metadata.namespace.as_deref().unwrap_or_default(), metadata.name.as_deref().unwrap_or_default())
    }
}

/// What of its metadata is kept of an object.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Kept {
    name: Option<String>,
    namespace: Option<String>,
    uid: Option<String>,
    // A watch goes on from the last version that it was shown.
    resource_version: Option<String>,
}

impl From<Kept> for ObjectMeta {
    fn from(Kept { name, namespace, uid, resource_version }: Kept) -> Self {
        Self { name, namespace, uid, resource_version, ..Self::default() }
    }
}

impl<'de, K> Deserialize<'de> for Identity<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Object {
            metadata: Kept,
        }
        Ok(Self::new(Object::deserialize(deserializer)?.metadata.into(), ()))
    }
}

/// An object that is kept as text, without its field ownership: a fifth of what it takes as a value, and most objects
/// are at rest.
pub(crate) type Packed<K> = Identity<K, Text>;

/// The text of an object.
#[derive(Clone)]
pub(crate) struct Text(Box<str>);

impl fmt::Debug for Text {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Text({} bytes)", self.0.len())
    }
}

impl<'de, K> Deserialize<'de> for Packed<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (metadata, object) = without_ownership(deserializer)?;
        Ok(Self::new(metadata, Text(object.to_string().into())))
    }
}

/// An object and what tells it apart, without its field ownership.
pub(crate) fn without_ownership<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<(ObjectMeta, Value), D::Error> {
    let object = unowned::object(deserializer)?;
    let metadata = Kept::deserialize(&object["metadata"]).map_err(serde::de::Error::custom)?;
    Ok((metadata.into(), object))
}

impl<K: DeserializeOwned> Packed<K> {
    /// The object.
    ///
    /// # Errors
    /// When it has another shape than a `K`.
    pub(crate) fn read(&self) -> Result<K, serde_json::Error> {
        serde_json::from_str(&self.note.0)
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

    use manifest::types::{VirtualMachine, VirtualMachineInstance};
    use serde_json::json;

    use super::*;

    #[test]
    fn a_packed_object_is_read_again_without_its_field_ownership() {
        let mut object = json!({
            "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance",
            "metadata": {"name": "kb", "namespace": "work", "labels": {"a": "b"}},
            "spec": {"domain": {"devices": {}}}, "status": {"phase": "Running"},
        });
        let plain: VirtualMachineInstance = serde_json::from_value(object.clone()).unwrap();
        object["metadata"]["managedFields"] = json!([{"manager": "m", "fieldsV1": {"f:spec": {}}}]);
        let packed: Packed<VirtualMachineInstance> = serde_json::from_value(object).unwrap();
        assert_eq!(packed.key(), ("work", "kb"));
        assert_eq!(packed.read().unwrap(), plain);
        // What cannot be read is watched all the same.
        let odd = json!({"metadata": {"name": "odd"}, "spec": "whatever shape it has"});
        let odd: Packed<VirtualMachineInstance> = serde_json::from_value(odd).unwrap();
        assert_eq!(odd.key(), ("", "odd"));
        assert!(odd.read().is_err());
    }

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
