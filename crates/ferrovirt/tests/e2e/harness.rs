//! A world of its own for each test: directories, environment, and the binary running in it.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, tcgetattr};

/// How long anything may take: many times what a boot under TCG takes on a loaded machine.
pub const DEADLINE: Duration = Duration::from_secs(120);

/// How often a state is looked at that cannot be waited for.
const PACE: Duration = Duration::from_millis(20);

/// The kernels and initrds that `make fixtures` makes.
pub struct Fixtures;

impl Fixtures {
    /// A file of `target/fixtures`.
    pub fn path(name: &str) -> PathBuf {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/fixtures").join(name);
        assert!(path.exists(), "`{}` is missing; `make fixtures` makes it", path.display());
        path.canonicalize().unwrap()
    }

    /// What `uname -r` prints in a guest with kernel `name`.
    pub fn version(name: &str) -> String {
        let versions = fs::read_to_string(Self::path("versions")).unwrap();
        let found = versions.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        found.unwrap_or_else(|| panic!("no version of `{name}` in:\n{versions}")).to_owned()
    }
}

/// Directories and environment of one test, removed with it.
pub struct World {
    root: tempfile::TempDir,
}

impl World {
    /// An empty world: no image, no registry configured, no credentials.
    pub fn new() -> Self {
        // QEMU runs as another user when the tests run as root, and must reach the kernels in here.
        let root = tempfile::Builder::new().prefix("fv").tempdir().unwrap();
        fs::set_permissions(root.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let world = Self { root };
        fs::create_dir(world.path("home")).unwrap();
        world.registries("short-name-mode = \"permissive\"\n");
        world
    }

    /// A path in this world.
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// Writes `text` to a file in this world.
    pub fn file(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    }

    /// Replaces registries.conf(5).
    pub fn registries(&self, text: &str) {
        self.file("registries.conf", text);
    }

    /// The binary with `arguments` in this world, not yet started.
    pub fn command<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ferrovirt"));
        command.args(arguments);
        self.environment(&mut command);
        command
    }

    /// Gives `command` the environment of this world and nothing of the machine's configuration.
    pub fn environment(&self, command: &mut Command) {
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy();
            let configures = ["FERROVIRT_", "XDG_", "DOCKER_", "REGISTRY_", "CONTAINERS_", "CARGO", "RUST"];
            if configures.iter().any(|prefix| name.starts_with(prefix))
                || name.to_lowercase().ends_with("_proxy")
            {
                command.env_remove(&*name);
            }
        }
        command
            .env("HOME", self.path("home"))
            .env("FERROVIRT_STATE_DIR", self.path("state"))
            .env("FERROVIRT_RUN_DIR", self.path("run"))
            .env("CONTAINERS_REGISTRIES_CONF", self.path("registries.conf"))
            .env("NO_COLOR", "1")
            .current_dir(self.root.path());
    }

    /// Runs the binary to its end, with nothing on standard input.
    pub fn ferrovirt<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Outcome {
        Session::start(self.command(arguments)).finish()
    }

    /// Runs the binary, which must end with 0.
    pub fn succeed<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Outcome {
        self.ferrovirt(arguments).expect_code(0)
    }

    /// Builds image `reference` out of a kernel of the fixtures and its initrd.
    pub fn build_image(&self, reference: &str, kernel: &str, extra: &[&str]) -> Outcome {
        let (kernel, initrd) = (Fixtures::path(kernel), Fixtures::path(&kernel.replace("vmlinuz", "initrd")));
        let mut command = self.command(["image", "build", "--tag", reference]);
        command.arg("--kernel").arg(kernel).arg("--initrd").arg(initrd).args(extra);
        Session::start(command).finish().expect_code(0)
    }

    /// The arguments that boot the fixture kernel without an image, with `append` behind the command line (which is
    /// `console=ttyS0` where no manifest gives another).
    pub fn boot_arguments(&self, append: &str, extra: &[&str]) -> Vec<String> {
        let mut arguments = vec![
            "run".to_owned(),
            "--accel=tcg".to_owned(),
            format!("--kernel={}", Fixtures::path("vmlinuz").display()),
            format!("--initrd={}", Fixtures::path("initrd").display()),
            format!("--append={append}"),
        ];
        arguments.extend(extra.iter().map(|&argument| argument.to_owned()));
        arguments
    }

    /// Boots the fixture kernel without an image to the run's end.
    pub fn boot(&self, append: &str, extra: &[&str]) -> Outcome {
        self.ferrovirt(self.boot_arguments(append, extra))
    }

    /// Starts such a boot and returns while it runs.
    pub fn start_boot(&self, append: &str, extra: &[&str]) -> Session {
        Session::start(self.command(self.boot_arguments(append, extra)))
    }

    /// The console log that is kept in the run directory, of which there must be one.
    pub fn console_log(&self) -> PathBuf {
        let mut found = Vec::new();
        let mut directories = vec![self.path("run")];
        while let Some(directory) = directories.pop() {
            for entry in fs::read_dir(&directory).unwrap().map(Result::unwrap) {
                if entry.file_type().unwrap().is_dir() {
                    directories.push(entry.path());
                } else if entry.file_name() == "console.log" {
                    found.push(entry.path());
                }
            }
        }
        assert_eq!(found.len(), 1, "console logs in the run directory: {found:?}");
        found.remove(0)
    }
}

