//! The Node object, its conditions and its Lease.
//!
//! ```text
//!  every 10 s   measure ──► differs from the Node, or 5 min old? ──► status
//!                      └──► our labels differ, or heartbeat 1 min old? ──► labels and annotation
//!                      └──► Lease in kube-node-lease
//! ```
//!
//! The Node is made where it is missing, also when somebody deletes it. Labels, annotations, taints and
//! `spec.unschedulable` of others are kept: only what is ours is ever written.
//!
//! # What is offered
//! Memory: all of the host's less a reserve for the host and this program, of 5 %, but at least 256 MiB and at most
//! 2 GiB. Cores: all. Ephemeral storage: 90 % of the file system of the state. Pods: `MOST_PODS`.

mod facts;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, NodeCondition};
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use manifest::{Quantity, forms};
use serde_json::{Value, json};

use crate::{NodeError, Settings, files};
pub use facts::{Disk, Facts};

/// Kubernetes whose kubelet this node stands in for: that of the types it is built with.
const KUBERNETES_VERSION: &str = "v1.33.0";

/// The Lease is renewed and the machine measured in this time (a kubelet's `nodeStatusUpdateFrequency`, and a quarter
/// of `nodeLeaseDurationSeconds`).
const INTERVAL: Duration = Duration::from_secs(10);

/// How long a Lease holds, in seconds (`nodeLeaseDurationSeconds`).
const LEASE_SECONDS: i32 = 40;

/// A status that does not change is written again after this time (`nodeStatusReportFrequency`).
const STATUS_INTERVAL: Duration = Duration::from_secs(300);

/// A heartbeat is written after this time, as virt-handler does.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(60);

/// Where the Leases of nodes are.
pub(crate) const LEASE_NAMESPACE: &str = "kube-node-lease";

/// virt-handler's sign of life; RFC 3339.
const HEARTBEAT: &str = "kubevirt.io/heartbeat";

/// More than a kubelet's 110: launchers are small, and memory ends first. Half of it is measured (`cargo bench`).
const MOST_PODS: u64 = 2000;

/// Longest name of an object, and a line feed.
const MOST_NAME_BYTES: u64 = 254;

/// Less available memory than this is pressure (`evictionHard` of a kubelet: `memory.available<100Mi`).
const PRESSING_MEMORY_BYTES: u64 = 100 << 20;

/// The Node's name: `wanted`, else the one it had, else `host_name`. It is kept in `STATE/name`: Pods are bound to it, and
/// a host that is called otherwise one day is still the one on which they run.
///
/// # Errors
/// When the file cannot be read or written.
pub fn kept_name(
    state_dir: &Path,
    wanted: Option<&str>,
    host_name: impl FnOnce() -> String,
) -> Result<String, NodeError> {
    let path = state_dir.join("name");
    let failed = |source| NodeError::Files { path: path.clone(), source };
    let kept = files::read_start(&path, MOST_NAME_BYTES).map_err(failed)?;
    let kept =
        kept.map(|bytes| String::from_utf8_lossy(&bytes).trim().to_owned()).filter(|name| !name.is_empty());
    let name = wanted.map(str::to_owned).or_else(|| kept.clone()).unwrap_or_else(host_name);
    if kept.as_ref() != Some(&name) {
        files::write_private(&path, format!("{name}\n").as_bytes()).map_err(failed)?;
    }
    Ok(name)
}

/// Registers the node and keeps its Lease, until dropped.
pub async fn run(client: kube::Client, settings: &Settings) {
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let (state_dir, address) = (settings.state_dir.clone(), settings.address);
        let Ok(facts) = tokio::task::spawn_blocking(move || Facts::measure(&state_dir, address)).await else {
            // The node ends: either all does, or measuring panicked, which has been told.
            return;
        };
        let now = Timestamp::now();
        if let Err(error) = update_node(&client, &settings.name, &facts, now).await {
            tracing::warn!(%error, object = settings.name, "the Node could not be written");
        }
        if let Err(error) = renew_lease(&client, &settings.name, now).await {
            tracing::warn!(%error, object = settings.name, "the node's Lease could not be renewed");
        }
    }
}

async fn update_node(client: &kube::Client, name: &str, facts: &Facts, now: Timestamp) -> kube::Result<()> {
    let nodes: Api<Node> = Api::all(client.clone());
    let node = match nodes.get_opt(name).await? {
        Some(node) => node,
        None => {
            let new = metadata_patch(name, facts, &Node::default(), now).unwrap_or_default();
            let mut new: Node = serde_json::from_value(new).map_err(kube::Error::SerdeError)?;
            new.metadata.name = Some(name.to_owned());
            nodes.create(&PostParams::default(), &new).await?
        }
    };
    if let Some(patch) = metadata_patch(name, facts, &node, now) {
        nodes.patch_metadata(name, &PatchParams::default(), &Patch::Merge(&patch)).await?;
    }
    if let Some(patch) = status_patch(name, facts, &node, now) {
        nodes.patch_status(name, &PatchParams::default(), &Patch::Merge(&patch)).await?;
    }
    Ok(())
}

