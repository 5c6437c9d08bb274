//! Why a machine could not be started, and what is known about QEMU's complaints.

use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;

use crate::args::MAX_SOCKET_PATH_BYTES;
use crate::launch_spec::SpecError;
use crate::qmp::QmpError;

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
    if stderr.is_empty() { "it said nothing".to_owned() } else { stderr.join("; ") }
}

fn also_said(stderr: &[String]) -> String {
    if stderr.is_empty() { String::new() } else { format!(" (QEMU said: {})", stderr.join("; ")) }
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
    const KNOWN: [(&str, &str); 10] = [
        (
            "Could not access KVM kernel module",
            "use `--accel tcg`, or let this user open /dev/kvm (group `kvm`)",
        ),
        ("failed to initialize kvm", "use `--accel tcg`"),
        ("cannot set up guest memory", "give the guest less memory: the host has not that much free"),
        (
            "Failed to unlink socket",
            "the run directory and those above it must let the user of QEMU pass (mode 0711)",
        ),
        ("unable to find CPU model", "`qemu-system-x86_64 -cpu help` lists the models"),
        ("unsupported machine type", "`qemu-system-x86_64 -machine help` lists the machine types"),
        ("could not load PC BIOS", "install the firmware that belongs to QEMU (Debian: package `seabios`)"),
        ("could not open kernel file", "the kernel must be readable by the user that QEMU runs as"),
        (
            "could not load kernel",
            "the kernel must be readable by the user that QEMU runs as, and a bzImage or ELF",
        ),
        ("without PVH ELF Note", "boot the kernel's bzImage: this vmlinux has no PVH entry (CONFIG_PVH)"),
    ];
    let known = |line: &String| KNOWN.iter().find(|(text, _)| line.contains(text));
    stderr.iter().find_map(known).map(|(_, hint)| (*hint).to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

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
}
