//! `ferrovirt`: KubeVirt virtual machines from a kernel and an initrd in a container image, with one binary and QEMU.
//!
//! The binary is flags → settings → command → output. What a machine is, where its kernel comes from and how it runs
//! is decided in the crates below; here are the command line, files, signals, printing and exit codes.

#[allow(unsafe_code)] // JUSTIFICATION: see the module; an option of the allocator, which is a C library.
mod allocator;
mod cli;
mod commands;
#[allow(unsafe_code)] // JUSTIFICATION: see the module; it takes the name of a C function.
mod mathematics;
mod progress;
mod report;
mod settings;
mod terminal;

use std::io::IsTerminal;
use std::path::Path;
use std::process::ExitCode as ProcessExitCode;
use std::time::Duration;

use clap::{CommandFactory as _, FromArgMatches as _};
use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use vmm::accelerator::{HELPER_COMMAND, helper_main};
use vmm::process::{self, TRAMPOLINE_COMMAND};

use cli::{Cli, Command, LogFormat};
use commands::power::InstanceAction;
use report::{ExitCode, Failure, REPORTED, ReaderGone, Reporter};
use settings::{Mode, Settings};

fn main() -> ProcessExitCode {
    // First of all, before there is a thread: this process may be on its way to become QEMU, or be the KVM probe.
    let mut arguments = std::env::args_os().skip(1);
    match arguments.next() {
        Some(first) if first == TRAMPOLINE_COMMAND => process::trampoline(arguments),
        Some(first) if first == HELPER_COMMAND => std::process::exit(helper_main()),
        _ => {}
    }
    allocator::give_back_at_once();
    let cli = parse();
    let reporter = Reporter {
        color: std::io::stderr().is_terminal()
            && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
        chatty: !cli.global.quiet,
        log_format: match &cli.command {
            Command::Serve(flags) => flags.log_format,
            _ => LogFormat::Text,
        },
    };
    // A launcher's log is a file in its Pod's directory, which it has to claim first.
    if !matches!(cli.command, Command::Launcher(_)) {
        start_logging(log_level(&cli.command, cli.global.verbose), &reporter);
    }
    let code = match dispatch(cli, reporter) {
        Ok(code) => code,
        Err(failure) if failure.error.is::<ReaderGone>() => failure.code,
        Err(failure) => {
            reporter.failure(&failure);
            failure.code
        }
    };
    ProcessExitCode::from(code as u8)
}

/// What was typed. As `kubectl-ferrovirt` in the search path this is a plugin of kubectl, and called by its words.
fn parse() -> Cli {
    let program = std::env::args_os().next().unwrap_or_default();
    let is_plugin = Path::new(&program).file_stem().is_some_and(|name| name == "kubectl-ferrovirt");
    let command = if is_plugin { Cli::command().bin_name("kubectl ferrovirt") } else { Cli::command() };
    Cli::from_arg_matches(&command.get_matches()).unwrap_or_else(|error| error.exit())
}

/// The stack of each of `serve`'s threads, in bytes. The deepest YAML that is taken needs 0.5 MiB of it, and in a build
/// without optimization 2.2 MiB, which is more than a thread's 2 MiB by default. Pages that are never touched cost nothing.
const SERVE_STACK_BYTES: usize = 4 << 20;

/// How long a thread that waits for files stays without work. Each keeps memory of its own.
const SERVE_SPARE_THREAD: Duration = Duration::from_secs(1);

