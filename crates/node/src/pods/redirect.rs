//! Every port of every guest, at the Pods' addresses: two rules of nftables, the same for all Pods, by which what is for
//! any port of such an address comes to one that its launcher listens on.
//!
//! ```text
//!  table ip ferrovirt:  127.88.1.2:5432 ──► 127.88.1.2:15001 ──► the launcher asks the kernel for the 5432 ──► guest
//! ```
//!
//! A connection's destination is translated (`dnat`), a datagram is handed to the launcher's socket as it is (`tproxy`),
//! which must be a transparent one: without a connection the kernel has no place to keep what a datagram was for.
//!
//! The rules are this host's, not this daemon's: they stay when the daemon ends, since launchers go on, and serve those of
//! other users as well. Which ports there are is each launcher's to say.
//!
//! # Guarantees
//! - The table is replaced in one transaction. Connections go on: what they were translated to is the kernel's to keep.
//! - Only the first packet of a connection is matched, so that none is led astray that was there before the rule.
//! - Launchers that do not listen on that port, which are those of earlier versions, are left out; what they listen on is
//!   reached as it was. One that gets such an address later is redirected to from the next start of a daemon on. Where
//!   there is no transparent socket, datagrams go where they would without the rule.

use std::collections::BTreeSet;
use std::io;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use launcher::network::is_redirected;
use launcher::pod_dir::{CONTROL_PORT, REDIRECT_PORT};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::time::timeout;

use super::address::NETWORK;

/// The program, nft(8).
const PROGRAM: &str = "nft";

/// It takes some milliseconds; a kernel that does not answer is not waited for.
const LIMIT: Duration = Duration::from_secs(5);

/// How much is kept of what it says, in bytes.
const MOST_SAID_BYTES: u64 = 4096;

/// Sockets of this network, proc(5).
const SOCKETS: &str = "/proc/net/tcp";

/// TCP_LISTEN in [`SOCKETS`], include/net/tcp_states.h.
const LISTEN: &str = "0A";

/// What is redirected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Redirected {
    /// Connections and datagrams.
    All,
    /// Connections alone: the kernel has no `tproxy`.
    TcpAlone {
        /// What it says to that.
        said: String,
    },
}

/// Why nothing is redirected.
#[derive(Debug, thiserror::Error)]
pub enum RedirectError {
    /// For an ordinary user.
    #[error("only root can set rules of nftables")]
    NotRoot,
    /// There is no nft.
    #[error("there is no `{PROGRAM}` in the search path")]
    Missing,
    /// Somebody has the port at every address, so that no launcher could have it.
    #[error("cannot listen on port {REDIRECT_PORT} of Pods' addresses")]
    Port {
        /// Why.
        source: io::Error,
    },
    /// The sockets that there are.
    #[error("cannot read `{SOCKETS}`")]
    Sockets {
        /// Why.
        source: io::Error,
    },
    /// It does not run.
    #[error("cannot run `{PROGRAM}`")]
    Run {
        /// Why.
        source: io::Error,
    },
    /// It does not end.
    #[error("`{PROGRAM}` has not ended within {} seconds", LIMIT.as_secs())]
    Late,
    /// It refuses.
    #[error("`{PROGRAM}` has failed ({status}): {said}")]
    Failed {
        /// How.
        status: ExitStatus,
        /// What it says to that.
        said: String,
    },
}

impl RedirectError {
    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::NotRoot => "list the ports in `ports` of the interface, or run `ferrovirt serve` as root",
            Self::Missing => {
                "install nftables (Debian, Ubuntu: `apt-get install nftables`), or list the ports in `ports` of the interface"
            }
            Self::Port { .. } => {
                "end the program that listens there, or list the ports in `ports` of the interface"
            }
            _ => "list the ports in `ports` of the interface",
        }
    }
}

/// What is done with the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    /// They are set.
    Install,
    /// The kernel only says whether it would take them.
    Check,
}

/// Sets the rules.
///
/// # Errors
/// [`RedirectError`]; rules that were there before are then as they were.
pub async fn install() -> Result<Redirected, RedirectError> {
    run(Purpose::Install).await
}

/// What [`install`] would do. Nothing is changed.
///
/// # Errors
/// What [`install`] would say.
pub async fn check() -> Result<Redirected, RedirectError> {
    run(Purpose::Check).await
}

/// Whether connections are redirected now, whoever has seen to that. It is tried out.
pub async fn is_in_force() -> bool {
    match trial_listener().await {
        Ok(listener) => is_redirected(&listener).await.unwrap_or(false),
        Err(_) => false,
    }
}

