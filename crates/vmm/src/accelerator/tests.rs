#![allow(clippy::unwrap_used)]
use std::os::unix::fs::PermissionsExt;

use std::path::Path;

use super::*;

/// Not a test: the process that the tests start as the helper. The harness runs it on request only.
#[test]
#[ignore = "the helper process of other tests"]
fn helper_process() {
    if std::env::args().any(|argument| argument == HELPER_COMMAND) {
        std::process::exit(helper_main());
    }
}

fn helper() -> Helper {
    let arguments = ["accelerator::tests::helper_process", "--exact", "--ignored", "--nocapture", "--"];
    Helper { program: std::env::current_exe().unwrap(), arguments: arguments.map(str::to_owned).into() }
}

/// Stands for the trampoline, which only the binary is: drops the trampoline's own arguments and becomes the rest.
fn stand_in(directory: &Path) -> Trampoline {
    let script = directory.join("trampoline");
    std::fs::write(&script, "#!/bin/sh\nwhile [ \"$1\" != -- ]; do shift; done\nshift\nexec \"$@\"\n")
        .unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    Trampoline::program(script)
}

#[allow(clippy::disallowed_methods)] // a test has nobody who resolves the environment for it
fn qemu() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap();
    let mut candidates = std::env::split_paths(&path).map(|directory| directory.join("qemu-system-x86_64"));
    candidates.find(|candidate| candidate.is_file()).expect("QEMU is installed by `make tools`")
}

/// A request with its own directory, which lives as long as the value beside it.
fn request() -> (ProbeRequest, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let request = ProbeRequest {
        qemu: qemu(),
        machine: "q35".to_owned(),
        cpu_model: "max".to_owned(),
        run_as: RunAs::Caller,
        trampoline: stand_in(directory.path()),
        helper: helper(),
        cache: Some((directory.path().join("cache"), CacheUse::Reuse)),
    };
    (request, directory)
}

#[test]
fn the_choice_is_read_as_it_is_written() {
    for choice in [AcceleratorChoice::Auto, AcceleratorChoice::Kvm, AcceleratorChoice::Tcg] {
        assert_eq!(choice.to_string().parse(), Ok(choice));
    }
    let error = "xen".parse::<AcceleratorChoice>().unwrap_err();
    assert_eq!(error.to_string(), "`xen` is not an accelerator: `auto`, `kvm` and `tcg` are");
}

#[test]
fn tcg_asked_for_probes_nothing() {
    let (mut request, _directory) = request();
    request.helper.program = PathBuf::from("/nonexistent");
    let chosen = choose(AcceleratorChoice::Tcg, &request).unwrap();
    assert_eq!(chosen.kvm, None);
    assert_eq!(chosen.accelerator, Accelerator::Tcg { reason: "it was asked for".to_owned() });
}

/// Long enough for any machine that gets there at all.
const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn qemu_runs_the_smallest_guest_as_the_second_stage_does() {
    let (request, _directory) = request();
    assert_eq!(qemu_check::start_with(&request, "tcg", MINUTE, MINUTE), Ok(()));
}

#[test]
fn a_cpu_model_that_qemu_refuses_is_a_reason_with_its_words() {
    let (request, _directory) = request();
    let request = ProbeRequest { cpu_model: "no-such-model".to_owned(), ..request };
    let obstacle = qemu_check::start_with(&request, "tcg", MINUTE, MINUTE).unwrap_err();
    let Obstacle::Lasting(unusable) = obstacle else { panic!("{obstacle:?}") };
    let ours = "KVM runs a guest, but QEMU with `-machine q35,accel=tcg -cpu no-such-model` failed (exit status: 1): ";
    let words = unusable.reason.strip_prefix(ours).unwrap_or_else(|| panic!("{}", unusable.reason));
    assert!(words.ends_with("unable to find CPU model 'no-such-model'"), "{words}");
}

