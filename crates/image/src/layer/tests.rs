#![allow(clippy::unwrap_used)]

use std::io::Write;

use ::tar::{Builder, EntryType, Header};

use super::*;

/// A store of its own, and a lease on it.
struct Bench {
    _directory: tempfile::TempDir,
    store: Store,
    lease: Lease,
}

impl Bench {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let lease = store.lease().unwrap();
        Self { _directory: directory, store, lease }
    }

    /// Puts a blob into the store and reads it as a layer whose uncompressed data is `tar`.
    fn scan_blob(
        &self,
        blob: &[u8],
        tar: &[u8],
        wanted: &[&str],
        limits: &LayerLimits,
    ) -> Result<(Digest, ScannedLayer), ReadFailure> {
        let digest = self.store.put_blob(&self.lease, blob, Algorithm::Sha256).unwrap();
        let wanted = wanted.iter().map(|path| path.as_bytes().to_vec()).collect();
        let scanned = self.scan_as(&Digest::sha256_of(tar), wanted, limits).stored(&digest)?;
        Ok((digest, scanned))
    }

    fn scan_as(&self, diff_id: &Digest, candidates: Vec<Vec<u8>>, limits: &LayerLimits) -> Scan {
        Scan {
            store: self.store.clone(),
            lease: self.lease.clone(),
            diff_id: diff_id.clone(),
            candidates,
            limits: *limits,
        }
    }

    fn scan(&self, tar: &[u8], wanted: &[&str]) -> Result<(Digest, ScannedLayer), ReadFailure> {
        self.scan_blob(tar, tar, wanted, &LayerLimits::default())
    }

    /// The error of a layer that must be refused; nothing of it may stay behind but the blob.
    fn refusal(&self, blob: &[u8], tar: &[u8], limits: &LayerLimits) -> LayerError {
        let error = match self.scan_blob(blob, tar, &["boot/vmlinuz"], limits) {
            Err(ReadFailure::Layer(error)) => error,
            Err(ReadFailure::Refetch) => panic!("the blob is what it should be"),
            Ok(_) => panic!("the layer was accepted"),
        };
        for directory in ["layers", "files/sha256", "partial"] {
            let left: Vec<_> = std::fs::read_dir(self.store.root().join(directory)).unwrap().collect();
            assert!(left.is_empty(), "{directory}: {left:?}");
        }
        error
    }
}

fn header(kind: EntryType, size_bytes: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(size_bytes);
    header.set_mode(0o640);
    header.set_uid(107);
    header.set_gid(108);
    header
}

/// Appends an entry whose name no archiver would write.
fn append_raw(builder: &mut Builder<Vec<u8>>, mut header: Header, name: &str, link: &str, content: &[u8]) {
    let fields = header.as_gnu_mut().unwrap();
    fields.name = [0; 100];
    fields.name[..name.len()].copy_from_slice(name.as_bytes());
    fields.linkname[..link.len()].copy_from_slice(link.as_bytes());
    header.set_cksum();
    builder.append(&header, content).unwrap();
}

fn append_file(builder: &mut Builder<Vec<u8>>, path: &str, content: &[u8]) {
    builder.append_data(&mut header(EntryType::Regular, content.len() as u64), path, content).unwrap();
}

fn append_link(builder: &mut Builder<Vec<u8>>, kind: EntryType, path: &str, target: &str) {
    builder.append_link(&mut header(kind, 0), path, target).unwrap();
}

fn archive(fill: impl FnOnce(&mut Builder<Vec<u8>>)) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    fill(&mut builder);
    builder.into_inner().unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn records(index: &LayerIndex) -> Vec<EntryRecord> {
    let mut records = Vec::new();
    index.for_each(|record| records.push(record.clone())).unwrap();
    records
}

fn names(index: &LayerIndex) -> Vec<(EntryKind, String)> {
    records(index).into_iter().map(|record| (record.kind, String::from_utf8(record.path).unwrap())).collect()
}

fn kernel_archive() -> Vec<u8> {
    archive(|builder| {
        builder.append_data(&mut header(EntryType::Directory, 0), "boot/", &[][..]).unwrap();
        append_link(builder, EntryType::Symlink, "boot/vmlinuz", "../lib/kernel");
        append_file(builder, "boot/.wh.initrd", b"");
        append_file(builder, "etc/.wh..wh..opq", b"");
        append_file(builder, ".wh..wh.plnk", b"");
        append_file(builder, "lib/kernel", b"the kernel");
        append_link(builder, EntryType::Link, "lib/other", "/lib/kernel");
    })
}

