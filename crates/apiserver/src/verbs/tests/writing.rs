//! Create, update and patch.

use crate::store::{CommitError, EncodeError};

use super::*;

#[tokio::test]
async fn a_created_object_gets_what_the_server_alone_knows() {
    let server = Server::new().await;
    let mut body = widget("a", json!({"size": 1}));
    body["metadata"]["uid"] = "mine".into();
    body["metadata"]["generation"] = 7.into();
    body["metadata"]["deletionTimestamp"] = NOW.into();
    body["status"] = json!({"phase": "Done"});
    let created = server.create("widgets", "default", body).await.unwrap();
    assert_eq!(created["metadata"]["namespace"], "default");
    assert_eq!(created["metadata"]["creationTimestamp"], NOW);
    assert_eq!(created["metadata"]["generation"], 1);
    assert_ne!(created["metadata"]["uid"], "mine");
    assert_eq!(created["metadata"]["uid"].as_str().unwrap().len(), 36);
    assert!(created["metadata"].get("deletionTimestamp").is_none());
    assert!(created.get("status").is_none(), "{created}");
    assert_eq!(created["spec"], json!({"size": 1, "color": "red"}));
    let keys: Vec<_> = created.as_object().unwrap().keys().take(3).collect();
    assert_eq!(keys, ["apiVersion", "kind", "metadata"]);
    assert_eq!(server.get("widgets", "default", "a").await.unwrap(), created);
}

#[tokio::test]
async fn what_cannot_be_created_is_refused_in_kubernetes_words() {
    let server = Server::new().await;
    server.create("widgets", "default", widget("a", json!({}))).await.unwrap();
    let with = |pointer: &str, value: Value| {
        let mut body = widget("b", json!({}));
        let (parent, field) = pointer.rsplit_once('/').unwrap();
        body.pointer_mut(parent).unwrap()[field] = value;
        body
    };
    for (namespace, body, code, message) in [
        ("default", widget("a", json!({})), 409, "widgets.example.com \"a\" already exists"),
        ("none", widget("b", json!({})), 404, "namespaces \"none\" not found"),
        ("", widget("b", json!({})), 400, "an empty namespace may not be set during creation"),
        (
            "default",
            with("/metadata/namespace", "other".into()),
            400,
            "the namespace of the provided object does not match the namespace sent on the request",
        ),
        (
            "default",
            with("/metadata/resourceVersion", "1".into()),
            400,
            "resourceVersion should not be set on objects to be created",
        ),
        (
            "default",
            with("/apiVersion", "example.com/v2".into()),
            400,
            "the API version in the data (example.com/v2) does not match the expected API version (example.com/v1)",
        ),
        (
            "default",
            with("/kind", "Gadget".into()),
            422,
            "Widget.example.com \"b\" is invalid: kind: Invalid value: \"Gadget\": must be Widget",
        ),
        (
            "default",
            json!({"metadata": {}}),
            422,
            "Widget.example.com \"\" is invalid: metadata.name: Required value: name or generateName is required",
        ),
    ] {
        assert_eq!(said(server.create("widgets", namespace, body).await), (code, message.to_owned()));
    }
    let ghost = json!({"metadata": {"name": "g"}});
    let (code, message) = said(server.create("ghosts", "default", ghost).await);
    assert_eq!((code, message.as_str()), (405, "Ghost is not supported by ferrovirt"));
    let mistyped = json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "c"}});
    let (code, message) = said(server.create("configmaps", "default", mistyped).await);
    assert_eq!(code, 400);
    assert!(message.starts_with("Pod in version \"v1\" cannot be handled as a ConfigMap:"), "{message}");
    for hostile in
        [json!([]), json!("x"), json!(null), json!({"metadata": 1}), json!({"metadata": {"name": {}}})]
    {
        let (code, _) = said(server.create("widgets", "default", hostile).await);
        assert!((400..500).contains(&code), "{code}");
    }
}

#[tokio::test]
async fn names_are_generated_until_one_is_free() {
    let server = Server::new().await;
    let body = json!({"metadata": {"generateName": "w-"}});
    let mut seen = std::collections::BTreeSet::new();
    // Chance says the same several times over: later ones meet earlier names.
    for _ in 0..6 {
        let created = server.create("widgets", "default", body.clone()).await.unwrap();
        let name = object::name(&created).to_owned();
        let suffix = name.strip_prefix("w-").unwrap();
        assert_eq!(suffix.len(), 5);
        assert!(suffix.chars().all(|letter| "bcdfghjklmnpqrstvwxz2456789".contains(letter)), "{name}");
        assert!(seen.insert(name));
    }
}

