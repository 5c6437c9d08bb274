//! `ferrovirt ssh` and `scp`: this host's programs, over a connection that this binary makes.
//!
//! ```text
//! ssh -o 'ProxyCommand=ferrovirt port-forward --stdio=true vm/demo/default 22' -- root@vm.demo.default
//! ```
//!
//! The program takes the place of this process, so that terminal, signals and exit code are its own.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::Context as _;

use super::Context;
use super::api::Server;
use super::api::targets::Guest;
use crate::cli::{Login, Place, ScpFlags, SecureShellFlags, SshFlags};
use crate::report::{ExitCode, Failure};

/// Becomes `ssh`.
pub async fn ssh(context: &Context, flags: SshFlags) -> Result<ExitCode, Failure> {
    let Login { user, guest } = flags.login;
    let Prepared { mut command, host } = prepare("ssh", context, &flags.common, &guest).await?;
    command.arg("--").arg(at(user.or(flags.common.username), &host)).args(flags.command);
    Err(execute(command))
}

/// Becomes `scp`.
pub async fn scp(context: &Context, flags: ScpFlags) -> Result<ExitCode, Failure> {
    let guest = match (&flags.from, &flags.to) {
        (Place::There(login, _), Place::Here(_)) | (Place::Here(_), Place::There(login, _)) => &login.guest,
        (Place::Here(_), Place::Here(_)) => {
            return Err(Failure::usage("neither of both is in a guest; write one as vm/NAME:PATH"));
        }
        (Place::There(..), Place::There(..)) => {
            return Err(Failure::usage("both are in guests; copy to this host first, then from it"));
        }
    };
    let Prepared { mut command, host } = prepare("scp", context, &flags.common, guest).await?;
    command.args(flags.recursive.then_some("-r")).args(flags.preserve.then_some("-p")).arg("--");
    for place in [flags.from, flags.to] {
        command.arg(match place {
            // What comes before a colon would be a host.
            Place::Here(path) if path.contains(':') && !path.starts_with('/') && !path.starts_with("./") => {
                format!("./{path}")
            }
            Place::Here(path) => path,
            Place::There(Login { user, .. }, path) => {
                format!("{}:{path}", at(user.or_else(|| flags.common.username.clone()), &host))
            }
        });
    }
    Err(execute(command))
}

fn at(user: Option<String>, host: &str) -> String {
    user.map_or_else(|| host.to_owned(), |user| format!("{user}@{host}"))
}

/// A program with its options.
struct Prepared {
    command: Command,
    /// What the program calls the guest, and knows its key by.
    host: String,
}

async fn prepare(
    program: &str,
    context: &Context,
    flags: &SecureShellFlags,
    guest: &Guest,
) -> Result<Prepared, Failure> {
    let namespace = Server::find_for(context, guest.namespace.as_deref()).await?.namespace;
    let Guest { kind, name, .. } = guest;
    let own = std::env::current_exe().context("cannot tell where this program is")?;
    let mut words = vec![own.into_os_string()];
    let settings = &context.settings;
    let selected = [
        ("--kubeconfig", settings.kubeconfig.as_ref().map(|file| file.as_os_str())),
        ("--context", settings.kube_context.as_ref().map(OsStr::new)),
    ];
    for (flag, value) in selected {
        words.extend(value.into_iter().flat_map(|value| [OsString::from(flag), value.to_owned()]));
    }
    words.extend(["port-forward".into(), "--stdio=true".into()]);
    words.extend([format!("{}/{name}/{namespace}", kind.word()).into(), flags.port.to_string().into()]);
    let mut command = Command::new(program);
    command.arg("-o").arg(proxy_command(&words));
    if let Some(file) = &flags.known_hosts {
        command.arg("-o").arg(known_hosts(file.as_os_str())?);
    }
    command.args(&flags.local_options);
    if let Some(file) = &flags.identity_file {
        command.arg("-i").arg(file);
    }
    Ok(Prepared { command, host: format!("{}.{name}.{namespace}", kind.word()) })
}

