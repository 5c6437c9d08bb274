//! Which Pods fit on this machine.
//!
//! ```text
//!  Pods, Node (watched) ──► those that wait, in order ──► fit? ── yes ──► binding ──► event Scheduled
//!                                                             └── no ──► PodScheduled=False ──► event FailedScheduling
//! ```
//!
//! Any change of a Pod or of the Node has all waiting Pods judged again, by priority and then by age. A Pod that does not
//! fit does not hold back those behind it, as with kube-scheduler. The condition always has the numbers of now; an event
//! is recorded only when the reason is another, after a restart too.
//!
//! # Overcommit
//! Requests alone count, never limits or use. Each launcher Pod requests its guest's memory in full with QEMU's overhead,
//! so memory is not promised twice; and 100m of a core for each virtual CPU, so up to ten of them share a core. The Node
//! offers what [`register`](crate::register) says.

mod fit;
mod neighbours;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use events::{Event, Recorder, Source};
use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::{Node, ObjectReference, Pod};
use kube::api::{Patch, PatchParams, PostParams};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Resource as _};
use serde_json::json;

use crate::unowned::Unowned;
use crate::{Settings, is_gone};
use fit::{Amounts, Capacity};
pub(crate) use fit::{cpu_limit, cpu_request, has_ended};
use neighbours::Neighbour;

/// Who binds.
const SCHEDULER: Source<'static> = Source { component: "default-scheduler", host: "" };

/// Pods are judged again after this time when a request to the API server failed.
const RETRY: Duration = Duration::from_secs(2);

/// Binds Pods that fit, until dropped.
pub async fn run(client: kube::Client, settings: &Settings) {
    let recorder = Recorder::new(client.clone());
    Scheduler { client, recorder, node_name: settings.name.clone(), state: State::default() }.run().await
}

/// What is known of the cluster.
#[derive(Default)]
struct State {
    node: Option<Node>,
    /// The Node of a list that is arriving.
    listed_node: Option<Node>,
    /// All that have their place here or wait for one, by UID.
    pods: BTreeMap<String, Known>,
    /// UIDs of Pods that were bound here and that the watch still shows without a node.
    bound: HashSet<String>,
    /// What was said last of Pods that wait, by UID: the watch shows it a little later.
    refused: HashMap<String, String>,
    /// Pods of a list that is arriving.
    listed: BTreeMap<String, Known>,
}

/// What is known of a Pod that matters here.
enum Known {
    /// It waits for a place.
    Waiting(Arc<Pod>),
    /// It is on the node and has not ended.
    Placed(Placed),
}

/// A Pod on the node: what it takes, and what it means to others.
struct Placed {
    requests: Amounts,
    neighbour: Arc<Neighbour>,
}

impl Known {
    /// Of a Pod that is neither here nor waits nothing has to be known.
    fn of(pod: Pod, node_name: &str) -> Option<Self> {
        if fit::is_waiting(&pod) {
            return Some(Self::Waiting(Arc::new(pod)));
        }
        let on = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
        (on == Some(node_name) && !has_ended(&pod)).then(|| Self::Placed(Placed::of(&pod)))
    }

    fn is_waiting(&self) -> bool {
        matches!(self, Self::Waiting(_))
    }
}

impl Placed {
    fn of(pod: &Pod) -> Self {
        Self { requests: fit::requests(pod), neighbour: Arc::new(Neighbour::of(pod)) }
    }

    fn add_to(&self, taken: &mut Amounts, there: &mut Vec<Arc<Neighbour>>) {
        fit::add(taken, &self.requests);
        there.push(Arc::clone(&self.neighbour));
    }
}

struct Scheduler {
    client: kube::Client,
    recorder: Recorder,
    node_name: String,
    state: State,
}

impl State {
    /// Takes an event of the Pods' watch; whether Pods are to be judged now.
    fn take_pod(&mut self, event: watcher::Event<Unowned<Pod>>, node_name: &str) -> bool {
        match event {
            watcher::Event::Init => self.listed = BTreeMap::new(),
            watcher::Event::InitApply(Unowned(pod)) => {
                let uid = uid(&pod);
                self.listed.extend(Known::of(pod, node_name).map(|known| (uid, known)));
            }
            watcher::Event::InitDone => {
                self.pods = std::mem::take(&mut self.listed);
                let pods = &self.pods;
                self.bound.retain(|uid| pods.get(uid).is_some_and(Known::is_waiting));
                self.refused.retain(|uid, _| pods.get(uid).is_some_and(Known::is_waiting));
                return true;
            }
            watcher::Event::Apply(Unowned(pod)) => {
                let uid = uid(&pod);
                let known = Known::of(pod, node_name);
                if !known.as_ref().is_some_and(Known::is_waiting) {
                    self.forget(&uid);
                }
                match known {
                    Some(known) => self.pods.insert(uid, known),
                    None => self.pods.remove(&uid),
                };
                return true;
            }
            watcher::Event::Delete(Unowned(pod)) => {
                let uid = uid(&pod);
                self.forget(&uid);
                self.pods.remove(&uid);
                return true;
            }
        }
        false
    }

