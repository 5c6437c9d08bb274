//! The user's terminal as the guest's console: raw mode while it lasts, and the key that leaves.

use std::io::{IsTerminal, Read as _};
use std::os::fd::{AsFd, OwnedFd};

use rustix::termios::{self, OptionalActions, Termios};
use tokio::sync::mpsc;

/// Ctrl-], which virtctl, virsh and telnet leave with.
pub const LEAVE_KEY: u8 = 0x1d;

/// Standard input in raw mode until dropped.
#[derive(Debug)]
pub struct RawMode {
    before: Termios,
    terminal: OwnedFd,
}

impl RawMode {
    /// Puts the terminal on standard input into raw mode.
    ///
    /// Output processing stays on, so that our own lines (warnings, the summary) still start at the left; the guest
    /// ends its lines with CR LF and is not hurt by it.
    ///
    /// # Errors
    /// When standard input is no terminal or refuses the settings.
    pub fn enter() -> std::io::Result<RawMode> {
        let terminal = std::io::stdin().as_fd().try_clone_to_owned()?;
        let before = termios::tcgetattr(&terminal)?;
        let mut raw = before.clone();
        raw.make_raw();
        raw.output_modes |= termios::OutputModes::OPOST;
        termios::tcsetattr(&terminal, OptionalActions::Now, &raw)?;
        Ok(RawMode { before, terminal })
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // The terminal may be gone (hang-up); there is nobody left to tell.
        let _ = termios::tcsetattr(&self.terminal, OptionalActions::Flush, &self.before);
    }
}

/// What standard input is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StandardInput {
    /// A terminal that this process may use.
    Terminal,
    /// A terminal that belongs to another job: using it would stop this one (`SIGTTIN`, `SIGTTOU`).
    BackgroundTerminal,
    /// A pipe, a file, or nothing.
    Other,
}

/// Looks at standard input.
pub fn standard_input() -> StandardInput {
    let input = std::io::stdin();
    if !input.is_terminal() {
        return StandardInput::Other;
    }
    match termios::tcgetpgrp(input.as_fd()) {
        Ok(foreground) if foreground.as_raw_pid() != nix::unistd::getpgrp().as_raw() => {
            StandardInput::BackgroundTerminal
        }
        // Where it is not this session's controlling terminal, there is no job control to stop us.
        _ => StandardInput::Terminal,
    }
}

/// Starts reading standard input into a channel, until it ends or nobody takes it; the key that leaves, on a terminal,
/// calls `leave` and ends it.
pub fn read_standard_input(
    is_terminal: bool,
    sender: mpsc::Sender<Vec<u8>>,
    leave: impl FnOnce() + Send + 'static,
) {
    // A plain thread: a blocked read of a terminal cannot be cancelled, and must not keep the runtime from ending.
    std::thread::spawn(move || {
        let mut input = std::io::stdin().lock();
        let mut buffer = [0u8; 4096];
        loop {
            let count = match input.read(&mut buffer) {
                Ok(0) | Err(_) => return,
                Ok(count) => count,
            };
            let (bytes, leaves) = match typed(&buffer[..count]) {
                Typed::Leave(before) if is_terminal => (before, true),
                _ => (&buffer[..count], false),
            };
            if !bytes.is_empty() && sender.blocking_send(bytes.to_vec()).is_err() {
                return;
            }
            if leaves {
                return leave();
            }
        }
    });
}

/// What the user typed, split at the key that leaves.
#[derive(Debug, PartialEq, Eq)]
pub enum Typed<'a> {
    /// All of it is for the guest.
    Guest(&'a [u8]),
    /// The user leaves; what came before the key is for the guest.
    Leave(&'a [u8]),
}

/// Looks for [`LEAVE_KEY`].
pub fn typed(bytes: &[u8]) -> Typed<'_> {
    match bytes.iter().position(|&byte| byte == LEAVE_KEY) {
        Some(position) => Typed::Leave(&bytes[..position]),
        None => Typed::Guest(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_leave_key_ends_what_the_guest_gets() {
        assert_eq!(typed(b"ls\r"), Typed::Guest(b"ls\r"));
        assert_eq!(typed(b"ls\x1drest"), Typed::Leave(b"ls"));
        assert_eq!(typed(b"\x1d"), Typed::Leave(b""));
        assert_eq!(typed(b"\x03"), Typed::Guest(b"\x03"), "Ctrl-C belongs to the guest");
    }
}
