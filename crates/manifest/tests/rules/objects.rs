//! Rules 33 and 85 to 89, of metadata and of what a machine says around its template; and order over all rules.

use std::sync::LazyLock;

use manifest::bootable::{bootable_vm, bootable_vmi};
use manifest::types::{VirtualMachine, VirtualMachineInstance};
use manifest::validate::CauseKind::{Invalid, NotSupported, Required};
use manifest::validate::{CauseList, KernelSource, validate_vm, validate_vmi, warnings_vm};
use proptest::prelude::*;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::harness::{Expected, causes, change, instance, machine, valid_spec};

/// The object with changes made from its root.
fn with<T: Serialize + DeserializeOwned>(object: &T, changes: &Value) -> T {
    let mut value = serde_json::to_value(object).unwrap();
    change(&mut value, changes);
    serde_json::from_value(value).unwrap()
}

fn assert_machine(changes: Value, expected: &[Expected<'_>]) {
    let machine: VirtualMachine = with(&machine(valid_spec()), &changes);
    assert_eq!(validate_vm(&machine), causes("spec.template.spec", expected), "{changes}");
}

fn assert_instance(changes: Value, expected: &[Expected<'_>]) {
    let instance: VirtualMachineInstance = with(&instance(valid_spec()), &changes);
    assert_eq!(validate_vmi(&instance), causes("spec", expected), "{changes}");
}

#[test]
fn names() {
    let missing = (Required, "metadata.name", "name or generateName is required");
    let bad = (
        Invalid,
        "metadata.name",
        "Invalid value: \"My VM\": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric \
         characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex \
         used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
    );
    assert_machine(json!({"metadata.name": null}), &[missing]);
    assert_instance(json!({"metadata.name": ""}), &[missing]);
    assert_instance(json!({"metadata.name": null, "metadata.generateName": "guest-"}), &[]);
    assert_instance(json!({"metadata.name": "a.b"}), &[]);
    assert_machine(json!({"metadata.name": "My VM"}), &[bad]);
    assert_instance(json!({"metadata.name": "My VM"}), &[bad]);
}

/// A namespace is a label where a name may be a subdomain: it is a part of the names of services.
#[test]
fn namespaces() {
    let fault = |namespace: &str| {
        format!(
            "Invalid value: \"{namespace}\": a lowercase RFC 1123 label must consist of lower case alphanumeric \
             characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or \
             '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
        )
    };
    for good in [json!(null), json!(""), json!("lab"), json!("kube-system-2")] {
        assert_machine(json!({"metadata.namespace": good}), &[]);
        assert_instance(json!({"metadata.namespace": good}), &[]);
    }
    for bad in ["a.b", "Lab", "-", "../up", "a b"] {
        let message = fault(bad);
        let expected = [(Invalid, "metadata.namespace", message.as_str())];
        assert_machine(json!({"metadata.namespace": bad}), &expected);
        assert_instance(json!({"metadata.namespace": bad}), &expected);
    }
    let long = "a".repeat(64);
    let message = format!("Invalid value: \"{long}\": must be no more than 63 characters");
    assert_machine(json!({"metadata.namespace": long}), &[(Invalid, "metadata.namespace", &message)]);
    // The name comes first, and neither hides the other.
    let message = fault("a.b");
    assert_instance(
        json!({"metadata.name": null, "metadata.namespace": "a.b"}),
        &[
            (Required, "metadata.name", "name or generateName is required"),
            (Invalid, "metadata.namespace", &message),
        ],
    );
}

#[test]
fn reserved_labels_and_gated_annotations() {
    let text = "creation of the following reserved kubevirt.io/ labels on a VMI object is prohibited";
    let annotations = |field: &str| {
        [
            format!(
                "ExperimentalIgnitionSupport feature gate is not enabled in kubevirt-config, invalid entry \
                 {field}.kubevirt.io/ignitiondata"
            ),
            format!(
                "sidecar feature gate is not enabled in kubevirt-config, invalid entry \
                 {field}.hooks.kubevirt.io/hookSidecars"
            ),
        ]
    };
    let metadata = json!({
        "name": "guest",
        "labels": {"kubevirt.io/created-by": "me", "kubevirt.io/nodeName": "n"},
        "annotations": {"kubevirt.io/ignitiondata": "{}", "hooks.kubevirt.io/hookSidecars": "[]"},
    });
    let [ignition, sidecar] = annotations("metadata.annotations");
    assert_instance(
        json!({ "metadata": metadata }),
        &[
            (Invalid, "metadata.annotations", &ignition),
            (Invalid, "metadata.annotations", &sidecar),
            (NotSupported, "metadata.labels", text),
        ],
    );
    let [ignition, sidecar] = annotations("spec.template.metadata.annotations");
    assert_machine(
        json!({"spec.template.metadata": metadata}),
        &[
            (Invalid, "spec.template.metadata.annotations", &ignition),
            (Invalid, "spec.template.metadata.annotations", &sidecar),
            (NotSupported, "spec.template.metadata.labels", text),
        ],
    );
    let append = json!({"name": "guest", "annotations": {"ferrovirt.dev/append": "single\n"}});
    let message =
        |field: &str| format!("kernel arguments cannot have control characters {field}.ferrovirt.dev/append");
    let field = "metadata.annotations";
    assert_instance(json!({ "metadata": append }), &[(Invalid, field, &message(field))]);
    let field = "spec.template.metadata.annotations";
    assert_machine(json!({ "spec.template.metadata": append }), &[(Invalid, field, &message(field))]);
    let harmless = json!({
        "name": "guest",
        "labels": {"kubevirt.io/vm": "guest", "app": "x"},
        "annotations": {"kubevirt.io/ignitiondata": ""},
    });
    assert_instance(json!({ "metadata": harmless }), &[]);
    // The machine's own labels are its own business.
    assert_machine(json!({"metadata.labels": {"kubevirt.io/nodeName": "n"}}), &[]);
}

#[test]
fn run_strategy() {
    for good in ["Always", "RerunOnFailure", "Manual", "Halted", "Once", "WaitAsReceiver"] {
        assert_machine(json!({"spec.runStrategy": good}), &[]);
    }
    assert_machine(json!({"spec.runStrategy": null, "spec.running": false}), &[]);
    assert_machine(
        json!({"spec.running": true}),
        &[(
            Invalid,
            "spec.running",
            "Running and RunStrategy are mutually exclusive. Note that Running is deprecated, please use RunStrategy \
             instead",
        )],
    );
    assert_machine(
        json!({"spec.runStrategy": null}),
        &[(Invalid, "spec.running", "RunStrategy must be specified")],
    );
    assert_machine(
        json!({"spec.runStrategy": "Sometimes"}),
        &[(Invalid, "spec.runStrategy", "Invalid RunStrategy (Sometimes)")],
    );
}

#[test]
fn running_is_warned_about() {
    assert_eq!(warnings_vm(&machine(valid_spec())), []);
    let old: VirtualMachine = with(&machine(valid_spec()), &json!({"spec.running": false}));
    let warnings = warnings_vm(&old);
    assert_eq!(warnings.len(), 1);
    assert_eq!(
        (warnings[0].field.as_str(), warnings[0].message.as_str()),
        ("spec.running", "spec.running is deprecated, please use spec.runStrategy instead.")
    );
}

#[test]
fn data_volume_templates() {
    let field = "spec.dataVolumeTemplates[0]";
    let template = json!({"metadata": {"name": "dv"}, "spec": {"source": {"blank": {}}, "storage": {}}});
    let faults = |changes: Value, messages: &[&str]| {
        let mut template = template.clone();
        change(&mut template, &changes);
        let expected: Vec<_> = messages.iter().map(|message| (Invalid, field, *message)).collect();
        assert_machine(
            json!({
                "metadata.namespace": "here",
                "spec.dataVolumeTemplates": [template],
                "spec.template.spec.volumes[1]": {"name": "extra", "dataVolume": {"name": "dv"}},
            }),
            &expected,
        );
    };
    faults(json!({}), &[]);
    faults(json!({"metadata.namespace": "here"}), &[]);
    faults(json!({"spec": {"sourceRef": {"kind": "DataSource", "name": "d"}, "pvc": {}}}), &[]);
    faults(json!({"spec": {"storage": {"dataSource": {"kind": "k", "name": "n"}}}}), &[]);
    faults(
        json!({"metadata.namespace": "there"}),
        &["Embedded DataVolume namespace there differs from VM namespace here"],
    );
    let unreferenced = "DataVolumeTemplate entry spec.dataVolumeTemplate[0] must be referenced in the VMI template's \
                        'volumes' list";
    faults(json!({"metadata.name": "other"}), &[unreferenced]);
    faults(
        json!({"metadata.name": ""}),
        &[
            "'name' field must not be empty for DataVolumeTemplate entry spec.dataVolumeTemplate[0].name.",
            unreferenced,
        ],
    );
    faults(json!({"spec.storage": null}), &["Missing Data volume PVC or Storage"]);
    faults(
        json!({"spec.pvc": {}}),
        &["Duplicate storage definition, both target storage and target pvc defined"],
    );
    faults(
        json!({"spec.source": null}),
        &["Data volume should have either Source, SourceRef, or be externally populated"],
    );
    faults(json!({"spec.source.upload": {}}), &["Multiple dataVolume sources"]);
    faults(json!({"spec.sourceRef": {"kind": "DataSource", "name": "d"}}), &["Multiple dataVolume sources"]);
}

/// Faults of many groups at once come in KubeVirt's order, and print as its admission prints them.
#[test]
fn all_faults_at_once_and_in_order() {
    let changes = json!({
        "metadata.name": "Guest",
        "spec.hostname": "Guest",
        "spec.domain.resources.requests": {"memory": "-1", "cpu": "-1"},
        "spec.domain.machine.type": "pc",
        "spec.domain.cpu.sockets": 9,
        "spec.startStrategy": "Later",
        "spec.domain.devices.interfaces[0].model": "x",
        "spec.domain.devices.disks[0].bootOrder": 2,
        "spec.domain.devices.inputs[0].type": "mouse",
        "spec.domain.ioThreadsPolicy": "x",
        "spec.readinessProbe": {},
        "spec.domain.devices.disks[0].cache": "x",
        "spec.domain.firmware.bootloader": {"bios": {}, "efi": {}},
        "spec.domain.firmware.kernelBoot.container.image": "",
        "spec.volumes[2]": {"name": "nothing"},
        "spec.accessCredentials": [{}],
        "spec.dnsPolicy": "x",
        "spec.evictionStrategy": "x",
        "spec.domain.devices.autoattachVSOCK": true,
        "spec.domain.devices.panicDevices": [{"model": "x"}],
        "spec.architecture": "x",
    });
    let instance: VirtualMachineInstance = with(&instance(valid_spec()), &changes);
    let causes = validate_vmi(&instance);
    let fields: Vec<&str> = causes.iter().map(|cause| cause.field.as_str()).collect();
    assert_eq!(
        fields,
        [
            "metadata.name",
            "spec.hostname",
            "spec.domain.resources.requests.memory",
            "spec.domain.machine.type",
            "spec.domain.resources.requests.cpu",
            "spec.domain.cpu.sockets",
            "spec.startStrategy",
            "spec.domain.devices.interfaces[0].model",
            "spec.domain.devices.interfaces[0].bootOrder",
            "spec.domain.devices.inputs[0].type",
            "spec.domain.ioThreadsPolicy",
            "spec.readinessProbe",
            "spec.domain.devices.disks[0].cache",
            "spec.domain.firmware.bootloader",
            "spec.domain.firmware.kernelBoot.container.image",
            "spec.domain",
            "spec.volumes[2]",
            "spec.accessCredentials[0]",
            "spec.dnsPolicy",
            "spec.evictionStrategy",
            "spec.domain.devices.autoattachVSOCK",
            "spec.domain.devices.panicDevices[0].model",
            "spec.architecture",
        ]
    );
    let text = CauseList::check(causes).unwrap_err().to_string();
    assert!(
        text.ends_with("Input device can have only tablet type., and 13 more validation errors"),
        "{text}"
    );
}

/// The places of all values in a document, as JSON pointers.
fn places(value: &Value, place: &str, found: &mut Vec<String>) {
    found.push(place.to_owned());
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                places(field, &format!("{place}/{}", name.replace('~', "~0").replace('/', "~1")), found);
            }
        }
        Value::Array(elements) => {
            for (index, element) in elements.iter().enumerate() {
                places(element, &format!("{place}/{index}"), found);
            }
        }
        _ => {}
    }
}

