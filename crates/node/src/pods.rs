//! Pods bound to this node: from a directory to a launcher to a status, and back.
//!
//! ```text
//!  watch of Pods with our nodeName ──► a task for each UID (worker) ──► status, events
//!                                        │  decide: what next? (pure)      ▲ status (pure)
//!                                        ├─► images: volumes               │
//!                                        ├─► record, address, pki: directory
//!                                        ├─► process: launcher ── end ─────┤
//!                                        └─► probe: does its guest answer? ┘
//!
//!  redirect: the host's connections to a Pod's address ──► its launcher ──► any port of its guest
//! ```
//!
//! # Who owns what
//! A launcher is nobody's child for long: it lives in a process group of its own, holds the lock of its directory, and goes
//! on when the daemon ends in whatever way. A daemon that starts reads the directories, and takes each launcher over whose
//! lock is held: the same Pod, nothing restarted, no event repeated. What it does not understand it leaves alone.
//!
//! Launchers of Pods that the API server does not know are ended, but only after it has given a complete list.

mod address;
mod decide;
mod packed;
mod probe;
mod process;
mod record;
pub mod redirect;
mod runtime;
mod shape;
mod status;
mod worker;

use std::collections::{HashMap, HashSet};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use events::{Event, Recorder, Source};
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Resource as _};
use launcher::pod_dir::PodDir;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

use crate::images::ImageManager;
use crate::unowned::Unowned;
use crate::{NodeError, Settings, files};
use address::Addresses;
use packed::Packed;
use process::Scopes;
use runtime::Runtime;
use shape::COMPUTE;
use worker::{View, Worker};

/// How long a Pod whose worker panicked is left alone: the first time, and the longest. Doubled each time.
const PANIC_PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(300));

/// A worker that lasted so long before it panicked counts as a first one.
const LASTING: Duration = Duration::from_secs(600);

/// What an earlier daemon left, taken over: its launchers, and its hold on the images that they use.
pub struct Adopted {
    runtimes: HashMap<String, Runtime>,
    /// UIDs of Pods whose directories are not understood.
    unknown: HashSet<String>,
    addresses: Addresses,
}

/// Takes over what an earlier daemon left in the Pods' directory. From then on no image in use is collected.
///
/// # Errors
/// When the directory cannot be made or listed.
pub async fn adopt(settings: &Settings, images: &ImageManager) -> Result<Adopted, NodeError> {
    let failed = |source| NodeError::Files { path: settings.pods_dir.clone(), source };
    files::create_directory(&settings.pods_dir, 0o711).map_err(failed)?;
    let (found, mut unknown) = record::scan(&settings.pods_dir).map_err(failed)?;
    let addresses = Addresses::default();
    let adoptions = found.into_iter().map(|(directory, record)| {
        let uid = record.uid.clone();
        let addresses = &addresses;
        async move { (uid, runtime::adopt(images, addresses, directory, record).await) }
    });
    let mut runtimes = HashMap::new();
    for (uid, adopted) in futures::future::join_all(adoptions).await {
        match adopted {
            Ok(Some(runtime)) => {
                runtimes.insert(uid, runtime);
            }
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(%uid, %error, "what is left of a Pod cannot be taken over and stays as it is");
                unknown.insert(uid);
            }
        }
    }
    if !runtimes.is_empty() {
        tracing::info!(count = runtimes.len(), "launchers of an earlier daemon are taken over");
    }
    Ok(Adopted { runtimes, unknown, addresses })
}

/// A Pod whose launcher this node started.
pub(crate) struct Started {
    /// Its name.
    pub name: String,
    /// Its namespace, that of its instance.
    pub namespace: String,
    /// Name of its instance.
    pub instance: String,
    /// The launcher's process; none until it is started.
    pub launcher: Option<u32>,
    /// Its directory.
    pub directory: PodDir,
}

