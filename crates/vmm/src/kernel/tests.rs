#![allow(clippy::unwrap_used)]
use std::io::Write;

use proptest::prelude::*;

use super::source::BytesSource;
use super::*;

const RELEASE: &str = "6.1.2-test";
const BANNER: &str = "6.1.2-test (builder@host) #1 SMP";

/// Little-endian bytes written over `bytes` at an offset.
pub(super) fn put(bytes: &mut [u8], offset: usize, value: &[u8]) {
    bytes[offset..offset + value.len()].copy_from_slice(value);
}

/// A bzImage as the boot protocol describes it: two setup sectors, one KiB of code.
fn bz_image() -> Vec<u8> {
    let mut image = vec![0x90; 3 * 512 + 1024];
    put(&mut image, 0, b"MZ");
    put(&mut image, 0x1f1, &[2]);
    put(&mut image, 0x1f4, &64u32.to_le_bytes());
    put(&mut image, 0x1fe, &[0x55, 0xaa]);
    put(&mut image, 0x202, b"HdrS");
    put(&mut image, 0x206, &0x020fu16.to_le_bytes());
    put(&mut image, 0x20e, &0x0100u16.to_le_bytes());
    put(&mut image, 0x236, &0x7fu16.to_le_bytes());
    put(&mut image, 0x300, BANNER.as_bytes());
    put(&mut image, 0x300 + BANNER.len(), &[0]);
    image
}

/// An ELF file with one loaded segment, one note, and a Linux banner unless it is empty.
pub(super) fn elf(
    class: u8,
    kind: u16,
    machine: u16,
    second_segment: u32,
    note_type: u32,
    banner: &str,
) -> Vec<u8> {
    let mut file = vec![0; 1024];
    put(&mut file, 0, &[0x7f, b'E', b'L', b'F', class, 1, 1]);
    put(&mut file, 16, &kind.to_le_bytes());
    put(&mut file, 18, &machine.to_le_bytes());
    put(&mut file, 32, &64u64.to_le_bytes());
    put(&mut file, 54, &56u16.to_le_bytes());
    put(&mut file, 56, &2u16.to_le_bytes());
    put(&mut file, 64, &1u32.to_le_bytes());
    put(&mut file, 64 + 32, &1024u64.to_le_bytes());
    put(&mut file, 120, &second_segment.to_le_bytes());
    put(&mut file, 120 + 8, &256u64.to_le_bytes());
    put(&mut file, 120 + 32, &64u64.to_le_bytes());
    // A note of another owner first, as kernels have them.
    for (at, owner, note) in [(256, b"GNU\0", 3), (280, b"Xen\0", note_type)] {
        put(&mut file, at, &4u32.to_le_bytes());
        put(&mut file, at + 4, &8u32.to_le_bytes());
        put(&mut file, at + 8, &u32::to_le_bytes(note));
        put(&mut file, at + 12, owner);
    }
    put(&mut file, 500, b"Linux version %s\0");
    put(&mut file, 600, banner.as_bytes());
    file
}

fn pvh_kernel() -> Vec<u8> {
    elf(2, 2, 62, 4, 18, "Linux version 6.1.2-test (builder@host) #1 SMP\n")
}

pub(super) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// lz4's legacy format as Linux's build makes it, except that only runs of one byte are found.
pub(super) fn lz4_legacy(bytes: &[u8]) -> Vec<u8> {
    let mut packed = lz4::LEGACY_MAGIC.to_vec();
    for plain in bytes.chunks(8 << 20) {
        let mut block = Vec::new();
        let number = |block: &mut Vec<u8>, value: usize| {
            if let Some(more) = value.checked_sub(15) {
                block.extend(std::iter::repeat_n(255, more / 255));
                block.push((more % 255) as u8);
            }
        };
        let (mut literals_start, mut at) = (0, 0);
        while at < plain.len() {
            let run = plain[at..].iter().take_while(|byte| **byte == plain[at]).count();
            if run >= 8 {
                let (literals, code) = (&plain[literals_start..=at], run - 1 - 4);
                block.push((literals.len().min(15) << 4 | code.min(15)) as u8);
                number(&mut block, literals.len());
                block.extend(literals);
                block.extend([1, 0]);
                number(&mut block, code);
                literals_start = at + run;
            }
            at += run;
        }
        let literals = &plain[literals_start..];
        block.push((literals.len().min(15) << 4) as u8);
        number(&mut block, literals.len());
        block.extend(literals);
        packed.extend((block.len() as u32).to_le_bytes());
        packed.extend(block);
    }
    packed
}

