//! The API server that commands speak to: any that has KubeVirt's kinds, Ferrovirt's or a cluster's.
//!
//! ```text
//! kubeconfig, or the Pod that we run in ──► Server ──► request ──► answer, or what was refused
//! words of the command line ──► targets ──► resources (a table of those in daily use, else discovery)
//! ```

pub mod config;
pub mod output;
pub mod refusal;
pub mod resources;
pub mod stream;
pub mod table;
pub mod targets;
pub mod template;
pub mod watch;

use anyhow::Context as _;
use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use kube::client::Body;
use serde_json::Value;

use super::Context;
use crate::cli::ChoiceFlags;
use crate::report::Failure;
use refusal::{RequestError, unreachable};
use resources::Resource;

/// The form of every answer that is no table.
pub const JSON: &str = "application/json";

/// Most bytes of one answer; a list of 100,000 machines is smaller.
const MAX_ANSWER_BYTES: usize = 1 << 30;

/// A server, and the namespace that is meant where none is named.
pub struct Server {
    client: kube::Client,
    url: String,
    /// Whose certificates are trusted, DER; nothing where the system's authorities are.
    pub authority: Option<Vec<Vec<u8>>>,
    /// From `--namespace`, else the context's, else `default`.
    pub namespace: String,
}

/// What a server answered, with success.
#[derive(Debug)]
pub struct Answer {
    /// 200, 201 or 202.
    pub status: StatusCode,
    /// The body, which may be empty.
    pub body: Bytes,
}

impl Answer {
    /// The body as JSON.
    ///
    /// # Errors
    /// When it is none.
    pub fn json(&self) -> Result<Value, RequestError> {
        serde_json::from_slice(&self.body)
            .context("the server's answer is not JSON")
            .map_err(|error| RequestError::Failed(error.into()))
    }
}

impl Server {
    /// The server that flags, environment and kubeconfig name. Nothing is sent to it yet.
    ///
    /// # Errors
    /// When none is named, or its certificates or credentials cannot be used.
    pub async fn find(context: &Context) -> Result<Server, Failure> {
        Self::find_for(context, None).await
    }

    /// The same for an object whose own namespace, where it is named with the object, goes before the flag's.
    ///
    /// # Errors
    /// As [`find`](Self::find).
    pub async fn find_for(context: &Context, own: Option<&str>) -> Result<Server, Failure> {
        let config = config::find(&context.settings).await?;
        let url = config.cluster_url.to_string();
        let named = own.or(context.settings.namespace.as_deref());
        let namespace = named.unwrap_or(&config.default_namespace).to_owned();
        let authority = config.root_cert.clone();
        let client = kube::Client::try_from(config)
            .with_context(|| format!("cannot use the kubeconfig's credentials for `{url}`"))
            .map_err(|error| {
                Failure::refused(error, Some("choose another context with --context".to_owned()))
            })?;
        Ok(Server { client, url, authority, namespace })
    }

    /// Where the server is.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Sends a request and reads the whole answer.
    ///
    /// # Errors
    /// When the server cannot be reached, or refuses.
    pub async fn call(&self, request: Request<Body>) -> Result<Answer, RequestError> {
        let response = self.open(request).await?;
        let (head, body) = response.into_parts();
        let body = read(body).await?;
        Ok(Answer { status: head.status, body })
    }

    /// Sends a request; the answer's body is still to be read.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub async fn open(&self, request: Request<Body>) -> Result<Response<Body>, RequestError> {
        let response = self.client.send(request).await.map_err(|error| unreachable(&self.url, error))?;
        let status = response.status();
        if status.is_success() || status == StatusCode::SWITCHING_PROTOCOLS {
            return Ok(response);
        }
        let body = read(response.into_body()).await?;
        Err(RequestError::Refused(refusal::Refusal::read(status, &body)))
    }

    /// Reads what is at `path`, a query included, in a form that `accept` names.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub async fn get(&self, path: &str, accept: &str) -> Result<Value, RequestError> {
        self.call(request(Method::GET, path, accept, None)?).await?.json()
    }

    /// The objects of the list at `path`, a query included.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub async fn list(&self, path: &str) -> Result<Vec<Value>, RequestError> {
        match self.get(path, JSON).await?["items"].take() {
            Value::Array(items) => Ok(items),
            _ => Ok(Vec::new()),
        }
    }

    /// Whether it is one of Ferrovirt's, which knows more than KubeVirt.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub async fn is_ferrovirts(&self) -> Result<bool, RequestError> {
        let version = self.get("/version", JSON).await?;
        Ok(text(&version, "/gitVersion").contains("+ferrovirt."))
    }

    /// The namespace that is asked for objects of a resource: none for all of them, and for what is in none.
    pub fn namespace_for(&self, resource: &Resource, choice: &ChoiceFlags) -> Option<&str> {
        self.namespace_of(resource).filter(|_| !choice.all_namespaces)
    }

    /// The namespace that a resource's objects are in: none where it has none.
    pub fn namespace_of(&self, resource: &Resource) -> Option<&str> {
        resource.is_namespaced.then_some(self.namespace.as_str())
    }
}

async fn read(body: Body) -> Result<Bytes, RequestError> {
    let body = Limited::new(body, MAX_ANSWER_BYTES).collect().await.map_err(|error| {
        RequestError::Failed(anyhow::anyhow!(error).context("cannot read the server's answer").into())
    })?;
    Ok(body.to_bytes())
}

/// A request, with a body of a media type.
///
/// # Errors
/// When the path is none.
pub fn request(
    method: Method,
    path: &str,
    accept: &str,
    body: Option<(&str, Vec<u8>)>,
) -> Result<Request<Body>, RequestError> {
    let mut builder = Request::builder().method(method).uri(path).header(ACCEPT, accept);
    let body = match body {
        Some((media_type, bytes)) => {
            builder = builder.header(CONTENT_TYPE, media_type);
            Body::from(bytes)
        }
        None => Body::empty(),
    };
    builder
        .body(body)
        .with_context(|| format!("`{path}` is no path that can be asked for"))
        .map_err(|error| RequestError::Failed(error.into()))
}

/// `text` as a part of a path or a query: everything but RFC 3986's unreserved characters is escaped.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                escaped.push(char::from(byte));
            }
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}

/// A query of these pairs with its question mark; nothing where there are none.
pub fn query<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let mut text = String::new();
    for (name, value) in pairs {
        text.push(if text.is_empty() { '?' } else { '&' });
        text.push_str(name);
        text.push('=');
        text.push_str(&escape(value));
    }
    text
}

/// A string in an object.
pub fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_typed_cannot_leave_its_place_in_a_path_or_query() {
        assert_eq!(escape("a-b.c_d~0"), "a-b.c_d~0");
        assert_eq!(escape("../x?y#z%"), "..%2Fx%3Fy%23z%25");
        assert_eq!(escape("ü "), "%C3%BC%20");
        assert_eq!(query([]), "");
        assert_eq!(query([("a", "b=c"), ("d", "")]), "?a=b%3Dc&d=");
    }
}
