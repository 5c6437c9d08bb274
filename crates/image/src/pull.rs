//! Pulling: a reference becomes files in the store.
//!
//! ```text
//! record ── policy ──► manifest ──► platform ──► files known? ── yes ──► verified again ──────────────┐
//!           (none,     (index)                        no                                               ├──► record
//!            HEAD,                                    └──► config ──► layers, top down ──► files ──────┘
//!            GET)                                              (Everything: config and layers, side by side)
//! ```
//!
//! # Guarantees
//!
//! - What is returned was verified during this pull, and stays in the store while its lease lives.
//! - A record changes only when the pull succeeded: a failed pull leaves the reference meaning what it meant, with whatever
//!   arrived kept for the next try.
//! - An unchanged tag under [`PullPolicy::Always`] costs one manifest request; the files are verified meanwhile.

use std::fmt;
use std::panic::resume_unwind;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;

use tokio::sync::mpsc;

use crate::client::{Client, RegistryError};
use crate::credentials::PullSecret;
use crate::digest::Digest;
use crate::layer::LayerLimits;
use crate::manifest::ManifestError;
use crate::platform::Platform;
use crate::reference::{DEFAULT_TAG, Reference};
use crate::store::{ImageRecord, Lease, Store, StoreError, UsedImage};

mod fact_cache;
mod files;
mod manifests;
mod patience;
mod transfer;
mod writer_thread;

use manifests::ChosenImage;
use transfer::Context;

/// When a registry is asked, as Kubernetes defines it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PullPolicy {
    /// At every pull: what the reference means is asked; content that is in the store is not fetched again.
    Always,
    /// Only when the image, or a part of it that is needed now, is not in the store.
    IfNotPresent,
    /// Never.
    Never,
}

impl PullPolicy {
    /// What Kubernetes takes when none is given: `Always` for the tag `latest`, given or implied, else `IfNotPresent`.
    ///
    /// The tag alone decides, and none is implied beside a digest: so `a:latest@sha256:…` is `Always` and `a@sha256:…` is
    /// not (`SetDefaults_Container` of the Kubernetes API server, with `ParseImageName`).
    #[must_use]
    pub fn default_for(reference: &Reference) -> Self {
        match reference.tag() {
            Some(DEFAULT_TAG) => Self::Always,
            _ => Self::IfNotPresent,
        }
    }
}

impl fmt::Display for PullPolicy {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Always => "Always",
            Self::IfNotPresent => "IfNotPresent",
            Self::Never => "Never",
        })
    }
}

/// A file wanted out of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantedFile {
    /// What the caller calls it: `kernel`, `initrd`. Appears in errors.
    pub role: String,
    /// Where it is in the image.
    pub path: String,
}

/// What is wanted of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// Every blob, as it is in the registry.
    Everything,
    /// These files, and no more of the image than it takes to find them.
    Files(Vec<WantedFile>),
}

/// One pull.
#[derive(Clone)]
pub struct PullRequest {
    /// The image.
    pub reference: Reference,
    /// When to ask the registry.
    pub policy: PullPolicy,
    /// What is wanted of it.
    pub wanted: Wanted,
    /// Which of several platforms.
    pub platform: Platform,
    /// Credentials that come before the machine's own.
    pub secrets: Vec<PullSecret>,
}

/// What came of a pull.
#[derive(Debug)]
pub struct PulledImage {
    /// Its full name: what was asked for, unless that was a short name that registries.conf(5) has an alias or a
    /// registry for. What the store has is under this name.
    pub reference: Reference,
    /// Digest of what the reference means: an index or a manifest.
    pub manifest_digest: Digest,
    /// Digest of the manifest of the platform.
    pub platform_digest: Digest,
    /// What the reference meant when it was last used (for files: when files were last taken from it), if that was something
    /// else.
    pub previous_digest: Option<Digest>,
    /// Files of the previous image with the roles that they had, those that are still in the store. Under the same lease.
    pub previous_files: Vec<PulledFile>,
    /// In the order of the request.
    pub files: Vec<PulledFile>,
    /// HTTP requests that were made.
    pub requests: u32,
    /// Bytes of blobs and manifests that came over the network.
    pub bytes_fetched: u64,
    /// Whether no blob was fetched.
    pub from_cache: bool,
    /// Keeps all of it in the store; dropped, it may be pruned.
    pub lease: Lease,
}

