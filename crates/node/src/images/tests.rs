#![allow(clippy::unwrap_used)]

use std::sync::atomic::{AtomicU64, Ordering};

use base64::Engine as _;
use image::Store;
use k8s_openapi::api::core::v1::Event as CoreEvent;
use kube::Api;
use kube::api::{ListParams, PostParams};
use serde_json::{Value, json};

use super::*;
use crate::test_server::{self, TestServer, eventually};
use fake_registry::{Auth, FakeRegistry, Fault, OCI_MANIFEST, Times};

#[allow(dead_code, reason = "the image crate's tests use more of it")]
#[path = "../../../image/tests/support/fake_registry.rs"]
mod fake_registry;

const TAR_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";

struct Bench {
    server: TestServer,
    client: kube::Client,
    registry: FakeRegistry,
    directory: tempfile::TempDir,
    manager: ImageManager,
}

impl Bench {
    async fn new() -> Self {
        let server = TestServer::start().await;
        let client = server.client();
        let directory = tempfile::tempdir().unwrap();
        let manager = manager(&client, directory.path());
        Self { server, client, registry: FakeRegistry::start().await, directory, manager }
    }

    fn store(&self) -> &Store {
        self.manager.shared.settings.images.store()
    }

    fn image(&self) -> String {
        format!("{}/team/boot:v1", self.registry.host())
    }

    /// Puts an image with one layer into the registry; its content as a registry has it is `size` bytes.
    fn push(&self, tag: &str, files: &[(&str, &str)]) -> Pushed {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, content) in files {
            let mut header = tar::Header::new_gnu();
            header.set_mode(0o640);
            header.set_uid(107);
            header.set_gid(7);
            header.set_size(content.len() as u64);
            builder.append_data(&mut header, path, content.as_bytes()).unwrap();
        }
        let layer = builder.into_inner().unwrap();
        let config = json!({
            "os": "linux", "architecture": "amd64",
            "rootfs": {"type": "layers", "diff_ids": [Digest::sha256_of(&layer).to_string()]},
        })
        .to_string();
        let descriptor = |media_type: &str, bytes: &[u8]| json!({"mediaType": media_type, "digest": Digest::sha256_of(bytes).to_string(), "size": bytes.len()});
        let manifest = json!({
            "schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": descriptor(OCI_CONFIG, config.as_bytes()),
            "layers": [descriptor(TAR_LAYER, &layer)],
        });
        self.registry.add_blob(config.as_bytes());
        let digest = self.registry.add_blob(&layer);
        let manifest = manifest.to_string();
        Pushed {
            manifest: self.registry.add_manifest("team/boot", tag, OCI_MANIFEST, manifest.as_bytes()),
            layer: digest,
            size: layer.len() + config.len(),
        }
    }

    async fn pod(&self, name: &str, policy: &str, paths: Value, secrets: Value) -> Pod {
        let pod = json!({
            "metadata": {"name": name, "annotations": {
                "ferrovirt.dev/image-paths": json!({"kernel-boot-volume": paths}).to_string(),
            }},
            "spec": {
                "containers": [{"name": "compute", "image": "i"}],
                "imagePullSecrets": secrets,
                "volumes": [{
                    "name": "kernel-boot-volume", "image": {"reference": self.image(), "pullPolicy": policy},
                }],
            },
        });
        let pods: Api<Pod> = Api::default_namespaced(self.client.clone());
        pods.create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await.unwrap()
    }

    /// Type, reason, message (times and the registry's address left out) and count of the events about a Pod, as soon as
    /// there are so many.
    async fn events(&self, pod: &str, count: usize) -> Vec<String> {
        let events: Api<CoreEvent> = Api::default_namespaced(self.client.clone());
        let about = ListParams::default().fields(&format!("involvedObject.name={pod}"));
        let host = self.registry.host();
        eventually(async || {
            let mut found: Vec<_> = events.list(&about).await.unwrap().items;
            found.sort_by_key(|event| {
                event.metadata.resource_version.clone().unwrap().parse::<u64>().unwrap()
            });
            let found: Vec<String> = found
                .into_iter()
                .map(|event| {
                    let message = event.message.unwrap().replace(&host, "HOST");
                    let message = match (message.find("\" in "), message.find(" Image size")) {
                        (Some(from), Some(to)) => format!("{}\" in TIME{}", &message[..from], &message[to..]),
                        _ => message,
                    };
                    format!(
                        "{} {}: {message} x{}",
                        event.type_.unwrap(),
                        event.reason.unwrap(),
                        event.count.unwrap()
                    )
                })
                .collect();
            if found.len() >= count { Ok(found) } else { Err(format!("{found:#?}")) }
        })
        .await
    }
}

