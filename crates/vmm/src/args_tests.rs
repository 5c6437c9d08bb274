//! The command line against golden files, and the escaping as properties.
// A variable decides whether golden files are compared or written.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use std::time::{Duration, SystemTime};

use proptest::prelude::*;

use super::*;
use crate::launch_spec::{Clock, CpuFeature};
use crate::test_facts;

/// Compares with `tests/golden/NAME.argv`, one argument a line; writes the file instead when `UPDATE_GOLDEN`
/// is set.
fn assert_golden(name: &str, arguments: &[String]) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(format!("{name}.argv"));
    let mut text = arguments.join("\n");
    text.push('\n');
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&file, &text).unwrap();
    }
    let expected = std::fs::read_to_string(&file).unwrap();
    assert_eq!(text, expected, "{} differs; UPDATE_GOLDEN=1 rewrites it", file.display());
}

fn paths() -> RunPaths {
    RunPaths::in_directory(Path::new("/run/ferrovirt/web"))
}

/// The guest of KubeVirt's user guide.
fn reference() -> LaunchSpec {
    let mut spec = LaunchSpec::new("ext-kernel-boot-vm", "/store/kernel", 1 << 30);
    spec.initrd = Some("/store/initrd".into());
    spec.command_line = "console=ttyS0".to_owned();
    spec.smbios.uuid = Some("5d307ca9-b3ef-428c-8861-06e72d69f223".to_owned());
    spec.smbios.serial = Some("e4686d2c-6e8d-4335-b8fd-81bee22f4814".to_owned());
    spec
}

const FEATURES: [(&str, FeaturePolicy); 5] = [
    ("avx2", FeaturePolicy::Require),
    ("cmp_legacy", FeaturePolicy::Force),
    ("sse4.1", FeaturePolicy::Optional),
    ("erms", FeaturePolicy::Disable),
    ("vmx", FeaturePolicy::Forbid),
];

fn feature(name: &str, policy: FeaturePolicy) -> CpuFeature {
    CpuFeature { name: name.to_owned(), policy }
}

/// 2026-11-22T19:00:00Z.
const NOW: Duration = Duration::from_secs(1_795_374_000);

fn clock_of(spec: &LaunchSpec) -> ClockStart {
    ClockStart::of(&spec.clock, SystemTime::UNIX_EPOCH + NOW).unwrap()
}

fn everything() -> LaunchSpec {
    let mut spec = reference();
    spec.name = "every, thing".to_owned();
    spec.machine_type = "pc-q35-7.2".to_owned();
    spec.memory_bytes = (1 << 30) + 4096;
    spec.cpus = CpuTopology { sockets: 2, cores: 3, threads: 2 };
    spec.cpu_model = Some("Haswell-noTSX".to_owned());
    spec.kernel = "/store/a,b/kernel".into();
    spec.command_line = "console=ttyS0 root=/dev/vda1, quoted=\"a b\" id=x".to_owned();
    spec.smbios.version = Some("1,2".to_owned());
    spec.smbios.sku = Some("sku=3".to_owned());
    spec.smbios.chassis = Chassis {
        manufacturer: Some("maker, Inc.".to_owned()),
        version: Some("v".to_owned()),
        serial: Some("s".to_owned()),
        asset: Some("a".to_owned()),
        sku: Some("k".to_owned()),
    };
    spec.cpu_features = FEATURES.iter().map(|(name, policy)| feature(name, *policy)).collect();
    spec.rng = true;
    spec.memory_balloon = true;
    spec.graphics = true;
    spec.inputs = vec![TabletBus::Usb, TabletBus::Virtio, TabletBus::Usb];
    spec.network_card = Some(NetworkCard { model: CardModel::Virtio, mac: [2, 0, 0xde, 0xad, 0xbe, 0xef] });
    spec.agent_port = true;
    spec.watchdog = Some(WatchdogAction::Poweroff);
    spec.acpi = Acpi::Off;
    spec.clock = Clock::Utc { offset_seconds: 3600 };
    spec.timers = Timers {
        hpet: false,
        pit: false,
        kvm_clock: false,
        hyperv_clock: true,
        pit_ticks: Some(PitTicks::Discard),
        rtc_catches_up: true,
        rtc_source: RtcSource::Guest,
    };
    spec.panic_device = PanicDevice::Pci;
    spec.guest_reboot = GuestReboot::Terminate;
    spec.initial_state = InitialState::Paused;
    spec
}

