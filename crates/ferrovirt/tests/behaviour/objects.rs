//! Create, read, replace and delete: what every kind has in common, and what the server fills in.

use serde_json::{Value, json};

use crate::target::{MERGE, Reply, STRATEGIC, Space, names, version, with_space};

/// One kind as the table tests use it.
pub struct Sample {
    /// As [`Space::path`] reads it.
    pub path: &'static str,
    pub group: &'static str,
    pub version: &'static str,
    pub kind: &'static str,
    /// Spec or data.
    pub body: Value,
    /// A change of the body as a merge patch.
    pub change: Value,
    /// What `metadata.generation` is at first and after the change.
    pub generations: [Option<u64>; 2],
    /// Whether a delete is answered with the object and not with a `Status`.
    pub returns_deleted: bool,
    /// Whether it comes with a finalizer, which the test takes away as a controller would.
    pub finalized: bool,
}

impl Sample {
    fn plural(&self) -> &'static str {
        self.path.rsplit(':').next().unwrap()
    }

    /// How messages call the resource.
    fn resource(&self) -> String {
        match self.group {
            "" => self.plural().to_owned(),
            group => format!("{}.{group}", self.plural()),
        }
    }

    fn api_version(&self) -> String {
        match self.group {
            "" => self.version.to_owned(),
            group => format!("{group}/{}", self.version),
        }
    }

    pub fn object(&self, metadata: Value) -> Value {
        let mut object = json!({"apiVersion": self.api_version(), "kind": self.kind, "metadata": metadata});
        object.as_object_mut().unwrap().extend(self.body.as_object().unwrap().clone());
        object
    }

    fn details(&self, name: &str) -> Value {
        let mut details = json!({"name": name});
        if !self.group.is_empty() {
            details["group"] = self.group.into();
        }
        details["kind"] = self.plural().into();
        details
    }
}

/// A Pod that no scheduler takes.
pub fn pod_spec() -> Value {
    json!({"schedulerName": "nobody", "containers": [{"name": "main", "image": "registry.invalid/image"}]})
}

fn samples(space: &Space) -> Vec<Sample> {
    let template = json!({"metadata": {"labels": {"app": "sample"}}, "spec": pod_spec()});
    let mut samples = vec![
        Sample {
            path: "configmaps",
            group: "",
            version: "v1",
            kind: "ConfigMap",
            body: json!({"data": {"key": "value"}}),
            change: json!({"data": {"key": "other"}}),
            generations: [None, None],
            returns_deleted: false,
            finalized: false,
        },
        Sample {
            path: "pods",
            group: "",
            version: "v1",
            kind: "Pod",
            body: json!({"spec": pod_spec()}),
            change: json!({"spec": {"activeDeadlineSeconds": 1000}}),
            generations: [Some(1), Some(2)],
            returns_deleted: true,
            finalized: false,
        },
        Sample {
            path: "apps/v1:deployments",
            group: "apps",
            version: "v1",
            kind: "Deployment",
            body: json!({"spec": {
                "replicas": 0, "paused": true, "selector": {"matchLabels": {"app": "sample"}}, "template": template,
            }}),
            change: json!({"spec": {"minReadySeconds": 7}}),
            generations: [Some(1), Some(2)],
            returns_deleted: false,
            finalized: false,
        },
        Sample {
            path: "coordination.k8s.io/v1:leases",
            group: "coordination.k8s.io",
            version: "v1",
            kind: "Lease",
            body: json!({"spec": {"holderIdentity": "one"}}),
            change: json!({"spec": {"holderIdentity": "two"}}),
            generations: [None, None],
            returns_deleted: false,
            finalized: false,
        },
    ];
    if space.target.ours_alone() {
        let devices = json!({"domain": {"devices": {}, "memory": {"guest": "64Mi"}}});
        samples.push(Sample {
            path: "kubevirt.io/v1:virtualmachines",
            group: "kubevirt.io",
            version: "v1",
            kind: "VirtualMachine",
            body: json!({"spec": {"runStrategy": "Halted", "template": {"spec": devices}}}),
            change: json!({"spec": {"runStrategy": "Manual"}}),
            generations: [Some(1), Some(2)],
            returns_deleted: false,
            finalized: false,
        });
        samples.push(Sample {
            path: "kubevirt.io/v1:virtualmachineinstances",
            group: "kubevirt.io",
            version: "v1",
            kind: "VirtualMachineInstance",
            body: json!({"spec": devices}),
            change: json!({"metadata": {"annotations": {"a": "b"}}}),
            generations: [Some(1), Some(1)],
            returns_deleted: false,
            finalized: true,
        });
    }
    samples
}

