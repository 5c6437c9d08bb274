//! What the machine controller reads of an instance.

use manifest::keys::VM_GENERATION;
use manifest::types::{Condition, VirtualMachineInstance};

/// The phase, empty when there is none yet.
pub fn phase(instance: &VirtualMachineInstance) -> &str {
    instance.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

/// Whether the instance has ended: it will not run again.
pub fn is_final(instance: &VirtualMachineInstance) -> bool {
    matches!(phase(instance), "Succeeded" | "Failed")
}

/// Whether its deletion was asked for.
pub fn is_deleting(instance: &VirtualMachineInstance) -> bool {
    instance.metadata.deletion_timestamp.is_some()
}

/// Whether the instance ever was in phase `Running`.
pub fn has_run(instance: &VirtualMachineInstance) -> bool {
    instance.status.as_ref().is_some_and(|status| {
        let phases = &status.phase_transition_timestamps;
        phases.iter().any(|entry| entry.phase.as_deref() == Some("Running"))
    })
}

/// Its UID, empty when it is not stored anywhere.
pub fn uid(instance: &VirtualMachineInstance) -> &str {
    instance.metadata.uid.as_deref().unwrap_or_default()
}

/// Its condition of that type.
pub fn condition<'a>(instance: &'a VirtualMachineInstance, type_: &str) -> Option<&'a Condition> {
    let conditions = &instance.status.as_ref()?.conditions;
    conditions.iter().find(|condition| condition.type_ == type_)
}

/// Generation of the machine that the instance stands for.
pub fn generation(instance: &VirtualMachineInstance) -> Option<i64> {
    instance.metadata.annotations.as_ref()?.get(VM_GENERATION)?.parse().ok()
}
