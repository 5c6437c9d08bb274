//! What a launcher and its machine may take and do.

use std::fs;
use std::path::{Path, PathBuf};

use launcher::cgroup::{self, memory_limit_bytes};
use launcher::pod_dir::LaunchRecord;
use manifest::machine_status::{MachineState, StateReason};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use vmm::Accelerator;

use crate::pod::{Launcher, Pod, instance, read, wait_for, wait_until_gone};

/// A line of the status of a process.
fn status_line(process: Pid, name: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{}/status", process.as_raw_nonzero())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap().trim().to_owned()
}

#[test]
fn a_launcher_keeps_the_privileges_that_its_later_work_takes() {
    let pod = Pod::new();
    let launcher = pod.start(30);
    assert_eq!(status_line(launcher.pid(), "NoNewPrivs"), "1");
    launcher.boot(&instance("guest=hang", json!({})));
    // CAP_DAC_OVERRIDE, CAP_KILL, CAP_SETGID, CAP_SETUID, CAP_NET_BIND_SERVICE.
    let kept = if rustix::process::geteuid().is_root() { "00000000000004e2" } else { "0000000000000000" };
    for set in ["CapPrm", "CapEff"] {
        assert_eq!(status_line(launcher.pid(), set), kept, "{set}");
    }
    if rustix::process::geteuid().is_root() {
        assert_eq!(status_line(launcher.pid(), "CapBnd"), kept);
    }
}

/// The directories of the machine's control group; none where whoever runs the tests can make none. With version 1 root
/// always can.
fn control_group(pod: &Pod) -> Vec<PathBuf> {
    if !pod.log("compute").contains("no limits on the memory") {
        return read(&pod.dir.control_group()).unwrap();
    }
    let is_expected = !rustix::process::geteuid().is_root() || !Path::new("/sys/fs/cgroup/memory").exists();
    assert!(is_expected, "{}", pod.log("compute"));
    Vec::new()
}

/// The file with the limit on memory.
fn memory_limit(group: &[PathBuf]) -> PathBuf {
    let files = ["memory.limit_in_bytes", "memory.max"].map(|name| group[0].join(name));
    files.into_iter().find(|file| file.exists()).unwrap()
}

fn processes(directory: &Path) -> Vec<i32> {
    let text = fs::read_to_string(directory.join("cgroup.procs")).unwrap();
    text.lines().map(|line| line.parse().unwrap()).collect()
}

fn started(pod: &Pod, kernel_arguments: &str) -> (Launcher, Vec<PathBuf>) {
    let launcher = pod.start(0);
    launcher.boot(&instance(kernel_arguments, json!({})));
    (launcher, control_group(pod))
}

#[test]
fn a_machine_is_limited_as_long_as_it_lives() {
    let pod = Pod::new();
    let mut command = pod.command(0);
    command.arg("--cpu-limit-millis=1500");
    let mut launcher = pod.start_by(command);
    launcher.boot(&instance("guest=hang", json!({})));
    let group = control_group(&pod);
    if group.is_empty() {
        return;
    }
    let both = [launcher.pid(), launcher.qemu()].map(|process| process.as_raw_nonzero().get());
    for directory in &group {
        let processes = processes(directory);
        assert!(
            both.iter().all(|process| processes.contains(process)),
            "{}: {processes:?}",
            directory.display()
        );
    }
    let launched: LaunchRecord = read(&pod.dir.launch_record()).unwrap();
    let expected = memory_limit_bytes(&launched.launch, &Accelerator::Tcg { reason: String::new() });
    assert_eq!(fs::read_to_string(memory_limit(&group)).unwrap().trim(), expected.to_string());
    let setting = |names: &[&str]| {
        let mut files = group.iter().flat_map(|directory| names.iter().map(|name| directory.join(name)));
        let file = files.find(|file| file.exists()).unwrap();
        fs::read_to_string(file).unwrap().trim().to_owned()
    };
    assert_eq!(setting(&["pids.max"]), "1024");
    // One and a half processors: version 1, version 2.
    let processors = setting(&["cpu.cfs_quota_us", "cpu.max"]);
    assert!(["150000", "150000 100000"].contains(&processors.as_str()), "{processors}");
    launcher.signal(Signal::TERM);
    launcher.expect_end(0, MachineState::ShutOff, StateReason::Destroyed);
    for directory in &group {
        assert!(!directory.exists(), "{} stays", directory.display());
    }
}

