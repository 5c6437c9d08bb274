//! HorizontalPodAutoscalers, which no controller acts on here, and how `autoscaling/v1` shows those that are stored as
//! `autoscaling/v2`.
//!
//! What v1 has no field for is in annotations there, so that who reads and writes it takes nothing away. The annotations
//! are Kubernetes'; what is in them has the form of v2 here, where Kubernetes writes an older one.

use std::sync::LazyLock;

use serde_json::{Map, Value, json};

use super::workload::clear_status;
use crate::field::{self, child, list, number};
use crate::kind::{Admission, SchemaSource};
use crate::status::FieldError;

/// Fields of v2 alone: the annotation of v1 that holds one, the part of the object that it is in, and its name.
const CARRIED: [(&str, &str, &str); 4] = [
    ("autoscaling.alpha.kubernetes.io/metrics", "spec", "metrics"),
    ("autoscaling.alpha.kubernetes.io/behavior", "spec", "behavior"),
    ("autoscaling.alpha.kubernetes.io/current-metrics", "status", "currentMetrics"),
    ("autoscaling.alpha.kubernetes.io/conditions", "status", "conditions"),
];

/// Percentages of v1: the part of the object, the name there, the list of v2 that has it, and what it is called in an item.
const PERCENTAGES: [(&str, &str, &str, &str); 2] = [
    ("spec", "targetCPUUtilizationPercentage", "metrics", "target"),
    ("status", "currentCPUUtilizationPercentage", "currentMetrics", "current"),
];

/// The definition of what is stored.
static STORED: LazyLock<SchemaSource> =
    LazyLock::new(|| super::schema::source("io.k8s.api.autoscaling.v2.HorizontalPodAutoscaler".to_owned()));

pub(super) fn default(request: &Admission<'_>, object: &mut Value, _: Option<&Value>) {
    if let Some(spec) = child(object, "spec") {
        field::default(spec, "minReplicas", 1);
        default_metrics(spec);
    }
    clear_status(request, object, json!({"desiredReplicas": 0}));
}

fn default_metrics(spec: &mut Value) {
    if list(spec, "/metrics").is_empty() {
        // `DefaultCPUUtilization`
        spec["metrics"] = json!([cpu_metric("target", 80.into())]);
    }
}

/// For `autoscaling/v1`. Its metrics are filled in when they are those of v2.
pub(super) fn old_default(request: &Admission<'_>, object: &mut Value, _: Option<&Value>) {
    if let Some(spec) = child(object, "spec") {
        field::default(spec, "minReplicas", 1);
    }
    clear_status(request, object, json!({"currentReplicas": 0, "desiredReplicas": 0}));
}

pub(super) fn validate(_: &Admission<'_>, object: &Value, _: Option<&Value>, errors: &mut Vec<FieldError>) {
    let (least, most) = (number(object, "/spec/minReplicas"), number(object, "/spec/maxReplicas"));
    if least < 1 {
        errors.push(FieldError::invalid("spec.minReplicas", least, "must be greater than or equal to 1"));
    }
    if most < 1 {
        errors.push(FieldError::invalid("spec.maxReplicas", most, "must be greater than 0"));
    }
    if most < least {
        let detail = "must be greater than or equal to `minReplicas`";
        errors.push(FieldError::invalid("spec.maxReplicas", most, detail));
    }
    for name in ["kind", "name"] {
        if field::text(object, &format!("/spec/scaleTargetRef/{name}")).is_empty() {
            errors.push(FieldError::required(format!("spec.scaleTargetRef.{name}"), ""));
        }
    }
}

/// An item of `metrics` (`which` is `target`) or of `currentMetrics` (`current`) about the CPU.
fn cpu_metric(which: &str, percentage: Value) -> Value {
    let mut value = json!({"averageUtilization": percentage});
    if which == "target" {
        value["type"] = "Utilization".into();
    }
    json!({"type": "Resource", "resource": {"name": "cpu", which: value}})
}

/// The percentage of such an item; `None` of any other.
fn cpu_percentage<'a>(metric: &'a Value, which: &str) -> Option<&'a Value> {
    let is_cpu = field::text(metric, "/type") == "Resource" && field::text(metric, "/resource/name") == "cpu";
    metric
        .pointer(&format!("/resource/{which}/averageUtilization"))
        .filter(|value| is_cpu && value.is_number())
}

/// A stored autoscaler as `autoscaling/v1` shows it.
pub(super) fn to_v1(object: &mut Value) {
    for (part, name, metrics, which) in PERCENTAGES {
        let Some(fields) = object.get_mut(part).and_then(Value::as_object_mut) else { continue };
        let Some(items) = fields.get_mut(metrics).and_then(Value::as_array_mut) else { continue };
        let found =
            items.iter().enumerate().find_map(|(at, item)| Some((at, cpu_percentage(item, which)?.clone())));
        let Some((at, percentage)) = found else { continue };
        // Whatever says more than the percentage is carried as well.
        if items[at] == cpu_metric(which, percentage.clone()) {
            items.remove(at);
        }
        fields.insert(name.to_owned(), percentage);
    }
    let mut carried = Map::new();
    for (annotation, part, name) in CARRIED {
        let fields = object.get_mut(part).and_then(Value::as_object_mut);
        let value = fields.and_then(|fields| fields.shift_remove(name));
        if let Some(value) = value.filter(|value| value.as_array().is_none_or(|items| !items.is_empty())) {
            carried.insert(annotation.to_owned(), value.to_string().into());
        }
    }
    if !carried.is_empty()
        && let Some(metadata) = child(object, "metadata")
        && let Some(Value::Object(annotations)) = child(metadata, "annotations")
    {
        annotations.extend(carried);
    }
    if let Some(status @ Value::Object(_)) = object.get_mut("status") {
        field::default(status, "currentReplicas", 0);
    }
}

