//! The way out: passt, which makes connections and datagrams of the host's out of the guest's.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::process::{Child, ChildStderr, Command};
use tokio::time::Instant;
use vmm::process::spared_of_sigterm;

use super::frame::Frame;
use super::{GATEWAY_MAC, GUEST, HOST, HostLoopback, NAME_SERVER, PREFIX_LENGTH, WIRE_BUFFER_BYTES, Wire};

/// The program's name.
const PROGRAM: &str = "passt";

/// How long a passt that has failed is left alone; the guest's frames to the outside are dropped meanwhile.
const PAUSE: Duration = Duration::from_secs(5);

/// How much is kept of what passt says, in bytes.
const MOST_SAID_BYTES: u64 = 4096;

/// Where the guest's frames to the host's network go.
#[derive(Debug)]
pub enum Outside {
    /// Nowhere: there is no passt here.
    Closed,
    /// To passt.
    Passt(Passt),
}

/// passt, which runs from the first frame on.
#[derive(Debug)]
pub struct Passt {
    program: PathBuf,
    search_path: OsString,
    host_loopback: HostLoopback,
    running: Option<OwnedWriteHalf>,
    not_before: Instant,
}

impl Outside {
    /// What `search_path` has to offer.
    pub fn find(search_path: &OsStr, host_loopback: HostLoopback) -> Self {
        let candidates = std::env::split_paths(search_path).filter(|directory| directory.is_absolute());
        match candidates.map(|directory| directory.join(PROGRAM)).find(|file| is_program(file)) {
            None => Self::Closed,
            Some(program) => Self::Passt(Passt {
                program,
                search_path: search_path.to_owned(),
                host_loopback,
                running: None,
                not_before: Instant::now(),
            }),
        }
    }

    /// Whether anything can be reached.
    pub fn is_open(&self) -> bool {
        matches!(self, Self::Passt(_))
    }

    /// Why nothing can be reached, and what to do about it.
    pub fn warning(&self) -> Option<&'static str> {
        (!self.is_open()).then_some(
            "the guest reaches nothing outside, since `passt` is not installed here: install it (Debian, Ubuntu: \
             `apt-get install passt`) and restart the machine",
        )
    }

    /// Sends a frame; answers go to `to_guest`. A frame that cannot be sent is lost, as on any network.
    pub(super) async fn send(&mut self, frame: &Frame, to_guest: &Wire) {
        let Self::Passt(passt) = self else { return to_guest.counters.drop_transmitted() };
        if let Err(error) = passt.send(frame, to_guest).await {
            to_guest.counters.fail_transmitted();
            passt.running = None;
            passt.not_before = Instant::now() + PAUSE;
            tracing::warn!(program = %passt.program.display(), %error, "passt takes no frames");
        }
    }
}

impl Passt {
    async fn send(&mut self, frame: &Frame, to_guest: &Wire) -> io::Result<()> {
        let running = match &mut self.running {
            Some(running) => running,
            None if Instant::now() < self.not_before => {
                to_guest.counters.drop_transmitted();
                return Ok(());
            }
            None => self.running.insert(start(
                &self.program,
                &self.search_path,
                self.host_loopback,
                to_guest.clone(),
            )?),
        };
        running.write_all(frame.on_the_wire()).await
    }
}

fn is_program(file: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(file).is_ok_and(|metadata| metadata.is_file() && metadata.mode() & 0o111 != 0)
}

