//! JSON Web Signatures (RFC 7515, compact) of one algorithm: ES256. There is no negotiation: a token that names any other
//! algorithm is not a token.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, UnparsedPublicKey,
};
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use super::PkiError;

/// Tokens that are longer are refused unread; ours have about 1,000 bytes.
const MAX_TOKEN_BYTES: usize = 8 * 1024;

/// A key that signs and checks.
pub(super) struct Key {
    pair: EcdsaKeyPair,
    /// Tells our keys apart; it is a hash of the public key.
    id: String,
}

impl Key {
    /// A key from PKCS #8; `None` when it is no P-256 key.
    pub(super) fn from_pkcs8(der: &[u8]) -> Option<Self> {
        let pair =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der, &SystemRandom::new()).ok()?;
        let id = URL_SAFE_NO_PAD.encode(Sha256::digest(pair.public_key().as_ref()));
        Some(Self { pair, id })
    }

    /// A token with these claims.
    pub(super) fn sign(&self, claims: &Value) -> Result<String, PkiError> {
        let header = json!({ "alg": "ES256", "kid": self.id });
        let signed = format!(
            "{}.{}",
            URL_SAFE_NO_PAD.encode(header.to_string()),
            URL_SAFE_NO_PAD.encode(claims.to_string())
        );
        let signature = self
            .pair
            .sign(&SystemRandom::new(), signed.as_bytes())
            .map_err(|error| PkiError::Crypto { what: "a signature", why: error.to_string() })?;
        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }

    /// The claims of a token that this key signed; `None` for anything else. Times are not checked here.
    pub(super) fn verify(&self, token: &str) -> Option<Map<String, Value>> {
        if token.len() > MAX_TOKEN_BYTES {
            return None;
        }
        let (signed, signature) = token.rsplit_once('.')?;
        let (header, claims) = signed.split_once('.')?;
        let header: Map<String, Value> = decode(header)?;
        if header.get("alg")? != "ES256" || header.get("kid")? != self.id.as_str() || header.len() != 2 {
            return None;
        }
        let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.pair.public_key())
            .verify(signed.as_bytes(), &signature)
            .ok()?;
        decode(claims)
    }
}

fn decode(part: &str) -> Option<Map<String, Value>> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok()
}
