//! What is asked of a running instance: whether it can be done, in KubeVirt's words.
//!
//! Facts of KubeVirt's `pkg/virt-api/rest`: `lifecycle.go` and `console.go`.

use k8s_openapi::api::core::v1::Node;
use manifest::types::VirtualMachineInstance;
use serde::Deserialize;

use super::conditions::find;
use super::phase::Phase;
use crate::vm::instance::phase;
use crate::vm::requests::Subject;

pub use crate::vm::requests::Refusal;

const GROUP: &str = "kubevirt.io";
const INSTANCE: &str = "virtualmachineinstance";
/// Why what an agent does cannot be done.
pub const NO_AGENT: &str = "VMI does not have guest agent connected";

/// The options of `pause` and `unpause`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PauseOptions {
    /// `All`: only the checks are made.
    pub dry_run: Option<Vec<String>>,
}

/// The options of `freeze`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct FreezeOptions {
    /// When the guest goes on by itself, a duration such as `5m0s`.
    pub unfreeze_timeout: Option<String>,
}

/// There is no such instance.
pub fn not_found(name: &str) -> Refusal {
    about(404, "NotFound", format!("{INSTANCE}.{GROUP} \"{name}\" not found"), name)
}

/// The instance is not in a state where this can be done.
pub fn conflict(name: &str, why: impl std::fmt::Display) -> Refusal {
    about(
        409,
        "Conflict",
        format!("Operation cannot be fulfilled on {INSTANCE}.{GROUP} \"{name}\": {why}"),
        name,
    )
}

fn about(code: u16, reason: &'static str, message: String, name: &str) -> Refusal {
    let subject = Some(Subject { group: GROUP, kind: INSTANCE, name: name.to_owned() });
    Refusal { code, reason, message, subject }
}

fn internal(why: &str) -> Refusal {
    let message = format!("Internal error occurred: {why}");
    Refusal { code: 500, reason: "InternalError", message, subject: None }
}

fn bad_request(message: impl Into<String>) -> Refusal {
    Refusal { code: 400, reason: "BadRequest", message: message.into(), subject: None }
}

/// Whether the virtual CPUs can be stopped.
///
/// # Errors
/// When the instance does not run, is paused, or has a liveness probe that would end it meanwhile.
pub fn pause(instance: &VirtualMachineInstance) -> Result<(), Refusal> {
    let name = name_of(instance);
    if !is_running(instance) {
        return Err(conflict(name, "VM is not running"));
    }
    if instance.spec.liveness_probe.as_ref().is_some_and(|probe| probe.guest_agent_ping.is_none()) {
        let why = "Pausing VMIs with a non-GuestAgentPing LivenessProbe is not supported";
        let message = format!("{INSTANCE}.{GROUP} \"{name}\" is forbidden: {why}");
        return Err(about(403, "Forbidden", message, name));
    }
    if is_paused(instance) {
        return Err(conflict(name, "VMI is already paused"));
    }
    Ok(())
}

/// Whether they can go on.
///
/// # Errors
/// When the instance does not run, or is not paused.
pub fn unpause(instance: &VirtualMachineInstance) -> Result<(), Refusal> {
    if !is_running(instance) {
        return Err(conflict(name_of(instance), "VMI is not running"));
    }
    if !is_paused(instance) {
        return Err(conflict(name_of(instance), "VMI is not paused"));
    }
    Ok(())
}

/// Whether the guest can be told to restart by itself.
///
/// # Errors
/// When the instance does not run, is paused, or has neither an agent nor a power button.
pub fn soft_reboot(instance: &VirtualMachineInstance) -> Result<(), Refusal> {
    let name = name_of(instance);
    if !is_running(instance) {
        return Err(conflict(name, "VM is not running"));
    }
    if is_paused(instance) {
        return Err(conflict(name, "VMI is paused"));
    }
    let acpi = instance.spec.domain.features.as_ref().and_then(|features| features.acpi.as_ref());
    if acpi.is_some_and(|acpi| acpi.enabled == Some(false)) && !has_agent(instance) {
        let why = "VMI neither have the agent connected nor the ACPI feature enabled";
        return Err(conflict(name, why));
    }
    Ok(())
}

