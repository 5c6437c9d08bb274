//! ClusterRoles that are made of others.

use serde_json::Value;

use crate::field::list;
use crate::object;
use crate::selector::Labels;

/// The rules that an aggregated `role` should have, given all ClusterRoles; `None` when it has no `aggregationRule`, or
/// has them already.
///
/// Roles that aggregate each other settle when this is applied until it says `None` for all of them: each step only adds
/// what the others have.
pub fn aggregate(role: &Value, all: &[Value]) -> Option<Vec<Value>> {
    let aggregation = role.get("aggregationRule")?;
    let mut others: Vec<_> = all.iter().filter(|other| object::name(other) != object::name(role)).collect();
    others.sort_by_key(|other| object::name(other));
    let mut wanted: Vec<&Value> = Vec::new();
    for selector in list(aggregation, "/clusterRoleSelectors") {
        // One that is not valid selects nothing.
        let Ok(selector) = Labels::from_object(selector) else { continue };
        for other in others.iter().filter(|other| selector.matches(other)) {
            for rule in list(other, "/rules") {
                if !wanted.contains(&rule) {
                    wanted.push(rule);
                }
            }
        }
    }
    if list(role, "/rules").iter().eq(wanted.iter().copied()) {
        return None;
    }
    Some(wanted.into_iter().cloned().collect())
}
