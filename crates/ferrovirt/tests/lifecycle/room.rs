//! A machine room: a server, its directories, its guests, and kubectl.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use launcher::pod_dir::PodDir;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::harness::{Fixtures, Session, World, wait_until_gone};
use crate::real_registry::RealRegistry;
use crate::server::{DEADLINE, Outcome, Server, finish, finish_with_input, kubectls, wait_until};

/// Directories, a server, and a registry that anyone may use.
pub struct Room {
    pub world: World,
    pub registry: RealRegistry,
    server: Option<Server>,
    port: u16,
    /// What it is told to call its Node.
    pub node_name: Option<&'static str>,
    /// Which ports of guests are open: no room changes the host's firewall unless it is about that.
    pod_ports: &'static str,
    /// Further arguments of `serve`.
    arguments: Vec<String>,
    /// Where it looks for programs, when not where this process does.
    search_path: Option<String>,
    /// Whether its server leads a session of its own, as a service does.
    is_service: bool,
}

impl Room {
    /// A room with a running server.
    pub fn new() -> Self {
        Self::with_registry(RealRegistry::start())
    }

    /// A room with this registry.
    pub fn with_registry(registry: RealRegistry) -> Self {
        Self::in_world(World::new(), registry)
    }

    /// A room in directories that are there already.
    pub fn in_world(world: World, registry: RealRegistry) -> Self {
        let mut room = Self::without_server(world, registry);
        room.start_server();
        room
    }

    /// A room whose server is started as a service manager does, in a session of its own.
    pub fn of_a_service() -> Self {
        let mut room = Self::without_server(World::new(), RealRegistry::start());
        room.is_service = true;
        room.start_server();
        room
    }

    /// A room whose server and launchers log JSON.
    pub fn with_json_logs() -> Self {
        let mut room = Self::without_server(World::new(), RealRegistry::start());
        room.arguments = vec!["--log-format=json".to_owned()];
        room.start_server();
        room
    }

    /// Ends the server as a service manager does; what it has logged.
    pub fn stop_server_for_log(&mut self) -> Vec<String> {
        self.server.take().unwrap().stop_for_log()
    }

    /// A room whose server writes an audit log.
    pub fn with_audit() -> Self {
        let mut room = Self::without_server(World::new(), RealRegistry::start());
        room.arguments = vec![format!("--audit-log-path={}", room.world.path("audit.log").display())];
        room.start_server();
        room
    }

    /// A room where a copy of `program` is what is found as QEMU.
    pub fn with_stand_in(program: &Path) -> Self {
        let mut room = Self::without_server(World::new(), RealRegistry::start());
        let programs = room.programs();
        fs::copy(program, programs.join("qemu-system-x86_64")).unwrap();
        let path = std::env::var("PATH").unwrap_or_default();
        room.search_path = Some(format!("{}:{path}", programs.display()));
        room.start_server();
        room
    }

    /// A room where QEMU is installed, and nothing else.
    pub fn with_qemu_alone() -> Self {
        let mut room = Self::without_server(World::new(), RealRegistry::start());
        let path = std::env::var_os("PATH").unwrap_or_default();
        let qemu = vmm::find_in_path(vmm::QEMU_BINARY_NAME.as_ref(), &path).unwrap();
        let programs = room.programs();
        std::os::unix::fs::symlink(qemu, programs.join(vmm::QEMU_BINARY_NAME)).unwrap();
        room.search_path = Some(programs.display().to_string());
        room.start_server();
        room
    }

    /// A new directory for programs.
    fn programs(&self) -> PathBuf {
        let programs = self.world.path("programs");
        fs::create_dir(&programs).unwrap();
        programs
    }

    fn without_server(world: World, registry: RealRegistry) -> Self {
        Self {
            world,
            registry,
            server: None,
            port: 0,
            node_name: Some("node-1"),
            pod_ports: "listed",
            arguments: Vec::new(),
            search_path: None,
            is_service: false,
        }
    }

    /// A room whose guests have all their ports open at their Pods' addresses, by a rule of this host's firewall.
    pub fn with_all_ports() -> Self {
        let mut room = Self::without_server(World::new(), RealRegistry::start());
        room.pod_ports = "all";
        room.start_server();
        room
    }

    /// Starts the server again where the one before it was. The kubeconfig stays right.
    pub fn start_server(&mut self) {
        let mut command = self.world.command(self.serve_arguments());
        if self.is_service {
            let mut leader = Command::new("setsid");
            leader.arg(command.get_program()).args(command.get_args());
            self.world.environment(&mut leader);
            command = leader;
        }
        if let Some(path) = &self.search_path {
            command.env("PATH", path);
        }
        self.spawn_server(command);
    }

