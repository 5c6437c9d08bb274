//! The VirtualMachine controller.

pub mod instance;
pub mod requests;
pub mod strategy;

/// Runs until dropped.
pub async fn run(_client: kube::Client) {
    std::future::pending().await
}