/// `2026-11-22T15:04:05Z`, nothing finer.
fn is_time(value: &Value) -> bool {
    value.as_str().is_some_and(|text| text.len() == 20 && text.ends_with('Z') && text.as_bytes()[10] == b'T')
}

#[tokio::test]
async fn every_kind_is_made_read_changed_and_removed_alike() {
    with_space(|space| async move {
        for sample in samples(&space) {
            life(&space, &sample).await;
        }
    })
    .await;
}

async fn life(space: &Space, sample: &Sample) {
    let one = format!("{}/one", sample.path);
    let resource = sample.resource();

    // What is not there.
    let missing = format!("{resource} \"one\" not found");
    let object = sample.object(json!({"name": "one", "labels": {"set": "a"}}));
    for reply in [
        space.get(&one).await,
        space.delete(&one).await,
        space.patch(&one, MERGE, json!({"metadata": {"labels": {"a": "b"}}})).await,
    ] {
        let status = reply.refused(404, "NotFound", &missing);
        assert_eq!(status["details"], sample.details("one"), "{}", reply.what);
    }

    // Made.
    let mut sent = object.clone();
    // What the server decides whatever is sent.
    sent["metadata"]["uid"] = "mine".into();
    sent["metadata"]["creationTimestamp"] = "2001-01-01T00:00:00Z".into();
    sent["metadata"]["deletionTimestamp"] = "2001-01-01T00:00:00Z".into();
    if sample.generations[0].is_some() {
        sent["metadata"]["generation"] = 77.into();
    }
    sent["metadata"]["selfLink"] = "/mine".into();
    let made = space.post(sample.path, sent).await.ok(201);
    let metadata = &made["metadata"];
    assert_eq!((&made["apiVersion"], &made["kind"]), (&json!(sample.api_version()), &json!(sample.kind)));
    assert_eq!(metadata["namespace"], space.name.as_str());
    assert_eq!(metadata["uid"].as_str().map(str::len), Some(36), "{made}");
    assert!(is_time(&metadata["creationTimestamp"]), "{made}");
    assert!(!metadata["creationTimestamp"].as_str().unwrap().starts_with("2001"), "{made}");
    assert_eq!(metadata["deletionTimestamp"], Value::Null, "{made}");
    assert_eq!(metadata["generation"].as_u64(), sample.generations[0], "{made}");
    let entry = &metadata["managedFields"][0];
    assert_eq!((&entry["operation"], &entry["fieldsType"]), (&json!("Update"), &json!("FieldsV1")), "{made}");
    assert_eq!(entry["apiVersion"], sample.api_version(), "{made}");

    let exists = space.post(sample.path, object.clone()).await;
    let status = exists.refused(409, "AlreadyExists", &format!("{resource} \"one\" already exists"));
    assert_eq!(status["details"], sample.details("one"));

    // Read.
    let read = space.get(&one).await.ok(200);
    assert_eq!(read["metadata"]["uid"], made["metadata"]["uid"]);
    let all = format!("{}?labelSelector=set", sample.path);
    let list = space.get(&all).await.ok(200);
    assert_eq!(list["kind"], format!("{}List", sample.kind));
    assert_eq!(list["apiVersion"], sample.api_version());
    assert!(version(&list) >= version(&read));
    assert_eq!(names(&list), ["one"]);

    // Changed, and not changed.
    let changed = space.patch(&one, MERGE, sample.change.clone()).await.ok(200);
    assert_eq!(changed["metadata"]["generation"].as_u64(), sample.generations[1], "{changed}");
    assert!(version(&changed) > version(&made));
    let again = space.patch(&one, MERGE, sample.change.clone()).await.ok(200);
    assert_eq!(version(&again), version(&changed), "nothing was changed: {again}");

    // Replaced on an old state, and on the present one.
    let mut stale = read.clone();
    stale["metadata"]["labels"]["set"] = "b".into();
    stale["metadata"]["resourceVersion"] = made["metadata"]["resourceVersion"].clone();
    let conflict = format!(
        "Operation cannot be fulfilled on {resource} \"one\": the object has been modified; please apply your \
         changes to the latest version and try again"
    );
    let status = space.put(&one, stale).await.refused(409, "Conflict", &conflict);
    assert_eq!(status["details"], sample.details("one"));
    let mut next = space.get(&one).await.ok(200);
    next["metadata"]["labels"]["set"] = "b".into();
    let replaced = space.put(&one, next.clone()).await.ok(200);
    assert_eq!(replaced["metadata"]["labels"]["set"], "b");
    assert_eq!(replaced["metadata"]["creationTimestamp"], made["metadata"]["creationTimestamp"]);
    next["metadata"]["name"] = "two".into();
    space.put(&one, next.clone()).await.refused(
        400,
        "BadRequest",
        "the name of the object (two) does not match the name on the URL (one)",
    );
    next["metadata"]["name"] = "one".into();
    next["metadata"]["namespace"] = "elsewhere".into();
    let elsewhere = format!(
        "the namespace of the object (elsewhere) does not match the namespace on the request ({})",
        space.name
    );
    space.put(&one, next.clone()).await.refused(400, "BadRequest", &elsewhere);
    next["metadata"]["namespace"] = space.name.as_str().into();
    next["metadata"]["uid"] = "11111111-2222-3333-4444-555555555555".into();
    next["metadata"]["resourceVersion"] = space.get(&one).await.json()["metadata"]["resourceVersion"].clone();
    space.put(&one, next).await.refused_with(409, "Conflict", "Precondition failed: UID in precondition: ");

    // Removed.
    let answer = space.delete_with(&one, json!({"preconditions": {"uid": "no"}})).await;
    let text = format!(
        "Operation cannot be fulfilled on {} \"one\": the UID in the precondition (no) does not match the UID in record (",
        kind_of(sample)
    );
    answer.refused_with(409, "Conflict", &text);
    let answer = space.delete_with(&one, json!({"preconditions": {"resourceVersion": "1"}})).await;
    answer.refused_with(
        409,
        "Conflict",
        ": the ResourceVersion in the precondition (1) does not match the ResourceVersion in record (",
    );
    let answer = space.delete(&one).await.ok(200);
    if sample.returns_deleted || sample.finalized {
        assert_eq!(answer["kind"], sample.kind, "{answer}");
        assert_eq!(answer["metadata"]["uid"], made["metadata"]["uid"]);
    } else {
        let mut details = sample.details("one");
        details["uid"] = made["metadata"]["uid"].clone();
        assert_eq!(
            answer,
            json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})
        );
    }
    release(space, sample, "one").await;
    space.gone(&one).await;

    // Many at once.
    for (name, set) in [("a", "x"), ("b", "y"), ("c", "x")] {
        space.post(sample.path, sample.object(json!({"name": name, "labels": {"set": set}}))).await.ok(201);
    }
    let removed = space.delete(&format!("{}?labelSelector=set%3Dx", sample.path)).await.ok(200);
    assert_eq!(removed["kind"], format!("{}List", sample.kind), "{removed}");
    assert_eq!(names(&removed), ["a", "c"]);
    for name in ["a", "c"] {
        release(space, sample, name).await;
    }
    space.eventually(&all, |reply| reply.names() == ["b"]).await;
    space.delete(&all).await.ok(200);
    release(space, sample, "b").await;
    space.eventually(&all, |reply| reply.names().is_empty()).await;
}