    /// Waits until the server's log has a line with this text, which is returned.
    pub fn wait_for_log(&mut self, text: &str) -> String {
        self.server.as_mut().unwrap().wait_for_line(text)
    }

    /// Where the server listens.
    pub fn address(&self) -> SocketAddr {
        self.server.as_ref().unwrap().address()
    }

    /// The server's process.
    pub fn server_process(&self) -> Pid {
        self.server.as_ref().unwrap().pid()
    }

    /// The writes in the namespace `default` that the audit log has from the creation of the first machine on, which is
    /// all that concerns it: `VERB PATH`.
    pub fn writes(&self) -> Vec<String> {
        let log = fs::read_to_string(self.world.path("audit.log")).unwrap();
        let write = |line: &str| {
            let event: Value = serde_json::from_str(line).unwrap();
            let verb = event["verb"].as_str().unwrap_or_default();
            let uri = event["requestURI"].as_str().unwrap_or_default();
            let is_write = matches!(verb, "create" | "update" | "patch" | "delete")
                && uri.contains("/namespaces/default/");
            is_write.then(|| format!("{verb} {uri}"))
        };
        let all = log.lines().filter_map(write);
        all.skip_while(|write| !write.contains("/virtualmachines")).collect()
    }

    /// The same with a clock that is wrong by `offset`, `+2d`; `false` without the library that makes it so.
    pub fn start_server_at(&mut self, offset: &str) -> bool {
        let library = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";
        if !fs::exists(library).unwrap() {
            return false;
        }
        let mut command = self.world.command(self.serve_arguments());
        command.env("LD_PRELOAD", library).env("FAKETIME", offset).env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        self.spawn_server(command);
        true
    }

    fn serve_arguments(&self) -> Vec<String> {
        let listen = format!("127.0.0.1:{}", self.port);
        let words = ["serve", "-v", "--listen", &listen, "--pod-ports", self.pod_ports].map(str::to_owned);
        let name = self.node_name.iter().flat_map(|name| ["--node-name", name]).map(str::to_owned);
        words.into_iter().chain(name).chain(self.arguments.iter().cloned()).collect()
    }

    fn spawn_server(&mut self, command: Command) {
        let server = Server::spawn(command);
        self.port = server.address().port();
        self.server = Some(server);
    }

    /// Ends the server as a crash does: SIGKILL.
    pub fn kill_server(&mut self) {
        self.server.take().unwrap().kill();
    }

    /// Ends everything as a reboot of the host does, and leaves what a disk keeps.
    pub fn reboot(&mut self) {
        self.kill_server();
        for launcher in self.processes("launcher") {
            kill_process(launcher, Signal::KILL).unwrap();
        }
        for guest in self.processes("qemu-system-x86_64") {
            wait_until_gone(guest);
        }
        self.remove_control_groups();
        fs::remove_dir_all(self.world.path("run")).unwrap();
    }

    /// Ends the server as a service manager does.
    pub fn stop_server(&mut self) {
        assert!(self.server.take().unwrap().stop().success());
    }

