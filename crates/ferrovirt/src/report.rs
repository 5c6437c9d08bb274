//! How Ferrovirt talks to people: everything here goes to standard error, since standard output is data.

use std::fmt::Display;
use std::io::Write;

use launcher::console::printable;
use launcher::session::EndRequest;

use crate::cli::LogFormat;

/// Exit codes, the whole list (`docs/errors.md`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitCode {
    /// The guest powered off, `--until` matched, the command did its work.
    Done = 0,
    /// Refused, or failed for a reason that the user can act on.
    Refused = 1,
    /// The command line makes no sense (clap's own code too).
    Usage = 2,
    /// The kernel panicked, or a failure pattern matched.
    GuestFailed = 3,
    /// The VMM itself failed.
    VmmFailed = 4,
    /// `--timeout`, as timeout(1) has it.
    TimedOut = 124,
    /// Ended by the user, as shells have it for Ctrl-C.
    Interrupted = 130,
}

/// A command's failure: what went wrong, what to do about it, which code to leave with.
#[derive(Debug)]
pub struct Failure {
    /// The code to leave with.
    pub code: ExitCode,
    /// The chain of causes, outermost first.
    pub error: anyhow::Error,
    /// Further causes, where several things are wrong at once.
    pub causes: Vec<String>,
    /// Ways out, each one line.
    pub hints: Vec<String>,
}

impl Failure {
    /// A failure that the user can act on.
    pub fn refused(error: impl Into<anyhow::Error>, hint: Option<String>) -> Failure {
        Failure {
            code: ExitCode::Refused,
            error: error.into(),
            causes: Vec::new(),
            hints: hint.into_iter().collect(),
        }
    }

    /// A command line that makes no sense.
    pub fn usage(message: impl Display + std::fmt::Debug + Send + Sync + 'static) -> Failure {
        Failure {
            code: ExitCode::Usage,
            error: anyhow::Error::msg(message),
            causes: Vec::new(),
            hints: Vec::new(),
        }
    }

    /// Nobody reads standard output any more, which is no failure.
    pub fn reader_gone() -> Failure {
        Failure { code: ExitCode::Done, ..Failure::refused(ReaderGone, None) }
    }

    /// Ended from outside before there was a guest.
    pub fn interrupted(request: &EndRequest) -> Failure {
        let by = match request {
            EndRequest::Signal(name) => name,
            EndRequest::LeaveKey => "Ctrl-]",
            EndRequest::OutputClosed | EndRequest::OutputFailed(_) => "the end of standard output",
        };
        let error = anyhow::anyhow!("interrupted by {by} before the guest was started");
        Failure { code: ExitCode::Interrupted, ..Failure::refused(error, None) }
    }

    /// The same failure with another fact in front.
    pub fn context(mut self, message: impl Display + Send + Sync + 'static) -> Failure {
        self.error = self.error.context(message);
        self
    }
}

/// An error of a crate below that knows a way out.
pub trait Hinted: std::error::Error + Send + Sync + 'static {
    /// What the user can do, one line.
    fn way_out(&self) -> Option<String>;
}

macro_rules! hinted {
    ($($error:ty),* $(,)?) => {
        $(impl Hinted for $error {
            fn way_out(&self) -> Option<String> {
                self.hint()
            }
        })*
    };
}

hinted!(
    image::PullError,
    image::ReferenceError,
    image::RegistryError,
    image::StoreError,
    image::archive::LoadError,
    image::archive::SaveError,
    image::build::BuildError,
    image::push::PushError,
    launcher::host::HostError,
    manifest::DecodeError,
    manifest::resources::MemoryError,
    vmm::SpecError,
    vmm::StartError,
    vmm::accelerator::AcceleratorError,
    vmm::kernel::KernelError,
);

impl Hinted for apiserver::store::OpenError {
    fn way_out(&self) -> Option<String> {
        let hint = match self {
            Self::Locked { process, .. } => {
                let process = process.map(|process| format!(" (process {process})")).unwrap_or_default();
                return Some(format!("stop that server{process}, or name another state with --state-dir"));
            }
            Self::Missing { .. } => {
                "name another state with --state-dir, or start the server once: ferrovirt serve"
            }
            Self::Newer { .. } => {
                "use the version of ferrovirt that wrote it, or name another state with --state-dir"
            }
            Self::Foreign { .. } => "name another state with --state-dir",
            Self::Damaged { .. } => {
                "`ferrovirt state check` says what is wrong; put a backup in its place: ferrovirt state restore --replace \
                 FILE"
            }
            Self::Io { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => {
                "run this as the user who started the server, or name another state with --state-dir"
            }
            _ => return None,
        };
        Some(hint.to_owned())
    }
}

impl Hinted for apiserver::server::StartError {
    fn way_out(&self) -> Option<String> {
        match self {
            Self::Store(error) => error.way_out(),
            Self::Listen { source, .. } if source.kind() == std::io::ErrorKind::AddrInUse => {
                Some("another program listens there; choose another address with --listen".to_owned())
            }
            Self::Listen { .. } => Some("choose another address with --listen".to_owned()),
            _ => None,
        }
    }
}

impl<E: Hinted> From<E> for Failure {
    fn from(error: E) -> Failure {
        let hint = error.way_out();
        Failure::refused(error, hint)
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Failure {
        Failure::refused(error, None)
    }
}

/// Under which name lines of a log stand that a reporter writes: what it has to say is told whatever else is logged.
pub const REPORTED: &str = "ferrovirt::report";

/// Whether progress and colour make sense, decided once.
#[derive(Debug, Clone, Copy)]
pub struct Reporter {
    /// Standard error is a terminal and NO_COLOR is not set.
    pub color: bool,
    /// Nobody asked for silence.
    pub chatty: bool,
    /// What lines on standard error are.
    pub log_format: LogFormat,
}

impl Reporter {
    /// Something odd that does not stop the work.
    pub fn warning(&self, message: impl Display) {
        match self.log_format {
            LogFormat::Text => self.line("warning", "\x1b[33;1m", message),
            LogFormat::Json => tracing::warn!(target: REPORTED, "{message}"),
        }
    }

