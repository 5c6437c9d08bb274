//! KubeVirt's kinds as data, the objects that a KubeVirt installation brings, and its roles.
//!
//! Names, short names, categories and columns are those of KubeVirt's definitions: clients and scripts match on them.

use std::sync::Arc;

use apiserver::kind::{
    Cell, Column, Family, Generation, Hooks, Kind, Names, NoHooks, Scale, SchemaSource, Scope, Version,
};
use serde_json::{Map, Value, json};

use super::admission::{VirtualMachineHooks, VirtualMachineInstanceHooks};

const GROUP: &str = "kubevirt.io";

/// What creating an object of a kind of KubeVirt's that is not here yet is answered with.
const NOT_SUPPORTED: &str = "not supported by ferrovirt";

/// Every kind of KubeVirt.
pub fn kinds() -> Vec<Kind> {
    let mut kinds = vec![virtual_machine(), virtual_machine_instance(), kubevirt()];
    kinds.extend(OTHERS.iter().map(other));
    kinds
}

const AGE: Column = Column {
    name: "Age",
    column_type: "date",
    description: "When the object was created.",
    priority: 0,
    cell: Cell::JsonPath(".metadata.creationTimestamp"),
};

/// A column of texts.
const fn column(name: &'static str, priority: u8, path: &'static str) -> Column {
    Column { name, column_type: "string", description: "", priority, cell: Cell::JsonPath(path) }
}

fn names(kind: &str, plural: &str, short_names: &[&str]) -> Names {
    Names {
        plural: plural.to_owned(),
        singular: kind.to_lowercase(),
        kind: kind.to_owned(),
        short_names: short_names.iter().map(|name| (*name).to_owned()).collect(),
        categories: vec!["all".to_owned()],
    }
}

fn versions(served: &[&str]) -> Vec<Version> {
    served.iter().map(|name| Version { name: (*name).to_owned(), deprecation_warning: None }).collect()
}

/// `v1`, and the older `v1alpha3` with KubeVirt's warning.
fn kubevirt_versions() -> Vec<Version> {
    let warning = "kubevirt.io/v1alpha3 is now deprecated and will be removed in a future release.";
    vec![
        Version { name: "v1".to_owned(), deprecation_warning: None },
        Version { name: "v1alpha3".to_owned(), deprecation_warning: Some(warning.to_owned()) },
    ]
}

/// A kind of KubeVirt with everything that most of them share.
fn custom(group: &str, names: Names, versions: Vec<Version>, schema: SchemaSource) -> Kind {
    Kind {
        group: group.to_owned(),
        names,
        scope: Scope::Namespaced,
        versions,
        schema,
        family: Family::Custom,
        generation: Generation::Counted,
        has_status: false,
        scale: None,
        columns: Vec::new(),
        selectable_fields: Vec::new(),
        refuses_creation: None,
        verbs: Vec::new(),
        time_to_live: None,
        shared_storage: None,
        hooks: Arc::new(NoHooks),
        subresources: Vec::new(),
    }
}

fn virtual_machine() -> Kind {
    let schema = SchemaSource::new(manifest::openapi::VIRTUAL_MACHINE, manifest::openapi::virtual_machine);
    let hooks: Arc<dyn Hooks> = Arc::new(VirtualMachineHooks);
    Kind {
        has_status: true,
        columns: vec![
            AGE,
            column("Status", 0, ".status.printableStatus"),
            column("Ready", 0, ".status.conditions[?(@.type=='Ready')].status"),
        ],
        hooks,
        ..custom(
            GROUP,
            names("VirtualMachine", "virtualmachines", &["vm", "vms"]),
            kubevirt_versions(),
            schema,
        )
    }
}

