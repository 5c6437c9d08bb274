//! Whatever a manifest says, QEMU is told nothing but what its fields are for: every text of a manifest with everything
//! in it, replaced by hostile ones, by way of the plan to the command line.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Value, json};
use vmm::{
    Accelerator, ClockStart, FirmwareFacts, HostFacts, Namespaces, QemuFacts, QemuVersion, RunAs, RunPaths,
    Sandbox, Slirp, qemu_args,
};

use super::*;

/// Texts that would mean something to QEMU, a shell or the kernel if they got where they do not belong.
const HOSTILE: [&str; 16] = [
    "",
    ",",
    ",,",
    "-monitor stdio",
    "--daemonize",
    "-S",
    "x,file=/etc/shadow",
    "x,,file=/etc/shadow,id=y",
    "x -device e1000",
    "x\n-device\ne1000",
    "x=y,z=on",
    "host,+vmx,migratable=off",
    "../../../../etc/shadow",
    "file:///etc/shadow",
    "$(reboot)`reboot`;reboot",
    "\u{202e}\u{1b}[2J\r\t",
];

/// Options without a value.
const FLAGS: [&str; 4] = ["-nodefaults", "-no-user-config", "-no-reboot", "-S"];

/// Options whose value QEMU takes as a whole.
const WHOLE: [&str; 4] = ["-kernel", "-initrd", "-append", "-uuid"];

fn everything() -> Value {
    json!({
        "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance",
        "metadata": {"name": "vm", "namespace": "default", "labels": {"a": "b"}, "annotations": {"c": "d"}},
        "spec": {
            "startStrategy": "Paused", "hostname": "h", "subdomain": "s", "nodeSelector": {"e": "f"},
            "networks": [{"name": "default", "pod": {}}],
            "domain": {
                "memory": {"guest": "64Mi"},
                "machine": {"type": "q35"},
                "cpu": {"model": "Haswell", "features": [{"name": "avx2", "policy": "optional"}]},
                "chassis": {"manufacturer": "m", "version": "v", "serial": "s", "asset": "a", "sku": "k"},
                "firmware": {
                    "uuid": "5d307ca9-b3ef-428c-8861-06e72d69f223", "serial": "s",
                    "kernelBoot": {
                        "kernelArgs": "console=ttyS0",
                        "container": {"image": "i", "kernelPath": "/k", "initrdPath": "/i", "imagePullPolicy": "Always",
                                      "imagePullSecret": "p"},
                    },
                },
                "clock": {"timezone": "Europe/Berlin", "timer": {
                    "pit": {"tickPolicy": "delay"}, "rtc": {"tickPolicy": "catchup", "track": "guest"},
                }},
                "rebootPolicy": "Terminate",
                "devices": {
                    "rng": {}, "watchdog": {"name": "w", "i6300esb": {"action": "poweroff"}},
                    "panicDevices": [{"model": "pvpanic"}],
                    "inputs": [{"name": "t", "type": "tablet", "bus": "virtio"}],
                    "interfaces": [{"name": "default", "masquerade": {}, "model": "e1000",
                                    "macAddress": "02:00:00:00:00:01", "ports": [{"name": "p", "port": 22, "protocol": "TCP"}]}],
                },
            },
        },
    })
}

/// The places of all texts in a document, as JSON pointers.
fn texts(value: &Value, at: &str, found: &mut Vec<String>) {
    match value {
        Value::String(_) => found.push(at.to_owned()),
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(number, item)| texts(item, &format!("{at}/{number}"), found));
        }
        Value::Object(fields) => {
            fields.iter().for_each(|(name, field)| texts(field, &format!("{at}/{name}"), found));
        }
        _ => {}
    }
}

/// The command line of an instance; `None` where it is refused on the way.
fn command_line(instance: &Value) -> Option<Vec<String>> {
    let instance: VirtualMachineInstance = serde_json::from_value(instance.clone()).ok()?;
    let files = BootFiles { kernel: "/store/kernel".into(), initrd: Some("/store/initrd".into()) };
    let spec = plan(&instance, &files, &[], PanicDevices::AsWritten).ok()?;
    let facts = HostFacts {
        qemu: QemuFacts {
            binary: "/q".into(),
            version: QemuVersion { major: 9, minor: 0, micro: 0 },
            firmware: FirmwareFacts::default(),
            sandbox: Sandbox::Available,
            slirp: Slirp::Available,
            installation: None,
        },
        accelerator: Accelerator::Tcg { reason: String::new() },
        cpus: 1,
        memory_bytes: 1 << 30,
        run_as: RunAs::Caller,
        namespaces: Namespaces::Unprivileged { reason: String::new() },
    };
    spec.check(&facts).ok()?;
    let paths = RunPaths::in_directory(Path::new("/run/vm"));
    Some(qemu_args(&spec, &facts, &paths, &ClockStart::default()))
}

/// All options with the keys in their values: `-name guest`, `-smbios asset`; as QEMU reads them.
fn said(arguments: &[String]) -> BTreeSet<String> {
    let mut said = BTreeSet::new();
    let mut rest = arguments.iter();
    while let Some(option) = rest.next() {
        if FLAGS.contains(&option.as_str()) {
            said.insert(option.clone());
            continue;
        }
        let value = rest.next().unwrap_or_else(|| panic!("{option} without a value"));
        if WHOLE.contains(&option.as_str()) {
            said.insert(option.clone());
            continue;
        }
        for part in value.replace(",,", "\0").split(',') {
            said.insert(format!("{option} {}", part.split('=').next().unwrap_or_default()));
        }
    }
    said
}

#[test]
fn no_text_of_a_manifest_becomes_an_option() {
    let everything = everything();
    // With the defaults of fields that are hostile and so have no effect.
    let mut plain = everything.clone();
    let domain = plain["spec"]["domain"].as_object_mut().unwrap();
    ["cpu", "machine", "clock", "rebootPolicy"].iter().for_each(|field| drop(domain.remove(*field)));
    domain["devices"] = json!({
        "inputs": [{"name": "t", "type": "tablet", "bus": "usb"}], "panicDevices": [{"model": "isa"}],
        "interfaces": [{"name": "default", "masquerade": {}}],
    });
    let mut known = said(&command_line(&everything).unwrap());
    known.extend(said(&command_line(&plain).unwrap()));

    let mut places = Vec::new();
    texts(&everything, "", &mut places);
    assert!(places.len() > 40, "{places:?}");
    let (mut taken, mut refused) = (0, 0);
    for place in &places {
        for text in HOSTILE {
            let mut instance = everything.clone();
            *instance.pointer_mut(place).unwrap() = json!(text);
            let Some(arguments) = command_line(&instance) else {
                refused += 1;
                continue;
            };
            taken += 1;
            let unknown: Vec<String> = said(&arguments).difference(&known).cloned().collect();
            // A name may be any that QEMU may know; what it is a name of is not the manifest's choice.
            let name = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
            let is_named = |part: &String| {
                let name_of = ["-cpu", "-machine"]
                    .into_iter()
                    .find_map(|option| part.strip_prefix(&format!("{option} ")));
                name && name_of == Some(text)
            };
            assert!(unknown.iter().all(is_named), "{place} = {text:?} says {unknown:?}");
        }
    }
    assert!(taken > 100 && refused > 30, "{taken} taken, {refused} refused");
}
