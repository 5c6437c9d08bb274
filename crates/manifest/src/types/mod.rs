//! The `kubevirt.io/v1` types, split by reason to change.
//!
//! Every type is a plain struct whose fields carry their JSON name; an unset field is `None` or empty and is not
//! written. Nothing is defaulted here (see [`defaults`](crate::defaults)) and nothing is checked but the shape, so
//! words from a closed set, such as run strategies, are strings: the validation has to print what was written.
//!
//! Reading a type with serde directly ignores unknown fields, as a client of a newer server must;
//! [`decode_stream`](crate::decode_stream) refuses them.

pub mod data_volumes;
pub mod devices;
pub mod domain;
pub mod firmware;
pub mod migration_status;
pub mod networks;
pub mod status;
pub mod vm;
pub mod vmi;
pub mod volumes;
