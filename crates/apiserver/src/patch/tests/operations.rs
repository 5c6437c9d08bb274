// Without undoing: the library panics where it cannot, and what has failed is not looked at here.
use json_patch::{Patch, patch_unsafe};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::any_value;
use crate::patch::{MAX_OPERATIONS, json as apply};

fn patched(original: &Value, patch: &Value) -> Option<Value> {
    match apply(original, patch.to_string().as_bytes()) {
        Ok(value) => Some(value),
        Err(error) => {
            assert_eq!((error.code, error.reason), (422, "Invalid"), "{patch}: {error}");
            assert_eq!(error.message, "the server rejected our request due to an error in our request");
            assert_eq!(error.to_json()["details"], json!({}));
            None
        }
    }
}

#[test]
fn operations_do_what_kubernetes_does() {
    let original = json!({"a": {"b": [1, 2, 3]}, "x/y": {"~": 0}, "nothing": null, "text": "t"});
    let cases = [
        ("add", json!([{"op": "add", "path": "/a/c", "value": 1}]), Some(json!({"b": [1, 2, 3], "c": 1}))),
        ("add over", json!([{"op": "add", "path": "/a/b", "value": 1}]), Some(json!({"b": 1}))),
        ("add without a value", json!([{"op": "add", "path": "/a/b"}]), Some(json!({"b": null}))),
        ("insert", json!([{"op": "add", "path": "/a/b/1", "value": 9}]), Some(json!({"b": [1, 9, 2, 3]}))),
        ("append", json!([{"op": "add", "path": "/a/b/-", "value": 9}]), Some(json!({"b": [1, 2, 3, 9]}))),
        (
            "append by index",
            json!([{"op": "add", "path": "/a/b/3", "value": 9}]),
            Some(json!({"b": [1, 2, 3, 9]})),
        ),
        (
            "append by -1",
            json!([{"op": "add", "path": "/a/b/-1", "value": 9}]),
            Some(json!({"b": [1, 2, 3, 9]})),
        ),
        ("add beyond the end", json!([{"op": "add", "path": "/a/b/4", "value": 9}]), None),
        ("add before the start", json!([{"op": "add", "path": "/a/b/-5", "value": 9}]), None),
        ("add to nothing", json!([{"op": "add", "path": "/q/b", "value": 9}]), None),
        ("add to null", json!([{"op": "add", "path": "/nothing/b", "value": 9}]), None),
        ("add to a text", json!([{"op": "add", "path": "/text/b", "value": 9}]), None),
        ("add at the root", json!([{"op": "add", "path": "", "value": {}}]), None),
        ("no slash", json!([{"op": "add", "path": "a", "value": {}}]), None),
        ("not an index", json!([{"op": "add", "path": "/a/b/x", "value": 9}]), None),
        ("remove", json!([{"op": "remove", "path": "/a/b/0"}]), Some(json!({"b": [2, 3]}))),
        ("remove the last", json!([{"op": "remove", "path": "/a/b/-1"}]), Some(json!({"b": [1, 2]}))),
        ("remove a missing field", json!([{"op": "remove", "path": "/a/c"}]), None),
        ("remove a missing item", json!([{"op": "remove", "path": "/a/b/3"}]), None),
        ("remove -", json!([{"op": "remove", "path": "/a/b/-"}]), None),
        ("replace", json!([{"op": "replace", "path": "/a/b/0", "value": 9}]), Some(json!({"b": [9, 2, 3]}))),
        (
            "replace a missing field",
            json!([{"op": "replace", "path": "/a/c", "value": 9}]),
            Some(json!({"b": [1, 2, 3], "c": 9})),
        ),
        ("replace a missing item", json!([{"op": "replace", "path": "/a/b/3", "value": 9}]), None),
        ("replace all", json!([{"op": "replace", "path": "", "value": {"a": 1}}]), Some(json!(1))),
        ("replace all by a text", json!([{"op": "replace", "path": "", "value": "x"}]), None),
        (
            "move",
            json!([{"op": "move", "from": "/a/b/0", "path": "/a/c"}]),
            Some(json!({"b": [2, 3], "c": 1})),
        ),
        ("move into itself", json!([{"op": "move", "from": "/a", "path": "/a/c"}]), None),
        ("move nothing", json!([{"op": "move", "from": "/a/c", "path": "/a/d"}]), None),
        (
            "copy",
            json!([{"op": "copy", "from": "/a/b", "path": "/a/c"}]),
            Some(json!({"b": [1, 2, 3], "c": [1, 2, 3]})),
        ),
        (
            "copy nothing",
            json!([{"op": "copy", "from": "/a/c", "path": "/a/d"}]),
            Some(json!({"b": [1, 2, 3], "d": null})),
        ),
        ("test", json!([{"op": "test", "path": "/a/b/1", "value": 2}]), Some(json!({"b": [1, 2, 3]}))),
        ("test fails", json!([{"op": "test", "path": "/a/b/1", "value": 3}]), None),
        ("test of another kind of number", json!([{"op": "test", "path": "/a/b/1", "value": 2.0}]), None),
        (
            "test null",
            json!([{"op": "test", "path": "/nothing", "value": null}]),
            Some(json!({"b": [1, 2, 3]})),
        ),
        ("test nothing", json!([{"op": "test", "path": "/q", "value": null}]), Some(json!({"b": [1, 2, 3]}))),
        ("test nothing is a value", json!([{"op": "test", "path": "/q", "value": 1}]), None),
        ("test below nothing", json!([{"op": "test", "path": "/q/r", "value": null}]), None),
        ("escapes", json!([{"op": "test", "path": "/x~1y/~0", "value": 0}]), Some(json!({"b": [1, 2, 3]}))),
        ("an unknown operation", json!([{"op": "increase", "path": "/a"}]), None),
        ("no operation", json!([{"path": "/a"}]), None),
        ("no path", json!([{"op": "remove"}]), None),
        ("null", json!([null]), None),
        (
            "one fails, all fail",
            json!([{"op": "remove", "path": "/a"}, {"op": "remove", "path": "/a"}]),
            None,
        ),
    ];
    for (name, patch, expected) in cases {
        let result = patched(&original, &patch).map(|mut value| value["a"].take());
        assert_eq!(result, expected, "{name}");
    }
}

