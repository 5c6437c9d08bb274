//! The forms that answers come in: tables, partial objects, YAML, compressed; and those that are not there.

use std::io::Read as _;

use serde_json::{Value, json};

use crate::objects::pod_spec;
use crate::target::{Sent, Space, with_space};

async fn get_as(space: &Space, path: &str, accept: &str) -> crate::target::Reply {
    space.send("GET", path, &[("accept", accept)], ()).await
}

const TABLE: &str = "application/json;as=Table;g=meta.k8s.io;v=v1";
const PARTIAL: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
const PARTIALS: &str = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";

#[tokio::test]
async fn tables_have_columns_and_rows() {
    with_space(|space| async move {
        space.config_map(json!({"name": "a", "labels": {"own": ""}}), json!({"k": "1", "l": "2"})).await;
        let list = get_as(&space, "configmaps?labelSelector=own", TABLE).await;
        assert_eq!(list.header("content-type"), "application/json");
        let table = list.ok(200);
        assert_eq!((&table["kind"], &table["apiVersion"]), (&json!("Table"), &json!("meta.k8s.io/v1")));
        let columns: Vec<_> = table["columnDefinitions"]
            .as_array()
            .unwrap()
            .iter()
            .map(|c| c["name"].as_str().unwrap())
            .collect();
        assert_eq!(columns, ["Name", "Data", "Age"]);
        assert!(table["metadata"]["resourceVersion"].is_string());
        let row = &table["rows"][0];
        assert_eq!((&row["cells"][0], &row["cells"][1]), (&json!("a"), &json!(2)));
        assert_eq!(row["object"]["kind"], "PartialObjectMetadata");
        assert_eq!(row["object"]["metadata"]["name"], "a");
        for (include, seen) in [
            ("None", Value::Null),
            ("Metadata", json!("PartialObjectMetadata")),
            ("Object", json!("ConfigMap")),
        ] {
            let table = get_as(&space, &format!("configmaps/a?includeObject={include}"), TABLE).await.ok(200);
            assert_eq!(table["rows"][0]["object"]["kind"], seen, "{include}");
        }
        get_as(&space, "configmaps/a?includeObject=Some", TABLE).await.refused_with(
            400,
            "BadRequest",
            "unrecognized includeObject value: \"Some\"",
        );
        // The first form that is known is taken.
        let list = get_as(
            &space,
            "configmaps",
            &format!("application/json;as=Table;v=v9;g=meta.k8s.io,{TABLE},application/json"),
        )
        .await;
        assert_eq!(list.ok(200)["kind"], "Table");

        space.post("pods", json!({"metadata": {"name": "p"}, "spec": pod_spec()})).await.ok(201);
        let table = get_as(&space, "pods", TABLE).await.ok(200);
        let columns: Vec<_> = table["columnDefinitions"]
            .as_array()
            .unwrap()
            .iter()
            .map(|c| (c["name"].as_str().unwrap(), c["priority"].as_u64().unwrap()))
            .collect();
        assert_eq!(
            columns,
            [
                ("Name", 0),
                ("Ready", 0),
                ("Status", 0),
                ("Restarts", 0),
                ("Age", 0),
                ("IP", 1),
                ("Node", 1),
                ("Nominated Node", 1),
                ("Readiness Gates", 1)
            ]
        );
        let cells = table["rows"][0]["cells"].as_array().unwrap();
        assert_eq!(cells[..3], [json!("p"), json!("0/1"), json!("Pending")]);
        assert_eq!(cells[3], "0");
        space.delete("pods/p?gracePeriodSeconds=0").await.ok(200);
        // Errors stay what they are.
        get_as(&space, "configmaps/none", TABLE).await.refused(
            404,
            "NotFound",
            "configmaps \"none\" not found",
        );
        // And what is made or removed can be shown so too.
        let made = space
            .send("POST", "configmaps", &[("accept", TABLE)], json!({"metadata": {"name": "t"}}))
            .await
            .ok(201);
        assert_eq!(made["rows"][0]["cells"][0], "t");
    })
    .await;
}