struct Pushed {
    manifest: Digest,
    layer: Digest,
    size: usize,
}

fn manager(client: &kube::Client, directory: &Path) -> ImageManager {
    ImageManager::new(client.clone(), test_server::settings(directory))
}

fn content(laid_out: &LaidOut) -> Vec<(&str, String)> {
    let read = |file: &ImageVolumeFile| std::fs::read_to_string(&file.path).unwrap();
    laid_out.record.files.iter().map(|file| (file.requested.as_str(), read(file))).collect()
}

#[tokio::test]
async fn an_image_is_pulled_once_and_then_present() {
    let bench = Bench::new().await;
    let pushed = bench.push("v1", &[("boot/vmlinuz", "kernel"), ("boot/initrd", "initrd")]);
    let pod = bench.pod("first", "IfNotPresent", json!(["/boot/vmlinuz", "/boot/initrd"]), json!([])).await;
    let laid_out = bench.manager.lay_out(&pod).await.unwrap();
    assert_eq!(laid_out.len(), 1);
    assert_eq!(laid_out[0].name, "kernel-boot-volume");
    assert_eq!(
        content(&laid_out[0]),
        [("/boot/vmlinuz", "kernel".to_owned()), ("/boot/initrd", "initrd".to_owned())]
    );
    let record = &laid_out[0].record;
    assert_eq!(
        (record.image.as_str(), record.digest.as_str()),
        (bench.image().as_str(), pushed.manifest.to_string().as_str())
    );
    assert!(record.missing.is_empty() && record.pull_started <= record.pulled);
    let kernel = &record.files[0];
    assert_eq!((kernel.size_bytes, kernel.uid, kernel.gid, kernel.mode), (6, 107, 7, 0o640));
    assert_eq!(
        bench.events("first", 2).await,
        [
            "Normal Pulling: Pulling image \"HOST/team/boot:v1\" x1".to_owned(),
            format!(
                "Normal Pulled: Successfully pulled image \"HOST/team/boot:v1\" in TIME Image size: {} bytes. x1",
                pushed.size
            ),
        ]
    );
    bench.registry.forget_requests();
    let pod = bench.pod("second", "IfNotPresent", json!(["/boot/vmlinuz"]), json!([])).await;
    let again = bench.manager.lay_out(&pod).await.unwrap();
    assert_eq!(content(&again[0]), [("/boot/vmlinuz", "kernel".to_owned())]);
    assert_eq!(again[0].record.pull_started, again[0].record.pulled);
    assert_eq!(bench.registry.requests(), [""; 0]);
    let present = "Normal Pulled: Container image \"HOST/team/boot:v1\" already present on machine x1";
    assert_eq!(bench.events("second", 1).await, [present]);

    // The tag moves: only `Always` notices.
    bench.push("v1", &[("boot/vmlinuz", "newer")]);
    assert_eq!(content(&bench.manager.lay_out(&pod).await.unwrap()[0])[0].1, "kernel");
    let pod = bench.pod("third", "Always", json!(["/boot/vmlinuz"]), json!([])).await;
    assert_eq!(content(&bench.manager.lay_out(&pod).await.unwrap()[0])[0].1, "newer");
}

