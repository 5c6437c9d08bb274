//! How machines and launchers end, and what they leave.

use launcher::pod_dir::LaunchRecord;
use manifest::machine_status::{MachineState, MachineStatus, StateReason};
use rustix::process::{Signal, kill_process};
use serde_json::json;

use crate::pod::{Launcher, Pod, UID, fixture, instance, read, wait_until_gone};

#[test]
fn a_guest_that_powers_off_leaves_its_whole_story() {
    let pod = Pod::new();
    let mut launcher = pod.start(30);
    let status = launcher.boot(&instance("guest=none", json!({})));
    assert_eq!((status.state, status.reason), (MachineState::Running, StateReason::None));
    assert_eq!(status.vmi_uid, UID);
    assert_eq!(status.accelerator.as_deref(), Some("tcg"));
    assert!(status.machine_type.as_deref().is_some_and(|name| name.starts_with("pc-q35-")), "{status:?}");
    let launched: LaunchRecord = read(&pod.dir.launch_record()).unwrap();
    assert_eq!((launched.vmi_uid.as_str(), launched.vmi_generation), (UID, Some(1)));

    let last = launcher.expect_end(0, MachineState::ShutOff, StateReason::Shutdown);
    let boot = last.boot.unwrap();
    assert_eq!((boot.image.as_str(), boot.image_digest.len()), ("demo/kernel:1", 71));
    for (facts, name) in [(boot.kernel.unwrap(), "vmlinuz"), (boot.initrd.unwrap(), "initrd")] {
        let bytes = std::fs::read(fixture(name)).unwrap();
        assert_eq!(facts.size_bytes, bytes.len() as u64);
        let mut checksum = flate2::Crc::new();
        checksum.update(&bytes);
        assert_eq!(facts.checksum, checksum.sum(), "{name}");
    }
    let versions = std::fs::read_to_string(fixture("versions")).unwrap();
    let version = versions.lines().find_map(|line| line.strip_prefix("vmlinuz ")).unwrap();
    assert_eq!(boot.kernel_version.as_deref(), Some(version));
    let timeline = last.timeline;
    let marks = [
        timeline.pull_started,
        timeline.pulled,
        timeline.prepared,
        timeline.vmm_ready,
        timeline.first_output,
        timeline.kernel_started,
        timeline.userspace_started,
        timeline.ended,
    ];
    let marks: Vec<u64> = marks.into_iter().map(|mark| mark.expect("every mark is set")).collect();
    // What is on the console may be read before QEMU's monitor answers.
    let mut ordered = marks.clone();
    ordered.sort_unstable();
    assert_eq!((ordered[0], ordered[1], ordered[2]), (marks[0], marks[1], marks[2]), "{marks:?}");
    assert!(marks[4] <= marks[5] && marks[5] <= marks[6] && marks[6] <= marks[7], "{marks:?}");
    let console = pod.log("guest-console-log");
    assert!(console.contains("guest: powering off\n") && !console.contains('\r'), "{console}");
    assert!(pod.log("compute").contains("QEMU runs"), "{}", pod.log("compute"));
}

#[test]
fn a_checksum_that_the_node_has_told_is_not_computed_again() {
    let pod = Pod::new();
    let mut kernel = pod.file("/boot/vmlinuz", &fixture("vmlinuz"));
    kernel.crc32 = Some(7);
    pod.image(vec![kernel, pod.file("/boot/initrd", &fixture("initrd"))]);
    let mut launcher = pod.start(30);
    launcher.boot(&instance("guest=none", json!({})));
    let boot = launcher.expect_end(0, MachineState::ShutOff, StateReason::Shutdown).boot.unwrap();
    assert_eq!(boot.kernel.unwrap().checksum, 7);
    assert!(boot.initrd.unwrap().checksum > 7);
}

/// A machine that has 100 s to shut down, and does when its power button is pressed.
fn with_a_guest_that_obeys() -> (Pod, Launcher) {
    let pod = Pod::new();
    let launcher = pod.start(100);
    launcher.boot(&instance("guest=obey", json!({})));
    pod.wait_for_console("guest: listening to the power button");
    (pod, launcher)
}

#[test]
fn sigterm_presses_the_button_and_a_guest_that_obeys_has_shut_down() {
    let (pod, mut launcher) = with_a_guest_that_obeys();
    launcher.signal(Signal::TERM);
    launcher.expect_end(0, MachineState::ShutOff, StateReason::Shutdown);
    assert!(pod.log("guest-console-log").contains("guest: the power button was pressed"));
}

