//! certs.d: certificates for one registry.