/// The Pods whose directories are in `pods_dir`.
pub(crate) fn started(pods_dir: &std::path::Path) -> std::io::Result<Vec<Started>> {
    let pods = record::all(pods_dir)?.into_iter();
    let started = |(directory, pod): record::Found| Started {
        directory,
        name: pod.name,
        namespace: pod.namespace,
        instance: pod.instance,
        launcher: pod.process_id,
    };
    Ok(pods.map(started).collect())
}

/// Directories and UIDs of the Pods of an instance that were started here, the newest first.
///
/// # Errors
/// When `pods_dir` is there and cannot be listed.
pub(crate) fn directories(
    pods_dir: &std::path::Path,
    namespace: &str,
    instance: &str,
) -> std::io::Result<Vec<(PodDir, String)>> {
    let found = record::of_instance(pods_dir, namespace, instance)?;
    Ok(found.into_iter().map(|(directory, pod)| (directory, pod.uid)).collect())
}

/// Runs Pods until dropped. Launchers go on then.
///
/// # Errors
/// None so far: what fails is tried again.
pub async fn run(
    client: kube::Client,
    settings: &Settings,
    images: &ImageManager,
    adopted: Adopted,
) -> Result<(), NodeError> {
    let Adopted { runtimes, unknown, addresses } = adopted;
    let node = Arc::new(Node {
        recorder: Recorder::new(client.clone()),
        client: client.clone(),
        settings: settings.clone(),
        images: images.clone(),
        addresses,
        scopes: Scopes::detect().await,
    });
    let ours = watcher::Config::default().fields(&format!("spec.nodeName={}", settings.name));
    let mut events = watcher(Api::<Unowned<Pod>>::all(client), ours).default_backoff().boxed();
    let mut workers = Workers { node, runtimes, unknown, pods: HashMap::new(), tasks: JoinSet::new() };
    let mut listed = Vec::new();
    loop {
        tokio::select! {
            event = events.try_next() => match event {
                Ok(Some(watcher::Event::Init)) => listed.clear(),
                Ok(Some(watcher::Event::InitApply(Unowned(pod)))) => listed.push(pod),
                Ok(Some(watcher::Event::InitDone)) => workers.take_list(std::mem::take(&mut listed)),
                Ok(Some(watcher::Event::Apply(Unowned(pod)))) => workers.tell(pod),
                Ok(Some(watcher::Event::Delete(Unowned(pod)))) => workers.tell_gone(&uid(&pod), true),
                Ok(None) => return Ok(()),
                Err(error) => tracing::warn!(%error, "the watch of this node's Pods broke"),
            },
            Some(done) = workers.tasks.join_next_with_id() => workers.note_end(done),
        }
    }
}

/// What all workers share.
struct Node {
    client: kube::Client,
    settings: Settings,
    images: ImageManager,
    recorder: Recorder,
    addresses: Addresses,
    scopes: Scopes,
}

/// The container of `pod` that is the launcher, for events about it.
fn about_compute(pod: &Pod) -> ObjectReference {
    ObjectReference {
        resource_version: None,
        field_path: Some(format!("spec.containers{{{COMPUTE}}}")),
        ..pod.object_ref(&())
    }
}

fn record_event(node: &Node, about: &ObjectReference, event: &Event) {
    node.recorder.record(Source { component: "kubelet", host: &node.settings.name }, about, event);
}

/// Works on a Pod until nothing of it is left. When its worker panics another one takes over what is in the Pod's
/// directory, as a new daemon would; a launcher is never without somebody who sees its end.
async fn work(node: Arc<Node>, uid: String, views: watch::Receiver<View>, runtime: Option<Runtime>) {
    let mut runtime = runtime;
    let mut pause = PANIC_PAUSE.0;
    loop {
        let began = Instant::now();
        let worker = Worker::new(Arc::clone(&node), uid.clone(), views.clone(), runtime.take());
        let working = worker.run();
        #[cfg(test)]
        let working = tests::until_told_to_panic(working, &node.settings);
        // Nothing of the worker is used again, and what workers share is behind locks that are taken over.
        if AssertUnwindSafe(working).catch_unwind().await.is_ok() {
            return;
        }
        if began.elapsed() >= LASTING {
            pause = PANIC_PAUSE.0;
        }
        tracing::error!(%uid, ?pause, "the worker of a Pod panicked, which is a bug; another one takes over");
        loop {
            tokio::time::sleep(pause).await;
            pause = PANIC_PAUSE.1.min(pause * 2);
            match retake(&node, &uid).await {
                Ok(found) => {
                    runtime = found;
                    break;
                }
                Err(error) => tracing::warn!(%uid, %error, "what runs of a Pod cannot be taken over yet"),
            }
        }
    }
}

