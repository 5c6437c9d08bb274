//! What `run` does with a guest: the console, how the run ends, and what is left when it has.

use std::fs;
use std::process::Command;

use rustix::process::Signal;

use crate::harness::{Fixtures, Outcome, Session, World, manifest, wait_until_gone};

/// The last line that the fixture guest prints before it powers off.
const POWERING_OFF: &str = "guest: powering off";

fn memory_kib(outcome: &Outcome) -> u64 {
    let line = outcome.stdout.lines().find_map(|line| line.strip_prefix("guest: memory "));
    line.and_then(|line| line.split(' ').next()?.parse().ok())
        .unwrap_or_else(|| panic!("no memory line in {outcome}"))
}

#[test]
fn a_guest_that_powers_off_is_a_success_and_its_console_is_standard_output() {
    let world = World::new();
    let log = world.path("asked.log");
    let json = world.path("summary.json");
    let outcome = world
        .boot("", &[&format!("--log={}", log.display()), &format!("--output=json={}", json.display())])
        .expect_code(0)
        .expect_stdout(&format!("guest: kernel {}", Fixtures::version("vmlinuz")))
        .expect_stdout("guest: command line console=ttyS0")
        .expect_stdout(POWERING_OFF);

    // The console and nothing else: the same bytes are in both logs.
    assert_eq!(String::from_utf8_lossy(&fs::read(&log).unwrap()), outcome.stdout, "--log");
    assert_eq!(
        String::from_utf8_lossy(&fs::read(world.console_log()).unwrap()),
        outcome.stdout,
        "run directory"
    );
    assert!(!outcome.stderr.contains("guest: "), "the console is not repeated after a success: {outcome}");

    let summary: serde_json::Value = serde_json::from_slice(&fs::read(&json).unwrap()).unwrap();
    assert_eq!(summary["exitCode"], 0, "{summary}");
    assert_eq!(summary["kernel"]["version"], Fixtures::version("vmlinuz"), "{summary}");
    assert!(summary["memory"]["qemuPeakBytes"].as_u64() > Some(16 << 20), "{summary}");
    let phases: Vec<_> = summary["phases"].as_array().unwrap().iter().map(|phase| &phase["name"]).collect();
    assert_eq!(phases, ["pull", "prepare", "VMM", "kernel", "userspace"], "{summary}");
}

/// A guest with all the hardware that a manifest can ask for: what the kernel says of it, and that it ends as it should.
#[test]
fn the_hardware_of_a_manifest_is_what_the_guest_finds() {
    const YEARS: i64 = 10 * 365 * 86_400;
    let world = World::new();
    let manifest = format!(
        r#"{{apiVersion: kubevirt.io/v1, kind: VirtualMachineInstance, metadata: {{name: hardware}}, spec: {{
            startStrategy: Paused, terminationGracePeriodSeconds: 60, priorityClassName: of-nothing, domain: {{
            memory: {{guest: 256Mi}}, machine: {{type: pc-q35-6.0}}, features: {{acpi: {{enabled: false}}}},
            cpu: {{model: max, features: [{{name: avx, policy: disable}}, {{name: sse4_2}},
                                          {{name: avx512f, policy: forbid}}]}},
            clock: {{utc: {{offsetSeconds: {YEARS}}},
                     timer: {{hpet: {{present: false}}, pit: {{tickPolicy: delay}}, rtc: {{tickPolicy: catchup}}}}}},
            devices: {{rng: {{}}, watchdog: {{name: w, i6300esb: {{action: poweroff}}}},
                       panicDevices: [{{model: pvpanic}}], inputs: [{{name: t, type: tablet, bus: usb}}]}},
            firmware: {{uuid: 5d307ca9-b3ef-428c-8861-06e72d69f223, serial: s1,
                        kernelBoot: {{kernelArgs: console=ttyS0, container: {{image: demo/absent, kernelPath: /k}}}}}}
            }}}}}}"#
    );
    let file = world.file("vm.yaml", manifest);
    let began = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let outcome = world
        .boot("", &["--timeout=110s", "-f", &file.display().to_string()])
        .expect_code(0)
        .expect_stdout("uuid 5d307ca9-b3ef-428c-8861-06e72d69f223, serial s1")
        .expect_stdout("guest: random source virtio_rng")
        .expect_stdout(POWERING_OFF)
        .expect_stderr("spec.startStrategy has no effect")
        .expect_stderr("spec.terminationGracePeriodSeconds has no effect")
        .expect_stderr("spec.priorityClassName has no effect");
    // The watchdog, the memory balloon, the panic device and the controller of the tablet, by vendor and device.
    for device in ["8086:25ab", "1af4:1002", "1b36:0011", "1b36:000d"] {
        assert!(outcome.stdout.contains(&format!("[{device}]")), "no device {device}: {outcome}");
    }
    for absent in ["clocksource: hpet", "AVX registers"] {
        assert!(!outcome.stdout.contains(absent), "`{absent}`: {outcome}");
    }
    let clock = outcome.stdout.split_once("setting system clock to ").map(|(_, rest)| rest);
    let seconds = clock.and_then(|rest| rest.split_once('(')?.1.split_once(')')?.0.parse::<i64>().ok());
    let ahead = seconds.unwrap_or_else(|| panic!("no clock in {outcome}")) - i64::try_from(began).unwrap();
    assert!((YEARS..YEARS + 120).contains(&ahead), "{ahead} seconds ahead: {outcome}");
}

