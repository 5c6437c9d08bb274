//! The directory of the state, and the lock that makes one process the owner of such a directory.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

/// Its content is the process that holds it, for people; what counts is the flock, which ends with the process.
pub(super) const FILE: &str = "lock";

/// Why a directory cannot be owned.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process has it.
    #[error("another server{} uses it", process.map(|process| format!(" (process {process})")).unwrap_or_default())]
    Held {
        /// Its number, where it could be read.
        process: Option<u32>,
    },
    /// Its lock cannot be used.
    #[error("cannot {action} its lock")]
    Io {
        /// What was attempted: `open` or `lock`.
        action: &'static str,
        /// Why it failed.
        source: io::Error,
    },
}

/// Ownership of a directory; ends when it is dropped, or with the process.
#[derive(Debug)]
pub struct DirectoryLock {
    _file: File,
}

/// Makes `directory` where it is missing, for its owner alone.
pub(super) fn make_directory(directory: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    let mode = directory.metadata()?.permissions().mode();
    if mode & 0o077 != 0 {
        std::fs::set_permissions(directory, Permissions::from_mode(0o700))?;
    }
    Ok(())
}

impl DirectoryLock {
    /// Takes the lock of `directory`, which must exist: the file `lock` in it.
    ///
    /// # Errors
    /// When another process has it, or the file cannot be used.
    pub fn take(directory: &Path) -> Result<Self, LockError> {
        let failed = |action| move |source: io::Error| LockError::Io { action, source };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(directory.join(FILE))
            .map_err(failed("open"))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                let mut content = String::new();
                // The number is a help only; the refusal stands without it.
                let _ = (&mut file).take(32).read_to_string(&mut content);
                return Err(LockError::Held { process: content.trim().parse().ok() });
            }
            Err(errno) => return Err(failed("lock")(errno.into())),
        }
        // A full disk must not keep a server from starting, and the number is a help only.
        let _ = file
            .set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "{}", std::process::id()));
        Ok(Self { _file: file })
    }
}

/// Makes names that were created, renamed or removed in `directory` durable.
pub(super) fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}