/// Takes over what a worker of this daemon left of a Pod.
async fn retake(node: &Node, uid: &str) -> std::io::Result<Option<Runtime>> {
    match record::find(&node.settings.pods_dir, uid)? {
        Some((directory, record)) => runtime::adopt(&node.images, &node.addresses, directory, record).await,
        None => Ok(None),
    }
}

/// The tasks, one for each Pod.
struct Workers {
    node: Arc<Node>,
    /// Taken over and not claimed by a task yet.
    runtimes: HashMap<String, Runtime>,
    unknown: HashSet<String>,
    pods: HashMap<String, Entry>,
    tasks: JoinSet<()>,
}

/// A Pod that has a task, or whose task is done and which the API server still has.
struct Entry {
    view: watch::Sender<View>,
    task: AbortHandle,
    is_done: bool,
}

impl Workers {
    /// Takes a complete list: what is not in it is gone.
    fn take_list(&mut self, pods: Vec<Pod>) {
        let listed: HashSet<String> = pods.iter().map(uid).collect();
        pods.into_iter().for_each(|pod| self.tell(pod));
        let known: Vec<String> = self.pods.keys().chain(self.runtimes.keys()).cloned().collect();
        for uid in known.into_iter().filter(|uid| !listed.contains(uid)) {
            self.tell_gone(&uid, false);
        }
    }

    fn tell(&mut self, pod: Pod) {
        let uid = uid(&pod);
        if self.unknown.contains(&uid) {
            return;
        }
        let view = View::Pod(Packed::new(&pod));
        match self.pods.get(&uid) {
            Some(entry) => {
                entry.view.send_replace(view);
            }
            None => self.start(uid, view),
        }
    }

    fn tell_gone(&mut self, uid: &str, forced: bool) {
        let view = View::Gone { forced };
        match self.pods.get(uid) {
            Some(entry) if entry.is_done => {
                self.pods.remove(uid);
            }
            Some(entry) => {
                entry.view.send_replace(view);
            }
            None if self.runtimes.contains_key(uid) => self.start(uid.to_owned(), view),
            None => {}
        }
    }

    fn start(&mut self, uid: String, view: View) {
        let runtime = self.runtimes.remove(&uid);
        let (sender, views) = watch::channel(view);
        let task = self.tasks.spawn(work(Arc::clone(&self.node), uid.clone(), views, runtime));
        self.pods.insert(uid, Entry { view: sender, task, is_done: false });
    }

    /// A task that is done is remembered as long as the API server may still speak of its Pod.
    fn note_end(&mut self, done: Result<(tokio::task::Id, ()), tokio::task::JoinError>) {
        let id = match done {
            Ok((id, ())) => id,
            Err(error) => {
                tracing::error!(%error, "the task of a Pod failed");
                error.id()
            }
        };
        let ended = self.pods.iter_mut().find(|(_, entry)| entry.task.id() == id);
        let Some((uid, entry)) = ended else { return };
        entry.is_done = true;
        if matches!(*entry.view.borrow(), View::Gone { .. }) {
            let uid = uid.clone();
            self.pods.remove(&uid);
        }
    }
}

fn uid(pod: &Pod) -> String {
    pod.metadata.uid.clone().unwrap_or_default()
}

#[cfg(test)]
mod tests;
