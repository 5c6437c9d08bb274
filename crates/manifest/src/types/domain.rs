//! The virtual hardware as a whole: CPU, memory, clock, features, resources.

use std::collections::BTreeMap;

use super::devices::Devices;
use super::firmware::Firmware;
use crate::schema::{Empty, object};
use quantity::Quantity;

object! {
    /// The virtual hardware.
    pub struct DomainSpec {
        /// Resources that the pod requests, and its limits.
        optional resources ("resources"): Option<ResourceRequirements>,
        /// Topology, model and features of the CPU.
        optional cpu ("cpu"): Option<Cpu>,
        /// Memory that the guest sees.
        optional memory ("memory"): Option<Memory>,
        /// The machine type (board).
        optional machine ("machine"): Option<Machine>,
        /// SMBIOS identity, boot firmware, and the kernel booted without a disk.
        optional firmware ("firmware"): Option<Firmware>,
        /// Offset and timers of the guest's clock.
        optional clock ("clock"): Option<Clock>,
        /// Platform features: ACPI, APIC, SMM, Hyper-V enlightenments.
        optional features ("features"): Option<Features>,
        /// Disks, interfaces and everything else attached.
        required devices ("devices"): Devices,
        /// How disks share I/O threads: `shared`, `auto` or `supplementalPool`.
        optional io_threads_policy ("ioThreadsPolicy"): Option<String>,
        /// The pool of the `supplementalPool` policy.
        optional io_threads ("ioThreads"): Option<DiskIoThreads>,
        /// SMBIOS chassis fields.
        optional chassis ("chassis"): Option<Chassis>,
        /// Confidential computing.
        optional launch_security ("launchSecurity"): Option<LaunchSecurity>,
        /// What a reboot in the guest does: `Reboot` (also when unset) runs it again, `Terminate` ends the
        /// instance.
        optional reboot_policy ("rebootPolicy"): Option<String>,
    }
}

object! {
    /// Resources of the pod by name (`cpu`, `memory`, `hugepages-2Mi`...).
    pub struct ResourceRequirements {
        /// What the scheduler reserves.
        optional requests ("requests"): BTreeMap<String, Quantity>,
        /// What may not be exceeded.
        optional limits ("limits"): BTreeMap<String, Quantity>,
        /// Leaves the overhead of the machinery out of the memory request; `false` when unset.
        optional overcommit_guest_overhead ("overcommitGuestOverhead"): Option<bool>,
    }
}

object! {
    /// Topology, model and features of the CPU.
    pub struct Cpu {
        /// Cores per socket. When all three counts are unset they follow from the CPU resources.
        optional cores ("cores"): Option<u32>,
        /// Sockets plugged in at start.
        optional sockets ("sockets"): Option<u32>,
        /// Upper limit of sockets for hot plugging.
        optional max_sockets ("maxSockets"): Option<u32>,
        /// Threads per core.
        optional threads ("threads"): Option<u32>,
        /// CPU model as libvirt names it, or `host-model`, `host-passthrough`.
        optional model ("model"): Option<String>,
        /// Single CPU features, required or forbidden.
        optional features ("features"): Vec<CpuFeature>,
        /// Pins each virtual CPU to a host CPU of its own.
        optional dedicated_cpu_placement ("dedicatedCpuPlacement"): Option<bool>,
        /// NUMA topology of the guest.
        optional numa ("numa"): Option<Numa>,
        /// Gives the VMM a host CPU of its own; needs dedicated placement.
        optional isolate_emulator_thread ("isolateEmulatorThread"): Option<bool>,
        /// Real-time scheduling of virtual CPUs.
        optional realtime ("realtime"): Option<Realtime>,
    }
}

object! {
    /// One feature flag of the CPU.
    pub struct CpuFeature {
        /// Name of the flag, such as `apic`.
        required name ("name"): String,
        /// `force`, `require` (also when unset), `optional`, `disable` or `forbid`.
        optional policy ("policy"): Option<String>,
    }
}

object! {
    /// NUMA topology of the guest.
    pub struct Numa {
        /// Mirrors the host's topology of the pinned CPUs.
        optional guest_mapping_passthrough ("guestMappingPassthrough"): Option<Empty>,
    }
}

object! {
    /// Real-time scheduling of virtual CPUs.
    pub struct Realtime {
        /// The virtual CPUs it applies to, such as `0-3,^1`; all when unset.
        optional mask ("mask"): Option<String>,
    }
}

object! {
    /// Memory that the guest sees.
    pub struct Memory {
        /// Size of the guest's memory; taken from the resources when unset.
        optional guest ("guest"): Option<Quantity>,
        /// Upper limit for hot plugging.
        optional max_guest ("maxGuest"): Option<Quantity>,
        /// Backs the memory with huge pages.
        optional hugepages ("hugepages"): Option<Hugepages>,
        /// Extra memory reserved beside the guest's.
        optional reserved_overhead ("reservedOverhead"): Option<ReservedOverhead>,
    }
}