/// An instance has no `status` subresource: its controllers write the whole object, and its generation counts their
/// writes too.
fn virtual_machine_instance() -> Kind {
    let schema = SchemaSource::new(
        manifest::openapi::VIRTUAL_MACHINE_INSTANCE,
        manifest::openapi::virtual_machine_instance,
    );
    let hooks: Arc<dyn Hooks> = Arc::new(VirtualMachineInstanceHooks);
    Kind {
        columns: vec![
            AGE,
            column("Phase", 0, ".status.phase"),
            column("IP", 0, ".status.interfaces[0].ipAddress"),
            column("NodeName", 0, ".status.nodeName"),
            column("Ready", 0, ".status.conditions[?(@.type=='Ready')].status"),
            column("Live-Migratable", 1, ".status.conditions[?(@.type=='LiveMigratable')].status"),
            column("Paused", 1, ".status.conditions[?(@.type=='Paused')].status"),
        ],
        hooks,
        ..custom(
            GROUP,
            names("VirtualMachineInstance", "virtualmachineinstances", &["vmi", "vmis"]),
            kubevirt_versions(),
            schema,
        )
    }
}

/// The installation itself. Clients read its status, and its configuration where they are clever.
fn kubevirt() -> Kind {
    Kind {
        has_status: true,
        columns: vec![AGE, column("Phase", 0, ".status.phase")],
        ..custom(
            GROUP,
            names("KubeVirt", "kubevirts", &["kv", "kvs"]),
            kubevirt_versions(),
            open_schema("io.kubevirt.v1.KubeVirt"),
        )
    }
}

/// A schema that leaves `spec` and `status` open.
fn open_schema(definition: &str) -> SchemaSource {
    let name = definition.to_owned();
    SchemaSource::new(definition, move || {
        let open = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
        let mut components = Map::new();
        components.insert(
            name.clone(),
            json!({
                "type": "object",
                "properties": {
                    "apiVersion": {"type": "string"},
                    "kind": {"type": "string"},
                    "metadata": {"type": "object"},
                    "spec": open,
                    "status": open,
                },
            }),
        );
        components
    })
}

/// A kind that lists as empty and cannot be created.
struct Other {
    group: &'static str,
    kind: &'static str,
    plural: &'static str,
    short_names: &'static [&'static str],
    versions: &'static [&'static str],
    scope: Scope,
    has_status: bool,
    has_scale: bool,
    in_all: bool,
    columns: &'static [Column],
}

impl Other {
    const fn new(
        group: &'static str,
        kind: &'static str,
        plural: &'static str,
        versions: &'static [&'static str],
    ) -> Other {
        Other {
            group,
            kind,
            plural,
            short_names: &[],
            versions,
            scope: Scope::Namespaced,
            has_status: true,
            has_scale: false,
            in_all: true,
            columns: &[],
        }
    }
}

const BETA_AND_ALPHA: &[&str] = &["v1beta1", "v1alpha1"];