#[test]
fn a_cpu_feature_that_there_is_not_is_told_of_in_one_line() {
    let world = World::new();
    let refused = |feature: &str| {
        let text = manifest("features", "demo/absent:latest", "Never", "console=ttyS0").replace(
            "devices: {}",
            &format!("devices: {{}}\n        cpu: {{features: [{{name: {feature}}}]}}"),
        );
        let file = world.file("vm.yaml", text);
        world.boot("", &["-f", &file.display().to_string()]).expect_code(1)
    };
    refused("turbo").expect_stderr("Property 'max-x86_64-cpu.turbo' not found").expect_stderr("-cpu help");
    refused("avx512f")
        .expect_stderr("the CPU feature `avx512f` is required, and this host cannot provide it")
        .expect_stderr("policy `optional`");
}

#[test]
fn the_summary_goes_to_an_open_descriptor() {
    let world = World::new();
    let mut command = Command::new("sh");
    command.args(["-c", "exec \"$@\" 7>summary.json", "sh", env!("CARGO_BIN_EXE_ferrovirt")]);
    command.args(world.boot_arguments("", &["--output=json=fd:7"]));
    world.environment(&mut command);
    Session::start(command).finish().expect_code(0);
    let summary: serde_json::Value =
        serde_json::from_slice(&fs::read(world.path("summary.json")).unwrap()).unwrap();
    assert_eq!(summary["exitCode"], 0, "{summary}");
}

#[test]
fn a_panic_is_noticed_and_shown() {
    let world = World::new();
    // After a panic this guest hangs for good: only a run that notices it ends before the timeout.
    let outcome = world.boot("guest=panic", &["--timeout=110s"]).expect_code(3);
    let panic = "Kernel panic - not syncing: sysrq triggered crash";
    let outcome = outcome.expect_stdout(panic).expect_stderr(panic);
    let shown: Vec<_> = outcome
        .stderr
        .lines()
        .filter(|line| outcome.stdout.contains(line.trim()) && line.contains('['))
        .collect();
    assert!(shown.len() >= 10, "the last console lines are shown with a panic: {outcome}");
    assert!(shown.len() <= 31, "30 console lines are enough: {outcome}");
}

#[test]
fn the_end_of_init_is_a_panic() {
    let outcome = World::new().boot("guest=exit", &["--timeout=110s"]);
    outcome.expect_code(3).expect_stderr("Attempted to kill init!");
}

#[test]
fn a_panic_is_noticed_without_a_console() {
    // Nothing is printed, so only the panic device can tell.
    let world = World::new();
    let file =
        world.file("vm.yaml", manifest("silent", "demo/absent:latest", "Never", "console=null guest=panic"));
    let outcome = world.boot("", &["--timeout=110s", "-f", &file.display().to_string()]).expect_code(3);
    assert_eq!(outcome.stdout, "", "{outcome}");
    outcome.expect_stderr("warning: ").expect_stderr("console=ttyS0");
}

#[test]
fn a_kernel_without_a_root_file_system_is_a_failure_of_the_guest() {
    let world = World::new();
    let kernel = format!("--kernel={}", Fixtures::path("vmlinuz").display());
    let outcome =
        world.ferrovirt(["run", "--accel=tcg", &kernel, "--append=console=ttyS0", "--timeout=110s"]);
    outcome.expect_code(3).expect_stderr("Unable to mount root fs");
}

