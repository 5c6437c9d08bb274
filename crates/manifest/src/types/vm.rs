//! The `VirtualMachine` kind: what should exist and when it should run.
//!
//! A virtual machine holds a template; each run of it is a [`VirtualMachineInstance`] made from that template.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::data_volumes::DataVolumeTemplateSpec;
use super::status::VirtualMachineStatus;
use super::vmi::VirtualMachineInstanceSpec;
use crate::schema::object;

object! {
    /// A machine that outlives its runs: run strategy, template and status.
    pub struct VirtualMachine {
        /// API version, `kubevirt.io/v1` or `kubevirt.io/v1alpha3`.
        optional api_version ("apiVersion"): String,
        /// Always `VirtualMachine`.
        optional kind ("kind"): String,
        /// Name, namespace, labels and annotations.
        optional metadata ("metadata"): ObjectMeta,
        /// What is asked for.
        required spec ("spec"): VirtualMachineSpec,
        /// What was last observed; written by the controller.
        optional status ("status"): Option<VirtualMachineStatus>,
    }
}

object! {
    /// What is asked of a virtual machine.
    pub struct VirtualMachineSpec {
        /// Older form of `run_strategy`: `true` is `Always`, `false` is `Halted`. Exactly one of the two
        /// may be set.
        optional running ("running"): Option<bool>,
        /// When the machine runs: `Always`, `RerunOnFailure`, `Manual`, `Halted`, `Once` or
        /// `WaitAsReceiver`.
        optional run_strategy ("runStrategy"): Option<String>,
        /// The instancetype that supplies CPU and memory.
        optional instancetype ("instancetype"): Option<InstancetypeMatcher>,
        /// The preference that supplies device defaults.
        optional preference ("preference"): Option<InstancetypeMatcher>,
        /// The instance to create for each run.
        required template ("template"): VirtualMachineInstanceTemplateSpec,
        /// Data volumes that are created for, and owned by, this machine.
        optional data_volume_templates ("dataVolumeTemplates"): Vec<DataVolumeTemplateSpec>,
        /// How a change of volumes takes effect: `Replacement` (also when unset) or `Migration`.
        optional update_volumes_strategy ("updateVolumesStrategy"): Option<String>,
    }
}

object! {
    /// Chooses an instancetype or a preference, by name or by inference from a volume.
    pub struct InstancetypeMatcher {
        /// Name of the instancetype or preference.
        optional name ("name"): Option<String>,
        /// Its kind; unset means the cluster-wide one.
        optional kind ("kind"): Option<String>,
        /// Name of the ControllerRevision that froze its content.
        optional revision_name ("revisionName"): Option<String>,
        /// Name of the volume whose labels tell the instancetype or preference.
        optional infer_from_volume ("inferFromVolume"): Option<String>,
        /// What a failed inference does: `Reject` (also when unset) or `Ignore`.
        optional infer_from_volume_failure_policy ("inferFromVolumeFailurePolicy"): Option<String>,
    }
}

object! {
    /// The instance that a virtual machine creates for each run.
    pub struct VirtualMachineInstanceTemplateSpec {
        /// Labels and annotations that the instance receives; a name or namespace here is ignored.
        optional metadata ("metadata"): Option<ObjectMeta>,
        /// The instance's spec.
        required spec ("spec"): VirtualMachineInstanceSpec,
    }
}
