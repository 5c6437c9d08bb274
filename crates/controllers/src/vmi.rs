//! The VirtualMachineInstance controller.

use std::sync::Arc;

use crate::{Launchers, Settings};

/// Runs until dropped.
pub async fn run(_client: kube::Client, _settings: Settings, _launchers: Arc<dyn Launchers>) {
    std::future::pending().await
}
