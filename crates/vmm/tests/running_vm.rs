//! Real QEMU processes, from start to end.
// The tests find QEMU as a user would.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::print_stderr)]

mod support;

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, Stdio};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::retry_on_intr;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use support::{Bench, GREETING, LIMIT, boot_example, tiny_guest};
use tokio::io::AsyncWriteExt;
use vmm::{
    Acpi, Clock, CpuFeature, CpuTopology, Fault, FeaturePolicy, GuestReboot, InitialState, LaunchSpec,
    MAX_INPUTS, Namespaces, Origin, PanicDevice, PauseReason, PitTicks, QEMU_GID, QEMU_UID, RtcSource, RunAs,
    ShutdownReason, StartError, TabletBus, Timers, VmEvent, WatchdogAction,
};

#[tokio::test]
async fn a_guest_talks_and_powers_off() {
    let mut running = Bench::new().start().await.unwrap();
    running.expect(GREETING).await;
    running.input.write_all(b"echo").await.unwrap();
    running.expect("echo").await;
    assert_eq!(running.vm.run_state().await.unwrap(), "running");
    running.input.write_all(b"q").await.unwrap();
    assert_eq!(
        running.notable_event().await,
        VmEvent::GuestShutdown { reason: ShutdownReason::GuestShutdown, origin: Origin::Guest }
    );
    let VmEvent::Exited(report) = running.notable_event().await else { panic!("no exit") };
    assert!(report.status.success(), "{report:?}");
    assert_eq!(report.stderr_tail, Vec::<String>::new());
    assert_eq!(running.event().await, None);
}

#[tokio::test]
async fn qemu_stands_behind_as_far_as_it_is_told_and_as_this_process_does() {
    // After the name in parentheses: 4 session and 17 nice, proc_pid_stat(5) counts two more.
    let session_and_level = |stat: String| {
        let fields: Vec<_> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        (fields[3].to_owned(), fields[16].parse::<u8>().unwrap())
    };
    let (_, own) = session_and_level(std::fs::read_to_string("/proc/self/stat").unwrap());
    for niceness in [0, 7] {
        let running = Bench { niceness, ..Bench::new() }.start().await.unwrap();
        let process_id = running.vm.process_id();
        let of_process = |name: &str| std::fs::read_to_string(format!("/proc/{process_id}/{name}")).unwrap();
        let (session, level) = session_and_level(of_process("stat"));
        assert_eq!((session, level), (process_id.to_string(), niceness.max(own)));
        // Where the kernel groups sessions: `/autogroup-7 nice 7`.
        if std::path::Path::new("/proc/self/autogroup").exists() {
            assert!(of_process("autogroup").trim_end().ends_with(&format!("nice {level}")));
        }
    }
}

#[tokio::test]
async fn a_panicked_guest_is_told_of_and_stopped() {
    for device in [PanicDevice::Isa, PanicDevice::None] {
        let mut bench = Bench::new();
        bench.spec.panic_device = device;
        let mut running = bench.start().await.unwrap();
        running.expect(GREETING).await;
        running.input.write_all(b"p").await.unwrap();
        if device == PanicDevice::None {
            // Nobody listens at that port. The guest halts, and QEMU goes on.
            assert_eq!(running.vm.run_state().await.unwrap(), "running");
        } else {
            let event = running.notable_event().await;
            assert!(
                matches!(&event, VmEvent::GuestPanicked { action, .. } if action == "pause"),
                "{event:?}"
            );
            assert_eq!(running.vm.run_state().await.unwrap(), "guest-panicked");
        }
        let report = running.vm.terminate(LIMIT).await.unwrap();
        assert!(report.status.success(), "{report:?}");
    }
}

#[tokio::test]
async fn a_reset_starts_the_same_kernel_again() {
    let mut running = Bench::new().start().await.unwrap();
    for _ in 0..2 {
        running.expect(GREETING).await;
        running.input.write_all(b"r").await.unwrap();
        assert_eq!(
            running.notable_event().await,
            VmEvent::GuestReset { reason: ShutdownReason::GuestReset, origin: Origin::Guest }
        );
    }
    running.expect(GREETING).await;
}

