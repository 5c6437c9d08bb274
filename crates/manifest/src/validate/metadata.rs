//! Rules for names, labels and annotations.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::cause::{Causes, Path};
use super::kernel_boot::append_fault;
use super::{names, text};
use crate::keys::APPEND;
use crate::types::VirtualMachineInstanceSpec;

/// Labels that only KubeVirt's own controllers may set.
const RESERVED_LABELS: [&str; 6] = [
    "kubevirt.io/created-by",
    "kubevirt.io/migrationJobUID",
    "kubevirt.io/nodeName",
    "kubevirt.io/migrationTargetNodeName",
    "kubevirt.io/schedulable",
    "kubevirt.io/install-strategy",
];

/// Annotations behind feature gates that are off, and the message of each gate.
const GATED_ANNOTATIONS: [(&str, &str); 2] = [
    (
        "kubevirt.io/ignitiondata",
        "ExperimentalIgnitionSupport feature gate is not enabled in kubevirt-config, invalid entry",
    ),
    (
        "hooks.kubevirt.io/hookSidecars",
        "sidecar feature gate is not enabled in kubevirt-config, invalid entry",
    ),
];

/// The object's own name and namespace, as Kubernetes wants them. The messages are those of the API server.
///
/// An unset namespace is no fault: a client puts its own there.
pub(super) fn name_and_namespace(metadata: &ObjectMeta, causes: &mut Causes) {
    let path = Path::root("metadata");
    let (name, namespace) = (text(&metadata.name), text(&metadata.namespace));
    if !name.is_empty() {
        faulty_name(&path.child("name"), name, names::dns_subdomain_faults, causes);
    } else if text(&metadata.generate_name).is_empty() {
        causes.required(&path.child("name"), "name or generateName is required");
    }
    if !namespace.is_empty() {
        faulty_name(&path.child("namespace"), namespace, names::dns_label_faults, causes);
    }
}

fn faulty_name(field: &Path, name: &str, faults: fn(&str) -> Vec<String>, causes: &mut Causes) {
    for fault in faults(name) {
        causes.invalid(field, format!("Invalid value: \"{name}\": {fault}"));
    }
}

/// Labels and annotations of an instance of `spec`, or of the template of one. `path` is that of the metadata.
pub(super) fn labels_and_annotations(
    metadata: Option<&ObjectMeta>,
    spec: &VirtualMachineInstanceSpec,
    path: &Path,
    causes: &mut Causes,
) {
    let annotations = metadata.and_then(|metadata| metadata.annotations.as_ref());
    let append = annotations.and_then(|annotations| annotations.get(APPEND));
    if let Some(fault) = append.and_then(|append| append_fault(spec, append)) {
        let field = path.child("annotations");
        causes.invalid(&field, format!("{fault} {field}.{APPEND}"));
    }
    for (name, message) in GATED_ANNOTATIONS {
        if annotations.and_then(|annotations| annotations.get(name)).is_some_and(|value| !value.is_empty()) {
            let field = path.child("annotations");
            causes.invalid(&field, format!("{message} {field}.{name}"));
        }
    }
    let labels = metadata.and_then(|metadata| metadata.labels.as_ref());
    if labels.is_some_and(|labels| RESERVED_LABELS.iter().any(|reserved| labels.contains_key(*reserved))) {
        let message = "creation of the following reserved kubevirt.io/ labels on a VMI object is prohibited";
        causes.not_supported(&path.child("labels"), message);
    }
}

/// Whether no reserved label was set, changed or removed.
pub(super) fn reserved_labels_stay(new: &ObjectMeta, old: &ObjectMeta, causes: &mut Causes) {
    let label = |metadata: &ObjectMeta, name: &str| {
        metadata.labels.as_ref().and_then(|labels| labels.get(name)).cloned()
    };
    if RESERVED_LABELS.iter().any(|name| label(new, name) != label(old, name)) {
        let message =
            "modification of the following reserved kubevirt.io/ labels on a VMI object is prohibited";
        causes.not_supported(&Path::root("metadata").child("labels"), message);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labelled(name: &str, value: &str) -> ObjectMeta {
        let labels = [(name.to_owned(), value.to_owned())].into();
        ObjectMeta { labels: Some(labels), ..ObjectMeta::default() }
    }

    #[test]
    fn reserved_labels_are_the_controllers_own() {
        let cases = [
            (labelled("kubevirt.io/nodeName", "a"), labelled("kubevirt.io/nodeName", "a"), 0),
            (labelled("kubevirt.io/nodeName", "b"), labelled("kubevirt.io/nodeName", "a"), 1),
            (ObjectMeta::default(), labelled("kubevirt.io/nodeName", "a"), 1),
            (labelled("kubevirt.io/nodeName", "a"), ObjectMeta::default(), 1),
            (labelled("mine", "a"), ObjectMeta::default(), 0),
        ];
        for (new, old, count) in cases {
            let mut causes = Causes::default();
            reserved_labels_stay(&new, &old, &mut causes);
            assert_eq!(causes.into_vec().len(), count, "{new:?} after {old:?}");
        }
    }
}
