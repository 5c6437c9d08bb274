//! The conditions of an instance: which there are, and how a list of them changes.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use manifest::keys::PullProgress;
use manifest::machine_status::{GuestAgent, GuestPanic, MachineState, MachineStatus, StateReason};
use manifest::types::{Condition, VirtualMachineInstance};

use super::migratable;
use super::phase::Phase;
use super::view::{PodView, Said, Stage, cut, printable};

pub(super) const READY: &str = "Ready";
pub(super) const SYNCHRONIZED: &str = "Synchronized";
pub(super) const POD_SCHEDULED: &str = "PodScheduled";
pub(super) const PAUSED: &str = "Paused";
pub(super) const AGENT_CONNECTED: &str = "AgentConnected";
pub(super) const AGENT_UNSUPPORTED: &str = "AgentVersionNotSupported";
pub(super) const LIVE_MIGRATABLE: &str = "LiveMigratable";
pub(super) const STORAGE_LIVE_MIGRATABLE: &str = "StorageLiveMigratable";

/// Reason of `Synchronized` where the launcher could not start the machine.
pub(super) const SYNC_FAILED: &str = "Synchronizing with the Domain failed.";

/// Console lines that the condition of a panic repeats.
const PANIC_LINES: usize = 20;

const MIB: u64 = 1 << 20;

