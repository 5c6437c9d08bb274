#![allow(clippy::unwrap_used)]

mod operations;
mod strategic;

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::merge;

/// Any JSON value that is not deep.
fn any_value() -> impl Strategy<Value = Value> {
    let scalar = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-3_i64..4).prop_map(Value::from),
        "[a-c]{0,2}".prop_map(Value::from),
        Just(json!(1.5)),
    ];
    scalar.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec(("[a-d]", inner), 0..4)
                .prop_map(|fields| Value::Object(fields.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

/// The table in the appendix of RFC 7386.
#[test]
fn merge_patch_follows_the_examples_of_its_standard() {
    let cases = [
        (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
        (json!({"a": "b"}), json!({"b": "c"}), json!({"a": "b", "b": "c"})),
        (json!({"a": "b"}), json!({"a": null}), json!({})),
        (json!({"a": "b", "b": "c"}), json!({"a": null}), json!({"b": "c"})),
        (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
        (json!({"a": "c"}), json!({"a": ["b"]}), json!({"a": ["b"]})),
        (json!({"a": {"b": "c"}}), json!({"a": {"b": "d", "c": null}}), json!({"a": {"b": "d"}})),
        (json!({"a": [{"b": "c"}]}), json!({"a": [1]}), json!({"a": [1]})),
        (json!(["a", "b"]), json!(["c", "d"]), json!(["c", "d"])),
        (json!({"a": "b"}), json!(["c"]), json!(["c"])),
        (json!({"a": "foo"}), json!(null), json!(null)),
        (json!({"a": "foo"}), json!("bar"), json!("bar")),
        (json!({"e": null}), json!({"a": 1}), json!({"e": null, "a": 1})),
        (json!([1, 2]), json!({"a": "b", "c": null}), json!({"a": "b"})),
        (json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}})),
    ];
    for (original, patch, expected) in cases {
        assert_eq!(merge(&original, &patch), expected, "{original} with {patch}");
    }
}

#[test]
fn fields_keep_their_places_in_a_merge() {
    let merged = merge(&json!({"a": 1, "b": 2, "c": 3}), &json!({"d": 4, "a": null, "b": 5}));
    assert_eq!(merged.to_string(), r#"{"b":5,"c":3,"d":4}"#);
}

proptest! {
    #[test]
    fn merging_agrees_with_another_implementation(original in any_value(), patch in any_value()) {
        let mut expected = original.clone();
        json_patch::merge(&mut expected, &patch);
        prop_assert_eq!(merge(&original, &patch), expected);
    }

    #[test]
    fn merging_twice_is_merging_once(original in any_value(), patch in any_value()) {
        let once = merge(&original, &patch);
        prop_assert_eq!(merge(&once, &patch), once);
    }
}
