//! Every rule by itself: one valid object, one field changed, exactly the expected faults. And what may be booted.
#![allow(clippy::unwrap_used, clippy::print_stderr)]
// The crate itself may not read files; the test that reads examples may.
#![allow(clippy::disallowed_methods)]

mod disks_and_volumes;
mod examples;
mod harness;
mod machine;
mod networks;
mod objects;
mod support;
