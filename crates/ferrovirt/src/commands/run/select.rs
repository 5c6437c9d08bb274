//! Which machine a run boots, and its instance as it will run: chosen, changed by `--set`, judged, defaulted.

use anyhow::Context as _;
use manifest::defaults::{self, DefaultsContext};
use manifest::forms;
use manifest::types::VirtualMachineInstance;
use manifest::validate::KernelSource;

use super::overrides::Override;
use crate::commands::manifests::{self, Judgement, Machine, Manifest};
use crate::report::{Failure, Reporter};

/// The namespace of a machine that names none, as kubectl has it.
const DEFAULT_NAMESPACE: &str = "default";

/// Memory of a machine that is made of `--kernel` alone.
const KERNEL_ONLY_MEMORY: &str = "1Gi";

/// The machine of the manifest that `name` chooses; the only one needs no name.
///
/// # Errors
/// When there is none, none of that name, or several and no name.
pub fn choose(manifest: &Manifest, source: &str, name: Option<&str>) -> Result<Machine, Failure> {
    let named = |machine: &Machine| format!("{} `{}`", machine.kind(), machine.name());
    let list = || manifest.machines.iter().map(named).collect::<Vec<_>>().join(", ");
    let candidates: Vec<&Machine> =
        manifest.machines.iter().filter(|machine| name.is_none_or(|name| machine.name() == name)).collect();
    match (&candidates[..], name) {
        ([machine], _) => Ok((*machine).clone()),
        ([], _) if manifest.machines.is_empty() => Err(Failure::refused(
            anyhow::anyhow!("the manifest `{source}` holds no VirtualMachine and no VirtualMachineInstance"),
            None,
        )),
        ([], Some(name)) => Err(Failure::refused(
            anyhow::anyhow!("the manifest `{source}` holds no machine named `{name}`, but {}", list()),
            None,
        )),
        (_, None) => Err(Failure::refused(
            anyhow::anyhow!("the manifest `{source}` holds several machines: {}", list()),
            Some("choose one with `--name`".to_owned()),
        )),
        (_, Some(name)) => Err(Failure::refused(
            anyhow::anyhow!("the manifest `{source}` holds several machines named `{name}`: {}", list()),
            Some("give them different names".to_owned()),
        )),
    }
}

/// A machine for `--kernel` without a manifest: the kernel's console on the first serial port, the rest by default.
pub fn kernel_only() -> Machine {
    let text = format!(
        r#"{{"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance", "metadata": {{"name": "kernel"}},
            "spec": {{"domain": {{"devices": {{}}, "memory": {{"guest": "{KERNEL_ONLY_MEMORY}"}}}}}}}}"#
    );
    let manifest = manifests::parse("--kernel", &text).expect("a constant manifest decodes");
    manifest.machines.into_iter().next().expect("there is one machine in it")
}

/// Changes `machine` by every `--set`, in order.
///
/// # Errors
/// When a path does not exist in the machine's schema or a value has the wrong type.
pub fn apply_overrides(machine: Machine, sets: &[String]) -> Result<Machine, Failure> {
    if sets.is_empty() {
        return Ok(machine);
    }
    let mut value = match &machine {
        Machine::VirtualMachine(machine) => forms::to_value(machine),
        Machine::VirtualMachineInstance(instance) => forms::to_value(instance),
    }
    .context("cannot write the machine as JSON")?;
    for text in sets {
        let change = Override::parse(text).map_err(|error| Failure::usage(error.to_string()))?;
        change.apply(&mut value)?;
    }
    let changed = manifests::parse("--set", &value.to_string())?;
    changed
        .machines
        .into_iter()
        .next()
        .ok_or_else(|| Failure::usage("`--set` may not change what kind of object it is".to_owned()))
}