#[test]
fn the_reference_guest_under_tcg() {
    assert_golden("reference-tcg", &qemu_args(&reference(), &test_facts(), &paths(), &ClockStart::default()));
}

#[test]
fn the_reference_guest_under_kvm() {
    let mut facts = test_facts();
    facts.accelerator = Accelerator::Kvm;
    assert_golden("reference-kvm", &qemu_args(&reference(), &facts, &paths(), &ClockStart::default()));
}

#[test]
fn a_guest_with_everything() {
    let paths = RunPaths::in_directory(Path::new("/run/a,b"));
    let clock = clock_of(&everything());
    assert_golden("everything", &qemu_args(&everything(), &test_facts(), &paths, &clock));
    let mut facts = test_facts();
    facts.accelerator = Accelerator::Kvm;
    assert_golden("everything-kvm", &qemu_args(&everything(), &facts, &paths, &clock));
}

/// What each setting adds to or changes in the reference guest's command line, under TCG and KVM.
#[test]
fn each_setting_has_its_words() {
    type Change = fn(&mut LaunchSpec);
    const BOTH: [bool; 2] = [true, true];
    const KVM: [bool; 2] = [false, true];
    const MACHINE: &str = "q35,usb=off,vmport=off,dump-guest-core=off";
    let table: [(Change, [bool; 2], &str); 17] = [
        (|spec| spec.acpi = Acpi::Off, BOTH, &format!("-machine {MACHINE},acpi=off")),
        (|spec| spec.timers.hpet = false, BOTH, &format!("-machine {MACHINE},hpet=off")),
        (|spec| spec.timers.pit = false, BOTH, &format!("-machine {MACHINE},pit=off")),
        (|spec| spec.timers.kvm_clock = false, KVM, "-cpu host,kvmclock=off"),
        (|spec| spec.timers.hyperv_clock = true, KVM, "-cpu host,hv-time=on"),
        (|spec| spec.timers.pit_ticks = Some(PitTicks::Delay), KVM, "-global kvm-pit.lost_tick_policy=delay"),
        (|spec| spec.timers.rtc_catches_up = true, BOTH, "-rtc base=utc,driftfix=slew"),
        (|spec| spec.timers.rtc_source = RtcSource::Guest, BOTH, "-rtc base=utc,clock=vm"),
        (|spec| spec.clock = Clock::Utc { offset_seconds: -1 }, BOTH, "-rtc base=2026-11-22T18:59:59"),
        (
            |spec| spec.clock = Clock::Zone { name: "Asia/Tokyo".into() },
            BOTH,
            "-rtc base=2026-11-23T04:00:00",
        ),
        (
            |spec| spec.memory_balloon = true,
            BOTH,
            "-device virtio-balloon-pci,id=balloon0,free-page-reporting=on",
        ),
        (|spec| spec.inputs = vec![TabletBus::Virtio], BOTH, "-device virtio-tablet-pci"),
        (|spec| spec.inputs = vec![TabletBus::Usb], BOTH, "-device qemu-xhci -device usb-tablet"),
        (|spec| spec.watchdog = Some(WatchdogAction::Reset), BOTH, "-device i6300esb -action watchdog=reset"),
        (
            |spec| spec.watchdog = Some(WatchdogAction::Shutdown),
            BOTH,
            "-device i6300esb -action watchdog=shutdown",
        ),
        (
            |spec| {
                spec.cpu_model = Some("Haswell".to_owned());
                spec.cpu_features = vec![feature("avx2", FeaturePolicy::Disable)];
            },
            BOTH,
            "-cpu Haswell,avx2=off",
        ),
        (|spec| spec.cpu_model = Some("max".to_owned()), BOTH, "-cpu max"),
    ];
    for (change, there, expected) in table {
        let mut spec = reference();
        change(&mut spec);
        let accelerators = [Accelerator::Tcg { reason: String::new() }, Accelerator::Kvm];
        for (accelerator, there) in accelerators.into_iter().zip(there) {
            let mut facts = test_facts();
            facts.accelerator = accelerator;
            let with = qemu_args(&spec, &facts, &paths(), &clock_of(&spec));
            let without = qemu_args(&reference(), &facts, &paths(), &ClockStart::default());
            // Options come in pairs, but for the flags.
            let options = |arguments: &[String]| arguments.join(" ").replace(" -", "\n-");
            let before = options(&without);
            let before: Vec<&str> = before.lines().collect();
            let with = options(&with);
            let added: Vec<&str> = with.lines().filter(|option| !before.contains(option)).collect();
            let expected = if there { expected } else { "" };
            assert_eq!(added.join(" "), expected, "{:?}", facts.accelerator);
        }
    }
}

