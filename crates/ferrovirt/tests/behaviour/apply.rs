//! Server-side apply: who owns what, and what follows.

use serde_json::{Value, json};

use crate::objects::pod_spec;
use crate::target::{APPLY, MERGE, Reply, Space, with_space};

async fn apply(space: &Space, path: &str, manager: &str, object: Value) -> Reply {
    let mark = if path.contains('?') { '&' } else { '?' };
    space.patch(&format!("{path}{mark}fieldManager={manager}"), APPLY, object).await
}

fn map(data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": data})
}

/// `manager operation` of each entry and what it owns.
fn owners(object: &Value) -> Vec<(String, Value)> {
    let all = object["metadata"]["managedFields"].as_array().unwrap();
    let mut all: Vec<_> = all
        .iter()
        .map(|entry| {
            let text = |name: &str| entry[name].as_str().unwrap_or_default().to_owned();
            (format!("{} {}", text("manager"), text("operation")), entry["fieldsV1"].clone())
        })
        .collect();
    all.sort_by(|one, other| one.0.cmp(&other.0));
    all
}

#[tokio::test]
async fn fields_have_owners() {
    with_space(|space| async move {
        // The first application makes the object.
        let made = apply(&space, "configmaps/a", "one", map(json!({"k": "1", "shared": "s"}))).await.ok(201);
        assert_eq!(owners(&made), [("one Apply".to_owned(), json!({"f:data": {"f:k": {}, "f:shared": {}}}))]);
        // The same again changes nothing.
        let again = apply(&space, "configmaps/a", "one", map(json!({"k": "1", "shared": "s"}))).await.ok(200);
        assert_eq!(again, made);

        // A second owner of the same value, and of a field of its own.
        let both = apply(&space, "configmaps/a", "two", map(json!({"shared": "s", "own": "2"}))).await.ok(200);
        assert_eq!(both["data"], json!({"k": "1", "shared": "s", "own": "2"}));

        // A conflict names the owner and the field.
        let reply = apply(&space, "configmaps/a", "two", map(json!({"k": "2", "shared": "s", "own": "2"}))).await;
        let status = reply.refused(
            409,
            "Conflict",
            "Apply failed with 1 conflict: conflict with \"one\": .data.k",
        );
        assert_eq!(
            status["details"]["causes"],
            json!([{"reason": "FieldManagerConflict", "message": "conflict with \"one\"", "field": ".data.k"}])
        );
        // Another kind of writer is a manager too, and is told with its version.
        let changed = space.patch("configmaps/a?fieldManager=editor", MERGE, json!({"data": {"own": "3"}})).await.ok(200);
        assert_eq!(owners(&changed)[0], ("editor Update".to_owned(), json!({"f:data": {"f:own": {}}})));
        let reply = apply(&space, "configmaps/a", "two", map(json!({"k": "2", "shared": "s", "own": "2"}))).await;
        reply.refused(
            409,
            "Conflict",
            "Apply failed with 2 conflicts: conflicts with \"editor\" using v1:\n- .data.own\nconflicts with \"one\":\n- .data.k",
        );
        // Force takes what is contested.
        let forced = apply(&space, "configmaps/a?force=true", "two", map(json!({"k": "2", "shared": "s", "own": "2"}))).await.ok(200);
        assert_eq!(forced["data"], json!({"k": "2", "shared": "s", "own": "2"}));
        assert_eq!(
            owners(&forced),
            [
                ("one Apply".to_owned(), json!({"f:data": {"f:shared": {}}})),
                ("two Apply".to_owned(), json!({"f:data": {"f:k": {}, "f:own": {}, "f:shared": {}}})),
            ]
        );
        // What a manager no longer names goes with it, unless another owns it.
        let less = apply(&space, "configmaps/a", "two", map(json!({"own": "2"}))).await.ok(200);
        assert_eq!(less["data"], json!({"shared": "s", "own": "2"}));
        let less = apply(&space, "configmaps/a", "one", map(json!({}))).await.ok(200);
        assert_eq!(less["data"], json!({"own": "2"}));
        // A client may start afresh.
        let reset = space.patch("configmaps/a", MERGE, json!({"metadata": {"managedFields": [{}]}})).await.ok(200);
        assert_eq!(reset["metadata"]["managedFields"], Value::Null, "{reset}");
    })
    .await;
}