#[test]
fn the_group_of_a_killed_launcher_can_be_found_and_removed() {
    let pod = Pod::new();
    let (mut launcher, group) = started(&pod, "guest=hang");
    if group.is_empty() {
        return;
    }
    let qemu = launcher.qemu();
    launcher.signal(Signal::KILL);
    launcher.end();
    wait_until_gone(qemu);
    let is_there = |group: &[PathBuf]| group.iter().any(|directory| directory.exists());
    assert!(group.iter().all(|directory| directory.is_dir()), "{group:?}");
    // By the next launcher of the Pod, and by whoever looks after Pods.
    let (mut launcher, next) = started(&pod, "guest=hang");
    assert!(!is_there(&group) && is_there(&next), "{group:?} {next:?}");
    let qemu = launcher.qemu();
    launcher.signal(Signal::KILL);
    launcher.end();
    wait_until_gone(qemu);
    cgroup::remove(&next).unwrap();
    assert!(!is_there(&next), "{next:?}");
}

/// Everything that it says is taken, and the end of it kept.
#[test]
fn a_guest_that_floods_its_console_fills_neither_disk_nor_memory() {
    let pod = Pod::new();
    let mut launcher = pod.start(30);
    let log = pod.dir.log("guest-console-log");
    let aside = log.with_extension("log.1");
    // Each says 360 kB, which is four times that with the time in front of every line.
    launcher.boot(&instance(&"guest=spam ".repeat(20), json!({})));
    wait_for("a log that was set aside", || aside.exists().then_some(()));
    let peak = status_line(launcher.pid(), "VmHWM");
    let peak_kib: u64 = peak.strip_suffix(" kB").unwrap().parse().unwrap();
    assert!(peak_kib < 64 << 10, "the launcher took {peak} so far");
    launcher.expect_end(0, MachineState::ShutOff, StateReason::Shutdown);
    let bytes = [&log, &aside].map(|file| fs::metadata(file).unwrap().len());
    assert!(bytes.iter().all(|&bytes| bytes <= 10 << 20), "{bytes:?}");
    assert!(bytes[1] > 9 << 20, "nearly full when it was set aside: {bytes:?}");
    assert!(pod.log("guest-console-log").contains("guest: powering off\n"));
}

#[test]
fn a_qemu_that_stands_still_is_killed_when_its_time_is_up() {
    let pod = Pod::new();
    let mut launcher = pod.start(1);
    launcher.boot(&instance("guest=obey", json!({})));
    kill_process(launcher.qemu(), Signal::STOP).unwrap();
    launcher.signal(Signal::TERM);
    launcher.expect_end(0, MachineState::ShutOff, StateReason::Destroyed);
}

#[test]
fn a_machine_that_takes_too_much_memory_is_killed_and_says_why() {
    let pod = Pod::new();
    let mut launcher = pod.start(30);
    let mut paused = instance("guest=hang", json!({}));
    paused.spec.start_strategy = Some("Paused".to_owned());
    launcher.boot(&paused);
    let group = control_group(&pod);
    if group.is_empty() {
        return;
    }
    // Much more than a launcher and an idle QEMU have, and much less than a guest that boots.
    fs::write(memory_limit(&group), (96 << 20).to_string()).unwrap();
    launcher.ask(async |client, at| client.unpause(at).await).unwrap();
    let last = launcher.expect_end(1, MachineState::Crashed, StateReason::Crashed);
    let expected =
        "the machine took more memory than its guest's and QEMU's together may be, and was killed for it";
    assert_eq!(last.warnings, [expected]);
}
