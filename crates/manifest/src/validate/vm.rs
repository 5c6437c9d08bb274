//! Rules for what a virtual machine says around its template.

use super::Warning;
use super::cause::{Causes, Path};
use super::text;
use crate::types::VirtualMachine;
use crate::types::{DataVolumeSource, DataVolumeTemplateSpec};

/// When a virtual machine may run.
const RUN_STRATEGIES: [&str; 6] = ["Halted", "Manual", "Always", "RerunOnFailure", "Once", "WaitAsReceiver"];

pub(super) fn warnings(machine: &VirtualMachine) -> Vec<Warning> {
    let deprecated = machine.spec.running.map(|_| Warning {
        field: "spec.running".to_owned(),
        message: "spec.running is deprecated, please use spec.runStrategy instead.".to_owned(),
    });
    deprecated.into_iter().collect()
}

pub(super) fn check(machine: &VirtualMachine, spec: &Path, causes: &mut Causes) {
    for (index, template) in machine.spec.data_volume_templates.iter().enumerate() {
        data_volume_template(machine, template, index, spec, causes);
    }
    run_strategy(machine, spec, causes);
}

fn run_strategy(machine: &VirtualMachine, spec: &Path, causes: &mut Causes) {
    let running = spec.child("running");
    match (machine.spec.running, &machine.spec.run_strategy) {
        (Some(_), Some(_)) => {
            let message = "Running and RunStrategy are mutually exclusive. Note that Running is deprecated, please \
                           use RunStrategy instead";
            causes.invalid(&running, message);
        }
        (None, None) => causes.invalid(&running, "RunStrategy must be specified"),
        _ => {}
    }
    if let Some(strategy) = &machine.spec.run_strategy
        && !RUN_STRATEGIES.contains(&strategy.as_str())
    {
        causes.invalid(&spec.child("runStrategy"), format!("Invalid RunStrategy ({strategy})"));
    }
}

fn data_volume_template(
    machine: &VirtualMachine,
    template: &DataVolumeTemplateSpec,
    index: usize,
    spec: &Path,
    causes: &mut Causes,
) {
    let field = spec.child("dataVolumeTemplates").index(index);
    // Messages name the field in the singular, as KubeVirt's do.
    let singular = spec.child("dataVolumeTemplate").index(index);
    let metadata = template.metadata.as_ref();
    let name = metadata.map_or("", |metadata| text(&metadata.name));
    let namespace = metadata.map_or("", |metadata| text(&metadata.namespace));
    let own_namespace = text(&machine.metadata.namespace);
    if !namespace.is_empty() && namespace != own_namespace {
        let message =
            format!("Embedded DataVolume namespace {namespace} differs from VM namespace {own_namespace}");
        causes.invalid(&field, message);
    }
    if name.is_empty() {
        let message = format!("'name' field must not be empty for DataVolumeTemplate entry {singular}.name.");
        causes.invalid(&field, message);
    }
    contents(template, &field, causes);
    let referenced = machine.spec.template.spec.volumes.iter().any(|volume| {
        volume.data_volume.as_ref().is_some_and(|source| source.name == name)
            || volume.persistent_volume_claim.as_ref().is_some_and(|source| source.claim_name == name)
    });
    if !referenced {
        let message = format!(
            "DataVolumeTemplate entry {singular} must be referenced in the VMI template's 'volumes' list"
        );
        causes.invalid(&field, message);
    }
}

/// Where the data volume's content comes from, and what claim holds it.
fn contents(template: &DataVolumeTemplateSpec, field: &Path, causes: &mut Causes) {
    let spec = &template.spec;
    let populated = match (&spec.pvc, &spec.storage) {
        (None, None) => {
            causes.invalid(field, "Missing Data volume PVC or Storage");
            return;
        }
        (Some(_), Some(_)) => {
            causes.invalid(field, "Duplicate storage definition, both target storage and target pvc defined");
            return;
        }
        (Some(claim), None) => claim.data_source.is_some() || claim.data_source_ref.is_some(),
        (None, Some(storage)) => storage.data_source.is_some() || storage.data_source_ref.is_some(),
    };
    let sources = spec.source.as_ref().map_or(0, count_sources) + usize::from(spec.source_ref.is_some());
    if sources > 1 {
        causes.invalid(field, "Multiple dataVolume sources");
    } else if sources == 0 && !populated {
        let message = "Data volume should have either Source, SourceRef, or be externally populated";
        causes.invalid(field, message);
    }
}

fn count_sources(source: &DataVolumeSource) -> usize {
    let DataVolumeSource { http, s3, gcs, registry, pvc, upload, blank, imageio, vddk, snapshot } = source;
    [
        http.is_some(),
        s3.is_some(),
        gcs.is_some(),
        registry.is_some(),
        pvc.is_some(),
        upload.is_some(),
        blank.is_some(),
        imageio.is_some(),
        vddk.is_some(),
        snapshot.is_some(),
    ]
    .into_iter()
    .filter(|set| *set)
    .count()
}
