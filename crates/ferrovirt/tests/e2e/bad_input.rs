//! Manifests, files and images that are wrong: each is refused with what is wrong and what to do.

use std::fs;
use std::process::Command;

use crate::harness::{Fixtures, Outcome, Session, World, manifest};
use crate::real_registry::RealRegistry;

/// Boots `kernel` (bytes of a file) and expects a refusal.
fn refused_kernel(bytes: &[u8], words: &[&str]) {
    let world = World::new();
    let kernel = world.file("the-kernel", bytes);
    let outcome = world.ferrovirt([
        "run",
        "--accel=tcg",
        "--append=console=ttyS0",
        &format!("--kernel={}", kernel.display()),
    ]);
    outcome.expect_refusal(&[&["the-kernel"], words].concat());
}

fn run_manifest(text: &str) -> Outcome {
    let world = World::new();
    world.file("vm.yaml", text);
    world.ferrovirt(["run", "--accel=tcg", "-f", "vm.yaml"])
}

#[test]
fn a_file_that_is_no_kernel_is_called_what_it_is() {
    refused_kernel(b"", &["empty"]);
    refused_kernel(b"#!/bin/sh\necho this is a script\n", &["script"]);
    refused_kernel(&fs::read(Fixtures::path("initrd")).unwrap(), &["initrd"]);
    refused_kernel(&fs::read(env!("CARGO_BIN_EXE_ferrovirt")).unwrap()[..1 << 20], &["ELF"]);
    refused_kernel(&[0xa5; 100_000], &[]);
    // The head of a kernel alone: a download that was cut short.
    refused_kernel(&fs::read(Fixtures::path("vmlinuz")).unwrap()[..10_000], &[]);
}

#[test]
fn a_kernel_for_another_architecture_is_refused() {
    // The header of an arm64 `Image` (Documentation/arch/arm64/booting.rst): the magic number is at byte 56.
    let mut image = vec![0; 1 << 16];
    image[16..24].copy_from_slice(&(1u64 << 16).to_le_bytes());
    image[56..60].copy_from_slice(b"ARM\x64");
    refused_kernel(&image, &["arm64"]);

    let world = World::new();
    let kernel = world.file("arm64.image", &image);
    let kernel = kernel.display().to_string();
    let outcome = world.ferrovirt(["image", "build", "--tag", "demo/wrong:1", "--kernel", &kernel]);
    outcome.expect_refusal(&["arm64"]);
}

#[test]
fn files_that_are_not_there_are_named() {
    let world = World::new();
    let outcome = world.ferrovirt(["run", "--accel=tcg", "--kernel=no/such/kernel"]);
    outcome.expect_refusal(&["no/such/kernel"]);
    let kernel = format!("--kernel={}", Fixtures::path("vmlinuz").display());
    world
        .ferrovirt(["run", "--accel=tcg", &kernel, "--initrd=no/such/initrd"])
        .expect_refusal(&["no/such/initrd"]);
    world.ferrovirt(["run", "--accel=tcg", "-f", "no/such.yaml"]).expect_refusal(&["no/such.yaml"]);
    world.ferrovirt(["image", "load", "--input", "no/such.tar"]).expect_refusal(&["no/such.tar"]);
    world.ferrovirt(["image", "inspect", "no/such:image"]).expect_refusal(&["no/such:image"]);
}

#[test]
fn an_initrd_needs_a_kernel() {
    let initrd = format!("--initrd={}", Fixtures::path("initrd").display());
    let outcome = World::new().ferrovirt(["run", "--accel=tcg", &initrd]);
    assert!(matches!(outcome.code(), Some(1 | 2)), "refused: {outcome}");
    let outcome = outcome.expect_stderr("kernel");
    assert_eq!(outcome.stdout, "", "{outcome}");

    let text = manifest("initrd-only", "demo/x:1", "Never", "console=ttyS0");
    let text = text.replace("              kernelPath: /boot/vmlinuz-virt\n", "");
    run_manifest(&text).expect_code(1).expect_stderr("spec.template.spec.domain.firmware.kernelBoot");
}

#[test]
fn more_memory_than_the_host_has_is_refused() {
    let world = World::new();
    world.file("vm.yaml", manifest("huge", "demo/x:1", "Never", "console=ttyS0").replace("256Mi", "64Ti"));
    world.boot("", &["-f", "vm.yaml"]).expect_refusal(&["64", "memory"]);
}

#[test]
fn malformed_manifests_are_refused_with_line_and_column() {
    let broken =
        manifest("broken", "demo/x:1", "Never", "console=ttyS0").replace("metadata:\n", "metadata: [\n");
    run_manifest(&broken)
        .expect_code(1)
        .expect_stderr("vm.yaml")
        .expect_stderr("line ")
        .expect_stderr("column ");
    run_manifest("{\"kind\": ").expect_code(1).expect_stderr("line 1").expect_stderr("column ");
    run_manifest("").expect_code(1).expect_stderr("vm.yaml");
    run_manifest("kind: ConfigMap\napiVersion: v1\nmetadata: {name: x}\n")
        .expect_code(1)
        .expect_stderr("VirtualMachine");
}

