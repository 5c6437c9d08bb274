//! From a bzImage to the kernel inside it, for its PVH entry.
//!
//! ```text
//! bzImage: setup code │ decompressor │ payload: packed (vmlinux ELF │ relocations) │ unpacked size │ ...
//!                                                       └─ up to the last byte that is loaded ─► file
//! ```
//!
//! Less the zeros at its end that the kernel clears or overwrites itself (`.bss`, `.brk`, scratch memory; `clear_bss` in
//! Linux's `arch/x86/kernel/head64.c`, as it may be entered with anything there). QEMU would copy them into the guest's
//! memory, 11 of 44 MB with Debian's 6.1 cloud kernel, and memory that is touched is most of what its start costs: of
//! twenty at once each took 84 ms of processor time without them, and 132 ms with them.
//!
//! This only saves time: the bzImage boots as well. So whatever is not exactly as expected is a reason to
//! leave the bzImage alone, and none to refuse it. The payload is unpacked in passing, with little memory: no
//! compression whose history is larger than [`MAX_WINDOW_BYTES`] is unpacked (of Linux's choices, that leaves
//! out xz, lzma, bzip2, lzo, and zstd as Linux's own build uses it).

use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::os::unix::fs::FileExt;

use super::bzimage::SetupHeader;
use super::elf::OwnZeros;
use super::source::{PartReader, Source, bytes};
use super::{Architecture, Fault, KernelFormat, KernelInfo, MAX_UNPACKED_BYTES, elf, lz4};

/// The history that a compression may refer to.
const MAX_WINDOW_BYTES: u64 = 8 << 20;

/// The payload ends with its unpacked size, which gzip has anyway and Linux's build appends to the others.
const SIZE_BYTES: u64 = 4;

/// Unpacked at a time; the ELF file's program headers are in the first block.
const BLOCK_BYTES: usize = 64 * 1024;

/// Pages of zeros become holes.
const PAGE_BYTES: usize = 4096;

/// So much of what is not loaded is looked at: section headers and their names have 3 KB.
const BEHIND_BYTES: usize = 64 * 1024;

/// Before this release, the PVH entry was for Xen's guests only.
const FIRST_RELEASE: u32 = 5;

