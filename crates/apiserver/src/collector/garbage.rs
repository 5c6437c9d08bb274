//! Garbage collection by owner references.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, stream};
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::object;
use crate::status::ApiError;
use crate::store::{EventKind, Stored};
use crate::verbs::{Api, Context, DeleteOptions, FOREGROUND, ORPHAN, Target};

use super::feed::{Change, Feed};
use super::graph::{Graph, OwnerState, Place, Slim, Verdict, judge, owner_place};
use super::until;

/// The user that the collector acts as.
const USER: &str = "system:serviceaccount:kube-system:generic-garbage-collector";
/// How many objects are dealt with side by side.
const PARALLEL: usize = 8;
/// How many objects are dealt with before new changes are looked at.
const BATCH: usize = 64;
/// How long an object that could not be dealt with waits.
const RETRY: Duration = Duration::from_secs(1);

/// Objects to look at, each once.
#[derive(Default)]
struct Queue {
    order: VecDeque<Box<str>>,
    places: BTreeMap<Box<str>, Place>,
}

impl Queue {
    fn push(&mut self, place: Place) {
        if !place.uid.is_empty() && self.places.insert(place.uid.clone(), place.clone()).is_none() {
            self.order.push_back(place.uid);
        }
    }

    fn take(&mut self, most: usize) -> Vec<Place> {
        let count = self.order.len().min(most);
        self.order.drain(..count).filter_map(|uid| self.places.remove(&uid)).collect()
    }
}

/// Runs until the server stops.
pub(super) async fn run(api: Api, stop: watch::Receiver<bool>) {
    let mut feed = Feed::new(&api, |_| true, &stop);
    let (mut graph, mut queue, mut retry) = (Graph::default(), Queue::default(), Queue::default());
    let mut unlisted = feed.kinds;
    let mut retry_at = None;
    // What waits for the graph to catch up, and how far it has come for each kind.
    let (mut waiting, mut seen) = (Queue::default(), Seen::new());
    loop {
        // Before every kind is known nobody can say that an owner has no dependents left.
        let busy = unlisted == 0 && !queue.order.is_empty();
        // Not biased: neither a flood of changes nor a long queue keeps the other waiting.
        let change = tokio::select! {
            change = feed.next() => Some(change),
            () = std::future::ready(()), if busy => None,
            () = until(retry_at), if retry_at.is_some() => {
                retry_at = None;
                for place in retry.take(usize::MAX) {
                    queue.push(place);
                }
                continue;
            }
        };
        if change.is_some() {
            waiting.take(usize::MAX).into_iter().for_each(|place| queue.push(place));
        }
        match change {
            Some(None) => return,
            Some(Some(Change::Listed { kind, items, revision })) => {
                seen.insert(kind.storage_prefix(), revision);
                unlisted = unlisted.saturating_sub(1);
                graph.remove_kind(&kind);
                for stored in &items {
                    note(&api, &mut graph, &mut queue, &kind, stored, EventKind::Added);
                }
                // An owner may have gone while nobody looked.
                let known: Vec<_> = graph.places().cloned().collect();
                known.into_iter().for_each(|place| queue.push(place));
            }
            Some(Some(Change::Event { kind, event })) => {
                seen.insert(kind.storage_prefix(), event.revision);
                note(&api, &mut graph, &mut queue, &kind, &event.object, event.kind);
            }
            None => {
                let batch = queue.take(BATCH);
                let (ready, early): (Vec<_>, Vec<_>) =
                    batch.into_iter().partition(|place| is_caught_up(&api, &seen, place));
                early.into_iter().for_each(|place| waiting.push(place));
                let attempts: Vec<BoxFuture<'_, Option<Place>>> =
                    ready.into_iter().map(|place| attend_or_return(&api, &graph, place).boxed()).collect();
                let failed: Vec<_> = stream::iter(attempts)
                    .buffer_unordered(PARALLEL)
                    .filter_map(std::future::ready)
                    .collect()
                    .await;
                if !failed.is_empty() {
                    retry_at.get_or_insert_with(|| Instant::now() + RETRY);
                }
                failed.into_iter().for_each(|place| retry.push(place));
            }
        }
    }
}

/// Takes note of a change, and queues what it may have consequences for.
fn note(
    api: &Api,
    graph: &mut Graph,
    queue: &mut Queue,
    kind: &std::sync::Arc<crate::kind::Kind>,
    stored: &Stored,
    event: EventKind,
) {
    let Some(slim) = Slim::read(&stored.json) else { return };
    let place = Place {
        kind: std::sync::Arc::clone(kind),
        namespace: stored.namespace.clone(),
        name: stored.name.clone(),
        uid: slim.uid().into(),
    };
    if event == EventKind::Deleted {
        graph.remove(slim.uid());
        graph.dependents(slim.uid()).for_each(|(dependent, _)| queue.push(dependent.clone()));
    } else {
        graph.put(place.clone(), slim.owners());
        if slim.is_foreground() || slim.is_orphaning() || !slim.owners().is_empty() {
            queue.push(place.clone());
        }
        if slim.is_foreground() {
            graph.dependents(slim.uid()).for_each(|(dependent, _)| queue.push(dependent.clone()));
        }
    }
    // Owners that wait for this one may go on.
    for owner in slim.owners() {
        if let Some(owner) = owner_place(api.kinds(), &place, owner)
            && read(api, &owner).is_some_and(|slim| slim.is_foreground())
        {
            queue.push(owner);
        }
    }
}

