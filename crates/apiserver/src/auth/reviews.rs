//! The reviews of `authentication.k8s.io`: who a caller or a token is.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Authenticator, Identity};
use crate::field;
use crate::object;
use crate::status::ApiError;

/// Answers a `SelfSubjectReview` (`kubectl auth whoami`).
pub fn self_subject_review(identity: &Identity, review: &Value, now: Timestamp) -> Value {
    let version = review.get("apiVersion").and_then(Value::as_str).unwrap_or("authentication.k8s.io/v1");
    json!({
        "kind": "SelfSubjectReview",
        "apiVersion": version,
        "metadata": { "creationTimestamp": object::format_time(now) },
        "status": { "userInfo": identity.to_user_info() },
    })
}

/// Answers a `TokenReview`. The answer repeats the token, as Kubernetes' does.
///
/// # Errors
/// 400 without a token.
pub fn token_review(
    authenticator: &Authenticator,
    review: &Value,
    now: Timestamp,
) -> Result<Value, ApiError> {
    let token = field::text(review, "/spec/token");
    if token.is_empty() {
        return Err(ApiError::bad_request("token is required for TokenReview in authentication"));
    }
    let audiences = field::texts(review, "/spec/audiences");
    let status = match authenticator.token(token, &audiences, now) {
        Some((identity, accepted)) => {
            let mut status = json!({ "authenticated": true, "user": identity.to_user_info() });
            if !accepted.is_empty() {
                status["audiences"] = json!(accepted);
            }
            status
        }
        None => json!({ "user": {}, "error": "invalid bearer token" }),
    };
    Ok(json!({
        "kind": "TokenReview",
        "apiVersion": "authentication.k8s.io/v1",
        "metadata": review.get("metadata").cloned().filter(Value::is_object).unwrap_or_else(|| json!({})),
        "spec": review["spec"],
        "status": status,
    }))
}
