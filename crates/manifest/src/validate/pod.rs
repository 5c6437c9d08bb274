//! Rules for what is said about the instance as a whole: names, strategies, DNS.

use super::cause::{Causes, Path};
use super::{names, text};
use crate::types::VirtualMachineInstanceSpec;

/// What a node drain may do.
const EVICTION_STRATEGIES: [&str; 4] = ["None", "LiveMigrate", "LiveMigrateIfPossible", "External"];

/// Where resolver settings may come from; unset is `ClusterFirst`.
const DNS_POLICIES: [&str; 5] = ["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None", ""];

pub(super) fn names(spec: &VirtualMachineInstanceSpec, path: &Path, causes: &mut Causes) {
    let rules = [
        ("hostname", "DNS_LABEL", text(&spec.hostname), names::dns_label_faults as fn(&str) -> Vec<String>),
        ("subdomain", "DNS_SUBDOMAIN", text(&spec.subdomain), names::dns_subdomain_faults),
    ];
    for (name, rule, value, faults) in rules {
        if value.is_empty() {
            continue;
        }
        let faults = faults(value);
        if !faults.is_empty() {
            let field = path.child(name);
            let faults = faults.join(", ");
            causes.invalid(
                &field,
                format!("{field} does not conform to the kubernetes {rule} rules : {faults}"),
            );
        }
    }
}

pub(super) fn start_strategy(spec: &VirtualMachineInstanceSpec, path: &Path, causes: &mut Causes) {
    let Some(strategy) = &spec.start_strategy else {
        return;
    };
    let field = path.child("startStrategy");
    if strategy != "Paused" {
        causes.invalid(&field, format!("{field} is set with an unrecognized option: {strategy}"));
    } else if spec.liveness_probe.is_some() {
        let message = format!(
            "either {field} or {path}.livenessProbe should be provided.Pausing VMI with LivenessProbe is not supported"
        );
        causes.invalid(&field, message);
    }
}

pub(super) fn eviction_strategy(spec: &VirtualMachineInstanceSpec, path: &Path, causes: &mut Causes) {
    let Some(strategy) = &spec.eviction_strategy else {
        return;
    };
    if !EVICTION_STRATEGIES.contains(&strategy.as_str()) {
        let field = path.child("evictionStrategy");
        causes.invalid(&field, format!("{field} is set with an unrecognized option: {strategy}"));
    }
}

pub(super) fn dns(spec: &VirtualMachineInstanceSpec, path: &Path, causes: &mut Causes) {
    let policy = text(&spec.dns_policy);
    if !DNS_POLICIES.contains(&policy) {
        let valid = DNS_POLICIES.join(" ");
        let message = format!("DNSPolicy: {policy} is not supported, valid values: [{valid}]");
        causes.invalid(&path.child("dnsPolicy"), message);
    }
    if policy != "None" {
        return;
    }
    let field = path.child("dnsConfig");
    match &spec.dns_config {
        None => causes.invalid(&field, "must provide `dnsConfig` when `dnsPolicy` is None"),
        Some(config) if config.nameservers.as_ref().is_none_or(Vec::is_empty) => {
            let message = "must provide at least one DNS nameserver when `dnsPolicy` is None";
            causes.invalid(&field.child("nameservers"), message);
        }
        Some(_) => {}
    }
}
