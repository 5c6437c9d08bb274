//! What a launcher Pod asks of its node: the guest's memory and CPUs, and the machinery around it.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ResourceRequirements;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as PodQuantity;
use manifest::types::VirtualMachineInstanceSpec;
use manifest::{MemoryError, Quantity, cpu_topology, guest_memory_bytes};

const MIB: u64 = 1 << 20;

/// Page tables take one byte for this many of the guest's (KubeVirt 1.9 `GetMemoryOverhead`, as all amounts here).
const BYTES_PER_PAGE_TABLE_BYTE: u64 = 512;

/// The processes around the guest: monitor 25, launcher 100, log daemon 25, hypervisor daemon 40, VMM itself 50.
const PROCESSES: u64 = 240 * MIB;

/// For each virtual CPU.
const EACH_CPU: u64 = 8 * MIB;

/// For I/O threads.
const IO: u64 = 8 * MIB;

/// For the video memory of a display.
const GRAPHICS: u64 = 32 * MIB;

/// On arm64, for its firmware's flash.
const ARM64: u64 = 128 * MIB;

/// For a TPM's emulator.
const TPM: u64 = 53 * MIB;

/// Where the Pod may not be throttled: CPUs of its own, or quality of service `Guaranteed`.
const GUARANTEED: u64 = 100 * MIB;

/// CPU that one virtual CPU requests, in thousandths: ten share one (`cpuAllocationRatio`).
const MILLIS_EACH_CPU: u64 = 100;

/// Memory of the machinery beside the guest's, in bytes.
///
/// # Errors
/// When the spec does not say how much memory the guest has.
pub fn overhead_bytes(spec: &VirtualMachineInstanceSpec) -> Result<u64, MemoryError> {
    let domain = &spec.domain;
    let mut overhead = requested_memory(spec)? / BYTES_PER_PAGE_TABLE_BYTE + PROCESSES + IO;
    overhead = overhead.saturating_add(EACH_CPU.saturating_mul(cpu_topology(spec).cpus()));
    if domain.devices.autoattach_graphics_device.unwrap_or(true) {
        overhead = overhead.saturating_add(GRAPHICS);
    }
    if spec.architecture.as_deref() == Some("arm64") {
        overhead = overhead.saturating_add(ARM64);
    }
    if domain.devices.tpm.is_some() {
        overhead = overhead.saturating_add(TPM);
    }
    let dedicated = domain.cpu.as_ref().and_then(|cpu| cpu.dedicated_cpu_placement).unwrap_or(false);
    if dedicated || is_guaranteed(spec) {
        overhead = overhead.saturating_add(GUARANTEED);
    }
    Ok(overhead)
}

/// Requests and limits of the container `compute`.
///
/// # Errors
/// When the spec does not say how much memory the guest has.
pub(super) fn compute(spec: &VirtualMachineInstanceSpec) -> Result<ResourceRequirements, MemoryError> {
    let overhead = overhead_bytes(spec)?;
    let resources = spec.domain.resources.as_ref();
    let stated = |amounts: fn(&manifest::types::ResourceRequirements) -> &BTreeMap<String, Quantity>,
                  name| { resources.and_then(|resources| amounts(resources).get(name)) };
    let is_overcommitted =
        resources.and_then(|resources| resources.overcommit_guest_overhead).unwrap_or(false);
    let beside = if is_overcommitted { 0 } else { overhead };
    let memory = requested_memory(spec)?.saturating_add(beside);
    let cpu = match stated(|resources| &resources.requests, "cpu") {
        Some(cpu) => cpu.canonical(),
        None => format!("{}m", cpu_topology(spec).cpus().saturating_mul(MILLIS_EACH_CPU)),
    };
    let requests = BTreeMap::from([
        ("cpu".to_owned(), PodQuantity(cpu)),
        ("memory".to_owned(), PodQuantity(Quantity::from_bytes(memory).canonical())),
    ]);
    let mut limits = BTreeMap::new();
    if let Some(cpu) = stated(|resources| &resources.limits, "cpu") {
        limits.insert("cpu".to_owned(), PodQuantity(cpu.canonical()));
    }
    if let Some(memory) = stated(|resources| &resources.limits, "memory") {
        let bytes = memory.bytes().saturating_add(overhead);
        limits.insert("memory".to_owned(), PodQuantity(Quantity::from_bytes(bytes).canonical()));
    }
    Ok(ResourceRequirements {
        requests: Some(requests),
        limits: Some(limits).filter(|limits| !limits.is_empty()),
        ..ResourceRequirements::default()
    })
}

