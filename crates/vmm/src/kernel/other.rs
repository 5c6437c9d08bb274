//! What a file is that is no kernel, in words for an error message.
//!
//! Recognised are the things that are given for a kernel by mistake: an initrd, a disk image, another
//! architecture's kernel, an EFI application, a failed download. Magic numbers are those of file(1) and of
//! the formats' own descriptions.

use std::io;

use super::Fault;
use super::source::{Source, bytes, up_to};

/// What a PE file (an EFI application) runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PeMachine {
    X86_64,
    Other(&'static str),
}

/// More sections than any EFI application has.
const MAX_SECTIONS: u16 = 96;

/// The machine of a PE file; `None` if it is none (PE format, "COFF file header").
pub(super) fn pe_machine(source: &mut dyn Source) -> io::Result<Option<PeMachine>> {
    let Some(header) = pe_header(source)? else {
        return Ok(None);
    };
    let Some(machine) = bytes(source, header + 4)? else {
        return Ok(None);
    };
    Ok(Some(match u16::from_le_bytes(machine) {
        0x8664 => PeMachine::X86_64,
        0x014c => PeMachine::Other("32-bit x86"),
        0xaa64 => PeMachine::Other("arm64"),
        0x01c0 | 0x01c2 | 0x01c4 => PeMachine::Other("32-bit ARM"),
        0x5032 | 0x5064 => PeMachine::Other("RISC-V"),
        0x6232 | 0x6264 => PeMachine::Other("LoongArch"),
        _ => PeMachine::Other("an unknown machine"),
    }))
}

/// Where the PE header is.
fn pe_header(source: &mut dyn Source) -> io::Result<Option<u64>> {
    if bytes(source, 0)? != Some(*b"MZ") {
        return Ok(None);
    }
    let Some(offset) = bytes(source, 0x3c)? else {
        return Ok(None);
    };
    let offset = u64::from(u32::from_le_bytes(offset));
    Ok((bytes(source, offset)? == Some(*b"PE\0\0")).then_some(offset))
}

