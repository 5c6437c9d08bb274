//! What the controllers ask of the launcher in a Pod. Who connects, and how both sides prove who they are, is the
//! caller's business.

use std::net::SocketAddr;

use futures::future::BoxFuture;
use manifest::machine_status::MachineStatus;
use manifest::types::VirtualMachineInstance;

/// Why a launcher did not answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LauncherError {
    /// Nobody answers there, or the connection broke.
    #[error("the launcher at {address} does not answer: {reason}")]
    Unreachable {
        /// Where it should be.
        address: SocketAddr,
        /// What happened.
        reason: String,
    },
    /// It answered that it will not.
    #[error("{0}")]
    Refused(String),
}

/// The launchers of all Pods.
pub trait Launchers: Send + Sync {
    /// Hands `instance` to the launcher, which starts its machine. Asked again with the same instance it only answers.
    /// A machine that cannot be started is no error here: the answer's `sync_error` says why.
    fn sync(
        &self,
        at: SocketAddr,
        instance: &VirtualMachineInstance,
    ) -> BoxFuture<'static, Result<MachineStatus, LauncherError>>;

    /// The machine's status once its revision is above `after`; the current one after some seconds at the latest.
    fn status(&self, at: SocketAddr, after: u64) -> BoxFuture<'static, Result<MachineStatus, LauncherError>>;

    /// Has the guest shut down: by its power button, again every five seconds, and killed after `grace_seconds`; at once
    /// when that is 0, or when the machine has no ACPI. Asked again, the earlier end counts.
    fn shutdown(&self, at: SocketAddr, grace_seconds: u64) -> BoxFuture<'static, Result<(), LauncherError>>;
}
