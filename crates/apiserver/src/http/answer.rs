//! Answers as bytes: objects, lists and errors in the form that was negotiated.

use axum::body::Body;
use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, RETRY_AFTER, VARY};
use http::{HeaderValue, StatusCode};
use serde_json::{Map, Value};

use super::gzip::GzipBody;
use super::list_body::ListBody;
use super::negotiate::{Encoding, Form, MetaVersion, Transform, accepts_gzip, warning_header};
use crate::kind::Kind;
use crate::status::ApiError;
use crate::table::{self, IncludeObject};
use crate::verbs::{Answer, List};

/// An answer.
pub type Response = http::Response<Body>;

/// `Warning`
const WARNING: HeaderName = HeaderName::from_static("warning");
/// Warnings beyond this many bytes are left out, so that clients' limits on headers hold.
const MOST_WARNING_BYTES: usize = 4096;
/// Answers of at least this many bytes are compressed for those who accept it (Kubernetes' threshold).
const GZIP_FROM: u64 = 128 * 1024;
/// Lists of more items than this are turned into tables and the like off the runtime's threads.
const MANY_ITEMS: usize = 64;

/// What was answered, for the audit log; kept in the response's extensions.
#[derive(Debug, Clone, Default)]
pub struct Answered {
    /// The error.
    pub error: Option<ApiError>,
    /// The body, where there is one in memory.
    pub body: Option<Bytes>,
}

/// How an object is to be shown, beside the form.
#[derive(Debug, Clone, Copy)]
pub struct Show {
    /// The form.
    pub form: Form,
    /// What table rows carry.
    pub include: IncludeObject,
    /// The time now, for ages.
    pub now: jiff::Timestamp,
}

/// A value in an encoding.
///
/// # Errors
/// 500 when it cannot be written, which would be a fault of ours.
pub fn encode(value: &Value, form: Form) -> Result<Bytes, ApiError> {
    match form.encoding {
        Encoding::Json if form.pretty => {
            serde_json::to_vec_pretty(value).map(Bytes::from).map_err(ApiError::internal)
        }
        Encoding::Json => serde_json::to_vec(value).map(Bytes::from).map_err(ApiError::internal),
        Encoding::Yaml => serde_saphyr::to_string(value).map(Bytes::from).map_err(ApiError::internal),
    }
}

/// An answer of these bytes.
pub fn bytes(code: u16, content_type: &'static str, body: Bytes) -> Response {
    let mut response = http::Response::new(Body::from(body.clone()));
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response.extensions_mut().insert(Answered { error: None, body: Some(body) });
    response
}

/// An answer of this text.
pub fn text(code: u16, text: String) -> Response {
    bytes(code, "text/plain; charset=utf-8", Bytes::from(text))
}

/// An answer of a document that is written as it is.
///
/// # Errors
/// As [`encode`].
pub fn document(code: u16, value: &Value, form: Form) -> Result<Response, ApiError> {
    Ok(bytes(code, form.encoding.content_type(), encode(value, form)?))
}

