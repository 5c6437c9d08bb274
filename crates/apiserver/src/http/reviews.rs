//! Requests that ask and store nothing: reviews, and tokens of service accounts.

use std::sync::Arc;

use super::answer::{self, Response};
use super::front::{Asked, Notes, State};
use super::negotiate::{Endpoint, form};
use super::request_info::RequestInfo;
use super::resources::ReadBody;
use crate::auth;
use crate::rbac;
use crate::status::ApiError;

/// Which question is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Review {
    SelfSubjectAccess,
    SubjectAccess,
    LocalSubjectAccess,
    SelfSubjectRules,
    SelfSubject,
    Token,
    TokenRequest,
}

/// The question that a request's path asks, whatever its method.
pub(super) fn review(info: &RequestInfo) -> Option<Review> {
    match (info.group.as_str(), info.version.as_str(), info.resource.as_str(), info.subresource.as_str()) {
        ("authorization.k8s.io", "v1", "selfsubjectaccessreviews", "") => Some(Review::SelfSubjectAccess),
        ("authorization.k8s.io", "v1", "subjectaccessreviews", "") => Some(Review::SubjectAccess),
        ("authorization.k8s.io", "v1", "localsubjectaccessreviews", "") => Some(Review::LocalSubjectAccess),
        ("authorization.k8s.io", "v1", "selfsubjectrulesreviews", "") => Some(Review::SelfSubjectRules),
        ("authentication.k8s.io", "v1", "selfsubjectreviews", "") => Some(Review::SelfSubject),
        ("authentication.k8s.io", "v1", "tokenreviews", "") => Some(Review::Token),
        ("", "v1", "serviceaccounts", "token") => Some(Review::TokenRequest),
        _ => None,
    }
}

/// Whether there is such a path, and such a method on it: all of them can be created alone.
pub(super) fn check_route(info: &RequestInfo) -> Result<(), ApiError> {
    let is_token = info.subresource == "token";
    let in_namespace = is_token || info.resource == "localsubjectaccessreviews";
    if info.has_path_namespace != in_namespace || info.has_path_name != is_token || !info.rest.is_empty() {
        return Err(ApiError::no_such_path());
    }
    if info.verb == "create" { Ok(()) } else { Err(ApiError::no_such_method()) }
}

/// Answers it.
pub(super) fn answer(
    state: &Arc<State>,
    review: Review,
    asked: &Asked<'_>,
    body: ReadBody,
    notes: &mut Notes,
) -> Result<Response, ApiError> {
    let form = form(asked.accept, Endpoint::Plain)?;
    let parts = &state.parts;
    let info = asked.info;
    let api_version = if info.group.is_empty() {
        "authentication.k8s.io/v1".to_owned()
    } else {
        format!("{}/{}", info.group, info.version)
    };
    let kind = match review {
        Review::SelfSubjectAccess => "SelfSubjectAccessReview",
        Review::SubjectAccess => "SubjectAccessReview",
        Review::LocalSubjectAccess => "LocalSubjectAccessReview",
        Review::SelfSubjectRules => "SelfSubjectRulesReview",
        Review::SelfSubject => "SelfSubjectReview",
        Review::Token => "TokenReview",
        Review::TokenRequest => "TokenRequest",
    };
    let mut request = body.decode(&api_version, kind, notes)?.value;
    let Some(fields) = request.as_object_mut() else {
        return Err(ApiError::bad_request("the body must be an object"));
    };
    // Clients may leave out what the path says anyway.
    for (field, text) in [("apiVersion", api_version.as_str()), ("kind", kind)] {
        let given = fields.get(field).and_then(serde_json::Value::as_str).unwrap_or_default();
        if given.is_empty() {
            fields.insert(field.to_owned(), text.into());
        } else if given != text {
            return Err(ApiError::bad_request(format!(
                "the {field} in the data ({given}) does not match the expected {field} ({text})"
            )));
        }
    }
    fields.entry("metadata").or_insert_with(|| serde_json::json!({}));
    let authorizer = &parts.authorizer;
    let answer = match review {
        Review::SelfSubjectAccess => rbac::self_subject_access_review(authorizer, asked.identity, &request)?,
        Review::SubjectAccess => rbac::subject_access_review(authorizer, &request)?,
        Review::LocalSubjectAccess => {
            rbac::local_subject_access_review(authorizer, &info.namespace, &request)?
        }
        Review::SelfSubjectRules => rbac::self_subject_rules_review(authorizer, asked.identity, &request)?,
        Review::SelfSubject => auth::self_subject_review(asked.identity, &request, asked.now),
        Review::Token => auth::token_review(&parts.authenticator, &request, asked.now)?,
        Review::TokenRequest => {
            let id = uuid::Uuid::new_v4().to_string();
            let store = parts.api.store();
            auth::issue_token(
                &parts.authorities,
                store,
                &info.namespace,
                &info.name,
                &request,
                asked.now,
                &id,
            )?
        }
    };
    answer::document(201, &answer, form)
}
