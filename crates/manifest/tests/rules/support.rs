//! What Ferrovirt boots: the table of support, what it refuses, and the questions asked before a boot.

use manifest::bootable::{bootable_vm, bootable_vmi};
use manifest::types::{VirtualMachine, VirtualMachineInstance};
use manifest::unsupported::{
    SPEC_FIELDS, Support, SupportedField, VIRTUAL_MACHINE_FIELDS, VIRTUAL_MACHINE_INSTANCE_FIELDS, check_vm,
    check_vmi, markdown,
};
use manifest::validate::{CauseKind, KernelSource, runnable_vm, runnable_vmi};
use manifest::{Document, decode_stream};
use serde_json::{Value, json};

use crate::harness::{change, instance, machine};

/// A spec that uses every supported field with a value that has its effect.
fn supported_spec() -> Value {
    json!({
        "architecture": "amd64",
        "affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
            {"labelSelector": {"matchLabels": {"app": "db"}}, "topologyKey": "kubernetes.io/hostname"},
        ]}},
        "startStrategy": "Paused",
        "hostname": "guest",
        "networks": [{"name": "default", "pod": {"vmNetworkCIDR": "10.0.2.0/24"}}],
        "terminationGracePeriodSeconds": 30,
        "topologySpreadConstraints": [
            {"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "DoNotSchedule"},
        ],
        "domain": {
            "chassis": {"manufacturer": "m", "version": "v", "serial": "s", "asset": "a", "sku": "k"},
            "clock": {
                "timer": {
                    "hpet": {"present": false},
                    "hyperv": {"present": true},
                    "kvm": {"present": true},
                    "pit": {"present": true, "tickPolicy": "discard"},
                    "rtc": {"present": true, "tickPolicy": "catchup", "track": "guest"},
                },
                "timezone": "Europe/Berlin",
                "utc": {"offsetSeconds": -3600},
            },
            "cpu": {"cores": 1, "sockets": 1, "threads": 1, "model": "host-model",
                    "dedicatedCpuPlacement": false, "isolateEmulatorThread": false,
                    "features": [{"name": "avx2", "policy": "optional"}, {"name": "sse4.1"}]},
            "devices": {
                "autoattachGraphicsDevice": false,
                "autoattachInputDevice": true,
                "autoattachMemBalloon": true,
                "autoattachPodInterface": false,
                "autoattachSerialConsole": true,
                "autoattachVSOCK": false,
                "disks": [],
                "interfaces": [{
                    "name": "default", "masquerade": {}, "model": "e1000", "macAddress": "de:ad:00:00:be:af",
                    "ports": [{"name": "ssh", "port": 22, "protocol": "TCP"}], "state": "up",
                    "portRanges": [{"protocol": "UDP", "start": 1, "end": 9}],
                }],
                "inputs": [{"name": "t", "type": "tablet", "bus": "virtio"}, {"name": "u", "type": "tablet"}],
                "logSerialConsole": false,
                "panicDevices": [{"model": "pvpanic"}, {"model": "isa"}, {}],
                "rng": {},
                "watchdog": {"name": "w", "i6300esb": {"action": "shutdown"}},
            },
            "features": {"acpi": {"enabled": false}},
            "firmware": {
                "bootloader": {"bios": {"useSerial": false}},
                "kernelBoot": {
                    "kernelArgs": "console=ttyS0",
                    "container": {"image": "i", "imagePullPolicy": "Always", "imagePullSecret": "s",
                                  "kernelPath": "/k", "initrdPath": "/i"},
                },
                "serial": "s",
                "uuid": "5d307ca9-b3ef-428c-8861-06e72d69f223",
            },
            "machine": {"type": "q35"},
            "memory": {"guest": "64Mi"},
            "rebootPolicy": "Terminate",
            "resources": {"requests": {"cpu": "1", "memory": "64Mi"}, "limits": {"cpu": "1", "memory": "64Mi"}},
        },
    })
}

fn with(changes: Value) -> Value {
    let mut spec = supported_spec();
    change(&mut spec, &changes);
    spec
}

