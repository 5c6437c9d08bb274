//! The VirtualMachine controller.

/// Runs until dropped.
pub async fn run(_client: kube::Client) {
    std::future::pending().await
}
