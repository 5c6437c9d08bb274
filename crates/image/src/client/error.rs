//! What can go wrong between us and a registry, and what the user can do about it.

use std::{error::Error as StdError, io, time::Duration};

use reqwest::StatusCode;

use super::Endpoint;
use crate::{
    certs::CertsError,
    credentials::CredentialError,
    digest::Digest,
    registries::{RegistriesError, ResolveError},
    settings::TimeLimits,
};

/// Why an operation on a registry failed.
///
/// [`RegistryError::may_pass`] tells which ones are worth another attempt; the client has then already made
/// as many as the settings allow. No variant carries credentials, and URLs appear without their query.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// registries.conf(5) is malformed.
    #[error(transparent)]
    Configuration(#[from] RegistriesError),
    /// registries.conf(5) blocks the image, or cannot resolve its short name.
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    /// A file in certs.d is malformed.
    #[error(transparent)]
    Certificates(#[from] CertsError),
    /// Credentials are configured but cannot be had.
    #[error(transparent)]
    Credentials(#[from] CredentialError),
    /// The HTTP client cannot be set up, for instance since the system has no root certificates.
    #[error("cannot prepare connections to `{host}`")]
    Setup {
        /// The registry's host.
        host: String,
        /// Why.
        source: TransportError,
    },
    /// A proxy setting is no URL.
    #[error("cannot use the proxy that the environment names for `{host}`")]
    Proxy {
        /// The registry's host.
        host: String,
        /// Why; the proxy's URL is left out, since it may hold a password.
        source: TransportError,
    },

    /// The host name cannot be resolved.
    #[error("cannot find the host `{host}` while asking for {what}")]
    UnknownHost {
        /// The host.
        host: String,
        /// What was asked for.
        what: String,
        /// What the resolver says.
        source: TransportError,
    },
    /// Nothing listens there.
    #[error("`{host}` refuses connections; asked for {what}")]
    ConnectionRefused {
        /// The host.
        host: String,
        /// What was asked for.
        what: String,
        /// The system's error.
        source: TransportError,
    },
    /// The other side was silent for too long.
    #[error("`{host}` was silent for {} seconds while asked for {what}", limit.as_secs_f32())]
    Timeout {
        /// The host.
        host: String,
        /// What was asked for.
        what: String,
        /// How long it had.
        limit: Duration,
    },
    /// The connection could not be made, or broke.
    #[error("the connection to `{host}` failed while asking for {what}")]
    Connection {
        /// The host.
        host: String,
        /// What was asked for.
        what: String,
        /// How it failed.
        source: TransportError,
    },
    /// The server's certificate is signed by nobody whom we know, or is for another name, or has expired.
    #[error("cannot verify the certificate of `{host}`")]
    Certificate {
        /// The host.
        host: String,
        /// What is wrong with the certificate.
        source: TransportError,
    },
    /// TLS failed in another way.
    #[error("TLS with `{host}` failed")]
    Tls {
        /// The host.
        host: String,
        /// How.
        source: TransportError,
    },
    /// TLS was spoken to a server of plain HTTP.
    #[error("`{host}` speaks plain HTTP where HTTPS is required")]
    PlainHttp {
        /// The host.
        host: String,
        /// How it showed.
        source: TransportError,
    },

    /// The registry wants to know who we are, and there is nothing to tell.
    #[error(
        "`{host}` requires credentials for {what}, and none were found for `{repository}`{}",
        detail_suffix(detail)
    )]
    NoCredentials {
        /// The registry's host.
        host: String,
        /// What was asked for.
        what: String,
        /// Registry and repository.
        repository: String,
        /// Where credentials were looked for.
        searched: Vec<String>,
        /// What the registry says.
        detail: String,
    },
    /// The registry does not accept the credentials that were found.
    #[error(
        "`{host}` does not accept the credentials from {} for {what}{}",
        tried.join(" and "), detail_suffix(detail)
    )]
    CredentialsRefused {
        /// The registry's host.
        host: String,
        /// What was asked for.
        what: String,
        /// Where the credentials came from.
        tried: Vec<String>,
        /// What the registry says.
        detail: String,
    },
    /// 401 with a challenge that is not understood.
    #[error("`{host}` wants an unsupported kind of authentication for {what}: `{challenge}`")]
    UnsupportedChallenge {
        /// The registry's host.
        host: String,
        /// What was asked for.
        what: String,
        /// The schemes that it offers.
        challenge: String,
    },
    /// The token server's answer holds no token.
    #[error("the token server `{host}` sent no usable token")]
    Token {
        /// The token server's host.
        host: String,
    },
    /// Credentials would have to be sent for all to read.
    #[error("the registry names the token server `{host}`, which does not use HTTPS")]
    PlainTokenServer {
        /// The token server's host.
        host: String,
    },
    /// 403: we are known, and may not.
    #[error("`{host}` denies access to {what}{}", detail_suffix(detail))]
    Forbidden {
        /// The registry's host.
        host: String,
        /// What was asked for.
        what: String,
        /// What the registry says.
        detail: String,
    },
    /// 404: the registry does not have it.
    #[error("`{host}` does not have {what}{}", detail_suffix(detail))]
    NotFound {
        /// The registry's host.
        host: String,
        /// What was asked for.
        what: String,
        /// Whether it was a manifest or a blob.
        kind: Wanted,
        /// What the registry says.
        detail: String,
    },
    /// 429: too many requests.
    #[error("`{host}` limits requests and refuses to serve {what} for now{}", detail_suffix(detail))]
    RateLimited {
        /// The registry's host.
        host: String,
        /// What was asked for.
        what: String,
        /// When the registry says to come back.
        retry_after: Option<Duration>,
        /// What the registry says.
        detail: String,
    },
    /// 5xx: the registry is in trouble.
    #[error("`{host}` failed to serve {what} (status {}){}", status.as_u16(), detail_suffix(detail))]
    ServerFailure {
        /// The registry's host.
        host: String,
        /// What was asked for.
        what: String,
        /// The status.
        status: StatusCode,
        /// When the registry says to come back.
        retry_after: Option<Duration>,
        /// What the registry says.
        detail: String,
    },
    /// A status that makes no sense here.
    #[error(
        "`{host}` answered the request for {what} with status {}{}",
        status.as_u16(), detail_suffix(detail)
    )]
    UnexpectedStatus {
        /// The registry's host.
        host: String,
        /// What was asked for.
        what: String,
        /// The status.
        status: StatusCode,
        /// What the registry says.
        detail: String,
    },
    /// More redirects than can be sensible, or one that leads nowhere.
    #[error("`{host}` redirects the request for {what} {problem}")]
    Redirect {
        /// The registry's host.
        host: String,
        /// What was asked for.
        what: String,
        /// What is wrong.
        problem: &'static str,
    },

    /// The bytes are not those that the digest names.
    #[error("`{host}` sent {what} with the digest `{actual}` instead of `{expected}`")]
    WrongDigest {
        /// The registry's host.
        host: String,
        /// What was asked for.
        what: String,
        /// The digest that was asked for or announced.
        expected: Digest,
        /// The digest of what came.
        actual: Digest,
    },
    /// What came is not of a kind that belongs here: most often a web page.
    #[error("`{host}` sent `{media_type}` in place of {what}")]
    WrongMediaType {
        /// The registry's host.
        host: String,
        /// What was asked for.
        what: String,
        /// The media type of what came.
        media_type: String,
    },
    /// The response is larger than it may be.
    #[error("`{host}` sent more than the {limit_bytes} bytes that {what} may have")]
    TooLarge {
        /// The registry's host.
        host: String,
        /// What was asked for.
        what: String,
        /// How large it may be.
        limit_bytes: u64,
    },
    /// The response ended early, and went on ending early.
    #[error("`{host}` sent only {received_bytes} of the {expected_bytes} bytes of {what}")]
    Truncated {
        /// The registry's host.
        host: String,
        /// What was asked for.
        what: String,
        /// How much came.
        received_bytes: u64,
        /// How much there should be.
        expected_bytes: u64,
    },

    /// The response comes so slowly that it would never end.
    #[error("`{host}` sent only {received_bytes} bytes of {what} within {} seconds", window.as_secs_f32())]
    TooSlow {
        /// The registry's host.
        host: String,
        /// What was asked for.
        what: String,
        /// How much came.
        received_bytes: u64,
        /// In how much time.
        window: Duration,
    },

    /// The sink could not keep what was downloaded.
    #[error("cannot keep what `{host}` sends of {what}")]
    Sink {
        /// The registry's host.
        host: String,
        /// What was downloaded.
        what: String,
        /// Why it could not be kept.
        source: io::Error,
    },
    /// A file that is to be pushed cannot be read.
    #[error("cannot read `{}` to push {what}", path.display())]
    Source {
        /// The file.
        path: std::path::PathBuf,
        /// What is being pushed.
        what: String,
        /// Why.
        source: io::Error,
    },
    /// The registry accepted an upload without saying where it is to go.
    #[error("`{host}` accepted the upload of {what} without saying where to send it")]
    NoUploadLocation {
        /// The registry's host.
        host: String,
        /// What is being pushed.
        what: String,
    },
    /// No place has the image. Every place's own error is kept.
    #[error("cannot get {what} from any of {} places: {}", attempts.len(), attempts_text(attempts))]
    AllPlacesFailed {
        /// What was asked for.
        what: String,
        /// The places in the order in which they were asked, and how each failed.
        attempts: Vec<(Endpoint, RegistryError)>,
    },
}

