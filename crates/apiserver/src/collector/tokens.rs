//! Secrets of the type `kubernetes.io/service-account-token`: filled while their ServiceAccount is there, deleted without
//! it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::auth::{self, ACCOUNTS, Authorities, Objects, SECRETS};
use crate::field;
use crate::object;
use crate::status::ApiError;
use crate::store::EventKind;
use crate::verbs::{Api, Context, DeleteOptions, Target};

use super::feed::{Change, Feed};
use super::until;

/// Who runs the tokens controller in Kubernetes.
const USER: &str = "system:kube-controller-manager";
const SECRET_TYPE: &str = "kubernetes.io/service-account-token";
const ACCOUNT_NAME: &str = "/metadata/annotations/kubernetes.io~1service-account.name";
const ACCOUNT_UID: &str = "/metadata/annotations/kubernetes.io~1service-account.uid";
/// How long a Secret that could not be written waits.
const RETRY: Duration = Duration::from_secs(1);

/// Runs until the server stops.
pub(crate) async fn run(api: Api, authorities: Arc<Authorities>, stop: watch::Receiver<bool>) {
    let watched = |plural: &str| matches!(plural, "secrets" | "serviceaccounts");
    let mut feed = Feed::new(&api, |kind| kind.group.is_empty() && watched(&kind.names.plural), &stop);
    let mut pending: BTreeSet<(String, String)> = BTreeSet::new();
    let mut retry_at = None;
    loop {
        let change = tokio::select! {
            change = feed.next() => Some(change),
            () = until(retry_at), if retry_at.is_some() => None,
        };
        match change {
            Some(None) => return,
            Some(Some(change)) => pending.extend(touched(&api, &change)),
            None => {}
        }
        retry_at = None;
        for (namespace, name) in std::mem::take(&mut pending) {
            if let Err(error) = settle(&api, &authorities, &namespace, &name).await {
                tracing::debug!(%namespace, secret = %name, %error, "the Secret gets its token later");
                pending.insert((namespace, name));
                retry_at = Some(Instant::now() + RETRY);
            }
        }
    }
}

/// Namespaces and names of the Secrets that a change may concern.
fn touched(api: &Api, change: &Change) -> Vec<(String, String)> {
    let mut secrets = match change {
        Change::Event { kind, event } => match (kind.names.plural.as_str(), event.kind) {
            ("secrets", EventKind::Added | EventKind::Modified) => {
                let (namespace, name) = (&event.object.namespace, &event.object.name);
                Vec::from_iter(Objects::get(api.store(), SECRETS, namespace, name))
            }
            ("serviceaccounts", EventKind::Deleted) => {
                let mut secrets = Objects::list(api.store(), SECRETS);
                secrets.retain(|secret| object::namespace(secret) == &*event.object.namespace);
                secrets
            }
            _ => Vec::new(),
        },
        Change::Listed { .. } => Objects::list(api.store(), SECRETS),
    };
    secrets.retain(is_ours_to_fill);
    let named = |secret: &Value| (object::namespace(secret).to_owned(), object::name(secret).to_owned());
    secrets.iter().map(named).collect()
}

/// Whether it holds a token, and may be written: what is frozen or on its way out stays as it is.
fn is_ours_to_fill(secret: &Value) -> bool {
    let is_immutable = secret.get("immutable").is_some_and(|immutable| *immutable == true);
    field::text(secret, "/type") == SECRET_TYPE && !is_immutable && !object::is_deleting(secret)
}

async fn settle(api: &Api, authorities: &Authorities, namespace: &str, name: &str) -> Result<(), ApiError> {
    let read = |prefix: &str, name: &str| Objects::get(api.store(), prefix, namespace, name);
    let Some(kind) = api.kinds().resource("", "secrets") else { return Ok(()) };
    let Some(secret) = read(SECRETS, name).filter(is_ours_to_fill) else { return Ok(()) };
    let target = Target { kind, version: "v1", namespace, name, subresource: "" };
    let context = Context::internal(USER, api.now());
    let wanted = field::text(&secret, ACCOUNT_UID);
    let account = read(ACCOUNTS, field::text(&secret, ACCOUNT_NAME))
        .filter(|account| wanted.is_empty() || wanted == object::uid(account));
    let uid = object::uid(&secret).to_owned();
    let Some(account) = account else {
        let options = DeleteOptions { uid: Some(uid), ..DeleteOptions::default() };
        return match api.delete(&context, &target, &options).await {
            // It is gone already, or another one has its name.
            Err(error) if matches!(error.code, 404 | 409) => Ok(()),
            other => other.map(|_| ()),
        };
    };
    let token = auth::secret_token(authorities, &account, name).map_err(ApiError::internal)?;
    let certificate = STANDARD.encode(authorities.ca_certificate_pem());
    let make = |old: &Value| {
        Ok(if object::uid(old) == uid { filled(old, &account, &certificate, &token) } else { old.clone() })
    };
    match api.modify(&context, &target, make).await {
        Err(error) if error.code == 404 => Ok(()),
        other => other.map(|_| ()),
    }
}

/// The Secret with everything that it lacks. A token that it has is kept.
fn filled(secret: &Value, account: &Value, certificate: &str, token: &str) -> Value {
    let mut secret = secret.clone();
    if secret.get("data").is_none_or(Value::is_null) {
        secret["data"] = json!({});
    }
    secret["data"]["ca.crt"] = certificate.into();
    secret["data"]["namespace"] = STANDARD.encode(object::namespace(account)).into();
    if field::text(&secret, "/data/token").is_empty() {
        secret["data"]["token"] = STANDARD.encode(token).into();
    }
    secret["metadata"]["annotations"]["kubernetes.io/service-account.uid"] = object::uid(account).into();
    secret
}
