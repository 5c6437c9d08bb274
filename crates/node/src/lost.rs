//! Nodes that are gone, and the Pods that were bound to them.
//!
//! ```text
//!  every 10 s   other Nodes and their Leases ──► silent for 50 s? ──► Ready=Unknown
//!               Pods bound to others ──► is their Node gone, or Ready=Unknown? ──► Failed (NodeLost), and deleted
//! ```
//!
//! In a cluster kube-controller-manager does this (its node lifecycle controller and its Pod garbage collector). Here
//! this process is the only node there is, so others are what it was called before, and what somebody made by hand.
//! No kubelet will ever end their Pods, so they are deleted by force.
//!
//! Silence is measured with this process's own clock, from the last sign of life that it saw: neither a clock that jumps nor a daemon that
//! was away makes a node lost.

use std::collections::HashMap;
use std::time::Duration;

use events::{Event, Recorder, Source};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, ObjectReference, Pod};
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, Resource as _};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::register::LEASE_NAMESPACE;
use crate::schedule::has_ended;
use crate::{Settings, by_force, is_gone};

/// How often it is looked (`node-monitor-period` is 5 s, the Pod garbage collector's period 20 s).
const INTERVAL: Duration = Duration::from_secs(10);

/// A node that gives no sign of life for so long is lost (`node-monitor-grace-period`).
const PATIENCE: Duration = Duration::from_secs(50);

/// Who tells of nodes.
const CONTROLLER: Source<'static> = Source { component: "node-controller", host: "" };

/// Looks after what other nodes left, until dropped.
pub async fn run(client: kube::Client, settings: &Settings) {
    let mut others = Others {
        recorder: Recorder::new(client.clone()),
        client,
        own_name: settings.name.clone(),
        patience: PATIENCE,
        seen: HashMap::new(),
    };
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if let Err(error) = others.look().await {
            tracing::warn!(%error, "what other nodes left could not be looked after");
        }
    }
}

struct Others {
    client: kube::Client,
    recorder: Recorder,
    own_name: String,
    patience: Duration,
    /// The last sign of life of each node, and when it was first seen.
    seen: HashMap<String, (Option<Timestamp>, Instant)>,
}

impl Others {
    async fn look(&mut self) -> kube::Result<()> {
        let nodes = Api::<Node>::all(self.client.clone());
        let elsewhere = format!("metadata.name!={}", self.own_name);
        let mut others = nodes.list(&ListParams::default().fields(&elsewhere)).await?.items;
        self.seen.retain(|name, _| others.iter().any(|node| node.metadata.name.as_ref() == Some(name)));
        for node in &mut others {
            if !is_unknown(node) && self.is_silent(node).await? {
                *node = self.mark(node).await?;
            }
        }
        self.clear(&others).await
    }

    /// Whether the node has given no sign of life for too long.
    async fn is_silent(&mut self, node: &Node) -> kube::Result<bool> {
        let name = node.metadata.name.clone().unwrap_or_default();
        let leases = Api::<Lease>::namespaced(self.client.clone(), LEASE_NAMESPACE);
        let renewed = leases.get_opt(&name).await?.and_then(|lease| lease.spec?.renew_time).map(|at| at.0);
        let beat = ready(node).and_then(|ready| ready.last_heartbeat_time.as_ref()).map(|at| at.0);
        let sign = renewed.max(beat);
        let now = Instant::now();
        let (last, since) = self.seen.entry(name).or_insert((sign, now));
        if *last != sign {
            (*last, *since) = (sign, now);
        }
        Ok(now.duration_since(*since) >= self.patience)
    }

