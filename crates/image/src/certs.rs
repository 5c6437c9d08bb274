//! containers-certs.d(5): certificates for one registry.
//!
//! ```text
//! certs.d/
//! └── registry.example.com:5000/
//!     ├── ca.crt          any *.crt: authorities to trust for this registry, besides the system's
//!     ├── client.cert     any *.cert with the *.key beside it: who we are
//!     └── client.key
//! ```
//!
//! Directories are searched in the order of the settings, and the first that has one for the registry is
//! taken whole.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// What certs.d holds for one registry, as PEM bytes.
#[derive(Clone, Default)]
pub struct RegistryCertificates {
    /// The directory that they came from.
    pub directory: PathBuf,
    /// The authorities' certificates, one element per file.
    pub authorities: Vec<(PathBuf, Vec<u8>)>,
    /// The client's certificate and its key, if there are any.
    pub client: Option<ClientPair>,
}

/// A client certificate and its private key.
#[derive(Clone)]
pub struct ClientPair {
    /// The certificate's file.
    pub path: PathBuf,
    /// Certificate chain and key in one PEM text, which is how the TLS library wants them.
    pub pem: Vec<u8>,
}

/// Why the certificates for a registry cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CertsError {
    /// A file or directory cannot be read.
    #[error("cannot read `{}` with certificates for `{host}`", path.display())]
    Read {
        /// The registry.
        host: String,
        /// What could not be read.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A `*.cert` without `*.key`, or the other way round.
    #[error("client certificate `{}` for `{host}` has no `{}` beside it", path.display(), missing.display())]
    Unpaired {
        /// The registry.
        host: String,
        /// The file that is there.
        path: PathBuf,
        /// The file that is not.
        missing: PathBuf,
    },
    /// A file does not hold what its name says.
    #[error("cannot use `{}` as a certificate for `{host}`", path.display())]
    Malformed {
        /// The registry.
        host: String,
        /// The file.
        path: PathBuf,
        /// What the TLS library says.
        source: reqwest::Error,
    },
    /// A `*.crt` file without a single certificate.
    #[error("`{}` holds no certificate in PEM form", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
}

impl CertsError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Read { path, .. } => {
                Some(format!("make `{}` readable for the user who pulls", path.display()))
            }
            Self::Unpaired { missing, .. } => {
                Some(format!("add `{}` or remove the other file", missing.display()))
            }
            Self::Malformed { .. } | Self::Empty { .. } => {
                Some("*.crt, *.cert and *.key files hold PEM text (`-----BEGIN CERTIFICATE-----`)".to_owned())
            }
        }
    }
}

/// Reads what the first of `directories` that knows `host` (`HOST` or `HOST:PORT`) holds for it.
///
/// # Errors
/// When a file is there but cannot be read, or has no partner.
pub fn find(directories: &[PathBuf], host: &str) -> Result<Option<RegistryCertificates>, CertsError> {
    for directory in directories {
        let directory = directory.join(host);
        match fs::read_dir(&directory) {
            Ok(entries) => return read(&directory, entries, host).map(Some),
            // A directory above that is closed to us (root's, in user mode) is as good as absent.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::PermissionDenied
                ) => {}
            Err(source) => {
                return Err(CertsError::Read { host: host.to_owned(), path: directory, source });
            }
        }
    }
    Ok(None)
}

fn read(directory: &Path, entries: fs::ReadDir, host: &str) -> Result<RegistryCertificates, CertsError> {
    let cannot_read =
        |path: &Path, source| CertsError::Read { host: host.to_owned(), path: path.to_owned(), source };
    let mut paths = Vec::new();
    for entry in entries {
        paths.push(entry.map_err(|source| cannot_read(directory, source))?.path());
    }
    paths.sort();
    let mut found =
        RegistryCertificates { directory: directory.to_owned(), ..RegistryCertificates::default() };
    for path in &paths {
        let partner = |extension: &str| {
            let partner = path.with_extension(extension);
            if paths.contains(&partner) {
                Ok(partner)
            } else {
                Err(CertsError::Unpaired { host: host.to_owned(), path: path.clone(), missing: partner })
            }
        };
        let contents = |path: &Path| fs::read(path).map_err(|source| cannot_read(path, source));
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("crt") => found.authorities.push((path.clone(), contents(path)?)),
            Some("cert") => {
                let key = partner("key")?;
                if found.client.is_none() {
                    let mut pem = contents(path)?;
                    pem.push(b'\n');
                    pem.extend(contents(&key)?);
                    found.client = Some(ClientPair { path: path.clone(), pem });
                }
            }
            Some("key") => {
                partner("cert")?;
            }
            _ => {}
        }
    }
    Ok(found)
}

/// Adds the certificates to an HTTP client that is being made.
///
/// # Errors
/// When a file does not hold what its name says.
pub(crate) fn apply(
    certificates: &RegistryCertificates,
    host: &str,
    mut builder: reqwest::ClientBuilder,
) -> Result<reqwest::ClientBuilder, CertsError> {
    let malformed =
        |path: &Path, source| CertsError::Malformed { host: host.to_owned(), path: path.to_owned(), source };
    for (path, pem) in &certificates.authorities {
        let parsed = reqwest::Certificate::from_pem_bundle(pem).map_err(|source| malformed(path, source))?;
        if parsed.is_empty() {
            return Err(CertsError::Empty { path: path.clone() });
        }
        builder = builder.tls_certs_merge(parsed);
    }
    if let Some(client) = &certificates.client {
        let identity =
            reqwest::Identity::from_pem(&client.pem).map_err(|source| malformed(&client.path, source))?;
        builder = builder.identity(identity);
    }
    Ok(builder)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_first_directory_that_knows_the_registry_counts() {
        let root = tempfile::tempdir().unwrap();
        let (first, second) = (root.path().join("first"), root.path().join("second"));
        fs::create_dir_all(first.join("other:5000")).unwrap();
        fs::create_dir_all(second.join("r.example.com:5000")).unwrap();
        for (name, text) in [("ca.crt", "CA"), ("me.cert", "CERT"), ("me.key", "KEY"), ("README", "-")] {
            fs::write(second.join("r.example.com:5000").join(name), text).unwrap();
        }
        let directories = [root.path().join("absent"), first, second];
        let found = find(&directories, "r.example.com:5000").unwrap().unwrap();
        assert_eq!(found.authorities.len(), 1);
        assert_eq!(found.client.unwrap().pem, b"CERT\nKEY");
        assert!(find(&directories, "r.example.com").unwrap().is_none());
    }

    #[test]
    fn a_certificate_without_key_is_an_error_that_names_the_key() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("r");
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join("me.cert"), "CERT").unwrap();
        let Err(error) = find(&[root.path().to_owned()], "r") else { panic!("accepted") };
        assert!(matches!(&error, CertsError::Unpaired { missing, .. } if missing.ends_with("me.key")));
        fs::rename(directory.join("me.cert"), directory.join("me.key")).unwrap();
        let Err(error) = find(&[root.path().to_owned()], "r") else { panic!("accepted") };
        assert!(matches!(&error, CertsError::Unpaired { missing, .. } if missing.ends_with("me.cert")));
    }

    #[test]
    fn a_file_without_a_certificate_is_named() {
        let certificates = RegistryCertificates {
            authorities: vec![(PathBuf::from("/x/ca.crt"), b"nothing".to_vec())],
            ..RegistryCertificates::default()
        };
        let Err(error) = apply(&certificates, "r", reqwest::Client::builder()) else { panic!("accepted") };
        assert!(error.to_string().contains("/x/ca.crt"), "{error}");
    }
}