/// Becomes the program; the failure to.
fn execute(mut command: Command) -> Failure {
    let error = command.exec();
    let program = command.get_program().to_string_lossy();
    let hint = match error.kind() {
        std::io::ErrorKind::NotFound => Some("install OpenSSH's client (Debian: openssh-client)".to_owned()),
        _ => None,
    };
    Failure::refused(anyhow::Error::new(error).context(format!("cannot run `{program}`")), hint)
}

/// The option by which `ssh` connects: words for a shell, in which `%` stands for something (ssh_config(5), TOKENS).
fn proxy_command(words: &[OsString]) -> OsString {
    let mut option = b"ProxyCommand=".to_vec();
    for (position, word) in words.iter().enumerate() {
        if position > 0 {
            option.push(b' ');
        }
        quote(word.as_bytes(), &mut option);
    }
    OsString::from_vec(option)
}

/// A word as shells read it, fish's among them, for which a backslash in quotes is no plain character.
fn quote(word: &[u8], option: &mut Vec<u8>) {
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_./=:,+@".contains(byte);
    if !word.is_empty() && word.iter().all(is_plain) {
        return option.extend_from_slice(word);
    }
    option.push(b'\'');
    for byte in word {
        match byte {
            b'\'' => option.extend_from_slice(b"'\\''"),
            b'\\' => option.extend_from_slice(b"'\\\\'"),
            b'%' => option.extend_from_slice(b"%%"),
            byte => option.push(*byte),
        }
    }
    option.push(b'\'');
}

/// The option that names a file of known hosts: one word in quotes, in which `%` and `${` stand for something.
///
/// # Errors
/// For a path with `${`, which cannot be written.
fn known_hosts(file: &OsStr) -> Result<OsString, Failure> {
    let bytes = file.as_bytes();
    if bytes.windows(2).any(|pair| pair == b"${") {
        let file = file.to_string_lossy();
        return Err(Failure::usage(format!(
            "`ssh` would replace the `${{` in `{file}`; choose another path"
        )));
    }
    let mut option = b"UserKnownHostsFile=\"".to_vec();
    for byte in bytes {
        match byte {
            b'"' | b'\\' => option.extend_from_slice(&[b'\\', *byte]),
            b'%' => option.extend_from_slice(b"%%"),
            byte => option.push(*byte),
        }
    }
    option.push(b'"');
    Ok(OsString::from_vec(option))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::process::Stdio;

    use super::*;

    #[test]
    fn a_shell_reads_the_words_that_were_meant() {
        let words: Vec<OsString> =
            ["/a/b", "it's", "a\\b\\\\", "$(x) `y` \"z\" *;|&<>", "", "%h", "line\nline", "é"]
                .map(OsString::from)
                .into();
        let option = proxy_command(&words).into_string().unwrap();
        let (_, line) = option.split_once('=').unwrap();
        // What `ssh` does before.
        let line = line.replace("%%", "%");
        let script = format!("printf '%s\\0' {line}");
        let mut shell = Command::new("sh");
        let said = shell.args(["-c", &script]).stderr(Stdio::inherit()).output().unwrap().stdout;
        let read: Vec<_> = said.split(|byte| *byte == 0).map(<[u8]>::to_vec).collect();
        let (end, read) = read.split_last().unwrap();
        assert!(end.is_empty());
        assert_eq!(read, words.iter().map(|word| word.as_bytes().to_vec()).collect::<Vec<_>>());
    }

    #[test]
    fn a_file_of_known_hosts_is_one_word() {
        let option = known_hosts(OsStr::new("/a b/%d\"c\\")).unwrap();
        assert_eq!(option, "UserKnownHostsFile=\"/a b/%%d\\\"c\\\\\"");
        assert_eq!(known_hosts(OsStr::new("${HOME}/x")).unwrap_err().code, ExitCode::Usage);
    }
}
