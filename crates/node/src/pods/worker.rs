//! One Pod's task: looks, has [`decide`] say what is to be done, and does it.

mod end;
mod facts;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use events::Event;
use futures::future::BoxFuture;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::Api as KubeApi;
use kube::api::{Patch, PatchParams};
use launcher::pod_dir::PodDir;
use rustix::process::Signal;
use tokio::sync::watch;
use tokio::time::Instant;

use super::decide::{Action, Status, decide};
use super::packed::Packed;
use super::probe::{Health, Probing};
use super::record;
use super::runtime::{self, Found, Phase, Runtime};
use super::shape::{COMPUTE, UNSUPPORTED};
use super::status::{self, Stage};
use super::{Node, about_compute, record_event};
use crate::images::{LaidOut, Waiting};
use crate::{by_force, is_gone, logs};
use end::EndBy;
use facts::was_started;

/// A launcher that cannot be asked after this time is killed: it has only to listen.
const START_LIMIT: Duration = Duration::from_secs(30);

/// How often a starting launcher is looked at: it is there within some milliseconds.
const START_POLL: Duration = Duration::from_millis(2);

/// How often one is looked at that takes longer than [`PATIENCE`], or whose process is not known yet.
const SLOW_POLL: Duration = Duration::from_millis(20);

/// See [`SLOW_POLL`].
const PATIENCE: Duration = Duration::from_millis(500);

/// A Pod whose volumes take longer than this to come is reported as accepted meanwhile.
const QUIET: Duration = Duration::from_secs(1);

/// Pauses after requests that failed: the first, and the longest.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// Longest time without a look, when nothing is known to come.
const IDLE: Duration = Duration::from_secs(600);

/// The Pod, as the API server last said.
#[derive(Debug, Clone)]
pub(super) enum View {
    /// It is there.
    Pod(Packed),
    /// It is not.
    Gone {
        /// Somebody saw to that.
        forced: bool,
    },
}

/// One Pod's task.
pub(super) struct Worker {
    node: Arc<Node>,
    uid: String,
    views: watch::Receiver<View>,
    /// The newest object known; the last one, when it is gone.
    newest: Option<Packed>,
    /// The same, while it is worked on.
    pod: Option<Arc<Pod>>,
    /// Set when it is gone: whether by force.
    gone: Option<bool>,
    runtime: Option<Runtime>,
    /// The probes of its guest, since its launcher listens.
    probing: Option<Probing>,
    laid_out: Option<Vec<LaidOut>>,
    waiting: Option<(Waiting, Option<Instant>)>,
    /// It could not be started: why.
    failed: Option<String>,
    end_by: Option<EndBy>,
    /// Its deletion was asked for; the object stays until others let it go.
    deletion_sent: bool,
    failures: u32,
    retry_at: Option<Instant>,
}

impl Worker {
    pub(super) fn new(
        node: Arc<Node>,
        uid: String,
        views: watch::Receiver<View>,
        runtime: Option<Runtime>,
    ) -> Self {
        Self {
            node,
            uid,
            views,
            newest: None,
            pod: None,
            gone: None,
            runtime,
            probing: None,
            laid_out: None,
            waiting: None,
            failed: None,
            end_by: None,
            deletion_sent: false,
            failures: 0,
            retry_at: None,
        }
    }

    /// Works until the Pod is gone and nothing of it is left.
    pub(super) async fn run(mut self) {
        loop {
            self.take_view();
            self.look();
            self.watch_over();
            let action = decide(self.facts());
            let held = self.retry_at.is_some_and(|at| Instant::now() < at);
            // A finalizer of somebody else's keeps the object.
            let waits_for_others = action == Action::DeletePod && self.deletion_sent;
            if action == Action::Wait || waits_for_others || held && action.may_be_repeated() {
                self.wait().await;
                continue;
            }
            tracing::debug!(uid = %self.uid, ?action, "a Pod");
            let done = match action {
                Action::Forget => return,
                Action::Wait => Ok(()),
                // Boxed, since a task takes as much memory as the largest of what it ever does, and most only wait.
                Action::LayOut => {
                    Box::pin(self.lay_out()).await;
                    Ok(())
                }
                Action::Start => {
                    self.start().await;
                    Ok(())
                }
                Action::Report => Box::pin(self.report()).await,
                Action::Terminate => self.terminate(),
                Action::Kill => self.kill(),
                Action::DeletePod => Box::pin(self.delete_pod()).await,
                Action::Remove => Box::pin(self.remove()).await,
            };
            match done {
                Ok(()) => (self.failures, self.retry_at) = (0, None),
                Err(error) => {
                    let pause = RETRY.0.saturating_mul(1 << self.failures.min(10)).min(RETRY.1);
                    self.failures = self.failures.saturating_add(1);
                    self.retry_at = Some(Instant::now() + pause);
                    let object = self.object();
                    if error.is_gone() {
                        tracing::debug!(%error, object, uid = %self.uid, ?action, "a Pod is gone");
                    } else {
                        tracing::warn!(%error, object, uid = %self.uid, ?action, "a Pod's step failed");
                    }
                }
            }
        }
    }

