//! The process that runs the test guest: how it is started, and its own `main`.
//!
//! Its arguments are `__kvm-probe PARENT IDENTITY guest`, or `__kvm-probe PARENT IDENTITY exec PROGRAM ARGUMENT...`
//! for a program that is to be run under the same conditions: as the given user, and not longer than its parent.
//! The guest's memory is its stdin, its answer one line on stdout.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use rustix::process::{Gid, Signal, Uid, getppid, set_parent_process_death_signal};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};
use serde::{Deserialize, Serialize};

use super::{ProbeRequest, kvm_guest};
use crate::RunAs;

/// The first argument that makes the program call [`helper_main`] before anything else.
pub const HELPER_COMMAND: &str = "__kvm-probe";

/// What the answer's line starts with.
const ANSWER: &str = "kvm-probe: ";

/// In place of an identity: stay who we are.
const CALLER: &str = "-";

/// What the helper process does.
pub(super) enum Stage<'a> {
    /// Runs the test guest that stdin holds.
    Guest,
    /// Becomes this program.
    Exec(&'a Path),
}

/// What became of the test guest.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "kebab-case")]
pub(super) enum GuestOutcome {
    /// It reached its end.
    Ran { microseconds: u64 },
    /// `/dev/kvm` did not open.
    CannotOpen { errno: i32 },
    /// A call to KVM failed.
    Failed { doing: String, errno: i32 },
    /// The guest stopped before its end.
    Stopped { how: String },
}

/// The command that starts the helper; the caller adds arguments of the program for [`Stage::Exec`].
pub(super) fn command(request: &ProbeRequest, stage: Stage<'_>) -> Command {
    let mut command = Command::new(&request.helper.program);
    command
        .args(&request.helper.arguments)
        .arg(HELPER_COMMAND)
        .arg(std::process::id().to_string());
    command.arg(format_run_as(&request.run_as));
    match stage {
        Stage::Guest => command.arg("guest"),
        Stage::Exec(program) => command.arg("exec").arg(program),
    };
    command
}

/// The answer in what the helper wrote to stdout.
pub(super) fn read_outcome(stdout: &str) -> Option<GuestOutcome> {
    let line = stdout.lines().rev().find_map(|line| line.strip_prefix(ANSWER))?;
    serde_json::from_str(line).ok()
}

/// The helper process: does what its arguments (those after [`HELPER_COMMAND`]) say and returns the exit code.
///
/// Call it first thing in `main`, while the process has one thread: it changes who the thread is.
pub fn helper_main(arguments: impl IntoIterator<Item = OsString>) -> i32 {
    match serve(arguments.into_iter().collect()) {
        Ok(()) => 0,
        Err(error) => {
            let _ = writeln!(io::stderr(), "{HELPER_COMMAND}: {error}"); // there is nobody else to tell
            1
        }
    }
}

fn serve(arguments: Vec<OsString>) -> io::Result<()> {
    let text = |index: usize| arguments.get(index).and_then(|argument| argument.to_str());
    let usage = || io::Error::other(format!("arguments not understood: {arguments:?}"));
    let parent: u32 = text(0).and_then(|parent| parent.parse().ok()).ok_or_else(usage)?;
    match text(1).and_then(parse_run_as).ok_or_else(usage)? {
        RunAs::Caller => {}
        RunAs::User { uid, gid, groups } => assume(uid, gid, &groups)?,
    }
    // After the change of identity, which clears it; and the parent may have died before.
    set_parent_process_death_signal(Some(Signal::KILL))?;
    if getppid().map(|pid| pid.as_raw_pid().unsigned_abs()) != Some(parent) {
        return Err(io::Error::other("the parent process is gone"));
    }
    match text(2) {
        Some("guest") => {
            let memory = File::from(io::stdin().as_fd().try_clone_to_owned()?);
            let outcome = kvm_guest::run(&memory);
            let line = serde_json::to_string(&outcome).map_err(io::Error::other)?;
            writeln!(io::stdout(), "{ANSWER}{line}")
        }
        Some("exec") => {
            let program = arguments.get(3).ok_or_else(usage)?;
            let error = Command::new(program).args(&arguments[4..]).exec();
            Err(io::Error::new(
                error.kind(),
                format!("cannot run `{}`: {error}", program.display()),
            ))
        }
        _ => Err(usage()),
    }
}

/// Groups first, then the group, then the user, after which nothing more could be changed.
fn assume(uid: u32, gid: u32, groups: &[u32]) -> io::Result<()> {
    let groups: Vec<_> = groups.iter().copied().map(Gid::from_raw).collect();
    set_thread_groups(&groups)?;
    set_thread_res_gid(Gid::from_raw(gid), Gid::from_raw(gid), Gid::from_raw(gid))?;
    set_thread_res_uid(Uid::from_raw(uid), Uid::from_raw(uid), Uid::from_raw(uid))?;
    Ok(())
}

fn format_run_as(run_as: &RunAs) -> String {
    match run_as {
        RunAs::Caller => CALLER.to_owned(),
        RunAs::User { uid, gid, groups } => {
            let groups: Vec<String> = groups.iter().map(u32::to_string).collect();
            format!("{uid}:{gid}:{}", groups.join(","))
        }
    }
}

fn parse_run_as(text: &str) -> Option<RunAs> {
    if text == CALLER {
        return Some(RunAs::Caller);
    }
    let mut parts = text.split(':');
    let uid = parts.next()?.parse().ok()?;
    let gid = parts.next()?.parse().ok()?;
    let groups = parts.next()?;
    if parts.next().is_some() {
        return None;
    }
    let groups = match groups {
        "" => Vec::new(),
        groups => groups
            .split(',')
            .map(|group| group.parse().ok())
            .collect::<Option<_>>()?,
    };
    Some(RunAs::User { uid, gid, groups })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_identity_survives_the_command_line() {
        assert_eq!(parse_run_as(&format_run_as(&RunAs::Caller)), Some(RunAs::Caller));
        for groups in [vec![], vec![36], vec![36, 107]] {
            let run_as = RunAs::User {
                uid: 107,
                gid: 108,
                groups,
            };
            assert_eq!(parse_run_as(&format_run_as(&run_as)), Some(run_as));
        }
        for wrong in ["", "1", "1:2", "1:2:x", "1:2:3:4", "-1:2:"] {
            assert_eq!(parse_run_as(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn the_answer_is_found_among_other_lines() {
        let answer = serde_json::to_string(&GuestOutcome::CannotOpen { errno: 13 }).unwrap();
        let stdout = format!("running 1 test\n{ANSWER}{answer}\nmore\n");
        assert_eq!(
            read_outcome(&stdout),
            Some(GuestOutcome::CannotOpen { errno: 13 })
        );
        assert_eq!(read_outcome("no answer\n"), None);
    }

    #[test]
    fn a_helper_of_another_parent_refuses_to_work() {
        let arguments = ["1", CALLER, "guest"].map(OsString::from);
        assert_eq!(
            serve(arguments.into()).unwrap_err().to_string(),
            "the parent process is gone"
        );
        let arguments = ["1", CALLER].map(OsString::from);
        assert_eq!(helper_main(arguments), 1);
    }
}
