//! ClusterRoles that gather the rules of others by label (`aggregationRule`).

use serde_json::Value;
use tokio::sync::watch;

use crate::object;
use crate::rbac;
use crate::verbs::{Api, Context, Target};

use super::feed::{Change, Feed};

const USER: &str = "system:serviceaccount:kube-system:clusterrole-aggregation-controller";

/// Runs until the server stops.
pub(super) async fn run(api: Api, stop: watch::Receiver<bool>) {
    let wanted = |group: &str, plural: &str| group == rbac::GROUP && plural == "clusterroles";
    let mut feed = Feed::new(&api, |kind| wanted(&kind.group, &kind.names.plural), &stop);
    while let Some(change) = feed.next().await {
        let kind = match change {
            Change::Listed { kind, .. } | Change::Event { kind, .. } => kind,
        };
        let prefix = kind.storage_prefix();
        let all: Vec<Value> = api
            .store()
            .list(&prefix, None)
            .items
            .iter()
            .filter_map(|stored| serde_json::from_slice(&stored.json).ok())
            .collect();
        for role in all.iter().filter(|role| role.get("aggregationRule").is_some_and(|rule| !rule.is_null()))
        {
            let Some(rules) = rbac::aggregate(role, &all) else { continue };
            let target = Target {
                kind: &kind,
                version: kind.storage_version(),
                namespace: "",
                name: object::name(role),
                subresource: "",
            };
            let (uid, selectors) = (object::uid(role).to_owned(), role.get("aggregationRule").cloned());
            let make = move |old: &Value| {
                let mut new = old.clone();
                // Another role of that name, or one that asks for something else by now, must not get these rules.
                if object::uid(old) == uid && old.get("aggregationRule") == selectors.as_ref() {
                    new["rules"] = rules.clone().into();
                }
                Ok(new)
            };
            if let Err(error) = api.modify(&Context::internal(USER, api.now()), &target, make).await {
                // The next change of any role tries again.
                tracing::debug!(role = object::name(role), %error, "the role's rules are gathered later");
            }
        }
    }
}
