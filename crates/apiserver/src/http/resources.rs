//! Requests for resources: from path, query and body to a verb, and back.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http::Request;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};

use super::answer::{self, Response, Show};
use super::front::{Asked, Notes, State};
use super::negotiate::{BodyEncoding, Endpoint, Form, body_encoding, form, patch_type};
use super::query::{Query, WriteOptions};
use super::request_info::RequestInfo;
use super::reviews;
use super::watch_body::WatchBody;
use super::watch_socket;
use crate::auth::{Attributes, web_socket};
use crate::decode;
use crate::kind::{Family, Kind, Scope};
use crate::protobuf;
use crate::status::{ApiError, Details};
use crate::table::IncludeObject;
use crate::verbs::{self, Context, DeleteOptions, ListOptions, Patch, PatchFormat, Target};

/// The largest body that is read, Kubernetes' own limit: an object may have 1.5 MiB and JSON may double it.
pub(super) const MOST_BODY_BYTES: usize = 3 * 1024 * 1024;
/// Watches end after this long, and up to twice as long, where the client does not say.
const SHORTEST_WATCH: Duration = Duration::from_secs(1800);
/// Subresources whose verbs are those of the machinery.
const SUBRESOURCES_OF_VERBS: [&str; 5] = ["status", "scale", "finalize", "binding", "eviction"];

/// Answers a request for a resource.
pub(super) async fn answer(
    state: &Arc<State>,
    request: Request<Body>,
    asked: &Asked<'_>,
    notes: &mut Notes,
) -> Result<Response, ApiError> {
    let info = asked.info;
    if let Some(review) = reviews::review(info) {
        // Nothing of them is stored, so they are no kinds of the store's.
        reviews::check_route(info)?;
        let body = read_body(request, true, notes).await?;
        return reviews::answer(state, review, asked, body, notes);
    }
    let kind = state
        .parts
        .api
        .kinds()
        .served(&info.group, &info.version, &info.resource)
        .ok_or_else(ApiError::no_such_path)?;
    check_route(kind, info, request.method() == http::Method::HEAD)?;
    let mut response = verb(state, kind, request, asked, notes).await?;
    let deprecated = kind.versions.iter().find(|version| version.name == info.version);
    if let Some(warning) = deprecated.and_then(|version| version.deprecation_warning.clone()) {
        answer::warn(&mut response, &[warning]);
    }
    Ok(response)
}

/// Whether there is such a path, and such a method on it.
fn check_route(kind: &Kind, info: &RequestInfo, is_head: bool) -> Result<(), ApiError> {
    let namespaced = kind.scope == Scope::Namespaced;
    let verb = info.verb.as_str();
    let has_route = info.rest.is_empty()
        && verb != "proxy"
        && if info.has_path_name {
            info.has_path_namespace == namespaced
        } else {
            !info.has_path_namespace || namespaced
        };
    if !has_route {
        return Err(ApiError::no_such_path());
    }
    let known_subresource = match info.subresource.as_str() {
        "" => true,
        "status" if kind.has_status => true,
        "scale" if kind.scale.is_some() => true,
        other => {
            kind.subresources.iter().any(|known| known.name == other)
                || (other == "finalize" && kind.names.plural == "namespaces" && kind.group.is_empty())
        }
    };
    if !known_subresource {
        return Err(ApiError::no_such_path());
    }
    let in_place = namespaced && !info.has_path_namespace;
    let allowed = !is_head
        && match (info.subresource.as_str(), verb) {
            (_, "") => false,
            ("", "create") => !info.has_path_name && !in_place,
            ("", "deletecollection") => !in_place,
            ("", "list") => !info.has_path_name,
            ("", "watch") => true,
            ("", "get" | "update" | "patch" | "delete") => info.has_path_name,
            ("status" | "scale", verb) => matches!(verb, "get" | "update" | "patch"),
            (name, verb) => kind
                .subresources
                .iter()
                .find(|known| known.name == name)
                .map_or(verb == "update", |known| known.verbs.contains(&verb)),
        };
    // What a kind does not do has no method either, as with resources that can only be created.
    let served = !info.subresource.is_empty() || kind.served_verbs().contains(&verb);
    if allowed && served { Ok(()) } else { Err(ApiError::no_such_method()) }
}

