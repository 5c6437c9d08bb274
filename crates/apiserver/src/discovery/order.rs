//! In which order groups and versions are listed.

use std::cmp::{Ordering, Reverse};

/// Kubernetes' own groups by the priority of their API services; all others follow by name, as custom resources do.
const GROUPS: [&str; 22] = [
    "",
    "apiregistration.k8s.io",
    "apps",
    "events.k8s.io",
    "authentication.k8s.io",
    "authorization.k8s.io",
    "autoscaling",
    "batch",
    "certificates.k8s.io",
    "networking.k8s.io",
    "policy",
    "rbac.authorization.k8s.io",
    "storage.k8s.io",
    "admissionregistration.k8s.io",
    "apiextensions.k8s.io",
    "scheduling.k8s.io",
    "coordination.k8s.io",
    "node.k8s.io",
    "discovery.k8s.io",
    "resource.k8s.io",
    "flowcontrol.apiserver.k8s.io",
    "internal.apiserver.k8s.io",
];

/// Which group is listed first.
pub(super) fn groups(one: &str, other: &str) -> Ordering {
    let place = |group: &str| GROUPS.iter().position(|known| *known == group).unwrap_or(GROUPS.len());
    (place(one), one).cmp(&(place(other), other))
}

/// `v1`: (how stable, the major number, the minor number).
fn parse(version: &str) -> Option<(u8, u32, u32)> {
    let rest = version.strip_prefix('v')?;
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    let major = rest[..digits].parse().ok()?;
    let rest = &rest[digits..];
    if rest.is_empty() {
        return Some((3, major, 0));
    }
    let (stability, minor) = match (rest.strip_prefix("beta"), rest.strip_prefix("alpha")) {
        (Some(minor), _) => (2, minor),
        (_, Some(minor)) => (1, minor),
        _ => return None,
    };
    Some((stability, major, minor.parse().ok()?))
}

/// Which version is preferred: stable before beta before alpha, newer before older, and anything else at the end
/// (`version.CompareKubeAwareVersionStrings`).
pub(super) fn versions(one: &str, other: &str) -> Ordering {
    (Reverse(parse(one)), one).cmp(&(Reverse(parse(other)), other))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stable_versions_come_first() {
        let mut found = ["foo1", "v1alpha3", "v2beta1", "v1", "v10", "v2", "v1beta2", "v2alpha1"];
        found.sort_by(|one, other| versions(one, other));
        assert_eq!(found, ["v10", "v2", "v1", "v2beta1", "v1beta2", "v2alpha1", "v1alpha3", "foo1"]);
    }

    #[test]
    fn groups_that_are_not_of_kubernetes_follow_by_name() {
        let mut found = ["pool.kubevirt.io", "batch", "kubevirt.io", "apps", "", "discovery.k8s.io"];
        found.sort_by(|one, other| groups(one, other));
        assert_eq!(found, ["", "apps", "batch", "discovery.k8s.io", "kubevirt.io", "pool.kubevirt.io"]);
    }
}
