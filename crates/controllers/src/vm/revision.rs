//! The spec that an instance was made from, kept as a ControllerRevision, and how far the machine has moved on since.

use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use manifest::forms;
use manifest::types::{VirtualMachine, VirtualMachineInstanceSpec, VirtualMachineSpec};
use serde_json::json;

/// Label on a revision: UID of its machine, so that its older ones are found.
pub const MACHINE_UID: &str = "ferrovirt.dev/vm-uid";

/// Most sockets and largest memory are given to an instance when it is created; see `manifest::defaults`.
const NOT_LIVE: &str = "a non-live-updatable field was changed in the template spec";
const TOO_MANY_SOCKETS: &str = "CPU sockets updated in template spec to a value higher than what's available";
const FEWER_SOCKETS: &str = "Reduction of CPU socket count requires a restart";
const ARM_SOCKETS: &str = "ARM doesn't support CPU hotplug";

/// Name of the revision that an instance made from `machine` as it is now starts from.
pub fn name(machine: &VirtualMachine) -> String {
    let uid = machine.metadata.uid.as_deref().unwrap_or_default();
    format!("revision-start-vm-{uid}-{}", machine.metadata.generation.unwrap_or_default())
}

/// The revision of `machine` as it is now.
pub fn of(machine: &VirtualMachine) -> ControllerRevision {
    let uid = machine.metadata.uid.clone().unwrap_or_default();
    let spec = forms::to_value(&machine.spec).expect("a spec has no keys but texts");
    ControllerRevision {
        metadata: ObjectMeta {
            name: Some(name(machine)),
            namespace: machine.metadata.namespace.clone(),
            labels: Some([(MACHINE_UID.to_owned(), uid)].into()),
            owner_references: Some(vec![super::build::owner(machine)]),
            ..ObjectMeta::default()
        },
        data: Some(RawExtension(json!({"spec": spec}))),
        revision: machine.metadata.generation.unwrap_or_default(),
    }
}

/// The spec that is kept in `revision`; `None` when it holds something else.
pub fn spec_in(revision: &ControllerRevision) -> Option<VirtualMachineSpec> {
    forms::from_value(&revision.data.as_ref()?.0["spec"]).ok()
}

/// How far a machine has moved on from what its instance was made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drift {
    /// Not known: there is no instance, or nothing is kept of what it was made from.
    Unknown,
    /// Its template is the same.
    None,
    /// Its template differs in what a live instance takes over.
    Live,
    /// Its template differs in what takes effect with the next start only; why.
    Restart(&'static str),
}

/// Compares the template of `now` with that of `start`. `most_sockets` is how many CPU sockets the instance can have.
///
/// Where the instance runs next (node selector, affinity, tolerations) is taken over while it runs. More CPUs and more
/// memory are not, as long as nothing can plug them.
pub fn drift(start: &VirtualMachineSpec, now: &VirtualMachineSpec, most_sockets: Option<u32>) -> Drift {
    if start.template == now.template && start.instancetype == now.instancetype {
        return Drift::None;
    }
    let (before, after) = (settled(&start.template.spec), settled(&now.template.spec));
    if before != after || start.instancetype != now.instancetype {
        return Drift::Restart(NOT_LIVE);
    }
    let sockets = |spec: &VirtualMachineInstanceSpec| {
        spec.domain.cpu.as_ref().and_then(|cpu| cpu.sockets).filter(|count| *count > 0).unwrap_or(1)
    };
    let (before, after) = (&start.template.spec, &now.template.spec);
    if sockets(before) != sockets(after) {
        if after.architecture.as_deref() == Some("arm64") {
            return Drift::Restart(ARM_SOCKETS);
        }
        if sockets(after) < sockets(before) {
            return Drift::Restart(FEWER_SOCKETS);
        }
        if most_sockets.is_some_and(|most| sockets(after) > most) {
            return Drift::Restart(TOO_MANY_SOCKETS);
        }
        return Drift::Restart(NOT_LIVE);
    }
    Drift::Live
}

/// `spec` without what is looked at by itself.
fn settled(spec: &VirtualMachineInstanceSpec) -> VirtualMachineInstanceSpec {
    let mut spec = spec.clone();
    spec.node_selector.clear();
    spec.affinity = None;
    spec.tolerations.clear();
    if let Some(cpu) = &mut spec.domain.cpu {
        cpu.sockets = None;
    }
    spec
}
