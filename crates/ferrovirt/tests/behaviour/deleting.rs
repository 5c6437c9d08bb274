//! The end of objects: finalizers, grace, owners and namespaces.

use serde_json::{Value, json};

use crate::objects::pod_spec;
use crate::target::{JSON_PATCH, MERGE, Space, Watch, told, version, with_space};

#[tokio::test]
async fn finalizers_hold_an_object_until_the_last_is_gone() {
    with_space(|space| async move {
        let made = space
            .config_map(json!({"name": "a", "finalizers": ["example.com/one", "example.com/two"]}), json!({}))
            .await;
        let mut watch =
            Watch::open(&space, &format!("configmaps?resourceVersion={}&fieldSelector=metadata.name%3Da", version(&made)))
                .await;
        let answer = space.delete("configmaps/a").await.ok(200);
        // What is not gone yet is answered with as it is.
        assert_eq!(answer["kind"], "ConfigMap", "{answer}");
        assert_eq!(answer["metadata"]["deletionGracePeriodSeconds"], 0, "{answer}");
        let marked = answer["metadata"]["deletionTimestamp"].clone();
        assert!(marked.is_string(), "{answer}");

        // A second delete changes nothing.
        let again = space.delete("configmaps/a").await.ok(200);
        assert_eq!(again["metadata"]["resourceVersion"], answer["metadata"]["resourceVersion"]);
        // Its end is settled: finalizers go and do not come.
        let reply = space
            .patch("configmaps/a", MERGE, json!({"metadata": {"finalizers": ["example.com/one", "example.com/new"]}}))
            .await;
        reply.refused_with(
            422,
            "Invalid",
            "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found new \
             finalizers []string{\"example.com/new\"}",
        );
        // The mark is not a client's to change.
        let change = json!({"metadata": {"deletionTimestamp": null, "labels": {"still": "here"}}});
        let changed = space.patch("configmaps/a", MERGE, change).await.ok(200);
        assert_eq!(changed["metadata"]["deletionTimestamp"], marked);
        assert_eq!(changed["metadata"]["labels"]["still"], "here");
        // The name is taken.
        let reply = space.post("configmaps", json!({"metadata": {"name": "a"}})).await;
        reply.refused_with(409, "AlreadyExists", "configmaps \"a\" already exists");

        let remove = json!([{"op": "remove", "path": "/metadata/finalizers/0"}]);
        let one = space.patch("configmaps/a", JSON_PATCH, remove.clone()).await.ok(200);
        assert_eq!(one["metadata"]["finalizers"], json!(["example.com/two"]));
        let last = space.patch("configmaps/a", JSON_PATCH, remove).await.ok(200);
        assert_eq!(last["metadata"]["finalizers"], Value::Null);
        space.get("configmaps/a").await.refused(404, "NotFound", "configmaps \"a\" not found");
        let mut seen = Vec::new();
        loop {
            let event = watch.next().await.unwrap();
            let is_last = event["type"] == "DELETED";
            if is_last {
                assert!(version(&event["object"]) > version(&one), "the end has a version of its own: {event}");
            }
            seen.push(told(&event));
            if is_last {
                break;
            }
        }
        assert_eq!(seen, ["MODIFIED a", "MODIFIED a", "MODIFIED a", "DELETED a"]);
    })
    .await;
}

#[tokio::test]
async fn pods_have_time_to_end() {
    with_space(|space| async move {
        let make = async |name: &str, spec: Value| {
            let mut whole = pod_spec();
            whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
            space.post("pods", json!({"metadata": {"name": name}, "spec": whole})).await.ok(201)
        };
        // Nobody would end a Pod that runs nowhere.
        make("nowhere", json!({})).await;
        let answer = space.delete("pods/nowhere").await.ok(200);
        assert_eq!(answer["metadata"]["deletionGracePeriodSeconds"], 0, "{answer}");
        space.gone("pods/nowhere").await;

        // name, spec, delete options, seconds of grace
        let cases = [
            ("usual", json!({}), json!({}), 30),
            ("own", json!({"terminationGracePeriodSeconds": 7}), json!({}), 7),
            ("asked", json!({}), json!({"gracePeriodSeconds": 11}), 11),
            ("negative", json!({}), json!({"gracePeriodSeconds": -3}), 1),
        ];
        for (name, spec, options, grace) in cases {
            let mut spec = spec.clone();
            spec["nodeName"] = "no-such-node".into();
            let made = make(name, spec).await;
            let path = format!("pods/{name}");
            let answer = space.delete_with(&path, options).await.ok(200);
            assert_eq!(answer["metadata"]["deletionGracePeriodSeconds"], grace, "{answer}");
            assert!(answer["metadata"]["deletionTimestamp"].is_string());
            assert_eq!(
                answer["metadata"]["generation"].as_u64(),
                made["metadata"]["generation"].as_u64().map(|generation| generation + 1),
                "{answer}"
            );
            assert_eq!(space.get(&path).await.ok(200)["metadata"]["uid"], made["metadata"]["uid"]);
            if grace == 30 {
                // It may be shortened, not lengthened.
                let longer = space.delete_with(&path, json!({"gracePeriodSeconds": 60})).await.ok(200);
                assert_eq!(longer["metadata"]["deletionGracePeriodSeconds"], 30, "{longer}");
                let shorter = space.delete_with(&path, json!({"gracePeriodSeconds": 5})).await.ok(200);
                assert_eq!(shorter["metadata"]["deletionGracePeriodSeconds"], 5, "{shorter}");
            }
            // What the kubelet does when all has ended.
            space.delete_with(&path, json!({"gracePeriodSeconds": 0})).await.ok(200);
            space.gone(&path).await;
        }
        // The same in the query.
        make("query", json!({"nodeName": "no-such-node"})).await;
        let answer = space.delete("pods/query?gracePeriodSeconds=4").await.ok(200);
        assert_eq!(answer["metadata"]["deletionGracePeriodSeconds"], 4);
        space.delete("pods/query?gracePeriodSeconds=0").await.ok(200);
        space.gone("pods/query").await;
    })
    .await;
}