/// Whether the launcher can be asked at all, for what has no check of its own.
///
/// # Errors
/// When the instance has no launcher in its phase.
pub fn reach(instance: &VirtualMachineInstance) -> Result<(), Refusal> {
    match phase(instance) {
        "Running" | "Scheduled" => Ok(()),
        phase => Err(bad_request(format!(
            "Unable to connect to VirtualMachineInstance because phase is {phase} instead of Running or Scheduled"
        ))),
    }
}

/// What is told when a reset fails for the reason `why`.
pub fn reset_failed(instance: &VirtualMachineInstance, why: &dyn std::fmt::Display) -> String {
    match phase(instance) {
        "Running" => why.to_string(),
        phase => format!("Failed to reset non-running VMI with phase {phase}: {why}"),
    }
}

/// Whether the guest's agent can be asked.
///
/// # Errors
/// When the instance does not run, or no agent answers in its guest.
pub fn guest_info(instance: &VirtualMachineInstance) -> Result<(), Refusal> {
    if !is_running(instance) {
        return Err(conflict(name_of(instance), "VMI is not running"));
    }
    if !has_agent(instance) {
        return Err(conflict(name_of(instance), NO_AGENT));
    }
    Ok(())
}

/// After how many seconds the guest's file systems go on by themselves, where they can be held still: 0 for never.
///
/// # Errors
/// When the instance does not run, no time is said, or no agent answers in its guest.
pub fn freeze(instance: &VirtualMachineInstance, options: &FreezeOptions) -> Result<u64, Refusal> {
    let timeout = match &options.unfreeze_timeout {
        None if is_running(instance) => {
            return Err(internal("Unfreeze timeout in freeze request is not set"));
        }
        None => 0,
        Some(text) => seconds(text)?,
    };
    unfreeze(instance)?;
    Ok(timeout)
}

/// Whether they can go on.
///
/// # Errors
/// When the instance does not run, or no agent answers in its guest.
pub fn unfreeze(instance: &VirtualMachineInstance) -> Result<(), Refusal> {
    if !is_running(instance) {
        return Err(conflict(name_of(instance), "VM is not running"));
    }
    if !has_agent(instance) {
        return Err(no_agent());
    }
    Ok(())
}

/// Why no file systems are held still without an agent.
pub fn no_agent() -> Refusal {
    internal(NO_AGENT)
}

/// The whole seconds, rounded up, of a duration as Go writes it (`5m0s`); 0 for one that lies in the past.
fn seconds(text: &str) -> Result<u64, Refusal> {
    if text == "0" {
        return Ok(0);
    }
    let duration: jiff::SignedDuration = text.parse().map_err(|_| {
        let why = format!("time: invalid duration \"{text}\"");
        bad_request(format!("Can not unmarshal Request body to struct, error: {why}"))
    })?;
    let partial = i64::from(duration.subsec_nanos() > 0);
    Ok(u64::try_from(duration.as_secs().saturating_add(partial)).unwrap_or_default())
}

/// Why there is no connection to a vsock: guests have none yet.
pub fn vsock(_: &VirtualMachineInstance) -> Refusal {
    bad_request("VSOCK is not attached.")
}

/// Why its disks are not backed up: nothing follows what is written to them.
pub fn backup(instance: &VirtualMachineInstance) -> Refusal {
    match is_running(instance) {
        true => internal("backups are not supported by ferrovirt"),
        false => conflict(name_of(instance), "VM is not running"),
    }
}

/// Why no checkpoint of its disks can be defined anew.
pub fn redefine_checkpoint(instance: &VirtualMachineInstance) -> Refusal {
    conflict(name_of(instance), "ChangedBlockTracking is not enabled")
}

/// Why its machine does not move to another node.
pub fn migrate(instance: &VirtualMachineInstance) -> Refusal {
    if !is_running(instance) {
        return Refusal::conflict(name_of(instance), "VM is not running");
    }
    let conditions = instance.status.as_ref().map_or(&[][..], |status| &status.conditions);
    match find(conditions, "LiveMigratable").filter(|condition| condition.status == "False") {
        Some(condition) => internal(&format!(
            "admission webhook \"migration-create-validator.kubevirt.io\" denied the request: Cannot migrate VMI, Reason: \
             {}, Message: {}",
            condition.reason.as_deref().unwrap_or_default(),
            condition.message.as_deref().unwrap_or_default()
        )),
        None => internal("live migration is not supported by ferrovirt"),
    }
}

