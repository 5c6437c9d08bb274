//! What a launcher finds in its Pod's directory, and what becomes of it when that is not right.

use std::fs;
use std::os::unix::fs::symlink;

use launcher::pod_dir::LauncherRecord;
use manifest::machine_status::{MachineState, StateReason};
use serde_json::json;

use crate::pod::{Pod, fixture, instance, read, wait_for};

#[test]
fn there_is_one_launcher_in_a_pod() {
    let pod = Pod::new();
    let launcher = pod.start(30);
    let before: LauncherRecord = read(&pod.dir.launcher_record()).unwrap();
    let second = pod.command(30).output().unwrap();
    assert_eq!(second.status.code(), Some(1));
    let said = String::from_utf8(second.stderr).unwrap();
    assert_eq!(said, format!("error: another launcher holds `{}`\n", pod.dir.lock().display()));
    assert_eq!(read(&pod.dir.launcher_record()), Some(before));
    launcher.ask(async |client, at| client.status(at, 9).await).unwrap();
}

#[test]
fn a_launcher_without_certificates_says_which_are_missing() {
    let pod = Pod::new();
    fs::remove_file(pod.dir.tls().join("tls.key")).unwrap();
    let output = pod.command(30).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.starts_with("error: cannot use `") && said.contains("tls/tls.key`"), "{said}");
    assert!(!pod.dir.launcher_record().exists());
}

#[test]
fn a_launcher_stands_alone() {
    let pod = Pod::new();
    let launcher = pod.start(30);
    let process = launcher.pid().as_raw_nonzero();
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    // proc_pid_stat(5): after the name come state, parent, process group, session.
    let session = stat.rsplit_once(") ").unwrap().1.split(' ').nth(3).unwrap();
    assert_eq!(session, process.to_string());
    for stream in 0..=2 {
        // Given up once it listens, which its record says a moment earlier.
        wait_for("let go of the standard streams", || {
            let target = fs::read_link(format!("/proc/{process}/fd/{stream}")).unwrap();
            (target.to_str() == Some("/dev/null")).then_some(())
        });
    }
}

#[test]
fn what_cannot_be_booted_is_told_and_tried_again() {
    let pod = Pod::new();
    let mut launcher = pod.start(30);
    let wanted = instance("guest=none", json!({}));
    let refused = |expected: &str| {
        let status = launcher.put(&wanted);
        let error = status.sync_error.expect("an error");
        assert!(error.contains(expected), "no `{expected}` in: {error}");
        assert_eq!(status.state, MachineState::None);
    };
    let (kernel, initrd) =
        (pod.file("/boot/vmlinuz", &fixture("vmlinuz")), pod.file("/boot/initrd", &fixture("initrd")));

    pod.image(vec![kernel.clone()]);
    refused("cannot boot the initrd `/boot/initrd` of the image `demo/kernel:1`");
    let mut secret = kernel.clone();
    secret.mode = 0o600;
    secret.uid = 0;
    secret.gid = 0;
    pod.image(vec![secret, initrd.clone()]);
    refused("the kernel `/boot/vmlinuz` of the image is not readable by QEMU (107:107)");
    pod.image(vec![pod.file("/boot/vmlinuz", &fixture("versions")), initrd.clone()]);
    refused("cannot boot `/boot/vmlinuz` of the image `demo/kernel:1`: ");
    fs::write(pod.dir.image_volume("kernel-boot-volume"), "{").unwrap();
    refused("cannot read the image volume's record `");

    pod.image(vec![kernel, initrd]);
    let status = launcher.boot(&wanted);
    assert_eq!(status.state, MachineState::Running);
    launcher.expect_end(0, MachineState::ShutOff, StateReason::Shutdown);
}

#[test]
fn a_console_log_on_a_full_disk_stops_no_guest() {
    let pod = Pod::new();
    let log = pod.dir.log("guest-console-log");
    fs::create_dir_all(log.parent().unwrap()).unwrap();
    symlink("/dev/full", &log).unwrap();
    let mut launcher = pod.start(30);
    launcher.boot(&instance("guest=spam", json!({})));
    launcher.expect_end(0, MachineState::ShutOff, StateReason::Shutdown);
}