#[test]
fn a_helper_that_says_nothing_is_no_lasting_verdict() {
    let (mut request, directory) = request();
    request.helper =
        Helper { program: PathBuf::from("/bin/sh"), arguments: vec!["-c".into(), "echo why >&2".into()] };
    let owner = DeviceOwner { uid: 0, gid: 0, mode: 0o600 };
    assert_eq!(
        run_test_guest(&request, owner, MINUTE, MINUTE),
        Err(Obstacle::Passing(KvmUnusable::new(
            "the process that tests KVM ended without an answer (exit status: 0: why)"
        )))
    );
    probe(&request);
    assert!(!directory.path().join("cache").exists());
}

/// What a helper that answers `outcome` makes of KVM.
fn answered(outcome: &GuestOutcome) -> Result<KvmMeasurement, Obstacle> {
    let (mut request, _directory) = request();
    let answer = format!("echo 'kvm-probe: {}'", serde_json::to_string(outcome).unwrap());
    request.helper = Helper { program: PathBuf::from("/bin/sh"), arguments: vec!["-c".into(), answer] };
    let owner = DeviceOwner { uid: 0, gid: 0, mode: 0o600 };
    run_test_guest(&request, owner, MINUTE, MINUTE)
}

#[test]
fn every_answer_of_the_helper_has_its_verdict() {
    let measured = KvmMeasurement { instructions: guest_image::INSTRUCTIONS, microseconds: 1900 };
    assert_eq!(answered(&GuestOutcome::Ran { microseconds: 1900 }), Ok(measured));
    let stopped = GuestOutcome::Stopped { how: "triple fault".to_owned() };
    let expected = KvmUnusable::new("KVM did not run the test guest to its end: triple fault");
    assert_eq!(answered(&stopped), Err(Obstacle::Lasting(expected)));
    let busy = GuestOutcome::Failed { doing: "create a virtual machine".to_owned(), errno: 16 };
    let expected = KvmUnusable::with_hint(
        "KVM refused to create a virtual machine: Device or resource busy (os error 16)",
        "another hypervisor (VirtualBox, VMware) holds the CPU; stop it",
    );
    assert_eq!(answered(&busy), Err(Obstacle::Passing(expected)));
    let denied = answered(&GuestOutcome::CannotOpen { errno: 13 });
    assert!(matches!(denied, Err(Obstacle::Lasting(_))), "{denied:?}");
    let expected = KvmUnusable::with_hint(
        "cannot open `/dev/kvm`: No such device (os error 19)",
        "is the module for this CPU loaded? `sudo dmesg | grep -i kvm` says why it may not be",
    );
    assert_eq!(answered(&GuestOutcome::CannotOpen { errno: 19 }), Err(Obstacle::Passing(expected)));
}

#[test]
fn permission_denied_says_whose_the_device_is_and_what_to_do() {
    let private = DeviceOwner { uid: 0, gid: 0, mode: 0o600 };
    let shared = DeviceOwner { uid: 0, gid: 36, mode: 0o660 };
    let qemu = RunAs::User { uid: 107, gid: 107, groups: Vec::new() };
    let chmod = "`sudo chgrp kvm /dev/kvm && sudo chmod 0660 /dev/kvm`";
    for (run_as, device, reason, hint) in [
        (
            &RunAs::Caller,
            shared,
            "`/dev/kvm` (0:36 mode 0660) does not open for this user: permission denied",
            "add yourself to its group with `sudo usermod -aG kvm \"$USER\"` and log in again".to_owned(),
        ),
        (
            &RunAs::Caller,
            private,
            "`/dev/kvm` (0:0 mode 0600) does not open for this user: permission denied",
            format!("{chmod}, then be a member of group kvm"),
        ),
        (
            &qemu,
            private,
            "`/dev/kvm` (0:0 mode 0600) does not open for 107:107, which QEMU runs as",
            format!("{chmod}, as a distribution's udev rule does"),
        ),
    ] {
        assert_eq!(cannot_open(run_as, device, 13), KvmUnusable::with_hint(reason, hint));
    }
}

#[test]
fn an_absent_device_is_explained_by_the_cpu() {
    let load = |module| {
        format!(
            "the CPU has virtualisation: load the module with `sudo modprobe {module}`; in a container, pass the device in"
        )
    };
    let none = "the CPU shows no virtualisation (neither vmx nor svm): switch it on in the firmware's setup, or, in a \
                virtual machine, switch on nested virtualisation for it";
    for (cpus, hint) in [
        ("model name\t: x\nflags\t\t: fpu vmx\nvmx flags\t: vnmi\n", load("kvm_intel")),
        ("flags\t\t: svm fpu\n", load("kvm_amd")),
        ("flags\t\t: fpu\nvmx flags\t: svm vmx\n", none.to_owned()),
        ("", none.to_owned()),
    ] {
        assert_eq!(absent(cpus), KvmUnusable::with_hint("there is no `/dev/kvm`", hint), "{cpus}");
    }
}

