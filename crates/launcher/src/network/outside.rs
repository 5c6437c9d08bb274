//! The way out: a program that makes connections and datagrams of the host's out of the guest's.
//!
//! | program | where | what it gives up before it hears of the guest |
//! |---|---|---|
//! | passt | it is installed | root for `nobody`, the file system and all capabilities, by itself |
//! | QEMU's user network | else, if QEMU was built with it | the same: [`UserNetwork`] |
//!
//! Both speak frames on a stream, their standard input (module `frame`). What the guest may send them is the same too, and
//! settled before (module `way`).

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::process::{Child, ChildStderr, Command};
use tokio::time::{Instant, timeout};
use vmm::process::{Trampoline, spared_of_sigterm};
use vmm::{QemuFacts, Slirp, UserNetwork, find_in_path};

use super::frame::Frame;
use super::{
    GATEWAY_MAC, GUEST, HOST, HostLoopback, NAME_SERVER, NETWORK, PREFIX_LENGTH, WIRE_BUFFER_BYTES, Wire,
};

/// passt's file name.
const PASST: &str = "passt";

/// How long a program that has failed is left alone; the guest's frames to the outside are dropped meanwhile.
const PAUSE: Duration = Duration::from_secs(5);

/// How long a program may take to end when its socket has. passt does so at once, QEMU never.
const END_LIMIT: Duration = Duration::from_secs(1);

/// How much is kept of what a program says, in bytes.
const MOST_SAID_BYTES: u64 = 4096;

/// Where the guest's frames to the host's network go.
#[derive(Debug)]
pub enum Outside {
    /// Nowhere: there is no program for it here.
    Closed {
        /// Why, and what to do about it.
        warning: String,
    },
    /// To a program.
    Open(Runner),
}

/// A program that runs from the first frame on.
#[derive(Debug)]
pub struct Runner {
    program: Program,
    running: Option<OwnedWriteHalf>,
    not_before: Instant,
}

/// What can be the way out.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Program {
    Passt { file: PathBuf, search_path: OsString, host_loopback: HostLoopback },
    Qemu { qemu: QemuFacts, trampoline: Trampoline },
}

impl Outside {
    /// What `search_path` and `qemu` have to offer.
    pub fn find(
        search_path: &OsStr,
        qemu: &QemuFacts,
        trampoline: &Trampoline,
        host_loopback: HostLoopback,
    ) -> Self {
        let passt = find_in_path(PASST.as_ref(), search_path).filter(|file| file.is_absolute());
        let program = match (passt, qemu.slirp) {
            (Some(file), _) => Program::Passt { file, search_path: search_path.to_owned(), host_loopback },
            (None, Slirp::Available) => Program::Qemu { qemu: qemu.clone(), trampoline: trampoline.clone() },
            (None, Slirp::Missing) => {
                let warning = format!(
                    "the guest reaches nothing outside, since `passt` is not installed here and `{}` has no user \
                     network: install passt (Debian, Ubuntu: `apt-get install passt`) and restart the machine",
                    qemu.binary.display()
                );
                return Self::Closed { warning };
            }
        };
        Self::Open(Runner { program, running: None, not_before: Instant::now() })
    }

    /// Whether anything can be reached.
    pub fn is_open(&self) -> bool {
        matches!(self, Self::Open(_))
    }

    /// Why nothing can be reached, and what to do about it.
    pub fn warning(&self) -> Option<&str> {
        match self {
            Self::Closed { warning } => Some(warning),
            Self::Open(_) => None,
        }
    }

    /// Sends a frame; answers go to `to_guest`. A frame that cannot be sent is lost, as on any network.
    pub(super) async fn send(&mut self, frame: &Frame, to_guest: &Wire) {
        let Self::Open(runner) = self else { return to_guest.counters.drop_transmitted() };
        if let Err(error) = runner.send(frame, to_guest).await {
            to_guest.counters.fail_transmitted();
            runner.running = None;
            runner.not_before = Instant::now() + PAUSE;
            tracing::warn!(program = runner.name(), %error, "the way outside takes no frames");
        }
    }
}

