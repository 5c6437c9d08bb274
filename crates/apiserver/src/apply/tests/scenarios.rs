//! Applies as users make them.

use serde_json::{Value, json};

use super::*;

#[test]
fn the_first_apply_makes_the_object_and_owns_what_it_names() {
    let made = apply(
        None,
        &thing(json!({"metadata": {"labels": {"a": "b"}}, "data": {"x": "1"}})),
        &schema(),
        &manager("alice", 0),
        false,
    )
    .unwrap();
    assert_eq!(
        made.to_string(),
        json!({
            "apiVersion": "v1", "kind": "Thing",
            "metadata": {
                "name": "a", "namespace": "b", "labels": {"a": "b"},
                "managedFields": [{
                    "manager": "alice", "operation": "Apply", "apiVersion": "v1", "time": "2023-11-14T22:13:20Z",
                    "fieldsType": "FieldsV1",
                    "fieldsV1": {"f:data": {"f:x": {}}, "f:metadata": {"f:labels": {"f:a": {}}}},
                }],
            },
            "data": {"x": "1"},
        })
        .to_string()
    );
}

#[test]
fn two_managers_share_a_config_map() {
    let one = applied(None, json!({"data": {"x": "1", "both": "same"}}), "alice", 0);
    let two = applied(Some(&one), json!({"data": {"y": "2", "both": "same"}}), "bob", 1);
    assert_eq!(two["data"], json!({"x": "1", "both": "same", "y": "2"}));
    assert_eq!(
        owners(&two),
        [
            ("alice/Apply".to_owned(), json!({"f:data": {"f:both": {}, "f:x": {}}})),
            ("bob/Apply".to_owned(), json!({"f:data": {"f:both": {}, "f:y": {}}})),
        ]
    );
    // What both own stays when one gives it up, and goes with the last.
    let three = applied(Some(&two), json!({}), "alice", 2);
    assert_eq!(three["data"], json!({"both": "same", "y": "2"}));
    assert_eq!(owners(&three).len(), 1);
    let four = applied(Some(&three), json!({}), "bob", 3);
    assert_eq!(four.get("data"), None);
    assert_eq!(four.pointer("/metadata/managedFields"), None);
}

#[test]
fn another_value_is_a_conflict_with_appliers_and_updaters() {
    let live = created(json!({"spec": {"replicas": 1, "paused": true}}), "kubectl-client-side-apply", 0);
    let want = thing(json!({"spec": {"replicas": 3, "paused": true}}));
    let error = apply(Some(&live), &want, &schema(), &manager("alice", 1), false).unwrap_err();
    assert_eq!(
        error.to_json(),
        json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": "Apply failed with 1 conflict: conflict with \"kubectl-client-side-apply\" using v1: .spec.replicas",
            "reason": "Conflict",
            "details": {"causes": [{
                "reason": "FieldManagerConflict",
                "message": "conflict with \"kubectl-client-side-apply\" using v1",
                "field": ".spec.replicas",
            }]},
            "code": 409,
        })
    );

    let forced = apply(Some(&live), &want, &schema(), &manager("alice", 1), true).unwrap();
    assert_eq!(forced["spec"]["replicas"], 3);
    assert_eq!(owner(&forced, "alice/Apply"), json!({"f:spec": {"f:paused": {}, "f:replicas": {}}}));
    assert_eq!(
        owner(&forced, "kubectl-client-side-apply/Update"),
        json!({"f:spec": {".": {}, "f:paused": {}}})
    );
    // The updater's own time has not moved.
    assert_eq!(forced["metadata"]["managedFields"][1]["time"], "2023-11-14T22:13:20Z");
}

#[test]
fn several_conflicts_are_listed_by_manager() {
    let one = applied(None, json!({"data": {"x": "1", "y": "1"}, "spec": {"tags": ["a"]}}), "alice", 0);
    let live = applied(Some(&one), json!({"spec": {"containers": [{"name": "c", "image": "i"}]}}), "bob", 1);
    let mut status = manager("carol", 2);
    status.subresource = "status".to_owned();
    let live = updated(&live, "/status", json!({"ready": 1}), &status);
    let want = thing(json!({
        "data": {"x": "2", "y": "2"},
        "spec": {"containers": [{"name": "c", "image": "j"}]},
        "status": {"ready": 2},
    }));
    let error = apply(Some(&live), &want, &schema(), &manager("dave", 3), false).unwrap_err();
    assert_eq!(
        error.message,
        "Apply failed with 4 conflicts: conflicts with \"alice\":\n- .data.x\n- .data.y\nconflicts with \"bob\":\n\
         - .spec.containers[name=\"c\"].image\nconflicts with \"carol\" with subresource \"status\" using v1:\n- .status.ready"
    );
    assert_eq!(error.details.unwrap().causes.len(), 4);
}

