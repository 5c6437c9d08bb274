//! One launcher: the machine of one Pod, from the Pod's directory to the machine's end.
//!
//! ```text
//!            ┌──────── idle ────────┐  start   ┌─ starting ─┐  QEMU runs  ┌─ following ─┐
//!  claim ──► │ control API listens  │ ───────► │ boot image │ ──────────► │   session   │ ──► last status
//!            │                      │ ◄─────── │ host, plan │             └─────────────┘         │
//!            └──────────┬───────────┘ syncError└─────┬──────┘                                     ▼
//!                       └── shutdown, SIGTERM ───────┴──────────────────────────────────► exit.json, exit
//! ```
//!
//! One task does all of it, on the thread that starts QEMU and so on the one whose end would end QEMU; connections are
//! tasks beside it, which reach it through channels and read the status that it publishes.
//!
//! # Guarantees
//! - One launcher at most uses a Pod's directory ([`Claim`]).
//! - QEMU is gone, or killed where it was only being started, before `exit.json` tells of an end; whoever still waits for a status gets the last one.
//! - A change of state is told at once. What a guest can cause as often as it likes (restarts, panics, marks) is told once
//!   in [`TELL_INTERVAL`].

mod board;
mod start;

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use manifest::machine_status::{BootFacts, MachineStatus};
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_rustls::TlsAcceptor;
use vmm::{InitialState, PauseReason};

use crate::agent_report::Reporter;
use crate::cgroup::{self, ControlGroup, CpuLimit};
use crate::console::Pattern;
use crate::control::{self, Doors, Identity, IdentityError, Start};
use crate::cri_log::{CriLog, Stream};
use crate::display::Display;
use crate::exit_record::ExitRecord;
use crate::guest_agent::Agent;
use crate::guest_memory;
use crate::host::Host;
use crate::machine_dir;
use crate::network::{self, Door, PodPorts};
use crate::pod_dir::{self, LauncherRecord, PodDir};
use crate::probe::Probes;
use crate::serial_port::SerialPort;
use crate::session::{
    Conditions, Connections, Log, Order, Progress, Session, Steering, Verdict, answer, forward_input,
};

use board::{Board, End, Telling, ending, tell, unix_milliseconds};
use start::{Started, start};

/// How often changes are told that are no change of state.
pub const TELL_INTERVAL: Duration = Duration::from_secs(1);

/// How long a start waits for the checksums of what it boots: a few milliseconds for most, and no start waits for a large
/// initrd on a slow disk.
const CHECKSUM_PATIENCE: Duration = Duration::from_millis(100);

/// How long answers may take to get out at the end.
const FAREWELL: Duration = Duration::from_millis(500);

/// Orders and starts that may wait.
const QUEUE: usize = 16;

/// Name of the log that has the guest's console, a container of the Pod.
const CONSOLE_LOG: &str = "guest-console-log";

/// What a launcher is told once.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where the control API listens.
    pub listen: SocketAddr,
    /// Name of the instance.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Its UID; no other one is started.
    pub uid: String,
    /// Time that the guest gets to shut down after SIGTERM.
    pub grace: Duration,
    /// Kernels unwrapped for QEMU.
    pub kernel_dir: PathBuf,
    /// Nice level of QEMU, from 0 to 19.
    pub niceness: u8,
    /// Most that the machine takes of the processors, in thousandths of a core.
    pub cpu_limit_millis: Option<u64>,
    /// Where QEMU and facts about this host are.
    pub host: Host,
    /// This program's version.
    pub version: String,
}

