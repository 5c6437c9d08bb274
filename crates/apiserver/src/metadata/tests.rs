#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::kind::{Names, SchemaSource};

fn kind(group: &str, name: &str, family: Family, scope: Scope) -> Kind {
    let names = Names { kind: name.to_owned(), ..Names::default() };
    Kind { family, ..Kind::new(group, &["v1"], names, scope, SchemaSource::new("x", Map::new)) }
}

fn pod() -> Kind {
    kind("", "Pod", Family::BuiltIn, Scope::Namespaced)
}

fn created(kind: &Kind, metadata: Value) -> Vec<String> {
    validate_create(kind, &json!({"metadata": metadata})).iter().map(ToString::to_string).collect()
}

fn updated(new: Value, old: Value) -> Vec<String> {
    let faults = validate_update(&pod(), &json!({"metadata": new}), &json!({"metadata": old}));
    faults.iter().map(ToString::to_string).collect()
}

const SUBDOMAIN_FAULT: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or \
     '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
     '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";

#[test]
fn ordinary_metadata_has_no_faults() {
    let metadata = json!({
        "name": "web-1.example", "generateName": "web-", "namespace": "default", "generation": 1,
        "labels": {"app": "web", "example.com/Tier_1": "", "kubernetes.io/metadata.name": "A-b_c.9"},
        "annotations": {"Example.com/Note": "anything ✓", "a": ""},
        "finalizers": ["kubernetes", "orphan", "example.com/mine"],
        "ownerReferences": [
            {"apiVersion": "v1", "kind": "Pod", "name": "x", "uid": "u", "controller": true},
            {"apiVersion": "apps/v1", "kind": "Deployment", "name": "x", "uid": "w", "controller": false},
        ],
        "managedFields": [{"operation": "Apply", "fieldsType": "FieldsV1", "manager": "kubectl"}],
    });
    assert_eq!(created(&pod(), metadata.clone()), [""; 0]);
    assert_eq!(updated(metadata.clone(), metadata), [""; 0]);
}

#[test]
fn names_follow_the_rule_of_their_kind() {
    let builtin = |group, name| kind(group, name, Family::BuiltIn, Scope::Cluster);
    let role = builtin("rbac.authorization.k8s.io", "ClusterRole");
    assert_eq!(created(&role, json!({"name": "system:node"})), [""; 0]);
    assert_eq!(
        created(&role, json!({"name": "a/b%"})),
        [
            "metadata.name: Invalid value: \"a/b%\": may not contain '/'",
            "metadata.name: Invalid value: \"a/b%\": may not contain '%'"
        ]
    );
    assert_eq!(
        created(&role, json!({"name": ".."})),
        ["metadata.name: Invalid value: \"..\": may not be '..'"]
    );
    let namespace = builtin("", "Namespace");
    assert_eq!(
        created(&namespace, json!({"name": "a.b"})),
        ["metadata.name: Invalid value: \"a.b\": must not contain dots"]
    );
    assert_eq!(
        created(&namespace, json!({"name": "A"})),
        [
            "metadata.name: Invalid value: \"A\": a lowercase RFC 1123 label must consist of lower case alphanumeric characters \
          or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for \
          validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
        ]
    );
    let service = builtin("", "Service");
    assert_eq!(
        created(&service, json!({"name": "1a"})),
        [
            "metadata.name: Invalid value: \"1a\": a DNS-1035 label must consist of lower case alphanumeric characters or '-', \
          start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex \
          used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')"
        ]
    );
    let custom = kind("rbac.authorization.k8s.io", "Mine", Family::Custom, Scope::Cluster);
    assert_eq!(
        created(&custom, json!({"name": "My:Name"})),
        [format!("metadata.name: Invalid value: \"My:Name\": {SUBDOMAIN_FAULT}")]
    );
    assert_eq!(
        created(&custom, json!({"name": "a".repeat(254)})),
        [format!(
            "metadata.name: Invalid value: \"{}\": must be no more than 253 characters",
            "a".repeat(254)
        )]
    );
}

#[test]
fn prefixes_may_end_in_a_dash() {
    let custom = kind("example.com", "Mine", Family::Custom, Scope::Cluster);
    assert_eq!(created(&custom, json!({"name": "a-x", "generateName": "a--"})), [""; 0]);
    assert_eq!(
        created(&custom, json!({"generateName": "-"})),
        [
            format!("metadata.generateName: Invalid value: \"-\": {SUBDOMAIN_FAULT}"),
            "metadata.name: Required value: name or generateName is required".to_owned()
        ]
    );
    assert_eq!(created(&custom, json!({"name": "x", "generateName": "é-"})).len(), 1);
}

