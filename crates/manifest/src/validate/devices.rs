//! Rules for devices other than disks and network interfaces.

use super::cause::{Causes, Path};
use super::{architecture, text};
use crate::types::Devices;
use crate::types::DomainSpec;
use crate::types::VirtualMachineInstanceSpec;

/// How disks may share I/O threads.
const IO_THREADS_POLICIES: [&str; 3] = ["shared", "auto", "supplementalPool"];

/// Devices by which a guest may report a panic.
const PANIC_DEVICES: [&str; 4] = ["hyperv", "isa", "pvpanic", "s390"];

pub(super) fn inputs(devices: &Devices, domain: &Path, causes: &mut Causes) {
    for (index, input) in devices.inputs.iter().enumerate() {
        let field = domain.child("devices.inputs").index(index);
        if !matches!(text(&input.bus), "" | "usb" | "virtio") {
            causes.invalid(&field.child("bus"), "Input device can have only virtio or usb bus.");
        }
        if input.type_ != "tablet" {
            causes.invalid(&field.child("type"), "Input device can have only tablet type.");
        }
    }
}

pub(super) fn io_threads(domain: &DomainSpec, path: &Path, causes: &mut Causes) {
    let Some(policy) = &domain.io_threads_policy else {
        return;
    };
    if !IO_THREADS_POLICIES.contains(&policy.as_str()) {
        causes.invalid(&path.child("ioThreadsPolicy"), format!("Invalid IOThreadsPolicy ({policy})"));
    }
}

/// Devices behind feature gates that are off.
pub(super) fn gated(devices: &Devices, domain: &Path, causes: &mut Causes) {
    if !devices.host_devices.is_empty() {
        let message = "Host Devices feature gate is not enabled in kubevirt-config";
        causes.invalid(&domain.child("devices.hostDevices"), message);
    }
    if devices.autoattach_vsock == Some(true) {
        let message = "VSOCK feature gate is not enabled in kubevirt-config";
        causes.invalid(&domain.child("devices.autoattachVSOCK"), message);
    }
}

pub(super) fn video(devices: &Devices, domain: &Path, causes: &mut Causes) {
    if devices.video.is_some() && devices.autoattach_graphics_device == Some(false) {
        let message = "Video configuration is not allowed when autoattachGraphicsDevice is set to false";
        causes.invalid(&domain.child("devices.video"), message);
    }
}

pub(super) fn panic_devices(spec: &VirtualMachineInstanceSpec, domain: &Path, causes: &mut Causes) {
    let devices = &spec.domain.devices.panic_devices;
    let field = domain.child("devices.panicDevices");
    let architecture = architecture::of(spec);
    if !devices.is_empty() && matches!(architecture, "arm64" | "s390x") {
        let message = format!("custom panic devices are not supported on {architecture} architecture");
        return causes.invalid(&field, message);
    }
    for (index, device) in devices.iter().enumerate() {
        if let Some(model) = device.model.as_deref().filter(|model| !PANIC_DEVICES.contains(model)) {
            let field = field.index(index).child("model");
            causes.invalid(&field, format!("invalid PanicDeviceModel({model})"));
        }
    }
}
