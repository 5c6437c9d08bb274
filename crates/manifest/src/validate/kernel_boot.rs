//! Rules for the kernel that is booted without a disk.

use super::cause::{Causes, Path};
use super::{file_path, text};
use crate::types::Firmware;

pub(super) fn check(firmware: Option<&Firmware>, domain: &Path, causes: &mut Causes) {
    let Some(kernel_boot) = firmware.and_then(|firmware| firmware.kernel_boot.as_ref()) else {
        return;
    };
    let field = domain.child("firmware.kernelBoot");
    let Some(container) = &kernel_boot.container else {
        if !text(&kernel_boot.kernel_args).is_empty() {
            let message = "kernel arguments cannot be provided without an external kernel";
            causes.invalid(&field.child("kernelArgs"), message);
        }
        return;
    };
    let field = field.child("container");
    let (kernel, initrd) = (text(&container.kernel_path), text(&container.initrd_path));
    if container.image.is_empty() {
        causes.required(&field.child("image"), format!("{field} must be defined with an image"));
    }
    if kernel.is_empty() && initrd.is_empty() {
        let message =
            format!("{field} must be defined with at least one of the following: kernelPath, initrdPath");
        causes.required(&field, message);
    }
    for (name, path) in [("kernelPath", kernel), ("initrdPath", initrd)] {
        if !path.is_empty() {
            file_path::check(path, &field.child(name), causes);
        }
    }
}
