//! Figures of the ways into a guest: its console, and its ports. Each is held against the same guest in a QEMU by hand,
//! whose console is a pipe and whose ports are forwarded by QEMU itself, and what arrives is compared with what was sent.
//!
//! The limit of a console is QEMU's: without KVM an emulated serial port says some 0.5 MB/s and hears a tenth of that.
//! `cargo bench --bench access -- WORD` measures only the figures whose name holds the word. Samples go to
//! `target/bench/access.json`.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

#[allow(dead_code, reason = "tests use the rest")]
#[path = "../tests/api/client.rs"]
mod client;
#[allow(dead_code, reason = "tests use the rest")]
#[path = "../tests/e2e/harness.rs"]
mod harness;
#[path = "../../image/tests/support/real_registry.rs"]
mod real_registry;
#[allow(dead_code, reason = "tests use the rest")]
#[path = "../tests/lifecycle/room.rs"]
mod room;
#[allow(dead_code, reason = "tests use the rest")]
#[path = "../tests/api/server.rs"]
mod server;
#[path = "../tests/lifecycle/streams.rs"]
mod streams;
#[allow(dead_code, reason = "other benches use the rest")]
mod support;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, ExitCode, Stdio};
use std::time::{Duration, Instant};

use futures::{SinkExt as _, StreamExt as _};
use rustix::process::{Pid, getpriority_process, setpriority_process};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;

use room::{Boot, Room, instance};
use server::DEADLINE;
use streams::Socket;
use support::{Figure, Pairs, by_hand, finish, wanted};

/// Samples of each of two peers.
const ROUNDS: usize = 7;

/// Lines that a guest says at once: a mebibyte, two seconds of an emulated port.
const LINES: usize = 168_000;

/// Bytes that it hears at once: two seconds again.
const TYPED_BYTES: usize = 64 << 10;

/// Bytes that go through a port at once: half a second.
const BLOB_BYTES: usize = 32 << 20;

/// The guest's ports that take the blob and give it back.
const TAKES: u16 = 9;
const GIVES: u16 = 10;

fn main() -> ExitCode {
    let wanted = wanted();
    let bench = Bench::new();
    let mut figures = Vec::new();
    if wanted("attach") {
        figures.push(bench.attach());
    }
    if wanted("console") {
        figures.extend(bench.console());
    }
    if wanted("ports") {
        figures.extend(bench.ports());
    }
    drop(bench);
    finish("access.json", ROUNDS, &figures)
}

/// A guest under `ferrovirt serve`, and its twin by hand.
struct Bench {
    room: Room,
    twin: Child,
    runtime: tokio::runtime::Runtime,
    consoles: std::cell::RefCell<[Console; 2]>,
    /// Where the twin's ports are: the one that takes, and the one that gives.
    twin_ports: [SocketAddr; 2],
}

/// A guest's console.
enum Console {
    Attached(Box<Socket>, Vec<u8>),
    ByHand(tokio::net::unix::pipe::Sender, tokio::net::unix::pipe::Receiver, Vec<u8>),
}

impl Console {
    async fn send(&mut self, bytes: &[u8]) {
        match self {
            Self::Attached(socket, _) => socket.send(Message::Binary(bytes.to_vec().into())).await.unwrap(),
            Self::ByHand(typed, ..) => typed.write_all(bytes).await.unwrap(),
        }
    }

    /// What was said and not taken yet.
    fn heard(&mut self) -> &mut Vec<u8> {
        let (Self::Attached(_, heard) | Self::ByHand(_, _, heard)) = self;
        heard
    }

    async fn listen(&mut self) {
        let more = async {
            match self {
                Self::Attached(socket, heard) => match socket.next().await.unwrap().unwrap() {
                    Message::Binary(bytes) => heard.extend_from_slice(&bytes),
                    Message::Ping(_) => {}
                    other => panic!("{other:?}"),
                },
                Self::ByHand(_, said, heard) => assert!(said.read_buf(heard).await.unwrap() > 0),
            }
        };
        timeout(DEADLINE, more).await.expect("the guest goes on");
    }

    /// The next `length` bytes.
    async fn take(&mut self, length: usize) -> Vec<u8> {
        while self.heard().len() < length {
            self.listen().await;
        }
        let rest = self.heard().split_off(length);
        std::mem::replace(self.heard(), rest)
    }

