//! What a group of writes comes to: which of them happen, and as which changes. Pure.

use std::collections::HashMap;
use std::sync::Arc;

use super::cache::State;
use super::log::Entry;
use super::types::{Change, CommitError, Event, EventKind, Expect, Stored, Write};

/// What becomes of one write once its group is on the disk.
#[derive(Debug)]
pub(super) enum Verdict {
    /// It is this entry of the group.
    Done(usize),
    /// It is refused; nothing else of the group depends on that.
    Refused(CommitError),
}

/// A group of writes as it will be.
#[derive(Debug, Default)]
pub(super) struct Staged {
    /// One for each write.
    pub(super) verdicts: Vec<Verdict>,
    /// The changes, in the order of their revisions.
    pub(super) entries: Vec<Entry>,
}

/// Judges `writes` one after the other. Each sees what those before it will have done.
pub(super) fn stage<'a>(state: &State, writes: impl IntoIterator<Item = &'a Write>) -> Staged {
    let mut staged = Staged::default();
    let mut changed: HashMap<(&str, &str, &str), Option<Arc<Stored>>> = HashMap::new();
    for write in writes {
        let key = (&*write.prefix, &*write.namespace, &*write.name);
        let current = match changed.get(&key) {
            Some(current) => current.clone(),
            None => state.get(key.0, key.1, key.2).cloned(),
        };
        if let Some(error) = refusal(write, current.as_ref()) {
            staged.verdicts.push(Verdict::Refused(error));
            continue;
        }
        let revision = state.revision + 1 + staged.entries.len() as u64;
        let object = Arc::new(Stored {
            namespace: key.1.into(),
            name: key.2.into(),
            revision,
            created_revision: current.as_ref().map_or(revision, |current| current.created_revision),
            json: write.change.encoded().at_revision(revision),
        });
        let (kind, next) = match (&write.change, &current) {
            (Change::Delete(_), _) => (EventKind::Deleted, None),
            (Change::Put(_), None) => (EventKind::Added, Some(Arc::clone(&object))),
            (Change::Put(_), Some(_)) => (EventKind::Modified, Some(Arc::clone(&object))),
        };
        changed.insert(key, next);
        staged.verdicts.push(Verdict::Done(staged.entries.len()));
        let event = Arc::new(Event { revision, kind, object, previous: current });
        staged.entries.push(Entry { prefix: key.0.into(), event });
    }
    staged
}

fn refusal(write: &Write, current: Option<&Arc<Stored>>) -> Option<CommitError> {
    match (write.expect, current, &write.change) {
        (Expect::Absent, Some(current), _) => Some(CommitError::Exists(Arc::clone(current))),
        (Expect::Absent, None, Change::Put(_)) => None,
        // There is nothing to remove.
        (Expect::Absent, None, Change::Delete(_)) | (Expect::Revision(_), None, _) => {
            Some(CommitError::Changed(None))
        }
        (Expect::Revision(expected), Some(current), _) => {
            (current.revision != expected).then(|| CommitError::Changed(Some(Arc::clone(current))))
        }
    }
}
