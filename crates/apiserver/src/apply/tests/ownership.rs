//! What updates do to owners.

use serde_json::{Value, json};

use super::*;

#[test]
fn a_creator_owns_all_it_set() {
    let made = created(
        json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}),
        "kubectl-create",
        0,
    );
    assert_eq!(
        owners(&made),
        [(
            "kubectl-create/Update".to_owned(),
            json!({
                "f:metadata": {"f:labels": {".": {}, "f:a": {}}},
                "f:spec": {
                    ".": {},
                    "f:containers": {".": {}, "k:{\"name\":\"c\"}": {".": {}, "f:image": {}, "f:name": {}}},
                },
            })
        )]
    );
    // Who does not say their name.
    assert_eq!(owners(&created(json!({"data": {"a": "b"}}), "", 0))[0].0, "unknown/Update");
}

#[test]
fn a_changed_field_moves_to_who_changed_it_and_a_removed_one_is_nobodys() {
    let live = created(json!({"data": {"x": "1", "y": "1", "z": "1"}}), "alice", 0);
    let live = updated(&live, "/data/x", json!("2"), &manager("bob", 1));
    let live = updated(&live, "/data/y", Value::Null, &manager("bob", 2));
    assert_eq!(owner(&live, "alice/Update"), json!({"f:data": {".": {}, "f:z": {}}}));
    assert_eq!(owner(&live, "bob/Update"), json!({"f:data": {"f:x": {}}}));
    // Bob's second update gave him nothing, so his time is that of the first.
    assert_eq!(live["metadata"]["managedFields"][1]["time"], "2023-11-14T22:13:21Z");
    // Who owns nothing vanishes.
    let live = updated(&live, "/data/x", json!("3"), &manager("alice", 3));
    assert_eq!(owners(&live).len(), 1);
}

#[test]
fn an_update_that_changes_nothing_changes_nothing() {
    let live = created(json!({"data": {"x": "1"}}), "alice", 0);
    for by in ["alice", "bob"] {
        assert_eq!(updated(&live, "/data/x", json!("1"), &manager(by, 9)).to_string(), live.to_string());
    }
    // Nor does one of what is the server's.
    let mut new = live.clone();
    new["metadata"]["generation"] = json!(7);
    new["metadata"]["resourceVersion"] = json!("9");
    update_managed_fields(Some(&live), &mut new, &schema(), &manager("bob", 9));
    assert_eq!(owners(&new), owners(&live));
}

#[test]
fn entries_differ_by_operation_version_and_subresource() {
    let live = applied(None, json!({"data": {"x": "1"}}), "alice", 5);
    let mut status = manager("alice", 1);
    status.subresource = "status".to_owned();
    let live =
        updated(&live, "/status", json!({"conditions": [{"type": "Ready", "status": "True"}]}), &status);
    let live = updated(&live, "/data/y", json!("1"), &manager("alice", 1));
    let mut later = manager("alice", 1);
    later.api_version = "v2".to_owned();
    let live = updated(&live, "/data/z", json!("1"), &later);
    let names: Vec<_> = live["metadata"]["managedFields"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| format!("{} {} {}", entry["operation"], entry["apiVersion"], entry["subresource"]))
        .collect();
    // Appliers first, then by time, name, version and subresource.
    assert_eq!(
        names,
        [
            r#""Apply" "v1" null"#,
            r#""Update" "v1" null"#,
            r#""Update" "v1" "status""#,
            r#""Update" "v2" null"#,
        ]
    );
    assert_eq!(
        owner(&live, "alice/Update/status"),
        json!({"f:status": {
            ".": {},
            "f:conditions": {".": {}, "k:{\"type\":\"Ready\"}": {".": {}, "f:status": {}, "f:type": {}}},
        }})
    );
    // An applier goes on in its entry when it applies another version.
    let mut want = thing(json!({"data": {"x": "1"}}));
    want["apiVersion"] = json!("v2");
    let live = apply(Some(&live), &want, &schema(), &later, false).unwrap();
    assert_eq!(live["metadata"]["managedFields"][0]["apiVersion"], "v2");
    assert_eq!(owners(&live).len(), 4);
}

#[test]
fn the_eleventh_updater_makes_the_oldest_ones_ancient() {
    let mut live = created(json!({"data": {}}), "first", 0);
    for index in 0..12 {
        let by = manager(&format!("m{index:02}"), 1 + index);
        live = updated(&live, &format!("/data/k{index:02}"), json!("1"), &by);
    }
    let names: Vec<_> = owners(&live).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names.len(), 10);
    assert_eq!(names[0], "ancient-changes/Update");
    assert_eq!(names[1], "m03/Update");
    assert_eq!(
        owner(&live, "ancient-changes/Update"),
        json!({"f:data": {".": {}, "f:k00": {}, "f:k01": {}, "f:k02": {}}})
    );
    assert_eq!(live["metadata"]["managedFields"][0]["time"], "2023-11-14T22:13:23Z");
}

