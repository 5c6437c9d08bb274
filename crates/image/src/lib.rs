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
//! | [`build`] | an image out of a kernel, an initrd and other files, reproducibly |
//! | [`push`](mod@push) | the way from the store to a registry |
//! | [`archive`] | images in files: OCI layouts and Docker archives |
//! | [`client`] | the Distribution protocol |
//! | [`manifest`](mod@manifest), [`platform`] | the documents of an image, and for which machine it is |
//! | [`store`] | the node-local store: content, records, leases, pruning |
//! | [`layer`] | reading layer archives, within bounds |
//! | [`resolve`] | paths in an image, over its layers |
//! | [`pull`] | from a reference to files in the store |

pub mod archive;
pub mod build;
pub mod certs;
pub mod client;
mod compression;
pub mod credentials;
pub mod digest;
pub mod layer;
pub mod manifest;
mod outgoing;
pub mod platform;
pub mod pull;
pub mod push;
pub mod reference;
pub mod registries;
pub mod resolve;
pub mod settings;
pub mod store;

pub use client::{BlobSink, Client, Endpoint, FetchedManifest, Listener, RegistryError};
pub use credentials::PullSecret;
pub use digest::{Algorithm, Descriptor, Digest, Hasher};
pub use outgoing::OutgoingError;
pub use platform::Platform;
pub use pull::{
    Images, PullError, PullEvent, PullPolicy, PullProgress, PullRequest, PulledFile, PulledImage, Wanted,
    WantedFile,
};
pub use reference::{Reference, ReferenceError};
pub use settings::{RegistrySettings, UserMode};
pub use store::{Store, StoreError};
