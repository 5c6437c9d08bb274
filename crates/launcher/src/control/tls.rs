//! Who may speak with whom: both sides of the control API have a certificate of the node's authority.

use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

/// Why certificates and key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A text holds no certificate or key in PEM.
    #[error("cannot read the {what}")]
    Pem {
        /// Which text.
        what: &'static str,
        /// Why.
        source: rustls::pki_types::pem::Error,
    },
    /// There is no certificate of an authority.
    #[error("the authority's certificates are none")]
    NoAuthority,
    /// They do not belong together, or are of an unknown kind.
    #[error("cannot use the {what}")]
    Unusable {
        /// Which.
        what: &'static str,
        /// Why.
        source: rustls::Error,
    },
    /// The authority's certificate cannot judge others.
    #[error("cannot judge certificates by those of the authority")]
    Verifier {
        /// Why.
        source: rustls::server::VerifierBuilderError,
    },
}

/// One side's certificate and key, and whom it trusts.
pub(crate) struct Identity {
    roots: RootCertStore,
    certificates: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Identity {
    /// Reads the three PEM texts.
    pub(crate) fn from_pem(authority: &str, certificate: &str, key: &str) -> Result<Self, IdentityError> {
        let pem = |what| move |source| IdentityError::Pem { what, source };
        let mut roots = RootCertStore::empty();
        for root in CertificateDer::pem_slice_iter(authority.as_bytes()) {
            let root = root.map_err(pem("authority's certificate"))?;
            roots
                .add(root)
                .map_err(|source| IdentityError::Unusable { what: "authority's certificate", source })?;
        }
        if roots.is_empty() {
            return Err(IdentityError::NoAuthority);
        }
        let certificates = CertificateDer::pem_slice_iter(certificate.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .map_err(pem("certificate"))?;
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(pem("private key"))?;
        Ok(Self { roots, certificates, key })
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// For a launcher: clients need a certificate of the authority that is good for clients.
pub(crate) fn server_config(identity: Identity) -> Result<Arc<ServerConfig>, IdentityError> {
    let unusable = |source| IdentityError::Unusable { what: "certificate with its key", source };
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(identity.roots), provider())
        .build()
        .map_err(|source| IdentityError::Verifier { source })?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(unusable)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(identity.certificates, identity.key)
        .map_err(unusable)?;
    // Connections are few and kept: tickets and a cache of sessions would only take memory.
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    Ok(Arc::new(config))
}

/// For those who ask launchers.
pub(super) fn client_config(identity: Identity) -> Result<Arc<ClientConfig>, IdentityError> {
    let unusable = |source| IdentityError::Unusable { what: "certificate with its key", source };
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(unusable)?
        .with_root_certificates(identity.roots)
        .with_client_auth_cert(identity.certificates, identity.key)
        .map_err(unusable)?;
    config.resumption = rustls::client::Resumption::disabled();
    Ok(Arc::new(config))
}
