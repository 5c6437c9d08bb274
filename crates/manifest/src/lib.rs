//! What was asked: KubeVirt's `kubevirt.io/v1` objects, their decoding, defaults and every rule that they must meet.
//!
//! This crate is pure: no files, no processes, no network, no clock. Whatever it needs to know comes in as a value.

pub mod quantity;

pub use quantity::{Quantity, QuantityError};