    /// Says of the Node that nothing is known of it.
    async fn mark(&self, node: &Node) -> kube::Result<Node> {
        let name = node.metadata.name.as_deref().unwrap_or_default();
        let now = format!("{:.0}", Timestamp::now());
        let patch = json!({"metadata": {"uid": node.metadata.uid}, "status": {"conditions": [{
            "type": "Ready", "status": "Unknown", "reason": "NodeStatusUnknown",
            "message": "Kubelet stopped posting node status.", "lastTransitionTime": now,
        }]}});
        let nodes = Api::<Node>::all(self.client.clone());
        let marked = nodes.patch_status(name, &PatchParams::default(), &Patch::Strategic(&patch)).await?;
        let about = ObjectReference { resource_version: None, ..node.object_ref(&()) };
        let message = format!("Node {name} status is now: NodeNotReady");
        self.recorder.record(CONTROLLER, &about, &Event::normal("NodeNotReady", message));
        tracing::warn!(
            object = name,
            uid = node.metadata.uid,
            "a node gives no sign of life; its Pods are removed"
        );
        Ok(marked)
    }

    /// Ends the Pods of nodes that are lost.
    async fn clear(&self, others: &[Node]) -> kube::Result<()> {
        let elsewhere = format!("spec.nodeName!=,spec.nodeName!={}", self.own_name);
        let pods = Api::<Pod>::all(self.client.clone());
        for pod in pods.list(&ListParams::default().fields(&elsewhere)).await? {
            let on = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default();
            let node = others.iter().find(|node| node.metadata.name.as_deref() == Some(on));
            if node.is_none_or(is_unknown) {
                self.end(&pod, on).await?;
            }
        }
        Ok(())
    }

    async fn end(&self, pod: &Pod, node: &str) -> kube::Result<()> {
        let meta = &pod.metadata;
        let name = meta.name.as_deref().unwrap_or_default();
        let pods: Api<Pod> =
            Api::namespaced(self.client.clone(), meta.namespace.as_deref().unwrap_or_default());
        // Others may have been faster.
        let unless_gone = |error| if is_gone(&error) { Ok(()) } else { Err(error) };
        if !has_ended(pod) {
            let patch = lost(pod, node, Timestamp::now());
            let written = pods.patch_status(name, &PatchParams::default(), &Patch::Strategic(&patch)).await;
            written.map(drop).or_else(unless_gone)?;
            tracing::warn!(
                object = crate::object(meta),
                uid = meta.uid,
                node,
                "a Pod was lost with its node"
            );
        }
        pods.delete(name, &by_force(meta.uid.clone())).await.map(drop).or_else(unless_gone)
    }
}

/// The status of a Pod whose node is lost, as a strategic merge patch: `NodeLost` of Kubernetes, with the condition of
/// its Pod garbage collector.
fn lost(pod: &Pod, node: &str, now: Timestamp) -> Value {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let now = format!("{now:.0}");
    json!({
        "metadata": {"uid": pod.metadata.uid},
        "status": {
            "phase": "Failed", "reason": "NodeLost",
            "message": format!("Node {node} which was running pod {name} is unresponsive"),
            "conditions": [
                {
                    "type": "DisruptionTarget", "status": "True", "reason": "DeletionByPodGC",
                    "message": "PodGC: node no longer exists", "lastTransitionTime": now,
                },
                {"type": "Ready", "status": "False", "reason": "NodeLost", "lastTransitionTime": now},
            ],
        },
    })
}

fn ready(node: &Node) -> Option<&k8s_openapi::api::core::v1::NodeCondition> {
    let conditions = node.status.as_ref()?.conditions.as_deref()?;
    conditions.iter().find(|condition| condition.type_ == "Ready")
}

