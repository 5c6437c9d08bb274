//! What was observed: the status of both kinds.
//!
//! The fields are optional throughout, a status is written piece by piece.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::devices::Disk;
use super::domain::Machine;
use super::migration_status::VirtualMachineInstanceMigrationState;
use super::volumes::{DataVolumeVolumeSource, PersistentVolumeClaimSource};
use crate::schema::object;
use quantity::Quantity;

object! {
    /// What was last observed of a virtual machine.
    pub struct VirtualMachineStatus {
        /// Name of the snapshot being taken.
        optional snapshot_in_progress ("snapshotInProgress"): Option<String>,
        /// Name of the restore being carried out.
        optional restore_in_progress ("restoreInProgress"): Option<String>,
        /// Whether an instance exists.
        optional created ("created"): Option<bool>,
        /// Whether the instance is ready.
        optional ready ("ready"): Option<bool>,
        /// Summary for people, such as `Stopped` or `Running`.
        optional printable_status ("printableStatus"): Option<String>,
        /// Conditions of the machine and its instance.
        optional conditions ("conditions"): Vec<Condition>,
        /// Starts and stops still to be carried out, in order.
        optional state_change_requests ("stateChangeRequests"): Vec<VirtualMachineStateChangeRequest>,
        /// Volumes still to be added or removed.
        optional volume_requests ("volumeRequests"): Vec<VirtualMachineVolumeRequest>,
        /// Whether each volume can be snapshotted.
        optional volume_snapshot_statuses ("volumeSnapshotStatuses"): Vec<VolumeSnapshotStatus>,
        /// Repeated failures to start, and when the next attempt is due.
        optional start_failure ("startFailure"): Option<VirtualMachineStartFailure>,
        /// The memory dump being taken.
        optional memory_dump_request ("memoryDumpRequest"): Option<VirtualMachineMemoryDumpRequest>,
        /// Generation of the spec last acted upon.
        optional observed_generation ("observedGeneration"): Option<i64>,
        /// Generation of the spec last seen.
        optional desired_generation ("desiredGeneration"): Option<i64>,
        /// Run strategy last acted upon.
        optional run_strategy ("runStrategy"): Option<String>,
        /// The change of volumes being carried out.
        optional volume_update_state ("volumeUpdateState"): Option<VolumeUpdateState>,
        /// State of changed block tracking.
        optional changed_block_tracking ("changedBlockTracking"): Option<ChangedBlockTrackingStatus>,
        /// The instancetype in use.
        optional instancetype_ref ("instancetypeRef"): Option<InstancetypeStatusRef>,
        /// The preference in use.
        optional preference_ref ("preferenceRef"): Option<InstancetypeStatusRef>,
    }
}

object! {
    /// One condition.
    pub struct Condition {
        /// Name of the condition, such as `Ready`.
        required type_ ("type"): String,
        /// `True`, `False` or `Unknown`.
        required status ("status"): String,
        /// When it was last checked.
        optional last_probe_time ("lastProbeTime"): Option<Time>,
        /// When `status` last changed.
        optional last_transition_time ("lastTransitionTime"): Option<Time>,
        /// Reason of the status, one word.
        optional reason ("reason"): Option<String>,
        /// Reason of the status, for people.
        optional message ("message"): Option<String>,
    }
}

object! {
    /// The instancetype or preference in use.
    pub struct InstancetypeStatusRef {
        /// Its name.
        optional name ("name"): Option<String>,
        /// Its kind.
        optional kind ("kind"): Option<String>,
        /// The revision that froze its content.
        optional controller_revision_ref ("controllerRevisionRef"): Option<ControllerRevisionRef>,
        /// The volume it was inferred from.
        optional infer_from_volume ("inferFromVolume"): Option<String>,
        /// What a failed inference does.
        optional infer_from_volume_failure_policy ("inferFromVolumeFailurePolicy"): Option<String>,
    }
}

object! {
    /// A ControllerRevision.
    pub struct ControllerRevisionRef {
        /// Its name.
        optional name ("name"): Option<String>,
    }
}

object! {
    /// A memory dump being taken.
    pub struct VirtualMachineMemoryDumpRequest {
        /// The claim it goes to.
        required claim_name ("claimName"): String,
        /// How far it is.
        required phase ("phase"): String,
        /// Whether the claim is to be detached.
        optional remove ("remove"): Option<bool>,
        /// When it began.
        optional start_timestamp ("startTimestamp"): Option<Time>,
        /// When it ended.
        optional end_timestamp ("endTimestamp"): Option<Time>,
        /// File in the claim.
        optional file_name ("fileName"): Option<String>,
        /// What went wrong.
        optional message ("message"): Option<String>,
    }
}