/// The taint of a node that is to be left (KubeVirt's default `nodeDrainTaintKey`).
const DRAIN_TAINT: &str = "kubevirt.io/drain";

/// Whether what was to leave `node` may stay there after all.
///
/// # Errors
/// While the node itself says that it is to be left.
pub fn stay(node: &Node) -> Result<(), Refusal> {
    let mut taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    match taints.any(|taint| taint.key == DRAIN_TAINT && taint.effect == "NoSchedule") {
        true => {
            let name = node.metadata.name.as_deref().unwrap_or_default();
            Err(bad_request(format!("Node \"{name}\" has NodeDrainTaintKey \"{DRAIN_TAINT}:NoSchedule\"")))
        }
        false => Ok(()),
    }
}

/// Why no USB device can be redirected: guests have no slot for one yet.
pub fn usbredir(instance: &VirtualMachineInstance) -> Refusal {
    conflict(name_of(instance), "Not configured with USB Redirection")
}

/// Whether a client can attach to the serial console. What asks again after a 400 waits for the boot.
///
/// # Errors
/// When there is none, the instance has failed, or does not run yet.
pub fn console(instance: &VirtualMachineInstance) -> Result<(), Refusal> {
    if instance.spec.domain.devices.autoattach_serial_console == Some(false) {
        return Err(bad_request("No serial consoles are present."));
    }
    if phase(instance) == Phase::Failed.as_str() {
        return Err(conflict(name_of(instance), "VMI is in failed status"));
    }
    if !is_running(instance) {
        return Err(bad_request("VMI is not running"));
    }
    Ok(())
}

/// Whether there is a display to be seen.
///
/// # Errors
/// When there is none, or the instance does not run.
pub fn vnc(instance: &VirtualMachineInstance) -> Result<(), Refusal> {
    if instance.spec.domain.devices.autoattach_graphics_device == Some(false) {
        return Err(bad_request("No graphics devices are present."));
    }
    if !is_running(instance) {
        return Err(bad_request("VMI is not running"));
    }
    Ok(())
}

/// Whether a port of the guest can be connected to. No phase is asked for, as by KubeVirt: without interfaces in the status
/// there is nobody to connect to.
///
/// # Errors
/// When the virtual CPUs stand still, or there is no network.
pub fn port_forward(instance: &VirtualMachineInstance) -> Result<(), Refusal> {
    if is_paused(instance) {
        return Err(conflict(name_of(instance), "VMI is paused"));
    }
    if instance.status.as_ref().is_none_or(|status| status.interfaces.is_empty()) {
        return Err(bad_request("no network interfaces are present"));
    }
    Ok(())
}

fn name_of(instance: &VirtualMachineInstance) -> &str {
    instance.metadata.name.as_deref().unwrap_or_default()
}

fn is_running(instance: &VirtualMachineInstance) -> bool {
    phase(instance) == Phase::Running.as_str()
}

fn is_paused(instance: &VirtualMachineInstance) -> bool {
    is_true(instance, "Paused")
}

/// Whether an agent in the guest answers.
fn has_agent(instance: &VirtualMachineInstance) -> bool {
    is_true(instance, "AgentConnected")
}

