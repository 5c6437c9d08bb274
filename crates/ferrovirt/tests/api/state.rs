//! `ferrovirt state`: backup, check, restore.

use std::os::unix::fs::PermissionsExt;

use crate::server::{Server, World, finish, finish_with_input};

/// Makes a config map with a value of so many bytes.
fn create(world: &World, name: &str, bytes: usize) {
    let value = "x".repeat(bytes);
    let map =
        format!("{{apiVersion: v1, kind: ConfigMap, metadata: {{name: {name}}}, data: {{value: {value}}}}}");
    finish_with_input(world.kubectl(["create", "-f", "-"]), &map).succeeded();
}

/// The names of the config maps in the default namespace.
fn maps(world: &World) -> Vec<String> {
    let listed = finish(world.kubectl(["get", "configmaps", "-o", "name"])).succeeded();
    listed.stdout.lines().map(str::to_owned).filter(|name| !name.ends_with("kube-root-ca.crt")).collect()
}

/// The last revision.
fn revision(world: &World) -> u64 {
    let list = finish(world.kubectl(["get", "--raw", "/api/v1/namespaces"])).succeeded();
    let list: serde_json::Value = serde_json::from_str(&list.stdout).unwrap();
    list["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap()
}

#[test]
fn a_backup_beside_a_running_server_can_be_restored() {
    let world = World::new();
    let server = Server::start(&world);
    create(&world, "before", 3);
    let file = world.path("backup.db");
    let file = file.to_str().unwrap();
    let made = finish(world.ferrovirt(["state", "backup", file])).succeeded();
    assert!(made.stderr.contains(file), "{}", made.stderr);
    assert_eq!(std::fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
    let again = finish(world.ferrovirt(["state", "backup", file])).failed();
    assert!(again.stderr.contains("exists") && again.stderr.contains("hint:"), "{}", again.stderr);
    create(&world, "after", 3);
    let last = revision(&world);

    let busy = finish(world.ferrovirt(["state", "restore", "--replace", file])).failed();
    assert!(busy.stderr.contains("stop that server"), "{}", busy.stderr);
    let checked = finish(world.ferrovirt(["state", "check"])).succeeded();
    assert!(checked.stdout.contains("nothing is wrong"), "{}", checked.stdout);
    assert!(server.stop().success());

    let refused = finish(world.ferrovirt(["state", "restore", file])).failed();
    assert!(refused.stderr.contains("--replace"), "{}", refused.stderr);
    let restored = finish(world.ferrovirt(["state", "restore", "--replace", file])).succeeded();
    assert!(restored.stderr.contains("replaced-1"), "{}", restored.stderr);
    let server = Server::start(&world);
    assert_eq!(maps(&world), ["configmap/before"]);
    let now = revision(&world);
    assert!(now > last, "{now} was given out before ({last})");
    assert!(server.stop().success());
}

#[test]
fn what_is_no_backup_is_refused() {
    let world = World::new();
    let missing = finish(world.ferrovirt(["state", "check"])).failed();
    assert!(
        missing.stderr.contains("no state") && missing.stderr.contains("--state-dir"),
        "{}",
        missing.stderr
    );
    let early = finish(world.ferrovirt(["state", "backup", "file"])).failed();
    assert!(early.stderr.contains("no state"), "{}", early.stderr);
    let text =
        world.file("text", "what is this, and why is it longer than a header of a database? ".repeat(20));
    let refused = finish(world.ferrovirt(["state", "restore", text.to_str().unwrap()])).failed();
    assert!(refused.stderr.contains("state backup"), "{}", refused.stderr);
    let absent = finish(world.ferrovirt(["state", "restore", "/nonexistent"])).failed();
    assert!(absent.stderr.contains("/nonexistent"), "{}", absent.stderr);
}

#[test]
fn a_damaged_state_is_reported() {
    let world = World::new();
    let server = Server::start(&world);
    for name in ["one", "two", "three"] {
        create(&world, name, 20_000);
    }
    assert!(server.stop().success());
    let path = world.api_directory().join("store/state.db");
    let mut bytes = std::fs::read(&path).unwrap();
    let at = bytes.len() * 2 / 3;
    bytes[at..at + 20_000].fill(0x5a);
    std::fs::write(&path, bytes).unwrap();
    let found = finish(world.ferrovirt(["state", "check"])).failed();
    assert!(found.stderr.contains("damaged") && found.stderr.contains("state restore"), "{}", found.stderr);
}
