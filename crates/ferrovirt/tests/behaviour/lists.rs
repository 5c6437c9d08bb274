//! Lists: which state they show, in which pieces, and of what.

use std::collections::BTreeSet;

use serde_json::json;

use crate::objects::pod_spec;
use crate::target::{Space, names, version, with_space};

#[tokio::test]
async fn a_list_shows_the_state_that_is_asked_for() {
    with_space(|space| async move {
        space.config_map(json!({"name": "a", "labels": {"own": ""}}), json!({})).await;
        let first = space.get("configmaps?labelSelector=own").await.ok(200);
        let old = version(&first);
        space.config_map(json!({"name": "b", "labels": {"own": ""}}), json!({})).await;
        space.delete("configmaps/a").await.ok(200);
        let now = version(&space.get("configmaps").await.ok(200));

        // query, what is shown
        let cases = [
            (String::new(), vec!["b"]),
            ("&resourceVersion=0".to_owned(), vec!["b"]),
            (format!("&resourceVersion={now}"), vec!["b"]),
            (format!("&resourceVersion={old}"), vec!["b"]),
            (format!("&resourceVersion={old}&resourceVersionMatch=NotOlderThan"), vec!["b"]),
            ("&resourceVersion=0&resourceVersionMatch=NotOlderThan".to_owned(), vec!["b"]),
            (format!("&resourceVersion={old}&resourceVersionMatch=Exact"), vec!["a"]),
            (format!("&resourceVersion={now}&resourceVersionMatch=Exact"), vec!["b"]),
            (format!("&resourceVersion={old}&resourceVersionMatch=Exact&limit=10"), vec!["a"]),
        ];
        for (query, shown) in cases {
            let path = format!("configmaps?labelSelector=own{query}");
            // A list from a cache may be a moment late anywhere but here.
            let list = match space.target.ours_alone() {
                true => space.get(&path).await.ok(200),
                false => space.eventually(&path, |reply| reply.names() == shown).await.json(),
            };
            assert_eq!(names(&list), shown, "{query}");
            if query.contains("Exact") {
                let exact = query.contains(&format!("={old}"));
                assert_eq!(version(&list), if exact { old } else { now }, "{query}");
            } else {
                assert!(version(&list) >= old, "{query}");
            }
        }

        let forbidden = "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided";
        // query, code, reason, text
        let cases = [
            ("resourceVersionMatch=Exact", 422, "Invalid", forbidden),
            ("resourceVersion=0&resourceVersionMatch=Exact", 422, "Invalid",
             "resourceVersionMatch: Forbidden: resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\""),
            ("resourceVersion=1&resourceVersionMatch=Some", 422, "Invalid",
             "resourceVersionMatch: Unsupported value: \"Some\": supported values: "),
            ("resourceVersion=many", 400, "BadRequest", "many"),
            ("resourceVersion=-1", 400, "BadRequest", "-1"),
            ("continue=nonsense", 400, "BadRequest", "continue key is not valid"),
            ("limit=many", 400, "BadRequest", "many"),
            ("labelSelector=%3D%3D%3D", 400, "BadRequest", "found '==', expected: !, identifier, or 'end of string'"),
            ("fieldSelector=spec.nothing%3Da", 400, "BadRequest", "\"spec.nothing\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\""),
            ("sendInitialEvents=true", 422, "Invalid", "sendInitialEvents: Forbidden: sendInitialEvents is forbidden for list"),
        ];
        for (query, code, reason, text) in cases {
            let reply = space.get(&format!("configmaps?{query}")).await;
            assert_eq!(reply.code, code, "{query}: {}", reply.text());
            reply.refused_with(code, reason, text);
        }
    })
    .await;
}

#[tokio::test]
async fn a_version_that_is_not_yet_is_waited_for_and_refused() {
    with_space(|space| async move {
        let now = version(&space.get("configmaps").await.ok(200));
        let far = now + 1_000_000_000;
        for path in [
            format!("configmaps?resourceVersion={far}"),
            format!("configmaps/kube-root-ca.crt?resourceVersion={far}"),
        ] {
            let status = space.get(&path).await.refused_with(504, "Timeout", "Too large resource version: ");
            let causes =
                json!([{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}]);
            assert_eq!(status["details"]["causes"], causes, "{status}");
            assert_eq!(status["details"]["retryAfterSeconds"], 1, "{status}");
        }
    })
    .await;
}

