//! The server under test, a namespace in it, requests and what comes back.

use std::future::Future;
use std::panic::resume_unwind;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, Method, Request};
use http_body_util::BodyExt as _;
use kube::client::Body;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::{Value, json};

use crate::server::{DEADLINE, Server, World};

/// How often a state is looked at that no watch tells of.
const PACE: Duration = Duration::from_millis(10);

pub const MERGE: &str = "application/merge-patch+json";
pub const JSON_PATCH: &str = "application/json-patch+json";
pub const STRATEGIC: &str = "application/strategic-merge-patch+json";
pub const APPLY: &str = "application/apply-patch+yaml";

/// The server that the tests of this process share while one of them runs.
struct Running {
    // Ended before its directory is removed: fields are dropped in this order.
    _server: Mutex<Server>,
    world: World,
}

static SHARED: Mutex<Weak<Running>> = Mutex::new(Weak::new());

/// What the tests talk to.
#[derive(Clone)]
pub struct Target {
    pub client: Client,
    pub config: Config,
    running: Option<Arc<Running>>,
}

impl Target {
    /// The server that is named in the environment, or the one of this process, started if it does not run.
    async fn open() -> Self {
        Self::open_or(shared).await
    }

    async fn open_or(ours: impl FnOnce() -> Arc<Running> + Send + 'static) -> Self {
        // Another process-wide provider may have been chosen by an earlier test: they are all the same.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let elsewhere = std::env::var_os("FERROVIRT_SUITE_KUBECONFIG").map(PathBuf::from);
        let running = match elsewhere {
            Some(_) => None,
            None => Some(tokio::task::spawn_blocking(ours).await.unwrap()),
        };
        let path = elsewhere.unwrap_or_else(|| running.as_ref().unwrap().world.kubeconfig());
        let kubeconfig = Kubeconfig::read_from(path).unwrap();
        let mut config =
            Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
        // A repeated request would hide what the first one was answered with.
        config.default_retry = false;
        config.disable_compression = true;
        Self { client: Client::try_from(config.clone()).unwrap(), config, running }
    }

    /// The server that is named in the environment, or one of the test's own that remembers so many changes.
    pub async fn open_with_history(changes: u64) -> Self {
        let started = move || {
            let world = World::new();
            let server = Server::start_with(&world, &["--history-changes", &changes.to_string()]);
            Arc::new(Running { _server: Mutex::new(server), world })
        };
        Self::open_or(started).await
    }

    /// Whether the server is ours. What is not true of every API server is asserted under this condition.
    pub fn ours_alone(&self) -> bool {
        self.running.is_some()
    }

    /// A client of the same server that shows `token`, or nothing.
    pub fn client_with(&self, token: Option<&str>) -> Client {
        let mut config = Config::new(self.config.cluster_url.clone());
        config.root_cert = self.config.root_cert.clone();
        config.accept_invalid_certs = self.config.accept_invalid_certs;
        config.tls_server_name = self.config.tls_server_name.clone();
        config.default_retry = false;
        config.disable_compression = true;
        config.auth_info.token = token.map(|token| token.to_owned().into());
        Client::try_from(config).unwrap()
    }
}

fn shared() -> Arc<Running> {
    let mut shared = SHARED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(running) = shared.upgrade() {
        return running;
    }
    let world = World::new();
    let running = Arc::new(Running { _server: Mutex::new(Server::start(&world)), world });
    *shared = Arc::downgrade(&running);
    running
}

/// A namespace of the test's own, and how to ask for things in it.
#[derive(Clone)]
pub struct Space {
    pub target: Target,
    pub client: Client,
    pub name: String,
}

/// Runs `test` with a namespace of its own, which is removed whatever becomes of the test.
pub async fn with_space<F: Future<Output = ()> + Send + 'static>(test: impl FnOnce(Space) -> F) {
    with_space_at(Target::open().await, test).await;
}

/// The same on a server that is chosen already.
pub async fn with_space_at<F: Future<Output = ()> + Send + 'static>(
    target: Target,
    test: impl FnOnce(Space) -> F,
) {
    let client = target.client.clone();
    let mut space = Space { target, client, name: "default".to_owned() };
    let made =
        space.post("/api/v1/namespaces", json!({"metadata": {"generateName": "behaviour-"}})).await.ok(201);
    space.name = made["metadata"]["name"].as_str().unwrap().to_owned();
    // A controller makes it a moment later; a test that lists service accounts would see it come.
    space.eventually("serviceaccounts/default", |reply| reply.code == 200).await;
    let result = tokio::spawn(test(space.clone())).await;
    space.delete(&format!("/api/v1/namespaces/{}", space.name)).await;
    if let Err(error) = result {
        resume_unwind(error.into_panic());
    }
}

