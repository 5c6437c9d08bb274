//! The commands that ask a server, as a user types them: whole sessions with what is printed and how each ends.
//!
//! No controller runs here, so that what is there is what was written. Sessions with machines that run are in the
//! lifecycle tests.

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::Stdio;

use crate::server::{Server, World, finish, finish_with_input, wait_until};

/// A manifest of a machine that does not run.
fn machine(name: &str, memory: &str) -> String {
    format!(
        "apiVersion: kubevirt.io/v1\nkind: VirtualMachine\nmetadata:\n  name: {name}\n  labels: {{app: {name}}}\nspec:\n  \
         runStrategy: Halted\n  template:\n    spec:\n      domain:\n        devices: {{}}\n        memory: {{guest: \
         {memory}}}\n        firmware:\n          kernelBoot:\n            container: {{image: 'localhost/x:1', kernelPath: \
         /vmlinuz}}\n"
    )
}

/// The cells of a table's line.
fn cells(line: &str) -> impl Iterator<Item = &str> {
    line.split("  ").map(str::trim).filter(|cell| !cell.is_empty())
}

/// A session: what was typed, printed and returned.
struct Session<'a> {
    world: &'a World,
    text: String,
    /// Where programs are looked for, if not where this test finds them.
    search_path: Option<PathBuf>,
}

impl<'a> Session<'a> {
    fn new(world: &'a World) -> Self {
        Self { world, text: String::new(), search_path: None }
    }

    /// Types a command; its words are separated by spaces, and `␣` is a space within one.
    fn run(&mut self, line: &str) {
        self.feed(line, "");
    }

    fn feed(&mut self, line: &str, input: &str) {
        let words = line.split_whitespace().map(|word| word.replace('␣', " "));
        let mut command = self.world.ferrovirt(words);
        command.env("KUBECONFIG", self.world.kubeconfig());
        if let Some(search_path) = &self.search_path {
            command.env("PATH", search_path);
        }
        let outcome = if input.is_empty() { finish(command) } else { finish_with_input(command, input) };
        let code = outcome.status.code().unwrap();
        writeln!(self.text, "$ ferrovirt {line}").unwrap();
        self.text.push_str(&outcome.stdout);
        if !outcome.stdout.is_empty() && !outcome.stdout.ends_with('\n') {
            self.text.push('\n');
        }
        for said in outcome.stderr.lines() {
            writeln!(self.text, "! {said}").unwrap();
        }
        if code != 0 {
            writeln!(self.text, "[{code}]").unwrap();
        }
    }

    /// The whole, with what differs from run to run replaced.
    fn end(self, server: &Server) -> String {
        let text = self.text.replace(&server.address().to_string(), "SERVER");
        let directory = self.world.path("x").parent().unwrap().display().to_string();
        let text = text.replace(&directory, "WORLD");
        let text = text.replace(env!("CARGO_BIN_EXE_ferrovirt"), "/bin/ferrovirt");
        let mut out = String::new();
        for line in text.lines() {
            if let Some((name, _)) =
                line.split_once(char::is_whitespace).filter(|(name, _)| *name == "Created:")
            {
                writeln!(out, "{name} TIME").unwrap();
                continue;
            }
            let is_age = |word: &str| {
                word.strip_suffix(['s', 'y']).is_some_and(|number| number.parse::<u16>().is_ok())
            };
            // How wide such a line is depends on the age.
            if cells(line).any(is_age) && !line.starts_with(['$', '!']) {
                let words: Vec<_> = cells(line).map(|word| if is_age(word) { "AGE" } else { word }).collect();
                writeln!(out, "{}", words.join("   ")).unwrap();
            } else {
                writeln!(out, "{line}").unwrap();
            }
        }
        out
    }
}