/// Why a launcher does not run.
#[derive(Debug, thiserror::Error)]
pub enum LauncherError {
    /// Another one uses the Pod's directory.
    #[error("another launcher holds `{}`", path.display())]
    Held {
        /// The lock.
        path: PathBuf,
    },
    /// A file of the Pod's directory.
    #[error("cannot use `{}`", path.display())]
    Files {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The certificates in the Pod's directory.
    #[error("cannot use the certificates in `{}`", path.display())]
    Identity {
        /// Their directory.
        path: PathBuf,
        /// Why.
        source: IdentityError,
    },
    /// The address cannot be used.
    #[error("cannot listen on `{address}`")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// Signals cannot be caught.
    #[error("cannot catch signals")]
    Signals {
        /// Why.
        source: io::Error,
    },
}

fn files(path: &Path) -> impl FnOnce(io::Error) -> LauncherError {
    let path = path.to_owned();
    |source| LauncherError::Files { path, source }
}

/// The right to be the launcher of a Pod, and room for its last words. Held until the process ends.
#[derive(Debug)]
pub struct Claim {
    pod: PodDir,
    exit_record: ExitRecord,
    _lock: File,
}

impl Claim {
    /// Takes the lock of `pod`.
    ///
    /// # Errors
    /// [`LauncherError::Held`] when another launcher lives; [`LauncherError::Files`].
    pub fn take(pod: PodDir) -> Result<Claim, LauncherError> {
        let path = pod.lock();
        let lock = machine_dir::lock(pod.path()).map_err(files(&path))?;
        let lock = lock.ok_or(LauncherError::Held { path })?;
        // What an earlier launcher, which was killed, has said of itself is not true of this one.
        let path = pod.launcher_record();
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(files(&path)(error)),
            _ => {}
        }
        let path = pod.exit_record();
        let exit_record = ExitRecord::reserve(&path).map_err(files(&path))?;
        Ok(Claim { pod, exit_record, _lock: lock })
    }

    /// Opens the log of what the launcher itself says.
    ///
    /// # Errors
    /// [`LauncherError::Files`].
    pub fn compute_log(&self) -> Result<CriLog, LauncherError> {
        open_log(&self.pod, "compute", Stream::Error)
    }
}

fn open_log(pod: &PodDir, container: &str, stream: Stream) -> Result<CriLog, LauncherError> {
    let path = pod.log(container);
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory).map_err(files(directory))?;
    }
    CriLog::open(&path, stream).map_err(files(&path))
}

/// Signals that reach a launcher: SIGTERM ends its machine, SIGINT and SIGHUP are for those at a terminal.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    _ignored: [Signal; 2],
}

impl Signals {
    /// Catches them from here on.
    ///
    /// # Errors
    /// [`LauncherError::Signals`].
    pub fn catch() -> Result<Signals, LauncherError> {
        let catch = |kind| signal(kind).map_err(|source| LauncherError::Signals { source });
        Ok(Signals {
            terminate: catch(SignalKind::terminate())?,
            _ignored: [catch(SignalKind::interrupt())?, catch(SignalKind::hangup())?],
        })
    }
}

/// Runs the launcher until its machine has ended, or it was ended before there was one. `listening` is called once the
/// control API listens and `launcher.json` says where.
///
/// Must run on the thread of a current-thread runtime: QEMU ends with the thread that has started it.
///
/// # Errors
/// For everything that keeps the control API from being served. A machine that cannot be started is no error: the launcher
/// stays and may be asked again.
pub async fn run(
    claim: Claim,
    settings: Settings,
    mut signals: Signals,
    listening: impl FnOnce(),
) -> Result<MachineStatus, LauncherError> {
    let Claim { pod, exit_record, _lock } = claim;
    let acceptor = acceptor(&pod)?;
    let pod_ports = PodPorts::reserve(settings.listen);
    let listen = |source| LauncherError::Listen { address: settings.listen, source };
    let listener = TcpListener::bind(settings.listen).await.map_err(listen)?;
    let address = listener.local_addr().map_err(listen)?;
    let cpu = settings.cpu_limit_millis.map(|millis| CpuLimit { millis, niceness: settings.niceness });
    // The kernel may wait some tens of milliseconds before it moves a process, and nobody needs to wait for that.
    let entering = tokio::task::spawn_blocking({
        let pod = pod.clone();
        move || control_group(&pod, cpu)
    });
    let (starts, start_requests) = mpsc::channel(QUEUE);
    let (orders, order_requests) = mpsc::channel(QUEUE);
    let board = Board::default();
    let (port, typed) = SerialPort::new();
    let network = Arc::new(OnceLock::new());
    let agent = Agent::default();
    let probes = Arc::new(OnceLock::new());
    let doors = Doors {
        uid: settings.uid.clone(),
        starts,
        orders: orders.clone(),
        status: board.watch(),
        port: port.clone(),
        display: Display::new(vmm::RunPaths::in_directory(pod.path()).vnc_socket),
        network: Arc::clone(&network),
        agent: agent.clone(),
        probes: Arc::clone(&probes),
    };
    let (stop, stopped) = watch::channel(false);
    let server = tokio::spawn(control::serve(listener, acceptor, doors, stopped));
    let record = LauncherRecord {
        process_id: std::process::id(),
        control: address,
        version: settings.version.clone(),
    };
    write_document(&pod.launcher_record(), &record)?;
    tracing::info!(
        %address,
        name = settings.name,
        namespace = settings.namespace,
        uid = settings.uid,
        version = settings.version,
        "the launcher listens"
    );
    listening();
    // A panic has been told of as such.
    let group = entering.await.unwrap_or_default();

    let supervisor = Supervisor {
        pod: &pod,
        settings: &settings,
        control: address,
        pod_ports,
        board: &board,
        group: group.as_ref(),
        starts: start_requests,
        orders: order_requests,
        order_sender: orders,
        port: port.clone(),
        network,
        agent,
        probes,
        typed,
    };
    let end = supervisor.supervise(&mut signals.terminate).await;
    port.close();
    board.change(|status| end.tell(status));
    let last = board.current();
    tracing::info!(state = ?last.state, reason = ?last.reason, "the machine has ended");
    let path = pod.exit_record();
    if let Err(error) = exit_record.write(&last) {
        // The exit code still tells.
        tracing::error!(path = %path.display(), %error, "the last status cannot be written");
    }
    stop.send_replace(true);
    if timeout(FAREWELL, server).await.is_err() {
        tracing::debug!("some answers did not get out in time");
    }
    if let Some(group) = group
        && let Err(error) = cgroup::leave(&group.directories(cpu.is_some()))
    {
        tracing::debug!(%error, "the control group is left to the node");
    }
    Ok(last)
}

