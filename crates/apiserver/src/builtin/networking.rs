//! Ingresses and network policies. Nothing routes or filters by them here; they are kept for the manifests that bring them.

use serde_json::{Value, json};

use super::core::FIELD_IMMUTABLE;
use crate::field::{child, default, items_mut, list, same, text};
use crate::kind::Admission;
use crate::status::FieldError;

pub(super) fn ingress_validate(
    _: &Admission<'_>,
    object: &Value,
    _: Option<&Value>,
    errors: &mut Vec<FieldError>,
) {
    let has_backend = object.pointer("/spec/defaultBackend").is_some_and(|backend| !backend.is_null());
    if list(object, "/spec/rules").is_empty() && !has_backend {
        let detail = "either `defaultBackend` or `rules` must be specified";
        errors.push(FieldError::invalid("spec", json!([]), detail));
    }
    for (index, rule) in list(object, "/spec/rules").iter().enumerate() {
        for (number, path) in list(rule, "/http/paths").iter().enumerate() {
            let at = format!("spec.rules[{index}].http.paths[{number}]");
            let known = ["Exact", "ImplementationSpecific", "Prefix"];
            match text(path, "/pathType") {
                "" => {
                    errors.push(FieldError::required(format!("{at}.pathType"), "pathType must be specified"))
                }
                kind if !known.contains(&kind) => {
                    errors.push(FieldError::not_supported(format!("{at}.pathType"), kind, known));
                }
                "ImplementationSpecific" => {}
                _ if !text(path, "/path").starts_with('/') => {
                    let detail = "must be an absolute path";
                    errors.push(FieldError::invalid(format!("{at}.path"), text(path, "/path"), detail));
                }
                _ => {}
            }
        }
    }
}

pub(super) fn class_validate(
    _: &Admission<'_>,
    object: &Value,
    old: Option<&Value>,
    errors: &mut Vec<FieldError>,
) {
    let controller = text(object, "/spec/controller");
    if let Some(old) = old
        && !same(object, old, "/spec/controller")
    {
        errors.push(FieldError::invalid("spec.controller", controller, FIELD_IMMUTABLE));
    }
    if controller.is_empty() {
        errors.push(FieldError::required("spec.controller", ""));
    }
}

pub(super) fn policy_default(_: &Admission<'_>, object: &mut Value, _: Option<&Value>) {
    let Some(spec) = child(object, "spec") else { return };
    default(spec, "podSelector", json!({}));
    for direction in ["ingress", "egress"] {
        for rule in items_mut(spec, direction) {
            for port in items_mut(rule, "ports") {
                default(port, "protocol", "TCP");
            }
        }
    }
    if list(spec, "/policyTypes").is_empty() {
        let is_egress = !list(spec, "/egress").is_empty();
        spec["policyTypes"] = if is_egress { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) };
    }
}

pub(super) fn policy_validate(
    _: &Admission<'_>,
    object: &Value,
    _: Option<&Value>,
    errors: &mut Vec<FieldError>,
) {
    let types = list(object, "/spec/policyTypes");
    if types.len() > 2 {
        let detail = "may not specify more than two policyTypes";
        errors.push(FieldError::invalid("spec.policyTypes", types.to_vec(), detail));
        return;
    }
    for (index, kind) in types.iter().enumerate() {
        let kind = kind.as_str().unwrap_or_default();
        if !matches!(kind, "Ingress" | "Egress") {
            let field = format!("spec.policyTypes[{index}]");
            errors.push(FieldError::not_supported(field, kind, ["Egress", "Ingress"]));
        }
    }
}
