//! What the kinds of RBAC add to the machinery: defaults, validation, and that nobody grants what they do not have.
//!
//! Texts of k8s.io/kubernetes `pkg/apis/rbac/validation`.

use std::sync::Arc;

use serde::Deserialize as _;
use serde_json::{Map, Value, json};

use super::escalation::RbacWrite;
use super::rule::Rule;
use super::{Authorizer, CLUSTER_ROLE, GROUP, ROLE};
use crate::auth::Identity;
use crate::field;
use crate::kind::{Admission, Hooks, Operation};
use crate::metadata::{is_dns1123_subdomain, is_path_segment};
use crate::status::{ApiError, FieldError};

/// For Role and ClusterRole. Without an authorizer only the form is checked.
pub struct RoleHooks {
    /// Decides about escalation.
    pub authorizer: Option<Arc<Authorizer>>,
}

/// For RoleBinding and ClusterRoleBinding. Without an authorizer only the form is checked.
pub struct BindingHooks {
    /// Decides about escalation.
    pub authorizer: Option<Arc<Authorizer>>,
}

fn identity(request: &Admission<'_>) -> Identity {
    Identity { user: request.user.to_owned(), groups: request.groups.to_vec(), ..Identity::default() }
}

impl Hooks for RoleHooks {
    fn faults(&self, request: &Admission<'_>, object: &Value, _old: Option<&Value>) -> Vec<FieldError> {
        role_errors(object, request.namespace)
    }

    fn validate(
        &self,
        request: &Admission<'_>,
        object: &Value,
        old: Option<&Value>,
        _warnings: &mut Vec<String>,
    ) -> Result<(), ApiError> {
        if request.operation == Operation::Delete {
            return Ok(());
        }
        let resource = if request.namespace.is_empty() { "clusterroles" } else { "roles" };
        if let Some(authorizer) = &self.authorizer {
            let write = RbacWrite { resource, namespace: request.namespace, object, old };
            authorizer.check_role(&identity(request), &write)?;
        }
        Ok(())
    }
}

impl Hooks for BindingHooks {
    fn default(
        &self,
        _request: &Admission<'_>,
        object: &mut Value,
        _old: Option<&Value>,
        _warnings: &mut Vec<String>,
    ) -> Result<(), ApiError> {
        if let Some(role) = object.get_mut("roleRef").and_then(Value::as_object_mut) {
            default_group(role, GROUP);
        }
        let subjects = object.get_mut("subjects").and_then(Value::as_array_mut);
        for subject in subjects.into_iter().flatten().filter_map(Value::as_object_mut) {
            if matches!(subject.get("kind").and_then(Value::as_str), Some("User" | "Group")) {
                default_group(subject, GROUP);
            }
        }
        Ok(())
    }

    fn faults(&self, request: &Admission<'_>, object: &Value, old: Option<&Value>) -> Vec<FieldError> {
        binding_errors(object, old, request.namespace)
    }

    fn validate(
        &self,
        request: &Admission<'_>,
        object: &Value,
        old: Option<&Value>,
        _warnings: &mut Vec<String>,
    ) -> Result<(), ApiError> {
        if request.operation == Operation::Delete {
            return Ok(());
        }
        let resource = if request.namespace.is_empty() { "clusterrolebindings" } else { "rolebindings" };
        if let Some(authorizer) = &self.authorizer {
            let write = RbacWrite { resource, namespace: request.namespace, object, old };
            authorizer.check_binding(&identity(request), &write)?;
        }
        Ok(())
    }
}

fn default_group(fields: &mut Map<String, Value>, group: &str) {
    if fields.get("apiGroup").and_then(Value::as_str).unwrap_or_default().is_empty() {
        fields.insert("apiGroup".to_owned(), group.into());
    }
}

fn role_errors(role: &Value, namespace: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (index, value) in field::list(role, "/rules").iter().enumerate() {
        let at = format!("rules[{index}]");
        match Rule::deserialize(value) {
            Ok(rule) => rule_errors(&rule, &at, namespace, &mut errors),
            Err(_) => {
                errors.push(FieldError::invalid(at, value.clone(), "must be a rule of lists of strings"))
            }
        }
    }
    if let Some(aggregation) = role.get("aggregationRule").filter(|aggregation| !aggregation.is_null()) {
        let selectors = aggregation.get("clusterRoleSelectors").and_then(Value::as_array);
        if selectors.is_none_or(Vec::is_empty) {
            errors.push(FieldError::required(
                "aggregationRule.clusterRoleSelectors",
                "at least one clusterRoleSelector required if aggregationRule is non-nil",
            ));
        }
        for (index, selector) in selectors.into_iter().flatten().enumerate() {
            selector_errors(selector, &format!("aggregationRule.clusterRoleSelectors[{index}]"), &mut errors);
        }
    }
    errors
}

