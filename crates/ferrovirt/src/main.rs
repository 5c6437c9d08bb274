//! `ferrovirt`: KubeVirt virtual machines from a kernel and an initrd in a container image, with one binary and QEMU.
//!
//! The binary is flags → settings → command → output. What a machine is, where its kernel comes from and how it runs
//! is decided in the crates below; here are the command line, files, signals, printing and exit codes.

mod cli;
mod commands;
mod progress;
mod report;
mod settings;
mod terminal;

use std::io::IsTerminal;
use std::process::ExitCode as ProcessExitCode;

use clap::Parser;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use vmm::accelerator::{HELPER_COMMAND, helper_main};
use vmm::process::{self, TRAMPOLINE_COMMAND};

use cli::{Cli, Command};
use report::{ExitCode, Failure, ReaderGone, Reporter};
use settings::{Mode, Settings};

/// A server makes and drops trees of JSON in several threads; glibc's allocator took 30 % of its time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ProcessExitCode {
    // First of all, before there is a thread: this process may be on its way to become QEMU, or be the KVM probe.
    let mut arguments = std::env::args_os().skip(1);
    match arguments.next() {
        Some(first) if first == TRAMPOLINE_COMMAND => process::trampoline(arguments),
        Some(first) if first == HELPER_COMMAND => std::process::exit(helper_main()),
        _ => {}
    }
    let cli = Cli::parse();
    // A launcher's log is a file in its Pod's directory, which it has to claim first.
    if !matches!(cli.command, Command::Launcher(_)) {
        start_logging(cli.global.verbose);
    }
    let reporter = Reporter {
        color: std::io::stderr().is_terminal()
            && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
        chatty: !cli.global.quiet,
    };
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

fn dispatch(cli: Cli, reporter: Reporter) -> Result<ExitCode, Failure> {
    let user_id = rustix::process::geteuid();
    let mode = if user_id.is_root() { Mode::Root } else { Mode::User };
    let environment = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let settings = Settings::resolve(&cli.global, mode, user_id.as_raw(), environment)?;
    let mut builder = match cli.command {
        Command::Serve(_) => tokio::runtime::Builder::new_multi_thread(),
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
            Command::Run(flags) => commands::run::run(&context, *flags).await,
            Command::Serve(flags) => commands::serve::serve(&context, &flags).await,
            Command::Kubeconfig(flags) => commands::kubeconfig::kubeconfig(&context, &flags),
            Command::Logs(flags) => commands::logs::logs(&context, &flags).await,
            Command::State(flags) => commands::state::state(&context, &flags.command),
            Command::Image(flags) => commands::image::image(&context, flags.command).await,
            Command::Validate(flags) => commands::validate::validate(&context, &flags),
            Command::Doctor(flags) => commands::doctor::doctor(&context, &flags).await,
            Command::Launcher(flags) => {
                commands::launcher::launcher(&context, flags, cli.global.verbose).await
            }
        }
    });
    // A thread may still wait for standard input; it must not keep the process.
    runtime.shutdown_background();
    result
}

/// Logs are for debugging and go to standard error; warnings that a user must see are printed, not logged.
fn start_logging(verbose: u8) {
    let default = match verbose {
        0 => "off",
        1 => {
            "ferrovirt=info,apiserver=info,image=info,vmm=info,launcher=info,node=info,controllers=info,events=info"
        }
        _ => {
            "ferrovirt=debug,apiserver=debug,image=debug,vmm=debug,launcher=debug,node=debug,controllers=debug,events=debug"
        }
    };
    let asked = std::env::var("RUST_LOG").ok().filter(|directives| !directives.is_empty());
    let filter = asked.as_deref().into_iter().chain([default]).find_map(|text| text.parse::<Targets>().ok());
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    tracing_subscriber::registry().with(lines).with(filter.unwrap_or_default()).init();
}