fn dispatch(cli: Cli, reporter: Reporter) -> Result<ExitCode, Failure> {
    let user_id = rustix::process::geteuid();
    let mode = if user_id.is_root() { Mode::Root } else { Mode::User };
    let environment = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let settings = Settings::resolve(&cli.global, mode, user_id.as_raw(), environment)?;
    let mut builder = match cli.command {
        Command::Serve(_) => {
            let mut builder = tokio::runtime::Builder::new_multi_thread();
            builder
                .thread_stack_size(SERVE_STACK_BYTES)
                .thread_keep_alive(SERVE_SPARE_THREAD)
                .on_thread_park(allocator::collect);
            builder
        }
        // One thread: QEMU dies with the thread that started it, and everything here waits most of the time.
        _ => tokio::runtime::Builder::new_current_thread(),
    };
    let runtime = builder
        .enable_all()
        .build()
        .map_err(|error| Failure::from(anyhow::Error::new(error).context("cannot start the runtime")))?;
    let context = commands::Context { settings, reporter };
    let result = runtime.block_on(async {
        match cli.command {
            Command::Run(flags) => commands::run::run(&context, flags.0).await,
            Command::Serve(flags) => tokio::select! {
                code = commands::serve::serve(&context, &flags) => code,
                never = allocator::keep_collecting() => match never {},
            },
            Command::Get(flags) => commands::get::get(&context, &flags).await,
            Command::Apply(flags) => commands::apply::apply(&context, &flags).await,
            Command::Describe(flags) => commands::describe::describe(&context, &flags).await,
            Command::Delete(flags) => commands::delete::delete(&context, &flags).await,
            Command::Start(flags) => commands::power::start(&context, &flags).await,
            Command::Stop(flags) => commands::power::stop(&context, &flags).await,
            Command::Restart(flags) => commands::power::restart(&context, &flags).await,
            Command::Pause(flags) => {
                commands::power::instances(&context, &flags, InstanceAction::Pause).await
            }
            Command::Unpause(flags) => {
                commands::power::instances(&context, &flags, InstanceAction::Unpause).await
            }
            Command::Reset(flags) => {
                commands::power::instances(&context, &flags, InstanceAction::Reset).await
            }
            Command::SoftReboot(flags) => {
                commands::power::instances(&context, &flags, InstanceAction::SoftReboot).await
            }
            Command::Console(flags) => commands::console::console(&context, &flags).await,
            Command::PortForward(flags) => commands::port_forward::port_forward(&context, flags.0).await,
            Command::Ssh(flags) => commands::ssh::ssh(&context, flags.0).await,
            Command::Scp(flags) => commands::ssh::scp(&context, flags.0).await,
            Command::Vnc(flags) => commands::vnc::vnc(&context, flags.0).await,
            Command::Wait(flags) => commands::wait::wait(&context, &flags).await,
            Command::Events(flags) => commands::events::events(&context, &flags).await,
            Command::Top(flags) => commands::top::top(&context, &flags).await,
            Command::Kubeconfig(flags) => commands::kubeconfig::kubeconfig(&context, &flags),
            Command::Logs(flags) => commands::logs::logs(&context, &flags).await,
            Command::State(flags) => commands::state::state(&context, &flags.command),
            Command::Image(flags) => commands::image::image(&context, flags.0.command).await,
            Command::Validate(flags) => commands::validate::validate(&context, &flags),
            Command::Doctor(flags) => commands::doctor::doctor(&context, &flags).await,
            Command::Completion(flags) => commands::completion::completion(&flags),
            Command::Complete(flags) => commands::completion::complete(&context, &flags).await,
            Command::Launcher(flags) => {
                commands::launcher::launcher(&context, flags.0, cli.global.verbose).await
            }
        }
    });
    // A thread may still wait for standard input; it must not keep the process.
    runtime.shutdown_background();
    result
}

/// The crates whose logs are told.
const LOGGED: [&str; 8] =
    ["ferrovirt", "apiserver", "image", "vmm", "launcher", "node", "controllers", "events"];

/// How much is logged. A server has nobody to tell but its log, so its warnings are there in any case; what a user of
/// another command must see is printed, and its log is for debugging.
fn log_level(command: &Command, verbose: u8) -> LevelFilter {
    match (command, verbose) {
        (Command::Serve(_), 0) => LevelFilter::WARN,
        (_, 0) => LevelFilter::OFF,
        (_, 1) => LevelFilter::INFO,
        _ => LevelFilter::DEBUG,
    }
}

/// Logs go to standard error, in the reporter's form.
fn start_logging(level: LevelFilter, reporter: &Reporter) {
    let ours = || Targets::new().with_targets(LOGGED.map(|target| (target, level)));
    let asked = std::env::var("RUST_LOG").ok().filter(|directives| !directives.is_empty());
    let asked = asked.map(|directives| directives.parse::<Targets>().map_err(|error| (directives, error)));
    let (filter, fault) = match asked {
        None => (ours(), None),
        Some(Ok(filter)) => (filter, None),
        Some(Err(fault)) => (ours(), Some(fault)),
    };
    let filter = filter.with_target(REPORTED, LevelFilter::INFO);
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines = match reporter.log_format {
        LogFormat::Text => lines.with_ansi(reporter.color).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    tracing_subscriber::registry().with(lines).with(filter).init();
    if reporter.log_format == LogFormat::Json {
        std::panic::set_hook(Box::new(|panic| tracing::error!(target: REPORTED, "{panic}")));
    }
    if let Some((directives, error)) = fault {
        tracing::warn!(RUST_LOG = directives, %error, "these log directives make no sense and are not followed");
    }
}