#[test]
fn unknown_and_unsupported_fields_are_refused_by_path() {
    let text = manifest("unknown", "demo/x:1", "Never", "console=ttyS0");
    run_manifest(&text.replace("kernelArgs", "kernalArgs"))
        .expect_code(1)
        .expect_stderr("spec.template.spec.domain.firmware.kernelBoot.kernalArgs");
    let disks = text.replace("devices: {}", "devices: {disks: [{name: root, disk: {bus: virtio}}]}");
    run_manifest(&disks).expect_code(1).expect_stderr("spec.template.spec.domain.devices.disks");
}

#[test]
fn every_fault_of_a_manifest_is_said_at_once() {
    let text = manifest("Not_A_Name", "demo/x:1", "Sometimes", "console=ttyS0").replace("256Mi", "lots");
    let outcome = run_manifest(&text).expect_code(1);
    assert_eq!(outcome.stdout, "", "{outcome}");
    let text = manifest("faults", "demo/x:1", "Never", "console=ttyS0")
        .replace("              kernelPath: /boot/vmlinuz-virt\n", "")
        .replace("devices: {}", "cpu: {model: host-passthrough, sockets: 0}\n        devices: {}")
        .replace("256Mi", "-1");
    let outcome = run_manifest(&text).expect_code(1).expect_stderr("kernelBoot").expect_stderr("memory");
    assert_eq!(outcome.stdout, "", "{outcome}");
}

#[test]
fn one_of_several_machines_must_be_named() {
    let world = World::new();
    let text =
        manifest("first", "demo/x:1", "Never", "") + "---\n" + &manifest("second", "demo/x:1", "Never", "");
    world.file("vms.yaml", text);
    let outcome = world.ferrovirt(["run", "-f", "vms.yaml"]);
    assert!(matches!(outcome.code(), Some(1 | 2)), "{outcome}");
    outcome.expect_stderr("--name").expect_stderr("first").expect_stderr("second");
    let outcome = world.ferrovirt(["run", "-f", "vms.yaml", "--name=third"]);
    outcome.expect_code(1).expect_stderr("third").expect_stderr("first");
}

#[test]
fn usage_has_a_code_of_its_own() {
    for arguments in
        [&["run", "--no-such-flag"][..], &["run"], &["frobnicate"], &[], &["run", "--timeout=soon"]]
    {
        let outcome = World::new().ferrovirt(arguments).expect_code(2);
        assert_eq!(outcome.stdout, "", "{outcome}");
    }
    for set in ["--set=nonsense", "--set=a..b=1"] {
        let outcome = World::new().boot("", &[set]);
        assert!(matches!(outcome.code(), Some(1 | 2)), "{outcome}");
        outcome.expect_stderr(set.trim_start_matches("--set=").split('=').next().unwrap());
    }
}

#[test]
fn a_full_disk_leaves_nothing_half_written_behind() {
    let registry = RealRegistry::start();
    let image = format!("{}/full:1", registry.host());
    World::new().build_image(&image, "vmlinuz", &["--push"]);
    // Not enough for the layer, enough for it but not for the kernel in it, and not enough for the initrd beside it.
    for megabytes in [6, 14, 26] {
        let world = World::new();
        world.file("vm.yaml", manifest("full", &image, "IfNotPresent", "console=ttyS0"));
        fs::create_dir(world.path("state")).unwrap();
        // A mount namespace of its own: the small file system is gone when the shell is, whatever happens.
        let script = format!(
            "set -u
            mount -t tmpfs -o size={megabytes}m,mode=0755 tmpfs state || exit 99
            \"$0\" run --accel=tcg -f vm.yaml 2>first.err >first.out
            echo $? >first.code
            mount -o remount,size=200m state || exit 99
            exec \"$0\" run --accel=tcg -f vm.yaml"
        );
        let mut command = Command::new("unshare");
        if !rustix::process::geteuid().is_root() {
            command.args(["--user", "--map-root-user"]);
        }
        command.args(["--mount", "sh", "-c", &script, env!("CARGO_BIN_EXE_ferrovirt")]);
        world.environment(&mut command);
        let outcome = Session::start(command).finish();
        let first = fs::read_to_string(world.path("first.err")).unwrap_or_default();
        let code = fs::read_to_string(world.path("first.code")).unwrap_or_default();
        assert_eq!(code.trim(), "1", "{megabytes} MB:\n{first}\n{outcome}");
        assert_eq!(fs::read_to_string(world.path("first.out")).unwrap(), "", "{first}");
        for word in ["error: ", "hint: ", "space left"] {
            assert!(first.contains(word), "{megabytes} MB: no `{word}` in:\n{first}");
        }
        outcome.expect_code(0).expect_stdout(&format!("guest: kernel {}", Fixtures::version("vmlinuz")));
    }
}
