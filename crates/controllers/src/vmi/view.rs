//! What a launcher Pod says that its instance's controller needs, and nothing else. A Pod's status is written by its
//! node; texts are cut where they are long.

use std::net::SocketAddr;

use k8s_openapi::api::core::v1::{ContainerState, ContainerStatus, Pod, PodCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use manifest::forms;
use manifest::keys::{self, PullProgress};
use manifest::machine_status::{MAX_TERMINATION_MESSAGE_BYTES, MachineStatus};
use serde::{Deserialize, Deserializer};

use super::pod::{COMPUTE, CONTROL_PORT, CONTROL_PORT_NAME, UNPAUSED};
use crate::identity::{Identity, without_ownership};

/// Longest message that is passed on to the instance's status, in bytes.
pub(super) const MOST_MESSAGE_BYTES: usize = 4096;

/// Waiting reasons that an instance's status tells of.
const IMAGE_FAILURES: [&str; 2] = ["ErrImagePull", "ImagePullBackOff"];

/// How far a Pod is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// It is not ready to be given the instance.
    Waiting,
    /// The launcher runs and everything beside it is ready.
    Ready,
    /// The launcher has ended.
    Ended,
}

/// A reason and the words to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Said {
    pub reason: String,
    pub message: String,
}

/// What a Pod says.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct PodView {
    pub name: String,
    pub uid: String,
    pub stage: Stage,
    /// It is being deleted, and its node is to be done by then (seconds since the Unix epoch).
    pub deleted_by: Option<i64>,
    /// Seconds that its deletion gives it.
    pub deletion_grace_seconds: Option<i64>,
    /// The node it is bound to.
    pub node_name: Option<String>,
    /// The launcher's control API; there while the launcher runs.
    pub control: Option<SocketAddr>,
    /// The machine's last status, from the launcher's termination message.
    pub last: Option<MachineStatus>,
    /// Why an image is not there.
    pub image_failure: Option<Said>,
    /// Why no node takes it.
    pub unschedulable: Option<Said>,
    /// Its condition `Ready`: status, and why.
    pub ready: Option<(String, Said)>,
    /// Status of the condition by which the controller opens the readiness gate.
    pub unpaused: Option<String>,
    /// Whether it has the label with its node's name.
    pub has_node_label: bool,
    pub qos_class: Option<String>,
    pub launcher_image: Option<String>,
    /// How far the pull of an image is.
    pub progress: Option<PullProgress>,
}

impl PodView {
    /// Whether it is on its way out, or out.
    pub fn is_going(&self) -> bool {
        self.deleted_by.is_some() || self.stage == Stage::Ended
    }
}

/// A launcher Pod as a watch keeps it: a whole one takes 20 KB in memory.
pub(super) type LauncherPod = Identity<Pod, Kept>;

/// What is kept of a launcher Pod.
#[derive(Debug, Clone)]
pub(super) struct Kept {
    pub view: PodView,
    /// Whose it is.
    pub controller: Option<OwnerReference>,
}

impl<'de> Deserialize<'de> for LauncherPod {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (metadata, object) = without_ownership(deserializer)?;
        let pod: Pod = forms::from_value(&object).map_err(serde::de::Error::custom)?;
        let note = Kept { view: view(&pod), controller: controller(&pod).cloned() };
        Ok(Self::new(metadata, note))
    }
}

/// The owner that looks after `pod`.
pub(super) fn controller(pod: &Pod) -> Option<&OwnerReference> {
    pod.metadata.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))
}

/// Reads `pod`.
pub(super) fn view(pod: &Pod) -> PodView {
    let metadata = &pod.metadata;
    let status = pod.status.as_ref();
    let statuses = status.and_then(|status| status.container_statuses.as_deref()).unwrap_or_default();
    let compute = statuses.iter().find(|status| status.name == COMPUTE);
    let annotation = |key| metadata.annotations.as_ref().and_then(|annotations| annotations.get(key));
    let label = |key| metadata.labels.as_ref().and_then(|labels| labels.get(key));
    let node_name = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).filter(|name| !name.is_empty());
    PodView {
        name: metadata.name.clone().unwrap_or_default(),
        uid: metadata.uid.clone().unwrap_or_default(),
        stage: stage(pod, statuses, compute),
        deleted_by: metadata.deletion_timestamp.as_ref().map(|time| time.0.as_second()),
        deletion_grace_seconds: metadata.deletion_grace_period_seconds,
        has_node_label: node_name.is_some() && label(keys::NODE_NAME) == node_name.as_ref(),
        node_name,
        control: compute.and_then(|compute| control(pod, compute)),
        last: compute.and_then(last_status),
        image_failure: image_failure(pod),
        unschedulable: condition(pod, "PodScheduled")
            .filter(|condition| {
                condition.status == "False" && condition.reason.as_deref() == Some("Unschedulable")
            })
            .map(said),
        ready: condition(pod, "Ready").map(|condition| (condition.status.clone(), said(condition))),
        unpaused: condition(pod, UNPAUSED).map(|condition| condition.status.clone()),
        qos_class: status.and_then(|status| status.qos_class.clone()),
        launcher_image: pod
            .spec
            .as_ref()
            .and_then(|spec| spec.containers.iter().find(|container| container.name == COMPUTE))
            .and_then(|container| container.image.clone()),
        // Whoever may write Pods may write anything there; what is no progress is not passed on.
        progress: annotation(keys::PULL_PROGRESS).and_then(|text| serde_json::from_str(text).ok()),
    }
}

fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

/// A readiness probe of the guest is the container's, so `compute` need only run; everything beside it must be ready.
fn stage(pod: &Pod, statuses: &[ContainerStatus], compute: Option<&ContainerStatus>) -> Stage {
    let state = compute.and_then(|compute| compute.state.as_ref());
    if matches!(phase(pod), "Succeeded" | "Failed") || state.is_some_and(|state| state.terminated.is_some()) {
        return Stage::Ended;
    }
    let others_ready =
        statuses.iter().all(|status| matches!(status.name.as_str(), COMPUTE | "istio-proxy") || status.ready);
    let runs = state.is_some_and(|state| state.running.is_some());
    let deleting = pod.metadata.deletion_timestamp.is_some();
    if phase(pod) == "Running" && runs && others_ready && !deleting { Stage::Ready } else { Stage::Waiting }
}

fn control(pod: &Pod, compute: &ContainerStatus) -> Option<SocketAddr> {
    compute.state.as_ref()?.running.as_ref()?;
    let address = pod.status.as_ref()?.pod_ip.as_deref()?.parse().ok()?;
    let container = pod.spec.as_ref()?.containers.iter().find(|container| container.name == COMPUTE)?;
    let named = container.ports.iter().flatten().find(|port| port.name.as_deref() == Some(CONTROL_PORT_NAME));
    let port = named.and_then(|port| u16::try_from(port.container_port).ok()).unwrap_or(CONTROL_PORT);
    Some(SocketAddr::new(address, port))
}

fn last_status(compute: &ContainerStatus) -> Option<MachineStatus> {
    let message = compute.state.as_ref()?.terminated.as_ref()?.message.as_deref()?;
    if message.len() > MAX_TERMINATION_MESSAGE_BYTES {
        return None;
    }
    // A launcher that was killed has left none, and a container of somebody else's says what it likes.
    serde_json::from_str(message).ok()
}

fn image_failure(pod: &Pod) -> Option<Said> {
    let status = pod.status.as_ref()?;
    let all = status.init_container_statuses.iter().chain(&status.container_statuses).flatten();
    all.filter_map(|container| container.state.as_ref().and_then(waiting))
        .find(|said| IMAGE_FAILURES.contains(&said.reason.as_str()))
}

fn waiting(state: &ContainerState) -> Option<Said> {
    let waiting = state.waiting.as_ref()?;
    Some(Said {
        reason: waiting.reason.clone()?,
        message: cut(waiting.message.as_deref().unwrap_or_default()).to_owned(),
    })
}

fn condition<'a>(pod: &'a Pod, type_: &str) -> Option<&'a PodCondition> {
    pod.status.as_ref()?.conditions.as_ref()?.iter().find(|condition| condition.type_ == type_)
}

fn said(condition: &PodCondition) -> Said {
    Said {
        reason: condition.reason.clone().unwrap_or_default(),
        message: cut(condition.message.as_deref().unwrap_or_default()).to_owned(),
    }
}

