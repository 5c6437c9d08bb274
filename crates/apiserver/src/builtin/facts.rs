//! How lists and maps of Kubernetes' types merge, as the markers in k8s.io/api say (`+listType`, `+listMapKey`,
//! `+mapType`, `patchStrategy`, `patchMergeKey`). k8s-openapi's schemas do not carry them.
//!
//! A list that is not named here is atomic, which is Kubernetes' default too.

use serde_json::{Map, Value, json};

/// One fact about a field.
enum Fact {
    /// A list map with these keys, and the key of a strategic merge patch where the patch merges too.
    Map(&'static [&'static str], Option<&'static str>),
    /// As `Map` with one key, with `retainKeys` in patches.
    MapRetainingKeys(&'static str),
    /// A set of scalars; patches merge it too if true.
    Set(bool),
    /// Server-side apply owns the list as a whole, but a strategic merge patch merges by this key.
    PatchKey(&'static str),
    /// The map is owned as a whole.
    AtomicMap,
    /// The reference stands for a granular map though its type is atomic.
    GranularMap,
    /// A strategic merge patch does this.
    Patch(&'static str),
    /// The value that Kubernetes fills in; it is named in the schema because the field is a key of a list map.
    Default(&'static str),
}

use Fact::{AtomicMap, Default, GranularMap, MapRetainingKeys, Patch, PatchKey, Set};

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.";
const API: &str = "io.k8s.api.";

/// A list map whose one key is also the key of patches.
const fn keyed(keys: &'static [&'static str]) -> Fact {
    Fact::Map(keys, Some(keys[0]))
}

/// By definition (without `io.k8s.api.`, or for apimachinery's `meta.` with the rest) and field.
const FIELDS: &[(&str, &str, Fact)] = &[
    ("meta.ObjectMeta", "finalizers", Set(true)),
    ("meta.ObjectMeta", "ownerReferences", keyed(&["uid"])),
    ("apps.v1.DaemonSetStatus", "conditions", keyed(&["type"])),
    ("apps.v1.DeploymentSpec", "strategy", Patch("retainKeys")),
    ("apps.v1.DeploymentStatus", "conditions", keyed(&["type"])),
    ("apps.v1.ReplicaSetStatus", "conditions", keyed(&["type"])),
    ("apps.v1.StatefulSetStatus", "conditions", keyed(&["type"])),
    ("autoscaling.v2.HorizontalPodAutoscalerStatus", "conditions", keyed(&["type"])),
    ("batch.v1.JobStatus", "conditions", PatchKey("type")),
    ("batch.v1.PodFailurePolicyOnExitCodesRequirement", "values", Set(false)),
    ("batch.v1.UncountedTerminatedPods", "failed", Set(false)),
    ("batch.v1.UncountedTerminatedPods", "succeeded", Set(false)),
    ("core.v1.Container", "env", keyed(&["name"])),
    ("core.v1.Container", "ports", keyed(&["containerPort", "protocol"])),
    ("core.v1.Container", "volumeDevices", keyed(&["devicePath"])),
    ("core.v1.Container", "volumeMounts", keyed(&["mountPath"])),
    ("core.v1.ContainerPort", "protocol", Default("TCP")),
    ("core.v1.ContainerStatus", "allocatedResourcesStatus", keyed(&["name"])),
    ("core.v1.ContainerStatus", "volumeMounts", keyed(&["mountPath"])),
    ("core.v1.EphemeralContainer", "env", keyed(&["name"])),
    ("core.v1.EphemeralContainer", "ports", keyed(&["containerPort", "protocol"])),
    ("core.v1.EphemeralContainer", "volumeDevices", keyed(&["devicePath"])),
    ("core.v1.EphemeralContainer", "volumeMounts", keyed(&["mountPath"])),
    ("core.v1.NamespaceStatus", "conditions", keyed(&["type"])),
    ("core.v1.NodeSpec", "podCIDRs", Set(true)),
    ("core.v1.NodeStatus", "addresses", keyed(&["type"])),
    ("core.v1.NodeStatus", "conditions", keyed(&["type"])),
    ("core.v1.PersistentVolumeClaimStatus", "conditions", keyed(&["type"])),
    ("core.v1.PersistentVolumeSpec", "claimRef", GranularMap),
    ("core.v1.PodSpec", "containers", keyed(&["name"])),
    ("core.v1.PodSpec", "ephemeralContainers", keyed(&["name"])),
    ("core.v1.PodSpec", "hostAliases", keyed(&["ip"])),
    ("core.v1.PodSpec", "imagePullSecrets", keyed(&["name"])),
    ("core.v1.PodSpec", "initContainers", keyed(&["name"])),
    ("core.v1.PodSpec", "nodeSelector", AtomicMap),
    ("core.v1.PodSpec", "resourceClaims", MapRetainingKeys("name")),
    ("core.v1.PodSpec", "schedulingGates", keyed(&["name"])),
    ("core.v1.PodSpec", "topologySpreadConstraints", keyed(&["topologyKey", "whenUnsatisfiable"])),
    ("core.v1.PodSpec", "volumes", MapRetainingKeys("name")),
    ("core.v1.PodStatus", "conditions", keyed(&["type"])),
    ("core.v1.PodStatus", "hostIPs", PatchKey("ip")),
    ("core.v1.PodStatus", "podIPs", keyed(&["ip"])),
    ("core.v1.PodStatus", "resourceClaimStatuses", MapRetainingKeys("name")),
    ("core.v1.ReplicationControllerSpec", "selector", AtomicMap),
    ("core.v1.ReplicationControllerStatus", "conditions", keyed(&["type"])),
    ("core.v1.ResourceRequirements", "claims", Fact::Map(&["name"], None)),
    ("core.v1.ResourceStatus", "resources", Fact::Map(&["resourceID"], None)),
    ("core.v1.ServiceAccount", "secrets", keyed(&["name"])),
    ("core.v1.ServicePort", "protocol", Default("TCP")),
    ("core.v1.ServiceSpec", "ports", keyed(&["port", "protocol"])),
    ("core.v1.ServiceSpec", "selector", AtomicMap),
    ("core.v1.ServiceStatus", "conditions", keyed(&["type"])),
    ("discovery.v1.Endpoint", "addresses", Set(false)),
    ("policy.v1.PodDisruptionBudgetSpec", "selector", Patch("replace")),
    ("policy.v1.PodDisruptionBudgetStatus", "conditions", keyed(&["type"])),
    ("storage.v1.CSIDriverSpec", "volumeLifecycleModes", Set(false)),
];

/// Objects that are owned as a whole (`+structType=atomic`).
const ATOMIC: &[&str] = &[
    "meta.LabelSelector",
    "meta.OwnerReference",
    "core.v1.ConfigMapKeySelector",
    "core.v1.EndpointAddress",
    "core.v1.EndpointPort",
    "core.v1.LocalObjectReference",
    "core.v1.NodeSelector",
    "core.v1.NodeSelectorTerm",
    "core.v1.ObjectFieldSelector",
    "core.v1.ObjectReference",
    "core.v1.ResourceFieldSelector",
    "core.v1.ScopeSelector",
    "core.v1.ScopedResourceSelectorRequirement",
    "core.v1.SecretKeySelector",
    "core.v1.SecretReference",
    "core.v1.TopologySelectorTerm",
    "core.v1.TypedLocalObjectReference",
    "discovery.v1.EndpointPort",
    "networking.v1.ServiceBackendPort",
    "rbac.v1.RoleRef",
    "rbac.v1.Subject",
];

/// The name that the tables above use.
fn short(definition: &str) -> Option<String> {
    match definition.strip_prefix(META) {
        Some(rest) => Some(format!("meta.{rest}")),
        None => definition.strip_prefix(API).map(str::to_owned),
    }
}

/// Adds what is known of `definition` to its schema.
pub(super) fn enrich(definition: &str, schema: &mut Value) {
    let Some(short) = short(definition) else { return };
    // k8s-openapi's types cannot do without metadata; Kubernetes' can.
    if let Some(required) = schema.get_mut("required").and_then(Value::as_array_mut) {
        required.retain(|field| field != "metadata");
        if required.is_empty()
            && let Some(fields) = schema.as_object_mut()
        {
            fields.remove("required");
        }
    }
    if ATOMIC.contains(&short.as_str()) {
        schema["x-kubernetes-map-type"] = "atomic".into();
    }
    for (_, field, fact) in FIELDS.iter().filter(|(name, ..)| *name == short) {
        let property = schema.get_mut("properties").and_then(|properties| properties.get_mut(*field));
        if let Some(property) = property.and_then(Value::as_object_mut) {
            apply(fact, property);
        }
    }
}

fn apply(fact: &Fact, property: &mut Map<String, Value>) {
    let mut set = |name: &str, value: Value| {
        property.insert(name.to_owned(), value);
    };
    match fact {
        Fact::Map(keys, patch_key) => {
            set("x-kubernetes-list-type", "map".into());
            set("x-kubernetes-list-map-keys", json!(keys));
            if let Some(key) = patch_key {
                set("x-kubernetes-patch-merge-key", (*key).into());
                set("x-kubernetes-patch-strategy", "merge".into());
            }
        }
        MapRetainingKeys(key) => {
            set("x-kubernetes-list-type", "map".into());
            set("x-kubernetes-list-map-keys", json!([key]));
            set("x-kubernetes-patch-merge-key", (*key).into());
            set("x-kubernetes-patch-strategy", "merge,retainKeys".into());
        }
        Set(merges) => {
            set("x-kubernetes-list-type", "set".into());
            if *merges {
                set("x-kubernetes-patch-strategy", "merge".into());
            }
        }
        PatchKey(key) => {
            set("x-kubernetes-list-type", "atomic".into());
            set("x-kubernetes-patch-merge-key", (*key).into());
            set("x-kubernetes-patch-strategy", "merge".into());
        }
        AtomicMap => set("x-kubernetes-map-type", "atomic".into()),
        GranularMap => set("x-kubernetes-map-type", "granular".into()),
        Patch(strategy) => set("x-kubernetes-patch-strategy", (*strategy).into()),
        Default(value) => set("default", (*value).into()),
    }
}

#[cfg(test)]
pub(super) fn named_fields() -> impl Iterator<Item = (String, &'static str)> {
    FIELDS.iter().map(|(definition, field, _)| (full(definition), *field))
}

#[cfg(test)]
pub(super) fn atomic_definitions() -> impl Iterator<Item = String> {
    ATOMIC.iter().map(|definition| full(definition))
}

#[cfg(test)]
fn full(short: &str) -> String {
    match short.strip_prefix("meta.") {
        Some(rest) => format!("{META}{rest}"),
        None => format!("{API}{short}"),
    }
}
