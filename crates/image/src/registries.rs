//! registries.conf(5).
