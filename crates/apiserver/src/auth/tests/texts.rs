//! Token files, impersonation headers and kubeconfigs.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;

use super::*;
use crate::auth::memory::Memory;

#[test]
fn token_files_are_read_as_kubernetes_reads_them() {
    let text = "t1,u1,1\n\nt2,\"u \"\"2\"\"\",2,\"g1,g2\",more\r\n,nobody,3\nt3,u3,3,g3\nt1,later,4\n";
    let file = TokenFile::parse(text).unwrap();
    let found = |token| file.find(token).map(|who| (who.user.clone(), who.uid.clone(), who.groups.clone()));
    let expected = |user: &str, uid: &str, groups: &[&str]| {
        Some((user.to_owned(), uid.to_owned(), groups.iter().map(|group| (*group).to_owned()).collect()))
    };
    assert_eq!(found("t1"), expected("later", "4", &[]));
    assert_eq!(found("t2"), expected("u \"2\"", "2", &["g1", "g2"]));
    assert_eq!(found("t3"), expected("u3", "3", &["g3"]));
    assert_eq!(found(""), None);
    assert_eq!(found("t"), None);
    assert_eq!(format!("{file:?}"), "TokenFile(3 tokens)");
    let table = [
        (
            "a,b",
            "line 1 of the token file: there must be at least three columns (token, user name, user uid)",
        ),
        ("a,b,c\nx\"y,b,c", "line 2 of the token file: a quote stands inside a column that is not quoted"),
        ("\"a,b,c", "line 1 of the token file: a quote is not closed"),
        ("\"a\"b,c,d", "line 1 of the token file: something follows a closing quote"),
    ];
    for (text, message) in table {
        assert_eq!(TokenFile::parse(text).unwrap_err().to_string(), message);
    }
}

#[test]
fn impersonation_tells_what_it_needs() {
    let read = |pairs: &[(&str, &str)]| impersonation(&headers(pairs));
    let needs = |impersonation: &Impersonation| {
        let checks = impersonation.checks.iter().map(|check| {
            let Attributes { verb, group, resource, subresource, namespace, name, .. } = check.attributes();
            assert_eq!(verb, "impersonate");
            format!("{group}/{resource}/{subresource}/{namespace}/{name}")
        });
        checks.collect::<Vec<_>>()
    };
    assert_eq!(read(&[]), Ok(None));
    assert_eq!(read(&[("impersonate-user", "")]), Ok(None));

    let jane = read(&[("impersonate-user", "jane")]).unwrap().unwrap();
    assert_eq!(needs(&jane), ["/users///jane"]);
    assert_eq!(
        (jane.identity.user.as_str(), &jane.identity.groups[..]),
        ("jane", &[AUTHENTICATED.to_owned()][..])
    );

    let all = read(&[
        ("impersonate-user", "jane"),
        ("impersonate-group", "g1"),
        ("impersonate-group", "g2"),
        ("impersonate-uid", "u"),
        ("impersonate-extra-scopes", "s1"),
        ("impersonate-extra-scopes", "s2"),
        ("Impersonate-Extra-acme.com%2fProject", "p"),
    ]);
    let all = all.unwrap().unwrap();
    assert_eq!(
        needs(&all),
        [
            "/users///jane",
            "/groups///g1",
            "/groups///g2",
            "authentication.k8s.io/userextras/acme.com/project//p",
            "authentication.k8s.io/userextras/scopes//s1",
            "authentication.k8s.io/userextras/scopes//s2",
            "authentication.k8s.io/uids///u",
        ]
    );
    assert_eq!(all.identity.groups, ["g1", "g2", AUTHENTICATED]);
    assert_eq!(json!(all.identity.extra), json!({ "acme.com/project": ["p"], "scopes": ["s1", "s2"] }));
    assert_eq!(all.identity.uid, "u");

    let robot = read(&[("impersonate-user", "system:serviceaccount:ns:robot")]).unwrap().unwrap();
    assert_eq!(needs(&robot), ["/serviceaccounts//ns/robot"]);
    assert_eq!(robot.identity.groups, ["system:serviceaccounts", "system:serviceaccounts:ns", AUTHENTICATED]);

    let anonymous = read(&[("impersonate-user", ANONYMOUS)]).unwrap().unwrap();
    assert_eq!(anonymous.identity.groups, [UNAUTHENTICATED]);

    for header in ["impersonate-group", "impersonate-uid", "impersonate-extra-x"] {
        assert_eq!(read(&[(header, "system:masters")]).unwrap_err().code, 400, "{header}");
    }
    let mut wrong = HeaderMap::new();
    wrong.insert("impersonate-user", HeaderValue::from_bytes(b"\xff").unwrap());
    assert_eq!(impersonation(&wrong).unwrap_err().code, 400);
}

