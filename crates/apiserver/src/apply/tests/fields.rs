//! Elements and sets, in memory and on the wire.

use serde_json::{Value, json};

use super::super::element::{Element, compare_values, same};
use super::super::managers::{DecodeError, Owners};
use super::super::set::Set;
use super::super::typed::Typed;
use super::{schema, thing};

#[test]
fn elements_are_written_as_kubernetes_writes_them() {
    let cases = [
        (Element::field("spec"), "f:spec", ".spec"),
        (Element::field("a/b.c"), "f:a/b.c", ".a/b.c"),
        (
            Element::Key(vec![("containerPort".into(), json!(80)), ("protocol".into(), json!("TCP"))]),
            r#"k:{"containerPort":80,"protocol":"TCP"}"#,
            r#"[containerPort=80,protocol="TCP"]"#,
        ),
        (Element::Value(json!("a\"b")), r#"v:"a\"b""#, r#"[="a\"b"]"#),
        (Element::Value(json!("<&>")), r#"v:"\u003c\u0026\u003e""#, r#"[="<&>"]"#),
        (Element::Value(json!(true)), "v:true", "[=true]"),
        (Element::Value(json!(1.5)), "v:1.5", "[=1.5]"),
        (Element::Value(json!(1e21)), "v:1e+21", "[=1e+21]"),
        (Element::Value(json!(1e-7)), "v:1e-7", "[=1e-7]"),
        (Element::Index(3), "i:3", "[3]"),
    ];
    for (element, encoded, shown) in cases {
        assert_eq!(element.encode(), encoded);
        assert_eq!(element.to_string(), shown);
        assert_eq!(Element::parse(encoded).unwrap(), element);
    }
    // A fraction that is whole loses its point, as in Go.
    assert_eq!(Element::Value(json!(2.0)).encode(), "v:2");
}

#[test]
fn what_is_no_element_is_refused_or_left_out() {
    for malformed in ["", "f", "fx", "v:", "v:{", "k:[]", "k:1", "i:x", "é:x"] {
        assert!(Element::parse(malformed).is_err(), "{malformed:?}");
    }
    assert_eq!(Set::decode(&json!({"x:later": {}, "f:a": {}})).unwrap(), Set::of(&[&["a"]]));
    assert!(Set::decode(&json!({"a": {}})).is_err());
    assert!(Set::decode(&json!({"f:a": 1})).is_err());
    assert!(Set::decode(&json!("x")).is_err());
}

#[test]
fn the_order_is_fields_keys_values_places() {
    let mut elements = [
        Element::Index(0),
        Element::Value(json!("a")),
        Element::Value(json!(2)),
        Element::Key(vec![("name".into(), json!("a"))]),
        Element::field("b"),
        Element::field("a"),
    ];
    elements.sort();
    let encoded: Vec<_> = elements.iter().map(Element::encode).collect();
    assert_eq!(encoded, ["f:a", "f:b", r#"k:{"name":"a"}"#, "v:2", r#"v:"a""#, "i:0"]);
}

#[test]
fn numbers_are_equal_by_value() {
    assert!(same(&json!({"a": 1, "b": [2.0]}), &json!({"b": [2], "a": 1.0})));
    assert!(!same(&json!(1), &json!(1.5)));
    assert!(!same(&json!(1), &json!("1")));
    assert!(!same(&json!({"a": null}), &json!({})));
    let ordered = [
        json!(-1e300),
        json!(-3),
        json!(-2.5),
        json!(0),
        json!(2.5),
        json!(3),
        json!(u64::MAX),
        json!(1e300),
    ];
    for pair in ordered.windows(2) {
        assert!(compare_values(&pair[0], &pair[1]).is_lt(), "{pair:?}");
        assert!(compare_values(&pair[1], &pair[0]).is_gt(), "{pair:?}");
    }
}

#[test]
fn a_set_is_written_with_its_own_marker_first() {
    let fields = json!({
        "f:metadata": {"f:labels": {".": {}, "f:app": {}}},
        "f:spec": {
            "f:containers": {"k:{\"name\":\"web\"}": {".": {}, "f:image": {}, "f:name": {}}},
            "f:tags": {"v:\"x\"": {}},
        },
    });
    let set = Set::decode(&fields).unwrap();
    assert_eq!(set.encode().to_string(), fields.to_string());
    assert!(set.has(&[Element::field("metadata"), Element::field("labels")]));
    assert!(!set.has(&[Element::field("metadata")]));
    assert!(!set.has(&[]));
}

#[test]
fn the_fields_of_a_value_follow_its_schema() {
    let schema = schema();
    let value = thing(json!({
        "metadata": {"labels": {"a": "b"}, "finalizers": ["x/y"], "annotations": {}},
        "data": {"k": "v"},
        "spec": {
            "replicas": null,
            "selector": {"a": "b"},
            "args": ["x"],
            "tags": ["t", "u", "t"],
            "strategy": {},
            "containers": [{
                "name": "c",
                "ports": [{"containerPort": 80}, {"protocol": "UDP", "containerPort": 80, "name": "dns"}],
            }],
            "extra": {"deep": {"list": [1, {"a": 1}]}, "none": null},
        },
    }));
    assert_eq!(
        Typed::root(&schema).fields_of(&value).encode(),
        json!({
            "f:apiVersion": {}, "f:kind": {},
            "f:data": {"f:k": {}},
            "f:metadata": {
                "f:name": {}, "f:namespace": {},
                "f:labels": {"f:a": {}},
                "f:annotations": {},
                "f:finalizers": {"v:\"x/y\"": {}},
            },
            "f:spec": {
                "f:replicas": {},
                "f:selector": {},
                "f:args": {},
                "f:tags": {"v:\"t\"": {}, "v:\"u\"": {}},
                "f:strategy": {},
                "f:containers": {"k:{\"name\":\"c\"}": {
                    ".": {},
                    "f:name": {},
                    "f:ports": {
                        "k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}},
                        "k:{\"containerPort\":80,\"protocol\":\"UDP\"}":
                            {".": {}, "f:containerPort": {}, "f:name": {}, "f:protocol": {}},
                    },
                }},
                "f:extra": {"f:deep": {".": {}, "f:list": {}}, "f:none": {}},
            },
        })
    );
}

#[test]
fn deep_values_are_owned_as_a_whole_at_last() {
    let mut deep = json!(1);
    for _ in 0..2_000 {
        deep = json!({"a": deep});
    }
    let schema = schema();
    let mut value = thing(json!({"spec": {}}));
    value["spec"]["extra"] = deep;
    let encoded = Typed::root(&schema).fields_of(&value).encode().to_string();
    assert_eq!(encoded.matches("\"f:a\"").count(), 62);
    // Values as deep as this are dropped by hand elsewhere; here the test must not overflow on its own.
    std::mem::forget(value);
}

#[test]
fn entries_that_cannot_be_read_are_told_apart() {
    let with = |entry: Value| json!({"metadata": {"managedFields": [entry]}});
    let whole = json!({"manager": "m", "operation": "Update", "apiVersion": "v1", "fieldsType": "FieldsV1",
        "fieldsV1": {"f:a": {}}, "time": "2023-11-14T22:13:20Z"});
    assert_eq!(Owners::of(&with(whole.clone())).unwrap().0.len(), 1);
    let cases = [
        ("operation", json!("Patch"), DecodeError::Operation),
        ("apiVersion", json!(""), DecodeError::ApiVersion),
        ("fieldsType", json!(""), DecodeError::MissingFieldsType(0)),
        ("fieldsType", json!("FieldsV2"), DecodeError::FieldsType(0, "FieldsV2".into())),
        ("time", json!("yesterday"), DecodeError::Time("yesterday".into())),
        ("manager", json!(1), DecodeError::Shape),
    ];
    for (field, value, error) in cases {
        let mut entry = whole.clone();
        entry[field] = value;
        assert_eq!(Owners::of(&with(entry)), Err(error), "{field}");
    }
    assert_eq!(Owners::of(&json!({"metadata": {"managedFields": "x"}})), Err(DecodeError::Shape));
    assert_eq!(Owners::of(&json!({"metadata": {"managedFields": null}})).unwrap(), Owners::default());
}
