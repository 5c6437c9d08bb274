//! SMBIOS identity, boot firmware, and the kernel that is booted without a disk.

use crate::schema::object;

object! {
    /// SMBIOS identity, boot firmware and direct kernel boot.
    pub struct Firmware {
        /// System UUID in SMBIOS.
        optional uuid ("uuid"): Option<String>,
        /// System serial number in SMBIOS.
        optional serial ("serial"): Option<String>,
        /// BIOS or EFI, and its settings.
        optional bootloader ("bootloader"): Option<Bootloader>,
        /// Kernel, initrd and command line booted without a boot loader.
        optional kernel_boot ("kernelBoot"): Option<KernelBoot>,
        /// ACPI tables given to the guest.
        optional acpi ("acpi"): Option<Acpi>,
    }
}

object! {
    /// The boot firmware; at most one of the two, BIOS on amd64 when unset.
    pub struct Bootloader {
        /// SeaBIOS.
        optional bios ("bios"): Option<Bios>,
        /// OVMF, UEFI.
        optional efi ("efi"): Option<Efi>,
    }
}

object! {
    /// SeaBIOS.
    pub struct Bios {
        /// Shows the firmware's output on the serial console; `false` when unset.
        optional use_serial ("useSerial"): Option<bool>,
    }
}

object! {
    /// OVMF, UEFI.
    pub struct Efi {
        /// Starts signed code only; **`true`** when unset, and needs SMM.
        optional secure_boot ("secureBoot"): Option<bool>,
        /// Keeps the NVRAM between runs; `false` when unset.
        optional persistent ("persistent"): Option<bool>,
    }
}

object! {
    /// Kernel, initrd and command line booted without a boot loader.
    pub struct KernelBoot {
        /// The kernel's command line, passed on verbatim.
        optional kernel_args ("kernelArgs"): Option<String>,
        /// The image that carries kernel and initrd; the feature is off without it.
        optional container ("container"): Option<KernelBootContainer>,
    }
}

object! {
    /// The image that carries kernel and initrd. At least one of the paths must be set.
    pub struct KernelBootContainer {
        /// Image reference, with a tag or a digest.
        required image ("image"): String,
        /// Name of one Secret with registry credentials, in the instance's namespace.
        optional image_pull_secret ("imagePullSecret"): Option<String>,
        /// `Always`, `IfNotPresent` or `Never`; when unset `Always` for the tag `latest` or none, else
        /// `IfNotPresent`.
        optional image_pull_policy ("imagePullPolicy"): Option<String>,
        /// Absolute path of the kernel in the image.
        optional kernel_path ("kernelPath"): Option<String>,
        /// Absolute path of the initrd in the image.
        optional initrd_path ("initrdPath"): Option<String>,
    }
}

object! {
    /// ACPI tables given to the guest.
    pub struct Acpi {
        /// Name of the Secret volume that holds a SLIC table.
        optional slic_name_ref ("slicNameRef"): Option<String>,
        /// Name of the Secret volume that holds an MSDM table.
        optional msdm_name_ref ("msdmNameRef"): Option<String>,
    }
}