    /// Listens until `text` has come.
    async fn expect(&mut self, text: &str) {
        loop {
            let heard = self.heard();
            if let Some(at) = heard.windows(text.len()).position(|window| window == text.as_bytes()) {
                heard.drain(..at + text.len());
                return;
            }
            // The beginning of it may be there.
            heard.drain(..heard.len().saturating_sub(text.len()));
            self.listen().await;
        }
    }

    /// Has the guest's shell run a command.
    async fn run(&mut self, command: &str) {
        self.send(format!("{command}\n").as_bytes()).await;
    }

    /// The same with the port as it is, from the moment on that the guest is ready.
    async fn run_raw(&mut self, command: &str) -> Instant {
        self.run(&format!("stty raw; echo go; {command}; stty sane -echo")).await;
        self.expect("go\n").await;
        Instant::now()
    }
}

impl Bench {
    fn new() -> Self {
        let room = Room::new();
        let image = room.reference("bench/access:1");
        room.push_initrd(&image, "initrd-network");
        let mut guest = instance("vm", &Boot { image: &image, policy: "", guest: "network" });
        guest["spec"]["domain"]["memory"]["guest"] = json!("256Mi");
        room.apply(&guest);
        room.wait_for_phase("vmi/vm", "Running");
        let example = room.processes("qemu-system-x86_64")[0];
        let twin_ports = [free_port(), free_port()];
        let forwarded = [TAKES, GIVES]
            .iter()
            .zip(twin_ports)
            .map(|(guest, host)| format!(",hostfwd=tcp:{host}-:{guest}"));
        let netdev = format!("user,id=net0{}", forwarded.collect::<String>());
        let mut qemu = by_hand(example, &room.world.path("by-hand.sock"), |word| match word {
            word if word.starts_with("stream,id=net0,") => Some(netdev.clone()),
            // A launcher lets the machine go when all is known of it; this one goes at once.
            word => (word != "-S").then_some(word),
        });
        let mut twin = qemu.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        // As willing to wait for others as a machine is.
        let nice = getpriority_process(Some(example)).unwrap();
        setpriority_process(Some(Pid::from_child(&twin)), nice).unwrap();
        let runtime = client::runtime();
        let consoles = runtime.block_on(async {
            let attached =
                streams::open(&room, "virtualmachineinstances/vm/console?replay=true").await.unwrap();
            let typed =
                tokio::net::unix::pipe::Sender::from_owned_fd(twin.stdin.take().unwrap().into()).unwrap();
            let said =
                tokio::net::unix::pipe::Receiver::from_owned_fd(twin.stdout.take().unwrap().into()).unwrap();
            let mut consoles =
                [Console::Attached(Box::new(attached), Vec::new()), Console::ByHand(typed, said, Vec::new())];
            for console in &mut consoles {
                console.expect("guest: shell is ready").await;
                // The kernel's own messages are not what is compared.
                let quiet = "dmesg -n 1";
                let text = format!("seq 1 {LINES} >/tmp/text");
                let takes = format!("nc -ll -p {TAKES} -e dd bs=1M of=/tmp/blob 2>/dev/null &");
                let gives = format!("nc -ll -p {GIVES} -e dd bs=1M if=/tmp/blob 2>/dev/null &");
                console.run(&format!("{quiet}; {text}; {takes} {gives} echo all is\" ready\"")).await;
                console.expect("all is ready").await;
                console.expect("guest: status 0").await;
            }
            consoles
        });
        Self { room, twin, runtime, consoles: consoles.into(), twin_ports }
    }

    /// From the connection's first byte to the first byte of what the guest has said.
    fn attach(&self) -> Figure {
        let samples = (0..21).map(|_| {
            self.runtime.block_on(async {
                let began = Instant::now();
                let path = "virtualmachineinstances/vm/console?readOnly=true&replay=true";
                let mut console =
                    Console::Attached(Box::new(streams::open(&self.room, path).await.unwrap()), Vec::new());
                console.take(1).await;
                began.elapsed().as_secs_f64() * 1e3
            })
        });
        Figure::plain("console: connection to first replayed byte", "ms", samples.collect(), 20.0)
    }

