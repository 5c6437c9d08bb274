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

pub mod bootable;
pub mod decode;
pub mod defaults;
pub mod forms;
pub mod guest_agent;
pub mod keys;
mod kubernetes;
mod locate;
pub mod machine_status;
pub mod openapi;
pub mod resources;
mod schema;
#[cfg(test)]
mod schema_tests;
mod secret;
pub mod types;
pub mod unowned;
pub mod unsupported;
pub mod validate;
mod value;

/// An instant, as objects hold it.
pub use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// What a probe over HTTP asks for, and a port by its number or name.
pub use k8s_openapi::{api::core::v1::HTTPGetAction, apimachinery::pkg::util::intstr::IntOrString};

pub use decode::{
    DecodeError, Document, EncodeError, InvalidObject, decode_objects, decode_stream, decode_vm, decode_vmi,
    encode_yaml,
};
pub use defaults::{DefaultsContext, apply_vm, apply_vm_update, apply_vmi, initial_status, vmi_for};
pub use locate::{Location, locate};
pub use quantity::Quantity;
pub use resources::{CpuTopology, MemoryError, cpu_topology, guest_memory, guest_memory_bytes};
pub use schema::{Empty, Fault};
pub use secret::Secret;
