//! JSON Patch, merge patch and strategic merge patch.

use serde_json::{Value, json};

use crate::objects::pod_spec;
use crate::target::{APPLY, JSON_PATCH, MERGE, STRATEGIC, Sent, with_space};

#[tokio::test]
async fn json_patches_are_applied_as_a_whole_or_not_at_all() {
    with_space(|space| async move {
        space.config_map(json!({"name": "a"}), json!({"k": "1", "x.y": "2"})).await;
        // patch, data afterwards
        let cases = [
            (json!([{"op": "add", "path": "/data/n", "value": "3"}]), json!({"k": "1", "x.y": "2", "n": "3"})),
            (json!([{"op": "replace", "path": "/data/x.y", "value": "4"}]), json!({"k": "1", "x.y": "4", "n": "3"})),
            (json!([{"op": "move", "from": "/data/n", "path": "/data/m"}]), json!({"k": "1", "x.y": "4", "m": "3"})),
            (json!([{"op": "copy", "from": "/data/k", "path": "/data/c"}, {"op": "remove", "path": "/data/m"}]),
             json!({"k": "1", "x.y": "4", "c": "1"})),
            (json!([{"op": "test", "path": "/data/k", "value": "1"}, {"op": "remove", "path": "/data/c"}]),
             json!({"k": "1", "x.y": "4"})),
            // A path that is not there equals null: kube-rs' finalizer helper relies on it.
            (json!([{"op": "test", "path": "/metadata/finalizers", "value": null},
                    {"op": "add", "path": "/metadata/labels", "value": {"a/b~c": "d"}},
                    {"op": "replace", "path": "/metadata/labels/a~1b~0c", "value": "e"},
                    {"op": "remove", "path": "/metadata/labels/a~1b~0c"}]), json!({"k": "1", "x.y": "4"})),
            (json!([]), json!({"k": "1", "x.y": "4"})),
        ];
        for (patch, data) in cases {
            let patched = space.patch("configmaps/a", JSON_PATCH, patch.clone()).await.ok(200);
            assert_eq!(patched["data"], data, "{patch}");
        }
        // patch, code, reason, text
        let cases = [
            (json!([{"op": "test", "path": "/data/k", "value": "2"}, {"op": "remove", "path": "/data/k"}]), 422, "Invalid",
             "the server rejected our request due to an error in our request"),
            (json!([{"op": "remove", "path": "/data/none"}]), 422, "Invalid",
             "the server rejected our request due to an error in our request"),
            (json!({"op": "remove"}), 400, "BadRequest", "cannot unmarshal object into Go value of type"),
        ];
        for (patch, code, reason, text) in cases {
            let reply = space.patch("configmaps/a", JSON_PATCH, patch.clone()).await;
            assert_eq!(reply.code, code, "{patch}: {}", reply.text());
            reply.refused_with(code, reason, text);
        }
        let many: Vec<_> = (0..10_001).map(|_| json!({"op": "test", "path": "/data/k", "value": "1"})).collect();
        let reply = space.patch("configmaps/a", JSON_PATCH, many.into()).await;
        reply.refused(
            413,
            "RequestEntityTooLarge",
            "Request entity too large: The allowed maximum operations in a JSON patch is 10000, got 10001",
        );
        let name = json!([{"op": "replace", "path": "/metadata/name", "value": "b"}]);
        let reply = space.patch("configmaps/a", JSON_PATCH, name).await;
        reply.refused(400, "BadRequest", "the name of the object (b) does not match the name on the URL (a)");
        assert_eq!(space.get("configmaps/a").await.json()["data"], json!({"k": "1", "x.y": "4"}));
    })
    .await;
}

#[tokio::test]
async fn merge_patches_merge_and_null_removes() {
    with_space(|space| async move {
        let made =
            space.config_map(json!({"name": "a", "labels": {"x": "1", "y": "2"}}), json!({"k": "1"})).await;
        let patch = json!({"metadata": {"labels": {"x": null, "z": "3"}}, "data": {"n": "2"}});
        let patched = space.patch("configmaps/a", MERGE, patch).await.ok(200);
        assert_eq!(patched["metadata"]["labels"], json!({"y": "2", "z": "3"}));
        assert_eq!(patched["data"], json!({"k": "1", "n": "2"}));
        let patched = space.patch("configmaps/a", MERGE, json!({"data": null})).await.ok(200);
        assert_eq!(patched["data"], Value::Null);
        // With a version it is a condition.
        let old = &made["metadata"]["resourceVersion"];
        let reply = space
            .patch("configmaps/a", MERGE, json!({"metadata": {"resourceVersion": old}, "data": {"a": "b"}}))
            .await;
        reply.refused_with(
            409,
            "Conflict",
            "the object has been modified; please apply your changes to the latest version and try again",
        );
        let reply = space.send("PATCH", "configmaps/a", &[], (MERGE, "[1]")).await;
        assert!((400..500).contains(&reply.code), "{}", reply.text());
        reply.refused_with(reply.code, "BadRequest", "");
        let reply = space.send("PATCH", "configmaps/a", &[], (MERGE, "{")).await;
        reply.refused_with(400, "BadRequest", "error decoding patch: ");
        // Which forms there are.
        for form in ["application/json", "text/plain", ""] {
            let reply = space
                .send("PATCH", "configmaps/a", &[("content-type", form)], Sent::Raw(MERGE, b"{}".to_vec()))
                .await;
            let status = reply.refused_with(
                415,
                "UnsupportedMediaType",
                "the body of the request was in an unknown format - accepted media types include: ",
            );
            let text = status["message"].as_str().unwrap();
            for known in [JSON_PATCH, MERGE, STRATEGIC, APPLY] {
                assert!(text.contains(known), "{text}");
            }
        }
    })
    .await;
}

