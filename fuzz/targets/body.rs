//! A body as JSON and as YAML, and what is done to every object: pruning, defaults, validation.
#![no_main]

use std::sync::{Arc, LazyLock};

use apiserver::schema::Schema;
use apiserver::{builtin, decode};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

static SCHEMAS: LazyLock<Vec<Arc<Schema>>> = LazyLock::new(|| {
    let kinds = builtin::kinds();
    let schemas = kinds
        .iter()
        .filter(|kind| ["Pod", "Service", "ConfigMap", "ClusterRole"].contains(&&*kind.names.kind));
    schemas.map(|kind| kind.schema.schema()).collect()
});

fuzz_target!(|bytes: &[u8]| {
    let json = decode::json(bytes);
    if let Ok(decoded) = &json {
        // What we accept is JSON, and says the same to another reader.
        let plain: Value = serde_json::from_slice(bytes).expect("another reader takes it too");
        if decoded.duplicates.is_empty() {
            assert_eq!(decoded.value, with_whole_numbers(plain));
        }
        handle(decoded.value.clone());
    }
    if let Ok(decoded) = decode::yaml(bytes) {
        handle(decoded.value);
    }
});

/// A number without a fraction is a whole one, however it is written: `1.0`, `1e0` and `1`.
fn with_whole_numbers(value: Value) -> Value {
    match value {
        Value::Number(number) => match number.as_f64() {
            // Up to here floats are exact.
            Some(float) if number.is_f64() && float.fract() == 0.0 && float.abs() <= 2_f64.powi(53) => {
                (float as i64).into()
            }
            _ => Value::Number(number),
        },
        Value::Array(items) => items.into_iter().map(with_whole_numbers).collect(),
        Value::Object(fields) => {
            fields.into_iter().map(|(name, value)| (name, with_whole_numbers(value))).collect()
        }
        other => other,
    }
}

fn handle(value: Value) {
    for schema in SCHEMAS.iter() {
        let mut value = value.clone();
        schema.prune(&mut value);
        assert_eq!(schema.prune(&mut value), [""; 0], "pruning again finds nothing");
        schema.drop_nulls(&mut value);
        schema.fill_defaults(&mut value);
        let filled = value.clone();
        schema.fill_defaults(&mut value);
        assert_eq!(filled, value, "filling in again changes nothing");
        schema.validate(&value);
        let _ = schema.check_types("Pod", "v1", &value);
    }
}
