#![allow(clippy::unwrap_used)]
use std::fs;

use proptest::prelude::*;

use super::*;

fn registries(text: &str) -> Registries {
    let mut registries = Registries::default();
    registries.add(Path::new("/r.conf"), text).unwrap();
    registries
}

fn places(registries: &Registries, reference: &str) -> Vec<String> {
    registries
        .resolve(&reference.parse().unwrap())
        .unwrap()
        .into_iter()
        .map(|place| {
            let trust = if place.trust == Trust::Insecure { " insecure" } else { "" };
            format!("{}{trust}", place.reference)
        })
        .collect()
}

fn refused(text: &str) -> String {
    let mut registries = Registries::default();
    registries.add(Path::new("/r.conf"), text).unwrap_err().to_string()
}

const MANUAL_PAGE: &str = r#"
unqualified-search-registries = ["example.com"]

[[registry]]
prefix = "example.com/foo"
insecure = false
blocked = false
location = "internal-registry-for-example.com/bar"

[[registry.mirror]]
location = "example-mirror-0.local/mirror-for-foo"

[[registry.mirror]]
location = "example-mirror-1.local/mirrors/foo"
insecure = true

[[registry]]
location = "registry.com"

[[registry.mirror]]
location = "mirror.registry.com"
"#;

#[test]
fn the_manual_pages_example_means_what_it_says() {
    let registries = registries(MANUAL_PAGE);
    assert_eq!(
        places(&registries, "example.com/foo/image:latest"),
        [
            "example-mirror-0.local/mirror-for-foo/image:latest",
            "example-mirror-1.local/mirrors/foo/image:latest insecure",
            "internal-registry-for-example.com/bar/image:latest",
        ]
    );
    assert_eq!(
        places(&registries, "registry.com/image:latest"),
        ["mirror.registry.com/image:latest", "registry.com/image:latest"]
    );
    assert_eq!(places(&registries, "example.com/foobar"), ["example.com/foobar:latest"]);
    assert_eq!(places(&registries, "tool"), ["example.com/tool:latest"]);
}

#[test]
fn without_configuration_short_names_are_docker_hubs() {
    assert_eq!(places(&Registries::default(), "alpine"), ["docker.io/library/alpine:latest"]);
}

#[test]
fn the_longest_prefix_wins_and_ends_at_a_boundary() {
    let registries = registries(
        r#"
        [[registry]]
        prefix = "quay.io"
        location = "a.local"
        [[registry]]
        prefix = "quay.io/team"
        location = "b.local/x"
        [[registry]]
        prefix = "quay.io/team/image:v1"
        location = "c.local/y:v2"
        "#,
    );
    assert_eq!(places(&registries, "quay.io/other/i"), ["a.local/other/i:latest"]);
    assert_eq!(places(&registries, "quay.io/team/i:1"), ["b.local/x/i:1"]);
    assert_eq!(places(&registries, "quay.io/teams/i:1"), ["a.local/teams/i:1"]);
    assert_eq!(places(&registries, "quay.io/team/image:v1"), ["c.local/y:v2"]);
    assert_eq!(places(&registries, "quay.io/team/image:v10"), ["b.local/x/image:v10"]);
    assert_eq!(places(&registries, "quay.io:5000/team/i:1"), ["a.local:5000/team/i:1"]);
}

#[test]
fn wildcards_match_subdomains_of_any_depth_and_rewrite_nothing_without_location() {
    let registries = registries(
        r#"
        [[registry]]
        prefix = "*.example.com"
        insecure = true
        [[registry]]
        prefix = "*.dev.example.com"
        location = "dev.local"
        "#,
    );
    assert_eq!(places(&registries, "a.example.com/i"), ["a.example.com/i:latest insecure"]);
    assert_eq!(places(&registries, "a.b.example.com:5000/i"), ["a.b.example.com:5000/i:latest insecure"]);
    assert_eq!(places(&registries, "x.dev.example.com/n/i"), ["dev.local/n/i:latest"]);
    assert_eq!(places(&registries, "example.com/i"), ["example.com/i:latest"]);
    assert_eq!(places(&registries, "a.example.com.evil.net/i"), ["a.example.com.evil.net/i:latest"]);
    assert_eq!(places(&registries, "evil.net/a.example.com/i"), ["evil.net/a.example.com/i:latest"]);
}

