//! What building promises, on sources made for it.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::plan::{Content, plan};
use super::*;

fn request(files: Vec<ImageFile>, trees: Vec<ImageTree>) -> BuildRequest {
    BuildRequest {
        files,
        trees,
        labels: BTreeMap::new(),
        platform: Platform::linux("amd64"),
        compression: Compression::Gzip,
        timestamp_seconds: 0,
    }
}

fn tree(source: &Path, destination: &str) -> ImageTree {
    ImageTree {
        source: source.to_owned(),
        destination: destination.to_owned(),
        uid: 0,
        gid: 0,
        left_out_links: Vec::new(),
    }
}

fn file(source: &Path, destination: &str) -> ImageFile {
    ImageFile { source: source.to_owned(), destination: destination.to_owned(), mode: 0o644, uid: 0, gid: 0 }
}

fn store(directory: &Path) -> Store {
    Store::open(&directory.join("store")).unwrap()
}

fn reference() -> Reference {
    "registry.example/team/boot:1".parse().unwrap()
}

/// Writes the same tree with names created in the given order.
fn make_sources(root: &Path, names: &[&str]) {
    fs::create_dir_all(root.join("modules/kernel/drivers")).unwrap();
    for name in names {
        fs::write(root.join("modules").join(name), name.as_bytes()).unwrap();
    }
    symlink("kernel/drivers", root.join("modules/short")).unwrap();
    symlink("/home/someone/linux", root.join("modules/build")).unwrap();
    fs::write(root.join("vmlinuz"), vec![7_u8; 100_000]).unwrap();
    fs::write(root.join("initrd"), b"initrd").unwrap();
}

fn boot_request(root: &Path) -> BuildRequest {
    let files = vec![ImageFile::kernel(root.join("vmlinuz")), ImageFile::initrd(root.join("initrd"))];
    let mut request = request(files, vec![ImageTree::modules(root.join("modules"), "6.1.0-test")]);
    request.labels.insert(LABEL_KERNEL_VERSION.to_owned(), "6.1.0-test".to_owned());
    request
}

const NAMES: [&str; 4] = ["modules.dep", "kernel/a.ko", "kernel/drivers/b.ko", "kernel/drivers/c.ko"];

#[test]
fn equal_inputs_give_equal_digests() {
    for compression in [Compression::Gzip, Compression::Zstd, Compression::None] {
        let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        make_sources(first.path(), &NAMES);
        let mut backwards = NAMES;
        backwards.reverse();
        make_sources(second.path(), &backwards);
        // Other times and, where they do not matter, other modes.
        let changed = second.path().join("modules/modules.dep");
        let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        fs::File::open(&changed).unwrap().set_modified(long_ago).unwrap();
        fs::set_permissions(&changed, fs::Permissions::from_mode(0o600)).unwrap();
        fs::set_permissions(second.path().join("modules/kernel"), fs::Permissions::from_mode(0o700)).unwrap();

        let build_in = |directory: &Path| {
            let mut request = boot_request(directory);
            request.compression = compression;
            build(&store(directory), &reference(), &request).unwrap()
        };
        let (one, other) = (build_in(first.path()), build_in(second.path()));
        assert_eq!(one, other, "{compression}");
        assert_eq!(one.layers.len(), 3);
    }
}

#[test]
fn an_input_that_differs_changes_its_own_layer_only() {
    let directory = tempfile::tempdir().unwrap();
    make_sources(directory.path(), &NAMES);
    let store = store(directory.path());
    let before = build(&store, &reference(), &boot_request(directory.path())).unwrap();
    fs::write(directory.path().join("vmlinuz"), b"another kernel").unwrap();
    let after = build(&store, &reference(), &boot_request(directory.path())).unwrap();
    assert_ne!(before.digest, after.digest);
    assert_eq!(before.layers[0], after.layers[0], "modules");
    assert_ne!(before.layers[1], after.layers[1], "kernel");
    assert_eq!(before.layers[2], after.layers[2], "initrd");
}

