//! What was asked for: the `kubevirt.io/v1` types, reading them, their defaults and their rules.
//!
//! Everything here is pure. A manifest comes in as text and goes out as typed objects, as text, or as a list of
//! faults; files, the network, the clock and random numbers stay outside (what is needed of them comes in as values).
//!
//! ```text
//! text ──decode──► VirtualMachine ──defaults──► stored VirtualMachine ──vmi_for──► VirtualMachineInstance ──► …
//!         │                             │
//!         └─► faults of shape           └─validate─► faults of meaning
//! ```

pub mod decode;
mod kubernetes;
pub mod quantity;
mod schema;
mod secret;
pub mod types;
mod value;

pub use decode::{DecodeError, Document, InvalidObject, decode_stream};
pub use quantity::Quantity;
pub use schema::{Empty, Fault};
pub use secret::Secret;