#[tokio::test]
async fn a_reset_ends_the_guest_when_it_shall() {
    let mut bench = Bench::new();
    bench.spec.guest_reboot = GuestReboot::Terminate;
    let mut running = bench.start().await.unwrap();
    running.expect(GREETING).await;
    running.input.write_all(b"r").await.unwrap();
    assert_eq!(
        running.notable_event().await,
        VmEvent::GuestShutdown { reason: ShutdownReason::GuestReset, origin: Origin::Guest }
    );
    assert!(matches!(running.notable_event().await, VmEvent::Exited(report) if report.status.success()));
}

#[tokio::test]
async fn quit_and_kill_end_it_from_outside() {
    let mut running = Bench::new().start().await.unwrap();
    running.vm.quit().await.unwrap();
    assert_eq!(
        running.notable_event().await,
        VmEvent::GuestShutdown { reason: ShutdownReason::HostQuit, origin: Origin::Host }
    );
    assert!(matches!(running.notable_event().await, VmEvent::Exited(report) if report.status.success()));
    assert_eq!(running.vm.terminate(LIMIT).await, None, "the end has been told");

    let mut running = Bench::new().start().await.unwrap();
    running.vm.kill();
    let VmEvent::Exited(report) = running.notable_event().await else { panic!("no exit") };
    assert_eq!(report.status.signal(), Some(9));
}

#[tokio::test]
async fn a_paused_guest_waits_to_be_resumed() {
    let mut bench = Bench::new();
    bench.spec.initial_state = InitialState::Paused;
    let mut running = bench.start().await.unwrap();
    assert_eq!(running.vm.run_state().await.unwrap(), "prelaunch");
    assert_eq!(running.vm.machine_type().unwrap(), newest_q35());
    running.vm.resume().await.unwrap();
    assert_eq!(running.notable_event().await, VmEvent::Resumed);
    running.expect(GREETING).await;
    running.vm.pause().await.unwrap();
    assert_eq!(running.vm.run_state().await.unwrap(), "paused");
    assert_eq!(running.notable_event().await, VmEvent::Paused { reason: PauseReason::Requested });
    running.vm.reset().await.unwrap();
    let reset = VmEvent::GuestReset { reason: ShutdownReason::HostReset, origin: Origin::Host };
    assert_eq!(running.notable_event().await, reset);
    running.vm.resume().await.unwrap();
    assert_eq!(running.notable_event().await, VmEvent::Resumed);
    running.expect(GREETING).await;
}

/// What `q35` stands for, by QEMU's own list.
fn newest_q35() -> String {
    let output = Command::new("qemu-system-x86_64").args(["-machine", "help"]).output().unwrap();
    let list = String::from_utf8(output.stdout).unwrap();
    let line = list.lines().find(|line| line.starts_with("q35 ")).unwrap();
    let (_, alias) = line.rsplit_once("(alias of ").unwrap();
    alias.trim_end_matches(')').to_owned()
}

#[tokio::test]
async fn a_neglected_watchdog_bites_as_it_was_told() {
    for (action, word) in [(WatchdogAction::Poweroff, "poweroff"), (WatchdogAction::Reset, "reset")] {
        let mut bench = Bench::new();
        bench.spec.watchdog = Some(action);
        let mut running = bench.start().await.unwrap();
        running.expect(GREETING).await;
        running.input.write_all(b"w").await.unwrap();
        assert_eq!(running.notable_event().await, VmEvent::WatchdogFired { action: word.to_owned() });
        if action == WatchdogAction::Reset {
            let reset = VmEvent::GuestReset { reason: ShutdownReason::GuestReset, origin: Origin::Guest };
            assert_eq!(running.notable_event().await, reset);
            running.expect(GREETING).await;
        } else {
            // QEMU leaves on the spot, without a word of the shutdown.
            let VmEvent::Exited(report) = running.notable_event().await else { panic!("no exit") };
            assert!(report.status.success(), "{report:?}");
        }
    }
}

fn feature(name: &str, policy: FeaturePolicy) -> CpuFeature {
    CpuFeature { name: name.to_owned(), policy }
}