impl Runner {
    /// What the program is called.
    pub fn name(&self) -> &'static str {
        match self.program {
            Program::Passt { .. } => PASST,
            Program::Qemu { .. } => "QEMU's user network",
        }
    }

    async fn send(&mut self, frame: &Frame, to_guest: &Wire) -> io::Result<()> {
        let running = match &mut self.running {
            Some(running) => running,
            None if Instant::now() < self.not_before => {
                to_guest.counters.drop_transmitted();
                return Ok(());
            }
            None => {
                let started = start(self.name(), &self.program, to_guest.clone()).await?;
                self.running.insert(started)
            }
        };
        running.write_all(frame.on_the_wire()).await
    }
}

impl Program {
    /// Starts it, with the other end of `wire` as its standard input, and standard error piped. Dropping it kills it.
    ///
    /// It does not hear SIGTERM, which a host that goes down, or a service manager that stops a unit, tells to all
    /// processes: the guest may need its network to shut down.
    async fn spawn(&self, wire: OwnedFd) -> io::Result<Child> {
        match self {
            Self::Passt { file, search_path, host_loopback } => {
                let mut command = Command::new(file);
                command
                    .args(passt_arguments(*host_loopback))
                    .env_clear()
                    .env("PATH", search_path)
                    .stdin(Stdio::from(wire))
                    .stdout(Stdio::null())
                    .stderr(Stdio::piped())
                    .kill_on_drop(true);
                spared_of_sigterm(|| command.spawn())?
            }
            Self::Qemu { qemu, trampoline } => USER_NETWORK.start(qemu, trampoline, wire).await,
        }
    }
}

/// The network as QEMU has it.
const USER_NETWORK: UserNetwork =
    UserNetwork { network: NETWORK, prefix_length: PREFIX_LENGTH, host: HOST, name_server: NAME_SERVER };

/// passt's arguments, passt(1). The socket is its standard input.
///
/// - `--foreground`: it stays the process that was started.
/// - `--fd 0`: one connection, at whose end passt ends.
/// - `--ipv4-only`, `--no-dhcp`: what the guest is told of the network is told by the gateway.
/// - `--address`, `--netmask`, `--gateway`, `--mac-addr`: the network. What passt takes for the gateway stands for the
///   host's loopback, unless `--no-map-gw`; the guest's gateway is another.
/// - `--dns-forward`: questions to this address go to the host's name servers, wherever those are.
/// - No `--tcp-ports`, no `--udp-ports`: nothing on the host is forwarded to the guest, which is the default.
fn passt_arguments(host_loopback: HostLoopback) -> Vec<String> {
    let mac = GATEWAY_MAC.map(|octet| format!("{octet:02x}")).join(":");
    let (guest, host, name_server) = (GUEST.to_string(), HOST.to_string(), NAME_SERVER.to_string());
    let prefix = PREFIX_LENGTH.to_string();
    let mut arguments: Vec<&str> = vec!["--foreground", "--quiet", "--fd", "0", "--ipv4-only", "--no-dhcp"];
    arguments.extend(["--address", &guest, "--netmask", &prefix, "--gateway", &host]);
    arguments.extend(["--mac-addr", &mac, "--dns-forward", &name_server]);
    match host_loopback {
        HostLoopback::Closed => arguments.push("--no-map-gw"),
        HostLoopback::Open => {}
    }
    arguments.into_iter().map(str::to_owned).collect()
}

/// Starts it; what comes from it goes to `to_guest`.
async fn start(name: &'static str, program: &Program, to_guest: Wire) -> io::Result<OwnedWriteHalf> {
    let (ours, theirs) = UnixStream::pair()?;
    let theirs = theirs.into_std()?;
    theirs.set_nonblocking(false)?;
    let mut child = program.spawn(theirs.into()).await?;
    tracing::info!(
        program = name,
        process = child.id(),
        "a way outside runs, for what the guest sends there"
    );
    let said = child.stderr.take();
    let (from_outside, to_outside) = ours.into_split();
    tokio::spawn(follow(name, child, said, from_outside, to_guest));
    Ok(to_outside)
}

