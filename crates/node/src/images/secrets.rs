//! Credentials out of `imagePullSecrets`.

use std::collections::BTreeSet;

use image::PullSecret;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::Api;

/// More than anybody lists.
const MOST_SECRETS: usize = 64;

/// The Pod's pull Secrets, and the names of those that cannot be used, with the reason: a pull goes on without them.
pub async fn of_pod(client: &kube::Client, pod: &Pod) -> (Vec<PullSecret>, Vec<(String, String)>) {
    let listed = pod.spec.as_ref().and_then(|spec| spec.image_pull_secrets.as_deref()).unwrap_or_default();
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let mut seen = BTreeSet::new();
    let names = listed.iter().map(|reference| reference.name.as_str()).filter(|name| !name.is_empty());
    let (mut usable, mut unusable) = (Vec::new(), Vec::new());
    for name in names.filter(|name| seen.insert(*name)).take(MOST_SECRETS) {
        let read = match secrets.get_opt(name).await {
            Ok(Some(secret)) => read(name, &secret),
            Ok(None) => Err("it does not exist".to_owned()),
            Err(error) => Err(error.to_string()),
        };
        match read {
            Ok(secret) => usable.push(secret),
            Err(reason) => unusable.push((name.to_owned(), reason)),
        }
    }
    (usable, unusable)
}

/// What a Secret says; the reason never does.
fn read(name: &str, secret: &Secret) -> Result<PullSecret, String> {
    let value = |key: &str| {
        let data = secret.data.as_ref().and_then(|data| data.get(key));
        data.map(|value| value.0.as_slice()).ok_or_else(|| format!("it has no key `{key}`"))
    };
    match secret.type_.as_deref().unwrap_or("Opaque") {
        "kubernetes.io/dockerconfigjson" => {
            PullSecret::from_docker_config_json(name, value(".dockerconfigjson")?)
        }
        "kubernetes.io/dockercfg" => PullSecret::from_docker_cfg(name, value(".dockercfg")?),
        other => return Err(format!("it has the type `{other}`, which is no image pull secret")),
    }
    .map_err(|error| crate::chain(&error))
}
