//! Whether an instance could move to another node, as KubeVirt judges the instance itself. Whether there is another node
//! is not asked.

use manifest::types::{Interface, VirtualMachineInstance};

use super::view::Said;

/// Annotation by which a user lets a bridged pod network move.
const ALLOW_BRIDGE: &str = "kubevirt.io/allow-pod-bridge-network-live-migration";

/// Why it could not; none when it could. The first obstacle counts.
pub(super) fn obstacle(instance: &VirtualMachineInstance) -> Option<Said> {
    let is_own = |volume: &manifest::types::Volume| {
        volume.host_disk.as_ref().is_some_and(|disk| disk.shared != Some(true))
    };
    let has_own_disk = instance.spec.volumes.iter().any(is_own);
    obstacles_beside_disks(instance).into_iter().next().or_else(|| {
        has_own_disk.then(|| said("DisksNotLiveMigratable", "cannot migrate VMI with non-shared HostDisk"))
    })
}

/// Why its disks could not move to another storage while it runs; none when they could. All obstacles are told.
pub(super) fn storage_obstacle(instance: &VirtualMachineInstance) -> Option<Said> {
    let all: Vec<_> = obstacles_beside_disks(instance)
        .into_iter()
        .map(|Said { reason, message }| format!("{reason}: {message}"))
        .collect();
    (!all.is_empty()).then(|| said("NotMigratable", &all.join(", ")))
}

fn said(reason: &str, message: &str) -> Said {
    Said { reason: reason.to_owned(), message: message.to_owned() }
}

fn obstacles_beside_disks(instance: &VirtualMachineInstance) -> Vec<Said> {
    let domain = &instance.spec.domain;
    let security = domain.launch_security.as_ref();
    let passthrough = domain.features.as_ref().and_then(|features| features.hyperv_passthrough.as_ref());
    let reserves = |lun: &manifest::types::LunTarget| lun.reservation == Some(true);
    let checks = [
        (
            has_immovable_interface(instance),
            "InterfaceNotLiveMigratable",
            "cannot migrate VMI which does not use masquerade or a migratable plugin to connect to the pod network",
        ),
        (
            !domain.devices.host_devices.is_empty() || !domain.devices.gpus.is_empty(),
            "HostDeviceNotLiveMigratable",
            "VMI uses a PCI host devices",
        ),
        (
            security.is_some_and(|security| security.sev.is_some() || security.snp.is_some()),
            "SEVNotLiveMigratable",
            "VMI uses SEV",
        ),
        (security.is_some_and(|security| security.tdx.is_some()), "TDXNotLiveMigratable", "VMI uses TDX"),
        (
            passthrough.is_some_and(|feature| feature.enabled.unwrap_or(true)),
            "HypervPassthroughNotLiveMigratable",
            "VMI uses hyperv passthrough",
        ),
        (
            domain.devices.disks.iter().any(|disk| disk.lun.as_ref().is_some_and(reserves)),
            "PersistentReservationNotLiveMigratable",
            "VMI uses SCSI persistent reservation",
        ),
    ];
    checks
        .into_iter()
        .filter(|(is_so, ..)| *is_so)
        .map(|(_, reason, message)| said(reason, message))
        .collect()
}

/// `LiveMigration`, or `BlockMigration` where disks would have to be copied.
pub(super) fn method(instance: &VirtualMachineInstance) -> &'static str {
    let is_shared = |volume: &manifest::types::Volume| {
        volume.persistent_volume_claim.is_some()
            || volume.data_volume.is_some()
            || volume.host_disk.as_ref().is_some_and(|disk| disk.shared == Some(true))
    };
    if instance.spec.volumes.iter().all(is_shared) { "LiveMigration" } else { "BlockMigration" }
}

/// Whether the interface to the pod network stays where it is.
fn has_immovable_interface(instance: &VirtualMachineInstance) -> bool {
    let on_pod_network = |interface: &&Interface| {
        instance.spec.networks.iter().any(|network| network.name == interface.name && network.pod.is_some())
    };
    let annotations = instance.metadata.annotations.as_ref();
    let bridge_may_move = annotations.is_some_and(|annotations| annotations.contains_key(ALLOW_BRIDGE));
    instance.spec.domain.devices.interfaces.iter().find(on_pod_network).is_some_and(|interface| {
        let moves = interface.masquerade.is_some()
            || interface.passt_binding.is_some()
            || (interface.bridge.is_some() && bridge_may_move);
        !moves
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::{Value, json};

    use super::*;

    fn reason(metadata: Value, spec: Value) -> (Option<String>, &'static str) {
        let mut object = json!({"metadata": metadata, "spec": {"domain": {"devices": {}}}});
        json_patch::merge(&mut object["spec"], &spec);
        let instance = serde_json::from_value(object).unwrap();
        (obstacle(&instance).map(|said| said.reason), method(&instance))
    }

    #[test]
    fn disks_alone_do_not_keep_disks_from_moving() {
        let storage = |spec: Value| {
            let mut object = json!({"spec": {"domain": {"devices": {}}}});
            json_patch::merge(&mut object["spec"], &spec);
            storage_obstacle(&serde_json::from_value(object).unwrap())
        };
        assert_eq!(
            storage(json!({"volumes": [{"name": "a", "hostDisk": {"path": "/a", "type": "Disk"}}]})),
            None
        );
        let both = storage(json!({"domain": {
            "devices": {"gpus": [{"name": "g"}]}, "launchSecurity": {"sev": {}},
        }}));
        let message =
            "HostDeviceNotLiveMigratable: VMI uses a PCI host devices, SEVNotLiveMigratable: VMI uses SEV";
        assert_eq!(both, Some(said("NotMigratable", message)));
    }

    #[test]
    fn the_first_obstacle_is_told() {
        let pod_network = |interface: Value| {
            json!({
                "networks": [{"name": "default", "pod": {}}],
                "domain": {"devices": {"interfaces": [interface]}},
            })
        };
        let bridge = || pod_network(json!({"name": "default", "bridge": {}}));
        let allowed = json!({"annotations": {ALLOW_BRIDGE: "true"}});
        let table = [
            (json!({}), json!({}), None, "LiveMigration"),
            (json!({}), bridge(), Some("InterfaceNotLiveMigratable"), "LiveMigration"),
            (allowed, bridge(), None, "LiveMigration"),
            (json!({}), pod_network(json!({"name": "default", "masquerade": {}})), None, "LiveMigration"),
            (
                json!({}),
                json!({"domain": {"devices": {"gpus": [{"name": "g"}]}}}),
                Some("HostDeviceNotLiveMigratable"),
                "LiveMigration",
            ),
            (
                json!({}),
                json!({"domain": {"launchSecurity": {"sev": {}}}}),
                Some("SEVNotLiveMigratable"),
                "LiveMigration",
            ),
            (
                json!({}),
                json!({"volumes": [{"name": "a", "hostDisk": {"path": "/a", "type": "Disk"}}]}),
                Some("DisksNotLiveMigratable"),
                "BlockMigration",
            ),
            (
                json!({}),
                json!({"volumes": [{"name": "a", "containerDisk": {"image": "i"}}]}),
                None,
                "BlockMigration",
            ),
            (
                json!({}),
                json!({"volumes": [{"name": "a", "persistentVolumeClaim": {"claimName": "c"}}]}),
                None,
                "LiveMigration",
            ),
        ];
        for (metadata, spec, expected, way) in table {
            assert_eq!(reason(metadata, spec.clone()), (expected.map(str::to_owned), way), "{spec}");
        }
    }
}