/// Listens as a launcher does, at an address that no Pod has, nor soon another process that does the same.
async fn trial_listener() -> io::Result<TcpListener> {
    let [.., low] = std::process::id().to_be_bytes();
    TcpListener::bind((Ipv4Addr::new(NETWORK[0], NETWORK[1], low, 0), REDIRECT_PORT)).await
}

async fn run(purpose: Purpose) -> Result<Redirected, RedirectError> {
    if !rustix::process::geteuid().is_root() {
        return Err(RedirectError::NotRoot);
    }
    trial_listener().await.map_err(|source| RedirectError::Port { source })?;
    let sockets =
        tokio::fs::read_to_string(SOCKETS).await.map_err(|source| RedirectError::Sockets { source })?;
    tell(PROGRAM.as_ref(), purpose, &without_redirect(&sockets)).await
}

/// Tells nft as much as it takes.
async fn tell(
    program: &Path,
    purpose: Purpose,
    except: &BTreeSet<Ipv4Addr>,
) -> Result<Redirected, RedirectError> {
    let feed = async |rules: String| {
        timeout(LIMIT, feed(program, purpose, &rules)).await.map_err(|_| RedirectError::Late)?
    };
    match feed(rules(except) + &rules_of_datagrams()).await {
        Ok(()) => Ok(Redirected::All),
        Err(RedirectError::Failed { said, .. }) => {
            feed(rules(except)).await.map(|()| Redirected::TcpAlone { said })
        }
        Err(error) => Err(error),
    }
}

/// Launchers that nothing is to be redirected to, among those who listen by what [`SOCKETS`] says: they have their control
/// port alone.
fn without_redirect(sockets: &str) -> BTreeSet<Ipv4Addr> {
    let listening: BTreeSet<(Ipv4Addr, u16)> = sockets.lines().filter_map(listener).collect();
    let controls =
        listening.iter().filter(|(address, port)| *port == CONTROL_PORT && address.octets()[..2] == NETWORK);
    let old = controls.filter(|(address, _)| !listening.contains(&(*address, REDIRECT_PORT)));
    old.map(|(address, _)| *address).collect()
}

/// `0: 0201587F:20FB 00000000:0000 0A …`: the address is written as a number in this machine's order of bytes. A
/// line that reads otherwise is no socket's, as the first is none.
fn listener(line: &str) -> Option<(Ipv4Addr, u16)> {
    let mut words = line.split_whitespace().skip(1);
    let (local, _remote, state) = (words.next()?, words.next()?, words.next()?);
    let (address, port) = local.split_once(':')?;
    let address = u32::from_str_radix(address, 16).ok()?.to_ne_bytes();
    (state == LISTEN).then_some((address.into(), u16::from_str_radix(port, 16).ok()?))
}

/// What nft(8) is told: the table as it is to be, but for launchers at `except`.
fn rules(except: &BTreeSet<Ipv4Addr>) -> String {
    let [first, second] = NETWORK;
    let except: Vec<_> = except.iter().map(ToString::to_string).collect();
    // A set may not be empty.
    let except =
        if except.is_empty() { String::new() } else { format!("ip daddr != {{ {} }} ", except.join(", ")) };
    format!(
        "add table ip ferrovirt\n\
         delete table ip ferrovirt\n\
         table ip ferrovirt {{\n\
         \tchain output {{\n\
         \t\ttype nat hook output priority -100; policy accept;\n\
         \t\tip daddr {first}.{second}.0.0/16 {except}tcp dport != {CONTROL_PORT} \
         tcp flags & (fin | syn | rst | ack) == syn dnat to :{REDIRECT_PORT}\n\
         \t}}\n\
         }}\n"
    )
}

/// What it is told of datagrams, after [`rules`]. Those of this host come in by its loopback interface.
fn rules_of_datagrams() -> String {
    let [first, second] = NETWORK;
    format!(
        "table ip ferrovirt {{\n\
         \tchain datagrams {{\n\
         \t\ttype filter hook prerouting priority -150; policy accept;\n\
         \t\tiif lo ip daddr {first}.{second}.0.0/16 meta l4proto udp tproxy to ip daddr:{REDIRECT_PORT}\n\
         \t}}\n\
         }}\n"
    )
}

