//! Rules 36 to 64, of disks and volumes.

use manifest::validate::CauseKind::{Invalid, NotFound, NotSupported, Required};
use serde_json::{Value, json};

use crate::harness::{assert_faults, assert_valid};

/// A change of the first disk.
fn disk(changes: Value) -> Value {
    prefixed("domain.devices.disks[0]", changes)
}

/// A change of the second volume, which is then `{"name": "extra", ...}`.
fn volume(source: Value) -> Value {
    let mut volume = json!({"name": "extra"});
    volume.as_object_mut().unwrap().extend(source.as_object().unwrap().clone());
    json!({"volumes[1]": volume})
}

fn prefixed(prefix: &str, changes: Value) -> Value {
    let changes = changes.as_object().unwrap();
    Value::Object(changes.iter().map(|(key, value)| (format!("{prefix}.{key}"), value.clone())).collect())
}

#[test]
fn disks_have_volumes_and_volumes_disks() {
    assert_faults(
        json!({"domain.devices.disks[2]": {"name": "ghost", "disk": {}}}),
        &[(Invalid, "%D.devices.disks[2].name", "%D.devices.disks[2].Name 'ghost' not found.")],
    );
    // An empty CD-ROM drive, and a volume whose disk defaults add.
    assert_valid(json!({"domain.devices.disks[2]": {"name": "drive", "cdrom": {}}}));
    assert_valid(json!({"volumes[2]": {"name": "more", "emptyDisk": {"capacity": "1Gi"}}}));
    assert_valid(json!({"domain.devices.disks": null}));
}

#[test]
fn names_of_disks_and_volumes() {
    assert_faults(
        json!({"domain.devices.disks[2]": {"name": "root", "disk": {"bus": "virtio"}}}),
        &[(
            Invalid,
            "%D.devices.disks[2].name",
            "%D.devices.disks[2] and %D.devices.disks[0] must not have the same Name.",
        )],
    );
    assert_faults(
        json!({"volumes[2]": {"name": "extra", "emptyDisk": {"capacity": "1Gi"}}}),
        &[(Invalid, "%P.volumes[2].name", "%P.volumes[2] and %P.volumes[1] must not have the same Name.")],
    );
    let label = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must \
                 start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for \
                 validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
    let field = "%D.devices.disks.domain.devices.disks[0].name";
    let renamed = |name: &str| json!({"domain.devices.disks[0].name": name, "volumes[0].name": name});
    assert_valid(renamed(&"a".repeat(63)));
    assert_faults(renamed("Root"), &[(Invalid, field, label)]);
    assert_faults(renamed(&"a".repeat(64)), &[(Invalid, field, "must be no more than 63 characters")]);
}

#[test]
fn targets_and_buses() {
    for (target, bus) in
        [("disk", "scsi"), ("disk", "usb"), ("cdrom", "sata"), ("cdrom", "scsi"), ("lun", "scsi")]
    {
        let claim = json!({"persistentVolumeClaim": {"claimName": "c"}});
        let mut changes = volume(claim);
        changes["domain.devices.disks[1]"] = json!({"name": "extra", target: {"bus": bus}});
        assert_valid(changes);
    }
    assert_faults(
        disk(json!({"cdrom": {"bus": "sata"}})),
        &[(Invalid, "%D.devices.disks[0]", "%D.devices.disks[0] can only have a single target type defined")],
    );
    assert_faults(
        disk(json!({"disk.bus": "ide"})),
        &[(Invalid, "%D.devices.disks[0].disk.bus", "IDE bus is not supported")],
    );
    assert_faults(
        disk(json!({"disk.bus": "nvme"})),
        &[(
            Invalid,
            "%D.devices.disks[0].disk.bus",
            "%D.devices.disks[0] is set with an unrecognized bus nvme, must be one of: [virtio scsi sata usb]",
        )],
    );
    assert_faults(
        disk(json!({"disk": null, "cdrom": {"bus": "virtio"}})),
        &[(Invalid, "%D.devices.disks[0].cdrom.bus", "Bus type virtio is invalid for CD-ROM device")],
    );
    assert_valid(disk(json!({"disk.readonly": true})));
    let readonly = (Invalid, "%D.devices.disks[0].disk.bus", "sata hard-disks do not support read-only.");
    assert_faults(disk(json!({"disk": {"bus": "sata", "readonly": true}})), &[readonly]);
    // The bus that defaults give counts as well.
    assert_faults(disk(json!({"disk": {"readonly": true}})), &[readonly]);
    assert_valid(disk(json!({"dedicatedIOThread": true})));
    assert_faults(
        disk(json!({"dedicatedIOThread": true, "disk.bus": "scsi"})),
        &[(
            NotSupported,
            "%D.devices.disks.domain.devices.disks[0]",
            "IOThreads are not supported for disks on a scsi bus",
        )],
    );
    assert_faults(
        disk(json!({"disk": null, "lun": {"bus": "scsi"}})),
        &[(
            Invalid,
            "%D.devices.disks[0].lun",
            "%D.devices.disks[0].lun can only be mapped to a DataVolume or PersistentVolumeClaim volume.",
        )],
    );
}