#[test]
fn owners_can_be_reset_and_replaced_by_clients() {
    let live = created(json!({"data": {"x": "1"}}), "alice", 0);
    let entry = json!({"manager": "carol", "operation": "Apply", "apiVersion": "v1", "fieldsType": "FieldsV1",
        "fieldsV1": {"f:data": {"f:x": {}}}});
    // (what the client sends, who owns afterwards)
    let cases = [
        (json!([]), vec![]),
        (json!([{}]), vec![]),
        (json!(null), vec!["alice/Update", "bob/Update"]),
        (json!("x"), vec!["alice/Update", "bob/Update"]),
        (json!([{"manager": "x"}]), vec!["alice/Update", "bob/Update"]),
        (
            json!([{"manager": "x", "operation": "Update", "apiVersion": "v1", "fieldsType": "FieldsV1", "fieldsV1": {"x": 1}}]),
            vec!["alice/Update", "bob/Update"],
        ),
        (json!([entry]), vec!["carol/Apply", "bob/Update"]),
    ];
    for (sent, expected) in cases {
        let mut new = live.clone();
        new["data"]["y"] = json!("1");
        new["metadata"]["managedFields"] = sent.clone();
        update_managed_fields(Some(&live), &mut new, &schema(), &manager("bob", 1));
        let names: Vec<_> = owners(&new).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, expected, "{sent}");
        assert_eq!(new["metadata"].get("managedFields").is_some(), !expected.is_empty());
    }
    // Through a subresource they are not looked at.
    let mut new = live.clone();
    new["metadata"]["managedFields"] = json!([]);
    let mut status = manager("bob", 1);
    status.subresource = "status".to_owned();
    update_managed_fields(Some(&live), &mut new, &schema(), &status);
    assert_eq!(owners(&new), owners(&live));
    // Once reset, updates are not tracked; an apply starts anew.
    let mut reset = live.clone();
    reset["metadata"].as_object_mut().unwrap().shift_remove("managedFields");
    let reset = updated(&reset, "/data/x", json!("2"), &manager("bob", 2));
    assert!(owners(&reset).is_empty());
}

#[test]
fn items_of_one_key_are_owned_as_a_whole() {
    let twice = json!([{"name": "a", "image": "1"}, {"name": "a", "image": "2"}, {"name": "b"}]);
    let live = created(json!({"spec": {"containers": twice}}), "alice", 0);
    assert_eq!(
        owner(&live, "alice/Update")["f:spec"]["f:containers"],
        json!({".": {}, "k:{\"name\":\"a\"}": {}, "k:{\"name\":\"b\"}": {".": {}, "f:name": {}}})
    );
    let live = updated(&live, "/spec/containers/1", json!({"name": "a", "image": "3"}), &manager("bob", 1));
    assert_eq!(owner(&live, "bob/Update"), json!({"f:spec": {"f:containers": {"k:{\"name\":\"a\"}": {}}}}));
    let live = updated(&live, "/spec/containers", json!([{"name": "a"}]), &manager("carol", 2));
    assert_eq!(
        owner(&live, "carol/Update"),
        json!({"f:spec": {"f:containers": {"k:{\"name\":\"a\"}": {".": {}, "f:name": {}}}}})
    );
    // Two where one was: what was owned of the one is nobody's, and the two are the new one's.
    let live = updated(&live, "/spec/containers", json!([{"name": "a"}, {"name": "a"}]), &manager("dave", 3));
    assert_eq!(owner(&live, "dave/Update"), json!({"f:spec": {"f:containers": {"k:{\"name\":\"a\"}": {}}}}));
    assert_eq!(owner(&live, "carol/Update"), Value::Null);
}

#[test]
fn a_value_of_another_type_is_the_new_owners() {
    let live = created(json!({"spec": {"extra": {"a": {"b": 1}}, "size": 1}}), "alice", 0);
    let live = updated(&live, "/spec/extra/a", json!("text"), &manager("bob", 1));
    let live = updated(&live, "/spec/size", json!("1"), &manager("bob", 1));
    assert_eq!(owner(&live, "alice/Update"), json!({"f:spec": {".": {}, "f:extra": {}}}));
    assert_eq!(owner(&live, "bob/Update"), json!({"f:spec": {"f:extra": {"f:a": {}}, "f:size": {}}}));
}

#[test]
fn fields_that_have_become_one_value_are_owned_as_one() {
    let mut live = created(json!({"spec": {"selector": {"a": "b"}}}), "alice", 0);
    live["metadata"]["managedFields"][0]["fieldsV1"] =
        json!({"f:spec": {"f:selector": {".": {}, "f:a": {}}}});
    let live = updated(&live, "/data", json!({"x": "1"}), &manager("bob", 1));
    assert_eq!(owner(&live, "alice/Update"), json!({"f:spec": {"f:selector": {}}}));
}

#[test]
fn only_what_a_subresource_writes_is_kept() {
    let whole =
        thing(json!({"metadata": {"labels": {"a": "b"}}, "spec": {"replicas": 1}, "status": {"ready": 1}}));
    let mut main = whole.clone();
    keep_writable(&mut main, "", true, Family::Custom);
    assert_eq!(main, thing(json!({"metadata": {"labels": {"a": "b"}}, "spec": {"replicas": 1}})));
    let mut status = whole.clone();
    keep_writable(&mut status, "status", true, Family::Custom);
    assert_eq!(status, thing(json!({"status": {"ready": 1}})));
    let mut untouched = whole.clone();
    keep_writable(&mut untouched, "", false, Family::Custom);
    assert_eq!(untouched, whole);
}

#[test]
fn times_alone_are_no_change() {
    let live = created(json!({"data": {"x": "1"}}), "alice", 0);
    let mut new = live.clone();
    new["metadata"]["managedFields"][0]["time"] = json!("2030-01-01T00:00:00Z");
    let mut changed = new.clone();
    keep_times(&live, &mut new);
    assert_eq!(new.to_string(), live.to_string());
    changed["data"]["x"] = json!("2");
    let before = changed.clone();
    keep_times(&live, &mut changed);
    assert_eq!(changed, before);
}
