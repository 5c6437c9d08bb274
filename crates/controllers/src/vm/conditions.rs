//! The conditions of a machine: its own, and those of its instance as they are there.

use manifest::Time;
use manifest::types::{Condition, VirtualMachineInstance};

use super::instance;

/// Why a machine is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyncError {
    /// The reason, `FailedCreate`.
    pub reason: &'static str,
    /// The message.
    pub message: String,
}

const READY: &str = "Ready";
const FAILURE: &str = "Failure";
const RESTART_REQUIRED: &str = "RestartRequired";

/// Conditions that are the machine's own: an instance's of the same type does not count.
const OWN: [&str; 4] = [READY, FAILURE, RESTART_REQUIRED, "ManualRecoveryRequired"];

/// What the conditions depend on.
#[derive(Debug, Clone)]
pub struct Facts<'a> {
    /// The machine's instance.
    pub instance: Option<&'a VirtualMachineInstance>,
    /// Why the machine is not as it should be.
    pub failure: Option<&'a SyncError>,
    /// Why changes take effect with the next start only.
    pub restart_required: Option<&'a str>,
    /// When this is.
    pub now: &'a Time,
}

/// The conditions that follow `before`.
pub fn next(before: &[Condition], facts: &Facts<'_>) -> Vec<Condition> {
    let mut conditions = before.to_vec();
    put(&mut conditions, ready(facts));
    if let Some(instance) = facts.instance {
        let theirs = instance.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
        let is_own = |condition: &Condition| OWN.contains(&condition.type_.as_str());
        conditions.retain(|condition| {
            is_own(condition) || theirs.iter().any(|theirs| theirs.type_ == condition.type_)
        });
        for condition in theirs.iter().filter(|condition| !is_own(condition)) {
            put(&mut conditions, condition.clone());
        }
    }
    let own = |type_: &str, reason: Option<&str>, message: &str| Condition {
        type_: type_.to_owned(),
        status: "True".to_owned(),
        reason: reason.map(str::to_owned),
        message: Some(message.to_owned()),
        last_probe_time: None,
        last_transition_time: Some(facts.now.clone()),
    };
    let failure = facts.failure.map(|failure| own(FAILURE, Some(failure.reason), &failure.message));
    set_or_remove(&mut conditions, FAILURE, failure);
    let restart = facts.restart_required.map(|message| own(RESTART_REQUIRED, None, message));
    set_or_remove(&mut conditions, RESTART_REQUIRED, restart);
    conditions
}

fn ready(facts: &Facts<'_>) -> Condition {
    let (reason, message) = match facts.instance {
        None => ("VMINotExists", "VMI does not exist"),
        Some(instance) => match instance::condition(instance, READY) {
            Some(ready) => return ready.clone(),
            None => ("VMIConditionMissing", "VMI is missing the Ready condition"),
        },
    };
    Condition {
        type_: READY.to_owned(),
        status: "False".to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_probe_time: None,
        last_transition_time: Some(facts.now.clone()),
    }
}

fn set_or_remove(conditions: &mut Vec<Condition>, type_: &str, wanted: Option<Condition>) {
    match wanted {
        Some(condition) => {
            // One that was there since earlier is not new because its text is.
            let since = conditions.iter().find(|found| found.type_ == type_);
            let since = since.filter(|found| found.status == condition.status);
            let last_transition_time = since
                .and_then(|found| found.last_transition_time.clone())
                .or_else(|| condition.last_transition_time.clone());
            put(conditions, Condition { last_transition_time, ..condition });
        }
        None => conditions.retain(|found| found.type_ != type_),
    }
}

/// Replaces the condition of that type where it is, or adds it at the end. One that says the same already stays, with
/// the time since when it does.
fn put(conditions: &mut Vec<Condition>, condition: Condition) {
    let Some(found) = conditions.iter_mut().find(|found| found.type_ == condition.type_) else {
        conditions.push(condition);
        return;
    };
    let is_same = (&found.status, &found.reason, &found.message)
        == (&condition.status, &condition.reason, &condition.message);
    if !is_same {
        *found = condition;
    }
}
