//! The controllers and the node of this machine, beside the API server in one process.
//!
//! They speak to the API server as anybody does, through a client, each under the account that it has in a cluster; only
//! the way to it is shorter. When one of them ends by itself the server ends too, with its reason: machines run on, and
//! whoever supervises the server starts it again.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use anyhow::anyhow;
use apiserver::auth::Identity;
use apiserver::http::extension::Extension;
use apiserver::server::{ApiServer, Objects};
use apiserver::store::{DirectoryLock, LockError};
use kube::Client;
use launcher::host::Host;
use node::pki::Authority;
use node::pods::redirect::{self, RedirectError, Redirected};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::launchers::ControlledLaunchers;
use super::{pod_logs, resource_metrics};
use crate::cli::{Accel, PodPorts, ServeFlags};
use crate::commands::image::open_images;
use crate::commands::{Context, host};
use crate::report::Failure;
use crate::settings::ensure_dir;

/// Running controllers and node.
pub struct Machines {
    tasks: JoinSet<anyhow::Result<()>>,
    stop: watch::Sender<bool>,
    _owned: DirectoryLock,
}

/// Controllers and node before they run: what the API server answers of the node's files needs no running node.
pub struct Prepared {
    node: node::Settings,
    host: Host,
    pod_ports: PodPorts,
    /// No other server may take the machines for its own: it would end those that it does not know.
    owned: DirectoryLock,
}

impl Prepared {
    /// Opens what they use. A Node that is given no name keeps the one that it had, and is called after the host at first.
    ///
    /// # Errors
    /// When a directory, the image store or the node's authority cannot be used, or another server has machines there.
    pub fn new(context: &Context, flags: &ServeFlags) -> Result<Self, Failure> {
        let settings = &context.settings;
        let (pods_dir, state_dir) = (settings.pods_dir(), settings.node_dir());
        // QEMU, which may be another user, passes through to its own directory in there.
        ensure_dir(&settings.run_dir, 0o711)?;
        ensure_dir(&pods_dir, 0o711)?;
        ensure_dir(&state_dir, 0o700)?;
        let owned =
            DirectoryLock::take(&settings.run_dir).map_err(|error| not_owned(&settings.run_dir, error))?;
        let name = node::register::kept_name(&state_dir, flags.node_name.as_deref(), host_name)
            .map_err(anyhow::Error::new)?;
        let authority = Arc::new(Authority::open(&state_dir.join("pki")).map_err(anyhow::Error::new)?);
        let identity = authority.controllers().map_err(anyhow::Error::new)?;
        let launchers =
            launcher::control::Client::new(authority.certificate(), &identity.certificate, &identity.key)
                .map_err(anyhow::Error::new)?;
        let node = node::Settings {
            name,
            address: match flags.listen.ip() {
                everywhere if everywhere.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
                one => one,
            },
            pods_dir,
            state_dir,
            // The link stays right when the file has been replaced by a newer version meanwhile.
            program: PathBuf::from("/proc/self/exe"),
            program_arguments: [("--state-dir", &settings.state_dir), ("--run-dir", &settings.run_dir)]
                .into_iter()
                .flat_map(|(flag, dir)| [flag.to_owned(), dir.display().to_string()])
                .collect(),
            launcher_arguments: vec![flags.log_format.as_flag().to_owned()],
            images: Arc::new(open_images(context)?),
            authority,
            launchers,
            image_gc: node::images::Thresholds::default(),
        };
        Ok(Self { node, host: host::host(context, Accel::Auto), pod_ports: flags.pod_ports, owned })
    }

    /// What asks launchers.
    pub fn launchers(&self) -> launcher::control::Client {
        self.node.launchers.clone()
    }

    /// What tells of the use that its Pods make of the node; `objects` are the server's, once it runs.
    pub fn used(&self, objects: &Arc<OnceLock<Objects>>) -> resource_metrics::Source {
        resource_metrics::Source {
            meter: node::usage::Meter::new(self.node.pods_dir.clone()),
            objects: Arc::clone(objects),
            node_name: self.node.name.clone(),
        }
    }

    /// What answers for the logs of the node's Pods.
    pub fn logs(&self) -> Extension {
        pod_logs::extension(self.node.clone())
    }
}

