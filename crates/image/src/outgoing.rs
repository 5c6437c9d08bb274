//! An image in the store that is to leave it whole, to a registry or into an archive.
//!
//! A pull for a boot fetches only what the boot needs, so an image in the store may lack layers. That is
//! found out here, before anything is sent or written. What was found present is leased, so that pruning does
//! not take it away meanwhile.

use serde::Deserialize;

use crate::digest::{Descriptor, Digest};
use crate::manifest::{DOCKER_CONFIG, DOCKER_MANIFEST, DOCUMENT_LIMIT_BYTES, OCI_MANIFEST};
use crate::platform::Platform;
use crate::reference::Reference;
use crate::store::{Lease, Store, StoreError};

/// An image all of whose parts were present when it was looked at, and stay.
#[derive(Debug)]
pub(crate) struct OutgoingImage {
    /// The manifest of the one platform.
    pub(crate) manifest: Descriptor,
    /// The manifest's bytes.
    pub(crate) manifest_bytes: Vec<u8>,
    pub(crate) config: Descriptor,
    /// The lowest first; a layer may be there twice.
    pub(crate) layers: Vec<Descriptor>,
    _lease: Lease,
}

impl OutgoingImage {
    /// The config and the layers, each once.
    pub(crate) fn blobs(&self) -> Vec<&Descriptor> {
        let mut blobs: Vec<&Descriptor> = Vec::with_capacity(self.layers.len() + 1);
        for blob in self.layers.iter().chain([&self.config]) {
            if blobs.iter().all(|known| known.digest != blob.digest) {
                blobs.push(blob);
            }
        }
        blobs
    }
}

/// Why an image cannot leave the store.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OutgoingError {
    /// The store does not know the name, or has no manifest of that platform under it.
    #[error("image `{reference}` for {platform} is not in the image store")]
    Unknown {
        /// The reference asked for.
        reference: String,
        /// The platform asked for.
        platform: Platform,
    },
    /// Parts of the image were never fetched, or were found corrupted and removed.
    #[error(
        "image `{reference}` is not complete in the image store: `{first_missing}` is missing{}",
        and_more(*.missing_count)
    )]
    Incomplete {
        /// The reference asked for.
        reference: String,
        /// One of the missing blobs.
        first_missing: Digest,
        /// How many blobs are missing.
        missing_count: usize,
    },
    /// The store cannot be read.
    #[error("cannot read image `{reference}` from the image store")]
    Store {
        /// The reference asked for.
        reference: String,
        /// Why; boxed to keep this error small beside the others that hold it.
        source: Box<StoreError>,
    },
}

fn and_more(missing_count: usize) -> String {
    if missing_count > 1 { format!(", and {} more", missing_count - 1) } else { String::new() }
}

impl OutgoingError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Unknown { .. } => Some("`ferrovirt image ls` lists the images that are there".to_owned()),
            Self::Incomplete { reference, .. } => {
                Some(format!("fetch all of it with `ferrovirt image pull {reference}`, or build it again"))
            }
            Self::Store { source, .. } => source.hint(),
        }
    }
}

/// Finds an image and makes sure that all of it is there. Reads the manifest; of the other blobs it looks
/// only at presence and size, their bytes have to be verified by who reads them.
pub(crate) fn find(
    store: &Store,
    reference: &Reference,
    platform: &Platform,
) -> Result<OutgoingImage, OutgoingError> {
    let in_store =
        |source| OutgoingError::Store { reference: reference.to_string(), source: Box::new(source) };
    let unknown = || OutgoingError::Unknown { reference: reference.to_string(), platform: platform.clone() };
    let lease = store.lease().map_err(in_store)?;
    let (digest, image) = store.image_manifest(reference, platform).map_err(in_store)?.ok_or_else(unknown)?;
    lease
        .add(image.layers.iter().map(|layer| &layer.digest).chain([&digest, &image.config.digest]))
        .map_err(in_store)?;
    // Only what is seen after it was leased is sure to stay.
    let manifest_bytes =
        store.read_blob(&digest, DOCUMENT_LIMIT_BYTES).map_err(in_store)?.ok_or_else(unknown)?;
    let media_type = media_type(&manifest_bytes, &image.config).to_owned();
    let manifest = Descriptor { media_type, digest, size_bytes: manifest_bytes.len() as u64 };
    let outgoing =
        OutgoingImage { manifest, manifest_bytes, config: image.config, layers: image.layers, _lease: lease };
    let mut missing =
        outgoing.blobs().into_iter().filter(|blob| !store.has_blob(&blob.digest, Some(blob.size_bytes)));
    if let Some(first) = missing.next() {
        return Err(OutgoingError::Incomplete {
            reference: reference.to_string(),
            first_missing: first.digest.clone(),
            missing_count: 1 + missing.count(),
        });
    }
    drop(missing);
    Ok(outgoing)
}

/// The media type that a manifest has to be sent as. OCI lets it leave its own out; then the config's kind
/// tells.
fn media_type(manifest_bytes: &[u8], config: &Descriptor) -> &'static str {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Named {
        media_type: Option<String>,
    }
    let named = serde_json::from_slice(manifest_bytes).ok().and_then(|named: Named| named.media_type);
    match named.as_deref() {
        Some(DOCKER_MANIFEST) => DOCKER_MANIFEST,
        Some(_) => OCI_MANIFEST,
        None if config.media_type == DOCKER_CONFIG => DOCKER_MANIFEST,
        None => OCI_MANIFEST,
    }
}