#[test]
fn boot_order_is_shared_by_disks_and_interfaces() {
    assert_valid(json!({"domain.devices.disks[1].bootOrder": 3}));
    assert_faults(
        json!({"domain.devices.disks[1].bootOrder": 1}),
        &[(
            Invalid,
            "%D.devices.disks[1].bootOrder",
            "Boot order for %D.devices.disks[1].bootOrder already set for a different device.",
        )],
    );
    assert_faults(
        json!({"domain.devices.interfaces[0].bootOrder": 1}),
        &[(
            Invalid,
            "%D.devices.interfaces[0].bootOrder",
            "Boot order for %D.devices.interfaces[0].bootOrder already set for a different device.",
        )],
    );
    assert_faults(
        json!({"domain.devices.disks[0].bootOrder": 0}),
        &[(
            Invalid,
            "%D.devices.disks[0].bootOrder",
            "%D.devices.disks[0] must have a boot order > 0, if supplied",
        )],
    );
    assert_faults(
        json!({"domain.devices.interfaces[0].bootOrder": 0}),
        &[(Invalid, "%P[0].bootOrder", "%P[0] must have a boot order > 0, if supplied")],
    );
}

#[test]
fn serial_and_words() {
    assert_valid(disk(json!({"serial": "a".repeat(256)})));
    let characters = (
        Invalid,
        "%D.devices.disks[0].serial",
        "%D.devices.disks[0] must be made up of the following characters [A-Za-z0-9_.+-], if specified",
    );
    let length = (
        Invalid,
        "%D.devices.disks[0].serial",
        "%D.devices.disks[0] must be less than or equal to 256 in length, if specified",
    );
    assert_faults(disk(json!({"serial": "a b"})), &[characters]);
    assert_faults(disk(json!({"serial": "a".repeat(257)})), &[length]);
    assert_faults(disk(json!({"serial": "é".repeat(257)})), &[characters, length]);
    for cache in ["none", "writethrough", "writeback"] {
        assert_valid(disk(json!({"cache": cache})));
    }
    for policy in ["stop", "ignore", "report", "enospace"] {
        assert_valid(disk(json!({"errorPolicy": policy})));
    }
    for io in ["native", "threads"] {
        assert_valid(disk(json!({"io": io})));
    }
    assert_faults(
        disk(json!({"cache": "all", "io": "uring", "errorPolicy": "panic"})),
        &[
            (Invalid, "%D.devices.disks[0].cache", "%D.devices.disks[0].cache has invalid value all"),
            (
                NotSupported,
                "%D.devices.disks.domain.devices.disks[0].io",
                "Disk IO mode for %D.devices.disks is not supported. Supported modes are: native, threads.",
            ),
            (
                Invalid,
                "%D.devices.disks[0].errorPolicy",
                "%D.devices.disks[0].errorPolicy has invalid value \"panic\"",
            ),
        ],
    );
}

#[test]
fn sectors() {
    let custom = |logical: u64, physical: u64| {
        disk(json!({"blockSize.custom": {"logical": logical, "physical": physical}}))
    };
    let logical = "%D.devices.disks[0].blockSize.custom.logical";
    let physical = "%D.devices.disks[0].blockSize.custom.physical";
    assert_valid(custom(512, 512));
    assert_valid(custom(512, 2_097_152));
    assert_valid(disk(json!({"blockSize.matchVolume": {}})));
    assert_valid(disk(json!({
        "blockSize": {"matchVolume": {"enabled": false}, "custom": {"logical": 512, "physical": 4096}},
    })));
    assert_faults(
        disk(json!({"blockSize": {"matchVolume": {}, "custom": {"logical": 512, "physical": 512}}})),
        &[(
            Invalid,
            "%D.devices.disks[0].blockSize",
            "Block size matching can't be enabled together with a custom value",
        )],
    );
    assert_faults(
        custom(4096, 512),
        &[(Invalid, logical, "Logical size 4096 must be the same or less than the physical size of 512")],
    );
    assert_faults(
        custom(513, 514),
        &[
            (Invalid, logical, "Provided size of 513 is not a power of 2"),
            (Invalid, physical, "Provided size of 514 is not a power of 2"),
        ],
    );
    assert_faults(
        custom(256, 4_194_304),
        &[
            (Invalid, logical, "Provided size of 256 is less than the supported minimum size of 512"),
            (
                Invalid,
                physical,
                "Provided size of 4194304 is greater than the supported maximum size of 2097152",
            ),
        ],
    );
    assert_faults(
        disk(json!({"disk.bus": "sata", "blockSize.custom": {"logical": 4096, "physical": 4096}})),
        &[(Invalid, logical, "Logical size 4096 must be 512 for SATA devices")],
    );
}

