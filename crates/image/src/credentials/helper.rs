//! Credential helpers: programs called `docker-credential-NAME` that read a registry on stdin and print JSON.
//!
//! Protocol: <https://github.com/docker/docker-credential-helpers>, section "Development", command `get`.

use std::{
    io,
    path::PathBuf,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use serde::Deserialize;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::Command,
};

use super::{Credential, Hidden, is_docker_hub};
use crate::settings::RegistrySettings;

/// The most that a helper may print.
const LONGEST_OUTPUT_BYTES: u64 = 64 * 1024;
/// How Docker Hub is called when a helper is asked for it.
const DOCKER_HUB_SERVER: &str = "https://index.docker.io/v1/";
/// What helpers print, on stdout, when they know no credentials; part of the protocol.
const NOT_FOUND: &str = "credentials not found in native keychain";
/// The user name that marks the secret as an identity token; part of the protocol.
const TOKEN_USER: &str = "<token>";

/// Why a credential helper did not answer.
#[derive(Debug, thiserror::Error)]
pub enum HelperError {
    /// The name is not one that a program can have.
    #[error("credential helper name `{name}` is malformed")]
    Name {
        /// The name as configured.
        name: String,
    },
    /// There is no such program.
    #[error("cannot find credential helper `{program}` for `{registry}` in any directory of PATH")]
    Missing {
        /// The program.
        program: String,
        /// The registry that it was wanted for.
        registry: String,
    },
    /// The program could not be run.
    #[error("cannot run credential helper `{}`", program.display())]
    Run {
        /// The program.
        program: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It did not end.
    #[error(
        "credential helper `{}` did not answer within {} seconds",
        program.display(), limit.as_secs_f32()
    )]
    Timeout {
        /// The program.
        program: PathBuf,
        /// How long it had.
        limit: Duration,
    },
    /// It reported a failure.
    #[error("credential helper `{}` failed for `{registry}` ({status}): {message}", program.display())]
    Failed {
        /// The program.
        program: PathBuf,
        /// The registry that was asked for.
        registry: String,
        /// Its exit status.
        status: ExitStatus,
        /// The first line of its stderr.
        message: String,
    },
    /// It printed something else than the protocol says.
    #[error(
        "credential helper `{}` printed something that is not the JSON of its protocol",
        program.display()
    )]
    Output {
        /// The program.
        program: PathBuf,
    },
}

impl HelperError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Name { .. } | Self::Missing { .. } => Some(
                "install the helper, or remove it from credHelpers and credsStore in the \
                 file with credentials, or from credential-helpers in registries.conf"
                    .to_owned(),
            ),
            Self::Run { program, .. }
            | Self::Timeout { program, .. }
            | Self::Failed { program, .. }
            | Self::Output { program } => {
                Some(format!("try it by hand: `echo REGISTRY | {} get`", program.display()))
            }
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    secret: String,
}

/// Asks the helper `name` for `registry`; nothing where it has no credentials for it.
pub(super) async fn get(
    settings: &RegistrySettings,
    name: &str,
    registry: &str,
) -> Result<Option<Credential>, HelperError> {
    // The name becomes part of a path.
    if name.is_empty() || name.contains(['/', '\0']) {
        return Err(HelperError::Name { name: name.to_owned() });
    }
    let program_name = format!("docker-credential-{name}");
    let program = settings
        .program_directories
        .iter()
        .map(|directory| directory.join(&program_name))
        .find(|path| path.is_file())
        .ok_or_else(|| HelperError::Missing { program: program_name, registry: registry.to_owned() })?;
    let limit = settings.time_limits.credential_helper;
    match tokio::time::timeout(limit, run(program.clone(), registry)).await {
        Ok(result) => result,
        Err(_) => Err(HelperError::Timeout { program, limit }),
    }
}

async fn run(program: PathBuf, registry: &str) -> Result<Option<Credential>, HelperError> {
    let failed_to_run = |source| HelperError::Run { program: program.clone(), source };
    let mut child = Command::new(&program)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(failed_to_run)?;
    let mut stdin = child.stdin.take().expect("stdin was asked for");
    let stdout = child.stdout.take().expect("stdout was asked for");
    let stderr = child.stderr.take().expect("stderr was asked for");
    let server = if is_docker_hub(registry) { DOCKER_HUB_SERVER } else { registry };

    let feed = async {
        // A helper that ends without reading its input breaks the pipe; its exit status says the rest.
        let _ = stdin.write_all(server.as_bytes()).await;
        drop(stdin);
    };
    let read = |stream: Box<dyn tokio::io::AsyncRead + Send + Unpin>| async move {
        let mut bytes = Vec::new();
        stream.take(LONGEST_OUTPUT_BYTES).read_to_end(&mut bytes).await.map(|_| bytes)
    };
    let ((), output, complaint) = tokio::join!(feed, read(Box::new(stdout)), read(Box::new(stderr)));
    let output = output.map_err(failed_to_run)?;
    let complaint = complaint.map_err(failed_to_run)?;
    let status = child.wait().await.map_err(failed_to_run)?;

    if !status.success() {
        let printed = String::from_utf8_lossy(&output);
        if printed.trim() == NOT_FOUND {
            return Ok(None);
        }
        // Failures are reported on stdout by helpers made with Docker's library, on stderr by others. Helpers
        // print secrets only when they succeed, so that this text holds none.
        let complaint = String::from_utf8_lossy(&complaint);
        let message = [complaint.trim(), printed.trim()].into_iter().find(|text| !text.is_empty());
        let message = message.and_then(|text| text.lines().next()).unwrap_or("it printed nothing");
        return Err(HelperError::Failed {
            program: program.clone(),
            registry: registry.to_owned(),
            status,
            message: message.chars().filter(|character| !character.is_control()).take(200).collect(),
        });
    }
    // The parser's message might quote the secret, so it is left out.
    let answer: Answer =
        serde_json::from_slice(&output).map_err(|_| HelperError::Output { program: program.clone() })?;
    let secret = Hidden::new(answer.secret);
    Ok(Some(if answer.username == TOKEN_USER {
        Credential::IdentityToken(secret)
    } else {
        Credential::Password { user: answer.username, password: secret }
    }))
}
