//! What happens to every request, in this order.
//!
//! ```text
//! path ─► who asks ─► in whose name ─► may they ─► is there room ─► handler ─► headers, audit, metrics
//!  404      401          403              403          429           504, 500
//! ```

use std::fmt;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use http::header::{ACCEPT, ACCEPT_ENCODING, CACHE_CONTROL, HeaderName, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, Request};
use prometheus_client::registry::Registry;
use tokio::sync::{Semaphore, watch};

use super::answer::{self, Answered, Response};
use super::audit;
use super::extension::{Call, Extends, Extension};
use super::kept::until_sent;
use super::metrics::{Metrics, RequestLabels};
use super::negotiate::{Endpoint, form};
use super::query::Query;
use super::request_info::{PathError, RequestInfo};
use super::{documents, resources};
use crate::auth::{self, Attributes, Authenticator, Authorities, Identity};
use crate::kind::{Kinds, Scope};
use crate::rbac::{self, Authorizer, Decision};
use crate::status::{ApiError, Details};
use crate::verbs::Api;

const AUDIT_ID: HeaderName = HeaderName::from_static("audit-id");
/// The longest `Audit-Id` that a client may choose (Kubernetes' limit).
const LONGEST_AUDIT_ID: usize = 64;

/// How much is taken on at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Requests that only read, answered at the same time; watches do not count.
    pub reads_in_flight: usize,
    /// Requests that change something, answered at the same time.
    pub writes_in_flight: usize,
    /// How long a request that is no watch may take until its answer begins.
    pub request_timeout: Duration,
    /// Connections at the same time; more wait to be accepted.
    pub connections: usize,
    /// How long a connection may have no request.
    pub idle: Duration,
    /// How long requests may go on when the server stops.
    pub shutdown_grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            reads_in_flight: 800,
            writes_in_flight: 400,
            request_timeout: Duration::from_secs(60),
            connections: 8192,
            // kube-apiserver's `IdleTimeout`.
            idle: Duration::from_secs(90),
            shutdown_grace: Duration::from_secs(10),
        }
    }
}

/// What the front is made of.
pub struct Parts {
    /// The verbs.
    pub api: Api,
    /// Who asks.
    pub authenticator: Authenticator,
    /// Who may.
    pub authorizer: Arc<Authorizer>,
    /// The keys that tokens are signed with.
    pub authorities: Arc<Authorities>,
    /// What `/version` says.
    pub git_version: String,
    /// Requests that somebody else answers.
    pub extensions: Vec<Extension>,
    /// How much is taken on.
    pub limits: Limits,
    /// The audit log, if there is one.
    pub audit: Option<audit::Log>,
    /// What `/metrics` tells beside the server's own measurements.
    pub metrics: Registry,
    /// `host:port`, as discovery names it.
    pub address: String,
    /// Becomes true when the server stops.
    pub stop: watch::Receiver<bool>,
}

pub(super) struct State {
    pub(super) parts: Parts,
    pub(super) metrics: Metrics,
    pub(super) documents: documents::Cache,
    reads: Semaphore,
    writes: Semaphore,
}

/// Answers requests. Clones share everything.
#[derive(Clone)]
pub struct Front {
    state: Arc<State>,
}

impl fmt::Debug for Front {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Front").field("address", &self.state.parts.address).finish_non_exhaustive()
    }
}

/// Where a request comes from.
#[derive(Debug, Clone)]
pub enum Caller {
    /// A connection. What it is allowed follows from what it shows.
    Network {
        /// The other end.
        address: Option<SocketAddr>,
        /// The certificate (DER) whose key it proved to hold.
        certificate: Option<Arc<[u8]>>,
    },
    /// A part of this program, which is known.
    InProcess(Arc<Identity>),
}

/// What is learned of a request on the way, for the audit log.
#[derive(Default)]
pub(super) struct Notes {
    user: Option<Identity>,
    impersonated: Option<Identity>,
    decision: Option<(&'static str, String)>,
    pub(super) request_body: Option<Bytes>,
}

/// A request on its way to a handler.
pub(super) struct Asked<'a> {
    pub(super) info: &'a RequestInfo,
    pub(super) query: &'a Query,
    pub(super) identity: &'a Identity,
    pub(super) accept: &'a str,
    pub(super) user_agent: &'a str,
    pub(super) now: jiff::Timestamp,
}

