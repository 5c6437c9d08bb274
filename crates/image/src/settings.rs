//! Everything about the surroundings that the registry client depends on: where configuration files are,
//! proxies, and how long things may take.
//!
//! The binary makes one [`RegistrySettings`] out of the environment with [`RegistrySettings::from_env`];
//! nothing else in this crate looks at an environment variable. (The one exception is not ours:
//! `SSL_CERT_FILE` and `SSL_CERT_DIR` are read by the library that loads the system's root certificates.)

use std::{path::PathBuf, time::Duration};

/// Whose directories are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UserMode {
    /// The system's: the caller is root.
    Root,
    /// An unprivileged user's.
    User,
}

/// How requests that failed for a reason that may pass are made again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// How often one request is made at most, the first time included.
    pub attempts: u32,
    /// The pause before the second attempt. Each further pause is twice as long; jitter of up to a half is
    /// added.
    pub first_delay: Duration,
    /// The longest pause that is made, and the longest `Retry-After` that is waited for.
    pub longest_delay: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self { attempts: 4, first_delay: Duration::from_millis(400), longest_delay: Duration::from_secs(30) }
    }
}

/// How long the other side may be silent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeLimits {
    /// From the first packet to an open connection, TLS included.
    pub connect: Duration,
    /// Between two pieces of a response, and from a request to the response's head.
    pub stall: Duration,
    /// For a manifest or a token as a whole, however slowly it trickles.
    pub small_body: Duration,
    /// For a credential helper.
    pub credential_helper: Duration,
    /// From the last byte of an uploaded blob to the answer: the registry checks and keeps the blob meanwhile.
    pub commit: Duration,
    /// The time over which a download's average rate is taken; one of less than a KiB per second has failed.
    pub download_window: Duration,
}

impl Default for TimeLimits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            stall: Duration::from_secs(30),
            small_body: Duration::from_secs(60),
            credential_helper: Duration::from_secs(20),
            commit: Duration::from_secs(5 * 60),
            download_window: Duration::from_secs(5 * 60),
        }
    }
}

/// Whether a file that is not there is an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// The user named the file: it has to be there.
    Required,
    /// The file is at one of the customary places.
    Optional,
}

/// The two forms of a file with registry credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthFileFormat {
    /// `auth.json` and `config.json`: credentials under `auths`, helpers under `credHelpers` and
    /// `credsStore`.
    Config,
    /// `.dockercfg`: credentials at the top level.
    Legacy,
}

/// A file that may hold registry credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthFile {
    /// Where it is.
    pub path: PathBuf,
    /// How it is to be read.
    pub format: AuthFileFormat,
    /// Whether it has to exist.
    pub presence: Presence,
}

/// HTTP proxies, as the customary environment variables name them.
///
/// Loopback addresses are never asked for through a proxy, as Go programs have it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proxies {
    /// For `http://` URLs (`HTTP_PROXY`).
    pub http: Option<String>,
    /// For `https://` URLs (`HTTPS_PROXY`).
    pub https: Option<String>,
    /// Hosts and networks that are reached directly (`NO_PROXY`), separated by commas.
    pub exceptions: Option<String>,
}

/// Everything about the surroundings that the registry client depends on.
///
/// The default knows no file at all: every registry is taken as it is named, with the system's root
/// certificates and without credentials.
#[derive(Clone, Debug, Default)]
pub struct RegistrySettings {
    /// The places of registries.conf(5); the first one that exists is read.
    pub registries_conf: Vec<(PathBuf, Presence)>,
    /// Directories with `*.conf` drop-ins, in the order in which they are applied.
    pub registries_conf_directories: Vec<PathBuf>,
    /// Machine-written short-name aliases, applied last; files that are missing are passed over.
    pub short_name_alias_files: Vec<PathBuf>,
    /// Files with credentials, in the order in which they are searched.
    pub auth_files: Vec<AuthFile>,
    /// Directories in which `docker-credential-*` programs are looked for (`PATH`).
    pub program_directories: Vec<PathBuf>,
    /// containers-certs.d(5) directories, in the order in which they are searched.
    pub certs_directories: Vec<PathBuf>,
    /// Proxies.
    pub proxies: Proxies,
    /// How failed requests are made again.
    pub retry: RetryPolicy,
    /// How long the other side may be silent.
    pub time_limits: TimeLimits,
}

