//! `auth.json`, `config.json` and `.dockercfg`.

use std::{collections::BTreeMap, fs, io, path::PathBuf};

use base64::{Engine as _, engine::general_purpose};
use serde::Deserialize;

use super::{Credential, Hidden, is_docker_hub, json::JsonError};
use crate::settings::{AuthFile, AuthFileFormat, Presence};

/// Why a file with credentials cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AuthFileError {
    /// It cannot be read.
    #[error("cannot read credentials from `{}`", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is no JSON of the right form.
    #[error("cannot parse the credentials in `{}`", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: JsonError,
    },
    /// One registry's entry is malformed.
    #[error("`{}` has a malformed entry for `{registry}`: {reason}", path.display())]
    Entry {
        /// The file.
        path: PathBuf,
        /// The registry as the file has it.
        registry: String,
        /// What is wrong.
        reason: String,
    },
}

impl AuthFileError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Read { .. } => {
                Some("REGISTRY_AUTH_FILE names the file with credentials, if it is set".to_owned())
            }
            Self::Parse { .. } | Self::Entry { .. } => {
                Some("log in again (`podman login REGISTRY`) to have it written anew".to_owned())
            }
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ConfigForm {
    #[serde(default)]
    pub(super) auths: BTreeMap<String, AuthEntry>,
    #[serde(default)]
    cred_helpers: BTreeMap<String, String>,
    #[serde(default)]
    creds_store: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct AuthEntry {
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
    registrytoken: String,
}

impl AuthEntry {
    /// What the entry says, or nothing where it is empty (a helper has the real one).
    pub(super) fn credential(&self) -> Result<Option<Credential>, String> {
        if !self.identitytoken.is_empty() {
            return Ok(Some(Credential::IdentityToken(Hidden::new(&self.identitytoken))));
        }
        if !self.registrytoken.is_empty() {
            return Ok(Some(Credential::RegistryToken(Hidden::new(&self.registrytoken))));
        }
        if !self.auth.is_empty() {
            return decode_auth(&self.auth).map(Some);
        }
        if !self.username.is_empty() {
            let password = Hidden::new(&self.password);
            return Ok(Some(Credential::Password { user: self.username.clone(), password }));
        }
        Ok(None)
    }
}

fn decode_auth(auth: &str) -> Result<Credential, String> {
    let trimmed = auth.trim().trim_end_matches('=');
    let bytes =
        general_purpose::STANDARD_NO_PAD.decode(trimmed).map_err(|_| "`auth` is not base64".to_owned())?;
    let text = String::from_utf8(bytes).map_err(|_| "`auth` is not UTF-8 inside the base64".to_owned())?;
    let Some((user, password)) = text.split_once(':') else {
        return Err("`auth` has no `:` between user and password inside the base64".to_owned());
    };
    // Docker pads short passwords with zero bytes.
    let password = Hidden::new(password.trim_end_matches('\0'));
    Ok(Credential::Password { user: user.to_owned(), password })
}

pub(super) struct Lookup {
    /// The file and what became of it, for messages.
    pub(super) place: String,
    pub(super) outcome: Outcome,
}

pub(super) enum Outcome {
    Nothing,
    Credential(Credential),
    /// The helper with this name (without `docker-credential-`) is to be asked.
    Helper(String),
}

/// What one file says about `registry/repository`.
pub(super) fn look_up(file: &AuthFile, registry: &str, repository: &str) -> Result<Lookup, AuthFileError> {
    let shown = format!("`{}`", file.path.display());
    let nothing = |remark: &str| Lookup { place: format!("{shown}{remark}"), outcome: Outcome::Nothing };
    let bytes = match fs::read(&file.path) {
        Ok(bytes) => bytes,
        Err(source) if file.presence == Presence::Required => {
            return Err(AuthFileError::Read { path: file.path.clone(), source });
        }
        Err(error) => match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => return Ok(nothing(" (not there)")),
            io::ErrorKind::PermissionDenied => return Ok(nothing(" (not readable)")),
            _ => {
                return Err(AuthFileError::Read { path: file.path.clone(), source: error });
            }
        },
    };
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Ok(nothing(" (empty)"));
    }
    let parse =
        |error: serde_json::Error| AuthFileError::Parse { path: file.path.clone(), source: error.into() };
    let form = match file.format {
        AuthFileFormat::Config => serde_json::from_slice::<ConfigForm>(&bytes).map_err(parse)?,
        AuthFileFormat::Legacy => {
            ConfigForm { auths: serde_json::from_slice(&bytes).map_err(parse)?, ..ConfigForm::default() }
        }
    };
    let outcome = match find(&form, file.format, registry, repository) {
        Found::Nothing => Outcome::Nothing,
        Found::Helper(name) => Outcome::Helper(name.to_owned()),
        Found::Entry(key, entry) => match entry.credential() {
            Ok(Some(credential)) => Outcome::Credential(credential),
            Ok(None) => Outcome::Nothing,
            Err(reason) => {
                return Err(AuthFileError::Entry {
                    path: file.path.clone(),
                    registry: key.to_owned(),
                    reason,
                });
            }
        },
    };
    Ok(Lookup { place: shown, outcome })
}

enum Found<'a> {
    Nothing,
    Helper(&'a str),
    Entry(&'a str, &'a AuthEntry),
}

fn find<'a>(form: &'a ConfigForm, format: AuthFileFormat, registry: &str, repository: &str) -> Found<'a> {
    let names_registry = |key: &str| same_registry(host_of(key), registry);
    let helper = form.cred_helpers.iter().find(|(key, _)| names_registry(key)).map(|(_, name)| name);
    if let Some(name) = helper
        && !name.is_empty()
    {
        return Found::Helper(name);
    }
    let has_content = |entry: &AuthEntry| !matches!(entry.credential(), Ok(None));
    if format == AuthFileFormat::Config {
        let full = format!("{registry}/{repository}");
        let mut key = full.as_str();
        loop {
            if let Some((key, entry)) = form.auths.get_key_value(key)
                && has_content(entry)
            {
                return Found::Entry(key, entry);
            }
            match key.rsplit_once('/') {
                Some((shorter, _)) => key = shorter,
                None => break,
            }
        }
    }
    // Docker writes registries as URLs, and its own under a name of its own. A key with a path is namespaced,
    // and was looked at above, unless a scheme shows that it is a URL.
    let by_host = form.auths.iter().find(|(key, entry)| {
        let is_url = key.contains("://");
        let may_match =
            is_url || format == AuthFileFormat::Legacy || !key.contains('/') || is_docker_hub(host_of(key));
        may_match && names_registry(key) && has_content(entry)
    });
    if let Some((key, entry)) = by_host {
        return Found::Entry(key, entry);
    }
    if !form.creds_store.is_empty() {
        return Found::Helper(&form.creds_store);
    }
    Found::Nothing
}

fn host_of(key: &str) -> &str {
    let key = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    key.split('/').next().unwrap_or(key)
}

fn same_registry(host: &str, registry: &str) -> bool {
    host == registry || (is_docker_hub(host) && is_docker_hub(registry))
}