#[test]
fn objects_are_applied_got_and_deleted() {
    let world = World::new();
    let server = Server::start(&world);
    let mut session = Session::new(&world);
    session.run("get vm");
    session.feed("apply -f - --dry-run", &machine("tiny", "64Mi"));
    session.feed("apply -f -", &format!("{}---\n{}", machine("tiny", "64Mi"), machine("other", "1Gi")));
    session.feed("apply -f -", &machine("tiny", "128Mi"));
    session
        .feed("apply -f - -o jsonpath={.spec.template.spec.domain.memory.guest}", &machine("tiny", "128Mi"));
    session.run("get vm");
    session.run("get vm -o wide");
    session.run("get vm tiny -A");
    session.run("get vm -A --no-headers");
    session.run("get vm -l app=other -o name");
    session.run(
        "get vm tiny other -o jsonpath={range␣.items[*]}{.metadata.name}:{.spec.runStrategy}{\"\\n\"}{end}",
    );
    session.run("get vm/tiny -o jsonpath={.kind}");
    session.run("get vm,ns -o name");
    session.run("get vm,vmi,networkpolicies.networking.k8s.io");
    session.run("get crd");
    session.run("get vm missing tiny");
    session.run("get vm missing -o yaml");
    session.run("get nonsense");
    session.run("get vm -n missing");
    session.run("get");
    session.run("get vm tiny -l app=tiny");
    session.run("get vm -o table");
    session.run("get vm -o jsonpath={.a");
    session.run("get vm -n ..%2f");
    session.run("delete vm tiny --dry-run");
    session.run("delete vm/tiny");
    session.run("delete vm tiny");
    session.run("delete vm tiny --ignore-not-found");
    session.run("delete vm");
    session.run("delete vm other --all");
    session.run("delete vm --all --timeout 60s");
    session.run("get vm");
    insta::assert_snapshot!(session.end(&server));
}

#[test]
fn flags_stand_before_the_verb_or_behind_it() {
    let world = World::new();
    let server = Server::start(&world);
    let mut session = Session::new(&world);
    session.feed("apply -f - -o name", "apiVersion: v1\nkind: Namespace\nmetadata: {name: other}\n");
    session.feed("-n other apply -f - -o name", &machine("tiny", "64Mi"));
    session.feed("apply -f - -o name", &machine("mine", "64Mi"));
    session.run("-n other get vm -o name");
    session.run("get -n other vm -o name");
    session.run("-n default get vm -n other -o name");
    session.run("--namespace=other get vm -A -o name");
    session.run(&format!(
        "-n other --kubeconfig {} --context ferrovirt get vm -o name",
        world.kubeconfig().display()
    ));
    session.run("-n other start tiny --dry-run");
    session.run("-n other pause tiny");
    session.run("-n other wait vm/tiny --for=create");
    session.run("-n other console tiny --timeout 0s");
    session.run("-n other logs vm/tiny --local");
    session.run("-n other logs vm/tiny/default --local");
    session.run("-n other port-forward tiny 0:22");
    session.run("-n other events");
    session.run("-n other top vm");
    session.run("-n other wait vm -A --all --for=create");
    session.run("describe vm -A -l app=tiny --quiet");
    session.run("describe vm tiny -A");
    session.run("wait vm tiny -A --for=create");
    session.run("-n other delete vm -A -l app=mine");
    session.run("delete vm tiny -A");
    session.run("delete -f - -A");
    session.run("-n other delete vm tiny");
    session.run("-n ..%2f get vm");
    session.run("-A get vm");
    insta::assert_snapshot!(session.end(&server));
}

#[test]
fn manifests_of_a_directory_are_applied_and_deleted() {
    let world = World::new();
    let server = Server::start(&world);
    world.file("manifests/b.yaml", machine("second", "64Mi"));
    world.file("manifests/a.yml", machine("first", "64Mi"));
    world.file(
        "manifests/c.json",
        r#"{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "third"}}"#,
    );
    world.file("manifests/notes.txt", "a: [");
    world.file("manifests/below/a.yaml", machine("deep", "64Mi"));
    std::os::unix::fs::symlink("..", world.path("manifests/below/circle.yaml")).unwrap();
    world.file("others/below/notes", "");
    let mut session = Session::new(&world);
    session.run("apply -f manifests");
    session.run("apply -R -f manifests -o name");
    session.run("apply -f others");
    session.run("apply -f others --recursive");
    session.run("delete -f manifests");
    session.run("delete -f manifests -R --ignore-not-found");
    session.run("delete vm tiny -R");
    session.run("validate -f manifests --recursive");
    insta::assert_snapshot!(session.end(&server));
}

