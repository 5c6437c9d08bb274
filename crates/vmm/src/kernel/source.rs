//! Reading at given places of a file, of memory, or of a compressed stream.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::rc::Rc;

use super::{MAX_UNPACKED_BYTES, Wrapping};

/// Something with bytes at offsets.
pub(super) trait Source {
    /// Fills `buffer` from `offset` on as far as the source reaches; returns how much was filled.
    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;

    /// How many bytes there are, where that is known without reading them.
    fn length(&self) -> Option<u64> {
        None
    }
}

/// `N` bytes at `offset`, if the source reaches so far.
pub(super) fn bytes<const N: usize>(source: &mut dyn Source, offset: u64) -> io::Result<Option<[u8; N]>> {
    let mut buffer = [0; N];
    Ok((source.read_at(offset, &mut buffer)? == N).then_some(buffer))
}

/// At most `length` bytes at `offset`.
pub(super) fn up_to(source: &mut dyn Source, offset: u64, length: usize) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0; length];
    let filled = source.read_at(offset, &mut buffer)?;
    buffer.truncate(filled);
    Ok(buffer)
}

/// A regular file.
pub(super) struct FileSource(File);

impl FileSource {
    pub(super) fn new(file: File) -> Self {
        Self(file)
    }
}

impl Source for FileSource {
    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.0.read_at(&mut buffer[filled..], offset.saturating_add(filled as u64)) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // An offset that no file can have (from a wild header) is merely behind the end.
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => break,
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    fn length(&self) -> Option<u64> {
        self.0.metadata().ok().map(|metadata| metadata.len())
    }
}

/// Bytes in memory.
pub(super) struct BytesSource(pub(super) Vec<u8>);

impl Source for BytesSource {
    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let rest = usize::try_from(offset).ok().and_then(|offset| self.0.get(offset..)).unwrap_or_default();
        let length = rest.len().min(buffer.len());
        buffer[..length].copy_from_slice(&rest[..length]);
        Ok(length)
    }

    fn length(&self) -> Option<u64> {
        Some(self.0.len() as u64)
    }
}

/// A part of a source, read from its start to its end.
pub(super) struct PartReader {
    source: Rc<RefCell<Box<dyn Source>>>,
    position: u64,
    end: u64,
}

impl PartReader {
    pub(super) fn new(source: Box<dyn Source>, part: Range<u64>) -> Self {
        Self { source: Rc::new(RefCell::new(source)), position: part.start, end: part.end }
    }
}

impl Read for PartReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end.saturating_sub(self.position)).unwrap_or(usize::MAX);
        let length = left.min(buffer.len());
        let read = self.source.borrow_mut().read_at(self.position, &mut buffer[..length])?;
        self.position += read as u64;
        Ok(read)
    }
}

/// Reading compressed data failed; carried inside an [`io::Error`] to where the path is known.
#[derive(Debug, thiserror::Error)]
#[error("cannot unpack {wrapping}")]
pub(super) struct UnpackFailure {
    pub(super) wrapping: Wrapping,
    #[source]
    pub(super) cause: io::Error,
}

/// How a part of a source is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compression {
    Gzip,
    Zstd,
}

impl Compression {
    pub(super) fn wrapping(self) -> Wrapping {
        match self {
            Self::Gzip => Wrapping::Gzip,
            Self::Zstd => Wrapping::Zstd,
        }
    }
}

/// How much is unpacked at a time.
const BLOCK_BYTES: usize = 64 * 1024;

/// Windows of zstd above 2^27 bytes (128 MiB) are refused; the kernel's own build uses at most that.
const MAX_ZSTD_WINDOW_LOG: u32 = 27;

/// All passes over one compressed part together may unpack so much: a header that sends its reader back and
/// forth is not a kernel's.
const MAX_WORK_BYTES: u64 = 4 * MAX_UNPACKED_BYTES;

/// The unpacked form of a part of a source. Reading forwards unpacks; reading backwards starts again, except
/// in the first block, where headers are.
pub(super) struct UnpackedSource {
    packed: Rc<RefCell<Box<dyn Source>>>,
    start: u64,
    end: u64,
    compression: Compression,
    reader: Option<Box<dyn Read>>,
    /// The first block, once read.
    head: Vec<u8>,
    /// The block read last, and where it starts.
    block: Vec<u8>,
    block_start: u64,
    /// What has been unpacked in all passes.
    work_bytes: u64,
}

