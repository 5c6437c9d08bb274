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
    /// The guest's network card could not be connected.
    #[error("cannot connect the network card through `{}`", socket.display())]
    Network {
        /// The socket.
        socket: PathBuf,
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
    /// The accelerator does not have a CPU feature that the machine requires.
    #[error("the CPU feature `{feature}` is required, and this host cannot provide it")]
    FeatureMissing {
        /// The feature.
        feature: String,
    },
    /// The accelerator has a CPU feature that the machine forbids.
    #[error("the CPU feature `{feature}` is forbidden, and this host has it")]
    FeatureForbidden {
        /// The feature.
        feature: String,
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

/// Whose fault it is that a machine could not be started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The machine as it was described, or the host that it was to run on: somebody can correct it, and
    /// [`StartError::hint`] mostly says how. Trying again unchanged is useless.
    Setup,
    /// QEMU, or this program: it failed for no reason that is known to lie elsewhere.
    Vmm,
}

impl StartError {
    /// Whose fault it is.
    ///
    /// What QEMU complains about is known by its words, so a complaint that is not known counts as a failure of
    /// QEMU.
    pub fn fault(&self) -> Fault {
        match self {
            Self::Spec { .. }
            | Self::SocketPath { .. }
            | Self::RunDirectory { .. }
            | Self::FeatureMissing { .. }
            | Self::FeatureForbidden { .. } => Fault::Setup,
            Self::Exited { stderr, .. } | Self::Control { stderr, .. } => match remedy_for(stderr) {
                Some(_) => Fault::Setup,
                None => Fault::Vmm,
            },
            Self::Spawn { .. } | Self::Network { .. } => Fault::Vmm,
        }
    }

    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Spec { source, .. } => source.hint(),
            Self::SocketPath { .. } => Some("choose a shorter run directory with `--run-dir`".to_owned()),
            Self::Exited { stderr, .. } | Self::Control { stderr, .. } => {
                remedy_for(stderr).map(str::to_owned)
            }
            Self::FeatureMissing { .. } => {
                Some("use the policy `optional` in `cpu.features`, or another host".to_owned())
            }
            Self::FeatureForbidden { .. } => {
                Some("use the policy `disable` in `cpu.features`, or another host".to_owned())
            }
            Self::RunDirectory { .. } | Self::Spawn { .. } | Self::Network { .. } => None,
        }
    }
}

/// What QEMU, or the trampoline before it, complains about when the machine or the host is at fault: a part of the
/// complaint, and what the user can do about it. A failure of QEMU itself has no place here, see [`Fault`].
const KNOWN_COMPLAINTS: &[(&str, &str)] = &[
    ("Could not access KVM kernel module", "use `--accel tcg`, or let this user open /dev/kvm (group `kvm`)"),
    ("failed to initialize kvm", "use `--accel tcg`"),
    ("invalid accelerator kvm", "use `--accel tcg`: this QEMU was built without KVM"),
    ("cannot set up guest memory", "give the guest less memory: the host has not that much free"),
    ("phys-bits too low", "give the guest less memory, or a CPU model with larger physical addresses"),
    ("Invalid SMP CPUs", "change `cpu.sockets`, `cpu.cores` or `cpu.threads`"),
    (
        "Failed to unlink socket",
        "the run directory and those above it must let the user of QEMU pass (mode 0711)",
    ),
    ("unable to find CPU model", "`qemu-system-x86_64 -cpu help` lists the models"),
    (
        "can't apply global",
        "`cpu.features` has a name that this QEMU does not know; `qemu-system-x86_64 -cpu help` lists those it does",
    ),
    (
        "requires KVM or HVF",
        "the CPU model `host` needs KVM; `host-passthrough` is the best CPU without it, too",
    ),
    ("unsupported machine type", "`qemu-system-x86_64 -machine help` lists the machine types"),
    ("could not load PC BIOS", "install the firmware that belongs to QEMU (Debian: package `seabios`)"),
    ("could not open kernel file", "the kernel must be readable by the user that QEMU runs as"),
    (
        "could not load kernel",
        "the kernel must be readable by the user that QEMU runs as, and a bzImage or ELF",
    ),
    ("without PVH ELF Note", "boot the kernel's bzImage: this vmlinux has no PVH entry (CONFIG_PVH)"),
    ("error reading initrd", "the initrd must be readable by the user that QEMU runs as"),
    ("initrd is too large", "give the guest more memory, or a smaller initrd"),
    ("too old to load a ram disk", "boot a newer kernel"),
    ("start QEMU: cannot execute", "QEMU must be executable by the user that it runs as"),
];

/// The remedy for the first complaint that is known.
fn remedy_for(stderr: &[String]) -> Option<&'static str> {
    let known = |line: &String| KNOWN_COMPLAINTS.iter().find(|(text, _)| line.contains(text));
    stderr.iter().find_map(known).map(|(_, remedy)| *remedy)
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
        assert!(remedy_for(&said).unwrap().contains("--accel tcg"));
        assert_eq!(remedy_for(&["something new".to_owned()]), None);
    }

    #[test]
    fn what_qemu_refuses_in_known_words_is_no_failure_of_qemu() {
        let exited = |line: &str| StartError::Exited {
            status: std::os::unix::process::ExitStatusExt::from_raw(1 << 8),
            stderr: vec!["a warning".to_owned(), line.to_owned()],
        };
        // QEMU's words: 7.2 for those of x86, and the trampoline's.
        for line in [
            "qemu-system-x86_64: -accel kvm: failed to initialize kvm: Permission denied",
            "qemu-system-x86_64: -accel kvm: invalid accelerator kvm",
            "qemu-system-x86_64: cannot set up guest memory 'pc.ram': Cannot allocate memory",
            "qemu-system-x86_64: unable to find CPU model 'Abacus'",
            "qemu-system-x86_64: -machine pc-q35-99: unsupported machine type",
            "qemu-system-x86_64: can't apply global max-x86_64-cpu.x=on: Property 'max-x86_64-cpu.x' not found",
            "qemu-system-x86_64: CPU model 'host' requires KVM or HVF",
            "qemu-system-x86_64: Invalid SMP CPUs 300. The max CPUs supported by machine 'pc-q35-7.2' is 288",
            "qemu-system-x86_64: Address space limit 0xffffffff < 0x33fffffff phys-bits too low (32)",
            "qemu: could not open kernel file '/k': Permission denied",
            "qemu: error reading initrd /i: Failed to open file \u{201c}/i\u{201d}: Permission denied",
            "qemu: initrd is too large, cannot support.(max: 50331648, need 104857600)",
            "cannot start QEMU: cannot execute `/opt/qemu`: No such file or directory (os error 2)",
        ] {
            let error = exited(line);
            assert_eq!(error.fault(), Fault::Setup, "{line}");
            assert!(error.hint().is_some(), "{line}");
        }
        for line in ["qemu-system-x86_64: ../softmmu/x.c:7: main: Assertion `x' failed.", ""] {
            assert_eq!(exited(line).fault(), Fault::Vmm, "{line}");
        }
        let spawn = StartError::Spawn { binary: "q".into(), source: io::Error::other("no more processes") };
        assert_eq!(spawn.fault(), Fault::Vmm);
        assert_eq!(StartError::SocketPath { path: "p".into() }.fault(), Fault::Setup);
    }
}
