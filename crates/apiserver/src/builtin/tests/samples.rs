//! A full object of each kind, made with k8s-openapi's own types, passes its schema.

use k8s_openapi::api::{
    apps::v1::{ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet},
    autoscaling::v2::HorizontalPodAutoscaler,
    batch::v1::{CronJob, Job},
    coordination::v1::Lease,
    core::v1 as core_api,
    discovery::v1::EndpointSlice,
    networking::v1::{Ingress, IngressClass, NetworkPolicy},
    policy::v1::PodDisruptionBudget,
    rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding},
    scheduling::v1::PriorityClass,
    storage::v1::{CSIDriver, StorageClass},
};
use serde::{Serialize, de::DeserializeOwned};

use super::*;

/// The object as it is after a round through `T` (so that it is sure to be one), as a client would send it.
fn typed<T: Serialize + DeserializeOwned>(object: Value) -> Value {
    let typed: T = serde_json::from_value(object.clone()).unwrap();
    assert_eq!(serde_json::to_value(typed).unwrap(), object, "a field of the sample is not known");
    object
}

fn pod_spec() -> Value {
    json!({
        "containers": [{
            "name": "main", "image": "registry.example.com/app:1.2", "command": ["/bin/app"], "args": ["--go"],
            "ports": [{"containerPort": 80, "name": "http", "protocol": "TCP"}],
            "env": [
                {"name": "A", "value": "1"},
                {"name": "IP", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "status.podIP"}}},
            ],
            "resources": {"limits": {"cpu": "1", "memory": "64Mi"}, "requests": {"cpu": "100m"}},
            "volumeMounts": [{"name": "data", "mountPath": "/data"}],
            "livenessProbe": {"httpGet": {"path": "/", "port": "http"}, "periodSeconds": 5},
            "securityContext": {"capabilities": {"add": ["NET_ADMIN"]}, "privileged": false},
        }],
        "volumes": [{"name": "data", "emptyDir": {"sizeLimit": "1Gi"}}],
        "nodeSelector": {"a": "b"},
        "tolerations": [{"key": "k", "operator": "Exists", "effect": "NoSchedule"}],
        "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
            {"matchExpressions": [{"key": "a", "operator": "In", "values": ["b"]}]},
        ]}}},
    })
}

fn workload(kind: &str, more: Value) -> Value {
    let mut object = json!({
        "apiVersion": "apps/v1", "kind": kind, "metadata": {"name": "a", "namespace": "default"},
        "spec": {
            "selector": {"matchLabels": {"app": "a"}},
            "template": {"metadata": {"labels": {"app": "a"}}, "spec": pod_spec()},
        },
    });
    object["spec"].as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    object
}

fn plain(api_version: &str, kind: &str, namespaced: bool, rest: Value) -> Value {
    let mut object = json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": "a"}});
    if namespaced {
        object["metadata"]["namespace"] = "default".into();
    }
    object.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
    object
}

