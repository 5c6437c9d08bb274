//! Rules for disks, and for what ties disks to volumes and to the boot order.

use std::collections::{BTreeMap, BTreeSet};

use super::cause::{Causes, Path};
use super::{names, not_too_many, text};
use crate::types::{BlockSize, CustomBlockSize, Devices, Disk};
use crate::types::{VirtualMachineInstanceSpec, Volume};

/// Buses that a disk may be on.
const BUSES: [&str; 4] = ["virtio", "scsi", "sata", "usb"];

/// Longest serial number, in characters.
const SERIAL_MOST: usize = 256;

/// Smallest and largest sector, in bytes.
const SECTOR_LEAST: u64 = 512;
const SECTOR_MOST: u64 = 2_097_152;

/// Disks need a volume each; disks and network interfaces share one boot order.
pub(super) fn volumes_and_boot_order(spec: &VirtualMachineInstanceSpec, path: &Path, causes: &mut Causes) {
    let mut orders = BTreeSet::new();
    let disks = path.child("domain.devices.disks");
    for (index, disk) in spec.domain.devices.disks.iter().enumerate() {
        let field = disks.index(index);
        let volume = spec.volumes.iter().find(|volume| volume.name == disk.name);
        // A CD-ROM drive may be empty.
        if volume.is_none() && disk.cdrom.is_none() {
            causes.invalid(&field.child("name"), format!("{field}.Name '{}' not found.", disk.name));
        }
        let is_claim =
            |volume: &Volume| volume.persistent_volume_claim.is_some() || volume.data_volume.is_some();
        if disk.lun.is_some() && volume.is_some_and(|volume| !is_claim(volume)) {
            let field = field.child("lun");
            let message =
                format!("{field} can only be mapped to a DataVolume or PersistentVolumeClaim volume.");
            causes.invalid(&field, message);
        }
        if let Some(order) = disk.boot_order {
            unique_order(order, &field, &mut orders, causes);
        }
    }
    let interfaces = path.child("domain.devices.interfaces");
    for (index, interface) in spec.domain.devices.interfaces.iter().enumerate() {
        match interface.boot_order {
            None => {}
            // The path lacks its middle part; so it does in KubeVirt.
            Some(0) => {
                let field = path.index(index);
                let message = format!("{field} must have a boot order > 0, if supplied");
                causes.invalid(&field.child("bootOrder"), message);
            }
            Some(order) => unique_order(order, &interfaces.index(index), &mut orders, causes),
        }
    }
}

fn unique_order(order: u64, device: &Path, orders: &mut BTreeSet<u64>, causes: &mut Causes) {
    if !orders.insert(order) {
        let field = device.child("bootOrder");
        causes.invalid(&field, format!("Boot order for {field} already set for a different device."));
    }
}

/// The rules for each disk by itself, and for their names among each other.
pub(super) fn check(devices: &Devices, domain: &Path, causes: &mut Causes) {
    let list = domain.child("devices.disks");
    not_too_many(&devices.disks, &list, causes);
    let mut names: BTreeMap<&str, usize> = BTreeMap::new();
    for (index, disk) in devices.disks.iter().enumerate() {
        let field = list.index(index);
        if let Some(other) = names.get(disk.name.as_str()) {
            let other = list.index(*other);
            causes.invalid(&field.child("name"), format!("{field} and {other} must not have the same Name."));
        } else {
            names.insert(&disk.name, index);
        }
        let targets = [disk.disk.is_some(), disk.lun.is_some(), disk.cdrom.is_some()];
        if targets.into_iter().filter(|set| *set).count() > 1 {
            causes.invalid(&field, format!("{field} can only have a single target type defined"));
        }
        if disk.boot_order == Some(0) {
            let message = format!("{field} must have a boot order > 0, if supplied");
            causes.invalid(&field.child("bootOrder"), message);
        }
        // KubeVirt appends the whole path to itself for these fields.
        let doubled = list.child("domain.devices.disks").index(index);
        bus(disk, &field, &doubled, causes);
        serial(disk, &field, causes);
        words(disk, &list, &field, &doubled, causes);
        for fault in names::dns_label_faults(&disk.name) {
            causes.invalid(&doubled.child("name"), fault);
        }
        if let Some(block_size) = &disk.block_size {
            sectors(block_size, target(disk).1, &field.child("blockSize"), causes);
        }
    }
}

