//! The HTTP side: what a request asks for, who may ask, and how the answer is written.
//!
//! ```text
//! listener ──┐                       ┌─► documents   health, version, discovery, OpenAPI, metrics
//!            ├─► front: request_info ─┼─► resources ─► verbs, reviews     answer ─► gzip
//! in_process ┘   auth, rbac, limits  └─► extension   what others answer   list_body, watch_body, watch_socket
//! ```
//!
//! Everything that decides (paths, options, negotiation, health texts, audit events) is a pure function of its own
//! module; [`front`] runs them in order.

mod answer;
pub mod audit;
mod documents;
pub mod extension;
pub mod front;
mod gzip;
pub mod health;
pub mod in_process;
mod kept;
mod list_body;
pub mod listener;
pub mod metrics;
pub mod negotiate;
pub mod query;
pub mod request_info;
mod resources;
mod reviews;
mod watch_body;
mod watch_socket;