    /// Takes what the API server said last, unless it is older than what it answered to us.
    fn take_view(&mut self) {
        let view = self.views.borrow_and_update().clone();
        match view {
            View::Gone { forced } => self.gone = Some(forced),
            View::Pod(pod) => {
                let is_news = self.newest.as_ref().is_none_or(|newest| pod.is_newer_than(newest));
                if is_news {
                    (self.newest, self.pod) = (Some(pod), None);
                }
            }
        }
        if self.pod.is_none() {
            self.pod = self.newest.as_ref().map(|newest| Arc::new(newest.open()));
        }
    }

    /// Takes what the API server answered.
    fn take_answer(&mut self, mut pod: Pod) {
        pod.metadata.managed_fields = None;
        self.newest = Some(Packed::new(&pod));
        self.pod = Some(Arc::new(pod));
    }

    /// Looks at what the launcher has come to, beside its end, which is waited for.
    fn look(&mut self) {
        let Some(runtime) = &mut self.runtime else { return };
        match runtime.phase {
            Phase::Nameless => match runtime::look(&runtime.directory, &runtime.record) {
                Ok(Some(Found { process, phase })) => {
                    runtime.process = process;
                    runtime.phase = phase;
                }
                Ok(None) => self.runtime = None,
                Err(error) => tracing::debug!(uid = %self.uid, %error, "a launcher cannot be looked at"),
            },
            Phase::Starting(_) if runtime::is_listening(&runtime.directory) => {
                runtime.phase = Phase::Listening
            }
            _ => {}
        }
    }

    /// Probes the guest for as long as its launcher listens and is not told to end.
    fn watch_over(&mut self) {
        let listening = self.runtime.as_ref().filter(|runtime| matches!(runtime.phase, Phase::Listening));
        match (listening, &mut self.probing) {
            (Some(runtime), probing @ None) => {
                *probing = self.pod.as_deref().and_then(|pod| Probing::start(&self.node, pod, &runtime.run));
            }
            (None, Some(probing)) => probing.stop(),
            (_, Some(probing)) => probing.look(),
            (None, None) => {}
        }
    }

    /// Whether the guest has failed its liveness probe.
    fn is_unhealthy(&self) -> bool {
        self.probing.as_ref().is_some_and(|probing| !probing.health.is_live)
    }

    /// What is known of the guest of `pod`.
    fn health(&self, pod: &Pod) -> Health {
        self.probing.as_ref().map_or_else(|| Health::at_first(pod), |probing| probing.health)
    }

