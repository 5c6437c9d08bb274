//! The directory of one launcher Pod: what a node lays out for a launcher, and what the launcher leaves for the node.
//!
//! ```text
//! pods/
//!   POD-UID/                    0711: QEMU, which may be another user, passes through
//!     pod.json                  the node's own record                                          (node)
//!     volumes/NAME.json         an image volume: image, digest, files   [`ImageVolume`]         (node)
//!     tls/{ca.crt,tls.crt,tls.key}  how the control API proves itself, and whom it trusts       (node)
//!     lock                      held (flock) while the launcher lives; free = nothing is alive  (launcher)
//!     launcher.json             written when the control API listens  [`LauncherRecord`]        (launcher)
//!     cgroup.json               the directories of its control group, a list, where it has one  (launcher)
//!     launch.json               what was started: [`LaunchRecord`]                             (launcher)
//!     traffic.json              what its card has carried, while it has one  [`Traffic`](crate::network::Traffic)  (launcher)
//!     memory.json               what its guest tells of its memory  [`GuestMemory`](crate::guest_memory::GuestMemory)  (launcher)
//!     agent.json                what its guest's agent measures, while there is one  [`AgentReport`](crate::agent_report::AgentReport)  (launcher)
//!     exit.json                 last `MachineStatus`, durable: also the termination message     (launcher)
//!     logs/compute.log          what the launcher itself says, CRI log format                   (launcher)
//!     logs/launcher.out         its standard output and error until it listens                  (node)
//!     logs/guest-console-log.log    the serial console, CRI log format; `.1` the one before     (launcher)
//!     qemu/                     QEMU's own directory: monitor, display and its pictures        (vmm)
//! ```
//!
//! Documents are JSON. A reader ignores fields that it does not know: launcher and node may be of different versions.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use vmm::LaunchSpec;

/// Port of a launcher's control API on its Pod's address.
pub const CONTROL_PORT: u16 = 8443;

/// Port of a Pod's address where a launcher takes connections that the host has redirected from any other one.
pub const REDIRECT_PORT: u16 = 15001;

/// A launcher Pod's directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodDir {
    path: PathBuf,
}

impl PodDir {
    /// The directory at `path`, which need not exist.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The node's own record.
    pub fn pod_record(&self) -> PathBuf {
        self.path.join("pod.json")
    }

    /// The record of the image volume `name`, an [`ImageVolume`].
    pub fn image_volume(&self, name: &str) -> PathBuf {
        self.path.join("volumes").join(format!("{name}.json"))
    }

    /// Certificates: `ca.crt`, `tls.crt` and `tls.key`, PEM.
    pub fn tls(&self) -> PathBuf {
        self.path.join("tls")
    }

    /// Held while the launcher lives.
    pub fn lock(&self) -> PathBuf {
        self.path.join("lock")
    }

    /// A [`LauncherRecord`], there once the control API listens.
    pub fn launcher_record(&self) -> PathBuf {
        self.path.join("launcher.json")
    }

    /// The directories of the launcher's control group, a list of paths; absent where it has none.
    pub fn control_group(&self) -> PathBuf {
        self.path.join("cgroup.json")
    }

    /// What was started, a [`LaunchRecord`].
    pub fn launch_record(&self) -> PathBuf {
        self.path.join("launch.json")
    }

    /// What has gone over the card of its guest, a [`Traffic`](crate::network::Traffic); absent without one.
    pub fn traffic(&self) -> PathBuf {
        self.path.join("traffic.json")
    }

    /// What its guest tells of its memory, a [`GuestMemory`](crate::guest_memory::GuestMemory); absent without a balloon.
    pub fn guest_memory(&self) -> PathBuf {
        self.path.join("memory.json")
    }

    /// What its guest's agent measures, an [`AgentReport`](crate::agent_report::AgentReport); absent without an agent.
    pub fn agent_report(&self) -> PathBuf {
        self.path.join("agent.json")
    }

    /// The machine's last status, there once it has ended.
    pub fn exit_record(&self) -> PathBuf {
        self.path.join("exit.json")
    }

    /// The log of the container `compute` or `guest-console-log`.
    pub fn log(&self, container: &str) -> PathBuf {
        self.path.join("logs").join(format!("{container}.log"))
    }
}

/// An image volume as a node has laid it out: the wanted files only, where they are on this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageVolume {
    /// The image's reference as written.
    pub image: String,
    /// Digest of its manifest, `sha256:…`.
    pub digest: String,
    /// The files that the Pod asked for.
    pub files: Vec<ImageVolumeFile>,
    /// Those of them that the image does not have, or not as a file that can be booted: the launcher refuses to start
    /// the machine with these reasons. A kubelet would mount the image all the same.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<MissingFile>,
    /// When the pull began and ended, milliseconds since the Unix epoch.
    pub pull_started: u64,
    /// See `pull_started`; the same when nothing had to be fetched.
    pub pulled: u64,
}

/// One file of an image volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageVolumeFile {
    /// The path in the image as asked for.
    pub requested: String,
    /// The path in the image that it led to, all symlinks followed.
    pub resolved: String,
    /// Where its bytes are on this machine; read-only, stays as long as the Pod.
    pub path: PathBuf,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// Its CRC-32 (IEEE), where the node has read it; a launcher reads the file otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crc32: Option<u32>,
    /// Its owner in the image.
    pub uid: u32,
    /// Its group in the image.
    pub gid: u32,
    /// Its permission bits in the image.
    pub mode: u32,
}

/// A file that the Pod asked for and the image does not give.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MissingFile {
    /// The path in the image as asked for.
    pub requested: String,
    /// Why it is not there, for people, with what may have been meant.
    pub reason: String,
}

/// What a launcher says of itself once it can be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LauncherRecord {
    /// Its process id, valid while the lock is held.
    pub process_id: u32,
    /// Where its control API listens, `127.88.0.1:8443`.
    pub control: std::net::SocketAddr,
    /// Its version.
    pub version: String,
}

/// What a launcher has started, written before it does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LaunchRecord {
    /// UID of the VirtualMachineInstance.
    pub vmi_uid: String,
    /// Its `metadata.generation` then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vmi_generation: Option<i64>,
    /// The machine.
    pub launch: LaunchSpec,
}

/// Replaces the document at `path` in one step. It matters as long as the host runs, so there is nothing to sync.
pub(crate) fn write_document(path: &Path, document: &impl Serialize) -> io::Result<()> {
    let temporary = path.with_extension("json.tmp");
    std::fs::write(&temporary, serde_json::to_vec(document)?)?;
    std::fs::rename(&temporary, path)
}
