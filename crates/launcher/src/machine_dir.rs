//! The directory of one running machine, and who may use it.
//!
//! ```text
//! machines/
//!   NAMESPACE.NAME/      0711: QEMU, which may be another user, passes through but cannot look around
//!     lock               held (flock) as long as the machine runs; free = nothing of it is alive
//!     qemu/              QEMU's own directory with its sockets (made by `vmm`)
//!     console.log        the serial console of this run, kept until the next one (bounded)
//!     console.log.1      what came before, where it was too much for one file
//!   NAMESPACE.NAME-2/    a second machine of the same name, while the first runs
//! ```
//!
//! Directories of machines that do not run stay for their logs: the [`KEPT`] latest, the others are removed when a
//! machine is started, since the run directory is usually memory.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::{FlockOperation, flock};

/// Most machines of one name that may run at once.
const MAX_SAME_NAME: u32 = 64;

/// How many directories of machines that do not run are kept.
pub const KEPT: usize = 16;

/// Longest directory name used. A UNIX socket's path has at most 107 bytes (`unix(7)`), of which the run directory
/// needs its part.
const MAX_NAME_BYTES: usize = 40;

/// Why a machine has no directory.
#[derive(Debug, thiserror::Error)]
pub enum MachineDirError {
    /// The directory could not be made.
    #[error("cannot create the machine's directory `{path}`")]
    Create {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The lock file could not be opened or locked.
    #[error("cannot lock the machine's directory `{path}`")]
    Lock {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Too many machines of this name run.
    #[error("{MAX_SAME_NAME} machines named `{name}` run already")]
    Busy {
        /// The machine's name.
        name: String,
    },
    /// Sockets in it would have too long a path.
    #[error("the run directory `{path}` has too long a path for a UNIX socket in it (at most 107 bytes)")]
    TooLong {
        /// The run directory.
        path: PathBuf,
    },
}

/// A machine's directory, locked until dropped.
#[derive(Debug)]
pub struct MachineDir {
    path: PathBuf,
    _lock: File,
}

impl MachineDir {
    /// Creates (or takes over) the directory of `namespace`/`name` under `machines` and locks it.
    ///
    /// # Errors
    /// [`MachineDirError`].
    pub fn acquire(machines: &Path, namespace: &str, name: &str) -> Result<MachineDir, MachineDirError> {
        let base = directory_name(namespace, name);
        for number in 1..=MAX_SAME_NAME {
            let path = machines.join(if number == 1 { base.clone() } else { format!("{base}-{number}") });
            if vmm::RunPaths::in_directory(&path).qmp_socket.as_os_str().len() > vmm::MAX_SOCKET_PATH_BYTES {
                return Err(MachineDirError::TooLong { path: machines.to_owned() });
            }
            make(&path).map_err(|source| MachineDirError::Create { path: path.clone(), source })?;
            match lock(&path) {
                Ok(Some(lock)) => {
                    // Its age decides what is swept; a clock that cannot be set on it makes it only older.
                    let _ = lock.set_modified(SystemTime::now());
                    sweep(machines);
                    return Ok(MachineDir { path, _lock: lock });
                }
                Ok(None) => {}
                Err(source) => return Err(MachineDirError::Lock { path, source }),
            }
        }
        Err(MachineDirError::Busy { name: name.to_owned() })
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the console's log is kept.
    pub fn console_log(&self) -> PathBuf {
        self.path.join("console.log")
    }
}

/// Makes a directory that others may pass through, whatever the umask; one that is there is left as it is.
fn make(directory: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o711).create(directory) {
        Ok(()) => std::fs::set_permissions(directory, Permissions::from_mode(0o711)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

/// Locks the directory of a machine or a launcher; `None` when its owner lives, or when it was removed at this moment.
pub(crate) fn lock(directory: &Path) -> io::Result<Option<File>> {
    let path = directory.join("lock");
    let lock = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits() as i32)
        .open(&path)?;
    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
        Err(error) => return Err(error.into()),
    }
    // Whoever removes a directory holds its lock; a lock on a file that has gone protects nothing.
    let held = lock.metadata()?;
    match std::fs::metadata(&path) {
        Ok(named) if (named.dev(), named.ino()) == (held.dev(), held.ino()) => Ok(Some(lock)),
        Ok(_) => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Removes all but the [`KEPT`] latest directories of machines that do not run. What cannot be looked at or removed
/// stays: it costs room, and the next machine tries again.
fn sweep(machines: &Path) {
    let Ok(entries) = std::fs::read_dir(machines) else { return };
    let mut directories: Vec<(SystemTime, PathBuf)> = entries
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let used = std::fs::symlink_metadata(path.join("lock")).ok()?.modified().ok()?;
            Some((used, path))
        })
        .collect();
    directories.sort_by_key(|(used, _)| std::cmp::Reverse(*used));
    for (_, directory) in directories.into_iter().skip(KEPT) {
        if let Ok(Some(_lock)) = lock(&directory)
            && let Err(error) = std::fs::remove_dir_all(&directory)
        {
            tracing::debug!(directory = %directory.display(), %error, "an old machine's directory stays");
        }
    }
}

/// `NAMESPACE.NAME`, shortened with a checksum of the whole where it is long, so that two long names stay apart.
pub fn directory_name(namespace: &str, name: &str) -> String {
    let whole = format!("{namespace}.{name}");
    let safe: String =
        whole.chars().map(|c| if c.is_ascii_alphanumeric() || "-._".contains(c) { c } else { '_' }).collect();
    if safe.len() <= MAX_NAME_BYTES && safe == whole {
        return safe;
    }
    // No adversary gains anything from a collision, the lock still keeps two machines apart.
    let sum = fnv1a(&whole);
    format!("{}-{sum:016x}", &safe[..safe.len().min(MAX_NAME_BYTES - 17)])
}

/// FNV-1a of 64 bits, for names that need be no secret.
pub(crate) fn fnv1a(text: &str) -> u64 {
    text.bytes()
        .fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_are_short_safe_and_apart() {
        assert_eq!(directory_name("default", "vm"), "default.vm");
        let long = "x".repeat(300);
        let (one, two) = (directory_name("a", &format!("{long}1")), directory_name("a", &format!("{long}2")));
        assert!(one.len() <= MAX_NAME_BYTES && one != two);
        assert!(!directory_name("a", "../../etc").contains('/'));
    }

    #[test]
    fn a_second_machine_of_a_name_gets_its_own_directory() {
        let machines = tempfile::tempdir().unwrap();
        let first = MachineDir::acquire(machines.path(), "default", "vm").unwrap();
        let second = MachineDir::acquire(machines.path(), "default", "vm").unwrap();
        assert!(first.path().ends_with("default.vm") && second.path().ends_with("default.vm-2"));
        drop(first);
        let third = MachineDir::acquire(machines.path(), "default", "vm").unwrap();
        assert!(third.path().ends_with("default.vm"));
    }

    #[test]
    fn old_directories_go_and_running_ones_stay() {
        let machines = tempfile::tempdir().unwrap();
        let running = MachineDir::acquire(machines.path(), "default", "running").unwrap();
        for number in 0..KEPT + 10 {
            drop(MachineDir::acquire(machines.path(), "default", &format!("vm{number}")).unwrap());
        }
        let left = std::fs::read_dir(machines.path()).unwrap().count();
        assert!((KEPT..=KEPT + 2).contains(&left), "{left} directories");
        assert!(running.path().join("lock").exists());
        let last = format!("default.vm{}", KEPT + 9);
        assert!(machines.path().join(last).exists());
    }

    #[test]
    fn too_long_a_run_directory_is_said_before_qemu_fails() {
        let machines = tempfile::tempdir().unwrap();
        let deep = machines.path().join("d".repeat(100));
        std::fs::create_dir(&deep).unwrap();
        assert!(matches!(MachineDir::acquire(&deep, "default", "vm"), Err(MachineDirError::TooLong { .. })));
    }
}
