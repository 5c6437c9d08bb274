//! ELF files: which of them QEMU can boot, and what the others are.
//!
//! QEMU's `-kernel` enters an ELF file for x86-64 through the PVH entry point, which a note names
//! (Xen, public/elfnote.h, XEN_ELFNOTE_PHYS32_ENTRY; Linux has it with `CONFIG_PVH`).

use super::source::{BytesSource, Source, bytes, up_to};
use super::{Architecture, Fault, KernelFormat, KernelInfo, version};

const MAGIC: [u8; 4] = *b"\x7fELF";

/// More program headers than any kernel has.
const MAX_PROGRAM_HEADERS: u16 = 64;

/// Notes beyond this many bytes of a segment are not looked at.
const MAX_NOTE_BYTES: usize = 256 * 1024;

/// The note's owner and type.
const XEN_OWNER: &[u8] = b"Xen\0";
const PHYS32_ENTRY: u32 = 18;

/// A multiboot header is within so many bytes (Multiboot specification 3.1.1).
const MULTIBOOT_SEARCH_BYTES: usize = 8192;

/// Of 64-bit ELF files.
const PROGRAM_HEADER_BYTES: usize = 56;
const SECTION_HEADER_BYTES: usize = 64;

const SHT_NOBITS: u32 = 8;
const PT_LOAD: u32 = 1;
const PT_INTERP: u32 = 3;
const PT_NOTE: u32 = 4;
const ET_REL: u16 = 1;
const ET_EXEC: u16 = 2;
const ET_DYN: u16 = 3;
const ET_CORE: u16 = 4;
const EM_386: u16 = 3;
const EM_X86_64: u16 = 62;

/// Names of machines that kernels are built for (ELF's `e_machine`).
fn machine_name(machine: u16) -> String {
    match machine {
        2 | 18 | 43 => "SPARC",
        EM_386 => "x86",
        8 => "MIPS",
        20 | 21 => "PowerPC",
        22 => "IBM Z (s390)",
        40 => "ARM",
        EM_X86_64 => "x86_64",
        183 => "arm64",
        243 => "RISC-V",
        258 => "LoongArch",
        other => return format!("machine {other}"),
    }
    .to_owned()
}

/// One program header, as far as it matters.
#[derive(Debug, Clone, Copy)]
struct Segment {
    kind: u32,
    offset: u64,
    size: u64,
    alignment: u64,
}

/// Says what kernel the ELF file is; `None` if it is no ELF file.
pub(super) fn inspect(source: &mut dyn Source) -> Result<Option<KernelInfo>, Fault> {
    let head = up_to(source, 0, 64)?;
    if !head.starts_with(&MAGIC) {
        return Ok(None);
    }
    if head.len() < 64 {
        return Err(Fault::Damaged("it ends within its ELF header".to_owned()));
    }
    let is_64_bit = head[4] == 2;
    let half = |offset: usize| match head[5] {
        2 => u16::from_be_bytes([head[offset], head[offset + 1]]),
        _ => u16::from_le_bytes([head[offset], head[offset + 1]]),
    };
    let (kind, machine) = (half(16), half(18));
    if multiboot(source)? {
        return Err(Fault::not_a_kernel(
            "a multiboot kernel, which starts otherwise than Linux",
            "give a Linux kernel: a bzImage, or a vmlinux built with CONFIG_PVH",
        ));
    }
    if machine != EM_X86_64 || !is_64_bit {
        let bits = if is_64_bit { 64 } else { 32 };
        let found = format!("a {bits}-bit ELF file for {}", machine_name(machine));
        return Err(Fault::OtherArchitecture { found });
    }
    let segments = segments(source, &head)?;
    for segment in segments.iter().filter(|segment| segment.kind == PT_NOTE) {
        if has_entry_note(source, segment)? {
            let banner = version::search(source)?;
            check_end(source, &segments)?;
            return Ok(Some(KernelInfo {
                format: KernelFormat::ElfPvh,
                wrappings: Vec::new(),
                architecture: Architecture::X86_64,
                version: banner.as_deref().and_then(version::release),
                banner,
            }));
        }
    }
    Err(not_bootable(source, kind, &segments)?)
}

