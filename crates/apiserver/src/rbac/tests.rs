#![allow(clippy::unwrap_used)]

mod writes;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::auth::memory::Memory;
use crate::auth::{Attributes, Identity};
use crate::object;

fn user(name: &str, groups: &[&str]) -> Identity {
    Identity {
        user: name.to_owned(),
        groups: groups.iter().map(|group| (*group).to_owned()).collect(),
        ..Identity::default()
    }
}

fn role(kind: &str, namespace: &str, name: &str, rules: Value) -> Value {
    let mut role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": { "name": name }, "rules": rules,
    });
    if !namespace.is_empty() {
        role["metadata"]["namespace"] = namespace.into();
    }
    role
}

/// A binding to `KIND/NAME` of one subject, `KIND/NAME` or `ServiceAccount/NAMESPACE/NAME`.
fn binding(namespace: &str, name: &str, role: &str, subject: &str) -> Value {
    let (role_kind, role_name) = role.split_once('/').unwrap();
    let parts: Vec<_> = subject.split('/').collect();
    let mut subject = json!({ "kind": parts[0], "name": parts.last().unwrap() });
    if parts[0] == "ServiceAccount" {
        subject["namespace"] = parts[1].into();
    } else {
        subject["apiGroup"] = GROUP.into();
    }
    let kind = if namespace.is_empty() { "ClusterRoleBinding" } else { "RoleBinding" };
    let mut binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": kind,
        "metadata": { "name": name },
        "roleRef": { "apiGroup": GROUP, "kind": role_kind, "name": role_name },
        "subjects": [subject],
    });
    if !namespace.is_empty() {
        binding["metadata"]["namespace"] = namespace.into();
    }
    binding
}

/// `verb group resource[/subresource] namespace name`, `-` for empty; or `verb /path`.
fn attributes(text: &str) -> Attributes<'_> {
    let parts: Vec<_> = text.split(' ').map(|part| if part == "-" { "" } else { part }).collect();
    match parts[..] {
        [verb, path] => Attributes { verb, path, ..Attributes::default() },
        [verb, group, resource, namespace, name] => {
            let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
            Attributes { verb, group, version: "v1", resource, subresource, namespace, name, path: "" }
        }
        _ => panic!("{text}"),
    }
}

fn rule_of(value: Value) -> Rule {
    rules(&json!({ "rules": [value] })).remove(0)
}

#[test]
fn a_rule_allows_what_kubernetes_says_it_allows() {
    let pods = json!({ "verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods"] });
    let log = json!({ "verbs": ["get"], "apiGroups": [""], "resources": ["pods/log"] });
    let scale = json!({ "verbs": ["update"], "apiGroups": ["apps"], "resources": ["*/scale"] });
    let named = json!({
        "verbs": ["*"], "apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["a", "b"],
    });
    let everything = json!({ "verbs": ["*"], "apiGroups": ["*"], "resources": ["*"] });
    let paths = json!({ "verbs": ["get"], "nonResourceURLs": ["/healthz", "/apis/*"] });
    let all_paths = json!({ "verbs": ["*"], "nonResourceURLs": ["*"] });
    let nulls = json!({ "verbs": ["get"], "apiGroups": null, "resources": ["pods"], "resourceNames": null });
    let table: &[(&Value, &str, bool)] = &[
        (&pods, "get - pods ns x", true),
        (&pods, "list - pods - -", true),
        (&pods, "delete - pods ns x", false),
        (&pods, "get apps pods ns x", false),
        (&pods, "get - pods/log ns x", false),
        (&pods, "get - podtemplates ns x", false),
        (&pods, "get /api", false),
        (&log, "get - pods/log ns x", true),
        (&log, "get - pods ns x", false),
        (&log, "get - pods/exec ns x", false),
        (&scale, "update apps deployments/scale ns x", true),
        (&scale, "update apps deployments ns x", false),
        (&scale, "update apps deployments/status ns x", false),
        (&named, "get - configmaps ns a", true),
        (&named, "get - configmaps ns c", false),
        (&named, "create - configmaps ns -", false),
        (&named, "deletecollection - configmaps ns -", false),
        (&named, "list - configmaps ns -", false),
        (&named, "list - configmaps ns b", true),
        (&everything, "anything kubevirt.io virtualmachines/start ns x", true),
        (&everything, "get /metrics", false),
        (&paths, "get /healthz", true),
        (&paths, "get /healthz/", false),
        (&paths, "get /apis/", true),
        (&paths, "get /apis/a/b", true),
        (&paths, "get /apis", false),
        (&paths, "post /healthz", false),
        (&paths, "get - pods ns x", false),
        (&all_paths, "put /x/y", true),
        (&all_paths, "get - pods ns x", false),
        (&nulls, "get - pods ns x", false),
    ];
    for (rule, asked, allowed) in table {
        let rule = rule_of((*rule).clone());
        assert_eq!(rule.allows(&attributes(asked)), *allowed, "{rule:?} {asked}");
    }
}

