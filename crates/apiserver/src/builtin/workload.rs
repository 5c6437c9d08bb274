//! Defaulting and validation of what makes Pods. No controller acts on these here; clients see what they wrote, as
//! Kubernetes would have completed it.

use serde_json::{Value, json};

use super::core::FIELD_IMMUTABLE;
use super::pod::{check_spec, default_spec};
use super::storage::default_claim_templates;
use crate::field::{child, default, list, map, number, same};
use crate::kind::{Admission, Operation};
use crate::selector::Labels;
use crate::status::FieldError;

fn default_template(owner: &mut Value) {
    let Some(template) = child(owner, "template") else { return };
    if child(template, "metadata").is_some()
        && let Some(spec) = child(template, "spec")
    {
        default_spec(spec);
    }
}

pub(super) fn clear_status(request: &Admission<'_>, object: &mut Value, fresh: Value) {
    if request.operation == Operation::Create
        && let Some(fields) = object.as_object_mut()
    {
        fields.insert("status".to_owned(), fresh);
    }
}

pub(super) fn deployment_default(request: &Admission<'_>, object: &mut Value, _: Option<&Value>) {
    if let Some(spec) = child(object, "spec") {
        default(spec, "replicas", 1);
        default_template(spec);
        if let Some(strategy) = child(spec, "strategy") {
            default(strategy, "type", "RollingUpdate");
            if strategy["type"] == "RollingUpdate"
                && let Some(rolling) = child(strategy, "rollingUpdate")
            {
                default(rolling, "maxUnavailable", "25%");
                default(rolling, "maxSurge", "25%");
            }
        }
        default(spec, "revisionHistoryLimit", 10);
        default(spec, "progressDeadlineSeconds", 600);
    }
    clear_status(request, object, json!({}));
}

pub(super) fn replica_set_default(request: &Admission<'_>, object: &mut Value, _: Option<&Value>) {
    if let Some(spec) = child(object, "spec") {
        default(spec, "replicas", 1);
        default_template(spec);
    }
    clear_status(request, object, json!({"replicas": 0}));
}

pub(super) fn daemon_set_default(request: &Admission<'_>, object: &mut Value, _: Option<&Value>) {
    if let Some(spec) = child(object, "spec") {
        default_template(spec);
        if let Some(strategy) = child(spec, "updateStrategy") {
            default(strategy, "type", "RollingUpdate");
            if strategy["type"] == "RollingUpdate"
                && let Some(rolling) = child(strategy, "rollingUpdate")
            {
                default(rolling, "maxUnavailable", 1);
                default(rolling, "maxSurge", 0);
            }
        }
        default(spec, "revisionHistoryLimit", 10);
    }
    clear_status(
        request,
        object,
        json!({
            "currentNumberScheduled": 0, "numberMisscheduled": 0, "desiredNumberScheduled": 0, "numberReady": 0,
        }),
    );
}

pub(super) fn stateful_set_default(request: &Admission<'_>, object: &mut Value, _: Option<&Value>) {
    if let Some(spec) = child(object, "spec") {
        default(spec, "podManagementPolicy", "OrderedReady");
        if let Some(strategy) = child(spec, "updateStrategy") {
            default(strategy, "type", "RollingUpdate");
            if strategy["type"] == "RollingUpdate"
                && let Some(rolling) = child(strategy, "rollingUpdate")
            {
                default(rolling, "partition", 0);
            }
        }
        if let Some(policy) = child(spec, "persistentVolumeClaimRetentionPolicy") {
            default(policy, "whenDeleted", "Retain");
            default(policy, "whenScaled", "Retain");
        }
        default(spec, "replicas", 1);
        default(spec, "revisionHistoryLimit", 10);
        default_template(spec);
        default_claim_templates(spec);
    }
    clear_status(request, object, json!({"replicas": 0, "availableReplicas": 0}));
}

pub(super) fn controller_default(request: &Admission<'_>, object: &mut Value, _: Option<&Value>) {
    let labels =
        object.pointer("/spec/template/metadata/labels").filter(|labels| labels.is_object()).cloned();
    if let Some(labels) = &labels
        && let Some(metadata) = child(object, "metadata")
    {
        default(metadata, "labels", labels.clone());
    }
    if let Some(spec) = child(object, "spec") {
        default(spec, "replicas", 1);
        if let Some(labels) = labels {
            default(spec, "selector", labels);
        }
        default_template(spec);
    }
    clear_status(request, object, json!({"replicas": 0}));
}

