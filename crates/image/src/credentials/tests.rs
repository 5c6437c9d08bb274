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

/// Looks up with the files of credentials alone.
async fn look_up(
    settings: &RegistrySettings,
    registry: &str,
    repository: &str,
    secrets: &[PullSecret],
) -> Result<Candidates, CredentialError> {
    candidates(settings, &[AUTH_FILES_HELPER.to_owned()], registry, repository, secrets).await
}

async fn only(settings: &RegistrySettings, registry: &str, repository: &str) -> Option<Credential> {
    let mut found = look_up(settings, registry, repository, &[]).await.unwrap().found;
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
    let found = look_up(&settings, "r.io", "a", &[]).await.unwrap();
    assert_eq!(found.found.len(), 1);
    assert_eq!(found.found[0].origin, format!("`{}`", second.display()));
    assert_eq!(only(&settings, "old.io", "a").await, Some(password("old", "p")));
    let nothing = look_up(&settings, "else.io", "a", &[]).await.unwrap();
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
    let error = look_up(&settings, "r.io", "a", &[]).await.unwrap_err();
    assert!(error.to_string().contains("auth.json"), "{error}");
    assert!(error.hint().is_some());
    for (auth, reason) in [("!!!", "not base64"), ("bm9jb2xvbg==", "no `:`")] {
        let settings =
            settings_with(directory.path(), &format!(r#"{{"auths":{{"r.io":{{"auth":"{auth}"}}}}}}"#));
        let error = look_up(&settings, "r.io", "a", &[]).await.unwrap_err();
        assert!(error.to_string().contains(reason), "{error}");
        assert!(!error.to_string().contains("nocolon"), "{error}");
    }
    let mut required = auth_file(directory.path().join("absent"));
    required.presence = Presence::Required;
    let settings = RegistrySettings { auth_files: vec![required], ..RegistrySettings::default() };
    assert!(look_up(&settings, "r.io", "a", &[]).await.unwrap_err().to_string().contains("absent"));
}

/// Everything that may come to light of an error.
fn all_of(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = format!("{error:?}");
    let mut cause = Some(error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[tokio::test]
async fn credentials_where_they_do_not_belong_are_not_quoted() {
    let directory = tempfile::tempdir().unwrap();
    for (text, position) in [
        (r#"{"auths":{"r.io":"dXNlcjpwYXNz"}}"#, "line 1, column 31"),
        (r#"{"auths":{"r.io":{"auth":73313370}}}"#, "line 1, column 33"),
        ("{\n\"auths\":\"dXNlcjpwYXNz\"}", "line 2, column 22"),
    ] {
        let settings = settings_with(directory.path(), text);
        let error = look_up(&settings, "r.io", "a", &[]).await.unwrap_err();
        let secret = PullSecret::from_docker_config_json("s", text.as_bytes()).unwrap_err();
        for shown in [all_of(&error), all_of(&secret)] {
            assert!(!shown.contains("dXNlcjpwYXNz") && !shown.contains("73313370"), "{shown}");
            assert!(shown.contains(position), "{shown}");
        }
    }
    let legacy = PullSecret::from_docker_cfg("s", br#"{"r.io":"dXNlcjpwYXNz"}"#).unwrap_err();
    assert!(!all_of(&legacy).contains("dXNlcjpwYXNz"), "{}", all_of(&legacy));
    let cut_off = PullSecret::from_docker_cfg("s", b"{").unwrap_err();
    assert!(all_of(&cut_off).contains("ends too early"), "{}", all_of(&cut_off));
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
async fn listed_helpers_are_asked_in_order_until_one_knows() {
    let directory = tempfile::tempdir().unwrap();
    let found = "credentials not found in native keychain";
    helper(directory.path(), "none", &format!("cat >/dev/null; echo '{found}'; exit 1"));
    helper(directory.path(), "fails", "cat >/dev/null; exit 3");
    helper(directory.path(), "works", r#"cat >/dev/null; echo '{"Username":"helper","Secret":"p"}'"#);
    let mut settings =
        settings_with(directory.path(), r#"{"auths":{"r.io":{"username":"file","password":"p"}}}"#);
    settings.program_directories = vec![directory.path().to_owned()];
    let first = async |helpers: &[&str], registry: &str| {
        let helpers: Vec<String> = helpers.iter().map(|name| (*name).to_owned()).collect();
        candidates(&settings, &helpers, registry, "a", &[]).await
    };
    for (helpers, user) in [
        (&["works", "containers-auth.json"][..], "helper"),
        (&["none", "containers-auth.json", "works"], "file"),
        (&["none", "fails", "missing", "works"], "helper"),
    ] {
        let found = first(helpers, "r.io").await.unwrap().found;
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].credential, password(user, "p"), "{helpers:?}");
    }
    let nothing = first(&["containers-auth.json", "none"], "other.io").await.unwrap();
    assert!(nothing.found.is_empty());
    assert_eq!(nothing.searched[1], "credential helper `docker-credential-none`");
    // That nobody knows is only believed if everybody answered.
    let error = first(&["fails", "none"], "r.io").await.unwrap_err();
    assert!(matches!(error, CredentialError::Helper(HelperError::Failed { .. })), "{error}");
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
        error_of.push(look_up(&settings, "r.io", "a", &[]).await.unwrap_err());
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
            look_up(&RegistrySettings::default(), registry, repository, &secrets).await.unwrap().found;
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
