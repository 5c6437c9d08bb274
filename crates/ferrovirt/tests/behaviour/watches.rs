//! Watches: from where, of what, and until when.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::server::DEADLINE;
use crate::target::{MERGE, Target, Watch, told, version, with_space, with_space_at};

#[tokio::test]
async fn a_watch_goes_on_where_another_ended() {
    with_space(|space| async move {
        let start = version(&space.get("configmaps").await.ok(200));
        let writer = tokio::spawn({
            let space = space.clone();
            async move {
                for number in 0..40 {
                    space
                        .config_map(json!({"name": format!("m{number}"), "labels": {"own": ""}}), json!({}))
                        .await;
                    if number % 3 == 0 {
                        space.delete(&format!("configmaps/m{number}")).await.ok(200);
                    }
                }
            }
        });
        // A client that loses its connection after every few events.
        let (mut seen, mut at) = (Vec::new(), start);
        while seen.len() < 54 {
            let mut watch =
                Watch::open(&space, &format!("configmaps?labelSelector=own&resourceVersion={at}")).await;
            for _ in 0..5.min(54 - seen.len()) {
                let event = watch.next().await.unwrap();
                assert!(version(&event["object"]) > at, "{event} after {at}");
                at = version(&event["object"]);
                seen.push(told(&event));
            }
        }
        writer.await.unwrap();
        let mut wanted = Vec::new();
        for number in 0..40 {
            wanted.push(format!("ADDED m{number}"));
            if number % 3 == 0 {
                wanted.push(format!("DELETED m{number}"));
            }
        }
        assert_eq!(seen, wanted);
    })
    .await;
}

#[tokio::test]
async fn a_selector_makes_comings_and_goings_of_changes() {
    with_space(|space| async move {
        let start = version(&space.get("configmaps").await.ok(200));
        let mut watch =
            Watch::open(&space, &format!("configmaps?labelSelector=colour%3Dred&resourceVersion={start}"))
                .await;
        let mut by_name = Watch::open(
            &space,
            &format!("configmaps?fieldSelector=metadata.name%3Da&resourceVersion={start}"),
        )
        .await;
        space.config_map(json!({"name": "a", "labels": {"colour": "blue"}}), json!({})).await;
        space.config_map(json!({"name": "b", "labels": {"colour": "red"}}), json!({})).await;
        let colour = |colour: &str| json!({"metadata": {"labels": {"colour": colour}}});
        space.patch("configmaps/a", MERGE, colour("red")).await.ok(200);
        space.patch("configmaps/a", MERGE, json!({"data": {"k": "1"}})).await.ok(200);
        let left = space.patch("configmaps/a", MERGE, colour("blue")).await.ok(200);
        space.delete("configmaps/a").await.ok(200);
        space.delete("configmaps/b").await.ok(200);
        let mut events = Vec::new();
        for _ in 0..5 {
            events.push(watch.next().await.unwrap());
        }
        let seen: Vec<_> = events.iter().map(told).collect();
        assert_eq!(seen, ["ADDED b", "ADDED a", "MODIFIED a", "DELETED a", "DELETED b"]);
        // What has left is shown as it was seen last, at the version at which it left.
        assert_eq!(events[3]["object"]["metadata"]["labels"]["colour"], "red", "{}", events[3]);
        assert_eq!(version(&events[3]["object"]), version(&left), "{}", events[3]);
        assert_eq!(by_name.told(5).await, ["ADDED a", "MODIFIED a", "MODIFIED a", "MODIFIED a", "DELETED a"]);
    })
    .await;
}

#[tokio::test]
async fn a_watch_begins_with_what_there_is() {
    with_space(|space| async move {
        space.config_map(json!({"name": "a", "labels": {"own": ""}}), json!({})).await;
        let b = space.config_map(json!({"name": "b", "labels": {"own": ""}}), json!({})).await;
        // Without a version, and from 0: everything there is as ADDED, then what happens.
        for query in ["", "&resourceVersion=0", "&resourceVersion="] {
            let mut watch = Watch::open(&space, &format!("configmaps?labelSelector=own{query}")).await;
            assert_eq!(watch.told(2).await, ["ADDED a", "ADDED b"], "{query}");
            space.patch("configmaps/b", MERGE, json!({"data": {"k": query}})).await.ok(200);
            assert_eq!(watch.told(1).await, ["MODIFIED b"], "{query}");
        }
        // A streaming list: the same, and then a bookmark that says that this was all.
        for query in [
            "resourceVersionMatch=NotOlderThan&sendInitialEvents=true&allowWatchBookmarks=true".to_owned(),
            format!(
                "resourceVersion={}&resourceVersionMatch=NotOlderThan&sendInitialEvents=true&allowWatchBookmarks=true",
                version(&b)
            ),
        ] {
            let mut watch = Watch::open(&space, &format!("configmaps?labelSelector=own&{query}")).await;
            assert_eq!(watch.told(2).await, ["ADDED a", "ADDED b"], "{query}");
            let mark = watch.next().await.unwrap();
            assert_eq!(mark["type"], "BOOKMARK", "{mark}");
            let object = &mark["object"];
            assert_eq!((&object["kind"], &object["apiVersion"]), (&json!("ConfigMap"), &json!("v1")), "{mark}");
            assert_eq!(object["metadata"]["annotations"], json!({"k8s.io/initial-events-end": "true"}), "{mark}");
            assert!(version(object) >= version(&b), "{mark}");
            space.patch("configmaps/b", MERGE, json!({"data": {"k": query}})).await.ok(200);
            assert_eq!(watch.told(1).await, ["MODIFIED b"], "{query}");
        }
        // Or nothing of what there is.
        let query = "sendInitialEvents=false&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
        let mut watch = Watch::open(&space, &format!("configmaps?labelSelector=own&{query}")).await;
        space.patch("configmaps/b", MERGE, json!({"data": {"k": "new"}})).await.ok(200);
        assert_eq!(watch.told(1).await, ["MODIFIED b"]);

        let cases = [
            ("sendInitialEvents=true",
             "resourceVersionMatch: Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"),
            ("resourceVersion=1&resourceVersionMatch=Exact",
             "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden for watch"),
        ];
        for (query, text) in cases {
            let reply = space.get(&format!("configmaps?watch=true&{query}")).await;
            reply.refused_with(422, "Invalid", text);
        }
        let reply = space.get("configmaps?watch=true&resourceVersion=many").await;
        reply.refused_with(400, "BadRequest", "many");
    })
    .await;
}

