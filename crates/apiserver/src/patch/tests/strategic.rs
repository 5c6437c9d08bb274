use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::any_value;
use crate::builtin;
use crate::kind::Kinds;
use crate::patch::strategic;
use crate::schema::{PatchStrategy, Schema, Shape};
use crate::status::ApiError;

fn object(fields: Vec<(&str, Schema)>) -> Schema {
    let fields: BTreeMap<_, _> =
        fields.into_iter().map(|(name, schema)| (name.to_owned(), Arc::new(schema))).collect();
    Schema { shape: Shape::Object { fields, required: Vec::new(), additional: None }, ..Schema::default() }
}

fn merging_list(items: Schema, key: Option<&str>) -> Schema {
    Schema {
        shape: Shape::List(Arc::new(items)),
        patch_strategy: PatchStrategy { merge: true, ..PatchStrategy::default() },
        patch_merge_key: key.map(str::to_owned),
        ..Schema::default()
    }
}

/// `containers` merge by `name` (and their `ports` by `containerPort`), `finalizers` are a set, `args` are replaced,
/// `strategy` takes `$retainKeys`, `source` is replaced as a whole.
fn schema() -> Schema {
    let text = || Schema { shape: Shape::String, ..Schema::default() };
    let port = object(vec![
        ("containerPort", Schema { shape: Shape::Integer, ..Schema::default() }),
        ("name", text()),
    ]);
    let container = object(vec![
        ("name", text()),
        ("image", text()),
        ("ports", merging_list(port, Some("containerPort"))),
        ("args", Schema { shape: Shape::List(Arc::new(text())), ..Schema::default() }),
    ]);
    let source = Schema {
        patch_strategy: PatchStrategy { replace: true, ..PatchStrategy::default() },
        ..object(vec![("a", text()), ("b", text())])
    };
    let strategy = Schema {
        patch_strategy: PatchStrategy { retain_keys: true, ..PatchStrategy::default() },
        ..object(vec![("type", text()), ("rolling", object(vec![]))])
    };
    object(vec![
        ("containers", merging_list(container, Some("name"))),
        ("finalizers", merging_list(text(), None)),
        ("keyless", merging_list(object(vec![]), None)),
        ("args", Schema { shape: Shape::List(Arc::new(text())), ..Schema::default() }),
        (
            "labels",
            Schema {
                shape: Shape::Object {
                    fields: BTreeMap::new(),
                    required: Vec::new(),
                    additional: Some(Arc::new(text())),
                },
                ..Schema::default()
            },
        ),
        ("strategy", strategy),
        ("source", source),
    ])
}

fn patched(original: &Value, patch: &Value) -> Value {
    strategic(original, patch, &schema()).unwrap_or_else(|error| panic!("{patch}: {error}"))
}

fn refused(original: &Value, patch: &Value) -> ApiError {
    strategic(original, patch, &schema()).unwrap_err()
}

fn names(value: &Value) -> Vec<&str> {
    value["containers"].as_array().unwrap().iter().map(|item| item["name"].as_str().unwrap()).collect()
}

fn containers(names: &[&str]) -> Value {
    json!({ "containers": names.iter().map(|name| json!({"name": name, "image": "i"})).collect::<Vec<_>>() })
}

#[test]
fn objects_and_lists_merge_as_their_schema_says() {
    let original = json!({
        "containers": [
            {"name": "a", "image": "1", "args": ["x"], "ports": [{"containerPort": 80, "name": "web"}]},
            {"name": "b", "image": "1"},
        ],
        "finalizers": ["x", "y"],
        "args": ["1", "2"],
        "labels": {"one": "1", "two": "2"},
        "source": {"a": "1"},
    });
    let cases = [
        ("labels", json!({"labels": {"two": null, "three": "3"}}), json!({"one": "1", "three": "3"})),
        ("labels", json!({"labels": null}), Value::Null),
        ("labels", json!({"labels": {"$patch": "replace", "three": "3"}}), json!({"three": "3"})),
        ("labels", json!({"labels": {"$patch": "delete"}}), json!({})),
        ("args", json!({"args": ["3"]}), json!(["3"])),
        ("finalizers", json!({"finalizers": ["y", "z"]}), json!(["x", "y", "z"])),
        ("finalizers", json!({"$deleteFromPrimitiveList/finalizers": ["x", "q"]}), json!(["y"])),
        ("missing", json!({"$deleteFromPrimitiveList/missing": ["x"]}), Value::Null),
        ("source", json!({"source": {"b": "2"}}), json!({"b": "2"})),
        (
            "new",
            json!({"new": {"a": null, "b": [{"c": null}], "d": {"$patch": "delete"}, "$retainKeys": []}}),
            json!({"b": [{}]}),
        ),
        ("labels", json!({"labels": "text"}), json!("text")),
        (
            "containers",
            json!({"containers": [{"name": "b", "image": "2"}]}),
            json!([
                {"name": "a", "image": "1", "args": ["x"], "ports": [{"containerPort": 80, "name": "web"}]},
                {"name": "b", "image": "2"},
            ]),
        ),
        (
            "containers",
            json!({"containers": [{"name": "a", "$patch": "delete"}]}),
            json!([{"name": "b", "image": "1"}]),
        ),
        ("containers", json!({"containers": [{"$patch": "replace"}, {"name": "c"}]}), json!([{"name": "c"}])),
        (
            "containers",
            json!({"containers": [
                {"name": "a", "args": ["y"], "ports": [{"containerPort": 81}, {"containerPort": 80, "$patch": "delete"}]},
                {"name": "b", "$patch": "delete"},
            ]}),
            json!([{"name": "a", "image": "1", "args": ["y"], "ports": [{"containerPort": 81}]}]),
        ),
    ];
    for (field, patch, expected) in cases {
        let result = patched(&original, &patch);
        assert_eq!(result.get(field).unwrap_or(&Value::Null), &expected, "{patch}");
    }
    assert_eq!(patched(&original, &json!({"$patch": "replace", "args": []})), json!({"args": []}));
    assert_eq!(patched(&original, &json!({"$patch": "delete"})), json!({}));
}

