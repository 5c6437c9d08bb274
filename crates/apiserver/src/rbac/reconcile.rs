//! Bringing the default roles and bindings up to date at start.
//!
//! Rules of k8s.io/component-helpers `auth/rbac/reconciliation`: what is missing is added, what was added by people
//! stays, and the annotation `rbac.authorization.kubernetes.io/autoupdate: "false"` keeps everything as it is.

use serde_json::{Map, Value, json};

use super::escalation::missing;
use super::rule::rules;
use crate::object;

const AUTOUPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";

/// What is to be done about one default object.
#[derive(Debug, Clone, PartialEq)]
pub enum Reconciled {
    /// It is as it should be, or its owner wants it left alone.
    Unchanged,
    /// It is missing: create it.
    Create(Value),
    /// Update it to this.
    Update(Value),
    /// A binding refers to another role, which cannot be changed: delete it, then create this.
    Recreate(Value),
}

/// What to do about the default object `wanted`, given the one of its name that is stored.
pub fn reconcile(wanted: &Value, existing: Option<&Value>) -> Reconciled {
    let Some(existing) = existing else { return Reconciled::Create(wanted.clone()) };
    let annotation = existing.pointer("/metadata/annotations").and_then(|all| all.get(AUTOUPDATE));
    if annotation.and_then(Value::as_str) == Some("false") {
        return Reconciled::Unchanged;
    }
    if wanted.get("roleRef").is_some() && wanted.get("roleRef") != existing.get("roleRef") {
        let mut wanted = wanted.clone();
        merge_list(&mut wanted, existing, "/subjects");
        return Reconciled::Recreate(wanted);
    }
    let mut updated = existing.clone();
    for field in ["labels", "annotations"] {
        merge_metadata(&mut updated, wanted, field);
    }
    merge_list(&mut updated, wanted, "/subjects");
    merge_list(&mut updated, wanted, "/aggregationRule/clusterRoleSelectors");
    // The rules of an aggregated role are the aggregation's.
    if wanted.get("rules").is_some() && wanted.get("aggregationRule").is_none() {
        merge_rules(&mut updated, wanted);
    }
    if updated == *existing { Reconciled::Unchanged } else { Reconciled::Update(updated) }
}

/// Labels and annotations that are missing are added; those with another value stay.
fn merge_metadata(updated: &mut Value, wanted: &Value, field: &str) {
    let Some(entries) = object::metadata(wanted).and_then(|metadata| metadata.get(field)?.as_object()) else {
        return;
    };
    let Some(metadata) = object::metadata_mut(updated) else { return };
    let own = metadata.entry(field).or_insert(Value::Null);
    if own.is_null() {
        *own = Value::Object(Map::new());
    }
    let Some(own) = own.as_object_mut() else { return };
    for (key, value) in entries {
        own.entry(key.clone()).or_insert_with(|| value.clone());
    }
}

/// Adds the items of a list that are missing.
fn merge_list(updated: &mut Value, wanted: &Value, pointer: &str) {
    let Some(items) = wanted.pointer(pointer).and_then(Value::as_array) else { return };
    let mut place = &mut *updated;
    for field in pointer.split('/').skip(1) {
        let Some(fields) = place.as_object_mut() else { return };
        place = fields.entry(field).or_insert(Value::Null);
        if place.is_null() {
            *place = json!({});
        }
    }
    if !place.is_array() {
        *place = json!([]);
    }
    let Some(own) = place.as_array_mut() else { return };
    for item in items {
        if !own.contains(item) {
            own.push(item.clone());
        }
    }
}

/// Adds the single permissions that the stored role does not grant.
fn merge_rules(updated: &mut Value, wanted: &Value) {
    let own = rules(updated);
    // The default roles are ours and small.
    let lacking: Vec<Value> = rules(wanted)
        .iter()
        .filter(|rule| missing(&own, std::slice::from_ref(*rule)).is_ok_and(|missing| !missing.is_empty()))
        .map(|rule| json!(rule))
        .collect();
    if lacking.is_empty() {
        return;
    }
    let Some(fields) = updated.as_object_mut() else { return };
    let list = fields.entry("rules").or_insert(Value::Null);
    if !list.is_array() {
        *list = json!([]);
    }
    if let Some(list) = list.as_array_mut() {
        list.extend(lacking);
    }
}