/// An autoscaler of `autoscaling/v1` as it is stored. An annotation that holds nothing of v2 is dropped, as Kubernetes
/// drops it.
pub(super) fn to_v2(object: &mut Value) {
    for (annotation, part, name) in CARRIED {
        let Some(text) = take_annotation(object, annotation) else { continue };
        let carried = serde_json::from_str(&text).ok().filter(|value| fits(part, name, value));
        let fields = object.get_mut(part).and_then(Value::as_object_mut);
        if let (Some(value), Some(fields)) = (carried, fields) {
            fields.insert(name.to_owned(), value);
        }
    }
    for (part, name, metrics, which) in PERCENTAGES {
        let Some(fields) = object.get_mut(part).and_then(Value::as_object_mut) else { continue };
        let Some(percentage) = fields.shift_remove(name) else { continue };
        let Value::Array(items) = fields.entry(metrics).or_insert_with(|| json!([])) else { continue };
        match items.iter().position(|item| cpu_percentage(item, which).is_some()) {
            Some(at) => items[at]["resource"][which]["averageUtilization"] = percentage,
            None => items.insert(0, cpu_metric(which, percentage)),
        }
    }
    if let Some(spec @ Value::Object(_)) = object.get_mut("spec") {
        default_metrics(spec);
    }
    if let Some(Value::Object(status)) = object.get_mut("status")
        && status.get("currentReplicas").is_some_and(|count| *count == 0)
    {
        // v2 leaves it out.
        status.shift_remove("currentReplicas");
    }
}

/// Takes an annotation out, and with the last one the place for them.
fn take_annotation(object: &mut Value, name: &str) -> Option<String> {
    let metadata = object.get_mut("metadata")?.as_object_mut()?;
    let annotations = metadata.get_mut("annotations")?.as_object_mut()?;
    let taken = annotations.shift_remove(name)?;
    if annotations.is_empty() {
        metadata.shift_remove("annotations");
    }
    taken.as_str().map(str::to_owned)
}

/// Whether a client of v2 can read `value` there: a user may have written the annotation.
fn fits(part: &str, name: &str, value: &Value) -> bool {
    let mut object = json!({
        "spec": {"maxReplicas": 1, "scaleTargetRef": {"kind": "a", "name": "a"}}, "status": {"desiredReplicas": 0},
    });
    object[part][name] = value.clone();
    let schema = STORED.schema();
    schema.validate(&object).is_empty() && schema.prune(&mut object).is_empty()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn stored(metrics: Value, annotations: Value) -> Value {
        let mut object = json!({
            "metadata": {"name": "a"},
            "spec": {
                "maxReplicas": 3, "minReplicas": 1, "scaleTargetRef": {"kind": "Deployment", "name": "a"},
                "metrics": metrics,
            },
            "status": {"desiredReplicas": 0},
        });
        if !annotations.is_null() {
            object["metadata"]["annotations"] = annotations;
        }
        object
    }

    #[test]
    fn what_v1_shows_is_stored_as_it_was() {
        let memory = json!({
            "type": "Resource",
            "resource": {"name": "memory", "target": {"type": "AverageValue", "averageValue": "1Gi"}},
        });
        let mut rich = stored(json!([cpu_metric("target", 40.into()), memory]), json!({"mine": "x"}));
        let mut usage = cpu_metric("current", 30.into());
        usage["resource"]["current"]["averageValue"] = "300m".into();
        rich["spec"]["behavior"] = json!({"scaleDown": {"stabilizationWindowSeconds": 5}});
        rich["status"] = json!({
            "desiredReplicas": 2, "currentReplicas": 1, "currentMetrics": [usage],
            "conditions": [{"type": "AbleToScale", "status": "True"}],
        });
        for object in [
            stored(json!([cpu_metric("target", 80.into())]), Value::Null),
            stored(json!([memory]), Value::Null),
            rich.clone(),
        ] {
            let mut shown = object.clone();
            to_v1(&mut shown);
            let mut again = shown.clone();
            to_v2(&mut again);
            assert_eq!(again, object, "{shown}");
        }
        to_v1(&mut rich);
        assert_eq!(rich["spec"]["targetCPUUtilizationPercentage"], 40);
        assert_eq!(rich["status"]["currentCPUUtilizationPercentage"], 30);
        for (_, part, name) in CARRIED {
            assert_eq!(rich[part].get(name), None);
        }
    }

    #[test]
    fn an_annotation_that_is_nothing_of_v2_is_not_stored() {
        let hostile = [
            "",
            "{",
            "1",
            "[1]",
            r#"[{"type":"Resource","resource":{"name":"memory","targetAverageValue":"1Gi"}}]"#,
            r#"[{"type":1}]"#,
            r#"[{"type":"Pods","stray":1}]"#,
        ];
        for text in hostile {
            let mut object = stored(Value::Null, json!({CARRIED[0].0: text}));
            object["spec"].as_object_mut().unwrap().remove("metrics");
            to_v2(&mut object);
            assert_eq!(object, stored(json!([cpu_metric("target", 80.into())]), Value::Null), "{text}");
        }
    }
}
