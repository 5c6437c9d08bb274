//! Data volumes of the Containerized Data Importer, as a virtual machine embeds them.

use k8s_openapi::api::core::v1::{
    PersistentVolumeClaimSpec, TypedLocalObjectReference, TypedObjectReference, VolumeResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};

use crate::schema::{Empty, object};

object! {
    /// A data volume created for, and owned by, a virtual machine.
    pub struct DataVolumeTemplateSpec {
        /// API version of the data volume.
        optional api_version ("apiVersion"): Option<String>,
        /// Always `DataVolume` when set.
        optional kind ("kind"): Option<String>,
        /// Name, labels and annotations of the data volume.
        optional metadata ("metadata"): Option<ObjectMeta>,
        /// Where the content comes from and where it goes.
        required spec ("spec"): DataVolumeSpec,
        /// Placeholder that never holds anything.
        optional status ("status"): Option<Empty>,
    }
}

object! {
    /// Where the content of a claim comes from and what the claim is like.
    pub struct DataVolumeSpec {
        /// Where the content comes from.
        optional source ("source"): Option<DataVolumeSource>,
        /// A DataSource object that tells where it comes from instead.
        optional source_ref ("sourceRef"): Option<DataVolumeSourceRef>,
        /// The claim, spelled out.
        optional pvc ("pvc"): Option<PersistentVolumeClaimSpec>,
        /// The claim, with gaps that the importer fills in.
        optional storage ("storage"): Option<StorageSpec>,
        /// Scheduling priority of the import.
        optional priority_class_name ("priorityClassName"): Option<String>,
        /// `kubevirt` (a disk image; also when unset) or `archive`.
        optional content_type ("contentType"): Option<String>,
        /// Steps of a warm import.
        optional checkpoints ("checkpoints"): Vec<DataVolumeCheckpoint>,
        /// Whether the last checkpoint listed is the final one.
        optional final_checkpoint ("finalCheckpoint"): Option<bool>,
        /// Allocates all space in advance.
        optional preallocation ("preallocation"): Option<bool>,
    }
}

object! {
    /// One step of a warm import.
    pub struct DataVolumeCheckpoint {
        /// Identifier of the snapshot before.
        required previous ("previous"): String,
        /// Identifier of this snapshot.
        required current ("current"): String,
    }
}

object! {
    /// Where content comes from; exactly one.
    pub struct DataVolumeSource {
        /// An HTTP server.
        optional http ("http"): Option<DataVolumeSourceHttp>,
        /// An S3 bucket.
        optional s3 ("s3"): Option<DataVolumeSourceS3>,
        /// A Google Cloud Storage bucket.
        optional gcs ("gcs"): Option<DataVolumeSourceGcs>,
        /// A container image.
        optional registry ("registry"): Option<DataVolumeSourceRegistry>,
        /// Another claim.
        optional pvc ("pvc"): Option<DataVolumeSourceObject>,
        /// An upload by the user.
        optional upload ("upload"): Option<Empty>,
        /// An empty disk.
        optional blank ("blank"): Option<Empty>,
        /// oVirt's imageio service.
        optional imageio ("imageio"): Option<DataVolumeSourceImageIo>,
        /// VMware, by its disk development kit.
        optional vddk ("vddk"): Option<DataVolumeSourceVddk>,
        /// A volume snapshot.
        optional snapshot ("snapshot"): Option<DataVolumeSourceObject>,
    }
}

object! {
    /// An HTTP server.
    pub struct DataVolumeSourceHttp {
        /// URL of the content.
        required url ("url"): String,
        /// Secret with user name and password.
        optional secret_ref ("secretRef"): Option<String>,
        /// ConfigMap with certificates to trust.
        optional cert_config_map ("certConfigMap"): Option<String>,
        /// Header lines to send.
        optional extra_headers ("extraHeaders"): Vec<String>,
        /// Secrets with header lines to send.
        optional secret_extra_headers ("secretExtraHeaders"): Vec<String>,
    }
}

object! {
    /// An S3 bucket.
    pub struct DataVolumeSourceS3 {
        /// URL of the object.
        required url ("url"): String,
        /// Secret with access key and secret key.
        optional secret_ref ("secretRef"): Option<String>,
        /// ConfigMap with certificates to trust.
        optional cert_config_map ("certConfigMap"): Option<String>,
    }
}

