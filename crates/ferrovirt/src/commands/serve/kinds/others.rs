//! The kinds of KubeVirt that are not here yet: they list as empty and cannot be created.

use apiserver::kind::{Column, Kind, Scale, Scope};

use super::{AGE, GROUP, KUBEVIRT_VERSIONS, column, custom, open_schema};

/// What creating an object of a kind of KubeVirt's that is not here yet is answered with.
const NOT_SUPPORTED: &str = "not supported by ferrovirt";

/// All of them.
pub(super) fn kinds() -> impl Iterator<Item = Kind> {
    OTHERS.iter().map(other)
}

/// The plurals of a group's kinds that live in namespaces.
pub(super) fn plurals_of(group: &str) -> impl Iterator<Item = &'static str> {
    let known = OTHERS.iter().filter(move |other| other.group == group && other.scope == Scope::Namespaced);
    known.map(|other| other.plural)
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

/// How a set of replicas is shown.
const REPLICAS: &[Column] = &[
    column("Desired", 0, ".spec.replicas"),
    column("Current", 0, ".status.replicas"),
    column("Ready", 0, ".status.readyReplicas"),
    AGE,
];

const OTHERS: &[Other] = &[
    Other {
        short_names: &["vmirs", "vmirss"],
        has_scale: true,
        columns: REPLICAS,
        ..Other::new(
            GROUP,
            "VirtualMachineInstanceReplicaSet",
            "virtualmachineinstancereplicasets",
            KUBEVIRT_VERSIONS,
        )
    },
    Other {
        short_names: &["vmim", "vmims"],
        columns: &[column("Phase", 0, ".status.phase"), column("VMI", 0, ".spec.vmiName")],
        ..Other::new(
            GROUP,
            "VirtualMachineInstanceMigration",
            "virtualmachineinstancemigrations",
            KUBEVIRT_VERSIONS,
        )
    },
    Other {
        short_names: &["vmipreset", "vmipresets"],
        has_status: false,
        ..Other::new(
            GROUP,
            "VirtualMachineInstancePreset",
            "virtualmachineinstancepresets",
            KUBEVIRT_VERSIONS,
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
        columns: REPLICAS,
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
    let definition = format!(
        "io.kubevirt{}.{}.{}",
        other.group.strip_suffix(".kubevirt.io").map(|group| format!(".{group}")).unwrap_or_default(),
        other.versions[0],
        other.kind
    );
    let schema = open_schema(&definition);
    let mut kind = custom(other.group, other.kind, other.plural, other.short_names, other.versions, schema);
    if !other.in_all {
        kind.names.categories.clear();
    }
    kind.scope = other.scope;
    kind.has_status = other.has_status;
    kind.scale = other.has_scale.then_some(Scale {
        spec_replicas: ".spec.replicas",
        status_replicas: ".status.replicas",
        label_selector: Some(".status.labelSelector"),
    });
    kind.columns = other.columns.to_vec();
    kind.refuses_creation = Some(NOT_SUPPORTED.to_owned());
    kind
}
