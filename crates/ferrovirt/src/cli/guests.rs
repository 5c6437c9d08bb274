//! The commands that connect to guests: virtctl's words.

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use launcher::network::Protocol;

use crate::commands::api::targets::{self, Guest};

/// `ferrovirt port-forward`
#[derive(Debug, Args)]
pub struct PortForwardFlags {
    /// Machine: NAME, vm/NAME[/NAMESPACE] or vmi/NAME[/NAMESPACE]
    #[arg(value_name = "NAME", value_parser = targets::guest)]
    pub guest: Guest,
    /// Ports: LOCAL, LOCAL:GUEST or :GUEST, with `tcp/` or `udp/` before them or not; 0 takes any that is free here
    #[arg(value_name = "PORT", required = true, value_parser = forwarding)]
    pub ports: Vec<Forwarding>,
    /// Addresses of this host to listen on
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',', default_value = "127.0.0.1", value_parser = address)]
    pub address: Vec<IpAddr>,
    /// Connect standard input and output with one port of the guest
    #[arg(long, value_name = "BOOL", default_value_t = false, default_missing_value = "true", num_args = 0..=1,
          require_equals = true, action = clap::ArgAction::Set)]
    pub stdio: bool,
}

/// A port of this host that leads to one of the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forwarding {
    /// What comes to them.
    pub protocol: Protocol,
    /// Here; 0 is any that is free.
    pub local: u16,
    /// The guest's, 1 to 65535.
    pub guest: u16,
}

/// Reads a port as virtctl does, `[tcp/|udp/]LOCAL[:GUEST]`, and kubectl's `:GUEST`.
fn forwarding(word: &str) -> Result<Forwarding, String> {
    let (protocol, ports) = match word.split_once('/') {
        None => (Protocol::Tcp, word),
        Some((protocol, ports)) if protocol.eq_ignore_ascii_case("tcp") => (Protocol::Tcp, ports),
        Some((protocol, ports)) if protocol.eq_ignore_ascii_case("udp") => (Protocol::Udp, ports),
        Some((protocol, _)) => {
            return Err(format!("`{protocol}` is not forwarded, only `tcp` and `udp` are"));
        }
    };
    let port = |text: &str| {
        let number = text.parse::<u16>().ok().filter(|_| !text.starts_with('+'));
        number.ok_or_else(|| format!("`{text}` is not a port, 1 to 65535"))
    };
    let (local, guest) = match ports.split_once(':') {
        None => (port(ports)?, port(ports)?),
        Some(("", guest)) => (0, port(guest)?),
        Some((local, guest)) => (port(local)?, port(guest)?),
    };
    match guest {
        0 => Err("a guest has no port 0; name it behind a colon, as in 0:22".to_owned()),
        guest => Ok(Forwarding { protocol, local, guest }),
    }
}

/// Reads an address to listen on.
fn address(word: &str) -> Result<IpAddr, String> {
    match word {
        "localhost" => Ok(Ipv4Addr::LOCALHOST.into()),
        word => word.parse().map_err(|_| "it is neither an IP address nor `localhost`".to_owned()),
    }
}

/// What `ssh` and `scp` have in common.
#[derive(Debug, Args)]
pub struct SecureShellFlags {
    /// User in the guest [default: as `ssh` chooses]
    #[arg(short = 'l', long, value_name = "USER", value_parser = user)]
    pub username: Option<String>,
    /// Private key to log in with
    #[arg(short, long, value_name = "FILE")]
    pub identity_file: Option<PathBuf>,
    /// Port of the guest's server
    #[arg(short, long, value_name = "PORT", default_value_t = 22, value_parser = clap::value_parser!(u16).range(1..))]
    pub port: u16,
    /// File of known host keys [default: those of `ssh`]
    #[arg(long, value_name = "FILE")]
    pub known_hosts: Option<PathBuf>,
    /// An option handed to the program, e.g. `-t \"-o StrictHostKeyChecking=no\"`
    #[arg(short = 't', long = "local-ssh-opts", value_name = "OPTION", allow_hyphen_values = true)]
    pub local_options: Vec<OsString>,
}

/// `ferrovirt ssh`
#[derive(Debug, Args)]
pub struct SshFlags {
    /// Machine: `[USER@]NAME`, `[USER@]vm/NAME[/NAMESPACE]` or `[USER@]vmi/NAME[/NAMESPACE]`
    #[arg(value_name = "NAME", value_parser = login)]
    pub login: Login,
    #[command(flatten)]
    pub common: SecureShellFlags,
    /// What the guest executes, in place of a shell
    #[arg(short, long, value_name = "COMMAND", allow_hyphen_values = true)]
    pub command: Option<OsString>,
}

/// `ferrovirt scp`
#[derive(Debug, Args)]
pub struct ScpFlags {
    /// What is copied: a file here, or `[USER@]vm/NAME[/NAMESPACE]:PATH`
    #[arg(value_name = "FROM", value_parser = place)]
    pub from: Place,
    /// Where to: as above; one of both is in a guest
    #[arg(value_name = "TO", value_parser = place)]
    pub to: Place,
    #[command(flatten)]
    pub common: SecureShellFlags,
    /// Copy whole directories
    #[arg(short, long)]
    pub recursive: bool,
    /// Keep times and modes of files
    #[arg(long)]
    pub preserve: bool,
}

/// A guest, and who somebody is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    /// The user, where one is named.
    pub user: Option<String>,
    /// The guest.
    pub guest: Guest,
}

/// One end of a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A path of this host.
    Here(String),
    /// A path in a guest.
    There(Login, String),
}

