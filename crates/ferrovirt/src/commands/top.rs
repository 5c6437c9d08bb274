//! `ferrovirt top`: what machines, Pods or nodes use, as Kubernetes' metrics API (`metrics.k8s.io`) tells it.
//!
//! A machine uses what its launcher Pod does: PodMetrics have the Pod's labels, among them the UID of its instance.

use std::borrow::Cow;
use std::collections::HashMap;

use manifest::Quantity;
use serde_json::Value;

use super::api::refusal::RequestError;
use super::api::resources::{INSTANCES, MACHINES, NODES, PODS, Resource, well_known};
use super::api::table::Rows;
use super::api::targets::{self, Object, Target};
use super::api::{JSON, Server, query, text};
use super::get::{none_found, not_got, there};
use super::{Context, each};
use crate::cli::{SortBy, TopFlags};
use crate::report::{ExitCode, Failure, print};

/// What can be asked for.
const MEASURED: [&Resource; 4] = [&MACHINES, &INSTANCES, &PODS, &NODES];

const POD_METRICS: Resource = metrics("pods", "PodMetrics", true);
const NODE_METRICS: Resource = metrics("nodes", "NodeMetrics", false);

const fn metrics(plural: &'static str, kind: &'static str, is_namespaced: bool) -> Resource {
    Resource {
        group: Cow::Borrowed("metrics.k8s.io"),
        version: Cow::Borrowed("v1beta1"),
        plural: Cow::Borrowed(plural),
        singular: Cow::Borrowed(plural),
        kind: Cow::Borrowed(kind),
        is_namespaced,
    }
}

/// Prints what is used.
pub async fn top(context: &Context, flags: &TopFlags) -> Result<ExitCode, Failure> {
    let targets = targets::read(&flags.resources).map_err(Failure::usage)?;
    targets::check_names(&targets, &flags.choice).map_err(Failure::usage)?;
    let word = targets.first().map_or("", |target| &target.word);
    if targets.iter().any(|target| target.word != word) {
        return Err(Failure::usage("one resource is measured at a time: vm, vmi, pods or nodes"));
    }
    let resource = well_known(word).filter(|resource| MEASURED.contains(&resource)).ok_or_else(|| {
        Failure::usage(format!("`{word}` is not measured; choose one of vm, vmi, pods, nodes"))
    })?;
    let server = Server::find(context).await?;
    let names: Vec<String> = targets.into_iter().filter_map(|Target { name, .. }| name).collect();
    let top = Top { flags, server: &server, resource: &resource };
    let mut rows = if resource == NODES {
        top.nodes().await?
    } else if resource == PODS {
        top.pods().await?
    } else {
        top.machines().await?
    };
    if !names.is_empty() {
        rows.retain(|row| names.contains(&row.name));
    }
    // What is not measured stands at the end, as with kubectl.
    match flags.sort_by {
        None => rows.sort_by(|one, other| (&one.namespace, &one.name).cmp(&(&other.namespace, &other.name))),
        Some(SortBy::Cpu) => rows.sort_by_key(|row| std::cmp::Reverse(row.used.map(|used| used.cpu_millis))),
        Some(SortBy::Memory) => {
            rows.sort_by_key(|row| std::cmp::Reverse(row.used.map(|used| used.memory_bytes)));
        }
    }
    rows.sort_by_key(|row| row.used.is_none());
    print(&top.table(&rows))?;
    let namespace = top.namespace(&resource);
    if rows.is_empty() && names.is_empty() {
        context.reporter.note(none_found(namespace));
    }
    let unmeasured = names.into_iter().filter(|name| !rows.iter().any(|row| row.name == *name));
    each(context, unmeasured, async |name| {
        let object = Object { resource: resource.clone(), namespace: namespace.map(str::to_owned), name };
        Err(top.not_measured(&object).await)
    })
    .await
}

/// What something uses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Used {
    /// Thousandths of a core.
    cpu_millis: i128,
    memory_bytes: i128,
}

impl Used {
    /// What a map with `cpu` and `memory` says.
    fn read(amounts: &Value) -> Used {
        let amount =
            |resource: &str| amounts[resource].as_str().and_then(|text| text.parse::<Quantity>().ok());
        Used {
            cpu_millis: amount("cpu").map_or(0, |amount| amount.millis()),
            memory_bytes: amount("memory").map_or(0, |amount| amount.units()),
        }
    }

