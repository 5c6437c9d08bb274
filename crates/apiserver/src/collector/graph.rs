//! Who is owned by whom: the part of garbage collection that is a function of values.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::Deserialize;

use crate::kind::{Kind, Kinds, Scope};
use crate::verbs::{FOREGROUND, ORPHAN, Propagation};

/// What garbage collection must know of an object.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Slim {
    metadata: SlimMetadata,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct SlimMetadata {
    uid: Box<str>,
    deletion_timestamp: Option<Box<str>>,
    finalizers: Vec<Box<str>>,
    owner_references: Vec<Owner>,
}

/// One owner reference.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Owner {
    pub(super) api_version: Box<str>,
    pub(super) kind: Box<str>,
    pub(super) name: Box<str>,
    pub(super) uid: Box<str>,
    pub(super) block_owner_deletion: bool,
}

impl Slim {
    /// Reads what matters out of an object's JSON; `None` for what is no object.
    pub(super) fn read(json: &[u8]) -> Option<Self> {
        serde_json::from_slice(json).ok()
    }

    pub(super) fn uid(&self) -> &str {
        &self.metadata.uid
    }

    pub(super) fn owners(&self) -> &[Owner] {
        &self.metadata.owner_references
    }

    pub(super) fn is_deleting(&self) -> bool {
        self.metadata.deletion_timestamp.is_some()
    }

    fn has(&self, finalizer: &str) -> bool {
        self.metadata.finalizers.iter().any(|own| &**own == finalizer)
    }

    /// Whether it waits for its dependents to be deleted.
    pub(super) fn is_foreground(&self) -> bool {
        self.is_deleting() && self.has(FOREGROUND)
    }

    /// Whether its dependents are to lose their reference to it.
    pub(super) fn is_orphaning(&self) -> bool {
        self.is_deleting() && self.has(ORPHAN)
    }

    /// How its own dependents are to be dealt with when it is collected.
    fn propagation(&self) -> Propagation {
        if self.has(ORPHAN) {
            Propagation::Orphan
        } else if self.has(FOREGROUND) {
            Propagation::Foreground
        } else {
            Propagation::Background
        }
    }
}

/// Where an object is, and which one it is.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) kind: Arc<Kind>,
    pub(super) namespace: Box<str>,
    pub(super) name: Box<str>,
    pub(super) uid: Box<str>,
}

/// The objects that have owners, by uid, and what each uid owns.
#[derive(Debug, Default)]
pub(super) struct Graph {
    nodes: BTreeMap<Box<str>, (Place, Vec<Owner>)>,
    dependents: BTreeMap<Box<str>, BTreeSet<Box<str>>>,
}

impl Graph {
    /// Takes note of an object's present owners.
    pub(super) fn put(&mut self, place: Place, owners: &[Owner]) {
        self.remove(&place.uid);
        if owners.is_empty() || place.uid.is_empty() {
            return;
        }
        for owner in owners {
            self.dependents.entry(owner.uid.clone()).or_default().insert(place.uid.clone());
        }
        self.nodes.insert(place.uid.clone(), (place, owners.to_vec()));
    }

    /// Forgets an object.
    pub(super) fn remove(&mut self, uid: &str) {
        let Some((_, owners)) = self.nodes.remove(uid) else { return };
        for owner in owners {
            if let Some(dependents) = self.dependents.get_mut(&owner.uid) {
                dependents.remove(uid);
                if dependents.is_empty() {
                    self.dependents.remove(&owner.uid);
                }
            }
        }
    }

    /// Forgets every object of a kind.
    pub(super) fn remove_kind(&mut self, kind: &Kind) {
        let gone: Vec<_> = self
            .nodes
            .values()
            .filter(|(place, _)| place.kind.storage_prefix() == kind.storage_prefix())
            .map(|(place, _)| place.uid.clone())
            .collect();
        for uid in gone {
            self.remove(&uid);
        }
    }

    /// What this uid owns, with the reference to it.
    pub(super) fn dependents(&self, owner: &str) -> impl Iterator<Item = (&Place, &Owner)> {
        self.dependents.get(owner).into_iter().flatten().filter_map(move |uid| {
            let (place, owners) = self.nodes.get(uid)?;
            Some((place, owners.iter().find(|reference| &*reference.uid == owner)?))
        })
    }

