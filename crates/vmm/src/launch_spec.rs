//! What a virtual machine is, as data: everything that the QEMU command line depends on and nothing that belongs to
//! one host. A spec made on one machine starts the same guest on another; what differs between hosts (which
//! accelerator, which QEMU, whose user id) is in [`HostFacts`](crate::HostFacts).
//!
//! Plain structs without control flow: who wants to know what a machine can have reads this file. The only rule kept
//! here is [`LaunchSpec::check`], which names what QEMU would refuse or, worse, silently change.
//!
//! The type is written to `launch.json`, so it carries a `version`: [`LAUNCH_SPEC_VERSION`] moves when a field changes
//! its meaning, a reader refuses versions it does not know, and unknown fields are errors.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The version of [`LaunchSpec`] that this crate writes and reads.
pub const LAUNCH_SPEC_VERSION: u32 = 1;

/// Most virtual CPUs of a q35 guest without an interrupt-remapping IOMMU: local APIC ids have eight bits and 255 is
/// the broadcast id (Intel SDM volume 3, 11.6; QEMU `hw/i386/x86.c`).
pub const MAX_VCPUS: u64 = 255;

/// Longest kernel command line in bytes that x86 Linux keeps (`COMMAND_LINE_SIZE` of 2048, minus its final zero).
pub const MAX_COMMAND_LINE_BYTES: usize = 2047;

/// One virtual machine, ready to be started on any host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LaunchSpec {
    /// Format of this document, see [`LAUNCH_SPEC_VERSION`].
    pub version: u32,
    /// The machine's name, shown by `ps` and by QEMU's messages.
    pub name: String,
    /// QEMU machine type: `q35` or a versioned one such as `pc-q35-7.2`.
    pub machine_type: String,
    /// Memory that the guest sees, in bytes. QEMU rounds it up to a multiple of 8 KiB.
    pub memory_bytes: u64,
    /// Virtual CPUs and how the guest sees them grouped.
    pub cpus: CpuTopology,
    /// QEMU CPU model, e.g. `Haswell-noTSX`. `None` takes the best one that the accelerator offers.
    pub cpu_model: Option<String>,
    /// Identity of the machine as the guest's firmware tables show it.
    pub smbios: Smbios,
    /// Kernel file, readable by the user that QEMU runs as.
    pub kernel: PathBuf,
    /// Initial RAM disk, handed to the kernel unchanged.
    pub initrd: Option<PathBuf>,
    /// Kernel command line, handed over byte for byte. Empty means no `-append`.
    pub command_line: String,
    /// Whether the guest has a first serial port (`ttyS0`), connected to [`ConsoleReader`](crate::ConsoleReader) and
    /// [`ConsoleWriter`](crate::ConsoleWriter).
    pub serial_console: bool,
    /// Whether the guest has a virtio entropy source fed from the host's `/dev/urandom`.
    pub rng: bool,
    /// Device by which the guest's kernel tells of its panic.
    pub panic_device: PanicDevice,
    /// What a reboot inside the guest does.
    pub guest_reboot: GuestReboot,
    /// Whether the first instruction waits for [`Vm::resume`](crate::Vm::resume).
    pub initial_state: InitialState,
}

impl LaunchSpec {
    /// A q35 guest with the defaults of KubeVirt: one CPU, serial console, ISA panic device, reboot restarts.
    pub fn new(name: impl Into<String>, kernel: impl Into<PathBuf>, memory_bytes: u64) -> Self {
        Self {
            version: LAUNCH_SPEC_VERSION,
            name: name.into(),
            machine_type: "q35".to_owned(),
            memory_bytes,
            cpus: CpuTopology::default(),
            cpu_model: None,
            smbios: Smbios::default(),
            kernel: kernel.into(),
            initrd: None,
            command_line: String::new(),
            serial_console: true,
            rng: false,
            panic_device: PanicDevice::Isa,
            guest_reboot: GuestReboot::Restart,
            initial_state: InitialState::Running,
        }
    }
}

/// Sockets, cores per socket and threads per core; each at least 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CpuTopology {
    /// CPU packages.
    pub sockets: u32,
    /// Cores in each package.
    pub cores: u32,
    /// Hardware threads in each core.
    pub threads: u32,
}

impl CpuTopology {
    /// Number of virtual CPUs, the product of the three.
    pub fn vcpus(&self) -> u64 {
        u64::from(self.sockets).saturating_mul(u64::from(self.cores)).saturating_mul(u64::from(self.threads))
    }
}

impl Default for CpuTopology {
    fn default() -> Self {
        Self { sockets: 1, cores: 1, threads: 1 }
    }
}

/// The SMBIOS strings that name the machine; absent ones are left to QEMU.
///
/// `manufacturer`, `product`, `family`, `uuid`, `serial`, `version` and `sku` make the system table (type 1); `chassis`
/// makes the chassis table (type 3).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Smbios {
    /// System manufacturer.
    pub manufacturer: Option<String>,
    /// System product name.
    pub product: Option<String>,
    /// System family.
    pub family: Option<String>,
    /// System UUID in its usual text form.
    pub uuid: Option<String>,
    /// System serial number.
    pub serial: Option<String>,
    /// System version.
    pub version: Option<String>,
    /// System SKU number.
    pub sku: Option<String>,
    /// Chassis strings.
    pub chassis: Chassis,
}

impl Default for Smbios {
    /// What every KubeVirt guest sees: manufacturer and family `KubeVirt`, product `None`.
    fn default() -> Self {
        Self {
            manufacturer: Some("KubeVirt".to_owned()),
            product: Some("None".to_owned()),
            family: Some("KubeVirt".to_owned()),
            uuid: None,
            serial: None,
            version: None,
            sku: None,
            chassis: Chassis::default(),
        }
    }
}

/// SMBIOS chassis strings (type 3), all optional.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Chassis {
    /// Chassis manufacturer.
    pub manufacturer: Option<String>,
    /// Chassis version.
    pub version: Option<String>,
    /// Chassis serial number.
    pub serial: Option<String>,
    /// Chassis asset tag.
    pub asset: Option<String>,
    /// Chassis SKU number.
    pub sku: Option<String>,
}

/// How the guest's kernel can report a panic to the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PanicDevice {
    /// No device; a panic is seen on the console only.
    None,
    /// pvpanic at I/O port 0x505, found through ACPI (Linux: `pvpanic-mmio`).
    Isa,
    /// pvpanic as a PCI function (Linux: `pvpanic-pci`).
    Pci,
}

/// What happens when the guest reboots itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GuestReboot {
    /// The same process starts the same kernel, initial RAM disk and command line again.
    Restart,
    /// The virtual machine ends.
    Terminate,
}

/// Whether the virtual CPUs run from the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum InitialState {
    /// The guest runs at once.
    Running,
    /// The guest waits, stopped before its first instruction.
    Paused,
}
