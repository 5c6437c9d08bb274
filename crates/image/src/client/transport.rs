//! One request on its way: the right scheme, redirects, silence, bodies in both directions.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::stream;
use http::{
    HeaderMap, HeaderValue, Method, StatusCode,
    header::{AUTHORIZATION, CONTENT_LENGTH, LOCATION, RETRY_AFTER},
};
use reqwest::Url;
use tokio::io::{AsyncReadExt, AsyncSeekExt};

use super::{
    Access, Client, Endpoint, Wanted,
    connections::Scheme,
    error::{RegistryError, classify},
    retry,
};
use crate::registries::Trust;

/// More redirects than any registry needs.
const MOST_REDIRECTS: usize = 10;
/// The most that is read of an error's body.
const LONGEST_ERROR_BODY_BYTES: usize = 16 * 1024;
/// How much of a registry's own words is passed on.
const LONGEST_DETAIL_CHARACTERS: usize = 300;
/// How much of a file is in memory at once while it is sent.
const FILE_PIECE_BYTES: usize = 64 * 1024;

/// What a request carries.
#[derive(Clone)]
pub(super) enum Payload {
    Nothing,
    Bytes(Bytes),
    File(FilePart),
}

/// A part of a file, sent without ever being in memory as a whole.
#[derive(Clone)]
pub(super) struct FilePart {
    pub(super) path: PathBuf,
    pub(super) offset: u64,
    pub(super) length: u64,
    /// Counts what was handed to the connection; shows that an upload is alive.
    pub(super) sent: Arc<AtomicU64>,
    /// Hears the total sent so far.
    pub(super) progress: Arc<dyn Fn(u64) + Send + Sync>,
}

impl FilePart {
    fn body(&self) -> reqwest::Body {
        struct State {
            part: FilePart,
            file: Option<tokio::fs::File>,
            left: u64,
        }
        let state = State { left: self.length, part: self.clone(), file: None };
        reqwest::Body::wrap_stream(stream::try_unfold(state, async |mut state| {
            if state.left == 0 {
                return Ok::<_, std::io::Error>(None);
            }
            let mut file = match state.file.take() {
                Some(file) => file,
                None => {
                    let mut file = tokio::fs::File::open(&state.part.path).await?;
                    file.seek(std::io::SeekFrom::Start(state.part.offset)).await?;
                    file
                }
            };
            let wanted =
                usize::try_from(state.left).map_or(FILE_PIECE_BYTES, |left| left.min(FILE_PIECE_BYTES));
            let mut piece = vec![0; wanted];
            let count = file.read(&mut piece).await?;
            if count == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            piece.truncate(count);
            state.left -= count as u64;
            let total = state.part.offset + (state.part.length - state.left);
            state.part.sent.fetch_add(count as u64, Ordering::Relaxed);
            (state.part.progress)(total);
            state.file = Some(file);
            Ok(Some((Bytes::from(piece), state)))
        }))
    }
}

/// Where a request goes.
pub(super) enum Target {
    /// A path (and query) at the endpoint.
    Path(String),
    /// A token server's URL, to which credentials go as they are given.
    TokenServer(Url),
    /// Where a registry wants an upload; credentials go there only if that is the registry itself.
    Upload(Url),
}

/// A request that can be made several times over.
pub(super) struct Outgoing {
    pub(super) method: Method,
    pub(super) target: Target,
    pub(super) headers: HeaderMap,
    pub(super) payload: Payload,
}

impl Outgoing {
    pub(super) fn new(method: Method, path: String) -> Self {
        Self { method, target: Target::Path(path), headers: HeaderMap::new(), payload: Payload::Nothing }
    }
}

/// A response and where it came from in the end.
pub(super) struct Reply {
    pub(super) response: reqwest::Response,
    pub(super) url: Url,
    pub(super) host: String,
}

