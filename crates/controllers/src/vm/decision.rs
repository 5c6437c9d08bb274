//! What is to be done about a machine: run strategy × its instance × what was asked for.

use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use manifest::keys::RECEIVER;
use manifest::types::{
    VirtualMachine, VirtualMachineInstance, VirtualMachineStartFailure, VirtualMachineStateChangeRequest,
};

use super::pending::{self, Asked};
use super::strategy::Strategy;
use super::{backoff, instance};

/// Finalizer with which somebody asks for a machine to be deleted and its instance to be left (garbage collection,
/// `propagationPolicy: Orphan`).
const ORPHAN: &str = "orphan";

/// Annotation on a machine that waits for another: its run strategy once that has arrived.
pub const RESTORE_STRATEGY: &str = "kubevirt.io/restore-run-strategy";

/// Where the instance of a machine is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// There is none.
    Absent,
    /// It is on its way, runs, or is not known to have ended.
    Live,
    /// It has ended in order.
    Succeeded,
    /// It has ended otherwise.
    Failed,
}

impl Stage {
    /// Where `instance` is.
    pub fn of(instance: Option<&VirtualMachineInstance>) -> Self {
        match instance.map(instance::phase) {
            None => Self::Absent,
            Some("Succeeded") => Self::Succeeded,
            Some("Failed") => Self::Failed,
            Some(_) => Self::Live,
        }
    }
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Nothing.
    Nothing,
    /// Create the instance.
    Create(Manner),
    /// Create the instance once this much time has passed.
    CreateAfter(Duration),
    /// Delete the instance.
    Delete,
    /// Delete the instance, and have another one started.
    DeleteAndStart,
    /// Change the run strategy of the machine to `Always`.
    SwitchOn,
    /// Change the run strategy of the machine to this one: what it waited for has arrived.
    Restore(String),
    /// Nothing can be done, for this reason.
    Fail(String),
}

/// How an instance starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// As its template says.
    AsWritten,
    /// With its virtual CPUs standing still.
    Paused,
    /// Waiting for a machine that migrates here.
    Receiver,
}

impl fmt::Display for Action {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => out.write_str("nothing"),
            Self::Create(Manner::AsWritten) => out.write_str("create"),
            Self::Create(Manner::Paused) => out.write_str("create paused"),
            Self::Create(Manner::Receiver) => out.write_str("create receiver"),
            Self::CreateAfter(wait) => write!(out, "create after {} s", wait.as_secs()),
            Self::Delete => out.write_str("delete"),
            Self::DeleteAndStart => out.write_str("delete, start"),
            Self::SwitchOn => out.write_str("switch on"),
            Self::Restore(strategy) => write!(out, "restore {strategy}"),
            Self::Fail(why) => write!(out, "fail: {why}"),
        }
    }
}

/// What decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Situation<'a> {
    /// The effective run strategy.
    pub strategy: Strategy,
    /// Where the instance is.
    pub stage: Stage,
    /// Whether the instance waits for a machine that migrates here.
    pub is_receiver: bool,
    /// What is asked for next.
    pub asked: Asked,
    /// The run strategy that was last acted upon, where there was one.
    pub last_strategy: Option<&'a str>,
    /// How long to wait before another try.
    pub wait: Option<Duration>,
    /// The run strategy that follows an arrival: the machine waited and what it waited for is there.
    pub arrived: Option<&'a str>,
}

