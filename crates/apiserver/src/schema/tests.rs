#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn schema(components: Value) -> Schema {
    Schema::from_components(components.as_object().unwrap(), "io.example.v1.Thing")
}

/// The schema of an object whose `spec` is as described.
fn spec(described: Value) -> Schema {
    schema(json!({"io.example.v1.Thing": {"type": "object", "properties": {"spec": described}}}))
}

fn faults(schema: &Schema, value: Value) -> Vec<String> {
    schema.validate(&value).iter().map(ToString::to_string).collect()
}

fn spec_of(schema: &Schema) -> &Schema {
    schema.field("spec").unwrap()
}

/// Things with much inside, as Kubernetes describes a Pod.
fn thing() -> Schema {
    schema(json!({
        "io.example.v1.Thing": {
            "type": "object",
            "properties": {
                "metadata": {"allOf": [{"$ref": "#/components/schemas/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"}]},
                "spec": {"description": "what", "default": {}, "allOf": [{"$ref": "#/components/schemas/io.example.v1.ThingSpec"}]},
            },
            "required": ["spec"],
        },
        "io.example.v1.ThingSpec": {
            "type": "object",
            "required": ["size"],
            "properties": {
                "size": {"type": "integer", "format": "int32", "minimum": 1, "maximum": 10},
                "host": {"type": "boolean"},
                "ratio": {"type": "number"},
                "mode": {"type": "string", "enum": ["B", "C"], "default": "B"},
                "when": {"$ref": "#/components/schemas/io.k8s.apimachinery.pkg.apis.meta.v1.Time"},
                "data": {"type": "object", "additionalProperties": {"type": "string", "format": "byte"}},
                "port": {"$ref": "#/components/schemas/io.k8s.apimachinery.pkg.util.intstr.IntOrString"},
                "limits": {
                    "type": "object",
                    "additionalProperties": {"$ref": "#/components/schemas/io.k8s.apimachinery.pkg.api.resource.Quantity"},
                },
                "containers": {
                    "type": "array",
                    "items": {"$ref": "#/components/schemas/io.example.v1.Container"},
                    "x-kubernetes-list-type": "map",
                    "x-kubernetes-list-map-keys": ["name"],
                    "x-kubernetes-patch-strategy": "merge,retainKeys",
                    "x-kubernetes-patch-merge-key": "name",
                },
                "tags": {"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "set", "maxItems": 3},
                "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {"known": {"type": "object"}}},
                "any": {},
                "maybe": {"type": ["string", "null"]},
                "choice": {"anyOf": [{"$ref": "#/components/schemas/io.example.v1.Container"}, {"type": "null"}]},
                "selector": {"type": "object", "x-kubernetes-map-type": "atomic", "properties": {"a": {"type": "string"}}},
            },
        },
        "io.example.v1.Container": {
            "type": "object",
            "required": ["name"],
            "properties": {
                "name": {"type": "string", "pattern": "^[a-z]+$", "maxLength": 5, "minLength": 2},
                "command": {"type": "array", "items": {"type": "string"}},
                "pull": {"type": "string", "default": "Always"},
                "inner": {"$ref": "#/components/schemas/io.example.v1.Container"},
            },
        },
        "io.k8s.apimachinery.pkg.apis.meta.v1.Time": {"type": "string", "format": "date-time"},
        "io.k8s.apimachinery.pkg.api.resource.Quantity": {"type": "string"},
        "io.k8s.apimachinery.pkg.util.intstr.IntOrString": {"type": "string", "format": "int-or-string"},
    }))
}

#[test]
fn extensions_and_shapes_are_read() {
    let thing = thing();
    let spec = spec_of(&thing);
    assert_eq!(spec.definition.as_deref(), Some("io.example.v1.ThingSpec"));
    assert_eq!(spec.default, Some(json!({})));
    let containers = spec.field("containers").unwrap();
    assert_eq!(containers.list_type, ListType::Map(vec!["name".to_owned()]));
    assert_eq!(containers.patch_strategy, PatchStrategy { merge: true, retain_keys: true, replace: false });
    assert_eq!(containers.patch_merge_key.as_deref(), Some("name"));
    assert_eq!(spec.field("tags").unwrap().list_type, ListType::Set);
    assert!(spec.field("selector").unwrap().atomic_map);
    assert!(spec.field("maybe").unwrap().nullable);
    assert_eq!(spec.field("maybe").unwrap().shape, Shape::String);
    assert!(spec.field("choice").unwrap().nullable);
    assert!(matches!(spec.field("choice").unwrap().shape, Shape::Object { .. }));
    assert_eq!(spec.field("port").unwrap().shape, Shape::IntOrString);
    assert_eq!(spec.field("limits").unwrap().field("cpu").unwrap().shape, Shape::IntOrString);
    assert_eq!(spec.field("mode").unwrap().allowed, [json!("B"), json!("C")]);
    assert_eq!(spec.field("any").unwrap().shape, Shape::Any);
}

#[test]
fn equal_leaves_and_definitions_are_shared_and_cycles_end() {
    let thing = thing();
    let spec = spec_of(&thing);
    let container = spec.field("containers").unwrap().items().unwrap();
    assert!(Arc::ptr_eq(
        container.field("command").unwrap().items().unwrap(),
        spec.field("tags").unwrap().items().unwrap()
    ));
    let inner = container.field("inner").unwrap();
    assert_eq!(inner.shape, Shape::Any);
    assert!(inner.preserve_unknown_fields);
    assert!(Arc::ptr_eq(thing.field("metadata").unwrap(), object_meta()));
}

#[test]
fn what_schemars_derives_is_understood() {
    let text = |described: Value| spec_of(&spec(described)).clone();
    let choice = text(
        json!({"oneOf": [{"const": "A", "type": "string", "description": "a"}, {"const": "B", "type": "string"}]}),
    );
    assert_eq!((choice.shape, choice.allowed), (Shape::String, vec![json!("A"), json!("B")]));
    let optional =
        text(json!({"anyOf": [{"type": "string", "enum": ["A"]}, {"const": null, "nullable": true}]}));
    assert_eq!(
        (optional.shape, optional.nullable, optional.allowed),
        (Shape::String, true, vec![json!("A")])
    );
    let number = text(json!({"type": ["integer", "null"], "format": "uint32", "minimum": 0}));
    assert_eq!((number.shape, number.nullable, number.minimum), (Shape::Integer, true, Some(0.0)));
    let either = text(json!({"anyOf": [{"type": "integer"}, {"type": "string"}]}));
    assert_eq!(either.shape, Shape::IntOrString);
    let either = text(json!({"type": ["string", "integer"]}));
    assert_eq!(either.shape, Shape::IntOrString);
    let map = text(json!({"type": "object", "additionalProperties": true}));
    assert!(map.preserve_unknown_fields);
    let closed = text(json!({"type": "object", "additionalProperties": false}));
    assert_eq!(closed.field("x"), None);
    assert!(!closed.preserve_unknown_fields);
    assert_eq!(text(json!(true)).shape, Shape::Any);
    assert_eq!(text(json!({"anyOf": [{"type": "object"}, {"type": "string"}]})).shape, Shape::Any);
    assert_eq!(text(json!({"$ref": "#/$defs/missing"})).shape, Shape::Any);
}

#[test]
fn the_schemas_of_k8s_openapi_are_understood() {
    let generator = k8s_openapi::schemars::generate::SchemaSettings::openapi3().into_generator();
    let mut generator = generator;
    generator.subschema_for::<k8s_openapi::api::core::v1::Pod>();
    let components = generator.definitions().clone();
    let pod = Schema::from_components(&components, "io.k8s.api.core.v1.Pod");
    let container = spec_of(&pod).field("containers").unwrap().items().unwrap();
    assert_eq!(container.definition.as_deref(), Some("io.k8s.api.core.v1.Container"));
    assert_eq!(
        container.field("ports").unwrap().items().unwrap().field("containerPort").unwrap().shape,
        Shape::Integer
    );
    let mut value = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x", "creationTimestamp": null, "nope": 1},
        "spec": {
            "containers": [{
                "name": "a", "resources": {"limits": {"cpu": 0.5, "memory": "1Gi"}}, "wat": 1,
                "livenessProbe": {"httpGet": {"port": "http"}},
            }],
            "volumes": [{"name": "v", "emptyDir": {}}],
        },
    });
    assert_eq!(pod.prune(&mut value), ["metadata.nope", "spec.containers[0].wat"]);
    assert_eq!(pod.check_types("Pod", "v1", &value), Ok(()));
    value["spec"]["hostNetwork"] = json!("yes");
    assert_eq!(
        pod.check_types("Pod", "v1", &value).unwrap_err().message,
        "Pod in version \"v1\" cannot be handled as a Pod: json: cannot unmarshal string into Go struct field \
         PodSpec.spec.hostNetwork of type bool"
    );
    value["spec"]["hostNetwork"] = json!(true);
    value["spec"]["containers"][0]["env"] = json!([{"name": "a", "value": 1}]);
    assert_eq!(
        pod.check_types("Pod", "v1", &value).unwrap_err().message,
        "Pod in version \"v1\" cannot be handled as a Pod: json: cannot unmarshal number into Go struct field \
         EnvVar.spec.containers.env.value of type string"
    );
    value["spec"]["containers"] = json!("x");
    assert!(pod.check_types("Pod", "v1", &value).unwrap_err().message.ends_with(
        "cannot unmarshal string into Go struct field PodSpec.spec.containers of type []v1.Container"
    ));
}