#[test]
fn times_come_from_the_request() {
    let directory = tempfile::tempdir().unwrap();
    make_sources(directory.path(), &NAMES);
    let store = store(directory.path());
    let mut request = boot_request(directory.path());
    request.timestamp_seconds = 1_700_000_000;
    let built = build(&store, &reference(), &request).unwrap();
    for entry in entries(&store, &built.layers[0].digest) {
        assert_eq!(entry.mtime, 1_700_000_000, "{}", entry.path);
    }
    let config = config(&store, &built);
    assert_eq!(config["created"], "2023-11-14T22:13:20Z");
    assert_eq!(config["config"]["Labels"][LABEL_CREATED], "2023-11-14T22:13:20Z");
    assert_eq!(config["config"]["Labels"][LABEL_KERNEL_VERSION], "6.1.0-test");
    assert_eq!(config["architecture"], "amd64");
    assert_eq!(config["os"], "linux");
}

/// What a tar entry says, as far as it matters here.
#[derive(Debug, PartialEq)]
struct Seen {
    path: String,
    kind: tar::EntryType,
    mode: u32,
    owner: (u64, u64),
    mtime: u64,
    link: Option<String>,
    content: Vec<u8>,
}

fn entries(store: &Store, layer: &Digest) -> Vec<Seen> {
    let mut blob = Vec::new();
    store.open_blob(layer).unwrap().read_to_end(&mut blob).unwrap();
    let mut archive = tar::Archive::new(flate2::read::MultiGzDecoder::new(&blob[..]));
    let entries = archive.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        Seen {
            path: entry.path().unwrap().to_str().unwrap().to_owned(),
            kind: entry.header().entry_type(),
            mode: entry.header().mode().unwrap(),
            owner: (entry.header().uid().unwrap(), entry.header().gid().unwrap()),
            mtime: entry.header().mtime().unwrap(),
            link: entry.link_name().unwrap().map(|link| link.to_str().unwrap().to_owned()),
            content,
        }
    });
    entries.collect()
}

fn config(store: &Store, built: &BuiltImage) -> serde_json::Value {
    let manifest = store.read_blob(&built.digest, 1 << 20).unwrap().unwrap();
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    let digest = manifest["config"]["digest"].as_str().unwrap().parse().unwrap();
    serde_json::from_slice(&store.read_blob(&digest, 1 << 20).unwrap().unwrap()).unwrap()
}

#[test]
fn boot_files_belong_to_qemu_and_their_directories_to_root() {
    let directory = tempfile::tempdir().unwrap();
    make_sources(directory.path(), &NAMES);
    let store = store(directory.path());
    let built = build(&store, &reference(), &boot_request(directory.path())).unwrap();
    let seen = entries(&store, &built.layers[1].digest);
    let found: Vec<_> = seen.iter().map(|entry| (entry.path.as_str(), entry.mode, entry.owner)).collect();
    assert_eq!(found, [("boot/", 0o755, (0, 0)), ("boot/vmlinuz-virt", 0o444, (107, 107))]);
    assert_eq!(seen[1].content, vec![7_u8; 100_000]);
    let initrd = entries(&store, &built.layers[2].digest);
    assert_eq!(initrd[1].path, "boot/initramfs-virt");
    assert_eq!(initrd[1].owner, (107, 107));
}

#[test]
fn trees_keep_links_and_leave_the_build_link_out() {
    let directory = tempfile::tempdir().unwrap();
    make_sources(directory.path(), &NAMES);
    let tool = directory.path().join("modules/tool");
    fs::write(&tool, b"#!").unwrap();
    fs::set_permissions(&tool, fs::Permissions::from_mode(0o700)).unwrap();
    let store = store(directory.path());
    let built = build(&store, &reference(), &boot_request(directory.path())).unwrap();
    let seen = entries(&store, &built.layers[0].digest);
    let found: Vec<_> = seen
        .iter()
        .map(|entry| (entry.path.strip_prefix("lib/modules/6.1.0-test").unwrap_or(&entry.path), entry.mode))
        .collect();
    assert_eq!(
        found,
        [
            ("lib/", 0o755),
            ("lib/modules/", 0o755),
            ("/", 0o755),
            ("/kernel/", 0o755),
            ("/kernel/a.ko", 0o644),
            ("/kernel/drivers/", 0o755),
            ("/kernel/drivers/b.ko", 0o644),
            ("/kernel/drivers/c.ko", 0o644),
            ("/modules.dep", 0o644),
            ("/short", 0o777),
            ("/tool", 0o755),
        ]
    );
    let link = seen.iter().find(|entry| entry.kind.is_symlink()).unwrap();
    assert_eq!(link.link.as_deref(), Some("kernel/drivers"));
}

