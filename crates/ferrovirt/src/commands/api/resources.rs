//! Words for kinds, `vm`, `pods`, `deployments.apps`, and what the server calls them.
//!
//! The kinds of daily use are known here, so that a command needs one request; every other word is looked up in the
//! server's discovery, aggregated where it has that.

use std::borrow::Cow;

use anyhow::anyhow;
use serde_json::Value;

use super::refusal::RequestError;
use super::{JSON, Server, escape, text};
use crate::report::Failure;

/// A resource of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    /// API group, empty for the core.
    pub group: Cow<'static, str>,
    /// Version of the group.
    pub version: Cow<'static, str>,
    /// Name in paths, `virtualmachines`.
    pub plural: Cow<'static, str>,
    /// Name of one, `virtualmachine`.
    pub singular: Cow<'static, str>,
    /// Kind, `VirtualMachine`.
    pub kind: Cow<'static, str>,
    /// Whether its objects are in namespaces.
    pub is_namespaced: bool,
}

/// `VirtualMachine`.
pub static MACHINES: Resource =
    known("kubevirt.io", "virtualmachines", "virtualmachine", "VirtualMachine", true);
/// `VirtualMachineInstance`.
pub static INSTANCES: Resource =
    known("kubevirt.io", "virtualmachineinstances", "virtualmachineinstance", "VirtualMachineInstance", true);
/// `Pod`.
pub static PODS: Resource = known("", "pods", "pod", "Pod", true);
/// `Event`.
pub static EVENTS: Resource = known("", "events", "event", "Event", true);
/// `Node`.
pub static NODES: Resource = known("", "nodes", "node", "Node", false);
static NAMESPACES: Resource = known("", "namespaces", "namespace", "Namespace", false);
static SECRETS: Resource = known("", "secrets", "secret", "Secret", true);
static CONFIG_MAPS: Resource = known("", "configmaps", "configmap", "ConfigMap", true);

/// The resources that are known without asking, with their short names. KubeVirt's `v1` is stored by every version of it
/// since 1.0.
static KNOWN: [(&Resource, &[&str]); 8] = [
    (&MACHINES, &["vm", "vms"]),
    (&INSTANCES, &["vmi", "vmis"]),
    (&PODS, &["po"]),
    (&EVENTS, &["ev"]),
    (&NODES, &["no"]),
    (&NAMESPACES, &["ns"]),
    (&SECRETS, &[]),
    (&CONFIG_MAPS, &["cm"]),
];

const fn known(
    group: &'static str,
    plural: &'static str,
    singular: &'static str,
    kind: &'static str,
    is_namespaced: bool,
) -> Resource {
    Resource {
        group: Cow::Borrowed(group),
        version: Cow::Borrowed("v1"),
        plural: Cow::Borrowed(plural),
        singular: Cow::Borrowed(singular),
        kind: Cow::Borrowed(kind),
        is_namespaced,
    }
}

impl Resource {
    /// The path of its objects: of one, of a namespace's, or of all.
    pub fn path(&self, namespace: Option<&str>, name: Option<&str>) -> String {
        let mut path = group_path(&self.group, &self.version);
        if let Some(namespace) = namespace {
            path.push_str(&format!("/namespaces/{}", escape(namespace)));
        }
        path.push_str(&format!("/{}", self.plural));
        if let Some(name) = name {
            path.push_str(&format!("/{}", escape(name)));
        }
        path
    }

    /// The path of something that is asked of one of its objects, in the version that KubeVirt prefers.
    pub fn subresource_path(&self, namespace: &str, name: &str, subresource: &str) -> String {
        let (namespace, name) = (escape(namespace), escape(name));
        let plural = &self.plural;
        format!("/apis/subresources.kubevirt.io/v1/namespaces/{namespace}/{plural}/{name}/{subresource}")
    }

    /// What kubectl puts before a slash and a name, `virtualmachine.kubevirt.io`.
    pub fn title(&self) -> String {
        match self.group.as_ref() {
            "" => self.singular.to_string(),
            group => format!("{}.{group}", self.singular),
        }
    }

    /// An object in an error: "VirtualMachine `default/demo`".
    pub fn object(&self, namespace: Option<&str>, name: &str) -> String {
        match namespace {
            Some(namespace) => format!("{} `{namespace}/{name}`", self.kind),
            None => format!("{} `{name}`", self.kind),
        }
    }
}

fn group_path(group: &str, version: &str) -> String {
    match group {
        "" => format!("/api/{}", escape(version)),
        group => format!("/apis/{}/{}", escape(group), escape(version)),
    }
}

/// The resource that a word means, where it is one of daily use.
pub fn well_known(word: &str) -> Option<Resource> {
    let word = word.to_lowercase();
    let found = KNOWN.iter().find(|(resource, short)| is_meant(resource, short.iter().copied(), &word));
    found.map(|(resource, _)| (*resource).clone())
}

