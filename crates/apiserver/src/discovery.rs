//! What is served: discovery documents, made from the kinds whenever they are asked for.
//!
//! `GET /api` and `GET /apis` list groups and versions, each group version lists its resources, and aggregated
//! discovery (`apidiscovery.k8s.io`) tells everything at once.

mod order;

use base64::Engine as _;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use crate::kind::{Kind, Kinds, Scope};

/// Which form of aggregated discovery a client accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aggregated {
    /// `apidiscovery.k8s.io/v2`
    V2,
    /// `apidiscovery.k8s.io/v2beta1`
    V2Beta1,
}

/// A group and its versions, the preferred one first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Group {
    /// The name; empty for the core group.
    pub(crate) name: String,
    /// `v1`, …
    pub(crate) versions: Vec<String>,
}

/// A resource that nothing is stored of: it is posted, and the answer is all there is.
struct Review {
    group: &'static str,
    plural: &'static str,
    kind: &'static str,
    namespaced: bool,
}

const fn review(group: &'static str, plural: &'static str, kind: &'static str, namespaced: bool) -> Review {
    Review { group, plural, kind, namespaced }
}

/// All of them are served in `v1` and can only be created.
const REVIEWS: [Review; 6] = [
    review("authentication.k8s.io", "selfsubjectreviews", "SelfSubjectReview", false),
    review("authentication.k8s.io", "tokenreviews", "TokenReview", false),
    review("authorization.k8s.io", "localsubjectaccessreviews", "LocalSubjectAccessReview", true),
    review("authorization.k8s.io", "selfsubjectaccessreviews", "SelfSubjectAccessReview", false),
    review("authorization.k8s.io", "selfsubjectrulesreviews", "SelfSubjectRulesReview", false),
    review("authorization.k8s.io", "subjectaccessreviews", "SubjectAccessReview", false),
];

/// One resource or subresource of a group version.
struct Row {
    /// `pods`
    plural: String,
    /// `log`; empty for the resource itself.
    subresource: &'static str,
    singular: String,
    namespaced: bool,
    /// The group and version of the kind that it speaks, where they are other ones.
    speaks: Option<(&'static str, &'static str)>,
    kind: String,
    verbs: Vec<&'static str>,
    short_names: Vec<String>,
    categories: Vec<String>,
    hash: Option<String>,
}

/// Every group, in the order of Kubernetes' discovery.
pub(crate) fn all_groups(kinds: &Kinds) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    let foreign_groups = kinds.foreign();
    let own = kinds
        .iter()
        .flat_map(|kind| kind.versions.iter().map(|version| (kind.group.as_str(), version.name.as_str())));
    let foreign =
        foreign_groups.iter().flat_map(|group| group.versions.iter().map(|version| (group.name, *version)));
    let reviews = REVIEWS.iter().map(|review| (review.group, "v1"));
    for (name, version) in own.chain(reviews).chain(foreign) {
        let index = groups.iter().position(|group| group.name == name).unwrap_or_else(|| {
            groups.push(Group { name: name.to_owned(), versions: Vec::new() });
            groups.len() - 1
        });
        if !groups[index].versions.iter().any(|known| known == version) {
            groups[index].versions.push(version.to_owned());
        }
    }
    for group in &mut groups {
        group.versions.sort_by(|one, other| order::versions(one, other));
    }
    groups.sort_by(|one, other| order::groups(&one.name, &other.name));
    groups
}

/// The kinds that a group version serves.
pub(crate) fn kinds_of<'a>(
    kinds: &'a Kinds,
    group: &'a str,
    version: &'a str,
) -> impl Iterator<Item = &'a Kind> {
    kinds
        .iter()
        .map(AsRef::as_ref)
        .filter(move |kind| kind.group == group && kind.versions.iter().any(|known| known.name == version))
}