pub(super) fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::bulk::compress(bytes, 3).unwrap()
}

/// An EFI application for `machine` with one section.
fn efi(machine: u16, section: &[u8]) -> Vec<u8> {
    let mut file = vec![0; 1024];
    put(&mut file, 0, b"MZ");
    put(&mut file, 0x3c, &0x80u32.to_le_bytes());
    put(&mut file, 0x80, b"PE\0\0");
    put(&mut file, 0x84, &machine.to_le_bytes());
    put(&mut file, 0x86, &1u16.to_le_bytes());
    put(&mut file, 0x94, &16u16.to_le_bytes());
    put(&mut file, 0x80 + 24 + 16, section);
    file
}

fn zboot(machine: u16, compression: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut file = efi(machine, b".text");
    put(&mut file, 4, b"zimg");
    put(&mut file, 8, &1024u32.to_le_bytes());
    put(&mut file, 12, &(payload.len() as u32).to_le_bytes());
    put(&mut file, 24, compression);
    file.extend(payload);
    file
}

fn at(offset: usize, magic: &[u8]) -> Vec<u8> {
    let mut file = vec![0x11; offset + 600];
    put(&mut file, offset, magic);
    file
}

fn inspect_test(bytes: &[u8]) -> Result<KernelInfo, KernelError> {
    inspect_bytes(Path::new("/k"), bytes)
}

fn info(format: KernelFormat, wrappings: &[Wrapping], banner: &str) -> KernelInfo {
    KernelInfo {
        format,
        wrappings: wrappings.to_vec(),
        architecture: Architecture::X86_64,
        version: Some(RELEASE.to_owned()),
        banner: Some(banner.to_owned()),
    }
}

#[test]
fn every_kind_of_kernel_is_recognised() {
    let linux_banner = "Linux version 6.1.2-test (builder@host) #1 SMP";
    let image = bz_image();
    let pvh = pvh_kernel();
    for (bytes, expected) in [
        (image.clone(), info(KernelFormat::BzImage, &[], BANNER)),
        (pvh.clone(), info(KernelFormat::ElfPvh, &[], linux_banner)),
        (gzip(&image), info(KernelFormat::BzImage, &[Wrapping::Gzip], BANNER)),
        (zstd(&pvh), info(KernelFormat::ElfPvh, &[Wrapping::Zstd], linux_banner)),
        (gzip(&zstd(&pvh)), info(KernelFormat::ElfPvh, &[Wrapping::Gzip, Wrapping::Zstd], linux_banner)),
        (
            zboot(0x8664, b"gzip", &gzip(&image)),
            info(KernelFormat::BzImage, &[Wrapping::EfiZboot, Wrapping::Gzip], BANNER),
        ),
        (
            gzip(&zboot(0x8664, b"zstd", &zstd(&image))),
            info(KernelFormat::BzImage, &[Wrapping::Gzip, Wrapping::EfiZboot, Wrapping::Zstd], BANNER),
        ),
    ] {
        assert_eq!(inspect_test(&bytes).unwrap(), expected);
    }
}

#[test]
fn a_32_bit_kernel_is_one_and_a_version_may_be_missing() {
    let mut image = bz_image();
    put(&mut image, 0x236, &[0, 0]);
    assert_eq!(inspect_test(&image).unwrap().architecture, Architecture::X86);
    let mut image = bz_image();
    put(&mut image, 0x206, &0x020bu16.to_le_bytes());
    assert_eq!(
        inspect_test(&image).unwrap().architecture,
        Architecture::X86,
        "the flag is not in this protocol"
    );
    let mut image = bz_image();
    put(&mut image, 0x20e, &[0, 0]);
    let without = inspect_test(&image).unwrap();
    assert_eq!((without.version, without.banner), (None, None));
    let without = inspect_test(&elf(2, 2, 62, 4, 18, "")).unwrap();
    assert_eq!((without.version, without.banner), (None, None));
}

