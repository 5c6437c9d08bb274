//! What a launcher of root may do, and when it no longer may.
//!
//! | capability | for | until |
//! |---|---|---|
//! | `CAP_SYS_ADMIN` | namespaces and the view of QEMU | the machine runs |
//! | `CAP_SETPCAP` | taking capabilities out of bounding sets | the machine runs |
//! | `CAP_CHOWN`, `CAP_FOWNER` | giving QEMU its directory | the machine runs |
//! | `CAP_NET_RAW` | the socket that the host redirects datagrams to | the machine runs |
//! | `CAP_SYS_NICE` | going ahead of others during the start | the machine runs |
//! | `CAP_DAC_OVERRIDE` | QEMU's directory, which is user 107's: the display's socket and pictures | the end |
//! | `CAP_KILL` | ending QEMU, which is user 107's | the end |
//! | `CAP_NET_BIND_SERVICE` | ports of the guest below 1024, at the Pod's address: those that are listed, and others when they answer | the end |
//! | `CAP_SETUID`, `CAP_SETGID` | the way outside, which becomes `nobody`: passt by itself, QEMU on the trampoline | the end |
//!
//! Capabilities are a thread's own. The threads that helped with the start end when they have had nothing to do for a
//! while (`THREAD_KEEP_ALIVE`, ten seconds, of tokio); all that are made later have no more than the main one.

use std::io;

use vmm::privileges::{self, Capabilities};

/// What following a machine takes.
const FOLLOWING: Capabilities = Capabilities::DAC_OVERRIDE
    .union(Capabilities::KILL)
    .union(Capabilities::NET_BIND_SERVICE)
    .union(Capabilities::SETUID)
    .union(Capabilities::SETGID);

/// What starting one takes.
const STARTING: Capabilities = FOLLOWING
    .union(Capabilities::SYS_ADMIN)
    .union(Capabilities::SETPCAP)
    .union(Capabilities::CHOWN)
    .union(Capabilities::FOWNER)
    .union(Capabilities::NET_RAW)
    .union(Capabilities::SYS_NICE);

/// Gives up what no start of a machine takes, and the gain of privileges by executing anything. Call it before there is
/// another thread.
///
/// # Errors
/// What the kernel says.
pub fn before_start() -> io::Result<()> {
    rustix::thread::set_no_new_privs(true)?;
    only(STARTING)
}

/// Gives up what only the start took.
///
/// # Errors
/// What the kernel says.
pub(crate) fn after_start() -> io::Result<()> {
    only(FOLLOWING)
}

fn only(kept: Capabilities) -> io::Result<()> {
    privileges::limit(kept)?;
    privileges::keep(kept)
}