/// Up to where a file is loaded that starts with `head`: nothing behind that matters to a loader. `None` if
/// it is no executable for x86-64, or its program headers are not all in `head`.
pub(super) fn loaded_end(head: &[u8]) -> Option<u64> {
    let header =
        head.get(..64).filter(|header| header.starts_with(&MAGIC) && header[4] == 2 && header[5] == 1)?;
    let half = |offset: usize| u16::from_le_bytes([header[offset], header[offset + 1]]);
    if half(16) != ET_EXEC || half(18) != EM_X86_64 || half(56) > MAX_PROGRAM_HEADERS {
        return None;
    }
    let segments = segments(&mut BytesSource(head.to_vec()), header).ok()?;
    let loaded = segments.iter().filter(|segment| segment.kind == PT_LOAD && segment.size > 0);
    loaded.map(|segment| segment.offset.saturating_add(segment.size)).max()
}

/// The zeros at the end of a kernel that it clears or overwrites itself before it uses them: its `.bss` and what is behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct OwnZeros {
    /// Where they begin in the file, and where the last segment can end.
    pub start: u64,
    /// What is left of that segment, in bytes.
    left: u64,
    /// Where its program header is in the file.
    header: usize,
}

impl OwnZeros {
    /// Finds them by the section headers, in a file that starts with `head`, is loaded up to `end` (see [`loaded_end`]), and
    /// goes on with `behind`. Whether they are zeros is for the caller to see. `None` where sections do not tell.
    pub fn find(head: &[u8], end: u64, behind: &[u8]) -> Option<Self> {
        let word =
            |bytes: &[u8], at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        let long =
            |bytes: &[u8], at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
        let half = |at: usize| Some(usize::from(u16::from_le_bytes(head.get(at..at + 2)?.try_into().ok()?)));
        let behind_at = |offset: u64| behind.get(usize::try_from(offset.checked_sub(end)?).ok()?..);
        let sections = behind_at(long(head, 40)?)?;
        if half(58)? != SECTION_HEADER_BYTES {
            return None;
        }
        let mut sections = sections.chunks_exact(SECTION_HEADER_BYTES).take(half(60)?);
        let names = behind_at(long(sections.clone().nth(half(62)?)?, 24)?)?;
        let bss = sections.find(|section| {
            let name = word(section, 0).and_then(|at| names.get(usize::try_from(at).ok()?..));
            name.is_some_and(|name| name.starts_with(b".bss\0")) && word(section, 4) == Some(SHT_NOBITS)
        })?;
        let address = long(bss, 16)?;
        let headers = usize::try_from(long(head, 32)?).ok()?;
        (0..half(56)?).map(|index| headers.saturating_add(index * PROGRAM_HEADER_BYTES)).find_map(|header| {
            let segment = head.get(header..header.checked_add(PROGRAM_HEADER_BYTES)?)?;
            let (offset, size) = (long(segment, 8)?, long(segment, 32)?);
            let left = address.checked_sub(long(segment, 16)?).filter(|left| (1..size).contains(left))?;
            let is_last = word(segment, 0)? == PT_LOAD && offset.checked_add(size)? == end;
            is_last.then_some(Self { start: offset + left, left, header })
        })
    }

    /// Where and with what the file's last segment is made to end before them.
    pub fn new_sizes(&self) -> (u64, [u8; 16]) {
        let mut sizes = [0; 16];
        // p_filesz, p_memsz
        sizes[..8].copy_from_slice(&self.left.to_le_bytes());
        sizes[8..].copy_from_slice(&self.left.to_le_bytes());
        (self.header as u64 + 32, sizes)
    }
}

/// Takes out of the header in `head` where section headers are, for a file that ends before them.
pub(super) fn forget_sections(head: &mut [u8]) {
    head[40..48].fill(0); // e_shoff
    head[60..64].fill(0); // e_shnum, e_shstrndx
}

fn not_bootable(source: &mut dyn Source, kind: u16, segments: &[Segment]) -> Result<Fault, Fault> {
    let give = "give a Linux kernel: a bzImage (vmlinuz), or a vmlinux built with CONFIG_PVH";
    let is_program = segments.iter().any(|segment| segment.kind == PT_INTERP);
    let found = match kind {
        ET_REL => "an ELF object file, such as a kernel module",
        ET_CORE => "a core dump",
        ET_EXEC | ET_DYN if is_program => "an ELF program",
        ET_DYN => "an ELF shared object",
        _ => {
            return Ok(match version::search(source)? {
                Some(banner) => Fault::not_a_kernel(
                    format!("`{}` as an ELF file without a PVH entry note", banner_head(&banner)),
                    "build it with CONFIG_PVH=y, or give its bzImage (arch/x86/boot/bzImage)",
                ),
                None => Fault::not_a_kernel("an ELF executable without a PVH entry note", give),
            });
        }
    };
    Ok(Fault::not_a_kernel(found, give))
}