/// The messages of causes and warnings for an instance.
fn findings(changes: Value) -> (Vec<String>, Vec<String>) {
    let findings = check_vmi(&instance(with(changes)));
    assert!(findings.causes.iter().all(|cause| cause.kind == CauseKind::NotSupported));
    (
        findings.causes.into_iter().map(|cause| cause.message).collect(),
        findings.warnings.into_iter().map(|warning| warning.message).collect(),
    )
}

#[test]
fn supported_fields_pass_without_a_word() {
    assert_eq!(findings(json!({})), (vec![], vec![]));
    assert_eq!(bootable_vmi(&instance(supported_spec()), KernelSource::Manifest), Default::default());
    assert_eq!(bootable_vm(&machine(supported_spec()), KernelSource::Manifest), Default::default());
}

#[test]
fn the_reference_manifest_boots() {
    let text = include_str!("../fixtures/kernel-boot.yaml");
    let Document::VirtualMachine(machine) = decode_stream("kernel-boot.yaml", text).unwrap().remove(0) else {
        panic!("{text}");
    };
    assert_eq!(bootable_vm(&machine, KernelSource::Manifest), Default::default());
}

#[test]
fn fields_without_effect_are_warned_about() {
    let one = "there is one machine to run on";
    let names = "guests ask the host's name servers";
    let table = [
        ("priorityClassName", json!("p"), one),
        ("evictionStrategy", json!("None"), one),
        ("domain.clock.timer.hpet.tickPolicy", json!("delay"), "QEMU's HPET has one way with missed ticks"),
        ("subdomain", json!("guest"), "a guest's network is its own"),
        ("dnsPolicy", json!("Default"), names),
        ("dnsConfig", json!({"nameservers": ["192.0.2.1"]}), names),
        ("domain.cpu.maxSockets", json!(4), "CPUs are not plugged in while the guest runs"),
        ("domain.memory.maxGuest", json!("4Gi"), "memory is not plugged in while the guest runs"),
        ("domain.firmware.bootloader.bios.useSerial", json!(true), "the firmware prints nothing"),
    ];
    for (path, value, why) in table {
        let (causes, warnings) = findings(json!({ path: value }));
        assert_eq!(causes, Vec::<String>::new(), "{path}");
        assert_eq!(warnings, [format!("spec.{path} has no effect: {why}")]);
    }
}