#[test]
fn directives_for_what_is_not_there_leave_nothing_behind() {
    let patch = json!({
        "labels": {"$patch": "delete"},
        "containers": [{"name": "a", "$patch": "delete"}, {"name": "b", "image": null}],
        "$setElementOrder/containers": [{"name": "b"}],
        "finalizers": ["x"],
        "$setElementOrder/finalizers": ["x"],
    });
    assert_eq!(patched(&json!({}), &patch), json!({"containers": [{"name": "b"}], "finalizers": ["x"]}));
}

#[test]
fn lists_take_the_order_that_the_patch_sets() {
    // As kubectl apply sends it; `x` and `y` are the server's own.
    let original = containers(&["x", "a", "y", "b", "c"]);
    let order = |names: &[&str]| names.iter().map(|name| json!({ "name": name })).collect::<Vec<_>>();
    let cases: &[(Value, &[&str])] = &[
        (json!({"$setElementOrder/containers": order(&["a", "b", "c"])}), &["x", "a", "y", "b", "c"]),
        (json!({"$setElementOrder/containers": order(&["c", "b", "a"])}), &["x", "y", "c", "b", "a"]),
        (json!({"$setElementOrder/containers": order(&["b", "a", "c"])}), &["x", "y", "b", "a", "c"]),
        (
            json!({"$setElementOrder/containers": order(&["a", "n", "b", "c"]), "containers": [{"name": "n"}]}),
            &["x", "a", "n", "y", "b", "c"],
        ),
        (
            json!({
                "$setElementOrder/containers": order(&["a", "c"]),
                "containers": [{"name": "c", "image": "2"}, {"name": "b", "$patch": "delete"}],
            }),
            &["x", "a", "y", "c"],
        ),
        // Without an order, the order of the patch counts.
        (json!({"containers": [{"name": "c"}, {"name": "a"}]}), &["x", "y", "b", "c", "a"]),
        (json!({"containers": [{"name": "n"}]}), &["n", "x", "a", "y", "b", "c"]),
    ];
    for (patch, expected) in cases {
        assert_eq!(names(&patched(&original, patch)), *expected, "{patch}");
    }
    let original = json!({"finalizers": ["x", "a", "y", "b"]});
    let patch = json!({
        "$setElementOrder/finalizers": ["n", "a"],
        "$deleteFromPrimitiveList/finalizers": ["b"],
        "finalizers": ["n"],
    });
    assert_eq!(patched(&original, &patch), json!({"finalizers": ["n", "x", "a", "y"]}));
}

#[test]
fn retained_keys_drop_the_others() {
    let original = json!({"strategy": {"type": "Rolling", "rolling": {"surge": 1}}});
    let patch = json!({"strategy": {"$retainKeys": ["type"], "type": "Recreate"}});
    assert_eq!(patched(&original, &patch), json!({"strategy": {"type": "Recreate"}}));
    let patch = json!({"strategy": {"$retainKeys": ["type"], "type": "Recreate", "rolling": null}});
    assert_eq!(patched(&original, &patch), json!({"strategy": {"type": "Recreate"}}));
}

