//! What is kept in memory: the present of every object, and the last changes of every prefix.
//!
//! One lock guards all of it. Readers hold it while they clone `Arc`s; only the writer thread changes anything, a whole
//! group of commits at a time, so that every reader sees the state as it was between two groups.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Bound;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use tokio::sync::watch;

use super::log::{Before, Entry, Key, Replay};
use super::types::{Event, EventKind, HistoryError, HistoryLimits, Stored};

/// The memory of a store.
#[derive(Debug)]
pub(super) struct Cache {
    state: RwLock<State>,
    /// The last published revision, for those who wait for one.
    revision: watch::Sender<u64>,
}

/// What the lock guards.
#[derive(Debug)]
pub(super) struct State {
    pub(super) revision: u64,
    /// The oldest revision that history goes back to.
    pub(super) floor: u64,
    pub(super) closed: bool,
    /// What changed up to this revision before the state was opened may be forgotten.
    base: u64,
    prefixes: HashMap<Box<str>, Prefix>,
    window_events: usize,
    window_bytes: usize,
}

/// The objects and the last changes of one kind.
#[derive(Debug)]
pub(super) struct Prefix {
    objects: BTreeMap<Box<str>, BTreeMap<Box<str>, Arc<Stored>>>,
    window: VecDeque<Arc<Event>>,
    bytes: usize,
    /// The window has every change after this revision.
    pub(super) window_start: u64,
    pub(super) last_changed: u64,
    /// Wakes watches; the value is of no matter.
    changed: watch::Sender<()>,
}

impl Cache {
    /// What `replay` found.
    pub(super) fn new(replay: Replay, limits: &HistoryLimits) -> Self {
        let mut state = State {
            revision: replay.revision,
            floor: replay.floor,
            closed: false,
            base: replay.floor,
            prefixes: HashMap::new(),
            window_events: limits.window_events.max(1),
            window_bytes: limits.window_bytes,
        };
        for (name, objects) in replay.objects {
            let last_changed = replay.last_changed.get(&name).copied().unwrap_or_default();
            let mut prefix = Prefix::new(last_changed.max(state.base));
            for object in objects {
                prefix.put(object);
            }
            state.prefixes.insert(name, prefix);
        }
        let revision = watch::Sender::new(state.revision);
        Self { state: RwLock::new(state), revision }
    }

    /// The state for a moment; nothing may be awaited while it is held.
    pub(super) fn read(&self) -> RwLockReadGuard<'_, State> {
        // A panic while it was held left every map valid, as each change of one is a single call.
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Shows `entries`, which are on the disk, to everybody.
    pub(super) fn publish(&self, entries: &[Entry]) {
        let mut state = self.write();
        let mut touched: Vec<&str> = Vec::new();
        for Entry { prefix, event } in entries {
            state.apply(prefix, event);
            if !touched.contains(&&**prefix) {
                touched.push(prefix);
            }
        }
        for prefix in touched {
            if let Some(prefix) = state.prefixes.get(prefix) {
                prefix.changed.send_replace(());
            }
        }
        let revision = state.revision;
        drop(state);
        self.revision.send_replace(revision);
    }

    /// The history before `floor` is gone.
    pub(super) fn raise_floor(&self, floor: u64) {
        let mut state = self.write();
        state.floor = floor;
        for prefix in state.prefixes.values_mut() {
            while prefix.window.front().is_some_and(|event| event.revision <= floor) {
                prefix.forget_first();
            }
        }
    }

    /// Ends all watches, after what they have not seen yet.
    pub(super) fn close(&self) {
        let mut state = self.write();
        state.closed = true;
        for prefix in state.prefixes.values() {
            prefix.changed.send_replace(());
        }
    }

    /// Something that changes whenever the revision does.
    pub(super) fn revisions(&self) -> watch::Receiver<u64> {
        self.revision.subscribe()
    }

    /// Something that changes whenever `prefix` does.
    pub(super) fn changes(&self, prefix: &str) -> watch::Receiver<()> {
        if let Some(known) = self.read().prefixes.get(prefix) {
            return known.changed.subscribe();
        }
        let mut state = self.write();
        state.prefix_mut(prefix).changed.subscribe()
    }
}

impl State {
    fn prefix_mut(&mut self, name: &str) -> &mut Prefix {
        let base = self.base;
        // Prefixes come from kinds, so that there are few, and this is the first use of one.
        self.prefixes.entry(name.into()).or_insert_with(|| Prefix::new(base))
    }

    fn apply(&mut self, name: &str, event: &Arc<Event>) {
        let (max_events, max_bytes) = (self.window_events, self.window_bytes);
        self.revision = self.revision.max(event.revision);
        if !self.prefixes.contains_key(name) {
            self.prefix_mut(name);
        }
        let Some(prefix) = self.prefixes.get_mut(name) else { return };
        match event.kind {
            EventKind::Deleted => prefix.remove(&event.object.namespace, &event.object.name),
            EventKind::Added | EventKind::Modified => prefix.put(Arc::clone(&event.object)),
        }
        prefix.last_changed = event.revision;
        prefix.bytes += event.object.json.len();
        prefix.window.push_back(Arc::clone(event));
        while prefix.window.len() > max_events || (prefix.bytes > max_bytes && prefix.window.len() > 1) {
            prefix.forget_first();
        }
    }

