//! What a launcher tells a session, and what it is told.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use vmm::{GuestReboot, PauseReason};

use crate::timeline::Timeline;

/// Whose rules a session follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Rules {
    /// A command's: the first sign of failure ends the run.
    #[default]
    Command,
    /// A launcher's, as KubeVirt has them: only the end of the machine ends it.
    Launcher {
        /// What a panic does.
        panic: OnPanic,
        /// Whether the guest can be asked to shut down.
        power_button: PowerButton,
        /// What a reboot does, [`Order::SoftReboot`] too.
        reboot: GuestReboot,
    },
}

/// What a panic of the guest's kernel does to a launcher's machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnPanic {
    /// The machine has crashed: its manifest has a panic device.
    Crash,
    /// It is told, and the guest hangs or restarts as its kernel's `panic=` says.
    Tell,
}

/// Whether a machine has a power button.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PowerButton {
    /// Through ACPI.
    Present,
    /// `features.acpi.enabled` is false.
    Absent,
}

/// What a launcher is told to do with its machine. Each is answered once it is done, or with the reason why not.
#[derive(Debug)]
pub enum Order {
    /// Have the guest shut down within `grace`, then kill it; at once when that is zero or there is no power button. Of
    /// several ends the earliest counts. Answered at once.
    Shutdown {
        /// Time until the machine is killed.
        grace: Duration,
        /// The answer.
        reply: Reply,
    },
    /// Stop the virtual CPUs.
    Pause(Reply),
    /// Let them run on.
    Unpause(Reply),
    /// Press the reset button.
    Reset(Reply),
    /// Press the power button, and have the power-off that follows be a restart. Answered once it is pressed.
    SoftReboot(Reply),
    /// Take a picture of the display.
    Picture {
        /// Whether the mouse is moved before, for a screen that has gone dark.
        move_cursor: bool,
        /// The picture, a PNG.
        reply: Reply<Vec<u8>>,
    },
}

/// Where an order's outcome goes.
pub type Reply<T = ()> = oneshot::Sender<Result<T, String>>;

impl Order {
    /// Answers without doing anything.
    pub fn refuse(self, reason: &str) {
        match self {
            Self::Shutdown { reply, .. }
            | Self::Pause(reply)
            | Self::Unpause(reply)
            | Self::Reset(reply)
            | Self::SoftReboot(reply) => answer(reply, Err(reason.to_owned())),
            Self::Picture { reply, .. } => answer(reply, Err(reason.to_owned())),
        }
    }
}

/// Whoever asked may have gone away meanwhile.
pub(crate) fn answer<T>(reply: Reply<T>, outcome: Result<T, String>) {
    let _ = reply.send(outcome);
}

/// How a launcher steers and watches.
#[derive(Debug)]
pub struct Steering<'a> {
    /// What to do with the machine.
    pub orders: &'a mut mpsc::Receiver<Order>,
    /// What is known of the guest as it goes on.
    pub progress: watch::Sender<Progress>,
}

/// What is known of a guest while it runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progress {
    /// When what happened.
    pub timeline: Timeline,
    /// Why the virtual CPUs stand still, when they do.
    pub paused: Option<PauseReason>,
    /// The last panic of the guest's kernel whose report is complete.
    pub panic: Option<PanicReport>,
    /// How often the machine was restarted, by its guest or by [`Order::Reset`].
    pub reboots: u32,
    /// Whether a program in the guest has the port of its agent open.
    pub is_agent_port_open: bool,
}

/// A panic of the guest's kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PanicReport {
    /// When it was noticed, since the run began.
    pub at: Duration,
    /// The line that said so; absent when only the panic device did.
    pub line: Option<String>,
    /// The last console lines, oldest first.
    pub tail: Vec<String>,
}
