//! `ferrovirt run`: one machine in the foreground, from manifest to verdict.
//!
//! ```text
//! select ──► files (image or local) ──► plan ──► guest: start, session ──► verdict
//! ```

mod dry_run;
mod files;
mod guest;
mod last_boot;
mod overrides;
mod select;
mod streams;
mod summary;
mod summary_file;
mod verdict;

use std::path::Path;

use anyhow::Context as _;
use launcher::command_line;
use launcher::console::{Pattern, default_fail_patterns};
use launcher::host::{Host, facts, kernel_entry};
use launcher::machine_dir::MachineDir;
use launcher::network::{Outside, network};
use launcher::plan::{PanicDevices, plan};
use launcher::session::Conditions;
use launcher::timeline::Timeline;
use manifest::types::VirtualMachineInstance;
use manifest::validate::KernelSource;
use tokio::sync::mpsc;
use tokio::time::Instant;
use vmm::accelerator::KvmStatus;
use vmm::kernel::EntryChoice;
use vmm::process::Trampoline;
use vmm::{HostFacts, InitialState, LaunchSpec, QemuFacts, RunPaths};

use self::files::{Boot, Fetched, Wanted};
use self::guest::{Planned, Requests, expired, timed_out_before_the_guest};
use self::last_boot::LastBoot;
use self::summary::Summary;
use self::summary_file::SummaryFile;
use self::verdict::Run;
use super::{Context, host, manifests};
use crate::cli::{self, RunFlags};
use crate::progress::PullReporter;
use crate::report::{ExitCode, Failure};
use crate::settings::{Mode, ensure_dir};

/// Runs the command.
///
/// # Errors
/// For everything that keeps the guest from being started; how a started guest ends is an exit code.
pub async fn run(context: &Context, flags: RunFlags) -> Result<ExitCode, Failure> {
    if flags.interactive && flags.filename.as_deref() == Some(Path::new("-")) {
        return Err(Failure::usage("`--interactive` needs standard input, and so does `-f -`"));
    }
    let mut summary_file = flags.output.as_ref().map(SummaryFile::open).transpose()?;
    match run_machine(context, &flags).await {
        Ok((code, summary)) => {
            let written = match (&mut summary_file, &summary) {
                (Some(file), Some(summary)) => file.write(summary),
                _ => Ok(()),
            };
            match (written, code) {
                // The guest's verdict is worth more than the file that should have told it.
                (Err(failure), code) if code != ExitCode::Done => {
                    context.reporter.failure(&failure);
                    Ok(code)
                }
                (written, code) => written.map(|()| code),
            }
        }
        Err(failure) => {
            if let Some(file) = &mut summary_file
                && let Err(unwritten) = file.write_failure(&failure)
            {
                context.reporter.failure(&unwritten);
            }
            Err(failure)
        }
    }
}

async fn run_machine(context: &Context, flags: &RunFlags) -> Result<(ExitCode, Option<Summary>), Failure> {
    let began = Instant::now();
    let conditions = conditions(flags, began)?;
    let (instance, secrets) = selected(context, flags)?;
    // From here on, signals are requests: until now there was nothing to end in order.
    let (sender, receiver) = mpsc::channel(4);
    streams::watch_signals(sender.clone()).context("cannot watch for signals")?;
    let mut requests = Requests { sender, receiver };
    let wanted = Wanted::of(&instance, flags);
    let host = host::host(context, flags.accel);
    let qemu = host.qemu()?;

    let progress = PullReporter::new(context.reporter);
    let fetch = files::fetch(context, &wanted, &secrets, &instance, &progress);
    let fetched = unless_ended(fetch, &mut requests, conditions.deadline).await?;
    let mut timeline = Timeline { pulled: Some(began.elapsed()), ..Timeline::default() };
    progress.finish();
    let machine_dir = machine_dir(context, &instance)?;
    let prepare = prepared(context, flags, fetched, &host, qemu, &machine_dir);
    let (boot, facts) = unless_ended(prepare, &mut requests, conditions.deadline).await?;
    let spec = launch_spec(&instance, &boot, flags)?;
    for warning in without_effect(&instance) {
        context.reporter.warning(warning);
    }
    spec.check(&facts).map_err(|error| {
        Failure::from(error).context(format!("cannot start the virtual machine {}", full_name(&instance)))
    })?;
    if spec.serial_console {
        if let Some(warning) = command_line::console_warning(&spec.command_line) {
            context.reporter.warning(warning);
        }
    } else {
        context.reporter.warning("`autoattachSerialConsole` is false: the guest has no console to show");
    }
    let network = network(&instance).map(|network| {
        let trampoline = Trampoline::this_program();
        let outside = Outside::find(&host.search_path, &facts.qemu, &trampoline, network.host_loopback);
        (network, outside)
    });
    if let Some(warning) = network.as_ref().and_then(|(_, outside)| outside.warning()) {
        context.reporter.warning(warning);
    }
    if flags.dry_run {
        let paths = RunPaths::in_directory(machine_dir.path());
        return Ok((dry_run::print_plan(&boot, &spec, &facts, &paths)?, None));
    }
    timeline.prepared = Some(began.elapsed());

    let planned = Planned {
        spec: &spec,
        facts: &facts,
        machine_dir: &machine_dir,
        network,
        conditions,
        began,
        timeline,
    };
    let outcome = guest::boot(context, flags, planned, &mut requests).await?;
    let changed_from = remember(context, &instance, &boot);
    let console_log = machine_dir.console_log();
    let run =
        Run { instance: &instance, boot: &boot, facts: &facts, console_log: &console_log, changed_from };
    let (code, summary) = verdict::report(context, flags, &run, outcome);
    Ok((code, Some(summary)))
}

