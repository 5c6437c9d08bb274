//! Writes one planned layer as a tar stream, compressed.
//!
//! ```text
//! entries ──► tar ──► hash (diff id) ──► compressor ──► destination
//! ```
//!
//! The stream holds nothing but the plan and the files' bytes: no time but the given one, no names of users,
//! no device numbers, and the compressors run single-threaded at a fixed level, so equal inputs give equal
//! bytes.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use flate2::GzBuilder;
use rustix::fs::OFlags;

use super::plan::{Content, Entry};
use super::{BuildError, Compression};
use crate::digest::{Algorithm, Digest, Hasher};

/// Gzip's own default; higher levels gain under 1 % on kernels and modules, which are compressed already.
const GZIP_LEVEL: u32 = 6;

/// Zstandard's own default.
const ZSTD_LEVEL: i32 = 3;

/// The longest link target that fits a tar header's own field (POSIX ustar, `linkname`).
const MAX_PLAIN_LINK_BYTES: usize = 100;

/// Writes `entries` to `destination`, each with the modification time `timestamp_seconds`. Returns the
/// layer's diff id, the digest of the uncompressed stream.
///
/// # Errors
///
/// A source that cannot be read or that changes its size meanwhile; a destination that cannot be written.
pub(super) fn write_layer(
    entries: &[Entry],
    timestamp_seconds: u64,
    compression: Compression,
    destination: &mut dyn Write,
) -> Result<Digest, BuildError> {
    let written = |source| BuildError::WriteLayer { source };
    let diff_id = match compression {
        Compression::None => write_tar(entries, timestamp_seconds, destination)?,
        Compression::Gzip => {
            // Neither a time nor a file name in gzip's header.
            let level = flate2::Compression::new(GZIP_LEVEL);
            let mut encoder = GzBuilder::new().mtime(0).write(&mut *destination, level);
            let diff_id = write_tar(entries, timestamp_seconds, &mut encoder)?;
            encoder.finish().map_err(written)?;
            diff_id
        }
        Compression::Zstd => {
            let mut encoder =
                zstd::stream::write::Encoder::new(&mut *destination, ZSTD_LEVEL).map_err(written)?;
            encoder.include_checksum(true).map_err(written)?;
            let diff_id = write_tar(entries, timestamp_seconds, &mut encoder)?;
            encoder.finish().map_err(written)?;
            diff_id
        }
    };
    destination.flush().map_err(written)?;
    Ok(diff_id)
}

/// Writes the plain tar stream and returns its digest.
fn write_tar(entries: &[Entry], timestamp_seconds: u64, out: &mut dyn Write) -> Result<Digest, BuildError> {
    let mut builder = tar::Builder::new(HashingWriter::new(out));
    for entry in entries {
        append(&mut builder, entry, timestamp_seconds)?;
    }
    let tar = builder.into_inner().map_err(|source| BuildError::WriteLayer { source })?;
    Ok(tar.hasher.finish())
}

fn append<W: Write>(
    builder: &mut tar::Builder<W>,
    entry: &Entry,
    timestamp_seconds: u64,
) -> Result<(), BuildError> {
    let written = |source| BuildError::WriteLayer { source };
    let mut header = tar::Header::new_gnu();
    header.set_mode(entry.mode);
    header.set_uid(entry.uid.into());
    header.set_gid(entry.gid.into());
    header.set_mtime(timestamp_seconds);
    header.set_size(0);
    match &entry.content {
        Content::Directory => {
            header.set_entry_type(tar::EntryType::Directory);
            // By convention a directory's name ends with a slash; readers of old formats know it by that
            // alone.
            let mut name = entry.path.clone().into_os_string();
            name.push("/");
            builder.append_data(&mut header, name, io::empty()).map_err(written)
        }
        Content::Symlink { target } => {
            header.set_entry_type(tar::EntryType::Symlink);
            let bytes = target.as_os_str().as_bytes();
            if bytes.len() <= MAX_PLAIN_LINK_BYTES {
                // Byte for byte: the other setter rewrites `./x` and `a//b`.
                header.set_link_name_literal(bytes).map_err(written)?;
                builder.append_data(&mut header, &entry.path, io::empty()).map_err(written)
            } else {
                builder.append_link(&mut header, &entry.path, target).map_err(written)
            }
        }
        Content::File { source, size_bytes } => {
            header.set_entry_type(tar::EntryType::Regular);
            header.set_size(*size_bytes);
            let mut reader = SourceReader::open(source, *size_bytes)?;
            let result = builder.append_data(&mut header, &entry.path, &mut reader);
            // What the reader noticed tells more than the copy's failure that it led to.
            reader.finish()?;
            result.map_err(written)
        }
    }
}

/// Reads exactly the announced number of bytes from a source file and remembers what went wrong: the tar
/// builder would pass on a bare I/O error that does not tell a source that failed from a destination that
/// did.
struct SourceReader<'a> {
    path: &'a Path,
    file: File,
    left_bytes: u64,
    failure: Option<BuildError>,
}

impl<'a> SourceReader<'a> {
    fn open(path: &'a Path, size_bytes: u64) -> Result<Self, BuildError> {
        let read_error = |source| BuildError::Read { path: path.to_owned(), source };
        // Non-blocking, so that a file replaced by a named pipe since it was planned does not hang the build.
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
            .open(path)
            .map_err(read_error)?;
        let metadata = file.metadata().map_err(read_error)?;
        if !metadata.is_file() || metadata.len() != size_bytes {
            return Err(BuildError::Changed { path: path.to_owned() });
        }
        Ok(Self { path, file, left_bytes: size_bytes, failure: None })
    }

    fn finish(mut self) -> Result<(), BuildError> {
        if let Some(failure) = self.failure.take() {
            return Err(failure);
        }
        if self.left_bytes > 0 {
            // The destination failed first; its own error is reported by the caller.
            return Ok(());
        }
        let mut one_more = [0_u8; 1];
        match self.file.read(&mut one_more) {
            Ok(0) => Ok(()),
            Ok(_) => Err(BuildError::Changed { path: self.path.to_owned() }),
            Err(source) => Err(BuildError::Read { path: self.path.to_owned(), source }),
        }
    }
}

impl Read for SourceReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left_bytes == 0 || buffer.is_empty() {
            return Ok(0);
        }
        let wanted = buffer.len().min(usize::try_from(self.left_bytes).unwrap_or(usize::MAX));
        match self.file.read(&mut buffer[..wanted]) {
            Ok(0) => {
                self.failure = Some(BuildError::Changed { path: self.path.to_owned() });
                Err(io::ErrorKind::UnexpectedEof.into())
            }
            Ok(count) => {
                self.left_bytes -= count as u64;
                Ok(count)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Err(error),
            Err(error) => {
                let kind = error.kind();
                self.failure = Some(BuildError::Read { path: self.path.to_owned(), source: error });
                Err(kind.into())
            }
        }
    }
}

/// Hashes what passes through it.
struct HashingWriter<W> {
    inner: W,
    hasher: Hasher,
}

impl<W: Write> HashingWriter<W> {
    fn new(inner: W) -> Self {
        Self { inner, hasher: Hasher::new(Algorithm::Sha256) }
    }
}

impl<W: Write> Write for HashingWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