fn owned_by(owner: &Value, blocks: bool) -> Value {
    json!([{
        "apiVersion": "v1", "kind": "ConfigMap", "name": owner["metadata"]["name"], "uid": owner["metadata"]["uid"],
        "controller": true, "blockOwnerDeletion": blocks,
    }])
}

/// An owner and what depends on it, by name.
async fn family(space: &Space, owner: &str, finalizers: Value) -> [String; 2] {
    let parent = space.config_map(json!({"name": owner}), json!({})).await;
    let child = format!("{owner}-child");
    space
        .config_map(
            json!({"name": child, "ownerReferences": owned_by(&parent, true), "finalizers": finalizers}),
            json!({}),
        )
        .await;
    [format!("configmaps/{owner}"), format!("configmaps/{child}")]
}

#[tokio::test]
async fn dependents_end_with_their_owner_or_are_left() {
    with_space(|space| async move {
        // In the background, which is the default here, asked for, or asked for in the query.
        for (owner, query, options) in [
            ("default", "", json!({})),
            ("background", "", json!({"propagationPolicy": "Background"})),
            ("query", "?propagationPolicy=Background", json!({})),
        ] {
            let [parent, child] = family(&space, owner, json!([])).await;
            let answer = space.delete_with(&format!("{parent}{query}"), options).await.ok(200);
            assert_eq!(answer["kind"], "Status");
            space.get(&parent).await.refused_with(404, "NotFound", "not found");
            space.gone(&child).await;
        }

        // In the foreground the owner waits for the dependents that block it.
        let [parent, child] = family(&space, "foreground", json!(["example.com/hold"])).await;
        let answer = space.delete_with(&parent, json!({"propagationPolicy": "Foreground"})).await.ok(200);
        assert_eq!(answer["metadata"]["finalizers"], json!(["foregroundDeletion"]), "{answer}");
        assert!(answer["metadata"]["deletionTimestamp"].is_string());
        space.eventually(&child, |reply| reply.ok(200)["metadata"]["deletionTimestamp"].is_string()).await;
        space.get(&parent).await.ok(200);
        space.patch(&child, MERGE, json!({"metadata": {"finalizers": null}})).await.ok(200);
        space.gone(&child).await;
        space.gone(&parent).await;

        // Orphans live on, without their owner.
        for (owner, options) in [
            ("orphan", json!({"propagationPolicy": "Orphan"})),
            ("old-orphan", json!({"orphanDependents": true})),
        ] {
            let [parent, child] = family(&space, owner, json!([])).await;
            space.delete_with(&parent, options).await.ok(200);
            space.gone(&parent).await;
            let left = space.get(&child).await.ok(200);
            assert_eq!(left["metadata"]["ownerReferences"], Value::Null, "{left}");
            assert_eq!(left["metadata"]["deletionTimestamp"], Value::Null, "{left}");
        }

        let [parent, _] = family(&space, "wrong", json!([])).await;
        let reply = space.delete_with(&parent, json!({"propagationPolicy": "Sideways"})).await;
        reply.refused_with(
            422,
            "Invalid",
            "propagationPolicy: Unsupported value: \"Sideways\": supported values: \"Foreground\", \"Background\", \
             \"Orphan\", \"nil\"",
        );
        let both = json!({"propagationPolicy": "Orphan", "orphanDependents": true});
        space.delete_with(&parent, both).await.refused_with(
            422,
            "Invalid",
            "propagationPolicy: Invalid value: \"Orphan\": orphanDependents and deletionPropagation cannot be both set",
        );
    })
    .await;
}

