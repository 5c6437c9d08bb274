//! Starting QEMU as a process that cannot outlive its supervisor.
//!
//! Between fork and exec a few calls are needed that std's `Command` does not offer without unsafe code. So
//! the binary starts itself again, in the role of a trampoline, which makes them in the open and then becomes
//! QEMU:
//!
//! ```text
//!  supervisor ── spawn ──► ferrovirt __exec --parent PID [--uid U --gid G --groups A,B] [--network host] [--show PATH …]
//!                            -- qemu …
//!                            1 close descriptors     all but the standard streams; needs /proc/self/fd, which
//!                                                    another user may not read: before 3
//!                            2 session of its own    a Ctrl-C on the terminal is for the supervisor; its share
//!                                                    of the processors is that of the nice level; needs /proc
//!                            3 namespaces, view      where there is something to show; of a user, in a user namespace
//!                            4 bounding set          no capability can be got back; needs root, or 3
//!                            5 groups, gid, uid      changing credentials clears the death signal: before 7
//!                            6 capabilities          none, but of a QEMU that stays root
//!                            7 death signal KILL     sent when the parent *thread* ends
//!                            8 parent still there?   else it died before 7, and nobody would ever kill QEMU
//!                            9 SIGTERM blocked       a host that goes down, or a service manager that stops a unit,
//!                                                    tells all processes: the supervisor shuts the guest down then
//!                           10 no new privileges     set-user-id programs stay harmless
//!                           11 exec                  keeps all that; no environment but PATH
//! ```
//!
//! Root's QEMU with a view is also the first process of a process namespace, which its parent has made for it
//! (module `confinement`). With `--only-try` in the place of `--` and the program, the trampoline ends in the place of 11.
//! With `--network host`, 4 and 5 come before 3: a launcher of root that follows a machine may change its user, and may not
//! make namespaces any more, so the other user makes them, in a user namespace.
//!
//! So what a guest that has broken out of its virtual CPU finds in QEMU is QEMU's own: no credentials in
//! variables of the supervisor's caller, none of the files that were open there.
//!
//! # Caveats
//! The kernel sends the death signal when the *thread* that forked ends, prctl(2). So spawn from a thread
//! that lives as long as the machine shall: the main thread of a current-thread runtime.

use std::convert::Infallible;
use std::ffi::OsString;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use nix::sys::signal::{SIGTERM, SigSet, SigmaskHow};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{DumpableBehavior, Signal, set_dumpable_behavior};
use rustix::thread::{Gid, Uid};

use crate::confinement::{Network, Shown, ShownAs, enter_view};
use crate::priority;
use crate::privileges::{self, Capabilities};
use crate::run_as::RunAs;

/// First argument of the binary that makes it a trampoline.
pub const TRAMPOLINE_COMMAND: &str = "__exec";

/// Exit code of a trampoline that could not become QEMU, as shells have it for "found and not executable".
pub const TRAMPOLINE_EXIT_CODE: i32 = 126;

/// The program that runs [`trampoline`] when its first argument is [`TRAMPOLINE_COMMAND`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trampoline {
    program: PathBuf,
}

/// What a program becomes on the trampoline.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Role<'a> {
    /// Whose credentials it has.
    pub run_as: &'a RunAs,
    /// The files that there are for it; all of the host's where none are named.
    pub shown: &'a [Shown],
    /// The network that there is for it, where files are named; the host's otherwise.
    pub network: Network,
}

impl<'a> Role<'a> {
    /// That of somebody who sees the host as it is.
    pub(crate) fn of(run_as: &'a RunAs) -> Self {
        Self { run_as, shown: &[], network: Network::Own }
    }
}

impl Trampoline {
    /// The running program itself, by the link that stays right even when its file has been replaced
    /// meanwhile.
    pub fn this_program() -> Self {
        Self { program: PathBuf::from("/proc/self/exe") }
    }