    fn forget(&mut self, uid: &str) {
        self.bound.remove(uid);
        self.refused.remove(uid);
    }

    /// Takes an event of the Node's watch; whether Pods are to be judged now.
    fn take_node(&mut self, event: watcher::Event<Unowned<Node>>) -> bool {
        let node = match event {
            watcher::Event::Init => {
                self.listed_node = None;
                return false;
            }
            watcher::Event::InitApply(Unowned(node)) => {
                self.listed_node = Some(node);
                return false;
            }
            watcher::Event::InitDone => self.listed_node.take(),
            watcher::Event::Apply(Unowned(node)) => Some(node),
            watcher::Event::Delete(_) => None,
        };
        // A heartbeat changes nothing here.
        let essence = |node: &Option<Node>| {
            node.as_ref().map(|node| {
                let allocatable = node.status.as_ref().and_then(|status| status.allocatable.clone());
                (node.metadata.labels.clone(), node.spec.clone(), allocatable)
            })
        };
        let is_news = essence(&node) != essence(&self.node);
        self.node = node;
        is_news
    }

    /// Whether a Pod waits for a place; most events are of Pods that have theirs.
    fn anyone_waits(&self) -> bool {
        self.pods.iter().any(|(uid, pod)| pod.is_waiting() && !self.bound.contains(uid))
    }

    /// What is taken of the node and by whom, and who waits for the rest: the most important first, then the oldest.
    fn judge(&self) -> (Amounts, Vec<Arc<Neighbour>>, Vec<Arc<Pod>>) {
        let (mut taken, mut there) = (Amounts::new(), Vec::new());
        let mut waiting = Vec::new();
        for (uid, pod) in &self.pods {
            match pod {
                Known::Placed(placed) => placed.add_to(&mut taken, &mut there),
                Known::Waiting(pod) if self.bound.contains(uid) => {
                    Placed::of(pod).add_to(&mut taken, &mut there)
                }
                Known::Waiting(pod) => waiting.push(Arc::clone(pod)),
            }
        }
        waiting.sort_by_key(|pod| {
            let priority = pod.spec.as_ref().and_then(|spec| spec.priority).unwrap_or_default();
            let meta = &pod.metadata;
            let created = meta.creation_timestamp.as_ref().map(|time| time.0);
            (std::cmp::Reverse(priority), created, meta.namespace.clone(), meta.name.clone())
        });
        (taken, there, waiting)
    }
}

impl Scheduler {
    async fn run(mut self) {
        let pods: Api<Unowned<Pod>> = Api::all(self.client.clone());
        let nodes: Api<Unowned<Node>> = Api::all(self.client.clone());
        let mut pods = watcher(pods, watcher::Config::default()).default_backoff().boxed();
        let of_node = watcher::Config::default().fields(&format!("metadata.name={}", self.node_name));
        let mut nodes = watcher(nodes, of_node).default_backoff().boxed();
        let (mut has_pods, mut has_node) = (false, false);
        let mut retry = false;
        loop {
            let is_news = tokio::select! {
                event = pods.try_next() => match event {
                    Ok(Some(event)) => {
                        has_pods |= matches!(event, watcher::Event::InitDone);
                        self.state.take_pod(event, &self.node_name)
                    }
                    Ok(None) => return,
                    Err(error) => {
                        tracing::warn!(%error, "the watch of Pods to schedule broke");
                        false
                    }
                },
                event = nodes.try_next() => match event {
                    Ok(Some(event)) => {
                        let is_first = !has_node && matches!(event, watcher::Event::InitDone);
                        has_node |= is_first;
                        self.state.take_node(event) || is_first
                    }
                    Ok(None) => return,
                    Err(error) => {
                        tracing::warn!(%error, "the watch of the Node broke");
                        false
                    }
                },
                () = tokio::time::sleep(RETRY), if retry => true,
            };
            // Without all Pods what is taken is not known.
            if is_news && has_pods && has_node {
                retry = !self.schedule().await;
            }
        }
    }

