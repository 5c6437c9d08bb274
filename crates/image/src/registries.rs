//! containers-registries.conf(5), version 2: which places are asked for an image.
//!
//! ```text
//! registries.conf          the first of $CONTAINERS_REGISTRIES_CONF, the user's, the system's
//!   + registries.conf.d/*  drop-ins in the order of their names; the user's after the system's
//!   + short-name aliases   written by other container tools
//!   = Registries           resolve(reference) -> places to ask, in order
//! ```
//!
//! Parsing and lookup are pure; only [`Registries::load`] reads files. A drop-in's `[[registry]]` table
//! replaces an earlier one with the same prefix, its search list, short-name mode and list of credential
//! helpers replace the earlier ones, and aliases are merged one by one, an empty one erasing what came before.

mod file;

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use self::file::{FileForm, drop_ins, entry, read_file};
use crate::{
    credentials::AUTH_FILES_HELPER,
    reference::{DEFAULT_REGISTRY, Reference, ReferenceError},
    settings::{Presence, RegistrySettings},
};

/// Whether a registry has to prove who it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Trust {
    /// TLS with a certificate that can be verified.
    #[default]
    Verified,
    /// Unverified certificates and plain HTTP are accepted (`insecure = true`).
    Insecure,
}

/// Whether a place is the registry itself or a stand-in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// The registry itself.
    Primary,
    /// A mirror.
    Mirror,
}

/// One place to ask for an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The full name of the image that is meant.
    pub name: Reference,
    /// The image as that place knows it.
    pub reference: Reference,
    /// Whether the place has to prove who it is.
    pub trust: Trust,
    /// Whether it is a mirror.
    pub role: Role,
}

/// What `short-name-mode` says about a short name that is in no alias.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ShortNameMode {
    /// Several search registries are an error, since nobody can be asked which one is meant.
    Enforcing,
    /// All search registries are tried in order.
    #[default]
    Permissive,
    /// All search registries are tried in order.
    Disabled,
}

/// Why a configuration file of registries.conf(5) cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RegistriesError {
    /// It cannot be read.
    #[error("cannot read registries configuration `{}`", path.display())]
    Read {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is not TOML, or a field has the wrong type.
    #[error("cannot parse registries configuration `{}`", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: Box<toml::de::Error>,
    },
    /// It is of the first format, which other tools have left behind too.
    #[error("registries configuration `{}` is in the version 1 format", path.display())]
    Version1 {
        /// The file.
        path: PathBuf,
    },
    /// A field has a value that makes no sense.
    #[error("registries configuration `{}` has `{field} = \"{value}\"`: {reason}", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// The field.
        field: &'static str,
        /// Its value.
        value: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl RegistriesError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Read { .. } => {
                Some("CONTAINERS_REGISTRIES_CONF names the file to use, if it is set".to_owned())
            }
            Self::Version1 { .. } => Some(
                "write `unqualified-search-registries = [...]` and `[[registry]]` tables \
                 (containers-registries.conf(5))"
                    .to_owned(),
            ),
            Self::Parse { .. } | Self::Value { .. } => Some("see containers-registries.conf(5)".to_owned()),
        }
    }
}

/// Why no place can be asked for an image.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// The configuration forbids it.
    #[error("image `{reference}` is blocked: `{}` has `blocked = true` for `{prefix}`", path.display())]
    Blocked {
        /// The image.
        reference: String,
        /// The entry that matched.
        prefix: String,
        /// The file that has the entry.
        path: PathBuf,
    },
    /// A short name, a search list that is empty, and no alias.
    #[error("short name `{name}` is in no alias, and `unqualified-search-registries` is empty")]
    ShortNameUnresolved {
        /// The name as the user wrote it.
        name: String,
    },
    /// A short name that several registries may have, where the mode forbids trying.
    #[error("short name `{name}` is ambiguous between {}", quoted(registries))]
    ShortNameAmbiguous {
        /// The name as the user wrote it.
        name: String,
        /// The search registries.
        registries: Vec<String>,
    },
    /// Rewriting by `location` gave something that is no reference.
    #[error("image `{reference}` is relocated to `{location}`, which is no image reference")]
    Location {
        /// The image.
        reference: String,
        /// What it became.
        location: String,
        /// What is wrong with that.
        source: ReferenceError,
    },
}

