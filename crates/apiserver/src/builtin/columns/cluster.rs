//! The columns of everything that does not run Pods itself.

use jiff::Timestamp;
use serde_json::Value;

use super::{AGE, CREATED_AT, Found, access_modes, joined, labels, shown, text, wide};
use crate::field::{self, flag, list, map, number};
use crate::kind::Column;
use crate::object;
use crate::table;

const NODE_ROLE_PREFIX: &str = "node-role.kubernetes.io/";

/// Nodes.
pub(in crate::builtin) const NODES: &[Column] = &[
    shown("Status", "string", node_status),
    shown("Roles", "string", node_roles),
    AGE,
    shown("Version", "string", |node, _| Some(field::text(node, "/status/nodeInfo/kubeletVersion").into())),
    wide("Internal-IP", "string", |node, _| address(node, "InternalIP")),
    wide("External-IP", "string", |node, _| address(node, "ExternalIP")),
    wide("OS-Image", "string", |node, _| node_info(node, "/status/nodeInfo/osImage")),
    wide("Kernel-Version", "string", |node, _| node_info(node, "/status/nodeInfo/kernelVersion")),
    wide("Container-Runtime", "string", |node, _| {
        node_info(node, "/status/nodeInfo/containerRuntimeVersion")
    }),
];

fn node_info(node: &Value, pointer: &str) -> Found {
    let found = field::text(node, pointer);
    Some(if found.is_empty() { "<unknown>" } else { found }.into())
}

fn node_status(node: &Value, _: Timestamp) -> Found {
    let ready = list(node, "/status/conditions")
        .iter()
        .find(|condition| field::text(condition, "/type") == "Ready")
        .map(|condition| field::text(condition, "/status"));
    let mut status = match ready {
        Some("True") => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    }
    .to_owned();
    if flag(node, "/spec/unschedulable") {
        status.push_str(",SchedulingDisabled");
    }
    Some(status.into())
}

fn node_roles(node: &Value, _: Timestamp) -> Found {
    let mut roles: Vec<&str> = map(node, "/metadata/labels")
        .into_iter()
        .flatten()
        .filter_map(|(label, value)| match label.strip_prefix(NODE_ROLE_PREFIX) {
            Some(role) => (!role.is_empty()).then_some(role),
            None if label == "kubernetes.io/role" => value.as_str().filter(|role| !role.is_empty()),
            None => None,
        })
        .collect();
    roles.sort_unstable();
    roles.dedup();
    joined(roles)
}

fn address(node: &Value, wanted: &str) -> Found {
    list(node, "/status/addresses")
        .iter()
        .find(|address| field::text(address, "/type") == wanted)
        .and_then(|address| text(field::text(address, "/address")))
}

/// Namespaces.
pub(in crate::builtin) const NAMESPACES: &[Column] =
    &[shown("Status", "string", |object, _| Some(field::text(object, "/status/phase").into())), AGE];

/// Secrets.
pub(in crate::builtin) const SECRETS: &[Column] = &[
    shown("Type", "string", |object, _| Some(field::text(object, "/type").into())),
    shown("Data", "string", |object, _| Some(entries(object, "/data").into())),
    AGE,
];

fn entries(object: &Value, pointer: &str) -> usize {
    map(object, pointer).map_or(0, |entries| entries.len())
}

/// ConfigMaps.
pub(in crate::builtin) const CONFIG_MAPS: &[Column] = &[
    shown("Data", "string", |object, _| {
        Some((entries(object, "/data") + entries(object, "/binaryData")).into())
    }),
    AGE,
];

/// ServiceAccounts.
pub(in crate::builtin) const SERVICE_ACCOUNTS: &[Column] =
    &[shown("Secrets", "string", |object, _| Some(list(object, "/secrets").len().into())), AGE];

/// Services.
pub(in crate::builtin) const SERVICES: &[Column] = &[
    shown("Type", "string", |object, _| Some(field::text(object, "/spec/type").into())),
    shown("Cluster-IP", "string", |object, _| text(field::text(object, "/spec/clusterIP"))),
    shown("External-IP", "string", external_ip),
    shown("Port(s)", "string", service_ports),
    AGE,
    wide("Selector", "string", |object, _| labels(map(object, "/spec/selector"))),
];