    /// Another program.
    pub fn program(program: impl Into<PathBuf>) -> Self {
        Self { program: program.into() }
    }

    /// The command that runs `binary` with `arguments` in this role, in a session of its own, with all three standard
    /// streams piped.
    pub(crate) fn command(&self, role: &Role<'_>, binary: &Path, arguments: &[String]) -> Command {
        let mut command = self.on_the_way(role);
        command.arg("--").arg(binary).args(arguments);
        command
    }

    /// The command that goes as far as a program in this role would, and ends; [`tried`] says how.
    pub(crate) fn trial(&self, role: &Role<'_>) -> Command {
        let mut command = self.on_the_way(role);
        command.arg(ONLY_TRY);
        command
    }

    fn on_the_way(&self, Role { run_as, shown, network }: &Role<'_>) -> Command {
        let mut command = Command::new(&self.program);
        command.arg(TRAMPOLINE_COMMAND);
        command.args(["--parent", &std::process::id().to_string()]);
        if let RunAs::User { uid, gid, groups } = run_as {
            let groups: Vec<String> = groups.iter().map(u32::to_string).collect();
            command.args([
                "--uid",
                &uid.to_string(),
                "--gid",
                &gid.to_string(),
                "--groups",
                &groups.join(","),
            ]);
        }
        match network {
            Network::Own => {}
            Network::Hosts => _ = command.args([NETWORK, HOSTS_NETWORK]),
        }
        for (option, access) in ShownAs::ALL {
            for shown in shown.iter().filter(|shown| shown.access == access) {
                command.arg(option).arg(&shown.path);
            }
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }
}

/// The trampoline's argument that stands for a program when there is none to become.
const ONLY_TRY: &str = "--only-try";

/// The trampoline's option for the network, and its one value.
const NETWORK: &str = "--network";
const HOSTS_NETWORK: &str = "host";

/// How a trial has gone.
///
/// # Errors
/// Why it failed, for the user.
pub(crate) fn tried(output: &Output) -> Result<(), String> {
    // A program that is no trampoline has something to say.
    if output.status.success() && output.stdout.is_empty() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&output.stderr).trim_end().to_owned())
}

/// Where the kernel lists the open descriptors of whoever looks, proc(5).
const OWN_DESCRIPTORS: &str = "/proc/self/fd";

