//! A launcher's process: started here, or by an earlier daemon.
//!
//! Its end is seen by a pidfd at once, whoever its parent is. Nothing here ends a launcher by being dropped.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::process::{Child, Command};

use launcher::pod_dir::PodDir;

/// Variables that a launcher is given of the daemon's environment: where things are, and our own settings. All others,
/// such as credentials of whoever started the daemon or the socket of its service manager, are not its business.
const KEPT_VARIABLES: [&str; 6] =
    ["PATH", "HOME", "TMPDIR", "XDG_RUNTIME_DIR", "XDG_STATE_HOME", "XDG_CONFIG_HOME"];

/// Prefix of the names of our own settings.
const OWN_VARIABLES: &str = "FERROVIRT_";

/// Where systemd runs, sd_booted(3).
const SYSTEMD: &str = "/run/systemd/system";

/// The groups of a process, cgroups(7).
const OWN_GROUPS: &str = "/proc/self/cgroup";

/// The link to the program that a process runs, proc(5).
const THIS_PROGRAM: &str = "/proc/self/exe";

/// A scope that starts takes some milliseconds; a bus that does not answer is not waited for.
const SCOPE_TRIAL: Duration = Duration::from_secs(5);

/// How long after the guest's grace period a launcher may take to end, in seconds, before systemd kills it.
const SCOPE_FAREWELL_SECONDS: u64 = 15;

/// Longest that systemd waits for a guest when it stops a scope, as on the host's shutdown: a day, in seconds.
const LONGEST_STOP_SECONDS: u64 = 24 * 3600;

/// Whether launchers are started in systemd scopes of their own, out of the service's control group, so that they are
/// accounted by themselves and that `systemctl status` of the service does not list them. They outlive the service
/// without one too (`KillMode=process`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scopes {
    /// Each in one of the system.
    System,
    /// Each in one of the user's own service manager.
    User,
    /// They stay where the daemon is.
    None,
}

impl Scopes {
    /// Tries it out, where the system is systemd's: for root, and for a user's daemon that is itself a service of the user's
    /// manager. That ends with the user's last session, or not (`loginctl enable-linger`); machines shall not end before
    /// their daemon.
    pub(super) async fn detect() -> Self {
        let user = rustix::process::geteuid();
        let manager = format!("/user@{}.service/", user.as_raw());
        let own_groups = std::fs::read_to_string(OWN_GROUPS).unwrap_or_default(); // without any there is no manager
        let found = match Path::new(SYSTEMD).is_dir() {
            true if user.is_root() => Self::System,
            true if own_groups.contains(&manager) => Self::User,
            _ => return Self::None,
        };
        let mut command = Command::new("systemd-run");
        command.args(found.options()).args(["--", "true"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        match tokio::time::timeout(SCOPE_TRIAL, command.status()).await {
            Ok(Ok(status)) if status.success() => found,
            outcome => {
                tracing::info!(?outcome, "launchers are started without systemd scopes");
                Self::None
            }
        }
    }

    /// Of `systemd-run`.
    fn options(self) -> [&'static str; 4] {
        let manager = if self == Self::User { "--user" } else { "--system" };
        [manager, "--scope", "--quiet", "--collect"]
    }
}

/// How a launcher is started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Launch {
    /// The program, and its arguments.
    pub program: PathBuf,
    pub arguments: Vec<String>,
    /// The Pod's UID, which names its scope.
    pub uid: String,
    /// NAMESPACE/NAME of its instance, which describes the scope.
    pub instance: String,
    /// Time that the guest gets to shut down.
    pub grace_seconds: u64,
    /// Where what it says goes, beside its own log.
    pub output: PathBuf,
    pub scopes: Scopes,
    /// Whether its machine has a limit on the processors.
    pub has_cpu_limit: bool,
}

impl Launch {
    /// `systemd-run --scope` becomes the program, with the same process id.
    fn command_line(&self) -> (PathBuf, Vec<OsString>) {
        let arguments = self.arguments.iter().map(OsString::from);
        match self.scopes {
            Scopes::None => (self.program.clone(), arguments.collect()),
            Scopes::System | Scopes::User => {
                let unit = format!("--unit=ferrovirt-{}", self.uid);
                let description = format!("--description=Virtual machine {}", self.instance);
                // The guest shuts down when the scope is stopped, and that is told to the launcher alone: QEMU and passt
                // block it.
                let stop =
                    self.grace_seconds.saturating_add(SCOPE_FAREWELL_SECONDS).min(LONGEST_STOP_SECONDS);
                let stop = format!("--property=TimeoutStopSec={stop}");
                // For the launcher's own group below, systemd.resource-control(5). No more than that takes: the controller
                // of the processors in one scope is there for all of them, and nice levels count inside of a scope then.
                let controllers = if self.has_cpu_limit { "memory pids cpu" } else { "memory pids" };
                let delegate = format!("--property=Delegate={controllers}");
                let own = [
                    "--slice=ferrovirt.slice".to_owned(),
                    unit,
                    description,
                    stop,
                    delegate,
                    "--".to_owned(),
                ];
                let scope =
                    self.scopes.options().into_iter().map(OsString::from).chain(own.map(OsString::from));
                // What runs is systemd-run by the time when the link is followed.
                let program = if self.program == Path::new(THIS_PROGRAM) {
                    format!("/proc/{}/exe", std::process::id()).into()
                } else {
                    self.program.clone().into_os_string()
                };
                (PathBuf::from("systemd-run"), scope.chain([program]).chain(arguments).collect())
            }
        }
    }
}

/// A launcher.
#[derive(Debug)]
pub(super) struct Process {
    id: Pid,
    pidfd: AsyncFd<OwnedFd>,
    /// Where it is a child of this process: its exit code is known, and it is to be waited for.
    child: Option<Child>,
}

impl Process {
    /// Starts one. What a terminal sends the daemon is not for its launchers: each makes a session of its own, which the
    /// leader of a process group could not. Of open files it has its standard streams only, since everything of ours is
    /// close-on-exec.
    pub(super) fn start(launch: &Launch) -> io::Result<Self> {
        let output = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .custom_flags(OFlags::NOFOLLOW.bits() as i32)
            .open(&launch.output)?;
        let (program, arguments) = launch.command_line();
        let mut command = Command::new(program);
        command.args(arguments).current_dir("/").env_clear();
        let kept = |name: &OsString| {
            name.to_str()
                .is_some_and(|name| KEPT_VARIABLES.contains(&name) || name.starts_with(OWN_VARIABLES))
        };
        command.envs(std::env::vars_os().filter(|(name, _)| kept(name)));
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        command.kill_on_drop(false);
        let mut child = command.spawn()?;
        let id = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        // It has not been waited for, so its number is its own.
        let id = id.ok_or_else(|| io::Error::other("a process that has just been started has no id"))?;
        let pidfd = open(id).inspect_err(|_| {
            // Nobody would see its end. That it cannot be killed means that it has ended.
            let _ = child.start_kill();
        })?;
        Ok(Self { id, pidfd, child: Some(child) })
    }