/// What stands for the resource in the refusals of preconditions.
fn kind_of(sample: &Sample) -> String {
    match sample.group {
        "" => sample.kind.to_owned(),
        group => format!("{}.{group}", sample.kind),
    }
}

/// Takes the finalizers of an object away that is marked for deletion.
async fn release(space: &Space, sample: &Sample, name: &str) {
    if sample.finalized {
        let path = format!("{}/{name}", sample.path);
        space.patch(&path, MERGE, json!({"metadata": {"finalizers": null}})).await.ok(200);
    }
}

#[tokio::test]
async fn names_are_made_up_and_judged() {
    with_space(|space| async move {
        let made = space.config_map(json!({"generateName": "made-"}), json!({})).await;
        let name = made["metadata"]["name"].as_str().unwrap();
        let suffix = name.strip_prefix("made-").unwrap();
        assert_eq!(suffix.len(), 5, "{name}");
        assert!(suffix.chars().all(|c| "bcdfghjklmnpqrstvwxz2456789".contains(c)), "{name}");
        assert_eq!(made["metadata"]["generateName"], "made-");
        // A long one is cut, so that the name fits.
        let made = space.config_map(json!({"generateName": "a".repeat(100)}), json!({})).await;
        assert_eq!(made["metadata"]["name"].as_str().unwrap().len(), 63, "{made}");
        // The name counts where both are given.
        let made = space.config_map(json!({"name": "own", "generateName": "made-"}), json!({})).await;
        assert_eq!(made["metadata"]["name"], "own");

        let subdomain = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' \
                         or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex \
                         used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
        let label_value = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or \
                           '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or \
                           'my_value',  or '12345', regex used for validation is \
                           '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
        let cases = [
            (json!({}), "metadata.name", "FieldValueRequired",
             "Required value: name or generateName is required".to_owned()),
            (json!({"name": "A_"}), "metadata.name", "FieldValueInvalid",
             format!("Invalid value: \"A_\": {subdomain}")),
            (json!({"name": "a".repeat(254)}), "metadata.name", "FieldValueInvalid",
             format!("Invalid value: \"{}\": must be no more than 253 characters", "a".repeat(254))),
            (json!({"name": "a", "labels": {"x": "-"}}), "metadata.labels", "FieldValueInvalid",
             format!("Invalid value: \"-\": {label_value}")),
            (json!({"name": "a", "finalizers": ["plain"]}), "metadata.finalizers[0]", "FieldValueInvalid",
             "Invalid value: \"plain\": name is neither a standard finalizer name nor is it fully qualified".to_owned()),
            (json!({"name": "a", "ownerReferences": [
                {"apiVersion": "v1", "kind": "ConfigMap", "name": "o", "uid": ""}]}),
             "metadata.ownerReferences.uid", "FieldValueInvalid", "Invalid value: \"\": must not be empty".to_owned()),
        ];
        for (metadata, field, reason, message) in cases {
            let reply = space.post("configmaps", json!({"metadata": metadata})).await;
            let status = reply.refused_with(422, "Invalid", " is invalid: ");
            let cause = &status["details"]["causes"][0];
            assert_eq!(cause["field"], field, "{status}");
            assert_eq!(cause["reason"], reason, "{status}");
            let text = cause["message"].as_str().unwrap();
            assert_eq!(text, message, "{status}");
            assert_eq!(status["details"]["kind"], "ConfigMap", "{status}");
            let name = metadata["name"].as_str().unwrap_or_default();
            let whole = format!("ConfigMap \"{name}\" is invalid: {field}: {text}");
            assert_eq!(status["message"], whole);
        }
        let reply = space.post("configmaps", json!({"metadata": {"name": "a", "namespace": "other"}})).await;
        let elsewhere = "the namespace of the provided object does not match the namespace sent on the request";
        reply.refused(400, "BadRequest", elsewhere);
        // Several faults are told at once, the object's own behind those of its metadata.
        let reply = space
            .post(
                "configmaps",
                json!({"metadata": {"name": "A_", "labels": {"x": "-"}}, "data": {"not a key": ""}}),
            )
            .await;
        let status = reply.refused_with(422, "Invalid", "ConfigMap \"A_\" is invalid: [");
        let fields: Vec<_> = status["details"]["causes"].as_array().unwrap().iter().map(|c| &c["field"]).collect();
        assert_eq!(fields, ["metadata.name", "metadata.labels", "data[not a key]"], "{status}");
    })
    .await;
}

