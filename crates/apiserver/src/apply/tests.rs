#![allow(clippy::unwrap_used)]

mod fields;
mod ownership;
mod properties;
mod scenarios;

use std::sync::Arc;

use serde_json::{Value, json};

use super::*;
use crate::schema::{ListType, Shape};

fn of(shape: Shape) -> Schema {
    Schema { shape, ..Schema::default() }
}

fn object(fields: Vec<(&str, Schema)>) -> Schema {
    of(Shape::Object {
        fields: fields.into_iter().map(|(name, schema)| (name.to_owned(), Arc::new(schema))).collect(),
        required: Vec::new(),
        additional: None,
    })
}

fn map_of(values: Schema) -> Schema {
    of(Shape::Object { fields: Default::default(), required: Vec::new(), additional: Some(Arc::new(values)) })
}

fn list(items: Schema, list_type: ListType) -> Schema {
    Schema { list_type, ..of(Shape::List(Arc::new(items))) }
}

fn keyed(keys: &[&str], items: Schema) -> Schema {
    list(items, ListType::Map(keys.iter().map(|key| (*key).to_owned()).collect()))
}

/// A kind with every sort of field: something like a Deployment with the data of a ConfigMap.
fn schema() -> Schema {
    let text = || of(Shape::String);
    let container = object(vec![
        ("name", text()),
        ("image", text()),
        ("command", list(text(), ListType::Atomic)),
        ("env", keyed(&["name"], object(vec![("name", text()), ("value", text())]))),
        (
            "ports",
            keyed(
                &["containerPort", "protocol"],
                object(vec![
                    ("containerPort", of(Shape::Integer)),
                    ("protocol", Schema { default: Some(json!("TCP")), ..text() }),
                    ("name", text()),
                ]),
            ),
        ),
    ]);
    object(vec![
        ("apiVersion", text()),
        ("kind", text()),
        ("metadata", of(Shape::Any)),
        ("data", map_of(text())),
        (
            "spec",
            object(vec![
                ("replicas", of(Shape::Integer)),
                ("paused", of(Shape::Boolean)),
                ("size", of(Shape::IntOrString)),
                ("selector", Schema { atomic_map: true, ..map_of(text()) }),
                ("strategy", object(vec![("type", text()), ("surge", of(Shape::IntOrString))])),
                ("containers", keyed(&["name"], container)),
                ("tags", list(text(), ListType::Set)),
                ("args", list(text(), ListType::Atomic)),
                ("extra", of(Shape::Any)),
            ]),
        ),
        (
            "status",
            object(vec![
                ("ready", of(Shape::Integer)),
                ("conditions", keyed(&["type"], object(vec![("type", text()), ("status", text())]))),
            ]),
        ),
    ])
}

fn at(second: i64) -> jiff::Timestamp {
    jiff::Timestamp::from_second(1_700_000_000 + second).unwrap()
}

fn manager(name: &str, second: i64) -> Manager {
    Manager {
        name: name.to_owned(),
        subresource: String::new(),
        api_version: "v1".to_owned(),
        at: at(second),
    }
}

/// An object with these fields beside its identity.
fn thing(fields: Value) -> Value {
    let mut thing = json!({"apiVersion": "v1", "kind": "Thing", "metadata": {"name": "a", "namespace": "b"}});
    for (name, value) in fields.as_object().unwrap() {
        if name == "metadata" {
            for (name, value) in value.as_object().unwrap() {
                thing["metadata"][name] = value.clone();
            }
        } else {
            thing[name] = value.clone();
        }
    }
    thing
}

/// What the rest of the server adds to a stored object.
fn stored(mut object: Value) -> Value {
    object["metadata"]["uid"] = json!("1-2-3");
    object["metadata"]["creationTimestamp"] = json!("2023-11-14T22:13:20Z");
    // Owners are the last field, wherever the others come in.
    if let Some(entries) = object["metadata"].as_object_mut().unwrap().shift_remove("managedFields") {
        object["metadata"]["managedFields"] = entries;
    }
    object
}

fn applied(live: Option<&Value>, fields: Value, by: &str, second: i64) -> Value {
    stored(apply(live, &thing(fields), &schema(), &manager(by, second), false).unwrap())
}

fn created(fields: Value, by: &str, second: i64) -> Value {
    let mut new = thing(fields);
    update_managed_fields(None, &mut new, &schema(), &manager(by, second));
    stored(new)
}

/// `live` with the value at `pointer` set by an update; `null` removes it.
fn updated(live: &Value, pointer: &str, value: Value, by: &Manager) -> Value {
    let mut new = live.clone();
    let (parent, name) = pointer.rsplit_once('/').unwrap();
    let parent = new.pointer_mut(parent).unwrap();
    match (parent, value) {
        (Value::Object(fields), Value::Null) => {
            fields.shift_remove(name);
        }
        (Value::Object(fields), value) => {
            fields.insert(name.to_owned(), value);
        }
        (Value::Array(items), value) => items[name.parse::<usize>().unwrap()] = value,
        (other, _) => panic!("{pointer} has the parent {other}"),
    }
    update_managed_fields(Some(live), &mut new, &schema(), by);
    new
}

/// `manager/Operation[/subresource]` of each entry and its fields.
fn owners(object: &Value) -> Vec<(String, Value)> {
    let entries =
        object.pointer("/metadata/managedFields").and_then(Value::as_array).cloned().unwrap_or_default();
    entries
        .into_iter()
        .map(|entry| {
            let mut name =
                format!("{}/{}", entry["manager"].as_str().unwrap(), entry["operation"].as_str().unwrap());
            if let Some(subresource) = entry.get("subresource") {
                name = format!("{name}/{}", subresource.as_str().unwrap());
            }
            (name, entry["fieldsV1"].clone())
        })
        .collect()
}

fn owner(object: &Value, name: &str) -> Value {
    owners(object).into_iter().find(|(owner, _)| owner == name).map_or(Value::Null, |(_, fields)| fields)
}