impl Client {
    /// Sends a request, finding out on the way which scheme the host speaks. Any status is a success here.
    pub(super) async fn deliver(
        &self,
        request: &Outgoing,
        access: &Access<'_>,
        authorization: Option<&HeaderValue>,
    ) -> Result<Reply, RegistryError> {
        let path = match &request.target {
            Target::TokenServer(url) => {
                return self.follow(url.clone(), request, access, authorization).await;
            }
            Target::Upload(url) => {
                let authorization = authorization.filter(|_| belongs_to(url, access.endpoint));
                return self.follow(url.clone(), request, access, authorization).await;
            }
            Target::Path(path) => path,
        };
        let host = access.endpoint.host();
        let connections = &self.shared.connections;
        let mut first_failure = None;
        let schemes = connections.schemes(host, access.endpoint.trust)?;
        for (index, scheme) in schemes.iter().enumerate() {
            let is_last = index + 1 == schemes.len();
            let url = url_at(*scheme, host, path)?;
            let failure = match self.follow(url, request, access, authorization).await {
                Ok(reply) if !is_last && *scheme == Scheme::Http && is_answer_of_a_tls_server(&reply) => {
                    self.failure_of(reply, access).await
                }
                Ok(reply) => {
                    connections.remember(host, access.endpoint.trust, *scheme);
                    return Ok(reply);
                }
                Err(error) if !is_last && may_be_the_wrong_scheme(*scheme, access.endpoint, &error) => error,
                Err(error) => return Err(telling(first_failure, error)),
            };
            first_failure = Some(failure);
        }
        Err(first_failure.expect("the loop's last round returns"))
    }

    /// Sends a request and goes where redirects lead, without credentials once they leave the origin.
    async fn follow(
        &self,
        mut url: Url,
        request: &Outgoing,
        access: &Access<'_>,
        authorization: Option<&HeaderValue>,
    ) -> Result<Reply, RegistryError> {
        let origin = url.origin();
        let first_host = host_of(&url);
        let problem = |problem| RegistryError::Redirect {
            host: first_host.clone(),
            what: access.what.to_owned(),
            problem,
        };
        for _ in 0..=MOST_REDIRECTS {
            let authorization = authorization.filter(|_| url.origin() == origin);
            let response = self.send(&url, request, access, authorization).await?;
            let follows = match response.status() {
                StatusCode::MOVED_PERMANENTLY | StatusCode::FOUND | StatusCode::SEE_OTHER => {
                    matches!(request.method, Method::GET | Method::HEAD)
                }
                StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT => true,
                _ => false,
            };
            if !follows {
                return Ok(Reply { response, host: name_of(&url, access.endpoint), url });
            }
            let next = response
                .headers()
                .get(LOCATION)
                .and_then(|location| location.to_str().ok())
                .and_then(|location| url.join(location).ok())
                .ok_or_else(|| problem("without saying where to"))?;
            let stays_private = next.scheme() == "https"
                || (next.scheme() == "http"
                    && (url.scheme() == "http" || access.endpoint.trust == Trust::Insecure));
            if !stays_private {
                return Err(problem("from HTTPS to something else"));
            }
            // What is sent to a token server holds the identity token.
            let keeps_its_secret = next.origin() == origin
                || !matches!(
                    (&request.target, &request.payload),
                    (Target::TokenServer(_), Payload::Bytes(_))
                );
            if !keeps_its_secret {
                return Err(problem("to another server, which must not see the identity token"));
            }
            url = next;
        }
        Err(problem("too many times"))
    }

