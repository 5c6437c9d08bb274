//! What a virtual machine is, as data: everything that the QEMU command line depends on and nothing that
//! belongs to one host. A spec made on one machine starts the same guest on another; what differs between
//! hosts (which accelerator, which QEMU, whose user id) is in [`HostFacts`](crate::HostFacts).
//!
//! Plain structs without control flow: who wants to know what a machine can have reads this file. The only
//! rule kept here is [`LaunchSpec::check`], which names what QEMU would refuse or, worse, silently change.
//!
//! The type is written to `launch.json`, which outlives the program that wrote it. So it carries a `version`:
//! [`LAUNCH_SPEC_VERSION`] moves when a field changes its meaning, and a reader refuses versions it does not know.
//! Fields that came later are absent from older documents, and read as what the guest had then (`serde(default)`):
//! a newer program reads what an older one wrote (`tests/fixtures/launch-1.json`). The other way round an unknown
//! field is an error, since a machine without it would be another machine.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::host_facts::{HostFacts, QemuVersion};

/// The version of [`LaunchSpec`] that this crate writes and reads.
pub const LAUNCH_SPEC_VERSION: u32 = 1;

/// Most virtual CPUs of a q35 guest without an interrupt-remapping IOMMU: local APIC ids have eight bits and
/// 255 is the broadcast id (Intel SDM volume 3, 11.6; QEMU `hw/i386/x86.c`).
pub const MAX_VCPUS: u64 = 255;

/// Most CPU features that may be named. QEMU knows fewer.
pub const MAX_CPU_FEATURES: usize = 512;

/// Most tablets. Those on USB share one controller, which has four ports of each speed (QEMU, `qemu-xhci`).
pub const MAX_INPUTS: usize = 4;

/// Oldest QEMU that a guest with a network card runs on: the first with the network backend `stream`.
pub const OLDEST_QEMU_WITH_NETWORK: QemuVersion = QemuVersion { major: 7, minor: 2, micro: 0 };

/// Longest kernel command line in bytes that x86 Linux keeps (`COMMAND_LINE_SIZE` of 2048, minus its final
/// zero).
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
    /// QEMU CPU model, e.g. `Haswell-noTSX`, without features. `None` takes the best one that the accelerator offers.
    pub cpu_model: Option<String>,
    /// Single CPU features, each named once, [`MAX_CPU_FEATURES`] at most.
    #[serde(default)]
    pub cpu_features: Vec<CpuFeature>,
    /// Identity of the machine as the guest's firmware tables show it.
    pub smbios: Smbios,
    /// Kernel file, readable by the user that QEMU runs as.
    pub kernel: PathBuf,
    /// Initial RAM disk, handed to the kernel unchanged.
    pub initrd: Option<PathBuf>,
    /// Kernel command line, handed over byte for byte. Empty means no `-append`.
    pub command_line: String,
    /// Whether the guest has a first serial port (`ttyS0`), connected to
    /// [`ConsoleReader`](crate::ConsoleReader) and [`ConsoleWriter`](crate::ConsoleWriter).
    pub serial_console: bool,
    /// Whether the guest has a virtio entropy source fed from the host's `/dev/urandom`.
    pub rng: bool,
    /// Whether the guest has a virtio memory balloon, through which it hands back memory that it does not use.
    #[serde(default)]
    pub memory_balloon: bool,
    /// Whether the guest has a VGA adapter, whose display QEMU serves as VNC on a socket.
    #[serde(default)]
    pub graphics: bool,
    /// Pointing devices, one tablet each, [`MAX_INPUTS`] at most.
    #[serde(default)]
    pub inputs: Vec<TabletBus>,
    /// A network card, whose frames go through [`Vm::network`](crate::Vm::network).
    #[serde(default)]
    pub network_card: Option<NetworkCard>,
    /// Whether the guest has the virtio port of QEMU's guest agent, which QEMU serves on a socket.
    #[serde(default)]
    pub agent_port: bool,
    /// A watchdog on the PCI bus (i6300ESB), and what happens when the guest neglects it.
    #[serde(default)]
    pub watchdog: Option<WatchdogAction>,
    /// Whether QEMU gives the guest its ACPI tables.
    #[serde(default)]
    pub acpi: Acpi,
    /// What the guest's real-time clock shows.
    #[serde(default)]
    pub clock: Clock,
    /// The timers that the guest finds.
    #[serde(default)]
    pub timers: Timers,
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
            cpu_features: Vec::new(),
            smbios: Smbios::default(),
            kernel: kernel.into(),
            initrd: None,
            command_line: String::new(),
            serial_console: true,
            rng: false,
            memory_balloon: false,
            graphics: false,
            inputs: Vec::new(),
            network_card: None,
            agent_port: false,
            watchdog: None,
            acpi: Acpi::On,
            clock: Clock::default(),
            timers: Timers::default(),
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

