//! What is special about Namespaces: they end in two steps, and nothing new goes into one that ends.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::kind::{Kind, Scope};
use crate::object;
use crate::status::{ApiError, GroupResource};

use super::write::with_cause;
use super::{Api, Target};

/// Where Namespaces are stored.
pub(crate) const NAMESPACES: GroupResource<'_> = GroupResource { group: "", resource: "namespaces" };
/// The storage prefix of Namespaces.
pub(crate) const PREFIX: &str = "/core/namespaces/";
/// Namespaces that cannot be deleted (`NamespaceLifecycle` admission).
const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

/// Whether `kind` is the core Namespace.
pub(super) fn is_namespace(kind: &Kind) -> bool {
    kind.group.is_empty() && kind.names.plural == "namespaces"
}

/// What of a Namespace says whether it takes new objects. It is read for each of them, so the rest is passed over.
#[derive(Deserialize)]
struct Holder {
    metadata: HolderMetadata,
    #[serde(default)]
    status: HolderStatus,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct HolderMetadata {
    deletion_timestamp: Option<String>,
}

#[derive(Default, Deserialize)]
struct HolderStatus {
    #[serde(default)]
    phase: String,
}

/// Whether a new object may go into its namespace: it must exist and must not be ending.
pub(super) fn may_hold_new(api: &Api, target: &Target<'_>, object: &Value) -> Result<(), ApiError> {
    if target.kind.scope == Scope::Cluster {
        return Ok(());
    }
    let namespace = target.namespace;
    let Some(stored) = api.inner.store.get(PREFIX, "", namespace) else {
        return Err(ApiError::not_found(NAMESPACES, namespace));
    };
    let Holder { metadata, status } = serde_json::from_slice(&stored.json).map_err(ApiError::internal)?;
    if metadata.deletion_timestamp.is_none() && status.phase != "Terminating" {
        return Ok(());
    }
    let why = format!("unable to create new content in namespace {namespace} because it is being terminated");
    let error = ApiError::forbidden(target.kind.group_resource(), object::name(object), why);
    let message = format!("namespace {namespace} is being terminated");
    Err(with_cause(error, "NamespaceTerminating", message, "metadata.namespace"))
}

/// Whether a namespace may be deleted at all.
pub(super) fn may_be_deleted(kind: &Kind, name: &str) -> Result<(), ApiError> {
    if is_namespace(kind) && IMMORTAL.contains(&name) {
        return Err(ApiError::forbidden(NAMESPACES, name, "this namespace may not be deleted"));
    }
    Ok(())
}

/// A new Namespace is active, keeps Kubernetes' finalizer, and carries its name as a label.
pub(super) fn fill_for_create(kind: &Kind, object: &mut Value) {
    if !is_namespace(kind) || !object.is_object() {
        return;
    }
    let name = object::name(object).to_owned();
    let finalizers =
        object.pointer("/spec/finalizers").and_then(Value::as_array).cloned().unwrap_or_default();
    let mut finalizers = finalizers;
    if !finalizers.iter().any(|finalizer| finalizer == "kubernetes") {
        finalizers.push("kubernetes".into());
    }
    if !object["spec"].is_object() {
        object["spec"] = json!({});
    }
    object["spec"]["finalizers"] = finalizers.into();
    object["status"] = json!({"phase": "Active"});
    if let Some(metadata) = object::metadata_mut(object) {
        let labels = metadata.entry("labels").or_insert_with(|| json!({}));
        if let Some(labels) = labels.as_object_mut()
            && !name.is_empty()
        {
            labels.insert("kubernetes.io/metadata.name".to_owned(), name.into());
        }
    }
}

/// `spec.finalizers` changes through `finalize` alone.
pub(super) fn reset_for_update(target: &Target<'_>, new: &mut Value, old: &Value) {
    if !is_namespace(target.kind) || target.subresource == "finalize" || !new.is_object() {
        return;
    }
    if let Some(spec) = old.get("spec") {
        new["spec"] = spec.clone();
    }
}

/// Marks a Namespace as ending: the time, the phase. `None` if it is marked already.
pub(super) fn mark_terminating(namespace: &Value, now: jiff::Timestamp) -> Option<Value> {
    if object::is_deleting(namespace) {
        return None;
    }
    let mut marked = namespace.clone();
    super::object_rules::set_metadata(&mut marked, "deletionTimestamp", object::format_time(now).into());
    if !marked["status"].is_object() {
        marked["status"] = json!({});
    }
    marked["status"]["phase"] = "Terminating".into();
    Some(marked)
}
