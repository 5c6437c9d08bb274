//! What Kubernetes' controllers do to any object: garbage collection, namespaces' ends, expiry, aggregated roles.

use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::verbs::Api;

/// What the controllers need beside the verbs.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// The certificate authority's certificate (PEM), published as `kube-root-ca.crt` in every namespace.
    pub root_certificate: String,
}

/// Starts the controllers; each ends soon after `stop` becomes true (or its sender is dropped).
pub fn start(_api: &Api, _settings: Settings, _stop: watch::Receiver<bool>) -> JoinSet<()> {
    JoinSet::new()
}