/// Memory that is requested for the guest: what the spec says in so many words, else all of the guest's.
fn requested_memory(spec: &VirtualMachineInstanceSpec) -> Result<u64, MemoryError> {
    let guest = guest_memory_bytes(spec)?;
    let stated = spec.domain.resources.as_ref().and_then(|resources| resources.requests.get("memory"));
    Ok(stated.map_or(guest, Quantity::bytes))
}

/// Whether every limit is stated and every request that is stated is the same.
fn is_guaranteed(spec: &VirtualMachineInstanceSpec) -> bool {
    let Some(resources) = &spec.domain.resources else { return false };
    ["cpu", "memory"].iter().all(|name| {
        resources
            .limits
            .get(*name)
            .is_some_and(|limit| resources.requests.get(*name).is_none_or(|request| request == limit))
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;

    #[test]
    fn the_overhead_is_kubevirts() {
        let none = json!({"devices": {"autoattachGraphicsDevice": false}, "memory": {"guest": "1Gi"}});
        let table = [
            (json!({"devices": {}, "memory": {"guest": "1Gi"}}), 2 + 240 + 8 + 8 + 32),
            (none, 2 + 240 + 8 + 8),
            (
                json!({"devices": {}, "memory": {"guest": "512Mi"}, "cpu": {"cores": 4}}),
                1 + 240 + 8 + 32 + 32,
            ),
            (
                json!({"devices": {}, "resources": {
                    "requests": {"memory": "1Gi", "cpu": 1}, "limits": {"memory": "1Gi", "cpu": 1},
                }}),
                2 + 240 + 8 + 8 + 32 + 100,
            ),
        ];
        for (domain, mebibytes) in table {
            let spec = serde_json::from_value(json!({"domain": domain})).unwrap();
            assert_eq!(overhead_bytes(&spec), Ok(mebibytes * MIB), "{domain}");
        }
    }

    #[test]
    fn requests_and_limits_are_the_guests_and_the_overhead() {
        let table = [
            (
                json!({"devices": {}, "memory": {"guest": "1Gi"}, "cpu": {"cores": 2}}),
                json!({"requests": {"cpu": "200m", "memory": "1322Mi"}}),
            ),
            (
                json!({"devices": {}, "memory": {"guest": "1Gi"}, "resources": {
                    "requests": {"memory": "512Mi", "cpu": "0.5"}, "overcommitGuestOverhead": true,
                }}),
                json!({"requests": {"cpu": "500m", "memory": "512Mi"}}),
            ),
            (
                json!({"devices": {}, "resources": {"limits": {"memory": "1Gi", "cpu": 2}, "requests": {"cpu": 1}}}),
                json!({
                    "requests": {"cpu": "1", "memory": "1322Mi"},
                    "limits": {"cpu": "2", "memory": "1322Mi"},
                }),
            ),
        ];
        for (domain, expected) in table {
            let spec = serde_json::from_value(json!({"domain": domain})).unwrap();
            assert_eq!(serde_json::to_value(compute(&spec).unwrap()).unwrap(), expected, "{domain}");
        }
    }

    #[test]
    fn absurd_amounts_do_not_overflow() {
        let domain = json!({
            "devices": {}, "memory": {"guest": "9E"},
            "cpu": {"cores": u32::MAX, "sockets": u32::MAX, "threads": u32::MAX},
        });
        let spec = serde_json::from_value(json!({"domain": domain})).unwrap();
        assert_eq!(overhead_bytes(&spec), Ok(u64::MAX));
        compute(&spec).unwrap();
    }
}
