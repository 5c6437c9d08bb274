//! `ferrovirt serve` as its users meet it: the real binary, and real clients that know nothing of it.
//!
//! Each test has a server of its own with a state directory and a port of its own, and ends it also when it fails. What is
//! waited for is a state, under a deadline that a loaded machine does not reach.

// What a test prints (seeds, counts, why it did nothing) is shown when it fails, or with --nocapture.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

mod client;
mod command_line;
mod commands;
mod crash;
mod disk;
mod kubectl;
mod kubectl_machines;
mod kubectl_read;
mod kubectl_write;
mod power;
mod protobuf;
mod python;
mod random;
mod server;
mod state;
mod stress;
mod watchers;
