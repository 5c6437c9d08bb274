//! The objects that every cluster has from its first moment.

use std::net::SocketAddr;

use futures::future::BoxFuture;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use serde_json::{Value, json};

use crate::builtin;
use crate::kind::Scope;
use crate::object;
use crate::rbac::{self, Reconciled};
use crate::status::ApiError;
use crate::verbs::{Api, Context, DeleteOptions, Patch, PatchFormat, Target};

/// Writes that are on their way at once: they share the store's commits.
const PARALLEL: usize = 64;
/// The address of the service `kubernetes`: the first of Kubernetes' default range.
const CLUSTER_IP: &str = "10.96.0.1";

/// Why a default object is not there.
#[derive(Debug, thiserror::Error)]
pub enum SeedError {
    /// It is not of a registered kind.
    #[error("{kind} `{name}` is of no registered kind")]
    UnknownKind {
        /// `apiVersion` and kind.
        kind: String,
        /// Its name.
        name: String,
    },
    /// It was refused.
    #[error("cannot write {kind} `{name}`")]
    Refused {
        /// The kind.
        kind: String,
        /// Its name.
        name: String,
        /// Why.
        #[source]
        source: ApiError,
    },
}

/// What to do where the object exists.
#[derive(Clone, Copy, PartialEq, Eq)]
enum IfExists {
    Leave,
    Reconcile,
}

/// Creates what is missing, and brings Kubernetes' default roles up to date.
pub(super) async fn seed(api: &Api, address: SocketAddr, extra: &[Value]) -> Result<(), SeedError> {
    // A server that knows fewer kinds (as tests do) has no use for the others' objects.
    let is_known = |object: &Value| find(api, object).is_some();
    let initial =
        builtin::initial_objects().into_iter().chain([kubernetes_service(address)]).filter(is_known);
    let (namespaces, others): (Vec<_>, Vec<_>) =
        initial.chain(extra.iter().cloned()).partition(|object| object["kind"] == "Namespace");
    let leave = |object| (object, IfExists::Leave);
    // Namespaces first, since everything else may live in one.
    write_all(api, namespaces.into_iter().map(leave).collect()).await?;
    let roles =
        rbac::default_objects().into_iter().filter(is_known).map(|object| (object, IfExists::Reconcile));
    let others = others.into_iter().map(|object| {
        let if_exists = if is_kept_up(&object) { IfExists::Reconcile } else { IfExists::Leave };
        (object, if_exists)
    });
    write_all(api, roles.chain(others).collect()).await
}

/// Whether an object is a role or a binding that newer versions of the program add to.
fn is_kept_up(object: &Value) -> bool {
    let marked = object.pointer("/metadata/annotations/rbac.authorization.kubernetes.io~1autoupdate");
    marked.is_some_and(|value| value == "true")
        && object
            .get("apiVersion")
            .and_then(Value::as_str)
            .is_some_and(|version| version.starts_with(rbac::GROUP))
}

async fn write_all(api: &Api, objects: Vec<(Value, IfExists)>) -> Result<(), SeedError> {
    let writes: Vec<BoxFuture<'_, Result<(), SeedError>>> = objects
        .into_iter()
        .map(|(object, if_exists)| -> BoxFuture<'_, _> {
            Box::pin(async move { write(api, object, if_exists).await })
        })
        .collect();
    stream::iter(writes).buffer_unordered(PARALLEL).try_collect().await
}

/// The kind and the version of an object.
fn find<'a>(api: &'a Api, object: &'a Value) -> Option<(&'a std::sync::Arc<crate::kind::Kind>, &'a str)> {
    let api_version = object.get("apiVersion").and_then(Value::as_str)?;
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let kind = api.kinds().kind(group, object.get("kind").and_then(Value::as_str)?)?;
    kind.versions.iter().any(|served| served.name == version).then_some((kind, version))
}

async fn write(api: &Api, wanted: Value, if_exists: IfExists) -> Result<(), SeedError> {
    let name = object::name(&wanted).to_owned();
    let namespace = object::namespace(&wanted).to_owned();
    let Some((kind, version)) = find(api, &wanted) else {
        return Err(SeedError::UnknownKind { kind: wanted["kind"].to_string(), name });
    };
    let namespace = if kind.scope == Scope::Namespaced { namespace } else { String::new() };
    let stored = api.store().get(&kind.storage_prefix(), &namespace, &name);
    let context = Context::internal("system:apiserver", api.now());
    let collection = Target { kind, version, namespace: &namespace, name: "", subresource: "" };
    let target = Target { name: &name, ..collection };
    let refused = |source| SeedError::Refused { kind: kind.names.kind.clone(), name: name.clone(), source };
    if stored.is_none() && kind.refuses_another.is_some() && api.has_any(kind) {
        // Somebody put another in its place.
        return Ok(());
    }
    let done = match (stored, if_exists) {
        (None, _) => api.create(&context, &collection, wanted.clone().into()).await.map(|_| ()),
        (Some(_), IfExists::Leave) => Ok(()),
        (Some(stored), IfExists::Reconcile) => {
            let existing =
                serde_json::from_slice(&stored.json).map_err(|error| refused(ApiError::internal(error)))?;
            match rbac::reconcile(&wanted, Some(&existing)) {
                Reconciled::Unchanged => Ok(()),
                Reconciled::Create(object) => {
                    api.create(&context, &collection, object.into()).await.map(|_| ())
                }
                Reconciled::Update(object) => api.update(&context, &target, object.into()).await.map(|_| ()),
                Reconciled::Recreate(object) => {
                    let deleted = api.delete(&context, &target, &DeleteOptions::default()).await;
                    match deleted {
                        Ok(_) => api.create(&context, &collection, object.into()).await.map(|_| ()),
                        Err(error) => Err(error),
                    }
                }
            }
        }
    };
    done.map_err(&refused)?;
    // Where status is a subresource, a creation leaves it out.
    let Some(status) = wanted.get("status").filter(|_| kind.has_status) else { return Ok(()) };
    let patch =
        Patch { format: PatchFormat::Merge, body: json!({"status": status}).to_string().into(), force: None };
    let target = Target { subresource: "status", ..target };
    api.patch(&context, &target, patch).await.map(|_| ()).map_err(refused)
}

/// The service that names this server.
fn kubernetes_service(address: SocketAddr) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": "kubernetes",
            "namespace": "default",
            "labels": {"component": "apiserver", "provider": "kubernetes"},
        },
        "spec": {
            "type": "ClusterIP",
            "clusterIP": CLUSTER_IP,
            "clusterIPs": [CLUSTER_IP],
            "ipFamilies": ["IPv4"],
            "ipFamilyPolicy": "SingleStack",
            "internalTrafficPolicy": "Cluster",
            "sessionAffinity": "None",
            "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": address.port()}],
        },
    })
}
