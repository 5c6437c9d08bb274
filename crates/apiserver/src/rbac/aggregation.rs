//! ClusterRoles that are made of others.

use serde_json::Value;

use crate::object;

/// The rules that an aggregated `role` should have, given all ClusterRoles; `None` when it has no `aggregationRule`, or
/// has them already.
///
/// Roles that aggregate each other settle when this is applied until it says `None` for all of them: each step only adds
/// what the others have.
pub fn aggregate(role: &Value, all: &[Value]) -> Option<Vec<Value>> {
    let selectors = role.get("aggregationRule")?.get("clusterRoleSelectors").and_then(Value::as_array);
    let mut others: Vec<_> = all.iter().filter(|other| object::name(other) != object::name(role)).collect();
    others.sort_by_key(|other| object::name(other));
    let mut wanted: Vec<&Value> = Vec::new();
    for selector in selectors.map(Vec::as_slice).unwrap_or_default() {
        for other in others.iter().filter(|other| selects(selector, other)) {
            let rules = other.get("rules").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
            for rule in rules {
                if !wanted.contains(&rule) {
                    wanted.push(rule);
                }
            }
        }
    }
    let existing = role.get("rules").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    if existing.iter().eq(wanted.iter().copied()) {
        return None;
    }
    Some(wanted.into_iter().cloned().collect())
}

/// Whether a `metav1.LabelSelector` selects an object. An empty selector selects everything; one that is not valid
/// selects nothing.
fn selects(selector: &Value, object: &Value) -> bool {
    let labels = object.pointer("/metadata/labels");
    let label = |key: &str| labels.and_then(|labels| labels.get(key)).and_then(Value::as_str);
    let by_labels = selector.get("matchLabels").and_then(Value::as_object).is_none_or(|wanted| {
        wanted.iter().all(|(key, value)| value.as_str().is_some_and(|value| label(key) == Some(value)))
    });
    let by_expressions =
        selector.get("matchExpressions").and_then(Value::as_array).is_none_or(|expressions| {
            expressions.iter().all(|expression| {
                let text = |field: &str| expression.get(field).and_then(Value::as_str).unwrap_or_default();
                let value = label(text("key"));
                let among = || {
                    let values = expression.get("values").and_then(Value::as_array);
                    value.is_some_and(|value| values.is_some_and(|all| all.iter().any(|one| one == value)))
                };
                match text("operator") {
                    "In" => among(),
                    "NotIn" => !among(),
                    "Exists" => value.is_some(),
                    "DoesNotExist" => value.is_none(),
                    _ => false,
                }
            })
        });
    selector.is_object() && by_labels && by_expressions
}