    async fn send(
        &self,
        url: &Url,
        request: &Outgoing,
        access: &Access<'_>,
        authorization: Option<&HeaderValue>,
    ) -> Result<reqwest::Response, RegistryError> {
        let host = name_of(url, access.endpoint);
        let pool = self.shared.connections.pool(url, &host, access.endpoint.trust)?;
        let mut builder = pool.request(request.method.clone(), url.clone()).headers(request.headers.clone());
        if let Some(value) = authorization {
            builder = builder.header(AUTHORIZATION, value);
        }
        // How much was handed to the connection, and how much there will be in the end.
        let mut upload: Option<(Arc<AtomicU64>, u64)> = None;
        match &request.payload {
            Payload::Nothing if request.method == Method::GET || request.method == Method::HEAD => {}
            Payload::Nothing => builder = builder.header(CONTENT_LENGTH, 0),
            Payload::Bytes(bytes) => builder = builder.body(bytes.clone()),
            Payload::File(part) => {
                builder = builder.header(CONTENT_LENGTH, part.length).body(part.body());
                let before = part.sent.load(Ordering::Relaxed);
                upload = Some((Arc::clone(&part.sent), before + part.length));
            }
        }
        self.count_request();
        tracing::debug!(method = %request.method, host, path = url.path(), "request");

        let limits = &self.shared.connections.limits;
        let mut response = Box::pin(builder.send());
        let sent_bytes = || upload.as_ref().map_or(0, |(sent, _)| sent.load(Ordering::Relaxed));
        let mut progress = sent_bytes();
        loop {
            // The last request of an upload is answered once the registry has the blob safe.
            let is_committing = match &upload {
                Some((_, all)) => progress == *all,
                None => request.method == Method::PUT && matches!(request.target, Target::Upload(_)),
            };
            let limit = if is_committing { limits.commit } else { limits.stall };
            match tokio::time::timeout(limit, &mut response).await {
                Ok(Ok(response)) => return Ok(response),
                Ok(Err(error)) => return Err(classify(error, &host, access.what, limits)),
                Err(_) => {
                    let now = sent_bytes();
                    if now == progress {
                        return Err(silence(&host, access.what, limit));
                    }
                    progress = now;
                }
            }
        }
    }

    /// The next piece of a body, or nothing at its end.
    pub(super) async fn next_piece(
        &self,
        reply: &mut Reply,
        what: &str,
    ) -> Result<Option<Bytes>, RegistryError> {
        let limits = &self.shared.connections.limits;
        let limit = limits.stall;
        match tokio::time::timeout(limit, reply.response.chunk()).await {
            Ok(Ok(piece)) => Ok(piece),
            Ok(Err(error)) => Err(classify(error, &reply.host, what, limits)),
            Err(_) => Err(silence(&reply.host, what, limit)),
        }
    }

    /// A whole body, which may have at most `limit_bytes`.
    pub(super) async fn read_small_body(
        &self,
        reply: &mut Reply,
        what: &str,
        limit_bytes: u64,
    ) -> Result<Vec<u8>, RegistryError> {
        let too_large =
            RegistryError::TooLarge { host: reply.host.clone(), what: what.to_owned(), limit_bytes };
        if reply.response.content_length().is_some_and(|length| length > limit_bytes) {
            return Err(too_large);
        }
        let limit = self.shared.connections.limits.small_body;
        let host = reply.host.clone();
        let read = async {
            let mut bytes = Vec::new();
            while let Some(piece) = self.next_piece(reply, what).await? {
                if bytes.len() as u64 + piece.len() as u64 > limit_bytes {
                    return Err(too_large);
                }
                bytes.extend_from_slice(&piece);
            }
            Ok(bytes)
        };
        match tokio::time::timeout(limit, read).await {
            Ok(result) => result,
            Err(_) => Err(silence(&host, what, limit)),
        }
    }

    /// Lets successes through and turns every other status into its error.
    pub(super) async fn expect_success(
        &self,
        reply: Reply,
        access: &Access<'_>,
    ) -> Result<Reply, RegistryError> {
        if reply.response.status().is_success() {
            Ok(reply)
        } else {
            Err(self.failure_of(reply, access).await)
        }
    }