#[test]
fn an_apply_that_changes_nothing_gives_back_what_is_there() {
    let live =
        applied(None, json!({"spec": {"replicas": 1, "tags": ["b", "a"]}, "data": {"k": "v"}}), "alice", 0);
    let again = apply(
        Some(&live),
        &thing(json!({"data": {"k": "v"}, "spec": {"tags": ["b", "a"], "replicas": 1}})),
        &schema(),
        &manager("alice", 60),
        false,
    )
    .unwrap();
    assert_eq!(again.to_string(), live.to_string());
    // One who joins without a change is noted with the time; the others keep theirs.
    let joined =
        apply(Some(&live), &thing(json!({"data": {"k": "v"}})), &schema(), &manager("bob", 60), false)
            .unwrap();
    let times: Vec<_> = joined["metadata"]["managedFields"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["time"].clone())
        .collect();
    assert_eq!(times, ["2023-11-14T22:13:20Z", "2023-11-14T22:14:20Z"]);
}

#[test]
fn environment_is_merged_by_name_and_ports_by_number_and_protocol() {
    let live = applied(
        None,
        json!({"spec": {"containers": [{
            "name": "web", "image": "i",
            "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}],
            "ports": [{"containerPort": 80}, {"containerPort": 53, "protocol": "UDP"}],
        }]}}),
        "alice",
        0,
    );
    let live = applied(
        Some(&live),
        json!({"spec": {"containers": [{
            "name": "web",
            "env": [{"name": "C", "value": "3"}],
            "ports": [{"containerPort": 53, "protocol": "TCP"}, {"containerPort": 80, "protocol": "TCP", "name": "http"}],
        }, {"name": "side", "image": "s"}]}}),
        "bob",
        1,
    );
    assert_eq!(
        live["spec"]["containers"],
        json!([
            {
                "name": "web", "image": "i",
                "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}, {"name": "C", "value": "3"}],
                "ports": [
                    {"containerPort": 53, "protocol": "TCP"},
                    {"containerPort": 80, "protocol": "TCP", "name": "http"},
                    {"containerPort": 53, "protocol": "UDP"},
                ],
            },
            {"name": "side", "image": "s"},
        ])
    );
    // Alice drops B and the container's port 80, which Bob named too; Bob's container stays.
    let live = applied(
        Some(&live),
        json!({"spec": {"containers": [{"name": "web", "image": "i", "env": [{"name": "A", "value": "1"}]}]}}),
        "alice",
        2,
    );
    let containers = &live["spec"]["containers"];
    assert_eq!(containers[0]["env"], json!([{"name": "A", "value": "1"}, {"name": "C", "value": "3"}]));
    assert_eq!(
        containers[0]["ports"],
        json!([
            {"containerPort": 53, "protocol": "TCP"},
            {"containerPort": 80, "protocol": "TCP", "name": "http"},
        ])
    );
    assert_eq!(containers[1]["name"], "side");
    // An item goes when the last one who named it gives it up, whole.
    let live = applied(Some(&live), json!({"spec": {}}), "bob", 3);
    assert_eq!(
        live["spec"]["containers"],
        json!([{"name": "web", "image": "i", "env": [{"name": "A", "value": "1"}]}])
    );
}

#[test]
fn finalizers_are_a_set() {
    let live = applied(None, json!({"metadata": {"finalizers": ["a/x"]}}), "alice", 0);
    let live = applied(Some(&live), json!({"metadata": {"finalizers": ["b/y"]}}), "bob", 1);
    assert_eq!(live["metadata"]["finalizers"], json!(["a/x", "b/y"]));
    assert_eq!(owner(&live, "bob/Apply"), json!({"f:metadata": {"f:finalizers": {"v:\"b/y\"": {}}}}));
    let live = applied(Some(&live), json!({}), "alice", 2);
    assert_eq!(live["metadata"]["finalizers"], json!(["b/y"]));
}

