//! The node-local store of images.
//!
//! ```text
//! ROOT/                          0755  given by the caller, one per user or per machine
//!   version                            "ferrovirt image store 1"
//!   lock                               flock: shared while content is claimed or put in place, exclusive while pruning
//!   blobs/ALGORITHM/HEX          0700  manifests, configs and layers, byte for byte as the registry has them
//!   files/sha256/HEX             0711  files taken out of layers, mode 0444, for the hypervisor to read
//!   layers/ALGORITHM-HEX         0700  index of a layer blob: one record per tar entry, see `layer`
//!   resolved/ALGORITHM-HEX/HEX   0700  for an image manifest: requested path (hashed) -> file, JSON
//!   records/HEX.json             0700  for a reference (hashed): what it stands for, JSON; its mtime is the last use
//!   partial/ALGORITHM-HEX        0700  a blob while it arrives; flocked by whoever writes it; survives for a resume
//!   partial/new-PID-N            0700  content whose digest is not known yet, or a small file on its way to a rename
//!   leases/PID-N                 0700  digests that a process uses, one a line; flocked for as long as they are used
//! ```
//!
//! # Guarantees
//!
//! - Nothing gets a name under `blobs/` or `files/` before its bytes had the digest that the name says: content is hashed
//!   on its way to `partial/`, then renamed. A crash of the process leaves files in `partial/` only.
//! - What cannot be fetched again is on the disk before it is named: images that were built or loaded, blobs first, then the
//!   record, each synced with its directory. The same holds for a pull of everything, which somebody wants to have.
//!   What a pull for a boot brings is a cache and waits for no disk: files, indexes, and blobs and record as well. A crash of
//!   the machine within the seconds until the kernel writes them can lose or damage them. Like any damage that is noticed on
//!   use, for nothing under these names is believed unverified, and a record that cannot be read is none.
//! - Two processes that want one blob fetch it once: the second waits for the flock on the partial file and finds the
//!   blob in place when it gets it.
//! - What a lease names is not removed. A digest is added to a lease, under the shared lock, *before* its presence is
//!   looked at; pruning holds the exclusive lock while it reads the leases and deletes. So whatever was seen present
//!   after the claim stays. Leases end with their process: a lease file that nobody has locked is dead.
//! - Content is verified again by whoever uses it ([`Store::verify`], [`Store::open_blob`]; [`Store::verify_file`] once in a
//!   process for each state of a file); what does not match is removed, so that it is fetched again.
//!
//! # Caveats
//!
//! A local file system with flock is assumed. Locks are never held while waiting for the network, except the one on the
//! partial file of the very blob that is arriving.

use std::collections::HashMap;
use std::fmt;
use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use rustix::fs::{FlockOperation, flock};

use crate::digest::Digest;

mod blobs;
mod follower;
mod images;
mod leases;
mod prune;
mod records;

use blobs::Verified;
pub(crate) use blobs::sync_names;
pub use blobs::{BlobReader, BlobWriter, Download, Unsynced, Verification};
pub use follower::BlobFollower;
pub use images::{FileDetails, ImageDetails, ImageSummary, LayerDetails, PlatformDetails};
pub use leases::Lease;
pub use prune::{PruneReport, PruneScope, RemovedItem, RemovedKind, RunMode};
pub use records::{ImageRecord, ResolvedFile, UsedImage};

/// First and only line of the `version` file. Another number means that another layout is on disk.
const VERSION_LINE: &str = "ferrovirt image store 1";

/// Directories of the store with their modes. Images may be private, so only `files` can be entered by others, and
/// it cannot be listed: who reads a file there must know its digest.
const DIRECTORIES: &[(&str, u32)] = &[
    ("blobs", 0o700),
    ("blobs/sha256", 0o700),
    ("blobs/sha512", 0o700),
    ("files", 0o711),
    ("files/sha256", 0o711),
    ("layers", 0o700),
    ("resolved", 0o700),
    ("records", 0o700),
    ("partial", 0o700),
    ("leases", 0o700),
];

