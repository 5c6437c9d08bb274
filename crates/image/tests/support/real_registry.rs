//! A real registry (Debian's `docker-registry`) on a loopback port of its own, ended when dropped, and calls
//! of the container tools that sit on the other side of it.

#![allow(dead_code, reason = "each test binary uses its part of the helpers")]

use std::ffi::OsStr;
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a registry may take to answer on a loaded machine.
const START_DEADLINE: Duration = Duration::from_secs(60);

/// How often another port is tried when someone else took the one that was free a moment ago.
const START_ATTEMPTS: usize = 5;

/// The one user of a registry with a password.
pub const USER: &str = "tester";
/// That user's password.
pub const PASSWORD: &str = "correct horse";
/// [`PASSWORD`], hashed by bcrypt at its lowest cost, as `htpasswd -nbB -C 5` does.
const PASSWORD_HASH: &str = "$2y$05$abcdefghijklmnopqrstuuHNbAKRhpaujgo33bRWs.NLUTJO3lOy2";

/// A running registry, empty at first.
pub struct RealRegistry {
    process: Child,
    address: SocketAddr,
    directory: tempfile::TempDir,
    /// Read by the registry when it starts and when it wants to.
    _passwords: Option<tempfile::TempDir>,
}

impl RealRegistry {
    /// Starts a registry that anyone may use, and waits until it answers.
    pub fn start() -> Self {
        Self::start_with("")
    }

    /// Starts a registry that asks for [`USER`] and [`PASSWORD`], and waits until it answers.
    pub fn start_with_password() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let passwords = directory.path().join("htpasswd");
        fs::write(&passwords, format!("{USER}:{PASSWORD_HASH}\n")).expect("the registry's passwords");
        let access = format!("auth:\n  htpasswd:\n    realm: test\n    path: {}\n", passwords.display());
        let mut registry = Self::start_with(&access);
        registry._passwords = Some(directory);
        registry
    }

    /// Starts a registry with `extra` at the end of its configuration: lines of its section `http`, which is
    /// the last one, and then further sections.
    pub fn start_with(extra: &str) -> Self {
        let mut log = String::new();
        for _ in 0..START_ATTEMPTS {
            match Self::start_once(extra) {
                Ok(registry) => return registry,
                Err(output) => log = output,
            }
        }
        panic!("docker-registry did not start in {START_ATTEMPTS} attempts; the last one said:\n{log}");
    }

    fn start_once(extra: &str) -> Result<Self, String> {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let address = free_address();
        let configuration = directory.path().join("config.yml");
        let root = directory.path().join("data");
        fs::write(
            &configuration,
            format!(
                "version: 0.1\nlog:\n  level: warn\nstorage:\n  filesystem:\n    rootdirectory: {}\n  \
                 delete:\n    enabled: true\nhttp:\n  addr: {address}\n{extra}",
                root.display()
            ),
        )
        .expect("the registry's configuration");
        let log_path = directory.path().join("log");
        let log = fs::File::create(&log_path).expect("the registry's log");
        let process = Command::new("docker-registry")
            .arg("serve")
            .arg(&configuration)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle of the log"))
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| missing_tool("docker-registry", "docker-registry", &error));
        let mut registry = Self { process, address, directory, _passwords: None };
        let deadline = Instant::now() + START_DEADLINE;
        loop {
            if registry.process.try_wait().expect("the registry's state").is_some()
                || Instant::now() > deadline
            {
                return Err(fs::read_to_string(&log_path).unwrap_or_default());
            }
            // If another process had taken the port, ours would have ended by the time of the answer.
            if registry.answers() && registry.process.try_wait().expect("the registry's state").is_none() {
                return Ok(registry);
            }
            // Pace of the probe only; what is waited for is the answer.
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Whether `GET /v2/` is answered, be it by the question for a password.
    fn answers(&self) -> bool {
        let Ok(mut stream) = TcpStream::connect_timeout(&self.address, Duration::from_secs(5)) else {
            return false;
        };
        let request = format!("GET /v2/ HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.address);
        let mut answer = Vec::new();
        let exchanged = stream
            .set_read_timeout(Some(Duration::from_secs(5)))
            .and_then(|()| stream.write_all(request.as_bytes()))
            .and_then(|()| stream.take(4096).read_to_end(&mut answer));
        exchanged.is_ok() && answer.starts_with(b"HTTP/1.")
    }

    /// Has the registry stand still: connections are made and nothing is answered.
    pub fn pause(&self) {
        self.signal(rustix::process::Signal::STOP);
    }

    /// Ends a [`pause`](Self::pause).
    pub fn resume(&self) {
        self.signal(rustix::process::Signal::CONT);
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let process = i32::try_from(self.process.id()).ok().and_then(rustix::process::Pid::from_raw);
        rustix::process::kill_process(process.expect("a process id"), signal).expect("a running registry");
    }

    /// `127.0.0.1:PORT`, the registry's name in references.
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// The requests so far as the registry's access log has them: `METHOD PATH` each.
    pub fn requests(&self) -> Vec<String> {
        let log = fs::read_to_string(self.directory.path().join("log")).expect("the registry's log");
        let quoted = log.lines().filter_map(|line| line.split_once("] \"")?.1.split_once(" HTTP/"));
        quoted.map(|(request, _)| request.to_owned()).collect()
    }

    /// Removes a tag of a repository, as somebody who cleans up does.
    pub fn remove_tag(&self, repository: &str, tag: &str) {
        let repositories = self.directory.path().join("data/docker/registry/v2/repositories");
        let tag = repositories.join(repository).join("_manifests/tags").join(tag);
        fs::remove_dir_all(tag).expect("a tag that was pushed");
    }

    /// The file of a blob in the registry's own storage, to see whether it is there or to damage it.
    pub fn blob_file(&self, digest: &str) -> PathBuf {
        let (algorithm, hex) = digest.split_once(':').expect("a digest");
        let blobs = self.directory.path().join("data/docker/registry/v2/blobs");
        blobs.join(algorithm).join(&hex[..2]).join(hex).join("data")
    }
}

impl Drop for RealRegistry {
    fn drop(&mut self) {
        // Both fail only when the process is gone already, which is what is wanted.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn free_address() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free loopback port");
    listener.local_addr().expect("the port's address")
}

fn missing_tool(tool: &str, package: &str, error: &std::io::Error) -> ! {
    panic!("cannot start `{tool}`: {error}; this test needs Debian's package `{package}`")
}

/// Container tools with storage, run-time files and configuration in a directory of their own, so that
/// nothing of the machine's configuration takes part and nothing is left behind.
pub struct Tools {
    directory: tempfile::TempDir,
}

impl Tools {
    /// Prepares the directory; starts nothing.
    pub fn new() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let tools = Self { directory };
        let policy = r#"{"default":[{"type":"insecureAcceptAnything"}]}"#;
        fs::write(tools.path("policy.json"), policy).expect("the signature policy");
        fs::write(tools.path("registries.conf"), "short-name-mode = \"permissive\"\n")
            .expect("registries.conf");
        let storage = format!(
            "[storage]\ndriver = \"vfs\"\ngraphroot = \"{}\"\nrunroot = \"{}\"\n",
            tools.path("storage").display(),
            tools.path("run").display()
        );
        fs::write(tools.path("storage.conf"), storage).expect("storage.conf");
        fs::write(tools.path("containers.conf"), "").expect("containers.conf");
        fs::write(tools.path("auth.json"), "{}").expect("auth.json");
        fs::create_dir(tools.path("tmp")).expect("a directory for temporary files");
        tools
    }

    /// A path in the tools' directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Runs skopeo and returns what it printed.
    pub fn skopeo<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(&self, arguments: I) -> String {
        let mut command = Command::new("skopeo");
        command.arg("--policy").arg(self.path("policy.json")).args(arguments);
        self.run(command, "skopeo")
    }

    /// Runs buildah and returns what it printed.
    pub fn buildah<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(&self, arguments: I) -> String {
        let mut command = Command::new("buildah");
        self.storage_arguments(&mut command);
        command.args(arguments);
        self.run(command, "buildah")
    }

    /// Runs podman and returns what it printed.
    pub fn podman<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(&self, arguments: I) -> String {
        let mut command = Command::new("podman");
        self.storage_arguments(&mut command);
        command
            .args(["--cgroup-manager", "cgroupfs", "--events-backend", "none"])
            .arg("--tmpdir")
            .arg(self.path("tmp"));
        command.args(arguments);
        self.run(command, "podman")
    }

    fn storage_arguments(&self, command: &mut Command) {
        command.args(["--storage-driver", "vfs"]);
        command.arg("--root").arg(self.path("storage")).arg("--runroot").arg(self.path("run"));
    }

    fn run(&self, mut command: Command, package: &str) -> String {
        command
            .env("REGISTRY_AUTH_FILE", self.path("auth.json"))
            .env("CONTAINERS_REGISTRIES_CONF", self.path("registries.conf"))
            .env("CONTAINERS_CONF", self.path("containers.conf"))
            .env("CONTAINERS_STORAGE_CONF", self.path("storage.conf"))
            .env("BUILDAH_ISOLATION", "chroot")
            .env("TMPDIR", self.path("tmp"))
            .env("HOME", self.directory.path())
            .env_remove("XDG_RUNTIME_DIR")
            .stdin(Stdio::null());
        let output = command.output().unwrap_or_else(|error| missing_tool(package, package, &error));
        let (stdout, stderr) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(
            output.status.success(),
            "{command:?} ended with {}\nstdout:\n{stdout}\nstderr:\n{stderr}",
            output.status
        );
        stdout.into_owned()
    }
}

/// Whether the test is done already, because it ran again as root.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Rerun {
    /// It ran in another process, and passed there.
    Passed,
    /// The caller is root: go on.
    NotNeeded,
}

