//! How much memory and how many CPUs a spec asks for, over all the places where it may say so.

use std::collections::BTreeMap;

use crate::types::VirtualMachineInstanceSpec;
use quantity::{Quantity, QuantityError};

/// Why the amount of guest memory cannot be told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MemoryError {
    /// No field gives an amount. The text is KubeVirt's.
    #[error(
        "no memory requested, at least one of 'spec.domain.memory.guest', 'spec.domain.memory.hugepages.pageSize' \
         or 'spec.domain.resources.requests.memory' must be set"
    )]
    Unset,
    /// The amount is zero or negative.
    #[error("guest memory cannot be `{value}`, the value of `{field}`")]
    NotPositive {
        /// The field, below the spec.
        field: &'static str,
        /// What it says.
        value: String,
    },
    /// The page size is no quantity.
    #[error("could not read the page size `{value}` in `domain.memory.hugepages.pageSize`")]
    PageSize {
        /// What it says.
        value: String,
        /// Why it is no quantity.
        #[source]
        source: QuantityError,
    },
}

impl MemoryError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        Some("set `domain.memory.guest`, for example to `512Mi`".to_owned())
    }
}

/// The amount of guest memory that `spec` asks for, as it is written.
///
/// The first of these that is set counts: `memory.guest`, `resources.requests.memory`, `resources.limits.memory`,
/// `memory.hugepages.pageSize`.
///
/// # Errors
///
/// When none is set, or the one that counts is not a positive amount.
pub fn guest_memory(spec: &VirtualMachineInstanceSpec) -> Result<Quantity, MemoryError> {
    let memory = spec.domain.memory.as_ref();
    let resources = spec.domain.resources.as_ref();
    let stated = [
        ("domain.memory.guest", memory.and_then(|memory| memory.guest.as_ref())),
        (
            "domain.resources.requests.memory",
            resources.and_then(|resources| resources.requests.get("memory")),
        ),
        ("domain.resources.limits.memory", resources.and_then(|resources| resources.limits.get("memory"))),
    ];
    if let Some((field, quantity)) =
        stated.into_iter().find_map(|(field, quantity)| quantity.map(|quantity| (field, quantity)))
    {
        return positive(field, quantity.clone());
    }
    let page_size = memory
        .and_then(|memory| memory.hugepages.as_ref())
        .and_then(|hugepages| hugepages.page_size.as_deref())
        .filter(|text| !text.is_empty())
        .ok_or(MemoryError::Unset)?;
    let quantity =
        page_size.parse().map_err(|source| MemoryError::PageSize { value: page_size.to_owned(), source })?;
    positive("domain.memory.hugepages.pageSize", quantity)
}

/// The amount of [`guest_memory`] in bytes.
///
/// # Errors
///
/// Those of [`guest_memory`].
pub fn guest_memory_bytes(spec: &VirtualMachineInstanceSpec) -> Result<u64, MemoryError> {
    guest_memory(spec).map(|quantity| quantity.bytes())
}

fn positive(field: &'static str, quantity: Quantity) -> Result<Quantity, MemoryError> {
    if quantity.bytes() == 0 {
        return Err(MemoryError::NotPositive { field, value: quantity.to_string() });
    }
    Ok(quantity)
}

/// How many virtual CPUs there are and how they are arranged; no count is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CpuTopology {
    /// Sockets.
    pub sockets: u32,
    /// Cores in each socket.
    pub cores: u32,
    /// Threads of each core.
    pub threads: u32,
}

impl CpuTopology {
    /// All virtual CPUs; `u64::MAX` where the product is beyond it.
    pub fn cpus(&self) -> u64 {
        u64::from(self.sockets).saturating_mul(u64::from(self.cores)).saturating_mul(u64::from(self.threads))
    }
}

/// The CPU topology that `spec` asks for.
///
/// Counts that are set stand, and the others are 1. When none is set, there is one socket for each CPU of
/// `resources.limits`, else of `resources.requests`, rounded up, and one where neither says anything.
pub fn cpu_topology(spec: &VirtualMachineInstanceSpec) -> CpuTopology {
    let set = |count: Option<u32>| count.filter(|&count| count > 0);
    let (sockets, cores, threads) = spec
        .domain
        .cpu
        .as_ref()
        .map_or((None, None, None), |cpu| (set(cpu.sockets), set(cpu.cores), set(cpu.threads)));
    if sockets.is_none() && cores.is_none() && threads.is_none() {
        return CpuTopology { sockets: sockets_of_resources(spec), cores: 1, threads: 1 };
    }
    CpuTopology { sockets: sockets.unwrap_or(1), cores: cores.unwrap_or(1), threads: threads.unwrap_or(1) }
}

