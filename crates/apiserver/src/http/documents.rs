//! Requests that name no resource: health, version, metrics, discovery and OpenAPI.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH, VARY};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::answer::{self, Response};
use super::front::{Asked, State};
use super::health;
use super::negotiate::{Clause, DiscoveryForm, Endpoint, Form, clauses, discovery_form, form};
use crate::discovery::{self, Aggregated};
use crate::openapi;
use crate::status::ApiError;

/// Documents that cost more to make than to keep.
#[derive(Debug, Default)]
pub(super) struct Cache {
    openapi_v3_root: OnceLock<Bytes>,
}

/// Answers a request that names no resource.
pub(super) async fn answer(
    state: &Arc<State>,
    method: &Method,
    headers: &HeaderMap,
    asked: &Asked<'_>,
) -> Result<Response, ApiError> {
    let kinds = state.parts.api.kinds();
    let path = asked.info.path.as_str();
    let trimmed = path.trim_matches('/');
    let parts: Vec<_> = trimmed.split('/').collect();
    let health = health::Endpoint::of(path);
    let is_known = health.is_some()
        || matches!(
            parts[..],
            [""] | ["version"] | ["metrics"] | ["api", ..] | ["apis", ..] | ["openapi", ..]
        );
    if !is_known {
        return Err(ApiError::no_such_path());
    }
    if method != Method::GET && method != Method::HEAD {
        return Err(ApiError::no_such_method());
    }
    if let Some((endpoint, only)) = health {
        let (code, text) = health::report(endpoint, &checks(state, endpoint), only, asked.query)
            .ok_or_else(ApiError::no_such_path)?;
        return Ok(answer::text(code, text));
    }
    let found = match parts[..] {
        [""] => Some(root(state)),
        ["version"] => Some(version(&state.parts.git_version)),
        ["metrics"] => {
            let text = state.metrics.encode(state.parts.api.store().revision());
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            return Ok(answer::bytes(200, kind, Bytes::from(text)));
        }
        ["api"] | ["apis"] => {
            let core = parts[0] == "api";
            match discovery_form(asked.accept)? {
                DiscoveryForm::Aggregated(form) => return aggregated(state, core, form, headers),
                DiscoveryForm::Plain(_) if core => {
                    Some(discovery::core_versions(kinds, &state.parts.address))
                }
                DiscoveryForm::Plain(_) => Some(discovery::groups(kinds)),
            }
        }
        ["api", version] => discovery::resources(kinds, "", version),
        ["apis", group] => discovery::group(kinds, group),
        ["apis", group, version] => discovery::resources(kinds, group, version),
        ["openapi", "v2"] => return openapi_v2(state, headers, asked.accept).await,
        ["openapi", "v3"] => {
            let state = Arc::clone(state);
            let root = off_the_runtime(move || {
                let make = || Bytes::from(openapi::v3_root(state.parts.api.kinds()).to_string());
                Ok(state.documents.openapi_v3_root.get_or_init(make).clone())
            });
            return Ok(tagged("application/json", root.await?, headers));
        }
        ["openapi", "v3", ..] => {
            return openapi_v3(state, trimmed.trim_start_matches("openapi/v3/").to_owned(), headers, asked)
                .await;
        }
        _ => None,
    };
    let found = found.ok_or_else(ApiError::no_such_path)?;
    let plain = form(asked.accept, Endpoint::Plain)?;
    answer::document(200, &found, Form { pretty: plain.pretty || asked.query.flag("pretty"), ..plain })
}

fn checks(state: &State, endpoint: health::Endpoint) -> Vec<health::Check> {
    // A store that is closed or broken answers no reads at all; that it answers is what is asked here.
    let store = state.parts.api.store().revision() > 0;
    let mut checks =
        vec![health::Check { name: "ping", passed: true }, health::Check { name: "store", passed: store }];
    if endpoint == health::Endpoint::Readyz {
        checks.push(health::Check { name: "shutdown", passed: !*state.parts.stop.borrow() });
    }
    checks
}

/// The paths that there are.
fn root(state: &State) -> Value {
    let mut paths: Vec<String> = [
        "/api",
        "/apis",
        "/healthz",
        "/livez",
        "/metrics",
        "/openapi/v2",
        "/openapi/v3",
        "/readyz",
        "/version",
    ]
    .map(ToOwned::to_owned)
    .into();
    for kind in state.parts.api.kinds().iter() {
        for version in &kind.versions {
            if kind.group.is_empty() {
                paths.push(format!("/api/{}", version.name));
            } else {
                paths.push(format!("/apis/{}", kind.group));
                paths.push(format!("/apis/{}/{}", kind.group, version.name));
            }
        }
    }
    paths.sort();
    paths.dedup();
    json!({"paths": paths})
}

