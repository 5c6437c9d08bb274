//! The command line against golden files, and the escaping as properties.
// A variable decides whether golden files are compared or written.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use proptest::prelude::*;

use super::*;
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
    spec.rng = true;
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
    assert_golden("everything", &qemu_args(&everything(), &test_facts(), &paths, &ClockStart::default()));
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
