#![allow(clippy::unwrap_used)]
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::super::source::BytesSource;
use super::super::tests::{elf, gzip, lz4_legacy, put, zstd};
use super::super::{EntryChoice, KernelEntry, PreparedKernel, inspect, prepare};
use super::*;

const LINUX: &str = "Linux version 6.1.2-test (builder@host) #1 SMP\n";

/// How long the file in [`vmlinux`] is that is loaded; with a hole in the middle and noise at the end.
const LOADED_BYTES: usize = 300_000;

/// A kernel whose loaded part goes on for [`LOADED_BYTES`], and is followed by what is not loaded.
fn vmlinux(note: u32, banner: &str) -> Vec<u8> {
    let mut file = elf(2, 2, 62, 4, note, banner);
    put(&mut file, 40, &(LOADED_BYTES as u64).to_le_bytes());
    put(&mut file, 60, &[3, 0, 2, 0]);
    put(&mut file, 64 + 32, &(LOADED_BYTES as u64).to_le_bytes());
    file.resize(200_000, 0);
    file.extend(
        (0..LOADED_BYTES as u32 - 200_000)
            .map(|index| (index.wrapping_mul(0x9e37_79b9).wrapping_mul(index | 1) >> 24) as u8),
    );
    file.extend(b"section headers and relocations".repeat(700));
    file
}

/// What is to be made of it: without the end, and without where section headers are.
fn loaded(mut vmlinux: Vec<u8>) -> Vec<u8> {
    put(&mut vmlinux, 40, &[0; 8]);
    put(&mut vmlinux, 60, &[0; 4]);
    vmlinux.truncate(LOADED_BYTES);
    vmlinux
}

/// A bzImage with a payload, of release `release`.
fn bz_image(payload: &[u8], release: &str) -> Vec<u8> {
    let mut image = vec![0x90; 2 * 512 + 100];
    image.extend(payload);
    let code_bytes = (image.len() - 2 * 512).next_multiple_of(16);
    image.resize(2 * 512 + code_bytes, 0);
    put(&mut image, 0x1f1, &[1]);
    put(&mut image, 0x1f4, &(code_bytes as u32 / 16).to_le_bytes());
    put(&mut image, 0x1fe, &[0x55, 0xaa]);
    put(&mut image, 0x202, b"HdrS");
    put(&mut image, 0x206, &0x020fu16.to_le_bytes());
    put(&mut image, 0x20e, &0x0100u16.to_le_bytes());
    put(&mut image, 0x236, &1u16.to_le_bytes());
    put(&mut image, 0x248, &100u32.to_le_bytes());
    put(&mut image, 0x24c, &(payload.len() as u32).to_le_bytes());
    put(&mut image, 0x300, release.as_bytes());
    put(&mut image, 0x300 + release.len(), b" (x)\0");
    image
}

/// With the unpacked size behind it, as Linux's build appends it.
fn sized(packed: Vec<u8>, unpacked_bytes: usize) -> Vec<u8> {
    [packed, (unpacked_bytes as u32).to_le_bytes().to_vec()].concat()
}

fn lz4_payload(vmlinux: &[u8]) -> Vec<u8> {
    sized(lz4_legacy(vmlinux), vmlinux.len())
}

fn good() -> Vec<u8> {
    bz_image(&lz4_payload(&vmlinux(18, LINUX)), "6.1.2-test")
}

struct Place {
    directory: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    fn out(&self) -> PathBuf {
        self.directory.path().join("out")
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("vmlinuz")
    }

    fn prepare(&self, image: &[u8]) -> PreparedKernel {
        fs::write(self.file(), image).unwrap();
        self.again()
    }

    fn again(&self) -> PreparedKernel {
        prepare(&self.file(), &self.out(), EntryChoice::PreferPvh).unwrap()
    }