async fn verb(
    state: &Arc<State>,
    kind: &Arc<Kind>,
    request: Request<Body>,
    asked: &Asked<'_>,
    notes: &mut Notes,
) -> Result<Response, ApiError> {
    let info = asked.info;
    let query = asked.query;
    let api = &state.parts.api;
    let target = Target {
        kind,
        version: &info.version,
        namespace: if kind.scope == Scope::Namespaced { &info.namespace } else { "" },
        name: if info.has_path_name { &info.name } else { "" },
        subresource: &info.subresource,
    };
    if !info.subresource.is_empty() && !SUBRESOURCES_OF_VERBS.contains(&info.subresource.as_str()) {
        // Discovery shows it, and nobody has come to answer it.
        return Err(ApiError::no_such_path());
    }
    if info.verb == "watch" {
        return watch(state, target, request, asked).await;
    }
    let show = show(asked, form(asked.accept, Endpoint::Objects)?)?;
    let mut context = context(asked);
    let answer = match info.verb.as_str() {
        "get" => api.get(&context, &target, query.text("resourceVersion")).await?,
        "list" => {
            let list = api.list(&context, &target, &list_options(query)?).await?;
            return answer::list(list, kind, &info.version, show).await;
        }
        "create" => {
            fill(&mut context, WriteOptions::parse(query, "CreateOptions", false)?);
            let body = read_object(request, &target, &mut context, notes).await?;
            api.create(&context, &target, body).await?
        }
        "update" => {
            fill(&mut context, WriteOptions::parse(query, "UpdateOptions", false)?);
            let body = read_object(request, &target, &mut context, notes).await?;
            if verbs::allows_create_on_update(&target) {
                context.create_refused = create_refused(state, asked);
            }
            api.update(&context, &target, body).await?
        }
        "patch" => {
            let format = patch_type(content_type(&request), kind.family == Family::BuiltIn)?;
            fill(&mut context, WriteOptions::parse(query, "PatchOptions", format == PatchFormat::Apply)?);
            let body = read_body(request, false, notes).await?.bytes;
            if format == PatchFormat::Apply {
                context.create_refused = create_refused(state, asked);
            }
            let force = query.optional_flag("force");
            api.patch(&context, &target, Patch { format, body, force }).await?
        }
        "delete" => {
            let options = delete_options(request, query, notes).await?;
            context.dry_run = options.dry_run;
            api.delete(&context, &target, &options).await?
        }
        "deletecollection" => {
            let options = delete_options(request, query, notes).await?;
            context.dry_run = options.dry_run;
            let list = api.delete_collection(&context, &target, &list_options(query)?, &options).await?;
            return answer::list(list, kind, &info.version, show).await;
        }
        _ => return Err(ApiError::no_such_method()),
    };
    answer::object(&answer, kind, show)
}

fn context(asked: &Asked<'_>) -> Context {
    Context {
        identity: asked.identity.clone(),
        user_agent: asked.user_agent.to_owned(),
        dry_run: false,
        field_manager: String::new(),
        field_validation: verbs::FieldValidation::default(),
        now: asked.now,
        create_refused: None,
    }
}

/// Why the caller may not create the object that it patches, if it may not.
///
/// Kubernetes asks this with the name of the object, unlike for a POST.
fn create_refused(state: &State, asked: &Asked<'_>) -> Option<Box<ApiError>> {
    let attributes = Attributes { verb: "create", ..asked.info.attributes() };
    state.parts.authorizer.require(asked.identity, &attributes).err().map(Box::new)
}

fn fill(context: &mut Context, options: WriteOptions) {
    context.dry_run = options.dry_run;
    context.field_manager = options.field_manager;
    context.field_validation = options.field_validation;
}

fn show(asked: &Asked<'_>, form: Form) -> Result<Show, ApiError> {
    let include = match asked.query.text("includeObject") {
        "" => IncludeObject::default(),
        text => IncludeObject::parse(text)
            .ok_or_else(|| ApiError::bad_request(format!("unrecognized includeObject value: {text:?}")))?,
    };
    let pretty = form.pretty || asked.query.flag("pretty");
    Ok(Show { form: Form { pretty, ..form }, include, now: asked.now })
}

/// The options of lists and watches, without the time that a watch lasts.
fn list_options(query: &Query) -> Result<ListOptions, ApiError> {
    let limit = query.number("limit")?.unwrap_or_default();
    let seconds = query.number("timeoutSeconds")?;
    Ok(ListOptions {
        label_selector: query.text("labelSelector").to_owned(),
        field_selector: query.text("fieldSelector").to_owned(),
        resource_version: query.text("resourceVersion").to_owned(),
        resource_version_match: query.text("resourceVersionMatch").to_owned(),
        // What is less than nothing is no limit, as in Kubernetes.
        limit: u64::try_from(limit).unwrap_or_default(),
        continue_token: query.text("continue").to_owned(),
        allow_watch_bookmarks: query.flag("allowWatchBookmarks"),
        send_initial_events: query.optional_flag("sendInitialEvents"),
        timeout: seconds
            .and_then(|seconds| u64::try_from(seconds).ok())
            .filter(|seconds| *seconds > 0)
            .map(Duration::from_secs),
    })
}

