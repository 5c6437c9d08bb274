//! Whether a Pod fits on a node; no clock, no API.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    Affinity, Container, Node, NodeSelectorRequirement, NodeSelectorTerm, Pod, Taint, Toleration,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::neighbours::{self, Neighbour};

/// Amounts by resource, in thousandths: of a core, a byte, a piece.
pub type Amounts = BTreeMap<String, i128>;

/// Pods that a node takes are an amount as well, under this name.
const PODS: &str = "pods";

/// The taint that a cordoned node counts as having (`node.kubernetes.io/unschedulable`, scheduler plugin
/// `NodeUnschedulable`).
const UNSCHEDULABLE_TAINT: &str = "node.kubernetes.io/unschedulable";

/// What Pods are compared with: the Node and what is taken of it.
#[derive(Debug, Clone)]
pub struct Capacity<'a> {
    /// The Node; `None` when it is not registered.
    pub node: Option<&'a Node>,
    /// The sum of [`requests`] of the Pods on it that have not ended.
    pub taken: Amounts,
    /// Those Pods.
    pub pods: &'a [Arc<Neighbour>],
}

/// Why a Pod does not fit: the reasons of the first check that fails, in kube-scheduler's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Misfit {
    reasons: Vec<String>,
}

impl Misfit {
    /// The message of the condition and of the event, as kube-scheduler builds it (`FitError.Error`).
    pub fn message(&self) -> String {
        if self.reasons.is_empty() {
            return "no nodes available to schedule pods".to_owned();
        }
        let reasons: Vec<String> = self.reasons.iter().map(|reason| format!("1 {reason}")).collect();
        format!("0/1 nodes are available: {}.", reasons.join(", "))
    }
}

/// A [`Misfit::message`] without its arithmetic, which changes with every other Pod.
pub fn without_numbers(message: &str) -> String {
    let mut parts = message.split(" (");
    let mut rest = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        rest.push_str(part.split_once(')').map_or("", |(_, after)| after));
    }
    rest
}

/// Whether a scheduler of ours has to find a node for `pod`.
pub fn is_waiting(pod: &Pod) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let scheduler = spec.scheduler_name.as_deref().unwrap_or_default();
    spec.node_name.as_deref().unwrap_or_default().is_empty()
        && matches!(scheduler, "" | "default-scheduler")
        && spec.scheduling_gates.as_ref().is_none_or(Vec::is_empty)
        && pod.metadata.deletion_timestamp.is_none()
        && !has_ended(pod)
}