#[tokio::test]
async fn a_watch_ends_in_time_and_keeps_its_reader_up_to_date() {
    with_space(|space| async move {
        let started = version(&space.get("configmaps").await.ok(200));
        let began = Instant::now();
        let mut watch = Watch::open(
            &space,
            &format!("configmaps?labelSelector=none&resourceVersion={started}&timeoutSeconds=3&allowWatchBookmarks=true"),
        )
        .await;
        // Nothing of this is for the watch; a bookmark says how far it has come.
        let last = space.config_map(json!({"name": "a"}), json!({})).await;
        let mut marks = Vec::new();
        while let Some(event) = watch.next().await {
            assert_eq!(event["type"], "BOOKMARK", "{event}");
            assert_eq!(event["object"]["kind"], "ConfigMap");
            marks.push(version(&event["object"]));
        }
        let took = began.elapsed();
        assert!(took >= Duration::from_secs(3) && took < Duration::from_secs(20), "{took:?}");
        assert!(marks.is_sorted());
        if space.target.ours_alone() {
            assert!(marks.last().is_some_and(|mark| *mark >= version(&last)), "{marks:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn what_is_forgotten_is_said_to_be_gone() {
    with_space_at(Target::open_with_history(10).await, |space| async move {
        // Another server cannot be told to forget, and may remember the beginning.
        let forgets = space.target.ours_alone();
        if forgets {
            space.config_map(json!({"name": "a"}), json!({})).await;
            let list = "configmaps?resourceVersion=1&resourceVersionMatch=Exact";
            let deadline = Instant::now() + DEADLINE;
            // It forgets in steps of some hundred changes.
            for count in 0.. {
                space
                    .patch("configmaps/a", MERGE, json!({"data": {"count": count.to_string()}}))
                    .await
                    .ok(200);
                if count % 100 == 99 && space.get(list).await.code != 200 {
                    break;
                }
                assert!(Instant::now() < deadline, "nothing is forgotten after {count} changes");
            }
        }
        let mut watch = Watch::open(&space, "configmaps?resourceVersion=1").await;
        let event = watch.next().await.unwrap();
        if forgets || event["type"] == "ERROR" {
            let status = &event["object"];
            assert_eq!((&status["code"], &status["reason"]), (&json!(410), &json!("Expired")), "{event}");
            let message = status["message"].as_str().unwrap();
            assert!(message.starts_with("too old resource version: 1 ("), "{message}");
            assert_eq!(watch.next().await, None);
        } else {
            assert_eq!(event["type"], "ADDED", "{event}");
        }
        let reply = space.get("configmaps?resourceVersion=1&resourceVersionMatch=Exact").await;
        if forgets || reply.code != 200 {
            reply.refused(410, "Expired", "The resourceVersion for the provided list is too old.");
        }
    })
    .await;
}

#[tokio::test]
async fn watches_take_other_forms_and_the_old_path() {
    with_space(|space| async move {
        let made = space.config_map(json!({"name": "a", "labels": {"own": ""}}), json!({"k": "v"})).await;
        let from = version(&made) - 1;
        let path = space
            .path(&format!("configmaps?watch=1&labelSelector=own&resourceVersion={from}&timeoutSeconds=1"));
        for (form, kind) in [("Table", "Table"), ("PartialObjectMetadata", "PartialObjectMetadata")] {
            let accept = format!("application/json;as={form};g=meta.k8s.io;v=v1");
            let reply = space.send("GET", &path, &[("accept", &accept)], ()).await;
            assert_eq!(reply.code, 200, "{}", reply.text());
            let text = String::from_utf8(reply.body.to_vec()).unwrap();
            let events: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
            assert_eq!(events.len(), 1, "{text}");
            assert_eq!(events[0]["type"], "ADDED");
            assert_eq!(events[0]["object"]["kind"], kind);
            assert_eq!(events[0]["object"]["apiVersion"], "meta.k8s.io/v1");
        }
        let old = format!(
            "/api/v1/watch/namespaces/{}/configmaps?labelSelector=own&resourceVersion={from}",
            space.name
        );
        let mut watch = Watch::open(&space, &old).await;
        assert_eq!(watch.told(1).await, ["ADDED a"]);
        let old = format!("/api/v1/watch/namespaces/{}/configmaps/a?resourceVersion={from}", space.name);
        let mut watch = Watch::open(&space, &old).await;
        assert_eq!(watch.told(1).await, ["ADDED a"]);
        // With a name in the path it is no watch, whatever the query says.
        assert_eq!(space.get("configmaps/a?watch=true").await.ok(200), made);
    })
    .await;
}
