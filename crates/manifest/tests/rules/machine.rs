//! Rules 1 to 35 of the pod, resources, CPU, firmware, probes and devices, and those of the kernel.

use manifest::validate::CauseKind::{Invalid, NotSupported, Required};
use serde_json::{Value, json};

use crate::harness::{assert_faults, assert_instance_faults, assert_machine_faults, assert_valid};

const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must \
     start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is \
     '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or \
     '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
     '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";

#[test]
fn kernel_boot() {
    let container = "domain.firmware.kernelBoot.container";
    let with = |changes: Value| {
        let changes = changes.as_object().unwrap();
        Value::Object(
            changes.iter().map(|(key, value)| (format!("{container}.{key}"), value.clone())).collect(),
        )
    };
    let image = (
        Required,
        "%D.firmware.kernelBoot.container.image",
        "%D.firmware.kernelBoot.container must be defined with an image",
    );
    let paths = (
        Required,
        "%D.firmware.kernelBoot.container",
        "%D.firmware.kernelBoot.container must be defined with at least one of the following: kernelPath, initrdPath",
    );
    let root = |field| (Invalid, field, "must not point to root");
    let relative = |field| (Invalid, field, "must be an absolute path to a file without relative components");
    let kernel = "%D.firmware.kernelBoot.container.kernelPath";
    let initrd = "%D.firmware.kernelBoot.container.initrdPath";

    assert_valid(json!({"domain.firmware.kernelBoot": {}}));
    assert_valid(json!({"domain.firmware.kernelBoot": {"kernelArgs": ""}}));
    assert_valid(with(json!({"initrdPath": null})));
    assert_valid(with(json!({"kernelPath": null})));
    assert_valid(with(json!({"kernelPath": "/vmlinuz/", "imagePullSecret": "IfNotPresent"})));
    assert_faults(
        json!({"domain.firmware.kernelBoot": {"kernelArgs": "quiet"}}),
        &[(
            Invalid,
            "%D.firmware.kernelBoot.kernelArgs",
            "kernel arguments cannot be provided without an external kernel",
        )],
    );
    assert_faults(with(json!({"image": ""})), &[image]);
    assert_faults(with(json!({"kernelPath": "", "initrdPath": null})), &[paths]);
    assert_faults(with(json!({"image": "", "kernelPath": "", "initrdPath": ""})), &[image, paths]);
    for (changes, faults) in [
        (json!({"kernelPath": "/"}), vec![root(kernel)]),
        (json!({"initrdPath": "/"}), vec![root(initrd)]),
        (json!({"kernelPath": "boot/vmlinuz"}), vec![relative(kernel)]),
        (json!({"initrdPath": "/boot//initrd"}), vec![relative(initrd)]),
        (json!({"kernelPath": "/boot/../vmlinuz", "initrdPath": "/"}), vec![relative(kernel), root(initrd)]),
    ] {
        let texts: Vec<String> = faults.iter().map(|(_, field, rule)| format!("{field} {rule}")).collect();
        let faults: Vec<_> = faults
            .iter()
            .zip(&texts)
            .map(|((kind, field, _), text)| (*kind, *field, text.as_str()))
            .collect();
        assert_faults(with(changes), &faults);
    }
}

#[test]
fn names() {
    assert_valid(json!({"hostname": "a".repeat(63), "subdomain": "example.com"}));
    assert_valid(json!({"hostname": "", "subdomain": ""}));
    assert_faults(
        json!({"hostname": "Guest"}),
        &[(
            Invalid,
            "%P.hostname",
            &format!("%P.hostname does not conform to the kubernetes DNS_LABEL rules : {LABEL}"),
        )],
    );
    assert_faults(
        json!({"hostname": "a".repeat(64)}),
        &[(
            Invalid,
            "%P.hostname",
            "%P.hostname does not conform to the kubernetes DNS_LABEL rules : must be no more than 63 characters",
        )],
    );
    assert_faults(
        json!({"subdomain": ".example"}),
        &[(
            Invalid,
            "%P.subdomain",
            &format!("%P.subdomain does not conform to the kubernetes DNS_SUBDOMAIN rules : {SUBDOMAIN}"),
        )],
    );
}

