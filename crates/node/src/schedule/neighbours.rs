//! What a Pod and the Pods on the node ask of each other: affinity and anti-affinity between Pods, and spreading.
//!
//! There is one node, so it is the only one of its zone, its rack, and of whatever else a topology key names: a label
//! with the key is all that counts. Preferences choose between nodes and have no effect.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod, PodAffinityTerm, TopologySpreadConstraint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

type Labels = BTreeMap<String, String>;

/// Label that every namespace has, with its name; what other labels it has is not asked.
const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";

/// What others see of a Pod. It is all that is kept of one that has its place: a whole Pod takes 20 KB in memory.
#[derive(Debug, Clone)]
pub struct Neighbour {
    namespace: Option<String>,
    labels: Labels,
    is_deleted: bool,
    /// What it requires not to be near.
    unwanted: Vec<PodAffinityTerm>,
}

impl Neighbour {
    /// What is seen of `pod`.
    pub fn of(pod: &Pod) -> Self {
        let metadata = &pod.metadata;
        Self {
            namespace: metadata.namespace.clone(),
            labels: metadata.labels.clone().unwrap_or_default(),
            is_deleted: metadata.deletion_timestamp.is_some(),
            unwanted: terms(pod).1.to_vec(),
        }
    }
}

/// Whether `pod` may be with `there`, the Pods on `node` that have not ended, as kube-scheduler's plugins
/// `PodTopologySpread` and `InterPodAffinity` judge it; why not, in their words and order.
pub fn judge(pod: &Pod, node: &Node, there: &[Arc<Neighbour>]) -> Option<&'static str> {
    let none = Labels::new();
    let topology = node.metadata.labels.as_ref().unwrap_or(&none);
    let own = Neighbour::of(pod);
    spread(pod, &own, topology, there).or_else(|| affinity(pod, &own, topology, there))
}

fn spread(pod: &Pod, own: &Neighbour, topology: &Labels, there: &[Arc<Neighbour>]) -> Option<&'static str> {
    let constraints = pod.spec.as_ref()?.topology_spread_constraints.as_deref().unwrap_or_default();
    let hard = || constraints.iter().filter(|constraint| constraint.when_unsatisfiable == "DoNotSchedule");
    if hard().any(|constraint| !topology.contains_key(&constraint.topology_key)) {
        return Some("node(s) didn't match pod topology spread constraints (missing required label)");
    }
    hard()
        .any(|constraint| skew(own, constraint, there) > i64::from(constraint.max_skew))
        .then_some("node(s) didn't match pod topology spread constraints")
}

/// By how much this place would be ahead of the emptiest. It is the emptiest itself, unless there should be more places,
/// which count as empty.
fn skew(own: &Neighbour, constraint: &TopologySpreadConstraint, there: &[Arc<Neighbour>]) -> i64 {
    let selector = with_own_labels(
        constraint.label_selector.as_ref(),
        constraint.match_label_keys.as_deref().unwrap_or_default(),
        own,
    );
    let counts = |other: &Neighbour| {
        other.namespace == own.namespace && !other.is_deleted && selects(selector.as_ref(), &other.labels)
    };
    let itself = i64::from(selects(selector.as_ref(), &own.labels));
    if constraint.min_domains.unwrap_or(1) <= 1 {
        return itself;
    }
    let here = there.iter().filter(|other| counts(other)).count();
    itself.saturating_add(i64::try_from(here).unwrap_or(i64::MAX))
}

fn affinity(pod: &Pod, own: &Neighbour, topology: &Labels, there: &[Arc<Neighbour>]) -> Option<&'static str> {
    let (wanted, unwanted) = terms(pod);
    if wanted.iter().any(|term| !topology.contains_key(&term.topology_key)) {
        return Some("node(s) didn't match pod affinity rules");
    }
    // The first of those that want to be together has nobody to be with.
    let all = |other: &Neighbour| wanted.iter().all(|term| means(term, own, other));
    if !wanted.is_empty() && !there.iter().any(|other| all(other)) && !all(own) {
        return Some("node(s) didn't match pod affinity rules");
    }
    let repels = |term: &PodAffinityTerm, by: &Neighbour, other: &Neighbour| {
        topology.contains_key(&term.topology_key) && means(term, by, other)
    };
    if unwanted.iter().any(|term| there.iter().any(|other| repels(term, own, other))) {
        return Some("node(s) didn't match pod anti-affinity rules");
    }
    there
        .iter()
        .any(|other| other.unwanted.iter().any(|term| repels(term, other, own)))
        .then_some("node(s) didn't satisfy existing pods anti-affinity rules")
}

