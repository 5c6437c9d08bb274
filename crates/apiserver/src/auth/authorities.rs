//! The server's own certificate authority and the keys it signs with, kept as files under `pki/`.
//!
//! ```text
//! pki/ca.crt         ca.key          the authority, ten years
//! pki/apiserver.crt  apiserver.key   the server, one year, renewed
//! pki/admin.crt      admin.key       kubernetes-admin of system:masters, one year, renewed
//! pki/sa.key                         signs service account tokens
//! ```
//!
//! A key is written before its certificate, so a crash between the two leaves a key for which the certificate is then
//! made. A file that is not what we would write is never overwritten: it is named in an error.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use rcgen::KeyPair;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use super::certificates::{Facts, Purpose, new_authority, new_key, new_leaf, pem_facts, server_names};
use super::verifier::{Current, Verifier};
use super::{MASTERS, files, jws, kubeconfig};

/// What the server is called beside its fixed names: what must stand in its certificate.
#[derive(Debug, Clone, Default)]
pub struct ServerNames {
    /// The host's name, and any other DNS name. What is no DNS name is left out.
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
        fault: &'static str,
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

const NEW_AUTHORITY: &str = "put the file back, or remove the whole directory to have everything made anew \
    (kubeconfigs must then be written again, and service account tokens asked for again)";
const NEW_LEAF: &str =
    "remove the `.crt` and `.key` of that name to have them made anew, or put the right ones back";
const NEW_SIGNER: &str = "put the file back, or remove it to have a new one made (service account tokens must then be asked for again)";

/// A certificate and its key, PEM.
#[derive(Clone)]
struct Pair {
    certificate: String,
    key: String,
}

struct State {
    server: Pair,
    administrator: Pair,
}

/// The certificate authority, the server's certificate, the administrator's and the key of service account tokens.
pub struct Authorities {
    directory: PathBuf,
    server_purpose: Purpose,
    authority: Pair,
    verifier: Arc<Verifier>,
    current: Arc<Current>,
    state: Mutex<State>,
    signer: jws::Key,
}

impl Authorities {
    /// Reads what is in `DIRECTORY/pki`, and makes what is missing or due.
    ///
    /// # Errors
    /// When a file cannot be read or written, or holds something else.
    pub fn open_or_create(directory: &Path, names: &ServerNames, now: Timestamp) -> Result<Self, PkiError> {
        let directory = directory.join("pki");
        files::create_directory(&directory)?;
        let authority = open_authority(&directory, now)?;
        let verifier = Verifier::new(&certificate(&directory.join("ca.crt"), &authority.certificate)?)?;
        let server_purpose = Purpose::Server(server_names(names));
        let leaves = Leaves { directory: &directory, authority: &authority, now };
        let server = leaves.open("apiserver", &server_purpose)?;
        let administrator = leaves.open("admin", &administrator_purpose())?;
        let current = Current::new(certified(&directory, &server)?);
        let signer = open_signer(&directory.join("sa.key"))?;
        Ok(Self {
            server_purpose,
            verifier: Arc::new(verifier),
            current: Arc::new(current),
            state: Mutex::new(State { server, administrator }),
            signer,
            authority,
            directory,
        })
    }

    /// Makes the certificates that are due anew, and says whether any was; what [`Self::server_config`] gave out uses
    /// the new one. To be called about once a day.
    ///
    /// # Errors
    /// When a file cannot be written; the old certificate stays in use.
    pub fn renew(&self, now: Timestamp) -> Result<bool, PkiError> {
        let leaves = Leaves { directory: &self.directory, authority: &self.authority, now };
        let server = leaves.open("apiserver", &self.server_purpose)?;
        let administrator = leaves.open("admin", &administrator_purpose())?;
        let certified = certified(&self.directory, &server)?;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let renewed = state.server.certificate != server.certificate
            || state.administrator.certificate != administrator.certificate;
        *state = State { server, administrator };
        self.current.replace(certified);
        Ok(renewed)
    }

