//! One Pod's task: looks, has [`decide`] say what is to be done, and does it.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use events::{Event, Recorder, Source};
use futures::future::BoxFuture;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Api as KubeApi, Resource as _};
use launcher::pod_dir::{LauncherRecord, PodDir};
use rustix::process::Signal;
use tokio::sync::watch;
use tokio::time::Instant;

use super::address::{Address, Addresses};
use super::decide::{Action, Api, Facts, Launcher, Start, Status, decide};
use super::process::{self, Launch, Lock, Process, Scopes};
use super::record::{self, Contents, PodRecord};
use super::shape::{COMPUTE, LauncherPod, MOST_GRACE_SECONDS, UNSUPPORTED};
use super::status::{self, End, Run, Stage};
use crate::images::{ImageManager, LaidOut, Waiting};
use crate::{Settings, files, logs};

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

/// What a launcher has when its Pod was removed by force (`minimumGracePeriodInSeconds` of a kubelet).
const FORCED_GRACE: Duration = Duration::from_secs(2);

/// Pauses after requests that failed: the first, and the longest.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// Longest time without a look, when nothing is known to come.
const IDLE: Duration = Duration::from_secs(600);

/// Longest exit record that is looked at, in bytes; what is told of it is shorter.
const MOST_RECORD_BYTES: u64 = 64 * 1024;

/// What all workers share.
pub(super) struct Node {
    pub client: kube::Client,
    pub settings: Settings,
    pub images: ImageManager,
    pub recorder: Recorder,
    pub addresses: Addresses,
    pub scopes: Scopes,
}

/// The Pod, as the API server last said.
#[derive(Debug, Clone)]
pub(super) enum View {
    /// It is there.
    Pod(Arc<Pod>),
    /// It is not.
    Gone {
        /// Somebody saw to that.
        forced: bool,
    },
}

/// A Pod that has, or had, a launcher.
pub(super) struct Runtime {
    directory: PodDir,
    record: PodRecord,
    run: Run,
    /// Held while the launcher lives.
    address: Option<Address>,
    leases: Vec<image::store::Lease>,
    process: Option<Process>,
    phase: Phase,
}

enum Phase {
    /// It lives, and its process is not known.
    Nameless,
    /// It does not listen yet.
    Starting(Instant),
    Listening,
    Told,
    Killed,
    Ended {
        end: End,
        /// Keeps the directory's lock where nobody else does: none can come to life there.
        _lock: Option<std::fs::File>,
    },
}

/// When a launcher that was told to end is killed.
#[derive(Debug, Clone, Copy)]
struct EndBy {
    /// What it was computed from: a change of it moves the end.
    grace: Duration,
    at: Instant,
}