/// Labels that are ours. CPU models are left out: what a guest can be given depends on the accelerator.
fn labels(name: &str, facts: &Facts) -> BTreeMap<&'static str, String> {
    BTreeMap::from([
        ("beta.kubernetes.io/arch", facts.architecture.to_owned()),
        ("beta.kubernetes.io/os", "linux".to_owned()),
        ("kubernetes.io/arch", facts.architecture.to_owned()),
        ("kubernetes.io/hostname", name.to_owned()),
        ("kubernetes.io/os", "linux".to_owned()),
        ("kubevirt.io/schedulable", "true".to_owned()),
        ("node-role.kubernetes.io/control-plane", String::new()),
    ])
}

/// What is to be written to the Node's labels and annotations now, if anything.
fn metadata_patch(name: &str, facts: &Facts, node: &Node, now: Timestamp) -> Option<Value> {
    let labels = labels(name, facts);
    let found = node.metadata.labels.clone().unwrap_or_default();
    let are_there = labels.iter().all(|(key, value)| found.get(*key) == Some(value));
    let heartbeat = node.metadata.annotations.as_ref().and_then(|annotations| annotations.get(HEARTBEAT));
    let heartbeat = heartbeat.and_then(|text| text.parse::<Timestamp>().ok());
    let is_fresh = heartbeat.is_some_and(|at| !is_past(at, HEARTBEAT_INTERVAL, now));
    if are_there && is_fresh {
        return None;
    }
    Some(json!({"metadata": {"labels": labels, "annotations": {HEARTBEAT: seconds(now)}}}))
}

/// What is to be written to the Node's status now, if anything.
fn status_patch(name: &str, facts: &Facts, node: &Node, now: Timestamp) -> Option<Value> {
    let status = node.status.clone().unwrap_or_default();
    let before = status.conditions.clone().unwrap_or_default();
    let written = before.iter().find(|condition| condition.type_ == "Ready");
    let written = written.and_then(|condition| condition.last_heartbeat_time.as_ref()).map(|time| time.0);
    let conditions: Vec<Value> = conditions(facts).iter().map(|new| new.to_json(&before, now)).collect();
    // Written as the API server stores them, or they would differ every time.
    let amounts = |memory_bytes: u64, storage_kib: u64| {
        json!({
            "cpu": Quantity::from_units(facts.cores), "memory": Quantity::from_bytes(memory_bytes / 1024 * 1024),
            "ephemeral-storage": Quantity::from_bytes(storage_kib * 1024), "pods": Quantity::from_units(MOST_PODS),
        })
    };
    let storage_kib = facts.disk.total_bytes / 1024;
    let free_bytes = facts.memory_bytes.saturating_sub(reserved_bytes(facts.memory_bytes));
    let new = json!({
        "capacity": amounts(facts.memory_bytes, storage_kib),
        "allocatable": amounts(free_bytes, storage_kib / 10 * 9),
        "conditions": conditions,
        "addresses": [
            {"type": "InternalIP", "address": facts.address},
            {"type": "Hostname", "address": name},
        ],
        "nodeInfo": {
            "machineID": facts.machine_id, "systemUUID": facts.system_uuid, "bootID": facts.boot_id,
            "kernelVersion": facts.kernel, "osImage": facts.os_image,
            "containerRuntimeVersion": concat!("ferrovirt://", env!("CARGO_PKG_VERSION")),
            "kubeletVersion": format!(concat!("{}+ferrovirt.", env!("CARGO_PKG_VERSION")), KUBERNETES_VERSION),
            "kubeProxyVersion": "", "operatingSystem": "linux", "architecture": facts.architecture,
        },
    });
    // It can be written: it has no keys but texts.
    let found = forms::to_value(&status).unwrap_or_default();
    let is_news = !is_within(&without_heartbeats(new.clone()), &without_heartbeats(found));
    let is_old = written.is_none_or(|at| is_past(at, STATUS_INTERVAL, now));
    (is_news || is_old).then(|| json!({"status": new}))
}

/// Memory that is not for guests.
fn reserved_bytes(memory_bytes: u64) -> u64 {
    (memory_bytes / 20).clamp(256 << 20, 2 << 30)
}

/// A condition as it is to be.
struct Condition {
    type_: &'static str,
    status: bool,
    reason: &'static str,
    message: &'static str,
}