/// Makes the launcher's control group and enters it. Without one the machine runs without limits.
fn control_group(pod: &PodDir, cpu: Option<CpuLimit>) -> Option<ControlGroup> {
    let name = pod.path().file_name()?.to_string_lossy();
    let enter = || {
        // Of an earlier launcher, which was killed; what it is in was written as a whole.
        if let Ok(earlier) = std::fs::read(pod.control_group()) {
            cgroup::remove(&serde_json::from_slice::<Vec<PathBuf>>(&earlier)?)?;
        }
        let group = ControlGroup::below_own(&format!("ferrovirt-{name}-{}", std::process::id()))?;
        // Before there is anything to clean up.
        write_document(&pod.control_group(), &group.directories(cpu.is_some())).map_err(io::Error::other)?;
        group.enter(cpu)?;
        Ok::<_, io::Error>(group)
    };
    match enter() {
        Ok(group) => Some(group),
        Err(error) if rustix::process::geteuid().is_root() => {
            tracing::warn!(%error, "no limits on the memory, processors and processes of the machine");
            None
        }
        Err(error) => {
            tracing::info!(%error, "no limits on the memory, processors and processes of the machine, which need root or a service manager of the user");
            None
        }
    }
}

fn acceptor(pod: &PodDir) -> Result<TlsAcceptor, LauncherError> {
    let directory = pod.tls();
    let read = |name: &str| {
        let path = directory.join(name);
        std::fs::read_to_string(&path).map_err(files(&path))
    };
    let (authority, certificate, key) = (read("ca.crt")?, read("tls.crt")?, read("tls.key")?);
    Identity::from_pem(&authority, &certificate, &key)
        .and_then(control::server_config)
        .map(TlsAcceptor::from)
        .map_err(|source| LauncherError::Identity { path: directory, source })
}

fn write_document(path: &Path, document: &impl Serialize) -> Result<(), LauncherError> {
    pod_dir::write_document(path, document).map_err(files(path))
}

struct Supervisor<'a> {
    pod: &'a PodDir,
    settings: &'a Settings,
    /// Where the control API listens.
    control: SocketAddr,
    /// Ports of its address, until there is a guest behind them.
    pod_ports: PodPorts,
    board: &'a Board,
    /// Where the machine is limited.
    group: Option<&'a ControlGroup>,
    starts: mpsc::Receiver<Start>,
    orders: mpsc::Receiver<Order>,
    order_sender: mpsc::Sender<Order>,
    port: SerialPort,
    /// The way to the guest, once it runs and if it has a network.
    network: Arc<OnceLock<Door>>,
    /// The agent in the guest, once it answers.
    agent: Agent,
    /// The probes of the instance, once its machine runs.
    probes: Arc<OnceLock<Probes>>,
    /// What is typed on the port, until there is a guest to hear it.
    typed: mpsc::Receiver<Vec<u8>>,
}