/// Whether `pod` uses nothing any more.
pub fn has_ended(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// What `pod` asks for in sum, one of [`PODS`] included (`PodRequests` of k8s.io/component-helpers): containers and
/// sidecars run side by side, other init containers one after another before them, beside the sidecars started so far.
pub fn requests(pod: &Pod) -> Amounts {
    let mut sum = Amounts::from([(PODS.to_owned(), 1000)]);
    let Some(spec) = &pod.spec else { return sum };
    for container in &spec.containers {
        add(&mut sum, &of_container(container));
    }
    let mut sidecars = Amounts::new();
    let mut largest = Amounts::new();
    for container in spec.init_containers.iter().flatten() {
        let own = of_container(container);
        let mut meanwhile = own.clone();
        if container.restart_policy.as_deref() == Some("Always") {
            add(&mut sum, &own);
            add(&mut sidecars, &own);
            meanwhile = sidecars.clone();
        } else {
            add(&mut meanwhile, &sidecars);
        }
        for (name, amount) in meanwhile {
            let largest = largest.entry(name).or_default();
            *largest = amount.max(*largest);
        }
    }
    for (name, amount) in largest {
        let sum = sum.entry(name).or_default();
        *sum = amount.max(*sum);
    }
    add(&mut sum, &amounts(spec.overhead.as_ref()));
    sum
}

/// Adds `other` to `sum`.
pub fn add(sum: &mut Amounts, other: &Amounts) {
    for (name, amount) in other {
        match sum.get_mut(name) {
            Some(sum) => *sum = sum.saturating_add(*amount),
            None => {
                sum.insert(name.clone(), *amount);
            }
        }
    }
}

/// What the Pod requests of the processors, in thousandths of a core.
pub fn cpu_request(pod: &Pod) -> i128 {
    requests(pod).get("cpu").copied().unwrap_or_default()
}

/// The most that `container` may take of the processors, in thousandths of a core; `None` where it may take all.
pub fn cpu_limit(container: &Container) -> Option<i128> {
    let limits = container.resources.as_ref().and_then(|resources| resources.limits.as_ref());
    amounts(limits).get("cpu").copied().filter(|millis| *millis > 0)
}

fn of_container(container: &Container) -> Amounts {
    amounts(container.resources.as_ref().and_then(|resources| resources.requests.as_ref()))
}

/// Amounts that cannot be read count as none: the API server lets none of them in.
fn amounts(list: Option<&BTreeMap<String, Quantity>>) -> Amounts {
    list.into_iter()
        .flatten()
        .filter_map(|(name, quantity)| {
            let amount = quantity.0.parse::<manifest::Quantity>().ok()?.millis();
            Some((name.clone(), amount.max(0)))
        })
        .collect()
}

/// Judges `pod`, with the checks of kube-scheduler that can fail here, in its order; each tells all its reasons.
///
/// # Errors
/// Why it does not fit.
pub fn fit(pod: &Pod, capacity: &Capacity<'_>) -> Result<(), Misfit> {
    // One that has not said yet what it offers is not there yet.
    let offers = |node: &&Node| node.status.as_ref().is_some_and(|status| status.allocatable.is_some());
    let Some(node) = capacity.node.filter(offers) else {
        return Err(Misfit { reasons: Vec::new() });
    };
    let neighbours = neighbours::judge(pod, node, capacity.pods);
    let checks = [
        cordon(pod, node),
        taints(pod, node),
        affinity(pod, node),
        resources(pod, node, &capacity.taken),
        neighbours.into_iter().map(str::to_owned).collect(),
    ];
    match checks.into_iter().find(|reasons| !reasons.is_empty()) {
        Some(reasons) => Err(Misfit { reasons }),
        None => Ok(()),
    }
}

fn tolerations(pod: &Pod) -> &[Toleration] {
    pod.spec.as_ref().and_then(|spec| spec.tolerations.as_deref()).unwrap_or_default()
}

fn cordon(pod: &Pod, node: &Node) -> Vec<String> {
    let is_cordoned = node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or(false);
    let taint =
        Taint { key: UNSCHEDULABLE_TAINT.to_owned(), effect: "NoSchedule".to_owned(), ..Taint::default() };
    if is_cordoned && !tolerations(pod).iter().any(|toleration| tolerates(toleration, &taint)) {
        return vec!["node(s) were unschedulable".to_owned()];
    }
    Vec::new()
}

fn taints(pod: &Pod, node: &Node) -> Vec<String> {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    let untolerated = taints
        .iter()
        .filter(|taint| matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute"))
        .find(|taint| !tolerations(pod).iter().any(|toleration| tolerates(toleration, taint)));
    untolerated
        .map(|taint| {
            let value = taint.value.as_deref().unwrap_or_default();
            format!("node(s) had untolerated taint {{{}: {value}}}", taint.key)
        })
        .into_iter()
        .collect()
}

/// `ToleratesTaint` of k8s.io/component-helpers.
fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let is_or_empty =
        |own: &Option<String>, other: &str| own.as_deref().is_none_or(|own| own.is_empty() || own == other);
    if !is_or_empty(&toleration.effect, &taint.effect) || !is_or_empty(&toleration.key, &taint.key) {
        return false;
    }
    match toleration.operator.as_deref().unwrap_or_default() {
        "" | "Equal" => {
            toleration.value.as_deref().unwrap_or_default() == taint.value.as_deref().unwrap_or_default()
        }
        "Exists" => true,
        _ => false,
    }
}

fn affinity(pod: &Pod, node: &Node) -> Vec<String> {
    let none = BTreeMap::new();
    let labels = node.metadata.labels.as_ref().unwrap_or(&none);
    let Some(spec) = &pod.spec else { return Vec::new() };
    let is_selected = spec
        .node_selector
        .iter()
        .flatten()
        .all(|(key, value)| labels.get(key).is_some_and(|found| found == value));
    let terms = spec.affinity.as_ref().and_then(required_terms);
    let name = node.metadata.name.as_deref().unwrap_or_default();
    // Terms are alternatives; without any, nothing matches.
    if is_selected && terms.is_none_or(|terms| terms.iter().any(|term| matches(term, labels, name))) {
        return Vec::new();
    }
    vec!["node(s) didn't match Pod's node affinity/selector".to_owned()]
}

fn required_terms(affinity: &Affinity) -> Option<&[NodeSelectorTerm]> {
    let required =
        affinity.node_affinity.as_ref()?.required_during_scheduling_ignored_during_execution.as_ref()?;
    Some(&required.node_selector_terms)
}

fn matches(term: &NodeSelectorTerm, labels: &BTreeMap<String, String>, node: &str) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    if expressions.is_empty() && fields.is_empty() {
        return false;
    }
    let name = BTreeMap::from([("metadata.name".to_owned(), node.to_owned())]);
    expressions.iter().all(|requirement| meets(requirement, labels))
        && fields.iter().all(|requirement| meets(requirement, &name))
}

