//! Objects of a watch, without what says who owns which field.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::{Metadata, Resource};
use manifest::{forms, unowned};
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer};

/// An object as a watch keeps it. A watch's events read their objects from a form of their own; it is turned into text
/// first, see [`forms`].
#[derive(Debug, Clone)]
pub(crate) struct Unowned<K>(pub K);

impl<'de, K: DeserializeOwned> Deserialize<'de> for Unowned<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let object = unowned::object(deserializer)?;
        forms::from_value(&object).map(Self).map_err(D::Error::custom)
    }
}

impl<K: Resource> Resource for Unowned<K> {
    const API_VERSION: &'static str = K::API_VERSION;
    const GROUP: &'static str = K::GROUP;
    const KIND: &'static str = K::KIND;
    const VERSION: &'static str = K::VERSION;
    const URL_PATH_SEGMENT: &'static str = K::URL_PATH_SEGMENT;
    type Scope = K::Scope;
}

impl<K: Metadata<Ty = ObjectMeta>> Metadata for Unowned<K> {
    type Ty = ObjectMeta;

    fn metadata(&self) -> &ObjectMeta {
        self.0.metadata()
    }

    fn metadata_mut(&mut self) -> &mut ObjectMeta {
        self.0.metadata_mut()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use k8s_openapi::api::core::v1::Pod;
    use kube::core::WatchEvent;
    use serde_json::json;

    use super::*;

    #[test]
    fn an_event_has_its_object_but_for_the_field_ownership() {
        let mut pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "p", "resourceVersion": "7", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"containers": [{"name": "compute", "ports": [{"containerPort": 8443}]}]},
        });
        let plain: Pod = serde_json::from_value(pod.clone()).unwrap();
        pod["metadata"]["managedFields"] = json!([{"manager": "m", "fieldsV1": {"f:spec": {}}}]);
        let event = json!({"type": "MODIFIED", "object": pod}).to_string();
        let WatchEvent::Modified(read) = serde_json::from_str::<WatchEvent<Unowned<Pod>>>(&event).unwrap()
        else {
            panic!("another event");
        };
        assert_eq!(read.0, plain);
        assert_eq!(read.metadata().name.as_deref(), Some("p"));
        let odd = r#"{"type": "ADDED", "object": {"metadata": {"name": "p"}, "spec": "none"}}"#;
        let error = serde_json::from_str::<WatchEvent<Unowned<Pod>>>(odd).err().unwrap();
        assert!(error.to_string().contains("expected PodSpec"), "{error}");
    }
}