#[tokio::test]
async fn quantities_come_back_in_their_canonical_form() {
    with_space(|space| async move {
        let container = |memory: &str| {
            let resources = json!({"requests": {"cpu": "1500m", "memory": memory}, "limits": {"cpu": 2.0}});
            json!({"name": "main", "image": "i", "resources": resources})
        };
        let object =
            json!({"metadata": {"name": "p"}, "template": {"spec": {"containers": [container("1024Mi")]}}});
        let made = space.post("podtemplates", object).await.ok(201);
        let resources = |object: &Value| object["template"]["spec"]["containers"][0]["resources"].clone();
        let canonical = json!({"requests": {"cpu": "1500m", "memory": "1Gi"}, "limits": {"cpu": "2"}});
        assert_eq!(resources(&made), canonical);
        // The same amount in other words is no change.
        let again = json!({"template": {"spec": {"containers": [container("1048576Ki")]}}});
        let patched = space.patch("podtemplates/p", STRATEGIC, again).await.ok(200);
        assert_eq!(version(&patched), version(&made), "{patched}");
        let wrong = json!({"template": {"spec": {"containers": [container("1024MB")]}}});
        let reply = space.patch("podtemplates/p", STRATEGIC, wrong).await;
        reply.refused_with(422, "Invalid", " is invalid: patch: Invalid value: ");
    })
    .await;
}

