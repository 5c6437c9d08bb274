//! `run` on a terminal, which here is a pseudo-terminal.

use crate::harness::{Session, Terminal, World};

#[test]
fn keys_go_to_the_guest_and_the_escape_key_leaves() {
    let world = World::new();
    let mut terminal = Terminal::open();
    assert!(!terminal.is_raw(), "a new terminal edits lines");

    let mut command = world.command(world.boot_arguments("guest=echo", &[]));
    command.stdin(terminal.stdin());
    let session = Session::spawn(command);
    session.wait_for_stderr("Ctrl-]");
    session.wait_for_stdout("guest: echo is ready", 1);
    assert!(terminal.is_raw(), "the guest's console takes every key");

    // Ctrl-C is a key like another: it belongs to the guest, where the shell is not ended by it as PID 1.
    terminal.press(b"from the keyboard\r");
    session.wait_for_stdout("guest: heard from the keyboard", 1);
    terminal.press(b"\x03");
    terminal.press(b"still here\r");
    session.wait_for_stdout("still here", 1);

    terminal.press(b"\x1d");
    session.finish().expect_code(130);
    assert!(!terminal.is_raw(), "the terminal is as it was");
}

#[test]
fn the_terminal_is_restored_after_a_panic_and_after_a_timeout() {
    let world = World::new();
    for (append, extra, code) in [("guest=panic", "--timeout=110s", 3), ("guest=hang", "--timeout=8s", 124)] {
        let terminal = Terminal::open();
        let mut command = world.command(world.boot_arguments(append, &[extra]));
        command.stdin(terminal.stdin());
        Session::spawn(command).finish().expect_code(code);
        assert!(!terminal.is_raw(), "the terminal is as it was after {append}");
    }
}