/// Distinguishes temporary names of one process.
static NEXT_NAME: AtomicU64 = AtomicU64::new(0);

/// Why an operation on the store failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// A file operation failed.
    #[error("cannot {action} `{path}` in the image store")]
    Io {
        /// What was attempted, as a verb.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file system of the store is full, or would be.
    #[error("{shortage} in the image store `{root}`{}", numbers(*needed_bytes, *available_bytes))]
    NoSpace {
        /// Root of the store.
        root: PathBuf,
        /// What there is too little of.
        shortage: Shortage,
        /// Bytes that the operation still had to write, where that is known.
        needed_bytes: Option<u64>,
        /// Bytes free for this user when it failed; `None` when they do not explain the failure.
        available_bytes: Option<u64>,
    },
    /// The directory holds a store of another format.
    #[error("`{root}` has the format `{found}`, which this version does not read")]
    UnknownFormat {
        /// Root of the store.
        root: PathBuf,
        /// The line that was found.
        found: String,
    },
    /// Content differs from its digest.
    #[error("content of `{digest}` is corrupted: it has the digest `{actual}`")]
    Corrupted {
        /// The digest that was expected.
        digest: Digest,
        /// The digest of what is there.
        actual: String,
    },
    /// Content has another length than was announced.
    #[error("content of `{digest}` has {actual_bytes} bytes where {expected_bytes} were announced")]
    WrongSize {
        /// The digest that was expected.
        digest: Digest,
        /// Announced length.
        expected_bytes: u64,
        /// Length that arrived.
        actual_bytes: u64,
    },
    /// A blob is not in the store.
    #[error("`{digest}` is not in the image store")]
    MissingBlob {
        /// The digest asked for.
        digest: Digest,
    },
    /// A document is larger than its kind may be.
    #[error(
        "`{digest}` has {size_bytes} bytes, more than the {limit_bytes} that a manifest or config may have"
    )]
    TooLarge {
        /// The digest asked for.
        digest: Digest,
        /// Its length.
        size_bytes: u64,
        /// The limit.
        limit_bytes: u64,
    },
    /// No record for a reference.
    #[error("image `{reference}` is not in the image store")]
    UnknownImage {
        /// The reference asked for.
        reference: String,
    },
    /// An image that a running process uses cannot be removed.
    #[error("image `{reference}` is used by a running process")]
    InUse {
        /// The reference asked for.
        reference: String,
    },
    /// A manifest in the store cannot be understood.
    #[error("cannot read the manifest `{digest}` from the image store")]
    Manifest {
        /// Digest of the manifest.
        digest: Digest,
        /// Why.
        #[source]
        source: crate::manifest::ManifestError,
    },
}

/// What a file system has too little of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shortage {
    /// Bytes.
    Space,
    /// Inodes: it can have no more files, however small.
    Files,
    /// What it allows this user.
    Quota,
}

impl fmt::Display for Shortage {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Space => "no space left",
            Self::Files => "no inodes left for more files",
            Self::Quota => "the disk quota is used up",
        })
    }
}

/// For the message of a full file system.
fn numbers(needed_bytes: Option<u64>, available_bytes: Option<u64>) -> String {
    match (needed_bytes, available_bytes) {
        (Some(needed), Some(available)) => format!(": {needed} bytes are needed, {available} are free"),
        (Some(needed), None) => format!(": {needed} bytes are needed"),
        (None, _) => String::new(),
    }
}

