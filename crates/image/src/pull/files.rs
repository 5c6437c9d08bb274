//! Files out of an image: known ones verified again, others looked up in as few layers as possible.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::fact_cache::FactCache;
use super::manifests::ChosenImage;
use super::transfer::{BlobKind, Context, check_config_size, fetch_blob};
use super::{PullError, PullEvent, PulledFile, WantedFile};
use crate::digest::{Descriptor, Digest};
use crate::layer::{
    self, EntryRecord, Fact, LayerIndex, LayerLimits, ReadFailure, Scan, ScannedLayer, SpooledFile,
};
use crate::manifest::{self, DOCUMENT_LIMIT_BYTES, ImageManifest, ManifestError};
use crate::resolve::{self, LayerFacts, NearMisses, Resolution, ResolveError, ResolveFailure};
use crate::store::{Area, BlobWriter, ResolvedFile, Store, StoreError, Verification};

/// How often a blob that was fetched may turn out to be damaged on disk.
const FETCHES: u32 = 3;

/// Files that are being verified, each on a thread of its own.
#[derive(Default)]
pub(super) struct Verifications {
    running: HashMap<Digest, JoinHandle<Result<Verification, StoreError>>>,
}

impl Verifications {
    fn start(&mut self, store: &Store, file: &ResolvedFile) {
        self.running.entry(file.digest.clone()).or_insert_with(|| {
            let (store, file) = (store.clone(), file.clone());
            tokio::task::spawn_blocking(move || store.verify_file(&file))
        });
    }

    async fn finish(&mut self, context: &Context, file: &ResolvedFile) -> Result<Verification, PullError> {
        match self.running.remove(&file.digest) {
            Some(running) => match running.await {
                Ok(outcome) => outcome.map_err(context.in_store()),
                Err(_) => Err(PullError::Interrupted { reference: context.reference.to_string() }),
            },
            // The same file under two roles: it was waited for already, verify it again rather than remember.
            None => {
                let (store, file) = (context.store.clone(), file.clone());
                context.blocking(move || store.verify_file(&file)).await?.map_err(context.in_store())
            }
        }
    }

    /// Whether there are any and all are intact.
    pub(super) async fn are_intact(self) -> bool {
        let mut are_intact = !self.running.is_empty();
        for running in self.running.into_values() {
            are_intact &= matches!(running.await, Ok(Ok(Verification::Intact)));
        }
        are_intact
    }
}

/// Starts to verify the files that are known for these paths.
pub(super) async fn verify_early(
    context: &Context,
    platform_digest: &Digest,
    wanted: &[WantedFile],
    verifications: &mut Verifications,
) -> Result<(), PullError> {
    for file in wanted {
        let known = context.store.resolved_file(platform_digest, &file.path).map_err(context.in_store())?;
        if let Some(known) = known {
            context.claim(vec![known.digest.clone()]).await?;
            verifications.start(&context.store, &known);
        }
    }
    Ok(())
}

/// The files that are wanted, in the store and verified.
pub(super) async fn obtain(
    context: &Arc<Context>,
    chosen: &ChosenImage,
    wanted: &[WantedFile],
    verifications: &mut Verifications,
) -> Result<Vec<PulledFile>, PullError> {
    verify_early(context, &chosen.platform_digest, wanted, verifications).await?;
    let mut known: HashMap<String, ResolvedFile> = HashMap::new();
    for file in wanted {
        if known.contains_key(&file.path) {
            continue;
        }
        let found =
            context.store.resolved_file(&chosen.platform_digest, &file.path).map_err(context.in_store())?;
        if let Some(found) = found
            && verifications.finish(context, &found).await? == Verification::Intact
        {
            known.insert(file.path.clone(), found);
        }
    }
    let missing: Vec<WantedFile> =
        wanted.iter().filter(|file| !known.contains_key(&file.path)).cloned().collect();
    if !missing.is_empty() {
        let all_found = look_up(context, chosen, missing).await?;
        known.extend(all_found.iter().map(|found| (found.requested.clone(), found.clone())));
        let (store, image) = (context.store.clone(), chosen.platform_digest.clone());
        let note = move || all_found.iter().try_for_each(|found| store.put_resolved_file(&image, found));
        context.blocking(note).await?.map_err(context.in_store())?;
    }
    Ok(wanted.iter().map(|file| pulled(context, &file.role, known[&file.path].clone())).collect())
}

/// What the caller gets to see of a file.
pub(super) fn pulled(context: &Context, role: &str, file: ResolvedFile) -> PulledFile {
    PulledFile {
        role: role.to_owned(),
        path: context.store.content_path(Area::Files, &file.digest),
        requested: file.requested,
        resolved: file.resolved,
        digest: file.digest,
        crc32: file.crc32,
        size_bytes: file.size_bytes,
        uid: file.uid,
        gid: file.gid,
        mode: file.mode,
    }
}

