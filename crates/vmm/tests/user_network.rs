//! QEMU's user network, by a real QEMU.
// The tests find QEMU as a user would.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::print_stderr)]

#[allow(dead_code, reason = "other test targets use the rest")]
mod support;

use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use support::{LIMIT, boot_example, facts};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::process::Child;
use tokio::time::timeout;
use vmm::UserNetwork;
use vmm::process::Trampoline;

const NETWORK: UserNetwork = UserNetwork {
    network: Ipv4Addr::new(192, 0, 2, 0),
    prefix_length: 24,
    host: Ipv4Addr::new(192, 0, 2, 4),
    name_server: Ipv4Addr::new(192, 0, 2, 3),
};

/// The guest's end of it, of a guest with these addresses.
struct Wire(UnixStream);

const GUEST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const GUEST_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

impl Wire {
    async fn send(&mut self, kind: [u8; 2], payload: &[u8]) {
        let frame = [&[0xff; 6], &GUEST_MAC, kind.as_slice(), payload].concat();
        self.0.write_u32(frame.len().try_into().unwrap()).await.unwrap();
        self.0.write_all(&frame).await.unwrap();
    }

    async fn receive(&mut self) -> Vec<u8> {
        let length = timeout(LIMIT, self.0.read_u32()).await.expect("it answers").unwrap();
        let mut frame = vec![0; length.try_into().unwrap()];
        self.0.read_exact(&mut frame).await.unwrap();
        frame
    }

    /// ARP, RFC 826.
    async fn arp(&mut self, operation: u8, station: &[u8; 6], target: Ipv4Addr) {
        let head = [0, 1, 8, 0, 6, 4, 0, operation];
        let addresses = [&GUEST_MAC, GUEST.octets().as_slice(), station, target.octets().as_slice()].concat();
        self.send([8, 6], &[&head, addresses.as_slice()].concat()).await;
    }

    /// A datagram without a checksum of its own, RFC 768.
    async fn datagram(&mut self, to: (Ipv4Addr, u16), text: &[u8]) {
        let length = |more: usize| u16::try_from(text.len() + more).unwrap().to_be_bytes();
        let head = [&[0x45, 0], length(28).as_slice(), &[0, 1, 0x40, 0, 64, 17]].concat();
        let addresses = [GUEST.octets(), to.0.octets()].concat();
        let words = [head.as_slice(), &addresses].concat();
        let sum: u32 = words.chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum();
        let checksum = (!u16::try_from((sum >> 16) + (sum & 0xffff)).unwrap()).to_be_bytes();
        let ports = [7_u16.to_be_bytes(), to.1.to_be_bytes()].concat();
        let packet = [&head, checksum.as_slice(), &addresses, &ports, &length(8), &[0, 0], text];
        self.send([8, 0], &packet.concat()).await;
    }
}

async fn started() -> (Wire, Child) {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    let trampoline = Trampoline::program(boot_example());
    let child = NETWORK.start(&facts().qemu, &trampoline, OwnedFd::from(theirs)).await.unwrap();
    (Wire(UnixStream::from_std(ours).unwrap()), child)
}

#[tokio::test]
async fn frames_become_datagrams_of_the_hosts_and_those_become_frames() {
    let (mut wire, _child) = started().await;
    let host = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    host.set_read_timeout(Some(LIMIT)).unwrap();
    let port = host.local_addr().unwrap().port();
    wire.datagram((NETWORK.host, port), b"there").await;
    let mut text = [0; 16];
    let (length, from) = host.recv_from(&mut text).unwrap();
    assert_eq!(&text[..length], b"there");
    host.send_to(b"and back", from).unwrap();
    // It asks where the guest is, and pads the answer.
    let question = wire.receive().await;
    assert_eq!((&question[12..14], question[21]), (&[8_u8, 6][..], 1));
    let station: [u8; 6] = question[6..12].try_into().unwrap();
    wire.arp(2, &station, NETWORK.host).await;
    let answer = wire.receive().await;
    assert_eq!((&answer[26..30], &answer[36..38]), (&NETWORK.host.octets()[..], &7_u16.to_be_bytes()[..]));
    assert_eq!(&answer[42..50], b"and back");
}

/// One line of `/proc/PID/status`.
fn status_line(status: &str, name: &str) -> Vec<String> {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap();
    line.split_whitespace().map(str::to_owned).collect()
}

/// The names in a directory.
fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[tokio::test]
async fn its_process_has_the_hosts_network_and_nothing_else() {
    let (mut wire, child) = started().await;
    wire.arp(1, &[0; 6], NETWORK.name_server).await;
    let answer = wire.receive().await;
    assert_eq!(answer[22..28], [0x52, 0x55, 192, 0, 2, 3]);
    let id = child.id().unwrap();
    let of_process = |name: &str| PathBuf::from(format!("/proc/{id}/{name}"));
    let status = std::fs::read_to_string(of_process("status")).unwrap();
    assert_eq!(status_line(&status, "Name"), ["user-network"], "it is no guest's QEMU");
    assert_eq!(status_line(&status, "NoNewPrivs"), ["1"]);
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        assert_eq!(status_line(&status, set), ["0000000000000000"], "{set}");
    }
    // SIGTERM is the fifteenth bit, proc(5).
    let blocked = u64::from_str_radix(&status_line(&status, "SigBlk")[0], 16).unwrap();
    assert_ne!(blocked & 1 << 14, 0);
    if facts().qemu.sandbox == vmm::Sandbox::Available {
        assert_eq!(status_line(&status, "Seccomp"), ["2"]);
    }
    let is_root = rustix::process::geteuid().is_root();
    if is_root {
        assert_eq!(status_line(&status, "Uid"), ["65534"; 4]);
        assert_eq!(status_line(&status, "Gid"), ["65534"; 4]);
        assert_eq!(status_line(&status, "Groups"), Vec::<String>::new());
        assert_eq!(status_line(&status, "CapBnd"), ["0000000000000000"]);
    }
    let is_own = |namespace: &str| {
        let link = format!("ns/{namespace}");
        let own = std::fs::read_link(format!("/proc/self/{link}")).unwrap();
        std::fs::read_link(of_process(&link)).unwrap() != own
    };
    assert!(!is_own("net"));
    if !is_own("user") {
        let mut refused = Command::new("unshare");
        refused.args(["--user", "--mount", "--map-current-user", "true"]);
        if is_root {
            refused.uid(65534).gid(65534);
        }
        assert!(!refused.status().unwrap().success(), "that user can make user namespaces");
        eprintln!("skipped: no user namespaces here");
        return;
    }
    assert_eq!(["mnt", "ipc", "uts"].map(is_own), [true; 3]);
    assert_eq!(status_line(&status, "CapBnd"), ["0000000000000000"]);
    let root = of_process("root");
    assert_eq!(names(&root.join("etc")), ["ld.so.cache", "resolv.conf"]);
    for absent in ["proc", "sys", "dev", "run", "root", "home", "tmp", "bin/sh", "usr/bin/env"] {
        assert!(!root.join(absent).exists(), "{absent}");
    }
    // Every mount is read-only: proc_pid_mountinfo(5).
    let mounts = std::fs::read_to_string(of_process("mountinfo")).unwrap();
    let is_read_only = |line: &str| line.split(' ').nth(5).unwrap().split(',').any(|option| option == "ro");
    assert!(mounts.lines().all(|line| is_read_only(line) && line.contains("nosuid")), "{mounts}");
}