impl Supervisor<'_> {
    /// Until the machine has ended, or there will be none.
    async fn supervise(mut self, terminate: &mut Signal) -> End {
        loop {
            let Start { instance, done } = tokio::select! {
                _ = terminate.recv() => return End::before_a_machine(),
                Some(order) = self.orders.recv() => match order {
                    Order::Shutdown { reply, .. } => {
                        answer(reply, Ok(()));
                        return End::before_a_machine();
                    }
                    order => {
                        order.refuse("there is no machine");
                        continue;
                    }
                },
                Some(start) = self.starts.recv() => start,
            };
            let outcome = {
                let ports = &mut self.pod_ports;
                let attempt = start(self.pod, self.settings, self.control, ports, self.group, &instance);
                tokio::pin!(attempt);
                // What is dropped half-started is killed with the process, which ends then.
                loop {
                    tokio::select! {
                        outcome = &mut attempt => break outcome,
                        _ = terminate.recv() => return End::before_a_machine(),
                        Some(order) = self.orders.recv() => match order {
                            Order::Shutdown { reply, .. } => {
                                answer(reply, Ok(()));
                                return End::before_a_machine();
                            }
                            order => order.refuse("the machine is being started"),
                        },
                    }
                }
            };
            match outcome {
                Ok(started) => {
                    // Once: a launcher has one machine.
                    let _ = self.probes.set(Probes::of(&instance));
                    return self.follow(started, done, terminate).await;
                }
                Err(failure) => {
                    let text = failure.told();
                    tracing::warn!(error = text, "the machine could not be started");
                    let uid = &self.settings.uid;
                    self.board.change(|status| {
                        status.vmi_uid.clone_from(uid);
                        status.sync_error = Some(text);
                    });
                    // Who asked may not wait any more.
                    let _ = done.send(());
                }
            }
        }
    }

    async fn follow(mut self, started: Started, done: oneshot::Sender<()>, terminate: &mut Signal) -> End {
        let Started {
            vm,
            console,
            console_input,
            console_log,
            image,
            mut known,
            door,
            rules,
            initial_state,
            began,
            began_unix,
            timeline,
        } = started;
        let board = self.board;
        let leased = door.clone().map(Door::leased);
        let leased = async {
            match leased {
                Some(leased) => leased.await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(leased);
        let mut is_leased = false;
        if let Some(door) = door {
            // Once: a launcher has one machine.
            let _ = self.network.set(door);
        }
        let shut_down = (self.settings.grace, self.order_sender.clone());
        let typing = forward_input(self.typed, console_input);
        tokio::pin!(typing);
        let checksums = tokio::task::spawn_blocking(image.checksums());
        tokio::pin!(checksums);
        let is_paused = initial_state == InitialState::Paused;
        let at_first = Progress {
            timeline: timeline.clone(),
            paused: is_paused.then_some(PauseReason::Requested),
            ..Progress::default()
        };
        let (progress, mut watched) = watch::channel(at_first);
        let (agent_told, mut agent) = watch::channel(None);
        let agent_socket = vmm::RunPaths::in_directory(self.pod.path()).agent_socket;
        // Ends with the session, which has the other end of its progress.
        let reporter = Reporter::new(self.pod.agent_report());
        tokio::spawn(self.agent.clone().follow(agent_socket, watched.clone(), agent_told, reporter));
        if let Some(balloon) = vm.balloon() {
            tokio::spawn(guest_memory::tell(balloon, self.pod.guest_memory(), watched.clone()));
        }
        let (output, said) = mpsc::channel(1);
        let recording = tokio::spawn(record(self.port.clone(), said));
        let (_ends, mut ends) = mpsc::channel(1);
        let connections = Connections {
            vm,
            console,
            logs: console_log.into_iter().map(Log::Cri).collect(),
            output,
            requests: &mut ends,
            steering: Some(Steering { orders: &mut self.orders, progress }),
        };
        let conditions = Conditions { rules, fail_on: panic_pattern(), ..Conditions::default() };
        let session = Session::new(connections, conditions, began, timeline);
        let session = if is_paused { session.paused() } else { session };
        let session = session.run();
        tokio::pin!(session);

        let mut done = Some(done);
        let patience = Instant::now() + CHECKSUM_PATIENCE;
        let mut boot: Option<BootFacts> = None;
        let mut are_checksums_due = true;
        let mut is_heard = true;
        let mut reboots = 0;
        let mut news = Telling::default();
        let outcome = loop {
            let now = Instant::now();
            // The first time everything is told at once; who has asked for the start gets it as the answer.
            let is_known = boot.is_some() || !are_checksums_due || now >= patience;
            let due = if done.is_some() { Some(patience) } else { news.due(now) };
            if done.is_some() && is_known || done.is_none() && due.is_some_and(|due| due <= now) {
                let progress = watched.borrow_and_update().clone();
                let guest_agent = agent.borrow_and_update().clone();
                board.change(|status| {
                    known.tell(status);
                    status.boot = boot.clone().or(status.boot.take());
                    status.guest_agent = guest_agent;
                    tell(status, &progress, began_unix);
                });
                news.told(progress.paused, now);
                if let Some(done) = done.take() {
                    // Who asked may not wait any more.
                    let _ = done.send(());
                }
                continue;
            }
            tokio::select! {
                outcome = &mut session => break outcome,
                _ = terminate.recv() => order_shutdown(&shut_down),
                read = &mut checksums, if are_checksums_due => {
                    are_checksums_due = false;
                    match read {
                        Ok(Ok(facts)) => boot = Some(facts),
                        Ok(Err(error)) => {
                            tracing::warn!(%error, "the boot files cannot be read for their checksums");
                        }
                        Err(error) => tracing::error!(%error, "the reading of the boot files has failed"),
                    }
                    news.come(&watched.borrow().paused);
                }
                changed = watched.changed() => {
                    // Its other end is in the session, which outlives nothing here.
                    if changed.is_ok() {
                        let progress = watched.borrow();
                        news.come(&progress.paused);
                        if progress.reboots != reboots {
                            reboots = progress.reboots;
                            self.port.begin_boot();
                        }
                    }
                }
                () = &mut leased, if !is_leased => {
                    is_leased = true;
                    known.note_lease(network::GUEST);
                    news.come(&watched.borrow().paused);
                }
                Ok(()) = agent.changed() => news.come(&watched.borrow().paused),
                () = &mut typing, if is_heard => is_heard = false,
                () = sleep_until(due.unwrap_or(now)), if due.is_some() => {}
            }
        };
        if let Err(error) = recording.await {
            tracing::error!(%error, "the end of the console is not told to those who are attached");
        }
        if let Verdict::VmmFailed { reason } = &outcome.verdict {
            tracing::error!(reason, "QEMU failed");
            known.warn(self.group.and_then(out_of_memory));
        }
        if are_checksums_due && let Ok(Ok(Ok(facts))) = timeout(CHECKSUM_PATIENCE, checksums).await {
            boot = Some(facts);
        }
        board.change(|status| {
            known.tell(status);
            status.boot = boot.or(status.boot.take());
            status.guest_agent = None;
        });
        let (state, reason) = ending(&outcome.verdict);
        let progress = Progress {
            timeline: outcome.timeline,
            paused: None,
            panic: outcome.panic,
            reboots: outcome.reboots,
            is_agent_port_open: false,
        };
        End { state, reason, progress: Some((progress, began_unix)) }
    }
}

/// What is to be said where a process of the machine was killed for want of memory.
fn out_of_memory(group: &ControlGroup) -> Option<String> {
    let kills = group.out_of_memory_kills().unwrap_or_else(|error| {
        tracing::warn!(%error, "whether the machine ran out of memory is not known");
        0
    });
    (kills > 0).then(|| {
        "the machine took more memory than its guest's and QEMU's together may be, and was killed for it"
            .to_owned()
    })
}

/// Hands what the guest says to those who are attached, until it has said its last.
async fn record(port: SerialPort, mut said: mpsc::Receiver<Vec<u8>>) {
    while let Some(bytes) = said.recv().await {
        port.record(&bytes).await;
    }
}

/// SIGTERM: what a shutdown over the control API does.
fn order_shutdown((grace, orders): &(Duration, mpsc::Sender<Order>)) {
    tracing::info!(?grace, "SIGTERM: the machine is shut down");
    let (reply, _) = oneshot::channel();
    let (order, orders) = (Order::Shutdown { grace: *grace, reply }, orders.clone());
    // The queue may be full for a moment, and the session must go on meanwhile.
    tokio::spawn(async move {
        // Without a receiver the machine has ended, as was asked.
        let _ = orders.send(order).await;
    });
}

/// A panic's line is what a launcher looks for on a console.
fn panic_pattern() -> Vec<Pattern> {
    Pattern::new("Kernel panic - not syncing").into_iter().collect()
}
