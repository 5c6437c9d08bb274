//! Sends an image from the store to a registry.
//!
//! ```text
//! find the image, whole ──► each blob: ask ──► there: skip │ not there: verify, upload ──► manifest, last
//! ```
//!
//! The manifest goes last, so the reference never names an image whose parts are missing. A push that was
//! interrupted is simply done again: what arrived the first time is found there and skipped. Requests that
//! fail for a reason that may pass are repeated by the client.
//!
//! Only one platform's image is sent, also when the store knows its name as an index of several.

use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, StreamExt, TryStreamExt};

use crate::client::{Client, Endpoint, Listener, RegistryError};
use crate::credentials::PullSecret;
use crate::digest::{Descriptor, Digest};
use crate::outgoing::{self, OutgoingError};
use crate::platform::Platform;
use crate::reference::Reference;
use crate::store::{Area, Store, StoreError, Verification};

/// How many blobs are under way at once. More does not help: one upload already fills most links.
const PARALLEL_BLOBS: usize = 3;

/// What to push.
#[derive(Clone)]
pub struct PushRequest {
    /// The image's name in the store.
    pub image: Reference,
    /// Where it is to go, usually the same name.
    pub destination: Reference,
    /// Which platform's image, where the name stands for several.
    pub platform: Platform,
    /// Credentials to try before those of the user's configuration.
    pub secrets: Vec<PullSecret>,
}

/// What happens during a push.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PushEvent {
    /// The registry does not have a blob; its upload begins.
    BlobStarted {
        /// The blob.
        digest: Digest,
        /// Its size in bytes.
        total_bytes: u64,
    },
    /// More of a blob was sent.
    BlobProgress {
        /// The blob.
        digest: Digest,
        /// Bytes sent so far; falls back when an upload begins anew.
        sent_bytes: u64,
    },
    /// The registry has a blob.
    BlobDone {
        /// The blob.
        digest: Digest,
        /// How it came to have it.
        outcome: BlobOutcome,
    },
    /// A request failed and is made again.
    Retrying {
        /// What was requested.
        what: String,
        /// Which attempt is next.
        attempt: u32,
        /// The pause before it.
        delay: Duration,
        /// Why the last one failed.
        reason: String,
    },
    /// Something odd that does no harm by itself.
    Warning(String),
}

/// How the registry came to have a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlobOutcome {
    /// It was uploaded now.
    Uploaded,
    /// It was there before.
    AlreadyThere,
}

/// Hears what happens during a push.
pub trait PushProgress: Send + Sync {
    /// Called from any thread, in the order of events for each blob.
    fn event(&self, event: PushEvent);
}

/// A pushed image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PushedImage {
    /// Digest of the manifest as the registry has it.
    pub digest: Digest,
    /// Bytes of blobs that were uploaded.
    pub uploaded_bytes: u64,
    /// Blobs that the registry had already.
    pub skipped_blobs: usize,
}

/// Why an image was not pushed. The destination still names what it named before.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PushError {
    /// The image cannot leave the store.
    #[error("cannot push `{destination}`")]
    Image {
        /// Where it was to go.
        destination: String,
        /// Why.
        source: OutgoingError,
    },
    /// The destination is pinned to another image.
    #[error("cannot push `{destination}`: the image has the digest `{actual}`")]
    OtherDigest {
        /// Where it was to go.
        destination: String,
        /// The image's digest.
        actual: Digest,
    },
    /// A blob in the store is not what it should be. It has been removed.
    #[error("cannot push `{destination}`: blob `{digest}` was corrupted in the image store")]
    Corrupted {
        /// Where it was to go.
        destination: String,
        /// The blob.
        digest: Digest,
        /// The image's name in the store.
        image: String,
    },
    /// A blob in the store cannot be read.
    #[error("cannot push `{destination}`")]
    Store {
        /// Where it was to go.
        destination: String,
        /// Why.
        source: StoreError,
    },
    /// A blocking task was cancelled, which happens only while the program ends.
    #[error("pushing `{destination}` was interrupted")]
    Interrupted {
        /// Where it was to go.
        destination: String,
    },
    /// The registry, or the way to it.
    #[error("cannot push `{destination}`")]
    Registry {
        /// Where it was to go.
        destination: String,
        /// Why.
        source: RegistryError,
    },
}

impl PushError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Image { source, .. } => source.hint(),
            Self::OtherDigest { .. } => Some("push to a tag: a digest names exactly one image".to_owned()),
            Self::Corrupted { image, .. } => {
                Some(format!("build it again, or fetch it again with `ferrovirt image pull {image}`"))
            }
            Self::Store { source, .. } => source.hint(),
            Self::Registry { source, .. } => source.hint(),
            Self::Interrupted { .. } => None,
        }
    }
}

