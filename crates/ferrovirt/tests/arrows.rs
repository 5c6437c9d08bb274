//! The arrows between the crates, and which crate may use which dependency.
//!
//! A crate that must not know of something cannot depend on it; this compares what cargo resolved with that rule.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};

use cargo_metadata::{CargoOpt, DependencyKind, Metadata, MetadataCommand};

/// Each crate and the crates of ours that it may depend on. A new crate must be given its place here.
const ARROWS: &[(&str, &[&str])] = &[
    ("quantity", &[]),
    ("manifest", &["quantity"]),
    ("image", &[]),
    ("vmm", &[]),
    ("launcher", &["manifest", "vmm"]),
    ("apiserver", &["quantity"]),
    ("events", &[]),
    ("controllers", &["manifest", "events"]),
    ("node", &["manifest", "image", "launcher", "events"]),
    ("ferrovirt", &["manifest", "image", "vmm", "launcher", "apiserver", "controllers", "node"]),
];

/// Dependencies that belong to some crates only: (dependency, crates that may have it, why).
const RESTRICTED: &[(&str, &[&str], &str)] = &[
    ("reqwest", &["image"], "registries are spoken to in one place"),
    ("oci-spec", &["image"], "image documents are read in one place"),
    ("tar", &["image"], "layers are read in one place"),
    ("kvm-ioctls", &["vmm"], "KVM is probed in one place"),
    ("kvm-bindings", &["vmm"], "KVM is probed in one place"),
    (
        "k8s-openapi",
        &["manifest", "apiserver", "events", "controllers", "node"],
        "Kubernetes' types are for who speaks its API",
    ),
    ("serde-saphyr", &["manifest", "apiserver"], "YAML is decoded where manifests and requests are read"),
    ("rusqlite", &["apiserver"], "the API's state is kept in one place"),
    ("axum", &["apiserver", "launcher", "ferrovirt"], "HTTP is served where an API is"),
    ("rcgen", &["apiserver", "node"], "certificates are made by the two authorities"),
    ("smoltcp", &["launcher"], "a guest's network is served in one place"),
    ("anyhow", &["ferrovirt"], "libraries have error types of their own"),
    ("clap", &["ferrovirt"], "flags are the binary's"),
    ("indicatif", &["ferrovirt"], "progress is drawn by the binary"),
    ("libm", &["ferrovirt"], "it stands in for a C function in the binary"),
    ("tracing-subscriber", &["ferrovirt"], "where logs go is decided by the binary"),
];

/// What a crate must do without, beside what [`RESTRICTED`] keeps from it: a pure crate has no runtime and no host.
const FORBIDDEN: &[(&str, &[&str])] = &[("manifest", &["tokio", "rustix", "tempfile", "http"])];

/// Packages that must not be in the build at all, however deep: they bring a C library or a second TLS stack.
const BANNED: &[&str] = &["openssl", "openssl-sys", "native-tls", "aws-lc-rs", "aws-lc-sys", "hyper-tls"];

/// What this workspace resolves to for the platform it runs on.
fn metadata() -> Metadata {
    MetadataCommand::new()
        .manifest_path(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"))
        .features(CargoOpt::AllFeatures)
        .other_options(vec![
            "--locked".to_owned(),
            "--offline".to_owned(),
            "--filter-platform=x86_64-unknown-linux-gnu".to_owned(),
        ])
        .exec()
        .expect("cargo describes the workspace that it is building")
}

/// The direct dependencies of each workspace crate; those of tests only left out.
fn direct_dependencies(metadata: &Metadata) -> BTreeMap<String, BTreeSet<String>> {
    metadata
        .workspace_packages()
        .into_iter()
        .map(|package| {
            let dependencies = package
                .dependencies
                .iter()
                .filter(|dependency| dependency.kind != DependencyKind::Development)
                .map(|dependency| dependency.name.clone())
                .collect();
            (package.name.to_string(), dependencies)
        })
        .collect()
}

/// Every fault of `dependencies` against the tables above, in words.
fn faults(dependencies: &BTreeMap<String, BTreeSet<String>>) -> Vec<String> {
    let mut faults = Vec::new();
    for (name, used) in dependencies {
        let Some((_, allowed)) = ARROWS.iter().find(|(known, _)| known == name) else {
            faults.push(format!("crate `{name}` has no place in the table of arrows"));
            continue;
        };
        for other in used.iter().filter(|used| dependencies.contains_key(*used)) {
            if !allowed.contains(&other.as_str()) {
                faults.push(format!("`{name}` must not depend on `{other}`"));
            }
        }
        for (dependency, owners, reason) in RESTRICTED {
            if used.contains(*dependency) && !owners.contains(&name.as_str()) {
                faults.push(format!("`{name}` must not depend on `{dependency}`: {reason}"));
            }
        }
        for (_, forbidden) in FORBIDDEN.iter().filter(|(pure, _)| pure == name) {
            for dependency in forbidden.iter().filter(|dependency| used.contains(**dependency)) {
                faults.push(format!("`{name}` is pure and must not depend on `{dependency}`"));
            }
        }
    }
    faults
}

#[test]
fn every_dependency_follows_the_arrows() {
    let dependencies = direct_dependencies(&metadata());
    let missing: Vec<_> = ARROWS.iter().filter(|(name, _)| !dependencies.contains_key(*name)).collect();
    assert!(missing.is_empty(), "the table names crates that do not exist: {missing:?}");
    assert_eq!(faults(&dependencies), Vec::<String>::new());
}

#[test]
fn no_banned_package_is_built() {
    let metadata = metadata();
    let resolved: BTreeSet<_> = metadata
        .resolve
        .as_ref()
        .expect("dependencies were asked for")
        .nodes
        .iter()
        .map(|node| metadata[&node.id].name.to_string())
        .collect();
    assert!(resolved.contains("ring"), "the resolved packages are read wrongly: `ring` must be among them");
    let found: Vec<_> = BANNED.iter().filter(|name| resolved.contains(**name)).collect();
    assert!(found.is_empty(), "banned packages are part of the build: {found:?}");
}

#[test]
fn a_wrong_arrow_would_be_noticed() {
    let table = |name: &str, used: &[&str]| {
        let mut all: BTreeMap<String, BTreeSet<String>> =
            ARROWS.iter().map(|(known, _)| ((*known).to_owned(), BTreeSet::new())).collect();
        all.insert(name.to_owned(), used.iter().map(|used| (*used).to_owned()).collect());
        faults(&all)
    };
    assert_eq!(table("vmm", &["manifest"]), ["`vmm` must not depend on `manifest`"]);
    assert_eq!(
        table("launcher", &["reqwest"]),
        ["`launcher` must not depend on `reqwest`: registries are spoken to in one place"]
    );
    assert_eq!(table("manifest", &["tokio"]), ["`manifest` is pure and must not depend on `tokio`"]);
    assert_eq!(table("common", &[]), ["crate `common` has no place in the table of arrows"]);
    assert_eq!(table("launcher", &["manifest", "vmm"]), Vec::<String>::new());
}