#[test]
fn namespaces_are_required_where_there_are_any() {
    assert_eq!(created(&pod(), json!({"name": "a"})), ["metadata.namespace: Required value"]);
    assert_eq!(created(&pod(), json!({"name": "a", "namespace": "a.b"})).len(), 1);
    let node = kind("", "Node", Family::BuiltIn, Scope::Cluster);
    assert_eq!(
        created(&node, json!({"name": "a", "namespace": "b"})),
        ["metadata.namespace: Forbidden: not allowed on this type"]
    );
}

#[test]
fn labels_and_annotations_are_checked() {
    let value = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must \
                 start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for \
                 validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
    let name = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric \
                character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is \
                '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
    let labels = |labels: Value| created(&pod(), json!({"name": "a", "namespace": "b", "labels": labels}));
    assert_eq!(labels(json!({"a": "-"})), [format!("metadata.labels: Invalid value: \"-\": {value}")]);
    assert_eq!(
        labels(json!({"a b": "x"})),
        [format!("metadata.labels: Invalid value: \"a b\": name part {name}")]
    );
    assert_eq!(
        labels(json!({"/a": "x"})),
        ["metadata.labels: Invalid value: \"/a\": prefix part must be non-empty"]
    );
    assert_eq!(
        labels(json!({"x/": "x"})),
        [
            "metadata.labels: Invalid value: \"x/\": name part must be non-empty".to_owned(),
            format!("metadata.labels: Invalid value: \"x/\": name part {name}")
        ]
    );
    assert_eq!(
        labels(json!({"a/b/c": "x"})),
        [format!(
            "metadata.labels: Invalid value: \"a/b/c\": a qualified name {name} with an optional DNS subdomain prefix and \
             '/' (e.g. 'example.com/MyName')"
        )]
    );
    assert_eq!(
        labels(json!({"A/b": "x"})),
        [format!("metadata.labels: Invalid value: \"A/b\": prefix part {SUBDOMAIN_FAULT}")]
    );
    assert_eq!(labels(json!({"a": "b".repeat(64)})).len(), 1);
    let annotated = |size: usize| {
        created(&pod(), json!({"name": "a", "namespace": "b", "annotations": {"k": "v".repeat(size - 1)}}))
    };
    assert_eq!(annotated(262_144), [""; 0]);
    assert_eq!(annotated(262_145), ["metadata.annotations: Too long: may not be more than 262144 bytes"]);
}

#[test]
fn finalizers_and_owners_are_checked() {
    let with =
        |field: &str, value: Value| created(&pod(), json!({"name": "a", "namespace": "b", field: value}));
    assert_eq!(
        with("finalizers", json!(["mine"])),
        [
            "metadata.finalizers[0]: Invalid value: \"mine\": name is neither a standard finalizer name nor is it fully qualified"
        ]
    );
    let custom = kind("example.com", "Mine", Family::Custom, Scope::Cluster);
    assert_eq!(created(&custom, json!({"name": "a", "finalizers": ["mine"]})), [""; 0]);
    assert_eq!(created(&custom, json!({"name": "a", "finalizers": ["a b"]})).len(), 1);
    assert_eq!(
        with("finalizers", json!(["orphan", "foregroundDeletion"])),
        [
            "metadata.finalizers: Invalid value: [\"orphan\",\"foregroundDeletion\"]: finalizer orphan and foregroundDeletion \
          cannot be both set"
        ]
    );
    assert_eq!(
        with("ownerReferences", json!([{}])),
        [
            "metadata.ownerReferences.apiVersion: Invalid value: \"\": version must not be empty",
            "metadata.ownerReferences.kind: Invalid value: \"\": must not be empty",
            "metadata.ownerReferences.name: Invalid value: \"\": must not be empty",
            "metadata.ownerReferences.uid: Invalid value: \"\": must not be empty",
        ]
    );
    let owner = |name: &str| json!({"apiVersion": "v1", "kind": "Pod", "name": name, "uid": name, "controller": true});
    let faults = with("ownerReferences", json!([owner("x"), owner("y")]));
    assert!(
        faults[0].ends_with(
            "Only one reference can have Controller set to true. Found \"true\" in references for Pod/x and Pod/y"
        ),
        "{faults:?}"
    );
    let event = json!([{"apiVersion": "v1", "kind": "Event", "name": "x", "uid": "u"}]);
    assert!(with("ownerReferences", event)[0].ends_with("/v1, Kind=Event is disallowed from being an owner"));
}

/// Each of these faults shows the whole list, so a fault for each owner would be the square of what was sent.
#[test]
fn many_controllers_make_few_faults() {
    let owners: Vec<_> = (0..300)
        .map(|number| json!({"apiVersion": "v1", "kind": "Pod", "name": "x", "uid": number.to_string(), "controller": true}))
        .collect();
    let faults = created(&pod(), json!({"name": "a", "namespace": "b", "ownerReferences": owners}));
    assert_eq!(faults.len(), MOST_CONTROLLER_FAULTS);
}