object! {
    /// A Google Cloud Storage bucket.
    pub struct DataVolumeSourceGcs {
        /// URL of the object.
        required url ("url"): String,
        /// Secret with the service account key.
        optional secret_ref ("secretRef"): Option<String>,
    }
}

object! {
    /// A container image.
    pub struct DataVolumeSourceRegistry {
        /// URL, `docker://` or `oci-archive://`.
        optional url ("url"): Option<String>,
        /// OpenShift image stream instead of a URL.
        optional image_stream ("imageStream"): Option<String>,
        /// Who pulls: `pod` (the importer) or `node` (the container runtime).
        optional pull_method ("pullMethod"): Option<String>,
        /// Secret with user name and password.
        optional secret_ref ("secretRef"): Option<String>,
        /// ConfigMap with certificates to trust.
        optional cert_config_map ("certConfigMap"): Option<String>,
        /// Which image of an index to take.
        optional platform ("platform"): Option<PlatformOptions>,
    }
}

object! {
    /// Which image of an index to take.
    pub struct PlatformOptions {
        /// CPU architecture of the image.
        optional architecture ("architecture"): Option<String>,
    }
}

object! {
    /// A claim or snapshot to copy.
    pub struct DataVolumeSourceObject {
        /// Its namespace.
        required namespace ("namespace"): String,
        /// Its name.
        required name ("name"): String,
    }
}

object! {
    /// oVirt's imageio service.
    pub struct DataVolumeSourceImageIo {
        /// URL of the service.
        required url ("url"): String,
        /// Identifier of the disk.
        required disk_id ("diskId"): String,
        /// Secret with user name and password.
        optional secret_ref ("secretRef"): Option<String>,
        /// ConfigMap with certificates to trust.
        optional cert_config_map ("certConfigMap"): Option<String>,
        /// Trusts any certificate.
        optional insecure_skip_verify ("insecureSkipVerify"): Option<bool>,
    }
}

object! {
    /// VMware, by its disk development kit.
    pub struct DataVolumeSourceVddk {
        /// URL of the vCenter or ESXi host.
        optional url ("url"): Option<String>,
        /// UUID of the machine the disk belongs to.
        optional uuid ("uuid"): Option<String>,
        /// Path of the disk on the datastore.
        optional backing_file ("backingFile"): Option<String>,
        /// Certificate thumbprint of the host.
        optional thumbprint ("thumbprint"): Option<String>,
        /// Secret with user name and password.
        optional secret_ref ("secretRef"): Option<String>,
        /// Image that carries the kit.
        optional init_image_url ("initImageURL"): Option<String>,
        /// ConfigMap with further arguments.
        optional extra_args ("extraArgs"): Option<String>,
    }
}

object! {
    /// A DataSource object.
    pub struct DataVolumeSourceRef {
        /// Its kind, `DataSource`.
        required kind ("kind"): String,
        /// Its namespace; the data volume's own when unset.
        optional namespace ("namespace"): Option<String>,
        /// Its name.
        required name ("name"): String,
    }
}

object! {
    /// A claim with gaps that the importer fills in from the storage class.
    pub struct StorageSpec {
        /// Access modes of the claim.
        optional access_modes ("accessModes"): Vec<String>,
        /// Labels of volumes to consider.
        optional selector ("selector"): Option<LabelSelector>,
        /// Size of the claim.
        optional resources ("resources"): Option<VolumeResourceRequirements>,
        /// A particular volume to bind.
        optional volume_name ("volumeName"): Option<String>,
        /// Storage class; the default one when unset.
        optional storage_class_name ("storageClassName"): Option<String>,
        /// `Filesystem` or `Block`.
        optional volume_mode ("volumeMode"): Option<String>,
        /// An object in the same namespace to fill the claim from.
        optional data_source ("dataSource"): Option<TypedLocalObjectReference>,
        /// An object in any namespace to fill the claim from.
        optional data_source_ref ("dataSourceRef"): Option<TypedObjectReference>,
    }
}