    pub(super) fn prefix(&self, name: &str) -> Option<&Prefix> {
        self.prefixes.get(name)
    }

    /// No earlier than the last change under `prefix`, and the same until there is another.
    pub(super) fn last_changed(&self, prefix: &str) -> u64 {
        self.prefixes.get(prefix).map_or(self.base, |prefix| prefix.last_changed)
    }

    pub(super) fn get(&self, prefix: &str, namespace: &str, name: &str) -> Option<&Arc<Stored>> {
        self.prefixes.get(prefix)?.objects.get(namespace)?.get(name)
    }

    /// Objects in the order of namespace and name, those after `after`.
    pub(super) fn objects<'a>(
        &'a self,
        prefix: &str,
        namespace: Option<&'a str>,
        after: Option<(&'a str, &'a str)>,
    ) -> impl Iterator<Item = &'a Arc<Stored>> {
        self.prefixes.get(prefix).into_iter().flat_map(move |prefix| prefix.objects(namespace, after))
    }

    /// Whether the past at `revision` can be shown of `prefix`, as far as the revision itself tells.
    pub(super) fn judge(&self, prefix: &str, revision: u64) -> Result<(), HistoryError> {
        if revision > self.revision {
            return Err(HistoryError::Future { current: self.revision });
        }
        // What has not changed since is known however long ago that was.
        if revision < self.floor && revision < self.last_changed(prefix) {
            return Err(HistoryError::Compacted { oldest: self.floor });
        }
        Ok(())
    }
}

impl Prefix {
    fn new(last_changed: u64) -> Self {
        Self {
            objects: BTreeMap::new(),
            window: VecDeque::new(),
            bytes: 0,
            window_start: last_changed,
            last_changed,
            changed: watch::Sender::new(()),
        }
    }

    fn put(&mut self, object: Arc<Stored>) {
        if let Some(known) =
            self.objects.get_mut(&object.namespace).and_then(|names| names.get_mut(&object.name))
        {
            *known = object;
        } else {
            let names = self.objects.entry(object.namespace.clone()).or_default();
            names.insert(object.name.clone(), object);
        }
    }

    fn remove(&mut self, namespace: &str, name: &str) {
        let Some(names) = self.objects.get_mut(namespace) else { return };
        names.remove(name);
        if names.is_empty() {
            self.objects.remove(namespace);
        }
    }

    fn forget_first(&mut self) {
        if let Some(event) = self.window.pop_front() {
            self.bytes -= event.object.json.len();
            self.window_start = event.revision;
        }
    }

    fn objects<'a>(
        &'a self,
        namespace: Option<&'a str>,
        after: Option<(&'a str, &'a str)>,
    ) -> impl Iterator<Item = &'a Arc<Stored>> {
        let from = match (namespace, after) {
            (Some(namespace), _) | (None, Some((namespace, _))) => Bound::Included(namespace),
            (None, None) => Bound::Unbounded,
        };
        let to = namespace.map_or(Bound::Unbounded, Bound::Included);
        self.objects
            .range::<str, _>((from, to))
            .flat_map(move |(namespace, names)| {
                let from = match after {
                    Some((last, name)) if last == &**namespace => Bound::Excluded(name),
                    _ => Bound::Unbounded,
                };
                let passed = after.is_some_and(|(last, _)| &**namespace < last);
                (!passed).then(|| names.range::<str, _>((from, Bound::Unbounded))).into_iter().flatten()
            })
            .map(|(_, object)| object)
    }

    /// The changes in the window after `revision`, oldest first.
    pub(super) fn after(&self, revision: u64) -> impl DoubleEndedIterator<Item = &Arc<Event>> {
        let first = self.window.partition_point(|event| event.revision <= revision);
        self.window.range(first..)
    }

    /// What the objects that changed after `revision` were then; the window must go back to it.
    pub(super) fn before(&self, namespace: Option<&str>, revision: u64) -> Before {
        let mut before = Before::new();
        for event in self.after(revision).filter(|event| is_in(namespace, event)) {
            before
                .entry((event.object.namespace.clone(), event.object.name.clone()))
                .or_insert_with(|| event.previous.clone());
        }
        before
    }
}

/// Whether `event` is of `namespace`; everything is of `None`.
pub(super) fn is_in(namespace: Option<&str>, event: &Event) -> bool {
    namespace.is_none_or(|namespace| namespace == &*event.object.namespace)
}

/// Puts the past of `before` in the place of what is now.
pub(super) fn rewind(now: Vec<Arc<Stored>>, before: Before) -> Vec<Arc<Stored>> {
    let mut then: BTreeMap<Key, Arc<Stored>> =
        now.into_iter().map(|object| ((object.namespace.clone(), object.name.clone()), object)).collect();
    for (key, object) in before {
        match object {
            Some(object) => then.insert(key, object),
            None => then.remove(&key),
        };
    }
    then.into_values().collect()
}
