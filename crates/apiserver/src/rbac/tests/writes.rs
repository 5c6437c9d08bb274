//! Writes of roles and bindings: their form, and who may.

use std::sync::Arc;

use super::*;
use crate::kind::{Admission, Hooks, Operation};

fn request<'a>(
    operation: Operation,
    namespace: &'a str,
    user: &'a str,
    groups: &'a [String],
) -> Admission<'a> {
    Admission {
        operation,
        subresource: "",
        namespace,
        name: "",
        user,
        groups,
        now: jiff::Timestamp::UNIX_EPOCH,
    }
}

#[test]
fn nobody_grants_what_they_do_not_have() {
    let objects = world();
    let write_roles = |verbs: Value| json!([{ "verbs": verbs, "apiGroups": [GROUP], "resources": ["roles", "clusterroles"] }]);
    objects.put(role("Role", "ns", "escalator", write_roles(json!(["escalate", "bind"]))));
    objects.put(binding("ns", "e", "Role/escalator", "User/trusted"));
    let authorizer = Arc::new(Authorizer::new(objects));
    let roles = RoleHooks { authorizer: Some(Arc::clone(&authorizer)) };
    let bindings = BindingHooks { authorizer: Some(authorizer) };
    let groups = vec!["g1".to_owned(), "g2".to_owned()];
    let wider = role(
        "Role",
        "ns",
        "wider",
        json!([{ "verbs": ["get", "list", "watch"], "apiGroups": [""], "resources": ["pods", "secrets"] }]),
    );
    let create = |user, groups| request(Operation::Create, "ns", user, groups);
    let error = roles.validate(&create("alice", &groups), &wider, None, &mut Vec::new()).unwrap_err();
    assert_eq!(error.code, 403);
    assert_eq!(
        error.message,
        "roles.rbac.authorization.k8s.io \"wider\" is forbidden: user \"alice\" (groups=[\"g1\" \"g2\"]) is \
         attempting to grant RBAC permissions not currently held:\n{APIGroups:[\"\"], Resources:[\"pods\"], \
         Verbs:[\"list\" \"watch\"]}\n{APIGroups:[\"\"], Resources:[\"secrets\"], Verbs:[\"get\" \"list\" \"watch\"]}"
    );
    let narrow = role(
        "Role",
        "ns",
        "narrow",
        json!([{ "verbs": ["get"], "apiGroups": [""], "resources": ["pods"], "resourceNames": ["a"] }]),
    );
    roles.validate(&create("alice", &[]), &narrow, None, &mut Vec::new()).unwrap();
    roles.validate(&create("trusted", &[]), &wider, None, &mut Vec::new()).unwrap();
    let masters = vec!["system:masters".to_owned()];
    roles.validate(&create("x", &masters), &wider, None, &mut Vec::new()).unwrap();

    let mut own = binding("ns", "own", "Role/reader", "User/bob");
    bindings.validate(&create("alice", &[]), &own, None, &mut Vec::new()).unwrap();
    let error = bindings.validate(&create("bob", &[]), &own, None, &mut Vec::new()).unwrap_err();
    assert!(
        error.message.contains("not currently held:\n{APIGroups:[\"\"], Resources:[\"pods\"]"),
        "{error}"
    );
    bindings.validate(&create("trusted", &[]), &own, None, &mut Vec::new()).unwrap();
    own["roleRef"]["name"] = "absent".into();
    let error = bindings.validate(&create("alice", &[]), &own, None, &mut Vec::new()).unwrap_err();
    assert_eq!(
        (error.code, error.message.as_str()),
        (404, r#"role.rbac.authorization.k8s.io "absent" not found"#)
    );

    // The garbage collector may take away owners.
    let mut owned = wider.clone();
    owned["metadata"]["ownerReferences"] = json!([{ "uid": "1" }]);
    let update = request(Operation::Update, "ns", "alice", &[]);
    roles.validate(&update, &wider, Some(&owned), &mut Vec::new()).unwrap();
}

#[test]
fn an_aggregation_rule_needs_full_authority() {
    let objects = world();
    let all = json!([
        { "verbs": ["*"], "apiGroups": ["*"], "resources": ["*"] },
        { "verbs": ["*"], "nonResourceURLs": ["*"] },
    ]);
    objects.put(role("ClusterRole", "", "everything", all));
    objects.put(binding("", "root", "ClusterRole/everything", "User/root"));
    let hooks = RoleHooks { authorizer: Some(Arc::new(Authorizer::new(objects))) };
    let mut whole = role("ClusterRole", "", "whole", json!([]));
    whole["aggregationRule"] = json!({ "clusterRoleSelectors": [{}] });
    let create = |user| request(Operation::Create, "", user, &[]);
    hooks.validate(&create("root"), &whole, None, &mut Vec::new()).unwrap();
    let error = hooks.validate(&create("carol"), &whole, None, &mut Vec::new()).unwrap_err();
    assert_eq!(
        error.message,
        "clusterroles.rbac.authorization.k8s.io \"whole\" is forbidden: must have cluster-admin privileges to use an \
         aggregationRule"
    );
}

#[test]
fn a_role_too_wide_to_compare_is_refused() {
    let many: Vec<String> = (0..100).map(|index| index.to_string()).collect();
    let huge = json!([{ "verbs": many, "apiGroups": many, "resources": many, "resourceNames": many }]);
    let hooks = RoleHooks { authorizer: Some(Arc::new(Authorizer::new(world()))) };
    let request = request(Operation::Create, "ns", "alice", &[]);
    let error =
        hooks.validate(&request, &role("Role", "ns", "huge", huge), None, &mut Vec::new()).unwrap_err();
    assert_eq!(error.code, 403);
    assert!(error.message.contains("100000000 single permissions"), "{error}");
}

#[test]
fn judging_a_role_costs_a_bounded_time() {
    let names = |count: usize| (0..count).map(|index| index.to_string()).collect::<Vec<_>>();
    let rule = |own: usize| {
        let names = names(own);
        super::rule_of(
            json!({ "verbs": ["get"], "apiGroups": [""], "resources": ["pods"], "resourceNames": names }),
        )
    };
    // What is held and what is wanted, each bounded by the size of a request, are compared with one another.
    for (own, wanted, is_judged) in [(100, 1000, true), (0, 20_000, true), (20_000, 20_000, false)] {
        let missing = super::super::escalation::missing(&[rule(own)], &[rule(wanted)]);
        assert_eq!(missing.is_ok(), is_judged, "{own} {wanted}: {:?}", missing.err());
    }
}

#[test]
fn the_form_of_roles_and_bindings_is_checked() {
    let (roles, bindings) = (RoleHooks { authorizer: None }, BindingHooks { authorizer: None });
    let check = |object: &Value, old: Option<&Value>| {
        let operation = if old.is_some() { Operation::Update } else { Operation::Create };
        let request = request(operation, object::namespace(object), "x", &[]);
        let hooks: &dyn Hooks = if object.get("roleRef").is_some() { &bindings } else { &roles };
        let mut object = object.clone();
        hooks.default(&request, &mut object, old, &mut Vec::new()).unwrap();
        let faults: Vec<_> = hooks.faults(&request, &object, old).iter().map(ToString::to_string).collect();
        faults.join(", ")
    };
    let role_table = [
        (
            "Role",
            json!({}),
            r#"rules[0].verbs: Required value: verbs must contain at least one value, rules[0].apiGroups: Required value: resource rules must supply at least one api group, rules[0].resources: Required value: resource rules must supply at least one resource"#,
        ),
        (
            "Role",
            json!({ "verbs": ["get"], "nonResourceURLs": ["/x"] }),
            r#"rules[0].nonResourceURLs: Invalid value: ["/x"]: namespaced rules cannot apply to non-resource URLs"#,
        ),
        (
            "ClusterRole",
            json!({ "verbs": ["get"], "nonResourceURLs": ["/x"], "resources": ["y"] }),
            r#"rules[0].nonResourceURLs: Invalid value: ["/x"]: rules cannot apply to both regular resources and non-resource URLs"#,
        ),
        (
            "ClusterRole",
            json!({ "verbs": "get" }),
            r#"rules[0]: Invalid value: {"verbs":"get"}: must be a rule of lists of strings"#,
        ),
    ];
    for (kind, rule, message) in role_table {
        let namespace = if kind == "Role" { "ns" } else { "" };
        assert_eq!(check(&role(kind, namespace, "r", json!([rule])), None), message);
    }
    let good = binding("ns", "b", "Role/reader", "User/alice");
    assert_eq!(check(&good, None), "");
    let mut unsaid = good.clone();
    unsaid["roleRef"].as_object_mut().unwrap().remove("apiGroup");
    unsaid["subjects"][0].as_object_mut().unwrap().remove("apiGroup");
    assert_eq!(check(&unsaid, Some(&good)), "", "the group is a default");

    let edit = |pointer: &str, value: Value| {
        let mut binding = good.clone();
        *binding.pointer_mut(pointer).unwrap() = value;
        binding
    };
    let table = [
        (
            edit("/roleRef/kind", "Rule".into()),
            r#"roleRef.kind: Unsupported value: "Rule": supported values: "Role", "ClusterRole""#,
        ),
        (edit("/roleRef/name", "".into()), "roleRef.name: Required value"),
        (edit("/roleRef/name", "a/b".into()), r#"roleRef.name: Invalid value: "a/b": may not contain '/'"#),
        (
            edit("/roleRef/apiGroup", "x".into()),
            r#"roleRef.apiGroup: Unsupported value: "x": supported values: "rbac.authorization.k8s.io""#,
        ),
        (edit("/subjects/0/name", "".into()), "subjects[0].name: Required value"),
        (
            edit("/subjects/0/kind", "Robot".into()),
            r#"subjects[0].kind: Unsupported value: "Robot": supported values: "ServiceAccount", "User", "Group""#,
        ),
    ];
    for (object, message) in table {
        assert_eq!(check(&object, None), message);
    }
    let other = edit("/roleRef/name", "other".into());
    assert_eq!(
        check(&other, Some(&good)),
        "roleRef: Invalid value: {\"apiGroup\":\"rbac.\
         authorization.k8s.io\",\"kind\":\"Role\",\"name\":\"other\"}: cannot change roleRef"
    );
    let to_role = binding("", "b", "Role/reader", "User/alice");
    assert!(
        check(&to_role, None)
            .contains(r#"roleRef.kind: Unsupported value: "Role": supported values: "ClusterRole""#)
    );
}
