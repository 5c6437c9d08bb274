//! Blobs from a registry into the store.

use std::io;
use std::panic::resume_unwind;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, JoinSet};

use super::patience::{Patience, Verdict};
use super::writer_thread::WriterThread;
use super::{Images, PullError, PullEvent, PullPolicy, PullRequest, Wanted};
use crate::client::{BlobSink, Client, Endpoint, Listener, RegistryError};
use crate::credentials::PullSecret;
use crate::digest::{Descriptor, Digest};
use crate::layer::LayerLimits;
use crate::manifest::{DOCUMENT_LIMIT_BYTES, ImageManifest, ManifestError};
use crate::platform::Platform;
use crate::reference::Reference;
use crate::store::{
    Area, BlobFollower, BlobWriter, Download, Durability, Lease, Store, StoreError, Unsynced, sync_names,
};

/// Blobs that are fetched at the same time. More does not help on one connection's bandwidth, and registries limit it.
const CONCURRENT_BLOBS: usize = 4;

/// How often somebody else's download is looked at.
const BUSY_PAUSE: Duration = Duration::from_millis(30);

/// Bytes between two reports of progress.
const PROGRESS_BYTES: u64 = 512 << 10;

/// Downloads of one blob that arrive complete and wrong before the registry is blamed.
const DOWNLOADS: u32 = 2;

/// Everything that the parts of one pull share.
pub(super) struct Context {
    pub(super) store: Store,
    pub(super) client: Client,
    pub(super) reference: Reference,
    pub(super) policy: PullPolicy,
    pub(super) platform: Platform,
    pub(super) secrets: Vec<PullSecret>,
    pub(super) lease: Lease,
    pub(super) limits: LayerLimits,
    events: UnboundedSender<PullEvent>,
    /// The full name under which the image is in the store, if it is there, else the first that is possible.
    pub(super) recorded_name: Reference,
    /// Where the manifest came from.
    endpoint: OnceLock<Endpoint>,
    /// The full name under which a registry has it.
    name: OnceLock<Reference>,
    fetched_bytes: AtomicU64,
    fetched_blobs: AtomicU32,
    /// Whether a power cut after the pull may undo it. What is wanted for a boot right now waits for no disk.
    pub(super) durability: Durability,
    /// Blobs on their way to the disk.
    syncing: Mutex<Vec<JoinHandle<Result<PathBuf, StoreError>>>>,
}

/// Hands what the client tells to whoever follows the pull.
struct Forwarder {
    events: UnboundedSender<PullEvent>,
}

impl Listener for Forwarder {
    fn retrying(&self, what: &str, attempt: u32, _: Duration, reason: &str) {
        // Nobody listens any more once the pull was given up.
        let _ = self.events.send(PullEvent::Retrying {
            what: what.to_owned(),
            attempt,
            reason: reason.to_owned(),
        });
    }

    fn warning(&self, text: &str) {
        let _ = self.events.send(PullEvent::Warning(text.to_owned()));
    }
}

impl Context {
    pub(super) fn new(
        images: &Images,
        request: &PullRequest,
        events: UnboundedSender<PullEvent>,
    ) -> Result<Self, PullError> {
        let lease = images
            .store
            .lease()
            .map_err(|source| PullError::Store { reference: request.reference.to_string(), source })?;
        let names = images.client.names(&request.reference).map_err(|source| PullError::Registry {
            reference: request.reference.to_string(),
            cached: false,
            source: Box::new(source),
        })?;
        // Only a short name under a search list has several names; it stays short until a registry has it.
        let (reference, recorded_name) = match names.as_slice() {
            [name] => (name.clone(), name.clone()),
            _ => (request.reference.clone(), recorded_name(&images.store, &request.reference, &names)?),
        };
        Ok(Self {
            store: images.store.clone(),
            client: images.client.with_listener(Arc::new(Forwarder { events: events.clone() })),
            reference,
            recorded_name,
            policy: request.policy,
            platform: request.platform.clone(),
            secrets: request.secrets.clone(),
            lease,
            limits: images.limits,
            events,
            endpoint: OnceLock::new(),
            name: OnceLock::new(),
            fetched_bytes: AtomicU64::new(0),
            fetched_blobs: AtomicU32::new(0),
            durability: match request.wanted {
                Wanted::Everything => Durability::Synced,
                Wanted::Files(_) => Durability::Cache,
            },
            syncing: Mutex::default(),
        })
    }