#[test]
fn memory() {
    let request = "%D.resources.requests.memory";
    let limit = "%D.resources.limits.memory";
    let memory = |request: &str, limit: &str| json!({"domain.resources.requests.memory": request, "domain.resources.limits.memory": limit});
    assert_valid(memory("1M", "1000k"));
    assert_valid(memory("0", "0"));
    assert_valid(memory("1Gi", "1024Mi"));
    // A guest above its limit is no fault where changes roll out live.
    assert_valid(json!({"domain.memory.guest": "4Gi"}));
    assert_faults(
        memory("-64M", "2Gi"),
        &[(Invalid, request, "%D.resources.requests.memory '-64M': must be greater than or equal to 0.")],
    );
    assert_faults(
        memory("999999", "2Gi"),
        &[(Invalid, request, "%D.resources.requests.memory '999999': must be greater than or equal to 1M.")],
    );
    assert_faults(
        memory("1", "2Gi"),
        &[(Invalid, request, "%D.resources.requests.memory '1': must be greater than or equal to 1M.")],
    );
    assert_faults(
        memory("1Gi", "-1"),
        &[(Invalid, limit, "%D.resources.limits.memory '-1': must be greater than or equal to 0.")],
    );
    assert_faults(
        memory("1025Mi", "1Gi"),
        &[(
            Invalid,
            request,
            "%D.resources.requests.memory '1025Mi' is greater than %D.resources.limits.memory '1Gi'",
        )],
    );
}

#[test]
fn huge_pages() {
    let pages = |size: &str| json!({"domain.memory.hugepages.pageSize": size});
    for size in ["2Mi", "1Gi", "0"] {
        assert_valid(pages(size));
    }
    assert_faults(
        pages("2MB"),
        &[(
            Invalid,
            "%D.memory.hugepages.pageSize",
            "%D.memory.hugepages.pageSize '2MB': quantities must match the regular expression \
             '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
        )],
    );
    assert_faults(
        pages("2Gi"),
        &[(
            Invalid,
            "%D.resources.requests.memory",
            "%D.resources.requests.memory '1Gi' must be equal to or larger than page size \
             %D.memory.hugepages.pageSize '2Gi'",
        )],
    );
    assert_faults(
        pages("3Mi"),
        &[(
            Invalid,
            "%D.resources.requests.memory",
            "%D.resources.requests.memory '1Gi' is not a multiple of the page size \
             %D.memory.hugepages.pageSize '3Mi'",
        )],
    );
    assert_valid(json!({"domain.memory.hugepages.pageSize": "1Gi", "domain.resources": null}));
}

#[test]
fn memory_must_be_requested_by_instances() {
    let nothing = json!({"domain.memory": null, "domain.resources": null});
    assert_instance_faults(
        nothing.clone(),
        &[(
            Required,
            "",
            "no memory requested, at least one of 'spec.domain.memory.guest', \
             'spec.domain.memory.hugepages.pageSize' or 'spec.domain.resources.requests.memory' must be set",
        )],
    );
    assert_machine_faults(nothing, &[]);
    let only =
        |path: &str, value: &str| json!({"domain.memory": null, "domain.resources": null, path: value});
    assert_valid(only("domain.memory.guest", "64Mi"));
    assert_valid(only("domain.memory.hugepages.pageSize", "2Mi"));
    assert_valid(only("domain.resources.requests.memory", "64Mi"));
    assert_valid(only("domain.resources.limits.memory", "64Mi"));
}

#[test]
fn cpu_resources() {
    let cpu = |request: Value, limit: Value| json!({"domain.resources.requests.cpu": request, "domain.resources.limits.cpu": limit});
    assert_valid(cpu(json!("2"), json!("2000m")));
    assert_valid(cpu(json!("2"), json!("0")));
    assert_valid(cpu(json!("2"), Value::Null));
    assert_faults(
        cpu(json!("-1m"), json!("-1")),
        &[
            (
                Invalid,
                "%D.resources.requests.cpu",
                "%D.resources.requests.cpu '-1m': must be greater than or equal to 0.",
            ),
            (
                Invalid,
                "%D.resources.limits.cpu",
                "%D.resources.limits.cpu '-1': must be greater than or equal to 0.",
            ),
        ],
    );
    assert_faults(
        cpu(json!("2001m"), json!(2)),
        &[(
            Invalid,
            "%D.resources.requests.cpu",
            "%D.resources.requests.cpu '2001m' is greater than %D.resources.limits.cpu '2'",
        )],
    );
    // Both round up to two CPUs; thousandths decide.
    assert_faults(
        cpu(json!("1600m"), json!("1.5")),
        &[(
            Invalid,
            "%D.resources.requests.cpu",
            "%D.resources.requests.cpu '1600m' is greater than %D.resources.limits.cpu '1.5'",
        )],
    );
}

