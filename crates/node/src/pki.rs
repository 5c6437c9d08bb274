//! The authority behind the launchers' control API.
//!
//! ```text
//! DIRECTORY/        0700
//!   ca.crt          the authority, made once
//!   ca.key          its key, 0600, ECDSA P-256, PKCS #8
//! ```
//!
//! It signs two kinds of certificates, each for a new key: a launcher's, a server on one loopback address, and the
//! controllers', a client. Neither passes for the other, so that a launcher, which shares a machine with a hostile guest,
//! cannot ask other launchers anything.
//!
//! # Validity
//! No certificate here expires, and none begins: they hold from `FIRST_YEAR` to the end of 9999, which is how RFC 5280,
//! 4.1.2.5, spells "no end". A virtual machine may run for years, its launcher is given its certificate once, and the
//! clock of its host may jump either way meanwhile; whoever could steal a key of a launcher owns the process it is for. So
//! there is nothing to renew that could cut off what runs. To get rid of an authority, remove its directory when no
//! launcher runs: those that do would not be reached any more.
//!
//! The key is written before the certificate, so a crash between the two leaves a key for which a certificate is made
//! then. What is there and not right is named in an error and never replaced.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType, date_time_ymd,
};

use crate::files;

/// Common name of the controllers' client certificate.
pub const CONTROLLERS: &str = "ferrovirt-controllers";

/// Certificates are good from the first of January on.
const FIRST_YEAR: i32 = 2000;

/// Longest certificate or key that is read, in bytes; ours have under one thousand.
const MAX_FILE_BYTES: u64 = 64 * 1024;

/// A certificate and its key, PEM.
#[derive(Clone)]
pub struct Identity {
    /// The certificate.
    pub certificate: String,
    /// Its private key, PKCS #8.
    pub key: String,
}

impl fmt::Debug for Identity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Identity").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

/// Why the authority cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file cannot be read or written.
    #[error("cannot {action} `{}`", path.display())]
    File {
        /// `read`, `write` or `create`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file is not what it should be.
    #[error(
        "`{}` {fault}; put the right file back, or remove its directory when no launcher runs to have it made anew",
        path.display()
    )]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        fault: &'static str,
    },
    /// Cryptography failed: no randomness, or a fault of ours.
    #[error("cannot make {what}")]
    Crypto {
        /// What was to be made.
        what: &'static str,
        /// Why it failed.
        source: rcgen::Error,
    },
}

/// Signs for launchers and for those who may ask them.
pub struct Authority {
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// The authority kept in `directory` (0700), made when there is none.
    ///
    /// # Errors
    /// When the directory cannot be used or holds something else.
    pub fn open(directory: &Path) -> Result<Self, PkiError> {
        let file = |action, path: &Path| {
            let path = path.to_owned();
            move |source| PkiError::File { action, path, source }
        };
        files::create_directory(directory, 0o700).map_err(file("create", directory))?;
        let (certificate_path, key_path) = (directory.join("ca.crt"), directory.join("ca.key"));
        let certificate = read(&certificate_path)?;
        let key = match (read(&key_path)?, &certificate) {
            (Some(key), _) => {
                KeyPair::from_pem(&key).map_err(|_| unusable(&key_path, "is no private key in PEM"))?
            }
            (None, None) => {
                let key = new_key()?;
                files::write_private(&key_path, key.serialize_pem().as_bytes())
                    .map_err(file("write", &key_path))?;
                key
            }
            (None, Some(_)) => return Err(unusable(&key_path, "is missing")),
        };
        let certificate = match certificate {
            Some(certificate) => {
                check(&certificate, &key).map_err(|fault| unusable(&certificate_path, fault))?;
                certificate
            }
            None => {
                let certificate = new_authority(&key)?;
                files::write_private(&certificate_path, certificate.as_bytes())
                    .map_err(file("write", &certificate_path))?;
                certificate
            }
        };
        let issuer = Issuer::from_ca_cert_pem(&certificate, key)
            .map_err(|_| unusable(&certificate_path, "is no certificate that can sign"))?;
        Ok(Self { certificate, issuer })
    }

    /// The authority's own certificate, PEM.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// For a launcher that answers on `address`.
    ///
    /// # Errors
    /// [`PkiError::Crypto`], when there is no randomness.
    pub fn launcher(&self, address: IpAddr) -> Result<Identity, PkiError> {
        let mut params = parameters("ferrovirt-launcher");
        params.subject_alt_names = vec![SanType::IpAddress(address)];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.sign(params)
    }

    /// For the controllers: the common name is [`CONTROLLERS`].
    ///
    /// # Errors
    /// [`PkiError::Crypto`], when there is no randomness.
    pub fn controllers(&self) -> Result<Identity, PkiError> {
        let mut params = parameters(CONTROLLERS);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(params)
    }

    fn sign(&self, mut params: CertificateParams) -> Result<Identity, PkiError> {
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        let key = new_key()?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(crypto("a certificate"))?.pem();
        Ok(Identity { certificate, key: key.serialize_pem() })
    }
}

