//! The JSON documents by which archives say what they hold.
//!
//! An OCI layout says it in `oci-layout` and `index.json` (OCI image specification, "Image Layout"), what
//! `docker save` writes in `manifest.json` (Moby image specification v1.2, "Combined Image JSON + Filesystem
//! Changeset Format"). Archives written here carry both, over the same blobs, so that every tool finds what
//! it knows.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::digest::{Descriptor, Digest};
use crate::reference::Reference;

/// Name of the member that marks an OCI layout.
pub(super) const LAYOUT_MARK: &str = "oci-layout";
/// Its content; readers refuse another version.
pub(super) const LAYOUT_MARK_CONTENT: &str = r#"{"imageLayoutVersion":"1.0.0"}"#;
/// Name of the member that lists an OCI layout's images.
pub(super) const LAYOUT_INDEX: &str = "index.json";
/// Name of the member that lists a Docker archive's images.
pub(super) const DOCKER_MANIFEST: &str = "manifest.json";

/// Annotation that Docker and containerd write: the full reference.
const ANNOTATION_IMAGE_NAME: &str = "io.containerd.image.name";
/// Annotation of the OCI specification: a full reference (podman) or only its tag (Docker).
const ANNOTATION_REFERENCE_NAME: &str = "org.opencontainers.image.ref.name";

/// Member that holds a blob of an OCI layout.
pub(super) fn blob_member(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm().name(), digest.hex())
}

/// The index of an OCI layout.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct LayoutIndex {
    #[serde(default)]
    pub(super) schema_version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) media_type: Option<String>,
    #[serde(default)]
    pub(super) manifests: Vec<LayoutEntry>,
}

/// One image of an OCI layout, or an index of images.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct LayoutEntry {
    #[serde(flatten)]
    pub(super) descriptor: Descriptor,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) annotations: BTreeMap<String, String>,
}

impl LayoutEntry {
    /// An entry that both families of readers find under `reference`.
    pub(super) fn named(descriptor: Descriptor, reference: &Reference) -> Self {
        let annotations = [ANNOTATION_IMAGE_NAME, ANNOTATION_REFERENCE_NAME]
            .map(|key| (key.to_owned(), reference.to_string()))
            .into_iter()
            .collect();
        Self { descriptor, annotations }
    }

    /// The full reference that the archive gives the image, if it gives one. A bare tag names no image.
    pub(super) fn reference(&self) -> Option<Reference> {
        let full = self.annotations.get(ANNOTATION_IMAGE_NAME);
        let full = full.or_else(|| {
            let name = self.annotations.get(ANNOTATION_REFERENCE_NAME)?;
            // `latest` parses as a repository of that name, which nobody means here.
            name.contains([':', '/']).then_some(name)
        });
        full?.parse().ok()
    }
}

/// One image of a Docker archive.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct DockerEntry {
    /// Member that holds the config.
    pub(super) config: String,
    /// Names, with tags.
    #[serde(default, deserialize_with = "null_as_empty")]
    pub(super) repo_tags: Vec<String>,
    /// Members that hold the layers, the lowest first.
    #[serde(default, deserialize_with = "null_as_empty")]
    pub(super) layers: Vec<String>,
}

/// Go writes an empty list as `null`.
fn null_as_empty<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}