#[test]
fn unknown_fields_are_removed_and_named() {
    let mut value = json!({
        "apiVersion": "v1", "kind": "Thing", "extra": {"a": 1},
        "metadata": {"name": "x", "labels": {"any": "x"}, "odd": 1, "ownerReferences": [{"uid": "u", "odd": 1}],
            "managedFields": [{"fieldsV1": {"f:a": {}}}]},
        "spec": {
            "foo": 1,
            "containers": [{"name": "a"}, {"bar": {}, "name": "b", "command": [{"x": 1}]}],
            "free": {"whatever": {"a": 1}, "known": {"b": 1}},
            "any": {"x": [{"y": 1}]},
            "limits": {"cpu": 1},
            "size": {"not": "an integer"},
        },
    });
    let unknown = thing().prune(&mut value);
    assert_eq!(
        unknown,
        [
            "extra",
            "metadata.odd",
            "metadata.ownerReferences[0].odd",
            "spec.foo",
            "spec.containers[1].bar",
            "spec.free.known.b"
        ]
    );
    assert_eq!(
        value,
        json!({
            "apiVersion": "v1", "kind": "Thing",
            "metadata": {"name": "x", "labels": {"any": "x"}, "ownerReferences": [{"uid": "u"}],
                "managedFields": [{"fieldsV1": {"f:a": {}}}]},
            "spec": {
                "containers": [{"name": "a"}, {"name": "b", "command": [{"x": 1}]}],
                "free": {"whatever": {"a": 1}, "known": {}},
                "any": {"x": [{"y": 1}]},
                "limits": {"cpu": 1},
                "size": {"not": "an integer"},
            },
        })
    );
}

