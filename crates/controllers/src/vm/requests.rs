//! What starting, stopping and restarting a machine by request changes, or why it is refused.
//!
//! The answers are patches: each tests what it changes, so whoever applies them finds out when somebody else was
//! faster (a conflict, which [`Refusal::lost_race`] puts into words). Checks and words are KubeVirt's.

use json_patch::Patch;
use manifest::keys::APPEND;
use manifest::types::{VirtualMachine, VirtualMachineInstance, VirtualMachineStateChangeRequest};
use manifest::validate::append_fault;
use serde::Deserialize;
use serde_json::{Value, json};

use super::strategy::Strategy;
use super::{instance, pending};

/// Body of a start; every field may be absent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StartOptions {
    /// Starts the machine with its virtual CPUs standing still.
    pub paused: bool,
    /// Words put behind the kernel arguments for this start only, in place of those of the machine's annotation
    /// ([`APPEND`]). KubeVirt has none.
    pub append: Option<String>,
    /// `All` asks for the checks only.
    pub dry_run: Option<Vec<String>>,
}

/// Body of a stop; every field may be absent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StopOptions {
    /// Seconds between the power button and the kill, instead of the instance's own; 0 or more.
    pub grace_period: Option<i64>,
    /// `All` asks for the checks only.
    pub dry_run: Option<Vec<String>>,
}

/// Body of a restart; every field may be absent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RestartOptions {
    /// 0 ends the guest by force; nothing else is supported.
    pub grace_period_seconds: Option<i64>,
    /// `All` asks for the checks only.
    pub dry_run: Option<Vec<String>>,
}

/// What a change is made to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// The machine.
    Machine,
    /// The machine's `status` subresource.
    MachineStatus,
    /// The instance.
    Instance,
}

/// One patch to make.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// What it is made to.
    pub target: Target,
    /// A JSON patch that begins with tests of what it changes. A test for `null` holds for what is absent, too.
    pub patch: Patch,
}

/// Why a request is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// The HTTP status code.
    pub code: u16,
    /// The reason, `Conflict`.
    pub reason: &'static str,
    /// The message.
    pub message: String,
    /// What `details` names; a bad request names nothing.
    pub subject: Option<Subject>,
}

/// The object that a refusal is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// Its group, `kubevirt.io`.
    pub group: &'static str,
    /// What the details call its kind, `virtualmachine`.
    pub kind: &'static str,
    /// Its name.
    pub name: String,
}

const GROUP: &str = "kubevirt.io";
const MACHINE: &str = "virtualmachine";

const RECOVERY_REQUIRED: &str = "VM recovery required: Volume migration failed, leaving some volumes pointing to \
     non-consistent targets; manual intervention is needed to reassign them to their original volumes.";
const NOT_RUNNING: &str = "VM is not running";

/// Seconds between the power button and the kill where an instance says nothing (`terminationGracePeriodSeconds`).
const DEFAULT_GRACE_SECONDS: i64 = 30;

impl Refusal {
    /// There is no such machine.
    pub fn not_found(name: &str) -> Self {
        Self {
            code: 404,
            reason: "NotFound",
            message: format!("{MACHINE}.{GROUP} \"{name}\" not found"),
            subject: Some(Subject { group: GROUP, kind: MACHINE, name: name.to_owned() }),
        }
    }

    /// The machine is not in a state where this can be done.
    pub fn conflict(name: &str, why: impl std::fmt::Display) -> Self {
        Self {
            code: 409,
            reason: "Conflict",
            message: format!("Operation cannot be fulfilled on {MACHINE}.{GROUP} \"{name}\": {why}"),
            subject: Some(Subject { group: GROUP, kind: MACHINE, name: name.to_owned() }),
        }
    }

    /// Somebody else changed the object first; `error` is what the patch was answered with.
    pub fn lost_race(name: &str, error: impl std::fmt::Display) -> Self {
        Self::conflict(name, error)
    }

    /// There is no dump of the machine's memory to be let go.
    pub fn no_memory_dump(name: &str) -> Self {
        Self::conflict(
            name,
            format_args!("can't remove memory dump association for vm {name}, no association found"),
        )
    }

    fn bad_request(message: &str) -> Self {
        Self { code: 400, reason: "BadRequest", message: message.to_owned(), subject: None }
    }

    fn underway() -> Self {
        Self {
            code: 500,
            reason: "InternalError",
            message: "Internal error occurred: unable to complete request: stop/start already underway"
                .to_owned(),
            subject: None,
        }
    }
}

