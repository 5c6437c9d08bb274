//! The VirtualMachineInstance controller.
//!
//! ```text
//!  pod         the launcher Pod of an instance          view    what a Pod says
//!  phase       which phase follows                      report  the whole instance as it should be, and the events
//!  conditions  their reasons and words                  followers  one task for each live launcher
//!  reconcile   reads, asks `report`, writes the difference
//!  transitions how long instances are in their phases
//! ```
//!
//! An instance is looked at when it changes, when its Pod does, and when its launcher says something; nothing is polled.
//! Everything but `followers` and `reconcile` is pure.

mod conditions;
mod followers;
mod migratable;
mod phase;
mod pod;
mod reconcile;
mod report;
pub mod requests;
mod resources;
mod transitions;
mod view;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::channel::mpsc;
use futures::{StreamExt, future, stream};
use k8s_openapi::api::core::v1::Node;
use kube::runtime::controller::Controller;
use kube::runtime::{WatchStreamExt, reflector, watcher};
use kube::{Api, Client};
use manifest::keys;
use manifest::types::VirtualMachineInstance;

use crate::events::Recorder;
use crate::identity::Packed;
use crate::{Launchers, PAGE, Settings};

use followers::Followers;
use reconcile::Context;
pub use resources::overhead_bytes as launcher_overhead_bytes;
use transitions::Transitions;
use view::LauncherPod;

/// Launchers' news that wait for the controller.
const MOST_NEWS: usize = 256;

/// How often followers of instances that are gone are looked for.
const SWEEP: Duration = Duration::from_secs(30);

/// Where the launcher of `instance` can be asked, while it runs.
///
/// # Errors
/// When the API server does not say.
pub async fn launcher_address(
    client: Client,
    instance: &VirtualMachineInstance,
) -> Result<Option<SocketAddr>, kube::Error> {
    let namespace = instance.metadata.namespace.as_deref().unwrap_or_default();
    let pod = reconcile::stored_pod(&Api::namespaced(client, namespace), instance).await?;
    Ok(pod.and_then(|pod| pod.control))
}

/// Whether what was to leave the node of `instance` may stay there after all.
///
/// # Errors
/// When the API server does not say; the inner one while the node is to be left.
pub async fn stay(
    client: Client,
    instance: &VirtualMachineInstance,
) -> Result<Result<(), requests::Refusal>, kube::Error> {
    let node = instance.status.as_ref().and_then(|status| status.node_name.as_deref());
    let Some(node) = node.filter(|node| !node.is_empty()) else { return Ok(Ok(())) };
    let node = Api::<Node>::all(client).get_opt(node).await?;
    Ok(node.as_ref().map_or(Ok(()), requests::stay))
}

/// Runs until dropped.
pub async fn run(client: Client, settings: Settings, launchers: Arc<dyn Launchers>) {
    let (wake, news) = mpsc::channel(MOST_NEWS);
    let (pods, writer) = reflector::store();
    let launcher_pods =
        watcher::Config::default().labels(&format!("{}=virt-launcher", keys::APP)).page_size(PAGE);
    let pod_changes = watcher(Api::<LauncherPod>::all(client.clone()), launcher_pods)
        .default_backoff()
        .reflect(writer)
        .touched_objects()
        .filter_map(|pod| {
            future::ready(match pod {
                Ok(pod) => reconcile::owner(&pod),
                Err(error) => {
                    tracing::debug!(%error, "watching Pods");
                    None
                }
            })
        });
    let context = Arc::new(Context {
        client: client.clone(),
        launcher_image: settings.launcher_image,
        metrics: settings.metrics,
        pods,
        followers: Followers::new(launchers, wake),
        recorder: Recorder::new(client.clone()),
        failures: Mutex::default(),
        drafts: Mutex::default(),
        transitions: Transitions::default(),
    });
    let (instances, writer) = reflector::store();
    let instance_changes = watcher(
        Api::<Packed<VirtualMachineInstance>>::all(client),
        watcher::Config::default().page_size(PAGE),
    )
    .reflect(writer)
    .applied_objects();
    let controller = Controller::for_stream(instance_changes, instances.clone())
        .reconcile_on(stream::select(pod_changes, news));
    let sweep = async {
        let mut ticks = tokio::time::interval(SWEEP);
        loop {
            ticks.tick().await;
            context.sweep(&instances);
        }
    };
    let reconciling =
        controller.run(reconcile::reconcile, reconcile::retry, Arc::clone(&context)).for_each(|result| {
            if let Err(error) = result {
                tracing::debug!(%error, "an instance was not dealt with");
            }
            future::ready(())
        });
    future::join(reconciling, sweep).await;
}
