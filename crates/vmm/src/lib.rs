//! Virtual machines as QEMU processes: what a machine is, on which host, with which command line, and its supervision.
//!
//! ```text
//!  LaunchSpec ─┐
//!  HostFacts  ─┼─► qemu_args ─► Vm::start ─► trampoline ─► QEMU ─► console (stdin, stdout)
//!  RunPaths   ─┘   (pure)          ▲                         └────► QMP socket ─► VmEvent
//!                                  └── events, powerdown, quit, kill
//! ```
//!
//! This crate knows nothing of Kubernetes, manifests or registries. It reads no environment variable.

mod args;
mod host_facts;
mod launch_spec;
mod run_as;

pub use args::{MAX_SOCKET_PATH_BYTES, RunPaths, qemu_args};
pub use host_facts::{
    Accelerator, FirmwareFacts, HostFacts, OLDEST_QEMU, ProbeError, QEMU_BINARY_NAME, QemuFacts, QemuSearch,
    QemuVersion, Sandbox,
};
pub use launch_spec::{
    Chassis, CpuTopology, GuestReboot, InitialState, LAUNCH_SPEC_VERSION, LaunchSpec, MAX_COMMAND_LINE_BYTES,
    MAX_VCPUS, PanicDevice, Smbios,
};
pub use run_as::{Access, Need, Node, QEMU_GID, QEMU_UID, RunAs, RunAsFacts, choose_run_as};
