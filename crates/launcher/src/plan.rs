//! From a VirtualMachineInstance and the files to boot to a [`LaunchSpec`]: which kernel, which command line, how much
//! memory, how many CPUs, which identity. Pure; the files were found and prepared before.

use std::path::PathBuf;

use manifest::resources::{self, MemoryError};
use manifest::types::DomainSpec;
use manifest::types::VirtualMachineInstance;
use vmm::{
    Acpi, Chassis, Clock, CpuFeature, CpuTopology, FeaturePolicy, GuestReboot, InitialState, LaunchSpec,
    PanicDevice, PitTicks, RtcSource, Smbios, TabletBus, Timers, WatchdogAction,
};

use crate::command_line;

/// The files on this machine that QEMU is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootFiles {
    /// A kernel in a format that QEMU takes.
    pub kernel: PathBuf,
    /// The initial RAM disk.
    pub initrd: Option<PathBuf>,
}

/// What a machine's `kernelBoot` asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BootSource<'a> {
    /// A kernel of an image, and perhaps an initrd of it.
    Image {
        /// The image's reference.
        image: &'a str,
        /// The kernel's path in the image.
        kernel_path: Option<&'a str>,
        /// The initrd's path in the image.
        initrd_path: Option<&'a str>,
        /// `imagePullPolicy`, when written.
        pull_policy: Option<&'a str>,
        /// `imagePullSecret`, when written.
        pull_secret: Option<&'a str>,
    },
    /// Nothing.
    None,
}

/// Reads `domain.firmware.kernelBoot`. Empty strings count as absent, as they do for KubeVirt.
pub fn boot_source(domain: &DomainSpec) -> BootSource<'_> {
    let container = domain
        .firmware
        .as_ref()
        .and_then(|firmware| firmware.kernel_boot.as_ref())
        .and_then(|kernel_boot| kernel_boot.container.as_ref());
    match container {
        None => BootSource::None,
        Some(container) => BootSource::Image {
            image: &container.image,
            kernel_path: non_empty(&container.kernel_path),
            initrd_path: non_empty(&container.initrd_path),
            pull_policy: non_empty(&container.image_pull_policy),
            pull_secret: non_empty(&container.image_pull_secret),
        },
    }
}

fn non_empty(text: &Option<String>) -> Option<&str> {
    text.as_deref().filter(|text| !text.is_empty())
}

/// Which machines get a panic device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PanicDevices {
    /// All: a panic is noticed even without a console, and the guest stops there.
    Always,
    /// Those whose manifest lists one, as under KubeVirt. In the others a panic is the guest's own affair: its kernel
    /// halts or reboots as its `panic=` says.
    AsWritten,
}

/// Plans the machine: everything that QEMU is told about it. `append` is put behind the manifest's kernel arguments.
///
/// Takes a manifest that [`manifest::bootable`] has nothing against; what that refuses is not looked at. CPU models `host-model` and `host-passthrough` become the best model that the accelerator has, as KubeVirt's
/// meaning is "like the host".
///
/// # Errors
/// [`MemoryError`] when the manifest does not say how large the machine is.
pub fn plan(
    instance: &VirtualMachineInstance,
    files: &BootFiles,
    append: &[String],
    panic_devices: PanicDevices,
) -> Result<LaunchSpec, MemoryError> {
    let spec = &instance.spec;
    let domain = &spec.domain;
    let firmware = domain.firmware.as_ref();
    let name = instance.metadata.name.as_deref().unwrap_or_default();
    let topology = resources::cpu_topology(spec);
    let kernel_args = firmware
        .and_then(|firmware| firmware.kernel_boot.as_ref())
        .and_then(|kernel_boot| kernel_boot.kernel_args.as_deref())
        .unwrap_or_default();

    let mut launch = LaunchSpec::new(name, &files.kernel, resources::guest_memory_bytes(spec)?);
    launch.initrd = files.initrd.clone();
    launch.command_line =
        append.iter().fold(kernel_args.to_owned(), |line, extra| command_line::append(&line, extra));
    launch.cpus = CpuTopology { sockets: topology.sockets, cores: topology.cores, threads: topology.threads };
    launch.cpu_model = domain
        .cpu
        .as_ref()
        .and_then(|cpu| non_empty(&cpu.model))
        .filter(|model| !matches!(*model, "host-model" | "host-passthrough"))
        .map(str::to_owned);
    if let Some(kind) = domain.machine.as_ref().and_then(|machine| non_empty(&machine.type_)) {
        launch.machine_type = kind.to_owned();
    }
    launch.smbios = Smbios {
        uuid: firmware.and_then(|firmware| firmware.uuid.clone()),
        serial: firmware.and_then(|firmware| firmware.serial.clone()),
        chassis: chassis(domain),
        ..Smbios::default()
    };
    launch.cpu_features = cpu_features(domain);
    launch.serial_console = domain.devices.autoattach_serial_console.unwrap_or(true);
    launch.rng = domain.devices.rng.is_some();
    launch.memory_balloon = domain.devices.autoattach_mem_balloon.unwrap_or(true);
    launch.inputs = domain.devices.inputs.iter().map(|input| tablet_bus(input.bus.as_deref())).collect();
    launch.watchdog = watchdog(domain);
    launch.acpi = acpi(domain);
    launch.clock = clock(domain);
    launch.timers = timers(domain);
    launch.panic_device = panic_device(domain, panic_devices);
    launch.guest_reboot = match domain.reboot_policy.as_deref() {
        Some("Terminate") => GuestReboot::Terminate,
        _ => GuestReboot::Restart,
    };
    launch.initial_state = match spec.start_strategy.as_deref() {
        Some("Paused") => InitialState::Paused,
        _ => InitialState::Running,
    };
    Ok(launch)
}