    fn kept(&self) -> Vec<PathBuf> {
        let entries =
            fs::read_dir(self.out()).map(|entries| entries.map(|entry| entry.unwrap().path()).collect());
        let mut kept: Vec<PathBuf> = entries.unwrap_or_default();
        kept.sort();
        kept
    }
}

/// That `prepared` is the given bzImage after all.
fn assert_as_given(place: &Place, prepared: &PreparedKernel, what: &str) {
    assert_eq!((&prepared.path, prepared.entry), (&place.file(), KernelEntry::BzImage), "{what}");
    assert!(!prepared.unwrapped, "{what}");
}

#[test]
fn each_packing_is_unpacked_to_what_is_loaded() {
    let kernel = vmlinux(18, LINUX);
    for (name, payload) in
        [("gzip", gzip(&kernel)), ("lz4", lz4_payload(&kernel)), ("zstd", sized(zstd(&kernel), kernel.len()))]
    {
        let place = Place::new();
        let prepared = place.prepare(&bz_image(&payload, "6.1.2-test"));
        assert_eq!((prepared.entry, prepared.unwrapped), (KernelEntry::Pvh, true), "{name}");
        assert_eq!(prepared.info, inspect(&place.file()).unwrap(), "{name}: what is told is the bzImage's");
        assert!(fs::read(&prepared.path).unwrap() == loaded(kernel.clone()), "{name}");
        let inside = inspect(&prepared.path).unwrap();
        assert_eq!((inside.format, inside.version), (KernelFormat::ElfPvh, prepared.info.version.clone()));
        let state = fs::metadata(&prepared.path).unwrap();
        assert_eq!(state.permissions().mode() & 0o7777, 0o444);
        assert!(state.blocks() * 512 < LOADED_BYTES as u64 - 100_000, "{name}: its zeros are a hole");
        assert_eq!(place.kept(), [prepared.path.with_extension("json"), prepared.path.clone()], "{name}");

        assert_eq!(place.again(), prepared, "{name}");
        assert_eq!(fs::metadata(&prepared.path).unwrap().ino(), state.ino(), "{name}: it is used again");
    }
}

/// A kernel with [`LOADED_BYTES`], of which those from `zeros` on are zeros, and a section at `BSS` called `name`, of the type
/// `kind`, told of `behind` bytes behind what is loaded.
fn with_section(zeros: usize, name: &str, kind: u32, behind: usize) -> Vec<u8> {
    const BASE: u64 = 0xffff_ffff_8100_0000;
    let mut file = elf(2, 2, 62, 4, 18, LINUX);
    file.resize(LOADED_BYTES, 0);
    file[4096..zeros].fill(0x90);
    put(&mut file, 64 + 16, &BASE.to_le_bytes());
    for size in [64 + 32, 64 + 40] {
        put(&mut file, size, &(LOADED_BYTES as u64).to_le_bytes());
    }
    let section = |name: u32, kind: u32, address: u64, offset: usize| {
        let mut header = vec![0; 64];
        put(&mut header, 0, &name.to_le_bytes());
        put(&mut header, 4, &kind.to_le_bytes());
        put(&mut header, 16, &address.to_le_bytes());
        put(&mut header, 24, &(offset as u64).to_le_bytes());
        header
    };
    let names = LOADED_BYTES + behind;
    file.resize(names, 0xee);
    file.extend(b"\0.text\0");
    file.extend(name.as_bytes());
    file.push(0);
    let headers = file.len();
    put(&mut file, 40, &(headers as u64).to_le_bytes());
    // e_shentsize, e_shnum, e_shstrndx
    put(&mut file, 58, &[64, 0, 4, 0, 3, 0]);
    file.extend([section(0, 0, 0, 0), section(1, 1, BASE, 4096)].concat());
    file.extend([section(7, kind, BASE + BSS as u64, BSS), section(0, 3, 0, names)].concat());
    file.extend(b"relocations");
    file
}

const BSS: usize = 25 * 4096;

