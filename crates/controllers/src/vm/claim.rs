//! Whose the instance of a machine's name is.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use manifest::types::{VirtualMachine, VirtualMachineInstance};

use super::instance;

/// Whose an instance is, seen from a machine of the same name and namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// The machine's.
    Own,
    /// Nobody's, and the machine takes it over.
    Adopted,
    /// Nobody's, and on its way out: the name will be free.
    Leaving,
    /// Nobody's, and the machine that it may have belonged to is being deleted.
    Freed,
    /// Somebody else's.
    Foreign,
}

/// Whose `found` is, seen from `machine`.
pub fn claim(machine: &VirtualMachine, found: &VirtualMachineInstance) -> Claim {
    match controller(&found.metadata) {
        Some((_, uid)) if Some(uid) == machine.metadata.uid.as_deref() => Claim::Own,
        Some(_) => Claim::Foreign,
        None if instance::is_deleting(found) => Claim::Leaving,
        None if machine.metadata.deletion_timestamp.is_some() => Claim::Freed,
        None => Claim::Adopted,
    }
}

/// Kind and UID of the controller of an object.
fn controller(metadata: &ObjectMeta) -> Option<(&str, &str)> {
    let owners = metadata.owner_references.as_deref().unwrap_or_default();
    let controller = owners.iter().find(|owner| owner.controller == Some(true))?;
    Some((&controller.kind, &controller.uid))
}

/// Whether nobody is left who would let an instance go that is being deleted: the machine of its name is none, or
/// another one (`machine_uid`) than it belongs to.
pub fn is_abandoned(instance: &ObjectMeta, machine_uid: Option<&str>) -> bool {
    instance.deletion_timestamp.is_some()
        && match controller(instance) {
            None => true,
            Some((kind, uid)) => kind == "VirtualMachine" && machine_uid != Some(uid),
        }
}
