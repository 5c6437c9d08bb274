//! What each CPU architecture has and has not.

use super::cause::{Causes, Path};
use super::text;
use crate::types::VirtualMachineInstanceSpec;

/// The architecture of a spec that does not say.
pub(super) const DEFAULT: &str = "amd64";

/// Graphics adapters that amd64 guests may have.
const AMD64_VIDEO: [&str; 5] = ["vga", "cirrus", "virtio", "ramfb", "bochs"];

/// The spec's architecture.
pub(super) fn of(spec: &VirtualMachineInstanceSpec) -> &str {
    match text(&spec.architecture) {
        "" => DEFAULT,
        named => named,
    }
}

/// The machine types that the spec's architecture has, as patterns that may end in `*`. An architecture that nobody
/// knows is judged by its own rule, and its machine types as those of the default.
pub(super) fn machine_types(spec: &VirtualMachineInstanceSpec) -> &'static [&'static str] {
    match of(spec) {
        "arm64" => &["virt*"],
        "s390x" => &["s390-ccw-virtio*"],
        _ => &["q35*", "pc-q35*"],
    }
}

/// The rules of each architecture, which KubeVirt applies to instances only.
pub(super) fn check(spec: &VirtualMachineInstanceSpec, path: &Path, causes: &mut Causes) {
    let domain = path.child("domain");
    match of(spec) {
        "amd64" => amd64(spec, &domain, causes),
        "arm64" => arm64(spec, &domain, causes),
        "s390x" => {}
        other => causes.invalid(&path.child("architecture"), format!("unsupported architecture: {other}")),
    }
}

fn amd64(spec: &VirtualMachineInstanceSpec, domain: &Path, causes: &mut Causes) {
    let devices = &spec.domain.devices;
    if devices.watchdog.as_ref().is_some_and(|watchdog| watchdog.diag288.is_some()) {
        causes.invalid(&domain.child("devices.watchdog"), "amd64 only supports I6300ESB watchdog device");
    }
    let video = devices.video.as_ref().map_or("", |video| text(&video.type_));
    if !video.is_empty() && !AMD64_VIDEO.contains(&video) {
        let message = format!("video model '{video}' is not supported on amd64 architecture");
        causes.invalid(&domain.child("devices.video.type"), message);
    }
}

fn arm64(spec: &VirtualMachineInstanceSpec, domain: &Path, causes: &mut Causes) {
    let firmware = spec.domain.firmware.as_ref();
    let bootloader = firmware.and_then(|firmware| firmware.bootloader.as_ref());
    if bootloader.is_some_and(|bootloader| bootloader.bios.is_some()) {
        let message = "Arm64 does not support bios boot, please change to uefi boot";
        causes.invalid(&domain.child("firmware.bootloader.bios"), message);
    }
    let model = spec.domain.cpu.as_ref().map_or("", |cpu| text(&cpu.model));
    if !model.is_empty() && model != "host-passthrough" {
        let message = "currently, host-passthrough is the only model supported on Arm64";
        causes.invalid(&domain.child("cpu.model"), message);
    }
    for (index, disk) in spec.domain.devices.disks.iter().enumerate() {
        let targets = [
            ("disk", disk.disk.as_ref().map(|target| &target.bus)),
            ("lun", disk.lun.as_ref().map(|target| &target.bus)),
            ("cdrom", disk.cdrom.as_ref().map(|target| &target.bus)),
        ];
        for (name, bus) in targets {
            if !matches!(bus.map_or("", text), "" | "virtio" | "scsi") {
                let field = domain.child("devices.disks").index(index).child(name).child("bus");
                causes.invalid(&field, "Arm64 not support this disk bus type, please use virtio or scsi");
            }
        }
    }
    if spec.domain.devices.watchdog.is_some() {
        causes.invalid(&domain.child("devices.watchdog"), "Arm64 not support Watchdog device");
    }
    if spec.domain.devices.sound.is_some() {
        causes.invalid(&domain.child("devices.sound"), "Arm64 not support sound device");
    }
}