/// The features as listed; a policy that is not given is `require`.
fn cpu_features(domain: &DomainSpec) -> Vec<CpuFeature> {
    let Some(cpu) = &domain.cpu else { return Vec::new() };
    let policy = |text: Option<&str>| match text {
        Some("force") => FeaturePolicy::Force,
        Some("optional") => FeaturePolicy::Optional,
        Some("disable") => FeaturePolicy::Disable,
        Some("forbid") => FeaturePolicy::Forbid,
        _ => FeaturePolicy::Require,
    };
    let features = cpu.features.iter();
    features
        .map(|feature| CpuFeature { name: feature.name.clone(), policy: policy(feature.policy.as_deref()) })
        .collect()
}

fn tablet_bus(bus: Option<&str>) -> TabletBus {
    match bus {
        Some("virtio") => TabletBus::Virtio,
        _ => TabletBus::Usb,
    }
}

fn watchdog(domain: &DomainSpec) -> Option<WatchdogAction> {
    let model = domain.devices.watchdog.as_ref()?.i6300esb.as_ref()?;
    Some(match model.action.as_deref() {
        Some("poweroff") => WatchdogAction::Poweroff,
        Some("shutdown") => WatchdogAction::Shutdown,
        _ => WatchdogAction::Reset,
    })
}

fn acpi(domain: &DomainSpec) -> Acpi {
    let state = domain.features.as_ref().and_then(|features| features.acpi.as_ref());
    match state.and_then(|state| state.enabled) {
        Some(false) => Acpi::Off,
        _ => Acpi::On,
    }
}

/// UTC where both are given, as KubeVirt does.
fn clock(domain: &DomainSpec) -> Clock {
    let Some(clock) = &domain.clock else { return Clock::default() };
    match (&clock.utc, non_empty(&clock.timezone)) {
        (None, Some(zone)) => Clock::Zone { name: zone.to_owned() },
        (utc, _) => {
            Clock::Utc { offset_seconds: utc.as_ref().and_then(|utc| utc.offset_seconds).unwrap_or(0) }
        }
    }
}

/// Timers that are listed are present unless they say otherwise; those that are not listed are as QEMU has them.
fn timers(domain: &DomainSpec) -> Timers {
    let mut timers = Timers::default();
    let Some(listed) = domain.clock.as_ref().and_then(|clock| clock.timer.as_ref()) else { return timers };
    if let Some(hpet) = &listed.hpet {
        timers.hpet = hpet.present.unwrap_or(true);
    }
    if let Some(pit) = &listed.pit {
        timers.pit = pit.present.unwrap_or(true);
        timers.pit_ticks = match pit.tick_policy.as_deref() {
            Some("delay") => Some(PitTicks::Delay),
            Some("discard") => Some(PitTicks::Discard),
            _ => None,
        };
    }
    if let Some(kvm) = &listed.kvm {
        timers.kvm_clock = kvm.present.unwrap_or(true);
    }
    if let Some(hyperv) = &listed.hyperv {
        timers.hyperv_clock = hyperv.present.unwrap_or(true);
    }
    if let Some(rtc) = &listed.rtc {
        timers.rtc_catches_up = rtc.tick_policy.as_deref() == Some("catchup");
        timers.rtc_source = match rtc.track.as_deref() {
            Some("guest") => RtcSource::Guest,
            _ => RtcSource::Host,
        };
    }
    timers
}

/// The first device that is listed counts: each of them tells the same.
fn panic_device(domain: &DomainSpec, wanted: PanicDevices) -> PanicDevice {
    match (domain.devices.panic_devices.first(), wanted) {
        (None, PanicDevices::AsWritten) => PanicDevice::None,
        (Some(device), _) if device.model.as_deref() == Some("pvpanic") => PanicDevice::Pci,
        _ => PanicDevice::Isa,
    }
}