    /// TLS for the listener: HTTP/2 and HTTP/1.1, client certificates asked for and not judged.
    ///
    /// # Errors
    /// When rustls refuses what was made, which would be a fault of ours.
    pub fn server_config(&self) -> Result<Arc<rustls::ServerConfig>, PkiError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| PkiError::Crypto { what: "a TLS configuration", why: error.to_string() })?
            .with_client_cert_verifier(Arc::clone(&self.verifier) as _)
            .with_cert_resolver(Arc::clone(&self.current) as _);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }

    /// The CA's certificate, PEM: what clients trust, and what `kube-root-ca.crt` holds.
    pub fn ca_certificate_pem(&self) -> &str {
        &self.authority.certificate
    }

    /// A kubeconfig for the administrator whose cluster, context and user are called `name`.
    pub fn admin_kubeconfig(&self, server_url: &str, name: &str) -> String {
        let administrator = self.state.lock().unwrap_or_else(PoisonError::into_inner).administrator.clone();
        kubeconfig::write(&kubeconfig::Access {
            server_url,
            name,
            authority: &STANDARD.encode(&self.authority.certificate),
            certificate: &STANDARD.encode(&administrator.certificate),
            key: &STANDARD.encode(&administrator.key),
        })
    }

    /// Whether the CA signed this certificate for clients, and it counts at this time.
    pub(super) fn verify_client(&self, certificate: &[u8], now: Timestamp) -> bool {
        self.verifier.verify(certificate, now)
    }

    /// The key of service account tokens.
    pub(super) fn signer(&self) -> &jws::Key {
        &self.signer
    }

    /// A certificate of this authority for tests.
    #[cfg(test)]
    pub(super) fn issue_client(&self, user: &str, group: &str, now: Timestamp) -> (String, String) {
        #![allow(clippy::unwrap_used)]
        let key = new_key().unwrap();
        let purpose = Purpose::Client { user: user.to_owned(), group: group.to_owned() };
        let authority_key = KeyPair::from_pem(&self.authority.key).unwrap();
        let pair = KeyPair::from_pem(&key).unwrap();
        let certificate =
            new_leaf(&pair, &purpose, (&self.authority.certificate, &authority_key), now).unwrap();
        (certificate, key)
    }
}

fn administrator_purpose() -> Purpose {
    Purpose::Client { user: "kubernetes-admin".to_owned(), group: MASTERS.to_owned() }
}

fn unusable(path: &Path, fault: &'static str, way_out: &'static str) -> PkiError {
    PkiError::Unusable { path: path.to_owned(), fault, way_out }
}

fn certificate(path: &Path, pem: &str) -> Result<CertificateDer<'static>, PkiError> {
    CertificateDer::from_pem_slice(pem.as_bytes())
        .map_err(|_| unusable(path, "holds no certificate", NEW_AUTHORITY))
}

fn open_authority(directory: &Path, now: Timestamp) -> Result<Pair, PkiError> {
    let (certificate_path, key_path) = (directory.join("ca.crt"), directory.join("ca.key"));
    let (certificate, key) = (files::read(&certificate_path)?, files::read(&key_path)?);
    let key = match (&certificate, key) {
        (_, Some(key)) => key,
        (None, None) => write_new_key(&key_path)?,
        (Some(_), None) => return Err(unusable(&key_path, "is missing beside `ca.crt`", NEW_AUTHORITY)),
    };
    let pair = key_pair(&key_path, &key, NEW_AUTHORITY)?;
    let certificate = match certificate {
        Some(certificate) => certificate,
        None => {
            let certificate = new_authority(&pair, now)?;
            files::write(&certificate_path, &certificate)?;
            certificate
        }
    };
    let fault = match pem_facts(&certificate) {
        None => "holds no certificate",
        Some(facts) if !facts.is_authority => "is not the certificate of an authority",
        Some(facts) if facts.public_key != pair.public_key_raw() => "does not belong to `ca.key`",
        Some(facts) if now > facts.not_after => "has expired",
        Some(facts) if now < facts.not_before => "is not valid yet, so the clock must be wrong",
        Some(_) => return Ok(Pair { certificate, key }),
    };
    Err(unusable(&certificate_path, fault, NEW_AUTHORITY))
}

