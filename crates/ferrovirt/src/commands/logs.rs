//! `ferrovirt logs`: what machines have said.
//!
//! Of this machine's own server the files are read, whether it runs or not: every boot that is kept, also when no Pod is
//! there. Any other server is asked for the log of the launcher's Pod, which leads one boot back.

use std::io;
use std::path::Path;

use futures::StreamExt as _;
use http::Method;
use http_body_util::BodyExt as _;
use kube::Config;
use kube::config::{KubeConfigOptions, Kubeconfig};
use node::logs::{self, Boot, CONTAINERS, LogOptions};

use super::Context;
use super::api::resources::PODS;
use super::api::targets::Guest;
use super::api::{Server, config, query, request, text};
use crate::cli::LogsFlags;
use crate::report::{ExitCode, Failure, print, print_bytes};

/// Prints the log of one boot, or the list of boots.
pub async fn logs(context: &Context, flags: &LogsFlags) -> Result<ExitCode, Failure> {
    let own = flags.guest.namespace.as_deref();
    if !flags.local && config::is_named(&context.settings) {
        let server = Server::find_for(context, own).await?;
        if !is_ours(context, &server).await {
            return remote(&server, flags).await;
        }
        return local(context, flags, &server.namespace).await;
    }
    let named = own.or(context.settings.namespace.as_deref());
    local(context, flags, named.unwrap_or("default")).await
}

/// Whether the server is the one whose state is here: its address and its authority are those of our kubeconfig.
async fn is_ours(context: &Context, server: &Server) -> bool {
    let Ok(ours) = Kubeconfig::read_from(context.settings.admin_kubeconfig()) else {
        // There is none, or it is another user's: the server is asked.
        return false;
    };
    match Config::from_custom_kubeconfig(ours, &KubeConfigOptions::default()).await {
        Ok(ours) => ours.cluster_url == server.url() && ours.root_cert == server.authority,
        Err(error) => {
            tracing::info!(%error, "the kubeconfig of this machine's server cannot be used");
            false
        }
    }
}

async fn remote(server: &Server, flags: &LogsFlags) -> Result<ExitCode, Failure> {
    let LogsFlags { guest: Guest { name, .. }, boot, .. } = flags;
    let namespace = &server.namespace;
    let here = || Some(format!("on the machine where it runs: ferrovirt logs {name} -n {namespace} --local"));
    if flags.list_boots || *boot < -1 {
        let error = anyhow::anyhow!("the server `{}` gives no log before that of boot `-1`", server.url());
        return Err(Failure::refused(error, here()));
    }
    let what = || format!("cannot read the log of `{namespace}/{name}`");
    let selector = format!("kubevirt.io=virt-launcher,vm.kubevirt.io/name={name}");
    let pods = server.pods(namespace, &selector).await;
    let pods = pods.map_err(|error| error.failure(what(), None))?;
    let newest = pods.iter().max_by_key(|pod| text(pod, "/metadata/creationTimestamp"));
    let Some(pod) = newest.map(|pod| text(pod, "/metadata/name")) else {
        let error = anyhow::anyhow!("no launcher Pod of `{namespace}/{name}` is there");
        return Err(Failure::refused(error, here()));
    };
    let tail = flags.tail.map(|lines| lines.to_string());
    let mut pairs = vec![("container", flags.container.as_str())];
    let switches = [("follow", flags.follow), ("previous", *boot == -1), ("timestamps", flags.timestamps)];
    pairs.extend(switches.into_iter().filter(|(_, is_on)| *is_on).map(|(name, _)| (name, "true")));
    pairs.extend(tail.as_deref().map(|lines| ("tailLines", lines)));
    let path = format!("{}/log{}", PODS.path(Some(namespace), Some(pod)), query(pairs));
    let response = match request(Method::GET, &path, "*/*", None) {
        Ok(request) => server.open(request).await,
        Err(error) => Err(error),
    };
    let mut body = response.map_err(|error| error.failure(what(), here()))?.into_body();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| anyhow::Error::new(error).context(what()))?;
        if let Ok(bytes) = frame.into_data() {
            print_bytes(&bytes)?;
        }
    }
    Ok(ExitCode::Done)
}

async fn local(context: &Context, flags: &LogsFlags, namespace: &str) -> Result<ExitCode, Failure> {
    let (pods_dir, node_dir) = (context.settings.pods_dir(), context.settings.node_dir());
    let name = &flags.guest.name;
    let boots = logs::boots(&pods_dir, &node_dir, namespace, name)
        .map_err(|error| unreadable(error, &node_dir, namespace, name))?;
    if flags.list_boots {
        print(&table(&boots))?;
        return Ok(ExitCode::Done);
    }
    let back = usize::try_from(flags.boot.unsigned_abs()).unwrap_or(usize::MAX);
    let Some(boot) = boots.get(back) else { return Err(missing(flags, namespace, boots.len())) };
    let options = LogOptions {
        follow: flags.follow,
        tail_lines: flags.tail,
        timestamps: flags.timestamps,
        ..LogOptions::default()
    };
    let failed = |error| unreadable(error, &node_dir, namespace, name);
    let mut pieces = boot.read(&flags.container, &options).map_err(failed)?;
    while let Some(piece) = pieces.next().await {
        print_bytes(&piece.map_err(failed)?)?;
    }
    Ok(ExitCode::Done)
}

fn table(boots: &[Boot]) -> String {
    let mut text = format!("{:<6}{:<38}{}\n", "BOOT", "POD UID", "ENDED");
    for (back, boot) in boots.iter().enumerate() {
        let number = if back == 0 { "0".to_owned() } else { format!("-{back}") };
        let ended = boot.kept.map_or_else(|| "-".to_owned(), |at| format!("{at:.0}"));
        text.push_str(&format!("{number:<6}{:<38}{ended}\n", boot.pod_uid));
    }
    text
}

fn missing(flags: &LogsFlags, namespace: &str, count: usize) -> Failure {
    let LogsFlags { guest: Guest { name, .. }, boot, .. } = flags;
    match count {
        0 => Failure::refused(
            anyhow::anyhow!("no boot of `{namespace}/{name}` has a log on this machine"),
            Some("see which instances there are: ferrovirt get vmi --all-namespaces".to_owned()),
        ),
        _ => Failure::refused(
            anyhow::anyhow!("`{namespace}/{name}` has no boot `{boot}` here; there are {count}"),
            Some(format!("list them: ferrovirt logs {name} --namespace {namespace} --list-boots")),
        ),
    }
}

fn unreadable(error: io::Error, directory: &Path, namespace: &str, name: &str) -> Failure {
    let hint = (error.kind() == io::ErrorKind::PermissionDenied).then(|| {
        format!("run this as the user who runs the server; the logs are below `{}`", directory.display())
    });
    let error = anyhow::Error::new(error).context(format!("cannot read the logs of `{namespace}/{name}`"));
    Failure::refused(error, hint)
}

/// The containers that have a log, for the command line.
pub fn container(name: &str) -> Result<String, String> {
    match CONTAINERS.contains(&name) {
        true => Ok(name.to_owned()),
        false => Err(format!("choose one of {}", CONTAINERS.join(", "))),
    }
}
