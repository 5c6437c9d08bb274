//! TLS: the handshake that asks for a client certificate without judging it, and the judgement afterwards.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{DigitallySignedStruct, DistinguishedName, RootCertStore, SignatureScheme};

use super::PkiError;

/// Lets every client certificate through the handshake, once the client has proven to hold its key, so that a foreign
/// or expired one can be answered with a `Status`. [`Verifier::verify`] is the judgement.
#[derive(Debug)]
pub(super) struct Verifier {
    webpki: Arc<dyn ClientCertVerifier>,
}

impl Verifier {
    pub(super) fn new(authority: &CertificateDer<'static>) -> Result<Self, PkiError> {
        let failed = |why: String| PkiError::Crypto { what: "the verifier of client certificates", why };
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone()).map_err(|error| failed(error.to_string()))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let webpki = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
            .allow_unauthenticated()
            .build()
            .map_err(|error| failed(error.to_string()))?;
        Ok(Self { webpki })
    }

    /// Whether the CA signed this certificate for clients, and it counts at this time.
    pub(super) fn verify(&self, certificate: &[u8], now: Timestamp) -> bool {
        let Ok(seconds) = u64::try_from(now.as_second()) else { return false };
        let now = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        self.webpki.verify_client_cert(&CertificateDer::from(certificate), &[], now).is_ok()
    }
}

impl ClientCertVerifier for Verifier {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.webpki.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        // Judged for each request, by `verify`.
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.webpki.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.webpki.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.webpki.supported_verify_schemes()
    }
}

/// The server's certificate, which may be renewed while the server runs.
#[derive(Debug)]
pub(super) struct Current(std::sync::RwLock<Arc<CertifiedKey>>);

impl Current {
    pub(super) fn new(key: CertifiedKey) -> Self {
        Self(std::sync::RwLock::new(Arc::new(key)))
    }

    pub(super) fn replace(&self, key: CertifiedKey) {
        // A poisoned lock still holds a whole value: nothing here panics while it is half written.
        *self.0.write().unwrap_or_else(std::sync::PoisonError::into_inner) = Arc::new(key);
    }
}

impl ResolvesServerCert for Current {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.read().unwrap_or_else(std::sync::PoisonError::into_inner)))
    }
}
