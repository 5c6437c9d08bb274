//! Image volumes: pulls, their events and back-off, and garbage collection.
//!
//! ```text
//! Pod ──► wanted paths ──► in the store? ── yes ──────────────────────────────────────┬──► record and lease
//!                              no │ or Always                                         │
//!                                 └──► back-off? ──► one of four turns ──► pull ── ok ┘
//!                                          │ wait                            │ failed
//!                                          └── ImagePullBackOff              └── ErrImagePull, back-off begins
//! ```
//!
//! A file that the image does not have is no failure here, as a kubelet would mount the image all the same: the record
//! says so, and the launcher refuses to boot. Pulls of one image by several Pods fetch each blob once; the store sees to
//! that.

mod back_off;
mod garbage;
mod progress;
mod secrets;
mod volumes;

use std::convert::Infallible;
use std::panic::resume_unwind;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use events::{Event, Recorder, Source};
use image::store::{Area, Lease};
use image::{
    Digest, Platform, PullError, PullPolicy, PullRequest, PulledImage, StoreError, Wanted, WantedFile,
};
use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use kube::Resource as _;
use launcher::pod_dir::{ImageVolume, ImageVolumeFile, MissingFile};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::register::Disk;
use crate::{Settings, chain};
use back_off::{BackOff, Turn};
use garbage::Outcome;
use progress::Meter;
use volumes::WantedVolume;

/// Pulls that run at once; more wait.
const MOST_PULLS: usize = 4;

/// So long a Pod says `ErrImagePull` before it says `ImagePullBackOff`; shorter than the first back-off.
const ERROR_SHOWN: Duration = Duration::from_secs(5);

/// An image that must not be pulled is looked for again after this time: somebody may load it.
const NEVER_RETRY: Duration = Duration::from_secs(30);

/// The disk is measured in this time.
const GARBAGE_INTERVAL: Duration = Duration::from_secs(60);

/// After a failure it is measured again after this time (kubelet `ImageGCPeriod`).
const GARBAGE_RETRY: Duration = Duration::from_secs(300);

/// Longest message in a Pod's status, in bytes.
const MOST_MESSAGE_BYTES: usize = 2048;

/// Disk usage in percent at which images are removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Thresholds {
    /// From this on, images are removed.
    pub high_percent: u8,
    /// Until usage is no more than this.
    pub low_percent: u8,
}

impl Default for Thresholds {
    /// As a kubelet has them (`KubeletConfiguration` v1beta1).
    fn default() -> Self {
        Self { high_percent: 85, low_percent: 80 }
    }
}

/// An image volume that is there. Its files stay in the store until this is dropped.
#[derive(Debug)]
pub struct LaidOut {
    /// The volume's name in the Pod.
    pub name: String,
    /// What the launcher is told.
    pub record: ImageVolume,
    /// Keeps the files.
    pub lease: Lease,
}

/// Why a volume is not there (yet): the waiting state of the containers that need it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// `ErrImagePull`, `ImagePullBackOff`, `ErrImageNeverPull`, `InvalidImageName`, or `CreateContainerConfigError` when
    /// the Pod does not say which files it needs.
    pub reason: String,
    /// The kubelet's message.
    pub message: String,
    /// When to try again, if ever.
    pub retry_after: Option<Duration>,
}

/// Pulls for all Pods of a node.
#[derive(Clone)]
pub struct ImageManager {
    shared: Arc<Shared>,
}

struct Shared {
    client: kube::Client,
    settings: Settings,
    recorder: Recorder,
    back_off: Mutex<BackOff>,
    turns: Semaphore,
}

/// What a pull brought, and which files the image does not have.
struct Fetched {
    image: PulledImage,
    missing: Vec<MissingFile>,
}

impl ImageManager {
    /// A manager. Must be called within a runtime.
    pub fn new(client: kube::Client, settings: Settings) -> Self {
        let recorder = Recorder::new(client.clone());
        let (back_off, turns) = (Mutex::default(), Semaphore::new(MOST_PULLS));
        Self { shared: Arc::new(Shared { client, settings, recorder, back_off, turns }) }
    }

    /// One attempt at all image volumes of `pod`: pulls what its policy says, with the Pod's Secrets, emits the kubelet's
    /// events and writes progress to the Pod. Cancel safe.
    ///
    /// # Errors
    /// [`Waiting`], for the Pod's status; the caller tries again after `retry_after`.
    pub async fn lay_out(&self, pod: &Pod) -> Result<Vec<LaidOut>, Waiting> {
        let wanted = match volumes::wanted(pod) {
            Ok(wanted) => wanted,
            Err(refusal) => {
                self.warn(pod, refusal.event, &refusal.waiting.message);
                return Err(self.waits(pod, refusal.waiting));
            }
        };
        let mut laid_out = Vec::with_capacity(wanted.len());
        for volume in wanted {
            laid_out.push(self.lay_out_one(pod, volume).await.map_err(|waiting| self.waits(pod, waiting))?);
        }
        Ok(laid_out)
    }