/// Judges `machine` by KubeVirt's rules and ours, and makes the instance that runs.
///
/// # Errors
/// All faults at once.
pub fn instance(
    machine: Machine,
    kernel: KernelSource,
    reporter: &Reporter,
) -> Result<VirtualMachineInstance, Failure> {
    machine.judge(Judgement::ToRun(kernel), reporter)?;
    let random = DefaultsContext {
        architecture: "amd64".to_owned(),
        firmware_uuid: uuid::Uuid::new_v4(),
        firmware_serial: uuid::Uuid::new_v4(),
    };
    let mut instance = match machine {
        Machine::VirtualMachine(mut machine) => {
            // The random identity of a machine that nobody stores would be another at every run: the instance takes
            // the one that its name gives.
            let identity = machine.spec.template.spec.domain.firmware.clone().unwrap_or_default();
            defaults::apply_vm(&mut machine, &random);
            if let Some(firmware) = &mut machine.spec.template.spec.domain.firmware {
                firmware.uuid = identity.uuid;
                firmware.serial = identity.serial;
            }
            defaults::vmi_for(&machine)
        }
        Machine::VirtualMachineInstance(instance) => *instance,
    };
    defaults::apply_vmi(&mut instance, &random);
    let metadata = &mut instance.metadata;
    metadata.namespace.get_or_insert_with(|| DEFAULT_NAMESPACE.to_owned());
    if metadata.name.is_none() {
        metadata.name = metadata.generate_name.as_ref().map(|prefix| prefix.trim_end_matches('-').to_owned());
    }
    Ok(instance)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const TWO: &str = "
apiVersion: kubevirt.io/v1
kind: VirtualMachine
metadata: {name: one}
spec: {runStrategy: Halted, template: {spec: {domain: {devices: {}, memory: {guest: 1Gi}}}}}
---
apiVersion: kubevirt.io/v1
kind: VirtualMachineInstance
metadata: {name: two, namespace: lab}
spec: {domain: {devices: {}, memory: {guest: 64Mi}}}
";

    fn quiet() -> Reporter {
        Reporter { color: false, chatty: false, log_format: crate::cli::LogFormat::Text }
    }

    fn text(failure: Failure) -> String {
        format!("{:#} {:?} {:?}", failure.error, failure.causes, failure.hints)
    }

    #[test]
    fn several_machines_need_a_name() {
        let manifest = manifests::parse("vm.yaml", TWO).unwrap();
        assert_eq!(choose(&manifest, "vm.yaml", Some("two")).unwrap().name(), "two");
        let message = text(choose(&manifest, "vm.yaml", None).unwrap_err());
        assert!(
            message.contains("VirtualMachine `one`, VirtualMachineInstance `two`")
                && message.contains("--name")
        );
        let message = text(choose(&manifest, "vm.yaml", Some("three")).unwrap_err());
        assert!(message.contains("no machine named `three`"), "{message}");
        let empty = manifests::parse("vm.yaml", "").unwrap();
        assert!(text(choose(&empty, "vm.yaml", None).unwrap_err()).contains("holds no VirtualMachine"));
    }

    #[test]
    fn a_field_is_changed_for_one_run() {
        let manifest = manifests::parse("vm.yaml", TWO).unwrap();
        let machine = choose(&manifest, "vm.yaml", Some("two")).unwrap();
        let changed = apply_overrides(machine.clone(), &["spec.domain.memory.guest=2Gi".into()]).unwrap();
        let instance = instance(changed, KernelSource::Given, &quiet()).unwrap();
        assert_eq!(manifest::resources::guest_memory_bytes(&instance.spec).unwrap(), 2 << 30);

        let message = text(apply_overrides(machine, &["spec.domain.memory.size=2Gi".into()]).unwrap_err());
        assert!(message.contains("spec.domain.memory.size in body is a forbidden property"), "{message}");
    }

    #[test]
    fn a_virtual_machine_keeps_its_identity_from_run_to_run() {
        let manifest = manifests::parse("vm.yaml", TWO).unwrap();
        let run = || {
            instance(choose(&manifest, "vm.yaml", Some("one")).unwrap(), KernelSource::Given, &quiet())
                .unwrap()
        };
        let uuid = |instance: &VirtualMachineInstance| instance.spec.domain.firmware.clone().unwrap().uuid;
        assert!(uuid(&run()).is_some());
        assert_eq!(uuid(&run()), uuid(&run()));
        assert_eq!(run().metadata.namespace.as_deref(), Some("default"));
    }

    #[test]
    fn names_are_those_of_kubernetes() {
        for bad in ["A", "a/b", "..", "a_b", "-a", ""] {
            let text = TWO.replace("name: one", &format!("name: \"{bad}\""));
            let manifest = manifests::parse("vm.yaml", &text).unwrap();
            let machine = manifest.machines[0].clone();
            assert!(instance(machine, KernelSource::Given, &quiet()).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_kernel_alone_is_a_machine() {
        let instance = instance(kernel_only(), KernelSource::Given, &quiet()).unwrap();
        assert_eq!(instance.metadata.name.as_deref(), Some("kernel"));
    }
}