/// A word for each resource of daily use, the shortest.
pub fn daily_words() -> Vec<String> {
    KNOWN
        .iter()
        .map(|(resource, short)| short.first().map_or(&*resource.plural, |word| *word).to_owned())
        .collect()
}

/// Whether `word`, in lower case, names the resource: by one of its names, or with its group (and version) behind.
fn is_meant<'a>(resource: &Resource, mut short: impl Iterator<Item = &'a str>, word: &str) -> bool {
    let Resource { group, version, plural, singular, .. } = resource;
    if word == plural || word == singular || word == resource.kind.to_lowercase() {
        return true;
    }
    let qualified = [plural, singular].into_iter().any(|name| {
        let rest = word.strip_prefix(name.as_ref()).and_then(|rest| rest.strip_prefix('.'));
        rest.is_some_and(|rest| rest == group || rest == format!("{version}.{group}"))
    });
    qualified || short.any(|name| name == word)
}

impl Server {
    /// The resource that a word means.
    ///
    /// # Errors
    /// When the server has none of that name, or does not answer.
    pub async fn resource(&self, word: &str) -> Result<Resource, Failure> {
        if let Some(resource) = well_known(word) {
            return Ok(resource);
        }
        let what = || format!("cannot look up the resource `{word}`");
        let found = self.discover().await.map_err(|error| error.failure(what(), None))?;
        let lower = word.to_lowercase();
        let meant = found
            .into_iter()
            .find(|(resource, short)| is_meant(resource, short.iter().map(String::as_str), &lower));
        meant.map(|(resource, _)| resource).ok_or_else(|| {
            Failure::refused(
                anyhow!("the server `{}` has no resource `{word}`", self.url()),
                Some("name one as in `vm`, `vmi`, `pods`, `nodes`, or in full: NAME.GROUP".to_owned()),
            )
        })
    }

    /// The resource of a manifest's kind.
    ///
    /// # Errors
    /// As [`resource`](Self::resource).
    pub async fn resource_of_kind(&self, api_version: &str, kind: &str) -> Result<Resource, Failure> {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let is_it =
            |known: &&Resource| known.group == group && known.version == version && known.kind == kind;
        if let Some(known) = KNOWN.iter().map(|(resource, _)| *resource).find(is_it) {
            return Ok(known.clone());
        }
        let missing = || {
            Failure::refused(
                anyhow!("the server `{}` has no kind `{kind}` in `{api_version}`", self.url()),
                Some("correct `apiVersion` and `kind`, or choose another server with --context".to_owned()),
            )
        };
        let list = match self.get(&group_path(group, version), JSON).await {
            Ok(list) => list,
            Err(error) if error.is_not_found() => return Err(missing()),
            Err(error) => {
                return Err(
                    error.failure(format!("cannot look up the kind `{kind}` in `{api_version}`"), None)
                );
            }
        };
        listed(&list, group, version)
            .into_iter()
            .map(|(resource, _)| resource)
            .find(|resource| resource.kind == kind)
            .ok_or_else(missing)
    }

