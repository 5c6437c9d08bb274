//! Defaulting and validation of volumes, claims and the storage.k8s.io kinds.

use serde_json::{Value, json};

use super::core::FIELD_IMMUTABLE;
use crate::field::{child, default, items_mut, list, map, same, text};
use crate::kind::{Admission, Operation};
use crate::status::FieldError;

const ACCESS_MODES: [&str; 4] = ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];

pub(super) fn claim_default(request: &Admission<'_>, object: &mut Value, _: Option<&Value>) {
    if let Some(spec) = child(object, "spec") {
        default(spec, "volumeMode", "Filesystem");
        default_claim_source(spec);
    }
    if request.operation == Operation::Create
        && let Some(fields) = object.as_object_mut()
    {
        fields.insert("status".to_owned(), json!({"phase": "Pending"}));
    } else if let Some(status) = child(object, "status") {
        default(status, "phase", "Pending");
    }
}

/// `dataSource` and `dataSourceRef` name the same thing where either is set.
fn default_claim_source(spec: &mut Value) {
    let (source, reference) = (spec.get("dataSource").cloned(), spec.get("dataSourceRef").cloned());
    let is_set = |value: &Option<Value>| value.as_ref().is_some_and(|value| !value.is_null());
    if is_set(&source) && !is_set(&reference) {
        spec["dataSourceRef"] = source.unwrap_or_default();
    } else if let Some(reference) = reference
        && !is_set(&source)
        && reference.is_object()
        && text(&reference, "/namespace").is_empty()
    {
        spec["dataSource"] = reference;
    }
}

fn check_access_modes(object: &Value, errors: &mut Vec<FieldError>) {
    let modes = list(object, "/spec/accessModes");
    if modes.is_empty() {
        errors.push(FieldError::required("spec.accessModes", "at least 1 access mode is required"));
    }
    for mode in modes.iter().filter_map(Value::as_str) {
        if !ACCESS_MODES.contains(&mode) {
            errors.push(FieldError::not_supported("spec.accessModes", mode, ACCESS_MODES));
        }
    }
    if modes.len() > 1 && modes.iter().any(|mode| mode == "ReadWriteOncePod") {
        let detail = "may not use ReadWriteOncePod with other access modes";
        errors.push(FieldError::forbidden("spec.accessModes", detail));
    }
}

pub(super) fn claim_validate(
    _: &Admission<'_>,
    object: &Value,
    old: Option<&Value>,
    errors: &mut Vec<FieldError>,
) {
    check_access_modes(object, errors);
    if map(object, "/spec/resources/requests").is_none_or(|requests| !requests.contains_key("storage")) {
        errors.push(FieldError::required("spec.resources[storage]", ""));
    }
    let mode = text(object, "/spec/volumeMode");
    if !matches!(mode, "" | "Block" | "Filesystem") {
        errors.push(FieldError::not_supported("spec.volumeMode", mode, ["Block", "Filesystem"]));
    }
    let Some(old) = old else { return };
    // Only the size may change, and the volume and class may be filled in once.
    let (mut new_spec, mut old_spec) = (spec(object), spec(old));
    for name in ["resources", "volumeAttributesClassName"] {
        drop_field(&mut new_spec, name);
        drop_field(&mut old_spec, name);
    }
    for name in ["volumeName", "storageClassName"] {
        if text(&old_spec, &format!("/{name}")).is_empty() {
            drop_field(&mut new_spec, name);
            drop_field(&mut old_spec, name);
        }
    }
    if new_spec != old_spec {
        let detail = "spec is immutable after creation except resources.requests and volumeAttributesClassName \
                      for bound claims";
        errors.push(FieldError::forbidden("spec", detail));
    }
}

fn spec(object: &Value) -> Value {
    object.get("spec").cloned().unwrap_or_default()
}

fn drop_field(spec: &mut Value, name: &str) {
    if let Some(fields) = spec.as_object_mut() {
        fields.remove(name);
    }
}

pub(super) fn volume_default(request: &Admission<'_>, object: &mut Value, _: Option<&Value>) {
    if let Some(spec) = child(object, "spec") {
        default(spec, "persistentVolumeReclaimPolicy", "Retain");
        default(spec, "volumeMode", "Filesystem");
        for (source, field, value) in
            [("hostPath", "type", ""), ("iscsi", "iscsiInterface", "default"), ("rbd", "pool", "rbd")]
        {
            let Some(source) = spec.get_mut(source).and_then(Value::as_object_mut) else { continue };
            source.entry(field).or_insert_with(|| value.into());
        }
    }
    if request.operation == Operation::Create
        && let Some(fields) = object.as_object_mut()
    {
        fields.insert("status".to_owned(), json!({"phase": "Pending"}));
    } else if let Some(status) = child(object, "status") {
        default(status, "phase", "Pending");
    }
}

