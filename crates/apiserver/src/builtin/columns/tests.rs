#![allow(clippy::unwrap_used)]

use serde_json::json;

use super::*;
use crate::builtin;
use crate::kind::Kinds;

const NOW: &str = "2026-01-02T03:04:05Z";

/// Every cell of an object, as text; `-` where there is nothing.
fn row(group: &str, plural: &str, object: &Value) -> Vec<String> {
    let kinds = Kinds::new(builtin::kinds());
    let kind = kinds.resource(group, plural).unwrap();
    let now = NOW.parse().unwrap();
    let cell = |column: &Column| match column.cell {
        Cell::Function(function) => match function(object, now) {
            Some(Value::String(text)) => text,
            Some(other) => other.to_string(),
            None => "-".to_owned(),
        },
        Cell::JsonPath(path) => panic!("{path}"),
    };
    kind.columns.iter().map(cell).collect()
}

fn made(rest: Value) -> Value {
    let mut object =
        json!({"metadata": {"name": "a", "namespace": "n", "creationTimestamp": "2026-01-02T02:04:05Z"}});
    object.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
    object
}

fn pod_row(spec: Value, status: Value) -> (String, String, String) {
    let cells = row("", "pods", &made(json!({"spec": spec, "status": status})));
    (cells[0].clone(), cells[1].clone(), cells[2].clone())
}

fn expect(found: (String, String, String), ready: &str, status: &str, restarts: &str) {
    assert_eq!(found, (ready.to_owned(), status.to_owned(), restarts.to_owned()));
}

#[test]
fn the_status_of_a_pod_is_what_its_containers_say() {
    let one = json!({"containers": [{"name": "c"}]});
    let status = |container: Value| json!({"phase": "Running", "containerStatuses": [container]});
    expect(pod_row(one.clone(), json!({"phase": "Pending"})), "0/1", "Pending", "0");
    let running = json!({"name": "c", "ready": true, "restartCount": 2, "state": {"running": {}}});
    expect(pod_row(one.clone(), status(running.clone())), "1/1", "Running", "2");
    let mut restarted = running.clone();
    restarted["lastState"] = json!({"terminated": {"finishedAt": "2026-01-02T03:03:05Z"}});
    expect(pod_row(one.clone(), status(restarted)), "1/1", "Running", "2 (60s ago)");
    let waiting =
        json!({"name": "c", "restartCount": 5, "state": {"waiting": {"reason": "CrashLoopBackOff"}}});
    expect(pod_row(one.clone(), status(waiting)), "0/1", "CrashLoopBackOff", "5");
    for (terminated, shown) in [
        (json!({"reason": "Error", "exitCode": 1}), "Error"),
        (json!({"exitCode": 3}), "ExitCode:3"),
        (json!({"signal": 9, "exitCode": 137}), "Signal:9"),
    ] {
        let container = json!({"name": "c", "state": {"terminated": terminated}});
        expect(pod_row(one.clone(), status(container)), "0/1", shown, "0");
    }
    let evicted = json!({"phase": "Failed", "reason": "Evicted"});
    expect(pod_row(one, evicted), "0/1", "Evicted", "0");
    // One container is done while the other still runs.
    let two = json!({"containers": [{"name": "c"}, {"name": "d"}]});
    let done = json!({"name": "d", "state": {"terminated": {"reason": "Completed", "exitCode": 0}}});
    let both = json!({"phase": "Running", "containerStatuses": [done, running]});
    expect(pod_row(two, both), "1/2", "NotReady", "2");
}

#[test]
fn init_containers_show_how_far_they_are() {
    let spec = json!({"initContainers": [{"name": "i"}, {"name": "j"}], "containers": [{"name": "c"}]});
    let init = |statuses: Value| json!({"phase": "Pending", "initContainerStatuses": statuses});
    let done = json!({"name": "i", "state": {"terminated": {"exitCode": 0}}});
    let waiting = |reason: &str| json!({"name": "j", "state": {"waiting": {"reason": reason}}});
    expect(pod_row(spec.clone(), init(json!([done, waiting("PodInitializing")]))), "0/1", "Init:1/2", "0");
    expect(
        pod_row(spec.clone(), init(json!([done, waiting("ErrImagePull")]))),
        "0/1",
        "Init:ErrImagePull",
        "0",
    );
    let failed = json!({"name": "i", "restartCount": 1, "state": {"terminated": {"exitCode": 7}}});
    expect(pod_row(spec, init(json!([failed]))), "0/1", "Init:ExitCode:7", "1");
    let sidecar = json!({
        "initContainers": [{"name": "i", "restartPolicy": "Always"}], "containers": [{"name": "c"}],
    });
    let status = json!({
        "phase": "Running",
        "initContainerStatuses": [{"name": "i", "started": true, "ready": true, "restartCount": 1, "state": {"running": {}}}],
        "containerStatuses": [{"name": "c", "ready": true, "state": {"running": {}}}],
    });
    expect(pod_row(sidecar, status), "2/2", "Running", "1");
}

#[test]
fn a_pod_on_its_way_out_is_terminating() {
    let mut pod =
        made(json!({"status": {"phase": "Running", "podIP": "10.0.0.1"}, "spec": {"nodeName": "n1"}}));
    pod["metadata"]["deletionTimestamp"] = NOW.into();
    assert_eq!(row("", "pods", &pod), ["0/0", "Terminating", "0", "60m", "10.0.0.1", "n1", "-", "-"]);
    pod["status"]["phase"] = "Succeeded".into();
    assert_eq!(row("", "pods", &pod)[1], "Succeeded");
}

