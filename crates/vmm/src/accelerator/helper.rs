//! The process that runs the test guest.
//!
//! The trampoline (see [`process`](crate::process)) starts it as QEMU's user and lets it not outlive its parent. The
//! guest's memory is its stdin, its answer one line on stdout, and it has no arguments.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;

use serde::{Deserialize, Serialize};

use super::kvm_guest;

/// The first argument that makes the program call [`helper_main`] before anything else.
pub const HELPER_COMMAND: &str = "__kvm-probe";

/// What the answer's line starts with.
const ANSWER: &str = "kvm-probe: ";

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

/// The answer in what the helper wrote to stdout.
pub(super) fn read_outcome(stdout: &str) -> Option<GuestOutcome> {
    let line = stdout.lines().rev().find_map(|line| line.strip_prefix(ANSWER))?;
    serde_json::from_str(line).ok()
}

/// The helper process: runs the guest whose memory is stdin, answers on stdout, and returns the exit code.
pub fn helper_main() -> i32 {
    match serve() {
        Ok(()) => 0,
        Err(error) => {
            let _ = writeln!(io::stderr(), "{HELPER_COMMAND}: {error}"); // there is nobody else to tell
            1
        }
    }
}

fn serve() -> io::Result<()> {
    let memory = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let outcome = kvm_guest::run(&memory);
    let line = serde_json::to_string(&outcome).map_err(io::Error::other)?;
    writeln!(io::stdout(), "{ANSWER}{line}")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_answer_is_found_among_other_lines() {
        let answer = serde_json::to_string(&GuestOutcome::CannotOpen { errno: 13 }).unwrap();
        let stdout = format!("running 1 test\n{ANSWER}{answer}\nmore\n");
        assert_eq!(read_outcome(&stdout), Some(GuestOutcome::CannotOpen { errno: 13 }));
        assert_eq!(read_outcome("no answer\n"), None);
    }
}
