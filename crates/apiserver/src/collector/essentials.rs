//! What every namespace has: the ServiceAccount `default` and the ConfigMap `kube-root-ca.crt`.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::object;
use crate::status::ApiError;
use crate::store::EventKind;
use crate::verbs::{Api, Body, Context, Target, namespaces};

use super::feed::{Change, Feed};
use super::until;

const ACCOUNT: &str = "default";
const CERTIFICATE: &str = "kube-root-ca.crt";
/// Kubernetes' own words on the ConfigMap (`rootcacertpublisher`).
const DESCRIPTION: &str = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints \
such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes \
clusters.";
/// How long a namespace that could not be furnished waits.
const RETRY: Duration = Duration::from_secs(1);

/// Runs until the server stops.
pub(super) async fn run(api: Api, certificate: String, stop: watch::Receiver<bool>) {
    let watched = |plural: &str| matches!(plural, "namespaces" | "serviceaccounts" | "configmaps");
    let mut feed = Feed::new(&api, |kind| kind.group.is_empty() && watched(&kind.names.plural), &stop);
    let mut retry: BTreeSet<String> = BTreeSet::new();
    let mut retry_at = None;
    loop {
        let change = tokio::select! {
            change = feed.next() => Some(change),
            () = until(retry_at), if retry_at.is_some() => None,
        };
        let namespaces: Vec<String> = match change {
            Some(None) => return,
            Some(Some(Change::Listed { kind, items, .. })) if kind.names.plural == "namespaces" => {
                items.iter().map(|stored| stored.name.to_string()).collect()
            }
            Some(Some(Change::Listed { .. })) => continue,
            Some(Some(Change::Event { kind, event })) => {
                let (name, namespace) = (&*event.object.name, event.object.namespace.to_string());
                match (kind.names.plural.as_str(), event.kind) {
                    ("namespaces", EventKind::Added) => vec![name.to_owned()],
                    ("serviceaccounts", EventKind::Deleted) if name == ACCOUNT => vec![namespace],
                    ("configmaps", EventKind::Deleted | EventKind::Modified) if name == CERTIFICATE => {
                        vec![namespace]
                    }
                    _ => continue,
                }
            }
            None => {
                retry_at = None;
                std::mem::take(&mut retry).into_iter().collect()
            }
        };
        for namespace in namespaces {
            if let Err(error) = furnish(&api, &namespace, &certificate).await {
                tracing::debug!(%namespace, %error, "the namespace is furnished later");
                retry.insert(namespace);
                retry_at.get_or_insert_with(|| Instant::now() + RETRY);
            }
        }
    }
}

async fn furnish(api: &Api, namespace: &str, certificate: &str) -> Result<(), ApiError> {
    let Some(stored) = api.store().get(namespaces::PREFIX, "", namespace) else { return Ok(()) };
    if serde_json::from_slice(&stored.json).is_ok_and(|namespace: Value| object::is_deleting(&namespace)) {
        return Ok(());
    }
    ensure(
        api,
        "serviceaccounts",
        "system:serviceaccount:kube-system:service-account-controller",
        namespace,
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": ACCOUNT, "namespace": namespace}}),
    )
    .await?;
    if certificate.is_empty() {
        return Ok(());
    }
    let wanted = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {
            "name": CERTIFICATE, "namespace": namespace, "annotations": {"kubernetes.io/description": DESCRIPTION},
        },
        "data": {"ca.crt": certificate},
    });
    ensure(api, "configmaps", "system:serviceaccount:kube-system:root-ca-cert-publisher", namespace, wanted)
        .await
}

/// Creates the object, or gives an existing one the wanted `data`.
async fn ensure(api: &Api, plural: &str, user: &str, namespace: &str, wanted: Value) -> Result<(), ApiError> {
    let Some(kind) = api.kinds().resource("", plural) else { return Ok(()) };
    let name = object::name(&wanted).to_owned();
    let target = Target { kind, version: "v1", namespace, name: "", subresource: "" };
    let context = Context::internal(user, api.now());
    let named = Target { name: &name, ..target };
    if api.store().get(&kind.storage_prefix(), namespace, &name).is_none() {
        return match api.create(&context, &target, Body::from(wanted)).await {
            // It ends, or somebody else was faster: both are as good.
            Err(error) if matches!(error.code, 403 | 404 | 409) => Ok(()),
            other => other.map(|_| ()),
        };
    }
    let Some(data) = wanted.get("data").cloned() else { return Ok(()) };
    let make = move |old: &Value| Ok(with_data(old, &data));
    api.modify(&context, &named, make).await.map(|_| ())
}

/// The object with this `data`. One that somebody made immutable stays as it is: trying again and again would not change
/// it either.
pub(super) fn with_data(object: &Value, data: &Value) -> Value {
    let mut object = object.clone();
    let is_immutable = object.get("immutable").is_some_and(|immutable| *immutable == true);
    if !is_immutable && object.get("data") != Some(data) {
        object["data"] = data.clone();
    }
    object
}