/// What the Pod requires to be near, and what it requires not to be near.
fn terms(pod: &Pod) -> (&[PodAffinityTerm], &[PodAffinityTerm]) {
    let affinity = pod.spec.as_ref().and_then(|spec| spec.affinity.as_ref());
    let near = affinity.and_then(|affinity| affinity.pod_affinity.as_ref());
    let far = affinity.and_then(|affinity| affinity.pod_anti_affinity.as_ref());
    let near = near.and_then(|near| near.required_during_scheduling_ignored_during_execution.as_deref());
    let far = far.and_then(|far| far.required_during_scheduling_ignored_during_execution.as_deref());
    (near.unwrap_or_default(), far.unwrap_or_default())
}

/// Whether a term of `owner` means `other`.
fn means(term: &PodAffinityTerm, owner: &Neighbour, other: &Neighbour) -> bool {
    let namespace = other.namespace.clone().unwrap_or_default();
    let listed = term.namespaces.as_deref().unwrap_or_default();
    let is_in_namespace = match &term.namespace_selector {
        None if listed.is_empty() => other.namespace == owner.namespace,
        None => listed.contains(&namespace),
        Some(selector) => {
            listed.contains(&namespace)
                || selects(Some(selector), &Labels::from([(NAMESPACE_NAME.to_owned(), namespace)]))
        }
    };
    let keys = term.match_label_keys.as_deref().unwrap_or_default();
    let selector = with_own_labels(term.label_selector.as_ref(), keys, owner);
    let is_other = |key: &String| {
        let own = owner.labels.get(key);
        own.is_none_or(|own| other.labels.get(key) != Some(own))
    };
    is_in_namespace
        && selects(selector.as_ref(), &other.labels)
        && term.mismatch_label_keys.iter().flatten().all(is_other)
}

/// The selector, and the values of `owner` for those keys that it has (`matchLabelKeys`).
fn with_own_labels(
    selector: Option<&LabelSelector>,
    keys: &[String],
    owner: &Neighbour,
) -> Option<LabelSelector> {
    let mut selector = selector?.clone();
    let own = keys.iter().filter_map(|key| Some((key.clone(), owner.labels.get(key)?.clone())));
    selector.match_labels.get_or_insert_default().extend(own);
    Some(selector)
}