/// A Job's defaults. Its selector and labels are those that Kubernetes would generate from the uid, which does not
/// exist yet here; a Job that names neither keeps none.
pub(super) fn job_default(request: &Admission<'_>, object: &mut Value, _: Option<&Value>) {
    if let Some(spec) = child(object, "spec") {
        let unset = |name: &str| spec.get(name).is_none_or(Value::is_null);
        if unset("completions") && unset("parallelism") {
            default(spec, "completions", 1);
        }
        default(spec, "parallelism", 1);
        default(spec, "backoffLimit", 6);
        default(spec, "completionMode", "NonIndexed");
        default(spec, "suspend", false);
        default(spec, "manualSelector", false);
        default(spec, "podReplacementPolicy", "TerminatingOrFailed");
        default_template(spec);
    }
    clear_status(request, object, json!({}));
}

pub(super) fn pod_template_default(_: &Admission<'_>, object: &mut Value, _: Option<&Value>) {
    default_template(object);
}

fn check_template(object: &Value, at: &str, errors: &mut Vec<FieldError>) {
    let pointer = format!("/{}", at.replace('.', "/"));
    let nothing = Value::Null;
    let spec = object.pointer(&format!("{pointer}/spec")).unwrap_or(&nothing);
    check_spec(spec, &format!("{at}.spec"), errors);
}

pub(super) fn pod_template_validate(
    _: &Admission<'_>,
    object: &Value,
    _: Option<&Value>,
    errors: &mut Vec<FieldError>,
) {
    check_template(object, "template", errors);
}

/// Whether labels satisfy a LabelSelector object. One that is not valid selects nothing.
fn selects(selector: &Value, labels: &Value) -> bool {
    Labels::from_object(selector).is_ok_and(|selector| selector.matches_labels(labels.as_object()))
}

/// The messages print an object's value as Go's `%+v` would; Kubernetes 1.33 prints JSON.
fn check_selector(object: &Value, old: Option<&Value>, errors: &mut Vec<FieldError>) {
    let selector = object.pointer("/spec/selector").filter(|selector| !selector.is_null());
    let labels = object.pointer("/spec/template/metadata/labels").cloned().unwrap_or_default();
    match selector {
        None => errors.push(FieldError::required("spec.selector", "")),
        Some(selector) => {
            let is_empty = ["/matchLabels", "/matchExpressions"].iter().all(|pointer| {
                map(selector, pointer).is_none_or(|map| map.is_empty()) && list(selector, pointer).is_empty()
            });
            if is_empty {
                let detail = "empty selector is invalid for deployment";
                let detail =
                    if object["kind"] == "Deployment" { detail } else { "empty selector is invalid" };
                let field = "spec.selector";
                errors.push(FieldError::invalid(field, selector.clone(), detail));
            } else if !selects(selector, &labels) {
                let detail = "`selector` does not match template `labels`";
                let field = "spec.template.metadata.labels";
                errors.push(FieldError::invalid(field, labels, detail));
            }
        }
    }
    if let Some(old) = old
        && !same(object, old, "/spec/selector")
    {
        let value = selector.cloned().unwrap_or_default();
        errors.push(FieldError::invalid("spec.selector", value, FIELD_IMMUTABLE));
    }
}

fn check_not_negative(object: &Value, names: &[&str], errors: &mut Vec<FieldError>) {
    for name in names {
        let found = number(object, &format!("/spec/{name}"));
        if found < 0 {
            let detail = "must be greater than or equal to 0";
            errors.push(FieldError::invalid(format!("spec.{name}"), found, detail));
        }
    }
}

fn check_restart_always(object: &Value, errors: &mut Vec<FieldError>) {
    let policy = crate::field::text(object, "/spec/template/spec/restartPolicy");
    if !matches!(policy, "" | "Always") {
        let field = "spec.template.spec.restartPolicy";
        errors.push(FieldError::not_supported(field, policy, ["Always"]));
    }
}

/// Deployments, ReplicaSets and DaemonSets.
pub(super) fn set_validate(
    _: &Admission<'_>,
    object: &Value,
    old: Option<&Value>,
    errors: &mut Vec<FieldError>,
) {
    check_not_negative(object, &["replicas", "minReadySeconds", "revisionHistoryLimit"], errors);
    check_selector(object, old, errors);
    check_template(object, "spec.template", errors);
    check_restart_always(object, errors);
}

pub(super) fn stateful_set_validate(
    request: &Admission<'_>,
    object: &Value,
    old: Option<&Value>,
    errors: &mut Vec<FieldError>,
) {
    let allowed = [
        "ordinals",
        "persistentVolumeClaimRetentionPolicy",
        "replicas",
        "revisionHistoryLimit",
        "minReadySeconds",
        "template",
        "updateStrategy",
    ];
    if let Some(old) = old {
        let fixed = |object: &Value| {
            let mut spec = object.get("spec").cloned().unwrap_or_default();
            if let Some(fields) = spec.as_object_mut() {
                fields.retain(|name, _| !allowed.contains(&name.as_str()));
            }
            spec
        };
        if fixed(object) != fixed(old) {
            let detail = "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', \
                          'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and \
                          'minReadySeconds' are forbidden";
            errors.push(FieldError::forbidden("spec", detail));
            return;
        }
    }
    set_validate(request, object, None, errors);
}