/// One CPU feature, and what is wanted of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CpuFeature {
    /// QEMU's name of the feature, e.g. `avx2` or `cmp-legacy`; `_` stands for `-`.
    pub name: String,
    /// What is wanted of it.
    pub policy: FeaturePolicy,
}

/// What is wanted of a CPU feature. These are the words of libvirt's `<feature policy=…>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FeaturePolicy {
    /// Switched on. Whether the guest gets it is up to QEMU, which leaves out what the accelerator does not have.
    Force,
    /// Switched on, and the machine does not start where the accelerator does not have it.
    Require,
    /// Switched on where the accelerator has it.
    Optional,
    /// Switched off.
    Disable,
    /// Absent; the machine does not start where the accelerator has it.
    Forbid,
}

/// Where a tablet is plugged in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TabletBus {
    /// USB, at an xHCI controller.
    Usb,
    /// virtio over PCI.
    Virtio,
}

/// A network card.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkCard {
    /// What the guest finds.
    pub model: CardModel,
    /// Its hardware address, which must be one of a single station.
    pub mac: [u8; 6],
}

/// Models of network cards, by KubeVirt's names.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CardModel {
    /// virtio over PCI.
    #[default]
    Virtio,
    /// Intel 82540EM.
    E1000,
    /// Intel 82574L.
    E1000e,
    /// Intel 82576. QEMU has it from version 8.0 on.
    Igb,
    /// NE2000 over PCI.
    Ne2kPci,
    /// AMD PCnet.
    Pcnet,
    /// Realtek 8139.
    Rtl8139,
}

/// What happens when a guest that has started its watchdog neglects it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WatchdogAction {
    /// QEMU ends at once.
    Poweroff,
    /// The machine is reset.
    Reset,
    /// The power button is pressed.
    Shutdown,
}

/// Whether QEMU gives the guest its ACPI tables. Without them SeaBIOS makes small ones of its own, so a Linux guest
/// still boots and powers off (seen with QEMU 7.2).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Acpi {
    /// It does.
    #[default]
    On,
    /// It does not.
    Off,
}

/// What the guest's real-time clock shows when the machine starts; from then on it runs by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Clock {
    /// The host's UTC and so many seconds more.
    Utc {
        /// Seconds that the guest is ahead of UTC.
        offset_seconds: i32,
    },
    /// The local time of a zone.
    Zone {
        /// Its name in the IANA time zone database, e.g. `Europe/Berlin`.
        name: String,
    },
}

impl Default for Clock {
    fn default() -> Self {
        Self::Utc { offset_seconds: 0 }
    }
}

/// The timers that the guest finds, and how they make up for ticks that it missed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Timers {
    /// The high precision event timer.
    pub hpet: bool,
    /// The programmable interval timer.
    pub pit: bool,
    /// KVM's clock. Without effect under TCG, which has none.
    pub kvm_clock: bool,
    /// Hyper-V's reference time counter. Without effect under TCG, which has none.
    pub hyperv_clock: bool,
    /// What becomes of the interval timer's missed ticks; QEMU's default when `None`. Without effect under TCG.
    pub pit_ticks: Option<PitTicks>,
    /// Whether the real-time clock's missed ticks are delivered later, faster than usual.
    pub rtc_catches_up: bool,
    /// What the real-time clock follows.
    pub rtc_source: RtcSource,
}

impl Default for Timers {
    /// What QEMU gives a guest of which nothing is said.
    fn default() -> Self {
        Self {
            hpet: true,
            pit: true,
            kvm_clock: true,
            hyperv_clock: false,
            pit_ticks: None,
            rtc_catches_up: false,
            rtc_source: RtcSource::Host,
        }
    }
}

/// What becomes of the interval timer's missed ticks (`kvm-pit.lost_tick_policy`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PitTicks {
    /// They are delivered later, at the usual rate.
    Delay,
    /// They are lost.
    Discard,
}