    /// Judges all Pods that wait; whether every request to the API server was answered.
    async fn schedule(&mut self) -> bool {
        if !self.state.anyone_waits() {
            return true;
        }
        let (mut taken, mut there, waiting) = self.state.judge();
        let mut is_done = true;
        for pod in waiting {
            let capacity = Capacity { node: self.state.node.as_ref(), taken: taken.clone(), pods: &there };
            let verdict = fit::fit(&pod, &capacity);
            let outcome = match verdict {
                Ok(()) => {
                    let bound = self.bind(&pod).await;
                    if matches!(bound, Ok(true)) {
                        Placed::of(&pod).add_to(&mut taken, &mut there);
                        self.state.bound.insert(uid(&pod));
                    }
                    bound.map(drop)
                }
                Err(misfit) => self.refuse(&pod, &misfit.message()).await,
            };
            if let Err(error) = outcome {
                let meta = &pod.metadata;
                tracing::warn!(%error, object = crate::object(meta), uid = meta.uid, "a Pod could not be scheduled");
                is_done = false;
            }
        }
        is_done
    }

    /// Puts the Pod on the node; `false` when it is gone or has one.
    async fn bind(&self, pod: &Pod) -> Result<bool, kube::Error> {
        let (namespace, name) = full_name(pod);
        let binding = json!({
            "apiVersion": "v1", "kind": "Binding",
            "metadata": {"name": name, "namespace": namespace, "uid": pod.metadata.uid},
            "target": {"apiVersion": "v1", "kind": "Node", "name": self.node_name},
        });
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let answer: Result<serde_json::Value, _> =
            api.create_subresource("binding", name, &PostParams::default(), &binding).await;
        match answer {
            Ok(_) => {}
            Err(error) if is_gone(&error) => return Ok(false),
            Err(error) => return Err(error),
        }
        let message = format!("Successfully assigned {namespace}/{name} to {}", self.node_name);
        self.recorder.record(SCHEDULER, &reference(pod), &Event::normal("Scheduled", message));
        Ok(true)
    }

    /// Says in the Pod why it waits, unless it says so already.
    async fn refuse(&mut self, pod: &Pod, message: &str) -> Result<(), kube::Error> {
        let conditions =
            pod.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
        let said = conditions.iter().find(|condition| condition.type_ == "PodScheduled");
        let shown = said
            .filter(|said| said.status == "False" && said.reason.as_deref() == Some("Unschedulable"))
            .and_then(|said| said.message.as_deref());
        let before = self.state.refused.get(&uid(pod)).map(String::as_str).or(shown).unwrap_or_default();
        if before == message {
            return Ok(());
        }
        let is_news = fit::without_numbers(before) != fit::without_numbers(message);
        let since =
            said.filter(|said| said.status == "False").and_then(|said| said.last_transition_time.clone());
        let since = since.map_or_else(jiff::Timestamp::now, |time| time.0);
        let condition = json!({
            "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message,
            "lastProbeTime": null, "lastTransitionTime": format!("{since:.0}"),
        });
        // The UID makes it a conflict when another Pod has the name by now.
        let patch = json!({"metadata": {"uid": pod.metadata.uid}, "status": {"conditions": [condition]}});
        let (namespace, name) = full_name(pod);
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        match api.patch_status(name, &PatchParams::default(), &Patch::Strategic(&patch)).await {
            Ok(_) => {}
            Err(error) if is_gone(&error) => return Ok(()),
            Err(error) => return Err(error),
        }
        self.state.refused.insert(uid(pod), message.to_owned());
        if is_news {
            self.recorder.record(SCHEDULER, &reference(pod), &Event::warning("FailedScheduling", message));
        }
        Ok(())
    }
}

fn uid(pod: &Pod) -> String {
    pod.metadata.uid.clone().unwrap_or_default()
}

fn full_name(pod: &Pod) -> (&str, &str) {
    (pod.metadata.namespace.as_deref().unwrap_or_default(), pod.metadata.name.as_deref().unwrap_or_default())
}

/// The Pod without its resourceVersion, which would make every repeat of an event another.
fn reference(pod: &Pod) -> ObjectReference {
    ObjectReference { resource_version: None, ..pod.object_ref(&()) }
}

#[cfg(test)]
mod tests;