#[test]
fn each_model_of_a_network_card_is_a_device() {
    let table = [
        (CardModel::Virtio, "virtio-net-pci"),
        (CardModel::E1000, "e1000"),
        (CardModel::E1000e, "e1000e"),
        (CardModel::Igb, "igb"),
        (CardModel::Ne2kPci, "ne2k_pci"),
        (CardModel::Pcnet, "pcnet"),
        (CardModel::Rtl8139, "rtl8139"),
    ];
    for (model, device) in table {
        let mut spec = reference();
        spec.panic_device = PanicDevice::None;
        spec.network_card = Some(NetworkCard { model, mac: [2, 0, 0, 0, 0, 10] });
        let arguments = qemu_args(&spec, &test_facts(), &paths(), &ClockStart::default());
        assert_eq!(
            value_of(&arguments, "-netdev", 0),
            "stream,id=net0,server=off,addr.type=unix,addr.path=/run/ferrovirt/web/qemu/net.sock"
        );
        let expected = format!("{device},netdev=net0,mac=02:00:00:00:00:0a,romfile=");
        assert_eq!(value_of(&arguments, "-device", 0), expected);
    }
}

/// Without a panic device QEMU is told nothing of panics: the guest's kernel decides.
#[test]
fn panics_are_watched_for_where_there_is_a_device() {
    for (device, expected) in [(PanicDevice::None, false), (PanicDevice::Isa, true), (PanicDevice::Pci, true)]
    {
        let mut spec = reference();
        spec.panic_device = device;
        let arguments = qemu_args(&spec, &test_facts(), &paths(), &ClockStart::default());
        assert_eq!(arguments.iter().any(|argument| argument.contains("panic")), expected, "{device:?}");
    }
}

#[test]
fn a_guest_with_nothing() {
    let mut spec = LaunchSpec::new("bare", "/store/kernel", 64 << 20);
    spec.smbios = Smbios {
        manufacturer: None,
        product: None,
        family: None,
        uuid: None,
        serial: None,
        version: None,
        sku: None,
        chassis: Chassis::default(),
    };
    spec.serial_console = false;
    spec.panic_device = PanicDevice::None;
    let mut facts = test_facts();
    facts.qemu.sandbox = Sandbox::Missing;
    assert_golden("bare", &qemu_args(&spec, &facts, &paths(), &ClockStart::default()));
}

#[test]
fn memory_is_exact() {
    for (bytes, expected) in [
        (1 << 20, "1M"),
        (1 << 30, "1024M"),
        ((1 << 20) + 1, "1048577B"),
        (8192, "8192B"),
        (u64::MAX, "18446744073709551615B"),
    ] {
        assert_eq!(size(bytes), expected);
    }
}

/// Splits the value of an option as QEMU does (`get_opt_value`): a comma ends a part, two commas are one of
/// them.
fn split_option(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut rest = text.chars().peekable();
    while let Some(character) = rest.next() {
        if character != ',' {
            parts.last_mut().unwrap().push(character);
        } else if rest.next_if_eq(&',').is_some() {
            parts.last_mut().unwrap().push(',');
        } else {
            parts.push(String::new());
        }
    }
    parts
}

/// The value that follows `option`, in its `occurrence`-th appearance.
fn value_of<'a>(arguments: &'a [String], option: &str, occurrence: usize) -> &'a str {
    let place =
        arguments.iter().enumerate().filter(|(_, argument)| *argument == option).nth(occurrence).unwrap().0;
    &arguments[place + 1]
}

