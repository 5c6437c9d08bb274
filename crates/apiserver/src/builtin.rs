//! The kinds of Kubernetes itself, as data.
//!
//! What is here behaves as Kubernetes' API server does with an object that no controller looks at: it is defaulted,
//! validated, shown in tables and kept. Schemas are k8s-openapi's, read when they are first needed.

mod autoscaler;
mod columns;
mod core;
mod event;
mod facts;
mod networking;
mod pod;
mod pod_update;
mod rules;
pub(crate) mod schema;
mod storage;
mod workload;

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use crate::kind::{
    Column, Family, Generation, Hooks, Kind, Names, Scale, SchemaSource, Scope, SharedStorage, Subresource,
};
use crate::rbac::{BindingHooks, GROUP as RBAC, RoleHooks};
use rules::{Default, Rules, Validate, no_default, no_validate};

/// How long Events are kept after their last change, as `kube-apiserver --event-ttl` has it by default.
const EVENT_TIME_TO_LIVE: Duration = Duration::from_secs(3600);

const REPLICAS: Scale = Scale {
    spec_replicas: ".spec.replicas",
    status_replicas: ".status.replicas",
    label_selector: Some(".spec.selector"),
};

const fn own(name: &'static str, kind: &'static str, verbs: &'static [&'static str]) -> Subresource {
    Subresource { name, group: "", version: "", kind, verbs }
}

const POD_SUBRESOURCES: [Subresource; 3] = [
    own("binding", "Binding", &["create"]),
    Subresource { name: "eviction", group: "policy", version: "v1", kind: "Eviction", verbs: &["create"] },
    own("log", "Pod", &["get"]),
];
const TOKEN: Subresource = Subresource {
    name: "token",
    group: "authentication.k8s.io",
    version: "v1",
    kind: "TokenRequest",
    verbs: &["create"],
};
const FINALIZE: Subresource = own("finalize", "Namespace", &["update"]);

/// What most kinds have in common; the methods say what one has beside that.
struct Built(Kind);

/// A kind with this schema. `resource` is plural and short names, `secrets` or `pods po`.
fn with(
    group: &'static str,
    kind: &'static str,
    resource: &str,
    scope: Scope,
    schema: SchemaSource,
) -> Built {
    let mut words = resource.split(' ');
    let mut names = Names::new(kind, words.next().unwrap_or_default());
    names.short_names = words.map(str::to_owned).collect();
    let mut built = Kind::new(group, &["v1"], names, scope, schema);
    built.family = Family::BuiltIn;
    built.generation = Generation::Unset;
    Built(built)
}

/// `package` is where Kubernetes defines it, `core.v1`.
fn namespaced(package: &str, group: &'static str, kind: &'static str, resource: &str) -> Built {
    with(group, kind, resource, Scope::Namespaced, schema::source(format!("io.k8s.api.{package}.{kind}")))
}

fn cluster(package: &str, group: &'static str, kind: &'static str, resource: &str) -> Built {
    with(group, kind, resource, Scope::Cluster, schema::source(format!("io.k8s.api.{package}.{kind}")))
}

impl Built {
    fn columns(mut self, columns: &[Column]) -> Self {
        self.0.columns = columns.to_vec();
        self
    }

    /// Another version than `v1`.
    fn version(mut self, name: &str) -> Self {
        for version in &mut self.0.versions {
            version.name = name.to_owned();
        }
        self
    }

    fn status(mut self) -> Self {
        self.0.has_status = true;
        self
    }

    fn counted(mut self) -> Self {
        self.0.generation = Generation::Counted;
        self
    }

    fn scale(mut self, scale: Scale) -> Self {
        self.0.scale = Some(scale);
        self
    }

    fn in_all(mut self) -> Self {
        self.0.names.categories.push("all".to_owned());
        self
    }