fn is_unknown(node: &Node) -> bool {
    ready(node).is_some_and(|ready| ready.status == "Unknown")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use kube::api::PostParams;

    use super::*;
    use crate::test_server::{TestServer, eventually};

    struct World {
        server: TestServer,
        others: Others,
    }

    impl World {
        async fn new(patience: Duration) -> Self {
            let server = TestServer::start().await;
            let client = server.client();
            let recorder = Recorder::new(client.clone());
            let others =
                Others { client, recorder, own_name: "here".to_owned(), patience, seen: HashMap::new() };
            let world = Self { server, others };
            for name in ["here", "there"] {
                world.make::<Node>(json!({"metadata": {"name": name}})).await;
            }
            world
        }

        async fn make<K>(&self, object: Value)
        where
            K: kube::Resource<Scope = k8s_openapi::ClusterResourceScope, DynamicType = ()>
                + serde::de::DeserializeOwned
                + serde::Serialize
                + Clone
                + std::fmt::Debug,
        {
            let object: K = serde_json::from_value(object).unwrap();
            Api::<K>::all(self.server.client()).create(&PostParams::default(), &object).await.unwrap();
        }

        fn pods(&self) -> Api<Pod> {
            Api::namespaced(self.server.client(), "default")
        }

        async fn pod(&self, name: &str, node: &str) {
            let pod = json!({
                "metadata": {"name": name},
                "spec": {"nodeName": node, "containers": [{"name": "a", "image": "a"}]},
            });
            let pod: Pod = serde_json::from_value(pod).unwrap();
            self.pods().create(&PostParams::default(), &pod).await.unwrap();
        }

        async fn names(&self) -> Vec<String> {
            let pods = self.pods().list(&ListParams::default()).await.unwrap();
            pods.into_iter().filter_map(|pod| pod.metadata.name).collect()
        }

        async fn renew(&self, at: &str) {
            let leases: Api<Lease> = Api::namespaced(self.server.client(), LEASE_NAMESPACE);
            let lease = json!({"metadata": {"name": "there"}, "spec": {"renewTime": at}});
            match leases.get_opt("there").await.unwrap() {
                None => {
                    let lease: Lease = serde_json::from_value(lease).unwrap();
                    leases.create(&PostParams::default(), &lease).await.unwrap();
                }
                Some(_) => {
                    leases.patch("there", &PatchParams::default(), &Patch::Merge(&lease)).await.unwrap();
                }
            }
        }

        async fn node(&self) -> Node {
            Api::<Node>::all(self.server.client()).get("there").await.unwrap()
        }
    }

    #[tokio::test]
    async fn pods_of_a_node_that_does_not_exist_are_lost_and_no_others() {
        let mut world = World::new(PATIENCE).await;
        world.pod("kept", "here").await;
        world.pod("alive", "there").await;
        world.pod("orphan", "nowhere").await;
        let waits =
            json!({"metadata": {"name": "waits"}, "spec": {"containers": [{"name": "a", "image": "a"}]}});
        let waits: Pod = serde_json::from_value(waits).unwrap();
        world.pods().create(&PostParams::default(), &waits).await.unwrap();
        world.others.look().await.unwrap();
        assert_eq!(world.names().await, ["alive", "kept", "waits"]);
    }

    #[tokio::test]
    async fn a_node_is_lost_once_it_gives_no_sign_of_life() {
        let mut world = World::new(Duration::from_millis(300)).await;
        world.pod("a", "there").await;
        // Each sign counts, whatever time it says.
        let began = Instant::now();
        for (number, at) in ["2026-01-01T00:00:10.000000Z", "2026-01-01T00:00:00.000000Z"].iter().enumerate()
        {
            world.renew(at).await;
            world.others.look().await.unwrap();
            let until = Duration::from_millis(200) * u32::try_from(number + 1).unwrap();
            tokio::time::sleep(until.saturating_sub(began.elapsed())).await;
        }
        world.renew("2026-01-01T00:00:05.000000Z").await;
        world.others.look().await.unwrap();
        assert!(began.elapsed() >= Duration::from_millis(400) && !is_unknown(&world.node().await));
        assert_eq!(world.names().await, ["a"]);
        eventually(async || {
            world.others.look().await.unwrap();
            if world.names().await.is_empty() { Ok(()) } else { Err("the Pod is there".to_owned()) }
        })
        .await;
        let node = world.node().await;
        let found = ready(&node).unwrap();
        assert_eq!((found.status.as_str(), found.reason.as_deref()), ("Unknown", Some("NodeStatusUnknown")));
    }

    #[test]
    fn the_status_of_a_lost_pod_says_why() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "uid": "u"}})).unwrap();
        let patch = lost(&pod, "n", "2026-01-01T00:00:00Z".parse().unwrap());
        assert_eq!(patch["status"]["message"], "Node n which was running pod p is unresponsive");
        assert_eq!(patch["metadata"]["uid"], "u");
    }
}
