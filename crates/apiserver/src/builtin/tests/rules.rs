//! What is filled in, and what is refused in which words.

use super::*;

fn message(result: Result<Value, ApiError>) -> String {
    result.unwrap_err().message
}

fn pod() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "default"},
        "spec": {"containers": [{"name": "c", "image": "nginx"}]},
    })
}

#[test]
fn a_pod_is_completed_as_kubernetes_does() {
    let kinds = Kinds::new(kinds());
    let stored = create(&kinds, pod()).unwrap();
    assert_eq!(
        stored["spec"],
        json!({
            "containers": [{
                "name": "c", "image": "nginx", "resources": {}, "terminationMessagePath": "/dev/termination-log",
                "terminationMessagePolicy": "File", "imagePullPolicy": "Always",
            }],
            "enableServiceLinks": true, "serviceAccountName": "default", "serviceAccount": "default",
            "preemptionPolicy": "PreemptLowerPriority", "priority": 0, "restartPolicy": "Always",
            "terminationGracePeriodSeconds": 30, "dnsPolicy": "ClusterFirst", "securityContext": {},
            "schedulerName": "default-scheduler",
        })
    );
    assert_eq!(stored["status"], json!({"phase": "Pending", "qosClass": "BestEffort"}));
}

#[test]
fn images_are_pulled_always_when_their_tag_may_move() {
    let kinds = Kinds::new(kinds());
    for (image, policy) in [
        ("nginx", "Always"),
        ("nginx:latest", "Always"),
        ("nginx:1.2", "IfNotPresent"),
        ("host:5000/nginx", "Always"),
        ("nginx@sha256:00", "IfNotPresent"),
    ] {
        let mut pod = pod();
        pod["spec"]["containers"][0]["image"] = image.into();
        let stored = create(&kinds, pod).unwrap();
        assert_eq!(stored["spec"]["containers"][0]["imagePullPolicy"], policy, "{image}");
    }
}

#[test]
fn the_quality_class_follows_from_requests_and_limits() {
    let kinds = Kinds::new(kinds());
    let full = json!({"cpu": "1", "memory": "1Gi"});
    for (resources, class) in [
        (json!({}), "BestEffort"),
        (json!({"limits": full}), "Guaranteed"),
        (json!({"limits": full, "requests": {"cpu": "500m"}}), "Burstable"),
        (json!({"requests": {"memory": "1Mi"}}), "Burstable"),
    ] {
        let mut pod = pod();
        pod["spec"]["containers"][0]["resources"] = resources;
        assert_eq!(create(&kinds, pod).unwrap()["status"]["qosClass"], class);
    }
}

#[test]
fn faulty_pods_are_refused() {
    let kinds = Kinds::new(kinds());
    let mut empty = pod();
    empty["spec"] = json!({"containers": []});
    assert_eq!(message(create(&kinds, empty)), "Pod \"p\" is invalid: spec.containers: Required value");
    let mut twice = pod();
    twice["spec"]["containers"] = json!([{"name": "c", "image": "a"}, {"name": "c", "image": "b"}]);
    assert_eq!(
        message(create(&kinds, twice)),
        "Pod \"p\" is invalid: spec.containers[1].name: Duplicate value: \"c\""
    );
    let mut unmounted = pod();
    unmounted["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "x", "mountPath": "/x"}]);
    assert_eq!(
        message(create(&kinds, unmounted)),
        "Pod \"p\" is invalid: spec.containers[0].volumeMounts[0].name: Not found: \"x\""
    );
}

#[test]
fn a_pod_keeps_its_spec() {
    let kinds = Kinds::new(kinds());
    let old = create(&kinds, pod()).unwrap();
    let mut image = old.clone();
    image["spec"]["containers"][0]["image"] = "nginx:2".into();
    update(&kinds, image, &old).unwrap();
    let mut node = old.clone();
    node["spec"]["nodeName"] = "n".into();
    let refused = message(update(&kinds, node, &old));
    assert!(
        refused.starts_with(
            "Pod \"p\" is invalid: spec: Forbidden: pod updates may not change fields other than \
             `spec.containers[*].image`"
        ),
        "{refused}"
    );
    let mut more = old.clone();
    more["spec"]["containers"].as_array_mut().unwrap().push(json!({"name": "d", "image": "x"}));
    assert_eq!(
        message(update(&kinds, more, &old)),
        "Pod \"p\" is invalid: spec.containers: Forbidden: pod updates may not add or remove containers"
    );
}

fn secret(rest: Value) -> Value {
    let mut object =
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s", "namespace": "default"}});
    object.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
    object
}

#[test]
fn secrets_have_a_type_and_no_plain_text() {
    let kinds = Kinds::new(kinds());
    let stored = create(&kinds, secret(json!({"stringData": {"k": "v"}, "data": {"o": "bw=="}}))).unwrap();
    assert_eq!(stored["data"], json!({"o": "bw==", "k": "dg=="}));
    assert_eq!((&stored["type"], stored.get("stringData")), (&json!("Opaque"), None));
    assert_eq!(
        message(create(&kinds, secret(json!({"type": "kubernetes.io/tls"})))),
        "Secret \"s\" is invalid: [data[tls.crt]: Required value, data[tls.key]: Required value]"
    );
    let mut other = stored.clone();
    other["type"] = "x".into();
    assert_eq!(
        message(update(&kinds, other, &stored)),
        "Secret \"s\" is invalid: type: Invalid value: \"x\": field is immutable"
    );
    let big = "A".repeat(1024 * 1024 / 3 * 4 + 8);
    assert!(message(create(&kinds, secret(json!({"data": {"k": big}})))).contains("data: Too long"));
}

#[test]
fn what_is_immutable_stays() {
    let kinds = Kinds::new(kinds());
    let old = create(&kinds, secret(json!({"data": {"k": "dg=="}, "immutable": true}))).unwrap();
    let mut new = old.clone();
    new["data"]["k"] = "dw==".into();
    assert_eq!(
        message(update(&kinds, new.clone(), &old)),
        "Secret \"s\" is invalid: data: Forbidden: field is immutable when `immutable` is set"
    );
    new["immutable"] = false.into();
    assert!(message(update(&kinds, new, &old)).contains("immutable: Forbidden: field is immutable when"));
    let config = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "namespace": "default"},
        "data": {"bad key": "v"},
    });
    let refused = message(create(&kinds, config));
    assert!(refused.starts_with(
        "ConfigMap \"c\" is invalid: data[bad key]: Invalid value: \"bad key\": a valid config key"
    ));
}

