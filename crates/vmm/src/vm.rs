//! A running virtual machine: start, events, and the ways to end it.
//!
//! ```text
//!  Vm::start ─► QEMU ─┬─ stdout ─► ConsoleReader      the caller copies them
//!                     ├─ stdin  ◄─ ConsoleWriter
//!                     ├─ stderr ─► the last lines, kept for messages
//!                     └─ QMP    ─► next_event(): GuestPanicked, GuestReset, GuestShutdown, …, Exited
//! ```
//!
//! [`VmEvent::Exited`] comes last and exactly once, whatever happens. A panicked guest is stopped by QEMU
//! (`-action panic=pause`), so its last console lines can be read before the caller ends it.
//!
//! # Assumptions
//! [`Vm::start`] runs on a thread that lives as long as the machine (see [`process`](crate::process)), and
//! somebody reads the console: when its pipe is full, the guest waits.
//!
//! Dropping a [`Vm`] kills QEMU.

use std::collections::VecDeque;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, BufReader};
use tokio::net::UnixStream;
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::args::{MAX_SOCKET_PATH_BYTES, RunPaths, qemu_args};
use crate::host_facts::HostFacts;
use crate::launch_spec::{LaunchSpec, SpecError};
use crate::process::Trampoline;
use crate::qmp::{Qmp, QmpError, QmpEvent};
use crate::run_as::RunAs;

/// What the guest writes to its serial console.
pub type ConsoleReader = ChildStdout;

/// What the guest reads from its serial console.
pub type ConsoleWriter = ChildStdin;

/// Longest time that QEMU may take from its start to its first QMP reply. It is busy with memory and firmware
/// then; on a loaded host seconds, never this long.
const START_LIMIT: Duration = Duration::from_secs(60);

/// Time limit of one QMP command on a running machine.
const COMMAND_LIMIT: Duration = Duration::from_secs(10);

/// First pause between two looks for the QMP socket, and the longest one. QEMU makes it after about 15 ms.
const SOCKET_PAUSES: (Duration, Duration) = (Duration::from_millis(4), Duration::from_millis(32));

/// How long streams of an ended QEMU may stay open, if something has inherited them.
const DRAIN_LIMIT: Duration = Duration::from_secs(1);

/// Lines of standard error that are kept, and bytes of each.
const STDERR_LINES: usize = 50;
const STDERR_LINE_BYTES: usize = 1000;

/// What [`Vm::start`] needs.
#[derive(Debug, Clone, Copy)]
pub struct StartRequest<'a> {
    /// The machine.
    pub spec: &'a LaunchSpec,
    /// The host.
    pub facts: &'a HostFacts,
    /// Directory of this one run, which exists and belongs to the caller. QEMU's socket goes into a directory
    /// of its own in there. When QEMU runs as another user, that one must be able to pass through (mode
    /// 0711).
    pub run_directory: &'a Path,
    /// The program that becomes QEMU.
    pub trampoline: &'a Trampoline,
}

/// Something that happened to the machine.
#[derive(Debug, Clone, PartialEq)]
pub enum VmEvent {
    /// The guest's kernel reported its panic; the virtual CPUs are stopped.
    GuestPanicked {
        /// What QEMU did about it, `pause` here.
        action: String,
        /// QEMU's details, `Null` for most guests.
        info: Value,
    },
    /// The guest is about to end. [`VmEvent::Exited`] follows.
    GuestShutdown {
        /// Why.
        reason: ShutdownReason,
        /// Whether the guest itself wanted it.
        origin: Origin,
    },
    /// The machine was reset and starts again.
    GuestReset {
        /// Why.
        reason: ShutdownReason,
        /// Whether the guest itself wanted it.
        origin: Origin,
    },
    /// Any other event of QEMU.
    Other {
        /// Its name, e.g. `STOP`.
        name: String,
        /// Its data.
        data: Value,
    },
    /// QEMU runs on, and no longer answers. The machine can only be killed.
    ControlLost {
        /// Why the connection ended.
        reason: String,
    },
    /// QEMU has ended. The last event.
    Exited(ExitReport),
}