#[test]
fn cpu_topology_and_placement() {
    let dedicated = |request: &str, limit: &str| {
        json!({
            "domain.cpu.dedicatedCpuPlacement": true,
            "domain.cpu.isolateEmulatorThread": true,
            "domain.resources.requests.cpu": request,
            "domain.resources.limits.cpu": limit,
        })
    };
    assert_valid(dedicated("2", "2"));
    assert_valid(dedicated("1000m", "2000m"));
    assert_faults(
        dedicated("1500m", "2.5"),
        &[
            (Invalid, "%D.resources.limits.cpu", "provided resources CPU limits must be an interger"),
            (Invalid, "%D.resources.requests.cpu", "provided resources CPU requests must be an interger"),
        ],
    );
    let mut no_cpus = json!({"domain.cpu": {"dedicatedCpuPlacement": true, "sockets": 1}});
    no_cpus["domain.resources"] = Value::Null;
    assert_faults(
        no_cpus.clone(),
        &[(
            Invalid,
            "%D.cpu.dedicatedCpuPlacement",
            "either %D.resources.requests.cpu or %D.resources.limits.cpu or %D.cpu.cores must be provided when \
             DedicatedCPUPlacement is true ",
        )],
    );
    no_cpus["domain.cpu"]["cores"] = json!(1);
    assert_valid(no_cpus);
    assert_faults(
        json!({"domain.cpu.isolateEmulatorThread": true}),
        &[(
            Invalid,
            "%D.cpu.isolateEmulatorThread",
            "IsolateEmulatorThread should be only set in combination with DedicatedCPUPlacement",
        )],
    );
    assert_valid(json!({"domain.cpu.sockets": 4}));
    assert_valid(json!({"domain.cpu.sockets": 5, "domain.cpu.maxSockets": 0}));
    assert_faults(
        json!({"domain.cpu.sockets": 5}),
        &[(
            Invalid,
            "%D.cpu.sockets",
            "Number of sockets in CPU topology is greater than the maximum sockets allowed",
        )],
    );
}

#[test]
fn cpu_features() {
    let policies = ["", "force", "require", "optional", "disable", "forbid"];
    let good: Vec<Value> = policies.iter().map(|policy| json!({"name": "apic", "policy": policy})).collect();
    assert_valid(json!({"domain.cpu.features": good}));
    assert_faults(
        json!({"domain.cpu.features": [{"name": "apic"}, {"name": "pcid", "policy": "maybe"}]}),
        &[(
            NotSupported,
            "%D.cpu.features[1].policy",
            "CPU feature pcid uses policy maybe that is not supported.",
        )],
    );
}

#[test]
fn machine_type() {
    let machine = |machine: &str| json!({"domain.machine.type": machine});
    for good in ["", "q35", "q35x", "pc-q35-7.2", "pc-q35-rhel9.6.0"] {
        assert_valid(machine(good));
    }
    for bad in ["pc", "q3", "virt", "xq35", "q35/x"] {
        let message = format!("%D.machine.type is not supported: {bad} (allowed values: [q35* pc-q35*])");
        assert_faults(machine(bad), &[(Invalid, "%D.machine.type", &message)]);
    }
    let on = |architecture: &str, machine: &str| {
        json!({
            "architecture": architecture,
            "domain.machine.type": machine,
            // arm64 allows no SATA disks.
            "domain.devices.disks[1].disk.bus": "virtio",
        })
    };
    assert_valid(on("arm64", "virt-9.0"));
    assert_valid(on("s390x", "s390-ccw-virtio"));
    assert_faults(
        on("arm64", "q35"),
        &[(Invalid, "%D.machine.type", "%D.machine.type is not supported: q35 (allowed values: [virt*])")],
    );
    assert_faults(
        on("s390x", "q35"),
        &[(
            Invalid,
            "%D.machine.type",
            "%D.machine.type is not supported: q35 (allowed values: [s390-ccw-virtio*])",
        )],
    );
}