#[tokio::test]
async fn nothing_new_goes_into_a_namespace_that_ends() {
    let server = Server::new().await;
    server.delete("namespaces", "", "other", DeleteOptions::default()).await.unwrap();
    let error = server.create("widgets", "other", widget("a", json!({}))).await.unwrap_err();
    assert_eq!(
        error.message,
        "widgets.example.com \"a\" is forbidden: unable to create new content in namespace other because it is being \
         terminated"
    );
    assert_eq!(error.code, 403);
    assert_eq!(error.details.unwrap().causes[0].reason, "NamespaceTerminating");
}

#[tokio::test]
async fn unknown_fields_are_dropped_with_a_word_or_refused() {
    let server = Server::new().await;
    let body = Body {
        value: widget("a", json!({"size": 1, "shape": "round"})),
        duplicates: vec!["spec.size".to_owned()],
    };
    let target = server.at("widgets", "default", "");
    let with = |field_validation| Context { field_validation, dry_run: true, ..server.context() };
    let strict = server.api.create(&with(FieldValidation::Strict), &target, body.clone()).await;
    assert_eq!(
        said(strict),
        (
            400,
            "Widget in version \"v1\" cannot be handled as a Widget: strict decoding error: duplicate field \"spec.size\", \
             unknown field \"spec.shape\""
                .to_owned()
        )
    );
    let warned = server.api.create(&with(FieldValidation::Warn), &target, body.clone()).await.unwrap();
    assert_eq!(warned.warnings, ["duplicate field \"spec.size\"", "unknown field \"spec.shape\""]);
    assert!(warned.value().unwrap()["spec"].get("shape").is_none());
    let ignored = server.api.create(&with(FieldValidation::Ignore), &target, body).await.unwrap();
    assert_eq!(ignored.warnings, Vec::<String>::new());
    // All of these were dry runs.
    assert_eq!(said(server.get("widgets", "default", "a").await).0, 404);
}

#[tokio::test]
async fn an_update_counts_the_generation_only_for_the_spec() {
    let server = Server::new().await;
    let mut object = server.create("widgets", "default", widget("a", json!({"size": 1}))).await.unwrap();
    let first = version(&object);

    let same = server.update("widgets", "default", "a", object.clone()).await.unwrap();
    assert_eq!(same, object, "an update that changes nothing is not written");

    object["metadata"]["labels"] = json!({"a": "b"});
    object = server.update("widgets", "default", "a", object).await.unwrap();
    assert_eq!(object["metadata"]["generation"], 1);
    assert!(version(&object) > first);

    object["spec"]["size"] = 2.into();
    object["status"] = json!({"phase": "ignored"});
    object = server.update("widgets", "default", "a", object).await.unwrap();
    assert_eq!(object["metadata"]["generation"], 2);
    assert!(object.get("status").is_none());

    object["status"] = json!({"phase": "Up"});
    object["spec"]["size"] = 9.into();
    object["metadata"]["labels"]["c"] = "d".into();
    object = server.update("widgets", "default", "a/status", object).await.unwrap();
    assert_eq!(object["status"]["phase"], "Up");
    assert_eq!(object["spec"]["size"], 2);
    assert_eq!(
        object["metadata"]["labels"],
        json!({"a": "b"}),
        "a custom resource's status takes no metadata"
    );
    assert_eq!(object["metadata"]["generation"], 2);

    object["spec"]["size"] = 3.into();
    object.as_object_mut().unwrap().remove("status");
    object = server.update("widgets", "default", "a", object).await.unwrap();
    assert_eq!(object["status"]["phase"], "Up", "the main resource keeps the status");
}