fn is_true(instance: &VirtualMachineInstance, condition: &str) -> bool {
    let conditions = instance.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    find(conditions, condition).is_some_and(|condition| condition.status == "True")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::{Value, json};

    use super::*;

    fn instance(phase: &str, paused: bool, spec: Value) -> VirtualMachineInstance {
        let mut object = json!({
            "metadata": {"name": "vm"}, "spec": {"domain": {"devices": {}}}, "status": {"phase": phase},
        });
        if paused {
            object["status"]["conditions"] = json!([{"type": "Paused", "status": "True"}]);
        }
        if let Value::Object(fields) = spec {
            object["spec"].as_object_mut().unwrap().extend(fields);
        }
        serde_json::from_value(object).unwrap()
    }

    fn told(outcome: Result<(), Refusal>) -> String {
        outcome.map_or_else(|refusal| format!("{} {}", refusal.code, refusal.message), |()| "ok".to_owned())
    }

    fn frozen(outcome: Result<u64, Refusal>) -> String {
        outcome.map_or_else(|refusal| told(Err(refusal)), |seconds| format!("{seconds} s"))
    }

    #[test]
    fn what_is_not_done_is_refused_in_kubevirts_words() {
        let refused = |refusal: Refusal| told(Err(refusal));
        let on = "Operation cannot be fulfilled on";
        let stopped = instance("Scheduled", false, Value::Null);
        assert_eq!(
            refused(migrate(&stopped)),
            format!("409 {on} virtualmachine.kubevirt.io \"vm\": VM is not running")
        );
        assert_eq!(
            refused(backup(&stopped)),
            format!("409 {on} virtualmachineinstance.kubevirt.io \"vm\": VM is not running")
        );
        let mut running = instance("Running", false, Value::Null);
        let internal = "500 Internal error occurred:";
        assert_eq!(refused(backup(&running)), format!("{internal} backups are not supported by ferrovirt"));
        assert_eq!(
            refused(redefine_checkpoint(&running)),
            format!(
                "409 {on} virtualmachineinstance.kubevirt.io \"vm\": ChangedBlockTracking is not enabled"
            )
        );
        let other = format!("{internal} live migration is not supported by ferrovirt");
        assert_eq!(refused(migrate(&running)), other);
        let conditions = json!([
            {"type": "LiveMigratable", "status": "False", "reason": "InterfaceNotLiveMigratable", "message": "why"},
        ]);
        running.status.as_mut().unwrap().conditions = serde_json::from_value(conditions).unwrap();
        let denied = "admission webhook \"migration-create-validator.kubevirt.io\" denied the request: Cannot migrate VMI, \
                      Reason: InterfaceNotLiveMigratable, Message: why";
        assert_eq!(refused(migrate(&running)), format!("{internal} {denied}"));
    }

    #[test]
    fn nobody_stays_on_a_node_that_is_to_be_left() {
        let node = |key: &str, effect: &str| -> Node {
            let taint = json!({"key": key, "effect": effect});
            serde_json::from_value(json!({"metadata": {"name": "n"}, "spec": {"taints": [taint]}})).unwrap()
        };
        let message = "400 Node \"n\" has NodeDrainTaintKey \"kubevirt.io/drain:NoSchedule\"";
        assert_eq!(told(stay(&node("kubevirt.io/drain", "NoSchedule"))), message);
        for (key, effect) in [("kubevirt.io/drain", "NoExecute"), ("other", "NoSchedule")] {
            assert_eq!(told(stay(&node(key, effect))), "ok");
        }
        assert_eq!(told(stay(&Node::default())), "ok");
    }

    #[test]
    fn each_state_allows_what_kubevirt_allows() {
        let on = "Operation cannot be fulfilled on virtualmachineinstance.kubevirt.io \"vm\":";
        for phase in ["Pending", "Scheduling", "Scheduled", "Succeeded", "Failed", ""] {
            let instance = instance(phase, false, Value::Null);
            assert_eq!(told(pause(&instance)), format!("409 {on} VM is not running"), "{phase}");
            assert_eq!(told(unpause(&instance)), format!("409 {on} VMI is not running"), "{phase}");
            assert_eq!(told(soft_reboot(&instance)), format!("409 {on} VM is not running"), "{phase}");
            assert_eq!(told(guest_info(&instance)), format!("409 {on} VMI is not running"), "{phase}");
            let without = FreezeOptions::default();
            assert_eq!(frozen(freeze(&instance, &without)), format!("409 {on} VM is not running"));
            assert_eq!(told(unfreeze(&instance)), format!("409 {on} VM is not running"));
            let expected = match phase {
                "Failed" => format!("409 {on} VMI is in failed status"),
                _ => "400 VMI is not running".to_owned(),
            };
            assert_eq!(told(console(&instance)), expected, "{phase}");
            assert_eq!(told(vnc(&instance)), "400 VMI is not running", "{phase}");
            let expected = match phase {
                "Scheduled" => "ok".to_owned(),
                _ => format!(
                    "400 Unable to connect to VirtualMachineInstance because phase is {phase} instead of Running or \
                     Scheduled"
                ),
            };
            assert_eq!(told(reach(&instance)), expected);
        }
        let running = instance("Running", false, Value::Null);
        assert_eq!(told(pause(&running)), "ok");
        assert_eq!(told(unpause(&running)), format!("409 {on} VMI is not paused"));
        assert_eq!(told(guest_info(&running)), format!("409 {on} {NO_AGENT}"));
        assert_eq!(
            frozen(freeze(&running, &FreezeOptions::default())),
            "500 Internal error occurred: Unfreeze timeout in freeze request is not set"
        );
        let within = |timeout: &str| FreezeOptions { unfreeze_timeout: Some(timeout.to_owned()) };
        let none = format!("500 Internal error occurred: {NO_AGENT}");
        assert_eq!(frozen(freeze(&running, &within("5m0s"))), none);
        assert_eq!(told(unfreeze(&running)), none);
        let mut with_agent = running.clone();
        let agent = json!([{"type": "AgentConnected", "status": "True"}]);
        with_agent.status.as_mut().unwrap().conditions = serde_json::from_value(agent).unwrap();
        for (text, seconds) in
            [("0", 0), ("0s", 0), ("5m0s", 300), ("1h2m3.5s", 3724), ("300ms", 1), ("-5s", 0)]
        {
            assert_eq!(frozen(freeze(&with_agent, &within(text))), format!("{seconds} s"), "{text}");
        }
        assert_eq!(
            frozen(freeze(&with_agent, &within("soon"))),
            "400 Can not unmarshal Request body to struct, error: time: invalid duration \"soon\""
        );
        assert_eq!((told(unfreeze(&with_agent)), told(guest_info(&with_agent))), ("ok".into(), "ok".into()));
        let paused = instance("Running", true, Value::Null);
        assert_eq!(told(pause(&paused)), format!("409 {on} VMI is already paused"));
        assert_eq!(told(soft_reboot(&paused)), format!("409 {on} VMI is paused"));
        let allowed =
            [unpause(&paused), console(&paused), console(&running), reach(&running), soft_reboot(&running)];
        for allowed in allowed {
            assert_eq!(told(allowed), "ok");
        }
    }

    #[test]
    fn a_port_needs_an_interface_and_a_guest_that_runs() {
        let none = "400 no network interfaces are present";
        for phase in ["Pending", "Running", "Failed"] {
            assert_eq!(told(port_forward(&instance(phase, false, Value::Null))), none, "{phase}");
        }
        let with_interface = |paused| {
            let mut instance = instance("Running", paused, Value::Null);
            instance.status.as_mut().unwrap().interfaces.push(Default::default());
            told(port_forward(&instance))
        };
        assert_eq!(with_interface(false), "ok");
        let conflict =
            "409 Operation cannot be fulfilled on virtualmachineinstance.kubevirt.io \"vm\": VMI is paused";
        assert_eq!(with_interface(true), conflict);
    }

    #[test]
    fn what_the_instance_has_counts_too() {
        let without = json!({"domain": {"devices": {"autoattachSerialConsole": false}}});
        assert_eq!(
            told(console(&instance("Running", false, without))),
            "400 No serial consoles are present."
        );
        let without = json!({"domain": {"devices": {"autoattachGraphicsDevice": false}}});
        assert_eq!(told(vnc(&instance("Running", false, without))), "400 No graphics devices are present.");
        assert_eq!(told(vnc(&instance("Running", true, Value::Null))), "ok");
        let probed = |probe: Value| instance("Running", false, json!({"livenessProbe": probe}));
        assert_eq!(
            told(pause(&probed(json!({"tcpSocket": {"port": 22}})))),
            "403 virtualmachineinstance.kubevirt.io \"vm\" is forbidden: Pausing VMIs with a non-GuestAgentPing \
             LivenessProbe is not supported"
        );
        assert_eq!(told(pause(&probed(json!({"guestAgentPing": {}})))), "ok");
        let domain = json!({"devices": {}, "features": {"acpi": {"enabled": false}}});
        let mut buttonless = instance("Running", false, json!({ "domain": domain }));
        assert_eq!(
            told(soft_reboot(&buttonless)),
            "409 Operation cannot be fulfilled on virtualmachineinstance.kubevirt.io \"vm\": VMI neither have the agent \
             connected nor the ACPI feature enabled"
        );
        let agent = json!([{"type": "AgentConnected", "status": "True"}]);
        buttonless.status.as_mut().unwrap().conditions = serde_json::from_value(agent).unwrap();
        assert_eq!(told(soft_reboot(&buttonless)), "ok");
        assert_eq!(told(Err(not_found("vm"))), "404 virtualmachineinstance.kubevirt.io \"vm\" not found");
    }
}