fn rows(kinds: &Kinds, group: &str, version: &str) -> Vec<Row> {
    let mut rows = Vec::new();
    for kind in kinds_of(kinds, group, version) {
        let namespaced = kind.scope == Scope::Namespaced;
        let mut add = |subresource, speaks, kind_name: &str, verbs: &[&'static str]| {
            rows.push(Row {
                plural: kind.names.plural.clone(),
                subresource,
                singular: String::new(),
                namespaced,
                speaks,
                kind: kind_name.to_owned(),
                verbs: verbs.to_vec(),
                short_names: Vec::new(),
                categories: Vec::new(),
                hash: None,
            });
        };
        add("", None, &kind.names.kind, kind.served_verbs());
        for extra in &kind.subresources {
            let speaks = (!extra.version.is_empty()).then_some((extra.group, extra.version));
            add(extra.name, speaks, extra.kind, extra.verbs);
        }
        if kind.scale.is_some() {
            add("scale", Some(("autoscaling", "v1")), "Scale", &["get", "patch", "update"]);
        }
        if kind.has_status {
            add("status", None, &kind.names.kind, &["get", "patch", "update"]);
        }
        let own = rows.iter_mut().rev().find(|row| row.subresource.is_empty());
        if let Some(row) = own {
            row.singular = kind.names.singular.clone();
            row.short_names = kind.names.short_names.clone();
            row.categories = kind.names.categories.clone();
            row.hash = kind.computed.is_none().then(|| storage_version_hash(kind));
        }
    }
    if version == "v1" {
        rows.extend(REVIEWS.iter().filter(|review| review.group == group).map(|review| Row {
            plural: review.plural.to_owned(),
            subresource: "",
            singular: review.kind.to_lowercase(),
            namespaced: review.namespaced,
            speaks: None,
            kind: review.kind.to_owned(),
            verbs: vec!["create"],
            short_names: Vec::new(),
            categories: Vec::new(),
            hash: None,
        }));
    }
    // KubeVirt's server names what it has and nothing else of it.
    let foreign =
        kinds.foreign().iter().filter(|known| known.name == group && known.versions.contains(&version));
    rows.extend(foreign.flat_map(|group| group.resources).map(|name| {
        let (plural, subresource) = name.split_once('/').unwrap_or((name, ""));
        Row {
            plural: plural.to_owned(),
            subresource,
            singular: String::new(),
            namespaced: true,
            speaks: None,
            kind: String::new(),
            verbs: Vec::new(),
            short_names: Vec::new(),
            categories: Vec::new(),
            hash: None,
        }
    }));
    rows.sort_by(|one, other| (&one.plural, one.subresource).cmp(&(&other.plural, other.subresource)));
    rows
}

/// What clients compare to learn that a kind is stored in another version now: the start of a hash of its stored
/// group, version and kind.
fn storage_version_hash(kind: &Kind) -> String {
    let (group, version) = match &kind.shared_storage {
        Some(shared) => (shared.group, shared.api_version.rsplit('/').next().unwrap_or_default()),
        None => (kind.group.as_str(), kind.storage_version()),
    };
    let digest = Sha256::digest(format!("{group}/{version}/{}", kind.names.kind));
    base64::engine::general_purpose::STANDARD.encode(&digest[..8])
}

/// `v1`, or `apps/v1`.
pub(crate) fn group_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

/// `GET /api`: `APIVersions`. `server_address` is the `host:port` that clients reach the server at.
pub fn core_versions(kinds: &Kinds, server_address: &str) -> Value {
    let groups = all_groups(kinds);
    let versions = groups.iter().find(|group| group.name.is_empty()).map(|group| group.versions.as_slice());
    json!({
        "kind": "APIVersions",
        "versions": versions.unwrap_or_default(),
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": server_address}],
    })
}

fn group_fields(group: &Group) -> Map<String, Value> {
    let versions: Vec<_> = group
        .versions
        .iter()
        .map(|version| json!({"groupVersion": group_version(&group.name, version), "version": version}))
        .collect();
    let mut fields = Map::new();
    fields.insert("name".to_owned(), group.name.as_str().into());
    fields.insert("preferredVersion".to_owned(), versions.first().cloned().unwrap_or_default());
    fields.insert("versions".to_owned(), versions.into());
    // Kubernetes writes the versions before the preferred one.
    if let Some(preferred) = fields.shift_remove("preferredVersion") {
        fields.insert("preferredVersion".to_owned(), preferred);
    }
    fields
}

