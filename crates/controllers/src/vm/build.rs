//! The instance that a machine creates, and the patches by which it takes hold of one or lets it go.

use json_patch::Patch;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use manifest::keys::{APPEND, RECEIVER, VM_FINALIZER, VM_GENERATION};
use manifest::types::{VirtualMachine, VirtualMachineInstance, VirtualMachineInstanceStatus};
use serde_json::{Value, json};

use super::decision::{Manner, RESTORE_STRATEGY};
use super::pending;
use super::requests::patch;
use super::revision::{self, Drift};

/// Annotations that say which version of the API an object was last read and stored in, and the only one there is.
const OBSERVED_VERSIONS: [(&str, &str); 2] =
    [("kubevirt.io/latest-observed-api-version", "v1"), ("kubevirt.io/storage-observed-api-version", "v1")];

/// The reference by which `machine` owns what it creates.
pub fn owner(machine: &VirtualMachine) -> OwnerReference {
    OwnerReference {
        api_version: "kubevirt.io/v1".to_owned(),
        kind: "VirtualMachine".to_owned(),
        name: machine.metadata.name.clone().unwrap_or_default(),
        uid: machine.metadata.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// The next instance of `machine`, to be created; `append` are kernel arguments of this start only.
pub fn instance(machine: &VirtualMachine, manner: Manner, append: Option<&str>) -> VirtualMachineInstance {
    let mut instance = manifest::vmi_for(machine);
    let annotations = instance.metadata.annotations.get_or_insert_default();
    // A template must not pass for another generation.
    annotations.insert(VM_GENERATION.to_owned(), machine.metadata.generation.unwrap_or_default().to_string());
    annotations.extend(OBSERVED_VERSIONS.map(|(key, value)| (key.to_owned(), value.to_owned())));
    annotations.extend(append.map(|append| (APPEND.to_owned(), append.to_owned())));
    match manner {
        Manner::AsWritten => {}
        Manner::Paused => instance.spec.start_strategy = Some("Paused".to_owned()),
        Manner::Receiver => {
            annotations.insert(RECEIVER.to_owned(), "true".to_owned());
        }
    }
    instance.status = Some(VirtualMachineInstanceStatus {
        virtual_machine_revision_name: Some(revision::name(machine)),
        ..VirtualMachineInstanceStatus::default()
    });
    instance
}

/// A merge patch that gives `machine` the annotations and the finalizer of this controller, and takes away the arguments
/// that a start has taken over; `None` when there is nothing to change.
pub fn preparation(machine: &VirtualMachine) -> Option<Value> {
    let present = machine.metadata.annotations.as_ref();
    let mut annotations: serde_json::Map<_, _> = OBSERVED_VERSIONS
        .iter()
        .filter(|(key, value)| {
            present.and_then(|present| present.get(*key)).is_none_or(|found| found != value)
        })
        .map(|(key, value)| ((*key).to_owned(), json!(value)))
        .collect();
    let requests = machine.status.as_ref().map(|status| status.state_change_requests.as_slice());
    let append = present.and_then(|present| present.get(APPEND));
    if append.is_some_and(|append| pending::appends(requests.unwrap_or_default(), append.trim())) {
        annotations.insert(APPEND.to_owned(), Value::Null);
    }
    let mut metadata = serde_json::Map::new();
    if !annotations.is_empty() {
        metadata.insert("annotations".to_owned(), Value::Object(annotations));
    }
    if !has_finalizer(&machine.metadata) {
        let mut finalizers = machine.metadata.finalizers.clone().unwrap_or_default();
        finalizers.push(VM_FINALIZER.to_owned());
        metadata.insert("finalizers".to_owned(), json!(finalizers));
    }
    if metadata.is_empty() {
        return None;
    }
    metadata.insert("resourceVersion".to_owned(), json!(machine.metadata.resource_version));
    Some(json!({"metadata": metadata}))
}

/// Whether an object is held by this controller.
pub fn has_finalizer(metadata: &ObjectMeta) -> bool {
    let finalizers = metadata.finalizers.as_deref().unwrap_or_default();
    finalizers.iter().any(|finalizer| finalizer == VM_FINALIZER)
}

/// A JSON patch that takes this controller's finalizer off an object; `None` when it is not on it.
pub fn release(metadata: &ObjectMeta) -> Option<Patch> {
    let finalizers = metadata.finalizers.as_deref().unwrap_or_default();
    let index = finalizers.iter().position(|finalizer| finalizer == VM_FINALIZER)?;
    let path = format!("/metadata/finalizers/{index}");
    Some(patch(vec![
        json!({"op": "test", "path": "/metadata/uid", "value": metadata.uid}),
        json!({"op": "test", "path": path, "value": VM_FINALIZER}),
        json!({"op": "remove", "path": path}),
    ]))
}

/// A JSON patch by which `machine` becomes the owner of an instance that nobody controls.
pub fn adoption(machine: &VirtualMachine, instance: &VirtualMachineInstance) -> Patch {
    const OWNERS: &str = "/metadata/ownerReferences";
    let before = &instance.metadata.owner_references;
    let mut owners = before.clone().unwrap_or_default();
    owners.push(owner(machine));
    patch(vec![
        json!({"op": "test", "path": "/metadata/uid", "value": instance.metadata.uid}),
        json!({"op": "test", "path": OWNERS, "value": before}),
        json!({"op": "add", "path": OWNERS, "value": owners}),
    ])
}

/// A JSON patch that brings a live instance up to `machine`: the generation that it stands for, and where it runs next.
/// `None` when there is nothing to change.
pub fn live_update(
    machine: &VirtualMachine,
    instance: &VirtualMachineInstance,
    drift: Drift,
) -> Option<Patch> {
    if drift == Drift::Unknown {
        return None;
    }
    let mut operations = Vec::new();
    let generation = machine.metadata.generation.unwrap_or_default().to_string();
    let present = instance.metadata.annotations.as_ref().and_then(|present| present.get(VM_GENERATION));
    if drift == Drift::None && present != Some(&generation) {
        let path = format!("/metadata/annotations/{}", VM_GENERATION.replace('/', "~1"));
        let present = json!(present);
        if instance.metadata.annotations.is_none() {
            operations.push(json!({"op": "add", "path": "/metadata/annotations", "value": {}}));
        }
        operations.push(json!({"op": "test", "path": path, "value": present}));
        operations.push(json!({"op": "add", "path": path, "value": generation}));
    }
    let (wanted, found) = (&machine.spec.template.spec, &instance.spec);
    let mut take_over = |field: &str, wanted: Value, found: Value| {
        if wanted != found {
            let path = format!("/spec/{field}");
            operations.push(json!({"op": "test", "path": path, "value": absent_if_empty(found)}));
            operations.push(json!({"op": "add", "path": path, "value": wanted}));
        }
    };
    take_over("nodeSelector", json!(wanted.node_selector), json!(found.node_selector));
    take_over("affinity", json!(wanted.affinity), json!(found.affinity));
    take_over("tolerations", json!(wanted.tolerations), json!(found.tolerations));
    if operations.is_empty() {
        return None;
    }
    operations.insert(0, json!({"op": "test", "path": "/metadata/uid", "value": instance.metadata.uid}));
    Some(patch(operations))
}

/// A JSON patch that gives `machine` the run strategy that it had before it waited for another.
pub fn restoration(machine: &VirtualMachine, strategy: &str) -> Patch {
    let path = "/spec/runStrategy";
    let annotation = format!("/metadata/annotations/{}", RESTORE_STRATEGY.replace('/', "~1"));
    patch(vec![
        json!({"op": "test", "path": path, "value": machine.spec.run_strategy}),
        json!({"op": "add", "path": path, "value": strategy}),
        json!({"op": "test", "path": annotation, "value": strategy}),
        json!({"op": "remove", "path": annotation}),
    ])
}

/// An empty list or object is not written at all.
fn absent_if_empty(value: Value) -> Value {
    let is_empty = match &value {
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    };
    if is_empty { Value::Null } else { value }
}