fn login(word: &str) -> Result<Login, String> {
    match word.rsplit_once('@') {
        None => Ok(Login { user: None, guest: targets::guest(word)? }),
        Some((name, guest)) => Ok(Login { user: Some(user(name)?), guest: targets::guest(guest)? }),
    }
}

/// Refuses what OpenSSH does not take for a user either (`valid_ruser` of its ssh.c, since 9.6).
fn user(name: &str) -> Result<String, String> {
    let is_wrong = |character: char| {
        character.is_whitespace() || character.is_control() || "'`\";&<>|(){}$\\".contains(character)
    };
    match name.is_empty() || name.starts_with('-') || name.contains(is_wrong) {
        true => Err(format!("`{name}` is no name of a user")),
        false => Ok(name.to_owned()),
    }
}

/// Reads an end of a copy as `scp` does: what comes before a colon is a machine, unless a slash says that it is a path.
fn place(word: &str) -> Result<Place, String> {
    let Some((machine, path)) = word.split_once(':') else { return Ok(Place::Here(word.to_owned())) };
    match login(machine) {
        Ok(login) => Ok(Place::There(login, path.to_owned())),
        Err(_) if machine.starts_with(['/', '.']) => Ok(Place::Here(word.to_owned())),
        Err(error) => Err(format!("{error}; a file of such a name is `./{word}`")),
    }
}

/// `ferrovirt vnc`
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct VncFlags {
    #[command(subcommand)]
    pub command: Option<VncCommand>,
    /// Machine: NAME, vm/NAME[/NAMESPACE] or vmi/NAME[/NAMESPACE]
    #[arg(value_name = "NAME", required = true, value_parser = targets::guest)]
    pub guest: Option<Guest>,
    /// Start no viewer: print the port where one can connect, as JSON
    #[arg(long)]
    pub proxy_only: bool,
    /// Port of this host; 0 is any that is free
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    pub port: u16,
    /// Address of this host to listen on
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1", value_parser = address)]
    pub address: IpAddr,
    /// The viewer's program [default: remote-viewer, else vncviewer]
    #[arg(long, value_name = "FILE", conflicts_with = "proxy_only")]
    pub vnc_path: Option<PathBuf>,
    /// How that program is called
    #[arg(long, value_enum, requires = "vnc_path")]
    pub vnc_type: Option<ViewerKind>,
    /// Leave whoever sees it now
    #[arg(long)]
    pub preserve_session: bool,
}

/// A kind of viewer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ViewerKind {
    /// virt-viewer's
    RemoteViewer,
    /// TigerVNC
    Tiger,
    /// RealVNC
    Real,
}

#[derive(Debug, Subcommand)]
pub enum VncCommand {
    /// Take a picture of a display, as a PNG
    Screenshot(ScreenshotFlags),
}

/// `ferrovirt vnc screenshot`
#[derive(Debug, Args)]
pub struct ScreenshotFlags {
    /// Machine: NAME, vm/NAME[/NAMESPACE] or vmi/NAME[/NAMESPACE]
    #[arg(value_name = "NAME", value_parser = targets::guest)]
    pub guest: Guest,
    /// File to write, `-` for standard output
    #[arg(short, long, value_name = "FILE")]
    pub file: PathBuf,
    /// Move the mouse before, for a screen that has gone dark
    #[arg(short, long)]
    pub move_cursor: bool,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn ports_are_virtctls_and_kubectls() {
        for (word, local, guest) in [
            ("80", 80, 80),
            ("8080:80", 8080, 80),
            ("0:80", 0, 80),
            (":80", 0, 80),
            ("tcp/22", 22, 22),
            ("TCP/2222:22", 2222, 22),
        ] {
            let protocol = Protocol::Tcp;
            assert_eq!(forwarding(word).unwrap(), Forwarding { protocol, local, guest }, "{word}");
        }
        let dns = Forwarding { protocol: Protocol::Udp, local: 5353, guest: 53 };
        assert_eq!(forwarding("UDP/5353:53").unwrap(), dns);
        for (word, why) in [
            ("sctp/53:53", "`sctp` is not forwarded, only `tcp` and `udp` are"),
            ("0", "a guest has no port 0; name it behind a colon, as in 0:22"),
            ("80:", "`` is not a port, 1 to 65535"),
            ("65536", "`65536` is not a port, 1 to 65535"),
            ("+80", "`+80` is not a port, 1 to 65535"),
            ("1:2:3", "`2:3` is not a port, 1 to 65535"),
        ] {
            assert_eq!(forwarding(word).unwrap_err(), why, "{word}");
        }
    }

    #[test]
    fn a_colon_divides_machine_and_path() {
        let there = |user: Option<&str>, machine: &str, path: &str| {
            let login = Login { user: user.map(str::to_owned), guest: targets::guest(machine).unwrap() };
            Place::There(login, path.to_owned())
        };
        assert_eq!(place("root@vm/a/n:/tmp/x:y@z").unwrap(), there(Some("root"), "vm/a/n", "/tmp/x:y@z"));
        assert_eq!(place("a:").unwrap(), there(None, "a", ""));
        for here in ["a", "./a:b", "/a:b", "vm/a"] {
            assert_eq!(place(here).unwrap(), Place::Here(here.to_owned()));
        }
        assert!(place("pod/a:b").unwrap_err().ends_with("a file of such a name is `./pod/a:b`"));
    }

    #[test]
    fn a_user_is_one() {
        assert_eq!(login("a.b-c@vm/x").unwrap().user.unwrap(), "a.b-c");
        for word in ["@vm/x", "-oProxyCommand=x@vm/x", "a b@vm/x", "$(x)@vm/x", "a;b@vm/x"] {
            assert!(login(word).unwrap_err().ends_with("is no name of a user"), "{word}");
        }
    }
}