#[tokio::test]
async fn pieces_of_a_list_are_of_one_moment() {
    with_space(|space| async move {
        for number in 0..25 {
            space
                .config_map(json!({"name": format!("m{number:02}"), "labels": {"own": ""}}), json!({}))
                .await;
        }
        let path = "configmaps?labelSelector=own&limit=7";
        let mut page = space.get(path).await.ok(200);
        let at = version(&page);
        let mut seen = names(&page);
        // With a selector nobody counts what remains.
        assert_eq!(page["metadata"]["remainingItemCount"], serde_json::Value::Null);
        let counted = space.get("configmaps?limit=7").await.ok(200);
        assert_eq!(counted["metadata"]["remainingItemCount"], 26 - 7, "kube-root-ca.crt and 25 of ours");
        let mut number = 100;
        while let Some(token) = page["metadata"]["continue"].as_str().filter(|token| !token.is_empty()) {
            // Meanwhile the world goes on: one comes in front of what is shown, one behind it, and one goes.
            space.config_map(json!({"name": format!("a{number}"), "labels": {"own": ""}}), json!({})).await;
            space.config_map(json!({"name": format!("z{number}"), "labels": {"own": ""}}), json!({})).await;
            space.delete(&format!("configmaps/m{:02}", number - 80)).await.ok(200);
            number += 1;
            let next = format!("{path}&continue={token}");
            page = space.get(&next).await.ok(200);
            assert_eq!(version(&page), at);
            seen.extend(names(&page));
            if number == 101 {
                let reply = space.get(&format!("{next}&resourceVersion=1")).await;
                let text = "specifying resource version is not allowed when using continue";
                reply.refused_with(400, "BadRequest", text);
            }
        }
        let wanted: Vec<_> = (0..25).map(|number| format!("m{number:02}")).collect();
        assert_eq!(seen, wanted);
        assert_eq!(number, 103, "four pieces");
    })
    .await;
}

async fn selected(space: &Space, selectors: &[(&str, &[&str])], parameter: &str, base: &str) {
    for (selector, shown) in selectors {
        let encoded: String = selector.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let mark = if base.contains('?') { '&' } else { '?' };
        let reply = space.get(&format!("{base}{mark}{parameter}={encoded}")).await;
        let names: BTreeSet<_> = reply.names().into_iter().collect();
        let wanted: BTreeSet<_> = shown.iter().map(ToString::to_string).collect();
        assert_eq!(names, wanted, "{selector}");
    }
}

#[tokio::test]
async fn selectors_select() {
    with_space(|space| async move {
        for (name, labels) in [
            ("plain", json!({"own": "1"})),
            ("red", json!({"own": "1", "colour": "red", "size": "5"})),
            ("blue", json!({"own": "1", "colour": "blue", "size": "12", "example.com/deep": "x"})),
        ] {
            space.config_map(json!({"name": name, "labels": labels}), json!({})).await;
        }
        let all: &[&str] = &["plain", "red", "blue"];
        selected(
            &space,
            &[
                ("own", all),
                ("own,colour", &["red", "blue"]),
                ("own,!colour", &["plain"]),
                ("own=1,colour=red", &["red"]),
                ("own==1,colour==red", &["red"]),
                ("own,colour!=red", &["plain", "blue"]),
                ("own,colour in (red, green)", &["red"]),
                ("own,colour notin (red)", &["plain", "blue"]),
                ("own,size>5", &["blue"]),
                ("own,size<12", &["red"]),
                ("example.com/deep=x", &["blue"]),
                ("own, colour in (red,blue) , size > 6", &["blue"]),
                ("own=", &[]),
            ],
            "labelSelector",
            "configmaps",
        )
        .await;
        selected(
            &space,
            &[
                ("metadata.name=red", &["red"]),
                ("metadata.name!=red", &["plain", "blue"]),
                ("metadata.name==red,metadata.namespace!=nowhere", &["red"]),
                ("metadata.namespace=nowhere", &[]),
            ],
            "fieldSelector",
            "configmaps?labelSelector=own",
        )
        .await;

        for (name, node) in [("here", Some("no-such-node")), ("nowhere", None)] {
            let mut spec = pod_spec();
            if let Some(node) = node {
                spec["nodeName"] = node.into();
            }
            space.post("pods", json!({"metadata": {"name": name}, "spec": spec})).await.ok(201);
        }
        selected(
            &space,
            &[
                ("spec.nodeName=no-such-node", &["here"]),
                ("spec.nodeName=", &["nowhere"]),
                ("spec.nodeName!=no-such-node", &["nowhere"]),
                ("status.phase=Pending", &["here", "nowhere"]),
                ("status.phase!=Pending", &[]),
                ("spec.schedulerName=nobody,spec.restartPolicy=Always,metadata.name=here", &["here"]),
            ],
            "fieldSelector",
            "pods",
        )
        .await;
        space.post("secrets", json!({"metadata": {"name": "s"}, "type": "example.com/kind"})).await.ok(201);
        selected(
            &space,
            &[("type=example.com/kind", &["s"]), ("type=Opaque", &[])],
            "fieldSelector",
            "secrets",
        )
        .await;
        // Everywhere at once.
        let path =
            format!("/api/v1/configmaps?labelSelector=own&fieldSelector=metadata.namespace%3D{}", space.name);
        assert_eq!(space.get(&path).await.names(), ["blue", "plain", "red"]);
        for path in ["pods/here", "pods/nowhere"] {
            space.delete(&format!("{path}?gracePeriodSeconds=0")).await.ok(200);
        }
    })
    .await;
}