#[test]
fn other_fields_are_refused_by_path() {
    let table = [
        ("domain.devices.disks", json!([{"name": "d"}]), ""),
        ("volumes", json!([{"name": "d", "emptyDisk": {"capacity": "1"}}]), ""),
        ("networks[0].multus", json!({"networkName": "n"}), ""),
        ("domain.devices.interfaces[0].sriov", json!({}), ""),
        ("domain.devices.interfaces[0].state", json!("down"), " with the value `down`, only `up`"),
        ("networks[0].pod.vmIPv6NetworkCIDR", json!("fd10:0:2::/120"), ""),
        (
            "networks[0].pod.vmNetworkCIDR",
            json!("10.1.0.0/24"),
            " with the value `10.1.0.0/24`, only `10.0.2.0/24`",
        ),
        ("domain.devices.tpm", json!({}), ""),
        ("domain.devices.blockMultiQueue", json!(true), ""),
        ("domain.memory.hugepages", json!({"pageSize": "2Mi"}), ""),
        ("domain.cpu.numa", json!({}), ""),
        ("domain.cpu.realtime", json!({"mask": "0"}), ""),
        ("domain.firmware.bootloader.efi", json!({}), ""),
        ("domain.firmware.acpi", json!({"slicNameRef": "s"}), ""),
        ("domain.features.smm", json!({}), ""),
        ("domain.features.apic", json!({}), ""),
        ("domain.features.hyperv", json!({}), ""),
        ("domain.launchSecurity", json!({}), ""),
        ("domain.clock.timer.rtc.present", json!(false), " with the value `false`, only `true`"),
        (
            "domain.clock.timer.rtc.tickPolicy",
            json!("discard"),
            " with the value `discard`, only `delay`, `catchup`",
        ),
        (
            "domain.clock.timer.pit.tickPolicy",
            json!("merge"),
            " with the value `merge`, only `delay`, `catchup`, `discard`",
        ),
        ("domain.devices.watchdog.diag288", json!({}), ""),
        (
            "domain.devices.watchdog.i6300esb.action",
            json!("explode"),
            " with the value `explode`, only `poweroff`, `reset`, `shutdown`",
        ),
        ("domain.devices.inputs[0].bus", json!("ps2"), " with the value `ps2`, only `usb`, `virtio`"),
        ("domain.devices.autoattachVSOCK", json!(true), " with the value `true`, only `false`"),
        ("domain.resources.requests.hugepages-2Mi", json!("2Mi"), ""),
        ("startStrategy", json!("Later"), " with the value `Later`, only `Paused`"),
        ("livenessProbe.httpGet.host", json!("192.0.2.1"), ""),
        ("readinessProbe.tcpSocket.host", json!("192.0.2.1"), ""),
        ("readinessProbe.httpGet.scheme", json!("http"), " with the value `http`, only `HTTP`, `HTTPS`"),
        ("accessCredentials", json!([{}]), ""),
        (
            "domain.cpu.features[0].name",
            json!("avx2,enforce"),
            " with the value `avx2,enforce`, only names of letters, digits, `-`, `_` and `.`",
        ),
        ("architecture", json!("arm64"), " with the value `arm64`, only `amd64`"),
        ("domain.machine.type", json!("pc"), " with the value `pc`, only `q35`, `pc-q35*`"),
        ("domain.cpu.dedicatedCpuPlacement", json!(true), " with the value `true`, only `false`"),
        (
            "domain.cpu.model",
            json!("Haswell,+vmx"),
            " with the value `Haswell,+vmx`, only names of letters, digits, `-`, `_` and `.`",
        ),
        (
            "domain.firmware.kernelBoot.container.imagePullPolicy",
            json!("Sometimes"),
            " with the value `Sometimes`, only `Always`, `IfNotPresent`, `Never`",
        ),
        (
            "domain.devices.panicDevices[1].model",
            json!("hyperv"),
            " with the value `hyperv`, only `isa`, `pvpanic`",
        ),
    ];
    for (path, value, detail) in &table {
        let (causes, warnings) = findings(json!({ *path: value }));
        assert_eq!(causes, [format!("spec.{path} is not supported by ferrovirt{detail}")]);
        assert_eq!(warnings, Vec::<String>::new());
    }
    // All of them at once, but those that change the same field.
    let several: Value =
        table[..2].iter().chain(&table[4..7]).map(|(path, value, _)| (*path, value.clone())).collect();
    assert_eq!(findings(several).0.len(), 5);
}

#[test]
fn a_cpu_model_is_a_plain_name() {
    for good in ["host-passthrough", "Haswell-noTSX-IBRS", "Opteron_G1", "486", "x.y"] {
        assert_eq!(findings(json!({"domain.cpu.model": good})), (vec![], vec![]), "{good}");
    }
    for bad in ["Haswell,+vmx", ",", "a b", "a=b", "a\n", "\u{e9}", "host\0"] {
        let (causes, _) = findings(json!({"domain.cpu.model": bad}));
        assert_eq!(
            causes,
            [format!(
                "spec.domain.cpu.model is not supported by ferrovirt with the value `{bad}`, only names of letters, \
                 digits, `-`, `_` and `.`"
            )]
        );
    }
}

