//! The audit log: one `audit.k8s.io/v1` Event a line.
//!
//! Events are written by a thread of their own, off the path of requests. If it cannot keep up (a full or slow disk),
//! events are dropped and counted instead of making clients wait.

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use serde_json::{Map, Value, json};

use super::request_info::RequestInfo;
use crate::auth::Identity;
use crate::object::format_micro_time;
use crate::status::ApiError;

/// How much is told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Level {
    /// Who asked what and what came of it; no bodies.
    #[default]
    Metadata,
    /// Bodies too, except those of Secrets and of requests that carry tokens.
    RequestResponse,
}

impl Level {
    fn name(self) -> &'static str {
        match self {
            Self::Metadata => "Metadata",
            Self::RequestResponse => "RequestResponse",
        }
    }

    /// The level for a request: bodies that hold secrets are never written.
    pub fn for_request(self, info: &RequestInfo) -> Self {
        let secret = matches!(
            (info.group.as_str(), info.resource.as_str(), info.subresource.as_str()),
            ("", "secrets", _)
                | ("", "serviceaccounts", "token")
                | ("authentication.k8s.io", "tokenreviews", _)
        );
        if secret { Self::Metadata } else { self }
    }
}

/// How far a request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// The answer has begun and will go on (watches).
    ResponseStarted,
    /// The answer is complete, or as good as.
    ResponseComplete,
    /// The handler panicked.
    Panic,
}

/// What is known of a request when its event is written.
#[derive(Debug)]
pub struct Record<'a> {
    /// The id that the client sees as `Audit-Id`.
    pub id: &'a str,
    /// How much is told.
    pub level: Level,
    /// How far it is.
    pub stage: Stage,
    /// Path and query as they came.
    pub uri: &'a str,
    /// What it was about.
    pub info: &'a RequestInfo,
    /// Who asked; `None` if that could not be found out.
    pub user: Option<&'a Identity>,
    /// In whose name.
    pub impersonated: Option<&'a Identity>,
    /// Where it came from; empty in process.
    pub source: Option<std::net::IpAddr>,
    /// The `User-Agent` header.
    pub user_agent: &'a str,
    /// The HTTP status.
    pub code: u16,
    /// The error that was answered.
    pub error: Option<&'a ApiError>,
    /// Why it was allowed or not: the decision and its reason.
    pub decision: Option<(&'a str, &'a str)>,
    /// The body.
    pub request_body: Option<&'a [u8]>,
    /// The answer's body.
    pub response_body: Option<&'a [u8]>,
    /// When it came.
    pub received: jiff::Timestamp,
    /// When this stage was reached.
    pub now: jiff::Timestamp,
}

impl Record<'_> {
    /// The Event.
    pub fn event(&self) -> Value {
        let mut event = json!({
            "kind": "Event",
            "apiVersion": "audit.k8s.io/v1",
            "level": self.level.name(),
            "auditID": self.id,
            "stage": match self.stage {
                Stage::ResponseStarted => "ResponseStarted",
                Stage::ResponseComplete => "ResponseComplete",
                Stage::Panic => "Panic",
            },
            "requestURI": self.uri,
            "verb": self.info.verb,
            "user": self.user.map_or_else(|| json!({}), Identity::to_user_info),
        });
        if let Some(impersonated) = self.impersonated {
            event["impersonatedUser"] = impersonated.to_user_info();
        }
        if let Some(source) = self.source {
            event["sourceIPs"] = json!([source.to_string()]);
        }
        if !self.user_agent.is_empty() {
            event["userAgent"] = self.user_agent.into();
        }
        if self.info.is_resource {
            event["objectRef"] = self.object_reference();
        }
        let mut status = json!({"metadata": {}});
        if let Some(error) = self.error {
            status["status"] = "Failure".into();
            status["message"] = error.message.clone().into();
            status["reason"] = error.reason.into();
        }
        status["code"] = self.code.into();
        event["responseStatus"] = status;
        if self.level == Level::RequestResponse {
            for (field, body) in
                [("requestObject", self.request_body), ("responseObject", self.response_body)]
            {
                if let Some(value) = body.and_then(|body| serde_json::from_slice::<Value>(body).ok()) {
                    event[field] = value;
                }
            }
        }
        event["requestReceivedTimestamp"] = format_micro_time(self.received).into();
        event["stageTimestamp"] = format_micro_time(self.now).into();
        if let Some((decision, reason)) = self.decision {
            event["annotations"] = json!({
                "authorization.k8s.io/decision": decision, "authorization.k8s.io/reason": reason,
            });
        }
        event
    }

    fn object_reference(&self) -> Value {
        let info = self.info;
        let fields = [
            ("resource", &info.resource),
            ("namespace", &info.namespace),
            ("name", &info.name),
            ("apiGroup", &info.group),
            ("apiVersion", &info.version),
            ("subresource", &info.subresource),
        ];
        let set = fields.into_iter().filter(|(_, text)| !text.is_empty());
        Value::Object(set.map(|(field, text)| (field.to_owned(), text.clone().into())).collect::<Map<_, _>>())
    }
}

/// Events that may wait for the writer.
const QUEUE: usize = 4096;

/// The log.
#[derive(Debug)]
pub struct Log {
    level: Level,
    queue: Option<SyncSender<Vec<u8>>>,
    writer: Option<JoinHandle<()>>,
}