#[test]
fn what_cannot_be_applied_is_told() {
    let world = World::new();
    let server = Server::start(&world);
    let mut session = Session::new(&world);
    session.run("apply -f missing.yaml");
    session.feed("apply -f -", "a: [");
    session.feed("apply -f -", "---\n");
    session.feed("apply -f -", "kind: VirtualMachine\n");
    session.feed("apply -f -", &machine("x", "64Mi").replace("name: x", "generateName: x"));
    session.feed("apply -f -", &machine("x", "64Mi").replace("kubevirt.io/v1", "kubevirt.io/v9"));
    session.feed("apply -f -", &machine("x", "64Mi").replace("name: x\n", "name: x\n  namespace: a\n"));
    session.feed("apply -n b -f -", &machine("x", "64Mi").replace("name: x\n", "name: x\n  namespace: a\n"));
    session.feed("apply -f -", &machine("x", "64Mi").replace("guest", "gest"));
    session.feed("apply -f -", &format!("{}---\n{}", machine("X", "64Mi"), machine("mine", "64Mi")));
    // Somebody else's field.
    let theirs = machine("mine", "64Mi").replace("runStrategy: Halted", "runStrategy: Manual");
    let manifest = world.file("theirs.yaml", theirs);
    let kubectl = ["apply", "--server-side", "--force-conflicts", "-f"];
    finish(world.kubectl(kubectl.iter().map(AsRef::as_ref).chain([manifest.as_os_str()]))).succeeded();
    session.feed("apply -f -", &machine("mine", "64Mi"));
    session.feed("apply -f - --force-conflicts", &machine("mine", "64Mi"));
    session.feed("delete -f -", &machine("mine", "64Mi"));
    session.run("delete -f theirs.yaml vm");
    session.run("apply");
    insta::assert_snapshot!(session.end(&server));
}

#[test]
fn machines_are_started_and_stopped() {
    let world = World::new();
    let server = Server::start(&world);
    let mut session = Session::new(&world);
    session.feed("apply -f - -o name", &machine("tiny", "64Mi"));
    session.run("start tiny --dry-run");
    session.run("start vm/tiny");
    session.run("start tiny --append single");
    session.run("stop tiny");
    session.run("start tiny --append a\u{1}b");
    session.run("start tiny --append");
    session.run("start tiny --append=single --append=-- --dry-run");
    session.run("start tiny --append single␣debug");
    session.run("get vm tiny -o jsonpath={.status.stateChangeRequests}");
    session.run("start tiny --wait --timeout 100ms");
    session.run("stop tiny --wait --timeout 0s");
    session.run("start tiny --wait --timeout 0s");
    session.run("get vm tiny -o jsonpath=.spec.runStrategy");
    session.run("start tiny missing");
    session.run("restart tiny");
    session.run("restart missing --wait");
    session.run("stop tiny");
    session.run("stop tiny");
    session.run("stop tiny --grace-period 3");
    session.run("restart tiny");
    session.run("pause tiny");
    session.run("unpause vmi tiny");
    session.run("reset vm/tiny");
    session.run("start vmi/tiny");
    session.run("start pod/tiny");
    session.run("start");
    insta::assert_snapshot!(session.end(&server));
}

