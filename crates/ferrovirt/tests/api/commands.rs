//! The commands around the server: start, stop, kubeconfig, state.

use std::os::unix::fs::PermissionsExt;

use crate::server::{Server, World, finish, kubectls};

#[test]
fn a_server_starts_answers_and_stops() {
    let world = World::new();
    let server = Server::start(&world);
    let version = finish(world.kubectl(["version", "-o", "json"])).succeeded();
    assert!(version.stdout.contains("+ferrovirt."), "{}", version.stdout);
    let ready = finish(world.kubectl(["get", "--raw", "/readyz"])).succeeded();
    assert_eq!(ready.stdout, "ok");
    assert!(server.stop().success());
    let gone = finish(world.kubectl(["get", "--raw", "/readyz"])).failed();
    assert!(gone.stderr.contains("refused"), "{}", gone.stderr);
}

#[test]
fn a_server_on_a_host_without_qemu_warns_unasked() {
    let world = World::new();
    let mut command = world.ferrovirt(["serve", "--listen", "127.0.0.1:0"]);
    command.env("PATH", world.path("none"));
    let line = Server::spawn(command).wait_for_line("no machine can be started on this host");
    assert!(line.contains(" WARN ") && !line.contains('\x1b'), "{line:?}");
}

#[test]
fn state_is_private() {
    let world = World::new();
    let _server = Server::start(&world);
    let mut pending = vec![world.api_directory()];
    let mut files = 0;
    while let Some(path) = pending.pop() {
        let metadata = std::fs::symlink_metadata(&path).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o077, 0, "{} is open to others", path.display());
        if metadata.is_dir() {
            pending.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else {
            files += 1;
        }
    }
    assert!(files > 3, "only {files} files were looked at");
}

#[test]
fn kubeconfig_is_printed_and_merged() {
    let world = World::new();
    let early = finish(world.ferrovirt(["kubeconfig"])).failed();
    assert!(early.stderr.contains("ferrovirt serve"), "{}", early.stderr);

    let _server = Server::start(&world);
    let printed = finish(world.ferrovirt(["kubeconfig"])).succeeded();
    assert_eq!(printed.stdout, std::fs::read_to_string(world.kubeconfig()).unwrap());

    let mine = world.file(
        "home/.kube/config",
        "apiVersion: v1\nkind: Config\ncurrent-context: mine\ncontexts:\n- name: mine\n  context: {cluster: mine, user: \
         me}\nclusters:\n- name: mine\n  cluster: {server: 'https://127.0.0.1:1'}\nusers:\n- name: me\n  user: {token: \
         abc}\n",
    );
    finish(world.ferrovirt(["kubeconfig", "--merge"])).succeeded();
    let contexts =
        finish(world.command(&kubectls()[0], ["config", "get-contexts", "-o", "name"])).succeeded();
    assert_eq!(contexts.stdout.lines().count(), 2, "{}", contexts.stdout);
    finish(world.command(&kubectls()[0], ["get", "namespaces"])).succeeded();
    let first = std::fs::read_to_string(&mine).unwrap();
    assert!(first.contains("abc"), "{first}");
    finish(world.ferrovirt(["kubeconfig", "--merge"])).succeeded();
    assert_eq!(std::fs::read_to_string(&mine).unwrap(), first, "merging twice changes nothing");
}

#[test]
fn a_second_server_on_the_same_state_is_refused() {
    let world = World::new();
    let server = Server::start(&world);
    let second = finish(world.ferrovirt(["serve", "--listen", "127.0.0.1:0"])).failed();
    assert!(second.stderr.contains(&server.pid().as_raw_nonzero().to_string()), "{}", second.stderr);
    finish(world.kubectl(["get", "--raw", "/readyz"])).succeeded();
}

#[test]
fn an_address_in_use_is_named() {
    let world = World::new();
    let server = Server::start(&world);
    let other = World::new();
    let address = server.address().to_string();
    let refused = finish(other.ferrovirt(["serve", "--listen", &address])).failed();
    assert!(refused.stderr.contains(&address) && refused.stderr.contains("--listen"), "{}", refused.stderr);
}
