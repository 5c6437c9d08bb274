//! Service account tokens: issuing and checking.
//!
//! The claims are those of Kubernetes' bound tokens (`kubernetes.io` with namespace, service account and the object
//! that the token is bound to), so that clients which look into their token find what they look for.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value, json};

use super::authenticate::CREDENTIAL_ID;
use super::{Authorities, Identity, Objects, PkiError, jws};
use crate::field;
use crate::object;
use crate::status::{ApiError, FieldError, GroupResource};

/// Who issues the tokens, and whom they are for when a request does not say.
pub const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// Who issues the tokens that Secrets hold (`LegacyIssuer`).
const SECRET_ISSUER: &str = "kubernetes/serviceaccount";
/// What the claims of such a token begin with.
const SECRET_CLAIM: &str = "kubernetes.io/serviceaccount/";

const DEFAULT_LIFE_SECONDS: i64 = 3600;
const MIN_LIFE_SECONDS: i64 = 600;
const MAX_LIFE_SECONDS: i64 = 1 << 32;
/// How far clocks may be apart at the beginning of a token's life; go-jose's default.
const LEEWAY: SignedDuration = SignedDuration::from_mins(1);

/// The storage prefix of ServiceAccounts.
pub(crate) const ACCOUNTS: &str = "/core/serviceaccounts/";
/// The storage prefix of Secrets.
pub(crate) const SECRETS: &str = "/core/secrets/";
const ACCOUNT: GroupResource<'_> = GroupResource { group: "", resource: "serviceaccounts" };

/// What a token can be bound to: the kind, the claim's name, the storage prefix, the resource.
const BOUND_KINDS: [(&str, &str, &str, &str); 3] = [
    ("Pod", "pod", "/core/pods/", "pods"),
    ("Secret", "secret", SECRETS, "secrets"),
    ("Node", "node", "/core/nodes/", "nodes"),
];

/// `system:serviceaccount:NAMESPACE:NAME`
pub(super) fn user_name(namespace: &str, name: &str) -> String {
    format!("system:serviceaccount:{namespace}:{name}")
}

/// The groups of a service account.
pub(super) fn groups(namespace: &str) -> Vec<String> {
    vec!["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")]
}

/// Namespace and name of a service account's user name.
pub(super) fn split_user_name(user: &str) -> Option<(&str, &str)> {
    let (namespace, name) = user.strip_prefix("system:serviceaccount:")?.split_once(':')?;
    (crate::metadata::is_dns1123_label(namespace).is_empty()
        && crate::metadata::is_dns1123_subdomain(name).is_empty())
    .then_some((namespace, name))
}

/// Answers a `TokenRequest` for the service account's `token` subresource. `id` is a random UUID, the token's own
/// name.
///
/// # Errors
/// 404 without the account or bound object, 409 when the bound object is another of the same name, 422 when the
/// request is invalid.
pub fn issue_token(
    authorities: &Authorities,
    objects: &dyn Objects,
    namespace: &str,
    name: &str,
    request: &Value,
    now: Timestamp,
    id: &str,
) -> Result<Value, ApiError> {
    let account = objects.get(ACCOUNTS, namespace, name).ok_or_else(|| ApiError::not_found(ACCOUNT, name))?;
    let mut spec = request.get("spec").and_then(Value::as_object).cloned().unwrap_or_default();
    let seconds = life_seconds(&spec)?;
    let audiences = match field::texts(request, "/spec/audiences") {
        audiences if audiences.is_empty() => vec![ISSUER.to_owned()],
        audiences => audiences,
    };
    let mut bound = json!({
        "namespace": namespace, "serviceaccount": { "name": name, "uid": object::uid(&account) },
    });
    if let Some(reference) = spec.get("boundObjectRef").filter(|reference| !reference.is_null()) {
        bind(&mut bound, objects, namespace, name, reference)?;
    }
    let expires = now.as_second().saturating_add(seconds);
    let expiration =
        Timestamp::from_second(expires).map_err(|_| ApiError::internal("the expiration is no time"))?;
    let claims = json!({
        "aud": audiences,
        "exp": expires,
        "iat": now.as_second(),
        "iss": ISSUER,
        "jti": id,
        "kubernetes.io": bound,
        "nbf": now.as_second(),
        "sub": user_name(namespace, name),
    });
    let token = authorities.signer().sign(&claims).map_err(ApiError::internal)?;
    spec.insert("audiences".to_owned(), json!(audiences));
    spec.insert("expirationSeconds".to_owned(), json!(seconds));
    spec.entry("boundObjectRef").or_insert(Value::Null);
    Ok(json!({
        "kind": "TokenRequest",
        "apiVersion": "authentication.k8s.io/v1",
        "metadata": {
            "name": name, "namespace": namespace, "creationTimestamp": object::format_time(now),
        },
        "spec": spec,
        "status": { "token": token, "expirationTimestamp": object::format_time(expiration) },
    }))
}

