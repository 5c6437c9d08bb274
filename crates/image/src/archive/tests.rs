//! Saving, loading, and archives that were made to do harm.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read, Write};
use std::path::Path;

use super::*;
use crate::build::{BuildRequest, BuiltImage, Compression, ImageFile, build};
use crate::digest::{Algorithm, Digest};
use crate::layer::LayerLimits;
use crate::platform::Platform;
use crate::reference::Reference;
use crate::store::{Area, Store};

fn reference(text: &str) -> Reference {
    text.parse().unwrap()
}

fn amd64() -> Platform {
    Platform::linux("amd64")
}

/// A store with one built image.
fn built(directory: &Path, compression: Compression) -> (Store, BuiltImage) {
    let store = Store::open(&directory.join("store")).unwrap();
    fs::write(directory.join("kernel"), vec![1_u8; 300_000]).unwrap();
    fs::write(directory.join("initrd"), b"initrd").unwrap();
    let request = BuildRequest {
        files: vec![ImageFile::kernel(directory.join("kernel")), ImageFile::initrd(directory.join("initrd"))],
        trees: Vec::new(),
        labels: BTreeMap::new(),
        platform: amd64(),
        compression,
        timestamp_seconds: 0,
    };
    let image = build(&store, &reference("registry.example/boot:1"), &request).unwrap();
    (store, image)
}

fn saved(store: &Store) -> Vec<u8> {
    let mut archive = Vec::new();
    save(store, &[reference("registry.example/boot:1")], &amd64(), &mut archive).unwrap();
    archive
}

fn request(name: Option<&str>) -> LoadRequest {
    LoadRequest { name: name.map(reference), platform: amd64() }
}

fn load_bytes(store: &Store, archive: &[u8]) -> Result<Vec<LoadedImage>, LoadError> {
    let mut reader = archive;
    load(store, LoadSource::Reader(&mut reader), &request(None))
}

fn empty_store(directory: &Path) -> Store {
    Store::open(&directory.join("other store")).unwrap()
}

/// The members of a tar file, to make another out of them.
fn members(archive: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut archive = tar::Archive::new(archive);
    let members = archive.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        (entry.path().unwrap().to_str().unwrap().to_owned(), content)
    });
    members.filter(|(name, _)| !name.ends_with('/')).collect()
}

fn tar_of(members: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in members {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, &content[..]).unwrap();
    }
    builder.into_inner().unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// That a load which failed left no name, and nothing half-written.
fn assert_nothing_left(store: &Store) {
    assert!(store.records().unwrap().is_empty(), "an image was named");
    let partial: Vec<_> = fs::read_dir(store.root().join("partial")).unwrap().collect();
    assert!(partial.is_empty(), "{partial:?}");
}

#[test]
fn what_was_saved_is_loaded_again_under_its_name_and_digest() {
    for compression in [Compression::Gzip, Compression::Zstd, Compression::None] {
        let directory = tempfile::tempdir().unwrap();
        let (store, image) = built(directory.path(), compression);
        let archive = saved(&store);
        let packed = [archive.clone(), gzip(&archive), zstd::encode_all(&archive[..], 1).unwrap()];
        for (index, bytes) in packed.iter().enumerate() {
            let other = Store::open(&directory.path().join(format!("other{index}"))).unwrap();
            let loaded = load_bytes(&other, bytes).unwrap();
            let expected = LoadedImage {
                references: vec![reference("registry.example/boot:1")],
                digest: image.digest.clone(),
            };
            assert_eq!(loaded, [expected]);
            // Complete, and byte for byte the same.
            assert_eq!(saved(&other), archive);
        }
    }
}

#[test]
fn saving_gives_the_same_bytes_again() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = built(directory.path(), Compression::Gzip);
    assert_eq!(saved(&store), saved(&store));
}

