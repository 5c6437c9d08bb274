//! Which fields Ferrovirt boots today, as a table, and the refusal of everything else by its path.
//!
//! The table lists what is supported; a field that nobody listed is refused. So a field that is new in the types is
//! refused until somebody decides what it does here, and nothing that a user wrote is ever ignored without a word.
//!
//! The check looks at an object as it is written out (JSON), not at the types: names here are the names that users
//! write. Apply it to what the user wrote, before defaults: otherwise fields that only defaults set are warned about.

use std::fmt;

use serde::Serialize;
use serde_json::Value;

use crate::locate::join;
use crate::types::{VirtualMachine, VirtualMachineInstance};
use crate::validate::{Cause, CauseKind, Warning};

/// How far a field is supported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Support {
    /// Every value has the effect that it has in KubeVirt.
    Full,
    /// Only these values are; one that ends in `*` stands for everything that starts like it.
    Only(&'static [&'static str]),
    /// Only texts of ASCII letters, digits, `-`, `_` and `.` are: what QEMU takes for one name, not for several.
    Name,
    /// Accepted with a warning, since it changes nothing here.
    NoEffect,
    /// These values are what happens anyway; any other is accepted with a warning.
    NoEffectUnless(&'static [&'static str]),
}

/// One row of the table of support.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SupportedField {
    /// The field below its table's root; `[]` stands for each element of a list. Everything below the field is
    /// included, unless rows of their own say what is.
    pub path: &'static str,
    /// How far it is supported.
    pub support: Support,
    /// For the reader of the table and of warnings: what it does here, or why it does nothing.
    pub note: &'static str,
}

const fn row(path: &'static str, support: Support, note: &'static str) -> SupportedField {
    SupportedField { path, support, note }
}

use Support::{Full, Name, NoEffect, NoEffectUnless, Only};

/// The values of [`Support::Name`], in words.
const NAMES: &str = "names of letters, digits, `-`, `_` and `.`";

const ONE_MACHINE: &str = "there is one machine to run on";
const ONE_NETWORK: &str = "a guest's network is its own";
const PORT: &str = "a number, or the name of a port of an interface";
const BY_AGENT: &str = "by the agent in the guest; nothing ends what has no end";
const ANY_SERVER: &str = "any certificate will do; redirects to the guest itself are followed";
const UNDER_KVM: &str = "under KVM; TCG has none";

/// What is supported of a `VirtualMachine` around its template's spec, from the object's root.
pub const VIRTUAL_MACHINE_FIELDS: &[SupportedField] = &[
    row("apiVersion", Full, ""),
    row("kind", Full, ""),
    row("metadata", Full, "the name names the guest"),
    row(
        "spec.runStrategy",
        Full,
        "`run` boots whatever it says; `WaitAsReceiver` waits for good, since nothing migrates here yet",
    ),
    row("spec.running", Full, "deprecated; `run` boots whatever it says"),
    row("spec.template.metadata", Full, "labels and annotations of the instance"),
    row("status", Full, "read past"),
];

/// What is supported of a `VirtualMachineInstance` around its spec, from the object's root.
pub const VIRTUAL_MACHINE_INSTANCE_FIELDS: &[SupportedField] = &[
    row("apiVersion", Full, ""),
    row("kind", Full, ""),
    row("metadata", Full, "the name names the guest"),
    row("status", Full, "read past"),
];

