//! What the agent in a guest tells of it, as KubeVirt's subresources `guestosinfo`, `userlist` and `filesystemlist` show
//! it (`VirtualMachineInstanceGuestAgentInfo` and its parts in KubeVirt's API).

use serde::{Deserialize, Serialize};

use crate::types::VirtualMachineInstanceGuestOsInfo;

/// All of it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GuestAgentInfo {
    /// The agent's version.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub guest_agent_version: String,
    /// What can be asked of it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub supported_commands: Vec<GuestAgentCommand>,
    /// The guest's own name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub hostname: String,
    /// Its system.
    pub os: VirtualMachineInstanceGuestOsInfo,
    /// Its time zone and that one's offset in seconds: `UTC, 0`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub timezone: String,
    /// Who is logged in.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub user_list: Vec<GuestUser>,
    /// Its file systems.
    pub fs_info: GuestFileSystems,
    /// `frozen` or `thawed`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub fs_freeze_status: String,
}

/// A command of the agent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestAgentCommand {
    /// `guest-ping` and the like.
    pub name: String,
    /// Whether the agent would do it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub enabled: bool,
}

/// Somebody who is logged in.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GuestUser {
    /// Their name.
    pub user_name: String,
    /// Their domain, in Windows.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub domain: String,
    /// Since when, in seconds since the Unix epoch.
    pub login_time: f64,
}

/// A guest's file systems, under the name that KubeVirt gives them there.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct GuestFileSystems {
    /// Each.
    pub disks: Vec<GuestFileSystem>,
}

/// A file system of a guest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GuestFileSystem {
    /// The device in the guest, `vda1`.
    pub disk_name: String,
    /// Where it is mounted.
    pub mount_point: String,
    /// `ext4` and the like.
    pub file_system_type: String,
    /// Bytes in use.
    pub used_bytes: u64,
    /// Bytes that there are.
    pub total_bytes: u64,
    /// The disks that it is on.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub disk: Vec<GuestDisk>,
}

/// A disk of a guest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GuestDisk {
    /// Its serial number.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub serial: String,
    /// `virtio`, `scsi` and the like.
    pub bus_type: String,
}

/// A list as an API has it, without anything to say of the list itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestList<T> {
    /// Nothing.
    #[serde(default)]
    pub metadata: std::collections::BTreeMap<String, String>,
    /// Its elements.
    pub items: Vec<T>,
}

impl<T> From<Vec<T>> for GuestList<T> {
    fn from(items: Vec<T>) -> Self {
        Self { metadata: Default::default(), items }
    }
}