#[test]
fn a_directory_with_an_oci_layout_is_loaded() {
    let directory = tempfile::tempdir().unwrap();
    let (store, image) = built(directory.path(), Compression::Gzip);
    let layout = directory.path().join("layout");
    for (name, content) in members(&saved(&store)) {
        let path = layout.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    let other = empty_store(directory.path());
    let loaded = load(&other, LoadSource::Path(&layout), &request(Some("renamed.example/boot"))).unwrap();
    assert_eq!(loaded[0].references, [reference("renamed.example/boot:latest")]);
    assert_eq!(loaded[0].digest, image.digest);
    assert_eq!(other.records().unwrap()[0].0.reference, "renamed.example/boot:latest");
}

#[test]
fn an_archive_in_a_file_is_written_whole_or_not_at_all() {
    let directory = tempfile::tempdir().unwrap();
    let (store, image) = built(directory.path(), Compression::Gzip);
    let path = directory.path().join("out/image.tar");
    fs::create_dir(path.parent().unwrap()).unwrap();
    fs::write(&path, b"an earlier archive").unwrap();
    let references = [reference("registry.example/boot:1")];

    // Same length, other bytes: found out only while the blob is copied.
    let blob = store.content_path(Area::Blobs, &image.layers[0].digest);
    let bytes = fs::read(&blob).unwrap();
    fs::remove_file(&blob).unwrap();
    fs::write(&blob, vec![0; bytes.len()]).unwrap();
    let error = save_to_file(&store, &references, &amd64(), &path).unwrap_err();
    assert!(
        matches!(&error, SaveError::Blob { digest, .. } if *digest == image.layers[0].digest),
        "{error:?}"
    );
    assert_eq!(fs::read(&path).unwrap(), b"an earlier archive");
    assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "a partial file was left");

    fs::write(&blob, bytes).unwrap();
    save_to_file(&store, &references, &amd64(), &path).unwrap();
    assert_eq!(fs::read(&path).unwrap(), saved(&store));
    assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
}

#[test]
fn images_that_are_not_whole_are_not_saved() {
    let directory = tempfile::tempdir().unwrap();
    let (store, image) = built(directory.path(), Compression::Gzip);
    fs::remove_file(store.content_path(Area::Blobs, &image.layers[0].digest)).unwrap();
    let error = save(&store, &[reference("registry.example/boot:1")], &amd64(), &mut io::sink()).unwrap_err();
    let SaveError::Image { source, .. } = &error else { panic!("{error:?}") };
    assert_eq!(
        source.to_string(),
        format!(
            "image `registry.example/boot:1` is not complete in the image store: `{}` is missing",
            image.layers[0].digest
        )
    );
    assert!(error.hint().unwrap().contains("ferrovirt image pull registry.example/boot:1"));

    let error =
        save(&store, &[reference("registry.example/other:1")], &amd64(), &mut io::sink()).unwrap_err();
    let SaveError::Image { source, .. } = &error else { panic!("{error:?}") };
    assert_eq!(
        source.to_string(),
        "image `registry.example/other:1` for linux/amd64 is not in the image store"
    );
}

/// A Docker archive as versions before 25 write it: layers in directories of their own, the second a link to
/// the first.
fn docker_archive(layer: &[u8], diff_id: &Digest, config_name: Option<&str>) -> Vec<u8> {
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux", "config": {},
        "rootfs": {"type": "layers", "diff_ids": [diff_id, diff_id]}
    });
    let config = config.to_string();
    let digest = Digest::sha256_of(config.as_bytes());
    let name = config_name.map_or_else(|| format!("{}.json", digest.hex()), str::to_owned);
    let listing = serde_json::json!([{
        "Config": name, "RepoTags": ["old:1", "registry.example/old:2"],
        "Layers": ["a/layer.tar", "b/layer.tar"]
    }]);
    let listing = listing.to_string();
    let mut builder = tar::Builder::new(Vec::new());
    let mut append = |name: &str, content: &[u8]| {
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, content).unwrap();
    };
    append("a/layer.tar", layer);
    append(&name, config.as_bytes());
    append("manifest.json", listing.as_bytes());
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(tar::EntryType::Symlink);
    header.set_size(0);
    builder.append_link(&mut header, "b/layer.tar", "../a/layer.tar").unwrap();
    builder.into_inner().unwrap()
}

