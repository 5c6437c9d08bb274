//! The group `metrics.k8s.io`: what Pods and the node use, for `kubectl top` and whoever else asks Kubernetes' metrics
//! server. Nothing of it is stored; it is read when it is asked for.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, OnceLock};

use apiserver::kind::{Cell, Column, Compute, Generation, Kind, Names, SchemaSource, Scope};
use apiserver::object::format_time;
use apiserver::rbac::aggregate_label;
use apiserver::server::Objects;
use apiserver::status::ApiError;
use futures::FutureExt as _;
use node::usage::{Meter, Reading, Used};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::metrics::{Metadata, read};

const GROUP: &str = "metrics.k8s.io";
const VERSION: &str = "v1beta1";
/// Where the definitions of the group's kinds stand in OpenAPI.
const PACKAGE: &str = "io.k8s.metrics.pkg.apis.metrics.v1beta1";

/// What is told of.
#[derive(Debug, Clone)]
pub struct Source {
    /// What reads it.
    pub meter: Meter,
    /// Set when the server has been started.
    pub objects: Arc<OnceLock<Objects>>,
    /// Name of this machine's Node.
    pub node_name: String,
}

/// `NodeMetrics` and `PodMetrics`.
pub fn kinds(source: Source) -> [Kind; 2] {
    let nodes = source.clone();
    let nodes: Arc<Compute> = Arc::new(move || nodes.clone().nodes().boxed());
    let pods: Arc<Compute> = Arc::new(move || source.clone().pods().boxed());
    [
        kind("NodeMetrics", "nodes", Scope::Cluster, nodes, [".usage.cpu", ".usage.memory"]),
        kind(
            "PodMetrics",
            "pods",
            Scope::Namespaced,
            pods,
            [".containers[0].usage.cpu", ".containers[0].usage.memory"],
        ),
    ]
}

fn kind(
    name: &'static str,
    plural: &str,
    scope: Scope,
    computed: Arc<Compute>,
    [cpu, memory]: [&'static str; 2],
) -> Kind {
    // As the metrics server has it: `pod` and `node` are others' names.
    let names = Names { singular: String::new(), ..Names::new(name, plural) };
    let schema = SchemaSource::new(format!("{PACKAGE}.{name}"), move || components(name));
    let column = |name, path| Column {
        name,
        column_type: "string",
        description: "",
        priority: 0,
        cell: Cell::JsonPath(path),
    };
    Kind {
        generation: Generation::Unset,
        verbs: vec!["get", "list"],
        columns: vec![column("cpu", cpu), column("memory", memory), column("Window", ".window")],
        computed: Some(computed),
        ..Kind::new(GROUP, &[VERSION], names, scope, schema)
    }
}

fn components(kind: &str) -> Map<String, Value> {
    let text = json!({"type": "string"});
    let usage = json!({"type": "object", "additionalProperties": text});
    let mut fields = json!({
        "apiVersion": text, "kind": text, "metadata": {"type": "object"},
        "timestamp": {"type": "string", "format": "date-time"}, "window": text,
    });
    match kind {
        "PodMetrics" => {
            let container = json!({"type": "object", "properties": {"name": text, "usage": usage}});
            fields["containers"] = json!({"type": "array", "items": container});
        }
        _ => fields["usage"] = usage,
    }
    let mut components = Map::new();
    components.insert(format!("{PACKAGE}.{kind}"), json!({"type": "object", "properties": fields}));
    components
}

/// An object, as far as it is told of.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Labelled {
    metadata: Metadata,
}

impl Source {
    async fn nodes(self) -> Result<Vec<Value>, ApiError> {
        let reading = self.read().await?;
        let mut nodes = self.labelled("nodes").into_iter();
        let node = nodes.find(|node| node.metadata.name == self.node_name);
        Ok(node.map(|node| self::node(&node, &reading, jiff::Timestamp::now())).into_iter().collect())
    }

    async fn pods(self) -> Result<Vec<Value>, ApiError> {
        let reading = self.read().await?;
        Ok(pods(&self.labelled("pods"), &reading, jiff::Timestamp::now()))
    }

    async fn read(&self) -> Result<Reading, ApiError> {
        self.meter.read().await.map_err(|error| {
            tracing::warn!(%error, "what Pods and the node use cannot be told");
            ApiError::internal("what Pods and the node use cannot be read")
        })
    }

    fn labelled(&self, plural: &str) -> Vec<Labelled> {
        self.objects.get().into_iter().flat_map(|objects| read(objects, "", plural)).collect()
    }
}