#[test]
fn an_oops_ends_the_run_unless_told_otherwise() {
    let world = World::new();
    world.boot("guest=oops", &[]).expect_code(3).expect_stderr("BUG: unable to handle page fault");
    world.boot("guest=oops", &["--no-fail-on"]).expect_code(0).expect_stdout(POWERING_OFF);
}

#[test]
fn a_pattern_of_the_users_decides() {
    let world = World::new();
    // The guest hangs after its report, so that only the pattern ends these runs.
    let outcome = world.boot("guest=hang", &["--until=^guest: files in"]);
    outcome.expect_code(0).expect_stdout("guest: files in the initrd");
    let outcome = world.boot("guest=hang", &["--fail-on=guest: mem[o]ry"]);
    outcome.expect_code(3).expect_stderr("guest: mem");
    // --no-fail-on takes away the default set only.
    world.boot("guest=hang", &["--no-fail-on", "--fail-on=guest: mem[o]ry"]).expect_code(3);
}

#[test]
fn a_bad_pattern_is_a_fault_of_usage() {
    for flag in ["--until=(", "--fail-on=["] {
        let outcome = World::new().boot("", &[flag]).expect_code(2);
        assert_eq!(outcome.stdout, "", "nothing was booted: {outcome}");
    }
}

#[test]
fn a_guest_that_hangs_is_ended_by_the_timeout() {
    let outcome = World::new().boot("guest=hang", &["--timeout=8s"]);
    outcome.expect_code(124).expect_stderr("8");
}

#[test]
fn an_interrupt_ends_the_guest_too() {
    for signal in [Signal::INT, Signal::TERM] {
        let world = World::new();
        let session = world.start_boot("guest=hang", &[]);
        session.wait_for_stdout("guest: files in the initrd", 1);
        let qemu = session.children_running("qemu-system-x86_64");
        assert_eq!(qemu.len(), 1, "one QEMU belongs to the run");
        session.signal(signal);
        session.finish().expect_code(130);
        wait_until_gone(qemu[0]);
    }
}

#[test]
fn no_qemu_outlives_a_killed_run() {
    let world = World::new();
    let session = world.start_boot("guest=hang", &[]);
    session.wait_for_stdout("guest: files in the initrd", 1);
    let qemu = session.children_running("qemu-system-x86_64");
    assert_eq!(qemu.len(), 1, "one QEMU belongs to the run");
    session.signal(Signal::KILL);
    wait_until_gone(qemu[0]);
}

#[test]
fn a_killed_vmm_is_the_vmms_failure() {
    let world = World::new();
    let session = world.start_boot("guest=hang", &[]);
    session.wait_for_stdout("guest: files in the initrd", 1);
    let qemu = session.children_running("qemu-system-x86_64");
    rustix::process::kill_process(qemu[0], Signal::KILL).unwrap();
    session.finish().expect_code(4).expect_stderr("QEMU ended");
}

#[test]
fn standard_input_reaches_the_guest_and_a_reboot_starts_the_same_kernel() {
    let world = World::new();
    let mut session =
        Session::start_with_input(world.command(world.boot_arguments("guest=shell", &["--interactive"])));
    session.wait_for_stdout("guest: shell is ready", 1);
    session.type_line("reboot");
    session.wait_for_stdout("guest: shell is ready", 2);
    session.type_line("echo");
    session.wait_for_stdout("guest: echo is ready", 1);
    session.type_line("typed by the test");
    session.wait_for_stdout("guest: heard typed by the test", 1);
    session.type_line("end");
    session.type_line("poweroff");
    let outcome = session.finish().expect_code(0).expect_stderr("  reboots  1\n");
    let version = format!("guest: kernel {}", Fixtures::version("vmlinuz"));
    assert_eq!(outcome.stdout.matches(&version).count(), 2, "both boots are of the same kernel: {outcome}");
}

#[test]
fn a_talkative_guest_loses_no_line() {
    let outcome = World::new().boot("quiet guest=spam", &[]).expect_code(0);
    let lines: Vec<_> = outcome.stdout.lines().filter_map(|line| line.strip_prefix("guest: line ")).collect();
    let expected: Vec<_> = (1..=20_000).map(|number| number.to_string()).collect();
    assert_eq!(lines, expected);
}