/// A manifest of a `VirtualMachine` that boots kernel and initrd of `image`.
pub fn manifest(name: &str, image: &str, policy: &str, kernel_arguments: &str) -> String {
    let policy =
        if policy.is_empty() { String::new() } else { format!("\n              imagePullPolicy: {policy}") };
    format!(
        "apiVersion: kubevirt.io/v1
kind: VirtualMachine
metadata:
  name: {name}
spec:
  runStrategy: Manual
  template:
    spec:
      domain:
        devices: {{}}
        firmware:
          kernelBoot:
            container:
              image: {image}
              kernelPath: /boot/vmlinuz-virt
              initrdPath: /boot/initramfs-virt{policy}
            kernelArgs: {kernel_arguments}
        memory:
          guest: 256Mi
"
    )
}

/// What a finished process left.
#[derive(Clone)]
pub struct Outcome {
    /// How it was called.
    pub call: String,
    /// How it ended.
    pub status: ExitStatus,
    /// Standard output, the guest's console.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Outcome {
    /// The exit code; a process ended by a signal has none.
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// Fails the test with everything that was said unless the exit code is `code`.
    #[track_caller]
    pub fn expect_code(self, code: i32) -> Self {
        assert_eq!(self.code(), Some(code), "exit code of {self}");
        self
    }

    /// Fails the test unless standard output holds `text`.
    #[track_caller]
    pub fn expect_stdout(self, text: &str) -> Self {
        assert!(self.stdout.contains(text), "no `{text}` on the standard output of {self}");
        self
    }

    /// Fails the test unless standard error holds `text`.
    #[track_caller]
    pub fn expect_stderr(self, text: &str) -> Self {
        assert!(self.stderr.contains(text), "no `{text}` on the standard error of {self}");
        self
    }

    /// Fails the test unless this is a refusal as every refusal should be: exit code 1, one `error:`, something to do
    /// about it, nothing on standard output, no backtrace; and `words` are all in it.
    #[track_caller]
    pub fn expect_refusal(self, words: &[&str]) -> Self {
        assert_eq!(self.code(), Some(1), "exit code of {self}");
        let lines = |label: &str| self.stderr.lines().filter(|line| line.starts_with(label)).count();
        assert_eq!(lines("error: "), 1, "there should be one error in {self}");
        assert!(lines("hint: ") >= 1, "there should be a hint in {self}");
        assert_eq!(self.stdout, "", "a refusal prints no data: {self}");
        assert!(!self.stderr.contains("panicked at"), "the program panicked: {self}");
        for word in words {
            assert!(self.stderr.contains(word), "no `{word}` on the standard error of {self}");
        }
        self
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let signal = self.status.signal().map(|number| format!(" (signal {number})")).unwrap_or_default();
        writeln!(formatter, "{}\n{}{signal}", self.call, self.status)?;
        writeln!(formatter, "--- stdout\n{}\n--- stderr\n{}", self.stdout, self.stderr)
    }
}

