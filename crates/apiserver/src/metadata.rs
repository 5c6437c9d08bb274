//! The rules of `metadata`.