/// What is supported of an instance's spec: `spec` of a `VirtualMachineInstance`, `spec.template.spec` of a
/// `VirtualMachine`.
pub const SPEC_FIELDS: &[SupportedField] = &[
    row(
        "affinity",
        Full,
        "what is required, under `serve`; preferences choose between nodes, and there is one",
    ),
    row("architecture", Only(&["amd64"]), "x86_64 guests"),
    row("dnsConfig", NoEffect, "guests ask the host's name servers"),
    row("dnsPolicy", NoEffect, "guests ask the host's name servers"),
    row("domain.chassis", Full, "SMBIOS chassis"),
    row("domain.clock.timer.hpet.present", Full, ""),
    row("domain.clock.timer.hpet.tickPolicy", NoEffect, "QEMU's HPET has one way with missed ticks"),
    row("domain.clock.timer.hyperv.present", Full, UNDER_KVM),
    row("domain.clock.timer.kvm.present", Full, UNDER_KVM),
    row("domain.clock.timer.pit.present", Full, ""),
    row("domain.clock.timer.pit.tickPolicy", Only(&["delay", "catchup", "discard"]), UNDER_KVM),
    row("domain.clock.timer.rtc.present", Only(&["true"]), "every machine has one"),
    row("domain.clock.timer.rtc.tickPolicy", Only(&["delay", "catchup"]), ""),
    row("domain.clock.timer.rtc.track", Only(&["guest", "wall"]), ""),
    row("domain.clock.timezone", Full, "a zone that the host knows; its offset at the guest's start"),
    row("domain.clock.utc", Full, ""),
    row("domain.clock.utc.offsetSeconds", Full, ""),
    row("domain.cpu.cores", Full, "per socket"),
    row("domain.cpu.dedicatedCpuPlacement", Only(&["false"]), "virtual CPUs float"),
    row(
        "domain.cpu.features[].name",
        Name,
        "as QEMU names it; one that it does not know keeps the guest from starting",
    ),
    row(
        "domain.cpu.features[].policy",
        Only(&["force", "require", "optional", "disable", "forbid"]),
        "`require` and `forbid` are checked against what KVM or TCG has",
    ),
    row("domain.cpu.isolateEmulatorThread", Only(&["false"]), "virtual CPUs float"),
    row("domain.cpu.maxSockets", NoEffect, "CPUs are not plugged in while the guest runs"),
    row("domain.cpu.model", Name, "`host-model` and `host-passthrough` are the host's CPU"),
    row("domain.cpu.sockets", Full, ""),
    row("domain.cpu.threads", Full, "per core"),
    row("domain.devices.autoattachGraphicsDevice", Full, "a VGA adapter, seen over VNC"),
    row("domain.devices.autoattachInputDevice", Full, "a USB tablet for the guest of a VirtualMachine"),
    row(
        "domain.devices.autoattachMemBalloon",
        Full,
        "virtio-balloon, through which the guest hands back pages that it has freed",
    ),
    row("domain.devices.autoattachPodInterface", Full, "`false`, and no interface: no network card"),
    row("domain.devices.autoattachSerialConsole", Full, "the guest's ttyS0 is the console"),
    row("domain.devices.autoattachVSOCK", Only(&["false"]), "guests have no vsock yet"),
    row("domain.devices.inputs[].bus", Only(&["usb", "virtio"]), ""),
    row("domain.devices.inputs[].name", Full, ""),
    row("domain.devices.inputs[].type", Only(&["tablet"]), ""),
    row("domain.devices.interfaces[].bridge", Full, "the same as `masquerade`: user-mode networking, IPv4"),
    row("domain.devices.interfaces[].macAddress", Full, ""),
    row("domain.devices.interfaces[].masquerade", Full, "the guest is 10.0.2.2 behind 10.0.2.1, by DHCP"),
    row(
        "domain.devices.interfaces[].model",
        Only(&["virtio", "e1000", "e1000e", "igb", "ne2k_pci", "pcnet", "rtl8139"]),
        "as far as the QEMU here has it",
    ),
    row("domain.devices.interfaces[].name", Full, ""),
    row(
        "domain.devices.interfaces[].portRanges",
        Full,
        "with `ports`: what of the guest can be reached, all when none is listed; they are open at the Pod's address, without `nft` or root the listed ones alone, 128 at most of each protocol",
    ),
    row("domain.devices.interfaces[].ports", Full, "see `portRanges`"),
    row("domain.devices.interfaces[].state", Only(&["up"]), ""),
    row("domain.devices.logSerialConsole", Full, "`run` always keeps the console's log"),
    row(
        "domain.devices.panicDevices[].model",
        Only(&["isa", "pvpanic"]),
        "the first of them counts; `run` adds one where there is none, so that a panic ends it at once",
    ),
    row("domain.devices.rng", Full, "virtio-rng"),
    row("domain.devices.watchdog.i6300esb.action", Only(&["poweroff", "reset", "shutdown"]), ""),
    row("domain.devices.watchdog.name", Full, ""),
    row(
        "domain.features.acpi.enabled",
        Full,
        "without it only the BIOS's own tables are left, as in KubeVirt",
    ),
    row("domain.firmware.bootloader.bios", Full, "a BIOS is what guests have"),
    row(
        "domain.firmware.bootloader.bios.useSerial",
        NoEffectUnless(&["false"]),
        "the firmware prints nothing",
    ),
    row("domain.firmware.kernelBoot.container.image", Full, "pulled from a registry or found in the store"),
    row(
        "domain.firmware.kernelBoot.container.imagePullPolicy",
        Only(&["Always", "IfNotPresent", "Never"]),
        "as in Kubernetes, defaults included",
    ),
    row(
        "domain.firmware.kernelBoot.container.imagePullSecret",
        Full,
        "a Secret of the same stream; a missing one is a warning",
    ),
    row("domain.firmware.kernelBoot.container.initrdPath", Full, ""),
    row("domain.firmware.kernelBoot.container.kernelPath", Full, ""),
    row("domain.firmware.kernelBoot.kernelArgs", Full, "passed on as they are"),
    row("domain.firmware.serial", Full, "SMBIOS serial"),
    row("domain.firmware.uuid", Full, "SMBIOS UUID"),
    row("domain.machine.type", Only(&["q35", "pc-q35*"]), "or a version of it that the QEMU here knows"),
    row("domain.memory.guest", Full, ""),
    row("domain.memory.maxGuest", NoEffect, "memory is not plugged in while the guest runs"),
    row("domain.rebootPolicy", Only(&["Reboot", "Terminate"]), ""),
    row("domain.resources.limits.cpu", Full, "counts virtual CPUs where `domain.cpu` does not"),
    row("domain.resources.limits.memory", Full, "the guest's memory where nothing else says it"),
    row("domain.resources.overcommitGuestOverhead", Full, "the Pod requests no memory for QEMU itself"),
    row("domain.resources.requests.cpu", Full, "counts virtual CPUs where `domain.cpu` does not"),
    row(
        "domain.resources.requests.memory",
        Full,
        "the guest's memory where `domain.memory.guest` is not given",
    ),
    row("evictionStrategy", NoEffect, ONE_MACHINE),
    row("hostname", Full, "told by DHCP; the instance's name where it is not given"),
    row("livenessProbe.exec", Full, BY_AGENT),
    row("livenessProbe.failureThreshold", Full, "under `serve`"),
    row("livenessProbe.guestAgentPing", Full, ""),
    row("livenessProbe.httpGet.httpHeaders", Full, ""),
    row("livenessProbe.httpGet.path", Full, ""),
    row("livenessProbe.httpGet.port", Full, PORT),
    row("livenessProbe.httpGet.scheme", Only(&["HTTP", "HTTPS"]), ANY_SERVER),
    row("livenessProbe.initialDelaySeconds", Full, "10 more, as in KubeVirt"),
    row("livenessProbe.periodSeconds", Full, ""),
    row("livenessProbe.successThreshold", Full, ""),
    row("livenessProbe.tcpSocket.port", Full, PORT),
    row("livenessProbe.timeoutSeconds", Full, ""),
    row("networks[].name", Full, ""),
    row(
        "networks[].pod",
        Full,
        "DHCP, and the host's network but not its loopback, through `passt` where that is installed, else through \
         QEMU's user network; the annotation `ferrovirt.dev/host-loopback: \"true\"` opens 127.0.0.1 at 10.0.2.4",
    ),
    row("networks[].pod.vmNetworkCIDR", Only(&["10.0.2.0/24"]), ""),
    row("nodeSelector", Full, "must match the labels of the Node, under `serve`"),
    row("priorityClassName", NoEffect, ONE_MACHINE),
    row("readinessProbe.exec", Full, BY_AGENT),
    row("readinessProbe.failureThreshold", Full, "under `serve`"),
    row("readinessProbe.guestAgentPing", Full, ""),
    row("readinessProbe.httpGet.httpHeaders", Full, ""),
    row("readinessProbe.httpGet.path", Full, ""),
    row("readinessProbe.httpGet.port", Full, PORT),
    row("readinessProbe.httpGet.scheme", Only(&["HTTP", "HTTPS"]), ANY_SERVER),
    row("readinessProbe.initialDelaySeconds", Full, "10 more, as in KubeVirt"),
    row("readinessProbe.periodSeconds", Full, ""),
    row("readinessProbe.successThreshold", Full, ""),
    row("readinessProbe.tcpSocket.port", Full, PORT),
    row("readinessProbe.timeoutSeconds", Full, ""),
    row("schedulerName", Full, "another scheduler's machines wait for that one, under `serve`"),
    row("startStrategy", Only(&["Paused"]), "`run` starts the guest all the same"),
    row("subdomain", NoEffect, ONE_NETWORK),
    row("terminationGracePeriodSeconds", Full, "whoever ends `run` ends the guest at once"),
    row("tolerations", Full, "of the taints of the Node, under `serve`"),
    row("topologySpreadConstraints", Full, "under `serve`; the one node has all there is of each topology"),
];

