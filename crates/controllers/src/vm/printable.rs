//! The one word that `kubectl get vm` shows.

use manifest::types::{VirtualMachineInstance, VirtualMachineStartFailure};

use super::instance;
use super::strategy::Strategy;

/// How the volumes of a machine are that must be filled or bound before it starts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Storage {
    /// They are there, or there are none.
    #[default]
    Settled,
    /// One of them could not be filled.
    Failed,
    /// One of them is being filled.
    Filling,
    /// One of them is not bound.
    Unbound,
}

/// What the word depends on.
#[derive(Debug, Clone)]
pub struct Facts<'a> {
    /// Whether the machine's deletion was asked for.
    pub is_deleting: bool,
    /// Its effective run strategy.
    pub strategy: &'a Strategy,
    /// Its instance.
    pub instance: Option<&'a VirtualMachineInstance>,
    /// Whether the deletion of the instance has just been asked for.
    pub is_stopping: bool,
    /// Whether its strategy or a request wants it to run.
    pub is_set_to_start: bool,
    /// Its volumes.
    pub storage: Storage,
    /// Failures to start.
    pub start_failure: Option<&'a VirtualMachineStartFailure>,
}

/// The word; the first that applies.
pub fn status(facts: &Facts<'_>) -> &'static str {
    let instance = facts.instance;
    let phase = instance.map(instance::phase);
    let is_final = instance.is_some_and(instance::is_final);
    let condition = |type_: &str, status: &str| {
        let found = instance.and_then(|instance| instance::condition(instance, type_));
        found.filter(|condition| condition.status == status)
    };
    let is_unsynchronized = |reason: &str| {
        condition("Synchronized", "False")
            .is_some_and(|condition| condition.reason.as_deref() == Some(reason))
    };
    let is_unschedulable = condition("PodScheduled", "False")
        .is_some_and(|condition| condition.reason.as_deref() == Some("Unschedulable"));
    let has_failed =
        facts.start_failure.and_then(|failure| failure.consecutive_fail_count).is_some_and(|count| count > 0);
    let retries = matches!(facts.strategy, Strategy::Always | Strategy::RerunOnFailure | Strategy::Once);
    let is_leaving =
        instance.is_some_and(|instance| facts.is_stopping || instance::is_deleting(instance)) && !is_final;
    let rows = [
        (facts.is_deleting, "Terminating"),
        (is_leaving, "Stopping"),
        (instance.is_some_and(is_migrating), "Migrating"),
        (phase == Some("Running") && condition("Paused", "True").is_some(), "Paused"),
        (phase == Some("Running"), "Running"),
        (is_unsynchronized("FailedPvcNotFound"), "ErrorPvcNotFound"),
        (facts.storage == Storage::Failed, "DataVolumeError"),
        (is_unschedulable, "ErrorUnschedulable"),
        (facts.storage == Storage::Filling, "Provisioning"),
        (facts.storage == Storage::Unbound && facts.is_set_to_start, "WaitingForVolumeBinding"),
        (is_unsynchronized("ErrImagePull"), "ErrImagePull"),
        (is_unsynchronized("ImagePullBackOff"), "ImagePullBackOff"),
        (matches!(phase, Some("" | "Pending" | "Scheduling" | "Scheduled")), "Starting"),
        ((instance.is_none() || is_final) && has_failed && retries, "CrashLoopBackOff"),
        (instance.is_none() || is_final, "Stopped"),
        (
            *facts.strategy == Strategy::WaitAsReceiver && phase == Some("WaitingForSync"),
            "WaitingForReceiver",
        ),
    ];
    rows.iter().find(|(applies, _)| *applies).map_or("Unknown", |(_, word)| word)
}

fn is_migrating(instance: &VirtualMachineInstance) -> bool {
    let migration = instance.status.as_ref().and_then(|status| status.migration_state.as_ref());
    migration
        .is_some_and(|migration| migration.start_timestamp.is_some() && migration.end_timestamp.is_none())
}
