//! Rules for volumes.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::cause::{Causes, Path};
use super::{file_path, not_too_many, text};
use crate::types::VirtualMachineInstanceSpec;
use crate::types::{CloudInitSource, HostDisk, Volume};

/// Most user data or network data that may stand in the object itself, in bytes.
const CLOUD_INIT_MOST: usize = 2048;

pub(super) fn check(spec: &VirtualMachineInstanceSpec, path: &Path, causes: &mut Causes) {
    let list = path.child("volumes");
    let volumes = &spec.volumes;
    not_too_many(volumes, &list, causes);
    let mut names: BTreeMap<&str, usize> = BTreeMap::new();
    for (index, volume) in volumes.iter().enumerate() {
        let field = list.index(index);
        if let Some(other) = names.get(volume.name.as_str()) {
            let other = list.index(*other);
            causes.invalid(&field.child("name"), format!("{field} and {other} must not have the same Name."));
        } else {
            names.insert(&volume.name, index);
        }
        one_volume(volume, &field, causes);
    }
    at_most_one(volumes, &list, causes);
    for (index, volume) in volumes.iter().enumerate() {
        let disk_path = volume.container_disk.as_ref().map_or("", |disk| text(&disk.path));
        if !disk_path.is_empty() {
            file_path::check(disk_path, &list.index(index).child("containerDisk"), causes);
        }
    }
    for (index, volume) in volumes.iter().enumerate() {
        let is_disk = spec.domain.devices.disks.iter().any(|disk| disk.name == volume.name);
        if volume.container_path.is_some() && is_disk {
            let message =
                format!("ContainerPath volume '{}' must be mapped to a filesystem, not a disk", volume.name);
            causes.invalid(&list.index(index), message);
        }
    }
}

fn one_volume(volume: &Volume, field: &Path, causes: &mut Causes) {
    if volume.host_disk.is_some() {
        causes.invalid(field, "HostDisk feature gate is not enabled");
    }
    if volume.data_volume.as_ref().is_some_and(|data_volume| data_volume.name.is_empty()) {
        causes.required(&field.child("name"), "DataVolume 'name' must be set");
    }
    if count_sources(volume) != 1 {
        causes.invalid(field, format!("{field} must have exactly one source type set"));
    }
    if let Some(source) = &volume.cloud_init_no_cloud {
        cloud_init(source, "cloudInitNoCloud", field, causes);
    }
    if let Some(source) = &volume.cloud_init_config_drive {
        cloud_init(source, "cloudInitConfigDrive", field, causes);
    }
    if volume.downward_metrics.is_some() {
        let message = "downwardMetrics disks are not allowed: DownwardMetrics feature gate is not enabled.";
        causes.invalid(field, message);
    }
    if let Some(disk) = &volume.host_disk {
        host_disk(disk, &field.child("hostDisk"), causes);
    }
    let named = [
        ("configMap.name", volume.config_map.as_ref().map(|source| &source.name)),
        ("secret.secretName", volume.secret.as_ref().map(|source| &source.secret_name)),
        (
            "serviceAccount.serviceAccountName",
            volume.service_account.as_ref().map(|source| &source.service_account_name),
        ),
    ];
    for (name, value) in named {
        if value.is_some_and(|value| text(value).is_empty()) {
            let field = field.child(name);
            causes.required(&field, format!("{field} is a required field"));
        }
    }
}

fn count_sources(volume: &Volume) -> usize {
    let Volume {
        name: _,
        container_disk,
        empty_disk,
        host_disk,
        persistent_volume_claim,
        data_volume,
        ephemeral,
        cloud_init_no_cloud,
        cloud_init_config_drive,
        config_map,
        secret,
        service_account,
        downward_api,
        downward_metrics,
        sysprep,
        memory_dump,
        container_path,
    } = volume;
    [
        container_disk.is_some(),
        empty_disk.is_some(),
        host_disk.is_some(),
        persistent_volume_claim.is_some(),
        data_volume.is_some(),
        ephemeral.is_some(),
        cloud_init_no_cloud.is_some(),
        cloud_init_config_drive.is_some(),
        config_map.is_some(),
        secret.is_some(),
        service_account.is_some(),
        downward_api.is_some(),
        downward_metrics.is_some(),
        sysprep.is_some(),
        memory_dump.is_some(),
        container_path.is_some(),
    ]
    .into_iter()
    .filter(|set| *set)
    .count()
}

