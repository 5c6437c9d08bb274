//! KubeVirt's kinds as data.
//!
//! Names, short names, categories and columns are those of KubeVirt's definitions: clients and scripts match on them.

mod others;

use std::sync::Arc;

use apiserver::kind::{Cell, Column, Hooks, Kind, Names, SchemaSource, Scope};
use serde_json::{Map, json};

use super::admission::{KubeVirtHooks, VirtualMachineHooks, VirtualMachineInstanceHooks, already_installed};
use super::metrics::Created;

const GROUP: &str = "kubevirt.io";

/// The current version and the deprecated one.
const KUBEVIRT_VERSIONS: &[&str] = &["v1", "v1alpha3"];

/// Every kind of KubeVirt; whether a controller of machines runs beside the server, and where new ones are counted.
pub fn kinds(has_controller: bool, created: &Created) -> Vec<Kind> {
    let mut kinds = vec![virtual_machine(has_controller, created), virtual_machine_instance(), kubevirt()];
    kinds.extend(others::kinds());
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

/// A kind of KubeVirt with everything that most of them share.
fn custom(
    group: &str,
    kind: &str,
    plural: &str,
    short_names: &[&str],
    versions: &[&str],
    schema: SchemaSource,
) -> Kind {
    let names = Names {
        short_names: short_names.iter().map(|name| (*name).to_owned()).collect(),
        categories: vec!["all".to_owned()],
        ..Names::new(kind, plural)
    };
    let mut kind = Kind::new(group, versions, names, Scope::Namespaced, schema);
    for version in kind.versions.iter_mut().filter(|version| version.name == "v1alpha3") {
        let warning = "kubevirt.io/v1alpha3 is now deprecated and will be removed in a future release.";
        version.deprecation_warning = Some(warning.to_owned());
    }
    kind
}

fn virtual_machine(has_controller: bool, created: &Created) -> Kind {
    let schema = SchemaSource::new(manifest::openapi::VIRTUAL_MACHINE, manifest::openapi::virtual_machine);
    let hooks: Arc<dyn Hooks> = Arc::new(VirtualMachineHooks { has_controller, created: created.clone() });
    Kind {
        has_status: true,
        columns: vec![
            AGE,
            column("Status", 0, ".status.printableStatus"),
            column("Ready", 0, ".status.conditions[?(@.type=='Ready')].status"),
        ],
        hooks,
        ..custom(GROUP, "VirtualMachine", "virtualmachines", &["vm", "vms"], KUBEVIRT_VERSIONS, schema)
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
            "VirtualMachineInstance",
            "virtualmachineinstances",
            &["vmi", "vmis"],
            KUBEVIRT_VERSIONS,
            schema,
        )
    }
}

/// The installation itself. Clients read its status, and its configuration where they are clever.
fn kubevirt() -> Kind {
    Kind {
        has_status: true,
        columns: vec![AGE, column("Phase", 0, ".status.phase")],
        hooks: Arc::new(KubeVirtHooks),
        refuses_another: Some(already_installed),
        ..custom(
            GROUP,
            "KubeVirt",
            "kubevirts",
            &["kv", "kvs"],
            KUBEVIRT_VERSIONS,
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

/// The plurals of a group that users work with; the installation itself is the administrator's.
pub fn plurals_of(group: &str) -> Vec<&'static str> {
    let own: &[&str] = if group == GROUP { &["virtualmachines", "virtualmachineinstances"] } else { &[] };
    own.iter().copied().chain(others::plurals_of(group)).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use apiserver::kind::Kinds;

    use super::*;

    #[test]
    fn no_two_kinds_share_a_name() {
        let mut seen = std::collections::BTreeSet::new();
        for kind in kinds(true, &Created::default()) {
            for name in kind.names.short_names.iter().chain([&kind.names.plural, &kind.names.singular]) {
                assert!(seen.insert((kind.group.clone(), name.clone())), "{name} of {} is taken", kind.group);
            }
        }
    }

    #[test]
    fn machines_are_what_kubevirt_calls_them() {
        let kinds = Kinds::new(kinds(true, &Created::default()));
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
}