/// What starting `machine` changes. `instance` is the one that belongs to it, if there is one.
///
/// # Errors
/// When it runs already, or does not run by request, or its kernel cannot be given the arguments of this start.
pub fn start(
    machine: &VirtualMachine,
    instance: Option<&VirtualMachineInstance>,
    options: &StartOptions,
) -> Result<Vec<Change>, Refusal> {
    let name = name_of(machine);
    let conflict = |why: &dyn std::fmt::Display| Err(Refusal::conflict(name, why));
    if instance.is_some_and(|instance| {
        !instance::is_final(instance) && !matches!(instance::phase(instance), "" | "Unknown")
    }) {
        return conflict(&"VM is already running");
    }
    if is_true(machine, "ManualRecoveryRequired") {
        return conflict(&RECOVERY_REQUIRED);
    }
    let strategy = Strategy::of(&machine.spec);
    let finished = instance.filter(|instance| instance::is_final(instance));
    match strategy {
        Strategy::Halted => match start_request(machine, options)? {
            plain if plain.data.is_empty() => Ok(vec![switch(machine, true)]),
            request => change_requests(machine, vec![request]),
        },
        Strategy::RerunOnFailure
            if finished.is_some_and(|instance| instance::phase(instance) == "Failed") =>
        {
            conflict(&"RerunOnFailure does not support starting VM from failed state")
        }
        Strategy::Manual | Strategy::RerunOnFailure => {
            let mut requests = Vec::new();
            requests.extend(finished.map(stop_request));
            requests.push(start_request(machine, options)?);
            change_requests(machine, requests)
        }
        Strategy::Always | Strategy::Once | Strategy::WaitAsReceiver | Strategy::Unknown(_) => {
            conflict(&format!("{strategy} does not support manual start requests"))
        }
    }
}

/// What stopping `machine` changes. `instance` is the one that belongs to it, if there is one.
///
/// # Errors
/// When it does not run, or does not stop by request.
pub fn stop(
    machine: &VirtualMachine,
    instance: Option<&VirtualMachineInstance>,
    options: &StopOptions,
) -> Result<Vec<Change>, Refusal> {
    let name = name_of(machine);
    if options.grace_period.is_some_and(|seconds| seconds < 0) {
        return Err(Refusal::bad_request("gracePeriod has to be greater or equal to 0"));
    }
    let live = instance.filter(|instance| !instance::is_final(instance));
    let mut changes = Vec::new();
    if let (Some(seconds), Some(instance)) = (options.grace_period, live) {
        changes.extend(grace_of(instance, seconds));
    }
    let strategy = Strategy::of(&machine.spec);
    match (&strategy, live) {
        (Strategy::Always | Strategy::Once, _) => changes.push(switch(machine, false)),
        (Strategy::WaitAsReceiver, _) => return Ok(Vec::new()),
        (Strategy::Unknown(_), _) => {
            return Err(Refusal::conflict(
                name,
                format_args!("{strategy} does not support manual stop requests"),
            ));
        }
        (Strategy::Manual | Strategy::RerunOnFailure | Strategy::Halted, None) => {
            return Err(Refusal::conflict(name, NOT_RUNNING));
        }
        (Strategy::Halted, Some(instance)) if !is_shorter(options.grace_period, instance) => {
            let why = format!("{strategy} only supports manual stop requests with a shorter graceperiod");
            return Err(Refusal::conflict(name, why));
        }
        (Strategy::Manual | Strategy::RerunOnFailure | Strategy::Halted, Some(instance)) => {
            changes.push(replace_requests(machine, vec![stop_request(instance)]));
        }
    }
    Ok(changes)
}

/// What restarting `machine` changes. `instance` is the one that belongs to it, if there is one.
///
/// # Errors
/// When there is nothing to restart, or the options ask for what is not supported.
pub fn restart(
    machine: &VirtualMachine,
    instance: Option<&VirtualMachineInstance>,
    options: &RestartOptions,
) -> Result<Vec<Change>, Refusal> {
    let name = name_of(machine);
    match options.grace_period_seconds {
        Some(1..) => {
            return Err(Refusal::bad_request("For force restart, only gracePeriod=0 is supported for now"));
        }
        Some(..0) => return Err(Refusal::bad_request("gracePeriod has to be greater or equal to 0")),
        Some(0) | None => {}
    }
    if is_true(machine, "VolumesChange") {
        return Err(Refusal::conflict(name, RECOVERY_REQUIRED));
    }
    let strategy = Strategy::of(&machine.spec);
    if matches!(strategy, Strategy::Halted | Strategy::Once) {
        let why = format!("RunStategy {strategy} does not support manual restart requests");
        return Err(Refusal::conflict(name, why));
    }
    let Some(instance) = instance else {
        return Err(Refusal::conflict(name, format_args!("{NOT_RUNNING}: Halted")));
    };
    let mut changes = Vec::new();
    if options.grace_period_seconds == Some(0) && !instance::is_final(instance) {
        changes.extend(grace_of(instance, 1));
    }
    let start = VirtualMachineStateChangeRequest { action: "Start".to_owned(), ..Default::default() };
    changes.extend(change_requests(machine, vec![stop_request(instance), start])?);
    Ok(changes)
}

