//! The reviews of `authorization.k8s.io`: asking what is allowed.
//!
//! Texts of k8s.io/kubernetes `pkg/apis/authorization/validation`.

use serde_json::{Map, Value, json};

use super::authorizer::{Authorizer, Decision, aggregate_errors};
use super::rule::Rule;
use crate::auth::{Attributes, Identity};
use crate::field::{text, texts};
use crate::object;
use crate::status::{ApiError, FieldError, GroupResource};

const GROUP: &str = "authorization.k8s.io";

/// Answers a `SelfSubjectAccessReview` (`kubectl auth can-i`).
///
/// # Errors
/// 422 when the review is invalid.
pub fn self_subject_access_review(
    authorizer: &Authorizer,
    identity: &Identity,
    review: &Value,
) -> Result<Value, ApiError> {
    let mut errors: Vec<_> = spec_error(review).into_iter().collect();
    errors.extend(metadata_error(review, ""));
    check("SelfSubjectAccessReview", &errors)?;
    Ok(answer("SelfSubjectAccessReview", review, &decide(authorizer, identity, review)))
}

/// Answers a `SubjectAccessReview`.
///
/// # Errors
/// 422 when the review is invalid.
pub fn subject_access_review(authorizer: &Authorizer, review: &Value) -> Result<Value, ApiError> {
    let mut errors: Vec<_> = spec_error(review).into_iter().collect();
    errors.extend(subject_error(review));
    errors.extend(metadata_error(review, ""));
    check("SubjectAccessReview", &errors)?;
    Ok(answer("SubjectAccessReview", review, &decide(authorizer, &subject(review), review)))
}

/// Answers a `LocalSubjectAccessReview` that was sent to `namespace`.
///
/// # Errors
/// 422 when the review is invalid, 400 when it is about another namespace.
pub fn local_subject_access_review(
    authorizer: &Authorizer,
    namespace: &str,
    review: &Value,
) -> Result<Value, ApiError> {
    let asked = text(review, "/spec/resourceAttributes/namespace");
    let mut errors: Vec<_> = spec_error(review).into_iter().collect();
    errors.extend(subject_error(review));
    errors.extend(metadata_error(review, namespace));
    if has(review, "/spec/resourceAttributes") && asked != namespace {
        let detail = "must match metadata.namespace";
        errors.push(FieldError::invalid("spec.resourceAttributes.namespace", asked, detail));
    }
    if has(review, "/spec/nonResourceAttributes") {
        let value = review["spec"]["nonResourceAttributes"].clone();
        errors.push(FieldError::invalid(
            "spec.nonResourceAttributes",
            value,
            "disallowed on this kind of request",
        ));
    }
    check("LocalSubjectAccessReview", &errors)?;
    Ok(answer("LocalSubjectAccessReview", review, &decide(authorizer, &subject(review), review)))
}

/// Answers a `SelfSubjectRulesReview` (`kubectl auth can-i --list`).
///
/// # Errors
/// 400 without a namespace.
pub fn self_subject_rules_review(
    authorizer: &Authorizer,
    identity: &Identity,
    review: &Value,
) -> Result<Value, ApiError> {
    let namespace = text(review, "/spec/namespace");
    if namespace.is_empty() {
        return Err(ApiError::bad_request("no namespace on request"));
    }
    let (rules, errors) = authorizer.rules_for(identity, namespace);
    let resource_rules = rules.iter().filter(|rule| !rule.resources.is_empty()).map(|rule| {
        let rule = Rule { non_resource_urls: Vec::new(), ..rule.clone() };
        json!(rule)
    });
    let path_rules = rules
        .iter()
        .filter(|rule| !rule.non_resource_urls.is_empty())
        .map(|rule| json!({ "verbs": rule.verbs, "nonResourceURLs": rule.non_resource_urls }));
    let mut status = json!({
        "resourceRules": Value::Array(resource_rules.collect()),
        "nonResourceRules": Value::Array(path_rules.collect()),
        "incomplete": false,
    });
    if !errors.is_empty() {
        status["evaluationError"] = aggregate_errors(&errors).into();
    }
    Ok(json!({
        "kind": "SelfSubjectRulesReview",
        "apiVersion": format!("{GROUP}/v1"),
        "metadata": {},
        "spec": review["spec"],
        "status": status,
    }))
}