#[test]
fn a_docker_archive_becomes_an_oci_image() {
    let layer = tar_of(&[("boot/kernel".to_owned(), vec![3; 5000])]);
    let diff_id = Digest::sha256_of(&layer);
    for packed in [layer.clone(), gzip(&layer), zstd::encode_all(&layer[..], 1).unwrap()] {
        let directory = tempfile::tempdir().unwrap();
        let store = empty_store(directory.path());
        let loaded = load_bytes(&store, &docker_archive(&packed, &diff_id, None)).unwrap();
        assert_eq!(
            loaded[0].references,
            [reference("docker.io/library/old:1"), reference("registry.example/old:2")]
        );
        let (digest, image) =
            store.image_manifest(&reference("registry.example/old:2"), &amd64()).unwrap().unwrap();
        assert_eq!(digest, loaded[0].digest);
        assert_eq!(image.layers.len(), 2);
        assert_eq!(image.layers[0].digest, Digest::sha256_of(&packed));
        assert_eq!(image.layers[0].size_bytes, packed.len() as u64);
        // Whole: it can be saved.
        save(&store, &[reference("old:1")], &amd64(), &mut io::sink()).unwrap();
    }
}

#[test]
fn a_docker_archive_whose_digests_are_wrong_is_refused() {
    let layer = tar_of(&[("boot/kernel".to_owned(), vec![3; 5000])]);
    let directory = tempfile::tempdir().unwrap();
    let store = empty_store(directory.path());
    let wrong = Digest::sha256_of(b"something else");

    let error = load_bytes(&store, &docker_archive(&layer, &wrong, None)).unwrap_err();
    assert!(matches!(&error, LoadError::WrongDigest { member, .. } if member == "a/layer.tar"), "{error:?}");
    assert_nothing_left(&store);

    let name = format!("{}.json", wrong.hex());
    let archive = docker_archive(&layer, &Digest::sha256_of(&layer), Some(&name));
    let error = load_bytes(&store, &archive).unwrap_err();
    assert!(matches!(&error, LoadError::WrongDigest { member, .. } if *member == name), "{error:?}");
    assert_nothing_left(&store);
}

/// The archive with one member changed.
fn altered(archive: &[u8], name: &str, change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut members = members(archive);
    let (_, content) = members.iter_mut().find(|(member, _)| member == name).unwrap();
    change(content);
    tar_of(&members)
}

#[test]
fn blobs_that_are_not_what_their_digest_says_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let (store, image) = built(directory.path(), Compression::Gzip);
    let archive = saved(&store);
    let other = empty_store(directory.path());
    let layer = format!("blobs/sha256/{}", image.layers[1].digest.hex());
    let manifest = format!("blobs/sha256/{}", image.digest.hex());

    let flipped = altered(&archive, &layer, |content| content[20] ^= 1);
    let error = load_bytes(&other, &flipped).unwrap_err();
    assert!(matches!(&error, LoadError::WrongDigest { member, .. } if *member == layer), "{error:?}");
    assert_nothing_left(&other);

    let flipped = altered(&archive, &manifest, |content| content[20] ^= 1);
    let error = load_bytes(&other, &flipped).unwrap_err();
    assert!(matches!(&error, LoadError::WrongDigest { member, .. } if *member == manifest), "{error:?}");

    let longer = altered(&archive, &layer, |content| content.push(0));
    let error = load_bytes(&other, &longer).unwrap_err();
    let expected = format!(
        "member `{layer}` of the archive has {} bytes where {} were announced",
        image.layers[1].size_bytes + 1,
        image.layers[1].size_bytes
    );
    assert_eq!(error.to_string(), expected);

    let without: Vec<_> = members(&archive).into_iter().filter(|(name, _)| *name != layer).collect();
    let error = load_bytes(&other, &tar_of(&without)).unwrap_err();
    assert_eq!(error.to_string(), format!("member `{layer}` of the archive is missing"));
    assert_nothing_left(&other);
}

#[test]
fn an_archive_that_is_cut_off_anywhere_names_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = built(directory.path(), Compression::Gzip);
    let archive = saved(&store);
    let content_ends = archive.len() - 1024;
    for length in (0..content_ends).step_by(509) {
        let other = empty_store(directory.path());
        let error = load_bytes(&other, &archive[..length]).unwrap_err();
        assert!(
            matches!(
                error,
                LoadError::Members { .. }
                    | LoadError::Missing { .. }
                    | LoadError::NotImages
                    | LoadError::Document { .. }
            ),
            "{length}: {error:?}"
        );
        assert_nothing_left(&other);
    }
    for length in [1, 20, 1000] {
        let other = empty_store(directory.path());
        let packed = gzip(&archive);
        let error = load_bytes(&other, &packed[..packed.len() - length]).unwrap_err();
        assert!(matches!(error, LoadError::Read { .. }), "{error:?}");
        assert_nothing_left(&other);
    }
}