/// passt's arguments, passt(1). The socket is its standard input.
///
/// - `--foreground`: it stays the process that was started.
/// - `--fd 0`: one connection, at whose end passt ends.
/// - `--ipv4-only`, `--no-dhcp`: what the guest is told of the network is told by the gateway.
/// - `--address`, `--netmask`, `--gateway`, `--mac-addr`: the network. What passt takes for the gateway stands for the
///   host's loopback, unless `--no-map-gw`; the guest's gateway is another.
/// - `--dns-forward`: questions to this address go to the host's name servers, wherever those are.
/// - No `--tcp-ports`, no `--udp-ports`: nothing on the host is forwarded to the guest, which is the default.
fn arguments(host_loopback: HostLoopback) -> Vec<String> {
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

/// Starts it. It gives up root by itself, for `nobody`, and the file system, so that it needs no more than the socket.
///
/// It does not hear SIGTERM, which a host that goes down, or a service manager that stops a unit, tells to all processes:
/// the guest may need its network to shut down. It ends with its socket.
fn start(
    program: &Path,
    search_path: &OsStr,
    host_loopback: HostLoopback,
    to_guest: Wire,
) -> io::Result<OwnedWriteHalf> {
    let (ours, theirs) = UnixStream::pair()?;
    let theirs = theirs.into_std()?;
    theirs.set_nonblocking(false)?;
    let mut command = Command::new(program);
    command
        .args(arguments(host_loopback))
        .env_clear()
        .env("PATH", search_path)
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let mut child = spared_of_sigterm(|| command.spawn())??;
    tracing::info!(process = child.id(), "passt runs, for what the guest sends outside");
    let said = child.stderr.take();
    let (from_outside, to_outside) = ours.into_split();
    tokio::spawn(follow(child, said, from_outside, to_guest));
    Ok(to_outside)
}

/// Hands on what comes from outside, until passt ends.
async fn follow(mut child: Child, said: Option<ChildStderr>, from_outside: OwnedReadHalf, to_guest: Wire) {
    let listening = tokio::spawn(last_words(said));
    let mut from_outside = BufReader::with_capacity(WIRE_BUFFER_BYTES, from_outside);
    let mut frame = Frame::default();
    while let Ok(true) = frame.read(&mut from_outside).await {
        if to_guest.send(&frame).await.is_err() {
            break;
        }
    }
    // Its socket is closed with this, so it ends.
    drop(from_outside);
    match child.wait().await {
        Ok(status) if status.success() => tracing::debug!("passt has ended"),
        Ok(status) => {
            // Who listens does not panic; if it did, the status would still be told.
            let said = listening.await.unwrap_or_default();
            tracing::warn!(%status, said, "passt has ended");
        }
        Err(error) => tracing::warn!(%error, "passt cannot be waited for"),
    }
}

/// The last line that passt says.
async fn last_words(said: Option<ChildStderr>) -> String {
    let Some(said) = said else { return String::new() };
    let mut said = BufReader::new(said);
    let mut text = Vec::new();
    // Bounded; what comes after that is not read, and passt, which is quiet, waits for nobody.
    if let Err(error) = (&mut said).take(MOST_SAID_BYTES).read_to_end(&mut text).await {
        tracing::debug!(%error, "what passt says cannot be read");
    }
    String::from_utf8_lossy(&text).lines().last().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::os::unix::fs::PermissionsExt;
    use std::sync::Arc;

    use rustix::process::{Pid, Signal, kill_process};
    use tokio::sync::Mutex;
    use tokio::time::timeout;

    use super::*;

    /// Longest wait for anything. Reached only when a test fails.
    const LIMIT: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn a_passt_does_not_hear_sigterm_and_after_one_that_dies_another_is_started() {
        let directory = tempfile::tempdir().unwrap();
        // Says who it is, and answers each frame with itself. It waits for no other process: shells unblock signals then.
        let program = directory.path().join(PROGRAM);
        let script = format!("#!/bin/sh\necho $$ >{}/id\nexec cat >&0\n", directory.path().display());
        std::fs::write(&program, script).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let search_path = std::env::join_paths([directory.path(), Path::new("/bin")]).unwrap();
        let mut outside = Outside::find(&search_path, HostLoopback::Closed);
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
        let passt = Pid::from_raw(first.trim().parse().unwrap()).unwrap();
        kill_process(passt, Signal::TERM).unwrap();
        outside.send(&frame, &to_guest).await;
        assert!(timeout(LIMIT, answer.read(&mut from_host)).await.unwrap().unwrap(), "it goes on");
        // SIGTERM is the fifteenth bit, proc(5). This process hears it.
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        let blocked = status.lines().find_map(|line| line.strip_prefix("SigBlk:\t")).unwrap();
        assert_eq!(u64::from_str_radix(blocked, 16).unwrap() & 1 << 14, 0, "{blocked}");
        kill_process(passt, Signal::KILL).unwrap();
        // Frames are lost until the broken connection is noticed, then for a while on purpose.
        let noticed = async {
            loop {
                outside.send(&frame, &to_guest).await;
                match &outside {
                    Outside::Passt(passt) if passt.running.is_some() => tokio::task::yield_now().await,
                    _ => return,
                }
            }
        };
        timeout(LIMIT, noticed).await.unwrap();
        outside.send(&frame, &to_guest).await;
        let Outside::Passt(passt) = &mut outside else { panic!("it is there") };
        assert!(passt.running.is_none(), "it is left alone for a while");
        let lost = to_guest.counters.current().lost.unwrap();
        assert_eq!((lost.transmit_errors, lost.transmit_packets_dropped), (1, 1));
        passt.not_before = Instant::now();
        outside.send(&frame, &to_guest).await;
        assert!(timeout(LIMIT, answer.read(&mut from_host)).await.unwrap().unwrap());
        assert_ne!(std::fs::read_to_string(directory.path().join("id")).unwrap(), first);
    }

    #[tokio::test]
    async fn without_passt_the_guest_is_told_of_and_loses_its_frames() {
        let directory = tempfile::tempdir().unwrap();
        let mut outside = Outside::find(directory.path().as_os_str(), HostLoopback::Closed);
        assert!(!outside.is_open());
        assert!(outside.warning().unwrap().contains("`passt` is not installed here"));
        let (_guest, host) = UnixStream::pair().unwrap();
        let to_guest = Wire { guest: Arc::new(Mutex::new(host.into_split().1)), counters: Arc::default() };
        outside.send(&Frame::zeroed(60), &to_guest).await;
        assert_eq!(to_guest.counters.current().lost.unwrap().transmit_packets_dropped, 1);
    }

    #[test]
    fn the_hosts_loopback_is_closed_unless_asked_for() {
        let network = "--foreground --quiet --fd 0 --ipv4-only --no-dhcp --address 10.0.2.2 --netmask 24 \
                       --gateway 10.0.2.4 --mac-addr 52:55:0a:00:02:01 --dns-forward 10.0.2.3";
        assert_eq!(arguments(HostLoopback::Closed).join(" "), format!("{network} --no-map-gw"));
        assert_eq!(arguments(HostLoopback::Open).join(" "), network);
    }
}
