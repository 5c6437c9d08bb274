//! Changes of several kinds in one bounded channel, restarted from a list whenever a watch falls behind.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::kind::Kind;
use crate::store::{Event, Stored, WatchError};
use crate::verbs::Api;

use super::stopped;

/// How many changes wait for a controller before its watches wait too.
const CAPACITY: usize = 256;
/// How long is waited before a watch that could not be started is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// What a controller is told.
#[derive(Debug)]
pub(super) enum Change {
    /// Everything there is of a kind; whatever was known of it before is void.
    Listed {
        /// The kind.
        kind: Arc<Kind>,
        /// Its objects.
        items: Vec<Arc<Stored>>,
        /// The version of the list.
        revision: u64,
    },
    /// One change.
    Event {
        /// The kind.
        kind: Arc<Kind>,
        /// The change.
        event: Arc<Event>,
    },
}

/// Running watches; they end when this is dropped.
pub(super) struct Feed {
    /// The kinds that are watched.
    pub(super) kinds: usize,
    receiver: mpsc::Receiver<Change>,
    stop: watch::Receiver<bool>,
    /// Ends the watches on drop.
    _tasks: JoinSet<()>,
}

impl Feed {
    /// Watches these kinds, each storage once.
    pub(super) fn new(api: &Api, wanted: impl Fn(&Kind) -> bool, stop: &watch::Receiver<bool>) -> Self {
        let (sender, receiver) = mpsc::channel(CAPACITY);
        let mut tasks = JoinSet::new();
        // Kinds that share their storage are seen through the one that owns it.
        let kinds = api
            .kinds()
            .iter()
            .filter(|kind| kind.shared_storage.is_none() && kind.refuses_creation.is_none() && wanted(kind));
        let mut count = 0;
        for kind in kinds {
            count += 1;
            tasks.spawn(forward(api.clone(), Arc::clone(kind), sender.clone(), stop.clone()));
        }
        Self { kinds: count, receiver, stop: stop.clone(), _tasks: tasks }
    }

    /// The next change; `None` when the server stops.
    pub(super) async fn next(&mut self) -> Option<Change> {
        tokio::select! {
            biased;
            () = stopped(&mut self.stop) => None,
            change = self.receiver.recv() => match change {
                Some(change) => Some(change),
                // No kind to watch, or the store is closed: nothing comes until the stop.
                None => {
                    stopped(&mut self.stop).await;
                    None
                }
            }
        }
    }
}

async fn forward(api: Api, kind: Arc<Kind>, sender: mpsc::Sender<Change>, mut stop: watch::Receiver<bool>) {
    let prefix = kind.storage_prefix();
    loop {
        let listing = api.store().list(&prefix, None);
        let from = listing.revision;
        let listed = Change::Listed { kind: Arc::clone(&kind), items: listing.items, revision: from };
        if sender.send(listed).await.is_err() {
            return;
        }
        // What cannot be watched now is listed and tried again after a while.
        if let Ok(mut live) = api.store().watch(&prefix, None, from) {
            loop {
                let events = tokio::select! {
                    biased;
                    () = stopped(&mut stop) => return,
                    events = live.next() => events,
                };
                match events {
                    Ok(events) => {
                        for event in events {
                            let change = Change::Event { kind: Arc::clone(&kind), event };
                            if sender.send(change).await.is_err() {
                                return;
                            }
                        }
                    }
                    Err(WatchError::Closed) => return,
                    Err(WatchError::Expired { .. } | WatchError::Unavailable(_)) => break,
                }
            }
        }
        tokio::select! {
            () = stopped(&mut stop) => return,
            () = tokio::time::sleep(RETRY) => {}
        }
    }
}