    fn plus(self, other: Used) -> Used {
        Used {
            cpu_millis: self.cpu_millis.saturating_add(other.cpu_millis),
            memory_bytes: self.memory_bytes.saturating_add(other.memory_bytes),
        }
    }
}

/// A line of the table.
#[derive(Debug)]
struct Row {
    /// Empty for a node.
    namespace: String,
    name: String,
    /// Nothing of a node that nobody measures.
    used: Option<Used>,
    /// What Pods may use of a node.
    allocatable: Used,
}

struct Top<'a> {
    flags: &'a TopFlags,
    server: &'a Server,
    resource: &'a Resource,
}

impl Top<'_> {
    fn namespace(&self, resource: &Resource) -> Option<&str> {
        self.server.namespace_for(resource, &self.flags.choice)
    }

    async fn nodes(&self) -> Result<Vec<Row>, Failure> {
        let metrics = self.measured(&NODE_METRICS, self.flags.choice.selector.as_deref()).await?;
        let used: HashMap<_, _> =
            metrics.iter().map(|node| (text(node, "/metadata/name"), Used::read(&node["usage"]))).collect();
        let nodes = self.list(&NODES, self.flags.choice.selector.as_deref()).await;
        let nodes = nodes.map_err(|error| error.failure("cannot list nodes", None))?;
        let row = |node: &Value| {
            let name = text(node, "/metadata/name");
            Row {
                namespace: String::new(),
                name: name.to_owned(),
                used: used.get(name).copied(),
                allocatable: Used::read(&node["status"]["allocatable"]),
            }
        };
        Ok(nodes.iter().map(row).collect())
    }

    async fn pods(&self) -> Result<Vec<Row>, Failure> {
        let pods = self.measured(&POD_METRICS, self.flags.choice.selector.as_deref()).await?;
        Ok(pods.iter().map(|pod| row_of(pod, used_by_pod(pod))).collect())
    }

    /// Machines and instances, by the Pods of the instances.
    async fn machines(&self) -> Result<Vec<Row>, Failure> {
        let list = async |resource: &Resource, selector: Option<&str>| {
            let listed = self.list(resource, selector).await;
            listed.map_err(|error| error.failure(format!("cannot list {}", resource.plural), None))
        };
        let asked = list(self.resource, self.flags.choice.selector.as_deref()).await?;
        let instances = match *self.resource == MACHINES {
            // An instance has its machine's name.
            true => {
                let is_asked = |instance: &Value| asked.iter().any(|machine| key(machine) == key(instance));
                let instances = list(&INSTANCES, None).await?;
                instances.into_iter().filter(is_asked).collect()
            }
            false => asked,
        };
        let pods = self.measured(&POD_METRICS, Some("kubevirt.io=virt-launcher")).await?;
        let mut used: HashMap<&str, Used> = HashMap::new();
        for pod in &pods {
            let instance = pod["metadata"]["labels"][manifest::keys::CREATED_BY].as_str().unwrap_or_default();
            let all = used.entry(instance).or_default();
            *all = all.plus(used_by_pod(pod));
        }
        let row = |instance: &Value| Some(row_of(instance, *used.get(text(instance, "/metadata/uid"))?));
        Ok(instances.iter().filter_map(row).collect())
    }

    async fn list(&self, resource: &Resource, selector: Option<&str>) -> Result<Vec<Value>, RequestError> {
        let selector = selector.map(|selector| ("labelSelector", selector));
        let path = format!("{}{}", resource.path(self.namespace(resource), None), query(selector));
        self.server.list(&path).await
    }

    async fn measured(&self, metrics: &Resource, selector: Option<&str>) -> Result<Vec<Value>, Failure> {
        self.list(metrics, selector).await.map_err(|error| {
            let hint = error.is_not_found().then(|| {
                "the server has no metrics API (metrics.k8s.io): a cluster has it from Kubernetes' metrics server, and \
                 `ferrovirt serve` unless it was started with --api-only"
                    .to_owned()
            });
            error.failure(format!("cannot list what {} use", metrics.plural), hint)
        })
    }

    /// Why there is no line for an object that was named.
    async fn not_measured(&self, object: &Object) -> Failure {
        let Object { resource, namespace, name } = object;
        let namespace = namespace.as_deref();
        match self.server.get(&resource.path(namespace, Some(name)), JSON).await {
            Ok(_) => Failure::refused(
                anyhow::anyhow!(
                    "nothing is measured of {}: it does not run, or has only just begun to",
                    object.described()
                ),
                Some(there(resource, namespace)),
            ),
            Err(error) => not_got(error, resource, namespace, name),
        }
    }

    fn table(&self, rows: &[Row]) -> String {
        let is_node = *self.resource == NODES;
        let has_namespace = self.flags.choice.all_namespaces && !is_node;
        let mut names = match is_node {
            true => vec!["NAME", "CPU(cores)", "CPU(%)", "MEMORY(bytes)", "MEMORY(%)"],
            false => vec!["NAME", "CPU(cores)", "MEMORY(bytes)"],
        };
        if has_namespace {
            names.insert(0, "NAMESPACE");
        }
        let mut table = Rows::new(&names);
        if self.flags.no_headers {
            table = table.without_names();
        }
        let cells = |row: &Row| {
            let mut cells = vec![row.name.clone()];
            cells.extend(if is_node { node_cells(row) } else { amounts(row.used).to_vec() });
            if has_namespace {
                cells.insert(0, row.namespace.clone());
            }
            cells
        };
        table.lines(&rows.iter().map(cells).collect::<Vec<_>>())
    }
}

