//! Leases: what running processes use, so that pruning keeps it.

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use super::{Locked, NEXT_NAME, Store, StoreError, io_error, lock_if_same, read_small, remove_quietly};
use crate::digest::Digest;

/// More than any process can use: one line is 72 to 136 bytes.
const LEASE_LIMIT_BYTES: u64 = 16 << 20;

/// Keeps the content that it names in the store until the last clone is dropped, or its process ends in whatever way.
#[derive(Debug, Clone)]
pub struct Lease {
    inner: Arc<LeaseFile>,
}

#[derive(Debug)]
struct LeaseFile {
    store: Store,
    path: PathBuf,
    state: Mutex<LeaseState>,
}

#[derive(Debug)]
struct LeaseState {
    /// Locked for as long as it is open.
    file: File,
    named: HashSet<Digest>,
}

impl Store {
    /// A new lease that names nothing yet.
    ///
    /// # Errors
    ///
    /// The lease file cannot be made.
    pub fn lease(&self) -> Result<Lease, StoreError> {
        // Under the shared lock no pruning can see the file between its creation and its lock.
        let _guard = self.lock_shared()?;
        for _ in 0..64 {
            let name = format!("{}-{}", std::process::id(), NEXT_NAME.fetch_add(1, Ordering::Relaxed));
            let path = self.root.join("leases").join(name);
            match OpenOptions::new().append(true).create_new(true).mode(0o600).open(&path) {
                Ok(file) => {
                    if let Locked::Yes = lock_if_same(&file, &path)? {
                        let state = Mutex::new(LeaseState { file, named: HashSet::new() });
                        return Ok(Lease { inner: Arc::new(LeaseFile { store: self.clone(), path, state }) });
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(source) => return Err(self.write_error("create", &path, None, source)),
            }
        }
        let path = self.root.join("leases");
        Err(io_error("create a lease in", &path)(io::ErrorKind::AlreadyExists.into()))
    }

    /// Every digest that a living process uses. The caller holds the exclusive lock. Files of dead leases are removed
    /// unless `keep_dead`.
    pub(super) fn leased_digests(&self, keep_dead: bool) -> Result<HashSet<Digest>, StoreError> {
        let directory = self.root.join("leases");
        let mut leased = HashSet::new();
        for entry in std::fs::read_dir(&directory).map_err(io_error("list", &directory))? {
            let path = entry.map_err(io_error("list", &directory))?.path();
            if is_dead(&path)? {
                if !keep_dead {
                    remove_quietly(&path);
                }
                continue;
            }
            let content = read_small(&path, LEASE_LIMIT_BYTES)?.unwrap_or_default();
            leased.extend(
                String::from_utf8_lossy(&content).lines().filter_map(|line| line.parse::<Digest>().ok()),
            );
        }
        Ok(leased)
    }
}

/// Whether nobody holds the lease file, or it is gone.
fn is_dead(path: &Path) -> Result<bool, StoreError> {
    match File::open(path) {
        Ok(file) => Ok(!matches!(lock_if_same(&file, path)?, Locked::Busy)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(source) => Err(io_error("open", path)(source)),
    }
}

impl Lease {
    /// Adds content to the lease. Only what is seen present *after* this returns is sure to stay.
    ///
    /// # Errors
    ///
    /// The lease file cannot be written.
    pub fn add<'a>(&self, digests: impl IntoIterator<Item = &'a Digest>) -> Result<(), StoreError> {
        let mut state = self.inner.state.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh: Vec<&Digest> =
            digests.into_iter().filter(|digest| !state.named.contains(*digest)).collect();
        if fresh.is_empty() {
            return Ok(());
        }
        let lines: String = fresh.iter().map(|digest| format!("{digest}\n")).collect();
        let _guard = self.inner.store.lock_shared()?;
        state.file.write_all(lines.as_bytes()).map_err(|source| {
            self.inner.store.write_error("write", &self.inner.path, lines.len() as u64, source)
        })?;
        state.named.extend(fresh.into_iter().cloned());
        Ok(())
    }

    /// Whether the lease names this content.
    #[must_use]
    pub fn holds(&self, digest: &Digest) -> bool {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner).named.contains(digest)
    }
}

impl Drop for LeaseFile {
    fn drop(&mut self) {
        remove_quietly(&self.path);
    }
}