fn write_new_key(path: &Path) -> Result<String, PkiError> {
    let key = new_key()?;
    files::write(path, &key)?;
    Ok(key)
}

fn key_pair(path: &Path, pem: &str, way_out: &'static str) -> Result<KeyPair, PkiError> {
    KeyPair::from_pem(pem).map_err(|_| unusable(path, "holds no private key that can be used", way_out))
}

fn open_signer(path: &Path) -> Result<jws::Key, PkiError> {
    let key = match files::read(path)? {
        Some(key) => key,
        None => write_new_key(path)?,
    };
    PrivateKeyDer::from_pem_slice(key.as_bytes())
        .ok()
        .and_then(|key| jws::Key::from_pkcs8(key.secret_der()))
        .ok_or_else(|| unusable(path, "holds no P-256 private key (PKCS #8)", NEW_SIGNER))
}

/// Opens and makes the certificates that the authority signs.
struct Leaves<'a> {
    directory: &'a Path,
    authority: &'a Pair,
    now: Timestamp,
}

impl Leaves<'_> {
    fn open(&self, stem: &str, purpose: &Purpose) -> Result<Pair, PkiError> {
        let certificate_path = self.directory.join(format!("{stem}.crt"));
        let key_path = self.directory.join(format!("{stem}.key"));
        let (certificate, key) = (files::read(&certificate_path)?, files::read(&key_path)?);
        let key = match (&certificate, key) {
            (_, Some(key)) => key,
            (None, None) => write_new_key(&key_path)?,
            (Some(_), None) => {
                return Err(unusable(&key_path, "is missing beside its certificate", NEW_LEAF));
            }
        };
        let pair = key_pair(&key_path, &key, NEW_LEAF)?;
        if let Some(certificate) = certificate {
            let facts = self
                .check(&certificate, &pair)
                .map_err(|fault| unusable(&certificate_path, fault, NEW_LEAF))?;
            if !facts.is_due(self.now) && purpose.is_that_of(&facts) {
                return Ok(Pair { certificate, key });
            }
        }
        let authority_path = self.directory.join("ca.key");
        let authority_key = key_pair(&authority_path, &self.authority.key, NEW_AUTHORITY)?;
        let certificate = new_leaf(&pair, purpose, (&self.authority.certificate, &authority_key), self.now)?;
        files::write(&certificate_path, &certificate)?;
        Ok(Pair { certificate, key })
    }

    /// The facts of a certificate that is ours: of this key, and of this authority.
    fn check(&self, certificate: &str, pair: &KeyPair) -> Result<Facts, &'static str> {
        let facts = pem_facts(certificate).ok_or("holds no certificate")?;
        if facts.public_key != pair.public_key_raw() {
            return Err("does not belong to the key beside it");
        }
        let authority = pem_facts(&self.authority.certificate).ok_or("cannot be checked against `ca.crt`")?;
        if facts.authority_key_id.is_none() || facts.authority_key_id != authority.key_id {
            return Err("was not signed by `ca.crt`");
        }
        Ok(facts)
    }
}

fn certified(directory: &Path, server: &Pair) -> Result<CertifiedKey, PkiError> {
    let fault = |path: &str, fault| unusable(&directory.join(path), fault, NEW_LEAF);
    let certificate = CertificateDer::from_pem_slice(server.certificate.as_bytes())
        .map_err(|_| fault("apiserver.crt", "holds no certificate"))?;
    let key = PrivateKeyDer::from_pem_slice(server.key.as_bytes())
        .map_err(|_| fault("apiserver.key", "holds no private key"))?;
    CertifiedKey::from_der(vec![certificate], key, &rustls::crypto::ring::default_provider())
        .map_err(|_| fault("apiserver.key", "holds no private key that TLS can use"))
}
