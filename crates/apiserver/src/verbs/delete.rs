//! Delete: preconditions, grace, finalizers and what follows for dependents, as the generic registry has it.

use serde_json::Value;

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, stream};

use crate::field;
use crate::kind::{Admission, Family, Kind, Operation};
use crate::object;
use crate::status::{ApiError, GroupResource};
use crate::store::{CommitError, Expect, Stored};

use super::object_rules::{self as rules, set_metadata};
use super::write::{self, WRITE_ATTEMPTS, storage_error};
use super::{
    Answer, Api, Content, Context, DeleteOptions, List, ListOptions, Propagation, Target, View, namespaces,
};

/// The finalizer of a foreground deletion.
pub(crate) const FOREGROUND: &str = "foregroundDeletion";
/// The finalizer of an owner whose dependents are to be kept.
pub(crate) const ORPHAN: &str = "orphan";
/// How many deletions of a collection run side by side.
const PARALLEL: usize = 16;
/// A Pod's grace period where neither it nor the request says one, in seconds.
const POD_GRACE: i64 = 30;

/// What a deletion does to the stored object.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Decision {
    /// It goes away, and this is how it is seen last.
    Remove(Value),
    /// It stays, changed like this, until its grace is over and its finalizers are gone.
    Mark(Value),
    /// Nothing changes: it is being deleted already.
    Pending,
}

/// Checks the preconditions (`BeforeDelete`).
fn check_preconditions(
    kind: &Kind,
    name: &str,
    old: &Value,
    options: &DeleteOptions,
) -> Result<(), ApiError> {
    // `BeforeDelete` names the kind where a resource belongs.
    let of = GroupResource { group: &kind.group, resource: &kind.names.kind };
    if let Some(uid) = &options.uid
        && uid != object::uid(old)
    {
        let why = format!(
            "the UID in the precondition ({uid}) does not match the UID in record ({}). The object might have been \
             deleted and then recreated",
            object::uid(old)
        );
        return Err(ApiError::conflict(of, name, why));
    }
    if let Some(version) = &options.resource_version
        && version != object::resource_version(old)
    {
        let why = format!(
            "the ResourceVersion in the precondition ({version}) does not match the ResourceVersion in record ({}). The \
             object might have been modified",
            object::resource_version(old)
        );
        return Err(ApiError::conflict(of, name, why));
    }
    Ok(())
}

/// Which of the two finalizers of garbage collection the object gets, keeps or loses
/// (`deletionFinalizersForGarbageCollection`).
fn finalizers(old: &Value, propagation: Option<Propagation>) -> Vec<String> {
    let had = object::finalizers(old);
    let (orphan, foreground) = match propagation {
        Some(Propagation::Orphan) => (true, false),
        Some(Propagation::Foreground) => (false, true),
        Some(Propagation::Background) => (false, false),
        None => (had.contains(&ORPHAN), had.contains(&FOREGROUND)),
    };
    let mut finalizers: Vec<String> = had
        .iter()
        .filter(|name| !matches!(**name, ORPHAN | FOREGROUND))
        .map(|name| (*name).to_owned())
        .collect();
    if orphan {
        finalizers.push(ORPHAN.to_owned());
    }
    if foreground {
        finalizers.push(FOREGROUND.to_owned());
    }
    finalizers
}

/// How long a Pod may take to end, in seconds (`podStrategy.CheckGracefulDelete`).
fn pod_grace(pod: &Value, asked: Option<i64>) -> i64 {
    let own = pod.pointer("/spec/terminationGracePeriodSeconds").and_then(Value::as_i64);
    let phase = field::text(pod, "/status/phase");
    let node = field::text(pod, "/spec/nodeName");
    if node.is_empty() || matches!(phase, "Failed" | "Succeeded") {
        return 0;
    }
    match asked.or(own).unwrap_or(POD_GRACE) {
        grace if grace < 0 => 1,
        grace => grace,
    }
}

