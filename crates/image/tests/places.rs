//! Pulls where more than one place may have the image: mirrors, aliases, search lists.

#![allow(clippy::unwrap_used)]

mod support;

use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use image::settings::{Presence, RetryPolicy};
use image::{
    Client, Digest, Images, Platform, PullError, PullEvent, PullPolicy, PullProgress, PullRequest,
    PulledImage, RegistrySettings, Store, Wanted,
};
use support::fake_registry::{FakeRegistry, Fault, OCI_INDEX, OCI_MANIFEST, Times};

/// Hears the warnings.
#[derive(Default)]
struct Warnings(Mutex<Vec<String>>);

impl PullProgress for Warnings {
    fn event(&self, event: PullEvent) {
        if let PullEvent::Warning(text) = event {
            self.0.lock().unwrap().push(text);
        }
    }
}

/// Puts an image without layers into a registry; `author` makes one differ from another.
fn add_image(registry: &FakeRegistry, repository: &str, tag: &str, author: &str) -> Digest {
    let config = format!(
        r#"{{"os":"linux","architecture":"amd64","author":"{author}","rootfs":{{"type":"layers","diff_ids":[]}}}}"#
    );
    let digest = registry.add_blob(config.as_bytes());
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{digest}","size":{}}},"layers":[]}}"#,
        config.len()
    );
    registry.add_manifest(repository, tag, OCI_MANIFEST, manifest.as_bytes())
}

/// The same behind an index with the tag `v1`.
fn add_index(registry: &FakeRegistry, repository: &str) -> Digest {
    let child = add_image(registry, repository, "child", "");
    let size = registry.manifest(repository, "child").unwrap().len();
    let index = format!(
        r#"{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","manifests":[{{"mediaType":"{OCI_MANIFEST}","digest":"{child}","size":{size},"platform":{{"os":"linux","architecture":"amd64"}}}}]}}"#
    );
    registry.add_manifest(repository, "v1", OCI_INDEX, index.as_bytes());
    child
}

/// A client whose registries.conf is `text`, and a store, in one directory.
fn images(directory: &Path, text: &str) -> Images {
    let path = directory.join("registries.conf");
    std::fs::write(&path, text).unwrap();
    let retry = RetryPolicy {
        attempts: 2,
        first_delay: Duration::from_millis(1),
        longest_delay: Duration::from_millis(10),
    };
    let settings = RegistrySettings {
        registries_conf: vec![(path, Presence::Required)],
        retry,
        ..RegistrySettings::default()
    };
    Images::new(Store::open(&directory.join("store")).unwrap(), Client::new(settings).unwrap())
}

async fn pull(images: &Images, reference: &str, policy: PullPolicy) -> Result<PulledImage, PullError> {
    images.pull(&request(reference, policy), &()).await
}

fn request(reference: &str, policy: PullPolicy) -> PullRequest {
    PullRequest {
        reference: reference.parse().unwrap(),
        policy,
        wanted: Wanted::Everything,
        platform: Platform::linux("amd64"),
        secrets: Vec::new(),
    }
}

fn names(images: &Images) -> Vec<String> {
    images.store().records().unwrap().into_iter().map(|(record, _)| record.reference).collect()
}

#[tokio::test]
async fn a_manifest_is_asked_for_where_its_index_came_from() {
    let (primary, dead, mirror) =
        (FakeRegistry::start().await, FakeRegistry::start().await, FakeRegistry::start().await);
    dead.fault("GET", "/", Times::Always, Fault::Status(500, vec![], String::new()));
    let child = add_index(&mirror, "copy/image");
    let directory = tempfile::tempdir().unwrap();
    let configuration = format!(
        "[[registry]]\nprefix = \"registry.example.com/team\"\nlocation = \"{}/team\"\n\
         [[registry.mirror]]\nlocation = \"{}/copy\"\n\
         [[registry.mirror]]\nlocation = \"{}/copy\"\npull-from-mirror = \"tag-only\"\n",
        primary.host(),
        dead.host(),
        mirror.host()
    );
    let reference = "registry.example.com/team/image:v1";
    let warnings = Warnings::default();
    let request = request(reference, PullPolicy::Always);
    let images_of_mirror = images(directory.path(), &configuration);
    let pulled = images_of_mirror.pull(&request, &warnings).await.unwrap();
    assert_eq!(pulled.platform_digest, child);
    let warnings = warnings.0.into_inner().unwrap();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains(&dead.host()), "{warnings:?}");
    assert_eq!(primary.requests().len(), 0);

    // A mirror that lost it is not the last word.
    let missing = Fault::Status(404, vec![], String::new());
    mirror.fault("GET", child.hex(), Times::Always, missing);
    add_index(&primary, "team/image");
    mirror.forget_requests();
    let directory = tempfile::tempdir().unwrap();
    let pulled = images(directory.path(), &configuration).pull(&request, &()).await.unwrap();
    assert_eq!(pulled.platform_digest, child);
    assert_eq!(mirror.requests().iter().filter(|request| request.contains(child.hex())).count(), 1);
}

