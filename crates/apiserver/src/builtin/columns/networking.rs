//! The columns of ingresses and network policies.

use jiff::Timestamp;
use serde_json::Value;

use super::{AGE, Found, joined, selector, shown, text};
use crate::field::{self, list};
use crate::kind::Column;

/// How many hosts are shown.
const MOST_HOSTS: usize = 3;

/// Ingresses.
pub(in crate::builtin) const INGRESSES: &[Column] = &[
    shown("Class", "string", |object, _| text(field::text(object, "/spec/ingressClassName"))),
    shown("Hosts", "string", hosts),
    shown("Address", "string", |object, _| {
        let of = |ingress| {
            let address = field::text(ingress, "/ip");
            if address.is_empty() { field::text(ingress, "/hostname") } else { address }
        };
        let all: Vec<_> = list(object, "/status/loadBalancer/ingress").iter().map(of).collect();
        Some(all.join(",").into())
    }),
    shown("Ports", "string", |object, _| {
        Some(if list(object, "/spec/tls").is_empty() { "80" } else { "80, 443" }.into())
    }),
    AGE,
];

fn hosts(object: &Value, _: Timestamp) -> Found {
    let hosts = list(object, "/spec/rules").iter().map(|rule| field::text(rule, "/host"));
    let hosts: Vec<_> = hosts.filter(|host| !host.is_empty()).collect();
    Some(match hosts.len() {
        0 => "*".into(),
        more if more > MOST_HOSTS => {
            format!("{} + {} more...", hosts[..MOST_HOSTS].join(","), more - MOST_HOSTS).into()
        }
        _ => hosts.join(",").into(),
    })
}

/// IngressClasses.
pub(in crate::builtin) const INGRESS_CLASSES: &[Column] = &[
    shown("Controller", "string", |object, _| Some(field::text(object, "/spec/controller").into())),
    shown("Parameters", "string", |object, _| {
        let of = |name: &str| field::text(object, &format!("/spec/parameters/{name}")).to_owned();
        let (group, kind, name) = (of("apiGroup"), of("kind"), of("name"));
        match (kind.is_empty(), group.is_empty()) {
            (true, _) => None,
            (_, true) => Some(format!("{kind}/{name}").into()),
            (_, false) => Some(format!("{kind}.{group}/{name}").into()),
        }
    }),
    AGE,
];

/// NetworkPolicies.
pub(in crate::builtin) const NETWORK_POLICIES: &[Column] = &[
    shown("Pod-Selector", "string", |object, _| {
        selector(object.pointer("/spec/podSelector")).or_else(|| joined([]))
    }),
    AGE,
];
