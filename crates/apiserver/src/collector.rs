//! What Kubernetes' controllers do to any object: garbage collection, namespaces' ends, expiry, aggregated roles, tokens of
//! accounts.
//!
//! ```text
//! store.watch (one per kind) ─► feed ─► garbage     owners gone ─► dependents deleted; foreground, orphan
//!                                     ─► namespaces  Terminating ─► contents deleted, finalizer removed
//!                                     ─► essentials  `default` ServiceAccount and `kube-root-ca.crt` in each namespace
//!                                     ─► expiry      `time_to_live` after an object's last change
//!                                     ─► roles       ClusterRoles whose rules are gathered by label
//!                                     ─► tokens      Secrets with the token of a ServiceAccount
//! ```
//!
//! Each duty is one task. What to do is decided by functions of values; queues hold each object once, and everything
//! that fails is tried again, so a lost event costs a delay and no more.

mod essentials;
mod expiry;
mod feed;
mod garbage;
mod graph;
mod namespaces;
mod roles;
#[cfg(test)]
mod tests;
pub(crate) mod tokens;

use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::verbs::Api;

/// What the controllers need beside the verbs.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// The certificate authority's certificate (PEM), published as `kube-root-ca.crt` in every namespace.
    pub root_certificate: String,
}

/// Starts the controllers, but for that of the tokens, which needs the key that signs them; each ends soon after `stop`
/// becomes true (or its sender is dropped).
pub fn start(api: &Api, settings: Settings, stop: watch::Receiver<bool>) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    tasks.spawn(garbage::run(api.clone(), stop.clone()));
    tasks.spawn(namespaces::run(api.clone(), stop.clone()));
    tasks.spawn(essentials::run(api.clone(), settings.root_certificate, stop.clone()));
    tasks.spawn(expiry::run(api.clone(), stop.clone()));
    tasks.spawn(roles::run(api.clone(), stop));
    tasks
}

/// Becomes ready when the server stops.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    // An error says that the sender is gone, which is a stop as well.
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Waits until then; for ever where there is no such time.
async fn until(at: Option<tokio::time::Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