#[test]
fn managed_fields_have_their_shape() {
    let entry = json!([{"operation": "x", "fieldsType": "y", "manager": "a\nb"}, {"operation": "Apply", "manager": "m".repeat(129)}]);
    assert_eq!(
        created(&pod(), json!({"name": "a", "namespace": "b", "managedFields": entry})),
        [
            "metadata.managedFields[0].operation: Invalid value: \"x\": must be `Apply` or `Update`",
            "metadata.managedFields[0].fieldsType: Invalid value: \"y\": must be `FieldsV1`",
            "metadata.managedFields[0].manager: Invalid value: \"a\\nb\": invalid character U+000A (at position 1)",
            "metadata.managedFields[1].manager: Too long: may not be more than 128 bytes",
        ]
    );
}

#[test]
fn what_the_server_owns_is_immutable() {
    let old = json!({"name": "a", "namespace": "n", "uid": "u", "creationTimestamp": "2020-01-01T00:00:00Z", "generation": 3});
    for (field, value, fault) in [
        ("name", json!("b"), "metadata.name: Invalid value: \"b\": field is immutable"),
        ("namespace", json!("m"), "metadata.namespace: Invalid value: \"m\": field is immutable"),
        ("uid", json!("w"), "metadata.uid: Invalid value: \"w\": field is immutable"),
        (
            "creationTimestamp",
            json!("2021-01-01T00:00:00Z"),
            "metadata.creationTimestamp: Invalid value: \"2021-01-01T00:00:00Z\": field is immutable",
        ),
        (
            "deletionTimestamp",
            json!("2021-01-01T00:00:00Z"),
            "metadata.deletionTimestamp: Invalid value: \"2021-01-01T00:00:00Z\": field is immutable",
        ),
        (
            "deletionGracePeriodSeconds",
            json!(30),
            "metadata.deletionGracePeriodSeconds: Invalid value: 30: field is immutable",
        ),
        ("generation", json!(2), "metadata.generation: Invalid value: 2: must not be decremented"),
    ] {
        let mut new = old.clone();
        new[field] = value;
        assert_eq!(updated(new, old.clone()), [fault]);
    }
}

#[test]
fn finalizers_only_go_while_an_object_is_deleted() {
    let old = json!({"deletionTimestamp": "2021-01-01T00:00:00Z", "finalizers": ["a/a", "a/b"]});
    let with = |finalizers: Value| {
        updated(json!({"deletionTimestamp": "2021-01-01T00:00:00Z", "finalizers": finalizers}), old.clone())
    };
    assert_eq!(with(json!(["a/b"])), [""; 0]);
    assert_eq!(
        with(json!(["a/d", "a/b", "a/c"])),
        [
            "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found new \
          finalizers []string{\"a/c\", \"a/d\"}"
        ]
    );
}

#[test]
fn a_missing_resource_version_reads_as_in_kubernetes() {
    assert_eq!(
        missing_resource_version().to_string(),
        "metadata.resourceVersion: Invalid value: 0x0: must be specified for an update"
    );
}

#[test]
fn keys_of_config_maps_are_file_names() {
    assert_eq!(is_config_map_key("a.b_C-1"), [""; 0]);
    for (key, count) in [("", 1), ("a/b", 1), (".", 1), ("..", 1), ("..a", 1)] {
        assert_eq!(is_config_map_key(key).len(), count, "{key}");
    }
}

proptest! {
    /// Our hand-written checks agree with the regular expressions that their texts name.
    #[test]
    fn names_agree_with_their_expressions(text in "[a-bA-B0-1._ /é-]{0,6}") {
        let matches = |pattern: &str| regex::Regex::new(&format!("^{pattern}$")).unwrap().is_match(&text);
        prop_assert_eq!(is_dns1123_label(&text).is_empty(), matches("[a-z0-9]([-a-z0-9]*[a-z0-9])?"));
        prop_assert_eq!(
            is_dns1123_subdomain(&text).is_empty(),
            matches(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
        );
        prop_assert_eq!(is_dns1035_label(&text).is_empty(), matches("[a-z]([-a-z0-9]*[a-z0-9])?"));
        prop_assert_eq!(is_label_value(&text).is_empty(), matches("(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?"));
        if !text.contains('/') {
            prop_assert_eq!(is_qualified_name(&text).is_empty(), matches("([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]"));
        }
    }

    #[test]
    fn any_metadata_is_checked_without_a_panic(name in ".{0,40}", key in ".{0,40}", value in ".{0,80}") {
        let metadata = json!({
            "name": name, "generateName": value, "namespace": key, "labels": {&key: &value}, "annotations": {&value: 1},
            "finalizers": [&key, 1, null], "ownerReferences": [&name, {"apiVersion": &key}], "managedFields": [&key, {"manager": &value}],
        });
        created(&pod(), metadata.clone());
        updated(metadata, json!(name));
    }
}