#[test]
fn objects_are_waited_for_and_events_are_told() {
    let world = World::new();
    let server = Server::start(&world);
    let mut session = Session::new(&world);
    session.feed("apply -f - -o name", &machine("tiny", "64Mi"));
    session.run("wait vm/tiny --for=jsonpath={.spec.runStrategy}=Halted");
    session.run("wait vm tiny --for=create");
    session.run("wait vm missing --for=delete");
    session.run("wait vm missing --for=condition=Ready");
    session.run("wait vm --all --for=condition=Ready --timeout 300ms");
    session.run("wait vm/tiny --for=jsonpath={.spec.runStrategy}=Halted --timeout 0");
    session.run("wait vm/tiny --for=jsonpath={.spec.runStrategy}=Always --timeout 0");
    session.run("wait vm/tiny --for=condition=Ready --timeout 0s");
    session.run("wait vm/tiny --for=create --timeout 2000000000h");
    session.run("wait vm/missing --for=condition=Ready --timeout 0");
    session.run("wait vm -l app=other --for=condition=Ready");
    session.run("wait vm tiny --for=Ready");
    session.run("wait vm --for=delete");
    session.run("wait pod/tiny --for=console=login:");
    session.run("wait vmi/missing --for=console=login:");
    session.run("wait vm/missing --for=console=login:");
    session.run("wait vm/tiny --for=console=login: --timeout 300ms");
    session.run("events");
    let event = "{apiVersion: v1, kind: Event, metadata: {name: NAME, namespace: default}, involvedObject: {kind: \
                 VirtualMachine, name: tiny, namespace: default}, type: TYPE, reason: Tested, message: NAME was here, \
                 lastTimestamp: 'TIME'}\n";
    let event = |name: &str, of: &str, time: &str| {
        event.replace("NAME", name).replace("TYPE", of).replace("TIME", time)
    };
    let both = format!(
        "{}---\n{}",
        event("second", "Warning", "2001-01-01T00:00:00Z"),
        event("first", "Normal", "2000-01-01T00:00:00Z")
    );
    session.feed("apply -f -", &both);
    session.run("events");
    session.run("events -A --type Warning");
    session.run("events --types warning");
    session.run("events --types Warning,Normal -o name");
    session.run("events --type Strange");
    session.run("events -o jsonpath={range␣.items[*]}{.kind}␣{.metadata.name}{\"\\n\"}{end}");
    session.run("events --for vm/other -o yaml");
    session.run("events -o table");
    session.run("events --for vm/tiny --type Normal");
    session.run("events --for vm/other");
    session.run("events --for vm");
    session.run("describe vm tiny");
    session.run("describe vm/missing ns/default");
    session.run("describe vm -l app=other");
    session.run("describe");
    session.run("logs tiny");
    session.run("logs vm/tiny");
    session.run("logs vmi/tiny/default --local");
    session.run("logs pod/tiny");
    session.run("logs tiny --state-dir elsewhere");
    session.run("logs tiny --state-dir elsewhere --boot -2");
    session.run("logs tiny --state-dir elsewhere --list-boots");
    session.run("logs tiny --local --list-boots");
    session.run("logs tiny -c sidecar");
    session.run("console tiny");
    session.run("console pod/tiny");
    session.run("console");
    insta::assert_snapshot!(session.end(&server));
}

/// What of a running machine is asked for is in the lifecycle tests.
#[test]
fn what_only_a_running_machine_does_is_refused() {
    let world = World::new();
    let server = Server::start(&world);
    let mut session = Session::new(&world);
    session.feed("apply -f - -o name", &machine("tiny", "64Mi"));
    for verb in ["pause", "unpause", "reset", "soft-reboot"] {
        session.run(&format!("{verb} vmi/tiny"));
        session.run(verb);
        session.run(&format!("{verb} pod/tiny"));
    }
    session.run("restart");
    session.run("restart tiny --grace-period 3");
    session.run("restart tiny --timeout 1s");
    session.run("events --for nonsense/tiny");
    session.run("events -n default -A");
    insta::assert_snapshot!(session.end(&server));
}

#[test]
fn commands_that_ask_no_server_say_what_is_wrong() {
    let (world, elsewhere) = (World::new(), World::new());
    // It is of another world: here is no state yet.
    let server = Server::start(&elsewhere);
    world.file("good.yaml", machine("tiny", "64Mi"));
    world.file("bad.yaml", machine("tiny", "64Mi").replace("guest", "gest"));
    let mut session = Session::new(&world);
    for line in [
        "validate -f good.yaml",
        "validate -f bad.yaml",
        "validate -f missing.yaml",
        "validate",
        "run -f missing.yaml",
        "run -f bad.yaml",
        "run -f good.yaml --timeout soon",
        "kubeconfig",
        "kubeconfig --merge now",
        "state check",
        "state backup file",
        "state restore missing",
        "state restore",
        "image ls",
        "image ls -o yaml",
        "image inspect localhost/x:1",
        "image inspect",
        "image rm localhost/x:1",
        "image rm",
        "image prune",
        "image save localhost/x:1 -o file.tar",
        "image save",
        "image load -i missing.tar",
        "image load",
        "image push localhost/x:1",
        "image push",
        "image build --kernel missing --tag localhost/x:1",
        "image build",
        "doctor --output yaml",
        "completion",
        "serve --listen 192.0.2.1:1",
        "serve --listen here",
        "serve --api-only --node-name a",
    ] {
        session.run(line);
    }
    insta::assert_snapshot!(session.end(&server));
}