/// One kind of cloud-init data and the three places that it may stand in.
struct Datum<'a> {
    /// `userdata` or `networkdata`, as messages write it.
    word: &'static str,
    /// `UserData` or `NetworkData`, as messages name the Secret's field.
    secret_word: &'static str,
    base64_name: &'static str,
    in_secret: bool,
    base64: &'a str,
    plain: &'a str,
}

fn cloud_init(source: &CloudInitSource, kind: &str, volume: &Path, causes: &mut Causes) {
    let field = volume.child(kind);
    let data = [
        Datum {
            word: "userdata",
            secret_word: "UserData",
            base64_name: "userDataBase64",
            in_secret: source.secret_ref.as_ref().is_some_and(|secret| !text(&secret.name).is_empty()),
            base64: text(&source.user_data_base64),
            plain: text(&source.user_data),
        },
        Datum {
            word: "networkdata",
            secret_word: "NetworkData",
            base64_name: "networkDataBase64",
            in_secret: source
                .network_data_secret_ref
                .as_ref()
                .is_some_and(|secret| !text(&secret.name).is_empty()),
            base64: text(&source.network_data_base64),
            plain: text(&source.network_data),
        },
    ];
    let mut sources = 0;
    for Datum { word, secret_word, base64_name, in_secret, base64, plain } in data {
        let mut length = 0;
        if !base64.is_empty() {
            // Line ends within base64 are allowed; serde's blocks of YAML have them.
            let joined: String = base64.chars().filter(|letter| !matches!(letter, '\r' | '\n')).collect();
            match STANDARD.decode(joined) {
                Ok(bytes) => length = bytes.len(),
                Err(_) => {
                    let field = field.child(base64_name);
                    causes.invalid(
                        &field,
                        format!("{field}.{kind}.{base64_name} is not a valid base64 value."),
                    );
                }
            }
        }
        if !plain.is_empty() {
            length = plain.len();
        }
        let count = [in_secret, !base64.is_empty(), !plain.is_empty()].into_iter().filter(|set| *set).count();
        if count > 1 {
            // KubeVirt writes `networkdata source` as two words, `userdatasource` as one.
            let source = if word == "userdata" { "userdatasource" } else { "networkdata source" };
            causes.invalid(&field, format!("{field} must have only one {source} set."));
        }
        if length > CLOUD_INIT_MOST {
            let message = format!(
                "{field} {word} exceeds {CLOUD_INIT_MOST} byte limit. Should use {secret_word}SecretRef for larger data."
            );
            causes.invalid(&field, message);
        }
        sources += count;
    }
    if sources == 0 {
        let message = format!("{field} must have at least one userdatasource or one networkdatasource set.");
        causes.invalid(&field, message);
    }
}

fn host_disk(disk: &HostDisk, field: &Path, causes: &mut Causes) {
    let (path, kind) = (field.child("path"), field.child("type"));
    if disk.path.is_empty() {
        causes.not_found(&path, format!("{path} is required for hostDisk volume"));
    }
    if !matches!(disk.type_.as_str(), "Disk" | "DiskOrCreate") {
        let message =
            format!("{kind} has invalid value '{}', allowed are 'Disk' or 'DiskOrCreate'", disk.type_);
        causes.invalid(&kind, message);
    }
    if disk.type_ == "Disk" && disk.capacity.as_ref().is_some_and(|capacity| !capacity.is_zero()) {
        let capacity = field.child("capacity");
        let message = format!("{capacity} is allowed to pass only with {kind} equal to 'DiskOrCreate'");
        causes.invalid(&capacity, message);
    }
}

fn at_most_one(volumes: &[Volume], list: &Path, causes: &mut Causes) {
    let mut check = |name: &str, is_set: fn(&Volume) -> bool| {
        if volumes.iter().filter(|volume| is_set(volume)).count() > 1 {
            causes.invalid(list, format!("{list} must have max one {name} volume set"));
        }
    };
    check("serviceAccount", |volume| volume.service_account.is_some());
    check("downwardMetric", |volume| volume.downward_metrics.is_some());
    check("memory dump", |volume| volume.memory_dump.is_some());
}
