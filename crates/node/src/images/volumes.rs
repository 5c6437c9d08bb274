//! What a Pod wants of images; pure.

use std::collections::BTreeMap;

use image::{PullPolicy, Reference};
use k8s_openapi::api::core::v1::Pod;
use manifest::keys;

use super::Waiting;

/// Image volumes of one Pod. A launcher Pod has one for its kernel and one for each of its disks.
const MOST_VOLUMES: usize = 64;

/// Files of one volume. A boot needs two.
const MOST_PATHS: usize = 16;

/// Longest path (`PATH_MAX` of Linux), in bytes.
const MOST_PATH_BYTES: usize = 4096;

/// An image volume and what is needed of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantedVolume {
    /// Its name in the Pod.
    pub name: String,
    /// The image's reference as written.
    pub image: String,
    /// The same, read.
    pub reference: Reference,
    /// When the registry is asked.
    pub policy: PullPolicy,
    /// Absolute paths in the image.
    pub paths: Vec<String>,
}

/// Why a volume cannot be laid out whatever a registry says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Reason of the event.
    pub event: &'static str,
    /// For the Pod's status.
    pub waiting: Waiting,
}

/// The image volumes of `pod` with their paths.
///
/// # Errors
/// The first that cannot be.
pub fn wanted(pod: &Pod) -> Result<Vec<WantedVolume>, Refusal> {
    let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.as_deref()).unwrap_or_default();
    let sources: Vec<_> =
        volumes.iter().filter_map(|volume| Some((&volume.name, volume.image.as_ref()?))).collect();
    if sources.is_empty() {
        return Ok(Vec::new());
    }
    if sources.len() > MOST_VOLUMES {
        let count = sources.len();
        return Err(cannot_be(format!("the Pod has {count} image volumes, more than {MOST_VOLUMES}")));
    }
    let mut paths = paths(pod)?;
    let mut wanted = Vec::with_capacity(sources.len());
    for (name, source) in sources {
        let image = source.reference.clone().unwrap_or_default();
        let reference: Reference = image.parse().map_err(|error| invalid_name(&image, &error))?;
        let policy = match source.pull_policy.as_deref() {
            Some("Always") => PullPolicy::Always,
            Some("IfNotPresent") => PullPolicy::IfNotPresent,
            Some("Never") => PullPolicy::Never,
            // The API server lets nothing else in.
            _ => PullPolicy::default_for(&reference),
        };
        let paths = paths.remove(name).filter(|paths| !paths.is_empty()).ok_or_else(|| {
            cannot_be(format!(
                "the Pod's annotation `{}` names no file of the image volume `{name}`, and images are laid out by file only",
                keys::IMAGE_PATHS
            ))
        })?;
        wanted.push(WantedVolume { name: name.clone(), image, reference, policy, paths });
    }
    Ok(wanted)
}

/// The annotation [`keys::IMAGE_PATHS`], checked.
fn paths(pod: &Pod) -> Result<BTreeMap<String, Vec<String>>, Refusal> {
    let key = keys::IMAGE_PATHS;
    let annotation = pod.metadata.annotations.as_ref().and_then(|annotations| annotations.get(key));
    let Some(text) = annotation else { return Ok(BTreeMap::new()) };
    let mut found: BTreeMap<String, Vec<String>> = serde_json::from_str(text).map_err(|error| {
        cannot_be(format!("the Pod's annotation `{key}` is no object of lists of paths: {error}"))
    })?;
    for (volume, paths) in &mut found {
        let mut seen = std::collections::BTreeSet::new();
        paths.retain(|path| seen.insert(path.clone()));
        if paths.len() > MOST_PATHS {
            let count = paths.len();
            return Err(cannot_be(format!(
                "the Pod's annotation `{key}` names {count} files of `{volume}`, more than {MOST_PATHS}"
            )));
        }
        let odd = paths
            .iter()
            .find(|path| !path.starts_with('/') || path.len() > MOST_PATH_BYTES || path.contains('\0'));
        if let Some(path) = odd {
            let shown: String = path.chars().take(80).collect();
            return Err(cannot_be(format!(
                "the Pod's annotation `{key}` has `{shown}`, which is no absolute path of at most {MOST_PATH_BYTES} bytes"
            )));
        }
    }
    Ok(found)
}

