//! Every answer that is not a success: one error type, and the `Status` body that Kubernetes' clients match on.
//!
//! Reasons, codes and texts are those of `k8s.io/apimachinery/pkg/api/errors` and `.../util/validation/field`.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::go;

/// What a client is told when a request fails: `metav1.Status` without its constant fields.
///
/// `message` is for people and is shown as it is; `reason`, `code` and `details` are matched on by programs.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// The HTTP status code.
    pub code: u16,
    /// The machine-readable reason, `metav1.StatusReason`; empty where Kubernetes leaves it out.
    pub reason: &'static str,
    /// The text for people.
    pub message: String,
    /// What it is about, and each single cause.
    pub details: Option<Box<Details>>,
}

/// `metav1.StatusDetails`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Details {
    /// The object's name.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// The API group.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub group: String,
    /// The resource (`pods`), or the kind (`Pod`) where the reason is `Invalid`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// The object's uid, where a precondition names it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// Every single fault.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<Cause>,
    /// Seconds to wait before trying again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_seconds: Option<u32>,
    /// Where an expired list may go on; it is shown as `metadata.continue`.
    #[serde(skip)]
    pub continue_token: String,
}

/// `metav1.StatusCause`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cause {
    /// `FieldValueInvalid` and its like; empty where Kubernetes leaves it out.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// The fault in words.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// The field's path, such as `spec.template.spec.domain`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub field: String,
}

/// What kind of fault a field has: `field.ErrorType`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldErrorType {
    /// The field must be there and is not.
    Required,
    /// The value is not acceptable.
    Invalid,
    /// The value is none of those that are known.
    NotSupported,
    /// The value occurs twice.
    Duplicate,
    /// The field must not be set (here, now, by this caller).
    Forbidden,
    /// The value has the wrong JSON type.
    TypeInvalid,
    /// The value is too long.
    TooLong,
    /// The list is too long.
    TooMany,
    /// The value names something that does not exist.
    NotFound,
}

impl FieldErrorType {
    /// The cause's `reason`.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Required => "FieldValueRequired",
            Self::Invalid => "FieldValueInvalid",
            Self::NotSupported => "FieldValueNotSupported",
            Self::Duplicate => "FieldValueDuplicate",
            Self::Forbidden => "FieldValueForbidden",
            Self::TypeInvalid => "FieldValueTypeInvalid",
            Self::TooLong => "FieldValueTooLong",
            Self::TooMany => "FieldValueTooMany",
            Self::NotFound => "FieldValueNotFound",
        }
    }

    fn words(self) -> &'static str {
        match self {
            Self::Required => "Required value",
            Self::Invalid | Self::TypeInvalid => "Invalid value",
            Self::NotSupported => "Unsupported value",
            Self::Duplicate => "Duplicate value",
            Self::Forbidden => "Forbidden",
            Self::TooLong => "Too long",
            Self::TooMany => "Too many",
            Self::NotFound => "Not found",
        }
    }
}

/// One field's fault: `field.Error`.
#[derive(Debug, Clone, PartialEq)]
pub struct FieldError {
    /// The kind of fault.
    pub kind: FieldErrorType,
    /// The field's path, `metadata.name` or `spec.ports[0].port`.
    pub field: String,
    /// The value found; `None` where Kubernetes does not print one (required, forbidden, too long).
    pub value: Option<Value>,
    /// What is wrong with it; may be empty.
    pub detail: String,
}

impl FieldError {
    /// A fault whose text prints `value`.
    pub fn with_value(
        kind: FieldErrorType,
        field: impl Into<String>,
        value: Value,
        detail: impl Into<String>,
    ) -> Self {
        Self { kind, field: field.into(), value: Some(value), detail: detail.into() }
    }

    /// A value that is not acceptable.
    pub fn invalid(field: impl Into<String>, value: impl Into<Value>, detail: impl Into<String>) -> Self {
        Self::with_value(FieldErrorType::Invalid, field, value.into(), detail)
    }

    /// A field that must be there.
    pub fn required(field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { kind: FieldErrorType::Required, field: field.into(), value: None, detail: detail.into() }
    }

    /// A field that must not be set.
    pub fn forbidden(field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { kind: FieldErrorType::Forbidden, field: field.into(), value: None, detail: detail.into() }
    }

    /// A value that is none of the known ones.
    pub fn not_supported<T: AsRef<str>>(
        field: impl Into<String>,
        value: impl Into<Value>,
        known: impl IntoIterator<Item = T>,
    ) -> Self {
        let known: Vec<_> = known.into_iter().map(|word| go::quoted(word.as_ref())).collect();
        let detail = format!("supported values: {}", known.join(", "));
        Self::with_value(FieldErrorType::NotSupported, field, value.into(), detail)
    }

