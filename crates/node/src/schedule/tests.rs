#![allow(clippy::unwrap_used)]

use k8s_openapi::api::core::v1::Event as CoreEvent;
use kube::api::{DeleteParams, ListParams};
use serde_json::Value;

use super::*;
use crate::test_server::{TestServer, eventually};

async fn create_node(client: &kube::Client) {
    let nodes: Api<Node> = Api::all(client.clone());
    let node = json!({"metadata": {"name": "here", "labels": {"zone": "a"}}});
    nodes.create(&PostParams::default(), &serde_json::from_value(node).unwrap()).await.unwrap();
    let status = json!({"status": {"allocatable": {"cpu": "4", "memory": "4Gi", "pods": "10"}}});
    nodes.patch_status("here", &PatchParams::default(), &Patch::Merge(&status)).await.unwrap();
}

async fn create_pod(client: &kube::Client, name: &str, memory: &str, more: Value) {
    let mut spec = json!({
        "containers": [{"name": "compute", "image": "i", "resources": {"requests": {"memory": memory}}}],
    });
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let pod = json!({"metadata": {"name": name}, "spec": spec});
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    pods.create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await.unwrap();
}

/// Where the Pod is, or what its condition says.
async fn place(client: &kube::Client, name: &str) -> String {
    let pod = Api::<Pod>::default_namespaced(client.clone()).get(name).await.unwrap();
    let conditions = pod.status.and_then(|status| status.conditions).unwrap_or_default();
    let scheduled = conditions.into_iter().find(|condition| condition.type_ == "PodScheduled");
    let said = scheduled.map(|condition| (condition.status, condition.message.unwrap_or_default()));
    match (pod.spec.unwrap().node_name, said) {
        (Some(node), Some((status, _))) if status == "True" => format!("on {node}"),
        (None, Some((_, message))) => message,
        other => format!("{other:?}"),
    }
}

async fn until(client: &kube::Client, name: &str, expected: &str) {
    eventually(async || match place(client, name).await {
        place if place == expected => Ok(()),
        place => Err(place),
    })
    .await;
}

/// Reasons and messages of the events about a Pod, with how often each was seen.
async fn events(client: &kube::Client, name: &str) -> Vec<(String, String, i32)> {
    let events: Api<CoreEvent> = Api::default_namespaced(client.clone());
    let about = ListParams::default().fields(&format!("involvedObject.name={name}"));
    let mut found: Vec<_> = events
        .list(&about)
        .await
        .unwrap()
        .into_iter()
        .map(|event| (event.reason.unwrap(), event.message.unwrap(), event.count.unwrap()))
        .collect();
    found.sort();
    found
}

#[tokio::test]
async fn pods_are_bound_while_they_fit_and_wait_with_a_reason_otherwise() {
    let server = TestServer::start().await;
    let client = server.client();
    // Pods before there is a node, and before there is a scheduler.
    create_pod(&client, "a", "3Gi", json!({})).await;
    let run = || {
        let recorder = Recorder::new(client.clone());
        let scheduler = Scheduler {
            client: client.clone(),
            recorder,
            node_name: "here".to_owned(),
            state: State::default(),
        };
        tokio::spawn(scheduler.run())
    };
    let running = run();
    until(&client, "a", "no nodes available to schedule pods").await;
    create_node(&client).await;
    until(&client, "a", "on here").await;

    let too_large = "0/1 nodes are available: 1 Insufficient memory (requested 2Gi, 1Gi of 4Gi free).";
    create_pod(&client, "b", "2Gi", json!({})).await;
    until(&client, "b", too_large).await;
    // A small one passes the large one by.
    create_pod(&client, "c", "1Gi", json!({"nodeSelector": {"zone": "a"}})).await;
    until(&client, "c", "on here").await;
    let full = "0/1 nodes are available: 1 Insufficient memory (requested 2Gi, 0 of 4Gi free).";
    until(&client, "b", full).await;
    create_pod(&client, "d", "1Mi", json!({"nodeSelector": {"zone": "b"}})).await;
    let elsewhere = "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector.";
    until(&client, "d", elsewhere).await;
    // Somebody else's Pods are let be; a Pod that is judged after them proves it.
    create_pod(&client, "other", "1Mi", json!({"schedulerName": "mine"})).await;

    // A new scheduler knows what is taken and repeats nothing.
    running.abort();
    let _second = run();
    create_pod(&client, "e", "2Gi", json!({})).await;
    until(&client, "e", full).await;
    assert_eq!(place(&client, "other").await, "(None, None)");

    // A Pod that ended takes nothing; the older of those that wait comes first.
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    let ended = json!({"status": {"phase": "Succeeded"}});
    pods.patch_status("a", &PatchParams::default(), &Patch::Merge(&ended)).await.unwrap();
    until(&client, "b", "on here").await;
    until(&client, "e", too_large).await;
    // The Node's labels change.
    let nodes: Api<Node> = Api::all(client.clone());
    let label = json!({"metadata": {"labels": {"zone": "b"}}});
    nodes.patch("here", &PatchParams::default(), &Patch::Merge(&label)).await.unwrap();
    until(&client, "d", "on here").await;
    pods.delete("b", &DeleteParams::default().grace_period(0)).await.unwrap();
    until(&client, "e", "on here").await;

    let said = |reason: &str, message: &str| (reason.to_owned(), message.to_owned(), 1);
    eventually(async || match events(&client, "e").await {
        found if found.len() == 2 => Ok(()),
        found => Err(format!("{found:?}")),
    })
    .await;
    assert_eq!(events(&client, "e").await[0], said("FailedScheduling", full));
    assert_eq!(
        events(&client, "a").await,
        [
            said("FailedScheduling", "no nodes available to schedule pods"),
            said("Scheduled", "Successfully assigned default/a to here"),
        ]
    );
    assert_eq!(
        events(&client, "b").await,
        [said("FailedScheduling", too_large), said("Scheduled", "Successfully assigned default/b to here"),]
    );
}
