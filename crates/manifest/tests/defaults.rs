//! Golden files of the defaults, and the rules that they do not show.
#![allow(clippy::unwrap_used)]

use manifest::types::{VirtualMachine, VirtualMachineInstance};
use manifest::{DefaultsContext, Document, apply_vm, apply_vmi, decode_stream, initial_status, vmi_for};
use serde::Serialize;
use serde_json::{Value, json};
use uuid::Uuid;

/// The manifest of KubeVirt's user guide, in our words.
const REFERENCE: &str = include_str!("fixtures/kernel-boot.yaml");

fn context() -> DefaultsContext {
    DefaultsContext {
        architecture: "amd64".to_owned(),
        firmware_uuid: Uuid::from_u128(0x11111111_1111_4111_8111_111111111111),
        firmware_serial: Uuid::from_u128(0x22222222_2222_4222_8222_222222222222),
    }
}

fn machine(text: &str) -> VirtualMachine {
    match decode_stream("test", text).unwrap().remove(0) {
        Document::VirtualMachine(machine) => *machine,
        other => panic!("{other:?}"),
    }
}

/// The instance with this spec, defaults applied.
fn defaulted(spec: Value) -> VirtualMachineInstance {
    defaulted_on("amd64", spec)
}

fn defaulted_on(architecture: &str, spec: Value) -> VirtualMachineInstance {
    let text =
        json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance", "spec": spec}).to_string();
    let Document::VirtualMachineInstance(mut instance) = decode_stream("test", &text).unwrap().remove(0)
    else {
        panic!("{text}");
    };
    let context = DefaultsContext { architecture: architecture.to_owned(), ..context() };
    apply_vmi(&mut instance, &context);
    let once = instance.clone();
    apply_vmi(&mut instance, &context);
    assert_eq!(instance, once, "defaults are applied once and for all");
    *instance
}

fn yaml(value: &impl Serialize) -> String {
    serde_saphyr::to_string(value).unwrap()
}

fn at(value: &impl Serialize, pointer: &str) -> Value {
    let value = serde_json::to_value(value).unwrap();
    value.pointer(pointer).cloned().unwrap_or(Value::Null)
}

#[test]
fn reference_machine_as_stored() {
    let mut machine = machine(REFERENCE);
    apply_vm(&mut machine, &context());
    insta::assert_snapshot!("machine", yaml(&machine));
    let once = machine.clone();
    apply_vm(&mut machine, &context());
    assert_eq!(machine, once);
}

#[test]
fn reference_instance_as_stored() {
    let mut machine = machine(REFERENCE);
    apply_vm(&mut machine, &context());
    machine.metadata.uid = Some("33333333-3333-4333-8333-333333333333".to_owned());
    machine.metadata.generation = Some(1);
    let mut instance = vmi_for(&machine);
    apply_vmi(&mut instance, &context());
    let now = serde_json::from_value(json!("2026-01-02T03:04:05Z")).unwrap();
    initial_status(&mut instance, now);
    insta::assert_snapshot!("instance", yaml(&instance));
}

#[test]
fn what_the_user_wrote_stands() {
    let mut machine = machine(REFERENCE);
    let spec = &mut machine.spec.template.spec;
    spec.architecture = Some("arm64".to_owned());
    let firmware = spec.domain.firmware.as_mut().unwrap();
    firmware.uuid = Some("mine".to_owned());
    firmware.serial = Some("S1".to_owned());
    apply_vm(&mut machine, &context());
    let domain = &machine.spec.template.spec.domain;
    assert_eq!(domain.machine.as_ref().unwrap().type_.as_deref(), Some("virt"));
    let firmware = domain.firmware.as_ref().unwrap();
    assert_eq!((firmware.uuid.as_deref(), firmware.serial.as_deref()), (Some("mine"), Some("S1")));
}

#[test]
fn a_machine_stored_without_uuid_gets_the_one_of_its_name() {
    let instance = vmi_for(&machine(REFERENCE));
    let expected = Uuid::new_v5(
        &Uuid::parse_str("6a1a24a1-4061-4607-8bf4-a3963d0c5895").unwrap(),
        b"ext-kernel-boot-vm",
    );
    assert_eq!(at(&instance, "/spec/domain/firmware/uuid"), json!(expected.to_string()));
    assert_eq!(at(&instance, "/spec/domain/firmware/serial"), Value::Null);
    assert_eq!(at(&instance, "/metadata/ownerReferences"), Value::Null);
    assert_eq!(at(&instance, "/metadata/annotations"), Value::Null);
}

#[test]
fn an_instance_takes_labels_and_annotations_of_the_template_only() {
    let mut machine = machine(REFERENCE);
    machine.metadata.namespace = Some("lab".to_owned());
    machine.metadata.labels = Some([("own".to_owned(), "1".to_owned())].into());
    let template = machine.spec.template.metadata.get_or_insert_default();
    template.name = Some("ignored".to_owned());
    template.labels = Some([("app".to_owned(), "tiny".to_owned())].into());
    template.annotations = Some([("note".to_owned(), "x".to_owned())].into());
    let instance = vmi_for(&machine);
    assert_eq!(
        at(&instance, "/metadata"),
        json!({"name": "ext-kernel-boot-vm", "namespace": "lab", "labels": {"app": "tiny"}, "annotations": {"note": "x"},
            "finalizers": ["kubevirt.io/virtualMachineControllerFinalize"]})
    );
}