#[tokio::test]
async fn files_that_the_image_does_not_have_are_told_and_stop_nothing() {
    let bench = Bench::new().await;
    bench.push("v1", &[("boot/vmlinuz-6.1", "kernel"), ("boot/initrd", "initrd")]);
    let pod = bench.pod("p", "Always", json!(["/boot/vmlinuz", "/boot/initrd", "/boot"]), json!([])).await;
    let laid_out = bench.manager.lay_out(&pod).await.unwrap();
    assert_eq!(content(&laid_out[0]), [("/boot/initrd", "initrd".to_owned())]);
    let missing: Vec<(&str, &str)> = laid_out[0]
        .record
        .missing
        .iter()
        .map(|missing| (missing.requested.as_str(), missing.reason.as_str()))
        .collect();
    assert_eq!(
        missing,
        [
            (
                "/boot/vmlinuz",
                "`/boot/vmlinuz` does not exist in the image; similar: `/boot/vmlinuz-6.1`, `/boot/initrd`"
            ),
            ("/boot", "`/boot` is a directory in the image"),
        ]
    );
    // Nothing at all is there.
    let pod = bench.pod("q", "IfNotPresent", json!(["/no", "/nothing"]), json!([])).await;
    let laid_out = bench.manager.lay_out(&pod).await.unwrap();
    assert_eq!((laid_out[0].record.files.len(), laid_out[0].record.missing.len()), (0, 2));
}

#[tokio::test]
async fn a_failed_pull_is_told_backs_off_and_is_tried_again() {
    let bench = Bench::new().await;
    let pod = bench.pod("p", "IfNotPresent", json!(["/boot/vmlinuz"]), json!([])).await;
    let first = bench.manager.lay_out(&pod).await.unwrap_err();
    assert_eq!((first.reason.as_str(), first.retry_after), ("ErrImagePull", Some(ERROR_SHOWN)));
    assert!(first.message.starts_with("cannot pull image"), "{}", first.message);
    let requests = bench.registry.requests().len();
    let second = bench.manager.lay_out(&pod).await.unwrap_err();
    assert_eq!(second.reason, "ImagePullBackOff");
    let image = bench.image();
    assert_eq!(
        second.message,
        format!("Back-off pulling image \"{image}\": ErrImagePull: {}", first.message)
    );
    let left = second.retry_after.unwrap();
    assert!(left > Duration::from_secs(1) && left <= Duration::from_secs(10), "{left:?}");
    assert_eq!(bench.registry.requests().len(), requests, "no request during the back-off");
    let host = bench.registry.host();
    assert_eq!(
        bench.events("p", 5).await,
        [
            "Normal Pulling: Pulling image \"HOST/team/boot:v1\" x1".to_owned(),
            format!(
                "Warning Failed: Failed to pull image \"HOST/team/boot:v1\": {} x1",
                first.message.replace(&host, "HOST")
            ),
            "Warning Failed: Error: ErrImagePull x1".to_owned(),
            "Normal BackOff: Back-off pulling image \"HOST/team/boot:v1\" x1".to_owned(),
            "Warning Failed: Error: ImagePullBackOff x1".to_owned(),
        ]
    );
    // Another Pod does not wait for this one's pause; an image that came meanwhile is found in the store.
    bench.push("v1", &[("boot/vmlinuz", "kernel")]);
    let other = bench.pod("q", "IfNotPresent", json!(["/boot/vmlinuz"]), json!([])).await;
    assert!(bench.manager.lay_out(&other).await.is_ok());
    assert!(bench.manager.lay_out(&pod).await.is_ok());
}

#[tokio::test]
async fn an_image_that_must_not_be_pulled_is_not() {
    let bench = Bench::new().await;
    bench.push("v1", &[("boot/vmlinuz", "kernel")]);
    let pod = bench.pod("p", "Never", json!(["/boot/vmlinuz"]), json!([])).await;
    let waiting = bench.manager.lay_out(&pod).await.unwrap_err();
    assert_eq!((waiting.reason.as_str(), waiting.retry_after), ("ErrImageNeverPull", Some(NEVER_RETRY)));
    assert_eq!(bench.registry.requests(), [""; 0]);
    let image = bench.image();
    assert_eq!(
        waiting.message,
        format!("Container image \"{image}\" is not present with pull policy of Never")
    );
    assert_eq!(
        bench.events("p", 2).await,
        [
            "Warning ErrImageNeverPull: Container image \"HOST/team/boot:v1\" is not present with pull policy of Never x1",
            "Warning Failed: Error: ErrImageNeverPull x1",
        ]
    );
    let pod = bench.pod("q", "IfNotPresent", json!(["relative"]), json!([])).await;
    assert_eq!(bench.manager.lay_out(&pod).await.unwrap_err().reason, "CreateContainerConfigError");
}

