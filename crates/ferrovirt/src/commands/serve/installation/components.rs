//! What the parts of the program may do that are clients of its API: accounts, and roles with exactly what each part asks
//! for.
//!
//! ```text
//!  system:serviceaccount:kubevirt:kubevirt-controller   machines, instances, their Pods
//!  system:serviceaccount:kubevirt:kubevirt-apiserver    the subresources of machines
//!  system:node:NAME (system:nodes)                      Pods that are bound, the Node, its Lease
//! ```

use serde_json::{Value, json};

/// Namespace of the accounts.
pub const NAMESPACE: &str = "kubevirt";
/// The account of the controllers.
pub const CONTROLLER: &str = "kubevirt-controller";
/// The account that answers the subresources of machines.
pub const API: &str = "kubevirt-apiserver";

const RBAC: &str = "rbac.authorization.k8s.io";
/// The role of nodes.
const NODE: &str = "ferrovirt:node";
const READ: &[&str] = &["get", "list", "watch"];
const CHANGE: &[&str] = &["update", "patch"];
/// A repeated event is found by its name, and counted up.
const EVENTS: &[&str] = &["create", "get", "patch", "update"];

/// The accounts, their roles, and the bindings between them.
pub fn objects() -> Vec<Value> {
    let account = |name: &str| json!({"kind": "ServiceAccount", "name": name, "namespace": NAMESPACE});
    let nodes = json!({"apiGroup": RBAC, "kind": "Group", "name": "system:nodes"});
    let lease = "kube-node-lease";
    let mut objects: Vec<_> = [CONTROLLER, API]
        .iter()
        .map(|name| {
            json!({
                "apiVersion": "v1", "kind": "ServiceAccount",
                "metadata": {"name": name, "namespace": NAMESPACE, "labels": {"kubevirt.io": ""}},
            })
        })
        .collect();
    objects.extend([
        role(CONTROLLER, "", &controller()),
        binding(CONTROLLER, "", account(CONTROLLER)),
        role(API, "", &api()),
        binding(API, "", account(API)),
        role(NODE, "", &node()),
        binding(NODE, "", nodes.clone()),
        role(NODE, lease, &[rule("coordination.k8s.io", &["leases"], &[&["create", "get"], CHANGE])]),
        binding(NODE, lease, nodes),
    ]);
    objects
}

fn controller() -> Vec<Value> {
    let instances =
        ["virtualmachineinstances", "virtualmachineinstances/status", "virtualmachineinstances/finalizers"];
    let machines = ["virtualmachines", "virtualmachines/status", "virtualmachines/finalizers"];
    vec![
        rule("kubevirt.io", &machines, &[READ, CHANGE]),
        rule("kubevirt.io", &instances, &[READ, CHANGE, &["create", "delete"]]),
        rule("", &["pods"], &[READ, CHANGE, &["create", "delete"]]),
        // The readiness gate of a Pod whose machine is paused.
        rule("", &["pods/status"], &[&["get"], CHANGE]),
        rule("", &["events"], &[EVENTS]),
        rule("events.k8s.io", &["events"], &[EVENTS]),
        rule("", &["nodes"], &[READ]),
        rule("apps", &["controllerrevisions"], &[READ, CHANGE, &["create", "delete"]]),
    ]
}

fn api() -> Vec<Value> {
    vec![
        rule("kubevirt.io", &["virtualmachines", "virtualmachines/status"], &[&["get", "patch"]]),
        rule("kubevirt.io", &["virtualmachineinstances"], &[&["get", "patch"]]),
        rule("kubevirt.io", &["kubevirts"], &[&["get"]]),
        // Where a launcher is asked, and whether a node is to be left.
        rule("", &["pods", "nodes"], &[&["get"]]),
        rule("", &["events"], &[EVENTS]),
        rule("events.k8s.io", &["events"], &[EVENTS]),
    ]
}

fn node() -> Vec<Value> {
    vec![
        rule("", &["pods"], &[READ, &["delete", "patch"]]),
        rule("", &["pods/status"], &[&["get"], CHANGE]),
        rule("", &["pods/binding"], &[&["create"]]),
        rule("", &["nodes", "nodes/status"], &[READ, CHANGE, &["create"]]),
        // Only those that a Pod names; a kubelet does not list them.
        rule("", &["secrets"], &[&["get"]]),
        rule("", &["events"], &[EVENTS]),
        rule("events.k8s.io", &["events"], &[EVENTS]),
    ]
}

fn rule(group: &str, resources: &[&str], verbs: &[&[&str]]) -> Value {
    json!({"apiGroups": [group], "resources": resources, "verbs": verbs.concat()})
}

fn metadata(name: &str, namespace: &str) -> Value {
    let mut metadata = json!({
        "name": name,
        "labels": {"kubevirt.io": ""},
        "annotations": {"rbac.authorization.kubernetes.io/autoupdate": "true"},
    });
    if !namespace.is_empty() {
        metadata["namespace"] = namespace.into();
    }
    metadata
}

/// A role for the whole cluster, or in a namespace where there is one.
fn role(name: &str, namespace: &str, rules: &[Value]) -> Value {
    let kind = if namespace.is_empty() { "ClusterRole" } else { "Role" };
    json!({
        "apiVersion": format!("{RBAC}/v1"), "kind": kind, "metadata": metadata(name, namespace), "rules": rules,
    })
}

/// A binding to the role of the same name and place.
fn binding(name: &str, namespace: &str, subject: Value) -> Value {
    let role = if namespace.is_empty() { "ClusterRole" } else { "Role" };
    json!({
        "apiVersion": format!("{RBAC}/v1"), "kind": format!("{role}Binding"), "metadata": metadata(name, namespace),
        "roleRef": {"apiGroup": RBAC, "kind": role, "name": name}, "subjects": [subject],
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    /// The verbs that a role grants on a resource.
    fn granted(role: &str, resource: &str) -> Vec<String> {
        let objects = objects();
        let roles = objects.iter().filter(|object| object["metadata"]["name"] == role);
        let mut verbs: Vec<_> = roles
            .filter_map(|role| role["rules"].as_array())
            .flatten()
            .filter(|rule| rule["resources"].as_array().unwrap().contains(&resource.into()))
            .flat_map(|rule| rule["verbs"].as_array().unwrap())
            .map(|verb| verb.as_str().unwrap().to_owned())
            .collect();
        verbs.sort();
        verbs.dedup();
        verbs
    }

    #[test]
    fn secrets_are_read_by_nodes_alone_and_one_by_one() {
        assert_eq!(granted(NODE, "secrets"), ["get"]);
        assert_eq!(granted(CONTROLLER, "secrets"), Vec::<String>::new());
        assert_eq!(granted(API, "secrets"), Vec::<String>::new());
    }

    #[test]
    fn each_part_may_do_what_it_does() {
        assert_eq!(granted(NODE, "pods/binding"), ["create"]);
        assert_eq!(granted(NODE, "pods"), ["delete", "get", "list", "patch", "watch"]);
        assert_eq!(granted(NODE, "leases"), ["create", "get", "patch", "update"]);
        assert_eq!(granted(CONTROLLER, "leases"), Vec::<String>::new());
        assert_eq!(granted(CONTROLLER, "pods/binding"), Vec::<String>::new());
        assert_eq!(granted(API, "virtualmachines"), ["get", "patch"]);
        // Nobody may do everything.
        for object in objects() {
            assert!(!object.to_string().contains("\"*\""), "{object}");
        }
    }
}