/// What deleting `old` does now. Pure; preconditions are checked before.
pub(super) fn decide(kind: &Kind, old: &Value, options: &DeleteOptions, now: jiff::Timestamp) -> Decision {
    let graceful = kind.group.is_empty() && kind.names.plural == "pods";
    let deleting = object::is_deleting(old);
    let old_grace = object::metadata(old)
        .and_then(|metadata| metadata.get("deletionGracePeriodSeconds"))
        .and_then(Value::as_i64);
    let mut new = old.clone();
    let mut grace = None;
    if graceful && deleting {
        // A grace that runs may only be shortened.
        match (old_grace, options.grace_period_seconds) {
            (Some(old_grace), Some(asked)) if asked < old_grace => grace = Some(asked.max(0)),
            (Some(old_grace), _) if old_grace > 0 => return Decision::Pending,
            _ => {}
        }
    } else if graceful {
        grace = Some(pod_grace(old, options.grace_period_seconds));
    }

    let finalizers = finalizers(old, options.propagation);
    let finalizers_change = finalizers != object::finalizers(old);
    if finalizers_change && let Some(metadata) = object::metadata_mut(&mut new) {
        if finalizers.is_empty() {
            metadata.shift_remove("finalizers");
        } else {
            metadata.insert("finalizers".to_owned(), finalizers.clone().into());
        }
    }
    let is_last = finalizers.is_empty() && grace.unwrap_or_default() == 0;
    if is_last && !graceful {
        return Decision::Remove(new);
    }
    let grace = grace.unwrap_or_default();
    if !deleting {
        let at = now.checked_add(jiff::SignedDuration::from_secs(grace)).unwrap_or(now);
        set_metadata(&mut new, "deletionTimestamp", object::format_time(at).into());
        set_metadata(&mut new, "deletionGracePeriodSeconds", grace.into());
        let generation =
            object::metadata(old).and_then(|metadata| metadata.get("generation")).and_then(Value::as_i64);
        if let Some(generation) = generation.filter(|generation| *generation > 0) {
            set_metadata(&mut new, "generation", (generation + 1).into());
        }
    } else if old_grace != Some(grace) && graceful {
        let began: Option<jiff::Timestamp> = object::metadata_text(old, "deletionTimestamp").parse().ok();
        let shift = jiff::SignedDuration::from_secs(grace - old_grace.unwrap_or_default());
        if let Some(at) = began.and_then(|at| at.checked_add(shift).ok()) {
            set_metadata(&mut new, "deletionTimestamp", object::format_time(at).into());
        }
        set_metadata(&mut new, "deletionGracePeriodSeconds", grace.into());
    } else if !finalizers_change && !is_last {
        return Decision::Pending;
    }
    // Kubernetes writes the mark of a grace of nothing before it removes a Pod, so that is how watchers see it last.
    if is_last { Decision::Remove(new) } else { Decision::Mark(new) }
}

/// As [`decide`], for a Namespace: it is marked first, and goes when its contents and finalizers have.
fn decide_namespace(old: &Value, options: &DeleteOptions, now: jiff::Timestamp) -> Decision {
    if let Some(mut marked) = namespaces::mark_terminating(old, now) {
        let finalizers = finalizers(old, options.propagation);
        if !finalizers.is_empty() {
            set_metadata(&mut marked, "finalizers", finalizers.into());
        }
        return Decision::Mark(marked);
    }
    if rules::is_finished(old) { Decision::Remove(old.clone()) } else { Decision::Pending }
}

/// Whether a finished deletion answers with the object instead of a `Status` (`ReturnDeletedObject`).
fn returns_deleted(kind: &Kind) -> bool {
    const CORE: [&str; 7] = [
        "persistentvolumeclaims",
        "persistentvolumes",
        "pods",
        "podtemplates",
        "resourcequotas",
        "serviceaccounts",
        "services",
    ];
    let plural = kind.names.plural.as_str();
    kind.family == Family::BuiltIn
        && match kind.group.as_str() {
            "" => CORE.contains(&plural),
            "storage.k8s.io" => true,
            _ => false,
        }
}

