//! The client side of the Distribution specification v2.
//!
//! A [`Client`] is cheap to clone; clones share connections, tokens and what was learned about each host.

mod error;

use std::{io, path::Path, sync::Arc, time::Duration};

pub use self::error::RegistryError;
use crate::{
    credentials::PullSecret,
    digest::{Descriptor, Digest},
    reference::Reference,
    settings::RegistrySettings,
};

/// Takes in a blob while it is downloaded. The sink hashes and verifies what it is given; the client sees to it that
/// it is never given more bytes than the descriptor declares, nor told that a blob with fewer is complete.
pub trait BlobSink: Send {
    /// How many bytes the sink holds; a download goes on from there.
    fn received(&self) -> u64;

    /// Takes in the next bytes.
    ///
    /// # Errors
    /// When they cannot be kept, for instance on a full disk; the download ends with [`RegistryError::Sink`].
    fn write(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Forgets everything: the next write is the blob's first byte.
    ///
    /// # Errors
    /// When the storage cannot be emptied.
    fn restart(&mut self) -> io::Result<()>;
}

/// Hears what happens on the way that is worth telling a person.
pub trait Listener: Send + Sync {
    /// A request about `what` failed for a reason that may pass and is made again after `delay`.
    fn retrying(&self, what: &str, attempt: u32, delay: Duration, reason: &str);

    /// Something odd that does no harm by itself, such as a mirror that failed before another answered.
    fn warning(&self, text: &str);
}

/// One place that may hold an image: a registry, or a mirror of it, and the repository's name there.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// The registry as configured: `docker.io`, `localhost:5000`.
    pub registry: String,
    /// The repository there.
    pub repository: String,
}

/// A manifest (or index) as a registry served it.
#[derive(Clone, Debug)]
pub struct FetchedManifest {
    /// The manifest, byte for byte; empty when `unchanged`.
    pub bytes: Vec<u8>,
    /// Its media type; empty when `unchanged`.
    pub media_type: String,
    /// Its digest, computed from the bytes and not merely claimed (when `unchanged`, the one that was known).
    pub digest: Digest,
    /// Where it came from; blobs are to be asked for there.
    pub endpoint: Endpoint,
    /// Whether the registry says that the reference still means the known digest. Nothing was downloaded then.
    pub unchanged: bool,
}

/// A registry client. Clones share everything but the listener and the request count.
#[derive(Clone)]
pub struct Client {}

impl Client {
    /// A client under the given settings. Opens no connection and reads no file but those of registries.conf(5).
    ///
    /// # Errors
    /// When a configuration file is malformed.
    pub fn new(settings: RegistrySettings) -> Result<Self, RegistryError> {
        let _ = settings;
        Ok(Self {})
    }

    /// The same client reporting to `listener`, its own request count starting at zero.
    pub fn with_listener(&self, listener: Arc<dyn Listener>) -> Self {
        let _ = listener;
        self.clone()
    }

    /// How many HTTP requests this client (not its clones made by [`Client::with_listener`]) has sent.
    pub fn requests(&self) -> u32 {
        0
    }

    /// The places that may hold `reference`, in the order in which they are to be asked. No request is made.
    ///
    /// # Errors
    /// When registries.conf(5) blocks the registry or cannot resolve a short name.
    pub fn endpoints(&self, reference: &Reference) -> Result<Vec<Endpoint>, RegistryError> {
        let _ = reference;
        Ok(Vec::new())
    }

    /// Fetches the manifest of `reference`, from mirrors first where there are any.
    ///
    /// With a `known` digest one `HEAD` request learns whether the reference still means it; only when it does not is
    /// the manifest downloaded.
    ///
    /// # Errors
    /// See [`RegistryError`].
    pub async fn manifest(
        &self,
        reference: &Reference,
        known: Option<&Digest>,
        secrets: &[PullSecret],
    ) -> Result<FetchedManifest, RegistryError> {
        let _ = (reference, known, secrets);
        Err(RegistryError::Unfinished)
    }

    /// Downloads a blob into `sink`, resuming from what the sink already has.
    ///
    /// # Errors
    /// See [`RegistryError`].
    pub async fn blob(
        &self,
        source: &Endpoint,
        descriptor: &Descriptor,
        sink: &mut dyn BlobSink,
        secrets: &[PullSecret],
    ) -> Result<(), RegistryError> {
        let _ = (source, descriptor, sink, secrets);
        Err(RegistryError::Unfinished)
    }

    /// The place to which `reference` is pushed: mirrors play no part.
    ///
    /// # Errors
    /// When registries.conf(5) blocks the registry.
    pub fn push_endpoint(&self, reference: &Reference) -> Result<Endpoint, RegistryError> {
        let _ = reference;
        Err(RegistryError::Unfinished)
    }

    /// Whether the repository already has a blob.
    ///
    /// # Errors
    /// See [`RegistryError`].
    pub async fn blob_exists(
        &self,
        target: &Endpoint,
        digest: &Digest,
        secrets: &[PullSecret],
    ) -> Result<bool, RegistryError> {
        let _ = (target, digest, secrets);
        Err(RegistryError::Unfinished)
    }

    /// Uploads the file at `path`, whose content `descriptor` describes. `sent` hears the total of bytes sent so far.
    ///
    /// # Errors
    /// See [`RegistryError`].
    pub async fn push_blob(
        &self,
        target: &Endpoint,
        descriptor: &Descriptor,
        path: &Path,
        sent: Arc<dyn Fn(u64) + Send + Sync>,
        secrets: &[PullSecret],
    ) -> Result<(), RegistryError> {
        let _ = (target, descriptor, path, sent, secrets);
        Err(RegistryError::Unfinished)
    }

    /// Uploads a manifest under `selector`, a tag or a digest. Returns its digest.
    ///
    /// # Errors
    /// See [`RegistryError`].
    pub async fn push_manifest(
        &self,
        target: &Endpoint,
        selector: &str,
        media_type: &str,
        bytes: &[u8],
        secrets: &[PullSecret],
    ) -> Result<Digest, RegistryError> {
        let _ = (target, selector, media_type, bytes, secrets);
        Err(RegistryError::Unfinished)
    }
}