#[test]
fn zeros_that_a_kernel_clears_itself_are_not_loaded() {
    let unpacked = |kernel: &[u8]| {
        let place = Place::new();
        let prepared = place.prepare(&bz_image(&lz4_payload(kernel), "6.1.2-test"));
        assert_eq!((prepared.entry, prepared.unwrapped), (KernelEntry::Pvh, true));
        assert_eq!(place.again(), prepared, "it is used again");
        fs::read(&prepared.path).unwrap()
    };
    let mut expected = loaded(with_section(BSS, ".bss", 8, 0));
    expected.truncate(BSS);
    for size in [64 + 32, 64 + 40] {
        put(&mut expected, size, &(BSS as u64).to_le_bytes());
    }
    assert!(unpacked(&with_section(BSS, ".bss", 8, 0)) == expected);
    for (what, kernel) in [
        ("something is behind", with_section(BSS + 1, ".bss", 8, 0)),
        ("another section", with_section(BSS, ".bss2", 8, 0)),
        ("a section with content", with_section(BSS, ".bss", 1, 0)),
        ("sections far away", with_section(BSS, ".bss", 8, BEHIND_BYTES)),
    ] {
        assert!(unpacked(&kernel) == loaded(kernel), "{what}");
    }
}

#[test]
fn as_given_a_bz_image_stays_what_it_is() {
    let place = Place::new();
    fs::write(place.file(), good()).unwrap();
    let prepared = prepare(&place.file(), &place.out(), EntryChoice::AsGiven).unwrap();
    assert_as_given(&place, &prepared, "as given");
    assert!(!place.out().exists());
    assert_eq!(place.again().entry, KernelEntry::Pvh);
    let prepared = prepare(&place.file(), &place.out(), EntryChoice::AsGiven).unwrap();
    assert_as_given(&place, &prepared, "although the other is there");
}

#[test]
fn a_wrapped_bz_image_is_unpacked_twice_and_an_elf_file_stays() {
    let place = Place::new();
    let prepared = place.prepare(&gzip(&good()));
    assert_eq!(prepared.entry, KernelEntry::Pvh);
    assert_eq!(prepared.info.format, KernelFormat::BzImage);
    assert!(fs::read(&prepared.path).unwrap() == loaded(vmlinux(18, LINUX)));
    assert_eq!(place.kept().len(), 4);
    assert_eq!(place.again(), prepared);

    let place = Place::new();
    let prepared = place.prepare(&vmlinux(18, LINUX));
    assert_eq!((prepared.path, prepared.entry, prepared.unwrapped), (place.file(), KernelEntry::Pvh, false));
}