#[tokio::test]
async fn secrets_of_the_pod_open_the_registry() {
    let bench = Bench::new().await;
    bench.push("v1", &[("boot/vmlinuz", "kernel")]);
    bench.registry.set_auth(Auth::Basic("user", "sesame"));
    let secrets: Api<k8s_openapi::api::core::v1::Secret> = Api::default_namespaced(bench.client.clone());
    let auth = base64::engine::general_purpose::STANDARD.encode("user:sesame");
    let config = json!({"auths": {bench.registry.host(): {"auth": auth}}}).to_string();
    for secret in [
        json!({
            "metadata": {"name": "right"}, "type": "kubernetes.io/dockerconfigjson",
            "stringData": {".dockerconfigjson": config},
        }),
        json!({"metadata": {"name": "opaque"}, "stringData": {"password": "sesame"}}),
    ] {
        secrets.create(&PostParams::default(), &serde_json::from_value(secret).unwrap()).await.unwrap();
    }
    let names = |names: &[&str]| names.iter().map(|name| json!({"name": name})).collect::<Value>();
    let without =
        bench.pod("p", "Always", json!(["/boot/vmlinuz"]), names(&["gone", "opaque", "gone"])).await;
    let waiting = bench.manager.lay_out(&without).await.unwrap_err();
    assert_eq!(waiting.reason, "ErrImagePull");
    let events = bench.events("p", 4).await;
    assert_eq!(
        events[0],
        "Warning FailedToRetrieveImagePullSecret: Unable to retrieve some image pull secrets (gone, opaque); \
         attempting to pull the image may not succeed. x1"
    );
    assert!(!format!("{events:?}{waiting:?}").contains("sesame"));
    let with = bench.pod("q", "Always", json!(["/boot/vmlinuz"]), names(&["gone", "right"])).await;
    assert_eq!(content(&bench.manager.lay_out(&with).await.unwrap()[0])[0].1, "kernel");
}

#[tokio::test]
async fn a_long_pull_tells_in_the_pod_how_far_it_is() {
    let bench = Bench::new().await;
    let pushed = bench.push("v1", &[("boot/vmlinuz", "kernel")]);
    let trickle = Fault::Trickle(Duration::from_millis(1));
    bench.registry.fault("GET", "/blobs/", Times::Always, trickle);
    let pod = bench.pod("p", "Always", json!(["/boot/vmlinuz"]), json!([])).await;
    let pods: Api<Pod> = Api::default_namespaced(bench.client.clone());
    let manager = bench.manager.clone();
    let pulling = tokio::spawn(async move { manager.lay_out(&pod).await });
    let progress = eventually(async || {
        let annotations = pods.get("p").await.unwrap().metadata.annotations.unwrap_or_default();
        annotations.get(manifest::keys::PULL_PROGRESS).cloned().ok_or("no progress".to_owned())
    })
    .await;
    let progress: manifest::keys::PullProgress = serde_json::from_str(&progress).unwrap();
    assert_eq!(progress.image, bench.image());
    assert!(progress.bytes < progress.total && progress.percent < 100, "{progress:?}");
    bench.registry.stop_fault("/blobs/");
    pulling.await.unwrap().unwrap();
    let annotations = pods.get("p").await.unwrap().metadata.annotations.unwrap();
    assert!(!annotations.contains_key(manifest::keys::PULL_PROGRESS));
    assert!(bench.store().content_path(Area::Blobs, &pushed.layer).exists());
}

