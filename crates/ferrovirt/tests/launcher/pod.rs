//! A Pod's directory as a node lays it out, and the launcher in it.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use launcher::control::Client;
use launcher::pod_dir::{ImageVolume, ImageVolumeFile, LauncherRecord, PodDir};
use manifest::machine_status::{MachineState, MachineStatus, StateReason};
use manifest::types::VirtualMachineInstance;
use node::pki::Authority;
use rustix::process::{Pid, Signal, kill_process};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// How long anything may take: many times what a boot under TCG takes on a loaded machine.
pub const DEADLINE: Duration = Duration::from_secs(120);

/// How often a state is looked at that cannot be waited for.
const PACE: Duration = Duration::from_millis(20);

/// UID of the instance.
pub const UID: &str = "5d307ca9-b3ef-428c-8861-06e72d69f223";

/// A file of `target/fixtures`.
pub fn fixture(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/fixtures").join(name);
    assert!(path.exists(), "`{}` is missing; `make fixtures` makes it", path.display());
    path.canonicalize().unwrap()
}

/// A Pod's directory with certificates and boot files, removed with it.
pub struct Pod {
    root: tempfile::TempDir,
    /// The directory.
    pub dir: PodDir,
    authority: Authority,
}

impl Pod {
    /// With the fixtures as image.
    pub fn new() -> Self {
        // QEMU runs as another user when the tests run as root, and must reach its socket in here.
        let root = tempfile::Builder::new().prefix("fv").tempdir().unwrap();
        fs::set_permissions(root.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let dir = PodDir::new(root.path().join("pod"));
        fs::create_dir_all(dir.tls()).unwrap();
        fs::create_dir_all(dir.image_volume("x").parent().unwrap()).unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o711)).unwrap();
        let authority = Authority::open(&root.path().join("pki")).unwrap();
        let identity = authority.launcher(IpAddr::from([127, 0, 0, 1])).unwrap();
        for (name, text) in [
            ("ca.crt", authority.certificate()),
            ("tls.crt", &identity.certificate),
            ("tls.key", &identity.key),
        ] {
            fs::write(dir.tls().join(name), text).unwrap();
        }
        let pod = Self { root, dir, authority };
        pod.image(vec![
            pod.file("/boot/vmlinuz", &fixture("vmlinuz")),
            pod.file("/boot/initrd", &fixture("initrd")),
        ]);
        pod
    }

    /// A path beside the Pod's directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// A file of an image that belongs to QEMU.
    pub fn file(&self, requested: &str, path: &Path) -> ImageVolumeFile {
        ImageVolumeFile {
            requested: requested.to_owned(),
            resolved: requested.to_owned(),
            path: path.to_owned(),
            size_bytes: fs::metadata(path).unwrap().len(),
            crc32: None,
            uid: 107,
            gid: 107,
            mode: 0o644,
        }
    }

    /// Lays out an image with `files`.
    pub fn image(&self, files: Vec<ImageVolumeFile>) {
        let volume = ImageVolume {
            image: "demo/kernel:1".to_owned(),
            digest: format!("sha256:{}", "a".repeat(64)),
            files,
            missing: Vec::new(),
            pull_started: 1_700_000_000_000,
            pulled: 1_700_000_000_500,
        };
        let record = self.dir.image_volume("kernel-boot-volume");
        fs::write(record, serde_json::to_vec(&volume).unwrap()).unwrap();
    }

    /// The launcher's command.
    pub fn command(&self, grace_seconds: u64) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ferrovirt"));
        command
            .arg("--state-dir")
            .arg(self.path("state"))
            .arg("--run-dir")
            .arg(self.path("run"))
            .arg("launcher")
            .arg("--pod-dir")
            .arg(self.dir.path())
            .args(["--listen=127.0.0.1:0", "--name=vm", "--namespace=default", "--accel=tcg"])
            .args(["--uid", UID, "--grace-period-seconds", &grace_seconds.to_string()])
            .stdin(Stdio::null());
        command
    }

    /// Starts the launcher and waits until it can be asked.
    pub fn start(&self, grace_seconds: u64) -> Launcher {
        self.start_by(self.command(grace_seconds))
    }

    /// The same by this command.
    pub fn start_by(&self, mut command: Command) -> Launcher {
        let mut child = command.spawn().unwrap();
        let record = self.dir.launcher_record();
        let record: LauncherRecord = wait_for("the launcher's record", || {
            assert_eq!(child.try_wait().unwrap(), None, "the launcher has ended");
            // An earlier one, which was killed, may have left its own.
            read(&record).filter(|record: &LauncherRecord| record.process_id == child.id())
        });
        let identity = self.authority.controllers().unwrap();
        let client = Client::new(self.authority.certificate(), &identity.certificate, &identity.key).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Launcher { child, address: record.control, client, runtime, dir: self.dir.clone() }
    }

    /// What a container has logged, without the fields of the format.
    pub fn log(&self, container: &str) -> String {
        let text = fs::read(self.dir.log(container)).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let mut contents = String::new();
        // The last one may be half there, when it is being written across two pages of the file.
        for record in text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')) {
            let [_, _, tag, content] = record.splitn(4, ' ').collect::<Vec<_>>()[..] else {
                panic!("`{record}` is no record");
            };
            contents.push_str(content);
            if tag == "F" {
                contents.push('\n');
            }
        }
        contents
    }

    /// Waits until the guest has said `text`.
    pub fn wait_for_console(&self, text: &str) {
        wait_for(&format!("`{text}` on the console"), || {
            self.log("guest-console-log").contains(text).then_some(())
        });
    }
}

