//! What a launcher tells about its machine.
//!
//! One document, [`MachineStatus`], in two places: a launcher's control API answers with it while the machine lives, and
//! the launcher's termination message (`terminated.message` of its container in the Pod's status) holds the last one. So
//! whoever follows the machine learns the same, whether it was there at the end or not.
//!
//! Instants are whole milliseconds since the Unix epoch, UTC.

use serde::{Deserialize, Serialize};

use crate::types::VirtualMachineInstanceGuestOsInfo;

/// Longest termination message that Kubernetes keeps, in bytes (`terminationMessagePath`, Kubernetes API reference).
pub const MAX_TERMINATION_MESSAGE_BYTES: usize = 4096;

/// The state of one machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MachineStatus {
    /// Counts up with every change, from 1; 0 when nothing has happened yet.
    pub revision: u64,
    /// UID of the VirtualMachineInstance that the launcher was given, empty before.
    pub vmi_uid: String,
    /// What the machine does.
    pub state: MachineState,
    /// Why it does.
    pub reason: StateReason,
    /// Why the machine could not be started as asked; the launcher stays and may be asked again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sync_error: Option<String>,
    /// Machine type as QEMU resolved it, `pc-q35-7.2`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub machine_type: Option<String>,
    /// `kvm` or `tcg`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accelerator: Option<String>,
    /// User that QEMU runs as, 107 or the launcher's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub qemu_user: Option<u32>,
    /// SELinux context that QEMU runs in, `none` where there is no SELinux.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selinux_context: Option<String>,
    /// Its network cards.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub interfaces: Vec<MachineInterface>,
    /// What its owner should know and do about, in a sentence each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// What was booted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub boot: Option<BootFacts>,
    /// When what happened.
    pub timeline: BootTimeline,
    /// The guest's last panic.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub panic: Option<GuestPanic>,
    /// How often the machine was restarted, by its guest or by the reset button.
    pub reboots: u32,
    /// What the agent in the guest says of it; absent while none answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guest_agent: Option<GuestAgent>,
}

/// What a machine does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum MachineState {
    /// There is none yet.
    #[default]
    None,
    /// Its virtual CPUs run.
    Running,
    /// It exists and its virtual CPUs stand still.
    Paused,
    /// It has ended in an orderly manner, or was ended.
    ShutOff,
    /// It has ended because it, or QEMU, failed.
    Crashed,
}

impl MachineState {
    /// Whether the machine has ended and will not run again.
    pub fn is_final(self) -> bool {
        matches!(self, Self::ShutOff | Self::Crashed)
    }
}

/// Why a machine is in its state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum StateReason {
    /// Paused: by request, or from the start (`startStrategy: Paused`).
    User,
    /// Paused: the disk of a volume failed or is full.
    IoError,
    /// Shut off: the guest powered itself off, or rebooted where that ends it.
    Shutdown,
    /// Shut off: it was killed, because it was told to end and did not, or had no time to.
    Destroyed,
    /// Crashed: the guest's kernel panicked and told so through its panic device.
    Panicked,
    /// Crashed: QEMU ended by itself.
    Crashed,
    /// Nothing special, or a word of a later version.
    #[default]
    #[serde(other)]
    None,
}

/// A network card of a machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MachineInterface {
    /// Name of the interface in the instance.
    pub name: String,
    /// Its hardware address, `02:00:00:00:00:01`.
    pub mac: String,
    /// The address that the guest has by DHCP, once it has asked for one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lease: Option<String>,
}

impl MachineInterface {
    /// The card of interface `name` with this hardware address.
    pub fn new(name: &str, mac: [u8; 6]) -> Self {
        Self { name: name.to_owned(), mac: mac.map(|octet| format!("{octet:02x}")).join(":"), lease: None }
    }
}

/// What the agent in a guest says of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GuestAgent {
    /// The agent's version.
    pub version: String,
    /// Whether it lacks a command that KubeVirt asks of every agent.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub is_unsupported: bool,
    /// The guest's system.
    pub os: VirtualMachineInstanceGuestOsInfo,
    /// Its network interfaces.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub interfaces: Vec<GuestInterface>,
    /// Whether its file systems are frozen.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub is_frozen: bool,
}