fn external_ip(service: &Value, _: Timestamp) -> Found {
    let external: Vec<&str> = list(service, "/spec/externalIPs").iter().filter_map(Value::as_str).collect();
    match field::text(service, "/spec/type") {
        "ExternalName" => text(field::text(service, "/spec/externalName")),
        "LoadBalancer" => {
            let mut found: Vec<&str> = list(service, "/status/loadBalancer/ingress")
                .iter()
                .map(|ingress| match field::text(ingress, "/ip") {
                    "" => field::text(ingress, "/hostname"),
                    ip => ip,
                })
                .filter(|found| !found.is_empty())
                .collect();
            found.extend(external);
            Some(joined(found).unwrap_or_else(|| "<pending>".into()))
        }
        _ => joined(external),
    }
}

fn service_ports(service: &Value, _: Timestamp) -> Found {
    let ports: Vec<String> = list(service, "/spec/ports")
        .iter()
        .map(|port| {
            let protocol = match field::text(port, "/protocol") {
                "" => "TCP",
                protocol => protocol,
            };
            match (number(port, "/port"), number(port, "/nodePort")) {
                (port, 0) => format!("{port}/{protocol}"),
                (port, node_port) => format!("{port}:{node_port}/{protocol}"),
            }
        })
        .collect();
    joined(ports.iter().map(String::as_str))
}

/// Endpoints.
pub(in crate::builtin) const ENDPOINTS: &[Column] = &[shown("Endpoints", "string", endpoints), AGE];

/// At most three, then how many more there are.
fn up_to_three(all: Vec<String>) -> Found {
    match all.len() {
        0 => None,
        1..=3 => Some(all.join(",").into()),
        more => Some(format!("{} + {} more...", all[..3].join(","), more - 3).into()),
    }
}

fn endpoints(object: &Value, _: Timestamp) -> Found {
    let mut all = Vec::new();
    for subset in list(object, "/subsets") {
        let ports = list(subset, "/ports");
        for address in list(subset, "/addresses") {
            let ip = field::text(address, "/ip");
            if ports.is_empty() {
                all.push(ip.to_owned());
            }
            all.extend(ports.iter().map(|port| format!("{ip}:{}", number(port, "/port"))));
        }
    }
    up_to_three(all)
}

/// EndpointSlices.
pub(in crate::builtin) const ENDPOINT_SLICES: &[Column] = &[
    shown("AddressType", "string", |object, _| Some(field::text(object, "/addressType").into())),
    shown("Ports", "string", |object, _| {
        let port = |port: &Value| match port.get("port").and_then(Value::as_i64) {
            Some(number) => number.to_string(),
            None => "*".to_owned(),
        };
        Some(up_to_three(list(object, "/ports").iter().map(port).collect()).unwrap_or("<unset>".into()))
    }),
    shown("Endpoints", "string", |object, _| {
        let first = list(object, "/endpoints").iter().flat_map(|endpoint| list(endpoint, "/addresses"));
        let all = first.filter_map(Value::as_str).map(str::to_owned).collect();
        Some(up_to_three(all).unwrap_or("<unset>".into()))
    }),
    AGE,
];

/// PersistentVolumes.
pub(in crate::builtin) const PERSISTENT_VOLUMES: &[Column] = &[
    shown("Capacity", "string", |object, _| Some(quantity(object, "/spec/capacity/storage").into())),
    shown("Access Modes", "string", |object, _| Some(access_modes(list(object, "/spec/accessModes")).into())),
    shown("Reclaim Policy", "string", |object, _| {
        Some(field::text(object, "/spec/persistentVolumeReclaimPolicy").into())
    }),
    shown("Status", "string", |object, _| {
        Some(
            if object::is_deleting(object) { "Terminating" } else { field::text(object, "/status/phase") }
                .into(),
        )
    }),
    shown("Claim", "string", |object, _| {
        let claim = object.pointer("/spec/claimRef").filter(|claim| !claim.is_null());
        let named =
            |claim: &Value| format!("{}/{}", field::text(claim, "/namespace"), field::text(claim, "/name"));
        Some(claim.map(named).unwrap_or_default().into())
    }),
    shown("StorageClass", "string", |object, _| Some(storage_class(object).into())),
    shown("VolumeAttributesClass", "string", |object, _| Some(attributes_class(object).into())),
    shown("Reason", "string", |object, _| Some(field::text(object, "/status/reason").into())),
    AGE,
    wide("VolumeMode", "string", |object, _| Some(volume_mode(object).into())),
];

fn quantity(object: &Value, pointer: &str) -> String {
    match object.pointer(pointer) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Number(number)) => number.to_string(),
        _ => String::new(),
    }
}

fn storage_class(object: &Value) -> &str {
    match field::text(object, "/metadata/annotations/volume.beta.kubernetes.io~1storage-class") {
        "" => field::text(object, "/spec/storageClassName"),
        beta => beta,
    }
}