fn sockets_of_resources(spec: &VirtualMachineInstanceSpec) -> u32 {
    let cpus = |amounts: &BTreeMap<String, Quantity>| {
        amounts
            .get("cpu")
            .map(Quantity::units)
            .filter(|&cpus| cpus > 0)
            .map(|cpus| u32::try_from(cpus).unwrap_or(u32::MAX))
    };
    spec.domain
        .resources
        .as_ref()
        .and_then(|resources| cpus(&resources.limits).or_else(|| cpus(&resources.requests)))
        .unwrap_or(1)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;

    fn spec(domain: serde_json::Value) -> VirtualMachineInstanceSpec {
        serde_json::from_value(json!({ "domain": domain })).unwrap()
    }

    #[test]
    fn memory_is_taken_from_the_first_place_that_states_it() {
        let table = [
            (
                json!({"memory": {"guest": "1Gi", "hugepages": {"pageSize": "2Mi"}},
                    "resources": {"requests": {"memory": "2Gi"}, "limits": {"memory": "3Gi"}}}),
                1 << 30,
            ),
            (
                json!({"memory": {"hugepages": {"pageSize": "2Mi"}},
                    "resources": {"requests": {"memory": "2Gi"}, "limits": {"memory": "3Gi"}}}),
                2 << 30,
            ),
            (
                json!({"memory": {"hugepages": {"pageSize": "2Mi"}}, "resources": {"limits": {"memory": "3G"}}}),
                3_000_000_000,
            ),
            (json!({"memory": {"hugepages": {"pageSize": "2Mi"}}}), 2 << 20),
            (json!({"memory": {"guest": "0.5"}}), 1),
        ];
        for (domain, bytes) in table {
            assert_eq!(guest_memory_bytes(&spec(domain.clone())), Ok(bytes), "{domain}");
        }
    }

    #[test]
    fn memory_that_cannot_be_told_is_an_error() {
        let found = |domain| guest_memory_bytes(&spec(domain)).unwrap_err();
        assert_eq!(found(json!({})), MemoryError::Unset);
        assert_eq!(found(json!({"resources": {"requests": {"cpu": "1"}}})), MemoryError::Unset);
        assert_eq!(
            found(json!({"memory": {"guest": "0"}, "resources": {"requests": {"memory": "1Gi"}}}))
                .to_string(),
            "guest memory cannot be `0`, the value of `domain.memory.guest`"
        );
        assert_eq!(
            found(json!({"resources": {"requests": {"memory": "-1Gi"}}})).to_string(),
            "guest memory cannot be `-1Gi`, the value of `domain.resources.requests.memory`"
        );
        assert_eq!(
            found(json!({"memory": {"hugepages": {"pageSize": "big"}}})).to_string(),
            "could not read the page size `big` in `domain.memory.hugepages.pageSize`"
        );
    }

    #[test]
    fn topology_comes_from_the_counts_or_else_from_the_resources() {
        let table = [
            (json!({}), (1, 1, 1)),
            (json!({"cpu": {"cores": 2}}), (1, 2, 1)),
            (json!({"cpu": {"cores": 0, "threads": 2}}), (1, 1, 2)),
            (
                json!({"cpu": {"sockets": 2, "cores": 3, "threads": 4}, "resources": {"limits": {"cpu": 9}}}),
                (2, 3, 4),
            ),
            (json!({"resources": {"requests": {"cpu": "1500m"}}}), (2, 1, 1)),
            (json!({"resources": {"requests": {"cpu": "1"}, "limits": {"cpu": "2.1"}}}), (3, 1, 1)),
            (json!({"cpu": {"model": "host-model"}, "resources": {"requests": {"cpu": "4"}}}), (4, 1, 1)),
            (json!({"resources": {"requests": {"cpu": "0"}}}), (1, 1, 1)),
        ];
        for (domain, (sockets, cores, threads)) in table {
            let expected = CpuTopology { sockets, cores, threads };
            assert_eq!(cpu_topology(&spec(domain.clone())), expected, "{domain}");
        }
    }

    #[test]
    fn the_product_of_large_counts_does_not_overflow() {
        let topology = CpuTopology { sockets: u32::MAX, cores: u32::MAX, threads: u32::MAX };
        assert_eq!(topology.cpus(), u64::MAX);
    }
}
