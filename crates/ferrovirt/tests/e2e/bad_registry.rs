//! Registries and images that are wrong, served by a registry that a test scripts.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::Arc;

use image::digest::{Algorithm, Digest};

use crate::harness::{Fixtures, Outcome, World, manifest};
use crate::scripted_registry::{Request, Response, ScriptedRegistry};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const GZIP_LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// Documents and blobs of one image in a registry's memory.
#[derive(Clone, Default)]
struct Content {
    /// Path below `/v2/bad/` to media type and bytes.
    objects: BTreeMap<String, (String, Vec<u8>)>,
}

fn digest(bytes: &[u8]) -> String {
    Digest::of(Algorithm::Sha256, bytes).to_string()
}

impl Content {
    fn blob(&mut self, bytes: &[u8]) -> String {
        let digest = digest(bytes);
        self.objects
            .insert(format!("blobs/{digest}"), ("application/octet-stream".to_owned(), bytes.to_vec()));
        digest
    }

    /// An image of `layers` (media type and bytes), reachable as `bad:1` and by digest; returns the digest.
    fn image(&mut self, layers: &[(&str, Vec<u8>)]) -> String {
        let diff_ids: Vec<_> = layers.iter().map(|(_, bytes)| digest(bytes)).collect();
        let config = serde_json::json!({
            "architecture": "amd64", "os": "linux", "config": {},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        let config = serde_json::to_vec(&config).unwrap();
        let descriptors: Vec<_> = layers
            .iter()
            .map(|(media_type, bytes)| {
                serde_json::json!({"mediaType": media_type, "digest": self.blob(bytes), "size": bytes.len()})
            })
            .collect();
        let document = serde_json::json!({
            "schemaVersion": 2, "mediaType": MANIFEST,
            "config": {"mediaType": CONFIG, "digest": self.blob(&config), "size": config.len()},
            "layers": descriptors,
        });
        self.document(MANIFEST, &document)
    }

    /// A document reachable as `bad:1` and by digest; returns the digest.
    fn document(&mut self, media_type: &str, document: &serde_json::Value) -> String {
        let bytes = serde_json::to_vec(document).unwrap();
        let digest = digest(&bytes);
        for name in ["1", &digest] {
            self.objects.insert(format!("manifests/{name}"), (media_type.to_owned(), bytes.clone()));
        }
        digest
    }

    /// The right answer to `request`.
    fn answer(&self, request: &Request) -> Response {
        let path = request.path.strip_prefix("/v2/").unwrap_or_default();
        if path.is_empty() {
            return Response::new(200, "{}");
        }
        match self.objects.get(path.strip_prefix("bad/").unwrap_or_default()) {
            Some((media_type, bytes)) => {
                match request.first_byte_asked().filter(|&first| first < bytes.len()) {
                    Some(first) => Response::new(206, &bytes[first..]).header(
                        "content-range",
                        &format!("bytes {first}-{}/{}", bytes.len() - 1, bytes.len()),
                    ),
                    None => Response::new(200, bytes.clone())
                        .header("content-type", media_type)
                        .header("docker-content-digest", &digest(bytes)),
                }
            }
            None => Response::new(
                404,
                "{\"errors\":[{\"code\":\"MANIFEST_UNKNOWN\",\"message\":\"no such thing\"}]}",
            ),
        }
    }

    fn serve(self) -> ScriptedRegistry {
        ScriptedRegistry::start(move |request| self.answer(request))
    }
}

/// A layer with the given files.
fn layer(entries: &[(&str, Entry)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, entry) in entries {
        let mut header = tar::Header::new_ustar();
        header.set_mode(0o644);
        header.set_uid(107);
        header.set_gid(107);
        let (kind, size) = match entry {
            Entry::File(bytes) => (tar::EntryType::Regular, bytes.len() as u64),
            Entry::Claims(size) => (tar::EntryType::Regular, *size),
            Entry::Directory => (tar::EntryType::Directory, 0),
            Entry::Symlink(_) => (tar::EntryType::Symlink, 0),
            Entry::HardLink(_) => (tar::EntryType::Link, 0),
            Entry::Device => (tar::EntryType::Block, 0),
        };
        header.set_entry_type(kind);
        header.set_size(size);
        // Written by hand: the library refuses the names that matter here.
        header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
        if let Entry::Symlink(target) | Entry::HardLink(target) = entry {
            header.as_mut_bytes()[157..157 + target.len()].copy_from_slice(target.as_bytes());
        }
        header.set_cksum();
        let body: &[u8] = if let Entry::File(bytes) = entry { bytes } else { &[] };
        builder.append(&header, body).unwrap();
    }
    builder.into_inner().unwrap()
}

enum Entry {
    File(Vec<u8>),
    /// A header that promises so many bytes, of which none follow.
    Claims(u64),
    Directory,
    Symlink(&'static str),
    HardLink(&'static str),
    Device,
}

fn kernel() -> Entry {
    Entry::File(std::fs::read(Fixtures::path("vmlinuz")).unwrap())
}

fn initrd() -> Entry {
    Entry::File(std::fs::read(Fixtures::path("initrd")).unwrap())
}

/// A sound image's layer.
fn good_layer() -> Vec<u8> {
    layer(&[("boot/", Entry::Directory), ("boot/vmlinuz-virt", kernel()), ("boot/initramfs-virt", initrd())])
}

/// Boots `reference`.
fn run(reference: &str, change: impl Fn(&World, String) -> String) -> Outcome {
    let world = World::new();
    let text = change(&world, manifest("bad", reference, "Always", "console=ttyS0"));
    world.file("vm.yaml", text);
    world.ferrovirt(["run", "--accel=tcg", "--timeout=110s", "-f", "vm.yaml"])
}

fn run_plain(reference: &str) -> Outcome {
    run(reference, |_, text| text)
}

/// Boots `bad:1` of a registry that answers with `answer`, and expects a refusal.
fn refused(
    answer: impl Fn(&Request) -> Response + Send + Sync + 'static,
    words: &[&str],
) -> ScriptedRegistry {
    let registry = ScriptedRegistry::start(answer);
    let reference = format!("{}/bad:1", registry.host());
    run_plain(&reference).expect_refusal(words);
    registry
}

/// Boots an image of one layer and expects a refusal.
fn refused_layer(media_type: &str, bytes: Vec<u8>, words: &[&str]) {
    let mut content = Content::default();
    content.image(&[(media_type, bytes)]);
    refused(move |request| content.answer(request), words);
}

#[test]
fn the_scripted_registry_serves_a_sound_image() {
    let mut content = Content::default();
    content.image(&[(LAYER, good_layer())]);
    let registry = content.serve();
    run_plain(&format!("{}/bad:1", registry.host())).expect_code(0).expect_stdout("guest: powering off");
}

#[test]
fn hosts_that_cannot_be_reached() {
    // No resolver asks the network for a label of more than 63 characters.
    let unknown = format!("{}.invalid", "a".repeat(64));
    run_plain(&format!("{unknown}/bad:1")).expect_refusal(&[&unknown]);

    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let nobody = listener.local_addr().unwrap().to_string();
    drop(listener);
    run_plain(&format!("{nobody}/bad:1")).expect_refusal(&[&nobody, "refused"]);
}

#[test]
fn answers_that_refuse() {
    let fixed = |status: u16, body: &'static str| move |_: &Request| Response::new(status, body);
    let json = "{\"errors\":[{\"code\":\"DENIED\",\"message\":\"the words of the registry\"}]}";
    refused(
        |_| Response::new(401, "").header("www-authenticate", "Basic realm=\"here\""),
        &["requires credentials", "bad", "log in"],
    );
    refused(fixed(403, json), &["denies access", "the words of the registry"]);
    refused(fixed(404, "not json"), &["does not have image", "bad"]);
}

#[test]
fn answers_that_may_pass_are_asked_again_and_then_given_up() {
    for (status, word) in [(429, "limits requests"), (500, "500")] {
        let registry = refused(move |_| Response::new(status, "").header("retry-after", "0"), &[word]);
        let asked = registry.requests().iter().filter(|request| request.contains("/manifests/")).count();
        assert!((2..=10).contains(&asked), "{status} was tried {asked} times: {:?}", registry.requests());
    }
}

#[test]
fn a_passing_fault_does_no_harm() {
    let mut content = Content::default();
    content.image(&[(LAYER, good_layer())]);
    let seen = std::sync::atomic::AtomicUsize::new(0);
    let registry = ScriptedRegistry::start(move |request| {
        let number = seen.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        match number % 3 {
            0 => Response::new(503, "").header("retry-after", "0"),
            1 if request.path.contains("/blobs/") => content.answer(request).cut_short(),
            _ => content.answer(request),
        }
    });
    run_plain(&format!("{}/bad:1", registry.host())).expect_code(0).expect_stdout("guest: powering off");
}

#[test]
fn blobs_that_are_not_what_was_promised() {
    let bytes = good_layer();
    let mut content = Content::default();
    content.image(&[(LAYER, bytes.clone())]);
    let content = Arc::new(content);
    let path = format!("/v2/bad/blobs/{}", digest(&bytes));

    let (served, cut) = (Arc::clone(&content), path.clone());
    refused(
        move |request| {
            let response = served.answer(request);
            if request.path == cut { response.cut_short() } else { response }
        },
        &["bad"],
    );
    let mut other = bytes.clone();
    let middle = other.len() / 2;
    other[middle] ^= 1;
    let (served, corrupt) = (Arc::clone(&content), path.clone());
    refused(
        move |request| {
            if request.path == corrupt { Response::new(200, other.clone()) } else { served.answer(request) }
        },
        &[&digest(&bytes)],
    );
    let served = Arc::clone(&content);
    refused(
        move |request| {
            if request.path == path { Response::new(404, "") } else { served.answer(request) }
        },
        &[&digest(&bytes)],
    );
}

#[test]
fn documents_that_are_not_what_was_promised() {
    let mut content = Content::default();
    content.image(&[(LAYER, good_layer())]);
    let wrong = format!("sha256:{}", "0".repeat(64));
    let served = content.clone();
    let registry = ScriptedRegistry::start(move |request| {
        if request.path.ends_with(&"0".repeat(64)) {
            let mut request = request.clone();
            request.path = "/v2/bad/manifests/1".to_owned();
            return served.answer(&request);
        }
        served.answer(request)
    });
    run_plain(&format!("{}/bad@{wrong}", registry.host())).expect_refusal(&[&wrong]);

    refused(
        |_| Response::new(200, "<html>log in first</html>").header("content-type", "text/html"),
        &["text/html"],
    );
    refused(|_| Response::new(200, "{").header("content-type", MANIFEST), &[]);

    let mut content = Content::default();
    let arm = content.image(&[(LAYER, good_layer())]);
    let size = content.objects[&format!("manifests/{arm}")].1.len();
    content.document(
        INDEX,
        &serde_json::json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [
            {"mediaType": MANIFEST, "digest": arm, "size": size, "platform": {"os": "linux", "architecture": "arm64"}},
        ]}),
    );
    refused(move |request| content.answer(request), &["linux/amd64", "linux/arm64"]);
}

#[test]
fn paths_that_are_not_there() {
    let mut content = Content::default();
    content.image(&[(LAYER, good_layer())]);
    let registry = content.serve();
    let reference = format!("{}/bad:1", registry.host());
    let with_kernel =
        |path: &'static str| run(&reference, move |_, text| text.replace("/boot/vmlinuz-virt", path));
    with_kernel("/boot/vmlinuz").expect_refusal(&["/boot/vmlinuz", "/boot/vmlinuz-virt"]);
    with_kernel("/boot").expect_refusal(&["/boot", "directory"]);
    with_kernel("/boot/vmlinuz-virt/below").expect_refusal(&["/boot/vmlinuz-virt/below"]);
}

#[test]
fn layers_that_reach_outside() {
    let initrd_at = |entries: Vec<(&'static str, Entry)>| {
        let mut all = vec![("boot/", Entry::Directory), ("boot/initramfs-virt", initrd())];
        all.extend(entries);
        layer(&all)
    };
    let path = "/boot/vmlinuz-virt";
    refused_layer(LAYER, initrd_at(vec![("../boot/vmlinuz-virt", kernel())]), &[]);
    refused_layer(
        LAYER,
        initrd_at(vec![("boot/vmlinuz-virt", Entry::Symlink("../../../../../etc/passwd"))]),
        &[path],
    );
    refused_layer(LAYER, initrd_at(vec![("boot/vmlinuz-virt", Entry::Symlink("/etc/passwd"))]), &[path]);
    refused_layer(LAYER, initrd_at(vec![("boot/vmlinuz-virt", Entry::HardLink("../../etc/passwd"))]), &[]);
    refused_layer(LAYER, initrd_at(vec![("boot/vmlinuz-virt", Entry::HardLink("/etc/passwd"))]), &[]);
    refused_layer(LAYER, initrd_at(vec![("boot/vmlinuz-virt", Entry::Device)]), &[path, "device"]);
    refused_layer(LAYER, initrd_at(vec![("boot/vmlinuz-virt", Entry::Symlink("vmlinuz-virt"))]), &[path]);
}

#[test]
fn links_inside_the_image_are_followed() {
    let mut content = Content::default();
    content.image(&[(
        LAYER,
        layer(&[
            ("usr/lib/modules/vmlinuz", kernel()),
            ("usr/lib/initrd", initrd()),
            ("boot", Entry::Symlink("/usr/boot")),
            ("usr/boot/vmlinuz-virt", Entry::Symlink("/../usr/lib/modules/vmlinuz")),
            ("usr/boot/initramfs-virt", Entry::HardLink("usr/lib/initrd")),
        ]),
    )]);
    let registry = content.serve();
    run_plain(&format!("{}/bad:1", registry.host())).expect_code(0).expect_stdout("guest: powering off");
}

#[test]
fn layers_that_are_broken_or_never_end() {
    refused_layer(LAYER, vec![0x55; 4096], &[]);
    refused_layer(GZIP_LAYER, b"no gzip at all".to_vec(), &[]);
    refused_layer(LAYER, layer(&[("boot/vmlinuz-virt", Entry::Claims(2 << 30))]), &[]);
    refused_layer(LAYER, layer(&[("boot/vmlinuz-virt", Entry::Claims(7 << 30))]), &[]);
    let mut cut = good_layer();
    cut.truncate(cut.len() / 2);
    refused_layer(LAYER, cut, &[]);
}