/// Why the trampoline could not become the program.
#[derive(Debug, thiserror::Error)]
enum TrampolineError {
    #[error("cannot read the arguments of `{TRAMPOLINE_COMMAND}`: {0}")]
    Arguments(&'static str),
    #[error("cannot list the open descriptors in `{OWN_DESCRIPTORS}`")]
    Descriptors(#[source] io::Error),
    #[error("cannot make a session")]
    Session(#[source] io::Error),
    #[error("cannot hide the host's files")]
    View(#[source] io::Error),
    #[error("cannot give up capabilities")]
    Capabilities(#[source] io::Error),
    #[error("cannot take the credentials {uid}:{gid}")]
    Credentials {
        uid: u32,
        gid: u32,
        #[source]
        source: io::Error,
    },
    #[error("cannot ask for a signal at the end of the parent")]
    DeathSignal(#[source] io::Error),
    #[error("the parent process {0} has ended")]
    Orphaned(i32),
    #[error("cannot block SIGTERM")]
    Terminate(#[source] io::Error),
    #[error("cannot give up new privileges")]
    NoNewPrivileges(#[source] io::Error),
    #[error("cannot execute `{}`", program.display())]
    Execute {
        program: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Becomes the program that the arguments (those after [`TRAMPOLINE_COMMAND`]) name, or ends the process with
/// [`TRAMPOLINE_EXIT_CODE`] and one line on standard error.
///
/// Call it first thing in `main`, before any thread is started: credentials are changed for the calling
/// thread.
pub fn trampoline(arguments: impl IntoIterator<Item = OsString>) -> ! {
    let Err(error) = prepare_and_execute(arguments.into_iter());
    let mut text = format!("cannot start QEMU: {error}");
    if let Some(source) = std::error::Error::source(&error) {
        text.push_str(&format!(": {source}"));
    }
    // If standard error is gone, the exit code still tells.
    let _ = writeln!(io::stderr(), "{text}");
    std::process::exit(TRAMPOLINE_EXIT_CODE)
}

/// The arguments of a trampoline, read.
#[derive(Debug, PartialEq, Eq)]
struct Order {
    parent: i32,
    credentials: Option<(u32, u32, Vec<u32>)>,
    network: Network,
    shown: Vec<Shown>,
    /// With its arguments; `None` for a trial.
    program: Option<(OsString, Vec<OsString>)>,
}

fn read_order(mut arguments: impl Iterator<Item = OsString>) -> Result<Order, TrampolineError> {
    let wrong = TrampolineError::Arguments;
    let (mut parent, mut uid, mut gid, mut groups) = (None, None, None, None);
    let (mut network, mut shown) = (Network::Own, Vec::new());
    let is_trial = loop {
        let option = arguments.next().ok_or(wrong("no `--`"))?;
        if option == "--" || option == ONLY_TRY {
            break option == ONLY_TRY;
        }
        let value = arguments.next().ok_or(wrong("an option without value"))?;
        if let Some((_, access)) = ShownAs::ALL.into_iter().find(|(name, _)| option == *name) {
            shown.push(Shown { path: value.into(), access });
            continue;
        }
        let value = value.to_str().ok_or(wrong("a value that is not text"))?;
        let number = || value.parse::<u32>().map_err(|_| wrong("a value that is no number"));
        match option.to_str() {
            Some(NETWORK) if value == HOSTS_NETWORK => network = Network::Hosts,
            Some("--parent") => parent = Some(i32::try_from(number()?).map_err(|_| wrong("no process id"))?),
            Some("--uid") => uid = Some(number()?),
            Some("--gid") => gid = Some(number()?),
            Some("--groups") => {
                let list: Result<Vec<u32>, _> =
                    value.split(',').filter(|group| !group.is_empty()).map(str::parse).collect();
                groups = Some(list.map_err(|_| wrong("a group that is no number"))?);
            }
            _ => return Err(wrong("an unknown option")),
        }
    };
    let credentials = match (uid, gid, groups) {
        (Some(uid), Some(gid), Some(groups)) => Some((uid, gid, groups)),
        (None, None, None) => None,
        _ => return Err(wrong("`--uid`, `--gid` and `--groups` come together")),
    };
    let program = if is_trial {
        None
    } else {
        Some((arguments.next().ok_or(wrong("no program"))?, arguments.collect()))
    };
    Ok(Order { parent: parent.ok_or(wrong("no `--parent`"))?, credentials, network, shown, program })
}

fn prepare_and_execute(arguments: impl Iterator<Item = OsString>) -> Result<Infallible, TrampolineError> {
    let order = read_order(arguments)?;
    let is_root = rustix::process::geteuid().is_root();
    close_inherited_descriptors().map_err(TrampolineError::Descriptors)?;
    let session = rustix::process::setsid().map_err(io::Error::from).and_then(|_| priority::take_along());
    session.map_err(TrampolineError::Session)?;
    let stays_root = is_root && order.credentials.is_none();
    let kept = if stays_root { KEPT_BY_ROOT } else { Capabilities::empty() };
    if order.network == Network::Hosts {
        take_credentials(&order, kept)?;
        // Or the maps of its user namespace were root's to write: proc(5), "PR_SET_DUMPABLE".
        set_dumpable_behavior(DumpableBehavior::Dumpable)
            .map_err(|error| TrampolineError::View(error.into()))?;
    }
    if !order.shown.is_empty() {
        enter_view(&order.shown, order.network).map_err(TrampolineError::View)?;
    }
    match order.network {
        Network::Own => take_credentials(&order, kept)?,
        // A user namespace gives its maker all capabilities over what is in it.
        Network::Hosts => privileges::limit(kept).map_err(TrampolineError::Capabilities)?,
    }
    privileges::keep(kept).map_err(TrampolineError::Capabilities)?;
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(|error| TrampolineError::DeathSignal(error.into()))?;
    let is_orphan = match rustix::process::getppid() {
        Some(parent) => parent.as_raw_pid() != order.parent,
        // The parent is outside of this process namespace, dead or alive; the pipe to it tells.
        None => !has_reader(&io::stdout())?,
    };
    if is_orphan {
        return Err(TrampolineError::Orphaned(order.parent));
    }
    terminate().thread_block().map_err(|error| TrampolineError::Terminate(error.into()))?;
    rustix::thread::set_no_new_privs(true).map_err(|error| TrampolineError::NoNewPrivileges(error.into()))?;
    let Some((program, arguments)) = order.program else { std::process::exit(0) };
    let mut command = Command::new(&program);
    let source = with_own_environment(&mut command).args(arguments).exec();
    Err(TrampolineError::Execute { program: program.into(), source })
}

/// Runs `start`, whose new processes have SIGTERM blocked, as QEMU has: they end with their supervisor. A program may
/// unblock it.
///
/// # Errors
/// What the kernel says to another signal mask of this thread.
pub fn spared_of_sigterm<T>(start: impl FnOnce() -> T) -> io::Result<T> {
    let before = terminate().thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
    let started = start();
    before.thread_set_mask()?;
    Ok(started)
}

fn terminate() -> SigSet {
    [SIGTERM].into_iter().collect()
}

/// Lets QEMU see nothing of the environment but `PATH`, for those whose QEMU is a script around it. Messages come
/// out in English then, as [`StartError::hint`](crate::StartError::hint) knows them; variables that direct the
/// dynamic loader have no effect, here as after a change of credentials.
#[allow(clippy::disallowed_methods)] // no setting of ours: it is only handed on
pub(crate) fn with_own_environment(command: &mut Command) -> &mut Command {
    command.env_clear();
    if let Some(path) = std::env::var_os("PATH") {
        command.env("PATH", path);
    }
    command
}

/// Closes all descriptors but the standard streams. They have come with the process: nothing in here has opened one
/// that is still in use.
fn close_inherited_descriptors() -> io::Result<()> {
    // Numbers, not entries, which would keep the listing's own descriptor in use.
    let mut numbers: Vec<RawFd> = Vec::new();
    for entry in std::fs::read_dir(OWN_DESCRIPTORS)? {
        numbers.extend(entry?.file_name().to_str().and_then(|name| name.parse::<RawFd>().ok()));
    }
    let last_standard_stream = io::stderr().as_raw_fd();
    for descriptor in numbers.into_iter().filter(|number| *number > last_standard_stream) {
        // Whatever this says, the descriptor is closed then, close(2); that of the listing was before.
        let _ = nix::unistd::close(descriptor);
    }
    Ok(())
}

/// What a QEMU that stays root may still do: open the files that it was given, whoever owns them and whatever their mode.
/// It stays root for the sake of such a file.
const KEPT_BY_ROOT: Capabilities = Capabilities::DAC_OVERRIDE;

/// Whether anybody can read what is written to a pipe.
fn has_reader(pipe: &impl AsFd) -> Result<bool, TrampolineError> {
    let mut polled = [PollFd::new(pipe, PollFlags::empty())];
    poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))
        .map_err(|error| TrampolineError::DeathSignal(error.into()))?;
    Ok(!polled[0].revents().contains(PollFlags::ERR))
}

/// Takes all capabilities but `kept` out of the bounding set, and the credentials that are ordered.
fn take_credentials(order: &Order, kept: Capabilities) -> Result<(), TrampolineError> {
    privileges::limit(kept).map_err(TrampolineError::Capabilities)?;
    let Some((uid, gid, groups)) = &order.credentials else { return Ok(()) };
    change_user(*uid, *gid, groups).map_err(|source| TrampolineError::Credentials {
        uid: *uid,
        gid: *gid,
        source,
    })
}

/// The user id goes last, since it takes away the right to change the others.
fn change_user(uid: u32, gid: u32, groups: &[u32]) -> io::Result<()> {
    let groups: Vec<Gid> = groups.iter().copied().map(Gid::from_raw).collect();
    rustix::thread::set_thread_groups(&groups)?;
    rustix::thread::set_thread_gid(Gid::from_raw(gid))?;
    rustix::thread::set_thread_uid(Uid::from_raw(uid))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::ffi::OsStr;

    use super::*;

    fn read(line: &str) -> Result<Order, TrampolineError> {
        read_order(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn what_the_supervisor_writes_is_what_the_trampoline_reads() {
        let run_as = RunAs::User { uid: 107, gid: 108, groups: vec![104, 36] };
        let shown = [("/lib", ShownAs::ReadOnly), ("/dev/kvm", ShownAs::Device), ("/--", ShownAs::Writable)]
            .map(|(path, access)| Shown { path: path.into(), access });
        let trampoline = Trampoline::program("/bin/x");
        let role = Role { run_as: &run_as, shown: &shown, network: Network::Hosts };
        let command = trampoline.command(&role, Path::new("/bin/qemu"), &["-S".into(), "--".into()]);
        let mut written = command.get_args().map(OsStr::to_owned);
        assert_eq!(written.next().unwrap(), TRAMPOLINE_COMMAND);
        assert_eq!(
            read_order(written).unwrap(),
            Order {
                parent: std::process::id().try_into().unwrap(),
                credentials: Some((107, 108, vec![104, 36])),
                network: Network::Hosts,
                shown: shown.to_vec(),
                program: Some(("/bin/qemu".into(), vec!["-S".into(), "--".into()])),
            }
        );
        let role = Role { run_as: &RunAs::Caller, shown: &shown, network: Network::Own };
        let command = trampoline.trial(&role);
        let order = read_order(command.get_args().skip(1).map(OsStr::to_owned)).unwrap();
        assert_eq!((order.credentials, order.shown, order.program), (None, shown.to_vec(), None));
        assert_eq!(order.network, Network::Own);
        let command = trampoline.command(&Role::of(&RunAs::Caller), Path::new("/bin/qemu"), &[]);
        let order = read_order(command.get_args().skip(1).map(OsStr::to_owned)).unwrap();
        assert_eq!((order.credentials, order.shown), (None, Vec::new()));
        let alone = RunAs::User { uid: 1, gid: 2, groups: vec![] };
        let command = trampoline.command(&Role::of(&alone), Path::new("/bin/qemu"), &[]);
        let order = read_order(command.get_args().skip(1).map(OsStr::to_owned)).unwrap();
        assert_eq!(order.credentials, Some((1, 2, vec![])));
    }

    #[test]
    fn incomplete_orders_are_refused() {
        for (line, expected) in [
            ("", "no `--`"),
            ("--parent", "an option without value"),
            ("--parent x -- a", "a value that is no number"),
            ("--uid 1 --gid 2 --parent 3 -- a", "`--uid`, `--gid` and `--groups` come together"),
            ("--uid 1 --gid 2 --groups 3,x --parent 3 -- a", "a group that is no number"),
            ("--speed 3 -- a", "an unknown option"),
            ("--network own --parent 3 -- a", "an unknown option"),
            ("-- a", "no `--parent`"),
            ("--parent 3 --", "no program"),
        ] {
            let error = read(line).unwrap_err();
            assert!(error.to_string().ends_with(expected), "{line}: {error}");
        }
    }
}