/// What the real-time clock follows (`-rtc clock=`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RtcSource {
    /// The host's clock, also while the guest stands still.
    Host,
    /// The guest's own time, which stands still with it.
    Guest,
}

/// The SMBIOS strings that name the machine; absent ones are left to QEMU.
///
/// `manufacturer`, `product`, `family`, `uuid`, `serial`, `version` and `sku` make the system table (type 1);
/// `chassis` makes the chassis table (type 3).
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

/// Why a machine is impossible, at all or on this host.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// Written by another version of this program.
    #[error("the launch spec has version {found}, only {LAUNCH_SPEC_VERSION} is understood")]
    Version {
        /// The version found.
        found: u32,
    },
    /// No memory.
    #[error("the guest has no memory")]
    NoMemory,
    /// More memory than there is.
    #[error("the guest wants {wanted_bytes} bytes of memory, the host has {host_bytes}")]
    Memory {
        /// What the guest wants.
        wanted_bytes: u64,
        /// What the host has.
        host_bytes: u64,
    },
    /// A CPU count of zero, or more than a q35 guest can have.
    #[error(
        "the guest wants {sockets} sockets of {cores} cores of {threads} threads, \
         1 to {MAX_VCPUS} virtual CPUs are possible"
    )]
    Cpus {
        /// Sockets.
        sockets: u32,
        /// Cores in each.
        cores: u32,
        /// Threads in each.
        threads: u32,
    },
    /// A command line that Linux would cut off.
    #[error("the kernel command line has {length} bytes, {MAX_COMMAND_LINE_BYTES} are possible")]
    CommandLine {
        /// Its length in bytes.
        length: usize,
    },
    /// A value that cannot be an argument of a program.
    #[error("the {what} contains a zero byte or is not UTF-8")]
    Unprintable {
        /// Which value.
        what: &'static str,
    },
    /// The system UUID is none.
    #[error("the system UUID `{text}` is not a UUID")]
    Uuid {
        /// The text.
        text: String,
    },
    /// A network card with the hardware address of a group of stations.
    #[error("the hardware address of the network card is not that of a single station")]
    GroupAddress,
    /// A network card, and a QEMU that cannot hand its frames on.
    #[error("the guest has a network card, and QEMU {found} is older than {OLDEST_QEMU_WITH_NETWORK}")]
    Network {
        /// QEMU's version.
        found: QemuVersion,
    },
    /// More devices or features of one kind than there can be.
    #[error("the guest wants {wanted} {what}, {most} are possible")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many are wanted.
        wanted: usize,
        /// How many are possible.
        most: usize,
    },
    /// A CPU feature that is named twice.
    #[error("the CPU feature `{name}` is named more than once")]
    FeatureTwice {
        /// The feature.
        name: String,
    },
    /// A time zone that this host does not know.
    #[error("the time zone `{name}` is not known to this host")]
    TimeZone {
        /// The zone.
        name: String,
    },
    /// A clock that no machine can show.
    #[error("the guest's clock would be {offset_seconds} seconds off the host's, and beyond any calendar")]
    ClockRange {
        /// Seconds that the guest would be ahead of UTC.
        offset_seconds: i32,
    },
    /// A CPU model, CPU feature or machine type that is more than a name.
    #[error("the {what} `{text}` is not a name")]
    Name {
        /// Which value.
        what: &'static str,
        /// The text.
        text: String,
    },
}

impl SpecError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Memory { host_bytes, .. } => {
                Some(format!("set `memory.guest` to less than {} MiB", host_bytes / (1024 * 1024)))
            }
            Self::NoMemory => Some("set `memory.guest` or `resources.requests.memory`".to_owned()),
            Self::Cpus { .. } => Some("change `cpu.sockets`, `cpu.cores` or `cpu.threads`".to_owned()),
            Self::CommandLine { .. } => Some("shorten `kernelArgs`".to_owned()),
            Self::FeatureTwice { .. } => Some("name each feature once in `cpu.features`".to_owned()),
            Self::TimeZone { .. } => Some(
                "set `clock.timezone` to a name such as `Europe/Berlin`; the host needs the zone's file in \
                 /usr/share/zoneinfo (Debian: package `tzdata`)"
                    .to_owned(),
            ),
            Self::Network { .. } => Some(format!(
                "install QEMU {OLDEST_QEMU_WITH_NETWORK} or newer, or set `autoattachPodInterface: false`"
            )),
            Self::GroupAddress => {
                Some("choose a `macAddress` whose first two digits make an even number".to_owned())
            }
            Self::Version { .. }
            | Self::Unprintable { .. }
            | Self::Uuid { .. }
            | Self::Name { .. }
            | Self::TooMany { .. }
            | Self::ClockRange { .. } => None,
        }
    }
}

