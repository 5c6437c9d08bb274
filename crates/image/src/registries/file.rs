//! The files of registries.conf(5): their form, and what is checked in each table.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use super::{Entry, Mirror, MirrorUse, RegistriesError, Trust};
use crate::settings::Presence;

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct FileForm {
    pub(super) unqualified_search_registries: Option<Vec<String>>,
    pub(super) short_name_mode: Option<String>,
    pub(super) credential_helpers: Option<Vec<String>>,
    #[serde(default)]
    pub(super) registry: Vec<RegistryForm>,
    #[serde(default)]
    pub(super) aliases: BTreeMap<String, String>,
    pub(super) registries: Option<toml::Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct RegistryForm {
    #[serde(default)]
    pub(super) prefix: String,
    #[serde(default)]
    pub(super) location: String,
    #[serde(default)]
    pub(super) insecure: bool,
    #[serde(default)]
    pub(super) blocked: bool,
    #[serde(default)]
    pub(super) mirror_by_digest_only: bool,
    #[serde(default)]
    pub(super) mirror: Vec<MirrorForm>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct MirrorForm {
    pub(super) location: String,
    #[serde(default)]
    pub(super) insecure: bool,
    #[serde(default)]
    pub(super) pull_from_mirror: String,
}

/// Checks one `[[registry]]` table. `value_error` makes the error for a field, its value and what is wrong.
pub(super) fn entry(
    path: &Path,
    form: RegistryForm,
    value_error: &impl Fn(&'static str, &str, &str) -> RegistriesError,
) -> Result<Entry, RegistriesError> {
    let prefix = trimmed(if form.prefix.is_empty() { &form.location } else { &form.prefix });
    if prefix.is_empty() {
        return Err(value_error("prefix", "", "a [[registry]] needs a prefix or a location"));
    }
    let location = match trimmed(&form.location) {
        "" if prefix.starts_with("*.") => "",
        "" => prefix,
        location => location,
    };
    for (field, value) in [("prefix", prefix), ("location", location)] {
        if value.contains("://") {
            return Err(value_error(field, value, "leave the scheme out"));
        }
    }
    let wildcard_is_misplaced = match prefix.strip_prefix("*.") {
        Some(rest) => rest.contains(['*', '/']) || rest.is_empty(),
        None => prefix.contains('*'),
    };
    if wildcard_is_misplaced {
        return Err(value_error(
            "prefix",
            prefix,
            "a wildcard stands only in front of a host (`*.example.com`)",
        ));
    }
    if location.contains('*') {
        return Err(value_error("location", location, "a location has no wildcard"));
    }
    let mut mirrors = Vec::new();
    for mirror in form.mirror {
        let location = trimmed(&mirror.location);
        if location.is_empty() || location.contains("://") || location.contains('*') {
            return Err(value_error("mirror.location", location, "it is not HOST[:PORT][/NAMESPACE]"));
        }
        if form.mirror_by_digest_only && !mirror.pull_from_mirror.is_empty() {
            let reason = "it cannot be combined with mirror-by-digest-only";
            return Err(value_error("pull-from-mirror", &mirror.pull_from_mirror, reason));
        }
        let used_for = match mirror.pull_from_mirror.as_str() {
            "" if form.mirror_by_digest_only => MirrorUse::DigestOnly,
            "" | "all" => MirrorUse::All,
            "digest-only" => MirrorUse::DigestOnly,
            "tag-only" => MirrorUse::TagOnly,
            other => {
                return Err(value_error(
                    "pull-from-mirror",
                    other,
                    "it is none of all, digest-only and tag-only",
                ));
            }
        };
        mirrors.push(Mirror { location: location.to_owned(), trust: trust(mirror.insecure), used_for });
    }
    Ok(Entry {
        prefix: prefix.to_owned(),
        location: location.to_owned(),
        trust: trust(form.insecure),
        blocked: form.blocked,
        mirrors,
        path: path.to_owned(),
    })
}

fn trust(insecure: bool) -> Trust {
    if insecure { Trust::Insecure } else { Trust::Verified }
}

fn trimmed(location: &str) -> &str {
    location.trim_end_matches('/')
}

pub(super) fn read_file(path: &Path, presence: Presence) -> Result<Option<String>, RegistriesError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if presence == Presence::Optional && error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(RegistriesError::Read { path: path.to_owned(), source }),
    }
}

/// The drop-ins of a directory, in the order of their names.
pub(super) fn drop_ins(directory: &Path) -> Result<Vec<PathBuf>, RegistriesError> {
    let cannot_read = |source| RegistriesError::Read { path: directory.to_owned(), source };
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(cannot_read(source)),
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.map_err(cannot_read)?.path();
        if path.extension().is_some_and(|extension| extension == "conf") {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}
