//! The rules of `metadata`: `ValidateObjectMeta` and `ValidateObjectMetaUpdate` of `k8s.io/apimachinery`, with their texts.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use crate::kind::{Family, Kind, Scope};
use crate::status::{FieldError, FieldErrorType};

mod names;

#[cfg(test)]
mod tests;

pub use names::{
    is_config_map_key, is_dns1035_label, is_dns1123_label, is_dns1123_subdomain, is_label_value,
    is_path_segment, is_qualified_name, name_rule,
};

/// The most bytes of keys and values in `metadata.annotations`.
const ANNOTATIONS_LIMIT: usize = 256 << 10;

/// The longest `manager` in `managedFields`, and the longest `fieldManager` of a request.
pub const FIELD_MANAGER_LIMIT: usize = 128;

const SUBRESOURCE_LIMIT: usize = 256;

/// How often it is said that there is one controller too many.
const MOST_CONTROLLER_FAULTS: usize = 3;

/// What is wrong with the metadata of a new object, whose name has been generated already.
pub fn validate_create(kind: &Kind, object: &Value) -> Vec<FieldError> {
    let none = Map::new();
    let metadata = crate::object::metadata(object).unwrap_or(&none);
    let mut faults = Vec::new();
    let rule = name_rule(kind);
    let prefix = text(metadata, "generateName");
    if !prefix.is_empty() {
        invalid(&mut faults, "metadata.generateName", prefix, rule(prefix, true));
    }
    let name = text(metadata, "name");
    if name.is_empty() {
        faults.push(FieldError::required("metadata.name", "name or generateName is required"));
    } else {
        invalid(&mut faults, "metadata.name", name, rule(name, false));
    }
    let namespace = text(metadata, "namespace");
    match (kind.scope, namespace) {
        (Scope::Namespaced, "") => faults.push(FieldError::required("metadata.namespace", "")),
        (Scope::Namespaced, _) => {
            invalid(&mut faults, "metadata.namespace", namespace, is_dns1123_label(namespace));
        }
        (Scope::Cluster, "") => {}
        (Scope::Cluster, _) => {
            faults.push(FieldError::forbidden("metadata.namespace", "not allowed on this type"));
        }
    }
    if let Some(generation) = metadata.get("generation").and_then(Value::as_i64).filter(|count| *count < 0) {
        let rule = "must be greater than or equal to 0";
        faults.push(FieldError::invalid("metadata.generation", generation, rule));
    }
    common(kind, metadata, &mut faults);
    let finalizers = texts(metadata, "finalizers");
    for finalizer in &finalizers {
        invalid(&mut faults, "metadata.finalizers", finalizer, is_qualified_name(finalizer));
    }
    if finalizers.contains(&"orphan") && finalizers.contains(&"foregroundDeletion") {
        let rule = "finalizer orphan and foregroundDeletion cannot be both set";
        faults.push(FieldError::invalid("metadata.finalizers", finalizers, rule));
    }
    faults
}

/// What is wrong with the metadata of a changed object.
///
/// What the server owns (`uid`, `creationTimestamp`, `generation`, …) is expected to be in `new` as it will be stored; where it
/// differs from `old`, a client tried to change it. That an update names a `resourceVersion` is not checked here.
pub fn validate_update(kind: &Kind, new: &Value, old: &Value) -> Vec<FieldError> {
    let none = Map::new();
    let (new, old) =
        (crate::object::metadata(new).unwrap_or(&none), crate::object::metadata(old).unwrap_or(&none));
    let mut faults = Vec::new();
    let set = |metadata: &Map<String, Value>, field: &str| {
        metadata.get(field).is_some_and(|value| !value.is_null())
    };
    if set(old, "deletionTimestamp") {
        let before: BTreeSet<_> = texts(old, "finalizers").into_iter().collect();
        let added: BTreeSet<_> =
            texts(new, "finalizers").into_iter().filter(|name| !before.contains(name)).collect();
        if !added.is_empty() {
            let listed: Vec<_> = added.iter().map(|name| format!("{name:?}")).collect();
            faults.push(FieldError::forbidden(
                "metadata.finalizers",
                format!(
                    "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                    listed.join(", ")
                ),
            ));
        }
    }
    let generation = |metadata: &Map<String, Value>| metadata.get("generation").and_then(Value::as_i64);
    let after = generation(new).unwrap_or_default();
    if after < generation(old).unwrap_or_default() {
        faults.push(FieldError::invalid("metadata.generation", after, "must not be decremented"));
    }
    for field in ["name", "namespace", "uid"] {
        if text(new, field) != text(old, field) {
            faults.push(immutable(field, text(new, field).into()));
        }
    }
    for field in ["creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        let of = |metadata: &Map<String, Value>| metadata.get(field).cloned().unwrap_or_default();
        if of(new) != of(old) {
            faults.push(immutable(field, of(new)));
        }
    }
    common(kind, new, &mut faults);
    faults
}

/// The fault of an update without a `resourceVersion` to a kind that cannot do without (custom resources).
pub fn missing_resource_version() -> FieldError {
    // Kubernetes prints the number zero in Go's syntax, which is no JSON value.
    FieldError {
        kind: FieldErrorType::Invalid,
        field: "metadata.resourceVersion".to_owned(),
        value: None,
        detail: "0x0: must be specified for an update".to_owned(),
    }
}

/// What is wrong with the labels at `path` (`metadata.labels`, `spec.template.metadata.labels`).
pub fn validate_labels(labels: &Map<String, Value>, path: &str) -> Vec<FieldError> {
    let mut faults = Vec::new();
    for (key, value) in labels {
        invalid(&mut faults, path, key, is_qualified_name(key));
        let value = value.as_str().unwrap_or_default();
        invalid(&mut faults, path, value, is_label_value(value));
    }
    faults
}