/// Finds paths in the layers of an image and takes their files out.
async fn look_up(
    context: &Arc<Context>,
    chosen: &ChosenImage,
    wanted: Vec<WantedFile>,
) -> Result<Vec<ResolvedFile>, PullError> {
    // All at once and before anything is looked at: also what was read for another image, which may be removed meanwhile.
    let claimed: Vec<Digest> =
        chosen.image.layers.iter().chain([&chosen.image.config]).map(|blob| blob.digest.clone()).collect();
    context.claim(claimed).await?;
    // The top layer is always the first to be read: it travels beside the config. What one of them fails of ends both.
    let unread_top =
        chosen.image.layers.last().filter(|top| !context.store.layer_index_path(&top.digest).exists());
    let (diff_ids, top) = match unread_top {
        None => (diff_ids(context, &chosen.image).await?, None),
        Some(blob) => {
            let candidates = wanted.iter().map(|file| layer::lexical(&[file.path.as_bytes()])).collect();
            let mut all = Vec::new();
            let of_top = async {
                all = diff_ids(context, &chosen.image).await?;
                Ok(all.last().cloned().expect("there are as many as layers"))
            };
            let top = fetch_and_scan(context, blob, candidates, of_top).await?;
            (all, top)
        }
    };
    let layers = chosen.image.layers.iter().cloned().zip(diff_ids).rev().map(|(blob, diff_id)| Layer {
        blob,
        diff_id,
        index: None,
        is_index_sought: false,
        spooled: HashMap::new(),
    });
    let mut finder = Finder {
        store: context.store.clone(),
        limits: context.limits,
        layers: layers.collect(),
        facts: FactCache::default(),
        wanted,
    };
    if let Some(scanned) = top {
        finder.layers[0].take(scanned);
    }
    let found = loop {
        let (returned, step) = context
            .blocking(move || {
                let step = finder.attempt();
                (finder, step)
            })
            .await?;
        finder = returned;
        match step {
            Ok(Step::Found(found)) => break found,
            Ok(Step::NeedLayer { layer, candidates }) => {
                let scanned = scan_layer(context, &finder.layers[layer], candidates).await?;
                finder.layers[layer].take(scanned);
            }
            Err(failure) => return Err(failure.in_image(context)),
        }
    };
    take_out(context, &mut finder, found).await
}

/// How a layer of this pull is read.
fn scan_of(context: &Context, diff_id: Digest, candidates: Vec<Vec<u8>>) -> Scan {
    Scan {
        store: context.store.clone(),
        lease: context.lease.clone(),
        diff_id,
        candidates,
        limits: context.limits,
    }
}

/// Fetches a layer and reads it while it arrives. Nothing comes back when it was in the store already, or when anything was
/// wrong with what was read: then it is to be read from the store, which tells what is wrong.
async fn fetch_and_scan(
    context: &Arc<Context>,
    blob: &Descriptor,
    candidates: Vec<Vec<u8>>,
    diff_id: impl Future<Output = Result<Digest, PullError>>,
) -> Result<Option<ScannedLayer>, PullError> {
    let (follow, followed) = oneshot::channel();
    let begin = async {
        let diff_id = diff_id.await?;
        let Ok(follower) = followed.await else {
            return Ok(None);
        };
        let scan = scan_of(context, diff_id, candidates);
        Ok(Some(tokio::task::spawn_blocking(move || scan.arriving(follower))))
    };
    let (running, ()) = tokio::try_join!(begin, fetch_blob(context, blob, BlobKind::Layer, Some(follow)))?;
    let Some(running) = running else {
        return Ok(None);
    };
    context.event(PullEvent::Extracting { digest: blob.digest.clone() });
    // Only now is the blob known to be what the manifest names.
    let scanned = match running.await {
        Ok(read) => read.and_then(|pending| pending.commit(&context.store, &blob.digest)),
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => return Err(PullError::Interrupted { reference: context.reference.to_string() }),
    };
    match scanned {
        Ok(scanned) => Ok(Some(scanned)),
        Err(error) => {
            tracing::debug!(layer = %blob.digest, %error, "cannot read it on its way, trying again");
            Ok(None)
        }
    }
}

/// Reads a layer, fetching it if it is not there.
async fn scan_layer(
    context: &Arc<Context>,
    layer: &Layer,
    candidates: Vec<Vec<u8>>,
) -> Result<ScannedLayer, PullError> {
    let diff_id = std::future::ready(Ok(layer.diff_id.clone()));
    if let Some(scanned) = fetch_and_scan(context, &layer.blob, candidates.clone(), diff_id).await? {
        return Ok(scanned);
    }
    let diff_id = layer.diff_id.clone();
    let scan = {
        let context = Arc::clone(context);
        move || scan_of(&context, diff_id.clone(), candidates.clone())
    };
    read_layer(context, &layer.blob, move |_, blob| scan().stored(blob)).await
}

