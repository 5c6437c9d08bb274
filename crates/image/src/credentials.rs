//! Who we are to a registry: containers-auth.json(5), credential helpers, Kubernetes pull secrets.
//!
//! ```text
//! pull secrets (all that match, most specific first, as the kubelet has it)
//! then what `credential-helpers` of registries.conf(5) names, in order, until one knows the registry;
//! without that list the auth files alone
//! auth files: the first that knows the registry; inside one file
//!     credHelpers[registry]  >  auths[registry/namespace/repository … registry]  >  credsStore
//! ```
//!
//! Nothing here prints a secret: [`Hidden`] shows only that there is one.

mod files;
mod helper;
mod json;
mod secret;

use std::fmt;

pub use self::{
    files::AuthFileError,
    helper::HelperError,
    json::JsonError,
    secret::{PullSecret, PullSecretError},
};
use crate::settings::RegistrySettings;

/// A text that is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Hidden(String);

impl Hidden {
    /// Hides `text`.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself, for the one place that sends it.
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Hidden {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("(hidden)")
    }
}

/// One way of proving who we are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credential {
    /// A user name and a password, for basic authentication or in exchange for a token.
    Password {
        /// The user's name.
        user: String,
        /// The password.
        password: Hidden,
    },
    /// An OAuth2 refresh token, exchanged for an access token at the registry's token server.
    IdentityToken(Hidden),
    /// A bearer token, sent to the registry as it is.
    RegistryToken(Hidden),
}

/// A credential and where it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundCredential {
    /// The credential.
    pub credential: Credential,
    /// Where it comes from, for messages: "`/home/u/.docker/config.json`".
    pub origin: String,
}

/// Everything that may be tried for one repository, and where it was looked for.
#[derive(Clone, Debug, Default)]
pub struct Candidates {
    /// The credentials, in the order in which they are to be tried.
    pub found: Vec<FoundCredential>,
    /// The places that were searched, for messages.
    pub searched: Vec<String>,
}

/// Why credentials could not be looked up.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// An auth file is there but cannot be used.
    #[error(transparent)]
    AuthFile(#[from] AuthFileError),
    /// A credential helper is configured but failed.
    #[error(transparent)]
    Helper(#[from] HelperError),
}

impl CredentialError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::AuthFile(error) => error.hint(),
            Self::Helper(error) => error.hint(),
        }
    }
}

/// The name by which the list of helpers in registries.conf(5) stands for the auth files.
pub const AUTH_FILES_HELPER: &str = "containers-auth.json";

/// Looks up what may be tried for `registry/repository`. `helpers` is the list of registries.conf(5): names without
/// `docker-credential-`, or [`AUTH_FILES_HELPER`].
///
/// # Errors
/// When an auth file is malformed or a credential helper fails, and no later one of `helpers` knows the registry;
/// a registry that is in none of them is no error.
pub async fn candidates(
    settings: &RegistrySettings,
    helpers: &[String],
    registry: &str,
    repository: &str,
    secrets: &[PullSecret],
) -> Result<Candidates, CredentialError> {
    let mut candidates = Candidates::default();
    for secret in secrets {
        let origin = format!("pull secret `{}`", secret.name());
        for credential in secret.matching(registry, repository) {
            candidates.found.push(FoundCredential { credential: credential.clone(), origin: origin.clone() });
        }
        candidates.searched.push(origin);
    }
    let mut first_error = None;
    for name in helpers {
        let looked_up = if name == AUTH_FILES_HELPER {
            in_files(settings, registry, repository, &mut candidates.searched).await
        } else {
            candidates.searched.push(helper_origin(name));
            from_helper(settings, name, registry).await
        };
        match looked_up {
            Ok(Some(found)) => {
                candidates.found.push(found);
                return Ok(candidates);
            }
            Ok(None) => {}
            Err(error) => first_error = first_error.or(Some(error)),
        }
    }
    match first_error {
        Some(error) => Err(error),
        None => Ok(candidates),
    }
}

/// What the first auth file that knows the registry has for it.
async fn in_files(
    settings: &RegistrySettings,
    registry: &str,
    repository: &str,
    searched: &mut Vec<String>,
) -> Result<Option<FoundCredential>, CredentialError> {
    for file in &settings.auth_files {
        let lookup = files::look_up(file, registry, repository)?;
        searched.push(lookup.place);
        let found = match lookup.outcome {
            files::Outcome::Nothing => None,
            files::Outcome::Credential(credential) => {
                Some(FoundCredential { credential, origin: format!("`{}`", file.path.display()) })
            }
            files::Outcome::Helper(name) => from_helper(settings, &name, registry).await?,
        };
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

async fn from_helper(
    settings: &RegistrySettings,
    name: &str,
    registry: &str,
) -> Result<Option<FoundCredential>, CredentialError> {
    let credential = helper::get(settings, name, registry).await?;
    Ok(credential.map(|credential| FoundCredential { credential, origin: helper_origin(name) }))
}

fn helper_origin(name: &str) -> String {
    format!("credential helper `docker-credential-{name}`")
}

/// All the names by which configuration files know Docker Hub.
fn is_docker_hub(host: &str) -> bool {
    matches!(host, "docker.io" | "index.docker.io" | "registry-1.docker.io")
}

#[cfg(test)]
mod tests;
