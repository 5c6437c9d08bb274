//! Every lifecycle decision: VirtualMachine → VirtualMachineInstance → launcher Pod, and status back up.
//!
//! ```text
//!  vm/   VirtualMachine ──strategy × state──► create or delete its instance; requests, back-off, printable status
//!  vmi/  VirtualMachineInstance ──► launcher Pod ──► phase and conditions; hands the instance to its launcher
//! ```
//!
//! What is decided is pure; the reconcilers around it know a `kube::Client` and [`Launchers`], and not whether the
//! cluster is real.

pub use ::events;
mod identity;
pub mod launchers;
mod metrics;
pub mod vm;
pub mod vmi;

use std::sync::Arc;
use std::time::Duration;

pub use launchers::Launchers;
pub use metrics::Metrics;

/// Objects in one answer to a list. An answer is in memory several times over while it is read, and what it took there
/// once is not given back soon.
const PAGE: u32 = 100;

/// What an object says on its way to running is not written where it is different again within this time: short enough
/// for whoever looks on, and long enough for a machine whose image is there to run.
const PASSING: Duration = Duration::from_millis(200);

/// What the controllers are told once.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Reference of the image that a launcher Pod's own containers run; on one machine a name that nothing pulls.
    pub launcher_image: String,
    /// Where what happens is counted.
    pub metrics: Metrics,
}

/// Runs all controllers until `stop` is done.
pub async fn run(
    client: kube::Client,
    settings: Settings,
    launchers: Arc<dyn Launchers>,
    stop: impl Future<Output = ()> + Send + 'static,
) {
    tokio::pin!(stop);
    tokio::select! {
        () = vm::run(client.clone()) => {}
        () = vmi::run(client, settings, launchers) => {}
        () = &mut stop => {}
    }
}