#[test]
fn the_paths_of_many_unknown_fields_stay_few_and_short() {
    let key = "k".repeat(100_000);
    let many: Map<String, Value> = (0..500).map(|number| (format!("x{number}"), json!(1))).collect();
    let mut value = json!({"spec": {"limits": {}}, key: 1, "y": many.clone()});
    let open = spec(json!({"type": "object"}));
    let mut wide = json!({"spec": many});
    assert_eq!(open.prune(&mut wide).len(), 100);
    assert_eq!(wide, json!({"spec": {}}));
    assert!(thing().prune(&mut value).iter().all(|path| path.len() < 5000));
}

#[test]
fn nulls_mean_unset_unless_they_are_values() {
    let mut value = json!({
        "metadata": {"creationTimestamp": null, "labels": {"a": null}, "annotations": null},
        "spec": {"size": null, "maybe": null, "choice": null, "any": null, "free": {"x": null, "known": null},
            "containers": [{"name": null, "command": null}], "limits": {"cpu": null}},
        "status": null,
    });
    thing().drop_nulls(&mut value);
    assert_eq!(
        value,
        json!({
            "metadata": {"labels": {"a": ""}},
            "spec": {"maybe": null, "choice": null, "any": null, "free": {"x": null}, "containers": [{}], "limits": {}},
            "status": null,
        })
    );
}