impl Condition {
    fn to_json(&self, before: &[NodeCondition], now: Timestamp) -> Value {
        let status = if self.status { "True" } else { "False" };
        let same = before.iter().find(|old| old.type_ == self.type_ && old.status == status);
        let since = same.and_then(|old| old.last_transition_time.as_ref()).map_or(now, |time| time.0);
        json!({
            "type": self.type_, "status": status, "reason": self.reason, "message": self.message,
            "lastHeartbeatTime": seconds(now), "lastTransitionTime": seconds(since),
        })
    }
}

/// A kubelet's conditions in its words, with the thresholds of its `evictionHard`.
fn conditions(facts: &Facts) -> [Condition; 4] {
    let disk = &facts.disk;
    let is_below =
        |free: u64, total: u64, percent: u64| free.saturating_mul(100) < total.saturating_mul(percent);
    let memory = facts.available_memory_bytes < PRESSING_MEMORY_BYTES;
    let storage =
        is_below(disk.free_bytes, disk.total_bytes, 10) || is_below(disk.free_inodes, disk.total_inodes, 5);
    // A kubelet has no threshold of its own here; this is where new processes begin to fail.
    let tasks = is_below(facts.most_tasks.saturating_sub(facts.tasks), facts.most_tasks, 5);
    [
        match memory {
            true => Condition {
                type_: "MemoryPressure",
                status: true,
                reason: "KubeletHasInsufficientMemory",
                message: "kubelet has insufficient memory available",
            },
            false => Condition {
                type_: "MemoryPressure",
                status: false,
                reason: "KubeletHasSufficientMemory",
                message: "kubelet has sufficient memory available",
            },
        },
        match storage {
            true => Condition {
                type_: "DiskPressure",
                status: true,
                reason: "KubeletHasDiskPressure",
                message: "kubelet has disk pressure",
            },
            false => Condition {
                type_: "DiskPressure",
                status: false,
                reason: "KubeletHasNoDiskPressure",
                message: "kubelet has no disk pressure",
            },
        },
        match tasks {
            true => Condition {
                type_: "PIDPressure",
                status: true,
                reason: "KubeletHasInsufficientPID",
                message: "kubelet has insufficient PID available",
            },
            false => Condition {
                type_: "PIDPressure",
                status: false,
                reason: "KubeletHasSufficientPID",
                message: "kubelet has sufficient PID available",
            },
        },
        Condition {
            type_: "Ready",
            status: true,
            reason: "KubeletReady",
            message: "kubelet is posting ready status",
        },
    ]
}

fn without_heartbeats(mut status: Value) -> Value {
    for condition in status["conditions"].as_array_mut().into_iter().flatten() {
        if let Some(condition) = condition.as_object_mut() {
            condition.remove("lastHeartbeatTime");
        }
    }
    status
}

/// Whether a merge patch with `new` would change nothing of `found`.
fn is_within(new: &Value, found: &Value) -> bool {
    match (new, found) {
        (Value::Object(new), Value::Object(found)) => {
            new.iter().all(|(key, value)| found.get(key).is_some_and(|found| is_within(value, found)))
        }
        _ => new == found,
    }
}

/// Whether `interval` has passed since `at`, or the clock was set back.
fn is_past(at: Timestamp, interval: Duration, now: Timestamp) -> bool {
    let age = now.duration_since(at);
    age.is_negative() || age.unsigned_abs() >= interval
}

/// As `metav1.Time` writes it.
fn seconds(at: Timestamp) -> String {
    format!("{at:.0}")
}

/// Renews the Lease, or makes it where it is missing; its namespace is there in any cluster.
async fn renew_lease(client: &kube::Client, name: &str, now: Timestamp) -> kube::Result<()> {
    use k8s_openapi::api::coordination::v1::Lease;

    let leases: Api<Lease> = Api::namespaced(client.clone(), LEASE_NAMESPACE);
    let spec = json!({
        "holderIdentity": name, "leaseDurationSeconds": LEASE_SECONDS, "renewTime": format!("{now:.6}"),
    });
    let patch = Patch::Merge(json!({"spec": spec}));
    match leases.patch(name, &PatchParams::default(), &patch).await {
        Err(kube::Error::Api(status)) if status.code == 404 => {}
        other => return other.map(drop),
    }
    let node = Api::<Node>::all(client.clone()).get_opt(name).await?;
    // Without a Node to go with, the Lease would stay for ever.
    let owners: Vec<Value> = node
        .and_then(|node| node.metadata.uid)
        .map(|uid| json!({"apiVersion": "v1", "kind": "Node", "name": name, "uid": uid}))
        .into_iter()
        .collect();
    let lease = json!({"metadata": {"name": name, "ownerReferences": owners}, "spec": spec});
    let lease = serde_json::from_value(lease).map_err(kube::Error::SerdeError)?;
    leases.create(&PostParams::default(), &lease).await.map(drop)
}

#[cfg(test)]
mod tests;
