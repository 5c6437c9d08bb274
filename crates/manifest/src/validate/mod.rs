//! What an object must mean: KubeVirt's rules for fields, with its messages, fields and kinds of fault, byte for byte.
//!
//! Every rule is checked and every fault is reported, in the order in which KubeVirt's admission reports them. Where
//! KubeVirt's texts or paths are odd (a doubled path, a missing space), they are odd here too: clients match on them.
//!
//! As in KubeVirt, rules see the object after defaults, applied to a copy: a volume without a disk gets one before
//! disks are checked, so that KubeVirt's rule against such volumes, which nothing can break, is not here. The cluster's
//! settings are KubeVirt's own defaults: alpha feature gates are off, bridge interfaces are allowed on the pod network,
//! changes roll out live (so that a guest larger than its memory limit is no fault).
//!
//! One file for each group of rules; `spec_causes` puts them in order. Whether Ferrovirt can *boot* what is valid is
//! another question: see [`unsupported`](crate::unsupported), [`runnable_vm`], and
//! [`bootable`](crate::bootable) for all of it at once.

mod access;
mod architecture;
mod cause;
mod cpu;
mod devices;
mod disks;
mod file_path;
mod firmware;
mod kernel_boot;
mod memory;
mod metadata;
mod names;
mod networks;
mod pod;
mod ports;
mod probes;
mod runnable;
mod vm;
mod volumes;

pub use cause::{Cause, CauseKind, CauseList, MOST_MESSAGES};
pub use kernel_boot::{MOST_COMMAND_LINE_BYTES, append_fault};
pub use runnable::{KernelSource, runnable_vm, runnable_vmi};

use uuid::Uuid;

use cause::{Causes, Path};

use crate::defaults::{DefaultsContext, apply_vmi, vmi_for};
use crate::types::{VirtualMachine, VirtualMachineInstance, VirtualMachineInstanceSpec};

/// Something odd that keeps nothing from working.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// The dotted path of the field.
    pub field: String,
    /// What the user should know.
    pub message: String,
}

/// Most elements that KubeVirt's schema allows in a list of devices.
const MOST_ELEMENTS: usize = 256;

/// Every fault of an instance, as KubeVirt finds them when one is created.
pub fn validate_vmi(instance: &VirtualMachineInstance) -> Vec<Cause> {
    let instance = with_defaults(instance.clone());
    let path = Path::root("spec");
    let mut causes = Causes::default();
    metadata::name_and_namespace(&instance.metadata, &mut causes);
    spec_causes(&instance.spec, &path, &mut causes);
    memory::is_requested(&instance.spec, &mut causes);
    let (described, spec) = (Some(&instance.metadata), &instance.spec);
    metadata::labels_and_annotations(described, spec, &Path::root("metadata"), &mut causes);
    architecture::check(&instance.spec, &path, &mut causes);
    causes.into_vec()
}

/// Every fault of a virtual machine, as KubeVirt finds them when one is created or changed.
pub fn validate_vm(machine: &VirtualMachine) -> Vec<Cause> {
    let instance = with_defaults(vmi_for(machine));
    let path = Path::root("spec");
    let template = path.child("template");
    let mut causes = Causes::default();
    metadata::name_and_namespace(&machine.metadata, &mut causes);
    let described = machine.spec.template.metadata.as_ref();
    let described_at = template.child("metadata");
    metadata::labels_and_annotations(described, &instance.spec, &described_at, &mut causes);
    spec_causes(&instance.spec, &template.child("spec"), &mut causes);
    vm::check(machine, &path, &mut causes);
    causes.into_vec()
}

/// Every fault of a change of an instance from `old` to `new` by anybody but KubeVirt's own controllers: what is asked
/// for stays as it was created, and so do the labels that the controllers keep.
pub fn validate_vmi_update(new: &VirtualMachineInstance, old: &VirtualMachineInstance) -> Vec<Cause> {
    let mut causes = Causes::default();
    if new.spec != old.spec {
        causes.not_supported(&Path::root("spec"), "update of VMI object is restricted");
    }
    metadata::reserved_labels_stay(&new.metadata, &old.metadata, &mut causes);
    causes.into_vec()
}

/// The instance with defaults. The random parts do not matter, since nothing of the copy is kept.
fn with_defaults(mut instance: VirtualMachineInstance) -> VirtualMachineInstance {
    let context = DefaultsContext {
        architecture: architecture::DEFAULT.to_owned(),
        firmware_uuid: Uuid::nil(),
        firmware_serial: Uuid::nil(),
    };
    apply_vmi(&mut instance, &context);
    instance
}

/// What KubeVirt's admission warns about, in its words.
pub fn warnings_vm(machine: &VirtualMachine) -> Vec<Warning> {
    vm::warnings(machine)
}

/// The rules that hold for an instance's spec wherever it stands, in KubeVirt's order. `path` is `spec` or
/// `spec.template.spec`.
fn spec_causes(spec: &VirtualMachineInstanceSpec, path: &Path, causes: &mut Causes) {
    let domain = path.child("domain");
    pod::names(spec, path, causes);
    memory::check(&spec.domain, &domain, causes);
    firmware::machine(spec, &domain, causes);
    firmware::acpi(spec, path, causes);
    cpu::check(&spec.domain, &domain, causes);
    pod::start_strategy(spec, path, causes);
    networks::check(spec, path, causes);
    disks::volumes_and_boot_order(spec, path, causes);
    devices::inputs(&spec.domain.devices, &domain, causes);
    devices::io_threads(&spec.domain, &domain, causes);
    probes::check(spec, path, causes);
    disks::check(&spec.domain.devices, &domain, causes);
    firmware::bootloader(&spec.domain, &domain, causes);
    kernel_boot::check(spec.domain.firmware.as_ref(), &domain, causes);
    firmware::secure_boot(&spec.domain, &domain, causes);
    volumes::check(spec, path, causes);
    access::check(spec, path, causes);
    pod::dns(spec, path, causes);
    pod::eviction_strategy(spec, path, causes);
    devices::gated(&spec.domain.devices, &domain, causes);
    devices::video(&spec.domain.devices, &domain, causes);
    devices::panic_devices(spec, &domain, causes);
}

/// The text of an optional field; unset and empty are the same to KubeVirt.
fn text(field: &Option<String>) -> &str {
    field.as_deref().unwrap_or_default()
}

/// Adds a fault where a list is longer than KubeVirt's schema allows.
fn not_too_many<T>(list: &[T], field: &Path, causes: &mut Causes) {
    if list.len() > MOST_ELEMENTS {
        let count = list.len();
        causes.invalid(field, format!("Too many: {count}: must have at most {MOST_ELEMENTS} items"));
    }
}