impl Front {
    /// A front of these parts.
    pub fn new(mut parts: Parts) -> Self {
        let metrics = Metrics::new(std::mem::take(&mut parts.metrics));
        let reads = Semaphore::new(parts.limits.reads_in_flight);
        let writes = Semaphore::new(parts.limits.writes_in_flight);
        let documents = documents::Cache::default();
        Self { state: Arc::new(State { parts, metrics, documents, reads, writes }) }
    }

    /// How much is taken on.
    pub fn limits(&self) -> &Limits {
        &self.state.parts.limits
    }

    /// Becomes true when the server stops.
    pub(super) fn stop(&self) -> watch::Receiver<bool> {
        self.state.parts.stop.clone()
    }

    /// Answers one request. Never fails and never panics: whatever goes wrong is a `Status`.
    pub fn answer(&self, request: Request<Body>, caller: Caller) -> BoxFuture<'static, Response> {
        let front = self.clone();
        Box::pin(async move { front.run(request, caller).await })
    }

    async fn run(self, request: Request<Body>, caller: Caller) -> Response {
        let state = &self.state;
        let began = Instant::now();
        let received = state.parts.api.now();
        let audit_id = audit_id(request.headers());
        let method = request.method().clone();
        let uri = request.uri().path_and_query().map_or_else(String::new, ToString::to_string);
        let accept = joined(request.headers(), &ACCEPT);
        let user_agent = joined(request.headers(), &USER_AGENT);
        let accept_encoding = joined(request.headers(), &ACCEPT_ENCODING);
        let query = Query::parse(request.uri().query().unwrap_or_default());
        let mut notes = Notes::default();

        let (info, result) = match RequestInfo::new(&method, request.uri().path(), &query) {
            Ok(info) => {
                let pass = Pass { state, caller: &caller, info: &info, query: &query };
                let seen = Seen { accept: &accept, user_agent: &user_agent, received };
                let result = pass.through(request, seen, &mut notes).await;
                (info, result)
            }
            Err(error) => {
                let info =
                    RequestInfo { verb: method.as_str().to_ascii_lowercase(), ..RequestInfo::default() };
                (info, Err(path_error(error)))
            }
        };
        let panicked = matches!(&result, Err(error) if error.code == 500 && error.message == PANIC);
        let mut response = match result {
            Ok(response) => answer::compress(response, &accept_encoding),
            Err(error) => answer::error(&error, form(&accept, Endpoint::Plain).unwrap_or_default()),
        };
        // An id that a client sent was taken out of a header, and ours is a UUID.
        if let Ok(value) = HeaderValue::from_str(&audit_id) {
            response.headers_mut().insert(AUDIT_ID, value);
        }
        response.headers_mut().entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-cache, private"));

        let answered = response.extensions_mut().remove::<Answered>().unwrap_or_default();
        let code = response.status().as_u16();
        if let Some(log) = &state.parts.audit
            && !is_health(&info)
        {
            let record = audit::Record {
                id: &audit_id,
                level: log.level().for_request(&info),
                stage: match () {
                    () if panicked => audit::Stage::Panic,
                    () if info.verb == "watch" && answered.error.is_none() => audit::Stage::ResponseStarted,
                    () => audit::Stage::ResponseComplete,
                },
                uri: &uri,
                info: &info,
                user: notes.user.as_ref(),
                impersonated: notes.impersonated.as_ref(),
                source: match &caller {
                    Caller::Network { address, .. } => address.map(|address| address.ip()),
                    Caller::InProcess(_) => None,
                },
                user_agent: &user_agent,
                code,
                error: answered.error.as_ref(),
                decision: notes.decision.as_ref().map(|(decision, reason)| (*decision, reason.as_str())),
                request_body: notes.request_body.as_deref(),
                response_body: answered.body.as_deref(),
                received,
                now: state.parts.api.now(),
            };
            if !log.log(&record) {
                state.metrics.audit_dropped();
            }
            if record.stage == audit::Stage::ResponseStarted {
                let ending = audit::Ending::of(&record);
                let state = Arc::clone(state);
                response = response.map(|body| until_sent(body, Followed { state, ending }));
            }
        }
        state.metrics.answered(self.labels(&method, &info, code), began.elapsed());
        tracing::debug!(%method, %uri, code, elapsed = ?began.elapsed(), "answered");
        response
    }

    /// Labels that no client can make up.
    fn labels(&self, method: &Method, info: &RequestInfo, code: u16) -> RequestLabels {
        let kinds = self.state.parts.api.kinds();
        let known = info.is_resource
            && kinds.served(&info.group, &info.version, &info.resource).is_some_and(|kind| {
                matches!(&*info.subresource, "" | "status" | "scale")
                    || kind.subresources.iter().any(|known| known.name == info.subresource)
            });
        let part = |text: &str| if known { text.to_owned() } else { String::new() };
        let verb = match (known, method.as_str()) {
            (true, _) if !info.verb.is_empty() => match info.verb.as_str() {
                "list" => "LIST",
                "watch" => "WATCH",
                _ => method_label(method),
            },
            _ => method_label(method),
        };
        RequestLabels {
            verb: verb.to_owned(),
            group: part(&info.group),
            version: part(&info.version),
            resource: part(&info.resource),
            subresource: part(&info.subresource),
            code,
        }
    }
}

