//! The body of a watch: one JSON object a line, for as long as the watch lasts.
//!
//! The body holds what one batch of the store's events shares with it and one chunk; a client that does not read stops
//! it from being polled, and when it reads again the store says whether it has fallen too far behind.

use std::collections::VecDeque;

use axum::body::Body;
use bytes::{BufMut as _, Bytes, BytesMut};
use futures::{Stream, StreamExt as _, stream};
use serde_json::{Map, Value, json};
use tokio::sync::watch;

use super::answer::{Show, transform_object};
use super::metrics::Counted;
use super::negotiate::{MetaVersion, Transform};
use crate::kind::Kind;
use crate::status::ApiError;
use crate::store::EventKind;
use crate::verbs::{WatchItem, Watcher};

/// A chunk is sent when it has this many bytes, or nothing more is there.
const CHUNK: usize = 64 * 1024;

/// What each event of a watch is written with.
pub struct WatchBody {
    /// The events.
    pub watcher: Watcher,
    /// The kind.
    pub kind: std::sync::Arc<Kind>,
    /// The `apiVersion` that was asked for.
    pub api_version: String,
    /// The form.
    pub show: Show,
    /// Where the time comes from, for the ages in tables.
    pub now: fn() -> jiff::Timestamp,
    /// Becomes true when the server stops.
    pub stop: watch::Receiver<bool>,
    /// Counts this watch.
    pub _counted: Counted,
}

struct Running {
    of: WatchBody,
    waiting: VecDeque<WatchItem>,
    headings: bool,
    ended: bool,
}

impl WatchBody {
    /// The body.
    pub fn into_body(self) -> Body {
        Body::from_stream(self.into_stream().map(Ok::<_, std::convert::Infallible>))
    }

    /// Its chunks: whole lines.
    pub fn into_stream(self) -> impl Stream<Item = Bytes> {
        let running = Running { of: self, waiting: VecDeque::new(), headings: true, ended: false };
        stream::unfold(running, |mut running| async { running.next().await.map(|chunk| (chunk, running)) })
    }
}

impl Running {
    async fn next(&mut self) -> Option<Bytes> {
        if self.ended {
            return None;
        }
        if self.waiting.is_empty() {
            let items = tokio::select! {
                // A sender that is gone stops the server too.
                _ = self.of.stop.wait_for(|stop| *stop) => None,
                items = self.of.watcher.next() => items,
            };
            self.waiting = items?.into();
        }
        let mut chunk = BytesMut::new();
        while chunk.len() < CHUNK
            && let Some(item) = self.waiting.pop_front()
        {
            self.ended = matches!(item, WatchItem::Error(_));
            if let Err(error) = self.write(&mut chunk, &item) {
                write_error(&mut chunk, &error);
                self.ended = true;
            }
            if self.ended {
                break;
            }
        }
        Some(chunk.freeze())
    }

    fn write(&mut self, chunk: &mut BytesMut, item: &WatchItem) -> Result<(), ApiError> {
        match item {
            WatchItem::Object { kind, object } => {
                let object = if self.of.show.form.transform == Transform::None {
                    self.of.watcher.view().bytes(object)?
                } else {
                    let value = self.of.watcher.view().value(object)?;
                    Bytes::from(self.transform(value)?.to_string())
                };
                let name = match kind {
                    EventKind::Added => "ADDED",
                    EventKind::Modified => "MODIFIED",
                    EventKind::Deleted => "DELETED",
                };
                write_event(chunk, name, &object);
            }
            WatchItem::Bookmark { revision, initial_events_end } => {
                let object = self.bookmark(*revision, *initial_events_end);
                write_event(chunk, "BOOKMARK", object.to_string().as_bytes());
            }
            WatchItem::Error(error) => write_error(chunk, error),
        }
        Ok(())
    }

    fn transform(&mut self, value: Value) -> Result<Value, ApiError> {
        let mut show = self.of.show;
        show.now = (self.of.now)();
        // Clients of metadata ask for the list's form where they mean its items.
        if let Transform::PartialList(version) = show.form.transform {
            show.form.transform = Transform::Partial(version);
        }
        let shown = transform_object(value, &self.of.kind, show, self.headings)?;
        self.headings = false;
        Ok(shown)
    }

    fn bookmark(&mut self, revision: u64, initial_events_end: bool) -> Value {
        let mut metadata = Map::new();
        metadata.insert("resourceVersion".to_owned(), revision.to_string().into());
        if initial_events_end {
            metadata.insert("annotations".to_owned(), json!({"k8s.io/initial-events-end": "true"}));
        }
        let version = |version: MetaVersion| version.api_version().to_owned();
        let (kind, api_version) = match self.of.show.form.transform {
            Transform::None => (self.of.kind.names.kind.clone(), self.of.api_version.clone()),
            Transform::Partial(of) | Transform::PartialList(of) => {
                ("PartialObjectMetadata".to_owned(), version(of))
            }
            Transform::Table(of) => ("Table".to_owned(), version(of)),
        };
        let mut object = json!({"kind": kind, "apiVersion": api_version, "metadata": metadata});
        if matches!(self.of.show.form.transform, Transform::Table(_)) {
            object["columnDefinitions"] = json!([]);
            object["rows"] = json!([]);
        }
        object
    }
}

fn write_event(chunk: &mut BytesMut, kind: &str, object: &[u8]) {
    chunk.reserve(object.len() + 48);
    chunk.put_slice(b"{\"type\":\"");
    chunk.put_slice(kind.as_bytes());
    chunk.put_slice(b"\",\"object\":");
    chunk.put_slice(object);
    chunk.put_slice(b"}\n");
}

fn write_error(chunk: &mut BytesMut, error: &ApiError) {
    write_event(chunk, "ERROR", error.to_json().to_string().as_bytes());
}
