//! The kernel module on a distribution's kernel, as `make fixtures` unpacks it.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use vmm::kernel::{
    Architecture, EntryChoice, InitrdKind, KernelEntry, KernelFormat, Wrapping, inspect, inspect_initrd,
    prepare,
};

fn fixture(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/fixtures").join(name);
    assert!(path.exists(), "`{}` is missing: `make fixtures` makes it", path.display());
    path
}

/// What `uname -r` prints under the kernel `name`.
fn release(name: &str) -> String {
    let versions = fs::read_to_string(fixture("versions")).unwrap();
    let line = versions.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.expect("a line per kernel").to_owned()
}

#[test]
fn its_format_architecture_and_release_are_read() {
    for name in ["vmlinuz", "vmlinuz-other"] {
        let info = inspect(&fixture(name)).unwrap();
        assert_eq!((info.format, info.architecture), (KernelFormat::BzImage, Architecture::X86_64), "{name}");
        assert_eq!(info.version, Some(release(name)), "{name}");
    }
}

#[test]
fn wrapped_it_is_unpacked_to_the_same_bytes() {
    let kernel = fs::read(fixture("vmlinuz")).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&kernel).unwrap();
    for (packed, wrapping) in [
        (gzip.finish().unwrap(), Wrapping::Gzip),
        (zstd::bulk::compress(&kernel, 1).unwrap(), Wrapping::Zstd),
    ] {
        let path = directory.path().join(wrapping.to_string());
        fs::write(&path, packed).unwrap();
        let prepared = prepare(&path, &directory.path().join("out"), EntryChoice::AsGiven).unwrap();
        assert_eq!(prepared.info.wrappings, [wrapping]);
        assert_eq!(prepared.info.version, Some(release("vmlinuz")));
        assert!(prepared.unwrapped);
        assert!(fs::read(&prepared.path).unwrap() == kernel, "{wrapping}: the bytes differ");
    }
}

#[test]
fn an_initrd_is_one_and_the_kernel_is_none() {
    let initrd = inspect_initrd(&fixture("initrd")).unwrap();
    assert!(matches!(initrd, InitrdKind::Cpio | InitrdKind::Compressed(_)), "{initrd:?}");
    let found = "a kernel (bzImage)".to_owned();
    assert_eq!(inspect_initrd(&fixture("vmlinuz")).unwrap(), InitrdKind::Unknown { found });
}

/// The fixture is compressed as Debian compresses its kernels, which is one of the ways that are unpacked.
#[test]
fn the_kernel_inside_is_found_for_its_pvh_entry() {
    let directory = tempfile::tempdir().unwrap();
    let kernel = fixture("vmlinuz");
    let prepared = prepare(&kernel, directory.path(), EntryChoice::PreferPvh).unwrap();
    assert_eq!(prepared.entry, KernelEntry::Pvh);
    assert_eq!(prepared.info, inspect(&kernel).unwrap());
    let inside = inspect(&prepared.path).unwrap();
    assert_eq!((inside.format, inside.architecture), (KernelFormat::ElfPvh, Architecture::X86_64));
    assert_eq!(inside.version, Some(release("vmlinuz")));
    assert_eq!(prepare(&kernel, directory.path(), EntryChoice::PreferPvh).unwrap(), prepared);
    let given = prepare(&kernel, directory.path(), EntryChoice::AsGiven).unwrap();
    assert_eq!((given.path, given.entry, given.unwrapped), (kernel, KernelEntry::BzImage, false));
}
