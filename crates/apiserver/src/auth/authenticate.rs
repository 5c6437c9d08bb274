//! From what a request shows to who asks.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use http::HeaderMap;
use http::header::AUTHORIZATION;
use jiff::Timestamp;
use sha2::{Digest as _, Sha256};

use super::certificates::Facts;
use super::{
    AUTHENTICATED, Authorities, Identity, Objects, TokenFile, UNAUTHENTICATED, service_accounts, web_socket,
};
use crate::status::ApiError;

/// Verified certificates that are remembered, so that not every request costs a signature check.
const MAX_REMEMBERED: usize = 256;

/// Where a client certificate's fingerprint and a token's id stand in an identity's extras (Kubernetes 1.32 and later).
pub(super) const CREDENTIAL_ID: &str = "authentication.kubernetes.io/credential-id";

struct Remembered {
    identity: Option<Identity>,
    facts: Facts,
}

/// Knows everybody who may ask.
pub struct Authenticator {
    authorities: Arc<Authorities>,
    tokens: Option<TokenFile>,
    objects: Box<dyn Objects>,
    certificates: Mutex<HashMap<[u8; 32], Arc<Remembered>>>,
}

impl Authenticator {
    /// An authenticator of the CA's client certificates, the tokens of a file, and service account tokens.
    pub fn new(
        authorities: Arc<Authorities>,
        tokens: Option<TokenFile>,
        objects: impl Objects + 'static,
    ) -> Self {
        Self { authorities, tokens, objects: Box::new(objects), certificates: Mutex::default() }
    }

    /// The certificates and keys it checks against.
    pub fn authorities(&self) -> &Arc<Authorities> {
        &self.authorities
    }

    /// Where it reads service accounts.
    pub fn objects(&self) -> &dyn Objects {
        &*self.objects
    }

    /// Who asks. `peer` is the certificate that the client proved to hold the key of in the handshake (DER), the first
    /// of the chain. `None`: no credentials were shown ([`Identity::anonymous`]).
    ///
    /// As in Kubernetes the first good credential counts: the certificate, then the bearer token, in its header or among a
    /// WebSocket's protocols.
    ///
    /// # Errors
    /// 401 when credentials were shown and none of them is good.
    pub fn authenticate(
        &self,
        peer: Option<&[u8]>,
        headers: &HeaderMap,
        now: Timestamp,
    ) -> Result<Option<Identity>, ApiError> {
        let certificate = peer.map(|peer| self.certificate(peer, now));
        if let Some(Shown::Good(identity)) = certificate {
            return Ok(Some(with_group(identity)));
        }
        let token = match bearer(headers) {
            Some(token) => Some(Cow::Borrowed(token)),
            None => web_socket::token(headers).map_err(|_| ApiError::unauthorized())?.map(Cow::Owned),
        };
        if let Some(token) = token {
            let (identity, _) = self.token(&token, &[], now).ok_or_else(ApiError::unauthorized)?;
            return Ok(Some(identity));
        }
        match certificate {
            Some(Shown::Bad) => Err(ApiError::unauthorized()),
            _ => Ok(None),
        }
    }

    /// Whose token it is, and the audiences that it was accepted for. No `audiences` means this server's.
    pub(super) fn token(
        &self,
        token: &str,
        audiences: &[String],
        now: Timestamp,
    ) -> Option<(Identity, Vec<String>)> {
        if let Some(identity) = self.tokens.as_ref().and_then(|tokens| tokens.find(token)) {
            return Some((with_group(identity.clone()), audiences.to_vec()));
        }
        let (identity, audiences) =
            service_accounts::identify(self.authorities.signer(), self.objects(), token, audiences, now)?;
        Some((with_group(identity), audiences))
    }

    fn certificate(&self, der: &[u8], now: Timestamp) -> Shown {
        let fingerprint: [u8; 32] = Sha256::digest(der).into();
        let remembered = || {
            let known = self.certificates.lock().unwrap_or_else(PoisonError::into_inner);
            known.get(&fingerprint).cloned()
        };
        let remembered = match remembered() {
            Some(remembered) => remembered,
            None => {
                if !self.authorities.verify_client(der, now) {
                    return Shown::Bad;
                }
                let Some(facts) = Facts::of(der) else { return Shown::Bad };
                let remembered = Arc::new(Remembered { identity: identity(&facts, &fingerprint), facts });
                let mut known = self.certificates.lock().unwrap_or_else(PoisonError::into_inner);
                if known.len() >= MAX_REMEMBERED {
                    known.clear();
                }
                known.insert(fingerprint, Arc::clone(&remembered));
                remembered
            }
        };
        if !remembered.facts.is_valid_at(now) {
            return Shown::Bad;
        }
        remembered.identity.clone().map_or(Shown::Nobody, Shown::Good)
    }
}

/// What a client certificate is worth.
enum Shown {
    /// It names somebody.
    Good(Identity),
    /// It is valid and has no common name, which Kubernetes takes for no credentials.
    Nobody,
    /// It is foreign, expired, or not for clients.
    Bad,
}

fn identity(facts: &Facts, fingerprint: &[u8; 32]) -> Option<Identity> {
    if facts.common_name.is_empty() {
        return None;
    }
    let hex: String = fingerprint.iter().map(|byte| format!("{byte:02x}")).collect();
    Some(Identity {
        user: facts.common_name.clone(),
        uid: String::new(),
        groups: facts.organizations.clone(),
        extra: [(CREDENTIAL_ID.to_owned(), vec![format!("X509SHA256={hex}")])].into(),
    })
}

/// Everybody who is known is in `system:authenticated`.
fn with_group(mut identity: Identity) -> Identity {
    if !identity.is_in(AUTHENTICATED) && !identity.is_in(UNAUTHENTICATED) {
        identity.groups.push(AUTHENTICATED.to_owned());
    }
    identity
}

/// The bearer token, where there is one. Other schemes are not credentials, as in Kubernetes.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    // A header that is not text is a wrong credential, not none.
    let value = headers.get(AUTHORIZATION)?.to_str().unwrap_or("Bearer \u{1}").trim();
    let mut parts = value.splitn(3, ' ');
    let scheme = parts.next()?;
    let token = parts.next()?;
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}