#[test]
fn every_compression_gives_the_same_index() {
    let tar = kernel_archive();
    let (head, tail) = tar.split_at(700);
    let blobs = [
        tar.clone(),
        gzip(&tar),
        [gzip(head), gzip(tail)].concat(),
        zstd::encode_all(&tar[..], 3).unwrap(),
        [zstd::encode_all(head, 1).unwrap(), zstd::encode_all(tail, 1).unwrap()].concat(),
        // A skippable frame, as zstd:chunked writes them.
        [&[0x50, 0x2a, 0x4d, 0x18, 2, 0, 0, 0, 9, 9], &zstd::encode_all(&tar[..], 3).unwrap()[..]].concat(),
    ];
    for blob in blobs {
        let bench = Bench::new();
        let (digest, scanned) = bench.scan_blob(&blob, &tar, &[], &LayerLimits::default()).unwrap();
        assert_eq!(
            names(&scanned.index),
            [
                (EntryKind::Directory, "boot".to_owned()),
                (EntryKind::Symlink, "boot/vmlinuz".to_owned()),
                (EntryKind::Whiteout, "boot/initrd".to_owned()),
                (EntryKind::Opaque, "etc".to_owned()),
                (EntryKind::File, "lib/kernel".to_owned()),
                (EntryKind::HardLink, "lib/other".to_owned()),
            ]
        );
        let diff_id = Digest::sha256_of(&tar);
        let reopened = LayerIndex::open(&bench.store, &digest, &diff_id).unwrap().unwrap();
        assert_eq!(records(&reopened), records(&scanned.index));
        let kernel = &records(&reopened)[4];
        assert_eq!((kernel.uid, kernel.gid, kernel.mode, kernel.size_bytes), (107, 108, 0o640, 10));
        assert_eq!(records(&reopened)[1].link, b"../lib/kernel");
        assert_eq!(records(&reopened)[5].link, b"lib/kernel");
    }
}

#[test]
fn a_damaged_index_counts_as_none() {
    let bench = Bench::new();
    let tar = kernel_archive();
    let (digest, _) = bench.scan(&tar, &[]).unwrap();
    let path = bench.store.layer_index_path(&digest);
    let intact = std::fs::read(&path).unwrap();
    let diff_id = Digest::sha256_of(&tar);
    for at in [0, 40, 150, intact.len() - 1] {
        let mut damaged = intact.clone();
        damaged[at] ^= 1;
        std::fs::write(&path, &damaged).unwrap();
        assert!(LayerIndex::open(&bench.store, &digest, &diff_id).unwrap().is_none(), "byte {at}");
    }
    std::fs::write(&path, &intact[..50]).unwrap();
    assert!(LayerIndex::open(&bench.store, &digest, &diff_id).unwrap().is_none());
    // Intact, but of another format or for another uncompressed digest: made anew.
    let mut other = intact[..intact.len() - 71].to_vec();
    other[22] = b'2';
    let end = Digest::sha256_of(&other).to_string();
    std::fs::write(&path, [other, end.into_bytes()].concat()).unwrap();
    assert!(LayerIndex::open(&bench.store, &digest, &diff_id).unwrap().is_none());
    std::fs::write(&path, &intact).unwrap();
    assert!(LayerIndex::open(&bench.store, &digest, &Digest::sha256_of(b"other")).unwrap().is_none());
    assert!(LayerIndex::open(&bench.store, &digest, &diff_id).unwrap().is_some());
    std::fs::remove_file(&path).unwrap();
    assert!(LayerIndex::open(&bench.store, &digest, &diff_id).unwrap().is_none());
}

