//! A watch: events from the store, seen through selectors and a version.
//!
//! ```text
//! rv unset, 0 ─► ADDED of everything there is ─┐
//! rv=N ────────► events after N ───────────────┼─► live events ─► the time is up: a last bookmark, the end
//! sendInitialEvents ─► ADDED…, BOOKMARK (end) ─┘               └► fallen behind: ERROR 410, the end
//! ```

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use crate::status::{ApiError, FieldError};
use crate::store::{Event, EventKind, HistoryError, Stored, Watch, WatchError};

use super::read::{Selectors, parse_version, too_large};
use super::request::check_options;
use super::{Api, ListOptions, Target, View};

/// How often a quiet watch gets a bookmark (`bookmarkFrequency` of the watch cache).
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);
/// How long before its end a watch gets its last bookmark (`nextBookmarkTime` of the watch cache).
const BOOKMARK_BEFORE_END: Duration = Duration::from_secs(2);

/// One line of a watch.
#[derive(Debug, Clone)]
pub enum WatchItem {
    /// `ADDED`, `MODIFIED` or `DELETED`.
    Object {
        /// Which of them.
        kind: EventKind,
        /// The object, to be shown through [`Watcher::view`].
        object: Arc<Stored>,
    },
    /// `BOOKMARK`: an object of the watched kind with only `metadata.resourceVersion`.
    Bookmark {
        /// The version up to which everything has been sent.
        revision: u64,
        /// Whether it ends the initial events of a streaming list (annotation `k8s.io/initial-events-end: "true"`).
        initial_events_end: bool,
    },
    /// `ERROR` with a `Status`; the watch ends after it.
    Error(ApiError),
}

/// A running watch. It keeps no queue of its own: a reader that is slow reads from the store's window, and falls out
/// of it in the end.
#[derive(Debug)]
pub struct Watcher {
    view: View,
    selectors: Selectors,
    /// What is sent before anything else.
    initial: Vec<WatchItem>,
    live: Option<Watch>,
    bookmarks: Option<Instant>,
    last_bookmark: u64,
    end: Option<Instant>,
}

/// What a watch's options ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Start {
    /// Everything there is, and then changes.
    State { at_least: u64, mark_end: bool },
    /// Changes after this version.
    After(u64),
    /// Changes from now on.
    Now,
}

/// Checks a watch's options (`validateWatchOptions` of apimachinery).
fn start(options: &ListOptions) -> Result<Start, ApiError> {
    let version_match = options.resource_version_match.as_str();
    let mut errors = Vec::new();
    const FIELD: &str = "resourceVersionMatch";
    if options.send_initial_events.is_some() && version_match != "NotOlderThan" {
        errors.push(FieldError::forbidden(
            FIELD,
            "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
        ));
    }
    if !version_match.is_empty() {
        if options.send_initial_events.is_none() {
            errors.push(FieldError::forbidden(
                FIELD,
                "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
            ));
        }
        if version_match != "NotOlderThan" {
            errors.push(FieldError::not_supported(FIELD, version_match, ["NotOlderThan"]));
        }
        if !options.continue_token.is_empty() {
            errors.push(FieldError::forbidden(
                FIELD,
                "resourceVersionMatch is forbidden when continue is provided",
            ));
        }
    }
    check_options("ListOptions", &errors)?;
    let version = parse_version(&options.resource_version)?;
    Ok(match (options.send_initial_events, version) {
        (Some(true), version) => {
            Start::State { at_least: version.unwrap_or_default(), mark_end: options.allow_watch_bookmarks }
        }
        (None, None | Some(0)) => Start::State { at_least: 0, mark_end: false },
        (Some(false), None | Some(0)) => Start::Now,
        (_, Some(version)) => Start::After(version),
    })
}

/// 410 as a watch says it.
fn gone(asked: u64, oldest: u64) -> ApiError {
    ApiError::expired(format!("too old resource version: {asked} ({})", oldest.saturating_sub(1)))
}