/// Hands on what comes from outside, until the program ends.
async fn follow(
    program: &'static str,
    mut child: Child,
    said: Option<ChildStderr>,
    from_outside: OwnedReadHalf,
    to_guest: Wire,
) {
    let listening = tokio::spawn(last_words(said));
    let mut from_outside = BufReader::with_capacity(WIRE_BUFFER_BYTES, from_outside);
    let mut frame = Frame::default();
    while let Ok(true) = frame.read(&mut from_outside).await {
        if to_guest.send(&frame).await.is_err() {
            break;
        }
    }
    drop(from_outside);
    match timeout(END_LIMIT, child.wait()).await {
        Ok(Ok(status)) if status.success() => tracing::debug!(program, "the way outside has ended"),
        Ok(Ok(status)) => {
            // Who listens does not panic; if it did, the status would still be told.
            let said = listening.await.unwrap_or_default();
            tracing::warn!(program, %status, said, "the way outside has ended");
        }
        Ok(Err(error)) => tracing::warn!(program, %error, "the way outside cannot be waited for"),
        Err(_) => match child.kill().await {
            Ok(()) => tracing::debug!(program, "the way outside has ended with its socket"),
            Err(error) => tracing::warn!(program, %error, "the way outside cannot be ended"),
        },
    }
}