impl StoreError {
    /// What the user can do about it, if anything.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NoSpace { .. } => Some(
                "free some space, remove unused images with `ferrovirt image prune --all`, or name another directory with `--state-dir`"
                    .to_owned(),
            ),
            Self::UnknownFormat { root, .. } => {
                Some(format!("use the version that wrote it, or remove `{}` and pull again", root.display()))
            }
            Self::UnknownImage { .. } => Some("`ferrovirt image ls` lists the images that are there".to_owned()),
            Self::InUse { .. } => Some("stop the virtual machine that uses it first".to_owned()),
            Self::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                Some("name a directory that you can write with `--state-dir`".to_owned())
            }
            Self::Io { path, .. } => {
                Some(format!("check the disk and the permissions of `{}`", path.display()))
            }
            Self::Corrupted { .. } | Self::MissingBlob { .. } => {
                Some("fetch the image again with `ferrovirt image pull`".to_owned())
            }
            // The manifest announces something else than the registry has.
            Self::TooLarge { .. } | Self::WrongSize { .. } => {
                Some("the image is broken: build and push it again".to_owned())
            }
            Self::Manifest { source, .. } => source.hint(),
        }
    }
}

/// What kind of content a digest names in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Area {
    /// Manifests, configs, layers.
    Blobs,
    /// Files taken out of layers.
    Files,
}

impl Area {
    fn directory(self) -> &'static str {
        match self {
            Self::Blobs => "blobs",
            Self::Files => "files",
        }
    }
}

/// Whether a small file must survive a power cut once its writer returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Durability {
    /// Synced, with its directory.
    Synced,
    /// May be lost: it can be made again.
    Cache,
}

/// A handle on one store. Cheap to clone; every method may be called from several threads and processes at once.
///
/// All methods block on the file system, some for as long as hashing takes; on an async runtime call the long ones
/// (named in their documentation) on a blocking thread.
#[derive(Debug, Clone)]
pub struct Store {
    root: Arc<Path>,
    /// Files that this process has verified.
    verified: Arc<Mutex<HashMap<Digest, Verified>>>,
}

impl Store {
    /// Opens the store at `root`, making it when it is not there.
    ///
    /// # Errors
    ///
    /// A directory cannot be made or read, or `root` holds a store of another format.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        make_directory(root, 0o755)?;
        // Absolute, so that paths handed out stay valid whatever becomes the current directory.
        let root = root.canonicalize().map_err(io_error("open", root))?;
        for (name, mode) in DIRECTORIES {
            make_directory(&root.join(name), *mode)?;
        }
        let store = Self { root: root.into(), verified: Arc::default() };
        let version = store.root.join("version");
        match std::fs::read_to_string(&version) {
            Ok(found) if found.trim_end() == VERSION_LINE => return Ok(store),
            // Lost in a crash right after the store was made.
            Ok(found) if found.trim_matches('\0').is_empty() => {}
            Ok(found) => {
                let found = found.lines().next().unwrap_or_default().chars().take(80).collect();
                return Err(StoreError::UnknownFormat { root: store.root.to_path_buf(), found });
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(io_error("read", &version)(source)),
        }
        store.write_atomically(&version, format!("{VERSION_LINE}\n").as_bytes(), Durability::Cache)?;
        Ok(store)
    }

    /// The directory that the store lives in, absolute.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where content with this digest is, or would be.
    #[must_use]
    pub fn content_path(&self, area: Area, digest: &Digest) -> PathBuf {
        self.root.join(area.directory()).join(digest.algorithm().name()).join(digest.hex())
    }

    /// Where the index of a layer blob is, or would be.
    pub(crate) fn layer_index_path(&self, layer: &Digest) -> PathBuf {
        self.root.join("layers").join(flat_name(layer))
    }

    /// Free bytes for this user on the file system of the store.
    ///
    /// # Errors
    ///
    /// The file system cannot be asked.
    pub fn available_bytes(&self) -> Result<u64, StoreError> {
        let found = rustix::fs::statvfs(&*self.root)
            .map_err(|error| io_error("ask for the free space of", &self.root)(error.into()))?;
        Ok(found.f_bavail.saturating_mul(found.f_frsize))
    }

