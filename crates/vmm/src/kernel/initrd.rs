//! What an initrd is. The kernel decides what it can unpack; so this only finds what cannot be one.

use std::io;
use std::path::Path;

use super::source::{Compression, FileSource, Source, bytes};
use super::{Fault, KernelError, Opened, bzimage, other, wrapped};

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
/// [`KernelError::ReadInitrd`] if the file cannot be read or is no regular file.
pub fn inspect_initrd(path: &Path) -> Result<InitrdKind, KernelError> {
    let read = |source| KernelError::ReadInitrd { path: path.to_owned(), source };
    match super::open_regular(path).map_err(read)? {
        Opened::File(file) => inspect_source(&mut FileSource::new(file)).map_err(read),
        Opened::Other(found) => {
            Err(read(io::Error::new(io::ErrorKind::InvalidInput, format!("it is {found}"))))
        }
    }
}

pub(super) fn inspect_source(source: &mut dyn Source) -> io::Result<InitrdKind> {
    if let Some(compression) = wrapped::compression(source, 0)? {
        return Ok(InitrdKind::Compressed(match compression {
            Compression::Gzip => "gzip",
            Compression::Zstd => "zstd",
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
    Ok(InitrdKind::Unknown {
        found: match other::describe(source)? {
            Fault::NotAKernel { found, .. } | Fault::OtherArchitecture { found } => found,
            Fault::Damaged(what) => format!("something damaged: {what}"),
            Fault::Read(error) | Fault::Unpack { source: error, .. } => return Err(error),
        },
    })
}
