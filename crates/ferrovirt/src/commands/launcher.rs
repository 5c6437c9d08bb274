//! `ferrovirt launcher`: one virtual machine of `serve`, in a process that outlives it.
//!
//! The process stands on its own: it is the leader of a session, and holds neither terminal nor pipe of whoever has
//! started it once it listens. What it has to say then is in `logs/compute.log` of the Pod's directory.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::sync::Mutex;
use std::time::Duration;

use anyhow::Context as _;
use launcher::cri_log::CriLog;
use launcher::pod_dir::PodDir;
use launcher::privileges;
use launcher::supervisor::{self, Claim, Settings, Signals};
use manifest::machine_status::MachineState;
use tracing::level_filters::LevelFilter;

use super::{Context, host};
use crate::cli::{LauncherFlags, LogFormat};
use crate::report::{ExitCode, Failure};

/// Runs the launcher until its machine has ended: exit code 0 when it was shut off, 1 when it crashed.
///
/// # Errors
/// For what keeps the control API from being served, such as another launcher of the same Pod.
pub async fn launcher(context: &Context, flags: LauncherFlags, verbose: u8) -> Result<ExitCode, Failure> {
    let Some(namespace) = context.settings.namespace.clone() else {
        return Err(Failure::usage("the instance's namespace is not named: --namespace NAME"));
    };
    stand_alone().context("cannot leave the session and the standard input of the caller")?;
    privileges::before_start().context("cannot give up privileges")?;
    let signals = Signals::catch().map_err(anyhow::Error::new)?;
    let directory =
        std::path::absolute(&flags.pod_dir).context("cannot make the Pod's directory absolute")?;
    let claim = Claim::take(PodDir::new(directory)).map_err(anyhow::Error::new)?;
    start_logging(claim.compute_log().map_err(anyhow::Error::new)?, verbose, flags.log_format);
    // Whatever this thread does, and it is the only one that does anything, concerns this object. Readers of text know.
    let is_json = flags.log_format == LogFormat::Json;
    let about = is_json.then(|| {
        tracing::info_span!("launcher", object = format!("{}/{}", namespace, flags.name), uid = flags.uid)
    });
    let _entered = about.as_ref().map(tracing::Span::enter);
    let settings = Settings {
        listen: flags.listen,
        name: flags.name,
        namespace,
        uid: flags.uid,
        grace: Duration::from_secs(flags.grace_period_seconds),
        kernel_dir: context.settings.kernel_dir(),
        niceness: flags.niceness,
        cpu_limit_millis: flags.cpu_limit_millis,
        host: host::host(context, flags.accel),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let listening = || {
        if let Err(error) = let_go_of_output() {
            tracing::warn!(%error, "standard output and error stay those of the caller");
        }
    };
    match supervisor::run(claim, settings, signals, listening).await {
        Ok(last) if last.state == MachineState::ShutOff => Ok(ExitCode::Done),
        Ok(_) => Ok(ExitCode::Refused),
        Err(error) => {
            let error = anyhow::Error::new(error);
            tracing::error!("{error:#}");
            Err(error.into())
        }
    }
}

/// Takes the program's name, and leaves the session of the caller, whose end would be told to everybody in it, and its
/// standard input. Goes ahead of others until the machine is started.
fn stand_alone() -> io::Result<()> {
    // The daemon executes a link to itself, by whose name `ps` and `ss` would show this process.
    rustix::thread::set_name(c"ferrovirt")?;
    match rustix::process::setsid() {
        Ok(_) => vmm::priority::step_ahead()?,
        // The leader of a process group has to stay where it is.
        Err(rustix::io::Errno::PERM) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(rustix::stdio::dup2_stdin(File::open("/dev/null")?)?)
}

fn let_go_of_output() -> io::Result<()> {
    let nowhere = OpenOptions::new().write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdout(&nowhere)?;
    rustix::stdio::dup2_stderr(&nowhere)?;
    Ok(())
}

/// Sends what is logged, and what a panic of this program says, to the Pod's log.
fn start_logging(log: CriLog, verbose: u8, format: LogFormat) {
    let level = match verbose {
        0 => LevelFilter::INFO,
        1 => LevelFilter::DEBUG,
        _ => LevelFilter::TRACE,
    };
    let lines = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_ansi(false)
        .with_writer(Mutex::new(LogWriter(log)));
    match format {
        // The log's format has the time.
        LogFormat::Text => lines.without_time().init(),
        LogFormat::Json => lines.json().flatten_event(true).with_span_list(false).init(),
    }
    std::panic::set_hook(Box::new(|panic| tracing::error!("{panic}")));
}

/// The Pod's log as something to write to.
struct LogWriter(CriLog);

impl Write for LogWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