#[tokio::test]
async fn an_alias_is_stored_under_what_it_stands_for() {
    let registry = FakeRegistry::start().await;
    add_image(&registry, "x/foo", "latest", "alias");
    let directory = tempfile::tempdir().unwrap();
    let full = format!("{}/x/foo", registry.host());
    let images = images(directory.path(), &format!("[aliases]\n\"foo\" = \"{full}\"\n"));
    let pulled = pull(&images, "foo", PullPolicy::Always).await.unwrap();
    assert_eq!(pulled.reference.to_string(), format!("{full}:latest"));
    assert_eq!(names(&images), [format!("{full}:latest")]);
    for reference in ["foo", "foo:latest", &full] {
        pull(&images, reference, PullPolicy::Never).await.unwrap();
    }
    let error = pull(&images, "docker.io/library/foo", PullPolicy::Never).await.unwrap_err();
    assert!(matches!(&error, PullError::NeverAndAbsent { .. }), "{error}");
    let error = pull(&images, "foo:v2", PullPolicy::Never).await.unwrap_err();
    assert!(error.to_string().contains(&format!("`{full}:v2`")), "{error}");
}

#[tokio::test]
async fn a_short_name_is_stored_under_the_registry_that_has_it() {
    let (first, second) = (FakeRegistry::start().await, FakeRegistry::start().await);
    let of_second = add_image(&second, "foo", "latest", "second");
    let directory = tempfile::tempdir().unwrap();
    let text = format!("unqualified-search-registries = [\"{}\", \"{}\"]\n", first.host(), second.host());
    let images = images(directory.path(), &text);
    let name_at = |registry: &FakeRegistry| format!("{}/foo:latest", registry.host());

    let pulled = pull(&images, "foo", PullPolicy::IfNotPresent).await.unwrap();
    assert_eq!(pulled.reference.to_string(), name_at(&second));
    assert_eq!(names(&images), [name_at(&second)]);
    let pulled = pull(&images, "foo", PullPolicy::Never).await.unwrap();
    assert_eq!((pulled.reference.to_string(), pulled.requests), (name_at(&second), 0));
    let error = pull(&images, "docker.io/library/foo", PullPolicy::Never).await.unwrap_err();
    assert!(matches!(&error, PullError::NeverAndAbsent { .. }), "{error}");

    second.forget_requests();
    let pulled = pull(&images, "foo", PullPolicy::Always).await.unwrap();
    assert_eq!((pulled.previous_digest, pulled.bytes_fetched), (None, 0));
    assert_eq!(second.requests(), ["HEAD /v2/foo/manifests/latest"]);

    // The first registry comes to have one of its own: it comes first, and the other keeps its name.
    let of_first = add_image(&first, "foo", "latest", "first");
    let pulled = pull(&images, "foo", PullPolicy::Always).await.unwrap();
    assert_eq!((pulled.reference.to_string(), &pulled.manifest_digest), (name_at(&first), &of_first));
    assert_eq!(pulled.previous_digest, Some(of_second.clone()));
    let pulled = pull(&images, &name_at(&second), PullPolicy::Never).await.unwrap();
    assert_eq!(pulled.manifest_digest, of_second);
    let pulled = pull(&images, "foo", PullPolicy::Never).await.unwrap();
    assert_eq!(pulled.manifest_digest, of_first);
}