#[test]
fn defaults_are_filled_in_where_there_is_an_object() {
    let mut value =
        json!({"spec": {"size": 1, "containers": [{"name": "ab"}, {"pull": "Never"}, {"pull": null}]}});
    thing().fill_defaults(&mut value);
    assert_eq!(
        value,
        json!({"spec": {"size": 1, "mode": "B", "containers": [
            {"name": "ab", "pull": "Always"}, {"pull": "Never"}, {"pull": "Always"},
        ]}})
    );
    let mut empty = json!({});
    thing().fill_defaults(&mut empty);
    assert_eq!(empty, json!({"spec": {"mode": "B"}}));
}

#[test]
fn faults_are_worded_as_by_kubernetes() {
    let thing = thing();
    let fault = |field: &str, value: Value| {
        let mut object = json!({"spec": {"size": 1}});
        object["spec"][field] = value;
        faults(&thing, object)
    };
    assert_eq!(faults(&thing, json!({})), ["spec: Required value"]);
    assert_eq!(faults(&thing, json!({"spec": {}})), ["spec.size: Required value"]);
    for (field, value, expected) in [
        (
            "size",
            json!("x"),
            "spec.size: Invalid value: \"string\": spec.size in body must be of type integer: \"string\"",
        ),
        (
            "size",
            json!(1.5),
            "spec.size: Invalid value: \"number\": spec.size in body must be of type integer: \"number\"",
        ),
        (
            "size",
            json!(null),
            "spec.size: Invalid value: \"null\": spec.size in body must be of type integer: \"null\"",
        ),
        (
            "size",
            json!(0),
            "spec.size: Invalid value: 0: spec.size in body should be greater than or equal to 1",
        ),
        (
            "size",
            json!(11),
            "spec.size: Invalid value: 11: spec.size in body should be less than or equal to 10",
        ),
        (
            "host",
            json!({}),
            "spec.host: Invalid value: \"object\": spec.host in body must be of type boolean: \"object\"",
        ),
        (
            "ratio",
            json!([]),
            "spec.ratio: Invalid value: \"array\": spec.ratio in body must be of type number: \"array\"",
        ),
        ("mode", json!("A"), "spec.mode: Unsupported value: \"A\": supported values: \"B\", \"C\""),
        (
            "port",
            json!(true),
            "spec.port: Invalid value: \"boolean\": spec.port in body must be of type integer,string: \"boolean\"",
        ),
        (
            "port",
            json!(1.5),
            "spec.port: Invalid value: \"number\": spec.port in body must be of type integer,string: \"number\"",
        ),
        (
            "when",
            json!("x"),
            "spec.when: Invalid value: \"x\": spec.when in body must be of type date-time: \"x\"",
        ),
        ("tags", json!(["a", "b", "a"]), "spec.tags[2]: Duplicate value: \"a\""),
        ("tags", json!(["a", "b", "c", "d"]), "spec.tags: Too many: 4: must have at most 3 items"),
        (
            "tags",
            json!({}),
            "spec.tags: Invalid value: \"object\": spec.tags in body must be of type array: \"object\"",
        ),
        (
            "containers",
            json!([{"name": "ab"}, {"name": "ab"}]),
            "spec.containers[1]: Duplicate value: {\"name\":\"ab\"}",
        ),
        ("containers", json!([{}]), "spec.containers[0].name: Required value"),
        (
            "containers",
            json!([{"name": "a1"}]),
            "spec.containers[0].name: Invalid value: \"a1\": spec.containers[0].name in body should match '^[a-z]+$'",
        ),
        (
            "containers",
            json!([{"name": "abcdef"}]),
            "spec.containers[0].name: Too long: may not be more than 5 bytes",
        ),
        (
            "containers",
            json!([{"name": "a"}]),
            "spec.containers[0].name: Invalid value: \"a\": spec.containers[0].name in body should be at least 2 chars long",
        ),
        (
            "containers",
            json!([{"name": "ab", "command": [1]}]),
            "spec.containers[0].command[0]: Invalid value: \"integer\": spec.containers[0].command[0] in body must be of type string: \"integer\"",
        ),
        (
            "data",
            json!({"k.x": 1}),
            "spec.data.k.x: Invalid value: \"integer\": spec.data.k.x in body must be of type string: \"integer\"",
        ),
    ] {
        assert_eq!(fault(field, value), [expected]);
    }
    for (field, value) in [
        ("size", json!(2.0)),
        ("ratio", json!(1)),
        ("ratio", json!(0.5)),
        ("port", json!("http")),
        ("port", json!(80)),
        ("limits", json!({"cpu": 0.5, "memory": "1Gi", "x": 2})),
        ("maybe", json!(null)),
        ("choice", json!(null)),
        ("any", json!([null])),
        ("when", json!("2020-01-02T03:04:05Z")),
        ("data", json!({"a": "YQ=="})),
        ("free", json!({"x": 1})),
        ("unknown", json!(1)),
    ] {
        assert_eq!(fault(field, value), [""; 0], "{field}");
    }
    let small = spec(
        json!({"type": "object", "minProperties": 1, "additionalProperties": {"type": "integer", "format": "int32"}}),
    );
    assert_eq!(
        faults(&small, json!({"spec": {}})),
        ["spec: Invalid value: 0: spec in body should have at least 1 properties"]
    );
    // Formats bind no numbers in custom resources: Go's unsigned fields are published as int32 and int64.
    assert_eq!(faults(&small, json!({"spec": {"a": 18_446_744_073_709_551_615_u64}})), [""; 0]);
}

