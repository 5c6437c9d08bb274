//! Builds an image out of files on this machine: a kernel, an initrd, kernel modules, anything else.
//!
//! ```text
//! BuildRequest ──► plan ──► one layer per file or tree ──► config ──► manifest ──► a name in the store
//! ```
//!
//! **Reproducible.** The same files and request give the same digests on any machine and at any time: the
//! only clock is [`BuildRequest::timestamp_seconds`], owners are given, entries are sorted, compressors run
//! at fixed settings.
//!
//! **One layer per input**, trees at the bottom and files above them in the order given. What has not changed
//! keeps its digest and is not sent again; and who pulls for a boot, reading from the top down, finds kernel
//! and initrd in the upper layers and never asks for the modules. So put kernel and initrd last.
//!
//! **Gzip unless asked otherwise**: every registry, container runtime and builder reads it. Zstandard is
//! faster and smaller, but Docker before 23 and older containerd do not read it.
//!
//! What a kernel is, and for which architecture, is not known here: the caller inspects it and passes labels.

pub(crate) mod documents;
mod layer_writer;
mod plan;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, BufWriter};
use std::path::PathBuf;
use std::str::FromStr;

use crate::digest::{Algorithm, Descriptor, Digest};
use crate::manifest::{OCI_CONFIG, OCI_MANIFEST};
use crate::platform::Platform;
use crate::reference::Reference;
use crate::store::{Area, Lease, Store, StoreError};
use documents::{ConfigFacts, oci_layer};

/// User and group that QEMU runs as under KubeVirt, in containers whose image knows no names.
pub const QEMU_UID: u32 = 107;
/// See [`QEMU_UID`].
pub const QEMU_GID: u32 = 107;

/// Where [`ImageFile::kernel`] puts the kernel; the path that KubeVirt's user guide uses.
pub const KERNEL_PATH: &str = "/boot/vmlinuz-virt";
/// Where [`ImageFile::initrd`] puts the initrd; the path that KubeVirt's user guide uses.
pub const INITRD_PATH: &str = "/boot/initramfs-virt";

/// Label that tells the kernel's version string.
pub const LABEL_KERNEL_VERSION: &str = "ferrovirt.dev/kernel-version";
/// Label that tells the kernel's architecture, in the words of OCI platforms (`amd64`, `arm64`).
pub const LABEL_ARCHITECTURE: &str = "ferrovirt.dev/architecture";

/// How layers are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compression {
    /// Read everywhere.
    #[default]
    Gzip,
    /// Faster and smaller; needs containerd 1.5, CRI-O 1.22, Podman 2 or Docker 23 at least.
    Zstd,
    /// A plain tar stream.
    None,
}

impl FromStr for Compression {
    type Err = UnknownCompression;

    fn from_str(text: &str) -> Result<Self, UnknownCompression> {
        match text {
            "gzip" => Ok(Self::Gzip),
            "zstd" => Ok(Self::Zstd),
            "none" => Ok(Self::None),
            _ => Err(UnknownCompression { text: text.to_owned() }),
        }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
            Self::None => "none",
        })
    }
}

/// A compression that is not known by that name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown compression `{text}`, expected `gzip`, `zstd` or `none`")]
pub struct UnknownCompression {
    text: String,
}

/// One file of the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageFile {
    /// The file to copy; a symbolic link is followed.
    pub source: PathBuf,
    /// Absolute path in the image.
    pub destination: String,
    /// Permission bits, such as `0o444`.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Owning group.
    pub gid: u32,
}

impl ImageFile {
    /// `source` as the kernel: at [`KERNEL_PATH`], owned and readable by QEMU's user.
    #[must_use]
    pub fn kernel(source: PathBuf) -> Self {
        Self::boot_artifact(source, KERNEL_PATH)
    }

    /// `source` as the initrd: at [`INITRD_PATH`], owned and readable by QEMU's user.
    #[must_use]
    pub fn initrd(source: PathBuf) -> Self {
        Self::boot_artifact(source, INITRD_PATH)
    }

    fn boot_artifact(source: PathBuf, destination: &str) -> Self {
        Self { source, destination: destination.to_owned(), mode: 0o444, uid: QEMU_UID, gid: QEMU_GID }
    }
}

/// A directory of the image with all that is below it.
///
/// Files get mode 0644, or 0755 where their owner may execute them, directories 0755. Symbolic links below
/// the root stay links. Hard links become separate files; extended attributes and holes are not kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageTree {
    /// The directory to copy; a symbolic link to one is followed.
    pub source: PathBuf,
    /// Absolute path in the image; `/` pours the tree into the image's root.
    pub destination: String,
    /// Owner of everything in it.
    pub uid: u32,
    /// Owning group of everything in it.
    pub gid: u32,
    /// Symbolic links directly in `source` that are not carried.
    pub left_out_links: Vec<String>,
}