#[test]
fn a_machines_own_fields() {
    let object = |changes: Value| {
        let mut value = serde_json::to_value(machine(supported_spec())).unwrap();
        change(&mut value, &changes);
        check_vm(&serde_json::from_value::<VirtualMachine>(value).unwrap())
    };
    assert_eq!(
        object(json!({
            "spec.runStrategy": null,
            "spec.running": true,
            "metadata.labels": {"a": "b"},
            "spec.template.metadata": {"annotations": {"a": "b"}},
            "status": {"ready": true},
            "spec.dataVolumeTemplates": [],
        })),
        Default::default()
    );
    let found = object(json!({
        "spec.instancetype": {"name": "small"},
        "spec.preference": {"name": "p"},
        "spec.updateVolumesStrategy": "Replacement",
        "spec.dataVolumeTemplates": [{"spec": {}}],
        "spec.template.spec.domain.devices.tpm": {},
    }));
    let fields: Vec<&str> = found.causes.iter().map(|cause| cause.field.as_str()).collect();
    assert_eq!(
        fields,
        [
            "spec.instancetype",
            "spec.preference",
            "spec.dataVolumeTemplates",
            "spec.updateVolumesStrategy",
            "spec.template.spec.domain.devices.tpm",
        ]
    );
    assert_eq!(found.causes[0].message, "spec.instancetype is not supported by ferrovirt");
}

/// The complete fixtures have every field that the types know. Each of their fields must be listed or refused, so that
/// a field that is added to the types cannot slip through; and each row must name a field that exists.
#[test]
fn every_field_is_listed_or_refused_and_every_row_exists() {
    let text = include_str!("../fixtures/virtual-machine-instance-complete.yaml");
    let object: Value = serde_saphyr::from_str(text).unwrap();
    let instance: VirtualMachineInstance = serde_json::from_value(object.clone()).unwrap();
    let findings = check_vmi(&instance);
    let spoken_of: Vec<&str> = findings
        .causes
        .iter()
        .map(|cause| cause.field.as_str())
        .chain(findings.warnings.iter().map(|warning| warning.field.as_str()))
        .collect();
    let rows: Vec<String> = SPEC_FIELDS
        .iter()
        .filter(|row| {
            matches!(
                row.support,
                Support::Full | Support::Name | Support::Only(_) | Support::NoEffectUnless(_)
            )
        })
        .map(|row| format!("spec.{}", row.path))
        .collect();
    let mut leaves = Vec::new();
    collect_leaves(&object["spec"], "spec", &mut leaves);
    assert!(leaves.len() > 300, "{}", leaves.len());
    let is_below = |leaf: &str, path: &str| {
        leaf.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
    };
    let silent: Vec<&String> = leaves
        .iter()
        .filter(|leaf| !spoken_of.iter().any(|path| is_below(leaf, path)))
        .filter(|leaf| !rows.iter().any(|row| is_below(&without_indexes(leaf), row)))
        .collect();
    assert_eq!(silent, Vec::<&String>::new());
    // Resources have keys of the user's choice, which the fixture need not list.
    collect_leaves(&supported_spec(), "spec", &mut leaves);
    for row in SPEC_FIELDS {
        let path = format!("spec.{}", row.path);
        assert!(leaves.iter().any(|leaf| is_below(&without_indexes(leaf), &path)), "no field `{path}`");
    }
}

fn collect_leaves(value: &Value, path: &str, leaves: &mut Vec<String>) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (name, field) in fields {
                collect_leaves(field, &format!("{path}.{name}"), leaves);
            }
        }
        Value::Array(elements) if !elements.is_empty() => {
            for (index, element) in elements.iter().enumerate() {
                collect_leaves(element, &format!("{path}[{index}]"), leaves);
            }
        }
        _ => leaves.push(path.to_owned()),
    }
}

/// `a[0].b` as rows write it: `a[].b`.
fn without_indexes(path: &str) -> String {
    path.split('[').enumerate().fold(String::new(), |text, (index, part)| match part.split_once(']') {
        Some((_, rest)) if index > 0 => format!("{text}[]{rest}"),
        _ => text + part,
    })
}

