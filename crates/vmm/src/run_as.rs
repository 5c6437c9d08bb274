//! Whose credentials QEMU runs with.
//!
//! As root, QEMU is given away to user 107, group 107, the account that KubeVirt runs it as. It is only given
//! away when that account can reach the files it needs; a kernel under `/root` would otherwise fail with a
//! bare "Permission denied". As an ordinary user there is nothing to choose.
//!
//! The decision ([`choose_run_as`]) is a function of facts; [`RunAsFacts::gather`] does the looking.
//! Access control lists are not considered: a path that only an ACL opens counts as closed.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// User id of QEMU under KubeVirt (`pkg/util/util.go`, `NonRootUID`), and of `qemu` in Red Hat's
/// distributions.
pub const QEMU_UID: u32 = 107;

/// Group id of QEMU, see [`QEMU_UID`].
pub const QEMU_GID: u32 = 107;

/// Credentials of the QEMU process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RunAs {
    /// Those of the process that starts it.
    Caller,
    /// These, with no other group than the ones named. Needs root.
    User {
        /// User id.
        uid: u32,
        /// Primary group id.
        gid: u32,
        /// Supplementary group ids.
        groups: Vec<u32>,
    },
}

/// What [`choose_run_as`] decides on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunAsFacts {
    /// Effective user id of this process.
    pub caller_uid: u32,
    /// Files that QEMU opens by itself.
    pub needs: Vec<Need>,
}

/// One file that QEMU must reach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Need {
    /// How it is used.
    pub access: Access,
    /// The root directory first, the file itself last.
    pub nodes: Vec<Node>,
}

/// How QEMU uses a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Reads it.
    Read,
    /// Passes through the directory.
    Traverse,
    /// Opens the device for reading and writing; its group may be lent to QEMU.
    Device,
}

impl Access {
    /// The permission bits needed, as in the lowest octal digit of a mode.
    fn bits(self) -> u32 {
        match self {
            Self::Read => 0o4,
            Self::Traverse => 0o1,
            Self::Device => 0o6,
        }
    }

    fn verb(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Traverse => "pass through",
            Self::Device => "open",
        }
    }
}

/// Owner and mode of one file or directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its path.
    pub path: PathBuf,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Permission bits (`st_mode & 0o7777`).
    pub mode: u32,
}

impl RunAsFacts {
    /// Looks at every path and at the directories that lead to it.
    ///
    /// A path that is a symbolic link is looked at both as it is written and as it resolves. What does not
    /// exist is left out: the run will fail on it with a better message than could be given here.
    ///
    /// # Errors
    /// What looking at a path or making it absolute fails with, other than that it does not exist.
    pub fn gather(needs: &[(&Path, Access)]) -> io::Result<Self> {
        let mut facts = Self { caller_uid: rustix::process::geteuid().as_raw(), needs: Vec::new() };
        if facts.caller_uid != 0 {
            return Ok(facts);
        }
        for (path, access) in needs {
            let written = std::path::absolute(path)?;
            let mut spellings = vec![written.clone()];
            match fs::canonicalize(&written) {
                Ok(resolved) if resolved != written => spellings.push(resolved),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            }
            for spelling in spellings {
                let mut nodes = Vec::new();
                for ancestor in spelling.ancestors() {
                    let metadata = fs::metadata(ancestor)?;
                    nodes.push(Node {
                        path: ancestor.to_owned(),
                        uid: metadata.uid(),
                        gid: metadata.gid(),
                        mode: metadata.mode() & 0o7777,
                    });
                }
                nodes.reverse();
                facts.needs.push(Need { access: *access, nodes });
            }
        }
        Ok(facts)
    }
}

/// Chooses the credentials, and says why when root has to keep its own.
///
/// Name `/dev/kvm` among the needs only when KVM is to be used: where TCG runs the guest, a closed device is
/// no reason to stay root.
///
/// An ordinary user gets [`RunAs::Caller`] without a word. Root gets 107:107 with the groups of the devices
/// it needs, unless that account cannot reach something; then [`RunAs::Caller`] with a warning that names
/// what and the remedy.
pub fn choose_run_as(facts: &RunAsFacts) -> (RunAs, Option<String>) {
    if facts.caller_uid != 0 {
        return (RunAs::Caller, None);
    }
    let mut groups = Vec::new();
    for need in &facts.needs {
        if need.access != Access::Device {
            continue;
        }
        if let Some(device) = need.nodes.last()
            && !allows(device, Access::Device, &[])
            && device.mode >> 3 & 0o6 == 0o6
            && device.gid != 0
            && !groups.contains(&device.gid)
        {
            groups.push(device.gid);
        }
    }
    for need in &facts.needs {
        let Some((file, directories)) = need.nodes.split_last() else {
            continue;
        };
        let closed = directories
            .iter()
            .map(|directory| (directory, Access::Traverse))
            .chain([(file, need.access)])
            .find(|(node, access)| !allows(node, *access, &groups));
        if let Some((node, access)) = closed {
            return (RunAs::Caller, Some(refusal(node, access, file)));
        }
    }
    (RunAs::User { uid: QEMU_UID, gid: QEMU_GID, groups }, None)
}

