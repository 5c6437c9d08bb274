//! Fields that a kind does not have, has twice or has in another type.

use serde_json::{Value, json};

use crate::target::{MERGE, Sent, with_space};

const JSON: &str = "application/json";

#[tokio::test]
async fn unknown_and_double_fields_are_dropped_told_or_refused() {
    with_space(|space| async move {
        let body = |name: &str| {
            let text = format!(
                "{{\"metadata\":{{\"name\":{name:?},\"nope\":1}},\"data\":{{\"a\":\"1\"}},\"data\":{{\"a\":\"2\"}},\"extra\":{{}}}}"
            );
            Sent::Raw(JSON, text.into_bytes())
        };
        let faults = ["unknown field \"metadata.nope\"", "duplicate field \"data\"", "unknown field \"extra\""];
        for (name, query, warned) in
            [("ignored", "?fieldValidation=Ignore", false), ("warned", "?fieldValidation=Warn", true), ("usual", "", true)]
        {
            let reply = space.send("POST", &format!("configmaps{query}"), &[], body(name)).await;
            let made = reply.ok(201);
            assert_eq!(made["data"], json!({"a": "2"}), "the last one counts");
            assert_eq!((&made["extra"], &made["metadata"]["nope"]), (&Value::Null, &Value::Null));
            let mut warnings = reply.warnings();
            warnings.sort();
            let mut wanted = faults.to_vec();
            wanted.sort_unstable();
            assert_eq!(warnings, if warned { wanted } else { Vec::new() }, "{query}");
        }
        let reply = space.send("POST", "configmaps?fieldValidation=Strict", &[], body("strict")).await;
        let status = reply.refused_with(400, "BadRequest", "strict decoding error: ");
        for fault in faults {
            assert!(status["message"].as_str().unwrap().contains(fault), "{status}");
        }
        space.get("configmaps/strict").await.refused(404, "NotFound", "configmaps \"strict\" not found");
        let reply = space.send("POST", "configmaps?fieldValidation=Some", &[], body("some")).await;
        reply.refused_with(422, "Invalid", "fieldValidation: Unsupported value: \"Some\": supported values: ");

        // In patches too.
        let path = "configmaps/usual?fieldValidation=Strict";
        let reply = space.patch(path, MERGE, json!({"spec": {"a": 1}})).await;
        reply.refused_with(422, "Invalid", "strict decoding error: unknown field \"spec\"");
        let reply = space.patch("configmaps/usual", MERGE, json!({"spec": {"a": 1}})).await;
        reply.ok(200);
        assert_eq!(reply.warnings(), ["unknown field \"spec\""]);
    })
    .await;
}

#[tokio::test]
async fn types_and_rules_of_kinds_hold() {
    with_space(|space| async move {
        // path, object, code, reason, text
        let container = json!({"name": "main", "image": "i"});
        let pod = |spec: Value| json!({"metadata": {"name": "p"}, "spec": spec});
        let cases = [
            ("configmaps", json!({"metadata": {"name": "a"}, "data": {"a": 1}}), 400, "BadRequest",
             "json: cannot unmarshal number into Go struct field ConfigMap.data of type string"),
            ("pods", json!({"metadata": {"name": "p"}, "spec": "text"}), 400, "BadRequest",
             "json: cannot unmarshal string into Go struct field Pod.spec of type v1.PodSpec"),
            ("pods", pod(json!({})), 422, "Invalid", "Pod \"p\" is invalid: spec.containers: Required value"),
            ("pods", pod(json!({"containers": [{"name": "Main", "image": "i"}]})), 422, "Invalid",
             "spec.containers[0].name: Invalid value: \"Main\": a lowercase RFC 1123 label must consist of"),
            ("pods", pod(json!({"containers": [container, container]})), 422, "Invalid",
             "spec.containers[1].name: Duplicate value: \"main\""),
            ("pods", pod(json!({"containers": [container], "restartPolicy": "Maybe"})), 422, "Invalid",
             "spec.restartPolicy: Unsupported value: \"Maybe\": supported values: \"Always\", \"OnFailure\", \"Never\""),
            ("apps/v1:deployments",
             json!({"metadata": {"name": "d"}, "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": {
                 "metadata": {"labels": {"a": "c"}}, "spec": {"containers": [container]}}}}),
             422, "Invalid",
             "spec.template.metadata.labels: Invalid value: {\"a\":\"c\"}: `selector` does not match template `labels`"),
            ("secrets", json!({"metadata": {"name": "s"}, "data": {"a": "not base64!"}}), 400, "BadRequest",
             "illegal base64 data at input byte 3"),
            ("secrets", json!({"metadata": {"name": "s"}, "type": "kubernetes.io/tls"}), 422, "Invalid",
             "data[tls.crt]: Required value"),
            ("services", json!({"metadata": {"name": "s"}, "spec": {"ports": [{"port": 0}]}}), 422, "Invalid",
             "spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive"),
            ("configmaps", json!({"kind": "Secret", "apiVersion": "v1", "metadata": {"name": "a"}}), 400, "BadRequest",
             "Secret in version \"v1\" cannot be handled as a ConfigMap"),
            ("configmaps", json!({"kind": "ConfigMap", "apiVersion": "v2", "metadata": {"name": "a"}}), 400, "BadRequest",
             "the API version in the data (v2) does not match the expected API version (v1)"),
        ];
        for (path, object, code, reason, text) in cases {
            let mut object = object;
            if object.get("kind").is_none() {
                object["apiVersion"] = path.split_once(':').map_or("v1", |(version, _)| version).into();
                object["kind"] = match path.rsplit(':').next().unwrap() {
                    "configmaps" => "ConfigMap",
                    "pods" => "Pod",
                    "deployments" => "Deployment",
                    "secrets" => "Secret",
                    _ => "Service",
                }
                .into();
            }
            let reply = space.post(path, object).await;
            assert_eq!(reply.code, code, "{text}: {}", reply.text());
            reply.refused_with(code, reason, text);
        }
        // What must not change.
        space.post("secrets", json!({"metadata": {"name": "fixed"}, "immutable": true, "data": {"a": "YQ=="}})).await.ok(201);
        let reply = space.patch("secrets/fixed", MERGE, json!({"data": {"a": "Yg=="}})).await;
        reply.refused_with(422, "Invalid", "data: Forbidden: field is immutable when `immutable` is set");
        let reply = space.patch("secrets/fixed", MERGE, json!({"type": "example.com/other"})).await;
        reply.refused_with(422, "Invalid", "type: Invalid value: \"example.com/other\": field is immutable");
        // A Secret's text form is for writing only.
        let made = space.post("secrets", json!({"metadata": {"name": "text"}, "stringData": {"a": "plain"}})).await.ok(201);
        assert_eq!((&made["data"]["a"], &made["stringData"]), (&json!("cGxhaW4="), &Value::Null));
        assert_eq!(made["type"], "Opaque");
    })
    .await;
}
