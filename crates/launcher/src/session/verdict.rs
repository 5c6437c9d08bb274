//! How a guest ended.

use vmm::ExitReport;

use super::PanicReport;
use crate::timeline::Timeline;

/// Somebody outside wants the run to end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EndRequest {
    /// A signal (its name).
    Signal(&'static str),
    /// The leave key on the terminal.
    LeaveKey,
    /// Nobody reads the output any more.
    OutputClosed,
    /// The output cannot be written, for this reason.
    OutputFailed(String),
}

/// How a guest ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The guest powered itself off.
    PoweredOff,
    /// The guest rebooted and its reboot policy is to end then.
    Rebooted,
    /// The success pattern matched this line.
    UntilMatched {
        /// The line.
        line: String,
    },
    /// The kernel panicked.
    Panicked {
        /// The line that said so; absent when only the panic device did.
        line: Option<String>,
    },
    /// A failure pattern matched.
    FailMatched {
        /// The pattern.
        pattern: String,
        /// The line.
        line: String,
    },
    /// The deadline passed.
    TimedOut,
    /// Somebody ended the run.
    Ended(EndRequest),
    /// The machine was killed, since its time to shut down was over.
    Destroyed,
    /// QEMU ended, and not because of the guest.
    VmmFailed {
        /// What is known of it: exit status, QEMU's own last words.
        reason: String,
    },
}

/// Everything known about a run when it is over.
#[derive(Debug)]
pub struct Outcome {
    /// How it ended.
    pub verdict: Verdict,
    /// When what happened.
    pub timeline: Timeline,
    /// The last console lines.
    pub console_tail: Vec<String>,
    /// The release that the guest's kernel printed.
    pub booted_version: Option<String>,
    /// How often the machine was restarted.
    pub reboots: u32,
    /// Peak resident memory of QEMU in bytes.
    pub qemu_peak_bytes: Option<u64>,
    /// Whether the console's last byte was a newline.
    pub at_line_start: bool,
    /// Why a console log is incomplete.
    pub log_fault: Option<String>,
    /// The last panic that was told.
    pub panic: Option<PanicReport>,
}

/// The verdict where nothing but QEMU's exit is known. A guest can end before QEMU's monitor could tell of it; QEMU
/// then leaves with success.
pub(super) fn verdict_of_exit(exit: Option<&ExitReport>) -> Verdict {
    match exit {
        Some(exit) if exit.status.success() => Verdict::PoweredOff,
        Some(exit) if exit.stderr_tail.is_empty() => {
            Verdict::VmmFailed { reason: format!("QEMU ended with {}", exit.status) }
        }
        Some(exit) => Verdict::VmmFailed {
            reason: format!("QEMU ended with {}: {}", exit.status, exit.stderr_tail.join("; ")),
        },
        None => Verdict::VmmFailed { reason: "QEMU ended, and how is not known".to_owned() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    #[test]
    fn an_exit_without_a_word_before_it_is_judged_by_its_status() {
        let report = |code: i32, stderr: &[&str]| ExitReport {
            status: ExitStatus::from_raw(code),
            stderr_tail: stderr.iter().map(|line| (*line).to_owned()).collect(),
        };
        assert_eq!(verdict_of_exit(Some(&report(0, &[]))), Verdict::PoweredOff);
        assert_eq!(
            verdict_of_exit(Some(&report(9, &[]))),
            Verdict::VmmFailed { reason: "QEMU ended with signal: 9 (SIGKILL)".into() }
        );
        assert_eq!(
            verdict_of_exit(Some(&report(0x100, &["qemu: bad"]))),
            Verdict::VmmFailed { reason: "QEMU ended with exit status: 1: qemu: bad".into() }
        );
    }
}