impl Api {
    pub(super) async fn delete_object(
        &self,
        context: &Context,
        target: &Target<'_>,
        options: &DeleteOptions,
    ) -> Result<Answer, ApiError> {
        let kind = target.kind;
        let context = &Context { dry_run: context.dry_run || options.dry_run, ..context.clone() };
        namespaces::may_be_deleted(kind, target.name)?;
        let prefix = kind.storage_prefix();
        for _ in 0..WRITE_ATTEMPTS {
            let Some(stored) = self.inner.store.get(&prefix, target.namespace, target.name) else {
                return Err(ApiError::not_found(kind.group_resource(), target.name));
            };
            let old = super::view::parse(&stored)?;
            check_preconditions(kind, target.name, &old, options)?;
            let mut warnings = Vec::new();
            let admission: Admission<'_> = context.admission(target, Operation::Delete);
            kind.hooks.validate(&admission, &old, Some(&old), &mut warnings)?;
            let decision = if namespaces::is_namespace(kind) {
                decide_namespace(&old, options, context.now)
            } else {
                decide(kind, &old, options, context.now)
            };
            let (done, pending) = match decision {
                Decision::Remove(last) => (self.remove_now(context, target, &stored, last).await, false),
                Decision::Pending => (Ok(View::new(kind, target.version).content(stored)?), true),
                Decision::Mark(marked) => {
                    let expect = Expect::Revision(stored.revision);
                    (self.store_object(context, target, target.name, marked, expect).await, true)
                }
            };
            match done {
                Ok(content) => {
                    let code = if options.accepted_if_pending && pending { 202 } else { 200 };
                    return Ok(Answer { code, content, warnings });
                }
                Err(CommitError::Changed(_)) => {}
                Err(error) => return Err(storage_error(target, &error)),
            }
        }
        Err(ApiError::modified(kind.group_resource(), target.name))
    }

    /// Removes the object and answers as a finished deletion does.
    async fn remove_now(
        &self,
        context: &Context,
        target: &Target<'_>,
        stored: &Stored,
        old: Value,
    ) -> Result<Content, CommitError> {
        let uid = object::uid(&old).to_owned();
        let removed = self.remove(context, target, stored, old).await?;
        if returns_deleted(target.kind) {
            return Ok(removed);
        }
        Ok(Content::Value(write::success(target.name, target.kind.group_resource(), &uid)))
    }

    /// Deletes one of a collection; what is gone already does not count.
    async fn delete_one(
        &self,
        context: &Context,
        target: &Target<'_>,
        stored: &Stored,
        delete: &DeleteOptions,
    ) -> Result<(), ApiError> {
        let target = Target { namespace: &stored.namespace, name: &stored.name, ..*target };
        let mut delete = delete.clone();
        if delete.uid.is_none() {
            // What has come by that name since was not listed, and perhaps not selected.
            delete.uid = Some(object::uid(&super::view::parse(stored)?).to_owned());
        }
        let prefix = target.kind.storage_prefix();
        let is_gone = || {
            let now = self.inner.store.get(&prefix, target.namespace, target.name);
            now.is_none_or(|now| now.created_revision != stored.created_revision)
        };
        match self.delete_object(context, &target, &delete).await {
            Err(error) if error.code == 404 || (error.code == 409 && is_gone()) => Ok(()),
            other => other.map(|_| ()),
        }
    }

    pub(super) async fn delete_listed(
        &self,
        context: &Context,
        target: &Target<'_>,
        options: &ListOptions,
        delete: &DeleteOptions,
    ) -> Result<List, ApiError> {
        let list = self.list_objects(target, options).await?;
        // Boxed one by one: the compiler cannot see that a stream of borrowing futures may move between threads.
        let deletions: Vec<BoxFuture<'_, Result<(), ApiError>>> = list
            .items
            .iter()
            .map(|stored| self.delete_one(context, target, stored, delete).boxed())
            .collect();
        let results: Vec<_> = stream::iter(deletions).buffer_unordered(PARALLEL).collect().await;
        let first_failure = results.into_iter().find_map(Result::err);
        match first_failure {
            Some(error) => Err(error),
            None => Ok(list),
        }
    }
}