fn rule_errors(rule: &Rule, at: &str, namespace: &str, errors: &mut Vec<FieldError>) {
    if rule.verbs.is_empty() {
        errors.push(FieldError::required(format!("{at}.verbs"), "verbs must contain at least one value"));
    }
    if !rule.non_resource_urls.is_empty() {
        let mut wrong = |detail: &str| {
            let urls = json!(rule.non_resource_urls);
            errors.push(FieldError::invalid(format!("{at}.nonResourceURLs"), urls, detail));
        };
        if !namespace.is_empty() {
            wrong("namespaced rules cannot apply to non-resource URLs");
        }
        if !rule.api_groups.is_empty() || !rule.resources.is_empty() || !rule.resource_names.is_empty() {
            wrong("rules cannot apply to both regular resources and non-resource URLs");
        }
        return;
    }
    if rule.api_groups.is_empty() {
        let detail = "resource rules must supply at least one api group";
        errors.push(FieldError::required(format!("{at}.apiGroups"), detail));
    }
    if rule.resources.is_empty() {
        let detail = "resource rules must supply at least one resource";
        errors.push(FieldError::required(format!("{at}.resources"), detail));
    }
}

fn selector_errors(selector: &Value, at: &str, errors: &mut Vec<FieldError>) {
    let expressions = selector.get("matchExpressions").and_then(Value::as_array);
    for (index, expression) in expressions.into_iter().flatten().enumerate() {
        let at = format!("{at}.matchExpressions[{index}]");
        let text = |field: &str| expression.get(field).and_then(Value::as_str).unwrap_or_default();
        let has_values =
            expression.get("values").and_then(Value::as_array).is_some_and(|values| !values.is_empty());
        match text("operator") {
            "In" | "NotIn" if !has_values => errors.push(FieldError::required(
                format!("{at}.values"),
                "must be specified when `operator` is 'In' or 'NotIn'",
            )),
            "Exists" | "DoesNotExist" if has_values => errors.push(FieldError::forbidden(
                format!("{at}.values"),
                "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
            )),
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            operator => errors.push(FieldError::invalid(
                format!("{at}.operator"),
                operator,
                "not a valid selector operator",
            )),
        }
    }
}

fn binding_errors(binding: &Value, old: Option<&Value>, namespace: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let role = |field: &str| field::text(binding, &format!("/roleRef/{field}"));
    if role("apiGroup") != GROUP {
        errors.push(FieldError::not_supported("roleRef.apiGroup", role("apiGroup"), [GROUP]));
    }
    let kinds: &[&str] = if namespace.is_empty() { &[CLUSTER_ROLE] } else { &[ROLE, CLUSTER_ROLE] };
    if !kinds.contains(&role("kind")) {
        errors.push(FieldError::not_supported("roleRef.kind", role("kind"), kinds));
    }
    if role("name").is_empty() {
        errors.push(FieldError::required("roleRef.name", ""));
    } else {
        let faults = is_path_segment(role("name"));
        errors
            .extend(faults.into_iter().map(|fault| FieldError::invalid("roleRef.name", role("name"), fault)));
    }
    let subjects = binding.get("subjects").and_then(Value::as_array);
    for (index, subject) in subjects.into_iter().flatten().enumerate() {
        subject_errors(subject, &format!("subjects[{index}]"), namespace, &mut errors);
    }
    if let Some(before) = old.and_then(|old| old.get("roleRef"))
        && Some(before) != binding.get("roleRef")
    {
        let now = binding.get("roleRef").cloned().unwrap_or(Value::Null);
        errors.push(FieldError::invalid("roleRef", now, "cannot change roleRef"));
    }
    errors
}

fn subject_errors(subject: &Value, at: &str, namespace: &str, errors: &mut Vec<FieldError>) {
    let text = |field: &str| subject.get(field).and_then(Value::as_str).unwrap_or_default();
    let (name, group) = (text("name"), text("apiGroup"));
    if name.is_empty() {
        errors.push(FieldError::required(format!("{at}.name"), ""));
    }
    let group_is = |wanted: &str, errors: &mut Vec<FieldError>| {
        if group != wanted {
            errors.push(FieldError::not_supported(format!("{at}.apiGroup"), group, [wanted]));
        }
    };
    match text("kind") {
        "ServiceAccount" => {
            if !name.is_empty() {
                let faults = is_dns1123_subdomain(name);
                errors.extend(
                    faults.into_iter().map(|fault| FieldError::invalid(format!("{at}.name"), name, fault)),
                );
            }
            group_is("", errors);
            if namespace.is_empty() && text("namespace").is_empty() {
                errors.push(FieldError::required(format!("{at}.namespace"), ""));
            }
        }
        "User" | "Group" => group_is(GROUP, errors),
        kind => errors.push(FieldError::not_supported(
            format!("{at}.kind"),
            kind,
            ["ServiceAccount", "User", "Group"],
        )),
    }
}