    pub(super) async fn failure_of(&self, mut reply: Reply, access: &Access<'_>) -> RegistryError {
        let status = reply.response.status();
        let retry_after = reply
            .response
            .headers()
            .get(RETRY_AFTER)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| retry::parse_retry_after(value, std::time::SystemTime::now()));
        let detail = self.detail_of(&mut reply, access.what).await;
        let (host, what) = (reply.host, access.what.to_owned());
        match status {
            StatusCode::FORBIDDEN => RegistryError::Forbidden { host, what, detail },
            StatusCode::NOT_FOUND => RegistryError::NotFound { host, what, kind: access.kind, detail },
            StatusCode::TOO_MANY_REQUESTS => RegistryError::RateLimited { host, what, retry_after, detail },
            status if status.is_server_error() || status == StatusCode::REQUEST_TIMEOUT => {
                RegistryError::ServerFailure { host, what, status, retry_after, detail }
            }
            status => RegistryError::UnexpectedStatus { host, what, status, detail },
        }
    }

    /// What the registry says in an error's body; nothing if it cannot be read, for the status says enough.
    pub(super) async fn detail_of(&self, reply: &mut Reply, what: &str) -> String {
        let mut bytes = Vec::new();
        let read = async {
            while let Ok(Some(piece)) = self.next_piece(reply, what).await {
                bytes.extend_from_slice(&piece);
                if bytes.len() >= LONGEST_ERROR_BODY_BYTES {
                    break;
                }
            }
        };
        // What came in time is enough; nothing depends on it.
        let _ = tokio::time::timeout(self.shared.connections.limits.small_body, read).await;
        detail_in(&bytes)
    }
}

fn silence(host: &str, what: &str, limit: Duration) -> RegistryError {
    RegistryError::Timeout { host: host.to_owned(), what: what.to_owned(), limit }
}

/// The text of an error body: `{"errors":[{"code":…,"message":…}]}` as the specification has it,
/// `{"details":…}` as token servers have it, or the first line of plain text. Web pages say nothing.
fn detail_in(bytes: &[u8]) -> String {
    let text = match serde_json::from_slice::<serde_json::Value>(bytes) {
        Ok(value) => {
            let of_error = |error: &serde_json::Value| {
                let field = |name: &str| error.get(name).and_then(|value| value.as_str()).unwrap_or_default();
                match (field("code"), field("message")) {
                    ("", message) => message.to_owned(),
                    (code, "") => code.to_owned(),
                    (code, message) => format!("{code}: {message}"),
                }
            };
            match value.get("errors").and_then(|errors| errors.as_array()) {
                Some(errors) => errors.iter().map(of_error).collect::<Vec<_>>().join("; "),
                None => ["details", "message", "error_description", "error"]
                    .iter()
                    .find_map(|name| value.get(*name).and_then(|value| value.as_str()))
                    .unwrap_or_default()
                    .to_owned(),
            }
        }
        Err(_) => {
            let text = String::from_utf8_lossy(bytes);
            let first = text.trim().lines().next().unwrap_or_default();
            if first.starts_with(['<', '{', '[']) { String::new() } else { first.to_owned() }
        }
    };
    text.chars().filter(|character| !character.is_control()).take(LONGEST_DETAIL_CHARACTERS).collect()
}

fn url_at(scheme: Scheme, host: &str, path: &str) -> Result<Url, RegistryError> {
    // A host is checked when its reference is read, and paths are made of checked parts.
    Url::parse(&format!("{}://{host}{path}", scheme.name())).map_err(|_| RegistryError::NotFound {
        host: host.to_owned(),
        what: path.to_owned(),
        kind: Wanted::Manifest,
        detail: "the host's name is malformed".to_owned(),
    })
}

/// `HOST`, or `HOST:PORT` where the port is spelled out.
pub(super) fn host_of(url: &Url) -> String {
    match (url.host_str(), url.port()) {
        (Some(host), Some(port)) => format!("{host}:{port}"),
        (Some(host), None) => host.to_owned(),
        (None, _) => String::new(),
    }
}

/// Whether `url` is at the endpoint's own host and port.
fn belongs_to(url: &Url, endpoint: &Endpoint) -> bool {
    let scheme = if url.scheme() == "http" { Scheme::Http } else { Scheme::Https };
    url_at(scheme, endpoint.host(), "/").is_ok_and(|own| own.origin() == url.origin())
}