    /// Turns a failed write into the error that names the space needed, if that is known, when the reason was a full
    /// file system.
    pub(crate) fn write_error(
        &self,
        action: &'static str,
        path: &Path,
        needed_bytes: impl Into<Option<u64>>,
        source: io::Error,
    ) -> StoreError {
        match source.kind() {
            kind @ (io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => {
                self.no_space(kind, needed_bytes.into())
            }
            _ => io_error(action, path)(source),
        }
    }

    /// The error for a write that failed in this way.
    fn no_space(&self, kind: io::ErrorKind, needed_bytes: Option<u64>) -> StoreError {
        let found = rustix::fs::statvfs(&*self.root).ok();
        let has_no_files = found.is_some_and(|found| found.f_files > 0 && found.f_favail == 0);
        let shortage = match kind {
            io::ErrorKind::QuotaExceeded => Shortage::Quota,
            _ if has_no_files => Shortage::Files,
            _ => Shortage::Space,
        };
        // Free bytes that would do say that something else is short.
        let available_bytes = self.available_bytes().ok().filter(|available| {
            shortage == Shortage::Space && needed_bytes.is_some_and(|needed| needed > *available)
        });
        StoreError::NoSpace { root: self.root.to_path_buf(), shortage, needed_bytes, available_bytes }
    }

    /// A name in `partial/` that no other process and no other thread of this one uses.
    fn temporary_path(&self) -> PathBuf {
        self.root.join("partial").join(format!(
            "new-{}-{}",
            std::process::id(),
            NEXT_NAME.fetch_add(1, Ordering::Relaxed)
        ))
    }

    /// A new, empty, flocked file in `partial/`: pruning leaves it alone for as long as it is open.
    pub(crate) fn temporary_file(&self) -> Result<TemporaryFile, StoreError> {
        // A process with this id may have died and left the name behind, hence more than one try.
        for _ in 0..64 {
            let path = self.temporary_path();
            match OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path) {
                Ok(file) => match lock_if_same(&file, &path)? {
                    Locked::Yes => {
                        return Ok(TemporaryFile { file, path, on_drop: OnDrop::Remove });
                    }
                    Locked::Busy | Locked::Replaced => {}
                },
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(source) => return Err(self.write_error("create", &path, None, source)),
            }
        }
        let path = self.temporary_path();
        Err(io_error("create", &path)(io::ErrorKind::AlreadyExists.into()))
    }

    /// A new, empty file that has no name and is gone when it is closed.
    pub(crate) fn nameless_file(&self) -> Result<File, StoreError> {
        let temporary = self.temporary_file()?;
        temporary.file.try_clone().map_err(io_error("open", &temporary.path))
    }

    /// Writes a small file so that readers see the old content or the new, never a part.
    pub(crate) fn write_atomically(
        &self,
        path: &Path,
        content: &[u8],
        durability: Durability,
    ) -> Result<(), StoreError> {
        let mut temporary = self.temporary_file()?;
        temporary
            .file
            .write_all(content)
            .map_err(|source| self.write_error("write", path, content.len() as u64, source))?;
        temporary.place(self, path, durability)
    }

    /// Takes the store's lock until the guard is dropped.
    fn lock(&self, operation: FlockOperation) -> Result<LockGuard, StoreError> {
        let path = self.root.join("lock");
        // Opened anew each time: a flock belongs to the open file, so that threads sharing one would unlock each other.
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(io_error("open", &path))?;
        loop {
            match flock(&file, operation) {
                Ok(()) => return Ok(LockGuard { _file: file }),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(io_error("lock", &path)(error.into())),
            }
        }
    }

    /// Keeps pruning away for a moment.
    fn lock_shared(&self) -> Result<LockGuard, StoreError> {
        self.lock(FlockOperation::LockShared)
    }

    /// Keeps everybody else from claiming or placing content for a moment.
    fn lock_exclusive(&self) -> Result<LockGuard, StoreError> {
        self.lock(FlockOperation::LockExclusive)
    }
}

/// What becomes of a file in `partial/` when it is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OnDrop {
    /// It is removed.
    Remove,
    /// It stays: for a later resume, or because it has another name by now.
    Keep,
}

/// A file in `partial/`, flocked by this process.
#[derive(Debug)]
pub(crate) struct TemporaryFile {
    pub(crate) file: File,
    path: PathBuf,
    on_drop: OnDrop,
}