#[test]
fn what_is_no_image_archive_is_said_to_be_none() {
    let directory = tempfile::tempdir().unwrap();
    let store = empty_store(directory.path());
    let other_tar = tar_of(&[("hello".to_owned(), b"world".to_vec())]);
    for (bytes, message) in [
        (&b"not a tar file"[..], "cannot load the image archive"),
        (&[][..], "cannot load the image archive"),
        (
            &[0; 1024],
            "the archive holds neither `index.json` nor `manifest.json`: it is not an image archive",
        ),
        (
            &other_tar,
            "the archive holds neither `index.json` nor `manifest.json`: it is not an image archive",
        ),
        (b"\xfd7zXZ\0...", "cannot read the archive: it is compressed with xz"),
    ] {
        let error = load_bytes(&store, bytes).unwrap_err();
        assert_eq!(error.to_string(), message);
        assert!(error.hint().is_some());
        assert_nothing_left(&store);
    }
    let missing = directory.path().join("missing.tar");
    let error = load(&store, LoadSource::Path(&missing), &request(None)).unwrap_err();
    assert_eq!(error.to_string(), format!("cannot open `{}`", missing.display()));
}

#[test]
fn images_without_a_name_need_one() {
    let directory = tempfile::tempdir().unwrap();
    let (store, image) = built(directory.path(), Compression::Gzip);
    let anonymous = altered(&saved(&store), "index.json", |content| {
        let mut index: serde_json::Value = serde_json::from_slice(content).unwrap();
        index["manifests"][0].as_object_mut().unwrap().remove("annotations");
        *content = serde_json::to_vec(&index).unwrap();
    });
    let other = empty_store(directory.path());
    let error = load_bytes(&other, &anonymous).unwrap_err();
    assert_eq!(error.to_string(), format!("the archive gives its image `{}` no name", image.digest));
    let mut reader = &anonymous[..];
    let loaded =
        load(&other, LoadSource::Reader(&mut reader), &request(Some("registry.example/given:2"))).unwrap();
    assert_eq!(loaded[0].references, [reference("registry.example/given:2")]);
}

#[test]
fn a_bare_tag_names_no_image() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = built(directory.path(), Compression::Gzip);
    let tagged = altered(&saved(&store), "index.json", |content| {
        let mut index: serde_json::Value = serde_json::from_slice(content).unwrap();
        index["manifests"][0]["annotations"] =
            serde_json::json!({"org.opencontainers.image.ref.name": "latest"});
        *content = serde_json::to_vec(&index).unwrap();
    });
    let error = load_bytes(&empty_store(directory.path()), &tagged).unwrap_err();
    assert!(matches!(error, LoadError::Unnamed { .. }), "{error:?}");
}

#[test]
fn several_images_travel_together_but_take_no_single_name() {
    let directory = tempfile::tempdir().unwrap();
    let (store, first) = built(directory.path(), Compression::Gzip);
    let names = ["registry.example/boot:1", "registry.example/boot:again", "registry.example/other:1"];
    store.tag(&reference(names[1]), &first.digest).unwrap();
    fs::write(directory.path().join("kernel"), b"another").unwrap();
    let request_other = BuildRequest {
        files: vec![ImageFile::kernel(directory.path().join("kernel"))],
        trees: Vec::new(),
        labels: BTreeMap::new(),
        platform: amd64(),
        compression: Compression::Gzip,
        timestamp_seconds: 0,
    };
    build(&store, &reference(names[2]), &request_other).unwrap();

    let mut archive = Vec::new();
    save(&store, &names.map(reference), &amd64(), &mut archive).unwrap();
    let other = empty_store(directory.path());
    let mut reader = &archive[..];
    let error =
        load(&other, LoadSource::Reader(&mut reader), &request(Some("registry.example/one:1"))).unwrap_err();
    assert_eq!(error.to_string(), "cannot name the archive's images `registry.example/one:1`: there are 2");
    assert_nothing_left(&other);

    load_bytes(&other, &archive).unwrap();
    let found: Vec<_> = other.records().unwrap().into_iter().map(|(record, _)| record.reference).collect();
    assert_eq!(found, names);
}

