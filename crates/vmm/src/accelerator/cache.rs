//! The verdict of this boot, in a JSON file per user that QEMU runs as.
//!
//! The file may be lost, torn or written by two processes at once: what does not parse, or was made under another
//! [`Key`], is as good as absent. It is written beside its place and renamed, so readers see old or new.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{KvmStatus, ProbeRequest};
use crate::RunAs;
use crate::host_facts::boot_id;

/// The file's name starts so; the number is the format's version, so that an older program never misreads a newer file.
const FILE_PREFIX: &str = "accelerator-1";

/// A verdict is far smaller; more is not ours.
const MAXIMUM_BYTES: u64 = 64 * 1024;

/// Everything that the verdict depends on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Key {
    boot_id: String,
    kernel_release: String,
    /// Device number, inode, mode, owner and time of the last change of `/dev/kvm`: reloading the module, `chmod`
    /// and `setfacl` all change it.
    device: (u64, u64, u32, u32, u32, i64, i64),
    qemu: String,
    /// Size and time of the last change of QEMU's binary, which stand for its version without running it.
    qemu_file: (u64, i64, i64),
    machine: String,
    cpu_model: String,
    /// The user that QEMU runs as, the caller's ids and groups filled in: (user, group, supplementary groups).
    user: (u32, u32, Vec<u32>),
}

impl Key {
    /// Reads what the key holds; a few small files and two `stat`.
    pub(super) fn of(request: &ProbeRequest, device: &Metadata) -> io::Result<Self> {
        let qemu = fs::metadata(&request.qemu)?;
        let user = match &request.run_as {
            RunAs::User { uid, gid, groups } => (*uid, *gid, groups.clone()),
            RunAs::Caller => (
                rustix::process::geteuid().as_raw(),
                rustix::process::getegid().as_raw(),
                rustix::process::getgroups()?.into_iter().map(|group| group.as_raw()).collect(),
            ),
        };
        Ok(Self {
            boot_id: boot_id()?,
            kernel_release: rustix::system::uname().release().to_string_lossy().into_owned(),
            device: (
                device.rdev(),
                device.ino(),
                device.mode(),
                device.uid(),
                device.gid(),
                device.ctime(),
                device.ctime_nsec(),
            ),
            qemu: request.qemu.to_string_lossy().into_owned(),
            qemu_file: (qemu.size(), qemu.ctime(), qemu.ctime_nsec()),
            machine: request.machine.clone(),
            cpu_model: request.cpu_model.clone(),
            user,
        })
    }
}

/// The file for `key`. QEMU's user is in its name: root starts some machines as that user and some as itself, and one
/// verdict would keep replacing the other.
pub(super) fn file(directory: &Path, key: &Key) -> PathBuf {
    directory.join(format!("{FILE_PREFIX}-{}.json", key.user.0))
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    key: Key,
    status: KvmStatus,
}

/// The verdict made under the same key, if there is one.
pub(super) fn load(directory: &Path, key: &Key) -> Option<KvmStatus> {
    let path = file(directory, key);
    if fs::metadata(&path).ok()?.len() > MAXIMUM_BYTES {
        return None;
    }
    let entry: Entry = serde_json::from_slice(&fs::read(&path).ok()?).ok()?;
    (entry.key == *key).then_some(entry.status)
}

/// Keeps the verdict, in place of any older one.
pub(super) fn store(directory: &Path, key: &Key, status: &KvmStatus) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    let entry = Entry { key: key.clone(), status: status.clone() };
    let text = serde_json::to_vec_pretty(&entry).map_err(io::Error::other)?;
    let temporary = directory.join(format!(".{FILE_PREFIX}.{}", std::process::id()));
    // No fsync: a verdict lost in a crash belongs to a boot that is over.
    let written = fs::write(&temporary, text).and_then(|()| fs::rename(&temporary, file(directory, key)));
    if written.is_err() {
        let _ = fs::remove_file(&temporary); // the first error is the one to tell
    }
    written
}
