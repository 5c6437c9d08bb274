//! What is said when a run is over: the last console lines of a failure, the verdict, the summary, the exit code.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use launcher::memory::{Process, peak_bytes};
use launcher::session::{EndRequest, Outcome, Verdict};
use manifest::types::VirtualMachineInstance;
use vmm::{Accelerator, HostFacts};

use super::files::Boot;
use super::names;
use super::summary::{AcceleratorSummary, KernelSummary, MemorySummary, Summary};
use crate::cli::{RunFlags, SummaryOutput};
use crate::commands::Context;
use crate::report::{ExitCode, Failure, write_line};

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

/// Tells how it ended and gives the exit code.
pub fn report(
    context: &Context,
    flags: &RunFlags,
    run: &Run<'_>,
    outcome: Outcome,
) -> Result<ExitCode, Failure> {
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
        },
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
    if flags.output != Some(SummaryOutput::StandardError) {
        context.reporter.note(summary.details());
    }
    if let Some(target) = &flags.output {
        write_summary(target, &summary)?;
    }
    Ok(code)
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
            ExitCode::Interrupted,
            "Interrupted",
            match request {
                EndRequest::Signal(name) => format!("interrupted by {name}"),
                EndRequest::LeaveKey => "ended with Ctrl-]".to_owned(),
                EndRequest::OutputClosed => "ended, since nobody reads standard output any more".to_owned(),
            },
        ),
        Verdict::VmmFailed { reason } => (ExitCode::VmmFailed, "VmmFailed", reason.clone()),
    }
}

fn write_summary(target: &SummaryOutput, summary: &Summary) -> Result<(), Failure> {
    let mut text = serde_json::to_string_pretty(summary).context("cannot write the summary as JSON")?;
    text.push('\n');
    let path = match target {
        SummaryOutput::StandardError => {
            write_line(text.trim_end());
            return Ok(());
        }
        SummaryOutput::File(path) => path.clone(),
        SummaryOutput::Descriptor(number) => PathBuf::from(format!("/proc/self/fd/{number}")),
    };
    let open = || match target {
        // An open descriptor may be a pipe or hold earlier output: it is appended to, never emptied.
        SummaryOutput::Descriptor(_) => std::fs::OpenOptions::new().append(true).open(&path),
        _ => std::fs::File::create(&path),
    };
    open()
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .with_context(|| format!("cannot write the summary to `{}`", path.display()))
        .map_err(Failure::from)
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
    }
}
