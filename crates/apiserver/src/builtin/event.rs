//! Events and their two faces: the core group's form, which is stored, and that of events.k8s.io.

use serde_json::{Map, Value, json};

use crate::field;
use crate::kind::{Admission, Operation};
use crate::object;
use crate::status::FieldError;

/// The selectable fields of core Events.
pub(super) const CORE_FIELDS: &[(&str, &str, &str)] = &[
    ("involvedObject.kind", "/involvedObject/kind", ""),
    ("involvedObject.namespace", "/involvedObject/namespace", ""),
    ("involvedObject.name", "/involvedObject/name", ""),
    ("involvedObject.uid", "/involvedObject/uid", ""),
    ("involvedObject.apiVersion", "/involvedObject/apiVersion", ""),
    ("involvedObject.resourceVersion", "/involvedObject/resourceVersion", ""),
    ("involvedObject.fieldPath", "/involvedObject/fieldPath", ""),
    ("reason", "/reason", ""),
    ("reportingComponent", "/reportingComponent", ""),
    ("source", "/source/component", ""),
    ("type", "/type", ""),
];

/// The selectable fields of events.k8s.io Events.
pub(super) const NEW_FIELDS: &[(&str, &str, &str)] = &[
    ("regarding.kind", "/regarding/kind", ""),
    ("regarding.namespace", "/regarding/namespace", ""),
    ("regarding.name", "/regarding/name", ""),
    ("regarding.uid", "/regarding/uid", ""),
    ("regarding.apiVersion", "/regarding/apiVersion", ""),
    ("regarding.resourceVersion", "/regarding/resourceVersion", ""),
    ("regarding.fieldPath", "/regarding/fieldPath", ""),
    ("reason", "/reason", ""),
    ("reportingController", "/reportingController", ""),
    ("type", "/type", ""),
];

/// What a field is called in the core group, and in events.k8s.io.
const RENAMED: &[(&str, &str)] = &[
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
];

fn rename(object: &mut Value, new_name: impl Fn(&str) -> Option<&'static str>) {
    if let Some(fields) = object.as_object_mut() {
        let renamed: Map<_, _> = std::mem::take(fields)
            .into_iter()
            .map(|(name, value)| (new_name(&name).map_or(name, str::to_owned), value))
            .collect();
        *fields = renamed;
    }
}

/// A core Event as events.k8s.io shows it.
pub(super) fn from_core(event: &mut Value) {
    rename(event, |name| RENAMED.iter().find(|(core, _)| *core == name).map(|(_, new)| *new));
}

/// An events.k8s.io Event in the core form.
pub(super) fn to_core(event: &mut Value) {
    rename(event, |name| RENAMED.iter().find(|(_, new)| *new == name).map(|(core, _)| *core));
    // The core form always has these.
    for (name, value) in [("involvedObject", json!({})), ("source", json!({}))] {
        field::default(event, name, value);
    }
}

/// Go writes these fields of a core Event even when they are unset.
pub(super) fn core_default(_: &Admission<'_>, event: &mut Value, _: Option<&Value>) {
    let written =
        ["source", "firstTimestamp", "lastTimestamp", "eventTime", "reportingComponent", "reportingInstance"];
    if let Some(fields) = event.as_object_mut() {
        for name in written {
            let value = match name {
                "source" => json!({}),
                "reportingComponent" | "reportingInstance" => "".into(),
                _ => Value::Null,
            };
            fields.entry(name).or_insert(value);
        }
    }
}

/// Nothing is filled in for events.k8s.io.
pub(super) fn new_default(_: &Admission<'_>, _: &mut Value, _: Option<&Value>) {}

/// Where an event about something in no namespace belongs.
fn check_namespace(request: &Admission<'_>, event: &Value, regarding: &str, errors: &mut Vec<FieldError>) {
    let about = field::text(event, &format!("/{regarding}/namespace"));
    let here = if request.namespace.is_empty() { object::namespace(event) } else { request.namespace };
    let message = "does not match event.namespace";
    if about.is_empty() {
        if !matches!(here, "" | "default" | "kube-system") {
            errors.push(FieldError::invalid("involvedObject.namespace", about, message));
        }
    } else if about != here {
        errors.push(FieldError::invalid("involvedObject.namespace", about, message));
    }
}

/// `legacyValidateEvent`: what is asked of events posted to the core group.
pub(super) fn core_validate(
    request: &Admission<'_>,
    event: &Value,
    _: Option<&Value>,
    errors: &mut Vec<FieldError>,
) {
    let has_event_time = event.get("eventTime").is_some_and(|at| !at.is_null());
    if has_event_time {
        required(event, errors, &["reportingComponent", "reportingInstance", "action", "reason"]);
    }
    check_namespace(request, event, "involvedObject", errors);
}

fn required(event: &Value, errors: &mut Vec<FieldError>, fields: &[&str]) {
    for name in fields {
        if field::text(event, &format!("/{name}")).is_empty() {
            errors.push(FieldError::required(*name, ""));
        }
    }
}

/// `ValidateEventCreate` and `ValidateEventUpdate` of events.k8s.io/v1.
pub(super) fn new_validate(
    request: &Admission<'_>,
    event: &Value,
    old: Option<&Value>,
    errors: &mut Vec<FieldError>,
) {
    if request.operation == Operation::Create {
        check_namespace(request, event, "regarding", errors);
        if event.get("eventTime").is_none_or(Value::is_null) {
            errors.push(FieldError::required("eventTime", ""));
        }
        required(event, errors, &["reportingController", "reportingInstance", "action", "reason"]);
        for (name, limit) in [("reportingInstance", 128), ("action", 128), ("reason", 128), ("note", 1024)] {
            if field::text(event, &format!("/{name}")).len() > limit {
                let detail = format!("can have at most {limit} characters");
                errors.push(FieldError::invalid(name, "", detail));
            }
        }
        let kind = field::text(event, "/type");
        if !matches!(kind, "Normal" | "Warning") {
            errors.push(FieldError::invalid("type", "", format!("has invalid value: {kind}")));
        }
        for name in ["deprecatedFirstTimestamp", "deprecatedLastTimestamp", "deprecatedCount"] {
            let set = event.get(name).is_some_and(|value| !value.is_null() && value != 0);
            if set {
                errors.push(FieldError::invalid(name, "", "needs to be unset"));
            }
        }
        return;
    }
    let Some(old) = old else { return };
    let fixed = [
        "regarding",
        "related",
        "reason",
        "action",
        "type",
        "note",
        "eventTime",
        "reportingController",
        "reportingInstance",
    ];
    for name in fixed {
        if !field::same(event, old, &format!("/{name}")) {
            let value = event.get(name).cloned().unwrap_or(Value::Null);
            errors.push(FieldError::invalid(name, value, "field is immutable"));
        }
    }
}