fn samples() -> Vec<Value> {
    let rules = json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]);
    let binding = |kind: &str| {
        json!({
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": "r"},
            "subjects": [{"kind": "ServiceAccount", "name": "s", "namespace": "default"}],
        })
    };
    let rbac = "rbac.authorization.k8s.io/v1";
    let template = json!({"metadata": {"labels": {"app": "a"}}, "spec": pod_spec()});
    let mut job_template = template.clone();
    job_template["spec"]["restartPolicy"] = "Never".into();
    vec![
        typed::<core_api::ConfigMap>(plain(
            "v1",
            "ConfigMap",
            true,
            json!({"data": {"k": "v"}, "binaryData": {"b": "AAA="}}),
        )),
        typed::<core_api::Endpoints>(plain(
            "v1",
            "Endpoints",
            true,
            json!({
                "subsets": [{"addresses": [{"ip": "10.0.0.1"}], "ports": [{"port": 80}]}],
            }),
        )),
        typed::<core_api::LimitRange>(plain(
            "v1",
            "LimitRange",
            true,
            json!({
                "spec": {"limits": [{"type": "Container", "default": {"cpu": "1"}}]},
            }),
        )),
        typed::<core_api::Namespace>(plain("v1", "Namespace", false, json!({}))),
        typed::<core_api::Node>(plain(
            "v1",
            "Node",
            false,
            json!({
                "spec": {"taints": [{"key": "k", "effect": "NoSchedule"}], "unschedulable": true},
                "status": {"addresses": [{"type": "InternalIP", "address": "10.0.0.1"}], "capacity": {"cpu": "2"},
                    "conditions": [{"type": "Ready", "status": "True"}]},
            }),
        )),
        typed::<core_api::PersistentVolumeClaim>(plain(
            "v1",
            "PersistentVolumeClaim",
            true,
            json!({
                "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
            }),
        )),
        typed::<core_api::PersistentVolume>(plain(
            "v1",
            "PersistentVolume",
            false,
            json!({
                "spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/x"}},
            }),
        )),
        typed::<core_api::Pod>(plain("v1", "Pod", true, json!({"spec": pod_spec()}))),
        typed::<core_api::PodTemplate>(plain("v1", "PodTemplate", true, json!({"template": template}))),
        typed::<core_api::ReplicationController>(plain(
            "v1",
            "ReplicationController",
            true,
            json!({
                "spec": {"replicas": 2, "selector": {"app": "a"}, "template": template},
            }),
        )),
        typed::<core_api::ResourceQuota>(plain(
            "v1",
            "ResourceQuota",
            true,
            json!({"spec": {"hard": {"pods": "3"}}}),
        )),
        typed::<core_api::Secret>(plain(
            "v1",
            "Secret",
            true,
            json!({"data": {"k": "dg=="}, "type": "Opaque"}),
        )),
        typed::<core_api::ServiceAccount>(plain(
            "v1",
            "ServiceAccount",
            true,
            json!({"secrets": [{"name": "s"}]}),
        )),
        typed::<core_api::Service>(plain(
            "v1",
            "Service",
            true,
            json!({
                "spec": {"ports": [{"port": 80, "targetPort": "http"}], "selector": {"app": "a"}},
            }),
        )),
        typed::<ControllerRevision>(plain(
            "apps/v1",
            "ControllerRevision",
            true,
            json!({"revision": 1, "data": {"spec": {"anything": [{"goes": true}]}}}),
        )),
        typed::<HorizontalPodAutoscaler>(plain(
            "autoscaling/v2",
            "HorizontalPodAutoscaler",
            true,
            json!({"spec": {
                "maxReplicas": 3, "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "a"},
            }}),
        )),
        typed::<CronJob>(plain(
            "batch/v1",
            "CronJob",
            true,
            json!({"spec": {"schedule": "* * * * *", "jobTemplate": {"spec": {"template": job_template}}}}),
        )),
        typed::<Ingress>(plain(
            "networking.k8s.io/v1",
            "Ingress",
            true,
            json!({"spec": {"rules": [{"host": "h", "http": {"paths": [{
                "path": "/", "pathType": "Prefix", "backend": {"service": {"name": "s", "port": {"number": 80}}},
            }]}}]}}),
        )),
        typed::<IngressClass>(plain(
            "networking.k8s.io/v1",
            "IngressClass",
            false,
            json!({"spec": {"controller": "example.com/c"}}),
        )),
        typed::<NetworkPolicy>(plain(
            "networking.k8s.io/v1",
            "NetworkPolicy",
            true,
            json!({"spec": {"podSelector": {"matchLabels": {"a": "b"}}, "ingress": [{"ports": [{"port": 80}]}]}}),
        )),
        typed::<DaemonSet>(workload("DaemonSet", json!({}))),
        typed::<Deployment>(workload("Deployment", json!({"replicas": 3}))),
        typed::<ReplicaSet>(workload("ReplicaSet", json!({"replicas": 3}))),
        typed::<StatefulSet>(workload("StatefulSet", json!({"serviceName": "a"}))),
        typed::<Job>(plain("batch/v1", "Job", true, json!({"spec": {"template": job_template}}))),
        typed::<PodDisruptionBudget>(plain(
            "policy/v1",
            "PodDisruptionBudget",
            true,
            json!({
                "spec": {"minAvailable": "50%", "selector": {"matchLabels": {"a": "b"}}},
            }),
        )),
        typed::<ClusterRole>(plain(rbac, "ClusterRole", false, json!({"rules": rules}))),
        typed::<Role>(plain(rbac, "Role", true, json!({"rules": rules}))),
        typed::<ClusterRoleBinding>(plain(rbac, "ClusterRoleBinding", false, binding("ClusterRole"))),
        typed::<RoleBinding>(plain(rbac, "RoleBinding", true, binding("Role"))),
        typed::<CSIDriver>(plain("storage.k8s.io/v1", "CSIDriver", false, json!({"spec": {}}))),
        typed::<StorageClass>(plain("storage.k8s.io/v1", "StorageClass", false, json!({"provisioner": "p"}))),
        typed::<PriorityClass>(plain("scheduling.k8s.io/v1", "PriorityClass", false, json!({"value": 5}))),
        typed::<Lease>(plain(
            "coordination.k8s.io/v1",
            "Lease",
            true,
            json!({
                "spec": {"holderIdentity": "h", "leaseDurationSeconds": 15, "renewTime": "2026-01-01T00:00:00.000000Z"},
            }),
        )),
        typed::<EndpointSlice>(plain(
            "discovery.k8s.io/v1",
            "EndpointSlice",
            true,
            json!({
                "addressType": "IPv4", "endpoints": [{"addresses": ["10.0.0.1"]}], "ports": [{"port": 80}],
            }),
        )),
    ]
}

#[test]
fn a_full_object_of_every_kind_passes() {
    let kinds = Kinds::new(kinds());
    let mut seen = BTreeSet::new();
    for sample in samples() {
        let name = sample["kind"].to_string();
        let group =
            sample["apiVersion"].as_str().unwrap().split_once('/').map_or("", |(group, _)| group).to_owned();
        let kind = kinds.kind(&group, sample["kind"].as_str().unwrap()).unwrap();
        seen.insert((group, kind.names.plural.clone()));
        let created = create(&kinds, sample).unwrap_or_else(|error| panic!("{error}"));
        let schema = kind.schema.schema();
        let mut pruned = created.clone();
        let unknown = schema.prune(&mut pruned);
        assert!(unknown.is_empty(), "{name}: {unknown:?}");
        assert_eq!(pruned, created);
        let faults = schema.validate(&created);
        assert!(faults.is_empty(), "{name}: {faults:?}");
        // Defaulting a second time changes nothing, and an unchanged object may be written back.
        let again = update(&kinds, created.clone(), &created).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(again, created, "{name}");
    }
    let missing: Vec<_> = kinds
        .iter()
        .filter(|kind| !seen.contains(&(kind.group.clone(), kind.names.plural.clone())))
        .map(|kind| kind.names.kind.as_str())
        .collect();
    assert_eq!(missing, ["Event", "Event", "CustomResourceDefinition"]);
}

#[test]
fn an_unknown_field_deep_inside_is_found() {
    let kinds = Kinds::new(kinds());
    let pods = kinds.resource("", "pods").unwrap();
    let mut pod = plain("v1", "Pod", true, json!({"spec": pod_spec()}));
    pod["spec"]["containers"][0]["nonsense"] = 1.into();
    assert_eq!(pods.schema.schema().prune(&mut pod), ["spec.containers[0].nonsense"]);
}
