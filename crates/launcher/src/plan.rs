//! From a VirtualMachineInstance and the files to boot to a [`LaunchSpec`]: which kernel, which command line, how much
//! memory, how many CPUs, which identity. Pure; the files were found and prepared before.

use std::path::PathBuf;

use manifest::keys;
use manifest::resources::{self, MemoryError};
use manifest::types::DomainSpec;
use manifest::types::VirtualMachineInstance;
use vmm::{
    Acpi, Chassis, Clock, CpuFeature, CpuTopology, FeaturePolicy, GuestReboot, InitialState, LaunchSpec,
    PanicDevice, PitTicks, RtcSource, Smbios, TabletBus, Timers, WatchdogAction,
};

use crate::command_line;
use crate::network::network;

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

/// Plans the machine: everything that QEMU is told about it. `append` is put behind the manifest's kernel arguments and
/// those that its annotation gives it for this boot ([`keys::APPEND`]).
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
    let annotations = instance.metadata.annotations.as_ref();
    let of_this_boot = annotations.and_then(|annotations| annotations.get(keys::APPEND));
    launch.command_line = of_this_boot
        .into_iter()
        .chain(append)
        .fold(kernel_args.to_owned(), |line, extra| command_line::append(&line, extra));
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
    launch.graphics = domain.devices.autoattach_graphics_device.unwrap_or(true);
    launch.inputs = domain.devices.inputs.iter().map(|input| tablet_bus(input.bus.as_deref())).collect();
    launch.network_card = network(instance).map(|network| network.card);
    launch.agent_port = true;
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

    /// As a launcher has it, with nothing of its own.
    fn launched(domain: &str) -> LaunchSpec {
        plan_of(domain, &[], PanicDevices::AsWritten)
    }

    fn planned(domain: &str, append: &[&str]) -> LaunchSpec {
        plan_of(domain, append, PanicDevices::Always)
    }

    fn plan_of(domain: &str, append: &[&str], panic_devices: PanicDevices) -> LaunchSpec {
        let files = BootFiles { kernel: "/store/kernel".into(), initrd: Some("/store/initrd".into()) };
        let append: Vec<String> = append.iter().map(|words| (*words).to_owned()).collect();
        plan(&instance(domain), &files, &append, panic_devices).unwrap()
    }

    #[test]
    fn the_words_of_one_boot_come_before_those_of_one_run() {
        let firmware = "{kernelBoot: {kernelArgs: quiet -- x, container: {image: i, kernelPath: /k}}}";
        let mut instance = instance(&format!("firmware: {firmware}, memory: {{guest: 1Gi}}, devices: {{}}"));
        instance.metadata.annotations = Some([(keys::APPEND.to_owned(), "single".to_owned())].into());
        let files = BootFiles { kernel: "/store/kernel".into(), initrd: None };
        let spec = plan(&instance, &files, &["debug".to_owned()], PanicDevices::AsWritten).unwrap();
        assert_eq!(spec.command_line, "quiet single debug -- x");
        // As many bytes may be asked for as QEMU is given.
        assert_eq!(manifest::validate::MOST_COMMAND_LINE_BYTES, vmm::MAX_COMMAND_LINE_BYTES);
    }

    #[test]
    fn the_smallest_machine_has_kubevirts_defaults() {
        let spec = planned("devices: {}, memory: {guest: 1Gi}", &[]);
        assert_eq!(
            spec,
            LaunchSpec {
                initrd: Some("/store/initrd".into()),
                memory_balloon: true,
                graphics: true,
                agent_port: true,
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

    /// A field of the domain, and what it changes in the plan of a machine without it.
    #[test]
    fn each_field_changes_its_part_of_the_plan() {
        let base = "memory: {guest: 64Mi}";
        let without = launched(&format!("devices: {{}}, {base}"));
        let feature = |name: &str, policy| CpuFeature { name: name.to_owned(), policy };
        let timers = |change: fn(&mut Timers)| {
            let mut timers = Timers::default();
            change(&mut timers);
            timers
        };
        let utc = |offset_seconds| Clock::Utc { offset_seconds };
        type Change<'a> = Box<dyn Fn(&mut LaunchSpec) + 'a>;
        let nothing = || -> Change<'_> { Box::new(|_| {}) };
        let with_timers = |text: &str, change: fn(&mut Timers)| -> (String, Change<'_>) {
            let timers = timers(change);
            (
                format!("devices: {{}}, clock: {{timer: {{{text}}}}}"),
                Box::new(move |spec| spec.timers = timers.clone()),
            )
        };
        let with_clock = |text: &str, clock: Clock| -> (String, Change<'_>) {
            (format!("devices: {{}}, clock: {{{text}}}"), Box::new(move |spec| spec.clock = clock.clone()))
        };
        let with_device = |text: &str, change: Change<'static>| -> (String, Change<'_>) {
            (format!("devices: {{{text}}}"), change)
        };
        let table: Vec<(String, Change<'_>)> = vec![
            (
                "devices: {}, cpu: {features: [{name: a}, {name: b, policy: force}, {name: c, policy: optional}, \
                 {name: d, policy: disable}, {name: e, policy: forbid}, {name: f, policy: \"\"}]}"
                    .to_owned(),
                Box::new(|spec| {
                    spec.cpu_features = vec![
                        feature("a", FeaturePolicy::Require),
                        feature("b", FeaturePolicy::Force),
                        feature("c", FeaturePolicy::Optional),
                        feature("d", FeaturePolicy::Disable),
                        feature("e", FeaturePolicy::Forbid),
                        feature("f", FeaturePolicy::Require),
                    ];
                }),
            ),
            ("devices: {}, cpu: {model: max}".to_owned(), Box::new(|spec| spec.cpu_model = Some("max".to_owned()))),
            ("devices: {}, features: {acpi: {}}".to_owned(), nothing()),
            ("devices: {}, features: {acpi: {enabled: true}}".to_owned(), nothing()),
            ("devices: {}, features: {acpi: {enabled: false}}".to_owned(), Box::new(|spec| spec.acpi = Acpi::Off)),
            with_clock("utc: {}", utc(0)),
            with_clock("utc: {offsetSeconds: -3600}", utc(-3600)),
            with_clock("timezone: Europe/Berlin", Clock::Zone { name: "Europe/Berlin".to_owned() }),
            with_clock("timezone: Europe/Berlin, utc: {offsetSeconds: 1}", utc(1)),
            with_clock("timezone: \"\"", utc(0)),
            with_timers("hpet: {}, pit: {}, kvm: {}, rtc: {}", |_| {}),
            with_timers("hpet: {present: false}", |timers| timers.hpet = false),
            with_timers("pit: {present: false}", |timers| timers.pit = false),
            with_timers("pit: {tickPolicy: delay}", |timers| timers.pit_ticks = Some(PitTicks::Delay)),
            with_timers("pit: {tickPolicy: discard}", |timers| timers.pit_ticks = Some(PitTicks::Discard)),
            with_timers("pit: {tickPolicy: catchup}", |_| {}),
            with_timers("kvm: {present: false}", |timers| timers.kvm_clock = false),
            with_timers("hyperv: {}", |timers| timers.hyperv_clock = true),
            with_timers("hyperv: {present: false}", |_| {}),
            with_timers("rtc: {tickPolicy: catchup}", |timers| timers.rtc_catches_up = true),
            with_timers("rtc: {tickPolicy: delay, track: wall}", |_| {}),
            with_timers("rtc: {track: guest}", |timers| timers.rtc_source = RtcSource::Guest),
            with_device("autoattachMemBalloon: false", Box::new(|spec| spec.memory_balloon = false)),
            with_device("autoattachMemBalloon: true", nothing()),
            with_device("autoattachGraphicsDevice: true, autoattachPodInterface: true", nothing()),
            with_device("autoattachGraphicsDevice: false", Box::new(|spec| spec.graphics = false)),
            with_device("logSerialConsole: false", nothing()),
            with_device(
                "inputs: [{name: a, type: tablet}, {name: b, type: tablet, bus: usb}, \
                 {name: c, type: tablet, bus: virtio}]",
                Box::new(|spec| spec.inputs = vec![TabletBus::Usb, TabletBus::Usb, TabletBus::Virtio]),
            ),
            with_device(
                "watchdog: {name: w, i6300esb: {}}",
                Box::new(|spec| spec.watchdog = Some(WatchdogAction::Reset)),
            ),
            with_device(
                "watchdog: {name: w, i6300esb: {action: poweroff}}",
                Box::new(|spec| spec.watchdog = Some(WatchdogAction::Poweroff)),
            ),
            with_device(
                "watchdog: {name: w, i6300esb: {action: shutdown}}",
                Box::new(|spec| spec.watchdog = Some(WatchdogAction::Shutdown)),
            ),
            with_device("watchdog: {name: w}", nothing()),
            with_device("panicDevices: [{}]", Box::new(|spec| spec.panic_device = PanicDevice::Isa)),
            with_device("panicDevices: [{model: isa}]", Box::new(|spec| spec.panic_device = PanicDevice::Isa)),
            with_device(
                "panicDevices: [{model: pvpanic}, {model: isa}]",
                Box::new(|spec| spec.panic_device = PanicDevice::Pci),
            ),
        ];
        for (domain, change) in table {
            let mut expected = without.clone();
            change(&mut expected);
            assert_eq!(launched(&format!("{domain}, {base}")), expected, "{domain}");
        }
    }

    #[test]
    fn a_guest_has_a_panic_device_where_one_is_listed_or_always() {
        use PanicDevices::{Always, AsWritten};
        for (listed, wanted, expected) in [
            ("", AsWritten, PanicDevice::None),
            ("", Always, PanicDevice::Isa),
            ("{model: pvpanic}", AsWritten, PanicDevice::Pci),
            ("{model: pvpanic}", Always, PanicDevice::Pci),
            ("{}", AsWritten, PanicDevice::Isa),
        ] {
            let domain = format!("devices: {{panicDevices: [{listed}]}}, memory: {{guest: 64Mi}}");
            assert_eq!(plan_of(&domain, &[], wanted).panic_device, expected, "{listed} {wanted:?}");
        }
    }

    #[test]
    fn a_start_strategy_of_paused_is_the_first_state() {
        let mut instance = instance("devices: {}, memory: {guest: 64Mi}");
        let files = BootFiles { kernel: "/k".into(), initrd: None };
        for (strategy, expected) in [(Some("Paused"), InitialState::Paused), (None, InitialState::Running)] {
            instance.spec.start_strategy = strategy.map(str::to_owned);
            let spec = plan(&instance, &files, &[], PanicDevices::AsWritten).unwrap();
            assert_eq!(spec.initial_state, expected);
        }
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

#[cfg(test)]
#[path = "plan_smuggling_tests.rs"]
mod smuggling;
