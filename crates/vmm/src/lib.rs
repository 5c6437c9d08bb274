//! Virtual machines as QEMU processes: what a machine is, on which host, with which command line, and its
//! supervision.
//!
//! ```text
//!  LaunchSpec ─┐
//!  HostFacts  ─┼─► qemu_args ─► Vm::start ─► trampoline ─► QEMU ─► console (stdin, stdout)
//!  RunPaths   ─┘   (pure)          ▲                         ├────► QMP socket ─► VmEvent
//!                                  │                         └────► network socket ─► frames
//!                                  └── events, powerdown, quit, kill
//!
//!  UserNetwork ─► trampoline ─► QEMU without a machine ◄─► frames, the host's network
//! ```
//!
//! This crate knows nothing of Kubernetes, manifests or registries. It reads no environment variable, but hands
//! `PATH` on to QEMU; time zones are looked for where `TZDIR` says.

pub mod accelerator;
mod args;
mod clock;
mod confinement;
mod host_facts;
pub mod kernel;
mod launch_spec;
pub mod priority;
pub mod privileges;
pub mod process;
mod qmp;
mod run_as;
mod user_network;
mod vm;

pub use args::{MAX_SOCKET_PATH_BYTES, RunPaths, qemu_args};
pub use clock::ClockStart;
pub use confinement::{Installation, Namespaces};
pub use host_facts::{
    Accelerator, FirmwareFacts, HostFacts, OLDEST_QEMU, ProbeError, QEMU_BINARY_NAME, QemuFacts, QemuSearch,
    QemuVersion, Sandbox, Slirp, find_in_path, proc_bytes,
};
pub use launch_spec::{
    Acpi, CardModel, Chassis, Clock, CpuFeature, CpuTopology, FeaturePolicy, GuestReboot, InitialState,
    LAUNCH_SPEC_VERSION, LaunchSpec, MAX_COMMAND_LINE_BYTES, MAX_CPU_FEATURES, MAX_INPUTS, MAX_VCPUS,
    NetworkCard, OLDEST_QEMU_WITH_NETWORK, PanicDevice, PitTicks, RtcSource, Smbios, SpecError, TabletBus,
    Timers, WatchdogAction,
};
pub use qmp::{EVENT_QUEUE_LENGTH, MAX_LINE_BYTES, Qmp, QmpError, QmpEvent};
pub use run_as::{Access, Need, Node, QEMU_GID, QEMU_UID, RunAs, RunAsFacts, choose_run_as};
pub use user_network::UserNetwork;
pub use vm::{
    Balloon, BalloonLook, ConsoleReader, ConsoleWriter, ExitReport, Fault, GuestMemory, MAX_PICTURE_BYTES,
    Origin, PauseReason, PictureError, PowerOff, ShutdownReason, StartError, StartRequest, Vm, VmEvent,
};

/// A host for tests of pure functions: 8 GiB, TCG, QEMU 7.2.22 with sandbox.
#[cfg(test)]
fn test_facts() -> HostFacts {
    HostFacts {
        qemu: QemuFacts {
            binary: "/usr/bin/qemu-system-x86_64".into(),
            version: QemuVersion { major: 7, minor: 2, micro: 22 },
            firmware: FirmwareFacts::default(),
            sandbox: Sandbox::Available,
            slirp: Slirp::Available,
            installation: None,
        },
        accelerator: Accelerator::Tcg { reason: "chosen".to_owned() },
        cpus: 2,
        memory_bytes: 8 << 30,
        run_as: RunAs::Caller,
        namespaces: Namespaces::Unprivileged { reason: String::new() },
    }
}
