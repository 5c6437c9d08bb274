//! Compression of archives and layers: known by their first bytes, since names and media types in the world are often wrong.

use std::io::{self, BufRead, Chain, Cursor, Read};

use flate2::bufread::MultiGzDecoder;

use crate::build::Compression;

/// Largest window of a zstd frame, as a power of two: 128 MiB, what `zstd --ultra -22` needs and what zstd's own
/// decompressor accepts unasked (`ZSTD_WINDOWLOG_LIMIT_DEFAULT`). The decoder holds a window in memory; the levels that
/// image builders use by default (3) need 2 MiB.
const ZSTD_WINDOW_LOG: u32 = 27;

/// Longest beginning below.
const MAGIC_BYTES: usize = 6;

/// Beginnings of files that are compressed, or packed at all, in a way that is not read here, for the error message.
const FOREIGN: &[(&[u8], &str)] =
    &[(b"BZh", "bzip2"), (b"\xfd7zXZ\0", "xz"), (b"\x04\x22\x4d\x18", "lz4"), (b"PK\x03\x04", "zip")];

/// How a stream is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Packing {
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
        _ => match FOREIGN.iter().find(|(magic, _)| start.starts_with(magic)) {
            Some((_, method)) => Packing::Unknown(method),
            None => Packing::Known(Compression::None),
        },
    }
}

/// A stream whose packing is known and whose first bytes are still to be read.
pub(crate) struct Packed<R> {
    pub(crate) packing: Packing,
    pub(crate) stream: Chain<Cursor<Vec<u8>>, R>,
}

impl<R: Read> Packed<R> {
    /// Looks at the beginning of `reader`, of which any part may come at first.
    ///
    /// # Errors
    ///
    /// When it cannot be read.
    pub(crate) fn new(mut reader: R) -> io::Result<Self> {
        let mut start = Vec::with_capacity(MAGIC_BYTES);
        reader.by_ref().take(MAGIC_BYTES as u64).read_to_end(&mut start)?;
        let packing = recognise(&start);
        Ok(Self { packing, stream: Cursor::new(start).chain(reader) })
    }
}

/// Decompresses a stream: all members of a gzip file, all frames of a zstd file.
pub(crate) enum Decoder<R: BufRead> {
    None(R),
    Gzip(Box<MultiGzDecoder<R>>),
    Zstd(zstd::stream::read::Decoder<'static, R>),
}

impl<R: BufRead> Decoder<R> {
    /// Takes a stream from its beginning.
    ///
    /// # Errors
    ///
    /// When there is not enough memory for a decoder.
    pub(crate) fn new(compression: Compression, reader: R) -> io::Result<Self> {
        Ok(match compression {
            Compression::None => Self::None(reader),
            Compression::Gzip => Self::Gzip(Box::new(MultiGzDecoder::new(reader))),
            Compression::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(reader)?;
                decoder.window_log_max(ZSTD_WINDOW_LOG)?;
                Self::Zstd(decoder)
            }
        })
    }
}

impl<R: BufRead> Read for Decoder<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::None(reader) => reader.read(buffer),
            Self::Gzip(decoder) => decoder.read(buffer),
            Self::Zstd(decoder) => decoder.read(buffer),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::io::{BufReader, Write};

    use super::*;

    fn unpacked(bytes: &[u8]) -> Result<Vec<u8>, &'static str> {
        // Every read gives one byte.
        let packed = Packed::new(BufReader::with_capacity(1, bytes)).unwrap();
        match packed.packing {
            Packing::Unknown(method) => Err(method),
            Packing::Known(compression) => {
                let mut read = Vec::new();
                Decoder::new(compression, packed.stream).unwrap().read_to_end(&mut read).unwrap();
                Ok(read)
            }
        }
    }

    #[test]
    fn a_compression_is_known_however_few_bytes_come_at_first() {
        let content = b"the content";
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(content).unwrap();
        let zstd = zstd::encode_all(&content[..], 1).unwrap();
        let skippable = [&[0x5a, 0x2a, 0x4d, 0x18, 1, 0, 0, 0, 0xff][..], &zstd].concat();
        for packed in [gzip.finish().unwrap(), zstd, skippable, content.to_vec()] {
            assert_eq!(unpacked(&packed).unwrap(), content);
        }
        for (magic, method) in FOREIGN {
            assert_eq!(unpacked(&[magic, &b"..."[..]].concat()), Err(*method));
        }
        // Shorter than any magic number.
        assert_eq!(unpacked(b"BZ").unwrap(), b"BZ");
        assert_eq!(unpacked(b"").unwrap(), b"");
    }
}
