//! The end of a namespace: its contents are deleted, and then its finalizer `kubernetes` goes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::watch;

use crate::kind::Scope;
use crate::object;
use crate::status::ApiError;
use crate::store::{EventKind, Stored};
use crate::verbs::{Api, Context, DeleteOptions, ListOptions, Propagation, Target, namespaces};

use super::feed::{Change, Feed};

const USER: &str = "system:serviceaccount:kube-system:namespace-controller";
/// How often the contents of an ending namespace are looked at.
const AGAIN: Duration = Duration::from_millis(200);

/// Runs until the server stops.
pub(super) async fn run(api: Api, stop: watch::Receiver<bool>) {
    let mut feed = Feed::new(&api, |kind| kind.group.is_empty() && kind.names.plural == "namespaces", &stop);
    let mut ending: BTreeSet<String> = BTreeSet::new();
    loop {
        let change = tokio::select! {
            biased;
            change = feed.next() => Some(change),
            () = tokio::time::sleep(AGAIN), if !ending.is_empty() => None,
        };
        match change {
            Some(None) => return,
            Some(Some(Change::Listed { items, .. })) => {
                ending = items
                    .iter()
                    .filter(|stored| is_ending(stored))
                    .map(|stored| stored.name.to_string())
                    .collect();
            }
            Some(Some(Change::Event { event, .. })) => {
                let name = event.object.name.to_string();
                if event.kind != EventKind::Deleted && is_ending(&event.object) {
                    // The first look comes at once, later ones by the clock.
                    if ending.insert(name.clone()) {
                        look(&api, &name).await;
                    }
                } else {
                    ending.remove(&name);
                }
            }
            None => {
                for name in ending.clone() {
                    look(&api, &name).await;
                }
            }
        }
    }
}

fn is_ending(stored: &Stored) -> bool {
    serde_json::from_slice(&stored.json).is_ok_and(|namespace: Value| object::is_deleting(&namespace))
}

/// Deletes what is in the namespace, and lets it go when nothing is left.
async fn look(api: &Api, name: &str) {
    if let Err(error) = empty(api, name).await
        && error.code != 404
    {
        tracing::debug!(namespace = name, %error, "the end of a namespace is tried again");
    }
}

/// The uid of the namespace that has this name now, if it is being deleted.
fn ending(api: &Api, name: &str) -> Option<String> {
    let stored = api.store().get(namespaces::PREFIX, "", name)?;
    let namespace: Value = serde_json::from_slice(&stored.json).ok()?;
    object::is_deleting(&namespace).then(|| object::uid(&namespace).to_owned())
}

async fn empty(api: &Api, name: &str) -> Result<(), ApiError> {
    // What brought us here may be old, and the name may be another namespace's by now.
    let Some(uid) = ending(api, name) else { return Ok(()) };
    let context = Context::internal(USER, api.now());
    let options = DeleteOptions { propagation: Some(Propagation::Background), ..DeleteOptions::default() };
    let mut failures = Vec::new();
    let mut left = Remaining::default();
    for kind in api.kinds().iter() {
        if kind.scope == Scope::Cluster || kind.shared_storage.is_some() || kind.refuses_creation.is_some() {
            continue;
        }
        let prefix = kind.storage_prefix();
        if api.store().list_from(&prefix, Some(name), None, 1).items.is_empty() {
            continue;
        }
        if ending(api, name).as_ref() != Some(&uid) {
            return Ok(());
        }
        let target =
            Target { kind, version: kind.storage_version(), namespace: name, name: "", subresource: "" };
        if let Err(error) = api.delete_collection(&context, &target, &ListOptions::default(), &options).await
        {
            failures.push(error.message);
        }
        left.count(&kind.group_resource().to_string(), &api.store().list(&prefix, Some(name)).items);
    }
    let Some(namespaces) = api.kinds().resource("", "namespaces") else { return Ok(()) };
    let at = |subresource| Target { kind: namespaces, version: "v1", namespace: "", name, subresource };
    if left.resources.is_empty() && failures.is_empty() {
        let without = |old: &Value| {
            let mut new = old.clone();
            if object::is_deleting(old)
                && object::uid(old) == uid
                && let Some(Value::Array(finalizers)) = new.pointer_mut("/spec/finalizers")
            {
                finalizers.retain(|finalizer| finalizer != "kubernetes");
            }
            Ok(new)
        };
        return api.modify(&context, &at("finalize"), without).await.map(|_| ());
    }
    let now = object::format_time(context.now);
    let make = move |old: &Value| Ok(with_conditions(old, &conditions(&left, &failures), &now));
    api.modify(&context, &at("status"), make).await.map(|_| ())
}

/// What is left in a namespace: how many objects of each resource, and how many with each finalizer.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Remaining {
    resources: BTreeMap<String, usize>,
    finalizers: BTreeMap<String, usize>,
}