fn attributes_class(object: &Value) -> &str {
    match field::text(object, "/spec/volumeAttributesClassName") {
        "" => "<unset>",
        class => class,
    }
}

fn volume_mode(object: &Value) -> &str {
    match field::text(object, "/spec/volumeMode") {
        "" => "<unset>",
        mode => mode,
    }
}

/// PersistentVolumeClaims.
pub(in crate::builtin) const PERSISTENT_VOLUME_CLAIMS: &[Column] = &[
    shown("Status", "string", |object, _| {
        Some(
            if object::is_deleting(object) { "Terminating" } else { field::text(object, "/status/phase") }
                .into(),
        )
    }),
    shown("Volume", "string", |object, _| Some(field::text(object, "/spec/volumeName").into())),
    shown("Capacity", "string", |object, _| {
        let bound = !field::text(object, "/spec/volumeName").is_empty();
        Some(if bound { quantity(object, "/status/capacity/storage") } else { String::new() }.into())
    }),
    shown("Access Modes", "string", |object, _| {
        let bound = !field::text(object, "/spec/volumeName").is_empty();
        Some(if bound { access_modes(list(object, "/status/accessModes")) } else { String::new() }.into())
    }),
    shown("StorageClass", "string", |object, _| Some(storage_class(object).into())),
    shown("VolumeAttributesClass", "string", |object, _| Some(attributes_class(object).into())),
    AGE,
    wide("VolumeMode", "string", |object, _| Some(volume_mode(object).into())),
];

/// StorageClasses. The NAME says which one is the default.
pub(in crate::builtin) const STORAGE_CLASSES: &[Column] = &[
    shown("Name", "string", |object, _| {
        let default =
            ["storageclass.kubernetes.io", "storageclass.beta.kubernetes.io"].iter().any(|domain| {
                field::text(object, &format!("/metadata/annotations/{domain}~1is-default-class")) == "true"
            });
        Some(format!("{}{}", object::name(object), if default { " (default)" } else { "" }).into())
    }),
    shown("Provisioner", "string", |object, _| Some(field::text(object, "/provisioner").into())),
    shown("ReclaimPolicy", "string", |object, _| Some(or(field::text(object, "/reclaimPolicy"), "Delete"))),
    shown("VolumeBindingMode", "string", |object, _| {
        Some(or(field::text(object, "/volumeBindingMode"), "<unset>"))
    }),
    shown("AllowVolumeExpansion", "boolean", |object, _| Some(flag(object, "/allowVolumeExpansion").into())),
    AGE,
];

fn or(found: &str, otherwise: &str) -> Value {
    if found.is_empty() { otherwise } else { found }.into()
}

/// CSIDrivers.
pub(in crate::builtin) const CSI_DRIVERS: &[Column] = &[
    shown("AttachRequired", "boolean", |object, _| {
        Some(object.pointer("/spec/attachRequired").and_then(Value::as_bool).unwrap_or(true).into())
    }),
    shown("PodInfoOnMount", "boolean", |object, _| Some(flag(object, "/spec/podInfoOnMount").into())),
    shown("StorageCapacity", "boolean", |object, _| Some(flag(object, "/spec/storageCapacity").into())),
    shown("TokenRequests", "string", |object, _| {
        let audiences: Vec<_> = list(object, "/spec/tokenRequests")
            .iter()
            .map(|request| field::text(request, "/audience"))
            .collect();
        Some(joined(audiences).unwrap_or("<unset>".into()))
    }),
    shown("RequiresRepublish", "boolean", |object, _| Some(flag(object, "/spec/requiresRepublish").into())),
    shown("Modes", "string", |object, _| {
        joined(list(object, "/spec/volumeLifecycleModes").iter().filter_map(Value::as_str))
    }),
    AGE,
];

/// PriorityClasses.
pub(in crate::builtin) const PRIORITY_CLASSES: &[Column] = &[
    shown("Value", "integer", |object, _| Some(number(object, "/value").into())),
    shown("Global-Default", "boolean", |object, _| Some(flag(object, "/globalDefault").into())),
    AGE,
    shown("PreemptionPolicy", "string", |object, _| Some(field::text(object, "/preemptionPolicy").into())),
];

/// Leases.
pub(in crate::builtin) const LEASES: &[Column] =
    &[shown("Holder", "string", |object, _| Some(field::text(object, "/spec/holderIdentity").into())), AGE];

/// Roles and ClusterRoles, LimitRanges.
pub(in crate::builtin) const CREATED: &[Column] = &[CREATED_AT];

