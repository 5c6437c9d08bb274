//! Images made by other tools, pulled here out of a real registry.
//!
//! What varies is what differs between the images of the world: manifest format, compression, layers that
//! remove or replace what is below them, links, lists of several platforms.

#![allow(clippy::unwrap_used)]

#[path = "support/real_registry.rs"]
mod real_registry;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use image::build::{self, BuildRequest, Compression, ImageFile, ImageTree};
use image::push::{PushEvent, PushProgress, PushRequest, push};
use image::{
    Client, Images, Platform, PullError, PullEvent, PullPolicy, PullProgress, PullRequest, PulledImage,
    Reference, RegistrySettings, Store, UserMode, Wanted, WantedFile,
};
use real_registry::{RealRegistry, Rerun, Tools, rerun_as_root, write_file};

/// A registry with the tools that fill it, and our side.
struct Bench {
    registry: RealRegistry,
    tools: Tools,
}

/// Ignores progress of pushes; remembers which layers a pull asked for.
#[derive(Default)]
struct Heard(Mutex<Vec<String>>);

impl PullProgress for Heard {
    fn event(&self, event: PullEvent) {
        if let PullEvent::LayerStarted { digest, .. } = event {
            self.0.lock().unwrap().push(digest.to_string());
        }
    }
}

impl PushProgress for Heard {
    fn event(&self, _: PushEvent) {}
}

fn client() -> Client {
    // No variable is set, so that no configuration of whoever runs the tests takes part.
    Client::new(RegistrySettings::from_env(|_| None, UserMode::User)).unwrap()
}

impl Bench {
    fn new() -> Self {
        Self { registry: RealRegistry::start(), tools: Tools::new() }
    }

    fn reference(&self, name: &str) -> Reference {
        format!("{}/{name}", self.registry.host()).parse().unwrap()
    }

    fn remote(&self, name: &str) -> String {
        format!("docker://{}/{name}", self.registry.host())
    }

    fn source(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.tools.path("sources").join(name);
        write_file(&path, content);
        path
    }

    /// A new container on top of `base`, as its name and its root directory.
    fn container(&self, base: &str) -> (String, PathBuf) {
        let name = self.tools.buildah(["from", base]).trim().to_owned();
        let root = PathBuf::from(self.tools.buildah(["mount", &name]).trim());
        (name, root)
    }

    fn copy(&self, container: &str, name: &str, content: &[u8], destination: &str) {
        let source = self.source(name, content);
        self.tools.buildah(["copy", "--chown", "107:107", container, source.to_str().unwrap(), destination]);
    }

    /// An image of two layers. The lower has a kernel, a directory that is replaced, and files that are
    /// removed; the upper has the initrd and links.
    fn layered_image(&self, name: &str) {
        let (lower, _) = self.container("scratch");
        self.copy(&lower, "vmlinuz", b"the kernel", "/boot/real/vmlinuz");
        self.copy(&lower, "old", b"to be removed", "/boot/old");
        self.copy(&lower, "below", b"hidden by a new directory", "/replaced/below");
        self.tools.buildah(["commit", "--rm", &lower, "lower"]);
        let (upper, root) = self.container("localhost/lower");
        self.copy(&upper, "initrd", b"the initrd", "/boot/initramfs-virt");
        fs::remove_file(root.join("boot/old")).unwrap();
        fs::remove_dir_all(root.join("replaced")).unwrap();
        fs::create_dir(root.join("replaced")).unwrap();
        fs::write(root.join("replaced/above"), b"new").unwrap();
        // Absolute: it counts from the image's root, wherever that is.
        symlink("/boot/real", root.join("boot/link")).unwrap();
        symlink("../boot/link/vmlinuz", root.join("boot/vmlinuz-virt")).unwrap();
        self.tools.buildah(["commit", "--rm", &upper, name]);
    }

    async fn pull(&self, reference: &Reference, paths: &[&str]) -> Result<PulledImage, PullError> {
        let store = Store::open(&self.tools.path("our store")).unwrap();
        self.pull_into(store, reference, paths, &Heard::default()).await
    }

