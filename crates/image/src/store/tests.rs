#![allow(clippy::unwrap_used)]

use std::os::unix::fs::MetadataExt;
use std::process::Command;

use super::*;
use crate::client::BlobSink;
use crate::digest::Algorithm;

fn opened() -> (tempfile::TempDir, Store) {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(&directory.path().join("deep/store")).unwrap();
    (directory, store)
}

fn start(store: &Store, lease: &Lease, content: &[u8]) -> Box<BlobWriter> {
    match store.begin_download(lease, &Digest::sha256_of(content), content.len() as u64).unwrap() {
        Download::Start(writer) => writer,
        Download::Present => panic!("present"),
        Download::Busy => panic!("busy"),
    }
}

fn partial_names(store: &Store) -> Vec<String> {
    list_names(&store.root().join("partial"))
}

fn list_names(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn reference(text: &str) -> crate::reference::Reference {
    text.parse().unwrap()
}

/// An image of one layer, as far as pruning and listing look at it; returns digests of manifest and layer.
fn image(store: &Store, lease: &Lease, layer: &[u8]) -> (Digest, Digest) {
    let layer_digest = store.put_blob(lease, layer, Algorithm::Sha256).unwrap();
    let config = format!(
        r#"{{"os":"linux","architecture":"amd64","rootfs":{{"type":"layers","diff_ids":["{layer_digest}"]}}}}"#
    );
    let config_digest = store.put_blob(lease, config.as_bytes(), Algorithm::Sha256).unwrap();
    let manifest = format!(
        r#"{{"schemaVersion":2,"config":{{"mediaType":"{}","digest":"{config_digest}","size":{}}},
            "layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"{layer_digest}","size":{}}}]}}"#,
        crate::manifest::OCI_CONFIG,
        config.len(),
        layer.len()
    );
    (store.put_blob(lease, manifest.as_bytes(), Algorithm::Sha256).unwrap(), layer_digest)
}

#[test]
fn modes_let_others_read_files_and_nothing_else() {
    let (_directory, store) = opened();
    let lease = store.lease().unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().mode() & 0o7777;
    assert_eq!(mode(store.root()), 0o755);
    assert_eq!(mode(&store.root().join("blobs")), 0o700);
    assert_eq!(mode(&store.root().join("files")), 0o711);
    let mut writer = store.create(&lease, Area::Files, Algorithm::Sha256).unwrap();
    writer.write_all(b"kernel").unwrap();
    let (digest, size_bytes) = writer.commit().unwrap();
    assert_eq!((digest.clone(), size_bytes), (Digest::sha256_of(b"kernel"), 6));
    let path = store.content_path(Area::Files, &digest);
    assert_eq!(mode(&path), 0o444);
    assert_eq!(mode(path.parent().unwrap()), 0o711);
}

#[test]
fn another_format_is_refused() {
    let (_directory, store) = opened();
    Store::open(store.root()).unwrap();
    std::fs::write(store.root().join("version"), "ferrovirt image store 2\n").unwrap();
    let error = Store::open(store.root()).unwrap_err();
    assert!(error.to_string().contains("has the format `ferrovirt image store 2`"), "{error}");
    // What a crash of the machine leaves of a name that was not synced.
    for lost in ["", "\0\0\0\0"] {
        std::fs::write(store.root().join("version"), lost).unwrap();
        Store::open(store.root()).unwrap();
        assert_eq!(
            std::fs::read_to_string(store.root().join("version")).unwrap(),
            "ferrovirt image store 1\n"
        );
    }
}

#[test]
fn an_interrupted_download_goes_on_where_it_was() {
    let (_directory, store) = opened();
    let lease = store.lease().unwrap();
    let mut writer = start(&store, &lease, b"0123456789");
    BlobSink::write(&mut *writer, b"0123").unwrap();
    drop(writer);
    let mut writer = start(&store, &lease, b"0123456789");
    assert_eq!((writer.received(), writer.resumed_bytes()), (4, 4));
    BlobSink::write(&mut *writer, b"456789").unwrap();
    writer.commit().unwrap();
    let digest = Digest::sha256_of(b"0123456789");
    assert_eq!(store.read_blob(&digest, 100).unwrap().unwrap(), b"0123456789");
    assert!(matches!(store.begin_download(&lease, &digest, 10).unwrap(), Download::Present));
    assert!(partial_names(&store).is_empty());
}

#[test]
fn wrong_or_missing_bytes_never_get_the_name() {
    let (_directory, store) = opened();
    let lease = store.lease().unwrap();
    let digest = Digest::sha256_of(b"0123456789");
    let mut writer = start(&store, &lease, b"0123456789");
    BlobSink::write(&mut *writer, b"01234").unwrap();
    assert!(matches!(writer.commit().unwrap_err(), StoreError::WrongSize { actual_bytes: 5, .. }));

    let mut writer = start(&store, &lease, b"0123456789");
    assert_eq!(writer.received(), 5);
    BlobSink::write(&mut *writer, b"56x89").unwrap_or(());
    assert!(
        BlobSink::write(&mut *writer, b"!").unwrap_err().to_string().contains("more than the announced 10")
    );
    assert!(matches!(writer.commit().unwrap_err(), StoreError::Corrupted { .. }));
    // What was wrong is not resumed.
    assert!(partial_names(&store).is_empty());
    assert!(!store.has_blob(&digest, None));

    let mut writer = start(&store, &lease, b"0123456789");
    BlobSink::write(&mut *writer, b"garbage").unwrap();
    writer.restart().unwrap();
    BlobSink::write(&mut *writer, b"0123456789").unwrap();
    writer.commit().unwrap();
    assert!(store.has_blob(&digest, Some(10)));
}

#[test]
fn one_blob_has_one_writer() {
    let (_directory, store) = opened();
    let other = Store::open(store.root()).unwrap();
    let (lease, other_lease) = (store.lease().unwrap(), other.lease().unwrap());
    let digest = Digest::sha256_of(b"blob");
    let mut writer = start(&store, &lease, b"blob");
    assert!(matches!(other.begin_download(&other_lease, &digest, 4).unwrap(), Download::Busy));
    BlobSink::write(&mut *writer, b"blob").unwrap();
    writer.commit().unwrap();
    assert!(matches!(other.begin_download(&other_lease, &digest, 4).unwrap(), Download::Present));
}

#[test]
fn more_than_the_disk_has_is_refused_before_it_is_full() {
    let (_directory, store) = opened();
    let lease = store.lease().unwrap();
    let Err(error) = store.begin_download(&lease, &Digest::sha256_of(b"x"), u64::MAX / 2) else {
        panic!("accepted")
    };
    assert!(error.to_string().contains(&format!("{} bytes are needed", u64::MAX / 2)), "{error}");
    assert!(error.hint().unwrap().contains("ferrovirt image prune --all"));
}

#[test]
fn a_full_file_system_is_told_with_numbers_that_are_known() {
    let (_directory, store) = opened();
    let message = |kind: io::ErrorKind, needed_bytes: Option<u64>| {
        let error = store.write_error("write", Path::new("x"), needed_bytes, kind.into());
        assert!(error.hint().unwrap().contains("free some space"));
        error.to_string().replace(store.root().to_str().unwrap(), "ROOT")
    };
    use io::ErrorKind::{QuotaExceeded, StorageFull};
    assert_eq!(message(StorageFull, None), "no space left in the image store `ROOT`");
    // There are more bytes free than that: they are not what is missing.
    assert_eq!(message(StorageFull, Some(1)), "no space left in the image store `ROOT`: 1 bytes are needed");
    let huge = message(StorageFull, Some(u64::MAX));
    assert!(
        huge.contains(": 18446744073709551615 bytes are needed, ") && huge.ends_with(" are free"),
        "{huge}"
    );
    assert_eq!(message(QuotaExceeded, None), "the disk quota is used up in the image store `ROOT`");
    assert_eq!(
        message(QuotaExceeded, Some(7)),
        "the disk quota is used up in the image store `ROOT`: 7 bytes are needed"
    );
    assert_eq!(Shortage::Files.to_string(), "no inodes left for more files");
}

#[test]
fn damaged_content_is_noticed_and_removed() {
    let (_directory, store) = opened();
    let lease = store.lease().unwrap();
    for area in [Area::Blobs, Area::Files] {
        let mut writer = store.create(&lease, area, Algorithm::Sha256).unwrap();
        writer.write_all(b"kernel").unwrap();
        let (digest, _) = writer.commit().unwrap();
        let path = store.content_path(area, &digest);
        assert_eq!(store.verify(area, &digest).unwrap(), Verification::Intact);
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, b"kErnel").unwrap();
        assert_eq!(store.verify(area, &digest).unwrap(), Verification::Corrupted);
        assert_eq!(store.verify(area, &digest).unwrap(), Verification::Missing);
    }
    let digest = store.put_blob(&lease, b"{}", Algorithm::Sha256).unwrap();
    let path = store.content_path(Area::Blobs, &digest);
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, b"[]").unwrap();
    assert_eq!(store.read_blob(&digest, 100).unwrap(), None);
    assert!(!path.exists());
    // Damage shows in the length as well.
    std::fs::write(&path, b"{").unwrap();
    assert!(matches!(store.begin_download(&lease, &digest, 2).unwrap(), Download::Start(_)));
    // Also when it made a document larger than documents may be.
    std::fs::write(&path, b"{                                    }").unwrap();
    assert_eq!(store.read_blob(&digest, 20).unwrap(), None);
    assert!(!path.exists());
}

