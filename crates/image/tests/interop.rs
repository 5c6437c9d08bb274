//! Images made here, in the hands of the usual container tools, and theirs in ours.
//!
//! The other side is real: Debian's `docker-registry` on a loopback port, `skopeo`, `buildah` and `podman`
//! with storage of their own. Each test starts its own registry and leaves nothing behind.

#![allow(clippy::unwrap_used)]

#[path = "support/real_registry.rs"]
mod real_registry;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use image::archive::{LoadRequest, LoadSource, load, save_to_file};
use image::build::{self, BuildRequest, BuiltImage, Compression, ImageFile, ImageTree};
use image::push::{BlobOutcome, PushError, PushEvent, PushProgress, PushRequest, push};
use image::store::Area;
use image::{Client, Platform, PullSecret, Reference, RegistryError, RegistrySettings, Store, UserMode};
use real_registry::{PASSWORD, RealRegistry, Rerun, Tools, USER, rerun_as_root, write_file};

const KERNEL: &[u8] = b"not a kernel, but this test cares for bytes only";
const INITRD: &[u8] = b"nor is this an initrd";

/// Everything one test needs: a registry, the tools, our store and our client.
struct Bench {
    registry: RealRegistry,
    tools: Tools,
    store: Store,
    client: Client,
}

impl Bench {
    fn new() -> Self {
        Self::with(RealRegistry::start())
    }

    fn with(registry: RealRegistry) -> Self {
        let tools = Tools::new();
        let store = Store::open(&tools.path("our store")).unwrap();
        // No variable is set, so that no configuration of whoever runs the tests takes part.
        let home = tools.path("home");
        let settings = RegistrySettings::from_env(
            |name| (name == "HOME").then(|| home.to_str().unwrap().to_owned()),
            UserMode::User,
        );
        let client = Client::new(settings).unwrap();
        Self { registry, tools, store, client }
    }

    fn reference(&self, name: &str) -> Reference {
        format!("{}/{name}", self.registry.host()).parse().unwrap()
    }

    fn source(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.tools.path("sources").join(name);
        write_file(&path, content);
        path
    }

    /// Builds an image with kernel, initrd and a few modules.
    fn build(&self, name: &str, compression: Compression) -> BuiltImage {
        let modules = self.tools.path("sources/modules");
        write_file(&modules.join("kernel/drivers/virtio.ko"), b"module");
        write_file(&modules.join("modules.dep"), b"kernel/drivers/virtio.ko:");
        let link = modules.join("latest");
        if !link.is_symlink() {
            symlink("kernel/drivers", &link).unwrap();
        }
        let files = vec![
            ImageFile::kernel(self.source("vmlinuz", KERNEL)),
            ImageFile::initrd(self.source("initrd", INITRD)),
        ];
        let request = BuildRequest {
            files,
            trees: vec![ImageTree::modules(modules, "6.1.0-test")],
            labels: BTreeMap::from([(build::LABEL_KERNEL_VERSION.to_owned(), "6.1.0-test".to_owned())]),
            platform: Platform::linux("amd64"),
            compression,
            timestamp_seconds: 0,
        };
        build::build(&self.store, &self.reference(name), &request).unwrap()
    }

    async fn push(&self, name: &str) -> (image::push::PushedImage, Vec<PushEvent>) {
        let request = PushRequest {
            image: self.reference(name),
            destination: self.reference(name),
            platform: Platform::linux("amd64"),
            secrets: Vec::new(),
        };
        let events = Arc::new(Events::default());
        let progress: Arc<dyn PushProgress> = events.clone();
        let pushed = push(&self.store, &self.client, &request, progress).await.unwrap();
        let events = events.0.lock().unwrap().clone();
        (pushed, events)
    }

    /// `docker://` and the name that skopeo knows an image of the registry by.
    fn remote(&self, name: &str) -> String {
        format!("docker://{}/{name}", self.registry.host())
    }
}

#[derive(Default)]
struct Events(Mutex<Vec<PushEvent>>);

impl PushProgress for Events {
    fn event(&self, event: PushEvent) {
        self.0.lock().unwrap().push(event);
    }
}

/// The files of an image that podman has, mounted by unpacking it.
fn podman_files(tools: &Tools, image: &str) -> PathBuf {
    let mounted = tools.podman(["image", "mount", image]);
    PathBuf::from(mounted.trim())
}