const OTHERS: &[Other] = &[
    Other {
        short_names: &["vmirs", "vmirss"],
        has_scale: true,
        columns: &[
            column("Desired", 0, ".spec.replicas"),
            column("Current", 0, ".status.replicas"),
            column("Ready", 0, ".status.readyReplicas"),
            AGE,
        ],
        ..Other::new(
            GROUP,
            "VirtualMachineInstanceReplicaSet",
            "virtualmachineinstancereplicasets",
            &["v1", "v1alpha3"],
        )
    },
    Other {
        short_names: &["vmim", "vmims"],
        columns: &[column("Phase", 0, ".status.phase"), column("VMI", 0, ".spec.vmiName")],
        ..Other::new(
            GROUP,
            "VirtualMachineInstanceMigration",
            "virtualmachineinstancemigrations",
            &["v1", "v1alpha3"],
        )
    },
    Other {
        short_names: &["vmipreset", "vmipresets"],
        has_status: false,
        ..Other::new(
            GROUP,
            "VirtualMachineInstancePreset",
            "virtualmachineinstancepresets",
            &["v1", "v1alpha3"],
        )
    },
    Other {
        scope: Scope::Cluster,
        in_all: false,
        ..Other::new("migrations.kubevirt.io", "MigrationPolicy", "migrationpolicies", &["v1alpha1"])
    },
    Other {
        short_names: &["vmpool", "vmpools"],
        has_scale: true,
        columns: &[
            column("Desired", 0, ".spec.replicas"),
            column("Current", 0, ".status.replicas"),
            column("Ready", 0, ".status.readyReplicas"),
            AGE,
        ],
        ..Other::new("pool.kubevirt.io", "VirtualMachinePool", "virtualmachinepools", BETA_AND_ALPHA)
    },
    Other {
        short_names: &["vmsnapshot", "vmsnapshots"],
        columns: &[
            column("SourceKind", 0, ".spec.source.kind"),
            column("SourceName", 0, ".spec.source.name"),
            column("Phase", 0, ".status.phase"),
            column("ReadyToUse", 0, ".status.readyToUse"),
            column("CreationTime", 0, ".status.creationTime"),
            column("Error", 0, ".status.error.message"),
        ],
        ..Other::new(
            "snapshot.kubevirt.io",
            "VirtualMachineSnapshot",
            "virtualmachinesnapshots",
            BETA_AND_ALPHA,
        )
    },
    Other {
        short_names: &["vmsnapshotcontent", "vmsnapshotcontents"],
        columns: &[
            column("ReadyToUse", 0, ".status.readyToUse"),
            column("CreationTime", 0, ".status.creationTime"),
            column("Error", 0, ".status.error.message"),
        ],
        ..Other::new(
            "snapshot.kubevirt.io",
            "VirtualMachineSnapshotContent",
            "virtualmachinesnapshotcontents",
            BETA_AND_ALPHA,
        )
    },
    Other {
        short_names: &["vmrestore", "vmrestores"],
        columns: &[
            column("TargetKind", 0, ".spec.target.kind"),
            column("TargetName", 0, ".spec.target.name"),
            column("Complete", 0, ".status.complete"),
            column("RestoreTime", 0, ".status.restoreTime"),
            column("Error", 0, ".status.conditions[?(@.type=='Progressing')].message"),
        ],
        ..Other::new(
            "snapshot.kubevirt.io",
            "VirtualMachineRestore",
            "virtualmachinerestores",
            BETA_AND_ALPHA,
        )
    },
    Other {
        short_names: &["vmexport", "vmexports"],
        columns: &[
            column("SourceKind", 0, ".spec.source.kind"),
            column("SourceName", 0, ".spec.source.name"),
            column("Phase", 0, ".status.phase"),
        ],
        ..Other::new(
            "export.kubevirt.io",
            "VirtualMachineExport",
            "virtualmachineexports",
            &["v1", "v1beta1"],
        )
    },
    Other {
        short_names: &["vminstancetype", "vminstancetypes", "vmf", "vmfs"],
        has_status: false,
        ..Other::new(
            "instancetype.kubevirt.io",
            "VirtualMachineInstancetype",
            "virtualmachineinstancetypes",
            &["v1beta1"],
        )
    },
    Other {
        short_names: &["vmclusterinstancetype", "vmclusterinstancetypes", "vmcf", "vmcfs"],
        has_status: false,
        scope: Scope::Cluster,
        in_all: false,
        ..Other::new(
            "instancetype.kubevirt.io",
            "VirtualMachineClusterInstancetype",
            "virtualmachineclusterinstancetypes",
            &["v1beta1"],
        )
    },
    Other {
        short_names: &["vmpref", "vmprefs", "vmp", "vmps"],
        has_status: false,
        ..Other::new(
            "instancetype.kubevirt.io",
            "VirtualMachinePreference",
            "virtualmachinepreferences",
            &["v1beta1"],
        )
    },
    Other {
        short_names: &["vmcp", "vmcps"],
        has_status: false,
        scope: Scope::Cluster,
        in_all: false,
        ..Other::new(
            "instancetype.kubevirt.io",
            "VirtualMachineClusterPreference",
            "virtualmachineclusterpreferences",
            &["v1beta1"],
        )
    },
    Other {
        short_names: &["vmclone", "vmclones"],
        columns: &[
            column("Phase", 0, ".status.phase"),
            column("SourceVirtualMachine", 0, ".spec.source.name"),
            column("TargetVirtualMachine", 0, ".spec.target.name"),
        ],
        ..Other::new("clone.kubevirt.io", "VirtualMachineClone", "virtualmachineclones", BETA_AND_ALPHA)
    },
    Other {
        short_names: &["vmbackup", "vmbackups"],
        columns: &[
            column("SourceKind", 0, ".spec.source.kind"),
            column("SourceName", 0, ".spec.source.name"),
            column("Type", 0, ".status.type"),
            column("CheckpointName", 0, ".status.checkpointName"),
        ],
        ..Other::new("backup.kubevirt.io", "VirtualMachineBackup", "virtualmachinebackups", &["v1alpha1"])
    },
    Other {
        short_names: &["vmbackuptracker", "vmbackuptrackers"],
        columns: &[
            column("SourceKind", 0, ".spec.source.kind"),
            column("SourceName", 0, ".spec.source.name"),
            column("LatestCheckpoint", 0, ".status.latestCheckpoint.name"),
            column("CheckpointTime", 0, ".status.latestCheckpoint.creationTime"),
        ],
        ..Other::new(
            "backup.kubevirt.io",
            "VirtualMachineBackupTracker",
            "virtualmachinebackuptrackers",
            &["v1alpha1"],
        )
    },
];

