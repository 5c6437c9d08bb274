//! `--dry-run`: what would be booted, and how, for a person or a shell.

use std::time::SystemTime;

use launcher::console::printable;
use vmm::{ClockStart, HostFacts, LaunchSpec, RunPaths, qemu_args};

use super::files::Boot;
use crate::report::{ExitCode, Failure, print};
use crate::settings::ensure_dir;

/// Prints what was found as comments, and the command line as a shell takes it, one argument a line.
///
/// # Errors
/// When standard output cannot be written, the directory of the monitor's socket cannot be made, or the machine's time
/// zone is not known.
pub fn print_plan(
    boot: &Boot,
    spec: &LaunchSpec,
    facts: &HostFacts,
    paths: &RunPaths,
) -> Result<ExitCode, Failure> {
    let mut text = String::new();
    // The output invites to be run: no path of an image may end a comment and begin a command.
    let mut comment = |line: String| text.push_str(&format!("# {}\n", printable(line.as_bytes())));
    if let Some(image) = &boot.image {
        comment(format!("image: {}", image.reference));
        comment(format!("digest: {}", image.digest));
    }
    for file in &boot.found {
        comment(file.clone());
    }
    // The socket's directory is made when a machine starts; by hand there is nobody else to make it.
    if let Some(directory) = paths.qmp_socket.parent() {
        ensure_dir(directory, 0o700)?;
    }
    text.push_str(&shell_word(&facts.qemu.binary.display().to_string()));
    let clock = ClockStart::of(&spec.clock, SystemTime::now())?;
    for argument in qemu_args(spec, facts, paths, &clock) {
        text.push_str(" \\\n");
        text.push_str(&shell_word(&argument));
    }
    text.push('\n');
    print(&text)?;
    Ok(ExitCode::Done)
}

/// `text` as one word of a POSIX shell.
fn shell_word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=./:,@%+".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_survive_a_shell() {
        assert_eq!(shell_word("console=ttyS0"), "console=ttyS0");
        assert_eq!(shell_word("console=ttyS0 quiet"), "'console=ttyS0 quiet'");
        assert_eq!(shell_word("it's"), r"'it'\''s'");
        assert_eq!(shell_word(""), "''");
        assert_eq!(shell_word("$(x)"), "'$(x)'");
    }
}