#[test]
fn mirrors_may_be_for_tags_or_for_digests() {
    let registries = registries(
        r#"
        [[registry]]
        location = "a.io"
        mirror-by-digest-only = true
        [[registry.mirror]]
        location = "m.local"
        [[registry]]
        location = "b.io"
        [[registry.mirror]]
        location = "tags.local"
        pull-from-mirror = "tag-only"
        [[registry.mirror]]
        location = "digests.local"
        pull-from-mirror = "digest-only"
        "#,
    );
    let digest = format!("@sha256:{}", "0".repeat(64));
    assert_eq!(places(&registries, "a.io/i:t"), ["a.io/i:t"]);
    assert_eq!(
        places(&registries, &format!("a.io/i{digest}")),
        [format!("m.local/i{digest}"), format!("a.io/i{digest}")]
    );
    assert_eq!(places(&registries, "b.io/i:t"), ["tags.local/i:t", "b.io/i:t"]);
    assert_eq!(
        places(&registries, &format!("b.io/i{digest}")),
        [format!("digests.local/i{digest}"), format!("b.io/i{digest}")]
    );
}

#[test]
fn blocked_images_are_refused_naming_the_entry_and_the_file() {
    let registries = registries("[[registry]]\nprefix = \"bad.io/x\"\nblocked = true\n");
    let error = registries.resolve(&"bad.io/x/y".parse().unwrap()).unwrap_err();
    assert_eq!(
        error,
        ResolveError::Blocked {
            reference: "bad.io/x/y:latest".to_owned(),
            prefix: "bad.io/x".to_owned(),
            path: "/r.conf".into()
        }
    );
    assert!(error.hint().unwrap().contains("/r.conf"));
    assert!(registries.resolve_for_push(&"bad.io/x/y".parse().unwrap()).is_err());
    assert_eq!(places(&registries, "bad.io/y"), ["bad.io/y:latest"]);
}

#[test]
fn short_names_follow_aliases_then_the_search_list() {
    let mut registries = registries(
        r#"
        unqualified-search-registries = ["one.io", "docker.io"]
        [aliases]
        "fedora" = "registry.fedoraproject.org/fedora"
        "team/tool" = "quay.io/elsewhere/tool"
        "#,
    );
    assert_eq!(places(&registries, "fedora:40"), ["registry.fedoraproject.org/fedora:40"]);
    assert_eq!(places(&registries, "team/tool"), ["quay.io/elsewhere/tool:latest"]);
    assert_eq!(places(&registries, "alpine"), ["one.io/alpine:latest", "docker.io/library/alpine:latest"]);
    assert_eq!(places(&registries, "docker.io/library/fedora"), ["docker.io/library/fedora:latest"]);

    registries
        .add(Path::new("/d/1.conf"), "short-name-mode = \"enforcing\"\n[aliases]\n\"fedora\" = \"\"\n")
        .unwrap();
    let error = registries.resolve(&"fedora".parse().unwrap()).unwrap_err();
    assert!(matches!(&error, ResolveError::ShortNameAmbiguous { registries, .. } if registries.len() == 2));
    assert_eq!(error.hint().unwrap(), "name the registry, for instance `one.io/fedora`");

    registries.add(Path::new("/d/2.conf"), "unqualified-search-registries = []\n").unwrap();
    let error = registries.resolve(&"fedora".parse().unwrap()).unwrap_err();
    assert_eq!(error, ResolveError::ShortNameUnresolved { name: "fedora".to_owned() });
    assert!(error.hint().unwrap().contains("docker.io/library/fedora"));
}