#[test]
fn a_guest_that_is_killed_is_reported_with_how_far_it_came() {
    let memory = guest_image::memory().unwrap();
    let text =
        |memory: &File| too_slow(memory, Duration::from_millis(250), Duration::from_millis(403)).reason;
    assert_eq!(
        text(&memory),
        "`/dev/kvm` opens, but KVM's test guest executed 0 of 4718592 instructions in 250 ms of CPU time (403 ms in \
         all), where hardware takes about 2 ms for all of them: the host emulates the guest"
    );
    memory.write_all_at(&0x7_0000u32.to_le_bytes(), guest_image::PROGRESS).unwrap();
    assert!(text(&memory).contains(" executed 589824 of 4718592 "), "{}", text(&memory));
}

/// The only file in `cache`.
fn verdict_in(cache: &Path) -> PathBuf {
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(cache).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(files.len(), 1, "{files:?}");
    files.remove(0)
}

/// Whatever this machine is, the probe comes to an answer, and does not come to it twice.
#[test]
fn a_verdict_is_taken_from_the_cache_until_what_it_depends_on_changes() {
    let (first_request, directory) = request();
    let first = probe(&first_request);
    let cache = directory.path().join("cache");
    if !Path::new(KVM_DEVICE).exists() {
        let KvmStatus::Unusable(unusable) = first else { panic!("{first:?}") };
        assert_eq!(unusable.reason, "there is no `/dev/kvm`");
        assert!(!cache.exists(), "a device may appear at any time");
        return;
    }
    let mut request = first_request.clone();
    request.trampoline = Trampoline::program("/nonexistent");
    assert_eq!(probe(&request), first, "from {}", std::fs::read_to_string(verdict_in(&cache)).unwrap());
    let afresh = KvmStatus::Unusable(KvmUnusable::new(
        "cannot run the process that tests KVM: No such file or directory (os error 2)",
    ));
    let others: [&dyn Fn(&mut ProbeRequest); 5] = [
        &|request| request.cpu_model = "host".to_owned(),
        &|request| request.machine = "microvm".to_owned(),
        &|request| request.qemu = PathBuf::from("/bin/sh"),
        &|request| request.run_as = RunAs::User { uid: 107, gid: 107, groups: vec![36] },
        &|request| request.cache = Some((cache.clone(), CacheUse::Refresh)),
    ];
    for (index, change) in others.iter().enumerate() {
        let mut request = request.clone();
        change(&mut request);
        assert_eq!(probe(&request), afresh, "change {index}");
    }
    assert_eq!(probe(&request), first, "passing failures replace no verdict");
    let verdict = verdict_in(&cache);
    for damage in ["", "{", "null"] {
        std::fs::write(&verdict, damage).unwrap();
        assert_eq!(probe(&request), afresh, "{damage}");
    }
}

#[test]
fn kvm_demanded_and_unusable_is_an_error_and_auto_falls_back() {
    let (mut request, _directory) = request();
    request.trampoline = Trampoline::program("/nonexistent");
    let KvmStatus::Unusable(unusable) = probe(&request) else { panic!("nothing was there to run") };
    let chosen = choose(AcceleratorChoice::Auto, &request).unwrap();
    assert_eq!(chosen.accelerator, Accelerator::Tcg { reason: unusable.reason.clone() });
    assert_eq!(chosen.kvm, Some(KvmStatus::Unusable(unusable.clone())));
    let error = choose(AcceleratorChoice::Kvm, &request).unwrap_err();
    assert_eq!(error.to_string(), format!("cannot use KVM as asked: {}", unusable.reason));
    let hint = error.hint().unwrap();
    assert!(hint.ends_with("`--accel auto` runs the guest under TCG, slower, without KVM"), "{hint}");
}
