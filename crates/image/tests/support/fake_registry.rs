//! A registry that can misbehave: the Distribution protocol on a loopback port, with faults on request.
//!
//! ```no_run
//! let registry = FakeRegistry::start().await;
//! let digest = registry.add_blob(b"layer");
//! registry.add_manifest("team/image", "v1", OCI_MANIFEST, manifest);
//! registry.fault("GET", "/blobs/", Times::Once, Fault::TruncateAfter(3));
//! // … use the client …
//! assert_eq!(registry.requests(), ["GET /v2/team/image/manifests/v1", …]);
//! ```
//!
//! The server runs on the test's own runtime and ends with the value. Nothing here checks what the client
//! should check: corrupted content is served as it is.

use std::{
    collections::{HashMap, HashSet},
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes, to_bytes},
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    response::Response,
};
use base64::{Engine as _, engine::general_purpose};
use futures::{StreamExt as _, stream};
use image::Digest;
use tokio::{net::TcpListener, task::JoinHandle};

/// The media type of an OCI image manifest.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// The media type of an OCI image index.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// The largest upload that the registry takes in one request.
const LARGEST_UPLOAD_BYTES: usize = 64 * 1024 * 1024;

/// How often a fault strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Times {
    /// The first request that matches.
    Once,
    /// The first so many requests that match.
    Count(u32),
    /// Every request that matches.
    Always,
}

/// What goes wrong.
#[derive(Clone, Debug)]
pub enum Fault {
    /// A status, with headers and a body.
    Status(u16, Vec<(&'static str, String)>, String),
    /// The connection breaks after so many bytes of the body, whose length was announced in full.
    TruncateAfter(usize),
    /// The body ends after so many bytes, and no length was announced.
    EndAfter(usize),
    /// One byte of the body is another.
    Corrupt,
    /// `Range` is ignored: the whole blob comes with status 200.
    IgnoreRange,
    /// A redirect to this URL.
    RedirectTo(String),
    /// `Docker-Content-Digest` has this value.
    DigestHeader(String),
    /// `Content-Type` has this value.
    ContentType(String),
    /// The body never ends.
    Endless,
    /// The head of the response comes, and then nothing.
    Stall,
    /// A web page with status 200.
    WebPage,
    /// The body comes byte by byte, each this much after the one before.
    Trickle(Duration),
    /// The answer is given this much after the request came in whole.
    Late(Duration),
}

/// Who may come in.
#[derive(Clone, Debug, Default)]
pub enum Auth {
    /// Everybody.
    #[default]
    Open,
    /// Whoever has this user name and password.
    Basic(&'static str, &'static str),
    /// Whoever has a token from `/token`.
    Token(TokenAuth),
}

/// What `/token` takes in exchange for a token.
#[derive(Clone, Debug, Default)]
pub struct TokenAuth {
    /// A user name and password.
    pub password: Option<(&'static str, &'static str)>,
    /// A refresh token.
    pub identity_token: Option<&'static str>,
    /// Nothing at all, but only for pulling.
    pub anonymous: bool,
    /// The realm, where it is not this registry's own `/token`.
    pub realm: Option<String>,
}

/// A request as it arrived.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The method.
    pub method: String,
    /// Path and query.
    pub target: String,
    /// The headers.
    pub headers: HeaderMap,
}

#[derive(Default)]
struct Content {
    manifests: HashMap<(String, String), (String, Bytes)>,
    blobs: HashMap<String, Bytes>,
    uploads: HashMap<String, Vec<u8>>,
    faults: Vec<(&'static str, String, Times, Fault)>,
    auth: Auth,
    tokens: HashSet<String>,
    tokens_issued: u32,
    seen: Vec<Seen>,
    refuses_whole_uploads: bool,
    host: String,
}

type Shared = Arc<Mutex<Content>>;

/// The registry. Dropping it ends it.
pub struct FakeRegistry {
    address: SocketAddr,
    content: Shared,
    server: JoinHandle<()>,
}

impl FakeRegistry {
    /// Starts an empty registry that lets everybody in.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a loopback port");
        let address = listener.local_addr().expect("the port's address");
        let content = Shared::default();
        content.lock().expect("no test panicked here").host = address.to_string();
        let router = Router::new().fallback(handle).with_state(Arc::clone(&content));
        let server = tokio::spawn(async move {
            axum::serve(listener, router).await.expect("serving on loopback");
        });
        Self { address, content, server }
    }

    fn content(&self) -> MutexGuard<'_, Content> {
        self.content.lock().expect("no test panicked here")
    }

