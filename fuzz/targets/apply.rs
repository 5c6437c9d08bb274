//! Objects parted by lines with `---`, applied one after the other by two managers.
#![no_main]

use std::sync::{Arc, LazyLock};

use apiserver::apply::{self, Manager};
use apiserver::schema::Schema;
use apiserver::{builtin, decode};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

static POD: LazyLock<Arc<Schema>> = LazyLock::new(|| {
    let kinds = builtin::kinds();
    let pod = kinds.iter().find(|kind| kind.names.kind == "Pod").expect("there are pods");
    pod.schema.schema()
});

fuzz_target!(|text: &str| {
    let mut live: Option<Value> = None;
    for (number, part) in text.split("\n---\n").take(6).enumerate() {
        let Ok(decoded) = decode::yaml(part.as_bytes()) else { continue };
        let manager = Manager {
            name: ["one", "two"][number % 2].to_owned(),
            subresource: String::new(),
            api_version: "v1".to_owned(),
            at: jiff::Timestamp::UNIX_EPOCH,
        };
        if number % 3 == 2 {
            let mut new = decoded.value;
            if new.is_object() {
                apply::update_managed_fields(live.as_ref(), &mut new, &POD, &manager);
                live = Some(new);
            }
            continue;
        }
        if let Ok(applied) = apply::apply(live.as_ref(), &decoded.value, &POD, &manager, number % 4 != 1) {
            // Who applies nothing but an empty list owns nothing, as in Kubernetes; then the next one is the first again.
            // A null is owned and not kept.
            let has_owner = applied.pointer("/metadata/managedFields").is_some();
            if has_owner && !has(&decoded.value, Value::is_null) {
                let again = apply::apply(Some(&applied), &decoded.value, &POD, &manager, false);
                // Who applies an empty map where it owned fields takes away the map with them, as in Kubernetes; the next
                // time it is there, and stays.
                if let (true, Ok(second)) = (has(&decoded.value, is_empty_map), &again) {
                    let third = apply::apply(Some(second), &decoded.value, &POD, &manager, false);
                    assert_eq!(third.as_ref(), Ok(second), "applying a third time changes nothing");
                } else {
                    assert_eq!(again.as_ref(), Ok(&applied), "applying again changes nothing");
                }
            }
            live = Some(applied);
        }
    }
});

/// Whether `value`, or anything in it, is such a one.
fn has(value: &Value, is_such: fn(&Value) -> bool) -> bool {
    is_such(value)
        || match value {
            Value::Array(items) => items.iter().any(|item| has(item, is_such)),
            Value::Object(fields) => fields.values().any(|field| has(field, is_such)),
            _ => false,
        }
}

fn is_empty_map(value: &Value) -> bool {
    value.as_object().is_some_and(|fields| fields.is_empty())
}
