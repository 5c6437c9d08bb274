//! One task for each live launcher: hands it the instance, then listens to it.
//!
//! ```text
//!  tend ──► sync, again with back-off until the machine is there ──► status, status, … ──► the machine has ended
//!                        │                                               │
//!                        └───────────── what it said; wake the controller ┘
//! ```
//!
//! A follower decides nothing. A launcher that does not answer is only a reason to look at its Pod, which says whether
//! it is gone. There is one follower for each instance, since an instance has one Pod.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::SinkExt;
use futures::channel::mpsc;
use kube::Resource as _;
use kube::runtime::reflector::ObjectRef;
use manifest::machine_status::{MachineState, MachineStatus};
use manifest::types::VirtualMachineInstance;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use crate::Launchers;
use crate::identity::Packed;
use crate::launchers::LauncherError;

/// Longest wait for a machine to be started.
const SYNC_TIMEOUT: Duration = Duration::from_secs(120);

/// Longest wait for a status, which a launcher gives after some seconds even where nothing changed.
const STATUS_TIMEOUT: Duration = Duration::from_secs(60);

/// Longest wait for the answer to a shutdown.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(10);

/// Between attempts to start a machine that cannot be started: doubled from the first to the second.
const SYNC_RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// Between attempts to reach a launcher.
const CONNECT_RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// What a launcher says is passed on this many times in this time at most; a guest that panics and reboots in a circle
/// must not have the server write all the time.
const MOST_NEWS: usize = 20;
const NEWS_WINDOW: Duration = Duration::from_secs(20);

/// An answer with nothing new that came sooner than this is waited for.
const SHORTEST_POLL: Duration = Duration::from_millis(200);

/// An instance as the controller keeps it.
pub(super) type Instance = Packed<VirtualMachineInstance>;

/// What a follower does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Intent {
    /// Starts the machine and listens.
    Start,
    /// Listens.
    Listen,
}

/// What a follower was told last. It has the instance in common with who told it: a copy of its own would be older, and
/// twice in memory.
#[derive(Debug)]
struct Told {
    intent: Intent,
    instance: Arc<Instance>,
}

/// What a launcher has said.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Latest {
    pub machine: Option<MachineStatus>,
    pub refusal: Option<String>,
}

#[derive(Debug)]
struct Follower {
    pod_uid: String,
    at: SocketAddr,
    latest: Arc<Mutex<Latest>>,
    told: watch::Sender<Told>,
    told_grace: Option<u64>,
    task: JoinHandle<()>,
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The followers, by the UIDs of their instances.
pub(super) struct Followers {
    launchers: Arc<dyn Launchers>,
    wake: mpsc::Sender<ObjectRef<Instance>>,
    followers: Mutex<HashMap<String, Follower>>,
}

impl Followers {
    /// Followers of `launchers` that send the instance to look at to `wake`.
    pub fn new(launchers: Arc<dyn Launchers>, wake: mpsc::Sender<ObjectRef<Instance>>) -> Self {
        Self { launchers, wake, followers: Mutex::default() }
    }

    /// Has the launcher of the Pod `pod_uid` at `at` followed; returns what it has said so far.
    pub fn tend(&self, instance: &Arc<Instance>, pod_uid: &str, at: SocketAddr, intent: Intent) -> Latest {
        let uid = instance.meta().uid.clone().unwrap_or_default();
        let instance = Arc::clone(instance);
        let mut followers = self.lock();
        if followers.get(&uid).is_none_or(|follower| follower.pod_uid != pod_uid || follower.at != at) {
            let latest = Arc::<Mutex<Latest>>::default();
            let (sender, receiver) = watch::channel(Told { intent, instance: Arc::clone(&instance) });
            let job = Job {
                launchers: Arc::clone(&self.launchers),
                at,
                told: receiver,
                latest: Arc::clone(&latest),
                wake: self.wake.clone(),
                news: VecDeque::new(),
            };
            let follower = Follower {
                pod_uid: pod_uid.to_owned(),
                at,
                latest,
                told: sender,
                told_grace: None,
                task: tokio::spawn(job.run()),
            };
            followers.insert(uid.clone(), follower);
        }
        let Some(follower) = followers.get(&uid) else { return Latest::default() };
        follower.told.send_if_modified(|told| {
            let changes = told.intent != intent;
            *told = Told { intent, instance };
            changes
        });
        let latest = follower.latest.lock().unwrap_or_else(PoisonError::into_inner);
        latest.clone()
    }

