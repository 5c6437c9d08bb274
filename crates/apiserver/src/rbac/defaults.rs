//! The roles and bindings that every cluster has.
//!
//! Facts of k8s.io/kubernetes `plugin/pkg/auth/authorizer/rbac/bootstrappolicy/policy.go` (1.32), for the groups that are
//! served here.

use serde_json::{Value, json};

use super::{CLUSTER_ROLE, GROUP};

const READ: &[&str] = &["get", "list", "watch"];
const WRITE: &[&str] = &["create", "update", "patch", "delete", "deletecollection"];
const READ_WRITE: &[&str] =
    &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
const CREATE: &[&str] = &["create"];
const GET: &[&str] = &["get"];

/// Kubernetes' default ClusterRoles and ClusterRoleBindings, to be brought in by [`super::reconcile`] at each start.
///
/// `admin`, `edit` and `view` have no rules of their own: they are made of the roles with the label
/// `rbac.authorization.k8s.io/aggregate-to-NAME: "true"` ([`super::aggregate`]).
pub fn default_objects() -> Vec<Value> {
    let mut objects = vec![
        role("cluster-admin", &[], &[rule(&["*"], "*", &["*"]), paths(&["*"], &["*"])]),
        aggregated("admin", None),
        aggregated("edit", Some("admin")),
        aggregated("view", Some("edit")),
        role("system:aggregate-to-admin", &["admin"], &admin()),
        role("system:aggregate-to-edit", &["edit"], &edit()),
        role("system:aggregate-to-view", &["view"], &view()),
        role("system:discovery", &[], &[paths(GET, DISCOVERY)]),
        role("system:public-info-viewer", &[], &[paths(GET, PUBLIC)]),
        role("system:monitoring", &[], &[paths(GET, MONITORING)]),
        role(
            "system:basic-user",
            &[],
            &[
                rule(
                    CREATE,
                    "authorization.k8s.io",
                    &["selfsubjectaccessreviews", "selfsubjectrulesreviews"],
                ),
                rule(CREATE, "authentication.k8s.io", &["selfsubjectreviews"]),
            ],
        ),
        role(
            "system:auth-delegator",
            &[],
            &[
                rule(CREATE, "authentication.k8s.io", &["tokenreviews"]),
                rule(CREATE, "authorization.k8s.io", &["subjectaccessreviews"]),
            ],
        ),
    ];
    objects.extend([
        binding("cluster-admin", &["system:masters"]),
        binding("system:discovery", &["system:authenticated"]),
        binding("system:basic-user", &["system:authenticated"]),
        binding("system:public-info-viewer", &["system:authenticated", "system:unauthenticated"]),
        binding("system:monitoring", &["system:monitoring"]),
    ]);
    objects
}

const DISCOVERY: &[&str] = &[
    "/api",
    "/api/*",
    "/apis",
    "/apis/*",
    "/healthz",
    "/livez",
    "/openapi",
    "/openapi/*",
    "/readyz",
    "/version",
    "/version/",
];
const PUBLIC: &[&str] = &["/healthz", "/livez", "/readyz", "/version", "/version/"];
const MONITORING: &[&str] =
    &["/healthz", "/healthz/*", "/livez", "/livez/*", "/metrics", "/metrics/slis", "/readyz", "/readyz/*"];

fn admin() -> Vec<Value> {
    vec![
        rule(CREATE, "authorization.k8s.io", &["localsubjectaccessreviews"]),
        rule(READ_WRITE, GROUP, &["roles", "rolebindings"]),
    ]
}

fn edit() -> Vec<Value> {
    let attached = ["pods/attach", "pods/proxy", "pods/exec", "pods/portforward"];
    vec![
        rule(READ, "", &[&attached[..], &["secrets", "services/proxy"]].concat()),
        rule(&["impersonate"], "", &["serviceaccounts"]),
        rule(WRITE, "", &[&["pods"], &attached[..]].concat()),
        rule(CREATE, "", &["pods/eviction"]),
        rule(
            WRITE,
            "",
            &[
                "replicationcontrollers",
                "replicationcontrollers/scale",
                "serviceaccounts",
                "services",
                "services/proxy",
                "persistentvolumeclaims",
                "configmaps",
                "secrets",
                "events",
            ],
        ),
        rule(CREATE, "", &["serviceaccounts/token"]),
        rule(
            WRITE,
            "apps",
            &[
                "statefulsets",
                "statefulsets/scale",
                "daemonsets",
                "deployments",
                "deployments/scale",
                "deployments/rollback",
                "replicasets",
                "replicasets/scale",
            ],
        ),
        rule(WRITE, "autoscaling", &["horizontalpodautoscalers"]),
        rule(WRITE, "batch", &["cronjobs", "jobs"]),
        rule(WRITE, "networking.k8s.io", &["ingresses", "networkpolicies"]),
        rule(WRITE, "policy", &["poddisruptionbudgets"]),
        rule(READ_WRITE, "coordination.k8s.io", &["leases"]),
    ]
}

