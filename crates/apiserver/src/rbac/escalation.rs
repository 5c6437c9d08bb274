//! Nobody grants what they do not have.
//!
//! Facts of k8s.io/kubernetes `pkg/registry/rbac/validation` (`ConfirmNoEscalation`, `Covers`) and
//! `pkg/registry/rbac/*/policybased`.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::authorizer::{Authorizer, aggregate_errors};
use super::rule::{Rule, has, path_matches, rules};
use super::{CLUSTER_ROLE, GROUP};
use crate::auth::{Attributes, Identity, MASTERS};
use crate::field;
use crate::object;
use crate::status::{ApiError, GroupResource};

/// The most texts that are compared to judge one role, some tenths of a second: other requests wait meanwhile. A rule
/// that nobody's rules cover as a whole is compared grant by grant.
const MAX_COMPARISONS: usize = 20_000_000;

/// What comparing with somebody's rules costs at least, so that the grants themselves are bounded too.
const LEAST_COST: usize = 100;

/// A write of a role or binding.
#[derive(Debug, Clone, Copy)]
pub struct RbacWrite<'a> {
    /// `roles`, `clusterroles`, `rolebindings` or `clusterrolebindings`.
    pub resource: &'a str,
    /// The namespace; empty at the cluster scope.
    pub namespace: &'a str,
    /// The object as it is to be stored.
    pub object: &'a Value,
    /// The stored object, on an update.
    pub old: Option<&'a Value>,
}

impl<'a> RbacWrite<'a> {
    fn forbidden(&self, why: impl std::fmt::Display) -> ApiError {
        let of = GroupResource { group: GROUP, resource: self.resource };
        ApiError::forbidden(of, object::name(self.object), why)
    }

    /// Whether the write takes away finalizers or owners and changes nothing else, which the garbage collector needs no
    /// rights for.
    fn is_garbage_collection(&self) -> bool {
        let Some(old) = self.old else { return false };
        let rest = |value: &Value| {
            let mut value = value.clone();
            if let Some(metadata) = object::metadata_mut(&mut value) {
                for field in
                    ["finalizers", "ownerReferences", "managedFields", "resourceVersion", "generation"]
                {
                    metadata.shift_remove(field);
                }
            }
            value
        };
        rest(old) == rest(self.object)
    }
}

impl Authorizer {
    /// Whether `identity` may write this role: it holds every right that the role grants, or has the verb `escalate` on
    /// it. A ClusterRole that is made of others may be written by those who may do everything.
    ///
    /// # Errors
    /// 403 with the rights that are missing.
    pub fn check_role(&self, identity: &Identity, write: &RbacWrite<'_>) -> Result<(), ApiError> {
        let escalate = Attributes {
            verb: "escalate",
            group: GROUP,
            version: "v1",
            resource: write.resource,
            namespace: write.namespace,
            // On a create the request has no name.
            name: write.old.map_or("", object::name),
            ..Attributes::default()
        };
        if identity.is_in(MASTERS)
            || write.is_garbage_collection()
            || self.authorize(identity, &escalate).is_allowed()
        {
            return Ok(());
        }
        self.confirm(identity, write.namespace, &rules(write.object)).map_err(|why| write.forbidden(why))?;
        let aggregates =
            |role: &Value| role.get("aggregationRule").is_some_and(|aggregation| !aggregation.is_null());
        if aggregates(write.object) || write.old.is_some_and(aggregates) {
            self.confirm(identity, write.namespace, &full_authority()).map_err(|_| {
                write.forbidden("must have cluster-admin privileges to use an aggregationRule")
            })?;
        }
        Ok(())
    }

    /// Whether `identity` may write this binding: it holds every right of the role, or has the verb `bind` on it.
    ///
    /// # Errors
    /// 403 with the rights that are missing, 404 when the role does not exist.
    pub fn check_binding(&self, identity: &Identity, write: &RbacWrite<'_>) -> Result<(), ApiError> {
        let text = |pointer: &str| field::text(write.object, pointer);
        let (kind, name) = (text("/roleRef/kind"), text("/roleRef/name"));
        let bind = Attributes {
            verb: "bind",
            group: GROUP,
            version: "v1",
            resource: if kind == CLUSTER_ROLE { "clusterroles" } else { "roles" },
            namespace: write.namespace,
            name,
            ..Attributes::default()
        };
        if identity.is_in(MASTERS)
            || write.is_garbage_collection()
            || self.authorize(identity, &bind).is_allowed()
        {
            return Ok(());
        }
        let granted = self.referenced(write.namespace, kind, name).map_err(|message| {
            let mut error = ApiError::not_found(
                GroupResource {
                    group: GROUP,
                    resource: if kind == CLUSTER_ROLE { "clusterrole" } else { "role" },
                },
                name,
            );
            error.message = message;
            error
        })?;
        self.confirm(identity, write.namespace, &granted).map_err(|why| write.forbidden(why))
    }

    fn confirm(&self, identity: &Identity, namespace: &str, wanted: &[Rule]) -> Result<(), String> {
        let (own, errors) = self.rules_for(identity, namespace);
        let missing = missing(&own, wanted)?;
        if missing.is_empty() {
            return Ok(());
        }
        let groups: Vec<_> = identity.groups.iter().map(|group| format!("{group:?}")).collect();
        let described: BTreeSet<String> = compact(missing).iter().map(describe).collect();
        let mut message = format!(
            "user {:?} (groups=[{}]) is attempting to grant RBAC permissions not currently held:\n{}",
            identity.user,
            groups.join(" "),
            Vec::from_iter(described).join("\n")
        );
        if !errors.is_empty() {
            message.push_str(&format!("; resolution errors: {}", aggregate_errors(&errors)));
        }
        Err(message)
    }
}

