//! Objects as tables, and their metadata alone: the two forms of `meta.k8s.io/v1` that a client can ask for in `Accept`.
//!
//! The rules are those of `k8s.io/apiextensions-apiserver/pkg/registry/customresource/tableconvertor` and
//! `k8s.io/apiserver/pkg/endpoints/handlers/response.go`.

mod duration;
#[cfg(test)]
mod tests;

use serde_json::{Map, Number, Value, json};

use crate::jsonpath::{self, Path};
use crate::kind::{Cell, Column, Family, Kind};
use crate::object;

pub use duration::human_duration;

const NAME: &str = "Name must be unique within a namespace. Is required when creating resources, although some \
                    resources may allow a client to request the generation of an appropriate name automatically. Name \
                    is primarily intended for creation idempotence and configuration definition. Cannot be updated. \
                    More info: https://kubernetes.io/docs/concepts/overview/working-with-objects/names#names";

const CREATION_TIMESTAMP: &str = "CreationTimestamp is a timestamp representing the server time when this object was \
                                  created. It is not guaranteed to be set in happens-before order across separate \
                                  operations. Clients may not set this value. It is represented in RFC3339 form and is \
                                  in UTC.\n\nPopulated by the system. Read-only. Null for lists. More info: \
                                  https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata";

/// The column that a kind without columns has.
const AGE: Column = Column {
    name: "Age",
    column_type: "date",
    description: CREATION_TIMESTAMP,
    priority: 0,
    cell: Cell::JsonPath(".metadata.creationTimestamp"),
};

/// The columns of a Scale, whatever it is that is scaled (`printScale`).
const SCALE: &[Column] = &[
    Column {
        name: "Desired",
        column_type: "integer",
        description: "replicas is the desired number of instances for the scaled object.",
        priority: 0,
        cell: Cell::JsonPath(".spec.replicas"),
    },
    Column {
        name: "Available",
        column_type: "integer",
        description: "replicas is the actual number of observed instances of the scaled object.",
        priority: 0,
        cell: Cell::JsonPath(".status.replicas"),
    },
    AGE,
];

/// What each row of a table carries of its object (`includeObject=`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum IncludeObject {
    /// Nothing.
    None,
    /// `apiVersion`, `kind` and `metadata`.
    #[default]
    Metadata,
    /// All of it.
    Object,
}

impl IncludeObject {
    /// The value of `includeObject=`; empty means the default. `None` when it is not known, which is a 400:
    /// `unrecognized includeObject value: "x"`.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "" | "Metadata" => Some(Self::Metadata),
            "None" => Some(Self::None),
            "Object" => Some(Self::Object),
            _ => None,
        }
    }
}

/// A `meta.k8s.io/v1` Table of `items`, which are objects of `kind`, or the Scale of one.
///
/// `metadata` is the list's metadata; `resourceVersion`, `continue` and `remainingItemCount` of it are taken over. A
/// single object has a row of its own, and its own metadata is given. `headings` is whether the column definitions are
/// written: always in an answer, only in the first event of a watch. `now` is what ages are measured to.
pub fn table(
    kind: &Kind,
    items: &[Value],
    metadata: &Map<String, Value>,
    now: jiff::Timestamp,
    include: IncludeObject,
    headings: bool,
) -> Value {
    let columns: &[Column] = match items {
        [scale] if scale["kind"] == "Scale" && scale["apiVersion"] == "autoscaling/v1" => SCALE,
        _ if kind.columns.is_empty() => &[AGE],
        _ => &kind.columns,
    };
    // A kind may show its name in its own way, or elsewhere: Events have it last, StorageClasses say what is default.
    let names_itself = columns.iter().any(|column| column.name == "Name");
    let sources: Vec<_> = columns.iter().map(Source::new).collect();
    let rows: Vec<_> = items
        .iter()
        .map(|item| {
            let mut cells = Vec::with_capacity(1 + columns.len());
            if !names_itself {
                cells.push(object::name(item).into());
            }
            cells.extend(sources.iter().map(|source| source.cell(item, now)));
            let object = match include {
                IncludeObject::None => Value::Null,
                IncludeObject::Metadata => partial(item),
                IncludeObject::Object => item.clone(),
            };
            json!({"cells": cells, "object": object})
        })
        .collect();
    json!({
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": list_metadata(metadata),
        "columnDefinitions": if headings { definitions(kind.family, columns) } else { Value::Null },
        "rows": rows,
    })
}