#[test]
fn a_file_is_read_again_when_its_state_is_another_and_only_then() {
    let (_directory, store) = opened();
    let lease = store.lease().unwrap();
    let mut writer = store.create(&lease, Area::Files, Algorithm::Sha256).unwrap();
    let content = vec![7; 1 << 20];
    writer.write_all(&content).unwrap();
    let crc32 = writer.checksum().unwrap();
    let (digest, size_bytes) = writer.commit().unwrap();
    let file = ResolvedFile {
        requested: "/vmlinuz".to_owned(),
        resolved: "/vmlinuz".to_owned(),
        layer: Digest::sha256_of(b"layer"),
        digest: digest.clone(),
        size_bytes,
        crc32,
        uid: 0,
        gid: 0,
        mode: 0o444,
    };
    // What this thread has read, proc_pid_io(5).
    let read_bytes = || {
        let counts = std::fs::read_to_string("/proc/thread-self/io").unwrap();
        counts.lines().find_map(|line| line.strip_prefix("rchar: ")?.parse::<u64>().ok()).unwrap()
    };
    let verify = |store: &Store, file: &ResolvedFile| {
        let before = read_bytes();
        let verification = store.verify_file(file).unwrap();
        (verification, read_bytes() - before >= size_bytes)
    };
    assert_eq!(verify(&store, &file), (Verification::Intact, true));
    // A clone of the store is another view of it, and knows.
    assert_eq!(verify(&store.clone(), &file), (Verification::Intact, false));
    // A store that was opened by itself is another process's, as it were.
    assert_eq!(verify(&Store::open(store.root()).unwrap(), &file), (Verification::Intact, true));
    let path = store.content_path(Area::Files, &digest);
    std::fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
    OpenOptions::new().write(true).open(&path).unwrap().write_all(b"damage").unwrap();
    assert_eq!(verify(&store, &file), (Verification::Corrupted, true));
    assert_eq!(verify(&store, &file), (Verification::Missing, false));
}