#[test]
fn drop_ins_replace_registries_with_the_same_prefix() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("registries.conf.d");
    fs::create_dir(&directory).unwrap();
    let main = root.path().join("registries.conf");
    fs::write(&main, "[[registry]]\nprefix=\"a.io\"\nlocation=\"first.local\"\n").unwrap();
    fs::write(directory.join("20.conf"), "[[registry]]\nprefix=\"a.io\"\nlocation=\"second.local\"\n")
        .unwrap();
    fs::write(directory.join("10.conf"), "[[registry]]\nprefix=\"a.io\"\nlocation=\"third.local\"\n")
        .unwrap();
    fs::write(directory.join("30.txt"), "not read").unwrap();
    let settings = RegistrySettings {
        registries_conf: vec![
            (root.path().join("absent"), Presence::Optional),
            (main, Presence::Optional),
            (root.path().join("registries.conf.d"), Presence::Optional),
        ],
        registries_conf_directories: vec![directory],
        ..RegistrySettings::default()
    };
    assert_eq!(places(&Registries::load(&settings).unwrap(), "a.io/i"), ["second.local/i:latest"]);

    let settings = RegistrySettings {
        registries_conf: vec![(root.path().join("absent"), Presence::Required)],
        ..RegistrySettings::default()
    };
    assert!(matches!(Registries::load(&settings), Err(RegistriesError::Read { .. })));
}

#[test]
fn credential_helpers_are_the_files_unless_listed() {
    let mut registries = registries("");
    assert_eq!(registries.credential_helpers(), ["containers-auth.json"]);
    let mut add = |text: &str| {
        registries.add(Path::new("/d/1.conf"), text).unwrap();
        registries.credential_helpers().to_vec()
    };
    assert_eq!(
        add("credential-helpers = [\"pass\", \"containers-auth.json\"]"),
        ["pass", "containers-auth.json"]
    );
    assert_eq!(add("credential-helpers = [\"secretservice\"]"), ["secretservice"]);
    assert_eq!(add("unqualified-search-registries = [\"a.io\"]"), ["secretservice"]);
    assert_eq!(add("credential-helpers = []"), ["containers-auth.json"]);
}

#[test]
fn nonsense_is_refused_with_file_and_field() {
    assert!(refused("[[registry]]\nprefix = \"https://a.io\"\n").contains("leave the scheme out"));
    assert!(refused("[[registry]]\nprefix = \"a.*.io\"\n").contains("wildcard"));
    assert!(refused("[[registry]]\nprefix = \"*.a.io/x\"\n").contains("wildcard"));
    assert!(refused("[[registry]]\nblocked = true\n").contains("needs a prefix or a location"));
    assert!(refused("short-name-mode = \"maybe\"\n").contains("none of enforcing"));
    assert!(refused("[aliases]\n\"a\" = \"b/c\"\n").contains("names a registry"));
    assert!(refused("[registries.search]\nregistries = [\"a\"]\n").contains("version 1"));
    assert!(refused("a = ").contains("/r.conf"));
    assert!(
        refused("[[registry]]\nlocation = \"a.io\"\nmirror-by-digest-only = true\n[[registry.mirror]]\nlocation = \"b.io\"\npull-from-mirror = \"all\"\n")
            .contains("mirror-by-digest-only")
    );
    let short = registries("[[registry]]\nprefix = \"a.io\"\nlocation = \"host\"\n");
    let error = short.resolve(&"a.io/i".parse().unwrap()).unwrap_err();
    assert!(matches!(error, ResolveError::Location { location, .. } if location == "host/i:latest"));
}

proptest! {
    /// A prefix matches exactly the references that continue it at a boundary, and rewriting keeps what
    /// follows.
    #[test]
    fn rewriting_keeps_everything_after_the_prefix(
        host in "[a-z]{1,4}\\.(io|net)", path in "[a-z]{1,3}(/[a-z]{1,3}){0,3}", cut in 0usize..4, tag in "[a-z0-9]{1,4}"
    ) {
        let parts: Vec<&str> = path.split('/').collect();
        let cut = cut.min(parts.len() - 1);
        let prefix = std::iter::once(host.as_str()).chain(parts[..cut].iter().copied()).collect::<Vec<_>>().join("/");
        let registries = registries(&format!("[[registry]]\nprefix = \"{prefix}\"\nlocation = \"m.local/q\"\n"));
        let expected = format!("m.local/q/{}:{tag}", parts[cut..].join("/"));
        prop_assert_eq!(places(&registries, &format!("{host}/{path}:{tag}")), vec![expected]);
        let stranger = format!("{host}x/{path}:{tag}");
        prop_assert_eq!(places(&registries, &stranger), vec![stranger]);
    }
}