#[test]
fn the_kubeconfig_lets_the_administrator_in() {
    let directory = TempDir::new().unwrap();
    let authorities = made_now(&directory);
    let text = authorities.admin_kubeconfig("https://127.0.0.1:6443", "ferrovirt");
    let config: Value = serde_saphyr::from_str(&text).unwrap();
    assert_eq!(config["current-context"], "ferrovirt");
    assert_eq!(config["clusters"][0]["cluster"]["server"], "https://127.0.0.1:6443");
    let decode = |pointer: &str| {
        let text = config.pointer(pointer).unwrap().as_str().unwrap();
        String::from_utf8(STANDARD.decode(text).unwrap()).unwrap()
    };
    assert_eq!(decode("/clusters/0/cluster/certificate-authority-data"), authorities.ca_certificate_pem());
    let (certificate, key) =
        (decode("/users/0/user/client-certificate-data"), decode("/users/0/user/client-key-data"));
    let peer = handshake(&authorities, Some((&certificate, &key))).unwrap();
    let authenticator = Authenticator::new(authorities, None, Memory::default());
    let who =
        authenticator.authenticate(peer.as_deref(), &HeaderMap::new(), Timestamp::now()).unwrap().unwrap();
    assert_eq!(who.user, "kubernetes-admin");
    assert!(who.is_in(MASTERS));
    let names = kubeconfig::write(&kubeconfig::Access {
        server_url: "u\"\n",
        name: "yes",
        authority: "a",
        certificate: "b",
        key: "c",
    });
    let config: Value = serde_saphyr::from_str(&names).unwrap();
    assert_eq!(
        (&config["users"][0]["name"], &config["clusters"][0]["cluster"]["server"]),
        (&json!("yes"), &json!("u\"\n"))
    );
}

#[test]
fn merging_keeps_what_is_not_ours() {
    let ours = "clusters:\n- name: f\n  cluster: {server: new}\ncontexts:\n- name: f\n  context: {cluster: f, user: f}\n\
                users:\n- name: f\n  user: {client-key-data: QUJD}\ncurrent-context: f\n";
    let existing = "# mine\nkind: Config\npreferences: {colors: true}\ncurrent-context: work\nextensions: [{name: e}]\n\
                    clusters:\n- name: work\n  cluster: {server: w, insecure-skip-tls-verify: true}\n- name: f\n  \
                    cluster: {server: old, proxy-url: gone}\n- name: last\n  cluster: {server: l}\nusers: null\n\
                    contexts:\n- context: {cluster: work, namespace: 'on', user: \"007\"}\n  name: work\n";
    let merged: Value = serde_saphyr::from_str(&merge_kubeconfig(existing, ours).unwrap()).unwrap();
    assert_eq!(
        merged,
        json!({
            "kind": "Config",
            "preferences": { "colors": true },
            "current-context": "f",
            "extensions": [{ "name": "e" }],
            "clusters": [
                { "name": "work", "cluster": { "server": "w", "insecure-skip-tls-verify": true } },
                { "name": "f", "cluster": { "server": "new" } },
                { "name": "last", "cluster": { "server": "l" } },
            ],
            "users": [{ "name": "f", "user": { "client-key-data": "QUJD" } }],
            "contexts": [
                { "context": { "cluster": "work", "namespace": "on", "user": "007" }, "name": "work" },
                { "name": "f", "context": { "cluster": "f", "user": "f" } },
            ],
            "apiVersion": "v1",
        })
    );
    for nothing in ["", "\n", "# only a comment\n", "---\n"] {
        let merged = merge_kubeconfig(nothing, ours).unwrap();
        let merged: Value = serde_saphyr::from_str(&merged).unwrap();
        assert_eq!(merged["current-context"], "f", "{nothing:?}");
    }
    let error = |existing: &str| merge_kubeconfig(existing, ours).unwrap_err().to_string();
    assert_eq!(error("- a"), "the kubeconfig's `content` must be a mapping");
    assert_eq!(error("clusters: 7"), "the kubeconfig's `clusters` must be a list");
    assert_eq!(error("a: b\nc: [d"), "the kubeconfig is not valid YAML (line 2)");
}

proptest! {
    #[test]
    fn what_a_kubeconfig_holds_survives_a_merge(
        values in prop::collection::vec("\\PC{0,100}|[0-9._+e:-]{1,8}|yes|no|on|~|null|true|0x1F", 1..6),
    ) {
        let users: Vec<_> = values.iter().enumerate()
            .map(|(index, value)| json!({ "name": format!("u{index}"), "user": { "token": value } }))
            .collect();
        let existing = json!({ "users": users }).to_string();
        let merged = merge_kubeconfig(&existing, "current-context: x").unwrap();
        let merged: Value = serde_saphyr::from_str(&merged).unwrap();
        prop_assert_eq!(&merged["users"], &json!(users));
    }

    #[test]
    fn token_files_and_headers_never_panic(text in "[\\PC\n\",]{0,80}", key in "[a-z%0-9-]{0,12}") {
        let _ = TokenFile::parse(&text);
        let name = format!("impersonate-extra-{key}");
        let _ = impersonation(&headers(&[("impersonate-user", "u"), (&name, "v")]));
    }
}