object! {
    /// Huge pages behind the guest's memory.
    pub struct Hugepages {
        /// Page size as a quantity, such as `2Mi` or `1Gi`.
        optional page_size ("pageSize"): Option<String>,
    }
}

object! {
    /// Extra memory reserved beside the guest's.
    pub struct ReservedOverhead {
        /// Amount added to the computed overhead.
        optional added_overhead ("addedOverhead"): Option<Quantity>,
        /// Whether the memory must be locked: `Required` or `NotRequired`.
        optional mem_lock ("memLock"): Option<String>,
    }
}

object! {
    /// The machine type (board).
    pub struct Machine {
        /// Machine type as QEMU names it, such as `q35`; a default for the architecture when unset.
        optional type_ ("type"): Option<String>,
    }
}

object! {
    /// SMBIOS chassis fields.
    pub struct Chassis {
        /// Who built the chassis.
        optional manufacturer ("manufacturer"): Option<String>,
        /// Version of the chassis.
        optional version ("version"): Option<String>,
        /// Serial number of the chassis.
        optional serial ("serial"): Option<String>,
        /// Asset tag.
        optional asset ("asset"): Option<String>,
        /// Stock keeping unit.
        optional sku ("sku"): Option<String>,
    }
}

object! {
    /// Offset and timers of the guest's clock; UTC when neither offset is set.
    pub struct Clock {
        /// The clock shows UTC, shifted if so wished.
        optional utc ("utc"): Option<ClockOffsetUtc>,
        /// The clock shows the local time of this zone, such as `Europe/Berlin`.
        optional timezone ("timezone"): Option<String>,
        /// The timers present.
        optional timer ("timer"): Option<Timer>,
    }
}

object! {
    /// Shift of a UTC clock.
    pub struct ClockOffsetUtc {
        /// Seconds added to UTC at each start; 0 when unset.
        optional offset_seconds ("offsetSeconds"): Option<i32>,
    }
}

object! {
    /// The timers that the guest finds.
    pub struct Timer {
        /// High precision event timer.
        optional hpet ("hpet"): Option<TickTimer>,
        /// KVM's paravirtual clock.
        optional kvm ("kvm"): Option<PlainTimer>,
        /// Programmable interval timer.
        optional pit ("pit"): Option<TickTimer>,
        /// Real-time clock.
        optional rtc ("rtc"): Option<RtcTimer>,
        /// Hyper-V's reference time counter.
        optional hyperv ("hyperv"): Option<PlainTimer>,
    }
}

object! {
    /// A timer whose missed ticks are handled by a policy.
    pub struct TickTimer {
        /// What happens to missed ticks: `delay`, `catchup`, `merge` or `discard`.
        optional tick_policy ("tickPolicy"): Option<String>,
        /// Whether the timer exists; `true` when unset.
        optional present ("present"): Option<bool>,
    }
}

object! {
    /// A timer without settings.
    pub struct PlainTimer {
        /// Whether the timer exists; `true` when unset.
        optional present ("present"): Option<bool>,
    }
}

object! {
    /// The real-time clock.
    pub struct RtcTimer {
        /// What happens to missed ticks: `delay` or `catchup`.
        optional tick_policy ("tickPolicy"): Option<String>,
        /// Whether the timer exists; `true` when unset.
        optional present ("present"): Option<bool>,
        /// What it follows: `guest` or `wall`.
        optional track ("track"): Option<String>,
    }
}

object! {
    /// Platform features.
    pub struct Features {
        /// ACPI; on when unset. Without it there is no power button.
        optional acpi ("acpi"): Option<FeatureState>,
        /// The local interrupt controller.
        optional apic ("apic"): Option<FeatureApic>,
        /// All Hyper-V enlightenments that the host has.
        optional hyperv_passthrough ("hypervPassthrough"): Option<FeatureState>,
        /// Single Hyper-V enlightenments.
        optional hyperv ("hyperv"): Option<FeatureHyperv>,
        /// System management mode, which secure boot needs.
        optional smm ("smm"): Option<FeatureState>,
        /// What the guest sees of KVM.
        optional kvm ("kvm"): Option<FeatureKvm>,
        /// Paravirtual spinlocks; on when unset.
        optional pvspinlock ("pvspinlock"): Option<FeatureState>,
    }
}

object! {
    /// A feature that can be switched.
    pub struct FeatureState {
        /// Whether it is on; `true` when the feature is named at all.
        optional enabled ("enabled"): Option<bool>,
    }
}