#[tokio::test]
async fn versions_are_given_and_checked() {
    with_space(|space| async move {
        let made = space.config_map(json!({"name": "a"}), json!({"k": "1"})).await;
        // A version is the server's to give.
        let reply = space
            .post("configmaps", json!({"metadata": {"name": "b", "resourceVersion": "5"}}))
            .await;
        assert!(reply.code >= 400, "{}", reply.text());
        assert_eq!(reply.json()["message"], "resourceVersion should not be set on objects to be created");
        // ConfigMaps may be replaced whatever they are by now.
        let reply = space.put("configmaps/a", json!({"metadata": {"name": "a"}, "data": {"k": "2"}})).await;
        let replaced = reply.ok(200);
        assert_eq!(replaced["metadata"]["uid"], made["metadata"]["uid"]);
        let reply = space
            .put("configmaps/a", json!({"metadata": {"name": "a", "resourceVersion": "many"}}))
            .await;
        assert!((400..500).contains(&reply.code), "{}", reply.text());
        // They are not made by replacing them; Leases are.
        let reply = space.put("configmaps/none", json!({"metadata": {"name": "none"}})).await;
        reply.refused(404, "NotFound", "configmaps \"none\" not found");
        let lease = json!({"metadata": {"name": "made"}, "spec": {"holderIdentity": "me"}});
        let made = space.put("coordination.k8s.io/v1:leases/made", lease.clone()).await.ok(201);
        let reply = space.put("coordination.k8s.io/v1:leases/made", lease).await;
        reply.refused_with(422, "Invalid", "metadata.resourceVersion: Invalid value: ");
        space.put("coordination.k8s.io/v1:leases/made", made.clone()).await.ok(200);
        space.delete("coordination.k8s.io/v1:leases/made").await.ok(200);
        let reply = space.put("coordination.k8s.io/v1:leases/made", made).await;
        reply.refused_with(409, "Conflict", "Precondition failed: UID in precondition: ");
        if space.target.ours_alone() {
            let devices = json!({"domain": {"devices": {}, "memory": {"guest": "64Mi"}}});
            let machine = json!({"metadata": {"name": "m"}, "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine",
                "spec": {"runStrategy": "Halted", "template": {"spec": devices}}});
            space.post("kubevirt.io/v1:virtualmachines", machine.clone()).await.ok(201);
            let reply = space.put("kubevirt.io/v1:virtualmachines/m", machine).await;
            reply.refused(
                422,
                "Invalid",
                "virtualmachines.kubevirt.io \"m\" is invalid: metadata.resourceVersion: Invalid value: 0x0: must be \
                 specified for an update",
            );
        }
    })
    .await;
}