fn key(object: &Value) -> (&str, &str) {
    (text(object, "/metadata/namespace"), text(object, "/metadata/name"))
}

fn row_of(object: &Value, used: Used) -> Row {
    let (namespace, name) = key(object);
    Row {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        used: Some(used),
        allocatable: Used::default(),
    }
}

fn used_by_pod(pod: &Value) -> Used {
    let containers = pod["containers"].as_array().into_iter().flatten();
    containers.fold(Used::default(), |sum, container| sum.plus(Used::read(&container["usage"])))
}

/// Thousandths of cores and MiB, in kubectl's form.
fn amounts(used: Option<Used>) -> [String; 2] {
    match used {
        None => ["<unknown>".to_owned(), "<unknown>".to_owned()],
        Some(used) => [format!("{}m", used.cpu_millis), format!("{}Mi", used.memory_bytes >> 20)],
    }
}

/// Each amount of a node with its share of what Pods may use.
fn node_cells(row: &Row) -> Vec<String> {
    let [cpu, memory] = amounts(row.used);
    let share = |of: fn(&Used) -> i128| match (row.used.as_ref().map(of), of(&row.allocatable)) {
        (Some(used), all @ 1..) => format!("{}%", used.saturating_mul(100) / all),
        _ => "<unknown>".to_owned(),
    };
    vec![cpu, share(|used| used.cpu_millis), memory, share(|used| used.memory_bytes)]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn amounts_are_told_as_kubectl_tells_them() {
        let pod = json!({"containers": [
            {"usage": {"cpu": "1500001n", "memory": "3Mi"}}, {"usage": {"cpu": "250m", "memory": "1048575"}}, {},
        ]});
        let used = used_by_pod(&pod);
        // Cores are rounded up, and memory down.
        assert_eq!(used, Used { cpu_millis: 252, memory_bytes: (4 << 20) - 1 });
        assert_eq!(amounts(Some(used)), ["252m", "3Mi"]);
    }

    #[test]
    fn a_node_is_told_with_its_shares() {
        let row = |used, allocatable: Value| Row {
            namespace: String::new(),
            name: "n".to_owned(),
            used,
            allocatable: Used::read(&allocatable),
        };
        let used = Some(Used { cpu_millis: 300, memory_bytes: 1 << 30 });
        let all = json!({"cpu": "2", "memory": "3Gi"});
        assert_eq!(node_cells(&row(used, all.clone())), ["300m", "15%", "1024Mi", "33%"]);
        assert_eq!(node_cells(&row(used, json!({}))), ["300m", "<unknown>", "1024Mi", "<unknown>"]);
        assert_eq!(node_cells(&row(None, all)), ["<unknown>"; 4]);
    }
}