/// `work`, unless somebody ends the run or its time is up first.
async fn unless_ended<T>(
    work: impl Future<Output = Result<T, Failure>>,
    requests: &mut Requests,
    deadline: Option<Instant>,
) -> Result<T, Failure> {
    tokio::select! {
        done = work => done,
        Some(request) = requests.receiver.recv() => Err(Failure::interrupted(&request)),
        () = expired(deadline) => Err(timed_out_before_the_guest()),
    }
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
        // A time beyond the clock's range never comes.
        deadline: flags.timeout.and_then(|timeout| began.checked_add(timeout)),
        ..Conditions::default()
    })
}

/// Makes the directory that machines run in.
///
/// # Errors
/// When it cannot be made, or belongs to somebody else.
pub fn machines_dir(context: &Context) -> Result<(), Failure> {
    // Root's QEMU is another user and passes through; nobody but the owner looks around.
    let mode = match context.settings.mode {
        Mode::Root => 0o711,
        Mode::User => 0o700,
    };
    ensure_dir(&context.settings.run_dir, mode)?;
    Ok(ensure_dir(&context.settings.machines_dir(), mode)?)
}

fn machine_dir(context: &Context, instance: &VirtualMachineInstance) -> Result<MachineDir, Failure> {
    machines_dir(context)?;
    let (namespace, name) = names(instance);
    MachineDir::acquire(&context.settings.machines_dir(), namespace, name)
        .map_err(|error| Failure::refused(error, None))
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

/// Settles what executes the guest, makes its kernel one that QEMU takes, and decides whose credentials QEMU gets.
///
/// The accelerator comes first, since the kernel's form depends on it.
async fn prepared(
    context: &Context,
    flags: &RunFlags,
    fetched: Fetched,
    host: &Host,
    qemu: QemuFacts,
    machine_dir: &MachineDir,
) -> Result<(Boot, HostFacts), Failure> {
    let chosen = host.accelerator_for(machine_dir.path(), &qemu).await?;
    if let Some(KvmStatus::Unusable(unusable)) = &chosen.kvm {
        let hint = unusable.hint.as_ref().map(|hint| format!(" ({hint})")).unwrap_or_default();
        context.reporter.warning(format!(
            "no KVM, so the guest runs many times slower under TCG: {}{hint}",
            unusable.reason
        ));
    }
    let entry = match flags.kernel_entry {
        cli::KernelEntry::Auto => kernel_entry(&chosen.accelerator),
        cli::KernelEntry::AsGiven => EntryChoice::AsGiven,
    };
    let boot = files::prepare(context, fetched, entry)?;
    let (facts, warnings) = facts(qemu, chosen.accelerator, &boot.files(), machine_dir.path())?;
    for warning in warnings {
        context.reporter.warning(warning);
    }
    Ok((boot, facts))
}

/// What a launcher would do and `run` does not.
fn without_effect(instance: &VirtualMachineInstance) -> Vec<&'static str> {
    let spec = &instance.spec;
    let written = [
        (
            spec.start_strategy.as_deref() == Some("Paused"),
            "spec.startStrategy has no effect: `run` starts the guest all the same",
        ),
        (
            spec.termination_grace_period_seconds.is_some_and(|seconds| seconds != 0),
            "spec.terminationGracePeriodSeconds has no effect: whoever ends `run` ends the guest at once",
        ),
        (
            spec.domain.devices.log_serial_console == Some(false),
            "spec.domain.devices.logSerialConsole has no effect: the console's log is always kept",
        ),
    ];
    written.into_iter().filter(|(written, _)| *written).map(|(_, warning)| warning).collect()
}

fn launch_spec(
    instance: &VirtualMachineInstance,
    boot: &Boot,
    flags: &RunFlags,
) -> Result<LaunchSpec, Failure> {
    let default_console = (flags.filename.is_none()).then(|| "console=ttyS0".to_owned());
    let append: Vec<String> = default_console.into_iter().chain(flags.append.iter().cloned()).collect();
    let mut spec = plan(instance, &boot.files(), &append, PanicDevices::Always).map_err(|error| {
        Failure::from(error).context(format!("cannot size the machine {}", full_name(instance)))
    })?;
    // There is nobody who could let it run.
    spec.initial_state = InitialState::Running;
    Ok(spec)
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
