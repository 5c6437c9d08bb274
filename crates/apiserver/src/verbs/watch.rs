//! A watch: events from the store, seen through selectors and a version.

use std::sync::Arc;

use crate::status::ApiError;
use crate::store::{EventKind, Stored};

use super::View;

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

/// A running watch.
#[derive(Debug)]
pub struct Watcher {
    view: View,
}

impl Watcher {
    /// How the objects are shown in the version that was asked for.
    pub fn view(&self) -> &View {
        &self.view
    }

    /// The next items, at least one; `None` when the watch has ended (its time is up, or the server stops).
    /// Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<Vec<WatchItem>> {
        None
    }
}
