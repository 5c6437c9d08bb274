//! The guest's run: logs, console, terminal and QEMU put together and followed to the end.

use std::path::Path;

use anyhow::Context as _;
use launcher::console_log::{ConsoleLog, Limit};
use launcher::machine_dir::MachineDir;
use launcher::network::{self, Network, Outside};
use launcher::session::{
    self, Conditions, Connections, EndRequest, FLUSH_GRACE, Log, Outcome, Session, Verdict,
};
use launcher::timeline::Timeline;
use tokio::sync::mpsc;
use tokio::time::Instant;
use vmm::process::Trampoline;
use vmm::{Fault, HostFacts, LaunchSpec, StartError, StartRequest, Vm};

use super::streams::{self, InputSource, PassOn};
use crate::cli::RunFlags;
use crate::commands::Context;
use crate::report::{ExitCode, Failure, write_line};
use crate::terminal::{self, StandardInput};

/// A planned machine and how it is watched.
pub struct Planned<'a> {
    /// The machine.
    pub spec: &'a LaunchSpec,
    /// The host.
    pub facts: &'a HostFacts,
    /// Its directory.
    pub machine_dir: &'a MachineDir,
    /// Its network, and what is outside of it.
    pub network: Option<(Network, Outside)>,
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
    /// For whatever is going on at the moment: a pull, a start, the session.
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
    requests: &mut Requests,
) -> Result<Outcome, Failure> {
    let Planned { spec, facts, machine_dir, network, conditions, began, mut timeline } = planned;
    let Requests { sender, receiver } = requests;
    let deadline = conditions.deadline;
    let mut logs = vec![log(&machine_dir.console_log(), Limit::Rotate)?];
    if let Some(path) = &flags.log {
        logs.push(log(path, Limit::Unlimited)?);
    }
    let trampoline = Trampoline::this_program();
    let request =
        StartRequest { spec, facts, run_directory: machine_dir.path(), trampoline: &trampoline, niceness: 0 };
    let (mut vm, console, console_input) = tokio::select! {
        started = Vm::start(request) => started.map_err(start_failure)?,
        Some(request) = receiver.recv() => return Err(Failure::interrupted(&request)),
        () = expired(deadline) => return Err(timed_out_before_the_guest()),
    };
    timeline.vmm_ready = Some(began.elapsed());
    if let (Some(wire), Some((network, outside))) = (vm.network(), network) {
        // Nobody here connects to the guest.
        drop(network::serve(wire, network, outside));
    }

    let standard_input = terminal::standard_input();
    if standard_input == StandardInput::BackgroundTerminal {
        context
            .reporter
            .note("Started in the background: the terminal is not connected to the guest's console.");
    }
    // A manifest read from standard input has used it up.
    let source = match flags.filename.as_deref() == Some(Path::new("-")) {
        true => InputSource::None,
        false => {
            let pass_on = if flags.interactive { PassOn::Everything } else { PassOn::Keys };
            streams::input_source(standard_input, pass_on)
        }
    };
    let (input, raw_mode) = streams::standard_input(source, sender.clone(), context.reporter)
        .context("cannot use standard input as the guest's console")?;
    let (output, output_task) = streams::standard_output(sender.clone());
    let forward = tokio::spawn(session::forward_input(input, console_input));
    let connections = Connections { vm, console, logs, output, requests: receiver, steering: None };
    let outcome = Session::new(connections, conditions, began, timeline).run().await;
    forward.abort();
    // The session has dropped its end, so the task ends with the last piece. The guest's own end waits for a slow
    // reader as long as nobody objects, every other end only a moment.
    let patience = match outcome.verdict {
        Verdict::PoweredOff | Verdict::Rebooted => deadline,
        _ => Some(Instant::now() + FLUSH_GRACE),
    };
    let is_flushed = tokio::select! {
        _ = output_task => true,
        Some(_) = receiver.recv() => false,
        () = expired(patience) => false,
    };
    drop(raw_mode);
    if is_flushed && !outcome.at_line_start {
        write_line("");
    }
    Ok(outcome)
}

/// The failure of a run whose time was up before there was a guest.
pub fn timed_out_before_the_guest() -> Failure {
    let error = anyhow::anyhow!("timed out before the guest was started");
    Failure { code: ExitCode::TimedOut, ..Failure::refused(error, None) }
}

/// Comes back when `deadline` has passed; without one, never.
pub async fn expired(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

fn log(path: &Path, limit: Limit) -> Result<Log, Failure> {
    ConsoleLog::create(path, limit)
        .map(Log::Plain)
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