#[test]
fn a_patch_that_cannot_be_applied_is_refused_in_kubernetes_words() {
    let original = json!({
        "containers": [{"name": "a"}], "finalizers": ["x"], "strategy": {"type": "x"}, "keyless": [{"a": 1}], "labels": {},
    });
    let cases = [
        (
            json!({"containers": [{"image": "httpd", "args": ["b", "c"]}]}),
            500,
            "map: map[args:[b c] image:httpd] does not contain declared merge key: name",
        ),
        (
            json!({"containers": [{"$patch": "delete"}]}),
            500,
            "map: map[$patch:delete] does not contain declared merge key: name",
        ),
        (
            json!({"containers": [{"name": "a", "$patch": "merge"}]}),
            500,
            "merging lists cannot yet be specified in the patch",
        ),
        (
            json!({"containers": [{"name": "a", "$patch": "sort"}]}),
            500,
            "unknown patch type: sort in map: map[$patch:sort name:a]",
        ),
        (json!({"labels": {"$patch": "merge"}}), 500, "unknown patch type: merge in map: map[$patch:merge]"),
        (json!({"containers": ["a"]}), 500, "list element types are not identical: [[map[name:a]] [a]]"),
        (json!({"keyless": [{"a": 1}]}), 500, "cannot merge lists without merge key for type struct"),
        (
            json!({"$setElementOrder/containers": {}}),
            500,
            "expected a []interface {}, but received a map[string]interface {}",
        ),
        (
            json!({"$setElementOrder/containers": [], "containers": "x"}),
            500,
            "expected a []interface {}, but received a string",
        ),
        (
            json!({"$setElementOrder/finalizers": ["b", "a"], "finalizers": ["a", "b"]}),
            500,
            "The order in patch list:\n[a b]\n doesn't match $setElementOrder list:\n[b a]\n",
        ),
        (json!({"finalizers": [["x"]]}), 500, "list element types are not identical: [[x] [[x]]]"),
        (
            json!({"strategy": {"$retainKeys": ["rolling"], "type": "x"}}),
            400,
            "invalid patch format of retainKeys",
        ),
        (json!({"strategy": {"$retainKeys": "type"}}), 400, "invalid patch format of retainKeys"),
        (json!({"$deleteFromPrimitiveList": ["x"]}), 400, "invalid patch format of primitive list"),
        (json!({"$setElementOrder": ["x"]}), 400, "invalid patch format of setElementOrder list"),
        (json!([]), 400, "invalid JSON document"),
    ];
    for (patch, code, message) in cases {
        let error = refused(&original, &patch);
        assert_eq!((error.code, error.message.as_str()), (code, message), "{patch}");
        assert_eq!(error.reason, if code == 400 { "BadRequest" } else { "" });
    }
    let error = refused(&json!({"finalizers": [["x"]]}), &json!({"finalizers": [["y"]]}));
    assert_eq!((error.code, error.reason), (422, "Invalid"));
}

#[test]
fn a_long_list_takes_no_time() {
    let numbers = |from: usize| (from..from + 30_000).map(|number| number.to_string()).collect::<Vec<_>>();
    let merged = patched(&json!({"finalizers": numbers(0)}), &json!({"finalizers": numbers(15_000)}));
    assert_eq!(merged["finalizers"].as_array().unwrap().len(), 45_000);
}

#[test]
fn what_a_message_quotes_is_bounded() {
    let wide: Map<String, Value> = (0..10_000).map(|at| (at.to_string(), json!("x"))).collect();
    let error = refused(&containers(&["a"]), &json!({ "containers": [wide] }));
    assert!(error.message.len() < 10_000, "{}", error.message.len());
    let long = json!({"containers": [{"image": "€".repeat(100_000)}]});
    assert!(refused(&containers(&["a"]), &long).message.len() < 20_000);
}

/// The schema of a built-in kind, as the server has it.
fn built_in(group: &str, kind: &str) -> Arc<Schema> {
    let kinds = Kinds::new(builtin::kinds());
    kinds.kind(group, kind).unwrap().schema.schema()
}