/// That a root file system holds what [`Bench::build`] put in.
fn assert_boot_files(root: &Path) {
    for (name, content) in [("boot/vmlinuz-virt", KERNEL), ("boot/initramfs-virt", INITRD)] {
        let path = root.join(name);
        assert_eq!(fs::read(&path).unwrap(), content);
        let metadata = fs::metadata(&path).unwrap();
        assert_eq!((metadata.uid(), metadata.gid()), (107, 107), "{name}");
        assert_eq!(metadata.permissions().mode() & 0o7777, 0o444, "{name}");
        assert_eq!(metadata.mtime(), 0, "{name}");
    }
    let boot = fs::metadata(root.join("boot")).unwrap();
    assert_eq!((boot.uid(), boot.gid(), boot.permissions().mode() & 0o7777), (0, 0, 0o755));
    let modules = root.join("lib/modules/6.1.0-test");
    assert_eq!(fs::read_link(modules.join("latest")).unwrap(), Path::new("kernel/drivers"));
    assert_eq!(fs::read(modules.join("latest/virtio.ko")).unwrap(), b"module");
}

fn assert_label(inspected: &str) {
    let inspected: serde_json::Value = serde_json::from_str(inspected).unwrap();
    assert_eq!(inspected["Labels"][build::LABEL_KERNEL_VERSION], "6.1.0-test");
    assert_eq!(inspected["Architecture"], "amd64");
    assert_eq!(inspected["Os"], "linux");
}

#[tokio::test]
async fn our_images_are_pulled_by_skopeo_and_podman() {
    if rerun_as_root("our_images_are_pulled_by_skopeo_and_podman") == Rerun::Passed {
        return;
    }
    let bench = Bench::new();
    for compression in [Compression::Gzip, Compression::Zstd, Compression::None] {
        let name = format!("team/{compression}:1");
        let built = bench.build(&name, compression);
        let (pushed, _) = bench.push(&name).await;
        assert_eq!(pushed.digest, built.digest);

        let inspected = bench.tools.skopeo(["inspect", "--tls-verify=false", &bench.remote(&name)]);
        assert_label(&inspected);
        let inspected: serde_json::Value = serde_json::from_str(&inspected).unwrap();
        assert_eq!(inspected["Digest"], built.digest.to_string());

        let layout = bench.tools.path(&format!("pulled-{compression}"));
        let target = format!("dir:{}", layout.display());
        bench.tools.skopeo(["copy", "--src-tls-verify=false", &bench.remote(&name), &target]);
        for layer in &built.layers {
            assert_eq!(fs::metadata(layout.join(layer.digest.hex())).unwrap().len(), layer.size_bytes);
        }

        let image = format!("{}/{name}", bench.registry.host());
        bench.tools.podman(["pull", "--tls-verify=false", &image]);
        assert_boot_files(&podman_files(&bench.tools, &image));
    }
}

#[tokio::test]
async fn what_the_registry_has_is_not_sent_again() {
    let bench = Bench::new();
    let built = bench.build("team/boot:1", Compression::Gzip);
    let (first, events) = bench.push("team/boot:1").await;
    assert_eq!(first.skipped_blobs, 0);
    assert!(first.uploaded_bytes > built.layers.iter().map(|layer| layer.size_bytes).sum());
    for layer in &built.layers {
        let digest = &layer.digest;
        assert!(bench.registry.blob_file(&digest.to_string()).is_file());
        let started = PushEvent::BlobStarted { digest: digest.clone(), total_bytes: layer.size_bytes };
        let progress = PushEvent::BlobProgress { digest: digest.clone(), sent_bytes: layer.size_bytes };
        let done = PushEvent::BlobDone { digest: digest.clone(), outcome: BlobOutcome::Uploaded };
        let mine: Vec<_> =
            events.iter().filter(|event| [&started, &progress, &done].contains(event)).collect();
        assert_eq!(mine, [&started, &progress, &done], "{events:?}");
    }

    let (second, events) = bench.push("team/boot:1").await;
    assert_eq!((second.uploaded_bytes, second.skipped_blobs), (0, 4));
    assert!(
        events
            .iter()
            .all(|event| matches!(event, PushEvent::BlobDone { outcome: BlobOutcome::AlreadyThere, .. })),
        "{events:?}"
    );

    // Another kernel, and nothing else, goes over.
    bench.source("vmlinuz", b"a newer kernel");
    let files = vec![
        ImageFile::kernel(bench.tools.path("sources/vmlinuz")),
        ImageFile::initrd(bench.tools.path("sources/initrd")),
    ];
    let request = BuildRequest {
        files,
        trees: vec![ImageTree::modules(bench.tools.path("sources/modules"), "6.1.0-test")],
        labels: BTreeMap::new(),
        platform: Platform::linux("amd64"),
        compression: Compression::Gzip,
        timestamp_seconds: 0,
    };
    build::build(&bench.store, &bench.reference("team/boot:1"), &request).unwrap();
    let (third, _) = bench.push("team/boot:1").await;
    assert_eq!(third.skipped_blobs, 2, "modules and initrd are unchanged, kernel and config are not");
}