/// The table.
pub fn act(situation: &Situation<'_>) -> Action {
    use Stage::{Absent, Failed, Live, Succeeded};

    let asked = situation.asked;
    let create = match asked {
        Asked::Start { paused: true } => Action::Create(Manner::Paused),
        _ => Action::Create(Manner::AsWritten),
    };
    let create_in_time = match situation.wait {
        Some(wait) => Action::CreateAfter(wait),
        None => create.clone(),
    };
    let starts = matches!(asked, Asked::Start { .. });
    let stops = asked == Asked::Stop;
    match (&situation.strategy, situation.stage) {
        (Strategy::Always, Absent) => create_in_time,
        (Strategy::Always, Live) if stops => Action::Delete,
        (Strategy::Always, Live) => Action::Nothing,
        (Strategy::Always, Succeeded | Failed) => Action::Delete,

        (Strategy::RerunOnFailure, Absent) => {
            let is_new = situation.last_strategy != Some(Strategy::RerunOnFailure.as_str());
            if starts || is_new { create_in_time } else { Action::Nothing }
        }
        (Strategy::RerunOnFailure, Live) if stops => Action::Delete,
        (Strategy::RerunOnFailure, Live) => Action::Nothing,
        (Strategy::RerunOnFailure, Succeeded) => Action::Delete,
        // Who asked for the stop of a guest that then did not end in order did not ask for another.
        (Strategy::RerunOnFailure, Failed) if stops => Action::Delete,
        (Strategy::RerunOnFailure, Failed) => Action::DeleteAndStart,

        (Strategy::Manual, Absent) if starts => create,
        (Strategy::Manual, Absent) => Action::Nothing,
        (Strategy::Manual, _) if stops => Action::Delete,
        (Strategy::Manual, Live | Succeeded | Failed) => Action::Nothing,

        (Strategy::Halted, Absent) if starts => Action::SwitchOn,
        (Strategy::Halted, Absent) => Action::Nothing,
        (Strategy::Halted, Live | Succeeded | Failed) => Action::Delete,

        (Strategy::Once, Absent) => create,
        (Strategy::Once, Live | Succeeded | Failed) => Action::Nothing,

        (Strategy::WaitAsReceiver, Absent) => Action::Create(Manner::Receiver),
        (Strategy::WaitAsReceiver, _) => match situation.arrived {
            Some(strategy) => Action::Restore(strategy.to_owned()),
            None if situation.is_receiver => Action::Nothing,
            None => Action::Fail("Found non receiver VMI while VM is receiver".to_owned()),
        },

        (Strategy::Unknown(word), _) => Action::Fail(format!("unknown runstrategy: {word}")),
    }
}

/// What is decided about a machine, before anything is done.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// What to do.
    pub action: Action,
    /// The requests that are left.
    pub requests: Vec<VirtualMachineStateChangeRequest>,
    /// What is recorded of failures to start.
    pub start_failure: Option<VirtualMachineStartFailure>,
}

/// Decides about `machine` and `instance`, the one that belongs to it. `random` spreads the tries of many machines.
pub fn decide(
    machine: &VirtualMachine,
    instance: Option<&VirtualMachineInstance>,
    now: Timestamp,
    random: u64,
) -> Decision {
    let status = machine.status.as_ref();
    let strategy = Strategy::of(&machine.spec);
    let mut requests = status.map(|status| status.state_change_requests.clone()).unwrap_or_default();
    if strategy == Strategy::Halted {
        requests = pending::without_restart(requests);
    }
    let requests = pending::trim(&requests, instance);
    let before = status.and_then(|status| status.start_failure.as_ref());
    let start_failure = backoff::next(before, &strategy, instance, now, random);
    if machine.metadata.deletion_timestamp.is_some() {
        let action =
            if instance.is_some() && !leaves_instance(machine) { Action::Delete } else { Action::Nothing };
        return Decision { action, requests, start_failure };
    }
    let wait = backoff::remaining(start_failure.as_ref(), now);
    let situation = Situation {
        stage: Stage::of(instance),
        is_receiver: instance.is_some_and(|instance| has_annotation(instance, RECEIVER)),
        asked: pending::asked(&requests, instance),
        last_strategy: status.and_then(|status| status.run_strategy.as_deref()),
        wait: wait.and_then(|wait| Duration::try_from(wait).ok()),
        arrived: instance.filter(|instance| has_arrived(instance)).and_then(|_| {
            let annotations = machine.metadata.annotations.as_ref()?;
            annotations.get(RESTORE_STRATEGY).map(String::as_str)
        }),
        strategy,
    };
    let action = act(&situation);
    let requests = if action == Action::DeleteAndStart && !instance.is_some_and(instance::is_deleting) {
        pending::with_start(requests)
    } else {
        requests
    };
    Decision { action, requests, start_failure }
}

/// Whether `machine` is being deleted by somebody who wants its instance left.
pub fn leaves_instance(machine: &VirtualMachine) -> bool {
    let finalizers = machine.metadata.finalizers.as_deref().unwrap_or_default();
    finalizers.iter().any(|finalizer| finalizer == ORPHAN)
}

fn has_annotation(instance: &VirtualMachineInstance, key: &str) -> bool {
    instance.metadata.annotations.as_ref().is_some_and(|annotations| annotations.contains_key(key))
}

fn has_arrived(instance: &VirtualMachineInstance) -> bool {
    let migration = instance.status.as_ref().and_then(|status| status.migration_state.as_ref());
    !instance::is_final(instance)
        && migration
            .is_some_and(|migration| migration.completed == Some(true) && migration.failed != Some(true))
}