fn node(node: &Labelled, reading: &Reading, now: jiff::Timestamp) -> Value {
    let mut object = object("NodeMetrics", &node.metadata, reading, now);
    object["usage"] = usage(reading.node);
    object
}

/// Those Pods that are read of and still there.
fn pods(pods: &[Labelled], reading: &Reading, now: jiff::Timestamp) -> Vec<Value> {
    let used: HashMap<_, _> =
        reading.pods.iter().map(|pod| ((&*pod.namespace, &*pod.name), pod.used)).collect();
    let of = |pod: &Labelled| {
        let used = used.get(&(&*pod.metadata.namespace, &*pod.metadata.name))?;
        let mut object = object("PodMetrics", &pod.metadata, reading, now);
        object["containers"] = json!([{"name": "compute", "usage": usage(*used)}]);
        Some(object)
    };
    pods.iter().filter_map(of).collect()
}

/// An object without what is used.
fn object(kind: &str, of: &Metadata, reading: &Reading, now: jiff::Timestamp) -> Value {
    let now = format_time(now);
    let mut metadata = json!({"name": of.name});
    if !of.namespace.is_empty() {
        metadata["namespace"] = of.namespace.as_str().into();
    }
    metadata["creationTimestamp"] = now.as_str().into();
    if !of.labels.is_empty() {
        metadata["labels"] = json!(of.labels);
    }
    let window = format!("{:.3}s", reading.window.as_secs_f64());
    json!({
        "apiVersion": format!("{GROUP}/{VERSION}"), "kind": kind, "metadata": metadata,
        "timestamp": now, "window": window,
    })
}

/// Quantities in the metrics server's units.
fn usage(used: Used) -> Value {
    json!({"cpu": format!("{}n", used.nanocores), "memory": format!("{}Ki", used.memory_bytes / 1024)})
}

/// The role that lets those who may look at Pods also look at what they use, as the metrics server brings it.
pub fn role() -> Value {
    let labels: BTreeMap<_, _> =
        ["admin", "edit", "view"].map(|level| (aggregate_label(level), "true")).into();
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
        "metadata": {"name": "system:aggregated-metrics-reader", "labels": labels},
        "rules": [{"apiGroups": [GROUP], "resources": ["pods", "nodes"], "verbs": ["get", "list", "watch"]}],
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::time::Duration;

    use node::usage::PodReading;

    use super::*;

    fn labelled(metadata: Value) -> Labelled {
        serde_json::from_value(json!({"metadata": metadata, "spec": {}})).unwrap()
    }

    #[test]
    fn what_is_used_is_told_as_the_metrics_server_tells_it() {
        let used = Used { nanocores: 250_000_001, memory_bytes: 5 * 1024 + 1 };
        let pod = |name: &str| PodReading { namespace: "n".to_owned(), name: name.to_owned(), used };
        let node_used = Used { nanocores: 1_500_000_000, memory_bytes: 1 << 30 };
        // `gone` is deleted, and `later` is not read of yet.
        let reading = Reading {
            window: Duration::from_millis(15_032),
            node: node_used,
            pods: vec![pod("a"), pod("gone")],
        };
        let now: jiff::Timestamp = "2026-01-01T00:00:00.9Z".parse().unwrap();
        let there = [
            labelled(json!({"namespace": "n", "name": "a", "labels": {"x": "y"}, "uid": "u"})),
            labelled(json!({"namespace": "n", "name": "later"})),
        ];
        assert_eq!(
            pods(&there, &reading, now),
            [json!({
                "apiVersion": "metrics.k8s.io/v1beta1", "kind": "PodMetrics",
                "metadata": {"namespace": "n", "name": "a", "labels": {"x": "y"},
                    "creationTimestamp": "2026-01-01T00:00:00Z"},
                "timestamp": "2026-01-01T00:00:00Z", "window": "15.032s",
                "containers": [{"name": "compute", "usage": {"cpu": "250000001n", "memory": "5Ki"}}],
            })]
        );
        assert_eq!(
            node(&labelled(json!({"name": "host"})), &reading, now),
            json!({
                "apiVersion": "metrics.k8s.io/v1beta1", "kind": "NodeMetrics",
                "metadata": {"name": "host", "creationTimestamp": "2026-01-01T00:00:00Z"},
                "timestamp": "2026-01-01T00:00:00Z", "window": "15.032s",
                "usage": {"cpu": "1500000000n", "memory": "1048576Ki"},
            })
        );
    }
}