/// The root cause of a failure below the protocol: what the system, the resolver or the TLS library says.
///
/// The HTTP libraries wrap it into layers that say nothing more ("error sending request", "client error
/// (Connect)"), and into the URL, whose query may hold signatures. Neither is kept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct TransportError {
    message: String,
}

impl TransportError {
    pub(super) fn root_of(error: reqwest::Error) -> Self {
        let error = error.without_url();
        let mut root: &(dyn StdError + 'static) = &error;
        while let Some(cause) = root.source() {
            root = cause;
        }
        Self { message: root.to_string() }
    }
}

/// What a 404 was about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// A manifest, named by the user.
    Manifest,
    /// A blob, named by a manifest.
    Blob,
    /// A place to upload to.
    Upload,
}

fn detail_suffix(detail: &str) -> String {
    if detail.is_empty() { String::new() } else { format!(": {detail}") }
}

fn attempts_text(attempts: &[(Endpoint, RegistryError)]) -> String {
    let texts: Vec<String> = attempts
        .iter()
        .map(|(endpoint, error)| format!("[{}/{}] {}", endpoint.registry, endpoint.repository, error.chain()))
        .collect();
    texts.join("; ")
}

impl RegistryError {
    /// Whether the same request may succeed a little later.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::UnknownHost { source, .. } => is_temporary_resolver_failure(source),
            Self::ConnectionRefused { .. }
            | Self::Timeout { .. }
            | Self::Connection { .. }
            | Self::RateLimited { .. }
            | Self::ServerFailure { .. }
            | Self::Truncated { .. }
            | Self::TooSlow { .. } => true,
            _ => false,
        }
    }

    /// How long the registry asks us to wait, if it does.
    pub(crate) const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::RateLimited { retry_after, .. } | Self::ServerFailure { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// The message and those of its causes, for places where a chain has to fit into one line.
    pub(crate) fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut cause = self.source();
        while let Some(error) = cause {
            text = format!("{text}: {error}");
            cause = error.source();
        }
        text
    }

    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Configuration(error) => error.hint(),
            Self::Resolve(error) => error.hint(),
            Self::Certificates(error) => error.hint(),
            Self::Credentials(error) => error.hint(),
            Self::Setup { .. } => Some(
                "install the system's root certificates (package `ca-certificates`), or \
                 name them in SSL_CERT_FILE"
                    .to_owned(),
            ),
            Self::Proxy { .. } => Some("check HTTP_PROXY, HTTPS_PROXY and ALL_PROXY".to_owned()),
            Self::UnknownHost { host, .. } => Some(format!(
                "check the spelling of `{host}` and this machine's name resolution (`getent hosts {}`)",
                bare_host(host)
            )),
            Self::ConnectionRefused { host, .. } => {
                Some(format!("check that a registry runs at `{host}` and that the port is right"))
            }
            Self::Timeout { host, .. } | Self::Connection { host, .. } | Self::TooSlow { host, .. } => {
                Some(format!("check the network, firewalls and proxies on the way to `{host}`"))
            }
            Self::Certificate { host, .. } => Some(format!(
                "put the authority's certificate into `/etc/containers/certs.d/{host}/ca.crt` (or \
                 ~/.config/containers/certs.d), or set `insecure = true` for the registry in registries.conf"
            )),
            Self::Tls { host, .. } => Some(format!(
                "if the registry wants a client certificate, put it into \
                 `/etc/containers/certs.d/{host}/` as client.cert and client.key"
            )),
            Self::PlainHttp { host, .. } => Some(format!(
                "if that is meant to be, add to registries.conf: [[registry]] location = \
                 \"{host}\" insecure = true"
            )),
            Self::NoCredentials { repository, searched, .. } => {
                let registry = repository.split('/').next().unwrap_or(repository);
                let searched = if searched.is_empty() { "no file".to_owned() } else { searched.join(", ") };
                Some(format!(
                    "check that the image exists, log in (`podman login {registry}`) or \
                     name an imagePullSecret; searched {searched}"
                ))
            }
            Self::CredentialsRefused { .. } => {
                Some("check user and password there, and that the account may use this repository".to_owned())
            }
            Self::UnsupportedChallenge { .. } => Some("Basic and Bearer are supported".to_owned()),
            Self::Token { host } => Some(format!("check that `{host}` is the registry's token server")),
            Self::PlainTokenServer { .. } => Some(
                "set `insecure = true` for the registry in registries.conf if that is meant to be".to_owned(),
            ),
            Self::Forbidden { .. } => {
                Some("check that the account has access to this repository, and that it exists".to_owned())
            }
            Self::NotFound { kind: Wanted::Manifest, .. } => {
                Some("check the repository and the tag; tags are case-sensitive".to_owned())
            }
            Self::NotFound { kind: Wanted::Blob, .. } => {
                Some("the image is incomplete in the registry; push it again".to_owned())
            }
            Self::NotFound { kind: Wanted::Upload, .. } => {
                Some("check that the registry allows pushing to this repository".to_owned())
            }
            Self::RateLimited { retry_after, .. } => Some(match retry_after {
                Some(pause) => {
                    format!("try again in {} seconds, or log in for a higher limit", pause.as_secs())
                }
                None => "try again later, or log in for a higher limit".to_owned(),
            }),
            Self::ServerFailure { .. } => {
                Some("the registry's own log says more; try again later".to_owned())
            }
            Self::UnexpectedStatus { host, .. }
            | Self::Redirect { host, .. }
            | Self::WrongMediaType { host, .. } => Some(format!(
                "check that `{host}` is a container registry, and that no proxy answers in its place"
            )),
            Self::WrongDigest { .. } | Self::TooLarge { .. } => Some(
                "the registry, or something on the way, damages content; do not trust this \
                 copy of the image"
                    .to_owned(),
            ),
            Self::Truncated { .. } => {
                Some("check the connection; a new attempt resumes the download".to_owned())
            }
            Self::Sink { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                Some("free some space; `ferrovirt image prune --all` removes unused images".to_owned())
            }
            Self::Sink { .. } | Self::Source { .. } => {
                Some("check the disk and the permissions of the image store".to_owned())
            }
            Self::NoUploadLocation { host, .. } => {
                Some(format!("check that `{host}` is a container registry that takes pushes"))
            }
            Self::AllPlacesFailed { attempts, .. } => attempts.last().and_then(|(_, error)| error.hint()),
        }
    }
}