fn chassis(domain: &DomainSpec) -> Chassis {
    domain.chassis.as_ref().map_or_else(Chassis::default, |chassis| Chassis {
        manufacturer: chassis.manufacturer.clone(),
        version: chassis.version.clone(),
        serial: chassis.serial.clone(),
        asset: chassis.asset.clone(),
        sku: chassis.sku.clone(),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use manifest::Document;

    fn instance(domain: &str) -> VirtualMachineInstance {
        let text = format!(
            "{{apiVersion: kubevirt.io/v1, kind: VirtualMachineInstance, metadata: {{name: vm}}, spec: {{domain: {{{domain}}}}}}}"
        );
        match manifest::decode_stream("test", &text).unwrap().remove(0) {
            Document::VirtualMachineInstance(instance) => *instance,
            other => panic!("decoded {other:?}"),
        }
    }

    fn planned(domain: &str, append: &[&str]) -> LaunchSpec {
        let files = BootFiles { kernel: "/store/kernel".into(), initrd: Some("/store/initrd".into()) };
        let append: Vec<String> = append.iter().map(|words| (*words).to_owned()).collect();
        plan(&instance(domain), &files, &append, PanicDevices::Always).unwrap()
    }

    #[test]
    fn the_smallest_machine_has_kubevirts_defaults() {
        let spec = planned("devices: {}, memory: {guest: 1Gi}", &[]);
        assert_eq!(
            spec,
            LaunchSpec {
                initrd: Some("/store/initrd".into()),
                memory_balloon: true,
                ..LaunchSpec::new("vm", "/store/kernel", 1 << 30)
            }
        );
    }

    #[test]
    fn every_field_that_is_supported_reaches_the_plan() {
        let spec = planned(
            "devices: {rng: {}, autoattachSerialConsole: false, panicDevices: [{model: pvpanic}]}, \
             resources: {requests: {memory: 64Mi}}, cpu: {cores: 2, threads: 2, model: Haswell}, \
             machine: {type: pc-q35-7.2}, rebootPolicy: Terminate, chassis: {asset: a1}, \
             firmware: {uuid: 5d307ca9-b3ef-428c-8861-06e72d69f223, serial: s1, kernelBoot: {kernelArgs: console=ttyS0 quiet, \
             container: {image: i, kernelPath: /k}}}",
            &["panic=-1", "debug"],
        );
        assert!(spec.rng && !spec.serial_console);
        assert_eq!(spec.memory_bytes, 64 << 20);
        assert_eq!(spec.cpus, CpuTopology { sockets: 1, cores: 2, threads: 2 });
        assert_eq!(spec.cpu_model.as_deref(), Some("Haswell"));
        assert_eq!(spec.machine_type, "pc-q35-7.2");
        assert_eq!(spec.guest_reboot, GuestReboot::Terminate);
        assert_eq!(spec.panic_device, PanicDevice::Pci);
        assert_eq!(spec.smbios.uuid.as_deref(), Some("5d307ca9-b3ef-428c-8861-06e72d69f223"));
        assert_eq!(spec.smbios.serial.as_deref(), Some("s1"));
        assert_eq!(spec.smbios.chassis.asset.as_deref(), Some("a1"));
        assert_eq!(spec.smbios.manufacturer.as_deref(), Some("KubeVirt"));
        assert_eq!(spec.command_line, "console=ttyS0 quiet panic=-1 debug");
    }

    #[test]
    fn a_model_like_the_host_is_the_best_there_is() {
        for model in ["host-model", "host-passthrough", "\"\""] {
            let spec =
                planned(&format!("devices: {{}}, memory: {{guest: 1Gi}}, cpu: {{model: {model}}}"), &[]);
            assert_eq!(spec.cpu_model, None, "{model}");
        }
    }

    #[test]
    fn a_machine_without_memory_is_no_plan() {
        let files = BootFiles { kernel: "/k".into(), initrd: None };
        assert!(matches!(
            plan(&instance("devices: {}"), &files, &[], PanicDevices::Always),
            Err(MemoryError::Unset)
        ));
    }

    #[test]
    fn the_boot_source_is_read_as_kubevirt_reads_it() {
        assert_eq!(boot_source(&instance("devices: {}").spec.domain), BootSource::None);
        let with = instance(
            "devices: {}, firmware: {kernelBoot: {container: {image: a/b:c, kernelPath: /k, initrdPath: \"\", \
             imagePullPolicy: Always, imagePullSecret: s}}}",
        );
        assert_eq!(
            boot_source(&with.spec.domain),
            BootSource::Image {
                image: "a/b:c",
                kernel_path: Some("/k"),
                initrd_path: None,
                pull_policy: Some("Always"),
                pull_secret: Some("s"),
            }
        );
    }
}