fn life_seconds(spec: &Map<String, Value>) -> Result<i64, ApiError> {
    let field = "spec.expirationSeconds";
    let fault = match spec.get("expirationSeconds") {
        None | Some(Value::Null) => return Ok(DEFAULT_LIFE_SECONDS),
        Some(value) => match value.as_i64() {
            None => FieldError::invalid(field, value.clone(), "must be an integer"),
            Some(seconds) if seconds < MIN_LIFE_SECONDS => {
                FieldError::invalid(field, seconds, "may not specify a duration less than 10 minutes")
            }
            Some(seconds) if seconds > MAX_LIFE_SECONDS => {
                FieldError::invalid(field, seconds, "may not specify a duration larger than 2^32 seconds")
            }
            Some(seconds) => return Ok(seconds),
        },
    };
    let kind = GroupResource { group: "authentication.k8s.io", resource: "TokenRequest" };
    Err(ApiError::invalid(kind, "", &[fault]))
}

fn bind(
    claims: &mut Value,
    objects: &dyn Objects,
    namespace: &str,
    account: &str,
    reference: &Value,
) -> Result<(), ApiError> {
    let text = |field: &str| reference.get(field).and_then(Value::as_str).unwrap_or_default();
    let known =
        BOUND_KINDS.into_iter().find(|(kind, ..)| *kind == text("kind") && text("apiVersion") == "v1");
    let Some((kind, claim, prefix, resource)) = known else {
        let group_version_kind = match text("apiVersion").split_once('/') {
            Some((group, version)) => format!("{group}/{version}, Kind={}", text("kind")),
            None => format!("/{}, Kind={}", text("apiVersion"), text("kind")),
        };
        let message =
            format!("cannot bind token for serviceaccount {account:?} to object {group_version_kind}");
        return Err(ApiError::bad_request(message));
    };
    let resource = GroupResource { group: "", resource };
    let namespace = if kind == "Node" { "" } else { namespace };
    let object = objects
        .get(prefix, namespace, text("name"))
        .ok_or_else(|| ApiError::not_found(resource, text("name")))?;
    let (wanted, actual) = (text("uid"), object::uid(&object));
    if !wanted.is_empty() && wanted != actual {
        let why = format!(
            "the UID in the bound object reference ({wanted}) does not match the UID in record. The object might \
             have been deleted and then recreated"
        );
        return Err(ApiError::conflict(resource, text("name"), why));
    }
    if kind == "Pod" {
        if field::text(&object, "/spec/serviceAccountName") != account {
            let message = format!(
                "cannot bind token for serviceaccount {account:?} to pod running with different serviceaccount name."
            );
            return Err(ApiError::bad_request(message));
        }
        if let Some(node) = objects.get("/core/nodes/", "", field::text(&object, "/spec/nodeName")) {
            claims["node"] = json!({ "name": object::name(&node), "uid": object::uid(&node) });
        }
    }
    claims[claim] = json!({ "name": object::name(&object), "uid": actual });
    Ok(())
}

/// A token without an end (`LegacyClaims`): it is good while the Secret of this name, beside the account, holds it.
///
/// # Errors
/// When it cannot be signed.
pub(crate) fn secret_token(
    authorities: &Authorities,
    account: &Value,
    secret: &str,
) -> Result<String, PkiError> {
    let (namespace, name) = (object::namespace(account), object::name(account));
    authorities.signer().sign(&json!({
        "iss": SECRET_ISSUER,
        format!("{SECRET_CLAIM}namespace"): namespace,
        format!("{SECRET_CLAIM}secret.name"): secret,
        format!("{SECRET_CLAIM}service-account.name"): name,
        format!("{SECRET_CLAIM}service-account.uid"): object::uid(account),
        "sub": user_name(namespace, name),
    }))
}