/// What a pipe gave so far, and whether it ended.
#[derive(Default)]
struct Captured {
    bytes: Vec<u8>,
    ended: bool,
}

/// A pipe that is read by a thread of its own, so that no reader ever blocks the process under test.
#[derive(Clone)]
struct Capture(Arc<(Mutex<Captured>, Condvar)>);

impl Capture {
    fn of(mut pipe: impl Read + Send + 'static) -> Self {
        let capture = Self(Arc::default());
        let shared = capture.clone();
        thread::spawn(move || {
            let (captured, changed) = &*shared.0;
            let mut buffer = [0; 8192];
            loop {
                // A pseudo-terminal whose other side closed gives an error, which is its end.
                let length = pipe.read(&mut buffer).unwrap_or(0);
                let mut captured = captured.lock().unwrap();
                captured.bytes.extend_from_slice(&buffer[..length]);
                captured.ended |= length == 0;
                changed.notify_all();
                if captured.ended {
                    return;
                }
            }
        });
        capture
    }

    /// Waits until `is_enough` of the text so far, the end, or the deadline; returns the text and whether it was
    /// enough.
    fn wait(&self, deadline: Instant, is_enough: impl Fn(&str) -> bool) -> (String, bool) {
        let (captured, changed) = &*self.0;
        let mut captured = captured.lock().unwrap();
        loop {
            let text = String::from_utf8_lossy(&captured.bytes).into_owned();
            let enough = is_enough(&text);
            let left = deadline.saturating_duration_since(Instant::now());
            if enough || captured.ended || left.is_zero() {
                return (text, enough);
            }
            captured = changed.wait_timeout(captured, left).unwrap().0;
        }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.0.lock().unwrap().bytes).into_owned()
    }
}

/// A running process in a process group of its own, killed with its group when dropped.
pub struct Session {
    call: String,
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Capture,
    stderr: Capture,
    deadline: Instant,
}

impl Session {
    /// Starts `command` with nothing on standard input.
    pub fn start(mut command: Command) -> Self {
        command.stdin(Stdio::null());
        Self::spawn(command)
    }

    /// Starts `command` with a pipe on standard input, for [`type_line`](Self::type_line).
    pub fn start_with_input(mut command: Command) -> Self {
        command.stdin(Stdio::piped());
        Self::spawn(command)
    }

    /// Starts `command` with the standard input that it has.
    pub fn spawn(mut command: Command) -> Self {
        // Debug output of a command lists every variable of its environment.
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        let call = words.map(|word| format!("{word:?}")).collect::<Vec<_>>().join(" ");
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let mut child = command.spawn().unwrap_or_else(|error| panic!("cannot start {call}: {error}"));
        Self {
            call,
            stdin: child.stdin.take(),
            stdout: Capture::of(child.stdout.take().unwrap()),
            stderr: Capture::of(child.stderr.take().unwrap()),
            child,
            deadline: Instant::now() + DEADLINE,
        }
    }

    /// The process's id.
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Waits until standard output holds `text` `count` times.
    #[track_caller]
    pub fn wait_for_stdout(&self, text: &str, count: usize) {
        let (seen, enough) = self.stdout.wait(self.deadline, |seen| seen.matches(text).count() >= count);
        assert!(
            enough,
            "`{text}` was not printed {count} times by {}\n--- stdout\n{seen}\n--- stderr\n{}",
            self.call,
            self.stderr.text()
        );
    }

