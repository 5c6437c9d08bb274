//! The command line against golden files, and the escaping as properties.