pub(super) fn controller_validate(
    _: &Admission<'_>,
    object: &Value,
    _: Option<&Value>,
    errors: &mut Vec<FieldError>,
) {
    check_not_negative(object, &["replicas", "minReadySeconds"], errors);
    let selector = map(object, "/spec/selector").cloned().unwrap_or_default();
    let labels = object.pointer("/spec/template/metadata/labels").cloned().unwrap_or_default();
    if selector.is_empty() {
        errors.push(FieldError::required("spec.selector", ""));
    } else if !selector.iter().all(|(key, value)| labels.get(key) == Some(value)) {
        let detail = "`selector` does not match template `labels`";
        let field = "spec.template.metadata.labels";
        errors.push(FieldError::invalid(field, labels, detail));
    }
    check_template(object, "spec.template", errors);
    check_restart_always(object, errors);
}

pub(super) fn job_validate(
    _: &Admission<'_>,
    object: &Value,
    old: Option<&Value>,
    errors: &mut Vec<FieldError>,
) {
    check_not_negative(object, &["parallelism", "completions", "backoffLimit"], errors);
    check_template(object, "spec.template", errors);
    let policy = crate::field::text(object, "/spec/template/spec/restartPolicy");
    if policy == "Always" {
        let field = "spec.template.spec.restartPolicy";
        let detail = "valid values: \"OnFailure\", \"Never\"";
        errors.push(FieldError::required(field, detail));
    }
    let Some(old) = old else { return };
    for name in ["completions", "selector", "template", "completionMode"] {
        let pointer = format!("/spec/{name}");
        if !same(object, old, &pointer) {
            let value = object.pointer(&pointer).cloned().unwrap_or_default();
            let field = format!("spec.{name}");
            errors.push(FieldError::invalid(field, value, FIELD_IMMUTABLE));
        }
    }
}

pub(super) fn budget_validate(
    _: &Admission<'_>,
    object: &Value,
    _: Option<&Value>,
    errors: &mut Vec<FieldError>,
) {
    let set = |name: &str| object.pointer(&format!("/spec/{name}")).is_some_and(|value| !value.is_null());
    if set("minAvailable") && set("maxUnavailable") {
        let value = object.get("spec").cloned().unwrap_or_default();
        let detail = "minAvailable and maxUnavailable cannot be both set";
        errors.push(FieldError::invalid("spec", value, detail));
    }
    check_not_negative(object, &["minAvailable", "maxUnavailable"], errors);
}

/// What a revision holds never changes; only its number does.
pub(super) fn revision_validate(
    _: &Admission<'_>,
    object: &Value,
    old: Option<&Value>,
    errors: &mut Vec<FieldError>,
) {
    if object.get("data").is_none_or(Value::is_null) {
        errors.push(FieldError::required("data", "data is mandatory"));
    }
    let revision = number(object, "/revision");
    if revision < 0 {
        errors.push(FieldError::invalid("revision", revision, "must be greater than or equal to 0"));
    }
    if let Some(old) = old
        && !same(object, old, "/data")
    {
        let value = object.get("data").cloned().unwrap_or_default();
        errors.push(FieldError::invalid("data", value, FIELD_IMMUTABLE));
    }
}

pub(super) fn cron_job_default(request: &Admission<'_>, object: &mut Value, _: Option<&Value>) {
    if let Some(spec) = child(object, "spec") {
        default(spec, "concurrencyPolicy", "Allow");
        default(spec, "suspend", false);
        default(spec, "successfulJobsHistoryLimit", 3);
        default(spec, "failedJobsHistoryLimit", 1);
        if let Some(job) = child(spec, "jobTemplate").and_then(|template| child(template, "spec")) {
            default_template(job);
        }
    }
    clear_status(request, object, json!({}));
}

pub(super) fn cron_job_validate(
    _: &Admission<'_>,
    object: &Value,
    _: Option<&Value>,
    errors: &mut Vec<FieldError>,
) {
    if crate::field::text(object, "/spec/schedule").is_empty() {
        errors.push(FieldError::required("spec.schedule", ""));
    }
    let policy = crate::field::text(object, "/spec/concurrencyPolicy");
    if !matches!(policy, "Allow" | "Forbid" | "Replace") {
        let known = ["Allow", "Forbid", "Replace"];
        errors.push(FieldError::not_supported("spec.concurrencyPolicy", policy, known));
    }
    let limits = ["successfulJobsHistoryLimit", "failedJobsHistoryLimit", "startingDeadlineSeconds"];
    check_not_negative(object, &limits, errors);
    check_template(object, "spec.jobTemplate.spec.template", errors);
}