#[tokio::test]
async fn a_status_is_written_apart() {
    with_space(|space| async move {
        let mut kinds = vec![(
            "pods",
            json!({"spec": pod_spec()}),
            json!({"phase": "Running"}),
            "phase",
            json!("Running"),
        )];
        if space.target.ours_alone() {
            let devices = json!({"domain": {"devices": {}, "memory": {"guest": "64Mi"}}});
            kinds.push((
                "kubevirt.io/v1:virtualmachines",
                json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine",
                    "spec": {"runStrategy": "Halted", "template": {"spec": devices}}}),
                json!({"printableStatus": "Running"}),
                "printableStatus",
                json!("Running"),
            ));
        }
        for (path, mut object, status, field, value) in kinds {
            let one = format!("{path}/one");
            let below = format!("{path}/one/status");
            object["metadata"] = json!({"name": "one"});
            object["status"] = status.clone();
            let made = space.post(path, object).await.ok(201);
            assert_ne!(made["status"][field], value, "a new object has the server's status: {made}");
            // By the status path, nothing but the status.
            let change =
                json!({"status": status, "spec": {"runStrategy": "Manual", "activeDeadlineSeconds": 9}});
            let written = space.patch(&below, MERGE, change).await.ok(200);
            assert_eq!(written["status"][field], value, "{written}");
            assert_eq!(written["spec"], made["spec"], "{written}");
            assert_eq!(written["metadata"]["generation"], made["metadata"]["generation"]);
            let managers = written["metadata"]["managedFields"].as_array().unwrap();
            assert!(managers.iter().any(|entry| entry["subresource"] == "status"), "{written}");
            assert_eq!(space.get(&below).await.ok(200)["status"][field], value);
            // By the main path, everything else.
            let change = json!({"status": {field: "Failed"}, "metadata": {"labels": {"a": "b"}}});
            let written = space.patch(&one, MERGE, change).await.ok(200);
            assert_eq!(written["status"][field], value, "{written}");
            assert_eq!(written["metadata"]["labels"]["a"], "b");
            // And there is no making or removing a status.
            let reply = space.post(&below, json!({})).await;
            reply.refused(
                405,
                "MethodNotAllowed",
                "the server does not allow this method on the requested resource",
            );
            let reply = space.delete(&below).await;
            reply.refused(
                405,
                "MethodNotAllowed",
                "the server does not allow this method on the requested resource",
            );
        }
        // Where there is no such path.
        space.get("configmaps/none/status").await.refused_with(
            404,
            "NotFound",
            "the server could not find the requested resource",
        );
    })
    .await;
}

#[tokio::test]
async fn a_dry_run_changes_nothing() {
    with_space(|space| async move {
        let answer = space.post("configmaps?dryRun=All", json!({"metadata": {"name": "a"}})).await.ok(201);
        assert_eq!(answer["metadata"]["uid"].as_str().map(str::len), Some(36), "{answer}");
        assert_eq!(answer["metadata"]["resourceVersion"], Value::Null, "{answer}");
        space.get("configmaps/a").await.refused(404, "NotFound", "configmaps \"a\" not found");

        let made = space.config_map(json!({"name": "a"}), json!({"k": "1"})).await;
        let all: [Reply; 4] = [
            space
                .put("configmaps/a?dryRun=All", json!({"metadata": {"name": "a"}, "data": {"k": "2"}}))
                .await,
            space.patch("configmaps/a?dryRun=All", MERGE, json!({"data": {"k": "2"}})).await,
            space.delete("configmaps/a?dryRun=All").await,
            space.delete("configmaps?dryRun=All").await,
        ];
        for reply in &all {
            reply.ok(200);
        }
        assert_eq!(all[1].json()["data"]["k"], "2");
        space.delete_with("configmaps/a", json!({"dryRun": ["All"]})).await.ok(200);
        let still = space.get("configmaps/a").await.ok(200);
        assert_eq!(still, made);
        // What would be refused is refused.
        let reply = space.post("configmaps?dryRun=All", json!({"metadata": {"name": "a"}})).await;
        reply.refused(409, "AlreadyExists", "configmaps \"a\" already exists");
        let reply = space.post("configmaps?dryRun=Some", json!({"metadata": {"name": "b"}})).await;
        let status = reply.refused_with(422, "Invalid", "dryRun: Unsupported value: ");
        assert!(status["message"].as_str().unwrap().ends_with(": supported values: \"All\""), "{status}");
    })
    .await;
}