impl Log {
    /// Opens (0600) or continues a log and starts its writer.
    ///
    /// # Errors
    /// When the file cannot be opened or the thread not started.
    pub fn open(path: &Path, level: Level) -> std::io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
        let (queue, events) = sync_channel(QUEUE);
        let writer =
            std::thread::Builder::new().name("audit".to_owned()).spawn(move || write(file, &events))?;
        Ok(Self { level, queue: Some(queue), writer: Some(writer) })
    }

    /// How much is told.
    pub fn level(&self) -> Level {
        self.level
    }

    /// Hands an event to the writer; false when it had to be dropped.
    pub fn log(&self, record: &Record<'_>) -> bool {
        self.log_event(&record.event())
    }

    fn log_event(&self, event: &Value) -> bool {
        let mut line = event.to_string().into_bytes();
        line.push(b'\n');
        self.queue.as_ref().is_some_and(|queue| queue.try_send(line).is_ok())
    }
}

/// The event of an answer that goes on, to be written again when it has ended.
#[derive(Debug)]
pub struct Ending {
    /// The event's JSON, which takes less room than the value.
    event: Box<[u8]>,
}

impl Ending {
    /// The end of what `record` says has begun.
    pub fn of(record: &Record<'_>) -> Self {
        Self { event: record.event().to_string().into_bytes().into() }
    }

    /// Writes it; false when it had to be dropped.
    pub fn log(&self, log: &Log, now: jiff::Timestamp) -> bool {
        // What was written as JSON a moment ago can be read as JSON.
        let Ok(mut event) = serde_json::from_slice::<Value>(&self.event) else { return false };
        event["stage"] = "ResponseComplete".into();
        event["stageTimestamp"] = format_micro_time(now).into();
        log.log_event(&event)
    }
}

impl Drop for Log {
    /// Waits until everything is written.
    fn drop(&mut self) {
        drop(self.queue.take());
        if let Some(writer) = self.writer.take() {
            // The writer does not panic; if it did, there is nobody left to tell.
            let _ = writer.join();
        }
    }
}

fn write(file: File, events: &Receiver<Vec<u8>>) {
    let mut file = BufWriter::new(file);
    let mut healthy = true;
    while let Ok(first) = events.recv() {
        let mut result = file.write_all(&first);
        while let Ok(line) = events.try_recv() {
            result = result.and(file.write_all(&line));
        }
        result = result.and(file.flush());
        // Said once when it begins, not once for each event.
        match (&result, healthy) {
            (Err(error), true) => tracing::error!(%error, "the audit log cannot be written"),
            (Ok(()), false) => tracing::info!("the audit log is written again"),
            _ => {}
        }
        healthy = result.is_ok();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::http::query::Query;

    fn record<'a>(info: &'a RequestInfo, user: &'a Identity, level: Level) -> Record<'a> {
        Record {
            id: "7d9",
            level,
            stage: Stage::ResponseComplete,
            uri: "/api/v1/namespaces/a/secrets/s?x=y",
            info,
            user: Some(user),
            impersonated: None,
            source: Some("127.0.0.1".parse().unwrap()),
            user_agent: "kubectl",
            code: 200,
            error: None,
            decision: Some(("allow", "because")),
            request_body: Some(b"{\"data\":1}"),
            response_body: None,
            received: jiff::Timestamp::UNIX_EPOCH,
            now: jiff::Timestamp::UNIX_EPOCH,
        }
    }

    #[test]
    fn events_have_the_form_of_kubernetes() {
        let method = http::Method::PUT;
        let info =
            RequestInfo::new(&method, "/api/v1/namespaces/a/pods/s/status", &Query::default()).unwrap();
        let user = Identity { user: "alice".to_owned(), ..Identity::default() };
        let event = record(&info, &user, Level::RequestResponse).event();
        assert_eq!(
            event["objectRef"],
            json!({
                "resource": "pods", "namespace": "a", "name": "s", "apiVersion": "v1", "subresource": "status",
            })
        );
        assert_eq!(event["user"]["username"], "alice");
        assert_eq!(event["requestObject"]["data"], 1);
        assert_eq!(event["responseStatus"], json!({"metadata": {}, "code": 200}));
        assert_eq!(event["stageTimestamp"], "1970-01-01T00:00:00.000000Z");
        assert_eq!(event["annotations"]["authorization.k8s.io/decision"], "allow");
    }

    #[test]
    fn secrets_are_never_written() {
        for path in [
            "/api/v1/namespaces/a/secrets/s",
            "/api/v1/secrets",
            "/api/v1/namespaces/a/serviceaccounts/s/token",
        ] {
            let info = RequestInfo::new(&http::Method::GET, path, &Query::default()).unwrap();
            let level = Level::RequestResponse.for_request(&info);
            let user = Identity::default();
            assert!(record(&info, &user, level).event().get("requestObject").is_none(), "{path}");
        }
    }

    #[test]
    fn the_log_is_written_when_it_is_closed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("audit.log");
        let info = RequestInfo::default();
        let user = Identity::default();
        for _ in 0..2 {
            let log = Log::open(&path, Level::Metadata).unwrap();
            assert!(log.log(&record(&info, &user, log.level())));
        }
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), 2);
        let line: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
        assert_eq!(line["kind"], "Event");
    }
}
