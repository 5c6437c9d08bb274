//! Whether a valid object says enough for a guest to be booted here: memory, and a kernel.
//!
//! KubeVirt accepts objects that cannot run: machines whose memory an instancetype will supply, an initrd without a
//! kernel. Whoever boots an object asks here first, so that the user hears of it before QEMU says it in its own words.

use super::cause::{Cause, Causes, Path};
use super::memory;
use crate::resources::{MemoryError, guest_memory};
use crate::types::{VirtualMachine, VirtualMachineInstance, VirtualMachineInstanceSpec};

/// Where the kernel to boot comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KernelSource {
    /// From the image that the manifest names; it must name one.
    Manifest,
    /// From a file that was given beside the manifest.
    Given,
}

/// What keeps a machine from being booted, other than faults that [`validate_vm`](super::validate_vm) finds.
pub fn runnable_vm(machine: &VirtualMachine, kernel: KernelSource) -> Vec<Cause> {
    runnable(&machine.spec.template.spec, &Path::root("spec.template.spec"), kernel)
}

/// What keeps an instance from being booted, other than faults that [`validate_vmi`](super::validate_vmi) finds.
pub fn runnable_vmi(instance: &VirtualMachineInstance, kernel: KernelSource) -> Vec<Cause> {
    runnable(&instance.spec, &Path::root("spec"), kernel)
}

fn runnable(spec: &VirtualMachineInstanceSpec, path: &Path, kernel: KernelSource) -> Vec<Cause> {
    let mut causes = Causes::default();
    match guest_memory(spec) {
        // A page size that cannot be read breaks a rule of its own.
        Ok(_) | Err(MemoryError::PageSize { .. }) => {}
        Err(MemoryError::Unset) => {
            causes.required(&path.child("domain.memory.guest"), memory::not_requested(&path.to_string()));
        }
        Err(MemoryError::NotPositive { field, value }) => {
            let field = path.child(field);
            causes.invalid(&field, format!("{field} '{value}': a guest needs memory"));
        }
    }
    if kernel == KernelSource::Manifest {
        names_kernel(spec, path, &mut causes);
    }
    causes.into_vec()
}

fn names_kernel(spec: &VirtualMachineInstanceSpec, path: &Path, causes: &mut Causes) {
    let field = path.child("domain.firmware.kernelBoot.container");
    let kernel_boot = spec.domain.firmware.as_ref().and_then(|firmware| firmware.kernel_boot.as_ref());
    let Some(container) = kernel_boot.and_then(|kernel_boot| kernel_boot.container.as_ref()) else {
        let message =
            format!("{field} must name an image with a kernel: there is nothing else to boot from yet");
        return causes.required(&field, message);
    };
    let is_set = |path: &Option<String>| !super::text(path).is_empty();
    // Neither path is a fault of its own.
    if is_set(&container.initrd_path) && !is_set(&container.kernel_path) {
        let field = field.child("kernelPath");
        causes.required(&field, format!("{field} must be set: an initrd cannot be booted without a kernel"));
    }
}