/// The object at this place now, if it still is the same one.
fn read(api: &Api, place: &Place) -> Option<Slim> {
    read_at(api, place).map(|(slim, _)| slim)
}

/// As [`read`], with the version that was read.
fn read_at(api: &Api, place: &Place) -> Option<(Slim, u64)> {
    let stored = api.store().get(&place.kind.storage_prefix(), &place.namespace, &place.name)?;
    let slim = Slim::read(&stored.json).filter(|slim| slim.uid() == &*place.uid)?;
    Some((slim, stored.revision))
}

/// Up to which version changes have been noted, by storage prefix.
type Seen = BTreeMap<String, u64>;

/// Whether the graph knows every dependent that the object had when it was marked. Only an owner whose end depends on
/// them has to wait for that: without it, a dependent created just before would be taken for none.
fn is_caught_up(api: &Api, seen: &Seen, place: &Place) -> bool {
    let Some(stored) = api.store().get(&place.kind.storage_prefix(), &place.namespace, &place.name) else {
        return true;
    };
    let is_owner = Slim::read(&stored.json).is_some_and(|slim| slim.is_foreground() || slim.is_orphaning());
    !is_owner
        || seen.iter().all(|(prefix, seen)| *seen >= api.store().last_changed(prefix).min(stored.revision))
}

/// Deals with one object; returns it when that has to be tried again.
async fn attend_or_return(api: &Api, graph: &Graph, place: Place) -> Option<Place> {
    match attend(api, graph, &place).await {
        Ok(()) => None,
        Err(error) if error.code == 404 => None,
        Err(error) => {
            tracing::debug!(name = %place.name, %error, "garbage collection is tried again");
            Some(place)
        }
    }
}

/// Does what is to be done about one object now.
async fn attend(api: &Api, graph: &Graph, place: &Place) -> Result<(), ApiError> {
    let Some((slim, revision)) = read_at(api, place) else { return Ok(()) };
    if slim.is_orphaning() {
        for (dependent, _) in graph.dependents(&place.uid) {
            match release(api, dependent, std::slice::from_ref(&place.uid)).await {
                Err(error) if error.code != 404 => return Err(error),
                _ => {}
            }
        }
        return drop_finalizer(api, place, ORPHAN).await;
    }
    if slim.is_foreground() {
        let blocked = graph
            .dependents(&place.uid)
            .any(|(dependent, reference)| reference.block_owner_deletion && read(api, dependent).is_some());
        // Otherwise each dependent's end brings this owner back into the queue.
        return if blocked { Ok(()) } else { drop_finalizer(api, place, FOREGROUND).await };
    }
    let states: Vec<_> = slim
        .owners()
        .iter()
        .map(|owner| match owner_place(api.kinds(), place, owner) {
            None => OwnerState::Solid,
            Some(owner) => match read(api, &owner) {
                None => OwnerState::Absent,
                Some(owner) if owner.is_foreground() => OwnerState::Waiting,
                Some(_) => OwnerState::Solid,
            },
        })
        .collect();
    let has_dependents = graph.dependents(&place.uid).next().is_some();
    match judge(&slim, &states, has_dependents) {
        Verdict::Keep => Ok(()),
        Verdict::Release(uids) => release(api, place, &uids).await,
        Verdict::Delete(propagation) => {
            let options = DeleteOptions {
                uid: Some(place.uid.to_string()),
                // The judgement is about this state; another may have another owner.
                resource_version: Some(revision.to_string()),
                propagation: Some(propagation),
                ..DeleteOptions::default()
            };
            api.delete(&Context::internal(USER, api.now()), &target(place), &options).await.map(|_| ())
        }
    }
}

fn target(place: &Place) -> Target<'_> {
    Target {
        kind: &place.kind,
        version: place.kind.storage_version(),
        namespace: &place.namespace,
        name: &place.name,
        subresource: "",
    }
}

/// Changes the object at this place, if it still is the same one.
async fn modify(
    api: &Api,
    place: &Place,
    change: impl Fn(&mut Value) + Send + Sync + 'static,
) -> Result<(), ApiError> {
    let uid = place.uid.clone();
    let make = move |old: &Value| {
        let mut new = old.clone();
        if object::uid(old) == &*uid {
            change(&mut new);
        }
        Ok(new)
    };
    api.modify(&Context::internal(USER, api.now()), &target(place), make).await.map(|_| ())
}

/// Takes owner references out of an object.
async fn release(api: &Api, place: &Place, owners: &[Box<str>]) -> Result<(), ApiError> {
    let owners = owners.to_vec();
    modify(api, place, move |new| {
        retain(new, "ownerReferences", |reference| {
            let uid = reference.get("uid").and_then(Value::as_str).unwrap_or_default();
            !owners.iter().any(|owner| &**owner == uid)
        });
    })
    .await
}

async fn drop_finalizer(api: &Api, place: &Place, finalizer: &'static str) -> Result<(), ApiError> {
    modify(api, place, move |new| retain(new, "finalizers", |own| own != finalizer)).await
}

/// Keeps only some entries of a list in `metadata`; an empty list goes.
fn retain(object: &mut Value, field: &str, keep: impl Fn(&Value) -> bool) {
    let Some(metadata) = object::metadata_mut(object) else { return };
    if let Some(Value::Array(list)) = metadata.get_mut(field) {
        list.retain(keep);
        if list.is_empty() {
            metadata.shift_remove(field);
        }
    }
}
