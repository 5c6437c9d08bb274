//! Virtual machines under `ferrovirt serve`, as users of kubectl live with them: real guests, a real registry, the real
//! kubectl, and processes that are killed.
//!
//! Each test has a machine room of its own ([`room::Room`]): directories, a server on a port of its own, and the images
//! that it wants. All that was started there is ended with it, also launchers that outlive their daemon. What is waited
//! for is a state, under a deadline that a loaded machine does not reach.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod agents;
mod boots;
mod chaos;
mod clients;
mod command_line;
mod console;
mod ends;
mod images;
mod logs;
mod network;
mod outliving;
mod probes;
#[allow(dead_code, reason = "the bench uses the rest")]
mod room;
mod strategies;
mod streams;
mod usage;
mod vnc;

#[allow(dead_code, reason = "other test targets use the rest")]
#[path = "../api/client.rs"]
mod client;
#[allow(dead_code, reason = "other test targets use the rest")]
#[path = "../e2e/harness.rs"]
mod harness;
#[allow(dead_code, reason = "other test targets use the rest")]
#[path = "../api/random.rs"]
mod random;
#[path = "../../../image/tests/support/real_registry.rs"]
mod real_registry;
#[allow(dead_code, reason = "other test targets use the rest")]
#[path = "../api/server.rs"]
mod server;
