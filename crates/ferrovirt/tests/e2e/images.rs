//! Booting out of images that a real registry holds, made by other tools and by our own.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::harness::{Fixtures, World, manifest};
use crate::real_registry::{RealRegistry, Tools};

/// The repository of the reference manifest.
const REFERENCE_REPOSITORY: &str = "vmi_ext_boot/kernel_initrd_binaries_container";

/// The manifest of KubeVirt's user guide.
const REFERENCE_MANIFEST: &str = "apiVersion: kubevirt.io/v1
kind: VirtualMachine
metadata:
  name: ext-kernel-boot-vm
spec:
  runStrategy: Manual
  template:
    spec:
      domain:
        devices: {}
        firmware:
          kernelBoot:
            container:
              image: vmi_ext_boot/kernel_initrd_binaries_container:latest
              initrdPath: /boot/initramfs-virt
              kernelPath: /boot/vmlinuz-virt
              imagePullPolicy: Always
              imagePullSecret: IfNotPresent
            kernelArgs: console=ttyS0
        resources:
          requests:
            memory: 1Gi
";

const RUN: [&str; 4] = ["run", "--accel=tcg", "--timeout=110s", "-f"];

fn run<'a>(file: &'a str, extra: &[&'a str]) -> Vec<&'a str> {
    RUN.into_iter().chain([file]).chain(extra.iter().copied()).collect()
}

#[test]
fn the_reference_manifest_boots_unchanged() {
    let (world, registry) = (World::new(), RealRegistry::start());
    let image = format!("{}/{REFERENCE_REPOSITORY}:latest", registry.host());
    world.build_image(&image, "vmlinuz", &["--push"]);
    world.succeed(["image", "rm", &image]);
    world.file("vm.yaml", REFERENCE_MANIFEST);

    world.registries(&format!(
        "short-name-mode = \"permissive\"\n[aliases]\n\"{REFERENCE_REPOSITORY}\" = \"{}/{REFERENCE_REPOSITORY}\"\n",
        registry.host()
    ));
    let outcome = world.ferrovirt(run("vm.yaml", &[])).expect_code(0);
    let outcome = outcome
        .expect_stdout(&format!("guest: kernel {}", Fixtures::version("vmlinuz")))
        .expect_stdout("guest: command line console=ttyS0\r\n")
        .expect_stderr("warning: ")
        .expect_stderr("IfNotPresent");
    let memory = outcome
        .stdout
        .lines()
        .find_map(|line| line.strip_prefix("guest: memory ")?.split(' ').next()?.parse().ok());
    assert!(matches!(memory, Some(900_000..=1_048_576)), "the requested 1Gi, not {memory:?} KiB: {outcome}");

    // The two other ways of registries.conf(5) to give a short name a registry.
    for configuration in [
        format!("unqualified-search-registries = [\"{}\"]\n", registry.host()),
        format!("[[registry]]\nprefix = \"docker.io\"\nlocation = \"{}\"\n", registry.host()),
    ] {
        let world = World::new();
        world.file("vm.yaml", REFERENCE_MANIFEST);
        world.registries(&configuration);
        world.ferrovirt(run("vm.yaml", &["--dry-run"])).expect_code(0).expect_stdout("sha256:");
    }
}

#[test]
fn a_manifest_may_come_from_standard_input_with_its_secret() {
    let (world, registry) = (World::new(), RealRegistry::start());
    let image = format!("{}/demo/secret:latest", registry.host());
    world.build_image(&image, "vmlinuz", &["--push"]);
    let config =
        format!("{{\"auths\":{{\"{}\":{{\"username\":\"u\",\"password\":\"p\"}}}}}}", registry.host());
    let text = manifest("other", "demo/absent:latest", "Never", "console=ttyS0")
        + "---\n"
        + &manifest("wanted", &image, "Always\n              imagePullSecret: puller", "console=ttyS0")
        + &format!(
            "---\napiVersion: v1\nkind: Secret\nmetadata:\n  name: puller\ntype: kubernetes.io/dockerconfigjson\n\
             stringData:\n  .dockerconfigjson: '{config}'\n"
        );
    let mut command = world.command(run("-", &["--name=wanted", "--dry-run"]));
    let file = world.file("stream.yaml", text);
    command.stdin(fs::File::open(file).unwrap());
    let outcome = crate::harness::Session::spawn(command).finish().expect_code(0).expect_stdout("sha256:");
    assert!(!outcome.stderr.contains("warning: "), "the secret is there: {outcome}");
}

#[test]
fn an_image_of_buildah_boots() {
    let (world, registry, tools) = (World::new(), RealRegistry::start(), Tools::new());
    let image = format!("{}/built/by-buildah:1", registry.host());
    let container = tools.buildah(["from", "scratch"]).trim().to_owned();
    for (file, destination) in [("vmlinuz", "/boot/vmlinuz-virt"), ("initrd", "/boot/initramfs-virt")] {
        let source = Fixtures::path(file).display().to_string();
        tools.buildah(["add", "--chown=107:107", &container, &source, destination]);
    }
    tools.buildah(["commit", &container, &image]);
    tools.buildah(["push", "--tls-verify=false", &image]);

    world.file("vm.yaml", manifest("foreign", &image, "", "console=ttyS0"));
    let outcome = world.ferrovirt(run("vm.yaml", &[])).expect_code(0);
    let outcome = outcome.expect_stdout(&format!("guest: kernel {}", Fixtures::version("vmlinuz")));
    assert!(!outcome.stderr.contains("107"), "owned by 107:107, no warning: {outcome}");
}

#[test]
fn files_that_qemu_may_not_read_are_refused_and_foreign_owners_warned_of() {
    let (world, registry, tools) = (World::new(), RealRegistry::start(), Tools::new());
    let private = world.file("private", fs::read(Fixtures::path("vmlinuz")).unwrap());
    let build = |tag: &str, chmod: &str| {
        let image = format!("{}/owners:{tag}", registry.host());
        let container = tools.buildah(["from", "scratch"]).trim().to_owned();
        let source = private.display().to_string();
        tools.buildah(["add", "--chown=0:0", chmod, &container, &source, "/boot/vmlinuz-virt"]);
        let initrd = Fixtures::path("initrd").display().to_string();
        tools.buildah(["add", "--chown=107:107", &container, &initrd, "/boot/initramfs-virt"]);
        tools.buildah(["commit", &container, &image]);
        tools.buildah(["push", "--tls-verify=false", &image]);
        image
    };
    let image = build("unreadable", "--chmod=0600");
    world.file("vm.yaml", manifest("owners", &image, "", "console=ttyS0"));
    world.ferrovirt(run("vm.yaml", &[])).expect_refusal(&[
        "/boot/vmlinuz-virt",
        "600",
        "0:0",
        "--chown=107:107",
    ]);

    let image = build("foreign", "--chmod=0644");
    world.file("vm.yaml", manifest("owners", &image, "", "console=ttyS0"));
    let outcome = world.ferrovirt(run("vm.yaml", &["--dry-run"])).expect_code(0);
    outcome.expect_stderr("warning: ").expect_stderr("/boot/vmlinuz-virt").expect_stderr("0:0");
}

#[test]
fn other_tools_read_what_we_push() {
    let (world, registry, tools) = (World::new(), RealRegistry::start(), Tools::new());
    let image = format!("{}/ours:1", registry.host());
    world.build_image(&image, "vmlinuz", &["--push"]);
    let remote = format!("docker://{image}");
    let config: serde_json::Value =
        serde_json::from_str(&tools.skopeo(["inspect", "--tls-verify=false", "--config", &remote])).unwrap();
    assert_eq!(config["architecture"], "amd64", "{config}");
    let labels = config["config"]["Labels"].to_string();
    assert!(labels.contains(&Fixtures::version("vmlinuz")), "the kernel's version is a label: {labels}");

    tools.podman(["pull", "--tls-verify=false", &image]);
    let container = tools.podman(["create", &image, "none"]).trim().to_owned();
    let copy = tools.path("vmlinuz");
    tools.podman(["cp", &format!("{container}:/boot/vmlinuz-virt"), &copy.display().to_string()]);
    assert!(
        fs::read(copy).unwrap() == fs::read(Fixtures::path("vmlinuz")).unwrap(),
        "the kernel came through"
    );
}

#[test]
fn always_boots_what_the_tag_means_now_and_asks_once() {
    let (world, registry) = (World::new(), RealRegistry::start());
    let image = format!("{}/moving:latest", registry.host());
    let (old, new) = (Fixtures::version("vmlinuz-other"), Fixtures::version("vmlinuz"));
    // Another machine pushes; this one only pulls.
    let pusher = World::new();
    pusher.build_image(&image, "vmlinuz-other", &["--push"]);
    world.file("vm.yaml", manifest("moving", &image, "Always", "console=ttyS0"));
    let outcome =
        world.ferrovirt(run("vm.yaml", &[])).expect_code(0).expect_stdout(&format!("guest: kernel {old}"));
    assert!(!outcome.stderr.contains("kernel changed"), "the first boot is no change: {outcome}");

    let before = registry.requests().len();
    let json = world.path("summary.json").display().to_string();
    let output = format!("--output=json={json}");
    let outcome = world.ferrovirt(run("vm.yaml", &[&output])).expect_code(0);
    let requests = registry.requests()[before..].to_vec();
    assert_eq!(requests.len(), 1, "an unchanged tag costs one request, not {requests:?}");
    assert!(requests[0].contains("/v2/moving/manifests/"), "{requests:?}");
    let outcome = outcome.expect_stdout(&format!("guest: kernel {old}"));
    assert!(!outcome.stderr.contains("kernel changed"), "{outcome}");
    let summary: serde_json::Value = serde_json::from_slice(&fs::read(&json).unwrap()).unwrap();
    assert_eq!(summary["image"]["requests"], 1, "{summary}");
    assert_eq!(summary["image"]["fetchedBytes"], 0, "{summary}");

    pusher.build_image(&image, "vmlinuz", &["--push"]);
    let outcome = world.ferrovirt(run("vm.yaml", &[&output])).expect_code(0);
    outcome
        .expect_stdout(&format!("guest: kernel {new}"))
        .expect_stderr(&format!("kernel changed: {old} → {new}"));
    let summary: serde_json::Value = serde_json::from_slice(&fs::read(&json).unwrap()).unwrap();
    assert_eq!(summary["kernel"]["changedFrom"], *old, "{summary}");
}

#[test]
fn the_pull_policy_decides_whether_a_registry_is_asked() {
    let (world, registry) = (World::new(), RealRegistry::start());
    let image = format!("{}/policy:1", registry.host());
    World::new().build_image(&image, "vmlinuz", &["--push"]);
    let dry_run = |policy: &str| {
        world.file("vm.yaml", manifest("policy", &image, policy, "console=ttyS0"));
        let before = registry.requests().len();
        let outcome = world.ferrovirt(run("vm.yaml", &["--dry-run"]));
        (outcome, registry.requests().len() - before)
    };
    let (outcome, asked) = dry_run("Never");
    outcome.expect_refusal(&["Never", &image]);
    assert_eq!(asked, 0, "Never asks nobody");
    // A tag that is not `latest` means IfNotPresent.
    let (outcome, asked) = dry_run("");
    outcome.expect_code(0);
    assert!(asked >= 3, "manifest, and layers or config: {asked}");
    for policy in ["", "IfNotPresent", "Never"] {
        let (outcome, asked) = dry_run(policy);
        outcome.expect_code(0);
        assert_eq!(asked, 0, "{policy:?} finds it in the store");
    }
    let (outcome, asked) = dry_run("Always");
    outcome.expect_code(0);
    assert_eq!(asked, 1, "Always asks once");
}

#[test]
fn a_lower_layer_that_cannot_matter_is_never_requested() {
    let (world, registry, tools) = (World::new(), RealRegistry::start(), Tools::new());
    let image = format!("{}/layered:1", registry.host());
    let bulk = world.file("bulk", vec![7; 3 << 20]);
    let container = tools.buildah(["from", "scratch"]).trim().to_owned();
    tools.buildah(["add", &container, &bulk.display().to_string(), "/usr/share/bulk"]);
    let base = format!("{}/base:1", registry.host());
    tools.buildah(["commit", &container, &base]);
    let container = tools.buildah(["from", "--pull-never", &base]).trim().to_owned();
    for (file, destination) in [("vmlinuz", "/boot/vmlinuz-virt"), ("initrd", "/boot/initramfs-virt")] {
        let source = Fixtures::path(file).display().to_string();
        tools.buildah(["add", "--chown=107:107", &container, &source, destination]);
    }
    tools.buildah(["commit", &container, &image]);
    tools.buildah(["push", "--tls-verify=false", &image]);
    let document: serde_json::Value = serde_json::from_str(&tools.skopeo([
        "inspect",
        "--tls-verify=false",
        "--raw",
        &format!("docker://{image}"),
    ]))
    .unwrap();
    let lowest = document["layers"][0]["digest"].as_str().unwrap();
    assert!(document["layers"].as_array().unwrap().len() > 1, "{document}");

    world.file("vm.yaml", manifest("layered", &image, "", "console=ttyS0"));
    let before = registry.requests().len();
    world.ferrovirt(run("vm.yaml", &["--dry-run"])).expect_code(0);
    let requests = registry.requests()[before..].to_vec();
    assert!(!requests.iter().any(|request| request.contains(lowest)), "{lowest} was requested: {requests:?}");

    world.succeed(["image", "pull", &image]);
    let requests = registry.requests()[before..].to_vec();
    assert!(
        requests.iter().any(|request| request.contains(lowest)),
        "a full pull fetches everything: {requests:?}"
    );
}

#[test]
fn a_kernel_and_an_initrd_of_one_name_do_not_collide() {
    let world = World::new();
    let add = |name: &str, place: &str| format!("--add={}:/{place}/file", Fixtures::path(name).display());
    let (kernel, initrd) = (add("vmlinuz", "kernel"), add("initrd", "initrd"));
    world.build_image("localhost/named:1", "vmlinuz", &[&kernel, &initrd]);
    let text = manifest("named", "localhost/named:1", "Never", "console=ttyS0")
        .replace("/boot/vmlinuz-virt", "/kernel/file")
        .replace("/boot/initramfs-virt", "/initrd/file");
    world.file("vm.yaml", text);
    let outcome = world.ferrovirt(run("vm.yaml", &[])).expect_code(0);
    outcome.expect_stdout("guest: powering off");
}

/// The kernel that QEMU would be given.
fn kernel_of(world: &World, entry: &str) -> String {
    let outcome = world.ferrovirt(run("vm.yaml", &["--dry-run", entry])).expect_code(0);
    let mut words = outcome.stdout.lines().map(|line| line.trim_matches(|letter| " '\\".contains(letter)));
    words.find(|word| *word == "-kernel").expect("a -kernel argument");
    words.next().expect("its value").to_owned()
}

#[test]
fn a_damaged_store_is_noticed_and_mended() {
    let (world, registry) = (World::new(), RealRegistry::start());
    let image = format!("{}/mended:1", registry.host());
    World::new().build_image(&image, "vmlinuz", &["--push"]);
    world.file("vm.yaml", manifest("mended", &image, "IfNotPresent", "console=ttyS0"));
    // The kernel as it is in the store, and the one that was unpacked for QEMU: QEMU is given one or the other.
    for entry in ["--kernel-entry=as-given", "--kernel-entry=auto"] {
        let kernel = kernel_of(&world, entry);
        let whole = fs::read(&kernel).unwrap();
        let mut damaged = whole.clone();
        damaged[whole.len() / 2] ^= 1;
        fs::set_permissions(&kernel, fs::Permissions::from_mode(0o644)).unwrap();
        fs::write(&kernel, damaged).unwrap();
        fs::set_permissions(&kernel, fs::Permissions::from_mode(0o444)).unwrap();
        let outcome = world.ferrovirt(run("vm.yaml", &[entry])).expect_code(0);
        outcome.expect_stdout(&format!("guest: kernel {}", Fixtures::version("vmlinuz")));
        // A file that is taken out of its image again is another file, so what is unpacked of it is one too.
        assert!(fs::read(kernel_of(&world, entry)).unwrap() == whole, "the kernel is whole again ({entry})");
    }
}

#[test]
fn prune_leaves_what_a_running_machine_uses() {
    let (world, registry) = (World::new(), RealRegistry::start());
    let image = format!("{}/pruned:1", registry.host());
    World::new().build_image(&image, "vmlinuz", &["--push"]);
    world.file("vm.yaml", manifest("pruned", &image, "IfNotPresent", "console=ttyS0 guest=shell"));
    let command = world.command(run("vm.yaml", &["--interactive"]));
    let mut session = crate::harness::Session::start_with_input(command);
    session.wait_for_stdout("guest: shell is ready", 1);
    world.succeed(["image", "prune", "--all"]);
    // The next boot in the same run reads the files anew.
    session.type_line("reboot");
    session.wait_for_stdout("guest: shell is ready", 2);
    session.type_line("poweroff");
    session.finish().expect_code(0);
    world.succeed(["image", "prune", "--all"]);
    world.file("vm.yaml", manifest("pruned", &image, "Never", "console=ttyS0"));
    world.ferrovirt(run("vm.yaml", &[])).expect_refusal(&["Never"]);
}

#[test]
fn two_runs_at_once_fetch_each_blob_once() {
    let (world, registry) = (World::new(), RealRegistry::start());
    let image = format!("{}/shared:1", registry.host());
    World::new().build_image(&image, "vmlinuz", &["--push"]);
    world.file("vm.yaml", manifest("shared", &image, "Always", "console=ttyS0"));
    let before = registry.requests().len();
    let sessions: Vec<_> = (0..3)
        .map(|_| crate::harness::Session::start(world.command(run("vm.yaml", &["--dry-run"]))))
        .collect();
    for session in sessions {
        session.finish().expect_code(0);
    }
    let mut blobs: Vec<_> =
        registry.requests()[before..].iter().filter(|request| request.contains("/blobs/")).cloned().collect();
    let total = blobs.len();
    blobs.sort();
    blobs.dedup();
    assert_eq!(total, blobs.len(), "a blob was fetched twice: {:?}", registry.requests());
}