/// What is wrong with a field manager's name, at `path`: at most 128 bytes of printable characters.
pub fn validate_field_manager(manager: &str, path: &str) -> Vec<FieldError> {
    let mut faults = Vec::new();
    if manager.len() > FIELD_MANAGER_LIMIT {
        faults.push(FieldError::too_long(path, FIELD_MANAGER_LIMIT));
    }
    if let Some((position, character)) = manager.char_indices().find(|(_, character)| character.is_control())
    {
        let rule = format!("invalid character U+{:04X} (at position {position})", u32::from(character));
        faults.push(FieldError::invalid(path, manager, rule));
    }
    faults
}

/// The rules of new and changed objects alike.
fn common(kind: &Kind, metadata: &Map<String, Value>, faults: &mut Vec<FieldError>) {
    if let Some(labels) = metadata.get("labels").and_then(Value::as_object) {
        faults.extend(validate_labels(labels, "metadata.labels"));
    }
    if let Some(annotations) = metadata.get("annotations").and_then(Value::as_object) {
        let mut bytes = 0;
        for (key, value) in annotations {
            // Keys are label keys in which case does not matter.
            invalid(faults, "metadata.annotations", key, is_qualified_name(&key.to_lowercase()));
            bytes += key.len() + value.as_str().unwrap_or_default().len();
        }
        if bytes > ANNOTATIONS_LIMIT {
            faults.push(FieldError::too_long("metadata.annotations", ANNOTATIONS_LIMIT));
        }
    }
    if let Some(owners) = metadata.get("ownerReferences").and_then(Value::as_array) {
        owner_references(owners, faults);
    }
    if kind.family == Family::BuiltIn {
        for (index, finalizer) in texts(metadata, "finalizers").into_iter().enumerate() {
            let standard = matches!(finalizer, "kubernetes" | "orphan" | "foregroundDeletion");
            if !standard && !finalizer.contains('/') {
                let rule = "name is neither a standard finalizer name nor is it fully qualified";
                faults.push(FieldError::invalid(format!("metadata.finalizers[{index}]"), finalizer, rule));
            }
        }
    }
    if let Some(managers) = metadata.get("managedFields").and_then(Value::as_array) {
        managed_fields(managers, faults);
    }
}

fn owner_references(owners: &[Value], faults: &mut Vec<FieldError>) {
    let path = "metadata.ownerReferences";
    let none = Map::new();
    let mut controller: Option<String> = None;
    let mut controllers = 0;
    for owner in owners {
        let owner_fields = owner.as_object().unwrap_or(&none);
        let of = |field| text(owner_fields, field);
        let version = of("apiVersion").rsplit('/').next().unwrap_or_default();
        for (field, value, rule) in [
            ("apiVersion", version, "version must not be empty"),
            ("kind", of("kind"), "must not be empty"),
            ("name", of("name"), "must not be empty"),
            ("uid", of("uid"), "must not be empty"),
        ] {
            if value.is_empty() {
                faults.push(FieldError::invalid(format!("{path}.{field}"), of(field), rule));
            }
        }
        if of("apiVersion") == "v1" && of("kind") == "Event" {
            let rule = "/v1, Kind=Event is disallowed from being an owner";
            faults.push(FieldError::invalid(path, owner.clone(), rule));
        }
        if owner_fields.get("controller") == Some(&Value::Bool(true)) {
            let current = format!("{}/{}", of("kind"), of("name"));
            match &controller {
                // Each of these faults shows the whole list.
                Some(_) if controllers >= MOST_CONTROLLER_FAULTS => {}
                Some(first) => {
                    controllers += 1;
                    let rule = format!(
                        "Only one reference can have Controller set to true. Found \"true\" in references for {first} and \
                         {current}"
                    );
                    faults.push(FieldError::invalid(path, owners.to_vec(), rule));
                }
                None => controller = Some(current),
            }
        }
    }
}

fn managed_fields(managers: &[Value], faults: &mut Vec<FieldError>) {
    let none = Map::new();
    for (index, entry) in managers.iter().enumerate() {
        let path = format!("metadata.managedFields[{index}]");
        let entry = entry.as_object().unwrap_or(&none);
        let operation = text(entry, "operation");
        if !matches!(operation, "Apply" | "Update") {
            let rule = "must be `Apply` or `Update`";
            faults.push(FieldError::invalid(format!("{path}.operation"), operation, rule));
        }
        let fields_type = text(entry, "fieldsType");
        if !matches!(fields_type, "" | "FieldsV1") {
            faults.push(FieldError::invalid(format!("{path}.fieldsType"), fields_type, "must be `FieldsV1`"));
        }
        faults.extend(validate_field_manager(text(entry, "manager"), &format!("{path}.manager")));
        if text(entry, "subresource").len() > SUBRESOURCE_LIMIT {
            faults.push(FieldError::too_long(format!("{path}.subresource"), SUBRESOURCE_LIMIT));
        }
    }
}

fn invalid(faults: &mut Vec<FieldError>, path: &str, value: &str, rules: Vec<String>) {
    faults.extend(rules.into_iter().map(|rule| FieldError::invalid(path, value, rule)));
}

fn immutable(field: &str, value: Value) -> FieldError {
    FieldError::invalid(format!("metadata.{field}"), value, "field is immutable")
}

fn text<'a>(object: &'a Map<String, Value>, field: &str) -> &'a str {
    object.get(field).and_then(Value::as_str).unwrap_or_default()
}

fn texts<'a>(object: &'a Map<String, Value>, field: &str) -> Vec<&'a str> {
    let list = object.get(field).and_then(Value::as_array);
    list.map(|list| list.iter().filter_map(Value::as_str).collect()).unwrap_or_default()
}