#[test]
fn volume_sources() {
    let one_source = (Invalid, "%P.volumes[1]", "%P.volumes[1] must have exactly one source type set");
    assert_faults(volume(json!({})), &[one_source]);
    assert_faults(
        volume(json!({"emptyDisk": {"capacity": "1Gi"}, "configMap": {"name": "c"}})),
        &[one_source],
    );
    for good in [
        json!({"ephemeral": {"persistentVolumeClaim": {"claimName": "c"}}}),
        json!({"downwardAPI": {}}),
        json!({"sysprep": {"secret": {"name": "s"}}}),
        json!({"configMap": {"name": "c"}}),
        json!({"secret": {"secretName": "s"}}),
        json!({"serviceAccount": {"serviceAccountName": "a"}}),
        json!({"dataVolume": {"name": "d"}}),
        json!({"memoryDump": {"claimName": "c"}}),
    ] {
        assert_valid(volume(good));
    }
    assert_faults(
        volume(json!({"dataVolume": {"name": ""}})),
        &[(Required, "%P.volumes[1].name", "DataVolume 'name' must be set")],
    );
    for (source, field) in [
        (json!({"configMap": {}}), "%P.volumes[1].configMap.name"),
        (json!({"secret": {}}), "%P.volumes[1].secret.secretName"),
        (json!({"serviceAccount": {}}), "%P.volumes[1].serviceAccount.serviceAccountName"),
    ] {
        assert_faults(volume(source), &[(Required, field, &format!("{field} is a required field"))]);
    }
}

#[test]
fn container_disk_path() {
    let path = |path: &str| json!({"volumes[0].containerDisk.path": path});
    assert_valid(path(""));
    let field = "%P.volumes[0].containerDisk";
    assert_faults(path("/"), &[(Invalid, field, "%P.volumes[0].containerDisk must not point to root")]);
    assert_faults(
        path("disk.img"),
        &[(
            Invalid,
            field,
            "%P.volumes[0].containerDisk must be an absolute path to a file without relative components",
        )],
    );
}

#[test]
fn cloud_init() {
    for kind in ["cloudInitNoCloud", "cloudInitConfigDrive"] {
        let field = format!("%P.volumes[1].{kind}");
        let faults = |source: Value, expected: &[(&str, &str)]| {
            let texts: Vec<(String, String)> = expected
                .iter()
                .map(|(below, message)| (format!("{field}{below}"), message.replace("%F", &field)))
                .collect();
            let expected: Vec<_> =
                texts.iter().map(|(field, message)| (Invalid, field.as_str(), message.as_str())).collect();
            assert_faults(volume(json!({ kind: source })), &expected);
        };
        faults(json!({"userData": "a".repeat(2048), "networkData": "a".repeat(2048)}), &[]);
        faults(json!({"userDataBase64": "aGVs\nbG8=\n"}), &[]);
        faults(json!({"secretRef": {"name": "s"}}), &[]);
        faults(json!({"networkDataSecretRef": {"name": "s"}}), &[]);
        faults(json!({}), &[("", "%F must have at least one userdatasource or one networkdatasource set.")]);
        faults(
            json!({"userData": "a".repeat(2049)}),
            &[("", "%F userdata exceeds 2048 byte limit. Should use UserDataSecretRef for larger data.")],
        );
        faults(
            json!({"networkData": "é".repeat(1025)}),
            &[(
                "",
                "%F networkdata exceeds 2048 byte limit. Should use NetworkDataSecretRef for larger data.",
            )],
        );
        // 2049 bytes in base64.
        faults(
            json!({"userDataBase64": "YWFh".repeat(683)}),
            &[("", "%F userdata exceeds 2048 byte limit. Should use UserDataSecretRef for larger data.")],
        );
        faults(
            json!({"userData": "a", "userDataBase64": "YQ=="}),
            &[("", "%F must have only one userdatasource set.")],
        );
        faults(
            json!({"networkData": "a", "networkDataSecretRef": {"name": "s"}}),
            &[("", "%F must have only one networkdata source set.")],
        );
        let user = format!("%F.userDataBase64.{kind}.userDataBase64 is not a valid base64 value.");
        let network = format!("%F.networkDataBase64.{kind}.networkDataBase64 is not a valid base64 value.");
        faults(
            json!({"userDataBase64": "YQ=", "networkDataBase64": "!"}),
            &[(".userDataBase64", &user), (".networkDataBase64", &network)],
        );
    }
}

