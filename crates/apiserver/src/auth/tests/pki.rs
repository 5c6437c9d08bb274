use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::auth::certificates::{SubjectName, pem_facts};
use crate::auth::memory::Memory;
use crate::status::ApiError;

#[test]
fn what_is_made_is_private_and_found_again() {
    let directory = TempDir::new().unwrap();
    let first = open(directory.path(), now()).unwrap();
    let pki = directory.path().join("pki");
    assert_eq!(fs::metadata(&pki).unwrap().permissions().mode() & 0o7777, 0o700);
    let mut files: Vec<_> = fs::read_dir(&pki)
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o7777, 0o600, "{entry:?}");
            entry.file_name().into_string().unwrap()
        })
        .collect();
    files.sort();
    assert_eq!(
        files,
        ["admin.crt", "admin.key", "apiserver.crt", "apiserver.key", "ca.crt", "ca.key", "sa.key"]
    );
    let again = open(directory.path(), now() + DAY).unwrap();
    assert_eq!(first.admin_kubeconfig("u", "n"), again.admin_kubeconfig("u", "n"));

    let facts = pem_facts(&read(&directory, "apiserver.crt")).unwrap();
    for name in ["localhost", "kubernetes.default.svc.cluster.local", "host.example"] {
        assert!(facts.names.contains(&SubjectName::Dns(name.to_owned())), "{name}");
    }
    for address in ["127.0.0.1", "::1", "10.96.0.1", "192.0.2.7"] {
        assert!(facts.names.contains(&SubjectName::Ip(address.parse().unwrap())), "{address}");
    }
    assert_eq!(facts.names.len(), 6 + 4);
    let ca = pem_facts(&read(&directory, "ca.crt")).unwrap();
    assert!(ca.is_authority && ca.not_after > now() + DAY * 3640);
}

#[test]
fn certificates_are_renewed_in_time_and_for_new_names() {
    let directory = TempDir::new().unwrap();
    let authorities = open(directory.path(), now()).unwrap();
    let serial = |file| der(&read(&directory, file));
    let (server, admin, key) =
        (serial("apiserver.crt"), serial("admin.crt"), read(&directory, "apiserver.key"));
    assert!(!authorities.renew(now() + DAY * 243).unwrap());
    assert_eq!(serial("apiserver.crt"), server);
    assert!(authorities.renew(now() + DAY * 244).unwrap());
    assert_ne!(serial("apiserver.crt"), server);
    assert_ne!(serial("admin.crt"), admin);
    assert_eq!(read(&directory, "apiserver.key"), key);

    let (server, admin) = (serial("apiserver.crt"), serial("admin.crt"));
    let more = ServerNames { host_names: vec!["other.example".to_owned()], ..names() };
    Authorities::open_or_create(directory.path(), &more, now() + DAY * 244).unwrap();
    assert_ne!(serial("apiserver.crt"), server);
    assert_eq!(serial("admin.crt"), admin);
    // The clock was wrong when it was made.
    open(directory.path(), now()).unwrap();
    assert_ne!(serial("admin.crt"), admin);
}

#[test]
fn a_file_that_is_not_ours_is_named_and_left_alone() {
    let other = TempDir::new().unwrap();
    open(other.path(), now()).unwrap();
    let foreign = |file: &str| Some(read(&other, file));
    let text = |text: &str| Some(text.to_owned());
    let table = [
        ("ca.key", None, "ca.key", "is missing beside `ca.crt`"),
        ("ca.key", text("-----BEGIN PRIVATE KEY-----\nMIG"), "ca.key", "holds no private key"),
        ("ca.key", foreign("ca.key"), "ca.crt", "does not belong to `ca.key`"),
        ("ca.crt", text(""), "ca.crt", "holds no certificate"),
        ("ca.crt", foreign("ca.crt"), "ca.crt", "does not belong to `ca.key`"),
        ("apiserver.crt", text("x"), "apiserver.crt", "holds no certificate"),
        ("apiserver.crt", foreign("apiserver.crt"), "apiserver.crt", "does not belong to the key beside it"),
        ("admin.key", None, "admin.key", "is missing beside its certificate"),
        ("admin.key", foreign("admin.key"), "admin.crt", "does not belong to the key beside it"),
        ("sa.key", text("x"), "sa.key", "holds no P-256 private key"),
    ];
    for (file, content, named, fault) in table {
        let directory = TempDir::new().unwrap();
        open(directory.path(), now()).unwrap();
        let path = directory.path().join("pki").join(file);
        match &content {
            Some(content) => fs::write(&path, content).unwrap(),
            None => fs::remove_file(&path).unwrap(),
        }
        let error = open(directory.path(), now()).err().unwrap().to_string();
        let named = directory.path().join("pki").join(named);
        assert!(error.starts_with(&format!("`{}` {fault}", named.display())), "{error}");
        assert!(error.contains("remove"), "{error}");
        assert_eq!(fs::read_to_string(&path).ok(), content);
    }
    // Both files of another server.
    let directory = TempDir::new().unwrap();
    open(directory.path(), now()).unwrap();
    for file in ["admin.crt", "admin.key"] {
        fs::write(directory.path().join("pki").join(file), read(&other, file)).unwrap();
    }
    let error = open(directory.path(), now()).err().unwrap().to_string();
    assert!(error.contains("admin.crt` was not signed by `ca.crt`"), "{error}");
    let error = open(other.path(), now() + DAY * 4000).err().unwrap().to_string();
    assert!(error.contains("ca.crt` has expired"), "{error}");
}

