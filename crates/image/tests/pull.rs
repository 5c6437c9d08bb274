//! Pulls from a registry that counts requests and misbehaves when told to.

#![allow(clippy::unwrap_used)]

mod support;

use std::error::Error as _;
use std::io::{Read, Write};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use image::store::{Area, Download, PruneScope, RunMode, Verification};
use image::{
    Client, Digest, Images, Platform, PullError, PullEvent, PullPolicy, PullProgress, PullRequest,
    PulledImage, Reference, RegistrySettings, Store, Wanted, WantedFile, layer::LayerLimits,
    settings::RetryPolicy,
};
use support::fake_registry::{FakeRegistry, Fault, OCI_INDEX, OCI_MANIFEST, Times};

const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const GZIP_LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// A registry and a store.
struct Bench {
    registry: FakeRegistry,
    directory: tempfile::TempDir,
    client: Client,
}

/// An image as it was put into the registry; layers from the lowest.
struct Image {
    manifest: Digest,
    config: Digest,
    layers: Vec<Digest>,
}

#[derive(Default)]
struct Heard(Mutex<Vec<PullEvent>>);

impl PullProgress for Heard {
    fn event(&self, event: PullEvent) {
        self.0.lock().unwrap().push(event);
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A tar archive of files, and of symlinks where the content begins with `-> `.
fn archive(entries: &[(&str, &str)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, content) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_uid(107);
        header.set_gid(107);
        header.set_size(0);
        if let Some(target) = content.strip_prefix("-> ") {
            header.set_entry_type(tar::EntryType::Symlink);
            builder.append_link(&mut header, path, target).unwrap();
        } else {
            header.set_size(content.len() as u64);
            builder.append_data(&mut header, path, content.as_bytes()).unwrap();
        }
    }
    builder.into_inner().unwrap()
}

fn descriptor(media_type: &str, bytes: &[u8]) -> String {
    let digest = Digest::sha256_of(bytes);
    format!(r#"{{"mediaType":"{media_type}","digest":"{digest}","size":{}}}"#, bytes.len())
}

impl Bench {
    async fn new() -> Self {
        let retry = RetryPolicy {
            attempts: 3,
            first_delay: Duration::from_millis(1),
            longest_delay: Duration::from_millis(10),
        };
        Self {
            registry: FakeRegistry::start().await,
            directory: tempfile::tempdir().unwrap(),
            client: Client::new(RegistrySettings { retry, ..RegistrySettings::default() }).unwrap(),
        }
    }

    fn store(&self) -> Store {
        Store::open(&self.directory.path().join("store")).unwrap()
    }

    fn reference(&self) -> Reference {
        format!("{}/team/boot:v1", self.registry.host()).parse().unwrap()
    }

    /// Puts an image for a platform into the registry under the tag `v1`.
    fn image_for(&self, architecture: &str, tars: &[Vec<u8>]) -> Image {
        let diff_ids: Vec<String> =
            tars.iter().map(|tar| format!("\"{}\"", Digest::sha256_of(tar))).collect();
        let config = format!(
            r#"{{"os":"linux","architecture":"{architecture}","rootfs":{{"type":"layers","diff_ids":[{}]}}}}"#,
            diff_ids.join(",")
        );
        let blobs: Vec<Vec<u8>> = tars.iter().map(|tar| gzip(tar)).collect();
        let layers: Vec<String> = blobs.iter().map(|blob| descriptor(GZIP_LAYER, blob)).collect();
        let manifest = format!(
            r#"{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}","config":{},"layers":[{}]}}"#,
            descriptor(OCI_CONFIG, config.as_bytes()),
            layers.join(",")
        );
        Image {
            config: self.registry.add_blob(config.as_bytes()),
            layers: blobs.iter().map(|blob| self.registry.add_blob(blob)).collect(),
            manifest: self.registry.add_manifest("team/boot", "v1", OCI_MANIFEST, manifest.as_bytes()),
        }
    }

    fn image(&self, layers: &[&[(&str, &str)]]) -> Image {
        let tars: Vec<Vec<u8>> = layers.iter().map(|entries| archive(entries)).collect();
        self.image_for("amd64", &tars)
    }

    fn request(&self, policy: PullPolicy, paths: &[&str]) -> PullRequest {
        let files =
            paths.iter().map(|path| WantedFile { role: "kernel".to_owned(), path: (*path).to_owned() });
        PullRequest {
            reference: self.reference(),
            policy,
            wanted: if paths.is_empty() { Wanted::Everything } else { Wanted::Files(files.collect()) },
            platform: Platform::linux("amd64"),
            secrets: Vec::new(),
        }
    }

    async fn pull(&self, policy: PullPolicy, paths: &[&str]) -> Result<PulledImage, PullError> {
        let images = Images::new(self.store(), self.client.clone());
        images.pull(&self.request(policy, paths), &()).await
    }

    /// The requests since the last call, without the repository.
    fn requests(&self) -> Vec<String> {
        let requests = self.registry.requests();
        self.registry.forget_requests();
        requests.iter().map(|request| request.replace("/v2/team/boot", "")).collect()
    }
}

/// Does something once, when an event of a kind is heard.
struct AtEvent<F: FnMut() + Send>(fn(&PullEvent) -> bool, Mutex<Option<F>>, Heard);

impl<F: FnMut() + Send> PullProgress for AtEvent<F> {
    fn event(&self, event: PullEvent) {
        if (self.0)(&event)
            && let Some(mut action) = self.1.lock().unwrap().take()
        {
            action();
        }
        self.2.event(event);
    }
}

/// The error and its causes as one line.
fn chain(error: &PullError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text.push_str(": ");
        text.push_str(&next.to_string());
        cause = next.source();
    }
    text
}

fn content(image: &PulledImage) -> Vec<String> {
    image.files.iter().map(|file| std::fs::read_to_string(&file.path).unwrap()).collect()
}

fn damage(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[0] ^= 1;
    std::fs::remove_file(path).unwrap();
    std::fs::write(path, bytes).unwrap();
}

#[tokio::test]
async fn a_lower_layer_that_cannot_matter_is_never_requested() {
    let bench = Bench::new().await;
    let image = bench.image(&[
        &[("usr/bin/large", "base")],
        &[("boot/vmlinuz-6.1", "kernel"), ("boot/initrd", "initrd"), ("boot/vmlinuz", "-> vmlinuz-6.1")],
    ]);
    let pulled = bench.pull(PullPolicy::Always, &["/boot/vmlinuz", "/boot/initrd"]).await.unwrap();
    let get = |digest: &Digest| format!("GET /blobs/{digest}");
    let mut requests = bench.requests();
    assert_eq!(requests.remove(0), "GET /manifests/v1");
    // Config and top layer side by side, in either order.
    requests.sort();
    let mut expected = [get(&image.config), get(&image.layers[1])];
    expected.sort();
    assert_eq!(requests, expected);
    assert_eq!(content(&pulled), ["kernel", "initrd"]);
    assert_eq!((pulled.requests, pulled.from_cache), (3, false));
    assert!(pulled.bytes_fetched > 0);
    assert_eq!(pulled.manifest_digest, image.manifest);
    let kernel = &pulled.files[0];
    assert_eq!((kernel.requested.as_str(), kernel.resolved.as_str()), ("/boot/vmlinuz", "/boot/vmlinuz-6.1"));
    assert_eq!((kernel.uid, kernel.gid, kernel.mode, kernel.size_bytes), (107, 107, 0o644, 6));
}

#[tokio::test]
async fn an_unchanged_tag_costs_one_request_and_no_blob() {
    let bench = Bench::new().await;
    bench.image(&[&[("boot/vmlinuz", "kernel")]]);
    bench.pull(PullPolicy::Always, &["/boot/vmlinuz"]).await.unwrap();
    bench.requests();
    let pulled = bench.pull(PullPolicy::Always, &["/boot/vmlinuz"]).await.unwrap();
    assert_eq!(bench.requests(), ["HEAD /manifests/v1"]);
    assert_eq!((pulled.requests, pulled.bytes_fetched, pulled.from_cache), (1, 0, true));
    assert_eq!((content(&pulled), pulled.previous_digest), (vec!["kernel".to_owned()], None));
    for policy in [PullPolicy::IfNotPresent, PullPolicy::Never] {
        let pulled = bench.pull(policy, &["/boot/vmlinuz"]).await.unwrap();
        assert_eq!((bench.requests().len(), content(&pulled)), (0, vec!["kernel".to_owned()]));
    }
}

#[tokio::test]
async fn a_changed_tag_brings_the_new_file_and_names_the_old() {
    let bench = Bench::new().await;
    let old = bench.image(&[&[("boot/vmlinuz", "old kernel")]]);
    bench.pull(PullPolicy::Always, &["/boot/vmlinuz"]).await.unwrap();
    let new = bench.image(&[&[("boot/vmlinuz", "new kernel")]]);
    // Having it all does not count as having used it.
    let everything = bench.pull(PullPolicy::Always, &[]).await.unwrap();
    assert_eq!(everything.previous_digest, Some(old.manifest.clone()));
    let pulled = bench.pull(PullPolicy::Always, &["/boot/vmlinuz"]).await.unwrap();
    assert_eq!(content(&pulled), ["new kernel"]);
    assert_eq!((pulled.manifest_digest.clone(), pulled.previous_digest), (new.manifest, Some(old.manifest)));
    assert_eq!(std::fs::read_to_string(&pulled.previous_files[0].path).unwrap(), "old kernel");
    let again = bench.pull(PullPolicy::Always, &["/boot/vmlinuz"]).await.unwrap();
    assert_eq!((again.previous_digest, again.previous_files.len()), (None, 0));
}

#[tokio::test]
async fn never_fetches_nothing_and_says_what_to_do() {
    let bench = Bench::new().await;
    let image = bench.image(&[&[("etc/passwd", "users")], &[("boot/vmlinuz", "kernel")]]);
    let error = bench.pull(PullPolicy::Never, &["/boot/vmlinuz"]).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("image `{}` is not in the image store and the pull policy is `Never`", bench.reference())
    );
    assert!(error.hint().unwrap().contains(&format!("ferrovirt image pull {}", bench.reference())));
    bench.pull(PullPolicy::IfNotPresent, &["/boot/vmlinuz"]).await.unwrap();
    bench.requests();
    let error = bench.pull(PullPolicy::Never, &["/etc/passwd"]).await.unwrap_err();
    assert!(matches!(&error, PullError::NeverAndIncomplete { digest, .. } if *digest == image.layers[0]));
    assert!(bench.requests().is_empty());
    // The missing part alone is fetched.
    let pulled = bench.pull(PullPolicy::IfNotPresent, &["/etc/passwd"]).await.unwrap();
    assert_eq!(content(&pulled), ["users"]);
    assert_eq!(bench.requests(), [format!("GET /blobs/{}", image.layers[0])]);
    // A path that was never asked for, in layers that are there: no request.
    bench.pull(PullPolicy::Never, &["/boot/vmlinuz", "/etc/passwd"]).await.unwrap();
}