    /// Every resource, each in the version that its group prefers, with its short names.
    async fn discover(&self) -> Result<Vec<(Resource, Vec<String>)>, RequestError> {
        const AGGREGATED: &str =
            "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
        let mut found = Vec::new();
        for root in ["/api", "/apis"] {
            let document = self.get(root, AGGREGATED).await?;
            if document["kind"] == "APIGroupDiscoveryList" {
                found.extend(aggregated(&document));
                continue;
            }
            // An older server: a request for each group.
            for (group, version) in groups(&document) {
                match self.get(&group_path(&group, &version), JSON).await {
                    Ok(list) => found.extend(listed(&list, &group, &version)),
                    // One group whose server is away must not keep the others from being found.
                    Err(RequestError::Refused(refusal)) => {
                        tracing::info!(group, why = refusal.message, "a group cannot be discovered");
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(found)
    }
}

/// The groups of an `APIVersions` or an `APIGroupList`, each with its preferred version.
fn groups(document: &Value) -> Vec<(String, String)> {
    let core = strings(&document["versions"]).into_iter().take(1).map(|version| (String::new(), version));
    let named =
        document["groups"].as_array().into_iter().flatten().map(|group| {
            (text(group, "/name").to_owned(), text(group, "/preferredVersion/version").to_owned())
        });
    core.chain(named).collect()
}

/// The resources of an `APIGroupDiscoveryList`.
fn aggregated(document: &Value) -> Vec<(Resource, Vec<String>)> {
    let mut found: Vec<(Resource, Vec<String>)> = Vec::new();
    for group in document["items"].as_array().into_iter().flatten() {
        let name = text(group, "/metadata/name");
        for version in group["versions"].as_array().into_iter().flatten() {
            for resource in version["resources"].as_array().into_iter().flatten() {
                let plural = text(resource, "/resource");
                // Versions come in the order of preference.
                if found.iter().any(|(known, _)| known.group == name && known.plural == plural) {
                    continue;
                }
                found.push((
                    Resource {
                        group: name.to_owned().into(),
                        version: text(version, "/version").to_owned().into(),
                        plural: plural.to_owned().into(),
                        singular: text(resource, "/singularResource").to_owned().into(),
                        kind: text(resource, "/responseKind/kind").to_owned().into(),
                        is_namespaced: resource["scope"] == "Namespaced",
                    },
                    strings(&resource["shortNames"]),
                ));
            }
        }
    }
    found
}

/// The resources of an `APIResourceList`.
fn listed(list: &Value, group: &str, version: &str) -> Vec<(Resource, Vec<String>)> {
    let resources = list["resources"].as_array().into_iter().flatten();
    resources
        .filter(|resource| !text(resource, "/name").contains('/'))
        .map(|resource| {
            let kind = text(resource, "/kind");
            let singular = match text(resource, "/singularName") {
                "" => kind.to_lowercase(),
                singular => singular.to_owned(),
            };
            let resource_names = strings(&resource["shortNames"]);
            let resource = Resource {
                group: group.to_owned().into(),
                version: version.to_owned().into(),
                plural: text(resource, "/name").to_owned().into(),
                singular: singular.into(),
                kind: kind.to_owned().into(),
                is_namespaced: resource["namespaced"] == true,
            };
            (resource, resource_names)
        })
        .collect()
}

fn strings(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    #[test]
    fn words_of_daily_use_are_known_without_asking() {
        for word in [
            "vm",
            "vms",
            "VM",
            "virtualmachine",
            "VirtualMachines",
            "virtualmachines.kubevirt.io",
            "virtualmachine.v1.kubevirt.io",
        ] {
            assert_eq!(well_known(word), Some(MACHINES.clone()), "{word}");
        }
        assert_eq!(well_known("vmi"), Some(INSTANCES.clone()));
        assert_eq!(well_known("po"), Some(PODS.clone()));
        for word in ["", "v", "vm.", "virtualmachines.", "virtualmachines.example.org", "deployments"] {
            assert_eq!(well_known(word), None, "{word}");
        }
    }

    #[test]
    fn paths_are_kubernetess() {
        assert_eq!(
            MACHINES.path(Some("a"), Some("b/c")),
            "/apis/kubevirt.io/v1/namespaces/a/virtualmachines/b%2Fc"
        );
        assert_eq!(PODS.path(None, None), "/api/v1/pods");
        assert_eq!(
            MACHINES.subresource_path("a", "b/c", "portforward/22"),
            "/apis/subresources.kubevirt.io/v1/namespaces/a/virtualmachines/b%2Fc/portforward/22"
        );
        assert_eq!((MACHINES.title().as_str(), PODS.title().as_str()), ("virtualmachine.kubevirt.io", "pod"));
    }

    #[test]
    fn discovery_is_read_in_both_forms() {
        let gadgets = Resource {
            group: "example.org".into(),
            version: "v2".into(),
            plural: "gadgets".into(),
            singular: "gadget".into(),
            kind: "Gadget".into(),
            is_namespaced: true,
        };
        let resource = json!({"resource": "gadgets", "singularResource": "gadget", "scope": "Namespaced",
            "responseKind": {"kind": "Gadget"}, "shortNames": ["gd"]});
        let document = json!({"kind": "APIGroupDiscoveryList", "items": [{"metadata": {"name": "example.org"},
            "versions": [{"version": "v2", "resources": [resource]}, {"version": "v1", "resources": [resource]}]}]});
        let found = aggregated(&document);
        assert_eq!(found, [(gadgets.clone(), vec!["gd".to_owned()])]);
        let list = json!({"resources": [
            {"name": "gadgets", "singularName": "", "namespaced": true, "kind": "Gadget", "shortNames": ["gd"]},
            {"name": "gadgets/status", "namespaced": true, "kind": "Gadget"},
        ]});
        assert_eq!(listed(&list, "example.org", "v2"), found);
        assert!(is_meant(&gadgets, ["gd"].into_iter(), "gd"));
        assert!(is_meant(&gadgets, [].into_iter(), "gadgets.v2.example.org"));
        assert!(!is_meant(&gadgets, [].into_iter(), "gadgets.v1.example.org"));
        let groups = groups(&json!({"groups": [{"name": "g", "preferredVersion": {"version": "v3"}}]}));
        assert_eq!(groups, [("g".to_owned(), "v3".to_owned())]);
    }
}