#[tokio::test]
async fn applications_that_cannot_be_are_refused() {
    with_space(|space| async move {
        space.config_map(json!({"name": "a"}), json!({})).await;
        let good = map(json!({"k": "1"}));
        let with_managed = {
            let mut object = good.clone();
            object["metadata"]["managedFields"] = json!([{"manager": "x"}]);
            object
        };
        let nameless = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {}});
        let kindless = json!({"apiVersion": "v1", "metadata": {"name": "a"}});
        // query, body, code, reason, text
        let cases = [
            ("", good.clone(), 422, "Invalid", "fieldManager: Required value: is required for apply patch"),
            ("?fieldManager=m", with_managed, 400, "BadRequest", "metadata.managedFields must be nil"),
            ("?fieldManager=m", kindless, 400, "BadRequest", "Object 'Kind' is missing in"),
        ];
        for (query, body, code, reason, text) in cases {
            let reply = space.patch(&format!("configmaps/a{query}"), APPLY, body).await;
            assert_eq!(reply.code, code, "{text}: {}", reply.text());
            reply.refused_with(code, reason, text);
        }
        // The name of the path is enough.
        apply(&space, "configmaps/a", "m", nameless).await.ok(200);
        let long = "m".repeat(129);
        let reply = apply(&space, "configmaps/a", &long, good.clone()).await;
        reply.refused_with(422, "Invalid", "fieldManager: Too long: may not be more than 128 bytes");
        let reply = space.patch("configmaps/a?fieldManager=m&force=true", MERGE, json!({})).await;
        reply.refused_with(422, "Invalid", "force: Forbidden: may not be specified for non-apply patch");
        let mut stray = good.clone();
        stray["datum"] = json!({});
        let reply = apply(&space, "configmaps/a?fieldValidation=Strict", "m", stray).await;
        // Kubernetes has no reason for this, and the code of a fault of its own.
        assert!(reply.code >= 400, "{}", reply.text());
        assert!(reply.text().contains(".datum: field not declared in schema"), "{}", reply.text());
        let mut other = good;
        other["metadata"]["name"] = "b".into();
        let reply = apply(&space, "configmaps/a", "m", other).await;
        assert_eq!(reply.code, 400, "{}", reply.text());
    })
    .await;
}

#[tokio::test]
async fn lists_are_applied_by_their_keys() {
    with_space(|space| async move {
        let object = |containers: Value| {
            let mut spec = pod_spec();
            spec["containers"] = containers;
            json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": {
                "replicas": 0, "paused": true, "selector": {"matchLabels": {"app": "x"}},
                "template": {"metadata": {"labels": {"app": "x"}}, "spec": spec}}})
        };
        let path = "apps/v1:deployments/d";
        apply(&space, path, "one", object(json!([{"name": "a", "image": "a:1"}]))).await.ok(201);
        let sidecar = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"},
            "spec": {"template": {"spec": {"containers": [{"name": "b", "image": "b:1"}]}}}});
        let both = apply(&space, path, "two", sidecar).await.ok(200);
        let names = |object: &Value| -> Vec<String> {
            let all = object["spec"]["template"]["spec"]["containers"].as_array().unwrap();
            all.iter().map(|c| c["name"].as_str().unwrap().to_owned()).collect()
        };
        assert_eq!(names(&both), ["a", "b"]);
        let entry = owners(&both).into_iter().find(|(name, _)| name == "two Apply").unwrap().1;
        assert_eq!(
            entry,
            json!({"f:spec": {"f:template": {"f:spec": {"f:containers": {"k:{\"name\":\"b\"}": {
                ".": {}, "f:image": {}, "f:name": {}}}}}}})
        );
        // The owner of one element removes it and leaves the other's.
        let swapped =
            apply(&space, path, "one", object(json!([{"name": "c", "image": "c:1"}]))).await.ok(200);
        let mut left = names(&swapped);
        left.sort();
        assert_eq!(left, ["b", "c"]);
        // The scale has a path and an owner of its own.
        let scale = space
            .patch(&format!("{path}/scale?fieldManager=scaler"), MERGE, json!({"spec": {"replicas": 0}}))
            .await
            .ok(200);
        assert_eq!(
            (&scale["kind"], scale["spec"]["replicas"].as_u64().unwrap_or_default()),
            (&json!("Scale"), 0),
            "{scale}"
        );
        // A status is applied by its own path.
        space.post("pods", json!({"metadata": {"name": "p"}, "spec": pod_spec()})).await.ok(201);
        let status = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "status": {
            "conditions": [{"type": "example.com/own", "status": "True"}]}});
        let applied = apply(&space, "pods/p/status", "kubelet", status).await.ok(200);
        let conditions = applied["status"]["conditions"].as_array().unwrap();
        assert!(conditions.iter().any(|c| c["type"] == "example.com/own"), "{applied}");
        let entry = applied["metadata"]["managedFields"].as_array().unwrap();
        assert!(entry.iter().any(|e| e["subresource"] == "status" && e["manager"] == "kubelet"), "{applied}");
    })
    .await;
}

#[tokio::test]
async fn machines_are_applied_like_any_custom_kind() {
    with_space(|space| async move {
        if !space.target.ours_alone() {
            return;
        }
        let path = "kubevirt.io/v1:virtualmachines/m";
        let machine = |spec: Value| {
            let mut spec = spec;
            spec["template"] = json!({"spec": {"domain": {"devices": {}, "memory": {"guest": "64Mi"}}}});
            json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "metadata": {"name": "m"}, "spec": spec})
        };
        let made = apply(&space, path, "one", machine(json!({"runStrategy": "Halted"}))).await.ok(201);
        assert_eq!(made["metadata"]["generation"], 1);
        let again = apply(&space, path, "one", machine(json!({"runStrategy": "Halted"}))).await.ok(200);
        assert_eq!(again, made);
        let reply = apply(&space, path, "two", machine(json!({"runStrategy": "Always"}))).await;
        let status = reply.refused(409, "Conflict", "Apply failed with 1 conflict: conflict with \"one\": .spec.runStrategy");
        assert_eq!(status["details"]["causes"][0]["field"], ".spec.runStrategy");
        let forced = apply(&space, &format!("{path}?force=true"), "two", machine(json!({"runStrategy": "Manual"}))).await.ok(200);
        assert_eq!(forced["metadata"]["generation"], 2);
    })
    .await;
}