#[test]
fn what_is_no_kernel_is_named() {
    const ELF_HINT: &str = "give a Linux kernel: a bzImage (vmlinuz), or a vmlinux built with CONFIG_PVH";
    const GIVE: &str =
        "give a Linux kernel for x86_64: a bzImage (vmlinuz), or a vmlinux built with CONFIG_PVH";
    const TAKE: &str = "take the kernel file out of it (usually boot/vmlinuz)";
    const DISK: &str = "a disk image is not a kernel: take the kernel file out of it (usually /boot/vmlinuz)";
    const INITRD: &str = "give it as the initrd, and the kernel as the kernel";
    const UNPACK: &str = "if a kernel is inside, unpack it first; if it is an initrd, give it as the initrd";
    let multiboot = {
        let mut file = elf(1, 2, 3, 4, 0, "");
        let words = [0x1bad_b002u32, 3, 0u32.wrapping_sub(0x1bad_b002 + 3)];
        put(&mut file, 700, &words.map(u32::to_le_bytes).concat());
        file
    };
    let linux = "Linux version 6.1.2-test (builder@host) #1 SMP\n";
    let iso = at(0x8001, b"CD001");
    for (bytes, found, hint) in [
        (vec![], "an empty file", "the copy or the download that made it may have failed"),
        (b"070701 and so on".to_vec(), "a cpio archive, which is what an initrd is", INITRD),
        (gzip(b"070701 and so on"), "a cpio archive, which is what an initrd is, inside gzip", INITRD),
        (b"\xfd7zXZ\0....".to_vec(), "xz-compressed data", UNPACK),
        (b"\x02\x21\x4c\x18....".to_vec(), "lz4-compressed data", UNPACK),
        (elf(2, 1, 62, 4, 0, ""), "an ELF object file, such as a kernel module", ELF_HINT),
        (elf(2, 3, 62, 4, 0, ""), "an ELF shared object", ELF_HINT),
        (elf(2, 3, 62, 3, 0, ""), "an ELF program", ELF_HINT),
        (elf(2, 2, 62, 3, 0, ""), "an ELF program", ELF_HINT),
        (elf(2, 4, 62, 4, 0, ""), "a core dump", ELF_HINT),
        (elf(2, 2, 62, 4, 17, ""), "an ELF executable without a PVH entry note", ELF_HINT),
        (
            elf(2, 2, 62, 4, 17, linux),
            "`Linux 6.1.2-test` as an ELF file without a PVH entry note",
            "build it with CONFIG_PVH=y, or give its bzImage (arch/x86/boot/bzImage)",
        ),
        (
            multiboot,
            "a multiboot kernel, which starts otherwise than Linux",
            "give a Linux kernel: a bzImage, or a vmlinux built with CONFIG_PVH",
        ),
        (
            efi(0x8664, b".linux\0\0"),
            "a unified kernel image, an EFI application with a kernel inside",
            "take the kernel out: `objcopy -O binary --only-section=.linux IMAGE vmlinuz` (and `.initrd` likewise)",
        ),
        (
            efi(0x8664, b".text\0\0\0"),
            "an EFI application without a Linux boot header",
            "it needs UEFI firmware; give the kernel itself, a bzImage (vmlinuz)",
        ),
        (
            zboot(0x8664, b"xzkern", b"payload"),
            "an EFI zboot kernel compressed with `xzkern`, which Ferrovirt does not unpack",
            "give the kernel's bzImage or vmlinux, or build it with CONFIG_KERNEL_ZSTD or CONFIG_KERNEL_GZIP",
        ),
        (at(0x438, b"\x53\xef"), "an ext2, ext3 or ext4 file system image", DISK),
        (at(0, b"QFI\xfb"), "a qcow2 disk image", DISK),
        (iso, "an ISO 9660 (CD) image", DISK),
        (at(0, b"hsqs"), "a squashfs file system image", DISK),
        (at(512, b"EFI PART"), "a partitioned disk image (GPT)", DISK),
        (at(510, b"\x55\xaa"), "a bootable disk image (MBR) or boot sector", DISK),
        (at(257, b"ustar"), "a tar archive", TAKE),
        (gzip(&at(257, b"ustar")), "a tar archive, inside gzip", TAKE),
        (b"!<arch>\ndebian-binary".to_vec(), "a Debian package", TAKE),
        (b"#!/bin/sh\necho\n".to_vec(), "a script", GIVE),
        (
            b"\n<!DOCTYPE html>\n<html>".to_vec(),
            "an HTML page",
            "the server that it was downloaded from answered with a page instead of the file",
        ),
        (
            b"version https://git-lfs.github.com/spec/v1\n".to_vec(),
            "a Git LFS pointer",
            "fetch the file that it points to with `git lfs pull`",
        ),
        (
            "gr\u{fc}\u{df}e \x1b[31m an alle, die dies hier lesen m\u{fc}ssen".as_bytes().to_vec(),
            "a text that starts with `gr\u{fc}\u{df}e \\u{1b}[31m an alle, die dies hier lesen`",
            GIVE,
        ),
        (vec![0x11; 900], "data of no known kind (it starts with `11 11 11 11 11 11 11 11`)", GIVE),
        (vec![0], "data of no known kind (it starts with `00`)", GIVE),
    ] {
        let error = inspect_test(&bytes).unwrap_err();
        assert_eq!(error.to_string(), format!("`/k` is not a kernel that QEMU can boot: it is {found}"));
        assert_eq!(error.hint().as_deref(), Some(hint), "{found}");
    }
    let error = inspect_test(&gzip(&gzip(&gzip(&bz_image())))).unwrap_err();
    assert_eq!(
        error.to_string(),
        "`/k` is not a kernel that QEMU can boot: it is something compressed more than twice"
    );
}

