//! The Linux/x86 boot protocol's setup header (Documentation/arch/x86/boot.rst of Linux; offsets are from
//! there).

use std::ops::Range;

use super::source::{Source, bytes, up_to};
use super::{Architecture, Fault, KernelFormat, KernelInfo, version};

/// The setup header's facts, as far as they matter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SetupHeader {
    /// Where the protected-mode code starts in the file, in bytes.
    code_start: u64,
    /// Length of the protected-mode code in units of 16 bytes.
    code_paragraphs: u32,
    /// Where the version text is, from 0x200; zero if there is none.
    version_offset: u16,
    is_64_bit: bool,
    /// Where the compressed kernel is, from the start of the protected-mode code; empty if the header does
    /// not tell.
    payload: Range<u64>,
}

/// `HdrS`, at 0x202.
const MAGIC: [u8; 4] = *b"HdrS";

/// Since this version of the protocol, `xloadflags` tells whether there is a 64-bit entry (Linux 3.8).
const PROTOCOL_WITH_64_BIT_FLAG: u16 = 0x020c;

/// Since this version of the protocol, `payload_offset` and `payload_length` tell where the kernel is (Linux
/// 2.6.26).
const PROTOCOL_WITH_PAYLOAD: u16 = 0x0208;

/// Where the header starts, and its length up to `payload_length`.
const START: usize = 0x1f1;
const LENGTH: usize = 0x250 - START;

impl SetupHeader {
    /// Reads the header; `None` if there is none.
    pub(super) fn read(source: &mut dyn Source) -> Result<Option<Self>, Fault> {
        if bytes(source, 0x202)? != Some(MAGIC) || bytes(source, 0x1fe)? != Some([0x55, 0xaa]) {
            return Ok(None);
        }
        let Some(header) = bytes::<LENGTH>(source, START as u64)? else {
            return Err(Fault::Damaged("it ends within its setup header".to_owned()));
        };
        let half = |offset: usize| u16::from_le_bytes([header[offset - START], header[offset - START + 1]]);
        let word = |offset: usize| u32::from(half(offset)) | u32::from(half(offset + 2)) << 16;
        let payload = match half(0x206) >= PROTOCOL_WITH_PAYLOAD {
            true => u64::from(word(0x248))..u64::from(word(0x248)) + u64::from(word(0x24c)),
            false => 0..0,
        };
        // Zero stands for four, for the sake of the oldest kernels.
        let setup_sectors = match header[0] {
            0 => 4,
            sectors => sectors,
        };
        Ok(Some(Self {
            code_start: (u64::from(setup_sectors) + 1) * 512,
            code_paragraphs: word(0x1f4),
            version_offset: half(0x20e),
            is_64_bit: half(0x206) >= PROTOCOL_WITH_64_BIT_FLAG && half(0x236) & 1 != 0,
            payload,
        }))
    }

    /// Where in the file the compressed kernel is, if the header tells and it is inside of the code.
    pub(super) fn payload(&self) -> Option<Range<u64>> {
        let code_bytes = u64::from(self.code_paragraphs) * 16;
        let fits = !self.payload.is_empty() && self.payload.end <= code_bytes;
        fits.then(|| self.code_start + self.payload.start..self.code_start + self.payload.end)
    }
}

/// Says what the bzImage is; `None` if it is none.
pub(super) fn inspect(source: &mut dyn Source) -> Result<Option<KernelInfo>, Fault> {
    let Some(header) = SetupHeader::read(source)? else {
        return Ok(None);
    };
    // The length is rounded up to 16 bytes, which the file need not be.
    let last_byte = header.code_start + (u64::from(header.code_paragraphs) * 16).saturating_sub(16);
    if bytes::<1>(source, last_byte)?.is_none() {
        let needed = header.code_start + u64::from(header.code_paragraphs) * 16;
        let has = source.length().map(|length| format!(" at {length}")).unwrap_or_default();
        return Err(Fault::Damaged(format!("its header announces {needed} bytes, and it ends before{has}")));
    }
    let banner = match header.version_offset {
        0 => None,
        offset => version::text(&up_to(source, u64::from(offset) + 0x200, version::MAX_BANNER_BYTES)?),
    };
    Ok(Some(KernelInfo {
        format: KernelFormat::BzImage,
        wrappings: Vec::new(),
        architecture: if header.is_64_bit { Architecture::X86_64 } else { Architecture::X86 },
        version: banner.as_deref().and_then(version::release),
        banner,
    }))
}
