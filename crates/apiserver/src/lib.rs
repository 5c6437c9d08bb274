//! Kubernetes API machinery: what makes a server out of kinds that are registered as data.
//!
//! ```text
//! request ──http──► auth ──► rbac ──► verbs ──► patch/apply ──► schema ──► hooks ──► store ──► SQLite
//!                                       │                                              │
//! response ◄──http◄── table/negotiation ◄┘◄──────────── watch cache ◄──────────────────┘
//! ```
//!
//! Nothing here knows what a virtual machine is.

pub mod apply;
pub mod auth;
pub mod builtin;
pub mod collector;
pub mod decode;
pub mod discovery;
mod field;
mod files;
mod go;
pub mod http;
pub mod jsonpath;
pub mod kind;
pub mod metadata;
pub mod object;
pub mod openapi;
pub mod patch;
pub mod protobuf;
pub mod rbac;
pub mod schema;
pub mod selector;
pub mod server;
pub mod status;
pub mod store;
pub mod table;
pub mod verbs;
