//! The machine controller against the real API server, in one process. Users, the instance controller and nodes are
//! played by the tests.

#![allow(clippy::unwrap_used)]

mod ends;
mod runs;
mod world;

#[path = "../support/server.rs"]
mod server;