#[tokio::test]
async fn partial_objects_are_their_metadata() {
    with_space(|space| async move {
        let made = space.config_map(json!({"name": "a", "labels": {"own": ""}}), json!({"k": "1"})).await;
        let partial = get_as(&space, "configmaps/a", PARTIAL).await.ok(200);
        assert_eq!(partial, json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": made["metadata"]}));
        let list = get_as(&space, "configmaps?labelSelector=own", PARTIALS).await.ok(200);
        assert_eq!((&list["kind"], &list["apiVersion"]), (&json!("PartialObjectMetadataList"), &json!("meta.k8s.io/v1")));
        assert_eq!(list["items"][0]["metadata"], made["metadata"]);
        assert_eq!(list["items"][0]["data"], Value::Null);
        // An old form of the form, and a wrong one.
        assert_eq!(get_as(&space, "configmaps/a", "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v2").await.code, 406);
    })
    .await;
}

#[tokio::test]
async fn yaml_is_spoken_and_what_is_not_is_said() {
    with_space(|space| async move {
        let yaml = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: yaml\ndata:\n  text: |\n    two\n    lines\n  number: \"1\"\n";
        let made = space.send("POST", "configmaps", &[], ("application/yaml", yaml)).await.ok(201);
        assert_eq!(made["data"], json!({"text": "two\nlines\n", "number": "1"}));
        let read = get_as(&space, "configmaps/yaml", "application/yaml").await;
        assert_eq!((read.code, read.header("content-type")), (200, "application/yaml"));
        let value: Value = serde_saphyr::from_slice(&read.body).unwrap();
        assert_eq!(value, made);
        let missing = get_as(&space, "configmaps/none", "application/yaml").await;
        assert_eq!((missing.code, missing.header("content-type")), (404, "application/yaml"));
        // Several at once is none.
        let two = space.send("POST", "configmaps", &[], ("application/yaml", "a: [")).await;
        assert_eq!(two.code, 400, "{}", two.text());

        // accept, code
        let ours = space.target.ours_alone();
        for (accept, code) in [
            ("*/*", 200),
            ("application/*", 200),
            ("text/html, application/json;q=0.5", 200),
            ("application/vnd.kubernetes.protobuf,application/json", 200),
            ("text/html", 406),
            ("application/xml", 406),
            ("application/vnd.kubernetes.protobuf", 406),
            ("application/cbor", 406),
        ] {
            if accept == "application/vnd.kubernetes.protobuf" && !ours {
                // Kubernetes answers in it.
                continue;
            }
            let reply = get_as(&space, "configmaps/yaml", accept).await;
            assert_eq!(reply.code, code, "{accept}: {}", reply.text());
            if code == 406 {
                let status = reply.refused_with(406, "NotAcceptable", "only the following media types are accepted: application/json");
                assert_eq!(status["reason"], "NotAcceptable");
            }
        }
        let text = "the body of the request was in an unknown format - accepted media types include: application/json";
        for form in ["text/plain", "application/xml"] {
            let reply = space.send("POST", "configmaps", &[], (form, "{}")).await;
            reply.refused_with(415, "UnsupportedMediaType", text);
        }
        if ours {
            let reply = space.send("POST", "configmaps", &[], ("application/vnd.kubernetes.protobuf", "k9s\0")).await;
            assert!((400..500).contains(&reply.code), "{}", reply.text());
            // Ours has no protobuf for kinds that Kubernetes has none for either.
            let reply = space.send("POST", "kubevirt.io/v1:virtualmachines", &[], ("application/vnd.kubernetes.protobuf", "k8s\0")).await;
            reply.refused_with(415, "UnsupportedMediaType", text);
            let reply = space.send("POST", "configmaps", &[], ("application/cbor", "\u{1}")).await;
            reply.refused_with(415, "UnsupportedMediaType", text);
        }
        // Parameters of the type do not matter.
        let reply = space.send("POST", "configmaps", &[], ("application/json; charset=utf-8", r#"{"metadata":{"name":"p"}}"#)).await;
        reply.ok(201);
    })
    .await;
}

#[tokio::test]
async fn large_answers_are_compressed_for_who_wants_it() {
    with_space(|space| async move {
        let text = "text ".repeat(40_000);
        space.config_map(json!({"name": "large"}), json!({"k": text})).await;
        let path = "configmaps/large";
        let plain = space.get(path).await;
        assert_eq!(plain.header("content-encoding"), "");
        for accepted in ["gzip", "deflate, gzip;q=1.0, *;q=0.5"] {
            let packed = space.send("GET", path, &[("accept-encoding", accepted)], ()).await;
            assert_eq!((packed.code, packed.header("content-encoding")), (200, "gzip"), "{accepted}");
            assert!(packed.body.len() * 10 < plain.body.len());
            let mut unpacked = Vec::new();
            flate2::read::GzDecoder::new(packed.body.as_ref()).read_to_end(&mut unpacked).unwrap();
            assert_eq!(unpacked, plain.body);
        }
        let small = space.send("GET", "configmaps/none", &[("accept-encoding", "gzip")], ()).await;
        assert_eq!(small.header("content-encoding"), "");
    })
    .await;
}

#[tokio::test]
async fn unknown_paths_and_methods_answer_in_kind() {
    with_space(|space| async move {
        let not_found = "the server could not find the requested resource";
        for path in [
            "/apis/nothing.example.com/v1/things",
            "/api/v1/things",
            "/api/v1/namespaces/default/things/one",
            "/apis/apps/v9/deployments",
            "/api/v7/pods",
            "/nothing",
            "/apis/nothing.example.com",
        ] {
            let reply = space.get(path).await;
            assert_eq!(reply.code, 404, "{path}: {}", reply.text());
            // Paths that belong to no API answer as plain as Go's file servers do, or with a status.
            if reply.header("content-type").starts_with("application/json") {
                reply.refused(404, "NotFound", not_found);
            } else {
                assert_eq!(&reply.body[..], b"404 page not found\n", "{path}");
            }
        }
        let not_allowed = "the server does not allow this method on the requested resource";
        for (method, path) in [
            ("POST", "configmaps/a"),
            ("PUT", "configmaps"),
            ("PATCH", "configmaps"),
            ("DELETE", "/api/v1/namespaces"),
            ("POST", "pods/p/log"),
        ] {
            let form = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
            let reply = space.send(method, path, &[], (form, "{}")).await;
            assert_eq!(reply.code, 405, "{method} {path}: {}", reply.text());
            reply.refused(405, "MethodNotAllowed", not_allowed);
        }
        let reply = space.send("OPTIONS", "configmaps", &[], Sent::Nothing).await;
        assert_eq!(reply.code, 405, "{}", reply.text());
        // A namespaced kind outside of a namespace, and the other way round.
        let reply = space.post("/api/v1/configmaps", json!({"metadata": {"name": "a"}})).await;
        assert_eq!(reply.code, 405, "{}", reply.text());
        assert_eq!(space.get(&format!("/api/v1/namespaces/{}/nodes", space.name)).await.code, 404);
    })
    .await;
}
