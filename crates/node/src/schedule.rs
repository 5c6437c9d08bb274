//! Which Pods fit on this machine.

use crate::Settings;

/// Binds Pods that fit, until dropped.
pub async fn run(_client: kube::Client, _settings: &Settings) {
    std::future::pending().await
}