/// A table of support as Markdown, for the documentation: one line for each field, `root` in front of it.
pub fn markdown(fields: &[SupportedField], root: &str) -> String {
    let mut text = String::from("| field | support | note |\n|---|---|---|\n");
    for SupportedField { path, support, note } in fields {
        text.push_str(&format!("| `{}` | {support} | {note} |\n", join(root, path)));
    }
    text
}

/// As the documentation's table says it.
impl fmt::Display for Support {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Full => formatter.write_str("yes"),
            Only(values) => write!(formatter, "only {}", listed(values)),
            Name => write!(formatter, "only {NAMES}"),
            NoEffect => formatter.write_str("accepted, without effect"),
            NoEffectUnless(values) => {
                write!(formatter, "{}; others accepted, without effect", listed(values))
            }
        }
    }
}

/// What the check of support found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Findings {
    /// One fault for each field that is set and not supported.
    pub causes: Vec<Cause>,
    /// One warning for each field that is set and changes nothing.
    pub warnings: Vec<Warning>,
}

/// Checks that every field that is set in `machine` is supported. All of it but the spec is: see
/// [`VIRTUAL_MACHINE_FIELDS`].
pub fn check_vm(machine: &VirtualMachine) -> Findings {
    let mut spec = written(&machine.spec);
    let instance_spec = spec.pointer_mut("/template/spec").map(Value::take).unwrap_or_default();
    let mut findings = Findings::default();
    check_object(&spec, VIRTUAL_MACHINE_FIELDS, &mut Place::new("spec", "spec"), &mut findings);
    check_object(&instance_spec, SPEC_FIELDS, &mut Place::new("spec.template.spec", ""), &mut findings);
    findings
}

