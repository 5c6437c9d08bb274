//! Kinds whose objects are kept for a time after their last change (Events: one hour).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use tokio::sync::watch;

use crate::kind::Kind;
use crate::store::{EventKind, Stored};
use crate::verbs::{Api, Context, DeleteOptions, Target};

use super::feed::{Change, Feed};

/// The longest sleep: the wall clock may jump.
const LONGEST_SLEEP: Duration = Duration::from_secs(30);
const USER: &str = "system:apiserver";

/// When what expires: by time, and by place so that a change moves it.
#[derive(Default)]
struct Deadlines {
    by_time: BTreeSet<(Timestamp, Key)>,
    by_key: BTreeMap<Key, (Timestamp, u64)>,
}

/// Storage prefix, namespace, name.
type Key = (Arc<str>, Box<str>, Box<str>);

impl Deadlines {
    fn remove(&mut self, key: &Key) {
        if let Some((at, _)) = self.by_key.remove(key) {
            self.by_time.remove(&(at, key.clone()));
        }
    }

    fn put(&mut self, key: Key, at: Timestamp, revision: u64) {
        self.remove(&key);
        self.by_time.insert((at, key.clone()));
        self.by_key.insert(key, (at, revision));
    }

    /// Takes out what is due.
    fn due(&mut self, now: Timestamp) -> Vec<(Key, u64)> {
        let mut due = Vec::new();
        while let Some((at, key)) = self.by_time.first().cloned() {
            if at > now {
                break;
            }
            let revision = self.by_key.get(&key).map(|(_, revision)| *revision).unwrap_or_default();
            self.remove(&key);
            due.push((key, revision));
        }
        due
    }

    fn next(&self) -> Option<Timestamp> {
        self.by_time.first().map(|(at, _)| *at)
    }
}

/// Runs until the server stops.
pub(super) async fn run(api: Api, stop: watch::Receiver<bool>) {
    let mut feed = Feed::new(&api, |kind| kind.time_to_live.is_some(), &stop);
    let kinds: BTreeMap<Arc<str>, Arc<Kind>> = api
        .kinds()
        .iter()
        .filter(|kind| kind.time_to_live.is_some() && kind.shared_storage.is_none())
        .map(|kind| (Arc::from(kind.storage_prefix()), Arc::clone(kind)))
        .collect();
    let mut deadlines = Deadlines::default();
    loop {
        let sleep = deadlines.next().map(|at| {
            Duration::try_from(at.duration_since(api.now())).unwrap_or_default().min(LONGEST_SLEEP)
        });
        // Not biased: a flood of changes does not keep what is due waiting.
        let change = tokio::select! {
            change = feed.next() => Some(change),
            () = tokio::time::sleep(sleep.unwrap_or_default()), if sleep.is_some() => None,
        };
        let mut note = |kind: &Kind, stored: &Stored, changed: Timestamp, gone: bool| {
            let Some((prefix, _)) = kinds.get_key_value(kind.storage_prefix().as_str()) else { return };
            let key = (Arc::clone(prefix), stored.namespace.clone(), stored.name.clone());
            let life = kind.time_to_live.and_then(|life| SignedDuration::try_from(life).ok());
            match life.and_then(|life| changed.checked_add(life).ok()) {
                Some(at) if !gone => deadlines.put(key, at, stored.revision),
                _ => deadlines.remove(&key),
            }
        };
        match change {
            Some(None) => return,
            Some(Some(Change::Listed { kind, items, .. })) => {
                for stored in items {
                    // Whoever writes an object can write any time into it.
                    let now = api.now();
                    note(&kind, &stored, last_change(&stored).map_or(now, |at| at.min(now)), false);
                }
            }
            Some(Some(Change::Event { kind, event })) => {
                note(&kind, &event.object, api.now(), event.kind == EventKind::Deleted);
            }
            None => {
                for ((prefix, namespace, name), revision) in deadlines.due(api.now()) {
                    if let Some(kind) = kinds.get(&prefix) {
                        expire(&api, kind, &namespace, &name, revision).await;
                    }
                }
            }
        }
    }
}

/// When an object was changed last, as far as it says so itself.
fn last_change(stored: &Stored) -> Option<Timestamp> {
    let object: Value = serde_json::from_slice(&stored.json).ok()?;
    let times = ["/metadata/creationTimestamp", "/lastTimestamp", "/eventTime", "/series/lastObservedTime"];
    times.iter().filter_map(|path| object.pointer(path)?.as_str()?.parse().ok()).max()
}

async fn expire(api: &Api, kind: &Arc<Kind>, namespace: &str, name: &str, revision: u64) {
    let target = Target { kind, version: kind.storage_version(), namespace, name, subresource: "" };
    let options = DeleteOptions { resource_version: Some(revision.to_string()), ..DeleteOptions::default() };
    // Changed or gone since: its own event has set a new deadline, or none.
    if let Err(error) = api.delete(&Context::internal(USER, api.now()), &target, &options).await
        && !matches!(error.code, 404 | 409)
    {
        tracing::debug!(namespace, name, %error, "an expired object stays until the next start");
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_change_moves_the_deadline() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let key = |name: &str| -> Key { ("/core/events/".into(), "a".into(), name.into()) };
        let mut deadlines = Deadlines::default();
        deadlines.put(key("x"), at(10), 1);
        deadlines.put(key("y"), at(11), 2);
        deadlines.put(key("x"), at(20), 3);
        assert_eq!(deadlines.due(at(15)), [(key("y"), 2)]);
        assert_eq!(deadlines.next(), Some(at(20)));
        deadlines.remove(&key("x"));
        assert_eq!(deadlines.due(at(100)), []);
    }
}