/// Who asked for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The guest.
    Guest,
    /// The host.
    Host,
}

/// Why a machine shuts down or resets: QEMU's `ShutdownCause`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ShutdownReason {
    /// `guest-shutdown`: the guest powered itself off.
    GuestShutdown,
    /// `guest-reset`: the guest rebooted.
    GuestReset,
    /// `guest-panic`: the guest panicked.
    GuestPanic,
    /// `host-qmp-quit`: the QMP command `quit`.
    HostQuit,
    /// `host-qmp-system-reset`: the QMP command `system_reset`.
    HostReset,
    /// `host-signal`: a signal to QEMU.
    HostSignal,
    /// Any other, by QEMU's name.
    Other(String),
}

impl ShutdownReason {
    fn from_name(name: &str) -> Self {
        match name {
            "guest-shutdown" => Self::GuestShutdown,
            "guest-reset" => Self::GuestReset,
            "guest-panic" => Self::GuestPanic,
            "host-qmp-quit" => Self::HostQuit,
            "host-qmp-system-reset" => Self::HostReset,
            "host-signal" => Self::HostSignal,
            other => Self::Other(other.to_owned()),
        }
    }
}

/// How QEMU ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExitReport {
    /// Its exit status.
    pub status: ExitStatus,
    /// The last lines of its standard error, oldest first.
    pub stderr_tail: Vec<String>,
}

/// Why a machine could not be started. None is worth a retry unchanged.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The machine cannot be on this host, or at all.
    #[error("cannot start the virtual machine `{name}`")]
    Spec {
        /// The machine.
        name: String,
        /// What is wrong with it.
        #[source]
        source: SpecError,
    },
    /// The path of QEMU's socket is too long for a UNIX socket.
    #[error(
        "cannot make a socket at `{}`: the path has {} bytes, {MAX_SOCKET_PATH_BYTES} are possible",
        path.display(),
        path.as_os_str().len()
    )]
    SocketPath {
        /// The path.
        path: PathBuf,
    },
    /// The run directory could not be prepared.
    #[error("cannot prepare `{}` for QEMU", path.display())]
    RunDirectory {
        /// The directory or file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The process could not be started.
    #[error("cannot start `{}`", binary.display())]
    Spawn {
        /// QEMU.
        binary: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// QEMU ended before the machine ran.
    #[error("QEMU ended at once with {status}: {}", said(stderr))]
    Exited {
        /// Its exit status.
        status: ExitStatus,
        /// The last lines of its standard error.
        stderr: Vec<String>,
    },
    /// QEMU runs and cannot be controlled.
    #[error("cannot control QEMU through `{}`{}", socket.display(), also_said(stderr))]
    Control {
        /// The socket.
        socket: PathBuf,
        /// The last lines of its standard error.
        stderr: Vec<String>,
        /// Why.
        #[source]
        source: QmpError,
    },
}

fn said(stderr: &[String]) -> String {
    if stderr.is_empty() {
        "it said nothing".to_owned()
    } else {
        stderr.join("; ")
    }
}

fn also_said(stderr: &[String]) -> String {
    if stderr.is_empty() {
        String::new()
    } else {
        format!(" (QEMU said: {})", stderr.join("; "))
    }
}

impl StartError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Spec { source, .. } => source.hint(),
            Self::SocketPath { .. } => Some("choose a shorter run directory with `--run-dir`".to_owned()),
            Self::Exited { stderr, .. } | Self::Control { stderr, .. } => hint_for(stderr),
            Self::RunDirectory { .. } | Self::Spawn { .. } => None,
        }
    }
}

