//! Delete and what stands in its way.

use super::*;

fn grace(seconds: i64) -> DeleteOptions {
    DeleteOptions { grace_period_seconds: Some(seconds), ..DeleteOptions::default() }
}

#[tokio::test]
async fn a_deletion_answers_with_what_went() {
    let server = Server::new().await;
    let created = server.create("widgets", "default", widget("a", json!({}))).await.unwrap();
    let status = server.delete("widgets", "default", "a", DeleteOptions::default()).await.unwrap();
    assert_eq!(status["status"], "Success");
    assert_eq!(
        status["details"],
        json!({"name": "a", "group": "example.com", "kind": "widgets", "uid": created["metadata"]["uid"]})
    );
    assert_eq!(said(server.delete("widgets", "default", "a", DeleteOptions::default()).await).0, 404);
    server.create("serviceaccounts", "default", json!({"metadata": {"name": "s"}})).await.unwrap();
    let account = server.delete("serviceaccounts", "default", "s", DeleteOptions::default()).await.unwrap();
    assert_eq!(account["kind"], "ServiceAccount");
}

#[tokio::test]
async fn preconditions_hold_for_the_object_that_was_read() {
    let server = Server::new().await;
    let created = server.create("widgets", "default", widget("a", json!({}))).await.unwrap();
    let uid = object::uid(&created);
    let other = DeleteOptions { uid: Some("x".to_owned()), ..DeleteOptions::default() };
    assert_eq!(
        said(server.delete("widgets", "default", "a", other).await),
        (
            409,
            format!(
                "Operation cannot be fulfilled on Widget.example.com \"a\": the UID in the precondition (x) does not match \
                 the UID in record ({uid}). The object might have been deleted and then recreated"
            )
        )
    );
    let stale = DeleteOptions { resource_version: Some("1".to_owned()), ..DeleteOptions::default() };
    assert_eq!(said(server.delete("widgets", "default", "a", stale).await).0, 409);
    let right = DeleteOptions {
        uid: Some(uid.to_owned()),
        resource_version: Some(version(&created).to_string()),
        dry_run: true,
        ..DeleteOptions::default()
    };
    server.delete("widgets", "default", "a", right.clone()).await.unwrap();
    assert_eq!(server.get("widgets", "default", "a").await.unwrap(), created, "a dry run deletes nothing");
    server.delete("widgets", "default", "a", DeleteOptions { dry_run: false, ..right }).await.unwrap();
    assert_eq!(said(server.get("widgets", "default", "a").await).0, 404);
}

#[tokio::test]
async fn an_object_stays_for_its_finalizers() {
    let server = Server::new().await;
    let mut body = widget("a", json!({"size": 1}));
    body["metadata"]["finalizers"] = json!(["example.com/x"]);
    server.create("widgets", "default", body).await.unwrap();
    let marked = server.delete("widgets", "default", "a", DeleteOptions::default()).await.unwrap();
    assert_eq!(marked["metadata"]["deletionTimestamp"], NOW);
    assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 0);
    assert_eq!(marked["metadata"]["generation"], 2);
    let again = server.delete("widgets", "default", "a", DeleteOptions::default()).await.unwrap();
    assert_eq!(again, marked, "a second deletion changes nothing");

    let added = json!({"metadata": {"finalizers": ["example.com/x", "example.com/y"]}});
    let (code, message) = said(server.merge("widgets", "default", "a", added).await);
    assert_eq!(code, 422);
    assert!(
        message.ends_with(
            "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found new \
             finalizers []string{\"example.com/y\"}"
        ),
        "{message}"
    );
    let undeleted = json!({"metadata": {"deletionTimestamp": null}});
    let kept = server.merge("widgets", "default", "a", undeleted).await.unwrap();
    assert_eq!(kept["metadata"]["deletionTimestamp"], NOW);

    let last =
        server.merge("widgets", "default", "a", json!({"metadata": {"finalizers": null}})).await.unwrap();
    assert_eq!(last["metadata"]["name"], "a");
    assert!(last["metadata"].get("finalizers").is_none());
    assert_eq!(said(server.get("widgets", "default", "a").await).0, 404);
}

#[tokio::test]
async fn propagation_leaves_its_finalizer() {
    let server = Server::new().await;
    for (propagation, finalizer) in [(Propagation::Foreground, FOREGROUND), (Propagation::Orphan, ORPHAN)] {
        server.create("widgets", "default", widget("a", json!({}))).await.unwrap();
        let options = DeleteOptions { propagation: Some(propagation), ..DeleteOptions::default() };
        let marked = server.delete("widgets", "default", "a", options).await.unwrap();
        assert_eq!(marked["metadata"]["finalizers"], json!([finalizer]));
        let options =
            DeleteOptions { propagation: Some(Propagation::Background), ..DeleteOptions::default() };
        let status = server.delete("widgets", "default", "a", options).await.unwrap();
        assert_eq!(status["status"], "Success", "background takes the finalizer away again");
    }
}

