//! A running virtual machine: start, events, and the ways to end it.
//!
//! ```text
//!  Vm::start ─► QEMU ─┬─ stdout ─► ConsoleReader      the caller copies them
//!                     ├─ stdin  ◄─ ConsoleWriter
//!                     ├─ stderr ─► the last lines, kept for messages
//!                     ├─ frames ◄► network(): what the guest's network card sends and gets
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

mod balloon;
mod console;
mod error;
mod event;
mod picture;
mod stderr;

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use tokio::net::{UnixListener, UnixStream};
use tokio::process::{Child, ChildStdin};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::args::{MAX_SOCKET_PATH_BYTES, RunPaths, qemu_args};
use crate::clock::ClockStart;
use crate::confinement::{Namespaces, Network, View, in_own_process_namespace};
use crate::host_facts::HostFacts;
use crate::launch_spec::{CpuFeature, FeaturePolicy, InitialState, LaunchSpec};
use crate::priority;
use crate::process::{Role, Trampoline};
use crate::qmp::{Qmp, QmpError};
use crate::run_as::RunAs;

pub use balloon::{Balloon, BalloonLook, GuestMemory};
pub use console::ConsoleReader;
pub use error::{Fault, StartError};
pub use event::{ExitReport, Origin, PauseReason, ShutdownReason, VmEvent};
pub use picture::{MAX_PICTURE_BYTES, PictureError};

use event::translate;
use stderr::Stderr;

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

/// What [`Vm::start`] needs.
#[derive(Debug, Clone, Copy)]
pub struct StartRequest<'a> {
    /// The machine.
    pub spec: &'a LaunchSpec,
    /// The host.
    pub facts: &'a HostFacts,
    /// Directory of this one run, which exists and belongs to the caller. QEMU's socket goes into a directory
    /// of its own in there. When QEMU runs as another user, that one must be able to pass through (mode
    /// 0711). Where QEMU gets a view of its own files ([`HostFacts::unconfined`]), all paths here and in `spec` have to be
    /// absolute.
    pub run_directory: &'a Path,
    /// The program that becomes QEMU.
    pub trampoline: &'a Trampoline,
    /// How far the guest stands behind other processes for a share of the processors: a nice level from 0 (not at all) to
    /// 19, setpriority(2). Where it cannot be had there is a warning.
    pub niceness: u8,
}

/// What the guest's power-off does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PowerOff {
    /// QEMU ends, as it does unless it is told otherwise.
    Ends,
    /// The machine stands still, as after [`Vm::pause`]; it can be reset, and resumed then.
    Holds,
}