/// A file taken out of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PulledFile {
    /// As in [`WantedFile`].
    pub role: String,
    /// The path as asked for.
    pub requested: String,
    /// The path of the regular file that it leads to, absolute in the image.
    pub resolved: String,
    /// Where the content is in the store; mode 0444.
    pub path: PathBuf,
    /// Digest of the content.
    pub digest: Digest,
    /// CRC-32 (IEEE) of the content, by which it was verified.
    pub crc32: u32,
    /// Length in bytes.
    pub size_bytes: u64,
    /// Owner in the image.
    pub uid: u32,
    /// Group in the image.
    pub gid: u32,
    /// Permission bits in the image, at most 0o7777.
    pub mode: u32,
}

/// Something that happened during a pull.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum PullEvent {
    /// The registry is being asked what the reference means.
    Resolving,
    /// It is known.
    ManifestFetched {
        /// Digest of the index or manifest.
        digest: Digest,
    },
    /// A layer begins to arrive.
    LayerStarted {
        /// The layer.
        digest: Digest,
        /// Its length in bytes.
        total: u64,
    },
    /// More of a layer is there.
    LayerProgress {
        /// The layer.
        digest: Digest,
        /// Bytes that are there.
        done: u64,
    },
    /// A layer is in the store.
    LayerDone {
        /// The layer.
        digest: Digest,
        /// Whether it was there before.
        cached: bool,
    },
    /// A layer is searched.
    Extracting {
        /// The layer.
        digest: Digest,
    },
    /// A request failed for a reason that may pass.
    Retrying {
        /// What was requested.
        what: String,
        /// Which attempt failed, counted from one.
        attempt: u32,
        /// Why.
        reason: String,
    },
    /// Something odd that does no harm by itself.
    Warning(String),
}

/// Hears what happens during a pull. Called from several threads.
pub trait PullProgress: Send + Sync {
    /// Takes one event. Must not block.
    fn event(&self, event: PullEvent);
}

/// For callers that do not care.
impl PullProgress for () {
    fn event(&self, _: PullEvent) {}
}

/// Why a pull failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PullError {
    /// The registry.
    #[error("cannot pull image `{reference}`")]
    Registry {
        /// The image.
        reference: String,
        /// Whether everything that was asked for is in the store.
        cached: bool,
        /// Why.
        #[source]
        source: Box<RegistryError>,
    },
    /// The store.
    #[error("cannot keep image `{reference}`")]
    Store {
        /// The image.
        reference: String,
        /// Why.
        #[source]
        source: StoreError,
    },
    /// The manifest or config.
    #[error("cannot use image `{reference}`")]
    Manifest {
        /// The image.
        reference: String,
        /// Why.
        #[source]
        source: ManifestError,
    },
    /// The index has nothing for the platform.
    #[error("image `{reference}` has no matching platform: `{wanted}` is wanted, there are {present}")]
    NoPlatform {
        /// The image.
        reference: String,
        /// What was asked for.
        wanted: Platform,
        /// What there is, as a list for people.
        present: String,
    },
    /// Policy `Never`, and the image is not in the store.
    #[error("image `{reference}` is not in the image store and the pull policy is `Never`")]
    NeverAndAbsent {
        /// The image.
        reference: String,
    },
    /// Policy `Never`, and a part of the image that is needed is not in the store.
    #[error("`{digest}` of image `{reference}` is not in the image store and the pull policy is `Never`")]
    NeverAndIncomplete {
        /// The image.
        reference: String,
        /// The missing manifest, config or layer.
        digest: Digest,
    },
    /// A layer cannot be read.
    #[error("cannot read layer `{layer}` of image `{reference}`")]
    Layer {
        /// The image.
        reference: String,
        /// The layer.
        layer: Digest,
        /// Why.
        #[source]
        source: crate::layer::LayerError,
    },
    /// A path does not lead to a usable file.
    #[error("cannot use `{path}` in image `{reference}` as {role}")]
    Path {
        /// The image.
        reference: String,
        /// The role of the file.
        role: String,
        /// The path as asked for.
        path: String,
        /// Why.
        #[source]
        source: crate::resolve::ResolveError,
    },
    /// A registry serves content that has another digest, twice.
    #[error(
        "the registry sends corrupted content for `{digest}` of image `{reference}`: it has the digest `{actual}`"
    )]
    CorruptedBlob {
        /// The image.
        reference: String,
        /// The blob.
        digest: Digest,
        /// What arrived.
        actual: String,
    },
    /// A blob in the store is damaged again as soon as it is there.
    #[error("`{digest}` of image `{reference}` does not stay intact in the image store")]
    UnstableStore {
        /// The image.
        reference: String,
        /// The blob.
        digest: Digest,
    },
    /// Another process downloads a blob and does not come further.
    #[error(
        "another process has `{digest}` of image `{reference}` half downloaded and got nothing more of it for \
         {still_seconds} seconds"
    )]
    StuckElsewhere {
        /// The image.
        reference: String,
        /// The blob.
        digest: Digest,
        /// The partial download, which that process has locked.
        path: PathBuf,
        /// How long it has not grown.
        still_seconds: u64,
    },
    /// A blocking task was cancelled, which happens only while the program ends.
    #[error("pulling image `{reference}` was interrupted")]
    Interrupted {
        /// The image.
        reference: String,
    },
}