fn other(other: &Other) -> Kind {
    let mut names = names(other.kind, other.plural, other.short_names);
    if !other.in_all {
        names.categories.clear();
    }
    let definition = format!(
        "io.kubevirt{}.{}.{}",
        other.group.strip_suffix(".kubevirt.io").map(|group| format!(".{group}")).unwrap_or_default(),
        other.versions[0],
        other.kind
    );
    Kind {
        scope: other.scope,
        has_status: other.has_status,
        scale: other.has_scale.then_some(Scale {
            spec_replicas: ".spec.replicas",
            status_replicas: ".status.replicas",
            label_selector: Some(".status.labelSelector"),
        }),
        columns: other.columns.to_vec(),
        refuses_creation: Some(NOT_SUPPORTED.to_owned()),
        ..custom(other.group, names, versions(other.versions), open_schema(&definition))
    }
}

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
    objects.extend(roles());
    objects
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
            let resources: Vec<_> = kinds_of(group);
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
        labels.insert(format!("rbac.authorization.k8s.io/aggregate-to-{level}"), json!("true"));
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

/// The plurals of a group that users work with; the installation itself is the administrator's.
fn kinds_of(group: &str) -> Vec<&'static str> {
    let own: &[&str] = if group == GROUP { &["virtualmachines", "virtualmachineinstances"] } else { &[] };
    let others = OTHERS.iter().filter(|other| other.group == group && other.scope == Scope::Namespaced);
    own.iter().copied().chain(others.map(|other| other.plural)).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use apiserver::kind::Kinds;

    use super::*;

    #[test]
    fn no_two_kinds_share_a_name() {
        let mut seen = std::collections::BTreeSet::new();
        for kind in kinds() {
            for name in kind.names.short_names.iter().chain([&kind.names.plural, &kind.names.singular]) {
                assert!(seen.insert((kind.group.clone(), name.clone())), "{name} of {} is taken", kind.group);
            }
        }
    }

    #[test]
    fn machines_are_what_kubevirt_calls_them() {
        let kinds = Kinds::new(kinds());
        let machine = kinds.resource("kubevirt.io", "virtualmachines").unwrap();
        assert_eq!(machine.names.short_names, ["vm", "vms"]);
        assert_eq!(
            machine.columns.iter().map(|column| column.name).collect::<Vec<_>>(),
            ["Age", "Status", "Ready"]
        );
        assert!(machine.has_status);
        let instance = kinds.resource("kubevirt.io", "virtualmachineinstances").unwrap();
        assert!(!instance.has_status);
        assert!(
            kinds.resource("pool.kubevirt.io", "virtualmachinepools").unwrap().refuses_creation.is_some()
        );
    }

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