#[test]
fn long_names_and_link_targets_survive() {
    let directory = tempfile::tempdir().unwrap();
    let source = directory.path().join("tree");
    let long = "n".repeat(200);
    fs::create_dir_all(source.join(&long)).unwrap();
    fs::write(source.join(&long).join(&long), b"deep").unwrap();
    let target = format!("../{}", "t".repeat(300));
    symlink(&target, source.join("link")).unwrap();
    symlink("./a//b", source.join("odd")).unwrap();
    let store = store(directory.path());
    let built = build(&store, &reference(), &request(vec![], vec![tree(&source, "/")])).unwrap();
    let seen = entries(&store, &built.layers[0].digest);
    let deep = seen.iter().find(|entry| entry.content == b"deep").unwrap();
    assert_eq!(deep.path, format!("{long}/{long}"));
    let links: Vec<_> = seen.iter().filter_map(|entry| entry.link.as_deref()).collect();
    assert_eq!(links, [target.as_str(), "./a//b"]);
}

#[test]
fn the_config_tells_the_digests_of_the_uncompressed_layers() {
    let directory = tempfile::tempdir().unwrap();
    make_sources(directory.path(), &NAMES);
    let store = store(directory.path());
    let built = build(&store, &reference(), &boot_request(directory.path())).unwrap();
    let expected = built.layers.iter().map(|layer| {
        let mut plain = Vec::new();
        flate2::read::MultiGzDecoder::new(store.open_blob(&layer.digest).unwrap())
            .read_to_end(&mut plain)
            .unwrap();
        Digest::sha256_of(&plain).to_string()
    });
    let config = config(&store, &built);
    let told: Vec<_> = config["rootfs"]["diff_ids"]
        .as_array()
        .unwrap()
        .iter()
        .map(|id| id.as_str().unwrap().to_owned())
        .collect();
    assert_eq!(told, expected.collect::<Vec<_>>());
}

/// The error of a build that must fail, after seeing that it named nothing in the store.
fn refused(directory: &Path, request: &BuildRequest) -> BuildError {
    let store = store(directory);
    let error = build(&store, &reference(), request).unwrap_err();
    assert!(store.records().unwrap().is_empty(), "a failed build must not name an image");
    error
}

#[test]
fn unusable_sources_are_refused_by_name() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    let plain = root.join("plain");
    fs::write(&plain, b"x").unwrap();
    let special = root.join("special");
    fs::create_dir(&special).unwrap();
    std::os::unix::net::UnixListener::bind(special.join("socket")).unwrap();
    let whiteout = root.join("whiteout");
    fs::create_dir(&whiteout).unwrap();
    fs::write(whiteout.join(".wh.gone"), b"").unwrap();
    let missing = root.join("missing");

    let cases: Vec<(BuildRequest, String)> = vec![
        (request(vec![], vec![]), "cannot build an image of nothing".to_owned()),
        (request(vec![file(&missing, "/a")], vec![]), format!("cannot read `{}`", missing.display())),
        (
            request(vec![file(root, "/a")], vec![]),
            format!("cannot copy `{}` as a file: it is a directory", root.display()),
        ),
        (
            request(vec![], vec![tree(&plain, "/a")]),
            format!("cannot copy `{}` as a directory: it is a file", plain.display()),
        ),
        (
            request(vec![], vec![tree(&special, "/a")]),
            format!(
                "cannot carry `{}`: it is a socket, not a file, directory or symbolic link",
                special.join("socket").display()
            ),
        ),
        (
            request(vec![], vec![tree(&whiteout, "/a")]),
            format!(
                "cannot carry `{}`: in a layer a name beginning with `.wh.` means removal",
                whiteout.join(".wh.gone").display()
            ),
        ),
    ];
    for (request, message) in cases {
        assert_eq!(refused(root, &request).to_string(), message);
    }
}