/// The body of an answer that goes on, whose end the audit log is told.
struct Followed {
    state: Arc<State>,
    ending: audit::Ending,
}

impl Drop for Followed {
    fn drop(&mut self) {
        if let Some(log) = &self.state.parts.audit
            && !self.ending.log(log, self.state.parts.api.now())
        {
            self.state.metrics.audit_dropped();
        }
    }
}

fn method_label(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        "OPTIONS" => "OPTIONS",
        _ => "other",
    }
}

const PANIC: &str = "This request caused apiserver to panic. Look in the logs for details.";

struct Pass<'a> {
    state: &'a Arc<State>,
    caller: &'a Caller,
    info: &'a RequestInfo,
    query: &'a Query,
}

struct Seen<'a> {
    accept: &'a str,
    user_agent: &'a str,
    received: jiff::Timestamp,
}

impl Pass<'_> {
    async fn through(
        &self,
        request: Request<Body>,
        seen: Seen<'_>,
        notes: &mut Notes,
    ) -> Result<Response, ApiError> {
        let state = self.state;
        let identity = self.identity(request.headers(), seen.received, notes)?;
        let extension = state
            .parts
            .extensions
            .iter()
            .find(|extension| extends(&extension.extends, self.info, state.parts.api.kinds()));
        let long_running = extension.is_some() || self.info.is_long_running();
        let _permit = if long_running {
            None
        } else {
            let room = if self.info.is_mutating() { &state.writes } else { &state.reads };
            Some(room.try_acquire().map_err(|_| too_many_requests())?)
        };
        let _counted = (!long_running).then(|| state.metrics.in_flight());
        if let Some(extension) = extension {
            let call = Call {
                request,
                info: self.info.clone(),
                query: self.query.clone(),
                identity,
                now: seen.received,
                server: Front { state: Arc::clone(state) },
            };
            // Making the answer may panic as soon as it is asked for.
            let handled = AssertUnwindSafe(async { extension.handler.answer(call).await }).catch_unwind();
            return handled.await.unwrap_or_else(|_| Err(self.panicked()));
        }
        let asked = Asked {
            info: self.info,
            query: self.query,
            identity: &identity,
            accept: seen.accept,
            user_agent: seen.user_agent,
            now: seen.received,
        };
        // Boxed here, where the compiler can still see for which lifetimes it is `Send`.
        let handled: BoxFuture<'_, Result<Response, ApiError>> = if self.info.is_resource {
            Box::pin(resources::answer(state, request, &asked, notes))
        } else {
            let (head, _) = request.into_parts();
            let asked = &asked;
            Box::pin(async move { documents::answer(state, &head.method, &head.headers, asked).await })
        };
        let handled = AssertUnwindSafe(handled).catch_unwind();
        // The bodies of watches may go on; it is their beginning that must not take long.
        match tokio::time::timeout(state.parts.limits.request_timeout, handled).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(self.panicked()),
            Err(_) => Err(timed_out()),
        }
    }

    /// Who asks, in whose name, and whether they may.
    fn identity(
        &self,
        headers: &HeaderMap,
        now: jiff::Timestamp,
        notes: &mut Notes,
    ) -> Result<Identity, ApiError> {
        let parts = &self.state.parts;
        let known = match self.caller {
            Caller::InProcess(identity) => Some(identity.as_ref().clone()),
            Caller::Network { certificate, .. } => {
                parts.authenticator.authenticate(certificate.as_deref(), headers, now)?
            }
        };
        let is_anonymous = known.is_none();
        let mut identity = known.unwrap_or_else(Identity::anonymous);
        notes.user = Some(identity.clone());
        if let Some(impersonation) = auth::impersonation(headers)? {
            for check in &impersonation.checks {
                self.allow(&identity, &check.attributes(), is_anonymous, notes)?;
            }
            identity = impersonation.identity;
            notes.impersonated = Some(identity.clone());
        }
        self.allow(&identity, &self.info.attributes(), is_anonymous, notes)?;
        Ok(identity)
    }

    fn allow(
        &self,
        identity: &Identity,
        attributes: &Attributes<'_>,
        is_anonymous: bool,
        notes: &mut Notes,
    ) -> Result<(), ApiError> {
        match self.state.parts.authorizer.authorize(identity, attributes) {
            Decision::Allow(reason) => {
                notes.decision = Some(("allow", reason));
                Ok(())
            }
            // Whoever shows nothing is told to show something.
            Decision::NoOpinion(reason) if is_anonymous => {
                notes.decision = Some(("forbid", reason));
                Err(ApiError::unauthorized())
            }
            Decision::NoOpinion(reason) => {
                let error = rbac::forbidden(&identity.user, attributes, &reason);
                notes.decision = Some(("forbid", reason));
                Err(error)
            }
        }
    }

    fn panicked(&self) -> ApiError {
        self.state.metrics.panicked();
        tracing::error!(path = %self.info.path, verb = %self.info.verb, "a request's handler panicked");
        ApiError::new(500, "InternalError", PANIC)
    }
}