#[test]
fn nodes_say_whether_they_are_ready() {
    let mut node = made(json!({
        "spec": {"unschedulable": true},
        "status": {
            "conditions": [{"type": "Ready", "status": "True"}],
            "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}],
            "nodeInfo": {"kubeletVersion": "v1.33.0", "osImage": "Linux", "kernelVersion": "6.1"},
        },
    }));
    node["metadata"]["labels"] =
        json!({"node-role.kubernetes.io/control-plane": "", "kubernetes.io/role": "worker"});
    assert_eq!(
        row("", "nodes", &node),
        [
            "Ready,SchedulingDisabled",
            "control-plane,worker",
            "60m",
            "v1.33.0",
            "10.0.0.1",
            "-",
            "Linux",
            "6.1",
            "<unknown>",
        ]
    );
    assert_eq!(row("", "nodes", &made(json!({})))[..2], ["Unknown", "-"]);
}

#[test]
fn the_other_tables_show_what_kubectl_shows() {
    let template =
        json!({"spec": {"containers": [{"name": "c", "image": "x"}, {"name": "d", "image": "y"}]}});
    let labels = json!({"matchLabels": {"app": "a"}, "matchExpressions": [{"key": "b", "operator": "In", "values": ["2", "1"]}]});
    let deployment = made(json!({
        "spec": {"replicas": 3, "selector": labels, "template": template},
        "status": {"readyReplicas": 1, "updatedReplicas": 2, "availableReplicas": 1},
    }));
    assert_eq!(
        row("apps", "deployments", &deployment),
        ["1/3", "2", "1", "60m", "c,d", "x,y", "app=a,b in (1,2)"]
    );
    let service = made(json!({"spec": {
        "type": "ClusterIP", "clusterIP": "None", "ports": [{"port": 80}, {"port": 53, "protocol": "UDP", "nodePort": 30053}],
    }}));
    assert_eq!(row("", "services", &service), ["ClusterIP", "None", "-", "80/TCP,53:30053/UDP", "60m", "-"]);
    assert_eq!(
        row("", "secrets", &made(json!({"type": "Opaque", "data": {"a": ""}}))),
        ["Opaque", "1", "60m"]
    );
    assert_eq!(
        row("", "configmaps", &made(json!({"data": {"a": ""}, "binaryData": {"b": ""}}))),
        ["2", "60m"]
    );
    assert_eq!(row("", "namespaces", &made(json!({"status": {"phase": "Active"}}))), ["Active", "60m"]);
    assert_eq!(row("", "serviceaccounts", &made(json!({}))), ["0", "60m"]);
    assert_eq!(
        row("coordination.k8s.io", "leases", &made(json!({"spec": {"holderIdentity": "h"}}))),
        ["h", "60m"]
    );
    let mut class = made(json!({
        "provisioner": "p", "reclaimPolicy": "Delete", "volumeBindingMode": "WaitForFirstConsumer",
    }));
    class["metadata"]["annotations"] = json!({"storageclass.kubernetes.io/is-default-class": "true"});
    assert_eq!(
        row("storage.k8s.io", "storageclasses", &class),
        ["a (default)", "p", "Delete", "WaitForFirstConsumer", "false", "60m"]
    );
    let claim = made(json!({
        "spec": {"volumeName": "v", "storageClassName": "local", "volumeMode": "Block"},
        "status": {"phase": "Bound", "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteMany", "ReadWriteOnce"]},
    }));
    assert_eq!(
        row("", "persistentvolumeclaims", &claim),
        ["Bound", "v", "1Gi", "RWO,RWX", "local", "<unset>", "60m", "Block"]
    );
    let binding = made(json!({
        "roleRef": {"kind": "Role", "name": "r"},
        "subjects": [{"kind": "User", "name": "u"}, {"kind": "ServiceAccount", "namespace": "n", "name": "s"}],
    }));
    assert_eq!(row("rbac.authorization.k8s.io", "rolebindings", &binding), ["Role/r", "60m", "u", "", "n/s"]);
}

#[test]
fn an_event_has_the_same_row_in_both_groups() {
    let mut event = made(json!({
        "involvedObject": {"kind": "Pod", "name": "p"}, "reason": "Started", "message": "It runs\n", "type": "Normal",
        "source": {"component": "kubelet", "host": "n1"}, "firstTimestamp": "2026-01-02T03:03:05Z",
        "lastTimestamp": "2026-01-02T03:04:00Z", "count": 4,
    }));
    let expected = ["5s", "Normal", "Started", "pod/p", "", "kubelet, n1", "It runs", "60s", "4", "a"];
    assert_eq!(row("", "events", &event), expected);
    builtin::event::from_core(&mut event);
    assert_eq!(row("events.k8s.io", "events", &event), expected);
}

#[test]
fn events_and_storage_classes_name_themselves() {
    let kinds = Kinds::new(builtin::kinds());
    let heading = |group: &str, plural: &str| {
        let kind = kinds.resource(group, plural).unwrap();
        let metadata = Map::new();
        let include = crate::table::IncludeObject::None;
        let table =
            crate::table::table(kind, &[made(json!({}))], &metadata, NOW.parse().unwrap(), include, true);
        let columns = table["columnDefinitions"].as_array().unwrap().len();
        assert_eq!(table["rows"][0]["cells"].as_array().unwrap().len(), columns);
        table["columnDefinitions"][0]["name"].clone()
    };
    assert_eq!(heading("", "events"), "Last Seen");
    assert_eq!(heading("storage.k8s.io", "storageclasses"), "Name");
    assert_eq!(heading("", "pods"), "Name");
}
