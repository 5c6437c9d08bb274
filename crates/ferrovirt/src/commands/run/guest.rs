//! The guest's run: logs, console, terminal and QEMU put together and followed to the end.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use launcher::console_log::{ConsoleLog, Limit};
use launcher::machine_dir::MachineDir;
use launcher::session::{self, Conditions, Connections, EndRequest, Outcome, Session, Verdict};
use launcher::timeline::Timeline;
use tokio::sync::mpsc;
use tokio::time::Instant;
use vmm::process::Trampoline;
use vmm::{Fault, HostFacts, LaunchSpec, StartError, StartRequest, Vm};

use super::streams;
use crate::cli::RunFlags;
use crate::commands::Context;
use crate::report::{ExitCode, Failure, write_line};

/// A planned machine and how it is watched.
pub struct Planned<'a> {
    /// The machine.
    pub spec: &'a LaunchSpec,
    /// The host.
    pub facts: &'a HostFacts,
    /// Its directory.
    pub machine_dir: &'a MachineDir,
    /// What ends the run.
    pub conditions: Conditions,
    /// When the run began.
    pub began: Instant,
    /// What is known of the run so far.
    pub timeline: Timeline,
}

/// Where requests to end the run come in: the sender is for those who make them, the receiver for the session.
pub struct Requests {
    /// For the terminal, the output, and whoever else may ask for an end.
    pub sender: mpsc::Sender<EndRequest>,
    /// For the session.
    pub receiver: mpsc::Receiver<EndRequest>,
}

/// Starts QEMU and follows the guest to its end.
///
/// # Errors
/// When a log cannot be written, QEMU does not start, or the terminal refuses raw mode. No guest is left then.
pub async fn boot(
    context: &Context,
    flags: &RunFlags,
    planned: Planned<'_>,
    requests: Requests,
) -> Result<Outcome, Failure> {
    let Planned { spec, facts, machine_dir, conditions, began, mut timeline } = planned;
    let Requests { sender: requests, receiver } = requests;
    let mut logs = vec![log(&machine_dir.console_log(), Limit::Rotate)?];
    if let Some(path) = &flags.log {
        logs.push(log(path, Limit::Unlimited)?);
    }
    let trampoline = Trampoline::this_program();
    let request = StartRequest { spec, facts, run_directory: machine_dir.path(), trampoline: &trampoline };
    let (vm, console, console_input) = Vm::start(request).await.map_err(start_failure)?;
    timeline.vmm_ready = Some(began.elapsed());

    let source = streams::input_source(
        flags.interactive,
        flags.filename.as_deref() == Some(Path::new("-")),
        streams::stdin_is_terminal(),
    );
    let (input, raw_mode) = streams::standard_input(source, requests.clone(), context.reporter)
        .context("cannot use standard input as the guest's console")?;
    let (output, output_task) = streams::standard_output(requests);
    let forward = tokio::spawn(session::forward_input(input, console_input));
    let connections = Connections { vm, console, logs, output, requests: receiver };
    let outcome = Session::new(connections, conditions, began, timeline).run().await;
    forward.abort();
    // The session has dropped its end, so the task ends with the last piece, or a reader that stalls is left behind.
    let flushed = tokio::time::timeout(flush_limit(&outcome.verdict), output_task).await;
    drop(raw_mode);
    if flushed.is_ok() && !outcome.at_line_start {
        write_line("");
    }
    Ok(outcome)
}

/// How long a slow reader of standard output is waited for when the guest has ended.
fn flush_limit(verdict: &Verdict) -> Duration {
    match verdict {
        Verdict::PoweredOff | Verdict::Rebooted => Duration::from_secs(3600),
        _ => Duration::from_secs(1),
    }
}

fn log(path: &Path, limit: Limit) -> Result<ConsoleLog, Failure> {
    ConsoleLog::create(path, limit)
        .with_context(|| format!("cannot write the console log `{}`", path.display()))
        .map_err(Failure::from)
}

fn start_failure(error: StartError) -> Failure {
    let code = match error.fault() {
        Fault::Setup => ExitCode::Refused,
        Fault::Vmm => ExitCode::VmmFailed,
    };
    Failure { code, ..Failure::from(error) }
}
