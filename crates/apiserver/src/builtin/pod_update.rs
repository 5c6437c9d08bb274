//! What may change in a Pod that exists: `ValidatePodUpdate`.

use std::collections::{BTreeMap, HashSet};

use serde_json::Value;

use crate::field::list;
use crate::status::FieldError;

/// What Kubernetes says of any other change.
pub(super) const MESSAGE: &str = "pod updates may not change fields other than `spec.containers[*].image`,\
     `spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing \
     tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

/// Adds the faults of changing `old` into `new`.
pub(super) fn check(new: &Value, old: &Value, errors: &mut Vec<FieldError>) {
    for name in ["containers", "initContainers"] {
        let (now, before) = (list(new, &format!("/spec/{name}")), list(old, &format!("/spec/{name}")));
        if now.len() != before.len() {
            let detail = format!(
                "pod updates may not add or remove {}",
                if name == "containers" { "containers" } else { "init containers" }
            );
            errors.push(FieldError::forbidden(format!("spec.{name}"), detail));
            return;
        }
        for (index, container) in now.iter().enumerate() {
            if container.get("image").and_then(Value::as_str).is_none_or(str::is_empty) {
                errors.push(FieldError::required(format!("spec.{name}[{index}].image"), ""));
            }
        }
    }
    let deadline = |pod: &Value| pod.pointer("/spec/activeDeadlineSeconds").and_then(Value::as_i64);
    match (deadline(new), deadline(old)) {
        (Some(now), Some(before)) if now > before => {
            let detail = format!("must be less than or equal to previous value {before}");
            errors.push(FieldError::invalid("spec.activeDeadlineSeconds", now, detail));
        }
        (None, Some(_)) => {
            let detail = "must not update from a positive integer to nil value";
            errors.push(FieldError::invalid("spec.activeDeadlineSeconds", Value::Null, detail));
        }
        _ => {}
    }
    let text = |toleration: &Value| {
        // In one order, whatever the order of the fields.
        let fields: BTreeMap<_, _> = toleration.as_object().into_iter().flatten().collect();
        serde_json::to_string(&fields).unwrap_or_default()
    };
    let tolerations: HashSet<_> = list(new, "/spec/tolerations").iter().map(text).collect();
    let kept =
        list(old, "/spec/tolerations").iter().all(|toleration| tolerations.contains(&text(toleration)));
    if !kept {
        let detail = "existing toleration can not be modified except its tolerationSeconds";
        errors.push(FieldError::forbidden("spec.tolerations", detail));
    }
    if comparable(new) != comparable(old) {
        errors.push(FieldError::forbidden("spec", MESSAGE));
    }
}

/// The spec without what may change, and without what Go does not tell from a missing field.
fn comparable(pod: &Value) -> Value {
    let mut spec = pod.get("spec").cloned().unwrap_or_default();
    for name in ["containers", "initContainers"] {
        for container in spec.get_mut(name).and_then(Value::as_array_mut).into_iter().flatten() {
            if let Some(fields) = container.as_object_mut() {
                fields.remove("image");
            }
        }
    }
    if let Some(fields) = spec.as_object_mut() {
        fields.remove("activeDeadlineSeconds");
        fields.remove("tolerations");
        // Gates may be taken away, one after the other, and then a node be named.
        fields.remove("schedulingGates");
        // Kubernetes allows 1 here when it was negative, which is refused at creation.
        fields.retain(|_, value| match value {
            Value::Null => false,
            Value::Array(list) => !list.is_empty(),
            Value::Bool(flag) => *flag,
            Value::String(text) => !text.is_empty(),
            _ => true,
        });
    }
    spec
}
