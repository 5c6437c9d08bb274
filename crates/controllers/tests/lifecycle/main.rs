//! The controllers against the real API server and a world of Pods that a test moves: no node, no launcher, no guest.

#![allow(clippy::unwrap_used)]

mod chaos;
mod instances;
mod launchers;
mod machines;
mod world;

#[path = "../support/server.rs"]
mod server;