    async fn pull_into(
        &self,
        store: Store,
        reference: &Reference,
        paths: &[&str],
        heard: &Heard,
    ) -> Result<PulledImage, PullError> {
        let files =
            paths.iter().map(|path| WantedFile { role: (*path).to_owned(), path: (*path).to_owned() });
        let request = PullRequest {
            reference: reference.clone(),
            policy: PullPolicy::Always,
            wanted: Wanted::Files(files.collect()),
            platform: Platform::linux("amd64"),
            secrets: Vec::new(),
        };
        Images::new(store, client()).pull(&request, heard).await
    }
}

impl Bench {
    /// Pulls all of an image, sends it on under another name, and returns the digests of what was pulled (of
    /// the one platform) and of what skopeo then finds there.
    async fn pass_on(&self, name: &str) -> (String, String) {
        let store = Store::open(&self.tools.path(&format!("passing on {name}").replace('/', " "))).unwrap();
        let destination = format!("passed-on/{name}");
        let request = PullRequest {
            reference: self.reference(name),
            policy: PullPolicy::Always,
            wanted: Wanted::Everything,
            platform: Platform::linux("amd64"),
            secrets: Vec::new(),
        };
        let pulled = Images::new(store.clone(), client()).pull(&request, &Heard::default()).await.unwrap();
        let request = PushRequest {
            image: request.reference,
            destination: self.reference(&destination),
            platform: request.platform,
            secrets: Vec::new(),
        };
        push(&store, &client(), &request, Arc::new(Heard::default())).await.unwrap();
        let format = "--format={{.Digest}}";
        let found = self.tools.skopeo(["inspect", "--tls-verify=false", format, &self.remote(&destination)]);
        (pulled.platform_digest.to_string(), found.trim().to_owned())
    }
}

fn contents(image: &PulledImage) -> Vec<(String, Vec<u8>, (u32, u32))> {
    let files = image.files.iter();
    files.map(|file| (file.resolved.clone(), fs::read(&file.path).unwrap(), (file.uid, file.gid))).collect()
}

#[tokio::test]
async fn images_of_buildah_in_every_format() {
    if rerun_as_root("images_of_buildah_in_every_format") == Rerun::Passed {
        return;
    }
    let bench = Bench::new();
    bench.layered_image("theirs");
    for (name, options) in [
        ("gzip:1", &["--format", "oci"][..]),
        ("docker:1", &["--format", "v2s2"]),
        ("zstd:1", &["--format", "oci", "--compression-format", "zstd"]),
        ("plain:1", &["--format", "oci", "--disable-compression"]),
    ] {
        let remote = bench.remote(name);
        let push = ["push", "--tls-verify=false"].into_iter().chain(options.iter().copied());
        bench.tools.buildah(push.chain(["localhost/theirs", remote.as_str()]));

        let reference = bench.reference(name);
        let image = bench.pull(&reference, &["/boot/vmlinuz-virt", "/boot/initramfs-virt"]).await.unwrap();
        let expected = [
            ("/boot/real/vmlinuz".to_owned(), b"the kernel".to_vec(), (107, 107)),
            ("/boot/initramfs-virt".to_owned(), b"the initrd".to_vec(), (107, 107)),
        ];
        assert_eq!(contents(&image), expected, "{name}");

        let above = bench.pull(&reference, &["/replaced/above"]).await.unwrap();
        assert_eq!(contents(&above)[0].1, b"new");
        for gone in ["/boot/old", "/replaced/below"] {
            let error = bench.pull(&reference, &[gone]).await.unwrap_err();
            assert!(matches!(error, PullError::Path { .. }), "{name}: {gone}: {error:?}");
        }
    }
}