impl PullError {
    /// What the user can do about it, if anything.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Registry { cached: true, .. } => Some(
                "what is needed is in the image store: with the pull policy `IfNotPresent` it is used without asking"
                    .to_owned(),
            ),
            Self::Registry { source, .. } => source.hint(),
            Self::Store { source, .. } => source.hint(),
            Self::Manifest { source, .. } => source.hint(),
            Self::NoPlatform { wanted, .. } => Some(format!("build and push the image for `{wanted}`")),
            Self::NeverAndAbsent { reference } | Self::NeverAndIncomplete { reference, .. } => {
                Some(format!("run `ferrovirt image pull {reference}`, or use the pull policy `IfNotPresent`"))
            }
            Self::Layer { source, .. } => source.hint(),
            Self::Path { source, .. } => source.hint(),
            Self::CorruptedBlob { .. } => {
                Some("something between here and the registry, or the registry itself, damages data: push the image again".to_owned())
            }
            Self::UnstableStore { .. } => Some("check the disk and the memory of this machine".to_owned()),
            Self::StuckElsewhere { path, .. } => Some(format!(
                "find the process with `fuser {}`; end it if it is stopped",
                path.display()
            )),
            Self::Interrupted { .. } => None,
        }
    }
}

/// Pulls images into one store through one client.
#[derive(Clone)]
pub struct Images {
    store: Store,
    client: Client,
    limits: LayerLimits,
}

impl Images {
    /// Pulls go through `client` into `store`, within the default [`LayerLimits`].
    #[must_use]
    pub fn new(store: Store, client: Client) -> Self {
        Self { store, client, limits: LayerLimits::default() }
    }

    /// The same with other limits.
    #[must_use]
    pub fn with_limits(self, limits: LayerLimits) -> Self {
        Self { limits, ..self }
    }

    /// The store.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Pulls an image as far as it is wanted.
    ///
    /// # Errors
    ///
    /// See [`PullError`]. What arrived until then stays in the store for the next try.
    pub async fn pull(
        &self,
        request: &PullRequest,
        progress: &dyn PullProgress,
    ) -> Result<PulledImage, PullError> {
        // Transfers are tasks of their own, to use more than one core; what they tell comes back over a channel.
        let (events, mut heard) = mpsc::unbounded_channel();
        let (images, asked) = (self.clone(), request.clone());
        let context = match tokio::task::spawn_blocking(move || Context::new(&images, &asked, events)).await {
            Ok(context) => context?,
            Err(error) if error.is_panic() => resume_unwind(error.into_panic()),
            Err(_) => return Err(PullError::Interrupted { reference: request.reference.to_string() }),
        };
        let mut work = pin!(run(Arc::new(context), request.wanted.clone()));
        let outcome = loop {
            tokio::select! {
                biased;
                Some(event) = heard.recv() => progress.event(event),
                outcome = &mut work => break outcome,
            }
        };
        while let Ok(event) = heard.try_recv() {
            progress.event(event);
        }
        outcome
    }
}