#[test]
fn destinations_are_absolute_and_stay_inside() {
    let directory = tempfile::tempdir().unwrap();
    let source = directory.path().join("plain");
    fs::write(&source, b"x").unwrap();
    for (destination, reason) in [
        ("boot/kernel", "it does not begin with `/`"),
        ("", "it does not begin with `/`"),
        ("/boot/../kernel", "it holds `..`"),
        ("/boot/", "it ends with `/`, so it names a directory, not a file"),
        ("/", "it names the image's root, not a file"),
        ("/boot/.wh.kernel", "a name beginning with `.wh.` means removal in a layer"),
        ("/boot/a\nb", "it holds a control character"),
    ] {
        let error = refused(directory.path(), &request(vec![file(&source, destination)], vec![]));
        assert_eq!(error.to_string(), format!("cannot use `{destination}` as a path in the image: {reason}"));
    }
}

#[test]
fn two_sources_for_one_path_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    let source = root.join("plain");
    fs::write(&source, b"x").unwrap();
    let links = root.join("links");
    fs::create_dir(&links).unwrap();
    symlink("usr/lib", links.join("lib")).unwrap();

    let twice = request(vec![file(&source, "/boot/a"), file(&source, "/boot//a")], vec![]);
    let through_a_file = request(vec![file(&source, "/boot"), file(&source, "/boot/a")], vec![]);
    let through_a_link = request(vec![file(&source, "/lib/a")], vec![tree(&links, "/")]);
    for (request, path) in [(twice, "/boot/a"), (through_a_file, "/boot"), (through_a_link, "/lib")] {
        let error = refused(root, &request);
        assert_eq!(error.to_string(), format!("cannot put two things at `{path}` in the image"));
    }
    let side_by_side = request(vec![file(&source, "/boot/a"), file(&source, "/boot/b")], vec![]);
    build(&store(root), &reference(), &side_by_side).unwrap();
}

#[test]
fn a_source_that_changes_after_planning_is_noticed() {
    let directory = tempfile::tempdir().unwrap();
    let source = directory.path().join("kernel");
    for (planned, found) in [(&b"long content"[..], &b"short"[..]), (b"short", b"long content")] {
        fs::write(&source, planned).unwrap();
        let layers = plan(&request(vec![ImageFile::kernel(source.clone())], vec![])).unwrap();
        fs::write(&source, found).unwrap();
        let error =
            layer_writer::write_layer(&layers[0].entries, 0, Compression::None, &mut Vec::new()).unwrap_err();
        assert!(matches!(&error, BuildError::Changed { path } if *path == source), "{error:?}");
    }
}

#[test]
fn a_plan_does_not_follow_links_in_trees() {
    let directory = tempfile::tempdir().unwrap();
    let source = directory.path().join("tree");
    fs::create_dir(&source).unwrap();
    // A loop, were it followed.
    symlink(".", source.join("self")).unwrap();
    let layers = plan(&request(vec![], vec![tree(&source, "/t")])).unwrap();
    let contents: Vec<_> = layers[0].entries.iter().map(|entry| (&entry.path, &entry.content)).collect();
    assert_eq!(
        contents,
        [
            (&PathBuf::from("t"), &Content::Directory),
            (&PathBuf::from("t/self"), &Content::Symlink { target: PathBuf::from(".") }),
        ]
    );
}

#[test]
fn a_build_that_fails_leaves_the_earlier_image() {
    let directory = tempfile::tempdir().unwrap();
    make_sources(directory.path(), &NAMES);
    let store = store(directory.path());
    let before = build(&store, &reference(), &boot_request(directory.path())).unwrap();
    fs::remove_file(directory.path().join("initrd")).unwrap();
    build(&store, &reference(), &boot_request(directory.path())).unwrap_err();
    let named = store.records().unwrap();
    assert_eq!(named.len(), 1);
    assert_eq!(named[0].0.manifest_digest, before.digest);
}

#[test]
fn compressions_have_the_names_that_they_are_given_by() {
    for compression in [Compression::Gzip, Compression::Zstd, Compression::None] {
        assert_eq!(compression.to_string().parse(), Ok(compression));
    }
    let error = "xz".parse::<Compression>().unwrap_err();
    assert_eq!(error.to_string(), "unknown compression `xz`, expected `gzip`, `zstd` or `none`");
}