/// An OCI layout whose top is an index, for the platforms given.
fn with_index(archive: &[u8], image: &BuiltImage, platforms: &[(&str, &str)]) -> Vec<u8> {
    let mut members = members(archive);
    let size = members.iter().find(|(name, _)| name.ends_with(image.digest.hex())).unwrap().1.len();
    let missing = Digest::sha256_of(b"another platform, not in the archive");
    let entries: Vec<_> = platforms
        .iter()
        .map(|(os, architecture)| {
            let digest = if *architecture == "amd64" { &image.digest } else { &missing };
            serde_json::json!({
                "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest, "size": size,
                "platform": {"os": os, "architecture": architecture}
            })
        })
        .collect();
    let index = serde_json::json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": entries
    });
    let index = serde_json::to_vec(&index).unwrap();
    let digest = Digest::sha256_of(&index);
    let top = serde_json::json!({
        "schemaVersion": 2,
        "manifests": [{
            "mediaType": "application/vnd.oci.image.index.v1+json", "digest": digest, "size": index.len(),
            "annotations": {"io.containerd.image.name": "registry.example/multi:1",
                            "org.opencontainers.image.ref.name": "1"}
        }]
    });
    members.retain(|(name, _)| name != "index.json");
    members.push(("index.json".to_owned(), serde_json::to_vec(&top).unwrap()));
    members.push((format!("blobs/sha256/{}", digest.hex()), index));
    tar_of(&members)
}

#[test]
fn of_an_index_the_wanted_platform_is_taken() {
    let directory = tempfile::tempdir().unwrap();
    let (store, image) = built(directory.path(), Compression::Gzip);
    let platforms = [("linux", "arm64"), ("unknown", "unknown"), ("linux", "amd64")];
    let archive = with_index(&saved(&store), &image, &platforms);
    let other = empty_store(directory.path());
    let loaded = load_bytes(&other, &archive).unwrap();
    assert_eq!(loaded[0].references, [reference("registry.example/multi:1")]);
    assert_ne!(loaded[0].digest, image.digest, "the name stands for the index");
    let (digest, _) =
        other.image_manifest(&reference("registry.example/multi:1"), &amd64()).unwrap().unwrap();
    assert_eq!(digest, image.digest);
    // What leaves again is the one platform, since the others are not there.
    let mut again = Vec::new();
    let references = [reference("registry.example/multi:1")];
    assert_eq!(save(&other, &references, &amd64(), &mut again).unwrap()[0].digest, image.digest);

    let without = with_index(&saved(&store), &image, &platforms[..2]);
    let other = Store::open(&directory.path().join("third")).unwrap();
    let error = load_bytes(&other, &without).unwrap_err();
    assert_eq!(error.to_string(), "the archive has no image for linux/amd64, only for linux/arm64");
    assert_nothing_left(&other);
}

#[test]
fn documents_are_bounded() {
    let directory = tempfile::tempdir().unwrap();
    let store = empty_store(directory.path());
    let huge = tar_of(&[("index.json".to_owned(), vec![b' '; (4 << 20) + 1])]);
    let error = load_bytes(&store, &huge).unwrap_err();
    assert_eq!(
        error.to_string(),
        "member `index.json` of the archive has 4194305 bytes, more than the 4194304 allowed"
    );
}

