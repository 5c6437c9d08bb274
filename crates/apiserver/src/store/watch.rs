//! Watches: cursors into the window of a prefix. They have no queue, so that a thousand of them cost no more than their
//! cursors, and one that nobody reads holds up nothing.
//!
//! ```text
//!   floor            window_start                    last_changed
//!     │ ── on the disk only ── │ ──── in memory ─────────── │ ── nothing yet ──►
//!       a resumed watch starts here, and moves into memory; from then on it must keep up
//! ```

use std::fmt;
use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::watch::Receiver;

use super::cache::{Cache, is_in};
use super::history::Readers;
use super::log::{self, Span};
use super::types::{Event, HistoryError, WatchError};

/// Most events that one call hands out.
const BATCH_EVENTS: usize = 512;

/// Bytes of JSON that are read from the disk at once.
const READ_BYTES: usize = 4 << 20;

type Page = Result<(Vec<Arc<Event>>, u64), HistoryError>;

/// The changes under one prefix after a revision.
pub struct Watch {
    cache: Arc<Cache>,
    readers: Arc<Readers>,
    prefix: Box<str>,
    namespace: Option<Box<str>>,
    /// Everything up to here was handed out.
    cursor: u64,
    /// Whether it was in the window once.
    live: bool,
    changed: Receiver<()>,
    /// A read from the disk that was begun; it outlives a call of `next` that was dropped.
    reading: Option<BoxFuture<'static, Page>>,
}

impl fmt::Debug for Watch {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Watch")
            .field("prefix", &self.prefix)
            .field("namespace", &self.namespace)
            .field("cursor", &self.cursor)
            .finish_non_exhaustive()
    }
}

/// What is to be done, as it was decided while the lock was held.
enum Step {
    HandOut(Vec<Arc<Event>>),
    Read { upto: u64 },
    Wait,
    End(WatchError),
}

impl Watch {
    pub(super) fn new(
        cache: Arc<Cache>,
        readers: Arc<Readers>,
        prefix: &str,
        namespace: Option<String>,
        from: u64,
    ) -> Self {
        let changed = cache.changes(prefix);
        Self {
            cache,
            readers,
            prefix: prefix.into(),
            namespace: namespace.map(String::into_boxed_str),
            cursor: from,
            live: false,
            changed,
            reading: None,
        }
    }

    /// Waits for changes and hands them out in their order: at least one, and at most a few hundred. Dropping the future
    /// loses nothing.
    ///
    /// # Errors
    /// When the watch fell behind, the store was closed (after all its changes were handed out), or the disk cannot be
    /// read. The watch is over then.
    pub async fn next(&mut self) -> Result<Vec<Arc<Event>>, WatchError> {
        loop {
            if let Some(reading) = &mut self.reading {
                let page = reading.await;
                self.reading = None;
                let (events, upto) = page.map_err(|error| match error {
                    HistoryError::Compacted { oldest } | HistoryError::Future { current: oldest } => {
                        WatchError::Expired { oldest }
                    }
                    HistoryError::Unavailable(fault) => WatchError::Unavailable(fault),
                })?;
                self.cursor = upto;
                if !events.is_empty() {
                    return Ok(events);
                }
            }
            // Before looking, so that a change after the look is not missed.
            self.changed.borrow_and_update();
            match self.step() {
                Step::HandOut(events) => return Ok(events),
                Step::Read { upto } => self.reading = Some(self.read(upto)),
                Step::Wait => self.changed.changed().await.map_err(|_| WatchError::Closed)?,
                Step::End(error) => return Err(error),
            }
        }
    }

    /// Everything up to this revision was handed out by [`next`](Self::next) or is not for this watch, so that a watch
    /// from this revision continues it. What bookmarks carry.
    pub fn progress(&self) -> u64 {
        let state = self.cache.read();
        let Some(prefix) = state.prefix(&self.prefix) else { return self.cursor };
        let is_done = self.cursor >= prefix.last_changed
            || (self.cursor >= prefix.window_start
                && !prefix.after(self.cursor).any(|event| is_in(self.namespace.as_deref(), event)));
        if is_done { self.cursor.max(state.revision) } else { self.cursor }
    }

    fn step(&mut self) -> Step {
        let state = self.cache.read();
        let Some(prefix) = state.prefix(&self.prefix) else { return Step::End(WatchError::Closed) };
        if self.cursor < prefix.window_start {
            if self.live {
                return Step::End(WatchError::Expired { oldest: prefix.window_start });
            }
            if self.cursor < state.floor {
                return Step::End(WatchError::Expired { oldest: state.floor });
            }
            return Step::Read { upto: prefix.window_start };
        }
        self.live = true;
        let mut events = Vec::new();
        for event in prefix.after(self.cursor) {
            if events.len() == BATCH_EVENTS {
                break;
            }
            self.cursor = event.revision;
            if is_in(self.namespace.as_deref(), event) {
                events.push(Arc::clone(event));
            }
        }
        match (events.is_empty(), state.closed) {
            (false, _) => Step::HandOut(events),
            (true, true) => Step::End(WatchError::Closed),
            (true, false) => Step::Wait,
        }
    }

    fn read(&self, upto: u64) -> BoxFuture<'static, Page> {
        let (prefix, namespace, after) = (self.prefix.clone(), self.namespace.clone(), self.cursor);
        let query = move |connection: &rusqlite::Connection| {
            let (entries, more) = log::events(
                connection,
                Span {
                    prefix: Some(&prefix),
                    namespace: namespace.as_deref(),
                    after,
                    upto,
                    max_events: BATCH_EVENTS,
                    max_bytes: READ_BYTES,
                },
            )?;
            let events: Vec<_> = entries.into_iter().map(|entry| entry.event).collect();
            let reached = if more { events.last().map_or(after, |last| last.revision) } else { upto };
            Ok((events, reached))
        };
        Arc::clone(&self.readers).read(after, query).boxed()
    }
}