/// Every device at once, and every value of every setting at least once, in machines of several ages.
#[tokio::test]
async fn qemu_takes_every_setting() {
    type Change = fn(&mut LaunchSpec);
    let changes: [Change; 10] = [
        |spec| {
            spec.rng = true;
            spec.memory_balloon = true;
            spec.graphics = true;
            spec.inputs = vec![TabletBus::Usb, TabletBus::Virtio, TabletBus::Usb, TabletBus::Usb];
            spec.watchdog = Some(WatchdogAction::Shutdown);
            spec.panic_device = PanicDevice::Pci;
            spec.guest_reboot = GuestReboot::Terminate;
        },
        |spec| spec.inputs = vec![TabletBus::Usb; MAX_INPUTS],
        |spec| spec.acpi = Acpi::Off,
        |spec| {
            spec.timers = Timers { hpet: false, kvm_clock: false, rtc_catches_up: true, ..Timers::default() };
        },
        |spec| {
            spec.timers = Timers {
                pit: false,
                hyperv_clock: true,
                pit_ticks: Some(PitTicks::Discard),
                rtc_source: RtcSource::Guest,
                ..Timers::default()
            };
        },
        |spec| spec.clock = Clock::Utc { offset_seconds: i32::MIN },
        |spec| spec.clock = Clock::Utc { offset_seconds: i32::MAX },
        |spec| spec.clock = Clock::Zone { name: "Europe/Berlin".to_owned() },
        |spec| {
            spec.machine_type = "pc-q35-6.0".to_owned();
            spec.cpu_model = Some("max".to_owned());
            spec.cpu_features = vec![
                feature("sse4_1", FeaturePolicy::Require),
                feature("pclmuldq", FeaturePolicy::Require),
                feature("avx2", FeaturePolicy::Disable),
                feature("avx512f", FeaturePolicy::Optional),
                feature("cmp_legacy", FeaturePolicy::Force),
                feature("amx-tile", FeaturePolicy::Forbid),
            ];
        },
        |spec| {
            spec.cpu_model = Some("Haswell".to_owned());
            spec.cpu_features = vec![feature("erms", FeaturePolicy::Require)];
        },
    ];
    for change in changes {
        let mut bench = Bench::new();
        bench.spec.initial_state = InitialState::Paused;
        change(&mut bench.spec);
        let machine_type = bench.spec.machine_type.clone();
        let mut running = bench.start().await.unwrap();
        if machine_type != "q35" {
            assert_eq!(running.vm.machine_type().unwrap(), machine_type);
        }
        let report = running.vm.terminate(LIMIT).await.unwrap();
        assert!(report.status.success(), "{report:?}");
        // QEMU says of features what it left out, and nothing else.
        let complaints =
            report.stderr_tail.iter().filter(|line| !line.contains("TCG doesn't support requested feature"));
        assert_eq!(complaints.collect::<Vec<_>>(), Vec::<&String>::new());
    }
}

/// The error of a machine with one CPU feature.
async fn refusal_of(name: &str, policy: FeaturePolicy) -> StartError {
    let mut bench = Bench::new();
    bench.spec.cpu_features = vec![feature("sse2", FeaturePolicy::Require), feature(name, policy)];
    bench.start().await.err().unwrap_or_else(|| panic!("{name} is {policy:?} and the machine starts"))
}

#[tokio::test]
async fn a_cpu_feature_that_cannot_be_had_keeps_the_machine_from_starting() {
    // TCG has no AVX-512; SSE2 belongs to every x86_64.
    let error = refusal_of("avx512f", FeaturePolicy::Require).await;
    assert!(matches!(&error, StartError::FeatureMissing { feature } if feature == "avx512f"), "{error:?}");
    assert_eq!(error.to_string(), "the CPU feature `avx512f` is required, and this host cannot provide it");
    assert_eq!((error.fault(), error.hint().is_some()), (Fault::Setup, true));

    let error = refusal_of("sse4_2", FeaturePolicy::Forbid).await;
    assert!(matches!(&error, StartError::FeatureForbidden { feature } if feature == "sse4_2"), "{error:?}");
    assert_eq!((error.fault(), error.hint().is_some()), (Fault::Setup, true));

    for policy in [FeaturePolicy::Require, FeaturePolicy::Optional, FeaturePolicy::Disable] {
        let error = refusal_of("turbo", policy).await;
        assert!(error.to_string().contains("Property 'max-x86_64-cpu.turbo' not found"), "{error}");
        assert_eq!(error.fault(), Fault::Setup);
        assert!(error.hint().unwrap().contains("-cpu help"));
    }
}