#[test]
fn a_crash_while_the_files_are_made_leaves_nothing_that_cannot_be_finished() {
    let whole = TempDir::new().unwrap();
    open(whole.path(), now()).unwrap();
    // In the order in which they are written.
    let files = ["ca.key", "ca.crt", "apiserver.key", "apiserver.crt", "admin.key", "admin.crt", "sa.key"];
    for count in 0..files.len() {
        let directory = TempDir::new().unwrap();
        let pki = directory.path().join("pki");
        fs::create_dir(&pki).unwrap();
        for file in &files[..count] {
            fs::write(pki.join(file), read(&whole, file)).unwrap();
        }
        // The next one was being written.
        fs::write(pki.join(files[count]).with_extension("tmp"), "half").unwrap();
        open(directory.path(), now()).unwrap();
        for file in &files[..count] {
            assert_eq!(read(&directory, file), read(&whole, file), "{file} after {count}");
        }
    }
}

#[test]
fn client_certificates_are_proven_in_the_handshake_and_judged_after_it() {
    let (directory, other) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let (authorities, foreign) = (made_now(&directory), made_now(&other));
    let at = Timestamp::now();
    let authenticator = Authenticator::new(Arc::clone(&authorities), None, Memory::default());
    let ask = |peer: &Option<Vec<u8>>, at| authenticator.authenticate(peer.as_deref(), &HeaderMap::new(), at);

    let nobody = handshake(&authorities, None).unwrap();
    assert_eq!(ask(&nobody, at), Ok(None));

    let (certificate, key) = authorities.issue_client("alice", "devs", at);
    let peer = handshake(&authorities, Some((&certificate, &key))).unwrap();
    let alice = ask(&peer, at).unwrap().unwrap();
    assert_eq!(
        (alice.user.as_str(), &alice.groups[..]),
        ("alice", &["devs", AUTHENTICATED].map(str::to_owned)[..])
    );
    assert!(alice.extra["authentication.kubernetes.io/credential-id"][0].starts_with("X509SHA256="));
    // The connection outlives the certificate.
    assert_eq!(ask(&peer, at + DAY * 366).unwrap_err().code, 401);
    assert_eq!(ask(&peer, at - DAY).unwrap_err().code, 401);

    let (certificate, key) = foreign.issue_client("alice", "system:masters", at);
    let peer = handshake(&authorities, Some((&certificate, &key))).unwrap();
    assert!(peer.is_some());
    assert_eq!(ask(&peer, at).unwrap_err(), ApiError::unauthorized());

    let (certificate, key) = authorities.issue_client("old", "system:masters", at - DAY * 400);
    let peer = handshake(&authorities, Some((&certificate, &key))).unwrap();
    assert_eq!(ask(&peer, at).unwrap_err().code, 401);

    // The server's certificate is not for clients.
    let peer = Some(der(&read(&directory, "apiserver.crt")));
    assert_eq!(ask(&peer, at).unwrap_err().code, 401);
    assert_eq!(ask(&Some(b"no certificate".to_vec()), at).unwrap_err().code, 401);

    // A certificate without its key is not let through.
    let (certificate, _) = authorities.issue_client("alice", "devs", at);
    let (_, key) = authorities.issue_client("mallory", "devs", at);
    assert!(handshake(&authorities, Some((&certificate, &key))).is_err());

    // A valid certificate of nobody is no credential.
    let (certificate, _) = authorities.issue_client("", "devs", at);
    assert_eq!(ask(&Some(der(&certificate)), at), Ok(None));
}

#[test]
fn a_renewed_certificate_is_used_by_configurations_that_are_out() {
    let directory = TempDir::new().unwrap();
    let old = Timestamp::now() - DAY * 400;
    let authorities = open(directory.path(), old).unwrap();
    let config = authorities.server_config().unwrap();
    let error = handshake_with(&authorities, &config, None).unwrap_err();
    assert!(error.contains("expired"), "{error}");
    assert!(authorities.renew(Timestamp::now()).unwrap());
    handshake_with(&authorities, &config, None).unwrap();
}
