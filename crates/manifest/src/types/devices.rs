//! Everything attached to the machine except network interfaces, which are in [`networks`](super::networks).

use super::domain::FeatureState;
use super::networks::Interface;
use crate::schema::{Empty, object};

object! {
    /// Everything attached to the machine.
    pub struct Devices {
        /// Disks, each fed by the volume of the same name, 256 at most.
        optional disks ("disks"): Vec<Disk>,
        /// Network interfaces, each connected to the network of the same name, 256 at most.
        optional interfaces ("interfaces"): Vec<Interface>,
        /// Shared filesystems, each fed by the volume of the same name.
        optional filesystems ("filesystems"): Vec<Filesystem>,
        /// A virtio entropy source; present when named.
        optional rng ("rng"): Option<Empty>,
        /// A watchdog.
        optional watchdog ("watchdog"): Option<Watchdog>,
        /// Pointing devices.
        optional inputs ("inputs"): Vec<Input>,
        /// A virtual TPM 2.0.
        optional tpm ("tpm"): Option<TpmDevice>,
        /// A sound card.
        optional sound ("sound"): Option<SoundDevice>,
        /// The graphics adapter.
        optional video ("video"): Option<VideoDevice>,
        /// Devices by which the guest reports a panic.
        optional panic_devices ("panicDevices"): Vec<PanicDevice>,
        /// Host GPUs, whole or mediated.
        optional gpus ("gpus"): Vec<Gpu>,
        /// Other host devices passed through.
        optional host_devices ("hostDevices"): Vec<HostDevice>,
        /// A channel by which the guest reads metrics of the host.
        optional downward_metrics ("downwardMetrics"): Option<Empty>,
        /// USB redirection from a client.
        optional client_passthrough ("clientPassthrough"): Option<Empty>,
        /// Adds the default interface when none is listed; `true` when unset.
        optional autoattach_pod_interface ("autoattachPodInterface"): Option<bool>,
        /// A serial console; `true` when unset.
        optional autoattach_serial_console ("autoattachSerialConsole"): Option<bool>,
        /// Keeps a log of the serial console; the cluster's default when unset.
        optional log_serial_console ("logSerialConsole"): Option<bool>,
        /// A graphics adapter and its VNC display; `true` when unset.
        optional autoattach_graphics_device ("autoattachGraphicsDevice"): Option<bool>,
        /// A memory balloon; `true` when unset.
        optional autoattach_mem_balloon ("autoattachMemBalloon"): Option<bool>,
        /// Adds a tablet when no input is listed; `false` when unset.
        optional autoattach_input_device ("autoattachInputDevice"): Option<bool>,
        /// A VSOCK channel to the host; `false` when unset.
        optional autoattach_vsock ("autoattachVSOCK"): Option<bool>,
        /// virtio devices that old drivers understand too; `false` when unset.
        optional use_virtio_transitional ("useVirtioTransitional"): Option<bool>,
        /// Refuses to plug disks while running; `false` when unset.
        optional disable_hotplug ("disableHotplug"): Option<bool>,
        /// One queue per virtual CPU on each virtio disk; `false` when unset.
        optional block_multi_queue ("blockMultiQueue"): Option<bool>,
        /// One queue per virtual CPU on each virtio interface; `false` when unset.
        optional network_interface_multiqueue ("networkInterfaceMultiqueue"): Option<bool>,
    }
}

object! {
    /// A disk, of exactly one target type; the volume of the same name feeds it.
    pub struct Disk {
        /// Name of the disk and of its volume.
        required name ("name"): String,
        /// As a hard disk; also when no target is named.
        optional disk ("disk"): Option<DiskTarget>,
        /// As a SCSI LUN that takes commands through.
        optional lun ("lun"): Option<LunTarget>,
        /// As a CD-ROM drive.
        optional cdrom ("cdrom"): Option<CdRomTarget>,
        /// Place in the boot order, from 1; shared with the interfaces.
        optional boot_order ("bootOrder"): Option<u64>,
        /// Serial number shown to the guest.
        optional serial ("serial"): Option<String>,
        /// Gives the disk an I/O thread of its own; `false` when unset.
        optional dedicated_io_thread ("dedicatedIOThread"): Option<bool>,
        /// Host caching: `none`, `writethrough` or `writeback`; chosen by the volume when unset.
        optional cache ("cache"): Option<String>,
        /// I/O method: `native` or `threads`.
        optional io ("io"): Option<String>,
        /// Metadata tag shown to the guest.
        optional tag ("tag"): Option<String>,
        /// Sector sizes; QEMU's default when unset.
        optional block_size ("blockSize"): Option<BlockSize>,
        /// Lets several machines write it; `false` when unset.
        optional shareable ("shareable"): Option<bool>,
        /// What an I/O error does: `stop` (also when unset), `ignore`, `report` or `enospace`.
        optional error_policy ("errorPolicy"): Option<String>,
        /// Tracks changed blocks for backups.
        optional changed_block_tracking ("changedBlockTracking"): Option<bool>,
    }
}

object! {
    /// A hard disk.
    pub struct DiskTarget {
        /// `virtio`, `scsi`, `sata` or `usb`; `sata` on amd64 when unset.
        optional bus ("bus"): Option<String>,
        /// Refuses writes; `false` when unset.
        optional readonly ("readonly"): Option<bool>,
        /// PCI address on the guest's bus, `0000:00:00.0` form.
        optional pci_address ("pciAddress"): Option<String>,
    }
}