    /// A plain remark; silent under `--quiet`.
    pub fn note(&self, message: impl Display) {
        match self.log_format {
            _ if !self.chatty => {}
            LogFormat::Text => write_line(&message.to_string()),
            LogFormat::Json => tracing::info!(target: REPORTED, "{message}"),
        }
    }

    /// A failure: the error, its causes, the hints.
    pub fn failure(&self, failure: &Failure) {
        if self.log_format == LogFormat::Json {
            let texts = |list: &[String]| Some(list.join("; ")).filter(|text| !text.is_empty());
            let (cause, hint) = (texts(&failure.causes), texts(&failure.hints));
            tracing::error!(target: REPORTED, cause, hint, "{:#}", failure.error);
            return;
        }
        self.line("error", "\x1b[31;1m", &failure.error);
        for cause in failure.error.chain().skip(1) {
            write_line(&format!("  cause: {cause}"));
        }
        for cause in &failure.causes {
            write_line(&format!("  cause: {cause}"));
        }
        for hint in &failure.hints {
            self.line("hint", "\x1b[36;1m", hint);
        }
    }

    /// How a guest failed; told even under `--quiet`.
    pub fn verdict(&self, message: impl Display) {
        self.line("failed", "\x1b[31;1m", message);
    }

    fn line(&self, label: &str, color: &str, message: impl Display) {
        if self.color {
            // Without a terminal there is no colour, so a failed write here is the same as in `write_line`.
            let _ = write!(std::io::stderr().lock(), "{color}{label}:\x1b[0m ");
            write_line(&message.to_string());
        } else {
            write_line(&format!("{label}: {message}"));
        }
    }
}

/// Writes data to standard output.
///
/// # Errors
/// When it cannot be written. A reader that has gone away (`… | head`) has had enough, which is no failure
/// ([`ReaderGone`]).
pub fn print(text: &str) -> Result<(), Failure> {
    print_bytes(text.as_bytes())
}

/// [`print()`] of what need not be text.
///
/// # Errors
/// As [`print()`].
pub fn print_bytes(bytes: &[u8]) -> Result<(), Failure> {
    let mut output = std::io::stdout().lock();
    match output.write_all(bytes).and_then(|()| output.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Err(Failure::reader_gone()),
        Err(error) => {
            Err(Failure::from(anyhow::Error::new(error).context("cannot write to standard output")))
        }
    }
}

/// Nobody reads standard output any more: the command ends early, as a success and without a word.
#[derive(Debug)]
pub struct ReaderGone;

impl Display for ReaderGone {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("nobody reads standard output any more")
    }
}

impl std::error::Error for ReaderGone {}

/// One line to standard error, or several. What came from outside (an image's paths, a manifest's strings) must not
/// drive the terminal: control characters are left out.
pub fn write_line(text: &str) {
    let mut lines = text.split('\n').map(|line| printable(line.as_bytes())).collect::<Vec<_>>().join("\n");
    lines.push('\n');
    // A closed standard error is no reason to fail: nobody reads it.
    let _ = std::io::stderr().lock().write_all(lines.as_bytes());
}

/// `1.23 s`, or `4.5 ms` below a tenth of a second.
pub fn seconds(milliseconds: f64) -> String {
    if milliseconds < 100.0 {
        format!("{milliseconds:.1} ms")
    } else {
        format!("{:.2} s", milliseconds / 1000.0)
    }
}

/// `bytes` in a unit that reads well, e.g. `12.3 MB` (decimal, as registries and disks count).
pub fn decimal_bytes(bytes: u64) -> String {
    scaled(bytes, 1000, &["B", "kB", "MB", "GB", "TB"])
}

/// `bytes` in a unit that reads well, e.g. `180.2 MiB` (binary, as memory is counted).
pub fn binary_bytes(bytes: u64) -> String {
    scaled(bytes, 1024, &["B", "KiB", "MiB", "GiB", "TiB"])
}

fn scaled(bytes: u64, base: u64, units: &[&str]) -> String {
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= base as f64 && unit + 1 < units.len() {
        value /= base as f64;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", units[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_a_crate_below_brings_its_way_out() {
        let failure = Failure::from("a b".parse::<image::Reference>().expect_err("no reference"));
        assert_eq!(failure.code, ExitCode::Refused);
        assert_eq!(failure.hints.len(), 1, "{failure:?}");
    }

    #[test]
    fn sizes_read_well() {
        assert_eq!(decimal_bytes(0), "0 B");
        assert_eq!(decimal_bytes(999), "999 B");
        assert_eq!(decimal_bytes(12_345_678), "12.3 MB");
        assert_eq!(binary_bytes(1 << 30), "1.0 GiB");
        assert_eq!(binary_bytes(1536), "1.5 KiB");
    }
}