fn meets(requirement: &NodeSelectorRequirement, labels: &BTreeMap<String, String>) -> bool {
    let found = labels.get(&requirement.key);
    let values = requirement.values.as_deref().unwrap_or_default();
    let compare = |order: std::cmp::Ordering| {
        let wanted = values.first().and_then(|value| value.parse::<i64>().ok());
        let found = found.and_then(|value| value.parse::<i64>().ok());
        matches!((found, wanted), (Some(found), Some(wanted)) if found.cmp(&wanted) == order)
    };
    match requirement.operator.as_str() {
        "In" => found.is_some_and(|found| values.contains(found)),
        "NotIn" => found.is_none_or(|found| !values.contains(found)),
        "Exists" => found.is_some(),
        "DoesNotExist" => found.is_none(),
        "Gt" => compare(std::cmp::Ordering::Greater),
        "Lt" => compare(std::cmp::Ordering::Less),
        _ => false,
    }
}

/// Allocatable less what is taken must be enough, for each resource that is asked for (scheduler plugin
/// `NodeResourcesFit`), here with the numbers.
fn resources(pod: &Pod, node: &Node, taken: &Amounts) -> Vec<String> {
    let allocatable = amounts(node.status.as_ref().and_then(|status| status.allocatable.as_ref()));
    let mut reasons = Vec::new();
    for (name, wanted) in requests(pod).into_iter().filter(|(_, wanted)| *wanted > 0) {
        let all = allocatable.get(&name).copied().unwrap_or_default();
        let free = (all - taken.get(&name).copied().unwrap_or_default()).max(0);
        if wanted <= free {
            continue;
        }
        reasons.push(match name.as_str() {
            PODS => format!("Too many pods ({} of {} are there)", (all - free) / 1000, all / 1000),
            name => {
                let [wanted, free, all] = shown(name, [wanted, free, all]);
                format!("Insufficient {name} (requested {wanted}, {free} of {all} free)")
            }
        });
    }
    reasons.sort();
    reasons
}

/// Amounts for people, in one unit: the largest in which what is wanted and what is free differ.
fn shown(resource: &str, amounts: [i128; 3]) -> [String; 3] {
    if resource == "cpu" {
        return amounts.map(|amount| match amount % 1000 {
            0 => (amount / 1000).to_string(),
            _ => format!("{amount}m"),
        });
    }
    let is_bytes =
        resource == "memory" || resource == "ephemeral-storage" || resource.starts_with("hugepages-");
    let units: &[(i128, &str)] = match is_bytes {
        true => &[(1 << 30, "Gi"), (1 << 20, "Mi"), (1 << 10, "Ki")],
        false => &[],
    };
    for (unit, suffix) in units {
        let texts = amounts.map(|amount| in_unit(amount, *unit, suffix));
        if amounts[0] >= unit * 100 && texts[0] != texts[1] {
            return texts;
        }
    }
    amounts.map(|amount| (amount / 1000).to_string())
}