impl LaunchSpec {
    /// Whether QEMU could start this machine on a host like that, as far as it can be told without trying.
    ///
    /// # Errors
    /// The first thing that is wrong, in the order of [`SpecError`].
    pub fn check(&self, facts: &HostFacts) -> Result<(), SpecError> {
        if self.version != LAUNCH_SPEC_VERSION {
            return Err(SpecError::Version { found: self.version });
        }
        if self.memory_bytes == 0 {
            return Err(SpecError::NoMemory);
        }
        if self.memory_bytes > facts.memory_bytes {
            let (wanted_bytes, host_bytes) = (self.memory_bytes, facts.memory_bytes);
            return Err(SpecError::Memory { wanted_bytes, host_bytes });
        }
        if !(1..=MAX_VCPUS).contains(&self.cpus.vcpus()) {
            let CpuTopology { sockets, cores, threads } = self.cpus;
            return Err(SpecError::Cpus { sockets, cores, threads });
        }
        if self.command_line.len() > MAX_COMMAND_LINE_BYTES {
            return Err(SpecError::CommandLine { length: self.command_line.len() });
        }
        let printable = |text: Option<&str>, what| match text {
            Some(text) if !text.contains('\0') => Ok(()),
            _ => Err(SpecError::Unprintable { what }),
        };
        printable(Some(&self.name), "name")?;
        printable(self.kernel.to_str(), "path of the kernel")?;
        if let Some(initrd) = &self.initrd {
            printable(initrd.to_str(), "path of the initial RAM disk")?;
        }
        printable(Some(&self.command_line), "kernel command line")?;
        let Smbios { manufacturer, product, family, uuid, serial, version, sku, chassis } = &self.smbios;
        let Chassis { manufacturer: maker, version: model, serial: number, asset, sku: unit } = chassis;
        for text in [manufacturer, product, family, serial, version, sku, maker, model, number, asset, unit] {
            printable(Some(text.as_deref().unwrap_or_default()), "SMBIOS text")?;
        }
        if let Some(text) = uuid.as_ref().filter(|text| !is_uuid(text)) {
            return Err(SpecError::Uuid { text: text.clone() });
        }
        let named = |text: &str, what| {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
            if !text.is_empty() && text.bytes().all(plain) {
                Ok(())
            } else {
                Err(SpecError::Name { what, text: text.to_owned() })
            }
        };
        named(&self.machine_type, "machine type")?;
        self.cpu_model.as_deref().map_or(Ok(()), |model| named(model, "CPU model"))?;
        let few = |wanted: usize, most: usize, what| match wanted {
            wanted if wanted > most => Err(SpecError::TooMany { what, wanted, most }),
            _ => Ok(()),
        };
        few(self.inputs.len(), MAX_INPUTS, "tablets")?;
        if let Some(card) = &self.network_card {
            // The lowest bit of the first octet: IEEE 802, 8.2.2.
            if card.mac[0] & 1 == 1 {
                return Err(SpecError::GroupAddress);
            }
            if facts.qemu.version < OLDEST_QEMU_WITH_NETWORK {
                return Err(SpecError::Network { found: facts.qemu.version });
            }
        }
        few(self.cpu_features.len(), MAX_CPU_FEATURES, "CPU features")?;
        let mut seen = BTreeSet::new();
        for CpuFeature { name, .. } in &self.cpu_features {
            named(name, "CPU feature")?;
            // QEMU takes a leading sign as its old way to switch features.
            if !name.starts_with(|first: char| first.is_ascii_alphanumeric()) {
                return Err(SpecError::Name { what: "CPU feature", text: name.clone() });
            }
            if !seen.insert(name.replace('_', "-")) {
                return Err(SpecError::FeatureTwice { name: name.clone() });
            }
        }
        Ok(())
    }
}