impl TemporaryFile {
    /// Gives the file its name in place of whatever had it.
    pub(crate) fn place(
        mut self,
        store: &Store,
        path: &Path,
        durability: Durability,
    ) -> Result<(), StoreError> {
        if durability == Durability::Synced {
            self.file.sync_all().map_err(|source| store.write_error("write", path, None, source))?;
        }
        std::fs::rename(&self.path, path).map_err(|source| store.write_error("place", path, None, source))?;
        // The name in `partial/` may be somebody else's by now.
        self.on_drop = OnDrop::Keep;
        if durability == Durability::Synced {
            sync_parent(path)?;
        }
        Ok(())
    }
}

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        if self.on_drop == OnDrop::Remove {
            remove_quietly(&self.path);
        }
    }
}

/// Holds the store's lock; closing the file releases it.
struct LockGuard {
    _file: File,
}

/// Outcome of [`lock_if_same`].
enum Locked {
    /// The file is ours and still has its name.
    Yes,
    /// Another process holds it.
    Busy,
    /// It was renamed or removed before the lock was ours; open the name again.
    Replaced,
}

/// Tries to lock `file`, and makes sure that `path` still names it: whoever held the lock may have renamed it away.
fn lock_if_same(file: &File, path: &Path) -> Result<Locked, StoreError> {
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK | rustix::io::Errno::INTR) => return Ok(Locked::Busy),
        Err(error) => return Err(io_error("lock", path)(error.into())),
    }
    if names_same_file(file, path)? { Ok(Locked::Yes) } else { Ok(Locked::Replaced) }
}

/// Whether `path` names the file that `file` has open.
fn names_same_file(file: &File, path: &Path) -> Result<bool, StoreError> {
    use std::os::unix::fs::MetadataExt;
    let ours = file.metadata().map_err(io_error("look at", path))?;
    match std::fs::symlink_metadata(path) {
        Ok(named) => Ok(named.ino() == ours.ino() && named.dev() == ours.dev()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(io_error("look at", path)(source)),
    }
}

/// `sha256:abc` as one file name.
fn flat_name(digest: &Digest) -> String {
    format!("{}-{}", digest.algorithm().name(), digest.hex())
}

/// The digest that [`flat_name`] made a file name of.
fn parse_flat_name(name: &str) -> Option<Digest> {
    let (algorithm, hex) = name.split_once('-')?;
    format!("{algorithm}:{hex}").parse().ok()
}

/// For `map_err`: what was attempted on which path.
pub(crate) fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_path_buf();
    move |source| StoreError::Io { action, path, source }
}

/// Makes a directory with exactly this mode, whatever the umask; one that exists is left as it is.
fn make_directory(path: &Path, mode: u32) -> Result<(), StoreError> {
    match DirBuilder::new().mode(mode).create(path) {
        Ok(()) => std::fs::set_permissions(path, Permissions::from_mode(mode))
            .map_err(io_error("set the mode of", path)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let parent = path.parent().ok_or_else(|| io_error("create", path)(error))?;
            make_directory(parent, 0o755)?;
            make_directory(path, mode)
        }
        Err(source) => Err(io_error("create", path)(source)),
    }
}

/// Makes a rename in the directory of `path` durable.
fn sync_parent(path: &Path) -> Result<(), StoreError> {
    let parent = path.parent().unwrap_or(path);
    File::open(parent).and_then(|directory| directory.sync_all()).map_err(io_error("sync", parent))
}

/// Removes a temporary file. A failure leaves a file in `partial/`, which pruning removes later, so it is no error.
fn remove_quietly(path: &Path) {
    let _ = std::fs::remove_file(path);
}

/// Reads a small file of the store; `None` when it is not there.
fn read_small(path: &Path, limit_bytes: u64) -> Result<Option<Vec<u8>>, StoreError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(io_error("open", path)(source)),
    };
    let mut content = Vec::new();
    file.take(limit_bytes).read_to_end(&mut content).map_err(io_error("read", path))?;
    Ok(Some(content))
}

#[cfg(test)]
mod tests;