fn world() -> Memory {
    let get_pods = || json!([{ "verbs": ["get"], "apiGroups": [""], "resources": ["pods"] }]);
    Memory::with([
        role("Role", "ns", "reader", get_pods()),
        role("ClusterRole", "", "cluster-reader", get_pods()),
        role("ClusterRole", "", "health", json!([{ "verbs": ["get"], "nonResourceURLs": ["/health*"] }])),
        binding("ns", "r", "Role/reader", "User/alice"),
        binding("ns", "cr", "ClusterRole/cluster-reader", "Group/devs"),
        binding("ns", "sa", "ClusterRole/cluster-reader", "ServiceAccount/other/robot"),
        binding("ns", "gone", "Role/missing", "User/eve"),
        binding("ns", "wrong", "ClusterRole/reader", "User/mallory"),
        binding("", "everywhere", "ClusterRole/cluster-reader", "User/carol"),
        binding("", "health", "ClusterRole/health", "User/carol"),
        binding("ns", "health", "ClusterRole/health", "User/alice"),
    ])
}

#[test]
fn bindings_say_to_whom_and_where_and_the_answer_says_why() {
    let authorizer = Authorizer::new(world());
    let allow = |reason: &str| Decision::Allow(format!("RBAC: allowed by {reason}"));
    let no = |reason: &str| Decision::NoOpinion(reason.to_owned());
    let robot = user("system:serviceaccount:other:robot", &["system:serviceaccounts"]);
    let table = [
        (
            user("alice", &[]),
            "get - pods ns x",
            allow(r#"RoleBinding "r/ns" of Role "reader" to User "alice""#),
        ),
        (user("alice", &[]), "get - pods other x", no("")),
        (user("alice", &[]), "get - pods - x", no("")),
        (
            user("bob", &["x", "devs"]),
            "get - pods ns x",
            allow(r#"RoleBinding "cr/ns" of ClusterRole "cluster-reader" to Group "devs""#),
        ),
        (
            robot,
            "get - pods ns x",
            allow(r#"RoleBinding "sa/ns" of ClusterRole "cluster-reader" to ServiceAccount "robot/other""#),
        ),
        (
            user("carol", &[]),
            "get - pods anywhere x",
            allow(r#"ClusterRoleBinding "everywhere" of ClusterRole "cluster-reader" to User "carol""#),
        ),
        (
            user("carol", &[]),
            "get /healthz",
            allow(r#"ClusterRoleBinding "health" of ClusterRole "health" to User "carol""#),
        ),
        (user("alice", &[]), "get /healthz", no("")),
        (
            user("eve", &[]),
            "get - pods ns x",
            no(r#"RBAC: role.rbac.authorization.k8s.io "missing" not found"#),
        ),
        (
            user("mallory", &[]),
            "get - pods ns x",
            no(r#"RBAC: clusterrole.rbac.authorization.k8s.io "reader" not found"#),
        ),
        (user("anybody", &["system:masters"]), "delete - secrets ns x", Decision::Allow(String::new())),
    ];
    for (who, asked, decision) in table {
        assert_eq!(authorizer.authorize(&who, &attributes(asked)), decision, "{who:?} {asked}");
    }
}

#[test]
fn a_change_counts_at_the_next_question() {
    let objects = world();
    let authorizer = Authorizer::new(objects.clone());
    let asked = attributes("get - pods ns x");
    let bob = user("bob", &[]);
    assert!(!authorizer.authorize(&bob, &asked).is_allowed());
    let granted = binding("ns", "new", "Role/reader", "User/bob");
    objects.put(granted.clone());
    assert!(authorizer.authorize(&bob, &asked).is_allowed());
    objects.remove(&granted);
    assert!(!authorizer.authorize(&bob, &asked).is_allowed());
}

#[test]
fn the_refusal_is_worded_as_kubernetes_words_it() {
    let table = [
        (
            "list - pods default -",
            "",
            r#"pods is forbidden: User "a" cannot list resource "pods" in API group "" in the namespace "default""#,
        ),
        (
            "get kubevirt.io virtualmachines/start - x",
            "",
            r#"virtualmachines.kubevirt.io "x" is forbidden: User "a" cannot get resource "virtualmachines/start" in API group "kubevirt.io" at the cluster scope"#,
        ),
        ("get /metrics", "", r#"forbidden: User "a" cannot get path "/metrics""#),
        ("get /x", "RBAC: y", r#"forbidden: User "a" cannot get path "/x": RBAC: y"#),
    ];
    for (asked, reason, message) in table {
        let error = forbidden("a", &attributes(asked), reason);
        assert_eq!((error.message.as_str(), error.code), (message, 403));
    }
}

fn default_world() -> Memory {
    let objects = Memory::with(default_objects());
    while let Some(role) = step(&objects) {
        objects.put(role);
    }
    objects
}

fn step(objects: &Memory) -> Option<Value> {
    use crate::auth::Objects as _;
    let all = objects.list("/rbac.authorization.k8s.io/clusterroles/");
    all.iter().find_map(|role| {
        let rules = aggregate(role, &all)?;
        let mut role = role.clone();
        role["rules"] = rules.into();
        Some(role)
    })
}

#[test]
fn the_default_roles_allow_what_their_names_say() {
    let objects = default_world();
    for name in ["view", "edit", "admin"] {
        objects.put(binding("ns", name, &format!("ClusterRole/{name}"), &format!("User/{name}")));
    }
    let authorizer = Authorizer::new(objects);
    let table = [
        ("view", "get - pods ns x", true),
        ("view", "get - pods/log ns x", true),
        ("view", "list - secrets ns -", false),
        ("view", "create - pods ns -", false),
        ("view", "list - pods other -", false),
        ("edit", "get - pods ns x", true),
        ("edit", "list - secrets ns -", true),
        ("edit", "create - serviceaccounts/token ns x", true),
        ("edit", "create rbac.authorization.k8s.io roles ns -", false),
        ("admin", "get - pods ns x", true),
        ("admin", "delete - secrets ns x", true),
        ("admin", "create rbac.authorization.k8s.io rolebindings ns -", true),
        ("admin", "create - namespaces - -", false),
    ];
    for (who, asked, allowed) in table {
        let decision = authorizer.authorize(&user(who, &["system:authenticated"]), &attributes(asked));
        assert_eq!(decision.is_allowed(), allowed, "{who} {asked}");
    }
    let anonymous = Identity::anonymous();
    for (asked, allowed) in [
        ("get /healthz", true),
        ("get /livez", true),
        ("get /readyz", true),
        ("get /version", true),
        ("get /api", false),
        ("get /metrics", false),
        ("get /openapi/v3", false),
        ("post /version", false),
        ("create authorization.k8s.io selfsubjectaccessreviews - -", false),
        ("list - pods - -", false),
    ] {
        let decision = authorizer.authorize(&anonymous, &attributes(asked));
        assert_eq!(decision.is_allowed(), allowed, "anonymous {asked}");
    }
    let anybody = user("x", &["system:authenticated"]);
    for asked in ["get /api", "get /apis/apps/v1", "create authentication.k8s.io selfsubjectreviews - -"] {
        assert!(authorizer.authorize(&anybody, &attributes(asked)).is_allowed(), "{asked}");
    }
}

#[test]
fn an_aggregated_role_takes_in_new_ones_and_settles() {
    let objects = default_world();
    assert_eq!(step(&objects), None);
    let mut added = role(
        "ClusterRole",
        "",
        "kubevirt.io:view",
        json!([{ "verbs": ["get"], "apiGroups": ["kubevirt.io"], "resources": ["virtualmachines"] }]),
    );
    added["metadata"]["labels"] = json!({ "rbac.authorization.k8s.io/aggregate-to-view": "true" });
    objects.put(added);
    let mut changed = Vec::new();
    while let Some(role) = step(&objects) {
        changed.push(object::name(&role).to_owned());
        objects.put(role);
    }
    // It goes up from view to edit to admin.
    changed.sort();
    assert_eq!(changed, ["admin", "edit", "view"]);
}

#[test]
fn selectors_of_aggregation_know_expressions() {
    let other = |name: &str, labels: Value| {
        let mut role = role(
            "ClusterRole",
            "",
            name,
            json!([{ "verbs": [name], "apiGroups": [""], "resources": ["x"] }]),
        );
        role["metadata"]["labels"] = labels;
        role
    };
    let all = [other("a", json!({ "k": "1" })), other("b", json!({ "k": "2" })), other("c", json!(null))];
    let table = [
        (json!({}), vec!["a", "b", "c"]),
        (json!({ "matchLabels": { "k": "1" } }), vec!["a"]),
        (
            json!({ "matchExpressions": [{ "key": "k", "operator": "In", "values": ["1", "2"] }] }),
            vec!["a", "b"],
        ),
        (
            json!({ "matchExpressions": [{ "key": "k", "operator": "NotIn", "values": ["1"] }] }),
            vec!["b", "c"],
        ),
        (json!({ "matchExpressions": [{ "key": "k", "operator": "Exists" }] }), vec!["a", "b"]),
        (json!({ "matchExpressions": [{ "key": "k", "operator": "DoesNotExist" }] }), vec!["c"]),
        (json!({ "matchExpressions": [{ "key": "k", "operator": "Near" }] }), vec![]),
        (json!("k=1"), vec![]),
    ];
    for (selector, expected) in table {
        let mut whole = role("ClusterRole", "", "whole", json!([{ "verbs": ["old"] }]));
        whole["aggregationRule"] = json!({ "clusterRoleSelectors": [selector] });
        let rules = aggregate(&whole, &all).unwrap();
        let verbs: Vec<_> = rules.iter().map(|rule| rule["verbs"][0].as_str().unwrap()).collect();
        assert_eq!(verbs, expected, "{selector}");
    }
    assert_eq!(aggregate(&all[0], &all), None);
}

#[test]
fn reconciling_adds_what_is_missing_and_keeps_what_people_did() {
    let wanted = role(
        "ClusterRole",
        "",
        "x",
        json!([{ "verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods"] }]),
    );
    assert_eq!(reconcile(&wanted, None), Reconciled::Create(wanted.clone()));
    assert_eq!(reconcile(&wanted, Some(&wanted)), Reconciled::Unchanged);

    let mut own =
        role("ClusterRole", "", "x", json!([{ "verbs": ["*"], "apiGroups": ["*"], "resources": ["*"] }]));
    assert_eq!(reconcile(&wanted, Some(&own)), Reconciled::Unchanged);
    own["rules"] = json!([{ "verbs": ["get"], "apiGroups": [""], "resources": ["pods"] }]);
    let Reconciled::Update(updated) = reconcile(&wanted, Some(&own)) else { panic!() };
    assert_eq!(updated["rules"][0], own["rules"][0]);
    assert_eq!(updated["rules"][1], wanted["rules"][0]);
    assert_eq!(reconcile(&wanted, Some(&updated)), Reconciled::Unchanged);

    own["metadata"]["annotations"] = json!({ "rbac.authorization.kubernetes.io/autoupdate": "false" });
    assert_eq!(reconcile(&wanted, Some(&own)), Reconciled::Unchanged);

    let group = binding("", "b", "ClusterRole/x", "Group/wanted");
    let mut own = binding("", "b", "ClusterRole/x", "User/added");
    let Reconciled::Update(updated) = reconcile(&group, Some(&own)) else { panic!() };
    assert_eq!(updated["subjects"], json!([own["subjects"][0], group["subjects"][0]]));
    own["roleRef"]["name"] = "y".into();
    let Reconciled::Recreate(new) = reconcile(&group, Some(&own)) else { panic!() };
    assert_eq!(new["roleRef"]["name"], "x");
    assert_eq!(new["subjects"].as_array().unwrap().len(), 2);
}

#[test]
fn the_default_objects_reconcile_to_themselves_after_aggregation() {
    use crate::auth::Objects as _;
    let objects = default_world();
    for wanted in default_objects() {
        let kind = wanted["kind"].as_str().unwrap().to_lowercase();
        let prefix = format!("/rbac.authorization.k8s.io/{kind}s/");
        let existing = objects.get(&prefix, "", object::name(&wanted));
        assert_eq!(reconcile(&wanted, existing.as_ref()), Reconciled::Unchanged, "{wanted}");
    }
}

#[test]
fn reviews_answer_as_kubernetes_does() {
    let authorizer = Authorizer::new(world());
    let alice = user("alice", &["system:authenticated"]);
    let asked = |spec: Value| json!({ "apiVersion": "authorization.k8s.io/v1", "kind": "x", "spec": spec });
    let pods = json!({ "namespace": "ns", "verb": "get", "resource": "pods" });

    let review = asked(json!({ "resourceAttributes": pods }));
    let answer = self_subject_access_review(&authorizer, &alice, &review).unwrap();
    assert_eq!(answer["kind"], "SelfSubjectAccessReview");
    assert_eq!(answer["spec"], review["spec"]);
    assert_eq!(
        answer["status"],
        json!({ "allowed": true, "reason": r#"RBAC: allowed by RoleBinding "r/ns" of Role "reader" to User "alice""# })
    );
    let answer = self_subject_access_review(
        &authorizer,
        &alice,
        &asked(json!({ "nonResourceAttributes": { "verb": "get", "path": "/metrics" } })),
    );
    assert_eq!(answer.unwrap()["status"], json!({ "allowed": false }));

    let no_resource = asked(json!({ "resourceAttributes": { "verb": "get", "namespace": "ns" } }));
    let answer = self_subject_access_review(&authorizer, &user("carol", &[]), &no_resource).unwrap();
    assert_eq!(answer["status"], json!({ "allowed": false }));

    let error = self_subject_access_review(&authorizer, &alice, &asked(json!({}))).unwrap_err();
    assert_eq!(
        error.message,
        "SelfSubjectAccessReview.authorization.k8s.io \"\" is invalid: spec.resourceAttributes: Invalid value: null: \
         exactly one of nonResourceAttributes or resourceAttributes must be specified"
    );
    let error = subject_access_review(&authorizer, &review).unwrap_err();
    assert!(
        error.message.contains("spec.user: Invalid value: \"\": at least one of user or group"),
        "{error}"
    );

    let review = asked(json!({ "user": "bob", "groups": ["devs"], "resourceAttributes": pods }));
    assert_eq!(subject_access_review(&authorizer, &review).unwrap()["status"]["allowed"], true);
    assert_eq!(local_subject_access_review(&authorizer, "ns", &review).unwrap()["status"]["allowed"], true);
    let error = local_subject_access_review(&authorizer, "other", &review).unwrap_err();
    assert!(error.message.contains("must match metadata.namespace"), "{error}");

    let answer =
        self_subject_rules_review(&authorizer, &user("carol", &[]), &asked(json!({ "namespace": "ns" })))
            .unwrap();
    assert_eq!(
        answer["status"],
        json!({
            "resourceRules": [{ "verbs": ["get"], "apiGroups": [""], "resources": ["pods"] }],
            "nonResourceRules": [{ "verbs": ["get"], "nonResourceURLs": ["/health*"] }],
            "incomplete": false,
        })
    );
    let error = self_subject_rules_review(&authorizer, &alice, &asked(json!({}))).unwrap_err();
    assert_eq!((error.code, error.message.as_str()), (400, "no namespace on request"));
}

fn word() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["a", "b", "*", "a/s", "*/s", "/p", "/p*", "/p/q"]).prop_map(str::to_owned)
}

fn words() -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec(word(), 0..3)
}

prop_compose! {
    fn any_rule()(
        verbs in words(), api_groups in words(), resources in words(), resource_names in words(),
        non_resource_urls in words(),
    ) -> Rule {
        Rule { verbs, api_groups, resources, resource_names, non_resource_urls }
    }
}

/// Owned attributes, in the order of [`attributes`].
fn any_question() -> impl Strategy<Value = String> {
    let part = || prop::sample::select(vec!["a", "b", "c", "-"]);
    prop_oneof![
        (part(), part(), prop::sample::select(vec!["a", "b", "a/s", "b/s", "a/t"]), part(), part()).prop_map(
            |(verb, group, resource, namespace, name)| format!(
                "{verb} {group} {resource} {namespace} {name}"
            )
        ),
        (part(), prop::sample::select(vec!["/p", "/p/q", "/x"]))
            .prop_map(|(verb, path)| format!("{verb} {path}")),
    ]
}

#[test]
fn a_rule_covers_what_it_allows_and_no_more() {
    let plain = json!({ "verbs": ["get"], "apiGroups": [""], "resources": ["pods"] });
    let named = json!({ "verbs": ["get"], "apiGroups": [""], "resources": ["pods"], "resourceNames": ["a"] });
    let other =
        json!({ "verbs": ["get"], "apiGroups": [""], "resources": ["pods"], "resourceNames": ["a", "b"] });
    let log = json!({ "verbs": ["get"], "apiGroups": [""], "resources": ["pods/log"] });
    let any_log = json!({ "verbs": ["get"], "apiGroups": [""], "resources": ["*/log"] });
    let path = json!({ "verbs": ["get"], "nonResourceURLs": ["/apis/x"] });
    let paths = json!({ "verbs": ["get"], "nonResourceURLs": ["/apis/*"] });
    let all = json!({ "verbs": ["*"], "apiGroups": ["*"], "resources": ["*"] });
    let table = [
        (&plain, &named, true),
        (&named, &plain, false),
        (&named, &other, false),
        (&other, &named, true),
        (&plain, &log, false),
        (&any_log, &log, true),
        (&log, &any_log, false),
        (&paths, &path, true),
        (&path, &paths, false),
        (&all, &any_log, true),
        (&all, &path, false),
        (&plain, &all, false),
    ];
    for (own, wanted, covered) in table {
        let missing =
            super::escalation::missing(&[rule_of(own.clone())], &[rule_of(wanted.clone())]).unwrap();
        assert_eq!(missing.is_empty(), covered, "{own} {wanted}");
    }
}

proptest! {
    #[test]
    fn nothing_is_allowed_without_rules(question in any_question()) {
        let authorizer = Authorizer::new(Memory::default());
        let decision = authorizer.authorize(&user("u", &["g"]), &attributes(&question));
        prop_assert_eq!(decision, Decision::NoOpinion(String::new()));
    }

    #[test]
    fn another_rule_takes_nothing_away(
        rules in prop::collection::vec(any_rule(), 1..4), added in any_rule(), question in any_question(),
    ) {
        let with = |rules: &[Rule]| {
            let objects = Memory::with([
                role("ClusterRole", "", "r", json!(rules)),
                binding("", "b", "ClusterRole/r", "User/u"),
            ]);
            Authorizer::new(objects).authorize(&user("u", &[]), &attributes(&question)).is_allowed()
        };
        let mut more = rules.clone();
        more.push(added.clone());
        prop_assert_eq!(with(&rules) || with(&[added]), with(&more));
    }

    /// Escalation is judged by the rules' text, requests by what rules allow: whoever may grant a role may do all that
    /// the role allows.
    #[test]
    fn what_may_be_granted_may_be_done(
        own in prop::collection::vec(any_rule(), 0..4), wanted in prop::collection::vec(any_rule(), 1..3),
        question in any_question(),
    ) {
        let asked = attributes(&question);
        let missing = super::escalation::missing(&own, &wanted).unwrap();
        if missing.is_empty() && wanted.iter().any(|rule| rule.allows(&asked)) {
            prop_assert!(own.iter().any(|rule| rule.allows(&asked)), "{:?} {:?} {}", own, wanted, question);
        }
    }

    #[test]
    fn one_has_what_one_has(own in prop::collection::vec(any_rule(), 0..4)) {
        prop_assert_eq!(super::escalation::missing(&own, &own).unwrap(), vec![]);
    }
}