/// Why a bzImage is left as it is.
#[derive(Debug, thiserror::Error)]
pub(super) enum ExtractError {
    /// The bzImage has no such kernel inside, or none that can be unpacked here: that stays so.
    #[error("{0}")]
    Unfit(&'static str),
    /// Its payload does not unpack.
    #[error("cannot unpack its payload")]
    Unpack(#[source] io::Error),
    /// The kernel cannot be written.
    #[error("cannot write the kernel inside")]
    Write(#[source] io::Error),
}

use ExtractError::{Unfit, Unpack, Write};

/// Whether `inside`, which was found in the bzImage that `outside` is about, is the same release and has the
/// entry.
pub(super) fn is_its_kernel(outside: &KernelInfo, inside: &KernelInfo) -> bool {
    inside.format == KernelFormat::ElfPvh && inside.version == outside.version
}

/// The packed kernel in a bzImage.
pub(super) struct Payload {
    packing: Packing,
    packed: PartReader,
    unpacked_bytes: u64,
}

impl Payload {
    /// Finds what the bzImage `source`, which `info` is about, has inside. Takes a few reads.
    pub(super) fn find(mut source: Box<dyn Source>, info: &KernelInfo) -> Result<Self, ExtractError> {
        if info.format != KernelFormat::BzImage || info.architecture != Architecture::X86_64 {
            return Err(Unfit("it is no 64-bit bzImage"));
        }
        let major = info.version.as_deref().and_then(|version| version.split('.').next()?.parse().ok());
        if major.is_none_or(|major: u32| major < FIRST_RELEASE) {
            return Err(Unfit("its release is unknown or older than the PVH entry"));
        }
        let header = SetupHeader::read(source.as_mut()).map_err(|fault| match fault {
            Fault::Read(error) => Unpack(error),
            _ => Unfit("its setup header is damaged"),
        })?;
        let Range { start, end } = header
            .and_then(|header| header.payload())
            .filter(|payload| payload.end - payload.start > 2 * SIZE_BYTES)
            .ok_or(Unfit("its setup header does not tell where its payload is"))?;
        let magic = bytes(source.as_mut(), start).map_err(Unpack)?;
        let size = bytes(source.as_mut(), end - SIZE_BYTES).map_err(Unpack)?;
        let (Some(magic), Some(size)) = (magic, size) else {
            return Err(Unfit("its payload is not all there"));
        };
        let (packing, end) = match magic {
            [0x1f, 0x8b, 8, _] => (Packing::Gzip, end),
            lz4::LEGACY_MAGIC => (Packing::Lz4, end - SIZE_BYTES),
            [0x28, 0xb5, 0x2f, 0xfd] => (Packing::Zstd, end - SIZE_BYTES),
            _ => return Err(Unfit("its payload is compressed in a way that is not unpacked here")),
        };
        let unpacked_bytes = u64::from(u32::from_le_bytes(size));
        if unpacked_bytes > MAX_UNPACKED_BYTES {
            return Err(Unfit("its payload is too large"));
        }
        Ok(Self { packing, packed: PartReader::new(source, start..end), unpacked_bytes })
    }

    /// Writes the ELF file inside to the empty file `to`, up to the last byte that is loaded and is not the kernel's own to
    /// clear, and returns its length. Whether that really is the bzImage's kernel with a PVH entry is for [`is_its_kernel`] to say.
    pub(super) fn extract(self, to: &File) -> Result<u64, ExtractError> {
        let mut reader = self.packing.open(self.packed)?;
        let mut block = vec![0; BLOCK_BYTES];
        let mut length = fill(reader.as_mut(), &mut block).map_err(Unpack)?;
        let end = elf::loaded_end(&block[..length])
            .filter(|end| *end <= self.unpacked_bytes)
            .ok_or(Unfit("its payload is no whole ELF executable for x86_64"))?;
        let head = block[..length].to_vec();
        elf::forget_sections(&mut block);
        to.set_len(end).map_err(Write)?;
        let (mut unpacked, mut written_to, mut behind) = (0, 0, Vec::new());
        while length > 0 && unpacked + length as u64 <= self.unpacked_bytes {
            let wanted = end.saturating_sub(unpacked).min(length as u64) as usize;
            written_to = write_pages(to, unpacked, &block[..wanted]).map_err(Write)?.unwrap_or(written_to);
            let room = BEHIND_BYTES - behind.len();
            behind.extend(block[wanted..length].iter().take(room));
            unpacked += length as u64;
            length = fill(reader.as_mut(), &mut block).map_err(Unpack)?;
        }
        if length > 0 || unpacked != self.unpacked_bytes {
            return Err(Unfit("its payload has not the size that it says"));
        }
        match OwnZeros::find(&head, end, &behind).filter(|zeros| written_to <= zeros.start) {
            Some(zeros) => {
                let (at, sizes) = zeros.new_sizes();
                to.write_all_at(&sizes, at).and_then(|()| to.set_len(zeros.start)).map_err(Write)?;
                Ok(zeros.start)
            }
            None => Ok(end),
        }
    }
}

/// How a payload is packed, of those ways that are unpacked here.
#[derive(Clone, Copy)]
enum Packing {
    Gzip,
    Lz4,
    Zstd,
}

impl Packing {
    fn open(self, packed: PartReader) -> Result<Box<dyn Read>, ExtractError> {
        Ok(match self {
            Self::Gzip => Box::new(flate2::read::GzDecoder::new(packed)),
            Self::Lz4 => Box::new(lz4::LegacyReader::new(packed)),
            Self::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::new(packed).map_err(Unpack)?.single_frame();
                decoder.window_log_max(MAX_WINDOW_BYTES.ilog2()).map_err(Unpack)?;
                Box::new(decoder)
            }
        })
    }
}

/// Reads until `block` is full or the data ends.
fn fill(reader: &mut dyn Read, block: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < block.len() {
        match reader.read(&mut block[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Writes `block` at `offset`, leaving out its pages of zeros. Returns where the last page that was written ends, if any was.
fn write_pages(to: &File, offset: u64, block: &[u8]) -> io::Result<Option<u64>> {
    let (mut at, mut written_to) = (0, None);
    while at < block.len() {
        let run = |from: usize, zero: bool| {
            let pages = block[from..].chunks(PAGE_BYTES).take_while(|page| is_zero(page) == zero);
            from + pages.map(<[u8]>::len).sum::<usize>()
        };
        let start = run(at, true);
        at = run(start, false);
        to.write_all_at(&block[start..at], offset + start as u64)?;
        if start < at {
            written_to = Some(offset + at as u64);
        }
    }
    Ok(written_to)
}

fn is_zero(page: &[u8]) -> bool {
    page.chunks(64).all(|piece| piece.iter().fold(0, |all, byte| all | byte) == 0)
}

#[cfg(test)]
mod tests;