#[test]
fn kernels_for_other_machines_are_named() {
    for (bytes, found) in [
        (at(56, b"ARM\x64"), "an Image for arm64"),
        (gzip(&at(56, b"ARM\x64")), "an Image for arm64, inside gzip"),
        (at(56, b"RSC\x05"), "an Image for RISC-V"),
        (at(0x24, &0x016f_2818u32.to_le_bytes()), "a zImage for 32-bit ARM"),
        (elf(2, 2, 183, 4, 18, ""), "a 64-bit ELF file for arm64"),
        (elf(1, 2, 3, 4, 18, ""), "a 32-bit ELF file for x86"),
        (elf(2, 2, 4711, 4, 18, ""), "a 64-bit ELF file for machine 4711"),
        (efi(0xaa64, b".text"), "an EFI application for arm64"),
        (zboot(0xaa64, b"gzip", b"payload"), "an EFI zboot kernel for arm64"),
        (zboot(0x5064, b"gzip", b"payload"), "an EFI zboot kernel for RISC-V"),
    ] {
        let error = inspect_test(&bytes).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("`/k` is for another architecture: it is {found}, and the guest is x86_64")
        );
        assert_eq!(error.hint().as_deref(), Some("give a kernel built for x86_64 (amd64)"));
    }
}

#[test]
fn what_is_cut_off_is_damaged() {
    let image = bz_image();
    let pvh = pvh_kernel();
    let zboot_kernel = zboot(0x8664, b"gzip", &gzip(&image));
    for (bytes, what) in [
        (&image[..0x210], "it ends within its setup header".to_owned()),
        (&image[..2000], "its header announces 2560 bytes, and it ends before at 2000".to_owned()),
        (&pvh[..40], "it ends within its ELF header".to_owned()),
        (&pvh[..130], "it ends before its ELF program headers".to_owned()),
        (&pvh[..1000], "its ELF header announces 1024 bytes, and it ends before at 1000".to_owned()),
        (
            &zboot_kernel[..1100],
            format!(
                "its EFI zboot header places {} bytes at 1024, and the file ends before that",
                zboot_kernel.len() - 1024
            ),
        ),
    ] {
        let error = inspect_test(bytes).unwrap_err();
        assert_eq!(error.to_string(), format!("kernel `/k` is damaged: {what}"));
        assert!(error.hint().is_some());
    }
    let error = inspect_test(&gzip(&image[..2000])).unwrap_err();
    assert_eq!(
        error.to_string(),
        "kernel `/k` is damaged: inside gzip, its header announces 2560 bytes, and it ends before"
    );
}

