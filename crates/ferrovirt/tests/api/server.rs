//! A server of its own for each test, and commands that talk to it.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// How long anything may take: many times what it takes on a loaded machine, where guests stand behind everything else.
pub const DEADLINE: Duration = Duration::from_secs(300);

/// How often a state is looked at that cannot be waited for.
const PACE: Duration = Duration::from_millis(20);

/// A directory for one test, removed with it.
pub struct World {
    root: tempfile::TempDir,
}

impl World {
    /// An empty one.
    pub fn new() -> Self {
        let root = tempfile::Builder::new().prefix("fv-api").tempdir().unwrap();
        fs::create_dir(root.path().join("home")).unwrap();
        Self { root }
    }

    /// A path in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// Writes a file in it.
    pub fn file(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    }

    /// `program` with nothing of this machine's configuration.
    pub fn command<S: AsRef<OsStr>>(
        &self,
        program: impl AsRef<OsStr>,
        arguments: impl IntoIterator<Item = S>,
    ) -> Command {
        let mut command = Command::new(program);
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            let configures = ["FERROVIRT_", "XDG_", "KUBE", "CARGO", "RUST", "NOTIFY_SOCKET"];
            if configures.iter().any(|prefix| text.starts_with(prefix))
                || text.to_lowercase().ends_with("_proxy")
            {
                command.env_remove(&name);
            }
        }
        command
            .args(arguments)
            .env("HOME", self.path("home"))
            .env("FERROVIRT_STATE_DIR", self.path("state"))
            .env("FERROVIRT_RUN_DIR", self.path("run"))
            .env("NO_COLOR", "1")
            .current_dir(self.root.path())
            .stdin(Stdio::null());
        command
    }

    /// The binary under test.
    pub fn ferrovirt<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        self.command(env!("CARGO_BIN_EXE_ferrovirt"), arguments)
    }

    /// The state of the API server.
    pub fn api_directory(&self) -> PathBuf {
        self.path("state/apiserver")
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.api_directory().join("admin.kubeconfig")
    }

    /// kubectl as the administrator: the newest there is.
    pub fn kubectl<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        self.kubectl_of(&kubectls()[0], arguments)
    }

    /// A certain kubectl as the administrator.
    pub fn kubectl_of<S: AsRef<OsStr>>(
        &self,
        program: impl AsRef<OsStr>,
        arguments: impl IntoIterator<Item = S>,
    ) -> Command {
        let mut command = self.command(program, arguments);
        command.env("KUBECONFIG", self.kubeconfig());
        command
    }
}

