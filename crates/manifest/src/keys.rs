//! Keys of labels, annotations and finalizers that more than one crate must spell alike.
//!
//! Those of `kubevirt.io` are KubeVirt's; those of `ferrovirt.dev` are ours.

/// Label on a launcher Pod: UID of its VirtualMachineInstance.
pub const CREATED_BY: &str = "kubevirt.io/created-by";

/// Label on a launcher Pod, whose value is `virt-launcher`.
pub const APP: &str = "kubevirt.io";

/// Annotation on a launcher Pod: name of its VirtualMachineInstance.
pub const DOMAIN: &str = "kubevirt.io/domain";

/// Label on an instance and its Pod: node that it runs on.
pub const NODE_NAME: &str = "kubevirt.io/nodeName";

/// Annotation on an instance: generation of the VirtualMachine that it was made from.
pub const VM_GENERATION: &str = "kubevirt.io/vm-generation";

/// Annotation on an instance that waits for a machine which migrates here, and boots nothing.
pub const RECEIVER: &str = "kubevirt.io/create-migration-target";

/// Finalizer on a VirtualMachine, and on an instance that belongs to one.
pub const VM_FINALIZER: &str = "kubevirt.io/virtualMachineControllerFinalize";

/// Finalizer on an instance: its Pods are still to be ended.
pub const VMI_FINALIZER: &str = "kubevirt.io/foregroundDeleteVirtualMachine";

/// Annotation on a Pod: the files that are needed of its image volumes, a JSON object from volume names to lists of
/// absolute paths (`{"kernel-boot-volume": ["/boot/vmlinuz"]}`). A node may leave out every other file.
pub const IMAGE_PATHS: &str = "ferrovirt.dev/image-paths";

/// Annotation on a Pod, and on the instance that it runs: how far a pull is, [`PullProgress`] as JSON. Gone when nothing
/// is being pulled.
pub const PULL_PROGRESS: &str = "ferrovirt.dev/pull-progress";

/// Annotation on an instance: digest of the image that it booted.
pub const IMAGE_DIGEST: &str = "ferrovirt.dev/image-digest";

/// Annotation on an instance: release of the kernel that it booted, read from the file.
pub const KERNEL_VERSION: &str = "ferrovirt.dev/kernel-version";

/// Annotation on an instance: CRC-32 of the kernel file that it booted, eight hexadecimal digits.
pub const KERNEL_CHECKSUM: &str = "ferrovirt.dev/kernel-checksum";

/// Annotation on an instance: `true` or `false`, whether kernel or initrd differ from the last boot of its machine;
/// absent when there is no boot to compare with.
pub const KERNEL_CHANGED: &str = "ferrovirt.dev/kernel-changed";

/// Annotation on an instance: its boot's timeline, [`BootTimeline`](crate::machine_status::BootTimeline) as JSON.
pub const BOOT_TIMELINE: &str = "ferrovirt.dev/boot-timeline";

/// Annotation on a VirtualMachine: what its last instance booted, [`BootFacts`](crate::machine_status::BootFacts) as
/// JSON.
pub const LAST_BOOT: &str = "ferrovirt.dev/last-boot";

/// Annotation on an instance (in a VirtualMachine, on its template): `true` lets the guest reach services on the host's
/// loopback 127.0.0.1, the API server's among them, at 10.0.2.4.
pub const HOST_LOOPBACK: &str = "ferrovirt.dev/host-loopback";

/// Annotation on an instance: words that are put behind its kernel arguments. On a VirtualMachine: those of its next start
/// by request, which takes the annotation away.
pub const APPEND: &str = "ferrovirt.dev/append";

/// Type of the condition of an instance whose guest panicked.
pub const GUEST_PANICKED: &str = "ferrovirt.dev/GuestPanicked";

/// Type of the condition of an instance whose image is being pulled: `False`, reason `Pulling`, until it is there.
pub const IMAGE_PULLED: &str = "ferrovirt.dev/ImagePulled";

/// How far a pull is.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct PullProgress {
    /// The image's reference as written.
    pub image: String,
    /// Bytes that have arrived.
    pub bytes: u64,
    /// Bytes that are known to be needed; grows while layers are found to be needed.
    pub total: u64,
    /// `bytes` of `total` in whole percent, 0 to 100.
    pub percent: u8,
}