    pub(super) fn event(&self, event: PullEvent) {
        // Nobody listens any more once the pull was given up.
        let _ = self.events.send(event);
    }

    pub(super) fn fetched_bytes(&self) -> u64 {
        self.fetched_bytes.load(Ordering::Relaxed)
    }

    pub(super) fn fetched_blobs(&self) -> u32 {
        self.fetched_blobs.load(Ordering::Relaxed)
    }

    pub(super) fn count_bytes(&self, bytes: u64) {
        self.fetched_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Blobs are asked for where the manifest came from.
    pub(super) fn came_from(&self, endpoint: Endpoint) {
        // A second manifest (a platform's, after the index) comes from the same place or one as good.
        let _ = self.endpoint.set(endpoint);
    }

    /// Where the first manifest came from, if one did.
    pub(super) fn source(&self) -> Option<&Endpoint> {
        self.endpoint.get()
    }

    /// Notes under which full name a registry has what the reference means.
    pub(super) fn is_called(&self, name: Reference) {
        // What the reference means is asked once.
        let _ = self.name.set(name);
    }

    /// The full name of the image, as far as it is known.
    pub(super) fn name(&self) -> &Reference {
        self.name.get().unwrap_or(&self.recorded_name)
    }

    /// What to call an image that is nowhere: a name that is still open stays as short as it was given.
    pub(super) fn wanted_name(&self) -> String {
        let tag = self.reference.tag().unwrap_or_default();
        match self.reference.short_name() {
            Some(short_name) if self.reference.digest().is_none() => format!("{short_name}:{tag}"),
            _ => self.reference.to_string(),
        }
    }

    /// For `map_err`.
    pub(super) fn in_store(&self) -> impl FnOnce(StoreError) -> PullError {
        let reference = self.reference.to_string();
        move |source| PullError::Store { reference, source }
    }

    /// For `map_err`.
    pub(super) fn in_registry(&self) -> impl FnOnce(RegistryError) -> PullError {
        let reference = self.reference.to_string();
        move |source| PullError::Registry { reference, cached: false, source: Box::new(source) }
    }

    /// For `map_err`.
    pub(super) fn in_manifest(&self) -> impl FnOnce(ManifestError) -> PullError {
        let reference = self.reference.to_string();
        move |source| PullError::Manifest { reference, source }
    }

    /// Does something that blocks on a thread that may be blocked.
    pub(super) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, PullError> {
        match tokio::task::spawn_blocking(work).await {
            Ok(value) => Ok(value),
            Err(error) if error.is_panic() => resume_unwind(error.into_panic()),
            Err(_) => Err(PullError::Interrupted { reference: self.reference.to_string() }),
        }
    }

    /// Adds to the lease. Pruning may hold the store's lock for long, so that this waits beside the runtime's threads.
    pub(super) async fn claim(&self, digests: Vec<Digest>) -> Result<(), PullError> {
        if digests.iter().all(|digest| self.lease.holds(digest)) {
            return Ok(());
        }
        let lease = self.lease.clone();
        self.blocking(move || lease.add(&digests)).await?.map_err(self.in_store())
    }

    /// Brings content to the disk while the pull goes on, if it has to get there.
    pub(super) fn sync_later(&self, unsynced: Unsynced) {
        if self.durability == Durability::Cache {
            return;
        }
        let running = tokio::task::spawn_blocking(move || unsynced.sync_content());
        self.syncing.lock().unwrap_or_else(PoisonError::into_inner).push(running);
    }

    /// Waits until what was fetched is on the disk, names included.
    pub(super) async fn wait_for_disk(&self) -> Result<(), PullError> {
        let running = std::mem::take(&mut *self.syncing.lock().unwrap_or_else(PoisonError::into_inner));
        let mut paths = Vec::with_capacity(running.len());
        for sync in running {
            match sync.await {
                Ok(outcome) => paths.push(outcome.map_err(self.in_store())?),
                Err(error) if error.is_panic() => resume_unwind(error.into_panic()),
                Err(_) => return Err(PullError::Interrupted { reference: self.reference.to_string() }),
            }
        }
        if paths.is_empty() {
            return Ok(());
        }
        self.blocking(move || sync_names(paths)).await?.map_err(self.in_store())
    }

    /// The places to ask for blobs: where the manifest came from, then the others.
    fn endpoints(&self) -> Result<Vec<Endpoint>, PullError> {
        let mut places = self.client.endpoints(&self.reference).map_err(self.in_registry())?;
        if let Some(first) = self.endpoint.get() {
            places.retain(|place| place != first);
            places.insert(0, first.clone());
        }
        Ok(places)
    }
}

/// The first of `names` that is in the store, else the first of all.
fn recorded_name(store: &Store, reference: &Reference, names: &[Reference]) -> Result<Reference, PullError> {
    for name in names {
        let record = store
            .record(name)
            .map_err(|source| PullError::Store { reference: reference.to_string(), source })?;
        if record.is_some() {
            return Ok(name.clone());
        }
    }
    Ok(names.first().unwrap_or(reference).clone())
}

/// What a blob is, which decides who hears of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BlobKind {
    Config,
    Layer,
}