fn bare_host(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((bare, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => bare,
        _ => host,
    }
}

/// `EAI_AGAIN` reaches us only as text.
fn is_temporary_resolver_failure(error: &TransportError) -> bool {
    error.message.contains("Temporary failure in name resolution")
}

/// Tells transport failures apart.
pub(super) fn classify(error: reqwest::Error, host: &str, what: &str, limits: &TimeLimits) -> RegistryError {
    enum Kind {
        UnknownHost,
        Certificate,
        PlainHttp,
        Tls,
        Timeout,
        Refused,
        Other,
    }
    let kind = if error.is_dns() {
        Kind::UnknownHost
    } else if let Some(tls) = find_cause::<rustls::Error>(&error) {
        match tls {
            rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented => {
                Kind::Certificate
            }
            // A plain HTTP server's answer, read as a TLS record, has the content type `H`.
            rustls::Error::InvalidMessage(_) => Kind::PlainHttp,
            _ => Kind::Tls,
        }
    } else if error.is_timeout() {
        Kind::Timeout
    } else if find_cause::<io::Error>(&error)
        .is_some_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
    {
        Kind::Refused
    } else {
        Kind::Other
    };
    let limit = if error.is_connect() { limits.connect } else { limits.stall };
    let (host, what, source) = (host.to_owned(), what.to_owned(), TransportError::root_of(error));
    match kind {
        Kind::UnknownHost => RegistryError::UnknownHost { host, what, source },
        Kind::Certificate => RegistryError::Certificate { host, source },
        Kind::PlainHttp => RegistryError::PlainHttp { host, source },
        Kind::Tls => RegistryError::Tls { host, source },
        Kind::Timeout => RegistryError::Timeout { host, what, limit },
        Kind::Refused => RegistryError::ConnectionRefused { host, what, source },
        Kind::Other => RegistryError::Connection { host, what, source },
    }
}

/// The first cause of type `T`. `io::Error` hides what it wraps from `source()`, so that is looked into as
/// well.
fn find_cause<'a, T: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a T> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(found) = error.downcast_ref::<T>() {
            return Some(found);
        }
        if let Some(wrapped) = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            let wrapped: &(dyn StdError + 'static) = wrapped;
            if let Some(found) = find_cause::<T>(wrapped) {
                return Some(found);
            }
        }
        cause = error.source();
    }
    None
}