/// QEMU's own parser decides whether the escaping is right.
#[tokio::test]
async fn commas_and_odd_texts_reach_qemu_whole() {
    let mut bench = Bench::inside("a,b,,id=c d");
    bench.spec.name = "x,process=y,debug-threads=off".to_owned();
    bench.spec.smbios.serial = Some("1,uuid=nonsense,,".to_owned());
    bench.spec.smbios.chassis.asset = Some("type=1,".to_owned());
    bench.spec.command_line = "a,b=\"c d\" ,,".to_owned();
    bench.spec.cpus = CpuTopology { sockets: 1, cores: 2, threads: 2 };
    bench.spec.memory_bytes = (64 << 20) + 8192;
    bench.spec.rng = true;
    bench.spec.panic_device = PanicDevice::Pci;
    let mut running = bench.start().await.unwrap();
    running.expect(GREETING).await;
    let arguments = std::fs::read(format!("/proc/{}/cmdline", running.vm.process_id())).unwrap();
    assert!(
        String::from_utf8_lossy(&arguments)
            .contains("guest=x,,process=y,,debug-threads=off,debug-threads=on")
    );
}

#[tokio::test]
async fn what_qemu_says_of_its_failure_is_kept() {
    let mut bench = Bench::new();
    bench.spec.kernel = bench.run_directory().join("absent");
    let error = bench.start().await.err().unwrap();
    let StartError::Exited { status, stderr } = &error else { panic!("{error:?}") };
    assert_eq!(status.code(), Some(1));
    assert!(stderr.iter().any(|line| line.contains("could not open kernel file")), "{stderr:?}");
    assert!(error.hint().unwrap().contains("readable"), "{:?}", error.hint());
    assert_eq!(error.fault(), Fault::Setup);

    let mut bench = Bench::new();
    bench.spec.cpu_model = Some("Abacus".to_owned());
    let error = bench.start().await.err().unwrap();
    assert!(error.to_string().contains("unable to find CPU model 'Abacus'"), "{error}");
    assert!(error.hint().unwrap().contains("-cpu help"));
    assert_eq!(error.fault(), Fault::Setup);

    let mut bench = Bench::new();
    bench.spec.machine_type = "pc-q35-99".to_owned();
    let error = bench.start().await.err().unwrap();
    assert!(error.hint().unwrap().contains("-machine help"));
    assert_eq!(error.fault(), Fault::Setup);

    let mut bench = Bench::new();
    bench.facts.qemu.binary = bench.run_directory().join("absent");
    bench.facts.qemu.installation = None;
    let error = bench.start().await.err().unwrap();
    assert!(error.to_string().contains("cannot start QEMU: cannot execute"), "{error}");
    assert_eq!(error.fault(), Fault::Setup);

    if rustix::process::geteuid().is_root() {
        let mut bench = Bench::new();
        // In a view of its own QEMU would not see the directories on the way.
        bench.facts.namespaces = Namespaces::Refused { reason: "of the test".to_owned() };
        let closed = std::fs::Permissions::from_mode(0o700);
        std::fs::set_permissions(bench.directory.path(), closed).unwrap();
        bench.facts.run_as = RunAs::User { uid: QEMU_UID, gid: QEMU_GID, groups: vec![] };
        let error = bench.start().await.err().unwrap();
        assert!(error.to_string().contains("Failed to unlink socket"), "{error}");
        assert!(error.hint().unwrap().contains("mode 0711"));
    }

    let mut bench = Bench::new();
    bench.spec.memory_bytes = bench.facts.memory_bytes + 1;
    let error = bench.start().await.err().unwrap();
    assert!(matches!(error, StartError::Spec { .. }), "{error:?}");
}