#[tokio::test]
async fn a_dependent_of_nobody_or_of_one_with_another_uid_is_collected() {
    with_space(|space| async move {
        let owner = space.config_map(json!({"name": "owner"}), json!({})).await;
        let other = space.config_map(json!({"name": "other"}), json!({})).await;
        let mut wrong = owned_by(&owner, false);
        wrong[0]["uid"] = "11111111-2222-3333-4444-555555555555".into();
        space.config_map(json!({"name": "stray", "ownerReferences": wrong}), json!({})).await;
        space.gone("configmaps/stray").await;
        // With two owners it ends with the last of them.
        let mut both = owned_by(&owner, false);
        let mut second = owned_by(&other, false)[0].clone();
        second["controller"] = false.into();
        both.as_array_mut().unwrap().push(second);
        space.config_map(json!({"name": "shared", "ownerReferences": both}), json!({})).await;
        space.delete("configmaps/owner").await.ok(200);
        let left = space
            .eventually("configmaps/shared", |reply| {
                reply.ok(200)["metadata"]["ownerReferences"].as_array().is_some_and(|all| all.len() == 1)
            })
            .await
            .json();
        assert_eq!(left["metadata"]["ownerReferences"][0]["name"], "other");
        space.delete("configmaps/other").await.ok(200);
        space.gone("configmaps/shared").await;
        // Two controllers cannot be.
        let mut two = owned_by(&owner, false);
        two.as_array_mut().unwrap().push(owned_by(&other, false)[0].clone());
        let reply =
            space.post("configmaps", json!({"metadata": {"name": "two", "ownerReferences": two}})).await;
        reply.refused_with(422, "Invalid", "Only one reference can have Controller set to true.");
    })
    .await;
}

#[tokio::test]
async fn a_namespace_takes_what_is_in_it_along() {
    with_space(|space| async move {
        let made = space.post("/api/v1/namespaces", json!({"metadata": {"generateName": "behaviour-end-"}})).await.ok(201);
        let name = made["metadata"]["name"].as_str().unwrap();
        assert_eq!(made["status"]["phase"], "Active");
        assert_eq!(made["spec"]["finalizers"], json!(["kubernetes"]));
        assert_eq!(made["metadata"]["labels"]["kubernetes.io/metadata.name"], name);
        let path = format!("/api/v1/namespaces/{name}");
        let inside = format!("{path}/configmaps");
        space.eventually(&format!("{inside}/kube-root-ca.crt"), |reply| reply.code == 200).await;
        let held = json!({"metadata": {"name": "held", "finalizers": ["example.com/hold"]}});
        space.post(&inside, held).await.ok(201);
        space.post(&format!("{path}/secrets"), json!({"metadata": {"name": "plain"}})).await.ok(201);

        let ending = space.delete(&path).await.ok(200);
        assert_eq!(ending["kind"], "Namespace", "{ending}");
        assert_eq!(ending["status"]["phase"], "Terminating");
        assert!(ending["metadata"]["deletionTimestamp"].is_string());
        let reply = space.post(&inside, json!({"metadata": {"name": "late"}})).await;
        let status = reply.refused(
            403,
            "Forbidden",
            &format!(
                "configmaps \"late\" is forbidden: unable to create new content in namespace {name} because it is being \
                 terminated"
            ),
        );
        assert_eq!(
            status["details"]["causes"],
            json!([{"reason": "NamespaceTerminating", "message": format!("namespace {name} is being terminated"),
                    "field": "metadata.namespace"}])
        );
        space.gone(&format!("{path}/secrets/plain")).await;
        // What is held holds it, and it says so.
        let waiting = space
            .eventually(&path, |reply| {
                reply.ok(200)["status"]["conditions"].as_array().is_some_and(|all| {
                    all.iter().any(|c| c["type"] == "NamespaceFinalizersRemaining" && c["status"] == "True")
                })
            })
            .await
            .json();
        let remaining = waiting["status"]["conditions"]
            .as_array()
            .unwrap()
            .iter()
            .find(|condition| condition["type"] == "NamespaceFinalizersRemaining")
            .unwrap();
        assert_eq!(
            remaining["message"],
            "Some content in the namespace has finalizers remaining: example.com/hold in 1 resource instances"
        );
        space.patch(&format!("{inside}/held"), MERGE, json!({"metadata": {"finalizers": null}})).await.ok(200);
        space.gone(&path).await;
        let reply = space.post(&inside, json!({"metadata": {"name": "late"}})).await;
        reply.refused(404, "NotFound", &format!("namespaces \"{name}\" not found"));
        // And some are there for good.
        for name in ["default", "kube-system"] {
            let reply = space.delete(&format!("/api/v1/namespaces/{name}?dryRun=All")).await;
            let text = format!("namespaces \"{name}\" is forbidden: this namespace may not be deleted");
            reply.refused(403, "Forbidden", &text);
        }
    })
    .await;
}