object! {
    /// The local interrupt controller.
    pub struct FeatureApic {
        /// Whether it is on; `true` when unset.
        optional enabled ("enabled"): Option<bool>,
        /// Paravirtual end-of-interrupt; `false` when unset.
        optional end_of_interrupt ("endOfInterrupt"): Option<bool>,
    }
}

object! {
    /// Hyper-V enlightenments, for Windows guests.
    pub struct FeatureHyperv {
        /// No watchdog on lost time slices.
        optional relaxed ("relaxed"): Option<FeatureState>,
        /// Paravirtual interrupt controller.
        optional vapic ("vapic"): Option<FeatureState>,
        /// Hints to the hypervisor about long spins.
        optional spinlocks ("spinlocks"): Option<FeatureSpinlocks>,
        /// Virtual processor index register.
        optional vpindex ("vpindex"): Option<FeatureState>,
        /// Processor run time register.
        optional runtime ("runtime"): Option<FeatureState>,
        /// Synthetic interrupt controller.
        optional synic ("synic"): Option<FeatureState>,
        /// Synthetic timers.
        optional synictimer ("synictimer"): Option<SyNicTimer>,
        /// Reset register.
        optional reset ("reset"): Option<FeatureState>,
        /// Vendor string shown to the guest.
        optional vendorid ("vendorid"): Option<FeatureVendorId>,
        /// TSC and APIC frequency registers.
        optional frequencies ("frequencies"): Option<FeatureState>,
        /// Notice of a changed TSC after a migration.
        optional reenlightenment ("reenlightenment"): Option<FeatureState>,
        /// Paravirtual TLB flush.
        optional tlbflush ("tlbflush"): Option<TlbFlush>,
        /// Paravirtual interrupts between processors.
        optional ipi ("ipi"): Option<FeatureState>,
        /// Enlightened VMCS, for nesting on Intel.
        optional evmcs ("evmcs"): Option<FeatureState>,
    }
}

object! {
    /// Hints about long spins.
    pub struct FeatureSpinlocks {
        /// Whether it is on; `true` when unset.
        optional enabled ("enabled"): Option<bool>,
        /// Retries before the hypervisor is told, at least 4096; 4096 when unset.
        optional spinlocks ("spinlocks"): Option<u32>,
    }
}

object! {
    /// Synthetic timers.
    pub struct SyNicTimer {
        /// Whether it is on; `true` when unset.
        optional enabled ("enabled"): Option<bool>,
        /// Direct mode of the timers.
        optional direct ("direct"): Option<FeatureState>,
    }
}

object! {
    /// Paravirtual TLB flush.
    pub struct TlbFlush {
        /// Whether it is on; `true` when unset.
        optional enabled ("enabled"): Option<bool>,
        /// Direct flushes by nested guests.
        optional direct ("direct"): Option<FeatureState>,
        /// Flushes of address ranges.
        optional extended ("extended"): Option<FeatureState>,
    }
}

object! {
    /// Vendor string of the hypervisor.
    pub struct FeatureVendorId {
        /// Whether it is on; `true` when unset.
        optional enabled ("enabled"): Option<bool>,
        /// The string, 12 characters at most.
        optional vendorid ("vendorid"): Option<String>,
    }
}

object! {
    /// What the guest sees of KVM.
    pub struct FeatureKvm {
        /// Hides KVM from the guest; `false` when unset.
        optional hidden ("hidden"): Option<bool>,
    }
}

object! {
    /// The I/O thread pool of the `supplementalPool` policy.
    pub struct DiskIoThreads {
        /// Number of threads.
        optional supplemental_pool_thread_count ("supplementalPoolThreadCount"): Option<u32>,
    }
}

object! {
    /// Confidential computing; at most one.
    pub struct LaunchSecurity {
        /// AMD SEV and SEV-ES.
        optional sev ("sev"): Option<Sev>,
        /// AMD SEV-SNP.
        optional snp ("snp"): Option<Empty>,
        /// Intel TDX.
        optional tdx ("tdx"): Option<Empty>,
    }
}

object! {
    /// AMD SEV.
    pub struct Sev {
        /// What the guest requires of the platform.
        optional policy ("policy"): Option<SevPolicy>,
        /// Waits for attestation before the guest starts.
        optional attestation ("attestation"): Option<Empty>,
        /// The guest owner's session data, base64.
        optional session ("session"): Option<String>,
        /// The guest owner's Diffie-Hellman key, base64.
        optional dh_cert ("dhCert"): Option<String>,
    }
}

object! {
    /// What an SEV guest requires.
    pub struct SevPolicy {
        /// Requires SEV-ES, encrypted registers; `false` when unset.
        optional encrypted_state ("encryptedState"): Option<bool>,
    }
}