/// Whether a request is one that an extension answers. Whatever else begins like one has no route.
fn extends(extends: &Extends, info: &RequestInfo, kinds: &Kinds) -> bool {
    match extends {
        Extends::Group(name) => {
            let mut groups = kinds.foreign().iter();
            info.is_resource
                && info.group == *name
                && groups.any(|group| group.name == name && group.versions.contains(&info.version.as_str()))
        }
        Extends::Subresource { group, resource, subresource } => {
            let is_served = || {
                kinds
                    .served(group, &info.version, resource)
                    .is_some_and(|kind| (kind.scope == Scope::Namespaced) == info.has_path_namespace)
            };
            info.is_resource
                && info.has_path_name
                && info.rest.is_empty()
                && (&info.group, &info.resource, &info.subresource) == (group, resource, subresource)
                && is_served()
        }
    }
}

fn is_health(info: &RequestInfo) -> bool {
    !info.is_resource && super::health::Endpoint::of(&info.path).is_some()
}

fn path_error(error: PathError) -> ApiError {
    match error {
        PathError::Malformed => ApiError::bad_request("the path is not percent-encoded UTF-8"),
        PathError::Nowhere => ApiError::no_such_path(),
    }
}

fn too_many_requests() -> ApiError {
    let mut error = ApiError::new(429, "TooManyRequests", "Too many requests, please try again later.");
    error.details = Some(Box::new(Details { retry_after_seconds: Some(1), ..Details::default() }));
    error
}

fn timed_out() -> ApiError {
    let mut error =
        ApiError::new(504, "Timeout", "Timeout: request did not complete within the allotted timeout");
    error.details = Some(Box::default());
    error
}

/// The client's own id, if it may be one, or a new one.
fn audit_id(headers: &HeaderMap) -> String {
    headers
        .get(AUDIT_ID)
        .and_then(|value| value.to_str().ok())
        .filter(|id| !id.is_empty() && id.len() <= LONGEST_AUDIT_ID)
        .map_or_else(|| uuid::Uuid::new_v4().to_string(), ToOwned::to_owned)
}

/// All values of a header, joined by commas; what is not text is left out.
fn joined(headers: &HeaderMap, name: &HeaderName) -> String {
    let values: Vec<_> = headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).collect();
    values.join(",")
}
