//! The laws, for all values.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::managers::Owners;
use super::super::merge::{compare, merge, remove};
use super::super::typed::Typed;
use super::*;

/// Any JSON, made of few names so that values meet.
fn anything() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-3_i64..4).prop_map(Value::from),
        Just(json!(1.5)),
        "[a-c<\"é]{0,2}".prop_map(Value::from),
    ];
    let name = prop_oneof![
        "[a-c]",
        prop::sample::select(vec![
            "name",
            "env",
            "ports",
            "containers",
            "spec",
            "data",
            "tags",
            "args",
            "metadata",
            "labels",
            "finalizers",
            "extra",
            "selector",
            "replicas",
            "protocol",
            "containerPort",
            ".",
            "f:a",
            "k:{",
        ])
        .prop_map(str::to_owned),
    ];
    leaf.prop_recursive(5, 40, 5, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((name.clone(), inner), 0..5)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

fn names() -> impl Strategy<Value = Vec<String>> {
    prop::collection::btree_set("[a-d]", 0..4).prop_map(|names| names.into_iter().collect())
}

/// Empty lists of keyed items belong to nobody, which is an exception to most laws.
fn some_names() -> impl Strategy<Value = Vec<String>> {
    names().prop_filter("no names", |names| !names.is_empty())
}

prop_compose! {
    /// An object that fits the schema.
    fn fitting()(
        data in prop::option::of(prop::collection::btree_map("[a-d]", "[xy]", 0..4)),
        replicas in prop::option::of(0_i64..3),
        paused in prop::option::of(any::<bool>()),
        tags in prop::option::of(some_names().prop_shuffle()),
        args in prop::option::of(names()),
        containers in prop::option::of(some_names().prop_shuffle()),
        env in some_names(),
        value in "[xy]",
        port in 1_i64..3,
        labels in prop::option::of(prop::collection::btree_map("[a-c]", "[xy]", 0..3)),
        extra in prop::option::of(prop::collection::btree_map("[a-b]", (0_i64..3).prop_map(|n| json!({"n": n, "l": [n]})), 0..3)),
    ) -> Value {
        let mut spec = json!({});
        let mut set = |name: &str, value: Option<Value>| if let Some(value) = value { spec[name] = value };
        set("replicas", replicas.map(Value::from));
        set("paused", paused.map(Value::from));
        set("tags", tags.map(|tags| json!(tags)));
        set("args", args.map(|args| json!(args)));
        set("extra", extra.map(|extra| json!(extra)));
        set("containers", containers.map(|names| names.into_iter().map(|name| json!({
            "name": name,
            "env": env.iter().map(|name| json!({"name": name, "value": value})).collect::<Vec<_>>(),
            "ports": [{"containerPort": port}],
        })).collect()));
        let mut fields = json!({"spec": spec});
        if let Some(data) = data { fields["data"] = json!(data); }
        if let Some(labels) = labels { fields["metadata"] = json!({"labels": labels}); }
        thing(fields)
    }
}

/// The value without what is empty.
fn filled(value: &Value) -> Value {
    match value {
        Value::Object(fields) => fields
            .iter()
            .map(|(name, value)| (name.clone(), filled(value)))
            .filter(|(_, value)| !value.is_null() && *value != json!({}))
            .collect::<Map<_, _>>()
            .into(),
        other => other.clone(),
    }
}

/// What the server does to an object between two requests.
fn clean(mut object: Value) -> Value {
    schema().drop_nulls(&mut object);
    stored(object)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    #[test]
    fn applying_twice_is_applying_once(live in fitting(), want in fitting()) {
        let mut live = live;
        update_managed_fields(None, &mut live, &schema(), &manager("other", 0));
        let live = clean(live);
        let once = clean(apply(Some(&live), &want, &schema(), &manager("me", 1), true).unwrap());
        let twice = apply(Some(&once), &want, &schema(), &manager("me", 2), false).unwrap();
        prop_assert_eq!(twice.to_string(), once.to_string());
        let made = clean(apply(None, &want, &schema(), &manager("me", 1), false).unwrap());
        let again = apply(Some(&made), &want, &schema(), &manager("me", 2), false).unwrap();
        prop_assert_eq!(again.to_string(), made.to_string());
    }

    #[test]
    fn an_apply_gives_what_it_names_and_owns_it(live in fitting(), want in fitting()) {
        let schema = schema();
        let typed = Typed::root(&schema);
        let mut live = live;
        update_managed_fields(None, &mut live, &schema, &manager("other", 0));
        let live = clean(live);
        let done = clean(apply(Some(&live), &want, &schema, &manager("me", 1), true).unwrap());
        // Nothing that was asked for is missing or different …
        let comparison = compare(typed, &want, &done);
        prop_assert!(comparison.modified.is_empty(), "{:?}", comparison.modified);
        prop_assert!(comparison.removed.is_empty(), "{:?}", comparison.removed);
        // … and all of it is owned.
        let named = typed.fields_of(&want).difference(&never_owned());
        let mine = owner(&done, "me/Apply");
        prop_assert_eq!(if named.is_empty() { Value::Null } else { named.encode() }, mine);
    }

    #[test]
    fn who_applies_nothing_gives_up_what_nobody_else_owns(first in fitting(), second in fitting()) {
        let schema = schema();
        let empty = thing(json!({}));
        let alone = clean(apply(None, &first, &schema, &manager("a", 0), false).unwrap());
        let both = clean(apply(Some(&alone), &second, &schema, &manager("b", 1), true).unwrap());
        let left = clean(apply(Some(&both), &empty, &schema, &manager("a", 2), false).unwrap());
        // What is left is what the other one wants, in whatever order, and the server's. (Who wants something empty does
        // not keep it where it was cut empty.)
        let typed = Typed::root(&schema);
        let mut bare = left.clone();
        forget_owners(&mut bare);
        let more = compare(typed, &filled(&second), &filled(&bare));
        prop_assert!(more.changed().difference(&never_owned()).is_empty(), "{:?}", more.changed());
        prop_assert!(more.removed.is_empty(), "{:?}", more.removed);
        prop_assert_eq!(owner(&left, "a/Apply"), Value::Null);
        prop_assert_eq!(owner(&left, "b/Apply"), owner(&both, "b/Apply"));
    }

    #[test]
    fn updates_cover_what_they_changed(old in fitting(), new in fitting()) {
        let schema = schema();
        let typed = Typed::root(&schema);
        let mut old = old;
        update_managed_fields(None, &mut old, &schema, &manager("a", 0));
        let old = stored(old);
        let mut stored_new = stored(new);
        stored_new["metadata"]["managedFields"] = old["metadata"].get("managedFields").cloned().unwrap_or_default();
        update_managed_fields(Some(&old), &mut stored_new, &schema, &manager("b", 1));
        let (mut before, mut after) = (old.clone(), stored_new.clone());
        forget_owners(&mut before);
        forget_owners(&mut after);
        let changed = compare(typed, &before, &after).changed().difference(&never_owned());
        let expected = if old["metadata"].get("managedFields").is_none() || changed.is_empty() {
            Value::Null
        } else {
            changed.encode()
        };
        prop_assert_eq!(owner(&stored_new, "b/Update"), expected);
        // Nobody else owns what changed or is gone.
        if let Ok(owners) = Owners::of(&stored_new) {
            for (owner, owned) in owners.0 {
                if owner.name == "a" {
                    prop_assert!(owned.fields.intersection(&changed).is_empty());
                    prop_assert!(owned.fields.intersection(&compare(typed, &before, &after).removed).is_empty());
                }
            }
        }
    }

    #[test]
    fn sets_survive_the_wire(value in anything()) {
        let schema = schema();
        let set = Typed::root(&schema).fields_of(&value);
        let text = set.encode().to_string();
        prop_assert_eq!(&Set::decode(&serde_json::from_str(&text).unwrap()).unwrap(), &set);
        prop_assert_eq!(Set::decode(&set.encode()).unwrap().encode().to_string(), text);
    }

    #[test]
    fn sets_are_sets(one in fitting(), two in fitting()) {
        let schema = schema();
        let typed = Typed::root(&schema);
        let (one, two) = (typed.fields_of(&one), typed.fields_of(&two));
        prop_assert_eq!(one.union(&two), two.union(&one));
        prop_assert_eq!(one.intersection(&two), one.difference(&one.difference(&two)));
        prop_assert_eq!(one.union(&two).difference(&two), one.difference(&two));
        prop_assert!(one.paths().iter().all(|path| one.has(path)));
        prop_assert!(one.difference(&one).is_empty());
    }

    #[test]
    fn merging_and_cutting_agree_with_comparing(old in fitting(), new in fitting()) {
        let schema = schema();
        let typed = Typed::root(&schema);
        let merged = merge(typed, &old, &new).unwrap();
        let comparison = compare(typed, &old, &merged);
        prop_assert!(comparison.removed.is_empty());
        let none = compare(typed, &old, &old);
        prop_assert!(none.changed().is_empty() && none.removed.is_empty());
        // What was added can be taken away again.
        let cut = remove(typed, &merged, &comparison.added);
        let again = compare(typed, &old, &cut);
        prop_assert!(again.added.is_empty(), "{:?}", again.added);
    }

    #[test]
    fn nothing_panics(live in anything(), new in anything(), fields in anything(), entries in anything(), force: bool) {
        let schema = schema();
        let mut live_thing = thing(json!({}));
        live_thing["spec"] = live.clone();
        live_thing["metadata"]["managedFields"] = json!([{
            "manager": "m", "operation": "Apply", "apiVersion": "v1", "fieldsType": "FieldsV1", "fieldsV1": fields,
        }]);
        let mut new_thing = thing(json!({}));
        new_thing["spec"] = new.clone();
        for live in [&live, &live_thing] {
            for new in [&new, &new_thing] {
                let _ = apply(Some(live), new, &schema, &manager("m", 0), force);
                let mut updated = new.clone();
                update_managed_fields(Some(live), &mut updated, &schema, &manager("m", 0));
                keep_times(live, &mut updated);
                if updated.pointer("/metadata").is_some_and(Value::is_object) {
                    updated["metadata"]["managedFields"] = entries.clone();
                }
                update_managed_fields(None, &mut updated, &schema, &manager("m", 0));
                keep_writable(&mut updated, "status", true, Family::Custom);
            }
        }
    }
}