    /// Waits until standard error holds `text`.
    #[track_caller]
    pub fn wait_for_stderr(&self, text: &str) {
        let (seen, enough) = self.stderr.wait(self.deadline, |seen| seen.contains(text));
        assert!(enough, "`{text}` was not said by {}\n--- stderr\n{seen}", self.call);
    }

    /// Types a line into standard input.
    pub fn type_line(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().expect("a session with input");
        writeln!(stdin, "{line}").and_then(|()| stdin.flush()).unwrap();
    }

    /// Sends a signal to the process alone, not to its children.
    pub fn signal(&self, signal: Signal) {
        rustix::process::kill_process(self.pid(), signal).unwrap();
    }

    /// The processes that the process started and that run `program`.
    pub fn children_running(&self, program: &str) -> Vec<Pid> {
        children_of(self.pid())
            .into_iter()
            .filter(|&child| program_of(child).as_deref() == Some(program))
            .collect()
    }

    /// Waits for the end.
    #[track_caller]
    pub fn finish(mut self) -> Outcome {
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(
                Instant::now() < self.deadline,
                "not ended after {DEADLINE:?}: {}\n--- stdout\n{}\n--- stderr\n{}",
                self.call,
                self.stdout.text(),
                self.stderr.text()
            );
            thread::park_timeout(PACE);
        };
        let deadline = Instant::now() + DEADLINE;
        let (stdout, _) = self.stdout.wait(deadline, |_| false);
        let (stderr, _) = self.stderr.wait(deadline, |_| false);
        Outcome { call: self.call.clone(), status, stdout, stderr }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // Fails when every process of the group is gone, which is what is wanted.
        let _ = kill_process_group(self.pid(), Signal::KILL);
        let _ = self.child.wait();
    }
}

/// Both ends of a pseudo-terminal.
pub struct Terminal {
    /// Where the test types.
    keyboard: File,
    /// What the program under test has as its terminal.
    device: File,
}

impl Terminal {
    /// A new one, which edits lines.
    pub fn open() -> Self {
        let keyboard = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&keyboard).unwrap();
        unlockpt(&keyboard).unwrap();
        let name = ptsname(&keyboard, Vec::new()).unwrap();
        let device = OpenOptions::new().read(true).write(true).open(name.to_str().unwrap()).unwrap();
        Self { keyboard: File::from(keyboard), device }
    }

    /// The end for the program under test.
    pub fn stdin(&self) -> Stdio {
        self.device.try_clone().unwrap().into()
    }

    /// Whether every key goes to the program at once, as it is.
    pub fn is_raw(&self) -> bool {
        let modes = tcgetattr(&self.device).unwrap().local_modes;
        !modes.intersects(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG)
    }

    /// Types `keys`.
    pub fn press(&mut self, keys: &[u8]) {
        self.keyboard.write_all(keys).unwrap();
    }
}

fn children_of(parent: Pid) -> Vec<Pid> {
    let tasks = format!("/proc/{}/task", parent.as_raw_nonzero());
    let Ok(tasks) = fs::read_dir(tasks) else {
        return Vec::new();
    };
    let mut children = Vec::new();
    for task in tasks.flatten() {
        let listed = fs::read_to_string(task.path().join("children")).unwrap_or_default();
        children.extend(listed.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)));
    }
    children
}

/// The file name of a process's executable.
fn program_of(process: Pid) -> Option<String> {
    let executable = fs::read_link(format!("/proc/{}/exe", process.as_raw_nonzero())).ok()?;
    Some(executable.file_name()?.to_string_lossy().into_owned())
}

/// Waits until no process has this id, or only a dead one that nobody waited for yet.
#[track_caller]
pub fn wait_until_gone(process: Pid) {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let stat = fs::read_to_string(format!("/proc/{}/stat", process.as_raw_nonzero())).unwrap_or_default();
        // After the name in parentheses comes the state.
        let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
        if matches!(state, None | Some('Z' | 'X')) {
            return;
        }
        assert!(Instant::now() < deadline, "process {process:?} is still alive: {stat}");
        thread::park_timeout(PACE);
    }
}