/// The beginning of `text` that is passed on.
pub(super) fn cut(text: &str) -> &str {
    let mut end = text.len().min(MOST_MESSAGE_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// What a guest wrote, without what would make a terminal do something.
pub(super) fn printable(text: &str) -> String {
    let shown =
        |character: char| if character.is_control() && character != '\n' { '\u{fffd}' } else { character };
    text.chars().map(shown).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use manifest::machine_status::{MachineState, StateReason};
    use serde_json::{Value, json};

    use super::*;

    fn seen(changes: Value) -> PodView {
        let mut pod = json!({
            "metadata": {"name": "p", "uid": "u"},
            "spec": {
                "nodeName": "n",
                "containers": [
                    {"name": "other", "image": "o"},
                    {"name": "compute", "image": "l", "ports": [{"name": "control", "containerPort": 8443}]},
                ],
                "volumes": [{"name": "private", "emptyDir": {}}],
            },
            "status": {
                "phase": "Running", "podIP": "127.88.0.1",
                "containerStatuses": [
                    {"name": "compute", "ready": false, "restartCount": 0, "image": "", "imageID": "",
                     "state": {"running": {}}},
                ],
            },
        });
        json_patch::merge(&mut pod, &changes);
        view(&serde_json::from_value(pod).unwrap())
    }

    fn container(name: &str, ready: bool, state: Value) -> Value {
        json!({
            "name": name, "ready": ready, "restartCount": 0, "image": "", "imageID": "", "state": state,
        })
    }

    #[test]
    fn of_a_launcher_pod_its_view_and_its_owner_are_kept() {
        let owner = |uid: &str, controller: bool| json!({"apiVersion": "v1", "kind": "K", "name": "o", "uid": uid, "controller": controller});
        let pod = json!({
            "metadata": {
                "name": "p", "namespace": "work", "ownerReferences": [owner("a", false), owner("b", true)],
            },
            "spec": {"nodeName": "n", "containers": [{"name": "compute", "image": "l"}]},
        });
        let kept: LauncherPod = serde_json::from_value(pod.clone()).unwrap();
        assert_eq!(kept.key(), ("work", "p"));
        assert_eq!(kept.note.view, view(&serde_json::from_value(pod).unwrap()));
        assert_eq!(kept.note.controller.unwrap().uid, "b");
    }

    #[test]
    fn a_pod_is_ready_when_compute_runs_and_the_others_are_ready() {
        let running = || container("compute", false, json!({"running": {}}));
        let with = |other: Value| json!({"status": {"containerStatuses": [running(), other]}});
        let table = [
            (json!({}), Stage::Ready),
            (with(container("other", false, json!({"running": {}}))), Stage::Waiting),
            (with(container("other", true, json!({"running": {}}))), Stage::Ready),
            (with(container("istio-proxy", false, json!({"running": {}}))), Stage::Ready),
            (json!({"status": {"phase": "Pending"}}), Stage::Waiting),
            (json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}), Stage::Waiting),
            (json!({"status": {"containerStatuses": null}}), Stage::Waiting),
            (json!({"status": null}), Stage::Waiting),
            (json!({"status": {"phase": "Failed", "containerStatuses": null}}), Stage::Ended),
            (json!({"status": {"phase": "Succeeded"}}), Stage::Ended),
            (
                json!({"status": {"containerStatuses": [
                    container("compute", false, json!({"terminated": {"exitCode": 1}})),
                ]}}),
                Stage::Ended,
            ),
            (
                json!({"status": {"containerStatuses": [
                    container("compute", false, json!({"waiting": {"reason": "ContainerCreating"}})),
                ]}}),
                Stage::Waiting,
            ),
        ];
        for (changes, stage) in table {
            assert_eq!(seen(changes.clone()).stage, stage, "{changes}");
        }
    }

    #[test]
    fn the_launcher_is_where_the_pod_says() {
        assert_eq!(seen(json!({})).control.unwrap().to_string(), "127.88.0.1:8443");
        assert_eq!(seen(json!({"status": {"podIP": "nonsense"}})).control, None);
        let pending = json!({"status": {"containerStatuses": [container("compute", false, json!({}))]}});
        assert_eq!(seen(pending).control, None);
    }

    #[test]
    fn two_image_failures_are_told_and_no_others() {
        let waiting = |list: &str, reason: &str| {
            let state = json!({"waiting": {"reason": reason, "message": "m"}});
            seen(json!({"status": {list: [container("x", false, state)]}})).image_failure
        };
        for list in ["initContainerStatuses", "containerStatuses"] {
            for reason in ["ErrImagePull", "ImagePullBackOff"] {
                let said = Said { reason: reason.to_owned(), message: "m".to_owned() };
                assert_eq!(waiting(list, reason), Some(said));
            }
            for reason in ["ErrImageNeverPull", "InvalidImageName", "PodInitializing"] {
                assert_eq!(waiting(list, reason), None);
            }
        }
    }

    #[test]
    fn the_last_status_is_the_termination_message() {
        let ended = |message: &str| {
            let state = json!({"terminated": {"exitCode": 0, "message": message}});
            seen(json!({"status": {"containerStatuses": [container("compute", false, state)]}})).last
        };
        let last = ended(r#"{"revision":7,"state":"shutOff","reason":"shutdown"}"#).unwrap();
        assert_eq!((last.state, last.reason), (MachineState::ShutOff, StateReason::Shutdown));
        assert_eq!(ended("OOMKilled"), None);
        assert_eq!(ended(&format!("{{\"vmiUid\":\"{}\"}}", "x".repeat(5000))), None);
    }

    #[test]
    fn conditions_and_annotations_are_read() {
        let pod = seen(json!({
            "metadata": {
                "labels": {"kubevirt.io/nodeName": "n"},
                "annotations": {"ferrovirt.dev/pull-progress": r#"{"image":"i","bytes":1,"total":4,"percent":25}"#},
            },
            "status": {"qosClass": "Burstable", "conditions": [
                {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes"},
                {"type": "Ready", "status": "False", "reason": "ContainersNotReady", "message": "x".repeat(5000)},
                {"type": "kubevirt.io/virtual-machine-unpaused", "status": "True"},
            ]},
        }));
        assert_eq!(pod.unschedulable.unwrap().message, "0/1 nodes");
        assert_eq!(pod.ready.unwrap().1.message.len(), MOST_MESSAGE_BYTES);
        assert_eq!((pod.unpaused.as_deref(), pod.has_node_label), (Some("True"), true));
        assert_eq!(pod.progress.unwrap().percent, 25);
        let other = seen(json!({"status": {"conditions": [
            {"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"},
        ]}}));
        assert_eq!((other.unschedulable, other.has_node_label), (None, false));
    }
}