#[tokio::test]
async fn damaged_content_in_the_store_is_noticed_and_fetched_again() {
    let bench = Bench::new().await;
    let image = bench.image(&[&[("boot/vmlinuz", "kernel"), ("boot/other", "other")]]);
    let first = bench.pull(PullPolicy::Always, &["/boot/vmlinuz"]).await.unwrap();
    let store = bench.store();
    bench.requests();

    // A file: taken out of its layer again, which is there.
    damage(&first.files[0].path);
    let pulled = bench.pull(PullPolicy::IfNotPresent, &["/boot/vmlinuz"]).await.unwrap();
    assert_eq!((content(&pulled), bench.requests().len()), (vec!["kernel".to_owned()], 0));

    // The layer too: fetched again.
    damage(&first.files[0].path);
    damage(&store.content_path(Area::Blobs, &image.layers[0]));
    let pulled = bench.pull(PullPolicy::IfNotPresent, &["/boot/vmlinuz"]).await.unwrap();
    assert_eq!(content(&pulled), ["kernel"]);
    assert_eq!(bench.requests(), [format!("GET /blobs/{}", image.layers[0])]);
    assert_eq!(store.verify(Area::Blobs, &image.layers[0]).unwrap(), Verification::Intact);

    // The config and the manifest, when they are needed.
    damage(&store.content_path(Area::Blobs, &image.config));
    let pulled = bench.pull(PullPolicy::IfNotPresent, &["/boot/other"]).await.unwrap();
    assert_eq!(
        (content(&pulled), bench.requests()),
        (vec!["other".to_owned()], vec![format!("GET /blobs/{}", image.config)])
    );
    damage(&store.content_path(Area::Blobs, &image.manifest));
    bench.pull(PullPolicy::Always, &["/boot/vmlinuz"]).await.unwrap();
    assert_eq!(bench.requests(), ["GET /manifests/v1"]);
}

