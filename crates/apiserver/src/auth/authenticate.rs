//! From what a request shows to who asks.

use std::sync::Arc;

use http::HeaderMap;
use jiff::Timestamp;

use super::{Authorities, Identity, Objects, TokenFile};
use crate::status::ApiError;

/// Knows everybody who may ask.
pub struct Authenticator {}

impl Authenticator {
    /// An authenticator of the CA's client certificates, the tokens of a file, and service account tokens.
    pub fn new(
        _authorities: Arc<Authorities>,
        _tokens: Option<TokenFile>,
        _objects: impl Objects + 'static,
    ) -> Self {
        Self {}
    }

    /// Who asks. `peer` is the certificate that the client proved to hold the key of in the handshake (DER), the first
    /// of the chain. `None`: no credentials were shown ([`Identity::anonymous`]).
    ///
    /// # Errors
    /// 401 when credentials were shown and none of them is good.
    pub fn authenticate(
        &self,
        _peer: Option<&[u8]>,
        _headers: &HeaderMap,
        _now: Timestamp,
    ) -> Result<Option<Identity>, ApiError> {
        Ok(None)
    }
}
