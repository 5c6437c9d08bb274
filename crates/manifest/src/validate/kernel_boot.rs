//! Rules for the kernel that is booted without a disk.

use super::cause::{Causes, Path};
use super::{file_path, text};
use crate::types::{Firmware, VirtualMachineInstanceSpec};

/// Longest kernel command line in bytes that x86 Linux keeps (`COMMAND_LINE_SIZE` of 2048, minus its final zero).
pub const MOST_COMMAND_LINE_BYTES: usize = 2047;

const NO_KERNEL: &str = "kernel arguments cannot be provided without an external kernel";

/// What keeps `append` from being put behind the kernel arguments of an instance for one boot.
pub fn append_fault(spec: &VirtualMachineInstanceSpec, append: &str) -> Option<String> {
    let kernel_boot = spec.domain.firmware.as_ref().and_then(|firmware| firmware.kernel_boot.as_ref());
    let Some(kernel_boot) = kernel_boot.filter(|kernel_boot| kernel_boot.container.is_some()) else {
        return Some(NO_KERNEL.to_owned());
    };
    if append.contains(char::is_control) {
        return Some("kernel arguments cannot have control characters".to_owned());
    }
    let own = text(&kernel_boot.kernel_args);
    let length = own.len() + usize::from(!own.is_empty()) + append.len();
    (length > MOST_COMMAND_LINE_BYTES).then(|| {
        format!("kernel arguments have {length} bytes together, {MOST_COMMAND_LINE_BYTES} are possible")
    })
}

pub(super) fn check(firmware: Option<&Firmware>, domain: &Path, causes: &mut Causes) {
    let Some(kernel_boot) = firmware.and_then(|firmware| firmware.kernel_boot.as_ref()) else {
        return;
    };
    let field = domain.child("firmware.kernelBoot");
    let Some(container) = &kernel_boot.container else {
        if !text(&kernel_boot.kernel_args).is_empty() {
            causes.invalid(&field.child("kernelArgs"), NO_KERNEL);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{DomainSpec, KernelBoot, KernelBootContainer};

    fn fault(
        kernel_args: Option<String>,
        container: Option<KernelBootContainer>,
        append: &str,
    ) -> Option<String> {
        let kernel_boot = Some(KernelBoot { kernel_args, container });
        let firmware = Some(Firmware { kernel_boot, ..Firmware::default() });
        let domain = DomainSpec { firmware, ..DomainSpec::default() };
        append_fault(&VirtualMachineInstanceSpec { domain, ..Default::default() }, append)
    }

    #[test]
    fn one_off_arguments_are_words_that_fit() {
        let kernel = || Some(KernelBootContainer::default());
        assert_eq!(fault(Some("quiet".to_owned()), kernel(), "single -- é,x=\"a b\""), None);
        assert_eq!(fault(None, None, "single"), Some(NO_KERNEL.to_owned()));
        for append in ["a\nb", "a\0", "\u{7f}"] {
            let expected = Some("kernel arguments cannot have control characters".to_owned());
            assert_eq!(fault(None, kernel(), append), expected, "{append:?}");
        }
        let longest = "x".repeat(2041);
        assert_eq!(fault(Some("quiet".to_owned()), kernel(), &longest), None);
        assert_eq!(
            fault(Some("quiet ".to_owned()), kernel(), &longest).as_deref(),
            Some("kernel arguments have 2048 bytes together, 2047 are possible")
        );
    }
}