/// Checks that every field that is set in `instance` is supported. All of it but the spec is: see
/// [`VIRTUAL_MACHINE_INSTANCE_FIELDS`].
pub fn check_vmi(instance: &VirtualMachineInstance) -> Findings {
    let mut findings = Findings::default();
    check_object(&written(&instance.spec), SPEC_FIELDS, &mut Place::new("spec", ""), &mut findings);
    findings
}

fn written(spec: &impl Serialize) -> Value {
    // Not by way of text: each write of a machine waits for it.
    serde_json::to_value(spec).expect("objects that were decoded can be written as JSON")
}

/// Where in the object the check stands.
struct Place {
    /// The path to show.
    full: String,
    /// The path as rows write it.
    row: String,
}

impl Place {
    fn new(full: &str, row: &str) -> Self {
        Self { full: full.to_owned(), row: row.to_owned() }
    }

    /// Checks with `check` what is in the field `name` of this place.
    fn in_field(&mut self, name: &str, check: impl FnOnce(&mut Self)) {
        self.below(check, |place| {
            for path in [&mut place.full, &mut place.row] {
                if !path.is_empty() {
                    path.push('.');
                }
                path.push_str(name);
            }
        });
    }

    /// Checks with `check` what is in the element `index` of this place.
    fn in_element(&mut self, index: usize, check: impl FnOnce(&mut Self)) {
        self.below(check, |place| {
            place.full.push_str(&format!("[{index}]"));
            place.row.push_str("[]");
        });
    }

    fn below(&mut self, check: impl FnOnce(&mut Self), descend: impl FnOnce(&mut Self)) {
        let (full, row) = (self.full.len(), self.row.len());
        descend(self);
        check(self);
        self.full.truncate(full);
        self.row.truncate(row);
    }
}

/// Checks each field of an object that has no row itself but has rows below it.
fn check_object(value: &Value, table: &[SupportedField], place: &mut Place, findings: &mut Findings) {
    let Value::Object(fields) = value else {
        return refuse_unless_unset(value, place, findings);
    };
    for (name, field) in fields {
        place.in_field(name, |place| check_field(field, table, place, findings));
    }
}