#[test]
fn atomic_lists_and_maps_are_one_value() {
    let live = applied(None, json!({"spec": {"args": ["a"], "selector": {"x": "y"}}}), "alice", 0);
    let want = thing(json!({"spec": {"args": ["a", "b"], "selector": {"x": "y", "z": "1"}}}));
    let error = apply(Some(&live), &want, &schema(), &manager("bob", 1), false).unwrap_err();
    assert_eq!(
        error.message,
        "Apply failed with 2 conflicts: conflicts with \"alice\":\n- .spec.args\n- .spec.selector"
    );
    let live = apply(Some(&live), &want, &schema(), &manager("bob", 1), true).unwrap();
    assert_eq!(owner(&live, "alice/Apply"), Value::Null);
    assert_eq!(live["spec"]["args"], json!(["a", "b"]));
    let live =
        apply(Some(&live), &thing(json!({"spec": {"args": ["c"]}})), &schema(), &manager("bob", 2), false)
            .unwrap();
    assert_eq!(live["spec"], json!({"args": ["c"]}));
}

#[test]
fn what_the_server_filled_in_stays_until_its_parent_goes() {
    let mut live =
        applied(None, json!({"spec": {"replicas": 1, "strategy": {"type": "Rolling"}}}), "alice", 0);
    live["spec"]["strategy"]["surge"] = json!("25%");
    live["spec"]["paused"] = json!(false);
    let same =
        applied(Some(&live), json!({"spec": {"replicas": 1, "strategy": {"type": "Rolling"}}}), "alice", 1);
    assert_eq!(same.to_string(), live.to_string());
    let live = applied(Some(&live), json!({"spec": {"replicas": 1}}), "alice", 2);
    assert_eq!(live["spec"], json!({"replicas": 1, "paused": false}));
}

#[test]
fn what_an_updater_owns_too_is_not_removed() {
    let live = applied(None, json!({"spec": {"replicas": 1, "paused": true}}), "alice", 0);
    let live = updated(&live, "/spec/replicas", json!(5), &manager("scaler", 1));
    assert_eq!(owner(&live, "alice/Apply"), json!({"f:spec": {"f:paused": {}}}));
    assert_eq!(owner(&live, "scaler/Update"), json!({"f:spec": {"f:replicas": {}}}));
    // The way to hand a field over: stop applying it.
    let live = applied(Some(&live), json!({"spec": {"paused": true}}), "alice", 2);
    assert_eq!(live["spec"], json!({"replicas": 5, "paused": true}));
}

#[test]
fn an_untracked_object_belongs_to_before_first_apply() {
    let live = stored(thing(json!({"data": {"x": "1", "y": "1"}})));
    let error =
        apply(Some(&live), &thing(json!({"data": {"x": "2"}})), &schema(), &manager("alice", 0), false)
            .unwrap_err();
    assert_eq!(
        error.message,
        "Apply failed with 1 conflict: conflict with \"before-first-apply\" using v1: .data.x"
    );
    let live =
        apply(Some(&live), &thing(json!({"data": {"x": "1"}})), &schema(), &manager("alice", 0), false)
            .unwrap();
    assert_eq!(
        owners(&live),
        [
            ("alice/Apply".to_owned(), json!({"f:data": {"f:x": {}}})),
            ("before-first-apply/Update".to_owned(), json!({"f:data": {".": {}, "f:x": {}, "f:y": {}}})),
        ]
    );
}

#[test]
fn kubectl_may_take_over_what_its_annotation_says() {
    let remembered = json!({"apiVersion": "v1", "kind": "Thing", "metadata": {"name": "a", "namespace": "b"},
        "spec": {"replicas": 1, "paused": true}});
    let note =
        json!({"annotations": {"kubectl.kubernetes.io/last-applied-configuration": remembered.to_string()}});
    let live = created(
        json!({"metadata": note, "spec": {"replicas": 1, "paused": true}}),
        "kubectl-client-side-apply",
        0,
    );
    let live = updated(&live, "/spec/paused", json!(false), &manager("editor", 1));
    let want = |paused| thing(json!({"spec": {"replicas": 2, "paused": paused}}));
    // What has changed since is not kubectl's any more.
    let error = apply(Some(&live), &want(true), &schema(), &manager("kubectl", 2), false).unwrap_err();
    assert_eq!(
        error.message,
        "Apply failed with 1 conflict: conflict with \"editor\" using v1: .spec.paused"
    );
    let done = apply(Some(&live), &want(false), &schema(), &manager("kubectl", 2), false).unwrap();
    assert_eq!(done["spec"], json!({"replicas": 2, "paused": false}));
    assert_eq!(
        done["metadata"]["annotations"]["kubectl.kubernetes.io/last-applied-configuration"],
        "{\"apiVersion\":\"v1\",\"kind\":\"Thing\",\"metadata\":{\"name\":\"a\",\"namespace\":\"b\"},\"spec\":{\"paused\":false,\"replicas\":2}}\n"
    );
    // Others may not.
    assert_eq!(apply(Some(&live), &want(false), &schema(), &manager("x", 2), false).unwrap_err().code, 409);
}

