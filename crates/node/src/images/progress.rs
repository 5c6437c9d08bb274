//! How far a pull is: counted from its events, told in the Pod.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use image::{Digest, PullEvent};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{Patch, PatchParams};
use manifest::keys::{PULL_PROGRESS, PullProgress};
use serde_json::{Value, json};

use crate::is_gone;

/// A pull that is quicker is not told of; a longer one once in this time.
pub const INTERVAL: Duration = Duration::from_secs(1);

/// Counts bytes of layers.
#[derive(Debug, Default)]
pub struct Meter {
    /// Bytes that arrived, and all, by layer.
    layers: Mutex<HashMap<Digest, (u64, u64)>>,
}

impl image::PullProgress for Meter {
    fn event(&self, event: PullEvent) {
        let mut layers = self.layers.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            PullEvent::LayerStarted { digest, total } => {
                layers.insert(digest, (0, total));
            }
            PullEvent::LayerProgress { digest, done } => {
                if let Some(layer) = layers.get_mut(&digest) {
                    layer.0 = done.min(layer.1);
                }
            }
            PullEvent::LayerDone { digest, .. } => {
                if let Some(layer) = layers.get_mut(&digest) {
                    layer.0 = layer.1;
                }
            }
            _ => {}
        }
    }
}

impl Meter {
    /// How far the pull of `image` is.
    pub fn progress(&self, image: &str) -> PullProgress {
        let layers = self.layers.lock().unwrap_or_else(PoisonError::into_inner);
        let (bytes, total) = layers.values().fold((0_u64, 0_u64), |sum, layer| {
            (sum.0.saturating_add(layer.0), sum.1.saturating_add(layer.1))
        });
        let percent = (u128::from(bytes) * 100).checked_div(u128::from(total)).unwrap_or_default();
        PullProgress { image: image.to_owned(), bytes, total, percent: u8::try_from(percent).unwrap_or(100) }
    }
}

/// Writes progress to a Pod, until dropped.
pub async fn tell(client: kube::Client, pod: &Pod, image: &str, meter: &Meter) -> Infallible {
    let mut told = None;
    loop {
        tokio::time::sleep(INTERVAL).await;
        let progress = meter.progress(image);
        if told.as_ref() == Some(&progress) {
            continue;
        }
        let text = serde_json::to_string(&progress).unwrap_or_default();
        annotate(&client, pod, text.into()).await;
        told = Some(progress);
    }
}

/// Takes the progress out of a Pod.
pub async fn end(client: &kube::Client, pod: &Pod) {
    annotate(client, pod, Value::Null).await;
}

/// Progress is a courtesy: what cannot be written is left out.
async fn annotate(client: &kube::Client, pod: &Pod, value: Value) {
    let (Some(namespace), Some(name)) = (&pod.metadata.namespace, &pod.metadata.name) else { return };
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    // The UID makes it a conflict when another Pod has the name by now.
    let patch = json!({"metadata": {"uid": pod.metadata.uid, "annotations": {PULL_PROGRESS: value}}});
    match pods.patch_metadata(name, &PatchParams::default(), &Patch::Merge(&patch)).await {
        Ok(_) => {}
        Err(error) if is_gone(&error) => {}
        Err(error) => tracing::debug!(%error, namespace, name, "progress of a pull could not be told"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use image::PullProgress as _;

    use super::*;

    #[test]
    fn bytes_of_all_layers_are_counted() {
        let meter = Meter::default();
        let [first, second] = [b"1", b"2"].map(|bytes| Digest::sha256_of(bytes));
        let seen = |meter: &Meter| {
            let found = meter.progress("i");
            (found.bytes, found.total, found.percent)
        };
        assert_eq!(seen(&meter), (0, 0, 0));
        meter.event(PullEvent::LayerStarted { digest: first.clone(), total: 200 });
        meter.event(PullEvent::LayerProgress { digest: first.clone(), done: 99 });
        assert_eq!(seen(&meter), (99, 200, 49));
        meter.event(PullEvent::LayerStarted { digest: second.clone(), total: u64::MAX });
        assert_eq!(seen(&meter), (99, u64::MAX, 0));
        meter.event(PullEvent::LayerStarted { digest: second.clone(), total: 100 });
        meter.event(PullEvent::LayerProgress { digest: second.clone(), done: 1000 });
        meter.event(PullEvent::LayerDone { digest: first, cached: false });
        assert_eq!(seen(&meter), (300, 300, 100));
    }
}