#[tokio::test]
async fn of_a_manifest_list_the_wanted_platform_is_pulled() {
    if rerun_as_root("of_a_manifest_list_the_wanted_platform_is_pulled") == Rerun::Passed {
        return;
    }
    let bench = Bench::new();
    bench.tools.buildah(["manifest", "create", "multi"]);
    for architecture in ["arm64", "amd64"] {
        let (container, _) = bench.container("scratch");
        bench.tools.buildah(["config", "--arch", architecture, &container]);
        bench.copy(&container, architecture, architecture.as_bytes(), "/boot/vmlinuz-virt");
        let name = format!("localhost/{architecture}");
        bench.tools.buildah(["commit", "--rm", &container, &name]);
        bench.tools.buildah(["manifest", "add", "multi", &name]);
    }
    for (name, format) in [("oci:1", "oci"), ("docker:1", "v2s2")] {
        let push = ["manifest", "push", "--all", "--tls-verify=false", "--format", format, "multi"];
        let remote = bench.remote(name);
        bench.tools.buildah(push.into_iter().chain([remote.as_str()]));
        let image = bench.pull(&bench.reference(name), &["/boot/vmlinuz-virt"]).await.unwrap();
        assert_eq!(contents(&image)[0].1, b"amd64", "{name}");
        assert_ne!(image.manifest_digest, image.platform_digest, "{name} is a list");
        let (pulled, passed_on) = bench.pass_on(name).await;
        assert_eq!(pulled, passed_on, "{name}");
    }
}

#[tokio::test]
async fn a_boot_out_of_our_own_image_leaves_the_modules_alone() {
    let bench = Bench::new();
    write_file(&bench.tools.path("sources/modules/kernel/large.ko"), &vec![7; 300_000]);
    let request = |kernel: &[u8]| BuildRequest {
        files: vec![
            ImageFile::kernel(bench.source("vmlinuz", kernel)),
            ImageFile::initrd(bench.source("initrd", b"the initrd")),
        ],
        trees: vec![ImageTree::modules(bench.tools.path("sources/modules"), "6.1.0")],
        labels: BTreeMap::new(),
        platform: Platform::linux("amd64"),
        compression: Compression::Gzip,
        timestamp_seconds: 0,
    };
    let reference = bench.reference("team/boot:1");
    let builder = Store::open(&bench.tools.path("builder")).unwrap();
    let booter = Store::open(&bench.tools.path("booter")).unwrap();
    let paths = [build::KERNEL_PATH, build::INITRD_PATH];
    let push_request = PushRequest {
        image: reference.clone(),
        destination: reference.clone(),
        platform: Platform::linux("amd64"),
        secrets: Vec::new(),
    };

    let first = build::build(&builder, &reference, &request(b"kernel one")).unwrap();
    push(&builder, &client(), &push_request, Arc::new(Heard::default())).await.unwrap();
    let heard = Heard::default();
    let image = bench.pull_into(booter.clone(), &reference, &paths, &heard).await.unwrap();
    assert_eq!(image.manifest_digest, first.digest);
    let expected = [
        (build::KERNEL_PATH.to_owned(), b"kernel one".to_vec(), (107, 107)),
        (build::INITRD_PATH.to_owned(), b"the initrd".to_vec(), (107, 107)),
    ];
    assert_eq!(contents(&image), expected);
    let mut asked = heard.0.lock().unwrap().clone();
    asked.sort();
    let mut upper: Vec<_> = first.layers[1..].iter().map(|layer| layer.digest.to_string()).collect();
    upper.sort();
    assert_eq!(asked, upper, "kernel and initrd, not the modules");

    // The same tag with another kernel: one layer and the small documents come over.
    let second = build::build(&builder, &reference, &request(b"kernel two")).unwrap();
    push(&builder, &client(), &push_request, Arc::new(Heard::default())).await.unwrap();
    let heard = Heard::default();
    let image = bench.pull_into(booter, &reference, &paths, &heard).await.unwrap();
    assert_eq!(contents(&image)[0].1, b"kernel two");
    assert_eq!(image.previous_digest, Some(first.digest));
    assert_eq!(*heard.0.lock().unwrap(), [second.layers[1].digest.to_string()]);
}