/// `GET /apis`: `APIGroupList`.
pub fn groups(kinds: &Kinds) -> Value {
    let groups: Vec<_> = all_groups(kinds)
        .iter()
        .filter(|group| !group.name.is_empty())
        .map(|group| Value::Object(group_fields(group)))
        .collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `GET /apis/GROUP`: `APIGroup`; `None` when there is no such group.
pub fn group(kinds: &Kinds, group: &str) -> Option<Value> {
    let found = all_groups(kinds).into_iter().find(|known| known.name == group && !group.is_empty())?;
    let mut document = json!({"kind": "APIGroup", "apiVersion": "v1"});
    document.as_object_mut()?.extend(group_fields(&found));
    Some(document)
}

/// `GET /api/v1` (with an empty group) and `GET /apis/GROUP/VERSION`: `APIResourceList`; `None` when there is no such
/// version.
pub fn resources(kinds: &Kinds, group: &str, version: &str) -> Option<Value> {
    let rows = rows(kinds, group, version);
    if rows.is_empty() {
        return None;
    }
    let resources: Vec<_> = rows
        .iter()
        .map(|row| {
            let name = if row.subresource.is_empty() {
                row.plural.clone()
            } else {
                format!("{}/{}", row.plural, row.subresource)
            };
            let mut fields = json!({
                "name": name, "singularName": row.singular, "namespaced": row.namespaced,
            });
            if let Some((group, version)) = row.speaks {
                fields["group"] = group.into();
                fields["version"] = version.into();
            }
            fields["kind"] = row.kind.as_str().into();
            fields["verbs"] = json!(row.verbs);
            if !row.short_names.is_empty() {
                fields["shortNames"] = json!(row.short_names);
            }
            if !row.categories.is_empty() {
                fields["categories"] = json!(row.categories);
            }
            if let Some(hash) = &row.hash {
                fields["storageVersionHash"] = hash.as_str().into();
            }
            fields
        })
        .collect();
    // The core group's list has no apiVersion, as ever.
    let mut list = json!({"kind": "APIResourceList"});
    if !group.is_empty() {
        list["apiVersion"] = "v1".into();
    }
    list["groupVersion"] = group_version(group, version).into();
    list["resources"] = resources.into();
    Some(list)
}

/// `GET /api` (`core`) or `GET /apis` as aggregated discovery: `APIGroupDiscoveryList`.
pub fn aggregated(kinds: &Kinds, core: bool, form: Aggregated) -> Value {
    let items: Vec<_> = all_groups(kinds)
        .iter()
        .filter(|group| group.name.is_empty() == core)
        .map(|group| {
            let versions: Vec<_> = group
                .versions
                .iter()
                .map(|version| {
                    json!({
                        "version": version,
                        "resources": aggregated_resources(kinds, &group.name, version),
                        "freshness": "Current",
                    })
                })
                .collect();
            let mut metadata = json!({"creationTimestamp": null});
            if !core {
                metadata = json!({"name": group.name, "creationTimestamp": null});
            }
            json!({"metadata": metadata, "versions": versions})
        })
        .collect();
    let version = match form {
        Aggregated::V2 => "v2",
        Aggregated::V2Beta1 => "v2beta1",
    };
    json!({
        "kind": "APIGroupDiscoveryList",
        "apiVersion": format!("apidiscovery.k8s.io/{version}"),
        "metadata": {},
        "items": items,
    })
}

fn aggregated_resources(kinds: &Kinds, group: &str, version: &str) -> Vec<Value> {
    let mut resources: Vec<Value> = Vec::new();
    for row in rows(kinds, group, version) {
        let (speaks_group, speaks_version) = row.speaks.unwrap_or((group, version));
        let response = json!({"group": speaks_group, "version": speaks_version, "kind": row.kind});
        if row.subresource.is_empty() {
            let mut resource = json!({
                "resource": row.plural,
                "responseKind": response,
                "scope": if row.namespaced { "Namespaced" } else { "Cluster" },
                "singularResource": row.singular,
                "verbs": row.verbs,
            });
            if !row.short_names.is_empty() {
                resource["shortNames"] = json!(row.short_names);
            }
            if !row.categories.is_empty() {
                resource["categories"] = json!(row.categories);
            }
            resources.push(resource);
            continue;
        }
        if resources.last().is_none_or(|last| last["resource"] != row.plural) {
            // Only the subresources are there, so a parent is made up, as the aggregator does.
            resources.push(json!({
                "resource": row.plural,
                "responseKind": {"group": "", "version": "", "kind": ""},
                "scope": if row.namespaced { "Namespaced" } else { "Cluster" },
                "singularResource": "",
                "verbs": [],
            }));
        }
        let subresource =
            json!({"subresource": row.subresource, "responseKind": response, "verbs": row.verbs});
        // Rows are sorted, so a resource stands right before its subresources.
        if let Some(fields) = resources.last_mut().and_then(Value::as_object_mut) {
            let list = fields.entry("subresources").or_insert_with(|| json!([]));
            if let Some(list) = list.as_array_mut() {
                list.push(subresource);
            }
        }
    }
    resources
}

#[cfg(test)]
mod tests;
