//! `ferrovirt serve`: the Kubernetes API with KubeVirt's kinds, on this machine.
//!
//! The command says where it listens and how to reach it, tells a service manager when it is ready, and stops on
//! SIGTERM or SIGINT once the requests at hand are answered.

mod admission;
mod installation;
mod kinds;
mod launchers;
mod machines;
mod metrics;
mod notify;
mod pod_logs;
mod resource_metrics;
mod subresources;

use std::sync::{Arc, OnceLock};

use anyhow::Context as _;
use apiserver::builtin;
use apiserver::kind::Kinds;
use apiserver::server::{ApiServer, Options};
use apiserver::store::HistoryLimits;
use prometheus_client::registry::Registry;
use tokio::signal::unix::{SignalKind, signal};

use super::Context;
use crate::cli::ServeFlags;
use crate::report::{ExitCode, Failure};
use crate::settings::ensure_dir;
use machines::{Machines, Prepared};

/// The Kubernetes version whose API is served: that of the types the server is built with.
const KUBERNETES_VERSION: &str = "v1.33.0";

/// Serves until a signal ends it.
pub async fn serve(context: &Context, flags: &ServeFlags) -> Result<ExitCode, Failure> {
    let ended = ended_by_signal()?;
    if let Err(error) = vmm::priority::lead() {
        tracing::warn!(%error, "the server stands behind the starts of its machines");
    }
    ensure_dir(&context.settings.state_dir, 0o755)?;
    let version = concat!("v", env!("CARGO_PKG_VERSION"));
    let prepared = match flags.api_only {
        true => None,
        false => Some(Prepared::new(context, flags)?),
    };
    let logs = prepared.as_ref().map(Prepared::logs);
    let launchers = prepared.as_ref().map(Prepared::launchers);
    let counted = controllers::Metrics::default();
    let mut metrics = Registry::default();
    counted.register(&mut metrics);
    let objects = Arc::new(OnceLock::new());
    let (connections, created) = (metrics::Connections::default(), metrics::Created::default());
    metrics.register_collector(Box::new(metrics::Machines {
        objects: Arc::clone(&objects),
        pods_dir: prepared.as_ref().map(|_| context.settings.pods_dir()),
        connections: connections.clone(),
        created: created.clone(),
    }));
    let used = prepared.as_ref().map(|prepared| prepared.used(&objects));
    let options = Options {
        listen: flags.listen,
        token_file: flags.token_auth_file.clone(),
        audit_log: flags.audit_log_path.clone(),
        history: HistoryLimits { max_events: flags.history_changes, ..HistoryLimits::default() },
        extra_objects: installation::objects(version),
        metrics,
        extensions: logs.into_iter().chain([subresources::extension(launchers, connections)]).collect(),
        ..Options::new(
            context.settings.api_dir(),
            format!("{KUBERNETES_VERSION}+ferrovirt.{}", env!("CARGO_PKG_VERSION")),
        )
    };
    let kinds = builtin::kinds().into_iter().chain(kinds::kinds(!flags.api_only, &created));
    let used = used.into_iter().flat_map(resource_metrics::kinds);
    let kinds = Kinds::new(kinds.chain(used)).with_foreign(subresources::DISCOVERY);
    let server = ApiServer::start(options, kinds).await?;
    // Set once, here.
    let _ = objects.set(server.objects());
    let mut machines = prepared.map(|prepared| Machines::start(prepared, &server, counted));
    let address = server.address();
    context.reporter.note(format!("serving on https://{address}"));
    context.reporter.note(format!("kubeconfig: {}", server.admin_kubeconfig().display()));
    notify::ready(address);
    let reporter = context.reporter;
    let mut failure = None;
    let shutdown = async {
        let failed = async {
            match &mut machines {
                Some(machines) => machines.failed().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            name = ended => reporter.note(format!("stopping: {name}")),
            error = failed => failure = Some(error),
        }
        notify::stopping();
        if let Some(machines) = machines.take() {
            machines.stop().await;
        }
    };
    server.run_until(shutdown).await.map_err(anyhow::Error::new)?;
    if let Some(error) = failure {
        return Err(Failure::from(error));
    }
    Ok(ExitCode::Done)
}

/// What SIGINT and SIGTERM end; caught from here on.
///
/// # Errors
/// When they cannot be caught.
pub fn ended_by_signal() -> Result<impl Future<Output = &'static str> + Send + 'static, Failure> {
    let catch = |kind| signal(kind).context("cannot catch signals");
    let mut interrupt = catch(SignalKind::interrupt())?;
    let mut terminate = catch(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => "SIGINT",
            _ = terminate.recv() => "SIGTERM",
        }
    })
}