/// A network interface as the guest sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GuestInterface {
    /// Its name there, `eth0`.
    pub name: String,
    /// Its hardware address, `02:00:00:00:00:01`; empty where it has none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub mac: String,
    /// Its IP addresses.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<String>,
}

/// What a machine booted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BootFacts {
    /// The image's reference as written.
    pub image: String,
    /// Digest of the image's manifest, `sha256:…`.
    pub image_digest: String,
    /// The kernel.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel: Option<FileFacts>,
    /// Its release, read from the file: `6.1.0-40-cloud-amd64`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel_version: Option<String>,
    /// The initial RAM disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub initrd: Option<FileFacts>,
}

/// A file that was booted, as it is in the image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct FileFacts {
    /// Its path in the image as asked for.
    pub path: String,
    /// Its size in bytes; 0, and not written, where nobody kept it.
    #[serde(skip_serializing_if = "is_zero")]
    pub size_bytes: u64,
    /// CRC-32 (IEEE) of its bytes, as `status.kernelBootStatus` has it.
    pub checksum: u32,
}

fn is_zero(size_bytes: &u64) -> bool {
    *size_bytes == 0
}

/// When what happened in a boot. Absent: not (yet) reached, or not visible.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BootTimeline {
    /// The pull of the boot image began.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pull_started: Option<u64>,
    /// The boot image is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pulled: Option<u64>,
    /// The launch is planned and every file prepared.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prepared: Option<u64>,
    /// QEMU answers on its monitor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vmm_ready: Option<u64>,
    /// The first byte on the console.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_output: Option<u64>,
    /// The kernel's `Linux version` banner.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel_started: Option<u64>,
    /// The kernel started init.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub userspace_started: Option<u64>,
    /// The machine ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended: Option<u64>,
}

/// A panic of the guest's kernel.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GuestPanic {
    /// When it was noticed.
    pub at: u64,
    /// The console line that said so; absent when only the panic device did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<String>,
    /// The last console lines, oldest first; bounded so that the document fits [`MAX_TERMINATION_MESSAGE_BYTES`].
    pub tail: Vec<String>,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    /// A launcher outlives the program that started it, so versions meet. What the first one said is kept here as it
    /// was.
    const FIRST: &str = r#"{
        "revision": 7, "vmiUid": "u", "state": "crashed", "reason": "panicked", "machineType": "pc-q35-7.2",
        "accelerator": "tcg", "qemuUser": 107,
        "boot": {
            "image": "registry/kb", "imageDigest": "sha256:0123", "kernelVersion": "6.1.0",
            "kernel": {"path": "/boot/vmlinuz", "sizeBytes": 3, "checksum": 1},
            "initrd": {"path": "/boot/initrd", "checksum": 2}
        },
        "timeline": {
            "pullStarted": 1, "pulled": 2, "prepared": 3, "vmmReady": 4, "firstOutput": 5, "kernelStarted": 6,
            "userspaceStarted": 7, "ended": 8
        },
        "panic": {"at": 8, "line": "Kernel panic", "tail": ["a", "b"]},
        "reboots": 2
    }"#;

    #[test]
    fn what_the_first_version_said_is_understood_and_said_alike() {
        let status: MachineStatus = serde_json::from_str(FIRST).unwrap();
        let file =
            |path: &str, size_bytes, checksum| FileFacts { path: path.to_owned(), size_bytes, checksum };
        assert_eq!((status.state, status.reason), (MachineState::Crashed, StateReason::Panicked));
        assert_eq!(status.boot.as_ref().unwrap().initrd, Some(file("/boot/initrd", 0, 2)));
        assert_eq!(status.timeline.ended, Some(8));
        assert_eq!(status.panic.as_ref().unwrap().tail, ["a", "b"]);
        let first: serde_json::Value = serde_json::from_str(FIRST).unwrap();
        assert_eq!(serde_json::to_value(&status).unwrap(), first);
    }

    #[test]
    fn what_a_later_version_adds_is_passed_over() {
        let text = r#"{"revision": 1, "state": "paused", "reason": "somethingNew", "later": {"a": [1]},
                       "timeline": {"later": 1}, "boot": {"later": true}}"#;
        let status: MachineStatus = serde_json::from_str(text).unwrap();
        assert_eq!((status.state, status.reason), (MachineState::Paused, StateReason::None));
    }
}