/// What is known about QEMU's complaints.
fn hint_for(stderr: &[String]) -> Option<String> {
    const KNOWN: [(&str, &str); 9] = [
        (
            "Could not access KVM kernel module",
            "use `--accel tcg`, or let this user open /dev/kvm (group `kvm`)",
        ),
        ("failed to initialize kvm", "use `--accel tcg`"),
        (
            "cannot set up guest memory",
            "give the guest less memory: the host has not that much free",
        ),
        (
            "unable to find CPU model",
            "`qemu-system-x86_64 -cpu help` lists the models",
        ),
        (
            "unsupported machine type",
            "`qemu-system-x86_64 -machine help` lists the machine types",
        ),
        (
            "could not load PC BIOS",
            "install the firmware that belongs to QEMU (Debian: package `seabios`)",
        ),
        (
            "could not open kernel file",
            "the kernel must be readable by the user that QEMU runs as",
        ),
        (
            "could not load kernel",
            "the kernel must be readable by the user that QEMU runs as, and a bzImage or ELF",
        ),
        (
            "without PVH ELF Note",
            "boot the kernel's bzImage: this vmlinux has no PVH entry (CONFIG_PVH)",
        ),
    ];
    let known = |line: &String| KNOWN.iter().find(|(text, _)| line.contains(text));
    stderr.iter().find_map(known).map(|(_, hint)| (*hint).to_owned())
}

/// A virtual machine whose QEMU has been started.
#[derive(Debug)]
pub struct Vm {
    child: Child,
    process_id: u32,
    qmp: Option<Qmp>,
    stderr: Stderr,
    /// Events found out before the caller asked.
    early_events: VecDeque<VmEvent>,
    exit_status: Option<ExitStatus>,
    phase: Phase,
}

/// How far the stream of events has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// QMP is connected.
    Supervised,
    /// QMP is gone, and that has been told; only the exit is still to come.
    Uncontrolled,
    /// `Exited` has been told.
    Over,
}

impl Vm {
    /// Starts QEMU and returns when it answers, with both ends of the guest's console. The guest runs
    /// already.
    ///
    /// A guest so short that QEMU has ended well before it could answer is no error: [`Vm::next_event`] tells
    /// of it.
    ///
    /// # Errors
    /// See [`StartError`]; after an error no process is left.
    pub async fn start(
        request: StartRequest<'_>,
    ) -> Result<(Self, ConsoleReader, ConsoleWriter), StartError> {
        let StartRequest {
            spec,
            facts,
            run_directory,
            trampoline,
        } = request;
        spec.check(facts).map_err(|source| StartError::Spec {
            name: spec.name.clone(),
            source,
        })?;
        let paths = RunPaths::in_directory(run_directory);
        prepare_socket_directory(&paths, &facts.run_as)?;
        let arguments = qemu_args(spec, facts, &paths);
        tracing::debug!(binary = %facts.qemu.binary.display(), ?arguments, "starting QEMU");

        let spawn_error = |source| StartError::Spawn {
            binary: facts.qemu.binary.clone(),
            source,
        };
        let command = trampoline.command(&facts.run_as, &facts.qemu.binary, &arguments);
        let mut child = tokio::process::Command::from(command)
            .kill_on_drop(true)
            .spawn()
            .map_err(spawn_error)?;
        let missing = || spawn_error(io::Error::other("the process has no standard streams"));
        let console_reader = child.stdout.take().ok_or_else(missing)?;
        let console_writer = child.stdin.take().ok_or_else(missing)?;
        let stderr = Stderr::collect(child.stderr.take().ok_or_else(missing)?);
        let process_id = child.id().unwrap_or_default();
        let mut vm = Self {
            child,
            process_id,
            qmp: None,
            stderr,
            early_events: VecDeque::new(),
            exit_status: None,
            phase: Phase::Supervised,
        };
        vm.establish_control(&paths).await?;
        Ok((vm, console_reader, console_writer))
    }