fn check_field(value: &Value, table: &[SupportedField], place: &mut Place, findings: &mut Findings) {
    if is_unset(value) {
        return;
    }
    // A row below this one is the more exact: `clock.utc.offsetSeconds` before `clock.utc`.
    let below = |separator: &str| {
        let rest = |row: &SupportedField| row.path.strip_prefix(place.row.as_str());
        table.iter().any(|row| rest(row).is_some_and(|rest| rest.starts_with(separator)))
    };
    match value {
        Value::Object(_) if below(".") => check_object(value, table, place, findings),
        Value::Array(elements) if below("[]") => {
            for (index, element) in elements.iter().enumerate() {
                place.in_element(index, |place| check_object(element, table, place, findings));
            }
        }
        _ => match table.iter().find(|row| row.path == place.row) {
            Some(row) => check_row(value, row, &place.full, findings),
            None => refuse(&place.full, "", findings),
        },
    }
}

fn check_row(value: &Value, row: &SupportedField, field: &str, findings: &mut Findings) {
    let without_effect =
        || Warning { field: field.to_owned(), message: format!("{field} has no effect: {}", row.note) };
    match row.support {
        Full => {}
        Name => {
            if !is_name(&text(value)) {
                refuse_value(value, field, NAMES, findings);
            }
        }
        NoEffect => findings.warnings.push(without_effect()),
        NoEffectUnless(values) => {
            if !is_one_of(value, values) {
                findings.warnings.push(without_effect());
            }
        }
        Only(values) => {
            if !is_one_of(value, values) {
                refuse_value(value, field, &listed(values), findings);
            }
        }
    }
}

fn refuse_value(value: &Value, field: &str, supported: &str, findings: &mut Findings) {
    refuse(field, &format!(" with the value `{}`, only {supported}", text(value)), findings);
}

fn refuse(field: &str, detail: &str, findings: &mut Findings) {
    findings.causes.push(Cause {
        kind: CauseKind::NotSupported,
        field: field.to_owned(),
        message: format!("{field} is not supported by ferrovirt{detail}"),
    });
}

fn refuse_unless_unset(value: &Value, place: &Place, findings: &mut Findings) {
    if !is_unset(value) {
        refuse(&place.full, "", findings);
    }
}

/// Whether the field says no more than its absence would. An empty object does say something: `tpm: {}` is a TPM.
fn is_unset(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(elements) => elements.is_empty(),
        _ => false,
    }
}

fn is_one_of(value: &Value, values: &[&str]) -> bool {
    let text = text(value);
    values.iter().any(|allowed| match allowed.strip_suffix('*') {
        Some(start) => text.starts_with(start),
        None => text == *allowed,
    })
}

/// Whether the text is one name wherever QEMU reads it, whose options go on after a comma.
fn is_name(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn listed(values: &[&str]) -> String {
    values.iter().map(|value| format!("`{value}`")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check_spec(spec: Value) -> Findings {
        let mut findings = Findings::default();
        check_object(&spec, SPEC_FIELDS, &mut Place::new("spec", ""), &mut findings);
        findings
    }

    #[test]
    fn what_is_unset_is_not_spoken_of() {
        let spec = json!({"volumes": [], "networks": null, "schedulerName": "", "domain": {"cpu": {}}});
        assert_eq!(check_spec(spec), Findings::default());
    }

    #[test]
    fn a_field_that_nobody_has_decided_on_is_refused() {
        let spec = json!({"novelty": false, "domain": {"cpu": {"turbo": 0}, "devices": {"panicDevices": [{"x": 1}]}}});
        let messages: Vec<String> = check_spec(spec).causes.into_iter().map(|cause| cause.message).collect();
        assert_eq!(
            messages,
            [
                "spec.novelty is not supported by ferrovirt",
                "spec.domain.cpu.turbo is not supported by ferrovirt",
                "spec.domain.devices.panicDevices[0].x is not supported by ferrovirt",
            ]
        );
    }

    #[test]
    fn a_value_in_the_place_of_an_object_is_refused() {
        let messages: Vec<String> =
            check_spec(json!({"domain": {"devices": {"panicDevices": [3]}, "cpu": 4}}))
                .causes
                .into_iter()
                .map(|cause| cause.message)
                .collect();
        assert_eq!(
            messages,
            [
                "spec.domain.devices.panicDevices[0] is not supported by ferrovirt",
                "spec.domain.cpu is not supported by ferrovirt",
            ]
        );
    }
}