#[test]
fn a_tablet_is_added_to_instances_of_machines_that_ask_for_one() {
    let mut machine = machine(REFERENCE);
    machine.spec.template.spec.domain.devices.autoattach_input_device = Some(true);
    let expected = json!([{"name": "default-0", "type": "tablet", "bus": "usb"}]);
    assert_eq!(at(&vmi_for(&machine), "/spec/domain/devices/inputs"), expected);
    let alone = defaulted(json!({"domain": {"devices": {"autoattachInputDevice": true}}}));
    assert_eq!(at(&alone, "/spec/domain/devices/inputs"), Value::Null);
}

#[test]
fn cpu_of_an_instance() {
    let table = [
        (json!({}), json!({"sockets": 1, "cores": 1, "threads": 1, "maxSockets": 4, "model": "host-model"})),
        (
            json!({"cpu": {"cores": 2, "model": "Haswell"}}),
            json!({"cores": 2, "maxSockets": 4, "model": "Haswell"}),
        ),
        (
            json!({"resources": {"limits": {"cpu": "2500m"}}}),
            json!({"sockets": 3, "cores": 1, "threads": 1, "maxSockets": 12, "model": "host-model"}),
        ),
        (
            json!({"cpu": {"sockets": 40, "cores": 2, "threads": 2}}),
            json!({"sockets": 40, "cores": 2, "threads": 2, "maxSockets": 128, "model": "host-model"}),
        ),
        (
            json!({"cpu": {"sockets": 600, "maxSockets": 0}}),
            json!({"sockets": 600, "maxSockets": 600, "model": "host-model"}),
        ),
    ];
    for (mut domain, expected) in table {
        domain["devices"] = json!({});
        let instance = defaulted(json!({ "domain": domain }));
        assert_eq!(at(&instance, "/spec/domain/cpu"), expected, "{domain}");
    }
    let arm = defaulted_on("arm64", json!({"domain": {"devices": {}}}));
    assert_eq!(
        at(&arm, "/spec/domain/cpu"),
        json!({"sockets": 1, "cores": 1, "threads": 1, "model": "host-passthrough"})
    );
}

#[test]
fn a_limit_of_cpus_becomes_the_request() {
    let instance =
        defaulted(json!({"domain": {"devices": {}, "resources": {"limits": {"cpu": "2", "memory": "1Gi"}}}}));
    assert_eq!(
        at(&instance, "/spec/domain/resources"),
        json!({"limits": {"cpu": "2", "memory": "1Gi"}, "requests": {"cpu": "2"}})
    );
}

#[test]
fn memory_of_an_instance() {
    let table = [
        (json!({"memory": {"guest": "1Gi"}}), json!({"guest": "1Gi", "maxGuest": "4Gi"})),
        (json!({"memory": {"guest": "1Gi", "maxGuest": "2Gi"}}), json!({"guest": "1Gi", "maxGuest": "2Gi"})),
        (json!({"memory": {"guest": "1023Mi"}}), json!({"guest": "1023Mi"})),
        (json!({"memory": {"guest": "1025Mi"}}), json!({"guest": "1025Mi"})),
        (json!({"memory": {"guest": "2G"}}), json!({"guest": "2G"})),
        (json!({"memory": {"guest": "2097152k"}}), json!({"guest": "2097152k", "maxGuest": "8388608k"})),
        (json!({"resources": {"limits": {"memory": "64M"}}}), json!({"guest": "64M"})),
        (
            json!({"memory": {"hugepages": {"pageSize": "1Gi"}}}),
            json!({"guest": "1Gi", "maxGuest": "4Gi", "hugepages": {"pageSize": "1Gi"}}),
        ),
        (json!({}), Value::Null),
        (json!({"memory": {"guest": "-1"}}), json!({"guest": "-1"})),
    ];
    for (mut domain, expected) in table {
        domain["devices"] = json!({});
        let instance = defaulted(json!({ "domain": domain }));
        assert_eq!(at(&instance, "/spec/domain/memory"), expected, "{domain}");
    }
    let arm = defaulted_on("arm64", json!({"domain": {"devices": {}, "memory": {"guest": "1Gi"}}}));
    assert_eq!(at(&arm, "/spec/domain/memory"), json!({"guest": "1Gi"}));
}

#[test]
fn platform_of_an_instance() {
    for (architecture, board, bus) in
        [("amd64", "q35", "sata"), ("arm64", "virt", "virtio"), ("s390x", "s390-ccw-virtio", "virtio")]
    {
        let instance = defaulted_on(
            architecture,
            json!({"domain": {"devices": {"disks": [{"name": "a"}]}}, "volumes": [{"name": "a"}]}),
        );
        assert_eq!(at(&instance, "/spec/architecture"), json!(architecture));
        assert_eq!(at(&instance, "/spec/domain/machine/type"), json!(board));
        assert_eq!(at(&instance, "/spec/domain/devices/disks"), json!([{"name": "a", "disk": {"bus": bus}}]));
        let topology = at(&instance, "/metadata/annotations/kubevirt.io~1pci-topology-version");
        let expected = if architecture == "s390x" { Value::Null } else { json!("v3") };
        assert_eq!(topology, expected, "{architecture}");
    }
}