    /// Every object with owners.
    pub(super) fn places(&self) -> impl Iterator<Item = &Place> {
        self.nodes.values().map(|(place, _)| place)
    }
}

/// Where an owner reference points to, as seen from `dependent`'s namespace; `None` when nothing can be said of it.
pub(super) fn owner_place(kinds: &Kinds, dependent: &Place, owner: &Owner) -> Option<Place> {
    let (group, _) = owner.api_version.split_once('/').unwrap_or(("", &owner.api_version));
    let kind = kinds.kind(group, &owner.kind)?;
    let namespace = match (kind.scope, dependent.kind.scope) {
        (Scope::Cluster, _) => "",
        (Scope::Namespaced, Scope::Namespaced) => &*dependent.namespace,
        // An object beside the namespaces cannot be owned from within one.
        (Scope::Namespaced, Scope::Cluster) => return None,
    };
    Some(Place {
        kind: Arc::clone(kind),
        namespace: namespace.into(),
        name: owner.name.clone(),
        uid: owner.uid.clone(),
    })
}

/// What became of an owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OwnerState {
    /// It is there, or nobody can say.
    Solid,
    /// It is not there, or another object has its name.
    Absent,
    /// It is being deleted and waits for its dependents.
    Waiting,
}

/// What is done about an object with owners.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing.
    Keep,
    /// References to these uids go; the object stays for another owner.
    Release(Vec<Box<str>>),
    /// The object goes.
    Delete(Propagation),
}

/// Decides about an object that is not being deleted (`attemptToDeleteItem` of Kubernetes' garbage collector).
pub(super) fn judge(slim: &Slim, states: &[OwnerState], has_dependents: bool) -> Verdict {
    if slim.is_deleting() || slim.owners().is_empty() {
        return Verdict::Keep;
    }
    let gone = |(_, state): &(&Owner, &OwnerState)| **state != OwnerState::Solid;
    let gone: Vec<_> =
        slim.owners().iter().zip(states).filter(gone).map(|(owner, _)| owner.uid.clone()).collect();
    if gone.len() < slim.owners().len() {
        return if gone.is_empty() { Verdict::Keep } else { Verdict::Release(gone) };
    }
    if states.contains(&OwnerState::Waiting) && has_dependents {
        return Verdict::Delete(Propagation::Foreground);
    }
    Verdict::Delete(slim.propagation())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;

    fn slim(owners: &[&str], metadata: serde_json::Value) -> Slim {
        let references: Vec<_> = owners.iter().map(|uid| json!({"uid": uid, "kind": "X"})).collect();
        let mut object = json!({"metadata": metadata});
        object["metadata"]["ownerReferences"] = references.into();
        Slim::read(object.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn an_object_lives_as_long_as_one_owner() {
        use OwnerState::{Absent, Solid, Waiting};
        let release = |uid: &str| Verdict::Release(vec![uid.into()]);
        for (states, dependents, expected) in [
            (vec![Solid], false, Verdict::Keep),
            (vec![Absent], false, Verdict::Delete(Propagation::Background)),
            (vec![Waiting], false, Verdict::Delete(Propagation::Background)),
            (vec![Waiting], true, Verdict::Delete(Propagation::Foreground)),
            (vec![Solid, Absent], false, release("o1")),
            (vec![Waiting, Solid], true, release("o0")),
            (vec![Absent, Absent], true, Verdict::Delete(Propagation::Background)),
        ] {
            let uids: Vec<_> = (0..states.len()).map(|number| format!("o{number}")).collect();
            let uids: Vec<_> = uids.iter().map(String::as_str).collect();
            assert_eq!(judge(&slim(&uids, json!({})), &states, dependents), expected, "{states:?}");
        }
        let deleting = slim(&["o0"], json!({"deletionTimestamp": "2026-01-01T00:00:00Z"}));
        assert_eq!(judge(&deleting, &[Absent], false), Verdict::Keep);
        let orphaning = slim(&["o0"], json!({"finalizers": ["orphan"]}));
        assert_eq!(judge(&orphaning, &[Absent], false), Verdict::Delete(Propagation::Orphan));
    }
}