object! {
    /// A SCSI LUN.
    pub struct LunTarget {
        /// `scsi` or `sata`.
        optional bus ("bus"): Option<String>,
        /// Refuses writes; `false` when unset.
        optional readonly ("readonly"): Option<bool>,
        /// Allows persistent reservations; `false` when unset.
        optional reservation ("reservation"): Option<bool>,
    }
}

object! {
    /// A CD-ROM drive.
    pub struct CdRomTarget {
        /// `sata`, `scsi` or `usb`.
        optional bus ("bus"): Option<String>,
        /// Refuses writes; **`true`** when unset.
        optional readonly ("readonly"): Option<bool>,
        /// `open` or `closed`; closed when unset.
        optional tray ("tray"): Option<String>,
    }
}

object! {
    /// Sector sizes of a disk; at most one.
    pub struct BlockSize {
        /// Explicit sizes.
        optional custom ("custom"): Option<CustomBlockSize>,
        /// The sizes of the storage underneath.
        optional match_volume ("matchVolume"): Option<FeatureState>,
    }
}

object! {
    /// Explicit sector sizes, in bytes, powers of two from 512 to 2097152.
    pub struct CustomBlockSize {
        /// Smallest unit the guest may address.
        optional logical ("logical"): Option<u64>,
        /// Smallest unit written without a read before it.
        optional physical ("physical"): Option<u64>,
        /// Smallest unit that can be discarded.
        optional discard_granularity ("discardGranularity"): Option<u64>,
    }
}

object! {
    /// A shared filesystem; the volume of the same name feeds it.
    pub struct Filesystem {
        /// Name of the filesystem and of its volume.
        required name ("name"): String,
        /// By virtiofs.
        required virtiofs ("virtiofs"): Empty,
    }
}

object! {
    /// A watchdog, of exactly one model.
    pub struct Watchdog {
        /// Name of the device.
        required name ("name"): String,
        /// Intel 6300ESB on the PCI bus; amd64 and arm64.
        optional i6300esb ("i6300esb"): Option<WatchdogModel>,
        /// The watchdog of s390x.
        optional diag288 ("diag288"): Option<WatchdogModel>,
    }
}

object! {
    /// Settings of a watchdog.
    pub struct WatchdogModel {
        /// What a missed beat does: `reset` (also when unset), `poweroff` or `shutdown`.
        optional action ("action"): Option<String>,
    }
}

object! {
    /// A pointing device.
    pub struct Input {
        /// Name of the device.
        required name ("name"): String,
        /// `tablet`.
        required type_ ("type"): String,
        /// `usb` (also when unset) or `virtio`.
        optional bus ("bus"): Option<String>,
    }
}

object! {
    /// A virtual TPM 2.0.
    pub struct TpmDevice {
        /// Whether it exists; `true` when the device is named at all.
        optional enabled ("enabled"): Option<bool>,
        /// Keeps its state between runs; `false` when unset.
        optional persistent ("persistent"): Option<bool>,
    }
}

object! {
    /// A sound card.
    pub struct SoundDevice {
        /// Name of the device.
        required name ("name"): String,
        /// `ich9` (also when unset) or `ac97`.
        optional model ("model"): Option<String>,
    }
}

object! {
    /// The graphics adapter.
    pub struct VideoDevice {
        /// Model: `virtio`, `vga`, `bochs`, `ramfb`...
        optional type_ ("type"): Option<String>,
    }
}

object! {
    /// A device by which the guest reports a panic.
    pub struct PanicDevice {
        /// `hyperv`, `isa`, `pvpanic` or `s390`.
        optional model ("model"): Option<String>,
    }
}

object! {
    /// A host GPU.
    pub struct Gpu {
        /// Name of the device.
        required name ("name"): String,
        /// Resource name of the device plugin that hands it out.
        optional device_name ("deviceName"): Option<String>,
        /// Resource claim that hands it out instead.
        optional claim_name ("claimName"): Option<String>,
        /// The request within that claim.
        optional request_name ("requestName"): Option<String>,
        /// Settings of a mediated GPU.
        optional virtual_gpu_options ("virtualGPUOptions"): Option<VirtualGpuOptions>,
        /// Metadata tag shown to the guest.
        optional tag ("tag"): Option<String>,
    }
}

object! {
    /// Settings of a mediated GPU.
    pub struct VirtualGpuOptions {
        /// Display output of the GPU.
        optional display ("display"): Option<VirtualGpuDisplayOptions>,
    }
}

object! {
    /// Display output of a mediated GPU.
    pub struct VirtualGpuDisplayOptions {
        /// Whether it has one; `true` when unset.
        optional enabled ("enabled"): Option<bool>,
        /// A boot framebuffer; on when unset.
        optional ram_fb ("ramFB"): Option<FeatureState>,
    }
}

object! {
    /// A host device passed through.
    pub struct HostDevice {
        /// Name of the device.
        required name ("name"): String,
        /// Resource name of the device plugin that hands it out.
        optional device_name ("deviceName"): Option<String>,
        /// Resource claim that hands it out instead.
        optional claim_name ("claimName"): Option<String>,
        /// The request within that claim.
        optional request_name ("requestName"): Option<String>,
        /// Metadata tag shown to the guest.
        optional tag ("tag"): Option<String>,
    }
}