#[test]
fn what_expands_beyond_all_measure_is_refused() {
    let limits = LayerLimits { unconditional_bytes: 1 << 20, expansion: 2, ..LayerLimits::default() };
    let load = |store: &Store, path: &Path| {
        load::load_within(store, LoadSource::Path(path), &request(None), &limits).unwrap_err().to_string()
    };
    // Zeros compress to next to nothing.
    let zeros = vec![0_u8; (1 << 20) + 1];
    let directory = tempfile::tempdir().unwrap();
    let store = empty_store(directory.path());
    let path = directory.path().join("archive");

    fs::write(&path, docker_archive(&gzip(&zeros), &Digest::sha256_of(&zeros), None)).unwrap();
    let message = "cannot read layer `a/layer.tar` of the archive: it unpacks to more than 1048576 bytes";
    assert_eq!(load(&store, &path), message);
    assert_nothing_left(&store);

    fs::write(&path, gzip(&zeros)).unwrap();
    let message =
        format!("cannot read the archive `{}`: it unpacks to more than 1048576 bytes", path.display());
    assert_eq!(load(&store, &path), message);
    assert_nothing_left(&store);

    // At the limit it is fine.
    let zeros = &zeros[..1 << 20];
    fs::write(&path, docker_archive(&gzip(zeros), &Digest::sha256_of(zeros), None)).unwrap();
    load::load_within(&store, LoadSource::Path(&path), &request(None), &limits).unwrap();
}

#[test]
fn members_that_lead_nowhere_good_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let store = empty_store(directory.path());
    let link = |name: &str, target: &str, kind| {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(0);
        builder.append_link(&mut header, name, target).unwrap();
        builder.into_inner().unwrap()
    };
    // Out of the archive, by either kind of link: as if it were not there.
    for target in ["/etc/passwd", "../../etc/passwd"] {
        for kind in [tar::EntryType::Symlink, tar::EntryType::Link] {
            let error = load_bytes(&store, &link("index.json", target, kind)).unwrap_err();
            assert!(matches!(error, LoadError::NotImages), "{target}: {error:?}");
        }
    }
    let error = load_bytes(&store, &link("index.json", "index.json", tar::EntryType::Symlink)).unwrap_err();
    assert!(matches!(error, LoadError::Members { source: MembersError::LinkLoop { .. } }), "{error:?}");
    let layout = directory.path().join("layout");
    fs::create_dir_all(layout.join("index.json")).unwrap();
    let error = load(&store, LoadSource::Path(&layout), &request(None)).unwrap_err();
    assert!(matches!(error, LoadError::Members { source: MembersError::NotAFile { .. } }), "{error:?}");
}

/// One raw header.
fn raw_header(name: &str, kind: u8, size_bytes: u64) -> [u8; 512] {
    let mut header = tar::Header::new_gnu();
    header.set_path(name).unwrap();
    header.set_entry_type(tar::EntryType::new(kind));
    header.set_size(size_bytes);
    header.set_mode(0o644);
    header.set_cksum();
    *header.as_bytes()
}

#[test]
fn headers_that_claim_too_much_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let store = empty_store(directory.path());
    let refused = |bytes: &[u8]| match load_bytes(&store, bytes).unwrap_err() {
        LoadError::Members { source } => source,
        other => panic!("{other:?}"),
    };

    let claims_2_gib = raw_header("index.json", b'0', 2 << 30);
    assert!(matches!(refused(&claims_2_gib), MembersError::Truncated { member } if member == "index.json"));
    let claims_all = raw_header("index.json", b'0', u64::MAX);
    assert!(matches!(refused(&claims_all), MembersError::Truncated { .. }));

    let mut long_name = raw_header("x", b'L', 1 << 20).to_vec();
    long_name.resize(512 + (1 << 20), b'n');
    assert!(
        matches!(refused(&long_name), MembersError::LongName { size_bytes, .. } if size_bytes == 1 << 20)
    );

    assert!(matches!(refused(&raw_header("index.json", b'S', 0)), MembersError::Sparse { .. }));
    let record = b"22 GNU.sparse.major=1\n";
    let mut sparse = raw_header("x", b'x', record.len() as u64).to_vec();
    sparse.extend_from_slice(record);
    sparse.resize(1024, 0);
    sparse.extend_from_slice(&raw_header("index.json", b'0', 0));
    assert!(matches!(refused(&sparse), MembersError::Sparse { member } if member == "index.json"));

    let mut damaged = raw_header("index.json", b'0', 0);
    damaged[3] ^= 1;
    assert!(matches!(refused(&damaged), MembersError::BadHeader { offset_bytes: 0 }));

    let mut many = Vec::new();
    for index in 0..=65_536 {
        many.extend_from_slice(&raw_header(&index.to_string(), b'0', 0));
    }
    assert!(matches!(refused(&many), MembersError::TooMany));

    // Names within what an extension may have, and longer than any file's.
    let named = |name: &[u8]| {
        let mut bytes = raw_header("x", b'L', name.len() as u64).to_vec();
        bytes.extend_from_slice(name);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
        bytes.extend_from_slice(&raw_header("x", b'0', 0));
        bytes
    };
    assert!(matches!(refused(&named(&[b'n'; 4097])), MembersError::LongName { size_bytes: 4097, .. }));
    // Each within bounds, too long together.
    let mut all_long = Vec::new();
    for index in 0..5000 {
        all_long.extend_from_slice(&named(format!("{index:04096}").as_bytes()));
    }
    let error = refused(&all_long);
    assert_eq!(error.to_string(), "the names in the archive take more than 16777216 bytes");
}

