//! Rules for memory: requests, limits, huge pages.

use super::cause::{CauseKind, Causes, Path};
use crate::types::DomainSpec;
use crate::types::VirtualMachineInstanceSpec;
use quantity::Quantity;

/// The least memory that may be requested, in bytes: `1M`.
const LEAST_REQUEST: u64 = 1_000_000;

pub(super) fn check(domain: &DomainSpec, path: &Path, causes: &mut Causes) {
    let request_field = path.child("resources.requests.memory");
    let limit_field = path.child("resources.limits.memory");
    let (request, limit) = (request(domain), limit(domain));
    if let Some(request) = request {
        if request.is_negative() {
            let message = format!("{request_field} '{request}': must be greater than or equal to 0.");
            causes.invalid(&request_field, message);
        } else if !request.is_zero() && *request < Quantity::from_units(LEAST_REQUEST) {
            let message = format!("{request_field} '{request}': must be greater than or equal to 1M.");
            causes.invalid(&request_field, message);
        }
    }
    if let Some(limit) = limit.filter(|limit| limit.is_negative()) {
        let message = format!("{limit_field} '{limit}': must be greater than or equal to 0.");
        causes.invalid(&limit_field, message);
    }
    if let (Some(request), Some(limit)) = (request, limit)
        && limit.units() > 0
        && request.units() > limit.units()
    {
        let message = format!("{request_field} '{request}' is greater than {limit_field} '{limit}'");
        causes.invalid(&request_field, message);
    }
    huge_pages(domain, path, causes);
}

fn huge_pages(domain: &DomainSpec, path: &Path, causes: &mut Causes) {
    let Some(pages) = domain.memory.as_ref().and_then(|memory| memory.hugepages.as_ref()) else {
        return;
    };
    let written = super::text(&pages.page_size);
    let field = path.child("memory.hugepages.pageSize");
    let page_size = match written.parse::<Quantity>() {
        Ok(page_size) => page_size.units(),
        Err(error) => return causes.invalid(&field, format!("{field} '{written}': {error}")),
    };
    let Some(request) = request(domain) else { return };
    let request_field = path.child("resources.requests.memory");
    if request.units() < page_size {
        let rule = "must be equal to or larger than page size";
        causes.invalid(&request_field, format!("{request_field} '{request}' {rule} {field} '{written}'"));
    } else if page_size > 0 && request.units() % page_size != 0 {
        let rule = "is not a multiple of the page size";
        causes.invalid(&request_field, format!("{request_field} '{request}' {rule} {field} '{written}'"));
    }
}

/// An instance must say how much memory it wants; a virtual machine may leave that to an instancetype.
pub(super) fn is_requested(spec: &VirtualMachineInstanceSpec, causes: &mut Causes) {
    if !says_memory(&spec.domain) {
        causes.add(CauseKind::Required, "", not_requested("spec"));
    }
}

/// Whether any of the fields that the guest's memory is taken from is set.
pub(super) fn says_memory(domain: &DomainSpec) -> bool {
    let memory = domain.memory.as_ref();
    memory.is_some_and(|memory| memory.guest.is_some() || memory.hugepages.is_some())
        || request(domain).is_some()
        || limit(domain).is_some()
}

/// KubeVirt's sentence for an instance without memory, below `spec` or `spec.template.spec`.
pub(super) fn not_requested(spec: &str) -> String {
    format!(
        "no memory requested, at least one of '{spec}.domain.memory.guest', \
         '{spec}.domain.memory.hugepages.pageSize' or '{spec}.domain.resources.requests.memory' must be set"
    )
}

fn request(domain: &DomainSpec) -> Option<&Quantity> {
    domain.resources.as_ref()?.requests.get("memory")
}

fn limit(domain: &DomainSpec) -> Option<&Quantity> {
    domain.resources.as_ref()?.limits.get("memory")
}