fn name_of(machine: &VirtualMachine) -> &str {
    machine.metadata.name.as_deref().unwrap_or_default()
}

fn is_true(machine: &VirtualMachine, type_: &str) -> bool {
    machine.status.as_ref().is_some_and(|status| {
        status.conditions.iter().any(|condition| condition.type_ == type_ && condition.status == "True")
    })
}

fn is_shorter(seconds: Option<i64>, instance: &VirtualMachineInstance) -> bool {
    let current = instance.spec.termination_grace_period_seconds.unwrap_or(DEFAULT_GRACE_SECONDS);
    seconds.is_some_and(|seconds| seconds < current)
}

fn start_request(
    machine: &VirtualMachine,
    options: &StartOptions,
) -> Result<VirtualMachineStateChangeRequest, Refusal> {
    let annotations = machine.metadata.annotations.as_ref();
    let append = options.append.as_ref().or_else(|| annotations?.get(APPEND));
    let append = append.map(|append| append.trim()).filter(|append| !append.is_empty());
    if let Some(fault) = append.and_then(|append| append_fault(&machine.spec.template.spec, append)) {
        return Err(Refusal::bad_request(&fault));
    }
    let paused = options.paused.then_some((pending::PAUSED, "true"));
    let data = paused.into_iter().chain(append.map(|append| (pending::APPEND, append)));
    let data = data.map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
    Ok(VirtualMachineStateChangeRequest { action: "Start".to_owned(), data, uid: None })
}

fn stop_request(instance: &VirtualMachineInstance) -> VirtualMachineStateChangeRequest {
    VirtualMachineStateChangeRequest {
        action: "Stop".to_owned(),
        uid: Some(instance::uid(instance).to_owned()),
        ..Default::default()
    }
}

/// Sets the requests of a machine that has none.
fn change_requests(
    machine: &VirtualMachine,
    requests: Vec<VirtualMachineStateChangeRequest>,
) -> Result<Vec<Change>, Refusal> {
    if machine.status.as_ref().is_some_and(|status| !status.state_change_requests.is_empty()) {
        return Err(Refusal::underway());
    }
    Ok(vec![replace_requests(machine, requests)])
}

/// Sets the requests of a machine, whatever they were, and gives it another try.
fn replace_requests(machine: &VirtualMachine, requests: Vec<VirtualMachineStateChangeRequest>) -> Change {
    const REQUESTS: &str = "/status/stateChangeRequests";
    const START_FAILURE: &str = "/status/startFailure";
    let wanted = json!(requests);
    let operations = match &machine.status {
        None => vec![test("/status", Value::Null), add("/status", json!({"stateChangeRequests": wanted}))],
        Some(status) => {
            let present = &status.state_change_requests;
            let before = if present.is_empty() { Value::Null } else { json!(present) };
            let mut operations = vec![test(REQUESTS, before), add(REQUESTS, wanted)];
            if let Some(failure) = &status.start_failure {
                operations.push(test(START_FAILURE, json!(failure)));
                operations.push(json!({"op": "remove", "path": START_FAILURE}));
            }
            operations
        }
    };
    Change { target: Target::MachineStatus, patch: patch(operations) }
}

/// Switches a machine on (`Always`) or off (`Halted`), in the form that its spec uses.
pub(crate) fn switch(machine: &VirtualMachine, on: bool) -> Change {
    let spec = &machine.spec;
    let operations = match &spec.run_strategy {
        Some(before) => {
            let path = "/spec/runStrategy";
            vec![test(path, json!(before)), add(path, json!(if on { "Always" } else { "Halted" }))]
        }
        None => {
            let path = "/spec/running";
            vec![test(path, json!(spec.running)), add(path, json!(on))]
        }
    };
    Change { target: Target::Machine, patch: patch(operations) }
}

/// Gives a live instance another grace period; nothing when it has that one.
fn grace_of(instance: &VirtualMachineInstance, seconds: i64) -> Option<Change> {
    let path = "/spec/terminationGracePeriodSeconds";
    let before = instance.spec.termination_grace_period_seconds;
    (before != Some(seconds)).then(|| Change {
        target: Target::Instance,
        patch: patch(vec![test(path, json!(before)), add(path, json!(seconds))]),
    })
}

fn test(path: &str, value: Value) -> Value {
    json!({"op": "test", "path": path, "value": value})
}

/// Sets what is at `path`, whether it is there or not.
fn add(path: &str, value: Value) -> Value {
    json!({"op": "add", "path": path, "value": value})
}

/// `operations` as a patch. Those that this crate writes are always well formed.
pub(crate) fn patch(operations: Vec<Value>) -> Patch {
    serde_json::from_value(Value::Array(operations)).unwrap_or_default()
}
