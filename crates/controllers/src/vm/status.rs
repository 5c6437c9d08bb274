//! The status of a machine as it follows from what there is.

use jiff::Timestamp;
use manifest::Time;
use manifest::types::{
    Condition, VirtualMachine, VirtualMachineInstance, VirtualMachineStartFailure,
    VirtualMachineStateChangeRequest, VirtualMachineStatus, VolumeSnapshotStatus,
};

use super::conditions::{self, SyncError};
use super::decision::{self, Action};
use super::pending::Asked;
use super::printable::{self, Storage};
use super::strategy::Strategy;
use super::{build, instance, pending};

/// What the status depends on beside the machine: how things are once everything was done that could be.
#[derive(Debug, Clone)]
pub struct Outcome<'a> {
    /// The machine's instance.
    pub instance: Option<&'a VirtualMachineInstance>,
    /// The requests that were left when it was decided what to do.
    pub requests: &'a [VirtualMachineStateChangeRequest],
    /// Failures to start.
    pub start_failure: Option<&'a VirtualMachineStartFailure>,
    /// Whether the instance is being deleted on behalf of this controller.
    pub is_stopping: bool,
    /// Whether the run strategy has been acted upon; it has not while a start is still to come.
    pub is_settled: bool,
    /// Why the machine is not as it should be.
    pub failure: Option<&'a SyncError>,
    /// Why changes take effect with the next start only.
    pub restart_required: Option<&'a str>,
    /// When this is.
    pub now: Time,
}

/// The status that `machine` should have.
pub fn next(machine: &VirtualMachine, outcome: &Outcome<'_>) -> VirtualMachineStatus {
    let strategy = Strategy::of(&machine.spec);
    let instance = outcome.instance;
    let mut status = machine.status.clone().unwrap_or_default();
    status.created = instance.is_some().then_some(true);
    status.state_change_requests = pending::trim(outcome.requests, instance);
    status.start_failure = outcome.start_failure.cloned();
    status.conditions = conditions::next(
        &status.conditions,
        &conditions::Facts {
            instance,
            failure: outcome.failure,
            restart_required: outcome.restart_required,
            now: &outcome.now,
        },
    );
    let is_ready = instance.and_then(|instance| instance::condition(instance, "Ready"));
    status.ready = is_ready.is_some_and(|ready| ready.status == "True").then_some(true);
    if let Some(instance) = instance {
        status.desired_generation = machine.metadata.generation;
        status.observed_generation = instance::generation(instance).or(status.observed_generation);
    }
    if outcome.is_settled && (instance.is_some() || status.run_strategy.is_some()) {
        status.run_strategy = Some(strategy.as_str().to_owned());
    }
    status.volume_snapshot_statuses = machine.spec.template.spec.volumes.iter().map(snapshots).collect();
    let word = printable::status(&printable::Facts {
        is_deleting: machine.metadata.deletion_timestamp.is_some(),
        strategy: &strategy,
        instance,
        is_stopping: outcome.is_stopping,
        is_set_to_start: is_set_to_start(&strategy, instance, &status.state_change_requests),
        // Nothing fills or binds volumes yet; manifests that need it are refused.
        storage: Storage::Settled,
        start_failure: outcome.start_failure,
    });
    status.printable_status = Some(word.to_owned());
    status
}

/// The status of a new machine that nobody wants to run, so that its controller finds nothing to write; `None` for one
/// that is to be started, or cannot be dealt with.
pub fn at_rest(machine: &VirtualMachine, now: Timestamp) -> Option<VirtualMachineStatus> {
    let decision = decision::decide(machine, None, now, 0);
    let outcome = Outcome {
        instance: None,
        requests: &decision.requests,
        start_failure: decision.start_failure.as_ref(),
        is_stopping: false,
        is_settled: true,
        failure: None,
        restart_required: None,
        now: Time(now),
    };
    (decision.action == Action::Nothing).then(|| next(machine, &outcome))
}

/// Whether nothing is to be done about `machine` while it has no instance, and nothing to be written.
pub fn rests(machine: &VirtualMachine, now: Timestamp) -> bool {
    machine.metadata.deletion_timestamp.is_none()
        && build::preparation(machine).is_none()
        && at_rest(machine, now).is_some_and(|status| machine.status == Some(status))
}

/// Whether strategy or request want the machine to run.
fn is_set_to_start(
    strategy: &Strategy,
    instance: Option<&VirtualMachineInstance>,
    requests: &[VirtualMachineStateChangeRequest],
) -> bool {
    match strategy {
        Strategy::Always | Strategy::WaitAsReceiver => true,
        Strategy::Once => !instance.is_some_and(instance::is_final),
        Strategy::Manual | Strategy::RerunOnFailure => {
            instance.is_some_and(|instance| !instance::is_final(instance))
                || matches!(pending::asked(requests, instance), Asked::Start { .. })
        }
        Strategy::Halted | Strategy::Unknown(_) => false,
    }
}

/// Nothing takes snapshots yet.
fn snapshots(volume: &manifest::types::Volume) -> VolumeSnapshotStatus {
    VolumeSnapshotStatus {
        name: volume.name.clone(),
        enabled: false,
        reason: Some(format!("Snapshot is not supported for this volumeSource type [{}]", volume.name)),
    }
}

/// What is new in a status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    /// There is an instance now.
    Instance,
    /// Details of an instance that is on its way.
    Details,
    /// Something that is waited for.
    Other,
}

/// What `after` tells that `before` does not. Writing anything but [`News::Other`] can wait, more will follow.
pub fn news(before: &VirtualMachineStatus, after: &VirtualMachineStatus) -> News {
    let is_new = before.created.is_none()
        && after.created.is_some()
        && before.printable_status.as_deref() == Some("Stopped");
    let summary = |status: &VirtualMachineStatus| {
        let mut status = status.clone();
        if is_new {
            status.created = None;
            status.printable_status = None;
            status.run_strategy = None;
            (status.desired_generation, status.observed_generation) = (None, None);
        }
        for condition in &mut status.conditions {
            *condition = Condition {
                type_: condition.type_.clone(),
                status: condition.status.clone(),
                ..Condition::default()
            };
        }
        status.conditions.retain(|condition| {
            ["Ready", "Failure", "RestartRequired", "Paused", manifest::keys::GUEST_PANICKED]
                .contains(&condition.type_.as_str())
                && (condition.type_ != "Ready" || condition.status == "True")
        });
        status
    };
    let is_starting = after.printable_status.as_deref() == Some("Starting");
    if !is_starting || summary(before) != summary(after) {
        News::Other
    } else if is_new {
        News::Instance
    } else {
        News::Details
    }
}
