//! Bodies that no honest client sends.

use serde_json::json;

use crate::target::{APPLY, JSON_PATCH, MERGE, STRATEGIC, with_space};

const JSON: &str = "application/json";

#[tokio::test]
async fn hostile_bodies_are_refused() {
    with_space(|space| async move {
        space.config_map(json!({"name": "a"}), json!({})).await;
        let nested = |depth: usize| format!("{}{}", "{\"a\":".repeat(depth), "1") + &"}".repeat(depth);
        let arrays = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        let deep_in = |value: String| format!("{{\"metadata\":{{\"name\":\"deep\"}},\"data\":{value}}}");
        let mut not_utf8 = br#"{"metadata":{"name":"u"},"data":{"k":""#.to_vec();
        not_utf8.extend_from_slice(b"\xff\xfe\"}}");
        // what, method, content type, body
        let bodies: Vec<(&str, &str, &'static str, Vec<u8>)> = vec![
            ("empty", "POST", JSON, b"".to_vec()),
            ("no object", "POST", JSON, b"[]".to_vec()),
            ("a text", "POST", JSON, b"\"text\"".to_vec()),
            ("half", "POST", JSON, b"{\"metadata\":".to_vec()),
            ("more", "POST", JSON, b"{\"metadata\":{\"name\":\"m\"}} {}".to_vec()),
            ("deep objects", "POST", JSON, deep_in(nested(10_001)).into_bytes()),
            ("deep arrays", "POST", JSON, deep_in(arrays(10_001)).into_bytes()),
            ("very deep", "POST", JSON, arrays(1_000_000).into_bytes()),
            ("deep YAML", "POST", "application/yaml", arrays(10_001).into_bytes()),
            ("deep YAML objects", "POST", "application/yaml", format!("data: {}", nested(99)).into_bytes()),
            (
                "deeper YAML objects",
                "POST",
                "application/yaml",
                format!("data: {}", nested(10_001)).into_bytes(),
            ),
            ("deep YAML apply", "PATCH", APPLY, format!("data: {}", nested(99)).into_bytes()),
            ("aliases", "POST", "application/yaml", {
                let mut text = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
                for level in 1..12 {
                    let below = format!("*a{}", level - 1);
                    text.push_str(&format!("a{level}: &a{level} [{}]\n", [below.as_str(); 10].join(",")));
                }
                text.into_bytes()
            }),
            ("deep merge patch", "PATCH", MERGE, deep_in(nested(10_001)).into_bytes()),
            ("deep strategic patch", "PATCH", STRATEGIC, deep_in(nested(10_001)).into_bytes()),
            ("deep apply", "PATCH", APPLY, deep_in(nested(10_001)).into_bytes()),
            (
                "deep JSON patch",
                "PATCH",
                JSON_PATCH,
                format!("[{{\"op\":\"add\",\"path\":\"/data/k\",\"value\":{}}}]", arrays(10_001))
                    .into_bytes(),
            ),
            ("no UTF-8 in a patch", "PATCH", MERGE, b"{\"data\":{\"k\":\"\xff\"}}".to_vec()),
            ("no UTF-8 in YAML", "POST", "application/yaml", b"data: {k: \xff}".to_vec()),
        ];
        for (what, method, form, body) in bodies {
            let path = if method == "PATCH" { "configmaps/a?fieldManager=m" } else { "configmaps" };
            let reply = space.send(method, path, &[], (form, body)).await;
            assert!((400..500).contains(&reply.code), "{what}: {}", reply.text());
            let status = reply.json();
            assert_eq!(
                (&status["kind"], &status["code"]),
                (&json!("Status"), &json!(reply.code)),
                "{what}: {status}"
            );
            assert!(!status["message"].as_str().unwrap().is_empty(), "{what}: {status}");
            assert!(reply.body.len() < 20_000, "{what}: an answer of {} bytes", reply.body.len());
        }
        if space.target.ours_alone() {
            // Go takes bytes that are no text for U+FFFD; ours refuses them.
            let reply = space.send("POST", "configmaps", &[], (JSON, not_utf8)).await;
            assert!((400..500).contains(&reply.code), "{}", reply.text());
        }
        // Nothing of it came to be, and the server is well.
        let names = space.get("configmaps").await.names();
        assert_eq!(names, ["a", "kube-root-ca.crt"]);
    })
    .await;
}

#[tokio::test]
async fn sizes_have_limits() {
    with_space(|space| async move {
        let limit = 3 * 1024 * 1024;
        let text = format!("Request entity too large: limit is {limit}");
        let large = json!({"metadata": {"name": "l"}, "data": {"k": "x".repeat(limit)}}).to_string();
        for method in ["POST", "PUT"] {
            let path = if method == "POST" { "configmaps" } else { "configmaps/l" };
            let reply = space.send(method, path, &[], (JSON, large.clone())).await;
            reply.refused(413, "RequestEntityTooLarge", &text);
        }
        let reply = space.send("PATCH", "configmaps/l", &[], (MERGE, large)).await;
        reply.refused(413, "RequestEntityTooLarge", &text);
        // What is kept is less than what may be sent.
        let large = json!({"metadata": {"name": "l"}, "data": {"k": "x".repeat(1024 * 1024 + 1)}});
        let reply = space.post("configmaps", large).await;
        reply.refused_with(422, "Invalid", "Too long: may not be more than 1048576 bytes");
        let notes = json!({"metadata": {"name": "l", "annotations": {"a": "x".repeat(256 * 1024 + 1)}}});
        let reply = space.post("configmaps", notes).await;
        reply.refused_with(
            422,
            "Invalid",
            "metadata.annotations: Too long: may not be more than 262144 bytes",
        );
        // Long paths and queries.
        let reply = space.get(&format!("configmaps/{}", "a".repeat(20_000))).await;
        assert!((400..500).contains(&reply.code), "{}", reply.text());
        let reply = space.get(&format!("configmaps?labelSelector={}", "a%2C".repeat(2_000))).await;
        assert!(reply.code < 500, "{}", reply.text());
    })
    .await;
}