impl ResolveError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Blocked { path, .. } => {
                Some(format!("remove the entry from `{}`, or use an image from elsewhere", path.display()))
            }
            Self::ShortNameUnresolved { name } => Some(format!(
                "name the registry (`{DEFAULT_REGISTRY}/{}`), or add `{name}` to [aliases] \
                 in registries.conf",
                if name.contains('/') { name.clone() } else { format!("library/{name}") }
            )),
            Self::ShortNameAmbiguous { name, registries } => Some(format!(
                "name the registry, for instance `{}/{name}`",
                registries.first().map_or(DEFAULT_REGISTRY, String::as_str)
            )),
            Self::Location { .. } => {
                Some("a location is HOST[:PORT][/NAMESPACE] (containers-registries.conf(5))".to_owned())
            }
        }
    }
}

/// `a`, `b` and `c`, each in backticks.
pub(crate) fn quoted(names: &[String]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum MirrorUse {
    All,
    DigestOnly,
    TagOnly,
}

#[derive(Clone, Debug)]
struct Mirror {
    location: String,
    trust: Trust,
    used_for: MirrorUse,
}

#[derive(Clone, Debug)]
struct Entry {
    prefix: String,
    location: String,
    trust: Trust,
    blocked: bool,
    mirrors: Vec<Mirror>,
    path: PathBuf,
}

/// The registries configuration, all files merged.
#[derive(Clone, Debug, Default)]
pub struct Registries {
    entries: Vec<Entry>,
    search: Option<Vec<String>>,
    short_name_mode: ShortNameMode,
    credential_helpers: Vec<String>,
    aliases: BTreeMap<String, String>,
}

impl Registries {
    /// Reads the files that the settings name.
    ///
    /// # Errors
    /// When a file is malformed, unreadable, or required and missing.
    pub fn load(settings: &RegistrySettings) -> Result<Self, RegistriesError> {
        let mut merged = Self::default();
        for (path, presence) in &settings.registries_conf {
            if let Some(text) = read_file(path, *presence)? {
                merged.add(path, &text)?;
                break;
            }
        }
        for directory in &settings.registries_conf_directories {
            for path in drop_ins(directory)? {
                if let Some(text) = read_file(&path, Presence::Optional)? {
                    merged.add(&path, &text)?;
                }
            }
        }
        for path in &settings.short_name_alias_files {
            if let Some(text) = read_file(path, Presence::Optional)? {
                merged.add(path, &text)?;
            }
        }
        Ok(merged)
    }

    /// Lays the file `text`, read from `path`, over what is there.
    ///
    /// # Errors
    /// When the text is malformed.
    pub fn add(&mut self, path: &Path, text: &str) -> Result<(), RegistriesError> {
        let form: FileForm = toml::from_str(text)
            .map_err(|source| RegistriesError::Parse { path: path.to_owned(), source: Box::new(source) })?;
        if form.registries.is_some() {
            return Err(RegistriesError::Version1 { path: path.to_owned() });
        }
        let value_error = |field, value: &str, reason: &str| RegistriesError::Value {
            path: path.to_owned(),
            field,
            value: value.to_owned(),
            reason: reason.to_owned(),
        };
        for registry in form.registry {
            let entry = entry(path, registry, &value_error)?;
            self.entries.retain(|earlier| earlier.prefix != entry.prefix);
            self.entries.push(entry);
        }
        if let Some(search) = form.unqualified_search_registries {
            if let Some(bad) = search.iter().find(|name| name.contains('/') || name.is_empty()) {
                return Err(value_error("unqualified-search-registries", bad, "it is not HOST or HOST:PORT"));
            }
            self.search = Some(search);
        }
        match form.short_name_mode.as_deref() {
            None | Some("") => {}
            Some("enforcing") => self.short_name_mode = ShortNameMode::Enforcing,
            Some("permissive") => self.short_name_mode = ShortNameMode::Permissive,
            Some("disabled") => self.short_name_mode = ShortNameMode::Disabled,
            Some(other) => {
                let reason = "it is none of enforcing, permissive and disabled";
                return Err(value_error("short-name-mode", other, reason));
            }
        }
        if let Some(helpers) = form.credential_helpers {
            self.credential_helpers = helpers;
        }
        for (name, target) in form.aliases {
            if target.is_empty() {
                self.aliases.remove(&name);
                continue;
            }
            match target.parse::<Reference>() {
                Ok(reference) if !reference.was_short_name() && reference.tag_was_implied() => {
                    self.aliases.insert(name, target);
                }
                _ => {
                    let reason = "an alias names a registry and a repository, without tag and digest";
                    return Err(value_error("aliases", &target, reason));
                }
            }
        }
        Ok(())
    }

    /// The places to ask for `reference` when it is pulled, in order: mirrors before the registry that they
    /// stand for.
    ///
    /// # Errors
    /// When the registry is blocked or the short name cannot be resolved. An image that a search list would
    /// find in several registries is blocked only where all of them are.
    pub fn resolve(&self, reference: &Reference) -> Result<Vec<Place>, ResolveError> {
        let mut places = Vec::new();
        let mut first_error = None;
        for candidate in self.spell_out(reference)? {
            match self.places_of(&candidate) {
                Ok(found) => places.extend(found),
                Err(error) => first_error = first_error.or(Some(error)),
            }
        }
        match first_error {
            Some(error) if places.is_empty() => Err(error),
            _ => Ok(places),
        }
    }

    /// The names in `credential-helpers`, in the order in which they are to be asked; the files with credentials
    /// alone, where there is no such list.
    pub fn credential_helpers(&self) -> Vec<String> {
        if self.credential_helpers.is_empty() {
            vec![AUTH_FILES_HELPER.to_owned()]
        } else {
            self.credential_helpers.clone()
        }
    }

    /// The place to which `reference` is pushed. As containers-registries.conf(5) has it, aliases, mirrors
    /// and locations play no part in pushing, but blocking and `insecure` do.
    ///
    /// # Errors
    /// When the registry is blocked.
    pub fn resolve_for_push(&self, reference: &Reference) -> Result<Place, ResolveError> {
        let trust = match self.entry_of(&reference.to_string()) {
            Some((entry, _)) if entry.blocked => return Err(blocked(entry, reference)),
            Some((entry, _)) => entry.trust,
            None => Trust::Verified,
        };
        Ok(Place { name: reference.clone(), reference: reference.clone(), trust, role: Role::Primary })
    }

    /// What `reference` may stand for, spelled out: short names become full ones by alias, else by the search list, in
    /// its order, else they are Docker Hub's. Any other reference stands for itself.
    ///
    /// # Errors
    /// When a short name cannot be resolved.
    pub fn spell_out(&self, reference: &Reference) -> Result<Vec<Reference>, ResolveError> {
        let Some(short_name) = reference.short_name() else {
            return Ok(vec![reference.clone()]);
        };
        let suffix = suffix(reference);
        let full = |name: &str| {
            let text = format!("{name}{suffix}");
            text.parse::<Reference>().map_err(|source| ResolveError::Location {
                reference: reference.to_string(),
                location: text.clone(),
                source,
            })
        };
        if let Some(target) = self.aliases.get(short_name) {
            return Ok(vec![full(target)?]);
        }
        match self.search.as_deref() {
            None => Ok(vec![full(&reference.name())?]),
            Some([]) => Err(ResolveError::ShortNameUnresolved { name: short_name.to_owned() }),
            Some(registries) if registries.len() > 1 && self.short_name_mode == ShortNameMode::Enforcing => {
                Err(ResolveError::ShortNameAmbiguous {
                    name: short_name.to_owned(),
                    registries: registries.to_vec(),
                })
            }
            Some(registries) => {
                registries.iter().map(|registry| full(&format!("{registry}/{short_name}"))).collect()
            }
        }
    }

    fn places_of(&self, reference: &Reference) -> Result<Vec<Place>, ResolveError> {
        let text = reference.to_string();
        let Some((entry, matched)) = self.entry_of(&text) else {
            return Ok(vec![Place {
                name: reference.clone(),
                reference: reference.clone(),
                trust: Trust::Verified,
                role: Role::Primary,
            }]);
        };
        if entry.blocked {
            return Err(blocked(entry, reference));
        }
        let relocated = |location: &str| {
            if location.is_empty() {
                return Ok(reference.clone());
            }
            let moved = format!("{location}{}", &text[matched..]);
            let fault =
                |source| ResolveError::Location { reference: text.clone(), location: moved.clone(), source };
            match moved.parse::<Reference>() {
                Ok(parsed) if parsed.was_short_name() => {
                    let registry = location.split('/').next().unwrap_or(location).to_owned();
                    Err(fault(ReferenceError::Registry { text: moved.clone(), registry }))
                }
                Ok(parsed) => Ok(parsed),
                Err(source) => Err(fault(source)),
            }
        };
        let wanted_use =
            if reference.digest().is_some() { MirrorUse::DigestOnly } else { MirrorUse::TagOnly };
        let mut places = Vec::new();
        for mirror in &entry.mirrors {
            if mirror.used_for == MirrorUse::All || mirror.used_for == wanted_use {
                let (name, reference) = (reference.clone(), relocated(&mirror.location)?);
                places.push(Place { name, reference, trust: mirror.trust, role: Role::Mirror });
            }
        }
        places.push(Place {
            name: reference.clone(),
            reference: relocated(&entry.location)?,
            trust: entry.trust,
            role: Role::Primary,
        });
        Ok(places)
    }

    /// The entry with the longest matching prefix, and how many bytes of the reference it covers.
    fn entry_of(&self, reference: &str) -> Option<(&Entry, usize)> {
        self.entries
            .iter()
            .filter_map(|entry| Some((entry, match_length(&entry.prefix, reference)?)))
            .max_by_key(|(entry, _)| entry.prefix.len())
    }
}

fn blocked(entry: &Entry, reference: &Reference) -> ResolveError {
    ResolveError::Blocked {
        reference: reference.to_string(),
        prefix: entry.prefix.clone(),
        path: entry.path.clone(),
    }
}

fn suffix(reference: &Reference) -> String {
    let mut suffix = String::new();
    if let Some(tag) = reference.tag() {
        suffix = format!(":{tag}");
    }
    if let Some(digest) = reference.digest() {
        suffix = format!("{suffix}@{digest}");
    }
    suffix
}

/// How much of `reference` the prefix covers; a prefix ends where a component, a tag or a digest begins.
fn match_length(prefix: &str, reference: &str) -> Option<usize> {
    let end = match prefix.strip_prefix('*') {
        Some(domain) => {
            // The domain is looked for in the host alone, and the host ends with it.
            let host_length = reference.find('/').unwrap_or(reference.len());
            let host = &reference[..host_length];
            let (without_port, _) = host.split_once(':').unwrap_or((host, ""));
            if host.ends_with(domain) && host.len() > domain.len() {
                host.len()
            } else if without_port.ends_with(domain) && without_port.len() > domain.len() {
                without_port.len()
            } else {
                return None;
            }
        }
        None => reference.starts_with(prefix).then_some(prefix.len())?,
    };
    match reference.as_bytes().get(end) {
        None | Some(b'/' | b':' | b'@') => Some(end),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests;