#[test]
fn what_is_no_patch_is_a_bad_request() {
    let cases = [
        ("{}", "json: cannot unmarshal object into Go value of type jsonpatch.Patch"),
        ("\"x\"", "json: cannot unmarshal string into Go value of type jsonpatch.Patch"),
        ("[1]", "json: cannot unmarshal number into Go value of type jsonpatch.Operation"),
        ("[[]]", "json: cannot unmarshal array into Go value of type jsonpatch.Operation"),
    ];
    for (patch, message) in cases {
        let error = apply(&json!({}), patch.as_bytes()).unwrap_err();
        assert_eq!((error.code, error.reason, error.message.as_str()), (400, "BadRequest", message));
    }
    assert_eq!(apply(&json!({}), b"[").unwrap_err().code, 400);
    assert_eq!(apply(&json!({"a": 1}), b"null").unwrap(), json!({"a": 1}));
}

#[test]
fn the_number_of_operations_is_bounded() {
    let operation = r#"{"op":"test","path":"/q","value":null}"#;
    let patch = |count: usize| format!("[{}]", vec![operation; count].join(","));
    assert!(apply(&json!({}), patch(MAX_OPERATIONS).as_bytes()).is_ok());
    let error = apply(&json!({}), patch(MAX_OPERATIONS + 1).as_bytes()).unwrap_err();
    assert_eq!((error.code, error.reason), (413, "RequestEntityTooLarge"));
    let text = "Request entity too large: The allowed maximum operations in a JSON patch is 10000, got 10001";
    assert_eq!(error.message, text);
}

#[test]
fn copies_cannot_be_made_into_a_bomb() {
    // Each copy doubles the object.
    let patch: Vec<_> = (0..64).map(|_| json!({"op": "copy", "from": "/a", "path": "/a/-"})).collect();
    assert_eq!(patched(&json!({"a": ["x".repeat(50_000)]}), &json!(patch)), None);
    // Each copy makes it deeper.
    let patch: Vec<_> = (0..200).map(|_| json!({"op": "copy", "from": "/a", "path": "/a/b"})).collect();
    assert_eq!(patched(&json!({"a": {}}), &json!(patch)), None);
    let patch: Vec<_> =
        (0..9).map(|at| json!({"op": "copy", "from": "/a", "path": format!("/b{at}")})).collect();
    assert!(patched(&json!({"a": "x".repeat(300_000)}), &json!(patch)).is_some());
    assert_eq!(patched(&json!({"a": "x".repeat(400_000)}), &json!(patch)), None);
}

