//! `run` on a terminal, which here is a pseudo-terminal.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::process::Stdio;

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Termios, tcgetattr};

use crate::harness::{Session, World};

/// Both ends of a pseudo-terminal.
struct Terminal {
    /// Where the test types.
    keyboard: File,
    /// What the program under test has as its terminal.
    device: File,
}

impl Terminal {
    fn open() -> Self {
        let keyboard = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&keyboard).unwrap();
        unlockpt(&keyboard).unwrap();
        let name = ptsname(&keyboard, Vec::new()).unwrap();
        let device = OpenOptions::new().read(true).write(true).open(name.to_str().unwrap()).unwrap();
        Self { keyboard: File::from(keyboard), device }
    }

    fn stdin(&self) -> Stdio {
        self.device.try_clone().unwrap().into()
    }

    fn settings(&self) -> Termios {
        tcgetattr(&self.device).unwrap()
    }

    fn press(&mut self, keys: &[u8]) {
        self.keyboard.write_all(keys).unwrap();
    }
}

fn is_raw(settings: &Termios) -> bool {
    !settings.local_modes.intersects(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG)
}

#[test]
fn keys_go_to_the_guest_and_the_escape_key_leaves() {
    let world = World::new();
    let mut terminal = Terminal::open();
    assert!(!is_raw(&terminal.settings()), "a new terminal edits lines");

    let mut command = world.command(world.boot_arguments("guest=echo", &[]));
    command.stdin(terminal.stdin());
    let session = Session::spawn(command);
    session.wait_for_stderr("Ctrl-]");
    session.wait_for_stdout("guest: echo is ready", 1);
    assert!(is_raw(&terminal.settings()), "the guest's console takes every key");

    // Ctrl-C is a key like another: it belongs to the guest, where the shell is not ended by it as PID 1.
    terminal.press(b"from the keyboard\r");
    session.wait_for_stdout("guest: heard from the keyboard", 1);
    terminal.press(b"\x03");
    terminal.press(b"still here\r");
    session.wait_for_stdout("still here", 1);

    terminal.press(b"\x1d");
    session.finish().expect_code(130);
    assert!(!is_raw(&terminal.settings()), "the terminal is as it was");
}

#[test]
fn the_terminal_is_restored_after_a_panic_and_after_a_timeout() {
    let world = World::new();
    for (append, extra, code) in [("guest=panic", "--timeout=110s", 3), ("guest=hang", "--timeout=8s", 124)] {
        let terminal = Terminal::open();
        let mut command = world.command(world.boot_arguments(append, &[extra]));
        command.stdin(terminal.stdin());
        Session::spawn(command).finish().expect_code(code);
        assert!(!is_raw(&terminal.settings()), "the terminal is as it was after {append}");
    }
}
