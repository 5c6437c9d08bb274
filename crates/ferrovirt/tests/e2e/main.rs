//! The real binary, real kernels, real QEMU and real registries.
//!
//! Each test has directories, a registry and a machine of its own and ends everything that it started, also when it
//! fails. What is waited for is a line on a console or the end of a process, under a deadline that a loaded machine
//! does not reach.

#![allow(clippy::unwrap_used)]

mod bad_input;
mod bad_registry;
mod boot;
mod commands;
mod harness;
mod images;
mod scripted_registry;
mod terminal;

#[path = "../../../image/tests/support/real_registry.rs"]
mod real_registry;