pub(super) fn volume_validate(
    _: &Admission<'_>,
    object: &Value,
    old: Option<&Value>,
    errors: &mut Vec<FieldError>,
) {
    check_access_modes(object, errors);
    if map(object, "/spec/capacity").is_none_or(|capacity| capacity.is_empty()) {
        errors.push(FieldError::required("spec.capacity", ""));
    }
    let policy = text(object, "/spec/persistentVolumeReclaimPolicy");
    let known = ["Delete", "Recycle", "Retain"];
    if !policy.is_empty() && !known.contains(&policy) {
        errors.push(FieldError::not_supported("spec.persistentVolumeReclaimPolicy", policy, known));
    }
    let common = [
        "capacity",
        "accessModes",
        "claimRef",
        "persistentVolumeReclaimPolicy",
        "storageClassName",
        "mountOptions",
        "volumeMode",
        "nodeAffinity",
        "volumeAttributesClassName",
    ];
    let sources: Vec<_> = map(object, "/spec")
        .into_iter()
        .flatten()
        .filter(|(name, value)| !value.is_null() && !common.contains(&name.as_str()))
        .map(|(name, _)| name)
        .collect();
    match &sources[..] {
        [] => errors.push(FieldError::required("spec", "must specify a volume type")),
        [_] => {}
        [_, more @ ..] => {
            for name in more {
                let detail = "may not specify more than 1 volume type";
                errors.push(FieldError::forbidden(format!("spec.{name}"), detail));
            }
        }
    }
    let Some(old) = old else { return };
    if sources.iter().any(|name| !same(object, old, &format!("/spec/{name}"))) {
        let detail = "spec.persistentvolumesource is immutable after creation";
        errors.push(FieldError::forbidden("spec.persistentvolumesource", detail));
    }
    if !same(object, old, "/spec/volumeMode") {
        let mode = text(object, "/spec/volumeMode");
        errors.push(FieldError::invalid("spec.volumeMode", mode, FIELD_IMMUTABLE));
    }
}

pub(super) fn class_default(_: &Admission<'_>, object: &mut Value, _: Option<&Value>) {
    default(object, "reclaimPolicy", "Delete");
    default(object, "volumeBindingMode", "Immediate");
}

pub(super) fn class_validate(
    _: &Admission<'_>,
    object: &Value,
    old: Option<&Value>,
    errors: &mut Vec<FieldError>,
) {
    if text(object, "/provisioner").is_empty() {
        errors.push(FieldError::required("provisioner", ""));
    }
    let policy = text(object, "/reclaimPolicy");
    if !matches!(policy, "Delete" | "Retain") {
        errors.push(FieldError::not_supported("reclaimPolicy", policy, ["Delete", "Retain"]));
    }
    let mode = text(object, "/volumeBindingMode");
    if !matches!(mode, "Immediate" | "WaitForFirstConsumer") {
        errors.push(FieldError::not_supported(
            "volumeBindingMode",
            mode,
            ["Immediate", "WaitForFirstConsumer"],
        ));
    }
    let Some(old) = old else { return };
    if !same(object, old, "/parameters") {
        errors.push(FieldError::forbidden("parameters", "updates to parameters are forbidden."));
    }
    if !same(object, old, "/provisioner") {
        errors.push(FieldError::forbidden("provisioner", "updates to provisioner are forbidden."));
    }
    if !same(object, old, "/reclaimPolicy") {
        errors.push(FieldError::forbidden("reclaimPolicy", "updates to reclaimPolicy are forbidden."));
    }
    if !same(object, old, "/volumeBindingMode") {
        errors.push(FieldError::invalid("volumeBindingMode", mode, FIELD_IMMUTABLE));
    }
}

pub(super) fn driver_default(_: &Admission<'_>, object: &mut Value, _: Option<&Value>) {
    let Some(spec) = child(object, "spec") else { return };
    for (name, value) in [
        ("attachRequired", json!(true)),
        ("podInfoOnMount", json!(false)),
        ("requiresRepublish", json!(false)),
        ("storageCapacity", json!(false)),
        ("fsGroupPolicy", json!("ReadWriteOnceWithFSType")),
        ("seLinuxMount", json!(false)),
        ("volumeLifecycleModes", json!(["Persistent"])),
    ] {
        default(spec, name, value);
    }
}

/// The claims of a StatefulSet are defaulted as claims are.
pub(super) fn default_claim_templates(spec: &mut Value) {
    for claim in items_mut(spec, "volumeClaimTemplates") {
        default(claim, "apiVersion", "v1");
        default(claim, "kind", "PersistentVolumeClaim");
        if let Some(spec) = child(claim, "spec") {
            default(spec, "volumeMode", "Filesystem");
        }
        if let Some(status) = child(claim, "status") {
            default(status, "phase", "Pending");
        }
    }
}
