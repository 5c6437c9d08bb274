//! Compression of archives and of the layers in them, known by their first bytes.

use std::fs::File;
use std::io::{self, BufReader, Read, Write};

use flate2::bufread::MultiGzDecoder;

use crate::build::Compression;
use crate::store::{Store, StoreError};

/// Longest magic number below.
const MAGIC_BYTES: usize = 6;

/// How a stream is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Packing {
    /// By a method that is read here, or not at all.
    Known(Compression),
    /// By one that is not; its name.
    Unknown(&'static str),
}

/// Tells the packing from the first bytes of a stream.
fn recognise(start: &[u8]) -> Packing {
    match start {
        [0x1f, 0x8b, ..] => Packing::Known(Compression::Gzip),
        // A frame of data, or one to be skipped as pzstd and zstd:chunked write them.
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => {
            Packing::Known(Compression::Zstd)
        }
        [0xfd, b'7', b'z', b'X', b'Z', ..] => Packing::Unknown("xz"),
        [b'B', b'Z', b'h', ..] => Packing::Unknown("bzip2"),
        _ => Packing::Known(Compression::None),
    }
}

/// A stream whose packing is known and whose first bytes are still to be read.
pub(super) struct Packed<R> {
    pub(super) packing: Packing,
    stream: io::Chain<io::Cursor<Vec<u8>>, R>,
}

impl<R: Read> Packed<R> {
    /// Looks at the beginning of `reader`.
    ///
    /// # Errors
    ///
    /// When it cannot be read.
    pub(super) fn new(mut reader: R) -> io::Result<Self> {
        let mut start = Vec::with_capacity(MAGIC_BYTES);
        (&mut reader).take(MAGIC_BYTES as u64).read_to_end(&mut start)?;
        let packing = recognise(&start);
        Ok(Self { packing, stream: io::Cursor::new(start).chain(reader) })
    }

    /// The stream as it is.
    pub(super) fn raw(self) -> impl Read {
        self.stream
    }
}

/// Decompresses what `reader` yields. Reads no further than needed, so what follows the compressed data is
/// left.
///
/// # Errors
///
/// When there is not enough memory for a decoder.
pub(super) fn decoder<'a, R: Read + 'a>(
    compression: Compression,
    reader: R,
) -> io::Result<Box<dyn Read + 'a>> {
    Ok(match compression {
        Compression::None => Box::new(reader),
        Compression::Gzip => Box::new(MultiGzDecoder::new(BufReader::new(reader))),
        Compression::Zstd => Box::new(zstd::stream::read::Decoder::new(reader)?),
    })
}

/// Why a stream was not spooled.
#[derive(Debug)]
pub(super) enum SpoolError {
    /// More than the limit came out of it.
    TooLarge,
    /// It cannot be read or decompressed.
    Read(io::Error),
    /// The spool cannot be written.
    Store(StoreError),
}

/// Copies a stream into a file without a name in the store, which is gone when it is closed, whatever happens.
pub(super) fn spool(store: &Store, mut reader: impl Read, limit_bytes: u64) -> Result<File, SpoolError> {
    let mut file = store.nameless_file().map_err(SpoolError::Store)?;
    let mut buffer = vec![0_u8; 64 * 1024];
    let mut copied_bytes: u64 = 0;
    loop {
        let count = match reader.read(&mut buffer) {
            Ok(0) => return Ok(file),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(SpoolError::Read(error)),
        };
        copied_bytes += count as u64;
        if copied_bytes > limit_bytes {
            return Err(SpoolError::TooLarge);
        }
        file.write_all(&buffer[..count])
            .map_err(|source| SpoolError::Store(store.write_error("write", store.root(), None, source)))?;
    }
}
