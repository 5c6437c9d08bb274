//! The commands beside `run`.

use std::fs;

use crate::harness::{Fixtures, World, manifest};
use crate::real_registry::RealRegistry;

#[test]
fn the_same_inputs_make_the_same_image() {
    let digest_of = |world: &World, name: &str| {
        let listed = world.succeed(["image", "inspect", name]).stdout;
        let start = listed.find("sha256:").unwrap_or_else(|| panic!("no digest in {listed}"));
        listed[start..start + 71].to_owned()
    };
    let (one, two) = (World::new(), World::new());
    let modules = Fixtures::path(&format!("modules/{}", Fixtures::version("vmlinuz"))).display().to_string();
    let extra = one.file("extra", "some text");
    let add = format!("{}:/etc/extra", extra.display());
    let extra = two.file("extra", "some text");
    let add_too = format!("{}:/etc/extra", extra.display());
    one.build_image("demo/same:1", "vmlinuz", &["--modules", &modules, "--add", &add]);
    two.build_image("demo/same:1", "vmlinuz", &["--modules", &modules, "--add", &add_too]);
    assert_eq!(digest_of(&one, "demo/same:1"), digest_of(&two, "demo/same:1"));
    two.build_image("demo/other:1", "vmlinuz", &["--modules", &modules]);
    assert_ne!(digest_of(&one, "demo/same:1"), digest_of(&two, "demo/other:1"));
}

#[test]
fn an_image_goes_through_an_archive_and_boots() {
    let (one, two) = (World::new(), World::new());
    one.build_image("demo/saved:1", "vmlinuz", &[]);
    let archive = one.path("saved.tar").display().to_string();
    one.succeed(["image", "save", "--output", &archive, "demo/saved:1"]);
    two.succeed(["image", "load", "--input", &archive]);
    two.file("vm.yaml", manifest("saved", "demo/saved:1", "Never", "console=ttyS0"));
    two.ferrovirt(["run", "--accel=tcg", "-f", "vm.yaml"])
        .expect_code(0)
        .expect_stdout("guest: powering off");
}

#[test]
fn images_are_listed_copied_and_forgotten() {
    let (world, registry) = (World::new(), RealRegistry::start());
    let list = || -> serde_json::Value {
        serde_json::from_str(&world.succeed(["image", "ls", "--output=json"]).stdout).unwrap()
    };
    assert_eq!(list().as_array().map(Vec::len), Some(0), "an empty store");
    world.build_image("demo/listed:1", "vmlinuz", &[]);
    assert_eq!(list().as_array().map(Vec::len), Some(1), "{}", list());
    assert!(list().to_string().contains("demo/listed:1"), "{}", list());
    world.succeed(["image", "ls"]).expect_stdout("demo/listed");

    let remote = format!("{}/copied:2", registry.host());
    world.succeed(["image", "push", "demo/listed:1", &remote]);
    let other = World::new();
    other.succeed(["image", "pull", &remote]).expect_stdout("sha256:");

    world.succeed(["image", "rm", "demo/listed:1"]);
    assert_eq!(list().as_array().map(Vec::len), Some(0), "{}", list());
    world.ferrovirt(["image", "rm", "demo/listed:1"]).expect_refusal(&["demo/listed:1"]);
}

#[test]
fn manifests_are_checked_without_booting() {
    let world = World::new();
    world.file("good.yaml", manifest("good", "demo/x:1", "", "console=ttyS0"));
    world.file(
        "bad.yaml",
        manifest("bad", "demo/x:1", "", "console=ttyS0").replace("kernelArgs", "kernalArgs"),
    );
    world.succeed(["validate", "-f", "good.yaml"]);
    let outcome = world.ferrovirt(["validate", "-f", "good.yaml", "-f", "bad.yaml"]).expect_code(1);
    outcome
        .expect_stderr("bad.yaml")
        .expect_stderr("spec.template.spec.domain.firmware.kernelBoot.kernalArgs");
}

#[test]
fn the_demos_manifest_is_valid() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../demo/vm.yaml");
    World::new().succeed(["validate", "-f", file]);
}

#[test]
fn the_doctor_looks_at_this_machine() {
    let world = World::new();
    let report = world.succeed(["doctor"]).stdout;
    for word in ["KVM", "QEMU", "registries", "store", "limits"] {
        assert!(report.to_lowercase().contains(&word.to_lowercase()), "no `{word}` in:\n{report}");
    }
    let report: serde_json::Value =
        serde_json::from_str(&world.succeed(["doctor", "--output=json"]).stdout).unwrap();
    let subjects: Vec<_> =
        report.as_array().unwrap().iter().map(|item| item["subject"].as_str().unwrap()).collect();
    for subject in ["QEMU", "KVM", "isolation", "network", "store", "registries", "limits", "pod ports"] {
        assert!(subjects.contains(&subject), "no {subject} in {report}");
    }
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let world = World::new();
    world.build_image("demo/piped:1", "vmlinuz", &[]);
    let mut command = std::process::Command::new("sh");
    command.args([
        "-c",
        "set -o pipefail 2>/dev/null; \"$0\" image ls | true",
        env!("CARGO_BIN_EXE_ferrovirt"),
    ]);
    world.environment(&mut command);
    let outcome = crate::harness::Session::start(command).finish();
    assert!(!outcome.stderr.contains("panicked"), "{outcome}");
    assert!(fs::exists(world.path("state")).unwrap());
}
