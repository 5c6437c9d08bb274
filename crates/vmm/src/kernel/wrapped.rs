//! Kernels inside something else: gzip, zstd, EFI zboot.

use std::io;

use super::other::{PeMachine, pe_machine};
use super::source::{Compression, Source, UnpackedSource, bytes};
use super::{Fault, Wrapping};

/// A compressed part of a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Payload {
    /// What was recognised, outermost first.
    pub(super) wrappings: Vec<Wrapping>,
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) compression: Compression,
}

impl Payload {
    /// The payload of `source`, unpacked as it is read.
    pub(super) fn open(&self, source: Box<dyn Source>) -> Box<dyn Source> {
        Box::new(UnpackedSource::new(source, self.start, self.end, self.compression))
    }
}

/// `zimg`, at offset 4 (Linux, drivers/firmware/efi/libstub/zboot-header.S).
const ZBOOT_MAGIC: [u8; 4] = *b"zimg";

/// What may hold a kernel; `None` if nothing is recognised.
pub(super) fn recognise(source: &mut dyn Source) -> Result<Option<Payload>, Fault> {
    if bytes(source, 0)? == Some(*b"MZ") && bytes(source, 4)? == Some(ZBOOT_MAGIC) {
        return zboot(source).map(Some);
    }
    Ok(compression(source, 0)?.map(|compression| Payload {
        wrappings: vec![compression.wrapping()],
        start: 0,
        end: u64::MAX,
        compression,
    }))
}

/// The compression of what starts at `offset`, of those that can be unpacked here.
pub(super) fn compression(source: &mut dyn Source, offset: u64) -> io::Result<Option<Compression>> {
    Ok(match bytes::<4>(source, offset)? {
        Some([0x1f, 0x8b, 8, _]) => Some(Compression::Gzip),
        Some([0x28, 0xb5, 0x2f, 0xfd]) => Some(Compression::Zstd),
        _ => None,
    })
}

fn zboot(source: &mut dyn Source) -> Result<Payload, Fault> {
    if let Some(PeMachine::Other(name)) = pe_machine(source)? {
        return Err(Fault::OtherArchitecture { found: format!("an EFI zboot kernel for {name}") });
    }
    let Some(header) = bytes::<64>(source, 0)? else {
        return Err(Fault::Damaged("it ends within its EFI zboot header".to_owned()));
    };
    let word = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    let (start, length) = (u64::from(word(8)), u64::from(word(12)));
    let end = start + length;
    let name: Vec<u8> = header[24..56].iter().copied().take_while(|byte| *byte != 0).collect();
    let name = String::from_utf8_lossy(&name).into_owned();
    let compression = match name.as_str() {
        "gzip" => Compression::Gzip,
        "zstd" | "zstd22" => Compression::Zstd,
        _ => {
            return Err(Fault::not_a_kernel(
                format!(
                    "an EFI zboot kernel compressed with `{}`, which Ferrovirt does not unpack",
                    name.escape_debug()
                ),
                "give the kernel's bzImage or vmlinux, or build it with CONFIG_KERNEL_ZSTD or CONFIG_KERNEL_GZIP",
            ));
        }
    };
    if length == 0 || bytes::<1>(source, end - 1)?.is_none() {
        return Err(Fault::Damaged(format!(
            "its EFI zboot header places {length} bytes at {start}, and the file ends before that"
        )));
    }
    Ok(Payload { wrappings: vec![Wrapping::EfiZboot, compression.wrapping()], start, end, compression })
}

/// A fault of what is inside of `wrappings`, in words that say so.
pub(super) fn inside(wrappings: &[Wrapping], fault: Fault) -> Fault {
    if wrappings.is_empty() {
        return fault;
    }
    let names: Vec<String> = wrappings.iter().rev().map(Wrapping::to_string).collect();
    let within = format!("inside {}", names.join(" inside "));
    match fault {
        Fault::NotAKernel { found, hint } => Fault::NotAKernel { found: format!("{found}, {within}"), hint },
        Fault::OtherArchitecture { found } => {
            Fault::OtherArchitecture { found: format!("{found}, {within}") }
        }
        Fault::Damaged(what) => Fault::Damaged(format!("{within}, {what}")),
        fault @ (Fault::Read(_) | Fault::Unpack { .. }) => fault,
    }
}