#[test]
fn network_of_an_instance() {
    let default = defaulted(json!({"domain": {"devices": {}}}));
    assert_eq!(at(&default, "/spec/domain/devices/interfaces"), json!([{"name": "default", "bridge": {}}]));
    assert_eq!(at(&default, "/spec/networks"), json!([{"name": "default", "pod": {}}]));
    let none = defaulted(json!({"domain": {"devices": {"autoattachPodInterface": false}}}));
    assert_eq!(at(&none, "/spec/networks"), Value::Null);
    let own = defaulted(json!({"domain": {"devices": {}}, "networks": [{"name": "a", "pod": {}}]}));
    assert_eq!(at(&own, "/spec/domain/devices/interfaces"), Value::Null);
}

#[test]
fn disks_of_an_instance() {
    let instance = defaulted(json!({
        "domain": {"devices": {
            "disks": [{"name": "b", "cdrom": {}}, {"name": "c", "lun": {"bus": "scsi"}}, {"name": "d", "disk": {"bus": "virtio"}}],
            "filesystems": [{"name": "shared", "virtiofs": {}}],
        }},
        "volumes": [{"name": "a", "containerDisk": {"image": "x"}}, {"name": "shared"}, {"name": "b"}],
    }));
    assert_eq!(
        at(&instance, "/spec/domain/devices/disks"),
        json!([
            {"name": "b", "cdrom": {"bus": "sata", "readonly": true, "tray": "closed"}},
            {"name": "c", "lun": {"bus": "scsi"}},
            {"name": "d", "disk": {"bus": "virtio"}},
            {"name": "a", "disk": {"bus": "sata"}},
        ])
    );
}

#[test]
fn pull_policy_of_container_disks() {
    let table = [
        ("tiny", "Always"),
        ("registry/tiny:latest", "Always"),
        ("tiny:1", "IfNotPresent"),
        ("tiny@sha256:00", "IfNotPresent"),
        ("registry:5000/tiny", "IfNotPresent"),
    ];
    for (image, policy) in table {
        let instance = defaulted(
            json!({"domain": {"devices": {}}, "volumes": [{"name": "a", "containerDisk": {"image": image}}]}),
        );
        assert_eq!(at(&instance, "/spec/volumes/0/containerDisk/imagePullPolicy"), json!(policy), "{image}");
    }
    let kept = json!({"name": "a", "containerDisk": {"image": "tiny", "imagePullPolicy": "Never"}});
    let instance = defaulted(json!({"domain": {"devices": {}}, "volumes": [kept]}));
    assert_eq!(at(&instance, "/spec/volumes/0/containerDisk/imagePullPolicy"), json!("Never"));
}

#[test]
fn features_timers_probes_and_devices_of_an_instance() {
    let instance = defaulted(json!({
        "domain": {
            "features": {"smm": {}, "apic": {}, "pvspinlock": {"enabled": false},
                "hyperv": {"synictimer": {"direct": {}}, "spinlocks": {}, "evmcs": {}, "vendorid": {"vendorid": "x"}}},
            "clock": {"timer": {"hpet": {"present": false}, "pit": {}, "kvm": {}, "rtc": {"track": "wall"}, "hyperv": {}}},
            "devices": {"watchdog": {"name": "w", "i6300esb": {}}, "inputs": [{"name": "i", "type": "tablet"}]},
        },
        "livenessProbe": {"tcpSocket": {"port": 22}, "periodSeconds": 0, "failureThreshold": 9},
    }));
    let on = json!({"enabled": true});
    assert_eq!(
        at(&instance, "/spec/domain/features"),
        json!({"acpi": on, "smm": on, "apic": on, "pvspinlock": {"enabled": false}, "hyperv": {
            "synictimer": {"enabled": true, "direct": on}, "synic": on, "vpindex": on, "evmcs": on, "vapic": on,
            "spinlocks": {"enabled": true, "spinlocks": 4096}, "vendorid": {"enabled": true, "vendorid": "x"}}})
    );
    assert_eq!(
        at(&instance, "/spec/domain/clock/timer"),
        json!({"hpet": {"present": false}, "pit": {"present": true}, "kvm": {"present": true},
            "rtc": {"track": "wall", "present": true}, "hyperv": {"present": true}})
    );
    assert_eq!(
        at(&instance, "/spec/livenessProbe"),
        json!({"tcpSocket": {"port": 22}, "timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 9})
    );
    assert_eq!(at(&instance, "/spec/domain/devices/watchdog/i6300esb"), json!({"action": "reset"}));
    assert_eq!(at(&instance, "/spec/domain/devices/inputs/0/bus"), json!("usb"));
}