#[test]
fn architectures() {
    let unknown = json!({"architecture": "riscv64"});
    assert_instance_faults(
        unknown.clone(),
        &[(Invalid, "%P.architecture", "unsupported architecture: riscv64")],
    );
    assert_machine_faults(unknown, &[]);
    assert_instance_faults(
        json!({
            "architecture": "arm64",
            "domain.firmware.bootloader.bios": {},
            "domain.cpu.model": "host-model",
            "domain.devices.watchdog": {"name": "dog", "i6300esb": {}},
            "domain.devices.sound": {"name": "sound"},
        }),
        &[
            (
                Invalid,
                "%D.firmware.bootloader.bios",
                "Arm64 does not support bios boot, please change to uefi boot",
            ),
            (Invalid, "%D.cpu.model", "currently, host-passthrough is the only model supported on Arm64"),
            (
                Invalid,
                "%D.devices.disks[1].disk.bus",
                "Arm64 not support this disk bus type, please use virtio or scsi",
            ),
            (Invalid, "%D.devices.watchdog", "Arm64 not support Watchdog device"),
            (Invalid, "%D.devices.sound", "Arm64 not support sound device"),
        ],
    );
    assert_instance_faults(
        json!({
            "domain.devices.watchdog": {"name": "dog", "diag288": {}},
            "domain.devices.video.type": "s3",
        }),
        &[
            (Invalid, "%D.devices.watchdog", "amd64 only supports I6300ESB watchdog device"),
            (Invalid, "%D.devices.video.type", "video model 's3' is not supported on amd64 architecture"),
        ],
    );
    assert_instance_faults(
        json!({"domain.devices.watchdog": {"name": "dog", "i6300esb": {}}, "domain.devices.video.type": "vga"}),
        &[],
    );
}

#[test]
fn start_strategy() {
    assert_valid(json!({"startStrategy": "Paused"}));
    assert_faults(
        json!({"startStrategy": "Later"}),
        &[(Invalid, "%P.startStrategy", "%P.startStrategy is set with an unrecognized option: Later")],
    );
    assert_faults(
        json!({"startStrategy": "Paused", "livenessProbe": {"exec": {"command": ["true"]}}}),
        &[(
            Invalid,
            "%P.startStrategy",
            "either %P.startStrategy or %P.livenessProbe should be provided.Pausing VMI with LivenessProbe is not \
             supported",
        )],
    );
}

#[test]
fn eviction_strategy() {
    for good in ["None", "LiveMigrate", "LiveMigrateIfPossible", "External"] {
        assert_valid(json!({"evictionStrategy": good}));
    }
    assert_faults(
        json!({"evictionStrategy": "none"}),
        &[(Invalid, "%P.evictionStrategy", "%P.evictionStrategy is set with an unrecognized option: none")],
    );
}

#[test]
fn firmware() {
    assert_valid(json!({"domain.firmware.bootloader.efi": {"secureBoot": false}}));
    assert_valid(json!({"domain.firmware.bootloader.efi": {}, "domain.features.smm": {}}));
    let secure = (
        Invalid,
        "%D",
        "%D has EFI SecureBoot enabled. SecureBoot requires SMM, which is currently disabled.",
    );
    assert_faults(json!({"domain.firmware.bootloader.efi": {}}), &[secure]);
    assert_faults(
        json!({"domain.firmware.bootloader.efi": {"secureBoot": true}, "domain.features.smm.enabled": false}),
        &[secure],
    );
    assert_faults(
        json!({"domain.firmware.bootloader": {"efi": {"secureBoot": false}, "bios": {}}}),
        &[(
            Invalid,
            "%D.firmware.bootloader",
            "%D.firmware.bootloader has both EFI and BIOS configured, but they are mutually exclusive.",
        )],
    );
    assert_valid(json!({"domain.firmware.acpi.slicNameRef": "slic"}));
    assert_faults(
        json!({"domain.firmware.acpi": {}}),
        &[(Invalid, "%P.acpi", "ACPI was set but no SLIC nor MSDM volume reference was set")],
    );
}

