//! The authority behind the launchers' control API.

use std::net::IpAddr;
use std::path::Path;

/// A certificate and its key, PEM.
#[derive(Clone)]
pub struct Identity {
    /// The certificate.
    pub certificate: String,
    /// Its private key, PKCS #8.
    pub key: String,
}

/// Signs for launchers and for those who may ask them.
pub struct Authority {
    _private: (),
}

impl Authority {
    /// The authority kept in `directory` (0700), made when there is none.
    ///
    /// # Errors
    /// When the directory cannot be used or holds something else.
    pub fn open(_directory: &Path) -> Result<Self, crate::NodeError> {
        Ok(Self { _private: () })
    }

    /// The authority's own certificate, PEM.
    pub fn certificate(&self) -> &str {
        ""
    }

    /// For a launcher that answers on `address`.
    pub fn launcher(&self, _address: IpAddr) -> Identity {
        Identity { certificate: String::new(), key: String::new() }
    }

    /// For the controllers: the common name is `ferrovirt-controllers`.
    pub fn controllers(&self) -> Identity {
        Identity { certificate: String::new(), key: String::new() }
    }
}