fn banner_head(banner: &str) -> String {
    match version::release(banner) {
        Some(release) => format!("Linux {release}"),
        None => "Linux".to_owned(),
    }
}

/// The program headers of a 64-bit little-endian file whose header is `head`.
fn segments(source: &mut dyn Source, head: &[u8]) -> Result<Vec<Segment>, Fault> {
    let mut table = [0; 8];
    table.copy_from_slice(&head[32..40]);
    let table = u64::from_le_bytes(table);
    let entry_bytes = u16::from_le_bytes([head[54], head[55]]);
    let count = u16::from_le_bytes([head[56], head[57]]).min(MAX_PROGRAM_HEADERS);
    let mut segments = Vec::new();
    if count > 0 && entry_bytes != 56 {
        return Err(Fault::Damaged(format!("its ELF program headers have {entry_bytes} bytes each, not 56")));
    }
    for index in 0..u64::from(count) {
        let Some(entry) = bytes::<56>(source, table.saturating_add(index * 56))? else {
            return Err(Fault::Damaged("it ends before its ELF program headers".to_owned()));
        };
        let long = |offset: usize| {
            let mut value = [0; 8];
            value.copy_from_slice(&entry[offset..offset + 8]);
            u64::from_le_bytes(value)
        };
        segments.push(Segment {
            kind: u32::from_le_bytes([entry[0], entry[1], entry[2], entry[3]]),
            offset: long(8),
            size: long(32),
            alignment: long(48),
        });
    }
    Ok(segments)
}

/// Checks that everything is there that is to be loaded.
fn check_end(source: &mut dyn Source, segments: &[Segment]) -> Result<(), Fault> {
    let loaded = segments.iter().filter(|segment| segment.kind == PT_LOAD && segment.size > 0);
    match loaded.map(|segment| segment.offset.saturating_add(segment.size)).max() {
        Some(end) if bytes::<1>(source, end - 1)?.is_none() => {
            let has = source.length().map(|length| format!(" at {length}")).unwrap_or_default();
            Err(Fault::Damaged(format!("its ELF header announces {end} bytes, and it ends before{has}")))
        }
        _ => Ok(()),
    }
}

/// Whether the notes of `segment` name the PVH entry point.
fn has_entry_note(source: &mut dyn Source, segment: &Segment) -> Result<bool, Fault> {
    let length = usize::try_from(segment.size).unwrap_or(MAX_NOTE_BYTES).min(MAX_NOTE_BYTES);
    let notes = up_to(source, segment.offset, length)?;
    let alignment = if segment.alignment == 8 { 8 } else { 4 };
    let word = |at: usize| {
        notes.get(at..at + 4).map(|bytes| u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    };
    let mut at = 0;
    while let (Some(name_bytes), Some(content_bytes), Some(kind)) = (word(at), word(at + 4), word(at + 8)) {
        let name_start = at + 12;
        let content_start = name_start.saturating_add((name_bytes as usize).next_multiple_of(alignment));
        if kind == PHYS32_ENTRY && notes.get(name_start..name_start + 4) == Some(XEN_OWNER) && name_bytes == 4
        {
            return Ok(true);
        }
        at = content_start.saturating_add((content_bytes as usize).next_multiple_of(alignment));
        if at > notes.len() {
            break;
        }
    }
    Ok(false)
}

/// Whether there is a multiboot header (version 1 or 2): magic number, flags and a checksum that makes the
/// sum zero.
fn multiboot(source: &mut dyn Source) -> Result<bool, Fault> {
    let start = up_to(source, 0, MULTIBOOT_SEARCH_BYTES)?;
    let words: Vec<u32> =
        start.chunks_exact(4).map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]])).collect();
    let sums_to_zero = |words: &[u32]| words.iter().fold(0u32, |sum, word| sum.wrapping_add(*word)) == 0;
    Ok(words.windows(4).any(|four| match four[0] {
        0x1bad_b002 => sums_to_zero(&four[..3]),
        0xe852_50d6 => sums_to_zero(four),
        _ => false,
    }))
}