/// Sees to it that a blob is in the store. If it has to be downloaded, `follow` gets it as it arrives; it is believed when
/// this returns.
pub(super) async fn fetch_blob(
    context: &Arc<Context>,
    descriptor: &Descriptor,
    kind: BlobKind,
    mut follow: Option<oneshot::Sender<BlobFollower>>,
) -> Result<(), PullError> {
    let digest = &descriptor.digest;
    let mut downloads = 0;
    let mut is_announced = false;
    let mut patience = Patience::default();
    loop {
        let (store, lease, wanted) = (context.store.clone(), context.lease.clone(), descriptor.clone());
        if context.policy == PullPolicy::Never {
            context.claim(vec![digest.clone()]).await?;
            if !context.store.has_blob(digest, Some(descriptor.size_bytes)) {
                return Err(PullError::NeverAndIncomplete {
                    reference: context.reference.to_string(),
                    digest: digest.clone(),
                });
            }
        }
        let begun = context
            .blocking(move || store.begin_download(&lease, &wanted.digest, wanted.size_bytes))
            .await?
            .map_err(context.in_store())?;
        if kind == BlobKind::Layer && !is_announced && !matches!(begun, Download::Present) {
            is_announced = true;
            context.event(PullEvent::LayerStarted { digest: digest.clone(), total: descriptor.size_bytes });
        }
        let mut writer = match begun {
            Download::Present => {
                if kind == BlobKind::Layer {
                    context.event(PullEvent::LayerDone { digest: digest.clone(), cached: downloads == 0 });
                }
                return Ok(());
            }
            Download::Busy => {
                let (path, partial_bytes) = context.store.partial_download(digest);
                match patience.look(Instant::now(), partial_bytes) {
                    Verdict::Wait => {}
                    Verdict::Tell => context.event(PullEvent::Warning(format!(
                        "another process has `{digest}` half downloaded; waiting for it"
                    ))),
                    Verdict::GiveUp(still) => {
                        return Err(PullError::StuckElsewhere {
                            reference: context.reference.to_string(),
                            digest: digest.clone(),
                            path,
                            still_seconds: still.as_secs(),
                        });
                    }
                }
                tokio::time::sleep(BUSY_PAUSE).await;
                continue;
            }
            Download::Start(writer) => *writer,
        };
        if let Some(follow) = follow.take()
            && let Ok(Some(follower)) = writer.follow()
        {
            // Nobody waits for it any more once the pull has failed.
            let _ = follow.send(follower);
        }
        downloads += 1;
        let writer = download(context, descriptor, kind, writer).await?;
        match context.blocking(move || writer.commit_unsynced()).await? {
            Ok((_, unsynced)) => {
                context.sync_later(unsynced);
                context.fetched_blobs.fetch_add(1, Ordering::Relaxed);
                if kind == BlobKind::Layer {
                    context.event(PullEvent::LayerDone { digest: digest.clone(), cached: false });
                }
                return Ok(());
            }
            Err(StoreError::Corrupted { actual, .. }) if downloads < DOWNLOADS => {
                context.event(PullEvent::Retrying {
                    what: format!("download of `{digest}`"),
                    attempt: downloads,
                    reason: format!("it arrived with the digest `{actual}`"),
                })
            }
            Err(StoreError::Corrupted { actual, .. }) => {
                return Err(PullError::CorruptedBlob {
                    reference: context.reference.to_string(),
                    digest: digest.clone(),
                    actual,
                });
            }
            Err(error) => return Err(context.in_store()(error)),
        }
    }
}

