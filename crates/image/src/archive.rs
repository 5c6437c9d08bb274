//! Images in files: `save` writes one, `load` takes one in.
//!
//! ```text
//! oci-layout      the mark of an OCI layout
//! index.json      the images by their manifests' digests, for who reads OCI layouts
//! manifest.json   the same images, for who reads what `docker save` writes
//! blobs/ALGORITHM/HEX
//! ```
//!
//! What is written here is one tar file that both families of tools read (`skopeo copy oci-archive:` and
//! `docker-archive:`, `podman load`, `docker load`, `ctr image import`), as Docker itself writes it since
//! version 25. What is read is an OCI layout, as a tar file or a directory, or a Docker archive of any age;
//! tar files may be compressed by gzip or zstd.
//!
//! Archives come from anywhere. Nothing is unpacked under a name of the archive's choosing: members are found
//! by name where they lie and go into the store under their digests, which are verified on the way.
//! Documents, names, counts and decompressed sizes are bounded. An image gets its name in the store last,
//! when all of it is there.

mod documents;
mod load;
mod members;
mod save;
mod spool;
#[cfg(test)]
mod tests;

pub use load::{LoadError, LoadRequest, LoadSource, LoadedImage, load};
pub use members::MembersError;
pub use save::{SaveError, SavedImage, save, save_to_file};