#[tokio::test]
async fn a_corrupted_blob_is_not_pushed() {
    let bench = Bench::new();
    let built = bench.build("team/boot:1", Compression::Gzip);
    let digest = &built.layers[1].digest;
    let path = bench.store.content_path(Area::Blobs, digest);
    let length = fs::metadata(&path).unwrap().len();
    fs::remove_file(&path).unwrap();
    fs::write(&path, vec![0; usize::try_from(length).unwrap()]).unwrap();
    let request = PushRequest {
        image: bench.reference("team/boot:1"),
        destination: bench.reference("team/boot:1"),
        platform: Platform::linux("amd64"),
        secrets: Vec::new(),
    };
    let error = push(&bench.store, &bench.client, &request, Arc::new(Events::default())).await.unwrap_err();
    let expected =
        format!("cannot push `{}`: blob `{digest}` was corrupted in the image store", request.destination);
    assert_eq!(error.to_string(), expected);
    assert!(error.hint().unwrap().contains("ferrovirt image pull"));
    // Neither the blob nor a manifest went over.
    assert!(!bench.registry.blob_file(&digest.to_string()).exists());
    assert!(!bench.registry.blob_file(&built.digest.to_string()).exists());
}

#[tokio::test]
async fn a_push_to_nowhere_fails_with_the_registry_error() {
    let bench = Bench::new();
    bench.build("team/boot:1", Compression::Gzip);
    // A port that was free a moment ago.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let request = PushRequest {
        image: bench.reference("team/boot:1"),
        destination: format!("127.0.0.1:{port}/team/boot:1").parse().unwrap(),
        platform: Platform::linux("amd64"),
        secrets: Vec::new(),
    };
    let settings = RegistrySettings::from_env(|_| None, UserMode::User);
    let client = Client::new(image::RegistrySettings {
        retry: image::settings::RetryPolicy { attempts: 1, ..settings.retry },
        ..settings
    })
    .unwrap();
    let error = push(&bench.store, &client, &request, Arc::new(Events::default())).await.unwrap_err();
    assert_eq!(error.to_string(), format!("cannot push `{}`", request.destination));
    assert!(matches!(error, image::push::PushError::Registry { .. }), "{error:?}");
}

#[tokio::test]
async fn a_registry_with_a_password_wants_it() {
    let bench = Bench::with(RealRegistry::start_with_password());
    let built = bench.build("team/boot:1", Compression::Gzip);
    let secret = |password: &str| {
        let auth = BASE64.encode(format!("{USER}:{password}"));
        let config = serde_json::json!({"auths": {bench.registry.host(): {"auth": auth}}});
        PullSecret::from_docker_config_json("test", config.to_string().as_bytes()).unwrap()
    };
    let request = |secrets| PushRequest {
        image: bench.reference("team/boot:1"),
        destination: bench.reference("team/boot:1"),
        platform: Platform::linux("amd64"),
        secrets,
    };
    let attempt = async |secrets| {
        push(&bench.store, &bench.client, &request(secrets), Arc::new(Events::default())).await
    };

    let PushError::Registry { source, .. } = attempt(vec![]).await.unwrap_err() else { panic!() };
    assert!(matches!(source, RegistryError::NoCredentials { .. }), "{source:?}");
    let PushError::Registry { source, .. } = attempt(vec![secret("wrong")]).await.unwrap_err() else {
        panic!()
    };
    assert!(matches!(source, RegistryError::CredentialsRefused { .. }), "{source:?}");
    let pushed = attempt(vec![secret(PASSWORD)]).await.unwrap();
    assert_eq!(pushed.digest, built.digest);

    let credentials = format!("--creds={USER}:{PASSWORD}");
    let remote = bench.remote("team/boot:1");
    assert_label(&bench.tools.skopeo(["inspect", "--tls-verify=false", &credentials, &remote]));
}