fn has(review: &Value, pointer: &str) -> bool {
    review.pointer(pointer).is_some_and(|value| !value.is_null())
}

fn spec_error(review: &Value) -> Option<FieldError> {
    let by_resource = has(review, "/spec/resourceAttributes");
    match (by_resource, review.pointer("/spec/nonResourceAttributes").filter(|value| !value.is_null())) {
        (true, Some(paths)) => Some(FieldError::invalid(
            "spec.nonResourceAttributes",
            paths.clone(),
            "cannot be specified in combination with resourceAttributes",
        )),
        (false, None) => Some(FieldError::invalid(
            "spec.resourceAttributes",
            Value::Null,
            "exactly one of nonResourceAttributes or resourceAttributes must be specified",
        )),
        _ => None,
    }
}

fn subject_error(review: &Value) -> Option<FieldError> {
    let groups = review.pointer("/spec/groups").and_then(Value::as_array);
    (text(review, "/spec/user").is_empty() && groups.is_none_or(Vec::is_empty))
        .then(|| FieldError::invalid("spec.user", "", "at least one of user or group must be specified"))
}

/// A review is not stored, so it has no metadata but the namespace that it is sent to.
fn metadata_error(review: &Value, namespace: &str) -> Option<FieldError> {
    let metadata = object::metadata(review)?;
    let allowed = |field: &str, value: &Value| match field {
        "creationTimestamp" => value.is_null(),
        "managedFields" => true,
        "namespace" => value.as_str().unwrap_or_default() == namespace,
        _ => value.is_null(),
    };
    metadata
        .iter()
        .any(|(field, value)| !allowed(field, value))
        .then(|| FieldError::invalid("metadata", Value::Object(metadata.clone()), "must be empty"))
}

fn check(kind: &str, errors: &[FieldError]) -> Result<(), ApiError> {
    ApiError::check(GroupResource { group: GROUP, resource: kind }, "", errors)
}

fn subject(review: &Value) -> Identity {
    let extra = review.pointer("/spec/extra").and_then(Value::as_object);
    Identity {
        user: text(review, "/spec/user").to_owned(),
        uid: text(review, "/spec/uid").to_owned(),
        groups: texts(review, "/spec/groups"),
        extra: extra
            .map(|extra| extra.iter().map(|(key, values)| (key.clone(), texts(values, ""))).collect())
            .unwrap_or_default(),
    }
}

fn decide(authorizer: &Authorizer, identity: &Identity, review: &Value) -> Decision {
    let resource = |field: &str| text(review, &format!("/spec/resourceAttributes/{field}"));
    let path = |field: &str| text(review, &format!("/spec/nonResourceAttributes/{field}"));
    let attributes = if has(review, "/spec/resourceAttributes") {
        // A review without a resource asks about none, which only `*` allows; it must not turn into one about a path.
        let resource_name = match resource("resource") {
            "" => "\u{0}",
            name => name,
        };
        Attributes {
            verb: resource("verb"),
            group: resource("group"),
            version: resource("version"),
            resource: resource_name,
            subresource: resource("subresource"),
            namespace: resource("namespace"),
            name: resource("name"),
            path: "",
        }
    } else {
        Attributes { verb: path("verb"), path: path("path"), ..Attributes::default() }
    };
    authorizer.authorize(identity, &attributes)
}

fn answer(kind: &str, review: &Value, decision: &Decision) -> Value {
    let (allowed, reason) = match decision {
        Decision::Allow(reason) => (true, reason),
        Decision::NoOpinion(reason) => (false, reason),
    };
    let mut status = Map::new();
    status.insert("allowed".to_owned(), allowed.into());
    if !reason.is_empty() {
        status.insert("reason".to_owned(), reason.clone().into());
    }
    json!({
        "kind": kind,
        "apiVersion": format!("{GROUP}/v1"),
        "metadata": review.get("metadata").cloned().filter(Value::is_object).unwrap_or_else(|| json!({})),
        "spec": review["spec"],
        "status": status,
    })
}