object! {
    /// Repeated failures to start.
    pub struct VirtualMachineStartFailure {
        /// Failures in a row.
        optional consecutive_fail_count ("consecutiveFailCount"): Option<i32>,
        /// UID of the instance that failed last.
        optional last_failed_vmi_uid ("lastFailedVMIUID"): Option<String>,
        /// When the next attempt is due.
        optional retry_after_timestamp ("retryAfterTimestamp"): Option<Time>,
    }
}

object! {
    /// A start or stop to be carried out.
    pub struct VirtualMachineStateChangeRequest {
        /// `Start` or `Stop`.
        required action ("action"): String,
        /// Parameters of the action, such as `paused`.
        optional data ("data"): BTreeMap<String, String>,
        /// UID of the instance to stop.
        optional uid ("uid"): Option<String>,
    }
}

object! {
    /// A volume to add or remove; exactly one.
    pub struct VirtualMachineVolumeRequest {
        /// The volume to add.
        optional add_volume_options ("addVolumeOptions"): Option<AddVolumeOptions>,
        /// The volume to remove.
        optional remove_volume_options ("removeVolumeOptions"): Option<RemoveVolumeOptions>,
    }
}

object! {
    /// A volume to add while running.
    pub struct AddVolumeOptions {
        /// Name of the volume.
        required name ("name"): String,
        /// The disk that shows it.
        required disk ("disk"): Disk,
        /// Where its bytes come from.
        required volume_source ("volumeSource"): HotplugVolumeSource,
        /// `All` asks for a check only.
        optional dry_run ("dryRun"): Vec<String>,
    }
}

object! {
    /// Source of a volume added while running; exactly one.
    pub struct HotplugVolumeSource {
        /// A PersistentVolumeClaim.
        optional persistent_volume_claim ("persistentVolumeClaim"): Option<PersistentVolumeClaimSource>,
        /// The claim that a data volume fills.
        optional data_volume ("dataVolume"): Option<DataVolumeVolumeSource>,
    }
}

object! {
    /// A volume to remove while running.
    pub struct RemoveVolumeOptions {
        /// Name of the volume.
        required name ("name"): String,
        /// `All` asks for a check only.
        optional dry_run ("dryRun"): Vec<String>,
    }
}

object! {
    /// Whether a volume can be snapshotted.
    pub struct VolumeSnapshotStatus {
        /// Name of the volume.
        required name ("name"): String,
        /// Whether it can.
        required enabled ("enabled"): bool,
        /// Why, or why not.
        optional reason ("reason"): Option<String>,
    }
}

object! {
    /// A change of volumes being carried out.
    pub struct VolumeUpdateState {
        /// Volumes moved by a migration.
        optional volume_migration_state ("volumeMigrationState"): Option<VolumeMigrationState>,
    }
}

object! {
    /// Volumes moved by a migration.
    pub struct VolumeMigrationState {
        /// The volumes.
        optional migrated_volumes ("migratedVolumes"): Vec<StorageMigratedVolumeInfo>,
    }
}

object! {
    /// A volume moved from one claim to another.
    pub struct StorageMigratedVolumeInfo {
        /// Name of the volume.
        required volume_name ("volumeName"): String,
        /// The claim it leaves.
        optional source_pvc_info ("sourcePVCInfo"): Option<PersistentVolumeClaimInfo>,
        /// The claim it goes to.
        optional destination_pvc_info ("destinationPVCInfo"): Option<PersistentVolumeClaimInfo>,
    }
}

object! {
    /// What is known of a claim.
    pub struct PersistentVolumeClaimInfo {
        /// Name of the claim.
        optional claim_name ("claimName"): Option<String>,
        /// Its access modes.
        optional access_modes ("accessModes"): Vec<String>,
        /// `Filesystem` or `Block`.
        optional volume_mode ("volumeMode"): Option<String>,
        /// Actual sizes by resource name.
        optional capacity ("capacity"): BTreeMap<String, Quantity>,
        /// Requested sizes by resource name.
        optional requests ("requests"): BTreeMap<String, Quantity>,
        /// Whether all space was allocated in advance.
        optional preallocated ("preallocated"): Option<bool>,
        /// Share of the space that the filesystem takes, 0 to 1.
        optional filesystem_overhead ("filesystemOverhead"): Option<String>,
    }
}

object! {
    /// State of changed block tracking.
    pub struct ChangedBlockTrackingStatus {
        /// State, such as `Enabled`.
        required state ("state"): String,
        /// The backup being taken.
        optional backup_status ("backupStatus"): Option<VirtualMachineInstanceBackupStatus>,
    }
}