#[test]
fn a_false_announcement_costs_nobody_a_blob() {
    let (_directory, store) = opened();
    let lease = store.lease().unwrap();
    let digest = store.put_blob(&lease, b"base layer", Algorithm::Sha256).unwrap();
    // Another image names the blob with a length that is not its own.
    for announced_bytes in [1, 11] {
        let Err(error) = store.begin_download(&lease, &digest, announced_bytes) else { panic!("accepted") };
        assert_eq!(
            error.to_string(),
            format!("content of `{digest}` has 10 bytes where {announced_bytes} were announced")
        );
        assert_eq!(store.verify(Area::Blobs, &digest).unwrap(), Verification::Intact);
    }
    assert!(partial_names(&store).is_empty());
    // An intact document above the limit stays as well.
    assert!(matches!(store.read_blob(&digest, 9).unwrap_err(), StoreError::TooLarge { size_bytes: 10, .. }));
    assert!(store.has_blob(&digest, Some(10)));
}

#[test]
fn an_index_is_read_alike_when_files_are_taken_and_when_it_is_saved() {
    let (_directory, store) = opened();
    let lease = store.lease().unwrap();
    let (any, _) = image(&store, &lease, b"any variant");
    let (exact, _) = image(&store, &lease, b"the variant asked for");
    let entry = |digest: &Digest, variant: &str| {
        format!(
            r#"{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"{digest}","size":1,
                "platform":{{"os":"linux","architecture":"arm64"{variant}}}}}"#
        )
    };
    let chosen = |entries: &[String], platform: &crate::platform::Platform| {
        let index = format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, entries.join(","));
        let digest = store.put_blob(&lease, index.as_bytes(), Algorithm::Sha256).unwrap();
        store.tag(&reference("localhost:5000/arm:1"), &digest).unwrap();
        let found = store.image_manifest(&reference("localhost:5000/arm:1"), platform).unwrap();
        found.map(|(digest, _)| digest)
    };
    let mut wanted = crate::platform::Platform::linux("arm64");
    wanted.variant = Some("v8".to_owned());
    let entries = [entry(&any, ""), entry(&exact, r#","variant":"v8""#)];
    assert_eq!(chosen(&entries, &wanted), Some(exact.clone()));
    // Something that names no platform, among others that do, is no image.
    let nameless =
        format!(r#"{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"{any}","size":1}}"#);
    assert_eq!(chosen(&[nameless.clone(), entry(&exact, "")], &wanted), Some(exact));
    assert_eq!(chosen(&[nameless], &wanted), Some(any.clone()));
    // Of several that would do, those that were never fetched do not count.
    let absent = entry(&Digest::sha256_of(b"never fetched"), r#","variant":"v8""#);
    assert_eq!(chosen(&[absent, entry(&any, "")], &wanted), Some(any));
}

#[test]
fn pruning_keeps_what_records_and_leases_name() {
    let (_directory, store) = opened();
    let lease = store.lease().unwrap();
    let (named, named_layer) = image(&store, &lease, b"named");
    let (leased, leased_layer) = image(&store, &lease, b"leased");
    let (loose, loose_layer) = image(&store, &lease, b"loose");
    store.tag(&reference("localhost:5000/named:1"), &named).unwrap();
    drop(lease);
    let running = store.lease().unwrap();
    running.add([&leased, &leased_layer]).unwrap();
    // A download that is under way, and one that was interrupted.
    let writer = start(&store, &running, b"under way");
    drop(start(&store, &running, b"interrupted"));

    let planned = store.prune(PruneScope::Unreferenced, RunMode::DryRun).unwrap();
    assert!(store.has_blob(&loose_layer, None));
    let done = store.prune(PruneScope::Unreferenced, RunMode::Remove).unwrap();
    let names = |report: &PruneReport| {
        let mut names: Vec<String> = report.removed.iter().map(|item| item.name.clone()).collect();
        names.sort();
        names
    };
    assert_eq!(names(&planned), names(&done));
    assert_eq!(planned.freed_bytes(), done.freed_bytes());
    for kept in [&named, &named_layer, &leased, &leased_layer] {
        assert!(store.has_blob(kept, None), "{kept}");
    }
    for removed in [&loose, &loose_layer] {
        assert!(!store.has_blob(removed, None), "{removed}");
    }
    let under_way = flat_name(&Digest::sha256_of(b"under way"));
    assert_eq!(partial_names(&store), [under_way]);
    drop(writer);
    drop(running);

    store.prune(PruneScope::Unused, RunMode::Remove).unwrap();
    assert!(store.records().unwrap().is_empty());
    for directory in ["blobs/sha256", "partial", "leases", "layers"] {
        assert_eq!(list_names(&store.root().join(directory)), [""; 0], "{directory}");
    }
}

#[test]
fn files_taken_out_of_an_image_live_as_long_as_the_image() {
    let (_directory, store) = opened();
    let lease = store.lease().unwrap();
    let (manifest, layer) = image(&store, &lease, b"layer");
    let name = reference("localhost:5000/boot:1");
    store.tag(&name, &manifest).unwrap();
    let mut writer = store.create(&lease, Area::Files, Algorithm::Sha256).unwrap();
    writer.write_all(b"kernel").unwrap();
    let (digest, size_bytes) = writer.commit().unwrap();
    let file = ResolvedFile {
        requested: "/boot/vmlinuz".to_owned(),
        resolved: "/boot/vmlinuz-6.1".to_owned(),
        layer: layer.clone(),
        digest: digest.clone(),
        size_bytes,
        crc32: 0,
        uid: 107,
        gid: 107,
        mode: 0o440,
    };
    store.put_resolved_file(&manifest, &file).unwrap();
    assert_eq!(store.resolved_file(&manifest, "/boot/vmlinuz").unwrap(), Some(file.clone()));
    assert_eq!(store.resolved_file(&manifest, "/boot/other").unwrap(), None);

    assert!(matches!(store.remove(&name, RunMode::Remove).unwrap_err(), StoreError::InUse { .. }));
    let summary = store.list().unwrap().remove(0);
    assert!(summary.is_in_use && summary.is_complete);
    assert_eq!(summary.platforms[0].to_string(), "linux/amd64");
    drop(lease);
    store.prune(PruneScope::Unreferenced, RunMode::Remove).unwrap();
    assert_eq!(store.verify(Area::Files, &digest).unwrap(), Verification::Intact);
    let details = store.inspect(&name).unwrap();
    assert!(!details.summary.is_in_use);
    assert_eq!(details.platforms[0].files[0].file, file);

    store.remove(&name, RunMode::Remove).unwrap();
    assert_eq!(store.verify(Area::Files, &digest).unwrap(), Verification::Missing);
    assert_eq!(list_names(&store.root().join("resolved")), [""; 0]);
    assert!(matches!(store.remove(&name, RunMode::Remove).unwrap_err(), StoreError::UnknownImage { .. }));
}

#[test]
fn removing_one_image_leaves_what_another_shares_with_it() {
    let (_directory, store) = opened();
    let lease = store.lease().unwrap();
    let (manifest, layer) = image(&store, &lease, b"layer");
    let (other, other_layer) = image(&store, &lease, b"other");
    let loose = store.put_blob(&lease, b"loose", Algorithm::Sha256).unwrap();
    store.tag(&reference("localhost:5000/a:1"), &manifest).unwrap();
    store.tag(&reference("localhost:5000/a:2"), &manifest).unwrap();
    store.tag(&reference("localhost:5000/b:1"), &other).unwrap();
    drop(lease);
    store.remove(&reference("localhost:5000/a:1"), RunMode::Remove).unwrap();
    assert!(store.has_blob(&layer, None));
    store.remove(&reference("localhost:5000/a:2"), RunMode::Remove).unwrap();
    assert!(!store.has_blob(&layer, None));
    assert!(store.has_blob(&other_layer, None));
    // Only pruning looks further than the image.
    assert!(store.has_blob(&loose, None));
}

/// Environment variable that tells this test binary to be the other process.
const CHILD_STORE: &str = "FERROVIRT_TEST_CHILD_STORE";

#[test]
#[allow(clippy::disallowed_methods, reason = "a test tells itself, started again, that it was started again")]
fn a_lease_ends_with_its_process() {
    if let Some(root) = std::env::var_os(CHILD_STORE) {
        // The other process: takes a lease and a partial download, and dies without cleaning up.
        let store = Store::open(Path::new(&root)).unwrap();
        let lease = store.lease().unwrap();
        let mut writer = start(&store, &lease, b"half of it");
        BlobSink::write(&mut *writer, b"half").unwrap();
        store.put_blob(&lease, b"in use by the dead", Algorithm::Sha256).unwrap();
        std::process::abort();
    }
    let (_directory, store) = opened();
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "store::tests::a_lease_ends_with_its_process"])
        .env(CHILD_STORE, store.root())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .status()
        .unwrap();
    assert!(!status.success());
    assert_eq!(list_names(&store.root().join("leases")).len(), 1);
    let blob = Digest::sha256_of(b"in use by the dead");
    assert!(store.has_blob(&blob, None));
    // The dead process' download goes on here.
    let lease = store.lease().unwrap();
    assert_eq!(start(&store, &lease, b"half of it").received(), 4);
    drop(lease);
    store.prune(PruneScope::Unreferenced, RunMode::Remove).unwrap();
    assert!(!store.has_blob(&blob, None));
    assert_eq!(list_names(&store.root().join("leases")), [""; 0]);
}

#[test]
fn claims_and_pruning_do_not_cross() {
    let (_directory, store) = opened();
    let content: Vec<Vec<u8>> = (0..8_u8).map(|at| vec![at; 64]).collect();
    std::thread::scope(|scope| {
        let pruner = scope.spawn(|| {
            for _ in 0..100 {
                store.prune(PruneScope::Unused, RunMode::Remove).unwrap();
            }
        });
        for _ in 0..2 {
            scope.spawn(|| {
                for round in 0..100 {
                    let lease = store.lease().unwrap();
                    let bytes = &content[round % content.len()];
                    let digest = store.put_blob(&lease, bytes, Algorithm::Sha256).unwrap();
                    let read = store.read_blob(&digest, 100).unwrap();
                    assert_eq!(read.as_ref(), Some(bytes), "round {round}");
                }
            });
        }
        pruner.join().unwrap();
    });
}
