#![allow(clippy::unwrap_used)]
use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use super::*;
use crate::settings::{AuthFile, AuthFileFormat, Presence};

fn auth_file(path: PathBuf) -> AuthFile {
    AuthFile { path, format: AuthFileFormat::Config, presence: Presence::Optional }
}

fn password(user: &str, password: &str) -> Credential {
    Credential::Password { user: user.to_owned(), password: Hidden::new(password) }
}

/// Settings with one file of credentials that has this text.
fn settings_with(directory: &Path, text: &str) -> RegistrySettings {
    let path = directory.join("auth.json");
    fs::write(&path, text).unwrap();
    RegistrySettings { auth_files: vec![auth_file(path)], ..RegistrySettings::default() }
}

async fn only(settings: &RegistrySettings, registry: &str, repository: &str) -> Option<Credential> {
    let mut found = candidates(settings, registry, repository, &[]).await.unwrap().found;
    assert!(found.len() <= 1);
    found.pop().map(|found| found.credential)
}

fn helper(directory: &Path, name: &str, script: &str) {
    let path = directory.join(format!("docker-credential-{name}"));
    fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}

#[tokio::test]
async fn the_most_specific_key_wins() {
    let directory = tempfile::tempdir().unwrap();
    // user:whole, user:team, user:image
    let settings = settings_with(
        directory.path(),
        r#"{"auths":{"r.io":{"auth":"dXNlcjp3aG9sZQ=="},"r.io/team":{"auth":"dXNlcjp0ZWFt"},"r.io/team/image":{"auth":"dXNlcjppbWFnZQ=="}}}"#,
    );
    assert_eq!(only(&settings, "r.io", "team/image").await, Some(password("user", "image")));
    assert_eq!(only(&settings, "r.io", "team/image2").await, Some(password("user", "team")));
    assert_eq!(only(&settings, "r.io", "teams/x").await, Some(password("user", "whole")));
    assert_eq!(only(&settings, "r.io:5000", "team/image").await, None);
    assert_eq!(only(&settings, "io", "team/image").await, None);
}

#[tokio::test]
async fn dockers_own_spellings_are_understood() {
    let directory = tempfile::tempdir().unwrap();
    let settings = settings_with(
        directory.path(),
        r#"{"auths":{"https://index.docker.io/v1/":{"username":"hub","password":"p"},"https://r.io/v2/":{"username":"url","password":"p"},"id.io":{"identitytoken":"t"},"reg.io":{"registrytoken":"t"},"empty.io":{}}}"#,
    );
    assert_eq!(only(&settings, "docker.io", "library/alpine").await, Some(password("hub", "p")));
    assert_eq!(only(&settings, "r.io", "a").await, Some(password("url", "p")));
    assert_eq!(only(&settings, "id.io", "a").await, Some(Credential::IdentityToken(Hidden::new("t"))));
    assert_eq!(only(&settings, "reg.io", "a").await, Some(Credential::RegistryToken(Hidden::new("t"))));
    assert_eq!(only(&settings, "empty.io", "a").await, None);
}