#[tokio::test]
async fn updates_are_checked_against_the_stored_object() {
    let server = Server::new().await;
    let old = server.create("widgets", "default", widget("a", json!({"size": 1}))).await.unwrap();
    let new = server.merge("widgets", "default", "a", json!({"spec": {"size": 2}})).await.unwrap();
    assert_eq!(
        said(server.update("widgets", "default", "a", old.clone()).await),
        (
            409,
            "Operation cannot be fulfilled on widgets.example.com \"a\": the object has been modified; please apply your \
             changes to the latest version and try again"
                .to_owned()
        )
    );
    let mut unversioned = new.clone();
    unversioned["metadata"].as_object_mut().unwrap().remove("resourceVersion");
    assert_eq!(
        said(server.update("widgets", "default", "a", unversioned.clone()).await),
        (
            422,
            "widgets.example.com \"a\" is invalid: metadata.resourceVersion: Invalid value: 0x0: must be specified for an \
             update"
                .to_owned()
        )
    );
    let mut renamed = new.clone();
    renamed["metadata"]["name"] = "b".into();
    assert_eq!(
        said(server.update("widgets", "default", "a", renamed).await),
        (400, "the name of the object (b) does not match the name on the URL (a)".to_owned())
    );
    let mut moved = new.clone();
    moved["metadata"]["namespace"] = "other".into();
    assert_eq!(
        said(server.update("widgets", "default", "a", moved).await),
        (
            400,
            "the namespace of the object (other) does not match the namespace on the request (default)"
                .to_owned()
        )
    );
    let mut reborn = new.clone();
    reborn["metadata"]["uid"] = "other".into();
    let (code, message) = said(server.update("widgets", "default", "a", reborn).await);
    assert_eq!(code, 409);
    let expected =
        format!("Precondition failed: UID in precondition: other, UID in object meta: {}", object::uid(&new));
    assert!(message.ends_with(&expected), "{message}");
    assert_eq!(
        said(server.update("widgets", "default", "none", widget("none", json!({}))).await),
        (404, "widgets.example.com \"none\" not found".to_owned())
    );
    assert_eq!(server.get("widgets", "default", "a").await.unwrap(), new);

    // A built-in kind needs no version.
    server.create("configmaps", "default", json!({"metadata": {"name": "c"}})).await.unwrap();
    let body = json!({"metadata": {"name": "c"}, "data": {"a": "b"}});
    assert_eq!(server.update("configmaps", "default", "c", body).await.unwrap()["data"]["a"], "b");
}

#[tokio::test]
async fn patches_of_each_kind_change_the_stored_object() {
    let server = Server::new().await;
    server.create("widgets", "default", widget("a", json!({"size": 1}))).await.unwrap();
    let target = server.at("widgets", "default", "a");
    let context = Context { field_validation: FieldValidation::Strict, ..server.context() };
    let patch = |format, body: Value| {
        let patch = Patch { format, body: body.to_string().into(), force: None };
        server.api.patch(&context, &target, patch)
    };
    let json_patch = json!([{"op": "test", "path": "/spec/size", "value": 1}, {"op": "replace", "path": "/spec/size", "value": 5}]);
    assert_eq!(patch(PatchFormat::Json, json_patch).await.unwrap().value().unwrap()["spec"]["size"], 5);
    let merged = patch(PatchFormat::Merge, json!({"spec": {"size": null}})).await.unwrap().value().unwrap();
    assert!(merged["spec"].get("size").is_none());
    assert_eq!(merged["metadata"]["generation"], 3);

    let (code, message) = said(patch(PatchFormat::Strategic, json!({})).await);
    assert_eq!(code, 415);
    assert!(message.starts_with("the body of the request was in an unknown format"), "{message}");
    assert_eq!(
        said(patch(PatchFormat::Merge, json!({"metadata": {"name": "b"}})).await),
        (400, "the name of the object (b) does not match the name on the URL (a)".to_owned())
    );
    let stale = json!({"metadata": {"resourceVersion": "1"}, "spec": {"size": 3}});
    assert_eq!(said(patch(PatchFormat::Merge, stale).await).0, 409);
    let unknown = patch(PatchFormat::Merge, json!({"spec": {"shape": 1}})).await.unwrap_err();
    assert_eq!(unknown.code, 422);
    assert!(unknown.message.starts_with(" \"\" is invalid: patch: Invalid value: "), "{unknown}");
    assert!(unknown.message.ends_with("strict decoding error: unknown field \"spec.shape\""), "{unknown}");
    let invalid = said(patch(PatchFormat::Merge, json!({"spec": {"size": "x"}})).await);
    assert_eq!(invalid.0, 422, "{invalid:?}");
    for hostile in ["", "[]", "{", "1", "\"x\""] {
        let patch = Patch { format: PatchFormat::Merge, body: hostile.into(), force: None };
        assert_eq!(said(server.api.patch(&context, &target, patch).await).0, 400, "{hostile}");
    }
    let absent = server.at("widgets", "default", "none");
    let patch = Patch { format: PatchFormat::Merge, body: "{}".into(), force: None };
    assert_eq!(said(server.api.patch(&context, &absent, patch).await).0, 404);
}