/// A failure: the `Status`, in the form that was negotiated or else JSON.
pub fn error(error: &ApiError, form: Form) -> Response {
    let status = error.to_json();
    let plain = Form { transform: Transform::None, ..form };
    let mut response = document(error.code, &status, plain)
        .unwrap_or_else(|_| bytes(error.code, "application/json", Bytes::from(status.to_string())));
    let retry_after = error.details.as_ref().and_then(|details| details.retry_after_seconds);
    if let Some(seconds) = retry_after {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    if let Some(answered) = response.extensions_mut().get_mut::<Answered>() {
        answered.error = Some(error.clone());
    }
    response
}

/// One object, or the `Status` of a deletion.
///
/// # Errors
/// 406 for a transform that an object does not have; 500 for stored bytes that cannot be read.
pub fn object(answer: &Answer, kind: &Kind, show: Show) -> Result<Response, ApiError> {
    let form = show.form;
    let as_it_is = form.transform == Transform::None && form.encoding == Encoding::Json && !form.pretty;
    let body = if as_it_is {
        answer.bytes()?
    } else {
        let value = answer.value()?;
        let is_status = value.get("kind").is_some_and(|kind| kind == "Status")
            && value.get("apiVersion").is_some_and(|version| version == "v1");
        let shown = if is_status { value } else { transform_object(value, kind, show, true)? };
        encode(&shown, form)?
    };
    let mut response = bytes(answer.code, form.encoding.content_type(), body);
    warn(&mut response, &answer.warnings);
    Ok(response)
}

/// Turns one object into what was asked for. `headings`: whether a table has its column definitions.
///
/// # Errors
/// 406 for a list's form.
pub fn transform_object(value: Value, kind: &Kind, show: Show, headings: bool) -> Result<Value, ApiError> {
    match show.form.transform {
        Transform::None => Ok(value),
        Transform::Table(version) => {
            let mut metadata = Map::new();
            metadata.insert(
                "resourceVersion".to_owned(),
                crate::object::resource_version(&value).to_owned().into(),
            );
            let table = table::table(kind, &[value], &metadata, show.now, show.include, headings);
            Ok(in_version(table, version))
        }
        Transform::Partial(version) => Ok(in_version(table::partial(&value), version)),
        Transform::PartialList(_) => Err(ApiError::new(
            406,
            "NotAcceptable",
            "you requested PartialObjectMetadataList, but the requested object is not a list",
        )),
    }
}

fn in_version(value: Value, version: MetaVersion) -> Value {
    if version == MetaVersion::V1 { value } else { table::in_version(value, version.api_version()) }
}

/// A list. Stored bytes are put one after the other wherever they are shown as they are.
///
/// # Errors
/// 406 for a transform that a list does not have; 500 for stored bytes that cannot be read.
pub async fn list(
    list: List,
    kind: &std::sync::Arc<Kind>,
    version: &str,
    show: Show,
) -> Result<Response, ApiError> {
    let form = show.form;
    let api_version = kind.api_version(version);
    if form.transform == Transform::None && form.encoding == Encoding::Json && !form.pretty {
        let body = ListBody::new(&kind.list_kind(), &api_version, list);
        let length = body.length();
        let mut response = http::Response::new(Body::new(body));
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(length) = length {
            response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(length));
        }
        return Ok(response);
    }
    let many = list.items.len() > MANY_ITEMS;
    let kind = std::sync::Arc::clone(kind);
    let work = move || -> Result<Bytes, ApiError> {
        encode(&transform_list(&list, &kind, &api_version, show)?, form)
    };
    let body = if many {
        tokio::task::spawn_blocking(work)
            .await
            .map_err(|_| ApiError::internal("the list cannot be written"))??
    } else {
        work()?
    };
    Ok(bytes(200, form.encoding.content_type(), body))
}

fn transform_list(list: &List, kind: &Kind, api_version: &str, show: Show) -> Result<Value, ApiError> {
    let items = list.items.iter().map(|stored| list.view.value(stored)).collect::<Result<Vec<_>, _>>()?;
    let metadata = list.metadata();
    let no_metadata = Map::new();
    let fields = metadata.as_object().unwrap_or(&no_metadata);
    match show.form.transform {
        Transform::None => {
            let mut whole = Map::new();
            whole.insert("apiVersion".to_owned(), api_version.into());
            whole.insert("kind".to_owned(), kind.list_kind().into());
            whole.insert("metadata".to_owned(), metadata);
            whole.insert("items".to_owned(), items.into());
            Ok(Value::Object(whole))
        }
        Transform::Table(version) => {
            Ok(in_version(table::table(kind, &items, fields, show.now, show.include, true), version))
        }
        Transform::PartialList(version) => Ok(in_version(table::partial_list(&items, fields), version)),
        Transform::Partial(_) => Err(ApiError::new(
            406,
            "NotAcceptable",
            "you requested PartialObjectMetadata, but the requested object is a list",
        )),
    }
}

/// Adds `Warning` headers.
pub fn warn(response: &mut Response, warnings: &[String]) {
    let mut length = 0;
    for warning in warnings {
        let text = warning_header(warning);
        length += text.len();
        if length > MOST_WARNING_BYTES {
            return;
        }
        // `warning_header` leaves nothing that a header cannot carry.
        if let Ok(value) = HeaderValue::from_bytes(text.as_bytes()) {
            response.headers_mut().append(WARNING, value);
        }
    }
}

/// Compresses an answer that is large enough, for a client that accepts it.
pub fn compress(response: Response, accept_encoding: &str) -> Response {
    use http_body::Body as _;

    let length = response.body().size_hint();
    let is_large = length.lower() >= GZIP_FROM;
    if !is_large || response.headers().contains_key(CONTENT_ENCODING) || !accepts_gzip(accept_encoding) {
        return response;
    }
    let (mut head, body) = response.into_parts();
    head.headers.remove(CONTENT_LENGTH);
    head.headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    head.headers.append(VARY, HeaderValue::from_static("Accept-Encoding"));
    http::Response::from_parts(head, Body::new(GzipBody::new(body)))
}

#[cfg(test)]
mod tests;