/// With at most one decimal; `0` without a unit.
fn in_unit(milli_bytes: i128, unit: i128, suffix: &str) -> String {
    let tenths = milli_bytes / (unit * 100);
    match (tenths / 10, tenths % 10) {
        (0, 0) => "0".to_owned(),
        (whole, 0) => format!("{whole}{suffix}"),
        (whole, tenth) => format!("{whole}.{tenth}{suffix}"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn node(spec: Value) -> Node {
        serde_json::from_value(json!({
            "metadata": {"name": "here", "labels": {"zone": "a", "cores": "4"}},
            "spec": spec,
            "status": {"allocatable": {"cpu": "2", "memory": "24Gi", "pods": "110"}},
        }))
        .unwrap()
    }

    fn pod(memory: &str, cpu: &str, more: Value) -> Pod {
        let mut spec = json!({
            "containers": [{"name": "compute", "resources": {"requests": {"memory": memory, "cpu": cpu}}}],
        });
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).unwrap()
    }

    fn verdict(pod: &Pod, node: &Node, taken: &[(&str, i128)]) -> String {
        let taken = taken.iter().map(|(name, amount)| ((*name).to_owned(), *amount)).collect();
        match fit(pod, &Capacity { node: Some(node), taken, pods: &[] }) {
            Ok(()) => "fits".to_owned(),
            Err(misfit) => misfit.message(),
        }
    }

    const GI: i128 = 1000 << 30;

    #[test]
    fn a_pod_fits_up_to_the_last_byte() {
        let plain = node(json!({}));
        let taken = |memory| [("memory", memory), ("cpu", 1900), ("pods", 1000)];
        let asks = pod("8Gi", "100m", json!({}));
        assert_eq!(verdict(&asks, &plain, &taken(16 * GI)), "fits");
        assert_eq!(
            verdict(&asks, &plain, &taken(16 * GI + 1000)),
            "0/1 nodes are available: 1 Insufficient memory (requested 8Gi, 7.9Gi of 24Gi free)."
        );
        assert_eq!(
            verdict(&asks, &plain, &taken(21 * GI)),
            "0/1 nodes are available: 1 Insufficient memory (requested 8Gi, 3Gi of 24Gi free)."
        );
        assert_eq!(
            verdict(&pod("8Gi", "200m", json!({})), &plain, &taken(24 * GI)),
            "0/1 nodes are available: 1 Insufficient cpu (requested 200m, 100m of 2 free), 1 Insufficient memory \
             (requested 8Gi, 0 of 24Gi free)."
        );
        assert_eq!(
            verdict(&asks, &plain, &[("pods", 110_000)]),
            "0/1 nodes are available: 1 Too many pods (110 of 110 are there)."
        );
    }

    #[test]
    fn amounts_are_told_in_a_unit_in_which_they_differ() {
        let small = pod("3221225473", "1m", json!({}));
        assert_eq!(
            verdict(&small, &node(json!({})), &[("memory", 21 * GI)]),
            "0/1 nodes are available: 1 Insufficient memory (requested 3221225473, 3221225472 of 25769803776 free)."
        );
        let small = pod("100Mi", "1m", json!({}));
        assert_eq!(
            verdict(&small, &node(json!({})), &[("memory", 24 * GI - (1000 << 20))]),
            "0/1 nodes are available: 1 Insufficient memory (requested 100Mi, 1Mi of 24576Mi free)."
        );
        let mut device = pod("1Mi", "1m", json!({}));
        let requests = device.spec.as_mut().unwrap().containers[0].resources.as_mut().unwrap();
        requests
            .requests
            .as_mut()
            .unwrap()
            .insert("devices.kubevirt.io/kvm".to_owned(), Quantity("1".to_owned()));
        assert_eq!(
            verdict(&device, &node(json!({})), &[]),
            "0/1 nodes are available: 1 Insufficient devices.kubevirt.io/kvm (requested 1, 0 of 0 free)."
        );
    }

    #[test]
    fn what_the_node_and_the_pod_say_of_each_other() {
        let no_match = "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector.";
        let cordoned = "0/1 nodes are available: 1 node(s) were unschedulable.";
        let tainted = "0/1 nodes are available: 1 node(s) had untolerated taint {dedicated: db}.";
        let taint = json!({"taints": [
            {"key": "soft", "effect": "PreferNoSchedule"},
            {"key": "dedicated", "value": "db", "effect": "NoSchedule"},
        ]});
        let required = |terms: Value| {
            json!({"affinity": {"nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms},
            }}})
        };
        let tolerating = |toleration: Value| json!({"tolerations": [toleration]});
        let expression = |key: &str, operator: &str, values: Value| {
            required(json!([{"matchExpressions": [{"key": key, "operator": operator, "values": values}]}]))
        };
        let table = [
            (json!({}), json!({}), "fits"),
            (json!({}), json!({"nodeSelector": {"zone": "a"}}), "fits"),
            (json!({}), json!({"nodeSelector": {"zone": "b"}}), no_match),
            (json!({}), json!({"nodeSelector": {"zone": "a", "other": ""}}), no_match),
            (json!({"unschedulable": true}), json!({}), cordoned),
            (
                json!({"unschedulable": true}),
                tolerating(json!({"key": "node.kubernetes.io/unschedulable", "operator": "Exists"})),
                "fits",
            ),
            (taint.clone(), json!({}), tainted),
            (taint.clone(), tolerating(json!({"key": "dedicated", "value": "db"})), "fits"),
            (taint.clone(), tolerating(json!({"key": "dedicated", "value": "web"})), tainted),
            (
                taint.clone(),
                tolerating(json!({"key": "dedicated", "value": "db", "effect": "NoExecute"})),
                tainted,
            ),
            (taint, tolerating(json!({"operator": "Exists"})), "fits"),
            (json!({}), required(json!([])), no_match),
            (json!({}), required(json!([{}])), no_match),
            (json!({}), expression("zone", "In", json!(["a", "b"])), "fits"),
            (json!({}), expression("zone", "NotIn", json!(["a", "b"])), no_match),
            (json!({}), expression("none", "NotIn", json!(["a"])), "fits"),
            (json!({}), expression("none", "DoesNotExist", json!([])), "fits"),
            (json!({}), expression("zone", "Exists", json!([])), "fits"),
            (json!({}), expression("cores", "Gt", json!(["3"])), "fits"),
            (json!({}), expression("cores", "Lt", json!(["4"])), no_match),
            (
                json!({}),
                required(
                    json!([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["here"]}]}]),
                ),
                "fits",
            ),
        ];
        for (spec, more, expected) in table {
            assert_eq!(
                verdict(&pod("1Mi", "1m", more.clone()), &node(spec.clone()), &[]),
                expected,
                "{spec} {more}"
            );
        }
        let nowhere =
            fit(&pod("1", "1", json!({})), &Capacity { node: None, taken: Amounts::new(), pods: &[] });
        assert_eq!(nowhere.unwrap_err().message(), "no nodes available to schedule pods");
    }

    #[test]
    fn numbers_are_left_out_where_messages_are_compared() {
        let table = [
            (
                "1 Insufficient cpu (requested 2, 1 of 2 free), 1 Too many pods (1 of 1 run).",
                "1 Insufficient cpu, 1 Too many pods.",
            ),
            ("no nodes", "no nodes"),
            ("cut off (requested", "cut off"),
            ("", ""),
        ];
        for (message, expected) in table {
            assert_eq!(without_numbers(message), expected);
        }
    }

    #[test]
    fn requests_are_summed_as_containers_run() {
        let with = |memory: &str, more: Value| {
            let mut container = json!({"name": "c", "resources": {"requests": {"memory": memory}}});
            container.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            container
        };
        let pod: Pod = serde_json::from_value(json!({"spec": {
            "initContainers": [
                with("10", json!({"restartPolicy": "Always"})),
                with("200", json!({})),
                with("20", json!({"restartPolicy": "Always"})),
            ],
            "containers": [with("100", json!({})), with("nonsense", json!({}))],
            "overhead": {"memory": "5"},
        }}))
        .unwrap();
        // Sidecars 10 + 20 and the container 100 are less than the init container 200 beside the sidecar 10.
        assert_eq!(
            requests(&pod),
            Amounts::from([("memory".to_owned(), 215_000), ("pods".to_owned(), 1000)])
        );
    }

    #[test]
    fn only_pods_without_a_node_wait() {
        let table = [
            (json!({"spec": {"containers": []}}), true),
            (json!({"spec": {"containers": [], "schedulerName": "default-scheduler"}}), true),
            (json!({"spec": {"containers": [], "schedulerName": "other"}}), false),
            (json!({"spec": {"containers": [], "nodeName": "here"}}), false),
            (json!({"spec": {"containers": [], "schedulingGates": [{"name": "g"}]}}), false),
            (json!({"spec": {"containers": []}, "status": {"phase": "Failed"}}), false),
            (
                json!({"spec": {"containers": []}, "metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}),
                false,
            ),
        ];
        for (pod, expected) in table {
            assert_eq!(is_waiting(&serde_json::from_value(pod.clone()).unwrap()), expected, "{pod}");
        }
    }

    proptest! {
        /// Whatever is bound after a verdict never makes the sum exceed what is allocatable.
        #[test]
        fn never_more_than_allocatable(sizes in proptest::collection::vec(1_u64..12, 0..40)) {
            let node = node(json!({}));
            let mut taken = Amounts::new();
            for size in sizes {
                let pod = pod(&format!("{size}Gi"), "50m", json!({}));
                let before = taken.clone();
                if fit(&pod, &Capacity { node: Some(&node), taken: before, pods: &[] }).is_ok() {
                    add(&mut taken, &requests(&pod));
                }
                prop_assert!(taken.get("memory").copied().unwrap_or_default() <= 24 * GI);
                prop_assert!(taken.get("cpu").copied().unwrap_or_default() <= 2000);
            }
        }
    }
}