#[test]
fn our_archives_are_read_by_skopeo_and_podman() {
    if rerun_as_root("our_archives_are_read_by_skopeo_and_podman") == Rerun::Passed {
        return;
    }
    let bench = Bench::new();
    for compression in [Compression::Gzip, Compression::Zstd, Compression::None] {
        let name = format!("team/{compression}:1");
        let built = bench.build(&name, compression);
        let reference = bench.reference(&name);
        let archive = bench.tools.path(&format!("{compression}.tar"));
        let platform = Platform::linux("amd64");
        save_to_file(&bench.store, std::slice::from_ref(&reference), &platform, &archive).unwrap();

        // As an OCI layout, with and without its name, and as a Docker archive.
        for source in [
            format!("oci-archive:{}", archive.display()),
            format!("oci-archive:{}:{reference}", archive.display()),
            format!("docker-archive:{}", archive.display()),
            format!("docker-archive:{}:{reference}", archive.display()),
        ] {
            assert_label(&bench.tools.skopeo(["inspect", &source]));
        }
        let copied = bench.tools.path(&format!("copied-{compression}"));
        let source = format!("oci-archive:{}", archive.display());
        bench.tools.skopeo(["copy", &source, &format!("dir:{}", copied.display())]);
        let manifest = fs::read(copied.join("manifest.json")).unwrap();
        assert_eq!(image::Digest::sha256_of(&manifest), built.digest);

        let loaded = bench.tools.podman(["load", "--input", archive.to_str().unwrap()]);
        assert!(loaded.contains(&reference.to_string()), "{loaded}");
        assert_boot_files(&podman_files(&bench.tools, &reference.to_string()));
    }
}

/// An image made by buildah, with two layers, of which the upper removes a file of the lower.
fn buildah_image(tools: &Tools, name: &str) {
    let sources = tools.path("buildah");
    write_file(&sources.join("vmlinuz"), KERNEL);
    write_file(&sources.join("initrd"), INITRD);
    write_file(&sources.join("old"), b"to be removed");
    let from = |base: &str| tools.buildah(["from", base]).trim().to_owned();
    let copy = |container: &str, source: &str, destination: &str| {
        let source = sources.join(source);
        let source = source.to_str().unwrap();
        tools.buildah(["copy", "--chown", "107:107", container, source, destination]);
    };
    let lower = from("scratch");
    copy(&lower, "vmlinuz", "/boot/vmlinuz-virt");
    copy(&lower, "old", "/boot/old");
    tools.buildah(["commit", &lower, "lower"]);
    let upper = from("localhost/lower");
    copy(&upper, "initrd", "/boot/initramfs-virt");
    let root = PathBuf::from(tools.buildah(["mount", &upper]).trim());
    fs::remove_file(root.join("boot/old")).unwrap();
    symlink("vmlinuz-virt", root.join("boot/kernel")).unwrap();
    tools.buildah(["umount", &upper]);
    tools.buildah(["commit", &upper, name]);
}

#[test]
fn archives_of_other_tools_are_loaded() {
    if rerun_as_root("archives_of_other_tools_are_loaded") == Rerun::Passed {
        return;
    }
    let bench = Bench::new();
    buildah_image(&bench.tools, "registry.example/theirs:1");
    let image = "registry.example/theirs:1";
    let reference: Reference = image.parse().unwrap();
    let request =
        |name: Option<&Reference>| LoadRequest { name: name.cloned(), platform: Platform::linux("amd64") };
    let (oci, docker) = (bench.tools.path("oci.tar"), bench.tools.path("docker.tar"));
    bench.tools.podman(["save", "--format", "oci-archive", "--output", oci.to_str().unwrap(), image]);
    bench.tools.podman(["save", "--format", "docker-archive", "--output", docker.to_str().unwrap(), image]);
    let layout = bench.tools.path("layout");
    bench.tools.buildah(["push", image, &format!("oci:{}:latest", layout.display())]);
    let compressed = bench.tools.path("compressed");
    let zstd = ["copy", "--dest-compress-format", "zstd", "--dest-compress-level", "3"];
    let (from, to) = (format!("oci-archive:{}", oci.display()), format!("oci:{}", compressed.display()));
    bench.tools.skopeo(zstd.into_iter().chain([from.as_str(), to.as_str()]));

    for (index, (path, name)) in
        [(&oci, None), (&docker, None), (&layout, Some(&reference)), (&compressed, Some(&reference))]
            .into_iter()
            .enumerate()
    {
        let store = Store::open(&bench.tools.path(&format!("store{index}"))).unwrap();
        let loaded = load(&store, LoadSource::Path(path), &request(name)).unwrap();
        assert_eq!(loaded[0].references, std::slice::from_ref(&reference), "{}", path.display());
        // Complete and sound: other tools read what we make of it.
        let again = bench.tools.path(&format!("again{index}.tar"));
        save_to_file(&store, std::slice::from_ref(&reference), &Platform::linux("amd64"), &again).unwrap();
        bench.tools.podman(["image", "rm", "--force", image]);
        bench.tools.podman(["load", "--input", again.to_str().unwrap()]);
        let root = podman_files(&bench.tools, image);
        assert_eq!(fs::read(root.join("boot/kernel")).unwrap(), KERNEL);
        assert_eq!(fs::read(root.join("boot/initramfs-virt")).unwrap(), INITRD);
        assert!(!root.join("boot/old").exists());
        bench.tools.podman(["image", "umount", "--force", image]);
    }
}