#[tokio::test]
async fn garbage_is_what_nobody_uses_the_longest_unused_first() {
    let bench = Bench::new().await;
    let mut held = Vec::new();
    for (index, tag) in ["a", "b", "c"].into_iter().enumerate() {
        bench.push(tag, &[("vmlinuz", tag)]);
        let reference: image::Reference =
            format!("{}/team/boot:{tag}", bench.registry.host()).parse().unwrap();
        let request = PullRequest {
            reference,
            policy: PullPolicy::Always,
            wanted: Wanted::Everything,
            platform: Platform::linux("amd64"),
            secrets: Vec::new(),
        };
        let pulled = bench.manager.fetch(&request, &["/vmlinuz".to_owned()], &()).await.unwrap();
        if index == 0 {
            held.push(pulled);
        }
    }
    let store = bench.store();
    let present = || -> Vec<String> {
        store
            .list()
            .unwrap()
            .into_iter()
            .map(|image| image.reference.rsplit(':').next().unwrap().to_owned())
            .collect()
    };
    assert_eq!(present(), ["a", "b", "c"]);
    let thresholds = Thresholds::default();
    let later = SystemTime::now() + Duration::from_secs(600);
    let disk = |free_bytes: u64| Disk { total_bytes: 100, free_bytes, total_inodes: 0, free_inodes: 0 };
    let at =
        |free: u64, now: SystemTime| garbage::collect(store, thresholds, now, &|| Ok(disk(free))).unwrap();

    assert_eq!(at(16, later), Outcome::Nothing);
    // Nothing is old enough.
    assert_eq!(at(15, SystemTime::now()), Outcome::TooLittle { freed_bytes: 0, wanted_bytes: 5 });
    assert_eq!(present(), ["a", "b", "c"]);
    // The first removal is enough: of those that nobody uses, `b` is the longest unused.
    let measured = AtomicU64::new(0);
    let freed = garbage::collect(store, thresholds, later, &|| {
        Ok(disk(if measured.fetch_add(1, Ordering::Relaxed) < 2 { 10 } else { 20 }))
    });
    assert!(matches!(freed.unwrap(), Outcome::Enough { freed_bytes } if freed_bytes > 0));
    assert_eq!(present(), ["a", "c"]);
    // What is used stays, however full the disk is.
    assert!(matches!(at(0, later), Outcome::TooLittle { wanted_bytes: 20, .. }));
    assert_eq!(present(), ["a"]);
    let file = &held[0].image.files[0];
    assert_eq!(std::fs::read_to_string(&file.path).unwrap(), "a");

    // A daemon that comes later takes hold of it by the record.
    let volume = ImageVolume {
        image: String::new(),
        digest: held[0].image.manifest_digest.to_string(),
        files: vec![ImageVolumeFile {
            requested: String::new(),
            resolved: String::new(),
            path: file.path.clone(),
            size_bytes: 1,
            crc32: None,
            uid: 0,
            gid: 0,
            mode: 0,
        }],
        missing: Vec::new(),
        pull_started: 0,
        pulled: 0,
    };
    let lease = manager(&bench.client, bench.directory.path()).keep(&volume).await.unwrap();
    drop(held);
    at(0, later);
    assert_eq!(present(), ["a"]);
    drop(lease);
    at(0, later);
    assert_eq!(present(), [""; 0]);
    assert!(bench.manager.keep(&volume).await.is_err());
    drop(bench.server);
}

#[test]
fn usage_is_rounded_up() {
    let disk = |free_bytes, total_bytes| Disk { total_bytes, free_bytes, total_inodes: 0, free_inodes: 0 };
    let table =
        [(0, 0, 0), (100, 100, 0), (15, 100, 85), (16, 100, 84), (1, 1000, 100), (u64::MAX, u64::MAX, 0)];
    for (free, total, expected) in table {
        assert_eq!(garbage::usage_percent(&disk(free, total)), expected, "{free} of {total}");
    }
}

#[test]
fn durations_are_written_as_go_does() {
    let table = [
        (0, "0s"),
        (345, "345ms"),
        (1000, "1s"),
        (1200, "1.2s"),
        (1234, "1.234s"),
        (60_000, "1m0s"),
        (123_500, "2m3.5s"),
        (3_600_000, "1h0m0s"),
    ];
    for (millis, expected) in table {
        assert_eq!(go_duration(Duration::from_millis(millis)), expected);
    }
}
