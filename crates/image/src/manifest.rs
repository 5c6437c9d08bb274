//! The JSON documents of an image as registries serve them: index, manifest, config.
//!
//! Read leniently, since what is in the world was written by many builders: unknown fields are passed over. What decides
//! over bytes (digests, sizes, kinds) is strict. Docker's schema 2 documents have the same shape under other names.

use serde::Deserialize;

use crate::digest::{Descriptor, Digest};
use crate::platform::Platform;

/// Manifests and configs larger than this are refused. Registries commonly limit manifests to 4 MiB.
pub const DOCUMENT_LIMIT_BYTES: u64 = 4 << 20;

/// OCI image index.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// OCI image manifest.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// OCI image config.
pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// Docker's manifest list, schema 2.
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// Docker's manifest, schema 2.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Docker's image config.
pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";

/// Why a document cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// No JSON, or not of the expected shape.
    #[error("the {what} is malformed")]
    Malformed {
        /// `manifest`, `image config`.
        what: &'static str,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// Docker's schema 1, without digests of configs and with a history of its own; registries dropped it.
    #[error("the manifest has the obsolete Docker schema 1")]
    SchemaOne,
    /// Neither an index nor an image.
    #[error("`{media_type}` is not a container image")]
    NotAnImage {
        /// The media type found.
        media_type: String,
    },
    /// The document could be read in two ways.
    #[error("the manifest is ambiguous: {reason}")]
    Ambiguous {
        /// What contradicts what.
        reason: String,
    },
    /// A layer is kept outside the registry.
    #[error("layer `{digest}` is not in the registry (`{media_type}`)")]
    ForeignLayer {
        /// The layer.
        digest: Digest,
        /// Its media type.
        media_type: String,
    },
    /// A layer is something else than a tar archive.
    #[error("layer `{digest}` is of the kind `{media_type}`, which is not a file system layer")]
    UnknownLayer {
        /// The layer.
        digest: Digest,
        /// Its media type.
        media_type: String,
    },
    /// The config names another number of layers than the manifest.
    #[error("the image config lists {diff_ids} layers where the manifest has {layers}")]
    LayerCount {
        /// Layers in the config.
        diff_ids: usize,
        /// Layers in the manifest.
        layers: usize,
    },
}

impl ManifestError {
    /// What the user can do about it, if anything.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::SchemaOne => Some("push the image again with a current builder".to_owned()),
            Self::NotAnImage { .. } => {
                Some("the reference names another kind of artifact; name a container image".to_owned())
            }
            Self::ForeignLayer { .. } => {
                Some("push the image again with its non-distributable layers included".to_owned())
            }
            Self::UnknownLayer { .. } => {
                Some("name a container image; artifacts of other kinds have no files to boot from".to_owned())
            }
            Self::Malformed { .. } | Self::Ambiguous { .. } | Self::LayerCount { .. } => {
                Some("the image is broken: build and push it again".to_owned())
            }
        }
    }
}

/// One entry of an index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexEntry {
    /// The manifest.
    pub descriptor: Descriptor,
    /// What it is for, where the index says so.
    pub platform: Option<Platform>,
}

/// An image for several platforms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index {
    /// In the index's order.
    pub entries: Vec<IndexEntry>,
}

impl Index {
    /// The entries that are for a platform, the best first: those whose platform is exactly the wanted one, then others
    /// that fit. The only entry of an index that names no platform counts as fitting: its config will tell.
    pub fn entries_for<'a>(&'a self, wanted: &'a Platform) -> impl Iterator<Item = &'a IndexEntry> {
        let is_exact = |entry: &IndexEntry| entry.platform.as_ref() == Some(wanted);
        let fits = |entry: &IndexEntry| match &entry.platform {
            Some(offered) => wanted.accepts(offered),
            None => self.entries.len() == 1,
        };
        let exact = self.entries.iter().filter(move |entry| is_exact(entry));
        exact.chain(self.entries.iter().filter(move |entry| !is_exact(entry) && fits(entry)))
    }
}

/// An image for one platform.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageManifest {
    /// The image config.
    pub config: Descriptor,
    /// The lowest layer first.
    pub layers: Vec<Descriptor>,
}

/// What a reference can stand for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
    /// Several platforms.
    Index(Index),
    /// One platform.
    Image(ImageManifest),
}