/// A virtual machine whose QEMU has been started.
#[derive(Debug)]
pub struct Vm {
    child: Child,
    process_id: u32,
    qmp: Option<Arc<Qmp>>,
    picture: PathBuf,
    stderr: Stderr,
    machine_type: Option<String>,
    exit_status: Option<ExitStatus>,
    /// When the end of the QMP connection becomes a fault, once it has ended.
    control_lost: Option<Instant>,
    /// Whether the virtual CPUs were stopped, and why is still to be asked and told.
    stopped: bool,
    /// Whether the guest was let run by the start, which is still to be told.
    is_starting: bool,
    phase: Phase,
    /// Until it is taken.
    network: Option<UnixStream>,
    has_balloon: bool,
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
    /// Starts QEMU and returns when it answers, with both ends of the guest's console. The guest runs from then on, unless
    /// `spec` has it paused; before, it would take the processors from QEMU's start and from those of others.
    ///
    /// A QEMU that was told to end before it could answer is no error: [`Vm::next_event`] tells of it.
    ///
    /// # Errors
    /// See [`StartError`]; after an error no process is left.
    pub async fn start(
        request: StartRequest<'_>,
    ) -> Result<(Self, ConsoleReader, ConsoleWriter), StartError> {
        let StartRequest { spec, facts, run_directory, trampoline, niceness } = request;
        spec.check(facts).map_err(|source| StartError::Spec { name: spec.name.clone(), source })?;
        let clock = ClockStart::of(&spec.clock, SystemTime::now())
            .map_err(|source| StartError::Spec { name: spec.name.clone(), source })?;
        let paths = RunPaths::in_directory(run_directory);
        prepare_socket_directory(&paths, &facts.run_as)?;
        let network_listener = spec.network_card.map(|_| listen_for_network(&paths)).transpose()?;
        let mut arguments = qemu_args(spec, facts, &paths, &clock);
        if spec.initial_state == InitialState::Running {
            arguments.push("-S".to_owned());
        }
        tracing::debug!(binary = %facts.qemu.binary.display(), ?arguments, "starting QEMU");

        let spawn_error = |source| StartError::Spawn { binary: facts.qemu.binary.clone(), source };
        let view = View::of(facts, spec, &paths);
        let (binary, shown) =
            view.as_ref().map_or((&facts.qemu.binary, [].as_slice()), |view| (&view.program, &view.shown));
        let role = Role { run_as: &facts.run_as, shown, network: Network::Own };
        let command = trampoline.command(&role, binary, &arguments);
        let mut command = tokio::process::Command::from(command);
        let mut spawn = || command.kill_on_drop(true).spawn();
        let has_own_processes = view.is_some() && facts.namespaces == Namespaces::Usable;
        let spawned = if has_own_processes { in_own_process_namespace(spawn) } else { spawn() };
        let mut child = spawned.map_err(spawn_error)?;
        let missing = || spawn_error(io::Error::other("the process has no standard streams"));
        let stdout = child.stdout.take().ok_or_else(missing)?;
        let console_reader = ConsoleReader::new(stdout).map_err(spawn_error)?;
        let console_writer = child.stdin.take().ok_or_else(missing)?;
        let stderr = Stderr::collect(child.stderr.take().ok_or_else(missing)?);
        let process_id = child.id().unwrap_or_default();
        let mut vm = Self {
            child,
            process_id,
            qmp: None,
            picture: paths.picture.clone(),
            stderr,
            machine_type: None,
            exit_status: None,
            control_lost: None,
            stopped: false,
            is_starting: false,
            phase: Phase::Supervised,
            network: None,
            has_balloon: spec.memory_balloon,
        };
        vm.establish_control(&paths).await?;
        if let (Some(_), Some(listener)) = (&vm.qmp, network_listener) {
            vm.accept_network(&listener, &paths).await?;
        }
        if let Some(qmp) = &vm.qmp {
            let lost = |source| vm.control_error(&paths, source);
            check_features(qmp, &spec.cpu_features, &lost).await?;
            let machine_type = machine_type(qmp).await.map_err(lost)?;
            if let Err(error) = priority::step_behind(process_id, niceness) {
                tracing::warn!(niceness, %error, "the guest does not yield to others");
            }
            let is_starting = spec.initial_state == InitialState::Running;
            if is_starting {
                qmp.execute("cont", Value::Null, COMMAND_LIMIT).await.map_err(lost)?;
            }
            (vm.machine_type, vm.is_starting) = (Some(machine_type), is_starting);
        }
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
            Ok(qmp) => {
                self.qmp = Some(Arc::new(qmp));
                Ok(())
            }
            // The connection ends when QEMU does, which may be noticed first.
            Err(source) => match timeout(DRAIN_LIMIT, self.child.wait()).await {
                Ok(Ok(status)) => self.ended_early(status).await,
                _ => Err(self.control_error(paths, source)),
            },
        }
    }

    fn control_error(&self, paths: &RunPaths, source: QmpError) -> StartError {
        StartError::Control { socket: paths.qmp_socket.clone(), stderr: self.stderr.so_far(), source }
    }

    /// Takes QEMU's end of the network card's wire, which QEMU connects while it starts.
    async fn accept_network(&mut self, listener: &UnixListener, paths: &RunPaths) -> Result<(), StartError> {
        let accepted = tokio::select! {
            accepted = timeout(COMMAND_LIMIT, listener.accept()) => accepted,
            status = self.child.wait() => {
                let status = status.map_err(|source| StartError::Spawn { binary: "QEMU".into(), source })?;
                return self.ended_early(status).await;
            }
        };
        let failed = |source| StartError::Network { socket: paths.network_socket.clone(), source };
        let (stream, _) = accepted.map_err(|_| failed(io::ErrorKind::TimedOut.into()))?.map_err(failed)?;
        // Nobody else has anything to connect there.
        std::fs::remove_file(&paths.network_socket).map_err(failed)?;
        self.network = Some(stream);
        Ok(())
    }

    /// The other end of the guest's network card, once: Ethernet frames without checksum, each after its length in
    /// bytes as a big-endian number of four bytes. `None` for a guest without a card, or one that has ended already.
    pub fn network(&mut self) -> Option<UnixStream> {
        self.network.take()
    }

    async fn ended_early(&mut self, status: ExitStatus) -> Result<(), StartError> {
        if status.success() {
            self.exit_status = Some(status);
            return Ok(());
        }
        Err(StartError::Exited { status, stderr: self.stderr.finish(DRAIN_LIMIT).await })
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
            if self.stopped {
                // Asked again if this call is dropped; the answer is the state at that time.
                let state = self.run_state().await.unwrap_or_default();
                self.stopped = false;
                return Some(VmEvent::Paused { reason: PauseReason::from_run_state(&state) });
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
                Some(event) if event.name == "STOP" => self.stopped = true,
                // The start's own.
                Some(event) if event.name == "RESUME" && std::mem::take(&mut self.is_starting) => {}
                Some(event) => return Some(translate(event)),
                None => {
                    // The socket closes a moment before the process is gone; only a longer moment is a fault.
                    // The deadline is kept, since this call may be dropped and made again.
                    let deadline = *self.control_lost.get_or_insert_with(|| Instant::now() + DRAIN_LIMIT);
                    if let Ok(status) = timeout_at(deadline, self.child.wait()).await {
                        self.note_exit(status);
                        continue;
                    }
                    self.phase = Phase::Uncontrolled;
                    let reason = self.qmp.as_ref().and_then(|qmp| qmp.closed_reason()).unwrap_or_default();
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
        let stderr_tail = self.stderr.finish(DRAIN_LIMIT).await;
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

    /// Says what becomes of QEMU when the guest powers itself off from here on.
    ///
    /// # Errors
    /// See [`QmpError`].
    pub async fn on_power_off(&self, power_off: PowerOff) -> Result<(), QmpError> {
        let action = match power_off {
            PowerOff::Ends => "poweroff",
            PowerOff::Holds => "pause",
        };
        self.control()?.execute("set-action", json!({"shutdown": action}), COMMAND_LIMIT).await.map(drop)
    }

    /// The guest's display as it is, a PNG of at most [`MAX_PICTURE_BYTES`].
    ///
    /// # Errors
    /// See [`PictureError`]. A machine without graphics has no display.
    pub async fn picture(&self) -> Result<Vec<u8>, PictureError> {
        let path = self.picture.to_string_lossy();
        let arguments = json!({"filename": path, "format": "png"});
        self.control()?.execute("screendump", arguments, COMMAND_LIMIT).await?;
        picture::take(&self.picture)
            .map_err(|source| PictureError::Read { path: self.picture.clone(), source })
    }

    /// Moves the guest's mouse a little, as somebody does who wants a dark screen to light up.
    ///
    /// # Errors
    /// See [`QmpError`].
    pub async fn nudge_mouse(&self) -> Result<(), QmpError> {
        let step = |axis| json!({"type": "rel", "data": {"axis": axis, "value": 1}});
        let arguments = json!({"events": [step("x"), step("y")]});
        self.control()?.execute("input-send-event", arguments, COMMAND_LIMIT).await.map(drop)
    }

    /// The guest's memory balloon, where it has one. It can be asked beside everything else, and answers with errors once
    /// QEMU is gone.
    pub fn balloon(&self) -> Option<Balloon> {
        let qmp = self.qmp.as_ref().filter(|_| self.has_balloon)?;
        Some(Balloon(Arc::clone(qmp)))
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

    /// The machine type as QEMU resolved it: `pc-q35-7.2` for `q35`. None of a QEMU that has ended before it answered.
    pub fn machine_type(&self) -> Option<&str> {
        self.machine_type.as_deref()
    }

    /// QEMU's run state, e.g. `running`, `paused`, `guest-panicked`.
    ///
    /// # Errors
    /// See [`QmpError`].
    pub async fn run_state(&self) -> Result<String, QmpError> {
        let status = self.control()?.execute("query-status", Value::Null, COMMAND_LIMIT).await?;
        Ok(status.get("status").and_then(Value::as_str).unwrap_or("unknown").to_owned())
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
        self.control()?.execute(name, Value::Null, COMMAND_LIMIT).await.map(drop)
    }

    fn control(&self) -> Result<&Qmp, QmpError> {
        self.qmp.as_deref().ok_or_else(|| QmpError::Closed { reason: "QEMU has ended".to_owned() })
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
    for socket in [socket, &paths.network_socket] {
        match std::fs::remove_file(socket) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(socket)(error)),
            _ => {}
        }
    }
    Ok(())
}

/// Listens where QEMU will connect the network card. Anybody may who gets into the directory, which is QEMU's user.
fn listen_for_network(paths: &RunPaths) -> Result<UnixListener, StartError> {
    let socket = &paths.network_socket;
    let failed = |source| StartError::Network { socket: socket.clone(), source };
    let listener = UnixListener::bind(socket).map_err(failed)?;
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o666)).map_err(failed)?;
    Ok(listener)
}