#[test]
fn faults_are_bounded() {
    let list = spec(json!({"type": "array", "items": {"type": "string"}}));
    assert_eq!(list.validate(&json!({"spec": vec![1; 10_000]})).len(), 100);
}

#[test]
fn ill_typed_fields_are_worded_as_by_go() {
    let thing = thing();
    let fault = |value: Value| {
        thing.check_types("Thing", "v1", &value).map_err(|error| {
            assert_eq!((error.code, error.reason), (400, "BadRequest"));
            let prefix = "Thing in version \"v1\" cannot be handled as a Thing: ";
            error.message.strip_prefix(prefix).unwrap().to_owned()
        })
    };
    for (value, expected) in [
        (json!([]), "json: cannot unmarshal array into Go value of type v1.Thing"),
        (
            json!({"spec": "x"}),
            "json: cannot unmarshal string into Go struct field Thing.spec of type v1.ThingSpec",
        ),
        (
            json!({"metadata": 1}),
            "json: cannot unmarshal number into Go struct field Thing.metadata of type v1.ObjectMeta",
        ),
        (json!({"kind": {}}), "json: cannot unmarshal object into Go struct field Thing.kind of type string"),
        (
            json!({"metadata": {"labels": {"a": 1}}}),
            "json: cannot unmarshal number into Go struct field ObjectMeta.metadata.labels of type string",
        ),
        (
            json!({"metadata": {"labels": []}}),
            "json: cannot unmarshal array into Go struct field ObjectMeta.metadata.labels of type map[string]string",
        ),
        (
            json!({"metadata": {"finalizers": "a"}}),
            "json: cannot unmarshal string into Go struct field ObjectMeta.metadata.finalizers of type []string",
        ),
        (
            json!({"spec": {"size": "1"}}),
            "json: cannot unmarshal string into Go struct field ThingSpec.spec.size of type int32",
        ),
        (
            json!({"spec": {"size": 1.5}}),
            "json: cannot unmarshal number 1.5 into Go struct field ThingSpec.spec.size of type int32",
        ),
        (
            json!({"spec": {"size": 3_000_000_000_u64}}),
            "json: cannot unmarshal number 3000000000 into Go struct field ThingSpec.spec.size of type int32",
        ),
        (
            json!({"spec": {"containers": [{"command": [true]}]}}),
            "json: cannot unmarshal bool into Go struct field Container.spec.containers.command of type string",
        ),
        (json!({"spec": {"port": true}}), "json: cannot unmarshal bool into Go value of type int32"),
        (json!({"spec": {"when": 1}}), "json: cannot unmarshal number into Go value of type string"),
        (
            json!({"spec": {"when": "x"}}),
            "parsing time \"x\" as \"2006-01-02T15:04:05Z07:00\": cannot parse \"x\" as \"2006\"",
        ),
        (
            json!({"spec": {"when": "2020-01-02 03:04:05Z"}}),
            "parsing time \"2020-01-02 03:04:05Z\" as \"2006-01-02T15:04:05Z07:00\": cannot parse \" 03:04:05Z\" as \"T\"",
        ),
        (json!({"spec": {"data": {"a": "not-base64"}}}), "illegal base64 data at input byte 3"),
        (json!({"spec": {"data": {"a": "abcdabc"}}}), "illegal base64 data at input byte 4"),
        (
            json!({"spec": {"limits": {"cpu": "1x"}}}),
            "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
        ),
        (
            json!({"spec": {"limits": {"cpu": ""}}}),
            "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
        ),
        (json!({"spec": {"limits": {"cpu": "1KK"}}}), "unable to parse quantity's suffix"),
    ] {
        assert_eq!(fault(value), Err(expected.to_owned()));
    }
    let fine = json!({
        "metadata": {"creationTimestamp": null, "labels": null, "generation": 1},
        "spec": {"size": null, "when": "2020-01-02T03:04:05.123+02:00", "port": "x", "data": {"a": "YWI=\n", "b": ""},
            "limits": {"a": "1e3", "b": "1.5Gi", "c": 0.1, "d": "-5m", "e": ".5"}, "any": [1]},
    });
    assert_eq!(fault(fine), Ok(()));
}