impl Api {
    pub(super) async fn start_watch(
        &self,
        target: &Target<'_>,
        options: &ListOptions,
    ) -> Result<Watcher, ApiError> {
        let start = start(options)?;
        let selectors = Selectors::parse(target.kind, options)?;
        let view = View::new(target.kind, target.version);
        let prefix = target.kind.storage_prefix();
        let namespace = (!target.namespace.is_empty()).then(|| target.namespace.to_owned());
        let store = &self.inner.store;
        let now = Instant::now();
        let mut watcher = Watcher {
            view,
            selectors,
            initial: Vec::new(),
            live: None,
            bookmarks: None,
            last_bookmark: 0,
            // A time that no clock can show is as good as none.
            end: options.timeout.and_then(|timeout| now.checked_add(timeout)),
        };
        if options.allow_watch_bookmarks {
            watcher.bookmarks = Some(next_bookmark(now, watcher.end));
        }
        let from = match start {
            Start::Now => store.revision(),
            Start::After(version) => version,
            Start::State { at_least, mark_end } => {
                if let Err(error) = self.wait_until(at_least).await {
                    watcher.initial.push(WatchItem::Error(error));
                    return Ok(watcher);
                }
                let listing = store.list(&prefix, namespace.as_deref());
                let added = listing
                    .items
                    .into_iter()
                    .filter(|stored| watcher.selectors.matches(&watcher.view, stored))
                    .map(|object| WatchItem::Object { kind: EventKind::Added, object });
                watcher.initial.extend(added);
                if mark_end {
                    let revision = listing.revision;
                    watcher.initial.push(WatchItem::Bookmark { revision, initial_events_end: true });
                    watcher.last_bookmark = revision;
                }
                listing.revision
            }
        };
        // Errors of a watch are events of it: the answer has begun with 200 (as the watch cache does it).
        match store.watch(&prefix, namespace.clone(), from) {
            Ok(live) => watcher.live = Some(live),
            Err(HistoryError::Compacted { oldest }) => {
                watcher.initial = vec![WatchItem::Error(gone(from, oldest))];
            }
            Err(HistoryError::Future { .. }) => match self.wait_until(from).await {
                Err(error) => watcher.initial = vec![WatchItem::Error(error)],
                Ok(()) => match store.watch(&prefix, namespace, from) {
                    Ok(live) => watcher.live = Some(live),
                    Err(_) => watcher.initial = vec![WatchItem::Error(too_large(from, store.revision()))],
                },
            },
            Err(HistoryError::Unavailable(cause)) => {
                return Err(ApiError::internal(format_args!("the history cannot be read: {cause}")));
            }
        }
        Ok(watcher)
    }
}

/// When a bookmark is due next: once a minute, and a little before the end.
fn next_bookmark(now: Instant, end: Option<Instant>) -> Instant {
    let regular = now + BOOKMARK_EVERY;
    match end.and_then(|end| end.checked_sub(BOOKMARK_BEFORE_END)) {
        Some(last) if last > now => regular.min(last),
        _ => regular,
    }
}

impl Watcher {
    /// How the objects are shown in the version that was asked for.
    pub fn view(&self) -> &View {
        &self.view
    }

    /// The next items, at least one; `None` when the watch has ended (its time is up, or the server stops).
    /// Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<Vec<WatchItem>> {
        if !self.initial.is_empty() {
            return Some(std::mem::take(&mut self.initial));
        }
        loop {
            let end = self.end;
            let bookmark = self.bookmarks;
            let live = self.live.as_mut()?;
            tokio::select! {
                biased;
                () = until(end) => {
                    self.live = None;
                    return None;
                }
                events = live.next() => match events {
                    Ok(events) => {
                        let items = self.show(&events);
                        if !items.is_empty() {
                            return Some(items);
                        }
                    }
                    Err(error) => {
                        let progress = live.progress();
                        self.live = None;
                        return match error {
                            WatchError::Closed => None,
                            WatchError::Expired { oldest } => Some(vec![WatchItem::Error(gone(progress, oldest))]),
                            WatchError::Unavailable(cause) => Some(vec![WatchItem::Error(ApiError::internal(
                                format_args!("the history cannot be read: {cause}"),
                            ))]),
                        };
                    }
                },
                () = until(bookmark) => {
                    let revision = live.progress();
                    self.bookmarks = Some(next_bookmark(Instant::now(), end));
                    if revision > self.last_bookmark {
                        self.last_bookmark = revision;
                        return Some(vec![WatchItem::Bookmark { revision, initial_events_end: false }]);
                    }
                }
            }
        }
    }

    fn show(&self, events: &[Arc<Event>]) -> Vec<WatchItem> {
        events.iter().filter_map(|event| transition(&self.selectors, &self.view, event)).collect()
    }
}

