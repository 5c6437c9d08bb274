//! The objects that a KubeVirt installation brings, and its roles.

pub mod components;

use apiserver::rbac::aggregate_label;
use serde_json::{Map, Value, json};

use super::kinds::plurals_of;
use super::resource_metrics;

/// What whoever looks at the operator is to know.
const OPERATOR_DESCRIPTION: &str = "This part of KubeVirt is in the process `ferrovirt serve`, which counts as its one \
     replica. It has no Pod, and changes of this Deployment have no effect.";

/// Objects that are there from the start: the namespace, the installation, and the roles for users.
pub fn objects(version: &str) -> Vec<Value> {
    let mut objects = vec![
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {
            "name": "kubevirt", "labels": {"kubevirt.io": ""},
        }}),
        json!({
            "apiVersion": "kubevirt.io/v1", "kind": "KubeVirt",
            "metadata": {"name": "kubevirt", "namespace": "kubevirt"},
            "spec": {
                "certificateRotateStrategy": {},
                "configuration": {"developerConfiguration": {}},
                "customizeComponents": {},
                "imagePullPolicy": "IfNotPresent",
                "workloadUpdateStrategy": {},
            },
            "status": {
                "phase": "Deployed",
                "operatorVersion": version,
                "observedKubeVirtVersion": version,
                "targetKubeVirtVersion": version,
                "conditions": [
                    condition("Available", "True", "AllComponentsReady", "All components are ready."),
                    condition("Progressing", "False", "AllComponentsReady", "All components are ready."),
                    condition("Degraded", "False", "AllComponentsReady", "All components are ready."),
                    condition("Created", "True", "AllResourcesCreated", "All resources were created."),
                ],
            },
        }),
    ];
    objects.push(operator());
    objects.extend(roles());
    objects.push(resource_metrics::role());
    objects.extend(components::objects());
    objects
}

/// KubeVirt's operator, the Deployment that its tools wait for before they use an installation. What it would do is done
/// by this program, which serves as long as anybody can ask.
fn operator() -> Value {
    let name = "virt-operator";
    let labels = json!({"kubevirt.io": name});
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {
            "name": name, "namespace": components::NAMESPACE, "labels": labels,
            "annotations": {"kubernetes.io/description": OPERATOR_DESCRIPTION},
        },
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": [
                    {"name": name, "image": format!("ferrovirt/serve:{}", env!("CARGO_PKG_VERSION"))},
                ]},
            },
        },
        "status": {
            "observedGeneration": 1,
            "replicas": 1,
            "updatedReplicas": 1,
            "readyReplicas": 1,
            "availableReplicas": 1,
            "conditions": [condition(
                "Available", "True", "MinimumReplicasAvailable", "Deployment has minimum availability.",
            )],
        },
    })
}

fn condition(kind: &str, status: &str, reason: &str, message: &str) -> Value {
    json!({"type": kind, "status": status, "reason": reason, "message": message})
}

/// Everything that a user who owns machines does to their running instances.
const INSTANCE_ACTIONS: [&str; 14] = [
    "pause",
    "unpause",
    "addvolume",
    "removevolume",
    "freeze",
    "unfreeze",
    "reset",
    "softreboot",
    "sev/setupsession",
    "sev/injectlaunchsecret",
    "usbredir",
    "evacuate/cancel",
    "objectgraph",
    "backup",
];

/// What can be looked at in a running instance.
const INSTANCE_VIEWS: [&str; 6] = [
    "guestosinfo",
    "filesystemlist",
    "userlist",
    "sev/fetchcertchain",
    "sev/querylaunchmeasurement",
    "vnc/screenshot",
];

/// Streams into a running instance.
const INSTANCE_STREAMS: [&str; 3] = ["console", "vnc", "portforward"];