proptest! {
    /// Whatever a value contains, it stays one value: nothing of it becomes an option.
    #[test]
    fn a_value_never_becomes_an_option(
        name in "[ -~]{0,20}",
        asset in "[,=a-z]{1,12}",
        directory in "/[,=a-z/]{1,30}",
    ) {
        let mut spec = reference();
        spec.name = name.clone();
        spec.smbios.chassis.asset = Some(asset.clone());
        spec.network_card = Some(NetworkCard { model: CardModel::E1000, mac: [2; 6] });
        let paths = RunPaths::in_directory(Path::new(&directory));
        let arguments = qemu_args(&spec, &test_facts(), &paths, &ClockStart::default());

        let parts = split_option(value_of(&arguments, "-name", 0));
        prop_assert_eq!(parts, vec![format!("guest={name}"), "debug-threads=on".to_owned()]);
        let parts = split_option(value_of(&arguments, "-smbios", 1));
        prop_assert_eq!(parts, vec!["type=3".to_owned(), format!("asset={asset}")]);
        let parts = split_option(value_of(&arguments, "-chardev", 1));
        let socket = paths.qmp_socket.to_str().unwrap();
        prop_assert_eq!(&parts[2], &format!("path={socket}"));
        prop_assert_eq!(parts.len(), 5);
        let parts = split_option(value_of(&arguments, "-netdev", 0));
        let socket = paths.network_socket.to_str().unwrap();
        prop_assert_eq!(&parts[4], &format!("addr.path={socket}"));
        prop_assert_eq!(parts.len(), 5);
    }

    /// Names are not escaped, so a name with anything odd in it is refused, and any other is one part.
    #[test]
    fn a_name_is_one_part_or_refused(
        model in "[a-zA-Z][a-z.-]{0,8}([,=+ ][a-z]{0,3}){0,1}",
        names in prop::collection::vec("[a-z][a-z_.-]{0,6}([,=+ ][a-z]{0,3}){0,1}", 0..3),
        machine in "[a-z0-9][a-z0-9.-]{0,6}([,=][a-z]{0,3}){0,1}",
    ) {
        let mut spec = reference();
        spec.cpu_model = Some(model.clone());
        spec.machine_type = machine.clone();
        spec.cpu_features = names.iter().map(|name| feature(name, FeaturePolicy::Optional)).collect();
        if spec.check(&test_facts()).is_err() {
            return Ok(());
        }
        let arguments = qemu_args(&spec, &test_facts(), &paths(), &ClockStart::default());
        let parts: Vec<String> = value_of(&arguments, "-cpu", 0).split(',').map(str::to_owned).collect();
        let expected: Vec<String> =
            std::iter::once(model).chain(names.iter().map(|name| format!("{name}=on"))).collect();
        prop_assert_eq!(parts, expected);
        let parts = split_option(value_of(&arguments, "-machine", 0));
        prop_assert_eq!(parts, [&machine, "usb=off", "vmport=off", "dump-guest-core=off"]);
    }

    /// A zone's name does not reach QEMU, whatever is in it.
    #[test]
    fn a_time_zone_is_a_time_or_refused(name in "\\PC{0,20}") {
        let mut spec = reference();
        spec.clock = Clock::Zone { name };
        if let Ok(clock) = ClockStart::of(&spec.clock, SystemTime::UNIX_EPOCH + NOW) {
            let arguments = qemu_args(&spec, &test_facts(), &paths(), &clock);
            let base = value_of(&arguments, "-rtc", 0).strip_prefix("base=").unwrap();
            prop_assert!(base.bytes().all(|byte| byte.is_ascii_digit() || b"-:T".contains(&byte)), "{}", base);
        }
    }

    /// What the guest's kernel gets is what was asked for, byte for byte.
    #[test]
    fn kernel_arguments_pass_unchanged(line in "\\PC{1,60}", initrd in "/[ -~]{1,30}") {
        let mut spec = reference();
        spec.command_line = line.clone();
        spec.initrd = Some(initrd.clone().into());
        let arguments = qemu_args(&spec, &test_facts(), &paths(), &ClockStart::default());
        prop_assert_eq!(value_of(&arguments, "-append", 0), &line);
        prop_assert_eq!(value_of(&arguments, "-initrd", 0), &initrd);
    }
}