fn unusable(path: &Path, fault: &'static str) -> PkiError {
    PkiError::Unusable { path: path.to_owned(), fault }
}

fn crypto(what: &'static str) -> impl Fn(rcgen::Error) -> PkiError {
    move |source| PkiError::Crypto { what, source }
}

fn read(path: &Path) -> Result<Option<String>, PkiError> {
    let bytes = files::read_start(path, MAX_FILE_BYTES).map_err(|source| PkiError::File {
        action: "read",
        path: path.to_owned(),
        source,
    })?;
    bytes.map(|bytes| String::from_utf8(bytes).map_err(|_| unusable(path, "is no text"))).transpose()
}

/// A new P-256 key.
fn new_key() -> Result<KeyPair, PkiError> {
    KeyPair::generate().map_err(crypto("a key"))
}

fn new_authority(key: &KeyPair) -> Result<String, PkiError> {
    let mut params = parameters("ferrovirt-launchers");
    // It signs for processes and people, not for further authorities.
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages =
        vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params.self_signed(key).map_err(crypto("the authority's certificate"))?.pem())
}

/// What all certificates have in common. The serial number is derived from the key, and no key has two certificates.
fn parameters(common_name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.not_before = date_time_ymd(FIRST_YEAR, 1, 1);
    // One second before the year 10000: 99991231235959Z.
    params.not_after = date_time_ymd(9999, 12, 31) + std::time::Duration::from_secs(24 * 60 * 60 - 1);
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params
}

