//! How a layer is compressed: found out from its first bytes, since media types in the world are often wrong.

use std::io::{self, BufRead, Read};

use flate2::bufread::MultiGzDecoder;

use super::LayerError;

/// Largest window of a zstd frame, as a power of two: 128 MiB, what `zstd --ultra -22` needs and what zstd's own
/// decompressor accepts unasked (`ZSTD_WINDOWLOG_LIMIT_DEFAULT`). The decoder holds a window in memory; the levels that
/// image builders use by default (3) need 2 MiB.
const ZSTD_WINDOW_LOG: u32 = 27;

/// The longest beginning that is looked at.
const MAGIC_BYTES: usize = 6;

/// Beginnings of compressed files that are not layers, for the error message.
const FOREIGN: &[(&[u8], &str)] =
    &[(b"BZh", "bzip2"), (b"\xfd7zXZ\0", "xz"), (b"\x04\x22\x4d\x18", "lz4"), (b"PK\x03\x04", "zip")];

/// The uncompressed data of a layer.
pub(super) fn open<'a>(
    mut source: impl BufRead + Send + 'a,
) -> Result<Box<dyn Read + Send + 'a>, LayerError> {
    let broken = |source: io::Error| LayerError::Broken { offset_bytes: 0, source };
    // A layer that is just arriving may have come to its first byte only.
    let mut start = Vec::with_capacity(MAGIC_BYTES);
    source.by_ref().take(MAGIC_BYTES as u64).read_to_end(&mut start).map_err(broken)?;
    let source = io::Cursor::new(start.clone()).chain(source);
    if start.starts_with(&[0x1f, 0x8b]) {
        return Ok(Box::new(MultiGzDecoder::new(source)));
    }
    let is_skippable = start.len() >= 4 && start[0] & 0xf0 == 0x50 && start[1..4] == [0x2a, 0x4d, 0x18];
    if is_skippable || start.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        let mut decoder = zstd::stream::read::Decoder::with_buffer(source).map_err(broken)?;
        decoder.window_log_max(ZSTD_WINDOW_LOG).map_err(broken)?;
        return Ok(Box::new(decoder));
    }
    if let Some((_, compression)) = FOREIGN.iter().find(|(magic, _)| start.starts_with(magic)) {
        return Err(LayerError::UnknownCompression { compression });
    }
    Ok(Box::new(source))
}