/// An instance that boots the Pod's image, `domain` merged into its domain.
pub fn instance(kernel_arguments: &str, domain: Value) -> VirtualMachineInstance {
    let mut instance = json!({
        "apiVersion": "kubevirt.io/v1",
        "kind": "VirtualMachineInstance",
        "metadata": {"name": "vm", "namespace": "default", "uid": UID, "generation": 1},
        "spec": {
            "domain": {
                "devices": {},
                "memory": {"guest": "128Mi"},
                "firmware": {"kernelBoot": {
                    "kernelArgs": format!("console=ttyS0 {kernel_arguments}"),
                    "container": {
                        "image": "demo/kernel:1",
                        "kernelPath": "/boot/vmlinuz",
                        "initrdPath": "/boot/initrd",
                    },
                }},
            },
        },
    });
    for (name, value) in domain.as_object().unwrap() {
        instance["spec"]["domain"][name] = value.clone();
    }
    serde_json::from_value(instance).unwrap()
}

/// A running launcher, killed with its machine when dropped.
pub struct Launcher {
    child: Child,
    address: SocketAddr,
    client: Client,
    runtime: tokio::runtime::Runtime,
    dir: PodDir,
}

impl Launcher {
    /// Its process.
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Asks it.
    pub fn ask<T>(&self, ask: impl AsyncFnOnce(Client, SocketAddr) -> T) -> T {
        self.runtime.block_on(ask(self.client.clone(), self.address))
    }

    /// Hands it an instance.
    #[track_caller]
    pub fn put(&self, instance: &VirtualMachineInstance) -> MachineStatus {
        self.ask(async |client, at| client.put_machine(at, instance).await).unwrap()
    }

    /// Hands it an instance, which must run then.
    #[track_caller]
    pub fn boot(&self, instance: &VirtualMachineInstance) -> MachineStatus {
        let mut status = self.put(instance);
        let deadline = Instant::now() + DEADLINE;
        while status.state == MachineState::None && status.sync_error.is_none() {
            assert!(Instant::now() < deadline, "the machine does not start: {status:?}");
            status = self.ask(async |client, at| client.status(at, status.revision).await).unwrap();
        }
        assert_eq!(status.sync_error, None);
        status
    }

    /// Waits for a status.
    #[track_caller]
    pub fn wait_for_status(&self, is_wanted: impl Fn(&MachineStatus) -> bool) -> MachineStatus {
        let deadline = Instant::now() + DEADLINE;
        let mut after = 0;
        loop {
            let status = self.ask(async |client, at| client.status(at, after).await).unwrap();
            if is_wanted(&status) {
                return status;
            }
            assert!(Instant::now() < deadline, "last seen: {status:?}");
            after = status.revision;
        }
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    /// Its QEMU, of which there must be one.
    pub fn qemu(&self) -> Pid {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap();
        let children: Vec<Pid> = tasks
            .flat_map(|task| {
                let listed = fs::read_to_string(task.unwrap().path().join("children")).unwrap();
                listed
                    .split_whitespace()
                    .map(|pid| Pid::from_raw(pid.parse().unwrap()).unwrap())
                    .collect::<Vec<_>>()
            })
            .collect();
        assert_eq!(children.len(), 1, "children of the launcher: {children:?}");
        children[0]
    }

    /// Waits for its end.
    #[track_caller]
    pub fn end(&mut self) -> ExitStatus {
        wait_for("the launcher's end", || self.child.try_wait().unwrap())
    }

    /// Waits for its end, which must be this one by exit code and record; gives the record.
    #[track_caller]
    pub fn expect_end(&mut self, code: i32, state: MachineState, reason: StateReason) -> MachineStatus {
        let ended = self.end();
        let last: MachineStatus = read(&self.dir.exit_record()).expect("a last status");
        assert_eq!((ended.code(), last.state, last.reason), (Some(code), state, reason), "{last:?}");
        last
    }
}

impl Drop for Launcher {
    fn drop(&mut self) {
        // QEMU ends with it. An error says that it has ended, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
        // There is no node to do it. What stays is empty, and no reason for a test to fail that did not fail before.
        let group: Option<Vec<PathBuf>> = read(&self.dir.control_group());
        let _ = launcher::cgroup::remove(&group.unwrap_or_default());
    }
}

/// A JSON document, once it is there.
pub fn read<T: DeserializeOwned>(path: &Path) -> Option<T> {
    Some(serde_json::from_slice(&fs::read(path).ok()?).unwrap())
}

/// Waits until `look` finds something.
#[track_caller]
pub fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "no {what} after {DEADLINE:?}");
        std::thread::park_timeout(PACE);
    }
}

/// Waits until no process has this id, or only a dead one that nobody waited for yet.
#[track_caller]
pub fn wait_until_gone(process: Pid) {
    wait_for("end of a process", || {
        let stat = fs::read_to_string(format!("/proc/{}/stat", process.as_raw_nonzero())).unwrap_or_default();
        // After the name in parentheses comes the state.
        let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
        matches!(state, None | Some('Z' | 'X')).then_some(())
    });
}