object! {
    /// A backup being taken.
    pub struct VirtualMachineInstanceBackupStatus {
        /// Name of the backup.
        optional backup_name ("backupName"): Option<String>,
        /// When it began.
        optional start_timestamp ("startTimestamp"): Option<Time>,
        /// When it ended.
        optional end_timestamp ("endTimestamp"): Option<Time>,
        /// Whether it ended.
        optional completed ("completed"): Option<bool>,
        /// Whether it failed.
        optional failed ("failed"): Option<bool>,
        /// Details for people.
        optional backup_msg ("backupMsg"): Option<String>,
        /// Checkpoint that the next incremental backup starts from.
        optional checkpoint_name ("checkpointName"): Option<String>,
        /// Volumes in the backup.
        optional volumes ("volumes"): Vec<VirtualMachineInstanceBackupVolumeInfo>,
        /// Whether the guest's filesystems were frozen.
        optional quiesce_status ("quiesceStatus"): Option<String>,
    }
}

object! {
    /// A volume in a backup.
    pub struct VirtualMachineInstanceBackupVolumeInfo {
        /// Name of the volume.
        required volume_name ("volumeName"): String,
    }
}

object! {
    /// What was last observed of an instance.
    pub struct VirtualMachineInstanceStatus {
        /// Node it runs on.
        optional node_name ("nodeName"): Option<String>,
        /// Why it is in this phase.
        optional reason ("reason"): Option<String>,
        /// Conditions of the instance.
        optional conditions ("conditions"): Vec<Condition>,
        /// `Pending`, `Scheduling`, `Scheduled`, `Running`, `Succeeded`, `Failed` or `Unknown`.
        optional phase ("phase"): Option<String>,
        /// When each phase began.
        optional phase_transition_timestamps ("phaseTransitionTimestamps"): Vec<VirtualMachineInstancePhaseTransitionTimestamp>,
        /// Network interfaces as found.
        optional interfaces ("interfaces"): Vec<VirtualMachineInstanceNetworkInterface>,
        /// What the guest agent tells of the system.
        optional guest_os_info ("guestOSInfo"): Option<VirtualMachineInstanceGuestOsInfo>,
        /// The migration being carried out, or the last one.
        optional migration_state ("migrationState"): Option<VirtualMachineInstanceMigrationState>,
        /// How it can migrate: `BlockMigration` or `LiveMigration`.
        optional migration_method ("migrationMethod"): Option<String>,
        /// Transport of migrations, `Unix`.
        optional migration_transport ("migrationTransport"): Option<String>,
        /// Quality of service class of the pod.
        optional qos_class ("qosClass"): Option<String>,
        /// Version of the launcher's image.
        optional launcher_container_image_version ("launcherContainerImageVersion"): Option<String>,
        /// Node that is being drained.
        optional evacuation_node_name ("evacuationNodeName"): Option<String>,
        /// Node names by the UIDs of pods that exist for it.
        optional active_pods ("activePods"): BTreeMap<String, String>,
        /// Volumes as found.
        optional volume_status ("volumeStatus"): Vec<VolumeStatus>,
        /// Checksums of kernel and initrd.
        optional kernel_boot_status ("kernelBootStatus"): Option<KernelBootStatus>,
        /// `frozen` while the guest's filesystems are.
        optional fs_freeze_status ("fsFreezeStatus"): Option<String>,
        /// Hints for scheduling.
        optional topology_hints ("topologyHints"): Option<TopologyHints>,
        /// ControllerRevision of the machine it was made from.
        optional virtual_machine_revision_name ("virtualMachineRevisionName"): Option<String>,
        /// User id that the VMM runs as, 107.
        optional runtime_user ("runtimeUser"): Option<u64>,
        /// Context id of its VSOCK channel.
        optional vsock_cid ("VSOCKCID"): Option<u32>,
        /// SELinux context of the pod.
        optional selinux_context ("selinuxContext"): Option<String>,
        /// Machine type as resolved.
        optional machine ("machine"): Option<Machine>,
        /// CPU topology at present.
        optional current_cpu_topology ("currentCPUTopology"): Option<CpuTopologyStatus>,
        /// Memory at present.
        optional memory ("memory"): Option<MemoryStatus>,
        /// Volumes moved by the migration.
        optional migrated_volumes ("migratedVolumes"): Vec<StorageMigratedVolumeInfo>,
        /// State of changed block tracking.
        optional changed_block_tracking ("changedBlockTracking"): Option<ChangedBlockTrackingStatus>,
    }
}

object! {
    /// When a phase began.
    pub struct VirtualMachineInstancePhaseTransitionTimestamp {
        /// The phase.
        optional phase ("phase"): Option<String>,
        /// When it began.
        optional phase_transition_timestamp ("phaseTransitionTimestamp"): Option<Time>,
    }
}