#[test]
fn a_host_that_tells_all_processes_to_end_lets_the_guest_shut_down() {
    let (_pod, mut launcher) = with_a_guest_that_obeys();
    kill_process(launcher.qemu(), Signal::TERM).unwrap();
    launcher.signal(Signal::TERM);
    launcher.expect_end(0, MachineState::ShutOff, StateReason::Shutdown);
}

#[test]
fn a_guest_that_does_not_obey_is_killed_when_its_time_is_up() {
    let pod = Pod::new();
    let mut launcher = pod.start(100);
    launcher.boot(&instance("guest=hang", json!({})));
    let qemu = launcher.qemu();
    // The earlier end counts, whoever asks last.
    launcher.ask(async |client, at| client.shutdown(at, 1).await).unwrap();
    launcher.ask(async |client, at| client.shutdown(at, 90).await).unwrap();
    launcher.signal(Signal::TERM);
    launcher.expect_end(0, MachineState::ShutOff, StateReason::Destroyed);
    wait_until_gone(qemu);
}

#[test]
fn without_time_or_button_the_machine_is_killed_at_once() {
    let pod = Pod::new();
    let mut launcher = pod.start(100);
    launcher.boot(&instance("guest=hang", json!({})));
    launcher.ask(async |client, at| client.shutdown(at, 0).await).unwrap();
    launcher.expect_end(0, MachineState::ShutOff, StateReason::Destroyed);

    let pod = Pod::new();
    let mut launcher = pod.start(100);
    launcher.boot(&instance("guest=hang", json!({"features": {"acpi": {"enabled": false}}})));
    launcher.signal(Signal::TERM);
    launcher.expect_end(0, MachineState::ShutOff, StateReason::Destroyed);
}

#[test]
fn qemu_that_is_killed_has_crashed() {
    let pod = Pod::new();
    let mut launcher = pod.start(30);
    launcher.boot(&instance("guest=hang", json!({})));
    kill_process(launcher.qemu(), Signal::KILL).unwrap();
    launcher.expect_end(1, MachineState::Crashed, StateReason::Crashed);
    assert!(pod.log("compute").contains("SIGKILL"), "{}", pod.log("compute"));
}

#[test]
fn a_launcher_that_is_killed_takes_its_machine_with_it() {
    let pod = Pod::new();
    let mut launcher = pod.start(30);
    launcher.boot(&instance("guest=hang", json!({})));
    let qemu = launcher.qemu();
    launcher.signal(Signal::KILL);
    launcher.end();
    wait_until_gone(qemu);
    assert!(!pod.dir.exit_record().exists());
    // The lock went with it.
    drop(pod.start(30));
}

#[test]
fn before_there_is_a_machine_the_end_is_at_once() {
    let pod = Pod::new();
    let mut launcher = pod.start(1000);
    // Somebody at a terminal means others.
    launcher.signal(Signal::INT);
    launcher.signal(Signal::HUP);
    assert_eq!(
        launcher.ask(async |client, at| client.status(at, 1).await).unwrap(),
        MachineStatus::default()
    );
    launcher.signal(Signal::TERM);
    launcher.expect_end(0, MachineState::ShutOff, StateReason::Destroyed);

    let pod = Pod::new();
    let mut launcher = pod.start(1000);
    launcher.ask(async |client, at| client.shutdown(at, 1000).await).unwrap();
    launcher.expect_end(0, MachineState::ShutOff, StateReason::Destroyed);
}

#[test]
fn a_panic_is_told_and_the_machine_lives() {
    let pod = Pod::new();
    let launcher = pod.start(30);
    launcher.boot(&instance("guest=panic", json!({})));
    let status = launcher.wait_for_status(|status| status.panic.is_some());
    assert_eq!((status.state, status.reason), (MachineState::Running, StateReason::None));
    let panic = status.panic.unwrap();
    let line = panic.line.unwrap();
    assert!(line.contains("Kernel panic - not syncing: sysrq triggered crash"), "{line}");
    assert!(panic.tail.iter().any(|line| line.contains("---[ end Kernel panic")), "{:?}", panic.tail);
}

#[test]
fn a_panic_with_a_panic_device_is_a_crash() {
    let pod = Pod::new();
    let mut launcher = pod.start(30);
    launcher.boot(&instance("guest=panic", json!({"devices": {"panicDevices": [{"model": "isa"}]}})));
    let last = launcher.expect_end(1, MachineState::Crashed, StateReason::Panicked);
    let line = last.panic.unwrap().line.unwrap();
    assert!(line.contains("sysrq triggered crash"), "{line}");
}