#[tokio::test]
async fn the_manifest_for_the_platform_is_chosen_or_those_present_are_told() {
    let bench = Bench::new().await;
    let arm = bench.image_for("arm64", &[archive(&[("boot/vmlinuz", "arm kernel")])]);
    let amd = bench.image_for("amd64", &[archive(&[("boot/vmlinuz", "amd kernel")])]);
    let entry = |digest: &Digest, architecture: &str, os: &str| {
        let size = bench.registry.manifest("team/boot", &digest.to_string()).unwrap().len();
        format!(
            r#"{{"mediaType":"{OCI_MANIFEST}","digest":"{digest}","size":{size},
                "platform":{{"os":"{os}","architecture":"{architecture}"}}}}"#
        )
    };
    let index = |entries: &[String]| {
        let entries = entries.join(",");
        let text = format!(r#"{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","manifests":[{entries}]}}"#);
        bench.registry.add_manifest("team/boot", "v1", OCI_INDEX, text.as_bytes())
    };
    let attestation = entry(&arm.manifest, "unknown", "unknown");
    let digest = index(&[
        attestation.clone(),
        entry(&arm.manifest, "arm64", "linux"),
        entry(&amd.manifest, "amd64", "linux"),
    ]);
    let pulled = bench.pull(PullPolicy::Always, &["/boot/vmlinuz"]).await.unwrap();
    assert_eq!(content(&pulled), ["amd kernel"]);
    assert_eq!((pulled.manifest_digest, pulled.platform_digest), (digest, amd.manifest));
    bench.requests();
    bench.pull(PullPolicy::Always, &["/boot/vmlinuz"]).await.unwrap();
    assert_eq!(bench.requests(), ["HEAD /manifests/v1"]);

    index(&[entry(&arm.manifest, "arm64", "linux"), entry(&arm.manifest, "s390x", "linux"), attestation]);
    let error = bench.pull(PullPolicy::Always, &["/boot/vmlinuz"]).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "image `{}` has no matching platform: `linux/amd64` is wanted, there are `linux/arm64`, `linux/s390x`",
            bench.reference()
        )
    );
    // Without an index the config tells.
    bench.image_for("arm64", &[archive(&[("boot/vmlinuz", "arm kernel")])]);
    let error = bench.pull(PullPolicy::Always, &["/boot/vmlinuz"]).await.unwrap_err();
    assert!(error.to_string().ends_with("there are `linux/arm64`"), "{error}");
}

#[tokio::test]
async fn corrupted_and_truncated_blobs_are_fetched_again_but_not_for_ever() {
    let bench = Bench::new().await;
    let image = bench.image(&[&[("boot/vmlinuz", "kernel")]]);
    let blob = format!("/blobs/{}", image.layers[0]);
    bench.registry.fault("GET", &blob, Times::Once, Fault::TruncateAfter(10));
    bench.registry.fault("GET", &blob, Times::Once, Fault::Corrupt);
    let pulled = bench.pull(PullPolicy::Always, &["/boot/vmlinuz"]).await.unwrap();
    assert_eq!(content(&pulled), ["kernel"]);

    let image = bench.image(&[&[("boot/vmlinuz", "other kernel")]]);
    let blob = format!("/blobs/{}", image.layers[0]);
    bench.registry.fault("GET", &blob, Times::Always, Fault::Corrupt);
    let error = bench.pull(PullPolicy::Always, &["/boot/vmlinuz"]).await.unwrap_err();
    assert!(
        matches!(&error, PullError::CorruptedBlob { digest, .. } if *digest == image.layers[0]),
        "{}",
        chain(&error)
    );
    let store = bench.store();
    assert!(!store.has_blob(&image.layers[0], None));
    // The reference still means what it meant.
    assert_eq!(content(&bench.pull(PullPolicy::Never, &["/boot/vmlinuz"]).await.unwrap()), ["kernel"]);
}