/// A kubelet's reason for a container that cannot be made from what the Pod says.
fn cannot_be(message: String) -> Refusal {
    let waiting = Waiting { reason: "CreateContainerConfigError".to_owned(), message, retry_after: None };
    Refusal { event: "Failed", waiting }
}

fn invalid_name(image: &str, error: &image::ReferenceError) -> Refusal {
    let message = format!(
        "Failed to apply default image tag \"{image}\": couldn't parse image name \"{image}\": {error}"
    );
    let waiting = Waiting { reason: "InvalidImageName".to_owned(), message, retry_after: None };
    Refusal { event: "InspectFailed", waiting }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::{Value, json};

    use super::*;

    fn pod(image: Value, paths: Value) -> Pod {
        let text = paths.as_str().map_or_else(|| paths.to_string(), str::to_owned);
        serde_json::from_value(json!({
            "metadata": {"annotations": {"ferrovirt.dev/image-paths": text}},
            "spec": {"containers": [], "volumes": [{"name": "data", "emptyDir": {}}, {"name": "boot", "image": image}]},
        }))
        .unwrap()
    }

    fn refusal(image: Value, paths: Value) -> (String, String) {
        let waiting = wanted(&pod(image, paths)).unwrap_err().waiting;
        assert_eq!(waiting.retry_after, None);
        (waiting.reason, waiting.message)
    }

    #[test]
    fn a_policy_that_is_not_given_follows_the_tag() {
        let table = [
            (json!({"reference": "r.example/a"}), PullPolicy::Always),
            (json!({"reference": "r.example/a:latest"}), PullPolicy::Always),
            (json!({"reference": "r.example:5000/a"}), PullPolicy::Always),
            (json!({"reference": "r.example/a:1"}), PullPolicy::IfNotPresent),
            (json!({"reference": "r.example/a:1", "pullPolicy": ""}), PullPolicy::IfNotPresent),
            (json!({"reference": "r.example/a:1", "pullPolicy": "Always"}), PullPolicy::Always),
            (json!({"reference": "r.example/a", "pullPolicy": "Never"}), PullPolicy::Never),
        ];
        for (image, policy) in table {
            let found =
                wanted(&pod(image.clone(), json!({"boot": ["/vmlinuz", "/vmlinuz", "/initrd"]}))).unwrap();
            assert_eq!(found.len(), 1);
            assert_eq!(
                (found[0].policy, found[0].paths.as_slice()),
                (policy, &["/vmlinuz".to_owned(), "/initrd".to_owned()][..]),
                "{image}"
            );
        }
        assert_eq!(wanted(&Pod::default()).unwrap(), []);
    }

    #[test]
    fn what_cannot_be_laid_out_is_refused() {
        let image = || json!({"reference": "r.example/a:1"});
        let config = |image: Value, paths: Value, expected: &str| {
            let (reason, message) = refusal(image, paths);
            assert_eq!(reason, "CreateContainerConfigError");
            assert!(message.contains(expected), "{message}");
        };
        config(image(), json!({}), "names no file of the image volume `boot`");
        config(image(), json!({"boot": []}), "names no file of the image volume `boot`");
        config(image(), json!("nonsense"), "is no object of lists of paths");
        config(image(), json!({"boot": "/vmlinuz"}), "is no object of lists of paths");
        config(image(), json!({"boot": ["vmlinuz"]}), "has `vmlinuz`, which is no absolute path");
        config(image(), json!({"boot": ["/a\u{0}"]}), "which is no absolute path");
        let long = |bytes: usize| json!({"boot": [format!("/{}", "a".repeat(bytes - 1))]});
        assert!(wanted(&pod(image(), long(4096))).is_ok());
        config(image(), long(4097), "which is no absolute path");
        let many =
            |count: usize| json!({"boot": (0..count).map(|number| format!("/{number}")).collect::<Vec<_>>()});
        assert!(wanted(&pod(image(), many(16))).is_ok());
        config(image(), many(17), "names 17 files of `boot`, more than 16");
        let (reason, message) = refusal(json!({"reference": "A B"}), json!({"boot": ["/a"]}));
        assert_eq!(reason, "InvalidImageName");
        assert!(
            message.starts_with("Failed to apply default image tag \"A B\": couldn't parse image name"),
            "{message}"
        );
    }
}