#[test]
fn wanted_files_are_put_aside_in_the_first_pass_and_taken_out_in_a_second() {
    let bench = Bench::new();
    let tar = kernel_archive();
    let (digest, mut scanned) = bench.scan(&tar, &["boot/vmlinuz"]).unwrap();
    // The symlink came before its target.
    let spooled = scanned.spooled.remove(&b"lib/kernel"[..]).unwrap();
    let kernel = Digest::sha256_of(b"the kernel");
    assert_eq!(spooled.ordinal, 5);
    assert!(!bench.store.content_path(Area::Files, &kernel).exists());
    assert_eq!(spooled.writer.commit().unwrap(), (kernel.clone(), 10));
    let path = bench.store.content_path(Area::Files, &kernel);
    assert_eq!(std::fs::read(&path).unwrap(), b"the kernel");
    std::fs::remove_file(&path).unwrap();

    let found =
        extract(&bench.store, &bench.lease, &digest, &[5], &LayerLimits::default()).unwrap().remove(0);
    assert_eq!(found.commit().unwrap(), (kernel, 10));
}

#[test]
fn of_two_entries_of_one_name_the_last_counts() {
    let bench = Bench::new();
    let tar = archive(|builder| {
        append_file(builder, "boot/vmlinuz", b"old");
        append_file(builder, "boot/vmlinuz", b"new");
    });
    let (_, mut scanned) = bench.scan(&tar, &["boot/vmlinuz"]).unwrap();
    let fact = scanned.index.facts(&[b"boot/vmlinuz".to_vec()]).unwrap().remove(0);
    assert_eq!(fact.entry.unwrap().ordinal, 1);
    let spooled = scanned.spooled.remove(&b"boot/vmlinuz"[..]).unwrap();
    assert_eq!(spooled.ordinal, 1);
    assert_eq!(spooled.writer.commit().unwrap().0, Digest::sha256_of(b"new"));
}

#[test]
fn long_names_and_extension_records_are_applied() {
    let bench = Bench::new();
    let long = format!("{}/vmlinuz", "d".repeat(150));
    let tar = archive(|builder| {
        append_file(builder, &long, b"gnu");
        append_link(builder, EntryType::Symlink, "link", &long);
        builder
            .append_pax_extensions([
                ("path", "pax/vmlinuz".as_bytes()),
                ("uid", b"3000000"),
                ("comment", b"x=y\n"),
            ])
            .unwrap();
        append_file(builder, "short", b"pax");
        // A size in a record wins over the header's, which says nothing here.
        builder.append_pax_extensions([("size", &b"5"[..])]).unwrap();
        let mut empty = header(EntryType::Regular, 0);
        empty.set_path("sized").unwrap();
        empty.set_cksum();
        builder.append(&empty, &b"12345"[..]).unwrap();
        append_global_header(builder);
        append_file(builder, "last", b"");
    });
    let (_, scanned) = bench.scan(&tar, &[]).unwrap();
    let records = records(&scanned.index);
    assert_eq!(records[0].path, long.as_bytes());
    assert_eq!(records[1].link, long.as_bytes());
    assert_eq!((records[2].path.as_slice(), records[2].uid), (&b"pax/vmlinuz"[..], 3_000_000));
    assert_eq!((records[3].path.as_slice(), records[3].size_bytes), (&b"sized"[..], 5));
    assert_eq!(records[4].path, b"last");
}

/// What `git archive` writes first.
fn append_global_header(builder: &mut Builder<Vec<u8>>) {
    let content = b"20 comment=from git\n";
    let mut global = header(EntryType::XGlobalHeader, content.len() as u64);
    global.set_path("pax_global_header").unwrap();
    global.set_cksum();
    builder.append(&global, &content[..]).unwrap();
}

#[test]
fn entries_that_leave_the_root_are_refused() {
    for name in ["../x", "boot/../../x", "/../x", "boot/.."] {
        let tar = archive(|builder| append_raw(builder, header(EntryType::Regular, 0), name, "", b""));
        match Bench::new().refusal(&tar, &tar, &LayerLimits::default()) {
            LayerError::Escape { path } => assert_eq!(path, name),
            other => panic!("{name}: {other}"),
        }
    }
    let tar =
        archive(|builder| append_raw(builder, header(EntryType::Link, 0), "x", "../../etc/shadow", b""));
    let error = Bench::new().refusal(&tar, &tar, &LayerLimits::default());
    assert_eq!(error.to_string(), "its entry `../../etc/shadow` leaves the root of the image");
    // Absolute names are names below the root.
    let tar = archive(|builder| append_raw(builder, header(EntryType::Regular, 1), "//boot/./x/", "", b"1"));
    let bench = Bench::new();
    let (_, scanned) = bench.scan(&tar, &[]).unwrap();
    assert_eq!(names(&scanned.index), [(EntryKind::File, "boot/x".to_owned())]);
}