    /// kubectl as the administrator.
    pub fn kubectl_command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&kubectls()[0]);
        command.args(arguments);
        self.world.environment(&mut command);
        command.env("KUBECONFIG", self.world.path("state/apiserver/admin.kubeconfig"));
        command
    }

    /// Runs kubectl, which must succeed.
    #[track_caller]
    pub fn kubectl(&self, arguments: &[&str]) -> Outcome {
        finish(self.kubectl_command(arguments)).succeeded()
    }

    /// Runs kubectl with `input` on its standard input, which must succeed.
    #[track_caller]
    pub fn kubectl_with_input(&self, arguments: &[&str], input: &str) -> Outcome {
        finish_with_input(self.kubectl_command(arguments), input).succeeded()
    }

    /// Creates or changes what `manifest` says.
    #[track_caller]
    pub fn apply(&self, manifest: &Value) {
        self.kubectl_with_input(&["apply", "-f", "-"], &manifest.to_string());
    }

    /// An object, `vmi/NAME`; `Null` when it does not exist.
    #[track_caller]
    pub fn get(&self, object: &str) -> Value {
        let text = self.kubectl(&["get", object, "--ignore-not-found", "-o", "json"]).stdout;
        if text.is_empty() { Value::Null } else { serde_json::from_str(&text).unwrap() }
    }

    /// The objects of a kind, `pods`.
    #[track_caller]
    pub fn list(&self, kind: &str) -> Vec<Value> {
        let text = self.kubectl(&["get", kind, "-o", "json"]).stdout;
        match serde_json::from_str::<Value>(&text).unwrap()["items"].take() {
            Value::Array(items) => items,
            other => panic!("{other}"),
        }
    }

    /// Waits until `object` is as `wanted` says.
    #[track_caller]
    pub fn wait(&self, object: &str, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let found = self.get(object);
            if wanted(&found) {
                return found;
            }
            assert!(Instant::now() < deadline, "waited in vain until {object} {what}; it is {found:#}");
            std::thread::sleep(Duration::from_millis(60));
        }
    }

    /// Waits for a phase of `vmi/NAME` or `pod/NAME`.
    #[track_caller]
    pub fn wait_for_phase(&self, object: &str, phase: &str) -> Value {
        self.wait(object, phase, |found| found["status"]["phase"] == phase)
    }

    /// Waits for the `printableStatus` of a VirtualMachine.
    #[track_caller]
    pub fn wait_for_status(&self, name: &str, status: &str) -> Value {
        let object = format!("vm/{name}");
        self.wait(&object, status, |found| found["status"]["printableStatus"] == status)
    }

    /// Waits until an object is gone.
    #[track_caller]
    pub fn wait_until_gone(&self, object: &str) {
        self.wait(object, "is gone", Value::is_null);
    }

    /// PUTs `start`, `stop` or `restart` of a VirtualMachine, as virtctl does.
    pub fn put(&self, name: &str, action: &str, options: &Value) -> Outcome {
        self.put_to("virtualmachines", name, action, options)
    }

    /// PUTs a subresource of a machine or an instance (`resource`), as virtctl does.
    pub fn put_to(&self, resource: &str, name: &str, action: &str, options: &Value) -> Outcome {
        let path = format!("/apis/subresources.kubevirt.io/v1/namespaces/default/{resource}/{name}/{action}");
        finish_with_input(self.kubectl_command(&["replace", "--raw", &path, "-f", "-"]), &options.to_string())
    }

    /// The launcher Pods of the instance `name`.
    #[track_caller]
    pub fn pods_of(&self, name: &str) -> Vec<Value> {
        let text =
            self.kubectl(&["get", "pods", "-l", &format!("vm.kubevirt.io/name={name}"), "-o", "json"]).stdout;
        serde_json::from_str::<Value>(&text).unwrap()["items"].as_array().unwrap().clone()
    }

    /// The name of the one launcher Pod of the instance `name`.
    #[track_caller]
    pub fn pod_of(&self, name: &str) -> String {
        let pods = self.pods_of(name);
        assert_eq!(pods.len(), 1, "{pods:?}");
        pods[0]["metadata"]["name"].as_str().unwrap().to_owned()
    }

    /// The console of the instance `name` so far.
    #[track_caller]
    pub fn console(&self, name: &str) -> String {
        self.kubectl(&["logs", &self.pod_of(name), "-c", "guest-console-log"]).stdout
    }

    /// Waits for a text on the console of the instance `name`.
    #[track_caller]
    pub fn wait_for_console(&self, name: &str, text: &str) {
        let pod = self.pod_of(name);
        wait_until(&format!("{name} prints {text:?}"), || {
            std::thread::sleep(Duration::from_millis(60));
            // The log is there a moment after the Pod.
            let read = finish(self.kubectl_command(&["logs", &pod, "-c", "guest-console-log"]));
            read.stdout.contains(text).then_some(())
        });
    }

    /// `TYPE REASON MESSAGE` of each event about the object, in the order in which they came.
    #[track_caller]
    pub fn events(&self, kind: &str, name: &str) -> Vec<String> {
        let selector = format!("involvedObject.kind={kind},involvedObject.name={name}");
        let text = self.kubectl(&["get", "events", "--field-selector", &selector, "-o", "json"]).stdout;
        let mut events = serde_json::from_str::<Value>(&text).unwrap()["items"].as_array().unwrap().clone();
        events.sort_by_key(|event| {
            event["metadata"]["resourceVersion"].as_str().unwrap().parse::<u64>().unwrap()
        });
        let word = |event: &Value, field: &str| event[field].as_str().unwrap_or_default().to_owned();
        events
            .iter()
            .map(|event| {
                format!("{} {} {}", word(event, "type"), word(event, "reason"), word(event, "message"))
            })
            .collect()
    }

    /// Waits for an event about the object with this text in its `TYPE REASON MESSAGE`: it comes a moment after what it
    /// tells of.
    #[track_caller]
    pub fn wait_for_event(&self, kind: &str, name: &str, text: &str) {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let told = self.events(kind, name);
            if told.iter().any(|event| event.contains(text)) {
                return;
            }
            assert!(Instant::now() < deadline, "no event {text:?} about {kind} {name}; there are {told:?}");
            std::thread::sleep(Duration::from_millis(60));
        }
    }

    /// A reference in the room's registry.
    pub fn reference(&self, name: &str) -> String {
        format!("{}/{name}", self.registry.host())
    }

    /// Builds and pushes kernel and initrd of the fixtures as `reference`.
    pub fn push(&self, reference: &str, kernel: &str) {
        self.world.build_image(reference, kernel, &["--push"]);
    }

    /// Builds and pushes the kernel and another initrd of the fixtures as `reference`.
    pub fn push_initrd(&self, reference: &str, initrd: &str) {
        let mut command = self.world.command(["image", "build", "--push", "--tag", reference]);
        command.arg("--kernel").arg(Fixtures::path("vmlinuz"));
        command.arg("--initrd").arg(Fixtures::path(initrd));
        Session::start(command).finish().expect_code(0);
    }

    /// The processes of this room that run `program` (`qemu-system-x86_64`, or `launcher` for launchers), by what their
    /// command line names.
    pub fn processes(&self, program: &str) -> Vec<Pid> {
        let marker = self.world.path("run").display().to_string();
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            let Ok(bytes) = fs::read(entry.path().join("cmdline")) else { continue };
            let words: Vec<_> = bytes.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
            let is_program = match program {
                "launcher" => words.iter().any(|word| word == "launcher"),
                other => words.first().is_some_and(|first| first.ends_with(other)),
            };
            if is_program && words.iter().any(|word| word.contains(&marker)) {
                found.extend(Pid::from_raw(pid));
            }
        }
        found
    }

    /// The directories of Pods on this machine.
    pub fn pod_directories(&self) -> Vec<PathBuf> {
        match fs::read_dir(self.world.path("run/pods")) {
            Ok(entries) => entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()).collect(),
            Err(_) => Vec::new(),
        }
    }

    /// Removes the control groups of launchers that were killed and have no node any more to do it.
    fn remove_control_groups(&self) {
        for directory in self.pod_directories() {
            // A launcher that was killed early has none.
            let group = fs::read(PodDir::new(directory).control_group()).unwrap_or_default();
            let group: Vec<PathBuf> = serde_json::from_slice(&group).unwrap_or_default();
            // What stays is empty, and no reason for a test to fail.
            let _ = launcher::cgroup::remove(&group);
        }
    }

    /// Waits until nothing of any machine is left: no process, no directory, no Pod.
    #[track_caller]
    pub fn wait_until_empty(&self) {
        wait_until("nothing of a machine is left", || {
            let is_empty = self.processes("launcher").is_empty()
                && self.processes("qemu-system-x86_64").is_empty()
                && self.pod_directories().is_empty()
                && self.list("pods").is_empty();
            is_empty.then_some(())
        });
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        drop(self.server.take());
        // Launchers outlive their daemon; QEMU ends with its launcher. A process that has gone meanwhile is as wanted.
        for process in self.processes("launcher") {
            let _ = kill_process(process, Signal::KILL);
        }
        self.remove_control_groups();
    }
}