/// KubeVirt's roles for users, which add to Kubernetes' own roles of the same levels.
fn roles() -> Vec<Value> {
    let below = |resource: &str, names: &[&str]| -> Vec<String> {
        names.iter().map(|name| format!("{resource}/{name}")).collect()
    };
    let instance_write = [INSTANCE_STREAMS.as_slice(), &INSTANCE_ACTIONS].concat();
    let machine_actions =
        ["start", "stop", "restart", "addvolume", "removevolume", "memorydump", "portforward"];
    let subresources = "subresources.kubevirt.io";
    let view_rules = |verbs: &[&str]| -> Vec<Value> {
        let mut rules: Vec<_> = [
            "kubevirt.io",
            "snapshot.kubevirt.io",
            "export.kubevirt.io",
            "clone.kubevirt.io",
            "instancetype.kubevirt.io",
            "pool.kubevirt.io",
            "backup.kubevirt.io",
        ]
        .iter()
        .map(|group| {
            let resources: Vec<_> = plurals_of(group);
            json!({"apiGroups": [group], "resources": resources, "verbs": verbs})
        })
        .collect();
        rules.push(json!({
            "apiGroups": [subresources],
            "resources": below("virtualmachineinstances", &INSTANCE_VIEWS),
            "verbs": ["get"],
        }));
        rules.push(json!({
            "apiGroups": [subresources],
            "resources": ["virtualmachines/expand-spec", "virtualmachines/objectgraph"],
            "verbs": ["get"],
        }));
        rules
    };
    let write_rules = |verbs: &[&str]| {
        let mut rules = view_rules(verbs);
        rules.push(json!({
            "apiGroups": [subresources],
            "resources": below("virtualmachineinstances", &instance_write),
            "verbs": ["get", "update"],
        }));
        rules.push(json!({
            "apiGroups": [subresources],
            "resources": below("virtualmachines", &machine_actions),
            "verbs": ["get", "update"],
        }));
        rules
            .push(json!({"apiGroups": [subresources], "resources": ["expand-vm-spec"], "verbs": ["update"]}));
        rules
    };
    let read = ["get", "list", "watch"];
    let edit = ["get", "delete", "create", "update", "patch", "list", "watch"];
    let admin = ["get", "delete", "create", "update", "patch", "list", "watch", "deletecollection"];
    let role = |level: &str, rules: Vec<Value>| {
        let mut labels = Map::new();
        labels.insert("kubevirt.io".to_owned(), json!(""));
        labels.insert(aggregate_label(level), json!("true"));
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
            "metadata": {"name": format!("kubevirt.io:{level}"), "labels": labels},
            "rules": rules,
        })
    };
    vec![
        role("admin", write_rules(&admin)),
        role("edit", write_rules(&edit)),
        role("view", view_rules(&read)),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
            "metadata": {"name": "kubevirt.io:default", "labels": {"kubevirt.io": ""}},
            "rules": [
                {"apiGroups": [subresources], "resources": ["version", "guestfs"], "verbs": ["get", "list"]},
            ],
        }),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
            "metadata": {"name": "kubevirt.io:default", "labels": {"kubevirt.io": ""}},
            "roleRef": {
                "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "kubevirt.io:default",
            },
            "subjects": [
                {"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "system:authenticated"},
            ],
        }),
    ]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn viewers_see_and_do_not_touch() {
        let objects = objects("v1.0");
        let role = |name: &str| objects.iter().find(|object| object["metadata"]["name"] == name).unwrap();
        for rule in role("kubevirt.io:view")["rules"].as_array().unwrap() {
            for verb in rule["verbs"].as_array().unwrap() {
                assert!(["get", "list", "watch"].contains(&verb.as_str().unwrap()), "{rule}");
            }
        }
        let may_stop = role("kubevirt.io:edit")["rules"]
            .as_array()
            .unwrap()
            .iter()
            .any(|rule| rule["resources"].as_array().unwrap().contains(&json!("virtualmachines/stop")));
        assert!(may_stop);
    }
}