#[tokio::test]
async fn apply_creates_what_is_missing_and_needs_a_manager() {
    let server = Server::new().await;
    let target = server.at("widgets", "default", "a");
    let patch = |size: i64| Patch {
        format: PatchFormat::Apply,
        body: format!(
            "apiVersion: example.com/v1\nkind: Widget\nmetadata:\n  name: a\nspec:\n  size: {size}\n"
        )
        .into(),
        force: Some(true),
    };
    let nobody = Context { field_manager: String::new(), ..server.context() };
    assert_eq!(
        said(server.api.patch(&nobody, &target, patch(1)).await),
        (
            422,
            "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch".to_owned()
        )
    );
    let created = server.api.patch(&server.context(), &target, patch(1)).await.unwrap();
    assert_eq!(created.code, 201);
    let created = created.value().unwrap();
    assert_eq!(created["metadata"]["generation"], 1);
    assert_eq!(created["spec"], json!({"size": 1, "color": "red"}));
    let again = server.api.patch(&server.context(), &target, patch(1)).await.unwrap();
    assert_eq!(again.code, 200);
    assert_eq!(again.value().unwrap(), created, "applying the same again changes nothing");
    let changed = server.api.patch(&server.context(), &target, patch(2)).await.unwrap().value().unwrap();
    assert_eq!((&changed["spec"]["size"], &changed["metadata"]["generation"]), (&json!(2), &json!(2)));
    let ghost = server.at("ghosts", "default", "a");
    assert_eq!(said(server.api.patch(&server.context(), &ghost, patch(1)).await).0, 405);
}

#[tokio::test]
async fn writers_that_race_with_patches_all_win() {
    let server = Server::new().await;
    server.create("configmaps", "default", json!({"metadata": {"name": "c"}})).await.unwrap();
    let patches = (0..16).map(|number| {
        let mut data = Map::new();
        data.insert(format!("k{number}"), "v".into());
        server.merge("configmaps", "default", "c", json!({"data": data}))
    });
    for result in futures::future::join_all(patches).await {
        result.unwrap();
    }
    let all = server.get("configmaps", "default", "c").await.unwrap();
    assert_eq!(all["data"].as_object().unwrap().len(), 16);
}

#[tokio::test]
async fn versions_show_the_same_object() {
    let server = Server::new().await;
    let beta = Target { version: "v1beta1", ..server.at("widgets", "default", "") };
    let mut body = widget("a", json!({"size": 1}));
    body["apiVersion"] = "example.com/v1beta1".into();
    let created = server.api.create(&server.context(), &beta, body.into()).await.unwrap().value().unwrap();
    assert_eq!(created["apiVersion"], "example.com/v1beta1");
    let stored = server.get("widgets", "default", "a").await.unwrap();
    assert_eq!(stored["apiVersion"], "example.com/v1");
    let list = server.api.list(&server.context(), &beta, &ListOptions::default()).await.unwrap();
    let shown: Value = serde_json::from_slice(&list.view.bytes(&list.items[0]).unwrap()).unwrap();
    assert_eq!(shown, created);
    let named = Target { name: "a", ..beta };
    let updated = server.api.update(&server.context(), &named, created.clone().into()).await.unwrap();
    assert_eq!(updated.value().unwrap(), created);
}

#[tokio::test]
async fn scale_reads_and_writes_the_replicas() {
    let server = Server::new().await;
    server.create("widgets", "default", widget("a", json!({"replicas": 1}))).await.unwrap();
    let mut scale = server.get("widgets", "default", "a/scale").await.unwrap();
    assert_eq!((&scale["kind"], &scale["spec"]["replicas"]), (&json!("Scale"), &json!(1)));
    scale["spec"]["replicas"] = 4.into();
    assert_eq!(
        server.update("widgets", "default", "a/scale", scale.clone()).await.unwrap()["spec"]["replicas"],
        4
    );
    assert_eq!(said(server.update("widgets", "default", "a/scale", scale).await).0, 409);
    let patched =
        server.merge("widgets", "default", "a/scale", json!({"spec": {"replicas": 2}})).await.unwrap();
    assert_eq!(patched["spec"]["replicas"], 2);
    assert_eq!(server.get("widgets", "default", "a").await.unwrap()["spec"]["replicas"], 2);
    assert_eq!(said(server.get("configmaps", "default", "a/scale").await).0, 404);
}