/// The last 15 bytes of the announced length are padding that a file need not have; the one before must be
/// there.
#[test]
fn the_end_of_a_bz_image_is_checked_to_the_paragraph() {
    let image = bz_image();
    assert!(inspect_test(&image[..image.len() - 15]).is_ok());
    assert!(inspect_test(&image[..image.len() - 16]).is_err());
}

#[test]
fn compressed_data_that_breaks_off_or_is_wrong_cannot_be_unpacked() {
    let noise: Vec<u8> = (0u32..4000).flat_map(|n| n.wrapping_mul(0x9e37_79b9).to_le_bytes()).collect();
    let kernel = [bz_image(), noise].concat();
    for (packed, wrapping) in [(gzip(&kernel), "gzip"), (zstd(&kernel), "zstd")] {
        let error = inspect_test(&packed[..packed.len() / 2]).unwrap_err();
        assert_eq!(error.to_string(), format!("cannot unpack kernel `/k` ({wrapping})"));
        let outer = inspect_test(&gzip(&packed[..packed.len() / 2])).unwrap_err();
        assert_eq!(outer.to_string(), format!("cannot unpack kernel `/k` ({wrapping})"));
        assert!(std::error::Error::source(&outer).is_some());
    }
}

#[test]
fn an_unpacked_source_reads_in_any_order() {
    let plain: Vec<u8> = (0..300_000u32).flat_map(|n| n.to_le_bytes()).collect();
    let packed = gzip(&plain);
    let end = packed.len() as u64;
    let mut source =
        source::UnpackedSource::new(Box::new(BytesSource(packed)), 0, end, source::Compression::Gzip);
    let mut buffer = vec![0; 70_000];
    for offset in [0usize, 1_000_000, 65_530, 10, 1_199_990, 1_200_000, 65_536, 131_072, 1_300_000, 0] {
        let expected = &plain
            [offset.min(plain.len())..(offset + buffer.len()).min(plain.len()).max(offset.min(plain.len()))];
        let filled = source.read_at(offset as u64, &mut buffer).unwrap();
        assert_eq!(&buffer[..filled], expected, "at {offset}");
    }
}

/// More than [`MAX_UNPACKED_BYTES`] of zeros, from half a megabyte.
#[test]
fn a_decompression_bomb_is_refused() {
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
    encoder.write_all(&pvh_kernel()).unwrap();
    let zeros = vec![0; 1 << 20];
    for _ in 0..=MAX_UNPACKED_BYTES >> 20 {
        encoder.write_all(&zeros).unwrap();
    }
    let packed = encoder.finish().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("bomb");
    std::fs::write(&path, packed).unwrap();
    let out = directory.path().join("out");
    let error = prepare(&path, &out, EntryChoice::AsGiven).unwrap_err();
    assert_eq!(error.to_string(), format!("cannot unpack kernel `{}` (zstd)", path.display()));
    let KernelError::Unpack { source, .. } = error else { panic!("{error:?}") };
    assert_eq!(source.to_string(), "it unpacks to more than 512 MiB");
    assert_eq!(std::fs::read_dir(&out).unwrap().count(), 0, "nothing half-written is left");
}