/// Connects as soon as QEMU has made its socket.
async fn connect(socket: &Path) -> Result<Qmp, QmpError> {
    let deadline = Instant::now() + START_LIMIT;
    let (mut pause, longest_pause) = SOCKET_PAUSES;
    let stream = loop {
        match UnixStream::connect(socket).await {
            Ok(stream) => break stream,
            Err(error) if Instant::now() > deadline => {
                return Err(QmpError::Handshake { reason: format!("no connection: {error}") });
            }
            Err(_) => sleep(pause).await,
        }
        pause = (pause * 2).min(longest_pause);
    };
    Qmp::start(stream, START_LIMIT).await
}

/// Whether the machine has the CPU features that it requires, on an accelerator without those that it forbids. Both were
/// switched on, and QEMU has left out what the accelerator does not have.
async fn check_features(
    qmp: &Qmp,
    features: &[CpuFeature],
    lost: &impl Fn(QmpError) -> StartError,
) -> Result<(), StartError> {
    let checked =
        |feature: &&CpuFeature| matches!(feature.policy, FeaturePolicy::Require | FeaturePolicy::Forbid);
    let mut features = features.iter().filter(checked).peekable();
    if features.peek().is_none() {
        return Ok(());
    }
    let processor = first_processor(qmp).await.map_err(lost)?;
    for CpuFeature { name, policy } in features {
        // Only the command line knows `_` in every name (`feat2prop` in QEMU's `target/i386/cpu.c`).
        let question = json!({"path": processor, "property": name.replace('_', "-")});
        let answer = qmp.execute("qom-get", question, COMMAND_LIMIT).await.map_err(lost)?;
        match (policy, answer == Value::Bool(true)) {
            (FeaturePolicy::Require, false) => {
                return Err(StartError::FeatureMissing { feature: name.clone() });
            }
            (FeaturePolicy::Forbid, true) => {
                return Err(StartError::FeatureForbidden { feature: name.clone() });
            }
            _ => {}
        }
    }
    Ok(())
}