/// One line of `/proc/PID/status`.
fn status_line(process_id: u32, name: &str) -> Vec<String> {
    let status = std::fs::read_to_string(format!("/proc/{process_id}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap();
    line.split_whitespace().map(str::to_owned).collect()
}

#[tokio::test]
async fn qemu_runs_without_privileges() {
    let mut bench = Bench::new();
    let as_root = rustix::process::geteuid().is_root();
    if as_root {
        let open = std::fs::Permissions::from_mode(0o711);
        std::fs::set_permissions(bench.directory.path(), open.clone()).unwrap();
        std::fs::set_permissions(bench.run_directory(), open).unwrap();
        bench.facts.run_as = RunAs::User { uid: QEMU_UID, gid: QEMU_GID, groups: vec![65533] };
    }
    let mut running = bench.start().await.unwrap();
    running.expect(GREETING).await;
    let id = running.vm.process_id();
    assert_eq!(status_line(id, "NoNewPrivs"), ["1"]);
    if bench.facts.qemu.sandbox == vmm::Sandbox::Available {
        assert_eq!(status_line(id, "Seccomp"), ["2"]);
    }
    if as_root {
        assert_eq!(status_line(id, "Uid"), ["107"; 4]);
        assert_eq!(status_line(id, "Gid"), ["107"; 4]);
        assert_eq!(status_line(id, "Groups"), ["65533"]);
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert_eq!(status_line(id, set), ["0000000000000000"], "{set}");
        }
    }
    // A process group of its own: Ctrl-C on our terminal is not for QEMU.
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap();
    let group = stat.rsplit_once(')').unwrap().1.split_whitespace().nth(2).unwrap();
    assert_eq!(group, id.to_string());
    running.input.write_all(b"q").await.unwrap();
    assert!(matches!(running.notable_event().await, VmEvent::GuestShutdown { .. }));
}

#[tokio::test]
async fn qemu_sees_its_own_files_alone() {
    let mut bench = Bench::new();
    bench.spec.rng = true;
    let mut running = bench.start().await.unwrap();
    running.expect(GREETING).await;
    let id = running.vm.process_id();
    let of_process = |name: &str| std::path::PathBuf::from(format!("/proc/{id}/{name}"));
    // QEMU that stays root may still open any file; of those that it sees.
    let (capabilities, other, ids) = match &bench.facts.namespaces {
        Namespaces::Usable => ("0000000000000002", "pid", vec![id.to_string(), "1".to_owned()]),
        Namespaces::UsableByUser => ("0000000000000000", "user", vec![id.to_string()]),
        refused => {
            assert!(
                !rustix::process::geteuid().is_root() || bench.facts.unconfined().is_some(),
                "{refused:?}"
            );
            eprintln!("skipped: {refused:?}");
            return;
        }
    };
    assert_eq!(status_line(id, "CapBnd"), [capabilities]);
    assert_eq!(status_line(id, "CapEff"), [capabilities]);
    for namespace in ["mnt", "net", "ipc", "uts", other] {
        let link = format!("ns/{namespace}");
        let own = std::fs::read_link(format!("/proc/self/{link}")).unwrap();
        assert_ne!(std::fs::read_link(of_process(&link)).unwrap(), own, "{namespace}");
    }
    assert_eq!(status_line(id, "NSpid"), ids);
    let interfaces = std::fs::read_to_string(of_process("net/dev")).unwrap();
    assert_eq!(interfaces.lines().skip(2).filter(|line| !line.trim_start().starts_with("lo:")).count(), 0);

    let root = of_process("root");
    let kernel = root.join(bench.spec.kernel.strip_prefix("/").unwrap());
    assert_eq!(std::fs::read(&kernel).unwrap(), tiny_guest());
    let run_directory = kernel.parent().unwrap();
    let names = |directory: &std::path::Path| -> Vec<String> {
        let entries = std::fs::read_dir(directory).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    };
    assert_eq!(names(run_directory), ["kernel", "qemu"]);
    assert_eq!(names(&run_directory.join("qemu")), ["qmp.sock"]);
    assert_eq!(names(&root.join("dev")), ["urandom"]);
    for absent in ["proc", "sys", "root", "home", "bin/sh", "etc/passwd", "usr/bin/env"] {
        assert!(!root.join(absent).exists(), "{absent}");
    }
    // Every mount but the machine's own directory and the devices is read-only: proc_pid_mountinfo(5).
    let mounts = std::fs::read_to_string(of_process("mountinfo")).unwrap();
    let writable: Vec<&str> = mounts
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>())
        .filter(|fields| fields[5].split(',').any(|option| option == "rw"))
        .map(|fields| fields[4])
        .collect();
    let own = bench.run_directory().join("qemu");
    assert_eq!(writable, ["/dev/urandom", own.to_str().unwrap()], "{mounts}");
    assert!(mounts.lines().all(|line| line.contains("nosuid")), "{mounts}");
}