    async fn lay_out_one(&self, pod: &Pod, volume: WantedVolume) -> Result<LaidOut, Waiting> {
        let mut request = PullRequest {
            reference: volume.reference.clone(),
            policy: PullPolicy::Never,
            wanted: Wanted::Files(Vec::new()),
            platform: Platform::linux("amd64"),
            secrets: Vec::new(),
        };
        let key = (pod.metadata.uid.clone().unwrap_or_default(), volume.image.clone());
        let started = jiff::Timestamp::now();
        if volume.policy != PullPolicy::Always {
            match self.fetch(&request, &volume.paths, &()).await {
                Ok(fetched) => {
                    let message = format!("Container image \"{}\" already present on machine", volume.image);
                    self.normal(pod, "Pulled", message);
                    self.back_off(|back_off| back_off.succeeded(&key));
                    return Ok(record(volume, fetched, started, started));
                }
                Err(error) if volume.policy == PullPolicy::Never && !is_absent(&error) => {
                    return Err(self.failed(pod, &volume, key, &error));
                }
                Err(_) if volume.policy == PullPolicy::Never => {
                    let message = format!(
                        "Container image \"{}\" is not present with pull policy of Never",
                        volume.image
                    );
                    self.warn(pod, "ErrImageNeverPull", &message);
                    let reason = "ErrImageNeverPull".to_owned();
                    return Err(Waiting { reason, message, retry_after: Some(NEVER_RETRY) });
                }
                // A pull may help.
                Err(error) if is_absent(&error) => {}
                Err(error) => {
                    tracing::warn!(%error, image = volume.image, "an image in the store cannot be used and is pulled again");
                }
            }
        }
        if let Turn::Wait(left, error) = self.back_off(|back_off| back_off.turn(&key, Instant::now())) {
            let message = format!("Back-off pulling image \"{}\"", volume.image);
            self.normal(pod, "BackOff", message.clone());
            let message = format!("{message}: ErrImagePull: {error}");
            return Err(Waiting { reason: "ImagePullBackOff".to_owned(), message, retry_after: Some(left) });
        }
        request.policy = volume.policy;
        request.secrets = self.secrets(pod).await;
        self.normal(pod, "Pulling", format!("Pulling image \"{}\"", volume.image));
        let waiting_since = Instant::now();
        let Ok(turn) = self.shared.turns.acquire().await else { std::future::pending().await };
        let pulling_since = Instant::now();
        let outcome = self.pull(pod, &volume, &request).await;
        let (pull, all) = (pulling_since.elapsed(), waiting_since.elapsed());
        drop(turn);
        let fetched = match outcome {
            Ok(fetched) => fetched,
            Err(error) => return Err(self.failed(pod, &volume, key, &error)),
        };
        let mut message = format!(
            "Successfully pulled image \"{}\" in {} ({} including waiting).",
            volume.image,
            go_duration(pull),
            go_duration(all)
        );
        if let Some(bytes) = self.size(&fetched.image).await {
            message.push_str(&format!(" Image size: {bytes} bytes."));
        }
        self.normal(pod, "Pulled", message);
        self.back_off(|back_off| back_off.succeeded(&key));
        let ended = match fetched.image.from_cache {
            true => started,
            false => jiff::Timestamp::now(),
        };
        Ok(record(volume, fetched, started, ended))
    }

    /// Pulls, and tells in the Pod how far it is when it takes long.
    async fn pull(
        &self,
        pod: &Pod,
        volume: &WantedVolume,
        request: &PullRequest,
    ) -> Result<Fetched, PullError> {
        let client = &self.shared.client;
        let meter = Meter::default();
        let since = Instant::now();
        let outcome = tokio::select! {
            outcome = self.fetch(request, &volume.paths, &meter) => outcome,
            never = progress::tell(client.clone(), pod, &volume.image, &meter) => match never {},
        };
        let annotations = pod.metadata.annotations.as_ref();
        let was_told = annotations.is_some_and(|found| found.contains_key(manifest::keys::PULL_PROGRESS));
        if was_told || since.elapsed() >= progress::INTERVAL {
            progress::end(client, pod).await;
        }
        outcome
    }

