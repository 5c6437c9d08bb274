//! What was observed of a live migration; part of an instance's status.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::schema::object;
use quantity::Quantity;

object! {
    /// A live migration.
    pub struct VirtualMachineInstanceMigrationState {
        /// When it began.
        optional start_timestamp ("startTimestamp"): Option<Time>,
        /// When it ended.
        optional end_timestamp ("endTimestamp"): Option<Time>,
        /// When the machine was ready on the target.
        optional target_node_domain_ready_timestamp ("targetNodeDomainReadyTimestamp"): Option<Time>,
        /// Whether the machine was seen on the target.
        optional target_node_domain_detected ("targetNodeDomainDetected"): Option<bool>,
        /// Address of the target.
        optional target_node_address ("targetNodeAddress"): Option<String>,
        /// Ports of the target: listening port to the port it stands for.
        optional target_direct_migration_node_ports ("targetDirectMigrationNodePorts"): BTreeMap<String, i32>,
        /// Node it goes to.
        optional target_node ("targetNode"): Option<String>,
        /// Pod it goes to.
        optional target_pod ("targetPod"): Option<String>,
        /// Pod that attaches volumes on the target.
        optional target_attachment_pod_uid ("targetAttachmentPodUID"): Option<String>,
        /// Node it leaves.
        optional source_node ("sourceNode"): Option<String>,
        /// Pod it leaves.
        optional source_pod ("sourcePod"): Option<String>,
        /// Whether it ended.
        optional completed ("completed"): Option<bool>,
        /// Whether it failed.
        optional failed ("failed"): Option<bool>,
        /// Whether it is to be aborted.
        optional abort_requested ("abortRequested"): Option<bool>,
        /// How the abort ended.
        optional abort_status ("abortStatus"): Option<String>,
        /// Why it failed.
        optional failure_reason ("failureReason"): Option<String>,
        /// UID of the migration object.
        optional migration_uid ("migrationUid"): Option<String>,
        /// `PreCopy`, `PostCopy` or `Paused`.
        optional mode ("mode"): Option<String>,
        /// Policy that was applied.
        optional migration_policy_name ("migrationPolicyName"): Option<String>,
        /// Settings in effect.
        optional migration_configuration ("migrationConfiguration"): Option<MigrationConfiguration>,
        /// Host CPUs on the target.
        optional target_cpu_set ("targetCPUSet"): Vec<i32>,
        /// Topology of the target, JSON.
        optional target_node_topology ("targetNodeTopology"): Option<String>,
        /// Claim with the persistent state on the source.
        optional source_persistent_state_pvc_name ("sourcePersistentStatePVCName"): Option<String>,
        /// Claim with the persistent state on the target.
        optional target_persistent_state_pvc_name ("targetPersistentStatePVCName"): Option<String>,
        /// The source's view.
        optional source_state ("sourceState"): Option<MigrationSourceState>,
        /// The target's view.
        optional target_state ("targetState"): Option<MigrationTargetState>,
        /// Which network carries it.
        optional migration_network_type ("migrationNetworkType"): Option<String>,
        /// Memory of the machinery on the target.
        optional target_memory_overhead ("targetMemoryOverhead"): Option<Quantity>,
    }
}

object! {
    /// Settings of a migration.
    pub struct MigrationConfiguration {
        /// Taint that tells of a drain.
        optional node_drain_taint_key ("nodeDrainTaintKey"): Option<String>,
        /// Migrations that may leave a node at once.
        optional parallel_outbound_migrations_per_node ("parallelOutboundMigrationsPerNode"): Option<u32>,
        /// Migrations that may run at once.
        optional parallel_migrations_per_cluster ("parallelMigrationsPerCluster"): Option<u32>,
        /// Slows the guest down until it converges.
        optional allow_auto_converge ("allowAutoConverge"): Option<bool>,
        /// Bytes per second for one migration; 0 is unlimited.
        optional bandwidth_per_migration ("bandwidthPerMigration"): Option<Quantity>,
        /// Seconds per GiB until it is given up.
        optional completion_timeout_per_gib ("completionTimeoutPerGiB"): Option<i64>,
        /// Longest pause of the guest, in milliseconds.
        optional max_downtime_ms ("maxDowntimeMs"): Option<u64>,
        /// Seconds without progress until it is given up.
        optional progress_timeout ("progressTimeout"): Option<i64>,
        /// Seconds to wait for utility volumes to go.
        optional utility_volumes_timeout ("utilityVolumesTimeout"): Option<i64>,
        /// Migrates even where it is not safe.
        optional unsafe_migration_override ("unsafeMigrationOverride"): Option<bool>,
        /// Lets the guest run on the target before all memory is there.
        optional allow_post_copy ("allowPostCopy"): Option<bool>,
        /// May pause the guest to finish.
        optional allow_workload_disruption ("allowWorkloadDisruption"): Option<bool>,
        /// Sends memory in the clear.
        optional disable_tls ("disableTLS"): Option<bool>,
        /// Network attachment that carries it.
        optional network ("network"): Option<String>,
        /// Gives the target the source's SELinux level.
        optional match_selinux_level_on_migration ("matchSELinuxLevelOnMigration"): Option<bool>,
        /// Settings that may change.
        optional experimental ("experimental"): Option<ExperimentalMigrationOptions>,
    }
}