    /// Connects to QMP, while watching whether QEMU ends.
    async fn establish_control(&mut self, paths: &RunPaths) -> Result<(), StartError> {
        let connected = tokio::select! {
            connected = connect(&paths.qmp_socket) => connected,
            status = self.child.wait() => {
                let status = status.map_err(|source| StartError::Spawn { binary: "QEMU".into(), source })?;
                return self.ended_early(status).await;
            }
        };
        match connected {
            Ok((qmp, run_state)) => {
                if run_state == "guest-panicked" {
                    let action = "pause".to_owned();
                    self.early_events.push_back(VmEvent::GuestPanicked {
                        action,
                        info: Value::Null,
                    });
                }
                self.qmp = Some(qmp);
                Ok(())
            }
            // The connection ends when QEMU does, which may be noticed first.
            Err(source) => match timeout(DRAIN_LIMIT, self.child.wait()).await {
                Ok(Ok(status)) => self.ended_early(status).await,
                _ => Err(StartError::Control {
                    socket: paths.qmp_socket.clone(),
                    stderr: self.stderr.so_far(),
                    source,
                }),
            },
        }
    }

    async fn ended_early(&mut self, status: ExitStatus) -> Result<(), StartError> {
        if status.success() {
            self.exit_status = Some(status);
            return Ok(());
        }
        Err(StartError::Exited {
            status,
            stderr: self.stderr.finish().await,
        })
    }

    /// QEMU's process id. It may be in use by another process once [`VmEvent::Exited`] has come.
    pub fn process_id(&self) -> u32 {
        self.process_id
    }

    /// The next event; `None` after [`VmEvent::Exited`].
    ///
    /// Cancel safe: an event is taken only when it is returned.
    pub async fn next_event(&mut self) -> Option<VmEvent> {
        loop {
            if self.phase == Phase::Over {
                return None;
            }
            if let Some(event) = self.early_events.pop_front() {
                return Some(event);
            }
            if self.exit_status.is_some() {
                return Some(self.tell_the_end().await);
            }
            let event = match &self.qmp {
                Some(qmp) if self.phase == Phase::Supervised => {
                    tokio::select! {
                        biased;
                        event = qmp.next_event() => event,
                        status = self.child.wait() => {
                            self.note_exit(status);
                            continue;
                        }
                    }
                }
                _ => {
                    let status = self.child.wait().await;
                    self.note_exit(status);
                    continue;
                }
            };
            match event {
                Some(event) => return Some(translate(event)),
                None => {
                    // The socket closes a moment before the process is gone; only a longer moment is a fault.
                    if let Ok(status) = timeout(DRAIN_LIMIT, self.child.wait()).await {
                        self.note_exit(status);
                        continue;
                    }
                    self.phase = Phase::Uncontrolled;
                    let reason = self.qmp.as_ref().and_then(Qmp::closed_reason).unwrap_or_default();
                    return Some(VmEvent::ControlLost { reason });
                }
            }
        }
    }

    fn note_exit(&mut self, status: io::Result<ExitStatus>) {
        // Waiting for a child of ours fails only if somebody else has reaped it; then nothing is known of its
        // end.
        self.exit_status = Some(status.unwrap_or_else(|error| {
            tracing::warn!(%error, "the exit status of QEMU is lost");
            std::os::unix::process::ExitStatusExt::from_raw(0xff00)
        }));
    }

    /// Hands out what QEMU still said before it ended, then the end itself.
    async fn tell_the_end(&mut self) -> VmEvent {
        if self.phase == Phase::Supervised
            && let Some(qmp) = &self.qmp
            && let Ok(Some(event)) = timeout(DRAIN_LIMIT, qmp.next_event()).await
        {
            return translate(event);
        }
        self.phase = Phase::Uncontrolled;
        let stderr_tail = self.stderr.finish().await;
        self.phase = Phase::Over;
        let status = self.exit_status.expect("only called once the status is known");
        VmEvent::Exited(ExitReport { status, stderr_tail })
    }

