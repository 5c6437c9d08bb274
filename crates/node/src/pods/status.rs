//! A Pod's status as a kubelet would write it.
//!
//! What a launcher Pod's containers are here: `compute` is the launcher's process, `guest-console-log` its log of the
//! guest's console, and `volumekernel-boot-volume` the pull of the boot image. Only the last has an image that was pulled,
//! so only its `imageID` says anything.

use std::net::{IpAddr, Ipv4Addr};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
    ContainerStatus, HostIP, Pod, PodCondition, PodIP, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use launcher::pod_dir::ImageVolume;
use manifest::forms;
use manifest::keys;
use manifest::machine_status::MAX_TERMINATION_MESSAGE_BYTES;
use serde_json::{Value, json};

use super::shape::{BOOT_IMAGE, COMPUTE};

/// Readiness gate of a launcher Pod that KubeVirt's controllers set; here it holds unless somebody says that it does not.
const UNPAUSED: &str = "kubevirt.io/virtual-machine-unpaused";

/// Conditions that a kubelet owns, in the order it writes them, with the gate's.
const OWN_CONDITIONS: [&str; 6] =
    ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled", UNPAUSED];

/// Exit code of a container that ended in an unknown way, as a kubelet has it.
const UNKNOWN_EXIT: i32 = 137;

/// What is told about a Pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Stage {
    /// Nothing runs yet, and nothing is known to keep it from that.
    Preparing,
    /// A volume is not there.
    Waiting {
        /// `ErrImagePull` and the like.
        reason: String,
        message: String,
    },
    /// The launcher runs and can be asked.
    Running {
        run: Run,
        /// The guest is as its readiness probe wants, or there is none.
        is_ready: bool,
    },
    /// It has ended.
    Ended(Run, End),
    /// It never came to run, or is not run at all.
    Failed { reason: &'static str, message: String },
    /// It ran, and nothing is left of it.
    Lost,
}

/// What runs, or ran.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Run {
    pub address: Ipv4Addr,
    pub started: Timestamp,
    /// The image volumes, by name.
    pub volumes: Vec<(String, ImageVolume)>,
}

/// How a launcher ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct End {
    pub exit_code: i32,
    /// Termination message.
    pub message: String,
    pub finished: Timestamp,
}

impl End {
    /// From a launcher's exit code, where that is known, its exit record and what else it said.
    ///
    /// Without a code, since the launcher was another daemon's child, the record tells how it went; without a record it was
    /// killed.
    pub(super) fn new(
        exit_code: Option<i32>,
        record: Option<&[u8]>,
        said: &str,
        finished: Timestamp,
    ) -> Self {
        use manifest::machine_status::{MachineState, MachineStatus};
        let from_record = || {
            let status: MachineStatus = serde_json::from_slice(record?).ok()?;
            Some(if status.state == MachineState::Crashed { 1 } else { 0 })
        };
        let exit_code = exit_code.or_else(from_record).unwrap_or(UNKNOWN_EXIT);
        let message = match record {
            Some(record) => beginning(&String::from_utf8_lossy(record)).to_owned(),
            None => ending(said).to_owned(),
        };
        Self { exit_code, message, finished }
    }
}