/// The last line that a program says, warnings aside: QEMU has one each time, that its hub has no card.
async fn last_words(said: Option<ChildStderr>) -> String {
    let Some(said) = said else { return String::new() };
    let mut said = BufReader::new(said);
    let mut text = Vec::new();
    let listening = async {
        (&mut said).take(MOST_SAID_BYTES).read_to_end(&mut text).await?;
        // What comes after that is not kept, and nobody waits for it to be read.
        tokio::io::copy(&mut said, &mut tokio::io::sink()).await
    };
    if let Err(error) = listening.await {
        tracing::debug!(%error, "what the way outside says cannot be read");
    }
    let text = String::from_utf8_lossy(&text);
    text.lines().rfind(|line| !line.contains(" warning: ")).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::os::unix::fs::PermissionsExt;
    use std::sync::Arc;

    use rustix::process::{Pid, Signal, kill_process};
    use tokio::sync::Mutex;
    use vmm::{FirmwareFacts, QemuVersion, Sandbox};

    use super::*;

    /// Longest wait for anything. Reached only when a test fails.
    const LIMIT: Duration = Duration::from_secs(60);

    /// A directory of programs, and what is outside by them.
    struct Place(tempfile::TempDir);

    impl Place {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn program(&self, name: &str, script: &str) -> PathBuf {
            let program = self.0.path().join(name);
            std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
            std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
            program
        }

        fn outside(&self, slirp: Slirp) -> Outside {
            let qemu = QemuFacts {
                binary: self.0.path().join("qemu"),
                version: QemuVersion { major: 9, minor: 0, micro: 0 },
                firmware: FirmwareFacts::default(),
                sandbox: Sandbox::Available,
                slirp,
                installation: None,
            };
            // Stands for the trampoline, which only the binary is: hears no SIGTERM, and becomes what it is told.
            let script = "trap '' TERM\nwhile [ \"$1\" != -- ]; do shift; done\nshift\nexec \"$@\"";
            let trampoline = Trampoline::program(self.program("trampoline", script));
            Outside::find(self.0.path().as_os_str(), &qemu, &trampoline, HostLoopback::Closed)
        }
    }

    #[test]
    fn passt_goes_before_qemu_and_without_both_the_way_is_closed() {
        let place = Place::new();
        for slirp in [Slirp::Available, Slirp::Missing] {
            place.program(PASST, "");
            let Outside::Open(runner) = place.outside(slirp) else { panic!("passt is there") };
            assert_eq!(runner.name(), "passt");
            std::fs::remove_file(place.0.path().join(PASST)).unwrap();
        }
        let outside = place.outside(Slirp::Available);
        assert!(outside.is_open() && outside.warning().is_none());
        let Outside::Open(runner) = outside else { panic!("QEMU is there") };
        assert_eq!(runner.name(), "QEMU's user network");
        let outside = place.outside(Slirp::Missing);
        assert!(!outside.is_open());
        let expected = format!(
            "the guest reaches nothing outside, since `passt` is not installed here and `{}/qemu` has no user network: \
             install passt (Debian, Ubuntu: `apt-get install passt`) and restart the machine",
            place.0.path().display()
        );
        assert_eq!(outside.warning(), Some(expected.as_str()));
    }

    #[tokio::test]
    async fn a_program_does_not_hear_sigterm_and_after_one_that_dies_another_is_started() {
        for name in [PASST, "qemu"] {
            lives_and_dies(name).await;
        }
    }

    async fn lives_and_dies(name: &str) {
        let place = Place::new();
        let directory = &place.0;
        // Says who it is, and answers each frame with itself. It waits for no other process: shells unblock signals then.
        place.program(name, &format!("echo $$ >{}/id\nexec /bin/cat >&0", directory.path().display()));
        let mut outside = place.outside(Slirp::Available);
        let (guest, host) = UnixStream::pair().unwrap();
        let (from_host, _) = guest.into_split();
        let mut from_host = BufReader::new(from_host);
        let to_guest = Wire { guest: Arc::new(Mutex::new(host.into_split().1)), counters: Arc::default() };
        let frame = Frame::zeroed(60);
        let mut answer = Frame::default();

        outside.send(&frame, &to_guest).await;
        assert!(timeout(LIMIT, answer.read(&mut from_host)).await.unwrap().unwrap());
        assert_eq!(answer, frame);
        let first = std::fs::read_to_string(directory.path().join("id")).unwrap();
        let program = Pid::from_raw(first.trim().parse().unwrap()).unwrap();
        kill_process(program, Signal::TERM).unwrap();
        outside.send(&frame, &to_guest).await;
        assert!(timeout(LIMIT, answer.read(&mut from_host)).await.unwrap().unwrap(), "it goes on");
        // SIGTERM is the fifteenth bit, proc(5). This process hears it.
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        let blocked = status.lines().find_map(|line| line.strip_prefix("SigBlk:\t")).unwrap();
        assert_eq!(u64::from_str_radix(blocked, 16).unwrap() & 1 << 14, 0, "{blocked}");
        kill_process(program, Signal::KILL).unwrap();
        // Frames are lost until the broken connection is noticed, then for a while on purpose.
        let noticed = async {
            loop {
                outside.send(&frame, &to_guest).await;
                match &outside {
                    Outside::Open(runner) if runner.running.is_some() => tokio::task::yield_now().await,
                    _ => return,
                }
            }
        };
        timeout(LIMIT, noticed).await.unwrap();
        outside.send(&frame, &to_guest).await;
        let Outside::Open(runner) = &mut outside else { panic!("it is there") };
        assert!(runner.running.is_none(), "it is left alone for a while");
        let lost = to_guest.counters.current().lost.unwrap();
        assert_eq!((lost.transmit_errors, lost.transmit_packets_dropped), (1, 1));
        runner.not_before = Instant::now();
        outside.send(&frame, &to_guest).await;
        assert!(timeout(LIMIT, answer.read(&mut from_host)).await.unwrap().unwrap());
        assert_ne!(std::fs::read_to_string(directory.path().join("id")).unwrap(), first);
    }

    #[tokio::test]
    async fn without_a_program_the_guest_loses_its_frames() {
        let mut outside = Place::new().outside(Slirp::Missing);
        let (_guest, host) = UnixStream::pair().unwrap();
        let to_guest = Wire { guest: Arc::new(Mutex::new(host.into_split().1)), counters: Arc::default() };
        outside.send(&Frame::zeroed(60), &to_guest).await;
        assert_eq!(to_guest.counters.current().lost.unwrap().transmit_packets_dropped, 1);
    }

    #[test]
    fn the_hosts_loopback_is_closed_unless_asked_for() {
        let network = "--foreground --quiet --fd 0 --ipv4-only --no-dhcp --address 10.0.2.2 --netmask 24 \
                       --gateway 10.0.2.4 --mac-addr 52:55:0a:00:02:01 --dns-forward 10.0.2.3";
        assert_eq!(passt_arguments(HostLoopback::Closed).join(" "), format!("{network} --no-map-gw"));
        assert_eq!(passt_arguments(HostLoopback::Open).join(" "), network);
    }
}