#[tokio::test]
async fn a_pod_gets_its_grace_where_it_runs() {
    let server = Server::new().await;
    let pod = |name: &str, spec: Value| json!({"metadata": {"name": name}, "spec": spec});
    server.create("pods", "default", pod("idle", json!({}))).await.unwrap();
    let gone = server.delete("pods", "default", "idle", DeleteOptions::default()).await.unwrap();
    assert_eq!(gone["kind"], "Pod");
    assert_eq!(said(server.get("pods", "default", "idle").await).0, 404);

    server.create("pods", "default", pod("busy", json!({"nodeName": "n"}))).await.unwrap();
    let marked = server.delete("pods", "default", "busy", DeleteOptions::default()).await.unwrap();
    assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 30);
    assert_eq!(marked["metadata"]["deletionTimestamp"], "2026-01-01T00:00:30Z");
    let pending = server.delete("pods", "default", "busy", DeleteOptions::default()).await.unwrap();
    assert_eq!(pending, marked);
    let shorter = server.delete("pods", "default", "busy", grace(10)).await.unwrap();
    assert_eq!(shorter["metadata"]["deletionTimestamp"], "2026-01-01T00:00:10Z");
    assert_eq!(server.delete("pods", "default", "busy", grace(20)).await.unwrap(), shorter);
    server.delete("pods", "default", "busy", grace(0)).await.unwrap();
    assert_eq!(said(server.get("pods", "default", "busy").await).0, 404);
}

#[tokio::test]
async fn a_namespace_ends_in_two_steps() {
    let server = Server::new().await;
    let created = server.get("namespaces", "", "other").await.unwrap();
    assert_eq!(created["spec"]["finalizers"], json!(["kubernetes"]));
    assert_eq!(created["status"]["phase"], "Active");
    assert_eq!(created["metadata"]["labels"]["kubernetes.io/metadata.name"], "other");
    let marked = server.delete("namespaces", "", "other", DeleteOptions::default()).await.unwrap();
    assert_eq!(marked["status"]["phase"], "Terminating");
    let mut emptied = marked.clone();
    emptied["spec"] = json!({});
    let kept = server.update("namespaces", "", "other", emptied.clone()).await.unwrap();
    assert_eq!(kept["spec"]["finalizers"], json!(["kubernetes"]), "only `finalize` changes them");
    server.update("namespaces", "", "other/finalize", emptied).await.unwrap();
    assert_eq!(said(server.get("namespaces", "", "other").await).0, 404);
    assert_eq!(
        said(server.delete("namespaces", "", "default", DeleteOptions::default()).await),
        (403, "namespaces \"default\" is forbidden: this namespace may not be deleted".to_owned())
    );
}

#[tokio::test]
async fn a_collection_goes_by_its_labels() {
    let server = Server::new().await;
    for number in 0..40 {
        let mut body = widget(&format!("w{number:02}"), json!({}));
        body["metadata"]["labels"] = json!({"half": (number % 2).to_string()});
        server.create("widgets", "default", body).await.unwrap();
    }
    let options = ListOptions { label_selector: "half=1".to_owned(), ..ListOptions::default() };
    let target = server.at("widgets", "default", "");
    let context = server.context();
    let deleted =
        server.api.delete_collection(&context, &target, &options, &DeleteOptions::default()).await.unwrap();
    assert_eq!(deleted.items.len(), 20);
    let left = server.api.list(&context, &target, &ListOptions::default()).await.unwrap();
    assert_eq!(left.items.len(), 20);
    assert!(left.items.iter().all(|item| item.name.ends_with(['0', '2', '4', '6', '8'])));
}

#[test]
fn delete_options_come_from_the_body_or_the_query() {
    let query = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    };
    let body = json!({"kind": "DeleteOptions", "gracePeriodSeconds": 5, "propagationPolicy": "Orphan",
        "preconditions": {"uid": "u"}, "dryRun": ["All"]});
    let options = DeleteOptions::read(Some(&body), &query(&[("gracePeriodSeconds", "9")])).unwrap();
    assert_eq!(
        options,
        DeleteOptions {
            grace_period_seconds: Some(5),
            propagation: Some(Propagation::Orphan),
            uid: Some("u".to_owned()),
            dry_run: true,
            ..DeleteOptions::default()
        }
    );
    let options = DeleteOptions::read(None, &query(&[("orphanDependents", "false")])).unwrap();
    assert_eq!((options.propagation, options.accepted_if_pending), (Some(Propagation::Background), true));
    for (body, code) in [
        (json!([]), 400),
        (json!({"gracePeriodSeconds": "x"}), 400),
        (json!({"propagationPolicy": "Sideways"}), 422),
        (json!({"propagationPolicy": "Orphan", "orphanDependents": true}), 422),
        (json!({"dryRun": ["Some"]}), 422),
        (json!({"kind": "Pod"}), 400),
    ] {
        assert_eq!(DeleteOptions::read(Some(&body), &[]).unwrap_err().code, code, "{body}");
    }
}