/// The same once more as a user, where this is root.
#[test]
fn qemu_of_an_ordinary_user_sees_its_own_files_alone() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    // Where that user can run them.
    let directory = tempfile::tempdir().unwrap();
    let (test, example) = (directory.path().join("deps/test"), directory.path().join("examples/boot"));
    for (from, to) in [(std::env::current_exe().unwrap(), &test), (boot_example(), &example)] {
        std::fs::create_dir(to.parent().unwrap()).unwrap();
        std::fs::copy(from, to).unwrap();
    }
    let (user, open) = (65534, std::fs::Permissions::from_mode(0o755));
    std::fs::set_permissions(directory.path(), open).unwrap();
    let files = directory.path().join("files");
    std::fs::create_dir(&files).unwrap();
    std::os::unix::fs::chown(&files, Some(user), Some(user)).unwrap();
    let output = Command::new(&test)
        .args(["--exact", "qemu_sees_its_own_files_alone", "--nocapture"])
        .env("TMPDIR", &files)
        .current_dir(&files)
        .uid(user)
        .gid(user)
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    assert!(output.status.success() && said[0].contains("1 passed"), "{}\n{}", said[0], said[1]);
    if let Some(skipped) = said[1].lines().find(|line| line.starts_with("skipped")) {
        eprintln!("{skipped}");
    }
}

#[test]
fn qemu_ends_when_its_supervisor_is_killed() {
    let directory = tempfile::tempdir().unwrap();
    let kernel = directory.path().join("kernel");
    std::fs::write(&kernel, tiny_guest()).unwrap();
    // As root, QEMU runs as another user; taking other credentials must not lose the death signal.
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o711)).unwrap();
    let mut supervisor = Command::new(boot_example())
        .arg(&kernel)
        .env("TMPDIR", directory.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = String::new();
    BufReader::new(supervisor.stderr.as_mut().unwrap()).read_line(&mut said).unwrap();
    let id: i32 = said.trim().strip_prefix("process ").unwrap_or_else(|| panic!("{said}")).parse().unwrap();
    if rustix::process::geteuid().is_root() {
        assert_eq!(status_line(id.unsigned_abs(), "Uid"), ["107"; 4]);
    }
    let qemu = pidfd_open(Pid::from_raw(id).unwrap(), PidfdFlags::empty()).unwrap();

    // Children of other tests in this process end too, and each interrupts the wait.
    let mut waiting = [PollFd::new(&qemu, PollFlags::IN)];
    let mut ended_within = |limit: Timespec| retry_on_intr(|| poll(&mut waiting, Some(&limit))).unwrap();
    assert_eq!(ended_within(Timespec { tv_sec: 0, tv_nsec: 0 }), 0, "QEMU runs");
    supervisor.kill().unwrap();
    let limit = Timespec { tv_sec: LIMIT.as_secs().try_into().unwrap(), tv_nsec: 0 };
    assert_eq!(ended_within(limit), 1, "QEMU outlives its supervisor");
    supervisor.wait().unwrap();
}

/// What `program` says when the example has become it, started with a secret in the environment and descriptors
/// that are not for it.
fn behind_a_trampoline(program: &[&str]) -> String {
    let secret = tempfile::NamedTempFile::new().unwrap();
    let mut command = Command::new("/bin/sh");
    command.args(["-c", r#"exec 3<"$SECRET_FILE" 7<"$SECRET_FILE"; exec "$0" "$@""#]);
    command.arg(boot_example()).args(["__exec", "--parent", &std::process::id().to_string()]);
    if rustix::process::geteuid().is_root() {
        command.args(["--uid", "107", "--gid", "107", "--groups", ""]);
    }
    command.arg("--").args(program);
    command.env("SECRET", "x").env("LD_LIBRARY_PATH", "/nowhere").env("SECRET_FILE", secret.path());
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_environment_of_the_caller_is_not_for_qemu() {
    assert_eq!(behind_a_trampoline(&["/usr/bin/env"]), format!("PATH={}\n", std::env::var("PATH").unwrap()));
}

#[test]
fn the_descriptors_of_the_caller_are_not_for_qemu() {
    // The shell looks only; `ls` would see the one with which it reads the directory.
    let look = "for number in 0 1 2 3 4 5 6 7 8 9; do [ -e /proc/$$/fd/$number ] && echo $number; done; :";
    assert_eq!(behind_a_trampoline(&["/bin/sh", "-c", look]), "0\n1\n2\n");
}

#[test]
fn a_trampoline_without_its_parent_starts_nothing() {
    // Process 1 is nobody's parent here but of orphans, and this process is none of those while it waits.
    let output = Command::new(boot_example())
        .args(["__exec", "--parent", "1", "--", "/bin/echo", "started"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(vmm::process::TRAMPOLINE_EXIT_CODE));
    assert_eq!(output.stdout, b"");
    assert_eq!(
        String::from_utf8(output.stderr).unwrap(),
        "cannot start QEMU: the parent process 1 has ended\n"
    );
}
