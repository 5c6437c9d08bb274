//! A kubelet for launcher Pods on this machine.
//!
//! ```text
//!  schedule   a Pod without a node ──► does it fit? ──► bound to this node, or Unschedulable with the arithmetic
//!  images     image volumes ──► pull with policy, Secrets and back-off ──► records for the launcher; garbage collection
//!  pods       a bound Pod ──► directory, address, certificates ──► `ferrovirt launcher` ──► Pod status, end, clean-up
//!  register   the Node object, its conditions and its Lease
//!  lost       other Nodes that give no sign of life, and their Pods
//!  logs       what a container of a Pod has said
//!  usage      processor time and memory of its machines
//!  pki        certificates of launchers and of those who may ask them
//! ```

mod files;
pub mod images;
pub mod logs;
pub mod lost;
pub mod pki;
pub mod pods;
pub mod register;
pub mod schedule;
mod unowned;
pub mod usage;

#[cfg(test)]
mod test_server;

use std::path::PathBuf;
use std::sync::Arc;

use kube::api::{DeleteParams, ObjectMeta, Preconditions};

/// What a node is told once.
#[derive(Clone)]
pub struct Settings {
    /// The Node's name.
    pub name: String,
    /// The Node's InternalIP, and `hostIP` of its Pods.
    pub address: std::net::IpAddr,
    /// Directories of Pods, [`launcher::pod_dir`]; gone after a reboot of the host.
    pub pods_dir: PathBuf,
    /// The node's lasting state: its authority, and logs of Pods that are gone.
    pub state_dir: PathBuf,
    /// The program that is started as `PROGRAM launcher …`.
    pub program: PathBuf,
    /// Arguments between `PROGRAM` and `launcher`, such as `--state-dir DIR`.
    pub program_arguments: Vec<String>,
    /// Arguments behind `launcher` that are the same for all, such as `--log-format=json`.
    pub launcher_arguments: Vec<String>,
    /// Where images are pulled to.
    pub images: Arc<image::Images>,
    /// Signs for launchers.
    pub authority: Arc<pki::Authority>,
    /// Asks launchers.
    pub launchers: launcher::control::Client,
    /// Disk usage of the image store's file system, in percent, above which images that nobody uses are removed, and
    /// below which that ends (`imageGCHighThresholdPercent`, `imageGCLowThresholdPercent` of a kubelet).
    pub image_gc: images::Thresholds,
}

/// Runs the node until `stop` is done. Launchers go on then.
///
/// # Errors
/// When a directory or the authority cannot be used.
pub async fn run(
    client: kube::Client,
    settings: Settings,
    stop: impl Future<Output = ()> + Send + 'static,
) -> Result<(), NodeError> {
    let images = images::ImageManager::new(client.clone(), settings.clone());
    // Before anything is collected: what runs needs its images.
    let adopted = pods::adopt(&settings, &images).await?;
    tokio::pin!(stop);
    tokio::select! {
        () = register::run(client.clone(), &settings) => Ok(()),
        () = schedule::run(client.clone(), &settings) => Ok(()),
        () = lost::run(client.clone(), &settings) => Ok(()),
        () = images.collect_garbage() => Ok(()),
        result = pods::run(client, &settings, &images, adopted) => result,
        () = &mut stop => Ok(()),
    }
}

/// Why a node does not run.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// A file or directory of the node.
    #[error("cannot use `{path}`")]
    Files {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// Whether `error` says that the object is not there any more, or is another by now.
fn is_gone(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if matches!(status.code, 404 | 409))
}

/// What logs call an object: `NAMESPACE/NAME`, or its name alone where it is in no namespace.
fn object(meta: &ObjectMeta) -> String {
    let name = meta.name.as_deref().unwrap_or_default();
    match &meta.namespace {
        Some(namespace) => format!("{namespace}/{name}"),
        None => name.to_owned(),
    }
}

/// How the Pod of that UID, and no later one of its name, is deleted at once.
fn by_force(uid: Option<String>) -> DeleteParams {
    let preconditions = Preconditions { uid, resource_version: None };
    DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default().grace_period(0) }
}

/// An error and its causes as one line.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