/// Downloads a blob from the first place that has it.
async fn download(
    context: &Arc<Context>,
    descriptor: &Descriptor,
    kind: BlobKind,
    writer: BlobWriter,
) -> Result<BlobWriter, PullError> {
    if writer.received_bytes() == descriptor.size_bytes {
        // A crash came between the last byte and the name; or it is empty.
        return Ok(writer);
    }
    let mut sink = ReportingSink {
        reported_bytes: writer.received_bytes(),
        writer: WriterThread::start(writer),
        context: Arc::clone(context),
        digest: descriptor.digest.clone(),
        kind,
    };
    let outcome = download_from_any(context, descriptor, &mut sink).await;
    let (writer, written) = sink.writer.finish(context).await?;
    if let Some(full) = writer.storage_full() {
        return Err(context.in_store()(full));
    }
    written.map_err(|source| {
        let path = context.store.content_path(Area::Blobs, &descriptor.digest);
        context.in_store()(context.store.write_error("write", &path, descriptor.size_bytes, source))
    })?;
    outcome?;
    Ok(writer)
}

async fn download_from_any(
    context: &Arc<Context>,
    descriptor: &Descriptor,
    sink: &mut ReportingSink,
) -> Result<(), PullError> {
    let mut places = context.endpoints()?.into_iter().peekable();
    let mut attempts = Vec::new();
    while let Some(place) = places.next() {
        match context.client.blob(&place, descriptor, sink, &context.secrets).await {
            Ok(()) => return Ok(()),
            Err(error @ RegistryError::Sink { .. }) => return Err(context.in_registry()(error)),
            Err(error) => {
                if places.peek().is_some() {
                    context.event(PullEvent::Warning(format!(
                        "`{}` did not help with blob `{}`: {}",
                        place.registry,
                        descriptor.digest,
                        error.chain()
                    )));
                }
                attempts.push((place, error));
            }
        }
    }
    let error = match (attempts.pop(), attempts.is_empty()) {
        (Some((_, only)), true) => only,
        (last, _) => {
            attempts.extend(last);
            RegistryError::AllPlacesFailed { what: format!("blob `{}`", descriptor.digest), attempts }
        }
    };
    Err(context.in_registry()(error))
}

/// Counts and reports what goes into the store.
struct ReportingSink {
    writer: WriterThread,
    context: Arc<Context>,
    digest: Digest,
    kind: BlobKind,
    reported_bytes: u64,
}

impl BlobSink for ReportingSink {
    fn received(&self) -> u64 {
        self.writer.received()
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.writer.write(bytes)?;
        self.context.count_bytes(bytes.len() as u64);
        let done = self.writer.received();
        if self.kind == BlobKind::Layer && done >= self.reported_bytes + PROGRESS_BYTES {
            self.reported_bytes = done;
            self.context.event(PullEvent::LayerProgress { digest: self.digest.clone(), done });
        }
        Ok(())
    }

    fn restart(&mut self) -> io::Result<()> {
        self.reported_bytes = 0;
        self.writer.restart()
    }
}

/// Fetches the config and every layer, several at a time.
pub(super) async fn fetch_everything(context: &Arc<Context>, image: &ImageManifest) -> Result<(), PullError> {
    check_config_size(context, &image.config)?;
    let mut waiting = vec![(image.config.clone(), BlobKind::Config)];
    for layer in &image.layers {
        if waiting.iter().all(|(known, _)| known.digest != layer.digest) {
            waiting.push((layer.clone(), BlobKind::Layer));
        }
    }
    let mut waiting = waiting.into_iter();
    // Dropped with the pull, it stops the transfers that are under way.
    let mut running = JoinSet::new();
    loop {
        while running.len() < CONCURRENT_BLOBS
            && let Some((descriptor, kind)) = waiting.next()
        {
            let context = Arc::clone(context);
            running.spawn(async move { fetch_blob(&context, &descriptor, kind, None).await });
        }
        match running.join_next().await {
            None => return Ok(()),
            Some(Ok(outcome)) => outcome?,
            Some(Err(error)) if error.is_panic() => resume_unwind(error.into_panic()),
            Some(Err(_)) => {
                return Err(PullError::Interrupted { reference: context.reference.to_string() });
            }
        }
    }
}

/// A config is held in memory.
pub(super) fn check_config_size(context: &Context, config: &Descriptor) -> Result<(), PullError> {
    if config.size_bytes > DOCUMENT_LIMIT_BYTES {
        return Err(context.in_store()(StoreError::TooLarge {
            digest: config.digest.clone(),
            size_bytes: config.size_bytes,
            limit_bytes: DOCUMENT_LIMIT_BYTES,
        }));
    }
    Ok(())
}