    /// `127.0.0.1:PORT`, the registry's name in references.
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// Stores a blob and returns its digest.
    pub fn add_blob(&self, bytes: &[u8]) -> Digest {
        let digest = Digest::sha256_of(bytes);
        self.content().blobs.insert(digest.to_string(), Bytes::copy_from_slice(bytes));
        digest
    }

    /// Stores a manifest under a tag and under its digest, which is returned.
    pub fn add_manifest(&self, repository: &str, tag: &str, media_type: &str, bytes: &[u8]) -> Digest {
        let digest = Digest::sha256_of(bytes);
        let mut content = self.content();
        for name in [tag.to_owned(), digest.to_string()] {
            let value = (media_type.to_owned(), Bytes::copy_from_slice(bytes));
            content.manifests.insert((repository.to_owned(), name), value);
        }
        digest
    }

    /// A stored blob.
    pub fn blob(&self, digest: &Digest) -> Option<Bytes> {
        self.content().blobs.get(&digest.to_string()).cloned()
    }

    /// A stored manifest.
    pub fn manifest(&self, repository: &str, name: &str) -> Option<Bytes> {
        let key = (repository.to_owned(), name.to_owned());
        self.content().manifests.get(&key).map(|(_, bytes)| bytes.clone())
    }

    /// Makes requests with this method, whose path contains `path`, go wrong. Faults are looked through in
    /// the order in which they were added, and the first that matches strikes.
    pub fn fault(&self, method: &'static str, path: &str, times: Times, fault: Fault) {
        self.content().faults.push((method, path.to_owned(), times, fault));
    }

    /// Ends the faults that were made for exactly this `path`.
    pub fn stop_fault(&self, path: &str) {
        self.content().faults.retain(|(_, part, ..)| part != path);
    }

    /// Says who may come in from now on.
    pub fn set_auth(&self, auth: Auth) {
        self.content().auth = auth;
    }

    /// Makes every token invalid that was given out so far.
    pub fn expire_tokens(&self) {
        self.content().tokens.clear();
    }

    /// From now on a `PUT` with a blob in it is answered with 413.
    pub fn refuse_whole_uploads(&self) {
        self.content().refuses_whole_uploads = true;
    }

    /// Everything that was asked so far, in order.
    pub fn seen(&self) -> Vec<Seen> {
        self.content().seen.clone()
    }

    /// Everything that was asked so far, as `METHOD PATH` without the query.
    pub fn requests(&self) -> Vec<String> {
        let path = |seen: &Seen| seen.target.split('?').next().unwrap_or_default().to_owned();
        self.content().seen.iter().map(|seen| format!("{} {}", seen.method, path(seen))).collect()
    }

    /// Forgets what was asked so far.
    pub fn forget_requests(&self) {
        self.content().seen.clear();
    }
}

impl Drop for FakeRegistry {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn handle(State(shared): State<Shared>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, LARGEST_UPLOAD_BYTES).await.unwrap_or_default();
    let target = parts.uri.path_and_query().map_or("", |target| target.as_str()).to_owned();
    let path = parts.uri.path().to_owned();
    let query = parts.uri.query().unwrap_or_default().to_owned();
    let fault = {
        let mut content = shared.lock().expect("no handler panicked");
        content.seen.push(Seen { method: parts.method.to_string(), target, headers: parts.headers.clone() });
        content.next_fault(&parts.method, &path)
    };
    if let Some(Fault::Late(delay)) = fault {
        tokio::time::sleep(delay).await;
    }
    let mut content = shared.lock().expect("no handler panicked");
    match fault {
        Some(Fault::Status(status, headers, body)) => return reply(status, &headers, body.into()),
        Some(Fault::RedirectTo(url)) => return reply(307, &[("location", url)], Body::empty()),
        _ => {}
    }
    if path == "/token" {
        return content.token(&parts.method, &parts.headers, &query, &body);
    }
    if let Some(refusal) = content.refusal(&parts.method, &parts.headers, &path) {
        return refusal;
    }
    content.serve(&parts.method, &parts.headers, &path, &query, body, fault.as_ref())
}

impl Content {
    fn next_fault(&mut self, method: &Method, path: &str) -> Option<Fault> {
        let (_, _, times, fault) = self.faults.iter_mut().find(|(wanted, part, times, _)| {
            *wanted == method.as_str() && path.contains(part.as_str()) && *times != Times::Count(0)
        })?;
        *times = match *times {
            Times::Always => Times::Always,
            Times::Once => Times::Count(0),
            Times::Count(left) => Times::Count(left - 1),
        };
        Some(fault.clone())
    }

