//! Volumes: where the bytes of disks and filesystems come from.

use k8s_openapi::api::core::v1::{DownwardAPIVolumeFile, PersistentVolumeClaimVolumeSource};

use crate::schema::{Empty, object};
use quantity::Quantity;

object! {
    /// A volume with exactly one source; the disk or filesystem of the same name shows it to the guest.
    pub struct Volume {
        /// Name of the volume.
        required name ("name"): String,
        /// A disk file in a container image; writes last as long as the instance.
        optional container_disk ("containerDisk"): Option<ContainerDiskSource>,
        /// An empty sparse disk that lasts as long as the instance.
        optional empty_disk ("emptyDisk"): Option<EmptyDiskSource>,
        /// A disk file on the host.
        optional host_disk ("hostDisk"): Option<HostDisk>,
        /// A PersistentVolumeClaim.
        optional persistent_volume_claim ("persistentVolumeClaim"): Option<PersistentVolumeClaimSource>,
        /// The claim that a data volume fills.
        optional data_volume ("dataVolume"): Option<DataVolumeVolumeSource>,
        /// A claim read underneath; writes last as long as the instance.
        optional ephemeral ("ephemeral"): Option<EphemeralVolumeSource>,
        /// A cloud-init disk labelled `cidata`.
        optional cloud_init_no_cloud ("cloudInitNoCloud"): Option<CloudInitSource>,
        /// A cloud-init disk labelled `config-2`.
        optional cloud_init_config_drive ("cloudInitConfigDrive"): Option<CloudInitSource>,
        /// A ConfigMap as an ISO image or a filesystem.
        optional config_map ("configMap"): Option<ConfigMapVolumeSource>,
        /// A Secret as an ISO image or a filesystem.
        optional secret ("secret"): Option<SecretVolumeSource>,
        /// A service account's token as an ISO image or a filesystem.
        optional service_account ("serviceAccount"): Option<ServiceAccountVolumeSource>,
        /// Fields of the pod as an ISO image or a filesystem.
        optional downward_api ("downwardAPI"): Option<DownwardApiVolumeSource>,
        /// Metrics of the host as a disk.
        optional downward_metrics ("downwardMetrics"): Option<Empty>,
        /// Answer files for a Windows guest.
        optional sysprep ("sysprep"): Option<SysprepSource>,
        /// The claim that memory dumps go to.
        optional memory_dump ("memoryDump"): Option<PersistentVolumeClaimSource>,
        /// A directory of the pod's container.
        optional container_path ("containerPath"): Option<ContainerPathVolumeSource>,
    }
}

object! {
    /// A disk file in a container image.
    pub struct ContainerDiskSource {
        /// Image reference.
        required image ("image"): String,
        /// Name of one Secret with registry credentials.
        optional image_pull_secret ("imagePullSecret"): Option<String>,
        /// `Always`, `IfNotPresent` or `Never`; chosen by the tag when unset.
        optional image_pull_policy ("imagePullPolicy"): Option<String>,
        /// Absolute path of the disk file; the only file in `/disk` when unset.
        optional path ("path"): Option<String>,
    }
}

object! {
    /// An empty sparse disk.
    pub struct EmptyDiskSource {
        /// Size of the disk.
        required capacity ("capacity"): Quantity,
    }
}

object! {
    /// A disk file on the host.
    pub struct HostDisk {
        /// Path on the host.
        required path ("path"): String,
        /// `Disk` (must exist) or `DiskOrCreate`.
        required type_ ("type"): String,
        /// Size of a file to create.
        optional capacity ("capacity"): Option<Quantity>,
        /// Lets several machines use the file.
        optional shared ("shared"): Option<bool>,
    }
}

object! {
    /// A PersistentVolumeClaim of the same namespace.
    pub struct PersistentVolumeClaimSource {
        /// Name of the claim.
        required claim_name ("claimName"): String,
        /// Mounts it read-only; `false` when unset.
        optional read_only ("readOnly"): Option<bool>,
        /// Can be plugged and unplugged while running.
        optional hotpluggable ("hotpluggable"): Option<bool>,
    }
}

object! {
    /// The claim that a data volume fills.
    pub struct DataVolumeVolumeSource {
        /// Name of the data volume and of its claim.
        required name ("name"): String,
        /// Can be plugged and unplugged while running.
        optional hotpluggable ("hotpluggable"): Option<bool>,
    }
}

object! {
    /// A claim under an overlay that is thrown away.
    pub struct EphemeralVolumeSource {
        /// The claim, opened read-only.
        optional persistent_volume_claim ("persistentVolumeClaim"): Option<PersistentVolumeClaimVolumeSource>,
    }
}

object! {
    /// Content of a cloud-init disk: one source of user data, one of network data, at least one of both.
    pub struct CloudInitSource {
        /// Secret with the key `userdata` or `userData`.
        optional secret_ref ("secretRef"): Option<LocalReference>,
        /// User data, base64.
        optional user_data_base64 ("userDataBase64"): Option<String>,
        /// User data, at most 2048 bytes.
        optional user_data ("userData"): Option<String>,
        /// Secret with the key `networkdata` or `networkData`.
        optional network_data_secret_ref ("networkDataSecretRef"): Option<LocalReference>,
        /// Network data, base64.
        optional network_data_base64 ("networkDataBase64"): Option<String>,
        /// Network data, at most 2048 bytes.
        optional network_data ("networkData"): Option<String>,
    }
}

object! {
    /// A ConfigMap of the same namespace.
    pub struct ConfigMapVolumeSource {
        /// Name of the ConfigMap.
        optional name ("name"): Option<String>,
        /// Goes on without it when it does not exist; `false` when unset.
        optional optional ("optional"): Option<bool>,
        /// Label of the ISO image.
        optional volume_label ("volumeLabel"): Option<String>,
    }
}

object! {
    /// A Secret of the same namespace.
    pub struct SecretVolumeSource {
        /// Name of the Secret.
        optional secret_name ("secretName"): Option<String>,
        /// Goes on without it when it does not exist; `false` when unset.
        optional optional ("optional"): Option<bool>,
        /// Label of the ISO image.
        optional volume_label ("volumeLabel"): Option<String>,
    }
}

object! {
    /// A service account's token.
    pub struct ServiceAccountVolumeSource {
        /// Name of the service account.
        optional service_account_name ("serviceAccountName"): Option<String>,
    }
}

object! {
    /// Fields of the pod as files.
    pub struct DownwardApiVolumeSource {
        /// The files and what each holds.
        optional fields ("fields"): Vec<DownwardAPIVolumeFile>,
        /// Label of the ISO image.
        optional volume_label ("volumeLabel"): Option<String>,
    }
}

object! {
    /// Answer files for a Windows guest; exactly one.
    pub struct SysprepSource {
        /// From a Secret.
        optional secret ("secret"): Option<LocalReference>,
        /// From a ConfigMap.
        optional config_map ("configMap"): Option<LocalReference>,
    }
}

object! {
    /// A directory of the pod's container, shown by virtiofs.
    pub struct ContainerPathVolumeSource {
        /// Absolute path in the container.
        required path ("path"): String,
        /// Refuses writes; `true` when unset.
        optional read_only ("readOnly"): Option<bool>,
    }
}

object! {
    /// An object of the same namespace, by name. Kubernetes' own type does not tell an empty name from none.
    pub struct LocalReference {
        /// Its name.
        optional name ("name"): Option<String>,
    }
}