    /// What the guest says, and what it hears.
    fn console(&self) -> [Figure; 2] {
        let mut consoles = self.consoles.borrow_mut();
        let text: String = (1..=LINES).map(|number| format!("{number}\n")).collect();
        let typed = noise(TYPED_BYTES);
        let digest = image::Digest::sha256_of(&typed);
        let (mut said, mut heard) = (Pairs::default(), Pairs::default());
        for _ in 0..ROUNDS {
            for (index, console) in consoles.iter_mut().enumerate() {
                let (saying, hearing) = self.runtime.block_on(async {
                    let began = console.run_raw("cat /tmp/text").await;
                    let came = console.take(text.len()).await;
                    let saying = began.elapsed();
                    assert!(came == text.as_bytes(), "the console says something else than the guest");
                    console.expect("guest: status 0").await;
                    let began = console.run_raw(&format!("head -c {TYPED_BYTES} | sha256sum")).await;
                    for piece in typed.chunks(16 << 10) {
                        console.send(piece).await;
                    }
                    console.expect(digest.hex()).await;
                    let hearing = began.elapsed();
                    console.expect("guest: status 0").await;
                    (saying, hearing)
                });
                said.add(index, saying);
                heard.add(index, hearing);
            }
        }
        let peer = "QEMU's serial port on a pipe";
        [
            Figure::ratio("console, guest to client: 1 MiB", peer, &said, 1.0 / 0.9),
            Figure::ratio("console, client to guest: 64 KiB", peer, &heard, 1.0 / 0.9),
        ]
    }

    /// What goes into the guest by a port, and comes out again.
    fn ports(&self) -> [Figure; 2] {
        let mut command = self.room.world.command(["port-forward", "vmi/vm"]);
        command.args([TAKES, GIVES].map(|port| format!(":{port}")));
        command.env("KUBECONFIG", self.room.world.path("state/apiserver/admin.kubeconfig"));
        let mut forwarding = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut lines = BufReader::new(forwarding.stdout.take().unwrap()).lines();
        let our_ports = [TAKES, GIVES].map(|guest| {
            let line = lines.next().unwrap().unwrap();
            let local = line
                .strip_prefix("Forwarding from ")
                .and_then(|rest| rest.strip_suffix(&format!(" -> {guest}")));
            local.unwrap_or_else(|| panic!("{line}")).parse::<SocketAddr>().unwrap()
        });
        let blob = noise(BLOB_BYTES);
        let (mut taken, mut given) = (Pairs::default(), Pairs::default());
        for _ in 0..ROUNDS {
            for (index, [takes, gives]) in [our_ports, self.twin_ports].into_iter().enumerate() {
                let began = Instant::now();
                let mut guest = TcpStream::connect(takes).unwrap();
                guest.write_all(&blob).unwrap();
                guest.shutdown(Shutdown::Write).unwrap();
                assert_eq!(guest.read(&mut [0]).unwrap(), 0, "the guest ends when it has all");
                taken.add(index, began.elapsed());
                let began = Instant::now();
                let mut back = Vec::with_capacity(BLOB_BYTES);
                TcpStream::connect(gives).unwrap().read_to_end(&mut back).unwrap();
                given.add(index, began.elapsed());
                assert!(back == blob, "{} bytes of {BLOB_BYTES} come back, or others", back.len());
            }
        }
        forwarding.kill().unwrap();
        forwarding.wait().unwrap();
        let peer = "QEMU's hostfwd";
        [
            Figure::ratio("port-forward, client to guest: 32 MiB", peer, &taken, 1.0 / 0.8),
            Figure::ratio("port-forward, guest to client: 32 MiB", peer, &given, 1.0 / 0.8),
        ]
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.twin.kill().unwrap();
        self.twin.wait().unwrap();
    }
}

impl Pairs {
    /// Adds a sample of ours (0) or theirs (1).
    fn add(&mut self, whose: usize, took: Duration) {
        let samples = if whose == 0 { &mut self.ours } else { &mut self.theirs };
        samples.push(took.as_secs_f64());
    }
}

/// Bytes of every value in no order that repeats.
fn noise(length: usize) -> Vec<u8> {
    (0..).flat_map(|number: u32| number.wrapping_mul(2_654_435_761).to_be_bytes()).take(length).collect()
}

/// An address of this host that nobody listens on.
fn free_port() -> SocketAddr {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap()
}