    /// Presses the power button: asks the guest to power itself off. Many guests without init system ignore
    /// it.
    ///
    /// # Errors
    /// See [`QmpError`].
    pub async fn powerdown(&self) -> Result<(), QmpError> {
        self.command("system_powerdown").await
    }

    /// Resets the machine as its reset button would.
    ///
    /// # Errors
    /// See [`QmpError`].
    pub async fn reset(&self) -> Result<(), QmpError> {
        self.command("system_reset").await
    }

    /// Lets a paused machine run.
    ///
    /// # Errors
    /// See [`QmpError`].
    pub async fn resume(&self) -> Result<(), QmpError> {
        self.command("cont").await
    }

    /// Stops the virtual CPUs.
    ///
    /// # Errors
    /// See [`QmpError`].
    pub async fn pause(&self) -> Result<(), QmpError> {
        self.command("stop").await
    }

    /// Ends QEMU in order, as pulling the plug would be for the guest.
    ///
    /// # Errors
    /// See [`QmpError`]; then [`Vm::kill`] is left.
    pub async fn quit(&self) -> Result<(), QmpError> {
        self.command("quit").await
    }

    /// QEMU's run state, e.g. `running`, `paused`, `guest-panicked`.
    ///
    /// # Errors
    /// See [`QmpError`].
    pub async fn run_state(&self) -> Result<String, QmpError> {
        run_state(self.control()?).await
    }

    /// Kills QEMU without a word. [`VmEvent::Exited`] follows. Nothing happens when it has ended already.
    pub fn kill(&mut self) {
        if let Err(error) = self.child.start_kill() {
            tracing::debug!(%error, "QEMU has ended before it was killed");
        }
    }

    /// Ends QEMU whatever it does: by `quit`, and by [`Vm::kill`] when it has not ended within `limit`.
    /// Events on the way are dropped.
    pub async fn terminate(&mut self, limit: Duration) -> Option<ExitReport> {
        let deadline = Instant::now() + limit;
        let asked = timeout_at(deadline, self.quit()).await;
        if !matches!(asked, Ok(Ok(()))) && self.exit_status.is_none() {
            self.kill();
        }
        if let Ok(report) = timeout_at(deadline, self.until_exit()).await {
            return report;
        }
        self.kill();
        self.until_exit().await
    }

    /// Waits for the end, dropping all events before it; `None` when it has been told before.
    async fn until_exit(&mut self) -> Option<ExitReport> {
        loop {
            match self.next_event().await {
                Some(VmEvent::Exited(report)) => return Some(report),
                Some(_) => {}
                None => return None,
            }
        }
    }

    async fn command(&self, name: &str) -> Result<(), QmpError> {
        self.control()?
            .execute(name, Value::Null, COMMAND_LIMIT)
            .await
            .map(drop)
    }

    fn control(&self) -> Result<&Qmp, QmpError> {
        self.qmp.as_ref().ok_or_else(|| QmpError::Closed {
            reason: "QEMU has ended".to_owned(),
        })
    }
}

/// Makes the directory for QEMU's socket, owned by the user that QEMU runs as, without leftovers.
fn prepare_socket_directory(paths: &RunPaths, run_as: &RunAs) -> Result<(), StartError> {
    let socket = &paths.qmp_socket;
    if socket.as_os_str().as_bytes().len() > MAX_SOCKET_PATH_BYTES {
        return Err(StartError::SocketPath { path: socket.clone() });
    }
    let directory = socket.parent().unwrap_or(Path::new("/"));
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| StartError::RunDirectory { path, source }
    };
    match std::fs::DirBuilder::new().mode(0o700).create(directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed(directory)(error)),
        _ => {}
    }
    std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o700)).map_err(failed(directory))?;
    if let RunAs::User { uid, gid, .. } = run_as {
        std::os::unix::fs::chown(directory, Some(*uid), Some(*gid)).map_err(failed(directory))?;
    }
    match std::fs::remove_file(socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(socket)(error)),
        _ => Ok(()),
    }
}