    /// Takes hold of the launcher that holds the lock in `directory` and says that it is `id`; `None` when none does.
    pub(super) fn adopt(directory: &PodDir, id: u32) -> io::Result<Option<Self>> {
        let Some(id) = i32::try_from(id).ok().and_then(Pid::from_raw) else {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the launcher's process id is none"));
        };
        let pidfd = match open(id) {
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) => {
                return Ok(None);
            }
            pidfd => pidfd?,
        };
        // While it lives nobody else has its number; and it lives while the lock is held, which was so after the number
        // was looked up.
        match lock(directory)? {
            Lock::Held => Ok(Some(Self { id, pidfd, child: None })),
            Lock::Ours(_) | Lock::Missing => Ok(None),
        }
    }

    /// Its process id.
    pub(super) fn id(&self) -> u32 {
        self.id.as_raw_pid().unsigned_abs()
    }

    /// Sends a signal; one that has ended meanwhile needs none.
    pub(super) fn signal(&self, signal: Signal) -> io::Result<()> {
        match pidfd_send_signal(self.pidfd.get_ref(), signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits for its end; says its exit code where that can be known, 128 and more for a signal as shells have it.
    /// Cancel safe.
    pub(super) async fn ended(&mut self) -> io::Result<Option<i32>> {
        // Never cleared: an ended process stays ended.
        let _ready = self.pidfd.ready(Interest::READABLE).await?;
        match &mut self.child {
            Some(child) => child.wait().await.map(|status| Some(exit_code(status))),
            None => Ok(None),
        }
    }
}

// What replaces it is unsafe, for types whose descriptor may close or change while it is watched. An `OwnedFd` does neither.
#[allow(deprecated)]
fn open(id: Pid) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(pidfd_open(id, PidfdFlags::NONBLOCK)?, Interest::READABLE)
}

fn exit_code(status: ExitStatus) -> i32 {
    status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(255)
}

/// Who has the lock of a Pod's directory.
#[derive(Debug)]
pub(super) enum Lock {
    /// A living launcher.
    Held,
    /// This process now: no launcher lives, and none can come to life there while this is kept.
    Ours(File),
    /// There is no directory.
    Missing,
}

/// Tries to take the lock of a Pod's directory.
pub(super) fn lock(directory: &PodDir) -> io::Result<Lock> {
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .custom_flags(OFlags::NOFOLLOW.bits() as i32)
        .open(directory.lock());
    let file = match file {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Lock::Missing),
        file => file?,
    };
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Lock::Ours(file)),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(Lock::Held),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn launch(scopes: Scopes) -> Launch {
        Launch {
            program: "/bin/ferrovirt".into(),
            arguments: vec!["--state-dir".into(), "/s".into(), "launcher".into()],
            uid: "u-1".into(),
            instance: "default/vm".into(),
            grace_seconds: 30,
            output: "/dev/null".into(),
            scopes,
            has_cpu_limit: false,
        }
    }

    #[test]
    fn a_scope_is_around_the_same_command() {
        let (program, arguments) = launch(Scopes::None).command_line();
        assert_eq!(program, Path::new("/bin/ferrovirt"));
        assert_eq!(arguments, ["--state-dir", "/s", "launcher"]);
        for (scopes, manager) in [(Scopes::System, "--system"), (Scopes::User, "--user")] {
            let (program, arguments) = launch(scopes).command_line();
            assert_eq!(program, Path::new("systemd-run"));
            let expected = "--scope --quiet --collect --slice=ferrovirt.slice --unit=ferrovirt-u-1 \
                 --description=Virtual_machine_default/vm --property=TimeoutStopSec=45 --property=Delegate=memory_pids \
                 -- /bin/ferrovirt --state-dir /s launcher";
            let expected = expected.split_whitespace().map(|word| OsString::from(word.replace('_', " ")));
            assert_eq!(arguments, [manager.into()].into_iter().chain(expected).collect::<Vec<_>>());
        }
        let limited = Launch { has_cpu_limit: true, grace_seconds: u64::MAX, ..launch(Scopes::System) };
        let (_, arguments) = limited.command_line();
        assert!(arguments.contains(&"--property=Delegate=memory pids cpu".into()));
        assert!(arguments.contains(&"--property=TimeoutStopSec=86400".into()));
        let this = Launch { program: THIS_PROGRAM.into(), ..launch(Scopes::System) };
        let (_, arguments) = this.command_line();
        assert!(arguments.contains(&format!("/proc/{}/exe", std::process::id()).into()));
    }

    #[tokio::test]
    async fn the_end_of_a_process_is_seen_with_its_code() {
        let directory = tempfile::tempdir().unwrap();
        let start = |script: &str| {
            Process::start(&Launch {
                program: "/bin/sh".into(),
                arguments: vec!["-c".into(), script.into()],
                output: directory.path().join("output"),
                ..launch(Scopes::None)
            })
            .unwrap()
        };
        assert_eq!(start("exit 7").ended().await.unwrap(), Some(7));
        let mut process = start("read line < /dev/zero; exec sleep 1000");
        process.signal(Signal::KILL).unwrap();
        assert_eq!(process.ended().await.unwrap(), Some(137));
        process.signal(Signal::TERM).unwrap();
        let mut process = start("env; pwd; echo $$; ps -o pgid= $$ >&2");
        let id = process.id().to_string();
        assert_eq!(process.ended().await.unwrap(), Some(0));
        let said = std::fs::read_to_string(directory.path().join("output")).unwrap();
        let lines: Vec<&str> = said.lines().map(str::trim).collect();
        assert!(lines.contains(&"/") && lines.contains(&id.as_str()), "{said}");
        // The leader of a process group could not make a session.
        assert_eq!(lines.iter().filter(|line| **line == id).count(), 1, "its group is another's: {said}");
        assert!(!said.contains("CARGO"), "{said}");
    }

    #[tokio::test]
    async fn only_a_process_whose_lock_is_held_is_adopted() {
        let directory = tempfile::tempdir().unwrap();
        let pod = PodDir::new(directory.path());
        let own = std::process::id();
        let Lock::Ours(lock_of_ours) = lock(&pod).unwrap() else { panic!("nobody else has it") };
        assert!(matches!(lock(&pod).unwrap(), Lock::Held));
        assert_eq!(Process::adopt(&pod, own).unwrap().unwrap().id(), own);
        drop(lock_of_ours);
        assert!(Process::adopt(&pod, own).unwrap().is_none());
        assert!(matches!(lock(&PodDir::new(directory.path().join("gone"))).unwrap(), Lock::Missing));
        assert!(Process::adopt(&pod, 0).is_err());
    }
}