/// Whether 107:107 with `groups` may use the node so, by the order of path_resolution(7): owner, then group,
/// then others.
fn allows(node: &Node, access: Access, groups: &[u32]) -> bool {
    let granted = if node.uid == QEMU_UID {
        node.mode >> 6
    } else if node.gid == QEMU_GID || groups.contains(&node.gid) {
        node.mode >> 3
    } else {
        node.mode
    };
    granted & access.bits() == access.bits()
}

fn refusal(node: &Node, access: Access, file: &Node) -> String {
    let what = if node.path == file.path {
        format!("`{}`", node.path.display())
    } else {
        format!("`{}` on the way to `{}`", node.path.display(), file.path.display())
    };
    format!(
        "QEMU runs as root: user {QEMU_UID} cannot {} {what} (owner {}:{}, mode {:04o})",
        access.verb(),
        node.uid,
        node.gid,
        node.mode
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn node(path: &str, uid: u32, gid: u32, mode: u32) -> Node {
        Node { path: path.into(), uid, gid, mode }
    }

    fn facts(access: Access, nodes: Vec<Node>) -> RunAsFacts {
        RunAsFacts { caller_uid: 0, needs: vec![Need { access, nodes }] }
    }

    fn given_away(groups: &[u32]) -> RunAs {
        RunAs::User { uid: 107, gid: 107, groups: groups.to_vec() }
    }

    #[test]
    fn an_ordinary_user_keeps_its_credentials() {
        let mut facts = facts(Access::Read, vec![node("/", 0, 0, 0o700)]);
        facts.caller_uid = 1000;
        assert_eq!(choose_run_as(&facts), (RunAs::Caller, None));
    }

    #[test]
    fn root_gives_qemu_away_when_everything_is_reachable() {
        let open = facts(
            Access::Read,
            vec![node("/", 0, 0, 0o755), node("/store", 0, 0, 0o711), node("/store/kernel", 0, 0, 0o444)],
        );
        assert_eq!(choose_run_as(&open), (given_away(&[]), None));
    }

    #[test]
    fn a_closed_directory_keeps_root_and_is_named() {
        let closed = facts(
            Access::Read,
            vec![node("/", 0, 0, 0o755), node("/root", 0, 0, 0o700), node("/root/bzImage", 0, 0, 0o644)],
        );
        let (run_as, warning) = choose_run_as(&closed);
        assert_eq!(run_as, RunAs::Caller);
        assert_eq!(
            warning.unwrap(),
            "QEMU runs as root: user 107 cannot pass through `/root` on the way to `/root/bzImage` \
             (owner 0:0, mode 0700)"
        );
    }

    #[test]
    fn an_unreadable_file_keeps_root_and_is_named() {
        let (run_as, warning) =
            choose_run_as(&facts(Access::Read, vec![node("/", 0, 0, 0o755), node("/k", 0, 0, 0o640)]));
        assert_eq!(run_as, RunAs::Caller);
        assert_eq!(warning.unwrap(), "QEMU runs as root: user 107 cannot read `/k` (owner 0:0, mode 0640)");
    }

    #[test]
    fn owner_bits_win_over_wider_group_and_other_bits() {
        let own = node("/k", 107, 107, 0o044);
        assert!(!allows(&own, Access::Read, &[]));
        assert!(allows(&node("/k", 0, 107, 0o040), Access::Read, &[]));
        assert!(!allows(&node("/k", 0, 107, 0o004), Access::Read, &[]));
    }

    #[test]
    fn the_group_of_a_device_is_lent() {
        let path = vec![node("/", 0, 0, 0o755), node("/dev", 0, 0, 0o755)];
        let with = |device: Node| facts(Access::Device, [path.clone(), vec![device]].concat());
        assert_eq!(choose_run_as(&with(node("/dev/kvm", 0, 104, 0o660))), (given_away(&[104]), None));
        assert_eq!(choose_run_as(&with(node("/dev/kvm", 0, 104, 0o666))), (given_away(&[]), None));
        let (run_as, warning) = choose_run_as(&with(node("/dev/kvm", 0, 0, 0o660)));
        assert_eq!(run_as, RunAs::Caller, "root's own group is never lent");
        assert!(warning.unwrap().contains("cannot open `/dev/kvm`"));
    }

    #[test]
    fn gathering_looks_at_every_directory_and_leaves_out_what_is_absent() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("kernel");
        fs::write(&file, b"x").unwrap();
        let absent = directory.path().join("absent");
        let facts =
            RunAsFacts::gather(&[(file.as_path(), Access::Read), (absent.as_path(), Access::Read)]).unwrap();
        if facts.caller_uid == 0 {
            let need = facts.needs.last().unwrap();
            assert_eq!(need.nodes.first().unwrap().path, Path::new("/"));
            assert_eq!(need.nodes.last().unwrap().path, fs::canonicalize(&file).unwrap());
            assert!(facts.needs.iter().all(|need| need.nodes.last().unwrap().path.ends_with("kernel")));
        } else {
            assert!(facts.needs.is_empty());
        }
    }
}
