//! Rules for readiness and liveness probes.

use super::cause::{Causes, Path};
use crate::types::{Probe, VirtualMachineInstanceSpec};

pub(super) fn check(spec: &VirtualMachineInstanceSpec, path: &Path, causes: &mut Causes) {
    let probes = [("readinessProbe", &spec.readiness_probe), ("livenessProbe", &spec.liveness_probe)];
    for (name, probe) in probes {
        if let Some(probe) = probe {
            exactly_one_type(probe, &path.child(name), causes);
        }
    }
    if spec.networks.iter().any(|network| network.pod.is_some()) {
        return;
    }
    for (name, probe) in probes {
        let Some(probe) = probe else { continue };
        let types = [("httpGet", probe.http_get.is_some()), ("tcpSocket", probe.tcp_socket.is_some())];
        for (kind, _) in types.into_iter().filter(|(_, set)| *set) {
            let field = path.child(name).child(kind);
            causes.invalid(&field, format!("{field} is only allowed if the Pod Network is attached"));
        }
    }
}

fn exactly_one_type(probe: &Probe, field: &Path, causes: &mut Causes) {
    let types = [
        probe.exec.is_some(),
        probe.guest_agent_ping.is_some(),
        probe.http_get.is_some(),
        probe.tcp_socket.is_some(),
    ];
    match types.into_iter().filter(|set| *set).count() {
        0 => {
            let message = format!(
                "either {field}.tcpSocket, {field}.exec or {field}.httpGet must be set if a {field} is specified"
            );
            causes.required(field, message);
        }
        1 => {}
        _ => causes.invalid(field, format!("{field} must have exactly one probe type set")),
    }
}
