//! The reviews of `authorization.k8s.io`: asking what is allowed.

use serde_json::Value;

use super::Authorizer;
use crate::auth::Identity;
use crate::status::ApiError;

/// Answers a `SelfSubjectAccessReview`.
///
/// # Errors
/// 422 when the review is invalid.
pub fn self_subject_access_review(
    _authorizer: &Authorizer,
    _identity: &Identity,
    review: &Value,
) -> Result<Value, ApiError> {
    Ok(review.clone())
}

/// Answers a `SubjectAccessReview`.
///
/// # Errors
/// 422 when the review is invalid.
pub fn subject_access_review(_authorizer: &Authorizer, review: &Value) -> Result<Value, ApiError> {
    Ok(review.clone())
}

/// Answers a `LocalSubjectAccessReview` that was sent to `namespace`.
///
/// # Errors
/// 422 when the review is invalid, 400 when it is about another namespace.
pub fn local_subject_access_review(
    _authorizer: &Authorizer,
    _namespace: &str,
    review: &Value,
) -> Result<Value, ApiError> {
    Ok(review.clone())
}

/// Answers a `SelfSubjectRulesReview`.
///
/// # Errors
/// 400 without a namespace.
pub fn self_subject_rules_review(
    _authorizer: &Authorizer,
    _identity: &Identity,
    review: &Value,
) -> Result<Value, ApiError> {
    Ok(review.clone())
}