/// What is sent.
pub enum Sent {
    Nothing,
    Json(Value),
    Raw(&'static str, Vec<u8>),
}

impl From<Value> for Sent {
    fn from(value: Value) -> Self {
        Self::Json(value)
    }
}

impl From<()> for Sent {
    fn from((): ()) -> Self {
        Self::Nothing
    }
}

impl<B: Into<Vec<u8>>> From<(&'static str, B)> for Sent {
    fn from((content_type, bytes): (&'static str, B)) -> Self {
        Self::Raw(content_type, bytes.into())
    }
}

impl Space {
    /// The same with another client.
    pub fn with_client(&self, client: Client) -> Self {
        Self { client, ..self.clone() }
    }

    /// `configmaps/a` and `apps/v1:deployments/a` in this namespace; what begins with `/` is taken as it is.
    pub fn path(&self, path: &str) -> String {
        let name = &self.name;
        match path.split_once(':') {
            _ if path.starts_with('/') => path.to_owned(),
            Some((group, rest)) if group.contains('/') && !group.contains('?') => {
                format!("/apis/{group}/namespaces/{name}/{rest}")
            }
            _ => format!("/api/v1/namespaces/{name}/{path}"),
        }
    }

    /// Sends one request.
    pub async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Sent>,
    ) -> Reply {
        let path = self.path(path);
        let what = format!("{method} {path}");
        let response = self.open(method, &path, headers, body).await;
        let (parts, body) = response.into_parts();
        let body = tokio::time::timeout(DEADLINE, body.collect())
            .await
            .unwrap_or_else(|_| panic!("{what}: the answer does not end"))
            .unwrap_or_else(|error| panic!("{what}: {error}"))
            .to_bytes();
        Reply { what, code: parts.status.as_u16(), headers: parts.headers, body }
    }

    /// Sends one request and gives the answer while it comes.
    pub async fn open(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Sent>,
    ) -> http::Response<Body> {
        let mut request = Request::builder().method(Method::from_bytes(method.as_bytes()).unwrap()).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let has = |name: &str| headers.iter().any(|(known, _)| known.eq_ignore_ascii_case(name));
        let (content_type, bytes) = match body.into() {
            Sent::Nothing => (None, Vec::new()),
            Sent::Json(value) => (Some("application/json"), serde_json::to_vec(&value).unwrap()),
            Sent::Raw(content_type, bytes) => (Some(content_type), bytes),
        };
        if let Some(content_type) = content_type.filter(|_| !has("content-type")) {
            request = request.header("content-type", content_type);
        }
        if !has("accept") {
            request = request.header("accept", "application/json");
        }
        let sent = self.client.send(request.body(Body::from(bytes)).unwrap());
        tokio::time::timeout(DEADLINE, sent)
            .await
            .unwrap_or_else(|_| panic!("{method} {path}: no answer"))
            .unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }

    pub async fn get(&self, path: &str) -> Reply {
        self.send("GET", path, &[], ()).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Reply {
        self.send("POST", path, &[], body).await
    }

    pub async fn put(&self, path: &str, body: Value) -> Reply {
        self.send("PUT", path, &[], body).await
    }

    pub async fn patch(&self, path: &str, form: &'static str, body: Value) -> Reply {
        self.send("PATCH", path, &[], (form, body.to_string())).await
    }

    pub async fn delete(&self, path: &str) -> Reply {
        self.send("DELETE", path, &[], ()).await
    }

    pub async fn delete_with(&self, path: &str, options: Value) -> Reply {
        self.send("DELETE", path, &[], options).await
    }

    /// Makes a ConfigMap.
    pub async fn config_map(&self, metadata: Value, data: Value) -> Value {
        self.post("configmaps", json!({"metadata": metadata, "data": data})).await.ok(201)
    }

    /// Asks until the answer is as wanted.
    pub async fn eventually(&self, path: &str, wanted: impl Fn(&Reply) -> bool) -> Reply {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let reply = self.get(path).await;
            if wanted(&reply) {
                return reply;
            }
            assert!(Instant::now() < deadline, "{} stays {}", reply.what, reply.text());
            tokio::time::sleep(PACE).await;
        }
    }

    /// Waits until there is nothing at `path`.
    pub async fn gone(&self, path: &str) {
        self.eventually(path, |reply| reply.code == 404).await;
    }
}

/// What a request was answered with.
#[derive(Debug, Clone)]
pub struct Reply {
    pub what: String,
    pub code: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Reply {
    pub fn text(&self) -> String {
        format!("{} {}", self.code, String::from_utf8_lossy(&self.body))
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{}: {error}: {}", self.what, self.text()))
    }

    /// The body, which must come with this code.
    #[track_caller]
    pub fn ok(&self, code: u16) -> Value {
        assert_eq!(self.code, code, "{}: {}", self.what, self.text());
        self.json()
    }

    /// The `Status` of a refusal, which must have this code, reason and message.
    #[track_caller]
    pub fn refused(&self, code: u16, reason: &str, message: &str) -> Value {
        let status = self.status(code, reason);
        assert_eq!(status["message"], message, "{}", self.what);
        status
    }

    /// The `Status` of a refusal whose message holds this text.
    #[track_caller]
    pub fn refused_with(&self, code: u16, reason: &str, text: &str) -> Value {
        let status = self.status(code, reason);
        let message = status["message"].as_str().unwrap_or_default();
        assert!(message.contains(text), "{}: {message:?} does not hold {text:?}", self.what);
        status
    }

    #[track_caller]
    fn status(&self, code: u16, reason: &str) -> Value {
        assert_eq!(self.code, code, "{}: {}", self.what, self.text());
        let status = self.json();
        let head = [&status["kind"], &status["apiVersion"], &status["status"], &status["reason"]];
        assert_eq!(head, ["Status", "v1", "Failure", reason], "{}: {status}", self.what);
        assert_eq!(status["code"], code, "{}: {status}", self.what);
        assert_eq!(status["metadata"], json!({}), "{}", self.what);
        status
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The texts of the `Warning` headers.
    pub fn warnings(&self) -> Vec<String> {
        let all = self.headers.get_all("warning").iter().map(|value| value.to_str().unwrap());
        all.map(|text| {
            let quoted = text.strip_prefix("299 - \"").unwrap().strip_suffix('"').unwrap();
            quoted.replace("\\\"", "\"")
        })
        .collect()
    }

    /// The names in a list.
    #[track_caller]
    pub fn names(&self) -> Vec<String> {
        names(&self.ok(200))
    }
}

/// The names in a list.
#[track_caller]
pub fn names(list: &Value) -> Vec<String> {
    let items = list["items"].as_array().unwrap_or_else(|| panic!("not a list: {list}"));
    items.iter().map(|item| item["metadata"]["name"].as_str().unwrap().to_owned()).collect()
}

/// `metadata.resourceVersion` of an object or a list, as a number.
#[track_caller]
pub fn version(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"]
        .as_str()
        .and_then(|text| text.parse().ok())
        .unwrap_or_else(|| panic!("no version: {object}"))
}

/// A watch that runs.
pub struct Watch {
    what: String,
    body: Body,
    buffer: Vec<u8>,
}

impl Watch {
    /// Starts one; `path` has the whole query beside `watch=true`.
    pub async fn open(space: &Space, path: &str) -> Self {
        let mark = if path.contains('?') { '&' } else { '?' };
        let path = format!("{}{mark}watch=true", space.path(path));
        let response = space.open("GET", &path, &[], ()).await;
        assert_eq!(response.status(), 200, "{path}");
        Self { what: path, body: response.into_body(), buffer: Vec::new() }
    }

    /// The next event, or nothing when the watch has ended.
    pub async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).unwrap());
            }
            let frame = tokio::time::timeout(DEADLINE, self.body.frame())
                .await
                .unwrap_or_else(|_| panic!("{}: nothing comes", self.what));
            match frame {
                Some(frame) => {
                    if let Ok(data) =
                        frame.unwrap_or_else(|error| panic!("{}: {error}", self.what)).into_data()
                    {
                        self.buffer.extend_from_slice(&data);
                    }
                }
                None => {
                    assert!(self.buffer.is_empty(), "{}: half an event", self.what);
                    return None;
                }
            }
        }
    }

    /// The next `count` events as `TYPE name`.
    pub async fn told(&mut self, count: usize) -> Vec<String> {
        let mut all = Vec::new();
        while all.len() < count {
            let event = self.next().await.unwrap_or_else(|| panic!("{} ended after {all:?}", self.what));
            all.push(told(&event));
        }
        all
    }
}

/// `TYPE name` of an event.
pub fn told(event: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    format!("{} {}", text(&event["type"]), text(&event["object"]["metadata"]["name"]))
}
