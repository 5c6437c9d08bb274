//! A Pod as text.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use manifest::forms;

/// A Pod that nobody works on at the moment: as a value it takes 20 KB in memory, and most Pods run and are only waited
/// for.
#[derive(Debug, Clone)]
pub(super) struct Packed {
    revision: u64,
    text: Arc<str>,
}

impl Packed {
    /// `pod` as it is.
    pub(super) fn new(pod: &Pod) -> Self {
        let version = pod.metadata.resource_version.as_deref();
        Self {
            revision: version.and_then(|version| version.parse().ok()).unwrap_or(u64::MAX),
            text: forms::write_pod(pod).expect("a Pod has no keys but texts").into(),
        }
    }

    /// Whether it is not `other` itself, nor older: of two objects of one UID the one with the higher number is newer,
    /// and a version that is no number is the newest.
    pub(super) fn is_newer_than(&self, other: &Self) -> bool {
        !Arc::ptr_eq(&self.text, &other.text) && self.revision >= other.revision
    }

    /// The Pod.
    pub(super) fn open(&self) -> Pod {
        forms::read_pod(&self.text).expect("it was written from a Pod")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_packed_comes_out_again() {
        let pod = |version: &str| {
            let pod = json!({
                "metadata": {"name": "p", "resourceVersion": version, "creationTimestamp": "2026-01-01T00:00:00Z"},
                "spec": {"containers": [{
                    "name": "compute", "resources": {"requests": {"cpu": "100m"}},
                    "ports": [{"containerPort": 8443}],
                    "livenessProbe": {"httpGet": {"port": "control"}},
                }]},
                "status": {"containerStatuses": []},
            });
            serde_json::from_value::<Pod>(pod).unwrap()
        };
        let packed = Packed::new(&pod("7"));
        assert_eq!(packed.open(), pod("7"));
        assert!(!packed.clone().is_newer_than(&packed));
        for (version, is_newer) in [("6", false), ("7", true), ("8", true), ("none", true)] {
            assert_eq!(Packed::new(&pod(version)).is_newer_than(&packed), is_newer, "{version}");
        }
    }
}
