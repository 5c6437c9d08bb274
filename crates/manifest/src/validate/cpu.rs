//! Rules for CPUs: requests, limits, topology, pinning, features.

use super::cause::{Causes, Path};
use super::text;
use crate::types::DomainSpec;
use quantity::Quantity;

/// What a feature of the CPU may be told to be; unset means `require`.
const FEATURE_POLICIES: [&str; 6] = ["", "force", "require", "optional", "disable", "forbid"];

pub(super) fn check(domain: &DomainSpec, path: &Path, causes: &mut Causes) {
    let resources = domain.resources.as_ref();
    let request = resources.and_then(|resources| resources.requests.get("cpu"));
    let limit = resources.and_then(|resources| resources.limits.get("cpu"));
    let request_field = path.child("resources.requests.cpu");
    let limit_field = path.child("resources.limits.cpu");
    for (field, value) in [(&request_field, request), (&limit_field, limit)] {
        if let Some(value) = value.filter(|value| value.is_negative()) {
            causes.invalid(field, format!("{field} '{value}': must be greater than or equal to 0."));
        }
    }
    if let (Some(request), Some(limit)) = (request, limit)
        && limit.millis() > 0
        && request.millis() > limit.millis()
    {
        let message = format!("{request_field} '{request}' is greater than {limit_field} '{limit}'");
        causes.invalid(&request_field, message);
    }
    let Some(cpu) = &domain.cpu else { return };
    let path = path.child("cpu");
    let dedicated = cpu.dedicated_cpu_placement == Some(true);
    if dedicated {
        let parts = |value: Option<&Quantity>| value.is_some_and(|value| value.millis() % 1000 != 0);
        // "interger" is how KubeVirt writes it.
        if parts(limit) {
            causes.invalid(&limit_field, "provided resources CPU limits must be an interger");
        }
        if parts(request) {
            causes.invalid(&request_field, "provided resources CPU requests must be an interger");
        }
        let nothing = |value: Option<&Quantity>| value.is_none_or(Quantity::is_zero);
        if nothing(request) && nothing(limit) && cpu.cores.unwrap_or(0) == 0 {
            let message = format!(
                "either {request_field} or {limit_field} or {path}.cores must be provided when \
                 DedicatedCPUPlacement is true "
            );
            causes.invalid(&path.child("dedicatedCpuPlacement"), message);
        }
    }
    if cpu.isolate_emulator_thread == Some(true) && !dedicated {
        let message = "IsolateEmulatorThread should be only set in combination with DedicatedCPUPlacement";
        causes.invalid(&path.child("isolateEmulatorThread"), message);
    }
    for (index, feature) in cpu.features.iter().enumerate() {
        let policy = text(&feature.policy);
        if !FEATURE_POLICIES.contains(&policy) {
            let field = path.child("features").index(index).child("policy");
            let message = format!("CPU feature {} uses policy {policy} that is not supported.", feature.name);
            causes.not_supported(&field, message);
        }
    }
    let most = cpu.max_sockets.unwrap_or(0);
    if most != 0 && cpu.sockets.unwrap_or(0) > most {
        let message = "Number of sockets in CPU topology is greater than the maximum sockets allowed";
        causes.invalid(&path.child("sockets"), message);
    }
}
