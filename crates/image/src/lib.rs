//! Images: registries, the node-local store, layers, and the builder.
//!
//! This crate takes a [`Reference`] to files on disk, and files to an image in a registry. It knows nothing of virtual
//! machines, Kubernetes objects or QEMU, and it reads no environment: everything that depends on the caller's
//! surroundings comes in as [`RegistrySettings`].
//!
//! | module | what it owns |
//! |---|---|
//! | [`digest`] | content digests and descriptors |
//! | [`reference`](mod@reference) | the grammar of image references |
//! | [`settings`] | where the files below are, proxies, time limits |
//! | [`registries`] | registries.conf(5): mirrors, short names, blocked and insecure registries |
//! | [`credentials`] | containers-auth.json(5), credential helpers, Kubernetes pull secrets |
//! | [`certs`] | certs.d: certificates for one registry |
//! | [`client`] | the Distribution protocol |

pub mod certs;
pub mod client;
pub mod credentials;
pub mod digest;
pub mod reference;
pub mod registries;
pub mod settings;

pub use client::{BlobSink, Client, Endpoint, FetchedManifest, Listener, RegistryError};
pub use credentials::PullSecret;
pub use digest::{Algorithm, Descriptor, Digest, Hasher};
pub use reference::{Reference, ReferenceError};
pub use settings::{RegistrySettings, UserMode};
