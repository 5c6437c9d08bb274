//! What is said when a run is over: the last console lines of a failure, the verdict, the summary, the exit code.

use std::path::Path;
use std::time::Duration;

use launcher::memory::{Process, peak_bytes};
use launcher::session::{EndRequest, Outcome, Verdict};
use manifest::types::VirtualMachineInstance;
use vmm::{Accelerator, HostFacts};

use super::files::Boot;
use super::names;
use super::summary::{AcceleratorSummary, KernelSummary, MemorySummary, Summary};
use crate::cli::RunFlags;
use crate::commands::Context;
use crate::report::{ExitCode, write_line};

/// A run that is over, apart from its outcome.
pub struct Run<'a> {
    /// The machine.
    pub instance: &'a VirtualMachineInstance,
    /// Its files.
    pub boot: &'a Boot,
    /// The host.
    pub facts: &'a HostFacts,
    /// Where the console's log is.
    pub console_log: &'a Path,
    /// The kernel booted before, where it was another.
    pub changed_from: Option<String>,
}

/// Tells how it ended; gives the exit code and the summary.
pub fn report(context: &Context, flags: &RunFlags, run: &Run<'_>, outcome: Outcome) -> (ExitCode, Summary) {
    let Run { instance, boot, facts, console_log, changed_from } = run;
    let (code, verdict, message) = words(&outcome.verdict, flags.timeout);
    let failed = matches!(code, ExitCode::GuestFailed | ExitCode::VmmFailed | ExitCode::TimedOut);
    if failed {
        write_line(&format!("--- the last {} lines of the console ---", outcome.console_tail.len()));
        for line in &outcome.console_tail {
            write_line(line);
        }
        write_line("---");
    }
    if let Some(fault) = &outcome.log_fault {
        context.reporter.warning(fault);
    }
    if flags.until.is_some() && matches!(outcome.verdict, Verdict::PoweredOff | Verdict::Rebooted) {
        context.reporter.warning("the guest ended before a console line matched `--until`");
    }
    let (namespace, name) = names(instance);
    let summary = Summary {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        verdict,
        message,
        exit_code: code,
        image: boot.image.clone(),
        kernel: KernelSummary {
            version: boot.kernel.version.clone(),
            booted_version: outcome.booted_version,
            changed_from: changed_from.clone(),
            path: boot.kernel.shown_path.clone(),
            entry: boot.kernel.entry.to_string(),
        },
        reboots: outcome.reboots,
        accelerator: match &facts.accelerator {
            Accelerator::Kvm => AcceleratorSummary { name: "KVM", reason: None },
            Accelerator::Tcg { reason } => AcceleratorSummary { name: "TCG", reason: Some(reason.clone()) },
        },
        phases: Summary::phases_of(&outcome.timeline),
        duration_ms: outcome.timeline.ended.unwrap_or_default().as_millis(),
        memory: MemorySummary {
            qemu_peak_bytes: outcome.qemu_peak_bytes,
            ferrovirt_peak_bytes: peak_bytes(Process::Own),
        },
        console_log: (*console_log).to_owned(),
        console_tail: if failed { outcome.console_tail } else { Vec::new() },
    };
    if failed {
        context.reporter.verdict(summary.headline());
    } else {
        context.reporter.note(summary.headline());
    }
    context.reporter.note(summary.details());
    (code, summary)
}

/// Exit code, the verdict's word, and the sentence for people.
fn words(verdict: &Verdict, timeout: Option<Duration>) -> (ExitCode, &'static str, String) {
    match verdict {
        Verdict::PoweredOff => (ExitCode::Done, "PoweredOff", "powered off".to_owned()),
        Verdict::Rebooted => {
            (ExitCode::Done, "Rebooted", "rebooted, which ends it (`rebootPolicy: Terminate`)".to_owned())
        }
        Verdict::UntilMatched { line } => {
            (ExitCode::Done, "UntilMatched", format!("`--until` matched: {line}"))
        }
        Verdict::Panicked { line } => (
            ExitCode::GuestFailed,
            "Panicked",
            match line {
                Some(line) => format!("the kernel panicked: {line}"),
                None => "the kernel panicked (told by the panic device)".to_owned(),
            },
        ),
        Verdict::FailMatched { pattern, line } => {
            (ExitCode::GuestFailed, "FailMatched", format!("the console matched `{pattern}`: {line}"))
        }
        Verdict::TimedOut => (
            ExitCode::TimedOut,
            "TimedOut",
            format!("timed out (`--timeout {:?}`)", timeout.unwrap_or_default()),
        ),
        Verdict::Ended(request) => (
            match request {
                EndRequest::OutputFailed(_) => ExitCode::Refused,
                _ => ExitCode::Interrupted,
            },
            "Interrupted",
            match request {
                EndRequest::Signal(name) => format!("interrupted by {name}"),
                EndRequest::LeaveKey => "ended with Ctrl-]".to_owned(),
                EndRequest::OutputClosed => "ended, since nobody reads standard output any more".to_owned(),
                EndRequest::OutputFailed(reason) => format!("ended, since standard output failed: {reason}"),
            },
        ),
        // Nobody gives a run a time to shut down; a launcher is given one.
        Verdict::Destroyed => {
            (ExitCode::Interrupted, "Interrupted", "killed, since its time to shut down was over".to_owned())
        }
        Verdict::VmmFailed { reason } => (ExitCode::VmmFailed, "VmmFailed", reason.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernels_failure_and_ours_never_share_a_code() {
        let code = |verdict: Verdict| words(&verdict, None).0 as u8;
        assert_eq!(code(Verdict::PoweredOff), 0);
        assert_eq!(code(Verdict::Rebooted), 0);
        assert_eq!(code(Verdict::UntilMatched { line: "x".into() }), 0);
        assert_eq!(code(Verdict::Panicked { line: None }), 3);
        assert_eq!(code(Verdict::FailMatched { pattern: "p".into(), line: "x".into() }), 3);
        assert_eq!(code(Verdict::VmmFailed { reason: "x".into() }), 4);
        assert_eq!(code(Verdict::TimedOut), 124);
        assert_eq!(code(Verdict::Ended(EndRequest::LeaveKey)), 130);
        assert_eq!(code(Verdict::Ended(EndRequest::OutputClosed)), 130);
        assert_eq!(code(Verdict::Ended(EndRequest::OutputFailed("no space".into()))), 1);
    }
}