/// `version.Info` of apimachinery.
fn version(git_version: &str) -> Value {
    let mut numbers = git_version.trim_start_matches('v').split('.');
    let major = numbers.next().unwrap_or_default();
    let minor = numbers.next().unwrap_or_default();
    json!({
        "major": major,
        "minor": minor,
        "gitVersion": git_version,
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "",
        "goVersion": "",
        "compiler": "rustc",
        "platform": format!("{}/{}", std::env::consts::OS, platform_architecture(std::env::consts::ARCH)),
    })
}

/// The architecture as Go calls it.
fn platform_architecture(rust: &str) -> &str {
    match rust {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn aggregated(
    state: &State,
    core: bool,
    form: Aggregated,
    headers: &HeaderMap,
) -> Result<Response, ApiError> {
    let document = discovery::aggregated(state.parts.api.kinds(), core, form);
    let kind = match form {
        Aggregated::V2 => "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
        Aggregated::V2Beta1 => "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList",
    };
    Ok(tagged(kind, Bytes::from(document.to_string()), headers))
}

/// Clients ask for `…v2@v1.0+protobuf`, but Go (so kubectl up to 1.32) cannot read a media type with an `@`, and
/// Kubernetes answers with this one.
const PROTOBUF_V2: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

async fn openapi_v2(state: &Arc<State>, headers: &HeaderMap, accept: &str) -> Result<Response, ApiError> {
    let protobuf = wants_protobuf(accept, "com.github.proto-openapi.spec.v2")?;
    let state = Arc::clone(state);
    let bytes = off_the_runtime(move || {
        let document = openapi::v2(state.parts.api.kinds());
        let bytes =
            if protobuf { openapi::v2_protobuf(&document) } else { document.to_string().into_bytes() };
        Ok(Bytes::from(bytes))
    });
    Ok(tagged(if protobuf { PROTOBUF_V2 } else { "application/json" }, bytes.await?, headers))
}

async fn openapi_v3(
    state: &Arc<State>,
    path: String,
    headers: &HeaderMap,
    asked: &Asked<'_>,
) -> Result<Response, ApiError> {
    // There is no protobuf of version 3; clients that prefer it take JSON too.
    form(asked.accept, Endpoint::Plain)?;
    let state = Arc::clone(state);
    let bytes = off_the_runtime(move || {
        let document =
            openapi::v3_group(state.parts.api.kinds(), &path).ok_or_else(ApiError::no_such_path)?;
        Ok(Bytes::from(document.to_string()))
    })
    .await?;
    let mut response = tagged("application/json", bytes, headers);
    if !asked.query.text("hash").is_empty() {
        // The address names the content: it can be kept, and kubectl does.
        let forever = HeaderValue::from_static("public, max-age=31536000, immutable");
        response.headers_mut().insert(CACHE_CONTROL, forever);
    }
    Ok(response)
}

/// Whether protobuf is wanted more than JSON.
fn wants_protobuf(accept: &str, name: &str) -> Result<bool, ApiError> {
    if accept.trim().is_empty() {
        return Ok(false);
    }
    // `…v2@v1.0+protobuf`, and `…v2.v1.0+protobuf` since Kubernetes 1.27.
    let is_protobuf = |clause: &Clause<'_>| clause.sub.starts_with(name) && clause.sub.ends_with("+protobuf");
    clauses(accept)
        .iter()
        .find_map(|clause| {
            if is_protobuf(clause) {
                Some(true)
            } else if clause.allows("application", "json") {
                Some(false)
            } else {
                None
            }
        })
        .ok_or_else(|| super::negotiate::not_acceptable(Endpoint::Plain))
}

async fn off_the_runtime(
    work: impl FnOnce() -> Result<Bytes, ApiError> + Send + 'static,
) -> Result<Bytes, ApiError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| ApiError::internal("the document cannot be made"))?
}

/// A document with the hash of its content as tag; 304 for who has it.
fn tagged(content_type: &'static str, body: Bytes, headers: &HeaderMap) -> Response {
    let hash = Sha256::digest(&body);
    let tag = format!("\"{}\"", hash.iter().map(|byte| format!("{byte:02X}")).collect::<String>());
    let known = headers
        .get_all(IF_NONE_MATCH)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|known| known.trim().trim_start_matches("W/") == tag || known.trim() == "*");
    let mut response = if known {
        let mut response = http::Response::new(axum::body::Body::empty());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        response
    } else {
        answer::bytes(200, content_type, body)
    };
    // A tag is a hash in quotes, which a header can carry.
    if let Ok(value) = HeaderValue::from_str(&tag) {
        response.headers_mut().insert(ETAG, value);
    }
    response.headers_mut().insert(VARY, HeaderValue::from_static("Accept"));
    response
}