/// A condition's content; `None` says that it is not to be there.
pub(super) type Wanted = Option<(&'static str, Said)>;

fn wanted(status: &'static str, reason: &str, message: &str) -> Wanted {
    Some((status, Said { reason: reason.to_owned(), message: message.to_owned() }))
}

/// Whether the guest can be used.
pub(super) fn ready(phase: Phase, pod: Option<&PodView>) -> Wanted {
    let not_running = || wanted("False", "GuestNotRunning", "Guest VM is not reported as running");
    match pod {
        // What has ended says so for as long as it is there, whatever becomes of its Pod.
        _ if phase.is_final() => not_running(),
        None => wanted("False", "PodNotExists", "virt-launcher pod has not yet been scheduled"),
        Some(pod) if pod.is_going() => wanted("False", "PodTerminating", "virt-launcher pod is terminating"),
        Some(_) if phase != Phase::Running => not_running(),
        Some(pod) => match &pod.ready {
            Some((status, said)) => {
                let status = match status.as_str() {
                    "True" => "True",
                    "False" => "False",
                    _ => "Unknown",
                };
                Some((status, said.clone()))
            }
            None => {
                wanted("False", "PodConditionMissing", "virt-launcher pod is missing the Ready condition")
            }
        },
    }
}

/// Whether the cluster could do what the instance asks; there only while it could not.
pub(super) fn synchronized(
    phase: Phase,
    pod: Option<&PodView>,
    create_error: Option<&str>,
    sync_error: Option<&str>,
) -> Wanted {
    if let Some(error) = create_error.filter(|_| phase == Phase::Pending) {
        return wanted("False", "FailedCreate", cut(error));
    }
    match (phase, sync_error) {
        (Phase::Scheduling, _) => pod.and_then(|pod| pod.image_failure.clone()).map(|said| ("False", said)),
        (Phase::Scheduled, Some(error)) => wanted("False", SYNC_FAILED, cut(error)),
        _ => None,
    }
}

/// There only while no node takes the Pod.
pub(super) fn pod_scheduled(phase: Phase, pod: Option<&PodView>) -> Wanted {
    let unschedulable = pod.and_then(|pod| pod.unschedulable.clone());
    unschedulable.filter(|_| phase == Phase::Scheduling).map(|said| ("False", said))
}

/// There only while the guest's CPUs stand still.
pub(super) fn paused(phase: Phase, machine: Option<&MachineStatus>) -> Wanted {
    let machine =
        machine.filter(|machine| phase == Phase::Running && machine.state == MachineState::Paused)?;
    match machine.reason {
        StateReason::IoError => {
            wanted("True", "PausedIOError", "VMI was paused, low-level IO error detected")
        }
        _ => wanted("True", "PausedByUser", "VMI was paused by user"),
    }
}

/// There only while an agent in the guest answers.
pub(super) fn agent_connected(phase: Phase, machine: Option<&MachineStatus>) -> Wanted {
    agent(phase, machine).and_then(|_| wanted("True", "", ""))
}

/// There only while it cannot do what is asked of every agent.
pub(super) fn agent_unsupported(phase: Phase, machine: Option<&MachineStatus>) -> Wanted {
    let agent = agent(phase, machine).filter(|agent| agent.is_unsupported)?;
    let version = printable(cut(&agent.version));
    wanted("True", &format!("Guest agent version '{version}' is not supported"), "")
}

fn agent(phase: Phase, machine: Option<&MachineStatus>) -> Option<&GuestAgent> {
    machine.filter(|_| phase == Phase::Running).and_then(|machine| machine.guest_agent.as_ref())
}

/// Whether the instance could move to another node; known once it runs.
pub(super) fn live_migratable(instance: &VirtualMachineInstance) -> Wanted {
    true_unless(migratable::obstacle(instance))
}

/// Whether its disks could move while it runs; known once it runs.
pub(super) fn storage_live_migratable(instance: &VirtualMachineInstance) -> Wanted {
    true_unless(migratable::storage_obstacle(instance))
}

fn true_unless(obstacle: Option<Said>) -> Wanted {
    obstacle.map(|said| ("False", said)).or_else(|| wanted("True", "", ""))
}

/// How far the pull of an image is. `old` is the condition as it is: one that was there becomes true when the image is,
/// and goes when the pull has failed.
pub(super) fn image_pulled(
    progress: Option<&PullProgress>,
    pod: Option<&PodView>,
    old: Option<&Condition>,
) -> Wanted {
    if let Some(progress) = progress {
        let message = format!(
            "{} of {} MiB of {} ({} %)",
            progress.bytes / MIB,
            progress.total.div_ceil(MIB),
            progress.image,
            progress.percent
        );
        return wanted("False", "Pulling", cut(&message));
    }
    let old = old?;
    let pod = pod?;
    if old.status == "True" || pod.stage == Stage::Ready || pod.last.is_some() {
        return wanted("True", "Pulled", "");
    }
    // The image is there, or is not, and the Pod does not say yet which.
    let is_open = pod.image_failure.is_none() && pod.stage == Stage::Waiting;
    is_open.then(|| {
        let said = Said {
            reason: old.reason.clone().unwrap_or_default(),
            message: old.message.clone().unwrap_or_default(),
        };
        ("False", said)
    })
}

/// The guest's last panic.
pub(super) fn guest_panicked(panic: Option<&GuestPanic>) -> Wanted {
    let panic = panic?;
    let tail = &panic.tail[panic.tail.len().saturating_sub(PANIC_LINES)..];
    // The line itself may be among the last ones.
    let said = panic.line.as_ref().filter(|line| !tail.contains(line));
    let message: Vec<_> = said.into_iter().chain(tail).map(String::as_str).collect();
    wanted("True", "KernelPanic", cut(&printable(&message.join("\n"))))
}

/// The condition of a type.
pub(super) fn find<'a>(conditions: &'a [Condition], type_: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.type_ == type_)
}

/// Makes the condition of a type what is wanted. Its transition time moves when its status does.
pub(super) fn set(conditions: &mut Vec<Condition>, type_: &str, wanted: Wanted, now: &Time) {
    let Some((status, said)) = wanted else {
        conditions.retain(|condition| condition.type_ != type_);
        return;
    };
    let mut new = Condition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        last_transition_time: Some(now.clone()),
        reason: Some(said.reason).filter(|reason| !reason.is_empty()),
        message: Some(said.message).filter(|message| !message.is_empty()),
        ..Condition::default()
    };
    match conditions.iter_mut().find(|condition| condition.type_ == type_) {
        Some(old) => {
            if old.status == new.status {
                new.last_transition_time = old.last_transition_time.clone();
            }
            new.last_probe_time = old.last_probe_time.clone();
            *old = new;
        }
        None => conditions.push(new),
    }
}