#[test]
fn objects_that_do_not_fit_are_refused() {
    let prefix = "failed to create typed patch object (b/a; /v1, Kind=Thing): ";
    let cases = [
        (json!({"spec": {"what": 1}}), ".spec.what: field not declared in schema"),
        (json!({"spec": {"replicas": "1"}}), ".spec.replicas: expected numeric (int or float), got string"),
        (json!({"data": {"x": 1}}), ".data.x: expected string, got &value.valueUnstructured{Value:1}"),
        (json!({"spec": []}), ".spec: expected map, got &{[]}"),
        (json!({"spec": {"args": {"a": 1}}}), ".spec.args: expected list, got &{map[a:1]}"),
        (
            json!({"spec": {"args": ["a", true]}}),
            ".spec.args[1]: expected string, got &value.valueUnstructured{Value:true}",
        ),
        (
            json!({"spec": {"containers": [{"name": "a"}, {"name": "a"}]}}),
            ".spec.containers: duplicate entries for key [name=\"a\"]",
        ),
        (
            json!({"spec": {"containers": [{"image": "a"}]}}),
            ".spec.containers: element 0: associative list with keys has an element that omits key field \"name\" (and doesn't have default value)",
        ),
        (json!({"spec": {"tags": ["a", "a"]}}), ".spec.tags: duplicate entries for key [=\"a\"]"),
        (
            json!({"spec": {"replicas": "1", "paused": 1}}),
            "errors:\n  .spec.replicas: expected numeric (int or float), got string\n  .spec.paused: expected boolean, got &{1}",
        ),
    ];
    for (fields, message) in cases {
        let error = apply(None, &thing(fields), &schema(), &manager("alice", 0), false).unwrap_err();
        assert_eq!(error.message, format!("{prefix}{message}"));
        assert_eq!((error.code, error.reason), (400, "BadRequest"));
    }
    let mut managed = thing(json!({}));
    managed["metadata"]["managedFields"] = json!([]);
    let error = apply(None, &managed, &schema(), &manager("alice", 0), false).unwrap_err();
    assert_eq!((error.code, error.message.as_str()), (400, "metadata.managedFields must be nil"));
    let mut grouped = thing(json!({"spec": {"x": 1}}));
    grouped["apiVersion"] = json!("apps/v1");
    let error = apply(None, &grouped, &schema(), &manager("alice", 0), false).unwrap_err();
    assert!(error.message.contains("(b/a; apps/v1, Kind=Thing)"), "{}", error.message);
}

#[test]
fn items_are_ordered_as_they_were_applied() {
    // (live, applied, merged)
    let cases = [
        (vec!["a", "b", "c"], vec!["c", "a"], vec!["b", "c", "a"]),
        (vec!["a", "b"], vec!["x", "a", "b"], vec!["x", "a", "b"]),
        (vec!["a", "b"], vec!["b", "x"], vec!["a", "b", "x"]),
        (vec!["a", "b", "c"], vec!["b", "a", "c"], vec!["b", "a", "c"]),
        (vec![], vec!["b", "a"], vec!["b", "a"]),
        (vec!["a"], vec![], vec!["a"]),
        // Two of a kind in the live list are kept where they are not spoken of, and are one where they are.
        (vec!["a", "a", "b"], vec!["c"], vec!["a", "a", "b", "c"]),
        (vec!["a", "a", "b"], vec!["a"], vec!["a", "b"]),
    ];
    for (live, applied, merged) in cases {
        let schema = schema();
        let value = super::super::merge::merge(
            Typed::root(&schema),
            &json!({"spec": {"tags": live}}),
            &json!({"spec": {"tags": applied}}),
        )
        .unwrap();
        assert_eq!(value["spec"]["tags"], json!(merged), "{live:?} {applied:?}");
    }
}