/// What the host of `url` is called: as the reference writes it, where it is the endpoint's, since URLs drop
/// the port that goes without saying.
fn name_of(url: &Url, endpoint: &Endpoint) -> String {
    if belongs_to(url, endpoint) { endpoint.host().to_owned() } else { host_of(url) }
}

/// A TLS server that is spoken to in plain HTTP answers 400, if at all, and never as a registry.
fn is_answer_of_a_tls_server(reply: &Reply) -> bool {
    reply.response.status() == StatusCode::BAD_REQUEST
        && reply.url.scheme() == "http"
        && !reply.response.headers().contains_key("docker-distribution-api-version")
}

/// Of the failures with either scheme, the one that explains more.
fn telling(first: Option<RegistryError>, second: RegistryError) -> RegistryError {
    match (first, &second) {
        // That HTTPS was the wrong scheme explains nothing once HTTP has failed too.
        (None | Some(RegistryError::PlainHttp { .. }), _) => second,
        // The server does speak TLS, so that what is wrong with that is what matters.
        (
            Some(_),
            RegistryError::Certificate { .. }
            | RegistryError::Tls { .. }
            | RegistryError::Certificates(_)
            | RegistryError::Setup { .. },
        ) => second,
        (Some(first), _) => first,
    }
}

fn may_be_the_wrong_scheme(scheme: Scheme, endpoint: &Endpoint, error: &RegistryError) -> bool {
    // With a port in the name both schemes meet the same socket, so that a refusal says all there is to say.
    let has_port = endpoint.host().rsplit_once(':').is_some_and(|(_, port)| !port.contains(']'));
    match (scheme, error) {
        (_, RegistryError::ConnectionRefused { .. }) => !has_port && endpoint.trust == Trust::Insecure,
        (Scheme::Http, RegistryError::Connection { .. })
        | (Scheme::Https, RegistryError::PlainHttp { .. }) => true,
        // A certificate that cannot be verified never leads to plain HTTP, unless that was allowed outright.
        // A name that only a proxy for plain HTTP can resolve is unknown here.
        (
            Scheme::Https,
            RegistryError::Tls { .. } | RegistryError::Connection { .. } | RegistryError::UnknownHost { .. },
        ) => endpoint.trust == Trust::Insecure,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_goes_without_saying_is_still_the_endpoints() {
        let endpoint = |registry: &str| Endpoint {
            registry: registry.to_owned(),
            repository: "a".to_owned(),
            trust: Trust::Verified,
            role: crate::registries::Role::Primary,
        };
        let url = Url::parse("https://r.example.com/v2/a/blobs/uploads/1").expect("a URL");
        assert_eq!(name_of(&url, &endpoint("r.example.com:443")), "r.example.com:443");
        assert!(belongs_to(&url, &endpoint("r.example.com")));
        assert!(!belongs_to(&url, &endpoint("r.example.com:444")));
        assert!(!belongs_to(&url, &endpoint("example.com")));
        let url = Url::parse("http://[::1]:5000/v2/").expect("a URL");
        assert_eq!(name_of(&url, &endpoint("[::1]:5000")), "[::1]:5000");
    }

    #[test]
    fn a_registrys_words_are_passed_on_and_web_pages_are_not() {
        let body =
            br#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown","detail":{"Tag":"x"}}]}"#;
        assert_eq!(detail_in(body), "MANIFEST_UNKNOWN: manifest unknown");
        assert_eq!(
            detail_in(br#"{"details":"incorrect username or password"}"#),
            "incorrect username or password"
        );
        assert_eq!(detail_in(b"<html><body>Proxy error</body></html>"), "");
        assert_eq!(detail_in(b"no such\x1b[31m thing\nsecond line"), "no such[31m thing");
        assert_eq!(detail_in(&[b'a'; 1000]).len(), LONGEST_DETAIL_CHARACTERS);
        assert_eq!(detail_in(b""), "");
    }
}