#[test]
fn quantities_are_written_as_go_writes_them() {
    let schema = thing();
    let limits = json!({
        "a": "1000m", "b": "1024Mi", "c": 0.1, "d": 2, "e": " 1.5Gi ", "f": "1e3", "g": "0.5", "h": "1e40", "i": null,
    });
    let mut value =
        json!({"spec": {"limits": limits, "port": "1000m", "any": ["1000m"]}, "unknown": "1000m"});
    schema.make_quantities_canonical(&mut value);
    let expected = json!({
        "a": "1", "b": "1Gi", "c": "100m", "d": "2", "e": "1536Mi", "f": "1e3", "g": "500m", "h": "1e40", "i": null,
    });
    assert_eq!(
        value,
        json!({"spec": {"limits": expected, "port": "1000m", "any": ["1000m"]}, "unknown": "1000m"})
    );
}

#[test]
fn metadata_is_checked_for_custom_resources_too() {
    let thing = thing();
    let value = json!({"metadata": {"labels": {"a": 1}}, "spec": "x"});
    assert_eq!(
        thing.check_metadata_types("Thing", "v1", &value).unwrap_err().message,
        "Thing in version \"v1\" cannot be handled as a Thing: json: cannot unmarshal number into Go struct field \
         ObjectMeta.metadata.labels of type string"
    );
    assert_eq!(thing.check_metadata_types("Thing", "v1", &json!({"spec": "x"})), Ok(()));
    assert!(thing.check_metadata_types("Thing", "v1", &json!({"metadata": "x"})).is_err());
}

#[test]
fn embedded_objects_have_metadata() {
    let embedded = spec(
        json!({"type": "object", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true}),
    );
    let mut value = json!({"spec": {"kind": "X", "metadata": {"name": "a", "odd": 1}, "spec": {"any": 1}}});
    assert_eq!(embedded.prune(&mut value), ["spec.metadata.odd"]);
}