/// The longest beginning of `text` that a termination message may have.
fn beginning(text: &str) -> &str {
    let mut end = text.len().min(MAX_TERMINATION_MESSAGE_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// The longest ending of `text` that a termination message may have.
fn ending(text: &str) -> &str {
    let mut start = text.len().saturating_sub(MAX_TERMINATION_MESSAGE_BYTES);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    text[start..].trim()
}

/// The status of `pod` at `stage`, with what others wrote of it kept. Instants are of whole seconds.
pub(super) fn status(pod: &Pod, stage: &Stage, host: IpAddr, now: Timestamp) -> PodStatus {
    let known = pod.status.clone().unwrap_or_default();
    let phase = match stage {
        Stage::Preparing | Stage::Waiting { .. } => "Pending",
        Stage::Running { .. } => "Running",
        Stage::Ended(_, end) if end.exit_code == 0 => "Succeeded",
        Stage::Ended(..) | Stage::Failed { .. } | Stage::Lost => "Failed",
    };
    let spec = pod.spec.clone().unwrap_or_default();
    let initial = spec.init_containers.unwrap_or_default();
    let asks_for_image = initial.iter().any(|container| container.name == BOOT_IMAGE);
    let waits_for_image = if asks_for_image { BOOT_IMAGE } else { COMPUTE };
    let describe = |container: &Container, before: Option<&Vec<ContainerStatus>>| {
        let before = before.into_iter().flatten().find(|status| status.name == container.name);
        container_status(pod, container, before, stage, waits_for_image, now)
    };
    let init_statuses: Vec<_> =
        initial.iter().map(|container| describe(container, known.init_container_statuses.as_ref())).collect();
    let statuses: Vec<_> = spec
        .containers
        .iter()
        .map(|container| describe(container, known.container_statuses.as_ref()))
        .collect();
    // As a kubelet that does not admit a Pod: nothing is said of its containers.
    let refused = matches!(stage, Stage::Failed { .. }) && known.container_statuses.is_none();
    let (reason, message) = match stage {
        Stage::Failed { reason, message } => (Some((*reason).to_owned()), Some(message.clone())),
        Stage::Lost => (
            Some("NodeRestarted".to_owned()),
            Some(
                "The Pod ran before, and nothing of it is left on its node: the host was restarted"
                    .to_owned(),
            ),
        ),
        _ => (None, None),
    };
    let ip = match stage {
        Stage::Running { run, .. } | Stage::Ended(run, _) => Some(run.address.to_string()),
        Stage::Lost => known.pod_ip.clone(),
        _ => None,
    };
    let gates: Vec<String> =
        spec.readiness_gates.iter().flatten().map(|gate| gate.condition_type.clone()).collect();
    PodStatus {
        conditions: Some(conditions(&known, phase, &gates, (&init_statuses, &statuses), now)),
        container_statuses: Some(statuses).filter(|_| !refused),
        init_container_statuses: Some(init_statuses).filter(|statuses| !refused && !statuses.is_empty()),
        host_ip: Some(host.to_string()),
        host_ips: Some(vec![HostIP { ip: host.to_string() }]),
        pod_ip: ip.clone(),
        pod_ips: ip.map(|ip| vec![PodIP { ip }]),
        start_time: Some(known.start_time.unwrap_or_else(|| time(now))),
        phase: Some(phase.to_owned()),
        qos_class: known.qos_class,
        reason,
        message,
        ..PodStatus::default()
    }
}

/// Of whole seconds, as it is on the wire: what is read back is the same.
fn time(at: Timestamp) -> Time {
    Time(Timestamp::from_second(at.as_second()).unwrap_or(at))
}

fn milliseconds(at: u64) -> Timestamp {
    i64::try_from(at).ok().and_then(|at| Timestamp::from_millisecond(at).ok()).unwrap_or_default()
}

fn container_status(
    pod: &Pod,
    container: &Container,
    before: Option<&ContainerStatus>,
    stage: &Stage,
    waits_for_image: &str,
    now: Timestamp,
) -> ContainerStatus {
    let name = container.name.as_str();
    let image = container.image.clone().unwrap_or_default();
    let empty = ContainerStatus { name: name.to_owned(), image: image.clone(), ..ContainerStatus::default() };
    let waiting = |reason: &str, message: Option<&str>| ContainerStatus {
        state: Some(ContainerState {
            waiting: Some(ContainerStateWaiting {
                reason: Some(reason.to_owned()),
                message: message.map(str::to_owned),
            }),
            ..ContainerState::default()
        }),
        started: Some(false),
        ..empty.clone()
    };
    let id = format!("ferrovirt://{}/{name}", pod.metadata.uid.as_deref().unwrap_or_default());
    let terminated =
        |exit_code: i32, reason: &str, message: Option<String>, span: (Option<Timestamp>, Timestamp)| {
            ContainerState {
                terminated: Some(ContainerStateTerminated {
                    container_id: Some(id.clone()),
                    exit_code,
                    reason: Some(reason.to_owned()),
                    message: message.filter(|message| !message.is_empty()),
                    started_at: span.0.map(time),
                    finished_at: Some(time(span.1)),
                    ..ContainerStateTerminated::default()
                }),
                ..ContainerState::default()
            }
        };
    let (run, end, is_ready) = match stage {
        Stage::Preparing | Stage::Failed { .. } => return waiting("PodInitializing", None),
        Stage::Waiting { reason, message } if name == waits_for_image => {
            return waiting(reason, Some(message));
        }
        Stage::Waiting { .. } => return waiting("PodInitializing", None),
        Stage::Lost => return lost(before.cloned().unwrap_or(empty), now),
        Stage::Running { run, is_ready } => (run, None, *is_ready),
        Stage::Ended(run, end) => (run, Some(end), false),
    };
    if name == BOOT_IMAGE {
        let (image_id, span) = boot_image(&image, run);
        return ContainerStatus {
            container_id: Some(id.clone()),
            image_id,
            ready: true,
            started: Some(false),
            state: Some(terminated(0, "Completed", None, (Some(span.0), span.1))),
            ..empty
        };
    }
    let state = match end {
        None => ContainerState {
            running: Some(ContainerStateRunning { started_at: Some(time(run.started)) }),
            ..ContainerState::default()
        },
        Some(end) => {
            // The log of the console ends with the launcher, whatever that came to.
            let (code, message) =
                if name == COMPUTE { (end.exit_code, Some(end.message.clone())) } else { (0, None) };
            let reason = if code == 0 { "Completed" } else { "Error" };
            terminated(code, reason, message, (Some(run.started), end.finished))
        }
    };
    ContainerStatus {
        container_id: Some(id.clone()),
        ready: if name == COMPUTE { is_ready } else { end.is_none() },
        started: Some(end.is_none()),
        state: Some(state),
        ..empty
    }
}

/// A container that a kubelet finds no trace of.
fn lost(before: ContainerStatus, now: Timestamp) -> ContainerStatus {
    if before.state.as_ref().is_some_and(|state| state.terminated.is_some()) {
        return before;
    }
    let started_at = before.state.as_ref().and_then(|state| state.running.as_ref()?.started_at.clone());
    ContainerStatus {
        ready: false,
        started: Some(false),
        state: Some(ContainerState {
            terminated: Some(ContainerStateTerminated {
                container_id: before.container_id.clone(),
                exit_code: UNKNOWN_EXIT,
                reason: Some("ContainerStatusUnknown".to_owned()),
                message: Some("The container could not be located when the pod was terminated".to_owned()),
                started_at,
                finished_at: Some(time(now)),
                ..ContainerStateTerminated::default()
            }),
            ..ContainerState::default()
        }),
        ..before
    }
}

/// The `imageID` of the boot image, and when it was pulled.
fn boot_image(image: &str, run: &Run) -> (String, (Timestamp, Timestamp)) {
    let volume = run.volumes.iter().map(|(_, volume)| volume).find(|volume| volume.image == image);
    let Some(volume) = volume.or(run.volumes.first().map(|(_, volume)| volume)) else {
        return (String::new(), (run.started, run.started));
    };
    let id = match volume.image.parse::<image::Reference>() {
        Ok(reference) => format!("{}@{}", reference.name(), volume.digest),
        Err(_) => volume.digest.clone(),
    };
    (id, (milliseconds(volume.pull_started), milliseconds(volume.pulled)))
}

/// A condition to be, without its instants.
struct Wanted {
    type_: &'static str,
    holds: bool,
    reason: Option<&'static str>,
    message: Option<String>,
}

fn conditions(
    known: &PodStatus,
    phase: &str,
    gates: &[String],
    (initial, main): (&[ContainerStatus], &[ContainerStatus]),
    now: Timestamp,
) -> Vec<PodCondition> {
    let before = |type_: &str| known.conditions.iter().flatten().find(|condition| condition.type_ == type_);
    let wanted = |type_, holds, reason, message| Wanted { type_, holds, reason, message };
    let is_over = match phase {
        "Succeeded" => Some("PodCompleted"),
        "Failed" => Some("PodFailed"),
        _ => None,
    };
    let names = |statuses: &[ContainerStatus]| {
        let unready = statuses.iter().filter(|status| !status.ready).map(|status| status.name.as_str());
        format!("[{}]", unready.collect::<Vec<_>>().join(" "))
    };
    let runs = phase == "Running";
    let initialized = match phase {
        "Succeeded" => wanted("Initialized", true, Some("PodCompleted"), None),
        "Running" => wanted("Initialized", true, None, None),
        // It was once all of it ran; how a Pod that failed ended does not change that.
        "Failed" if before("Initialized").is_some_and(|condition| condition.status == "True") => {
            wanted("Initialized", true, None, None)
        }
        _ if initial.is_empty() => wanted("Initialized", true, None, None),
        _ => {
            let message = format!("containers with incomplete status: {}", names(initial));
            wanted("Initialized", false, Some("ContainersNotInitialized"), Some(message))
        }
    };
    let unready: Vec<_> = initial
        .iter()
        .filter(|status| status.name != BOOT_IMAGE)
        .chain(main)
        .filter(|status| !status.ready)
        .cloned()
        .collect();
    let containers_ready = match is_over {
        Some(reason) => wanted("ContainersReady", false, Some(reason), None),
        None if unready.is_empty() => wanted("ContainersReady", true, None, None),
        None => {
            let message = format!("containers with unready status: {}", names(&unready));
            wanted("ContainersReady", false, Some("ContainersNotReady"), Some(message))
        }
    };
    let holds = |gate: &str| match before(gate) {
        Some(condition) => condition.status == "True",
        None => gate == UNPAUSED,
    };
    let closed: Vec<String> = gates
        .iter()
        .filter(|gate| !holds(gate))
        .map(|gate| match before(gate) {
            None => format!("corresponding condition of pod readiness gate {gate:?} does not exist."),
            Some(condition) => {
                format!("the status of pod readiness gate {gate:?} is not \"True\", but {}", condition.status)
            }
        })
        .collect();
    let ready = if containers_ready.holds && !closed.is_empty() {
        wanted("Ready", false, Some("ReadinessGatesNotReady"), Some(closed.join(", ")))
    } else {
        Wanted { type_: "Ready", message: containers_ready.message.clone(), ..containers_ready }
    };
    let mut all = vec![
        wanted("PodReadyToStartContainers", runs, None, None),
        initialized,
        ready,
        containers_ready,
        wanted("PodScheduled", true, None, None),
    ];
    if runs && before(UNPAUSED).is_none() && gates.iter().any(|gate| gate == UNPAUSED) {
        all.push(wanted(
            UNPAUSED,
            true,
            Some("NotPaused"),
            Some("the virtual machine is not paused".to_owned()),
        ));
    }
    all.into_iter()
        .map(|wanted| {
            let status = if wanted.holds { "True" } else { "False" };
            let since = before(wanted.type_)
                .filter(|before| before.status == status)
                .and_then(|before| before.last_transition_time.clone());
            PodCondition {
                type_: wanted.type_.to_owned(),
                status: status.to_owned(),
                reason: wanted.reason.map(str::to_owned),
                message: wanted.message,
                last_transition_time: Some(since.unwrap_or_else(|| time(now))),
                ..PodCondition::default()
            }
        })
        .collect()
}

/// Whether the Pod's status is as `wanted`, what others own aside.
pub(super) fn is_reported(pod: &Pod, wanted: &PodStatus) -> bool {
    let known = pod.status.clone().unwrap_or_default();
    let essence = |status: &PodStatus| {
        let mut conditions: Vec<_> = status
            .conditions
            .iter()
            .flatten()
            .filter(|condition| OWN_CONDITIONS.contains(&condition.type_.as_str()))
            .filter(|condition| {
                wanted.conditions.iter().flatten().any(|wanted| wanted.type_ == condition.type_)
            })
            .map(|condition| {
                let PodCondition { type_, status, reason, message, .. } = condition.clone();
                (type_, status, reason, message)
            })
            .collect();
        conditions.sort();
        let PodStatus { phase, reason, message, pod_ip, host_ip, start_time, .. } = status.clone();
        let containers = (
            status.container_statuses.clone().unwrap_or_default(),
            status.init_container_statuses.clone().unwrap_or_default(),
        );
        (conditions, phase, reason, message, pod_ip, host_ip, start_time, containers)
    };
    essence(&known) == essence(wanted)
}

/// The strategic merge patch that makes a Pod's status `wanted`, with the label of its node, which the instance's controller
/// would write otherwise; a conflict when another Pod has the name by now.
pub(super) fn patch(uid: &str, node_name: &str, wanted: &PodStatus) -> serde_json::Result<Value> {
    let mut status = forms::to_value(wanted)?;
    // Conditions are merged by type: what is not said any more must be taken away.
    for condition in status["conditions"].as_array_mut().into_iter().flatten() {
        for field in ["reason", "message"] {
            if condition.get(field).is_none() {
                condition[field] = Value::Null;
            }
        }
    }
    let metadata = json!({"uid": uid, "labels": {keys::NODE_NAME: node_name}});
    Ok(json!({"metadata": metadata, "status": status}))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const UID: &str = "0f0f";

    const BOTH: [&str; 2] = ["guest-console-log", BOOT_IMAGE];

    /// As the scheduler leaves it.
    fn pod(init: &[&str]) -> Pod {
        let init: Vec<Value> = init
            .iter()
            .map(|name| match *name {
                BOOT_IMAGE => json!({"name": name, "image": "registry:5000/team/kernel:v1"}),
                _ => json!({"name": name, "image": "ferrovirt/launcher:1", "restartPolicy": "Always"}),
            })
            .collect();
        serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "default", "uid": UID},
            "spec": {
                "containers": [{"name": "compute", "image": "ferrovirt/launcher:1"}],
                "initContainers": init,
                "readinessGates": [{"conditionType": UNPAUSED}],
            },
            "status": {"phase": "Pending", "qosClass": "Burstable", "conditions": [
                {"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-11-22T10:00:00Z"},
            ]},
        }))
        .unwrap()
    }

    fn at(second: i64) -> Timestamp {
        // 2026-11-22T12:00:00Z, and something that is not on the wire.
        Timestamp::from_millisecond((1_795_348_800 + second) * 1000 + 678).unwrap()
    }

    fn run() -> Run {
        let pulled = u64::try_from(at(-5).as_millisecond()).unwrap();
        let volume = ImageVolume {
            image: "registry:5000/team/kernel:v1".to_owned(),
            digest: "sha256:abcd".to_owned(),
            files: Vec::new(),
            missing: Vec::new(),
            pull_started: pulled - 2000,
            pulled,
        };
        Run {
            address: Ipv4Addr::new(127, 88, 1, 2),
            started: at(0),
            volumes: vec![("kernel-boot-volume".to_owned(), volume)],
        }
    }

    fn waiting() -> Stage {
        Stage::Waiting { reason: "ErrImagePull".to_owned(), message: "no such host".to_owned() }
    }

    fn running() -> Stage {
        Stage::Running { run: run(), is_ready: true }
    }

    fn ended(code: i32) -> Stage {
        Stage::Ended(run(), End { exit_code: code, message: "{}".to_owned(), finished: at(60) })
    }

    fn status_at(pod: &Pod, stage: &Stage, second: i64) -> PodStatus {
        status(pod, stage, Ipv4Addr::LOCALHOST.into(), at(second))
    }

    /// The Pod once `stage` was reported at `second`: what went over the wire and back, conditions merged by type.
    fn reported(pod: &Pod, stage: &Stage, second: i64) -> Pod {
        let status = serde_json::to_value(status_at(pod, stage, second)).unwrap();
        let mut status: PodStatus = serde_json::from_value(status).unwrap();
        let conditions = status.conditions.as_mut().unwrap();
        let kept = pod.status.iter().flat_map(|known| known.conditions.iter().flatten());
        let kept: Vec<_> =
            kept.filter(|known| conditions.iter().all(|new| new.type_ != known.type_)).cloned().collect();
        conditions.extend(kept);
        Pod { status: Some(status), ..pod.clone() }
    }

    fn condition<'a>(status: &'a mut PodStatus, type_: &str) -> &'a mut PodCondition {
        status.conditions.as_mut().unwrap().iter_mut().find(|condition| condition.type_ == type_).unwrap()
    }

    #[test]
    fn the_life_of_a_pod() {
        let mut lines = String::new();
        let mut tell = |what: &str, pod: &Pod| {
            let status = serde_json::to_string_pretty(pod.status.as_ref().unwrap()).unwrap();
            lines.push_str(&format!("# {what}\n{status}\n"));
        };
        let accepted = reported(&pod(&BOTH), &Stage::Preparing, -7);
        tell("accepted", &accepted);
        let failing = reported(&accepted, &waiting(), -6);
        tell("its image cannot be pulled", &failing);
        let running = reported(&failing, &running(), 1);
        tell("running", &running);
        tell("shut off", &reported(&running, &ended(0), 61));
        tell("crashed", &reported(&running, &ended(1), 61));
        tell("nothing is left of it", &reported(&running, &Stage::Lost, 90));
        let refused = Stage::Failed { reason: "UnsupportedPod", message: "why".to_owned() };
        tell("not run at all", &reported(&pod(&[]), &refused, 0));
        insta::assert_snapshot!(lines);
    }

    #[test]
    fn without_a_container_for_the_image_compute_waits_for_it() {
        let found = reported(&pod(&["guest-console-log"]), &waiting(), 0).status.unwrap();
        let reason = |statuses: Option<Vec<ContainerStatus>>| {
            statuses.unwrap()[0].state.clone().unwrap().waiting.unwrap().reason.unwrap()
        };
        assert_eq!(reason(found.container_statuses), "ErrImagePull");
        assert_eq!(reason(found.init_container_statuses), "PodInitializing");
    }

    #[test]
    fn what_was_reported_is_not_reported_again_later() {
        let stages = [
            Stage::Preparing,
            waiting(),
            running(),
            ended(0),
            ended(1),
            Stage::Lost,
            Stage::Failed { reason: "StartError", message: "why".to_owned() },
        ];
        for before in &stages {
            for stage in &stages {
                let pod = reported(&reported(&pod(&BOTH), before, 0), stage, 1);
                assert!(is_reported(&pod, &status_at(&pod, stage, 100)), "{before:?} {stage:?}");
            }
        }
    }

    #[test]
    fn what_others_say_is_theirs_and_their_pause_counts() {
        let running = running();
        let mut pod = reported(&pod(&BOTH), &running, 1);
        pod.status.as_mut().unwrap().conditions.as_mut().unwrap().push(PodCondition {
            type_: "example.org/own".to_owned(),
            status: "True".to_owned(),
            ..PodCondition::default()
        });
        assert!(is_reported(&pod, &status_at(&pod, &running, 2)));
        condition(pod.status.as_mut().unwrap(), UNPAUSED).status = "False".to_owned();
        let mut wanted = status_at(&pod, &running, 2);
        assert!(!is_reported(&pod, &wanted));
        let ready = condition(&mut wanted, "Ready");
        let message = format!("the status of pod readiness gate \"{UNPAUSED}\" is not \"True\", but False");
        assert_eq!((ready.status.as_str(), ready.message.clone()), ("False", Some(message)));
    }

    #[test]
    fn a_gate_of_somebody_else_is_closed_until_it_is_opened() {
        let gate = "example.org/gate";
        let mut pod = pod(&BOTH);
        pod.spec.as_mut().unwrap().readiness_gates.as_mut().unwrap()[0].condition_type = gate.to_owned();
        let ready = |pod: &Pod| {
            let mut status = status_at(pod, &running(), 1);
            let ready = condition(&mut status, "Ready").clone();
            (ready.status, ready.message)
        };
        let message = format!("corresponding condition of pod readiness gate \"{gate}\" does not exist.");
        assert_eq!(ready(&pod), ("False".to_owned(), Some(message)));
        pod.status.as_mut().unwrap().conditions.as_mut().unwrap().push(PodCondition {
            type_: gate.to_owned(),
            status: "True".to_owned(),
            ..PodCondition::default()
        });
        assert_eq!(ready(&pod), ("True".to_owned(), None));
    }

    #[test]
    fn a_patch_takes_away_what_is_not_said_any_more() {
        let patch = patch(UID, "node-1", &status_at(&pod(&BOTH), &running(), 1)).unwrap();
        assert_eq!(patch["metadata"]["uid"], UID);
        for condition in patch["status"]["conditions"].as_array().unwrap() {
            assert!(condition.as_object().unwrap().contains_key("message"), "{condition}");
        }
    }

    #[test]
    fn how_a_launcher_ended() {
        let (off, crashed) = (r#"{"state":"shutOff"}"#, r#"{"state":"crashed"}"#);
        let end = |code, record: Option<&str>, said: &str| {
            let end = End::new(code, record.map(str::as_bytes), said, at(0));
            (end.exit_code, end.message)
        };
        assert_eq!(end(Some(0), Some(off), "x"), (0, off.to_owned()));
        assert_eq!(end(None, Some(off), ""), (0, off.to_owned()), "another daemon's child");
        assert_eq!(end(None, Some(crashed), ""), (1, crashed.to_owned()));
        assert_eq!(end(Some(137), None, " why \n"), (137, "why".to_owned()));
        assert_eq!(end(None, None, ""), (137, String::new()));
        assert_eq!(end(None, Some("{"), ""), (137, "{".to_owned()), "a record that is none");
        // Both sides of the limit, and no letter is cut in two.
        let long = "é".repeat(MAX_TERMINATION_MESSAGE_BYTES);
        let length = |record: Option<&str>, said: &str| end(Some(1), record, said).1.len();
        assert_eq!(length(None, &long), MAX_TERMINATION_MESSAGE_BYTES);
        assert_eq!(length(None, &format!("{long}a")), MAX_TERMINATION_MESSAGE_BYTES - 1);
        assert_eq!(length(Some(&format!("a{long}")), ""), MAX_TERMINATION_MESSAGE_BYTES - 1);
    }
}
