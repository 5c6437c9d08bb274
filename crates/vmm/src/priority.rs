//! Shares of the processors: what starts a machine goes ahead, and what the guest does then stands behind others.
//!
//! A nice level, setpriority(2), is a process's alone, or a thread's. Where the kernel shares processors out by session
//! (sched(7), "The autogroup feature"), levels of threads count inside a session only, and the sessions have levels of
//! their own. So both are set, for the leader of a session and all that is in its process group.

use std::io;

use nix::unistd::{getpid, getsid};
use rustix::process::{Pid, getpriority_process, setpriority_pgrp};

/// The level at which a machine is started: some tens of milliseconds, which would be seconds among a dozen guests that
/// boot at the same time. Each level is a factor of 1.25 (`sched_prio_to_weight` of the kernel), so nine times the share of
/// a process at level 0.
const START_LEVEL: i32 = -10;

/// Goes ahead of others, where that is allowed: levels below 0 are root's. Call it as the leader of a session.
///
/// # Errors
/// When the kernel does not do it for any other reason.
pub fn step_ahead() -> io::Result<()> {
    match set(None, START_LEVEL) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        result => result,
    }
}

/// The same for a server that starts machines and says when they run: behind a dozen guests nobody would hear of the next
/// one's start. Only as the leader of a session, as a service is: another session's level is not this process's to change.
/// Who gave this process a level of its own meant it.
///
/// # Errors
/// When the kernel does not do it, other than for want of privilege.
pub fn lead() -> io::Result<()> {
    let leads = getsid(None)? == getpid();
    if leads && level()? == 0 { step_ahead() } else { Ok(()) }
}

/// Undoes [`step_ahead`].
///
/// # Errors
/// When the kernel does not do it.
pub fn step_back() -> io::Result<()> {
    if level()? < 0 { set(None, 0) } else { Ok(()) }
}

/// Gives a new session the level of the process that leads it, the calling one.
pub(crate) fn take_along() -> io::Result<()> {
    match level()? {
        0 => Ok(()),
        level => set(None, level),
    }
}

/// The level of the calling thread.
fn level() -> io::Result<i32> {
    Ok(getpriority_process(None)?)
}

/// Lets the session that `leader` leads stand behind others, as far as `niceness` says and at least as far as the calling
/// thread does: whoever started this program with a level of its own meant the guest too.
pub(crate) fn step_behind(leader: u32, niceness: u8) -> io::Result<()> {
    set(Some(leader), i32::from(niceness).max(level()?))
}

/// Sets the level of the session and the process group that `leader` leads, or the calling process, whose number may be
/// another in `/proc`.
fn set(leader: Option<u32>, level: i32) -> io::Result<()> {
    let group = leader.and_then(|leader| i32::try_from(leader).ok()).and_then(Pid::from_raw);
    setpriority_pgrp(group, level)?;
    let process = leader.map_or_else(|| "self".to_owned(), |leader| leader.to_string());
    match std::fs::write(format!("/proc/{process}/autogroup"), level.to_string()) {
        // The kernel does not group; or takes no more of these from a user at this moment (one in 100 ms).
        Err(error) if !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::WouldBlock) => {
            Err(error)
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::disallowed_methods)]
    use std::process::Command;

    use super::*;

    /// Set for the process that is in a namespace of its own.
    const INSIDE: &str = "FERROVIRT_TEST_IN_PROCESS_NAMESPACE";

    #[test]
    fn who_has_the_leader_of_its_session_outside_of_its_namespace_does_not_lead() {
        if std::env::var_os(INSIDE).is_some() {
            assert_eq!(getsid(None).unwrap().as_raw(), 0);
            let before = level().unwrap();
            lead().unwrap();
            assert_eq!(level().unwrap(), before);
            return;
        }
        let user: &[&str] = if rustix::process::geteuid().is_root() { &[] } else { &["--map-root-user"] };
        let name =
            "priority::tests::who_has_the_leader_of_its_session_outside_of_its_namespace_does_not_lead";
        let output = Command::new("unshare")
            .args(user)
            .args(["--pid", "--fork", "--kill-child"])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "--nocapture", name])
            .env(INSIDE, "1")
            .output()
            .unwrap();
        assert!(
            output.status.success() && String::from_utf8_lossy(&output.stdout).contains("1 passed"),
            "{}\n{}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
}