fn full_authority() -> [Rule; 2] {
    let all = || vec!["*".to_owned()];
    [
        Rule { verbs: all(), api_groups: all(), resources: all(), ..Rule::default() },
        Rule { verbs: all(), non_resource_urls: all(), ..Rule::default() },
    ]
}

/// The single grants of `wanted` that `own` does not cover.
pub(super) fn missing(own: &[Rule], wanted: &[Rule]) -> Result<Vec<Rule>, String> {
    let cost = own.iter().map(texts).sum::<usize>().max(LEAST_COST);
    let may_compare = |items: usize, what: &str| {
        if items.saturating_mul(cost) > MAX_COMPARISONS {
            return Err(format!("its rules make {items} {what}, more than can be compared with those held"));
        }
        Ok(())
    };
    may_compare(wanted.iter().map(texts).sum(), "entries")?;
    // A rule that one rule covers is covered grant by grant: this saves taking it apart.
    let open: Vec<_> = wanted.iter().filter(|rule| !own.iter().any(|owner| covers(owner, rule))).collect();
    let grants = open.iter().fold(0_usize, |sum, rule| sum.saturating_add(count(rule)));
    may_compare(grants, "single permissions")?;
    let mut missing = Vec::new();
    for rule in open {
        each_grant(rule, |grant| {
            if !own.iter().any(|owner| covers(owner, &grant)) {
                missing.push(grant);
            }
        });
    }
    Ok(missing)
}

/// How many texts a rule is made of.
fn texts(rule: &Rule) -> usize {
    let Rule { verbs, api_groups, resources, resource_names, non_resource_urls } = rule;
    [verbs, api_groups, resources, resource_names, non_resource_urls].into_iter().map(Vec::len).sum()
}

fn count(rule: &Rule) -> usize {
    let objects = [rule.api_groups.len(), rule.resources.len(), rule.resource_names.len().max(1)];
    let objects = objects.into_iter().fold(1_usize, usize::saturating_mul);
    objects.saturating_add(rule.non_resource_urls.len()).saturating_mul(rule.verbs.len())
}

/// Takes a rule apart into one verb on one thing each.
fn each_grant(rule: &Rule, mut grant: impl FnMut(Rule)) {
    let names: Vec<Vec<String>> = match &rule.resource_names[..] {
        [] => vec![Vec::new()],
        names => names.iter().map(|name| vec![name.clone()]).collect(),
    };
    for group in &rule.api_groups {
        for resource in &rule.resources {
            for verb in &rule.verbs {
                for name in &names {
                    grant(Rule {
                        verbs: vec![verb.clone()],
                        api_groups: vec![group.clone()],
                        resources: vec![resource.clone()],
                        resource_names: name.clone(),
                        ..Rule::default()
                    });
                }
            }
        }
    }
    for url in &rule.non_resource_urls {
        for verb in &rule.verbs {
            grant(Rule {
                verbs: vec![verb.clone()],
                non_resource_urls: vec![url.clone()],
                ..Rule::default()
            });
        }
    }
}

/// Whether everything that `rule` allows, `owner` allows.
fn covers(owner: &Rule, rule: &Rule) -> bool {
    let all = |own: &[String], wanted: &[String]| wanted.iter().all(|item| has(own, item));
    let resource = |wanted: &String| {
        has(&owner.resources, wanted)
            || wanted
                .split_once('/')
                .is_some_and(|(_, subresource)| has(&owner.resources, &format!("*/{subresource}")))
    };
    (has(&owner.verbs, "*") || all(&owner.verbs, &rule.verbs))
        && (has(&owner.api_groups, "*") || all(&owner.api_groups, &rule.api_groups))
        && (has(&owner.resources, "*") || rule.resources.iter().all(resource))
        && (owner.resource_names.is_empty()
            || !rule.resource_names.is_empty() && all(&owner.resource_names, &rule.resource_names))
        && rule
            .non_resource_urls
            .iter()
            .all(|url| owner.non_resource_urls.iter().any(|pattern| path_matches(pattern, url)))
}

/// Grants on the same thing put together again, for people: `CompactRules`.
fn compact(grants: Vec<Rule>) -> Vec<Rule> {
    let mut simple: BTreeMap<(String, String, Option<String>), Rule> = BTreeMap::new();
    let mut others = Vec::new();
    for mut grant in grants {
        match (&grant.api_groups[..], &grant.resources[..]) {
            ([group], [resource]) => {
                let key = (group.clone(), resource.clone(), grant.resource_names.first().cloned());
                match simple.get_mut(&key) {
                    Some(known) => known.verbs.append(&mut grant.verbs),
                    None => {
                        simple.insert(key, grant);
                    }
                }
            }
            _ => others.push(grant),
        }
    }
    others.extend(simple.into_values());
    others
}

/// `{APIGroups:[""], Resources:["pods"], Verbs:["get" "list"]}`
fn describe(rule: &Rule) -> String {
    let parts = [
        ("APIGroups", &rule.api_groups),
        ("Resources", &rule.resources),
        ("NonResourceURLs", &rule.non_resource_urls),
        ("ResourceNames", &rule.resource_names),
        ("Verbs", &rule.verbs),
    ];
    let shown: Vec<_> = parts
        .into_iter()
        .filter(|(_, values)| !values.is_empty())
        .map(|(field, values)| {
            let values: Vec<_> = values.iter().map(|value| format!("{value:?}")).collect();
            format!("{field}:[{}]", values.join(" "))
        })
        .collect();
    format!("{{{}}}", shown.join(", "))
}