impl RegistrySettings {
    /// Resolves the settings from environment variables, which `get` looks up. Reads no file.
    pub fn from_env(get: impl Fn(&str) -> Option<String>, user: UserMode) -> Self {
        let get = |name: &str| get(name).filter(|value| !value.is_empty());
        let home = get("HOME").map(PathBuf::from);
        let config_home = get("XDG_CONFIG_HOME")
            .map(PathBuf::from)
            .or_else(|| home.as_ref().map(|home| home.join(".config")));
        // containers-registries.conf(5) and containers-certs.d(5) name $HOME/.config outright, not
        // XDG_CONFIG_HOME.
        let home_containers = home.as_ref().map(|home| home.join(".config/containers"));
        let system_containers = PathBuf::from("/etc/containers");

        let registries_conf = match get("CONTAINERS_REGISTRIES_CONF") {
            Some(path) => vec![(PathBuf::from(path), Presence::Required)],
            None => home_containers
                .iter()
                .chain([&system_containers])
                .map(|directory| (directory.join("registries.conf"), Presence::Optional))
                .collect(),
        };
        let registries_conf_directories = [&system_containers]
            .into_iter()
            .chain(&home_containers)
            .map(|directory| directory.join("registries.conf.d"))
            .collect();
        let short_name_alias_files = match user {
            UserMode::Root => vec![PathBuf::from("/var/cache/containers/short-name-aliases.conf")],
            UserMode::User => {
                home.iter().map(|home| home.join(".cache/containers/short-name-aliases.conf")).collect()
            }
        };
        let certs_directories = home_containers
            .iter()
            .map(|directory| directory.join("certs.d"))
            .chain([system_containers.join("certs.d"), PathBuf::from("/etc/docker/certs.d")])
            .collect();
        let lower_or_upper = |name: &str| get(&name.to_lowercase()).or_else(|| get(name));
        let all = lower_or_upper("ALL_PROXY");
        let proxies = Proxies {
            http: lower_or_upper("HTTP_PROXY").or_else(|| all.clone()),
            https: lower_or_upper("HTTPS_PROXY").or(all),
            exceptions: lower_or_upper("NO_PROXY"),
        };

        Self {
            registries_conf,
            registries_conf_directories,
            short_name_alias_files,
            auth_files: auth_files(&get, home.as_ref(), config_home.as_ref()),
            program_directories: get("PATH")
                .map(|path| std::env::split_paths(&path).filter(|entry| entry.is_absolute()).collect())
                .unwrap_or_default(),
            certs_directories,
            proxies,
            retry: RetryPolicy::default(),
            time_limits: TimeLimits::default(),
        }
    }
}

/// The order of containers-auth.json(5). A file that the user names outright is the only one that counts, as
/// podman and skopeo have it.
fn auth_files(
    get: &impl Fn(&str) -> Option<String>,
    home: Option<&PathBuf>,
    config_home: Option<&PathBuf>,
) -> Vec<AuthFile> {
    if let Some(path) = get("REGISTRY_AUTH_FILE") {
        return vec![AuthFile {
            path: path.into(),
            format: AuthFileFormat::Config,
            presence: Presence::Required,
        }];
    }
    let optional = |path: PathBuf, format| AuthFile { path, format, presence: Presence::Optional };
    let runtime = match get("XDG_RUNTIME_DIR") {
        Some(directory) => PathBuf::from(directory).join("containers/auth.json"),
        None => PathBuf::from(format!("/run/containers/{}/auth.json", rustix::process::getuid().as_raw())),
    };
    let docker = match get("DOCKER_CONFIG") {
        Some(directory) => Some(PathBuf::from(directory)),
        None => home.map(|home| home.join(".docker")),
    };
    let mut files = vec![optional(runtime, AuthFileFormat::Config)];
    files.extend(config_home.map(|home| optional(home.join("containers/auth.json"), AuthFileFormat::Config)));
    files.extend(docker.map(|docker| optional(docker.join("config.json"), AuthFileFormat::Config)));
    files.extend(home.map(|home| optional(home.join(".dockercfg"), AuthFileFormat::Legacy)));
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(pairs: &[(&str, &str)]) -> RegistrySettings {
        let get =
            |name: &str| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        RegistrySettings::from_env(get, UserMode::User)
    }

    fn auth_paths(settings: &RegistrySettings) -> Vec<String> {
        settings.auth_files.iter().map(|file| file.path.display().to_string()).collect()
    }

    #[test]
    fn credentials_are_searched_in_the_order_of_the_manual_page() {
        let settings = from(&[("HOME", "/home/u"), ("XDG_RUNTIME_DIR", "/run/user/7")]);
        assert_eq!(
            auth_paths(&settings),
            [
                "/run/user/7/containers/auth.json",
                "/home/u/.config/containers/auth.json",
                "/home/u/.docker/config.json",
                "/home/u/.dockercfg"
            ]
        );
        let settings = from(&[
            ("HOME", "/home/u"),
            ("XDG_RUNTIME_DIR", "/run/user/7"),
            ("XDG_CONFIG_HOME", "/cfg"),
            ("DOCKER_CONFIG", "/docker"),
        ]);
        assert_eq!(auth_paths(&settings)[1..3], ["/cfg/containers/auth.json", "/docker/config.json"]);
        let settings = from(&[("HOME", "/home/u"), ("REGISTRY_AUTH_FILE", "/mine.json")]);
        assert_eq!(auth_paths(&settings), ["/mine.json"]);
        assert_eq!(settings.auth_files[0].presence, Presence::Required);
    }

    #[test]
    fn the_users_registries_conf_comes_before_the_systems_and_after_none_that_is_named() {
        let paths = |settings: &RegistrySettings| -> Vec<String> {
            settings.registries_conf.iter().map(|(path, _)| path.display().to_string()).collect()
        };
        assert_eq!(
            paths(&from(&[("HOME", "/home/u")])),
            ["/home/u/.config/containers/registries.conf", "/etc/containers/registries.conf"]
        );
        let named = from(&[("HOME", "/home/u"), ("CONTAINERS_REGISTRIES_CONF", "/r.conf")]);
        assert_eq!(named.registries_conf, [("/r.conf".into(), Presence::Required)]);
    }

    #[test]
    fn proxies_come_in_either_case_and_empty_means_none() {
        let settings = from(&[
            ("http_proxy", "http://p:1"),
            ("HTTP_PROXY", "http://q:1"),
            ("HTTPS_PROXY", ""),
            ("NO_PROXY", "a,b"),
        ]);
        assert_eq!(settings.proxies.http.as_deref(), Some("http://p:1"));
        assert_eq!(settings.proxies.https, None);
        assert_eq!(settings.proxies.exceptions.as_deref(), Some("a,b"));
    }
}