/// What Ferrovirt reads of an image config.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageConfig {
    /// What the image is for; `None` when the config does not say.
    pub platform: Option<Platform>,
    /// When it was built, RFC 3339, as written.
    pub created: Option<String>,
    /// Labels, sorted by key.
    pub labels: std::collections::BTreeMap<String, String>,
    /// Digests of the uncompressed layers, the lowest first.
    pub diff_ids: Vec<Digest>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDocument {
    schema_version: Option<u32>,
    media_type: Option<String>,
    manifests: Option<Vec<RawEntry>>,
    config: Option<RawEntry>,
    layers: Option<Vec<RawEntry>>,
    fs_layers: Option<serde_json::Value>,
    artifact_type: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawEntry {
    #[serde(default)]
    media_type: String,
    digest: Digest,
    size: u64,
    platform: Option<RawPlatform>,
}

#[derive(Deserialize)]
struct RawPlatform {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    variant: Option<String>,
}

impl RawPlatform {
    fn parsed(self) -> Option<Platform> {
        let variant = self.variant.filter(|variant| !variant.is_empty());
        (!self.os.is_empty() && !self.architecture.is_empty()).then_some(Platform {
            os: self.os,
            architecture: self.architecture,
            variant,
        })
    }
}

impl RawEntry {
    fn descriptor(self) -> Descriptor {
        Descriptor { media_type: self.media_type, digest: self.digest, size_bytes: self.size }
    }
}

/// Reads an index or a manifest. `media_type` is what the registry said it is, if it said anything.
///
/// # Errors
///
/// See [`ManifestError`].
pub fn parse(bytes: &[u8], media_type: Option<&str>) -> Result<Document, ManifestError> {
    let raw: RawDocument = serde_json::from_slice(bytes)
        .map_err(|source| ManifestError::Malformed { what: "manifest", source })?;
    let said = media_type
        .map(|text| text.split(';').next().unwrap_or_default().trim())
        .filter(|text| is_known(text));
    let written = raw.media_type.as_deref().filter(|text| !text.is_empty());
    if let (Some(said), Some(written)) = (said, written)
        && said != written
    {
        return Err(ManifestError::Ambiguous {
            reason: format!("served as `{said}`, but it calls itself `{written}`"),
        });
    }
    if raw.schema_version == Some(1) && raw.fs_layers.is_some() {
        return Err(ManifestError::SchemaOne);
    }
    if raw.manifests.is_some() && (raw.layers.is_some() || raw.config.is_some()) {
        return Err(ManifestError::Ambiguous { reason: "it has both `manifests` and `layers`".to_owned() });
    }
    let kind = said.or(written).unwrap_or_default().to_owned();
    if let Some(manifests) = raw.manifests
        && matches!(kind.as_str(), OCI_INDEX | DOCKER_LIST | "")
    {
        let entries = manifests
            .into_iter()
            .map(|mut entry| {
                let platform = entry.platform.take().and_then(RawPlatform::parsed);
                IndexEntry { descriptor: entry.descriptor(), platform }
            })
            .collect();
        return Ok(Document::Index(Index { entries }));
    }
    if let (Some(config), Some(layers)) = (raw.config, raw.layers)
        && matches!(kind.as_str(), OCI_MANIFEST | DOCKER_MANIFEST | "")
    {
        if !matches!(config.media_type.as_str(), OCI_CONFIG | DOCKER_CONFIG) {
            let media_type = raw.artifact_type.filter(|text| !text.is_empty()).unwrap_or(config.media_type);
            return Err(ManifestError::NotAnImage { media_type });
        }
        let layers: Vec<Descriptor> = layers.into_iter().map(RawEntry::descriptor).collect();
        for layer in &layers {
            check_layer(layer)?;
        }
        return Ok(Document::Image(ImageManifest { config: config.descriptor(), layers }));
    }
    let media_type = if kind.is_empty() { "a document without media type".to_owned() } else { kind };
    Err(ManifestError::NotAnImage { media_type })
}

fn is_known(media_type: &str) -> bool {
    matches!(media_type, OCI_INDEX | OCI_MANIFEST | DOCKER_LIST | DOCKER_MANIFEST)
}

fn check_layer(layer: &Descriptor) -> Result<(), ManifestError> {
    let kind = layer.media_type.as_str();
    let digest = || layer.digest.clone();
    if kind.contains(".nondistributable.") || kind.contains(".foreign.") {
        return Err(ManifestError::ForeignLayer { digest: digest(), media_type: kind.to_owned() });
    }
    let is_file_system = kind.starts_with("application/vnd.oci.image.layer.v1.tar")
        || kind.starts_with("application/vnd.docker.image.rootfs.diff.tar");
    if !is_file_system || kind.ends_with("+encrypted") {
        return Err(ManifestError::UnknownLayer { digest: digest(), media_type: kind.to_owned() });
    }
    Ok(())
}

#[derive(Deserialize)]
struct RawConfig {
    #[serde(flatten)]
    platform: RawPlatform,
    created: Option<String>,
    config: Option<RawRuntime>,
    rootfs: Option<RawRootFilesystem>,
}

#[derive(Deserialize)]
struct RawRuntime {
    #[serde(rename = "Labels")]
    labels: Option<std::collections::BTreeMap<String, String>>,
}

#[derive(Deserialize)]
struct RawRootFilesystem {
    #[serde(default)]
    diff_ids: Vec<Digest>,
}

/// Reads an image config.
///
/// # Errors
///
/// It is malformed.
pub fn parse_config(bytes: &[u8]) -> Result<ImageConfig, ManifestError> {
    let raw: RawConfig = serde_json::from_slice(bytes)
        .map_err(|source| ManifestError::Malformed { what: "image config", source })?;
    Ok(ImageConfig {
        platform: raw.platform.parsed(),
        created: raw.created,
        labels: raw.config.and_then(|config| config.labels).unwrap_or_default(),
        diff_ids: raw.rootfs.map(|rootfs| rootfs.diff_ids).unwrap_or_default(),
    })
}