    /// Fetches those of `paths` that the image has.
    async fn fetch(
        &self,
        request: &PullRequest,
        paths: &[String],
        progress: &dyn image::PullProgress,
    ) -> Result<Fetched, PullError> {
        let mut missing = Vec::new();
        let mut paths = paths.to_vec();
        loop {
            let files = paths.iter().map(|path| WantedFile { role: "file".to_owned(), path: path.clone() });
            let request = PullRequest { wanted: Wanted::Files(files.collect()), ..request.clone() };
            match self.shared.settings.images.pull(&request, progress).await {
                Ok(image) => return Ok(Fetched { image, missing }),
                // Ends: each round has one path fewer.
                Err(PullError::Path { path, source, .. }) if paths.contains(&path) => {
                    paths.retain(|other| *other != path);
                    missing.push(MissingFile { requested: path, reason: chain(&source) });
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Notes a failed pull.
    fn failed(&self, pod: &Pod, volume: &WantedVolume, key: back_off::Key, error: &PullError) -> Waiting {
        let mut message = chain(error);
        if let Some(hint) = error.hint() {
            message.push_str(&format!(" ({hint})"));
        }
        let ends = message.char_indices().map(|(start, character)| start + character.len_utf8());
        let end = ends.take_while(|end| *end <= MOST_MESSAGE_BYTES).last().unwrap_or_default();
        message.truncate(end);
        self.warn(pod, "Failed", &format!("Failed to pull image \"{}\": {message}", volume.image));
        self.back_off(|back_off| back_off.failed(key, message.clone(), Instant::now()));
        Waiting { reason: "ErrImagePull".to_owned(), message, retry_after: Some(ERROR_SHOWN) }
    }

    /// Says that the Pod's containers wait.
    fn waits(&self, pod: &Pod, waiting: Waiting) -> Waiting {
        self.warn(pod, "Failed", &format!("Error: {}", waiting.reason));
        waiting
    }

    async fn secrets(&self, pod: &Pod) -> Vec<image::PullSecret> {
        let (usable, unusable) = secrets::of_pod(&self.shared.client, pod).await;
        if !unusable.is_empty() {
            for (secret, reason) in &unusable {
                let meta = &pod.metadata;
                tracing::warn!(
                    object = crate::object(meta),
                    uid = meta.uid,
                    secret,
                    reason,
                    "a pull secret cannot be used"
                );
            }
            let names: Vec<&str> = unusable.iter().map(|(name, _)| name.as_str()).collect();
            let message = format!(
                "Unable to retrieve some image pull secrets ({}); attempting to pull the image may not succeed.",
                names.join(", ")
            );
            self.warn(pod, "FailedToRetrieveImagePullSecret", &message);
        }
        usable
    }

    /// Bytes of all layers as the registry has them; `None` when the manifest cannot be read again.
    async fn size(&self, image: &PulledImage) -> Option<u64> {
        let store = self.shared.settings.images.store().clone();
        let reference = image.reference.clone();
        let read =
            tokio::task::spawn_blocking(move || store.image_manifest(&reference, &Platform::linux("amd64")));
        let (_, manifest) = read.await.ok()?.ok()??;
        Some(
            manifest
                .layers
                .iter()
                .fold(manifest.config.size_bytes, |sum, layer| sum.saturating_add(layer.size_bytes)),
        )
    }

    fn back_off<T>(&self, act: impl FnOnce(&mut BackOff) -> T) -> T {
        act(&mut self.shared.back_off.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn normal(&self, pod: &Pod, reason: &'static str, message: String) {
        self.record(&about(pod), &Event::normal(reason, message));
    }

    fn warn(&self, pod: &Pod, reason: &'static str, message: &str) {
        self.record(&about(pod), &Event::warning(reason, message));
    }

    fn record(&self, about: &ObjectReference, event: &Event) {
        let source = Source { component: "kubelet", host: &self.shared.settings.name };
        self.shared.recorder.record(source, about, event);
    }

    /// Takes hold of the files of volumes that an earlier daemon laid out, for a Pod that is adopted.
    ///
    /// # Errors
    /// When the store lost them; the guest has them open still.
    pub async fn keep(&self, volume: &ImageVolume) -> Result<Lease, StoreError> {
        let store = self.shared.settings.images.store().clone();
        let volume = volume.clone();
        match tokio::task::spawn_blocking(move || keep(&store, &volume)).await {
            Ok(kept) => kept,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => resume_unwind(panic),
                // The runtime ends, and this future with it.
                Err(_) => std::future::pending().await,
            },
        }
    }

    /// Removes images that nobody uses when the disk fills up, and logs of machines that are long gone, until dropped.
    pub async fn collect_garbage(&self) {
        let never: Infallible = self.collect_for_ever().await;
        match never {}
    }

    async fn collect_for_ever(&self) -> Infallible {
        loop {
            let pause = if self.collect_once().await { GARBAGE_INTERVAL } else { GARBAGE_RETRY };
            tokio::time::sleep(pause).await;
        }
    }

    /// Whether there is space enough.
    async fn collect_once(&self) -> bool {
        let settings = self.shared.settings.clone();
        let work = move || {
            crate::logs::sweep(&settings, jiff::Timestamp::now());
            let store = settings.images.store();
            garbage::collect(store, settings.image_gc, SystemTime::now(), &|| Disk::of(store.root()))
        };
        let failure = match tokio::task::spawn_blocking(work).await {
            Ok(Ok(Outcome::Nothing)) => return true,
            Ok(Ok(Outcome::Enough { freed_bytes })) => {
                tracing::info!(freed_bytes, "images that nobody uses were removed");
                return true;
            }
            Ok(Ok(Outcome::TooLittle { freed_bytes, wanted_bytes })) => Event::warning(
                "FreeDiskSpaceFailed",
                format!(
                    "Failed to garbage collect required amount of images. Attempted to free {wanted_bytes} bytes, but \
                     only found {freed_bytes} bytes eligible to free."
                ),
            ),
            Ok(Err(error)) => Event::warning("ImageGCFailed", chain(&error)),
            Err(error) => Event::warning("ImageGCFailed", error.to_string()),
        };
        tracing::warn!(
            reason = failure.reason,
            why = failure.message,
            "the image store could not be tidied up"
        );
        let name = &self.shared.settings.name;
        // A kubelet's reference to its Node has the name for its UID, and `kubectl describe node` looks for that.
        let node = ObjectReference {
            kind: Some("Node".to_owned()),
            name: Some(name.clone()),
            uid: Some(name.clone()),
            ..ObjectReference::default()
        };
        self.record(&node, &failure);
        false
    }
}

fn keep(store: &image::Store, volume: &ImageVolume) -> Result<Lease, StoreError> {
    let lease = store.lease()?;
    // A record without it keeps its files all the same.
    if let Ok(manifest) = volume.digest.parse::<Digest>() {
        lease.add([&manifest])?;
    }
    for file in &volume.files {
        let digest =
            content_digest(&file.path).filter(|digest| store.content_path(Area::Files, digest) == file.path);
        if let Some(digest) = &digest {
            lease.add([digest])?;
        }
        if digest.is_none() || !file.path.is_file() {
            let source = std::io::ErrorKind::NotFound.into();
            return Err(StoreError::Io { action: "find", path: file.path.clone(), source });
        }
    }
    Ok(lease)
}

/// The digest that a path in the store is named by: `…/ALGORITHM/HEX`.
fn content_digest(path: &Path) -> Option<Digest> {
    let hex = path.file_name()?.to_str()?;
    let algorithm = path.parent()?.file_name()?.to_str()?;
    format!("{algorithm}:{hex}").parse().ok()
}

fn record(
    volume: WantedVolume,
    fetched: Fetched,
    started: jiff::Timestamp,
    ended: jiff::Timestamp,
) -> LaidOut {
    let PulledImage { manifest_digest, files, lease, .. } = fetched.image;
    let files = files
        .into_iter()
        .map(|file| ImageVolumeFile {
            requested: file.requested,
            resolved: file.resolved,
            path: file.path,
            size_bytes: file.size_bytes,
            crc32: Some(file.crc32),
            uid: file.uid,
            gid: file.gid,
            mode: file.mode,
        })
        .collect();
    let milliseconds = |at: jiff::Timestamp| u64::try_from(at.as_millisecond()).unwrap_or_default();
    let record = ImageVolume {
        image: volume.image,
        digest: manifest_digest.to_string(),
        files,
        missing: fetched.missing,
        pull_started: milliseconds(started),
        pulled: milliseconds(ended),
    };
    LaidOut { name: volume.name, record, lease }
}

/// Whether a pull of what is missing could help.
fn is_absent(error: &PullError) -> bool {
    matches!(error, PullError::NeverAndAbsent { .. } | PullError::NeverAndIncomplete { .. })
}

/// The Pod without its resourceVersion, which would make every repeat of an event another.
fn about(pod: &Pod) -> ObjectReference {
    ObjectReference { resource_version: None, ..pod.object_ref(&()) }
}

/// As Go prints a duration that is rounded down to milliseconds: `345ms`, `1.2s`, `2m3.5s`, `1h0m0s`.
fn go_duration(duration: Duration) -> String {
    let millis = duration.as_millis();
    if millis < 1000 {
        return if millis == 0 { "0s".to_owned() } else { format!("{millis}ms") };
    }
    let (hours, minutes) = (millis / 3_600_000, millis / 60_000 % 60);
    let fraction = format!("{:03}", millis % 1000);
    let fraction = fraction.trim_end_matches('0');
    let point = if fraction.is_empty() { "" } else { "." };
    let seconds = format!("{}{point}{fraction}s", millis / 1000 % 60);
    match (hours, minutes) {
        (0, 0) => seconds,
        (0, minutes) => format!("{minutes}m{seconds}"),
        (hours, minutes) => format!("{hours}h{minutes}m{seconds}"),
    }
}

#[cfg(test)]
mod tests;
