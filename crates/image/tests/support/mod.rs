//! What the integration tests share.

#![allow(dead_code, reason = "each test binary uses its part of the helpers")]

pub mod fake_registry;