#[test]
fn an_empty_list_of_keyed_items_is_owned_by_nobody_and_goes_with_its_parent() {
    let live = applied(None, json!({"spec": {"args": [], "containers": []}}), "alice", 0);
    assert_eq!(owner(&live, "alice/Apply"), json!({"f:spec": {"f:args": {}}}));
    assert_eq!(live["spec"], json!({"args": [], "containers": []}));
    let live = applied(Some(&live), json!({}), "alice", 1);
    assert_eq!(live.get("spec"), None);
}

#[test]
fn a_status_is_applied_through_its_subresource() {
    let live = applied(None, json!({"spec": {"replicas": 1}}), "alice", 0);
    let mut status = manager("alice", 1);
    status.subresource = "status".to_owned();
    let mut want =
        thing(json!({"metadata": {"labels": {"x": "y"}}, "spec": {"replicas": 9}, "status": {"ready": 1}}));
    keep_writable(&mut want, "status", true, Family::Custom);
    let live = apply(Some(&live), &want, &schema(), &status, false).unwrap();
    assert_eq!(live["spec"], json!({"replicas": 1}));
    assert_eq!(
        owners(&live),
        [
            ("alice/Apply".to_owned(), json!({"f:spec": {"f:replicas": {}}})),
            ("alice/Apply/status".to_owned(), json!({"f:status": {"f:ready": {}}})),
        ]
    );
    let want = thing(json!({"status": {"ready": 2}}));
    let error = apply(Some(&live), &want, &schema(), &manager("bob", 2), false).unwrap_err();
    assert_eq!(
        error.message,
        "Apply failed with 1 conflict: conflict with \"alice\" with subresource \"status\": .status.ready"
    );
}

#[test]
fn a_pod_is_owned_as_in_kubernetes() {
    let kinds = crate::builtin::kinds();
    let kind = kinds.iter().find(|kind| kind.group.is_empty() && kind.names.kind == "Pod").unwrap();
    let schema = kind.schema.schema();
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "a", "namespace": "b", "labels": {"app": "web"}, "creationTimestamp": null},
        "spec": {
            "containers": [{
                "name": "web", "image": "i", "args": ["x"],
                "env": [{"name": "A", "value": "1"}],
                "ports": [{"containerPort": 80}],
                "resources": {"limits": {"cpu": 1}},
            }],
            "tolerations": [{"key": "a"}],
            "nodeSelector": {"a": "b"},
            "volumes": [{"name": "v", "emptyDir": {}}],
        },
    });
    let live = apply(None, &pod, &schema, &manager("alice", 0), false).unwrap();
    assert_eq!(
        owner(&live, "alice/Apply"),
        json!({
            "f:metadata": {"f:labels": {"f:app": {}}},
            "f:spec": {
                "f:containers": {"k:{\"name\":\"web\"}": {
                    ".": {}, "f:args": {}, "f:image": {}, "f:name": {},
                    "f:env": {"k:{\"name\":\"A\"}": {".": {}, "f:name": {}, "f:value": {}}},
                    "f:ports": {"k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}}},
                    "f:resources": {"f:limits": {"f:cpu": {}}},
                }},
                "f:tolerations": {},
                "f:nodeSelector": {},
                "f:volumes": {"k:{\"name\":\"v\"}": {".": {}, "f:emptyDir": {}, "f:name": {}}},
            },
        })
    );
    // The time of creation that generated manifests leave empty is not there, and so nothing changes.
    let live = stored(live);
    let mut again = apply(Some(&live), &pod, &schema, &manager("alice", 5), false).unwrap();
    again["metadata"]["creationTimestamp"] = live["metadata"]["creationTimestamp"].clone();
    keep_times(&live, &mut again);
    assert_eq!(again, live);
    // Defaults that were filled in since are in nobody's way.
    let mut defaulted = live.clone();
    defaulted["spec"]["containers"][0]["ports"][0]["protocol"] = json!("TCP");
    defaulted["spec"]["containers"][0]["imagePullPolicy"] = json!("Always");
    let mut want = pod.clone();
    want["spec"]["containers"][0]["ports"] =
        json!([{"containerPort": 80, "protocol": "TCP", "name": "http"}]);
    let live = apply(Some(&defaulted), &want, &schema, &manager("alice", 5), false).unwrap();
    assert_eq!(
        live["spec"]["containers"][0]["ports"],
        json!([{"containerPort": 80, "protocol": "TCP", "name": "http"}])
    );
}