/// RoleBindings and ClusterRoleBindings.
pub(in crate::builtin) const BINDINGS: &[Column] = &[
    shown("Role", "string", |object, _| {
        let (kind, name) = (field::text(object, "/roleRef/kind"), field::text(object, "/roleRef/name"));
        Some(format!("{kind}/{name}").into())
    }),
    AGE,
    wide("Users", "string", |object, _| subjects(object, "User")),
    wide("Groups", "string", |object, _| subjects(object, "Group")),
    wide("ServiceAccounts", "string", |object, _| subjects(object, "ServiceAccount")),
];

fn subjects(object: &Value, kind: &str) -> Found {
    let named = list(object, "/subjects")
        .iter()
        .filter(|subject| field::text(subject, "/kind") == kind)
        .map(|subject| match (kind, field::text(subject, "/name")) {
            ("ServiceAccount", name) => format!("{}/{name}", field::text(subject, "/namespace")),
            (_, name) => name.to_owned(),
        })
        .collect::<Vec<_>>();
    Some(named.join(", ").into())
}

/// ResourceQuotas.
pub(in crate::builtin) const RESOURCE_QUOTAS: &[Column] = &[
    shown("Request", "string", |object, _| Some(quota(object, false).into())),
    shown("Limit", "string", |object, _| Some(quota(object, true).into())),
    AGE,
];

fn quota(object: &Value, limits: bool) -> String {
    let mut names: Vec<&String> =
        map(object, "/status/hard").into_iter().flatten().map(|(name, _)| name).collect();
    names.sort();
    let printed: Vec<String> = names
        .into_iter()
        .filter(|name| name.starts_with("limits") == limits)
        .map(|name| {
            let key = name.replace('~', "~0").replace('/', "~1");
            let used = quantity(object, &format!("/status/used/{key}"));
            format!("{name}: {used}/{}", quantity(object, &format!("/status/hard/{key}")))
        })
        .collect();
    printed.join(", ")
}

/// Core Events, which show their name last.
pub(in crate::builtin) const EVENTS: &[Column] = &[
    shown("Last Seen", "string", |event, now| Some(last_seen(event, now).into())),
    shown("Type", "string", |event, _| Some(field::text(event, "/type").into())),
    shown("Reason", "string", |event, _| Some(field::text(event, "/reason").into())),
    shown("Object", "string", |event, _| Some(event_object(event).into())),
    wide("Subobject", "string", |event, _| {
        Some(either(event, "/involvedObject/fieldPath", "/regarding/fieldPath").into())
    }),
    wide("Source", "string", |event, _| Some(event_source(event).into())),
    shown("Message", "string", |event, _| Some(either(event, "/message", "/note").trim().into())),
    wide("First Seen", "string", |event, now| Some(first_seen(event, now).into())),
    wide("Count", "string", |event, _| Some(event_count(event).into())),
    wide("Name", "string", |event, _| Some(object::name(event).into())),
];

/// The same cell of a core Event and of one of events.k8s.io.
fn either<'a>(event: &'a Value, core: &str, other: &str) -> &'a str {
    match field::text(event, core) {
        "" => field::text(event, other),
        found => found,
    }
}

fn first_seen(event: &Value, now: Timestamp) -> String {
    let first = either(event, "/firstTimestamp", "/deprecatedFirstTimestamp");
    table::age(if first.is_empty() { field::text(event, "/eventTime") } else { first }, now)
}

fn last_seen(event: &Value, now: Timestamp) -> String {
    let series = field::text(event, "/series/lastObservedTime");
    if !series.is_empty() {
        return table::age(series, now);
    }
    match either(event, "/lastTimestamp", "/deprecatedLastTimestamp") {
        "" => first_seen(event, now),
        last => table::age(last, now),
    }
}

fn event_count(event: &Value) -> i64 {
    let found = ["/series/count", "/count", "/deprecatedCount"]
        .iter()
        .map(|pointer| number(event, pointer))
        .find(|count| *count != 0);
    found.unwrap_or(1)
}

fn event_object(event: &Value) -> String {
    let kind = either(event, "/involvedObject/kind", "/regarding/kind").to_lowercase();
    let name = either(event, "/involvedObject/name", "/regarding/name");
    if kind.is_empty() { name.to_owned() } else { format!("{kind}/{name}") }
}

fn event_source(event: &Value) -> String {
    let component = match either(event, "/source/component", "/deprecatedSource/component") {
        "" => either(event, "/reportingComponent", "/reportingController"),
        component => component,
    };
    let host = match either(event, "/source/host", "/deprecatedSource/host") {
        "" => field::text(event, "/reportingInstance"),
        host => host,
    };
    if host.is_empty() || component.is_empty() {
        component.to_owned()
    } else {
        format!("{component}, {host}")
    }
}
