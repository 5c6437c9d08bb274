//! `ferrovirt logs`: what machines of `serve` have said, from the files, whether a server runs or not.
//!
//! `kubectl logs` reads the boot of the Pod that is there and, with `--previous`, the one before it. This reads every
//! boot that is kept, also when no Pod is there.

use std::io;
use std::path::Path;

use futures::StreamExt as _;
use node::logs::{self, Boot, CONTAINERS, LogOptions};

use super::Context;
use crate::cli::LogsFlags;
use crate::report::{ExitCode, Failure, print, print_bytes};

/// Prints the log of one boot, or the list of boots.
pub async fn logs(context: &Context, flags: &LogsFlags) -> Result<ExitCode, Failure> {
    let (pods_dir, node_dir) = (context.settings.pods_dir(), context.settings.node_dir());
    let LogsFlags { name, namespace, .. } = flags;
    let boots = logs::boots(&pods_dir, &node_dir, namespace, name)
        .map_err(|error| unreadable(error, &node_dir, namespace, name))?;
    if flags.list_boots {
        print(&table(&boots))?;
        return Ok(ExitCode::Done);
    }
    let back = usize::try_from(flags.boot.unsigned_abs()).unwrap_or(usize::MAX);
    let Some(boot) = boots.get(back) else { return Err(missing(flags, boots.len())) };
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

fn missing(flags: &LogsFlags, count: usize) -> Failure {
    let LogsFlags { name, namespace, boot, .. } = flags;
    match count {
        0 => Failure::refused(
            anyhow::anyhow!("no boot of `{namespace}/{name}` has a log on this machine"),
            Some("`kubectl get vmi --all-namespaces` names the instances".to_owned()),
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
