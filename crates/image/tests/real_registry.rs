//! The registry client against Debian's `docker-registry`: passwords, TLS, certificates of both sides.

#![allow(clippy::unwrap_used)]

#[path = "support/real_registry.rs"]
mod support;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use image::{
    Client, Descriptor, Digest, PullSecret, Reference, RegistryError, RegistrySettings,
    settings::{Presence, RetryPolicy},
};
use support::{PASSWORD, RealRegistry, USER};

const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";

fn settings() -> RegistrySettings {
    let retry = RetryPolicy {
        attempts: 2,
        first_delay: Duration::from_millis(1),
        longest_delay: Duration::from_millis(1),
    };
    RegistrySettings { retry, ..RegistrySettings::default() }
}

fn reference(registry: &RealRegistry) -> Reference {
    format!("{}/team/image:v1", registry.host()).parse().unwrap()
}

fn secret(registry: &RealRegistry, password: &str) -> PullSecret {
    let json = format!(r#"{{"{}":{{"username":"{USER}","password":"{password}"}}}}"#, registry.host());
    PullSecret::from_docker_cfg("login", json.as_bytes()).unwrap()
}

/// Pushes an image that consists of its configuration alone, and returns its digest.
async fn push(
    client: &Client,
    registry: &RealRegistry,
    secrets: &[PullSecret],
) -> Result<Digest, RegistryError> {
    let target = client.push_endpoint(&reference(registry))?;
    let config = tempfile::NamedTempFile::new().unwrap();
    let bytes = br#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}"#;
    fs::write(config.path(), bytes).unwrap();
    let descriptor = Descriptor {
        media_type: "application/vnd.oci.image.config.v1+json".to_owned(),
        digest: Digest::sha256_of(bytes),
        size_bytes: bytes.len() as u64,
    };
    client.push_blob(&target, &descriptor, config.path(), Arc::new(|_| {}), secrets).await?;
    let config = serde_json::to_string(&descriptor).unwrap();
    let manifest =
        format!(r#"{{"schemaVersion":2,"mediaType":"{MANIFEST_TYPE}","config":{config},"layers":[]}}"#);
    client.push_manifest(&target, "v1", MANIFEST_TYPE, manifest.as_bytes(), secrets).await
}

/// Certificates made for one test: an authority, a server at 127.0.0.1, a client.
struct Certificates {
    directory: tempfile::TempDir,
}

impl Certificates {
    fn new() -> Self {
        let certificates = Self { directory: tempfile::tempdir().unwrap() };
        let new_key = ["req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
        certificates.openssl(
            &[&new_key[..], &["-x509", "-subj", "/CN=authority", "-keyout", "ca.key", "-out", "ca.crt"]]
                .concat(),
        );
        for (name, extension) in
            [("server", "subjectAltName=IP:127.0.0.1"), ("client", "extendedKeyUsage=clientAuth")]
        {
            let (key, request, certificate, extensions) =
                (format!("{name}.key"), format!("{name}.csr"), format!("{name}.crt"), format!("{name}.ext"));
            fs::write(certificates.path(&extensions), extension).unwrap();
            certificates
                .openssl(&[&new_key[..], &["-subj", "/CN=test", "-keyout", &key, "-out", &request]].concat());
            certificates.openssl(&[
                "x509",
                "-req",
                "-in",
                &request,
                "-CA",
                "ca.crt",
                "-CAkey",
                "ca.key",
                "-CAcreateserial",
                "-out",
                &certificate,
                "-extfile",
                &extensions,
            ]);
        }
        certificates
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn openssl(&self, arguments: &[&str]) {
        let output = Command::new("openssl")
            .args(arguments)
            .current_dir(self.directory.path())
            .output()
            .expect("openssl can be run; this test needs Debian's package `openssl`");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// The registry's configuration for TLS.
    fn server_settings(&self) -> String {
        let (certificate, key) = (self.path("server.crt"), self.path("server.key"));
        format!("  tls:\n    certificate: {}\n    key: {}\n", certificate.display(), key.display())
    }

    /// Settings under which `registry` is known by files with these names and contents in certs.d.
    fn known(&self, registry: &RealRegistry, files: &[(&str, &str)]) -> RegistrySettings {
        let certs = self.path("certs.d");
        let directory = certs.join(registry.host());
        fs::create_dir_all(&directory).unwrap();
        for (name, source) in files {
            fs::copy(self.path(source), directory.join(name)).unwrap();
        }
        RegistrySettings { certs_directories: vec![certs], ..settings() }
    }
}

fn insecure(directory: &Path, registry: &RealRegistry) -> RegistrySettings {
    let path = directory.join("registries.conf");
    fs::write(&path, format!("[[registry]]\nlocation = \"{}\"\ninsecure = true\n", registry.host())).unwrap();
    RegistrySettings { registries_conf: vec![(path, Presence::Required)], ..settings() }
}

#[tokio::test]
async fn push_and_pull_without_a_password() {
    let registry = RealRegistry::start();
    let client = Client::new(settings()).unwrap();
    let digest = push(&client, &registry, &[]).await.unwrap();

    let client = Client::new(settings()).unwrap();
    let manifest = client.manifest(&reference(&registry), None, &[]).await.unwrap();
    assert_eq!((manifest.digest.clone(), manifest.media_type.as_str()), (digest, MANIFEST_TYPE));
    let again = Client::new(settings()).unwrap();
    let unchanged = again.manifest(&reference(&registry), Some(&manifest.digest), &[]).await.unwrap();
    assert!(unchanged.unchanged);
    assert_eq!(again.requests(), 1);

    let absent = reference(&registry).with_digest(Digest::sha256_of(b"absent"));
    let error = client.manifest(&absent, None, &[]).await.unwrap_err();
    assert!(
        matches!(&error, RegistryError::NotFound { detail, .. } if detail.contains("MANIFEST_UNKNOWN")),
        "{error}"
    );
}

#[tokio::test]
async fn a_password_is_needed_and_checked() {
    let registry = RealRegistry::start_with_password();
    let client = Client::new(settings()).unwrap();
    let right = [secret(&registry, PASSWORD)];
    let digest = push(&client, &registry, &right).await.unwrap();
    let manifest = client.manifest(&reference(&registry), None, &right).await.unwrap();
    assert_eq!(manifest.digest, digest);

    let error = client.manifest(&reference(&registry), None, &[]).await.unwrap_err();
    assert!(matches!(error, RegistryError::NoCredentials { .. }), "{error}");
    let wrong = [secret(&registry, "wrong horse")];
    let error = client.manifest(&reference(&registry), None, &wrong).await.unwrap_err();
    assert!(matches!(error, RegistryError::CredentialsRefused { .. }), "{error}");
    let error = push(&client, &registry, &[]).await.unwrap_err();
    assert!(matches!(error, RegistryError::NoCredentials { .. }), "{error}");
}

#[tokio::test]
async fn a_certificate_has_to_be_known_or_waived() {
    let certificates = Certificates::new();
    let registry = RealRegistry::start_with(&certificates.server_settings());

    let error = push(&Client::new(settings()).unwrap(), &registry, &[]).await.unwrap_err();
    match &error {
        RegistryError::Certificate { host, .. } => assert_eq!(*host, registry.host()),
        // Without any root certificate on the system there is nothing to verify against.
        RegistryError::Setup { .. } => {}
        other => panic!("{other:?}"),
    }
    assert!(error.hint().is_some());

    let known = certificates.known(&registry, &[("ca.crt", "ca.crt")]);
    let digest = push(&Client::new(known.clone()).unwrap(), &registry, &[]).await.unwrap();
    let client = Client::new(known).unwrap();
    client.manifest(&reference(&registry), Some(&digest), &[]).await.unwrap();
    assert_eq!(client.requests(), 1, "with certificates in certs.d there is no guessing by plain HTTP");

    let waived = insecure(certificates.directory.path(), &registry);
    let manifest = Client::new(waived).unwrap().manifest(&reference(&registry), None, &[]).await.unwrap();
    assert_eq!(manifest.digest, digest);
}

#[tokio::test]
async fn a_client_certificate_is_shown_where_there_is_one() {
    let certificates = Certificates::new();
    let authority = certificates.path("ca.crt");
    let server = certificates.server_settings();
    let registry =
        RealRegistry::start_with(&format!("{server}    clientcas:\n      - {}\n", authority.display()));

    let nobody = certificates.known(&registry, &[("ca.crt", "ca.crt")]);
    let error = push(&Client::new(nobody).unwrap(), &registry, &[]).await.unwrap_err();
    assert!(matches!(&error, RegistryError::Tls { .. }), "{error:?}");
    assert!(error.hint().unwrap().contains("client.cert"), "{error}");

    let somebody =
        certificates.known(&registry, &[("client.cert", "client.crt"), ("client.key", "client.key")]);
    push(&Client::new(somebody).unwrap(), &registry, &[]).await.unwrap();
}

#[tokio::test]
async fn plain_http_where_tls_is_required_is_recognised() {
    let certificates = Certificates::new();
    let registry = RealRegistry::start();
    // certs.d knows the registry, so that TLS is tried first; a loopback registry may then still speak plain
    // HTTP.
    let known = certificates.known(&registry, &[("ca.crt", "ca.crt")]);
    push(&Client::new(known).unwrap(), &registry, &[]).await.unwrap();
}
