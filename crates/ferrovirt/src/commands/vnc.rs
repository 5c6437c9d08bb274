//! `ferrovirt vnc`: a machine's display in a viewer of this host, and pictures of it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context as _;
use http::Method;
use tokio::process::Command;

use super::Context;
use super::api::refusal::RequestError;
use super::api::resources::INSTANCES;
use super::api::stream::End;
use super::api::targets::Guest;
use super::api::{Server, query, request};
use super::get::there;
use super::port_forward::listen;
use super::serve::ended_by_signal;
use crate::cli::{ScreenshotFlags, ViewerKind, VncCommand, VncFlags};
use crate::report::{ExitCode, Failure, print, print_bytes};

/// How long a viewer may take to connect (virtctl's `LISTEN_TIMEOUT`).
const VIEWER_LIMIT: Duration = Duration::from_secs(60);

/// What is looked for, in virtctl's order.
const VIEWERS: [(&str, ViewerKind); 2] =
    [("remote-viewer", ViewerKind::RemoteViewer), ("vncviewer", ViewerKind::Tiger)];

/// Shows a display until viewer, guest or user end it, or takes a picture.
pub async fn vnc(context: &Context, flags: VncFlags) -> Result<ExitCode, Failure> {
    match (&flags.command, &flags.guest) {
        (Some(VncCommand::Screenshot(flags)), _) => screenshot(context, flags).await,
        (None, Some(guest)) => view(context, guest, &flags).await,
        (None, None) => Err(Failure::usage("no machine is named")),
    }
}

fn refused(error: RequestError, server: &Server, guest: &Guest) -> Failure {
    let namespace = Some(server.namespace.as_str());
    let hint = error.is_not_found().then(|| there(&INSTANCES, namespace));
    error.failure(format!("cannot see the display of {}", INSTANCES.object(namespace, &guest.name)), hint)
}

async fn view(context: &Context, guest: &Guest, flags: &VncFlags) -> Result<ExitCode, Failure> {
    let viewer = match flags.proxy_only {
        true => None,
        false => Some(viewer(flags)?),
    };
    let server = Server::find_for(context, guest.namespace.as_deref()).await?;
    let path = INSTANCES.subresource_path(&server.namespace, &guest.name, "vnc");
    let preserve = flags.preserve_session.then_some(("preserveSession", "true"));
    let stream = server.stream(&format!("{path}{}", query(preserve))).await;
    let stream = stream.map_err(|error| refused(error, &server, guest))?;
    let listener = listen(flags.address, flags.port).await?;
    let at = listener.local_addr().context("cannot read the address of a listener")?;
    let ended = ended_by_signal()?;
    let patience = match viewer {
        Some(_) => VIEWER_LIMIT,
        None => Duration::MAX,
    };
    let showing = async {
        let accepted = tokio::time::timeout(patience, listener.accept()).await;
        let late = |_| anyhow::anyhow!("no viewer has connected to `{at}` within {patience:?}");
        let (client, _) = accepted.map_err(late)?.context("cannot accept a viewer")?;
        drop(listener);
        let (from, to) = client.into_split();
        match stream.carry(from, to).await {
            // A viewer that is closed is gone at once.
            Ok(End::Guest | End::Own) | Err(_) => Ok(ExitCode::Done),
            Ok(End::Cut) => {
                let object = INSTANCES.object(Some(&server.namespace), &guest.name);
                Err(Failure::from(anyhow::anyhow!(
                    "disconnected from the display of {object}: another client took it, the server went away, or the \
                     machine has ended"
                )))
            }
        }
    };
    let viewing = async {
        match &viewer {
            Some(viewer) => viewer.run(reachable(at)).await,
            None => {
                print(&format!("{{\"port\":{}}}\n", at.port()))?;
                std::future::pending().await
            }
        }
    };
    tokio::select! {
        outcome = showing => outcome,
        outcome = viewing => outcome,
        _ = ended => Ok(ExitCode::Done),
    }
}

/// Where a viewer of this host reaches a listener.
fn reachable(at: SocketAddr) -> SocketAddr {
    let address = match at.ip() {
        IpAddr::V4(address) if address.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(address) if address.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        address => address,
    };
    SocketAddr::new(address, at.port())
}