impl Remaining {
    fn count(&mut self, resource: &str, items: &[std::sync::Arc<Stored>]) {
        if items.is_empty() {
            return;
        }
        // Kubernetes writes the group behind a dot, also where it is empty: `pods.`.
        let resource = if resource.contains('.') { resource.to_owned() } else { format!("{resource}.") };
        self.resources.insert(resource, items.len());
        for stored in items {
            let object: Value = serde_json::from_slice(&stored.json).unwrap_or_default();
            for finalizer in object::finalizers(&object) {
                *self.finalizers.entry(finalizer.to_owned()).or_default() += 1;
            }
        }
    }
}

/// The five conditions of an ending namespace (`namespaceConditionUpdater`): type, status, reason, message.
fn conditions(
    left: &Remaining,
    failures: &[String],
) -> Vec<(&'static str, &'static str, &'static str, String)> {
    let listed = |counts: &BTreeMap<String, usize>, words: &str| {
        let parts: Vec<_> =
            counts.iter().map(|(name, count)| format!("{name} {words} {count} resource instances")).collect();
        parts.join(", ")
    };
    let content = if failures.is_empty() {
        (
            "NamespaceDeletionContentFailure",
            "False",
            "ContentDeleted",
            "All content successfully deleted, may be waiting on finalization".to_owned(),
        )
    } else {
        (
            "NamespaceDeletionContentFailure",
            "True",
            "ContentDeletionFailed",
            format!(
                "Failed to delete all resource types, {} remaining: {}",
                failures.len(),
                failures.join(", ")
            ),
        )
    };
    let remaining = if left.resources.is_empty() {
        (
            "NamespaceContentRemaining",
            "False",
            "ContentRemoved",
            "All content successfully removed".to_owned(),
        )
    } else {
        (
            "NamespaceContentRemaining",
            "True",
            "SomeResourcesRemain",
            format!("Some resources are remaining: {}", listed(&left.resources, "has")),
        )
    };
    let finalizers = if left.finalizers.is_empty() {
        (
            "NamespaceFinalizersRemaining",
            "False",
            "ContentHasNoFinalizers",
            "All content-preserving finalizers finished".to_owned(),
        )
    } else {
        (
            "NamespaceFinalizersRemaining",
            "True",
            "SomeFinalizersRemain",
            format!(
                "Some content in the namespace has finalizers remaining: {}",
                listed(&left.finalizers, "in")
            ),
        )
    };
    vec![
        (
            "NamespaceDeletionDiscoveryFailure",
            "False",
            "ResourcesDiscovered",
            "All resources successfully discovered".to_owned(),
        ),
        (
            "NamespaceDeletionGroupVersionParsingFailure",
            "False",
            "ParsedGroupVersions",
            "All legacy kube types successfully parsed".to_owned(),
        ),
        content,
        remaining,
        finalizers,
    ]
}

/// The namespace with these conditions; an unchanged one keeps its transition time.
fn with_conditions(old: &Value, wanted: &[(&str, &str, &str, String)], now: &str) -> Value {
    let mut new = old.clone();
    let mut conditions =
        old.pointer("/status/conditions").and_then(Value::as_array).cloned().unwrap_or_default();
    for (kind, status, reason, message) in wanted {
        let fresh = json!({
            "type": kind, "status": status, "lastTransitionTime": now, "reason": reason, "message": message,
        });
        match conditions.iter_mut().find(|condition| condition["type"] == *kind) {
            Some(condition) if condition["status"] == *status => {
                condition["reason"] = fresh["reason"].clone();
                condition["message"] = fresh["message"].clone();
            }
            Some(condition) => *condition = fresh,
            None => conditions.push(fresh),
        }
    }
    if !new["status"].is_object() {
        new["status"] = json!({"phase": "Terminating"});
    }
    new["status"]["conditions"] = conditions.into();
    new
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::verbs::tests::{Server, widget};

    /// The name may belong to another namespace by the time its turn comes.
    #[tokio::test]
    async fn a_namespace_that_is_not_ending_keeps_what_is_in_it() {
        let server = Server::new().await;
        server.create("widgets", "other", widget("a", json!({}))).await.unwrap();
        empty(&server.api, "other").await.unwrap();
        server.get("widgets", "other", "a").await.unwrap();
        let namespace = server.get("namespaces", "", "other").await.unwrap();
        assert_eq!(namespace["spec"]["finalizers"], json!(["kubernetes"]));
    }

    #[test]
    fn the_conditions_say_what_is_left_and_keep_their_time() {
        let mut left = Remaining::default();
        left.resources.insert("pods.".to_owned(), 2);
        left.finalizers.insert("example.com/a".to_owned(), 1);
        let wanted = conditions(&left, &[]);
        let first = with_conditions(&json!({"status": {"phase": "Terminating"}}), &wanted, "t1");
        let conditions = first["status"]["conditions"].clone();
        assert_eq!(conditions[3]["message"], "Some resources are remaining: pods. has 2 resource instances");
        assert_eq!(
            conditions[4]["message"],
            "Some content in the namespace has finalizers remaining: example.com/a in 1 resource instances"
        );
        assert_eq!(with_conditions(&first, &wanted, "t2"), first);
    }
}