    /// A text, or a list of them, of more than `most` bytes.
    pub fn too_long(field: impl Into<String>, most: impl fmt::Display) -> Self {
        let detail = format!("may not be more than {most} bytes");
        Self { kind: FieldErrorType::TooLong, field: field.into(), value: None, detail }
    }

    /// The fault without its path: `Invalid value: "x": must be …`. This is a cause's message.
    pub fn body(&self) -> String {
        let mut text = self.kind.words().to_owned();
        if let Some(value) = &self.value {
            text.push_str(": ");
            match value {
                Value::String(string) => text.push_str(&go::quoted(string)),
                other => text.push_str(&other.to_string()),
            }
        }
        if !self.detail.is_empty() {
            text.push_str(": ");
            text.push_str(&self.detail);
        }
        text
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.field.is_empty() {
            out.write_str(&self.body())
        } else {
            write!(out, "{}: {}", self.field, self.body())
        }
    }
}

/// A resource in a group: what most messages name. Shown as `pods` or `virtualmachines.kubevirt.io`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupResource<'a> {
    /// The group; empty for the core group.
    pub group: &'a str,
    /// The plural (`pods`) or, where a message names a kind, the kind (`Pod`).
    pub resource: &'a str,
}

impl fmt::Display for GroupResource<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.group.is_empty() {
            out.write_str(self.resource)
        } else {
            write!(out, "{}.{}", self.resource, self.group)
        }
    }
}

/// How many faults of an object are told. A body of a few megabytes can have a million, and each makes some hundred bytes
/// of text.
const MOST_CAUSES: usize = 250;