    /// Waits until something may have changed.
    async fn wait(&mut self) {
        self.pod = None;
        let now = Instant::now();
        let mut until = now + IDLE;
        let mut no_later = |at: Option<Instant>| until = until.min(at.unwrap_or(until));
        no_later(self.retry_at.filter(|at| *at > now));
        let (mut process, mut starting) = (None, None);
        match &mut self.runtime {
            None => no_later(self.waiting.as_ref().and_then(|(_, retry)| *retry)),
            Some(runtime) => {
                match &runtime.phase {
                    Phase::Nameless => no_later(Some(now + SLOW_POLL)),
                    Phase::Starting(since) => {
                        no_later(Some(*since + START_LIMIT));
                        starting = Some((runtime.directory.clone(), *since));
                    }
                    Phase::Told => no_later(self.end_by.map(|end_by| end_by.at)),
                    Phase::Listening | Phase::Killed | Phase::Ended { .. } => {}
                }
                process = runtime.process.as_mut();
            }
        }
        let ended = async {
            match process {
                Some(process) => process.ended().await,
                None => std::future::pending().await,
            }
        };
        let listens = async {
            match starting {
                Some((directory, since)) => until_listening(&directory, since).await,
                None => std::future::pending().await,
            }
        };
        let probing = &mut self.probing;
        let probed = async {
            match probing {
                Some(probing) => probing.changed().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            code = ended => self.note_end(code),
            () = listens => {}
            () = probed => {}
            // Who tells the views ends its workers too.
            _ = self.views.changed() => {}
            () = tokio::time::sleep_until(until) => {}
        }
    }

    fn note_end(&mut self, code: io::Result<Option<i32>>) {
        let object = self.object();
        let Some(runtime) = &mut self.runtime else { return };
        let code = code.unwrap_or_else(|error| {
            tracing::warn!(object, uid = %self.uid, %error, "the exit code of a launcher cannot be known");
            None
        });
        let was_overdue =
            matches!(runtime.phase, Phase::Killed) && !runtime::is_listening(&runtime.directory);
        let mut end = runtime::read_end(&runtime.directory, code, Timestamp::now());
        if was_overdue && self.end_by.is_none() {
            let limit = START_LIMIT.as_secs();
            end.message =
                format!("the launcher did not answer within {limit} s\n{}", end.message).trim().to_owned();
        }
        runtime.process = None;
        runtime.address = None;
        runtime.leases.clear();
        runtime.phase = Phase::Ended { end, _lock: None };
        self.laid_out = None;
    }

    /// One attempt at the volumes, given up when the Pod is to end meanwhile.
    async fn lay_out(&mut self) {
        let Some(pod) = self.pod.clone() else { return };
        let images = self.node.images.clone();
        let mut attempt: BoxFuture<'_, _> = Box::pin(async move { images.lay_out(&pod).await });
        let mut quiet = Some(Instant::now() + QUIET);
        loop {
            let quiet_until = quiet.unwrap_or_else(Instant::now);
            tokio::select! {
                result = &mut attempt => {
                    match result {
                        Ok(volumes) => (self.laid_out, self.waiting) = (Some(volumes), None),
                        Err(waiting) => {
                            let retry = waiting.retry_after.map(|after| Instant::now() + after);
                            self.waiting = Some((waiting, retry));
                        }
                    }
                    return;
                }
                _ = self.views.changed() => {
                    self.take_view();
                    if decide(self.facts()) != Action::LayOut {
                        return;
                    }
                }
                () = tokio::time::sleep_until(quiet_until), if quiet.is_some() => {
                    quiet = None;
                    let is_reported = self.facts().status == Status::Right;
                    if !is_reported && let Err(error) = self.report().await {
                        tracing::debug!(uid = %self.uid, %error, "a Pod that is being prepared is not reported");
                    }
                }
            }
        }
    }

    /// Makes the directory and starts the launcher.
    async fn start(&mut self) {
        let Some((pod, volumes)) = self.pod.clone().zip(self.laid_out.take()) else { return };
        let (leases, volumes): (Vec<_>, Vec<_>) =
            volumes.into_iter().map(|volume| (volume.lease, (volume.name, volume.record))).unzip();
        let node = Arc::clone(&self.node);
        // A file system may take its time, and so may a fork of a large process.
        let started = tokio::task::spawn_blocking(move || runtime::start(&node, &pod, leases, volumes)).await;
        match started {
            Ok(Ok(runtime)) => self.runtime = Some(runtime),
            Ok(Err(why)) => self.fail(why),
            Err(error) => self.fail(error.to_string()),
        }
    }

    fn fail(&mut self, why: String) {
        tracing::warn!(%why, object = self.object(), uid = %self.uid, "a launcher cannot be started");
        self.event(&Event::warning("Failed", format!("Error: {why}")));
        self.failed = Some(why);
    }

    async fn report(&mut self) -> Result<(), StepError> {
        let Some(pod) = self.pod.clone() else { return Ok(()) };
        let stage = self.stage(&pod);
        let wanted = status::status(&pod, &stage, self.node.settings.address, Timestamp::now());
        let patch = status::patch(&self.uid, &self.node.settings.name, &wanted)?;
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let answer =
            self.pods().patch_status(name, &PatchParams::default(), &Patch::Strategic(&patch)).await?;
        self.take_answer(answer);
        match stage {
            Stage::Running { .. } if !was_started(&pod) => {
                self.event(&Event::normal("Started", format!("Started container {COMPUTE}")));
            }
            Stage::Failed { reason: UNSUPPORTED, message } => {
                self.event(&Event::warning(UNSUPPORTED, message));
            }
            _ => {}
        }
        Ok(())
    }

    fn terminate(&mut self) -> Result<(), StepError> {
        let object = self.object();
        let Some(runtime) = &mut self.runtime else { return Ok(()) };
        if let Some(process) = &runtime.process {
            process.signal(Signal::TERM)?;
        }
        runtime.phase = Phase::Told;
        if !runtime.record.ending {
            runtime.record.ending = true;
            // Without it a daemon that comes after this one records the event again.
            if let Err(error) = runtime.record.write(&runtime.directory) {
                tracing::warn!(object, uid = %self.uid, %error, "the record of a Pod cannot be written");
            }
            // As a kubelet says it.
            let text = if self.is_unhealthy() {
                format!("Container {COMPUTE} failed liveness probe")
            } else {
                format!("Stopping container {COMPUTE}")
            };
            self.event(&Event::normal("Killing", text));
        }
        Ok(())
    }

    fn kill(&mut self) -> Result<(), StepError> {
        let Some(runtime) = &mut self.runtime else { return Ok(()) };
        if let Some(process) = &runtime.process {
            process.signal(Signal::KILL)?;
        }
        runtime.phase = Phase::Killed;
        Ok(())
    }

    async fn delete_pod(&mut self) -> Result<(), StepError> {
        let (_, name) = self.full_name();
        match self.pods().delete(&name, &by_force(Some(self.uid.clone()))).await {
            Ok(answer) => {
                let stays = answer.left().filter(|pod| {
                    pod.metadata.finalizers.as_ref().is_some_and(|finalizers| !finalizers.is_empty())
                });
                match stays {
                    Some(pod) => {
                        self.take_answer(pod);
                        self.deletion_sent = true;
                    }
                    None => self.gone = Some(false),
                }
            }
            // Another has its name, or none.
            Err(error) if is_gone(&error) => self.gone = Some(false),
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    async fn remove(&mut self) -> Result<(), StepError> {
        let Some(runtime) = &self.runtime else { return Ok(()) };
        let (directory, record) = (runtime.directory.clone(), runtime.record.clone());
        let settings = self.node.settings.clone();
        let removed = tokio::task::spawn_blocking(move || {
            let boot = logs::EndedBoot {
                namespace: record.namespace,
                instance: record.instance,
                pod_uid: record.uid,
            };
            if let Err(error) = logs::keep(&settings, &boot, Timestamp::now()) {
                tracing::warn!(directory = %directory.path().display(), %error, "the logs of a Pod are lost");
            }
            record::remove(&directory)
        });
        removed.await.map_err(io::Error::other)??;
        self.runtime = None;
        Ok(())
    }

    fn event(&self, event: &Event) {
        let Some(pod) = self.pod.as_deref() else { return };
        record_event(&self.node, &about_compute(pod), event);
    }

    /// What logs call the Pod.
    fn object(&self) -> String {
        let (namespace, name) = self.full_name();
        format!("{namespace}/{name}")
    }

    fn full_name(&self) -> (String, String) {
        match (self.pod.as_deref(), &self.runtime) {
            (Some(pod), _) => (
                pod.metadata.namespace.clone().unwrap_or_default(),
                pod.metadata.name.clone().unwrap_or_default(),
            ),
            (None, Some(runtime)) => (runtime.record.namespace.clone(), runtime.record.name.clone()),
            (None, None) => Default::default(),
        }
    }

    fn pods(&self) -> KubeApi<Pod> {
        KubeApi::namespaced(self.node.client.clone(), &self.full_name().0)
    }
}

impl Action {
    /// Whether a failed attempt is repeated after a pause only.
    fn may_be_repeated(self) -> bool {
        matches!(self, Self::Report | Self::DeletePod | Self::Remove | Self::Terminate | Self::Kill)
    }
}

/// Why a step failed; it is tried again.
#[derive(Debug, thiserror::Error)]
enum StepError {
    #[error("the API server refused: {0}")]
    Api(#[from] kube::Error),
    #[error("a file or process: {0}")]
    Io(#[from] io::Error),
    #[error("the status cannot be written as JSON: {0}")]
    Json(#[from] serde_json::Error),
}

impl StepError {
    /// Whether the Pod is not there any more, which will be told soon.
    fn is_gone(&self) -> bool {
        matches!(self, Self::Api(error) if is_gone(error))
    }
}

/// Comes back when the launcher that was started at `since` can be asked.
async fn until_listening(directory: &PodDir, since: Instant) {
    while !runtime::is_listening(directory) {
        let pause = if since.elapsed() < PATIENCE { START_POLL } else { SLOW_POLL };
        tokio::time::sleep(pause).await;
    }
}