/// Whether a PE file carries a kernel in a section (a unified kernel image).
fn is_unified_kernel_image(source: &mut dyn Source, header: u64) -> io::Result<bool> {
    let (Some(count), Some(optional_bytes)) = (bytes(source, header + 6)?, bytes(source, header + 20)?)
    else {
        return Ok(false);
    };
    let table = header + 24 + u64::from(u16::from_le_bytes(optional_bytes));
    for index in 0..u16::from_le_bytes(count).min(MAX_SECTIONS) {
        if bytes(source, table + u64::from(index) * 40)? == Some(*b".linux\0\0") {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A magic number at an offset, and what has it.
type Magic = (u64, &'static [u8], &'static str);

/// Compressed data that is not unpacked here.
const COMPRESSED: &[Magic] = &[
    (0, b"\xfd7zXZ\0", "xz"),
    (0, b"BZh", "bzip2"),
    (0, b"\x89LZO\0\r\n\x1a\n", "lzop"),
    (0, b"\x04\x22\x4d\x18", "lz4"),
    (0, b"\x02\x21\x4c\x18", "lz4"), // the legacy format, which the kernel takes for an initrd
    (0, b"]\0\0", "lzma"),
];

/// Archives of files that an initrd is made of.
const CPIO: &[&[u8]] = &[b"070701", b"070702", b"070707", b"\xc7\x71"];

/// File systems and disk images.
const DISKS: &[Magic] = &[
    (0, b"QFI\xfb", "a qcow2 disk image"),
    (0, b"KDMV", "a VMDK disk image"),
    (0, b"vhdxfile", "a VHDX disk image"),
    (0, b"conectix", "a VHD disk image"),
    (64, b"\x7f\x10\xda\xbe", "a VDI disk image"),
    (0, b"LUKS\xba\xbe", "an encrypted (LUKS) disk image"),
    (0, b"hsqs", "a squashfs file system image"),
    (0, b"XFSB", "an XFS file system image"),
    (1024, b"\xe2\xe1\xf5\xe0", "an EROFS file system image"),
    (0x438, b"\x53\xef", "an ext2, ext3 or ext4 file system image"),
    (0x1_0040, b"_BHRfS_M", "a btrfs file system image"),
    (0x8001, b"CD001", "an ISO 9660 (CD) image"),
    (0, b"\x45\x3d\xcd\x28", "a cramfs file system image"),
    (0, b"-rom1fs-", "a romfs file system image"),
    (512, b"EFI PART", "a partitioned disk image (GPT)"),
    (510, b"\x55\xaa", "a bootable disk image (MBR) or boot sector"),
];

/// Packages and containers of other kinds.
const CONTAINERS: &[Magic] = &[
    (257, b"ustar", "a tar archive"),
    (0, b"PK\x03\x04", "a zip archive"),
    (0, b"!<arch>\ndebian", "a Debian package"),
    (0, b"!<arch>\n", "a library archive"),
    (0, b"\xed\xab\xee\xdb", "an RPM package"),
    (0, b"\xd0\x0d\xfe\xed", "a device tree or FIT image"),
    (0, b"\x27\x05\x19\x56", "a U-Boot image (uImage)"),
    (0, b"\xcf\xfa\xed\xfe", "a macOS program"),
    (0, b"%PDF", "a PDF document"),
];

/// How much of a text is looked at.
const TEXT_BYTES: usize = 1024;

fn first(source: &mut dyn Source, magics: &[Magic]) -> io::Result<Option<&'static str>> {
    for (offset, magic, name) in magics {
        if up_to(source, *offset, magic.len())? == *magic {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

/// The file system or disk image that a source is.
pub(super) fn disk(source: &mut dyn Source) -> io::Result<Option<&'static str>> {
    first(source, DISKS)
}

/// The compression of a source that is not unpacked here.
pub(super) fn compressed(source: &mut dyn Source) -> io::Result<Option<&'static str>> {
    first(source, COMPRESSED)
}

/// Whether a cpio archive starts at `offset`.
pub(super) fn is_cpio(source: &mut dyn Source, offset: u64) -> io::Result<bool> {
    let start = up_to(source, offset, 6)?;
    Ok(CPIO.iter().any(|magic| start.starts_with(magic)))
}

/// Says what a source is that is neither a kernel nor wrapped.
pub(super) fn describe(source: &mut dyn Source) -> io::Result<Fault> {
    const GIVE: &str =
        "give a Linux kernel for x86_64: a bzImage (vmlinuz), or a vmlinux built with CONFIG_PVH";
    let start = up_to(source, 0, TEXT_BYTES)?;
    if start.is_empty() {
        return Ok(Fault::not_a_kernel(
            "an empty file",
            "the copy or the download that made it may have failed",
        ));
    }
    let foreign = |name: &str| Fault::OtherArchitecture { found: format!("an Image for {name}") };
    match bytes(source, 56)? {
        Some(magic) if magic == *b"ARM\x64" => return Ok(foreign("arm64")),
        Some(magic) if magic == *b"RSC\x05" => return Ok(foreign("RISC-V")),
        _ => {}
    }
    if bytes(source, 0x24)? == Some(0x016f_2818u32.to_le_bytes()) {
        return Ok(Fault::OtherArchitecture { found: "a zImage for 32-bit ARM".to_owned() });
    }
    if let Some(header) = pe_header(source)? {
        return pe_fault(source, header);
    }
    if is_cpio(source, 0)? {
        return Ok(Fault::not_a_kernel(
            "a cpio archive, which is what an initrd is",
            "give it as the initrd, and the kernel as the kernel",
        ));
    }
    if let Some(name) = compressed(source)? {
        return Ok(Fault::not_a_kernel(
            format!("{name}-compressed data"),
            "if a kernel is inside, unpack it first; if it is an initrd, give it as the initrd",
        ));
    }
    if let Some(name) = disk(source)? {
        let hint = "a disk image is not a kernel: take the kernel file out of it (usually /boot/vmlinuz)";
        return Ok(Fault::not_a_kernel(name, hint));
    }
    if let Some(name) = first(source, CONTAINERS)? {
        return Ok(Fault::not_a_kernel(name, "take the kernel file out of it (usually boot/vmlinuz)"));
    }
    Ok(match text_kind(&start) {
        Some((found, hint)) => Fault::NotAKernel { found, hint: Some(hint.unwrap_or(GIVE).to_owned()) },
        None => {
            let bytes: Vec<String> = start.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
            Fault::not_a_kernel(format!("data of no known kind (it starts with `{}`)", bytes.join(" ")), GIVE)
        }
    })
}

fn pe_fault(source: &mut dyn Source, header: u64) -> io::Result<Fault> {
    if let Some(PeMachine::Other(name)) = pe_machine(source)? {
        return Ok(Fault::OtherArchitecture { found: format!("an EFI application for {name}") });
    }
    Ok(if is_unified_kernel_image(source, header)? {
        Fault::not_a_kernel(
            "a unified kernel image, an EFI application with a kernel inside",
            "take the kernel out: `objcopy -O binary --only-section=.linux IMAGE vmlinuz` (and `.initrd` likewise)",
        )
    } else {
        Fault::not_a_kernel(
            "an EFI application without a Linux boot header",
            "it needs UEFI firmware; give the kernel itself, a bzImage (vmlinuz)",
        )
    })
}

/// What a text is; `None` for anything that is no text.
fn text_kind(start: &[u8]) -> Option<(String, Option<&'static str>)> {
    let text = match std::str::from_utf8(start) {
        Ok(text) => text,
        // A character may be cut off at the end of what was read.
        Err(error) if error.error_len().is_none() => {
            std::str::from_utf8(&start[..error.valid_up_to()]).ok()?
        }
        Err(_) => return None,
    };
    if text
        .chars()
        .any(|character| character.is_control() && !matches!(character, '\n' | '\r' | '\t' | '\x1b'))
    {
        return None;
    }
    let lower = text.trim_start().to_ascii_lowercase();
    if text.starts_with("#!") {
        return Some(("a script".to_owned(), None));
    }
    if text.starts_with("version https://git-lfs") {
        return Some((
            "a Git LFS pointer".to_owned(),
            Some("fetch the file that it points to with `git lfs pull`"),
        ));
    }
    if lower.starts_with("<!doctype html") || lower.starts_with("<html") {
        let hint = "the server that it was downloaded from answered with a page instead of the file";
        return Some(("an HTML page".to_owned(), Some(hint)));
    }
    let line: String = text.trim_start().lines().next().unwrap_or_default().chars().take(40).collect();
    Some((format!("a text that starts with `{}`", line.escape_debug()), None))
}