/// The disk's target type as a field name, and its bus (empty where unset).
fn target(disk: &Disk) -> (&'static str, &str) {
    if let Some(cdrom) = &disk.cdrom {
        ("cdrom", text(&cdrom.bus))
    } else if let Some(lun) = &disk.lun {
        ("lun", text(&lun.bus))
    } else {
        ("disk", disk.disk.as_ref().map_or("", |disk| text(&disk.bus)))
    }
}

fn bus(disk: &Disk, field: &Path, doubled: &Path, causes: &mut Causes) {
    let (kind, bus) = target(disk);
    if bus.is_empty() {
        return;
    }
    let bus_field = field.child(kind).child("bus");
    if bus == "ide" {
        causes.invalid(&bus_field, "IDE bus is not supported");
    } else if !BUSES.contains(&bus) {
        let buses = BUSES.join(" ");
        let message = format!("{field} is set with an unrecognized bus {bus}, must be one of: [{buses}]");
        causes.invalid(&bus_field, message);
    }
    if kind == "cdrom" && bus == "virtio" {
        causes.invalid(&bus_field, "Bus type virtio is invalid for CD-ROM device");
    }
    if disk.dedicated_io_thread == Some(true) && bus != "virtio" {
        causes.not_supported(doubled, format!("IOThreads are not supported for disks on a {bus} bus"));
    }
    let readonly = disk.disk.as_ref().is_some_and(|disk| disk.readonly == Some(true));
    if readonly && bus == "sata" {
        causes.invalid(&bus_field, "sata hard-disks do not support read-only.");
    }
}

fn serial(disk: &Disk, field: &Path, causes: &mut Causes) {
    let serial = text(&disk.serial);
    let field_of_serial = field.child("serial");
    if !serial.chars().all(|letter| letter.is_ascii_alphanumeric() || "_.+-".contains(letter)) {
        let rule = "must be made up of the following characters [A-Za-z0-9_.+-], if specified";
        causes.invalid(&field_of_serial, format!("{field} {rule}"));
    }
    if serial.chars().count() > SERIAL_MOST {
        let rule = format!("must be less than or equal to {SERIAL_MOST} in length, if specified");
        causes.invalid(&field_of_serial, format!("{field} {rule}"));
    }
}

/// Fields whose value is one of a few words.
fn words(disk: &Disk, list: &Path, field: &Path, doubled: &Path, causes: &mut Causes) {
    let cache = text(&disk.cache);
    if !matches!(cache, "" | "none" | "writethrough" | "writeback") {
        let field = field.child("cache");
        causes.invalid(&field, format!("{field} has invalid value {cache}"));
    }
    if !matches!(text(&disk.io), "" | "native" | "threads") {
        let message =
            format!("Disk IO mode for {list} is not supported. Supported modes are: native, threads.");
        causes.not_supported(&doubled.child("io"), message);
    }
    let policy = text(&disk.error_policy);
    if !matches!(policy, "" | "stop" | "ignore" | "report" | "enospace") {
        let field = field.child("errorPolicy");
        causes.invalid(&field, format!("{field} has invalid value \"{policy}\""));
    }
}

fn sectors(block_size: &BlockSize, bus: &str, field: &Path, causes: &mut Causes) {
    let Some(custom) = &block_size.custom else { return };
    if block_size.match_volume.as_ref().is_some_and(|state| state.enabled != Some(false)) {
        let message = "Block size matching can't be enabled together with a custom value";
        return causes.invalid(field, message);
    }
    custom_sectors(custom, bus, &field.child("custom"), causes);
}

fn custom_sectors(custom: &CustomBlockSize, bus: &str, field: &Path, causes: &mut Causes) {
    let (logical, physical) = (custom.logical.unwrap_or(0), custom.physical.unwrap_or(0));
    if logical > physical {
        let message =
            format!("Logical size {logical} must be the same or less than the physical size of {physical}");
        return causes.invalid(&field.child("logical"), message);
    }
    for (name, size) in [("logical", logical), ("physical", physical)] {
        let fault = if size & size.wrapping_sub(1) != 0 {
            "is not a power of 2".to_owned()
        } else if size < SECTOR_LEAST {
            format!("is less than the supported minimum size of {SECTOR_LEAST}")
        } else if size > SECTOR_MOST {
            format!("is greater than the supported maximum size of {SECTOR_MOST}")
        } else {
            continue;
        };
        causes.invalid(&field.child(name), format!("Provided size of {size} {fault}"));
    }
    if bus == "sata" && logical != SECTOR_LEAST {
        let message = format!("Logical size {logical} must be {SECTOR_LEAST} for SATA devices");
        causes.invalid(&field.child("logical"), message);
    }
}
