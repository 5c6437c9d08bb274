//! What happens to a running machine, in our words.

use std::process::ExitStatus;

use serde_json::Value;

use crate::args::AGENT_PORT;
use crate::qmp::QmpEvent;

/// Something that happened to the machine.
#[derive(Debug, Clone, PartialEq)]
pub enum VmEvent {
    /// The guest's kernel reported its panic; the virtual CPUs are stopped.
    GuestPanicked {
        /// What QEMU did about it, `pause` here.
        action: String,
        /// QEMU's details, `Null` for most guests.
        info: Value,
    },
    /// The guest is about to end. [`VmEvent::Exited`] follows.
    GuestShutdown {
        /// Why.
        reason: ShutdownReason,
        /// Whether the guest itself wanted it.
        origin: Origin,
    },
    /// The machine was reset and starts again.
    GuestReset {
        /// Why.
        reason: ShutdownReason,
        /// Whether the guest itself wanted it.
        origin: Origin,
    },
    /// The virtual CPUs stand still.
    Paused {
        /// Why.
        reason: PauseReason,
    },
    /// The virtual CPUs run again.
    Resumed,
    /// The guest neglected its watchdog.
    WatchdogFired {
        /// What QEMU does about it: `poweroff` (it ends at once), `reset` or `shutdown` (the power button).
        action: String,
    },
    /// A program in the guest has opened or closed the port of its agent.
    AgentPort {
        /// Whether it is open.
        is_open: bool,
    },
    /// Any other event of QEMU.
    Other {
        /// Its name, e.g. `POWERDOWN`.
        name: String,
        /// Its data.
        data: Value,
    },
    /// QEMU runs on, and no longer answers. The machine can only be killed.
    ControlLost {
        /// Why the connection ended.
        reason: String,
    },
    /// QEMU has ended. The last event.
    Exited(ExitReport),
}

/// Why virtual CPUs stand still: QEMU's `RunState` at the time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PauseReason {
    /// `paused`: the QMP command `stop`.
    Requested,
    /// `io-error`: a disk failed or is full.
    IoError,
    /// `guest-panicked`: [`VmEvent::GuestPanicked`] tells of it too.
    GuestPanicked,
    /// `watchdog`: the guest neglected its watchdog.
    Watchdog,
    /// `internal-error`: the accelerator cannot go on.
    InternalError,
    /// Any other, by QEMU's name; empty when it could not be asked.
    Other(String),
}

impl PauseReason {
    pub(super) fn from_run_state(name: &str) -> Self {
        match name {
            "paused" => Self::Requested,
            "io-error" => Self::IoError,
            "guest-panicked" => Self::GuestPanicked,
            "watchdog" => Self::Watchdog,
            "internal-error" => Self::InternalError,
            other => Self::Other(other.to_owned()),
        }
    }
}

/// Who asked for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The guest.
    Guest,
    /// The host.
    Host,
}

/// Why a machine shuts down or resets: QEMU's `ShutdownCause`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ShutdownReason {
    /// `guest-shutdown`: the guest powered itself off.
    GuestShutdown,
    /// `guest-reset`: the guest rebooted.
    GuestReset,
    /// `guest-panic`: the guest panicked.
    GuestPanic,
    /// `host-qmp-quit`: the QMP command `quit`.
    HostQuit,
    /// `host-qmp-system-reset`: the QMP command `system_reset`.
    HostReset,
    /// `host-signal`: a signal to QEMU.
    HostSignal,
    /// Any other, by QEMU's name.
    Other(String),
}

impl ShutdownReason {
    fn from_name(name: &str) -> Self {
        match name {
            "guest-shutdown" => Self::GuestShutdown,
            "guest-reset" => Self::GuestReset,
            "guest-panic" => Self::GuestPanic,
            "host-qmp-quit" => Self::HostQuit,
            "host-qmp-system-reset" => Self::HostReset,
            "host-signal" => Self::HostSignal,
            other => Self::Other(other.to_owned()),
        }
    }
}

/// How QEMU ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExitReport {
    /// Its exit status.
    pub status: ExitStatus,
    /// The last lines of its standard error, oldest first.
    pub stderr_tail: Vec<String>,
}

/// QEMU's event in our words. Members that are missing or new never make an event disappear.
pub(super) fn translate(event: QmpEvent) -> VmEvent {
    let text = |member: &str| event.data.get(member).and_then(Value::as_str).unwrap_or_default().to_owned();
    let reason = || ShutdownReason::from_name(&text("reason"));
    let origin = match event.data.get("guest").and_then(Value::as_bool) {
        Some(true) => Origin::Guest,
        _ => Origin::Host,
    };
    match event.name.as_str() {
        "GUEST_PANICKED" => VmEvent::GuestPanicked {
            action: text("action"),
            info: event.data.get("info").cloned().unwrap_or_default(),
        },
        "SHUTDOWN" => VmEvent::GuestShutdown { reason: reason(), origin },
        "RESET" => VmEvent::GuestReset { reason: reason(), origin },
        "RESUME" => VmEvent::Resumed,
        "VSERPORT_CHANGE" if text("id") == AGENT_PORT => {
            VmEvent::AgentPort { is_open: event.data.get("open").and_then(Value::as_bool) == Some(true) }
        }
        "WATCHDOG" => VmEvent::WatchdogFired { action: text("action") },
        _ => VmEvent::Other { name: event.name, data: event.data },
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn event(name: &str, data: Value) -> VmEvent {
        translate(QmpEvent { name: name.to_owned(), data })
    }

    #[test]
    fn events_of_qemu_are_translated_and_unknown_ones_kept() {
        assert_eq!(
            event("GUEST_PANICKED", json!({"action": "pause"})),
            VmEvent::GuestPanicked { action: "pause".to_owned(), info: Value::Null }
        );
        for (name, reason) in [
            ("guest-shutdown", ShutdownReason::GuestShutdown),
            ("guest-reset", ShutdownReason::GuestReset),
            ("guest-panic", ShutdownReason::GuestPanic),
            ("volcano", ShutdownReason::Other("volcano".to_owned())),
        ] {
            let data = json!({"guest": true, "reason": name});
            let origin = Origin::Guest;
            assert_eq!(
                event("SHUTDOWN", data.clone()),
                VmEvent::GuestShutdown { reason: reason.clone(), origin }
            );
            assert_eq!(event("RESET", data), VmEvent::GuestReset { reason, origin });
        }
        assert_eq!(
            event("SHUTDOWN", json!({"guest": false, "reason": "host-qmp-quit"})),
            VmEvent::GuestShutdown { reason: ShutdownReason::HostQuit, origin: Origin::Host }
        );
        let port = |id, open| event("VSERPORT_CHANGE", json!({"id": id, "open": open}));
        assert_eq!(port("agent0", true), VmEvent::AgentPort { is_open: true });
        assert_eq!(port("agent0", false), VmEvent::AgentPort { is_open: false });
        assert!(matches!(port("another", true), VmEvent::Other { .. }));
        assert_eq!(
            event("ACPI_DEVICE_OST", json!({"info": 1})),
            VmEvent::Other { name: "ACPI_DEVICE_OST".to_owned(), data: json!({"info": 1}) }
        );
    }
}
