//! The Node object, its conditions and its Lease.

use crate::Settings;

/// Registers the node and keeps its Lease, until dropped.
pub async fn run(_client: kube::Client, _settings: &Settings) {
    std::future::pending().await
}