/// Digests of the uncompressed layers, the lowest first, out of the config.
async fn diff_ids(context: &Arc<Context>, image: &ImageManifest) -> Result<Vec<Digest>, PullError> {
    check_config_size(context, &image.config)?;
    for _ in 0..FETCHES {
        fetch_blob(context, &image.config, BlobKind::Config, None).await?;
        let bytes = context
            .store
            .read_blob(&image.config.digest, DOCUMENT_LIMIT_BYTES)
            .map_err(context.in_store())?;
        let Some(bytes) = bytes else { continue };
        let config = manifest::parse_config(&bytes).map_err(context.in_manifest())?;
        if let Some(offered) = config.platform
            && !context.platform.accepts(&offered)
        {
            return Err(PullError::NoPlatform {
                reference: context.reference.to_string(),
                wanted: context.platform.clone(),
                present: format!("`{offered}`"),
            });
        }
        if config.diff_ids.len() != image.layers.len() {
            return Err(context.in_manifest()(ManifestError::LayerCount {
                diff_ids: config.diff_ids.len(),
                layers: image.layers.len(),
            }));
        }
        return Ok(config.diff_ids);
    }
    Err(PullError::UnstableStore {
        reference: context.reference.to_string(),
        digest: image.config.digest.clone(),
    })
}

/// Reads a layer that was fetched; fetches it again when it was damaged on disk.
async fn read_layer<T: Send + 'static>(
    context: &Arc<Context>,
    blob: &Descriptor,
    read: impl Fn(&Context, &Digest) -> Result<T, ReadFailure> + Send + Sync + 'static,
) -> Result<T, PullError> {
    let read = Arc::new(read);
    for _ in 0..FETCHES {
        context.event(PullEvent::Extracting { digest: blob.digest.clone() });
        let (read, shared, digest) = (Arc::clone(&read), Arc::clone(context), blob.digest.clone());
        let outcome = context.blocking(move || read(&shared, &digest)).await?;
        match outcome {
            Ok(value) => return Ok(value),
            Err(ReadFailure::Layer(source)) => {
                return Err(PullError::Layer {
                    reference: context.reference.to_string(),
                    layer: blob.digest.clone(),
                    source,
                });
            }
            Err(ReadFailure::Refetch) => {
                context.event(PullEvent::Warning(format!(
                    "layer `{}` was damaged in the image store and is fetched again",
                    blob.digest
                )));
                fetch_blob(context, blob, BlobKind::Layer, None).await?;
            }
        }
    }
    Err(PullError::UnstableStore { reference: context.reference.to_string(), digest: blob.digest.clone() })
}

/// Gives the found files their place in the store: those put aside by the way, the others in one pass for each layer.
async fn take_out(
    context: &Arc<Context>,
    finder: &mut Finder,
    found: Vec<FoundFile>,
) -> Result<Vec<ResolvedFile>, PullError> {
    let mut contents: HashMap<(usize, u64), (Digest, u32)> = HashMap::new();
    for layer in 0..finder.layers.len() {
        let mut ordinals = Vec::new();
        for file in found.iter().filter(|file| file.layer == layer) {
            let key = (layer, file.entry.ordinal);
            match finder.layers[layer].spooled.remove(&file.entry.path) {
                Some(spooled) if spooled.ordinal == file.entry.ordinal => {
                    contents.insert(key, commit(context, spooled.writer).await?);
                }
                _ if contents.contains_key(&key) => {}
                _ => ordinals.push(file.entry.ordinal),
            }
        }
        ordinals.sort_unstable();
        ordinals.dedup();
        if ordinals.is_empty() {
            continue;
        }
        let asked = ordinals.clone();
        let blob = &finder.layers[layer].blob;
        fetch_blob(context, blob, BlobKind::Layer, None).await?;
        let writers = read_layer(context, blob, move |context, blob| {
            layer::extract(&context.store, &context.lease, blob, &asked, &context.limits)
        })
        .await?;
        for (ordinal, writer) in ordinals.into_iter().zip(writers) {
            contents.insert((layer, ordinal), commit(context, writer).await?);
        }
    }
    Ok(found
        .into_iter()
        .map(|file| {
            let (digest, crc32) = contents[&(file.layer, file.entry.ordinal)].clone();
            ResolvedFile {
                requested: file.requested,
                resolved: format!("/{}", String::from_utf8_lossy(&file.resolved)),
                layer: finder.layers[file.layer].blob.digest.clone(),
                digest,
                size_bytes: file.entry.size_bytes,
                crc32,
                uid: file.entry.uid,
                gid: file.entry.gid,
                mode: file.entry.mode,
            }
        })
        .collect())
}