/// Any value that is not too large, with keys that the schema of a thing knows and does not know.
fn values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-3..12_i64).prop_map(Value::from),
        (0..8_u8).prop_map(|quarters| Value::from(f64::from(quarters) / 4.0)),
        "(B|C|ab|x|2020-01-02T03:04:05Z|[a-z]{0,3})".prop_map(Value::from),
    ];
    let key = "(metadata|labels|name|spec|size|host|mode|when|data|port|limits|containers|tags|free|known|any|maybe|choice|pull|command|x|y)";
    leaf.prop_recursive(5, 60, 5, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::vec((key, inner), 0..5)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

/// A thing with a value in each field.
fn things() -> impl Strategy<Value = Value> {
    (values(), values(), values(), values(), values()).prop_map(|(metadata, containers, free, rest, extra)| {
        json!({
            "metadata": metadata, "extra": extra,
            "spec": {"size": 1, "containers": [containers], "free": free, "rest": rest, "tags": ["a"], "mode": "C"},
        })
    })
}

/// The unknown fields in a value, found in another way than by walking the value along the schema.
fn has_unknown(schema: &Schema, value: &Value) -> bool {
    match value {
        Value::Object(object) if matches!(schema.shape, Shape::Object { .. }) => {
            object.iter().any(|(name, inner)| {
                schema.field(name).map_or(!schema.preserve_unknown_fields, |field| has_unknown(field, inner))
            })
        }
        Value::Array(list) => {
            schema.items().is_some_and(|items| list.iter().any(|item| has_unknown(items, item)))
        }
        _ => false,
    }
}

proptest! {
    #[test]
    fn pruning_leaves_nothing_unknown_and_is_done_at_once(value in prop_oneof![values(), things()]) {
        let thing = thing();
        let mut pruned = value.clone();
        let unknown = thing.prune(&mut pruned);
        prop_assert!(!has_unknown(&thing, &pruned));
        prop_assert_eq!(unknown.is_empty(), pruned == value);
        let again = pruned.clone();
        prop_assert_eq!(thing.prune(&mut pruned), Vec::<String>::new());
        prop_assert_eq!(pruned, again);
    }

    #[test]
    fn a_valid_value_stays_valid_with_its_defaults(value in things()) {
        let thing = thing();
        let mut value = value;
        thing.prune(&mut value);
        thing.drop_nulls(&mut value);
        let valid = thing.validate(&value).is_empty();
        let mut filled = value.clone();
        thing.fill_defaults(&mut filled);
        prop_assert!(!valid || thing.validate(&filled).is_empty(), "{}", filled);
        let again = filled.clone();
        thing.fill_defaults(&mut filled);
        prop_assert_eq!(&filled, &again);
        prop_assert_eq!(thing.prune(&mut filled), Vec::<String>::new());
    }

    #[test]
    fn walks_do_not_panic(value in values()) {
        let thing = thing();
        let mut value = value;
        let _ = thing.check_types("Thing", "v1", &value);
        let _ = thing.check_metadata_types("Thing", "v1", &value);
        let _ = thing.validate(&value);
        thing.drop_nulls(&mut value);
        let nulls = value.clone();
        thing.drop_nulls(&mut value);
        prop_assert_eq!(value, nulls);
    }

    #[test]
    fn any_description_makes_a_schema(described in values()) {
        let components = json!({"io.example.v1.Thing": described});
        let schema = schema(components);
        let mut value = json!({"spec": {"a": 1}});
        schema.prune(&mut value);
    }

    #[test]
    fn base64_faults_are_found(text in "[a-zA-Z0-9+/=\n-]{0,12}") {
        use base64::Engine as _;
        use base64::engine::{GeneralPurpose, GeneralPurposeConfig};
        let lenient = GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true);
        let engine = GeneralPurpose::new(&base64::alphabet::STANDARD, lenient);
        let decoded = engine.decode(text.replace('\n', ""));
        prop_assert_eq!(go::base64_fault(&text).is_none(), decoded.is_ok(), "{:?}", text);
    }
}