/// What a process left behind.
#[derive(Debug)]
pub struct Outcome {
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Outcome {
    /// The same, which must have ended with 0.
    #[track_caller]
    pub fn succeeded(self) -> Self {
        assert!(self.status.success(), "{}\nstdout:\n{}\nstderr:\n{}", self.status, self.stdout, self.stderr);
        self
    }

    /// The same, which must have failed.
    #[track_caller]
    pub fn failed(self) -> Self {
        assert!(!self.status.success(), "succeeded\nstdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }
}

/// Runs `command` to its end under the deadline.
#[track_caller]
pub fn finish(command: Command) -> Outcome {
    finish_with_input(command, "")
}

/// Runs `command` with `input` on its standard input.
#[track_caller]
pub fn finish_with_input(mut command: Command, input: &str) -> Outcome {
    if !input.is_empty() {
        command.stdin(Stdio::piped());
    }
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap_or_else(|error| {
        panic!(
            "cannot start {}: {error}; `make tools` installs what tests need",
            command.get_program().display()
        )
    });
    let mut stdout = child.stdout.take().unwrap();
    let mut stderr = child.stderr.take().unwrap();
    let stdin = child.stdin.take();
    let input = input.to_owned();
    let writer = thread::spawn(move || {
        // A process that reads no more has decided so; what it says about it is looked at below.
        stdin.map(|mut stdin| stdin.write_all(input.as_bytes()))
    });
    let read = thread::spawn(move || {
        let mut text = String::new();
        stdout.read_to_string(&mut text).map(|_| text)
    });
    let read_error = thread::spawn(move || {
        let mut text = String::new();
        stderr.read_to_string(&mut text).map(|_| text)
    });
    let began = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if began.elapsed() > DEADLINE {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!(
                "{command:?} did not end in {DEADLINE:?}; stderr: {}",
                read_error.join().unwrap().unwrap()
            );
        }
        thread::sleep(PACE);
    };
    let _ = writer.join().unwrap();
    Outcome { status, stdout: read.join().unwrap().unwrap(), stderr: read_error.join().unwrap().unwrap() }
}

/// A running server, ended with this value.
pub struct Server {
    child: Child,
    address: SocketAddr,
    stderr: mpsc::Receiver<String>,
    seen: Vec<String>,
}

impl Server {
    /// Starts a server in `world` and waits until it says where it listens.
    #[track_caller]
    pub fn start(world: &World) -> Self {
        Self::start_with(world, &[])
    }

    /// [`start`](Self::start) with further arguments.
    #[track_caller]
    pub fn start_with(world: &World, arguments: &[&str]) -> Self {
        let mut command = world.ferrovirt(["serve", "--api-only", "--listen", "127.0.0.1:0"]);
        command.args(arguments);
        Self::spawn(command)
    }

    /// Starts `command`, which must be a `ferrovirt serve`.
    #[track_caller]
    pub fn spawn(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let pipe = child.stderr.take().unwrap();
        let (sender, stderr) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let address = SocketAddr::from(([0, 0, 0, 0], 0));
        let mut server = Self { child, address, stderr, seen: Vec::new() };
        let line = server.wait_for_line("serving on https://");
        // A log of JSON has more behind it.
        let address = line.split("https://").nth(1).unwrap().split('"').next().unwrap();
        server.address = address.trim().parse().unwrap();
        server
    }

    /// Waits for a line on standard error that holds `text`, the first there is.
    #[track_caller]
    pub fn wait_for_line(&mut self, text: &str) -> String {
        if let Some(line) = self.seen.iter().find(|line| line.contains(text)) {
            return line.clone();
        }
        let deadline = Instant::now() + DEADLINE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.stderr.recv_timeout(left) {
                Ok(line) => {
                    self.seen.push(line.clone());
                    if line.contains(text) {
                        return line;
                    }
                }
                Err(error) => {
                    let status = self.child.try_wait().unwrap();
                    panic!("no line with {text:?} ({error}, {status:?}); seen:\n{}", self.seen.join("\n"));
                }
            }
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its process.
    pub fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap()
    }

    /// Ends it as a power failure would end the process: SIGKILL.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Ends it as a service manager does, and waits for its end.
    #[track_caller]
    pub fn stop(mut self) -> ExitStatus {
        self.end()
    }

    /// The same; the lines that it has written to standard error.
    #[allow(dead_code, reason = "other test targets use it")]
    #[track_caller]
    pub fn stop_for_log(mut self) -> Vec<String> {
        assert!(self.end().success());
        let rest: Vec<_> = self.stderr.iter().collect();
        self.seen.iter().cloned().chain(rest).collect()
    }

    #[track_caller]
    fn end(&mut self) -> ExitStatus {
        kill_process(self.pid(), Signal::TERM).unwrap();
        wait_until("the server ends after SIGTERM", || self.child.try_wait().unwrap())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the line `name` of `/proc/PID/file` says, in KiB.
#[track_caller]
pub fn memory_kib(process: Pid, file: &str, name: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{}/{file}", process.as_raw_nonzero())).unwrap();
    let mut lines = text.lines().filter_map(|line| line.split_once(':'));
    let (_, value) = lines.find(|(of, _)| *of == name).unwrap();
    value.trim().strip_suffix(" kB").unwrap().parse().unwrap()
}

/// Waits until `look` gives something.
#[track_caller]
pub fn wait_until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {DEADLINE:?} in vain until {what}");
        thread::sleep(PACE);
    }
}

/// The kubectls of this machine: the one in the search path, and Debian's older one (1.20) where `make tools` found it.
pub fn kubectls() -> Vec<PathBuf> {
    let search_path = std::env::var_os("PATH").unwrap_or_default();
    let installed =
        std::env::split_paths(&search_path).map(|path| path.join("kubectl")).find(|path| path.is_file());
    let old = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/tools/kubectl-1.20");
    let found: Vec<_> = installed.into_iter().chain(old.canonicalize().ok()).collect();
    assert!(!found.is_empty(), "there is no kubectl; `make tools` unpacks one");
    found
}