/// 8-4-4-4-12 hexadecimal digits, as QEMU wants it (`util/uuid.c`).
fn is_uuid(text: &str) -> bool {
    let lengths = [8, 4, 4, 4, 12];
    let groups: Vec<&str> = text.split('-').collect();
    groups.len() == lengths.len()
        && groups.iter().zip(lengths).all(|(group, length)| {
            group.len() == length && group.bytes().all(|byte| byte.is_ascii_hexdigit())
        })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::test_facts;

    fn spec() -> LaunchSpec {
        LaunchSpec::new("web", "/store/kernel", 512 << 20)
    }

    fn features(names: &[&str]) -> Vec<CpuFeature> {
        let feature = |name: &&str| CpuFeature { name: (*name).to_owned(), policy: FeaturePolicy::Require };
        names.iter().map(feature).collect()
    }

    #[test]
    fn a_plain_machine_passes() {
        let mut spec = spec();
        assert_eq!(spec.check(&test_facts()), Ok(()));
        spec.smbios.uuid = Some("5d307ca9-b3ef-428c-8861-06e72d69f223".to_owned());
        spec.cpu_model = Some("Haswell-noTSX".to_owned());
        spec.command_line = "x".repeat(MAX_COMMAND_LINE_BYTES);
        spec.memory_bytes = test_facts().memory_bytes;
        spec.cpus = CpuTopology { sockets: 255, cores: 1, threads: 1 };
        let names: Vec<String> = (0..MAX_CPU_FEATURES).map(|number| format!("f{number}.-_")).collect();
        spec.cpu_features = features(&names.iter().map(String::as_str).collect::<Vec<_>>());
        spec.inputs = vec![TabletBus::Usb; MAX_INPUTS];
        assert_eq!(spec.check(&test_facts()), Ok(()));
    }

    /// One valid machine, one field broken, one error expected.
    #[test]
    fn each_impossibility_is_named() {
        let host = test_facts();
        type Change = fn(&mut LaunchSpec);
        let cases: [(Change, &str); 21] = [
            (|spec| spec.version = 2, "the launch spec has version 2, only 1 is understood"),
            (|spec| spec.memory_bytes = 0, "the guest has no memory"),
            (
                |spec| spec.memory_bytes = test_facts().memory_bytes + 1,
                "the guest wants 8589934593 bytes of memory, the host has 8589934592",
            ),
            (
                |spec| spec.cpus.sockets = 256,
                "the guest wants 256 sockets of 1 cores of 1 threads, 1 to 255 virtual CPUs are possible",
            ),
            (
                |spec| spec.cpus.threads = 0,
                "the guest wants 1 sockets of 1 cores of 0 threads, 1 to 255 virtual CPUs are possible",
            ),
            (
                |spec| spec.command_line = "x".repeat(2048),
                "the kernel command line has 2048 bytes, 2047 are possible",
            ),
            (|spec| spec.name.push('\0'), "the name contains a zero byte or is not UTF-8"),
            (
                |spec| spec.smbios.chassis.asset = Some("\0".into()),
                "the SMBIOS text contains a zero byte or is not UTF-8",
            ),
            (|spec| spec.smbios.uuid = Some("x".into()), "the system UUID `x` is not a UUID"),
            (|spec| spec.machine_type = "q35,accel=x".into(), "the machine type `q35,accel=x` is not a name"),
            (|spec| spec.cpu_model = Some("Haswell,+x".into()), "the CPU model `Haswell,+x` is not a name"),
            (|spec| spec.cpu_model = Some(",+x".into()), "the CPU model `,+x` is not a name"),
            (|spec| spec.cpu_model = Some(String::new()), "the CPU model `` is not a name"),
            (|spec| spec.cpu_features = features(&["avx2,+x"]), "the CPU feature `avx2,+x` is not a name"),
            (|spec| spec.cpu_features = features(&["avx2=off"]), "the CPU feature `avx2=off` is not a name"),
            (|spec| spec.cpu_features = features(&[""]), "the CPU feature `` is not a name"),
            (|spec| spec.cpu_features = features(&["-avx2"]), "the CPU feature `-avx2` is not a name"),
            (
                |spec| spec.cpu_features = features(&["cmp_legacy", "avx2", "cmp-legacy"]),
                "the CPU feature `cmp-legacy` is named more than once",
            ),
            (
                |spec| spec.cpu_features = features(&["x"; MAX_CPU_FEATURES + 1]),
                "the guest wants 513 CPU features, 512 are possible",
            ),
            (
                |spec| spec.inputs = vec![TabletBus::Usb; MAX_INPUTS + 1],
                "the guest wants 5 tablets, 4 are possible",
            ),
            (
                |spec| spec.network_card = Some(NetworkCard { model: CardModel::Igb, mac: [1; 6] }),
                "the hardware address of the network card is not that of a single station",
            ),
        ];
        for (change, expected) in cases {
            let mut spec = spec();
            change(&mut spec);
            assert_eq!(spec.check(&host).unwrap_err().to_string(), expected);
        }
    }

    #[test]
    fn a_network_card_needs_a_qemu_that_hands_its_frames_on() {
        let mut host = test_facts();
        let mut spec = spec();
        spec.network_card = Some(NetworkCard { model: CardModel::Virtio, mac: [2; 6] });
        for (minor, expected) in [
            (2, Ok(())),
            (1, Err("the guest has a network card, and QEMU 7.1.0 is older than 7.2.0".to_owned())),
        ] {
            host.qemu.version = QemuVersion { major: 7, minor, micro: 0 };
            assert_eq!(spec.check(&host).map_err(|error| error.to_string()), expected);
        }
    }

    #[test]
    fn a_spec_survives_its_file_and_refuses_unknown_fields() {
        let mut spec = spec();
        spec.initrd = Some("/store/initrd".into());
        spec.smbios.chassis.asset = Some("a,b".to_owned());
        let text = serde_json::to_string(&spec).unwrap();
        assert_eq!(serde_json::from_str::<LaunchSpec>(&text).unwrap(), spec);
        let unknown = text.replacen("\"version\"", "\"colour\":1,\"version\"", 1);
        let error = serde_json::from_str::<LaunchSpec>(&unknown).unwrap_err();
        assert!(error.to_string().contains("unknown field `colour`"), "{error}");
    }

    /// The file was written before fields were added to the type; it is kept as it is.
    #[test]
    fn a_document_of_an_older_program_is_the_machine_that_it_was() {
        let text = include_str!("../tests/fixtures/launch-1.json");
        let mut expected = LaunchSpec {
            initrd: Some("/store/initrd".into()),
            cpus: CpuTopology { sockets: 1, cores: 2, threads: 1 },
            cpu_model: Some("Haswell-noTSX".to_owned()),
            command_line: "console=ttyS0".to_owned(),
            rng: true,
            ..spec()
        };
        expected.smbios.uuid = Some("5d307ca9-b3ef-428c-8861-06e72d69f223".to_owned());
        expected.smbios.chassis.asset = Some("a1".to_owned());
        assert_eq!(serde_json::from_str::<LaunchSpec>(text).unwrap(), expected);
        // What that program gave QEMU, it gives still: nothing was added to the machine.
        let facts = test_facts();
        let paths = crate::RunPaths::in_directory(std::path::Path::new("/run"));
        let clock = crate::ClockStart::of(&expected.clock, std::time::SystemTime::UNIX_EPOCH).unwrap();
        let arguments = crate::qemu_args(&expected, &facts, &paths, &clock);
        assert!(!arguments.iter().any(|argument| argument.contains("balloon") || argument == "-rtc"));
    }

    #[test]
    fn a_spec_survives_its_file_with_every_later_field() {
        let feature = |name: &str, policy| CpuFeature { name: name.to_owned(), policy };
        let spec = LaunchSpec {
            cpu_features: vec![feature("avx2", FeaturePolicy::Force), feature("vmx", FeaturePolicy::Forbid)],
            memory_balloon: true,
            graphics: true,
            inputs: vec![TabletBus::Usb, TabletBus::Virtio],
            network_card: Some(NetworkCard { model: CardModel::Ne2kPci, mac: [2, 0, 0, 0, 0, 255] }),
            agent_port: true,
            watchdog: Some(WatchdogAction::Poweroff),
            acpi: Acpi::Off,
            clock: Clock::Zone { name: "Europe/Berlin".to_owned() },
            timers: Timers {
                pit_ticks: Some(PitTicks::Discard),
                rtc_source: RtcSource::Guest,
                ..Timers::default()
            },
            ..spec()
        };
        let text = serde_json::to_string(&spec).unwrap();
        assert_eq!(serde_json::from_str::<LaunchSpec>(&text).unwrap(), spec);
    }
}