#[tokio::test]
async fn a_pod_is_bound_once() {
    let server = Server::new().await;
    server.create("pods", "default", json!({"metadata": {"name": "p"}, "spec": {}})).await.unwrap();
    let target = server.at("pods", "default", "p/binding");
    let context = server.context();
    let answer =
        server.api.create(&context, &target, json!({"target": {"name": "n1"}}).into()).await.unwrap();
    assert_eq!(answer.code, 201);
    let pod = server.get("pods", "default", "p").await.unwrap();
    assert_eq!(pod["spec"]["nodeName"], "n1");
    assert_eq!(pod["status"]["conditions"][0]["type"], "PodScheduled");
    let again = server.api.create(&context, &target, json!({"target": {"name": "n2"}}).into()).await;
    assert_eq!(said(again).0, 409);
}

#[tokio::test]
async fn two_kinds_show_the_same_stored_objects() {
    let directory = tempfile::tempdir().unwrap();
    let options = StoreOptions { directory: directory.path().to_owned(), history: HistoryLimits::default() };
    let kinds = Arc::new(Kinds::new(crate::builtin::kinds()));
    let api = Api::new(Store::open(options).unwrap(), Arc::clone(&kinds), Sources::system());
    let context = Context::internal("tester", NOW.parse().unwrap());
    let at = |group: &str, plural: &str, namespace: &'static str, name: &'static str| Target {
        kind: kinds.resource(group, plural).unwrap(),
        version: "v1",
        namespace,
        name,
        subresource: "",
    };
    let namespace = json!({"metadata": {"name": "default"}});
    api.create(&context, &at("", "namespaces", "", ""), namespace.into()).await.unwrap();
    let event = json!({
        "apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "e", "namespace": "default"},
        "eventTime": "2026-01-01T00:00:00.000000Z", "reportingController": "example.com/c", "reportingInstance": "i",
        "action": "Act", "reason": "Because", "type": "Normal", "note": "told",
        "regarding": {"kind": "Pod", "name": "p", "namespace": "default"},
    });
    let created =
        api.create(&context, &at("events.k8s.io", "events", "default", ""), event.into()).await.unwrap();
    let created = created.value().unwrap();
    assert_eq!((&created["apiVersion"], &created["note"]), (&json!("events.k8s.io/v1"), &json!("told")));
    let core = api.get(&context, &at("", "events", "default", "e"), "").await.unwrap().value().unwrap();
    assert_eq!((&core["apiVersion"], &core["message"]), (&json!("v1"), &json!("told")));
    assert_eq!(core["involvedObject"]["name"], "p");
    let selected =
        ListOptions { field_selector: "involvedObject.name=p".to_owned(), ..ListOptions::default() };
    assert_eq!(api.list(&context, &at("", "events", "", ""), &selected).await.unwrap().items.len(), 1);
}

/// Bodies are bounded one by one; what many patches make of an object must be too, and it must not be stuck then.
#[tokio::test]
async fn patches_cannot_make_an_object_grow_without_bound() {
    let server = Server::new().await;
    let object = json!({"metadata": {"name": "a", "finalizers": ["example.com/x"]}});
    server.create("configmaps", "default", object).await.unwrap();
    let text = "x".repeat(700_000);
    let grow = async |number: usize| {
        let patch = json!({"data": {format!("field{number}"): text}});
        server.merge("configmaps", "default", "a", patch).await.map(|_| ())
    };
    let mut results = Vec::new();
    for number in 0..3 {
        results.push(grow(number).await.map_err(|error| (error.code, error.reason)));
    }
    assert_eq!(results, [Ok(()), Ok(()), Err((413, "RequestEntityTooLarge"))]);
    server.delete("configmaps", "default", "a", DeleteOptions::default()).await.unwrap();
    server.merge("configmaps", "default", "a", json!({"metadata": {"finalizers": null}})).await.unwrap();
    assert_eq!(said(server.get("configmaps", "default", "a").await).0, 404);
}

/// An object that cannot be written as one is a fault of ours, and no reason for a client to wait for another server.
#[tokio::test]
async fn a_fault_of_ours_is_not_taken_for_a_shutdown() {
    let server = Server::new().await;
    let target = server.at("widgets", "default", "a");
    let error = CommitError::from(EncodeError::NoMetadata);
    let answered = crate::verbs::write::storage_error(&target, &error);
    assert_eq!((answered.code, answered.reason), (500, "InternalError"));
}