async fn watch(
    state: &Arc<State>,
    mut target: Target<'_>,
    request: Request<Body>,
    asked: &Asked<'_>,
) -> Result<Response, ApiError> {
    let form = form(asked.accept, Endpoint::Watch)?;
    let show = show(asked, form)?;
    let mut options = list_options(asked.query)?;
    if !target.name.is_empty() {
        // `/api/v1/watch/…/NAME`, the old way to watch one object.
        let name = format!("metadata.name={}", target.name);
        options.field_selector = match options.field_selector.as_str() {
            "" => name,
            other => format!("{other},{name}"),
        };
        target.name = "";
    }
    if options.timeout.is_none() {
        let chance = uuid::Uuid::new_v4().as_u64_pair().0;
        options.timeout = Some(SHORTEST_WATCH + Duration::from_millis(chance % 1_800_000));
    }
    let watcher = state.parts.api.watch(&context(asked), &target, &options).await?;
    let body = WatchBody {
        watcher,
        kind: Arc::clone(target.kind),
        api_version: target.api_version(),
        show,
        now: jiff::Timestamp::now,
        stop: state.parts.stop.clone(),
        _counted: state.metrics.watcher(),
    };
    if web_socket::is_asked_for(request.headers()) {
        return watch_socket::answer(request.into_parts().0, body).await;
    }
    let mut response = http::Response::new(body.into_body());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

/// A body and what it is said to be.
pub(super) struct ReadBody {
    bytes: Bytes,
    encoding: Result<BodyEncoding, ApiError>,
}

impl ReadBody {
    /// The body as an object. `api_version` and `kind` are what is expected.
    pub(super) fn decode(
        self,
        api_version: &str,
        kind: &str,
        notes: &mut Notes,
    ) -> Result<verbs::Body, ApiError> {
        let decoded = match self.encoding? {
            BodyEncoding::Json => decode::json(&self.bytes)?,
            BodyEncoding::Yaml => decode::yaml(&self.bytes)?,
            BodyEncoding::Protobuf => {
                let value = protobuf::decode(&self.bytes, api_version, kind)
                    .map_err(|error| error.to_api_error(kind, &self.bytes))?;
                // The audit log shows objects, which are JSON there.
                notes.request_body = serde_json::to_vec(&value).ok().map(Bytes::from);
                return Ok(verbs::Body { value, duplicates: Vec::new() });
            }
        };
        Ok(verbs::Body { value: decoded.value, duplicates: decoded.duplicates })
    }
}

fn content_type(request: &Request<Body>) -> &str {
    request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// Reads a body, which may be protobuf where `with_protobuf`.
pub(super) async fn read_body(
    request: Request<Body>,
    with_protobuf: bool,
    notes: &mut Notes,
) -> Result<ReadBody, ApiError> {
    let announced = request
        .headers()
        .get(CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.parse::<u64>().ok());
    if announced.is_some_and(|length| length > MOST_BODY_BYTES as u64) {
        return Err(too_large(MOST_BODY_BYTES));
    }
    let encoding = body_encoding(content_type(&request), with_protobuf);
    let bytes = match Limited::new(request.into_body(), MOST_BODY_BYTES).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) if error.is::<LengthLimitError>() => return Err(too_large(MOST_BODY_BYTES)),
        Err(error) => return Err(ApiError::bad_request(format!("unable to read the body: {error}"))),
    };
    notes.request_body = Some(bytes.clone());
    Ok(ReadBody { bytes, encoding })
}

async fn read_object(
    request: Request<Body>,
    target: &Target<'_>,
    context: &mut Context,
    notes: &mut Notes,
) -> Result<verbs::Body, ApiError> {
    let (api_version, kind) = expected(target);
    // Every kind has the same Scale.
    let with_protobuf = target.kind.family == Family::BuiltIn || target.subresource == "scale";
    // Said before the body is read.
    if body_encoding(content_type(&request), with_protobuf)? == BodyEncoding::Protobuf {
        // Unknown fields have no names in protobuf, so nobody is told of them.
        context.field_validation = verbs::FieldValidation::Ignore;
    }
    read_body(request, with_protobuf, notes).await?.decode(&api_version, &kind, notes)
}

/// `apiVersion` and `kind` of the body that is written to `target`.
fn expected(target: &Target<'_>) -> (String, String) {
    let kind = target.kind;
    if target.subresource == "scale" {
        return ("autoscaling/v1".to_owned(), "Scale".to_owned());
    }
    match kind.subresources.iter().find(|known| known.name == target.subresource) {
        Some(known) if known.group.is_empty() => (target.api_version(), known.kind.to_owned()),
        Some(known) => (format!("{}/{}", known.group, known.version), known.kind.to_owned()),
        None => (target.api_version(), kind.names.kind.clone()),
    }
}

async fn delete_options(
    request: Request<Body>,
    query: &Query,
    notes: &mut Notes,
) -> Result<DeleteOptions, ApiError> {
    // The options are a built-in kind, whatever is deleted.
    let body = read_body(request, true, notes).await?;
    let body =
        if body.bytes.is_empty() { None } else { Some(body.decode("v1", "DeleteOptions", notes)?.value) };
    let mut options = DeleteOptions::read(body.as_ref(), query.pairs())?;
    if body.is_some() {
        // Kubernetes looks at the query only where there is no body. A dry run that is asked for there is made a dry run
        // nevertheless: nobody wants the opposite.
        options.dry_run |= DeleteOptions::read(None, query.pairs())?.dry_run;
    }
    Ok(options)
}

pub(super) fn too_large(most: usize) -> ApiError {
    let mut error =
        ApiError::new(413, "RequestEntityTooLarge", format!("Request entity too large: limit is {most}"));
    error.details = Some(Box::new(Details::default()));
    error
}