/// What a machine of these tests boots.
pub struct Boot<'a> {
    pub image: &'a str,
    pub policy: &'a str,
    /// The word behind `guest=`, see demo/init.
    pub guest: &'a str,
}

/// A VirtualMachineInstance spec.
pub fn spec(boot: &Boot<'_>) -> Value {
    let mut container = json!({
        "image": boot.image, "kernelPath": "/boot/vmlinuz-virt", "initrdPath": "/boot/initramfs-virt",
    });
    if !boot.policy.is_empty() {
        container["imagePullPolicy"] = json!(boot.policy);
    }
    json!({
        "terminationGracePeriodSeconds": 0,
        "domain": {
            "devices": {},
            "memory": {"guest": "128Mi"},
            "firmware": {"kernelBoot": {
                "container": container,
                // Linux panics where the timer does not tick as fast as it counts, which a busy host makes of an emulated one.
                "kernelArgs": format!("console=ttyS0 no_timer_check guest={}", boot.guest),
            }},
        },
    })
}

/// A VirtualMachineInstance.
pub fn instance(name: &str, boot: &Boot<'_>) -> Value {
    json!({
        "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance",
        "metadata": {"name": name}, "spec": spec(boot),
    })
}

/// A VirtualMachine.
pub fn machine(name: &str, strategy: &str, boot: &Boot<'_>) -> Value {
    json!({
        "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine",
        "metadata": {"name": name},
        "spec": {"runStrategy": strategy, "template": {"spec": spec(boot)}},
    })
}