/// Pushes an image.
///
/// # Errors
///
/// See [`PushError`].
pub async fn push(
    store: &Store,
    client: &Client,
    request: &PushRequest,
    progress: Arc<dyn PushProgress>,
) -> Result<PushedImage, PushError> {
    let destination = request.destination.to_string();
    let in_registry = |source| PushError::Registry { destination: request.destination.to_string(), source };
    // Reading one manifest and looking at a few files does not need a blocking thread.
    let image = outgoing::find(store, &request.image, &request.platform)
        .map_err(|source| PushError::Image { destination: destination.clone(), source })?;
    if let Some(pinned) = request.destination.digest()
        && *pinned != image.manifest.digest
    {
        return Err(PushError::OtherDigest { destination, actual: image.manifest.digest });
    }
    let client = client.with_listener(Arc::new(Retold(Arc::clone(&progress))));
    let endpoint = client.push_endpoint(&request.destination).map_err(in_registry)?;
    let job = Job { store, client: &client, request, endpoint: &endpoint, progress: &progress };
    let outcomes: Vec<(BlobOutcome, u64)> = stream::iter(image.blobs())
        .map(|blob| job.blob(blob))
        .buffer_unordered(PARALLEL_BLOBS)
        .try_collect()
        .await?;
    let digest = client
        .push_manifest(
            &endpoint,
            &request.destination.manifest_selector(),
            &image.manifest.media_type,
            &image.manifest_bytes,
            &request.secrets,
        )
        .await
        .map_err(in_registry)?;
    let uploaded = outcomes.iter().filter(|(outcome, _)| *outcome == BlobOutcome::Uploaded);
    let uploaded_bytes = uploaded.clone().map(|(_, size_bytes)| size_bytes).sum();
    let skipped_blobs = outcomes.len() - uploaded.count();
    Ok(PushedImage { digest, uploaded_bytes, skipped_blobs })
}

/// One push under way.
struct Job<'a> {
    store: &'a Store,
    client: &'a Client,
    request: &'a PushRequest,
    endpoint: &'a Endpoint,
    progress: &'a Arc<dyn PushProgress>,
}

impl Job<'_> {
    /// Sees to it that the registry has a blob. Returns how, and the blob's size in bytes.
    async fn blob(&self, blob: &Descriptor) -> Result<(BlobOutcome, u64), PushError> {
        let in_registry =
            |source| PushError::Registry { destination: self.request.destination.to_string(), source };
        let secrets = &self.request.secrets;
        let exists =
            self.client.blob_exists(self.endpoint, &blob.digest, secrets).await.map_err(in_registry)?;
        let outcome = if exists {
            BlobOutcome::AlreadyThere
        } else {
            self.verify(blob).await?;
            self.progress
                .event(PushEvent::BlobStarted { digest: blob.digest.clone(), total_bytes: blob.size_bytes });
            let (progress, digest) = (Arc::clone(self.progress), blob.digest.clone());
            let sent = Arc::new(move |sent_bytes| {
                progress.event(PushEvent::BlobProgress { digest: digest.clone(), sent_bytes });
            });
            let path = self.store.content_path(Area::Blobs, &blob.digest);
            self.client.push_blob(self.endpoint, blob, &path, sent, secrets).await.map_err(in_registry)?;
            BlobOutcome::Uploaded
        };
        self.progress.event(PushEvent::BlobDone { digest: blob.digest.clone(), outcome });
        Ok((outcome, blob.size_bytes))
    }

    /// Hashes a blob before it is sent: the registry would refuse it too, but only at the end and without
    /// saying what to do.
    async fn verify(&self, blob: &Descriptor) -> Result<(), PushError> {
        let destination = || self.request.destination.to_string();
        let (store, digest) = (self.store.clone(), blob.digest.clone());
        let verified = tokio::task::spawn_blocking(move || store.verify(Area::Blobs, &digest))
            .await
            .map_err(|_| PushError::Interrupted { destination: destination() })?;
        match verified.map_err(|source| PushError::Store { destination: destination(), source })? {
            Verification::Intact => Ok(()),
            Verification::Missing | Verification::Corrupted => Err(PushError::Corrupted {
                destination: destination(),
                digest: blob.digest.clone(),
                image: self.request.image.to_string(),
            }),
        }
    }
}

/// Passes on what the client has to say.
struct Retold(Arc<dyn PushProgress>);

impl Listener for Retold {
    fn retrying(&self, what: &str, attempt: u32, delay: Duration, reason: &str) {
        let (what, reason) = (what.to_owned(), reason.to_owned());
        self.0.event(PushEvent::Retrying { what, attempt, delay, reason });
    }

    fn warning(&self, text: &str) {
        self.0.event(PushEvent::Warning(text.to_owned()));
    }
}