#[test]
fn host_disk() {
    // The gate is off, so that every host disk has this fault.
    let gate = (Invalid, "%P.volumes[1]", "HostDisk feature gate is not enabled");
    let host_disk = |disk: Value| volume(json!({ "hostDisk": disk }));
    assert_faults(host_disk(json!({"path": "/a", "type": "Disk"})), &[gate]);
    assert_faults(host_disk(json!({"path": "/a", "type": "DiskOrCreate", "capacity": "1Gi"})), &[gate]);
    assert_faults(
        host_disk(json!({"path": "", "type": "Folder"})),
        &[
            gate,
            (
                NotFound,
                "%P.volumes[1].hostDisk.path",
                "%P.volumes[1].hostDisk.path is required for hostDisk volume",
            ),
            (
                Invalid,
                "%P.volumes[1].hostDisk.type",
                "%P.volumes[1].hostDisk.type has invalid value 'Folder', allowed are 'Disk' or 'DiskOrCreate'",
            ),
        ],
    );
    assert_faults(
        host_disk(json!({"path": "/a", "type": "Disk", "capacity": "1Gi"})),
        &[
            gate,
            (
                Invalid,
                "%P.volumes[1].hostDisk.capacity",
                "%P.volumes[1].hostDisk.capacity is allowed to pass only with %P.volumes[1].hostDisk.type equal to \
                 'DiskOrCreate'",
            ),
        ],
    );
}

#[test]
fn at_most_one_of_some_volumes() {
    let two = |source: Value| {
        let mut changes = volume(source.clone());
        let mut third = json!({"name": "third"});
        third.as_object_mut().unwrap().extend(source.as_object().unwrap().clone());
        changes["volumes[2]"] = third;
        changes
    };
    assert_faults(
        two(json!({"serviceAccount": {"serviceAccountName": "a"}})),
        &[(Invalid, "%P.volumes", "%P.volumes must have max one serviceAccount volume set")],
    );
    assert_faults(
        two(json!({"memoryDump": {"claimName": "c"}})),
        &[(Invalid, "%P.volumes", "%P.volumes must have max one memory dump volume set")],
    );
    let gate = "downwardMetrics disks are not allowed: DownwardMetrics feature gate is not enabled.";
    assert_faults(
        two(json!({"downwardMetrics": {}})),
        &[
            (Invalid, "%P.volumes[1]", gate),
            (Invalid, "%P.volumes[2]", gate),
            (Invalid, "%P.volumes", "%P.volumes must have max one downwardMetric volume set"),
        ],
    );
}

#[test]
fn container_path() {
    let path = json!({"containerPath": {"path": "/data"}});
    assert_faults(
        volume(path.clone()),
        &[(
            Invalid,
            "%P.volumes[1]",
            "ContainerPath volume 'extra' must be mapped to a filesystem, not a disk",
        )],
    );
    let mut mapped = volume(path);
    mapped["domain.devices.disks"] = json!([{"name": "root", "disk": {}}]);
    mapped["domain.devices.filesystems"] = json!([{"name": "extra", "virtiofs": {}}]);
    assert_valid(mapped);
}

#[test]
fn lists_have_an_end() {
    let disks = |count: usize| {
        let disk = |index: usize| json!({"name": format!("d{index}"), "disk": {"bus": "virtio"}});
        let volume = |index: usize| json!({"name": format!("d{index}"), "emptyDisk": {"capacity": "1"}});
        json!({
            "domain.devices.disks": (0..count).map(disk).collect::<Vec<_>>(),
            "volumes": (0..count).map(volume).collect::<Vec<_>>(),
        })
    };
    assert_valid(disks(256));
    let message = "Too many: 257: must have at most 256 items";
    assert_faults(disks(257), &[(Invalid, "%D.devices.disks", message), (Invalid, "%P.volumes", message)]);
}
