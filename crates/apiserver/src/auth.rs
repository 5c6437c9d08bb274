//! Who asks: certificates, tokens and the server's own certificate authority.
