//! The registry client against a registry that misbehaves on request.

#![allow(clippy::unwrap_used)]

mod support;

use std::{
    error::Error as _,
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use image::{
    BlobSink, Client, Descriptor, Digest, Listener, PullSecret, Reference, RegistryError, RegistrySettings,
    client::{LARGEST_MANIFEST_BYTES, Wanted},
    settings::{AuthFile, AuthFileFormat, Presence, RetryPolicy, TimeLimits},
};
use support::fake_registry::{Auth, FakeRegistry, Fault, OCI_MANIFEST, Times, TokenAuth};

const MANIFEST: &[u8] =
    br#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","layers":[]}"#;
const OTHER_MANIFEST: &[u8] = br#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","layers":[],"annotations":{}}"#;

/// Pauses too short to notice, and patience short enough for tests about silence.
fn settings() -> RegistrySettings {
    RegistrySettings {
        retry: RetryPolicy {
            attempts: 3,
            first_delay: Duration::from_millis(1),
            longest_delay: Duration::from_secs(2),
        },
        time_limits: TimeLimits {
            connect: Duration::from_secs(20),
            stall: Duration::from_secs(20),
            small_body: Duration::from_secs(20),
            credential_helper: Duration::from_secs(20),
            ..TimeLimits::default()
        },
        ..RegistrySettings::default()
    }
}

fn client() -> Client {
    Client::new(settings()).unwrap()
}

fn reference(registry: &FakeRegistry) -> Reference {
    format!("{}/team/image:v1", registry.host()).parse().unwrap()
}

async fn registry() -> FakeRegistry {
    let registry = FakeRegistry::start().await;
    registry.add_manifest("team/image", "v1", OCI_MANIFEST, MANIFEST);
    registry
}

fn secret(registry: &FakeRegistry, user: &str, password: &str) -> PullSecret {
    let json =
        format!(r#"{{"auths":{{"{}":{{"username":"{user}","password":"{password}"}}}}}}"#, registry.host());
    PullSecret::from_docker_config_json(user, json.as_bytes()).unwrap()
}

/// The whole chain of messages, in which no secret may ever appear.
fn chain(error: &RegistryError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    format!("{text}\n{error:?}\n{}", error.hint().unwrap_or_default())
}

#[derive(Default)]
struct MemorySink {
    bytes: Vec<u8>,
    restarts: u32,
    room: Option<usize>,
}

impl BlobSink for MemorySink {
    fn received(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.room.is_some_and(|room| self.bytes.len() + bytes.len() > room) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn restart(&mut self) -> io::Result<()> {
        self.restarts += 1;
        self.bytes.clear();
        Ok(())
    }
}

#[derive(Default)]
struct Notes(Mutex<Vec<String>>);

impl Listener for Notes {
    fn retrying(&self, what: &str, attempt: u32, _delay: Duration, reason: &str) {
        self.0.lock().unwrap().push(format!("retry {attempt} of {what}: {reason}"));
    }

    fn warning(&self, text: &str) {
        self.0.lock().unwrap().push(text.to_owned());
    }
}

fn content() -> Vec<u8> {
    (0..10_000_u32).flat_map(u32::to_le_bytes).collect()
}

fn descriptor(digest: Digest, size_bytes: usize) -> Descriptor {
    Descriptor { media_type: "application/octet-stream".to_owned(), digest, size_bytes: size_bytes as u64 }
}

/// Downloads `content()` into `sink` from the registry, which has it.
async fn download(registry: &FakeRegistry, sink: &mut MemorySink) -> Result<(), RegistryError> {
    let content = content();
    let digest = registry.add_blob(&content);
    let client = client();
    let endpoint = client.endpoints(&reference(registry)).unwrap().remove(0);
    client.blob(&endpoint, &descriptor(digest, content.len()), sink, &[]).await
}

#[tokio::test]
async fn an_unchanged_tag_costs_one_request_and_a_changed_one_two() {
    let registry = registry().await;
    let client = client();
    let first = client.manifest(&reference(&registry), None, &[]).await.unwrap();
    assert_eq!((first.bytes.as_slice(), first.media_type.as_str()), (MANIFEST, OCI_MANIFEST));
    assert_eq!(client.requests(), 1);

    // A client that has learned nothing yet, as in the next run of the program.
    let client = self::client();
    registry.forget_requests();
    let second = client.manifest(&reference(&registry), Some(&first.digest), &[]).await.unwrap();
    assert!(second.unchanged);
    assert_eq!(second.digest, first.digest);
    assert_eq!(registry.requests(), ["HEAD /v2/team/image/manifests/v1"]);
    assert_eq!(client.requests(), 1);

    let changed = registry.add_manifest("team/image", "v1", OCI_MANIFEST, OTHER_MANIFEST);
    registry.forget_requests();
    let third = client.manifest(&reference(&registry), Some(&first.digest), &[]).await.unwrap();
    assert!(!third.unchanged);
    assert_eq!(third.digest, changed);
    assert_eq!(registry.requests().len(), 2);
}

#[tokio::test]
async fn a_registry_without_head_is_still_asked_by_get() {
    let registry = registry().await;
    registry.fault("HEAD", "/manifests/", Times::Always, Fault::Status(405, vec![], String::new()));
    let known = Digest::sha256_of(MANIFEST);
    let manifest = client().manifest(&reference(&registry), Some(&known), &[]).await.unwrap();
    assert_eq!((manifest.unchanged, manifest.digest), (false, known));
}

#[tokio::test]
async fn missing_denied_and_limited_are_told_apart_and_not_tried_again() {
    let registry = registry().await;
    let client = client();
    let missing: Reference = format!("{}/team/image:v2", registry.host()).parse().unwrap();
    let error = client.manifest(&missing, None, &[]).await.unwrap_err();
    assert!(
        matches!(&error, RegistryError::NotFound { kind: Wanted::Manifest, detail, .. } if detail == "MANIFEST_UNKNOWN: no such thing")
    );
    assert!(error.hint().unwrap().contains("tag"), "{error}");

    registry.fault("GET", "/manifests/", Times::Once, Fault::Status(403, vec![], "denied".to_owned()));
    let error = client.manifest(&reference(&registry), None, &[]).await.unwrap_err();
    assert!(matches!(&error, RegistryError::Forbidden { detail, .. } if detail == "denied"), "{error}");

    let headers = vec![("retry-after", "3600".to_owned())];
    registry.fault("GET", "/manifests/", Times::Once, Fault::Status(429, headers, String::new()));
    let error = client.manifest(&reference(&registry), None, &[]).await.unwrap_err();
    assert!(
        matches!(&error, RegistryError::RateLimited { retry_after: Some(pause), .. } if pause.as_secs() == 3600)
    );
    assert!(error.hint().unwrap().contains("3600 seconds"));
    assert_eq!(registry.requests().len(), 3, "one request each");
}

#[tokio::test]
async fn what_may_pass_is_tried_again_and_told() {
    let registry = registry().await;
    registry.fault("GET", "/manifests/", Times::Once, Fault::Status(500, vec![], String::new()));
    let headers = vec![("retry-after", "0".to_owned())];
    registry.fault("GET", "/manifests/", Times::Once, Fault::Status(429, headers, String::new()));
    let notes = Arc::new(Notes::default());
    let client = client().with_listener(notes.clone());
    client.manifest(&reference(&registry), None, &[]).await.unwrap();
    assert_eq!(registry.requests().len(), 3);
    let notes = notes.0.lock().unwrap().clone();
    assert_eq!(notes.len(), 2);
    assert!(notes[0].contains("status 500") && notes[1].contains("limits requests"), "{notes:?}");

    registry.forget_requests();
    registry.fault("GET", "/manifests/", Times::Always, Fault::Status(503, vec![], "busy".to_owned()));
    let error = client.manifest(&reference(&registry), None, &[]).await.unwrap_err();
    assert!(matches!(&error, RegistryError::ServerFailure { status, .. } if status.as_u16() == 503));
    assert_eq!(registry.requests().len(), 3, "as many attempts as the settings allow");
}

#[tokio::test]
async fn basic_authentication_happens_once_asked_for_and_is_remembered() {
    let registry = registry().await;
    registry.set_auth(Auth::Basic("user", "se:cret"));
    let client = client();
    let secrets = [secret(&registry, "user", "se:cret")];
    client.manifest(&reference(&registry), None, &secrets).await.unwrap();
    assert_eq!(registry.requests().len(), 2);
    client.manifest(&reference(&registry), None, &secrets).await.unwrap();
    assert_eq!(registry.requests().len(), 3);

    // What one caller's secret opened stays closed for another caller.
    let error = client.manifest(&reference(&registry), None, &[]).await.unwrap_err();
    assert!(matches!(error, RegistryError::NoCredentials { .. }), "{error}");
}

#[tokio::test]
async fn no_credentials_and_wrong_ones_are_told_apart() {
    let registry = registry().await;
    let root = tempfile::tempdir().unwrap();
    let auth_file = root.path().join("auth.json");
    let file =
        AuthFile { path: auth_file.clone(), format: AuthFileFormat::Config, presence: Presence::Optional };
    let client = Client::new(RegistrySettings { auth_files: vec![file], ..settings() }).unwrap();
    for auth in [
        Auth::Basic("user", "right"),
        Auth::Token(TokenAuth { password: Some(("user", "right")), ..TokenAuth::default() }),
        Auth::Token(TokenAuth { password: Some(("user", "right")), anonymous: true, ..TokenAuth::default() }),
    ] {
        registry.set_auth(auth.clone());
        if matches!(&auth, Auth::Token(token) if token.anonymous) {
            // A token for nobody opens nothing here: the registry asks again, as Docker Hub does for private
            // images.
            registry.fault(
                "GET",
                "/manifests/",
                Times::Always,
                Fault::Status(
                    401,
                    vec![("www-authenticate", format!("Bearer realm=\"http://{}/token\"", registry.host()))],
                    String::new(),
                ),
            );
        }
        let error = client.manifest(&reference(&registry), None, &[]).await.unwrap_err();
        let RegistryError::NoCredentials { searched, repository, .. } = &error else {
            panic!("{auth:?}: {error}")
        };
        assert_eq!(searched, &[format!("`{}` (not there)", auth_file.display())]);
        assert_eq!(repository, &format!("{}/team/image", registry.host()));
        assert!(error.hint().unwrap().contains("podman login"));

        let secrets = [secret(&registry, "user", "wrong-password")];
        let error = client.manifest(&reference(&registry), None, &secrets).await.unwrap_err();
        let RegistryError::CredentialsRefused { tried, .. } = &error else { panic!("{auth:?}: {error}") };
        assert_eq!(tried, &["pull secret `user`"]);
        assert!(!chain(&error).contains("wrong-password"), "{error}");
    }
}

#[tokio::test]
async fn every_matching_pull_secret_is_tried() {
    let registry = registry().await;
    registry.set_auth(Auth::Basic("second", "right"));
    let secrets = [secret(&registry, "first", "wrong"), secret(&registry, "second", "right")];
    client().manifest(&reference(&registry), None, &secrets).await.unwrap();
}

#[tokio::test]
async fn a_valid_credential_without_access_makes_room_for_the_next_one() {
    // A 403 carries no challenge, so that the one before it counts.
    let registry = registry().await;
    registry.set_auth(Auth::Basic("second", "right"));
    let secrets = [secret(&registry, "first", "valid"), secret(&registry, "second", "right")];
    let refuse_first = |challenge: String| {
        let challenge = vec![("www-authenticate", challenge)];
        registry.fault("GET", "/manifests/", Times::Once, Fault::Status(401, challenge, String::new()));
        registry.fault("GET", "/manifests/", Times::Once, Fault::Status(403, vec![], "no access".to_owned()));
    };
    refuse_first("Basic realm=\"fake\"".to_owned());
    client().manifest(&reference(&registry), None, &secrets).await.unwrap();
    assert_eq!(registry.requests().len(), 3);

    // The same by way of a token server, whose address is relative to what was asked.
    registry.set_auth(Auth::Token(TokenAuth { password: Some(("second", "right")), ..TokenAuth::default() }));
    let token = Fault::Status(200, vec![], r#"{"token":"of-the-first"}"#.to_owned());
    registry.fault("GET", "/token", Times::Once, token);
    refuse_first("Bearer realm=\"/token\",service=\"fake\"".to_owned());
    client().manifest(&reference(&registry), None, &secrets).await.unwrap();

    // With none left the 403 is the answer.
    refuse_first("Basic realm=\"fake\"".to_owned());
    let error = client().manifest(&reference(&registry), None, &secrets[..1]).await.unwrap_err();
    assert!(matches!(&error, RegistryError::Forbidden { detail, .. } if detail == "no access"), "{error}");
}

#[tokio::test]
async fn tokens_are_fetched_kept_and_renewed() {
    let registry = registry().await;
    registry.set_auth(Auth::Token(TokenAuth { anonymous: true, ..TokenAuth::default() }));
    let client = client();
    client.manifest(&reference(&registry), None, &[]).await.unwrap();
    assert_eq!(
        registry.requests(),
        ["GET /v2/team/image/manifests/v1", "GET /token", "GET /v2/team/image/manifests/v1"]
    );
    let token_request = registry.seen()[1].target.clone();
    assert!(token_request.contains("service=fake"), "{token_request}");
    assert!(token_request.contains("scope=repository%3Ateam%2Fimage%3Apull"), "{token_request}");

    registry.forget_requests();
    client.manifest(&reference(&registry), None, &[]).await.unwrap();
    assert_eq!(registry.requests().len(), 1, "the token is kept");

    registry.expire_tokens();
    registry.forget_requests();
    client.manifest(&reference(&registry), None, &[]).await.unwrap();
    assert_eq!(registry.requests().len(), 3, "a token that is refused is renewed");
}

#[tokio::test]
async fn passwords_and_identity_tokens_are_exchanged_for_tokens() {
    let registry = registry().await;
    registry.set_auth(Auth::Token(TokenAuth {
        password: Some(("user", "right")),
        identity_token: Some("refresh-me"),
        ..TokenAuth::default()
    }));
    let with_password = [secret(&registry, "user", "right")];
    client().manifest(&reference(&registry), None, &with_password).await.unwrap();
    assert!(registry.seen()[1].target.contains("account=user"));

    let json = format!(r#"{{"auths":{{"{}":{{"identitytoken":"refresh-me"}}}}}}"#, registry.host());
    let with_identity = [PullSecret::from_docker_config_json("id", json.as_bytes()).unwrap()];
    registry.forget_requests();
    client().manifest(&reference(&registry), None, &with_identity).await.unwrap();
    assert_eq!(registry.requests()[1], "POST /token");
    assert!(registry.seen().iter().all(|seen| !seen.target.contains("refresh-me")));
}

#[tokio::test]
async fn a_token_server_without_https_gets_no_credentials() {
    let registry = registry().await;
    let realm = Some("http://token.example.com/token".to_owned());
    registry.set_auth(Auth::Token(TokenAuth { realm, ..TokenAuth::default() }));
    let secrets = [secret(&registry, "user", "right")];
    let error = client().manifest(&reference(&registry), None, &secrets).await.unwrap_err();
    assert!(
        matches!(&error, RegistryError::PlainTokenServer { host } if host == "token.example.com"),
        "{error}"
    );
}

#[tokio::test]
async fn an_identity_token_does_not_follow_a_redirect_elsewhere() {
    let registry = registry().await;
    let elsewhere = FakeRegistry::start().await;
    registry.set_auth(Auth::Token(TokenAuth { identity_token: Some("refresh-me"), ..TokenAuth::default() }));
    let json = format!(r#"{{"auths":{{"{}":{{"identitytoken":"refresh-me"}}}}}}"#, registry.host());
    let secrets = [PullSecret::from_docker_config_json("id", json.as_bytes()).unwrap()];
    let redirect_to = |url: String| registry.fault("POST", "/token", Times::Once, Fault::RedirectTo(url));

    redirect_to(format!("http://{}/token", elsewhere.host()));
    let error = client().manifest(&reference(&registry), None, &secrets).await.unwrap_err();
    assert!(matches!(&error, RegistryError::Redirect { .. }), "{error}");
    assert!(elsewhere.requests().is_empty());
    assert!(!chain(&error).contains("refresh-me"));

    redirect_to("/token?again".to_owned());
    client().manifest(&reference(&registry), None, &secrets).await.unwrap();
}

#[tokio::test]
async fn credential_helpers_and_auth_files_open_registries() {
    use std::os::unix::fs::PermissionsExt;
    let registry = registry().await;
    registry.set_auth(Auth::Basic("user", "from-helper"));
    let root = tempfile::tempdir().unwrap();
    let helper = root.path().join("docker-credential-test");
    let answer =
        r#"read server; echo "{\"ServerURL\":\"$server\",\"Username\":\"user\",\"Secret\":\"from-helper\"}""#;
    std::fs::write(&helper, format!("#!/bin/sh\n{answer}\n")).unwrap();
    std::fs::set_permissions(&helper, PermissionsExt::from_mode(0o755)).unwrap();
    let auth_file = root.path().join("auth.json");
    std::fs::write(&auth_file, format!(r#"{{"credHelpers":{{"{}":"test"}}}}"#, registry.host())).unwrap();
    let file = |path: &Path| AuthFile {
        path: path.to_owned(),
        format: AuthFileFormat::Config,
        presence: Presence::Required,
    };
    let settings = RegistrySettings {
        auth_files: vec![file(&auth_file)],
        program_directories: vec![root.path().to_owned()],
        ..settings()
    };
    Client::new(settings).unwrap().manifest(&reference(&registry), None, &[]).await.unwrap();
}

#[tokio::test]
async fn registries_conf_names_the_helpers_to_ask() {
    use std::os::unix::fs::PermissionsExt;
    let registry = registry().await;
    registry.set_auth(Auth::Basic("user", "from-helper"));
    let root = tempfile::tempdir().unwrap();
    let helper = root.path().join("docker-credential-test");
    let answer = r#"cat >/dev/null; echo "{\"Username\":\"user\",\"Secret\":\"from-helper\"}""#;
    std::fs::write(&helper, format!("#!/bin/sh\n{answer}\n")).unwrap();
    std::fs::set_permissions(&helper, PermissionsExt::from_mode(0o755)).unwrap();
    let configuration = root.path().join("registries.conf");
    std::fs::write(&configuration, "credential-helpers = [\"containers-auth.json\", \"test\"]\n").unwrap();
    let settings = RegistrySettings {
        registries_conf: vec![(configuration, Presence::Required)],
        program_directories: vec![root.path().to_owned()],
        ..settings()
    };
    Client::new(settings).unwrap().manifest(&reference(&registry), None, &[]).await.unwrap();
}

#[tokio::test]
async fn wrong_content_is_refused() {
    let registry = registry().await;
    let client = client();
    let other = Digest::sha256_of(b"other");

    registry.fault("GET", "/manifests/", Times::Once, Fault::DigestHeader(other.to_string()));
    let error = client.manifest(&reference(&registry), None, &[]).await.unwrap_err();
    assert!(matches!(&error, RegistryError::WrongDigest { expected, .. } if *expected == other), "{error}");

    let by_digest = reference(&registry).with_digest(Digest::sha256_of(MANIFEST));
    registry.fault("GET", "/manifests/", Times::Once, Fault::Corrupt);
    let error = client.manifest(&by_digest, None, &[]).await.unwrap_err();
    // The first byte is no `{` any more, so that this is no manifest at all.
    assert!(matches!(&error, RegistryError::WrongMediaType { .. }), "{error}");

    registry.add_manifest("team/image", "v1", OCI_MANIFEST, OTHER_MANIFEST);
    registry.fault("GET", "/manifests/sha256", Times::Once, Fault::RedirectTo("v1".to_owned()));
    let error = client.manifest(&by_digest, None, &[]).await.unwrap_err();
    assert!(
        matches!(&error, RegistryError::WrongDigest { actual, .. } if *actual == Digest::sha256_of(OTHER_MANIFEST))
    );

    registry.fault("GET", "/manifests/", Times::Once, Fault::WebPage);
    let error = client.manifest(&reference(&registry), None, &[]).await.unwrap_err();
    assert!(
        matches!(&error, RegistryError::WrongMediaType { media_type, .. } if media_type == "text/html"),
        "{error}"
    );

    registry.fault("GET", "/manifests/", Times::Once, Fault::Endless);
    let error = client.manifest(&reference(&registry), None, &[]).await.unwrap_err();
    assert!(matches!(&error, RegistryError::TooLarge { limit_bytes: LARGEST_MANIFEST_BYTES, .. }), "{error}");

    registry.fault("GET", "/manifests/", Times::Once, Fault::ContentType("text/plain".to_owned()));
    client.manifest(&reference(&registry), None, &[]).await.unwrap();
    assert_eq!(registry.requests().len(), 7, "none of these is tried again");
}

#[tokio::test]
async fn the_largest_manifest_passes_and_one_byte_more_does_not() {
    let registry = FakeRegistry::start().await;
    let manifest = |length: u64| {
        let mut text = String::from(r#"{"schemaVersion":2,"layers":[]}"#);
        text.push_str(&" ".repeat(usize::try_from(length).unwrap() - text.len()));
        text.into_bytes()
    };
    registry.add_manifest("team/image", "v1", OCI_MANIFEST, &manifest(LARGEST_MANIFEST_BYTES));
    client().manifest(&reference(&registry), None, &[]).await.unwrap();
    registry.add_manifest("team/image", "v1", OCI_MANIFEST, &manifest(LARGEST_MANIFEST_BYTES + 1));
    let error = client().manifest(&reference(&registry), None, &[]).await.unwrap_err();
    assert!(matches!(error, RegistryError::TooLarge { .. }), "{error}");
}

#[tokio::test]
async fn a_broken_download_goes_on_where_it_broke() {
    let registry = registry().await;
    registry.fault("GET", "/blobs/", Times::Count(2), Fault::TruncateAfter(15_000));
    let mut sink = MemorySink::default();
    download(&registry, &mut sink).await.unwrap();
    assert_eq!(sink.bytes, content());
    assert_eq!(sink.restarts, 0);
    let ranges: Vec<Option<String>> = registry
        .seen()
        .iter()
        .map(|seen| seen.headers.get("range").map(|range| range.to_str().unwrap().to_owned()))
        .collect();
    assert_eq!(ranges.len(), 3);
    assert_eq!(ranges[0], None);
    assert!(ranges[1].as_deref().is_some_and(|range| range.starts_with("bytes=")), "{ranges:?}");
}

#[tokio::test]
async fn a_download_that_hardly_gets_further_ends() {
    let registry = registry().await;
    registry.fault("GET", "/blobs/", Times::Always, Fault::TruncateAfter(1));
    let mut sink = MemorySink::default();
    let error = download(&registry, &mut sink).await.unwrap_err();
    assert!(matches!(&error, RegistryError::Connection { .. }), "{error:?}");
    assert_eq!(registry.requests().len(), 3, "a byte is no progress");

    // A mebibyte is.
    let content = vec![7; 6 << 20];
    let descriptor = descriptor(registry.add_blob(&content), content.len());
    let client = client();
    let endpoint = client.endpoints(&reference(&registry)).unwrap().remove(0);
    registry.fault("GET", descriptor.digest.hex(), Times::Count(4), Fault::TruncateAfter(1_200_000));
    let mut sink = MemorySink::default();
    registry.stop_fault("/blobs/");
    client.blob(&endpoint, &descriptor, &mut sink, &[]).await.unwrap();
    assert_eq!(sink.bytes.len(), content.len());
}

#[tokio::test]
async fn a_download_that_trickles_ends() {
    let registry = registry().await;
    let content = [7; 64];
    let descriptor = descriptor(registry.add_blob(&content), content.len());
    registry.fault("GET", "/blobs/", Times::Always, Fault::Trickle(Duration::from_millis(20)));
    let mut settings = settings();
    settings.time_limits.download_window = Duration::from_millis(100);
    settings.retry.attempts = 2;
    let client = Client::new(settings).unwrap();
    let endpoint = client.endpoints(&reference(&registry)).unwrap().remove(0);
    let mut sink = MemorySink::default();
    let error = client.blob(&endpoint, &descriptor, &mut sink, &[]).await.unwrap_err();
    assert!(matches!(&error, RegistryError::TooSlow { .. }), "{error}");
    assert!(error.hint().is_some());
    assert_eq!(registry.requests().len(), 2);
    assert!(!sink.bytes.is_empty(), "what came stays");
}

#[tokio::test]
async fn a_server_that_ignores_ranges_sends_everything_again() {
    let registry = registry().await;
    registry.fault("GET", "/blobs/", Times::Once, Fault::TruncateAfter(20_000));
    registry.fault("GET", "/blobs/", Times::Always, Fault::IgnoreRange);
    let mut sink = MemorySink::default();
    download(&registry, &mut sink).await.unwrap();
    assert_eq!((sink.bytes == content(), sink.restarts), (true, 1));
}

#[tokio::test]
async fn a_download_that_never_gets_further_ends() {
    let registry = registry().await;
    registry.fault("GET", "/blobs/", Times::Always, Fault::EndAfter(0));
    let mut sink = MemorySink::default();
    let error = download(&registry, &mut sink).await.unwrap_err();
    assert!(
        matches!(&error, RegistryError::Truncated { received_bytes: 0, expected_bytes: 40_000, .. }),
        "{error}"
    );
    assert_eq!(registry.requests().len(), 3);
}

#[tokio::test]
async fn more_bytes_than_declared_never_reach_the_sink() {
    let registry = registry().await;
    registry.fault("GET", "/blobs/", Times::Once, Fault::Endless);
    let mut sink = MemorySink::default();
    let error = download(&registry, &mut sink).await.unwrap_err();
    assert!(matches!(&error, RegistryError::TooLarge { limit_bytes: 40_000, .. }), "{error}");
    assert!(sink.bytes.len() <= 40_000);

    let client = client();
    let endpoint = client.endpoints(&reference(&registry)).unwrap().remove(0);
    let declared_too_small = descriptor(registry.add_blob(&content()), content().len() - 1);
    let mut sink = MemorySink::default();
    let error = client.blob(&endpoint, &declared_too_small, &mut sink, &[]).await.unwrap_err();
    assert!(matches!(&error, RegistryError::TooLarge { limit_bytes: 39_999, .. }), "{error}");
}

#[tokio::test]
async fn a_full_disk_ends_the_download_at_once_with_its_own_error() {
    let registry = registry().await;
    let mut sink = MemorySink { room: Some(10_000), ..MemorySink::default() };
    let error = download(&registry, &mut sink).await.unwrap_err();
    assert!(
        matches!(&error, RegistryError::Sink { source, .. } if source.kind() == io::ErrorKind::StorageFull)
    );
    assert!(error.hint().unwrap().contains("image prune --all"));
    assert_eq!(registry.requests().len(), 1);
}

#[tokio::test]
async fn blobs_that_are_missing_or_web_pages_are_refused() {
    let registry = registry().await;
    registry.fault("GET", "/blobs/", Times::Once, Fault::WebPage);
    let error = download(&registry, &mut MemorySink::default()).await.unwrap_err();
    assert!(matches!(&error, RegistryError::WrongMediaType { .. }), "{error}");

    let client = client();
    let endpoint = client.endpoints(&reference(&registry)).unwrap().remove(0);
    let absent = descriptor(Digest::sha256_of(b"absent"), 6);
    let error = client.blob(&endpoint, &absent, &mut MemorySink::default(), &[]).await.unwrap_err();
    assert!(matches!(&error, RegistryError::NotFound { kind: Wanted::Blob, .. }), "{error}");
}

#[tokio::test]
async fn silence_ends_in_a_timeout() {
    let registry = registry().await;
    registry.fault("GET", "/manifests/", Times::Always, Fault::Stall);
    let mut settings = settings();
    settings.time_limits.stall = Duration::from_millis(100);
    settings.retry.attempts = 2;
    let error = Client::new(settings).unwrap().manifest(&reference(&registry), None, &[]).await.unwrap_err();
    assert!(matches!(&error, RegistryError::Timeout { .. }), "{error}");
    assert_eq!(registry.requests().len(), 2);
}

#[tokio::test]
async fn an_unreachable_registry_costs_one_connection_per_attempt() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let reference: Reference = format!("{address}/image:v1").parse().unwrap();
    let client = client();
    let known = Digest::sha256_of(MANIFEST);
    let error = client.manifest(&reference, Some(&known), &[]).await.unwrap_err();
    assert!(matches!(&error, RegistryError::ConnectionRefused { .. }), "{error:?}");
    assert_eq!(client.requests(), 3);
}

#[tokio::test]
async fn redirects_are_followed_without_credentials() {
    let registry = registry().await;
    let elsewhere = FakeRegistry::start().await;
    let content = content();
    let digest = elsewhere.add_blob(&content);
    registry.set_auth(Auth::Basic("user", "right"));
    let url = format!("http://{}/v2/x/blobs/{digest}?signature=abc", elsewhere.host());
    registry.add_blob(&content);
    let secrets = [secret(&registry, "user", "right")];
    let client = client();
    client.manifest(&reference(&registry), None, &secrets).await.unwrap();
    registry.fault("GET", "/blobs/", Times::Always, Fault::RedirectTo(url));
    let endpoint = client.endpoints(&reference(&registry)).unwrap().remove(0);
    let mut sink = MemorySink::default();
    client.blob(&endpoint, &descriptor(digest, content.len()), &mut sink, &secrets).await.unwrap();
    assert_eq!(sink.bytes, content);
    assert!(registry.seen().last().unwrap().headers.contains_key("authorization"));
    assert!(!elsewhere.seen()[0].headers.contains_key("authorization"));
}

#[tokio::test]
async fn https_that_meets_plain_http_says_so() {
    let registry = registry().await;
    let plain = FakeRegistry::start().await;
    let url = format!("https://{}/v2/team/image/manifests/v1", plain.host());
    registry.fault("GET", "/manifests/", Times::Always, Fault::RedirectTo(url));
    let error = client().manifest(&reference(&registry), None, &[]).await.unwrap_err();
    match &error {
        RegistryError::PlainHttp { host, .. } => assert_eq!(*host, plain.host()),
        // Where there are no root certificates at all the client cannot even be made.
        RegistryError::Setup { .. } => {}
        other => panic!("{other:?}"),
    }
    assert!(error.hint().is_some());
}

#[tokio::test]
async fn redirects_in_a_circle_end() {
    let registry = registry().await;
    registry.fault("GET", "/manifests/", Times::Always, Fault::RedirectTo("v1".to_owned()));
    let error = client().manifest(&reference(&registry), None, &[]).await.unwrap_err();
    assert!(matches!(&error, RegistryError::Redirect { problem: "too many times", .. }), "{error}");
}

/// A client whose registries.conf is `text`; the directory has to live as long as the client is made.
fn client_with_registries(text: &str) -> Client {
    let directory = tempfile::tempdir().unwrap();
    let path: PathBuf = directory.path().join("registries.conf");
    std::fs::write(&path, text).unwrap();
    Client::new(RegistrySettings { registries_conf: vec![(path, Presence::Required)], ..settings() }).unwrap()
}

#[tokio::test]
async fn mirrors_are_asked_in_order_and_their_failures_are_told() {
    let primary = registry().await;
    let broken = FakeRegistry::start().await;
    let mirror = FakeRegistry::start().await;
    broken.fault("GET", "/", Times::Always, Fault::Status(500, vec![], String::new()));
    mirror.add_manifest("copy/image", "v1", OCI_MANIFEST, MANIFEST);
    let configuration = format!(
        "[[registry]]\nprefix = \"registry.example.com/team\"\nlocation = \"{}/team\"\n\
         [[registry.mirror]]\nlocation = \"{}/copy\"\n[[registry.mirror]]\nlocation = \"{}/copy\"\n",
        primary.host(),
        broken.host(),
        mirror.host()
    );
    let notes = Arc::new(Notes::default());
    let client = client_with_registries(&configuration).with_listener(notes.clone());
    let reference: Reference = "registry.example.com/team/image:v1".parse().unwrap();
    let manifest = client.manifest(&reference, None, &[]).await.unwrap();
    assert_eq!(
        (&manifest.endpoint.registry, manifest.endpoint.repository.as_str()),
        (&mirror.host(), "copy/image")
    );
    assert_eq!(broken.requests().len(), 1, "a mirror in trouble is not waited for");
    assert_eq!(primary.requests().len(), 0);
    assert!(notes.0.lock().unwrap()[0].contains(&broken.host()));

    mirror.fault("GET", "/", Times::Always, Fault::Status(404, vec![], String::new()));
    let manifest = client.manifest(&reference, None, &[]).await.unwrap();
    assert_eq!(manifest.endpoint.registry, primary.host());

    primary.fault("GET", "/", Times::Always, Fault::Status(403, vec![], String::new()));
    let error = client.manifest(&reference, None, &[]).await.unwrap_err();
    let RegistryError::AllPlacesFailed { attempts, .. } = &error else { panic!("{error}") };
    assert!(matches!(attempts[0].1, RegistryError::ServerFailure { .. }));
    assert!(matches!(attempts[1].1, RegistryError::NotFound { .. }));
    assert!(matches!(attempts[2].1, RegistryError::Forbidden { .. }));
    assert!([&broken, &mirror, &primary].iter().all(|place| error.to_string().contains(&place.host())));
}

#[tokio::test]
async fn blocked_images_cause_no_request() {
    let registry = registry().await;
    let configuration = format!("[[registry]]\nlocation = \"{}\"\nblocked = true\n", registry.host());
    let client = client_with_registries(&configuration);
    let error = client.manifest(&reference(&registry), None, &[]).await.unwrap_err();
    assert!(matches!(&error, RegistryError::Resolve(_)), "{error}");
    assert!(error.hint().is_some());
    assert!(client.push_endpoint(&reference(&registry)).is_err());
    assert!(registry.requests().is_empty());
}

#[tokio::test]
async fn refused_connections_and_unknown_hosts_are_told_apart() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let reference: Reference = format!("{address}/image").parse().unwrap();
    let notes = Arc::new(Notes::default());
    let client = client().with_listener(notes.clone());
    let error = client.manifest(&reference, None, &[]).await.unwrap_err();
    assert!(matches!(&error, RegistryError::ConnectionRefused { .. }), "{error:?}");
    assert!(error.hint().unwrap().contains(&address.to_string()));
    assert_eq!(notes.0.lock().unwrap().len(), 2, "a registry may be starting, so that this may pass");

    // The top-level domain that never exists (RFC 6761, section 6.4); no resolver is needed to know that.
    let reference: Reference = "registry.invalid/image".parse().unwrap();
    let error = client.manifest(&reference, None, &[]).await.unwrap_err();
    match &error {
        RegistryError::UnknownHost { host, .. } => assert_eq!(host, "registry.invalid"),
        // Where there are no root certificates at all the client cannot even be made.
        RegistryError::Setup { .. } => {}
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn proxies_are_used_except_where_excepted_and_on_loopback() {
    let proxy = FakeRegistry::start().await;
    proxy.add_manifest("team/image", "v1", OCI_MANIFEST, MANIFEST);
    let directory = tempfile::tempdir().unwrap();
    let configuration = directory.path().join("registries.conf");
    std::fs::write(&configuration, "[[registry]]\nlocation = \"registry.invalid\"\ninsecure = true\n")
        .unwrap();
    let mut settings =
        RegistrySettings { registries_conf: vec![(configuration, Presence::Required)], ..settings() };
    settings.proxies.http = Some(format!("http://{}", proxy.host()));
    let behind_proxy: Reference = "registry.invalid/team/image:v1".parse().unwrap();
    let client = Client::new(settings.clone()).unwrap();
    client.manifest(&behind_proxy, None, &[]).await.unwrap();
    assert_eq!(proxy.seen()[0].headers["host"], "registry.invalid");

    let loopback = registry().await;
    client.manifest(&reference(&loopback), None, &[]).await.unwrap();
    assert_eq!((proxy.requests().len(), loopback.requests().len()), (1, 1));

    settings.proxies.exceptions = Some("other.invalid,registry.invalid".to_owned());
    let error = Client::new(settings.clone()).unwrap().manifest(&behind_proxy, None, &[]).await.unwrap_err();
    assert!(matches!(&error, RegistryError::UnknownHost { .. }), "{error:?}");

    settings.proxies.exceptions = None;
    settings.proxies.https = Some("http://user:hunter2@[".to_owned());
    let error = Client::new(settings).unwrap().manifest(&behind_proxy, None, &[]).await.unwrap_err();
    assert!(matches!(&error, RegistryError::Proxy { .. }), "{error:?}");
    assert!(!chain(&error).contains("hunter2"), "{error:?}");
}

#[tokio::test]
async fn what_an_insecure_repository_speaks_does_not_count_for_a_verified_one() {
    let proxy = FakeRegistry::start().await;
    for repository in ["dev/image", "prod/image"] {
        proxy.add_manifest(repository, "v1", OCI_MANIFEST, MANIFEST);
    }
    let directory = tempfile::tempdir().unwrap();
    let configuration = directory.path().join("registries.conf");
    std::fs::write(&configuration, "[[registry]]\nlocation = \"registry.invalid/dev\"\ninsecure = true\n")
        .unwrap();
    let mut settings =
        RegistrySettings { registries_conf: vec![(configuration, Presence::Required)], ..settings() };
    settings.proxies.http = Some(format!("http://{}", proxy.host()));
    let client = Client::new(settings).unwrap();
    client.manifest(&"registry.invalid/dev/image:v1".parse().unwrap(), None, &[]).await.unwrap();
    proxy.forget_requests();
    let error = client
        .manifest(&"registry.invalid/prod/image:v1".parse().unwrap(), None, &[])
        .await
        .expect_err("nothing speaks HTTPS there");
    assert!(matches!(&error, RegistryError::UnknownHost { .. } | RegistryError::Setup { .. }), "{error:?}");
    assert!(proxy.requests().is_empty(), "nothing goes there by plain HTTP");
}

#[tokio::test]
async fn a_registry_may_take_its_time_to_commit_a_blob() {
    let registry = FakeRegistry::start().await;
    let bytes = content();
    let digest = Digest::sha256_of(&bytes);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &bytes).unwrap();
    let descriptor = descriptor(digest.clone(), bytes.len());
    let push = async |commit: Duration| {
        let mut settings = settings();
        settings.time_limits.stall = Duration::from_millis(100);
        settings.time_limits.commit = commit;
        settings.retry.attempts = 1;
        let client = Client::new(settings).unwrap();
        let target = client.push_endpoint(&reference(&registry)).unwrap();
        client.push_blob(&target, &descriptor, file.path(), Arc::new(|_| {}), &[]).await
    };
    registry.fault("PUT", "/blobs/", Times::Count(2), Fault::Late(Duration::from_millis(500)));
    let error = push(Duration::from_millis(50)).await.unwrap_err();
    assert!(
        matches!(&error, RegistryError::Timeout { limit, .. } if *limit == Duration::from_millis(50)),
        "{error}"
    );
    push(Duration::from_secs(20)).await.unwrap();
    assert_eq!(registry.blob(&digest).unwrap(), bytes);

    // The request that ends an upload in pieces has no body to wait for.
    registry.refuse_whole_uploads();
    registry.fault("PUT", "/blobs/", Times::Once, Fault::Status(413, vec![], String::new()));
    registry.fault("PUT", "/blobs/", Times::Once, Fault::Late(Duration::from_millis(500)));
    push(Duration::from_secs(20)).await.unwrap();
}

#[tokio::test]
async fn pushed_blobs_and_manifests_arrive() {
    for in_pieces in [false, true] {
        let registry = FakeRegistry::start().await;
        registry
            .set_auth(Auth::Token(TokenAuth { password: Some(("user", "right")), ..TokenAuth::default() }));
        if in_pieces {
            registry.refuse_whole_uploads();
        }
        let secrets = [secret(&registry, "user", "right")];
        let client = client();
        let target = client.push_endpoint(&reference(&registry)).unwrap();
        let bytes: Vec<u8> = (0..3_000_000_u32).flat_map(u32::to_le_bytes).collect();
        let digest = Digest::sha256_of(&bytes);
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &bytes).unwrap();

        assert!(!client.blob_exists(&target, &digest, &secrets).await.unwrap());
        let sent = Arc::new(AtomicU64::new(0));
        let progress = {
            let sent = Arc::clone(&sent);
            Arc::new(move |total| sent.store(total, Ordering::SeqCst))
        };
        let descriptor = descriptor(digest.clone(), bytes.len());
        client.push_blob(&target, &descriptor, file.path(), progress, &secrets).await.unwrap();
        assert_eq!(registry.blob(&digest).unwrap(), bytes);
        assert_eq!(sent.load(Ordering::SeqCst), bytes.len() as u64);
        assert!(client.blob_exists(&target, &digest, &secrets).await.unwrap());
        let patches = registry.requests().iter().filter(|request| request.starts_with("PATCH")).count();
        assert_eq!(patches, if in_pieces { 2 } else { 0 });

        let pushed = client.push_manifest(&target, "v9", OCI_MANIFEST, MANIFEST, &secrets).await.unwrap();
        assert_eq!(pushed, Digest::sha256_of(MANIFEST));
        assert_eq!(registry.manifest("team/image", "v9").unwrap(), MANIFEST);
    }
}

#[tokio::test]
async fn a_push_that_is_denied_says_so() {
    let registry = FakeRegistry::start().await;
    registry.fault("POST", "/blobs/uploads/", Times::Always, Fault::Status(403, vec![], String::new()));
    let client = client();
    let target = client.push_endpoint(&reference(&registry)).unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), b"blob").unwrap();
    let descriptor = descriptor(Digest::sha256_of(b"blob"), 4);
    let error = client.push_blob(&target, &descriptor, file.path(), Arc::new(|_| {}), &[]).await.unwrap_err();
    assert!(matches!(&error, RegistryError::Forbidden { .. }), "{error}");

    let wrong_size = Descriptor { size_bytes: 5, ..descriptor };
    let error = client.push_blob(&target, &wrong_size, file.path(), Arc::new(|_| {}), &[]).await.unwrap_err();
    assert!(matches!(&error, RegistryError::Source { .. }), "{error}");
}