impl ImageTree {
    /// The modules of kernel `version`, at `/lib/modules/VERSION`, owned by root.
    ///
    /// Leaves out the links `build` and `source`, which lead to wherever the kernel was compiled.
    #[must_use]
    pub fn modules(source: PathBuf, version: &str) -> Self {
        let left_out_links = vec!["build".to_owned(), "source".to_owned()];
        Self { source, destination: format!("/lib/modules/{version}"), uid: 0, gid: 0, left_out_links }
    }
}

/// What to build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildRequest {
    /// Files, each a layer, the lowest first.
    pub files: Vec<ImageFile>,
    /// Trees, each a layer below all files, the lowest first.
    pub trees: Vec<ImageTree>,
    /// Labels of the image's config. `org.opencontainers.image.created` is added when it is missing.
    pub labels: BTreeMap<String, String>,
    /// What the image is for; the kernel's architecture.
    pub platform: Platform,
    /// How layers are compressed.
    pub compression: Compression,
    /// The time that every file and the image itself carry, in seconds since 1970: `SOURCE_DATE_EPOCH`, or
    /// zero.
    pub timestamp_seconds: u64,
}

/// A built image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuiltImage {
    /// Digest of the manifest, by which the image can be named anywhere.
    pub digest: Digest,
    /// Sum of the manifest's, the config's and the layers' sizes.
    pub size_bytes: u64,
    /// The layers, the lowest first.
    pub layers: Vec<Descriptor>,
}

/// Why an image was not built. Nothing is named in the store then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// Neither files nor trees were given.
    #[error("cannot build an image of nothing")]
    NothingToCarry,
    /// A source cannot be read.
    #[error("cannot read `{}`", path.display())]
    Read {
        /// The source.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file was expected.
    #[error("cannot copy `{}` as a file: it is {found}", path.display())]
    NotAFile {
        /// The source.
        path: PathBuf,
        /// What it is.
        found: &'static str,
    },
    /// A directory was expected.
    #[error("cannot copy `{}` as a directory: it is {found}", path.display())]
    NotADirectory {
        /// The source.
        path: PathBuf,
        /// What it is.
        found: &'static str,
    },
    /// A tree holds something that an image for booting has no use for.
    #[error("cannot carry `{}`: it is {found}, not a file, directory or symbolic link", path.display())]
    SpecialFile {
        /// The source.
        path: PathBuf,
        /// What it is.
        found: &'static str,
    },
    /// A tree holds a name that means removal in a layer.
    #[error("cannot carry `{}`: in a layer a name beginning with `.wh.` means removal", path.display())]
    WhiteoutName {
        /// The source.
        path: PathBuf,
    },
    /// A tree is nested too deeply.
    #[error("cannot carry `{}`: it is more than {limit} directories deep", path.display())]
    TooDeep {
        /// The directory that is too deep.
        path: PathBuf,
        /// The limit.
        limit: usize,
    },
    /// A tree holds too much.
    #[error("cannot build an image with more than {limit} entries in one layer")]
    TooManyEntries {
        /// The limit.
        limit: usize,
    },
    /// A destination is no place in an image.
    #[error("cannot use `{destination}` as a path in the image: {reason}")]
    Destination {
        /// The destination as given.
        destination: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Two sources lay claim to one path.
    #[error("cannot put two things at `{}` in the image", path.display())]
    Collision {
        /// The path in the image.
        path: PathBuf,
    },
    /// A file is not as it was when the build began.
    #[error("cannot copy `{}`: it changed while the image was built", path.display())]
    Changed {
        /// The source.
        path: PathBuf,
    },
    /// A layer cannot be written.
    #[error("cannot write a layer of the image")]
    WriteLayer {
        /// Why.
        source: io::Error,
    },
    /// The store cannot take the image in.
    #[error("cannot keep the built image in the image store")]
    Store {
        /// Why.
        source: StoreError,
    },
}

impl BuildError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NothingToCarry => Some("give a kernel with `--kernel FILE`".to_owned()),
            Self::Read { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                // Ubuntu installs kernels readable by root alone.
                Some("make it readable with `sudo chmod a+r`, or build as root".to_owned())
            }
            Self::NotAFile { found: "a directory", .. } => {
                Some("a directory can be carried with `--add DIR:PATH`".to_owned())
            }
            Self::Destination { .. } => Some("write it as an absolute path, such as `/opt/tool`".to_owned()),
            Self::Store { source } => source.hint(),
            Self::Changed { .. } => Some("build again when nothing writes to it any more".to_owned()),
            Self::Read { path, .. } => Some(format!("check that `{}` is there and readable", path.display())),
            Self::NotAFile { .. } => Some("name a regular file".to_owned()),
            Self::NotADirectory { .. } => Some("name a directory".to_owned()),
            Self::SpecialFile { .. } | Self::WhiteoutName { .. } => {
                Some("remove it from the directory, or carry a copy of the directory without it".to_owned())
            }
            Self::TooDeep { .. } | Self::TooManyEntries { .. } => {
                Some("carry less: only what the guest needs to boot".to_owned())
            }
            Self::Collision { .. } => Some("give one of them another path in the image".to_owned()),
            Self::WriteLayer { .. } => {
                Some("check the disk and the permissions of the image store".to_owned())
            }
        }
    }
}