impl ApiError {
    /// An error without details.
    pub fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into(), details: None }
    }

    fn about(mut self, of: GroupResource<'_>, name: &str) -> Self {
        self.details = Some(Box::new(Details {
            name: name.to_owned(),
            group: of.group.to_owned(),
            kind: of.resource.to_owned(),
            ..Details::default()
        }));
        self
    }

    /// 400: the request cannot be read.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    /// 401: no credentials, or none that are known.
    pub fn unauthorized() -> Self {
        Self::new(401, "Unauthorized", "Unauthorized")
    }

    /// 403 about one object or resource: `pods "x" is forbidden: WHY`.
    pub fn forbidden(of: GroupResource<'_>, name: &str, why: impl fmt::Display) -> Self {
        let message = match (of.resource.is_empty(), name.is_empty()) {
            (true, _) => format!("forbidden: {why}"),
            (false, true) => format!("{of} is forbidden: {why}"),
            (false, false) => format!("{of} {name:?} is forbidden: {why}"),
        };
        Self::new(403, "Forbidden", message).about(of, name)
    }

    /// 404: this object does not exist.
    pub fn not_found(of: GroupResource<'_>, name: &str) -> Self {
        Self::new(404, "NotFound", format!("{of} {name:?} not found")).about(of, name)
    }

    /// 404: there is nothing at this path.
    pub fn no_such_path() -> Self {
        let mut error = Self::new(404, "NotFound", "the server could not find the requested resource");
        error.details = Some(Box::default());
        error
    }

    /// 405 as Kubernetes' router answers it, which does not know the resource.
    pub fn no_such_method() -> Self {
        let mut error = Self::new(
            405,
            "MethodNotAllowed",
            "the server does not allow this method on the requested resource",
        );
        error.details = Some(Box::default());
        error
    }

    /// 405: this resource has no such verb.
    pub fn method_not_allowed(of: GroupResource<'_>, verb: &str) -> Self {
        let message = format!("{verb} is not supported on resources of kind {:?}", of.to_string());
        Self::new(405, "MethodNotAllowed", message).about(of, "")
    }

    /// 409: an object of this name exists.
    pub fn already_exists(of: GroupResource<'_>, name: &str) -> Self {
        Self::new(409, "AlreadyExists", format!("{of} {name:?} already exists")).about(of, name)
    }

    /// 409: the object is not the one that the caller read.
    pub fn conflict(of: GroupResource<'_>, name: &str, why: impl fmt::Display) -> Self {
        let message = format!("Operation cannot be fulfilled on {of} {name:?}: {why}");
        Self::new(409, "Conflict", message).about(of, name)
    }

    /// 409 of an outdated `resourceVersion`.
    pub fn modified(of: GroupResource<'_>, name: &str) -> Self {
        let why =
            "the object has been modified; please apply your changes to the latest version and try again";
        Self::conflict(of, name, why)
    }

    /// 410: the history that was asked for is compacted away.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }

    /// 422: these fields are wrong. `kind.resource` is the kind's name (`Pod`).
    pub fn invalid(kind: GroupResource<'_>, name: &str, errors: &[FieldError]) -> Self {
        let left_out = errors.len().saturating_sub(MOST_CAUSES);
        let errors = &errors[..errors.len() - left_out];
        let mut listed: Vec<_> = errors.iter().map(ToString::to_string).collect();
        if left_out > 0 {
            listed.push(format!("and {left_out} more"));
        }
        let message = match &listed[..] {
            [] => format!("{kind} {name:?} is invalid"),
            [one] => format!("{kind} {name:?} is invalid: {one}"),
            many => format!("{kind} {name:?} is invalid: [{}]", many.join(", ")),
        };
        let mut error = Self::new(422, "Invalid", message).about(kind, name);
        if let Some(details) = &mut error.details {
            details.causes = errors
                .iter()
                .map(|error| Cause {
                    reason: error.kind.reason().to_owned(),
                    message: error.body(),
                    field: error.field.clone(),
                })
                .collect();
        }
        error
    }

    /// Nothing where there is no fault, else what [`invalid`](Self::invalid) says of them.
    ///
    /// # Errors
    /// 422.
    pub fn check(kind: GroupResource<'_>, name: &str, errors: &[FieldError]) -> Result<(), Self> {
        if errors.is_empty() { Ok(()) } else { Err(Self::invalid(kind, name, errors)) }
    }

    /// 500: a fault of ours. `message` must hold nothing secret.
    pub fn internal(message: impl fmt::Display) -> Self {
        let message = message.to_string();
        let mut error = Self::new(500, "InternalError", format!("Internal error occurred: {message}"));
        error.details = Some(Box::new(Details {
            causes: vec![Cause { message, ..Cause::default() }],
            ..Details::default()
        }));
        error
    }

    /// The `Status` object.
    pub fn to_json(&self) -> Value {
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": self.message,
        });
        if !self.reason.is_empty() {
            status["reason"] = self.reason.into();
        }
        if let Some(details) = &self.details {
            status["details"] = json!(details);
            if !details.continue_token.is_empty() {
                status["metadata"]["continue"] = details.continue_token.clone().into();
            }
        }
        status["code"] = self.code.into();
        status
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const PODS: GroupResource<'_> = GroupResource { group: "", resource: "pods" };
    const VM_KIND: GroupResource<'_> = GroupResource { group: "kubevirt.io", resource: "VirtualMachine" };

    #[test]
    fn the_texts_are_those_of_kubernetes() {
        assert_eq!(ApiError::not_found(PODS, "x").message, r#"pods "x" not found"#);
        assert_eq!(
            ApiError::modified(GroupResource { group: "kubevirt.io", resource: "virtualmachines" }, "x")
                .message,
            "Operation cannot be fulfilled on virtualmachines.kubevirt.io \"x\": the object has been modified; \
             please apply your changes to the latest version and try again"
        );
        assert_eq!(
            ApiError::forbidden(PODS, "", "User \"a\" cannot list").message,
            "pods is forbidden: User \"a\" cannot list"
        );
    }

    #[test]
    fn a_million_faults_are_not_a_million_causes() {
        let errors = vec![FieldError::required("spec.x", ""); MOST_CAUSES + 7];
        let error = ApiError::invalid(VM_KIND, "a", &errors);
        assert_eq!(error.details.unwrap().causes.len(), MOST_CAUSES);
        assert!(error.message.ends_with("spec.x: Required value, and 7 more]"), "{}", error.message);
    }

    #[test]
    fn an_invalid_object_names_every_cause() {
        let errors = [
            FieldError::required("spec.running", ""),
            FieldError::invalid("metadata.name", "A", "must be lower case"),
        ];
        let status = ApiError::invalid(VM_KIND, "a", &errors).to_json();
        assert_eq!(
            status["message"],
            "VirtualMachine.kubevirt.io \"a\" is invalid: [spec.running: Required value, metadata.name: Invalid value: \
             \"A\": must be lower case]"
        );
        assert_eq!(status["details"]["causes"][1]["reason"], "FieldValueInvalid");
        assert_eq!(status["details"]["causes"][1]["message"], "Invalid value: \"A\": must be lower case");
        assert_eq!(status["code"], 422);
    }
}