#[tokio::test]
async fn events_have_two_faces() {
    with_space(|space| async move {
        let regarding = json!({"kind": "Pod", "namespace": space.name, "name": "p"});
        let old = json!({
            "metadata": {"name": "old"}, "involvedObject": regarding, "reason": "Started", "message": "text",
            "type": "Normal", "count": 3, "source": {"component": "c", "host": "h"},
            "firstTimestamp": "2026-01-01T00:00:00Z", "lastTimestamp": "2026-01-01T00:00:01Z",
        });
        space.post("events", old).await.ok(201);
        let seen = space.get("events.k8s.io/v1:events/old").await.ok(200);
        assert_eq!(seen["apiVersion"], "events.k8s.io/v1");
        assert_eq!((&seen["note"], &seen["regarding"]), (&json!("text"), &regarding));
        assert_eq!((&seen["deprecatedCount"], &seen["reason"]), (&json!(3), &json!("Started")));
        assert_eq!(seen["deprecatedSource"], json!({"component": "c", "host": "h"}));
        assert_eq!(seen["deprecatedLastTimestamp"], "2026-01-01T00:00:01Z");

        let new = json!({
            "metadata": {"name": "new"}, "regarding": regarding, "reason": "Started", "note": "text", "type": "Warning",
            "action": "Starting", "eventTime": "2026-01-01T00:00:00.000000Z",
            "reportingController": "example.com/c", "reportingInstance": "c-1",
        });
        space.post("events.k8s.io/v1:events", new).await.ok(201);
        let seen = space.get("events/new").await.ok(200);
        assert_eq!((&seen["message"], &seen["involvedObject"]), (&json!("text"), &regarding));
        assert_eq!(seen["reportingComponent"], "example.com/c");
        assert_eq!(seen["eventTime"], "2026-01-01T00:00:00.000000Z");
        for path in ["events", "events.k8s.io/v1:events"] {
            assert_eq!(space.get(path).await.names(), ["new", "old"]);
        }
        let path = "events?fieldSelector=type%3DWarning%2CinvolvedObject.name%3Dp";
        assert_eq!(space.get(path).await.names(), ["new"]);
        space.delete("events.k8s.io/v1:events/old").await.ok(200);
        space.gone("events/old").await;
    })
    .await;
}

#[tokio::test]
async fn autoscalers_have_two_versions() {
    with_space(|space| async move {
        let target = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"});
        let old = |name: &str, percent: u32| {
            json!({
                "apiVersion": "autoscaling/v1", "kind": "HorizontalPodAutoscaler", "metadata": {"name": name},
                "spec": {"scaleTargetRef": target, "maxReplicas": 5, "targetCPUUtilizationPercentage": percent},
            })
        };
        let (v1, v2) = ("autoscaling/v1:horizontalpodautoscalers", "autoscaling/v2:horizontalpodautoscalers");
        let made = space.post(v1, old("a", 70)).await.ok(201);
        assert_eq!((&made["apiVersion"], &made["spec"]["minReplicas"]), (&json!("autoscaling/v1"), &json!(1)));
        let seen = space.get(&format!("{v2}/a")).await.ok(200);
        assert_eq!(seen["apiVersion"], "autoscaling/v2");
        assert_eq!(seen["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 70, "{seen}");
        assert_eq!(seen["spec"].get("targetCPUUtilizationPercentage"), None, "{seen}");
        // What v1 does not know survives a change in it.
        let memory = json!({"type": "Resource", "resource": {"name": "memory", "target": {"type": "Utilization", "averageUtilization": 50}}});
        let metrics = json!({"spec": {"metrics": [seen["spec"]["metrics"][0], memory]}});
        space.patch(&format!("{v2}/a"), MERGE, metrics).await.ok(200);
        let change = json!({"spec": {"targetCPUUtilizationPercentage": 60}});
        let changed = space.patch(&format!("{v1}/a"), MERGE, change).await.ok(200);
        assert_eq!(changed["spec"]["targetCPUUtilizationPercentage"], 60);
        let seen = space.get(&format!("{v2}/a")).await.ok(200);
        assert_eq!(seen["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 60, "{seen}");
        assert_eq!(seen["spec"]["metrics"][1], memory, "{seen}");
        // KubeVirt's tests clean up like this.
        assert_eq!(space.get(v1).await.names(), ["a"]);
        space.delete(v1).await.ok(200);
        assert_eq!(space.get(v2).await.names(), [""; 0]);
        let unknown = space.get("autoscaling/v3:horizontalpodautoscalers").await;
        assert_eq!(unknown.code, 404);
    })
    .await;
}