/// Label that tells when the image was made (OCI image specification, "Pre-Defined Annotation Keys").
const LABEL_CREATED: &str = "org.opencontainers.image.created";

/// Bytes gathered before the store is handed them.
const WRITE_BUFFER_BYTES: usize = 128 * 1024;

/// Builds an image and names it `reference` in the store.
///
/// Blocks for as long as compressing takes: call it on a blocking thread. Nothing has the name before
/// everything is in the store, so a build that fails or is killed leaves an earlier image of that name as it
/// was.
///
/// # Errors
///
/// See [`BuildError`].
pub fn build(store: &Store, reference: &Reference, request: &BuildRequest) -> Result<BuiltImage, BuildError> {
    let in_store = |source| BuildError::Store { source };
    let planned = plan::plan(request)?;
    let lease = store.lease().map_err(in_store)?;
    let mut layers = Vec::with_capacity(planned.len());
    let mut diff_ids = Vec::with_capacity(planned.len());
    let mut history = Vec::with_capacity(planned.len());
    for layer in planned {
        let (descriptor, diff_id) = write_to_store(store, &lease, &layer.entries, request)?;
        layers.push(descriptor);
        diff_ids.push(diff_id);
        history.push(layer.description);
    }
    let mut labels = request.labels.clone();
    labels.entry(LABEL_CREATED.to_owned()).or_insert_with(|| documents::rfc3339(request.timestamp_seconds));
    let facts = ConfigFacts {
        platform: &request.platform,
        labels: &labels,
        timestamp_seconds: request.timestamp_seconds,
        history: &history,
    };
    let config_bytes = documents::config(&facts, &diff_ids);
    let config = put_document(store, &lease, OCI_CONFIG, &config_bytes).map_err(in_store)?;
    let manifest_bytes = documents::manifest(&config, &layers);
    let manifest = put_document(store, &lease, OCI_MANIFEST, &manifest_bytes).map_err(in_store)?;
    store.tag(reference, &manifest.digest).map_err(in_store)?;
    let size_bytes = layers.iter().chain([&config, &manifest]).map(|descriptor| descriptor.size_bytes).sum();
    Ok(BuiltImage { digest: manifest.digest, size_bytes, layers })
}

/// Writes a layer as a blob of the store.
fn write_to_store(
    store: &Store,
    lease: &Lease,
    entries: &[plan::Entry],
    request: &BuildRequest,
) -> Result<(Descriptor, Digest), BuildError> {
    let in_store = |source| BuildError::Store { source };
    let writer = store.create(lease, Area::Blobs, Algorithm::Sha256).map_err(in_store)?;
    let mut buffered = BufWriter::with_capacity(WRITE_BUFFER_BYTES, writer);
    let written =
        layer_writer::write_layer(entries, request.timestamp_seconds, request.compression, &mut buffered);
    // Flushed by `write_layer` when it succeeded, and of no use when it failed.
    let (writer, _) = buffered.into_parts();
    let diff_id = match written {
        Ok(diff_id) => diff_id,
        Err(error) => return Err(writer.storage_full().map_or(error, in_store)),
    };
    let (digest, size_bytes) = writer.commit().map_err(in_store)?;
    let media_type = oci_layer(request.compression).to_owned();
    Ok((Descriptor { media_type, digest, size_bytes }, diff_id))
}

/// Puts a config or manifest into the store.
pub(crate) fn put_document(
    store: &Store,
    lease: &Lease,
    media_type: &str,
    bytes: &[u8],
) -> Result<Descriptor, StoreError> {
    let digest = store.put_blob(lease, bytes, Algorithm::Sha256)?;
    Ok(Descriptor { media_type: media_type.to_owned(), digest, size_bytes: bytes.len() as u64 })
}
