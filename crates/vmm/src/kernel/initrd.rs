//! What an initrd is. The kernel decides what it can unpack; so this only finds what cannot be one.

use std::path::Path;

use super::source::{FileSource, Source, bytes};
use super::{Fault, KernelError, bzimage, other, wrapped};

/// What a file given as initrd is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InitrdKind {
    /// A cpio archive, possibly with more behind it.
    Cpio,
    /// Compressed with this method; the kernel needs it built in (`CONFIG_RD_GZIP` and so on).
    Compressed(&'static str),
    /// A file system image, which the kernel takes as a RAM disk with `CONFIG_BLK_DEV_RAM`.
    FileSystem(&'static str),
    /// Not an initrd as far as can be told; worth a warning.
    Unknown {
        /// What it is, with its article.
        found: String,
    },
}

/// The kernel skips zeros in front of an archive; so many are skipped here.
const MAX_PADDING_BYTES: u64 = 4096;

/// Says what a file given as initrd is.
///
/// # Errors
///
/// [`KernelError::Read`] if the file cannot be read; [`KernelError::NotAKernel`] if it is no regular file.
pub fn inspect_initrd(path: &Path) -> Result<InitrdKind, KernelError> {
    inspect_source(&mut FileSource::new(super::open(path)?)).map_err(|fault| fault.at(path))
}

pub(super) fn inspect_source(source: &mut dyn Source) -> Result<InitrdKind, Fault> {
    if let Some(compression) = wrapped::compression(source, 0)? {
        return Ok(InitrdKind::Compressed(match compression {
            super::source::Compression::Gzip => "gzip",
            super::source::Compression::Zstd => "zstd",
        }));
    }
    if let Some(name) = other::compressed(source)? {
        return Ok(InitrdKind::Compressed(name));
    }
    let mut start = 0;
    while start < MAX_PADDING_BYTES && bytes(source, start)? == Some([0; 4]) {
        start += 4;
    }
    if other::is_cpio(source, start)? {
        return Ok(InitrdKind::Cpio);
    }
    if bzimage::SetupHeader::read(source).is_ok_and(|header| header.is_some()) {
        return Ok(InitrdKind::Unknown { found: "a kernel (bzImage)".to_owned() });
    }
    if bytes(source, 0)? == Some(*b"\x7fELF") {
        return Ok(InitrdKind::Unknown { found: "an ELF file".to_owned() });
    }
    if let Some(name) = other::disk(source)? {
        return Ok(InitrdKind::FileSystem(name));
    }
    match other::describe(source)? {
        Fault::NotAKernel { found, .. } | Fault::OtherArchitecture { found } => {
            Ok(InitrdKind::Unknown { found })
        }
        fault => Err(fault),
    }
}