fn any_scalar() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<i64>().prop_map(Value::from),
        any::<u32>().prop_map(Value::from),
        any::<bool>().prop_map(Value::from),
        "\\PC{0,8}".prop_map(Value::from),
        "[-+0-9.eEinumkKMGTP:/]{0,8}".prop_map(Value::from),
        Just(Value::Null),
    ]
}

/// A machine with every field, and the places in it.
static COMPLETE: LazyLock<(Value, Vec<String>)> = LazyLock::new(|| {
    let text = include_str!("../fixtures/virtual-machine-complete.yaml");
    let object: Value = serde_saphyr::from_str(text).unwrap();
    let mut found = Vec::new();
    places(&object, "", &mut found);
    (object, found)
});

proptest! {
    /// Whatever stands in a field, as long as it has the right shape: judged without a panic, and the same each time.
    #[test]
    fn any_content_is_judged(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any_scalar()), 1..12),
    ) {
        let (mut object, found) = COMPLETE.clone();
        for (index, value) in changes {
            let place = index.get(&found);
            // An earlier change may have taken the place away; a value of the wrong shape is put back.
            let Some(previous) = object.pointer_mut(place).map(Value::take) else { continue };
            *object.pointer_mut(place).unwrap() = value;
            if serde_json::from_value::<VirtualMachine>(object.clone()).is_err() {
                *object.pointer_mut(place).unwrap() = previous;
            }
        }
        let machine: VirtualMachine = serde_json::from_value(object).unwrap();
        let instance = manifest::vmi_for(&machine);
        prop_assert_eq!(bootable_vm(&machine, KernelSource::Manifest), bootable_vm(&machine, KernelSource::Manifest));
        for cause in bootable_vmi(&instance, KernelSource::Manifest).causes {
            prop_assert!(!cause.message.is_empty());
            prop_assert!(cause.field.is_empty() || cause.field.starts_with("spec") || cause.field.starts_with("metadata"));
        }
    }
}