impl Machines {
    /// Starts them against `server`; what happens is counted in `metrics`.
    pub fn start(prepared: Prepared, server: &ApiServer, metrics: controllers::Metrics) -> Self {
        let Prepared { node, host, pod_ports, owned } = prepared;
        let launchers = node.launchers.clone();
        tokio::spawn(open_ports(pod_ports));
        tokio::spawn(look_around(host, node.pods_dir.clone()));
        let controller_settings = controllers::Settings {
            launcher_image: format!("ferrovirt/launcher:{}", env!("CARGO_PKG_VERSION")),
            metrics,
        };
        let (stop, stopped) = watch::channel(false);
        let mut tasks = JoinSet::new();
        let client = |identity| Client::new(server.client_service(identity), "default");
        let controller = client(Identity::service_account("kubevirt", "kubevirt-controller"));
        tasks.spawn({
            let stopped = until(stopped.clone());
            async move {
                let launchers = Arc::new(ControlledLaunchers::new(launchers));
                controllers::run(controller, controller_settings, launchers, stopped).await;
                Ok(())
            }
        });
        let node_client = client(Identity::node(&node.name));
        tasks.spawn({
            let stopped = until(stopped);
            async move { Ok(node::run(node_client, node, stopped).await?) }
        });
        Self { tasks, stop, _owned: owned }
    }

    /// Why one of them has ended by itself; waits until one does.
    pub async fn failed(&mut self) -> anyhow::Error {
        match self.tasks.join_next().await {
            Some(Ok(Err(error))) => error,
            Some(Ok(Ok(()))) => anyhow!("a controller has ended"),
            Some(Err(error)) => anyhow::Error::new(error).context("a controller has failed"),
            None => std::future::pending().await,
        }
    }

    /// Ends them; machines run on.
    pub async fn stop(mut self) {
        self.stop.send_replace(true);
        while self.tasks.join_next().await.is_some() {}
    }
}

/// The refusal of a directory that is another server's.
fn not_owned(run_dir: &Path, error: LockError) -> Failure {
    let hint = matches!(error, LockError::Held { .. }).then(|| {
        "stop that server, or have machines elsewhere with --run-dir, or none with --api-only".to_owned()
    });
    let what = format!("cannot have machines in `{}`", run_dir.display());
    Failure::refused(anyhow::Error::new(error).context(what), hint)
}

/// Finds out now what the first machine would have to wait for: which QEMU there is, and whether KVM runs a guest. The
/// answers are kept for launchers.
async fn look_around(host: Host, directory: PathBuf) {
    let found = match host.qemu() {
        Ok(qemu) => host.accelerator_for(&directory, &qemu).await.map(drop),
        Err(error) => Err(error),
    };
    if let Err(error) = found {
        tracing::warn!(%error, hint = error.hint(), "no machine can be started on this host");
    }
}

/// Has all ports of guests open at their Pods' addresses, if that is wanted and can be had.
async fn open_ports(ports: PodPorts) {
    const LISTED: &str = "only ports that `ports` list are open at Pods' addresses";
    let outcome = match ports {
        PodPorts::All => redirect::install().await,
        PodPorts::Listed => return tracing::info!("{LISTED}, as --pod-ports says"),
    };
    match outcome {
        Ok(Redirected::All) => {
            tracing::info!("all ports of guests are open at Pods' addresses, by rules of nftables");
        }
        Ok(Redirected::TcpAlone { said }) => tracing::info!(
            said,
            "all TCP ports of guests are open at Pods' addresses, by a rule of nftables, and UDP ports that `ports` list"
        ),
        Err(error) if redirect::is_in_force().await => {
            tracing::info!(%error, "all TCP ports of guests are open at Pods' addresses, by rules that were there");
        }
        // An ordinary user has not expected it.
        Err(error @ RedirectError::NotRoot) => tracing::info!(%error, hint = error.hint(), "{LISTED}"),
        Err(error) => {
            let hint = error.hint();
            tracing::warn!(error = format!("{:#}", anyhow!(error)), hint, "{LISTED}");
        }
    }
}

/// Comes back when it is time to stop.
async fn until(mut stopped: watch::Receiver<bool>) {
    // The sender goes only with everything else.
    let _ = stopped.wait_for(|stop| *stop).await;
}

/// The host's name as a Kubernetes name: what no name may hold becomes `-`.
fn host_name() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().to_lowercase();
    let name: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' }).take(63).collect();
    let name = name.trim_matches(['-', '.']);
    if name.is_empty() { "localhost".to_owned() } else { name.to_owned() }
}