/// Each of them boots as a bzImage; what is inside is not used.
#[test]
fn at_any_doubt_the_bz_image_is_used() {
    assert_eq!(reason_against(&good()), "nothing");
    let kernel = vmlinux(18, LINUX);
    let bomb = vec![0; 12 << 20];
    let wide = {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(24).unwrap();
        encoder.write_all(&kernel).unwrap();
        encoder.finish().unwrap()
    };
    let lz4 = lz4_payload(&kernel);
    let changed = |at: usize, value: &[u8]| {
        let mut image = good();
        put(&mut image, at, value);
        image
    };
    let payload = |payload: &[u8]| bz_image(payload, "6.1.2-test");
    let not_elf = |at: usize, value: &[u8]| {
        let mut kernel = kernel.clone();
        put(&mut kernel, at, value);
        payload(&lz4_payload(&kernel))
    };
    const NOT_64_BIT: &str = "it is no 64-bit bzImage";
    const NO_PAYLOAD: &str = "its setup header does not tell where its payload is";
    const OLD: &str = "its release is unknown or older than the PVH entry";
    const NOT_ELF: &str = "its payload is no whole ELF executable for x86_64";
    const NOT_THE_SIZE: &str = "its payload has not the size that it says";
    const NO_ENTRY: &str = "its payload is not the same release with a PVH entry";
    const NOT_UNPACKED: &str = "cannot unpack its payload";
    for (what, reason, image) in [
        ("an old protocol", NOT_64_BIT, changed(0x206, &[7, 2])),
        ("32 bits", NOT_64_BIT, changed(0x236, &[0, 0])),
        ("no payload", NO_PAYLOAD, changed(0x24c, &[0; 4])),
        ("a payload as short as its size", NO_PAYLOAD, changed(0x24c, &[8, 0, 0, 0])),
        ("a payload beyond the code", NO_PAYLOAD, changed(0x24c, &[0xff; 4])),
        ("a payload that starts beyond the code", NO_PAYLOAD, changed(0x248, &[0xff; 4])),
        (
            "xz",
            "its payload is compressed in a way that is not unpacked here",
            payload(&sized(b"\xfd7zXZ\0 and so on".to_vec(), 1000)),
        ),
        (
            "larger than any kernel",
            "its payload is too large",
            payload(&sized(lz4_legacy(&kernel), 600 << 20)),
        ),
        ("no release", OLD, changed(0x20e, &[0, 0])),
        ("an old release", OLD, bz_image(&lz4_payload(&vmlinux(18, "Linux version 4.18.0 ()\n")), "4.18.0")),
        ("another release", NO_ENTRY, bz_image(&lz4, "6.1.3-test")),
        ("another note", NO_ENTRY, payload(&lz4_payload(&vmlinux(17, LINUX)))),
        ("no banner", NO_ENTRY, payload(&lz4_payload(&vmlinux(18, "")))),
        ("no ELF file", NOT_ELF, not_elf(0, b"\x7fELG")),
        ("32-bit ELF", NOT_ELF, not_elf(4, &[1])),
        ("big-endian ELF", NOT_ELF, not_elf(5, &[2])),
        ("another machine", NOT_ELF, not_elf(18, &[3])),
        ("an object file", NOT_ELF, not_elf(16, &[1])),
        ("program headers far away", NOT_ELF, not_elf(32, &100_000u64.to_le_bytes())),
        ("program headers nowhere", NOT_ELF, not_elf(32, &[0xff; 8])),
        ("too many program headers", NOT_ELF, not_elf(56, &[0xff; 2])),
        ("no program headers", NOT_ELF, not_elf(56, &[0; 2])),
        ("program headers of another size", NOT_ELF, not_elf(54, &[32, 0])),
        ("loaded beyond the end", NOT_ELF, not_elf(64 + 32, &1_000_000u64.to_le_bytes())),
        ("loaded far beyond the end", NOT_ELF, not_elf(64 + 8, &[0xff; 16])),
        ("nothing but zeros", NOT_ELF, payload(&lz4_payload(&bomb))),
        ("a bomb", NOT_THE_SIZE, payload(&sized(lz4_legacy(&[&kernel[..], &bomb].concat()), kernel.len()))),
        ("a bomb of gzip", NOT_THE_SIZE, payload(&sized(gzip(&[&kernel[..], &bomb].concat()), kernel.len()))),
        ("shorter than it says", NOT_THE_SIZE, payload(&sized(lz4_legacy(&kernel), kernel.len() + 1))),
        ("longer than it says", NOT_THE_SIZE, payload(&sized(lz4_legacy(&kernel), kernel.len() - 1))),
        ("a large window", NOT_UNPACKED, payload(&sized(wide, kernel.len()))),
        ("cut lz4", NOT_UNPACKED, payload(&sized(lz4[..lz4.len() / 2].to_vec(), kernel.len()))),
        ("cut gzip", NOT_UNPACKED, payload(&sized(gzip(&kernel)[..30_000].to_vec(), kernel.len()))),
        ("cut zstd", NOT_UNPACKED, payload(&sized(zstd(&kernel)[..30_000].to_vec(), kernel.len()))),
        (
            "a byte too many",
            NOT_UNPACKED,
            payload(&sized([lz4_legacy(&kernel), vec![1]].concat(), kernel.len())),
        ),
    ] {
        assert_eq!(reason_against(&image), reason, "{what}");
        let place = Place::new();
        assert_as_given(&place, &place.prepare(&image), what);
        let kept = place.kept();
        assert!(kept.iter().all(|path| !path.to_string_lossy().contains(".tmp-")), "{what}: {kept:?}");
        let sizes: Vec<u64> = kept
            .iter()
            .filter(|path| path.extension().unwrap() == "kernel")
            .map(|path| fs::metadata(path).unwrap().len())
            .collect();
        assert!(sizes.iter().all(|size| *size == 0), "{what}: {sizes:?}");
        assert_as_given(&place, &place.again(), what);
        assert_eq!(place.kept(), kept, "{what}");
    }
}