/// Sees to it that a test which has images with files of several owners unpacked runs as root.
///
/// For anybody else the test `name` runs once more in a user namespace, where the caller is root and the
/// users that /etc/subuid grants are the others; that is also how buildah and podman themselves do it.
#[allow(clippy::disallowed_methods, reason = "a test tells itself, started again, that it was started again")]
pub fn rerun_as_root(name: &str) -> Rerun {
    const MARK: &str = "FERROVIRT_TEST_RERUN";
    if rustix::process::geteuid().is_root() {
        return Rerun::NotNeeded;
    }
    assert!(std::env::var_os(MARK).is_none(), "`buildah unshare` did not make this process root");
    let program = std::env::current_exe().expect("this test's own path");
    let mut command = Command::new("buildah");
    command.args(["unshare", "--"]).arg(program).args([name, "--exact", "--nocapture"]).env(MARK, "1");
    let output = command.output().unwrap_or_else(|error| missing_tool("buildah", "buildah", &error));
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(
        output.status.success() && stdout.contains("1 passed"),
        "{command:?} ended with {}; it needs Debian's package `uidmap` and a line for this user in /etc/subuid and \
         /etc/subgid\nstdout:\n{stdout}\nstderr:\n{stderr}",
        output.status
    );
    Rerun::Passed
}

/// Writes `bytes` to `path`, making its directories first.
pub fn write_file(path: &Path, bytes: &[u8]) {
    fs::create_dir_all(path.parent().expect("a path with a parent")).expect("parent directories");
    fs::write(path, bytes).expect("a test file");
}