object! {
    /// A network interface as found.
    pub struct VirtualMachineInstanceNetworkInterface {
        /// Name in the spec.
        optional name ("name"): Option<String>,
        /// Name in the guest.
        optional interface_name ("interfaceName"): Option<String>,
        /// Name in the pod.
        optional pod_interface_name ("podInterfaceName"): Option<String>,
        /// First address.
        optional ip_address ("ipAddress"): Option<String>,
        /// All addresses.
        optional ip_addresses ("ipAddresses"): Vec<String>,
        /// MAC address.
        optional mac ("mac"): Option<String>,
        /// Who reported it, such as `domain, guest-agent`.
        optional info_source ("infoSource"): Option<String>,
        /// Number of queues.
        optional queue_count ("queueCount"): Option<i32>,
        /// `up` or `down`.
        optional link_state ("linkState"): Option<String>,
    }
}

object! {
    /// What the guest agent tells of the system.
    pub struct VirtualMachineInstanceGuestOsInfo {
        /// Identifier of the system, such as `debian`.
        optional id ("id"): Option<String>,
        /// Name of the system.
        optional name ("name"): Option<String>,
        /// Name and version for people.
        optional pretty_name ("prettyName"): Option<String>,
        /// Version for people.
        optional version ("version"): Option<String>,
        /// Version number.
        optional version_id ("versionId"): Option<String>,
        /// Kernel release.
        optional kernel_release ("kernelRelease"): Option<String>,
        /// Kernel version string.
        optional kernel_version ("kernelVersion"): Option<String>,
        /// Hardware name of the kernel, such as `x86_64`.
        optional machine ("machine"): Option<String>,
    }
}

// Texts only.
impl Eq for VirtualMachineInstanceGuestOsInfo {}

object! {
    /// Checksums of kernel and initrd.
    pub struct KernelBootStatus {
        /// The kernel; absent when none is configured.
        optional kernel_info ("kernelInfo"): Option<FileChecksum>,
        /// The initrd; absent when none is configured.
        optional initrd_info ("initrdInfo"): Option<FileChecksum>,
    }
}

object! {
    /// Checksum of a file.
    pub struct FileChecksum {
        /// CRC-32 (IEEE 802.3) of its bytes.
        optional checksum ("checksum"): Option<u32>,
    }
}

object! {
    /// CPU topology at present.
    pub struct CpuTopologyStatus {
        /// Sockets.
        optional sockets ("sockets"): Option<u32>,
        /// Cores per socket.
        optional cores ("cores"): Option<u32>,
        /// Threads per core.
        optional threads ("threads"): Option<u32>,
    }
}

object! {
    /// Memory at present.
    pub struct MemoryStatus {
        /// Guest memory at start.
        optional guest_at_boot ("guestAtBoot"): Option<Quantity>,
        /// Guest memory now.
        optional guest_current ("guestCurrent"): Option<Quantity>,
        /// Guest memory asked for.
        optional guest_requested ("guestRequested"): Option<Quantity>,
        /// Memory of the machinery beside the guest's.
        optional memory_overhead ("memoryOverhead"): Option<Quantity>,
    }
}

object! {
    /// Hints for scheduling.
    pub struct TopologyHints {
        /// Frequency of the time stamp counter, in Hz.
        optional tsc_frequency ("tscFrequency"): Option<i64>,
    }
}

object! {
    /// A volume as found.
    pub struct VolumeStatus {
        /// Name of the volume.
        required name ("name"): String,
        /// Device name in the guest, such as `vda`.
        required target ("target"): String,
        /// How far plugging is.
        optional phase ("phase"): Option<String>,
        /// Reason of the phase, one word.
        optional reason ("reason"): Option<String>,
        /// Reason of the phase, for people.
        optional message ("message"): Option<String>,
        /// The claim behind it.
        optional persistent_volume_claim_info ("persistentVolumeClaimInfo"): Option<PersistentVolumeClaimInfo>,
        /// The pod that attaches a plugged volume.
        optional hotplug_volume ("hotplugVolume"): Option<HotplugVolumeStatus>,
        /// Size in bytes.
        optional size ("size"): Option<i64>,
        /// The memory dump in it.
        optional memory_dump_volume ("memoryDumpVolume"): Option<DomainMemoryDumpInfo>,
        /// Checksum of the container disk.
        optional container_disk_volume ("containerDiskVolume"): Option<FileChecksum>,
    }
}

object! {
    /// The pod that attaches a plugged volume.
    pub struct HotplugVolumeStatus {
        /// Its name.
        optional attach_pod_name ("attachPodName"): Option<String>,
        /// Its UID.
        optional attach_pod_uid ("attachPodUID"): Option<String>,
    }
}

object! {
    /// A memory dump.
    pub struct DomainMemoryDumpInfo {
        /// When it began.
        optional start_timestamp ("startTimestamp"): Option<Time>,
        /// When it ended.
        optional end_timestamp ("endTimestamp"): Option<Time>,
        /// The claim it is in.
        optional claim_name ("claimName"): Option<String>,
        /// File in the claim.
        optional target_file_name ("targetFileName"): Option<String>,
    }
}
