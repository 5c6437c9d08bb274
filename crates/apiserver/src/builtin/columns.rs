//! The tables that `kubectl get` shows, column by column as Kubernetes' own printers make them
//! (k8s.io/kubernetes/pkg/printers/internalversion).

pub(super) mod cluster;
pub(super) mod networking;
pub(super) mod pod;
pub(super) mod workload;

use jiff::Timestamp;
use serde_json::{Map, Value};

use crate::field;
use crate::kind::{Cell, Column};
use crate::table;

/// What a cell function returns.
pub(super) type Found = Option<Value>;

/// A column that is always shown.
pub(super) const fn shown(
    name: &'static str,
    column_type: &'static str,
    cell: fn(&Value, Timestamp) -> Found,
) -> Column {
    Column { name, column_type, description: "", priority: 0, cell: Cell::Function(cell) }
}

/// A column of `-o wide`.
pub(super) const fn wide(
    name: &'static str,
    column_type: &'static str,
    cell: fn(&Value, Timestamp) -> Found,
) -> Column {
    Column { name, column_type, description: "", priority: 1, cell: Cell::Function(cell) }
}

/// The AGE column.
pub(super) const AGE: Column = shown("Age", "string", age);
/// The CREATED AT column.
pub(super) const CREATED_AT: Column = shown("Created At", "date", created_at);

fn age(object: &Value, now: Timestamp) -> Found {
    Some(table::age(field::text(object, "/metadata/creationTimestamp"), now).into())
}

fn created_at(object: &Value, _: Timestamp) -> Found {
    Some(field::text(object, "/metadata/creationTimestamp").into())
}

/// A text cell; `None` (`<none>`) where it is empty.
pub(super) fn text(value: &str) -> Found {
    (!value.is_empty()).then(|| value.into())
}

/// Several texts with commas; `None` where there are none.
pub(super) fn joined<'a>(values: impl IntoIterator<Item = &'a str>) -> Found {
    let all: Vec<_> = values.into_iter().collect();
    if all.is_empty() { None } else { Some(all.join(",").into()) }
}

/// A map as `a=b,c=d`, sorted; `None` where it is empty.
pub(super) fn labels(map: Option<&Map<String, Value>>) -> Found {
    let mut pairs: Vec<_> =
        map?.iter().filter_map(|(key, value)| value.as_str().map(|value| format!("{key}={value}"))).collect();
    pairs.sort();
    joined(pairs.iter().map(String::as_str))
}

/// A label selector object as kubectl prints it: `a=b,c in (d,e),f,!g`.
pub(super) fn selector(selector: Option<&Value>) -> Found {
    let selector = selector?;
    let mut parts: Vec<(String, String)> = field::map(selector, "/matchLabels")
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| Some((key.clone(), format!("{key}={}", value.as_str()?))))
        .collect();
    for expression in field::list(selector, "/matchExpressions") {
        let key = field::text(expression, "/key");
        let mut values: Vec<_> =
            field::list(expression, "/values").iter().filter_map(Value::as_str).collect();
        values.sort_unstable();
        let values = values.join(",");
        let printed = match field::text(expression, "/operator") {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "Exists" => key.to_owned(),
            "DoesNotExist" => format!("!{key}"),
            _ => return Some("<error>".into()),
        };
        parts.push((key.to_owned(), printed));
    }
    parts.sort();
    joined(parts.iter().map(|(_, printed)| printed.as_str()))
}

/// The abbreviations of access modes: `RWO,RWX`.
pub(super) fn access_modes(modes: &[Value]) -> String {
    let known = [
        ("ReadWriteOnce", "RWO"),
        ("ReadOnlyMany", "ROX"),
        ("ReadWriteMany", "RWX"),
        ("ReadWriteOncePod", "RWOP"),
    ];
    let shown: Vec<_> = known
        .iter()
        .filter(|(mode, _)| modes.iter().any(|wanted| wanted.as_str() == Some(mode)))
        .map(|(_, short)| *short)
        .collect();
    shown.join(",")
}

#[cfg(test)]
mod tests;
