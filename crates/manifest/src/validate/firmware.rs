//! Rules for the machine type, the boot firmware and ACPI tables.

use super::cause::{Causes, Path};
use super::{architecture, text};
use crate::types::DomainSpec;
use crate::types::VirtualMachineInstanceSpec;
use crate::types::{Bootloader, Efi};

pub(super) fn machine(spec: &VirtualMachineInstanceSpec, domain: &Path, causes: &mut Causes) {
    let machine = spec.domain.machine.as_ref().map_or("", |machine| text(&machine.type_));
    let allowed = architecture::machine_types(spec);
    if machine.is_empty() || allowed.iter().any(|pattern| matches(pattern, machine)) {
        return;
    }
    let field = domain.child("machine.type");
    let allowed = allowed.join(" ");
    causes.invalid(&field, format!("{field} is not supported: {machine} (allowed values: [{allowed}])"));
}

/// Whether `name` matches a file name pattern whose only wildcard is a `*` at its end.
fn matches(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => name.strip_prefix(start).is_some_and(|rest| !rest.contains('/')),
        None => pattern == name,
    }
}

pub(super) fn acpi(spec: &VirtualMachineInstanceSpec, path: &Path, causes: &mut Causes) {
    let Some(acpi) = spec.domain.firmware.as_ref().and_then(|firmware| firmware.acpi.as_ref()) else {
        return;
    };
    if text(&acpi.slic_name_ref).is_empty() && text(&acpi.msdm_name_ref).is_empty() {
        causes.invalid(&path.child("acpi"), "ACPI was set but no SLIC nor MSDM volume reference was set");
    }
}

fn find_bootloader(domain: &DomainSpec) -> Option<&Bootloader> {
    domain.firmware.as_ref()?.bootloader.as_ref()
}

pub(super) fn bootloader(domain: &DomainSpec, path: &Path, causes: &mut Causes) {
    if find_bootloader(domain).is_some_and(|loader| loader.bios.is_some() && loader.efi.is_some()) {
        let field = path.child("firmware.bootloader");
        let message = format!("{field} has both EFI and BIOS configured, but they are mutually exclusive.");
        causes.invalid(&field, message);
    }
}

pub(super) fn secure_boot(domain: &DomainSpec, path: &Path, causes: &mut Causes) {
    let secure = |efi: &Efi| efi.secure_boot != Some(false);
    if !find_bootloader(domain).and_then(|loader| loader.efi.as_ref()).is_some_and(secure) {
        return;
    }
    let smm = domain.features.as_ref().and_then(|features| features.smm.as_ref());
    if smm.is_none_or(|smm| smm.enabled == Some(false)) {
        let message = format!(
            "{path} has EFI SecureBoot enabled. SecureBoot requires SMM, which is currently disabled."
        );
        causes.invalid(path, message);
    }
}