#[test]
fn tables_are_sorted_and_have_notes() {
    for table in [SPEC_FIELDS, VIRTUAL_MACHINE_FIELDS, VIRTUAL_MACHINE_INSTANCE_FIELDS] {
        for pair in table.windows(2) {
            let (first, second) = (pair[0].path, pair[1].path);
            assert!(first < second || first.starts_with(second), "`{first}` before `{second}`");
        }
        for row in table {
            let silent = matches!(row.support, Support::NoEffect | Support::NoEffectUnless(_));
            assert!(!silent || !row.note.is_empty(), "`{}` is warned about without a reason", row.path);
        }
    }
}

#[test]
fn what_runs_needs_memory() {
    let nothing = || with(json!({"domain.memory": null, "domain.resources": null}));
    let causes = runnable_vm(&machine(nothing()), KernelSource::Manifest);
    assert_eq!(causes.len(), 1);
    assert_eq!(
        causes[0].message,
        "no memory requested, at least one of 'spec.template.spec.domain.memory.guest', \
         'spec.template.spec.domain.memory.hugepages.pageSize' or \
         'spec.template.spec.domain.resources.requests.memory' must be set"
    );
    // An instance breaks a rule of validation with it; that is said once.
    let found = bootable_vmi(&instance(nothing()), KernelSource::Manifest);
    assert_eq!(found.causes.len(), 1, "{:?}", found.causes);
    let zero = with(json!({"domain.memory.guest": "0"}));
    let causes = runnable_vmi(&instance(zero), KernelSource::Manifest);
    assert_eq!(causes.len(), 1);
    assert_eq!(
        (causes[0].field.as_str(), causes[0].message.as_str()),
        ("spec.domain.memory.guest", "spec.domain.memory.guest '0': a guest needs memory")
    );
}

#[test]
fn what_runs_needs_a_kernel() {
    let messages = |spec: Value, kernel: KernelSource| -> Vec<String> {
        runnable_vmi(&instance(spec), kernel).into_iter().map(|cause| cause.message).collect()
    };
    let none = || with(json!({"domain.firmware": null}));
    assert_eq!(
        messages(none(), KernelSource::Manifest),
        [
            "spec.domain.firmware.kernelBoot.container must name an image with a kernel: there is nothing else to boot \
          from yet"
        ]
    );
    assert_eq!(messages(none(), KernelSource::Given), Vec::<String>::new());
    let initrd_alone = with(json!({"domain.firmware.kernelBoot.container.kernelPath": ""}));
    assert_eq!(
        messages(initrd_alone, KernelSource::Manifest),
        [
            "spec.domain.firmware.kernelBoot.container.kernelPath must be set: an initrd cannot be booted without a \
          kernel"
        ]
    );
    let kernel_alone = with(json!({"domain.firmware.kernelBoot.container.initrdPath": null}));
    assert_eq!(messages(kernel_alone, KernelSource::Manifest), Vec::<String>::new());
}

#[test]
fn a_field_is_spoken_of_once() {
    let found = bootable_vm(&machine(with(json!({"domain.machine.type": "pc"}))), KernelSource::Manifest);
    let messages: Vec<&str> = found.causes.iter().map(|cause| cause.message.as_str()).collect();
    assert_eq!(
        messages,
        ["spec.template.spec.domain.machine.type is not supported: pc (allowed values: [q35* pc-q35*])"]
    );
}

#[test]
fn the_documentations_table() {
    let rows = [
        SupportedField { path: "a.b", support: Support::Full, note: "note" },
        SupportedField { path: "c", support: Support::Only(&["x", "y*"]), note: "" },
        SupportedField { path: "d", support: Support::NoEffect, note: "why" },
        SupportedField { path: "e", support: Support::NoEffectUnless(&["false"]), note: "why" },
        SupportedField { path: "g", support: Support::Name, note: "" },
    ];
    assert_eq!(
        markdown(&rows, "spec"),
        "| field | support | note |\n|---|---|---|\n\
         | `spec.a.b` | yes | note |\n\
         | `spec.c` | only `x`, `y*` |  |\n\
         | `spec.d` | accepted, without effect | why |\n\
         | `spec.e` | `false`; others accepted, without effect | why |\n\
         | `spec.g` | only names of letters, digits, `-`, `_` and `.` |  |\n"
    );
}
