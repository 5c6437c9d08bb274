//! `ferrovirt run`: one machine in the foreground, from manifest to verdict.
//!
//! ```text
//! select ──► files (image or local) ──► plan ──► start ──► session ──► report
//! ```

mod files;
mod last_boot;
mod overrides;
mod select;
mod streams;
mod summary;
mod verdict;

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use launcher::command_line;
use launcher::console::{Pattern, default_fail_patterns};
use launcher::console_log::{ConsoleLog, Limit};
use launcher::machine_dir::MachineDir;
use launcher::plan::{BootFiles, plan};
use launcher::session::{self, Conditions, Connections, Outcome, Session, Verdict};
use launcher::timeline::Timeline;
use manifest::types::VirtualMachineInstance;
use manifest::validate::KernelSource;
use tokio::sync::mpsc;
use tokio::time::Instant;
use vmm::accelerator::{CacheUse, KvmStatus};
use vmm::process::Trampoline;
use vmm::{Accelerator, Access, HostFacts, LaunchSpec, RunPaths, StartError, StartRequest, Vm, qemu_args};

use self::files::{Boot, Wanted};
use self::last_boot::LastBoot;
use self::verdict::Run;
use super::{Context, host, manifests};
use crate::cli::RunFlags;
use crate::progress::PullReporter;
use crate::report::{ExitCode, Failure, print, write_line};
use crate::settings::{Mode, ensure_dir};

/// KVM's device, which QEMU opens by itself.
const KVM_DEVICE: &str = "/dev/kvm";

/// Runs the command.
pub async fn run(context: &Context, flags: RunFlags) -> Result<ExitCode, Failure> {
    let began = Instant::now();
    let conditions = conditions(&flags, began)?;
    let (instance, secrets) = selected(context, &flags)?;
    let wanted = Wanted::of(&instance, &flags);
    let qemu = host::qemu(context)?;
    let mut timeline = Timeline::default();

    let progress = PullReporter::new(
        context.reporter,
        crate::terminal::is_terminal(std::os::fd::AsFd::as_fd(&std::io::stderr())),
    );
    let boot = tokio::select! {
        boot = files::fetch(context, &wanted, &secrets, &instance, &progress) => boot?,
        signal = interrupted() => return Err(Failure::interrupted(signal)),
        () = expired(conditions.deadline) => return Ok(timed_out_before_the_guest(context, &instance)),
    };
    timeline.pulled = Some(began.elapsed());
    progress.phase("preparing");
    let boot = files::prepare(context, boot)?;
    let machine_dir = machine_dir(context, &instance)?;
    let facts = host_facts(context, &flags, qemu, &boot, &machine_dir)?;
    let spec = launch_spec(&instance, &boot, &flags)?;
    progress.finish();
    if let Some(warning) = command_line::console_warning(&spec.command_line).filter(|_| spec.serial_console) {
        context.reporter.warning(warning);
    }
    if !spec.serial_console {
        context.reporter.warning("`autoattachSerialConsole` is false: the guest has no console to show");
    }
    if flags.dry_run {
        return print_plan(&boot, &spec, &facts, &machine_dir);
    }
    let changed_from = remember(context, &instance, &boot);
    timeline.prepared = Some(began.elapsed());

    let outcome =
        boot_guest(context, &flags, &spec, &facts, &machine_dir, conditions, began, timeline).await?;
    let console_log = machine_dir.console_log();
    let run =
        Run { instance: &instance, boot: &boot, facts: &facts, console_log: &console_log, changed_from };
    verdict::report(context, &flags, &run, outcome)
}

/// The machine, as flags and manifest say it, and the Secrets beside it.
fn selected(
    context: &Context,
    flags: &RunFlags,
) -> Result<(VirtualMachineInstance, Vec<manifest::Secret>), Failure> {
    let (machine, secrets) = match (&flags.filename, &flags.kernel) {
        (Some(path), _) => {
            let manifest = manifests::read(path)?;
            let machine = select::choose(&manifest, &path.display().to_string(), flags.name.as_deref())?;
            (machine, manifest.secrets)
        }
        (None, Some(_)) => (select::kernel_only(), Vec::new()),
        (None, None) => {
            return Err(Failure::usage(
                "say what to boot: a manifest with `-f FILE`, or a kernel with `--kernel FILE`",
            ));
        }
    };
    let machine = select::apply_overrides(machine, &flags.set)?;
    let kernel = if flags.kernel.is_some() { KernelSource::Given } else { KernelSource::Manifest };
    Ok((select::instance(machine, kernel, &context.reporter)?, secrets))
}

