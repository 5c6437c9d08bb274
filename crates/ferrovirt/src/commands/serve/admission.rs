//! What KubeVirt's admission webhooks do to machines and instances: defaults, rules, and rejections in their words.
//!
//! The order of a write is that of a cluster: the mutating webhook first (which refuses what has the wrong shape), then
//! the validating one. KubeVirt's own accounts pass where users do not.

use apiserver::kind::{Admission, Hooks, Operation};
use apiserver::status::{ApiError, Cause as StatusCause, Details};
use manifest::types::{VirtualMachine, VirtualMachineInstance};
use manifest::validate::{self, Cause, CauseList, MOST_MESSAGES};
use manifest::{DefaultsContext, Fault, Time, bootable};
use serde::Serialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::metrics::Created;

/// Names of the webhooks, as KubeVirt registers them; users find them in messages.
const VM_MUTATOR: &str = "virtualmachines-mutator.kubevirt.io";
const VM_VALIDATOR: &str = "virtualmachine-validator.kubevirt.io";
const VMI_MUTATOR: &str = "virtualmachineinstances-mutator.kubevirt.io";
const VMI_CREATE_VALIDATOR: &str = "virtualmachineinstances-create-validator.kubevirt.io";
const VMI_UPDATE_VALIDATOR: &str = "virtualmachineinstances-update-validator.kubevirt.io";
const KUBEVIRT_CREATE_VALIDATOR: &str = "kubevirt-create-validator.kubevirt.io";

/// Prefix of the accounts that KubeVirt's components run as, in the namespace where it is installed.
const KUBEVIRT_ACCOUNTS: &str = "system:serviceaccount:kubevirt:kubevirt-";

/// Whether the request comes from one of KubeVirt's own components.
fn is_kubevirt(request: &Admission<'_>) -> bool {
    request.user.starts_with(KUBEVIRT_ACCOUNTS)
}

/// Hooks of `VirtualMachine`.
#[derive(Debug)]
pub struct VirtualMachineHooks {
    /// Whether machines have a controller here, which takes off in the end what they are given for it.
    pub has_controller: bool,
    /// Counts them.
    pub created: Created,
}

impl Hooks for VirtualMachineHooks {
    fn default(
        &self,
        request: &Admission<'_>,
        object: &mut Value,
        _old: Option<&Value>,
        _warnings: &mut Vec<String>,
    ) -> Result<(), ApiError> {
        if request.operation == Operation::Delete || !request.subresource.is_empty() {
            return Ok(());
        }
        let mut machine = read_vm(object)?;
        match request.operation {
            Operation::Create => {
                manifest::apply_vm(&mut machine, &defaults_context());
                // What its controller would write before anything else.
                if self.has_controller
                    && let Some(preparation) = controllers::vm::build::preparation(&machine)
                {
                    json_patch::merge(object, &preparation);
                }
                // A status that a user sends is not what was observed.
                machine.status = None;
                object["status"] = match controllers::vm::status::at_rest(&machine, request.now) {
                    Some(status) => to_json(&status)?,
                    // Until its controller has seen it; KubeVirt's definition has it as a default.
                    None => json!({"printableStatus": "Stopped"}),
                };
            }
            _ => manifest::apply_vm_update(&mut machine, &defaults_context()),
        }
        object["spec"] = to_json(&machine.spec)?;
        Ok(())
    }

    fn validate(
        &self,
        request: &Admission<'_>,
        object: &Value,
        old: Option<&Value>,
        warnings: &mut Vec<String>,
    ) -> Result<(), ApiError> {
        if request.operation == Operation::Delete || !request.subresource.is_empty() || unchanged(object, old)
        {
            return Ok(());
        }
        let findings = bootable::supported_vm(&read_vm(object)?);
        warnings.extend(findings.warnings.into_iter().map(|warning| warning.message));
        denied_if_any(VM_VALIDATOR, findings.causes)
    }

    fn created(&self, namespace: &str) {
        self.created.add(namespace);
    }
}