#[test]
fn that_there_is_none_inside_is_remembered() {
    let place = Place::new();
    place.prepare(&bz_image(&lz4_payload(&vmlinux(17, LINUX)), "6.1.2-test"));
    let [record, none] = place.kept().try_into().unwrap();
    let inode = |path: &PathBuf| fs::metadata(path).unwrap().ino();
    let made = inode(&none);
    // The record says from then on that the file was found intact.
    assert_as_given(&place, &place.again(), "again");
    assert_eq!(inode(&none), made);
    let made = [&record, &none].map(inode);
    assert_as_given(&place, &place.again(), "and again");
    assert_eq!([&record, &none].map(inode), made);

    let renamed = place.directory.path().join("new");
    fs::write(&renamed, good()).unwrap();
    fs::rename(renamed, place.file()).unwrap();
    assert_eq!(place.again().entry, KernelEntry::Pvh, "another file is looked at anew");
}

#[test]
fn a_directory_that_cannot_be_written_to_is_no_error() {
    let place = Place::new();
    fs::write(place.out(), "a file in its place").unwrap();
    assert_as_given(&place, &place.prepare(&good()), "no directory");
}

#[test]
fn only_pages_of_zeros_are_left_out() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    let mut block = vec![0; 16 * PAGE_BYTES + 100];
    for at in
        [0, PAGE_BYTES - 1, 4 * PAGE_BYTES, 6 * PAGE_BYTES + 63, 7 * PAGE_BYTES - 1, 16 * PAGE_BYTES + 99]
    {
        block[at] = 1;
    }
    for length in [block.len(), block.len() - 1, 16 * PAGE_BYTES, 5 * PAGE_BYTES, 1, 0] {
        let file = File::create(&path).unwrap();
        file.set_len(length as u64 + 7).unwrap();
        write_pages(&file, 7, &block[..length]).unwrap();
        assert!(fs::read(&path).unwrap()[7..] == block[..length], "{length}");
    }
}

/// What speaks against the kernel inside of `image`, without anything being kept.
fn reason_against(image: &[u8]) -> String {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("kernel");
    let outside = super::super::inspect_bytes(&path, image).unwrap();
    let extract = |payload: Payload| payload.extract(&File::create(&path).unwrap());
    match Payload::find(Box::new(BytesSource(image.to_vec())), &outside).and_then(extract) {
        Err(error) => error.to_string(),
        Ok(_) => match inspect(&path) {
            Ok(inside) if is_its_kernel(&outside, &inside) => "nothing".to_owned(),
            _ => "its payload is not the same release with a PVH entry".to_owned(),
        },
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn damaged_bz_images_never_panic(
        changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..8),
        near_start in any::<bool>(),
        packing in 0..3usize,
    ) {
        let kernel = vmlinux(18, LINUX);
        let payload = match packing {
            0 => lz4_payload(&kernel),
            1 => gzip(&kernel),
            _ => sized(zstd(&kernel), kernel.len()),
        };
        let mut image = bz_image(&payload, "6.1.2-test");
        for (index, value) in changes {
            let length = if near_start { 1400 } else { image.len() };
            image[index.index(length)] = value;
        }
        if super::super::inspect_bytes(Path::new("/k"), &image).is_ok() {
            reason_against(&image);
        }
    }
}