/// Without a selector nothing is selected, with an empty one everything (`LabelSelectorAsSelector`).
fn selects(selector: Option<&LabelSelector>, labels: &Labels) -> bool {
    let Some(selector) = selector else { return false };
    let equal = selector.match_labels.iter().flatten().all(|(key, value)| labels.get(key) == Some(value));
    equal
        && selector.match_expressions.iter().flatten().all(|requirement| {
            let found = labels.get(&requirement.key);
            let values = requirement.values.as_deref().unwrap_or_default();
            match requirement.operator.as_str() {
                "In" => found.is_some_and(|found| values.contains(found)),
                "NotIn" => found.is_none_or(|found| !values.contains(found)),
                "Exists" => found.is_some(),
                "DoesNotExist" => found.is_none(),
                _ => false,
            }
        })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::{Value, json};

    use super::*;

    const APART: &str = "node(s) didn't match pod anti-affinity rules";
    const LEFT_ALONE: &str = "node(s) didn't satisfy existing pods anti-affinity rules";
    const TOGETHER: &str = "node(s) didn't match pod affinity rules";
    const SPREAD: &str = "node(s) didn't match pod topology spread constraints";
    const NO_LABEL: &str = "node(s) didn't match pod topology spread constraints (missing required label)";

    /// A Pod in the namespace `ns` with the label `app`.
    fn pod(app: &str, spec: Value) -> Pod {
        let mut all = json!({"containers": []});
        all.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        serde_json::from_value(json!({
            "metadata": {"name": app, "namespace": "ns", "labels": {"app": app, "rev": "1"}}, "spec": all,
        }))
        .unwrap()
    }

    fn verdict(pod: &Pod, there: &[&Pod]) -> Option<&'static str> {
        let node = json!({"metadata": {"name": "here", "labels": {"kubernetes.io/hostname": "here"}}});
        let there: Vec<_> = there.iter().map(|pod| Arc::new(Neighbour::of(pod))).collect();
        judge(pod, &serde_json::from_value(node).unwrap(), &there)
    }

    /// One required term that means `app` on this host, and what else it says.
    fn term(kind: &str, app: &str, more: Value) -> Value {
        let mut term = json!({
            "labelSelector": {"matchLabels": {"app": app}}, "topologyKey": "kubernetes.io/hostname",
        });
        term.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"affinity": {kind: {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}})
    }

    #[test]
    fn pods_keep_apart_and_together() {
        let (near, far) = ("podAffinity", "podAntiAffinity");
        let (db, web) = (pod("db", json!({})), pod("web", json!({})));
        let mut elsewhere = db.clone();
        elsewhere.metadata.namespace = Some("other".to_owned());
        let no = json!({});
        let zone = json!({"topologyKey": "zone"});
        let table: Vec<(&str, Value, Vec<&Pod>, Option<&str>)> = vec![
            ("web", no.clone(), vec![&db, &web], None),
            ("web", term(far, "db", no.clone()), vec![&web], None),
            ("web", term(far, "db", no.clone()), vec![&web, &db], Some(APART)),
            ("web", term(far, "db", zone.clone()), vec![&db], None),
            ("web", term(far, "db", no.clone()), vec![&elsewhere], None),
            ("web", term(far, "db", json!({"namespaces": ["other"]})), vec![&elsewhere], Some(APART)),
            ("web", term(far, "db", json!({"namespaces": ["other"]})), vec![&db], None),
            ("web", term(far, "db", json!({"namespaceSelector": {}})), vec![&elsewhere], Some(APART)),
            (
                "web",
                term(far, "db", json!({"namespaceSelector": {"matchLabels": {NAMESPACE_NAME: "other"}}})),
                vec![&db],
                None,
            ),
            ("web", term(far, "db", json!({"matchLabelKeys": ["rev"]})), vec![&db], Some(APART)),
            ("web", term(far, "db", json!({"mismatchLabelKeys": ["rev"]})), vec![&db], None),
            ("web", term(far, "db", json!({"labelSelector": null})), vec![&db], None),
            ("web", term(far, "db", json!({"labelSelector": {}})), vec![&web], Some(APART)),
            ("web", term(near, "db", no.clone()), vec![&db], None),
            ("web", term(near, "db", no.clone()), vec![&web], Some(TOGETHER)),
            ("web", term(near, "db", zone), vec![&db], Some(TOGETHER)),
            ("db", term(near, "db", no.clone()), vec![], None),
            ("web", term(near, "db", no), vec![], Some(TOGETHER)),
        ];
        for (app, spec, there, expected) in table {
            assert_eq!(verdict(&pod(app, spec.clone()), &there), expected, "{app} {spec} {}", there.len());
        }
    }

    #[test]
    fn who_is_there_may_want_to_be_alone() {
        let recluse = pod("db", term("podAntiAffinity", "web", json!({})));
        assert_eq!(verdict(&pod("web", json!({})), &[&recluse]), Some(LEFT_ALONE));
        assert_eq!(verdict(&pod("db", json!({})), &[&recluse]), None);
    }

    #[test]
    fn one_node_is_the_emptiest_place_unless_there_should_be_more() {
        let constraint = |more: Value| {
            let mut constraint = json!({
                "labelSelector": {"matchLabels": {"app": "web"}}, "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "DoNotSchedule",
            });
            constraint.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            json!({"topologySpreadConstraints": [constraint]})
        };
        let web = pod("web", json!({}));
        let table = [
            (json!({}), vec![&web, &web], None),
            (json!({"topologyKey": "zone"}), vec![], Some(NO_LABEL)),
            (json!({"topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway"}), vec![], None),
            (json!({"minDomains": 2}), vec![], None),
            (json!({"minDomains": 2}), vec![&web], Some(SPREAD)),
            (json!({"minDomains": 2, "maxSkew": 2}), vec![&web], None),
            (json!({"minDomains": 2, "matchLabelKeys": ["rev"]}), vec![&web], Some(SPREAD)),
        ];
        for (more, there, expected) in table {
            assert_eq!(verdict(&pod("web", constraint(more.clone())), &there), expected, "{more}");
        }
    }
}
