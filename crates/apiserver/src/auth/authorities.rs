//! The server's own certificate authority and the keys it signs with, kept as files under `pki/`.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;

/// What the server is called beside its fixed names: what must stand in its certificate.
#[derive(Debug, Clone, Default)]
pub struct ServerNames {
    /// The host's name, and any other DNS name.
    pub host_names: Vec<String>,
    /// The addresses that it listens on; unspecified ones (`0.0.0.0`) are left out.
    pub addresses: Vec<IpAddr>,
}

/// Why the keys and certificates cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file cannot be read or written.
    #[error("cannot {action} `{}`", path.display())]
    File {
        /// `read`, `write`, `create`, …
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file is not what it should be.
    #[error("`{}` {fault}; {way_out}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        fault: String,
        /// What to do about it.
        way_out: &'static str,
    },
    /// Cryptography failed: no randomness, or a fault of ours.
    #[error("cannot make {what}: {why}")]
    Crypto {
        /// What was to be made.
        what: &'static str,
        /// Why it failed.
        why: String,
    },
}

/// The certificate authority, the server's certificate, the administrator's and the key of service account tokens.
pub struct Authorities {}

impl Authorities {
    /// Reads what is in `DIRECTORY/pki`, and makes what is missing or due.
    ///
    /// # Errors
    /// When a file cannot be read or written, or holds something else.
    pub fn open_or_create(
        _directory: &Path,
        _names: &ServerNames,
        _now: Timestamp,
    ) -> Result<Self, PkiError> {
        Err(PkiError::Crypto { what: "anything", why: "not there yet".to_owned() })
    }

    /// Makes the certificates that are due anew; what [`Self::server_config`] gave out uses the new one. To be called
    /// about once a day.
    ///
    /// # Errors
    /// When a file cannot be written; the old certificate stays in use.
    pub fn renew(&self, _now: Timestamp) -> Result<bool, PkiError> {
        Ok(false)
    }

    /// TLS for the listener: HTTP/2 and HTTP/1.1, client certificates asked for and not judged.
    ///
    /// # Errors
    /// When rustls refuses what was made, which would be a fault of ours.
    pub fn server_config(&self) -> Result<Arc<rustls::ServerConfig>, PkiError> {
        Err(PkiError::Crypto { what: "anything", why: "not there yet".to_owned() })
    }

    /// The CA's certificate, PEM: what clients trust, and what `kube-root-ca.crt` holds.
    pub fn ca_certificate_pem(&self) -> &str {
        ""
    }

    /// A kubeconfig for the administrator whose cluster, context and user are called `name`.
    pub fn admin_kubeconfig(&self, _server_url: &str, _name: &str) -> String {
        String::new()
    }
}