#[test]
fn namespaces_carry_their_finalizer_phase_and_label() {
    let kinds = Kinds::new(kinds());
    let stored =
        create(&kinds, json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "n"}})).unwrap();
    assert_eq!(stored["spec"]["finalizers"], json!(["kubernetes"]));
    assert_eq!(stored["status"]["phase"], "Active");
    assert_eq!(stored["metadata"]["labels"]["kubernetes.io/metadata.name"], "n");
}

fn deployment() -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d", "namespace": "default"},
        "spec": {
            "selector": {"matchLabels": {"app": "d"}},
            "template": {"metadata": {"labels": {"app": "d"}}, "spec": {"containers": [{"name": "c", "image": "x"}]}},
        },
    })
}

#[test]
fn deployments_are_completed_and_their_selector_is_checked() {
    let kinds = Kinds::new(kinds());
    let stored = create(&kinds, deployment()).unwrap();
    assert_eq!(stored["spec"]["replicas"], 1);
    assert_eq!(
        stored["spec"]["strategy"],
        json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "25%", "maxSurge": "25%"}})
    );
    assert_eq!(stored["spec"]["template"]["spec"]["restartPolicy"], "Always");
    let mut none = deployment();
    none["spec"].as_object_mut().unwrap().remove("selector");
    assert_eq!(
        message(create(&kinds, none)),
        "Deployment.apps \"d\" is invalid: spec.selector: Required value"
    );
    let mut other = deployment();
    other["spec"]["template"]["metadata"]["labels"] = json!({"app": "e"});
    assert_eq!(
        message(create(&kinds, other)),
        "Deployment.apps \"d\" is invalid: spec.template.metadata.labels: Invalid value: {\"app\":\"e\"}: `selector` \
         does not match template `labels`"
    );
    let mut moved = stored.clone();
    moved["spec"]["selector"]["matchLabels"] = json!({"app": "d", "b": "c"});
    moved["spec"]["template"]["metadata"]["labels"] = json!({"app": "d", "b": "c"});
    assert!(message(update(&kinds, moved, &stored)).ends_with("field is immutable"));
}

#[test]
fn services_name_their_ports_and_keep_their_address() {
    let kinds = Kinds::new(kinds());
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "s", "namespace": "default"},
        "spec": {"ports": [{"port": 80}]},
    });
    let stored = create(&kinds, service.clone()).unwrap();
    assert_eq!(stored["spec"]["ports"], json!([{"port": 80, "protocol": "TCP", "targetPort": 80}]));
    assert_eq!(
        (&stored["spec"]["type"], &stored["spec"]["clusterIP"]),
        (&json!("ClusterIP"), &json!("None"))
    );
    let mut two = service.clone();
    two["spec"]["ports"] = json!([{"port": 80, "name": "a"}, {"port": 81}]);
    assert_eq!(message(create(&kinds, two)), "Service \"s\" is invalid: spec.ports[1].name: Required value");
    let mut moved = stored.clone();
    moved["spec"]["clusterIP"] = "10.96.0.9".into();
    assert!(message(update(&kinds, moved, &stored)).contains("may not change once set"));
    update(&kinds, service, &stored).unwrap();
}

#[test]
fn claims_and_classes_keep_what_they_were_made_with() {
    let kinds = Kinds::new(kinds());
    let claim = json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "c", "namespace": "default"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    });
    let stored = create(&kinds, claim.clone()).unwrap();
    assert_eq!(
        (&stored["spec"]["volumeMode"], &stored["status"]["phase"]),
        (&json!("Filesystem"), &json!("Pending"))
    );
    let mut none = claim;
    none["spec"]["accessModes"] = json!([]);
    assert_eq!(
        message(create(&kinds, none)),
        "PersistentVolumeClaim \"c\" is invalid: spec.accessModes: Required value: at least 1 access mode is required"
    );
    let mut grown = stored.clone();
    grown["spec"]["resources"]["requests"]["storage"] = "2Gi".into();
    grown["spec"]["volumeName"] = "v".into();
    update(&kinds, grown, &stored).unwrap();
    let mut changed = stored.clone();
    changed["spec"]["accessModes"] = json!(["ReadWriteMany"]);
    assert!(
        message(update(&kinds, changed, &stored))
            .contains("spec: Forbidden: spec is immutable after creation")
    );

    let mut class = initial_objects().into_iter().find(|object| object["kind"] == "PriorityClass").unwrap();
    let old = class.clone();
    class["value"] = 1.into();
    assert!(
        message(update(&kinds, class, &old)).contains("value: Forbidden: may not be changed in an update.")
    );
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "l", "namespace": "default"},
        "spec": {"leaseDurationSeconds": -1},
    });
    assert_eq!(
        message(create(&kinds, lease)),
        "Lease.coordination.k8s.io \"l\" is invalid: spec.leaseDurationSeconds: Invalid value: -1: must be greater \
         than 0"
    );
}
