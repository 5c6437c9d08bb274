//! The Python `kubernetes` client. Each script asserts by itself; what it asserts is in it.

use std::path::{Path, PathBuf};

use crate::server::{Server, World, finish};

/// The interpreter that has the client. A distribution's package is in the distribution's interpreter, which need not be the
/// first in the search path.
fn interpreter() -> PathBuf {
    let candidates = ["python3", "/usr/bin/python3"];
    let world = World::new();
    candidates
        .into_iter()
        .find(|program| {
            let mut command = world.command(program, ["-c", "import kubernetes"]);
            command.stderr(std::process::Stdio::null()).stdout(std::process::Stdio::null());
            command.status().is_ok_and(|status| status.success())
        })
        .map(PathBuf::from)
        .expect("no python3 has the module kubernetes; `make tools` installs it")
}

#[track_caller]
fn run(script: &str) {
    let world = World::new();
    let _server = Server::start(&world);
    run_in(&world, script);
}

#[track_caller]
fn run_in(world: &World, script: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/api/python").join(script);
    let mut command = world.command(interpreter(), [path.as_os_str()]);
    command.env("KUBECONFIG", world.kubeconfig()).env("PYTHONDONTWRITEBYTECODE", "1");
    let outcome = finish(command).succeeded();
    assert_eq!(outcome.stdout, "done\n", "{}", outcome.stderr);
}

#[test]
fn the_typed_core_api_works() {
    run("core.py");
}

#[test]
fn custom_objects_work() {
    run("custom_objects.py");
}

#[test]
fn watches_resume() {
    run("watches.py");
}

#[test]
fn the_dynamic_client_works() {
    run("dynamic_client.py");
}

#[test]
fn versions_from_before_a_restored_backup_are_gone() {
    let world = World::new();
    let server = Server::start(&world);
    finish(world.ferrovirt(["state", "backup", "backup"])).succeeded();
    assert!(server.stop().success());
    finish(world.ferrovirt(["state", "restore", "--replace", "backup"])).succeeded();
    let _server = Server::start(&world);
    run_in(&world, "expired.py");
}