    fn selectable(mut self, fields: &[(&'static str, &'static str, &'static str)]) -> Self {
        self.0.selectable_fields = fields.to_vec();
        self
    }

    fn subresources(mut self, subresources: &[Subresource]) -> Self {
        self.0.subresources = subresources.to_vec();
        self
    }

    fn hooks(mut self, hooks: impl Hooks + 'static) -> Self {
        self.0.hooks = Arc::new(hooks);
        self
    }

    fn rules(self, default: Default, validate: Validate) -> Self {
        self.hooks(Rules { default, validate })
    }
}

/// Every built-in kind: the core group first, then the others in the order in which Kubernetes' discovery has them.
/// Roles and bindings are checked in their form alone; a server sees to it that nobody grants what they do not have.
pub fn kinds() -> Vec<Kind> {
    let mut all = core_kinds();
    all.extend(workload_kinds());
    all.extend(other_kinds());
    all.into_iter().map(|built| built.0).collect()
}

fn core_kinds() -> Vec<Built> {
    use columns::cluster as table;
    let mut namespace = cluster("core.v1", "", "Namespace", "namespaces ns")
        .status()
        .columns(table::NAMESPACES)
        .selectable(&[("status.phase", "/status/phase", "")])
        .subresources(&[FINALIZE])
        .rules(core::namespace_default, core::namespace_validate);
    namespace.0.verbs = vec!["create", "delete", "get", "list", "patch", "update", "watch"];
    let mut event = namespaced("core.v1", "", "Event", "events ev")
        .columns(table::EVENTS)
        .selectable(event::CORE_FIELDS)
        .rules(event::core_default, event::core_validate);
    event.0.time_to_live = Some(EVENT_TIME_TO_LIVE);
    vec![
        namespaced("core.v1", "", "ConfigMap", "configmaps cm")
            .columns(table::CONFIG_MAPS)
            .rules(no_default, core::config_map_validate),
        namespaced("core.v1", "", "Endpoints", "endpoints ep").columns(table::ENDPOINTS),
        event,
        namespaced("core.v1", "", "LimitRange", "limitranges limits").columns(table::CREATED),
        namespace,
        cluster("core.v1", "", "Node", "nodes no")
            .status()
            .columns(table::NODES)
            .selectable(&[("spec.unschedulable", "/spec/unschedulable", "false")])
            .rules(no_default, core::node_validate),
        namespaced("core.v1", "", "PersistentVolumeClaim", "persistentvolumeclaims pvc")
            .status()
            .columns(table::PERSISTENT_VOLUME_CLAIMS)
            .rules(storage::claim_default, storage::claim_validate),
        cluster("core.v1", "", "PersistentVolume", "persistentvolumes pv")
            .status()
            .columns(table::PERSISTENT_VOLUMES)
            .rules(storage::volume_default, storage::volume_validate),
        namespaced("core.v1", "", "Pod", "pods po")
            .status()
            .counted()
            .in_all()
            .columns(columns::pod::PODS)
            .selectable(pod::FIELDS)
            .subresources(&POD_SUBRESOURCES)
            .rules(pod::pod_default, pod::pod_validate),
        namespaced("core.v1", "", "PodTemplate", "podtemplates")
            .columns(columns::workload::POD_TEMPLATES)
            .counted()
            .rules(workload::pod_template_default, workload::pod_template_validate),
        namespaced("core.v1", "", "ReplicationController", "replicationcontrollers rc")
            .status()
            .counted()
            .in_all()
            .scale(REPLICAS)
            .columns(columns::workload::REPLICATION_CONTROLLERS)
            .selectable(&[("status.replicas", "/status/replicas", "0")])
            .rules(workload::controller_default, workload::controller_validate),
        namespaced("core.v1", "", "ResourceQuota", "resourcequotas quota")
            .status()
            .columns(table::RESOURCE_QUOTAS),
        namespaced("core.v1", "", "Secret", "secrets")
            .columns(table::SECRETS)
            .selectable(&[("type", "/type", "")])
            .rules(core::secret_default, core::secret_validate),
        namespaced("core.v1", "", "ServiceAccount", "serviceaccounts sa")
            .columns(table::SERVICE_ACCOUNTS)
            .subresources(&[TOKEN]),
        namespaced("core.v1", "", "Service", "services svc")
            .status()
            .in_all()
            .columns(table::SERVICES)
            .selectable(&[("spec.clusterIP", "/spec/clusterIP", ""), ("spec.type", "/spec/type", "")])
            .rules(core::service_default, core::service_validate),
    ]
}

fn workload_kinds() -> Vec<Built> {
    use columns::workload as table;
    let mut event = namespaced("events.v1", "events.k8s.io", "Event", "events ev")
        .columns(columns::cluster::EVENTS)
        .selectable(event::NEW_FIELDS)
        .rules(event::new_default, event::new_validate);
    event.0.time_to_live = Some(EVENT_TIME_TO_LIVE);
    event.0.shared_storage = Some(SharedStorage {
        group: "",
        plural: "events",
        api_version: "v1",
        to_stored: event::to_core,
        from_stored: event::from_core,
    });
    let mut old_autoscaler = namespaced(
        "autoscaling.v1",
        "autoscaling",
        "HorizontalPodAutoscaler",
        "horizontalpodautoscalers hpa",
    )
    .status()
    .in_all()
    .columns(table::AUTOSCALERS)
    .rules(autoscaler::old_default, autoscaler::validate);
    old_autoscaler.0.shared_storage = Some(SharedStorage {
        group: "autoscaling",
        plural: "horizontalpodautoscalers",
        api_version: "autoscaling/v2",
        to_stored: autoscaler::to_v2,
        from_stored: autoscaler::to_v1,
    });
    vec![
        namespaced("apps.v1", "apps", "ControllerRevision", "controllerrevisions")
            .columns(table::CONTROLLER_REVISIONS)
            .rules(no_default, workload::revision_validate),
        namespaced("apps.v1", "apps", "DaemonSet", "daemonsets ds")
            .status()
            .counted()
            .in_all()
            .columns(table::DAEMON_SETS)
            .rules(workload::daemon_set_default, workload::set_validate),
        namespaced("apps.v1", "apps", "Deployment", "deployments deploy")
            .status()
            .counted()
            .in_all()
            .scale(REPLICAS)
            .columns(table::DEPLOYMENTS)
            .rules(workload::deployment_default, workload::set_validate),
        namespaced("apps.v1", "apps", "ReplicaSet", "replicasets rs")
            .status()
            .counted()
            .in_all()
            .scale(REPLICAS)
            .columns(table::REPLICA_SETS)
            .selectable(&[("status.replicas", "/status/replicas", "0")])
            .rules(workload::replica_set_default, workload::set_validate),
        namespaced("apps.v1", "apps", "StatefulSet", "statefulsets sts")
            .status()
            .counted()
            .in_all()
            .scale(REPLICAS)
            .columns(table::STATEFUL_SETS)
            .rules(workload::stateful_set_default, workload::stateful_set_validate),
        event,
        namespaced(
            "autoscaling.v2",
            "autoscaling",
            "HorizontalPodAutoscaler",
            "horizontalpodautoscalers hpa",
        )
        .version("v2")
        .status()
        .in_all()
        .columns(table::AUTOSCALERS)
        .rules(autoscaler::default, autoscaler::validate),
        old_autoscaler,
        namespaced("batch.v1", "batch", "CronJob", "cronjobs cj")
            .status()
            .counted()
            .in_all()
            .columns(table::CRON_JOBS)
            .rules(workload::cron_job_default, workload::cron_job_validate),
        namespaced("batch.v1", "batch", "Job", "jobs")
            .status()
            .counted()
            .in_all()
            .columns(table::JOBS)
            .selectable(&[("status.successful", "/status/succeeded", "0")])
            .rules(workload::job_default, workload::job_validate),
        cluster("networking.v1", "networking.k8s.io", "IngressClass", "ingressclasses")
            .counted()
            .columns(columns::networking::INGRESS_CLASSES)
            .rules(no_default, networking::class_validate),
        namespaced("networking.v1", "networking.k8s.io", "Ingress", "ingresses ing")
            .status()
            .counted()
            .columns(columns::networking::INGRESSES)
            .rules(no_default, networking::ingress_validate),
        namespaced("networking.v1", "networking.k8s.io", "NetworkPolicy", "networkpolicies netpol")
            .counted()
            .columns(columns::networking::NETWORK_POLICIES)
            .rules(networking::policy_default, networking::policy_validate),
        namespaced("policy.v1", "policy", "PodDisruptionBudget", "poddisruptionbudgets pdb")
            .status()
            .counted()
            .columns(table::POD_DISRUPTION_BUDGETS)
            .rules(no_default, workload::budget_validate),
    ]
}

fn other_kinds() -> Vec<Built> {
    use columns::cluster as table;
    let mut definitions = with(
        "apiextensions.k8s.io",
        "CustomResourceDefinition",
        "customresourcedefinitions crd crds",
        Scope::Cluster,
        schema::free_form(
            "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinition",
            "CustomResourceDefinition represents a resource that should be exposed on the API server.",
        ),
    )
    .status()
    .counted()
    .columns(table::CREATED);
    definitions.0.names.categories.push("api-extensions".to_owned());
    definitions.0.refuses_creation = Some("not supported by this server".to_owned());
    vec![
        cluster("rbac.v1", RBAC, "ClusterRoleBinding", "clusterrolebindings")
            .columns(table::BINDINGS)
            .hooks(BindingHooks { authorizer: None }),
        cluster("rbac.v1", RBAC, "ClusterRole", "clusterroles")
            .columns(table::CREATED)
            .hooks(RoleHooks { authorizer: None }),
        namespaced("rbac.v1", RBAC, "RoleBinding", "rolebindings")
            .columns(table::BINDINGS)
            .hooks(BindingHooks { authorizer: None }),
        namespaced("rbac.v1", RBAC, "Role", "roles")
            .columns(table::CREATED)
            .hooks(RoleHooks { authorizer: None }),
        cluster("storage.v1", "storage.k8s.io", "CSIDriver", "csidrivers")
            .columns(table::CSI_DRIVERS)
            .rules(storage::driver_default, no_validate),
        cluster("storage.v1", "storage.k8s.io", "StorageClass", "storageclasses sc")
            .columns(table::STORAGE_CLASSES)
            .rules(storage::class_default, storage::class_validate),
        definitions,
        cluster("scheduling.v1", "scheduling.k8s.io", "PriorityClass", "priorityclasses pc")
            .counted()
            .columns(table::PRIORITY_CLASSES)
            .rules(core::priority_class_default, core::priority_class_validate),
        namespaced("coordination.v1", "coordination.k8s.io", "Lease", "leases")
            .columns(table::LEASES)
            .rules(no_default, core::lease_validate),
        namespaced("discovery.v1", "discovery.k8s.io", "EndpointSlice", "endpointslices")
            .counted()
            .columns(table::ENDPOINT_SLICES)
            .rules(core::slice_default, core::slice_validate),
    ]
}

/// What a cluster has from its first moment, to be created where it is missing: the namespaces, the two priority
/// classes, and one default storage class called `local`.
pub fn initial_objects() -> Vec<Value> {
    let namespaces = ["default", "kube-node-lease", "kube-public", "kube-system"]
        .map(|name| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}));
    let priority = |name: &str, value: i64, description: &str| {
        json!({
            "apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name},
            "value": value, "description": description, "preemptionPolicy": "PreemptLowerPriority",
        })
    };
    let mut all = namespaces.to_vec();
    all.extend([
        priority(
            "system-cluster-critical",
            2_000_000_000,
            "Used for system critical pods that must run in the cluster, but can be moved to another node if \
             necessary.",
        ),
        priority(
            "system-node-critical",
            2_000_001_000,
            "Used for system critical pods that must not be moved from their current node.",
        ),
        json!({
            "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass",
            "metadata": {"name": "local", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
            "provisioner": "kubernetes.io/no-provisioner", "reclaimPolicy": "Delete",
            "volumeBindingMode": "WaitForFirstConsumer",
        }),
    ]);
    all
}

#[cfg(test)]
mod tests;
