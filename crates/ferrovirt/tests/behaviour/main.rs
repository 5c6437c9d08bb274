//! One behaviour suite for Kubernetes API servers: what a client may rely on, checked through a `kube::Client` and
//! through bare requests.
//!
//! It runs against a server that it starts itself, or, when `FERROVIRT_SUITE_KUBECONFIG` names a kubeconfig, against
//! the server that is named there (as its administrator; every test works in a namespace of its own and removes it).
//! What is true of ours alone is behind [`target::Target::ours_alone`] and skipped elsewhere.

#![allow(clippy::unwrap_used, missing_docs)]

// What these tests use of it is less than what those do that it was written for.
#[allow(dead_code)]
#[path = "../api/server.rs"]
mod server;

mod access;
mod apply;
mod bodies;
mod clients;
mod deleting;
mod discovery;
mod forms;
mod lists;
mod machines;
mod objects;
mod patches;
mod target;
mod validation;
mod watches;
