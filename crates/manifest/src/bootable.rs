//! The three questions that precede a boot, asked at once: is the object valid, is all of it supported, does it say
//! enough to run?

use crate::types::{VirtualMachine, VirtualMachineInstance};
use crate::unsupported::{self, Findings};
use crate::validate::{self, Cause, KernelSource};

/// Everything that keeps `machine` from being booted, and everything odd about it. Ask before defaults are applied.
pub fn bootable_vm(machine: &VirtualMachine, kernel: KernelSource) -> Findings {
    findings_vm(machine, validate::runnable_vm(machine, kernel))
}

/// Everything that keeps `instance` from being booted, and everything odd about it. Ask before defaults are applied.
pub fn bootable_vmi(instance: &VirtualMachineInstance, kernel: KernelSource) -> Findings {
    findings_vmi(instance, validate::runnable_vmi(instance, kernel))
}

/// The first two questions alone: what is written is valid and supported, and may be too little to run.
pub fn supported_vm(machine: &VirtualMachine) -> Findings {
    findings_vm(machine, Vec::new())
}

/// [`supported_vm`] for an instance.
pub fn supported_vmi(instance: &VirtualMachineInstance) -> Findings {
    findings_vmi(instance, Vec::new())
}

fn findings_vm(machine: &VirtualMachine, not_runnable: Vec<Cause>) -> Findings {
    let mut warnings = validate::warnings_vm(machine);
    let support = unsupported::check_vm(machine);
    warnings.extend(support.warnings);
    let groups = [validate::validate_vm(machine), support.causes, not_runnable];
    Findings { causes: one_of_each_field(groups), warnings }
}

fn findings_vmi(instance: &VirtualMachineInstance, not_runnable: Vec<Cause>) -> Findings {
    let support = unsupported::check_vmi(instance);
    let groups = [validate::validate_vmi(instance), support.causes, not_runnable];
    Findings { causes: one_of_each_field(groups), warnings: support.warnings }
}

/// All causes, less those about a field (or of a text) that an earlier group has spoken of: an unknown machine type is
/// also an unsupported one, and once is enough.
fn one_of_each_field(groups: [Vec<Cause>; 3]) -> Vec<Cause> {
    let mut causes: Vec<Cause> = Vec::new();
    for group in groups {
        let said = causes.len();
        for cause in group {
            let same = |earlier: &Cause| {
                earlier.message == cause.message || (!cause.field.is_empty() && earlier.field == cause.field)
            };
            if !causes[..said].iter().any(same) {
                causes.push(cause);
            }
        }
    }
    causes
}
