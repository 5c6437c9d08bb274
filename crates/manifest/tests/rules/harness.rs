//! The valid object, and the ways to break it.

use manifest::types::{VirtualMachine, VirtualMachineInstance};
use manifest::validate::{Cause, CauseKind, validate_vm, validate_vmi};
use serde_json::{Value, json};

/// An expected fault: kind, field and message. `%P` stands for the path of the spec, `%D` for that of its domain.
pub type Expected<'a> = (CauseKind, &'a str, &'a str);

/// A spec that breaks no rule and has something of everything.
pub fn valid_spec() -> Value {
    json!({
        "domain": {
            "cpu": {"sockets": 2, "maxSockets": 4},
            "memory": {"guest": "1Gi"},
            "resources": {"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "2", "memory": "2Gi"}},
            "firmware": {"kernelBoot": {
                "kernelArgs": "console=ttyS0",
                "container": {
                    "image": "registry.example/kernel:1",
                    "kernelPath": "/boot/vmlinuz",
                    "initrdPath": "/boot/initrd",
                },
            }},
            "devices": {
                "disks": [
                    {"name": "root", "disk": {"bus": "virtio"}, "bootOrder": 1},
                    {"name": "extra", "disk": {"bus": "sata"}, "serial": "A.b_c-1+"},
                ],
                "interfaces": [{"name": "default", "masquerade": {}, "bootOrder": 2}],
                "inputs": [{"name": "pointer", "type": "tablet", "bus": "virtio"}],
            },
        },
        "volumes": [
            {"name": "root", "containerDisk": {"image": "registry.example/disk:1", "path": "/disk/a.img"}},
            {"name": "extra", "emptyDisk": {"capacity": "1Gi"}},
        ],
        "networks": [{"name": "default", "pod": {}}],
    })
}

/// The instance with this spec.
pub fn instance(spec: Value) -> VirtualMachineInstance {
    let object = json!({
        "apiVersion": "kubevirt.io/v1",
        "kind": "VirtualMachineInstance",
        "metadata": {"name": "guest"},
        "spec": spec,
    });
    serde_json::from_value(object).unwrap()
}

/// The machine with this spec in its template.
pub fn machine(spec: Value) -> VirtualMachine {
    let object = json!({
        "apiVersion": "kubevirt.io/v1",
        "kind": "VirtualMachine",
        "metadata": {"name": "guest"},
        "spec": {"runStrategy": "Manual", "template": {"spec": spec}},
    });
    serde_json::from_value(object).unwrap()
}

/// Sets fields of an object. Keys are paths such as `domain.devices.disks[0].name`; what is on the way is made, and
/// `null` takes a field away.
pub fn change(object: &mut Value, changes: &Value) {
    for (path, value) in changes.as_object().unwrap() {
        let mut place = &mut *object;
        let mut parts = path.split('.').peekable();
        while let Some(part) = parts.next() {
            let (name, indexes) = part.split_once('[').map_or((part, ""), |(name, rest)| (name, rest));
            if parts.peek().is_none() && indexes.is_empty() && value.is_null() {
                place.as_object_mut().unwrap().shift_remove(name);
                break;
            }
            place = &mut place[name];
            for index in indexes.split('[').filter(|index| !index.is_empty()) {
                let index: usize = index.trim_end_matches(']').parse().unwrap();
                if place.is_null() {
                    *place = json!([]);
                }
                let list = place.as_array_mut().unwrap();
                assert!(index <= list.len(), "`{path}` leaves a gap");
                if index == list.len() {
                    list.push(Value::Null);
                }
                place = &mut list[index];
            }
            if parts.peek().is_none() {
                *place = value.clone();
            }
        }
    }
}

/// The valid spec with these changes.
pub fn changed(changes: &Value) -> Value {
    let mut spec = valid_spec();
    change(&mut spec, changes);
    spec
}

/// Asserts that the changes make exactly these faults, in this order, in an instance and in a machine.
pub fn assert_faults(changes: Value, expected: &[Expected<'_>]) {
    assert_instance_faults(changes.clone(), expected);
    assert_machine_faults(changes, expected);
}

/// Asserts that the changes break no rule.
pub fn assert_valid(changes: Value) {
    assert_faults(changes, &[]);
}

pub fn assert_instance_faults(changes: Value, expected: &[Expected<'_>]) {
    let found = validate_vmi(&instance(changed(&changes)));
    assert_eq!(found, causes("spec", expected), "instance with {changes}");
}

pub fn assert_machine_faults(changes: Value, expected: &[Expected<'_>]) {
    let found = validate_vm(&machine(changed(&changes)));
    assert_eq!(found, causes("spec.template.spec", expected), "machine with {changes}");
}

/// The expected faults with the spec's path put in.
pub fn causes(spec: &str, expected: &[Expected<'_>]) -> Vec<Cause> {
    let fill = |text: &str| text.replace("%D", &format!("{spec}.domain")).replace("%P", spec);
    expected
        .iter()
        .map(|(kind, field, message)| Cause { kind: *kind, field: fill(field), message: fill(message) })
        .collect()
}

#[test]
fn the_valid_object_is_valid() {
    assert_valid(json!({}));
}

#[test]
fn changes_reach_where_they_say() {
    let mut object = json!({"a": {"b": [1, 2]}});
    change(&mut object, &json!({"a.b[1]": 3, "a.b[2].c": 4, "x.y": 5}));
    assert_eq!(object, json!({"a": {"b": [1, 3, {"c": 4}]}, "x": {"y": 5}}));
    change(&mut object, &json!({"a": null, "x.y": null}));
    assert_eq!(object, json!({"x": {}}));
}
