//! Requests that something outside this crate answers: a group of its own, or a subresource of a kind (a log).

use std::fmt;
use std::sync::Arc;

pub use axum::body::Body;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{Stream, StreamExt as _};
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde_json::Value;

use super::answer;
pub use super::answer::Response;
use super::front::Front;
use super::in_process::ClientService;
use super::query::Query;
use super::request_info::RequestInfo;
use super::resources::too_large;
use crate::auth::Identity;
use crate::status::ApiError;

/// Which requests are answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Extends {
    /// Every resource of a group (`subresources.kubevirt.io`).
    Group(String),
    /// One subresource of a kind that is registered.
    Subresource {
        /// The group; empty for the core group.
        group: String,
        /// The plural, `pods`.
        resource: String,
        /// `log`
        subresource: String,
    },
}

/// A request that has passed authentication and authorization.
pub struct Call {
    /// The request as it came.
    pub request: Request<Body>,
    /// What it is about; the path is not to be read again.
    pub info: RequestInfo,
    /// Its options.
    pub query: Query,
    /// Who asks.
    pub identity: Identity,
    /// When it came.
    pub now: jiff::Timestamp,
    pub(super) server: Front,
}

impl fmt::Debug for Call {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Call").field("info", &self.info).finish_non_exhaustive()
    }
}

impl Call {
    /// This server, for a client that asks as `identity`.
    pub fn client_service(&self, identity: Identity) -> ClientService {
        ClientService::new(self.server.clone(), identity)
    }

    /// The body, of at most `most` bytes.
    ///
    /// # Errors
    /// 413 for more, 400 when it breaks off.
    pub async fn body(&mut self, most: usize) -> Result<Bytes, ApiError> {
        let body = std::mem::take(self.request.body_mut());
        match Limited::new(body, most).collect().await {
            Ok(body) => Ok(body.to_bytes()),
            Err(error) if error.is::<LengthLimitError>() => Err(too_large(most)),
            Err(error) => Err(ApiError::bad_request(format!("unable to read the body: {error}"))),
        }
    }

    /// Comes back when the server stops: what goes on after the answer ends then.
    pub fn stopped(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut stop = self.server.stop();
        async move {
            // A sender that is gone stops the server too.
            let _ = stop.wait_for(|stop| *stop).await;
        }
    }

    /// 200 with what `stream` yields, for as long as the client reads and the server runs. A stream that fails breaks the
    /// answer off.
    pub fn stream<E>(
        &self,
        content_type: &'static str,
        stream: impl Stream<Item = Result<Bytes, E>> + Send + 'static,
    ) -> Response
    where
        E: Into<axum::BoxError> + 'static,
    {
        let stopped = Box::pin(self.stopped());
        let mut response = http::Response::new(Body::from_stream(stream.take_until(stopped)));
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        response
    }
}

/// An answer without a body.
pub fn empty(code: StatusCode) -> Response {
    let mut response = http::Response::new(Body::empty());
    *response.status_mut() = code;
    response
}

/// An answer of a JSON document.
pub fn json(code: StatusCode, document: &Value) -> Response {
    answer::bytes(code.as_u16(), "application/json", Bytes::from(document.to_string()))
}

/// An answer of a plain text.
pub fn text(code: StatusCode, text: impl Into<String>) -> Response {
    answer::text(code.as_u16(), text.into())
}

/// An answer of these bytes.
pub fn bytes(content_type: &'static str, body: Bytes) -> Response {
    answer::bytes(StatusCode::OK.as_u16(), content_type, body)
}

/// What answers.
pub trait Handler: Send + Sync {
    /// Answers one request. What it returns is passed on as it is, with no timeout; an error becomes a `Status`.
    fn answer(&self, call: Call) -> BoxFuture<'static, Result<Response, ApiError>>;
}

impl<F, A> Handler for F
where
    F: Fn(Call) -> A + Send + Sync,
    A: Future<Output = Result<Response, ApiError>> + Send + 'static,
{
    fn answer(&self, call: Call) -> BoxFuture<'static, Result<Response, ApiError>> {
        Box::pin(self(call))
    }
}

/// Somebody who answers some requests in the kinds' place, after authentication and authorization.
#[derive(Clone)]
pub struct Extension {
    /// What it answers.
    pub extends: Extends,
    /// The answers.
    pub handler: Arc<dyn Handler>,
}

impl fmt::Debug for Extension {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Extension").field("extends", &self.extends).finish_non_exhaustive()
    }
}