#[test]
fn probes() {
    let http = json!({"httpGet": {"port": 80}});
    let tcp = json!({"tcpSocket": {"port": "ssh"}});
    for probe in [&http, &tcp, &json!({"exec": {}}), &json!({"guestAgentPing": {}})] {
        assert_valid(json!({"readinessProbe": probe, "livenessProbe": probe}));
    }
    assert_faults(
        json!({"readinessProbe": {"exec": {}, "guestAgentPing": {}}, "livenessProbe": {"periodSeconds": 1}}),
        &[
            (Invalid, "%P.readinessProbe", "%P.readinessProbe must have exactly one probe type set"),
            (
                Required,
                "%P.livenessProbe",
                "either %P.livenessProbe.tcpSocket, %P.livenessProbe.exec or %P.livenessProbe.httpGet must be set \
                 if a %P.livenessProbe is specified",
            ),
        ],
    );
    assert_faults(
        json!({
            "networks[0]": {"name": "default", "multus": {"networkName": "net"}},
            "domain.devices.interfaces[0]": {"name": "default", "bridge": {}},
            "readinessProbe": http,
            "livenessProbe": tcp,
        }),
        &[
            (
                Invalid,
                "%P.readinessProbe.httpGet",
                "%P.readinessProbe.httpGet is only allowed if the Pod Network is attached",
            ),
            (
                Invalid,
                "%P.livenessProbe.tcpSocket",
                "%P.livenessProbe.tcpSocket is only allowed if the Pod Network is attached",
            ),
        ],
    );
}

#[test]
fn other_devices() {
    for good in ["shared", "auto", "supplementalPool"] {
        assert_valid(json!({"domain.ioThreadsPolicy": good}));
    }
    assert_faults(
        json!({"domain.ioThreadsPolicy": "many"}),
        &[(Invalid, "%D.ioThreadsPolicy", "Invalid IOThreadsPolicy (many)")],
    );
    assert_faults(
        json!({"domain.devices.inputs[0]": {"name": "mouse", "type": "mouse", "bus": "ps2"}}),
        &[
            (Invalid, "%D.devices.inputs[0].bus", "Input device can have only virtio or usb bus."),
            (Invalid, "%D.devices.inputs[0].type", "Input device can have only tablet type."),
        ],
    );
    assert_faults(
        json!({"domain.devices.video": {"type": "vga"}, "domain.devices.autoattachGraphicsDevice": false}),
        &[(
            Invalid,
            "%D.devices.video",
            "Video configuration is not allowed when autoattachGraphicsDevice is set to false",
        )],
    );
    for good in ["hyperv", "isa", "pvpanic", "s390"] {
        assert_valid(json!({"domain.devices.panicDevices": [{}, {"model": good}]}));
    }
    assert_faults(
        json!({"domain.devices.panicDevices": [{"model": "isa"}, {"model": "loud"}]}),
        &[(Invalid, "%D.devices.panicDevices[1].model", "invalid PanicDeviceModel(loud)")],
    );
    for architecture in ["arm64", "s390x"] {
        let message = format!("custom panic devices are not supported on {architecture} architecture");
        assert_machine_faults(
            json!({"architecture": architecture, "domain.devices.panicDevices": [{"model": "pvpanic"}]}),
            &[(Invalid, "%D.devices.panicDevices", &message)],
        );
    }
}

#[test]
fn feature_gates_that_are_off() {
    assert_valid(json!({"domain.devices.autoattachVSOCK": false}));
    assert_faults(
        json!({
            "domain.devices.autoattachVSOCK": true,
            "domain.devices.hostDevices": [{"name": "card", "deviceName": "vendor.example/card"}],
        }),
        &[
            (
                Invalid,
                "%D.devices.hostDevices",
                "Host Devices feature gate is not enabled in kubevirt-config",
            ),
            (Invalid, "%D.devices.autoattachVSOCK", "VSOCK feature gate is not enabled in kubevirt-config"),
        ],
    );
}