    /// What the instance's launcher has said.
    pub fn latest(&self, uid: &str) -> Latest {
        let followers = self.lock();
        followers.get(uid).map_or_else(Latest::default, |follower| {
            follower.latest.lock().unwrap_or_else(PoisonError::into_inner).clone()
        })
    }

    /// Has the instance's launcher shut the guest down, if it was not told the same before. Does not wait: the Pod's
    /// deletion, which goes along with it, has the same effect where the launcher is not reached.
    pub fn shutdown(&self, uid: &str, grace_seconds: u64) {
        let mut followers = self.lock();
        let Some(follower) = followers.get_mut(uid) else { return };
        if follower.told_grace == Some(grace_seconds) {
            return;
        }
        follower.told_grace = Some(grace_seconds);
        let asked = self.launchers.shutdown(follower.at, grace_seconds);
        let at = follower.at;
        tokio::spawn(async move {
            match timeout(SHUTDOWN_TIMEOUT, asked).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!(%at, %error, "a launcher was not told to shut down"),
                Err(_) => tracing::debug!(%at, "a launcher did not answer to a shutdown"),
            }
        });
    }

    /// Forgets the instance's launcher.
    pub fn forget(&self, uid: &str) {
        self.lock().remove(uid);
    }

    /// Forgets the launchers of all instances but those.
    pub fn retain(&self, is_there: impl Fn(&str) -> bool) {
        self.lock().retain(|uid, _| is_there(uid));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Follower>> {
        self.followers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A follower's task.
struct Job {
    launchers: Arc<dyn Launchers>,
    at: SocketAddr,
    told: watch::Receiver<Told>,
    latest: Arc<Mutex<Latest>>,
    wake: mpsc::Sender<ObjectRef<Instance>>,
    news: VecDeque<Instant>,
}

impl Job {
    async fn run(mut self) {
        let mut revision = 0;
        // Whether the launcher has taken the instance, as far as this follower knows.
        let mut has_taken = false;
        let mut start_retry = SYNC_RETRY.0;
        let mut connect_retry = CONNECT_RETRY.0;
        loop {
            let began = Instant::now();
            let starts = !has_taken && self.told.borrow_and_update().intent == Intent::Start;
            match self.ask(starts, revision).await {
                Ok(status) => {
                    connect_retry = CONNECT_RETRY.0;
                    let is_new = status.revision != revision;
                    let has_failed = status.state == MachineState::None && status.sync_error.is_some();
                    let is_taken = starts || !status.vmi_uid.is_empty();
                    let is_over = status.state.is_final();
                    revision = status.revision;
                    has_taken = is_taken && !has_failed;
                    self.publish(Latest { machine: Some(status), refusal: None }).await;
                    if is_over {
                        return;
                    }
                    if has_failed {
                        self.pause(&mut start_retry, SYNC_RETRY.1).await;
                    } else if !starts && !is_new && began.elapsed() < SHORTEST_POLL {
                        sleep(SHORTEST_POLL).await;
                    }
                }
                Err(LauncherError::Refused(refusal)) => {
                    has_taken = false;
                    let machine = self.last().machine;
                    self.publish(Latest { machine, refusal: Some(refusal) }).await;
                    self.pause(&mut start_retry, SYNC_RETRY.1).await;
                }
                Err(error @ LauncherError::Unreachable { .. }) => {
                    tracing::debug!(%error, "looking at the Pod of a launcher");
                    self.wake().await;
                    self.pause(&mut connect_retry, CONNECT_RETRY.1).await;
                }
            }
        }
    }

    async fn ask(&self, starts: bool, after: u64) -> Result<MachineStatus, LauncherError> {
        let instance = self.instance();
        let uid = instance.meta().uid.clone().unwrap_or_default();
        let (limit, answer) = if starts {
            // Who told of it has read it.
            let read = instance.read().map_err(|error| LauncherError::Refused(error.to_string()))?;
            (SYNC_TIMEOUT, self.launchers.sync(self.at, &read))
        } else {
            (STATUS_TIMEOUT, self.launchers.status(self.at, after))
        };
        // An answer can take long, and the instance may be another by then.
        drop(instance);
        let unreachable = |reason: String| LauncherError::Unreachable { address: self.at, reason };
        let status = timeout(limit, answer)
            .await
            .map_err(|_| unreachable(format!("no answer in {} seconds", limit.as_secs())))??;
        if status.vmi_uid.is_empty() || status.vmi_uid == uid {
            Ok(status)
        } else {
            Err(unreachable("the launcher of another instance answers there".to_owned()))
        }
    }

    /// Waits, or until it is told to do something else.
    async fn pause(&mut self, retry: &mut Duration, longest: Duration) {
        tokio::select! {
            () = sleep(*retry) => {}
            changed = self.told.changed() => {
                if changed.is_err() {
                    // Forgotten; the task is about to be ended.
                    std::future::pending::<()>().await;
                }
            }
        }
        *retry = longest.min(*retry * 2);
    }

    fn instance(&self) -> Arc<Instance> {
        Arc::clone(&self.told.borrow().instance)
    }

    fn last(&self) -> Latest {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Passes on what was said, if it is news.
    async fn publish(&mut self, latest: Latest) {
        if self.last() == latest {
            return;
        }
        if self.news.len() == MOST_NEWS
            && let Some(first) = self.news.pop_front()
        {
            tokio::time::sleep_until(first + NEWS_WINDOW).await;
        }
        self.news.push_back(Instant::now());
        *self.latest.lock().unwrap_or_else(PoisonError::into_inner) = latest;
        self.wake().await;
    }

    async fn wake(&mut self) {
        let object = ObjectRef::from_obj(self.instance().as_ref());
        if self.wake.send(object).await.is_err() {
            // The controller is gone, and this task with it.
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use futures::StreamExt;
    use futures::future::BoxFuture;
    use serde_json::json;

    use super::*;

    /// Answers from a script, the last one for ever; notes what it was asked.
    #[derive(Default)]
    struct Scripted {
        answers: Mutex<VecDeque<Result<MachineStatus, LauncherError>>>,
        asked: Arc<Mutex<Vec<String>>>,
    }

    impl Scripted {
        fn next(&self, asked: String) -> BoxFuture<'static, Result<MachineStatus, LauncherError>> {
            self.asked.lock().unwrap().push(asked);
            match self.answers.lock().unwrap().pop_front() {
                Some(answer) => Box::pin(async move {
                    sleep(Duration::from_millis(1)).await;
                    answer
                }),
                None => Box::pin(std::future::pending()),
            }
        }
    }

    impl Launchers for Scripted {
        fn sync(
            &self,
            _at: SocketAddr,
            instance: &VirtualMachineInstance,
        ) -> BoxFuture<'static, Result<MachineStatus, LauncherError>> {
            self.next(format!("sync {}", instance.metadata.name.as_deref().unwrap()))
        }

        fn status(
            &self,
            _at: SocketAddr,
            after: u64,
        ) -> BoxFuture<'static, Result<MachineStatus, LauncherError>> {
            self.next(format!("status {after}"))
        }

        fn shutdown(
            &self,
            _at: SocketAddr,
            grace_seconds: u64,
        ) -> BoxFuture<'static, Result<(), LauncherError>> {
            self.asked.lock().unwrap().push(format!("shutdown {grace_seconds}"));
            Box::pin(async { Ok(()) })
        }
    }

    fn status(revision: u64, state: MachineState) -> Result<MachineStatus, LauncherError> {
        Ok(MachineStatus { revision, state, vmi_uid: "u".to_owned(), ..MachineStatus::default() })
    }

    fn failed(revision: u64) -> Result<MachineStatus, LauncherError> {
        let error = Some("no such file".to_owned());
        status(revision, MachineState::None).map(|status| MachineStatus { sync_error: error, ..status })
    }

    fn unreachable() -> Result<MachineStatus, LauncherError> {
        Err(LauncherError::Unreachable { address: AT.parse().unwrap(), reason: "refused".to_owned() })
    }

    const AT: &str = "127.88.0.1:8443";

    struct World {
        followers: Followers,
        woken: mpsc::Receiver<ObjectRef<Instance>>,
        asked: Arc<Mutex<Vec<String>>>,
        instance: Arc<Instance>,
    }

    impl World {
        fn new(answers: Vec<Result<MachineStatus, LauncherError>>) -> Self {
            let asked = Arc::<Mutex<Vec<String>>>::default();
            let launchers = Scripted { answers: Mutex::new(answers.into()), asked: Arc::clone(&asked) };
            let (wake, woken) = mpsc::channel(8);
            let object = json!({"metadata": {"name": "kb", "uid": "u"}, "spec": {"domain": {"devices": {}}}});
            Self {
                followers: Followers::new(Arc::new(launchers), wake),
                woken,
                asked,
                instance: Arc::new(serde_json::from_value(object).unwrap()),
            }
        }

        fn tend(&self, intent: Intent) -> Latest {
            self.followers.tend(&self.instance, "pod", AT.parse().unwrap(), intent)
        }

        async fn woken(&mut self) -> Latest {
            assert_eq!(self.woken.next().await.unwrap().name, "kb");
            self.followers.latest("u")
        }

        fn asked(&self) -> Vec<String> {
            self.asked.lock().unwrap().clone()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_instance_is_handed_over_once_and_then_listened_to() {
        let mut world = World::new(vec![
            status(1, MachineState::None),
            status(2, MachineState::Running),
            status(3, MachineState::ShutOff),
        ]);
        assert_eq!(world.tend(Intent::Start), Latest::default());
        for state in [MachineState::None, MachineState::Running, MachineState::ShutOff] {
            assert_eq!(world.woken().await.machine.unwrap().state, state);
            world.tend(Intent::Start);
        }
        sleep(Duration::from_secs(100)).await;
        assert_eq!(world.asked(), ["sync kb", "status 1", "status 2"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_machine_that_cannot_be_started_is_tried_again_ever_more_slowly() {
        let mut world = World::new((1..=9).map(failed).collect());
        let start = Instant::now();
        world.tend(Intent::Start);
        let mut waits = Vec::new();
        for _ in 0..9 {
            world.woken().await;
            waits.push(start.elapsed().as_secs());
        }
        assert_eq!(waits, [0, 1, 3, 7, 15, 31, 63, 123, 183]);
        assert!(world.asked().iter().all(|asked| asked == "sync kb"));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_being_deleted_is_not_started_again() {
        let mut world = World::new(vec![failed(1), failed(1)]);
        world.tend(Intent::Start);
        world.woken().await;
        world.tend(Intent::Listen);
        sleep(Duration::from_secs(100)).await;
        assert_eq!(world.asked(), ["sync kb", "status 1", "status 1", "status 1"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_launcher_that_does_not_answer_is_a_reason_to_look_and_loses_nothing() {
        let mut world = World::new(vec![
            unreachable(),
            status(1, MachineState::Running),
            unreachable(),
            unreachable(),
            status(2, MachineState::Paused),
        ]);
        world.tend(Intent::Start);
        assert_eq!(world.woken().await, Latest::default());
        for _ in 0..3 {
            assert_eq!(world.woken().await.machine.unwrap().state, MachineState::Running);
        }
        assert_eq!(world.woken().await.machine.unwrap().state, MachineState::Paused);
        assert_eq!(world.asked()[..5], ["sync kb", "sync kb", "status 1", "status 1", "status 1"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_is_passed_on_and_another_instances_launcher_is_not_believed() {
        let foreign = MachineStatus {
            vmi_uid: "other".to_owned(),
            state: MachineState::Crashed,
            ..MachineStatus::default()
        };
        let mut world = World::new(vec![Err(LauncherError::Refused("no".to_owned())), Ok(foreign)]);
        world.tend(Intent::Start);
        assert_eq!(world.woken().await.refusal.as_deref(), Some("no"));
        assert_eq!(world.woken().await.machine, None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_launcher_that_says_much_is_heard_once_a_second() {
        let mut world =
            World::new((1..=60).map(|revision| status(revision, MachineState::Running)).collect());
        let start = Instant::now();
        world.tend(Intent::Start);
        let mut last = 0;
        while last < 60 {
            last = world.woken().await.machine.unwrap().revision;
        }
        assert!(start.elapsed() >= NEWS_WINDOW * 2, "{:?}", start.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_shutdown_is_asked_for_once_for_each_grace() {
        let world = World::new(Vec::new());
        world.followers.shutdown("u", 30);
        world.tend(Intent::Listen);
        for grace in [30, 30, 0, 0] {
            world.followers.shutdown("u", grace);
        }
        sleep(Duration::from_secs(1)).await;
        let asked: Vec<_> = world.asked().into_iter().filter(|asked| asked.starts_with("shutdown")).collect();
        assert_eq!(asked, ["shutdown 30", "shutdown 0"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_forgotten_launcher_is_asked_nothing_more() {
        let mut world = World::new(vec![status(1, MachineState::Running), status(1, MachineState::Running)]);
        world.tend(Intent::Start);
        world.woken().await;
        world.followers.retain(|uid| uid != "u");
        sleep(Duration::from_secs(100)).await;
        assert!(world.asked().len() <= 2, "{:?}", world.asked());
        assert_eq!(world.followers.latest("u"), Latest::default());
    }
}