#[test]
fn bombs_and_endless_layers_are_bounded() {
    let zeros = archive(|builder| append_file(builder, "zeros", &vec![0; 1 << 20]));
    let blob = gzip(&zeros);
    let limits = LayerLimits { unconditional_bytes: 64 << 10, ..LayerLimits::default() };
    match Bench::new().refusal(&blob, &zeros, &limits) {
        LayerError::TooLarge { blob_bytes, limit_bytes } => {
            assert_eq!(blob_bytes, blob.len() as u64);
            assert_eq!(limit_bytes, blob_bytes * 200);
        }
        other => panic!("{other}"),
    }
    let exact = LayerLimits { uncompressed_bytes: zeros.len() as u64, ..LayerLimits::default() };
    Bench::new().scan_blob(&blob, &zeros, &[], &exact).unwrap();
    let one_less = LayerLimits { uncompressed_bytes: zeros.len() as u64 - 1, ..LayerLimits::default() };
    let error = Bench::new().refusal(&blob, &zeros, &one_less);
    assert!(matches!(error, LayerError::TooLarge { .. }), "{error}");
    // After the end of the archive, too.
    let trailing = [kernel_archive(), vec![0; 1 << 20]].concat();
    let error = Bench::new().refusal(&gzip(&trailing), &trailing, &limits);
    assert!(matches!(error, LayerError::TooLarge { .. }), "{error}");

    let three = archive(|builder| (0..3).for_each(|at| append_file(builder, &format!("f{at}"), b"")));
    let error = Bench::new().refusal(&three, &three, &LayerLimits { entries: 2, ..LayerLimits::default() });
    assert_eq!(error.to_string(), "it has more than 2 entries");
    Bench::new()
        .scan_blob(&three, &three, &[], &LayerLimits { entries: 3, ..LayerLimits::default() })
        .unwrap();
    let error =
        Bench::new().refusal(&three, &three, &LayerLimits { index_bytes: 150, ..LayerLimits::default() });
    assert_eq!(error.to_string(), "the names in it take more than 150 bytes");
}

#[test]
fn a_claim_of_two_gibibytes_takes_no_space() {
    let mut tar = archive(|builder| append_file(builder, "first", b"1"));
    tar.truncate(1024);
    let mut claim = header(EntryType::Regular, 2 << 30);
    claim.set_path("boot/vmlinuz").unwrap();
    claim.set_cksum();
    tar.extend_from_slice(claim.as_bytes());
    tar.extend_from_slice(&[7; 3000]);
    match Bench::new().refusal(&tar, &tar, &LayerLimits::default()) {
        LayerError::Broken { offset_bytes, source } => {
            assert_eq!(offset_bytes, tar.len() as u64);
            assert_eq!(source.kind(), std::io::ErrorKind::UnexpectedEof);
        }
        other => panic!("{other}"),
    }
}

#[test]
fn files_above_the_limit_are_not_put_aside() {
    let bench = Bench::new();
    let tar = archive(|builder| append_file(builder, "boot/vmlinuz", b"12345"));
    let limits = LayerLimits { file_bytes: 4, ..LayerLimits::default() };
    let (_, scanned) = bench.scan_blob(&tar, &tar, &["boot/vmlinuz"], &limits).unwrap();
    assert!(scanned.spooled.is_empty());
}

#[test]
fn broken_data_is_refused() {
    let tar = kernel_archive();
    let compressed = gzip(&tar);
    let zstd = zstd::encode_all(&tar[..], 3).unwrap();
    let mut flipped = tar.clone();
    flipped[5] ^= 1;
    let mut after_end = tar.clone();
    let end = after_end.len();
    after_end[end - 1] = 1;
    let mut negative = tar.clone();
    negative[124] = 0xff;
    for (what, blob) in [
        ("truncated gzip", &compressed[..compressed.len() / 2]),
        ("truncated zstd", &zstd[..zstd.len() / 2]),
        ("header with a flipped bit", &flipped[..]),
        ("something after the end", &after_end[..]),
        ("truncated header", &tar[..tar.len() - 1300]),
        ("a negative size", &negative[..]),
        ("text", b"#!/bin/sh\n".as_slice()),
    ] {
        let error = Bench::new().refusal(blob, blob, &LayerLimits::default());
        assert!(
            matches!(error, LayerError::Broken { .. } | LayerError::MalformedEntry { .. }),
            "{what}: {error:?}"
        );
    }
    let error = Bench::new().refusal(b"\xfd7zXZ\0and so on", b"", &LayerLimits::default());
    assert_eq!(error.to_string(), "it is compressed with xz, which layers may not be");
}

