#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use serde_json::Map;

use super::*;
use crate::kind::{Admission, Kinds, Operation};
use crate::object;
use crate::status::ApiError;

mod event;
mod rules;
mod samples;

pub(super) fn request<'a>(operation: Operation, namespace: &'a str, name: &'a str) -> Admission<'a> {
    Admission {
        operation,
        subresource: "",
        namespace,
        name,
        user: "someone",
        groups: &[],
        now: "2026-01-02T03:04:05Z".parse().unwrap(),
    }
}

/// What becomes of an object that is created, or why it is refused.
pub(super) fn create(kinds: &Kinds, mut object: Value) -> Result<Value, ApiError> {
    let group =
        object["apiVersion"].as_str().unwrap().split_once('/').map_or("", |(group, _)| group).to_owned();
    let kind = kinds.kind(&group, object["kind"].as_str().unwrap()).unwrap();
    let name = object::name(&object).to_owned();
    let namespace = object::namespace(&object).to_owned();
    let request = request(Operation::Create, &namespace, &name);
    kind.hooks.default(&request, &mut object, None, &mut Vec::new())?;
    ApiError::check(kind.group_kind(), &name, &kind.hooks.faults(&request, &object, None))?;
    Ok(object)
}

/// The same for a change.
pub(super) fn update(kinds: &Kinds, mut new: Value, old: &Value) -> Result<Value, ApiError> {
    let group = new["apiVersion"].as_str().unwrap().split_once('/').map_or("", |(group, _)| group).to_owned();
    let kind = kinds.kind(&group, new["kind"].as_str().unwrap()).unwrap();
    let name = object::name(&new).to_owned();
    let namespace = object::namespace(&new).to_owned();
    let request = request(Operation::Update, &namespace, &name);
    kind.hooks.default(&request, &mut new, Some(old), &mut Vec::new())?;
    ApiError::check(kind.group_kind(), &name, &kind.hooks.faults(&request, &new, Some(old)))?;
    Ok(new)
}

#[test]
fn every_kind_is_whole() {
    let mut seen = BTreeSet::new();
    let mut stored = BTreeSet::new();
    for kind in kinds() {
        for version in &kind.versions {
            assert!(
                seen.insert(kind.api_version(&version.name) + &kind.names.plural),
                "{kind:?} is there twice"
            );
        }
        let is_first = stored.insert(kind.storage_prefix());
        assert_ne!(
            is_first,
            kind.shared_storage.is_some(),
            "{kind:?}: who stores it comes first, and is one"
        );
        let components = kind.schema.components();
        let own = components.get(&kind.schema.definition).unwrap_or_else(|| panic!("{kind:?} has no schema"));
        let properties = own["properties"].as_object().unwrap();
        assert!(properties.contains_key("metadata"), "{kind:?}");
        assert_eq!(
            kind.has_status && !kind.schema.definition.contains("CustomResourceDefinition"),
            properties.contains_key("status"),
            "{kind:?}"
        );
        assert!(!kind.columns.is_empty() || kind.names.kind == "ServiceAccount", "{kind:?}");
    }
}

/// A misspelt definition or field would silently do nothing.
#[test]
fn every_merge_fact_is_about_a_field_that_exists() {
    let mut all = Map::new();
    for kind in kinds() {
        all.extend(kind.schema.components());
    }
    for (definition, field) in facts::named_fields() {
        let property = all.get(&definition).and_then(|schema| schema["properties"].get(field));
        let property = property.unwrap_or_else(|| panic!("no {definition} {field}"));
        assert!(property.as_object().unwrap().keys().any(|key| key.starts_with("x-") || key == "default"));
    }
    for definition in facts::atomic_definitions() {
        assert_eq!(
            all.get(&definition).unwrap_or_else(|| panic!("no {definition}"))["x-kubernetes-map-type"],
            "atomic"
        );
    }
    let containers = &all["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
    assert_eq!(containers["x-kubernetes-list-map-keys"], json!(["name"]));
    assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
    let ports = &all["io.k8s.api.core.v1.ServiceSpec"]["properties"]["ports"];
    assert_eq!(ports["x-kubernetes-list-map-keys"], json!(["port", "protocol"]));
    assert_eq!(ports["x-kubernetes-patch-merge-key"], "port");
}

#[test]
fn what_a_cluster_begins_with_is_accepted() {
    let kinds = Kinds::new(kinds());
    for object in initial_objects() {
        create(&kinds, object).unwrap();
    }
}