/// Waits until then; for ever where there is no such time.
async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// What an event is to a watch with these selectors: an object that begins to match is ADDED, one that ceases to is
/// DELETED, with its last matching state at the event's version.
fn transition(selectors: &Selectors, view: &View, event: &Event) -> Option<WatchItem> {
    let whole = |kind| Some(WatchItem::Object { kind, object: Arc::clone(&event.object) });
    if selectors.is_empty() {
        return whole(event.kind);
    }
    let before = event.previous.as_ref().is_some_and(|previous| selectors.matches(view, previous));
    let after = event.kind != EventKind::Deleted && selectors.matches(view, &event.object);
    match (before, after) {
        (false, true) => whole(EventKind::Added),
        (true, true) => whole(EventKind::Modified),
        (true, false) if event.kind == EventKind::Deleted => whole(EventKind::Deleted),
        (true, false) => {
            let previous = event.previous.as_ref()?;
            Some(WatchItem::Object { kind: EventKind::Deleted, object: at_version(previous, event.revision) })
        }
        (false, false) => None,
    }
}

/// The same object with another version.
fn at_version(stored: &Stored, revision: u64) -> Arc<Stored> {
    let json = match serde_json::from_slice::<Value>(&stored.json) {
        Ok(mut object) => {
            super::object_rules::set_metadata(&mut object, "resourceVersion", revision.to_string().into());
            // What was parsed can be written again.
            serde_json::to_vec(&object).map_or_else(|_| stored.json.clone(), Into::into)
        }
        Err(_) => stored.json.clone(),
    };
    Arc::new(Stored {
        namespace: stored.namespace.clone(),
        name: stored.name.clone(),
        revision,
        created_revision: stored.created_revision,
        json,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_watch_says_where_it_starts() {
        let options = |version: &str, send: Option<bool>| ListOptions {
            resource_version: version.to_owned(),
            resource_version_match: if send.is_some() { "NotOlderThan".to_owned() } else { String::new() },
            send_initial_events: send,
            allow_watch_bookmarks: true,
            ..ListOptions::default()
        };
        let state = |at_least, mark_end| Start::State { at_least, mark_end };
        for (version, send, expected) in [
            ("", None, state(0, false)),
            ("0", None, state(0, false)),
            ("7", None, Start::After(7)),
            ("", Some(true), state(0, true)),
            ("7", Some(true), state(7, true)),
            ("", Some(false), Start::Now),
            ("7", Some(false), Start::After(7)),
        ] {
            assert_eq!(start(&options(version, send)).unwrap(), expected, "{version:?} {send:?}");
        }
    }

    #[test]
    fn bookmarks_come_once_a_minute_and_before_the_end() {
        let now = Instant::now();
        let after = |seconds| now + Duration::from_secs(seconds);
        for (end, expected) in [
            (None, after(60)),
            (Some(after(300)), after(60)),
            (Some(after(30)), after(28)),
            (Some(after(1)), after(60)),
        ] {
            assert_eq!(next_bookmark(now, end), expected);
        }
    }

    #[test]
    fn options_that_make_no_sense_are_refused_in_kubernetes_words() {
        let send = ListOptions { send_initial_events: Some(true), ..ListOptions::default() };
        assert_eq!(
            start(&send).unwrap_err().message,
            "ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Forbidden: sendInitialEvents requires setting \
             resourceVersionMatch to NotOlderThan"
        );
        let only_match =
            ListOptions { resource_version_match: "NotOlderThan".to_owned(), ..ListOptions::default() };
        let error = start(&only_match).unwrap_err();
        assert_eq!(error.code, 422);
        assert!(
            error.message.ends_with("is forbidden for watch unless sendInitialEvents is provided"),
            "{error}"
        );
    }
}