/// A viewer of this host.
#[derive(Debug, PartialEq, Eq)]
struct Viewer {
    program: PathBuf,
    kind: ViewerKind,
}

/// The viewer that is asked for, else the first of those known that is in the search path.
fn viewer(flags: &VncFlags) -> Result<Viewer, Failure> {
    if let Some(program) = &flags.vnc_path {
        let named = |(name, _): &&(&str, _)| program.file_name().is_some_and(|own| own == *name);
        let known = VIEWERS.iter().find(named).map(|(_, kind)| *kind);
        let kind = flags.vnc_type.or(known).unwrap_or(ViewerKind::Tiger);
        return Ok(Viewer { program: program.clone(), kind });
    }
    // Without a search path there is no viewer in it.
    let search_path = std::env::var_os("PATH").unwrap_or_default();
    let found = VIEWERS.iter().find_map(|(name, kind)| {
        let program = vmm::find_in_path(name.as_ref(), &search_path)?;
        Some(Viewer { program, kind: *kind })
    });
    found.ok_or_else(|| {
        let error = anyhow::anyhow!("could not find remote-viewer or vncviewer binary in $PATH");
        let hint = "install one, name another with --vnc-path, or connect with your own: --proxy-only";
        Failure::refused(error, Some(hint.to_owned()))
    })
}

impl Viewer {
    /// Its arguments (virtctl's).
    fn arguments(&self, at: SocketAddr) -> Vec<String> {
        match self.kind {
            ViewerKind::RemoteViewer => vec![format!("vnc://{at}")],
            ViewerKind::Tiger => vec![at.to_string()],
            ViewerKind::Real => {
                let options = ["-WarnUnencrypted=0", "-Shared=0", "-ShareFiles=0"];
                std::iter::once(at.to_string()).chain(options.map(str::to_owned)).collect()
            }
        }
    }

    /// Runs it until it is closed.
    async fn run(&self, at: SocketAddr) -> Result<ExitCode, Failure> {
        let program = self.program.display();
        let mut command = Command::new(&self.program);
        command.args(self.arguments(at)).stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true);
        let status = command.status().await.with_context(|| format!("cannot run the viewer `{program}`"))?;
        match status.success() {
            true => Ok(ExitCode::Done),
            false => Err(anyhow::anyhow!("the viewer `{program}` ended with {status}").into()),
        }
    }
}

async fn screenshot(context: &Context, flags: &ScreenshotFlags) -> Result<ExitCode, Failure> {
    let server = Server::find_for(context, flags.guest.namespace.as_deref()).await?;
    let path = INSTANCES.subresource_path(&server.namespace, &flags.guest.name, "vnc/screenshot");
    let move_cursor = flags.move_cursor.then_some(("moveCursor", "true"));
    let asked = request(Method::GET, &format!("{path}{}", query(move_cursor)), "image/png", None);
    let answer = match asked {
        Ok(asked) => server.call(asked).await,
        Err(error) => Err(error),
    };
    let picture = answer.map_err(|error| refused(error, &server, &flags.guest))?.body;
    if flags.file == Path::new("-") {
        print_bytes(&picture)?;
    } else {
        let file = flags.file.display();
        std::fs::write(&flags.file, &picture).with_context(|| format!("cannot write `{file}`"))?;
    }
    Ok(ExitCode::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn viewers_are_called_as_by_virtctl() {
        let arguments = |kind, at: &str| {
            let at = reachable(at.parse().unwrap_or(SocketAddr::from(([0, 0, 0, 0], 0))));
            Viewer { program: PathBuf::new(), kind }.arguments(at).join(" ")
        };
        assert_eq!(arguments(ViewerKind::RemoteViewer, "127.0.0.1:5900"), "vnc://127.0.0.1:5900");
        assert_eq!(arguments(ViewerKind::Tiger, "0.0.0.0:5900"), "127.0.0.1:5900");
        assert_eq!(
            arguments(ViewerKind::Real, "[::]:5900"),
            "[::1]:5900 -WarnUnencrypted=0 -Shared=0 -ShareFiles=0"
        );
    }
}