fn conditions(flags: &RunFlags, began: Instant) -> Result<Conditions, Failure> {
    let pattern = |text: &String| {
        Pattern::new(text).map_err(|error| {
            let mut failure = Failure::refused(error, None);
            failure.code = ExitCode::Usage;
            failure
        })
    };
    let mut fail_on = if flags.no_fail_on { Vec::new() } else { default_fail_patterns() };
    for text in &flags.fail_on {
        fail_on.push(pattern(text)?);
    }
    Ok(Conditions {
        until: flags.until.as_ref().map(pattern).transpose()?,
        fail_on,
        deadline: flags.timeout.map(|timeout| began + timeout),
    })
}

async fn interrupted() -> &'static str {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut interrupt), Ok(mut terminate)) =
        (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => "SIGINT",
        _ = terminate.recv() => "SIGTERM",
    }
}

async fn expired(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

fn timed_out_before_the_guest(context: &Context, instance: &VirtualMachineInstance) -> ExitCode {
    context.reporter.warning(format!("{}: timed out before the guest was started", full_name(instance)));
    ExitCode::TimedOut
}

fn machine_dir(context: &Context, instance: &VirtualMachineInstance) -> Result<MachineDir, Failure> {
    // Root's QEMU is another user and passes through; nobody but the owner looks around.
    let mode = match context.settings.mode {
        Mode::Root => 0o711,
        Mode::User => 0o700,
    };
    ensure_dir(&context.settings.run_dir, mode)?;
    let machines = context.settings.machines_dir();
    ensure_dir(&machines, mode)?;
    let (namespace, name) = names(instance);
    MachineDir::acquire(&machines, namespace, name).map_err(|error| Failure::refused(error, None))
}

fn names(instance: &VirtualMachineInstance) -> (&str, &str) {
    (
        instance.metadata.namespace.as_deref().unwrap_or_default(),
        instance.metadata.name.as_deref().unwrap_or_default(),
    )
}

fn full_name(instance: &VirtualMachineInstance) -> String {
    let (namespace, name) = names(instance);
    format!("{namespace}/{name}")
}

/// Looks at the host: whose credentials QEMU gets, and what executes the guest.
fn host_facts(
    context: &Context,
    flags: &RunFlags,
    qemu: vmm::QemuFacts,
    boot: &Boot,
    machine_dir: &MachineDir,
) -> Result<HostFacts, Failure> {
    let mut needs: Vec<(&Path, Access)> =
        vec![(boot.kernel.path.as_path(), Access::Read), (machine_dir.path(), Access::Traverse)];
    needs.extend(boot.initrd.as_ref().map(|initrd| (initrd.as_path(), Access::Read)));
    let with_kvm = [needs.as_slice(), &[(Path::new(KVM_DEVICE), Access::Device)]].concat();
    let (mut run_as, mut warning) = host::run_as(&with_kvm)?;
    let chosen = host::accelerator(context, flags.accel, &qemu, &run_as, CacheUse::Reuse)?;
    if let Some(KvmStatus::Unusable(unusable)) = &chosen.kvm {
        let hint = unusable.hint.as_ref().map(|hint| format!(" ({hint})")).unwrap_or_default();
        context.reporter.warning(format!(
            "no KVM, so the guest runs many times slower under TCG: {}{hint}",
            unusable.reason
        ));
    }
    if chosen.accelerator != Accelerator::Kvm {
        (run_as, warning) = host::run_as(&needs)?;
    }
    if let Some(warning) = warning {
        context.reporter.warning(warning);
    }
    Ok(HostFacts::probe(qemu, chosen.accelerator, run_as)?)
}

fn launch_spec(
    instance: &VirtualMachineInstance,
    boot: &Boot,
    flags: &RunFlags,
) -> Result<LaunchSpec, Failure> {
    let files = BootFiles { kernel: boot.kernel.path.clone(), initrd: boot.initrd.clone() };
    let default_console = (flags.filename.is_none()).then(|| "console=ttyS0".to_owned());
    let append: Vec<String> = default_console.into_iter().chain(flags.append.iter().cloned()).collect();
    plan(instance, &files, &append).map_err(|error| {
        Failure::from(error).context(format!("cannot size the machine {}", full_name(instance)))
    })
}

/// Keeps what is booted now, and tells which release it was before when the kernel is another one.
fn remember(context: &Context, instance: &VirtualMachineInstance, boot: &Boot) -> Option<String> {
    let (namespace, name) = names(instance);
    let boots = context.settings.boots_dir();
    let now = LastBoot {
        kernel_digest: boot.kernel.digest.clone()?,
        kernel_version: boot.kernel.version.clone(),
        image_digest: boot.image.as_ref().map(|image| image.digest.clone()),
    };
    let before = LastBoot::read(&boots, namespace, name);
    if before.as_ref() != Some(&now)
        && let Err(error) = now.write(&boots, namespace, name)
    {
        context.reporter.warning(format!("the next run cannot tell whether the kernel changed: {error:#}"));
    }
    before.and_then(|before| before.changed_from(&now))
}

/// `--dry-run`: what was found, and the command line, one argument a line.
fn print_plan(
    boot: &Boot,
    spec: &LaunchSpec,
    facts: &HostFacts,
    machine_dir: &MachineDir,
) -> Result<ExitCode, Failure> {
    let mut text = String::new();
    let mut comment = |line: String| text.push_str(&format!("# {line}\n"));
    if let Some(image) = &boot.image {
        comment(format!("image: {}", image.reference));
        comment(format!("digest: {}", image.digest));
    }
    for file in &boot.found {
        comment(file.clone());
    }
    let paths = RunPaths::in_directory(machine_dir.path());
    // The socket's directory is made when a machine starts; by hand there is nobody else to make it.
    if let Some(directory) = paths.qmp_socket.parent() {
        ensure_dir(directory, 0o700)?;
    }
    text.push_str(&shell_word(&facts.qemu.binary.display().to_string()));
    for argument in qemu_args(spec, facts, &paths) {
        text.push_str(" \\\n");
        text.push_str(&shell_word(&argument));
    }
    text.push('\n');
    print(&text)?;
    Ok(ExitCode::Done)
}

/// `text` as one word of a POSIX shell.
fn shell_word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=./:,@%+".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// Starts QEMU and follows the guest to its end.
#[allow(clippy::too_many_arguments)]
async fn boot_guest(
    context: &Context,
    flags: &RunFlags,
    spec: &LaunchSpec,
    facts: &HostFacts,
    machine_dir: &MachineDir,
    conditions: Conditions,
    began: Instant,
    mut timeline: Timeline,
) -> Result<Outcome, Failure> {
    let mut logs = vec![log(&machine_dir.console_log(), Limit::Rotate)?];
    if let Some(path) = &flags.log {
        logs.push(log(path, Limit::Unlimited)?);
    }
    let (requests, request_receiver) = mpsc::channel(4);
    streams::watch_signals(requests.clone()).context("cannot watch for signals")?;
    let request = StartRequest {
        spec,
        facts,
        run_directory: machine_dir.path(),
        trampoline: &Trampoline::this_program(),
    };
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
    let connections = Connections { vm, console, logs, output, requests: request_receiver };
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
    let code = match &error {
        StartError::Spec { .. } | StartError::SocketPath { .. } | StartError::RunDirectory { .. } => {
            ExitCode::Refused
        }
        _ => ExitCode::VmmFailed,
    };
    Failure { code, ..Failure::from(error) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_survive_a_shell() {
        assert_eq!(shell_word("console=ttyS0"), "console=ttyS0");
        assert_eq!(shell_word("console=ttyS0 quiet"), "'console=ttyS0 quiet'");
        assert_eq!(shell_word("it's"), r"'it'\''s'");
        assert_eq!(shell_word(""), "''");
        assert_eq!(shell_word("$(x)"), "'$(x)'");
    }
}
