//! What the controllers ask of launchers, carried over the control API.

use std::net::SocketAddr;

use controllers::Launchers;
use controllers::launchers::LauncherError;
use futures::future::{BoxFuture, FutureExt};
use launcher::control::{Client, ControlError};
use manifest::machine_status::MachineStatus;
use manifest::types::VirtualMachineInstance;

/// Launchers behind their control API.
#[derive(Debug, Clone)]
pub struct ControlledLaunchers {
    client: Client,
}

impl ControlledLaunchers {
    /// Launchers that are asked through `client`.
    pub fn new(client: Client) -> Self {
        Self { client }
    }
}

impl Launchers for ControlledLaunchers {
    fn sync(
        &self,
        at: SocketAddr,
        instance: &VirtualMachineInstance,
    ) -> BoxFuture<'static, Result<MachineStatus, LauncherError>> {
        let (client, instance) = (self.client.clone(), instance.clone());
        async move { client.put_machine(at, &instance).await.map_err(error) }.boxed()
    }

    fn status(&self, at: SocketAddr, after: u64) -> BoxFuture<'static, Result<MachineStatus, LauncherError>> {
        let client = self.client.clone();
        async move { client.status(at, after).await.map_err(error) }.boxed()
    }

    fn shutdown(&self, at: SocketAddr, grace_seconds: u64) -> BoxFuture<'static, Result<(), LauncherError>> {
        let client = self.client.clone();
        async move { client.shutdown(at, grace_seconds).await.map(drop).map_err(error) }.boxed()
    }
}

fn error(error: ControlError) -> LauncherError {
    match error {
        ControlError::Unreachable { address, reason } => LauncherError::Unreachable { address, reason },
        ControlError::Refused { reason, .. } => LauncherError::Refused(reason),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_reads_the_same_on_both_sides() {
        let address = SocketAddr::from(([127, 88, 0, 1], 8443));
        for source in [
            ControlError::Unreachable { address, reason: "connection refused".to_owned() },
            ControlError::Refused { code: 403, reason: "this launcher is for another instance".to_owned() },
        ] {
            let text = source.to_string();
            assert_eq!(error(source).to_string(), text);
        }
    }
}