async fn feed(program: &Path, purpose: Purpose, rules: &str) -> Result<(), RedirectError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => RedirectError::Missing,
        _ => RedirectError::Run { source },
    };
    let check = match purpose {
        Purpose::Install => None,
        Purpose::Check => Some("--check"),
    };
    let mut command = Command::new(program);
    command.args(check).args(["--file", "-"]).kill_on_drop(true);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(failed)?;
    let (stdin, stderr) = (child.stdin.take(), child.stderr.take());
    let write = async {
        if let Some(mut stdin) = stdin {
            // One that ends without reading breaks the pipe; its status says the rest.
            let _ = stdin.write_all(rules.as_bytes()).await;
        }
    };
    let read = async {
        let mut said = Vec::new();
        if let Some(stderr) = stderr {
            stderr.take(MOST_SAID_BYTES).read_to_end(&mut said).await?;
        }
        io::Result::Ok(String::from_utf8_lossy(&said).into_owned())
    };
    let ((), said, status) = tokio::join!(write, read, child.wait());
    let (said, status) = (said.map_err(failed)?, status.map_err(failed)?);
    // What follows its first line is the rule.
    let said = said.lines().find(|line| !line.trim().is_empty()).unwrap_or("it says nothing").to_owned();
    if status.success() { Ok(()) } else { Err(RedirectError::Failed { status, said }) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// From a host, with a launcher of each kind and others who listen.
    const OF_A_HOST: &str = "\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0201587F:20FB 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 5251829 1 0000000000000000 100 0 0 10 0
   1: 0201587F:3A99 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 5251828 1 0000000000000000 100 0 0 10 0
   2: 0301587F:20FB 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 5251830 1 0000000000000000 100 0 0 10 0
   3: 0401587F:20FB 0100007F:9C40 01 00000000:00000000 00:00000000 00000000     0        0 5251831 1 0000000000000000 20 4 30 10 -1
   4: 0100007F:20FB 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 5251832 1 0000000000000000 100 0 0 10 0
   5: 0501587F:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 5251833 1 0000000000000000 100 0 0 10 0
";

    #[test]
    fn launchers_without_the_port_are_left_out() {
        let old = Ipv4Addr::new(127, 88, 1, 3);
        if cfg!(target_endian = "little") {
            assert_eq!(without_redirect(OF_A_HOST), BTreeSet::from([old]));
        }
        let rule = |except: &str| {
            format!(
                "\t\tip daddr 127.88.0.0/16 {except}tcp dport != 8443 tcp flags & (fin | syn | rst | ack) == syn dnat to :15001\n"
            )
        };
        let other = Ipv4Addr::new(127, 88, 9, 9);
        for (except, expected) in [
            (BTreeSet::new(), rule("")),
            (BTreeSet::from([old]), rule("ip daddr != { 127.88.1.3 } ")),
            (BTreeSet::from([other, old]), rule("ip daddr != { 127.88.1.3, 127.88.9.9 } ")),
        ] {
            let rules = rules(&except);
            assert!(rules.contains(&expected), "{rules}");
        }
    }

    /// An nft that is a script.
    async fn told_by(script: &str) -> Result<Redirected, RedirectError> {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join(PROGRAM);
        std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        tell(&program, Purpose::Check, &BTreeSet::new()).await
    }

    #[tokio::test]
    async fn nft_gets_the_rules_and_its_words_are_told() {
        let is_asked =
            "[ \"$*\" = '--check --file -' ] && read first && [ \"$first\" = 'add table ip ferrovirt' ]";
        let of_datagrams = "grep -q 'ip daddr 127.88.0.0/16 meta l4proto udp tproxy to ip daddr:15001$'";
        let taken = told_by(&format!("{is_asked} && {of_datagrams}")).await;
        assert_eq!(taken.unwrap(), Redirected::All);
        let taken =
            told_by(&format!("{of_datagrams} || exit 0; echo 'Error: No such file' >&2; exit 1")).await;
        assert_eq!(taken.unwrap(), Redirected::TcpAlone { said: "Error: No such file".to_owned() });
        for (script, expected) in [
            (
                "echo 'Error: no' >&2; echo 'add table' >&2; exit 1",
                "`nft` has failed (exit status: 1): Error: no",
            ),
            ("exit 3", "`nft` has failed (exit status: 3): it says nothing"),
        ] {
            assert_eq!(told_by(script).await.unwrap_err().to_string(), expected);
        }
        let error = feed(Path::new("/nonexistent/nft"), Purpose::Check, "").await.unwrap_err();
        assert_eq!(error.to_string(), "there is no `nft` in the search path");
    }
}
