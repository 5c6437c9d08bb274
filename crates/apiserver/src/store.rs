//! The state: one ordered change log in SQLite, served from memory.

use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

mod types;

pub use types::{
    Change, CommitError, EncodeError, Encoded, Event, EventKind, Expect, HistoryError, HistoryLimits,
    Listing, StorageFault, StoreOptions, Stored, WatchError, Write,
};

/// Why the state cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {}

/// The state of a server. Clones share it.
#[derive(Debug, Clone)]
pub struct Store {}

/// A watch.
#[derive(Debug)]
pub struct Watch {}

const STUB: &str = "the store is being written";

#[allow(missing_docs, clippy::missing_errors_doc, unused_variables)]
impl Store {
    pub fn open(options: StoreOptions) -> Result<Self, OpenError> {
        panic!("{STUB}")
    }
    pub fn revision(&self) -> u64 {
        panic!("{STUB}")
    }
    pub fn last_changed(&self, prefix: &str) -> u64 {
        panic!("{STUB}")
    }
    pub fn get(&self, prefix: &str, namespace: &str, name: &str) -> Option<Arc<Stored>> {
        panic!("{STUB}")
    }
    pub fn list(&self, prefix: &str, namespace: Option<&str>) -> Listing {
        panic!("{STUB}")
    }
    pub fn list_from(
        &self,
        prefix: &str,
        namespace: Option<&str>,
        after: Option<(&str, &str)>,
        max: usize,
    ) -> Listing {
        panic!("{STUB}")
    }
    pub fn list_at(
        &self,
        prefix: &str,
        namespace: Option<&str>,
        revision: u64,
    ) -> impl Future<Output = Result<Listing, HistoryError>> + Send + use<> {
        async { panic!("{STUB}") }
    }
    pub fn wait_for(&self, revision: u64, timeout: Duration) -> impl Future<Output = bool> + Send + use<> {
        async { panic!("{STUB}") }
    }
    pub fn commit(
        &self,
        write: Write,
    ) -> impl Future<Output = Result<Arc<Stored>, CommitError>> + Send + use<> {
        async { panic!("{STUB}") }
    }
    pub fn watch(&self, prefix: &str, namespace: Option<String>, from: u64) -> Result<Watch, HistoryError> {
        panic!("{STUB}")
    }
    /// Forgets everything before `revision` now (at most the present); returns the new oldest revision.
    pub fn compact(&self, revision: u64) -> impl Future<Output = Result<u64, CommitError>> + Send + use<> {
        async { panic!("{STUB}") }
    }
    pub fn backup(&self, path: &Path) -> impl Future<Output = Result<(), OpenError>> + Send + use<> {
        async { panic!("{STUB}") }
    }
    pub fn close(&self) -> impl Future<Output = ()> + Send + use<> {
        async { panic!("{STUB}") }
    }
}

#[allow(missing_docs, clippy::missing_errors_doc)]
impl Watch {
    pub async fn next(&mut self) -> Result<Vec<Arc<Event>>, WatchError> {
        panic!("{STUB}")
    }
    pub fn progress(&self) -> u64 {
        panic!("{STUB}")
    }
}