async fn run(context: Arc<Context>, wanted: Wanted) -> Result<PulledImage, PullError> {
    let record = context.store.record(&context.recorded_name).map_err(context.in_store())?;
    let mut verifications = files::Verifications::default();
    if let (Wanted::Files(wanted), Some(used)) =
        (&wanted, record.as_ref().and_then(|record| record.used.as_ref()))
    {
        // Most likely nothing has changed: hash what is there while the registry is asked.
        files::verify_early(&context, &used.platform_digest, wanted, &mut verifications).await?;
    }
    let chosen = match manifests::choose(&context, record.as_ref()).await {
        Ok(chosen) => chosen,
        Err(PullError::Registry { reference, source, .. }) => {
            let cached = record.is_some() && verifications.are_intact().await;
            return Err(PullError::Registry { reference, cached, source });
        }
        Err(error) => return Err(error),
    };
    let files = match &wanted {
        Wanted::Everything => {
            transfer::fetch_everything(&context, &chosen.image).await?;
            Vec::new()
        }
        Wanted::Files(wanted) => files::obtain(&context, &chosen, wanted, &mut verifications).await?,
    };
    context.wait_for_disk().await?;
    let (previous_digest, previous_files) = previous(&context, record.as_ref(), &chosen, &wanted).await?;
    let record = match *context.name() == context.recorded_name {
        true => record,
        false => context.store.record(context.name()).map_err(context.in_store())?,
    };
    remember(&context, record, &chosen, &wanted)?;
    Ok(PulledImage {
        reference: context.name().clone(),
        manifest_digest: chosen.manifest_digest,
        platform_digest: chosen.platform_digest,
        previous_digest,
        previous_files,
        files,
        requests: context.client.requests(),
        bytes_fetched: context.fetched_bytes(),
        from_cache: context.fetched_blobs() == 0,
        lease: context.lease.clone(),
    })
}

/// What the reference meant when it was last used, if that was something else, and the files it had then.
async fn previous(
    context: &Context,
    record: Option<&ImageRecord>,
    chosen: &ChosenImage,
    wanted: &Wanted,
) -> Result<(Option<Digest>, Vec<PulledFile>), PullError> {
    let Some(record) = record else {
        return Ok((None, Vec::new()));
    };
    if *wanted == Wanted::Everything {
        let changed = record.manifest_digest != chosen.manifest_digest;
        return Ok((changed.then(|| record.manifest_digest.clone()), Vec::new()));
    }
    let Some(used) = record.used.as_ref().filter(|used| used.manifest_digest != chosen.manifest_digest)
    else {
        return Ok((None, Vec::new()));
    };
    let mut files = Vec::new();
    for (role, path) in &used.files {
        let found = context.store.resolved_file(&used.platform_digest, path).map_err(context.in_store())?;
        if let Some(found) = found {
            context.claim(vec![found.digest.clone()]).await?;
            let file = files::pulled(context, role, found);
            if file.path.is_file() {
                files.push(file);
            }
        }
    }
    Ok((Some(used.manifest_digest.clone()), files))
}

/// Notes what the reference means now, and that it was used.
fn remember(
    context: &Context,
    record: Option<ImageRecord>,
    chosen: &ChosenImage,
    wanted: &Wanted,
) -> Result<(), PullError> {
    let used = match wanted {
        Wanted::Everything => record.as_ref().and_then(|record| record.used.clone()),
        Wanted::Files(files) => Some(UsedImage {
            manifest_digest: chosen.manifest_digest.clone(),
            platform_digest: chosen.platform_digest.clone(),
            files: files.iter().map(|file| (file.role.clone(), file.path.clone())).collect(),
        }),
    };
    let new = ImageRecord {
        reference: context.name().to_string(),
        manifest_digest: chosen.manifest_digest.clone(),
        used,
    };
    // Pruning may have taken the record before the lease named what it stands for.
    let is_noted = record.as_ref() == Some(&new)
        && context.store.touch_record(context.name()).map_err(context.in_store())?.is_some();
    if is_noted {
        return Ok(());
    }
    context.store.put_record(context.name(), &new, context.durability).map_err(context.in_store())
}