/// Whether `certificate` is an authority's, and that of `key`.
fn check(certificate: &str, key: &KeyPair) -> Result<(), &'static str> {
    let damaged = "is no certificate in PEM";
    let (_, pem) = x509_parser::pem::parse_x509_pem(certificate.as_bytes()).map_err(|_| damaged)?;
    let certificate = pem.parse_x509().map_err(|_| damaged)?;
    if !certificate.is_ca() {
        return Err("is no authority's certificate");
    }
    if certificate.public_key().subject_public_key.data != key.public_key_raw() {
        return Err("belongs to another key than `ca.key`");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::sync::Arc;

    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
    use rustls::server::WebPkiClientVerifier;
    use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};

    use super::*;

    const ADDRESS: &str = "127.88.0.1";

    fn roots(authority: &Authority) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(authority.certificate().as_bytes()).unwrap()).unwrap();
        Arc::new(roots)
    }

    fn pair(identity: &Identity) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let certificate = CertificateDer::from_pem_slice(identity.certificate.as_bytes()).unwrap();
        (vec![certificate], PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).unwrap())
    }

    /// Some moment, told to both ends as the present.
    #[derive(Debug)]
    struct Clock(u64);

    impl rustls::time_provider::TimeProvider for Clock {
        fn current_time(&self) -> Option<UnixTime> {
            Some(UnixTime::since_unix_epoch(std::time::Duration::from_secs(self.0)))
        }
    }

    /// A handshake in memory, mutual: `client` of `trusted` asks the server `server` of `authority` at `name`.
    fn handshake(
        (authority, server): (&Authority, &Identity),
        (trusted, client): (&Authority, &Identity),
        name: &str,
        now: u64,
    ) -> Result<(), rustls::Error> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(roots(authority), Arc::clone(&provider))
            .build()
            .unwrap();
        let (certificates, key) = pair(server);
        let server = ServerConfig::builder_with_details(Arc::clone(&provider), Arc::new(Clock(now)))
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(verifier)
            .with_single_cert(certificates, key)?;
        let (certificates, key) = pair(client);
        let client = ClientConfig::builder_with_details(provider, Arc::new(Clock(now)))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots(trusted))
            .with_client_auth_cert(certificates, key)?;
        let mut server = ServerConnection::new(Arc::new(server))?;
        let mut client =
            ClientConnection::new(Arc::new(client), ServerName::try_from(name.to_owned()).unwrap())?;
        while client.is_handshaking()
            || server.is_handshaking()
            || client.wants_write()
            || server.wants_write()
        {
            let mut wire = Vec::new();
            client.write_tls(&mut wire).unwrap();
            let mut rest = wire.as_slice();
            while !rest.is_empty() {
                server.read_tls(&mut rest).unwrap();
                server.process_new_packets()?;
            }
            let mut wire = Vec::new();
            server.write_tls(&mut wire).unwrap();
            let mut rest = wire.as_slice();
            while !rest.is_empty() {
                client.read_tls(&mut rest).unwrap();
                client.process_new_packets()?;
            }
        }
        Ok(())
    }

    /// 2026-11-22.
    const NOW: u64 = 1_795_305_600;

    #[test]
    fn controllers_and_a_launcher_trust_each_other_and_nobody_else() {
        let directory = tempfile::tempdir().unwrap();
        let ours = Authority::open(&directory.path().join("ours")).unwrap();
        let theirs = Authority::open(&directory.path().join("theirs")).unwrap();
        let launcher = ours.launcher(ADDRESS.parse().unwrap()).unwrap();
        let controllers = ours.controllers().unwrap();
        handshake((&ours, &launcher), (&ours, &controllers), ADDRESS, NOW).unwrap();

        let invalid = |error: rustls::Error| matches!(error, rustls::Error::InvalidCertificate(_));
        let other_address = handshake((&ours, &launcher), (&ours, &controllers), "127.88.0.2", NOW);
        assert!(invalid(other_address.unwrap_err()), "a certificate is good for one address");
        let neighbour = ours.launcher("127.88.0.2".parse().unwrap()).unwrap();
        assert!(invalid(handshake((&ours, &launcher), (&ours, &neighbour), ADDRESS, NOW).unwrap_err()));
        assert!(invalid(handshake((&ours, &controllers), (&ours, &controllers), ADDRESS, NOW).unwrap_err()));
        let stranger = theirs.controllers().unwrap();
        assert!(invalid(handshake((&ours, &launcher), (&ours, &stranger), ADDRESS, NOW).unwrap_err()));
        assert!(invalid(handshake((&ours, &launcher), (&theirs, &controllers), ADDRESS, NOW).unwrap_err()));
    }

    #[test]
    fn no_clock_cuts_a_launcher_off() {
        let directory = tempfile::tempdir().unwrap();
        let authority = Authority::open(directory.path()).unwrap();
        let launcher = authority.launcher(ADDRESS.parse().unwrap()).unwrap();
        let controllers = authority.controllers().unwrap();
        let (year_2000, year_9000) = (946_684_800, 221_845_392_000);
        for now in [year_2000, NOW, year_9000] {
            handshake((&authority, &launcher), (&authority, &controllers), ADDRESS, now).unwrap();
        }
    }

    #[test]
    fn an_authority_is_made_once_and_only_its_owner_reads_its_key() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a/pki");
        let first = Authority::open(&path).unwrap();
        let second = Authority::open(&path).unwrap();
        assert_eq!(first.certificate(), second.certificate());
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        assert_eq!((mode(&path), mode(&path.join("ca.key"))), (0o700, 0o600));
        let (launcher, controllers) =
            (first.launcher(ADDRESS.parse().unwrap()).unwrap(), second.controllers().unwrap());
        handshake((&second, &launcher), (&first, &controllers), ADDRESS, NOW).unwrap();
        assert!(!format!("{launcher:?}").contains("PRIVATE"));
    }

    #[test]
    fn a_crash_before_the_certificate_is_written_loses_nothing() {
        let directory = tempfile::tempdir().unwrap();
        Authority::open(directory.path()).unwrap();
        let key = fs::read(directory.path().join("ca.key")).unwrap();
        fs::remove_file(directory.path().join("ca.crt")).unwrap();
        fs::write(directory.path().join("ca.tmp"), "half").unwrap();
        Authority::open(directory.path()).unwrap();
        assert_eq!(fs::read(directory.path().join("ca.key")).unwrap(), key);
        assert!(!directory.path().join("ca.tmp").exists());
    }

    #[test]
    fn what_is_damaged_is_named_and_never_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let other = Authority::open(&directory.path().join("other")).unwrap();
        let leaf = other.controllers().unwrap();
        let path = directory.path().join("pki");
        Authority::open(&path).unwrap();
        let (key, certificate) = (path.join("ca.key"), path.join("ca.crt"));
        let (good_key, good_certificate) = (fs::read(&key).unwrap(), fs::read(&certificate).unwrap());
        let fault = || match Authority::open(&path).err().unwrap() {
            PkiError::Unusable { path, fault } => {
                (path.file_name().unwrap().to_str().unwrap().to_owned(), fault)
            }
            other => panic!("{other}"),
        };
        for (file, text, expected) in [
            (&key, "nonsense", ("ca.key", "is no private key in PEM")),
            (&key, "", ("ca.key", "is no private key in PEM")),
            (&certificate, "nonsense", ("ca.crt", "is no certificate in PEM")),
            (&certificate, other.certificate(), ("ca.crt", "belongs to another key than `ca.key`")),
            (&certificate, &leaf.certificate, ("ca.crt", "is no authority's certificate")),
        ] {
            fs::write(file, text).unwrap();
            let (name, fault) = fault();
            assert_eq!((name.as_str(), fault), expected, "{text}");
            assert_eq!(fs::read_to_string(file).unwrap(), text);
            fs::write(&key, &good_key).unwrap();
            fs::write(&certificate, &good_certificate).unwrap();
        }
        fs::remove_file(&key).unwrap();
        assert_eq!(fault(), ("ca.key".to_owned(), "is missing"));
        fs::remove_file(&certificate).unwrap();
        std::os::unix::fs::symlink("/dev/null", &certificate).unwrap();
        assert!(matches!(Authority::open(&path), Err(PkiError::File { action: "read", .. })));
    }
}