impl UnpackedSource {
    /// The unpacked form of `packed` from `start` to `end`.
    pub(super) fn new(packed: Box<dyn Source>, start: u64, end: u64, compression: Compression) -> Self {
        let packed = Rc::new(RefCell::new(packed));
        Self {
            packed,
            start,
            end,
            compression,
            reader: None,
            head: Vec::new(),
            block: Vec::new(),
            block_start: 0,
            work_bytes: 0,
        }
    }

    fn failure(&self, cause: io::Error) -> io::Error {
        match cause.downcast::<UnpackFailure>() {
            Ok(inner) => io::Error::other(inner), // of a wrapping further out: its words are the right ones
            Err(cause) => io::Error::other(UnpackFailure { wrapping: self.compression.wrapping(), cause }),
        }
    }

    fn begin(&self) -> io::Result<Box<dyn Read>> {
        let part = PartReader { source: Rc::clone(&self.packed), position: self.start, end: self.end };
        Ok(match self.compression {
            Compression::Gzip => Box::new(flate2::read::GzDecoder::new(part)),
            Compression::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::new(part)?.single_frame();
                decoder.window_log_max(MAX_ZSTD_WINDOW_LOG)?;
                Box::new(decoder)
            }
        })
    }

    /// Unpacks the next block; an empty one is the end.
    fn advance(&mut self) -> io::Result<()> {
        let mut reader = match self.reader.take() {
            Some(reader) => {
                self.block_start += self.block.len() as u64;
                reader
            }
            None => {
                self.block_start = 0;
                self.begin()?
            }
        };
        self.block.clear();
        reader.by_ref().take(BLOCK_BYTES as u64).read_to_end(&mut self.block)?;
        self.reader = Some(reader);
        self.work_bytes += self.block.len() as u64;
        if self.work_bytes > MAX_WORK_BYTES {
            return Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                "its headers lead back and forth too often",
            ));
        }
        if self.block_start + self.block.len() as u64 > MAX_UNPACKED_BYTES {
            return Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                format!("it unpacks to more than {} MiB", MAX_UNPACKED_BYTES >> 20),
            ));
        }
        if self.block_start == 0 {
            self.head.clone_from(&self.block);
        }
        Ok(())
    }
}

impl Source for UnpackedSource {
    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            let position = offset.saturating_add(filled as u64);
            let from_head =
                usize::try_from(position).ok().and_then(|at| self.head.get(at..)).unwrap_or_default();
            let in_block = position.checked_sub(self.block_start).and_then(|at| usize::try_from(at).ok());
            let from_block = in_block.and_then(|at| self.block.get(at..)).unwrap_or_default();
            let piece = if from_head.is_empty() { from_block } else { from_head };
            if piece.is_empty() {
                if position < self.block_start {
                    self.reader = None; // begins again
                } else if self.reader.is_some() && self.block.is_empty() {
                    break; // the end has been seen
                }
                self.advance().map_err(|error| self.failure(error))?;
                continue;
            }
            let length = piece.len().min(buffer.len() - filled);
            buffer[filled..filled + length].copy_from_slice(&piece[..length]);
            filled += length;
        }
        Ok(filled)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::io::Write;

    use super::*;

    #[test]
    fn reading_back_and_forth_has_an_end() {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(&vec![0; 5 * BLOCK_BYTES]).unwrap();
        let packed = encoder.finish().unwrap();
        let end = packed.len() as u64;
        let mut source = UnpackedSource::new(Box::new(BytesSource(packed)), 0, end, Compression::Gzip);
        let (near, far) = (BLOCK_BYTES as u64, 4 * BLOCK_BYTES as u64);
        for offset in [far, near, far] {
            assert_eq!(bytes(&mut source, offset).unwrap(), Some([0]), "{offset}");
        }
        source.work_bytes = MAX_WORK_BYTES - BLOCK_BYTES as u64;
        let failure = bytes::<1>(&mut source, near).unwrap_err().downcast::<UnpackFailure>().unwrap();
        assert_eq!(failure.wrapping, Wrapping::Gzip);
        assert_eq!(failure.cause.to_string(), "its headers lead back and forth too often");
    }
}