    fn refusal(&self, method: &Method, headers: &HeaderMap, path: &str) -> Option<Response> {
        let given =
            headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let (allowed, challenge) = match &self.auth {
            Auth::Open => return None,
            Auth::Basic(user, password) => {
                (given == basic(user, password), "Basic realm=\"fake\"".to_owned())
            }
            Auth::Token(auth) => {
                let allowed = given.strip_prefix("Bearer ").is_some_and(|token| self.tokens.contains(token));
                let realm = auth.realm.clone().unwrap_or_else(|| format!("http://{}/token", self.host));
                let actions =
                    if method == Method::GET || method == Method::HEAD { "pull" } else { "pull,push" };
                let scope = format!("repository:{}:{actions}", repository_in(path));
                (allowed, format!("Bearer realm=\"{realm}\",service=\"fake\",scope=\"{scope}\""))
            }
        };
        let body = r#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}"#;
        (!allowed).then(|| reply(401, &[("www-authenticate", challenge)], body.into()))
    }

    fn token(&mut self, method: &Method, headers: &HeaderMap, query: &str, body: &[u8]) -> Response {
        let Auth::Token(auth) = self.auth.clone() else {
            return reply(404, &[], Body::empty());
        };
        let form = String::from_utf8_lossy(body).into_owned();
        let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let is_known = match (method, given) {
            (&Method::POST, _) => auth.identity_token.is_some_and(|token| {
                form.contains("grant_type=refresh_token")
                    && form.contains(&format!("refresh_token={token}"))
                    && form.contains("service=fake")
            }),
            (_, Some(given)) => auth.password.is_some_and(|(user, password)| given == basic(user, password)),
            (_, None) => auth.anonymous && !query.contains("push"),
        };
        if !is_known {
            return reply(401, &[], r#"{"details":"incorrect username or password"}"#.into());
        }
        self.tokens_issued += 1;
        let token = format!("token-{}", self.tokens_issued);
        self.tokens.insert(token.clone());
        let field = if method == Method::POST { "access_token" } else { "token" };
        reply(200, &[], format!(r#"{{"{field}":"{token}","expires_in":300}}"#).into())
    }

    fn serve(
        &mut self,
        method: &Method,
        headers: &HeaderMap,
        path: &str,
        query: &str,
        body: Bytes,
        fault: Option<&Fault>,
    ) -> Response {
        let Some(rest) = path.strip_prefix("/v2/") else {
            return not_found("NAME_UNKNOWN");
        };
        if let Some((repository, name)) = rest.split_once("/manifests/") {
            if method == Method::PUT {
                let media_type = headers.get("content-type").and_then(|value| value.to_str().ok());
                let media_type = media_type.unwrap_or_default().to_owned();
                let digest = Digest::sha256_of(&body).to_string();
                for name in [name.to_owned(), digest.clone()] {
                    self.manifests.insert((repository.to_owned(), name), (media_type.clone(), body.clone()));
                }
                return reply(201, &[("docker-content-digest", digest)], Body::empty());
            }
            let key = (repository.to_owned(), name.to_owned());
            let Some((media_type, bytes)) = self.manifests.get(&key) else {
                return not_found("MANIFEST_UNKNOWN");
            };
            return content_reply(method, headers, media_type, bytes, fault);
        }
        if let Some((_, upload)) = rest.split_once("/blobs/uploads/") {
            return self.upload(method, path, query, upload, &body);
        }
        if let Some((_, digest)) = rest.split_once("/blobs/") {
            let Some(bytes) = self.blobs.get(digest) else {
                return not_found("BLOB_UNKNOWN");
            };
            return content_reply(method, headers, "application/octet-stream", bytes, fault);
        }
        not_found("NAME_UNKNOWN")
    }

    fn upload(&mut self, method: &Method, path: &str, query: &str, upload: &str, body: &[u8]) -> Response {
        if method == Method::POST {
            let id = format!("upload-{}", self.uploads.len() + 1);
            self.uploads.insert(id.clone(), Vec::new());
            return reply(202, &[("location", format!("{path}{id}?state=s"))], Body::empty());
        }
        if method == Method::PUT && self.refuses_whole_uploads && !body.is_empty() {
            return reply(413, &[], Body::empty());
        }
        let Some(received) = self.uploads.get_mut(upload) else {
            return not_found("BLOB_UPLOAD_UNKNOWN");
        };
        received.extend_from_slice(body);
        if method == Method::PATCH {
            let range = format!("0-{}", received.len() - 1);
            return reply(202, &[("location", format!("{path}?state=s")), ("range", range)], Body::empty());
        }
        let bytes = Bytes::from(std::mem::take(received));
        let digest = Digest::sha256_of(&bytes).to_string();
        if !query.contains("state=s") || !query.replace("%3A", ":").contains(&format!("digest={digest}")) {
            return reply(400, &[], r#"{"errors":[{"code":"DIGEST_INVALID"}]}"#.into());
        }
        self.blobs.insert(digest.clone(), bytes);
        reply(201, &[("docker-content-digest", digest)], Body::empty())
    }
}

fn content_reply(
    method: &Method,
    headers: &HeaderMap,
    media_type: &str,
    bytes: &Bytes,
    fault: Option<&Fault>,
) -> Response {
    let digest = Digest::sha256_of(bytes).to_string();
    let mut body = bytes.clone();
    let mut status = 200;
    let mut head = vec![("content-type", media_type.to_owned()), ("docker-content-digest", digest)];
    let range = headers.get("range").and_then(|value| value.to_str().ok());
    let start =
        range.and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok());
    if let Some(start) = start
        && !matches!(fault, Some(Fault::IgnoreRange))
    {
        if start >= bytes.len() {
            return reply(416, &[], Body::empty());
        }
        body = bytes.slice(start..);
        status = 206;
        head.push(("content-range", format!("bytes {start}-{}/{}", bytes.len() - 1, bytes.len())));
    }
    let announced = body.len();
    let broken = || {
        stream::once(async {
            // Being pending for a moment makes the server flush what came before.
            tokio::task::yield_now().await;
            Err::<Bytes, _>(std::io::Error::other("broken on purpose"))
        })
    };
    let pieces = |bytes: Bytes| {
        let pieces: Vec<Bytes> = bytes.chunks(1024).map(Bytes::copy_from_slice).collect();
        stream::iter(pieces.into_iter().map(Ok::<_, std::io::Error>))
    };
    let body = match fault {
        Some(Fault::TruncateAfter(count)) => {
            Body::from_stream(pieces(body.slice(..(*count).min(announced))).chain(broken()))
        }
        Some(Fault::EndAfter(count)) => {
            let body = Body::from_stream(pieces(body.slice(..(*count).min(announced))));
            return reply(status, &head, body);
        }
        Some(Fault::Corrupt) => {
            let mut changed = body.to_vec();
            if let Some(byte) = changed.first_mut() {
                *byte ^= 1;
            }
            changed.into()
        }
        Some(Fault::DigestHeader(value)) => {
            head.retain(|(name, _)| *name != "docker-content-digest");
            head.push(("docker-content-digest", value.clone()));
            body.into()
        }
        Some(Fault::ContentType(value)) => {
            head.retain(|(name, _)| *name != "content-type");
            head.push(("content-type", value.clone()));
            body.into()
        }
        Some(Fault::Endless) => {
            let endless = stream::repeat_with(|| Ok::<_, Infallible>(Bytes::from_static(&[b'x'; 4096])));
            return reply(status, &head, Body::from_stream(endless));
        }
        Some(Fault::Trickle(pause)) => {
            let pause = *pause;
            let bytes: Vec<u8> = body.to_vec();
            Body::from_stream(stream::iter(bytes).then(move |byte| async move {
                tokio::time::sleep(pause).await;
                Ok::<_, Infallible>(Bytes::copy_from_slice(&[byte]))
            }))
        }
        Some(Fault::Stall) => Body::from_stream(stream::pending::<Result<Bytes, Infallible>>()),
        Some(Fault::WebPage) => {
            let page = "<html><body>Please log in to the network</body></html>";
            return reply(200, &[("content-type", "text/html; charset=utf-8".to_owned())], page.into());
        }
        _ => body.into(),
    };
    head.push(("content-length", announced.to_string()));
    if method == Method::HEAD { reply(status, &head, Body::empty()) } else { reply(status, &head, body) }
}

fn repository_in(path: &str) -> String {
    let rest = path.trim_start_matches("/v2/");
    let end = rest.find("/manifests/").or_else(|| rest.find("/blobs/")).unwrap_or(rest.len());
    rest[..end].to_owned()
}

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", general_purpose::STANDARD.encode(format!("{user}:{password}")))
}

fn not_found(code: &str) -> Response {
    reply(404, &[], format!(r#"{{"errors":[{{"code":"{code}","message":"no such thing"}}]}}"#).into())
}

fn reply(status: u16, headers: &[(&str, String)], body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(status).expect("a status");
    let version = HeaderValue::from_static("registry/2.0");
    response.headers_mut().insert("docker-distribution-api-version", version);
    for (name, value) in headers {
        let name = header::HeaderName::from_bytes(name.as_bytes()).expect("a header's name");
        response.headers_mut().insert(name, HeaderValue::from_str(value).expect("a header's value"));
    }
    response
}