/// Measurements themselves differ from run to run: the lifecycle tests look at them.
#[test]
fn what_is_used_is_told_where_there_is_a_metrics_api() {
    let world = World::new();
    let server = Server::start(&world);
    let mut session = Session::new(&world);
    session.run("top vm");
    session.run("top nodes");
    session.run("top vm --sort-by age");
    session.run("top vm tiny -l app=tiny");
    session.run("top vm tiny -A");
    session.run("top vm/tiny vmi/tiny");
    session.run("top cm");
    session.run("top vm,vmi");
    session.run("top");
    insta::assert_snapshot!(session.end(&server));
}

/// A script in the search path, which says how it was called.
fn stand_in(world: &World, name: &str, script: &str) {
    use std::os::unix::fs::PermissionsExt as _;

    let file = world.file(&format!("stand-ins/{name}"), format!("#!/bin/sh\n{script}\n"));
    std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn guests_are_connected_to_in_virtctls_words() {
    let world = World::new();
    let server = Server::start(&world);
    for program in ["ssh", "scp"] {
        stand_in(&world, program, &format!("printf '{program}:'; printf ' [%s]' \"$@\"; echo; exit 7"));
    }
    stand_in(&world, "remote-viewer", "echo nobody calls this");
    let mut session = Session::new(&world);
    session.search_path = Some(world.path("stand-ins"));
    session.feed("apply -f - -o name", &machine("tiny", "64Mi"));
    session.run("port-forward tiny 0:22");
    session.run("port-forward vm/missing 0:22");
    session.run("port-forward vm/tiny/other 0:22 -n default");
    session.run("port-forward --stdio vm/tiny 22");
    session.run("port-forward --stdio=true tiny 22");
    session.run("port-forward vm/tiny 22 80 --stdio");
    session.run("port-forward vm/tiny 22 --address 192.0.2.1");
    session.run("port-forward vm/tiny sctp/53");
    session.run("port-forward vm/tiny 0");
    session.run("port-forward pod/tiny 80");
    session.run("port-forward vm/tiny 80 --address home");
    session.run("port-forward vm/tiny");
    session.run("ssh vm/tiny");
    session.run("ssh root@vm/tiny/other -i key -p 2222 -t -v -t -o␣StrictHostKeyChecking=no -c uname␣-r");
    session.run("ssh tiny -l root -n other --known-hosts known␣hosts");
    session.run(&format!("ssh tiny --kubeconfig {} --context ferrovirt", world.kubeconfig().display()));
    session.run("ssh -l -oProxyCommand=x tiny");
    session.run("ssh a;b@tiny");
    session.run("ssh tiny/$(x)");
    session.run("ssh");
    session.run("scp file root@vm/tiny:/tmp/x:y");
    session.run("scp -r --preserve vmi/tiny:dir -l root ./a:b");
    session.run("scp a b");
    session.run("scp vm/tiny:a vm/tiny:b");
    session.run("scp pod/tiny:a b");
    session.run("scp file");
    session.run("vnc tiny");
    session.run("vnc vmi/tiny/other --proxy-only --port 5900 --preserve-session");
    session.run("vnc tiny --vnc-type tiger");
    session.run("vnc");
    session.run("vnc screenshot tiny");
    session.run("vnc screenshot tiny --file picture.png");
    std::fs::remove_dir_all(world.path("stand-ins")).unwrap();
    session.search_path = Some(world.path("nowhere"));
    session.run("vnc tiny");
    session.run("ssh tiny");
    session.run("scp vm/tiny:a b");
    insta::assert_snapshot!(session.end(&server));
}

#[test]
fn a_shell_completes_what_is_typed() {
    let world = World::new();
    let server = Server::start(&world);
    let mut session = Session::new(&world);
    session
        .feed("apply -f - -o name", &format!("{}---\n{}", machine("tiny", "64Mi"), machine("other", "64Mi")));
    session.run("completion fish");
    session.run("completion csh");
    session.run("__complete -- po");
    session.run("__complete -- start t");
    session.run("__complete -- start vm/");
    session.run("__complete -- get v");
    session.run("__complete -- get vm -n missing t");
    session.run("__complete -- get vm -n def");
    session.run("__complete -- -n default start t");
    session.run("__complete -- get vm -o j");
    session.run("__complete -- stop --grace");
    session.run("__complete -- get vm --kubeconfig missing t");
    // Real shells: what TAB puts in the place of `ferrovirt start -n default t`, beside a file that begins so.
    let directory = std::path::Path::new(env!("CARGO_BIN_EXE_ferrovirt")).parent().unwrap();
    let elsewhere = world.path("shells");
    std::fs::create_dir(&elsewhere).unwrap();
    std::fs::write(elsewhere.join("t.txt"), "").unwrap();
    let zsh = "zmodload zsh/zpty; zpty shell 'zsh -f -i'; \
               zpty -w shell 'PS1=; autoload -Uz compinit; compinit -D -u; source <(ferrovirt completion zsh); echo REA\"\"DY'; \
               zpty -r -m shell text '*READY*'; zpty -n -w shell $'ferrovirt start -n default t\t'; \
               zpty -r -m shell text '*tiny*'; printf '[tiny]'";
    for (shell, arguments) in [
        (
            "bash",
            &[
                "-c",
                "source <(ferrovirt completion bash); COMP_WORDS=(ferrovirt start -n default t); COMP_CWORD=4; \
                 _ferrovirt; printf '[%s]' \"${COMPREPLY[@]}\"",
            ][..],
        ),
        ("zsh", &["-f", "-c", zsh]),
        (
            "fish",
            &[
                "--no-config",
                "-c",
                "ferrovirt completion fish | source; printf '[%s]' (complete -C 'ferrovirt start -n default t')",
            ],
        ),
    ] {
        let mut command = world.command(shell, arguments);
        command.env("PATH", format!("{}:{}", directory.display(), std::env::var("PATH").unwrap()));
        command.env("KUBECONFIG", world.kubeconfig()).current_dir(&elsewhere);
        assert_eq!(finish(command).succeeded().stdout, "[tiny]", "{shell}");
    }
    insta::assert_snapshot!(session.end(&server));
}

#[test]
fn kubectl_finds_it_as_a_plugin() {
    let world = World::new();
    let _server = Server::start(&world);
    let directory = world.path("plugins");
    std::fs::create_dir(&directory).unwrap();
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_ferrovirt"), directory.join("kubectl-ferrovirt")).unwrap();
    let search_path = format!("{}:{}", directory.display(), std::env::var("PATH").unwrap());
    let run = |line: &str| {
        let mut command = world.kubectl(line.split(' '));
        command.env("PATH", &search_path);
        finish(command)
    };
    assert_eq!(run("ferrovirt get ns default -o name").succeeded().stdout, "namespace/default\n");
    let usage = run("ferrovirt get").failed();
    assert!(usage.stderr.contains("Usage: kubectl ferrovirt get <RESOURCE>"), "{}", usage.stderr);
}

#[test]
fn a_watch_goes_on_with_what_changes() {
    let world = World::new();
    let _server = Server::start(&world);
    let apply = |name: &str, memory: &str| {
        let mut command = world.ferrovirt(["apply", "-f", "-"]);
        command.env("KUBECONFIG", world.kubeconfig());
        finish_with_input(command, &machine(name, memory)).succeeded();
    };
    apply("one", "64Mi");
    let mut command = world.ferrovirt(["get", "vm", "-w", "-o", "jsonpath={.metadata.name}{\"\\n\"}"]);
    command.env("KUBECONFIG", world.kubeconfig()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "one");
    apply("two", "64Mi");
    assert_eq!(lines.next().unwrap().unwrap(), "two");
    apply("one", "128Mi");
    assert_eq!(lines.next().unwrap().unwrap(), "one");
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_server_must_be_named_and_there() {
    let world = World::new();
    let server = Server::start(&world);
    let mut text = String::new();
    let config = world.kubeconfig().display().to_string();
    let garbage = world.file("garbage", "a: [").display().to_string();
    let empty = world.file("empty", "apiVersion: v1\nkind: Config\n").display().to_string();
    let away = world.file(
        "away",
        std::fs::read_to_string(world.kubeconfig())
            .unwrap()
            .replace(&server.address().to_string(), "127.0.0.1:1"),
    );
    let mut session = Session::new(&world);
    session.run(&format!("get vm --kubeconfig {config} --context missing"));
    session.run(&format!("get vm --kubeconfig {config} --context ferrovirt"));
    session.run(&format!("get vm --kubeconfig {config}.missing"));
    session.run(&format!("get vm --kubeconfig {garbage}"));
    session.run(&format!("get vm --kubeconfig {empty}"));
    session.run(&format!("get vm --kubeconfig {}", away.display()));
    for kubeconfig in [None, Some(format!("{config}.missing")), Some(format!("{config}.missing:{config}"))] {
        let mut command = world.ferrovirt(["get", "vm"]);
        if let Some(list) = &kubeconfig {
            command.env("KUBECONFIG", list);
        }
        let outcome = finish(command);
        writeln!(text, "{}: {}", outcome.status, outcome.stderr).unwrap();
    }
    session.text.push_str(&text);
    // What `echo` and editors write ends in a line break, which is no part of a token.
    let token = finish(world.kubectl(["create", "token", "default"])).succeeded().stdout;
    let file = world.file("token", format!(" {}\n\n", token.trim()));
    let mut command = world.kubectl(["config", "set", "users.teller.tokenFile"]);
    finish({
        command.arg(&file);
        command
    })
    .succeeded();
    finish(world.kubectl(["config", "set-context", "--current", "--user=teller"])).succeeded();
    session.run("get vm");
    insta::assert_snapshot!(session.end(&server));
}

/// A process that has a Pod's files and variables, and no kubeconfig, is the Pod's account.
#[test]
fn in_a_pod_the_server_is_the_pods() {
    let world = World::new();
    let unshare = ["--map-root-user", "--mount", "sh", "-c"];
    let tried = finish(world.command("unshare", unshare.into_iter().chain(["mount -t tmpfs tmpfs /run"])));
    if !tried.status.success() {
        return println!("no files of a Pod for this test, which takes a mount of its own: {}", tried.stderr);
    }
    let server = Server::start(&world);
    let kubectl = |line: &str| finish(world.kubectl(line.split(' '))).succeeded().stdout;
    kubectl("create rolebinding look --clusterrole=view --serviceaccount=default:default");
    let certificate = "jsonpath={.data.ca\\.crt}";
    world.file("account/ca.crt", kubectl(&format!("get configmap kube-root-ca.crt -o {certificate}")));
    world.file("account/token", kubectl("create token default"));
    world.file("account/namespace", "default");
    let script = "cd account && mount -t tmpfs tmpfs /run && mkdir -p /run/secrets/kubernetes.io && \
                  cp -r . /run/secrets/kubernetes.io/serviceaccount && exec \"$0\" \"$@\"";
    let run = |line: &str| {
        let words =
            unshare.into_iter().chain([script, env!("CARGO_BIN_EXE_ferrovirt")]).chain(line.split(' '));
        let mut command = world.command("unshare", words);
        command.env("KUBERNETES_SERVICE_HOST", server.address().ip().to_string());
        command.env("KUBERNETES_SERVICE_PORT", server.address().port().to_string());
        finish(command)
    };
    wait_until("the account may look", || run("get vm").status.success().then_some(()));
    assert_eq!(run("get configmap -o name").succeeded().stdout, "configmap/kube-root-ca.crt\n");
    let refused = run("delete configmap kube-root-ca.crt").failed();
    let who = "User \"system:serviceaccount:default:default\" cannot delete resource \"configmaps\"";
    assert!(refused.stderr.contains(who), "{}", refused.stderr);
}