fn definitions(family: Family, columns: &[Column]) -> Value {
    let name =
        json!({"name": "Name", "type": "string", "format": "name", "description": NAME, "priority": 0});
    let others = columns.iter().map(|column| {
        let description = match column.cell {
            Cell::JsonPath(path) if column.description.is_empty() && family == Family::Custom => {
                format!("Custom resource definition column (in JSONPath format): {path}")
            }
            _ => column.description.to_owned(),
        };
        json!({
            "name": column.name,
            "type": column.column_type,
            "format": if column.name == "Name" { "name" } else { "" },
            "description": description,
            "priority": column.priority,
        })
    });
    let names_itself = columns.iter().any(|column| column.name == "Name");
    (!names_itself).then_some(name).into_iter().chain(others).collect()
}

/// Where the cells of a column come from, read once for all rows.
enum Source {
    Path(Path, &'static str),
    Function(fn(&Value, jiff::Timestamp) -> Option<Value>),
    /// The path cannot be read; its cells are empty.
    Nothing,
}

impl Source {
    fn new(column: &Column) -> Self {
        match column.cell {
            Cell::Function(function) => Self::Function(function),
            Cell::JsonPath(path) => match Path::parse(path) {
                Ok(path) => Self::Path(path, column.column_type),
                Err(error) => {
                    tracing::error!(column = column.name, %error, "a printer column cannot be read");
                    Self::Nothing
                }
            },
        }
    }

    fn cell(&self, object: &Value, now: jiff::Timestamp) -> Value {
        match self {
            Self::Nothing => Value::Null,
            Self::Function(function) => function(object, now).unwrap_or_else(|| "<none>".into()),
            // A path that finds several values shows the first of them alone, as Kubernetes does.
            Self::Path(path, column_type) => {
                path.first(object).map_or(Value::Null, |value| typed(column_type, value, now))
            }
        }
    }
}

/// The value as a cell of this type; null when it is none.
fn typed(column_type: &str, value: &Value, now: jiff::Timestamp) -> Value {
    match (column_type, value) {
        ("string", value) => jsonpath::text(&[value]).into(),
        ("integer", Value::Number(number)) => whole(number).into(),
        ("number", Value::Number(_)) | ("boolean", Value::Bool(_)) => value.clone(),
        ("date", Value::String(text)) => age(text, now).into(),
        _ => Value::Null,
    }
}

/// The number without its fraction, as Go converts it.
fn whole(number: &Number) -> Option<i64> {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "numbers out of range become the nearest that is in range"
    )]
    number.as_i64().or_else(|| number.as_f64().map(|number| number as i64))
}

/// How long ago a time of an object was, for people: `5m3s`; `<unknown>` for no time, `<invalid>` for what is none and
/// for the future.
pub fn age(time: &str, now: jiff::Timestamp) -> String {
    if time.is_empty() || time == "null" {
        return "<unknown>".to_owned();
    }
    match time.parse::<jiff::Timestamp>() {
        Ok(then) => human_duration(now.duration_since(then)),
        Err(_) => "<invalid>".to_owned(),
    }
}

/// The object's `PartialObjectMetadata` (`meta.k8s.io/v1`): its metadata and nothing else.
pub fn partial(object: &Value) -> Value {
    json!({
        "kind": "PartialObjectMetadata",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": object::metadata(object).cloned().unwrap_or_default(),
    })
}

/// A `PartialObjectMetadataList` with this list metadata.
pub fn partial_list(items: &[Value], metadata: &Map<String, Value>) -> Value {
    json!({
        "kind": "PartialObjectMetadataList",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": list_metadata(metadata),
        "items": items.iter().map(partial).collect::<Vec<_>>(),
    })
}

/// A table, a `PartialObjectMetadata` or a list of them, in another version of `meta.k8s.io`. Clients from before 2019
/// know `meta.k8s.io/v1beta1` only; the forms are the same.
pub fn in_version(mut form: Value, api_version: &str) -> Value {
    let write = |object: &mut Value| {
        let is_partial = object.get("kind").and_then(Value::as_str) == Some("PartialObjectMetadata");
        if let Some(version) = object.get_mut("apiVersion").filter(|_| is_partial) {
            *version = api_version.into();
        }
    };
    for row in form.get_mut("rows").and_then(Value::as_array_mut).into_iter().flatten() {
        row.get_mut("object").into_iter().for_each(write);
    }
    form.get_mut("items").and_then(Value::as_array_mut).into_iter().flatten().for_each(write);
    if let Some(version) = form.get_mut("apiVersion") {
        *version = api_version.into();
    }
    form
}

fn list_metadata(metadata: &Map<String, Value>) -> Value {
    let fields = ["resourceVersion", "continue", "remainingItemCount"];
    let kept = fields.into_iter().filter_map(|field| {
        let value = metadata.get(field)?;
        (!value.is_null() && *value != "").then(|| (field.to_owned(), value.clone()))
    });
    Value::Object(kept.collect())
}