object! {
    /// Migration settings that may change.
    pub struct ExperimentalMigrationOptions {
        /// How a migration without progress is noticed.
        optional stall_detector ("stallDetector"): Option<StallDetectorOptions>,
        /// How the allowed pause grows.
        optional downtime_tuning ("downtimeTuning"): Option<DowntimeTuningOptions>,
        /// Compression of the stream.
        optional compression ("compression"): Option<String>,
    }
}

object! {
    /// How a migration without progress is noticed.
    pub struct StallDetectorOptions {
        /// Tolerated deviation.
        optional stall_margin ("stallMargin"): Option<i64>,
        /// Weight of the newest sample.
        optional ewma_alpha ("ewmaAlpha"): Option<Quantity>,
        /// Seconds without progress.
        optional stall_progress_timeout ("stallProgressTimeout"): Option<i64>,
        /// Seconds allowed for the switch.
        optional switchover_timeout ("switchoverTimeout"): Option<i64>,
        /// Factor that tells whether copying can end.
        optional precopy_possible_factor ("precopyPossibleFactor"): Option<Quantity>,
        /// How quickly patience fades.
        optional patience_window_decay_factor ("patienceWindowDecayFactor"): Option<Quantity>,
        /// Switches at a local minimum of what remains.
        optional search_local_minima ("searchLocalMinima"): Option<bool>,
        /// Factor on the completion timeout.
        optional completion_timeout_factor ("completionTimeoutFactor"): Option<Quantity>,
    }
}

object! {
    /// How the allowed pause grows.
    pub struct DowntimeTuningOptions {
        /// First value, in milliseconds.
        optional initial_ms ("initialMs"): Option<i64>,
        /// Number of steps.
        optional steps ("steps"): Option<i32>,
        /// Iteration after which it grows.
        optional start_after_iteration ("startAfterIteration"): Option<i64>,
        /// Seconds between steps.
        optional cooldown_seconds ("cooldownSeconds"): Option<i32>,
    }
}

object! {
    /// The source's view of a migration.
    pub struct MigrationSourceState {
        /// Node it leaves.
        optional node ("node"): Option<String>,
        /// Pod it leaves.
        optional pod ("pod"): Option<String>,
        /// UID of the migration object.
        optional migration_uid ("migrationUID"): Option<String>,
        /// Name of the machine for the VMM.
        optional domain_name ("domainName"): Option<String>,
        /// Namespace of the machine.
        optional domain_namespace ("domainNamespace"): Option<String>,
        /// Address that keeps both sides in step.
        optional sync_address ("syncAddress"): Option<String>,
        /// Claim with the persistent state.
        optional persistent_state_pvc_name ("persistentStatePVCName"): Option<String>,
        /// SELinux context of the pod.
        optional selinux_context ("selinuxContext"): Option<String>,
        /// UID of the instance.
        optional virtual_machine_instance_uid ("virtualMachineInstanceUID"): Option<String>,
        /// Labels that the target's node must carry.
        optional node_selectors ("nodeSelectors"): BTreeMap<String, String>,
    }
}

object! {
    /// The target's view of a migration.
    pub struct MigrationTargetState {
        /// Node it goes to.
        optional node ("node"): Option<String>,
        /// Pod it goes to.
        optional pod ("pod"): Option<String>,
        /// UID of the migration object.
        optional migration_uid ("migrationUID"): Option<String>,
        /// Name of the machine for the VMM.
        optional domain_name ("domainName"): Option<String>,
        /// Namespace of the machine.
        optional domain_namespace ("domainNamespace"): Option<String>,
        /// Address that keeps both sides in step.
        optional sync_address ("syncAddress"): Option<String>,
        /// Claim with the persistent state.
        optional persistent_state_pvc_name ("persistentStatePVCName"): Option<String>,
        /// SELinux context of the pod.
        optional selinux_context ("selinuxContext"): Option<String>,
        /// UID of the instance.
        optional virtual_machine_instance_uid ("virtualMachineInstanceUID"): Option<String>,
        /// When the machine was ready.
        optional domain_ready_timestamp ("domainReadyTimestamp"): Option<Time>,
        /// Whether the machine was seen.
        optional domain_detected ("domainDetected"): Option<bool>,
        /// Address of the node.
        optional node_address ("nodeAddress"): Option<String>,
        /// Listening port to the port it stands for.
        optional direct_migration_node_ports ("directMigrationNodePorts"): BTreeMap<String, i32>,
        /// Pod that attaches volumes.
        optional attachment_pod_uid ("attachmentPodUID"): Option<String>,
        /// Host CPUs.
        optional cpu_set ("cpuSet"): Vec<i32>,
        /// Topology of the node, JSON.
        optional node_topology ("nodeTopology"): Option<String>,
    }
}