#[test]
fn an_archive_may_end_without_its_trailer() {
    let tar = kernel_archive();
    let shortened = &tar[..tar.len() - 1024];
    let bench = Bench::new();
    let (_, scanned) = bench.scan(shortened, &[]).unwrap();
    assert_eq!(names(&scanned.index).len(), 6);
    let (_, scanned) = bench.scan(b"", &[]).unwrap();
    assert!(names(&scanned.index).is_empty());
}

#[test]
fn uncompressed_data_other_than_the_config_says_is_refused() {
    let tar = kernel_archive();
    let error = Bench::new().refusal(&gzip(&tar), b"something else", &LayerLimits::default());
    assert!(matches!(error, LayerError::WrongDiffId { .. }), "{error:?}");
}

#[test]
fn a_blob_that_was_damaged_on_disk_is_removed_and_asked_for_again() {
    let bench = Bench::new();
    let tar = kernel_archive();
    let blob = gzip(&tar);
    let digest = bench.store.put_blob(&bench.lease, &blob, Algorithm::Sha256).unwrap();
    let path = bench.store.content_path(Area::Blobs, &digest);
    let scan = || {
        let diff_id = Digest::sha256_of(&tar);
        bench.scan_as(&diff_id, Vec::new(), &LayerLimits::default()).stored(&digest)
    };
    for at in [0, 20, blob.len() - 1] {
        let mut damaged = blob.clone();
        damaged[at] ^= 1;
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, &damaged).unwrap();
        assert!(matches!(scan(), Err(ReadFailure::Refetch)), "byte {at}");
        assert!(!path.exists());
        assert!(matches!(scan(), Err(ReadFailure::Refetch)));
        std::fs::write(&path, &blob).unwrap();
    }
    scan().unwrap();
}

#[test]
fn long_extension_records_and_names_are_refused() {
    for (kind, what) in [(b'x', "PAX"), (b'L', "name"), (b'K', "link")] {
        let mut long = header(EntryType::new(kind), 8 << 20);
        long.set_path("x").unwrap();
        long.set_cksum();
        let tar = [&long.as_bytes()[..], &vec![b'a'; 8 << 20]].concat();
        let error = Bench::new().refusal(&tar, &tar, &LayerLimits::default());
        assert!(
            matches!(error, LayerError::LongExtension { .. } | LayerError::LongName { .. }),
            "{what}: {error}"
        );
    }
    let path = "d/".repeat(2500);
    let tar = archive(|builder| {
        builder.append_pax_extensions([("path", path.as_bytes())]).unwrap();
        append_file(builder, "short", b"");
    });
    let error = Bench::new().refusal(&tar, &tar, &LayerLimits::default());
    assert_eq!(error.to_string(), "it has a name of more than 4096 bytes");
}

#[test]
fn malformed_pax_records_are_refused() {
    for content in
        [&b"nonsense"[..], b"5 a=b", b"99 path=x\n", b"2 \n", b"10 size=-1\n", b"6 abc\n", b"0 a=b\n"]
    {
        let tar = archive(|builder| {
            let mut pax = header(EntryType::XHeader, content.len() as u64);
            pax.set_path("pax").unwrap();
            pax.set_cksum();
            builder.append(&pax, content).unwrap();
            append_file(builder, "x", b"");
        });
        let error = Bench::new().refusal(&tar, &tar, &LayerLimits::default());
        assert!(
            matches!(error, LayerError::MalformedEntry { .. }),
            "{}: {error:?}",
            String::from_utf8_lossy(content)
        );
    }
}