#[test]
fn only_regular_files_are_opened() {
    let error = inspect(Path::new("/dev")).unwrap_err();
    assert_eq!(error.to_string(), "`/dev` is not a kernel that QEMU can boot: it is a directory");
    let error = inspect(Path::new("/dev/null")).unwrap_err();
    assert_eq!(
        error.to_string(),
        "`/dev/null` is not a kernel that QEMU can boot: it is a device, pipe or socket"
    );
    let directory = tempfile::tempdir().unwrap();
    let pipe = directory.path().join("pipe");
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    let error = inspect(&pipe).unwrap_err(); // and does not wait for a writer
    assert!(error.to_string().ends_with("it is a device, pipe or socket"), "{error}");
    let error = inspect(Path::new("/nonexistent/kernel")).unwrap_err();
    assert_eq!(error.to_string(), "cannot read kernel `/nonexistent/kernel`");
}

#[test]
fn an_initrd_is_told_from_what_is_none() {
    let unknown = |found: &str| InitrdKind::Unknown { found: found.to_owned() };
    let padded = [vec![0; 512], b"070701".to_vec()].concat();
    for (bytes, expected) in [
        (b"070701....".to_vec(), InitrdKind::Cpio),
        (padded, InitrdKind::Cpio),
        (gzip(b"070701"), InitrdKind::Compressed("gzip")),
        (zstd(b"070701"), InitrdKind::Compressed("zstd")),
        (b"\xfd7zXZ\0".to_vec(), InitrdKind::Compressed("xz")),
        (b"\x02\x21\x4c\x18".to_vec(), InitrdKind::Compressed("lz4")),
        (b"BZh9".to_vec(), InitrdKind::Compressed("bzip2")),
        (b"\x89LZO\0\r\n\x1a\n".to_vec(), InitrdKind::Compressed("lzop")),
        (b"]\0\0\x80\0".to_vec(), InitrdKind::Compressed("lzma")),
        (at(0x438, b"\x53\xef"), InitrdKind::FileSystem("an ext2, ext3 or ext4 file system image")),
        (bz_image(), unknown("a kernel (bzImage)")),
        (pvh_kernel(), unknown("an ELF file")),
        (vec![], unknown("an empty file")),
        (b"#!/bin/sh\n".to_vec(), unknown("a script")),
        (at(56, b"ARM\x64"), unknown("an Image for arm64")),
    ] {
        assert_eq!(initrd::inspect_source(&mut BytesSource(bytes)).unwrap(), expected);
    }
}

#[test]
fn an_initrd_that_cannot_be_read_is_called_one() {
    for (path, cause) in
        [("/dev", "it is a directory"), ("/nonexistent", "No such file or directory (os error 2)")]
    {
        let error = inspect_initrd(Path::new(path)).unwrap_err();
        assert_eq!(error.to_string(), format!("cannot read initrd `{path}`"));
        assert_eq!(std::error::Error::source(&error).unwrap().to_string(), cause);
    }
}

/// Kernels and things like them, to be damaged.
fn seeds() -> Vec<Vec<u8>> {
    vec![
        bz_image(),
        pvh_kernel(),
        gzip(&bz_image()),
        zstd(&pvh_kernel()),
        zboot(0x8664, b"gzip", &gzip(&pvh_kernel())),
        efi(0x8664, b".linux\0\0"),
        gzip(&efi(0x8664, b".text")),
    ]
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2048)) {
        let _ = inspect_test(&bytes);
        let _ = initrd::inspect_source(&mut BytesSource(bytes));
    }

    #[test]
    fn damaged_kernels_never_panic(
        seed in 0..7usize,
        changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..12),
        length in any::<proptest::sample::Index>(),
        cut in any::<bool>(),
        rewrap in any::<bool>(),
    ) {
        let mut bytes = seeds().swap_remove(seed);
        for (index, value) in changes {
            let length = bytes.len();
            bytes[index.index(length)] = value;
        }
        if cut {
            bytes.truncate(length.index(bytes.len()));
        }
        if rewrap {
            bytes = gzip(&bytes);
        }
        let _ = inspect_test(&bytes);
        let _ = initrd::inspect_source(&mut BytesSource(bytes));
    }
}