#[test]
fn unpacking_touches_no_file_of_others() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = built(directory.path(), Compression::Gzip);
    let archive = gzip(&saved(&store));
    let other = empty_store(directory.path());
    let partial = other.root().join("partial");
    // What an earlier process with the same number left, or is still writing in another container.
    let names: Vec<_> = ["new", "spool"]
        .iter()
        .flat_map(|kind| (0..8).map(move |number| format!("{kind}-{}-{number}", std::process::id())))
        .collect();
    for name in &names {
        fs::write(partial.join(name), name).unwrap();
    }
    load_bytes(&other, &archive).unwrap();
    for name in &names {
        assert_eq!(fs::read_to_string(partial.join(name)).unwrap_or_default(), *name);
    }
    assert_eq!(fs::read_dir(&partial).unwrap().count(), names.len());
}

#[test]
fn long_names_are_found() {
    let directory = tempfile::tempdir().unwrap();
    let store = empty_store(directory.path());
    let layer = tar_of(&[("boot/kernel".to_owned(), vec![3; 50])]);
    let diff_id = Digest::sha256_of(&layer);
    let config = format!(r#"{{"rootfs":{{"diff_ids":["{diff_id}"]}}}}"#);
    let long = format!("./{}/layer.tar", "d".repeat(300));
    let listing = format!(r#"[{{"Config":"c","RepoTags":["a:1"],"Layers":["{long}"]}}]"#);
    let archive = tar_of(&[
        ("c".to_owned(), config.into_bytes()),
        (long.trim_start_matches("./").to_owned(), layer),
        ("manifest.json".to_owned(), listing.into_bytes()),
    ]);
    assert_eq!(load_bytes(&store, &archive).unwrap().len(), 1);
}

#[test]
fn digests_of_the_other_algorithm_are_saved_too() {
    let directory = tempfile::tempdir().unwrap();
    let (store, image) = built(directory.path(), Compression::Gzip);
    let lease = store.lease().unwrap();
    let bytes = store.read_blob(&image.digest, 1 << 20).unwrap().unwrap();
    let digest = store.put_blob(&lease, &bytes, Algorithm::Sha512).unwrap();
    store.tag(&reference("registry.example/boot:1"), &digest).unwrap();
    let archive = saved(&store);
    let other = empty_store(directory.path());
    assert_eq!(load_bytes(&other, &archive).unwrap()[0].digest, digest);
}

mod any_bytes {
    use std::sync::LazyLock;

    use proptest::prelude::*;

    use super::*;

    /// An archive, and the digest of the image in it.
    static SOUND: LazyLock<(Vec<u8>, Digest)> = LazyLock::new(|| {
        let directory = tempfile::tempdir().unwrap();
        let (store, image) = built(directory.path(), Compression::Gzip);
        (saved(&store), image.digest)
    });

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        /// Whatever a member's header says after it was tampered with, loading ends with an error or with the image.
        #[test]
        fn tampering_is_harmless(position in 0_usize..4096, value: u8) {
            let (mut archive, digest) = SOUND.clone();
            archive[position] = value;
            let directory = tempfile::tempdir().unwrap();
            let store = empty_store(directory.path());
            match load_bytes(&store, &archive) {
                Ok(loaded) => prop_assert_eq!(&loaded[0].digest, &digest),
                Err(_) => assert_nothing_left(&store),
            }
        }
    }
}
