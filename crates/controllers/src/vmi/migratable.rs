//! Whether an instance could move to another node, as KubeVirt judges the instance itself. Whether there is another node
//! is not asked.

use manifest::types::{Interface, VirtualMachineInstance};

use super::view::Said;

/// Annotation by which a user lets a bridged pod network move.
const ALLOW_BRIDGE: &str = "kubevirt.io/allow-pod-bridge-network-live-migration";

/// Why it could not; none when it could. The first obstacle counts.
pub(super) fn obstacle(instance: &VirtualMachineInstance) -> Option<Said> {
    let said =
        |reason: &str, message: &str| Some(Said { reason: reason.to_owned(), message: message.to_owned() });
    if has_immovable_interface(instance) {
        return said(
            "InterfaceNotLiveMigratable",
            "cannot migrate VMI which does not use masquerade or a migratable plugin to connect to the pod network",
        );
    }
    let domain = &instance.spec.domain;
    if !domain.devices.host_devices.is_empty() || !domain.devices.gpus.is_empty() {
        return said("HostDeviceNotLiveMigratable", "VMI uses a PCI host devices");
    }
    let security = domain.launch_security.as_ref();
    if security.is_some_and(|security| security.sev.is_some() || security.snp.is_some()) {
        return said("SEVNotLiveMigratable", "VMI uses SEV");
    }
    if security.is_some_and(|security| security.tdx.is_some()) {
        return said("TDXNotLiveMigratable", "VMI uses TDX");
    }
    let passthrough = domain.features.as_ref().and_then(|features| features.hyperv_passthrough.as_ref());
    if passthrough.is_some_and(|feature| feature.enabled.unwrap_or(true)) {
        return said("HypervPassthroughNotLiveMigratable", "VMI uses hyperv passthrough");
    }
    let reserves = |lun: &manifest::types::LunTarget| lun.reservation == Some(true);
    if domain.devices.disks.iter().any(|disk| disk.lun.as_ref().is_some_and(reserves)) {
        return said("PersistentReservationNotLiveMigratable", "VMI uses SCSI persistent reservation");
    }
    let is_own = |volume: &manifest::types::Volume| {
        volume.host_disk.as_ref().is_some_and(|disk| disk.shared != Some(true))
    };
    if instance.spec.volumes.iter().any(is_own) {
        return said("DisksNotLiveMigratable", "cannot migrate VMI with non-shared HostDisk");
    }
    None
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