#[test]
fn files_and_fields_of_a_manifest_are_replaced_for_one_run() {
    let world = World::new();
    let file =
        world.file("vm.yaml", manifest("replaced", "demo/absent:latest", "Never", "console=ttyS0 first"));
    let mut arguments = world.boot_arguments("second", &["--append=third", "--filename"]);
    arguments.push(file.display().to_string());
    let outcome = world.ferrovirt(&arguments).expect_code(0);
    let outcome = outcome.expect_stdout("guest: command line console=ttyS0 first second third");
    let before = memory_kib(&outcome);
    assert!((160 << 10..256 << 10).contains(&before), "{before} KiB of 256 MiB");

    arguments.push("--set=spec.template.spec.domain.memory.guest=384Mi".to_owned());
    arguments.push("--set=spec.template.spec.domain.cpu.cores=2".to_owned());
    let outcome = world.ferrovirt(&arguments).expect_code(0).expect_stdout(", 2 CPU");
    let after = memory_kib(&outcome);
    assert!((288 << 10..384 << 10).contains(&after), "{after} KiB of 384 MiB");
}

#[test]
fn the_command_line_of_a_dry_run_boots_by_hand() {
    let world = World::new();
    let outcome = world.boot("", &["--dry-run"]).expect_code(0);
    let words: Vec<_> =
        outcome.stdout.lines().skip_while(|line| !line.trim().contains("qemu-system-x86_64")).collect();
    assert!(words.len() > 10, "one argument a line: {outcome}");
    // One argument a line, as a shell reads it.
    let mut command = Command::new("sh");
    command.args(["-c", &words.join("\n")]);
    world.environment(&mut command);
    Session::start(command).finish().expect_code(0).expect_stdout(POWERING_OFF);
}

#[test]
fn the_guest_sees_the_firmware_of_the_manifest() {
    let world = World::new();
    let uuid = "5d307ca9-b3ef-428c-8861-06e72d69f223";
    let text = manifest("firmware", "demo/absent:latest", "Never", "console=ttyS0")
        .replace("devices: {}", "devices: {rng: {}}")
        .replace(
            "firmware:\n",
            &format!("firmware:\n          uuid: {uuid}\n          serial: e4686d2c-6e8d\n"),
        );
    let file = world.file("vm.yaml", text);
    let outcome = world.boot("", &["--filename", &file.display().to_string()]).expect_code(0);
    outcome
        .expect_stdout("guest: firmware KubeVirt, family KubeVirt")
        .expect_stdout(&format!("uuid {uuid}, serial e4686d2c-6e8d"))
        .expect_stdout("guest: random source virtio_rng.0");
}

#[test]
fn a_missing_console_is_warned_of() {
    let world = World::new();
    let kernel = format!("--kernel={}", Fixtures::path("vmlinuz").display());
    let initrd = format!("--initrd={}", Fixtures::path("initrd").display());
    let file = world.file("vm.yaml", manifest("silent", "demo/absent:latest", "Never", "quiet"));
    let file = file.display().to_string();
    let outcome = world.ferrovirt(["run", "--accel=tcg", &kernel, &initrd, "-f", &file]);
    let outcome = outcome.expect_code(0).expect_stderr("console=ttyS0");
    assert_eq!(outcome.stderr.lines().filter(|line| line.starts_with("warning: ")).count(), 1, "{outcome}");
}

#[test]
fn the_accelerator_is_chosen_and_said() {
    let world = World::new();
    let kernel = format!("--kernel={}", Fixtures::path("vmlinuz").display());
    let initrd = format!("--initrd={}", Fixtures::path("initrd").display());
    let outcome = world.ferrovirt(["run", &kernel, &initrd]).expect_code(0).expect_stdout(POWERING_OFF);
    assert!(outcome.stderr.contains("KVM") || outcome.stderr.contains("TCG"), "{outcome}");
    let outcome = world.ferrovirt(["run", "--accel=kvm", "--dry-run", &kernel, &initrd]);
    assert!(matches!(outcome.code(), Some(0 | 1)), "KVM or a refusal, never TCG: {outcome}");
    assert_eq!(outcome.code() == Some(0), outcome.stdout.contains("kvm"), "{outcome}");
}
