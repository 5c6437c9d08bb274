//! Tests of `ferrovirt launcher`: real processes with real guests, asked as the controllers ask them.
//!
//! They need QEMU, and the kernels and initrds that `make fixtures` puts in `target/fixtures`.

#![allow(clippy::unwrap_used)]

mod ends;
mod files;
mod isolation;
mod pod;
mod steering;