#[tokio::test]
async fn the_first_file_that_knows_the_registry_counts() {
    let directory = tempfile::tempdir().unwrap();
    let (absent, second, legacy) = (
        directory.path().join("absent"),
        directory.path().join("second"),
        directory.path().join(".dockercfg"),
    );
    fs::write(&second, r#"{"auths":{"r.io":{"username":"second","password":"p"}}}"#).unwrap();
    fs::write(
        &legacy,
        r#"{"https://r.io/v1/":{"username":"legacy","password":"p"},"old.io":{"username":"old","password":"p"}}"#,
    )
    .unwrap();
    let settings = RegistrySettings {
        auth_files: vec![
            auth_file(absent.clone()),
            auth_file(second.clone()),
            AuthFile { format: AuthFileFormat::Legacy, ..auth_file(legacy.clone()) },
        ],
        ..RegistrySettings::default()
    };
    let found = candidates(&settings, "r.io", "a", &[]).await.unwrap();
    assert_eq!(found.found.len(), 1);
    assert_eq!(found.found[0].origin, format!("`{}`", second.display()));
    assert_eq!(only(&settings, "old.io", "a").await, Some(password("old", "p")));
    let nothing = candidates(&settings, "else.io", "a", &[]).await.unwrap();
    assert_eq!(
        nothing.searched,
        [
            format!("`{}` (not there)", absent.display()),
            format!("`{}`", second.display()),
            format!("`{}`", legacy.display())
        ]
    );
}

#[tokio::test]
async fn malformed_files_are_named_and_never_quoted() {
    let directory = tempfile::tempdir().unwrap();
    let settings = settings_with(directory.path(), "{\"auths\": [");
    let error = candidates(&settings, "r.io", "a", &[]).await.unwrap_err();
    assert!(error.to_string().contains("auth.json"), "{error}");
    assert!(error.hint().is_some());
    for (auth, reason) in [("!!!", "not base64"), ("bm9jb2xvbg==", "no `:`")] {
        let settings =
            settings_with(directory.path(), &format!(r#"{{"auths":{{"r.io":{{"auth":"{auth}"}}}}}}"#));
        let error = candidates(&settings, "r.io", "a", &[]).await.unwrap_err();
        assert!(error.to_string().contains(reason), "{error}");
        assert!(!error.to_string().contains("nocolon"), "{error}");
    }
    let mut required = auth_file(directory.path().join("absent"));
    required.presence = Presence::Required;
    let settings = RegistrySettings { auth_files: vec![required], ..RegistrySettings::default() };
    assert!(candidates(&settings, "r.io", "a", &[]).await.unwrap_err().to_string().contains("absent"));
}

#[tokio::test]
async fn helpers_beat_what_is_written_down_and_stores_fill_the_gaps() {
    let directory = tempfile::tempdir().unwrap();
    helper(
        directory.path(),
        "echo",
        r#"read server; printf '{"ServerURL":"%s","Username":"%s","Secret":"s"}' "$server" "$server""#,
    );
    helper(directory.path(), "token", r#"cat >/dev/null; echo '{"Username":"<token>","Secret":"refresh"}'"#);
    helper(
        directory.path(),
        "none",
        r#"cat >/dev/null; echo "credentials not found in native keychain"; exit 1"#,
    );
    let mut settings = settings_with(
        directory.path(),
        r#"{"auths":{"r.io":{"username":"static","password":"p"},"plain.io":{"username":"static","password":"p"}},
            "credHelpers":{"r.io":"echo","t.io":"token","n.io":"none"},"credsStore":"echo"}"#,
    );
    settings.program_directories = vec![directory.path().join("absent"), directory.path().to_owned()];
    assert_eq!(only(&settings, "r.io", "a").await, Some(password("r.io", "s")));
    assert_eq!(only(&settings, "plain.io", "a").await, Some(password("static", "p")));
    assert_eq!(only(&settings, "t.io", "a").await, Some(Credential::IdentityToken(Hidden::new("refresh"))));
    assert_eq!(only(&settings, "n.io", "a").await, None);
    assert_eq!(
        only(&settings, "docker.io", "library/a").await,
        Some(password("https://index.docker.io/v1/", "s"))
    );
}

#[tokio::test]
async fn helpers_that_fail_hang_or_babble_are_told_apart() {
    let directory = tempfile::tempdir().unwrap();
    helper(directory.path(), "fails", "echo 'the keychain is locked' >&2; exit 3");
    helper(directory.path(), "hangs", "exec sleep 600");
    helper(directory.path(), "babbles", "cat >/dev/null; exec yes secret");
    let mut error_of = Vec::new();
    for (name, limit) in [("fails", 20), ("hangs", 0), ("babbles", 20), ("missing", 20), ("../fails", 20)] {
        let mut settings =
            settings_with(directory.path(), &format!(r#"{{"credHelpers":{{"r.io":"{name}"}}}}"#));
        settings.program_directories = vec![directory.path().to_owned()];
        settings.time_limits.credential_helper = Duration::from_secs(limit) + Duration::from_millis(100);
        error_of.push(candidates(&settings, "r.io", "a", &[]).await.unwrap_err());
    }
    assert!(matches!(&error_of[0], CredentialError::Helper(HelperError::Failed { message, status, .. })
        if message == "the keychain is locked" && status.code() == Some(3)));
    assert!(matches!(&error_of[1], CredentialError::Helper(HelperError::Timeout { .. })));
    assert!(matches!(
        &error_of[2],
        CredentialError::Helper(HelperError::Failed { .. } | HelperError::Output { .. })
    ));
    assert!(matches!(&error_of[3], CredentialError::Helper(HelperError::Missing { .. })));
    assert!(matches!(&error_of[4], CredentialError::Helper(HelperError::Name { .. })));
    assert!(error_of.iter().all(|error| error.hint().is_some()));
}

#[tokio::test]
async fn pull_secrets_are_matched_as_the_kubelet_matches_them() {
    let secret = PullSecret::from_docker_config_json(
        "s",
        br#"{"auths":{
            "*.example.com":{"username":"glob","password":"p"},
            "a.example.com/team":{"username":"path","password":"p"},
            "https://port.io:5000/v1/":{"username":"port","password":"p"},
            "index.docker.io/v1/":{"username":"hub","password":"p"},
            "empty.io":{}
        }}"#,
    )
    .unwrap();
    let users = async |registry: &str, repository: &str| -> Vec<String> {
        let secrets = [secret.clone()];
        let found =
            candidates(&RegistrySettings::default(), registry, repository, &secrets).await.unwrap().found;
        found
            .into_iter()
            .map(|found| match found.credential {
                Credential::Password { user, .. } => user,
                other => panic!("{other:?}"),
            })
            .collect()
    };
    assert_eq!(users("a.example.com", "team/image").await, ["path", "glob"]);
    assert_eq!(users("b.example.com", "team/image").await, ["glob"]);
    assert!(users("a.b.example.com", "image").await.is_empty());
    assert!(users("a.example.com:443", "image").await.is_empty());
    assert_eq!(users("port.io:5000", "image").await, ["port"]);
    assert!(users("port.io", "image").await.is_empty());
    assert_eq!(users("docker.io", "library/alpine").await, ["hub"]);
    assert!(users("empty.io", "image").await.is_empty());
}

#[test]
fn both_forms_of_pull_secrets_are_read_and_nothing_in_them_is_shown() {
    let config =
        PullSecret::from_docker_config_json("new", br#"{"auths":{"r.io":{"auth":"dXNlcjpodW50ZXIy"}}}"#);
    let legacy = PullSecret::from_docker_cfg("old", br#"{"r.io":{"auth":"dXNlcjpodW50ZXIy"}}"#);
    for secret in [config.unwrap(), legacy.unwrap()] {
        assert_eq!(secret.registries().collect::<Vec<_>>(), ["r.io"]);
        assert_eq!(secret.matching("r.io", "a").next(), Some(&password("user", "hunter2")));
        let shown = format!("{secret:?} {:?}", secret.matching("r.io", "a").next());
        assert!(!shown.contains("hunter2") && !shown.contains("dXNlcjpodW50ZXIy"), "{shown}");
    }
    let error = PullSecret::from_docker_config_json("bad", b"nonsense").unwrap_err();
    assert!(error.to_string().contains("`bad`"), "{error}");
    let error = PullSecret::from_docker_cfg("bad", br#"{"r.io":{"auth":"%"}}"#).unwrap_err();
    assert!(error.to_string().contains("r.io"), "{error}");
}