#[test]
fn sparse_files_are_recognised_and_passed_over() {
    let bench = Bench::new();
    let tar = archive(|builder| {
        builder
            .append_pax_extensions([
                ("GNU.sparse.major", &b"1"[..]),
                ("GNU.sparse.minor", b"0"),
                ("GNU.sparse.name", b"boot/disk.img"),
                ("GNU.sparse.realsize", b"1048576"),
            ])
            .unwrap();
        append_file(builder, "boot/GNUSparseFile.0/disk.img", b"1\n0\n1\n");
        // The old format continues its map in a further block.
        let mut old = header(EntryType::GNUSparse, 3);
        old.set_path("boot/old.img").unwrap();
        old.as_gnu_mut().unwrap().isextended = [1];
        old.set_cksum();
        builder.get_mut().extend_from_slice(old.as_bytes());
        builder.get_mut().extend_from_slice(&[0; 512]);
        builder.get_mut().extend_from_slice(&[&b"abc"[..], &[0; 509]].concat());
        append_file(builder, "boot/vmlinuz", b"kernel");
    });
    let (_, scanned) = bench.scan(&tar, &["boot/disk.img", "boot/old.img", "boot/vmlinuz"]).unwrap();
    assert_eq!(
        names(&scanned.index),
        [
            (EntryKind::Sparse, "boot/disk.img".to_owned()),
            (EntryKind::Sparse, "boot/old.img".to_owned()),
            (EntryKind::File, "boot/vmlinuz".to_owned()),
        ]
    );
    assert_eq!(scanned.spooled.keys().collect::<Vec<_>>(), [&b"boot/vmlinuz".to_vec()]);
}

#[test]
fn the_largest_zstd_window_is_that_of_zstds_own_decompressor() {
    // RFC 8878, 3.1.1: a frame that declares its window and holds one empty, last, raw block.
    let frame = |window_log: u8| [0x28, 0xb5, 0x2f, 0xfd, 0x00, (window_log - 10) << 3, 0x01, 0x00, 0x00];
    let bench = Bench::new();
    // Read to its end, an empty stream is a tar archive without entries.
    assert!(bench.scan_blob(&frame(27), &[], &[], &LayerLimits::default()).is_ok());
    let error = Bench::new().refusal(&frame(28), &[], &LayerLimits::default());
    assert!(matches!(error, LayerError::Broken { .. }), "{error:?}");
}

#[test]
fn devices_and_links_have_no_content_whatever_they_claim() {
    let tar = archive(|builder| {
        for (kind, name) in [(EntryType::Char, "null"), (EntryType::Fifo, "pipe"), (EntryType::Link, "hard")]
        {
            let mut claim = header(kind, 4096);
            claim.set_path(name).unwrap();
            claim.as_gnu_mut().unwrap().linkname[0] = b'f';
            claim.set_cksum();
            builder.get_mut().extend_from_slice(claim.as_bytes());
        }
        append_file(builder, "f", b"kernel");
    });
    let bench = Bench::new();
    let (_, scanned) = bench.scan(&tar, &[]).unwrap();
    let kinds: Vec<EntryKind> = names(&scanned.index).into_iter().map(|(kind, _)| kind).collect();
    assert_eq!(kinds, [EntryKind::CharacterDevice, EntryKind::Fifo, EntryKind::HardLink, EntryKind::File]);
}

#[test]
fn a_hundred_thousand_entries_are_indexed() {
    let tar = archive(|builder| {
        let mut header = header(EntryType::Regular, 0);
        for at in 0..100_000 {
            header.set_path(format!("usr/share/{at:06}")).unwrap();
            header.set_cksum();
            builder.append(&header, &[][..]).unwrap();
        }
        append_file(builder, "boot/vmlinuz", b"kernel");
    });
    let bench = Bench::new();
    let (_, scanned) =
        bench.scan_blob(&gzip(&tar), &tar, &["boot/vmlinuz"], &LayerLimits::default()).unwrap();
    assert_eq!(scanned.spooled.len(), 1);
    let queries = [b"usr/share/099999".to_vec(), b"usr".to_vec(), b"usr/share/100000".to_vec()];
    let facts = scanned.index.facts(&queries).unwrap();
    assert_eq!(facts[0].entry.as_ref().map(|entry| entry.ordinal), Some(99_999));
    assert!(facts[1].is_implied_directory && facts[1].entry.is_none());
    assert_eq!(facts[2], Fact::default());
}