#[test]
fn pods_merge_as_their_schema_says() {
    let pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "p",
            "labels": {"a": "1"},
            "finalizers": ["x"],
            "ownerReferences": [{"uid": "1", "name": "o"}, {"uid": "2", "name": "q"}],
        },
        "spec": {
            "containers": [
                {"name": "a", "image": "1", "env": [{"name": "K", "value": "v"}], "command": ["sh"]},
                {"name": "b", "image": "1"},
            ],
            "volumes": [{"name": "v", "emptyDir": {}}],
            "nodeSelector": {"n": "1"},
            "tolerations": [{"key": "t"}],
        },
        "status": {"conditions": [{"type": "Ready", "status": "False"}], "podIPs": [{"ip": "10.0.0.1"}]},
    });
    let patch = json!({
        "metadata": {
            "labels": {"a": null, "b": "2"},
            "finalizers": ["y"],
            "$deleteFromPrimitiveList/finalizers": ["x"],
            "ownerReferences": [{"uid": "1", "$patch": "delete"}],
        },
        "spec": {
            "$setElementOrder/containers": [{"name": "b"}, {"name": "a"}],
            "containers": [{"name": "a", "command": ["ls"], "env": [{"name": "L", "value": "w"}]}],
            "volumes": [{"name": "v", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/"}}],
            "nodeSelector": {"m": "2"},
            "tolerations": [{"key": "u"}],
        },
        "status": {"conditions": [{"type": "Ready", "status": "True"}, {"type": "Other", "status": "True"}]},
    });
    let expected = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "p",
            "labels": {"b": "2"},
            "finalizers": ["y"],
            "ownerReferences": [{"uid": "2", "name": "q"}],
        },
        "spec": {
            "containers": [
                {"name": "b", "image": "1"},
                {"name": "a", "image": "1", "command": ["ls"], "env": [{"name": "L", "value": "w"}, {"name": "K", "value": "v"}]},
            ],
            "volumes": [{"name": "v", "hostPath": {"path": "/"}}],
            "nodeSelector": {"n": "1", "m": "2"},
            "tolerations": [{"key": "u"}],
        },
        "status": {
            "conditions": [{"type": "Ready", "status": "True"}, {"type": "Other", "status": "True"}],
            "podIPs": [{"ip": "10.0.0.1"}],
        },
    });
    assert_eq!(strategic(&pod, &patch, &built_in("", "Pod")).unwrap(), expected);
}

/// Objects of roughly the schema's form, with directives here and there.
fn any_object(directives: bool) -> impl Strategy<Value = Value> {
    let item = ("[a-c]", prop::option::of("[xy]"), prop::bool::weighted(if directives { 0.2 } else { 0.0 }))
        .prop_map(|(name, image, delete)| {
            let mut item = json!({ "name": name });
            if let Some(image) = image {
                item["image"] = image.into();
            }
            if delete {
                item["$patch"] = "delete".into();
            }
            item
        });
    let named = |items: Vec<Value>| {
        let mut seen = std::collections::HashSet::new();
        items.into_iter().filter(|item| seen.insert(item["name"].to_string())).collect::<Vec<_>>()
    };
    (
        prop::option::of(prop::collection::vec(item, 0..4).prop_map(named)),
        prop::option::of(prop::collection::hash_set("[a-d]", 0..4)),
        prop::option::of(any_value().prop_filter("an object", Value::is_object)),
    )
        .prop_map(|(containers, finalizers, labels)| {
            let mut object = json!({});
            if let Some(containers) = containers {
                object["containers"] = containers.into();
            }
            if let Some(finalizers) = finalizers {
                object["finalizers"] = finalizers.into_iter().collect();
            }
            if let Some(labels) = labels {
                object["labels"] = labels;
            }
            object
        })
}

/// Puts directives in the place of letters.
fn with_directives(value: &Value) -> Value {
    match value {
        Value::Object(fields) => fields
            .iter()
            .map(|(name, value)| {
                let name = match name.as_str() {
                    "a" => "containers",
                    "b" => "$setElementOrder/containers",
                    "c" => "$patch",
                    _ => "$retainKeys",
                };
                (name.to_owned(), if name == "$patch" { json!("delete") } else { with_directives(value) })
            })
            .collect(),
        Value::Array(items) => items.iter().map(with_directives).collect(),
        Value::String(text) if text.starts_with('a') => json!({"name": text}),
        other => other.clone(),
    }
}

proptest! {
    #[test]
    fn an_empty_patch_changes_nothing(original in any_object(false)) {
        prop_assert_eq!(patched(&original, &json!({})).to_string(), original.to_string());
    }

    #[test]
    fn patching_twice_is_patching_once(original in any_object(false), patch in any_object(true)) {
        let once = patched(&original, &patch);
        prop_assert_eq!(patched(&once, &patch).to_string(), once.to_string());
    }

    #[test]
    fn the_order_that_is_set_is_the_order_that_results(
        original in any_object(false),
        wanted in prop::collection::hash_set("[a-d]", 1..4),
    ) {
        let wanted: Vec<_> = wanted.into_iter().collect();
        let patch = json!({"$setElementOrder/finalizers": wanted, "finalizers": wanted});
        let result = patched(&original, &patch);
        let kept: Vec<_> = result["finalizers"].as_array().unwrap().iter().filter_map(Value::as_str)
            .filter(|item| wanted.iter().any(|name| name == item)).collect();
        prop_assert_eq!(kept, wanted);
    }

    #[test]
    fn any_patch_is_applied_or_refused(original in any_value(), patch in any_value()) {
        let _ = strategic(&original, &patch, &schema());
        let _ = strategic(&with_directives(&original), &with_directives(&patch), &schema());
        let _ = strategic(&original, &with_directives(&patch), &Schema::default());
    }
}
