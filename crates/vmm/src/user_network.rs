//! QEMU's user network: libslirp, which makes connections and datagrams of the host's out of a guest's frames, in a QEMU
//! of its own that has no machine.
//!
//! ```text
//!  frames, each after its length ◄─► standard input: netdev wire ── hub ── netdev outside: libslirp ◄─► sockets of the host's
//! ```
//!
//! libslirp reads what a guest has made up, and has the host's network. So its process has nothing else, as far as who
//! starts it may see to that:
//!
//! | it has not | by |
//! |---|---|
//! | root, or the user of guests' QEMUs, whose sockets and processes it would have | user and group [`NOBODY`], where root starts it |
//! | capabilities, more of them by executing anything | empty sets, the bounding set included; no new privileges |
//! | files but QEMU's own and [`RESOLVER`] | a mount namespace, where its user may make a user namespace |
//! | System V IPC, the host's name; the memory of other processes | the same |
//! | new processes and programs, other credentials | QEMU's seccomp filter |
//!
//! # Caveats
//! What libslirp takes for the host's own loopback, and for its name server, is not this module's: no option of QEMU's
//! closes either. Who hands it frames looks at where they go.
//!
//! It ends with its parent, and not with its standard input (`net_socket_send` in QEMU's `net/socket.c` closes that, and
//! nothing else): who started it kills it.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::process::{Child, Command};

use crate::args::Arguments;
use crate::confinement::{Network, Shown, unknown_libraries};
use crate::host_facts::{QemuFacts, Sandbox};
use crate::process::{Role, Trampoline, tried};
use crate::run_as::RunAs;

/// The user and the group without any rights: those that the kernel shows for ids without a name (`overflowuid`, proc(5)),
/// which passt takes too.
const NOBODY: u32 = 65534;

/// Where libslirp finds the host's name servers, resolv.conf(5).
const RESOLVER: &str = "/etc/resolv.conf";

/// The network of a guest, as libslirp has it. It has no DHCP server that the guest could do without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UserNetwork {
    /// Its first address.
    pub network: Ipv4Addr,
    /// Bits of its prefix.
    pub prefix_length: u8,
    /// The address that stands for the host's loopback.
    pub host: Ipv4Addr,
    /// The address that stands for the host's name server.
    pub name_server: Ipv4Addr,
}

impl UserNetwork {
    /// QEMU's arguments, "Invocation".
    ///
    /// - `-name process=`: so that nobody takes it for a guest's QEMU.
    /// - `-machine none`, `-accel tcg,tb-size=1`: there are no processors; 1 MiB is reserved for what they would translate
    ///   rather than 1 GiB, which takes half of the start (35 of 70 ms; QEMU 7.2, 2026-11).
    /// - `-netdev socket,fd=0`: frames on standard input, each after its length in bytes as a big-endian number of four
    ///   bytes.
    fn arguments(&self, sandbox: Sandbox) -> Vec<String> {
        let Self { network, prefix_length, host, name_server } = self;
        let mut args = Arguments::default();
        args.pair("-name", "outside,process=user-network");
        args.flag("-nodefaults");
        args.flag("-no-user-config");
        args.pair("-machine", "none");
        args.pair("-accel", "tcg,tb-size=1");
        args.pair("-display", "none");
        let addresses = format!("net={network}/{prefix_length},host={host},dns={name_server}");
        args.pair("-netdev", format!("user,id=outside,ipv6=off,{addresses}"));
        args.pair("-netdev", "socket,id=wire,fd=0");
        for end in ["outside", "wire"] {
            args.pair("-netdev", format!("hubport,id=hub-{end},hubid=0,netdev={end}"));
        }
        args.pair("-msg", "timestamp=off");
        args.sandbox(sandbox);
        args.list
    }

    /// Starts it, with the other end of `wire` for frames and its standard error piped; some ten milliseconds. Dropping it
    /// kills it. Call it on a thread that lives as long as it shall ([`process`](crate::process)).
    ///
    /// # Errors
    /// When the process cannot be made. A QEMU that cannot start says so, and ends.
    pub async fn start(&self, qemu: &QemuFacts, trampoline: &Trampoline, wire: OwnedFd) -> io::Result<Child> {
        let is_root = rustix::process::geteuid().is_root();
        let run_as = match is_root {
            true => RunAs::User { uid: NOBODY, gid: NOBODY, groups: Vec::new() },
            false => RunAs::Caller,
        };
        let (program, shown) = match view(qemu, trampoline, &run_as).await {
            Ok(view) => view,
            Err(reason) => {
                let consequence = "QEMU's user network sees the files of this host as far as its user may";
                match is_root {
                    true => tracing::warn!(reason, "{consequence}"),
                    false => tracing::debug!(reason, "{consequence}"),
                }
                (qemu.binary.clone(), Vec::new())
            }
        };
        let role = Role { run_as: &run_as, shown: &shown, network: Network::Hosts };
        Command::from(trampoline.command(&role, &program, &self.arguments(qemu.sandbox)))
            .stdin(Stdio::from(wire))
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
    }
}

/// The program and what it is shown, once it has been tried that the rest can be hidden from `run_as`; otherwise why not.
async fn view(
    qemu: &QemuFacts,
    trampoline: &Trampoline,
    run_as: &RunAs,
) -> Result<(PathBuf, Vec<Shown>), String> {
    let installation = qemu.installation.as_ref().ok_or_else(|| unknown_libraries(qemu))?;
    let shown = Shown::read_only(installation.files().chain([Path::new(RESOLVER)]));
    let role = Role { run_as, shown: &shown, network: Network::Hosts };
    let output = Command::from(trampoline.trial(&role)).kill_on_drop(true).output().await;
    tried(&output.map_err(|error| error.to_string())?)?;
    Ok((installation.program.clone(), shown))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_has_the_network_and_nothing_else() {
        let network = UserNetwork {
            network: Ipv4Addr::new(192, 0, 2, 0),
            prefix_length: 25,
            host: Ipv4Addr::new(192, 0, 2, 4),
            name_server: Ipv4Addr::new(192, 0, 2, 3),
        };
        let without = "-name outside,process=user-network -nodefaults -no-user-config -machine none \
                       -accel tcg,tb-size=1 -display none \
                       -netdev user,id=outside,ipv6=off,net=192.0.2.0/25,host=192.0.2.4,dns=192.0.2.3 \
                       -netdev socket,id=wire,fd=0 -netdev hubport,id=hub-outside,hubid=0,netdev=outside \
                       -netdev hubport,id=hub-wire,hubid=0,netdev=wire -msg timestamp=off";
        assert_eq!(network.arguments(Sandbox::Missing).join(" "), without);
        let sandbox = "-sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny";
        assert_eq!(network.arguments(Sandbox::Available).join(" "), format!("{without} {sandbox}"));
    }
}