#[tokio::test]
async fn strategic_patches_know_lists_by_their_keys() {
    with_space(|space| async move {
        let mut spec = pod_spec();
        spec["containers"] = json!([
            {"name": "a", "image": "a:1", "env": [{"name": "X", "value": "1"}, {"name": "Y", "value": "2"}]},
            {"name": "b", "image": "b:1"},
        ]);
        spec["tolerations"] = json!([{"key": "one", "operator": "Exists"}]);
        let template = json!({"metadata": {"labels": {"app": "x"}}, "spec": spec});
        let deployment = json!({"metadata": {"name": "d", "finalizers": ["example.com/a"]}, "spec": {
            "replicas": 0, "paused": true, "selector": {"matchLabels": {"app": "x"}}, "template": template}});
        space.post("apps/v1:deployments", deployment).await.ok(201);
        let containers = |patched: &Value| -> Vec<String> {
            let all = patched["spec"]["template"]["spec"]["containers"].as_array().unwrap();
            all.iter()
                .map(|c| {
                    let env = c["env"].as_array().cloned().unwrap_or_default();
                    let env: Vec<_> = env.iter().map(|e| format!("{}={}", e["name"], e["value"]).replace('"', "")).collect();
                    format!("{} {} {}", c["name"], c["image"], env.join(",")).replace('"', "").trim_end().to_owned()
                })
                .collect()
        };
        let within = |spec: Value| json!({"spec": {"template": {"spec": spec}}});
        // patch, containers afterwards
        let cases = [
            (within(json!({"containers": [{"name": "a", "image": "a:2"}]})), vec!["a a:2 X=1,Y=2", "b b:1"]),
            (within(json!({"containers": [{"name": "a", "env": [{"name": "Y", "value": "3"}, {"name": "Z", "value": "4"}]}]})),
             vec!["a a:2 Z=4,X=1,Y=3", "b b:1"]),
            (within(json!({"containers": [{"name": "a", "env": [{"name": "X", "$patch": "delete"}]}]})),
             vec!["a a:2 Z=4,Y=3", "b b:1"]),
            (within(json!({"containers": [{"name": "c", "image": "c:1"}],
                "$setElementOrder/containers": [{"name": "b"}, {"name": "c"}, {"name": "a"}]})),
             vec!["b b:1", "c c:1", "a a:2 Z=4,Y=3"]),
            (within(json!({"containers": [{"name": "b", "$patch": "delete"}]})), vec!["c c:1", "a a:2 Z=4,Y=3"]),
            (within(json!({"containers": [{"name": "only", "image": "o:1"}, {"$patch": "replace"}]})), vec!["only o:1"]),
        ];
        for (patch, wanted) in cases {
            let patched = space.patch("apps/v1:deployments/d", STRATEGIC, patch.clone()).await.ok(200);
            let mut seen = containers(&patched);
            let mut wanted: Vec<_> = wanted.iter().map(ToString::to_string).collect();
            // Where a new element goes among the old ones is nobody's promise, unless the patch gives an order.
            let is_ordered = patch.to_string().contains("$setElementOrder");
            for all in [&mut seen, &mut wanted] {
                for line in all.iter_mut() {
                    let mut words: Vec<_> = line.split([' ', ',']).map(str::to_owned).collect();
                    words[2..].sort();
                    *line = words.join(" ");
                }
                if !is_ordered {
                    all.sort();
                }
            }
            assert_eq!(seen, wanted, "{patch}");
        }
        // Lists without keys are replaced; finalizers are a set.
        let patched = space
            .patch("apps/v1:deployments/d", STRATEGIC, within(json!({"tolerations": [{"key": "two", "operator": "Exists"}]})))
            .await
            .ok(200);
        assert_eq!(patched["spec"]["template"]["spec"]["tolerations"].as_array().unwrap().len(), 1);
        let path = "apps/v1:deployments/d";
        let patched = space.patch(path, STRATEGIC, json!({"metadata": {"finalizers": ["example.com/b"]}})).await.ok(200);
        assert_eq!(patched["metadata"]["finalizers"].as_array().unwrap().len(), 2, "{patched}");
        let patched = space
            .patch(path, STRATEGIC, json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["example.com/a"]}}))
            .await
            .ok(200);
        assert_eq!(patched["metadata"]["finalizers"], json!(["example.com/b"]));
        // $retainKeys, as kubectl sends it for a strategy.
        let rolling = json!({"spec": {"strategy": {"type": "Recreate", "rollingUpdate": null, "$retainKeys": ["type"]}}});
        let patched = space.patch(path, STRATEGIC, rolling).await.ok(200);
        assert_eq!(patched["spec"]["strategy"], json!({"type": "Recreate"}));
        space.patch(path, MERGE, json!({"metadata": {"finalizers": null}})).await.ok(200);
        if space.target.ours_alone() {
            let devices = json!({"domain": {"devices": {}, "memory": {"guest": "64Mi"}}});
            let machine = json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "metadata": {"name": "m"},
                "spec": {"runStrategy": "Halted", "template": {"spec": devices}}});
            space.post("kubevirt.io/v1:virtualmachines", machine).await.ok(201);
            let reply = space.patch("kubevirt.io/v1:virtualmachines/m", STRATEGIC, json!({})).await;
            reply.refused(415, "UnsupportedMediaType",
                "the body of the request was in an unknown format - accepted media types include: \
                 application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml");
        }
    })
    .await;
}