fn view() -> Vec<Value> {
    vec![
        rule(
            READ,
            "",
            &[
                "pods",
                "replicationcontrollers",
                "replicationcontrollers/scale",
                "serviceaccounts",
                "services",
                "services/status",
                "endpoints",
                "persistentvolumeclaims",
                "persistentvolumeclaims/status",
                "configmaps",
            ],
        ),
        rule(
            READ,
            "",
            &[
                "limitranges",
                "resourcequotas",
                "bindings",
                "events",
                "pods/status",
                "resourcequotas/status",
                "namespaces/status",
                "replicationcontrollers/status",
                "pods/log",
            ],
        ),
        rule(READ, "", &["namespaces"]),
        rule(READ, "discovery.k8s.io", &["endpointslices"]),
        rule(
            READ,
            "apps",
            &[
                "controllerrevisions",
                "statefulsets",
                "statefulsets/status",
                "statefulsets/scale",
                "daemonsets",
                "daemonsets/status",
                "deployments",
                "deployments/status",
                "deployments/scale",
                "replicasets",
                "replicasets/status",
                "replicasets/scale",
            ],
        ),
        rule(READ, "autoscaling", &["horizontalpodautoscalers", "horizontalpodautoscalers/status"]),
        rule(READ, "batch", &["cronjobs", "cronjobs/status", "jobs", "jobs/status"]),
        rule(READ, "networking.k8s.io", &["ingresses", "ingresses/status", "networkpolicies"]),
        rule(READ, "policy", &["poddisruptionbudgets", "poddisruptionbudgets/status"]),
    ]
}

fn rule(verbs: &[&str], group: &str, resources: &[&str]) -> Value {
    json!({ "verbs": verbs, "apiGroups": [group], "resources": resources })
}

fn paths(verbs: &[&str], urls: &[&str]) -> Value {
    json!({ "verbs": verbs, "nonResourceURLs": urls })
}

/// The label of a ClusterRole whose rules that of the name `to` (`admin`, `edit`, `view`) has too ([`super::aggregate`]).
pub fn aggregate_label(to: &str) -> String {
    format!("{GROUP}/aggregate-to-{to}")
}

fn metadata(name: &str, aggregates_to: &[&str]) -> Value {
    let mut labels = json!({ "kubernetes.io/bootstrapping": "rbac-defaults" });
    for to in aggregates_to {
        labels[aggregate_label(to)] = "true".into();
    }
    json!({
        "name": name,
        "annotations": { "rbac.authorization.kubernetes.io/autoupdate": "true" },
        "labels": labels,
    })
}

fn role(name: &str, aggregates_to: &[&str], rules: &[Value]) -> Value {
    json!({
        "apiVersion": format!("{GROUP}/v1"),
        "kind": CLUSTER_ROLE,
        "metadata": metadata(name, aggregates_to),
        "rules": rules,
    })
}

/// A role that is made of those that aggregate to it, and itself aggregates to another.
fn aggregated(name: &str, to: Option<&str>) -> Value {
    let mut role = role(name, &Vec::from_iter(to), &[]);
    let mut labels = serde_json::Map::new();
    labels.insert(aggregate_label(name), "true".into());
    role["aggregationRule"] = json!({ "clusterRoleSelectors": [{ "matchLabels": labels }] });
    role
}

/// A binding to the role of the same name.
fn binding(name: &str, groups: &[&str]) -> Value {
    let subjects = groups.iter().map(|group| json!({ "apiGroup": GROUP, "kind": "Group", "name": group }));
    json!({
        "apiVersion": format!("{GROUP}/v1"),
        "kind": "ClusterRoleBinding",
        "metadata": metadata(name, &[]),
        "roleRef": { "apiGroup": GROUP, "kind": CLUSTER_ROLE, "name": name },
        "subjects": Value::Array(subjects.collect()),
    })
}