#[tokio::test]
async fn what_a_crash_left_is_resumed() {
    let bench = Bench::new().await;
    let image = bench.image(&[&[("boot/vmlinuz", "kernel")]]);
    let blob = bench.registry.blob(&image.layers[0]).unwrap();
    let store = bench.store();
    let partial = |bytes: &[u8]| {
        let name = format!("sha256-{}", image.layers[0].hex());
        std::fs::write(store.root().join("partial").join(name), bytes).unwrap();
    };
    partial(&blob[..40]);
    let heard = Heard::default();
    let images = Images::new(store.clone(), bench.client.clone());
    let pulled = images.pull(&bench.request(PullPolicy::Always, &["/boot/vmlinuz"]), &heard).await.unwrap();
    assert_eq!(content(&pulled), ["kernel"]);
    let ranges: Vec<String> = bench
        .registry
        .seen()
        .iter()
        .filter_map(|seen| Some(seen.headers.get("range")?.to_str().unwrap().to_owned()))
        .collect();
    assert_eq!(ranges.len(), 1);
    assert!(ranges[0].starts_with("bytes=40-"), "{ranges:?}");
    let events = heard.0.into_inner().unwrap();
    let total = blob.len() as u64;
    assert!(
        events.contains(&PullEvent::LayerStarted { digest: image.layers[0].clone(), total }),
        "{events:?}"
    );

    // Nothing was missing but the name.
    std::fs::remove_file(store.content_path(Area::Blobs, &image.layers[0])).unwrap();
    std::fs::remove_file(&pulled.files[0].path).unwrap();
    partial(&blob);
    bench.requests();
    let pulled = bench.pull(PullPolicy::Always, &["/boot/vmlinuz"]).await.unwrap();
    assert_eq!(
        (content(&pulled), bench.requests()),
        (vec!["kernel".to_owned()], vec!["HEAD /manifests/v1".to_owned()])
    );

    // Bytes that were never synced may be anything: noticed at the end, fetched anew.
    std::fs::remove_file(store.content_path(Area::Blobs, &image.layers[0])).unwrap();
    std::fs::remove_file(&pulled.files[0].path).unwrap();
    partial(&[0; 40]);
    let pulled = bench.pull(PullPolicy::Always, &["/boot/vmlinuz"]).await.unwrap();
    assert_eq!(content(&pulled), ["kernel"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_pulls_of_one_image_fetch_each_blob_once() {
    let bench = Bench::new().await;
    let image = bench.image(&[&[("etc/passwd", "users")], &[("boot/vmlinuz", "kernel")]]);
    let (left, right, everything) = tokio::join!(
        bench.pull(PullPolicy::Always, &["/boot/vmlinuz", "/etc/passwd"]),
        bench.pull(PullPolicy::Always, &["/etc/passwd", "/boot/vmlinuz"]),
        bench.pull(PullPolicy::Always, &[]),
    );
    assert_eq!(content(&left.unwrap()), ["kernel", "users"]);
    assert_eq!(content(&right.unwrap()), ["users", "kernel"]);
    everything.unwrap();
    let requests = bench.requests();
    for blob in image.layers.iter().chain([&image.config]) {
        let count = requests.iter().filter(|request| **request == format!("GET /blobs/{blob}")).count();
        assert_eq!(count, 1, "{blob} in {requests:?}");
    }
}

#[tokio::test]
async fn a_path_that_leads_nowhere_is_explained() {
    let bench = Bench::new().await;
    bench.image(&[&[("boot/vmlinuz-6.1", "kernel")], &[("boot/initrd", "initrd"), ("loop", "-> loop")]]);
    let failure = async |path: &str| chain(&bench.pull(PullPolicy::Always, &[path]).await.unwrap_err());
    let image = bench.reference();
    assert_eq!(
        failure("/boot/vmlinuz").await,
        format!(
            "cannot use `/boot/vmlinuz` in image `{image}` as kernel: \
             `/boot/vmlinuz` does not exist in the image; similar: `/boot/vmlinuz-6.1`, `/boot/initrd`"
        )
    );
    assert!(failure("/boot").await.ends_with("`/boot` is a directory in the image"));
    assert!(failure("/boot/initrd/x").await.ends_with("`/boot/initrd` is not a directory in the image"));
    assert!(failure("/loop").await.ends_with("more than 256 path elements evaluated"));
}

#[tokio::test]
async fn an_unreachable_registry_is_an_error_and_the_hint_names_the_cached_copy() {
    let bench = Bench::new().await;
    bench.image(&[&[("boot/vmlinuz", "kernel")]]);
    bench.pull(PullPolicy::Always, &["/boot/vmlinuz"]).await.unwrap();
    bench.registry.fault("HEAD", "/manifests/", Times::Always, Fault::Status(503, Vec::new(), String::new()));
    bench.registry.fault("GET", "/manifests/", Times::Always, Fault::Status(503, Vec::new(), String::new()));
    let error = bench.pull(PullPolicy::Always, &["/boot/vmlinuz"]).await.unwrap_err();
    assert!(matches!(error, PullError::Registry { cached: true, .. }), "{error:?}");
    assert!(error.hint().unwrap().contains("`IfNotPresent`"));
    bench.pull(PullPolicy::IfNotPresent, &["/boot/vmlinuz"]).await.unwrap();
    let error = bench.pull(PullPolicy::Always, &["/boot/other"]).await.unwrap_err();
    assert!(matches!(error, PullError::Registry { cached: false, .. }), "{error:?}");
}

#[tokio::test]
async fn what_is_no_image_is_refused() {
    let bench = Bench::new().await;
    let cases = [
        (
            format!(
                r#"{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}","config":{},"layers":[]}}"#,
                descriptor("application/vnd.cncf.helm.config.v1+json", b"{}")
            ),
            "`application/vnd.cncf.helm.config.v1+json` is not a container image",
        ),
        (
            r#"{"schemaVersion":1,"name":"x","fsLayers":[],"history":[]}"#.to_owned(),
            "the manifest has the obsolete Docker schema 1",
        ),
        (
            format!(
                r#"{{"schemaVersion":2,"config":{},"layers":[{}]}}"#,
                descriptor(OCI_CONFIG, b"{}"),
                descriptor("application/vnd.oci.image.layer.nondistributable.v1.tar", b"")
            ),
            "is not in the registry (`application/vnd.oci.image.layer.nondistributable.v1.tar`)",
        ),
        (
            format!(
                r#"{{"schemaVersion":2,"config":{},"layers":[],"manifests":[]}}"#,
                descriptor(OCI_CONFIG, b"{}")
            ),
            "the manifest is ambiguous: it has both `manifests` and `layers`",
        ),
        (r#"{"schemaVersion":2,"config":5,"layers":[]}"#.to_owned(), "the manifest is malformed"),
    ];
    for (manifest, message) in cases {
        bench.registry.add_manifest("team/boot", "v1", OCI_MANIFEST, manifest.as_bytes());
        let text = chain(&bench.pull(PullPolicy::Always, &["/boot/vmlinuz"]).await.unwrap_err());
        assert!(text.contains(message), "{text}");
    }
    assert!(bench.store().records().unwrap().is_empty());
}

#[tokio::test]
async fn hostile_layers_are_refused_and_nothing_of_them_is_used() {
    let bench = Bench::new().await;
    let mut escaping = archive(&[("boot/vmlinuz", "kernel"), ("xx/evil", "")]);
    // No archiver writes such a name.
    let at = escaping.windows(7).position(|window| window == b"xx/evil").unwrap();
    escaping[at..at + 2].copy_from_slice(b"..");
    let header = at / 512 * 512;
    escaping[header + 148..header + 156].fill(b' ');
    let sum: u32 = escaping[header..header + 512].iter().map(|byte| u32::from(*byte)).sum();
    escaping[header + 148..header + 156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    bench.image_for("amd64", &[escaping]);
    let error = bench.pull(PullPolicy::Always, &["/boot/vmlinuz"]).await.unwrap_err();
    assert!(chain(&error).ends_with("its entry `../evil` leaves the root of the image"), "{}", chain(&error));

    bench.image_for("amd64", &[archive(&[("boot/vmlinuz", &"0".repeat(1 << 20))])]);
    let limits = LayerLimits { uncompressed_bytes: 1 << 19, ..LayerLimits::default() };
    let images = Images::new(bench.store(), bench.client.clone()).with_limits(limits);
    let error = images.pull(&bench.request(PullPolicy::Always, &["/boot/vmlinuz"]), &()).await.unwrap_err();
    assert!(chain(&error).contains("expand to more than 524288"), "{}", chain(&error));
    let files = std::fs::read_dir(bench.store().root().join("files/sha256")).unwrap().count();
    assert_eq!(files, 0);
}

#[tokio::test]
async fn a_blob_larger_than_the_disk_is_not_begun() {
    let bench = Bench::new().await;
    let tar = archive(&[("boot/vmlinuz", "kernel")]);
    let image = bench.image_for("amd64", std::slice::from_ref(&tar));
    let manifest = bench.registry.manifest("team/boot", "v1").unwrap();
    let blob_bytes = bench.registry.blob(&image.layers[0]).unwrap().len();
    let honest = format!(r#""digest":"{}","size":{blob_bytes}"#, image.layers[0]);
    let huge = format!(r#""digest":"{}","size":{}"#, image.layers[0], 1_u64 << 60);
    let manifest = String::from_utf8(manifest.to_vec()).unwrap().replace(&honest, &huge);
    bench.registry.add_manifest("team/boot", "v1", OCI_MANIFEST, manifest.as_bytes());
    bench.requests();
    for paths in [&["/boot/vmlinuz"][..], &[]] {
        let error = bench.pull(PullPolicy::Always, paths).await.unwrap_err();
        assert!(chain(&error).contains(&format!("{} bytes are needed", 1_u64 << 60)), "{}", chain(&error));
        assert!(error.hint().unwrap().contains("free some space"));
    }
    assert!(!bench.requests().iter().any(|request| request.contains(image.layers[0].hex())));
}

#[tokio::test]
async fn everything_is_every_blob_and_serves_files_later() {
    let bench = Bench::new().await;
    let image = bench.image(&[
        &[("a", "1")],
        &[("b", "2")],
        &[("a", "1")],
        &[("c", "3")],
        &[("d", "4")],
        &[("e", "5")],
    ]);
    let pulled = bench.pull(PullPolicy::IfNotPresent, &[]).await.unwrap();
    assert!(pulled.files.is_empty());
    // Two layers are the same blob.
    assert_eq!(bench.requests().len(), 1 + 1 + 5);
    let store = bench.store();
    for blob in image.layers.iter().chain([&image.config, &image.manifest]) {
        assert_eq!(store.verify(Area::Blobs, blob).unwrap(), Verification::Intact);
    }
    assert!(store.list().unwrap()[0].is_complete);
    let pulled = bench.pull(PullPolicy::Never, &["/a", "/e"]).await.unwrap();
    assert_eq!((content(&pulled), bench.requests().len()), (vec!["1".to_owned(), "5".to_owned()], 0));
}

#[tokio::test]
async fn pruning_leaves_what_a_pulled_image_holds() {
    let bench = Bench::new().await;
    bench.image(&[&[("boot/vmlinuz", "kernel")]]);
    let pulled = bench.pull(PullPolicy::Always, &["/boot/vmlinuz"]).await.unwrap();
    let store = bench.store();
    store.prune(PruneScope::Unused, RunMode::Remove).unwrap();
    assert_eq!(content(&pulled), ["kernel"]);
    assert_eq!(store.records().unwrap().len(), 1);
    // Another image takes the name: the old one is held by its lease alone.
    bench.image(&[&[("boot/vmlinuz", "new kernel")]]);
    drop(bench.pull(PullPolicy::Always, &["/boot/vmlinuz"]).await.unwrap());
    store.prune(PruneScope::Unreferenced, RunMode::Remove).unwrap();
    assert_eq!(content(&pulled), ["kernel"]);
    let path = pulled.files[0].path.clone();
    drop(pulled);
    store.prune(PruneScope::Unreferenced, RunMode::Remove).unwrap();
    assert!(!path.exists());
    let removed = store.prune(PruneScope::Unused, RunMode::Remove).unwrap();
    assert!(removed.freed_bytes() > 0);
    assert!(store.list().unwrap().is_empty());
}

#[tokio::test]
async fn references_with_a_digest_are_taken_from_the_store_when_allowed() {
    let bench = Bench::new().await;
    let image = bench.image(&[&[("boot/vmlinuz", "kernel")]]);
    let pinned = bench.reference().with_digest(image.manifest.clone());
    assert_eq!(PullPolicy::default_for(&pinned), PullPolicy::IfNotPresent);
    let request =
        PullRequest { reference: pinned, ..bench.request(PullPolicy::IfNotPresent, &["/boot/vmlinuz"]) };
    let images = Images::new(bench.store(), bench.client.clone());
    assert_eq!(content(&images.pull(&request, &()).await.unwrap()), ["kernel"]);
    bench.requests();
    images.pull(&request, &()).await.unwrap();
    assert!(bench.requests().is_empty());
}

/// Environment variable that tells this test binary to be the other process, and where its store is.
const CHILD_STORE: &str = "FERROVIRT_TEST_CHILD_STORE";

/// In the other process: where its store is.
#[allow(clippy::disallowed_methods, reason = "a test tells itself, started again, that it was started again")]
fn child_store() -> Option<std::path::PathBuf> {
    std::env::var_os(CHILD_STORE).map(Into::into)
}

/// Runs one test of this binary once more, in a process of its own, behind the given command.
fn run_again(wrapper: &[&str], test: &str, store: &Path) {
    let program = std::env::current_exe().unwrap();
    let words: Vec<&std::ffi::OsStr> =
        wrapper.iter().map(std::ffi::OsStr::new).chain([program.as_os_str()]).collect();
    let output = std::process::Command::new(words[0])
        .args(&words[1..])
        .args(["--exact", test, "--nocapture"])
        .env(CHILD_STORE, store)
        .output()
        .unwrap_or_else(|error| panic!("cannot start {words:?}: {error}"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success() && text(&output.stdout).contains("1 passed"),
        "{}\n{}\n{}",
        output.status,
        text(&output.stdout),
        text(&output.stderr)
    );
}

#[tokio::test]
async fn a_full_disk_leaves_nothing_half_written() {
    let Some(directory) = child_store() else {
        // A file system of 4 MiB, which only the other process sees and which ends with it.
        let directory = tempfile::tempdir().unwrap();
        let unshare = if rustix::process::geteuid().is_root() {
            &["unshare", "--mount"][..]
        } else {
            &["unshare", "--user", "--map-root-user", "--mount"]
        };
        run_again(unshare, "a_full_disk_leaves_nothing_half_written", directory.path());
        return;
    };
    let status = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=4m", "none"])
        .arg(&directory)
        .status()
        .unwrap();
    assert!(status.success());
    let bench = Bench::new().await;
    let store = Store::open(&directory).unwrap();
    let images = Images::new(store.clone(), bench.client.clone());
    let files = |area: &str| std::fs::read_dir(store.root().join(area)).unwrap().count();

    // A file that does not fit, out of a layer that does.
    bench.image(&[&[("boot/vmlinuz", &"0".repeat(8 << 20))]]);
    let request = bench.request(PullPolicy::Always, &["/boot/vmlinuz"]);
    let error = images.pull(&request, &()).await.unwrap_err();
    assert!(chain(&error).contains("no space left in the image store"), "{}", chain(&error));
    assert_eq!((files("files/sha256"), files("partial"), files("records")), (0, 0, 0));

    // Layers of which each fits, but not both.
    store.prune(PruneScope::Unused, RunMode::Remove).unwrap();
    let noise = |seed: u32| -> String {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            char::from((state >> 25) as u8 & 0x7f)
        };
        (0..3 << 20).map(|_| next()).collect()
    };
    let image = bench.image(&[&[("a", &noise(1))], &[("b", &noise(2))]]);
    let error = images.pull(&bench.request(PullPolicy::Always, &[]), &()).await.unwrap_err();
    assert!(chain(&error).contains("bytes are needed"), "{}", chain(&error));
    assert_eq!(files("records"), 0);
    for layer in &image.layers {
        // There and right, or not there.
        assert_ne!(store.verify(Area::Blobs, layer).unwrap(), Verification::Corrupted);
    }
    assert!(!image.layers.iter().all(|layer| store.has_blob(layer, None)));
}

/// Peak memory of this process in KiB.
fn peak_memory_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Puts an image of one layer into a store without a registry: 256 MiB in one file, and 100,000 other entries.
fn large_image(store: &Store, reference: &Reference) {
    let lease = store.lease().unwrap();
    let diff_id = store.create(&lease, Area::Files, image::Algorithm::Sha256).unwrap();
    let mut both = tar::Builder::new(Tee(diff_id, {
        let blob = store.create(&lease, Area::Blobs, image::Algorithm::Sha256).unwrap();
        zstd::Encoder::new(blob, 1).unwrap()
    }));
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o644);
    header.set_size(0);
    for at in 0..100_000 {
        header.set_path(format!("usr/share/doc/package-{at:06}/copyright")).unwrap();
        header.set_cksum();
        both.append(&header, std::io::empty()).unwrap();
    }
    header.set_size(256 << 20);
    both.append_data(&mut header.clone(), "large", std::io::repeat(b'x').take(256 << 20)).unwrap();
    header.set_size(6);
    both.append_data(&mut header, "boot/vmlinuz", &b"kernel"[..]).unwrap();
    let Tee(diff_id, blob) = both.into_inner().unwrap();
    let (diff_id, _) = diff_id.commit().unwrap();
    let (layer, layer_bytes) = blob.finish().unwrap().commit().unwrap();
    let config = format!(
        r#"{{"os":"linux","architecture":"amd64","rootfs":{{"type":"layers","diff_ids":["{diff_id}"]}}}}"#
    );
    store.put_blob(&lease, config.as_bytes(), image::Algorithm::Sha256).unwrap();
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}","config":{},"layers":[{{"mediaType":"{}","digest":"{layer}","size":{layer_bytes}}}]}}"#,
        descriptor(OCI_CONFIG, config.as_bytes()),
        "application/vnd.oci.image.layer.v1.tar+zstd",
    );
    let digest = store.put_blob(&lease, manifest.as_bytes(), image::Algorithm::Sha256).unwrap();
    store.tag(reference, &digest).unwrap();
}

/// Writes to both.
struct Tee<L, R>(L, R);

impl<L: Write, R: Write> Write for Tee<L, R> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.write_all(bytes)?;
        self.1.write_all(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn memory_does_not_grow_with_the_layer() {
    let reference: Reference = "localhost:1/large:1".parse().unwrap();
    let Some(directory) = child_store() else {
        let directory = tempfile::tempdir().unwrap();
        large_image(&Store::open(directory.path()).unwrap(), &reference);
        run_again(&["env"], "memory_does_not_grow_with_the_layer", directory.path());
        return;
    };
    let client = Client::new(RegistrySettings::default()).unwrap();
    let images = Images::new(Store::open(&directory).unwrap(), client);
    let file = |path: &str| WantedFile { role: "kernel".to_owned(), path: path.to_owned() };
    let before_kib = peak_memory_kib();
    let request = PullRequest {
        reference,
        policy: PullPolicy::Never,
        wanted: Wanted::Files(vec![file("/boot/vmlinuz"), file("/usr/share/doc/package-099999/copyright")]),
        platform: Platform::linux("amd64"),
        secrets: Vec::new(),
    };
    let pulled = images.pull(&request, &()).await.unwrap();
    assert_eq!(content(&pulled), ["kernel", ""]);
    let grown_kib = peak_memory_kib() - before_kib;
    assert!(grown_kib < 8 << 10, "{before_kib} KiB before, {grown_kib} KiB more");
}

#[test]
fn the_default_policy_is_that_of_kubernetes() {
    let digest = Digest::sha256_of(b"");
    let cases = [
        ("alpine".to_owned(), PullPolicy::Always),
        ("alpine:latest".to_owned(), PullPolicy::Always),
        ("registry:5000/alpine".to_owned(), PullPolicy::Always),
        ("alpine:3.20".to_owned(), PullPolicy::IfNotPresent),
        (format!("alpine@{digest}"), PullPolicy::IfNotPresent),
        (format!("alpine:3.20@{digest}"), PullPolicy::IfNotPresent),
        (format!("alpine:latest@{digest}"), PullPolicy::Always),
    ];
    for (text, policy) in cases {
        assert_eq!(PullPolicy::default_for(&text.parse().unwrap()), policy, "{text}");
    }
}

#[tokio::test]
async fn a_layer_that_was_read_for_another_image_stays_for_this_one() {
    let bench = Bench::new().await;
    let shared: &[(&str, &str)] = &[("boot/real", "kernel"), ("etc/top", "top")];
    let first = bench.image(&[shared]);
    bench.pull(PullPolicy::Always, &["/boot/real"]).await.unwrap();
    let store = bench.store();
    let index = store.root().join(format!("layers/sha256-{}", first.layers[0].hex()));
    let is_layer = |event: &PullEvent| matches!(event, PullEvent::LayerStarted { .. });
    for round in ["removed with its image", "gone"] {
        assert!(index.exists());
        let second = bench.image(&[&[("boot/vmlinuz", "-> real"), ("round", round)], shared]);
        bench.requests();
        let remove = || match round {
            "gone" => std::fs::remove_file(&index).unwrap(),
            _ => drop(store.prune(PruneScope::Unused, RunMode::Remove).unwrap()),
        };
        let heard = AtEvent(is_layer, Mutex::new(Some(remove)), Heard::default());
        let images = Images::new(bench.store(), bench.client.clone());
        let pulled =
            images.pull(&bench.request(PullPolicy::Always, &["/boot/vmlinuz"]), &heard).await.unwrap();
        assert_eq!(content(&pulled), ["kernel"]);
        let layer = format!("GET /blobs/{}", second.layers[0]);
        assert!(bench.requests().contains(&layer));
        assert!(heard.1.lock().unwrap().is_none(), "the event came");
    }
}

#[tokio::test]
async fn a_record_that_was_pruned_during_the_pull_is_written_again() {
    let bench = Bench::new().await;
    let image = bench.image(&[&[("boot/vmlinuz", "kernel")]]);
    bench.pull(PullPolicy::Always, &["/boot/vmlinuz"]).await.unwrap();
    let store = bench.store();
    let remove = || {
        for record in std::fs::read_dir(store.root().join("records")).unwrap() {
            std::fs::remove_file(record.unwrap().path()).unwrap();
        }
    };
    let is_resolving = |event: &PullEvent| *event == PullEvent::Resolving;
    let heard = AtEvent(is_resolving, Mutex::new(Some(remove)), Heard::default());
    let images = Images::new(bench.store(), bench.client.clone());
    images.pull(&bench.request(PullPolicy::Always, &["/boot/vmlinuz"]), &heard).await.unwrap();
    assert!(heard.1.lock().unwrap().is_none(), "the event came");
    assert_eq!(store.record(&bench.reference()).unwrap().unwrap().manifest_digest, image.manifest);
}

#[tokio::test]
async fn a_download_of_another_process_is_waited_for_and_told() {
    let bench = Bench::new().await;
    let image = bench.image(&[&[("boot/vmlinuz", "kernel")]]);
    let store = bench.store();
    let lease = store.lease().unwrap();
    let blob_bytes = bench.registry.blob(&image.layers[0]).unwrap().len() as u64;
    let Download::Start(writer) = store.begin_download(&lease, &image.layers[0], blob_bytes).unwrap() else {
        panic!("nobody else writes it")
    };
    let mut writer = Some(writer);
    let is_warning = |event: &PullEvent| matches!(event, PullEvent::Warning(_));
    let heard = AtEvent(is_warning, Mutex::new(Some(|| drop(writer.take()))), Heard::default());
    let images = Images::new(bench.store(), bench.client.clone());
    let pulled = images.pull(&bench.request(PullPolicy::Always, &["/boot/vmlinuz"]), &heard).await.unwrap();
    assert_eq!(content(&pulled), ["kernel"]);
    let warning = PullEvent::Warning(format!(
        "another process has `{}` half downloaded; waiting for it",
        image.layers[0]
    ));
    assert!(heard.2.0.lock().unwrap().contains(&warning));
}

#[tokio::test]
async fn a_blob_that_no_place_has_is_told_of_each() {
    let bench = Bench::new().await;
    let image = bench.image(&[&[("boot/vmlinuz", "kernel")]]);
    let mirror = FakeRegistry::start().await;
    let manifest = bench.registry.manifest("team/boot", "v1").unwrap();
    mirror.add_manifest("copy/boot", "v1", OCI_MANIFEST, &manifest);
    let configuration = bench.directory.path().join("registries.conf");
    std::fs::write(
        &configuration,
        format!(
            "[[registry]]\nprefix = \"registry.example.com/team\"\nlocation = \"{}/team\"\n\
             [[registry.mirror]]\nlocation = \"{}/copy\"\n",
            bench.registry.host(),
            mirror.host()
        ),
    )
    .unwrap();
    let client = Client::new(RegistrySettings {
        registries_conf: vec![(configuration, image::settings::Presence::Required)],
        ..RegistrySettings::default()
    })
    .unwrap();
    let request = PullRequest {
        reference: "registry.example.com/team/boot:v1".parse().unwrap(),
        ..bench.request(PullPolicy::Always, &["/boot/vmlinuz"])
    };
    let pull = async || {
        let heard = Heard::default();
        let outcome = Images::new(bench.store(), client.clone()).pull(&request, &heard).await;
        let warnings = heard.0.into_inner().unwrap();
        let told = warnings.iter().any(
            |event| matches!(event, PullEvent::Warning(text) if text.contains(&mirror.host()) && text.contains("blob")),
        );
        (outcome, told)
    };
    let (outcome, told) = pull().await;
    assert_eq!(content(&outcome.unwrap()), ["kernel"]);
    assert!(told, "that the mirror lacks the blob");

    std::fs::remove_dir_all(bench.directory.path().join("store")).unwrap();
    for blob in [&image.config, &image.layers[0]] {
        let path: &'static str = blob.hex().to_owned().leak();
        bench.registry.fault("GET", path, Times::Always, Fault::Status(403, Vec::new(), String::new()));
    }
    let (outcome, told) = pull().await;
    let error = outcome.unwrap_err();
    assert!(told, "that the mirror lacks the blob");
    for host in [mirror.host(), bench.registry.host()] {
        assert!(chain(&error).contains(&host), "{}", chain(&error));
    }
}

#[test]
fn a_lock_that_others_hold_stops_nothing_but_the_pull() {
    // The registry has a thread of its own.
    let others = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let bench = others.block_on(Bench::new());
    bench.image(&[&[("boot/vmlinuz", "kernel")]]);
    let lock = std::fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(bench.store().root().join("lock"))
        .unwrap();
    // Pruning that has hardly ended when it begins again, on the only thread that there is: were it blocked by the
    // pull, each would wait for the other.
    let is_stuck = AtomicBool::new(false);
    let pruning = async {
        loop {
            if is_stuck.load(Ordering::Relaxed) {
                std::future::pending::<()>().await;
            }
            if lock.try_lock().is_ok() {
                for _ in 0..50 {
                    tokio::task::yield_now().await;
                }
                lock.unlock().unwrap();
            }
            tokio::task::yield_now().await;
        }
    };
    let pulls = async {
        bench.pull(PullPolicy::Always, &["/boot/vmlinuz"]).await.unwrap();
        bench.pull(PullPolicy::Always, &["/boot/vmlinuz"]).await.unwrap();
        bench.pull(PullPolicy::Never, &["/boot/vmlinuz"]).await.unwrap();
        bench.image(&[&[("boot/vmlinuz", "new kernel")]]);
        let pulled = bench.pull(PullPolicy::Always, &["/boot/vmlinuz"]).await.unwrap();
        bench.pull(PullPolicy::Always, &[]).await.unwrap();
        pulled
    };
    // Ends a test that hangs.
    let (done, is_done) = std::sync::mpsc::channel::<()>();
    let (stuck, locked) = (&is_stuck, &lock);
    let pulled = std::thread::scope(|scope| {
        scope.spawn(move || {
            if is_done.recv_timeout(Duration::from_secs(20)).is_err() {
                stuck.store(true, Ordering::Relaxed);
                locked.unlock().unwrap();
            }
        });
        let pulled =
            tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
                tokio::select! {
                    pulled = pulls => pulled,
                    () = pruning => unreachable!("it goes on for ever"),
                }
            });
        done.send(()).unwrap_or(());
        pulled
    });
    assert!(!is_stuck.into_inner(), "the pull blocked its thread");
    assert_eq!(content(&pulled), ["new kernel"]);
    assert_eq!(pulled.previous_files.len(), 1);
}