/// Gives the content its place; returns its digest and checksum.
async fn commit(context: &Context, writer: BlobWriter) -> Result<(Digest, u32), PullError> {
    let crc32 = writer.checksum().expect("content that is made here has a checksum");
    // Not synced: a file that a crash damages is taken out of its layer again.
    let committed = context.blocking(move || writer.commit_unsynced()).await?;
    let (digest, _) = committed.map_err(context.in_store())?;
    Ok((digest, crc32))
}

/// A layer of the image, as far as it was read.
struct Layer {
    blob: Descriptor,
    diff_id: Digest,
    index: Option<LayerIndex>,
    /// Whether the store was asked for an index of an earlier pull.
    is_index_sought: bool,
    spooled: HashMap<Vec<u8>, SpooledFile>,
}

impl Layer {
    fn take(&mut self, scanned: ScannedLayer) {
        self.index = Some(scanned.index);
        self.spooled = scanned.spooled;
    }
}

/// Follows the wanted paths through the layers. The top layer is number 0.
struct Finder {
    store: Store,
    limits: LayerLimits,
    layers: Vec<Layer>,
    facts: FactCache,
    wanted: Vec<WantedFile>,
}

struct FoundFile {
    requested: String,
    resolved: Vec<u8>,
    layer: usize,
    entry: EntryRecord,
}

enum Step {
    Found(Vec<FoundFile>),
    NeedLayer { layer: usize, candidates: Vec<Vec<u8>> },
}

enum FindFailure {
    Path { role: String, path: String, source: ResolveError },
    Store(StoreError),
}

impl FindFailure {
    fn in_image(self, context: &Context) -> PullError {
        match self {
            Self::Path { role, path, source } => {
                PullError::Path { reference: context.reference.to_string(), role, path, source }
            }
            Self::Store(source) => context.in_store()(source),
        }
    }
}

impl Finder {
    /// Follows every wanted path as far as the layers that were read allow.
    fn attempt(&mut self) -> Result<Step, FindFailure> {
        let mut found = Vec::new();
        let mut needed: Option<usize> = None;
        let mut candidates = Vec::new();
        for wanted in self.wanted.clone() {
            match resolve::resolve(&wanted.path, self, self.limits.file_bytes) {
                Ok(Resolution::Found { layer, entry, resolved }) => {
                    found.push(FoundFile { requested: wanted.path, resolved, layer, entry });
                }
                Ok(Resolution::NeedLayer { layer, candidate }) => {
                    needed = Some(needed.map_or(layer, |other| other.min(layer)));
                    candidates.push(candidate);
                }
                Err(ResolveFailure::Store(source)) => return Err(FindFailure::Store(source)),
                Err(ResolveFailure::Path(source)) => {
                    let source = self.with_near_misses(&wanted.path, source)?;
                    return Err(FindFailure::Path { role: wanted.role, path: wanted.path, source });
                }
            }
        }
        Ok(match needed {
            Some(layer) => Step::NeedLayer { layer, candidates },
            None => Step::Found(found),
        })
    }

    /// Adds what the user may have meant, out of the layers that were read.
    fn with_near_misses(&mut self, path: &str, error: ResolveError) -> Result<ResolveError, FindFailure> {
        let ResolveError::NotFound { missing, .. } = error else {
            return Ok(error);
        };
        let mut near_misses = NearMisses::new(path, &missing);
        for index in self.layers.iter().filter_map(|layer| layer.index.as_ref()) {
            match index.for_each(|record| near_misses.take(record)) {
                // One the less to choose from.
                Err(error) if is_gone(&error) => {}
                outcome => outcome.map_err(FindFailure::Store)?,
            }
        }
        let similar = near_misses.finish(self).map_err(FindFailure::Store)?;
        Ok(ResolveError::NotFound { missing, similar })
    }
}

impl LayerFacts for Finder {
    fn layer_count(&self) -> usize {
        self.layers.len()
    }

    fn facts(&mut self, number: usize, paths: &[Vec<u8>]) -> Result<Option<Vec<Fact>>, StoreError> {
        let layer = &mut self.layers[number];
        if layer.index.is_none() && !layer.is_index_sought {
            layer.is_index_sought = true;
            layer.index = LayerIndex::open(&self.store, &layer.blob.digest, &layer.diff_id)?;
        }
        let Some(index) = &layer.index else {
            return Ok(None);
        };
        match self.facts.facts(number, paths, |paths| index.facts(paths)) {
            // Somebody emptied the store by hand: as if the layer had never been read.
            Err(error) if is_gone(&error) => {
                layer.index = None;
                Ok(None)
            }
            outcome => outcome.map(Some),
        }
    }
}

/// Whether a file of the store is not there any more.
fn is_gone(error: &StoreError) -> bool {
    matches!(error, StoreError::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
}
