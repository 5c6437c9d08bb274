//! The QEMU command line, as a pure function of what the guest is, what the host is and where its sockets are.
//! No file, clock or environment is looked at, so the text is the same every time and is tested as golden files.
//!
//! The line is also meant for people: run by hand it boots the same guest with its console on the terminal.
//!
//! | option | why | defined in (QEMU manual, "Invocation") |
//! |---|---|---|
//! | `-name guest=…,debug-threads=on` | process and thread names for `ps` and `top` | Standard options, `-name` |
//! | `-nodefaults`, `-no-user-config` | nothing in the guest that is not written here | `-nodefaults`, `-no-user-config` |
//! | `-machine q35,…` | the machine that KubeVirt guests see; `usb=off` since q35 would not have it by default, `vmport=off` removes VMware's port | `-machine` |
//! | `-accel kvm` or `tcg,thread=multi` | what executes the guest; one host thread for each virtual CPU | `-accel` |
//! | `-cpu` | `host` under KVM, `max` under TCG unless the guest names a model | `-cpu` |
//! | `-smp`, `-m` | exactly the CPUs and bytes asked for | `-smp`, `-m` |
//! | `-uuid`, `-smbios` | the guest's identity | `-uuid`, `-smbios` |
//! | `-kernel`, `-initrd`, `-append` | direct Linux boot | Linux/Multiboot boot specific |
//! | `-display none` | no window, no VGA | `-display` |
//! | `-chardev stdio,signal=off`, `-serial` | the guest's `ttyS0` on standard input and output; Ctrl-C belongs to the guest | `-chardev`, `-serial` |
//! | `-chardev socket,…`, `-mon` | QMP for supervision; QEMU does not wait for a client | `-chardev`, `-mon` |
//! | `-device pvpanic`, `-action panic=pause` | a panicked guest stops where it is and says so in an event | `docs/specs/pvpanic`, `-action` |
//! | `-object rng-random`, `-device virtio-rng-pci` | entropy | `-object rng-random` |
//! | `-no-reboot` | a reboot ends the guest, only when the guest asks for that | `-no-reboot` |
//! | `-S` | stopped before the first instruction, only when asked | `-S` |
//! | `-msg timestamp=off` | QEMU's complaints are shown as they are | `-msg` |
//! | `-sandbox on,…=deny` | seccomp: no new processes, no privileges, no scheduling changes | `-sandbox` |
//!
//! Text with commas: QEMU splits the value of most options at commas, and reads a doubled comma as one. Every such value
//! passes `option_value`. `-kernel`, `-append`, `-uuid` and `-cpu` are taken whole. `-initrd` is taken whole for a Linux
//! kernel; QEMU splits it at commas for multiboot kernels only (`hw/i386/multiboot.c`), which are never booted here.

use std::path::{Path, PathBuf};

use crate::host_facts::{Accelerator, HostFacts, Sandbox};
use crate::launch_spec::{GuestReboot, InitialState, LaunchSpec, PanicDevice, Smbios};
use crate::run_as::RunAs;

/// Where one run of a virtual machine keeps the files that its command line names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunPaths {
    /// UNIX socket on which QEMU serves QMP, at most [`MAX_SOCKET_PATH_BYTES`] long.
    pub qmp_socket: PathBuf,
}

/// Longest path of a UNIX socket: `sun_path` has 108 bytes with its final zero, unix(7).
pub const MAX_SOCKET_PATH_BYTES: usize = 107;

impl RunPaths {
    /// The paths inside a run directory. QEMU gets a directory of its own there (`qemu`), since it may run as another
    /// user who must not be able to touch the rest.
    pub fn in_directory(run_directory: &Path) -> Self {
        Self { qmp_socket: run_directory.join("qemu").join("qmp.sock") }
    }
}

/// The arguments of QEMU, without the program's own name.
pub fn qemu_args(spec: &LaunchSpec, facts: &HostFacts, paths: &RunPaths) -> Vec<String> {
    let _ = (spec, facts, paths);
    Vec::new()
}