#[test]
fn objects_cannot_be_made_deep() {
    let deep = |depth: usize| {
        serde_json::from_str::<Value>(&format!("{}{}", "[".repeat(depth), "]".repeat(depth))).unwrap()
    };
    let add = |depth: usize| json!([{"op": "add", "path": "/a", "value": deep(depth)}]);
    assert!(patched(&json!({}), &add(100)).is_some());
    let below = format!("/a{}/0", "/0".repeat(90));
    let patch = json!([{"op": "add", "path": "/a", "value": deep(100)}, {"op": "add", "path": below, "value": deep(100)}]);
    assert_eq!(patched(&json!({}), &patch), None);
}

#[test]
fn moving_much_about_is_bounded() {
    let patch: Vec<_> = (0..MAX_OPERATIONS).map(|_| json!({"op": "remove", "path": "/0"})).collect();
    assert_eq!(patched(&Value::from(vec![0; 50_000]), &json!(patch)), None);
    let patch: Vec<_> = (0..MAX_OPERATIONS).map(|_| json!({"op": "add", "path": "/0", "value": 0})).collect();
    assert_eq!(patched(&Value::from(vec![0; 50_000]), &json!(patch)), None);
}

fn any_pointer() -> impl Strategy<Value = String> {
    prop::collection::vec("[a-d0-2]", 1..4).prop_map(|tokens| format!("/{}", tokens.join("/")))
}

fn any_operation() -> impl Strategy<Value = Value> {
    prop_oneof![
        (any_pointer(), any_value())
            .prop_map(|(path, value)| json!({"op": "add", "path": path, "value": value})),
        any_pointer().prop_map(|path| json!({"op": "remove", "path": path})),
        (any_pointer(), any_value())
            .prop_map(|(path, value)| json!({"op": "replace", "path": path, "value": value})),
        (any_pointer(), any_pointer())
            .prop_map(|(from, path)| json!({"op": "move", "from": from, "path": path})),
        (any_pointer(), any_pointer())
            .prop_map(|(from, path)| json!({"op": "copy", "from": from, "path": path})),
        (any_pointer(), any_value())
            .prop_map(|(path, value)| json!({"op": "test", "path": path, "value": value})),
    ]
}

proptest! {
    /// Whatever another implementation of the standard makes of a patch, this one makes too; it accepts more.
    #[test]
    fn what_the_standard_allows_gives_the_same(
        original in prop::collection::vec(("[a-d]", any_value()), 0..5),
        operations in prop::collection::vec(any_operation(), 0..4),
    ) {
        let original = Value::Object(original.into_iter().collect());
        let patch = Value::Array(operations);
        let mut expected = original.clone();
        let parsed: Patch = serde_json::from_value(patch.clone()).unwrap();
        if patch_unsafe(&mut expected, &parsed).is_ok() {
            prop_assert_eq!(apply(&original, patch.to_string().as_bytes()).unwrap(), expected);
        }
    }

    #[test]
    fn any_bytes_are_applied_or_refused(
        original in any_value(),
        operations in prop::collection::vec(any_value(), 0..3),
        path in "[/~a-c0-9-]{0,6}",
    ) {
        let operations: Vec<_> = operations
            .into_iter()
            .map(|value| json!({"op": "add", "path": path, "from": path, "value": value}))
            .flat_map(|operation| ["add", "copy", "move", "remove"].map(|name| {
                let mut operation = operation.clone();
                operation["op"] = name.into();
                operation
            }))
            .collect();
        let _ = apply(&original, Value::Array(operations).to_string().as_bytes());
        let _ = apply(&original, path.as_bytes());
    }
}

/// What is stored must be readable again, within the envelope of a list and beside its managed fields.
#[test]
fn a_replaced_document_is_bounded_in_depth_as_any_other() {
    let deep = |depth: usize| {
        let list = "[".repeat(depth) + &"]".repeat(depth);
        format!(r#"[{{"op":"replace","path":"","value":{{"a":{list}}}}}]"#)
    };
    assert!(apply(&json!({}), deep(100).as_bytes()).is_ok());
    assert_eq!(apply(&json!({}), deep(124).as_bytes()).unwrap_err().code, 422);
}