/// One Pod's task.
pub(super) struct Worker {
    node: Arc<Node>,
    uid: String,
    views: watch::Receiver<View>,
    /// The newest object known; the last one, when it is gone.
    pod: Option<Arc<Pod>>,
    /// Set when it is gone: whether by force.
    gone: Option<bool>,
    runtime: Option<Runtime>,
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
            pod: None,
            gone: None,
            runtime,
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
                Action::LayOut => {
                    self.lay_out().await;
                    Ok(())
                }
                Action::Start => {
                    self.start().await;
                    Ok(())
                }
                Action::Report => self.report().await,
                Action::Terminate => self.terminate(),
                Action::Kill => self.kill(),
                Action::DeletePod => self.delete_pod().await,
                Action::Remove => self.remove().await,
            };
            match done {
                Ok(()) => (self.failures, self.retry_at) = (0, None),
                Err(error) => {
                    let pause = RETRY.0.saturating_mul(1 << self.failures.min(10)).min(RETRY.1);
                    self.failures = self.failures.saturating_add(1);
                    self.retry_at = Some(Instant::now() + pause);
                    let (namespace, name) = self.full_name();
                    if error.is_gone() {
                        tracing::debug!(%error, %namespace, %name, uid = %self.uid, ?action, "a Pod is gone");
                    } else {
                        tracing::warn!(%error, %namespace, %name, uid = %self.uid, ?action, "a Pod's step failed");
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
                let is_older = self.pod.as_deref().is_some_and(|known| revision(&pod) < revision(known));
                if !is_older {
                    self.pod = Some(pod);
                }
            }
        }
    }

    /// Looks at what the launcher has come to, beside its end, which is waited for.
    fn look(&mut self) {
        let Some(runtime) = &mut self.runtime else { return };
        match runtime.phase {
            Phase::Nameless => match look(&runtime.directory, &runtime.record) {
                Ok(Some(Found { process, phase })) => {
                    runtime.process = process;
                    runtime.phase = phase;
                }
                Ok(None) => self.runtime = None,
                Err(error) => tracing::debug!(uid = %self.uid, %error, "a launcher cannot be looked at"),
            },
            Phase::Starting(_) if is_listening(&runtime.directory) => runtime.phase = Phase::Listening,
            _ => {}
        }
    }

    fn facts(&mut self) -> Facts {
        let api = self.api();
        if self.runtime.as_ref().is_some_and(|runtime| matches!(runtime.phase, Phase::Told)) {
            self.update_end();
        }
        let now = Instant::now();
        let launcher = match &self.runtime {
            None => Launcher::Absent,
            Some(runtime) => match &runtime.phase {
                Phase::Nameless => Launcher::Nameless,
                Phase::Starting(since) => {
                    Launcher::Starting { overdue: now.duration_since(*since) >= START_LIMIT }
                }
                Phase::Listening => Launcher::Listening,
                Phase::Told => Launcher::Told { overdue: self.end_by.is_some_and(|end_by| end_by.at <= now) },
                Phase::Killed => Launcher::Killed,
                Phase::Ended { .. } => Launcher::Ended,
            },
        };
        let is_reported = self.pod.as_deref().is_none_or(|pod| status::is_reported(pod, &self.status(pod)));
        let status = if is_reported { Status::Right } else { Status::Stale };
        Facts { api, launcher, start: self.start_facts(now), status }
    }

    fn api(&self) -> Api {
        let Some(pod) = self.pod.as_deref().filter(|_| self.gone.is_none()) else { return Api::Gone };
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        let is_final = matches!(phase, Some("Succeeded" | "Failed"));
        match (is_final, pod.metadata.deletion_timestamp.is_some()) {
            (false, false) => Api::Live,
            (false, true) => Api::Deleting,
            (true, false) => Api::Final,
            (true, true) => Api::FinalDeleting,
        }
    }

    fn start_facts(&self, now: Instant) -> Start {
        let Some(pod) = self.pod.as_deref() else { return Start::Waiting };
        if self.failed.is_some() {
            return Start::Failed;
        }
        if LauncherPod::read(pod).is_err() {
            return Start::Unsupported;
        }
        if was_started(pod) {
            return Start::Lost;
        }
        match (&self.laid_out, &self.waiting) {
            (Some(_), _) => Start::Ready,
            (None, Some((_, retry))) if retry.is_none_or(|at| now < at) => Start::Waiting,
            (None, _) => Start::Due,
        }
    }

    /// What is to be told of the Pod.
    fn stage(&self, pod: &Pod) -> Stage {
        if let Some(runtime) = &self.runtime {
            return match &runtime.phase {
                Phase::Ended { end, .. } => Stage::Ended(runtime.run.clone(), end.clone()),
                _ => Stage::Running(runtime.run.clone()),
            };
        }
        match (&self.failed, LauncherPod::read(pod), &self.waiting) {
            (Some(message), _, _) => Stage::Failed { reason: "StartError", message: message.clone() },
            (None, Err(message), _) => Stage::Failed { reason: UNSUPPORTED, message },
            (None, Ok(_), _) if was_started(pod) => Stage::Lost,
            (None, Ok(_), Some((Waiting { reason, message, .. }, _))) => {
                Stage::Waiting { reason: reason.clone(), message: message.clone() }
            }
            (None, Ok(_), None) => Stage::Preparing,
        }
    }

    fn status(&self, pod: &Pod) -> k8s_openapi::api::core::v1::PodStatus {
        status::status(pod, &self.stage(pod), self.node.settings.address, Timestamp::now())
    }

    /// Moves the end of a launcher that was told, when its Pod's grace has changed. It is only ever moved forward.
    fn update_end(&mut self) {
        let grace = self.grace();
        if self.end_by.is_some_and(|end_by| end_by.grace == grace) {
            return;
        }
        let at = Instant::now() + self.remaining(grace);
        let at = self.end_by.map_or(at, |end_by| end_by.at.min(at));
        self.end_by = Some(EndBy { grace, at });
    }

    /// How long the launcher may take to end, from the moment when that was asked for.
    fn grace(&self) -> Duration {
        let of_record = self.runtime.as_ref().map_or(0, |runtime| runtime.record.grace_seconds);
        let of_pod = self.pod.as_deref().and_then(|pod| pod.metadata.deletion_grace_period_seconds);
        let seconds = match self.gone {
            Some(true) => return FORCED_GRACE,
            Some(false) => of_record,
            None => of_pod.and_then(|grace| u64::try_from(grace).ok()).unwrap_or(of_record),
        };
        Duration::from_secs(seconds.min(MOST_GRACE_SECONDS))
    }

    /// What is left of `grace`: less than all of it when its Pod was deleted some time ago. A clock that was set back
    /// does not make it longer.
    fn remaining(&self, grace: Duration) -> Duration {
        let deletion = self.pod.as_deref().and_then(|pod| pod.metadata.deletion_timestamp.as_ref());
        match deletion.filter(|_| self.gone.is_none()) {
            Some(at) => {
                let left = at.0.duration_since(Timestamp::now());
                Duration::try_from(left).unwrap_or_default().min(grace)
            }
            None => grace,
        }
    }

    /// Waits until something may have changed.
    async fn wait(&mut self) {
        let now = Instant::now();
        let mut until = now + IDLE;
        let mut no_later = |at: Option<Instant>| until = until.min(at.unwrap_or(until));
        no_later(self.retry_at.filter(|at| *at > now));
        let mut process = None;
        match &mut self.runtime {
            None => no_later(self.waiting.as_ref().and_then(|(_, retry)| *retry)),
            Some(runtime) => {
                match &runtime.phase {
                    Phase::Nameless => no_later(Some(now + SLOW_POLL)),
                    Phase::Starting(since) => {
                        let is_new = now.duration_since(*since) < PATIENCE;
                        no_later(Some(now + if is_new { START_POLL } else { SLOW_POLL }));
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
        tokio::select! {
            biased;
            code = ended => self.note_end(code),
            // Who tells the views ends its workers too.
            _ = self.views.changed() => {}
            () = tokio::time::sleep_until(until) => {}
        }
    }

    fn note_end(&mut self, code: io::Result<Option<i32>>) {
        let Some(runtime) = &mut self.runtime else { return };
        let code = code.unwrap_or_else(|error| {
            tracing::warn!(uid = %self.uid, %error, "the exit code of a launcher cannot be known");
            None
        });
        let was_overdue = matches!(runtime.phase, Phase::Killed) && !is_listening(&runtime.directory);
        let mut end = read_end(&runtime.directory, code, Timestamp::now());
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
        let started = tokio::task::spawn_blocking(move || start_launcher(&node, &pod, leases, volumes)).await;
        match started {
            Ok(Ok(runtime)) => self.runtime = Some(runtime),
            Ok(Err(why)) => self.fail(why),
            Err(error) => self.fail(error.to_string()),
        }
    }

    fn fail(&mut self, why: String) {
        let (namespace, name) = self.full_name();
        tracing::warn!(%why, %namespace, %name, uid = %self.uid, "a launcher cannot be started");
        self.event(&Event::warning("Failed", format!("Error: {why}")));
        self.failed = Some(why);
    }

    async fn report(&mut self) -> Result<(), StepError> {
        let Some(pod) = self.pod.clone() else { return Ok(()) };
        let stage = self.stage(&pod);
        let wanted = status::status(&pod, &stage, self.node.settings.address, Timestamp::now());
        let patch = status::patch(&self.uid, &wanted)?;
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let answer =
            self.pods().patch_status(name, &PatchParams::default(), &Patch::Strategic(&patch)).await?;
        self.pod = Some(Arc::new(answer));
        match stage {
            Stage::Running(_) if !was_started(&pod) => {
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
        let Some(runtime) = &mut self.runtime else { return Ok(()) };
        if let Some(process) = &runtime.process {
            process.signal(Signal::TERM)?;
        }
        runtime.phase = Phase::Told;
        if !runtime.record.ending {
            runtime.record.ending = true;
            // Without it a daemon that comes after this one records the event again.
            if let Err(error) = runtime.record.write(&runtime.directory) {
                tracing::warn!(uid = %self.uid, %error, "the record of a Pod cannot be written");
            }
            self.event(&Event::normal("Killing", format!("Stopping container {COMPUTE}")));
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
        let preconditions = Preconditions { uid: Some(self.uid.clone()), resource_version: None };
        let parameters = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(preconditions),
            ..DeleteParams::default()
        };
        match self.pods().delete(&name, &parameters).await {
            Ok(answer) => {
                let stays = answer.left().filter(|pod| {
                    pod.metadata.finalizers.as_ref().is_some_and(|finalizers| !finalizers.is_empty())
                });
                match stays {
                    Some(pod) => {
                        self.pod = Some(Arc::new(pod));
                        self.deletion_sent = true;
                    }
                    None => self.gone = Some(false),
                }
            }
            // Another has its name, or none.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => self.gone = Some(false),
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
        let source = Source { component: "kubelet", host: &self.node.settings.name };
        let about = ObjectReference {
            resource_version: None,
            field_path: Some(format!("spec.containers{{{COMPUTE}}}")),
            ..pod.object_ref(&())
        };
        self.node.recorder.record(source, &about, event);
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
        matches!(self, Self::Api(kube::Error::Api(status)) if matches!(status.code, 404 | 409))
    }
}

/// Of two objects of one UID the one with the higher number is newer; a version that is no number is the newest.
fn revision(pod: &Pod) -> u64 {
    pod.metadata.resource_version.as_deref().and_then(|version| version.parse().ok()).unwrap_or(u64::MAX)
}

/// Whether the Pod's launcher has run, by its status.
fn was_started(pod: &Pod) -> bool {
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_deref());
    statuses.unwrap_or_default().iter().any(|status| {
        status.state.as_ref().is_some_and(|state| state.running.is_some() || state.terminated.is_some())
    })
}

/// Where a launcher's standard streams go until it listens and lets go of them: what keeps it from starting is in there.
fn output(directory: &PodDir) -> std::path::PathBuf {
    directory.path().join("logs").join("launcher.out")
}

fn is_listening(directory: &PodDir) -> bool {
    directory.launcher_record().exists()
}

fn start_launcher(
    node: &Node,
    pod: &Pod,
    leases: Vec<image::store::Lease>,
    volumes: Vec<(String, launcher::pod_dir::ImageVolume)>,
) -> Result<Runtime, String> {
    let shape = LauncherPod::read(pod)?;
    let uid = pod.metadata.uid.clone().unwrap_or_default();
    let settings = &node.settings;
    let address = node.addresses.take(&uid).ok_or("no address for it is free in 127.88.0.0/16")?;
    let identity = settings.authority.launcher(address.get().into()).map_err(|error| chain(&error))?;
    let started = Timestamp::now();
    let grace = pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds).unwrap_or(30);
    let mut record = PodRecord {
        uid: uid.clone(),
        name: pod.metadata.name.clone().unwrap_or_default(),
        namespace: shape.namespace.clone(),
        instance: shape.instance.clone(),
        address: address.get(),
        grace_seconds: u64::try_from(grace).unwrap_or_default(),
        started: u64::try_from(started.as_millisecond()).unwrap_or_default(),
        process_id: None,
        ending: false,
    };
    let authority = settings.authority.certificate();
    let contents = Contents { record: &record, volumes: &volumes, authority, identity: &identity };
    let pods = &settings.pods_dir;
    let directory = record::create(pods, &contents)
        .map_err(|error| format!("cannot make its directory in `{}`: {error}", pods.display()))?;
    let launch = Launch {
        program: settings.program.clone(),
        arguments: arguments(settings, &shape, directory.path(), address.get()),
        uid,
        output: output(&directory),
        scopes: node.scopes,
    };
    let process = Process::start(&launch).and_then(|process| {
        record.process_id = Some(process.id());
        // It is in `launcher.json` too, once that is there.
        record.write(&directory)?;
        Ok(process)
    });
    let process = process.map_err(|error| {
        if let Err(error) = record::remove(&directory) {
            tracing::warn!(directory = %directory.path().display(), %error, "a Pod's directory stays");
        }
        format!("cannot start `{}`: {error}", launch.program.display())
    })?;
    Ok(Runtime {
        run: run_of(&record, volumes),
        directory,
        record,
        address: Some(address),
        leases,
        process: Some(process),
        phase: Phase::Starting(Instant::now()),
    })
}

fn run_of(record: &PodRecord, volumes: Vec<(String, launcher::pod_dir::ImageVolume)>) -> Run {
    let started = i64::try_from(record.started).ok().and_then(|at| Timestamp::from_millisecond(at).ok());
    Run { address: record.address, started: started.unwrap_or_default(), volumes }
}

/// Everything that a launcher is told on its command line.
fn arguments(
    settings: &Settings,
    shape: &LauncherPod,
    directory: &Path,
    address: std::net::Ipv4Addr,
) -> Vec<String> {
    let mut arguments = settings.program_arguments.clone();
    arguments.push("launcher".to_owned());
    arguments.extend(shape.arguments());
    arguments.extend(["--pod-dir".to_owned(), directory.to_string_lossy().into_owned()]);
    arguments.extend(["--listen".to_owned(), format!("{address}:{}", launcher::pod_dir::CONTROL_PORT)]);
    arguments
}

fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// What a directory's launcher left, or `None` for the exit code's part.
fn read_end(directory: &PodDir, code: Option<i32>, finished: Timestamp) -> End {
    let read = |path: &Path| {
        files::read_start(path, MOST_RECORD_BYTES).unwrap_or_else(|error| {
            tracing::warn!(file = %path.display(), %error, "what a launcher left cannot be read");
            None
        })
    };
    let record = read(&directory.exit_record());
    let said = read(&output(directory)).unwrap_or_default();
    End::new(code, record.as_deref(), &String::from_utf8_lossy(&said), finished)
}

/// What was found in a directory that an earlier daemon left.
struct Found {
    process: Option<Process>,
    phase: Phase,
}

/// Looks at a directory of an earlier daemon; `None` when its launcher never came to anything and never will, and the
/// directory has been removed.
fn look(directory: &PodDir, pod: &PodRecord) -> io::Result<Option<Found>> {
    let launcher: Option<LauncherRecord> = record::read(&directory.launcher_record())?;
    match process::lock(directory)? {
        Lock::Missing => Ok(None),
        Lock::Held => {
            let id = launcher.as_ref().map(|launcher| launcher.process_id).or(pod.process_id);
            let process = id.map(|id| Process::adopt(directory, id)).transpose()?.flatten();
            let phase = match (&process, launcher) {
                (None, _) => Phase::Nameless,
                (Some(_), Some(_)) => Phase::Listening,
                (Some(_), None) => Phase::Starting(Instant::now()),
            };
            Ok(Some(Found { process, phase }))
        }
        Lock::Ours(lock) => {
            let exit = std::fs::symlink_metadata(directory.exit_record());
            if launcher.is_none() && exit.is_err() {
                record::remove(directory)?;
                return Ok(None);
            }
            let finished = exit.and_then(|exit| exit.modified()).ok();
            let finished =
                finished.and_then(|at| Timestamp::try_from(at).ok()).unwrap_or_else(Timestamp::now);
            let end = read_end(directory, None, finished);
            Ok(Some(Found { process: None, phase: Phase::Ended { end, _lock: Some(lock) } }))
        }
    }
}

/// Takes over what an earlier daemon left of a Pod; `None` when that is nothing.
pub(super) async fn adopt(
    images: &ImageManager,
    addresses: &Addresses,
    directory: PodDir,
    record: PodRecord,
) -> io::Result<Option<Runtime>> {
    let Some(Found { process, phase }) = look(&directory, &record)? else { return Ok(None) };
    let volumes = record::volumes(&directory)?;
    let (mut leases, mut address) = (Vec::new(), None);
    if !matches!(phase, Phase::Ended { .. }) {
        address = addresses.claim(record.address);
        for (name, volume) in &volumes {
            match images.keep(volume).await {
                Ok(lease) => leases.push(lease),
                Err(error) => {
                    tracing::warn!(uid = %record.uid, volume = %name, %error, "an image in use is not in the store");
                }
            }
        }
    }
    let run = run_of(&record, volumes);
    Ok(Some(Runtime { directory, record, run, address, leases, process, phase }))
}