/// Connects as soon as QEMU has made its socket, and learns the run state: whatever happened before the
/// connection was there has not been told as an event.
async fn connect(socket: &Path) -> Result<(Qmp, String), QmpError> {
    let deadline = Instant::now() + START_LIMIT;
    let (mut pause, longest_pause) = SOCKET_PAUSES;
    let stream = loop {
        match UnixStream::connect(socket).await {
            Ok(stream) => break stream,
            Err(error) if Instant::now() > deadline => {
                return Err(QmpError::Handshake {
                    reason: format!("no connection: {error}"),
                });
            }
            Err(_) => sleep(pause).await,
        }
        pause = (pause * 2).min(longest_pause);
    };
    let qmp = Qmp::start(stream, START_LIMIT).await?;
    let state = run_state(&qmp).await?;
    Ok((qmp, state))
}

async fn run_state(qmp: &Qmp) -> Result<String, QmpError> {
    let status = qmp.execute("query-status", Value::Null, COMMAND_LIMIT).await?;
    Ok(status
        .get("status")
        .and_then(Value::as_str)
        .unwrap_or("unknown")
        .to_owned())
}

/// QEMU's event in our words. Members that are missing or new never make an event disappear.
fn translate(event: QmpEvent) -> VmEvent {
    let text = |member: &str| {
        event
            .data
            .get(member)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let reason = || ShutdownReason::from_name(&text("reason"));
    let origin = match event.data.get("guest").and_then(Value::as_bool) {
        Some(true) => Origin::Guest,
        _ => Origin::Host,
    };
    match event.name.as_str() {
        "GUEST_PANICKED" => VmEvent::GuestPanicked {
            action: text("action"),
            info: event.data.get("info").cloned().unwrap_or_default(),
        },
        "SHUTDOWN" => VmEvent::GuestShutdown {
            reason: reason(),
            origin,
        },
        "RESET" => VmEvent::GuestReset {
            reason: reason(),
            origin,
        },
        _ => VmEvent::Other {
            name: event.name,
            data: event.data,
        },
    }
}

/// The last lines of a stream, collected by a task.
#[derive(Debug)]
struct Stderr {
    tail: Arc<Mutex<VecDeque<Vec<u8>>>>,
    task: JoinHandle<()>,
}

impl Stderr {
    fn collect(stream: ChildStderr) -> Self {
        let tail = Arc::new(Mutex::new(VecDeque::new()));
        let task = tokio::spawn(keep_last_lines(stream, Arc::clone(&tail)));
        Self { tail, task }
    }

    fn so_far(&self) -> Vec<String> {
        let tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        let text = |line: &Vec<u8>| String::from_utf8_lossy(line).trim_end().to_owned();
        tail.iter().map(text).filter(|line| !line.is_empty()).collect()
    }

    /// Everything up to the end of the stream, which comes with the end of the process.
    async fn finish(&mut self) -> Vec<String> {
        if !self.task.is_finished() {
            // Whoever still holds the stream is not QEMU: what has been read is all of it.
            let _ = timeout(DRAIN_LIMIT, &mut self.task).await;
        }
        self.so_far()
    }
}

impl Drop for Stderr {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn keep_last_lines(stream: impl tokio::io::AsyncRead + Unpin, tail: Arc<Mutex<VecDeque<Vec<u8>>>>) {
    let mut stream = BufReader::new(stream);
    let mut buffer = [0; 1024];
    loop {
        let length = match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(length) => length,
        };
        let mut tail = tail.lock().unwrap_or_else(PoisonError::into_inner);
        for byte in &buffer[..length] {
            if tail.is_empty() {
                tail.push_back(Vec::new());
            }
            if *byte == b'\n' {
                tail.push_back(Vec::new());
                if tail.len() > STDERR_LINES + 1 {
                    tail.pop_front();
                }
            } else if let Some(line) = tail.back_mut()
                && line.len() < STDERR_LINE_BYTES
            {
                line.push(*byte);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;

    fn event(name: &str, data: Value) -> VmEvent {
        translate(QmpEvent {
            name: name.to_owned(),
            data,
        })
    }

    #[test]
    fn events_of_qemu_are_translated_and_unknown_ones_kept() {
        assert_eq!(
            event("GUEST_PANICKED", json!({"action": "pause"})),
            VmEvent::GuestPanicked {
                action: "pause".to_owned(),
                info: Value::Null
            }
        );
        for (name, reason) in [
            ("guest-shutdown", ShutdownReason::GuestShutdown),
            ("guest-reset", ShutdownReason::GuestReset),
            ("guest-panic", ShutdownReason::GuestPanic),
            ("volcano", ShutdownReason::Other("volcano".to_owned())),
        ] {
            let data = json!({"guest": true, "reason": name});
            let origin = Origin::Guest;
            assert_eq!(
                event("SHUTDOWN", data.clone()),
                VmEvent::GuestShutdown {
                    reason: reason.clone(),
                    origin
                }
            );
            assert_eq!(event("RESET", data), VmEvent::GuestReset { reason, origin });
        }
        assert_eq!(
            event("SHUTDOWN", json!({"guest": false, "reason": "host-qmp-quit"})),
            VmEvent::GuestShutdown {
                reason: ShutdownReason::HostQuit,
                origin: Origin::Host
            }
        );
        assert_eq!(
            event("ACPI_DEVICE_OST", json!({"info": 1})),
            VmEvent::Other {
                name: "ACPI_DEVICE_OST".to_owned(),
                data: json!({"info": 1})
            }
        );
    }

    #[tokio::test]
    async fn only_the_last_lines_of_standard_error_are_kept_and_long_ones_cut() {
        let mut text: String = (0..STDERR_LINES + 20)
            .map(|number| format!("line {number}\n"))
            .collect();
        text.push_str(&"x".repeat(STDERR_LINE_BYTES * 3));
        let tail = Arc::new(Mutex::new(VecDeque::new()));
        keep_last_lines(text.as_bytes(), Arc::clone(&tail)).await;
        let tail = tail.lock().unwrap();
        assert_eq!(tail.len(), STDERR_LINES + 1);
        assert_eq!(tail.front().unwrap(), b"line 20");
        assert_eq!(tail.back().unwrap().len(), STDERR_LINE_BYTES);
    }

    #[test]
    fn complaints_of_qemu_come_with_a_remedy() {
        let said = vec![
            "qemu-system-x86_64: -accel kvm: Could not access KVM kernel module: Permission denied"
                .to_owned(),
            "qemu-system-x86_64: -accel kvm: failed to initialize kvm: Permission denied".to_owned(),
        ];
        assert!(hint_for(&said).unwrap().contains("--accel tcg"));
        assert_eq!(hint_for(&["something new".to_owned()]), None);
    }

    #[test]
    fn a_socket_path_is_refused_from_108_bytes_on() {
        let root = tempfile::tempdir().unwrap();
        let with_length = |length: usize| {
            let used = root.path().as_os_str().len() + "//qemu/qmp.sock".len();
            root.path().join("d".repeat(length - used))
        };
        let longest = with_length(MAX_SOCKET_PATH_BYTES);
        std::fs::create_dir(&longest).unwrap();
        prepare_socket_directory(&RunPaths::in_directory(&longest), &RunAs::Caller).unwrap();
        let too_long = with_length(MAX_SOCKET_PATH_BYTES + 1);
        let error = prepare_socket_directory(&RunPaths::in_directory(&too_long), &RunAs::Caller).unwrap_err();
        assert!(
            error
                .to_string()
                .ends_with("the path has 108 bytes, 107 are possible"),
            "{error}"
        );
        assert!(error.hint().is_some());
    }
}
