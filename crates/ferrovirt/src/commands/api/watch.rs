//! Watches: what happens to objects, as lines of JSON, and an object that is followed until it is as wanted.

use std::time::Duration;

use anyhow::{Context as _, anyhow};
use http::Method;
use http_body_util::BodyExt as _;
use kube::client::Body;
use serde_json::Value;
use tokio::time::Instant;

use super::refusal::{Refusal, RequestError};
use super::resources::Resource;
use super::{JSON, Server, query, request, text};
use crate::report::{ExitCode, Failure};

/// Longest event, in bytes; objects are bounded by the server at a few MiB.
const MAX_EVENT_BYTES: usize = 64 << 20;

/// How soon a watch that ended is opened again at the earliest.
const PACE: Duration = Duration::from_secs(1);

/// How long one look may take where there is no time to wait.
const LOOK: Duration = Duration::from_secs(10);

/// The events of a watch that is open.
#[derive(Debug)]
pub struct Watch {
    body: Body,
    lines: Lines,
}

/// Lines out of pieces.
#[derive(Debug, Default)]
struct Lines {
    pending: Vec<u8>,
    /// Bytes of `pending` that hold no line's end.
    scanned: usize,
}

impl Lines {
    fn next(&mut self) -> Option<Vec<u8>> {
        match self.pending[self.scanned..].iter().position(|&byte| byte == b'\n') {
            Some(at) => {
                let end = self.scanned + at;
                self.scanned = 0;
                Some(self.pending.drain(..=end).collect())
            }
            None => {
                self.scanned = self.pending.len();
                None
            }
        }
    }
}

impl Server {
    /// Opens a watch at `path`, whose query asks for it.
    ///
    /// # Errors
    /// When the server cannot be reached, or refuses.
    pub async fn watch(&self, path: &str, accept: &str) -> Result<Watch, RequestError> {
        let response = self.open(request(Method::GET, path, accept, None)?).await?;
        Ok(Watch { body: response.into_body(), lines: Lines::default() })
    }

    /// Follows an object until `judge`, which is given what it is now (nothing where it is not), gives something; nothing
    /// when `deadline` comes before. At least one look is taken, however near that is.
    ///
    /// # Errors
    /// When the server cannot be reached, or refuses.
    pub async fn follow<T>(
        &self,
        resource: &Resource,
        namespace: Option<&str>,
        name: &str,
        deadline: Deadline,
        mut judge: impl FnMut(Option<&Value>) -> Option<T>,
    ) -> Result<Option<T>, RequestError> {
        let path = resource.path(namespace, None);
        let one = format!("metadata.name={name}");
        let list_path = format!("{path}{}", query([("fieldSelector", one.as_str())]));
        let mut patience = deadline.with_a_look();
        loop {
            let began = Instant::now();
            let Some(list) = patience.bounds(self.get(&list_path, JSON)).await else { return Ok(None) };
            let list = list?;
            if let Some(done) = judge(list["items"].get(0)) {
                return Ok(Some(done));
            }
            patience = deadline;
            let from = text(&list, "/metadata/resourceVersion");
            let pairs = [("watch", "true"), ("fieldSelector", one.as_str()), ("resourceVersion", from)];
            let watch_path = format!("{path}{}", query(pairs));
            let watching = async {
                match self.judge_events(&watch_path, &mut judge).await {
                    // The server ends watches now and then, and what it tells from may be too old for it.
                    Ok(None) => {}
                    Err(error) if error.is_expired() => {}
                    done => return done,
                }
                tokio::time::sleep_until(began + PACE).await;
                Ok(None)
            };
            match deadline.bounds(watching).await {
                None => return Ok(None),
                Some(Ok(None)) => {}
                Some(done) => return done,
            }
        }
    }

    /// Watches until `judge` gives something; nothing when the watch has ended.
    async fn judge_events<T>(
        &self,
        path: &str,
        judge: &mut impl FnMut(Option<&Value>) -> Option<T>,
    ) -> Result<Option<T>, RequestError> {
        let mut watch = self.watch(path, JSON).await?;
        while let Some(event) = watch.next().await? {
            let object = (event["type"] != "DELETED").then_some(&event["object"]);
            if let Some(done) = judge(object) {
                return Ok(Some(done));
            }
        }
        Ok(None)
    }
}

impl Watch {
    /// The next event (`type` and `object`); nothing when the server has ended the watch.
    ///
    /// # Errors
    /// When the connection breaks, or the event is an error.
    pub async fn next(&mut self) -> Result<Option<Value>, RequestError> {
        loop {
            if let Some(line) = self.lines.next() {
                return event(&line).map(Some);
            }
            if self.lines.pending.len() > MAX_EVENT_BYTES {
                return Err(failed(anyhow!("an event has more than {MAX_EVENT_BYTES} bytes")));
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.lines.pending.extend_from_slice(&data);
                    }
                }
                Some(Err(error)) => return Err(failed(error.into())),
            }
        }
    }
}

fn failed(error: anyhow::Error) -> RequestError {
    RequestError::Failed(error.context("cannot read what the server tells").into())
}

fn event(line: &[u8]) -> Result<Value, RequestError> {
    let event: Value = serde_json::from_slice(line).context("an event is not JSON").map_err(failed)?;
    match event["type"] == "ERROR" {
        true => Err(RequestError::Refused(Refusal::of(&event["object"], 500))),
        false => Ok(event),
    }
}

/// When something is given up.
#[derive(Debug, Clone, Copy)]
pub struct Deadline {
    bound: Duration,
    at: Option<Instant>,
}

impl Deadline {
    /// So long from now on; without a bound, or with one beyond all time, never.
    pub fn after(bound: Option<Duration>) -> Self {
        let bound = bound.unwrap_or(Duration::MAX);
        Self { bound, at: Instant::now().checked_add(bound) }
    }

    /// The same, but not before one look could be taken.
    fn with_a_look(self) -> Self {
        Self { at: self.at.map(|at| at.max(Instant::now() + LOOK)), ..self }
    }

    /// What `work` gives, if it does so in time.
    pub async fn bounds<T>(self, work: impl Future<Output = T>) -> Option<T> {
        match self.at {
            Some(at) => tokio::time::timeout_at(at, work).await.ok(),
            None => Some(work.await),
        }
    }

    /// The failure to see `what` come about in time ("VirtualMachine `default/demo` to be gone"), with exit code 124.
    pub fn missed(self, what: &str) -> Failure {
        let error = anyhow!("waited {:?} in vain for {what}", self.bound);
        let hint = Some("give it more time with --timeout".to_owned());
        Failure { code: ExitCode::TimedOut, ..Failure::refused(error, hint) }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn lines_come_whole_however_they_are_cut() {
        let mut lines = Lines::default();
        let mut found = Vec::new();
        for piece in b"first\n\nsecond\nthe re".chunks(3) {
            lines.pending.extend_from_slice(piece);
            while let Some(line) = lines.next() {
                found.push(String::from_utf8(line).unwrap());
            }
        }
        assert_eq!(found, ["first\n", "\n", "second\n"]);
        lines.pending.extend_from_slice(b"st\n");
        assert_eq!(lines.next().unwrap(), b"the rest\n");
    }

    #[test]
    fn an_error_is_no_event() {
        let added = event(br#"{"type":"ADDED","object":{"a":1}}"#).unwrap();
        assert_eq!(added["object"]["a"], 1);
        let error = event(br#"{"type":"ERROR","object":{"code":410,"message":"too old"}}"#).unwrap_err();
        assert!(error.is_expired());
        assert!(!event(b"[").unwrap_err().is_expired());
    }
}