/// Hooks of `VirtualMachineInstance`.
#[derive(Debug)]
pub struct VirtualMachineInstanceHooks;

impl Hooks for VirtualMachineInstanceHooks {
    fn default(
        &self,
        request: &Admission<'_>,
        object: &mut Value,
        old: Option<&Value>,
        warnings: &mut Vec<String>,
    ) -> Result<(), ApiError> {
        match (request.operation, old) {
            (Operation::Create, _) => {
                let mut instance = read_vmi(object)?;
                // Before the defaults are filled in: nobody is to be warned of what they did not write.
                let findings = bootable::supported_vmi(&instance);
                warnings.extend(findings.warnings.into_iter().map(|warning| warning.message));
                // A status that a user sends is not what was observed. A machine's controller says what it started from.
                let revision = instance.status.take().and_then(|status| status.virtual_machine_revision_name);
                manifest::apply_vmi(&mut instance, &defaults_context());
                manifest::initial_status(&mut instance, Time(request.now));
                if let Some(status) = instance.status.as_mut().filter(|_| is_kubevirt(request)) {
                    status.virtual_machine_revision_name = revision;
                }
                object["spec"] = to_json(&instance.spec)?;
                object["status"] = to_json(&instance.status)?;
                let metadata = to_json(&instance.metadata)?;
                for field in ["annotations", "finalizers"] {
                    if let Some(value) = metadata.get(field) {
                        object["metadata"][field] = value.clone();
                    }
                }
                Ok(())
            }
            (Operation::Update, Some(old)) => {
                read_vmi(object)?;
                if !is_kubevirt(request) {
                    // What was observed is not for users to write. KubeVirt takes it back without a word.
                    take_back(object, old, "status");
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn validate(
        &self,
        request: &Admission<'_>,
        object: &Value,
        old: Option<&Value>,
        _warnings: &mut Vec<String>,
    ) -> Result<(), ApiError> {
        match (request.operation, old) {
            (Operation::Create, _) => {
                let findings = bootable::supported_vmi(&read_vmi(object)?);
                let causes = findings.causes.into_iter().filter(|cause| {
                    // The controllers set these labels on the instances that they make.
                    !(is_kubevirt(request) && cause.field == "metadata.labels")
                });
                denied_if_any(VMI_CREATE_VALIDATOR, causes.collect())
            }
            (Operation::Update, Some(old)) if !is_kubevirt(request) => {
                let causes = validate::validate_vmi_update(&read_vmi(object)?, &read_vmi(old)?);
                denied_if_any(VMI_UPDATE_VALIDATOR, causes)
            }
            _ => Ok(()),
        }
    }
}

/// Hooks of `KubeVirt`.
#[derive(Debug)]
pub struct KubeVirtHooks;

impl Hooks for KubeVirtHooks {
    /// An operator would say in the status which specification it has rolled out. There is nothing to roll out here: the
    /// present one counts at once, and whoever waits for it (KubeVirt's own tests do) need not wait.
    fn default(
        &self,
        request: &Admission<'_>,
        object: &mut Value,
        old: Option<&Value>,
        _warnings: &mut Vec<String>,
    ) -> Result<(), ApiError> {
        let Some(old) = old.filter(|_| request.operation == Operation::Update) else { return Ok(()) };
        let is_counted = request.subresource.is_empty() && object.get("spec") != old.get("spec");
        let before = old.pointer("/metadata/generation").and_then(Value::as_i64).unwrap_or_default();
        let generation = before + i64::from(is_counted);
        if let Some(Value::Object(status)) = object.get_mut("status") {
            status.insert("observedGeneration".to_owned(), generation.into());
        }
        Ok(())
    }
}

/// A second installation is refused, as KubeVirt's operator words it: its tools take the only one for theirs.
pub fn already_installed() -> ApiError {
    ApiError::new(400, "", denied(KUBEVIRT_CREATE_VALIDATOR, "Kubevirt is already created"))
}

/// Whether an update leaves what is asked for as it was: a change of labels or finalizers must pass even where the rules
/// have become stricter since, or nobody could delete the object.
fn unchanged(object: &Value, old: Option<&Value>) -> bool {
    old.is_some_and(|old| object.get("spec") == old.get("spec"))
}

/// Puts `field` back to what it was.
fn take_back(object: &mut Value, old: &Value, field: &str) {
    match (old.get(field), object.as_object_mut()) {
        (Some(value), Some(object)) => {
            object.insert(field.to_owned(), value.clone());
        }
        (None, Some(object)) => {
            object.shift_remove(field);
        }
        (_, None) => {}
    }
}

fn defaults_context() -> DefaultsContext {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    DefaultsContext {
        architecture: architecture.to_owned(),
        firmware_uuid: Uuid::new_v4(),
        firmware_serial: Uuid::new_v4(),
    }
}

fn read_vm(object: &Value) -> Result<VirtualMachine, ApiError> {
    manifest::decode_vm(object).map_err(|faults| misshapen(VM_MUTATOR, &faults))
}

fn read_vmi(object: &Value) -> Result<VirtualMachineInstance, ApiError> {
    manifest::decode_vmi(object).map_err(|faults| misshapen(VMI_MUTATOR, &faults))
}

fn to_json(value: &impl Serialize) -> Result<Value, ApiError> {
    // Not by way of text: each write waits for it.
    serde_json::to_value(value)
        .map_err(|error| ApiError::internal(format!("an object could not be written as JSON: {error}")))
}

/// The rejection of an object whose shape is wrong. Its causes say nothing but the message.
fn misshapen(webhook: &str, faults: &[Fault]) -> ApiError {
    let causes: Vec<_> = faults
        .iter()
        .map(|fault| StatusCause { message: fault.message.clone(), ..StatusCause::default() })
        .collect();
    let mut message =
        causes.iter().take(MOST_MESSAGES).map(|cause| cause.message.as_str()).collect::<Vec<_>>().join(", ");
    if causes.len() > MOST_MESSAGES {
        message.push_str(&format!(", and {} more validation errors", causes.len() - MOST_MESSAGES));
    }
    denial(webhook, &message, causes)
}

fn denied_if_any(webhook: &str, causes: Vec<Cause>) -> Result<(), ApiError> {
    CauseList::check(causes).map_err(|list| {
        let causes = list
            .causes()
            .iter()
            .map(|cause| StatusCause {
                reason: cause.kind.as_str().to_owned(),
                message: cause.message.clone(),
                field: cause.field.clone(),
            })
            .collect();
        denial(webhook, &list.to_string(), causes)
    })
}

/// What the API server makes of a webhook's message.
fn denied(webhook: &str, message: &str) -> String {
    format!("admission webhook \"{webhook}\" denied the request: {message}")
}

/// A rejection as the API server passes it on.
fn denial(webhook: &str, message: &str, mut causes: Vec<StatusCause>) -> ApiError {
    causes.truncate(MOST_MESSAGES);
    let mut error = ApiError::new(422, "Invalid", denied(webhook, message));
    error.details = Some(Box::new(Details { causes, ..Details::default() }));
    error
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn hooks(has_controller: bool) -> VirtualMachineHooks {
        VirtualMachineHooks { has_controller, created: Created::default() }
    }

    const USER: &str = "alice";
    const CONTROLLER: &str = "system:serviceaccount:kubevirt:kubevirt-controller";

    fn admission(operation: Operation, user: &str) -> Admission<'_> {
        Admission {
            operation,
            subresource: "",
            namespace: "default",
            name: "tiny",
            user,
            groups: &[],
            now: Default::default(),
        }
    }

    fn machine() -> Value {
        json!({
            "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine",
            "metadata": {"name": "tiny", "namespace": "default"},
            "spec": {"runStrategy": "Always", "template": {"spec": instance_spec()}},
        })
    }

    fn instance() -> Value {
        json!({
            "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance",
            "metadata": {"name": "tiny", "namespace": "default"},
            "spec": instance_spec(),
        })
    }

    fn instance_spec() -> Value {
        json!({"domain": {
            "devices": {}, "memory": {"guest": "128Mi"},
            "firmware": {"kernelBoot": {"container": {"image": "localhost/k", "kernelPath": "/vmlinuz"}}},
        }})
    }

    #[test]
    fn what_an_installation_is_told_counts_at_once() {
        let old = json!({"metadata": {"generation": 3}, "spec": {}, "status": {"phase": "Deployed"}});
        let observed = |subresource, change: Value| {
            let mut object = old.clone();
            json_patch::merge(&mut object, &change);
            let request = Admission { subresource, ..admission(Operation::Update, "someone") };
            KubeVirtHooks.default(&request, &mut object, Some(&old), &mut Vec::new()).unwrap();
            object["status"]["observedGeneration"].clone()
        };
        assert_eq!(observed("", json!({"metadata": {"labels": {"a": "b"}}})), 3);
        assert_eq!(observed("", json!({"spec": {"imagePullPolicy": "Always"}})), 4);
        assert_eq!(observed("status", json!({"status": {"observedGeneration": 1}})), 3);
    }

    #[test]
    fn a_new_machine_is_given_its_identity() {
        let mut object = machine();
        let mut warnings = Vec::new();
        let request = admission(Operation::Create, USER);
        hooks(true).default(&request, &mut object, None, &mut warnings).unwrap();
        let spec = &object["spec"]["template"]["spec"];
        assert!(Uuid::parse_str(spec["domain"]["firmware"]["uuid"].as_str().unwrap()).is_ok());
        assert_eq!(spec["domain"]["machine"]["type"], "q35");
        assert_eq!(object["status"], json!({"printableStatus": "Stopped"}));
        // Its controller has nothing left to prepare.
        assert_eq!(object["metadata"]["finalizers"], json!(["kubevirt.io/virtualMachineControllerFinalize"]));
        assert_eq!(controllers::vm::build::preparation(&read_vm(&object).unwrap()), None);
        // Nobody would take it off again.
        let mut alone = machine();
        hooks(false).default(&request, &mut alone, None, &mut warnings).unwrap();
        assert_eq!(alone["metadata"]["finalizers"], Value::Null);
        hooks(true).validate(&request, &object, None, &mut warnings).unwrap();
    }

    #[test]
    fn a_new_machine_that_is_not_to_run_has_its_status_whatever_was_sent() {
        let mut object = machine();
        object["spec"]["runStrategy"] = json!("Halted");
        object["status"] = json!({"created": true, "ready": true, "printableStatus": "Running"});
        let request = admission(Operation::Create, USER);
        hooks(true).default(&request, &mut object, None, &mut Vec::new()).unwrap();
        assert_eq!(
            object["status"],
            json!({
                "printableStatus": "Stopped",
                "conditions": [{
                    "type": "Ready", "status": "False", "lastTransitionTime": "1970-01-01T00:00:00Z",
                    "reason": "VMINotExists", "message": "VMI does not exist",
                }],
            })
        );
    }

    #[test]
    fn a_wrong_shape_is_refused_by_the_mutator_and_a_wrong_value_by_the_validator() {
        let mut object = machine();
        object["spec"].as_object_mut().unwrap().remove("template");
        let request = admission(Operation::Create, USER);
        let error = hooks(true).default(&request, &mut object, None, &mut Vec::new()).unwrap_err();
        assert_eq!((error.code, error.reason), (422, "Invalid"));
        assert_eq!(
            error.message,
            "admission webhook \"virtualmachines-mutator.kubevirt.io\" denied the request: spec.template in body is \
             required"
        );

        let mut object = machine();
        object["spec"]["runStrategy"] = json!("Sometimes");
        let error = hooks(true).validate(&request, &object, None, &mut Vec::new()).unwrap_err();
        assert_eq!(
            error.message,
            "admission webhook \"virtualmachine-validator.kubevirt.io\" denied the request: Invalid RunStrategy \
             (Sometimes)"
        );
        let causes = error.details.unwrap().causes;
        assert_eq!(
            (causes[0].reason.as_str(), causes[0].field.as_str()),
            ("FieldValueInvalid", "spec.runStrategy")
        );
    }

    #[test]
    fn at_most_ten_causes_are_listed_and_the_rest_is_counted() {
        let faults: Vec<_> = (0..12)
            .map(|index| Fault { place: String::new(), message: format!("fault {index}"), location: None })
            .collect();
        let error = misshapen("x", &faults);
        assert!(error.message.ends_with("fault 9, and 2 more validation errors"), "{}", error.message);
        assert_eq!(error.details.unwrap().causes.len(), 10);
    }

    #[test]
    fn an_instance_starts_as_pending_whatever_status_was_sent() {
        let mut object = instance();
        object["status"] = json!({"phase": "Running", "virtualMachineRevisionName": "r"});
        let request = admission(Operation::Create, USER);
        let mut by_controller = object.clone();
        VirtualMachineInstanceHooks.default(&request, &mut object, None, &mut Vec::new()).unwrap();
        assert_eq!(object["status"]["phase"], "Pending");
        assert_eq!(object["status"].get("virtualMachineRevisionName"), None);
        let controller = admission(Operation::Create, CONTROLLER);
        VirtualMachineInstanceHooks.default(&controller, &mut by_controller, None, &mut Vec::new()).unwrap();
        assert_eq!(by_controller["status"]["phase"], "Pending");
        assert_eq!(by_controller["status"]["virtualMachineRevisionName"], "r");
        assert_eq!(object["metadata"]["finalizers"], json!(["kubevirt.io/foregroundDeleteVirtualMachine"]));
        VirtualMachineInstanceHooks.validate(&request, &object, None, &mut Vec::new()).unwrap();
    }

    #[test]
    fn users_change_neither_spec_nor_status_of_an_instance_and_controllers_do() {
        let mut old = instance();
        let create = admission(Operation::Create, USER);
        VirtualMachineInstanceHooks.default(&create, &mut old, None, &mut Vec::new()).unwrap();

        let mut new = old.clone();
        new["status"]["phase"] = json!("Running");
        new["spec"]["domain"]["memory"]["guest"] = json!("256Mi");
        let user = admission(Operation::Update, USER);
        let mut by_user = new.clone();
        VirtualMachineInstanceHooks.default(&user, &mut by_user, Some(&old), &mut Vec::new()).unwrap();
        assert_eq!(by_user["status"]["phase"], "Pending");
        let error =
            VirtualMachineInstanceHooks.validate(&user, &by_user, Some(&old), &mut Vec::new()).unwrap_err();
        assert_eq!(
            error.message,
            "admission webhook \"virtualmachineinstances-update-validator.kubevirt.io\" denied the request: update of \
             VMI object is restricted"
        );

        let controller = admission(Operation::Update, CONTROLLER);
        VirtualMachineInstanceHooks.default(&controller, &mut new, Some(&old), &mut Vec::new()).unwrap();
        assert_eq!(new["status"]["phase"], "Running");
        VirtualMachineInstanceHooks.validate(&controller, &new, Some(&old), &mut Vec::new()).unwrap();
    }

    #[test]
    fn labels_of_the_controllers_are_refused_to_users_alone() {
        let mut object = instance();
        object["metadata"]["labels"] = json!({"kubevirt.io/nodeName": "a"});
        let mut user = admission(Operation::Create, USER);
        let error = VirtualMachineInstanceHooks.validate(&user, &object, None, &mut Vec::new()).unwrap_err();
        assert_eq!(error.details.unwrap().causes[0].field, "metadata.labels");
        user.user = CONTROLLER;
        VirtualMachineInstanceHooks.validate(&user, &object, None, &mut Vec::new()).unwrap();
    }

    #[test]
    fn what_has_become_invalid_can_still_lose_its_finalizers() {
        let mut old = machine();
        old["spec"]["runStrategy"] = json!("Sometimes");
        let mut new = old.clone();
        new["metadata"]["labels"] = json!({"a": "b"});
        let request = admission(Operation::Update, USER);
        hooks(true).validate(&request, &new, Some(&old), &mut Vec::new()).unwrap();
    }
}