async fn machine_type(qmp: &Qmp) -> Result<String, QmpError> {
    let question = json!({"path": "/machine", "property": "type"});
    let answer = qmp.execute("qom-get", question, COMMAND_LIMIT).await?;
    let class = answer.as_str().unwrap_or_default();
    Ok(class.strip_suffix("-machine").unwrap_or(class).to_owned())
}

/// Where QEMU keeps the first virtual CPU among its objects.
async fn first_processor(qmp: &Qmp) -> Result<Value, QmpError> {
    let processors = qmp.execute("query-cpus-fast", Value::Null, COMMAND_LIMIT).await?;
    Ok(processors[0]["qom-path"].clone())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::process::Stdio;

    use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);

    /// A process that lives until it is killed or its input closed, and a QMP connection that has nothing to do
    /// with it.
    async fn fake_machine() -> (Vm, ConsoleWriter, UnixStream) {
        let mut child = tokio::process::Command::new("cat")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let greet = async {
            theirs.write_all(b"{\"QMP\":{}}\n").await.unwrap();
            let mut command = String::new();
            BufReader::new(&mut theirs).read_line(&mut command).await.unwrap();
            theirs.write_all(b"{\"return\":{},\"id\":0}\n").await.unwrap();
        };
        let (qmp, ()) = tokio::join!(Qmp::start(ours, LIMIT), greet);
        let stderr = Stderr::collect(child.stderr.take().unwrap());
        let input = child.stdin.take().unwrap();
        let vm = Vm {
            process_id: child.id().unwrap(),
            child,
            qmp: Some(Arc::new(qmp.unwrap())),
            picture: PathBuf::new(),
            stderr,
            machine_type: None,
            exit_status: None,
            control_lost: None,
            stopped: false,
            is_starting: false,
            phase: Phase::Supervised,
            network: None,
            has_balloon: false,
        };
        (vm, input, theirs)
    }

    /// Waits until it is told that `vm` is out of control, kills it, and waits for its end. Why it is.
    async fn lost_and_killed(mut vm: Vm) -> String {
        // Asked again and again, as by a caller that waits for other things too.
        let mut event = None;
        for _ in 0..1_000 {
            if let Ok(next) = timeout(Duration::from_millis(10), vm.next_event()).await {
                event = next;
                break;
            }
        }
        let Some(VmEvent::ControlLost { reason }) = event else { panic!("{event:?}") };
        assert!(vm.quit().await.is_err());
        vm.kill();
        let event = timeout(LIMIT, vm.next_event()).await.unwrap();
        let Some(VmEvent::Exited(report)) = event else { panic!("{event:?}") };
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&report.status), Some(9));
        assert_eq!(timeout(LIMIT, vm.next_event()).await.unwrap(), None);
        reason
    }

    #[tokio::test]
    async fn a_machine_that_no_longer_answers_is_told_of_once_and_can_be_killed() {
        let (vm, _input, control) = fake_machine().await;
        drop(control);
        assert!(!lost_and_killed(vm).await.is_empty(), "why is told");
    }

    #[tokio::test]
    async fn a_machine_that_answers_nonsense_is_told_of_once_and_can_be_killed() {
        for nonsense in ["nonsense\n", "[]\n", "\0\u{fffd}\n"] {
            // Its monitor stays open.
            let (vm, _input, mut control) = fake_machine().await;
            control.write_all(nonsense.as_bytes()).await.unwrap();
            let reason = lost_and_killed(vm).await;
            assert!(reason.contains("JSON"), "{nonsense:?}: {reason}");
        }
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
        assert!(error.to_string().ends_with("the path has 108 bytes, 107 are possible"), "{error}");
        assert!(error.hint().is_some());
    }
}