/// Whose token of a Secret it is, as [`identify`] answers.
fn identify_secret_token(
    objects: &dyn Objects,
    claims: &Map<String, Value>,
    token: &str,
    audiences: &[String],
) -> Option<(Identity, Vec<String>)> {
    let own = ISSUER.to_owned();
    if !audiences.is_empty() && !audiences.contains(&own) {
        return None;
    }
    let text = |claim: &str| claims.get(&format!("{SECRET_CLAIM}{claim}")).and_then(Value::as_str);
    let (namespace, name) = (text("namespace")?, text("service-account.name")?);
    let uid = text("service-account.uid")?;
    let secret = objects.get(SECRETS, namespace, text("secret.name")?)?;
    let is_held =
        !object::is_deleting(&secret) && field::text(&secret, "/data/token") == STANDARD.encode(token);
    let account = objects.get(ACCOUNTS, namespace, name)?;
    let is_theirs = claims.get("sub")? == user_name(namespace, name).as_str() && object::uid(&account) == uid;
    (is_held && is_theirs).then(|| (identity(namespace, name, uid, BTreeMap::new()), vec![own]))
}

fn identity(namespace: &str, name: &str, uid: &str, extra: BTreeMap<String, Vec<String>>) -> Identity {
    Identity { user: user_name(namespace, name), uid: uid.to_owned(), groups: groups(namespace), extra }
}

/// Whose token it is, and which of `audiences` (this server's, when empty) it is for. `None` when it is not ours, not
/// for them, not valid now, or speaks of an account or bound object that is gone.
pub(super) fn identify(
    key: &jws::Key,
    objects: &dyn Objects,
    token: &str,
    audiences: &[String],
    now: Timestamp,
) -> Option<(Identity, Vec<String>)> {
    let claims = key.verify(token)?;
    match claims.get("iss")?.as_str()? {
        ISSUER => {}
        SECRET_ISSUER => return identify_secret_token(objects, &claims, token, audiences),
        _ => return None,
    }
    let at = |claim: &str| Timestamp::from_second(claims.get(claim)?.as_i64()?).ok();
    if now >= at("exp")? || now.saturating_add(LEEWAY).ok()? < at("nbf")? {
        return None;
    }
    let own = [ISSUER.to_owned()];
    let wanted = if audiences.is_empty() { &own[..] } else { audiences };
    let accepted: Vec<_> = field::texts(claims.get("aud")?, "")
        .into_iter()
        .filter(|audience| wanted.contains(audience))
        .collect();
    if accepted.is_empty() {
        return None;
    }
    let bound = claims.get("kubernetes.io")?;
    let text = |pointer: &str| bound.pointer(pointer).and_then(Value::as_str);
    let (namespace, name) = (text("/namespace")?, text("/serviceaccount/name")?);
    let uid = text("/serviceaccount/uid")?;
    if claims.get("sub")? != user_name(namespace, name).as_str()
        || object::uid(&objects.get(ACCOUNTS, namespace, name)?) != uid
    {
        return None;
    }
    let mut extra = BTreeMap::new();
    if let Some(id) = claims.get("jti").and_then(Value::as_str) {
        extra.insert(CREDENTIAL_ID.to_owned(), vec![format!("JTI={id}")]);
    }
    for (kind, claim, prefix, _) in BOUND_KINDS {
        let Some(reference) = bound.get(claim) else { continue };
        let text = |field: &str| reference.get(field).and_then(Value::as_str);
        let (bound_name, bound_uid) = (text("name")?, text("uid")?);
        // A pod's node is told, not asked about: the token lives as long as the pod.
        if kind != "Node" || bound.get("pod").is_none() {
            let namespace = if kind == "Node" { "" } else { namespace };
            if object::uid(&objects.get(prefix, namespace, bound_name)?) != bound_uid {
                return None;
            }
        }
        if kind != "Secret" {
            extra.insert(format!("authentication.kubernetes.io/{claim}-name"), vec![bound_name.to_owned()]);
            extra.insert(format!("authentication.kubernetes.io/{claim}-uid"), vec![bound_uid.to_owned()]);
        }
    }
    Some((identity(namespace, name, uid, extra), accepted))
}