#[test]
fn dns() {
    for good in ["", "ClusterFirst", "ClusterFirstWithHostNet", "Default"] {
        assert_valid(json!({"dnsPolicy": good}));
    }
    assert_valid(json!({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["192.0.2.1"]}}));
    assert_faults(
        json!({"dnsPolicy": "Nearest"}),
        &[(
            Invalid,
            "%P.dnsPolicy",
            "DNSPolicy: Nearest is not supported, valid values: [ClusterFirstWithHostNet ClusterFirst Default None ]",
        )],
    );
    assert_faults(
        json!({"dnsPolicy": "None"}),
        &[(Invalid, "%P.dnsConfig", "must provide `dnsConfig` when `dnsPolicy` is None")],
    );
    assert_faults(
        json!({"dnsPolicy": "None", "dnsConfig": {"searches": ["example"]}}),
        &[(
            Invalid,
            "%P.dnsConfig.nameservers",
            "must provide at least one DNS nameserver when `dnsPolicy` is None",
        )],
    );
}

#[test]
fn access_credentials() {
    let key = |method: Value| json!({"sshPublicKey": {"source": {"secret": {"secretName": "keys"}}, "propagationMethod": method}});
    let password = json!({"userPassword": {
        "source": {"secret": {"secretName": "words"}},
        "propagationMethod": {"qemuGuestAgent": {}},
    }});
    let agent = json!({"qemuGuestAgent": {"users": ["root"]}});
    assert_valid(json!({"accessCredentials": [key(agent.clone()), password]}));
    assert_valid(json!({
        "accessCredentials": [key(json!({"noCloud": {}}))],
        "volumes[1]": {"name": "extra", "cloudInitNoCloud": {"userData": "#"}},
    }));
    assert_faults(
        json!({"accessCredentials": [key(json!({"noCloud": {}})), key(json!({"configDrive": {}}))]}),
        &[
            (
                Invalid,
                "%P.accessCredentials[0].sshPublicKey.propagationMethod",
                "%P.accessCredentials[0] requires a noCloud volume to exist when the noCloud propagationMethod is in \
                 use.",
            ),
            (
                Invalid,
                "%P.accessCredentials[1].sshPublicKey.propagationMethod",
                "%P.accessCredentials[1] requires a configDrive volume to exist when the configDrive \
                 propagationMethod is in use.",
            ),
        ],
    );
    assert_faults(
        json!({"accessCredentials": [key(json!({"qemuGuestAgent": {"users": []}}))]}),
        &[(
            Invalid,
            "%P.accessCredentials[0].sshPublicKey.propagationMethod.qemuGuestAgent.users",
            "%P.accessCredentials[0] requires at least one user to be present in the users list",
        )],
    );
    assert_faults(
        json!({"accessCredentials": [
            {},
            {"sshPublicKey": {"source": {}, "propagationMethod": {}}},
            {"userPassword": {"source": {}, "propagationMethod": {}}},
        ]}),
        &[
            (
                Invalid,
                "%P.accessCredentials[0]",
                "%P.accessCredentials[0] must have exactly one access credential type set",
            ),
            (
                Invalid,
                "%P.accessCredentials[1].sshPublicKey.source",
                "%P.accessCredentials[1].sshPublicKey.source must have exactly one source set",
            ),
            (
                Invalid,
                "%P.accessCredentials[1].sshPublicKey.propagationMethod",
                "%P.accessCredentials[1].sshPublicKey.propagationMethod must have exactly one propagationMethod set",
            ),
            (
                Invalid,
                "%P.accessCredentials[2].userPassword.source",
                "%P.accessCredentials[2].userPassword.source must have exactly one source set",
            ),
            (
                Invalid,
                "%P.accessCredentials[2].userPassword.propagationMethod",
                "%P.accessCredentials[2].userPassword.propagationMethod must have exactly one propagationMethod set",
            ),
        ],
    );
    assert_faults(
        json!({"accessCredentials": [{
            "sshPublicKey": {"source": {"secret": {"secretName": "k"}}, "propagationMethod": agent},
            "userPassword": {
                "source": {"secret": {"secretName": "w"}},
                "propagationMethod": {"qemuGuestAgent": {}},
            },
        }]}),
        &[(
            Invalid,
            "%P.accessCredentials[0]",
            "%P.accessCredentials[0] must have exactly one access credential type set",
        )],
    );
}
